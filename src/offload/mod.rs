//! Row 5: OS threads for calls that are known to block: files, getaddrinfo(3), and what the host asks for.
//!
//! A [`OffloadPool`] belongs to a runtime, and starts threads only when work finds none idle. A caller on a plain OS thread
//! needs no pool: its call simply runs.
//!
//! Invariants, by name:
//! * **started runs to its end**: the deadline of a call, and a cancellation, bound its queueing only. What borrows the
//!   caller's memory is waited for without limit once it has started; what owns its memory may be abandoned, and is then
//!   freed by the thread that runs it.
//! * **under the lock**: the queue, the state of every job, and the claim of its waiter are guarded by the pool's lock; the
//!   wake is run after it.

#![allow(unsafe_code)]

mod pool;
#[cfg(test)]
mod tests;

pub(crate) use pool::OffloadPool;

use crate::error::{Error, Result};
use crate::scheduler::{block, current};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// The pool of the calling vthread's runtime.
fn current_pool() -> Result<Arc<OffloadPool>> {
    let companion = current::with_reactor(|reactor, _| reactor.companion()).flatten();
    companion
        .and_then(|companion| companion.downcast().ok())
        .ok_or(Error::STOPPED)
}

/// Runs `job` on a thread of the calling vthread's runtime and waits for it; the deadline bounds the queueing. On a plain
/// OS thread it runs right here. A panic of the job is `PANICKED`.
pub(crate) fn run<R: Send>(deadline_ns: u64, job: impl FnOnce() -> R + Send) -> Result<R> {
    if !block::in_vthread() {
        return catch_unwind(AssertUnwindSafe(job)).map_err(|_| Error::PANICKED);
    }
    block::checkpoint();
    current_pool()?.run(deadline_ns, job)
}

/// As [`run`], but the deadline bounds the call itself too: a job that is still running then is abandoned, and drops its
/// result when it ends. On a plain OS thread it runs to its end.
pub(crate) fn run_owned<R: Send + 'static>(
    deadline_ns: u64,
    job: impl FnOnce() -> R + Send + 'static,
) -> Result<R> {
    if !block::in_vthread() {
        return catch_unwind(AssertUnwindSafe(job)).map_err(|_| Error::PANICKED);
    }
    block::checkpoint();
    current_pool()?.run_owned(deadline_ns, job)
}
