//! HTTP/1.1 server: the C side of `http`.
//!
//! A server's handle is a number in pointer form that is looked up and never dereferenced, and no number is given
//! twice: NULL, a destroyed server and a wild pointer are errors. An exchange is a real pointer, checked only for
//! NULL: it lies on the stack of the connection's vthread and dies when the handler returns.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::boundary::{guard_int, runtime_from_handle};
use super::runtime::swn_runtime_t;
use crate::error::Error;
use crate::http::{Exchange, Options, Server};

/// An HTTP server. Owned: released with swn_http_server_destroy. A checked handle: after that it is
/// SWN_ESTALE_HANDLE everywhere.
pub struct swn_http_server_t {
    _opaque: [u8; 0],
}

/// One request and its response. Borrowed until the handler it was passed to returns: using it later is undefined.
/// Not concurrently on one object.
pub struct swn_http_exchange_t {
    _opaque: [u8; 0],
}

/// Answers one request. Runs in the vthread of the connection, may wait, and answers by swn_http_respond or the
/// swn_http_chunked functions; if it returns without, the client gets status 500. Handlers of different connections run
/// at the same time. Responses to pipelined requests are sent together: one may wait for the next handler. C++
/// exceptions must not leave it.
pub type swn_http_handler_fn = unsafe extern "C" fn(arg: *mut c_void, x: *mut swn_http_exchange_t);

/// Bytes that are not NUL-terminated. Borrowed until the handler returns.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct swn_str_t {
    pub ptr: *const c_char,
    pub len: usize,
}

/// Limits of a server; filled by swn_http_options_init, where 0 means the default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct swn_http_options_t {
    /// Set by swn_http_options_init.
    pub size: usize,
    /// Longest request line with headers; 0: 16 KiB; 256 .. 1 MiB. Beyond: status 431.
    pub max_header_bytes: usize,
    /// Longest request body; 0: 1 MiB; at most 1 GiB. Beyond: status 413.
    pub max_body_bytes: usize,
    /// How long a connection may wait for its next request, and a client may take nothing of a response; 0: 60 s. Waiting
    /// connections are closed up to an eighth of it, and some milliseconds, late.
    pub idle_timeout_ns: u64,
    /// How long a request may take to arrive, from its first byte to its last; 0: 30 s. Beyond: status 408.
    pub request_timeout_ns: u64,
    /// Stack of a connection's vthread, on which handlers run; 0: the runtime's default.
    pub stack_bytes: usize,
    /// Further connections wait in the kernel; 0: no limit.
    pub max_connections: u32,
    /// Must be 0.
    pub reserved: u32,
}

/// No version has larger options, so beyond it is not a size but garbage.
const STRUCT_SIZES: std::ops::RangeInclusive<usize> = size_of::<usize>()..=4096;
const DEFAULT_HEADER_BYTES: usize = 16 << 10;
const DEFAULT_BODY_BYTES: usize = 1 << 20;
const DEFAULT_IDLE_NS: u64 = 60_000_000_000;
const DEFAULT_REQUEST_NS: u64 = 30_000_000_000;
/// The largest stack there is.
const MAX_STACK_BYTES: usize = 1 << 20;
/// One listening socket for all cores; true: one per core. Kept to measure both.
const LISTENER_PER_CORE: bool = false;

/// Fills o with defaults. size: sizeof *o. 0; -EINVAL if o is NULL; SWN_EVERSION for an
/// impossible size. Any thread; never parks.
///
/// # Safety
/// `o` is NULL or points to `size` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_http_options_init(o: *mut swn_http_options_t, size: usize) -> c_int {
    guard_int(|| {
        if o.is_null() {
            return Err(Error::INVAL);
        }
        if !STRUCT_SIZES.contains(&size) {
            return Err(Error::VERSION);
        }
        // All of it, also what only a newer host knows: its tail must be zero to be accepted.
        // SAFETY: the caller promises `size` writable bytes, and a `size_t` fits.
        unsafe {
            o.cast::<u8>().write_bytes(0, size);
            o.cast::<usize>().write_unaligned(size);
        }
        Ok(0)
    })
}

/// Creates a server that runs on rt (NULL: the runtime of the calling vthread). o NULL: defaults. 0; -EINVAL;
/// -ERANGE (stack); SWN_EVERSION; SWN_ESTALE_HANDLE; SWN_ENOTVTHREAD. Any thread; never parks.
///
/// # Safety
/// `o` is NULL or points to options that begin with their size; `out` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_http_server_create(
    rt: *mut swn_runtime_t,
    o: *const swn_http_options_t,
    out: *mut *mut swn_http_server_t,
) -> c_int {
    guard_int(|| {
        if out.is_null() {
            return Err(Error::INVAL);
        }
        // SAFETY: passed on from the caller.
        let options = convert_options(unsafe { read_options(o) }?)?;
        let runtime = runtime_from_handle(rt)?;
        // Whether the handle is still good; later uses check again.
        runtime.with(|_| Ok(()))?;
        let handle = register(Arc::new(Server::new(runtime, options)));
        // SAFETY: not NULL, and writable as the caller promises.
        unsafe { out.write(handle) };
        Ok(0)
    })
}

/// Calls fn(arg, exchange) for requests of that method (case-sensitive) whose path matches the pattern: "/user/{id}"
/// matches one segment, "/files/{*rest}" the rest of the path. Paths are matched as sent, not percent-decoded. A route
/// for GET serves HEAD too. arg is borrowed until the server is destroyed. 0; -EINVAL for a bad method or pattern;
/// -EEXIST if it cannot be told from an earlier route; -EBUSY after swn_http_server_listen; SWN_ESTALE_HANDLE. Any
/// thread; never parks.
///
/// # Safety
/// `method` and `pattern` are NULL or NUL-terminated; `fn` may be called with `arg` from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_http_route(
    s: *mut swn_http_server_t,
    method: *const c_char,
    pattern: *const c_char,
    r#fn: Option<swn_http_handler_fn>,
    arg: *mut c_void,
) -> c_int {
    guard_int(|| {
        let server = find(s)?;
        let handler = HostHandler {
            function: r#fn.ok_or(Error::INVAL)?,
            arg,
        };
        // SAFETY: passed on from the caller.
        let (method, pattern) = unsafe { (text(method)?, text(pattern)?) };
        server.route(method, pattern, move |exchange| handler.call(exchange))?;
        Ok(0)
    })
}

/// Opens a listener on a numeric address (NULL: any) and port (0: the system chooses) and accepts from now on. Returns
/// the port, or an error: -EADDRINUSE and others of bind(2); -EINVAL for a bad address; SWN_ESTOPPED after
/// swn_http_server_stop. May be called again for another address. Any thread; never parks.
///
/// # Safety
/// `address` is NULL or NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_http_server_listen(
    s: *mut swn_http_server_t,
    address: *const c_char,
    port: u16,
) -> c_int {
    guard_int(|| {
        let server = find(s)?;
        let address = if address.is_null() {
            None
        } else {
            // SAFETY: passed on from the caller.
            Some(unsafe { text(address) }?)
        };
        server.listen(address, port).map(c_int::from)
    })
}

/// Stops a server for good: its listeners and idle connections are closed at once, requests in work are finished with
/// "Connection: close". Waits until all is done. 0; -ETIMEDOUT: some are not done, the server is still stopping, and
/// the call may be repeated; -ECANCELED; SWN_ESTALE_HANDLE. A handler of s that calls this waits for itself. Any
/// thread; may park.
#[unsafe(no_mangle)]
pub extern "C" fn swn_http_server_stop(s: *mut swn_http_server_t, deadline_ns: u64) -> c_int {
    guard_int(|| find(s)?.stop(deadline_ns).map(|()| 0))
}

/// Releases a server that was stopped or never listened. 0; -EBUSY: it still runs; SWN_ESTALE_HANDLE. Any thread; never
/// parks.
#[unsafe(no_mangle)]
pub extern "C" fn swn_http_server_destroy(s: *mut swn_http_server_t) -> c_int {
    guard_int(|| {
        let server = {
            let mut servers = servers();
            let server = servers.get(&s.addr()).ok_or(Error::STALE_HANDLE)?;
            if !server.is_ended() {
                return Err(Error::BUSY);
            }
            servers.remove(&s.addr())
        };
        // Outside the lock: what goes with it is not ours.
        drop(server);
        Ok(0)
    })
}

/// The method, as sent. 0 or -EINVAL for NULL, like all functions on an exchange. Only inside the handler; never parks.
///
/// # Safety
/// `x` is NULL or the handler's exchange; `out` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_http_method(
    x: *const swn_http_exchange_t,
    out: *mut swn_str_t,
) -> c_int {
    // SAFETY: passed on from the caller.
    unsafe { give(x, out, |exchange| Ok(exchange.method())) }
}

/// The path without the query, as sent: not percent-decoded. 0 or -EINVAL. Only inside the handler; never parks.
///
/// # Safety
/// As [`swn_http_method`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_http_path(
    x: *const swn_http_exchange_t,
    out: *mut swn_str_t,
) -> c_int {
    // SAFETY: passed on from the caller.
    unsafe { give(x, out, |exchange| Ok(exchange.path())) }
}

/// What follows the question mark, as sent; empty if there is none. 0 or -EINVAL. Only inside the handler; never parks.
///
/// # Safety
/// As [`swn_http_method`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_http_query(
    x: *const swn_http_exchange_t,
    out: *mut swn_str_t,
) -> c_int {
    // SAFETY: passed on from the caller.
    unsafe { give(x, out, |exchange| Ok(exchange.query())) }
}

/// The part of the path that stands for {name} in the pattern. 0; -ENOENT; -EINVAL. Only inside the handler; never
/// parks.
///
/// # Safety
/// As [`swn_http_method`]; `name` is NULL or NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_http_param(
    x: *const swn_http_exchange_t,
    name: *const c_char,
    out: *mut swn_str_t,
) -> c_int {
    // SAFETY: passed on from the caller.
    unsafe {
        give(x, out, |exchange| {
            exchange.param(bytes(name)?).ok_or(Error::NOENT)
        })
    }
}

/// The value of the first header of that name, in any case. 0; -ENOENT; -EINVAL. Only inside the handler; never parks.
///
/// # Safety
/// As [`swn_http_method`]; `name` is NULL or NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_http_header(
    x: *const swn_http_exchange_t,
    name: *const c_char,
    out: *mut swn_str_t,
) -> c_int {
    // SAFETY: passed on from the caller.
    unsafe {
        give(x, out, |exchange| {
            exchange.header(bytes(name)?).ok_or(Error::NOENT)
        })
    }
}

/// The whole request body, decoded if it came in chunks. 0 or -EINVAL. Only inside the handler; never parks.
///
/// # Safety
/// As [`swn_http_method`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_http_body(
    x: *const swn_http_exchange_t,
    out: *mut swn_str_t,
) -> c_int {
    // SAFETY: passed on from the caller.
    unsafe { give(x, out, |exchange| Ok(exchange.body())) }
}

/// Sets a header of the response, before it begins; both strings are copied. An earlier value of that name is replaced,
/// except for Set-Cookie. 0; -EINVAL: the response has begun, the name is not a token, the value holds control
/// characters, or the server writes it itself (Content-Length, Transfer-Encoding, Connection, Date). Only inside the
/// handler; never parks.
///
/// # Safety
/// `x` is NULL or the handler's exchange; the strings are NULL or NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_http_set_header(
    x: *mut swn_http_exchange_t,
    name: *const c_char,
    value: *const c_char,
) -> c_int {
    guard_int(|| {
        // SAFETY: passed on from the caller.
        let (exchange, name, value) = unsafe { (exchange_mut(x)?, bytes(name)?, bytes(value)?) };
        exchange.set_header(name, value)?;
        Ok(0)
    })
}

/// The whole response, once: status 200 .. 599 (204 and 304 without a body), content_type (NULL: none) and len bytes of
/// body, which are borrowed until this returns. A small response is sent after the handler returned; a large one is
/// sent here. 0; -EINVAL: an argument is wrong, or there is a response already; else an error of the connection, which
/// ends after the handler. Only inside the handler; may park.
///
/// # Safety
/// `x` is NULL or the handler's exchange; `content_type` is NULL or NUL-terminated; `body` points to `len` bytes, or is
/// NULL with `len` 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_http_respond(
    x: *mut swn_http_exchange_t,
    status: c_int,
    content_type: *const c_char,
    body: *const c_void,
    len: usize,
) -> c_int {
    guard_int(|| {
        // SAFETY: passed on from the caller.
        let (exchange, content_type, body) = unsafe {
            (
                exchange_mut(x)?,
                optional_bytes(content_type),
                block(body, len)?,
            )
        };
        exchange.respond(status, content_type, body)?;
        Ok(0)
    })
}

/// Begins a response whose length is not known (not 204 or 304). HTTP/1.0 clients get it without chunks, ended by the
/// end of the connection. It leaves with the first data. Returns as swn_http_respond. Only inside the handler; never
/// parks.
///
/// # Safety
/// `x` is NULL or the handler's exchange; `content_type` is NULL or NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_http_chunked_begin(
    x: *mut swn_http_exchange_t,
    status: c_int,
    content_type: *const c_char,
) -> c_int {
    guard_int(|| {
        // SAFETY: passed on from the caller.
        let (exchange, content_type) = unsafe { (exchange_mut(x)?, optional_bytes(content_type)) };
        exchange.begin_chunked(status, content_type)?;
        Ok(0)
    })
}

/// Sends len bytes as one chunk, now; they are borrowed until this returns. len 0 sends what waits to be sent and ends
/// nothing. 0; -EINVAL outside swn_http_chunked_begin .. end; else an error of the connection. Only inside the handler;
/// may park.
///
/// # Safety
/// `x` is NULL or the handler's exchange; `data` points to `len` bytes, or is NULL with `len` 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_http_chunked_write(
    x: *mut swn_http_exchange_t,
    data: *const c_void,
    len: usize,
) -> c_int {
    guard_int(|| {
        // SAFETY: passed on from the caller.
        let (exchange, data) = unsafe { (exchange_mut(x)?, block(data, len)?) };
        exchange.write_chunk(data)?;
        Ok(0)
    })
}

/// Ends a response of chunks. A handler that returns without it breaks the connection, so that the client can tell.
/// 0; -EINVAL; else an error of the connection. Only inside the handler; never parks.
///
/// # Safety
/// `x` is NULL or the handler's exchange.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_http_chunked_end(x: *mut swn_http_exchange_t) -> c_int {
    guard_int(|| {
        // SAFETY: passed on from the caller.
        unsafe { exchange_mut(x) }?.end_chunked()?;
        Ok(0)
    })
}

/// The host's function with its argument.
struct HostHandler {
    function: swn_http_handler_fn,
    arg: *mut c_void,
}

// SAFETY: `arg` is only handed back to the host, which promised in swn_http_route that any thread may call `function`
// with it.
unsafe impl Send for HostHandler {}
// SAFETY: as for Send; several connections call it at the same time.
unsafe impl Sync for HostHandler {}

impl HostHandler {
    fn call(&self, exchange: &mut Exchange<'_>) {
        let x: *mut Exchange<'_> = exchange;
        // SAFETY: the host promised in swn_http_route that the function may be called so; `x` lives until it returns.
        unsafe { (self.function)(self.arg, x.cast()) }
    }
}

static SERVERS: Mutex<BTreeMap<usize, Arc<Server>>> = Mutex::new(BTreeMap::new());
static NEXT_HANDLE: AtomicUsize = AtomicUsize::new(1);

/// The map stays consistent through a panic. Nothing that may wait is called while it is locked.
fn servers() -> MutexGuard<'static, BTreeMap<usize, Arc<Server>>> {
    SERVERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Handles are odd multiples of 8, so that no pointer from malloc(3) is one.
fn register(server: Arc<Server>) -> *mut swn_http_server_t {
    let handle = NEXT_HANDLE.fetch_add(1, Ordering::Relaxed) << 4 | 8;
    servers().insert(handle, server);
    std::ptr::without_provenance_mut(handle)
}

fn find(handle: *mut swn_http_server_t) -> Result<Arc<Server>, Error> {
    servers()
        .get(&handle.addr())
        .cloned()
        .ok_or(Error::STALE_HANDLE)
}

/// # Safety
/// `o` is NULL or points to options that begin with their size.
unsafe fn read_options(o: *const swn_http_options_t) -> Result<swn_http_options_t, Error> {
    const KNOWN: usize = size_of::<swn_http_options_t>();
    let mut options = swn_http_options_t {
        size: KNOWN,
        max_header_bytes: 0,
        max_body_bytes: 0,
        idle_timeout_ns: 0,
        request_timeout_ns: 0,
        stack_bytes: 0,
        max_connections: 0,
        reserved: 0,
    };
    if o.is_null() {
        return Ok(options);
    }
    // SAFETY: not NULL, and begins with its size as the caller promises.
    let size = unsafe { o.cast::<usize>().read_unaligned() };
    if !STRUCT_SIZES.contains(&size) {
        return Err(Error::VERSION);
    }
    // SAFETY: `size` bytes are readable as the caller promises by setting it.
    let given = unsafe { std::slice::from_raw_parts(o.cast::<u8>(), size) };
    let (known, tail) = given.split_at(size.min(KNOWN));
    if tail.iter().any(|&byte| byte != 0) {
        return Err(Error::VERSION);
    }
    // SAFETY: at most as many bytes as the struct has, all of whose fields are plain integers.
    unsafe {
        (&raw mut options)
            .cast::<u8>()
            .copy_from_nonoverlapping(known.as_ptr(), known.len());
    }
    Ok(options)
}

fn convert_options(o: swn_http_options_t) -> Result<Options, Error> {
    let is_valid = (o.max_header_bytes == 0 || (256..=1 << 20).contains(&o.max_header_bytes))
        && o.max_body_bytes <= 1 << 30
        && o.max_connections <= i32::MAX as u32 / 2
        && o.reserved == 0;
    if !is_valid {
        return Err(Error::INVAL);
    }
    if o.stack_bytes > MAX_STACK_BYTES {
        return Err(Error::RANGE);
    }
    let or = |value: usize, default: usize| if value == 0 { default } else { value };
    let or_ns = |value: u64, default: u64| if value == 0 { default } else { value };
    Ok(Options {
        max_header_bytes: or(o.max_header_bytes, DEFAULT_HEADER_BYTES),
        max_body_bytes: or(o.max_body_bytes, DEFAULT_BODY_BYTES),
        idle_timeout_ns: or_ns(o.idle_timeout_ns, DEFAULT_IDLE_NS),
        request_timeout_ns: or_ns(o.request_timeout_ns, DEFAULT_REQUEST_NS),
        stack_bytes: o.stack_bytes,
        max_connections: Some(o.max_connections).filter(|&limit| limit != 0),
        listener_per_core: LISTENER_PER_CORE,
    })
}

/// # Safety
/// `x` is NULL or the exchange of the running handler, not used elsewhere at the same time.
unsafe fn exchange_mut<'x>(x: *mut swn_http_exchange_t) -> Result<&'x mut Exchange<'x>, Error> {
    // SAFETY: `HostHandler::call` made it from an Exchange that lives until the handler returns.
    unsafe { x.cast::<Exchange<'x>>().as_mut() }.ok_or(Error::INVAL)
}

/// Writes a part of the request to `out`.
///
/// # Safety
/// `x` is NULL or the exchange of the running handler; `out` is NULL or writable.
unsafe fn give<'x>(
    x: *const swn_http_exchange_t,
    out: *mut swn_str_t,
    part: impl FnOnce(&'x Exchange<'x>) -> Result<&'x [u8], Error>,
) -> c_int {
    guard_int(|| {
        // SAFETY: as in `exchange_mut`; only read here.
        let exchange = unsafe { x.cast::<Exchange<'x>>().as_ref() }.ok_or(Error::INVAL)?;
        if out.is_null() {
            return Err(Error::INVAL);
        }
        let part = part(exchange)?;
        let borrowed = swn_str_t {
            ptr: part.as_ptr().cast(),
            len: part.len(),
        };
        // SAFETY: not NULL, and writable as the caller promises.
        unsafe { out.write(borrowed) };
        Ok(0)
    })
}

/// # Safety
/// `string` is NULL or NUL-terminated, and lives for `'s`.
unsafe fn optional_bytes<'s>(string: *const c_char) -> Option<&'s [u8]> {
    if string.is_null() {
        return None;
    }
    // SAFETY: not NULL; the rest is the caller's promise.
    Some(unsafe { CStr::from_ptr(string) }.to_bytes())
}

/// # Safety
/// As [`optional_bytes`].
unsafe fn bytes<'s>(string: *const c_char) -> Result<&'s [u8], Error> {
    // SAFETY: passed on from the caller.
    unsafe { optional_bytes(string) }.ok_or(Error::INVAL)
}

/// # Safety
/// As [`optional_bytes`].
unsafe fn text<'s>(string: *const c_char) -> Result<&'s str, Error> {
    // SAFETY: passed on from the caller.
    std::str::from_utf8(unsafe { bytes(string) }?).map_err(|_| Error::INVAL)
}

/// # Safety
/// `start` points to `len` bytes that live for `'s`, or is NULL.
unsafe fn block<'s>(start: *const c_void, len: usize) -> Result<&'s [u8], Error> {
    if len == 0 {
        return Ok(&[]);
    }
    if start.is_null() || len > isize::MAX as usize {
        return Err(Error::INVAL);
    }
    // SAFETY: not NULL and within the limit of a slice; the rest is the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(start.cast(), len) })
}
