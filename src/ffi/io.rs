//! Input and output. In a vthread a call that has to wait parks it; in a plain OS thread it blocks.

#![allow(unsafe_code)]

use super::boundary::{bytes, guard, guard_int, non_null};
use crate::error::{Error, Result};
use crate::io::{self, pipe, poll, signal, socket, stream};
use crate::reactor::AddressBuffer;
use std::ffi::{c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::slice;

/// swn_poll: there is something to read, or the end of it.
pub const SWN_POLLIN: c_int = 1;
/// swn_poll: something can be written.
pub const SWN_POLLOUT: c_int = 4;
/// swn_tcp_listen: several listeners may share the address and port (SO_REUSEPORT).
pub const SWN_LISTEN_REUSEPORT: u32 = 1;

/// Borrows a buffer of the host to be filled: -EINVAL if it is null and not empty, or longer than memory can be.
///
/// # Safety
/// `buf` is null or points to `len` writable bytes, for as long as the result is used.
pub(crate) unsafe fn buffer_mut<'a>(
    buf: *mut c_void,
    len: usize,
) -> Result<&'a mut [MaybeUninit<u8>]> {
    if len == 0 {
        return Ok(&mut []);
    }
    if buf.is_null() || len > isize::MAX as usize {
        return Err(Error::INVAL);
    }
    // SAFETY: the caller's promise, checked as far as it can be.
    Ok(unsafe { slice::from_raw_parts_mut(buf.cast(), len) })
}

/// Borrows a buffer of the host to be read; as [`buffer_mut`].
///
/// # Safety
/// `buf` is null or points to `len` readable bytes, for as long as the result is used.
pub(crate) unsafe fn buffer<'a>(buf: *const c_void, len: usize) -> Result<&'a [u8]> {
    if len == 0 {
        return Ok(&[]);
    }
    if buf.is_null() || len > isize::MAX as usize {
        return Err(Error::INVAL);
    }
    // SAFETY: the caller's promise, checked as far as it can be.
    Ok(unsafe { slice::from_raw_parts(buf.cast(), len) })
}

/// read(2): more than 0: that many bytes; 0: the end; or an error of read(2), -ETIMEDOUT, -ECANCELED (the descriptor was
/// closed or the wait cancelled). Any descriptor with readiness may be given. Its first use in a vthread adopts it:
/// O_NONBLOCK is set, and remembered for swn_fd_forget. The attempt comes first: with a deadline that has passed, or 0,
/// what is there is read. A host that closes a used descriptor by itself must call swn_fd_forget before. Any thread; may
/// park.
///
/// # Safety
/// buf is borrowed until the call returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_read(
    fd: c_int,
    buf: *mut c_void,
    len: usize,
    deadline_ns: u64,
) -> i64 {
    guard(|| {
        // SAFETY: the host's promise.
        let buf = unsafe { buffer_mut(buf, len) }?;
        count(stream::read(fd, buf, deadline_ns))
    })
}

/// write(2): how many bytes were written, which may be fewer than len; or an error of write(2), -ETIMEDOUT, -ECANCELED.
/// A peer that is gone is -EPIPE and never SIGPIPE. In a plain OS thread a blocking pipe takes at most PIPE_BUF bytes in
/// one call. Any thread; may park.
///
/// # Safety
/// buf is borrowed until the call returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_write(
    fd: c_int,
    buf: *const c_void,
    len: usize,
    deadline_ns: u64,
) -> i64 {
    guard(|| {
        // SAFETY: the host's promise.
        let buf = unsafe { buffer(buf, len) }?;
        count(stream::write(fd, buf, deadline_ns))
    })
}

/// Writes all len bytes, and returns len; or an error as of swn_write, after which some of them may have been written.
/// Any thread; may park.
///
/// # Safety
/// buf is borrowed until the call returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_write_all(
    fd: c_int,
    buf: *const c_void,
    len: usize,
    deadline_ns: u64,
) -> i64 {
    guard(|| {
        // SAFETY: the host's promise.
        let buf = unsafe { buffer(buf, len) }?;
        count(stream::write_all(fd, buf, deadline_ns).map(|()| len))
    })
}

/// recv(2) with its flags; otherwise as swn_read. Any thread; may park.
///
/// # Safety
/// buf is borrowed until the call returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_recv(
    fd: c_int,
    buf: *mut c_void,
    len: usize,
    flags: c_int,
    deadline_ns: u64,
) -> i64 {
    guard(|| {
        // SAFETY: the host's promise.
        let buf = unsafe { buffer_mut(buf, len) }?;
        count(stream::recv_into(fd, buf, flags, deadline_ns))
    })
}

/// send(2) with its flags; otherwise as swn_write. MSG_NOSIGNAL is always set. Any thread; may park.
///
/// # Safety
/// buf is borrowed until the call returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_send(
    fd: c_int,
    buf: *const c_void,
    len: usize,
    flags: c_int,
    deadline_ns: u64,
) -> i64 {
    guard(|| {
        // SAFETY: the host's promise.
        let buf = unsafe { buffer(buf, len) }?;
        count(stream::send_with(fd, buf, flags, deadline_ns))
    })
}

/// Accepts a connection: the new descriptor, owned (released with swn_close), non-blocking and close-on-exec; or an error
/// of accept(2), -ETIMEDOUT, -ECANCELED. addr and addr_len as in accept(2); both NULL: not wanted. Any thread; may park.
///
/// # Safety
/// addr is NULL or points to *addr_len writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_accept(
    fd: c_int,
    addr: *mut libc::sockaddr,
    addr_len: *mut u32,
    deadline_ns: u64,
) -> c_int {
    guard_int(|| {
        if addr.is_null() {
            return stream::accept(fd, deadline_ns);
        }
        let addr_len = non_null(addr_len)?;
        let mut peer = AddressBuffer::new();
        let accepted = stream::accept_from(fd, Some(&mut peer), deadline_ns)?;
        let peer = peer.bytes();
        // SAFETY: the host's promise: as many bytes as it says are writable. Like accept(2) the address is cut to them,
        // and its whole length is told.
        unsafe {
            let room = (addr_len.read_unaligned() as usize).min(peer.len());
            std::ptr::copy_nonoverlapping(peer.as_ptr(), addr.cast(), room);
            addr_len.write_unaligned(peer.len() as u32);
        }
        Ok(accepted)
    })
}

/// connect(2): 0; or an error of connect(2), -ETIMEDOUT, -ECANCELED, after which the socket should be closed: the attempt
/// may go on in the background. Any thread; may park.
///
/// # Safety
/// addr points to addr_len bytes, borrowed until the call returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_connect(
    fd: c_int,
    addr: *const libc::sockaddr,
    addr_len: u32,
    deadline_ns: u64,
) -> c_int {
    guard_int(|| {
        non_null(addr.cast_mut())?;
        // SAFETY: the host's promise.
        let address = unsafe { buffer(addr.cast(), addr_len as usize) }?;
        // A copy, aligned as the kernel's structs are; -EINVAL if it is longer than any address.
        let address = AddressBuffer::from_bytes(address).ok_or(Error::INVAL)?;
        stream::connect(fd, address.bytes(), deadline_ns).map(|()| 0)
    })
}

/// Waits until one of events (SWN_POLLIN, SWN_POLLOUT, or others of poll(2)) holds, and returns those that do, with
/// POLLERR and POLLHUP; or -ETIMEDOUT, -ECANCELED, -EBADF, -EINVAL. Level-triggered: it says what poll(2) says. For
/// descriptors that another library reads and writes. Any thread; may park.
#[unsafe(no_mangle)]
pub extern "C" fn swn_poll(fd: c_int, events: c_int, deadline_ns: u64) -> c_int {
    guard_int(|| poll::poll(fd, events, deadline_ns))
}

/// A listening TCP socket, owned (released with swn_close). address is a numeric IPv4 or IPv6 address, or NULL for all of
/// both; port 0: the system chooses; backlog below 1: the system's greatest. -EINVAL for another address or flag, or an
/// error of socket(2), bind(2), listen(2). Any thread; never parks.
///
/// # Safety
/// address is NULL or zero-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_tcp_listen(
    address: *const c_char,
    port: u16,
    backlog: c_int,
    flags: u32,
) -> c_int {
    guard_int(|| {
        if flags & !SWN_LISTEN_REUSEPORT != 0 {
            return Err(Error::INVAL);
        }
        // SAFETY: the host's promise.
        let text = (!address.is_null()).then(|| unsafe { bytes(address) });
        let text = text.map(std::str::from_utf8).transpose();
        let text = text.map_err(|_| Error::INVAL)?;
        socket::tcp_listen(text, port, backlog, flags & SWN_LISTEN_REUSEPORT != 0)
    })
}

/// Connects to host (a name or a numeric address) with TCP_NODELAY; the descriptor is owned (released with swn_close). Of
/// several addresses each gets an equal share of the time that is left. -ETIMEDOUT, -ECANCELED, an error of connect(2), or
/// a code of the look-up. Any thread; may park.
///
/// # Safety
/// host is zero-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_tcp_connect(
    host: *const c_char,
    port: u16,
    deadline_ns: u64,
) -> c_int {
    guard_int(|| {
        non_null(host.cast_mut())?;
        // SAFETY: the host's promise.
        let host = std::str::from_utf8(unsafe { bytes(host) }).map_err(|_| Error::INVAL)?;
        socket::tcp_connect(host, port, deadline_ns)
    })
}

/// A listening Unix socket at path, which must not exist; owned (released with swn_close; the path stays). -ENAMETOOLONG
/// beyond 107 bytes. backlog as for swn_tcp_listen. Any thread; never parks.
///
/// # Safety
/// path is zero-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_unix_listen(path: *const c_char, backlog: c_int) -> c_int {
    guard_int(|| {
        non_null(path.cast_mut())?;
        // SAFETY: the host's promise.
        socket::unix_listen(unsafe { bytes(path) }, backlog)
    })
}

/// Connects to the Unix socket at path; the descriptor is owned (released with swn_close). Waits while the listener's
/// backlog is full. Any thread; may park.
///
/// # Safety
/// path is zero-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_unix_connect(path: *const c_char, deadline_ns: u64) -> c_int {
    guard_int(|| {
        non_null(path.cast_mut())?;
        // SAFETY: the host's promise.
        socket::unix_connect(unsafe { bytes(path) }, deadline_ns)
    })
}

/// A pipe: `fds[0]` to read, `fds[1]` to write, both owned (released with swn_close), non-blocking and close-on-exec. 0 or an
/// error of pipe(2). Any thread; never parks.
///
/// # Safety
/// fds has room for two.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_pipe(fds: *mut c_int) -> c_int {
    guard_int(|| {
        let fds = non_null(fds)?;
        let ends = pipe::pipe()?;
        // SAFETY: the host's promise.
        unsafe { fds.cast::<[c_int; 2]>().write_unaligned(ends) };
        Ok(0)
    })
}

/// Closes fd. vthreads that wait for it get -ECANCELED, in whatever runtime; an OS thread that blocks on it does not
/// notice, as with close(2). 0 or an error of close(2). Any thread; never parks.
#[unsafe(no_mangle)]
pub extern "C" fn swn_close(fd: c_int) -> c_int {
    guard_int(|| stream::close(fd).map(|()| 0))
}

/// Gives fd back to the host, which then closes it by itself or goes on using it: vthreads that wait for it get
/// -ECANCELED, and it is blocking again if it was before its first use. 0 or -EBADF. Any thread; never parks.
#[unsafe(no_mangle)]
pub extern "C" fn swn_fd_forget(fd: c_int) -> c_int {
    guard_int(|| io::forget(fd).map(|()| 0))
}

/// Waits for one of the signals in signal_mask (bit n-1: signal n), which the host has blocked in all of its threads, and
/// returns its number; or -ETIMEDOUT, -ECANCELED, -EINVAL. Any thread; may park.
#[unsafe(no_mangle)]
pub extern "C" fn swn_signal_wait(signal_mask: u64, deadline_ns: u64) -> c_int {
    guard_int(|| signal::wait(signal_mask, deadline_ns))
}

/// A count as the ABI returns it.
pub(crate) fn count(result: Result<usize>) -> Result<i64> {
    result.map(|n| n as i64)
}
