//! The stacks of one runtime: its slabs, and the free stacks that no core holds.
//!
//! Shared by all cores, entered once per batch. Per class there are two locks: `slabs` is held while
//! new stacks are carved, which takes system calls; `free` only for moves between lists. So a core
//! that gives stacks back never waits for the kernel. Order: `slabs` before `free`; `ledger` alone.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::StackError;
use super::class::StackClass;
use super::guard::{self, GuardCounts, GuardMode};
use super::handle::Stack;
use super::ledger::{Gauge, Ledger};
use super::slab::Slab;
use super::sys;

const FIRST_SLAB_BYTES: usize = 1 << 20;
const LARGEST_SLAB_BYTES: usize = 256 << 20;
/// Stacks carved at a time: 64 first, so that a small program starts fast, then twice as many.
const FIRST_BATCH: usize = 64;
/// Stacks whose pages are discarded between two looks at the free list.
const DISCARD_BATCH: usize = 32;

/// A snapshot; numbers of different kinds may be a few operations apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StackCounts {
    /// Stacks with a holder.
    pub live: usize,
    /// The most there were at a time; with several cores it may read high by what their caches hold.
    pub live_max: usize,
    /// Free stacks in cores' caches.
    pub cached: usize,
    /// Free stacks in the pool.
    pub free: usize,
    /// Address space of all slabs.
    pub mapped_bytes: usize,
    /// Takes that failed.
    pub failures: usize,
    pub guards_installed: usize,
    pub guards_mprotected: usize,
    pub unguarded: usize,
}

pub struct StackPool {
    classes: [ClassPool; StackClass::COUNT],
    ledger: Mutex<Ledger>,
    mapped_bytes: AtomicUsize,
    failures: AtomicUsize,
    guards_installed: AtomicUsize,
    guards_mprotected: AtomicUsize,
    unguarded: AtomicUsize,
}

#[derive(Default)]
struct ClassPool {
    slabs: Mutex<Slabs>,
    free: Mutex<FreeList>,
    /// Signalled when stacks whose pages were being discarded are free again.
    discarded: Condvar,
}

struct Slabs {
    /// Only the last one may have room.
    list: Vec<Slab>,
    next_bytes: usize,
    next_batch: usize,
    carved: usize,
}

/// Both lists have room for every stack carved, so a push never allocates.
#[derive(Default)]
struct FreeList {
    /// Used since their pages were last discarded; coldest at the front.
    warm: VecDeque<Stack>,
    /// Never used, or discarded.
    cold: Vec<Stack>,
    /// Stacks on their way from `warm` to `cold`, in neither.
    discarding: usize,
}

impl Default for Slabs {
    fn default() -> Self {
        Slabs {
            list: Vec::new(),
            next_bytes: FIRST_SLAB_BYTES,
            next_batch: FIRST_BATCH,
            carved: 0,
        }
    }
}

impl Default for StackPool {
    fn default() -> Self {
        Self::new()
    }
}

impl StackPool {
    /// Maps nothing yet.
    pub fn new() -> StackPool {
        StackPool {
            classes: Default::default(),
            ledger: Mutex::default(),
            mapped_bytes: AtomicUsize::new(0),
            failures: AtomicUsize::new(0),
            guards_installed: AtomicUsize::new(0),
            guards_mprotected: AtomicUsize::new(0),
            unguarded: AtomicUsize::new(0),
        }
    }

    /// Gives the pages of free stacks back to the kernel, all but the `keep` hottest of each class;
    /// their guards stay. Returns how many stacks were discarded. For an idle moment: a microsecond
    /// or more per stack, but the lists are open in between.
    pub fn trim(&self, keep: usize) -> usize {
        self.classes.iter().map(|class| class.trim(keep)).sum()
    }

    pub fn counts(&self) -> StackCounts {
        let guards = self.guard_counts();
        let free = self
            .classes
            .iter()
            .map(|class| lock(&class.free).len())
            .sum();
        let mut ledger = lock(&self.ledger);
        StackCounts {
            live: ledger.live(),
            live_max: ledger.live_max(),
            cached: ledger.cached(),
            free,
            mapped_bytes: self.mapped_bytes.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            guards_installed: guards.installed,
            guards_mprotected: guards.mprotected,
            unguarded: guards.unguarded,
        }
    }

    /// The weakest guard in use; before there are stacks, the one they would get.
    pub fn guard_mode(&self) -> GuardMode {
        self.guard_counts().weakest().unwrap_or_else(guard::probe)
    }

    fn guard_counts(&self) -> GuardCounts {
        GuardCounts {
            installed: self.guards_installed.load(Ordering::Relaxed),
            mprotected: self.guards_mprotected.load(Ordering::Relaxed),
            unguarded: self.unguarded.load(Ordering::Relaxed),
        }
    }

    pub(super) fn enter(&self) -> Arc<Gauge> {
        lock(&self.ledger).enter()
    }

    pub(super) fn moved(&self, gauge: &Gauge, change: isize, cached: usize) {
        lock(&self.ledger).moved(gauge, change, cached);
    }

    pub(super) fn count_failure(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Moves 1 to `most` free stacks to `out`, which has room for them; carves if there are none.
    pub(super) fn take_batch(
        &self,
        class: StackClass,
        out: &mut Vec<Stack>,
        most: usize,
    ) -> Result<usize, StackError> {
        let pool = &self.classes[class.index()];
        loop {
            let taken = lock(&pool.free).take(out, most);
            if taken > 0 {
                return Ok(taken);
            }
            // After success another core may have been quicker; then carve again.
            if let Err(error) = self.carve(class) {
                // The last resort is what a trim has in its hands just now.
                let taken = pool
                    .discarded
                    .wait_while(lock(&pool.free), |free| {
                        free.is_empty() && free.discarding > 0
                    })
                    .unwrap_or_else(PoisonError::into_inner)
                    .take(out, most);
                if taken > 0 {
                    return Ok(taken);
                }
                self.count_failure();
                return Err(error);
            }
        }
    }

    pub(super) fn give_back(&self, stacks: &[Stack]) {
        let Some(first) = stacks.first() else { return };
        let mut free = lock(&self.classes[first.class().index()].free);
        free.warm.extend(stacks);
    }

    /// Makes new stacks, unless there are free ones by now.
    fn carve(&self, class: StackClass) -> Result<(), StackError> {
        let pool = &self.classes[class.index()];
        let mut slabs = lock(&pool.slabs);
        if !lock(&pool.free).is_empty() {
            return Ok(());
        }
        let Slabs {
            list,
            next_bytes,
            next_batch,
            carved,
        } = &mut *slabs;

        if list.last().is_none_or(|slab| slab.room() == 0) {
            list.try_reserve(1).map_err(|_| StackError::OutOfMemory)?;
            let slab = Slab::map(class, *next_bytes).ok_or(StackError::OutOfMemory)?;
            *next_bytes = (slab.bytes() * 2).clamp(FIRST_SLAB_BYTES, LARGEST_SLAB_BYTES);
            self.mapped_bytes.fetch_add(slab.bytes(), Ordering::Relaxed);
            list.push(slab);
        }
        let slab = list.last_mut().ok_or(StackError::OutOfMemory)?;
        let count = slab.room().min(*next_batch);
        lock(&pool.free).reserve(*carved + count)?;

        // Nothing fails from here on.
        let (guards, stacks) = slab.carve(count, *carved);
        *next_batch = (*next_batch * 2).min(sys::GUARD_BATCH);
        *carved += count;
        self.guards_installed
            .fetch_add(guards.installed, Ordering::Relaxed);
        self.guards_mprotected
            .fetch_add(guards.mprotected, Ordering::Relaxed);
        self.unguarded
            .fetch_add(guards.unguarded, Ordering::Relaxed);
        // Lowest last, to be taken first.
        lock(&pool.free).cold.extend(stacks.rev());
        Ok(())
    }
}

impl Drop for StackPool {
    /// Unmaps everything. All stacks must have come back; those left in caches are lost with it.
    fn drop(&mut self) {
        debug_assert!(
            std::thread::panicking() || lock(&self.ledger).live() == 0,
            "a stack is still out when its pool is dropped"
        );
    }
}

impl ClassPool {
    fn trim(&self, keep: usize) -> usize {
        // Only as many as there are now: in a busy pool others come after them.
        let mut left = lock(&self.free).warm.len().saturating_sub(keep);
        let mut discarded = 0;
        while left > 0 {
            let mut batch = [None; DISCARD_BATCH];
            let wanted = left.min(DISCARD_BATCH);
            let taken = lock(&self.free).begin_discard(&mut batch[..wanted], keep);
            for stack in batch.iter().flatten() {
                let (start, bytes) = stack.pages();
                // SAFETY: "one holder": the stack was free and is in no list, so its content is
                // needed by nobody. The pages are those of its slot, without the guard.
                let given_back = unsafe { sys::discard(start, bytes) };
                discarded += usize::from(given_back);
            }
            lock(&self.free).end_discard(batch.iter().flatten().copied(), taken);
            self.discarded.notify_all();
            if taken < wanted {
                break;
            }
            left -= taken;
        }
        discarded
    }
}

impl FreeList {
    fn len(&self) -> usize {
        self.warm.len() + self.cold.len() + self.discarding
    }

    fn is_empty(&self) -> bool {
        self.warm.is_empty() && self.cold.is_empty()
    }

    /// Moves up to `most` to `out`, warm ones first and the hottest last, but at most half of what
    /// there is: where memory is short one core must not empty the pool.
    fn take(&mut self, out: &mut Vec<Stack>, most: usize) -> usize {
        let count = (self.warm.len() + self.cold.len()).div_ceil(2).min(most);
        let warm = count.min(self.warm.len());
        out.extend(self.cold.drain(self.cold.len() - (count - warm)..));
        out.extend(self.warm.drain(self.warm.len() - warm..));
        count
    }

    /// Room for all of `carved` stacks in each list.
    fn reserve(&mut self, carved: usize) -> Result<(), StackError> {
        self.warm
            .try_reserve(carved.saturating_sub(self.warm.len()))
            .and_then(|()| {
                self.cold
                    .try_reserve(carved.saturating_sub(self.cold.len()))
            })
            .map_err(|_| StackError::OutOfMemory)
    }

    fn begin_discard(&mut self, batch: &mut [Option<Stack>], keep: usize) -> usize {
        let count = self.warm.len().saturating_sub(keep).min(batch.len());
        for (slot, stack) in batch.iter_mut().zip(self.warm.drain(..count)) {
            *slot = Some(stack);
        }
        self.discarding += count;
        count
    }

    /// Also where the kernel refused (locked memory): it would again.
    fn end_discard(&mut self, stacks: impl Iterator<Item = Stack>, count: usize) {
        self.cold.extend(stacks);
        self.discarding -= count;
    }
}

/// A panic elsewhere leaves the lists whole: every change under these locks is complete before
/// anything could panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::sys::fail;
    use super::super::{StackCache, StackClass};
    use super::*;

    #[test]
    fn what_a_trim_has_in_its_hands_is_waited_for_and_not_missed() {
        let class = StackClass::K64;
        let pool = StackPool::new();
        let mut cache = StackCache::new(&pool);
        let stack = cache.take(&pool, class).unwrap();
        cache.put(&pool, stack);
        cache.trim(&pool, 0);

        // All that is free is being discarded, and there is no more memory.
        let parts = &pool.classes[class.index()];
        let mut batch = [None; DISCARD_BATCH];
        let mut free = lock(&parts.free);
        let cold = std::mem::take(&mut free.cold);
        free.warm.extend(cold);
        let taken = free.begin_discard(&mut batch, 0);
        drop(free);
        assert!(taken > 0);
        let (started, has_started) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let taker = scope.spawn(|| {
                fail::arm(fail::Call::Map, 0, usize::MAX);
                let mut cache = StackCache::new(&pool);
                started.send(()).unwrap();
                let stack = cache.take(&pool, class)?;
                cache.put(&pool, stack);
                Ok::<_, StackError>(())
            });
            has_started.recv().unwrap();
            lock(&parts.free).end_discard(batch.iter().flatten().copied(), taken);
            parts.discarded.notify_all();
            assert_eq!(taker.join().unwrap(), Ok(()));
        });
    }
}
