//! Starting and stopping.

use super::registry::{self, Runtime, RuntimeId};
use crate::error::{Error, Result};
use crate::offload::OffloadPool;
use crate::options::{Affinity, Given, Options};
use crate::primitive::clock;
use crate::scheduler::core::Core;
use crate::scheduler::overrun::Watch;
use crate::scheduler::shared::Shared;
use crate::scheduler::{current, shutdown};
use crate::stack::{GuardMode, StackCache};
use crate::topology::{self, Topology};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

/// Starts a runtime.
pub(crate) fn start(given: Given, overruns: Option<Watch>) -> Result<RuntimeId> {
    let topology = Topology::read();
    let options = Options::check(given, topology.usable(), topology::thread_limit())?;
    let reserved = registry::reserve()?;
    match build(options, overruns, reserved.index, reserved.generation) {
        Ok(runtime) => Ok(reserved.publish(runtime)),
        Err(e) => {
            reserved.abandon();
            Err(e)
        }
    }
}

fn build(
    options: Options,
    overruns: Option<Watch>,
    index: u8,
    generation: u32,
) -> Result<Box<Runtime>> {
    let pinned = match options.affinity {
        Affinity::None => false,
        Affinity::Pin => true,
    };
    let (offload_threads, class) = (options.offload_threads, options.stack);
    let (shared, queues) = Shared::new(options, overruns, index, generation)?;
    shared.pinned.store(pinned, Ordering::Relaxed);
    shared
        .reactor
        .attach(Arc::new(OffloadPool::new(offload_threads)));
    let mut first = StackCache::new(&shared.stacks);
    shared
        .emergency
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .stack = Some(
        first
            .take(&shared.stacks, class)
            .map_err(|_| Error::NOMEM)?,
    );
    first.trim(&shared.stacks, 0);
    let runtime = Box::new(Runtime {
        shared,
        stopping: Mutex::new(()),
        started_ns: clock::now_ns(),
    });
    for (core, queue) in queues.into_iter().enumerate() {
        let shared = &runtime.shared;
        let core = Box::new(Core::new(core, shared, queue));
        if let Err(e) = shared.crew.start(shared, core) {
            take_down(&runtime);
            return Err(e);
        }
    }
    if let Err(e) = runtime.shared.crew.start_helpers(&runtime.shared) {
        take_down(&runtime);
        return Err(e);
    }
    Ok(runtime)
}

/// Lets the carriers leave and joins them.
fn take_down(runtime: &Runtime) {
    let shared = &runtime.shared;
    shared.exiting.store(true, Ordering::SeqCst);
    for core in 0..shared.cores() {
        shared.wake_core(core);
    }
    shared.monitor.unpark();
    if let Some(stopper) = &shared.stopper {
        stopper.wake();
    }
    shared.crew.join(shared);
    if let Some(pool) = shared
        .reactor
        .companion()
        .and_then(|c| c.downcast::<OffloadPool>().ok())
    {
        pool.stop();
    }
    if let Some(stack) = shared
        .emergency
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .stack
        .take()
    {
        let mut cache = StackCache::new(&shared.stacks);
        cache.put(&shared.stacks, stack);
        cache.trim(&shared.stacks, 0);
    }
}

/// Locks, or gives up at the deadline: another stop may have a later one.
fn lock_until(mutex: &Mutex<()>, deadline_ns: u64) -> Result<MutexGuard<'_, ()>> {
    loop {
        match mutex.try_lock() {
            Ok(guard) => return Ok(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if clock::now_ns() >= deadline_ns => {
                return Err(Error::TIMEDOUT);
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Stops a runtime. When this returns OK nothing of it is left but its handle.
pub(crate) fn stop(id: RuntimeId, deadline_ns: u64) -> Result<()> {
    if current::shared().is_some_and(|s| id.is_current(s)) {
        return Err(Error::DEADLK);
    }
    {
        let used = match id.enter() {
            // Stopped already.
            Err(Error::STOPPED) => return Ok(()),
            used => used?,
        };
        let _one = lock_until(&used.stopping, deadline_ns)?;
        shutdown::stop(&used.shared, deadline_ns)?;
        take_down(&used);
    }
    match registry::take(id) {
        Ok(runtime) => {
            drop(runtime);
            Ok(())
        }
        // Another stop took it down at the same time.
        Err(Error::STOPPED) => Ok(()),
        Err(e) => Err(e),
    }
}

/// Forgets a stopped runtime: its handle is stale afterwards. BUSY if it has not been stopped.
pub(crate) fn destroy(id: RuntimeId) -> Result<()> {
    match id.enter() {
        Err(Error::FORKED) => Err(Error::FORKED),
        _ => registry::free(id),
    }
}

/// What this runtime runs with.
pub(crate) struct Features {
    pub(crate) cores: usize,
    pub(crate) pinned: bool,
    pub(crate) slice_ns: u64,
    pub(crate) hands_off: bool,
    pub(crate) stops: bool,
    pub(crate) guards: GuardMode,
}

pub(crate) fn features(shared: &Shared) -> Features {
    Features {
        cores: shared.cores(),
        pinned: shared.pinned.load(Ordering::Relaxed),
        slice_ns: shared.options.slice_ns,
        hands_off: shared.hands_off,
        stops: shared.stopper.is_some(),
        guards: shared.stacks.guard_mode(),
    }
}
