//! Status codes and their texts.

use crate::error::Error;
use std::ffi::{CStr, c_char};

/// Success.
pub const SWN_OK: i32 = 0;
/// The handle's vthread or runtime is gone, or the handle was never valid.
pub const SWN_ESTALE_HANDLE: i32 = -10001;
/// Possible only inside a vthread.
pub const SWN_ENOTVTHREAD: i32 = -10002;
/// The runtime is stopping or stopped.
pub const SWN_ESTOPPED: i32 = -10003;
/// The runtime was inherited through fork(2) and cannot be used in the child.
pub const SWN_EFORKED: i32 = -10004;
/// A struct's size, or a field that this version does not know, is not acceptable.
pub const SWN_EVERSION: i32 = -10005;
/// No memory for a stack: the vthread never ran.
pub const SWN_ENOSTACK: i32 = -10006;
/// An internal error was caught at the boundary; please report it.
pub const SWN_EPANICKED: i32 = -10007;
/// Failures of getaddrinfo(3) are SWN_EAI - |EAI_x|.
pub const SWN_EAI: i32 = -20000;

struct Code(i32, &'static CStr, &'static CStr);

macro_rules! system {
    ($($name:ident),* $(,)?) => {
        [$(Code(-libc::$name, match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
            Ok(s) => s,
            Err(_) => c"",
        }, c"")),*]
    };
}

static OURS: [Code; 8] = [
    Code(SWN_OK, c"SWN_OK", c"success"),
    Code(
        SWN_ESTALE_HANDLE,
        c"SWN_ESTALE_HANDLE",
        c"stale or invalid handle",
    ),
    Code(
        SWN_ENOTVTHREAD,
        c"SWN_ENOTVTHREAD",
        c"not called inside a virtual thread",
    ),
    Code(
        SWN_ESTOPPED,
        c"SWN_ESTOPPED",
        c"the runtime is stopping or stopped",
    ),
    Code(
        SWN_EFORKED,
        c"SWN_EFORKED",
        c"the runtime was inherited through fork",
    ),
    Code(
        SWN_EVERSION,
        c"SWN_EVERSION",
        c"struct size or unknown field not acceptable to this version",
    ),
    Code(SWN_ENOSTACK, c"SWN_ENOSTACK", c"no memory for a stack"),
    Code(SWN_EPANICKED, c"SWN_EPANICKED", c"internal error"),
];

static SYSTEM: [Code; 40] = system![
    EPERM,
    ENOENT,
    EINTR,
    EIO,
    ENXIO,
    EBADF,
    EAGAIN,
    ENOMEM,
    EACCES,
    EFAULT,
    EBUSY,
    EEXIST,
    ENODEV,
    ENOTDIR,
    EISDIR,
    EINVAL,
    ENFILE,
    EMFILE,
    EFBIG,
    ENOSPC,
    ESPIPE,
    EROFS,
    EPIPE,
    ERANGE,
    EDEADLK,
    ENAMETOOLONG,
    ENOSYS,
    EOVERFLOW,
    ENOTSOCK,
    EADDRINUSE,
    EADDRNOTAVAIL,
    ENETUNREACH,
    ECONNABORTED,
    ECONNRESET,
    ENOTCONN,
    ETIMEDOUT,
    ECONNREFUSED,
    EHOSTUNREACH,
    EINPROGRESS,
    ECANCELED,
];

static ADDRESS: [Code; 7] = [
    Code(
        SWN_EAI + libc::EAI_NONAME,
        c"EAI_NONAME",
        c"name or service not known",
    ),
    Code(
        SWN_EAI + libc::EAI_AGAIN,
        c"EAI_AGAIN",
        c"temporary failure in name resolution",
    ),
    Code(
        SWN_EAI + libc::EAI_FAIL,
        c"EAI_FAIL",
        c"non-recoverable failure in name resolution",
    ),
    Code(
        SWN_EAI + libc::EAI_FAMILY,
        c"EAI_FAMILY",
        c"address family not supported",
    ),
    Code(
        SWN_EAI + libc::EAI_SERVICE,
        c"EAI_SERVICE",
        c"service not supported for the socket type",
    ),
    Code(
        SWN_EAI + libc::EAI_SOCKTYPE,
        c"EAI_SOCKTYPE",
        c"socket type not supported",
    ),
    Code(
        SWN_EAI + libc::EAI_MEMORY,
        c"EAI_MEMORY",
        c"out of memory in name resolution",
    ),
];

fn find(status: i64) -> Option<&'static Code> {
    OURS.iter()
        .chain(&SYSTEM)
        .chain(&ADDRESS)
        .find(|c| i64::from(c.0) == status)
}

/// The name of a status: "ETIMEDOUT", "SWN_ESTOPPED", "SWN_OK" (also for counts), or "unknown". Static text, never NULL.
/// Any thread; never parks; async-signal-safe.
#[unsafe(no_mangle)]
pub extern "C" fn swn_error_name(status: i64) -> *const c_char {
    if status >= 0 {
        return c"SWN_OK".as_ptr();
    }
    find(status).map_or(c"unknown", |c| c.1).as_ptr()
}

/// A message for a status, as strerror(3) has it for system errors. Static text, never NULL. Any thread; never parks.
#[unsafe(no_mangle)]
pub extern "C" fn swn_strerror(status: i64) -> *const c_char {
    if status >= 0 {
        return c"success".as_ptr();
    }
    match find(status) {
        Some(code) if !code.2.is_empty() => code.2.as_ptr(),
        Some(code) => {
            // strerrordesc_np(3) has static texts but only from glibc 2.32 on; the names say enough without it.
            code.1.as_ptr()
        }
        None => c"unknown error".as_ptr(),
    }
}

const _: () = {
    assert!(SWN_ESTALE_HANDLE == Error::STALE_HANDLE.status());
    assert!(SWN_ENOTVTHREAD == Error::NOT_VTHREAD.status());
    assert!(SWN_ESTOPPED == Error::STOPPED.status());
    assert!(SWN_EFORKED == Error::FORKED.status());
    assert!(SWN_EVERSION == Error::VERSION.status());
    assert!(SWN_ENOSTACK == Error::NO_STACK.status());
    assert!(SWN_EPANICKED == Error::PANICKED.status());
    assert!(SWN_EAI == Error::ADDRESS.status());
};
