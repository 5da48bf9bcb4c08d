//! The system calls of this level, each in one place, with failure on demand in tests.
//!
//! Linux only; another system gets a file of its own with these functions. None of them retries
//! or decides: that is done in `guard`, `slab` and `pool`.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

/// `MADV_GUARD_INSTALL`, Linux 6.13. Not in libc's headers of older systems.
const MADV_GUARD_INSTALL: libc::c_int = 102;
/// `PIDFD_SELF_THREAD`, Linux 6.15: the calling process without opening anything.
const PIDFD_SELF: libc::c_int = -10000;
/// Regions per `process_madvise` call. The kernel takes 1,024; 512 measured no slower per guard and
/// keep the vector at 8 KiB of the caller's stack.
pub(super) const GUARD_BATCH: usize = 512;

/// Bytes of a page.
pub(super) fn page_size() -> usize {
    static PAGE_SIZE: AtomicUsize = AtomicUsize::new(0);
    // Relaxed: the value is the same whoever computes it, and nothing is published with it.
    match PAGE_SIZE.load(Ordering::Relaxed) {
        0 => {
            // SAFETY: sysconf only reads its argument.
            let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
            let bytes = usize::try_from(bytes).unwrap_or(4096).max(4096);
            PAGE_SIZE.store(bytes, Ordering::Relaxed);
            bytes
        }
        bytes => bytes,
    }
}

/// `vm.max_map_count`: how many mappings this process may have. The kernel's default where the file
/// cannot be read.
pub(super) fn max_map_count() -> usize {
    std::fs::read_to_string("/proc/sys/vm/max_map_count")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(65_530)
}

/// New zeroed read-write memory without huge pages, committed page by page when touched.
pub(super) fn map(bytes: usize) -> Option<NonNull<u8>> {
    #[cfg(test)]
    if fail::hit(fail::Call::Map) {
        return None;
    }
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing of ours.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, flags, -1, 0) };
    if base == libc::MAP_FAILED {
        return None;
    }
    // A huge page would make a suspended vthread cost 2 MiB. A kernel without huge pages refuses
    // the advice, and then there is nothing to prevent.
    // SAFETY: `base..base + bytes` was mapped above and nobody else knows it.
    unsafe { libc::madvise(base, bytes, libc::MADV_NOHUGEPAGE) };
    // Addresses of stacks go through integers on their way to a context switch.
    base.expose_provenance();
    NonNull::new(base.cast())
}

/// # Safety
/// `base` and `bytes` are those of one `map`, and nobody uses that memory any more.
pub(super) unsafe fn unmap(base: NonNull<u8>, bytes: usize) {
    // SAFETY: by the contract above. It can fail only at the map count limit, when the kernel
    // merged the mapping with neighbours; then the range stays mapped and unused.
    unsafe { libc::munmap(base.as_ptr().cast(), bytes) };
}

/// Installs up to `count` guards of `bytes` each, `stride` apart, in as few calls as possible.
/// Returns how many, from the first on, are in place.
///
/// # Safety
/// All of these regions are page-aligned, inside one `map`, and hold nothing that is needed.
pub(super) unsafe fn guard_batch(
    first: NonNull<u8>,
    bytes: usize,
    stride: usize,
    count: usize,
) -> usize {
    #[cfg(test)]
    if fail::hit(fail::Call::GuardBatch) {
        return 0;
    }
    // SAFETY: the caller's contract.
    let done = unsafe { guard_batch_by(PIDFD_SELF, first, bytes, stride, count) };
    if done > 0 {
        return done;
    }
    // A kernel from before PIDFD_SELF. Opened anew for each batch: a kept descriptor would be one
    // the host can see and close, and after fork it would name the parent.
    // SAFETY: takes and returns plain integers.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0) };
    let Ok(pidfd @ 0..) = libc::c_int::try_from(pidfd) else {
        return 0;
    };
    // SAFETY: the caller's contract.
    let done = unsafe { guard_batch_by(pidfd, first, bytes, stride, count) };
    // SAFETY: opened above and known to nobody else.
    unsafe { libc::close(pidfd) };
    done
}

/// # Safety
/// As for `guard_batch`; `pidfd` names this process.
unsafe fn guard_batch_by(
    pidfd: libc::c_int,
    first: NonNull<u8>,
    bytes: usize,
    stride: usize,
    count: usize,
) -> usize {
    let empty = libc::iovec {
        iov_base: std::ptr::null_mut(),
        iov_len: 0,
    };
    let mut regions = [empty; GUARD_BATCH];
    let mut done = 0;
    while done < count {
        let regions = &mut regions[..(count - done).min(GUARD_BATCH)];
        for (i, region) in regions.iter_mut().enumerate() {
            region.iov_base = first.as_ptr().wrapping_add((done + i) * stride).cast();
            region.iov_len = bytes;
        }
        // SAFETY: the regions are those of the caller's contract, the vector outlives the call.
        let advised = unsafe {
            libc::syscall(
                libc::SYS_process_madvise,
                pidfd,
                regions.as_ptr(),
                regions.len(),
                MADV_GUARD_INSTALL,
                0,
            )
        };
        // The kernel stops at the first region that fails and returns the bytes before it.
        match usize::try_from(advised).map(|advised| advised / bytes) {
            Err(_) | Ok(0) => break,
            Ok(regions) => done += regions,
        }
    }
    done
}

/// Installs one guard; false if this kernel or this memory (locked) has none to offer.
///
/// # Safety
/// As for `guard_batch`, for one region.
pub(super) unsafe fn guard_one(start: NonNull<u8>, bytes: usize) -> bool {
    #[cfg(test)]
    if fail::hit(fail::Call::Guard) {
        return false;
    }
    // SAFETY: the caller's contract.
    unsafe { libc::madvise(start.as_ptr().cast(), bytes, MADV_GUARD_INSTALL) == 0 }
}

/// Takes away all access; costs two of the process's mappings.
///
/// # Safety
/// As for `guard_batch`, for one region.
pub(super) unsafe fn protect(start: NonNull<u8>, bytes: usize) -> bool {
    #[cfg(test)]
    if fail::hit(fail::Call::Protect) {
        return false;
    }
    // SAFETY: the caller's contract.
    unsafe { libc::mprotect(start.as_ptr().cast(), bytes, libc::PROT_NONE) == 0 }
}

/// Gives the pages back to the kernel; the next touch finds zeroes. False if it refused (locked
/// memory), which leaves the pages as they were.
///
/// # Safety
/// The region is page-aligned, inside one `map`, and its content is needed by nobody.
pub(super) unsafe fn discard(start: NonNull<u8>, bytes: usize) -> bool {
    // SAFETY: the caller's contract.
    unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_DONTNEED) == 0 }
}

/// Which pages are in memory: bit 0 of one byte per page.
///
/// # Safety
/// The region is page-aligned and mapped.
pub(super) unsafe fn residency(start: NonNull<u8>, bytes: usize, resident: &mut [u8]) -> bool {
    assert!(resident.len() * page_size() >= bytes);
    // SAFETY: the caller's contract; the kernel writes one byte per page, which fit.
    unsafe { libc::mincore(start.as_ptr().cast(), bytes, resident.as_mut_ptr()) == 0 }
}

/// Failure on demand: makes calls of the current thread fail.
#[cfg(test)]
pub(super) mod fail {
    use std::cell::Cell;

    #[derive(Clone, Copy)]
    pub(in super::super) enum Call {
        Map,
        GuardBatch,
        Guard,
        Protect,
    }

    thread_local! {
        /// Per call: how many more succeed, and how many then fail.
        static PLAN: Cell<[(usize, usize); 4]> = const { Cell::new([(0, 0); 4]) };
    }

    /// From now on `succeed` calls of this kind go through, then `fail` calls fail.
    pub(in super::super) fn arm(call: Call, succeed: usize, fail: usize) {
        let mut plan = PLAN.get();
        plan[call as usize] = (succeed, fail);
        PLAN.set(plan);
    }

    pub(super) fn hit(call: Call) -> bool {
        let mut plan = PLAN.get();
        let (succeed, fail) = &mut plan[call as usize];
        let hit = *succeed == 0 && *fail > 0;
        if hit {
            *fail -= usize::from(*fail != usize::MAX);
        } else {
            *succeed = succeed.saturating_sub(1);
        }
        PLAN.set(plan);
        hit
    }
}
