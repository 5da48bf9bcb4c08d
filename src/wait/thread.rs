//! The OS thread as a waiter: it blocks.

use super::{Claimed, Outcome, Target, TargetVtable, Wake};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::Thread;
use std::time::Duration;

const PENDING: u8 = 0;
/// Added to the outcome by the claim; the owner goes on only when the wake has taken it away again, so that it outlives
/// the waker's last look at it.
const CLAIMED: u8 = 0x80;

static VTABLE: TargetVtable = TargetVtable { claim, wake };

/// A wait of the calling OS thread. Lives on its stack.
pub(crate) struct ThreadWaiter {
    state: AtomicU8,
    thread: Thread,
}

impl ThreadWaiter {
    pub(crate) fn new() -> ThreadWaiter {
        ThreadWaiter {
            state: AtomicU8::new(PENDING),
            thread: std::thread::current(),
        }
    }

    /// The target of this wait. The waiter must not move or end before the wait has.
    pub(crate) fn target(&self) -> Target {
        // SAFETY: `data` is a ThreadWaiter, as VTABLE expects; `block` returns only after the claim.
        unsafe { Target::new(NonNull::from(self).cast(), 0, &VTABLE) }
    }

    /// Blocks until the wait is claimed, or claims it itself when `deadline_ns` passes (`now_ns` is the clock).
    pub(crate) fn block(&self, deadline_ns: u64, now_ns: fn() -> u64) -> Outcome {
        loop {
            // Acquire: pairs with the release in `wake`, so what the waker did is seen.
            let state = self.state.load(Ordering::Acquire);
            if state != PENDING && state & CLAIMED == 0 {
                return Outcome::from_bits(u64::from(state)).unwrap_or(Outcome::Canceled);
            }
            if deadline_ns == u64::MAX || state != PENDING {
                std::thread::park();
                continue;
            }
            let now = now_ns();
            if now < deadline_ns {
                std::thread::park_timeout(Duration::from_nanos(deadline_ns - now));
            } else if self.withdraw() {
                return Outcome::TimedOut;
            }
        }
    }

    /// Ends the wait before anyone else does; false if a claim was first (then `block` returns its outcome).
    pub(crate) fn withdraw(&self) -> bool {
        let ended = Outcome::TimedOut as u8;
        self.state
            .compare_exchange(PENDING, ended, Ordering::Acquire, Ordering::Acquire)
            .is_ok()
    }
}

unsafe fn claim(data: NonNull<()>, _seq: u64, outcome: Outcome) -> Claimed {
    // SAFETY: `data` came from `target` and its wait has not ended (contract of `Target::claim`).
    let waiter = unsafe { data.cast::<ThreadWaiter>().as_ref() };
    let claimed = outcome as u8 | CLAIMED;
    match waiter
        .state
        .compare_exchange(PENDING, claimed, Ordering::AcqRel, Ordering::Relaxed)
    {
        // SAFETY: won just now.
        Ok(_) => Claimed::Wake(unsafe { Wake::new(data, &VTABLE) }),
        Err(_) => Claimed::Lost,
    }
}

unsafe fn wake(data: NonNull<()>) {
    // SAFETY: claimed by the caller and not yet woken, so the owner is still in `block`.
    let waiter = unsafe { data.cast::<ThreadWaiter>().as_ref() };
    let thread = waiter.thread.clone();
    // Release: what the waker did before is seen by the thread. After this store the waiter may be gone.
    waiter.state.fetch_and(!CLAIMED, Ordering::Release);
    thread.unpark();
}
