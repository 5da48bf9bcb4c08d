//! A snapshot of a runtime as JSON and in the Prometheus text format (version 0.0.4).
//!
//! Names follow those of the C struct. Prometheus wants base units and a `_total` on counters, so there `x_ns` becomes
//! `x_seconds`, with as many digits as nanoseconds have: nothing is rounded.

use std::fmt::{self, Display, Write};

use super::{CoreSnapshot, HistogramSnapshot};

/// Everything that the text forms say about a runtime. Plain: whoever assembles the runtime fills it.
#[derive(Clone, Debug, Default)]
pub struct RuntimeSnapshot {
    pub uptime_ns: u64,
    pub cores_parked: u64,
    pub live: u64,
    pub timers_armed: u64,
    pub stacks_live: u64,
    pub stacks_live_max: u64,
    pub stacks_cached: u64,
    pub stack_bytes_mapped: u64,
    pub stack_failures: u64,
    pub arena_bytes: u64,
    pub queue_depth: u64,
    pub carriers: u64,
    pub carriers_spare: u64,
    pub carriers_without_core: u64,
    pub carriers_lowered: u64,
    pub handoffs_blocked: u64,
    pub handoffs_announced: u64,
    pub handoffs_bound: u64,
    pub handoffs_forced: u64,
    pub handoffs_denied: u64,
    pub rejoins: u64,
    pub stops: u64,
    pub sections_unbalanced: u64,
    /// One for each core, by its index.
    pub cores: Vec<CoreSnapshot>,
    /// All cores together, and whatever was counted outside of any.
    pub total: CoreSnapshot,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Gauge,
    Counter,
}

impl RuntimeSnapshot {
    /// What is known of the runtime as a whole: name, kind, meaning, value.
    fn scalars(&self) -> [(&'static str, Kind, &'static str, u64); 24] {
        use Kind::{Counter, Gauge};
        [
            (
                "uptime_ns",
                Gauge,
                "Time since the runtime started.",
                self.uptime_ns,
            ),
            (
                "core_count",
                Gauge,
                "Cores of the runtime.",
                self.cores.len() as u64,
            ),
            (
                "cores_parked",
                Gauge,
                "Cores that sleep.",
                self.cores_parked,
            ),
            (
                "live",
                Gauge,
                "Virtual threads that have not ended.",
                self.live,
            ),
            (
                "timers_armed",
                Gauge,
                "Timers that have not expired.",
                self.timers_armed,
            ),
            ("stacks_live", Gauge, "Stacks in use.", self.stacks_live),
            (
                "stacks_live_max",
                Gauge,
                "The most stacks in use at once.",
                self.stacks_live_max,
            ),
            (
                "stacks_cached",
                Gauge,
                "Stacks kept for reuse.",
                self.stacks_cached,
            ),
            (
                "stack_bytes_mapped",
                Gauge,
                "Address space reserved for stacks.",
                self.stack_bytes_mapped,
            ),
            (
                "stack_failures",
                Counter,
                "Stacks that could not be had.",
                self.stack_failures,
            ),
            (
                "arena_bytes",
                Gauge,
                "Memory held by arenas.",
                self.arena_bytes,
            ),
            (
                "queue_depth",
                Gauge,
                "Virtual threads that are ready to run.",
                self.queue_depth,
            ),
            (
                "carriers",
                Gauge,
                "OS threads that run virtual threads.",
                self.carriers,
            ),
            (
                "carriers_spare",
                Gauge,
                "Of these, resting without a core.",
                self.carriers_spare,
            ),
            (
                "carriers_without_core",
                Gauge,
                "Of these, busy with a virtual thread that lost its core.",
                self.carriers_without_core,
            ),
            (
                "carriers_lowered",
                Counter,
                "Carriers whose priority was lowered.",
                self.carriers_lowered,
            ),
            (
                "handoffs_blocked",
                Counter,
                "Cores handed on because a virtual thread blocked its carrier.",
                self.handoffs_blocked,
            ),
            (
                "handoffs_announced",
                Counter,
                "Cores handed on because a virtual thread was about to block.",
                self.handoffs_announced,
            ),
            (
                "handoffs_bound",
                Counter,
                "Cores handed to the thread of a bound virtual thread.",
                self.handoffs_bound,
            ),
            (
                "handoffs_forced",
                Counter,
                "Cores taken from virtual threads that had disabled preemption for too long.",
                self.handoffs_forced,
            ),
            (
                "handoffs_denied",
                Counter,
                "Cores that stayed because there were too many carriers.",
                self.handoffs_denied,
            ),
            (
                "stops",
                Counter,
                "Times a virtual thread without a core was stopped to let others run.",
                self.stops,
            ),
            (
                "rejoins",
                Counter,
                "Virtual threads that queued up again after they had lost their core.",
                self.rejoins,
            ),
            (
                "sections_unbalanced",
                Counter,
                "Virtual threads that ended inside a section.",
                self.sections_unbalanced,
            ),
        ]
    }
}

// ---- JSON ----------------------------------------------------------------------------------------------------------

/// Appends the snapshot as one JSON object. All values are integers or objects of them; `cores` is an array by index.
pub fn write_json(snapshot: &RuntimeSnapshot, out: &mut String) {
    // Writing to a String cannot fail.
    let _ = json(snapshot, out);
}

fn json(snapshot: &RuntimeSnapshot, out: &mut String) -> fmt::Result {
    out.push('{');
    for (name, _, _, value) in snapshot.scalars() {
        write!(out, "\"{name}\":{value},")?;
    }
    out.push_str("\"total\":");
    json_core(&snapshot.total, out)?;
    out.push_str(",\"cores\":[");
    for (i, core) in snapshot.cores.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        json_core(core, out)?;
    }
    out.push_str("]}");
    Ok(())
}

fn json_core(core: &CoreSnapshot, out: &mut String) -> fmt::Result {
    out.push('{');
    for (name, _, value) in core.counters() {
        write!(out, "\"{name}\":{value},")?;
    }
    for (i, (name, _, histogram)) in core.histograms().enumerate() {
        if i > 0 {
            out.push(',');
        }
        write!(
            out,
            "\"{name}\":{{\"count\":{},\"sum_ns\":{},\"max_ns\":{},\"p50_ns\":{},\"p90_ns\":{},\"p99_ns\":{},\"p999_ns\":{}}}",
            histogram.count(),
            histogram.sum_ns(),
            histogram.max_ns(),
            histogram.percentile(50.0),
            histogram.percentile(90.0),
            histogram.percentile(99.0),
            histogram.percentile(99.9),
        )?;
    }
    out.push('}');
    Ok(())
}

// ---- Prometheus ----------------------------------------------------------------------------------------------------

/// The bounds of a histogram's buckets, as powers of two of nanoseconds: from 1 us to 1 s by factors of 2, and two more up
/// to 17 s. With `+Inf` that makes 24.
const BOUNDS: [u32; 23] = [
    10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 32, 34,
];

/// Appends the snapshot in the Prometheus text format. Counters carry a label `core` (its index, or `none` for what was
/// counted outside of any); histograms are those of all cores together, to keep a scrape small.
pub fn write_prometheus(snapshot: &RuntimeSnapshot, out: &mut String) {
    // Writing to a String cannot fail.
    let _ = prometheus(snapshot, out);
}

/// Nanoseconds, written as seconds.
struct Seconds(u64);

impl Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, ns) = (self.0 / 1_000_000_000, self.0 % 1_000_000_000);
        write!(f, "{seconds}.{ns:09}")
    }
}

/// A metric's name in base units, and how to write its values.
fn in_base_unit(name: &str) -> (String, fn(u64) -> String) {
    match name.strip_suffix("_ns") {
        Some(stem) => (format!("{stem}_seconds"), |ns| Seconds(ns).to_string()),
        None => (name.to_owned(), |n| n.to_string()),
    }
}

/// `help` is ours and holds neither a backslash nor a line break, so it needs no escaping.
fn head(out: &mut String, name: &str, kind: &str, help: &str) -> fmt::Result {
    write!(
        out,
        "# HELP swiftnet_{name} {help}\n# TYPE swiftnet_{name} {kind}\n"
    )
}

fn prometheus(snapshot: &RuntimeSnapshot, out: &mut String) -> fmt::Result {
    for (name, kind, help, value) in snapshot.scalars() {
        let (mut name, text) = in_base_unit(name);
        if kind == Kind::Counter {
            name.push_str("_total");
            head(out, &name, "counter", help)?;
        } else {
            head(out, &name, "gauge", help)?;
        }
        writeln!(out, "swiftnet_{name} {}", text(value))?;
    }

    let cores: Vec<Vec<u64>> = snapshot
        .cores
        .iter()
        .map(|core| core.counters().map(|(_, _, value)| value).collect())
        .collect();
    for (i, (name, help, total)) in snapshot.total.counters().enumerate() {
        let (name, text) = in_base_unit(name);
        head(out, &format!("{name}_total"), "counter", help)?;
        let mut outside = total;
        for (core, values) in cores.iter().enumerate() {
            writeln!(
                out,
                "swiftnet_{name}_total{{core=\"{core}\"}} {}",
                text(values[i])
            )?;
            outside = outside.saturating_sub(values[i]);
        }
        if outside > 0 {
            writeln!(
                out,
                "swiftnet_{name}_total{{core=\"none\"}} {}",
                text(outside)
            )?;
        }
    }

    for (name, help, histogram) in snapshot.total.histograms() {
        prometheus_histogram(name, help, histogram, out)?;
    }
    Ok(())
}

fn prometheus_histogram(
    name: &str,
    help: &str,
    histogram: &HistogramSnapshot,
    out: &mut String,
) -> fmt::Result {
    let name = format!("{name}_seconds");
    head(out, &name, "histogram", help)?;
    for power in BOUNDS {
        // A bound is inclusive, and one less than a power of two is where a bucket ends: so the count is exact.
        let bound = (1 << power) - 1;
        writeln!(
            out,
            "swiftnet_{name}_bucket{{le=\"{}\"}} {}",
            Seconds(bound),
            histogram.count_up_to(bound)
        )?;
    }
    let count = histogram.count();
    writeln!(out, "swiftnet_{name}_bucket{{le=\"+Inf\"}} {count}")?;
    writeln!(out, "swiftnet_{name}_sum {}", Seconds(histogram.sum_ns()))?;
    writeln!(out, "swiftnet_{name}_count {count}")
}

#[cfg(test)]
mod tests;
