//! Making connected and listening sockets.

use super::{OwnedFd, resolve, stream, sys};
use crate::error::{Error, Result};
use crate::primitive::clock::{FOREVER, now_ns};
use crate::reactor::AddressBuffer;
use crate::scheduler::block;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// First and longest pause between attempts to connect to a Unix socket whose backlog is full, of which there is no event.
/// Guesses.
const FULL_PAUSE_NS: u64 = 500_000;
const FULL_PAUSE_MAX_NS: u64 = 16_000_000;

fn tcp_socket(address: &SocketAddr) -> Result<OwnedFd> {
    let family = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    stream::new_socket(family, libc::IPPROTO_TCP)
}

fn backlog_or_default(backlog: i32) -> i32 {
    if backlog > 0 {
        backlog
    } else {
        libc::SOMAXCONN
    }
}

/// A listener at a numeric address, or at all of both families. Port 0: the system chooses. A backlog below 1 is the
/// system's greatest.
pub(crate) fn tcp_listen(
    address: Option<&str>,
    port: u16,
    backlog: i32,
    reuseport: bool,
) -> Result<i32> {
    let Some(address) = address else {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        return match listen_at(any, backlog, reuseport) {
            // A machine without IPv6.
            Err(e) if matches!(e.errno(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {
                listen_at((Ipv4Addr::UNSPECIFIED, port).into(), backlog, reuseport)
            }
            result => result,
        };
    };
    let address: IpAddr = address.parse().map_err(|_| Error::INVAL)?;
    listen_at((address, port).into(), backlog, reuseport)
}

fn listen_at(address: SocketAddr, backlog: i32, reuseport: bool) -> Result<i32> {
    let socket = tcp_socket(&address)?;
    sys::set_option(socket.0, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if reuseport {
        sys::set_option(socket.0, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    }
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        // Both families, whatever the system's default is (ipv6(7)).
        sys::set_option(socket.0, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0)?;
    }
    sys::bind(socket.0, &sys::address(&address))?;
    sys::listen(socket.0, backlog_or_default(backlog))?;
    Ok(socket.into_raw())
}

/// Connects to the first address of `host` that answers, with TCP_NODELAY. Each address gets an equal share of the time
/// that is left.
pub(crate) fn tcp_connect(host: &str, port: u16, deadline_ns: u64) -> Result<i32> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return connect_at((address, port).into(), deadline_ns);
    }
    let addresses = resolve::tcp_addresses(host, port, deadline_ns)?;
    let mut last = Error::NOENT;
    for (i, address) in addresses.iter().enumerate() {
        let share = if deadline_ns == FOREVER {
            FOREVER
        } else {
            let now = now_ns();
            now + deadline_ns.saturating_sub(now) / (addresses.len() - i) as u64
        };
        match connect_at(*address, share) {
            Ok(fd) => return Ok(fd),
            Err(Error::CANCELED) => return Err(Error::CANCELED),
            Err(e) => last = e,
        }
    }
    Err(last)
}

fn connect_at(address: SocketAddr, deadline_ns: u64) -> Result<i32> {
    let socket = tcp_socket(&address)?;
    stream::set_nodelay(socket.0)?;
    stream::connect(socket.0, sys::address(&address).bytes(), deadline_ns)?;
    Ok(socket.into_raw())
}

/// A listener at a path, which must not exist.
pub(crate) fn unix_listen(path: &[u8], backlog: i32) -> Result<i32> {
    let address = sys::unix_address(path)?;
    let socket = stream::new_socket(libc::AF_UNIX, 0)?;
    sys::bind(socket.0, &address)?;
    sys::listen(socket.0, backlog_or_default(backlog))?;
    Ok(socket.into_raw())
}

/// Connects to the listener at a path.
pub(crate) fn unix_connect(path: &[u8], deadline_ns: u64) -> Result<i32> {
    let address: AddressBuffer = sys::unix_address(path)?;
    let socket = stream::new_socket(libc::AF_UNIX, 0)?;
    let mut pause = FULL_PAUSE_NS;
    loop {
        match stream::connect(socket.0, address.bytes(), deadline_ns) {
            Ok(()) => return Ok(socket.into_raw()),
            Err(Error::AGAIN) => {}
            Err(e) => return Err(e),
        }
        let now = now_ns();
        if now >= deadline_ns {
            return Err(Error::TIMEDOUT);
        }
        block::sleep_until(deadline_ns.min(now + pause))?;
        pause = (pause * 2).min(FULL_PAUSE_MAX_NS);
    }
}
