//! The monitor: a thread that looks after cores which are stuck in one mount, because cores cannot do it for themselves.
//!
//! While any core is awake it looks at all of them, every few milliseconds, and more often while it finds something. A core
//! whose vthread computes or is blocked since before the last look is *stuck*: the monitor serves its driver and its timers,
//! takes its LIFO slot, and lets thieves take all that is stealable, whether worth it or not.
//!
//! A vthread that is blocked in the kernel for a millisecond, or computes for its slice, loses its core: the monitor takes it
//! from the carrier (`hold`) and grants it to a spare (`crew`). Before it takes the core of one that computes it asks for its
//! attention: a vthread that makes calls of the runtime gives up its turn there, and keeps its carrier.
//!
//! It sleeps when nothing has happened for some looks; the next core that wakes up rouses it (`rouse`).

use super::crew::{Carrier, Cause};
use super::shared::{Remote, Shared};
use crate::primitive::clock;
use crate::primitive::os_thread::Activity;
use crate::vthread::record::RecordRef;
use crate::wait::{Claimed, Outcome, Wake};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often it looks; and while a core is stuck.
const LOOK: Duration = Duration::from_millis(1);
const LOOK_STUCK: Duration = Duration::from_micros(250);
/// How often it looks when so many looks have found no core stuck: a look costs some 30 us of CPU time in a virtual
/// machine, most of it for the sleep (measured).
const LOOK_CALM: Duration = Duration::from_millis(5);
const CALM_LOOKS: u32 = 50;
/// Looks without any mount, all cores asleep, after which it sleeps.
const QUIET_LOOKS: u32 = 20;
/// Timers of a stuck core that are fired in one look.
const FIRE_MAX: usize = 1024;
/// A mount this old is looked at closely.
const STUCK_NS: u64 = 200_000;
/// A vthread may block its carrier this long.
const BLOCKED_NS: u64 = 1_000_000;
/// A vthread that asked not to be disturbed keeps its core for so many slices.
const KEPT_SLICES: u64 = 10;
/// A carrier that waits for a CPU keeps its core for so many slices: it is not the vthread's doing.
const WAITING_SLICES: u64 = 4;
/// So often spares that are too many are let go.
const TIDY_NS: u64 = 1_000_000_000;

/// What the monitor remembers of a core.
#[derive(Clone, Copy, Default)]
struct Seen {
    mounts: u64,
    /// The tick at which the present mount began; 0: nothing is mounted.
    mounted_at: u64,
    /// CPU time of its carrier.
    cpu_ns: u64,
    at_ns: u64,
    /// The vthread in the present mount was asked to give up its turn.
    asked: bool,
}

/// What a look at a core found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    /// No vthread that has been there for long.
    Fine,
    Computing,
    Blocked,
    /// Its carrier waits for a CPU.
    Waiting,
}

/// Runs on its own thread until the runtime exits.
pub(super) fn run(shared: &Shared) {
    let monitor = &shared.monitor;
    monitor.set_thread();
    let mut seen = vec![Seen::default(); shared.cores()];
    let mut wakes = Vec::with_capacity(FIRE_MAX);
    let (mut quiet, mut calm, mut active) = (0, 0, 0);
    // Short slices need more looks.
    let half_slice = Duration::from_nanos((shared.options.slice_ns / 2).max(50_000));
    let mut tidy_at = clock::now_ns() + TIDY_NS;
    while !shared.exiting.load(Ordering::Acquire) {
        let look = match calm {
            0 => LOOK_STUCK,
            n if n < CALM_LOOKS => LOOK,
            _ => LOOK_CALM,
        };
        std::thread::park_timeout(look.min(half_slice));
        let before = active;
        let stuck = look_at_cores(shared, &mut seen, &mut wakes);
        active = seen.iter().map(|s| s.mounts).sum();
        calm = if stuck { 0 } else { calm + 1 };
        quiet = if active != before || shared.idle.awake() > 0 {
            0
        } else {
            quiet + 1
        };
        if shared.hands_off {
            shared
                .crew
                .look_after_those_without(shared.options.slice_ns);
        }
        let now = clock::now_ns();
        let sleeps = quiet >= QUIET_LOOKS;
        if now >= tidy_at || sleeps {
            tidy_at = now + TIDY_NS;
            shared.crew.ask_for_tidying(shared, !stuck);
        }
        if sleeps {
            quiet = 0;
            monitor.doze(&shared.idle, || shared.exiting.load(Ordering::SeqCst));
        }
    }
}

/// Looks at every core once, and does what is needed. Whether one is stuck.
fn look_at_cores(shared: &Shared, seen: &mut [Seen], wakes: &mut Vec<Wake>) -> bool {
    let mut stuck = false;
    for (core, seen) in seen.iter_mut().enumerate() {
        let remote = &shared.remotes[core];
        let (found, age) = look(shared, remote, core, seen);
        if matches!(found, Found::Fine | Found::Waiting) && age < shared.options.slice_ns {
            continue;
        }
        stuck = true;
        serve(shared, core, wakes);
        if shared.hands_off
            && let Some(holder) = shared.crew.holder(core)
        {
            consider(shared, core, &holder, seen, found, age);
        }
    }
    stuck
}

/// What the core does, and for how long it has been doing that, in nanoseconds.
fn look(shared: &Shared, remote: &Remote, core: usize, seen: &mut Seen) -> (Found, u64) {
    let mounted_at = remote.mounted_at.load(Ordering::Relaxed);
    let mounts = remote.tally.metrics.scheduled.get();
    let asked = seen.asked && mounts == seen.mounts;
    let last = std::mem::replace(
        seen,
        Seen {
            mounts,
            mounted_at,
            asked,
            at_ns: clock::now_ns(),
            cpu_ns: 0,
        },
    );
    if mounted_at == 0 {
        return (Found::Fine, 0);
    }
    let age = shared
        .rate
        .to_ns(shared.rate.now().saturating_sub(mounted_at));
    if age < STUCK_NS {
        return (Found::Fine, 0);
    }
    let Some(os) = shared.crew.holder(core).and_then(|holder| holder.os()) else {
        return (Found::Fine, 0);
    };
    seen.cpu_ns = os.cpu_ns();
    let used = seen.cpu_ns.saturating_sub(last.cpu_ns);
    let known = mounts == last.mounts && last.cpu_ns != 0;
    if known && 2 * used >= seen.at_ns - last.at_ns {
        return (Found::Computing, age);
    }
    let found = match os.activity() {
        Activity::Blocked => Found::Blocked,
        // It got little of the CPU, or that is not known yet: the next look will tell.
        Activity::Runnable => Found::Waiting,
        // No /proc, no descriptor for it: by the clock, which stands still for who is blocked.
        Activity::Unknown if known && used == 0 => Found::Blocked,
        Activity::Unknown => Found::Fine,
    };
    (found, age)
}

/// Whether the core is to be taken from its carrier, and does it.
fn consider(
    shared: &Shared,
    core: usize,
    holder: &Arc<Carrier>,
    seen: &mut Seen,
    found: Found,
    age: u64,
) {
    let slice = shared.options.slice_ns;
    let cause = match found {
        Found::Blocked if age >= BLOCKED_NS.min(slice) => Cause::Blocked,
        Found::Computing if age >= slice => Cause::Slice,
        Found::Waiting if age >= slice.saturating_mul(WAITING_SLICES) => Cause::Slice,
        _ => return,
    };
    if cause == Cause::Slice && !seen.asked {
        // It may be in the runtime, or come there soon.
        seen.asked = true;
        holder.attention.store(true, Ordering::Relaxed);
        shared.crew.prepare(shared);
        return;
    }
    let forced = age >= slice.saturating_mul(KEPT_SLICES);
    if !holder.hold.may_be_taken(forced) {
        return;
    }
    let crew = &shared.crew;
    let Some(spare) = crew.reserve() else {
        // With the next look.
        return crew.prepare(shared);
    };
    let taken = holder.hold.take(forced, || {
        // It cannot leave its mount now, so this is of the present. Is it still the mount that was looked at?
        let remote = &shared.remotes[core];
        let same = holder.core_index() == core
            && remote.mounted_at.load(Ordering::Relaxed) == seen.mounted_at;
        if same {
            // Before it can notice: it may then come to rest, and be granted another core, at once.
            crew.left_without(holder.clone(), cause);
            if found == Found::Computing {
                crew.lower(holder);
            }
            holder.attention.store(true, Ordering::Relaxed);
            if let Some(record) = holder.record() {
                record.get().set_preempted(true);
            }
        }
        same
    });
    let Some(kept) = taken else {
        return crew.unreserve(spare);
    };
    if kept {
        crew.counts.forced.fetch_add(1, Ordering::Relaxed);
    }
    crew.grant(shared, &spare, crew.core(core), core);
    crew.prepare(shared);
}

/// Does for a stuck core what it cannot.
fn serve(shared: &Shared, core: usize, wakes: &mut Vec<Wake>) {
    let remote = &shared.remotes[core];
    let driver = shared.reactor.driver(core);
    if driver.sources() > 0 {
        let _ = driver.try_wait(wakes);
    }
    let _ = remote.wheel.advance(clock::now_ns(), FIRE_MAX, |key| {
        let Some(at) = NonNull::new(key.address as *mut _) else {
            return;
        };
        // SAFETY: the key of an armed timer names a record (`block::wait`).
        let record = unsafe { RecordRef::from_raw(at) };
        if let Claimed::Wake(wake) = record.claim(key.sequence, Outcome::TimedOut) {
            wakes.push(wake);
        }
    });
    // They go through the injector: this thread has no core.
    for wake in wakes.drain(..) {
        wake.run();
    }
    // Nobody but its holder touches the queues of the only core; what waits there waits for the hand-off.
    if shared.cores() == 1 {
        return;
    }
    if let Some(record) = remote.queue.take_lifo() {
        shared.inject(record);
    }
    shared.take_preferred(core);
    if remote.queue.open_to_thieves() {
        shared.notify_from_outside();
    }
}
