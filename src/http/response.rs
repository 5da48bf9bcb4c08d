//! Writing response heads: pure functions on bytes.
//!
//! Owns status lines, the headers the server writes itself, and what a handler may add. *No splitting*: nothing a
//! handler passes can end a header line, because names must be tokens and values hold no control characters.

use super::date::DATE_BYTES;

/// Why a header cannot be set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeaderError {
    InvalidName,
    InvalidValue,
    /// The server writes this header itself.
    Reserved,
}

/// How the end of the response body is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BodyEnd {
    Length(usize),
    Chunked,
    /// HTTP/1.0: by closing the connection.
    Close,
    /// 204 and 304 have no body and no length.
    NoBody,
}

/// What the `Connection` header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Persistence {
    /// HTTP/1.1 that stays open: nothing need be said.
    Implied,
    /// HTTP/1.0 that stays open.
    KeepAlive,
    Close,
}

/// Everything a response head is made of.
pub struct ResponseHead<'a> {
    pub status: u16,
    pub date: &'a [u8; DATE_BYTES],
    pub content_type: Option<&'a [u8]>,
    pub body_end: BodyEnd,
    pub persistence: Persistence,
    /// Finished header lines, as [`set_header`] makes them.
    pub extra: &'a [u8],
}

impl ResponseHead<'_> {
    pub fn write(&self, out: &mut Vec<u8>) {
        // More than all fixed parts together, so that at most one growth happens.
        out.reserve(256 + self.extra.len() + self.content_type.map_or(0, <[u8]>::len));
        match status_line(self.status) {
            Some(line) => out.extend_from_slice(line),
            None => {
                out.extend_from_slice(b"HTTP/1.1 ");
                write_decimal(out, usize::from(self.status));
                out.extend_from_slice(b" \r\n");
            }
        }
        out.extend_from_slice(b"Date: ");
        out.extend_from_slice(self.date);
        if let Some(content_type) = self.content_type {
            out.extend_from_slice(b"\r\nContent-Type: ");
            out.extend_from_slice(content_type);
        }
        match self.body_end {
            BodyEnd::Length(length) => {
                out.extend_from_slice(b"\r\nContent-Length: ");
                write_decimal(out, length);
            }
            BodyEnd::Chunked => out.extend_from_slice(b"\r\nTransfer-Encoding: chunked"),
            BodyEnd::Close | BodyEnd::NoBody => {}
        }
        match self.persistence {
            Persistence::Implied => {}
            Persistence::KeepAlive => out.extend_from_slice(b"\r\nConnection: keep-alive"),
            Persistence::Close => out.extend_from_slice(b"\r\nConnection: close"),
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(self.extra);
        out.extend_from_slice(b"\r\n");
    }
}

macro_rules! statuses {
    ($($code:literal $reason:literal,)*) => {
        fn status_line(status: u16) -> Option<&'static [u8]> {
            match status {
                $($code => Some(concat!("HTTP/1.1 ", $code, " ", $reason, "\r\n").as_bytes()),)*
                _ => None,
            }
        }

        /// The reason phrase; empty for a status without a registered one.
        pub fn reason(status: u16) -> &'static str {
            match status {
                $($code => $reason,)*
                _ => "",
            }
        }
    };
}

statuses! {
    200 "OK",
    201 "Created",
    202 "Accepted",
    203 "Non-Authoritative Information",
    204 "No Content",
    205 "Reset Content",
    206 "Partial Content",
    300 "Multiple Choices",
    301 "Moved Permanently",
    302 "Found",
    303 "See Other",
    304 "Not Modified",
    307 "Temporary Redirect",
    308 "Permanent Redirect",
    400 "Bad Request",
    401 "Unauthorized",
    402 "Payment Required",
    403 "Forbidden",
    404 "Not Found",
    405 "Method Not Allowed",
    406 "Not Acceptable",
    407 "Proxy Authentication Required",
    408 "Request Timeout",
    409 "Conflict",
    410 "Gone",
    411 "Length Required",
    412 "Precondition Failed",
    413 "Content Too Large",
    414 "URI Too Long",
    415 "Unsupported Media Type",
    416 "Range Not Satisfiable",
    417 "Expectation Failed",
    421 "Misdirected Request",
    422 "Unprocessable Content",
    423 "Locked",
    424 "Failed Dependency",
    425 "Too Early",
    426 "Upgrade Required",
    428 "Precondition Required",
    429 "Too Many Requests",
    431 "Request Header Fields Too Large",
    451 "Unavailable For Legal Reasons",
    500 "Internal Server Error",
    501 "Not Implemented",
    502 "Bad Gateway",
    503 "Service Unavailable",
    504 "Gateway Timeout",
    505 "HTTP Version Not Supported",
    507 "Insufficient Storage",
    511 "Network Authentication Required",
}

/// Adds `name: value` to the finished lines in `extra`, instead of an earlier line of that name; only `Set-Cookie`
/// may occur more than once.
pub fn set_header(extra: &mut Vec<u8>, name: &[u8], value: &[u8]) -> Result<(), HeaderError> {
    if !is_token(name) {
        return Err(HeaderError::InvalidName);
    }
    if !is_field_value(value) {
        return Err(HeaderError::InvalidValue);
    }
    let owned: [&[u8]; 4] = [
        b"content-length",
        b"transfer-encoding",
        b"connection",
        b"date",
    ];
    if owned
        .iter()
        .any(|reserved| name.eq_ignore_ascii_case(reserved))
    {
        return Err(HeaderError::Reserved);
    }
    if !name.eq_ignore_ascii_case(b"set-cookie") {
        remove_header(extra, name);
    }
    extra.reserve(name.len() + value.len() + 4);
    extra.extend_from_slice(name);
    extra.extend_from_slice(b": ");
    extra.extend_from_slice(value);
    extra.extend_from_slice(b"\r\n");
    Ok(())
}

/// Removes the line of that name, if there is one.
pub fn remove_header(extra: &mut Vec<u8>, name: &[u8]) {
    let mut start = 0;
    while let Some(length) = extra[start..].iter().position(|&byte| byte == b'\n') {
        let end = start + length + 1;
        let line = &extra[start..end];
        if line.get(name.len()) == Some(&b':') && line[..name.len()].eq_ignore_ascii_case(name) {
            extra.drain(start..end);
            return;
        }
        start = end;
    }
}

/// RFC 9110, section 5.6.2.
pub fn is_token(text: &[u8]) -> bool {
    !text.is_empty()
        && text
            .iter()
            .all(|&byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// Anything but control characters; a tab is allowed.
pub fn is_field_value(text: &[u8]) -> bool {
    text.iter()
        .all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f))
}

pub fn write_decimal(out: &mut Vec<u8>, value: usize) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = value;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

pub fn write_hex(out: &mut Vec<u8>, value: usize) {
    let digits = (usize::BITS - value.leading_zeros()).div_ceil(4).max(1);
    out.extend(
        (0..digits)
            .rev()
            .map(|digit| b"0123456789abcdef"[value >> (4 * digit) & 15]),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &[u8; DATE_BYTES] = b"Sun, 06 Nov 1994 08:49:37 GMT";

    fn written(head: ResponseHead<'_>) -> String {
        let mut out = Vec::new();
        head.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn heads_are_written_as_http_wants_them() {
        assert_eq!(
            written(ResponseHead {
                status: 200,
                date: DATE,
                content_type: Some(b"text/plain"),
                body_end: BodyEnd::Length(5),
                persistence: Persistence::Implied,
                extra: b"X-A: 1\r\n",
            }),
            "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Type: text/plain\r\n\
             Content-Length: 5\r\nX-A: 1\r\n\r\n"
        );
        assert_eq!(
            written(ResponseHead {
                status: 299,
                date: DATE,
                content_type: None,
                body_end: BodyEnd::Chunked,
                persistence: Persistence::Close,
                extra: b"",
            }),
            "HTTP/1.1 299 \r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nTransfer-Encoding: chunked\r\n\
             Connection: close\r\n\r\n"
        );
        assert_eq!(
            written(ResponseHead {
                status: 304,
                date: DATE,
                content_type: None,
                body_end: BodyEnd::NoBody,
                persistence: Persistence::KeepAlive,
                extra: b"",
            }),
            "HTTP/1.1 304 Not Modified\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
             Connection: keep-alive\r\n\r\n"
        );
    }

    #[test]
    fn headers_that_could_split_a_response_are_refused() {
        let mut extra = Vec::new();
        for value in [&b"a\r\nX: b"[..], b"a\nb", b"a\rb", b"a\0b", b"\x7f"] {
            assert_eq!(
                set_header(&mut extra, b"X-A", value),
                Err(HeaderError::InvalidValue)
            );
        }
        for name in [
            &b""[..],
            b"X A",
            b"X:",
            b"X\r\n",
            b"X\0",
            b"\xc3\xa4",
            b"(x)",
        ] {
            assert_eq!(
                set_header(&mut extra, name, b"v"),
                Err(HeaderError::InvalidName)
            );
        }
        for name in ["Content-Length", "TRANSFER-ENCODING", "connection", "Date"] {
            assert_eq!(
                set_header(&mut extra, name.as_bytes(), b"v"),
                Err(HeaderError::Reserved)
            );
        }
        assert!(extra.is_empty());
    }

    #[test]
    fn a_header_replaces_its_predecessor_but_cookies_gather() {
        let mut extra = Vec::new();
        set_header(&mut extra, b"X-Long", b"x").unwrap();
        set_header(&mut extra, b"X-A", b"1").unwrap();
        set_header(&mut extra, b"X", b"3").unwrap();
        set_header(&mut extra, b"x-a", b"2\xff").unwrap();
        set_header(&mut extra, b"Set-Cookie", b"a=1").unwrap();
        set_header(&mut extra, b"Set-Cookie", b"b=2").unwrap();
        assert_eq!(
            extra,
            b"X-Long: x\r\nX: 3\r\nx-a: 2\xff\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"
        );
    }

    #[test]
    fn numbers_are_written_whole() {
        for value in [0, 1, 9, 10, 15, 16, 255, 256, 4095, 1 << 20, usize::MAX] {
            let mut out = Vec::new();
            write_decimal(&mut out, value);
            out.push(b' ');
            write_hex(&mut out, value);
            assert_eq!(
                String::from_utf8(out).unwrap(),
                format!("{value} {value:x}")
            );
        }
    }
}
