//! Waiting for signals: signalfd(2).

use super::{OwnedFd, announce, perform, sys};
use crate::error::{Error, Result};
use crate::reactor::{FdKind, Operation};

/// Waits for one of the signals in `mask` (bit n-1: signal n), which are blocked in all threads; its number.
pub(crate) fn wait(mask: u64, deadline_ns: u64) -> Result<i32> {
    if mask == 0 {
        return Err(Error::INVAL);
    }
    // One of its own for each wait: nothing of it outlasts the call.
    let fd = OwnedFd(sys::signalfd(mask)?);
    announce(fd.0, FdKind::Other);
    let mut message = sys::SignalMessage::new();
    perform(&Operation::read(fd.0, message.buffer()), deadline_ns)?;
    Ok(message.number())
}
