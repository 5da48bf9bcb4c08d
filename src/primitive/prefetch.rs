//! Asking for memory before it is needed. With a thousand connections what is kept of each is in no near cache when its
//! turn comes, and a miss costs about as much as ten instructions of everything else that is done for it.

/// What one fetch brings.
pub(crate) const LINE: usize = 64;

/// Asks for the cache line at `at`, which need not be valid.
#[inline(always)]
pub(crate) fn line<T>(at: *const T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch of any address is harmless.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = at;
}
