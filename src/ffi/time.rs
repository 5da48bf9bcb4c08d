//! Time and version.

use crate::primitive::clock;

/// A deadline that never passes.
pub const SWN_FOREVER: u64 = u64::MAX;
/// Version of this header.
pub const SWN_VERSION_MAJOR: u32 = 0;
/// Version of this header.
pub const SWN_VERSION_MINOR: u32 = 1;
/// Version of this header.
pub const SWN_VERSION_PATCH: u32 = 0;

/// The version of the library in use: major << 16 | minor << 8 | patch. Any thread; never parks.
#[unsafe(no_mangle)]
pub extern "C" fn swn_version() -> u32 {
    SWN_VERSION_MAJOR << 16 | SWN_VERSION_MINOR << 8 | SWN_VERSION_PATCH
}

/// Now: CLOCK_MONOTONIC nanoseconds, as all deadlines are. Any thread; never parks.
#[unsafe(no_mangle)]
pub extern "C" fn swn_now() -> u64 {
    clock::now_ns()
}

/// The deadline timeout_ns nanoseconds from now; SWN_FOREVER where that would overflow. Any thread; never parks.
#[unsafe(no_mangle)]
pub extern "C" fn swn_deadline_after(timeout_ns: u64) -> u64 {
    clock::now_ns().saturating_add(timeout_ns)
}
