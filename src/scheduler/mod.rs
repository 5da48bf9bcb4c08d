//! Row 4: who runs where, and when.
//!
//! * A [`core::Core`] is the scheduling state of one CPU: its run queues, stacks, records and timers. It is not tied to an
//!   OS thread: whoever holds the `Core` is its carrier.
//! * A [`carrier`] is the OS thread that runs a core: it takes vthreads from the queues, mounts them, and does what they
//!   asked for as they left their stack.
//! * [`shared::Shared`] is what the cores of a runtime share, and what each lets the others see of itself.
//!
//! A picture of the queues, and the order in which a core looks at them (`core::Core::next_work`):
//!
//! ```text
//!   wake by a vthread --> LIFO slot ----+
//!   displaced, I/O, timers --> resumed -+--> this core   (FIFO; thieves take half)
//!   spawn --> new ----------------------+                (LIFO for the owner, FIFO for thieves)
//!   fixed core, preferred core -> inbox +                (this core only)
//!   other OS threads --> injector ------+                (all cores)
//! ```

#![allow(unsafe_code)]

pub(crate) mod block;
mod body;
mod carrier;
pub(crate) mod core;
mod crew;
pub(crate) mod current;
mod deque;
mod hold;
mod idle;
mod inbox;
mod injector;
mod monitor;
pub(crate) mod overrun;
mod park;
mod rouse;
mod run_queue;
pub(crate) mod section;
pub(crate) mod shared;
pub(crate) mod shutdown;
pub(crate) mod spawn;
mod stopping;
pub(crate) mod wake;
