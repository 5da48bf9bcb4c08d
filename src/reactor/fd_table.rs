//! What a runtime knows of each descriptor, found by its number without a lock.
//!
//! A directory of chunks that are allocated on first use and freed with the table. An entry is *type-stable*: it stays an
//! entry of the same number, and only its generation changes. The **generation** goes up whenever the number stops
//! meaning what it meant (close, forget, a new descriptor from a call of ours); it is part of the event token and of each
//! operation, so neither an old event nor an old operation reaches a number that is used again.

use super::direction::Direction;
use super::sys::FdKind;
use crate::error::{Error, Result};
use crate::primitive::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

const CHUNK: usize = 1024;
const CHUNKS: usize = 4096;
/// Locks for adoption and release, by number. They are held across fcntl(2) and epoll_ctl(2), never while waking.
const STRIPES: usize = 64;

/// Numbers below this have an entry; it is four times the kernel's default ceiling (`fs.nr_open`).
pub(crate) const MAX_FD: usize = CHUNK * CHUNKS;

const PREPARED: u64 = 1 << 0;
const REGISTERED: u64 = 1 << 1;
const ALWAYS_READY: u64 = 1 << 2;
const WAS_BLOCKING: u64 = 1 << 3;
const KIND_SHIFT: u32 = 4;
const KIND: u64 = 0b11 << KIND_SHIFT;
const DRIVER_SHIFT: u32 = 16;
const DRIVER: u64 = 0xffff << DRIVER_SHIFT;
const GENERATION_SHIFT: u32 = 32;

/// A reading of an entry's state: `generation | driver | kind | flags`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct State(u64);

impl State {
    pub(crate) fn generation(self) -> u32 {
        (self.0 >> GENERATION_SHIFT) as u32
    }

    /// Its kind is known and it is non-blocking.
    pub(crate) fn is_prepared(self) -> bool {
        self.0 & PREPARED != 0
    }

    /// Its driver reports events of it, or it is always ready.
    pub(crate) fn is_registered(self) -> bool {
        self.0 & REGISTERED != 0
    }

    /// The kernel has no readiness for it: a regular file.
    pub(crate) fn is_always_ready(self) -> bool {
        self.0 & ALWAYS_READY != 0
    }

    /// O_NONBLOCK was set by us.
    pub(crate) fn was_blocking(self) -> bool {
        self.0 & WAS_BLOCKING != 0
    }

    /// The core whose driver it is registered with, if that is so.
    pub(crate) fn driver(self) -> Option<usize> {
        (self.0 & (REGISTERED | ALWAYS_READY) == REGISTERED)
            .then_some(((self.0 & DRIVER) >> DRIVER_SHIFT) as usize)
    }

    pub(crate) fn kind(self) -> FdKind {
        match (self.0 & KIND) >> KIND_SHIFT {
            0 => FdKind::Other,
            1 => FdKind::Socket,
            _ => FdKind::Tcp,
        }
    }

    /// The next use of the number, of which nothing is known.
    #[must_use]
    pub(crate) fn next(self) -> State {
        State(u64::from(self.generation().wrapping_add(1)) << GENERATION_SHIFT)
    }

    #[must_use]
    pub(crate) fn prepared(self, kind: FdKind, was_blocking: bool) -> State {
        let kind = match kind {
            FdKind::Other => 0,
            FdKind::Socket => 1,
            FdKind::Tcp => 2,
        };
        let blocking = if was_blocking { WAS_BLOCKING } else { 0 };
        State(self.0 & !KIND | kind << KIND_SHIFT | blocking | PREPARED)
    }

    #[must_use]
    pub(crate) fn registered(self, driver: usize) -> State {
        State(self.0 & !DRIVER | ((driver as u64) << DRIVER_SHIFT & DRIVER) | REGISTERED)
    }

    #[must_use]
    pub(crate) fn always_ready(self) -> State {
        State(self.0 | REGISTERED | ALWAYS_READY)
    }
}

/// One descriptor number: a cache line.
#[repr(align(64))]
pub(crate) struct Entry {
    state: AtomicU64,
    read: Direction,
    write: Direction,
}

const _: () = assert!(size_of::<Entry>() == 64);

impl Entry {
    fn new() -> Entry {
        Entry {
            state: AtomicU64::new(0),
            read: Direction::new(),
            write: Direction::new(),
        }
    }

    pub(crate) fn state(&self) -> State {
        // Acquire: who sees a registration sees the reset directions of it.
        State(self.state.load(Ordering::Acquire))
    }

    /// Changes the state; only under the number's stripe ([`FdTable::lock`]).
    pub(crate) fn set_state(&self, state: State) {
        // Release: pairs with `state`. Whoever then takes the lock of a direction before us is cancelled by us, and
        // whoever takes it after us sees this generation.
        self.state.store(state.0, Ordering::Release);
    }

    pub(crate) fn is_generation(&self, generation: u32) -> bool {
        self.state().generation() == generation
    }

    pub(crate) fn read(&self) -> &Direction {
        &self.read
    }

    pub(crate) fn write(&self) -> &Direction {
        &self.write
    }
}

/// The table of one runtime.
pub(crate) struct FdTable {
    /// Each null or the first of CHUNK entries.
    chunks: Box<[AtomicPtr<Entry>]>,
    stripes: [Mutex<()>; STRIPES],
}

impl FdTable {
    pub(crate) fn new() -> Result<FdTable> {
        let mut chunks = Vec::new();
        chunks.try_reserve_exact(CHUNKS).map_err(|_| Error::NOMEM)?;
        chunks.resize_with(CHUNKS, || AtomicPtr::new(ptr::null_mut()));
        Ok(FdTable {
            chunks: chunks.into_boxed_slice(),
            stripes: [const { Mutex::new(()) }; STRIPES],
        })
    }

    /// The entry of `fd`, if its chunk exists.
    pub(crate) fn get(&self, fd: i32) -> Option<&Entry> {
        let fd = usize::try_from(fd).ok()?;
        // Acquire: pairs with the publication in `get_or_insert`.
        let chunk = self.chunks.get(fd / CHUNK)?.load(Ordering::Acquire);
        if chunk.is_null() {
            return None;
        }
        // SAFETY: a published chunk has CHUNK entries and lives as long as the table.
        Some(unsafe { &*chunk.add(fd % CHUNK) })
    }

    /// The entry of `fd`; its chunk is made if need be. `BADF` for a number out of range, `NOMEM`.
    pub(crate) fn get_or_insert(&self, fd: i32) -> Result<&Entry> {
        match self.get(fd) {
            Some(entry) => Ok(entry),
            None => self.insert(fd),
        }
    }

    #[cold]
    fn insert(&self, fd: i32) -> Result<&Entry> {
        let index = usize::try_from(fd).map_err(|_| Error::BADF)? / CHUNK;
        let slot = self.chunks.get(index).ok_or(Error::BADF)?;
        let mut entries = Vec::new();
        entries.try_reserve_exact(CHUNK).map_err(|_| Error::NOMEM)?;
        entries.resize_with(CHUNK, Entry::new);
        let chunk = Box::into_raw(entries.into_boxed_slice());
        let first = chunk.cast::<Entry>();
        // Release: the entries are seen by who finds the chunk.
        let won =
            slot.compare_exchange(ptr::null_mut(), first, Ordering::Release, Ordering::Relaxed);
        if won.is_err() {
            // SAFETY: made by `into_raw` above and not published.
            drop(unsafe { Box::from_raw(chunk) });
        }
        self.get(fd).ok_or(Error::BADF)
    }

    /// The right to change the state of `fd`.
    pub(crate) fn lock(&self, fd: i32) -> MutexGuard<'_, ()> {
        // A holder that panicked left a state that is as good as any: each change is one store.
        self.stripes[fd as usize % STRIPES]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FdTable {
    fn drop(&mut self) {
        for chunk in &self.chunks {
            let first = chunk.load(Ordering::Acquire);
            if !first.is_null() {
                // SAFETY: published by `insert` with this length, and nobody has a reference into a dropped table.
                drop(unsafe { Box::from_raw(ptr::slice_from_raw_parts_mut(first, CHUNK)) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_out_of_range_is_an_error_and_not_an_index() {
        let table = FdTable::new().unwrap();
        assert_eq!(table.get_or_insert(-1).err(), Some(Error::BADF));
        assert_eq!(table.get_or_insert(MAX_FD as i32).err(), Some(Error::BADF));
        assert_eq!(table.get_or_insert(i32::MAX).err(), Some(Error::BADF));
        assert!(table.get_or_insert(MAX_FD as i32 - 1).is_ok());
        assert!(table.get(MAX_FD as i32 - 2).is_some());
        assert!(table.get(0).is_none());
    }

    #[test]
    fn threads_that_meet_at_a_new_chunk_share_it() {
        let table = FdTable::new().unwrap();
        let entries: Vec<usize> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| ptr::from_ref(table.get_or_insert(7).unwrap()) as usize))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(entries.iter().all(|&e| e == entries[0]));
    }

    #[test]
    fn the_next_use_of_a_number_knows_nothing_of_the_last() {
        let state = State(u64::from(u32::MAX) << GENERATION_SHIFT)
            .prepared(FdKind::Tcp, true)
            .registered(513);
        assert_eq!(state.kind(), FdKind::Tcp);
        assert_eq!(state.driver(), Some(513));
        assert!(state.was_blocking() && state.is_prepared() && state.is_registered());
        assert_eq!(state.next(), State(0));
        assert_eq!(State(0).always_ready().driver(), None);
    }
}
