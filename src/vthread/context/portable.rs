//! The switch where there is none of our own: corosensei's. The only file that names it. Feature `portable-switch` takes
//! it on x86-64 too.

use super::{Mount, Parting};
use corosensei::stack::{Stack as StackBounds, StackPointer};
use corosensei::{Coroutine, CoroutineResult, Yielder};
use std::ptr::{self, NonNull};

/// The bounds of a stack below its mount.
struct Bounds {
    base: StackPointer,
    limit: StackPointer,
}

// SAFETY: the range belongs to one vthread from `Mount::place` to `Mount::remove`, is guarded below by the stack pool and
// is larger than MIN_STACK_SIZE (the smallest class has 16 KiB).
unsafe impl StackBounds for Bounds {
    fn base(&self) -> StackPointer {
        self.base
    }
    fn limit(&self) -> StackPointer {
        self.limit
    }
}

type Suspender = Yielder<(), Parting>;

/// A coroutine, and the way back out of it.
pub(super) struct Context {
    coroutine: Coroutine<(), Parting, (), Bounds>,
    suspender: *const Suspender,
}

impl Context {
    /// A context that starts at the top of the stack that ends at `base`.
    ///
    /// # Safety
    /// `base` is aligned to 16 and there is writable stack from `limit` up to it.
    pub(super) unsafe fn new(
        base: NonNull<u8>,
        limit: NonNull<u8>,
        mount: NonNull<Mount>,
    ) -> Context {
        let bounds = Bounds {
            base: base.addr(),
            limit: limit.addr(),
        };
        let coroutine = Coroutine::with_stack(bounds, move |suspender: &Suspender, ()| {
            // SAFETY: the mount outlives its coroutine; the field is the vthread's while it runs.
            unsafe {
                (*mount.as_ptr()).context.assume_init_mut().suspender = suspender;
                super::first_frame(mount);
            }
        });
        Context {
            coroutine,
            suspender: ptr::null(),
        }
    }
}

/// Switches from the carrier's stack to the vthread's; returns when that switches back.
///
/// # Safety
/// `context` is that of a suspended vthread which the caller holds.
#[inline(always)]
pub(super) unsafe fn resume(context: *mut Context) -> Parting {
    // SAFETY: exclusive: the vthread itself uses only `suspender`.
    match unsafe { (*context).coroutine.resume(()) } {
        CoroutineResult::Yield(parting) => parting,
        CoroutineResult::Return(()) => Parting::Ended,
    }
}

/// Switches from the vthread's stack to its carrier's, with `parting`; returns when it is resumed.
///
/// # Safety
/// `context` is that of the calling vthread.
#[inline(always)]
pub(super) unsafe fn suspend(context: *mut Context, parting: Parting) {
    // SAFETY: the suspender is on the vthread's own stack and lives as long as its coroutine.
    unsafe { (*(*context).suspender).suspend(parting) }
}

/// Where a suspended vthread's newest frame begins: about, the coroutine keeps it to itself.
///
/// # Safety
/// `context` is that of a suspended vthread which the caller holds.
#[inline(always)]
pub(super) unsafe fn stack_pointer(context: *const Context) -> usize {
    // SAFETY: the caller's promise.
    unsafe { (*context).suspender.addr() }
}

/// Drops what is left of the context of an ended vthread.
///
/// # Safety
/// The vthread has ended, and the context is not used again.
pub(super) unsafe fn discard(context: *mut Context) {
    // SAFETY: the coroutine has returned, so nothing lives on its stack.
    unsafe { ptr::drop_in_place(context) };
}
