//! A lock in the low bit of a word that also carries a value.
//!
//! Held only for a few dozen instructions of runtime code, never across a switch, a system call or host code: so a waiter
//! spins, and gives its CPU away when the holder seems to have lost its own.

use super::atomic::{AtomicU64, Ordering};
use super::{spin_hint, spin_yield};

/// The lock bit.
pub(crate) const LOCKED: u64 = 1;

/// Sets [`LOCKED`] in `word` and returns its value before, without that bit. Pairs with [`unlock`]: acquire.
#[inline(always)]
pub(crate) fn lock(word: &AtomicU64) -> u64 {
    let value = word.load(Ordering::Relaxed);
    if value & LOCKED == 0
        // Acquire: as below.
        && word
            .compare_exchange(value, value | LOCKED, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    {
        return value;
    }
    lock_contended(word)
}

#[cold]
#[inline(never)]
fn lock_contended(word: &AtomicU64) -> u64 {
    let mut spins = 0u32;
    loop {
        let value = word.load(Ordering::Relaxed);
        if value & LOCKED == 0 {
            // Acquire: what the last holder wrote to the list is seen.
            if word
                .compare_exchange_weak(value, value | LOCKED, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
            {
                return value;
            }
        }
        spins += 1;
        if spins < 64 {
            spin_hint();
        } else {
            spin_yield();
        }
    }
}

/// Stores `value` (without the lock bit) and so releases the lock. While it is held nobody else changes the word.
#[inline(always)]
pub(crate) fn unlock(word: &AtomicU64, value: u64) {
    debug_assert_eq!(value & LOCKED, 0);
    word.store(value, Ordering::Release);
}

/// Waits until whoever holds the lock now has released it. A waiter that was claimed under the lock calls this before it
/// returns: the claimant's unlock is its last touch of the word, which may be gone as soon as the waiter has returned
/// (the destruction race of sem_post(3), glibc bug 12674).
#[inline(always)]
pub(crate) fn wait_unlocked(word: &AtomicU64) {
    if word.load(Ordering::Acquire) & LOCKED != 0 {
        wait_contended(word);
    }
}

#[cold]
#[inline(never)]
fn wait_contended(word: &AtomicU64) {
    let mut spins = 0u32;
    while word.load(Ordering::Acquire) & LOCKED != 0 {
        spins += 1;
        if spins < 64 {
            spin_hint();
        } else {
            spin_yield();
        }
    }
}
