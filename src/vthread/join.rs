//! Joining and detaching: one word per record.
//!
//! Bit 0 is a lock (`primitive::word_lock`), bit 1 says that the vthread has ended, bit 2 that it is detached; the rest is
//! the address of the one waiter that joins. The record is freed by exactly one of: the end of a detached vthread, the
//! detaching of an ended one, the join. Handles are checked again under the lock, because the record may have been freed
//! and used anew since they were looked up.

use super::record::RecordRef;
use super::state::Phase;
use super::table::Handle;
use crate::error::{Error, Result};
use crate::primitive::word_lock;
use crate::wait::{Claimed, Outcome, Target, Waiter};
use std::ptr::NonNull;

const DONE: u64 = 2;
const DETACHED: u64 = 4;
const WAITER: u64 = !7;

fn check(record: RecordRef, handle: Handle) -> bool {
    let state = record.get().state.read();
    state.generation() == handle.generation && state.phase() != Phase::Free
}

/// What a joiner has to do.
#[must_use]
pub(crate) enum Joining {
    /// The vthread has ended; the caller owns the record and frees it.
    Ended,
    /// The waiter is hung in; wait.
    Waiting,
}

/// What the end of a vthread leaves to its carrier.
#[must_use]
pub(crate) enum Ending {
    /// Nobody will ask: the carrier frees the record.
    Free,
    /// A joiner owns the record now. Run the wake, if there is one.
    Left(Option<Claimed>),
}

/// Sets the word of a record that is being spawned.
pub(crate) fn reset(record: RecordRef, detached: bool) {
    // Relaxed: the record is published by the state word and the run queue.
    let word = if detached { DETACHED } else { 0 };
    record
        .get()
        .join
        .store(word, std::sync::atomic::Ordering::Relaxed);
}

/// Starts to join: `waiter` is hung in unless the vthread has ended. `target` opens the wait, under the lock.
///
/// # Safety
/// `waiter` stays valid until [`withdraw`] was called or the wait ended with `Woken`.
pub(crate) unsafe fn join(
    record: RecordRef,
    handle: Handle,
    waiter: &Waiter,
    target: Option<Target>,
) -> Result<Joining> {
    let word = word_lock::lock(&record.get().join);
    let (next, result) = if !check(record, handle) {
        (word, Err(Error::STALE_HANDLE))
    } else if word & DETACHED != 0 || word & WAITER != 0 {
        (word, Err(Error::INVAL))
    } else if word & DONE != 0 {
        // Taken: a second joiner finds it detached until the record is freed.
        (word | DETACHED, Ok(Joining::Ended))
    } else if let Some(target) = target {
        waiter.set_target(target);
        (NonNull::from(waiter).as_ptr() as u64, Ok(Joining::Waiting))
    } else {
        (word, Err(Error::TIMEDOUT))
    };
    word_lock::unlock(&record.get().join, next);
    result
}

/// After a join that was woken: the ending carrier has let go of the record, and the caller may free it.
pub(crate) fn settle(record: RecordRef) {
    word_lock::wait_unlocked(&record.get().join);
}

/// Ends a join that was not woken. True if the vthread had ended after all: the caller owns the record as after
/// [`Joining::Ended`].
pub(crate) fn withdraw(record: RecordRef) -> bool {
    // The handle cannot be stale: only the registered joiner, the caller, may free the record.
    let word = word_lock::lock(&record.get().join);
    let ended = word & DONE != 0;
    let next = if ended { DONE | DETACHED } else { 0 };
    word_lock::unlock(&record.get().join, next);
    ended
}

/// Detaches. `Ok(true)`: it had ended, and the caller frees the record.
pub(crate) fn detach(record: RecordRef, handle: Handle) -> Result<bool> {
    let word = word_lock::lock(&record.get().join);
    let (next, result) = if !check(record, handle) {
        (word, Err(Error::STALE_HANDLE))
    } else if word & DETACHED != 0 || word & WAITER != 0 {
        (word, Err(Error::INVAL))
    } else {
        (word | DETACHED, Ok(word & DONE != 0))
    };
    word_lock::unlock(&record.get().join, next);
    result
}

/// The end of a vthread, by its carrier, after the result was written.
pub(crate) fn end(record: RecordRef) -> Ending {
    let word = word_lock::lock(&record.get().join);
    record.get().state.finish();
    if word & DETACHED != 0 {
        word_lock::unlock(&record.get().join, word);
        return Ending::Free;
    }
    let claimed = NonNull::new((word & WAITER) as *mut Waiter).map(|waiter| {
        // SAFETY: a registered waiter is valid until its wait ends or it withdraws, which needs the lock that we hold; it
        // is unlinked by the store below and not touched after the claim.
        unsafe { waiter.as_ref().claim(Outcome::Woken) }
    });
    // The joiner owns the record from here; it finds it ended even if its deadline passed meanwhile.
    word_lock::unlock(
        &record.get().join,
        if claimed.is_some() {
            DONE | DETACHED
        } else {
            DONE
        },
    );
    Ending::Left(claimed)
}
