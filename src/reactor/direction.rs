//! One direction (reading or writing) of one descriptor: what is known of its readiness, and who waits for it.
//!
//! ```text
//!  63                 8 7    3    2        1       0
//! +--------------------+------+--------+-------+------+
//! |   event sequence   |  -   | hungup | ready | lock |
//! +--------------------+------+--------+-------+------+
//! ```
//!
//! An attempt reads the word first, then makes its system call. When the call says that there is nothing (left), READY is
//! cleared, but only if the sequence is still the one read: an event that came meanwhile stays (*no event is cleared
//! unseen*). A waiter is linked only while READY is clear, and an event sets READY and takes all waiters, both under the
//! lock: so either the event finds the waiter, or the waiter finds READY and tries again (*no lost wake-up*).

use crate::primitive::atomic::{AtomicU64, Ordering};
use crate::primitive::{spin_hint, word_lock};
use crate::wait::{Claimed, Outcome, WaitQueue, Waiter, Wake};

/// An attempt may succeed. Set in a new registration, of which nothing is known.
const READY: u64 = 1 << 1;
/// The peer has closed, or there is an error: an end of file may follow the last byte without another event, and after
/// urgent data a short read does not mean that all was read.
const HUNG_UP: u64 = 1 << 2;
const SEQUENCE_ONE: u64 = 1 << 8;
const SEQUENCE: u64 = !(SEQUENCE_ONE - 1);

/// What an attempt saw before its system call.
#[derive(Clone, Copy)]
pub(crate) struct Reading(u64);

impl Reading {
    pub(crate) fn is_ready(self) -> bool {
        self.0 & READY != 0
    }

    pub(crate) fn is_hung_up(self) -> bool {
        self.0 & HUNG_UP != 0
    }
}

/// What came of linking a waiter.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Linked {
    /// It will be woken.
    Waiting,
    /// It was not linked: something has happened since the attempt.
    Retry,
}

/// What a waiter was found to be when it was taken out.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unlinked {
    /// It waited until now.
    Waited,
    /// It was not linked, or no longer: an event or a close took it.
    Taken,
}

/// See the module's head. All of the queue is guarded by the lock bit of the word.
pub(crate) struct Direction {
    word: AtomicU64,
    waiters: WaitQueue,
}

// SAFETY: the queue is touched only under the lock in `word`; the targets in its nodes may be claimed from any thread.
unsafe impl Sync for Direction {}
// SAFETY: as above; linked nodes stay valid wherever the direction is used from.
unsafe impl Send for Direction {}

impl Direction {
    pub(crate) fn new() -> Direction {
        Direction {
            word: AtomicU64::new(READY),
            waiters: WaitQueue::default(),
        }
    }

    /// Asks for what an event will touch.
    #[inline(always)]
    pub(crate) fn prefetch_waiter(&self) {
        self.waiters.prefetch_front();
    }

    /// What is known now; before an attempt.
    pub(crate) fn read(&self) -> Reading {
        // Acquire: an attempt that follows an event also sees what that event announced.
        Reading(self.word.load(Ordering::Acquire))
    }

    /// After an attempt that found nothing (left): clears READY, unless an event has come since `seen`.
    pub(crate) fn exhaust(&self, seen: Reading) {
        loop {
            let word = self.word.load(Ordering::Relaxed);
            if word & SEQUENCE != seen.0 & SEQUENCE || word & READY == 0 {
                return;
            }
            if word & word_lock::LOCKED != 0 {
                // Its holder will overwrite the word.
                spin_hint();
                continue;
            }
            // Relaxed: the word carries nothing but itself here; whoever arms afterwards takes the lock.
            let cleared = word & !READY;
            if self
                .word
                .compare_exchange_weak(word, cleared, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
            {
                return;
            }
        }
    }

    /// Links `waiter`, if nothing is known to be ready and `is_current` (asked under the lock) still holds.
    ///
    /// # Safety
    /// The waiter's target is set; it is in no queue, and stays where it is until it was taken or [`Self::unlink`] has
    /// returned.
    pub(crate) unsafe fn link(&self, waiter: &Waiter, is_current: impl FnOnce() -> bool) -> Linked {
        let word = word_lock::lock(&self.word);
        let linked = if word & READY != 0 || !is_current() {
            Linked::Retry
        } else {
            // SAFETY: the lock is held; the rest is the caller's promise.
            unsafe { self.waiters.push_back(waiter) };
            Linked::Waiting
        };
        word_lock::unlock(&self.word, word);
        linked
    }

    /// Takes `waiter` out if it is linked. When this returns nobody touches it any more.
    ///
    /// # Safety
    /// It was linked in this direction, or in none.
    pub(crate) unsafe fn unlink(&self, waiter: &Waiter) -> Unlinked {
        let word = word_lock::lock(&self.word);
        // SAFETY: the lock is held; the rest is the caller's promise.
        let waited = unsafe { self.waiters.remove(waiter) };
        word_lock::unlock(&self.word, word);
        if waited {
            Unlinked::Waited
        } else {
            Unlinked::Taken
        }
    }

    /// An event: READY, and every waiter is claimed; their wakes are added to `wakes`. Nothing if `is_current` (asked
    /// under the lock) does not hold any more.
    pub(crate) fn event(
        &self,
        hung_up: bool,
        is_current: impl Fn() -> bool,
        wakes: &mut Vec<Wake>,
    ) {
        let set = if hung_up { READY | HUNG_UP } else { READY };
        self.take_all(
            |word| is_current().then(|| word.wrapping_add(SEQUENCE_ONE) | set),
            Outcome::Woken,
            wakes,
        );
    }

    /// The descriptor goes away: all waiters are claimed as cancelled, and nothing is known any more.
    pub(crate) fn reset(&self, wakes: &mut Vec<Wake>) {
        self.take_all(
            |word| Some((word.wrapping_add(SEQUENCE_ONE) | READY) & !HUNG_UP),
            Outcome::Canceled,
            wakes,
        );
    }

    fn take_all(
        &self,
        change: impl Fn(u64) -> Option<u64>,
        outcome: Outcome,
        wakes: &mut Vec<Wake>,
    ) {
        loop {
            // Room is made before the lock is taken: nothing is allocated under it.
            if wakes.len() == wakes.capacity() {
                wakes.reserve(16);
            }
            let word = word_lock::lock(&self.word);
            let Some(changed) = change(word) else {
                return word_lock::unlock(&self.word, word);
            };
            while wakes.len() < wakes.capacity() {
                // SAFETY: the lock is held; linked waiters are valid (`link`), and are not touched after their claim.
                let claimed = match unsafe { self.waiters.pop_front() } {
                    // SAFETY: unlinked just now, and its owner stays until it has seen the claim.
                    Some(waiter) => unsafe { waiter.as_ref().claim(outcome) },
                    None => break,
                };
                if let Claimed::Wake(wake) = claimed {
                    wakes.push(wake);
                }
            }
            let all = self.waiters.is_empty();
            word_lock::unlock(&self.word, changed);
            if all {
                return;
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_event_between_attempt_and_its_result_is_not_cleared() {
        let direction = Direction::new();
        let seen = direction.read();
        assert!(seen.is_ready());
        direction.event(false, || true, &mut Vec::new());
        direction.exhaust(seen);
        assert!(direction.read().is_ready());
        direction.exhaust(direction.read());
        assert!(!direction.read().is_ready());
    }

    #[test]
    fn an_event_of_an_older_registration_changes_nothing() {
        let direction = Direction::new();
        direction.exhaust(direction.read());
        direction.event(true, || false, &mut Vec::new());
        assert!(!direction.read().is_ready());
        assert!(!direction.read().is_hung_up());
    }

    #[test]
    fn a_reset_forgets_a_hang_up() {
        let direction = Direction::new();
        direction.event(true, || true, &mut Vec::new());
        assert!(direction.read().is_hung_up());
        direction.reset(&mut Vec::new());
        assert!(!direction.read().is_hung_up());
        assert!(direction.read().is_ready());
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;
    use crate::wait::{Target, TargetVtable};
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicUsize;
    use std::ptr::NonNull;

    /// A wait that can be claimed once, and counts its wakes.
    struct Counting {
        claimed: AtomicUsize,
        wakes: AtomicUsize,
    }

    static VTABLE: TargetVtable = TargetVtable { claim, wake };

    unsafe fn claim(data: NonNull<()>, _seq: u64, outcome: Outcome) -> Claimed {
        // SAFETY: the models make targets of `Counting` only, and keep it until all threads are done.
        let counting = unsafe { data.cast::<Counting>().as_ref() };
        let claimed = outcome as usize;
        match counting
            .claimed
            .compare_exchange(0, claimed, Ordering::AcqRel, Ordering::Relaxed)
        {
            // SAFETY: won just now.
            Ok(_) => Claimed::Wake(unsafe { Wake::new(data, &VTABLE) }),
            Err(_) => Claimed::Lost,
        }
    }

    unsafe fn wake(data: NonNull<()>) {
        // SAFETY: as in `claim`.
        let counting = unsafe { data.cast::<Counting>().as_ref() };
        counting.wakes.fetch_add(1, Ordering::Release);
    }

    struct Model {
        direction: Direction,
        counting: Counting,
        /// Stands for the kernel's buffer.
        bytes: AtomicUsize,
    }

    impl Model {
        fn new() -> Arc<Model> {
            Arc::new(Model {
                direction: Direction::new(),
                counting: Counting {
                    claimed: AtomicUsize::new(0),
                    wakes: AtomicUsize::new(0),
                },
                bytes: AtomicUsize::new(0),
            })
        }

        fn target(&self) -> Target {
            // SAFETY: a `Counting`, as VTABLE expects; the model outlives its threads.
            unsafe { Target::new(NonNull::from(&self.counting).cast(), 0, &VTABLE) }
        }

        /// Attempt and, if there is nothing, the clearing of READY.
        fn attempt(&self) -> bool {
            let seen = self.direction.read();
            if !seen.is_ready() {
                return false;
            }
            if self.bytes.swap(0, Ordering::AcqRel) != 0 {
                return true;
            }
            self.direction.exhaust(seen);
            false
        }

        fn deliver(&self) {
            let mut wakes = Vec::new();
            // A read-modify-write, because loom lets one of another thread pass a plain store.
            self.bytes.swap(1, Ordering::AcqRel);
            self.direction.event(false, || true, &mut wakes);
            wakes.into_iter().for_each(Wake::run);
        }
    }

    /// A reader that attempts, then waits, against one event: it either gets the bytes or is woken, once.
    #[test]
    fn loom_an_event_is_seen_by_the_attempt_or_wakes_the_waiter() {
        loom::model(|| {
            let model = Model::new();
            let event = {
                let model = model.clone();
                loom::thread::spawn(move || model.deliver())
            };
            let waiter = Waiter::new();
            waiter.set_target(model.target());
            let mut waiting = false;
            let mut got = false;
            for _ in 0..3 {
                got = model.attempt();
                // SAFETY: the target is set; the waiter lives until it is unlinked below.
                if got || unsafe { model.direction.link(&waiter, || true) } == Linked::Waiting {
                    waiting = !got;
                    break;
                }
            }
            event.join().unwrap();
            assert!(got || waiting, "retried more often than there were events");
            assert_eq!(
                model.counting.wakes.load(Ordering::Acquire),
                usize::from(waiting)
            );
            // SAFETY: linked here or nowhere.
            let _ = unsafe { model.direction.unlink(&waiter) };
        });
    }

    /// A waiter that times out against an event: one of the two claims wins, and once the waiter is unlinked nobody
    /// touches it.
    #[test]
    fn loom_an_event_and_a_timeout_claim_a_wait_once() {
        loom::model(|| {
            let model = Model::new();
            model.direction.exhaust(model.direction.read());
            let waiter = Waiter::new();
            waiter.set_target(model.target());
            // SAFETY: the target is set; the waiter lives until it is unlinked below.
            let linked = unsafe { model.direction.link(&waiter, || true) };
            assert_eq!(linked, Linked::Waiting);
            let event = {
                let model = model.clone();
                loom::thread::spawn(move || model.deliver())
            };
            // SAFETY: the counting target stays valid.
            let timed_out = match unsafe { model.target().claim(Outcome::TimedOut) } {
                Claimed::Wake(wake) => {
                    wake.run();
                    true
                }
                _ => false,
            };
            // SAFETY: linked in this direction.
            let unlinked = unsafe { model.direction.unlink(&waiter) };
            if unlinked == Unlinked::Waited {
                assert!(timed_out);
            }
            assert!(!waiter.is_linked());
            event.join().unwrap();
            assert_eq!(model.counting.wakes.load(Ordering::Acquire), 1);
            assert!(
                model.direction.read().is_ready(),
                "the event must not be lost with its waiter"
            );
        });
    }

    /// A close against a waiter that is being linked: it is cancelled, or it sees that the descriptor is another.
    #[test]
    fn loom_a_close_cancels_the_waiter_or_is_seen_by_it() {
        loom::model(|| {
            let model = Model::new();
            let generation = Arc::new(AtomicUsize::new(0));
            model.direction.exhaust(model.direction.read());
            let close = {
                let (model, generation) = (model.clone(), generation.clone());
                loom::thread::spawn(move || {
                    let mut wakes = Vec::new();
                    generation.store(1, Ordering::Release);
                    model.direction.reset(&mut wakes);
                    wakes.into_iter().for_each(Wake::run);
                    // The next use of the number finds nothing to read.
                    model.direction.exhaust(model.direction.read());
                })
            };
            let waiter = Waiter::new();
            waiter.set_target(model.target());
            let current = || generation.load(Ordering::Acquire) == 0;
            // SAFETY: the target is set; the waiter lives until it is unlinked below.
            let linked = unsafe { model.direction.link(&waiter, current) };
            close.join().unwrap();
            let wakes = model.counting.wakes.load(Ordering::Acquire);
            assert_eq!(wakes, usize::from(linked == Linked::Waiting));
            // SAFETY: linked here or nowhere.
            assert_eq!(unsafe { model.direction.unlink(&waiter) }, Unlinked::Taken);
        });
    }
}
