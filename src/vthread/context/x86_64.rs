//! The switch on x86-64 (System V ABI).
//!
//! Two saved stack pointers per vthread: its own while it is suspended, its carrier's while it runs. A switch saves one and
//! takes the other:
//!
//! ```text
//!   saved stack pointer -> | address to go on at |
//!                          | rbx                 |
//!                          | rbp                 |
//! ```
//!
//! Everything else is declared clobbered, so the compiler saves what is alive and no more. mxcsr and the x87 control word
//! are not saved: they would triple the cost, and are part of the environment that a callback must leave as it found it.
//!
//! Both directions end in an indirect jump, not in a return, and the switch is inlined into its callers: the processor's
//! stack of return addresses then stays in step with the calls that vthreads make. With corosensei, whose switch returns,
//! two to three returns per switch are mispredicted once there is a frame between the switch and the host's code, as here
//! there always is (measured: `docs/decisions/0002-own-switch.md`).

use super::{Mount, Parting};
use std::arch::{asm, global_asm};
use std::ptr::{self, NonNull};

/// The saved stack pointers.
#[repr(C)]
pub(super) struct Context {
    /// Of the vthread while it is suspended.
    own: usize,
    /// Of its carrier while it runs.
    carrier: usize,
}

// The first frame of a vthread. It is entered by the jump of `resume`, with the address of the context in rdi, and has no
// caller: unwinders and debuggers stop here.
global_asm!(
    ".pushsection .text.swn_vthread_root,\"ax\",@progbits",
    ".p2align 4",
    ".globl swn_vthread_root",
    ".hidden swn_vthread_root",
    ".type swn_vthread_root,@function",
    "swn_vthread_root:",
    ".cfi_startproc",
    ".cfi_undefined rip",
    "xor ebp, ebp",
    "call {main}",
    "ud2",
    ".cfi_endproc",
    ".size swn_vthread_root, . - swn_vthread_root",
    ".popsection",
    main = sym root,
);

unsafe extern "C" {
    fn swn_vthread_root();
}

/// Runs a vthread from its first to its last instruction.
unsafe extern "C" fn root(context: *mut Context) -> ! {
    // SAFETY: the context is a field of the mount, which lies right above this stack and outlives it.
    unsafe {
        let offset = std::mem::offset_of!(Mount, context);
        let mount: NonNull<Mount> = NonNull::new_unchecked(context.byte_sub(offset).cast());
        super::first_frame(mount);
        suspend(context, Parting::Ended);
    }
    // Nobody resumes an ended vthread.
    std::process::abort()
}

impl Context {
    /// A context that starts at the top of the stack that ends at `base`.
    ///
    /// # Safety
    /// `base` is aligned to 16 and there is writable stack below it.
    #[inline]
    pub(super) unsafe fn new(
        base: NonNull<u8>,
        _limit: NonNull<u8>,
        _mount: NonNull<Mount>,
    ) -> Context {
        // After the jump has taken the address off, the stack pointer is a multiple of 16, as it is before a call.
        // SAFETY: the caller's promise.
        unsafe {
            let at = base.as_ptr().cast::<usize>().sub(1);
            at.write(swn_vthread_root as *const () as usize);
            Context {
                own: at as usize,
                carrier: 0,
            }
        }
    }
}

/// Switches from the carrier's stack to the vthread's; returns when that switches back.
///
/// # Safety
/// `context` is that of a suspended vthread which the caller holds.
#[inline(always)]
pub(super) unsafe fn resume(context: *mut Context) -> Parting {
    let parting: u64;
    // SAFETY: see the module text: the stack pointer and the two registers that cannot be declared are restored by
    // whoever jumps back to label 2, all others are declared clobbered; the stack is used, which the block says by not
    // saying `nostack`.
    unsafe {
        asm!(
            "push rbp",
            "push rbx",
            "lea rax, [rip + 2f]",
            "push rax",
            "mov [rdi + 8], rsp",
            "mov rsp, [rdi]",
            "pop rax",
            "jmp rax",
            "2:",
            "pop rbx",
            "pop rbp",
            inout("rdi") context => _,
            lateout("rsi") parting,
            lateout("r12") _, lateout("r13") _, lateout("r14") _, lateout("r15") _,
            clobber_abi("sysv64"),
        );
    }
    match parting {
        0 => Parting::Yield,
        1 => Parting::Park,
        _ => Parting::Ended,
    }
}

/// Switches from the vthread's stack to its carrier's, with `parting`; returns when it is resumed.
///
/// # Safety
/// `context` is that of the calling vthread.
#[inline(always)]
pub(super) unsafe fn suspend(context: *mut Context, parting: Parting) {
    // SAFETY: as in `resume`, with the roles exchanged.
    unsafe {
        asm!(
            "push rbp",
            "push rbx",
            "lea rax, [rip + 2f]",
            "push rax",
            "mov [rdi], rsp",
            "mov rsp, [rdi + 8]",
            "pop rax",
            "jmp rax",
            "2:",
            "pop rbx",
            "pop rbp",
            inout("rdi") context => _,
            inout("rsi") parting as u64 => _,
            lateout("r12") _, lateout("r13") _, lateout("r14") _, lateout("r15") _,
            clobber_abi("sysv64"),
        );
    }
}

/// Where a suspended vthread's newest frame begins.
///
/// # Safety
/// `context` is that of a suspended vthread which the caller holds.
#[inline(always)]
pub(super) unsafe fn stack_pointer(context: *const Context) -> usize {
    // SAFETY: the caller's promise.
    unsafe { (*context).own }
}

/// Drops what is left of the context of an ended vthread: nothing.
///
/// # Safety
/// The vthread has ended.
#[inline(always)]
pub(super) unsafe fn discard(context: *mut Context) {
    // SAFETY: the caller's mount; a plain value.
    unsafe { ptr::write(&raw mut (*context).own, 0) };
}
