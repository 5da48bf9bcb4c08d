//! Files, name look-up, and the host's own blocking calls, on OS threads of the runtime.

#![allow(unsafe_code)]

use super::boundary::{guard, guard_int, non_null};
use super::io::{buffer, buffer_mut, count};
use crate::error::{Error, Result};
use crate::io::file;
use crate::io::resolve::{self, Hints};
use crate::offload;
use std::ffi::{CStr, CString, c_char, c_int, c_void};

/// A blocking call of the host: gets the arg of swn_offload; what it returns is the result.
pub type swn_offload_fn = extern "C" fn(arg: *mut c_void) -> *mut c_void;

/// Passes a host's pointer to the thread that runs the host's call.
struct HostPointer(*mut c_void);

// SAFETY: the pointer is only handed through; what it points to is between the host's functions.
unsafe impl Send for HostPointer {}

impl HostPointer {
    fn get(self) -> *mut c_void {
        self.0
    }
}

/// open(2), with O_CLOEXEC: a descriptor, owned (released with swn_file_close or swn_close). The deadline of this and the
/// other file calls bounds the time until an OS thread of the runtime takes the call; once started it runs to its end. In
/// a plain OS thread it runs at once. -ETIMEDOUT, -ECANCELED: it was not started. Any thread; may park.
///
/// # Safety
/// path is zero-terminated, borrowed until the call returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_open(
    path: *const c_char,
    flags: c_int,
    mode: u32,
    deadline_ns: u64,
) -> c_int {
    guard_int(|| {
        non_null(path.cast_mut())?;
        // SAFETY: the host's promise.
        let path = unsafe { CStr::from_ptr(path) };
        file::open(path, flags, mode, deadline_ns)
    })
}

/// pread(2): the count, 0 at the end, or an error. -EINVAL for an offset beyond INT64_MAX. Any thread; may park.
///
/// # Safety
/// buf is borrowed until the call returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_pread(
    fd: c_int,
    buf: *mut c_void,
    len: usize,
    offset: u64,
    deadline_ns: u64,
) -> i64 {
    guard(|| {
        // SAFETY: the host's promise.
        let buf = unsafe { buffer_mut(buf, len) }?;
        count(file::pread(fd, buf, offset, deadline_ns))
    })
}

/// pwrite(2): the count or an error. -EINVAL for an offset beyond INT64_MAX. Any thread; may park.
///
/// # Safety
/// buf is borrowed until the call returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_pwrite(
    fd: c_int,
    buf: *const c_void,
    len: usize,
    offset: u64,
    deadline_ns: u64,
) -> i64 {
    guard(|| {
        // SAFETY: the host's promise.
        let buf = unsafe { buffer(buf, len) }?;
        count(file::pwrite(fd, buf, offset, deadline_ns))
    })
}

/// fsync(2): 0 or an error. Any thread; may park.
#[unsafe(no_mangle)]
pub extern "C" fn swn_fsync(fd: c_int, deadline_ns: u64) -> c_int {
    guard_int(|| file::fsync(fd, deadline_ns).map(|()| 0))
}

/// close(2), which may block for a file: 0 or an error. After -ETIMEDOUT or -ECANCELED the descriptor is still open. Any
/// thread; may park.
#[unsafe(no_mangle)]
pub extern "C" fn swn_file_close(fd: c_int, deadline_ns: u64) -> c_int {
    guard_int(|| file::close(fd, deadline_ns).map(|()| 0))
}

/// getaddrinfo(3): 0 and a list, owned (released with freeaddrinfo(3)). Its errors EAI_* come as -(20000 + |EAI_*|), a
/// system error as -errno. At the deadline a look-up under way is abandoned (-ETIMEDOUT) and frees itself; in a plain OS
/// thread it runs to its end. Any thread; may park.
///
/// # Safety
/// node and service are NULL or zero-terminated; hints is NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_getaddrinfo(
    node: *const c_char,
    service: *const c_char,
    hints: *const libc::addrinfo,
    out: *mut *mut libc::addrinfo,
    deadline_ns: u64,
) -> c_int {
    guard_int(|| {
        let out = non_null(out)?;
        // SAFETY: the host's promise.
        let (node, service) = unsafe { (owned(node)?, owned(service)?) };
        let wanted = if hints.is_null() {
            // What getaddrinfo(3) takes for no hints.
            Hints {
                flags: libc::AI_V4MAPPED | libc::AI_ADDRCONFIG,
                ..Hints::default()
            }
        } else {
            // SAFETY: not null, and valid as the host promises.
            let hints = unsafe { &*hints };
            Hints {
                flags: hints.ai_flags,
                family: hints.ai_family,
                socktype: hints.ai_socktype,
                protocol: hints.ai_protocol,
            }
        };
        let list = resolve::look_up(node, service, wanted, deadline_ns)?;
        // SAFETY: the host's promise.
        unsafe { out.write(list.into_raw()) };
        Ok(0)
    })
}

/// A copy of a C string, which a look-up may keep for longer than its caller waits.
///
/// # Safety
/// `s` is null or zero-terminated.
unsafe fn owned(s: *const c_char) -> Result<Option<CString>> {
    if s.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    let bytes = unsafe { CStr::from_ptr(s) }.to_bytes();
    let mut copy = Vec::new();
    copy.try_reserve_exact(bytes.len() + 1)
        .map_err(|_| Error::NOMEM)?;
    copy.extend_from_slice(bytes);
    CString::new(copy).map(Some).map_err(|_| Error::INVAL)
}

/// Runs fn(arg) on an OS thread of the runtime, where it may block, and waits for it; in a plain OS thread it runs right
/// there. 0 and, if result is not NULL, what it returned. -ETIMEDOUT, -ECANCELED: it was not started, and never will be;
/// once it has started it is waited for to its end. All signals are blocked in that thread. fn must return: it must not
/// end the thread or throw. Any thread; may park.
///
/// # Safety
/// fn may be called with arg on another thread; result is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_offload(
    r#fn: Option<swn_offload_fn>,
    arg: *mut c_void,
    result: *mut *mut c_void,
    deadline_ns: u64,
) -> c_int {
    guard_int(|| {
        let function = r#fn.ok_or(Error::INVAL)?;
        let arg = HostPointer(arg);
        let returned = offload::run(deadline_ns, move || HostPointer(function(arg.get())))?;
        if !result.is_null() {
            // SAFETY: not null, and writable as the host promises.
            unsafe { result.write(returned.get()) };
        }
        Ok(0)
    })
}
