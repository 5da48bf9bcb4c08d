//! Where records live, and handles.
//!
//! A slab holds 4,096 records and is never freed while the table lives. Free records hang in lists through their `link`:
//! one per core (its owner's alone) and one for all (behind a lock), which exchange batches.
//!
//! Handle: generation (32 bits), slot (24), runtime (8). A slot whose generations are used up is retired.

use super::record::{Record, RecordList, RecordRef, RecordStack};
use crate::error::{Error, Result};
use crate::primitive::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::{self, NonNull};
use std::sync::{Mutex, PoisonError};

const SLAB_BITS: u32 = 12;
const SLAB: usize = 1 << SLAB_BITS;
const SLOT_BITS: u32 = 24;
const SLABS: usize = 1 << (SLOT_BITS - SLAB_BITS);
/// Records moved at once between a core's list and the common one.
const BATCH: usize = 64;
/// A core's list gives back a batch above this.
const CACHE_MAX: usize = 16 * 1024;

/// The parts of a vthread handle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Handle {
    pub(crate) generation: u32,
    pub(crate) slot: u32,
    pub(crate) runtime: u8,
}

impl Handle {
    pub(crate) fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot) << 8 | u64::from(self.runtime)
    }

    pub(crate) fn from_bits(bits: u64) -> Handle {
        Handle {
            generation: (bits >> 32) as u32,
            slot: (bits >> 8) as u32 & 0xff_ffff,
            runtime: bits as u8,
        }
    }
}

struct Free {
    list: RecordList,
    /// Slots from here on have never been used.
    fresh: u32,
    retired: u32,
}

/// All records of a runtime.
pub(crate) struct RecordTable {
    slabs: Box<[AtomicPtr<Record>]>,
    /// Slots below this are initialised.
    initialised: AtomicU32,
    free: Mutex<Free>,
    generation: u32,
    index: u8,
}

// SAFETY: the raw pointers are to memory that lives as long as the table; access to records follows `record.rs`.
unsafe impl Send for RecordTable {}
// SAFETY: as above; the free list is behind a lock.
unsafe impl Sync for RecordTable {}

/// A core's free records.
#[derive(Default)]
pub(crate) struct RecordCache {
    free: RecordStack,
}

impl RecordTable {
    /// An empty table for runtime `index`, whose handles start at `generation` (not 0).
    pub(crate) fn new(generation: u32, index: u8) -> RecordTable {
        let slabs = (0..SLABS)
            .map(|_| AtomicPtr::new(ptr::null_mut()))
            .collect();
        RecordTable {
            slabs,
            initialised: AtomicU32::new(0),
            free: Mutex::new(Free {
                list: RecordList::new(),
                fresh: 0,
                retired: 0,
            }),
            generation,
            index,
        }
    }

    fn layout() -> Layout {
        // 4,096 records of 128 bytes: far below the limits of a layout.
        Layout::array::<Record>(SLAB).unwrap_or(Layout::new::<Record>())
    }

    fn record_at(&self, slot: u32) -> Option<NonNull<Record>> {
        let slab = NonNull::new(self.slabs[(slot >> SLAB_BITS) as usize].load(Ordering::Acquire))?;
        // SAFETY: the index is below SLAB, the length of every slab.
        Some(unsafe { slab.add(slot as usize & (SLAB - 1)) })
    }

    /// The record of a slot that has been in use, whatever its state now.
    pub(crate) fn get(&self, slot: u32) -> Option<RecordRef> {
        // Acquire: the record was initialised before the count passed it.
        if slot >= self.initialised.load(Ordering::Acquire) {
            return None;
        }
        // SAFETY: initialised, and in a slab of this table.
        self.record_at(slot)
            .map(|r| unsafe { RecordRef::from_raw(r) })
    }

    /// How many slots have ever been used.
    pub(crate) fn slots(&self) -> u32 {
        self.initialised.load(Ordering::Acquire)
    }

    /// The record of a handle of this runtime, if it is still the same vthread's.
    pub(crate) fn lookup(&self, handle: Handle) -> Result<RecordRef> {
        let record = self.get(handle.slot).ok_or(Error::STALE_HANDLE)?;
        let state = record.get().state.read();
        if state.generation() != handle.generation || state.phase() == super::state::Phase::Free {
            return Err(Error::STALE_HANDLE);
        }
        Ok(record)
    }

    /// Takes up to a batch of free records into `into`.
    #[cold]
    fn refill(&self, into: &mut RecordList, want: usize) -> Result<()> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..want {
            if let Some(record) = free.list.pop_front() {
                into.push_back(record);
                continue;
            }
            let slot = free.fresh;
            if slot == 1 << SLOT_BITS {
                break;
            }
            let cell = &self.slabs[(slot >> SLAB_BITS) as usize];
            if cell.load(Ordering::Relaxed).is_null() {
                // SAFETY: the layout is not empty. Zeroed memory of this size comes from fresh pages, untouched.
                let slab = unsafe { alloc_zeroed(Self::layout()) }.cast::<Record>();
                if slab.is_null() {
                    break;
                }
                cell.store(slab, Ordering::Release);
            }
            let Some(at) = self.record_at(slot) else {
                break;
            };
            // SAFETY: the slot is fresh, so nobody else knows it.
            unsafe { Record::init(at, slot, self.generation, self.index) };
            free.fresh += 1;
            // Release: a reader that sees the count sees the initialised record.
            self.initialised.store(free.fresh, Ordering::Release);
            // SAFETY: initialised just now.
            into.push_back(unsafe { RecordRef::from_raw(at) });
        }
        if into.len() == 0 {
            Err(Error::NOMEM)
        } else {
            Ok(())
        }
    }

    /// A free record, by a thread that has no cache.
    pub(crate) fn take(&self) -> Result<RecordRef> {
        let mut one = RecordList::new();
        self.refill(&mut one, 1)?;
        one.pop_front().ok_or(Error::NOMEM)
    }

    /// Gives a freed record back, by a thread that has no cache. `usable` is what `StateWord::free` said.
    pub(crate) fn give(&self, record: RecordRef, usable: bool) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if usable {
            free.list.push_front(record);
        } else {
            free.retired += 1;
        }
    }

    /// A generation above every one that handles of this table have had.
    pub(crate) fn next_generation(&self) -> u32 {
        let mut top = self.generation;
        for slot in 0..self.slots() {
            if let Some(record) = self.get(slot) {
                top = top.max(record.get().state.read().generation());
            }
        }
        top.saturating_add(1)
    }
}

impl Drop for RecordTable {
    fn drop(&mut self) {
        for slab in &mut self.slabs {
            let at = slab.load(Ordering::Relaxed);
            if !at.is_null() {
                // SAFETY: allocated in `refill` with this layout; records own nothing that needs dropping.
                unsafe { dealloc(at.cast(), Self::layout()) };
            }
        }
    }
}

impl RecordCache {
    #[inline]
    pub(crate) fn take(&mut self, table: &RecordTable) -> Result<RecordRef> {
        match self.free.pop() {
            Some(record) => Ok(record),
            None => self.take_from(table),
        }
    }

    #[cold]
    fn take_from(&mut self, table: &RecordTable) -> Result<RecordRef> {
        let mut batch = RecordList::new();
        table.refill(&mut batch, BATCH)?;
        self.free = batch.into_stack();
        self.free.pop().ok_or(Error::NOMEM)
    }

    /// Gives a freed record back; the hottest is taken first.
    #[inline]
    pub(crate) fn give(&mut self, table: &RecordTable, record: RecordRef, usable: bool) {
        if usable {
            self.free.push(record);
            if self.free.len() > CACHE_MAX {
                self.give_back(table);
            }
        } else {
            table.give(record, false);
        }
    }

    #[cold]
    fn give_back(&mut self, table: &RecordTable) {
        let mut batch = RecordList::new();
        for _ in 0..CACHE_MAX / 2 {
            if let Some(record) = self.free.pop() {
                batch.push_back(record);
            }
        }
        table
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .list
            .append(&mut batch);
    }
}
