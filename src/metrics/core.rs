//! What a core counts, named once: the struct it writes, the snapshot of it, and the list that the text forms go by.

use super::{Counter, Histogram, HistogramSnapshot};

macro_rules! core_metrics {
    (
        counters { $($(#[doc = $counter_doc:literal])+ $counter:ident,)* }
        histograms { $($(#[doc = $histogram_doc:literal])+ $histogram:ident,)* }
    ) => {
        /// A core's counters. Written by whoever holds the core, read by anyone.
        ///
        /// Aligned so that no other core's writes reach its cache lines (two of them: the adjacent-line prefetcher).
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct CoreMetrics {
            $($(#[doc = $counter_doc])+ pub $counter: Counter,)*
            $($(#[doc = $histogram_doc])+ pub $histogram: Histogram,)*
        }

        /// What a core's counters said, or the sum of several.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct CoreSnapshot {
            $($(#[doc = $counter_doc])+ pub $counter: u64,)*
            $($(#[doc = $histogram_doc])+ pub $histogram: HistogramSnapshot,)*
        }

        impl CoreMetrics {
            pub fn snapshot(&self) -> CoreSnapshot {
                CoreSnapshot {
                    $($counter: self.$counter.get(),)*
                    $($histogram: self.$histogram.snapshot(),)*
                }
            }
        }

        impl CoreSnapshot {
            /// Adds what `other` counted.
            pub fn merge(&mut self, other: &Self) {
                $(self.$counter = self.$counter.wrapping_add(other.$counter);)*
                $(self.$histogram.merge(&other.$histogram);)*
            }

            /// Each counter's name, what it means, and its value.
            pub(super) fn counters(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((stringify!($counter), concat!($($counter_doc),+).trim_ascii(), self.$counter),)*]
                    .into_iter()
            }

            /// Each histogram's name, what it means, and its content.
            pub(super) fn histograms(
                &self,
            ) -> impl Iterator<Item = (&'static str, &'static str, &HistogramSnapshot)> {
                [$((stringify!($histogram), concat!($($histogram_doc),+).trim_ascii(), &self.$histogram),)*]
                    .into_iter()
            }
        }
    };
}

core_metrics! {
    counters {
        /// Virtual threads created.
        spawned,
        /// Virtual threads that ended.
        completed,
        /// Times a virtual thread was mounted.
        scheduled,
        /// Times a virtual thread was mounted again, after a wait or a yield.
        resumed,
        /// Waits for I/O.
        suspended_io,
        /// Waits for a point in time.
        suspended_timer,
        /// Waits for a synchronisation object.
        suspended_sync,
        /// Waits for the end of a virtual thread.
        suspended_join,
        /// Waits for an offloaded call.
        suspended_offload,
        /// Times a virtual thread let others go first by its own will.
        yields,
        /// Virtual threads taken from other cores.
        stolen,
        /// Times other cores were searched for work.
        steal_attempts,
        /// Switches of stacks.
        context_switches,
        /// Times a virtual thread lost its core for running too long.
        preempted,
        /// Times a virtual thread was made to let others go first at a runtime call.
        budget_yields,
        /// Times the core woke up from sleep.
        wakeups,
        /// Times the core went to sleep.
        parks,
        /// Times the I/O driver was asked for completions.
        driver_polls,
        /// Completions delivered by the I/O driver.
        io_events,
        /// Timers that expired.
        timers_fired,
        /// Processor time used by virtual threads.
        cpu_time_ns,
        /// Virtual threads taken from the injector.
        injected,
    }
    histograms {
        /// Time from ready to mounted.
        run_delay,
        /// Time from mounted to unmounted.
        run_slice,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_has_its_cache_lines_to_itself() {
        assert_eq!(align_of::<CoreMetrics>(), 128);
        assert_eq!(size_of::<CoreMetrics>() % 128, 0);
    }

    #[test]
    fn snapshots_add_up_in_every_field() {
        let metrics = CoreMetrics::default();
        metrics.spawned.add(3);
        metrics.injected.increment();
        metrics.run_delay.record(5);
        let one = metrics.snapshot();
        assert_eq!((one.spawned, one.completed, one.injected), (3, 0, 1));
        let mut total = CoreSnapshot::default();
        for _ in 0..4 {
            total.merge(&one);
        }
        let of_one: Vec<u64> = one.counters().map(|(_, _, value)| value * 4).collect();
        let of_total: Vec<u64> = total.counters().map(|(_, _, value)| value).collect();
        assert_eq!(of_one, of_total);
        assert_eq!(total.run_delay.count(), 4);
        assert_eq!(total.run_delay.sum_ns(), 20);
        assert_eq!(total.run_slice.count(), 0);
    }

    #[test]
    fn the_list_names_each_counter_once_and_explains_it() {
        let snapshot = CoreSnapshot::default();
        let mut names: Vec<_> = snapshot.counters().map(|(name, _, _)| name).collect();
        assert_eq!(names.len(), 22);
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 22);
        assert!(snapshot.counters().all(|(_, help, _)| help.ends_with('.')));
        let histograms: Vec<_> = snapshot.histograms().map(|(name, _, _)| name).collect();
        assert_eq!(histograms, ["run_delay", "run_slice"]);
    }
}
