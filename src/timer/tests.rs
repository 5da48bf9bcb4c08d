//! The wheel against a `BTreeMap`, and the shared wheel under threads.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::{SharedWheel, TICK_NS, TimerKey, TimerNode, Wheel};

/// splitmix64: deterministic, so that a failure is found again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Of every magnitude alike: up to `2^bits`.
    fn spread(&mut self, bits: u64) -> u64 {
        let bits = self.below(bits) + 1;
        self.next() >> (u64::BITS as u64 - bits)
    }
}

fn nodes(n: usize) -> Box<[TimerNode]> {
    (0..n)
        .map(|i| {
            TimerNode::new(TimerKey {
                address: i as u64,
                sequence: !(i as u64),
            })
        })
        .collect()
}

/// A wheel with nodes of its own, and what should be in it.
struct Bed {
    wheel: Wheel,
    nodes: Box<[TimerNode]>,
    armed: BTreeMap<usize, u64>,
    now: u64,
}

impl Bed {
    fn new(start_ns: u64, n: usize) -> Self {
        Self {
            wheel: Wheel::new(start_ns),
            nodes: nodes(n),
            armed: BTreeMap::new(),
            now: start_ns,
        }
    }

    fn arm(&mut self, i: usize, deadline_ns: u64) {
        assert_eq!(self.armed.insert(i, deadline_ns), None);
        // SAFETY: `armed` had no such node, so it is in no wheel; the slice is neither moved nor dropped before the
        // wheel's last use.
        unsafe { self.wheel.arm(NonNull::from(&self.nodes[i]), deadline_ns) };
    }

    fn cancel(&mut self, i: usize) {
        // SAFETY: the node is alive and has been in no other wheel.
        let was_armed = unsafe { self.wheel.cancel(NonNull::from(&self.nodes[i])) };
        assert_eq!(was_armed, self.armed.remove(&i).is_some());
    }

    /// One call; returns what fired and whether there is more to do.
    fn advance(&mut self, now_ns: u64, max: usize) -> (usize, bool) {
        self.now = self.now.max(now_ns);
        let mut fired = 0;
        let (armed, now) = (&mut self.armed, self.now);
        let more = self.wheel.advance(now_ns, max, |key| {
            assert_eq!(key.sequence, !key.address);
            let deadline = armed
                .remove(&(key.address as usize))
                .expect("fired, but not armed");
            assert!(deadline <= now, "{deadline} fired early, at {now}");
            fired += 1;
        });
        assert!(fired <= max);
        (fired, more)
    }

    /// Calls until there is nothing more to do; then nothing that is a tick late may be left.
    fn advance_fully(&mut self, now_ns: u64, max: usize) -> usize {
        let mut fired = 0;
        loop {
            let (n, more) = self.advance(now_ns, max);
            fired += n;
            if !more {
                break;
            }
        }
        for (i, deadline) in &self.armed {
            let late = self.now.saturating_sub(*deadline);
            assert!(
                late < TICK_NS && self.now < u64::MAX - 1,
                "node {i} for {deadline} is left at {}",
                self.now
            );
        }
        fired
    }

    fn check(&self) {
        assert_eq!(self.wheel.len(), self.armed.len());
        assert_eq!(self.wheel.is_empty(), self.armed.is_empty());
        let next = self.wheel.next_deadline();
        match self.armed.values().min() {
            None => assert_eq!(next, None),
            Some(&earliest) => {
                let next = next.expect("something is armed");
                let rounded_up = earliest.max(self.now).checked_next_multiple_of(TICK_NS);
                assert!(
                    next <= rounded_up.unwrap_or(u64::MAX - 1),
                    "next_deadline {next} is later than {earliest}"
                );
            }
        }
    }
}

fn play(seed: u64, start_ns: u64, steps: u64, step_bits: u64, deadline_bits: u64) {
    const NODES: usize = 200;
    let mut random = Random(seed);
    let mut bed = Bed::new(start_ns, NODES);
    let mut fired = 0;
    for _ in 0..steps {
        let i = random.below(NODES as u64) as usize;
        match random.below(8) {
            0..4 if !bed.armed.contains_key(&i) => {
                let distance = random.spread(deadline_bits);
                let deadline = match random.below(16) {
                    0 => bed.now.saturating_sub(distance),
                    1 => bed.now,
                    2 => u64::MAX - 1 - random.below(3 * TICK_NS),
                    // Many at the borders of slots.
                    3 => (bed.now.saturating_add(distance) >> 20 << 20) + random.below(3) - 1,
                    _ => bed.now.saturating_add(distance),
                };
                bed.arm(i, deadline.min(u64::MAX - 1));
            }
            0..6 => bed.cancel(i),
            // A call with a bound leaves a drain list for the other operations to meet.
            6 => {
                let now = bed.now.saturating_add(random.spread(step_bits));
                fired += bed.advance(now, random.below(4) as usize).0;
            }
            _ => {
                let now = match random.below(8) {
                    0 => bed.now.saturating_sub(random.spread(step_bits)),
                    1 => bed.wheel.next_deadline().unwrap_or(bed.now),
                    _ => bed.now.saturating_add(random.spread(step_bits)),
                };
                fired += bed.advance_fully(now, 1 + random.below(100) as usize);
            }
        }
        bed.check();
    }
    fired += bed.advance_fully(u64::MAX, usize::MAX);
    bed.check();
    assert!(bed.armed.is_empty());
    assert!(fired > 0);
}

#[test]
fn agrees_with_the_model_at_every_scale() {
    for seed in 0..30 {
        let start = Random(seed).spread(60) + (1 << 20);
        play(seed, start, 3_000, 22, 26);
        play(seed, start, 3_000, 34, 36);
        play(seed, start, 3_000, 40, 50);
        play(seed, start, 1_000, 58, 63);
    }
}

#[test]
fn agrees_with_the_model_at_both_ends_of_time() {
    for seed in 100..120 {
        play(seed, 1 << 20, 2_000, 24, 28);
        play(seed, u64::MAX - (1 << 32), 2_000, 24, 28);
        play(seed, u64::MAX - 3 * TICK_NS, 500, 14, 20);
        play(seed, 1 << 63, 2_000, 30, 64);
    }
}

#[test]
fn waking_at_next_deadline_always_gets_something_done() {
    let mut random = Random(7);
    for _ in 0..50 {
        let start = random.spread(50);
        let mut bed = Bed::new(start, 100);
        for i in 0..100 {
            let deadline = start.saturating_add(random.spread(63));
            bed.arm(i, deadline.min(u64::MAX - 1));
        }
        for i in (0..100).step_by(3) {
            bed.cancel(i);
        }
        // Each wake fires a node or moves one down; a node moves down at most once a level.
        let mut wakes = 0;
        while let Some(next) = bed.wheel.next_deadline() {
            wakes += 1;
            assert!(wakes <= 100 * 9);
            bed.advance_fully(next, usize::MAX);
            bed.check();
        }
        assert!(bed.armed.is_empty());
    }
}

#[test]
fn a_lone_sleeper_is_woken_once_and_within_a_tick() {
    for bits in 0..60 {
        let mut bed = Bed::new(12_345_678, 1);
        let deadline = bed.now + (1 << bits);
        bed.arm(0, deadline);
        let next = bed.wheel.next_deadline().expect("armed");
        assert!(deadline <= next && next < deadline + TICK_NS);
        assert_eq!(bed.advance(next - 1, usize::MAX), (0, false));
        assert_eq!(bed.advance(next, usize::MAX), (1, false));
    }
}

#[test]
fn a_passed_deadline_fires_at_the_next_advance_even_at_the_same_time() {
    let mut bed = Bed::new(1 << 40, 3);
    bed.arm(0, 0);
    bed.arm(1, bed.now - 1);
    assert_eq!(bed.advance(1 << 40, 10), (2, false));
    bed.arm(0, 1);
    assert_eq!(bed.wheel.next_deadline(), Some(1 << 40));
    // Time does not go back, and what is past is still past.
    assert_eq!(bed.advance(5, 10), (1, false));
    bed.arm(2, (1 << 40) + TICK_NS);
    assert_eq!(bed.advance(5, 10), (0, false));
    assert_eq!(bed.advance((1 << 40) + TICK_NS, 10), (1, false));
}

#[test]
fn the_last_nanoseconds_of_time_fire_at_their_end_and_not_before() {
    let last = u64::MAX - 1;
    let mut bed = Bed::new(0, 2);
    bed.arm(0, last);
    bed.arm(1, last - TICK_NS + 3);
    assert_eq!(bed.wheel.next_deadline(), Some(last));
    assert_eq!(bed.advance(last - 1, 10), (0, false));
    assert_eq!(bed.advance(last, 10), (2, false));
    bed.arm(0, last);
    assert_eq!(bed.advance(last, 10), (1, false));
}

#[test]
fn the_bound_holds_for_fires_and_for_moves_down_a_level() {
    let mut bed = Bed::new(0, 1_000);
    // One slot of level 1: all of them have to move down before any is due.
    for i in 0..1_000 {
        bed.arm(i, (70 + i as u64 % 50) * TICK_NS);
    }
    let start_of_slot = 64 * TICK_NS;
    for _ in 0..99 {
        assert_eq!(bed.advance(start_of_slot, 10), (0, true));
        assert_eq!(bed.wheel.next_deadline(), Some(start_of_slot));
    }
    assert_eq!(bed.advance(start_of_slot, 10), (0, false));
    assert_eq!(bed.wheel.next_deadline(), Some(70 * TICK_NS));
    for _ in 0..99 {
        assert_eq!(bed.advance(200 * TICK_NS, 10), (10, true));
    }
    assert_eq!(bed.advance(200 * TICK_NS, 0), (0, true));
    assert_eq!(bed.advance(200 * TICK_NS, 10), (10, false));
}

#[test]
fn nodes_can_be_cancelled_and_armed_amid_a_move_down() {
    const N: usize = 90;
    // In every position of the drain list, after every number of nodes looked at.
    for looked_at in 0..N {
        let mut bed = Bed::new(0, 2 * N);
        for i in 0..N {
            bed.arm(i, (64 + i as u64 % 63) * TICK_NS + 1);
        }
        let (_, more) = bed.advance(70 * TICK_NS, looked_at);
        assert!(more);
        for i in (0..N).filter(|i| i % 3 != looked_at % 3) {
            bed.cancel(i);
            bed.check();
        }
        for i in N..2 * N {
            bed.arm(i, (60 + i as u64 % 80) * TICK_NS);
            bed.check();
        }
        bed.advance_fully(70 * TICK_NS, 1);
        bed.check();
        bed.advance_fully(1_000 * TICK_NS, 7);
        assert!(bed.armed.is_empty());
    }
}

#[test]
fn passed_deadlines_do_not_keep_later_ones_from_firing() {
    let mut bed = Bed::new(0, 20);
    bed.arm(0, 50 * TICK_NS);
    for i in 10..20 {
        bed.arm(i, 1);
    }
    let mut now = 100 * TICK_NS;
    // Ten waiters arm a passed deadline again and again; each call has room for five.
    for round in 0.. {
        assert!(round < 10, "starved");
        assert_eq!(bed.advance(now, 5), (5, true));
        now += TICK_NS;
        if !bed.armed.contains_key(&0) {
            break;
        }
        for i in 10..20 {
            if !bed.armed.contains_key(&i) {
                bed.arm(i, 1);
            }
        }
    }
}

#[test]
fn a_million_nodes_are_neither_lost_nor_early() {
    const N: usize = 1_000_000;
    const SPAN: u64 = 60_000_000_000;
    let nodes = nodes(N);
    let mut deadlines = vec![0; N];
    let mut random = Random(1);
    let mut wheel = Wheel::new(0);
    for i in 0..N {
        deadlines[i] = random.below(SPAN);
        // SAFETY: each node is armed once, and outlives the wheel's last use.
        unsafe { wheel.arm(NonNull::from(&nodes[i]), deadlines[i]) };
    }
    assert_eq!(wheel.len(), N);
    for i in (0..N).step_by(2) {
        // SAFETY: the node is alive and was armed here.
        assert!(unsafe { wheel.cancel(NonNull::from(&nodes[i])) });
    }
    let mut fired = 0;
    let mut now = 0;
    while now < SPAN {
        now += 100_000_000;
        while wheel.advance(now, 1_000, |key| {
            assert_eq!(key.address % 2, 1);
            let deadline = deadlines[key.address as usize];
            assert!(deadline <= now && now - deadline < 100_000_000 + TICK_NS);
            fired += 1;
        }) {}
    }
    let more = wheel.advance(SPAN + TICK_NS, usize::MAX, |_| fired += 1);
    assert!(!more && wheel.is_empty());
    assert_eq!(fired, N / 2);
}

#[test]
fn a_key_can_be_changed_between_two_waits() {
    let mut bed = Bed::new(0, 1);
    bed.arm(0, 1);
    bed.cancel(0);
    let key = TimerKey {
        address: 0,
        sequence: 77,
    };
    bed.nodes[0].set_key(key);
    assert_eq!(bed.nodes[0].key(), key);
    // SAFETY: the node is in no wheel, and outlives it.
    unsafe { bed.wheel.arm(NonNull::from(&bed.nodes[0]), 1) };
    let mut seen = Vec::new();
    assert!(!bed.wheel.advance(TICK_NS, 10, |key| seen.push(key)));
    assert_eq!(seen, [key]);
}

#[test]
fn shared_arm_says_whether_the_sleeper_has_to_be_woken() {
    let wheel = SharedWheel::new(0);
    let nodes = nodes(3);
    let arm = |i: usize, deadline_ns| {
        // SAFETY: each node is armed once at a time, and outlives the wheel's last use.
        unsafe { wheel.arm(NonNull::from(&nodes[i]), deadline_ns) }
    };
    // SAFETY: the nodes are alive and in no other wheel.
    let cancel = |i: usize| unsafe { wheel.cancel(NonNull::from(&nodes[i])) };
    assert_eq!(wheel.next_deadline(), u64::MAX);
    assert!(arm(0, 100 * TICK_NS));
    assert!(!arm(1, 200 * TICK_NS));
    assert!(arm(2, 50 * TICK_NS));
    assert_eq!((wheel.len(), wheel.is_empty()), (3, false));
    assert_eq!(wheel.next_deadline(), 50 * TICK_NS);
    assert!(cancel(2));
    assert!(!cancel(2));
    assert_eq!(wheel.next_deadline(), 100 * TICK_NS);
    assert!(!wheel.advance(100 * TICK_NS - 1, 10, |_| panic!("early")));
    let mut seen = Vec::new();
    assert!(!wheel.advance(100 * TICK_NS, 10, |key| seen.push(key.address)));
    assert_eq!(seen, [0]);
    assert_eq!(wheel.next_deadline(), 200 * TICK_NS);
    assert!(cancel(1));
    assert_eq!(wheel.next_deadline(), u64::MAX);
}

#[test]
fn shared_advance_goes_through_many_batches_and_keeps_its_bound() {
    let wheel = SharedWheel::new(0);
    let nodes = nodes(2_000);
    for node in &nodes {
        // SAFETY: each node is armed once, and outlives the wheel's last use.
        unsafe { wheel.arm(NonNull::from(node), 1) };
    }
    let mut fired = 0;
    assert!(wheel.advance(TICK_NS, 700, |_| fired += 1));
    assert_eq!(fired, 700);
    assert!(!wheel.advance(TICK_NS, usize::MAX, |_| fired += 1));
    assert_eq!(fired, 2_000);
}

#[test]
fn a_fire_that_unwinds_leaves_the_shared_wheel_usable() {
    let wheel = SharedWheel::new(0);
    let nodes = nodes(10);
    for node in &nodes {
        // SAFETY: each node is armed once, and outlives the wheel's last use.
        unsafe { wheel.arm(NonNull::from(node), 1) };
    }
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wheel.advance(TICK_NS, 10, |_| {
            std::panic::resume_unwind(Box::new("on purpose"))
        })
    }));
    assert!(unwound.is_err());
    assert_eq!(wheel.len(), 9);
    let mut fired = 0;
    assert!(!wheel.advance(TICK_NS, 10, |_| fired += 1));
    assert_eq!(fired, 9);
    assert_eq!(wheel.next_deadline(), u64::MAX);
}

#[test]
fn shared_nodes_end_exactly_once_when_cancel_races_with_fire() {
    const THREADS: usize = 3;
    const ROUNDS: u64 = 3_000;
    const NODES: usize = 8;
    let wheel = SharedWheel::new(0);
    let fires: Vec<AtomicU32> = (0..THREADS * NODES).map(|_| AtomicU32::new(0)).collect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (wheel, fires) = (&wheel, &fires);
                scope.spawn(move || {
                    let mut random = Random(thread as u64);
                    let ids: Vec<usize> = (0..NODES).map(|i| thread * NODES + i).collect();
                    for _ in 0..ROUNDS {
                        // New nodes each round: a wheel that came back to one after its end would write to freed memory.
                        let nodes: Box<[TimerNode]> = ids
                            .iter()
                            .map(|id| {
                                TimerNode::new(TimerKey {
                                    address: *id as u64,
                                    sequence: 0,
                                })
                            })
                            .collect();
                        for (node, id) in nodes.iter().zip(&ids) {
                            fires[*id].store(0, Ordering::Relaxed);
                            let deadline = random.spread(24);
                            // SAFETY: the node is new, and is cancelled before the box is dropped.
                            unsafe { wheel.arm(NonNull::from(node), deadline) };
                        }
                        if random.below(2) == 0 {
                            std::thread::yield_now();
                        }
                        for (node, id) in nodes.iter().zip(&ids) {
                            // SAFETY: the node is alive and was armed here.
                            let cancelled = unsafe { wheel.cancel(NonNull::from(node)) };
                            let fired = fires[*id].load(Ordering::Relaxed);
                            assert_eq!(fired + u32::from(cancelled), 1);
                        }
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            let mut now = 0;
            while !stop.load(Ordering::Relaxed) {
                now += TICK_NS;
                while wheel.advance(now, 16, |key| {
                    fires[key.address as usize].fetch_add(1, Ordering::Relaxed);
                }) {}
            }
        });
        let results: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        stop.store(true, Ordering::Relaxed);
        assert!(results.iter().all(Result::is_ok));
    });
    assert!(wheel.is_empty());
    assert_eq!(wheel.next_deadline(), u64::MAX);
}
