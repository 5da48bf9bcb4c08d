//! Row 7: assembles the parts into a runtime: start, stop, the registry of handles, what statistics are read from.

#![allow(unsafe_code)]

mod registry;
mod snapshot;
mod start;

pub(crate) use registry::{RuntimeId, RuntimeRef, current, with_vthread};
pub(crate) use snapshot::{
    VthreadInfo, core_snapshot, describe, for_each_vthread, runtime_snapshot,
};
pub(crate) use start::{destroy, features, start, stop};

/// CLOCK_MONOTONIC in nanoseconds, some milliseconds late; for deadlines that are far.
pub(crate) fn coarse_ns() -> u64 {
    crate::primitive::clock::coarse_ns()
}

/// CLOCK_MONOTONIC in nanoseconds.
pub(crate) fn now_ns() -> u64 {
    crate::primitive::clock::now_ns()
}

/// The core the caller is on at present, 0 outside of all: for what is better kept near, since it may be another one next.
pub(crate) fn core_hint() -> usize {
    crate::scheduler::current::core_index().unwrap_or(0)
}
