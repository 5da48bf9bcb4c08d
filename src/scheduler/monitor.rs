//! The monitor: a thread that looks after cores which are stuck in one mount, because cores cannot do it for themselves.
//!
//! It carries nothing. While any core is awake it looks once a millisecond. A core that has been in the same mount since the
//! last look is *stuck*: the monitor serves its driver and its timers, takes its LIFO slot, and lets thieves take all that is
//! stealable, whether worth it or not. So a vthread that computes delays the others by little while another core is idle.
//!
//! It sleeps when nothing has happened for some looks; the next core that wakes up rouses it (`rouse`).

use super::shared::Shared;
use crate::vthread::record::RecordRef;
use crate::wait::{Claimed, Outcome, Wake};
use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often it looks; and while a core is stuck.
const LOOK: Duration = Duration::from_millis(1);
const LOOK_STUCK: Duration = Duration::from_micros(250);
/// Looks without any mount, all cores asleep, after which it sleeps.
const QUIET_LOOKS: u32 = 20;
/// Timers of a stuck core that are fired in one look.
const FIRE_MAX: usize = 1024;

/// What the monitor remembers of a core.
#[derive(Clone, Copy, Default)]
struct Seen {
    mounts: u64,
    mounted: bool,
}

/// Runs on its own thread until the runtime exits.
pub(crate) fn run(shared: &Shared) {
    let monitor = &shared.monitor;
    monitor.set_thread();
    let mut seen = vec![Seen::default(); shared.cores()];
    let mut wakes = Vec::with_capacity(FIRE_MAX);
    let mut quiet = 0;
    let mut look = LOOK;
    while !shared.exiting.load(Ordering::Acquire) {
        std::thread::park_timeout(look);
        let (active, stuck) = look_at_cores(shared, &mut seen, &mut wakes);
        look = if stuck { LOOK_STUCK } else { LOOK };
        quiet = if active || shared.idle.awake() > 0 {
            0
        } else {
            quiet + 1
        };
        if quiet >= QUIET_LOOKS {
            quiet = 0;
            monitor.doze(&shared.idle, || shared.exiting.load(Ordering::SeqCst));
        }
    }
}

/// Looks at every core once. Whether any has mounted something since the last look, and whether one is stuck.
fn look_at_cores(shared: &Shared, seen: &mut [Seen], wakes: &mut Vec<Wake>) -> (bool, bool) {
    let (mut active, mut stuck) = (false, false);
    for (core, seen) in seen.iter_mut().enumerate() {
        let remote = &shared.remotes[core];
        let now = Seen {
            mounts: remote.metrics.scheduled.get(),
            mounted: remote.mounted.load(Ordering::Relaxed),
        };
        let last = std::mem::replace(seen, now);
        active |= last.mounts != now.mounts;
        if last.mounts == now.mounts && last.mounted && now.mounted {
            stuck = true;
            serve(shared, core, wakes);
        }
    }
    (active, stuck)
}

/// Does for a stuck core what it cannot.
fn serve(shared: &Shared, core: usize, wakes: &mut Vec<Wake>) {
    let remote = &shared.remotes[core];
    let driver = shared.reactor.driver(core);
    if driver.sources() > 0 {
        let _ = driver.try_wait(wakes);
    }
    let _ = remote
        .wheel
        .advance(crate::primitive::clock::now_ns(), FIRE_MAX, |key| {
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
    if let Some(record) = remote.queue.take_lifo() {
        shared.inject(record);
    }
    shared.take_preferred(core);
    if remote.queue.open_to_thieves() {
        shared.notify_from_outside();
    }
}
