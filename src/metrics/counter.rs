//! A counter with one writer.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts events. One thread writes at a time (the one that holds the core), any may read.
///
/// A plain load and store, not a locked addition: 1 ns less a count, and no reader can slow it down. Two writers at once
/// would lose counts, nothing worse. Relaxed, because a count says nothing about other memory; what hands a core from
/// one thread to the next orders their writes.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Only by the writer.
    pub fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }

    /// Only by the writer.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Raises the value to `n` if it is less. Only by the writer.
    pub(super) fn raise(&self, n: u64) {
        if self.get() < n {
            self.0.store(n, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Counter;

    #[test]
    fn counts_and_wraps() {
        let counter = Counter::new();
        counter.increment();
        counter.add(41);
        assert_eq!(counter.get(), 42);
        counter.raise(41);
        assert_eq!(counter.get(), 42);
        counter.raise(u64::MAX);
        counter.add(2);
        assert_eq!(counter.get(), 1);
    }

    #[test]
    fn a_reader_never_sees_it_go_back() {
        let counter = Counter::new();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..100_000).for_each(|_| counter.increment()));
            let mut last = 0;
            while last < 100_000 {
                let seen = counter.get();
                assert!(seen >= last);
                last = seen;
            }
        });
        assert_eq!(counter.get(), 100_000);
    }
}
