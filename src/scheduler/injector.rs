//! The injector: work for whichever core comes first, from threads that have no core.
//!
//! An intrusive list behind a lock, with its length beside it so that looking costs a load. Cores take a share in one go,
//! so the lock is taken once per batch by them; crossbeam's injector would allocate a block per 63 entries instead.

use crate::primitive::atomic::{AtomicUsize, Ordering};
use crate::vthread::record::{RecordList, RecordRef};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// See the module text.
pub(crate) struct Injector {
    list: Mutex<RecordList>,
    len: AtomicUsize,
}

// SAFETY: the records in the list are held by it, and it is behind a lock.
unsafe impl Send for Injector {}
// SAFETY: as above.
unsafe impl Sync for Injector {}

impl Injector {
    pub(crate) fn new() -> Injector {
        Injector {
            list: Mutex::new(RecordList::new()),
            len: AtomicUsize::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, RecordList> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// Adds a vthread that the caller holds.
    pub(crate) fn push(&self, record: RecordRef) {
        let mut list = self.lock();
        list.push_back(record);
        self.len.store(list.len(), Ordering::Release);
    }

    /// Adds all of `records`, in order.
    pub(crate) fn push_all(&self, records: &mut RecordList) {
        let mut list = self.lock();
        list.append(records);
        self.len.store(list.len(), Ordering::Release);
    }

    /// Takes up to `max` of the oldest into `into`.
    pub(crate) fn take(&self, max: usize, into: &mut RecordList) {
        if self.len() == 0 {
            return;
        }
        let mut list = self.lock();
        for _ in 0..max {
            match list.pop_front() {
                Some(record) => into.push_back(record),
                None => break,
            }
        }
        self.len.store(list.len(), Ordering::Release);
    }
}
