//! One mapping, carved into stacks of one class from its lower end.

use std::ptr::NonNull;

use super::class::StackClass;
use super::guard::{self, GuardCounts};
use super::handle::Stack;
use super::sys;
use super::valgrind;

/// Slots below `carved` have their guard and belong to whoever holds their stack; those above have
/// never been touched. Dropping the slab unmaps it: the pool does so when no stack is out.
pub(super) struct Slab {
    base: NonNull<u8>,
    class: StackClass,
    slots: usize,
    carved: usize,
    mprotected: usize,
    /// Valgrind's numbers of the carved stacks; empty outside Valgrind.
    registered: Vec<usize>,
}

// SAFETY: the slab owns its mapping; `base` is not shared.
unsafe impl Send for Slab {}

impl Slab {
    /// Maps about `bytes`, at least one slot. Under a tight limit takes half, then a quarter, and so
    /// on down to one slot; `None` if not even that is to be had.
    pub(super) fn map(class: StackClass, bytes: usize) -> Option<Slab> {
        let slot = class.slot_bytes();
        let mut slots = (bytes / slot).max(1);
        loop {
            if let Some(base) = sys::map(slots * slot) {
                let registered = Vec::new();
                return Some(Slab {
                    base,
                    class,
                    slots,
                    carved: 0,
                    mprotected: 0,
                    registered,
                });
            }
            if slots == 1 {
                return None;
            }
            slots /= 2;
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.slots * self.class.slot_bytes()
    }

    /// How many slots are still to be carved.
    pub(super) fn room(&self) -> usize {
        self.slots - self.carved
    }

    /// Guards the next `count` slots, of which there must be room for, and gives out their stacks,
    /// lowest first. `index` is the number of stacks carved before in the class; it sets the colours.
    pub(super) fn carve(
        &mut self,
        count: usize,
        index: usize,
    ) -> (GuardCounts, impl DoubleEndedIterator<Item = Stack> + use<>) {
        assert!(count <= self.room());
        let (class, slot) = (self.class, self.class.slot_bytes());
        // SAFETY: `carved` is at most `slots`, so this is inside the mapping or one past its end.
        let first = unsafe { self.base.add(self.carved * slot) };
        // SAFETY: the slots are inside the mapping (asserted) and were never given out; a slot
        // starts with its guard.
        let counts = unsafe { guard::install(first, class.guard_bytes(), slot, count) };
        self.carved += count;
        self.mprotected += counts.mprotected;

        let stacks = (0..count).map(move |i| {
            // SAFETY: the end of a carved slot, less the class size: inside its span.
            let limit = unsafe { first.add((i + 1) * slot - class.bytes()) };
            Stack::new(limit, class, index + i)
        });
        if valgrind::running_on_valgrind() {
            for stack in stacks.clone() {
                self.registered
                    .push(valgrind::register(stack.limit(), class.bytes()));
            }
        }
        (counts, stacks)
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        for &id in &self.registered {
            valgrind::deregister(id);
        }
        // SAFETY: mapped in `map`; no stack of it is in use any more (the pool's contract).
        unsafe { sys::unmap(self.base, self.bytes()) };
        guard::release_mprotected(self.mprotected);
    }
}
