//! The intrusive queue of waiters under a primitive.

use super::{Claimed, Outcome, Target, Wake};
use crate::primitive::prefetch;
use std::cell::Cell;
use std::marker::PhantomPinned;
use std::ptr::NonNull;

/// A node of a [`WaitQueue`]: one wait at one primitive. All of it is guarded by the lock of the queue.
pub(crate) struct Waiter {
    next: Cell<Option<NonNull<Waiter>>>,
    prev: Cell<Option<NonNull<Waiter>>>,
    linked: Cell<bool>,
    target: Cell<Option<Target>>,
    _pinned: PhantomPinned,
}

impl Waiter {
    pub(crate) const fn new() -> Waiter {
        Waiter {
            next: Cell::new(None),
            prev: Cell::new(None),
            linked: Cell::new(false),
            target: Cell::new(None),
            _pinned: PhantomPinned,
        }
    }

    /// Says who waits; before the node is linked.
    pub(crate) fn set_target(&self, target: Target) {
        self.target.set(Some(target));
    }

    /// Who waits; under the lock that claims are made under.
    pub(crate) fn target(&self) -> Option<Target> {
        self.target.get()
    }

    /// Nobody waits by this node any more: a claim loses. Under the lock that claims are made under.
    pub(crate) fn clear_target(&self) {
        self.target.set(None);
    }

    /// Whether the node is in a queue; under the queue's lock.
    pub(crate) fn is_linked(&self) -> bool {
        self.linked.get()
    }

    /// Claims the wait of a node that was just unlinked.
    ///
    /// # Safety
    /// The lock of the queue that the node came from is held, and the node is not touched afterwards (*unlink before
    /// claim*).
    pub(crate) unsafe fn claim(&self, outcome: Outcome) -> Claimed {
        match self.target.get() {
            // SAFETY: the node was linked until now, so its owner has not seen its wait end.
            Some(target) => unsafe { target.claim(outcome) },
            None => Claimed::Lost,
        }
    }
}

/// First-in first-out list of [`Waiter`]s. All-zero is an empty queue. Not synchronised: its owner holds a lock.
#[repr(C)]
#[derive(Default)]
pub(crate) struct WaitQueue {
    head: Cell<Option<NonNull<Waiter>>>,
    tail: Cell<Option<NonNull<Waiter>>>,
}

impl WaitQueue {
    pub(crate) fn is_empty(&self) -> bool {
        self.head.get().is_none()
    }

    /// Asks for the first node, by a look without the lock: it may be gone by then, which does no harm.
    #[inline(always)]
    pub(crate) fn prefetch_front(&self) {
        // SAFETY: a plain word; read as a volatile, since a holder of the lock may be writing it. It is not dereferenced.
        let front = unsafe { self.head.as_ptr().cast::<*const u8>().read_volatile() };
        prefetch::line(front);
    }

    /// Links `node` at the end.
    ///
    /// # Safety
    /// The queue's lock is held; `node` is in no queue and stays where it is until it has been unlinked.
    pub(crate) unsafe fn push_back(&self, node: &Waiter) {
        debug_assert!(!node.linked.get());
        node.linked.set(true);
        node.next.set(None);
        node.prev.set(self.tail.get());
        let link = Some(NonNull::from(node));
        match self.tail.get() {
            // SAFETY: linked nodes are valid (this function's contract for each of them).
            Some(tail) => unsafe { tail.as_ref() }.next.set(link),
            None => self.head.set(link),
        }
        self.tail.set(link);
    }

    /// Unlinks the first node.
    ///
    /// # Safety
    /// The queue's lock is held. The node is valid until its wait is claimed and the lock released.
    pub(crate) unsafe fn pop_front(&self) -> Option<NonNull<Waiter>> {
        let node = self.head.get()?;
        // SAFETY: linked nodes are valid, and it is linked here.
        let first = unsafe { node.as_ref() };
        let next = first.next.get();
        self.head.set(next);
        match next {
            // SAFETY: as above.
            Some(n) => unsafe { n.as_ref() }.prev.set(None),
            None => self.tail.set(None),
        }
        first.linked.set(false);
        Some(node)
    }

    /// Unlinks `node` if it is linked, and says whether it was.
    ///
    /// # Safety
    /// The queue's lock is held; `node` is linked in this queue or in none.
    pub(crate) unsafe fn remove(&self, node: &Waiter) -> bool {
        if !node.linked.get() {
            return false;
        }
        let (prev, next) = (node.prev.get(), node.next.get());
        match prev {
            // SAFETY: the neighbours of a linked node are linked, hence valid.
            Some(p) => unsafe { p.as_ref() }.next.set(next),
            None => self.head.set(next),
        }
        match next {
            // SAFETY: as above.
            Some(n) => unsafe { n.as_ref() }.prev.set(prev),
            None => self.tail.set(prev),
        }
        node.linked.set(false);
        true
    }
}

/// Wakes collected under a lock, to be run after it. Fixed size: nothing is allocated while a lock is held.
pub(crate) struct WakeBatch {
    wakes: [Option<Wake>; WakeBatch::ROOM],
    len: usize,
}

impl WakeBatch {
    /// How many wakes fit.
    pub(crate) const ROOM: usize = 16;

    pub(crate) fn new() -> WakeBatch {
        WakeBatch {
            wakes: [const { None }; Self::ROOM],
            len: 0,
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len == Self::ROOM
    }

    /// Keeps the wake of a won claim; says whether the claim was won. There must be room.
    pub(crate) fn add(&mut self, claimed: Claimed) -> bool {
        match claimed {
            Claimed::Lost => false,
            Claimed::Done => true,
            Claimed::Wake(wake) => {
                self.wakes[self.len] = Some(wake);
                self.len += 1;
                true
            }
        }
    }

    /// Runs all of them, in order. Call it with no lock held.
    pub(crate) fn run(&mut self) {
        for wake in &mut self.wakes[..self.len] {
            if let Some(wake) = wake.take() {
                wake.run();
            }
        }
        self.len = 0;
    }
}
