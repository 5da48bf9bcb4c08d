//! Timers: who is to be woken when.
//!
//! Owns the order of deadlines and nothing else. It must not know what waits (a node carries a key that is handed back
//! unread), what time it is (`now_ns` comes from the caller) or which thread runs it.
//!
//! | file     | what                                                                     |
//! |----------|--------------------------------------------------------------------------|
//! | `node`   | [`TimerNode`], the intrusive node in the waiter's frame, and its key      |
//! | `wheel`  | `Wheel`, the hierarchical timing wheel, for one caller at a time        |
//! | `shared` | [`SharedWheel`], a core's wheel behind a lock, with its earliest deadline |

mod node;
mod shared;
mod wheel;

#[cfg(test)]
mod tests;

pub use node::{TimerKey, TimerNode};
pub use shared::SharedWheel;
#[cfg(test)]
pub(crate) use wheel::{TICK_NS, Wheel};
