//! Waiting for a descriptor that somebody else reads and writes.

use super::perform;
use crate::error::{Error, Result};
use crate::reactor::Operation;

/// The events of poll(2) that hold, of `events` and POLLERR and POLLHUP; waits for one of them. It never says what poll(2)
/// does not say.
pub(crate) fn poll(fd: i32, events: i32, deadline_ns: u64) -> Result<i32> {
    let known = libc::POLLIN | libc::POLLOUT | libc::POLLPRI | libc::POLLRDHUP;
    let events = i16::try_from(events).map_err(|_| Error::INVAL)?;
    if events & !known != 0 {
        return Err(Error::INVAL);
    }
    if fd < 0 {
        return Err(Error::BADF);
    }
    perform(&Operation::poll(fd, events), deadline_ns).map(|events| events as i32)
}
