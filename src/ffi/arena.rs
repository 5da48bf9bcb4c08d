//! Memory that lives as long as the vthread.

use crate::scheduler::current;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

/// Memory of the calling vthread's arena: bytes bytes (at least 1), aligned to align (a power of two, at most 4,096; 0: 16),
/// uninitialised. It need not and cannot be freed: all of it is reclaimed at the vthread's end. NULL: no memory, align not
/// valid, or called outside a vthread. May be used by other threads while the vthread lives; never parks.
#[unsafe(no_mangle)]
pub extern "C" fn swn_arena_alloc(bytes: usize, align: usize) -> *mut c_void {
    let (Some(mount), Some(shared)) = (current::mount(), current::shared()) else {
        return ptr::null_mut();
    };
    let align = if align == 0 { 16 } else { align };
    let allocate = || {
        // SAFETY: the calling vthread's own mount; nothing else refers to its arena during this call.
        let arena = unsafe { &mut (*mount.as_ptr()).arena };
        let arena = arena.get_or_insert_with(|| {
            let core = current::core_index().unwrap_or(0);
            shared.arenas.take(core)
        });
        arena
            .alloc(bytes.max(1), align)
            .map_or(ptr::null_mut(), |p| p.as_ptr().cast())
    };
    catch_unwind(AssertUnwindSafe(allocate)).unwrap_or(ptr::null_mut())
}
