//! How a core sleeps and is woken: one word per core, beside the driver's wait.
//!
//! ```text
//!             prepare                 driver waits                 finish
//!   EMPTY ------------> SLEEPING ------------------------------> EMPTY
//!     |                    | wake: the driver's waker is used       ^
//!     +--- wake ---> NOTIFIED  <-------------------------------+    | the next prepare, or finish, takes it
//! ```
//!
//! A wake that comes before the core sleeps is kept, so the core does not sleep; one that comes while it sleeps ends the
//! driver's wait, at the price of one system call, paid only then.

use crate::primitive::atomic::{AtomicU32, Ordering};

const EMPTY: u32 = 0;
const SLEEPING: u32 = 1;
const NOTIFIED: u32 = 2;

/// See the module text.
pub(crate) struct Parker(AtomicU32);

/// Whether a core may sleep now.
#[must_use]
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Prepared {
    Sleep,
    /// A wake came before.
    Notified,
}

impl Parker {
    pub(crate) fn new() -> Parker {
        Parker(AtomicU32::new(EMPTY))
    }

    /// The core, before it waits in the driver.
    pub(crate) fn prepare(&self) -> Prepared {
        // Acquire on failure: what the waker did before is seen. Release is not needed: sleeping publishes nothing.
        match self
            .0
            .compare_exchange(EMPTY, SLEEPING, Ordering::Acquire, Ordering::Acquire)
        {
            Ok(_) => Prepared::Sleep,
            Err(_) => {
                self.0.swap(EMPTY, Ordering::Acquire);
                Prepared::Notified
            }
        }
    }

    /// The core, after the driver's wait: no wake is outstanding from here.
    pub(crate) fn finish(&self) {
        self.0.swap(EMPTY, Ordering::Acquire);
    }

    /// Anyone. True: the core sleeps, and the caller must use the driver's waker.
    pub(crate) fn wake(&self) -> bool {
        // Release: what the waker did before is seen by the core.
        self.0.swap(NOTIFIED, Ordering::AcqRel) == SLEEPING
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicUsize;

    /// A waker against a core that looks for work, and sleeps if there is none: it never sleeps through the wake, and the
    /// driver's waker is used at most once.
    #[test]
    fn loom_a_wake_is_never_slept_through() {
        loom::model(|| {
            let parker = Arc::new(Parker::new());
            let work = Arc::new(AtomicUsize::new(0));
            let driver = Arc::new(AtomicUsize::new(0));
            let waker = {
                let (parker, work, driver) = (parker.clone(), work.clone(), driver.clone());
                loom::thread::spawn(move || {
                    work.store(1, Ordering::Relaxed);
                    if parker.wake() {
                        driver.fetch_add(1, Ordering::Relaxed);
                    }
                })
            };
            let mut slept = false;
            let mut seen = 0;
            for _ in 0..2 {
                if parker.prepare() == Prepared::Sleep {
                    slept = true;
                    // The driver's wait would end here only if its waker is used: that is checked below.
                    parker.finish();
                }
                seen = work.load(Ordering::Relaxed);
            }
            waker.join().unwrap();
            let told = driver.load(Ordering::Relaxed);
            assert!(told <= usize::from(slept));
            if seen == 0 {
                // It would sleep on: then the driver was told, or the wake is kept for the next prepare.
                assert!(told == 1 || parker.prepare() == Prepared::Notified);
            }
        });
    }

    /// Two wakers: at most one of them uses the driver's waker for one sleep.
    #[test]
    fn loom_two_wakes_of_one_sleep_cost_one_call() {
        loom::model(|| {
            let parker = Arc::new(Parker::new());
            assert_eq!(parker.prepare(), Prepared::Sleep);
            let wakers: Vec<_> = (0..2)
                .map(|_| {
                    let parker = parker.clone();
                    loom::thread::spawn(move || usize::from(parker.wake()))
                })
                .collect();
            let told: usize = wakers.into_iter().map(|w| w.join().unwrap()).sum();
            assert_eq!(told, 1);
            parker.finish();
            assert_eq!(parker.prepare(), Prepared::Sleep);
        });
    }
}
