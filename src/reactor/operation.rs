//! What a caller wants done on a descriptor, and the attempt to do it without waiting.

use super::sys::{self, AddressBuffer, FdKind};
use crate::error::{Error, Result};
use crate::wait::Waiter;
use std::cell::Cell;
use std::io::IoSlice;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr;

/// The kinds. The pointers are borrowed for the operation's lifetime, which its constructors tie to the buffers.
enum Request {
    Read {
        buf: *mut u8,
        len: usize,
    },
    Write {
        buf: *const u8,
        len: usize,
    },
    Recv {
        buf: *mut u8,
        len: usize,
        flags: i32,
    },
    Send {
        buf: *const u8,
        len: usize,
        flags: i32,
    },
    SendVectored {
        parts: *const libc::iovec,
        count: usize,
        len: usize,
    },
    Accept {
        address: *mut AddressBuffer,
    },
    Connect {
        address: *const u8,
        len: usize,
    },
    Poll {
        events: i16,
    },
}

/// An operation lives in the frame of the caller that waits for it; see [`super::drive`].
pub(crate) struct Operation<'a> {
    fd: i32,
    request: Request,
    /// connect(2) has been called: from now on its result is asked for.
    started: Cell<bool>,
    /// The use of the descriptor number that it belongs to, once a driver has seen it.
    generation: Cell<Option<u32>>,
    /// One for each direction it may wait for.
    waiters: [Waiter; 2],
    _buffers: PhantomData<&'a mut [u8]>,
}

/// What an attempt came to.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Attempted {
    Done(Result<usize>),
    /// Done, and the kernel's buffer is known to be empty (reading) or full (writing) now.
    Exhausted(usize),
    WouldBlock,
}

/// The directions an operation may wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Directions {
    Read,
    Write,
    Both,
}

impl<'a> Operation<'a> {
    fn new(fd: i32, request: Request) -> Operation<'a> {
        Operation {
            fd,
            request,
            started: Cell::new(false),
            generation: Cell::new(None),
            waiters: [const { Waiter::new() }; 2],
            _buffers: PhantomData,
        }
    }

    /// read(2).
    pub(crate) fn read(fd: i32, buf: &'a mut [MaybeUninit<u8>]) -> Operation<'a> {
        let (buf, len) = (buf.as_mut_ptr().cast(), buf.len());
        Self::new(fd, Request::Read { buf, len })
    }

    /// write(2), without SIGPIPE.
    pub(crate) fn write(fd: i32, buf: &'a [u8]) -> Operation<'a> {
        let (buf, len) = (buf.as_ptr(), buf.len());
        Self::new(fd, Request::Write { buf, len })
    }

    /// recv(2).
    pub(crate) fn recv(fd: i32, buf: &'a mut [MaybeUninit<u8>], flags: i32) -> Operation<'a> {
        let (buf, len) = (buf.as_mut_ptr().cast(), buf.len());
        Self::new(fd, Request::Recv { buf, len, flags })
    }

    /// send(2), without SIGPIPE.
    pub(crate) fn send(fd: i32, buf: &'a [u8], flags: i32) -> Operation<'a> {
        let (buf, len) = (buf.as_ptr(), buf.len());
        Self::new(fd, Request::Send { buf, len, flags })
    }

    /// sendmsg(2) of all parts, without SIGPIPE.
    pub(crate) fn send_vectored(fd: i32, parts: &'a [IoSlice<'a>]) -> Operation<'a> {
        let len = parts.iter().map(|part| part.len()).sum();
        // IoSlice has the layout of an iovec on Unix (its documentation promises so).
        let (parts, count) = (parts.as_ptr().cast(), parts.len());
        Self::new(fd, Request::SendVectored { parts, count, len })
    }

    /// accept4(2): the result is the new descriptor.
    pub(crate) fn accept(fd: i32, address: Option<&'a mut AddressBuffer>) -> Operation<'a> {
        let address = address.map_or(ptr::null_mut(), ptr::from_mut);
        Self::new(fd, Request::Accept { address })
    }

    /// connect(2) to the address in `address`.
    pub(crate) fn connect(fd: i32, address: &'a [u8]) -> Operation<'a> {
        let (address, len) = (address.as_ptr(), address.len());
        Self::new(fd, Request::Connect { address, len })
    }

    /// poll(2): the result is the set of events.
    pub(crate) fn poll(fd: i32, events: i16) -> Operation<'a> {
        Self::new(fd, Request::Poll { events })
    }

    pub(crate) fn fd(&self) -> i32 {
        self.fd
    }

    pub(crate) fn is_connect(&self) -> bool {
        matches!(self.request, Request::Connect { .. })
    }

    pub(crate) fn is_accept(&self) -> bool {
        matches!(self.request, Request::Accept { .. })
    }

    /// A poll, whose attempt asks the kernel whatever is known.
    pub(crate) fn is_poll(&self) -> bool {
        matches!(self.request, Request::Poll { .. })
    }

    /// A connect that has not begun.
    pub(crate) fn is_fresh_connect(&self) -> bool {
        self.is_connect() && !self.started.get()
    }

    pub(crate) fn directions(&self) -> Directions {
        match self.request {
            Request::Read { .. } | Request::Recv { .. } | Request::Accept { .. } => {
                Directions::Read
            }
            Request::Poll { events } => match (events & !libc::POLLOUT, events & libc::POLLOUT) {
                (_, 0) => Directions::Read,
                (0, _) => Directions::Write,
                _ => Directions::Both,
            },
            _ => Directions::Write,
        }
    }

    /// The events of poll(2) that it waits for.
    pub(crate) fn events(&self) -> i16 {
        match (&self.request, self.directions()) {
            (Request::Poll { events }, _) => *events,
            (_, Directions::Write) => libc::POLLOUT,
            _ => libc::POLLIN,
        }
    }

    pub(crate) fn generation(&self) -> Option<u32> {
        self.generation.get()
    }

    pub(crate) fn set_generation(&self, generation: u32) {
        self.generation.set(Some(generation));
    }

    /// The nodes for reading and for writing.
    pub(crate) fn waiters(&self) -> &[Waiter; 2] {
        &self.waiters
    }

    /// Tries it, without waiting. The descriptor must be non-blocking, unless it is a socket and this neither accept nor
    /// connect.
    pub(crate) fn attempt(&self, kind: FdKind) -> Attempted {
        let fd = self.fd;
        let is_socket = kind != FdKind::Other;
        // A flag such as MSG_PEEK leaves bytes behind.
        let mut plain = kind == FdKind::Tcp;
        // SAFETY: the constructors took the pointers from references that outlive the operation, with these lengths.
        let (result, len) = unsafe {
            match self.request {
                // read(2) of nothing returns at once, recv(2) may not.
                Request::Read { buf, len } if is_socket && len > 0 => {
                    (sys::recv(fd, buf, len, 0), len)
                }
                Request::Read { buf, len } => (sys::read(fd, buf, len), len),
                Request::Write { buf, len } if is_socket => (sys::send(fd, buf, len, 0), len),
                Request::Write { buf, len } => (sys::write(fd, buf, len), len),
                Request::Recv { buf, len, flags } => {
                    plain &= flags == 0;
                    (sys::recv(fd, buf, len, flags), len)
                }
                Request::Send { buf, len, flags } => {
                    plain &= flags & !libc::MSG_NOSIGNAL == 0;
                    (sys::send(fd, buf, len, flags), len)
                }
                Request::SendVectored { parts, count, len } => {
                    (sys::send_vectored(fd, parts, count), len)
                }
                Request::Accept { address } => (sys::accept(fd, address).map(|fd| fd as usize), 0),
                Request::Connect { address, len } => return self.attempt_connect(address, len),
                Request::Poll { events } => {
                    return match sys::poll_now(fd, events) {
                        Ok(0) => Attempted::WouldBlock,
                        Ok(events) => Attempted::Done(Ok(events as u16 as usize)),
                        Err(e) => Attempted::Done(Err(e)),
                    };
                }
            }
        };
        match result {
            Err(Error::AGAIN) => Attempted::WouldBlock,
            Ok(n) if plain && n > 0 && n < len => Attempted::Exhausted(n),
            result => Attempted::Done(result),
        }
    }

    fn attempt_connect(&self, address: *const u8, len: usize) -> Attempted {
        if !self.started.get() {
            // SAFETY: as in `attempt`.
            let result = unsafe { sys::connect(self.fd, address.cast(), len as libc::socklen_t) };
            return match result.map_err(|e| (e, e.errno())) {
                // EINTR: as EINPROGRESS (POSIX, connect).
                Err((_, Some(libc::EINPROGRESS | libc::EALREADY | libc::EINTR))) => {
                    self.started.set(true);
                    Attempted::WouldBlock
                }
                // Unix sockets, whose listener's backlog is full. There is no event to wait for; the caller tries again.
                Err((e, _)) => Attempted::Done(Err(e)),
                Ok(()) => Attempted::Done(Ok(0)),
            };
        }
        // Writable says that the attempt is over, and SO_ERROR how it ended (connect(2), EINPROGRESS).
        match sys::poll_now(self.fd, libc::POLLOUT) {
            Ok(0) => Attempted::WouldBlock,
            Ok(_) => Attempted::Done(sys::take_socket_error(self.fd).map(|()| 0)),
            Err(e) => Attempted::Done(Err(e)),
        }
    }
}
