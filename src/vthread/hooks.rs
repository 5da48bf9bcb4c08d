//! What the host process may have that must know of a switch: C++ exception state, AddressSanitizer and ThreadSanitizer.
//!
//! All of it is looked up by name at run time, so that one library serves hosts with and without them, and nothing is
//! interposed. Sources: Itanium C++ ABI 2.2.2 (`__cxa_get_globals`), compiler-rt `sanitizer/common_interface_defs.h` and
//! `tsan_interface.h`.

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::ptr;
use std::sync::OnceLock;

/// `__cxa_eh_globals`: the chain of caught exceptions and the count of uncaught ones, one per OS thread.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct ExceptionState {
    caught: *mut c_void,
    uncaught: c_uint,
}

impl ExceptionState {
    pub(crate) const NONE: ExceptionState = ExceptionState {
        caught: ptr::null_mut(),
        uncaught: 0,
    };

    #[inline(always)]
    fn is_none(&self) -> bool {
        self.caught.is_null() && self.uncaught == 0
    }
}

type StartSwitch = unsafe extern "C" fn(save: *mut *mut c_void, bottom: *const c_void, size: usize);
type FinishSwitch =
    unsafe extern "C" fn(saved: *mut c_void, bottom: *mut *const c_void, size: *mut usize);
type Unpoison = unsafe extern "C" fn(at: *const c_void, size: usize);

/// AddressSanitizer's fiber interface.
#[derive(Clone, Copy)]
pub(crate) struct Asan {
    pub(crate) start: StartSwitch,
    pub(crate) finish: FinishSwitch,
    pub(crate) unpoison: Unpoison,
}

/// ThreadSanitizer's fiber interface.
#[derive(Clone, Copy)]
pub(crate) struct Tsan {
    pub(crate) current: unsafe extern "C" fn() -> *mut c_void,
    pub(crate) create: unsafe extern "C" fn(flags: c_uint) -> *mut c_void,
    pub(crate) destroy: unsafe extern "C" fn(fiber: *mut c_void),
    pub(crate) switch: unsafe extern "C" fn(fiber: *mut c_void, flags: c_uint),
}

/// The hooks of this process.
pub(crate) struct Hooks {
    pub(crate) asan: Option<Asan>,
    pub(crate) tsan: Option<Tsan>,
}

fn symbol(name: &CStr) -> *mut c_void {
    // SAFETY: looks a name up in the global scope; no side effect but a possible dlerror string.
    unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }
}

impl Hooks {
    /// Looked up once per process: sanitizers are linked into the program, not loaded later.
    pub(crate) fn get() -> &'static Hooks {
        static HOOKS: OnceLock<Hooks> = OnceLock::new();
        HOOKS.get_or_init(|| {
            let [start, finish, unpoison] = [
                symbol(c"__sanitizer_start_switch_fiber"),
                symbol(c"__sanitizer_finish_switch_fiber"),
                symbol(c"__asan_unpoison_memory_region"),
            ];
            let asan = (!start.is_null() && !finish.is_null() && !unpoison.is_null()).then(|| {
                // SAFETY: functions of these names have these types (compiler-rt, common_interface_defs.h).
                unsafe {
                    Asan {
                        start: std::mem::transmute::<*mut c_void, StartSwitch>(start),
                        finish: std::mem::transmute::<*mut c_void, FinishSwitch>(finish),
                        unpoison: std::mem::transmute::<*mut c_void, Unpoison>(unpoison),
                    }
                }
            });
            let [current, create, destroy, switch] = [
                symbol(c"__tsan_get_current_fiber"),
                symbol(c"__tsan_create_fiber"),
                symbol(c"__tsan_destroy_fiber"),
                symbol(c"__tsan_switch_to_fiber"),
            ];
            let tsan = [current, create, destroy, switch]
                .iter()
                .all(|s| !s.is_null())
                .then(|| {
                    // SAFETY: functions of these names have these types (compiler-rt, tsan_interface.h).
                    unsafe {
                        Tsan {
                            current: std::mem::transmute::<
                                *mut c_void,
                                unsafe extern "C" fn() -> *mut c_void,
                            >(current),
                            create: std::mem::transmute::<
                                *mut c_void,
                                unsafe extern "C" fn(c_uint) -> *mut c_void,
                            >(create),
                            destroy: std::mem::transmute::<
                                *mut c_void,
                                unsafe extern "C" fn(*mut c_void),
                            >(destroy),
                            switch: std::mem::transmute::<
                                *mut c_void,
                                unsafe extern "C" fn(*mut c_void, c_uint),
                            >(switch),
                        }
                    }
                });
            Hooks { asan, tsan }
        })
    }
}

/// What belongs to the calling OS thread and is exchanged at each switch, by address: looked up once per carrier, because
/// the addresses do not change while the thread lives.
pub(crate) struct ThreadState {
    exceptions: *mut ExceptionState,
    errno: *mut c_int,
    pub(crate) asan: Option<Asan>,
    pub(crate) tsan: Option<Tsan>,
    /// ThreadSanitizer's name of the carrier's own stack.
    pub(crate) tsan_fiber: *mut c_void,
}

/// What a vthread keeps of it while it is not mounted.
pub(crate) struct SavedState {
    exceptions: ExceptionState,
    errno: c_int,
}

impl SavedState {
    pub(crate) const NEW: SavedState = SavedState {
        exceptions: ExceptionState::NONE,
        errno: 0,
    };
}

impl ThreadState {
    /// Of the calling OS thread.
    pub(crate) fn of_this_thread() -> ThreadState {
        let globals = symbol(c"__cxa_get_globals");
        let exceptions = if globals.is_null() {
            ptr::null_mut()
        } else {
            // SAFETY: the function of this name takes nothing and returns this thread's structure (Itanium C++ ABI 2.2.2).
            unsafe {
                std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> *mut ExceptionState>(
                    globals,
                )()
            }
        };
        let hooks = Hooks::get();
        ThreadState {
            exceptions,
            // SAFETY: returns the address of this thread's errno.
            errno: unsafe { libc::__errno_location() },
            asan: hooks.asan,
            tsan: hooks.tsan,
            // SAFETY: names the fiber that runs now, the carrier's own.
            tsan_fiber: hooks
                .tsan
                .map_or(ptr::null_mut(), |t| unsafe { (t.current)() }),
        }
    }

    /// Puts a vthread's state in place, before it is mounted.
    #[inline(always)]
    pub(crate) fn restore(&self, saved: &SavedState) {
        // SAFETY: both addresses are this thread's own; the exception state is null where the process has none.
        unsafe {
            *self.errno = saved.errno;
            if !self.exceptions.is_null() && !saved.exceptions.is_none() {
                *self.exceptions = saved.exceptions;
            }
        }
    }

    /// Takes a vthread's state after it was unmounted, and leaves none behind.
    #[inline(always)]
    pub(crate) fn save(&self, saved: &mut SavedState) {
        // SAFETY: as in `restore`.
        unsafe {
            saved.errno = *self.errno;
            if !self.exceptions.is_null() {
                saved.exceptions = *self.exceptions;
                if !saved.exceptions.is_none() {
                    *self.exceptions = ExceptionState::NONE;
                }
            }
        }
    }
}
