//! Row 0: what everything else is made of. Atomics and cells come from std, or from loom when models are checked, so
//! that the code a model explores is the code that ships.

#![allow(unsafe_code)]

pub(crate) mod clock;
#[cfg(not(loom))]
pub(crate) mod fork;
pub(crate) mod membarrier;
#[cfg(not(loom))]
pub(crate) mod os_thread;
pub(crate) mod pad;
pub(crate) mod prefetch;
#[cfg(not(loom))]
pub(crate) mod tls;
pub(crate) mod word_lock;

pub(crate) mod atomic {
    #[cfg(loom)]
    pub(crate) use loom::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, fence};
    pub(crate) use std::sync::atomic::Ordering;
    #[cfg(all(not(loom), not(all(target_arch = "x86_64", not(miri)))))]
    pub(crate) use std::sync::atomic::fence;
    #[cfg(not(loom))]
    pub(crate) use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize};
}

pub(crate) mod sync {
    #[cfg(loom)]
    pub(crate) use loom::sync::{Mutex, MutexGuard};
    #[cfg(not(loom))]
    pub(crate) use std::sync::{Mutex, MutexGuard};
}

/// One step of waiting for another thread that is about to finish something short.
pub(crate) fn spin_hint() {
    #[cfg(loom)]
    loom::thread::yield_now();
    #[cfg(not(loom))]
    std::hint::spin_loop();
}

/// Gives the CPU to another thread: the one that is waited for may have been taken off it.
pub(crate) fn spin_yield() {
    #[cfg(loom)]
    loom::thread::yield_now();
    #[cfg(not(loom))]
    std::thread::yield_now();
}

/// A sequentially consistent fence. On x86-64 a locked operation on the stack line is about half the price of the
/// `mfence` that `fence(SeqCst)` becomes, and orders the same loads and stores (Intel SDM vol. 3, 9.2.2).
#[inline(always)]
pub(crate) fn full_fence() {
    #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
    // SAFETY: adds zero to the word at the stack pointer, which belongs to this thread's stack; the value is unchanged.
    unsafe {
        std::arch::asm!("lock or dword ptr [rsp], 0", options(nostack));
    }
    #[cfg(not(all(target_arch = "x86_64", not(loom), not(miri))))]
    atomic::fence(atomic::Ordering::SeqCst);
}
