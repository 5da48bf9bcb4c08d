//! Which cores sleep, and whom to wake for new work.
//!
//! One word counts the cores that are awake and those of them that search for work elsewhere; a locked list says which
//! sleep. The rules:
//!
//! * New stealable work wakes a core only if one sleeps and nobody searches: a searcher is bound to find it. So a burst
//!   wakes once, and the searcher that finds work wakes the next ([`Idle::end_search`]).
//! * At most half of the cores search at a time.
//! * **no lost wake**: who adds work publishes it, then a full fence, then reads the word ([`Idle::pick`]); who goes to
//!   sleep changes the word, then a full fence, then looks at all queues once more. One of the two sees the other.

use crate::primitive::atomic::{AtomicU32, Ordering};
use crate::primitive::full_fence;
use crate::primitive::sync::{Mutex, MutexGuard};

const SEARCHER: u32 = 1 << 16;
const AWAKE: u32 = 1;
const AWAKE_MASK: u32 = SEARCHER - 1;

/// See the module text.
pub(crate) struct Idle {
    /// Searching cores in the high half, awake ones (searching or not) in the low half.
    word: AtomicU32,
    sleepers: Mutex<Vec<u32>>,
    cores: u32,
}

impl Idle {
    /// All `cores` are awake and none searches.
    pub(crate) fn new(cores: usize) -> Idle {
        let cores = cores as u32;
        Idle {
            word: AtomicU32::new(cores),
            sleepers: Mutex::new(Vec::with_capacity(cores as usize)),
            cores,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u32>> {
        self.sleepers.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn wants_waking(&self) -> bool {
        let word = self.word.load(Ordering::SeqCst);
        word < SEARCHER && word < self.cores
    }

    /// How many cores are awake.
    pub(crate) fn awake(&self) -> usize {
        (self.word.load(Ordering::Relaxed) & AWAKE_MASK) as usize
    }

    /// As [`Self::awake`], in the order that going to sleep by it needs.
    pub(crate) fn awake_now(&self) -> usize {
        (self.word.load(Ordering::SeqCst) & AWAKE_MASK) as usize
    }

    /// After work was published: the core to wake, if one is needed. It counts as awake and searching from now on, and
    /// must be woken.
    #[inline]
    pub(crate) fn pick(&self) -> Option<usize> {
        full_fence();
        if self.wants_waking() {
            self.pick_slow()
        } else {
            None
        }
    }

    #[cold]
    fn pick_slow(&self) -> Option<usize> {
        let mut sleepers = self.lock();
        if !self.wants_waking() {
            return None;
        }
        let core = sleepers.pop()?;
        self.word.fetch_add(SEARCHER + AWAKE, Ordering::SeqCst);
        Some(core as usize)
    }

    /// A core wants to search for work elsewhere; false if enough do already.
    pub(crate) fn begin_search(&self) -> bool {
        let word = self.word.load(Ordering::SeqCst);
        // Racing searchers may exceed the half by a few: it is a throttle, not a guarantee.
        if 2 * (word >> 16) >= self.cores {
            return false;
        }
        self.word.fetch_add(SEARCHER, Ordering::SeqCst);
        true
    }

    /// A searching core has found work or will sleep; true if it was the last one, who must wake another if it found work.
    pub(crate) fn end_search(&self) -> bool {
        self.word.fetch_sub(SEARCHER, Ordering::SeqCst) >> 16 == 1
    }

    /// A core goes to sleep. It must look at all queues once more before it does.
    pub(crate) fn sleep(&self, core: usize, searching: bool) {
        let mut sleepers = self.lock();
        let less = if searching { SEARCHER + AWAKE } else { AWAKE };
        self.word.fetch_sub(less, Ordering::SeqCst);
        sleepers.push(core as u32);
        drop(sleepers);
        full_fence();
    }

    /// A core is up again, for whatever reason. True if it was picked, and so counts as searching.
    pub(crate) fn wake_up(&self, core: usize) -> bool {
        let mut sleepers = self.lock();
        match sleepers.iter().position(|c| *c == core as u32) {
            Some(at) => {
                sleepers.remove(at);
                self.word.fetch_add(AWAKE, Ordering::SeqCst);
                false
            }
            None => true,
        }
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicUsize;

    /// A producer adds two items while a core that has found nothing goes to sleep: when both are done, either the core
    /// is awake (it saw the work or was picked), or no work is left.
    #[test]
    fn loom_work_published_while_a_core_falls_asleep_is_never_missed() {
        loom::model(|| {
            let idle = Arc::new(Idle::new(2));
            let queue = Arc::new(AtomicUsize::new(0));
            let producer = {
                let (idle, queue) = (idle.clone(), queue.clone());
                loom::thread::spawn(move || {
                    let mut picked = 0;
                    for _ in 0..2 {
                        queue.fetch_add(1, Ordering::Release);
                        picked += usize::from(idle.pick().is_some());
                    }
                    picked
                })
            };
            // The other core: searches, finds nothing, sleeps, looks once more.
            let searching = idle.begin_search();
            idle.sleep(1, searching);
            let saw = queue.load(Ordering::Acquire) > 0;
            let was_picked = saw && idle.wake_up(1);
            let picked = producer.join().unwrap();
            assert!(
                picked <= 1 || saw,
                "one sleeper is picked at most once while it sleeps"
            );
            if !saw {
                assert_eq!(picked, 1, "the core sleeps for ever beside work");
            }
            if was_picked {
                assert_eq!(picked, 1);
            }
        });
    }

    /// Two producers and one sleeper: it is picked by exactly one of them.
    #[test]
    fn loom_a_burst_wakes_one_sleeper_once() {
        loom::model(|| {
            let idle = Arc::new(Idle::new(3));
            idle.sleep(2, false);
            let producers: Vec<_> = (0..2)
                .map(|_| {
                    let idle = idle.clone();
                    loom::thread::spawn(move || usize::from(idle.pick().is_some()))
                })
                .collect();
            let picked: usize = producers.into_iter().map(|p| p.join().unwrap()).sum();
            assert_eq!(picked, 1);
            assert!(idle.wake_up(2));
            assert!(idle.end_search());
            assert_eq!(idle.awake(), 3);
        });
    }
}
