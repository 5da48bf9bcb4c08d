//! One thread-local word: what the calling OS thread carries.
//!
//! The hazard that this file exists for: a compiler may compute the address of a thread-local variable once per function,
//! and a vthread may leave a call on another OS thread than it entered it. On x86-64 Linux the word is therefore read
//! through inline assembly with the initial-exec model: each read names the segment register anew, so nothing can be
//! kept across a switch, and it costs two loads instead of a call of `__tls_get_addr`. Elsewhere an `inline(never)`
//! function around `thread_local!` does the same job.

use std::ptr;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod imp {
    use std::arch::{asm, global_asm};

    global_asm!(
        ".pushsection .tbss.swn_current_word,\"awT\",@nobits",
        ".globl swn_current_word",
        ".hidden swn_current_word",
        ".type swn_current_word,@object",
        ".size swn_current_word,8",
        ".p2align 3",
        "swn_current_word:",
        ".zero 8",
        ".popsection",
    );

    #[inline(always)]
    pub(super) fn get() -> *const () {
        let word: *const ();
        // SAFETY: reads this thread's instance of the variable defined above; no flags, no stack, no other memory. The
        // block is not `pure`, so two reads are never merged across a switch.
        unsafe {
            asm!(
                "mov {0}, qword ptr [rip + swn_current_word@GOTTPOFF]",
                "mov {0}, qword ptr fs:[{0}]",
                out(reg) word,
                options(nostack, readonly, preserves_flags)
            );
        }
        word
    }

    #[inline(always)]
    pub(super) fn set(word: *const ()) {
        // SAFETY: writes this thread's instance of the variable defined above.
        unsafe {
            asm!(
                "mov {0}, qword ptr [rip + swn_current_word@GOTTPOFF]",
                "mov qword ptr fs:[{0}], {1}",
                out(reg) _,
                in(reg) word,
                options(nostack, preserves_flags)
            );
        }
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod imp {
    use std::cell::Cell;
    use std::ptr;

    thread_local! {
        static WORD: Cell<*const ()> = const { Cell::new(ptr::null()) };
    }

    #[inline(never)]
    pub(super) fn get() -> *const () {
        WORD.with(Cell::get)
    }

    #[inline(never)]
    pub(super) fn set(word: *const ()) {
        WORD.with(|w| w.set(word));
    }
}

/// The word of the calling OS thread; null on a thread that never set it.
#[inline(always)]
pub(crate) fn current_word() -> *const () {
    imp::get()
}

/// Sets the word of the calling OS thread.
pub(crate) fn set_current_word(word: *const ()) {
    imp::set(word);
}

/// Clears the word of the calling OS thread.
pub(crate) fn clear_current_word() {
    imp::set(ptr::null());
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn each_thread_has_its_own_word() {
        let mark = 1u8;
        set_current_word((&raw const mark).cast());
        std::thread::spawn(|| assert!(current_word().is_null()))
            .join()
            .unwrap();
        assert_eq!(current_word(), (&raw const mark).cast());
        clear_current_word();
        assert!(current_word().is_null());
    }
}
