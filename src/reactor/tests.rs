//! The drivers for real: OS threads stand for vthreads, and one thread for each driver polls it as a carrier would.

use super::fake::FakeDriver;
use super::*;
use crate::primitive::clock::now_ns;
use crate::wait::ThreadWaiter;
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Generous: no test waits for it unless it fails.
const LIMIT_NS: u64 = 30_000_000_000;

fn limit() -> u64 {
    now_ns() + LIMIT_NS
}

/// Keeps its waiters until it ends: between the end of a wait and its disarming a driver may still look at them.
struct ThreadPark<'a>(&'a dyn Driver, Mutex<Vec<Pin<Box<ThreadWaiter>>>>);

fn park(driver: &dyn Driver) -> ThreadPark<'_> {
    ThreadPark(driver, Mutex::default())
}

impl Park for ThreadPark<'_> {
    fn with_driver<R>(&self, f: impl FnOnce(&dyn Driver) -> R) -> Result<R> {
        Ok(f(self.0))
    }

    fn wait(&self, deadline_ns: u64, arm: impl FnOnce(Target) -> Armed) -> Result<Option<Outcome>> {
        let waiter = Box::pin(ThreadWaiter::new());
        if arm(waiter.target()) == Armed::Retry {
            return Ok(None);
        }
        let outcome = waiter.block(deadline_ns, now_ns);
        self.1.lock().unwrap().push(waiter);
        Ok(Some(outcome))
    }
}

/// Counts the waits that were armed: says that a waiter waits, and is not only about to.
struct CountingPark<'a>(ThreadPark<'a>, &'a AtomicUsize);

impl Park for CountingPark<'_> {
    fn with_driver<R>(&self, f: impl FnOnce(&dyn Driver) -> R) -> Result<R> {
        self.0.with_driver(f)
    }

    fn wait(&self, deadline_ns: u64, arm: impl FnOnce(Target) -> Armed) -> Result<Option<Outcome>> {
        self.0.wait(deadline_ns, |target| {
            let armed = arm(target);
            self.1
                .fetch_add(usize::from(armed == Armed::Waiting), Ordering::Release);
            armed
        })
    }
}

/// Polls every driver on a thread of its own while `f` runs.
fn polled<R>(reactor: &Reactor, f: impl FnOnce() -> R) -> R {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for driver in &reactor.drivers {
            let stop = &stop;
            scope.spawn(move || {
                let mut wakes = Vec::new();
                while !stop.load(Ordering::Acquire) {
                    driver.wait(None, &mut wakes);
                    wakes.drain(..).for_each(Wake::run);
                }
            });
        }
        struct Stop<'a>(&'a AtomicBool, &'a Reactor);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Release);
                self.1.drivers.iter().for_each(|driver| driver.wake());
            }
        }
        let _stop = Stop(&stop, reactor);
        f()
    })
}

fn uninit(buf: &mut [u8]) -> &mut [MaybeUninit<u8>] {
    // SAFETY: bytes are as good uninitialised; the reactor writes initialised ones only.
    unsafe { &mut *(ptr_of(buf)) }
}

fn ptr_of(buf: &mut [u8]) -> *mut [MaybeUninit<u8>] {
    std::ptr::from_mut(buf) as *mut [MaybeUninit<u8>]
}

fn read(driver: &dyn Driver, fd: i32, buf: &mut [u8], deadline_ns: u64) -> Result<usize> {
    drive(
        &Operation::read(fd, uninit(buf)),
        deadline_ns,
        &park(driver),
    )
}

fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

/// Waits until somebody waits in a driver for `fd`, so that a test meets a waiter and not an attempt.
fn until(mut condition: impl FnMut() -> bool) {
    let end = limit();
    while !condition() {
        assert!(now_ns() < end, "waited too long");
        thread::yield_now();
    }
}

#[test]
fn a_request_on_a_waiting_connection_needs_no_probe() {
    let reactor = Reactor::start(1).unwrap();
    let driver = reactor.driver(0);
    let (mut client, server) = tcp_pair();
    let fd = server.as_raw_fd();
    let mut buf = [0; 64];
    polled(&reactor, || {
        client.write_all(b"one").unwrap();
        assert_eq!(read(driver, fd, &mut buf, limit()), Ok(3));
        // All events of the first request are in once the peer's next byte has been read.
        client.write_all(b"two").unwrap();
        assert_eq!(read(driver, fd, &mut buf, limit()), Ok(3));
        // A short read has emptied the buffer: no system call is made, so what is taken away cannot be missed.
        let operation = Operation::read(fd, uninit(&mut buf));
        let hinted = driver.try_complete(&operation, Effort::Hinted);
        assert_eq!(hinted, Progress::Pending);
        client.write_all(b"three").unwrap();
        assert_eq!(read(driver, fd, &mut buf, limit()), Ok(5));
    });
}

#[test]
fn end_of_file_after_a_short_read_is_reported() {
    let reactor = Reactor::start(1).unwrap();
    let driver = reactor.driver(0);
    polled(&reactor, || {
        for _ in 0..200 {
            let (mut client, server) = tcp_pair();
            let mut buf = [0; 64];
            client.write_all(b"last").unwrap();
            drop(client);
            assert_eq!(read(driver, server.as_raw_fd(), &mut buf, limit()), Ok(4));
            assert_eq!(read(driver, server.as_raw_fd(), &mut buf, limit()), Ok(0));
            reactor.release(server.as_raw_fd(), Release::Close);
        }
    });
    assert_eq!(driver.sources(), 0);
}

#[test]
fn urgent_data_does_not_hide_what_follows_it() {
    let reactor = Reactor::start(1).unwrap();
    let driver = reactor.driver(0);
    let (mut client, server) = tcp_pair();
    let mut buf = [0; 64];
    polled(&reactor, || {
        client.write_all(b"before").unwrap();
        // SAFETY: one valid byte.
        let sent = unsafe { sys::send(client.as_raw_fd(), b"!".as_ptr(), 1, libc::MSG_OOB) };
        assert_eq!(sent, Ok(1));
        client.write_all(b"after").unwrap();
        let mut got = Vec::new();
        while got.len() < 11 {
            let n = read(driver, server.as_raw_fd(), &mut buf, limit()).unwrap();
            got.extend_from_slice(&buf[..n]);
        }
        assert_eq!(got, b"beforeafter");
    });
}

#[test]
fn an_attempt_is_made_even_when_the_deadline_has_passed() {
    let reactor = Reactor::start(1).unwrap();
    let driver = reactor.driver(0);
    let (mut client, server) = UnixStream::pair().unwrap();
    let fd = server.as_raw_fd();
    let mut buf = [0; 8];
    // Nobody polls: only the attempt itself can find the bytes.
    assert_eq!(read(driver, fd, &mut buf, 0), Err(Error::TIMEDOUT));
    client.write_all(b"x").unwrap();
    assert_eq!(read(driver, fd, &mut buf, 0), Ok(1));
    assert_eq!(read(driver, fd, &mut buf, now_ns()), Err(Error::TIMEDOUT));
    client.write_all(b"yz").unwrap();
    assert_eq!(read(driver, fd, &mut buf, now_ns() + 1), Ok(2));
}

#[test]
fn a_deadline_ends_a_wait_and_the_next_one_works() {
    let reactor = Reactor::start(1).unwrap();
    let driver = reactor.driver(0);
    let (mut client, server) = UnixStream::pair().unwrap();
    let mut buf = [0; 8];
    polled(&reactor, || {
        let soon = now_ns() + 5_000_000;
        let fd = server.as_raw_fd();
        assert_eq!(read(driver, fd, &mut buf, soon), Err(Error::TIMEDOUT));
        assert!(now_ns() >= soon);
        client.write_all(b"late").unwrap();
        assert_eq!(read(driver, fd, &mut buf, limit()), Ok(4));
    });
}

/// Three waiters on one descriptor, on two cores; `close` ends all of them, then the descriptor is used anew.
fn close_while_waiting(close: impl Fn(i32, &dyn Fn() -> bool, &AtomicUsize)) {
    let reactor = Reactor::start(2).unwrap();
    polled(&reactor, || {
        for _ in 0..50 {
            let (mut client, server) = UnixStream::pair().unwrap();
            let fd = server.as_raw_fd();
            let armed = AtomicUsize::new(0);
            thread::scope(|scope| {
                let waiters: Vec<_> = (0..3)
                    .map(|i| {
                        let (reactor, armed) = (&reactor, &armed);
                        scope.spawn(move || {
                            let park = CountingPark(park(reactor.driver(i % 2)), armed);
                            drive(&Operation::read(fd, uninit(&mut [0; 8])), limit(), &park)
                        })
                    })
                    .collect();
                close(fd, &|| waiters.iter().all(|w| w.is_finished()), &armed);
                for waiter in waiters {
                    assert_eq!(waiter.join().unwrap(), Err(Error::CANCELED));
                }
            });
            client.write_all(b"x").unwrap();
            assert_eq!(read(reactor.driver(0), fd, &mut [0; 8], limit()), Ok(1));
            close_everywhere(fd, None);
        }
    });
    assert_eq!(reactor.driver(0).sources() + reactor.driver(1).sources(), 0);
}

#[test]
fn a_close_cancels_all_who_wait() {
    close_while_waiting(|fd, _, armed| {
        until(|| armed.load(Ordering::Acquire) == 3);
        // By way of the process's list, as a thread without a runtime does it.
        close_everywhere(fd, None);
    });
}

#[test]
fn a_close_meets_those_who_are_about_to_wait() {
    close_while_waiting(|fd, all_finished, _| {
        // Whoever starts after a close waits for the next one.
        until(|| {
            close_everywhere(fd, None);
            all_finished()
        });
    });
}

#[test]
fn a_number_in_use_again_never_sees_an_old_event() {
    let reactor = Reactor::start(1).unwrap();
    let driver = reactor.driver(0);
    let mut wakes = Vec::new();
    for _ in 0..100 {
        let (client, server) = UnixStream::pair().unwrap();
        let fd = server.as_raw_fd();
        assert_eq!(read(driver, fd, &mut [0; 8], 0), Err(Error::TIMEDOUT));
        // The hang-up is an event that epoll holds when the number changes its meaning.
        drop(client);
        let (_peer, other) = UnixStream::pair().unwrap();
        reactor.release(fd, Release::Close);
        // SAFETY: duplicates onto a number that this test owns.
        assert_eq!(unsafe { libc::dup2(other.as_raw_fd(), fd) }, fd);
        driver.admit(fd, FdKind::Socket);
        assert_eq!(read(driver, fd, &mut [0; 8], 0), Err(Error::TIMEDOUT));
        driver.wait(Some(0), &mut wakes);
        let mut buf = [0; 8];
        let operation = Operation::read(fd, uninit(&mut buf));
        let progress = driver.try_complete(&operation, Effort::Hinted);
        assert_eq!(progress, Progress::Pending);
        reactor.release(fd, Release::Close);
    }
}

#[test]
fn a_descriptor_closed_behind_our_back_is_noticed_by_an_error() {
    let reactor = Reactor::start(1).unwrap();
    let driver = reactor.driver(0);
    let (client, server) = UnixStream::pair().unwrap();
    let fd = server.as_raw_fd();
    assert_eq!(read(driver, fd, &mut [0; 8], 0), Err(Error::TIMEDOUT));
    assert_eq!(driver.sources(), 1);
    drop((client, server));
    // Another test's thread may have got the number meanwhile; then there is nothing to notice.
    if read(driver, fd, &mut [0; 8], 0) == Err(Error::BADF) {
        assert_eq!(driver.sources(), 0);
    }
}

#[test]
fn forgetting_restores_a_blocking_descriptor() {
    let reactor = Reactor::start(1).unwrap();
    let driver = reactor.driver(0);
    let (_client, server) = UnixStream::pair().unwrap();
    let fd = server.as_raw_fd();
    assert_eq!(sys::is_nonblocking(fd), Ok(false));
    assert_eq!(read(driver, fd, &mut [0; 8], 0), Err(Error::TIMEDOUT));
    assert_eq!(sys::is_nonblocking(fd), Ok(true));
    forget_everywhere(fd, None);
    assert_eq!(sys::is_nonblocking(fd), Ok(false));
    assert_eq!(driver.sources(), 0);
}

#[test]
fn a_write_to_a_descriptor_open_for_reading_leaves_its_readers_alone() {
    let reactor = Reactor::start(1).unwrap();
    let driver = reactor.driver(0);
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    let fd = reader.as_raw_fd();
    polled(&reactor, || {
        thread::scope(|scope| {
            let waiting = scope.spawn(|| read(driver, fd, &mut [0; 8], limit()));
            until(|| driver.sources() == 1);
            let write = Operation::write(fd, b"x");
            assert_eq!(drive(&write, limit(), &park(driver)), Err(Error::BADF));
            writer.write_all(b"abc").unwrap();
            assert_eq!(waiting.join().unwrap(), Ok(3));
        });
    });
    drop(writer);
    assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn poll_says_what_the_kernel_says() {
    let reactor = Reactor::start(1).unwrap();
    let driver = reactor.driver(0);
    let park = park(driver);
    let (mut client, mut server) = UnixStream::pair().unwrap();
    let fd = server.as_raw_fd();
    let both = libc::POLLIN | libc::POLLOUT;
    polled(&reactor, || {
        let poll = |events, deadline| drive(&Operation::poll(fd, events), deadline, &park);
        assert_eq!(poll(both, limit()), Ok(libc::POLLOUT as usize));
        assert_eq!(
            poll(libc::POLLIN, now_ns() + 1_000_000),
            Err(Error::TIMEDOUT)
        );
        client.write_all(b"xy").unwrap();
        assert_eq!(poll(libc::POLLIN, limit()), Ok(libc::POLLIN as usize));
        // Level: it stays until it is read, and ends when another reads it.
        assert_eq!(poll(both, limit()), Ok(both as usize));
        assert_eq!(server.read(&mut [0; 8]).unwrap(), 2);
        assert_eq!(poll(libc::POLLIN, 0), Err(Error::TIMEDOUT));
        // Full for writing and empty for reading: both directions are waited for.
        let full = [0; 65536];
        while drive(&Operation::write(fd, &full), 0, &park).is_ok() {}
        thread::scope(|scope| {
            let waiting = scope.spawn(|| drive(&Operation::poll(fd, both), limit(), &park));
            client.write_all(b"z").unwrap();
            assert_eq!(waiting.join().unwrap(), Ok(libc::POLLIN as usize));
        });
        drop(client);
        let hung_up = poll(0, limit()).unwrap();
        assert_ne!(hung_up & libc::POLLHUP as usize, 0);
    });
}

#[test]
fn a_regular_file_is_always_ready() {
    let reactor = Reactor::start(1).unwrap();
    let driver = reactor.driver(0);
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    let mut buf = [0; 4];
    assert_eq!(read(driver, file.as_raw_fd(), &mut buf, 0), Ok(4));
    assert_eq!(&buf, b"\x7fELF");
    assert_eq!(driver.sources(), 0);
}

#[test]
fn a_wake_ends_the_wait_in_progress_or_the_next_one() {
    let reactor = Reactor::start(1).unwrap();
    let driver = reactor.driver(0);
    let mut wakes = Vec::new();
    driver.wake();
    driver.wait(None, &mut wakes);
    // Not even a neighbour who collects the waker's event takes it away.
    driver.wake();
    assert_eq!(driver.try_wait(&mut wakes), Some(0));
    driver.wait(None, &mut wakes);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| driver.wait(None, &mut Vec::new()));
        thread::sleep(Duration::from_millis(5));
        driver.wake();
        assert_eq!(waiting.join().unwrap(), 0);
    });
}

#[test]
fn a_wait_lasts_as_long_as_it_is_told_to() {
    let reactor = Reactor::start(1).unwrap();
    let driver = reactor.driver(0);
    for timeout in [1, 20_000, 700_000, 2_300_000, 5_999_999] {
        let start = now_ns();
        assert_eq!(driver.wait(Some(timeout), &mut Vec::new()), 0);
        assert!(now_ns() - start >= timeout);
    }
}

#[test]
fn many_connections_exchange_many_messages_without_losing_one() {
    const PAIRS: usize = 16;
    const ROUNDS: usize = 300;
    let reactor = Reactor::start(2).unwrap();
    polled(&reactor, || {
        thread::scope(|scope| {
            for i in 0..PAIRS {
                let reactor = &reactor;
                let (client, server) = tcp_pair();
                let echo = move |stream: TcpStream, first: bool| {
                    let fd = stream.as_raw_fd();
                    let mut buf = [0; 32];
                    if first {
                        drive(
                            &Operation::send(fd, b"ping", 0),
                            limit(),
                            &park(reactor.driver(0)),
                        )
                        .unwrap();
                    }
                    for round in 0..ROUNDS {
                        // Now on one core, now on the other.
                        let driver = reactor.driver((i + round / 7) % 2);
                        let n = read(driver, fd, &mut buf, limit()).unwrap();
                        assert_eq!(&buf[..n], b"ping");
                        let write = Operation::write(fd, &buf[..n]);
                        assert_eq!(drive(&write, limit(), &park(driver)), Ok(4));
                    }
                    reactor.release(fd, Release::Close);
                    stream
                };
                let echo_too = echo;
                scope.spawn(move || echo(client, true));
                scope.spawn(move || echo_too(server, false));
            }
        });
    });
    assert_eq!(reactor.driver(0).sources() + reactor.driver(1).sources(), 0);
}

#[test]
fn what_the_fake_completes_is_what_the_caller_gets() {
    let fake = FakeDriver::new();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| read(&fake, 5, &mut [0; 8], limit()));
        fake.complete(5, Ok(7));
        let mut wakes = Vec::new();
        assert_eq!(fake.wait(None, &mut wakes), 1);
        wakes.drain(..).for_each(Wake::run);
        assert_eq!(waiting.join().unwrap(), Ok(7));
    });
    assert_eq!(read(&fake, 6, &mut [0; 8], 0), Err(Error::TIMEDOUT));
    fake.complete(6, Err(Error::from_errno(libc::EIO)));
    assert_eq!(
        read(&fake, 6, &mut [0; 8], 0),
        Err(Error::from_errno(libc::EIO))
    );
}
