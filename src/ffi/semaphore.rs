//! Semaphores.

use super::boundary::{guard_int, non_null, runtime_from_handle};
use super::runtime::swn_runtime_t;
use crate::error::{Error, Result};
use crate::scheduler::block::{self, Armed};
use crate::scheduler::spawn::{self, Placement, Spec};
use crate::sync::semaphore::{MAX, Semaphore};
use crate::vthread::record::RecordRef;
use crate::wait::{Claimed, Outcome, Reason, Waiter};
use std::ffi::{c_int, c_void};
use std::ptr;

/// A counting semaphore. All-zero is a valid one without permits; it needs no destruction and may be discarded as soon as
/// nobody waits for it and the call that released the last waiter is over for that waiter. Must not be moved while waited
/// for.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct swn_sem_t {
    /// Private.
    pub opaque: [u64; 4],
}

/// Storage of a wait in completion form. Host memory, borrowed until the completion starts.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct swn_completion_t {
    /// Private.
    pub opaque: [u64; 16],
}

/// Called with the outcome of a wait in completion form, in a vthread of its own: 0 or -ECANCELED.
pub type swn_completion_fn = Option<unsafe extern "C-unwind" fn(arg: *mut c_void, status: c_int)>;

/// Most permits of a semaphore.
pub const SWN_SEM_MAX: u32 = 0x3fffffff;

const _: () = assert!(SWN_SEM_MAX == MAX);
const _: () = assert!(size_of::<Semaphore>() <= size_of::<swn_sem_t>());
const _: () = assert!(align_of::<Semaphore>() <= align_of::<swn_sem_t>());
const _: () = assert!(size_of::<Completion>() <= size_of::<swn_completion_t>());
const _: () = assert!(align_of::<Completion>() <= align_of::<swn_completion_t>());

/// The semaphore in host storage.
///
/// # Safety
/// `sem` is null or points to a swn_sem_t that lives as long as the result is used.
unsafe fn semaphore<'a>(sem: *const swn_sem_t) -> Result<&'a Semaphore> {
    // SAFETY: the storage is large and aligned enough (asserted above), and every state it can be in, all-zero included, is
    // one that this library wrote.
    unsafe { sem.cast::<Semaphore>().as_ref() }.ok_or(Error::INVAL)
}

/// Makes *sem a semaphore with permits permits, at most SWN_SEM_MAX. Not while it is in use. -EINVAL; -ERANGE. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_sem_init(sem: *mut swn_sem_t, permits: u32) -> c_int {
    guard_int(|| {
        let sem = non_null(sem)?;
        if permits > MAX {
            return Err(Error::RANGE);
        }
        // SAFETY: not null, and the host's storage; large and aligned enough.
        unsafe {
            sem.write(swn_sem_t { opaque: [0; 4] });
            sem.cast::<Semaphore>().write(Semaphore::new(permits));
        }
        Ok(0)
    })
}

/// Takes a permit, waiting for one until deadline_ns; first come, first served. 0; -ETIMEDOUT; -ECANCELED when the runtime
/// stops; -EINVAL. Any thread: a vthread parks, an OS thread blocks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_sem_acquire(sem: *mut swn_sem_t, deadline_ns: u64) -> c_int {
    // Before the permit is had: others may want it.
    block::checkpoint();
    // SAFETY: the host's semaphore.
    match unsafe { semaphore(sem) } {
        // Not through `guard_int`: nothing in it panics, and each frame between here and the switch costs a mispredicted
        // return.
        Ok(sem) if sem.try_acquire() => 0,
        Ok(sem) => match sem.acquire_slow(deadline_ns) {
            Ok(()) => 0,
            Err(e) => e.status(),
        },
        Err(e) => e.status(),
    }
}

/// Takes a permit if there is one. 0; -EAGAIN; -EINVAL. Any thread; never parks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_sem_try_acquire(sem: *mut swn_sem_t) -> c_int {
    // SAFETY: the host's semaphore.
    match unsafe { semaphore(sem) } {
        Ok(sem) if sem.try_acquire() => 0,
        Ok(_) => Error::AGAIN.status(),
        Err(e) => e.status(),
    }
}

/// Adds permits permits (1 or more), to the longest waiting first. 0; -EOVERFLOW: there would be more than SWN_SEM_MAX;
/// -EINVAL. Any thread; waking; parks only to give up a turn that is over.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_sem_release(sem: *mut swn_sem_t, permits: u32) -> c_int {
    // Not through `guard_int`: nothing in it panics, and it is half of every hand-over.
    // SAFETY: the host's semaphore.
    let released = match unsafe { semaphore(sem) } {
        Ok(_) if permits == 0 => Err(Error::INVAL),
        Ok(_) if permits > MAX => Err(Error::OVERFLOW),
        Ok(sem) => sem.release(permits),
        Err(e) => Err(e),
    };
    block::attend();
    match released {
        Ok(()) => 0,
        Err(e) => e.status(),
    }
}

/// The permits that can be had now; -EINVAL. Any thread; never parks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_sem_permits(sem: *const swn_sem_t) -> i64 {
    // SAFETY: the host's semaphore.
    match unsafe { semaphore(sem) } {
        Ok(sem) => i64::from(sem.permits()),
        Err(e) => i64::from(e.status()),
    }
}

/// What lies in a swn_completion_t.
struct Completion {
    waiter: Waiter,
    semaphore: *const swn_sem_t,
    function: unsafe extern "C-unwind" fn(arg: *mut c_void, status: c_int),
    arg: *mut c_void,
    record: RecordRef,
}

/// Runs in the vthread of a completion, once its wait has ended.
unsafe extern "C-unwind" fn complete(op: *mut c_void) -> *mut c_void {
    // SAFETY: the host lends the storage until the completion starts, which is after these lines.
    let (function, arg, status) = unsafe {
        let op = &*op.cast::<Completion>();
        let status = match op.record.get().state.outcome() {
            Outcome::Woken => {
                if let Ok(sem) = semaphore(op.semaphore) {
                    sem.settle();
                }
                0
            }
            _ => {
                if let Ok(sem) = semaphore(op.semaphore) {
                    sem.withdraw(&op.waiter);
                }
                Error::CANCELED.status()
            }
        };
        (op.function, op.arg, status)
    };
    // SAFETY: the host's function, with its argument.
    unsafe { function(arg, status) };
    ptr::null_mut()
}

/// Takes a permit in completion form: fn(arg, status) is called in a vthread of rt (NULL: the calling vthread's runtime) as
/// soon as a permit is had (status 0) or the wait is cancelled (-ECANCELED). op: host storage, borrowed until fn starts.
/// 0; -EINVAL; -ENOMEM; SWN_ESTOPPED; SWN_ESTALE_HANDLE. Any thread; waking; never parks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_sem_acquire_then(
    sem: *mut swn_sem_t,
    rt: *mut swn_runtime_t,
    op: *mut swn_completion_t,
    r#fn: swn_completion_fn,
    arg: *mut c_void,
) -> c_int {
    guard_int(|| {
        // SAFETY: the host's semaphore.
        let semaphore = unsafe { semaphore(sem)? };
        let op = non_null(op)?.cast::<Completion>();
        let function = r#fn.ok_or(Error::INVAL)?;
        runtime_from_handle(rt)?.with(|shared| {
            let spec = Spec {
                entry: complete,
                destructor: None,
                name: b"completion",
                class: shared.options.stack,
                placement: Placement::Any,
                bound: false,
                detached: true,
            };
            let record = spawn::defer(shared, &spec, op.cast(), Reason::Lock)?;
            // SAFETY: host storage of this size and alignment, ours until the completion starts.
            let waiter = unsafe {
                op.write(Completion {
                    waiter: Waiter::new(),
                    semaphore: sem,
                    function,
                    arg,
                    record,
                });
                &(*op).waiter
            };
            // The wait is opened last: from then on stopping may cancel it, and the completion run; and under the lock, so
            // that the completion's `withdraw` finds the waiter linked.
            let open = || record.target(record.get().state.open_wait());
            // SAFETY: the storage stays put; `complete` withdraws it unless the wait ended with a permit.
            if unsafe { semaphore.acquire_or_queue(waiter, open) } == Armed::Skip {
                let seq = record.get().state.open_wait();
                match record.claim(seq, Outcome::Woken) {
                    Claimed::Wake(wake) => wake.run(),
                    // Cancelled in between: the permit goes to another.
                    Claimed::Done | Claimed::Lost => semaphore.release(1)?,
                }
            }
            Ok(0)
        })
    })
}

/// Cancels a wait in completion form: 0: fn will be called with -ECANCELED; -ENOENT: it has had its permit, or was
/// cancelled. op must be one whose fn has not started. Any thread; waking; never parks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn swn_sem_cancel(sem: *mut swn_sem_t, op: *mut swn_completion_t) -> c_int {
    guard_int(|| {
        // SAFETY: the host's semaphore.
        let semaphore = unsafe { semaphore(sem)? };
        let op = non_null(op)?.cast::<Completion>();
        // SAFETY: the host says that the completion has not started, so its storage is still ours.
        if semaphore.cancel(unsafe { &(*op).waiter }) {
            Ok(0)
        } else {
            Err(Error::NOENT)
        }
    })
}
