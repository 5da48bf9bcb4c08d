//! A log-linear histogram of nanoseconds with one writer.
//!
//! ```text
//! value   0 .. 7 | 8 .. 15 | 16 17 .. 30 31 | 32 .. 35 | ...   each power of two in 8 equal buckets, so that a bucket's
//! bucket  0 .. 7 | 8 .. 15 |   16  ..   23  |    24    | ...   upper bound is at most 12.5 % above any value in it
//! ```
//! Values from 2^42 ns (73 minutes) on share the last bucket.

use super::Counter;

const SUB_BITS: u32 = 3;
const SUB_BUCKETS: usize = 1 << SUB_BITS;
/// The first value of the last bucket.
const OVERFLOW: u64 = 1 << 42;
const BUCKETS: usize = bucket_of(OVERFLOW) + 1;

const fn bucket_of(value: u64) -> usize {
    let value = if value < OVERFLOW { value } else { OVERFLOW };
    // The last three bits below the leading one choose the bucket; values below 8 are their own bucket.
    let shift = (value | SUB_BUCKETS as u64).ilog2() - SUB_BITS;
    shift as usize * SUB_BUCKETS + (value >> shift) as usize
}

/// The smallest value of a bucket.
const fn lower_bound(bucket: usize) -> u64 {
    if bucket < SUB_BUCKETS {
        return bucket as u64;
    }
    let shift = bucket / SUB_BUCKETS - 1;
    ((SUB_BUCKETS + bucket % SUB_BUCKETS) as u64) << shift
}

/// The largest value of a bucket.
const fn upper_bound(bucket: usize) -> u64 {
    if bucket + 1 >= BUCKETS {
        u64::MAX
    } else {
        lower_bound(bucket + 1) - 1
    }
}

/// Counts durations by size. One thread records at a time, any may take a snapshot.
#[derive(Debug)]
pub struct Histogram {
    buckets: [Counter; BUCKETS],
    sum: Counter,
    max: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Histogram {
    pub const fn new() -> Self {
        Self {
            buckets: [const { Counter::new() }; BUCKETS],
            sum: Counter::new(),
            max: Counter::new(),
        }
    }

    /// Only by the writer.
    pub fn record(&self, ns: u64) {
        self.buckets[bucket_of(ns)].increment();
        self.sum.add(ns);
        self.max.raise(ns);
    }

    pub fn snapshot(&self) -> HistogramSnapshot {
        let mut snapshot = HistogramSnapshot {
            sum: self.sum.get(),
            max: self.max.get(),
            ..HistogramSnapshot::default()
        };
        for (to, from) in snapshot.buckets.iter_mut().zip(&self.buckets) {
            *to = from.get();
        }
        // A value that was counted while we read may not have reached the maximum yet.
        if let Some(last) = snapshot.buckets.iter().rposition(|count| *count > 0) {
            snapshot.max = snapshot.max.max(lower_bound(last));
        }
        snapshot
    }
}

/// What a histogram held. On the heap, because snapshots are also taken on small stacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistogramSnapshot {
    buckets: Box<[u64]>,
    sum: u64,
    max: u64,
}

impl Default for HistogramSnapshot {
    fn default() -> Self {
        Self {
            buckets: vec![0; BUCKETS].into_boxed_slice(),
            sum: 0,
            max: 0,
        }
    }
}

impl HistogramSnapshot {
    /// Adds what `other` counted.
    pub fn merge(&mut self, other: &Self) {
        for (to, from) in self.buckets.iter_mut().zip(&other.buckets) {
            *to = to.wrapping_add(*from);
        }
        self.sum = self.sum.wrapping_add(other.sum);
        self.max = self.max.max(other.max);
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    pub fn sum_ns(&self) -> u64 {
        self.sum
    }

    pub fn max_ns(&self) -> u64 {
        self.max
    }

    /// A value that at least `p` per cent of the recorded ones do not exceed: exact up to the width of its bucket, and
    /// never above the maximum. 0 if nothing was recorded.
    pub fn percentile(&self, p: f64) -> u64 {
        let count = self.count();
        let rank = (count as f64 * p / 100.0).ceil().max(1.0) as u64;
        let rank = rank.min(count);
        let mut seen = 0;
        for (upper, n) in self.non_empty() {
            seen += n;
            if seen >= rank {
                return upper.min(self.max);
            }
        }
        0
    }

    /// The buckets that counted something, in order: the largest value that belongs there (`u64::MAX` for the last
    /// bucket), and how many did.
    pub fn non_empty(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.buckets
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(|(bucket, count)| (upper_bound(bucket), *count))
    }

    /// How many values are in buckets that end at or before `ns`: exact if `ns` is the end of a bucket, as one less than
    /// a power of two is.
    pub fn count_up_to(&self, ns: u64) -> u64 {
        self.non_empty()
            .take_while(|(upper, _)| *upper <= ns)
            .map(|(_, count)| count)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_without_gap_or_overlap() {
        for bucket in 0..BUCKETS {
            assert_eq!(bucket_of(lower_bound(bucket)), bucket);
            assert_eq!(bucket_of(upper_bound(bucket)), bucket);
            if bucket > 0 {
                assert_eq!(lower_bound(bucket), upper_bound(bucket - 1) + 1);
            }
            if bucket + 1 < BUCKETS {
                let width = upper_bound(bucket) - lower_bound(bucket);
                assert!(width * 8 <= lower_bound(bucket));
            }
        }
        assert_eq!(BUCKETS, 321);
        assert_eq!(lower_bound(BUCKETS - 1), OVERFLOW);
        const { assert!(OVERFLOW > 3_600_000_000_000, "an hour") };
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn an_empty_histogram_says_nothing() {
        let snapshot = Histogram::new().snapshot();
        assert_eq!(snapshot, HistogramSnapshot::default());
        assert_eq!(snapshot.count(), 0);
        assert_eq!(snapshot.percentile(50.0), 0);
        assert_eq!(snapshot.non_empty().count(), 0);
    }

    #[test]
    fn percentiles_are_within_a_bucket_and_not_above_the_maximum() {
        let histogram = Histogram::new();
        (1..=100_000).for_each(|ns| histogram.record(ns));
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.count(), 100_000);
        assert_eq!(snapshot.sum_ns(), 100_000 * 100_001 / 2);
        assert_eq!(snapshot.max_ns(), 100_000);
        for p in [0.001, 1.0, 50.0, 90.0, 99.0, 99.9] {
            let exact = p * 1_000.0;
            let said = snapshot.percentile(p) as f64;
            assert!(said >= exact && said <= exact * 1.125, "p{p}: {said}");
        }
        assert_eq!(snapshot.percentile(100.0), 100_000);
        assert_eq!(snapshot.percentile(1_000.0), 100_000);
    }

    #[test]
    fn small_values_are_exact() {
        let histogram = Histogram::new();
        for ns in [0, 3, 3, 15] {
            histogram.record(ns);
        }
        let snapshot = histogram.snapshot();
        assert_eq!(
            snapshot.non_empty().collect::<Vec<_>>(),
            [(0, 1), (3, 2), (15, 1)]
        );
        assert_eq!(snapshot.percentile(0.0), 0);
        assert_eq!(snapshot.percentile(25.0), 0);
        assert_eq!(snapshot.percentile(25.1), 3);
        assert_eq!(snapshot.percentile(75.0), 3);
        assert_eq!(snapshot.percentile(99.9), 15);
        assert_eq!(snapshot.count_up_to(2), 1);
        assert_eq!(snapshot.count_up_to(3), 3);
        assert_eq!(snapshot.count_up_to(u64::MAX), 4);
    }

    #[test]
    fn what_is_too_long_is_counted_and_its_maximum_kept() {
        let histogram = Histogram::new();
        histogram.record(OVERFLOW - 1);
        histogram.record(OVERFLOW * 5);
        let snapshot = histogram.snapshot();
        assert_eq!(
            snapshot.non_empty().collect::<Vec<_>>(),
            [(OVERFLOW - 1, 1), (u64::MAX, 1)]
        );
        assert_eq!(snapshot.percentile(50.0), OVERFLOW - 1);
        assert_eq!(snapshot.percentile(99.0), OVERFLOW * 5);
    }

    #[test]
    fn merged_histograms_are_as_one_that_recorded_all() {
        let (left, right, both) = (Histogram::new(), Histogram::new(), Histogram::new());
        for i in 0..10_000_u64 {
            let ns = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (i % 64);
            if i % 3 == 0 { &left } else { &right }.record(ns);
            both.record(ns);
        }
        let mut merged = left.snapshot();
        merged.merge(&right.snapshot());
        assert_eq!(merged, both.snapshot());
        assert_eq!(merged.count(), 10_000);
    }

    #[test]
    fn a_snapshot_amid_a_record_has_a_maximum_that_fits_its_buckets() {
        let histogram = Histogram::new();
        histogram.record(10);
        // Half of `record(100)`.
        histogram.buckets[bucket_of(100)].increment();
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.max_ns(), lower_bound(bucket_of(100)));
        assert_eq!(snapshot.percentile(100.0), snapshot.max_ns());
    }

    #[test]
    fn a_reader_never_sees_the_count_go_back() {
        let histogram = Histogram::new();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..100_000).for_each(|ns| histogram.record(ns)));
            let mut count = 0;
            while count < 100_000 {
                let snapshot = histogram.snapshot();
                assert!(snapshot.count() >= count);
                count = snapshot.count();
            }
        });
    }
}
