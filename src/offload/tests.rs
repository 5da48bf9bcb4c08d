//! OS threads call the pool as vthreads do: what blocks there blocks here.

use super::OffloadPool;
use crate::error::Error;
use crate::primitive::clock::{FOREVER, now_ns};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

/// Tells when it is dropped.
struct Dropped(Arc<AtomicBool>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn soon() -> u64 {
    now_ns() + 2_000_000
}

#[test]
fn jobs_run_elsewhere_and_may_borrow() {
    let pool = OffloadPool::new(3);
    let total = AtomicUsize::new(0);
    let caller = thread::current().id();
    thread::scope(|scope| {
        for i in 0..16 {
            let (pool, total) = (&pool, &total);
            scope.spawn(move || {
                for _ in 0..50 {
                    let ran = pool.run(FOREVER, || {
                        total.fetch_add(i, Ordering::Relaxed);
                        thread::current().id()
                    });
                    assert_ne!(ran.unwrap(), caller);
                }
            });
        }
    });
    assert_eq!(total.load(Ordering::Relaxed), 50 * (0..16).sum::<usize>());
    pool.stop();
    assert_eq!(pool.run(FOREVER, || ()), Err(Error::STOPPED));
}

#[test]
fn a_panic_is_an_error_of_its_job_only() {
    let pool = OffloadPool::new(1);
    assert_eq!(
        pool.run(FOREVER, || panic!("on purpose")),
        Err::<(), _>(Error::PANICKED)
    );
    assert_eq!(pool.run(FOREVER, || 5), Ok(5));
    pool.stop();
}

#[test]
fn the_deadline_bounds_the_queueing_and_not_the_job() {
    let pool = OffloadPool::new(1);
    let (begun, has_begun) = mpsc::channel();
    let (end, may_end) = mpsc::channel();
    let deadline = now_ns() + 50_000_000;
    thread::scope(|scope| {
        let pool = &pool;
        let running = scope.spawn(move || {
            let job = move || {
                begun.send(()).unwrap();
                may_end.recv().unwrap();
                7
            };
            // Passes while the job runs.
            pool.run(deadline, job)
        });
        has_begun.recv().unwrap();
        // The only thread is busy: these never start.
        let never = || unreachable!("it was withdrawn");
        assert_eq!(pool.run(soon(), never), Err::<(), _>(Error::TIMEDOUT));
        assert_eq!(pool.run_owned(soon(), never), Err::<(), _>(Error::TIMEDOUT));
        // Long enough for the caller to have noticed its deadline.
        while now_ns() < deadline + 20_000_000 {
            thread::yield_now();
        }
        assert!(!running.is_finished());
        end.send(()).unwrap();
        assert_eq!(running.join().unwrap(), Ok(7));
    });
    pool.stop();
}

#[test]
fn an_abandoned_job_frees_its_result() {
    let pool = OffloadPool::new(1);
    let (end, may_end) = mpsc::channel::<()>();
    let (begun, has_begun) = mpsc::channel();
    let dropped = Arc::new(AtomicBool::new(false));
    let result = Dropped(dropped.clone());
    let abandoned = thread::scope(|scope| {
        let job = move || {
            begun.send(()).unwrap();
            may_end.recv().unwrap();
            result
        };
        let caller = scope.spawn(|| pool.run_owned(now_ns() + 20_000_000, job).map(|_| ()));
        has_begun.recv().unwrap();
        caller.join().unwrap()
    });
    assert_eq!(abandoned, Err(Error::TIMEDOUT));
    assert!(!dropped.load(Ordering::Acquire));
    end.send(()).unwrap();
    pool.stop();
    assert!(dropped.load(Ordering::Acquire));
}

#[test]
fn stop_lets_queued_jobs_run_and_joins_every_thread() {
    let pool = Arc::new(OffloadPool::new(2));
    let ran = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(
                || match pool.run(FOREVER, || ran.fetch_add(1, Ordering::Relaxed)) {
                    Ok(_) => {}
                    Err(e) => assert_eq!(e, Error::STOPPED),
                },
            );
        }
        pool.stop();
    });
    let after = ran.load(Ordering::Relaxed);
    assert!(after <= 8);
    pool.stop();
}
