//! What a host may choose at start, checked and with the defaults filled in. The C struct is read by `ffi`; this module
//! knows only numbers.

use crate::error::{Error, Result};
use crate::stack::StackClass;

/// Most cores a runtime can have.
pub(crate) const CORES_MAX: u32 = 1024;
const SLICE_MIN_NS: u64 = 100_000;
const SLICE_MAX_NS: u64 = 10_000_000_000;
/// The slice after which a vthread should let others run.
const SLICE_DEFAULT_NS: u64 = 10_000_000;
const ARENA_MIN: usize = 4096;
const ARENA_MAX: usize = 1 << 30;
const ARENA_DEFAULT: usize = 1 << 20;
const OFFLOAD_MAX: u32 = 1024;
/// Guess: enough that a few slow name servers do not hold up file reads; each costs a stack when idle, for 10 s.
const OFFLOAD_DEFAULT: u32 = 64;

/// Most carriers that may be asked for.
const CARRIERS_MAX: u32 = 32_768;

/// SIGURG: ignored by default, and what uses it (out-of-band data) is rare. Go's choice too.
const STOP_SIGNAL: i32 = 23;

/// Whether carriers are put on CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Affinity {
    None,
    Pin,
}

/// What happens to a vthread that runs too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Preemption {
    /// It gives up its turn at calls of the runtime only.
    Cooperative,
    /// Its core is handed to another carrier.
    HandOff,
    /// That, and beyond a few of them they are stopped in turn.
    Stop,
}

/// The options as a host gave them; zero stands for the default.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Given {
    pub(crate) cores: u32,
    pub(crate) affinity: u32,
    pub(crate) slice_ns: u64,
    pub(crate) stack_bytes: usize,
    pub(crate) arena_bytes: usize,
    pub(crate) driver: u32,
    pub(crate) offload_threads: u32,
    pub(crate) preemption: u32,
    pub(crate) carriers_max: u32,
    pub(crate) stop_signal: i32,
}

/// Checked options.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) cores: usize,
    pub(crate) affinity: Affinity,
    pub(crate) slice_ns: u64,
    pub(crate) stack: StackClass,
    pub(crate) arena_bytes: usize,
    pub(crate) offload_threads: usize,
    pub(crate) preemption: Preemption,
    /// Most carriers at a time.
    pub(crate) carriers_max: usize,
    pub(crate) stop_signal: i32,
}

fn in_range<T: PartialOrd + Default + Copy>(value: T, default: T, min: T, max: T) -> Result<T> {
    if value == T::default() {
        Ok(default)
    } else if value < min || value > max {
        Err(Error::RANGE)
    } else {
        Ok(value)
    }
}

impl Options {
    /// `usable` is the number of CPUs that a default start fills, `threads` how many carriers the system will stand.
    pub(crate) fn check(given: Given, usable: usize, threads: usize) -> Result<Options> {
        let threads = u32::try_from(threads)
            .unwrap_or(CARRIERS_MAX)
            .clamp(1, CARRIERS_MAX);
        let usable = u32::try_from(usable).unwrap_or(1).clamp(1, CORES_MAX);
        let affinity = match given.affinity {
            // A bound carrier cannot give way (docs/decisions/0009-no-affinity-by-default.md).
            0 => Affinity::None,
            1 => Affinity::None,
            2 => Affinity::Pin,
            _ => return Err(Error::INVAL),
        };
        let preemption = match given.preemption {
            0 | 2 => Preemption::HandOff,
            1 => Preemption::Cooperative,
            3 => Preemption::Stop,
            _ => return Err(Error::INVAL),
        };
        // 0 chooses, 1 is readiness: the one back end of this version.
        if given.driver > 1 {
            return Err(Error::INVAL);
        }
        let stack = match given.stack_bytes {
            0 => StackClass::K256,
            n => StackClass::for_bytes(n).ok_or(Error::RANGE)?,
        };
        Ok(Options {
            cores: in_range(given.cores, usable, 1, CORES_MAX)? as usize,
            affinity,
            slice_ns: in_range(given.slice_ns, SLICE_DEFAULT_NS, SLICE_MIN_NS, SLICE_MAX_NS)?,
            stack,
            arena_bytes: in_range(given.arena_bytes, ARENA_DEFAULT, ARENA_MIN, ARENA_MAX)?,
            offload_threads: in_range(given.offload_threads, OFFLOAD_DEFAULT, 1, OFFLOAD_MAX)?
                as usize,
            preemption,
            carriers_max: in_range(given.carriers_max, threads, 1, CARRIERS_MAX)? as usize,
            stop_signal: match given.stop_signal {
                0 => STOP_SIGNAL,
                signal => signal,
            },
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn zero_is_the_default_and_absurd_values_are_refused() {
        let o = Options::check(Given::default(), 3, 4096).unwrap();
        assert_eq!(
            (o.cores, o.slice_ns, o.arena_bytes),
            (3, SLICE_DEFAULT_NS, ARENA_DEFAULT)
        );
        let bad = [
            Given {
                cores: CORES_MAX + 1,
                ..Given::default()
            },
            Given {
                slice_ns: 1,
                ..Given::default()
            },
            Given {
                stack_bytes: 1 << 30,
                ..Given::default()
            },
            Given {
                arena_bytes: 1,
                ..Given::default()
            },
            Given {
                offload_threads: 5000,
                ..Given::default()
            },
        ];
        for given in bad {
            assert_eq!(
                Options::check(given, 3, 4096).err(),
                Some(Error::RANGE),
                "{given:?}"
            );
        }
        assert_eq!(
            Options::check(
                Given {
                    affinity: 9,
                    ..Given::default()
                },
                3,
                4096
            )
            .err(),
            Some(Error::INVAL)
        );
        assert_eq!(
            Options::check(
                Given {
                    driver: 9,
                    ..Given::default()
                },
                3,
                4096
            )
            .err(),
            Some(Error::INVAL)
        );
    }
}
