//! Telling the host of mounts that took too long.
//!
//! The event is made where the mount ends, and delivered by a vthread of its own, because host code runs nowhere else. Where
//! the vthread that ran too long makes a call of the runtime, its frames are taken down there first.

use super::crew::Carrier;
use super::current;
use super::shared::Shared;
use super::spawn::{self, Placement, Spec};
use crate::vthread::record::{Entry, RecordRef};
use std::ffi::{c_int, c_void};
use std::sync::atomic::Ordering;

/// Frames kept of a vthread that ran too long.
const FRAMES_MAX: usize = 64;

/// Who is told, and of what.
pub(crate) struct Watch {
    /// At least a millisecond.
    pub(crate) threshold_ns: u64,
    pub(crate) receive: Box<dyn Fn(&Event) + Send + Sync>,
}

/// A mount that took too long.
pub(crate) struct Event {
    pub(crate) handle: u64,
    pub(crate) name: [u8; 16],
    pub(crate) entry: Option<Entry>,
    pub(crate) ran_ns: u64,
    pub(crate) core: u16,
    /// The core was taken away meanwhile.
    pub(crate) lost_core: bool,
    /// Return addresses, innermost first; empty if it did not come to a call that could take them.
    pub(crate) frames: Box<[usize]>,
}

/// Takes down the frames of the calling vthread, if somebody wants them.
pub(super) fn trace(shared: &Shared, carrier: &Carrier) {
    if shared.overruns.is_none() {
        return;
    }
    let mut frames = [std::ptr::null_mut::<c_void>(); FRAMES_MAX];
    // SAFETY: the buffer has that many elements. The walk ends at the vthread's first frame, which says so.
    let count = unsafe { libc::backtrace(frames.as_mut_ptr(), FRAMES_MAX as c_int) };
    let taken = frames.iter().take(usize::try_from(count).unwrap_or(0));
    carrier
        .frames
        .set(Some(taken.map(|frame| frame.addr()).collect()));
}

/// A mount of `record` has ended that took `ran_ns`. The caller is the carrier, with no reference to its core in use.
#[cold]
#[inline(never)]
pub(super) fn report(
    shared: &Shared,
    carrier: &Carrier,
    record: RecordRef,
    ran_ns: u64,
    lost_core: bool,
) {
    let frames = carrier.frames.take().unwrap_or_default();
    // SAFETY: the carrier holds the vthread.
    let entry = unsafe { record.body() }.entry;
    let watched = shared.overruns.as_ref();
    if watched.is_none_or(|watch| ran_ns < watch.threshold_ns)
        || entry.is_some_and(|entry| std::ptr::fn_addr_eq(entry, deliver as Entry))
    {
        return;
    }
    let vthread = record.get();
    let event = Box::new(Event {
        handle: spawn::handle(shared, record),
        name: vthread.name(vthread.is_named()),
        entry,
        ran_ns,
        core: vthread.seen.core.load(Ordering::Relaxed),
        lost_core,
        frames,
    });
    let spec = Spec {
        entry: deliver,
        destructor: None,
        name: b"swn-overrun",
        class: shared.options.stack,
        placement: Placement::Any,
        bound: false,
        detached: true,
    };
    let event = Box::into_raw(event);
    // While the runtime stops there is nobody to tell.
    if spawn::spawn(shared, &spec, event.cast()).is_err() {
        // SAFETY: made by `into_raw` above, and not handed on.
        drop(unsafe { Box::from_raw(event) });
    }
}

/// The vthread that tells the host.
unsafe extern "C-unwind" fn deliver(event: *mut c_void) -> *mut c_void {
    // SAFETY: made by `report` for this call.
    let event = unsafe { Box::from_raw(event.cast::<Event>()) };
    if let Some(watch) = current::shared().and_then(|shared| shared.overruns.as_ref()) {
        (watch.receive)(&event);
    }
    std::ptr::null_mut()
}
