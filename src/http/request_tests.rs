use super::*;

const LIMIT: usize = 4096;
const MAX_BODY: usize = 64;

/// A whole request as the connection would see it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Seen {
    head: Head,
    body: Vec<u8>,
    rest: Vec<u8>,
}

/// Feeds `bytes` in the given cuts through the same steps as the connection. `Ok(None)`: more is needed.
fn feed(bytes: &[u8], cuts: &[usize]) -> Result<Option<Seen>, Reject> {
    let mut head = Head::new();
    let mut attempts = Attempts::new();
    let mut chunked: Option<ChunkedBody> = None;
    let mut has_head = false;
    let mut buf = Vec::new();
    let mut fed = 0;
    for &cut in cuts.iter().chain([&bytes.len()]) {
        buf.extend_from_slice(&bytes[fed..cut]);
        fed = cut;
        if !has_head {
            let blank = leading_blank(&buf);
            if attempts.parsed == 0 {
                buf.drain(..blank);
            }
            if buf.is_empty() || !attempts.is_due(&buf, LIMIT) {
                continue;
            }
            if parse(&buf, LIMIT, &mut head)? == Progress::Partial {
                continue;
            }
            has_head = true;
        }
        let seen = |body: &[u8], rest: &[u8]| {
            Ok(Some(Seen {
                head: head.clone(),
                body: body.to_vec(),
                rest: [rest, &bytes[fed..]].concat(),
            }))
        };
        match head.framing {
            Framing::Length(length) if length > MAX_BODY as u64 => return Err(Reject(413)),
            Framing::Length(length) => {
                let end = head.len + length as usize;
                if buf.len() >= end {
                    return seen(&buf[head.len..end], &buf[end..]);
                }
            }
            Framing::Chunked => {
                let decoder = chunked.get_or_insert(ChunkedBody::new(MAX_BODY, LIMIT));
                let end = decoder.decode(&mut buf[head.len..])?;
                let body_end = head.len + decoder.body_bytes();
                match end {
                    Some(end) => {
                        return seen(&buf[head.len..body_end], &buf[head.len + end..]);
                    }
                    None => buf.truncate(body_end),
                }
            }
        }
    }
    Ok(None)
}

fn whole(text: &[u8]) -> Result<Option<Seen>, Reject> {
    feed(text, &[])
}

/// Requests that are answered, and how.
const GOOD: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "\r\n\r\nGET /a?b=c HTTP/1.1\r\nHost:a\r\nAccept:\t*/*  \r\n\r\nGET /next HTTP/1.1\r\n",
    "GET / HTTP/1.0\r\n\r\n",
    "POST /e HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhelloPOST",
    "POST /e HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n5\r\nhello\r\nA;x=\"y\"\r\n0123456789\r\n\
     0\r\nX-Trailer: 1\r\n\r\nGET",
    "POST /e HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n000\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET http://a:80/x?y HTTP/1.1\r\nHost: a\r\n\r\n",
    "CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n",
];

/// Requests that are refused, and the status of the answer.
const BAD: &[(u16, &str)] = &[
    // The request line.
    (400, "GET\r\n\r\n"),
    (400, "GET /\r\n\r\n"),
    (400, "G\x00T / HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET / HTTP/1.1 \r\nHost: a\r\n\r\n"),
    (400, "GET / x HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET a HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET / FTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET / HTTP/x.1\r\nHost: a\r\n\r\n"),
    (505, "GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
    (505, "GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
    (505, "GET / HTTP/0.9\r\n\r\n"),
    (400, "\x16\x03\x01\x02\x00\x01\r\n\r\n"),
    // Lines.
    (400, "GET / HTTP/1.1\nHost: a\n\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX: a\nY: b\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX\r: b\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX\t: b\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX(: b\r\n\r\n"),
    // Host.
    (400, "GET / HTTP/1.1\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n"),
    // Framing.
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\na",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\na",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\na",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\na",
    ),
    (
        413,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 65\r\n\r\n",
    ),
    (
        413,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        501,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        501,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    ),
    (
        501,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n",
    ),
    (
        501,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    ),
    (417, "POST / HTTP/1.1\r\nHost: a\r\nExpect: more\r\n\r\n"),
];

/// Chunked bodies that are refused.
const BAD_CHUNKS: &[(u16, &str)] = &[
    (400, "\r\n"),
    (400, "x\r\n"),
    (400, "-1\r\n"),
    (400, "0x1\r\na\r\n"),
    (400, " 1\r\na\r\n"),
    (400, "1\na\r\n"),
    (400, "1\r\nab\r\n"),
    (400, "1\r\na\n"),
    (400, "1\ra"),
    (400, "1;a\nb\r\n"),
    (400, "0\r\n\n"),
    (400, "0\r\nX: a\n"),
    (400, "0\r\n X: a\r\n\r\n"),
    (400, "0\r\n\rX"),
    (413, "41\r\n"),
    (413, "20\r\n01234567890123456789012345678901\r\n21\r\n"),
    (413, "10000000000000000\r\n"),
    (413, "ffffffffffffffff\r\n"),
];

#[test]
fn good_requests_are_seen_whole() {
    let seen: Vec<Seen> = GOOD
        .iter()
        .map(|text| whole(text.as_bytes()).unwrap().expect(text))
        .collect();
    let text = |at: usize, span: Span| {
        let start = leading_blank(GOOD[at].as_bytes());
        &GOOD[at][start..][span.range()]
    };
    assert_eq!(text(0, seen[0].head.method), "GET");
    assert_eq!(text(0, seen[0].head.path), "/");
    assert!(seen[0].head.keep_alive && seen[0].body.is_empty() && seen[0].rest.is_empty());
    assert_eq!(text(1, seen[1].head.path), "/a");
    assert_eq!(text(1, seen[1].head.query), "b=c");
    let request = &GOOD[1].as_bytes()[4..];
    assert_eq!(seen[1].head.header(request, b"aCCEPT"), Some(&b"*/*"[..]));
    assert_eq!(seen[1].head.header(request, b"accep"), None);
    assert_eq!(seen[1].rest, b"GET /next HTTP/1.1\r\n");
    assert!(!seen[2].head.keep_alive && seen[2].head.minor_version == 0);
    assert_eq!(
        (&seen[3].body[..], &seen[3].rest[..]),
        (&b"hello"[..], &b"POST"[..])
    );
    assert_eq!(seen[4].body, b"hello0123456789");
    assert_eq!(seen[4].rest, b"GET");
    assert!(seen[5].body.is_empty() && seen[5].rest.is_empty());
    assert_eq!(text(6, seen[6].head.path), "*");
    assert_eq!(text(7, seen[7].head.path), "/x");
    assert_eq!(text(7, seen[7].head.query), "y");
    assert_eq!(text(8, seen[8].head.path), "a:443");
}

#[test]
fn an_absolute_target_without_path_means_the_root() {
    for (target, query) in [("http://a", ""), ("HTTPS://a?q", "q"), ("http://a/?", "")] {
        let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        let seen = whole(text.as_bytes()).unwrap().unwrap();
        assert_eq!(&text[seen.head.path.range()], "/");
        assert_eq!(&text[seen.head.query.range()], query);
    }
}

#[test]
fn malformed_requests_are_refused() {
    for (status, text) in BAD {
        assert_eq!(whole(text.as_bytes()), Err(Reject(*status)), "{text:?}");
    }
    for (status, body) in BAD_CHUNKS {
        assert_eq!(whole(&chunked(body)), Err(Reject(*status)), "{body:?}");
    }
}

fn chunked(body: &str) -> Vec<u8> {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    [head.as_bytes(), body.as_bytes()].concat()
}

#[test]
fn no_cut_changes_what_is_seen() {
    let good = GOOD.iter().map(|text| text.as_bytes().to_vec());
    let bad = BAD.iter().map(|(_, text)| text.as_bytes().to_vec());
    let bad_chunks = BAD_CHUNKS.iter().map(|(_, body)| chunked(body));
    for bytes in good.chain(bad).chain(bad_chunks) {
        let expected = whole(&bytes);
        assert_ne!(expected, Ok(None));
        let text = String::from_utf8_lossy(&bytes);
        let single: Vec<usize> = (1..bytes.len()).collect();
        assert_eq!(feed(&bytes, &single), expected, "byte by byte: {text:?}");
        for first in 1..bytes.len() {
            assert_eq!(feed(&bytes, &[first]), expected, "cut at {first}: {text:?}");
            for second in first + 1..bytes.len() {
                assert_eq!(
                    feed(&bytes, &[first, second]),
                    expected,
                    "cut at {first} and {second}: {text:?}"
                );
            }
        }
    }
}

#[test]
fn every_prefix_of_a_good_request_is_only_incomplete() {
    for text in GOOD {
        let seen = whole(text.as_bytes()).unwrap().unwrap();
        for end in 0..text.len() - seen.rest.len() {
            assert_eq!(
                whole(&text.as_bytes()[..end]),
                Ok(None),
                "{text:?} to {end}"
            );
        }
    }
}

#[test]
fn heads_beyond_the_limits_are_refused() {
    let with_value = |bytes: usize| {
        let value = "v".repeat(bytes);
        format!("GET / HTTP/1.1\r\nHost: a\r\nX: {value}\r\n\r\n").into_bytes()
    };
    let fixed = with_value(0).len();
    assert!(whole(&with_value(LIMIT - fixed)).unwrap().is_some());
    let too_long = with_value(LIMIT - fixed + 1);
    assert_eq!(whole(&too_long), Err(Reject(431)));
    let single: Vec<usize> = (1..too_long.len()).collect();
    assert_eq!(feed(&too_long, &single), Err(Reject(431)));

    let with_headers = |count: usize| {
        let lines: String = (1..count).map(|at| format!("x{at}: y\r\n")).collect();
        format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n").into_bytes()
    };
    for count in [1, FEW_HEADERS, FEW_HEADERS + 1, MAX_HEADERS] {
        let seen = whole(&with_headers(count)).unwrap().unwrap();
        assert_eq!(seen.head.headers.len(), count);
    }
    assert_eq!(whole(&with_headers(MAX_HEADERS + 1)), Err(Reject(431)));

    let long_line = format!("1;{}\r\n", "e".repeat(MAX_CHUNK_LINE));
    assert_eq!(whole(&chunked(&long_line)), Err(Reject(400)));
    let long_trailer = format!("0\r\nX: {}\r\n", "t".repeat(LIMIT));
    assert_eq!(whole(&chunked(&long_trailer)), Err(Reject(431)));
}

#[test]
fn the_connection_header_decides_persistence() {
    let keeps = |version: &str, value: &str| {
        let text = format!("GET / HTTP/{version}\r\nHost: a\r\nConnection: {value}\r\n\r\n");
        whole(text.as_bytes()).unwrap().unwrap().head.keep_alive
    };
    assert!(keeps("1.1", "keep-alive") && keeps("1.1", "upgrade") && keeps("1.1", ""));
    assert!(!keeps("1.1", "close") && !keeps("1.1", "Upgrade , CLOSE"));
    assert!(!keeps("1.1", "keep-alive, close"));
    assert!(keeps("1.0", "Keep-Alive") && !keeps("1.0", "close") && !keeps("1.0", ""));
}

#[test]
fn an_expectation_counts_only_where_it_is_defined() {
    let expects = |version: &str| {
        let text = format!("POST / HTTP/{version}\r\nHost: a\r\nExpect: 100-Continue\r\n\r\n");
        let head = whole(text.as_bytes()).unwrap().unwrap().head;
        head.expects_continue
    };
    assert!(expects("1.1"));
    assert!(!expects("1.0"));
}

#[test]
fn a_peer_that_sends_single_bytes_costs_few_attempts() {
    let text = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "v".repeat(3000)
    );
    let mut attempts = Attempts::new();
    let due = (1..=text.len())
        .filter(|&end| attempts.is_due(&text.as_bytes()[..end], LIMIT))
        .count();
    // One for each doubling and one for the end.
    assert!(due <= 13, "{due}");
}
