//! The calls as an OS thread makes them: against real sockets, pipes and files, with a peer on another thread.

#![allow(unsafe_code)]

use super::*;
use crate::primitive::clock::{FOREVER, now_ns};
use crate::reactor::AddressBuffer;
use std::ffi::CString;
use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

/// Generous: no test waits for it unless it fails.
fn limit() -> u64 {
    now_ns() + 30_000_000_000
}

fn soon() -> u64 {
    now_ns() + 2_000_000
}

fn read(fd: i32, buf: &mut [u8], deadline_ns: u64) -> Result<usize> {
    stream::read(fd, sys::as_uninit(buf), deadline_ns)
}

fn tcp_pair() -> (i32, i32) {
    let listener = socket::tcp_listen(Some("127.0.0.1"), 0, 8, false).unwrap();
    let port = stream::local_port(listener).unwrap();
    let client = socket::tcp_connect("127.0.0.1", port, limit()).unwrap();
    let server = stream::accept(listener, limit()).unwrap();
    stream::close(listener).unwrap();
    (client, server)
}

/// A name in a temporary directory that no other test has.
fn path(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let unique = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("swn-io-{}-{unique}-{name}", std::process::id()))
}

#[test]
fn a_connection_carries_bytes_both_ways_and_ends() {
    let (client, server) = tcp_pair();
    let mut buf = [0; 16];
    assert_eq!(stream::recv(server, &mut buf, 0), Err(Error::TIMEDOUT));
    let begin = now_ns();
    assert_eq!(
        stream::recv(server, &mut buf, begin + 3_000_000),
        Err(Error::TIMEDOUT)
    );
    assert!(now_ns() - begin >= 3_000_000);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut buf = [0; 16];
            let n = stream::recv(server, &mut buf, limit()).unwrap();
            stream::send_vectored_all(server, &[&buf[..n], b"", b"-", &buf[..n]], limit())
        });
        stream::send_all(client, b"hello", limit()).unwrap();
        reader.join().unwrap().unwrap();
    });
    let mut got = Vec::new();
    while got.len() < 11 {
        let n = read(client, &mut buf, limit()).unwrap();
        got.extend_from_slice(&buf[..n]);
    }
    assert_eq!(got, b"hello-hello");
    stream::shutdown_write(server).unwrap();
    assert_eq!(stream::recv(client, &mut buf, limit()), Ok(0));
    assert_eq!(stream::close(server), Ok(()));
    assert_eq!(stream::close(client), Ok(()));
}

#[test]
fn large_transfers_arrive_whole_though_each_call_is_short() {
    const LEN: usize = 4 << 20;
    let byte = |i: usize| (i * 31 % 251) as u8;
    let sent: Vec<u8> = (0..LEN).map(byte).collect();
    let [reader, writer] = pipe::pipe().unwrap();
    for (from, to) in [tcp_pair(), (writer, reader)] {
        thread::scope(|scope| {
            let sent = &sent;
            scope.spawn(move || {
                stream::write_all(from, sent, limit()).unwrap();
                stream::close(from).unwrap();
            });
            let mut got = Vec::new();
            let mut buf = vec![0; 300_000];
            loop {
                match read(to, &mut buf, limit()).unwrap() {
                    0 => break,
                    n => got.extend_from_slice(&buf[..n]),
                }
            }
            assert!(got == *sent);
        });
        stream::close(to).unwrap();
    }
}

/// Runs `f` on a thread that blocks `signal`, so that one which is raised stays to be seen; with it `f` gets the question
/// whether one is pending.
fn with_blocked(signal: i32, f: impl FnOnce(&dyn Fn() -> bool) + Send) {
    thread::scope(|scope| {
        let blocked = move || {
            // SAFETY: valid sets.
            unsafe {
                let mut set = std::mem::zeroed();
                libc::sigemptyset(&mut set);
                libc::sigaddset(&mut set, signal);
                libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
            }
            // SAFETY: a valid set.
            f(&|| unsafe {
                let mut set = std::mem::zeroed();
                libc::sigpending(&mut set);
                libc::sigismember(&set, signal) == 1
            });
        };
        scope.spawn(blocked).join().unwrap();
    });
}

fn raise(signal: i32) {
    // SAFETY: to the calling thread, which blocks it.
    unsafe { libc::pthread_kill(libc::pthread_self(), signal) };
}

#[test]
fn a_peer_that_is_gone_is_an_error_and_no_signal() {
    let broken = Error::from_errno(libc::EPIPE);
    with_blocked(libc::SIGPIPE, |pending| {
        let [reader, writer] = pipe::pipe().unwrap();
        stream::close(reader).unwrap();
        assert_eq!(stream::write(writer, b"x", limit()), Err(broken));
        let (client, server) = tcp_pair();
        stream::shutdown_write(client).unwrap();
        assert_eq!(stream::write(client, b"x", limit()), Err(broken));
        assert_eq!(stream::send(client, b"x", limit()), Err(broken));
        assert_eq!(
            stream::send_vectored_all(client, &[b"x"], limit()),
            Err(broken)
        );
        assert!(!pending());
        // The host's own stays.
        raise(libc::SIGPIPE);
        assert_eq!(stream::write(writer, b"x", limit()), Err(broken));
        assert!(pending());
        for fd in [writer, client, server] {
            stream::close(fd).unwrap();
        }
    });
}

#[test]
fn a_blocking_descriptor_of_the_host_does_not_block_past_the_deadline() {
    let mut ends = [0; 2];
    // SAFETY: room for two.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    let [reader, writer] = ends;
    assert_eq!(read(reader, &mut [0; 8], soon()), Err(Error::TIMEDOUT));
    let full = vec![0; 1 << 20];
    assert_eq!(
        stream::write_all(writer, &full, now_ns() + 20_000_000),
        Err(Error::TIMEDOUT)
    );
    assert_eq!(read(reader, &mut [0; 8], limit()), Ok(8));
    forget(reader).unwrap();
    assert_eq!(crate::reactor::sys::is_nonblocking(reader), Ok(false));
    stream::close(reader).unwrap();
    stream::close(writer).unwrap();
    assert_eq!(forget(-1), Err(Error::BADF));
}

#[test]
fn listeners_accept_on_both_families_and_tell_the_peer() {
    let listener = socket::tcp_listen(None, 0, 0, true).unwrap();
    let port = stream::local_port(listener).unwrap();
    assert_eq!(stream::accept(listener, soon()), Err(Error::TIMEDOUT));
    let second = socket::tcp_listen(None, port, 0, true).unwrap();
    stream::close(second).unwrap();
    let client = socket::tcp_connect("127.0.0.1", port, limit()).unwrap();
    let mut peer = AddressBuffer::new();
    let server = stream::accept_from(listener, Some(&mut peer), limit()).unwrap();
    let family = u16::from_ne_bytes([peer.bytes()[0], peer.bytes()[1]]);
    assert!([libc::AF_INET, libc::AF_INET6].contains(&i32::from(family)));
    assert_eq!(crate::reactor::sys::is_nonblocking(server), Ok(true));
    for fd in [client, server, listener] {
        stream::close(fd).unwrap();
    }
    let refused = socket::tcp_connect("127.0.0.1", port, limit());
    assert_eq!(refused, Err(Error::from_errno(libc::ECONNREFUSED)));
    assert_eq!(
        socket::tcp_listen(Some("not numeric"), 0, 0, false),
        Err(Error::INVAL)
    );
    assert_eq!(socket::tcp_connect("a\0b", 1, limit()), Err(Error::INVAL));
}

#[test]
fn names_are_looked_up_and_their_errors_keep_their_codes() {
    let node = CString::new("127.0.0.1").unwrap();
    let service = CString::new("80").unwrap();
    let hints = resolve::Hints {
        flags: libc::AI_NUMERICHOST,
        socktype: libc::SOCK_STREAM,
        ..resolve::Hints::default()
    };
    let look_up = |node, service| resolve::look_up(node, service, hints, FOREVER);
    let list = look_up(Some(node), Some(service)).unwrap();
    assert_eq!(list.addresses(7), ["127.0.0.1:7".parse().unwrap()]);
    let name = CString::new("no.such.name").unwrap();
    let failed = look_up(Some(name), None).err().unwrap();
    assert_eq!(failed, Error::from_address_info(libc::EAI_NONAME));
}

#[test]
fn unix_sockets_connect_by_path_and_wait_while_the_backlog_is_full() {
    let path = path("socket");
    let bytes = path.as_os_str().as_encoded_bytes();
    let listener = socket::unix_listen(bytes, 1).unwrap();
    let mut clients = Vec::new();
    loop {
        match socket::unix_connect(bytes, soon()) {
            Ok(fd) => clients.push(fd),
            Err(e) => {
                assert_eq!(e, Error::TIMEDOUT);
                break;
            }
        }
    }
    thread::scope(|scope| {
        let late = scope.spawn(|| socket::unix_connect(bytes, limit()).unwrap());
        for _ in 0..=clients.len() {
            stream::close(stream::accept(listener, limit()).unwrap()).unwrap();
        }
        clients.push(late.join().unwrap());
    });
    for fd in clients {
        stream::close(fd).unwrap();
    }
    stream::close(listener).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(
        socket::unix_listen(&[b'a'; 108], 1),
        Err(Error::NAMETOOLONG)
    );
    assert_eq!(socket::unix_connect(&[], FOREVER), Err(Error::INVAL));
}

#[test]
fn poll_tells_what_holds_and_refuses_what_it_does_not_know() {
    let (client, server) = tcp_pair();
    let (input, output) = (i32::from(libc::POLLIN), i32::from(libc::POLLOUT));
    assert_eq!(poll::poll(server, input | output, limit()), Ok(output));
    assert_eq!(poll::poll(server, input, soon()), Err(Error::TIMEDOUT));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| poll::poll(server, input, limit()));
        stream::send_all(client, b"x", limit()).unwrap();
        assert_eq!(waiting.join().unwrap(), Ok(input));
    });
    assert_eq!(poll::poll(server, input, 0), Ok(input));
    assert_eq!(poll::poll(server, 1 << 14, 0), Err(Error::INVAL));
    assert_eq!(poll::poll(server, 1 << 20, 0), Err(Error::INVAL));
    assert_eq!(poll::poll(-1, input, 0), Err(Error::BADF));
    stream::close(client).unwrap();
    stream::close(server).unwrap();
}

#[test]
fn files_are_read_and_written_at_offsets() {
    let path = path("file");
    let name = CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
    let fd = file::open(&name, flags, 0o600, limit()).unwrap();
    assert_eq!(file::pwrite(fd, b"at four", 4, limit()), Ok(7));
    assert_eq!(file::fsync(fd, limit()), Ok(()));
    let mut buf = [MaybeUninit::new(1); 16];
    assert_eq!(file::pread(fd, &mut buf, 0, limit()), Ok(11));
    assert_eq!(file::pread(fd, &mut buf, 11, limit()), Ok(0));
    assert_eq!(
        file::pread(fd, &mut buf, u64::MAX, limit()),
        Err(Error::INVAL)
    );
    let mut bytes = [0; 16];
    assert_eq!(read(fd, &mut bytes, 0), Ok(11));
    assert_eq!(&bytes[..11], b"\0\0\0\0at four");
    assert_eq!(file::close(fd, limit()), Ok(()));
    assert_eq!(file::open(&name, flags, 0o600, limit()), Err(Error::EXIST));
    assert_eq!(file::close(-1, limit()), Err(Error::BADF));
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_blocked_signal_is_waited_for() {
    with_blocked(libc::SIGUSR2, |pending| {
        let mask = 1u64 << (libc::SIGUSR2 - 1);
        assert_eq!(signal::wait(mask, soon()), Err(Error::TIMEDOUT));
        raise(libc::SIGUSR2);
        assert_eq!(signal::wait(mask, limit()), Ok(libc::SIGUSR2));
        assert!(!pending());
        assert_eq!(signal::wait(0, limit()), Err(Error::INVAL));
    });
}

#[test]
fn bad_descriptors_are_errors() {
    for fd in [-1, i32::MAX, 1 << 21] {
        assert_eq!(read(fd, &mut [0; 8], 0), Err(Error::BADF));
        assert_eq!(stream::write(fd, b"x", 0), Err(Error::BADF));
        assert_eq!(stream::accept(fd, 0), Err(Error::BADF));
        assert_eq!(stream::close(fd), Err(Error::BADF));
    }
}
