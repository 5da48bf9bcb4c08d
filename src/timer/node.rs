//! The node that a waiter lends to a wheel.
//!
//! Whoever owns the memory may touch a node only while it is in no wheel; from `arm` until it fired or was cancelled
//! every field but the type's size belongs to the wheel. All fields are `Cell`s, so that a wheel's pointer stays valid
//! beside the owner's `&TimerNode`.

use std::cell::Cell;
use std::ptr::NonNull;

/// `slot` of a node that is in no wheel.
pub(super) const UNLINKED: u32 = u32::MAX;

/// What a node hands to `fire`: two words that the wheel does not interpret.
///
/// Meant for an address and a sequence number: the sequence tells a fire for this wait from one that came too late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TimerKey {
    pub address: u64,
    pub sequence: u64,
}

/// An intrusive timer: lives in the waiter's frame (or any memory that stays where it is while the node is armed).
#[derive(Debug)]
pub struct TimerNode {
    pub(super) next: Cell<Option<NonNull<TimerNode>>>,
    /// `None` for the first node of a list.
    pub(super) prev: Cell<Option<NonNull<TimerNode>>>,
    pub(super) deadline_ns: Cell<u64>,
    key: Cell<TimerKey>,
    /// Which list the node is in. Only the first node of a list is sure to hold the true value (a whole list moves in
    /// O(1)); the others hold anything but `UNLINKED`.
    pub(super) slot: Cell<u32>,
}

impl TimerNode {
    pub const fn new(key: TimerKey) -> Self {
        Self {
            next: Cell::new(None),
            prev: Cell::new(None),
            deadline_ns: Cell::new(0),
            key: Cell::new(key),
            slot: Cell::new(UNLINKED),
        }
    }

    pub fn key(&self) -> TimerKey {
        self.key.get()
    }

    #[cfg(test)]
    /// Sets what the next fire hands out. Only while the node is in no wheel.
    pub fn set_key(&self, key: TimerKey) {
        debug_assert_eq!(self.slot.get(), UNLINKED, "the node is armed");
        self.key.set(key);
    }
}

// It lies on every waiter's stack.
const _: () = assert!(size_of::<TimerNode>() <= 56);
