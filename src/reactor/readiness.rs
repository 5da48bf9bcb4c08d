//! The driver over readiness: mio (epoll). Operations are attempted first, and wait for an edge when they would block.
//!
//! A descriptor is registered once, at its first use, with the driver of the core that it was used on, for both
//! directions, edge-triggered; it stays registered until it is released. So a wait makes no system call, and a request on
//! a waiting connection costs one read and one write.
//!
//! A host that closes a used descriptor by close(2) without telling us, and gets its number again, has an entry here that
//! epoll does not know any more (epoll drops closed files). That cannot be seen without a system call for each wait;
//! it is noticed where a call fails with EBADF, at connect(2), and whenever a call of ours returns the number. Otherwise
//! `swn_fd_forget` is the rule.

use super::direction::{Linked, Reading, Unlinked};
use super::fd_table::{Entry, FdTable, MAX_FD, State};
use super::operation::{Attempted, Directions, Operation};
use super::sys::{self, FdKind};
use super::{Armed, Driver, Effort, Progress, Release};
use crate::error::{Error, Result};
use crate::primitive::clock::now_ns;
use crate::primitive::pad::CachePadded;
use crate::primitive::prefetch;
use crate::wait::{Target, Wake};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

/// Events collected by one system call. A guess.
const EVENTS: usize = 1024;
const WAKER: Token = Token(usize::MAX);
/// Bits of a token below the generation.
const FD_BITS: u32 = MAX_FD.trailing_zeros();
const MILLISECOND: u64 = 1_000_000;

/// What the drivers of one runtime share.
struct Shared {
    table: FdTable,
    cores: Box<[Registrar]>,
}

/// Where descriptors are registered for one core; needs no lock.
struct Registrar {
    registry: Registry,
    sources: CachePadded<AtomicUsize>,
}

struct Readiness {
    shared: Arc<Shared>,
    core: usize,
    epoll: i32,
    waker: Waker,
    /// A `wake` that no `wait` has answered. The waker's event alone is not enough: a neighbour's `try_wait` may collect it
    /// while the owner is on its way into `wait`.
    woken: AtomicBool,
    inside: Mutex<Inside>,
}

/// What one thread at a time may use: mio's poll takes `&mut`.
struct Inside {
    poll: Poll,
    events: Events,
}

/// Opens one driver for each of `cores` cores.
pub(super) fn open(cores: usize) -> Result<Vec<Box<dyn Driver>>> {
    let mut parts = Vec::new();
    let mut registrars = Vec::new();
    for _ in 0..cores {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        registrars.push(Registrar {
            registry: poll.registry().try_clone()?,
            sources: CachePadded::default(),
        });
        parts.push((poll, waker));
    }
    let shared = Arc::new(Shared {
        table: FdTable::new()?,
        cores: registrars.into_boxed_slice(),
    });
    let drivers = parts.into_iter().enumerate();
    let driver = |(core, (poll, waker)): (usize, (Poll, Waker))| {
        Box::new(Readiness {
            shared: shared.clone(),
            core,
            epoll: poll.as_raw_fd(),
            waker,
            woken: AtomicBool::new(false),
            inside: Mutex::new(Inside {
                poll,
                events: Events::with_capacity(EVENTS),
            }),
        }) as Box<dyn Driver>
    };
    Ok(drivers.map(driver).collect())
}

fn token(fd: i32, generation: u32) -> Token {
    Token((generation as usize) << FD_BITS | fd as usize)
}

/// Readings of the directions of an operation, taken before its attempt.
struct Seen {
    read: Option<Reading>,
    write: Option<Reading>,
}

impl Seen {
    fn take(entry: &Entry, directions: Directions) -> Seen {
        Seen {
            read: (directions != Directions::Write).then(|| entry.read().read()),
            write: (directions != Directions::Read).then(|| entry.write().read()),
        }
    }

    fn is_ready(&self) -> bool {
        self.read.is_some_and(Reading::is_ready) || self.write.is_some_and(Reading::is_ready)
    }

    fn exhaust(&self, entry: &Entry) {
        if let Some(seen) = self.read {
            entry.read().exhaust(seen);
        }
        if let Some(seen) = self.write {
            entry.write().exhaust(seen);
        }
    }

    /// After a short read or write: the end of the stream may follow without an event of its own.
    fn exhaust_unless_hung_up(&self, entry: &Entry) {
        let hung_up = |seen: Option<Reading>| seen.is_some_and(Reading::is_hung_up);
        if !hung_up(self.read) && !hung_up(self.write) {
            self.exhaust(entry);
        }
    }
}

impl Shared {
    /// Makes `fd` non-blocking and known, and, if `register`, reported to `core`.
    #[cold]
    fn adopt(&self, entry: &Entry, fd: i32, core: usize, register: bool) -> Result<State> {
        let _stripe = self.table.lock(fd);
        let mut state = entry.state();
        if !state.is_prepared() {
            let kind = sys::kind(fd)?;
            let was_blocking = !sys::set_nonblocking(fd, true)?;
            state = state.prepared(kind, was_blocking);
            entry.set_state(state);
        }
        if register && !state.is_registered() {
            state = self.register(entry, fd, core, state)?;
        }
        Ok(state)
    }

    /// Registers a prepared descriptor; under its stripe.
    fn register(&self, entry: &Entry, fd: i32, core: usize, state: State) -> Result<State> {
        let registrar = &self.cores[core];
        let token = token(fd, state.generation());
        // Priority: urgent data ends a read early, which must not be taken for an empty buffer.
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        let mut result = registrar
            .registry
            .register(&mut SourceFd(&fd), token, interest);
        if matches!(&result, Err(e) if e.kind() == ErrorKind::AlreadyExists) {
            // The file is still open under another number, and this number means it again.
            result = registrar
                .registry
                .reregister(&mut SourceFd(&fd), token, interest);
        }
        let state = match result {
            Ok(()) => {
                registrar.sources.fetch_add(1, Ordering::Relaxed);
                state.registered(core)
            }
            // epoll_ctl(2): a file without readiness, such as a regular one.
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => state.always_ready(),
            Err(e) => return Err(e.into()),
        };
        entry.set_state(state);
        Ok(state)
    }

    /// Makes sure that epoll still knows a registered descriptor.
    #[cold]
    fn verify(&self, entry: &Entry, fd: i32, core: usize) -> Result<State> {
        let stripe = self.table.lock(fd);
        let state = entry.state();
        let Some(driver) = state.driver() else {
            return Ok(state);
        };
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        let token = token(fd, state.generation());
        let registry = &self.cores[driver].registry;
        match registry.reregister(&mut SourceFd(&fd), token, interest) {
            Ok(()) => Ok(state),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                // Another descriptor than the one we knew, under its number. Whoever waits for the old one is cancelled.
                let kind = sys::kind(fd)?;
                let was_blocking = !sys::set_nonblocking(fd, true)?;
                // After what can fail: then the state still names the driver, and a later attempt comes here again.
                self.cores[driver].sources.fetch_sub(1, Ordering::Relaxed);
                let state = state.next().prepared(kind, was_blocking);
                entry.set_state(state);
                let mut wakes = Vec::new();
                entry.read().reset(&mut wakes);
                entry.write().reset(&mut wakes);
                let state = self.register(entry, fd, core, state);
                drop(stripe);
                wakes.into_iter().for_each(Wake::run);
                state
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Ends the present use of `fd`, which goes on as `next`; under its stripe.
    fn retire(&self, entry: &Entry, fd: i32, next: State, wakes: &mut Vec<Wake>) {
        let state = entry.state();
        entry.set_state(next);
        entry.read().reset(wakes);
        entry.write().reset(wakes);
        if let Some(driver) = state.driver() {
            let registrar = &self.cores[driver];
            registrar.sources.fetch_sub(1, Ordering::Relaxed);
            // Fails if the file is closed already: then epoll has dropped it.
            let _ = registrar.registry.deregister(&mut SourceFd(&fd));
        }
    }

    /// The entry that an event is for; not of the waker's.
    fn entry_of(&self, token: Token) -> Option<&Entry> {
        // The waker's token has a number without an entry or one that the generation rules out.
        self.table.get((token.0 & (MAX_FD - 1)) as i32)
    }

    fn prefetch(&self, token: Token) {
        if let Some(entry) = self.entry_of(token) {
            prefetch::line(entry);
        }
    }

    /// Hands the events to the directions they are for.
    fn dispatch(&self, events: &Events, wakes: &mut Vec<Wake>) -> usize {
        let mut count = 0;
        // Entries are asked for eight events ahead, and who waits there four ahead.
        let mut far = events.iter();
        let mut near = events.iter();
        far.by_ref().take(8).for_each(|e| self.prefetch(e.token()));
        near.by_ref().take(4).for_each(drop);
        for event in events {
            if let Some(event) = far.next() {
                self.prefetch(event.token());
            }
            if let Some(entry) = near.next().and_then(|e| self.entry_of(e.token())) {
                entry.read().prefetch_waiter();
            }
            if event.token() == WAKER {
                continue;
            }
            count += 1;
            let generation = (event.token().0 >> FD_BITS) as u32;
            let Some(entry) = self.entry_of(event.token()) else {
                continue;
            };
            let is_current = || entry.is_generation(generation);
            let error = event.is_error();
            let hung_up =
                error || event.is_read_closed() || event.is_write_closed() || event.is_priority();
            if hung_up || event.is_readable() {
                entry.read().event(hung_up, is_current, wakes);
            }
            if error || event.is_writable() || event.is_write_closed() {
                entry.write().event(hung_up, is_current, wakes);
            }
        }
        count
    }
}

impl Readiness {
    /// The entry of the operation's descriptor, adopted, and its state.
    fn entry(&self, operation: &Operation<'_>) -> Result<(&Entry, State)> {
        let fd = operation.fd();
        let entry = self.shared.table.get_or_insert(fd)?;
        let mut state = entry.state();
        let bound = operation.generation();
        if bound.is_some_and(|generation| generation != state.generation()) {
            return Err(Error::CANCELED);
        }
        if operation.is_fresh_connect() {
            // Registered after connect(2): before it the socket counts as hung up.
            state = if state.is_registered() {
                self.shared.verify(entry, fd, self.core)?
            } else {
                self.shared.adopt(entry, fd, self.core, false)?
            };
        } else if !state.is_registered() {
            state = self.shared.adopt(entry, fd, self.core, true)?;
            if bound.is_some_and(|generation| generation != state.generation()) {
                return Err(Error::CANCELED);
            }
        }
        operation.set_generation(state.generation());
        Ok((entry, state))
    }

    fn attempt(&self, operation: &Operation<'_>, effort: Effort) -> Result<Progress> {
        let (entry, state) = self.entry(operation)?;
        let seen = Seen::take(entry, operation.directions());
        let ask = effort == Effort::Always || operation.is_poll() || operation.is_fresh_connect();
        if !ask && !seen.is_ready() {
            return Ok(Progress::Pending);
        }
        match operation.attempt(state.kind()) {
            Attempted::Done(Ok(fd)) if operation.is_accept() => {
                // Of the same kind as its listener.
                self.admit(fd as i32, state.kind());
                Ok(Progress::Done(Ok(fd)))
            }
            Attempted::Done(result) => Ok(Progress::Done(result)),
            Attempted::Exhausted(n) => {
                seen.exhaust_unless_hung_up(entry);
                Ok(Progress::Done(Ok(n)))
            }
            // Nothing will ever report it.
            Attempted::WouldBlock if state.is_always_ready() => Err(Error::AGAIN),
            Attempted::WouldBlock => {
                seen.exhaust(entry);
                if !state.is_registered() {
                    self.entry(operation)?;
                }
                Ok(Progress::Pending)
            }
        }
    }

    /// After EBADF: a descriptor that was closed behind our back is released, since whoever waits for it would wait for
    /// ever. (EBADF may also mean that it is not open for this direction.)
    #[cold]
    fn release_closed(&self, operation: &Operation<'_>) {
        let fd = operation.fd();
        let Some(entry) = self.shared.table.get(fd) else {
            return;
        };
        let mut wakes = Vec::new();
        {
            let _stripe = self.shared.table.lock(fd);
            let state = entry.state();
            if operation.generation() == Some(state.generation())
                && sys::is_nonblocking(fd) == Err(Error::BADF)
            {
                self.shared.retire(entry, fd, state.next(), &mut wakes);
            }
        }
        wakes.into_iter().for_each(Wake::run);
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        // A thread that panicked inside left nothing half done that the next poll would not overwrite.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside {
    /// Fills `events`. Interruptions and errors leave it empty.
    fn poll(&mut self, epoll: i32, timeout_ns: Option<u64>) {
        let Some(timeout_ns) = timeout_ns else {
            return self.poll_for(None);
        };
        if timeout_ns.is_multiple_of(MILLISECOND) {
            return self.poll_for(Some(timeout_ns / MILLISECOND));
        }
        // mio counts in milliseconds and rounds up: it gets the whole ones, and ppoll(2) the rest.
        let end = now_ns().saturating_add(timeout_ns);
        if timeout_ns >= 2 * MILLISECOND {
            self.poll_for(Some(timeout_ns / MILLISECOND));
            if !self.events.is_empty() {
                return;
            }
        }
        self.events.clear();
        let rest = end.saturating_sub(now_ns());
        // More than a millisecond is left only after an interruption.
        if rest > 0 && rest <= 2 * MILLISECOND && sys::wait_readable(epoll, rest) {
            self.poll_for(Some(0));
        }
    }

    fn poll_for(&mut self, milliseconds: Option<u64>) {
        let timeout = milliseconds.map(Duration::from_millis);
        if self.poll.poll(&mut self.events, timeout).is_err() {
            self.events.clear();
        }
    }
}

impl Driver for Readiness {
    fn try_complete(&self, operation: &Operation<'_>, effort: Effort) -> Progress {
        let progress = self
            .attempt(operation, effort)
            .unwrap_or_else(|e| Progress::Done(Err(e)));
        if progress == Progress::Done(Err(Error::BADF)) {
            self.release_closed(operation);
        }
        progress
    }

    unsafe fn arm(&self, operation: &Operation<'_>, target: Target) -> Armed {
        let Some(entry) = self.shared.table.get(operation.fd()) else {
            return Armed::Retry;
        };
        let generation = operation.generation();
        let is_current = || generation.is_some_and(|g| entry.is_generation(g));
        let [read, write] = operation.waiters();
        let directions = operation.directions();
        if directions != Directions::Write {
            read.set_target(target);
            // SAFETY: the target is set, and the operation with its waiters stays (the caller's promise).
            if unsafe { entry.read().link(read, is_current) } == Linked::Retry {
                return Armed::Retry;
            }
        }
        if directions != Directions::Read {
            write.set_target(target);
            // SAFETY: as above.
            if unsafe { entry.write().link(write, is_current) } == Linked::Retry {
                if directions == Directions::Write {
                    return Armed::Retry;
                }
                // SAFETY: linked just above in this direction. If it is taken already, the wait is claimed and the wake
                // on its way: it has to be waited for.
                return match unsafe { entry.read().unlink(read) } {
                    Unlinked::Waited => Armed::Retry,
                    Unlinked::Taken => Armed::Waiting,
                };
            }
        }
        Armed::Waiting
    }

    fn disarm(&self, operation: &Operation<'_>) {
        let Some(entry) = self.shared.table.get(operation.fd()) else {
            return;
        };
        let [read, write] = operation.waiters();
        let directions = operation.directions();
        if directions != Directions::Write {
            // SAFETY: linked in this direction or in none.
            let _ = unsafe { entry.read().unlink(read) };
        }
        if directions != Directions::Read {
            // SAFETY: as above.
            let _ = unsafe { entry.write().unlink(write) };
        }
    }

    fn admit(&self, fd: i32, kind: FdKind) {
        // Out of range or without memory: the first use reports it.
        let Ok(entry) = self.shared.table.get_or_insert(fd) else {
            return;
        };
        let mut wakes = Vec::new();
        {
            let _stripe = self.shared.table.lock(fd);
            let next = entry.state().next().prepared(kind, false);
            self.shared.retire(entry, fd, next, &mut wakes);
        }
        wakes.into_iter().for_each(Wake::run);
    }

    fn release(&self, fd: i32, release: Release, wakes: &mut Vec<Wake>) {
        let Some(entry) = self.shared.table.get(fd) else {
            return;
        };
        let _stripe = self.shared.table.lock(fd);
        let state = entry.state();
        if !state.is_prepared() {
            return;
        }
        self.shared.retire(entry, fd, state.next(), wakes);
        if release == Release::Restore && state.was_blocking() {
            // Fails only if the descriptor is closed.
            let _ = sys::set_nonblocking(fd, false);
        }
    }

    fn wait(&self, timeout_ns: Option<u64>, wakes: &mut Vec<Wake>) -> usize {
        let mut inside = self.lock();
        // Sequentially consistent, as in `wake`: of a waker that pushes work and then wakes, and an owner that looks for
        // work and then waits, one sees the other.
        let woken = self.woken.swap(false, Ordering::SeqCst);
        inside.poll(self.epoll, if woken { Some(0) } else { timeout_ns });
        // A wake during the wait has ended it.
        self.woken.store(false, Ordering::SeqCst);
        self.shared.dispatch(&inside.events, wakes)
    }

    fn try_wait(&self, wakes: &mut Vec<Wake>) -> Option<usize> {
        let mut inside = match self.inside.try_lock() {
            Ok(inside) => inside,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        inside.poll_for(Some(0));
        Some(self.shared.dispatch(&inside.events, wakes))
    }

    fn wake(&self) {
        // One write for all wakes until the owner has seen them.
        if !self.woken.swap(true, Ordering::SeqCst) {
            // It cannot fail for good: a full counter is an event already.
            let _ = self.waker.wake();
        }
    }

    fn sources(&self) -> usize {
        self.shared.cores[self.core].sources.load(Ordering::Relaxed)
    }
}
