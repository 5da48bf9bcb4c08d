//! Padding against false sharing.

/// A value on cache lines of its own: 128 bytes, because the adjacent-line prefetcher of x86-64 moves lines in pairs and
/// some aarch64 cores have lines of that size.
#[repr(align(128))]
#[derive(Default)]
pub(crate) struct CachePadded<T>(pub(crate) T);

impl<T> std::ops::Deref for CachePadded<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> std::ops::DerefMut for CachePadded<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}
