//! What one thread can learn of another: how much CPU time it has used, and whether it waits in the kernel.

use super::clock;

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

    /// CPU time it has used, in nanoseconds; 0 when it has ended.
    pub(crate) fn cpu_ns(self) -> u64 {
        clock::clock_ns(self.cpu)
    }

    /// What it is doing. Costs about 10 us.
    pub(crate) fn activity(self) -> Activity {
        let path = format!("/proc/self/task/{}/stat", self.id);
        let Ok(text) = std::fs::read(path) else {
            return Activity::Unknown;
        };
        // The state follows the name, which is in brackets and may hold any byte (proc_pid_stat(5)).
        let state = text
            .iter()
            .rposition(|b| *b == b')')
            .map(|at| text.get(at + 2));
        match state.flatten() {
            Some(b'R') => Activity::Runnable,
            Some(b'S' | b'D' | b'T' | b't') => Activity::Blocked,
            _ => Activity::Unknown,
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
