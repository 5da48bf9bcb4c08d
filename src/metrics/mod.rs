//! Counting what the runtime does, and saying it in text.
//!
//! Owns the counters and histograms that a core writes and the text forms of a snapshot. It must not know who counts,
//! where the gauges come from, or what time it is. Nothing here stops a writer: a snapshot reads while others write, so
//! its numbers may be apart by what happened in between.
//!
//! | file        | what                                                                    |
//! |-------------|-------------------------------------------------------------------------|
//! | `counter`   | [`Counter`]: one writer, any reader                                      |
//! | `histogram` | [`Histogram`] of nanoseconds, and [`HistogramSnapshot`]                  |
//! | `core`      | [`CoreMetrics`]: all of a core's counters, and [`CoreSnapshot`]          |
//! | `text`      | [`RuntimeSnapshot`] as JSON and in the Prometheus format                 |

mod core;
mod counter;
mod histogram;
mod text;

pub use self::core::{CoreMetrics, CoreSnapshot};
pub use counter::Counter;
pub use histogram::{Histogram, HistogramSnapshot};
pub use text::{RuntimeSnapshot, write_json, write_prometheus};
