//! Starting, stopping and describing a runtime.

use super::boundary::{
    Sized32, guard_int, init_struct, non_null, read_struct, runtime_from_handle, runtime_id,
    write_struct,
};
use super::time::swn_version;
use crate::error::{Error, Result};
use crate::options::Given;
use crate::runtime;
use crate::scheduler::overrun::{Event, Watch};
use crate::stack::GuardMode;
use std::ffi::{c_char, c_int, c_void};
use std::ptr;

/// A runtime. Owned: released with swn_runtime_stop and swn_runtime_destroy. A checked handle, never dereferenced: a stale
/// one gives SWN_ESTALE_HANDLE.
pub struct swn_runtime_t {
    _opaque: [u8; 0],
}

/// What serves most hosts: in this version, as SWN_AFFINITY_NONE. A carrier that is bound to a CPU cannot move away from
/// another thread that wants it, and its work waits meanwhile, even beside an idle CPU.
pub const SWN_AFFINITY_AUTO: u32 = 0;
/// Carriers are left to the operating system.
pub const SWN_AFFINITY_NONE: u32 = 1;
/// Each carrier is put on a CPU of its own, round robin.
pub const SWN_AFFINITY_PIN: u32 = 2;

/// The best I/O back end there is.
pub const SWN_DRIVER_AUTO: u32 = 0;
/// Readiness: epoll(7).
pub const SWN_DRIVER_READINESS: u32 = 1;

/// Guard pages by MADV_GUARD_INSTALL (Linux 6.13): no mapping of their own.
pub const SWN_GUARD_INSTALL: u32 = 1;
/// Guard pages by mprotect(2): one mapping each, as far as vm.max_map_count allows.
pub const SWN_GUARD_MPROTECT: u32 = 2;
/// Some stacks have no guard.
pub const SWN_GUARD_NONE: u32 = 3;

/// The best that the system has: SWN_PREEMPT_HANDOFF, or SWN_PREEMPT_COOPERATIVE where membarrier(2) is refused.
pub const SWN_PREEMPT_AUTO: u32 = 0;
/// A vthread gives up its core only in calls of this library.
pub const SWN_PREEMPT_COOPERATIVE: u32 = 1;
/// The core of a vthread that runs over its slice, or blocks its OS thread, is handed to another OS thread.
pub const SWN_PREEMPT_HANDOFF: u32 = 2;
/// As SWN_PREEMPT_HANDOFF; and of the vthreads that ran on without a core, no more than there are cores run at a time: the
/// others are stopped in turn, by a signal to their OS thread. For hosts that want a bound on running threads; what host code
/// may notice of it is in docs/preemption.md.
pub const SWN_PREEMPT_STOP: u32 = 3;

/// A mount that took too long, borrowed until the function that is told of it returns.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct swn_overrun_t {
    /// sizeof(swn_overrun_t) of the library.
    pub size: usize,
    /// The vthread; it may have ended since.
    pub id: u64,
    /// Its name, zero-terminated.
    pub name: [c_char; 16],
    /// Its function, and that function's name if the dynamic linker knows it, or NULL.
    pub entry: *const c_void,
    pub entry_symbol: *const c_char,
    /// How long it ran without giving up its turn.
    pub ran_ns: u64,
    /// Where it was mounted.
    pub core: u32,
    /// 1: its core was taken away meanwhile.
    pub lost_core: u32,
    /// Return addresses in the call at which it gave up its turn, innermost first, for backtrace_symbols(3); 0 of them if it
    /// came to no such call.
    pub frames: *const *mut c_void,
    pub frame_count: usize,
}

/// Is told of a mount that took too long; in a vthread of its own, so it may wait.
pub type swn_overrun_fn =
    Option<unsafe extern "C-unwind" fn(arg: *mut c_void, overrun: *const swn_overrun_t)>;

/// How a runtime is started. Fill it with swn_runtime_options_init, then change what you want; a zero field is the default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct swn_runtime_options_t {
    /// Set by swn_runtime_options_init.
    pub size: usize,
    /// Number of cores, each with one carrier thread; 0: as many as the process may use. At most 1,024.
    pub cores: u32,
    /// SWN_AFFINITY_*.
    pub affinity: u32,
    /// Time after which a vthread has to let others run, 100 us to 10 s; 0: 10 ms.
    pub slice_ns: u64,
    /// Default stack, at most 1 MiB, rounded up to 16, 64, 256 or 1,024 KiB; 0: 256 KiB.
    pub stack_bytes: usize,
    /// First chunk of a vthread's arena, 4 KiB to 1 GiB; 0: 1 MiB.
    pub arena_bytes: usize,
    /// SWN_DRIVER_*.
    pub driver: u32,
    /// Most OS threads for calls that block (files, name look-up, swn_offload), up to 1,024; 0: 64. Started on demand.
    pub offload_threads: u32,
    /// SWN_PREEMPT_*.
    pub preemption: u32,
    /// Most carriers (OS threads that run vthreads) at a time, up to 32,768; 0: 4,096, or half of what RLIMIT_NPROC or the
    /// control group's pids.max allow if that is less. More than `cores` exist only while vthreads run too long.
    pub carriers_max: u32,
    /// The signal for SWN_PREEMPT_STOP; 0: SIGURG. Its handler is installed for good, and passes on what is not meant for it.
    /// Not one of a fault, SIGKILL or SIGSTOP: -EINVAL.
    pub stop_signal: c_int,
    /// Is told, with overrun_arg, of each mount that took overrun_ns or longer (at least 1 ms; 0: the slice). NULL: nobody.
    pub on_overrun: swn_overrun_fn,
    pub overrun_arg: *mut c_void,
    pub overrun_ns: u64,
}

// SAFETY: repr(C), begins with size, all fields are plain integers or pointers that may be null.
unsafe impl Sized32 for swn_runtime_options_t {
    const OLDEST: usize = size_of::<swn_runtime_options_t>();
}

/// What a runtime runs with.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct swn_features_t {
    /// As given by the caller.
    pub size: usize,
    /// As swn_version.
    pub version: u32,
    /// Number of cores.
    pub cores: u32,
    /// SWN_DRIVER_READINESS.
    pub driver: u32,
    /// SWN_GUARD_*: the weakest in use.
    pub guard_mode: u32,
    /// SWN_AFFINITY_NONE or SWN_AFFINITY_PIN, as in force.
    pub affinity: u32,
    /// SWN_PREEMPT_COOPERATIVE, SWN_PREEMPT_HANDOFF or SWN_PREEMPT_STOP, as in force.
    pub preemption: u32,
    /// The slice, as chosen at the start.
    pub slice_ns: u64,
}

// SAFETY: repr(C), begins with size, all fields are plain integers.
unsafe impl Sized32 for swn_features_t {
    const OLDEST: usize = size_of::<swn_features_t>();
}

/// Fills o with defaults. size: sizeof *o. 0; -EINVAL if o is NULL; SWN_EVERSION for an impossible size. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_runtime_options_init(
    o: *mut swn_runtime_options_t,
    size: usize,
) -> c_int {
    // SAFETY: the host says that o has size bytes.
    guard_int(|| unsafe { init_struct(o, size) }.map(|()| 0))
}

/// The host's function for overlong mounts, ready to be called.
fn watch(o: &swn_runtime_options_t) -> Result<Option<Watch>> {
    let Some(receive) = o.on_overrun else {
        return Ok(None);
    };
    let threshold_ns = match (o.overrun_ns, o.slice_ns) {
        (0, 0) => 10_000_000,
        (0, slice) => slice.max(1_000_000),
        (threshold, _) if threshold < 1_000_000 => return Err(Error::RANGE),
        (threshold, _) => threshold,
    };
    // As a number: the host says that the function may be called with it from any thread.
    let arg = o.overrun_arg as usize;
    let receive = move |event: &Event| {
        let entry = event
            .entry
            .map_or(ptr::null(), |entry| entry as *const c_void);
        // SAFETY: a plain struct, filled in by dladdr(3) where it knows the address.
        let mut found = unsafe { std::mem::zeroed::<libc::Dl_info>() };
        // SAFETY: writes to a local; looks at the address only.
        let known =
            unsafe { libc::dladdr(entry, &mut found) } != 0 && found.dli_saddr == entry.cast_mut();
        let overrun = swn_overrun_t {
            size: size_of::<swn_overrun_t>(),
            id: event.handle,
            name: event.name.map(|b| b as c_char),
            entry,
            entry_symbol: if known { found.dli_sname } else { ptr::null() },
            ran_ns: event.ran_ns,
            core: u32::from(event.core),
            lost_core: u32::from(event.lost_core),
            frames: event.frames.as_ptr().cast(),
            frame_count: event.frames.len(),
        };
        // SAFETY: the host's function; the event lives until it returns.
        unsafe { receive(arg as *mut c_void, &raw const overrun) };
    };
    Ok(Some(Watch {
        threshold_ns,
        receive: Box::new(receive),
    }))
}

/// Starts a runtime and stores its handle in *out. o: options, borrowed for the call; NULL: defaults. Errors: -EINVAL,
/// -ERANGE (a value out of its range), SWN_EVERSION, -EAGAIN (255 runtimes, or no more threads), -ENOMEM, -EMFILE. Starts
/// one thread per core, and a monitor if there are several; they block all signals but faults, so signal handlers run on the host's threads. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_runtime_start(
    o: *const swn_runtime_options_t,
    out: *mut *mut swn_runtime_t,
) -> c_int {
    guard_int(|| {
        let out = non_null(out)?;
        // SAFETY: the host's struct begins with its size.
        let o = unsafe { read_struct(o)? };
        let given = Given {
            cores: o.cores,
            affinity: o.affinity,
            slice_ns: o.slice_ns,
            stack_bytes: o.stack_bytes,
            arena_bytes: o.arena_bytes,
            driver: o.driver,
            offload_threads: o.offload_threads,
            preemption: o.preemption,
            carriers_max: o.carriers_max,
            stop_signal: o.stop_signal,
        };
        let id = runtime::start(given, watch(&o)?)?;
        // SAFETY: not null; the host's to write.
        unsafe { out.write(id.to_bits() as *mut swn_runtime_t) };
        Ok(0)
    })
}

/// Stops a runtime: vthreads may end by themselves for half of the time; then every wait of theirs returns -ECANCELED, and
/// so does every later one. Spawning from outside gives SWN_ESTOPPED from the start, from inside in the second half.
/// 0: all have ended, and no thread, descriptor or mapping of the runtime is left (handles of vthreads are stale). -ETIMEDOUT:
/// some are still there (swn_vthread_foreach tells which); the runtime stays valid and swn_runtime_stop may be called again.
/// -EDEADLK: called from a vthread of this runtime. SWN_EFORKED. Blocks the calling OS thread; any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_runtime_stop(rt: *mut swn_runtime_t, deadline_ns: u64) -> c_int {
    guard_int(|| runtime::stop(runtime_id(rt)?, deadline_ns).map(|()| 0))
}

/// Releases the handle of a stopped runtime. -EBUSY until swn_runtime_stop has returned 0. In a child of fork(2):
/// SWN_EFORKED; what was inherited is given up. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_runtime_destroy(rt: *mut swn_runtime_t) -> c_int {
    guard_int(|| runtime::destroy(runtime_id(rt)?).map(|()| 0))
}

/// The runtime of the calling vthread, borrowed until the vthread ends; NULL outside of one. Any thread; never parks.
#[unsafe(no_mangle)]
pub extern "C" fn swn_runtime_current() -> *mut swn_runtime_t {
    runtime::current().map_or(ptr::null_mut(), |r| r.id().to_bits() as *mut swn_runtime_t)
}

/// What rt runs with; rt NULL: the calling vthread's runtime. size: sizeof *out. Any thread; never parks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_runtime_features(
    rt: *mut swn_runtime_t,
    out: *mut swn_features_t,
    size: usize,
) -> c_int {
    guard_int(|| {
        let f = runtime_from_handle(rt)?.with(|shared| Ok(runtime::features(shared)))?;
        let value = swn_features_t {
            size,
            version: swn_version(),
            cores: f.cores as u32,
            driver: SWN_DRIVER_READINESS,
            guard_mode: match f.guards {
                GuardMode::Install => SWN_GUARD_INSTALL,
                GuardMode::Mprotect => SWN_GUARD_MPROTECT,
                GuardMode::None => SWN_GUARD_NONE,
            },
            affinity: if f.pinned {
                SWN_AFFINITY_PIN
            } else {
                SWN_AFFINITY_NONE
            },
            preemption: match (f.stops, f.hands_off) {
                (true, _) => SWN_PREEMPT_STOP,
                (false, true) => SWN_PREEMPT_HANDOFF,
                (false, false) => SWN_PREEMPT_COOPERATIVE,
            },
            slice_ns: f.slice_ns,
        };
        // SAFETY: the host says that out has size bytes.
        unsafe { write_struct(out, size, &value) }.map(|()| 0)
    })
}
