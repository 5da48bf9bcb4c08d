//! A deque of pointers with one owner: the owner pushes and pops at the young end, thieves take from the old end.
//!
//! ```text
//!                top                     bottom
//!                 v                        v
//!   --+-----+-----+-----+-----+-----+-----+-----+--     Entry i lies in slot i modulo the length of the ring.
//!     | (taken)   | old |     |     | new |     |       Both ends only count up, but for the step back that
//!   --+-----+-----+-----+-----+-----+-----+-----+--     the owner makes with `bottom` to pop.
//!       thieves: top + 1 -->        <-- owner: pop
//!                                      push: -->
//! ```
//!
//! Chase and Lev, "Dynamic circular work-stealing deque" (SPAA 2005), with the orderings of Lê et al., "Correct and
//! efficient work-stealing for weak memory models" (PPoPP 2013). What is our own:
//!
//! * **Rings are kept.** A ring that became too small is freed with the deque, not before, since a thief may be reading
//!   it. All old ones together are smaller than the present one, so there is nothing to reclaim and nothing to pay for
//!   reclamation; nor does the ring shrink: with the outgrown ones it takes an eighth of what the records of so many
//!   vthreads do.
//! * **Solitary**: where there are no thieves, a pop is a few plain loads and stores.
//!
//! Invariants, by name:
//! * **one taker**: an entry is taken by whoever moves `top` past it or, above `top`, by the owner, who has stepped back
//!   before it looked at `top`, while a thief looks at `top`, then at `bottom`, with a full fence between the two on both
//!   sides: one of them sees the other, and about the last entry `top` decides.
//! * **room**: a slot is written only when `top` was seen past the entry that it held. A thief which still reads that
//!   slot fails to move `top`, and throws away what it read.

use crate::primitive::atomic::{AtomicPtr, AtomicU64, Ordering};
use crate::primitive::pad::CachePadded;
use crate::primitive::{full_fence, prefetch};
use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::Arc;

/// What an attempt to take the oldest entry came to.
#[must_use]
pub(super) enum Taken<T> {
    Entry(NonNull<T>),
    Empty,
    /// Another was faster; there may be more.
    Raced,
}

struct Ring<T> {
    /// A power of two of them.
    slots: Box<[AtomicPtr<T>]>,
    /// The one before, half as long.
    outgrown: *mut Ring<T>,
}

impl<T> Ring<T> {
    fn new(len: usize, outgrown: *mut Ring<T>) -> *mut Ring<T> {
        let empty = || AtomicPtr::new(std::ptr::null_mut());
        Box::into_raw(Box::new(Ring {
            slots: (0..len).map(|_| empty()).collect(),
            outgrown,
        }))
    }

    fn len(&self) -> u64 {
        self.slots.len() as u64
    }

    #[inline(always)]
    fn slot(&self, entry: u64) -> &AtomicPtr<T> {
        let index = entry as usize & (self.slots.len() - 1);
        // SAFETY: the length is a power of two, so the index is below it.
        unsafe { self.slots.get_unchecked(index) }
    }
}

struct Ends<T> {
    /// Apart from what the owner writes with each push and pop: a thief's gain does not take that line from it.
    top: CachePadded<AtomicU64>,
    /// Written by the owner only.
    bottom: AtomicU64,
    /// Written by the owner only.
    ring: AtomicPtr<Ring<T>>,
    solitary: bool,
}

// SAFETY: the deque hands pointers over and does not dereference them; the rings are reached through atomics, and only the
// owner, of whom there is one (`Owner` is not Sync), changes which ring it is.
unsafe impl<T> Send for Ends<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Ends<T> {}

impl<T> Drop for Ends<T> {
    fn drop(&mut self) {
        let mut next = self.ring.load(Ordering::Relaxed);
        while !next.is_null() {
            // SAFETY: made by `Ring::new`, and linked once; both sides are gone.
            next = unsafe { Box::from_raw(next) }.outgrown;
        }
    }
}

/// The owner's end.
pub(super) struct Owner<T> {
    ends: Arc<Ends<T>>,
    /// What `ends.ring` says.
    ring: Cell<NonNull<Ring<T>>>,
    /// What `ends.bottom` says.
    bottom: Cell<u64>,
    /// A value that `top` has had.
    top_seen: Cell<u64>,
}

// SAFETY: one thread at a time uses it, by `&self` of a type that is not Sync; the ring belongs to `ends`.
unsafe impl<T> Send for Owner<T> {}

/// The thieves' end.
pub(super) struct Thieves<T>(Arc<Ends<T>>);

/// The two ends of an empty deque with room for `len` entries, a power of two, and for more as they come. `solitary`:
/// no other thread will take anything.
pub(super) fn new<T>(len: usize, solitary: bool) -> (Owner<T>, Thieves<T>) {
    debug_assert!(len.is_power_of_two());
    let ring = Ring::new(len, std::ptr::null_mut());
    let ends = Arc::new(Ends {
        top: CachePadded(AtomicU64::new(0)),
        bottom: AtomicU64::new(0),
        ring: AtomicPtr::new(ring),
        solitary,
    });
    let owner = Owner {
        ends: ends.clone(),
        // SAFETY: from a box.
        ring: Cell::new(unsafe { NonNull::new_unchecked(ring) }),
        bottom: Cell::new(0),
        top_seen: Cell::new(0),
    };
    (owner, Thieves(ends))
}

impl<T> Owner<T> {
    #[inline(always)]
    fn ring(&self) -> &Ring<T> {
        // SAFETY: the ring lives as long as `ends`.
        unsafe { self.ring.get().as_ref() }
    }

    #[inline(always)]
    fn set_bottom(&self, bottom: u64) {
        self.bottom.set(bottom);
        // Release, in pushes and steps back alike: a thief that reads any value sees the entries below it, what they point
        // to, and the ring that they are in.
        self.ends.bottom.store(bottom, Ordering::Release);
    }

    /// Adds the youngest entry.
    #[inline]
    pub(super) fn push(&self, entry: NonNull<T>) {
        let bottom = self.bottom.get();
        if bottom - self.top_seen.get() >= self.ring().len() {
            self.make_room(bottom);
        }
        self.ring()
            .slot(bottom)
            .store(entry.as_ptr(), Ordering::Relaxed);
        self.set_bottom(bottom + 1);
    }

    /// Looks for entries that thieves have taken; if there are none the ring grows.
    #[cold]
    fn make_room(&self, bottom: u64) {
        // Acquire: pairs with the thief that moved it, which had read its slot before (*room*).
        let top = self.ends.top.load(Ordering::Acquire);
        self.top_seen.set(top);
        let ring = self.ring();
        if bottom - top < ring.len() {
            return;
        }
        let larger = Ring::new(2 * ring.slots.len(), self.ring.get().as_ptr());
        // SAFETY: made just now, from a box.
        let larger = unsafe { NonNull::new_unchecked(larger) };
        for entry in top..bottom {
            let value = ring.slot(entry).load(Ordering::Relaxed);
            // SAFETY: as above.
            let slot = unsafe { larger.as_ref() }.slot(entry);
            slot.store(value, Ordering::Relaxed);
        }
        self.ring.set(larger);
        // Release: who sees the ring sees its entries. A thief with the old one finds the same entries there: from here on
        // that is only read.
        self.ends.ring.store(larger.as_ptr(), Ordering::Release);
    }

    /// Takes the youngest entry.
    #[inline]
    pub(super) fn pop(&self) -> Option<NonNull<T>> {
        let ends = &*self.ends;
        let bottom = self.bottom.get();
        // `top` never goes back, so an empty deque is seen as such without a fence.
        let top = ends.top.load(Ordering::Relaxed);
        if top >= bottom {
            return None;
        }
        let bottom = bottom - 1;
        let ring = self.ring();
        // The next one down is wanted soon; at the end that is an older pointer, which does no harm.
        let next = ring.slot(bottom.wrapping_sub(1)).load(Ordering::Relaxed);
        prefetch::line(next);
        let youngest = ring.slot(bottom).load(Ordering::Relaxed);
        self.set_bottom(bottom);
        if !ends.solitary {
            // One taker: the step back is seen by every thief that does not see us past its entry.
            full_fence();
            let top = ends.top.load(Ordering::Relaxed);
            if top >= bottom {
                // The last one: for whoever moves `top`. Relaxed is enough: we wrote the entry ourselves.
                let won = top == bottom
                    && ends
                        .top
                        .compare_exchange(top, top + 1, Ordering::SeqCst, Ordering::Relaxed)
                        .is_ok();
                self.set_bottom(bottom + 1);
                return if won { NonNull::new(youngest) } else { None };
            }
        }
        NonNull::new(youngest)
    }
}

impl<T> Owner<T> {
    /// Takes the oldest entry, as thieves do, but knows where the young end is.
    #[inline]
    pub(super) fn pop_oldest(&self) -> Option<NonNull<T>> {
        let ends = &*self.ends;
        let bottom = self.bottom.get();
        let mut top = ends.top.load(Ordering::Relaxed);
        while top < bottom {
            let ring = self.ring();
            let entry = ring.slot(top).load(Ordering::Relaxed);
            // The one after it is wanted soon.
            prefetch::line(ring.slot(top + 1).load(Ordering::Relaxed));
            if ends.solitary {
                ends.top.store(top + 1, Ordering::Relaxed);
                return NonNull::new(entry);
            }
            // SeqCst as a thief's. Nothing has to be acquired: the owner wrote the entry itself.
            match ends
                .top
                .compare_exchange_weak(top, top + 1, Ordering::SeqCst, Ordering::Relaxed)
            {
                Ok(_) => return NonNull::new(entry),
                Err(now) => top = now,
            }
        }
        None
    }

    #[cfg(all(test, not(loom)))]
    fn len(&self) -> usize {
        let top = self.ends.top.load(Ordering::Relaxed);
        self.bottom.get().saturating_sub(top) as usize
    }
}

impl<T> Thieves<T> {
    /// About how many entries there are; not 0 if one was published before a full fence that comes before this call.
    pub(super) fn len(&self) -> usize {
        let top = self.0.top.load(Ordering::Acquire);
        full_fence();
        let bottom = self.0.bottom.load(Ordering::Acquire);
        bottom.saturating_sub(top) as usize
    }

    /// Takes the oldest entry. Where the deque is solitary, only by the owner's thread.
    pub(super) fn take_oldest(&self) -> Taken<T> {
        let ends = &*self.0;
        // Acquire: pairs with whoever moved it, so what that one saw of `bottom` and the ring is not older here.
        let top = ends.top.load(Ordering::Acquire);
        // One taker: see `pop`.
        full_fence();
        // Acquire: the entries below it, and their ring.
        let bottom = ends.bottom.load(Ordering::Acquire);
        if top >= bottom {
            return Taken::Empty;
        }
        // SAFETY: rings live as long as `ends`. Acquire: what it was filled with.
        let ring = unsafe { &*ends.ring.load(Ordering::Acquire) };
        let entry = ring.slot(top).load(Ordering::Relaxed);
        // Release: the read of the slot comes before the owner's next write to it (*room*). SeqCst besides, as in the
        // paper.
        match ends
            .top
            .compare_exchange(top, top + 1, Ordering::SeqCst, Ordering::Relaxed)
        {
            Ok(_) => NonNull::new(entry).map_or(Taken::Empty, Taken::Entry),
            Err(_) => Taken::Raced,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    /// The same random steps on crossbeam's deques, young end and old.
    #[test]
    fn it_does_what_crossbeams_deque_does() {
        let mut random = 0x2545_F491_4F6C_DD1Du64;
        for fifo in [false, true] {
            for solitary in [false, true] {
                let (owner, thieves) = new(2, solitary);
                let reference = if fifo {
                    crossbeam_deque::Worker::new_fifo()
                } else {
                    crossbeam_deque::Worker::new_lifo()
                };
                for step in 0..5000usize {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    match random % 8 {
                        // In long runs, so that the ring grows.
                        0..4 if step % 512 < 300 => {
                            owner.push(entry(step));
                            reference.push(entry(step).addr());
                        }
                        4..7 => {
                            let popped = if fifo {
                                owner.pop_oldest()
                            } else {
                                owner.pop()
                            };
                            assert_eq!(popped.map(NonNull::addr), reference.pop());
                        }
                        _ => {
                            let stolen = match thieves.take_oldest() {
                                Taken::Entry(entry) => Some(entry.addr()),
                                Taken::Empty | Taken::Raced => None,
                            };
                            assert_eq!(stolen, reference.stealer().steal().success());
                        }
                    }
                    assert_eq!(owner.len(), reference.len());
                }
            }
        }
    }

    fn entry(number: usize) -> NonNull<usize> {
        NonNull::new(std::ptr::without_provenance_mut((number + 1) * 8)).unwrap()
    }

    fn number(entry: NonNull<usize>) -> usize {
        entry.as_ptr().addr() / 8 - 1
    }

    #[test]
    fn the_owner_pops_the_youngest_and_the_oldest_while_the_ring_grows() {
        for solitary in [false, true] {
            let (owner, thieves) = new(2, solitary);
            let oldest = || match thieves.take_oldest() {
                Taken::Entry(entry) => Some(number(entry)),
                _ => None,
            };
            assert!(owner.pop().is_none() && oldest().is_none());
            (0..100).for_each(|i| owner.push(entry(i)));
            assert_eq!(thieves.len(), 100);
            assert_eq!(oldest(), Some(0));
            assert_eq!(oldest(), Some(1));
            (2..100)
                .rev()
                .for_each(|i| assert_eq!(owner.pop().map(number), Some(i)));
            assert!(owner.pop().is_none() && oldest().is_none());
            assert_eq!(thieves.len(), 0);
        }
    }

    #[test]
    fn a_ring_that_thieves_make_room_in_does_not_grow() {
        let (owner, thieves) = new(4, false);
        for i in 0..1000 {
            owner.push(entry(i));
            if i >= 3 {
                let Taken::Entry(oldest) = thieves.take_oldest() else {
                    panic!("there are four");
                };
                assert_eq!(number(oldest), i - 3);
            }
        }
        assert_eq!(owner.ring().len(), 4);
    }

    #[test]
    fn two_thieves_and_the_owner_take_each_entry_once() {
        const ENTRIES: usize = if cfg!(miri) { 300 } else { 200_000 };
        let (owner, thieves) = new(4, false);
        let taken: Vec<_> = (0..ENTRIES).map(|_| AtomicUsize::new(0)).collect();
        let count = |entry| {
            taken[number(entry)].fetch_add(1, Ordering::Relaxed);
        };
        let left = AtomicUsize::new(ENTRIES);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while left.load(Ordering::Acquire) > 0 {
                        match thieves.take_oldest() {
                            Taken::Entry(entry) => {
                                count(entry);
                                left.fetch_sub(1, Ordering::AcqRel);
                            }
                            Taken::Empty => std::thread::yield_now(),
                            Taken::Raced => {}
                        }
                    }
                });
            }
            let take = |found: Option<NonNull<usize>>| {
                if let Some(entry) = found {
                    count(entry);
                    left.fetch_sub(1, Ordering::AcqRel);
                }
            };
            for i in 0..ENTRIES {
                owner.push(entry(i));
                // Mostly near empty, where they meet, and now and then some more.
                if i % 1000 > 20 {
                    take(owner.pop());
                }
                if i % 61 == 0
                    && let Taken::Entry(oldest) = thieves.take_oldest()
                {
                    take(Some(oldest));
                }
            }
            while left.load(Ordering::Acquire) > 0 {
                take(owner.pop());
            }
        });
        assert!(taken.iter().all(|t| t.load(Ordering::Relaxed) == 1));
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;

    /// The payload is a plain cell, so that loom sees an entry that is handed over without being published.
    type Entry = loom::cell::UnsafeCell<u32>;

    fn entry(number: u32) -> NonNull<Entry> {
        NonNull::from(Box::leak(Box::new(Entry::new(number))))
    }

    fn number(entry: NonNull<Entry>) -> u32 {
        // SAFETY: from a leaked box; whoever takes an entry has it alone (what the models check).
        let entry = unsafe { Box::from_raw(entry.as_ptr()) };
        // SAFETY: as above.
        entry.with_mut(|at| unsafe { *at })
    }

    fn steal(thieves: &Thieves<Entry>, times: usize) -> Vec<u32> {
        let mut got = Vec::new();
        for _ in 0..times {
            if let Taken::Entry(entry) = thieves.take_oldest() {
                got.push(number(entry));
            }
        }
        got
    }

    fn drain(owner: &Owner<Entry>, got: &mut Vec<u32>) {
        while let Some(entry) = owner.pop() {
            got.push(number(entry));
        }
    }

    /// The owner pops while a thief steals, down to the last entry: each is taken once and none is lost.
    #[test]
    fn loom_owner_and_thief_take_each_entry_once() {
        loom::model(|| {
            let (owner, thieves) = new(2, false);
            owner.push(entry(1));
            owner.push(entry(2));
            let thief = loom::thread::spawn(move || steal(&thieves, 2));
            let mut got = Vec::new();
            got.extend(owner.pop().map(number));
            owner.push(entry(3));
            drain(&owner, &mut got);
            got.extend(thief.join().unwrap());
            got.sort_unstable();
            assert_eq!(got, [1, 2, 3]);
        });
    }

    /// The owner takes the oldest, as a thief does: each entry is taken once, and each by itself in order.
    #[test]
    fn loom_owner_and_thief_at_the_old_end_take_each_entry_once() {
        loom::model(|| {
            let (owner, thieves) = new(2, false);
            owner.push(entry(1));
            owner.push(entry(2));
            let thief = loom::thread::spawn(move || steal(&thieves, 2));
            let mut got = Vec::new();
            got.extend(owner.pop_oldest().map(number));
            owner.push(entry(3));
            got.extend(std::iter::from_fn(|| owner.pop_oldest()).map(number));
            assert!(got.is_sorted());
            let stolen = thief.join().unwrap();
            assert!(stolen.is_sorted());
            got.extend(stolen);
            got.sort_unstable();
            assert_eq!(got, [1, 2, 3]);
        });
    }

    /// The ring grows under a thief, and its slots are used again: nothing is read that was overwritten.
    #[test]
    fn loom_a_ring_that_grows_or_wraps_under_a_thief_loses_nothing() {
        loom::model(|| {
            let (owner, thieves) = new(1, false);
            owner.push(entry(1));
            let thief = loom::thread::spawn(move || steal(&thieves, 2));
            // Either the thief has made room or the ring grows.
            owner.push(entry(2));
            let mut got = Vec::new();
            drain(&owner, &mut got);
            got.extend(thief.join().unwrap());
            got.sort_unstable();
            assert_eq!(got, [1, 2]);
        });
    }

    /// Two thieves at the last entry, which the owner wants too.
    #[test]
    fn loom_the_last_entry_has_one_taker() {
        loom::model(|| {
            let (owner, thieves) = new(2, false);
            owner.push(entry(1));
            let thieves = loom::sync::Arc::new(thieves);
            let other = thieves.clone();
            let thief = loom::thread::spawn(move || steal(&other, 1));
            let second = loom::thread::spawn(move || steal(&thieves, 1));
            let mut got = Vec::new();
            drain(&owner, &mut got);
            got.extend(thief.join().unwrap());
            got.extend(second.join().unwrap());
            drain(&owner, &mut got);
            assert_eq!(got, [1]);
        });
    }
}
