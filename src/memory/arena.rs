//! Arenas: bump memory owned by one vthread, reclaimed as a whole at its end.
//!
//! A vthread takes an arena from the pool of the core it runs on, owns it wherever it runs, and gives
//! it back to the core it ends on. There is no arena shared by a core: with overlapping connections
//! such a one is never empty, never reset, and grows for ever.
//!
//! ```text
//!   Arena:  first    one chunk of arena_bytes, kept for the next owner
//!           overflow what did not fit, freed when the arena is given back
//! ```
//!
//! Invariants:
//!
//! - **one owner**: a pooled arena is in exactly one slot of one shard, or with the caller of `take`.
//! - **flat**: a pooled arena holds at most one chunk of the configured size, and a shard at most
//!   [`KEPT`] arenas; so memory follows the arenas in use at a time, not those ever used.
//! - **a bit owns its slot**: a shard's bit is set only after the slot was filled, and whoever clears
//!   the bit alone may empty the slot.

use std::alloc::Layout;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use bumpalo::Bump;

/// Arenas kept per core: one bit each in a word.
pub const KEPT: usize = u64::BITS as usize;
/// The largest alignment served: a page.
const LARGEST_ALIGN: usize = 4096;
/// The overflow starts with a chunk of this size at most; bumpalo doubles from there.
const FIRST_OVERFLOW_BYTES: usize = 64 * 1024;

/// Bump memory of one vthread. `Send`, not `Sync`: it moves with its owner.
pub struct Arena {
    /// `None` until the first allocation. Never grows beyond its first chunk.
    first: Option<Bump>,
    /// `None` while `first` suffices. Once there, everything goes here: asking a full `first` again
    /// would walk bumpalo's slow path each time.
    overflow: Option<Bump>,
    /// What `totals` was last told about this arena.
    counted: usize,
    arena_bytes: usize,
    totals: Arc<Totals>,
}

/// Sums over all arenas of a pool. Touched when an arena or a chunk comes or goes, not when an arena
/// changes hands. Relaxed throughout: no other memory hangs on them.
#[derive(Default)]
struct Totals {
    arenas: AtomicUsize,
    bytes: AtomicUsize,
}

impl Arena {
    fn new(arena_bytes: usize, totals: &Arc<Totals>) -> Arena {
        totals.arenas.fetch_add(1, Ordering::Relaxed);
        Arena {
            first: None,
            overflow: None,
            counted: 0,
            arena_bytes,
            totals: Arc::clone(totals),
        }
    }

    /// `bytes` of uninitialised memory that lives until the arena is given back. `None`: `align` is
    /// not a power of two or above 4096, `bytes` is absurd, or there is no memory.
    pub fn alloc(&mut self, bytes: usize, align: usize) -> Option<NonNull<u8>> {
        if align > LARGEST_ALIGN {
            return None;
        }
        let layout = Layout::from_size_align(bytes, align).ok()?;
        if self.overflow.is_none() {
            let first = match &mut self.first {
                Some(first) => first,
                none => none.insert(first_chunk(self.arena_bytes)?),
            };
            if let Ok(memory) = first.try_alloc_layout(layout) {
                if self.counted == 0 {
                    self.count();
                }
                return Some(memory);
            }
            // Kept only if it serves the request: an absurd one must not cost the rest of `first`.
            let capacity = self.arena_bytes.min(FIRST_OVERFLOW_BYTES);
            let overflow = Bump::try_with_capacity(capacity).ok()?;
            let memory = overflow.try_alloc_layout(layout).ok()?;
            self.overflow = Some(overflow);
            self.count();
            return Some(memory);
        }
        let memory = self.overflow.as_ref()?.try_alloc_layout(layout).ok();
        self.count();
        memory
    }

    /// Bytes this arena holds from the heap, used or not.
    pub fn held_bytes(&self) -> usize {
        let held = |bump: &Option<Bump>| bump.as_ref().map_or(0, Bump::allocated_bytes);
        held(&self.first) + held(&self.overflow)
    }

    fn reset(&mut self) {
        self.overflow = None;
        if let Some(first) = &mut self.first {
            first.reset();
        }
        self.count();
    }

    /// Tells the totals what changed; touches them only when a chunk came or went.
    fn count(&mut self) {
        let held = self.held_bytes();
        if held != self.counted {
            // Wraps for a decrease, as the sum does.
            self.totals
                .bytes
                .fetch_add(held.wrapping_sub(self.counted), Ordering::Relaxed);
            self.counted = held;
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        self.totals.bytes.fetch_sub(self.counted, Ordering::Relaxed);
        self.totals.arenas.fetch_sub(1, Ordering::Relaxed);
    }
}

fn first_chunk(arena_bytes: usize) -> Option<Bump> {
    let bump = Bump::try_with_capacity(arena_bytes).ok()?;
    bump.set_allocation_limit(Some(bump.allocated_bytes()));
    Some(bump)
}

/// A snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArenaCounts {
    /// Heap bytes of all arenas, in use and pooled.
    pub bytes: usize,
    /// Arenas with an owner.
    pub live: usize,
    /// Arenas waiting for one.
    pub pooled: usize,
}

/// The arenas of one runtime, sharded by core. All of it lock-free.
pub struct ArenaPool {
    shards: Box<[Shard]>,
    arena_bytes: usize,
    totals: Arc<Totals>,
}

/// Arenas given back on one core. Touched by that core, and by others only when theirs is empty.
#[repr(align(128))]
struct Shard {
    filled: AtomicU64,
    slots: [AtomicPtr<Arena>; KEPT],
}

impl ArenaPool {
    /// Allocates no arena yet. `cores` of 0 counts as 1.
    pub fn new(cores: usize, arena_bytes: usize) -> ArenaPool {
        ArenaPool {
            shards: (0..cores.max(1)).map(|_| Shard::new()).collect(),
            arena_bytes,
            totals: Arc::default(),
        }
    }

    /// An empty arena, a used one if there is any. Its memory comes with the first allocation.
    pub fn take(&self, core: usize) -> Box<Arena> {
        let own = core % self.shards.len();
        let (before, from_own) = self.shards.split_at(own);
        from_own
            .iter()
            .chain(before)
            .find_map(Shard::pop)
            .unwrap_or_else(|| Box::new(Arena::new(self.arena_bytes, &self.totals)))
    }

    /// Ends the life of all memory allocated from `arena`.
    pub fn give_back(&self, core: usize, mut arena: Box<Arena>) {
        arena.reset();
        let shard = &self.shards[core % self.shards.len()];
        // A full shard drops it.
        shard.push(arena);
    }

    /// Frees all pooled arenas.
    pub fn trim(&self) {
        for shard in &self.shards {
            while shard.pop().is_some() {}
        }
    }

    pub fn counts(&self) -> ArenaCounts {
        let filled = |shard: &Shard| shard.filled.load(Ordering::Relaxed).count_ones() as usize;
        let pooled = self.shards.iter().map(filled).sum();
        ArenaCounts {
            bytes: self.totals.bytes.load(Ordering::Relaxed),
            live: self
                .totals
                .arenas
                .load(Ordering::Relaxed)
                .saturating_sub(pooled),
            pooled,
        }
    }
}

impl Drop for ArenaPool {
    fn drop(&mut self) {
        self.trim();
    }
}

impl Shard {
    fn new() -> Shard {
        Shard {
            filled: AtomicU64::new(0),
            slots: [const { AtomicPtr::new(ptr::null_mut()) }; KEPT],
        }
    }

    fn pop(&self) -> Option<Box<Arena>> {
        let mut filled = self.filled.load(Ordering::Relaxed);
        while filled != 0 {
            let bit = filled & filled.wrapping_neg();
            // Acquire pairs with the Release in `push`: what the last owner did to the arena, and
            // the slot's pointer, are seen by the next.
            let before = self.filled.fetch_and(!bit, Ordering::Acquire);
            if before & bit != 0 {
                // "A bit owns its slot": it was cleared here, so until the slot is null nobody else
                // writes it. Release pairs with the exchange in `push`: its next user comes after.
                let slot = &self.slots[bit.trailing_zeros() as usize];
                let arena = slot.load(Ordering::Relaxed);
                slot.store(ptr::null_mut(), Ordering::Release);
                debug_assert!(!arena.is_null());
                // SAFETY: from `Box::into_raw` in `push`, and taken out of its slot once.
                return Some(unsafe { Box::from_raw(arena) });
            }
            filled = before;
        }
        None
    }

    /// Drops the arena if all slots are filled.
    fn push(&self, arena: Box<Arena>) {
        let arena = Box::into_raw(arena);
        let mut free = !self.filled.load(Ordering::Relaxed);
        while free != 0 {
            let index = free.trailing_zeros() as usize;
            // A slot without its bit may be on its way in or out; then try the next.
            let placed = self.slots[index].compare_exchange(
                ptr::null_mut(),
                arena,
                Ordering::Acquire,
                Ordering::Relaxed,
            );
            if placed.is_ok() {
                self.filled.fetch_or(1 << index, Ordering::Release);
                return;
            }
            free &= free - 1;
        }
        // SAFETY: from `Box::into_raw` above, and placed nowhere.
        drop(unsafe { Box::from_raw(arena) });
    }
}

#[cfg(test)]
mod tests;
