//! The injector: work for whichever core comes first, from threads that have no core.
//!
//! Two intrusive lists behind a lock, with their lengths beside them so that looking costs a load: vthreads that go on after
//! a wait, and new ones. The former go first, here as in the queues of a core: they come from a core that is stuck, and
//! should not wait for vthreads that may get stuck as well. Cores take a share in one go, so the lock is taken once per
//! batch by them; crossbeam's injector would allocate a block per 63 entries instead.

use crate::primitive::atomic::{AtomicUsize, Ordering};
use crate::vthread::record::{RecordList, RecordRef};
use crate::vthread::state::Phase;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Default)]
struct Lists {
    resumed: RecordList,
    new: RecordList,
}

impl Lists {
    fn list_of(&mut self, record: RecordRef) -> &mut RecordList {
        match record.get().state.read().phase() {
            Phase::Created => &mut self.new,
            _ => &mut self.resumed,
        }
    }
}

/// See the module text.
pub(crate) struct Injector {
    lists: Mutex<Lists>,
    resumed: AtomicUsize,
    new: AtomicUsize,
}

// SAFETY: the records in the lists are held by them, and they are behind a lock.
unsafe impl Send for Injector {}
// SAFETY: as above.
unsafe impl Sync for Injector {}

impl Injector {
    pub(crate) fn new() -> Injector {
        Injector {
            lists: Mutex::default(),
            resumed: AtomicUsize::new(0),
            new: AtomicUsize::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, lists: &MutexGuard<'_, Lists>) {
        self.resumed.store(lists.resumed.len(), Ordering::Release);
        self.new.store(lists.new.len(), Ordering::Release);
    }

    pub(crate) fn len(&self) -> usize {
        self.len_resumed() + self.new.load(Ordering::Acquire)
    }

    /// Of these, those that go on after a wait.
    pub(crate) fn len_resumed(&self) -> usize {
        self.resumed.load(Ordering::Acquire)
    }

    /// Adds a vthread that the caller holds.
    pub(crate) fn push(&self, record: RecordRef) {
        let mut lists = self.lock();
        lists.list_of(record).push_back(record);
        self.publish(&lists);
    }

    /// Adds all of `records`, in order.
    pub(crate) fn push_all(&self, records: &mut RecordList) {
        let mut lists = self.lock();
        while let Some(record) = records.pop_front() {
            lists.list_of(record).push_back(record);
        }
        self.publish(&lists);
    }

    /// Takes up to `max` of the oldest into `into`; new ones only if there are no others, or they are `fresh`'s turn.
    pub(crate) fn take(&self, max: usize, fresh: bool, into: &mut RecordList) {
        if self.len() == 0 {
            return;
        }
        let mut lists = self.lock();
        let from = if lists.resumed.len() > 0 && !(fresh && lists.new.len() > 0) {
            &mut lists.resumed
        } else {
            &mut lists.new
        };
        for _ in 0..max {
            match from.pop_front() {
                Some(record) => into.push_back(record),
                None => break,
            }
        }
        self.publish(&lists);
    }
}
