//! One request with its response, as a handler sees it.
//!
//! Owns the order of a response (headers, then one body or chunks, then nothing) and its way out. Small responses
//! are only collected here; the connection sends them. *Bounded copy*: a large body goes to the kernel from the
//! handler's memory.

use std::sync::atomic::{AtomicBool, Ordering};

use matchit::Params;

use super::buffers::Output;
use super::request::Head;
use super::response::{self, BodyEnd, HeaderError, Persistence, ResponseHead};
use crate::error::Error;
use crate::io::stream;
use crate::runtime::coarse_ns;

/// Data up to this size is copied behind what waits to be sent: guess, the copy costs less than a second slice.
const COPIED_BYTES: usize = 16 * 1024;
/// A large body is sent in pieces of this size, each of which gets the whole timeout: slow readers are served while
/// they read. Guess: 1 KB/s at the default timeout.
const SEND_WINDOW: usize = 64 * 1024;

/// Where responses go, and how long a peer may take nothing.
#[derive(Clone, Copy)]
pub struct Peer {
    pub fd: i32,
    pub stall_timeout_ns: u64,
}

impl Peer {
    /// Sends everything collected.
    pub fn flush(self, collected: &mut Vec<u8>) -> Result<(), Error> {
        if collected.is_empty() {
            return Ok(());
        }
        let sent = stream::send_all(self.fd, collected, self.deadline_ns());
        collected.clear();
        sent
    }

    /// Sends what is collected, then `data`, then `tail`.
    fn send_through(self, collected: &mut Vec<u8>, data: &[u8], tail: &[u8]) -> Result<(), Error> {
        let mut rest = data;
        while rest.len() > SEND_WINDOW {
            let (window, later) = rest.split_at(SEND_WINDOW);
            let sent = stream::send_vectored_all(self.fd, &[collected, window], self.deadline_ns());
            collected.clear();
            sent?;
            rest = later;
        }
        let sent = stream::send_vectored_all(self.fd, &[collected, rest, tail], self.deadline_ns());
        collected.clear();
        sent
    }

    fn deadline_ns(self) -> u64 {
        coarse_ns().saturating_add(self.stall_timeout_ns)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Nothing of the response exists.
    Open,
    /// Between the head and the end of a body of unknown length.
    Streaming,
    Complete,
    /// The connection failed; so will everything else.
    Broken(Error),
}

/// What is left to do for the connection after a handler returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    KeepAlive,
    Close,
}

/// One request and its response. Lives until the handler returns.
pub struct Exchange<'a> {
    peer: Peer,
    head: &'a Head,
    /// From the first byte of the head to the last of the body.
    request: &'a [u8],
    params: Params<'a, 'a>,
    output: &'a mut Output,
    state: State,
    draining: &'a AtomicBool,
    may_persist: bool,
    is_head: bool,
    is_chunked: bool,
}

impl<'a> Exchange<'a> {
    /// `draining`: the server stops, and this exchange is the connection's last; read when the response begins.
    pub(super) fn new(
        peer: Peer,
        head: &'a Head,
        request: &'a [u8],
        output: &'a mut Output,
        draining: &'a AtomicBool,
    ) -> Self {
        output.extra.clear();
        Self {
            peer,
            head,
            request,
            params: Params::new(),
            output,
            state: State::Open,
            draining,
            may_persist: head.keep_alive,
            is_head: &request[head.method.range()] == b"HEAD",
            is_chunked: false,
        }
    }

    pub(super) fn set_params(&mut self, params: Params<'a, 'a>) {
        self.params = params;
    }

    pub fn method(&self) -> &'a [u8] {
        &self.request[self.head.method.range()]
    }

    /// As sent, without the query; not percent-decoded.
    pub fn path(&self) -> &'a [u8] {
        &self.request[self.head.path.range()]
    }

    /// What follows the question mark; empty if there is none.
    pub fn query(&self) -> &'a [u8] {
        &self.request[self.head.query.range()]
    }

    pub fn param(&self, name: &[u8]) -> Option<&'a [u8]> {
        self.params
            .iter()
            .find(|(key, _)| key.as_bytes() == name)
            .map(|(_, value)| value.as_bytes())
    }

    pub fn header(&self, name: &[u8]) -> Option<&'a [u8]> {
        self.head.header(self.request, name)
    }

    pub fn body(&self) -> &'a [u8] {
        &self.request[self.head.len..]
    }

    /// Before the response begins: adds a header to it.
    pub fn set_header(&mut self, name: &[u8], value: &[u8]) -> Result<(), Error> {
        self.check_state(State::Open)?;
        // The C ABI has one code for all that can be wrong with a header.
        response::set_header(&mut self.output.extra, name, value)
            .map_err(|_: HeaderError| Error::INVAL)
    }

    /// The whole response in one call.
    pub fn respond(
        &mut self,
        status: i32,
        content_type: Option<&[u8]>,
        body: &[u8],
    ) -> Result<(), Error> {
        self.check_state(State::Open)?;
        let status = checked_status(status)?;
        let body_end = match status {
            204 | 304 if body.is_empty() => BodyEnd::NoBody,
            204 | 304 => return Err(Error::INVAL),
            _ => BodyEnd::Length(body.len()),
        };
        self.write_head(status, content_type, body_end)?;
        self.state = State::Complete;
        if self.is_head {
            return Ok(());
        }
        if body.len() <= COPIED_BYTES {
            self.output.bytes.extend_from_slice(body);
            return Ok(());
        }
        let sent = self.peer.send_through(&mut self.output.bytes, body, b"");
        self.note(sent)
    }

    /// Begins a body of unknown length. The head leaves with the first data.
    pub fn begin_chunked(&mut self, status: i32, content_type: Option<&[u8]>) -> Result<(), Error> {
        self.check_state(State::Open)?;
        let status = checked_status(status)?;
        if matches!(status, 204 | 304) {
            return Err(Error::INVAL);
        }
        self.is_chunked = self.head.minor_version == 1;
        if !self.is_chunked {
            // HTTP/1.0 knows no chunks: the end of the connection is the end of the body. HEAD gets the same head.
            self.may_persist = false;
        }
        let body_end = if self.is_chunked {
            BodyEnd::Chunked
        } else {
            BodyEnd::Close
        };
        self.write_head(status, content_type, body_end)?;
        self.state = State::Streaming;
        Ok(())
    }

    /// Sends data of a body of unknown length, and whatever was collected before it. No data: only the latter.
    pub fn write_chunk(&mut self, data: &[u8]) -> Result<(), Error> {
        self.check_state(State::Streaming)?;
        let bytes = &mut self.output.bytes;
        let sent = if data.is_empty() || self.is_head {
            self.peer.flush(bytes)
        } else {
            let tail: &[u8] = if self.is_chunked { b"\r\n" } else { b"" };
            if self.is_chunked {
                response::write_hex(bytes, data.len());
                bytes.extend_from_slice(b"\r\n");
            }
            if data.len() <= COPIED_BYTES {
                bytes.extend_from_slice(data);
                bytes.extend_from_slice(tail);
                self.peer.flush(bytes)
            } else {
                self.peer.send_through(bytes, data, tail)
            }
        };
        self.note(sent)
    }

    pub fn end_chunked(&mut self) -> Result<(), Error> {
        self.check_state(State::Streaming)?;
        if self.is_chunked && !self.is_head {
            self.output.bytes.extend_from_slice(b"0\r\n\r\n");
        }
        self.state = State::Complete;
        Ok(())
    }

    /// The server's own answer where no handler gives one.
    pub(super) fn respond_plain(&mut self, status: u16) -> Result<(), Error> {
        let body = response::reason(status).as_bytes();
        self.respond(i32::from(status), Some(b"text/plain"), body)
    }

    /// After the handler: answers 500 if it did not respond, and says what becomes of the connection.
    pub(super) fn finish(mut self) -> Outcome {
        if self.state == State::Open {
            self.output.extra.clear();
            // Fails only with the connection, which the state then says.
            let _ = self.respond_plain(500);
        }
        match self.state {
            State::Complete if self.may_persist => Outcome::KeepAlive,
            // A body without its end must not look whole: the connection ends before the last chunk.
            _ => Outcome::Close,
        }
    }

    fn write_head(
        &mut self,
        status: u16,
        content_type: Option<&[u8]>,
        body_end: BodyEnd,
    ) -> Result<(), Error> {
        if content_type.is_some_and(|value| !response::is_field_value(value)) {
            return Err(Error::INVAL);
        }
        let output = &mut *self.output;
        if content_type.is_some() && !output.extra.is_empty() {
            response::remove_header(&mut output.extra, b"Content-Type");
        }
        self.may_persist &= !self.draining.load(Ordering::SeqCst);
        let persistence = match (self.may_persist, self.head.minor_version) {
            (false, _) => Persistence::Close,
            (true, 0) => Persistence::KeepAlive,
            (true, _) => Persistence::Implied,
        };
        let head = ResponseHead {
            status,
            date: output.date.at(coarse_ns()),
            content_type,
            body_end,
            persistence,
            extra: &output.extra,
        };
        head.write(&mut output.bytes);
        Ok(())
    }

    fn check_state(&self, wanted: State) -> Result<(), Error> {
        match self.state {
            State::Broken(error) => Err(error),
            state if state == wanted => Ok(()),
            _ => Err(Error::INVAL),
        }
    }

    fn note(&mut self, sent: Result<(), Error>) -> Result<(), Error> {
        if let Err(error) = sent {
            self.state = State::Broken(error);
        }
        sent
    }
}

/// Final statuses only; 101 would need a protocol to switch to.
fn checked_status(status: i32) -> Result<u16, Error> {
    match u16::try_from(status) {
        Ok(status @ 200..=599) => Ok(status),
        _ => Err(Error::INVAL),
    }
}
