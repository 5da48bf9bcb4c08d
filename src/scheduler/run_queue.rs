//! The run queues of a core: a LIFO slot, a FIFO deque of resumed vthreads, and a deque of new ones. The only file that
//! names crossbeam-deque.
//!
//! Resumed vthreads go before new ones, so that the number of stacks in use stays low; new ones are taken youngest first
//! by their owner (depth first) and oldest first by thieves.

use crate::primitive::atomic::{AtomicPtr, Ordering};
use crate::vthread::record::{Record, RecordRef};
use crossbeam_deque::{Steal, Stealer, Worker};
use std::ptr::{self, NonNull};

/// What others see of a core's queues.
pub(crate) struct Remote {
    /// The vthread that was woken last by one running here. Thieves may take it only from a core that is stuck.
    lifo: AtomicPtr<Record>,
    resumed: Stealer<RecordRef>,
    new: Stealer<RecordRef>,
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

    /// Whether a thief would find something (the LIFO slot does not count).
    pub(crate) fn has_stealable(&self) -> bool {
        !self.resumed.is_empty() || !self.new.is_empty()
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

    pub(crate) fn len(&self) -> usize {
        self.resumed.len() + self.new.len()
    }

    /// Steals half of what `victim` has, resumed ones first.
    pub(crate) fn steal_from(&self, victim: &Remote) -> Stolen {
        let mut retry = false;
        for (stealer, own) in [(&victim.resumed, &self.resumed), (&victim.new, &self.new)] {
            let before = own.len();
            match stealer.steal_batch_and_pop(own) {
                Steal::Success(record) => {
                    return Stolen::Some {
                        record,
                        more: own.len().saturating_sub(before),
                    };
                }
                Steal::Empty => {}
                Steal::Retry => retry = true,
            }
        }
        if retry { Stolen::Retry } else { Stolen::None }
    }
}
