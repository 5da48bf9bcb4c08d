//! The system calls of this level and all of its unsafe code; EINTR is retried where a call may be repeated.

#![allow(unsafe_code)]

use super::resolve::Hints;
use crate::error::{Error, Result};
use crate::reactor::AddressBuffer;
use std::ffi::CStr;
use std::mem::{self, MaybeUninit};
use std::net::SocketAddr;
use std::ptr;

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

fn check(result: i32) -> Result<i32> {
    if result < 0 {
        Err(Error::last_os())
    } else {
        Ok(result)
    }
}

/// Initialised bytes as a buffer to be filled; the calls of this crate write only initialised bytes into it.
pub(super) fn as_uninit(buf: &mut [u8]) -> &mut [MaybeUninit<u8>] {
    // SAFETY: same layout; nothing uninitialised is written through it (see above).
    unsafe { &mut *(ptr::from_mut(buf) as *mut [MaybeUninit<u8>]) }
}

/// A stream socket: non-blocking, close-on-exec.
pub(super) fn socket(family: i32, protocol: i32) -> Result<i32> {
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers.
    check(unsafe { libc::socket(family, kind, protocol) })
}

pub(super) fn bind(fd: i32, address: &AddressBuffer) -> Result<()> {
    let bytes = address.bytes();
    // SAFETY: the bytes of the address are readable, and aligned as a sockaddr_storage.
    check(unsafe { libc::bind(fd, bytes.as_ptr().cast(), bytes.len() as libc::socklen_t) })?;
    Ok(())
}

pub(super) fn listen(fd: i32, backlog: i32) -> Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::listen(fd, backlog) })?;
    Ok(())
}

pub(super) fn shutdown(fd: i32, how: i32) -> Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::shutdown(fd, how) })?;
    Ok(())
}

/// close(2). EINTR is success: the number is free (close(2), "Dealing with error returns").
pub(super) fn close(fd: i32) -> Result<()> {
    // SAFETY: no pointers; whoever owns the descriptor asked for it.
    match check(unsafe { libc::close(fd) }) {
        Ok(_) | Err(Error::INTR) => Ok(()),
        Err(e) => Err(e),
    }
}

pub(super) fn set_option(fd: i32, level: i32, option: i32, value: i32) -> Result<()> {
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `value` is readable for `len` bytes.
    check(unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), len) })?;
    Ok(())
}

/// An IP address as the kernel takes it.
pub(super) fn address(address: &SocketAddr) -> AddressBuffer {
    let built = match address {
        SocketAddr::V4(v4) => {
            // SAFETY: all-zero is a valid sockaddr_in.
            let mut out: libc::sockaddr_in = unsafe { mem::zeroed() };
            out.sin_family = libc::AF_INET as libc::sa_family_t;
            out.sin_port = v4.port().to_be();
            out.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
            AddressBuffer::from_bytes(bytes_of(&out))
        }
        SocketAddr::V6(v6) => {
            // SAFETY: all-zero is a valid sockaddr_in6.
            let mut out: libc::sockaddr_in6 = unsafe { mem::zeroed() };
            out.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            out.sin6_port = v6.port().to_be();
            out.sin6_flowinfo = v6.flowinfo();
            out.sin6_addr.s6_addr = v6.ip().octets();
            out.sin6_scope_id = v6.scope_id();
            AddressBuffer::from_bytes(bytes_of(&out))
        }
    };
    // Both fit into a sockaddr_storage.
    built.unwrap_or_else(AddressBuffer::new)
}

/// The address of a path: `NAMETOOLONG` beyond the 107 bytes that fit (unix(7)), `INVAL` for an empty one.
pub(super) fn unix_address(path: &[u8]) -> Result<AddressBuffer> {
    // SAFETY: all-zero is a valid sockaddr_un.
    let mut out: libc::sockaddr_un = unsafe { mem::zeroed() };
    if path.is_empty() {
        return Err(Error::INVAL);
    }
    if path.len() >= out.sun_path.len() {
        return Err(Error::NAMETOOLONG);
    }
    out.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (to, from) in out.sun_path.iter_mut().zip(path) {
        *to = *from as libc::c_char;
    }
    AddressBuffer::from_bytes(bytes_of(&out)).ok_or(Error::NAMETOOLONG)
}

/// The bytes of a socket address that was zeroed before it was filled in.
fn bytes_of<T>(address: &T) -> &[u8] {
    // SAFETY: only for the structs above, which have no padding that was not zeroed.
    unsafe { std::slice::from_raw_parts(ptr::from_ref(address).cast(), size_of::<T>()) }
}

/// An IP address as the kernel gave it.
///
/// # Safety
/// `address` points to a socket address of its family.
unsafe fn read_address(address: *const libc::sockaddr) -> Option<SocketAddr> {
    // SAFETY: the caller's promise; the family comes first in all of them.
    match i32::from(unsafe { (*address).sa_family }) {
        libc::AF_INET => {
            // SAFETY: of that family.
            let v4 = unsafe { ptr::read_unaligned(address.cast::<libc::sockaddr_in>()) };
            let ip = v4.sin_addr.s_addr.to_ne_bytes();
            Some((ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: of that family.
            let v6 = unsafe { ptr::read_unaligned(address.cast::<libc::sockaddr_in6>()) };
            let ip = v6.sin6_addr.s6_addr.into();
            let port = u16::from_be(v6.sin6_port);
            let (flow, scope) = (v6.sin6_flowinfo, v6.sin6_scope_id);
            Some(std::net::SocketAddrV6::new(ip, port, flow, scope).into())
        }
        _ => None,
    }
}

/// The local port of an IP socket; `INVAL` for others.
pub(super) fn local_port(fd: i32) -> Result<u16> {
    let mut buffer = AddressBuffer::new();
    let (address, len) = buffer.parts();
    // SAFETY: the parts of an address buffer.
    check(unsafe { libc::getsockname(fd, address, len) })?;
    // SAFETY: filled in by the kernel.
    unsafe { read_address(address) }
        .map(|address| address.port())
        .ok_or(Error::INVAL)
}

/// A pipe's ends: non-blocking, close-on-exec.
pub(super) fn pipe() -> Result<[i32; 2]> {
    let mut ends = [-1; 2];
    // SAFETY: room for two.
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) })?;
    Ok(ends)
}

/// Whether writes to it never wait for a reader: a regular file or a block device.
pub(super) fn is_regular(fd: i32) -> bool {
    // SAFETY: all-zero is a valid stat to be filled in.
    let mut stat: libc::stat = unsafe { mem::zeroed() };
    // SAFETY: `stat` is writable.
    let result = unsafe { libc::fstat(fd, &mut stat) };
    result == 0 && matches!(stat.st_mode & libc::S_IFMT, libc::S_IFREG | libc::S_IFBLK)
}

pub(super) fn open(path: &CStr, flags: i32, mode: u32) -> Result<i32> {
    let flags = flags | libc::O_CLOEXEC;
    // SAFETY: a zero-terminated path.
    retry(|| unsafe { libc::open(path.as_ptr(), flags, mode) } as isize).map(|fd| fd as i32)
}

pub(super) fn pread(fd: i32, buf: &mut [MaybeUninit<u8>], offset: i64) -> Result<usize> {
    // SAFETY: the buffer is writable for its length.
    retry(|| unsafe { libc::pread(fd, buf.as_mut_ptr().cast(), buf.len(), offset) })
}

pub(super) fn pwrite(fd: i32, buf: &[u8], offset: i64) -> Result<usize> {
    // SAFETY: the buffer is readable for its length.
    retry(|| unsafe { libc::pwrite(fd, buf.as_ptr().cast(), buf.len(), offset) })
}

pub(super) fn fsync(fd: i32) -> Result<()> {
    // SAFETY: no pointers.
    retry(|| unsafe { libc::fsync(fd) } as isize).map(|_| ())
}

/// A signalfd for `mask` (bit n-1: signal n): non-blocking, close-on-exec.
pub(super) fn signalfd(mask: u64) -> Result<i32> {
    // SAFETY: all-zero is a valid sigset_t to be filled in.
    let mut set: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: `set` is writable.
    unsafe { libc::sigemptyset(&mut set) };
    for signal in (1..=64).filter(|n| mask & (1 << (n - 1)) != 0) {
        // SAFETY: as above. The few numbers that libc keeps for itself are refused.
        check(unsafe { libc::sigaddset(&mut set, signal) })?;
    }
    let flags = libc::SFD_NONBLOCK | libc::SFD_CLOEXEC;
    // SAFETY: `set` is readable.
    check(unsafe { libc::signalfd(-1, &set, flags) })
}

/// What a signalfd tells of one signal.
pub(super) struct SignalMessage(libc::signalfd_siginfo);

impl SignalMessage {
    pub(super) fn new() -> SignalMessage {
        // SAFETY: all-zero is a valid signalfd_siginfo.
        SignalMessage(unsafe { mem::zeroed() })
    }

    pub(super) fn buffer(&mut self) -> &mut [MaybeUninit<u8>] {
        let len = size_of::<libc::signalfd_siginfo>();
        // SAFETY: exactly the struct, of which all bytes may be written; only initialised ones are.
        unsafe { std::slice::from_raw_parts_mut((&raw mut self.0).cast(), len) }
    }

    pub(super) fn number(&self) -> i32 {
        self.0.ssi_signo as i32
    }
}

/// A list from getaddrinfo(3). Owned: freed when dropped, unless taken by `into_raw`.
pub(crate) struct AddressList(*mut libc::addrinfo);

// SAFETY: the list is plain memory that one owner reads and frees, on whatever thread.
unsafe impl Send for AddressList {}

impl AddressList {
    /// The list; the caller frees it with freeaddrinfo(3).
    pub(crate) fn into_raw(self) -> *mut libc::addrinfo {
        let list = self.0;
        mem::forget(self);
        list
    }

    /// The IP addresses in it, with `port`.
    pub(super) fn addresses(&self, port: u16) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        let mut next = self.0;
        while !next.is_null() {
            // SAFETY: a list from getaddrinfo: each element and its address are valid until it is freed.
            let (address, after) = unsafe { (read_address((*next).ai_addr), (*next).ai_next) };
            if let Some(mut address) = address {
                address.set_port(port);
                addresses.push(address);
            }
            next = after;
        }
        addresses
    }
}

impl Drop for AddressList {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: from getaddrinfo, and not freed before.
            unsafe { libc::freeaddrinfo(self.0) };
        }
    }
}

/// getaddrinfo(3).
pub(super) fn getaddrinfo(
    node: Option<&CStr>,
    service: Option<&CStr>,
    hints: Hints,
) -> Result<AddressList> {
    // SAFETY: all-zero is a valid addrinfo.
    let mut wanted: libc::addrinfo = unsafe { mem::zeroed() };
    wanted.ai_flags = hints.flags;
    wanted.ai_family = hints.family;
    wanted.ai_socktype = hints.socktype;
    wanted.ai_protocol = hints.protocol;
    let mut list = ptr::null_mut();
    let node = node.map_or(ptr::null(), CStr::as_ptr);
    let service = service.map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: zero-terminated strings or null, valid hints, a place for the list.
    match unsafe { libc::getaddrinfo(node, service, &wanted, &mut list) } {
        0 => Ok(AddressList(list)),
        libc::EAI_SYSTEM => Err(Error::last_os()),
        code => Err(Error::from_address_info(code)),
    }
}
