//! Telling Valgrind where stacks are, so that it takes a switch for a switch and not for a function
//! with a giant frame.
//!
//! A client request is a sequence of instructions that changes nothing on a real processor and that
//! Valgrind recognises (`valgrind.h`, `VALGRIND_DO_CLIENT_REQUEST_EXPR`). Outside Valgrind nothing
//! but the first question is ever asked.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

const RUNNING_ON_VALGRIND: usize = 0x1001;
const STACK_REGISTER: usize = 0x1501;
const STACK_DEREGISTER: usize = 0x1502;

/// Whether this process runs under Valgrind.
pub fn running_on_valgrind() -> bool {
    const UNKNOWN: u8 = 0;
    const NO: u8 = 1;
    const YES: u8 = 2;
    static ANSWER: AtomicU8 = AtomicU8::new(UNKNOWN);
    // Relaxed: the answer is the same whoever asks, and nothing is published with it.
    match ANSWER.load(Ordering::Relaxed) {
        UNKNOWN => {
            let yes = request([RUNNING_ON_VALGRIND, 0, 0]) != 0;
            ANSWER.store(if yes { YES } else { NO }, Ordering::Relaxed);
            yes
        }
        answer => answer == YES,
    }
}

/// Announces `bytes` from `limit` up as a stack; returns Valgrind's number for it.
pub(super) fn register(limit: NonNull<u8>, bytes: usize) -> usize {
    // Valgrind takes the end as inclusive; an empty stack's pointer is one past the last byte.
    let limit = limit.addr().get();
    request([STACK_REGISTER, limit, limit + bytes])
}

pub(super) fn deregister(id: usize) {
    request([STACK_DEREGISTER, id, 0]);
}

/// While it lives, Valgrind knows the calling thread's own stack. Without that it takes a switch to a vthread's stack that
/// lies nearby for a function with a giant frame, and back for its end.
pub struct OwnStack(usize);

impl OwnStack {
    /// None outside Valgrind.
    pub fn announce() -> Option<OwnStack> {
        if !running_on_valgrind() {
            return None;
        }
        let mut limit = std::ptr::null_mut();
        let mut bytes = 0;
        // SAFETY: the attributes are filled in for the calling thread, read, and given back.
        unsafe {
            let mut attributes = std::mem::zeroed::<libc::pthread_attr_t>();
            if libc::pthread_getattr_np(libc::pthread_self(), &mut attributes) != 0 {
                return None;
            }
            libc::pthread_attr_getstack(&attributes, &mut limit, &mut bytes);
            libc::pthread_attr_destroy(&mut attributes);
        }
        let limit = NonNull::new(limit.cast())?;
        Some(OwnStack(register(limit, bytes)))
    }
}

impl Drop for OwnStack {
    fn drop(&mut self) {
        deregister(self.0);
    }
}

/// Request and arguments in; Valgrind's answer, or 0 without Valgrind.
#[cfg(target_arch = "x86_64")]
fn request([code, first, second]: [usize; 3]) -> usize {
    let words = [code, first, second, 0, 0, 0];
    let mut answer = 0usize;
    // SAFETY: the rotations add up to 128 bits and the exchange is of a register with itself, so
    // nothing changes but the flags, which asm! takes as clobbered. Valgrind reads `words`.
    unsafe {
        std::arch::asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            inout("rdx") answer,
            in("rax") words.as_ptr(),
            options(nostack),
        );
    }
    answer
}

/// Request and arguments in; Valgrind's answer, or 0 without Valgrind.
#[cfg(target_arch = "aarch64")]
fn request([code, first, second]: [usize; 3]) -> usize {
    let words = [code, first, second, 0, 0, 0];
    let mut answer = 0usize;
    // SAFETY: the rotations add up to 128 bits and the last instruction is an OR of a register with
    // itself, so nothing changes. Valgrind reads `words`.
    unsafe {
        std::arch::asm!(
            "ror x12, x12, #3",
            "ror x12, x12, #13",
            "ror x12, x12, #51",
            "ror x12, x12, #61",
            "orr x10, x10, x10",
            inout("x3") answer,
            in("x4") words.as_ptr(),
            options(nostack),
        );
    }
    answer
}

/// Valgrind is not asked on other processors.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn request(_: [usize; 3]) -> usize {
    0
}
