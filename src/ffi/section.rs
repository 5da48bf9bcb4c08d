//! Sections of host code.

use super::boundary::guard_int;
use crate::scheduler::section;
use std::ffi::c_int;

/// The calling vthread is about to block its OS thread: its core serves others from here, on another OS thread, until
/// swn_blocking_end, or until the vthread has waited in between (swn_*), which brings it back onto a core. Not needed for that
/// (the library notices after about a millisecond, the first time after up to 6), but it saves the others that time; it costs
/// some microseconds, so it is for calls that do block. Everything may be called meanwhile. Nests.
/// 0; SWN_ENOTVTHREAD; SWN_EFORKED. Never parks.
#[unsafe(no_mangle)]
pub extern "C" fn swn_blocking_begin() -> c_int {
    guard_int(|| section::blocking_begin().map(|()| 0))
}

/// Ends what swn_blocking_begin began; the outermost one queues up for a core. 0; -EINVAL: none was begun;
/// SWN_ENOTVTHREAD; SWN_EFORKED. May park.
#[unsafe(no_mangle)]
pub extern "C" fn swn_blocking_end() -> c_int {
    guard_int(|| section::blocking_end().map(|()| 0))
}

/// The calling vthread stays on its OS thread until swn_unpin: for libraries that keep something in thread-local storage
/// between calls. As SWN_SPAWN_BOUND for a time: it may wait, and others run on the thread meanwhile; while one of those blocks
/// the thread, this one waits for it. Nests. 0;
/// SWN_ENOTVTHREAD; SWN_EFORKED. May park, before the section begins.
#[unsafe(no_mangle)]
pub extern "C" fn swn_pin() -> c_int {
    guard_int(|| section::pin().map(|()| 0))
}

/// Ends what swn_pin began. 0; -EINVAL: none was begun; SWN_ENOTVTHREAD; SWN_EFORKED. Never parks.
#[unsafe(no_mangle)]
pub extern "C" fn swn_unpin() -> c_int {
    guard_int(|| section::unpin().map(|()| 0))
}

/// The calling vthread keeps its core until swn_preempt_enable, and gives up no turn for having run too long: for short
/// sections in which others wait for it. After ten slices the core is taken all the same, and counted
/// (`handoffs_forced`). It does not exclude other vthreads, and does not keep the OS from running other threads. Nests. 0;
/// SWN_ENOTVTHREAD; SWN_EFORKED. May park, before the section begins.
#[unsafe(no_mangle)]
pub extern "C" fn swn_preempt_disable() -> c_int {
    guard_int(|| section::preempt_disable().map(|()| 0))
}

/// Ends what swn_preempt_disable began; the outermost one gives up a turn that is over. 0; -EINVAL: none was begun;
/// SWN_ENOTVTHREAD; SWN_EFORKED. May park.
#[unsafe(no_mangle)]
pub extern "C" fn swn_preempt_enable() -> c_int {
    guard_int(|| section::preempt_enable().map(|()| 0))
}
