//! Streams: read, write, accept, connect, close.

pub(crate) use super::socket::tcp_listen;

use super::{perform, release, sys, thread};
use crate::error::{Error, Result};
use crate::reactor::{self, AddressBuffer, FdKind, Operation};
use crate::scheduler::{block, current};
use std::io::IoSlice;
use std::mem::MaybeUninit;

/// Parts that one system call takes.
const PARTS: usize = 16;

/// read(2): the count, 0 at the end.
pub(crate) fn read(fd: i32, buf: &mut [MaybeUninit<u8>], deadline_ns: u64) -> Result<usize> {
    perform(&Operation::read(fd, buf), deadline_ns)
}

/// write(2), without SIGPIPE; counts may be short.
pub(crate) fn write(fd: i32, buf: &[u8], deadline_ns: u64) -> Result<usize> {
    let len = if block::in_vthread() {
        buf.len()
    } else {
        thread::write_len(fd, buf.len(), deadline_ns)
    };
    perform(&Operation::write(fd, &buf[..len]), deadline_ns)
}

/// Writes all of `buf`; after an error some of it may have been written.
pub(crate) fn write_all(fd: i32, buf: &[u8], deadline_ns: u64) -> Result<()> {
    all(buf, |rest| write(fd, rest, deadline_ns))
}

/// recv(2) into memory that need not be initialised.
pub(crate) fn recv_into(
    fd: i32,
    buf: &mut [MaybeUninit<u8>],
    flags: i32,
    deadline_ns: u64,
) -> Result<usize> {
    perform(&Operation::recv(fd, buf, flags), deadline_ns)
}

/// recv(2) without flags.
pub(crate) fn recv(fd: i32, buf: &mut [u8], deadline_ns: u64) -> Result<usize> {
    recv_into(fd, sys::as_uninit(buf), 0, deadline_ns)
}

/// send(2) with flags, without SIGPIPE.
pub(crate) fn send_with(fd: i32, buf: &[u8], flags: i32, deadline_ns: u64) -> Result<usize> {
    perform(&Operation::send(fd, buf, flags), deadline_ns)
}

/// send(2), without SIGPIPE.
pub(crate) fn send(fd: i32, buf: &[u8], deadline_ns: u64) -> Result<usize> {
    send_with(fd, buf, 0, deadline_ns)
}

/// Sends all of `buf`.
pub(crate) fn send_all(fd: i32, buf: &[u8], deadline_ns: u64) -> Result<()> {
    all(buf, |rest| send(fd, rest, deadline_ns))
}

fn all(mut rest: &[u8], mut write: impl FnMut(&[u8]) -> Result<usize>) -> Result<()> {
    while !rest.is_empty() {
        rest = &rest[write(rest)?..];
    }
    Ok(())
}

/// Sends all parts, in order.
pub(crate) fn send_vectored_all(fd: i32, parts: &[&[u8]], deadline_ns: u64) -> Result<()> {
    for group in parts.chunks(PARTS) {
        let mut slices = [IoSlice::new(&[]); PARTS];
        for (slice, part) in slices.iter_mut().zip(group) {
            *slice = IoSlice::new(part);
        }
        let mut rest = &mut slices[..group.len()];
        // Empty parts in front would make an empty message of their own.
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let sent = perform(&Operation::send_vectored(fd, rest), deadline_ns)?;
            IoSlice::advance_slices(&mut rest, sent);
        }
    }
    Ok(())
}

/// Accepts a connection: non-blocking, close-on-exec.
pub(crate) fn accept(fd: i32, deadline_ns: u64) -> Result<i32> {
    accept_from(fd, None, deadline_ns)
}

/// As [`accept`], and tells the peer's address.
pub(crate) fn accept_from(
    fd: i32,
    address: Option<&mut AddressBuffer>,
    deadline_ns: u64,
) -> Result<i32> {
    let accepted = perform(&Operation::accept(fd, address), deadline_ns)? as i32;
    // The driver that accepted it knows it already.
    let own = current::with_reactor(|own, _| reactor::release_elsewhere(accepted, Some(own)));
    if own.is_none() {
        reactor::release_elsewhere(accepted, None);
    }
    Ok(accepted)
}

/// connect(2). After `TIMEDOUT` the attempt goes on in the background: close the socket.
pub(crate) fn connect(fd: i32, address: &[u8], deadline_ns: u64) -> Result<()> {
    perform(&Operation::connect(fd, address), deadline_ns).map(|_| ())
}

/// Closes `fd`; whoever waits for it gets `CANCELED`.
pub(crate) fn close(fd: i32) -> Result<()> {
    if fd < 0 {
        return Err(Error::BADF);
    }
    release(fd);
    sys::close(fd)
}

/// No more reads: whoever waits for one sees the end, and a listener accepts no more.
pub(crate) fn shutdown_read(fd: i32) -> Result<()> {
    sys::shutdown(fd, libc::SHUT_RD)
}

/// No more writes: the peer sees the end.
pub(crate) fn shutdown_write(fd: i32) -> Result<()> {
    sys::shutdown(fd, libc::SHUT_WR)
}

/// TCP_NODELAY.
pub(crate) fn set_nodelay(fd: i32) -> Result<()> {
    sys::set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)
}

/// The local port of an IP socket.
pub(crate) fn local_port(fd: i32) -> Result<u16> {
    sys::local_port(fd)
}

/// A new socket of ours, announced.
pub(super) fn new_socket(family: i32, protocol: i32) -> Result<super::OwnedFd> {
    let fd = sys::socket(family, protocol)?;
    let kind = if protocol == libc::IPPROTO_TCP {
        FdKind::Tcp
    } else {
        FdKind::Socket
    };
    super::announce(fd, kind);
    Ok(super::OwnedFd(fd))
}
