//! The inbox of a core: many producers, one consumer, lock-free, first in first out.
//!
//! Producers push onto a stack of records (a Treiber stack through `Record::link`); the owner takes the whole stack at
//! once and reverses it. No ABA: nothing is ever popped singly.

use crate::primitive::atomic::{AtomicPtr, Ordering};
use crate::vthread::record::{Record, RecordList, RecordRef};
use std::ptr::{self, NonNull};

/// The producers' end, visible to all.
pub(crate) struct Inbox(AtomicPtr<Record>);

impl Inbox {
    pub(crate) fn new() -> Inbox {
        Inbox(AtomicPtr::new(ptr::null_mut()))
    }

    /// Adds a vthread that the caller holds.
    pub(crate) fn push(&self, record: RecordRef) {
        let mut head = self.0.load(Ordering::Relaxed);
        loop {
            // SAFETY: a non-null head is a record that was pushed here.
            let next = NonNull::new(head).map(|r| unsafe { RecordRef::from_raw(r) });
            record.get().link.set(next);
            // Release: the record and its link are seen by the owner. SeqCst is not needed here: who pushes wakes the
            // owner through its parker.
            match self.0.compare_exchange_weak(
                head,
                record.as_ptr(),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.load(Ordering::Acquire).is_null()
    }

    /// The owner: moves all that is there to the end of `into`, oldest first. Returns how many.
    pub(crate) fn drain(&self, into: &mut RecordList) -> usize {
        if self.0.load(Ordering::Relaxed).is_null() {
            return 0;
        }
        // Acquire: pairs with the release in `push`.
        let mut head = NonNull::new(self.0.swap(ptr::null_mut(), Ordering::Acquire));
        let mut reversed = RecordList::new();
        while let Some(at) = head {
            // SAFETY: records that were pushed here; they are ours since the swap.
            let record = unsafe { RecordRef::from_raw(at) };
            head = record
                .get()
                .link
                .take()
                .and_then(|next| NonNull::new(next.as_ptr()));
            reversed.push_front(record);
        }
        let count = reversed.len();
        into.append(&mut reversed);
        count
    }
}
