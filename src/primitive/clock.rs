//! Two clocks. Deadlines are CLOCK_MONOTONIC nanoseconds, read where a deadline is compared. Durations are measured in
//! *ticks* of the CPU's invariant counter, which costs half as much to read and is taken at every switch; they are
//! converted with a factor calibrated once per process, and are never compared with a deadline.

use std::sync::OnceLock;

/// "No deadline": the largest value.
pub(crate) const FOREVER: u64 = u64::MAX;

/// CLOCK_MONOTONIC in nanoseconds (clock_gettime(2)).
pub(crate) fn now_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// CLOCK_MONOTONIC as of the last timer tick of the kernel (1 to 10 ms ago): a third of the price, for deadlines that are
/// seconds away.
pub(crate) fn coarse_ns() -> u64 {
    #[cfg(target_os = "linux")]
    return clock_ns(libc::CLOCK_MONOTONIC_COARSE);
    #[cfg(not(target_os = "linux"))]
    now_ns()
}

/// CPU time used by the calling OS thread, in nanoseconds.
pub(crate) fn thread_cpu_ns() -> u64 {
    clock_ns(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// What `clock` says; 0 for the clock of a thread that has ended.
pub(super) fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut t = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `t` is a valid timespec to write to; the clocks named in this file exist on every supported kernel.
    unsafe { libc::clock_gettime(clock, &mut t) };
    (t.tv_sec as u64)
        .wrapping_mul(1_000_000_000)
        .wrapping_add(t.tv_nsec as u64)
}

/// Converts ticks to nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TickRate {
    /// Nanoseconds per tick, times 2^32.
    scale: u64,
    counter: bool,
}

impl TickRate {
    /// The process's rate; the first call takes about 2 ms to calibrate it.
    pub(crate) fn get() -> TickRate {
        static RATE: OnceLock<TickRate> = OnceLock::new();
        *RATE.get_or_init(calibrate)
    }

    /// Now, in ticks.
    #[inline(always)]
    pub(crate) fn now(self) -> u64 {
        if self.counter { counter() } else { now_ns() }
    }

    /// The duration of `ticks` in nanoseconds.
    #[inline(always)]
    pub(crate) fn to_ns(self, ticks: u64) -> u64 {
        ((u128::from(ticks) * u128::from(self.scale)) >> 32) as u64
    }

    /// The ticks in `ns` nanoseconds.
    pub(crate) fn ticks_in(self, ns: u64) -> u64 {
        ((u128::from(ns) << 32) / u128::from(self.scale)).min(u128::from(u64::MAX)) as u64
    }
}

fn calibrate() -> TickRate {
    let plain = TickRate {
        scale: 1 << 32,
        counter: false,
    };
    if !counter_is_invariant() {
        return plain;
    }
    let pair = || {
        // The tightest of several readings: the two clocks are read as close together as this machine allows.
        let mut best = (u64::MAX, 0, 0);
        for _ in 0..16 {
            let before = counter();
            let ns = now_ns();
            let after = counter();
            let width = after.wrapping_sub(before);
            if width < best.0 {
                best = (width, before.wrapping_add(width / 2), ns);
            }
        }
        (best.1, best.2)
    };
    let (tick0, ns0) = pair();
    while now_ns() - ns0 < 2_000_000 {
        std::hint::spin_loop();
    }
    let (tick1, ns1) = pair();
    let ticks = tick1.wrapping_sub(tick0);
    if ticks == 0 || ticks > 1 << 40 {
        return plain;
    }
    let scale = (u128::from(ns1 - ns0) << 32) / u128::from(ticks);
    match u64::try_from(scale) {
        Ok(scale) if scale > 0 => TickRate {
            scale,
            counter: true,
        },
        _ => plain,
    }
}

#[cfg(target_arch = "x86_64")]
fn counter_is_invariant() -> bool {
    use std::arch::x86_64::__cpuid;
    // Leaf 0x8000_0007, EDX bit 8: the counter runs at one rate in all power states (Intel SDM vol. 3, 18.17.1).
    __cpuid(0x8000_0000).eax >= 0x8000_0007 && __cpuid(0x8000_0007).edx & (1 << 8) != 0
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn counter() -> u64 {
    // SAFETY: reads the time stamp counter; available on every x86-64 and not trapped on Linux by default.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(target_arch = "aarch64")]
fn counter_is_invariant() -> bool {
    true
}

#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn counter() -> u64 {
    let v: u64;
    // SAFETY: reads the virtual counter, which Linux lets user space read.
    unsafe { std::arch::asm!("mrs {}, cntvct_el0", out(reg) v, options(nomem, nostack)) };
    v
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn counter_is_invariant() -> bool {
    false
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn counter() -> u64 {
    now_ns()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn ticks_and_nanoseconds_agree_within_a_percent() {
        let rate = TickRate::get();
        let (t0, n0) = (rate.now(), now_ns());
        while now_ns() - n0 < 20_000_000 {
            std::hint::spin_loop();
        }
        let (ticks, ns) = (rate.to_ns(rate.now() - t0), now_ns() - n0);
        assert!(ticks.abs_diff(ns) < ns / 50, "{ticks} against {ns}");
        assert!(rate.to_ns(rate.ticks_in(1_000_000)).abs_diff(1_000_000) < 1000);
    }
}
