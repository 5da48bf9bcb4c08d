//! The threads, the queue, and the jobs in it.
//!
//! ```text
//!   QUEUED --a thread takes it--> RUNNING --it returns--> DONE --> the caller takes the result
//!      |                             |
//!      +-- the caller takes it back  +-- ABANDONED (owned jobs only): the thread frees it
//! ```

use crate::error::{Error, Result};
use crate::scheduler::block::{self, Armed};
use crate::wait::{Outcome, Reason, Target, WaitQueue, Waiter, WakeBatch};
use std::cell::{Cell, UnsafeCell};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::Duration;

/// How long a thread without work stays.
const IDLE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Queued,
    Running,
    Done,
    Abandoned,
}

/// What the queue and the threads see of a job. The first field of [`Job`], and of that the waiter comes first, so that
/// a node of the queue is a job.
#[repr(C)]
struct Header {
    waiter: Waiter,
    /// Guarded by the pool's lock.
    phase: Cell<Phase>,
    /// Runs the job; by the thread that made it Running.
    run: unsafe fn(NonNull<Header>),
    /// Frees an abandoned job.
    free: unsafe fn(NonNull<Header>),
}

#[repr(C)]
struct Job<F, R> {
    header: Header,
    /// The caller's before it is queued and after it is Done, the thread's while it is Running.
    work: UnsafeCell<Option<F>>,
    result: UnsafeCell<Option<R>>,
}

impl<F: FnOnce() -> R, R> Job<F, R> {
    fn new(work: F) -> Job<F, R> {
        Job {
            header: Header {
                waiter: Waiter::new(),
                phase: Cell::new(Phase::Queued),
                run: Self::run,
                free: Self::free,
            },
            work: UnsafeCell::new(Some(work)),
            result: UnsafeCell::new(None),
        }
    }

    unsafe fn run(header: NonNull<Header>) {
        // SAFETY: `header` is the first field of a job of this type (`new`), alive while it is Running.
        let job = unsafe { header.cast::<Self>().as_ref() };
        // SAFETY: while it is Running the job's cells are the calling thread's.
        let (work, result) = unsafe { (&mut *job.work.get(), &mut *job.result.get()) };
        if let Some(work) = work.take() {
            *result = catch_unwind(AssertUnwindSafe(work)).ok();
        }
    }

    unsafe fn free(header: NonNull<Header>) {
        // SAFETY: only owned jobs are abandoned, and they come from `Box::into_raw`.
        let job = unsafe { Box::from_raw(header.cast::<Self>().as_ptr()) };
        // A destructor that panics must not end the thread.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(job)));
    }
}

/// How a call of the caller's side ended.
enum Ended {
    Done,
    /// It will not run, and the queue does not know it any more.
    Withdrawn(Error),
    /// It runs on by itself.
    Abandoned(Error),
}

/// OS threads for blocking calls.
pub(crate) struct OffloadPool {
    shared: Arc<Shared>,
}

struct Shared {
    cap: usize,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    queue: WaitQueue,
    queued: usize,
    idle: usize,
    threads: Vec<JoinHandle<()>>,
    /// A thread that left because it had nothing to do; the next to leave, or `stop`, joins it.
    left: Option<JoinHandle<()>>,
    stopping: bool,
}

// SAFETY: the nodes in the queue are valid wherever they are used from; they are guarded by the mutex around the state.
unsafe impl Send for State {}

impl OffloadPool {
    /// A pool of at most `cap` threads (at least one); none is started yet.
    pub(crate) fn new(cap: usize) -> OffloadPool {
        OffloadPool {
            shared: Arc::new(Shared {
                cap: cap.max(1),
                state: Mutex::default(),
                work: Condvar::new(),
            }),
        }
    }

    /// Runs `work` on a thread of the pool; see [`super::run`].
    pub(crate) fn run<R: Send>(
        &self,
        deadline_ns: u64,
        work: impl FnOnce() -> R + Send,
    ) -> Result<R> {
        let job = Job::new(work);
        // SAFETY: the job stays in this frame until it is Done or withdrawn.
        match unsafe { self.perform(NonNull::from(&job).cast(), deadline_ns, false) } {
            Ended::Done => job.result.into_inner().ok_or(Error::PANICKED),
            Ended::Withdrawn(e) | Ended::Abandoned(e) => Err(e),
        }
    }

    /// Runs `work`, which owns all it uses, on a thread of the pool; see [`super::run_owned`].
    pub(crate) fn run_owned<R: Send + 'static>(
        &self,
        deadline_ns: u64,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R> {
        let job = Box::into_raw(Box::new(Job::new(work)));
        let header = NonNull::from(unsafe_ref(job)).cast();
        // SAFETY: the job is on the heap until it is taken back below, or freed by the thread it is abandoned to.
        let ended = unsafe { self.perform(header, deadline_ns, true) };
        if let Ended::Abandoned(e) = ended {
            return Err(e);
        }
        // SAFETY: from `into_raw` above, and nobody else knows it any more.
        let job = unsafe { Box::from_raw(job) };
        match ended {
            Ended::Done => job.result.into_inner().ok_or(Error::PANICKED),
            Ended::Withdrawn(e) | Ended::Abandoned(e) => Err(e),
        }
    }

    /// Ends the pool: later calls get `STOPPED`, queued ones still run. Returns when all threads have ended; a job that
    /// runs, also an abandoned one, is waited for.
    pub(crate) fn stop(&self) {
        let threads = {
            let mut state = self.shared.lock();
            state.stopping = true;
            let left = state.left.take();
            let mut threads = mem::take(&mut state.threads);
            threads.extend(left);
            threads
        };
        self.shared.work.notify_all();
        for thread in threads {
            // Jobs' panics are caught, so a thread has nothing to report.
            let _ = thread.join();
        }
    }

    /// Queues the job and waits for its end.
    ///
    /// # Safety
    /// The job stays where it is until this returns, or longer if it is `owned` and Abandoned.
    unsafe fn perform(&self, job: NonNull<Header>, deadline_ns: u64, owned: bool) -> Ended {
        // SAFETY: valid by the caller's promise.
        let header = unsafe { job.as_ref() };
        let mut refused = None;
        let waited = block::wait_anywhere(
            Reason::Offload,
            deadline_ns,
            |target| match self.enqueue(header, target) {
                Ok(()) => Armed::Waiting,
                Err(e) => {
                    refused = Some(e);
                    Armed::Skip
                }
            },
            || {
                let _state = self.shared.lock();
                header.waiter.clear_target();
            },
        );
        let error = match (refused, waited) {
            (Some(e), _) | (None, Err(e)) => return Ended::Withdrawn(e),
            (None, Ok(Some(Outcome::Woken) | None)) => return Ended::Done,
            (None, Ok(Some(Outcome::TimedOut))) => Error::TIMEDOUT,
            (None, Ok(Some(Outcome::Canceled))) => Error::CANCELED,
        };
        {
            let mut state = self.shared.lock();
            match header.phase.get() {
                Phase::Queued => {
                    // SAFETY: under the lock; a queued job is linked in this queue.
                    unsafe { state.queue.remove(&header.waiter) };
                    state.queued -= 1;
                    return Ended::Withdrawn(error);
                }
                Phase::Running if owned => {
                    header.phase.set(Phase::Abandoned);
                    return Ended::Abandoned(error);
                }
                Phase::Running => {}
                Phase::Done | Phase::Abandoned => return Ended::Done,
            }
        }
        // It has started, so it is waited for (*started runs to its end*).
        loop {
            let waited = block::wait_uncancelable(Reason::Offload, |target| {
                let _state = self.shared.lock();
                if header.phase.get() == Phase::Done {
                    return Armed::Skip;
                }
                header.waiter.set_target(target);
                Armed::Waiting
            });
            if let Ok(Some(Outcome::Woken) | None) = waited {
                return Ended::Done;
            }
            if self.is_done(header) {
                return Ended::Done;
            }
        }
    }

    fn is_done(&self, header: &Header) -> bool {
        let _state = self.shared.lock();
        header.phase.get() == Phase::Done
    }

    fn enqueue(&self, header: &Header, target: Target) -> Result<()> {
        let mut state = self.shared.lock();
        if state.stopping {
            return Err(Error::STOPPED);
        }
        if state.queued >= state.idle && state.threads.len() < self.shared.cap {
            let spawned = spawn(&self.shared);
            match spawned {
                Ok(thread) => state.threads.push(thread),
                // With threads there it is only slower.
                Err(e) if state.threads.is_empty() => return Err(e),
                Err(_) => {}
            }
        }
        header.waiter.set_target(target);
        // SAFETY: under the lock; the job stays until it is withdrawn or done (`perform`).
        unsafe { state.queue.push_back(&header.waiter) };
        state.queued += 1;
        drop(state);
        self.shared.work.notify_one();
        Ok(())
    }
}

/// A reference to a job that `Box::into_raw` has just given.
fn unsafe_ref<'a, T>(job: *mut T) -> &'a T {
    // SAFETY: not null and valid: it comes from a box.
    unsafe { &*job }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts a thread that blocks every signal: they are the host's, for its own threads.
fn spawn(shared: &Arc<Shared>) -> Result<JoinHandle<()>> {
    let shared = shared.clone();
    // SAFETY: all-zero is a valid sigset_t to be filled in.
    let (mut all, mut old): (libc::sigset_t, libc::sigset_t) =
        unsafe { (mem::zeroed(), mem::zeroed()) };
    // A thread inherits its creator's mask, which is put back at once.
    // SAFETY: the sets are valid for writes.
    unsafe {
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut old);
    }
    let thread = thread::Builder::new()
        .name("swn-offload".into())
        .spawn(move || work(&shared));
    // SAFETY: `old` was filled in above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &old, ptr::null_mut()) };
    Ok(thread?)
}

/// A thread's life.
fn work(shared: &Shared) {
    let mut state = shared.lock();
    loop {
        // SAFETY: under the lock; linked jobs are valid.
        if let Some(waiter) = unsafe { state.queue.pop_front() } {
            state.queued -= 1;
            // The waiter is the first field of a header.
            let job = waiter.cast::<Header>();
            // SAFETY: queued until now; from here on it is ours until it is Done.
            let header = unsafe { job.as_ref() };
            header.phase.set(Phase::Running);
            drop(state);
            // SAFETY: it is Running, by this thread.
            unsafe { (header.run)(job) };
            let mut wakes = WakeBatch::new();
            state = shared.lock();
            if header.phase.get() == Phase::Abandoned {
                drop(state);
                // SAFETY: abandoned: nobody else knows it.
                unsafe { (header.free)(job) };
            } else {
                header.phase.set(Phase::Done);
                // SAFETY: under the lock, where its owner looks at the phase before it leaves; not touched afterwards.
                // A claim that is lost was won by a deadline: the owner will see the phase.
                wakes.add(unsafe { header.waiter.claim(Outcome::Woken) });
                drop(state);
                wakes.run();
            }
            state = shared.lock();
            continue;
        }
        if state.stopping {
            return;
        }
        state.idle += 1;
        let (woken, timeout) = shared
            .work
            .wait_timeout(state, IDLE)
            .unwrap_or_else(PoisonError::into_inner);
        state = woken;
        state.idle -= 1;
        if timeout.timed_out() && state.queue.is_empty() && !state.stopping {
            let own = take(&mut state.threads, thread::current().id());
            let before = mem::replace(&mut state.left, own);
            drop(state);
            if let Some(before) = before {
                let _ = before.join();
            }
            return;
        }
    }
}

fn take(threads: &mut Vec<JoinHandle<()>>, id: ThreadId) -> Option<JoinHandle<()>> {
    let own = threads.iter().position(|t| t.thread().id() == id)?;
    Some(threads.swap_remove(own))
}
