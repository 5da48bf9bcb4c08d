//! The run queues of a core: a LIFO slot, a FIFO deque of resumed vthreads, and a deque of new ones. The only file that
//! names crossbeam-deque.
//!
//! Resumed vthreads go before new ones, so that the number of stacks in use stays low; new ones are taken youngest first
//! by their owner (depth first) and oldest first by thieves.

use crate::primitive::atomic::{AtomicPtr, AtomicU64, Ordering};
use crate::vthread::record::{Record, RecordRef};
use crossbeam_deque::{Steal, Stealer, Worker};
use std::ptr::{self, NonNull};

/// Resumed vthreads that wait here are worth a move to another core when it takes about this long to get to the last of
/// them. Below, moving them costs more than it saves: what they work on, sockets above all, is in this core's caches
/// (measured with HTTP at 64 connections on two cores: a third of the CPU time per request).
const WORTH_NS: u64 = 50_000;
/// The length of a mount before any is known: long, so that nothing waits for the first.
const MOUNT_GUESS_NS: u64 = WORTH_NS;

/// What others see of a core's queues.
pub(crate) struct Remote {
    /// The vthread that was woken last by one running here. Thieves may take it only from a core that is stuck.
    lifo: AtomicPtr<Record>,
    resumed: Stealer<RecordRef>,
    new: Stealer<RecordRef>,
    /// How long a mount on this core takes, on average of the last dozen; written by the owner.
    mount_ns: AtomicU64,
}

/// The owner's ends.
pub(crate) struct RunQueue {
    resumed: Worker<RecordRef>,
    new: Worker<RecordRef>,
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

/// A pair of ends of empty queues.
pub(crate) fn new() -> (RunQueue, Remote) {
    let (resumed, new) = (Worker::new_fifo(), Worker::new_lifo());
    let remote = Remote {
        lifo: AtomicPtr::new(ptr::null_mut()),
        resumed: resumed.stealer(),
        new: new.stealer(),
        mount_ns: AtomicU64::new(MOUNT_GUESS_NS),
    };
    (RunQueue { resumed, new }, remote)
}

impl Remote {
    /// Puts `record` into the LIFO slot and returns the one it displaces. By the owner.
    #[inline]
    pub(crate) fn replace_lifo(&self, record: RecordRef) -> Option<RecordRef> {
        // Only the owner fills the slot, so an empty one stays empty until it does.
        if self.lifo.load(Ordering::Relaxed).is_null() {
            // Release: a thief that takes it sees the record.
            self.lifo.store(record.as_ptr(), Ordering::Release);
            return None;
        }
        // As above, and acquire for the one that is displaced.
        let old = self.lifo.swap(record.as_ptr(), Ordering::AcqRel);
        // SAFETY: only records are stored.
        NonNull::new(old).map(|r| unsafe { RecordRef::from_raw(r) })
    }

    /// Takes the LIFO slot: the owner, or a thief of a stuck core.
    #[inline]
    pub(crate) fn take_lifo(&self) -> Option<RecordRef> {
        if self.lifo.load(Ordering::Relaxed).is_null() {
            return None;
        }
        let taken = self.lifo.swap(ptr::null_mut(), Ordering::Acquire);
        // SAFETY: only records are stored.
        NonNull::new(taken).map(|r| unsafe { RecordRef::from_raw(r) })
    }

    /// Whether a thief should take something (the LIFO slot does not count). The owner of anything else is awake and gets
    /// to it soon; if it does not, the monitor opens it to thieves.
    pub(crate) fn has_stealable(&self) -> bool {
        !self.new.is_empty() || self.is_worth_stealing()
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
        self.resumed.push(record);
    }

    #[inline]
    pub(crate) fn push_new(&self, record: RecordRef) {
        self.new.push(record);
    }

    #[inline]
    pub(crate) fn pop_resumed(&self) -> Option<RecordRef> {
        self.resumed.pop()
    }

    #[inline]
    pub(crate) fn pop_new(&self) -> Option<RecordRef> {
        self.new.pop()
    }

    /// The oldest new vthread, which the owner's own order would reach last.
    pub(crate) fn pop_oldest_new(&self, remote: &Remote) -> Option<RecordRef> {
        loop {
            match remote.new.steal() {
                Steal::Success(record) => return Some(record),
                Steal::Empty => return None,
                Steal::Retry => {}
            }
        }
    }

    /// Steals half of what `victim` has, resumed ones first: those only if they are worth it.
    pub(crate) fn steal_from(&self, victim: &Remote) -> Stolen {
        let mut retry = false;
        let resumed = victim.is_worth_stealing();
        let queues = [(&victim.resumed, &self.resumed), (&victim.new, &self.new)];
        for (stealer, own) in queues.into_iter().skip(usize::from(!resumed)) {
            let before = own.len();
            match stealer.steal_batch_and_pop(own) {
                Steal::Success(record) => {
                    let more = own.len().saturating_sub(before);
                    return Stolen::Some { record, more };
                }
                Steal::Empty => {}
                Steal::Retry => retry = true,
            }
        }
        if retry { Stolen::Retry } else { Stolen::None }
    }
}
