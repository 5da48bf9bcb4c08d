//! The context of a vthread: its stack, the switch, and what moves with it.
//!
//! ```text
//!   coloured top of the stack  ->  +-----------------------------+  high addresses
//!                                  | Mount                       |  written when the vthread first runs
//!                                  +-----------------------------+  <- base
//!                                  | root, first_frame, main,    |
//!                                  | host callback, ...          |
//!                                  v                             v  grows down
//!                                  | guard pages                 |
//!                                  +-----------------------------+  low addresses
//! ```
//!
//! A carrier calls [`Mount::resume`]; the vthread runs on its stack until it calls [`suspend`] or its main function
//! returns; then `resume` returns, on the carrier's own stack, with the vthread's parting. Nothing of the scheduler lives
//! in the frames in between except what `resume` itself keeps, because the carrier may have lost its core meanwhile.
//!
//! A suspended stack is never unwound by force: it holds frames of the host.

use super::hooks::{Asan, SavedState, ThreadState};
use super::local::Locals;
use super::record::RecordRef;
use crate::memory::Arena;
use crate::primitive::prefetch;
use crate::stack::Stack;
use std::cell::Cell;
use std::ffi::c_void;
use std::mem::{MaybeUninit, size_of};
use std::ptr::{self, NonNull};

/// What a vthread asks of its carrier as it leaves its stack. The carrier does it on its own stack (*publish after the
/// switch*).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Parting {
    /// Put me at the end of the run queue.
    Yield,
    /// A wait is open: park me, unless it has been claimed.
    Park,
    /// I have ended.
    Ended,
}

#[cfg(all(
    target_arch = "x86_64",
    target_os = "linux",
    not(feature = "portable-switch")
))]
#[path = "context/x86_64.rs"]
mod switch;

#[cfg(not(all(
    target_arch = "x86_64",
    target_os = "linux",
    not(feature = "portable-switch")
)))]
#[path = "context/portable.rs"]
mod switch;

use switch::Context;

/// What exists of a vthread only while it has a stack. Lies at the top of that stack; what a switch touches comes first,
/// in one cache line.
#[repr(C)]
pub(crate) struct Mount {
    context: MaybeUninit<Context>,
    saved: SavedState,
    pub(crate) record: RecordRef,
    watched: bool,
    main: Main,
    pub(crate) stack: Stack,
    pub(crate) sections: Sections,
    /// The thread that a bound vthread runs on, as the scheduler knows it; null if it is not bound.
    pub(crate) thread: *const c_void,
    pub(crate) locals: Option<Box<Locals>>,
    pub(crate) arena: Option<Box<Arena>>,
    fiber: Fiber,
}

/// The sections that a vthread has opened and not closed yet.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Sections {
    /// It is not to be disturbed.
    pub(crate) kept: u32,
    /// It stays on its thread.
    pub(crate) pinned: u32,
    /// It may block.
    pub(crate) blocking: u32,
    /// It was pinned and not bound before; and the core that it was fixed to.
    pub(crate) fixed_before: Option<u16>,
}

/// What the sanitizers keep of a vthread.
struct Fiber {
    asan: Option<Asan>,
    /// AddressSanitizer's fake stack while the vthread is not mounted.
    fake_stack: *mut c_void,
    /// The stack of the carrier that has it mounted.
    carrier_bottom: *const c_void,
    carrier_size: usize,
    tsan: *mut c_void,
}

/// Where a stack lies, for the sanitizers.
fn extent(stack: Stack) -> (*const c_void, usize) {
    let limit = stack.limit();
    (
        limit.as_ptr().cast(),
        stack.top().addr().get() - limit.addr().get(),
    )
}

/// Cache lines of stack that a wait for I/O comes back through: measured with a callback that calls `swn_recv`.
const FRAME_LINES: usize = 7;

/// Bytes reserved for the mount, so that the coroutine's base keeps its alignment.
const MOUNT_BYTES: usize = size_of::<Mount>().next_multiple_of(64);

/// The function that runs on the new stack.
pub(crate) type Main = fn(NonNull<Mount>);

impl Mount {
    /// Prepares `stack` for `record`: the first `resume` calls `main` on it.
    ///
    /// # Safety
    /// The caller owns `stack` and gives it up until `remove`; the record's vthread runs on no other stack.
    #[inline]
    pub(crate) unsafe fn place(
        stack: Stack,
        record: RecordRef,
        thread: &ThreadState,
        main: Main,
    ) -> NonNull<Mount> {
        // SAFETY: the mount is far smaller than any stack.
        let mount: NonNull<Mount> = unsafe { stack.top().sub(MOUNT_BYTES) }.cast();
        let at = mount.as_ptr();
        let fiber = Fiber {
            asan: thread.asan,
            fake_stack: ptr::null_mut(),
            carrier_bottom: ptr::null(),
            carrier_size: 0,
            // SAFETY: creates a fiber that `remove` destroys.
            tsan: thread
                .tsan
                .map_or(ptr::null_mut(), |t| unsafe { (t.create)(0) }),
        };
        // SAFETY: the memory at the top of an owned stack, aligned to 64.
        unsafe {
            at.write(Mount {
                context: MaybeUninit::uninit(),
                saved: SavedState::NEW,
                record,
                watched: thread.asan.is_some() || thread.tsan.is_some(),
                main,
                stack,
                sections: Sections::default(),
                thread: ptr::null(),
                locals: None,
                arena: None,
                fiber,
            });
            let context = Context::new(mount.cast(), stack.limit(), mount);
            (*at).context.write(context);
        }
        mount
    }

    /// Runs the vthread on the calling thread until it leaves its stack.
    ///
    /// # Safety
    /// The caller holds the vthread (phase Running) and `thread` is the calling thread's. No reference into the core may
    /// be alive. After any parting but `Ended`, another thread may resume it as soon as it has been published.
    #[inline(always)]
    pub(crate) unsafe fn resume(mount: NonNull<Mount>, thread: &ThreadState) -> Parting {
        let at = mount.as_ptr();
        // SAFETY: exclusive while Running; only these fields are borrowed, each for one statement, and the vthread itself
        // does not touch `context` or `saved`.
        unsafe {
            thread.restore(&(*at).saved);
            let mut fake = ptr::null_mut();
            if thread.asan.is_some() || thread.tsan.is_some() {
                Mount::tell_switch_in(at, thread, &mut fake);
            }
            let parting = switch::resume((*at).context.as_mut_ptr());
            if let Some(asan) = thread.asan {
                (asan.finish)(fake, ptr::null_mut(), ptr::null_mut());
            }
            thread.save(&mut (*at).saved);
            parting
        }
    }

    /// Asks for the newest frames of a suspended vthread: those of the call in which it waits.
    ///
    /// # Safety
    /// The caller holds the vthread, which is not running.
    #[inline(always)]
    pub(crate) unsafe fn prefetch_stack(mount: NonNull<Mount>) {
        // SAFETY: not running, so its context is only read.
        let from = unsafe { switch::stack_pointer((*mount.as_ptr()).context.as_ptr()) };
        for line in 0..FRAME_LINES {
            prefetch::line((from as *const u8).wrapping_add(line * prefetch::LINE));
        }
    }

    #[cold]
    unsafe fn tell_switch_in(at: *mut Mount, thread: &ThreadState, fake: &mut *mut c_void) {
        // SAFETY: the mount is the caller's; its stack's bounds are told before the switch, as both interfaces ask.
        unsafe {
            let stack = (*at).stack;
            (*at).fiber.asan = thread.asan;
            if let Some(asan) = thread.asan {
                let (limit, bytes) = extent(stack);
                (asan.start)(fake, limit, bytes);
            }
            if let Some(tsan) = thread.tsan {
                (tsan.switch)((*at).fiber.tsan, 0);
            }
        }
    }

    /// Whether a sanitizer has to be told of switches.
    #[inline(always)]
    fn is_watched(&self) -> bool {
        self.watched
    }

    /// On the vthread's stack, right after a switch to it.
    fn arrive(&self, fake_stack: *mut c_void) {
        if let Some(asan) = self.fiber.asan {
            let at = &raw const self.fiber;
            // SAFETY: the fiber is only touched by the vthread while it runs.
            unsafe {
                let at = at.cast_mut();
                (asan.finish)(
                    fake_stack,
                    &raw mut (*at).carrier_bottom,
                    &raw mut (*at).carrier_size,
                );
            }
        }
    }

    /// On the vthread's stack, right before a switch away from it.
    fn leave(&self, for_ever: bool) {
        if let Some(asan) = self.fiber.asan {
            let at = (&raw const self.fiber).cast_mut();
            // SAFETY: as in `arrive`; a null save pointer tells that the stack will not be used again.
            unsafe {
                let save = if for_ever {
                    ptr::null_mut()
                } else {
                    &raw mut (*at).fake_stack
                };
                (asan.start)(save, self.fiber.carrier_bottom, self.fiber.carrier_size);
            }
        }
        if let Some(tsan) = super::hooks::Hooks::get().tsan {
            let fiber = super::context::carrier_fiber();
            // SAFETY: the fiber of the carrier that has this vthread mounted.
            unsafe { (tsan.switch)(fiber, 0) };
        }
    }

    /// Takes the mount of an ended vthread apart and returns its stack.
    ///
    /// # Safety
    /// The vthread has ended (`Parting::Ended`), and the mount is not used again.
    #[inline]
    pub(crate) unsafe fn remove(mount: NonNull<Mount>, thread: &ThreadState) -> Stack {
        // SAFETY: the coroutine has returned, so nothing lives on the stack; each part is dropped once.
        unsafe {
            let at = mount.as_ptr();
            let stack = (*at).stack;
            switch::discard((*at).context.as_mut_ptr());
            if let Some(tsan) = thread.tsan {
                (tsan.destroy)((*at).fiber.tsan);
            }
            ptr::drop_in_place(at);
            if let Some(asan) = thread.asan {
                let (limit, bytes) = extent(stack);
                (asan.unpoison)(limit, bytes);
            }
            stack
        }
    }
}

thread_local! {
    /// ThreadSanitizer's fiber of the carrier; set only where that tool is present.
    static CARRIER_FIBER: Cell<*mut c_void> = const { Cell::new(ptr::null_mut()) };
}

/// Tells which fiber the calling carrier's own stack is.
pub(crate) fn set_carrier_fiber(thread: &ThreadState) {
    if thread.tsan.is_some() {
        CARRIER_FIBER.with(|f| f.set(thread.tsan_fiber));
    }
}

#[inline(never)]
fn carrier_fiber() -> *mut c_void {
    CARRIER_FIBER.with(Cell::get)
}

/// The first frame of a vthread that is Rust.
///
/// # Safety
/// On the vthread's own stack, once.
unsafe fn first_frame(mount: NonNull<Mount>) {
    // SAFETY: the mount outlives the vthread's frames.
    unsafe {
        if (*mount.as_ptr()).is_watched() {
            mount.as_ref().arrive(ptr::null_mut());
        }
        ((*mount.as_ptr()).main)(mount);
        if (*mount.as_ptr()).is_watched() {
            mount.as_ref().leave(true);
        }
    }
}

/// Leaves the vthread's stack with a parting; returns when it is mounted again, possibly on another OS thread.
///
/// # Safety
/// `mount` is that of the vthread that calls, on its own stack.
#[inline(always)]
pub(crate) unsafe fn suspend(mount: NonNull<Mount>, parting: Parting) {
    // SAFETY: the mount is the caller's own; the references are not kept across the switch.
    unsafe {
        if (*mount.as_ptr()).is_watched() {
            suspend_watched(mount, parting);
        } else {
            switch::suspend((*mount.as_ptr()).context.as_mut_ptr(), parting);
        }
    }
}

/// As [`suspend`], under a sanitizer.
#[cold]
#[inline(never)]
unsafe fn suspend_watched(mount: NonNull<Mount>, parting: Parting) {
    // SAFETY: as in `suspend`.
    unsafe {
        mount.as_ref().leave(false);
        switch::suspend((*mount.as_ptr()).context.as_mut_ptr(), parting);
        let fake_stack = mount.as_ref().fiber.fake_stack;
        mount.as_ref().arrive(fake_stack);
    }
}
