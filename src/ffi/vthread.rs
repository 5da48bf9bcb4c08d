//! Spawning, joining, yielding, sleeping.

use super::boundary::{
    Sized32, bytes, guard, guard_int, init_struct, read_struct, runtime_from_handle,
};
use super::runtime::swn_runtime_t;
use crate::error::{Error, Result};
use crate::primitive::clock;
use crate::runtime;
use crate::scheduler::shared::Shared;
use crate::scheduler::spawn::{self, Placement, Spec};
use crate::scheduler::{block, current};
use crate::stack::StackClass;
use std::ffi::{c_char, c_int, c_void};
use std::ptr;

/// A vthread: a checked handle. 0 is never one. A stale handle gives SWN_ESTALE_HANDLE and is never mistaken for another.
pub type swn_vthread_t = u64;

/// What a vthread runs. Runs on the vthread's own stack and may wait anywhere; after a wait it may be on another OS thread.
/// The return value is what swn_join gives. No C++ exception may leave it.
pub type swn_vthread_fn = Option<unsafe extern "C-unwind" fn(arg: *mut c_void) -> *mut c_void>;

/// Releases what arg points to.
pub type swn_destructor_fn = Option<unsafe extern "C-unwind" fn(arg: *mut c_void)>;

/// Nobody will join it: its handle is released at its end.
pub const SWN_SPAWN_DETACHED: u32 = 1;
/// Runs only on core `core`.
pub const SWN_SPAWN_FIXED_CORE: u32 = 2;
/// Once started, runs only on the OS thread that started it: for libraries that keep state in thread-local variables.
pub const SWN_SPAWN_BOUND: u32 = 4;
/// Queued to core `core` first; another one may steal it.
pub const SWN_SPAWN_PREFER_CORE: u32 = 8;

/// How a vthread is spawned. Fill it with swn_spawn_options_init, then change what you want; a zero field is the default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct swn_spawn_options_t {
    /// Set by swn_spawn_options_init.
    pub size: usize,
    /// Shown in contexts and lists; copied, cut to 15 bytes; NULL: none.
    pub name: *const c_char,
    /// At most 1 MiB, rounded up to 16, 64, 256 or 1,024 KiB; 0: the runtime's default.
    pub stack_bytes: usize,
    /// SWN_SPAWN_*.
    pub flags: u32,
    /// For SWN_SPAWN_FIXED_CORE and SWN_SPAWN_PREFER_CORE.
    pub core: u32,
    /// Called once with arg, on a vthread's stack: after the function has returned, or if it never ran. NULL: none. Not
    /// called if swn_spawn fails.
    pub arg_destructor: swn_destructor_fn,
}

// SAFETY: repr(C), begins with size; the other fields are integers and nullable pointers, for which zero is valid.
unsafe impl Sized32 for swn_spawn_options_t {
    const OLDEST: usize = size_of::<swn_spawn_options_t>();
}

/// Fills o with defaults. size: sizeof *o. 0; -EINVAL if o is NULL; SWN_EVERSION for an impossible size. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_spawn_options_init(o: *mut swn_spawn_options_t, size: usize) -> c_int {
    // SAFETY: the host says that o has size bytes.
    guard_int(|| unsafe { init_struct(o, size) }.map(|()| 0))
}

/// What a spawn call without options says.
#[inline]
fn plain_spec<'a>(
    shared: &Shared,
    entry: crate::vthread::record::Entry,
    detached: bool,
) -> Spec<'a> {
    Spec {
        entry,
        destructor: None,
        name: &[],
        class: shared.options.stack,
        placement: Placement::Any,
        bound: false,
        detached,
    }
}

/// What a spawn call says, checked against the runtime.
fn spec<'a>(
    shared: &Shared,
    entry: crate::vthread::record::Entry,
    o: *const swn_spawn_options_t,
    detached: bool,
) -> Result<Spec<'a>> {
    let mut spec = plain_spec(shared, entry, detached);
    if o.is_null() {
        return Ok(spec);
    }
    // SAFETY: the host's struct begins with its size.
    let o = unsafe { read_struct(o)? };
    const ALL: u32 =
        SWN_SPAWN_DETACHED | SWN_SPAWN_FIXED_CORE | SWN_SPAWN_BOUND | SWN_SPAWN_PREFER_CORE;
    if o.flags & !ALL != 0 {
        return Err(Error::INVAL);
    }
    let (fixed, preferred) = (
        o.flags & SWN_SPAWN_FIXED_CORE != 0,
        o.flags & SWN_SPAWN_PREFER_CORE != 0,
    );
    if fixed && preferred {
        return Err(Error::INVAL);
    }
    if fixed || preferred {
        if o.core as usize >= shared.cores() {
            return Err(Error::RANGE);
        }
        let core = o.core as u16;
        spec.placement = if fixed {
            Placement::Fixed(core)
        } else {
            Placement::Preferred(core)
        };
    }
    if o.stack_bytes != 0 {
        spec.class = StackClass::for_bytes(o.stack_bytes).ok_or(Error::RANGE)?;
    }
    spec.bound = o.flags & SWN_SPAWN_BOUND != 0;
    spec.detached |= o.flags & SWN_SPAWN_DETACHED != 0;
    spec.destructor = o.arg_destructor;
    // SAFETY: the host's name is NULL or a string, borrowed for the call.
    spec.name = unsafe { bytes(o.name) };
    Ok(spec)
}

/// Spawns a vthread that runs fn(arg) and stores its handle in *out; it must be joined or detached. out NULL: detached. rt
/// NULL: the calling vthread's runtime. o: options, borrowed for the call; NULL: defaults. Errors: -EINVAL (fn NULL, unknown
/// flags), -ERANGE (core, stack), -ENOMEM, SWN_ENOTVTHREAD (rt NULL outside a vthread), SWN_ESTOPPED, SWN_ESTALE_HANDLE,
/// SWN_EFORKED, SWN_EVERSION. Its stack is taken when it first runs; where there is none, it ends with SWN_ENOSTACK. Any
/// thread; waking; parks only to give up a turn that is over.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_spawn(
    rt: *mut swn_runtime_t,
    r#fn: swn_vthread_fn,
    arg: *mut c_void,
    o: *const swn_spawn_options_t,
    out: *mut swn_vthread_t,
) -> c_int {
    let Some(entry) = r#fn else {
        return Error::INVAL.status();
    };
    block::attend();
    // The usual case from a vthread, with nothing in it that could panic.
    if rt.is_null()
        && o.is_null()
        && let Some(shared) = current::shared()
    {
        return match spawn::spawn(shared, &plain_spec(shared, entry, out.is_null()), arg) {
            Ok(handle) => keep_handle(out, handle),
            Err(e) => e.status(),
        };
    }
    guard_int(|| {
        let spawn =
            |shared: &Shared| spawn::spawn(shared, &spec(shared, entry, o, out.is_null())?, arg);
        Ok(keep_handle(out, runtime_from_handle(rt)?.with(spawn)?))
    })
}

fn keep_result(result: *mut *mut c_void, value: *mut c_void) -> c_int {
    if !result.is_null() {
        // SAFETY: the host's to write.
        unsafe { result.write(value) };
    }
    0
}

fn keep_handle(out: *mut swn_vthread_t, handle: swn_vthread_t) -> c_int {
    if !out.is_null() {
        // SAFETY: the host's to write.
        unsafe { out.write(handle) };
    }
    0
}

/// Spawns n vthreads fn(`args[i]`) in one call (args NULL: NULL for each) and stores their handles in `out[i]`; out NULL:
/// detached. Returns how many were spawned, fewer than n only when memory ran out; an error, as of swn_spawn, if none
/// were. Any thread; waking; parks only to give up a turn that is over.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_spawn_batch(
    rt: *mut swn_runtime_t,
    r#fn: swn_vthread_fn,
    args: *const *mut c_void,
    n: usize,
    o: *const swn_spawn_options_t,
    out: *mut swn_vthread_t,
) -> i64 {
    block::attend();
    guard(|| {
        let entry = r#fn.ok_or(Error::INVAL)?;
        runtime_from_handle(rt)?.with(|shared| {
            let spec = spec(shared, entry, o, out.is_null())?;
            let arg = |i: usize| {
                if args.is_null() {
                    return ptr::null_mut();
                }
                // SAFETY: the host says that args, unless NULL, has n elements.
                unsafe { args.add(i).read() }
            };
            let keep = |i: usize, handle: u64| {
                if !out.is_null() {
                    // SAFETY: the host says that out, unless NULL, has n elements.
                    unsafe { out.add(i).write(handle) };
                }
            };
            spawn::spawn_batch(shared, &spec, n, arg, keep).map(|n| n as i64)
        })
    })
}

/// Waits for vt to end, stores what its function returned in *result (result may be NULL) and releases the handle. 0;
/// -ETIMEDOUT and -ECANCELED (the handle stays valid); -EINVAL: detached, or another joins it; -EDEADLK: itself;
/// SWN_ESTALE_HANDLE; SWN_ENOSTACK: it never ran (the handle is released). Any thread: a vthread parks, an OS thread blocks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_join(
    vt: swn_vthread_t,
    result: *mut *mut c_void,
    deadline_ns: u64,
) -> c_int {
    // Not through `guard_int`: nothing in it panics.
    match runtime::with_vthread(vt, |shared, handle| {
        spawn::join(shared, handle, deadline_ns)
    }) {
        Ok(value) => keep_result(result, value),
        Err(e) => e.status(),
    }
}

/// Lets vt go: its handle is released at its end. -EINVAL: detached already, or another joins it; SWN_ESTALE_HANDLE. Any
/// thread; never parks.
#[unsafe(no_mangle)]
pub extern "C" fn swn_detach(vt: swn_vthread_t) -> c_int {
    guard_int(|| runtime::with_vthread(vt, spawn::detach).map(|()| 0))
}

/// The calling vthread; 0 outside of one. Any thread; never parks.
#[unsafe(no_mangle)]
pub extern "C" fn swn_self() -> swn_vthread_t {
    match (current::vthread(), current::shared()) {
        (Some(record), Some(shared)) => spawn::handle(shared, record),
        _ => 0,
    }
}

/// Gives up the turn: other runnable vthreads of this core go first, those that are ready to go on and new ones in turn.
/// SWN_ENOTVTHREAD outside a vthread. May park.
#[unsafe(no_mangle)]
pub extern "C" fn swn_yield() -> c_int {
    match block::yield_now() {
        Ok(()) => 0,
        Err(e) => e.status(),
    }
}

/// Sleeps until deadline_ns, not less; at once if it has passed. 0; -ECANCELED when the runtime stops. Any thread: a vthread
/// parks, an OS thread blocks.
#[unsafe(no_mangle)]
pub extern "C" fn swn_sleep_until(deadline_ns: u64) -> c_int {
    guard_int(|| block::sleep_until(deadline_ns).map(|()| 0))
}

/// Sleeps for timeout_ns nanoseconds, as swn_sleep_until.
#[unsafe(no_mangle)]
pub extern "C" fn swn_sleep_for(timeout_ns: u64) -> c_int {
    guard_int(|| block::sleep_until(clock::now_ns().saturating_add(timeout_ns)).map(|()| 0))
}
