//! Listeners, the set of connections, and stopping.
//!
//! *Counted*: every vthread of the server holds one of `live` from before it is spawned until it has let go of
//! everything; a stop is over when none is left. *Last one closes*: a socket is closed when its last holder drops it,
//! so that a stopping thread never shuts down a descriptor that has been given to somebody else.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::buffers::Pool;
use super::connection;
use super::exchange::Exchange;
use super::router::{RouteError, Router};
use crate::error::Error;
use crate::io::stream;
use crate::runtime::{RuntimeRef, now_ns};
use crate::sync::semaphore::Semaphore;

/// Connections the kernel holds for us; it applies its own limit (net.core.somaxconn).
const BACKLOG: i32 = 4096;
/// Pause of a listener that got no descriptor or memory: guess, long enough for some connections to end.
const PAUSE_NS: u64 = 20_000_000;
pub(super) const FOREVER: u64 = u64::MAX;
/// Between two sweeps lies at least this part of the idle time, and the time below: so late may an idle connection be
/// closed, and so little do sweeps cost. Guesses.
const SWEEPS_PER_IDLE_TIME: u64 = 8;
const SWEEP_PAUSE_NS: u64 = 1_000_000;
/// Connections looked at in one hold of the lock, for which an accepting vthread would block its carrier: guess.
const SWEPT_AT_ONCE: usize = 256;

type Handler = Box<dyn Fn(&mut Exchange<'_>) + Send + Sync>;

/// Limits of a server; every field has a meaning, zero included.
#[derive(Clone, Debug)]
pub struct Options {
    pub max_header_bytes: usize,
    pub max_body_bytes: usize,
    pub idle_timeout_ns: u64,
    pub request_timeout_ns: u64,
    /// Of a connection's vthread; 0: the runtime's default.
    pub stack_bytes: usize,
    pub max_connections: Option<u32>,
    /// One listening socket per core (SO_REUSEPORT) instead of one for all.
    pub listener_per_core: bool,
}

/// A descriptor that is closed when the last holder drops it.
pub struct Socket {
    pub fd: i32,
    /// When its wait for a request, of which nothing has been received, has lasted too long; BUSY if there is no such
    /// wait.
    idle_until_ns: AtomicU64,
}

const BUSY: u64 = u64::MAX;
/// Until the server stops.
const IDLE_FOREVER: u64 = BUSY - 1;

impl Socket {
    fn new(fd: i32) -> Self {
        Self {
            fd,
            idle_until_ns: AtomicU64::new(BUSY),
        }
    }

    /// SeqCst here, on the server's draining flag and in `end_idle`: either the connection, which looks at that flag
    /// next, sees that the server stops, or the stopping thread sees an idle connection and ends its wait.
    pub fn set_idle(&self, until_ns: u64) {
        let until_ns = until_ns.min(IDLE_FOREVER);
        self.idle_until_ns.store(until_ns, Ordering::SeqCst);
    }

    /// Relaxed, because whoever misses it might as well have come a moment earlier, and because the line is not in the
    /// cache when the request comes: nothing waits for a plain store.
    pub fn set_busy(&self) {
        self.idle_until_ns.store(BUSY, Ordering::Relaxed);
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Nothing could be done about an error: the descriptor is released in any case (close(2), NOTES).
        let _ = stream::close(self.fd);
    }
}

/// Open sockets, so that a stop reaches them.
#[derive(Default)]
struct Sockets {
    listeners: Vec<Arc<Socket>>,
    connections: Vec<Option<Arc<Socket>>>,
    free: Vec<usize>,
    has_sweeper: bool,
}

/// An HTTP server: routes, then listeners, then a stop.
pub struct Server {
    pub(super) options: Options,
    pub(super) pool: Pool,
    runtime: RuntimeRef,
    /// Taken when the first listener opens.
    building: Mutex<Option<Router<Handler>>>,
    router: OnceLock<Router<Handler>>,
    sockets: Mutex<Sockets>,
    pub(super) draining: AtomicBool,
    live: AtomicUsize,
    /// Gets a permit when the last of `live` goes during a stop.
    ended: Semaphore,
    /// Has no permits until a stop: a wait on it is a pause that a stop ends.
    pause: Semaphore,
    /// As many permits as connections may be added.
    room: Option<Semaphore>,
}

impl Server {
    pub fn new(runtime: RuntimeRef, options: Options) -> Self {
        Self {
            room: options.max_connections.map(Semaphore::new),
            options,
            pool: Pool::new(runtime.cores()),
            runtime,
            building: Mutex::new(Some(Router::new())),
            router: OnceLock::new(),
            sockets: Mutex::default(),
            draining: AtomicBool::new(false),
            live: AtomicUsize::new(0),
            ended: Semaphore::new(0),
            pause: Semaphore::new(0),
        }
    }

    /// Adds a route. BUSY once a listener is open.
    pub fn route(
        &self,
        method: &str,
        pattern: &str,
        handler: impl Fn(&mut Exchange<'_>) + Send + Sync + 'static,
    ) -> Result<(), Error> {
        let mut building = lock(&self.building);
        let router = building.as_mut().ok_or(Error::BUSY)?;
        router
            .insert(method, pattern, Box::new(handler))
            .map_err(|error| match error {
                RouteError::Invalid => Error::INVAL,
                RouteError::Conflict => Error::EXIST,
            })
    }

    /// Opens a listener and accepts from now on; the port. May be called again for another address.
    pub fn listen(self: &Arc<Self>, address: Option<&str>, port: u16) -> Result<u16, Error> {
        let per_core = self.options.listener_per_core;
        let count = if per_core { self.runtime.cores() } else { 1 };
        // Also keeps a stop from finding nothing while this is under way.
        let first_life = Life::new(self.clone());
        if self.is_draining() {
            return Err(Error::STOPPED);
        }
        let mut bound_port = port;
        let mut listeners = Vec::new();
        for _ in 0..count {
            let fd = stream::tcp_listen(address, bound_port, BACKLOG, per_core)?;
            let listener = Arc::new(Socket::new(fd));
            bound_port = stream::local_port(fd)?;
            listeners.push(listener);
        }
        if let Some(router) = lock(&self.building).take() {
            self.router.get_or_init(|| router);
        }
        let opened = listeners.clone();
        lock(&self.sockets)
            .listeners
            .extend(listeners.iter().cloned());
        if self.is_draining() {
            // The stop may have looked before these were listed.
            self.close_listeners();
            return Err(Error::STOPPED);
        }
        for listener in listeners {
            let life = Life::new(self.clone());
            let accepting = Box::new(move || accept_until_stopped(&life.0, &listener));
            let spawned = self.runtime.spawn_fn("http-accept", 0, accepting);
            if let Err(error) = spawned {
                self.close_some(&opened);
                return Err(error);
            }
        }
        // Last, because nothing but a stop ends it.
        if let Err(error) = self.start_sweeper() {
            self.close_some(&opened);
            return Err(error);
        }
        drop(first_life);
        Ok(bound_port)
    }

    /// Closes listeners and idle connections and waits until the others have finished their exchanges.
    pub fn stop(&self, deadline_ns: u64) -> Result<(), Error> {
        // Pairs with `set_idle` of connections and with the count of lives: all accesses are SeqCst.
        self.draining.store(true, Ordering::SeqCst);
        self.close_listeners();
        // For the sweeper.
        let _ = self.pause.release(1);
        self.end_idle(IDLE_FOREVER);
        let mut waited = false;
        while self.live.load(Ordering::SeqCst) != 0 {
            self.ended.acquire(deadline_ns)?;
            waited = true;
        }
        if waited {
            // For another thread that stops the same server.
            let _ = self.ended.release(1);
        }
        Ok(())
    }

    /// Nothing runs or listens: never started, or stopped.
    pub fn is_ended(&self) -> bool {
        self.live.load(Ordering::SeqCst) == 0
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Only called by connections, so a listener has been opened.
    pub(super) fn router(&self) -> &Router<Handler> {
        self.router.get_or_init(Router::new)
    }

    /// Takes back what a failed call has opened.
    fn close_some(&self, opened: &[Arc<Socket>]) {
        let ours = |one: &Arc<Socket>| opened.iter().any(|other| Arc::ptr_eq(one, other));
        lock(&self.sockets).listeners.retain(|one| !ours(one));
        for listener in opened {
            let _ = stream::shutdown_read(listener.fd);
        }
    }

    fn close_listeners(&self) {
        let listeners = std::mem::take(&mut lock(&self.sockets).listeners);
        for listener in &listeners {
            // The accepting vthread holds the socket as well. This ends its wait with EINVAL and frees the port.
            let _ = stream::shutdown_read(listener.fd);
            // One permit each for a pause and for a full server.
            let _ = self.pause.release(1);
            if let Some(room) = &self.room {
                let _ = room.release(1);
            }
        }
    }

    /// One for all listeners.
    fn start_sweeper(self: &Arc<Self>) -> Result<(), Error> {
        if std::mem::replace(&mut lock(&self.sockets).has_sweeper, true) {
            return Ok(());
        }
        let life = Life::new(self.clone());
        let sweeping = Box::new(move || sweep_until_stopped(&life.0));
        let spawned = self.runtime.spawn_fn("http-sweep", 0, sweeping);
        if spawned.is_err() {
            lock(&self.sockets).has_sweeper = false;
        }
        spawned
    }

    /// Ends the waits for requests that were to last until `now_ns` or less; until when the first of the others is.
    fn end_idle(&self, now_ns: u64) -> u64 {
        let mut first_ns = BUSY;
        for start in (0..).step_by(SWEPT_AT_ONCE) {
            // A listed socket is open, and stays so while the list is locked.
            let sockets = lock(&self.sockets);
            match sockets.connections.get(start..) {
                None | Some([]) => break,
                Some(rest) => {
                    let part = &rest[..rest.len().min(SWEPT_AT_ONCE)];
                    first_ns = first_ns.min(end_idle(part, now_ns));
                }
            }
        }
        first_ns
    }

    fn start_connection(self: &Arc<Self>, fd: i32, seat: Option<Seat>) -> Result<(), Error> {
        let socket = Arc::new(Socket::new(fd));
        // Only latency depends on it.
        let _ = stream::set_nodelay(fd);
        let connection = Connection {
            slot: lock(&self.sockets).add(socket.clone()),
            socket: Some(socket),
            _seat: seat,
            life: Life::new(self.clone()),
        };
        let serving = Box::new(move || connection.run());
        self.runtime
            .spawn_fn("http-connection", self.options.stack_bytes, serving)
    }
}

impl Sockets {
    fn add(&mut self, socket: Arc<Socket>) -> usize {
        match self.free.pop() {
            Some(slot) => {
                self.connections[slot] = Some(socket);
                slot
            }
            None => {
                self.connections.push(Some(socket));
                self.connections.len() - 1
            }
        }
    }

    fn remove(&mut self, slot: usize) -> Option<Arc<Socket>> {
        self.free.push(slot);
        self.connections[slot].take()
    }
}

/// One of the server's live vthreads, or of the calls that start them.
struct Life(Arc<Server>);

impl Life {
    fn new(server: Arc<Server>) -> Self {
        server.live.fetch_add(1, Ordering::SeqCst);
        Self(server)
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        if self.0.live.fetch_sub(1, Ordering::SeqCst) == 1 && self.0.is_draining() {
            let _ = self.0.ended.release(1);
        }
    }
}

/// The right to one connection where their number is limited.
struct Seat(Arc<Server>);

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(room) = &self.0.room {
            let _ = room.release(1);
        }
    }
}

/// An accepted connection and all it must give back, in the order of its fields, whether its vthread ran or not.
struct Connection {
    slot: usize,
    socket: Option<Arc<Socket>>,
    _seat: Option<Seat>,
    life: Life,
}

impl Connection {
    fn run(&self) {
        if let Some(socket) = &self.socket {
            connection::run(&self.life.0, socket);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Not in one statement: the lock is released before the socket may be closed.
        let listed = lock(&self.life.0.sockets).remove(self.slot);
        drop(listed);
        self.socket = None;
    }
}

fn accept_until_stopped(server: &Arc<Server>, listener: &Socket) {
    while !server.is_draining() {
        let seat = match &server.room {
            Some(room) => match room.acquire(FOREVER) {
                Ok(()) => Some(Seat(server.clone())),
                Err(_) => return,
            },
            None => None,
        };
        if server.is_draining() {
            return;
        }
        let accepted = stream::accept(listener.fd, FOREVER);
        let error = match accepted.and_then(|fd| server.start_connection(fd, seat)) {
            Ok(()) => continue,
            Err(error) => error,
        };
        match after(error) {
            Next::Retry => {}
            Next::Pause => {
                // TIMEDOUT is the pause itself; a permit or a cancellation is the end, which the loop sees.
                let deadline_ns = now_ns().saturating_add(PAUSE_NS);
                let _ = server.pause.acquire(deadline_ns);
            }
            Next::End => return,
        }
    }
}

/// As [`Server::end_idle`], for some connections.
fn end_idle(connections: &[Option<Arc<Socket>>], now_ns: u64) -> u64 {
    let mut first_ns = BUSY;
    for connection in connections.iter().flatten() {
        let until_ns = connection.idle_until_ns.load(Ordering::SeqCst);
        if until_ns <= now_ns {
            // Already closed by the peer: it wakes by itself.
            let _ = stream::shutdown_read(connection.fd);
        } else {
            first_ns = first_ns.min(until_ns);
        }
    }
    first_ns
}

/// Closes connections that have been idle for too long.
fn sweep_until_stopped(server: &Server) {
    let idle_ns = server.options.idle_timeout_ns;
    let pause_ns = (idle_ns / SWEEPS_PER_IDLE_TIME).max(SWEEP_PAUSE_NS);
    let mut next_ns = now_ns().saturating_add(idle_ns);
    // A permit or a cancellation is the end.
    while server.pause.acquire(next_ns) == Err(Error::TIMEDOUT) {
        let now_ns = now_ns();
        let first_ns = server.end_idle(now_ns);
        // What becomes idle from now on has the whole time.
        next_ns = first_ns
            .min(now_ns.saturating_add(idle_ns))
            .max(now_ns.saturating_add(pause_ns));
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    Retry,
    Pause,
    End,
}

/// What a listener does after an error: only the end of the runtime or of the descriptor ends it.
fn after(error: Error) -> Next {
    match error.errno() {
        // EINVAL: no longer listening, as `close_listeners` makes it.
        Some(libc::ECANCELED | libc::EBADF | libc::ENOTSOCK | libc::EINVAL) => Next::End,
        // Of the connection that was to be accepted, as accept(2) lists them.
        Some(libc::ECONNABORTED | libc::EINTR | libc::EPROTO | libc::EPERM) => Next::Retry,
        _ if error == Error::STOPPED => Next::End,
        // EMFILE, ENFILE, ENOBUFS, ENOMEM, and what nobody thought of.
        _ => Next::Pause,
    }
}

/// A panic elsewhere leaves these maps usable, so poison is ignored.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::IntoRawFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn only_waits_that_are_over_are_ended() {
        let pairs = [0; 4].map(|_| UnixStream::pair().unwrap());
        let (connections, mut peers): (Vec<_>, Vec<_>) = pairs
            .into_iter()
            .map(|(ours, peer)| (Some(Arc::new(Socket::new(ours.into_raw_fd()))), peer))
            .unzip();
        let [over, later, forever, busy] = [0, 1, 2, 3].map(|at| connections[at].clone().unwrap());
        over.set_idle(5);
        later.set_idle(6);
        forever.set_idle(FOREVER);
        busy.set_idle(4);
        busy.set_busy();
        let mut ended = || [0, 1, 2, 3].map(|at| peers[at].write(b"x").is_err());
        assert_eq!(end_idle(&connections, 5), 6);
        assert_eq!(ended(), [true, false, false, false]);
        assert_eq!(end_idle(&connections, IDLE_FOREVER), BUSY);
        assert_eq!(ended(), [true, true, true, false]);
    }

    #[test]
    fn a_listener_survives_all_but_the_end_of_its_descriptor() {
        assert_eq!(after(Error::from_errno(libc::EMFILE)), Next::Pause);
        assert_eq!(after(Error::from_errno(libc::ENFILE)), Next::Pause);
        assert_eq!(after(Error::NOMEM), Next::Pause);
        assert_eq!(after(Error::from_errno(libc::ECONNABORTED)), Next::Retry);
        assert_eq!(after(Error::CANCELED), Next::End);
        assert_eq!(after(Error::INVAL), Next::End);
        assert_eq!(after(Error::STOPPED), Next::End);
    }

    #[test]
    fn slots_of_ended_connections_are_used_again() {
        let mut sockets = Sockets::default();
        let socket = || Arc::new(Socket::new(-1));
        let first = sockets.add(socket());
        let second = sockets.add(socket());
        assert_ne!(first, second);
        assert!(sockets.remove(first).is_some());
        assert_eq!(sockets.add(socket()), first);
        assert_eq!(sockets.connections.len(), 2);
    }
}
