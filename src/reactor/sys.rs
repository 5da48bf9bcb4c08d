//! The system calls of operations and of adoption, EINTR retried. They never wait (the descriptors are non-blocking, or
//! MSG_DONTWAIT is set), except [`wait_readable`].

use crate::error::{Error, Result};
use crate::primitive::clock::now_ns;
use std::mem;
use std::ptr;

/// What a descriptor is, as far as the way to read and write it depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FdKind {
    /// Pipe, terminal, eventfd, file: read(2) and write(2).
    Other,
    /// A socket whose reads may be short although more is there: datagrams, and Unix streams, where a message that
    /// carries descriptors ends a read (unix(7)).
    Socket,
    /// A TCP socket: a short read has emptied the kernel's buffer.
    Tcp,
}

/// Repeats a call that a signal handler interrupted.
fn retry(mut call: impl FnMut() -> isize) -> Result<usize> {
    loop {
        let n = call();
        if n >= 0 {
            return Ok(n as usize);
        }
        let error = Error::last_os();
        if error != Error::INTR {
            return Err(error);
        }
    }
}

/// read(2).
///
/// # Safety
/// `buf` is valid for writes of `len` bytes.
pub(crate) unsafe fn read(fd: i32, buf: *mut u8, len: usize) -> Result<usize> {
    // SAFETY: the caller's promise.
    retry(|| unsafe { libc::read(fd, buf.cast(), len) })
}

/// recv(2) that does not wait.
///
/// # Safety
/// As for [`read`].
pub(crate) unsafe fn recv(fd: i32, buf: *mut u8, len: usize, flags: i32) -> Result<usize> {
    let flags = flags | libc::MSG_DONTWAIT;
    let none = ptr::null_mut::<libc::c_void>();
    // Past the C library's function, as in `send`: it is a cancellation point, and two atomic operations for that are 2 to 3
    // percent of the CPU time of an echo server. Our threads are not cancelled, and the call does not wait.
    // SAFETY: the caller's promise; recvfrom(2) without an address is recv(2).
    retry(|| unsafe { libc::syscall(libc::SYS_recvfrom, fd, buf, len, flags, none, none) } as isize)
}

/// send(2) that neither waits nor raises SIGPIPE.
///
/// # Safety
/// `buf` is valid for reads of `len` bytes.
pub(crate) unsafe fn send(fd: i32, buf: *const u8, len: usize, flags: i32) -> Result<usize> {
    let flags = flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let none = ptr::null_mut::<libc::c_void>();
    // SAFETY: the caller's promise; sendto(2) without an address is send(2).
    retry(|| unsafe { libc::syscall(libc::SYS_sendto, fd, buf, len, flags, none, 0) } as isize)
}

/// sendmsg(2) of `count` parts that neither waits nor raises SIGPIPE.
///
/// # Safety
/// `parts` points to `count` valid iovecs.
pub(crate) unsafe fn send_vectored(
    fd: i32,
    parts: *const libc::iovec,
    count: usize,
) -> Result<usize> {
    // SAFETY: all-zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = parts.cast_mut();
    message.msg_iovlen = count as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `message` names only the parts, which are valid by the caller's promise and are not written to.
    retry(|| unsafe { libc::syscall(libc::SYS_sendmsg, fd, &raw const message, flags) } as isize)
}

/// write(2) whose SIGPIPE, should it raise one, is taken back: the signal goes to the calling thread, so it is blocked
/// around the call, and fetched if the call raised it. A SIGPIPE that was pending before stays.
///
/// # Safety
/// `buf` is valid for reads of `len` bytes.
pub(crate) unsafe fn write(fd: i32, buf: *const u8, len: usize) -> Result<usize> {
    // SAFETY: all-zero is a valid sigset_t to be filled in.
    let (mut pipe, mut old, mut pending): (libc::sigset_t, libc::sigset_t, libc::sigset_t) =
        unsafe { (mem::zeroed(), mem::zeroed(), mem::zeroed()) };
    // SAFETY: the sets are valid for writes. A thread's mask is changed and put back by the same thread: nothing in
    // between switches stacks.
    let was_pending = unsafe {
        libc::sigemptyset(&mut pipe);
        libc::sigaddset(&mut pipe, libc::SIGPIPE);
        libc::pthread_sigmask(libc::SIG_BLOCK, &pipe, &mut old);
        // Only a signal that the host has blocked can have been pending.
        libc::sigismember(&old, libc::SIGPIPE) == 1
            && libc::sigpending(&mut pending) == 0
            && libc::sigismember(&pending, libc::SIGPIPE) == 1
    };
    // SAFETY: the caller's promise.
    let result = retry(|| unsafe { libc::write(fd, buf.cast(), len) });
    if result == Err(Error::from_errno(libc::EPIPE)) && !was_pending {
        let zero = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: valid set and timespec; no siginfo is wanted.
        let _ = retry(|| unsafe { libc::sigtimedwait(&pipe, ptr::null_mut(), &zero) } as isize);
    }
    // SAFETY: `old` was filled in above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &old, ptr::null_mut()) };
    result
}

/// A socket address of any family, with room for the longest.
pub(crate) struct AddressBuffer {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

impl AddressBuffer {
    pub(crate) fn new() -> AddressBuffer {
        AddressBuffer {
            // SAFETY: all-zero is a valid sockaddr_storage (family AF_UNSPEC).
            storage: unsafe { mem::zeroed() },
            len: size_of::<libc::sockaddr_storage>() as libc::socklen_t,
        }
    }

    /// An address that is given: its bytes, which must not be longer than any address is.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<AddressBuffer> {
        let mut address = AddressBuffer::new();
        if bytes.len() > size_of::<libc::sockaddr_storage>() {
            return None;
        }
        address.len = bytes.len() as libc::socklen_t;
        // SAFETY: the storage has room for the bytes, as checked above, and may hold any.
        unsafe {
            let storage = (&raw mut address.storage).cast::<u8>();
            ptr::copy_nonoverlapping(bytes.as_ptr(), storage, bytes.len());
        }
        Some(address)
    }

    /// The address and its length as the kernel gave it.
    pub(crate) fn bytes(&self) -> &[u8] {
        let len = (self.len as usize).min(size_of::<libc::sockaddr_storage>());
        // SAFETY: the storage was zeroed, so all of its bytes are initialised.
        unsafe { std::slice::from_raw_parts((&raw const self.storage).cast(), len) }
    }

    /// The buffer for a call that fills it in: both are reset first.
    pub(crate) fn parts(&mut self) -> (*mut libc::sockaddr, *mut libc::socklen_t) {
        self.len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        ((&raw mut self.storage).cast(), &raw mut self.len)
    }
}

/// accept4(2): the new descriptor is non-blocking and close-on-exec. Connections that died in the backlog are passed over.
///
/// # Safety
/// `address` is null or valid for writes.
pub(crate) unsafe fn accept(fd: i32, address: *mut AddressBuffer) -> Result<i32> {
    loop {
        let (addr, len) = if address.is_null() {
            (ptr::null_mut(), ptr::null_mut())
        } else {
            // SAFETY: valid by the caller's promise.
            unsafe { &mut *address }.parts()
        };
        let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: both are null, or the parts of an address buffer.
        match retry(|| unsafe { libc::accept4(fd, addr, len, flags) } as isize) {
            // accept(2), "Error handling": errors that are already pending on the new socket concern that one only.
            Err(e) if matches!(e.errno(), Some(libc::ECONNABORTED | libc::EPROTO)) => {}
            result => return result.map(|fd| fd as i32),
        }
    }
}

/// connect(2), not repeated after EINTR: the connection then goes on in the background, as with EINPROGRESS.
///
/// # Safety
/// `address` is valid for reads of `len` bytes.
pub(crate) unsafe fn connect(
    fd: i32,
    address: *const libc::sockaddr,
    len: libc::socklen_t,
) -> Result<()> {
    // SAFETY: the caller's promise.
    match unsafe { libc::connect(fd, address, len) } {
        0 => Ok(()),
        _ => Err(Error::last_os()),
    }
}

fn int_option(fd: i32, option: i32) -> Result<i32> {
    let mut value = 0i32;
    let mut len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `value` has room for `len` bytes.
    let result = unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            option,
            (&raw mut value).cast(),
            &mut len,
        )
    };
    if result == 0 {
        Ok(value)
    } else {
        Err(Error::last_os())
    }
}

/// Takes the pending error of a socket (`SO_ERROR`).
pub(crate) fn take_socket_error(fd: i32) -> Result<()> {
    match int_option(fd, libc::SO_ERROR)? {
        0 => Ok(()),
        errno => Err(Error::from_errno(errno)),
    }
}

/// Learns what `fd` is.
pub(crate) fn kind(fd: i32) -> Result<FdKind> {
    match int_option(fd, libc::SO_PROTOCOL) {
        // An MPTCP socket is left out: what its short reads say is not documented.
        Ok(libc::IPPROTO_TCP) => Ok(FdKind::Tcp),
        Ok(_) => Ok(FdKind::Socket),
        Err(e) if e.errno() == Some(libc::ENOTSOCK) => Ok(FdKind::Other),
        Err(e) => Err(e),
    }
}

/// Whether O_NONBLOCK is set.
pub(crate) fn is_nonblocking(fd: i32) -> Result<bool> {
    // SAFETY: F_GETFL takes no pointer.
    let flags = retry(|| unsafe { libc::fcntl(fd, libc::F_GETFL) } as isize)?;
    Ok(flags as i32 & libc::O_NONBLOCK != 0)
}

/// Sets or clears O_NONBLOCK and says whether it was set before.
pub(crate) fn set_nonblocking(fd: i32, nonblocking: bool) -> Result<bool> {
    // SAFETY: F_GETFL takes no pointer.
    let flags = retry(|| unsafe { libc::fcntl(fd, libc::F_GETFL) } as isize)? as i32;
    let was = flags & libc::O_NONBLOCK != 0;
    if was != nonblocking {
        // SAFETY: F_SETFL takes no pointer.
        retry(|| unsafe { libc::fcntl(fd, libc::F_SETFL, flags ^ libc::O_NONBLOCK) } as isize)?;
    }
    Ok(was)
}

/// What of `events` (and POLLERR, POLLHUP) holds now: poll(2) without waiting.
pub(crate) fn poll_now(fd: i32, events: i16) -> Result<i16> {
    let mut entry = libc::pollfd {
        fd,
        events,
        revents: 0,
    };
    // SAFETY: one valid entry.
    retry(|| unsafe { libc::poll(&mut entry, 1, 0) } as isize)?;
    match entry.revents {
        r if r & libc::POLLNVAL != 0 => Err(Error::BADF),
        r => Ok(r),
    }
}

/// Waits until `fd` is readable, at most `timeout_ns`: ppoll(2), for its nanoseconds. A signal ends it early.
pub(crate) fn wait_readable(fd: i32, timeout_ns: u64) -> bool {
    let mut entry = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    let timeout = timespec(timeout_ns);
    // SAFETY: one valid entry, a valid timespec, no mask.
    unsafe { libc::ppoll(&mut entry, 1, &timeout, ptr::null()) > 0 }
}

/// Waits until one of `events` holds (POLLERR and POLLHUP always count), or until the deadline: `Ok(0)`.
pub(crate) fn poll_until(fd: i32, events: i16, deadline_ns: u64) -> Result<i16> {
    loop {
        let now = now_ns();
        let timeout = timespec(deadline_ns.saturating_sub(now));
        let limit = if deadline_ns == u64::MAX {
            ptr::null()
        } else {
            &raw const timeout
        };
        let mut entry = libc::pollfd {
            fd,
            events,
            revents: 0,
        };
        // SAFETY: one valid entry, a timespec that is null or valid, no mask.
        if unsafe { libc::ppoll(&mut entry, 1, limit, ptr::null()) } < 0 {
            match Error::last_os() {
                Error::INTR => continue,
                e => return Err(e),
            }
        }
        return match entry.revents {
            r if r & libc::POLLNVAL != 0 => Err(Error::BADF),
            r => Ok(r),
        };
    }
}

fn timespec(ns: u64) -> libc::timespec {
    libc::timespec {
        tv_sec: (ns / 1_000_000_000) as libc::time_t,
        tv_nsec: (ns % 1_000_000_000) as _,
    }
}
