//! Status codes of the C ABI.
//!
//! Every fallible call of the library ends in an [`Error`]: the negative number that the host sees. System errors are
//! `-errno`; the library's own codes come from one reserved range below -10000, and the failures of getaddrinfo(3) from
//! another below -20000, so that the three never meet.

/// A negative status as the C ABI returns it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Error(i32);

macro_rules! codes {
    ($($name:ident = $value:expr, $text:literal;)*) => {
        impl Error {
            $(#[doc = $text] pub const $name: Error = Error($value);)*
        }
    };
}

codes! {
    NOENT = -libc::ENOENT, "No such thing.";
    INTR = -libc::EINTR, "Interrupted by a signal handler.";
    BADF = -libc::EBADF, "Not an open descriptor, or one out of range.";
    AGAIN = -libc::EAGAIN, "Not now: the call would have to wait.";
    NOMEM = -libc::ENOMEM, "Out of memory.";
    BUSY = -libc::EBUSY, "Still in use.";
    EXIST = -libc::EEXIST, "It exists already.";
    INVAL = -libc::EINVAL, "An argument is not valid.";
    RANGE = -libc::ERANGE, "A number is out of range.";
    DEADLK = -libc::EDEADLK, "The call would wait for itself.";
    NAMETOOLONG = -libc::ENAMETOOLONG, "A name is too long.";
    OVERFLOW = -libc::EOVERFLOW, "A count would overflow.";
    TIMEDOUT = -libc::ETIMEDOUT, "The deadline passed.";
    CANCELED = -libc::ECANCELED, "The wait was cancelled.";
    STALE_HANDLE = -10001, "The handle's object is gone, or the handle was never valid.";
    NOT_VTHREAD = -10002, "The call is possible only inside a virtual thread.";
    STOPPED = -10003, "The runtime is stopping or stopped.";
    FORKED = -10004, "The runtime was inherited through fork and cannot be used in the child.";
    VERSION = -10005, "A struct's size, or a field this version does not know, is not acceptable.";
    NO_STACK = -10006, "No memory for a stack: the virtual thread never ran.";
    PANICKED = -10007, "An internal error was caught at the boundary; please report it.";
    ADDRESS = -20000, "Lowest code of getaddrinfo failures: -20000 - |EAI_*|.";
}

impl Error {
    /// The error of a positive `errno` value.
    pub const fn from_errno(errno: i32) -> Error {
        Error(-errno)
    }

    /// The calling thread's `errno` after a failed system call.
    pub fn last_os() -> Error {
        Error::from(std::io::Error::last_os_error())
    }

    /// The error of a getaddrinfo(3) result other than `EAI_SYSTEM`.
    pub const fn from_address_info(code: i32) -> Error {
        Error(-20000 - code.abs())
    }

    /// The number that the C ABI returns.
    pub const fn status(self) -> i32 {
        self.0
    }

    /// The positive `errno` value, where this is a system error.
    pub const fn errno(self) -> Option<i32> {
        if self.0 > -10000 { Some(-self.0) } else { None }
    }
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Error {
        Error(-e.raw_os_error().unwrap_or(libc::EIO))
    }
}

/// Shorthand for results whose error is a status.
pub type Result<T> = std::result::Result<T, Error>;
