//! Row 3: the virtual thread itself, without any scheduler: its state word, its record and handle, its context (the
//! switch), what moves with it, its local storage, and joining.
//!
//! A vthread is a [`record::Record`] for all of its life and a [`context::Mount`] at the top of a stack from its first run
//! to its end. Run queues hold pointers to records; handles name them by slot and generation.

#![allow(unsafe_code)]

pub(crate) mod context;
pub(crate) mod hooks;
pub(crate) mod join;
pub(crate) mod local;
pub(crate) mod record;
pub(crate) mod state;
pub(crate) mod table;

use record::RecordRef;

/// What the scheduler gives to the layers below it: how a claimed vthread gets into a run queue.
pub(crate) trait Schedule: Sync {
    /// Puts a vthread whose wait was claimed (phase Ready, or Created for a completion) into a run queue and wakes a core
    /// where that is needed. From any thread.
    fn schedule(&self, vthread: RecordRef);
}
