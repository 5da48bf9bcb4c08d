//! The carrier: an OS thread that runs a core. It mounts one vthread after the other and does what each asked for as it
//! left its stack.
//!
//! Across `Mount::resume` no reference into the core is kept: each round starts again from the carrier's cell, because by
//! then the core may have been given to another thread.

use super::body;
use super::core::Core;
use super::crew::{Bound, Carrier};
use super::current;
use super::overrun;
use super::shared::{Shared, StopPhase, Tally};
use super::stopping::Stopper;
use crate::primitive::clock;
use crate::stack::{OwnStack, Stack, StackCache};
use crate::topology::Topology;
use crate::vthread::context::{self, Mount, Parting, Sections};
use crate::vthread::hooks::ThreadState;
use crate::vthread::join::{self, Ending};
use crate::vthread::record::{End, NO_CORE, RecordRef};
use crate::vthread::state::Parked;
use crate::wait::{Claimed, Reason};
use std::ptr::{self, NonNull};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

/// Runtime calls that a vthread may make in one mount without waiting. tokio allows 128 operations; a call here is lighter.
pub(super) const BUDGET: u32 = 256;
/// Mounts longer than this are charged by the thread's CPU clock, so that time which the OS gave to others is not.
const EXACT_ABOVE_NS: u64 = 1_000_000;

/// The life of a carrier's thread.
pub(super) fn run(shared: &Shared, carrier: &Arc<Carrier>) {
    carrier.begin();
    // SAFETY: of this thread only (prctl(2)); it wakes from timed waits as exactly as the kernel can: the default slack of
    // 50 us would be added to every sleep.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
    let _announced = OwnStack::announce();
    let _stack = shared.stopper.as_ref().map(Stopper::admit_thread);
    let thread = ThreadState::of_this_thread();
    context::set_carrier_fiber(&thread);
    current::install(carrier);
    let mut goes_on = shared.crew.wait_for_core(shared, carrier);
    if goes_on
        && shared.pinned.load(Ordering::Relaxed)
        && !Topology::read().pin(carrier.core_index())
    {
        shared.pinned.store(false, Ordering::Relaxed);
    }
    while goes_on && work(shared, carrier, &thread) == Held::Lost {
        goes_on = shared.crew.rest(shared, carrier);
    }
    current::uninstall();
}

/// Whether the carrier still holds its core.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    Yes,
    Lost,
}

/// Runs the core that was granted, until it is lost or the runtime exits.
fn work(shared: &Shared, carrier: &Arc<Carrier>, thread: &ThreadState) -> Held {
    carrier.cpu_mark_ns.set(clock::thread_cpu_ns());
    carrier.charged_ns.set(0);
    core_of(carrier).last_tick = 0;
    let mut first = carrier.take_first();
    // One loop, with all of `run_one` in it: a call around the switch would throw the processor's return addresses out of
    // step twice for each mount (measured: 30 ns).
    while let Some(record) = first
        .take()
        .or_else(|| current::with_core(Core::next_work).flatten())
    {
        if run_one(shared, carrier, thread, record) == Held::Lost {
            return Held::Lost;
        }
    }
    Held::Yes
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

/// The core of a carrier that holds it.
#[allow(clippy::mut_from_ref)]
#[inline(always)]
fn core_of(carrier: &Carrier) -> &mut Core {
    // SAFETY: the carrier holds the core and is inside (`hold`), and the reference is dropped before anything is mounted or
    // woken.
    unsafe { &mut *carrier.core() }
}

/// Mounts `record` once.
#[inline(always)]
fn run_one(
    shared: &Shared,
    carrier: &Arc<Carrier>,
    thread: &ThreadState,
    record: RecordRef,
) -> Held {
    let core = core_of(carrier);
    let remote = core.remote();
    // SAFETY: the core took the vthread from a queue and so holds it.
    let body = unsafe { record.body() };
    if body.bound && is_of_another_thread(body.mount, carrier) {
        return pass_on(shared, carrier, record, body.mount);
    }
    let mount = match NonNull::new(body.mount) {
        Some(mount) => {
            // SAFETY: held.
            unsafe { Mount::prefetch_stack(mount) };
            mount
        }
        None => match first_mount(shared, carrier, thread, record) {
            Some(mount) => mount,
            None => return Held::Yes,
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
        let delay = rate.to_ns(start.saturating_sub(ready));
        remote.tally.metrics.run_delay.record(delay);
    }
    let seen = &record.get().seen;
    seen.core.store(core.index as u16, Ordering::Relaxed);
    seen.last_resume_tick.store(start, Ordering::Relaxed);
    remote.tally.metrics.scheduled.increment();
    remote.mounted_at.store(start, Ordering::Relaxed);
    record.get().state.mount();
    carrier.set_mounted(mount, record);
    carrier.budget.set(BUDGET);
    // SAFETY: the vthread is held.
    let kept = unsafe { (*mount.as_ptr()).sections.kept } > 0;
    carrier.hold.go_outside(kept);

    // SAFETY: the vthread is held and Running, `thread` is this thread's, and no reference to the core is used from here
    // until it is asked for again.
    let parting = unsafe { Mount::resume(mount, thread) };

    let held = carrier.hold.come_inside();
    carrier.set_unmounted();
    if !held {
        unheld(shared, carrier, thread, record, mount, start, parting);
        return Held::Lost;
    }
    let core = core_of(carrier);
    let remote = core.remote();
    remote.mounted_at.store(0, Ordering::Relaxed);
    let end = rate.now();
    core.last_tick = end;
    let slice = rate.to_ns(end.wrapping_sub(start));
    remote.queue.count_mount(slice);
    charge(shared, carrier, &remote.tally, record, slice);

    if carrier.attention.load(Ordering::Relaxed) {
        carrier.attention.store(false, Ordering::Relaxed);
        carrier.frames.set(None);
    }
    // Again: an event of an overlong mount is spawned by way of the core.
    let core = core_of(carrier);
    match parting {
        Parting::Park => {
            count_wait(&remote.tally, record);
            // Once this says Parked the vthread belongs to its claimant, and may already run elsewhere.
            if record.get().state.park_after_switch() == Parked::Claimed {
                core.schedule(record);
            }
        }
        Parting::Yield => {
            remote.tally.metrics.yields.increment();
            record.get().state.make_ready();
            core.requeue(record);
        }
        Parting::Ended => {
            leave_if_forked(shared);
            ended(shared, carrier, thread, record, mount);
        }
    }
    Held::Yes
}

/// Notes the end of a mount that took `slice` ns.
#[inline(always)]
fn charge(shared: &Shared, carrier: &Carrier, tally: &Tally, record: RecordRef, slice: u64) {
    tally.metrics.run_slice.record(slice);
    let charged = if slice <= EXACT_ABOVE_NS {
        carrier.charged_ns.set(carrier.charged_ns.get() + slice);
        slice
    } else {
        overrun::report(shared, carrier, record, slice, false);
        charge_exactly(carrier, tally, slice)
    };
    add_cpu_time(record, charged);
}

#[inline(always)]
fn add_cpu_time(record: RecordRef, charged: u64) {
    let cpu_ns = &record.get().seen.cpu_ns;
    cpu_ns.store(cpu_ns.load(Ordering::Relaxed) + charged, Ordering::Relaxed);
}

/// What of `slice` was really spent on the CPU.
#[cold]
fn charge_exactly(carrier: &Carrier, tally: &Tally, slice: u64) -> u64 {
    let cpu = clock::thread_cpu_ns();
    let since_mark = cpu.saturating_sub(carrier.cpu_mark_ns.get());
    let charged = since_mark
        .saturating_sub(carrier.charged_ns.get())
        .min(slice);
    carrier.cpu_mark_ns.set(cpu);
    carrier.charged_ns.set(0);
    tally.overcharged_ns.add(slice - charged);
    charged
}

/// Counts the wait that a vthread has parked for.
#[inline(always)]
fn count_wait(tally: &Tally, record: RecordRef) {
    let metrics = &tally.metrics;
    // By bits: the top one marks a wait that cannot be cancelled.
    match record.get().seen.reason.load(Ordering::Relaxed) & 0x7f {
        r if r == Reason::Io as u8 => metrics.suspended_io.increment(),
        r if r == Reason::Timer as u8 => metrics.suspended_timer.increment(),
        r if r == Reason::Join as u8 => metrics.suspended_join.increment(),
        r if r == Reason::Offload as u8 => metrics.suspended_offload.increment(),
        _ => metrics.suspended_sync.increment(),
    }
}

/// A vthread has left its stack on a carrier that lost its core meanwhile. What the core would do is done through what all
/// cores share.
#[cold]
#[inline(never)]
fn unheld(
    shared: &Shared,
    carrier: &Carrier,
    thread: &ThreadState,
    record: RecordRef,
    mount: NonNull<Mount>,
    start: u64,
    parting: Parting,
) {
    leave_if_forked(shared);
    carrier.stop.leave();
    record.get().set_preempted(false);
    carrier.attention.store(false, Ordering::Relaxed);
    let slice = shared.rate.to_ns(shared.rate.now().saturating_sub(start));
    overrun::report(shared, carrier, record, slice, true);
    {
        let tally = shared.unheld();
        tally.metrics.run_slice.record(slice);
        let charged = charge_exactly(carrier, &tally, slice);
        add_cpu_time(record, charged);
        if parting == Parting::Park {
            count_wait(&tally, record);
        }
    }
    match parting {
        Parting::Park => {
            if record.get().state.park_after_switch() == Parked::Claimed {
                shared.schedule_outside(record);
            }
        }
        Parting::Yield => {
            shared.crew.counts.rejoined.fetch_add(1, Ordering::Relaxed);
            record.get().state.make_ready();
            shared.schedule_outside(record);
        }
        Parting::Ended => ended(shared, carrier, thread, record, mount),
    }
}

/// Whether a bound vthread with this mount belongs to a thread other than `carrier`'s. Before its first mount it belongs to
/// none.
#[cold]
fn is_of_another_thread(mount: *mut Mount, carrier: &Arc<Carrier>) -> bool {
    // SAFETY: the caller holds the vthread, so its mount is valid.
    !mount.is_null() && !ptr::eq(unsafe { (*mount).thread }, Arc::as_ptr(carrier).cast())
}

/// A bound vthread is to run, and its thread is another than the caller's.
#[cold]
fn pass_on(shared: &Shared, carrier: &Carrier, record: RecordRef, mount: *mut Mount) -> Held {
    // SAFETY: as above; `thread` was made by `bind_to` and is released by `release_thread` alone.
    let owner = unsafe {
        let thread = (*mount).thread.cast::<Carrier>();
        Arc::increment_strong_count(thread);
        Arc::from_raw(thread)
    };
    match shared.crew.give_to_bound(shared, carrier, &owner, record) {
        Bound::Given => Held::Lost,
        Bound::Left => Held::Yes,
    }
}

/// Binds a vthread to the thread of `carrier`, which has it mounted or is about to.
pub(super) fn bind_to(carrier: &Carrier, mount: NonNull<Mount>) {
    let Some(owner) = carrier.to_arc() else {
        return;
    };
    owner.bind();
    // SAFETY: the caller holds the vthread.
    unsafe { (*mount.as_ptr()).thread = Arc::into_raw(owner).cast() };
}

/// Undoes [`bind_to`], on that thread.
pub(super) fn release_thread(mount: NonNull<Mount>) {
    // SAFETY: the caller holds the vthread, or is it.
    let thread = unsafe { std::mem::replace(&mut (*mount.as_ptr()).thread, ptr::null()) };
    if !thread.is_null() {
        // SAFETY: made by `bind_to`.
        let owner = unsafe { Arc::from_raw(thread.cast::<Carrier>()) };
        owner.unbind();
    }
}

/// The vthread called fork(2), and this is the child, in which nothing else of the runtime exists: as when the thread that
/// forked returns, the process ends.
fn leave_if_forked(shared: &Shared) {
    if shared.is_forked() {
        // SAFETY: ends the process without running anything of it.
        unsafe { libc::_exit(0) };
    }
}

/// Gives a vthread its stack. None if there is none to be had: it is dealt with.
#[inline]
fn first_mount(
    shared: &Shared,
    carrier: &Arc<Carrier>,
    thread: &ThreadState,
    record: RecordRef,
) -> Option<NonNull<Mount>> {
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
        // One core looks for it, whichever thread has that core.
        body.fixed_core = core_of(carrier).index as u16;
    }
    record.get().begin_seen(body.extra);
    record
        .get()
        .seen
        .stack_address
        .store(stack_bits(stack), Ordering::Relaxed);
    core_of(carrier).remote().tally.started.increment();
    // SAFETY: the stack was taken for this vthread and is given back at its end.
    let mount = unsafe { Mount::place(stack, record, thread, body::main) };
    body.mount = mount.as_ptr();
    if body.bound {
        bind_to(carrier, mount);
    }
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
    if body::destructor_of(record).is_none() {
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

/// Takes an ended vthread apart; on a carrier with or without a core.
#[inline(always)]
fn ended(
    shared: &Shared,
    carrier: &Carrier,
    thread: &ThreadState,
    record: RecordRef,
    mount: NonNull<Mount>,
) {
    // SAFETY: it has ended: nothing else uses its mount.
    if unsafe { (*mount.as_ptr()).sections } != Sections::default() {
        shared
            .crew
            .counts
            .unbalanced
            .fetch_add(1, Ordering::Relaxed);
    }
    // SAFETY: as above.
    if unsafe { !(*mount.as_ptr()).thread.is_null() } {
        release_thread(mount);
    }
    // SAFETY: it has ended: its mount is not used again.
    let stack = unsafe { Mount::remove(mount, thread) };
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
            match held_core(carrier) {
                Some(core) => core.requeue(next),
                None => shared.schedule_outside(next),
            }
        }
    } else {
        match held_core(carrier) {
            Some(core) => core.stacks.put(&shared.stacks, stack),
            None => {
                let mut cache = StackCache::new(&shared.stacks);
                cache.put(&shared.stacks, stack);
                cache.trim(&shared.stacks, 0);
            }
        }
    }
    finish(shared, carrier, record);
}

/// The core of a carrier that is inside, if it has one.
#[inline(always)]
fn held_core(carrier: &Carrier) -> Option<&mut Core> {
    (!carrier.hold.is_lost()).then(|| core_of(carrier))
}

/// Counts, and tells the joiner or frees the record.
#[inline(always)]
fn finish(shared: &Shared, carrier: &Carrier, record: RecordRef) {
    // Before the joiner can know of the end: the statistics that it reads then have it.
    count(shared, carrier, |tally| tally.metrics.completed.increment());
    match join::end(record) {
        Ending::Freed { usable } => match held_core(carrier) {
            Some(core) => core.records.give(&shared.table, record, usable),
            None => shared.table.give(record, usable),
        },
        Ending::Left(Some(Claimed::Wake(wake))) => wake.run(),
        Ending::Left(_) => {}
    }
    // After the join, so that "all have left" means that nothing of them is left to do.
    std::sync::atomic::fence(Ordering::Release);
    count(shared, carrier, |tally| tally.left.increment());
    if shared.stop_phase() != StopPhase::Running {
        let _lock = shared
            .ended
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        shared.ended.1.notify_all();
    }
}

/// Counts where a carrier with its core, or one without, has to.
#[inline(always)]
fn count(shared: &Shared, carrier: &Carrier, f: impl FnOnce(&Tally)) {
    match held_core(carrier) {
        Some(core) => f(&core.remote().tally),
        None => f(&shared.unheld()),
    }
}
