//! Whether the monitor sleeps, and how a core rouses it.
//!
//! **No missed rousing**: a core counts itself awake (`idle`) and then looks at the monitor's state; the monitor says that it
//! sleeps and then looks whether a core is awake, each with a full fence in between. So one sees the other.

use super::idle::Idle;
use crate::primitive::atomic::{AtomicU32, Ordering};
use crate::primitive::full_fence;
use std::sync::OnceLock;
use std::thread::Thread;

const ASLEEP: u32 = 0;
const AWAKE: u32 = 1;

/// Whether the monitor sleeps, and how to wake it.
pub(crate) struct Monitor {
    state: AtomicU32,
    thread: OnceLock<Thread>,
}

impl Monitor {
    pub(crate) fn new() -> Monitor {
        Monitor {
            state: AtomicU32::new(AWAKE),
            thread: OnceLock::new(),
        }
    }

    /// A core has woken up and counted itself awake: the monitor must be awake as well.
    pub(crate) fn rouse(&self) {
        if Self::must_unpark(&self.state) {
            self.unpark();
        }
    }

    /// Makes the state awake; true if it was asleep.
    fn must_unpark(state: &AtomicU32) -> bool {
        // See *no missed rousing*; the other fence is in `may_sleep`.
        full_fence();
        state.load(Ordering::SeqCst) == ASLEEP && state.swap(AWAKE, Ordering::SeqCst) == ASLEEP
    }

    /// Lets the monitor see that the runtime exits.
    pub(crate) fn unpark(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Names the calling thread as the one to unpark.
    pub(crate) fn set_thread(&self) {
        let _ = self.thread.set(std::thread::current());
    }

    /// The monitor goes to sleep; returns when it was roused, or `exiting` says so.
    pub(crate) fn doze(&self, idle: &Idle, exiting: impl Fn() -> bool) {
        let mut may_sleep = Self::may_sleep(&self.state, idle);
        while may_sleep && !exiting() {
            std::thread::park();
            may_sleep = self.state.load(Ordering::SeqCst) == ASLEEP && idle.awake_now() == 0;
        }
        self.state.store(AWAKE, Ordering::SeqCst);
    }

    /// Says that the monitor sleeps; false if it must not, since a core is awake.
    fn may_sleep(state: &AtomicU32, idle: &Idle) -> bool {
        state.swap(ASLEEP, Ordering::SeqCst);
        // See *no missed rousing*; the other fence is in `must_unpark`.
        full_fence();
        state.load(Ordering::SeqCst) == ASLEEP && idle.awake_now() == 0
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;
    use loom::sync::Arc;

    /// A core wakes up while the monitor falls asleep: the monitor does not stay asleep beside an awake core.
    #[test]
    fn loom_the_monitor_does_not_sleep_through_a_core_that_wakes() {
        loom::model(|| {
            let idle = Arc::new(Idle::new(1));
            let state = Arc::new(AtomicU32::new(AWAKE));
            idle.sleep(0, false);
            let core = {
                let (idle, state) = (idle.clone(), state.clone());
                loom::thread::spawn(move || {
                    idle.wake_up(0);
                    Monitor::must_unpark(&state)
                })
            };
            let sleeps = Monitor::may_sleep(&state, &idle);
            let unparked = core.join().unwrap();
            assert!(
                !sleeps || unparked,
                "asleep beside an awake core, and not told"
            );
        });
    }
}
