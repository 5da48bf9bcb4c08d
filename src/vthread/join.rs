//! Joining and detaching: one word per record.
//!
//! Bit 0 is a lock (`primitive::word_lock`), bit 1 says that the vthread has ended, bit 2 that it was detached or is being
//! freed by its joiner; the rest is the address of the one waiter that joins.
//!
//! Invariants:
//! * **freed under the lock**: the record is freed (its generation bumped) by exactly one of the end of a detached vthread,
//!   the detaching of an ended one and the join, while it holds the lock; it leaves the word as zero. So a spawner need not
//!   touch the word, and a caller with a stale handle that gets the lock later finds another generation and puts back the
//!   zero that it found.
//! * **handles are checked under the lock**, because the record may have been freed since they were looked up.

use super::record::{Body, End, RecordRef};
use super::state::Phase;
use super::table::Handle;
use crate::error::{Error, Result};
use crate::primitive::atomic::Ordering;
use crate::primitive::word_lock::{self, LOCKED};
use crate::wait::{Claimed, Outcome, Target, Waiter};
use std::ffi::c_void;
use std::ptr::NonNull;

const DONE: u64 = 2;
const DETACHED: u64 = 4;
const WAITER: u64 = !7;

fn check(record: RecordRef, handle: Handle) -> bool {
    let state = record.get().state.read();
    state.generation() == handle.generation && state.phase() != Phase::Free
}

/// What is left of a vthread that has ended, and whether its record may be used again.
#[must_use]
pub(crate) struct Remains {
    pub(crate) result: *mut c_void,
    pub(crate) end: End,
    pub(crate) usable: bool,
}

/// What a joiner has to do.
#[must_use]
pub(crate) enum Joining {
    /// The vthread has ended; its record was freed and is the caller's to give back.
    Ended(Remains),
    /// The waiter is hung in; wait.
    Waiting,
}

/// What the end of a vthread leaves to its carrier.
#[must_use]
pub(crate) enum Ending {
    /// Nobody will ask: the record was freed, and is the carrier's to give back.
    Freed { usable: bool },
    /// A joiner owns the record now. Run the wake, if there is one.
    Left(Option<Claimed>),
}

/// Reads what is left and frees the record; under the lock.
fn free(record: RecordRef) -> Remains {
    // SAFETY: ended, and the caller holds the lock and the right to free it.
    let body: &mut Body = unsafe { record.body() };
    let (result, end) = (body.arg, body.end);
    Remains {
        result,
        end,
        usable: record.get().state.free(),
    }
}

/// Joins a vthread that has ended. None: it has not, or cannot be joined; [`join`] will tell.
#[inline]
pub(crate) fn join_ended(record: RecordRef, handle: Handle) -> Option<Remains> {
    let word = &record.get().join;
    let mut now = word.load(Ordering::Relaxed);
    loop {
        if now & LOCKED != 0 {
            word_lock::wait_unlocked(word);
            now = word.load(Ordering::Relaxed);
        } else if now != DONE {
            return None;
        } else {
            // Acquire: what the vthread has left.
            match word.compare_exchange(now, now | LOCKED, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => break,
                Err(changed) => now = changed,
            }
        }
    }
    let valid = check(record, handle);
    let remains = valid.then(|| free(record));
    word_lock::unlock(word, if valid { 0 } else { DONE });
    remains
}

/// Starts to join: `waiter` is hung in unless the vthread has ended.
///
/// # Safety
/// `waiter` stays valid until [`withdraw`] was called or the wait ended with `Woken`.
pub(crate) unsafe fn join(
    record: RecordRef,
    handle: Handle,
    waiter: &Waiter,
    target: Target,
) -> Result<Joining> {
    let word = word_lock::lock(&record.get().join);
    let (next, result) = if !check(record, handle) {
        (word, Err(Error::STALE_HANDLE))
    } else if word & DETACHED != 0 || word & WAITER != 0 || record.is_spawned_detached() {
        (word, Err(Error::INVAL))
    } else if word & DONE != 0 {
        (0, Ok(Joining::Ended(free(record))))
    } else {
        waiter.set_target(target);
        (NonNull::from(waiter).as_ptr() as u64, Ok(Joining::Waiting))
    };
    word_lock::unlock(&record.get().join, next);
    result
}

/// After a join that was woken, or whose [`withdraw`] said that the vthread had ended: frees the record.
pub(crate) fn reap(record: RecordRef) -> Remains {
    // The lock also waits for the ending carrier to let go.
    let _ = word_lock::lock(&record.get().join);
    let remains = free(record);
    word_lock::unlock(&record.get().join, 0);
    remains
}

/// Ends a join that was not woken. True if the vthread had ended after all: the caller goes on with [`reap`].
pub(crate) fn withdraw(record: RecordRef) -> bool {
    // The handle cannot be stale: only the registered joiner, the caller, may free the record.
    let word = word_lock::lock(&record.get().join);
    let ended = word & DONE != 0;
    word_lock::unlock(&record.get().join, if ended { DONE | DETACHED } else { 0 });
    ended
}

/// Detaches. `Some(usable)`: it had ended; its record was freed and is the caller's to give back.
pub(crate) fn detach(record: RecordRef, handle: Handle) -> Result<Option<bool>> {
    let word = word_lock::lock(&record.get().join);
    let (next, result) = if !check(record, handle) {
        (word, Err(Error::STALE_HANDLE))
    } else if word & DETACHED != 0 || word & WAITER != 0 || record.is_spawned_detached() {
        (word, Err(Error::INVAL))
    } else if word & DONE != 0 {
        (0, Ok(Some(free(record).usable)))
    } else {
        (DETACHED, Ok(None))
    };
    word_lock::unlock(&record.get().join, next);
    result
}

/// The end of a vthread, by its carrier, after the result was written.
#[inline]
pub(crate) fn end(record: RecordRef) -> Ending {
    record.get().state.finish();
    // Mostly nobody joins yet, and it is to be joined. Then this is all: locked, Done and unlocked in one step, which fails
    // while anyone else has the lock. Release: what the vthread has left is seen by who locks the word next.
    if !record.is_spawned_detached()
        && record
            .get()
            .join
            .compare_exchange(0, DONE, Ordering::Release, Ordering::Relaxed)
            .is_ok()
    {
        return Ending::Left(None);
    }
    end_locked(record)
}

fn end_locked(record: RecordRef) -> Ending {
    let word = word_lock::lock(&record.get().join);
    if word & DETACHED != 0 || record.is_spawned_detached() {
        let usable = free(record).usable;
        word_lock::unlock(&record.get().join, 0);
        return Ending::Freed { usable };
    }
    let claimed = NonNull::new((word & WAITER) as *mut Waiter).map(|waiter| {
        // SAFETY: a registered waiter is valid until its wait ends or it withdraws, which needs the lock that we hold; it
        // is unlinked by the store below and not touched after the claim.
        unsafe { waiter.as_ref().claim(Outcome::Woken) }
    });
    // The joiner owns the record from here; it finds it ended even if its deadline passed meanwhile.
    let next = if claimed.is_some() {
        DONE | DETACHED
    } else {
        DONE
    };
    word_lock::unlock(&record.get().join, next);
    Ending::Left(claimed)
}
