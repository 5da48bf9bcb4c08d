//! Files, for which there is no readiness: by offload. The deadlines bound the queueing; a call that has started runs to
//! its end.

use super::{release, sys};
use crate::error::{Error, Result};
use crate::offload;
use std::ffi::CStr;
use std::mem::MaybeUninit;

/// open(2), close-on-exec.
pub(crate) fn open(path: &CStr, flags: i32, mode: u32, deadline_ns: u64) -> Result<i32> {
    let fd = offload::run(deadline_ns, || sys::open(path, flags, mode))??;
    // Whatever it is, its first use finds out.
    release(fd);
    Ok(fd)
}

/// pread(2).
pub(crate) fn pread(
    fd: i32,
    buf: &mut [MaybeUninit<u8>],
    offset: u64,
    deadline_ns: u64,
) -> Result<usize> {
    let offset = i64::try_from(offset).map_err(|_| Error::INVAL)?;
    offload::run(deadline_ns, || sys::pread(fd, buf, offset))?
}

/// pwrite(2).
pub(crate) fn pwrite(fd: i32, buf: &[u8], offset: u64, deadline_ns: u64) -> Result<usize> {
    let offset = i64::try_from(offset).map_err(|_| Error::INVAL)?;
    offload::run(deadline_ns, || sys::pwrite(fd, buf, offset))?
}

/// fsync(2).
pub(crate) fn fsync(fd: i32, deadline_ns: u64) -> Result<()> {
    offload::run(deadline_ns, || sys::fsync(fd))?
}

/// close(2), which may block for a file. If the deadline passes while it is queued the file stays open.
pub(crate) fn close(fd: i32, deadline_ns: u64) -> Result<()> {
    if fd < 0 {
        return Err(Error::BADF);
    }
    offload::run(deadline_ns, || {
        // Right before the close: should it never start, nothing has changed.
        release(fd);
        sys::close(fd)
    })?
}
