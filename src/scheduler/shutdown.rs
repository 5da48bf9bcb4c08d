//! Stopping: first vthreads may end by themselves, then every wait is cancelled, then the carriers leave.

use super::block::UNCANCELABLE;
use super::shared::{Shared, StopPhase};
use crate::error::{Error, Result};
use crate::primitive::clock::{self, FOREVER};
use crate::wait::{Claimed, Outcome};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often waits are cancelled again while vthreads are left: one that was about to wait when the last sweep passed, or
/// waits anew, is caught by the next.
const SWEEP: Duration = Duration::from_millis(2);

/// Lets all vthreads end, by `deadline_ns`. OK: none is left, and the carriers are told to leave.
pub(crate) fn stop(shared: &Shared, deadline_ns: u64) -> Result<()> {
    let now = clock::now_ns();
    let half = if deadline_ns == FOREVER {
        FOREVER
    } else {
        now + deadline_ns.saturating_sub(now) / 2
    };
    shared.advance_stop(StopPhase::Ending);
    if shared.stop_phase() == StopPhase::Ending {
        wait_for_end(shared, half, None);
    }
    loop {
        // Nothing new is let in from here.
        shared.advance_stop(StopPhase::Canceling);
        wait_for_end(shared, deadline_ns, Some(SWEEP));
        // Who was inside when the phase changed may have spawned; when it has left, none can appear any more.
        shared.drain_external();
        if shared.live() == 0 {
            break;
        }
        if clock::now_ns() >= deadline_ns {
            return Err(Error::TIMEDOUT);
        }
    }
    shared.exiting.store(true, Ordering::SeqCst);
    for core in 0..shared.cores() {
        shared.wake_core(core);
    }
    Ok(())
}

/// Waits until no vthread is left or the deadline has passed. With `sweep`, cancels all waits that often.
fn wait_for_end(shared: &Shared, deadline_ns: u64, sweep: Option<Duration>) {
    let (lock, ended) = &shared.ended;
    loop {
        if sweep.is_some() {
            cancel_waits(shared);
        }
        let guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.live() == 0 {
            return;
        }
        let now = clock::now_ns();
        if now >= deadline_ns {
            return;
        }
        // The end of a vthread is told under the lock, but counted before it is taken by a core that read the phase
        // earlier: hence not longer than a little while.
        let longest = sweep.unwrap_or(Duration::from_millis(20));
        let left = Duration::from_nanos((deadline_ns - now).min(longest.as_nanos() as u64));
        drop(
            ended
                .wait_timeout(guard, left)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }
}

/// Ends every wait that may be cancelled with Canceled.
fn cancel_waits(shared: &Shared) {
    for slot in 0..shared.table.slots() {
        let Some(record) = shared.table.get(slot) else {
            continue;
        };
        // The word is read before the reason: if the reason is that of a later wait, the claim of this one loses.
        let Some(seq) = record.get().state.read().open_wait() else {
            continue;
        };
        if record.get().seen.reason.load(Ordering::Relaxed) & UNCANCELABLE != 0 {
            continue;
        }
        if let Claimed::Wake(wake) = record.claim(seq, Outcome::Canceled) {
            wake.run();
        }
    }
}
