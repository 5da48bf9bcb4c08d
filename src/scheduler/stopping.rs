//! Stopping overlong vthreads, for hosts that want no more than a few threads to run: the third net, off by default.
//!
//! A carrier that lost its core goes on as a thread of low priority. Where stopping is on, only as many of these as the
//! runtime has cores run at a time; the others stand still in a signal handler, on their own OS threads, with their stacks,
//! thread-local storage and locks as they are (kernel-level thread switching: Shiina et al., PPoPP 2021). The stopper lets
//! them take turns.
//!
//! ```text
//!            left without a core           ask (signal)             the handler
//!   FREE -------------------------> RUNS ---------------> ASKED -------------------> STOPPED
//!    ^                              | ^  <--- withdraw ----+                            |
//!    +---- the vthread leaves it ---+ +------------------------- go on -----------------+
//! ```
//!
//! Invariants:
//! * **FREE is not stopped**: a carrier is FREE whenever it touches a list of the runtime, so the stopper never waits for a
//!   lock that a stopped thread holds. A vthread that is stopped may hold any other lock; it goes on within as many slices
//!   as there are overlong vthreads for each core.
//! * **the stopper allocates nothing** and runs no host code: a stopped thread may hold the allocator's lock.
//! * **the handler touches one word**: it finds the carrier by the value that came with the signal.
//! * Only a thread whose CPU time advances is signalled: one that is blocked in a system call stays there undisturbed.

use super::crew::Carrier;
use super::shared::Shared;
use crate::error::{Error, Result};
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Duration;

const FREE: u32 = 0;
const RUNS: u32 = 1;
const ASKED: u32 = 2;
const STOPPED: u32 = 3;

/// Marks a signal as ours (negative: sent by a process; the value is none of the kernel's).
const CODE: c_int = -0x5357;
/// Of the stack that the handler runs on; the frame of a signal takes 3 to 11 KiB with wide registers.
const STACK_BYTES: usize = 64 * 1024;

/// What stopping keeps of a carrier.
pub(crate) struct Stop {
    word: AtomicU32,
    /// The stopper's own: CPU time of the thread when it last looked, and how often it looked since the last change.
    cpu_ns: AtomicU64,
    turns: AtomicU32,
}

impl Stop {
    pub(crate) fn new() -> Stop {
        Stop {
            word: AtomicU32::new(FREE),
            cpu_ns: AtomicU64::new(0),
            turns: AtomicU32::new(0),
        }
    }

    /// The vthread has left the carrier. By its thread, which therefore is not stopped.
    pub(crate) fn leave(&self) {
        // Acquire and Release: nothing that follows is done before.
        self.word.swap(FREE, Ordering::AcqRel);
    }

    /// In the handler.
    fn stand_still(&self) {
        let asked = self
            .word
            .compare_exchange(ASKED, STOPPED, Ordering::AcqRel, Ordering::Relaxed);
        if asked.is_err() {
            return;
        }
        while self.word.load(Ordering::Acquire) == STOPPED {
            // SAFETY: futex(2) on a word of this process; returns at once if it has changed.
            unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    self.word.as_ptr(),
                    libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                    STOPPED,
                    ptr::null::<libc::timespec>(),
                )
            };
        }
    }

    fn go_on(&self) {
        self.turns.store(0, Ordering::Relaxed);
        self.word.store(RUNS, Ordering::Release);
        // SAFETY: as above.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                self.word.as_ptr(),
                libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
                1,
            )
        };
    }
}

/// Stopping, of one runtime.
pub(crate) struct Stopper {
    signal: c_int,
    /// Carriers without a core. With room for all from the start.
    list: Mutex<Vec<Arc<Carrier>>>,
    thread: OnceLock<Thread>,
    pub(crate) stopped: AtomicU64,
}

impl Stopper {
    /// Installs the handler for `signal`. `INVAL` for a number that cannot be caught.
    pub(crate) fn new(signal: c_int, carriers_max: usize) -> Result<Stopper> {
        let mut list = Vec::new();
        list.try_reserve_exact(carriers_max)
            .map_err(|_| Error::NOMEM)?;
        handler::install(signal)?;
        Ok(Stopper {
            signal,
            list: Mutex::new(list),
            thread: OnceLock::new(),
            stopped: AtomicU64::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Carrier>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A carrier's thread begins: the signal may reach it, on a stack of its own.
    pub(crate) fn admit_thread(&self) -> HandlerStack {
        HandlerStack::install(self.signal)
    }

    /// `carrier` has lost its core and goes on.
    pub(crate) fn add(&self, carrier: &Arc<Carrier>) {
        let mut list = self.lock();
        if list.len() == list.capacity() {
            // More than the limit: then this one is not stopped.
            return;
        }
        carrier.stop.turns.store(0, Ordering::Relaxed);
        // Its vthread may have left it already; then it is FREE, comes to `remove`, and is never signalled.
        let _ = carrier
            .stop
            .word
            .compare_exchange(FREE, RUNS, Ordering::AcqRel, Ordering::Relaxed);
        list.push(carrier.clone());
        drop(list);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// `carrier` comes to rest; after `Stop::leave`.
    pub(crate) fn remove(&self, carrier: &Carrier) {
        let mut list = self.lock();
        if let Some(at) = list.iter().position(|c| ptr::eq(Arc::as_ptr(c), carrier)) {
            // The carrier's own thread has another count of it, so nothing is freed here.
            list.remove(at);
        }
        // It may have been added after it left.
        carrier.stop.word.store(FREE, Ordering::Release);
    }

    pub(crate) fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// The stopper's thread.
    pub(crate) fn run(&self, shared: &Shared) {
        let _ = self.thread.set(std::thread::current());
        let slice = Duration::from_nanos(shared.options.slice_ns.max(1_000_000));
        while !shared.exiting.load(Ordering::Acquire) {
            if self.turn(shared.cores()) {
                std::thread::park_timeout(slice);
            } else {
                std::thread::park();
            }
        }
        for carrier in self.lock().iter() {
            carrier.stop.go_on();
        }
    }

    /// Looks at all carriers without a core, once per slice. False: there is none.
    fn turn(&self, allowed: usize) -> bool {
        let list = self.lock();
        let mut computing = 0;
        let mut stopped = 0;
        for carrier in list.iter() {
            match carrier.stop.word.load(Ordering::Acquire) {
                STOPPED => stopped += 1,
                RUNS | ASKED if self.has_computed(carrier) => computing += 1,
                _ => {}
            }
        }
        // As many have run for a turn as may: each of those gives its place to one that stands still.
        let waiting = stopped + computing > allowed;
        let mut places = allowed;
        if waiting {
            for carrier in list.iter() {
                if carrier.stop.turns.load(Ordering::Relaxed) > 0 {
                    self.ask(carrier);
                }
            }
        }
        // Those that have stood still longest go on.
        for _ in 0..allowed.min(stopped) {
            let longest = list
                .iter()
                .filter(|c| c.stop.word.load(Ordering::Relaxed) == STOPPED)
                .max_by_key(|c| c.stop.turns.load(Ordering::Relaxed));
            if let Some(carrier) = longest.filter(|_| places > 0) {
                carrier.stop.go_on();
                places -= 1;
            }
        }
        for carrier in list.iter() {
            carrier.stop.turns.fetch_add(1, Ordering::Relaxed);
        }
        !list.is_empty()
    }

    fn has_computed(&self, carrier: &Carrier) -> bool {
        let now = carrier.os().map_or(0, |os| os.cpu_ns());
        let last = carrier.stop.cpu_ns.swap(now, Ordering::Relaxed);
        carrier.stop.turns.load(Ordering::Relaxed) > 0 && now > last
    }

    /// Sends the signal to a carrier that computes.
    fn ask(&self, carrier: &Arc<Carrier>) {
        let Some(os) = carrier.os() else { return };
        let stop = &carrier.stop;
        let asked = stop
            .word
            .compare_exchange(RUNS, ASKED, Ordering::AcqRel, Ordering::Relaxed);
        if asked.is_err() {
            return;
        }
        stop.turns.store(0, Ordering::Relaxed);
        if handler::send(os.id(), self.signal, Arc::as_ptr(carrier).cast()) {
            self.stopped.fetch_add(1, Ordering::Relaxed);
        } else {
            // The queue of signals is full, or the thread is about to end.
            let _ = stop
                .word
                .compare_exchange(ASKED, RUNS, Ordering::AcqRel, Ordering::Relaxed);
        }
    }
}

/// The alternate signal stack of the calling thread.
pub(crate) struct HandlerStack(#[allow(dead_code)] Box<[u8]>);

impl HandlerStack {
    fn install(signal: c_int) -> HandlerStack {
        let mut stack = vec![0u8; STACK_BYTES].into_boxed_slice();
        // SAFETY: of this thread only; the memory lives until `drop` has taken it away again.
        unsafe {
            let described = libc::stack_t {
                ss_sp: stack.as_mut_ptr().cast(),
                ss_flags: 0,
                ss_size: STACK_BYTES,
            };
            libc::sigaltstack(&described, ptr::null_mut());
            let mut set = std::mem::zeroed::<libc::sigset_t>();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, signal);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, ptr::null_mut());
        }
        HandlerStack(stack)
    }
}

impl Drop for HandlerStack {
    fn drop(&mut self) {
        // SAFETY: of this thread only; first nothing can arrive any more, then the stack goes.
        unsafe {
            let mut set = std::mem::zeroed::<libc::sigset_t>();
            libc::sigfillset(&mut set);
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, ptr::null_mut());
            let none = libc::stack_t {
                ss_sp: ptr::null_mut(),
                ss_flags: libc::SS_DISABLE,
                ss_size: 0,
            };
            libc::sigaltstack(&none, ptr::null_mut());
        }
    }
}

/// The one handler of the process.
mod handler {
    use super::*;
    use std::mem::MaybeUninit;
    use std::sync::atomic::AtomicPtr;

    const SIGNALS: usize = 65;
    /// What was installed before us, by signal; leaked, since a handler may be reading it.
    static BEFORE: [AtomicPtr<libc::sigaction>; SIGNALS] =
        [const { AtomicPtr::new(ptr::null_mut()) }; SIGNALS];
    static INSTALLING: Mutex<()> = Mutex::new(());

    /// Installs the handler for `signal`, chained to what is there. It stays: whoever chained to it afterwards may call it.
    pub(super) fn install(signal: c_int) -> Result<()> {
        let forbidden = [
            libc::SIGKILL,
            libc::SIGSTOP,
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGFPE,
            libc::SIGILL,
            libc::SIGTRAP,
            libc::SIGABRT,
            libc::SIGSYS,
        ];
        let index = usize::try_from(signal).map_err(|_| Error::INVAL)?;
        if index == 0 || index >= SIGNALS || forbidden.contains(&signal) {
            return Err(Error::INVAL);
        }
        let _one = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
        if !BEFORE[index].load(Ordering::Acquire).is_null() {
            return Ok(());
        }
        let mut before = Box::new(MaybeUninit::<libc::sigaction>::zeroed());
        // SAFETY: fills local structs and installs a function with the signature that SA_SIGINFO asks for. The old action
        // is published before the new one can run.
        unsafe {
            if libc::sigaction(signal, ptr::null(), before.as_mut_ptr()) != 0 {
                return Err(Error::INVAL);
            }
            BEFORE[index].store(Box::into_raw(before).cast(), Ordering::Release);
            let mut action = std::mem::zeroed::<libc::sigaction>();
            action.sa_sigaction = handle as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
            libc::sigemptyset(&mut action.sa_mask);
            if libc::sigaction(signal, &action, ptr::null_mut()) != 0 {
                return Err(Error::INVAL);
            }
        }
        Ok(())
    }

    /// What the kernel reads of a queued signal (sigqueue(3)): the fields in front of the union, and those of it.
    #[repr(C)]
    struct Queued {
        signal: c_int,
        errno: c_int,
        code: c_int,
        pad: c_int,
        pid: libc::pid_t,
        uid: libc::uid_t,
        value: *const c_void,
        rest: [u64; 12],
    }

    const _: () = assert!(size_of::<Queued>() == size_of::<libc::siginfo_t>());

    /// Sends `signal` to thread `id` of this process, with `value`.
    pub(super) fn send(id: i32, signal: c_int, value: *const c_void) -> bool {
        // SAFETY: the struct is as the kernel reads it, and read only.
        unsafe {
            let queued = Queued {
                signal,
                errno: 0,
                code: CODE,
                pad: 0,
                pid: libc::getpid(),
                uid: libc::getuid(),
                value,
                rest: [0; 12],
            };
            let info: *const Queued = &queued;
            libc::syscall(libc::SYS_rt_tgsigqueueinfo, queued.pid, id, signal, info) == 0
        }
    }

    /// Runs on the carrier's signal stack, between two instructions of host code.
    extern "C" fn handle(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
        // SAFETY: the kernel's structs, for the length of this call. The value of a signal with our code, sent by this
        // process, is the carrier whose thread this is (`Stopper::ask`): it lives as long as its thread. errno is kept.
        unsafe {
            let errno = libc::__errno_location();
            let kept = *errno;
            let queued = &*info.cast::<Queued>();
            if queued.code == CODE && queued.pid == libc::getpid() {
                (*queued.value.cast::<Carrier>()).stop.stand_still();
            } else {
                chain(signal, info, context);
            }
            *errno = kept;
        }
    }

    /// Calls what was there before us.
    unsafe fn chain(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
        // SAFETY: set before the handler was installed, and never freed; the functions have the types that their flags say.
        unsafe {
            let before = BEFORE[signal as usize].load(Ordering::Acquire);
            let Some(before) = before.as_ref() else {
                return;
            };
            match before.sa_sigaction {
                libc::SIG_DFL | libc::SIG_IGN => {}
                function if before.sa_flags & libc::SA_SIGINFO != 0 => {
                    std::mem::transmute::<
                        usize,
                        extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void),
                    >(function)(signal, info, context);
                }
                function => {
                    std::mem::transmute::<usize, extern "C" fn(c_int)>(function)(signal);
                }
            }
        }
    }
}
