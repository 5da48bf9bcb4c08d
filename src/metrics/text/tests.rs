use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::metrics::CoreMetrics;

fn example() -> RuntimeSnapshot {
    let metrics = CoreMetrics::default();
    metrics.spawned.add(7);
    metrics.cpu_time_ns.add(1_500_000_001);
    for ns in [3, 900, 1_023, 1_024, 5_000_000, 20_000_000_000] {
        metrics.run_delay.record(ns);
    }
    let core = metrics.snapshot();
    let mut total = CoreSnapshot::default();
    total.merge(&core);
    total.merge(&core);
    // Something that no core counted.
    total.spawned += 5;
    RuntimeSnapshot {
        uptime_ns: 12_000_000_345,
        cores_parked: 1,
        live: 4,
        timers_armed: 5,
        stacks_live: 6,
        stacks_live_max: 7,
        stacks_cached: 8,
        stack_bytes_mapped: 9,
        stack_failures: 10,
        arena_bytes: 11,
        queue_depth: u64::MAX,
        carriers: 12,
        handoffs_denied: 13,
        cores: vec![core.clone(), core],
        total,
        ..RuntimeSnapshot::default()
    }
}

/// JSON as far as it occurs here: objects, arrays and unsigned integers.
#[derive(Debug, PartialEq)]
enum Json {
    Number(u64),
    Array(Vec<Json>),
    Object(BTreeMap<String, Json>),
}

impl Json {
    fn parse(text: &str) -> Json {
        let mut rest = text;
        let value = Self::value(&mut rest);
        assert_eq!(rest, "", "something follows the value");
        value
    }

    fn eat(rest: &mut &str, c: char) -> bool {
        let Some(after) = rest.strip_prefix(c) else {
            return false;
        };
        *rest = after;
        true
    }

    fn string(rest: &mut &str) -> String {
        assert!(Self::eat(rest, '"'), "no string at {rest}");
        let (string, after) = rest.split_once('"').expect("a string's end");
        assert!(!string.contains('\\') && !string.contains(char::is_control));
        *rest = after;
        string.to_owned()
    }

    fn value(rest: &mut &str) -> Json {
        if Self::eat(rest, '{') {
            let mut members = BTreeMap::new();
            loop {
                let name = Self::string(rest);
                assert!(Self::eat(rest, ':'));
                let value = Self::value(rest);
                assert!(
                    members.insert(name.clone(), value).is_none(),
                    "{name} twice"
                );
                if !Self::eat(rest, ',') {
                    assert!(Self::eat(rest, '}'), "no end of object at {rest}");
                    return Json::Object(members);
                }
            }
        }
        if Self::eat(rest, '[') {
            let mut items = Vec::new();
            if Self::eat(rest, ']') {
                return Json::Array(items);
            }
            loop {
                items.push(Self::value(rest));
                if !Self::eat(rest, ',') {
                    assert!(Self::eat(rest, ']'), "no end of array at {rest}");
                    return Json::Array(items);
                }
            }
        }
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, after) = rest.split_at(digits);
        assert!(number == "0" || !number.starts_with('0'));
        *rest = after;
        Json::Number(number.parse().expect("a number"))
    }

    fn get(&self, name: &str) -> &Json {
        match self {
            Json::Object(members) => members.get(name).unwrap_or_else(|| panic!("no {name}")),
            _ => panic!("not an object, asked for {name}"),
        }
    }

    fn number(&self, name: &str) -> u64 {
        match self.get(name) {
            Json::Number(n) => *n,
            other => panic!("{name} is {other:?}"),
        }
    }
}

#[test]
fn json_says_everything_and_parses() {
    let mut text = String::from("before:");
    write_json(&example(), &mut text);
    let json = Json::parse(text.strip_prefix("before:").expect("it appends"));
    assert_eq!(json.number("uptime_ns"), 12_000_000_345);
    assert_eq!(json.number("core_count"), 2);
    assert_eq!(json.number("cores_parked"), 1);
    assert_eq!(json.number("live"), 4);
    assert_eq!(json.number("timers_armed"), 5);
    assert_eq!(json.number("stacks_live"), 6);
    assert_eq!(json.number("stacks_live_max"), 7);
    assert_eq!(json.number("stacks_cached"), 8);
    assert_eq!(json.number("stack_bytes_mapped"), 9);
    assert_eq!(json.number("stack_failures"), 10);
    assert_eq!(json.number("arena_bytes"), 11);
    assert_eq!(json.number("queue_depth"), u64::MAX);
    assert_eq!(json.number("carriers"), 12);
    assert_eq!(json.number("handoffs_denied"), 13);
    assert_eq!(json.get("total").number("spawned"), 19);
    let Json::Array(cores) = json.get("cores") else {
        panic!("cores is no array");
    };
    assert_eq!(cores.len(), 2);
    assert_eq!(cores[0], cores[1]);
    assert_eq!(cores[1].number("spawned"), 7);
    assert_eq!(cores[1].number("cpu_time_ns"), 1_500_000_001);
    let delay = cores[1].get("run_delay");
    assert_eq!(delay.number("count"), 6);
    assert_eq!(delay.number("sum_ns"), 20_005_002_950);
    assert_eq!(delay.number("max_ns"), 20_000_000_000);
    assert_eq!(delay.number("p50_ns"), 1_023);
    assert_eq!(delay.number("p90_ns"), 20_000_000_000);
    assert_eq!(delay.number("p99_ns"), 20_000_000_000);
    assert_eq!(delay.number("p999_ns"), 20_000_000_000);
    assert_eq!(json.get("total").get("run_delay").number("count"), 12);
    assert_eq!(cores[0].get("run_slice").number("count"), 0);
}

#[test]
fn json_of_an_empty_runtime_parses() {
    let mut text = String::new();
    write_json(&RuntimeSnapshot::default(), &mut text);
    assert_eq!(*Json::parse(&text).get("cores"), Json::Array(Vec::new()));
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}

/// Checks the text line by line against the format's rules; returns each sample's value by `name{labels}`.
fn samples(text: &str) -> BTreeMap<String, f64> {
    assert!(text.ends_with('\n'), "the last line has no end");
    let mut families = BTreeSet::new();
    let mut helped = String::new();
    let mut family = (String::new(), String::new());
    let mut samples = BTreeMap::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, text) = help.split_once(' ').expect("a help text");
            assert!(is_name(name) && !text.contains('\\'), "{line}");
            helped = name.to_owned();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a type");
            assert_eq!(name, helped, "TYPE does not follow its HELP");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            // A family is in one piece, its TYPE before its samples.
            assert!(families.insert(name.to_owned()), "{name} twice");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            family = (name.to_owned(), kind.to_owned());
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let (name, labels) = match series.split_once('{') {
                Some((name, labels)) => (name, labels.strip_suffix('}').expect("a closing brace")),
                None => (series, ""),
            };
            assert!(is_name(name) && name.starts_with("swiftnet_"), "{line}");
            let suffix = name
                .strip_prefix(&family.0)
                .expect("a sample of its family");
            let allowed: &[&str] = if family.1 == "histogram" {
                &["_bucket", "_sum", "_count"]
            } else {
                &[""]
            };
            assert!(allowed.contains(&suffix), "{line}");
            if !labels.is_empty() {
                let (label, quoted) = labels.split_once('=').expect("a label's value");
                assert_eq!(label, if suffix == "_bucket" { "le" } else { "core" });
                let value = quoted.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
                let value = value.expect("quotes");
                assert!(!value.contains(['"', '\\', ',']), "{line}");
            } else {
                assert_ne!(suffix, "_bucket");
            }
            let value: f64 = value.parse().expect("a float");
            assert!(
                samples.insert(series.to_owned(), value).is_none(),
                "{series} twice"
            );
        }
    }
    samples
}

#[test]
fn prometheus_text_follows_the_grammar_and_says_everything() {
    let mut text = String::new();
    write_prometheus(&example(), &mut text);
    let samples = samples(&text);
    let is = |series: &str, value: f64| {
        let found = samples.get(series);
        assert_eq!(found, Some(&value), "{series}");
    };
    is("swiftnet_uptime_seconds", 12.000_000_345);
    is("swiftnet_core_count", 2.0);
    is("swiftnet_cores_parked", 1.0);
    is("swiftnet_live", 4.0);
    is("swiftnet_stack_failures_total", 10.0);
    is("swiftnet_queue_depth", u64::MAX as f64);
    is("swiftnet_carriers", 12.0);
    is("swiftnet_handoffs_denied_total", 13.0);
    is("swiftnet_spawned_total{core=\"0\"}", 7.0);
    is("swiftnet_spawned_total{core=\"1\"}", 7.0);
    is("swiftnet_spawned_total{core=\"none\"}", 5.0);
    is("swiftnet_cpu_time_seconds_total{core=\"1\"}", 1.500_000_001);
    assert!(!samples.contains_key("swiftnet_cpu_time_seconds_total{core=\"none\"}"));
    is("swiftnet_run_delay_seconds_count", 12.0);
    is("swiftnet_run_delay_seconds_sum", 40.010_005_900);
    is("swiftnet_run_slice_seconds_count", 0.0);
    let counters = example().total.counters().count();
    let histogram = BOUNDS.len() + 3;
    assert_eq!(samples.len(), 24 + 2 * counters + 1 + 2 * histogram);
}

#[test]
fn prometheus_buckets_are_cumulative_and_few() {
    let mut text = String::new();
    write_prometheus(&example(), &mut text);
    let mut buckets = Vec::new();
    for line in text.lines() {
        if let Some(bucket) = line.strip_prefix("swiftnet_run_delay_seconds_bucket{le=\"") {
            let (bound, count) = bucket.split_once("\"} ").expect("a count");
            let bound: f64 = bound.replace("+Inf", "inf").parse().expect("a bound");
            let count: u64 = count.parse().expect("a count");
            buckets.push((bound, count));
        }
    }
    assert_eq!(buckets.len(), 24);
    assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1));
    assert_eq!(buckets[0], (0.000_001_023, 6));
    assert_eq!(buckets[1], (0.000_002_047, 8));
    assert_eq!(buckets[22], (17.179_869_183, 10));
    assert_eq!(buckets[23], (f64::INFINITY, 12));
}

#[test]
fn an_empty_runtime_is_valid_prometheus_text() {
    let mut text = String::new();
    write_prometheus(&RuntimeSnapshot::default(), &mut text);
    assert!(!samples(&text).is_empty());
}
