//! The four sizes of stack, and how a slot of each is laid out.

use super::sys::page_size;

/// Guards of all but the smallest class. Wide enough that a frame with a large array does not step
/// over it into the stack below.
const WIDE_GUARD_BYTES: usize = 64 * 1024;

/// A size of stack. Classes instead of arbitrary sizes, so that any free stack of a class fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum StackClass {
    K16,
    K64,
    K256,
    M1,
}

impl StackClass {
    pub const COUNT: usize = 4;
    pub const ALL: [StackClass; Self::COUNT] = [Self::K16, Self::K64, Self::K256, Self::M1];

    /// The smallest class of at least `bytes`; `None` for 0 and above 1 MiB.
    pub fn for_bytes(bytes: usize) -> Option<StackClass> {
        if bytes == 0 {
            return None;
        }
        Self::ALL.into_iter().find(|class| bytes <= class.bytes())
    }

    /// Usable bytes, before colouring takes up to 960 of them.
    pub const fn bytes(self) -> usize {
        match self {
            Self::K16 => 16 * 1024,
            Self::K64 => 64 * 1024,
            Self::K256 => 256 * 1024,
            Self::M1 => 1024 * 1024,
        }
    }

    pub(super) const fn index(self) -> usize {
        self as usize
    }

    /// Bytes of the guard below a stack. One page for the smallest class, whose point is density.
    pub(super) fn guard_bytes(self) -> usize {
        match self {
            Self::K16 => page_size(),
            _ => WIDE_GUARD_BYTES.max(page_size()),
        }
    }

    /// Bytes of whole pages that hold a stack. More than `bytes` only where a page is larger than
    /// the class; the stack then lies at the upper end.
    pub(super) fn span_bytes(self) -> usize {
        self.bytes().next_multiple_of(page_size())
    }

    /// Distance from one stack to the next in a slab.
    pub(super) fn slot_bytes(self) -> usize {
        self.guard_bytes() + self.span_bytes()
    }
}
