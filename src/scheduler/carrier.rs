//! The carrier: an OS thread that runs a core. It mounts one vthread after the other and does what each asked for as it
//! left its stack.
//!
//! Across `Mount::resume` no reference into the core is kept: each round starts again from the carrier's cell, because by
//! then the core may have been given to another thread.

use super::core::Core;
use super::current::{self, Carrier};
use super::shared::{Shared, StopPhase};
use crate::primitive::clock;
use crate::primitive::os_thread::OsThread;
use crate::stack::Stack;
use crate::vthread::context::{self, Mount, Parting};
use crate::vthread::hooks::ThreadState;
use crate::vthread::join::{self, Ending};
use crate::vthread::local;
use crate::vthread::record::{Destructor, End, NO_CORE, RecordRef};
use crate::vthread::state::Parked;
use crate::wait::{Claimed, Reason};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

/// Mounts longer than this are charged by the thread's CPU clock, so that time which the OS gave to others is not.
const EXACT_ABOVE_NS: u64 = 1_000_000;

/// Runs `core` on the calling thread until the runtime exits.
pub(crate) fn run(shared: &Shared, mut core: Box<Core>) {
    prepare_thread(shared, core.index);
    let _ = core.remote().thread.set(OsThread::of_this_thread());
    core.cpu_mark_ns = clock::thread_cpu_ns();
    let carrier = Carrier {
        shared: ptr::from_ref(shared),
        core: Cell::new(&raw mut *core),
        mount: Cell::new(ptr::null_mut()),
        thread: ThreadState::of_this_thread(),
    };
    context::set_carrier_fiber(&carrier.thread);
    current::install(&carrier);
    while let Some(record) = current::with_core(Core::next_work).flatten() {
        run_one(shared, &carrier, record);
    }
    current::uninstall();
    carrier.core.set(ptr::null_mut());
    core.empty();
}

/// While it lives, the calling thread takes no signal but faults; then its mask is as before.
pub(crate) struct SignalsBlocked(libc::sigset_t);

impl SignalsBlocked {
    pub(crate) fn new() -> SignalsBlocked {
        // SAFETY: fills local sets and applies one to this thread only; its faults stay with the process's handlers.
        unsafe {
            let mut all = std::mem::zeroed::<libc::sigset_t>();
            let mut old = std::mem::zeroed::<libc::sigset_t>();
            libc::sigfillset(&mut all);
            for fault in [
                libc::SIGSEGV,
                libc::SIGBUS,
                libc::SIGFPE,
                libc::SIGILL,
                libc::SIGTRAP,
                libc::SIGABRT,
                libc::SIGSYS,
            ] {
                libc::sigdelset(&mut all, fault);
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut old);
            SignalsBlocked(old)
        }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: the set was filled in by `new`.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, ptr::null_mut()) };
    }
}

/// A carrier takes no signal of the process (it inherits that from `SignalsBlocked`), so that the host's handlers run on
/// the host's threads; and it wakes from timed waits as exactly as the kernel can.
fn prepare_thread(shared: &Shared, core: usize) {
    // SAFETY: of this thread only (prctl(2)); the default slack of 50 us would be added to every sleep.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
    if shared.pinned.load(Ordering::Relaxed) && !crate::topology::Topology::read().pin(core) {
        shared.pinned.store(false, Ordering::Relaxed);
    }
}

/// The carrier's core. It has one whenever it is not running a vthread.
#[allow(clippy::mut_from_ref)]
#[inline(always)]
fn core_of(carrier: &Carrier) -> &mut Core {
    // SAFETY: the carrier holds the core (`Carrier::core`), and the reference is dropped before anything is mounted or
    // woken.
    unsafe { &mut *carrier.core.get() }
}

/// Mounts `record` once.
#[inline]
fn run_one(shared: &Shared, carrier: &Carrier, record: RecordRef) {
    let core = core_of(carrier);
    let remote = core.remote();
    // SAFETY: the core took the vthread from a queue and so holds it.
    let body = unsafe { record.body() };
    let mount = match NonNull::new(body.mount) {
        Some(mount) => {
            // SAFETY: held.
            unsafe { Mount::prefetch_stack(mount) };
            mount
        }
        None => match first_mount(shared, carrier, record) {
            Some(mount) => mount,
            None => return,
        },
    };
    // Again: a reference that was made before `first_mount` is not used after it.
    let core = core_of(carrier);
    let rate = shared.rate;
    let start = if core.last_tick != 0 {
        core.last_tick
    } else {
        rate.now()
    };
    let ready = record.get().ready_tick.replace(0);
    if ready != 0 {
        remote
            .metrics
            .run_delay
            .record(rate.to_ns(start.saturating_sub(ready)));
    }
    let seen = &record.get().seen;
    seen.core.store(core.index as u16, Ordering::Relaxed);
    seen.last_resume_tick.store(start, Ordering::Relaxed);
    remote.metrics.scheduled.increment();
    remote.mounted.store(true, Ordering::Relaxed);
    record.get().state.mount();
    carrier.mount.set(mount.as_ptr());

    // SAFETY: the vthread is held and Running, `thread` is this thread's, and no reference to the core is used from here
    // until it is asked for again.
    let parting = unsafe { Mount::resume(mount, &carrier.thread) };

    carrier.mount.set(ptr::null_mut());
    let core = core_of(carrier);
    let remote = core.remote();
    remote.mounted.store(false, Ordering::Relaxed);
    let end = rate.now();
    core.last_tick = end;
    let slice = rate.to_ns(end.wrapping_sub(start));
    remote.metrics.run_slice.record(slice);
    remote.queue.count_mount(slice);
    let charged = charge(core, slice);
    seen.cpu_ns.store(
        seen.cpu_ns.load(Ordering::Relaxed) + charged,
        Ordering::Relaxed,
    );

    match parting {
        Parting::Park => {
            let metrics = &remote.metrics;
            // By bits: the top one marks a wait that cannot be cancelled.
            match seen.reason.load(Ordering::Relaxed) & 0x7f {
                r if r == Reason::Io as u8 => metrics.suspended_io.increment(),
                r if r == Reason::Timer as u8 => metrics.suspended_timer.increment(),
                r if r == Reason::Join as u8 => metrics.suspended_join.increment(),
                r if r == Reason::Offload as u8 => metrics.suspended_offload.increment(),
                _ => metrics.suspended_sync.increment(),
            }
            // Once this says Parked the vthread belongs to its claimant, and may already run elsewhere.
            if record.get().state.park_after_switch() == Parked::Claimed {
                core.schedule(record);
            }
        }
        Parting::Yield => {
            remote.metrics.yields.increment();
            record.get().state.make_ready();
            core.requeue(record);
        }
        Parting::Ended => {
            if shared.is_forked() {
                // The vthread called fork(2), and this is the child, in which nothing else of the runtime exists: as when
                // the thread that forked returns, the process ends.
                // SAFETY: ends the process without running anything of it.
                unsafe { libc::_exit(0) };
            }
            ended(shared, carrier, record, mount);
        }
    }
}

/// What of `slice_ns` was really spent on the CPU.
#[inline]
fn charge(core: &mut Core, slice_ns: u64) -> u64 {
    if slice_ns <= EXACT_ABOVE_NS {
        core.charged_ns += slice_ns;
        return slice_ns;
    }
    charge_exactly(core, slice_ns)
}

#[cold]
fn charge_exactly(core: &mut Core, slice_ns: u64) -> u64 {
    let cpu = clock::thread_cpu_ns();
    let since_mark = cpu.saturating_sub(core.cpu_mark_ns);
    let charged = since_mark.saturating_sub(core.charged_ns).min(slice_ns);
    core.cpu_mark_ns = cpu;
    core.charged_ns = 0;
    core.remote().overcharged_ns.add(slice_ns - charged);
    charged
}

/// Gives a vthread its stack. None if there is none to be had: it is dealt with.
#[inline]
fn first_mount(shared: &Shared, carrier: &Carrier, record: RecordRef) -> Option<NonNull<Mount>> {
    // SAFETY: the core holds the vthread.
    let body = unsafe { record.body() };
    let stack = if body.end == End::NoStack {
        None
    } else {
        core_of(carrier)
            .stacks
            .take(&shared.stacks, body.class)
            .ok()
    };
    let stack = match stack {
        Some(stack) => stack,
        None => without_stack(shared, carrier, record)?,
    };
    if body.bound && body.fixed_core == NO_CORE {
        // Bound to the thread that runs this core; a core keeps its thread.
        body.fixed_core = core_of(carrier).index as u16;
    }
    record.get().begin_seen(body.extra);
    record
        .get()
        .seen
        .stack_address
        .store(stack_bits(stack), Ordering::Relaxed);
    core_of(carrier).remote().started.increment();
    // SAFETY: the stack was taken for this vthread and is given back at its end.
    let mount = unsafe { Mount::place(stack, record, &carrier.thread, main) };
    body.mount = mount.as_ptr();
    Some(mount)
}

fn stack_bits(stack: Stack) -> u64 {
    // SAFETY: `Stack` is one plain address (its documentation, and the assertion below).
    unsafe { std::mem::transmute::<Stack, u64>(stack) }
}

const _: () = assert!(size_of::<Stack>() == 8);

/// There is no memory for a stack. The vthread never runs and ends with that as its outcome; only the destructor of its
/// argument is run, on a stack kept for that.
#[cold]
fn without_stack(shared: &Shared, carrier: &Carrier, record: RecordRef) -> Option<Stack> {
    // SAFETY: the core holds the vthread.
    let body = unsafe { record.body() };
    body.end = End::NoStack;
    if destructor_of(record).is_none() {
        finish(shared, carrier, record);
        return None;
    }
    let mut emergency = shared
        .emergency
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let stack = emergency.stack.take();
    if stack.is_none() {
        // In use by another destructor, at whose end this one gets its turn.
        emergency.waiting.push_back(record);
    }
    stack
}

/// What runs on a vthread's stack.
fn main(mount: NonNull<Mount>) {
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
        let core = current::with_core(|core| core.index).unwrap_or(0);
        shared.arenas.give_back(core, arena);
    }
}

/// The destructor of a vthread that the caller holds.
fn destructor_of(record: RecordRef) -> Option<Destructor> {
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

/// Takes an ended vthread apart.
#[inline]
fn ended(shared: &Shared, carrier: &Carrier, record: RecordRef, mount: NonNull<Mount>) {
    // SAFETY: it has ended: its mount is not used again.
    let stack = unsafe { Mount::remove(mount, &carrier.thread) };
    // SAFETY: held by this carrier until `finish`.
    let body = unsafe { record.body() };
    body.mount = ptr::null_mut();
    record.get().seen.stack_address.store(0, Ordering::Relaxed);
    if body.end == End::NoStack {
        let mut emergency = shared
            .emergency
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        emergency.stack = Some(stack);
        let next = emergency.waiting.pop_front();
        drop(emergency);
        if let Some(next) = next {
            core_of(carrier).requeue(next);
        }
    } else {
        core_of(carrier).stacks.put(&shared.stacks, stack);
    }
    finish(shared, carrier, record);
}

/// Counts, and tells the joiner or frees the record.
#[inline]
fn finish(shared: &Shared, carrier: &Carrier, record: RecordRef) {
    // Before the joiner can know of the end: the statistics that it reads then have it.
    core_of(carrier).remote().metrics.completed.increment();
    match join::end(record) {
        Ending::Freed { usable } => core_of(carrier).records.give(&shared.table, record, usable),
        Ending::Left(Some(Claimed::Wake(wake))) => wake.run(),
        Ending::Left(_) => {}
    }
    // After the join, so that "all have left" means that nothing of them is left to do.
    let left = &core_of(carrier).remote().left;
    std::sync::atomic::fence(Ordering::Release);
    left.increment();
    if shared.stop_phase() != StopPhase::Running {
        let _lock = shared
            .ended
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        shared.ended.1.notify_all();
    }
}
