//! Row 2: the one wait protocol. Whoever waits, whatever for, does it with the pieces of this module.
//!
//! * A [`Target`] says who waits: a vthread, an OS thread, or a completion (a vthread that has not started yet). It is
//!   *claimed* with an outcome, by exactly one of those who try (the owner of the thing waited for, a timer, a
//!   cancellation); the claimant then runs the [`Wake`] it got, outside of every lock.
//! * A [`Waiter`] is the node by which a wait hangs in a [`WaitQueue`]. It lives in the waiting frame or in memory of the
//!   host, and its owner returns only when it is out of the queue.
//!
//! Invariants, by name:
//! * **one claim**: of all claims of one wait, one wins, and it wakes exactly once. A waiter consumes exactly one wake for
//!   each wait, so no wake is ever left over for a later one.
//! * **unlink before claim**: who takes a node from a queue unlinks it first and does not touch it after the claim, since
//!   the frame it lives in may be gone.
//! * **claim under the lock**: a node's target is claimed while the lock of its queue is held, so an owner that finds its
//!   node unlinked under that lock knows that the claim is over. A woken owner waits until the lock has been released
//!   once (`word_lock::wait_unlocked`) before it returns, so that the primitive may be destroyed at once.

#![allow(unsafe_code)]

mod queue;
mod target;
mod thread;

pub(crate) use queue::{WaitQueue, Waiter, WakeBatch};
pub(crate) use target::{Claimed, Outcome, Target, TargetVtable, Wake};
pub(crate) use thread::ThreadWaiter;

/// Why a vthread waits, as its context tells (`SWN_REASON_*`); 0 stands for none yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Reason {
    Io = 1,
    Timer = 2,
    Lock = 3,
    Join = 5,
    Offload = 6,
}
