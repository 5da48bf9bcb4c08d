//! The life of one connection: wait, read, answer, wait.
//!
//! Owns timeouts, body reading and when collected responses leave. Between requests it holds only a small buffer on
//! its stack; see *idle is cheap* in the module above.

use std::ops::Range;

use super::buffers::Buffers;
use super::exchange::{Exchange, Outcome, Peer};
use super::request::{self, Attempts, ChunkedBody, Framing, Progress, Reject};
use super::response::{self, BodyEnd, Persistence, ResponseHead};
use super::router::Found;
use super::server::{FOREVER, Server, Socket};
use crate::error::Error;
use crate::io::stream;
use crate::primitive::prefetch;
use crate::runtime::{coarse_ns, now_ns};

/// First read of a request, on the stack: holds what most clients send, and leaves the stack within its first page.
const FIRST_READ_BYTES: usize = 1024;
/// Cache lines of the stack, below the frame of a waiting connection, that a request of few headers needs and that the
/// way back from the wait has not touched: from the sizes of the frames.
const REQUEST_LINES: Range<usize> = 10..30;
/// Responses are collected up to this size, however many requests are still buffered: guess.
const COLLECTED_BYTES: usize = 64 * 1024;
/// After a refusal the rest of the request is read and dropped for this long, or until the client closes: closing
/// over unread data resets the connection and can take the answer with it.
const LINGER_NS: u64 = 1_000_000_000;

/// Serves the connection until it ends. Runs in a vthread of its own.
pub fn run(server: &Server, socket: &Socket) {
    let peer = Peer {
        fd: socket.fd,
        stall_timeout_ns: server.options.idle_timeout_ns,
    };
    let mut first = [0; FIRST_READ_BYTES];
    while let Some(received) = wait_for_request(server, socket, peer, &mut first) {
        // Neither is in the cache by now, and what follows would wait for each line by itself.
        prefetch::line(socket);
        prefetch_stack();
        let mut buffers = server.pool.take();
        buffers.input.push(received);
        // After the pool, whose lock would wait for this store.
        socket.set_busy();
        let ending = serve(server, peer, &mut buffers);
        server.pool.give(buffers);
        if ending == Ending::Close {
            return;
        }
    }
}

/// Asks for the stack that a request needs.
#[inline(always)]
fn prefetch_stack() {
    let here = 0u8;
    for line in REQUEST_LINES {
        prefetch::line((&raw const here).wrapping_sub(line * prefetch::LINE));
    }
}

/// The first bytes of the next request. None: the peer closed, said nothing for too long, or the server stops.
fn wait_for_request<'f>(
    server: &Server,
    socket: &Socket,
    peer: Peer,
    first: &'f mut [u8],
) -> Option<&'f [u8]> {
    socket.set_idle(coarse_ns().saturating_add(server.options.idle_timeout_ns));
    if server.is_draining() {
        return None;
    }
    match stream::recv(peer.fd, first, FOREVER) {
        Ok(0) | Err(_) => None,
        Ok(count) => Some(&first[..count]),
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ending {
    Idle,
    Close,
}

/// Why no request could be read.
enum ReadEnd {
    /// The peer is gone, or the wait was cancelled: nobody to answer.
    Gone,
    Refused(Reject),
}

impl From<Reject> for ReadEnd {
    fn from(reject: Reject) -> Self {
        Self::Refused(reject)
    }
}

/// Answers requests until none is left in the buffers. Not inlined: its locals do not belong to a waiting connection.
#[inline(never)]
fn serve(server: &Server, peer: Peer, buffers: &mut Buffers) -> Ending {
    let mut reader = Reader {
        server,
        peer,
        buffers,
        deadline_ns: None,
    };
    loop {
        let blank = request::leading_blank(reader.buffers.input.pending());
        reader.buffers.input.consume(blank);
        if reader.buffers.input.pending().is_empty() {
            return match peer.flush(&mut reader.buffers.output.bytes) {
                Ok(()) => Ending::Idle,
                Err(_) => Ending::Close,
            };
        }
        reader.deadline_ns = None;
        let request = match reader.read_request() {
            Ok(request) => request,
            Err(ReadEnd::Gone) => return Ending::Close,
            Err(ReadEnd::Refused(reject)) => {
                refuse(peer, reader.buffers, reject);
                return Ending::Close;
            }
        };
        let outcome = answer(server, peer, reader.buffers, request.bytes);
        reader.buffers.input.consume(request.next);
        if outcome == Outcome::Close {
            // An error here changes nothing: the connection ends either way.
            let _ = peer.flush(&mut reader.buffers.output.bytes);
            if request.is_abandoned || !reader.buffers.input.pending().is_empty() {
                linger(peer.fd, reader.buffers);
            }
            return Ending::Close;
        }
        if reader.buffers.output.bytes.len() > COLLECTED_BYTES
            && peer.flush(&mut reader.buffers.output.bytes).is_err()
        {
            return Ending::Close;
        }
    }
}

/// Where a request lies in the pending input.
struct Request {
    /// Head and (decoded) body.
    bytes: usize,
    /// Where the next request begins.
    next: usize,
    /// The body was not waited for.
    is_abandoned: bool,
}

struct Reader<'s> {
    server: &'s Server,
    peer: Peer,
    buffers: &'s mut Buffers,
    /// Of the request being read; set when it turns out to be incomplete.
    deadline_ns: Option<u64>,
}

impl Reader<'_> {
    fn read_request(&mut self) -> Result<Request, ReadEnd> {
        let limit = self.server.options.max_header_bytes;
        let mut attempts = Attempts::new();
        loop {
            let Buffers { input, head, .. } = &mut *self.buffers;
            let pending = input.pending();
            if attempts.is_due(pending, limit)
                && request::parse(pending, limit, head)? == Progress::Complete
            {
                break;
            }
            self.receive()?;
        }
        self.read_body()
    }

    fn read_body(&mut self) -> Result<Request, ReadEnd> {
        let head_bytes = self.buffers.head.len;
        let framing = self.buffers.head.framing;
        let max_body_bytes = self.server.options.max_body_bytes;
        let buffered = self.buffers.input.pending().len();
        let wanted = match framing {
            Framing::Length(length) => match usize::try_from(length) {
                Ok(length) if length <= max_body_bytes => head_bytes + length,
                _ => return Err(Reject(413).into()),
            },
            // At least the last chunk.
            Framing::Chunked => head_bytes + 1,
        };
        if buffered < wanted && self.buffers.head.expects_continue {
            if !self.has_route() {
                self.buffers.head.keep_alive = false;
                return Ok(Request {
                    bytes: head_bytes,
                    next: head_bytes,
                    is_abandoned: true,
                });
            }
            let go_on = b"HTTP/1.1 100 Continue\r\n\r\n";
            self.buffers.output.bytes.extend_from_slice(go_on);
        }
        match framing {
            Framing::Length(_) => {
                while self.buffers.input.pending().len() < wanted {
                    self.receive()?;
                }
                Ok(Request {
                    bytes: wanted,
                    next: wanted,
                    is_abandoned: false,
                })
            }
            Framing::Chunked => self.read_chunked(head_bytes),
        }
    }

    fn read_chunked(&mut self, head_bytes: usize) -> Result<Request, ReadEnd> {
        let options = &self.server.options;
        let mut body = ChunkedBody::new(options.max_body_bytes, options.max_header_bytes);
        loop {
            let input = &mut self.buffers.input;
            let end = body.decode(&mut input.pending_mut()[head_bytes..])?;
            let bytes = head_bytes + body.body_bytes();
            if let Some(end) = end {
                return Ok(Request {
                    bytes,
                    next: head_bytes + end,
                    is_abandoned: false,
                });
            }
            input.truncate(bytes);
            self.receive()?;
        }
    }

    fn has_route(&self) -> bool {
        let Buffers { input, head, .. } = &*self.buffers;
        let pending = input.pending();
        let path = std::str::from_utf8(&pending[head.path.range()]).unwrap_or("");
        let found = self
            .server
            .router()
            .find(&pending[head.method.range()], path);
        matches!(found, Found::Route(..))
    }

    /// Waits for more of a request; before that, everything collected is sent.
    fn receive(&mut self) -> Result<(), ReadEnd> {
        let deadline_ns = *self
            .deadline_ns
            .get_or_insert_with(|| now_ns().saturating_add(self.server.options.request_timeout_ns));
        let Buffers { input, output, .. } = &mut *self.buffers;
        if self.peer.flush(&mut output.bytes).is_err() {
            return Err(ReadEnd::Gone);
        }
        match input.receive(self.peer.fd, deadline_ns) {
            Ok(0) => Err(ReadEnd::Gone),
            Ok(_) => Ok(()),
            Err(Error::TIMEDOUT) => Err(Reject(408).into()),
            Err(_) => Err(ReadEnd::Gone),
        }
    }
}

/// Finds the handler and lets it respond.
fn answer(server: &Server, peer: Peer, buffers: &mut Buffers, bytes: usize) -> Outcome {
    let Buffers {
        input,
        head,
        output,
    } = buffers;
    let request = &input.pending()[..bytes];
    let mut exchange = Exchange::new(peer, head, request, output, &server.draining);
    // httparse has checked that it is UTF-8, and it was cut at ASCII bytes.
    let path = std::str::from_utf8(exchange.path()).unwrap_or("");
    let answered = match server.router().find(exchange.method(), path) {
        Found::Route(handler, params) => {
            exchange.set_params(params);
            handler(&mut exchange);
            Ok(())
        }
        Found::OtherMethods => {
            let mut allowed = Vec::new();
            server.router().write_allowed(path, &mut allowed);
            exchange
                .set_header(b"Allow", &allowed)
                .and_then(|()| exchange.respond_plain(405))
        }
        Found::Nothing => exchange.respond_plain(404),
    };
    match answered {
        Ok(()) => exchange.finish(),
        Err(_) => Outcome::Close,
    }
}

/// Answers what is no request, and lets the client read that before the connection ends.
#[cold]
fn refuse(peer: Peer, buffers: &mut Buffers, Reject(status): Reject) {
    let reason = response::reason(status).as_bytes();
    let output = &mut buffers.output;
    let head = ResponseHead {
        status,
        date: output.date.at(coarse_ns()),
        content_type: Some(b"text/plain"),
        body_end: BodyEnd::Length(reason.len()),
        persistence: Persistence::Close,
        extra: b"",
    };
    head.write(&mut output.bytes);
    output.bytes.extend_from_slice(reason);
    if peer.flush(&mut output.bytes).is_ok() {
        linger(peer.fd, buffers);
    }
}

#[cold]
fn linger(fd: i32, buffers: &mut Buffers) {
    if stream::shutdown_write(fd).is_err() {
        return;
    }
    let deadline_ns = now_ns().saturating_add(LINGER_NS);
    loop {
        buffers.input.truncate(0);
        match buffers.input.receive(fd, deadline_ns) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}
