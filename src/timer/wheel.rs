//! A hierarchical timing wheel: O(1) arm and cancel, no allocation after `new`.
//!
//! Time is cut into ticks of 2^14 ns. A level has 64 slots; a slot of level `l` spans 64^l ticks. Nine levels span every
//! `u64` of nanoseconds, so nothing is ever re-inserted for being too far away.
//!
//! ```text
//!  tick   ...cccccc bbbbbb aaaaaa          aaaaaa: slot of level 0, bbbbbb: of level 1, ...
//!  level  the highest group of six bits in which the node's tick differs from `elapsed`
//!
//!  level 1   [ ][ ][e][x][ ]...[x]         e: where `elapsed` is, x: occupied
//!                  /   \
//!  level 0   [ ]...[e]...[x]...[ ]         everything here is earlier than every x of level 1
//! ```
//!
//! Invariants:
//! - **same slot, same prefix**: a node at level `l` agrees with `elapsed` in all bits above that level, and lies in a
//!   later slot (at level 0: in this or a later one). Hence the first occupied slot of the lowest occupied level holds
//!   the earliest node. It survives moving `elapsed` forward as long as `elapsed` stays before every occupied slot's
//!   start, which is why a slot is emptied into the drain list at the moment `elapsed` reaches its start.
//! - **`elapsed` <= `now`**: `now` is the tick of the latest `advance`, `elapsed` how far the slots were worked off; they
//!   differ while an `advance` that hit its bound is to be continued.
//! - **never early**: a deadline is rounded up to a tick, the present is rounded down.
//! - **the drain list** holds what was taken out of one slot and not looked at yet. Each of its nodes is either due or
//!   goes to a lower level. It is an ordinary list: cancel works on it.
//! - **occupied**: a slot's bit is set exactly if its list is not empty; a level's bit exactly if any slot's is.

#![allow(unsafe_code)]

use std::ptr::NonNull;

use super::node::{TimerKey, TimerNode, UNLINKED};

const TICK_SHIFT: u32 = 14;
/// How coarse the wheel is: a timer fires at most this much after its deadline, relative to `advance`.
pub const TICK_NS: u64 = 1 << TICK_SHIFT;

const SLOT_BITS: u32 = 6;
const SLOTS_PER_LEVEL: usize = 1 << SLOT_BITS;
const LEVELS: usize = 9;
/// The list behind the slots of all levels: see the module head.
const DRAIN: usize = LEVELS * SLOTS_PER_LEVEL;

/// The latest deadline there is: `u64::MAX` means "for ever" and is never armed.
const LAST_NS: u64 = u64::MAX - 1;
/// The tick to which deadlines of the last 2^14 ns are rounded up. It begins after `u64::MAX`, so `LAST_NS` stands for it
/// in both directions.
const LAST_TICK: u64 = 1 << (u64::BITS - TICK_SHIFT);
const _: () = assert!(LAST_TICK >> (SLOT_BITS * LEVELS as u32) == 0);

/// The first tick at which a deadline has passed.
fn tick_of_deadline(deadline_ns: u64) -> u64 {
    deadline_ns.div_ceil(TICK_NS)
}

/// The last tick that has begun.
fn tick_of_now(now_ns: u64) -> u64 {
    if now_ns >= LAST_NS {
        LAST_TICK
    } else {
        now_ns >> TICK_SHIFT
    }
}

/// The first nanosecond at which `tick_of_now` gives this tick.
fn start_of_tick(tick: u64) -> u64 {
    if tick >= LAST_TICK {
        LAST_NS
    } else {
        tick << TICK_SHIFT
    }
}

#[derive(Clone, Copy)]
struct Slot {
    head: Option<NonNull<TimerNode>>,
    /// Not later than the earliest node in the list; meaningless while the list is empty. It lets a sleeper sleep up to
    /// the timer itself, not only up to the start of the slot. Cancel leaves it alone.
    earliest: u64,
}

/// A timing wheel for one caller at a time; [`SharedWheel`](super::SharedWheel) is the one with a lock.
pub struct Wheel {
    slots: Box<[Slot]>,
    occupied: [u64; LEVELS],
    /// Bit `l`: level `l` has an occupied slot.
    levels: u32,
    /// Ticks before this one have been worked off, and this one too but for what was armed since.
    elapsed: u64,
    /// The latest tick `advance` was told.
    now: u64,
    len: usize,
}

// SAFETY: the wheel reaches nodes only by the pointers given to `arm`, whose contract makes them usable from whichever
// thread holds the wheel.
unsafe impl Send for Wheel {}

impl Wheel {
    /// A wheel whose time begins at `start_ns`.
    pub fn new(start_ns: u64) -> Self {
        let empty = Slot {
            head: None,
            earliest: 0,
        };
        let now = tick_of_now(start_ns);
        Self {
            slots: vec![empty; DRAIN + 1].into_boxed_slice(),
            occupied: [0; LEVELS],
            levels: 0,
            elapsed: now,
            now,
            len: 0,
        }
    }

    /// How many nodes are armed.
    pub fn len(&self) -> usize {
        self.len
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts `node` into the wheel. A deadline that has passed fires at the next `advance`, whatever its `now_ns`.
    ///
    /// `deadline_ns` is not `u64::MAX`: who waits for ever arms nothing.
    ///
    /// # Safety
    /// `node` is in no wheel. Until it fired, or until `cancel` on this wheel returned, it stays where it is, is not
    /// touched by its owner, and may be accessed by whichever thread holds the wheel.
    pub unsafe fn arm(&mut self, node: NonNull<TimerNode>, deadline_ns: u64) {
        debug_assert_ne!(deadline_ns, u64::MAX, "for ever is never armed");
        // SAFETY: by contract the node is alive and ours to touch.
        let fields = unsafe { node.as_ref() };
        debug_assert_eq!(fields.slot.get(), UNLINKED, "the node is already armed");
        fields.deadline_ns.set(deadline_ns);
        // What is past goes to the present tick and not to `elapsed`: waiters that keep arming passed deadlines would
        // otherwise keep an `advance` with a bound from ever reaching the later ticks.
        let tick = tick_of_deadline(deadline_ns).max(self.now);
        // SAFETY: the node is in no list, and from here on it is pinned (both by contract).
        unsafe { self.link(node, tick) };
        self.len += 1;
    }

    /// Takes `node` out of the wheel; says whether it was in it.
    ///
    /// # Safety
    /// `node` is alive, and it is in this wheel or in none.
    pub unsafe fn cancel(&mut self, node: NonNull<TimerNode>) -> bool {
        // SAFETY: by contract the node is alive; if it is armed it is ours to touch.
        if unsafe { node.as_ref() }.slot.get() == UNLINKED {
            return false;
        }
        // SAFETY: the node is in a list, and by contract it is one of ours.
        unsafe { self.unlink(node) };
        self.len -= 1;
        true
    }

    /// Moves time to `now_ns` (or leaves it, if that is earlier than before) and hands the key of each node that is due
    /// to `fire`, in no particular order within a tick. The node is out of the wheel by then, and not touched again.
    ///
    /// Looks at no more than `max` nodes, be it to fire them or to move them to a lower level; says whether there is more
    /// to do at this `now_ns`, in which case the next call goes on.
    #[must_use = "true: call again, or what is due stays"]
    pub fn advance(&mut self, now_ns: u64, max: usize, mut fire: impl FnMut(TimerKey)) -> bool {
        self.now = self.now.max(tick_of_now(now_ns));
        for _ in 0..max {
            let Some(node) = self.take_up() else {
                return false;
            };
            // SAFETY: a node in a list is alive and ours to touch (contract of `arm`).
            let fields = unsafe { node.as_ref() };
            let (tick, key) = (tick_of_deadline(fields.deadline_ns.get()), fields.key());
            // SAFETY: it was found in the drain list.
            unsafe { self.unlink(node) };
            if tick <= self.now {
                self.len -= 1;
                // The node may be gone as soon as its owner learns of this; and if `fire` unwinds, the wheel is whole.
                fire(key);
            } else {
                // SAFETY: just unlinked, and still pinned: neither fired nor cancelled.
                unsafe { self.link(node, tick) };
            }
        }
        self.take_up().is_some()
    }

    /// When to call `advance` next: never later than the moment at which the earliest node fires, and mostly that moment.
    /// It is earlier if the earliest node was cancelled, or in the past if something is due; advancing to it always gets
    /// something done. `None`: nothing is armed.
    pub fn next_deadline(&self) -> Option<u64> {
        if self.slots[DRAIN].head.is_some() {
            return Some(start_of_tick(self.elapsed));
        }
        let (slot, _) = self.first_occupied()?;
        Some(start_of_tick(self.slots[slot].earliest))
    }

    /// The next node to look at up to `now`, which is the head of the drain list; refills that from the slots.
    fn take_up(&mut self) -> Option<NonNull<TimerNode>> {
        if let Some(node) = self.slots[DRAIN].head {
            return Some(node);
        }
        let (slot, start) = match self.first_occupied() {
            Some((slot, start)) if start <= self.now => (slot, start),
            _ => {
                self.elapsed = self.now;
                return None;
            }
        };
        self.elapsed = start;
        let head = self.slots[slot].head.take();
        self.vacate(slot);
        self.slots[DRAIN].head = head;
        if let Some(head) = head {
            // SAFETY: a node in a list is alive and ours to touch (contract of `arm`).
            unsafe { head.as_ref() }.slot.set(DRAIN as u32);
        }
        head
    }

    /// The occupied slot that holds the earliest node, and the tick at which it starts.
    fn first_occupied(&self) -> Option<(usize, u64)> {
        if self.levels == 0 {
            return None;
        }
        let level = self.levels.trailing_zeros();
        let in_level = self.occupied[level as usize].trailing_zeros();
        let shift = level * SLOT_BITS;
        let prefix = self.elapsed >> (shift + SLOT_BITS) << (shift + SLOT_BITS);
        let start = prefix | u64::from(in_level) << shift;
        Some((
            level as usize * SLOTS_PER_LEVEL + in_level as usize,
            // At level 0 this is not before `elapsed`; above it, it is after.
            start,
        ))
    }

    /// Puts a node into the slot of `tick`, which is not before `elapsed`.
    ///
    /// # Safety
    /// The node is alive, pinned, and in no list.
    unsafe fn link(&mut self, node: NonNull<TimerNode>, tick: u64) {
        let differing = (tick ^ self.elapsed) | (SLOTS_PER_LEVEL as u64 - 1);
        let level = (u64::BITS - 1 - differing.leading_zeros()) / SLOT_BITS;
        let in_level = (tick >> (level * SLOT_BITS)) as usize % SLOTS_PER_LEVEL;
        let index = level as usize * SLOTS_PER_LEVEL + in_level;
        self.occupied[level as usize] |= 1 << in_level;
        self.levels |= 1 << level;

        let slot = &mut self.slots[index];
        // SAFETY: alive by contract.
        let fields = unsafe { node.as_ref() };
        fields.prev.set(None);
        fields.next.set(slot.head);
        fields.slot.set(index as u32);
        match slot.head {
            Some(head) => {
                // SAFETY: a node in a list is alive and ours to touch (contract of `arm`).
                unsafe { head.as_ref() }.prev.set(Some(node));
                slot.earliest = slot.earliest.min(tick);
            }
            None => slot.earliest = tick,
        }
        slot.head = Some(node);
    }

    /// Takes a node out of its list.
    ///
    /// # Safety
    /// The node is in one of this wheel's lists.
    unsafe fn unlink(&mut self, node: NonNull<TimerNode>) {
        // SAFETY: a node in a list is alive and ours to touch (contract of `arm`).
        let fields = unsafe { node.as_ref() };
        let (prev, next) = (fields.prev.get(), fields.next.get());
        // SAFETY: as above, for its neighbour.
        let next_fields = next.map(|next| unsafe { next.as_ref() });
        if let Some(next) = next_fields {
            next.prev.set(prev);
        }
        match prev {
            // SAFETY: as above, for its other neighbour.
            Some(prev) => unsafe { prev.as_ref() }.next.set(next),
            None => {
                let slot = fields.slot.get();
                self.slots[slot as usize].head = next;
                match next_fields {
                    // The new first node is the one that has to know the list.
                    Some(next) => next.slot.set(slot),
                    None => self.vacate(slot as usize),
                }
            }
        }
        fields.slot.set(UNLINKED);
    }

    /// Notes that a slot's list has become empty.
    fn vacate(&mut self, slot: usize) {
        if slot == DRAIN {
            return;
        }
        let level = slot / SLOTS_PER_LEVEL;
        self.occupied[level] &= !(1 << (slot % SLOTS_PER_LEVEL));
        if self.occupied[level] == 0 {
            self.levels &= !(1 << level);
        }
    }
}
