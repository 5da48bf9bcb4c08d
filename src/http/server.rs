//! Listeners, the set of connections, and stopping.
//!
//! *Counted*: every vthread of the server holds one of `live` from before it is spawned until it has let go of
//! everything; a stop is over when none is left. *Last one closes*: a socket is closed when its last holder drops it,
//! so that a stopping thread never shuts down a descriptor that has been given to somebody else.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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
const FOREVER: u64 = u64::MAX;

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
    /// It waits for a request, and nothing of one has been received.
    pub is_idle: AtomicBool,
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
            pool: Pool::new(),
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
            let listener = Arc::new(Socket {
                fd,
                is_idle: AtomicBool::new(true),
            });
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
        drop(first_life);
        Ok(bound_port)
    }

    /// Closes listeners and idle connections and waits until the others have finished their exchanges.
    pub fn stop(&self, deadline_ns: u64) -> Result<(), Error> {
        // Pairs with the idle flag of connections and with the count of lives: all four accesses are SeqCst.
        self.draining.store(true, Ordering::SeqCst);
        self.close_listeners();
        let connections: Vec<_> = lock(&self.sockets)
            .connections
            .iter()
            .flatten()
            .cloned()
            .collect();
        for connection in connections {
            if connection.is_idle.load(Ordering::SeqCst) {
                // Already closed by the peer: it wakes by itself.
                let _ = stream::shutdown_read(connection.fd);
            }
        }
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

    fn start_connection(self: &Arc<Self>, fd: i32, seat: Option<Seat>) -> Result<(), Error> {
        let socket = Arc::new(Socket {
            fd,
            is_idle: AtomicBool::new(false),
        });
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
        let socket = || {
            Arc::new(Socket {
                fd: -1,
                is_idle: AtomicBool::new(false),
            })
        };
        let first = sockets.add(socket());
        let second = sockets.add(socket());
        assert_ne!(first, second);
        assert!(sockets.remove(first).is_some());
        assert_eq!(sockets.add(socket()), first);
        assert_eq!(sockets.connections.len(), 2);
    }
}
