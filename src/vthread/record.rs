//! The record of a vthread: all that exists of it from spawn to join.
//!
//! Records live in type-stable slabs (`table`): the memory of one is never anything else while its runtime lives, so
//! whoever holds a stale pointer or handle reads a valid state word and finds another generation.
//!
//! Who may touch what:
//! * `state`: by the rules of `state.rs`.
//! * `join`: by the rules of `join.rs`.
//! * `link`, `ready_tick`: whoever holds the vthread (took it from a queue, or won its claim) and puts it into the next
//!   queue.
//! * `body`: the spawner until the record is created, then the vthread itself and the carrier that has it mounted, then
//!   (from Done on) the joiner.
//! * the atomics of `seen`: written by the vthread's carrier, read by anyone.

use super::Schedule;
use super::context::Mount;
use super::state::StateWord;
use crate::primitive::atomic::{AtomicPtr, AtomicU64, Ordering};
use crate::primitive::prefetch;
use crate::stack::StackClass;
use crate::wait::{Claimed, Outcome, Reason, Target, TargetVtable, Wake};
use std::cell::{Cell, UnsafeCell};
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16};

/// A host callback.
pub(crate) type Entry = unsafe extern "C-unwind" fn(*mut c_void) -> *mut c_void;
/// A host destructor.
pub(crate) type Destructor = unsafe extern "C-unwind" fn(*mut c_void);

/// Longest name kept, in bytes, without the terminating zero: as for threads (pthread_setname_np(3)).
pub(crate) const NAME_MAX: usize = 15;
/// Bits of `Seen::flags`: the name was set for this use; the vthread runs without a core.
const NAMED: u8 = 1;
const PREEMPTED: u8 = 2;
/// No core in `Body::fixed_core`.
pub(crate) const NO_CORE: u16 = u16::MAX;

/// What the vthread ended with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Returned,
    NoStack,
    Panicked,
}

/// What the spawner says about a vthread, and its end. Part of the first cache line.
#[repr(C)]
pub(crate) struct Body {
    pub(crate) entry: Option<Entry>,
    /// The argument; after the end, the result.
    pub(crate) arg: *mut c_void,
    /// Null before the first run and after the end.
    pub(crate) mount: *mut Mount,
    pub(crate) fixed_core: u16,
    pub(crate) class: StackClass,
    pub(crate) end: End,
    pub(crate) bound: bool,
    /// Nobody joins it: said at spawn (`swn_detach` is in the join word).
    pub(crate) detached: bool,
    /// The record's `Extra` is set; else what it holds is of an earlier use.
    pub(crate) extra: bool,
}

/// What few vthreads have: owned as `Body` is.
pub(crate) struct Extra {
    pub(crate) destructor: Cell<Option<Destructor>>,
    name: [AtomicU64; 2],
}

/// What listers and statistics read while the vthread runs. Set anew at its first mount.
pub(crate) struct Seen {
    pub(crate) last_resume_tick: AtomicU64,
    pub(crate) cpu_ns: AtomicU64,
    pub(crate) stack_address: AtomicU64,
    pub(crate) core: AtomicU16,
    pub(crate) reason: AtomicU8,
    flags: AtomicU8,
}

/// See the module text. Two cache lines: what spawning and queueing touch is in the first.
#[repr(C, align(128))]
pub(crate) struct Record {
    pub(crate) state: StateWord,
    /// See `join.rs`.
    pub(crate) join: AtomicU64,
    pub(crate) link: Cell<Option<RecordRef>>,
    /// Tick at which it became runnable, or 0 where that is not sampled.
    pub(crate) ready_tick: Cell<u64>,
    pub(crate) body: UnsafeCell<Body>,
    /// Slot in the upper 24 bits, runtime in the lower 8.
    place: u32,
    pub(crate) seen: Seen,
    pub(crate) extra: Extra,
}

// The design's bound; it is what a spawned vthread costs before it runs.
const _: () = assert!(size_of::<Record>() == 128);

/// A pointer to a record. Copyable; by itself it gives no right to anything but the state word, `join` and `seen`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordRef(NonNull<Record>);

// SAFETY: a RecordRef is an address of type-stable memory; what may be done with the record is governed by the rules of
// the module text, not by which thread holds the address.
unsafe impl Send for RecordRef {}
// SAFETY: as above.
unsafe impl Sync for RecordRef {}

/// The scheduler of each runtime, by its number: what a record's `place` leads to. A pointer to the trait object's two
/// words, because an atomic holds one.
static SCHEDULERS: [AtomicPtr<ScheduleRef>; 256] =
    [const { AtomicPtr::new(std::ptr::null_mut()) }; 256];

/// How records reach their scheduler.
pub(crate) type ScheduleRef = &'static (dyn Schedule + 'static);

/// Sets the scheduler of runtime `index`.
///
/// # Safety
/// `scheduler` and what it points to stay valid until no record of the runtime is used any more.
pub(crate) unsafe fn set_scheduler(index: u8, scheduler: *const ScheduleRef) {
    SCHEDULERS[usize::from(index)].store(scheduler.cast_mut(), Ordering::Release);
}

impl RecordRef {
    /// # Safety
    /// `record` must lie in a slab of a `RecordTable` and be initialised.
    pub(crate) unsafe fn from_raw(record: NonNull<Record>) -> RecordRef {
        RecordRef(record)
    }

    pub(crate) fn as_ptr(self) -> *mut Record {
        self.0.as_ptr()
    }

    pub(crate) fn as_non_null(self) -> NonNull<Record> {
        self.0
    }

    #[inline(always)]
    pub(crate) fn get<'a>(self) -> &'a Record {
        // SAFETY: type-stable memory (module text); the runtime that owns it outlives every holder of a RecordRef: its
        // carriers are joined, and foreign threads keep it alive, before the table is dropped.
        unsafe { self.0.as_ref() }
    }

    /// The body, for its present owner.
    ///
    /// # Safety
    /// The caller is the owner by the rules of the module text, and no other reference to the body is alive.
    #[allow(clippy::mut_from_ref)]
    #[inline(always)]
    pub(crate) unsafe fn body<'a>(self) -> &'a mut Body {
        // SAFETY: exclusive by the caller's promise.
        unsafe { &mut *self.get().body.get() }
    }

    /// Whether it was spawned detached. For callers who know that the record is in use: then it does not change.
    pub(crate) fn is_spawned_detached(self) -> bool {
        // SAFETY: written by the spawner before the record was published.
        unsafe { (&raw const (*self.get().body.get()).detached).read() }
    }

    /// The record that `wake` is for, if it is one of runtime `index`; else the wake is given back.
    pub(crate) fn of_wake(wake: Wake, index: u8) -> std::result::Result<RecordRef, Wake> {
        match wake.data_of(&VTABLE).map(|data| RecordRef(data.cast())) {
            Some(record) if record.is_of(index) => {
                wake.disarm();
                Ok(record)
            }
            _ => Err(wake),
        }
    }

    /// The vthread that waits by `target`, and the number of its wait; None if someone else does.
    #[inline(always)]
    pub(crate) fn of_target(target: Target) -> Option<(RecordRef, u64)> {
        let (data, seq) = target.data_of(&VTABLE)?;
        Some((RecordRef(data.cast()), seq))
    }

    /// Whether it is a vthread of runtime `index`.
    #[inline(always)]
    pub(crate) fn is_of(self, index: u8) -> bool {
        self.get().place as u8 == index
    }

    /// Asks for the mount of a vthread that will be resumed soon; then [`Self::prefetch_stack`]. For its holder.
    #[inline(always)]
    pub(crate) fn prefetch_mount(self) {
        // SAFETY: the holder reads the body.
        let mount = unsafe { (*self.get().body.get()).mount };
        prefetch::line(mount);
        prefetch::line(&raw const self.get().seen);
    }

    /// Asks for the part of its stack where it goes on. For its holder.
    #[inline(always)]
    pub(crate) fn prefetch_stack(self) {
        // SAFETY: as above; a vthread that has a mount has it until it ends.
        if let Some(mount) = NonNull::new(unsafe { (*self.get().body.get()).mount }) {
            // SAFETY: the holder reads the mount of a vthread that is not running.
            unsafe { Mount::prefetch_stack(mount) };
        }
    }

    /// Whether the body says that `Extra` is set, for a lister: the vthread may be changing hands, and then the answer is
    /// thrown away with the rest (the generation is checked again).
    pub(crate) fn has_extra(self) -> bool {
        // SAFETY: the memory is a record's for ever; a byte that is read without synchronisation is read as a volatile.
        unsafe {
            (&raw const (*self.get().body.get()).extra)
                .cast::<u8>()
                .read_volatile()
                != 0
        }
    }

    /// The target of the open wait number `seq`.
    pub(crate) fn target(self, seq: u64) -> Target {
        // SAFETY: `data` is a record, as the vtable expects, and type-stable.
        unsafe { Target::new(self.0.cast(), seq, &VTABLE) }
    }

    /// Claims wait `seq` and returns the wake duty, if any.
    #[inline(always)]
    pub(crate) fn claim(self, seq: u64, outcome: Outcome) -> Claimed {
        use super::state::Claim;
        match self.get().state.claim(seq, outcome) {
            Claim::Lost => Claimed::Lost,
            Claim::Noticed => Claimed::Done,
            // SAFETY: won just now, so the vthread cannot end before it is woken.
            Claim::Schedule => Claimed::Wake(unsafe { Wake::new(self.0.cast(), &VTABLE) }),
        }
    }
}

static VTABLE: TargetVtable = TargetVtable {
    claim: claim_record,
    wake: wake_record,
};

unsafe fn claim_record(data: NonNull<()>, seq: u64, outcome: Outcome) -> Claimed {
    RecordRef(data.cast()).claim(seq, outcome)
}

unsafe fn wake_record(data: NonNull<()>) {
    let record = RecordRef(data.cast());
    record.get().scheduler().schedule(record);
}

impl Record {
    /// Initialises the record of `slot` of runtime `index`.
    ///
    /// # Safety
    /// `at` is valid for writes and unshared.
    pub(crate) unsafe fn init(at: NonNull<Record>, slot: u32, generation: u32, index: u8) {
        let record = Record {
            state: StateWord::new(generation),
            join: AtomicU64::new(0),
            link: Cell::new(None),
            ready_tick: Cell::new(0),
            body: UnsafeCell::new(Body {
                entry: None,
                arg: std::ptr::null_mut(),
                mount: std::ptr::null_mut(),
                fixed_core: NO_CORE,
                class: StackClass::K256,
                end: End::Returned,
                bound: false,
                detached: false,
                extra: false,
            }),
            place: slot << 8 | u32::from(index),
            seen: Seen {
                last_resume_tick: AtomicU64::new(0),
                cpu_ns: AtomicU64::new(0),
                stack_address: AtomicU64::new(0),
                core: AtomicU16::new(0),
                reason: AtomicU8::new(0),
                flags: AtomicU8::new(0),
            },
            extra: Extra {
                destructor: Cell::new(None),
                name: [const { AtomicU64::new(0) }; 2],
            },
        };
        // SAFETY: the caller's promise.
        unsafe { at.write(record) };
    }

    pub(crate) fn slot(&self) -> u32 {
        self.place >> 8
    }

    pub(crate) fn scheduler(&self) -> ScheduleRef {
        let at = SCHEDULERS[(self.place & 0xff) as usize].load(Ordering::Acquire);
        // SAFETY: set before the runtime's first record was made (`set_scheduler`).
        unsafe { *at }
    }

    pub(crate) fn set_reason(&self, reason: Reason) {
        self.seen.reason.store(reason as u8, Ordering::Relaxed);
    }

    /// Sets the destructor and a name, of which at most [`NAME_MAX`] bytes are kept. By the spawner.
    pub(crate) fn set_extra(&self, destructor: Option<Destructor>, name: &[u8]) {
        self.extra.destructor.set(destructor);
        let mut bytes = [0u8; 16];
        let len = name.len().min(NAME_MAX);
        bytes[..len].copy_from_slice(&name[..len]);
        for (word, chunk) in self.extra.name.iter().zip(bytes.chunks_exact(8)) {
            word.store(
                u64::from_ne_bytes(chunk.try_into().unwrap_or_default()),
                Ordering::Relaxed,
            );
        }
    }

    /// Clears what an earlier use of the record has left to see; at the first mount. `extra`: the name is this use's.
    #[inline]
    pub(crate) fn begin_seen(&self, extra: bool) {
        self.seen.cpu_ns.store(0, Ordering::Relaxed);
        self.seen.reason.store(0, Ordering::Relaxed);
        self.seen
            .flags
            .store(if extra { NAMED } else { 0 }, Ordering::Relaxed);
    }

    /// The name, zero-padded; its last byte is zero. `named`: it was set for this use of the record.
    pub(crate) fn name(&self, named: bool) -> [u8; 16] {
        let mut bytes = [0u8; 16];
        if named {
            for (word, chunk) in self.extra.name.iter().zip(bytes.chunks_exact_mut(8)) {
                chunk.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
            }
        }
        bytes
    }

    /// Notes whether the running vthread goes on without a core. Before the carrier can notice that it lost it, and after it
    /// has noticed.
    pub(crate) fn set_preempted(&self, preempted: bool) {
        if preempted {
            self.seen.flags.fetch_or(PREEMPTED, Ordering::Relaxed);
        } else {
            self.seen.flags.fetch_and(!PREEMPTED, Ordering::Relaxed);
        }
    }

    pub(crate) fn is_preempted(&self) -> bool {
        self.seen.flags.load(Ordering::Relaxed) & PREEMPTED != 0
    }

    /// Whether the name was set for the vthread that runs.
    pub(crate) fn is_named(&self) -> bool {
        self.seen.flags.load(Ordering::Relaxed) & NAMED != 0
    }
}

/// First-in first-out list of records through their `link`. Not synchronised.
#[derive(Default)]
pub(crate) struct RecordList {
    head: Option<RecordRef>,
    tail: Option<RecordRef>,
    len: usize,
}

impl RecordList {
    pub(crate) const fn new() -> RecordList {
        RecordList {
            head: None,
            tail: None,
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The caller holds `record` (it is in no other queue).
    pub(crate) fn push_back(&mut self, record: RecordRef) {
        record.get().link.set(None);
        match self.tail {
            Some(tail) => tail.get().link.set(Some(record)),
            None => self.head = Some(record),
        }
        self.tail = Some(record);
        self.len += 1;
    }

    /// As [`Self::push_back`], at the front.
    pub(crate) fn push_front(&mut self, record: RecordRef) {
        record.get().link.set(self.head);
        self.head = Some(record);
        if self.tail.is_none() {
            self.tail = Some(record);
        }
        self.len += 1;
    }

    pub(crate) fn pop_front(&mut self) -> Option<RecordRef> {
        let record = self.head?;
        self.head = record.get().link.take();
        if self.head.is_none() {
            self.tail = None;
        }
        self.len -= 1;
        Some(record)
    }

    /// The same records, the first on top.
    pub(crate) fn into_stack(self) -> RecordStack {
        RecordStack {
            top: self.head,
            len: self.len,
        }
    }

    /// Moves everything of `other` to the end of `self`.
    pub(crate) fn append(&mut self, other: &mut RecordList) {
        let other = std::mem::take(other);
        let Some(first) = other.head else { return };
        match self.tail {
            Some(tail) => tail.get().link.set(Some(first)),
            None => self.head = Some(first),
        }
        self.tail = other.tail;
        self.len += other.len;
    }
}

/// Last-in first-out list of records through their `link`. Not synchronised.
#[derive(Default)]
pub(crate) struct RecordStack {
    top: Option<RecordRef>,
    len: usize,
}

impl RecordStack {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The caller holds `record` (it is in no other queue).
    #[inline]
    pub(crate) fn push(&mut self, record: RecordRef) {
        record.get().link.set(self.top);
        self.top = Some(record);
        self.len += 1;
    }

    #[inline]
    pub(crate) fn pop(&mut self) -> Option<RecordRef> {
        let record = self.top?;
        self.top = record.get().link.get();
        self.len -= 1;
        // Who takes one often takes another soon, and must read its link.
        if let Some(next) = self.top {
            prefetch::line(next.as_ptr());
        }
        Some(record)
    }
}
