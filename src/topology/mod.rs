//! Which CPUs the process may use, and putting a carrier on one of them. The only module that names core_affinity.

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
