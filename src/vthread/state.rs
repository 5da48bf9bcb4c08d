//! The state word of a vthread: every bit of it, every change, and nothing else.
//!
//! ```text
//!  63            32 31        12 11 10  9  8 7      0
//! +----------------+------------+-----+--+--+--------+
//! |   generation   |  wait seq  | out | -| A|  phase |
//! +----------------+------------+-----+--+--+--------+
//! ```
//!
//! * **phase**: where the vthread is (see [`Phase`]). Who may change it: the holder of the vthread, which is whoever took
//!   it from a queue, the carrier it is mounted on, or the winner of a claim of a parked one.
//! * **A** (armed): a wait is open and may be claimed. Set by the vthread itself, cleared by the one winning claim.
//! * **out**: the outcome of the last wait ([`Outcome`]).
//! * **wait seq**: number of the wait; a claim for an earlier one loses.
//! * **generation**: counts the uses of the record; a handle with another one is stale.
//!
//! A wait, step by step:
//!
//! ```text
//!   vthread:  open_wait            RUNNING      -> RUNNING+A
//!             (hangs its node into queues and the timer wheel, then switches away)
//!   carrier:  park_after_switch    RUNNING+A    -> PARKED+A      or, when claimed meanwhile, RUNNING -> READY
//!   anyone:   claim                PARKED+A     -> READY         the winner schedules it
//!                                  RUNNING+A    -> RUNNING       the carrier (or the vthread) sees it
//! ```
//!
//! So a vthread becomes visible as parked only after it has left its stack (*publish after the switch*), and is put into a
//! run queue by exactly one party.

use crate::primitive::atomic::{AtomicU64, Ordering};
use crate::wait::Outcome;

/// Where a vthread is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Phase {
    /// The record is unused (in a free list).
    Free = 0,
    /// Spawned, in a run queue (or a completion that waits, when armed); has no stack yet.
    Created = 1,
    /// In a run queue, or on its way into one.
    Ready = 2,
    /// Mounted on a carrier.
    Running = 3,
    /// Waiting; in no run queue.
    Parked = 4,
    /// Ended; the record waits for its joiner.
    Done = 5,
}

const PHASE: u64 = 0xff;
const ARMED: u64 = 1 << 8;
const OUTCOME_SHIFT: u32 = 10;
const OUTCOME: u64 = 0b11 << OUTCOME_SHIFT;
const SEQ_SHIFT: u32 = 12;
const SEQ_MASK: u64 = 0xf_ffff;
const SEQ: u64 = SEQ_MASK << SEQ_SHIFT;
const GENERATION_SHIFT: u32 = 32;

/// What a claim means for the winner.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Claim {
    /// Not this wait any more, or another claim was first.
    Lost,
    /// Won; the vthread is still on its carrier, which will see it.
    Noticed,
    /// Won; the winner must put it into a run queue.
    Schedule,
}

/// What became of a vthread that switched away to wait.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Parked {
    /// It is parked, and the carrier must not touch it any more.
    Parked,
    /// It was claimed before it had left its stack; it is ready, and the carrier must put it into a run queue.
    Claimed,
}

/// The word.
pub(crate) struct StateWord(AtomicU64);

/// A reading of the word.
#[derive(Clone, Copy)]
pub(crate) struct Snapshot(u64);

impl Snapshot {
    pub(crate) fn phase(self) -> Phase {
        match self.0 & PHASE {
            1 => Phase::Created,
            2 => Phase::Ready,
            3 => Phase::Running,
            4 => Phase::Parked,
            5 => Phase::Done,
            _ => Phase::Free,
        }
    }

    pub(crate) fn generation(self) -> u32 {
        (self.0 >> GENERATION_SHIFT) as u32
    }

    /// The number of the wait that is open, if one is.
    pub(crate) fn open_wait(self) -> Option<u64> {
        (self.0 & ARMED != 0).then_some((self.0 & SEQ) >> SEQ_SHIFT)
    }
}

impl StateWord {
    pub(crate) fn new(generation: u32) -> StateWord {
        StateWord(AtomicU64::new(u64::from(generation) << GENERATION_SHIFT))
    }

    pub(crate) fn read(&self) -> Snapshot {
        // Acquire: a reader that sees Done also sees the result, one that sees a generation the record of that use.
        Snapshot(self.0.load(Ordering::Acquire))
    }

    /// A change by the vthread's holder of a word that nobody else may change at the time (no wait is open).
    fn set(&self, change: impl FnOnce(u64) -> u64) {
        let word = self.0.load(Ordering::Relaxed);
        debug_assert_eq!(word & ARMED, 0, "the word is shared while a wait is open");
        // Release: what the holder wrote to the record is seen by who reads the word.
        self.0.store(change(word), Ordering::Release);
    }

    fn set_phase(&self, phase: Phase) {
        self.set(|w| w & !PHASE | phase as u64);
    }

    /// Free to Created: the record has been filled in.
    pub(crate) fn create(&self) {
        self.set_phase(Phase::Created);
    }

    /// Created or Ready to Running; by who took it from a run queue.
    pub(crate) fn mount(&self) {
        self.set_phase(Phase::Running);
    }

    /// Running to Ready: it gave up its turn.
    pub(crate) fn make_ready(&self) {
        self.set_phase(Phase::Ready);
    }

    /// Running (or Created, if it never ran) to Done. Returns nothing to race with: from here only the joiner acts.
    pub(crate) fn finish(&self) {
        self.set_phase(Phase::Done);
    }

    /// Done or Created to Free with the next generation. False if the generations are used up: the slot must not be used
    /// again.
    pub(crate) fn free(&self) -> bool {
        let mut usable = true;
        self.set(|w| {
            let generation = (w >> GENERATION_SHIFT) as u32;
            usable = generation < u32::MAX - 1;
            (u64::from(generation.saturating_add(1)) << GENERATION_SHIFT) | Phase::Free as u64
        });
        usable
    }

    /// Opens a wait of the running vthread, or of a completion that has not been started; returns its number.
    pub(crate) fn open_wait(&self) -> u64 {
        let mut seq = 0;
        self.set(|w| {
            seq = ((w >> SEQ_SHIFT) + 1) & SEQ_MASK;
            w & !(SEQ | OUTCOME) | (seq << SEQ_SHIFT) | ARMED
        });
        seq
    }

    /// Whether the open wait has been claimed already, so that the vthread need not switch away.
    pub(crate) fn is_claimed(&self) -> bool {
        self.0.load(Ordering::Acquire) & ARMED == 0
    }

    /// The carrier, after the switch away from a vthread that waits.
    pub(crate) fn park_after_switch(&self) -> Parked {
        let mut word = self.0.load(Ordering::Relaxed);
        while word & ARMED != 0 {
            let parked = word & !PHASE | Phase::Parked as u64;
            // Release: the saved context and everything the vthread did are seen by the claimant and the next carrier.
            match self
                .0
                .compare_exchange_weak(word, parked, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return Parked::Parked,
                Err(now) => word = now,
            }
        }
        self.make_ready();
        Parked::Claimed
    }

    /// Claims wait `seq` with `outcome`.
    #[inline]
    pub(crate) fn claim(&self, seq: u64, outcome: Outcome) -> Claim {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            if word & ARMED == 0 || (word & SEQ) >> SEQ_SHIFT != seq & SEQ_MASK {
                return Claim::Lost;
            }
            let ended = word & !ARMED | (outcome as u64) << OUTCOME_SHIFT;
            let (ended, claim) = if word & PHASE == Phase::Parked as u64 {
                (ended & !PHASE | Phase::Ready as u64, Claim::Schedule)
            } else if word & PHASE == Phase::Created as u64 {
                (ended, Claim::Schedule)
            } else {
                (ended, Claim::Noticed)
            };
            // AcqRel: acquires what the vthread did before it parked (its context), releases what the waker did.
            match self
                .0
                .compare_exchange_weak(word, ended, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return claim,
                Err(now) => word = now,
            }
        }
    }

    /// The outcome of the wait that has just been claimed; by the vthread.
    pub(crate) fn outcome(&self) -> Outcome {
        let word = self.0.load(Ordering::Acquire);
        Outcome::from_bits((word & OUTCOME) >> OUTCOME_SHIFT).unwrap_or(Outcome::Canceled)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn running() -> StateWord {
        let s = StateWord::new(7);
        s.create();
        s.mount();
        s
    }

    #[test]
    fn a_claim_before_the_switch_is_noticed_by_the_carrier() {
        let s = running();
        let seq = s.open_wait();
        assert_eq!(s.claim(seq, Outcome::Woken), Claim::Noticed);
        assert!(s.is_claimed());
        assert_eq!(s.park_after_switch(), Parked::Claimed);
        assert_eq!(s.read().phase(), Phase::Ready);
        assert_eq!(s.outcome(), Outcome::Woken);
    }

    #[test]
    fn only_the_first_claim_of_the_right_wait_wins() {
        let s = running();
        let seq = s.open_wait();
        assert_eq!(s.park_after_switch(), Parked::Parked);
        assert_eq!(s.claim(seq + 1, Outcome::Woken), Claim::Lost);
        assert_eq!(s.claim(seq, Outcome::TimedOut), Claim::Schedule);
        assert_eq!(s.claim(seq, Outcome::Woken), Claim::Lost);
        assert_eq!(s.outcome(), Outcome::TimedOut);
        assert_eq!(s.read().generation(), 7);
    }

    #[test]
    fn a_slot_is_retired_before_its_generation_wraps() {
        let s = StateWord::new(u32::MAX - 2);
        s.create();
        s.finish();
        assert!(s.free());
        s.create();
        s.finish();
        assert!(!s.free());
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicUsize;

    /// One vthread waits twice, a waker and a timer claim: it is scheduled exactly once for each wait, by the claimant
    /// or by the carrier, and never while it is still on its stack.
    #[test]
    fn loom_each_wait_is_ended_by_exactly_one_claim() {
        loom::model(|| {
            let word = Arc::new(StateWord::new(1));
            let scheduled = Arc::new(AtomicUsize::new(0));
            let on_stack = Arc::new(AtomicUsize::new(1));
            word.create();
            word.mount();
            let seq = word.open_wait();
            let claimants: Vec<_> = [Outcome::Woken, Outcome::TimedOut]
                .into_iter()
                .map(|outcome| {
                    let (word, scheduled, on_stack) =
                        (word.clone(), scheduled.clone(), on_stack.clone());
                    loom::thread::spawn(move || match word.claim(seq, outcome) {
                        Claim::Lost => 0,
                        Claim::Noticed => 1,
                        Claim::Schedule => {
                            assert_eq!(
                                on_stack.load(Ordering::Relaxed),
                                0,
                                "scheduled while on its stack"
                            );
                            scheduled.fetch_add(1, Ordering::Relaxed);
                            1
                        }
                    })
                })
                .collect();
            // The carrier: the switch has saved the context, now it publishes.
            on_stack.store(0, Ordering::Relaxed);
            if word.park_after_switch() == Parked::Claimed {
                scheduled.fetch_add(1, Ordering::Relaxed);
            }
            let won: usize = claimants.into_iter().map(|t| t.join().unwrap()).sum();
            assert_eq!(won, 1);
            assert_eq!(scheduled.load(Ordering::Relaxed), 1);
            assert_eq!(word.read().phase(), Phase::Ready);
            word.mount();
            assert_ne!(word.open_wait(), seq);
        });
    }
}
