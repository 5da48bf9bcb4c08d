//! Which CPUs the process may use, how many threads, and putting a carrier on a CPU. The only module that names
//! core_affinity.

#![allow(unsafe_code)]

use std::fs;

/// Threads that hand-off may use where the system sets no lower limit.
const THREADS_MAX: usize = 4096;

/// The CPUs of this process.
#[derive(Clone, Debug)]
pub(crate) struct Topology {
    allowed: Vec<core_affinity::CoreId>,
    usable: usize,
}

impl Topology {
    /// Reads the affinity mask and the CPU quota (cgroup) of the process as they are now.
    pub(crate) fn read() -> Topology {
        let allowed = core_affinity::get_core_ids().unwrap_or_default();
        let usable = std::thread::available_parallelism().map_or(1, usize::from);
        Topology { allowed, usable }
    }

    /// How many cores make sense: the allowed CPUs, or less under a CPU quota.
    pub(crate) fn usable(&self) -> usize {
        self.usable
    }

    /// Puts the calling thread on the CPU for core `index`; false if the system refuses.
    pub(crate) fn pin(&self, index: usize) -> bool {
        match self.allowed.get(index % self.allowed.len().max(1)) {
            Some(id) => core_affinity::set_for_current(*id),
            None => false,
        }
    }
}

/// The CPUs of core `index` of a runtime whose carriers are bound to CPUs, and of all of them together.
#[derive(Clone)]
pub(crate) struct Cpus {
    allowed: libc::cpu_set_t,
    cpus: Box<[usize]>,
}

impl Cpus {
    /// Reads what the calling thread may use.
    pub(crate) fn read() -> Cpus {
        // SAFETY: a plain bit set; filled in for the calling thread. The macros look at bits inside of it.
        unsafe {
            let mut allowed = std::mem::zeroed::<libc::cpu_set_t>();
            libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut allowed);
            let cpus =
                (0..libc::CPU_SETSIZE as usize).filter(|cpu| libc::CPU_ISSET(*cpu, &allowed));
            let cpus = cpus.collect();
            Cpus { allowed, cpus }
        }
    }

    /// Puts thread `id` on the CPU of core `index`.
    pub(crate) fn bind(&self, id: i32, index: usize) {
        let Some(cpu) = self.cpus.get(index % self.cpus.len().max(1)) else {
            return;
        };
        // SAFETY: as above.
        unsafe {
            let mut one = std::mem::zeroed::<libc::cpu_set_t>();
            libc::CPU_SET(*cpu, &mut one);
            libc::sched_setaffinity(id, size_of::<libc::cpu_set_t>(), &one);
        }
    }

    /// Lets thread `id` run on all of them again.
    pub(crate) fn release(&self, id: i32) {
        // SAFETY: as above.
        unsafe { libc::sched_setaffinity(id, size_of::<libc::cpu_set_t>(), &self.allowed) };
    }
}

/// How many threads of one runtime the system will stand: half of what the user (RLIMIT_NPROC) or the control group
/// (pids.max) may have, at most 4,096.
pub(crate) fn thread_limit() -> usize {
    let mut limit = THREADS_MAX;
    let mut user = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: writes to a local.
    if unsafe { libc::getrlimit(libc::RLIMIT_NPROC, &mut user) } == 0 {
        limit = limit.min(usize::try_from(user.rlim_cur / 2).unwrap_or(limit));
    }
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    if let Some(path) = own.lines().find_map(|line| line.strip_prefix("0::")) {
        let file = format!("/sys/fs/cgroup{}/pids.max", path.trim_end_matches('/'));
        let pids = fs::read_to_string(file).unwrap_or_default();
        if let Ok(pids) = pids.trim().parse::<usize>() {
            limit = limit.min(pids / 2);
        }
    }
    limit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_leaves_room_for_the_host() {
        let limit = thread_limit();
        assert!(limit > 0 && limit <= THREADS_MAX);
    }

    #[test]
    fn a_thread_is_put_on_a_cpu_and_let_go_again() {
        let affinity = Cpus::read();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let id = crate::primitive::os_thread::OsThread::of_this_thread().id();
                affinity.bind(id, 1);
                assert_eq!(Cpus::read().cpus.len(), 1);
                affinity.release(id);
                assert_eq!(Cpus::read().cpus, affinity.cpus);
            });
        });
    }
}
