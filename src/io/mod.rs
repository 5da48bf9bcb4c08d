//! Row 6: input and output as the host sees it. Each call attempts its operation, and waits if that would block: a vthread
//! parks at the driver of its core, a plain OS thread blocks in poll(2).
//!
//! Knows descriptors and deadlines. Does not know how a driver learns of events (`reactor`), nor who runs meanwhile
//! (`scheduler`). All system calls of this level are in `sys`, those of the operations themselves in `reactor::sys`.
//!
//! Invariants, by name:
//! * **attempt first**: a call whose deadline has passed still does what can be done at once; only then is it `TIMEDOUT`.
//! * **fresh numbers**: a descriptor that a call of this level creates is announced to the reactors, so that nothing known
//!   of an earlier use of its number survives; one that is closed is released first.

pub(crate) mod file;
pub(crate) mod pipe;
pub(crate) mod poll;
pub(crate) mod resolve;
pub(crate) mod signal;
pub(crate) mod socket;
pub(crate) mod stream;
mod sys;
#[cfg(test)]
mod tests;
mod thread;

use crate::error::{Error, Result};
use crate::reactor::{self, Armed, Driver, FdKind, Operation, Park};
use crate::scheduler::{block, current};
use crate::wait::{Outcome, Reason, Target};

/// How a vthread waits for its driver.
struct Parking;

impl Park for Parking {
    fn with_driver<R>(&self, f: impl FnOnce(&dyn Driver) -> R) -> Result<R> {
        current::with_reactor(|reactor, core| f(reactor.driver(core))).ok_or(Error::NOT_VTHREAD)
    }

    fn wait(&self, deadline_ns: u64, arm: impl FnOnce(Target) -> Armed) -> Result<Option<Outcome>> {
        block::wait(Reason::Io, deadline_ns, |target| match arm(target) {
            Armed::Waiting => block::Armed::Waiting,
            Armed::Retry => block::Armed::Skip,
        })
    }
}

/// Does an operation, waiting as the caller's kind does.
fn perform(operation: &Operation<'_>, deadline_ns: u64) -> Result<usize> {
    if block::in_vthread() {
        block::checkpoint();
        reactor::drive(operation, deadline_ns, &Parking)
    } else {
        thread::perform(operation, deadline_ns)
    }
}

/// Announces a descriptor that was just created, non-blocking.
fn announce(fd: i32, kind: FdKind) {
    let own = current::with_reactor(|own, _| reactor::admit_everywhere(fd, kind, Some(own)));
    if own.is_none() {
        reactor::admit_everywhere(fd, kind, None);
    }
}

/// Ends the use of a descriptor that is about to be closed (or has just been created in an unknown mode).
fn release(fd: i32) {
    let own = current::with_reactor(|own, _| reactor::close_everywhere(fd, Some(own)));
    if own.is_none() {
        reactor::close_everywhere(fd, None);
    }
}

/// Gives `fd` back to the host: whoever waits for it gets `CANCELED`, and O_NONBLOCK is as it was before its first use.
/// `BADF` if it is not open.
pub(crate) fn forget(fd: i32) -> Result<()> {
    reactor::sys::is_nonblocking(fd)?;
    let own = current::with_reactor(|own, _| reactor::forget_everywhere(fd, Some(own)));
    if own.is_none() {
        reactor::forget_everywhere(fd, None);
    }
    Ok(())
}

/// A descriptor of ours on its way to the caller: closed if an error comes first.
struct OwnedFd(i32);

impl OwnedFd {
    fn into_raw(self) -> i32 {
        let fd = self.0;
        std::mem::forget(self);
        fd
    }
}

impl Drop for OwnedFd {
    fn drop(&mut self) {
        let _ = stream::close(self.0);
    }
}
