//! Vthread-local storage.

use super::boundary::{guard_int, non_null};
use super::vthread::swn_destructor_fn;
use crate::error::Error;
use crate::scheduler::current;
use crate::vthread::local::{self, Locals};
use std::ffi::{c_int, c_void};
use std::ptr;

/// A key of vthread-local storage; 0 is never one.
pub type swn_key_t = u32;

/// Creates a key, valid in the whole process. destructor (NULL: none) is called at a vthread's end, on its stack, with each
/// value that is not NULL; up to four rounds, as pthread_key_create(3). -EAGAIN: 128 keys exist; -EINVAL. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_key_create(
    destructor: swn_destructor_fn,
    out: *mut swn_key_t,
) -> c_int {
    guard_int(|| {
        let out = non_null(out)?;
        let key = local::create(destructor)?;
        // SAFETY: not null; the host's to write.
        unsafe { out.write(key) };
        Ok(0)
    })
}

/// Deletes a key. Its values are forgotten; their destructors are not called. -EINVAL: not a key. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn swn_key_delete(key: swn_key_t) -> c_int {
    guard_int(|| local::delete(key).map(|()| 0))
}

/// Sets the calling vthread's value. SWN_ENOTVTHREAD outside a vthread; -EINVAL: not a key; -ENOMEM. Never parks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_key_set(key: swn_key_t, value: *mut c_void) -> c_int {
    guard_int(|| {
        let mount = current::mount().ok_or(Error::NOT_VTHREAD)?;
        // SAFETY: the calling vthread's own mount; nothing else refers to its locals during this call.
        let locals = unsafe { &mut (*mount.as_ptr()).locals };
        locals
            .get_or_insert_with(|| Box::new(Locals::new()))
            .set(key, value)
            .map(|()| 0)
    })
}

/// The calling vthread's value; NULL if it has none, outside a vthread, or for what is no key. Never parks.
#[unsafe(no_mangle)]
pub extern "C" fn swn_key_get(key: swn_key_t) -> *mut c_void {
    let Some(mount) = current::mount() else {
        return ptr::null_mut();
    };
    // SAFETY: the calling vthread's own mount, read for this call.
    unsafe { (*mount.as_ptr()).locals.as_deref() }.map_or(ptr::null_mut(), |locals| locals.get(key))
}
