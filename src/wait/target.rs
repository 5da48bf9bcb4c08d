//! Who waits, and how such a wait is claimed and ended.

use std::ptr::NonNull;

/// How a wait ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Outcome {
    /// What was waited for happened.
    Woken = 1,
    /// The deadline passed first.
    TimedOut = 2,
    /// The wait was cancelled.
    Canceled = 3,
}

impl Outcome {
    pub(crate) fn from_bits(bits: u64) -> Option<Outcome> {
        match bits {
            1 => Some(Outcome::Woken),
            2 => Some(Outcome::TimedOut),
            3 => Some(Outcome::Canceled),
            _ => None,
        }
    }
}

/// What a claim came to.
#[must_use]
pub(crate) enum Claimed {
    /// Another claim was first: the waiter is woken by that one.
    Lost,
    /// Won, and nothing is left to do: the waiter had not yet left its OS thread and will see the outcome itself.
    Done,
    /// Won: run this once no lock is held.
    Wake(Wake),
}

/// The functions of one kind of waiter.
pub(crate) struct TargetVtable {
    /// Claims wait number `seq` of the waiter at `data`. After `Lost` or `Done` the caller must not use `data` again.
    pub(crate) claim: unsafe fn(data: NonNull<()>, seq: u64, outcome: Outcome) -> Claimed,
    /// Ends the claimed wait of the waiter at `data`.
    pub(crate) wake: unsafe fn(data: NonNull<()>),
}

/// One wait of one waiter.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    data: NonNull<()>,
    seq: u64,
    vtable: &'static TargetVtable,
}

impl Target {
    /// # Safety
    /// `data` must be what `vtable` expects, and stay valid until wait `seq` of it has been claimed.
    pub(crate) unsafe fn new(data: NonNull<()>, seq: u64, vtable: &'static TargetVtable) -> Target {
        Target { data, seq, vtable }
    }

    /// The waiter and the number of its wait, if it is of the kind of `vtable`.
    #[inline(always)]
    pub(crate) fn data_of(&self, vtable: &'static TargetVtable) -> Option<(NonNull<()>, u64)> {
        std::ptr::eq(self.vtable, vtable).then_some((self.data, self.seq))
    }

    /// Tries to end the wait with `outcome`.
    ///
    /// # Safety
    /// The wait must not have been seen to end: either the target was taken from a queue whose lock is held, or `data` is
    /// memory that stays a waiter of this kind (a vthread's record) and a stale `seq` is recognised.
    pub(crate) unsafe fn claim(&self, outcome: Outcome) -> Claimed {
        // SAFETY: `data` belongs to `vtable` (`new`), and is valid by the caller's promise.
        unsafe { (self.vtable.claim)(self.data, self.seq, outcome) }
    }
}

/// The duty to wake a waiter whose wait has been claimed.
#[must_use = "a claimed waiter that is not woken sleeps for ever"]
pub(crate) struct Wake {
    data: NonNull<()>,
    vtable: &'static TargetVtable,
}

impl Wake {
    /// # Safety
    /// Only for the claim function of `vtable`, for a wait of `data` that it just won.
    pub(crate) unsafe fn new(data: NonNull<()>, vtable: &'static TargetVtable) -> Wake {
        Wake { data, vtable }
    }

    /// The waiter, if it is of the kind of `vtable`.
    pub(crate) fn data_of(&self, vtable: &'static TargetVtable) -> Option<NonNull<()>> {
        std::ptr::eq(self.vtable, vtable).then_some(self.data)
    }

    /// The caller has taken the duty over: it wakes the waiter in another way.
    pub(crate) fn disarm(self) {}

    /// Wakes the waiter. Call it with no lock held.
    pub(crate) fn run(self) {
        // SAFETY: `new` says that the wait was claimed by us, and *one claim* that nobody else ends it, so `data` is valid.
        unsafe { (self.vtable.wake)(self.data) }
    }
}
