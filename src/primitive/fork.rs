//! Noticing that the process is a fork, without a handler and without a system call per check.
//!
//! One page is marked MADV_WIPEONFORK (Linux 4.14, madvise(2)): it reads as zero in a child. The first check in a child
//! finds the zero, starts a new *epoch* and marks the page again. A runtime remembers the epoch it was started in. Where
//! the kernel cannot do that, the process id is compared instead.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

static EPOCH: AtomicU32 = AtomicU32::new(1);
/// The process that `EPOCH` was last advanced in, where there is no page.
static PROCESS: AtomicU32 = AtomicU32::new(0);

/// The page, if there is one.
fn page() -> Option<&'static AtomicU32> {
    static PAGE: OnceLock<Option<&'static AtomicU32>> = OnceLock::new();
    *PAGE.get_or_init(|| {
        let len = 4096;
        let (prot, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: a new private mapping; it is kept for the life of the process, or given back at once below.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return None;
        }
        // SAFETY: advises on the mapping made above.
        if unsafe { libc::madvise(at, len, libc::MADV_WIPEONFORK) } != 0 {
            // SAFETY: unmaps what was mapped above; nobody has its address.
            unsafe { libc::munmap(at, len) };
            return None;
        }
        // SAFETY: page-aligned, zeroed, never unmapped from here on.
        let page = unsafe { &*at.cast::<AtomicU32>() };
        page.store(1, Ordering::Relaxed);
        Some(page)
    })
}

/// The epoch of this process: constant in one process, another one in a child of fork(2).
#[inline]
pub(crate) fn epoch() -> u32 {
    let (cell, expected, mark) = match page() {
        Some(page) => (page, 0, 1),
        None => {
            let id = std::process::id();
            let last = PROCESS.load(Ordering::Relaxed);
            if last == id {
                return EPOCH.load(Ordering::Relaxed);
            }
            (&PROCESS, last, id)
        }
    };
    if cell.load(Ordering::Relaxed) != mark
        && cell
            .compare_exchange(expected, mark, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    {
        return EPOCH.fetch_add(1, Ordering::Relaxed) + 1;
    }
    EPOCH.load(Ordering::Relaxed)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_does_not_change_within_a_process() {
        let first = epoch();
        assert_eq!(epoch(), first);
        assert_eq!(std::thread::spawn(epoch).join().unwrap(), first);
    }
}
