//! The carriers of a runtime: which exist, which rest, and how a core passes from one to another.
//!
//! ```text
//!             hand-off (monitor) or give (blocking_begin, bound vthreads)
//!   with a core ------------------------------------------------> without
//!        ^                                                            | its vthread parks, yields or ends
//!        +------------------- grant ----------------- resting <-------+
//!                                                        |
//!                                                        +--> ended: too many rest, or it was lowered
//! ```
//!
//! A carrier without a core goes on with its vthread as an ordinary thread. When the vthread leaves it, it rests as a *spare*
//! until somebody grants it a core. Hand-offs are rare, so everything here is behind one lock, which is never held while a
//! core is run.
//!
//! Invariants:
//! * **a spare first**: a core is taken only when the carrier that will have it has been set aside, so no core is ever
//!   without a carrier.
//! * **lowered carriers hold no core**: lowering the priority of a thread cannot be taken back without privilege, so such a
//!   thread ends when its vthread has left it, unless the system lets us raise it again.
//! * **a bound vthread's thread is no spare**: it rests for its vthreads alone, and gets its core from whoever finds one of
//!   them in a queue (`Bound`).

use super::core::Core;
use super::hold::Hold;
use super::shared::Shared;
use super::stopping::Stop;
use super::{carrier, monitor};
use crate::error::{Error, Result};
use crate::primitive::os_thread::OsThread;
use crate::topology::Cpus;
use crate::vthread::context::Mount;
use crate::vthread::record::{Record, RecordList, RecordRef};
use std::cell::Cell;
use std::os::unix::thread::JoinHandleExt;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::{JoinHandle, Thread};

/// Stack of a carrier. Scheduler code runs on it, and no host code.
const STACK_BYTES: usize = 128 * 1024;
/// Spares made ahead once the first core is to be taken away: twice as many as carriers are without a core, within these
/// bounds. Making a thread allocates, and a thread of low priority may hold the allocator's lock then; so the first ones are
/// made before there is such a thread.
const SPARES_READY: usize = 16;
const SPARES_READY_MAX: usize = 64;
/// How many stay when nothing has overrun for a while.
const SPARES_IDLE: usize = 2;
/// More spares than this end when they come to rest.
const SPARES_KEPT: usize = 64;
/// Carriers without a core that are looked at in one look.
const LOOKED_AFTER: usize = 64;
/// What the maker of spares is asked for.
const MAKE: u32 = 1;
const TIDY: u32 = 2;
const DISMISS: u32 = 4;

/// Why a core changed its carrier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cause {
    /// A vthread ran over its slice.
    Slice,
    /// It was blocked in the kernel.
    Blocked,
    /// It said that it would block.
    Announced,
    /// A bound vthread was to run, whose thread is another.
    Bound,
}

/// An OS thread that runs cores.
///
/// Cells are used by its own thread; `core` and `core_index` also by who grants it a core, while it rests.
pub(crate) struct Carrier {
    pub(crate) hold: Hold,
    shared: *const Shared,
    core: Cell<*mut Core>,
    core_index: Cell<usize>,
    mount: Cell<*mut Mount>,
    /// Set by the monitor: the mounted vthread has used up its turn, or the core was taken away.
    pub(crate) attention: AtomicBool,
    /// Runtime calls that the mounted vthread may still make without waiting.
    pub(crate) budget: Cell<u32>,
    /// What is mounted, for the monitor; null if nothing is.
    record: AtomicPtr<Record>,
    /// CPU time of the thread up to which mounts have been charged exactly, and what was charged since.
    pub(crate) cpu_mark_ns: Cell<u64>,
    pub(crate) charged_ns: Cell<u64>,
    /// Frames of the mounted vthread, taken down by itself (`overrun`).
    pub(crate) frames: Cell<Option<Box<[usize]>>>,
    os: OnceLock<OsThread>,
    thread: OnceLock<Thread>,
    /// Vthreads that are bound to this thread.
    bound: AtomicU32,
    bench: Mutex<Bench>,
    /// CPU time of the thread when its core was taken away from a blocked vthread.
    relieved_at_cpu_ns: AtomicU64,
    pub(super) stop: Stop,
    lowered: AtomicBool,
    dismissed: AtomicBool,
    this: Weak<Carrier>,
}

/// Where the bound vthreads of a carrier wait for it.
#[derive(Default)]
struct Bench {
    /// The carrier rests without a core.
    resting: bool,
    /// Found by others while it did not rest.
    pending: RecordList,
    /// Handed over with the core: to be run first.
    first: Option<RecordRef>,
}

// SAFETY: see the type's documentation for the cells; all else is Sync. The pointers are to memory that outlives carriers.
unsafe impl Sync for Carrier {}
// SAFETY: as above.
unsafe impl Send for Carrier {}

impl Carrier {
    fn new(shared: &Shared) -> Arc<Carrier> {
        Arc::new_cyclic(|this| Carrier {
            hold: Hold::none(),
            shared,
            core: Cell::new(ptr::null_mut()),
            core_index: Cell::new(0),
            mount: Cell::new(ptr::null_mut()),
            attention: AtomicBool::new(false),
            budget: Cell::new(0),
            record: AtomicPtr::new(ptr::null_mut()),
            cpu_mark_ns: Cell::new(0),
            charged_ns: Cell::new(0),
            frames: Cell::new(None),
            os: OnceLock::new(),
            thread: OnceLock::new(),
            bound: AtomicU32::new(0),
            bench: Mutex::default(),
            relieved_at_cpu_ns: AtomicU64::new(0),
            stop: Stop::new(),
            lowered: AtomicBool::new(false),
            dismissed: AtomicBool::new(false),
            this: this.clone(),
        })
    }

    /// A count of itself.
    pub(crate) fn to_arc(&self) -> Option<Arc<Carrier>> {
        self.this.upgrade()
    }

    #[inline(always)]
    pub(crate) fn shared<'a>(&self) -> &'a Shared {
        // SAFETY: a runtime outlives its carriers.
        unsafe { &*self.shared }
    }

    /// The core: the carrier's own while `hold` says so.
    #[inline(always)]
    pub(crate) fn core(&self) -> *mut Core {
        self.core.get()
    }

    /// The core that it holds or held last.
    #[inline(always)]
    pub(crate) fn core_index(&self) -> usize {
        self.core_index.get()
    }

    #[inline(always)]
    pub(crate) fn mount(&self) -> Option<NonNull<Mount>> {
        NonNull::new(self.mount.get())
    }

    /// A vthread is about to be mounted.
    #[inline(always)]
    pub(crate) fn set_mounted(&self, mount: NonNull<Mount>, record: RecordRef) {
        self.mount.set(mount.as_ptr());
        self.record.store(record.as_ptr(), Ordering::Relaxed);
    }

    /// The vthread has left.
    #[inline(always)]
    pub(crate) fn set_unmounted(&self) {
        self.mount.set(ptr::null_mut());
    }

    /// What is mounted, or was last; for the monitor, which knows that something is.
    pub(crate) fn record(&self) -> Option<RecordRef> {
        // SAFETY: only records are stored, and their memory stays.
        NonNull::new(self.record.load(Ordering::Relaxed)).map(|r| unsafe { RecordRef::from_raw(r) })
    }

    /// Its OS thread; None until it runs.
    pub(crate) fn os(&self) -> Option<OsThread> {
        self.os.get().copied()
    }

    /// The calling thread is this carrier's.
    pub(crate) fn begin(&self) {
        let _ = self.os.set(OsThread::of_this_thread());
        let _ = self.thread.set(std::thread::current());
    }

    /// One vthread more is bound to this thread; by itself.
    pub(crate) fn bind(&self) {
        self.bound.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub(crate) fn unbind(&self) {
        self.bound.fetch_sub(1, Ordering::Relaxed);
    }

    /// A bound vthread that came with the core.
    pub(crate) fn take_first(&self) -> Option<RecordRef> {
        if self.bound.load(Ordering::Relaxed) == 0 {
            return None;
        }
        lock(&self.bench).first.take()
    }

    fn unpark(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

/// What became of a bound vthread that a carrier found in a queue.
#[must_use]
pub(crate) enum Bound {
    /// It and the core have gone to its thread: the caller is without a core.
    Given,
    /// Its thread is busy, and will see to it.
    Left,
}

/// What was counted of hand-offs.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) slice: AtomicU64,
    pub(crate) blocked: AtomicU64,
    pub(crate) announced: AtomicU64,
    pub(crate) bound: AtomicU64,
    /// Cores that would have been taken, had there been a spare.
    pub(crate) denied: AtomicU64,
    /// Cores taken from vthreads that had asked not to be disturbed, for too long.
    pub(crate) forced: AtomicU64,
    /// Carriers whose priority was lowered.
    pub(crate) lowered: AtomicU64,
    /// Vthreads that came back to the queues from a carrier without a core.
    pub(crate) rejoined: AtomicU64,
    /// Vthreads that ended inside a section that they had not closed.
    pub(crate) unbalanced: AtomicU64,
}

/// How many carriers there are, by what they do.
#[derive(Clone, Copy, Default)]
pub(crate) struct Strength {
    pub(crate) alive: usize,
    pub(crate) spares: usize,
    pub(crate) without: usize,
}

/// A core that belongs to whoever holds it, and at the end to the crew.
struct CorePointer(*mut Core);

// SAFETY: `Core` is Send; the pointer is used when no carrier is left.
unsafe impl Send for CorePointer {}

struct Lists {
    /// As numbers, because a thread that is about to end can then be asked for without waiting (pthread_tryjoin_np(3)).
    threads: Vec<(libc::pthread_t, Arc<Carrier>)>,
    spares: Vec<Arc<Carrier>>,
    /// Without a core, and busy with a vthread.
    without: Vec<Arc<Carrier>>,
    alive: usize,
    /// All cores, for the end.
    cores: Vec<CorePointer>,
    /// The monitor, the stopper, the maker of spares.
    helpers: Vec<JoinHandle<()>>,
}

/// See the module text.
pub(crate) struct Crew {
    lists: Mutex<Lists>,
    /// Who holds each core.
    holders: Box<[Mutex<Option<Arc<Carrier>>>]>,
    limit: usize,
    affinity: Cpus,
    looked_after: AtomicUsize,
    maker: OnceLock<Thread>,
    requests: AtomicU32,
    /// There is no spare and there will be none: the limit, or the system's.
    at_limit: AtomicBool,
    pub(crate) counts: Counts,
}

/// A shared reference that crosses to a thread of the runtime.
struct Carried(*const Shared);

// SAFETY: `Shared` is Sync, and outlives its threads: they are joined before it is dropped.
unsafe impl Send for Carried {}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Crew {
    pub(crate) fn new(cores: usize, limit: usize) -> Crew {
        // Room for all from the start: nothing is allocated under the lock.
        let all = limit.max(cores);
        let lists = Lists {
            threads: Vec::with_capacity(all),
            spares: Vec::with_capacity(all),
            without: Vec::with_capacity(all),
            cores: Vec::with_capacity(cores),
            helpers: Vec::with_capacity(4),
            alive: 0,
        };
        Crew {
            lists: Mutex::new(lists),
            holders: (0..cores).map(|_| Mutex::new(None)).collect(),
            limit: limit.max(cores),
            affinity: Cpus::read(),
            looked_after: AtomicUsize::new(0),
            maker: OnceLock::new(),
            requests: AtomicU32::new(0),
            at_limit: AtomicBool::new(false),
            counts: Counts::default(),
        }
    }

    /// Core `index`, for who has taken it.
    pub(crate) fn core(&self, index: usize) -> *mut Core {
        lock(&self.lists).cores[index].0
    }

    /// Who holds core `index`, or held it a moment ago.
    pub(crate) fn holder(&self, index: usize) -> Option<Arc<Carrier>> {
        lock(&self.holders[index]).clone()
    }

    pub(crate) fn strength(&self) -> Strength {
        let lists = lock(&self.lists);
        Strength {
            alive: lists.alive,
            spares: lists.spares.len(),
            without: lists.without.len(),
        }
    }

    /// Starts a carrier that holds `core`. The core belongs to the crew from here, also if this fails.
    pub(crate) fn start(&self, shared: &Shared, core: Box<Core>) -> Result<()> {
        let carrier = Carrier::new(shared);
        let index = core.index;
        let core = Box::into_raw(core);
        self.install(&carrier, core, index);
        {
            let mut lists = lock(&self.lists);
            lists.cores.push(CorePointer(core));
            lists.alive += 1;
        }
        self.spawn(shared, &carrier, index)
    }

    /// Starts the monitor, and the stopper where there is to be one.
    pub(crate) fn start_helpers(&self, shared: &Shared) -> Result<()> {
        self.start_helper(shared, "swn-monitor", monitor::run)?;
        if shared.stopper.is_some() {
            self.start_helper(shared, "swn-stopper", |shared| {
                if let Some(stopper) = &shared.stopper {
                    stopper.run(shared);
                }
            })?;
        }
        Ok(())
    }

    fn start_helper(&self, shared: &Shared, name: &str, body: fn(&Shared)) -> Result<Thread> {
        let carried = Carried(shared);
        let body = move || {
            let carried = carried;
            // SAFETY: see `Carried`.
            body(unsafe { &*carried.0 });
        };
        let thread = start_thread(name.into(), body)?;
        let handle = thread.thread().clone();
        lock(&self.lists).helpers.push(thread);
        Ok(handle)
    }

    /// Starts the thread of `carrier`, which counts as alive already. Without the lock: this allocates, and who holds the
    /// allocator's lock may have been taken off its CPU for long.
    fn spawn(&self, shared: &Shared, carrier: &Arc<Carrier>, number: usize) -> Result<()> {
        let carried = Carried(shared);
        let own = carrier.clone();
        let body = move || {
            let carried = carried;
            // SAFETY: see `Carried`.
            carrier::run(unsafe { &*carried.0 }, &own);
        };
        let thread = start_thread(format!("swn-{number}"), body);
        let mut lists = lock(&self.lists);
        match thread {
            Ok(thread) => {
                // Whoever grants it a core may do so before it runs.
                let _ = carrier.thread.set(thread.thread().clone());
                lists
                    .threads
                    .push((thread.into_pthread_t(), carrier.clone()));
                Ok(())
            }
            Err(e) => {
                lists.alive -= 1;
                Err(e)
            }
        }
    }

    /// A spare, set aside for a core, if one is there.
    pub(crate) fn reserve(&self) -> Option<Arc<Carrier>> {
        lock(&self.lists).spares.pop()
    }

    /// Makes a spare. None above the limit; after a failure none is made for a while, or until there are fewer.
    fn make(&self, shared: &Shared) -> Option<Arc<Carrier>> {
        if self.at_limit.load(Ordering::Relaxed) {
            return None;
        }
        let number = {
            let mut lists = lock(&self.lists);
            let number = lists.alive;
            (number < self.limit).then(|| {
                lists.alive += 1;
                number
            })
        };
        if let Some(number) = number {
            let carrier = Carrier::new(shared);
            if self.spawn(shared, &carrier, number).is_ok() {
                return Some(carrier);
            }
        }
        self.at_limit.store(true, Ordering::Relaxed);
        self.counts.denied.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// Gives back what [`Self::reserve`] set aside.
    pub(crate) fn unreserve(&self, spare: Arc<Carrier>) {
        lock(&self.lists).spares.push(spare);
    }

    /// Sees to it that spares are made ahead, by a thread of its own, which is started the first time.
    pub(crate) fn prepare(&self, shared: &Shared) {
        if self.is_short() {
            self.requests.fetch_or(MAKE, Ordering::AcqRel);
            self.wake_maker(shared);
        }
    }

    /// Sees to it that threads which have ended are joined, and, with `dismiss`, that spares go which are too many.
    pub(crate) fn ask_for_tidying(&self, shared: &Shared, dismiss: bool) {
        // Without a maker there has been no hand-off, and there is nothing to tidy.
        if self.maker.get().is_some() {
            let wanted = if dismiss { TIDY | DISMISS } else { TIDY };
            self.requests.fetch_or(wanted, Ordering::AcqRel);
            self.wake_maker(shared);
        }
    }

    fn wake_maker(&self, shared: &Shared) {
        if let Some(maker) = self.maker.get() {
            maker.unpark();
        } else if let Ok(maker) = self.start_helper(shared, "swn-maker", Self::serve_requests) {
            let _ = self.maker.set(maker);
        }
    }

    fn is_short(&self) -> bool {
        let lists = lock(&self.lists);
        let wanted = 2 * lists.without.len();
        lists.spares.len() < wanted.clamp(SPARES_READY, SPARES_READY_MAX)
    }

    /// The maker's thread. Apart from the monitor, because all this allocates or frees.
    fn serve_requests(shared: &Shared) {
        let crew = &shared.crew;
        while !shared.exiting.load(Ordering::SeqCst) {
            let requests = crew.requests.swap(0, Ordering::AcqRel);
            if requests & TIDY != 0 {
                crew.tidy(requests & DISMISS != 0);
            }
            while requests & MAKE != 0
                && crew.is_short()
                && let Some(spare) = crew.make(shared)
            {
                crew.unreserve(spare);
            }
            if requests == 0 {
                std::thread::park();
            }
        }
    }

    /// `carrier` goes on without the core that it had.
    pub(crate) fn left_without(&self, carrier: Arc<Carrier>, cause: Cause) {
        let counter = match cause {
            Cause::Slice => &self.counts.slice,
            Cause::Blocked => &self.counts.blocked,
            Cause::Announced => &self.counts.announced,
            Cause::Bound => &self.counts.bound,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if carrier.shared().pinned.load(Ordering::Relaxed)
            && let Some(os) = carrier.os()
        {
            // The CPU is that of the core, which is another thread's now.
            self.affinity.release(os.id());
        }
        carrier
            .relieved_at_cpu_ns
            .store(carrier.os().map_or(0, OsThread::cpu_ns), Ordering::Relaxed);
        if cause == Cause::Bound {
            return;
        }
        lock(&self.lists).without.push(carrier.clone());
        // Last: from here a thread other than the caller may be stopped.
        if let Some(stopper) = carrier.shared().stopper.as_ref()
            && cause != Cause::Announced
        {
            stopper.add(&carrier);
        }
    }

    /// Grants a core to a carrier that rests.
    pub(crate) fn grant(&self, shared: &Shared, to: &Arc<Carrier>, core: *mut Core, index: usize) {
        if shared.pinned.load(Ordering::Relaxed)
            && let Some(os) = to.os()
        {
            // Here and not by the carrier itself, which would first wake up elsewhere.
            self.affinity.bind(os.id(), index);
        }
        self.install(to, core, index);
        to.unpark();
    }

    fn install(&self, carrier: &Arc<Carrier>, core: *mut Core, index: usize) {
        carrier.core.set(core);
        carrier.core_index.set(index);
        carrier.shared().remotes[index]
            .mounted_at
            .store(0, Ordering::Relaxed);
        *lock(&self.holders[index]) = Some(carrier.clone());
        carrier.hold.grant();
    }

    /// The calling carrier, which is inside, gives its core away and goes on without. False if nobody could take it.
    pub(crate) fn give_up(&self, shared: &Shared, carrier: &Carrier, cause: Cause) -> bool {
        let Some(spare) = self.reserve().or_else(|| self.make(shared)) else {
            return false;
        };
        let (core, index) = (carrier.core(), carrier.core_index());
        let Some(own) = self.holder(index) else {
            self.unreserve(spare);
            return false;
        };
        carrier.hold.give();
        carrier.attention.store(true, Ordering::Relaxed);
        self.left_without(own.clone(), cause);
        self.grant(shared, &spare, core, index);
        // The caller itself may be stopped from here, with no lock of the crew held.
        if let Some(stopper) = &shared.stopper {
            stopper.add(&own);
        }
        true
    }

    /// The calling carrier, which is inside, has found `record`, bound to the thread of `owner`.
    pub(crate) fn give_to_bound(
        &self,
        shared: &Shared,
        carrier: &Carrier,
        owner: &Arc<Carrier>,
        record: RecordRef,
    ) -> Bound {
        let mut bench = lock(&owner.bench);
        if !bench.resting {
            bench.pending.push_back(record);
            return Bound::Left;
        }
        bench.resting = false;
        bench.first = Some(record);
        drop(bench);
        let (core, index) = (carrier.core(), carrier.core_index());
        carrier.hold.give();
        self.counts.bound.fetch_add(1, Ordering::Relaxed);
        self.grant(shared, owner, core, index);
        Bound::Given
    }

    /// A computing carrier without a core shall not thin out those with one.
    pub(crate) fn lower(&self, carrier: &Carrier) {
        // The thread of a bound vthread will be needed with a core again.
        if carrier.bound.load(Ordering::Relaxed) > 0 {
            return;
        }
        let Some(os) = carrier.os() else { return };
        if !carrier.lowered.swap(true, Ordering::Relaxed) {
            os.lower();
            self.counts.lowered.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lowers carriers that were blocked when their core was taken and have computed for `slice_ns` since.
    pub(crate) fn look_after_those_without(&self, slice_ns: u64) {
        let lists = lock(&self.lists);
        // A few at a time, in turn.
        let first = self.looked_after.fetch_add(LOOKED_AFTER, Ordering::Relaxed);
        let in_turn = lists
            .without
            .iter()
            .cycle()
            .skip(first % lists.without.len().max(1));
        for carrier in in_turn.take(LOOKED_AFTER.min(lists.without.len())) {
            let used = carrier
                .os()
                .map_or(0, OsThread::cpu_ns)
                .saturating_sub(carrier.relieved_at_cpu_ns.load(Ordering::Relaxed));
            if used >= slice_ns && !carrier.lowered.load(Ordering::Relaxed) {
                self.lower(carrier);
            }
        }
    }

    /// The calling carrier, which has no core and no vthread any more, rests until it is granted a core. False: it ends.
    pub(crate) fn rest(&self, shared: &Shared, carrier: &Arc<Carrier>) -> bool {
        let mut pending = RecordList::new();
        if let Some(stopper) = &shared.stopper {
            stopper.remove(carrier);
        }
        {
            let mut lists = lock(&self.lists);
            lists.without.retain(|c| !Arc::ptr_eq(c, carrier));
            let bound = carrier.bound.load(Ordering::Relaxed) > 0;
            let stays = bound || (self.raise(carrier) && lists.spares.len() < SPARES_KEPT);
            if !stays {
                lists.alive -= 1;
                self.at_limit.store(false, Ordering::Relaxed);
                return false;
            }
            carrier.attention.store(false, Ordering::Relaxed);
            if bound {
                let mut bench = lock(&carrier.bench);
                bench.resting = true;
                pending.append(&mut bench.pending);
            } else {
                lists.spares.push(carrier.clone());
            }
        }
        // Others found them while this thread was busy; whoever finds them now finds it resting.
        while let Some(record) = pending.pop_front() {
            shared.schedule_outside(record);
        }
        // It lets spares go that are too many, before it sleeps again.
        shared.monitor.rouse();
        self.wait_for_core(shared, carrier)
    }

    /// Waits for a grant. False: the carrier ends.
    pub(crate) fn wait_for_core(&self, shared: &Shared, carrier: &Carrier) -> bool {
        loop {
            if !carrier.hold.is_lost() {
                return true;
            }
            if shared.exiting.load(Ordering::SeqCst) || carrier.dismissed.load(Ordering::Relaxed) {
                return false;
            }
            std::thread::park();
        }
    }

    /// Undoes [`Self::lower`], if the system allows it.
    fn raise(&self, carrier: &Carrier) -> bool {
        if !carrier.lowered.load(Ordering::Relaxed) {
            return true;
        }
        let raised = carrier.os().is_some_and(OsThread::raise);
        if raised {
            carrier.lowered.store(false, Ordering::Relaxed);
        }
        raised
    }

    /// Joins threads that have ended, and lets spares go that are more than are kept ready. Waits for none: a thread that
    /// ends still runs the destructors of the host's thread-local values.
    fn tidy(&self, dismiss: bool) {
        // Another try, about once a second.
        self.at_limit.store(false, Ordering::Relaxed);
        let mut lists = lock(&self.lists);
        while dismiss && lists.spares.len() > SPARES_IDLE {
            if let Some(spare) = lists.spares.pop() {
                lists.alive -= 1;
                spare.dismissed.store(true, Ordering::Relaxed);
                spare.unpark();
            }
        }
        // SAFETY: a thread that was not joined yet; it leaves the list when it is.
        let ends =
            |thread: libc::pthread_t| unsafe { libc::pthread_tryjoin_np(thread, ptr::null_mut()) };
        let mut at = 0;
        while at < lists.threads.len() {
            if ends(lists.threads[at].0) == 0 {
                let (_, carrier) = lists.threads.swap_remove(at);
                // Freed without the lock.
                drop(lists);
                drop(carrier);
                lists = lock(&self.lists);
            } else {
                at += 1;
            }
        }
    }

    /// Joins all threads, which have been told to exit, and takes the cores apart.
    pub(crate) fn join(&self, shared: &Shared) {
        // First those that make others: the monitor, then the maker that it may have started.
        loop {
            let helpers = std::mem::take(&mut lock(&self.lists).helpers);
            if helpers.is_empty() {
                break;
            }
            for helper in helpers {
                helper.thread().unpark();
                let _ = helper.join();
            }
        }
        loop {
            let threads = std::mem::take(&mut lock(&self.lists).threads);
            if threads.is_empty() {
                break;
            }
            for (_, carrier) in &threads {
                carrier.unpark();
            }
            for (thread, _) in threads {
                // SAFETY: a thread that was not joined yet.
                unsafe { libc::pthread_join(thread, ptr::null_mut()) };
            }
        }
        let mut lists = lock(&self.lists);
        lists.spares.clear();
        lists.without.clear();
        lists.alive = 0;
        for holder in &self.holders {
            *lock(holder) = None;
        }
        for core in lists.cores.drain(..) {
            // SAFETY: made by `start` from a box, and no carrier is left.
            let mut core = unsafe { Box::from_raw(core.0) };
            core.empty(shared);
        }
    }
}

fn start_thread(name: String, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let builder = std::thread::Builder::new()
        .name(name)
        .stack_size(STACK_BYTES);
    // A thread inherits its creator's mask: not even for a moment is a signal of the process taken by one of ours.
    let _masked = carrier::SignalsBlocked::new();
    builder.spawn(body).map_err(Error::from)
}
