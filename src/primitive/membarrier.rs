//! A memory barrier that one side pays for: [`light`] costs nothing at run time, because [`heavy`] makes every running
//! thread of the process go through a full one (membarrier(2), Linux 4.14). For pairs of which one side is a hundred
//! thousand times as frequent.
//!
//! Of a thread that stores A, `light`, loads B, and one that stores B, `heavy`, loads A, at least one sees the other's
//! store.

/// Prepares the process; false if the system has no such barrier. To be called once before the first [`light`].
pub(crate) fn register() -> bool {
    #[cfg(all(target_os = "linux", not(miri), not(loom)))]
    {
        use std::sync::OnceLock;
        static REGISTERED: OnceLock<bool> = OnceLock::new();
        // Registering again does no harm, and is kept over fork(2).
        *REGISTERED.get_or_init(|| {
            // SAFETY: takes no pointers; changes nothing that the process can notice.
            unsafe {
                libc::syscall(
                    libc::SYS_membarrier,
                    libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED,
                    0,
                    0,
                ) == 0
            }
        })
    }
    #[cfg(not(all(target_os = "linux", not(miri), not(loom))))]
    cfg!(loom)
}

/// The frequent side.
#[inline(always)]
pub(crate) fn light() {
    #[cfg(not(loom))]
    std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
    #[cfg(loom)]
    super::full_fence();
}

/// The rare side. Costs about a microsecond. False: there was no barrier. The kernel may be out of memory, or a filter
/// that was set up since forbids it.
#[must_use]
pub(crate) fn heavy() -> bool {
    #[cfg(all(target_os = "linux", not(miri), not(loom)))]
    // SAFETY: as in `register`.
    let done = unsafe {
        libc::syscall(
            libc::SYS_membarrier,
            libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED,
            0,
            0,
        ) == 0
    };
    #[cfg(not(all(target_os = "linux", not(miri), not(loom))))]
    let done = true;
    super::full_fence();
    done
}
