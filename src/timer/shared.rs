//! A core's wheel behind a lock of its own, so that any core can cancel, and an idle one can serve a busy one.
//!
//! Invariants:
//! - **out before it returns**: a waiter leaves the frame that holds its node only after its own `fire` ran or `cancel`
//!   returned. `cancel` waits for the lock, so after it neither is the node in the wheel nor is a `fire` for it running.
//! - **the mirror**: `next` is what `Wheel::next_deadline` says. It is written only under the lock and read without.
//!   Writing it in `arm` and reading it in `next_deadline` are sequentially consistent: if a core first announces that
//!   it goes to sleep (also sequentially consistent) and then reads `next`, and a thread first arms and then looks for
//!   that announcement, at least one of the two sees the other.

#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::node::{TimerKey, TimerNode};
use super::wheel::Wheel;

/// Nodes looked at in one hold of the lock: some microseconds. A guess.
const BATCH: usize = 256;

/// The mirror stands alone in its cache lines: other cores look at it, and must not be slowed down by the lock next to
/// it (nor the lock by them).
#[repr(align(128))]
struct Mirror(AtomicU64);

/// A [`Wheel`] that any thread may use.
pub struct SharedWheel {
    next: Mirror,
    wheel: Mutex<Wheel>,
}

impl SharedWheel {
    /// A wheel whose time begins at `start_ns`.
    pub fn new(start_ns: u64) -> Self {
        Self {
            next: Mirror(AtomicU64::new(u64::MAX)),
            wheel: Mutex::new(Wheel::new(start_ns)),
        }
    }

    /// The earliest deadline as [`Wheel::next_deadline`] gives it, `u64::MAX` if nothing is armed. Takes no lock.
    pub fn next_deadline(&self) -> u64 {
        self.next.0.load(Ordering::SeqCst)
    }

    /// How many nodes are armed. Takes the lock.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Arms `node`; says whether it became the earliest, so that whoever sleeps until `next_deadline` has to be woken.
    ///
    /// # Safety
    /// As for [`Wheel::arm`]; the thread that holds the wheel may be any.
    pub unsafe fn arm(&self, node: NonNull<TimerNode>, deadline_ns: u64) -> bool {
        let mut wheel = self.lock();
        let before = self.next.0.load(Ordering::Relaxed);
        // SAFETY: the caller's contract is the same.
        unsafe { wheel.arm(node, deadline_ns) };
        self.publish(&wheel) < before
    }

    /// Takes `node` out of the wheel; says whether it was in it. Afterwards no `fire` for it is running or to come.
    ///
    /// # Safety
    /// As for [`Wheel::cancel`].
    pub unsafe fn cancel(&self, node: NonNull<TimerNode>) -> bool {
        let mut wheel = self.lock();
        // SAFETY: the caller's contract is the same.
        let was_armed = unsafe { wheel.cancel(node) };
        if was_armed {
            self.publish(&wheel);
        }
        was_armed
    }

    /// As [`Wheel::advance`], but lets go of the lock after every few hundred nodes; takes it only if something is due.
    ///
    /// `fire` runs under the lock: it may claim waiters and collect them, and must not use a wheel, wake or wait.
    #[must_use = "true: call again, or what is due stays"]
    pub fn advance(&self, now_ns: u64, max: usize, mut fire: impl FnMut(TimerKey)) -> bool {
        if self.next_deadline() > now_ns {
            return false;
        }
        let mut left = max;
        loop {
            let batch = left.min(BATCH);
            left -= batch;
            let mut wheel = self.lock();
            let more = wheel.advance(now_ns, batch, &mut fire);
            self.publish(&wheel);
            drop(wheel);
            if !more || left == 0 {
                return more;
            }
        }
    }

    /// A `fire` that unwound leaves the wheel whole (and the mirror too early, which the next call mends).
    fn lock(&self) -> MutexGuard<'_, Wheel> {
        self.wheel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the mirror up to date; the guard shows that the lock is held.
    fn publish(&self, wheel: &MutexGuard<'_, Wheel>) -> u64 {
        let next = wheel.next_deadline().unwrap_or(u64::MAX);
        // Most calls change nothing, and the readers' cache lines stay where they are.
        if self.next.0.load(Ordering::Relaxed) != next {
            self.next.0.store(next, Ordering::SeqCst);
        }
        next
    }
}
