//! `Stack`: the address of one carved stack, in one word.
//!
//! ```text
//!   guard_limit      limit                              top     limit + class.bytes()
//!       |  guard       |  usable, grows towards limit    |  colour  |
//! ```

use std::ptr::NonNull;

use super::class::StackClass;
use super::sys;

/// Stack tops are moved down by one of this many offsets. Page-aligned tops of many suspended
/// stacks fall into the same cache sets, which made a switch among 20,000 of them 2 to 4 times
/// slower.
const COLOURS: usize = 16;
/// One cache line, so that neighbouring colours share none.
const COLOUR_BYTES: usize = 64;

const CLASS_MASK: usize = 0b11;
const COLOUR_SHIFT: u32 = 2;
const TAG_MASK: usize = 4096 - 1;

/// A stack's lowest usable address, with class and colour in the low bits, which are free because
/// that address is page-aligned. One word, so that caches are dense and `Option<Stack>` costs
/// nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stack(NonNull<u8>);

// SAFETY: a `Stack` is an address; reading or writing memory through it takes unsafe code of its
// own, which answers for it by "one holder".
unsafe impl Send for Stack {}
// SAFETY: as above; the handle has no interior state.
unsafe impl Sync for Stack {}

impl Stack {
    /// `limit` is the page-aligned lowest usable address of a slot of `class`; `index` is any number
    /// that differs between neighbours.
    pub(super) fn new(limit: NonNull<u8>, class: StackClass, index: usize) -> Stack {
        debug_assert_eq!(limit.addr().get() & TAG_MASK, 0);
        let tag = class.index() | (index % COLOURS) << COLOUR_SHIFT;
        Stack(limit.map_addr(|address| address | tag))
    }

    pub fn class(self) -> StackClass {
        StackClass::ALL[self.0.addr().get() & CLASS_MASK]
    }

    /// The address a first frame grows down from: coloured, 64-byte aligned.
    pub fn top(self) -> NonNull<u8> {
        let colour = (self.0.addr().get() & TAG_MASK) >> COLOUR_SHIFT;
        let bytes = self.class().bytes() - colour * COLOUR_BYTES;
        // SAFETY: `bytes` is at most the class size, so the result is inside the slab's mapping or,
        // for the last slot, one past its end.
        unsafe { self.limit().add(bytes) }
    }

    /// The lowest usable address.
    pub fn limit(self) -> NonNull<u8> {
        let limit = self.0.as_ptr().map_addr(|address| address & !TAG_MASK);
        // SAFETY: nothing is ever mapped in page 0, so the address is not 0 without its tag either.
        unsafe { NonNull::new_unchecked(limit) }
    }

    #[cfg(test)]
    /// The lowest address of the guard. A fault from here up to `limit` is an overflow of this
    /// stack.
    pub fn guard_limit(self) -> NonNull<u8> {
        let class = self.class();
        // SAFETY: "guard below": the slot starts with the guard, and span and guard together lie in
        // the slab's mapping.
        unsafe { self.limit().sub(class.slot_bytes() - class.bytes()) }
    }

    /// Bytes from the top down to the lowest page in memory, 0 if none is: how deep the stack has
    /// been used since its pages were last discarded, in whole pages, former holders included.
    /// Pages swapped out count as unused.
    pub fn resident_high_water(self) -> usize {
        // 1 MiB of the smallest pages there are.
        let mut resident = [0u8; 256];
        let page = sys::page_size();
        let (start, span) = self.pages();
        let resident = &mut resident[..span / page];
        // SAFETY: the pages of a carved stack are mapped ("mapped until dropped"), and `resident`
        // has one byte for each.
        if !unsafe { sys::residency(start, span, resident) } {
            return 0;
        }
        match resident.iter().position(|byte| byte & 1 == 1) {
            Some(lowest) => {
                let lowest = start.addr().get() + lowest * page;
                let usable = lowest.max(self.limit().addr().get());
                self.top().addr().get() - usable
            }
            None => 0,
        }
    }

    /// The whole pages that hold the stack: start and length.
    pub(super) fn pages(self) -> (NonNull<u8>, usize) {
        let class = self.class();
        let span = class.span_bytes();
        // SAFETY: the span lies in the slot, above its guard.
        (unsafe { self.limit().sub(span - class.bytes()) }, span)
    }
}
