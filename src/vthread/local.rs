//! Vthread-local storage: process-wide keys with destructors, one table of values per vthread that uses them.
//!
//! Modelled on pthread_key_create(3): destructors run at the vthread's end, on its stack, for values that are not null, in
//! up to four rounds because a destructor may set values again.

use super::record::Destructor;
use crate::error::{Error, Result};
use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// Keys a process may have at a time.
pub(crate) const KEYS: usize = 128;
const ROUNDS: usize = 4;
/// `Key::serial` is odd while the key exists.
const LIVE: u32 = 1;

struct Key {
    /// Counts creations and deletions, so that a value set under a deleted key is not seen by its successor.
    serial: AtomicU32,
    destructor: AtomicUsize,
}

static TABLE: [Key; KEYS] = [const {
    Key {
        serial: AtomicU32::new(0),
        destructor: AtomicUsize::new(0),
    }
}; KEYS];

fn key(key: u32) -> Result<(usize, &'static Key)> {
    // Keys start at 1, so that a zeroed key variable is not one.
    let index = (key as usize).wrapping_sub(1);
    TABLE.get(index).map(|k| (index, k)).ok_or(Error::INVAL)
}

/// Creates a key.
pub(crate) fn create(destructor: Option<Destructor>) -> Result<u32> {
    let address = destructor.map_or(0, |d| d as usize);
    for (index, key) in TABLE.iter().enumerate() {
        let serial = key.serial.load(Ordering::Relaxed);
        if serial & LIVE == 0
            && key
                .serial
                .compare_exchange(serial, serial + 1, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        {
            key.destructor.store(address, Ordering::Release);
            return Ok(index as u32 + 1);
        }
    }
    Err(Error::AGAIN)
}

/// Deletes a key; its values are forgotten and their destructors not run.
pub(crate) fn delete(id: u32) -> Result<()> {
    let (_, key) = key(id)?;
    let serial = key.serial.load(Ordering::Relaxed);
    let deleted = serial.wrapping_add(1);
    if serial & LIVE == 0
        || key
            .serial
            .compare_exchange(serial, deleted, Ordering::AcqRel, Ordering::Relaxed)
            .is_err()
    {
        return Err(Error::INVAL);
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Value {
    serial: u32,
    value: *mut c_void,
}

/// The values of one vthread.
pub(crate) struct Locals {
    values: Vec<Value>,
}

impl Locals {
    pub(crate) const fn new() -> Locals {
        Locals { values: Vec::new() }
    }

    pub(crate) fn set(&mut self, id: u32, value: *mut c_void) -> Result<()> {
        let (index, key) = key(id)?;
        let serial = key.serial.load(Ordering::Acquire);
        if serial & LIVE == 0 {
            return Err(Error::INVAL);
        }
        if index >= self.values.len() {
            let more = index + 1 - self.values.len();
            self.values.try_reserve(more).map_err(|_| Error::NOMEM)?;
            self.values.resize(
                index + 1,
                Value {
                    serial: 0,
                    value: std::ptr::null_mut(),
                },
            );
        }
        self.values[index] = Value { serial, value };
        Ok(())
    }

    pub(crate) fn get(&self, id: u32) -> *mut c_void {
        let Ok((index, key)) = key(id) else {
            return std::ptr::null_mut();
        };
        match self.values.get(index) {
            Some(v) if v.serial == key.serial.load(Ordering::Relaxed) => v.value,
            _ => std::ptr::null_mut(),
        }
    }

    /// Takes the next value whose destructor is to run in this round, from index `from` on.
    fn next(&mut self, from: usize) -> Option<(usize, Destructor, *mut c_void)> {
        for (index, (v, key)) in self.values.iter_mut().zip(&TABLE).enumerate().skip(from) {
            if v.value.is_null() || v.serial != key.serial.load(Ordering::Acquire) {
                continue;
            }
            let address = key.destructor.load(Ordering::Acquire);
            if address == 0 {
                continue;
            }
            let value = std::mem::replace(&mut v.value, std::ptr::null_mut());
            // SAFETY: a non-zero address was stored by `create` from a function of this type, and the key still exists.
            let destructor = unsafe { std::mem::transmute::<usize, Destructor>(address) };
            return Some((index, destructor, value));
        }
        None
    }
}

/// Runs the destructors of a vthread that ends, on its stack. `with` gives access to its locals for a moment: none is kept
/// while a destructor runs, since that may set values.
pub(crate) fn run_destructors(mut with: impl FnMut(&mut dyn FnMut(&mut Locals))) {
    for _ in 0..ROUNDS {
        let mut from = 0;
        let mut ran = false;
        loop {
            let mut found = None;
            with(&mut |locals| found = locals.next(from));
            let Some((index, destructor, value)) = found else {
                break;
            };
            // SAFETY: the host's contract for the key: its destructor takes the values set under it.
            unsafe { destructor(value) };
            from = index + 1;
            ran = true;
        }
        if !ran {
            break;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    unsafe extern "C-unwind" fn count(value: *mut c_void) {
        // SAFETY: the test passes the address of an AtomicU32.
        unsafe { &*value.cast::<AtomicU32>() }.fetch_add(1, Ordering::Relaxed);
    }

    #[test]
    fn a_value_under_a_deleted_key_is_not_seen_by_its_successor() {
        let hits = AtomicU32::new(0);
        let value = (&raw const hits).cast_mut().cast();
        let mut locals = Locals::new();
        let a = create(Some(count)).unwrap();
        locals.set(a, value).unwrap();
        assert_eq!(locals.get(a), value);
        delete(a).unwrap();
        assert_eq!(locals.set(a, value), Err(Error::INVAL));
        let b = create(Some(count)).unwrap();
        assert!(locals.get(b).is_null());
        run_destructors(|f| f(&mut locals));
        assert_eq!(hits.load(Ordering::Relaxed), 0);
        locals.set(b, value).unwrap();
        run_destructors(|f| f(&mut locals));
        assert_eq!(hits.load(Ordering::Relaxed), 1);
        assert!(locals.get(b).is_null());
        delete(b).unwrap();
        assert_eq!(locals.set(0, value), Err(Error::INVAL));
        assert_eq!(locals.set(KEYS as u32 + 1, value), Err(Error::INVAL));
    }
}
