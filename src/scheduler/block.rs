//! Waiting: of the calling vthread, which parks, or of a plain OS thread, which blocks. Every primitive and every I/O call
//! waits through this file.

use super::core::Core;
use super::current;
use super::overrun;
use super::shared::{Shared, StopPhase};
use crate::error::{Error, Result};
use crate::primitive::clock::{self, FOREVER};
use crate::timer::{TimerKey, TimerNode};
use crate::vthread::context::{Mount, Parting};
use crate::vthread::record::RecordRef;
use crate::wait::{Claimed, Outcome, Reason, Target, ThreadWaiter};
use std::pin::pin;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

/// Set in a record's reason while its wait must not be cancelled.
pub(crate) const UNCANCELABLE: u8 = 0x80;

/// What arming a wait came to.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Armed {
    /// The target has been handed to whoever will claim it.
    Waiting,
    /// What is waited for has happened: nobody has the target.
    Skip,
}

/// Whether the caller is a vthread.
#[inline]
pub(crate) fn in_vthread() -> bool {
    current::mount().is_some()
}

/// Waits, in a vthread: `arm` gets the target of this wait and hands it on; then the caller parks until the target is
/// claimed, or claims it itself when `deadline_ns` passes.
///
/// `Ok(None)`: `arm` said Skip. `Err(CANCELED)`: the runtime cancels waits, and `arm` was not called. `Err(NOT_VTHREAD)`:
/// the caller is not one.
///
/// After any outcome but `Woken` the caller must take its node out of wherever `arm` put it; a claim that comes before that
/// finds the record, which is never anything else, and loses.
#[inline(always)]
pub(crate) fn wait(
    reason: Reason,
    deadline_ns: u64,
    arm: impl FnOnce(Target) -> Armed,
) -> Result<Option<Outcome>> {
    let Some((mount, shared)) = current::inside() else {
        return Err(Error::NOT_VTHREAD);
    };
    if shared.stop_phase() == StopPhase::Canceling {
        return Err(Error::CANCELED);
    }
    wait_vthread(shared, mount, reason as u8, deadline_ns, arm)
}

/// As [`wait`], and in a plain OS thread it blocks. `disarm` is called after any outcome but `Woken`, and takes the node
/// out: here the target is memory of this function, which must not end while someone may still claim it.
#[inline(always)]
pub(crate) fn wait_anywhere(
    reason: Reason,
    deadline_ns: u64,
    arm: impl FnOnce(Target) -> Armed,
    disarm: impl FnOnce(),
) -> Result<Option<Outcome>> {
    if !in_vthread() {
        return Ok(wait_thread(deadline_ns, arm, disarm));
    }
    let outcome = wait(reason, deadline_ns, arm)?;
    if !matches!(outcome, None | Some(Outcome::Woken)) {
        disarm();
    }
    Ok(outcome)
}

/// As [`wait_anywhere`], without a deadline, and neither stopping nor cancelling ends it: for what borrows the caller's memory until
/// it is done.
pub(crate) fn wait_uncancelable(
    reason: Reason,
    arm: impl FnOnce(Target) -> Armed,
) -> Result<Option<Outcome>> {
    let Some((mount, shared)) = current::inside() else {
        return Ok(wait_thread(FOREVER, arm, || {}));
    };
    wait_vthread(shared, mount, reason as u8 | UNCANCELABLE, FOREVER, arm)
}

/// At the beginning of every call that can park: a vthread that has used up its slice, or made so many calls without
/// waiting for any, gives up its turn; one whose core was taken away queues up for another.
#[inline(always)]
pub(crate) fn checkpoint() {
    let Some(carrier) = current::carrier() else {
        return;
    };
    let budget = carrier.budget.get();
    if budget == 0 || carrier.attention.load(Ordering::Relaxed) {
        give_way();
    } else {
        carrier.budget.set(budget - 1);
    }
}

/// As [`checkpoint`] in calls that only wake others: only a turn that is over is given up.
#[inline(always)]
pub(crate) fn attend() {
    if current::carrier().is_some_and(|carrier| carrier.attention.load(Ordering::Relaxed)) {
        give_way();
    }
}

#[cold]
#[inline(never)]
fn give_way() {
    let Some((mount, shared)) = current::inside() else {
        return;
    };
    if shared.is_forked() {
        return;
    }
    // SAFETY: the caller's own mount.
    let kept = unsafe { (*mount.as_ptr()).sections.kept } > 0;
    let count = |core: &mut Core| {
        if !kept {
            core.remote().tally.metrics.budget_yields.increment();
        }
    };
    let held = current::with_core(count).is_some();
    if held && kept {
        return;
    }
    if let Some(carrier) = current::carrier()
        && carrier.attention.load(Ordering::Relaxed)
    {
        overrun::trace(shared, carrier);
    }
    current::switch_away(mount, Parting::Yield);
}

#[inline(always)]
fn wait_vthread(
    shared: &Shared,
    mount: NonNull<Mount>,
    reason: u8,
    deadline_ns: u64,
    arm: impl FnOnce(Target) -> Armed,
) -> Result<Option<Outcome>> {
    if shared.is_forked() {
        return Err(Error::FORKED);
    }
    // SAFETY: the caller's own mount.
    let record = unsafe { mount.as_ref() }.record;
    let vthread = record.get();
    vthread.seen.reason.store(reason, Ordering::Relaxed);
    let seq = vthread.state.open_wait();
    if arm(record.target(seq)) == Armed::Skip {
        // Nobody has the target, but a canceller may have found the open wait by itself; it is over either way.
        let _ = record.claim(seq, Outcome::Woken);
        return Ok(None);
    }
    if deadline_ns == FOREVER {
        park(record, mount);
    } else {
        park_until(shared, record, mount, seq, deadline_ns);
    }
    Ok(Some(vthread.state.outcome()))
}

#[inline(always)]
fn park(record: RecordRef, mount: NonNull<Mount>) {
    if !record.get().state.is_claimed() {
        current::switch_away(mount, Parting::Park);
    }
}

/// Parks with a timer. The node is on this stack, so this function returns only when it is out of the wheel.
#[inline(never)]
fn park_until(
    shared: &Shared,
    record: RecordRef,
    mount: NonNull<Mount>,
    seq: u64,
    deadline_ns: u64,
) {
    // A deadline that passed within the last tick is found by the wheel.
    if deadline_ns <= clock::coarse_ns() {
        if let Claimed::Lost = record.claim(seq, Outcome::TimedOut) {
            park(record, mount);
        }
        return;
    }
    let node = pin!(TimerNode::new(TimerKey {
        address: record.as_ptr() as u64,
        sequence: seq
    }));
    let node = NonNull::from(&*node);
    // SAFETY: the node stays where it is until `cancel` below has returned.
    let arm = |core: usize| unsafe { shared.remotes[core].wheel.arm(node, deadline_ns) };
    // While the caller is inside its core is awake, so nobody sleeps past the new deadline.
    let held = current::with_core(|core| {
        let _ = arm(core.index);
        core.index
    });
    let core = held.unwrap_or_else(|| {
        let core = current::core_index().unwrap_or(0);
        if arm(core) {
            shared.wake_core(core);
        }
        core
    });
    park(record, mount);
    let wheel = &shared.remotes[core].wheel;
    // SAFETY: armed above, in this wheel.
    let _ = unsafe { wheel.cancel(node) };
}

#[cold]
fn wait_thread(
    deadline_ns: u64,
    arm: impl FnOnce(Target) -> Armed,
    disarm: impl FnOnce(),
) -> Option<Outcome> {
    // The thread blocks in a system call that may set errno, which the host is not to notice.
    // SAFETY: this thread's errno, read and written by it alone.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let kept = unsafe { *errno };
    let waiter = ThreadWaiter::new();
    if arm(waiter.target()) == Armed::Skip {
        return None;
    }
    let outcome = waiter.block(deadline_ns, clock::now_ns);
    if outcome != Outcome::Woken {
        // Until the node is out of its queue, someone may still try to claim this waiter.
        disarm();
    }
    // SAFETY: as above; a plain thread does not change under us.
    unsafe { *errno = kept };
    Some(outcome)
}

/// Sleeps until `deadline_ns`; OK when it has passed.
pub(crate) fn sleep_until(deadline_ns: u64) -> Result<()> {
    checkpoint();
    match wait_anywhere(Reason::Timer, deadline_ns, |_| Armed::Waiting, || {})? {
        Some(Outcome::Canceled) => Err(Error::CANCELED),
        _ => Ok(()),
    }
}

/// Gives up the turn of the calling vthread.
#[inline(always)]
pub(crate) fn yield_now() -> Result<()> {
    let Some((mount, shared)) = current::inside() else {
        return Err(Error::NOT_VTHREAD);
    };
    if shared.is_forked() {
        return Err(Error::FORKED);
    }
    current::switch_away(mount, Parting::Yield);
    Ok(())
}
