//! The monitor: a thread that looks after cores which are stuck in one mount, because cores cannot do it for themselves.
//!
//! It carries nothing. While any core is awake it looks every few milliseconds, and more often after it found something. A
//! core that has been in the same mount since the last look, and computed or been blocked there, is *stuck*: the monitor serves its driver and its timers, takes its LIFO slot, and lets thieves take all that is
//! stealable, whether worth it or not. So a vthread that computes delays the others by little while another core is idle.
//!
//! It sleeps when nothing has happened for some looks; the next core that wakes up rouses it (`rouse`).

use super::shared::{Remote, Shared};
use crate::primitive::clock;
use crate::primitive::os_thread::Activity;
use crate::vthread::record::RecordRef;
use crate::wait::{Claimed, Outcome, Wake};
use std::ptr::NonNull;
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

/// What the monitor remembers of a core.
#[derive(Clone, Copy, Default)]
struct Seen {
    mounts: u64,
    mounted: bool,
    cpu_ns: u64,
    at_ns: u64,
}

impl Seen {
    fn look(remote: &Remote) -> Seen {
        let mounted = remote.mounted.load(Ordering::Relaxed);
        let thread = remote.thread.get().filter(|_| mounted);
        Seen {
            mounts: remote.metrics.scheduled.get(),
            mounted,
            cpu_ns: thread.map_or(0, |t| t.cpu_ns()),
            at_ns: clock::now_ns(),
        }
    }

    /// Whether the core has been in one mount since `last`, and it is the vthread's doing: it computes or is blocked. A
    /// carrier that waits for a CPU is not helped by more threads that want one.
    fn is_stuck_since(&self, last: &Seen, remote: &Remote) -> bool {
        if self.mounts != last.mounts || !last.mounted || !self.mounted {
            return false;
        }
        let used = self.cpu_ns.saturating_sub(last.cpu_ns);
        let thread = remote.thread.get();
        2 * used >= self.at_ns - last.at_ns
            || thread.is_none_or(|t| t.activity() != Activity::Runnable)
    }
}

/// Runs on its own thread until the runtime exits.
pub(crate) fn run(shared: &Shared) {
    let monitor = &shared.monitor;
    monitor.set_thread();
    let mut seen = vec![Seen::default(); shared.cores()];
    let mut wakes = Vec::with_capacity(FIRE_MAX);
    let (mut quiet, mut calm) = (0, 0);
    let mut look = LOOK;
    while !shared.exiting.load(Ordering::Acquire) {
        std::thread::park_timeout(look);
        let (active, stuck) = look_at_cores(shared, &mut seen, &mut wakes);
        calm = if stuck { 0 } else { calm + 1 };
        look = match calm {
            0 => LOOK_STUCK,
            n if n < CALM_LOOKS => LOOK,
            _ => LOOK_CALM,
        };
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
        let now = Seen::look(remote);
        let last = std::mem::replace(seen, now);
        active |= last.mounts != now.mounts;
        if now.is_stuck_since(&last, remote) {
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
    if let Some(record) = remote.queue.take_lifo() {
        shared.inject(record);
    }
    shared.take_preferred(core);
    if remote.queue.open_to_thieves() {
        shared.notify_from_outside();
    }
}
