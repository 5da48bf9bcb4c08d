//! Stacks for vthreads: where they come from, who holds them, and how they are given back.
//!
//! This level owns address space. It knows nothing of vthreads, cores or schedulers: whoever runs
//! code on a stack, and when, is decided above. It is the only level that names `libc` for memory.
//!
//! ```text
//!   StackCache (one core)      StackCache (one core)       LIFO, no lock, no atomic read-modify-write
//!        |  batches of half a cache   |
//!        +-------------+--------------+
//!                      v
//!                 StackPool (runtime)                      per class: free list, slabs
//!                      v
//!   Slab: [guard][stack][guard][stack][guard][stack]...    one mapping, carved from below
//! ```
//!
//! Invariants:
//!
//! - **one holder**: a carved stack is in exactly one place: a pool's free list, one core's cache, or
//!   with the caller that took it. [`Stack`] is a plain address and may be copied (a lister keeps
//!   one), but only the holder may run on it, and only once may it be put back.
//! - **same pool**: a stack goes back to the pool it was taken from, through any of its caches.
//! - **guard below**: the bytes right below [`Stack::limit`] fault when touched, unless the pool
//!   reports [`GuardMode::None`]. Discarding a stack's pages leaves its guard in place.
//! - **mapped until dropped**: a slab is unmapped only when its pool is dropped, so the address of a
//!   stack stays readable for as long as its runtime lives.
#![allow(unsafe_code)]

mod cache;
mod class;
mod guard;
mod handle;
mod ledger;
mod pool;
mod slab;
mod sys;
mod valgrind;

#[cfg(test)]
mod tests;

pub use cache::StackCache;
pub use class::StackClass;
pub use guard::GuardMode;
pub use handle::Stack;
pub use pool::StackPool;
pub use valgrind::OwnStack;

/// Why no stack could be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StackError {
    /// The kernel refused even a mapping of one stack (address space, overcommit or map count), or
    /// there was no memory for the pool's own lists.
    OutOfMemory,
}
