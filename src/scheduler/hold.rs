//! Whether a carrier holds its core: two words per carrier, and everything that changes them.
//!
//! ```text
//!   place (written by the carrier)        claim (written by who takes or grants)
//!
//!   HOST <--exit-- INSIDE                 HELD --ask--> ASKED --taken--> TAKEN
//!     |  --enter-->  ^                      ^             |                |
//!   KEPT ------------+                      +--withdrawn--+                |
//!                                           +------------- grant ----------+
//! ```
//!
//! A carrier is INSIDE while it touches its core: in the scheduler, and in the short sections of runtime calls. While it
//! runs host code its place is HOST, and the monitor may take the core away without the thread's doing: it asks, and if it
//! finds the carrier outside, the core is taken. KEPT is host code that has asked not to be disturbed.
//!
//! Invariants:
//! * **one holder**: a taker that found the place outside, and a carrier that entered, are never both right: the carrier
//!   stores INSIDE and then reads the claim, the taker stores ASKED and then reads the place, and the barrier between each
//!   pair (`primitive::membarrier`) lets one see the other. A carrier that sees ASKED waits for the decision, which is a
//!   few instructions away.
//! * **grants go to those who rest**: a carrier that lost its core does not look at its place again until it was granted
//!   another, so the INSIDE that a grant stores stays.
//! * **a child of fork(2) has no taker**: a claim that was copied while ASKED counts as HELD there.
//! * **entering is cheap**: a plain store and a load. It is done several times for each wait.

use crate::primitive::atomic::{AtomicU32, Ordering};
use crate::primitive::membarrier;
use crate::primitive::spin_yield;

const HOST: u32 = 0;
const INSIDE: u32 = 1;
const KEPT: u32 = 2;

const HELD: u32 = 0;
const ASKED: u32 = 1;
const TAKEN: u32 = 2;

/// Where a carrier was before it entered.
#[must_use]
#[derive(Clone, Copy)]
pub(crate) struct Before(u32);

fn epoch() -> u32 {
    #[cfg(not(loom))]
    return crate::primitive::fork::epoch();
    #[cfg(loom)]
    0
}

/// See the module text.
pub(crate) struct Hold {
    place: AtomicU32,
    claim: AtomicU32,
    /// Of forks, when it was made.
    epoch: u32,
}

impl Hold {
    /// Of a carrier without a core.
    pub(crate) fn none() -> Hold {
        Hold {
            place: AtomicU32::new(INSIDE),
            claim: AtomicU32::new(TAKEN),
            epoch: epoch(),
        }
    }

    /// The carrier: from here to [`Self::exit`] the core is its own. None: it has lost it.
    #[inline(always)]
    pub(crate) fn enter(&self) -> Option<Before> {
        let before = self.place.load(Ordering::Relaxed);
        self.place.store(INSIDE, Ordering::Relaxed);
        // *one holder*; the other half is in `take`.
        membarrier::light();
        // Acquire: of a core that was granted, everything that its last holder did is seen.
        if self.claim.load(Ordering::Acquire) == HELD {
            Some(Before(before))
        } else {
            self.enter_slow(before)
        }
    }

    #[cold]
    fn enter_slow(&self, before: u32) -> Option<Before> {
        loop {
            match self.claim.load(Ordering::Acquire) {
                HELD => return Some(Before(before)),
                TAKEN => {
                    self.place.store(before, Ordering::Relaxed);
                    return None;
                }
                _ if epoch() != self.epoch => return Some(Before(before)),
                // The taker decides by what it reads of the place, perhaps after it was taken off its CPU.
                _ => spin_yield(),
            }
        }
    }

    /// The carrier: ends what [`Self::enter`] began.
    #[inline(always)]
    pub(crate) fn exit(&self, before: Before) {
        // Release: who takes the core sees what was done to it.
        self.place.store(before.0, Ordering::Release);
    }

    /// The carrier goes on in host code, from where the core may be taken; unless it is `kept`.
    #[inline(always)]
    pub(crate) fn go_outside(&self, kept: bool) {
        self.place
            .store(if kept { KEPT } else { HOST }, Ordering::Release);
    }

    /// The carrier is back from host code, for good. False: it has lost its core.
    #[inline(always)]
    pub(crate) fn come_inside(&self) -> bool {
        self.enter().is_some()
    }

    /// Whether the core has been taken. By the carrier, or as a guess.
    #[inline(always)]
    pub(crate) fn is_lost(&self) -> bool {
        self.claim.load(Ordering::Acquire) == TAKEN
    }

    /// Whether [`Self::take`] is worth its price; a guess.
    pub(crate) fn may_be_taken(&self, forced: bool) -> bool {
        let place = self.place.load(Ordering::Relaxed);
        place == HOST || (forced && place == KEPT)
    }

    /// One taker at a time: takes the core from a carrier that is in host code; `forced`, also where it is kept. Once that is
    /// certain, and before the carrier can notice, `decide` is called, and may refuse. Some: taken, and whether it was kept.
    pub(crate) fn take(&self, forced: bool, decide: impl FnOnce() -> bool) -> Option<bool> {
        let asked = self
            .claim
            .compare_exchange(HELD, ASKED, Ordering::Relaxed, Ordering::Relaxed);
        if asked.is_err() {
            return None;
        }
        // *one holder*; the other half is in `enter`.
        let seen = membarrier::heavy();
        // Acquire: pairs with `exit`.
        let place = self.place.load(Ordering::Acquire);
        let taken = seen && (place == HOST || (forced && place == KEPT)) && decide();
        let claim = if taken { TAKEN } else { HELD };
        // Release: a carrier that sees the claim sees the mark.
        self.claim.store(claim, Ordering::Release);
        taken.then_some(place == KEPT)
    }

    /// The carrier gives its core away; it is inside, and goes on without.
    pub(crate) fn give(&self) {
        // A taker that has asked finds the carrier inside and withdraws.
        while self
            .claim
            .compare_exchange(HELD, TAKEN, Ordering::AcqRel, Ordering::Relaxed)
            .is_err()
        {
            spin_yield();
        }
    }

    /// Who holds a core gives it to this carrier, which has none and rests. It is inside from here.
    pub(crate) fn grant(&self) {
        self.place.store(INSIDE, Ordering::Relaxed);
        // Release: the carrier sees all that was done to the core, and which it is.
        self.claim.store(HELD, Ordering::Release);
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;

    /// A core as loom sees it: two users at once are a data race.
    struct Core(UnsafeCell<u32>);

    // SAFETY: that the users exclude each other is what the models check.
    unsafe impl Sync for Core {}
    // SAFETY: as above.
    unsafe impl Send for Core {}

    impl Core {
        fn touch(&self) {
            // SAFETY: as above.
            self.0.with_mut(|value| unsafe { *value += 1 });
        }
    }

    fn pair() -> Arc<(Hold, Core)> {
        let pair = Arc::new((Hold::none(), Core(UnsafeCell::new(0))));
        pair.0.grant();
        pair.0.go_outside(false);
        pair
    }

    /// Entry and exit against a taker: whoever has the core has it alone, and who lost it knows.
    #[test]
    fn loom_a_core_is_taken_or_entered_but_not_both() {
        loom::model(|| {
            let pair = pair();
            let taker = {
                let pair = pair.clone();
                loom::thread::spawn(move || {
                    let taken = pair.0.take(false, || true).is_some();
                    if taken {
                        pair.1.touch();
                    }
                    taken
                })
            };
            let mut lost = false;
            for _ in 0..2 {
                match pair.0.enter() {
                    Some(before) => {
                        assert!(!lost, "a lost core does not come back by itself");
                        pair.1.touch();
                        pair.0.exit(before);
                    }
                    None => lost = true,
                }
            }
            let taken = taker.join().unwrap();
            assert!(!lost || taken);
            assert_eq!(pair.0.is_lost(), taken);
        });
    }

    /// The carrier gives its core away while a taker asks: it goes to one of them, once.
    #[test]
    fn loom_a_core_is_given_or_taken_but_not_both() {
        loom::model(|| {
            let pair = pair();
            let taker = {
                let pair = pair.clone();
                loom::thread::spawn(move || {
                    let taken = pair.0.take(false, || true).is_some();
                    if taken {
                        pair.1.touch();
                    }
                    taken
                })
            };
            let gave = match pair.0.enter() {
                Some(before) => {
                    pair.0.give();
                    pair.1.touch();
                    pair.0.exit(before);
                    true
                }
                None => false,
            };
            let taken = taker.join().unwrap();
            assert!(gave != taken);
            assert!(pair.0.is_lost());
        });
    }

    /// Taken, used by the taker, and granted to the same carrier again, which has come to rest: it sees the core as the
    /// taker left it.
    #[test]
    fn loom_a_granted_core_is_seen_as_it_was_left() {
        loom::model(|| {
            let pair = pair();
            let giver = {
                let pair = pair.clone();
                loom::thread::spawn(move || {
                    if pair.0.take(false, || true).is_some() {
                        pair.1.touch();
                        pair.0.grant();
                    }
                })
            };
            // As a carrier that returns from a vthread: without its core it waits for another.
            while !pair.0.come_inside() {
                loom::thread::yield_now();
            }
            pair.1.touch();
            giver.join().unwrap();
        });
    }

    /// Host code that is not to be disturbed is not, unless it is forced.
    #[test]
    fn loom_a_kept_core_is_taken_by_force_only() {
        loom::model(|| {
            let pair = pair();
            pair.0.go_outside(true);
            let taker = {
                let pair = pair.clone();
                loom::thread::spawn(move || {
                    assert!(pair.0.take(false, || true).is_none());
                    let taken = pair.0.take(true, || true).is_some();
                    if taken {
                        pair.1.touch();
                    }
                    taken
                })
            };
            let entered = pair.0.enter();
            if let Some(before) = entered {
                pair.1.touch();
                pair.0.exit(before);
            }
            let taken = taker.join().unwrap();
            assert!(taken || entered.is_some());
        });
    }
}
