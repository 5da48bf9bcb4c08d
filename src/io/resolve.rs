//! Names to addresses: getaddrinfo(3), which blocks, by offload.

use super::sys::{self, AddressList};
use crate::error::{Error, Result};
use crate::offload;
use std::ffi::CString;
use std::net::SocketAddr;

/// What is asked for; the fields of an `addrinfo` of the same names.
#[derive(Clone, Copy, Default)]
pub(crate) struct Hints {
    pub(crate) flags: i32,
    pub(crate) family: i32,
    pub(crate) socktype: i32,
    pub(crate) protocol: i32,
}

/// getaddrinfo(3). At the deadline a look-up under way is abandoned; it owns what it uses.
pub(crate) fn look_up(
    node: Option<CString>,
    service: Option<CString>,
    hints: Hints,
    deadline_ns: u64,
) -> Result<AddressList> {
    offload::run_owned(deadline_ns, move || {
        sys::getaddrinfo(node.as_deref(), service.as_deref(), hints)
    })?
}

/// The TCP addresses of a name.
pub(super) fn tcp_addresses(host: &str, port: u16, deadline_ns: u64) -> Result<Vec<SocketAddr>> {
    let node = CString::new(host).map_err(|_| Error::INVAL)?;
    let hints = Hints {
        socktype: libc::SOCK_STREAM,
        ..Hints::default()
    };
    let list = look_up(Some(node), None, hints, deadline_ns)?;
    let addresses = list.addresses(port);
    if addresses.is_empty() {
        return Err(Error::from_address_info(libc::EAI_NONAME));
    }
    Ok(addresses)
}
