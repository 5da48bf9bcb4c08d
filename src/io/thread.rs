//! The way of a plain OS thread: it blocks in poll(2). It adopts nothing, so descriptors may be blocking: then sockets
//! are read and written with MSG_DONTWAIT, and the rest is done only when poll(2) says that it can be. (Another thread
//! that uses the same blocking descriptor may come between: then the call waits for longer than its deadline.)

use super::sys;
use crate::error::{Error, Result};
use crate::primitive::clock::FOREVER;
use crate::reactor::sys as ops;
use crate::reactor::{Attempted, FdKind, Operation};

pub(super) fn perform(operation: &Operation<'_>, deadline_ns: u64) -> Result<usize> {
    let fd = operation.fd();
    if operation.is_poll() {
        return match ops::poll_until(fd, operation.events(), deadline_ns)? {
            0 => Err(Error::TIMEDOUT),
            events => Ok(events as u16 as usize),
        };
    }
    let kind = ops::kind(fd)?;
    if operation.is_connect() {
        let was_nonblocking = ops::set_nonblocking(fd, true)?;
        let result = repeat(operation, kind, deadline_ns, false);
        if !was_nonblocking {
            ops::set_nonblocking(fd, false)?;
        }
        return result;
    }
    let may_block = kind == FdKind::Other || operation.is_accept();
    let poll_first = may_block && !ops::is_nonblocking(fd)?;
    repeat(operation, kind, deadline_ns, poll_first)
}

fn repeat(
    operation: &Operation<'_>,
    kind: FdKind,
    deadline_ns: u64,
    poll_first: bool,
) -> Result<usize> {
    let mut poll = poll_first;
    loop {
        if poll && ops::poll_until(operation.fd(), operation.events(), deadline_ns)? == 0 {
            return Err(Error::TIMEDOUT);
        }
        match operation.attempt(kind) {
            Attempted::Done(result) => return result,
            Attempted::Exhausted(n) => return Ok(n),
            Attempted::WouldBlock => poll = true,
        }
    }
}

/// How much of `len` bytes may be written at once without passing the deadline: to a blocking pipe or terminal that is
/// writable, PIPE_BUF (pipe(7)).
pub(super) fn write_len(fd: i32, len: usize, deadline_ns: u64) -> usize {
    let unbounded = deadline_ns == FOREVER
        || len <= libc::PIPE_BUF
        || ops::is_nonblocking(fd) != Ok(false)
        || ops::kind(fd) != Ok(FdKind::Other)
        || sys::is_regular(fd);
    if unbounded { len } else { libc::PIPE_BUF }
}
