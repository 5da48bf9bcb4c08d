//! Reading requests: pure functions on bytes.
//!
//! Owns what a request head may look like, how its body is delimited, and which status answers a violation. It knows
//! no socket and no buffer policy. Syntax is httparse's; on top of it stand the rules of RFC 9112 that keep two
//! parties from seeing different requests in the same bytes. Invariants:
//!
//! *One framing*: a head that parses has exactly one way to find the end of its body.
//! *Split-blind*: how the bytes were cut into reads never changes the outcome (a test feeds every cut).

use std::mem::MaybeUninit;
use std::ops::Range;

/// More headers than this are answered with 431.
pub const MAX_HEADERS: usize = 100;
/// Tried first, so that the common request touches little stack; browsers send fewer than 20.
const FEW_HEADERS: usize = 24;
/// Length of the size line of one chunk, with its extensions.
const MAX_CHUNK_LINE: usize = 256;

/// Why a request is refused: the status of the answer, after which the connection is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reject(pub u16);

const BAD_REQUEST: Reject = Reject(400);
const BODY_TOO_LARGE: Reject = Reject(413);
const EXPECTATION_FAILED: Reject = Reject(417);
const HEAD_TOO_LARGE: Reject = Reject(431);
const NOT_IMPLEMENTED: Reject = Reject(501);
const VERSION_NOT_SUPPORTED: Reject = Reject(505);

/// A part of the request, relative to its first byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// The span of `part`, which lies in `whole`.
    fn of(whole: &[u8], part: &[u8]) -> Self {
        let start = part.as_ptr() as usize - whole.as_ptr() as usize;
        Self::new(start, start + part.len())
    }

    /// Heads are limited to far less than 4 GiB by the server's options.
    fn new(start: usize, end: usize) -> Self {
        Self {
            start: start as u32,
            end: end as u32,
        }
    }

    pub fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// How the end of the body is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    Length(u64),
    Chunked,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    Partial,
    Complete,
}

/// A parsed request head. Reused from request to request: only its header list allocates, and keeps what it has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    /// Bytes of the head, with the empty line.
    pub len: usize,
    pub method: Span,
    pub path: Span,
    /// Without the question mark.
    pub query: Span,
    /// 0 or 1: HTTP/1.0 or HTTP/1.1.
    pub minor_version: u8,
    pub keep_alive: bool,
    pub expects_continue: bool,
    pub framing: Framing,
    headers: Vec<(Span, Span)>,
}

impl Head {
    pub const fn new() -> Self {
        Self {
            len: 0,
            method: Span { start: 0, end: 0 },
            path: Span { start: 0, end: 0 },
            query: Span { start: 0, end: 0 },
            minor_version: 1,
            keep_alive: false,
            expects_continue: false,
            framing: Framing::Length(0),
            headers: Vec::new(),
        }
    }

    /// The first header of that name; `request` is the slice the head was parsed from.
    pub fn header<'a>(&self, request: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
        self.headers
            .iter()
            .find(|(span, _)| request[span.range()].eq_ignore_ascii_case(name))
            .map(|(_, value)| &request[value.range()])
    }
}

/// Decides when it is worth parsing a head that was incomplete before, so that a peer that sends single bytes costs
/// linear time: when the end of a head may have arrived, or there is twice as much as at the last attempt.
pub struct Attempts {
    parsed: usize,
    scanned: usize,
}

impl Attempts {
    pub const fn new() -> Self {
        Self {
            parsed: 0,
            scanned: 0,
        }
    }

    pub fn is_due(&mut self, buf: &[u8], limit: usize) -> bool {
        // The first attempt needs no scan: there may be many pipelined requests in `buf`.
        let due = self.parsed == 0
            || buf.len() >= limit.min(2 * self.parsed)
            || may_end_head(&buf[self.scanned.saturating_sub(2)..]);
        self.scanned = buf.len();
        if due {
            self.parsed = buf.len();
        }
        due
    }
}

/// Also without CR, so that a head with bare line feeds is refused when it ends, not when time is up.
fn may_end_head(tail: &[u8]) -> bool {
    tail.windows(2).any(|pair| pair == b"\n\n") || tail.windows(3).any(|three| three == b"\n\r\n")
}

/// How many bytes of empty lines stand before a request; they are skipped (RFC 9112, section 2.2).
pub fn leading_blank(buf: &[u8]) -> usize {
    buf.iter()
        .take_while(|&&byte| byte == b'\r' || byte == b'\n')
        .count()
}

/// Parses the head at the start of `buf`, which may be followed by anything. `limit` is the longest head accepted.
/// `head` has a meaning only after `Complete`.
pub fn parse(buf: &[u8], limit: usize, head: &mut Head) -> Result<Progress, Reject> {
    match parse_with::<FEW_HEADERS>(buf, limit, head) {
        Err(HEAD_TOO_LARGE) => parse_many(buf, limit, head),
        outcome => outcome,
    }
}

#[cold]
fn parse_many(buf: &[u8], limit: usize, head: &mut Head) -> Result<Progress, Reject> {
    parse_with::<MAX_HEADERS>(buf, limit, head)
}

// Not inlined: handlers run where its list of headers was, not below it.
#[inline(never)]
fn parse_with<const N: usize>(
    buf: &[u8],
    limit: usize,
    head: &mut Head,
) -> Result<Progress, Reject> {
    let window = &buf[..buf.len().min(limit)];
    let mut storage = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; N];
    let mut request = httparse::Request::new(&mut []);
    let len = match request.parse_with_uninit_headers(window, &mut storage) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if window.len() < limit => return Ok(Progress::Partial),
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Err(HEAD_TOO_LARGE);
        }
        Err(httparse::Error::Version) => {
            return Err(request
                .path
                .map_or(BAD_REQUEST, |path| refused_version(window, path)));
        }
        Err(_) => return Err(BAD_REQUEST),
    };
    let bytes = &window[..len];
    if has_bare_line_feed(bytes) {
        return Err(BAD_REQUEST);
    }
    let (Some(method), Some(target), Some(minor_version)) =
        (request.method, request.path, request.version)
    else {
        return Err(BAD_REQUEST);
    };
    head.len = len;
    head.method = Span::of(bytes, method.as_bytes());
    head.minor_version = minor_version;
    (head.path, head.query) = split_target(bytes, method, Span::of(bytes, target.as_bytes()))?;

    head.headers.clear();
    let mut semantics = Semantics::new();
    for header in request.headers.iter() {
        semantics.see(header.name.as_bytes(), header.value)?;
        head.headers.push((
            Span::of(bytes, header.name.as_bytes()),
            Span::of(bytes, header.value),
        ));
    }
    semantics.conclude(head)?;
    Ok(Progress::Complete)
}

/// httparse stops at the first byte of a version it does not know: 505 for another HTTP, 400 for anything else.
fn refused_version(window: &[u8], path: &str) -> Reject {
    let after_path = Span::of(window, path.as_bytes()).range().end + 1;
    let version = window.get(after_path..).unwrap_or(&[]);
    match version.strip_prefix(b"HTTP/") {
        Some([digit, ..]) if digit.is_ascii_digit() => VERSION_NOT_SUPPORTED,
        _ => BAD_REQUEST,
    }
}

/// httparse takes a line feed alone for the end of a line; a proxy in front may not, and see another request.
fn has_bare_line_feed(bytes: &[u8]) -> bool {
    // Without a branch per byte, so that it is vectorised.
    let pairs = bytes.iter().zip(&bytes[1..]);
    pairs.fold(false, |bad, (&before, &byte)| {
        bad | ((byte == b'\n') & (before != b'\r'))
    })
}

/// Path and query of the four forms of a target (RFC 9112, section 3.2).
fn split_target(bytes: &[u8], method: &str, target: Span) -> Result<(Span, Span), Reject> {
    let Range { start, end } = target.range();
    let text = &bytes[start..end];
    let path_start = match text[0] {
        b'/' => start,
        b'*' if text.len() == 1 && method == "OPTIONS" => return Ok((target, Span::new(end, end))),
        _ if method == "CONNECT" => return Ok((target, Span::new(end, end))),
        _ => {
            let authority = start + absolute_prefix(text).ok_or(BAD_REQUEST)?;
            let length = bytes[authority..end]
                .iter()
                .position(|byte| matches!(byte, b'/' | b'?' | b'#'))
                .unwrap_or(end - authority);
            if length == 0 {
                return Err(BAD_REQUEST);
            }
            authority + length
        }
    };
    if bytes[path_start..end].contains(&b'#') {
        return Err(BAD_REQUEST);
    }
    let question = bytes[path_start..end].iter().position(|&byte| byte == b'?');
    let path_end = question.map_or(end, |at| path_start + at);
    let query = Span::new((path_end + 1).min(end), end);
    let path = if path_end == path_start {
        // `http://host` means `/`: borrow the last slash of the scheme.
        let slash = start + absolute_prefix(text).ok_or(BAD_REQUEST)? - 1;
        Span::new(slash, slash + 1)
    } else {
        Span::new(path_start, path_end)
    };
    Ok((path, query))
}

fn absolute_prefix(target: &[u8]) -> Option<usize> {
    [&b"http://"[..], b"https://"]
        .iter()
        .find(|prefix| {
            target
                .get(..prefix.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
        })
        .map(|prefix| prefix.len())
}

/// What the headers say about the message itself, gathered in one pass.
struct Semantics {
    hosts: u32,
    length: Option<u64>,
    transfer_encodings: u32,
    is_chunked: bool,
    close: bool,
    keep_alive: bool,
    expects_continue: bool,
    expects_other: bool,
}

impl Semantics {
    fn new() -> Self {
        Self {
            hosts: 0,
            length: None,
            transfer_encodings: 0,
            is_chunked: false,
            close: false,
            keep_alive: false,
            expects_continue: false,
            expects_other: false,
        }
    }

    fn see(&mut self, name: &[u8], value: &[u8]) -> Result<(), Reject> {
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => self.hosts += 1,
            6 if name.eq_ignore_ascii_case(b"expect") => {
                if value.eq_ignore_ascii_case(b"100-continue") {
                    self.expects_continue = true;
                } else {
                    self.expects_other = true;
                }
            }
            10 if name.eq_ignore_ascii_case(b"connection") => {
                for token in value.split(|&byte| byte == b',') {
                    let token = token.trim_ascii();
                    self.close |= token.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let length = parse_length(value)?;
                if self.length.is_some_and(|earlier| earlier != length) {
                    return Err(BAD_REQUEST);
                }
                self.length = Some(length);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                self.transfer_encodings += 1;
                self.is_chunked = value.eq_ignore_ascii_case(b"chunked");
            }
            _ => {}
        }
        Ok(())
    }

    fn conclude(&self, head: &mut Head) -> Result<(), Reject> {
        let is_1_1 = head.minor_version == 1;
        if self.hosts > 1 || (is_1_1 && self.hosts == 0) {
            return Err(BAD_REQUEST);
        }
        head.framing = match (self.transfer_encodings, self.length) {
            (0, length) => Framing::Length(length.unwrap_or(0)),
            (_, Some(_)) => return Err(BAD_REQUEST),
            // HTTP/1.0 knows no transfer codings: whoever sent this framing does not know what it means.
            (_, None) if !is_1_1 => return Err(BAD_REQUEST),
            (1, None) if self.is_chunked => Framing::Chunked,
            _ => return Err(NOT_IMPLEMENTED),
        };
        if is_1_1 && self.expects_other {
            return Err(EXPECTATION_FAILED);
        }
        head.expects_continue = is_1_1 && self.expects_continue;
        head.keep_alive = !self.close && (is_1_1 || self.keep_alive);
        Ok(())
    }
}

/// Digits only: no sign, no list. A number beyond 64 bits is too large rather than malformed.
fn parse_length(value: &[u8]) -> Result<u64, Reject> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(BAD_REQUEST);
    }
    value.iter().try_fold(0u64, |length, digit| {
        length
            .checked_mul(10)
            .and_then(|tens| tens.checked_add(u64::from(digit - b'0')))
            .ok_or(BODY_TOO_LARGE)
    })
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ChunkState {
    SizeStart,
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    LineStart,
    Trailer,
    TrailerLf,
    LastLf,
}

/// Decodes a chunked body in place: the data moves down over the framing between it. Trailers are read and dropped.
pub struct ChunkedBody {
    state: ChunkState,
    /// Of the size while it is read, then of the data still to come.
    remaining: u64,
    line_bytes: usize,
    trailer_bytes: usize,
    body_bytes: usize,
    max_body_bytes: usize,
    max_trailer_bytes: usize,
}

impl ChunkedBody {
    pub const fn new(max_body_bytes: usize, max_trailer_bytes: usize) -> Self {
        Self {
            state: ChunkState::SizeStart,
            remaining: 0,
            line_bytes: 0,
            trailer_bytes: 0,
            body_bytes: 0,
            max_body_bytes,
            max_trailer_bytes,
        }
    }

    /// Bytes decoded so far; they stand at the start of what `decode` was given.
    pub const fn body_bytes(&self) -> usize {
        self.body_bytes
    }

    /// `buf` begins with the bytes decoded so far; what follows has not been seen. `Ok(Some(end))`: the body is
    /// complete and the next request begins at `end`. `Ok(None)`: everything was taken, and what follows the
    /// `body_bytes` may be overwritten.
    pub fn decode(&mut self, buf: &mut [u8]) -> Result<Option<usize>, Reject> {
        let mut at = self.body_bytes;
        while at < buf.len() {
            if self.state == ChunkState::Data {
                let available = (buf.len() - at) as u64;
                let taken = self.remaining.min(available) as usize;
                buf.copy_within(at..at + taken, self.body_bytes);
                self.body_bytes += taken;
                self.remaining -= taken as u64;
                at += taken;
                if self.remaining == 0 {
                    self.state = ChunkState::DataCr;
                }
                continue;
            }
            let byte = buf[at];
            at += 1;
            if self.state == ChunkState::LastLf {
                return if byte == b'\n' {
                    Ok(Some(at))
                } else {
                    Err(BAD_REQUEST)
                };
            }
            self.step(byte)?;
        }
        Ok(None)
    }

    fn step(&mut self, byte: u8) -> Result<(), Reject> {
        use ChunkState::*;
        self.line_bytes += 1;
        self.state = match (self.state, byte) {
            (SizeStart | Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if self.remaining >> 60 != 0 {
                    return Err(BODY_TOO_LARGE);
                }
                let digit = (byte as char).to_digit(16).unwrap_or(0);
                self.remaining = self.remaining << 4 | u64::from(digit);
                Size
            }
            (Size | Extension, b'\r') => SizeLf,
            (Size, b';' | b' ' | b'\t') => Extension,
            (Extension, b'\t' | b' '..=b'~' | 0x80..) => Extension,
            (SizeLf, b'\n') => {
                self.line_bytes = 0;
                let room = (self.max_body_bytes - self.body_bytes) as u64;
                match self.remaining {
                    0 => LineStart,
                    size if size > room => return Err(BODY_TOO_LARGE),
                    _ => Data,
                }
            }
            (DataCr, b'\r') => DataLf,
            (DataLf, b'\n') => {
                self.line_bytes = 0;
                SizeStart
            }
            (LineStart, b'\r') => LastLf,
            (Trailer, b'\r') => TrailerLf,
            (LineStart, b'!'..=b'~') | (Trailer, b'\t' | b' '..=b'~' | 0x80..) => {
                self.trailer_bytes += 1;
                if self.trailer_bytes > self.max_trailer_bytes {
                    return Err(HEAD_TOO_LARGE);
                }
                self.line_bytes = 0;
                Trailer
            }
            (TrailerLf, b'\n') => LineStart,
            _ => return Err(BAD_REQUEST),
        };
        if self.line_bytes > MAX_CHUNK_LINE {
            return Err(BAD_REQUEST);
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
