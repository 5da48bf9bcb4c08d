//! Who holds how many stacks, without a shared counter on the way of a take.
//!
//! The number of stacks in use is never counted; it follows from what is counted anyway:
//!
//! ```text
//!   live = handed out by the pool - cached by the cores
//! ```
//!
//! "Handed out" changes only when a batch moves, under the ledger's lock. "Cached" is one number per
//! core, written by its owner alone with plain relaxed stores, read by anyone. So a take costs a
//! store, and readers stop nobody; what they see may be a few takes old.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What one core's cache publishes. Single writer: the holder of the cache. A line of its own, so
/// that cores do not disturb each other.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Gauge {
    cached: AtomicUsize,
    /// The smallest `cached` since the cache last moved a batch.
    lowest: AtomicUsize,
}

impl Gauge {
    #[inline]
    pub(super) fn set_cached(&self, cached: usize) {
        self.cached.store(cached, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn set_lowest(&self, lowest: usize) {
        self.lowest.store(lowest, Ordering::Relaxed);
    }
}

#[derive(Default)]
pub(super) struct Ledger {
    handed_out: usize,
    live_max: usize,
    gauges: Vec<Arc<Gauge>>,
}

impl Ledger {
    /// Enters a cache. Those of dropped caches that left nothing behind are forgotten.
    pub(super) fn enter(&mut self) -> Arc<Gauge> {
        self.gauges.retain(|gauge| {
            Arc::strong_count(gauge) > 1 || gauge.cached.load(Ordering::Relaxed) > 0
        });
        let gauge = Arc::new(Gauge::default());
        self.gauges.push(Arc::clone(&gauge));
        gauge
    }

    /// A batch moved between the pool and the owner of `gauge`, who now caches `cached`.
    pub(super) fn moved(&mut self, gauge: &Gauge, change: isize, cached: usize) {
        self.fold_live_max();
        self.handed_out = self.handed_out.saturating_add_signed(change);
        gauge.set_cached(cached);
        gauge.set_lowest(cached);
    }

    pub(super) fn cached(&self) -> usize {
        self.gauges
            .iter()
            .map(|gauge| gauge.cached.load(Ordering::Relaxed))
            .sum()
    }

    pub(super) fn live(&self) -> usize {
        self.handed_out.saturating_sub(self.cached())
    }

    /// The most that were live at a time. Exact for one core; with several it may read high, because
    /// their lowest fillings need not have been at one time, by at most what their caches hold.
    pub(super) fn live_max(&mut self) -> usize {
        self.fold_live_max();
        self.live_max
    }

    fn fold_live_max(&mut self) {
        let lowest: usize = self
            .gauges
            .iter()
            .map(|gauge| gauge.lowest.load(Ordering::Relaxed))
            .sum();
        self.live_max = self.live_max.max(self.handed_out.saturating_sub(lowest));
    }
}
