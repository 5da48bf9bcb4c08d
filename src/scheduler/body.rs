//! What runs on a vthread's stack around the host's callback: its destructors, and the giving back of its arena.

use super::current;
use crate::vthread::context::Mount;
use crate::vthread::local;
use crate::vthread::record::{Destructor, End, RecordRef};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};

/// What runs on a vthread's stack.
pub(super) fn main(mount: NonNull<Mount>) {
    // SAFETY: the mount is this vthread's own; its record and body are the vthread's while it runs.
    let record = unsafe { mount.as_ref() }.record;
    // SAFETY: as above.
    let (entry, arg, end) = unsafe {
        let body = record.body();
        (body.entry, body.arg, body.end)
    };
    let mut result = ptr::null_mut();
    if end == End::Returned
        && let Some(entry) = entry
    {
        // A panic of our own callers' closures ends the vthread alone. A C++ exception that leaves a C callback ends the
        // process: Rust cannot catch it, and the runtime's frames are not to be unwound by it.
        // SAFETY: the host's contract at spawn: `entry` may be called once with `arg`, on any thread.
        match catch_unwind(AssertUnwindSafe(|| unsafe { entry(arg) })) {
            Ok(value) => result = value,
            // SAFETY: as above.
            Err(_) => unsafe { record.body() }.end = End::Panicked,
        }
    }
    run_destructors(mount);
    if let Some(destructor) = destructor_of(record) {
        // SAFETY: the host's contract at spawn: called once, after `entry` or instead of it.
        unsafe { destructor(arg) };
        run_destructors(mount);
    }
    // SAFETY: as above; the joiner reads it after the vthread has ended.
    unsafe { record.body() }.arg = result;
    // SAFETY: the mount is this vthread's own.
    if let Some(arena) = unsafe { (*mount.as_ptr()).arena.take() }
        && let Some(shared) = current::shared()
    {
        shared
            .arenas
            .give_back(current::core_index().unwrap_or(0), arena);
    }
}

/// The destructor of a vthread that the caller holds.
pub(super) fn destructor_of(record: RecordRef) -> Option<Destructor> {
    // SAFETY: the caller holds the vthread.
    if unsafe { record.body() }.extra {
        record.get().extra.destructor.get()
    } else {
        None
    }
}

fn run_destructors(mount: NonNull<Mount>) {
    // SAFETY: the mount is this vthread's own, and the reference is dropped at once.
    if unsafe { (*mount.as_ptr()).locals.is_none() } {
        return;
    }
    local::run_destructors(|f| {
        // SAFETY: as above; no destructor runs while the reference is alive.
        if let Some(locals) = unsafe { (*mount.as_ptr()).locals.as_deref_mut() } {
            f(locals);
        }
    });
}
