//! Pipes.

use super::{announce, sys};
use crate::error::Result;
use crate::reactor::FdKind;

/// pipe2(2): the reading and the writing end, non-blocking and close-on-exec.
pub(crate) fn pipe() -> Result<[i32; 2]> {
    let ends = sys::pipe()?;
    for fd in ends {
        announce(fd, FdKind::Other);
    }
    Ok(ends)
}
