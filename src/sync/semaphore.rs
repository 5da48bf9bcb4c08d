//! Counting semaphore with three kinds of waiter. All-zero is a semaphore without permits.
//!
//! ```text
//!  state:  63              2   1   0
//!         +-----------------+---+---+
//!         |     permits     | W | L |     L: locked (the queue is being changed)   W: the queue is not empty
//!         +-----------------+---+---+
//! ```
//!
//! * Permits and waiters exclude each other: with W set there are no permits, so a newcomer queues and nobody overtakes.
//! * Uncontended acquire and release are one compare-and-swap and enter no runtime.
//! * A released permit is handed to the oldest waiter by claiming it under the lock (*one claim*); if that claim is lost
//!   to a timeout, the permit goes to the next.

use crate::error::{Error, Result};
use crate::primitive::atomic::{AtomicU64, Ordering};
use crate::primitive::word_lock::{self, LOCKED};
use crate::scheduler::block::{self, Armed};
use crate::scheduler::wake;
use crate::vthread::record::RecordRef;
use crate::vthread::state::Claim;
use crate::wait::{Claimed, Outcome, Reason, Target, WaitQueue, Waiter, WakeBatch};
use std::pin::pin;
use std::ptr::NonNull;

const WAITERS: u64 = 2;
const PERMIT: u64 = 4;
const PERMIT_SHIFT: u32 = 2;
/// Most permits.
pub(crate) const MAX: u32 = 0x3fff_ffff;

/// See the module text.
#[repr(C)]
pub(crate) struct Semaphore {
    state: AtomicU64,
    queue: WaitQueue,
}

// SAFETY: the queue is only touched under the lock in `state`; its nodes belong to waiters that outlast their stay in it.
unsafe impl Send for Semaphore {}
// SAFETY: as above.
unsafe impl Sync for Semaphore {}

impl Semaphore {
    pub(crate) fn new(permits: u32) -> Semaphore {
        Semaphore {
            state: AtomicU64::new(u64::from(permits) << PERMIT_SHIFT),
            queue: WaitQueue::default(),
        }
    }

    /// The permits that can be had now.
    pub(crate) fn permits(&self) -> u32 {
        (self.state.load(Ordering::Relaxed) >> PERMIT_SHIFT) as u32
    }

    /// Takes a permit if there is one.
    #[inline]
    pub(crate) fn try_acquire(&self) -> bool {
        let mut state = self.state.load(Ordering::Relaxed);
        while state >= PERMIT {
            if state & LOCKED != 0 {
                // Its holder may have lost the CPU.
                word_lock::wait_unlocked(&self.state);
                state = self.state.load(Ordering::Relaxed);
                continue;
            }
            // Acquire: pairs with the release of the permit.
            match self.state.compare_exchange_weak(
                state,
                state - PERMIT,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
        false
    }

    /// Takes a permit, or hangs `waiter` in, with the target that is made under the lock.
    ///
    /// # Safety
    /// `waiter` stays where it is until the wait is over and, unless that was by `Woken`, [`Self::withdraw`] was called.
    pub(crate) unsafe fn acquire_or_queue(
        &self,
        waiter: &Waiter,
        target: impl FnOnce() -> Target,
    ) -> Armed {
        let state = word_lock::lock(&self.state);
        if state >= PERMIT {
            word_lock::unlock(&self.state, state - PERMIT);
            return Armed::Skip;
        }
        waiter.set_target(target());
        // SAFETY: the lock is held, and the waiter stays put by the caller's promise.
        unsafe { self.queue.push_back(waiter) };
        word_lock::unlock(&self.state, state | WAITERS);
        Armed::Waiting
    }

    /// Takes `waiter` out of the queue after a wait that did not end with a permit.
    pub(crate) fn withdraw(&self, waiter: &Waiter) {
        let state = word_lock::lock(&self.state);
        // SAFETY: the lock is held; the waiter is linked here or, when a claim was lost to its timeout, nowhere.
        unsafe { self.queue.remove(waiter) };
        self.unlock_queue(state);
    }

    /// The permit was handed over: the releaser has let go of the semaphore, which may be destroyed.
    pub(crate) fn settle(&self) {
        word_lock::wait_unlocked(&self.state);
    }

    /// Takes a permit; waits for one until `deadline_ns`.
    #[inline]
    pub(crate) fn acquire(&self, deadline_ns: u64) -> Result<()> {
        if self.try_acquire() {
            Ok(())
        } else {
            self.acquire_slow(deadline_ns)
        }
    }

    #[inline(always)]
    pub(crate) fn acquire_slow(&self, deadline_ns: u64) -> Result<()> {
        let waiter = pin!(Waiter::new());
        let outcome = block::wait_anywhere(
            Reason::Lock,
            deadline_ns,
            // SAFETY: the waiter is on this stack, and withdrawn unless the wait ends with Woken.
            |target| unsafe { self.acquire_or_queue(&waiter, || target) },
            || self.withdraw(&waiter),
        )?;
        match outcome {
            None => Ok(()),
            Some(Outcome::Woken) => {
                self.settle();
                Ok(())
            }
            Some(Outcome::TimedOut) => Err(Error::TIMEDOUT),
            Some(Outcome::Canceled) => Err(Error::CANCELED),
        }
    }

    /// Adds permits: to the oldest waiters first.
    #[inline(always)]
    pub(crate) fn release(&self, permits: u32) -> Result<()> {
        let mut state = self.state.load(Ordering::Relaxed);
        while state & (LOCKED | WAITERS) == 0 {
            let sum = (state >> PERMIT_SHIFT) + u64::from(permits);
            if sum > u64::from(MAX) {
                return Err(Error::OVERFLOW);
            }
            // Release: pairs with the acquire of who takes the permit.
            match self.state.compare_exchange_weak(
                state,
                sum << PERMIT_SHIFT,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(()),
                Err(now) => state = now,
            }
        }
        if permits == 1 {
            self.hand_over()
        } else {
            self.release_many(permits)
        }
    }

    #[cold]
    fn release_many(&self, permits: u32) -> Result<()> {
        let mut left = permits;
        while left > 0 {
            let mut wakes = WakeBatch::new();
            let mut state = word_lock::lock(&self.state);
            if u64::from(left) + (state >> PERMIT_SHIFT) > u64::from(MAX) {
                word_lock::unlock(&self.state, state);
                return Err(Error::OVERFLOW);
            }
            while left > 0 && !wakes.is_full() {
                // SAFETY: the lock is held; a node is claimed right after it was unlinked and not touched again.
                let claimed = match unsafe { self.queue.pop_front() } {
                    // SAFETY: as above.
                    Some(waiter) => unsafe { waiter.as_ref().claim(Outcome::Woken) },
                    None => break,
                };
                left -= u32::from(wakes.add(claimed));
            }
            if self.queue.is_empty() {
                state = (state & !WAITERS) + u64::from(left) * PERMIT;
                left = 0;
            }
            word_lock::unlock(&self.state, state);
            wakes.run();
        }
        Ok(())
    }

    /// Gives one permit to the oldest waiter; the straight way for a waiting vthread, which is nearly all.
    #[inline(always)]
    fn hand_over(&self) -> Result<()> {
        let state = word_lock::lock(&self.state);
        // SAFETY: the lock is held; the node is claimed right after it was unlinked and not touched again.
        let Some(waiter) = (unsafe { self.queue.pop_front() }) else {
            return self.hand_over_next(state, None);
        };
        // SAFETY: as above.
        let target = unsafe { waiter.as_ref() }.target();
        let Some((record, seq)) = target.and_then(RecordRef::of_target) else {
            return self.hand_over_next(state, Some(waiter));
        };
        match record.get().state.claim(seq, Outcome::Woken) {
            Claim::Schedule => {
                self.unlock_queue(state);
                wake::schedule(record);
                Ok(())
            }
            Claim::Noticed => {
                self.unlock_queue(state);
                Ok(())
            }
            Claim::Lost => self.hand_over_next(state, None),
        }
    }

    /// As [`Self::hand_over`], whoever waits: to `waiter`, which was just unlinked, or to the next in the queue, or else the
    /// permit is added. The lock is held, and released.
    #[cold]
    #[inline(never)]
    fn hand_over_next(&self, state: u64, mut waiter: Option<NonNull<Waiter>>) -> Result<()> {
        // SAFETY: the lock is held; a node is claimed right after it was unlinked and not touched again.
        while let Some(first) = waiter.take().or_else(|| unsafe { self.queue.pop_front() }) {
            // SAFETY: as above.
            let won = match unsafe { first.as_ref().claim(Outcome::Woken) } {
                Claimed::Lost => continue,
                Claimed::Done => None,
                Claimed::Wake(wake) => Some(wake),
            };
            self.unlock_queue(state);
            if let Some(won) = won {
                won.run();
            }
            return Ok(());
        }
        let state = state & !WAITERS;
        let full = state >> PERMIT_SHIFT >= u64::from(MAX);
        word_lock::unlock(&self.state, if full { state } else { state + PERMIT });
        if full { Err(Error::OVERFLOW) } else { Ok(()) }
    }

    /// Releases the lock after a waiter was taken out; `state` is what the lock found.
    #[inline(always)]
    fn unlock_queue(&self, state: u64) {
        let state = if self.queue.is_empty() {
            state & !WAITERS
        } else {
            state
        };
        word_lock::unlock(&self.state, state);
    }

    /// Cancels the wait of a queued completion. False if it is not queued here any more.
    pub(crate) fn cancel(&self, waiter: &Waiter) -> bool {
        let state = word_lock::lock(&self.state);
        let mut wake = None;
        let queued = waiter.is_linked();
        if queued {
            // SAFETY: the lock is held, and it is linked, here by the caller's word; not touched after the claim.
            unsafe {
                self.queue.remove(waiter);
                if let Claimed::Wake(w) = waiter.claim(Outcome::Canceled) {
                    wake = Some(w);
                }
            }
        }
        self.unlock_queue(state);
        if let Some(wake) = wake {
            wake.run();
        }
        queued
    }
}
