//! Statistics and contexts.

use super::boundary::{Sized32, guard, guard_int, runtime_from_handle, write_struct};
use super::runtime::swn_runtime_t;
use super::vthread::swn_vthread_t;
use crate::error::{Error, Result};
use crate::metrics::{CoreSnapshot, HistogramSnapshot, RuntimeSnapshot};
use crate::runtime::{self, VthreadInfo};
use crate::vthread::state::Phase;
use std::ffi::{c_char, c_int, c_void};

/// A distribution of durations. Percentiles are upper bounds of buckets at most 1/8 wide.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct swn_histogram_t {
    pub count: u64,
    pub sum_ns: u64,
    pub max_ns: u64,
    pub p50_ns: u64,
    pub p90_ns: u64,
    pub p99_ns: u64,
    pub p999_ns: u64,
}

/// What a runtime, or one core of it, has counted since its start. Counters are read while the cores run: each is exact,
/// together they are of nearly the same moment.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct swn_stats_t {
    /// As given by the caller.
    pub size: usize,
    /// Time since the start.
    pub uptime_ns: u64,
    /// Cores of the runtime (of a core: 1).
    pub cores: u32,
    /// Of these, asleep.
    pub cores_parked: u32,
    /// Vthreads spawned (of a core: by code on it).
    pub spawned: u64,
    /// Vthreads that have ended (of a core: on it).
    pub completed: u64,
    /// Vthreads that live. Not per core.
    pub live: u64,
    /// Times a vthread was mounted.
    pub scheduled: u64,
    /// Of these, not the vthread's first.
    pub resumed: u64,
    /// Waits for I/O.
    pub suspended_io: u64,
    /// Waits for a point in time.
    pub suspended_timer: u64,
    /// Waits for a semaphore or lock.
    pub suspended_sync: u64,
    /// Waits for the end of a vthread.
    pub suspended_join: u64,
    /// Waits for a call on the offload pool.
    pub suspended_offload: u64,
    /// Turns given up by swn_yield.
    pub yields: u64,
    /// Vthreads taken from other cores.
    pub stolen: u64,
    /// Attempts at that.
    pub steal_attempts: u64,
    /// Switches back from a vthread.
    pub context_switches: u64,
    /// Cores taken away from a vthread that ran over its slice. Not per core.
    pub preempted: u64,
    /// Turns given up at a runtime call because the slice was over, or many calls were made without a wait.
    pub budget_yields: u64,
    /// Times a core woke up from sleep.
    pub wakeups: u64,
    /// Times a core went to sleep.
    pub parks: u64,
    /// Looks at the I/O back end.
    pub driver_polls: u64,
    /// Events it gave.
    pub io_events: u64,
    /// Timers that came due.
    pub timers_fired: u64,
    /// Timers that are armed. Not per core.
    pub timers_armed: u64,
    /// CPU time spent in vthreads, in microseconds.
    pub cpu_time_us: u64,
    /// Stacks in use. Not per core, like the next five and `queue_depth`.
    pub stacks_live: u64,
    /// Most stacks in use at a time.
    pub stacks_live_max: u64,
    /// Stacks kept for use.
    pub stacks_cached: u64,
    /// Address space of stacks.
    pub stack_bytes_mapped: u64,
    /// Stacks that could not be had.
    pub stack_failures: u64,
    /// Memory of arenas.
    pub arena_bytes: u64,
    /// Vthreads taken from the global queue.
    pub injected: u64,
    /// Vthreads in run queues now.
    pub queue_depth: u64,
    /// Carriers: OS threads that run vthreads. Not per core, like all that follow but the histograms.
    pub carriers: u64,
    /// Of these, resting until a core is handed to them.
    pub carriers_spare: u64,
    /// Of these, busy with a vthread that lost its core.
    pub carriers_without_core: u64,
    /// Carriers whose priority was lowered, because their vthread computed on without a core.
    pub carriers_lowered: u64,
    /// Cores handed to another carrier because the vthread was blocked in the kernel (for running too long: `preempted`).
    pub handoffs_blocked: u64,
    /// The same at swn_blocking_begin.
    pub handoffs_announced: u64,
    /// Cores handed to the thread of a bound vthread.
    pub handoffs_bound: u64,
    /// Cores taken from vthreads that had disabled preemption for over ten slices.
    pub handoffs_forced: u64,
    /// Cores that stayed where they were because `carriers_max` was reached, or the system gave no thread.
    pub handoffs_denied: u64,
    /// Vthreads that queued up for a core again after they had lost theirs.
    pub rejoins: u64,
    /// Times that a vthread without a core was stopped, to let others run (SWN_PREEMPT_STOP).
    pub stops: u64,
    /// Vthreads that ended inside a section (swn_pin, swn_blocking_begin, swn_preempt_disable).
    pub sections_unbalanced: u64,
    /// From being runnable to running; wakes by other vthreads are sampled.
    pub run_delay: swn_histogram_t,
    /// From being mounted to being unmounted.
    pub run_slice: swn_histogram_t,
}

// SAFETY: repr(C), begins with size, all fields are plain integers.
unsafe impl Sized32 for swn_stats_t {
    const OLDEST: usize = size_of::<swn_stats_t>();
}

fn histogram(h: &HistogramSnapshot) -> swn_histogram_t {
    swn_histogram_t {
        count: h.count(),
        sum_ns: h.sum_ns(),
        max_ns: h.max_ns(),
        p50_ns: h.percentile(50.0),
        p90_ns: h.percentile(90.0),
        p99_ns: h.percentile(99.0),
        p999_ns: h.percentile(99.9),
    }
}

fn counters(c: &CoreSnapshot, size: usize) -> swn_stats_t {
    swn_stats_t {
        size,
        uptime_ns: 0,
        cores: 1,
        cores_parked: 0,
        spawned: c.spawned,
        completed: c.completed,
        live: 0,
        scheduled: c.scheduled,
        resumed: c.resumed,
        suspended_io: c.suspended_io,
        suspended_timer: c.suspended_timer,
        suspended_sync: c.suspended_sync,
        suspended_join: c.suspended_join,
        suspended_offload: c.suspended_offload,
        yields: c.yields,
        stolen: c.stolen,
        steal_attempts: c.steal_attempts,
        context_switches: c.context_switches,
        preempted: c.preempted,
        budget_yields: c.budget_yields,
        wakeups: c.wakeups,
        parks: c.parks,
        driver_polls: c.driver_polls,
        io_events: c.io_events,
        timers_fired: c.timers_fired,
        timers_armed: 0,
        cpu_time_us: c.cpu_time_ns / 1000,
        stacks_live: 0,
        stacks_live_max: 0,
        stacks_cached: 0,
        stack_bytes_mapped: 0,
        stack_failures: 0,
        arena_bytes: 0,
        injected: c.injected,
        queue_depth: 0,
        carriers: 0,
        carriers_spare: 0,
        carriers_without_core: 0,
        carriers_lowered: 0,
        handoffs_blocked: 0,
        handoffs_announced: 0,
        handoffs_bound: 0,
        handoffs_forced: 0,
        handoffs_denied: 0,
        rejoins: 0,
        stops: 0,
        sections_unbalanced: 0,
        run_delay: histogram(&c.run_delay),
        run_slice: histogram(&c.run_slice),
    }
}

fn snapshot(rt: *mut swn_runtime_t) -> Result<RuntimeSnapshot> {
    let used = runtime_from_handle(rt)?.id().enter()?;
    Ok(runtime::runtime_snapshot(&used))
}

/// The statistics of rt; NULL: of the calling vthread's runtime. size: sizeof *out. 0; -EINVAL; SWN_EVERSION; SWN_ESTOPPED;
/// SWN_ESTALE_HANDLE. Stops nobody. Any thread; never parks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_stats_read(
    rt: *mut swn_runtime_t,
    out: *mut swn_stats_t,
    size: usize,
) -> c_int {
    guard_int(|| {
        let s = snapshot(rt)?;
        let value = swn_stats_t {
            uptime_ns: s.uptime_ns,
            cores: s.cores.len() as u32,
            cores_parked: s.cores_parked as u32,
            live: s.live,
            timers_armed: s.timers_armed,
            stacks_live: s.stacks_live,
            stacks_live_max: s.stacks_live_max,
            stacks_cached: s.stacks_cached,
            stack_bytes_mapped: s.stack_bytes_mapped,
            stack_failures: s.stack_failures,
            arena_bytes: s.arena_bytes,
            queue_depth: s.queue_depth,
            carriers: s.carriers,
            carriers_spare: s.carriers_spare,
            carriers_without_core: s.carriers_without_core,
            carriers_lowered: s.carriers_lowered,
            handoffs_blocked: s.handoffs_blocked,
            handoffs_announced: s.handoffs_announced,
            handoffs_bound: s.handoffs_bound,
            handoffs_forced: s.handoffs_forced,
            handoffs_denied: s.handoffs_denied,
            rejoins: s.rejoins,
            stops: s.stops,
            sections_unbalanced: s.sections_unbalanced,
            ..counters(&s.total, size)
        };
        // SAFETY: the host says that out has size bytes.
        unsafe { write_struct(out, size, &value) }.map(|()| 0)
    })
}

/// The counters of one core; the fields that are not per core are 0. -ERANGE: no such core. Otherwise as swn_stats_read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_stats_read_core(
    rt: *mut swn_runtime_t,
    core: u32,
    out: *mut swn_stats_t,
    size: usize,
) -> c_int {
    guard_int(|| {
        let s = runtime_from_handle(rt)?
            .with(|shared| runtime::core_snapshot(shared, core as usize).ok_or(Error::RANGE))?;
        // SAFETY: the host says that out has size bytes.
        unsafe { write_struct(out, size, &counters(&s, size)) }.map(|()| 0)
    })
}

/// Receives text, in one call or several; text is not zero-terminated and borrowed until the call returns.
pub type swn_text_fn =
    Option<unsafe extern "C-unwind" fn(arg: *mut c_void, text: *const c_char, len: usize)>;

fn write_text(
    rt: *mut swn_runtime_t,
    receive: swn_text_fn,
    arg: *mut c_void,
    write: fn(&RuntimeSnapshot, &mut String),
) -> Result<c_int> {
    let receive = receive.ok_or(Error::INVAL)?;
    let mut text = String::new();
    write(&snapshot(rt)?, &mut text);
    // SAFETY: the host's function; the text lives until it returns.
    unsafe { receive(arg, text.as_ptr().cast(), text.len()) };
    Ok(0)
}

/// The statistics of rt as one JSON object, given to fn(arg, text, len). Errors as of swn_stats_read. Any thread; does not
/// park unless fn does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_stats_json(
    rt: *mut swn_runtime_t,
    r#fn: swn_text_fn,
    arg: *mut c_void,
) -> c_int {
    guard_int(|| write_text(rt, r#fn, arg, crate::metrics::write_json))
}

/// The statistics of rt in the Prometheus text format 0.0.4, given to fn(arg, text, len). As swn_stats_json.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_stats_prometheus(
    rt: *mut swn_runtime_t,
    r#fn: swn_text_fn,
    arg: *mut c_void,
) -> c_int {
    guard_int(|| write_text(rt, r#fn, arg, crate::metrics::write_prometheus))
}

/// Spawned and not yet started.
pub const SWN_STATE_CREATED: u32 = 0;
/// Runnable, in a queue.
pub const SWN_STATE_READY: u32 = 1;
/// Running.
pub const SWN_STATE_RUNNING: u32 = 2;
/// Waiting, for what the reason says.
pub const SWN_STATE_WAITING: u32 = 3;
/// Runs on without a core, which was taken away because it ran over its slice or blocked.
pub const SWN_STATE_PREEMPTED: u32 = 4;
/// Ended, and not yet joined.
pub const SWN_STATE_DONE: u32 = 5;

/// Has not waited yet.
pub const SWN_REASON_NONE: u32 = 0;
/// A descriptor.
pub const SWN_REASON_IO: u32 = 1;
/// A point in time.
pub const SWN_REASON_TIMER: u32 = 2;
/// A semaphore or lock.
pub const SWN_REASON_LOCK: u32 = 3;
/// A channel; does not occur in this version.
pub const SWN_REASON_CHANNEL: u32 = 4;
/// The end of another vthread.
pub const SWN_REASON_JOIN: u32 = 5;
/// A call on the offload pool.
pub const SWN_REASON_OFFLOAD: u32 = 6;

/// One vthread, as it was while it was looked at.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct swn_vthread_context_t {
    /// As given by the caller.
    pub size: usize,
    /// Its handle.
    pub id: swn_vthread_t,
    /// SWN_STATE_*.
    pub state: u32,
    /// SWN_REASON_*: of the present wait or else the last.
    pub reason: u32,
    /// The core it ran on last.
    pub core: u32,
    /// 1 while it is on a core.
    pub mounted: u32,
    /// When it was last mounted (CLOCK_MONOTONIC); 0: never.
    pub last_resume_ns: u64,
    /// CPU time it has used up to its last switch, in microseconds.
    pub cpu_time_us: u64,
    /// Its stack; 0 before it first runs.
    pub stack_bytes: usize,
    /// How much of its stack is in memory, in whole pages from the top: at least what it has used, with what former users of
    /// the stack did. 0 in lists: it takes a system call.
    pub stack_high_water_bytes: usize,
    /// Its name, zero-terminated.
    pub name: [c_char; 16],
}

// SAFETY: repr(C), begins with size, all fields are plain integers.
unsafe impl Sized32 for swn_vthread_context_t {
    const OLDEST: usize = size_of::<swn_vthread_context_t>();
}

fn context(v: &VthreadInfo, size: usize) -> swn_vthread_context_t {
    swn_vthread_context_t {
        size,
        id: v.handle,
        state: match v.phase {
            Phase::Free | Phase::Created => SWN_STATE_CREATED,
            Phase::Ready => SWN_STATE_READY,
            Phase::Running if v.preempted => SWN_STATE_PREEMPTED,
            Phase::Running => SWN_STATE_RUNNING,
            Phase::Parked => SWN_STATE_WAITING,
            Phase::Done => SWN_STATE_DONE,
        },
        reason: u32::from(v.reason),
        core: u32::from(v.core),
        mounted: u32::from(v.phase == Phase::Running && !v.preempted),
        last_resume_ns: v.last_resume_ns,
        cpu_time_us: v.cpu_ns / 1000,
        stack_bytes: v.stack_bytes,
        stack_high_water_bytes: v.stack_high_water,
        name: v.name.map(|b| b as c_char),
    }
}

/// The context of a vthread, while it runs or waits. size: sizeof *out. 0; SWN_ESTALE_HANDLE; -EINVAL; SWN_EVERSION. Any
/// thread; never parks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_vthread_context(
    vt: swn_vthread_t,
    out: *mut swn_vthread_context_t,
    size: usize,
) -> c_int {
    guard_int(|| {
        let info = runtime::with_vthread(vt, |shared, handle| {
            let record = shared.table.lookup(handle)?;
            runtime::describe(shared, record, true)
                .filter(|i| i.handle == vt)
                .ok_or(Error::STALE_HANDLE)
        })?;
        // SAFETY: the host says that out has size bytes.
        unsafe { write_struct(out, size, &context(&info, size)) }.map(|()| 0)
    })
}

/// Sees one vthread, borrowed until it returns; another value than 0 ends the list.
pub type swn_vthread_visit_fn = Option<
    unsafe extern "C-unwind" fn(arg: *mut c_void, vt: *const swn_vthread_context_t) -> c_int,
>;

/// Calls fn(arg, context) for every vthread of rt; returns for how many. Those that come or go meanwhile may or may not be
/// among them. Stops nobody. rt NULL: the calling vthread's runtime. Any thread; fn should not wait, and must not stop the runtime.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_vthread_foreach(
    rt: *mut swn_runtime_t,
    r#fn: swn_vthread_visit_fn,
    arg: *mut c_void,
) -> i64 {
    guard(|| {
        let visit = r#fn.ok_or(Error::INVAL)?;
        runtime_from_handle(rt)?.with(|shared| {
            let visited = runtime::for_each_vthread(shared, |info| {
                let context = context(info, size_of::<swn_vthread_context_t>());
                // SAFETY: the host's function; the context lives until it returns.
                unsafe { visit(arg, &raw const context) == 0 }
            });
            Ok(visited as i64)
        })
    })
}
