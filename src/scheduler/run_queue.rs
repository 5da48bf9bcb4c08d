//! The run queues of a core: a LIFO slot, a deque of resumed vthreads, first in, first out, and a deque of new ones.
//!
//! Resumed vthreads go before new ones, so that the number of stacks in use stays low; new ones are taken youngest first
//! by their owner (depth first) and oldest first by thieves.
//!
//! A core without others is **solitary**: no thief and no monitor takes anything from its queues, so the LIFO slot and the new
//! vthreads need no locked operations and no fences. Other threads only read lengths.

use super::deque::{self, Taken};
use crate::primitive::atomic::{AtomicPtr, AtomicU64, Ordering};
use crate::vthread::record::{Record, RecordRef};
use std::ptr::{self, NonNull};

/// Resumed vthreads that wait here are worth a move to another core when it takes about this long to get to the last of
/// them. Below, moving them costs more than it saves: what they work on, sockets above all, is in this core's caches
/// (measured with HTTP at 64 connections on two cores: a third of the CPU time per request).
const WORTH_NS: u64 = 50_000;
/// The length of a mount before any is known: long, so that nothing waits for the first.
const MOUNT_GUESS_NS: u64 = WORTH_NS;
/// New vthreads that there is room for at first, and most that a thief takes at once (crossbeam's numbers).
const ROOM: usize = 64;
const STEAL_MAX: usize = 32;

/// What others see of a core's queues.
pub(crate) struct Remote {
    /// The vthread that was woken last by one running here. Thieves may take it only from a core that is stuck.
    lifo: AtomicPtr<Record>,
    resumed: deque::Thieves<Record>,
    new: deque::Thieves<Record>,
    /// Nobody but the owner takes anything.
    solitary: bool,
    /// How long a mount on this core takes, on average of the last dozen; written by the owner.
    mount_ns: AtomicU64,
}

/// The owner's ends.
pub(crate) struct RunQueue {
    resumed: deque::Owner<Record>,
    new: deque::Owner<Record>,
}

/// What a thief came back with.
pub(crate) enum Stolen {
    /// One to run now; `more` others were moved to the thief's own queues.
    Some {
        record: RecordRef,
        more: usize,
    },
    None,
    /// Another thread was in the way; worth another try.
    Retry,
}

/// A pair of ends of empty queues. `solitary`: the runtime has no other core.
pub(crate) fn new(solitary: bool) -> (RunQueue, Remote) {
    let (resumed, resumed_remote) = deque::new(ROOM, solitary);
    let (new, new_remote) = deque::new(ROOM, solitary);
    let remote = Remote {
        lifo: AtomicPtr::new(ptr::null_mut()),
        resumed: resumed_remote,
        new: new_remote,
        solitary,
        mount_ns: AtomicU64::new(MOUNT_GUESS_NS),
    };
    (RunQueue { resumed, new }, remote)
}

impl Remote {
    /// Puts `record` into the LIFO slot and returns the one it displaces. By the owner.
    #[inline]
    pub(crate) fn replace_lifo(&self, record: RecordRef) -> Option<RecordRef> {
        let old = self.lifo.load(Ordering::Relaxed);
        // Only the owner fills the slot, so an empty one stays empty until it does.
        if self.solitary || old.is_null() {
            // Release: a thief that takes it sees the record.
            self.lifo.store(record.as_ptr(), Ordering::Release);
            // SAFETY: only records are stored.
            return NonNull::new(old).map(|r| unsafe { RecordRef::from_raw(r) });
        }
        // As above, and acquire for the one that is displaced.
        let old = self.lifo.swap(record.as_ptr(), Ordering::AcqRel);
        // SAFETY: only records are stored.
        NonNull::new(old).map(|r| unsafe { RecordRef::from_raw(r) })
    }

    /// Takes the LIFO slot: the owner, or a thief of a stuck core.
    #[inline]
    pub(crate) fn take_lifo(&self) -> Option<RecordRef> {
        let seen = self.lifo.load(Ordering::Relaxed);
        if seen.is_null() {
            return None;
        }
        let taken = if self.solitary {
            self.lifo.store(ptr::null_mut(), Ordering::Relaxed);
            seen
        } else {
            self.lifo.swap(ptr::null_mut(), Ordering::Acquire)
        };
        // SAFETY: only records are stored.
        NonNull::new(taken).map(|r| unsafe { RecordRef::from_raw(r) })
    }

    /// Whether a thief should take something (the LIFO slot does not count). The owner of anything else is awake and gets
    /// to it soon; if it does not, the monitor opens it to thieves.
    pub(crate) fn has_stealable(&self) -> bool {
        self.new.len() > 0 || self.is_worth_stealing()
    }

    /// Whether the resumed vthreads here are worth a move.
    pub(crate) fn is_worth_stealing(&self) -> bool {
        let waiting = self.resumed.len() as u64;
        waiting > 0 && waiting.saturating_mul(self.mount_ns.load(Ordering::Relaxed)) >= WORTH_NS
    }

    /// The owner is stuck in a mount: whatever waits is worth a move, until it counts the end of that mount. True if
    /// something waits.
    pub(crate) fn open_to_thieves(&self) -> bool {
        self.mount_ns.store(WORTH_NS, Ordering::Relaxed);
        self.has_stealable()
    }

    /// A mount on this core took `ns`. By the owner.
    #[inline]
    pub(crate) fn count_mount(&self, ns: u64) {
        let average = self.mount_ns.load(Ordering::Relaxed);
        self.mount_ns
            .store(average - average / 8 + ns / 8, Ordering::Relaxed);
    }

    /// About how many vthreads wait here.
    pub(crate) fn len(&self) -> usize {
        self.resumed.len()
            + self.new.len()
            + usize::from(!self.lifo.load(Ordering::Relaxed).is_null())
    }
}

impl RunQueue {
    #[inline]
    pub(crate) fn push_resumed(&self, record: RecordRef) {
        self.resumed.push(record.as_non_null());
    }

    #[inline]
    pub(crate) fn push_new(&self, record: RecordRef) {
        self.new.push(record.as_non_null());
    }

    #[inline]
    pub(crate) fn pop_resumed(&self) -> Option<RecordRef> {
        // SAFETY: only records are pushed.
        self.resumed
            .pop_oldest()
            .map(|r| unsafe { RecordRef::from_raw(r) })
    }

    #[inline]
    pub(crate) fn pop_new(&self) -> Option<RecordRef> {
        // SAFETY: only records are pushed.
        self.new.pop().map(|r| unsafe { RecordRef::from_raw(r) })
    }

    /// The oldest new vthread, which the owner's own order would reach last.
    pub(crate) fn pop_oldest_new(&self) -> Option<RecordRef> {
        // SAFETY: only records are pushed.
        self.new
            .pop_oldest()
            .map(|r| unsafe { RecordRef::from_raw(r) })
    }

    /// Steals half of what `victim` has, resumed ones first: those only if they are worth it.
    pub(crate) fn steal_from(&self, victim: &Remote) -> Stolen {
        let mut retry = false;
        if victim.is_worth_stealing() {
            match steal_half(&victim.resumed, &self.resumed) {
                Stolen::None => {}
                Stolen::Retry => retry = true,
                stolen => return stolen,
            }
        }
        match steal_half(&victim.new, &self.new) {
            Stolen::None if retry => Stolen::Retry,
            stolen => stolen,
        }
    }
}

/// One by one, since the owner takes entries without asking for more than one.
fn steal_half(from: &deque::Thieves<Record>, to: &deque::Owner<Record>) -> Stolen {
    let record = match from.take_oldest() {
        // SAFETY: only records are pushed.
        Taken::Entry(r) => unsafe { RecordRef::from_raw(r) },
        Taken::Empty => return Stolen::None,
        Taken::Raced => return Stolen::Retry,
    };
    let most = (from.len() / 2).min(STEAL_MAX);
    let mut more = 0;
    while more < most
        && let Taken::Entry(r) = from.take_oldest()
    {
        to.push(r);
        more += 1;
    }
    Stolen::Some { record, more }
}
