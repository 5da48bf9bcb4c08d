//! Guards below stacks, by the best means the kernel offers.
//!
//! Tried in this order, anew for each batch, because memory that is locked today may not be tomorrow:
//!
//! 1. `process_madvise(MADV_GUARD_INSTALL)`: 0.7 us a guard and no mapping of its own.
//! 2. `madvise(MADV_GUARD_INSTALL)`, one by one: where seccomp keeps the batch call away.
//! 3. `mprotect`: older kernels and locked memory. Each guard splits a mapping, and a process may
//!    have only `vm.max_map_count` of them, so their number is bounded for the whole process.
//! 4. None: the stack works, an overflow goes unnoticed, and the counts say so.

use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::sys;
use super::valgrind::running_on_valgrind;

/// How a stack overflow is caught, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardMode {
    Install,
    Mprotect,
    None,
}

/// How many stacks have which guard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct GuardCounts {
    pub(super) installed: usize,
    pub(super) mprotected: usize,
    pub(super) unguarded: usize,
}

/// Guards made by `mprotect` in this process, over all runtimes: they share one map count.
static MPROTECTED: AtomicUsize = AtomicUsize::new(0);

/// A guard and the stack above it are two mappings. A twelfth is left to the host: with the default
/// of 65,530 mappings this allows 30,035 guards.
fn mprotect_limit() -> usize {
    static LIMIT: OnceLock<usize> = OnceLock::new();
    *LIMIT.get_or_init(|| {
        let maps = sys::max_map_count();
        (maps - maps / 12) / 2
    })
}

fn reserve_mprotect() -> bool {
    // Relaxed: only the number matters, no other memory hangs on it.
    MPROTECTED
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
            (n < mprotect_limit()).then_some(n + 1)
        })
        .is_ok()
}

/// Tells the process-wide bound that `count` protected guards were unmapped.
pub(super) fn release_mprotected(count: usize) {
    MPROTECTED.fetch_sub(count, Ordering::Relaxed);
}

/// Guards `count` regions of `bytes`, `stride` apart. Never fails: what cannot be guarded is counted.
///
/// # Safety
/// All of these regions are page-aligned, inside one `sys::map`, and hold nothing that is needed.
pub(super) unsafe fn install(
    first: NonNull<u8>,
    bytes: usize,
    stride: usize,
    count: usize,
) -> GuardCounts {
    // SAFETY: for each index below `count` the region is inside the mapping (contract).
    let region = |index: usize| unsafe { first.add(index * stride) };
    let mut counts = GuardCounts::default();

    // Valgrind reports the batch call as unknown on stderr; one by one is fast enough there.
    if !running_on_valgrind() {
        // SAFETY: the caller's contract.
        counts.installed = unsafe { sys::guard_batch(first, bytes, stride, count) };
    }
    // SAFETY: the caller's contract, for one region.
    while counts.installed < count && unsafe { sys::guard_one(region(counts.installed), bytes) } {
        counts.installed += 1;
    }
    for index in counts.installed..count {
        if !reserve_mprotect() {
            break;
        }
        // SAFETY: the caller's contract, for one region.
        if !unsafe { sys::protect(region(index), bytes) } {
            // At the map count limit; the next ones would fail as well.
            release_mprotected(1);
            break;
        }
        counts.mprotected += 1;
    }
    counts.unguarded = count - counts.installed - counts.mprotected;
    counts
}

/// The mode a stack carved now would get.
pub(super) fn probe() -> GuardMode {
    let page = sys::page_size();
    let Some(base) = sys::map(2 * page) else {
        return GuardMode::None;
    };
    // SAFETY: one region of one page, the first of a mapping that holds nothing.
    let counts = unsafe { install(base, page, page, 1) };
    // SAFETY: mapped above and known to nobody else.
    unsafe { sys::unmap(base, 2 * page) };
    release_mprotected(counts.mprotected);
    counts.weakest().unwrap_or(GuardMode::None)
}

impl GuardCounts {
    /// The worst guard in use; `None` if there is no stack at all.
    pub(super) fn weakest(&self) -> Option<GuardMode> {
        if self.unguarded > 0 {
            Some(GuardMode::None)
        } else if self.mprotected > 0 {
            Some(GuardMode::Mprotect)
        } else if self.installed > 0 {
            Some(GuardMode::Install)
        } else {
            None
        }
    }
}

/// Computes what would otherwise be computed under a lock at first use, before a test forks.
#[cfg(test)]
pub(super) fn warm_up() {
    mprotect_limit();
    running_on_valgrind();
}

/// `probe` with all failures on demand taken back.
#[cfg(test)]
pub(super) fn probe_unhindered() -> GuardMode {
    use sys::fail::{Call, arm};
    for call in [Call::Map, Call::GuardBatch, Call::Guard, Call::Protect] {
        arm(call, 0, 0);
    }
    probe()
}

/// Leaves the process `room` guards by `mprotect`; returns how many it counted so far.
#[cfg(test)]
pub(super) fn leave_mprotect_room(room: usize) -> usize {
    let limit = mprotect_limit();
    MPROTECTED.swap(limit - room, Ordering::Relaxed)
}
