//! Row 3: how a caller waits for a descriptor. One driver for each core, behind one contract.
//!
//! ```text
//!   caller's frame          driver of a core                   kernel
//!  +-----------+  try   +----------------------+  system call
//!  | Operation |------->| descriptor table     |-------------> done
//!  |  waiters  |  arm   |  entry: read, write  |
//!  |           |------->|   waiters, readiness |<------------- event
//!  +-----------+ disarm +----------------------+   wait
//! ```
//!
//! Knows nothing of vthreads: whoever waits is a [`Target`]; the caller says how it waits by [`Park`].
//!
//! Invariants, by name:
//! * **operation outlives arming**: an operation is armed only inside [`drive`], which returns when no driver knows it.
//! * **one completion**: an armed operation's wait is claimed once, by an event, a close, a timer or a cancellation.
//! * **no event is cleared unseen**, **no lost wake-up**: see `direction`.
//! * **no old event on a new descriptor**: see `fd_table`.

#![allow(unsafe_code)]

mod direction;
#[cfg(test)]
pub(crate) mod fake;
mod fd_table;
mod live;
mod operation;
mod readiness;
pub(crate) mod sys;
#[cfg(test)]
mod tests;

pub(crate) use live::{admit_everywhere, close_everywhere, forget_everywhere, release_elsewhere};
pub(crate) use operation::{Attempted, Operation};
pub(crate) use sys::{AddressBuffer, FdKind};

use crate::error::{Error, Result};
use crate::wait::{Outcome, Target, Wake};
use std::any::Any;
use std::sync::{Arc, OnceLock};

/// How much an attempt may rely on what is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Effort {
    /// No system call if the operation is known not to be ready.
    Hinted,
    /// The kernel is asked in any case: an event may have happened that no driver has collected yet.
    Always,
}

/// What an attempt came to.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    Done(Result<usize>),
    Pending,
}

/// What arming came to.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Armed {
    /// The target will be claimed, unless the operation is disarmed before.
    Waiting,
    /// Not armed: something has happened since the last attempt, which is worth another.
    Retry,
}

/// What happens to O_NONBLOCK when a descriptor is released.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Release {
    /// Nothing: the descriptor is about to be closed.
    Close,
    /// A descriptor that was blocking when it was adopted is so again.
    Restore,
}

/// The I/O back end of one core.
///
/// The contract, for the drivers of one [`Reactor`] together (each accepts operations that were armed by another one, since
/// a vthread may go on elsewhere):
///
/// * `try_complete` never waits. An operation is bound to the use of its descriptor number at its first attempt; after a
///   `release` of that number every later attempt gives `CANCELED`.
/// * After `arm` said `Waiting`, the target is claimed exactly once by the driver, or not at all: with `Woken` when another
///   attempt may succeed (or, for a back end that completes, has its result), with `Canceled` by `release`.
/// * After a wait that was ended by another claim, `disarm` returns only when the driver does not know the operation any
///   more and no claim of it is under way; so no buffer is touched afterwards. Bytes already received are never dropped:
///   a back end that receives by itself must keep them as the operation's result, which the next `try_complete` reports.
///   (Readiness receives nothing by itself.) Disarming an operation that is not armed does nothing.
/// * A claim with `Woken` by the driver of an operation of one direction ends its arming: it need not be disarmed.
/// * Claims are made under the driver's lock; the wakes they give are handed to the caller, who runs them with no lock
///   held.
pub(crate) trait Driver: Send + Sync {
    /// Tries the operation, adopting its descriptor if need be.
    fn try_complete(&self, operation: &Operation<'_>, effort: Effort) -> Progress;

    /// Lets `target` be claimed when another attempt is worth while.
    ///
    /// # Safety
    /// The operation stays where it is until `disarm` was called after the wait of `target` ended.
    unsafe fn arm(&self, operation: &Operation<'_>, target: Target) -> Armed;

    /// Takes the operation back; after its wait has ended.
    fn disarm(&self, operation: &Operation<'_>);

    /// A descriptor that a call of ours has just created, non-blocking: whatever is known of its number is out of date.
    fn admit(&self, fd: i32, kind: FdKind);

    /// The descriptor number stops meaning what it meant. Those who wait for it are claimed with `Canceled`; their wakes
    /// are added to `wakes`. A number that was never used is fine.
    fn release(&self, fd: i32, release: Release, wakes: &mut Vec<Wake>);

    /// Waits for events, at most `timeout_ns` (`None`: without limit) and until `wake`; adds the wakes of the targets it
    /// claimed to `wakes`, and says how many events there were. One thread at a time is inside; another one waits for it.
    fn wait(&self, timeout_ns: Option<u64>, wakes: &mut Vec<Wake>) -> usize;

    /// Collects the events there are, as `wait` with no time; `None` if another thread is inside. A wake that is meant
    /// for `wait` is not used up.
    fn try_wait(&self, wakes: &mut Vec<Wake>) -> Option<usize>;

    /// Ends the `wait` in progress, or makes the next one return at once; from any thread.
    fn wake(&self);

    /// How many descriptors this driver reports events of. With none, and no wait, there is no need to poll it.
    fn sources(&self) -> usize;
}

/// The drivers of one runtime, one for each core.
pub(crate) struct Reactor {
    drivers: Box<[Box<dyn Driver>]>,
    companion: OnceLock<Arc<dyn Any + Send + Sync>>,
}

impl Reactor {
    /// Opens a readiness driver for each of `cores` cores. While the reactor lives, closing a descriptor anywhere in the
    /// process reaches it.
    pub(crate) fn start(cores: usize) -> Result<Arc<Reactor>> {
        Self::with_drivers(readiness::open(cores)?)
    }

    /// A reactor of the given drivers.
    pub(crate) fn with_drivers(drivers: Vec<Box<dyn Driver>>) -> Result<Arc<Reactor>> {
        let reactor = Arc::new(Reactor {
            drivers: drivers.into_boxed_slice(),
            companion: OnceLock::new(),
        });
        live::add(&reactor)?;
        Ok(reactor)
    }

    /// The driver of a core.
    pub(crate) fn driver(&self, core: usize) -> &dyn Driver {
        &*self.drivers[core]
    }

    /// See [`Driver::admit`].
    pub(crate) fn admit(&self, fd: i32, kind: FdKind) {
        self.drivers[0].admit(fd, kind);
    }

    /// Releases a descriptor number and wakes those who wait for it.
    pub(crate) fn release(&self, fd: i32, release: Release) {
        let mut wakes = Vec::new();
        self.drivers[0].release(fd, release, &mut wakes);
        wakes.into_iter().for_each(Wake::run);
    }

    /// Attaches what does for this runtime the work that descriptors cannot wait for (files, name look-up): an upper
    /// level's thing, kept here so that a caller who finds its reactor finds that too. False if there is one already.
    pub(crate) fn attach(&self, companion: Arc<dyn Any + Send + Sync>) -> bool {
        self.companion.set(companion).is_ok()
    }

    /// What was attached.
    pub(crate) fn companion(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.companion.get().cloned()
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        live::remove_dead();
    }
}

/// How the caller of [`drive`] waits.
pub(crate) trait Park {
    /// Calls `f` with the driver of the core that the caller is on at present.
    fn with_driver<R>(&self, f: impl FnOnce(&dyn Driver) -> R) -> Result<R>;

    /// Opens a wait, calls `arm` with its target, and waits until it is claimed or the deadline has passed. With
    /// [`Armed::Retry`] the wait is withdrawn: `None`.
    fn wait(&self, deadline_ns: u64, arm: impl FnOnce(Target) -> Armed) -> Result<Option<Outcome>>;
}

/// Does `operation`: attempts it, and waits as long as it would block and the deadline has not passed. The attempt is
/// always made first, and once more when the deadline passes, so that what has arrived is not missed.
pub(crate) fn drive(
    operation: &Operation<'_>,
    deadline_ns: u64,
    park: &impl Park,
) -> Result<usize> {
    let mut effort = if deadline_ns == 0 {
        Effort::Always
    } else {
        Effort::Hinted
    };
    loop {
        match park.with_driver(|driver| driver.try_complete(operation, effort))? {
            Progress::Done(result) => return result,
            Progress::Pending if effort == Effort::Always => return Err(Error::TIMEDOUT),
            Progress::Pending => {}
        }
        // Disarms on every way out of the wait, unwinding included (*operation outlives arming*).
        let armed = Disarm { operation, park };
        let outcome = park.wait(deadline_ns, |target| {
            let arm = |driver: &dyn Driver| {
                // SAFETY: the operation is borrowed until this function ends, and `armed` disarms it after the wait.
                unsafe { driver.arm(operation, target) }
            };
            park.with_driver(arm).unwrap_or(Armed::Retry)
        })?;
        if outcome == Some(Outcome::Woken) && operation.directions() != operation::Directions::Both
        {
            // The driver took its one waiter out when it claimed the wait.
            std::mem::forget(armed);
        } else {
            drop(armed);
        }
        match outcome {
            None | Some(Outcome::Woken) => {}
            Some(Outcome::TimedOut) => effort = Effort::Always,
            Some(Outcome::Canceled) => return Err(Error::CANCELED),
        }
    }
}

struct Disarm<'a, 'b, P: Park> {
    operation: &'a Operation<'b>,
    park: &'a P,
}

impl<P: Park> Drop for Disarm<'_, '_, P> {
    fn drop(&mut self) {
        // A caller that could arm has a driver; without one nothing was armed.
        let _ = self
            .park
            .with_driver(|driver| driver.disarm(self.operation));
    }
}
