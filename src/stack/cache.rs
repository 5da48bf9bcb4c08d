//! The free stacks of one core.
//!
//! Owned by whoever holds the core: one thread at a time, but not always the same. `take` and `put`
//! touch only this memory and the core's own gauge; once per half a cache a batch moves between here
//! and the pool. The hottest stack is taken first, the coldest are given back.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;

use super::StackError;
use super::class::StackClass;
use super::handle::Stack;
use super::ledger::Gauge;
use super::pool::StackPool;

/// Stacks kept per class. Guess; fewer of the largest, of which a core should not hold on to 256 MiB.
pub(super) const CAPACITY: [usize; StackClass::COUNT] = [256, 256, 256, 64];

pub struct StackCache {
    /// Per class, coldest first. Without memory until the class is first used, then with room for
    /// its capacity, so that nothing is allocated later.
    free: [Vec<Stack>; StackClass::COUNT],
    cached: usize,
    /// The smallest `cached` since the last batch.
    lowest: usize,
    gauge: Arc<Gauge>,
    /// Not `Sync`: the gauge has one writer.
    _one_thread: PhantomData<Cell<()>>,
}

impl StackCache {
    /// An empty cache of `pool`. Before it is dropped it should be emptied with `trim(pool, 0)`:
    /// stacks left in it are lost until the pool is dropped.
    pub fn new(pool: &StackPool) -> StackCache {
        StackCache {
            free: [const { Vec::new() }; StackClass::COUNT],
            cached: 0,
            lowest: 0,
            gauge: pool.enter(),
            _one_thread: PhantomData,
        }
    }

    /// The caller becomes the holder of a stack. Its content is arbitrary.
    #[inline]
    pub fn take(&mut self, pool: &StackPool, class: StackClass) -> Result<Stack, StackError> {
        let stack = match self.free[class.index()].pop() {
            Some(stack) => stack,
            None => self.refill(pool, class)?,
        };
        self.cached -= 1;
        self.gauge.set_cached(self.cached);
        if self.cached < self.lowest {
            self.lowest = self.cached;
            self.gauge.set_lowest(self.cached);
        }
        Ok(stack)
    }

    /// The caller ceases to be the holder of a stack of `pool`, taken through any cache. Nothing may
    /// run on it or refer into it any more.
    #[inline]
    pub fn put(&mut self, pool: &StackPool, stack: Stack) {
        let class = stack.class();
        debug_assert!(
            !self.free[class.index()].contains(&stack),
            "one holder: put twice"
        );
        if self.free[class.index()].len() == self.free[class.index()].capacity()
            && !self.make_room(pool, class)
        {
            pool.give_back(&[stack]);
            pool.moved(&self.gauge, -1, self.cached);
            self.lowest = self.cached;
            return;
        }
        self.free[class.index()].push(stack);
        self.cached += 1;
        self.gauge.set_cached(self.cached);
    }

    /// Gives back all but the `keep` hottest stacks of each class.
    pub fn trim(&mut self, pool: &StackPool, keep: usize) {
        for class in StackClass::ALL {
            let excess = self.free[class.index()].len().saturating_sub(keep);
            self.give_back_coldest(pool, class, excess);
        }
    }

    /// How many free stacks this core holds.
    pub fn cached(&self) -> usize {
        self.cached
    }

    /// Fetches a batch and takes one of it, which `take` then counts as leaving the cache.
    #[cold]
    fn refill(&mut self, pool: &StackPool, class: StackClass) -> Result<Stack, StackError> {
        if !self.reserve(class) {
            pool.count_failure();
            return Err(StackError::OutOfMemory);
        }
        let free = &mut self.free[class.index()];
        let count = pool.take_batch(class, free, CAPACITY[class.index()] / 2)?;
        let stack = free.pop().ok_or(StackError::OutOfMemory)?;
        self.cached += count;
        self.lowest = self.cached;
        pool.moved(&self.gauge, count as isize, self.cached);
        Ok(stack)
    }

    /// False if there is no memory for the class's list.
    #[cold]
    fn make_room(&mut self, pool: &StackPool, class: StackClass) -> bool {
        if self.free[class.index()].is_empty() {
            return self.reserve(class);
        }
        self.give_back_coldest(pool, class, CAPACITY[class.index()] / 2);
        true
    }

    fn reserve(&mut self, class: StackClass) -> bool {
        self.free[class.index()]
            .try_reserve_exact(CAPACITY[class.index()])
            .is_ok()
    }

    fn give_back_coldest(&mut self, pool: &StackPool, class: StackClass, count: usize) {
        if count == 0 {
            return;
        }
        let free = &mut self.free[class.index()];
        pool.give_back(&free[..count]);
        free.drain(..count);
        self.cached -= count;
        self.lowest = self.cached;
        pool.moved(&self.gauge, -(count as isize), self.cached);
    }
}
