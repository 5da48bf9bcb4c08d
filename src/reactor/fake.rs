//! A driver that completes what a test tells it to.

use super::direction::{Direction, Linked};
use super::{Armed, Driver, Effort, FdKind, Operation, Progress, Release};
use crate::error::{Error, Result};
use crate::wait::{Target, Wake};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Results are told by [`FakeDriver::complete`], and reach those who wait through `wait`, as from a kernel.
#[derive(Default)]
pub(crate) struct FakeDriver {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    descriptors: HashMap<i32, Arc<Descriptor>>,
    events: Vec<Arc<Descriptor>>,
    woken: bool,
}

struct Descriptor {
    direction: Direction,
    results: Mutex<VecDeque<Result<usize>>>,
}

impl FakeDriver {
    pub(crate) fn new() -> FakeDriver {
        FakeDriver::default()
    }

    /// The next operation on `fd` gives `result`.
    pub(crate) fn complete(&self, fd: i32, result: Result<usize>) {
        let descriptor = self.descriptor(fd);
        descriptor.results.lock().unwrap().push_back(result);
        self.state.lock().unwrap().events.push(descriptor);
        self.changed.notify_all();
    }

    fn descriptor(&self, fd: i32) -> Arc<Descriptor> {
        let mut state = self.state.lock().unwrap();
        let descriptor = state.descriptors.entry(fd).or_insert_with(|| {
            Arc::new(Descriptor {
                direction: Direction::new(),
                results: Mutex::default(),
            })
        });
        descriptor.clone()
    }

    fn collect(&self, state: &mut State, wakes: &mut Vec<Wake>) -> usize {
        let events = std::mem::take(&mut state.events);
        for descriptor in &events {
            descriptor.direction.event(false, || true, wakes);
        }
        events.len()
    }
}

impl Driver for FakeDriver {
    fn try_complete(&self, operation: &Operation<'_>, _effort: Effort) -> Progress {
        let descriptor = self.descriptor(operation.fd());
        let seen = descriptor.direction.read();
        let result = descriptor.results.lock().unwrap().pop_front();
        match result {
            Some(result) => Progress::Done(result),
            None => {
                descriptor.direction.exhaust(seen);
                Progress::Pending
            }
        }
    }

    unsafe fn arm(&self, operation: &Operation<'_>, target: Target) -> Armed {
        let waiter = &operation.waiters()[0];
        waiter.set_target(target);
        let descriptor = self.descriptor(operation.fd());
        // SAFETY: the target is set, and the operation stays (the caller's promise).
        match unsafe { descriptor.direction.link(waiter, || true) } {
            Linked::Waiting => Armed::Waiting,
            Linked::Retry => Armed::Retry,
        }
    }

    fn disarm(&self, operation: &Operation<'_>) {
        let descriptor = self.descriptor(operation.fd());
        // SAFETY: linked in this direction or in none.
        let _ = unsafe { descriptor.direction.unlink(&operation.waiters()[0]) };
    }

    fn admit(&self, fd: i32, _kind: FdKind) {
        self.descriptor(fd).results.lock().unwrap().clear();
    }

    fn release(&self, fd: i32, _release: Release, wakes: &mut Vec<Wake>) {
        let descriptor = self.descriptor(fd);
        descriptor
            .results
            .lock()
            .unwrap()
            .push_back(Err(Error::CANCELED));
        descriptor.direction.reset(wakes);
    }

    fn wait(&self, timeout_ns: Option<u64>, wakes: &mut Vec<Wake>) -> usize {
        let state = self.state.lock().unwrap();
        let limit = Duration::from_nanos(timeout_ns.unwrap_or(3_600_000_000_000));
        let quiet = |state: &mut State| !state.woken && state.events.is_empty();
        let (mut state, _) = self
            .changed
            .wait_timeout_while(state, limit, quiet)
            .unwrap();
        state.woken = false;
        self.collect(&mut state, wakes)
    }

    fn try_wait(&self, wakes: &mut Vec<Wake>) -> Option<usize> {
        let mut state = self.state.try_lock().ok()?;
        Some(self.collect(&mut state, wakes))
    }

    fn wake(&self) {
        self.state.lock().unwrap().woken = true;
        self.changed.notify_all();
    }

    fn sources(&self) -> usize {
        self.state.lock().unwrap().descriptors.len()
    }
}
