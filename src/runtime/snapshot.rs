//! What can be seen of a runtime while it runs, without stopping anyone.

use super::registry::Runtime;
use crate::metrics::{CoreSnapshot, RuntimeSnapshot};
use crate::primitive::clock;
use crate::scheduler::shared::Shared;
use crate::scheduler::spawn;
use crate::stack::Stack;
use crate::vthread::record::RecordRef;
use crate::vthread::state::Phase;
use std::sync::atomic::{AtomicU64, Ordering};

/// The gauges, the cores and their sum.
pub(crate) fn runtime_snapshot(runtime: &Runtime) -> RuntimeSnapshot {
    let shared = &*runtime.shared;
    let stacks = shared.stacks.counts();
    let cores: Vec<CoreSnapshot> = (0..shared.cores())
        .map(|core| shared.core_snapshot(core))
        .collect();
    let mut total = CoreSnapshot::default();
    for core in &cores {
        total.merge(core);
    }
    total.merge(&shared.unheld_snapshot());
    total.spawned += shared.spawned_outside.load(Ordering::Relaxed);
    let (counts, strength) = (&shared.crew.counts, shared.crew.strength());
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    total.preempted = of(&counts.slice);
    RuntimeSnapshot {
        uptime_ns: clock::now_ns().saturating_sub(runtime.started_ns),
        cores_parked: shared
            .remotes
            .iter()
            .filter(|r| r.parked.load(Ordering::Relaxed))
            .count() as u64,
        live: total.spawned.saturating_sub(total.completed),
        timers_armed: shared.remotes.iter().map(|r| r.wheel.len() as u64).sum(),
        stacks_live: stacks.live as u64,
        stacks_live_max: stacks.live_max as u64,
        stacks_cached: (stacks.cached + stacks.free) as u64,
        stack_bytes_mapped: stacks.mapped_bytes as u64,
        stack_failures: stacks.failures as u64,
        arena_bytes: shared.arenas.counts().bytes as u64,
        queue_depth: shared.queue_depth() as u64,
        carriers: strength.alive as u64,
        carriers_spare: strength.spares as u64,
        carriers_without_core: strength.without as u64,
        carriers_lowered: of(&counts.lowered),
        handoffs_blocked: of(&counts.blocked),
        handoffs_announced: of(&counts.announced),
        handoffs_bound: of(&counts.bound),
        handoffs_forced: of(&counts.forced),
        handoffs_denied: of(&counts.denied),
        rejoins: of(&counts.rejoined),
        stops: shared.stopper.as_ref().map_or(0, |s| of(&s.stopped)),
        sections_unbalanced: of(&counts.unbalanced),
        cores,
        total,
    }
}

/// What core `index` counted.
pub(crate) fn core_snapshot(shared: &Shared, index: usize) -> Option<CoreSnapshot> {
    (index < shared.cores()).then(|| shared.core_snapshot(index))
}

/// One vthread, as it was while it was looked at.
pub(crate) struct VthreadInfo {
    pub(crate) handle: u64,
    pub(crate) phase: Phase,
    /// It runs without a core.
    pub(crate) preempted: bool,
    pub(crate) reason: u8,
    pub(crate) core: u16,
    pub(crate) last_resume_ns: u64,
    pub(crate) cpu_ns: u64,
    pub(crate) stack_bytes: usize,
    pub(crate) stack_high_water: usize,
    pub(crate) name: [u8; 16],
}

/// Describes the vthread of a record; None if the record is free or changed hands meanwhile. The high-water mark of its
/// stack costs a system call, and is asked for with `deep` only.
pub(crate) fn describe(shared: &Shared, record: RecordRef, deep: bool) -> Option<VthreadInfo> {
    let vthread = record.get();
    let before = vthread.state.read();
    if before.phase() == Phase::Free {
        return None;
    }
    let handle = spawn::handle(shared, record);
    // Before the first mount, what is to be seen may be of an earlier use of the record.
    let started = before.phase() != Phase::Created;
    let stack = stack_of(vthread.seen.stack_address.load(Ordering::Relaxed));
    let info = VthreadInfo {
        handle,
        phase: before.phase(),
        preempted: vthread.is_preempted(),
        // A completion that has not started waits too.
        reason: if started || before.open_wait().is_some() {
            vthread.seen.reason.load(Ordering::Relaxed) & 0x7f
        } else {
            0
        },
        core: vthread.seen.core.load(Ordering::Relaxed),
        last_resume_ns: if started {
            shared.tick_to_ns(vthread.seen.last_resume_tick.load(Ordering::Relaxed))
        } else {
            0
        },
        cpu_ns: if started {
            vthread.seen.cpu_ns.load(Ordering::Relaxed)
        } else {
            0
        },
        stack_bytes: stack.map_or(0, |s| s.class().bytes()),
        stack_high_water: stack.filter(|_| deep).map_or(0, Stack::resident_high_water),
        name: vthread.name(if started {
            vthread.is_named()
        } else {
            record.has_extra()
        }),
    };
    (vthread.state.read().generation() == before.generation()).then_some(info)
}

fn stack_of(bits: u64) -> Option<Stack> {
    // SAFETY: zero, or the bits of a Stack (`carrier::stack_bits`); an Option of it is one address that may be null. The
    // stack stays mapped while the runtime lives, so looking at it later is harmless.
    unsafe { std::mem::transmute::<u64, Option<Stack>>(bits) }
}

/// Calls `f` for each vthread until it returns false; says for how many.
pub(crate) fn for_each_vthread(shared: &Shared, mut f: impl FnMut(&VthreadInfo) -> bool) -> u64 {
    let mut visited = 0;
    for slot in 0..shared.table.slots() {
        let Some(info) = shared
            .table
            .get(slot)
            .and_then(|record| describe(shared, record, false))
        else {
            continue;
        };
        visited += 1;
        if !f(&info) {
            break;
        }
    }
    visited
}
