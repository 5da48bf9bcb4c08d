//! Spawning, joining and detaching.

use super::block::{self, Armed};
use super::core::Core;
use super::current;
use super::shared::{Shared, StopPhase};
use crate::error::{Error, Result};
use crate::stack::StackClass;
use crate::vthread::join::{self, Joining, Remains};
use crate::vthread::record::{Destructor, End, Entry, NO_CORE, RecordList, RecordRef};
use crate::vthread::table::Handle;
use crate::wait::{Outcome, Reason, Waiter};
use std::ffi::c_void;
use std::pin::pin;
use std::ptr;
use std::sync::atomic::Ordering;

/// Where a new vthread is queued.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Placement {
    Any,
    /// Only on this core.
    Fixed(u16),
    /// First on this core; others may steal it.
    Preferred(u16),
}

/// What a spawner says.
#[derive(Clone, Copy)]
pub(crate) struct Spec<'a> {
    pub(crate) entry: Entry,
    pub(crate) destructor: Option<Destructor>,
    pub(crate) name: &'a [u8],
    pub(crate) class: StackClass,
    pub(crate) placement: Placement,
    pub(crate) bound: bool,
    pub(crate) detached: bool,
}

fn handle_of(shared: &Shared, record: RecordRef) -> u64 {
    let generation = record.get().state.read().generation();
    Handle {
        generation,
        slot: record.get().slot(),
        runtime: shared.index,
    }
    .to_bits()
}

/// The handle of a vthread.
pub(crate) fn handle(shared: &Shared, record: RecordRef) -> u64 {
    handle_of(shared, record)
}

/// A record, from the core of the calling carrier if it is one of this runtime.
fn take_record(shared: &Shared) -> Result<RecordRef> {
    current::with_core_of(shared, |core| core.records.take(&shared.table))
        .unwrap_or_else(|| shared.table.take())
}

/// Gives a freed record back.
fn give_record(shared: &Shared, record: RecordRef, usable: bool) {
    let given = current::with_core_of(shared, |core| {
        core.records.give(&shared.table, record, usable)
    });
    if given.is_none() {
        shared.table.give(record, usable);
    }
}

/// Fills a free record in; it is Created afterwards.
#[inline]
fn fill(record: RecordRef, spec: &Spec<'_>, arg: *mut c_void) {
    // SAFETY: the record was free, so it is the caller's alone.
    let body = unsafe { record.body() };
    body.entry = Some(spec.entry);
    body.arg = arg;
    body.mount = ptr::null_mut();
    body.fixed_core = match spec.placement {
        Placement::Fixed(core) => core,
        _ => NO_CORE,
    };
    body.class = spec.class;
    body.bound = spec.bound;
    body.detached = spec.detached;
    body.end = End::Returned;
    let vthread = record.get();
    // The second cache line of the record stays untouched otherwise.
    body.extra = spec.destructor.is_some() || !spec.name.is_empty();
    if body.extra {
        vthread.set_extra(spec.destructor, spec.name);
    }
    vthread.ready_tick.set(0);
    vthread.state.create();
}

fn check_open(shared: &Shared, inside: bool) -> Result<()> {
    if shared.is_forked() {
        return Err(Error::FORKED);
    }
    match shared.stop_phase() {
        StopPhase::Running => Ok(()),
        // What is already running may spawn what it needs to end.
        StopPhase::Ending if inside => Ok(()),
        _ => Err(Error::STOPPED),
    }
}

fn is_inside(shared: &Shared) -> bool {
    current::shared().is_some_and(|s| ptr::eq(s, shared))
}

/// Spawns one vthread and returns its handle. The caller is inside the runtime or has marked itself external.
#[inline]
pub(crate) fn spawn(shared: &Shared, spec: &Spec<'_>, arg: *mut c_void) -> Result<u64> {
    let inside = is_inside(shared);
    let _external = (!inside).then(|| shared.enter_external());
    check_open(shared, inside)?;
    if inside && spec.placement == Placement::Any {
        let spawned = current::with_core(|core| {
            let record = core.records.take(&shared.table)?;
            fill(record, spec, arg);
            let handle = handle_of(shared, record);
            core.remote().tally.metrics.spawned.increment();
            core.queue_new(record);
            Ok(handle)
        });
        if let Some(spawned) = spawned {
            return spawned;
        }
        // On a carrier that has lost its core.
    }
    spawn_elsewhere(shared, spec, arg, inside)
}

fn spawn_elsewhere(
    shared: &Shared,
    spec: &Spec<'_>,
    arg: *mut c_void,
    inside: bool,
) -> Result<u64> {
    let record = take_record(shared)?;
    fill(record, spec, arg);
    let handle = handle_of(shared, record);
    count(shared, inside, 1);
    match spec.placement {
        Placement::Any => shared.inject(record),
        Placement::Fixed(core) | Placement::Preferred(core) => {
            shared.push_inbox(usize::from(core), record)
        }
    }
    Ok(handle)
}

/// Counted before it is queued, so that `Shared::live` is never 0 while one lives.
#[inline]
fn count(shared: &Shared, inside: bool, n: u64) {
    let on_core = |core: &mut Core| core.remote().tally.metrics.spawned.add(n);
    if !inside || current::with_core(on_core).is_none() {
        shared.spawned_outside.fetch_add(n, Ordering::AcqRel);
    }
}

/// Spawns a batch and queues it at once. Returns how many there were records for.
pub(crate) fn spawn_batch(
    shared: &Shared,
    spec: &Spec<'_>,
    n: usize,
    mut arg: impl FnMut(usize) -> *mut c_void,
    mut out: impl FnMut(usize, u64),
) -> Result<usize> {
    let inside = is_inside(shared);
    let _external = (!inside).then(|| shared.enter_external());
    check_open(shared, inside)?;
    let mut spawned = 0;
    while spawned < n {
        let mut batch = RecordList::new();
        while spawned + batch.len() < n && batch.len() < 256 {
            let Ok(record) = take_record(shared) else {
                break;
            };
            let index = spawned + batch.len();
            fill(record, spec, arg(index));
            out(index, handle_of(shared, record));
            batch.push_back(record);
        }
        let len = batch.len();
        if len == 0 {
            break;
        }
        count(shared, inside, len as u64);
        match spec.placement {
            Placement::Any => {
                let on_core = |core: &mut Core| core.queue_new_all(&mut batch);
                if !inside || current::with_core(on_core).is_none() {
                    shared.inject_all(&mut batch);
                }
            }
            Placement::Fixed(core) | Placement::Preferred(core) => {
                while let Some(record) = batch.pop_front() {
                    shared.push_inbox(usize::from(core), record);
                }
            }
        }
        spawned += len;
    }
    if spawned == 0 && n > 0 {
        Err(Error::NOMEM)
    } else {
        Ok(spawned)
    }
}

/// Waits for a vthread to end, frees it, and returns its result.
pub(crate) fn join(shared: &Shared, handle: Handle, deadline_ns: u64) -> Result<*mut c_void> {
    let record = shared.table.lookup(handle)?;
    if current::vthread() == Some(record) {
        return Err(Error::DEADLK);
    }
    block::checkpoint();
    // The common case in a batch: it has ended.
    if let Some(remains) = join::join_ended(record, handle) {
        return bury(shared, record, &remains);
    }
    join_waiting(shared, record, handle, deadline_ns)
}

#[inline(never)]
fn join_waiting(
    shared: &Shared,
    record: RecordRef,
    handle: Handle,
    deadline_ns: u64,
) -> Result<*mut c_void> {
    let waiter = pin!(Waiter::new());
    let mut failed = None;
    let mut remains = None;
    let mut ended = false;
    let outcome = block::wait_anywhere(
        Reason::Join,
        deadline_ns,
        |target| {
            // SAFETY: the waiter is on this stack; it is withdrawn unless the wait ends with Woken.
            match unsafe { join::join(record, handle, &waiter, target) } {
                Ok(Joining::Waiting) => Armed::Waiting,
                Ok(Joining::Ended(left)) => {
                    remains = Some(left);
                    Armed::Skip
                }
                Err(e) => {
                    failed = Some(e);
                    Armed::Skip
                }
            }
        },
        || ended = join::withdraw(record),
    )?;
    if let Some(e) = failed {
        return Err(e);
    }
    match outcome {
        None | Some(Outcome::Woken) => {}
        // It had ended all the same.
        Some(_) if ended => {}
        Some(Outcome::TimedOut) => return Err(Error::TIMEDOUT),
        Some(Outcome::Canceled) => return Err(Error::CANCELED),
    }
    let remains = remains.unwrap_or_else(|| join::reap(record));
    bury(shared, record, &remains)
}

/// Gives the freed record of a joined vthread back, and tells its result.
fn bury(shared: &Shared, record: RecordRef, remains: &Remains) -> Result<*mut c_void> {
    give_record(shared, record, remains.usable);
    match remains.end {
        End::Returned => Ok(remains.result),
        End::NoStack => Err(Error::NO_STACK),
        End::Panicked => Err(Error::PANICKED),
    }
}

/// Detaches a vthread.
pub(crate) fn detach(shared: &Shared, handle: Handle) -> Result<()> {
    let record = shared.table.lookup(handle)?;
    if let Some(usable) = join::detach(record, handle)? {
        give_record(shared, record, usable);
    }
    Ok(())
}

/// A vthread that is created but not queued: it starts when a wait that the caller opens for it is claimed. The completion
/// form of a wait. It counts as spawned.
pub(crate) fn defer(
    shared: &Shared,
    spec: &Spec<'_>,
    arg: *mut c_void,
    reason: Reason,
) -> Result<RecordRef> {
    let inside = is_inside(shared);
    let _external = (!inside).then(|| shared.enter_external());
    check_open(shared, inside)?;
    let record = take_record(shared)?;
    fill(record, spec, arg);
    record.get().set_reason(reason);
    count(shared, inside, 1);
    Ok(record)
}
