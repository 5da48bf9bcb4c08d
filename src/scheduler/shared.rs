//! What the cores of one runtime share, and what each core lets the others see of itself.

use super::crew::Crew;
use super::idle::Idle;
use super::inbox::Inbox;
use super::injector::Injector;
use super::overrun::Watch;
use super::park::Parker;
use super::rouse::Monitor;
use super::stopping::Stopper;
use super::{current, run_queue};
use crate::error::Result;
use crate::memory::ArenaPool;
use crate::metrics::{CoreMetrics, CoreSnapshot, Counter};
use crate::options::{Options, Preemption};
use crate::primitive::clock::{self, TickRate};
use crate::primitive::fork;
use crate::primitive::membarrier;
use crate::primitive::pad::CachePadded;
use crate::reactor::Reactor;
use crate::stack::{Stack, StackPool};
use crate::timer::SharedWheel;
use crate::vthread::Schedule;
use crate::vthread::record::{NO_CORE, RecordList, RecordRef, ScheduleRef, set_scheduler};
use crate::vthread::table::RecordTable;
use std::cell::UnsafeCell;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What others see of a core.
pub(crate) struct Remote {
    pub(crate) queue: run_queue::Remote,
    pub(crate) inbox: Inbox,
    pub(crate) parker: Parker,
    pub(crate) wheel: SharedWheel,
    pub(crate) tally: Tally,
    /// The tick at which the mounted vthread was mounted, 0 if none is; written by the core, read by the monitor.
    pub(crate) mounted_at: AtomicU64,
    /// Asleep in the driver, or about to be.
    pub(crate) parked: AtomicBool,
}

/// What is counted: of a core by who holds it, of carriers without a core under a lock. What statistics tell of mounts is
/// made of the histogram of slices and these (`runtime::snapshot`), so that a switch counts only once.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) metrics: CoreMetrics,
    /// First mounts.
    pub(crate) started: Counter,
    /// CPU time that was charged although the OS gave it to others.
    pub(crate) overcharged_ns: Counter,
    /// Vthreads that have ended and of which nothing is left to do: `completed`, a little later.
    pub(crate) left: Counter,
}

impl Tally {
    fn snapshot(&self) -> CoreSnapshot {
        let mut snapshot = self.metrics.snapshot();
        snapshot.context_switches = snapshot.run_slice.count();
        snapshot.resumed = snapshot.scheduled.saturating_sub(self.started.get());
        snapshot.yields = snapshot.yields.saturating_sub(snapshot.budget_yields);
        snapshot.cpu_time_ns = snapshot
            .run_slice
            .sum_ns()
            .saturating_sub(self.overcharged_ns.get());
        snapshot
    }
}

/// The right to count in [`Shared::unheld`].
pub(crate) struct Unheld<'a>(&'a Tally, #[allow(dead_code)] MutexGuard<'a, ()>);

impl Deref for Unheld<'_> {
    type Target = Tally;
    fn deref(&self) -> &Tally {
        self.0
    }
}

/// How far stopping has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
#[repr(u8)]
pub(crate) enum StopPhase {
    Running = 0,
    /// Nothing new from outside; vthreads may end by themselves, and spawn what they need for that.
    Ending = 1,
    /// Waits are cancelled; nothing new at all.
    Canceling = 2,
}

/// The stack for the destructors of vthreads that never got one of their own, and who waits for it.
#[derive(Default)]
pub(crate) struct Emergency {
    pub(crate) stack: Option<Stack>,
    pub(crate) waiting: RecordList,
}

/// See the module text.
pub(crate) struct Shared {
    pub(crate) remotes: Box<[CachePadded<Remote>]>,
    pub(crate) idle: Idle,
    pub(crate) injector: Injector,
    pub(crate) table: RecordTable,
    pub(crate) stacks: StackPool,
    pub(crate) arenas: ArenaPool,
    pub(crate) reactor: Arc<Reactor>,
    pub(crate) options: Options,
    pub(crate) rate: TickRate,
    /// A tick and the CLOCK_MONOTONIC nanosecond at which it was read.
    pub(crate) base: (u64, u64),
    /// The runtime's place in the registry: part of every handle.
    pub(crate) index: u8,
    pub(crate) pinned: AtomicBool,
    epoch: u32,
    stop: AtomicU8,
    /// The carriers leave when this is set and they find nothing to do.
    pub(crate) exiting: AtomicBool,
    /// Threads without a core that are inside a call that touches this runtime.
    external: AtomicUsize,
    pub(crate) spawned_outside: AtomicU64,
    pub(crate) monitor: Monitor,
    pub(crate) crew: Crew,
    /// What carriers without a core have counted; see [`Self::unheld`].
    unheld: (Mutex<()>, Tally),
    /// Whether cores are taken away from vthreads that run too long.
    pub(crate) hands_off: bool,
    /// Where overlong vthreads are to be stopped.
    pub(crate) stopper: Option<Stopper>,
    /// Who is told of mounts that took too long.
    pub(crate) overruns: Option<Watch>,
    pub(crate) emergency: Mutex<Emergency>,
    /// Told when a vthread ends while the runtime stops.
    pub(crate) ended: (Mutex<()>, Condvar),
    /// What records lead to (`vthread::record::set_scheduler`). Boxed: its address is kept there.
    schedule: Box<UnsafeCell<ScheduleRef>>,
}

// SAFETY: `schedule` is written once, in `start`, before any record or thread exists; every other field is Sync, except
// that `Stack` is only an address, behind a lock.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

/// Stands in until the runtime exists.
struct Nowhere;

impl Schedule for Nowhere {
    fn schedule(&self, _: RecordRef) {}
}

static NOWHERE: Nowhere = Nowhere;

/// A thread without a core is inside: the runtime is not destroyed before this is dropped.
pub(crate) struct External<'a>(&'a Shared);

impl Drop for External<'_> {
    fn drop(&mut self) {
        // Release: what was done inside is seen by who destroys the runtime. It is the last touch.
        self.0.external.fetch_sub(1, Ordering::Release);
    }
}

impl Shared {
    /// The shared part of a new runtime, and the owners' ends of its run queues.
    pub(crate) fn new(
        options: Options,
        overruns: Option<Watch>,
        index: u8,
        generation: u32,
    ) -> Result<(Box<Shared>, Vec<run_queue::RunQueue>)> {
        let (cores, carriers_max) = (options.cores, options.carriers_max);
        let hands_off = options.preemption != Preemption::Cooperative && membarrier::register();
        let stopper = match options.preemption {
            Preemption::Stop if hands_off => {
                Some(Stopper::new(options.stop_signal, options.carriers_max)?)
            }
            _ => None,
        };
        let now = clock::now_ns();
        let (mut queues, mut remotes) = (Vec::with_capacity(cores), Vec::with_capacity(cores));
        for _ in 0..cores {
            let (queue, remote) = run_queue::new(cores == 1);
            queues.push(queue);
            remotes.push(CachePadded(Remote {
                queue: remote,
                inbox: Inbox::new(),
                parker: Parker::new(),
                wheel: SharedWheel::new(now),
                tally: Tally::default(),
                mounted_at: AtomicU64::new(0),
                parked: AtomicBool::new(false),
            }));
        }
        let rate = TickRate::get();
        let schedule: Box<UnsafeCell<ScheduleRef>> = Box::new(UnsafeCell::new(&NOWHERE));
        let shared = Box::new(Shared {
            remotes: remotes.into(),
            idle: Idle::new(cores),
            injector: Injector::new(),
            table: RecordTable::new(generation, index),
            stacks: StackPool::new(),
            arenas: ArenaPool::new(cores, options.arena_bytes),
            reactor: Reactor::start(cores)?,
            options,
            rate,
            base: (rate.now(), clock::now_ns()),
            index,
            pinned: AtomicBool::new(false),
            epoch: fork::epoch(),
            stop: AtomicU8::new(0),
            exiting: AtomicBool::new(false),
            external: AtomicUsize::new(0),
            spawned_outside: AtomicU64::new(0),
            monitor: Monitor::new(),
            crew: Crew::new(cores, carriers_max),
            unheld: (Mutex::new(()), Tally::default()),
            hands_off,
            stopper,
            overruns,
            emergency: Mutex::default(),
            ended: (Mutex::new(()), Condvar::new()),
            schedule,
        });
        let this: *const Shared = &raw const *shared;
        // SAFETY: no record exists yet, so nobody reads the cell. The boxes' addresses are stable, and records are not used
        // after Shared is dropped.
        unsafe {
            *shared.schedule.get() = &*this;
            set_scheduler(index, shared.schedule.get());
        }
        Ok((shared, queues))
    }

    pub(crate) fn cores(&self) -> usize {
        self.remotes.len()
    }

    /// Whether the runtime was inherited through fork(2).
    #[inline]
    pub(crate) fn is_forked(&self) -> bool {
        fork::epoch() != self.epoch
    }

    pub(crate) fn stop_phase(&self) -> StopPhase {
        match self.stop.load(Ordering::SeqCst) {
            0 => StopPhase::Running,
            1 => StopPhase::Ending,
            _ => StopPhase::Canceling,
        }
    }

    /// Goes on to `phase`; never back.
    pub(crate) fn advance_stop(&self, phase: StopPhase) {
        self.stop.fetch_max(phase as u8, Ordering::SeqCst);
    }

    /// Marks a thread without a core as inside. The caller knows that the runtime exists at this moment.
    pub(crate) fn enter_external(&self) -> External<'_> {
        // SeqCst, as the stop phase: who enters sees the phase, or who changes it sees the entry (`drain_external`).
        self.external.fetch_add(1, Ordering::SeqCst);
        External(self)
    }

    /// Waits until no thread is inside any more.
    pub(crate) fn drain_external(&self) {
        while self.external.load(Ordering::SeqCst) != 0 {
            std::thread::yield_now();
        }
    }

    /// The CLOCK_MONOTONIC time of a tick that was read earlier; good for telling, not for deadlines.
    pub(crate) fn tick_to_ns(&self, tick: u64) -> u64 {
        if tick == 0 {
            0
        } else {
            self.base.1 + self.rate.to_ns(tick.saturating_sub(self.base.0))
        }
    }

    /// Wakes the carrier of a core if it sleeps.
    pub(crate) fn wake_core(&self, core: usize) {
        if self.remotes[core].parker.wake() {
            self.reactor.driver(core).wake();
        }
    }

    /// After a core published stealable work: wakes another one if that is needed.
    #[inline]
    pub(crate) fn notify(&self) {
        if self.remotes.len() > 1
            && let Some(core) = self.idle.pick()
        {
            self.wake_core(core);
        }
    }

    /// After a thread without a core published work: wakes a core if that is needed.
    pub(crate) fn notify_from_outside(&self) {
        if let Some(core) = self.idle.pick() {
            self.wake_core(core);
        }
    }

    /// Puts a vthread that the caller holds into the injector.
    pub(crate) fn inject(&self, record: RecordRef) {
        self.injector.push(record);
        self.notify_from_outside();
    }

    /// As [`Self::inject`], for several.
    pub(crate) fn inject_all(&self, records: &mut RecordList) {
        self.injector.push_all(records);
        self.notify_from_outside();
    }

    /// What a core has counted.
    pub(crate) fn core_snapshot(&self, core: usize) -> CoreSnapshot {
        self.remotes[core].tally.snapshot()
    }

    /// What carriers have counted while they had no core.
    pub(crate) fn unheld_snapshot(&self) -> CoreSnapshot {
        self.unheld.1.snapshot()
    }

    /// Where a carrier without a core counts.
    pub(crate) fn unheld(&self) -> Unheld<'_> {
        let lock = self.unheld.0.lock();
        Unheld(&self.unheld.1, lock.unwrap_or_else(PoisonError::into_inner))
    }

    /// Vthreads that have been spawned and have not ended. Exact when nothing changes meanwhile; never too low to be 0
    /// while one lives: ended ones are counted first.
    pub(crate) fn live(&self) -> u64 {
        let tallies = self.remotes.iter().map(|r| &r.tally);
        let ended: u64 = tallies.chain([&self.unheld.1]).map(|t| t.left.get()).sum();
        std::sync::atomic::fence(Ordering::Acquire);
        let spawned: u64 = self
            .remotes
            .iter()
            .map(|r| r.tally.metrics.spawned.get())
            .sum();
        (spawned + self.spawned_outside.load(Ordering::Acquire)).saturating_sub(ended)
    }

    /// Work in the global queue or in any core's deques.
    pub(crate) fn has_stealable(&self) -> bool {
        self.injector.len() > 0 || self.remotes.iter().any(|r| r.queue.has_stealable())
    }

    /// Vthreads in all run queues, about.
    pub(crate) fn queue_depth(&self) -> usize {
        self.injector.len() + self.remotes.iter().map(|r| r.queue.len()).sum::<usize>()
    }

    /// Puts a vthread into the queue of a core that is not the caller's, or into the injector.
    pub(crate) fn schedule_outside(&self, record: RecordRef) {
        // SAFETY: the caller holds the vthread, so its body is readable.
        let fixed = unsafe { record.body() }.fixed_core;
        if fixed == NO_CORE {
            self.inject(record);
        } else {
            self.push_inbox(usize::from(fixed), record);
        }
    }

    /// Moves what is in the inbox of `core` for preference only to the injector.
    pub(crate) fn take_preferred(&self, core: usize) {
        let mut arrived = RecordList::new();
        self.remotes[core].inbox.drain(&mut arrived);
        while let Some(record) = arrived.pop_front() {
            // SAFETY: taken from the inbox: held here.
            if unsafe { record.body() }.fixed_core == NO_CORE {
                self.inject(record);
            } else {
                self.push_inbox(core, record);
            }
        }
    }

    /// Puts a vthread into a core's inbox and wakes that core: nobody else can take it.
    pub(crate) fn push_inbox(&self, core: usize, record: RecordRef) {
        self.remotes[core].inbox.push(record);
        self.wake_core(core);
    }
}

impl Schedule for Shared {
    #[inline]
    fn schedule(&self, record: RecordRef) {
        let done = current::with_core_of(self, |core| core.schedule(record));
        if done.is_none() {
            // The vthread is ours and not in a queue, so it cannot end and the runtime exists; once it is queued that is
            // no longer so, hence the mark.
            let _inside = self.enter_external();
            record.get().ready_tick.set(self.rate.now());
            self.schedule_outside(record);
        }
    }
}
