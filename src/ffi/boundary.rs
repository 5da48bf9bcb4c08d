//! What every exported function does alike: catch, validate, convert.

use super::runtime::swn_runtime_t;
use crate::error::{Error, Result};
use crate::runtime::{self, RuntimeId, RuntimeRef};
use std::ffi::{CStr, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The host's errno, kept as it was while a call is inside: nothing is returned through errno. The address is asked for
/// anew at the end, since a vthread may leave the call on another OS thread.
struct KeepErrno(c_int);

impl KeepErrno {
    fn now() -> KeepErrno {
        // SAFETY: the address of this thread's errno.
        KeepErrno(unsafe { *libc::__errno_location() })
    }
}

impl Drop for KeepErrno {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { *libc::__errno_location() = self.0 };
    }
}

/// Runs a call and returns its count or negative status. A panic, which would be a defect of the library, becomes
/// SWN_EPANICKED instead of leaving through C frames.
pub(crate) fn guard(f: impl FnOnce() -> Result<i64>) -> i64 {
    let _errno = KeepErrno::now();
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(value)) => value,
        Ok(Err(e)) => i64::from(e.status()),
        Err(_) => i64::from(Error::PANICKED.status()),
    }
}

/// As [`guard`] for functions that return int.
pub(crate) fn guard_int(f: impl FnOnce() -> Result<c_int>) -> c_int {
    let _errno = KeepErrno::now();
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(value)) => value,
        Ok(Err(e)) => e.status(),
        Err(_) => Error::PANICKED.status(),
    }
}

/// The runtime of a handle; null is that of the calling vthread.
pub(crate) fn runtime_from_handle(handle: *mut swn_runtime_t) -> Result<RuntimeRef> {
    if handle.is_null() {
        return runtime::current().ok_or(Error::NOT_VTHREAD);
    }
    runtime_id(handle).map(RuntimeRef::new)
}

/// The id of a handle; null is an error.
pub(crate) fn runtime_id(handle: *mut swn_runtime_t) -> Result<RuntimeId> {
    if handle.is_null() {
        return Err(Error::INVAL);
    }
    RuntimeId::from_bits(handle as u64).ok_or(Error::STALE_HANDLE)
}

/// A struct that begins with its size, of plain numbers and pointers: all-zero is valid.
///
/// # Safety
/// Implemented only for `repr(C)` structs whose first field is `size: usize` and for which every bit pattern that a host
/// may have written is valid.
pub(crate) unsafe trait Sized32: Copy {
    /// The smallest size that any version of the struct has had.
    const OLDEST: usize;
}

/// No version of any struct is larger: a greater size is garbage.
const LARGEST: usize = 64 * 1024;

/// Fills a host's struct with zeros and its size.
///
/// # Safety
/// `at` is null or points to `size` writable bytes.
pub(crate) unsafe fn init_struct<T: Sized32>(at: *mut T, size: usize) -> Result<()> {
    if at.is_null() {
        return Err(Error::INVAL);
    }
    if !(T::OLDEST..=LARGEST).contains(&size) {
        return Err(Error::VERSION);
    }
    // SAFETY: the caller's promise; `size` is at least that of the first field.
    unsafe {
        at.cast::<u8>().write_bytes(0, size);
        at.cast::<usize>().write_unaligned(size);
    }
    Ok(())
}

/// Reads a host's struct, older (shorter) or newer (longer, with a zero tail) than ours. Null is all defaults.
///
/// # Safety
/// `at` is null or points to a struct whose first field says how many bytes of it are readable.
pub(crate) unsafe fn read_struct<T: Sized32>(at: *const T) -> Result<T> {
    let ours = size_of::<T>();
    // SAFETY: all-zero is valid for a Sized32.
    let mut value = unsafe { std::mem::zeroed::<T>() };
    if at.is_null() {
        return Ok(value);
    }
    // SAFETY: the caller's promise.
    let size = unsafe { at.cast::<usize>().read_unaligned() };
    if !(T::OLDEST..=LARGEST).contains(&size) {
        return Err(Error::VERSION);
    }
    // SAFETY: `size` bytes are readable; the copy is bounded by both sizes; any bytes are valid for a Sized32.
    unsafe {
        std::ptr::copy_nonoverlapping(
            at.cast::<u8>(),
            (&raw mut value).cast::<u8>(),
            size.min(ours),
        );
        if size > ours {
            let tail = std::slice::from_raw_parts(at.cast::<u8>().add(ours), size - ours);
            if tail.iter().any(|b| *b != 0) {
                return Err(Error::VERSION);
            }
        }
    }
    Ok(value)
}

/// Writes `value` to a host's struct of `size` bytes: what fits, and zeros behind it. `value.size` becomes `size`.
///
/// # Safety
/// `at` is null or points to `size` writable bytes.
pub(crate) unsafe fn write_struct<T: Sized32>(at: *mut T, size: usize, value: &T) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe { init_struct(at, size)? };
    // SAFETY: bounded by both sizes; the size field was written by `init_struct` and is written again.
    unsafe {
        let len = size.min(size_of::<T>());
        std::ptr::copy_nonoverlapping((&raw const *value).cast::<u8>(), at.cast::<u8>(), len);
        at.cast::<usize>().write_unaligned(size);
    }
    Ok(())
}

/// The bytes of a C string; null is the empty one.
///
/// # Safety
/// `s` is null or a zero-terminated string, borrowed for the call.
pub(crate) unsafe fn bytes<'a>(s: *const c_char) -> &'a [u8] {
    if s.is_null() {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(s) }.to_bytes()
}

/// A non-null pointer, or -EINVAL.
pub(crate) fn non_null<T>(p: *mut T) -> Result<*mut T> {
    if p.is_null() {
        Err(Error::INVAL)
    } else {
        Ok(p)
    }
}
