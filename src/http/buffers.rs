//! Memory of a connection while it has a request, and the pool it goes back to.
//!
//! *Steady state allocates nothing*: a set of buffers keeps what it has grown to, up to a limit. The pool is a list per
//! core, the set used last on top, so that its memory is in that core's cache. The lists' locks are only ever tried:
//! nobody waits for one, and nothing depends on the OS thread.

use std::sync::{Mutex, TryLockError};

use super::date::CachedDate;
use super::request::Head;
use crate::error::Error;
use crate::io::stream;
use crate::primitive::pad::CachePadded;
use crate::runtime;

/// Guess: holds the requests and small responses of nearly every connection.
const INITIAL_BYTES: usize = 4096;
/// What grew beyond this is given back to the allocator.
const KEPT_BYTES: usize = 64 * 1024;
/// Per core: guess, at 9 KB each.
const KEPT_SETS: usize = 128;
/// Cores whose lists are tried, where there are many: guess.
const TRIED_CORES: usize = 8;

/// Received bytes: `start..end` are those not yet consumed.
pub struct Input {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    fn new() -> Self {
        Self {
            bytes: vec![0; INITIAL_BYTES],
            start: 0,
            end: 0,
        }
    }

    pub fn pending(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub fn pending_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    /// Forgets the first `count` pending bytes.
    pub fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Forgets all but the first `count` pending bytes.
    pub fn truncate(&mut self, count: usize) {
        self.end = self.start + count;
    }

    /// Appends what was received elsewhere.
    pub fn push(&mut self, received: &[u8]) {
        while self.bytes.len() - self.end < received.len() {
            self.make_room();
        }
        self.bytes[self.end..self.end + received.len()].copy_from_slice(received);
        self.end += received.len();
    }

    /// Receives once into the free space, after making some.
    pub fn receive(&mut self, fd: i32, deadline_ns: u64) -> Result<usize, Error> {
        if self.end == self.bytes.len() {
            self.make_room();
        }
        let count = stream::recv(fd, &mut self.bytes[self.end..], deadline_ns)?;
        self.end += count;
        Ok(count)
    }

    /// Growth follows what was received, never what a peer announced.
    fn make_room(&mut self) {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        } else {
            self.bytes.resize(self.bytes.len() * 2, 0);
        }
    }
}

/// Responses not yet sent, and what is needed to write them.
pub struct Output {
    pub bytes: Vec<u8>,
    /// Header lines set by the handler for the response in work.
    pub extra: Vec<u8>,
    pub date: CachedDate,
}

/// All memory of a connection that has a request.
pub struct Buffers {
    pub input: Input,
    pub head: Head,
    pub output: Output,
}

impl Buffers {
    fn new() -> Self {
        Self {
            input: Input::new(),
            head: Head::new(),
            output: Output {
                bytes: Vec::with_capacity(INITIAL_BYTES),
                extra: Vec::new(),
                date: CachedDate::new(),
            },
        }
    }

    /// Empty again, for another connection.
    fn reset(&mut self) {
        self.input.start = 0;
        self.input.end = 0;
        self.output.bytes.clear();
        self.output.extra.clear();
        if self.input.bytes.len() > KEPT_BYTES {
            self.input.bytes.truncate(INITIAL_BYTES);
            self.input.bytes.shrink_to_fit();
        }
        self.output.bytes.shrink_to(KEPT_BYTES);
        self.output.extra.shrink_to(INITIAL_BYTES);
    }
}

type Shard = CachePadded<Mutex<Vec<Box<Buffers>>>>;

/// Sets of buffers that no connection uses at present.
pub struct Pool {
    shards: Box<[Shard]>,
}

impl Pool {
    /// For a runtime of so many cores, which is at least one.
    pub fn new(cores: usize) -> Self {
        Self {
            shards: (0..cores).map(|_| Shard::default()).collect(),
        }
    }

    pub fn take(&self) -> Box<Buffers> {
        self.first_free(Vec::pop)
            .unwrap_or_else(|| Box::new(Buffers::new()))
    }

    pub fn give(&self, mut buffers: Box<Buffers>) {
        buffers.reset();
        let mut given = Some(buffers);
        self.first_free(|sets| {
            if sets.len() < KEPT_SETS {
                sets.extend(given.take());
            }
            given.is_none().then_some(())
        });
    }

    /// The first success of `attempt` on a shard that nobody has locked, this core's first.
    fn first_free<T>(
        &self,
        mut attempt: impl FnMut(&mut Vec<Box<Buffers>>) -> Option<T>,
    ) -> Option<T> {
        let own = runtime::core_hint();
        let (before, from_own) = self.shards.split_at(own.min(self.shards.len()));
        let mut tried = from_own.iter().chain(before).take(TRIED_CORES);
        tried.find_map(|shard| {
            let mut sets = match shard.try_lock() {
                Ok(sets) => sets,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return None,
            };
            attempt(&mut sets)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_comes_back_empty_and_without_excess() {
        let pool = Pool::new(2);
        let mut buffers = pool.take();
        buffers.input.push(&vec![7; KEPT_BYTES + 1]);
        buffers.output.bytes.resize(KEPT_BYTES * 2, 1);
        buffers.output.extra.extend_from_slice(b"X: 1\r\n");
        let address = &raw const *buffers;
        pool.give(buffers);
        let again = pool.take();
        assert_eq!(&raw const *again, address);
        assert!(again.input.pending().is_empty());
        assert!(again.output.bytes.is_empty() && again.output.extra.is_empty());
        assert_eq!(again.input.bytes.len(), INITIAL_BYTES);
        assert!(again.output.bytes.capacity() <= KEPT_BYTES);
    }

    #[test]
    fn a_locked_shard_is_passed_by() {
        let pool = Pool::new(2);
        pool.give(Box::new(Buffers::new()));
        let locked = pool.shards[0].lock().unwrap();
        pool.give(Box::new(Buffers::new()));
        assert_eq!(locked.len(), 1);
        drop(locked);
        assert_eq!(pool.shards[1].lock().unwrap().len(), 1);
    }

    #[test]
    fn pending_bytes_survive_growth_and_moves() {
        let mut input = Input::new();
        let bytes: Vec<u8> = (0..INITIAL_BYTES * 3).map(|at| at as u8).collect();
        input.push(&bytes[..INITIAL_BYTES]);
        input.consume(100);
        input.push(&bytes[INITIAL_BYTES..]);
        assert_eq!(input.pending(), &bytes[100..]);
    }
}
