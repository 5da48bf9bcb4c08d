//! What one thread can learn of another: how much CPU time it has used, and whether it waits in the kernel.

use super::clock;
use std::io::Write;

/// An OS thread of this process, seen from others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct OsThread {
    id: libc::pid_t,
    cpu: libc::clockid_t,
}

/// What the kernel says of a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Activity {
    /// On a CPU, or waiting for one.
    Runnable,
    /// In a system call that waits, stopped, or held by a debugger.
    Blocked,
    /// It has ended, or the kernel does not tell (no /proc).
    Unknown,
}

impl OsThread {
    pub(crate) fn of_this_thread() -> OsThread {
        let mut cpu = libc::CLOCK_THREAD_CPUTIME_ID;
        // SAFETY: both ask about the calling thread, which exists; the second writes to a local.
        unsafe {
            libc::pthread_getcpuclockid(libc::pthread_self(), &mut cpu);
            OsThread {
                id: libc::syscall(libc::SYS_gettid) as libc::pid_t,
                cpu,
            }
        }
    }

    /// Its number (gettid(2)).
    pub(crate) fn id(self) -> i32 {
        self.id
    }

    /// Lowers it to SCHED_IDLE (sched(7)): it runs when nothing else wants its CPU, and makes way at once. False if the system
    /// refuses.
    pub(crate) fn lower(self) -> bool {
        self.set_policy(libc::SCHED_IDLE)
    }

    /// Undoes [`Self::lower`]; the system refuses that without privilege (RLIMIT_NICE).
    pub(crate) fn raise(self) -> bool {
        self.set_policy(libc::SCHED_OTHER)
    }

    fn set_policy(self, policy: libc::c_int) -> bool {
        let none = libc::sched_param { sched_priority: 0 };
        // SAFETY: the parameters are read only. The thread lives: callers know that.
        unsafe { libc::sched_setscheduler(self.id, policy, &none) == 0 }
    }

    /// CPU time it has used, in nanoseconds; 0 when it has ended.
    pub(crate) fn cpu_ns(self) -> u64 {
        clock::clock_ns(self.cpu)
    }

    /// What it is doing. Costs some microseconds. Allocates nothing: a thread of low priority may hold the allocator's lock.
    pub(crate) fn activity(self) -> Activity {
        let mut text = [0; 128];
        let len = self.read_stat(&mut text);
        // The state follows the name, which is in brackets and may hold any byte (proc_pid_stat(5)).
        let text = &text[..len];
        let state = text
            .iter()
            .rposition(|b| *b == b')')
            .and_then(|at| text.get(at + 2));
        match state {
            Some(b'R') => Activity::Runnable,
            Some(b'S' | b'D' | b'T' | b't') => Activity::Blocked,
            _ => Activity::Unknown,
        }
    }

    /// The beginning of /proc/self/task/N/stat; how much of it there is.
    fn read_stat(self, into: &mut [u8]) -> usize {
        let mut path = [0; 48];
        if write!(&mut path[..47], "/proc/self/task/{}/stat", self.id).is_err() {
            return 0;
        }
        // SAFETY: the path ends with a zero; the read is bounded by the buffer.
        unsafe {
            let file = libc::open(path.as_ptr().cast(), libc::O_RDONLY | libc::O_CLOEXEC);
            if file < 0 {
                return 0;
            }
            let len = libc::read(file, into.as_mut_ptr().cast(), into.len());
            libc::close(file);
            usize::try_from(len).unwrap_or(0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_thread_that_computes_is_told_from_one_that_waits() {
        let (send, receive) = mpsc::channel();
        let (go, wait) = mpsc::channel::<()>();
        let other = std::thread::spawn(move || {
            send.send(OsThread::of_this_thread()).unwrap();
            let _ = wait.recv();
        });
        let waiting = receive.recv().unwrap();
        while waiting.activity() != Activity::Blocked {
            std::thread::yield_now();
        }
        let me = OsThread::of_this_thread();
        assert_eq!(me.activity(), Activity::Runnable);
        let before = me.cpu_ns();
        while me.cpu_ns() == before {}
        let used = waiting.cpu_ns();
        assert!(used > 0);
        assert_eq!(waiting.cpu_ns(), used);
        go.send(()).unwrap();
        other.join().unwrap();
        assert_eq!(waiting.cpu_ns(), 0);
        assert_eq!(waiting.activity(), Activity::Unknown);
    }
}
