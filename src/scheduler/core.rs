//! A core: the scheduling state of one CPU, and how it finds work.

use super::park::Prepared;
use super::run_queue::{RunQueue, Stolen};
use super::shared::{Remote, Shared};
use crate::primitive::clock;
use crate::stack::StackCache;
use crate::vthread::record::{NO_CORE, RecordList, RecordRef};
use crate::vthread::state::Phase;
use crate::vthread::table::RecordCache;
use crate::wait::{Claimed, Outcome, Wake};
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

/// Every so many picks the queues that come last in the usual order come first, so that nothing starves. A prime, as in
/// Go's and tokio's schedulers, so that it does not beat with batch sizes.
const FAIR_EVERY: u32 = 61;
/// The LIFO slot is used at most so many times in a row (tokio uses 3): two vthreads that wake each other must not keep
/// the others waiting.
const LIFO_MAX: u32 = 3;
/// The driver and the timers are looked at after so many mounts, or this much time, whichever comes first.
const POLL_EVERY: u32 = 64;
const POLL_NS: u64 = 500_000;
/// Attempts to steal before a core sleeps.
const STEAL_VICTIMS: usize = 4;
/// Timers fired in one go.
const FIRE_MAX: usize = 1024;
/// Memory of woken vthreads is asked for so many steps before they are queued.
const AHEAD: usize = 4;
/// A core that has been idle this long gives back the memory of its stacks, beyond a few, and of arenas.
const TRIM_AFTER_NS: u64 = 1_000_000_000;
const TRIM_KEEP: usize = 16;

/// See the module text. Used by one carrier at a time.
pub(crate) struct Core {
    pub(crate) index: usize,
    shared: NonNull<Shared>,
    remote: NonNull<Remote>,
    queue: RunQueue,
    /// Taken from the inbox or the injector and not yet run or passed on; not stealable, so it holds only vthreads that
    /// are fixed to this core.
    fixed: RecordList,
    pub(crate) stacks: StackCache,
    pub(crate) records: RecordCache,
    /// Wakes collected from the driver and the timers, run as one batch.
    wakes: Vec<Wake>,
    searching: bool,
    /// The number of mounts when it last gave memory back.
    trimmed_at: u64,
    picks: u32,
    woken: u32,
    /// The last vthread gave up its turn: then also those go first that come after resumed ones otherwise.
    yielded: bool,
    gave_way: bool,
    lifo_run: u32,
    since_poll: u32,
    poll_ticks: u64,
    last_poll: u64,
    random: u64,
    /// The tick at which the last mount ended, while nothing but scheduling has happened since; else 0.
    pub(crate) last_tick: u64,
}

// SAFETY: a core is used by one thread at a time; its pointers are to memory that outlives all carriers.
unsafe impl Send for Core {}

impl Core {
    pub(crate) fn new(index: usize, shared: &Shared, queue: RunQueue) -> Core {
        Core {
            index,
            shared: NonNull::from(shared),
            remote: NonNull::from(&*shared.remotes[index]),
            queue,
            fixed: RecordList::new(),
            stacks: StackCache::new(&shared.stacks),
            records: RecordCache::default(),
            wakes: Vec::with_capacity(2 * FIRE_MAX),
            searching: false,
            trimmed_at: 0,
            picks: index as u32,
            woken: 0,
            yielded: false,
            gave_way: false,
            lifo_run: 0,
            since_poll: 0,
            poll_ticks: shared.rate.ticks_in(POLL_NS),
            last_poll: shared.rate.now(),
            random: 0x9E37_79B9_7F4A_7C15 ^ (index as u64 + 1).wrapping_mul(0xBF58_476D_1CE4_E5B9),
            last_tick: 0,
        }
    }

    #[inline(always)]
    pub(crate) fn shared<'a>(&self) -> &'a Shared {
        // SAFETY: a runtime's shared part outlives its cores.
        unsafe { self.shared.as_ref() }
    }

    #[inline(always)]
    pub(crate) fn remote<'a>(&self) -> &'a Remote {
        // SAFETY: part of the shared part.
        unsafe { self.remote.as_ref() }
    }

    /// Queues a vthread that was woken by code running on this core.
    #[inline]
    pub(crate) fn schedule(&mut self, record: RecordRef) {
        // SAFETY: the caller holds the vthread: it won its claim.
        let fixed = unsafe { record.body() }.fixed_core;
        if fixed != NO_CORE {
            return self.schedule_fixed(usize::from(fixed), record);
        }
        // Sampled: reading the counter for each wake would cost a tenth of a round trip between two vthreads.
        self.woken = self.woken.wrapping_add(1);
        let tick = if self.woken & 15 == 0 {
            self.shared().rate.now()
        } else {
            0
        };
        record.get().ready_tick.set(tick);
        // The waker usually waits soon, and then this core is the best place; so nobody else is woken for the LIFO slot. A
        // core that does not get to it is noticed by the monitor.
        if let Some(displaced) = self.remote().queue.replace_lifo(record) {
            self.queue.push_resumed(displaced);
            self.notify_if_worth();
        }
    }

    /// Wakes another core for resumed vthreads that wait here, if that is worth it.
    fn notify_if_worth(&self) {
        if self.remote().queue.is_worth_stealing() {
            self.shared().notify();
        }
    }

    #[cold]
    fn schedule_fixed(&mut self, core: usize, record: RecordRef) {
        record.get().ready_tick.set(0);
        if core == self.index {
            self.fixed.push_back(record);
        } else {
            self.shared().push_inbox(core, record);
        }
    }

    /// Queues a vthread that gave up its turn.
    #[inline]
    pub(crate) fn requeue(&mut self, record: RecordRef) {
        self.yielded = true;
        // SAFETY: the carrier holds the vthread it unmounted.
        let fixed = unsafe { record.body() }.fixed_core;
        record.get().ready_tick.set(0);
        if fixed != NO_CORE {
            return self.schedule_fixed(usize::from(fixed), record);
        }
        self.queue.push_resumed(record);
    }

    /// Queues a vthread that was spawned by code running on this core, and wakes another if needed.
    #[inline]
    pub(crate) fn queue_new(&mut self, record: RecordRef) {
        self.queue.push_new(record);
        self.shared().notify();
    }

    /// As [`Self::queue_new`] for all of a batch.
    pub(crate) fn queue_new_all(&mut self, records: &mut RecordList) {
        while let Some(record) = records.pop_front() {
            self.queue.push_new(record);
        }
        self.shared().notify();
    }

    /// The next vthread to run, or None when the runtime exits. Sleeps while there is nothing to do.
    pub(crate) fn next_work(&mut self) -> Option<RecordRef> {
        loop {
            self.since_poll += 1;
            if self.since_poll >= POLL_EVERY
                || self.last_tick.wrapping_sub(self.last_poll) > self.poll_ticks
            {
                self.poll();
            }
            if let Some(record) = self.own_work() {
                return Some(self.found(record));
            }
            self.last_tick = 0;
            // Not polled first: `park` waits in the driver, which gives at once what there is.
            if let Some(record) = self.search() {
                return Some(self.found(record));
            }
            if self.shared().exiting.load(Ordering::Acquire) {
                return None;
            }
            self.park();
        }
    }

    #[inline(always)]
    fn found(&mut self, record: RecordRef) -> RecordRef {
        if self.searching {
            self.stop_searching();
        }
        record
    }

    /// The searcher that finds work wakes the next, if more is to be had.
    #[cold]
    fn stop_searching(&mut self) {
        self.searching = false;
        if self.shared().idle.end_search() && self.shared().has_stealable() {
            self.shared().notify();
        }
    }

    /// Work that is already with this core.
    #[inline]
    fn own_work(&mut self) -> Option<RecordRef> {
        self.picks = self.picks.wrapping_add(1);
        if self.picks.is_multiple_of(FAIR_EVERY)
            && let Some(record) = self.fair_work()
        {
            return Some(record);
        }
        // Every other pick at most, so that new ones which yield do not keep the resumed waiting.
        self.gave_way = self.yielded && !self.gave_way;
        self.yielded = false;
        if self.gave_way {
            if let Some(record) = self.queue.pop_new() {
                return Some(record);
            }
            if self.shared().injector.len() > 0
                && let Some(record) = self.take_injected(true)
            {
                return Some(record);
            }
        }
        if self.lifo_run < LIFO_MAX
            && let Some(record) = self.remote().queue.take_lifo()
        {
            self.lifo_run += 1;
            return Some(record);
        }
        self.lifo_run = 0;
        if let Some(record) = self.queue.pop_resumed() {
            return Some(record);
        }
        // The slot may have been passed over above; then it is next.
        if let Some(record) = self.remote().queue.take_lifo() {
            return Some(record);
        }
        if let Some(record) = self.take_fixed() {
            return Some(record);
        }
        if self.shared().injector.len_resumed() > 0
            && let Some(record) = self.take_injected(false)
        {
            return Some(record);
        }
        if let Some(record) = self.queue.pop_new() {
            return Some(record);
        }
        if self.shared().injector.len() > 0 {
            self.take_injected(false)
        } else {
            None
        }
    }

    /// The queues that come last in the usual order.
    #[cold]
    fn fair_work(&mut self) -> Option<RecordRef> {
        let turn = self.picks / FAIR_EVERY;
        for step in 0..3 {
            let found = match (turn + step) % 3 {
                0 => self.take_injected(true),
                1 => self.take_fixed(),
                _ => self.queue.pop_oldest_new(),
            };
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// A vthread that is fixed here; what the inbox holds for preference only becomes stealable.
    fn take_fixed(&mut self) -> Option<RecordRef> {
        if !self.remote().inbox.is_empty() {
            let mut arrived = RecordList::new();
            let several = self.remote().inbox.drain(&mut arrived) > 1;
            while let Some(record) = arrived.pop_front() {
                // SAFETY: taken from the inbox: this core holds it.
                if unsafe { record.body() }.fixed_core == NO_CORE {
                    match record.get().state.read().phase() {
                        Phase::Created => self.queue.push_new(record),
                        _ => self.queue.push_resumed(record),
                    }
                } else {
                    self.fixed.push_back(record);
                }
            }
            // Once they are in the queues: who is woken must find them.
            if several {
                self.shared().notify();
            }
            if let Some(record) = self.fixed.pop_front() {
                return Some(record);
            }
            return self.queue.pop_resumed().or_else(|| self.queue.pop_new());
        }
        self.fixed.pop_front()
    }

    /// This core's share of the injector; `fresh`: of the new ones there, if there are any.
    fn take_injected(&mut self, fresh: bool) -> Option<RecordRef> {
        let shared = self.shared();
        let share = (shared.injector.len() / shared.cores() + 1).min(128);
        let mut taken = RecordList::new();
        shared.injector.take(share, fresh, &mut taken);
        let first = taken.pop_front()?;
        self.remote()
            .tally
            .metrics
            .injected
            .add(1 + taken.len() as u64);
        while let Some(record) = taken.pop_front() {
            match record.get().state.read().phase() {
                Phase::Created => self.queue.push_new(record),
                _ => self.queue.push_resumed(record),
            }
        }
        Some(first)
    }

    /// Work of other cores.
    fn search(&mut self) -> Option<RecordRef> {
        let shared = self.shared();
        let cores = shared.cores();
        if cores == 1 {
            return None;
        }
        if !self.searching {
            self.searching = shared.idle.begin_search();
            if !self.searching {
                return None;
            }
        }
        let metrics = &self.remote().tally.metrics;
        let start = self.next_random() as usize % cores;
        let mut tries = 0;
        let mut again = true;
        while again && tries < STEAL_VICTIMS {
            again = false;
            for offset in 0..cores {
                let victim = (start + offset) % cores;
                if victim == self.index || !shared.remotes[victim].queue.has_stealable() {
                    continue;
                }
                metrics.steal_attempts.increment();
                match self.queue.steal_from(&shared.remotes[victim].queue) {
                    Stolen::Some { record, more } => {
                        metrics.stolen.add(1 + more as u64);
                        return Some(record);
                    }
                    Stolen::None => {}
                    Stolen::Retry => again = true,
                }
            }
            tries += 1;
            if again {
                std::hint::spin_loop();
            }
        }
        self.take_injected(false)
    }

    fn next_random(&mut self) -> u64 {
        // xorshift64 (Marsaglia 2003).
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// Looks at the driver and the timers without waiting.
    pub(crate) fn poll(&mut self) {
        self.since_poll = 0;
        self.last_poll = self.shared().rate.now();
        let driver = self.shared().reactor.driver(self.index);
        if driver.sources() > 0 {
            let events = driver.try_wait(&mut self.wakes);
            self.remote().tally.metrics.driver_polls.increment();
            self.remote()
                .tally
                .metrics
                .io_events
                .add(events.unwrap_or(0) as u64);
        }
        self.fire_timers(self.index);
        self.run_wakes();
    }

    /// Collects the wakes of the timers of `core` that are due.
    fn fire_timers(&mut self, core: usize) {
        let wheel = &self.shared().remotes[core].wheel;
        if wheel.next_deadline() == clock::FOREVER {
            return;
        }
        let now = clock::now_ns();
        let before = self.wakes.len();
        let mut fired = 0;
        let wakes = &mut self.wakes;
        let more = wheel.advance(now, FIRE_MAX, |key| {
            let Some(at) = NonNull::new(key.address as *mut _) else {
                return;
            };
            // SAFETY: the key of an armed timer names a record (`block::wait`).
            let record = unsafe { RecordRef::from_raw(at) };
            fired += 1;
            if let Claimed::Wake(wake) = record.claim(key.sequence, Outcome::TimedOut) {
                wakes.push(wake);
            }
        });
        debug_assert!(self.wakes.len() >= before);
        self.remote().tally.metrics.timers_fired.add(fired);
        if more {
            // The rest is due too, but others get their turn first.
            self.since_poll = POLL_EVERY;
        }
    }

    /// Runs the collected wakes as one batch: FIFO, one notification. Vthreads of this runtime are queued here and not by
    /// `Wake::run`, which would enter the core a second time.
    fn run_wakes(&mut self) {
        if self.wakes.is_empty() {
            return;
        }
        let index = self.shared().index;
        let mut wakes = std::mem::take(&mut self.wakes);
        // Each is queued some steps after its memory was asked for; once it is queued another core may take it.
        let mut coming = [None; AHEAD];
        let mut at = 0;
        for wake in wakes.drain(..) {
            let record = match RecordRef::of_wake(wake, index) {
                Ok(record) => record,
                Err(wake) => {
                    wake.run();
                    continue;
                }
            };
            record.prefetch_mount();
            if let Some(record) = coming[at].replace(record) {
                self.schedule_batched(record);
            }
            at = (at + 1) % AHEAD;
        }
        for record in (0..AHEAD).filter_map(|i| coming[(at + i) % AHEAD]) {
            self.schedule_batched(record);
        }
        self.wakes = wakes;
        self.notify_if_worth();
    }

    fn schedule_batched(&mut self, record: RecordRef) {
        // SAFETY: the wake was for it: this core holds the vthread.
        let fixed = unsafe { record.body() }.fixed_core;
        if fixed != NO_CORE {
            return self.schedule_fixed(usize::from(fixed), record);
        }
        record.prefetch_stack();
        record.get().ready_tick.set(self.last_poll);
        self.queue.push_resumed(record);
    }

    /// Sleeps until there may be work: in the driver, until a wake, an event, the next timer, or the next look after busy
    /// cores.
    fn park(&mut self) {
        let (shared, remote) = (self.shared(), self.remote());
        shared.idle.sleep(self.index, self.searching);
        self.searching = false;
        remote.parked.store(true, Ordering::Relaxed);
        if shared.has_stealable()
            || !remote.inbox.is_empty()
            || shared.exiting.load(Ordering::SeqCst)
        {
            return self.wake_up();
        }
        if remote.parker.prepare() == Prepared::Notified {
            return self.wake_up();
        }
        // One wake-up more per idle time, and none if there is nothing to give back.
        let trim = self.trimmed_at != remote.tally.metrics.scheduled.get()
            && self.stacks.cached() > TRIM_KEEP;
        let now = clock::now_ns();
        let next_timer = remote.wheel.next_deadline();
        let longest = if trim { TRIM_AFTER_NS } else { clock::FOREVER };
        let trim_at = now.saturating_add(longest);
        let timeout = match next_timer.saturating_sub(now).min(longest) {
            _ if next_timer == clock::FOREVER && !trim => None,
            timeout => Some(timeout),
        };
        remote.tally.metrics.parks.increment();
        let events = shared
            .reactor
            .driver(self.index)
            .wait(timeout, &mut self.wakes);
        remote.tally.metrics.driver_polls.increment();
        remote.tally.metrics.io_events.add(events as u64);
        remote.parker.finish();
        if trim && events == 0 && clock::now_ns() >= trim_at {
            self.trim();
        }
        self.wake_up();
        self.last_poll = shared.rate.now();
        self.fire_timers(self.index);
        self.run_wakes();
    }

    fn wake_up(&mut self) {
        self.remote().parked.store(false, Ordering::Relaxed);
        self.remote().tally.metrics.wakeups.increment();
        self.searching = self.shared().idle.wake_up(self.index);
        self.shared().monitor.rouse();
    }

    /// Gives everything that is cached back to the runtime.
    pub(crate) fn empty(&mut self, shared: &Shared) {
        self.stacks.trim(&shared.stacks, 0);
    }

    /// After a long idle time.
    fn trim(&mut self) {
        self.trimmed_at = self.remote().tally.metrics.scheduled.get();
        self.stacks.trim(&self.shared().stacks, TRIM_KEEP);
        self.shared().stacks.trim(TRIM_KEEP);
        self.shared().arenas.trim();
    }
}
