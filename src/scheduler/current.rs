//! What the calling OS thread is: the carrier of a core with a vthread mounted, or just a thread.
//!
//! The thread's word (`primitive::tls`) points to its [`Carrier`]. Access to the core goes through [`with_core`], for the
//! length of one closure in which nothing switches, so no reference into a core lives across a switch.

use super::core::Core;
use super::crew::Carrier;
use super::shared::Shared;
use crate::primitive::tls;
use crate::reactor::Reactor;
use crate::vthread::context::{self, Mount, Parting};
use crate::vthread::record::RecordRef;
use std::ptr::{self, NonNull};

/// The calling thread's carrier.
#[inline(always)]
pub(crate) fn carrier<'a>() -> Option<&'a Carrier> {
    let word = tls::current_word().cast::<Carrier>();
    // SAFETY: set by `install` to a carrier that lives until `uninstall`; the reference is used only on this thread,
    // between two switches.
    unsafe { word.as_ref() }
}

/// Makes `carrier` that of the calling thread.
pub(crate) fn install(carrier: &Carrier) {
    tls::set_current_word(ptr::from_ref(carrier).cast());
}

/// The calling thread is no carrier any more.
pub(crate) fn uninstall() {
    tls::clear_current_word();
}

/// Runs `f` with the core of the calling carrier: the one entry to a core from a vthread. None if the caller is no carrier,
/// or its core was taken away.
#[inline(always)]
pub(crate) fn with_core<R>(f: impl FnOnce(&mut Core) -> R) -> Option<R> {
    enter(carrier()?, f)
}

/// As [`with_core`], if the calling carrier is one of `shared`.
#[inline(always)]
pub(crate) fn with_core_of<R>(shared: &Shared, f: impl FnOnce(&mut Core) -> R) -> Option<R> {
    let carrier = carrier()?;
    if !ptr::eq(carrier.shared(), shared) {
        return None;
    }
    enter(carrier, f)
}

#[inline(always)]
fn enter<R>(carrier: &Carrier, f: impl FnOnce(&mut Core) -> R) -> Option<R> {
    let before = carrier.hold.enter()?;
    // SAFETY: the carrier holds the core and is inside (`hold`: *one holder*); the worker loop has no reference to it while
    // a vthread is mounted or a wake is run, closures given here do not nest and do not switch, so this is the only
    // reference. Wakes of timers and events do not come here (`Core::run_wakes`).
    let result = f(unsafe { &mut *carrier.core() });
    carrier.hold.exit(before);
    Some(result)
}

/// The index of the core that the calling carrier holds, or held until it was taken away: where its reactor and timers
/// are. None in a thread that is no carrier.
#[inline(always)]
pub(crate) fn core_index() -> Option<usize> {
    Some(carrier()?.core_index())
}

/// The mount of the calling vthread.
#[inline(always)]
pub(crate) fn mount() -> Option<NonNull<Mount>> {
    carrier()?.mount()
}

/// The record of the calling vthread.
#[inline(always)]
pub(crate) fn vthread() -> Option<RecordRef> {
    // SAFETY: the mount of a mounted vthread is valid.
    mount().map(|m| unsafe { m.as_ref() }.record)
}

/// The runtime of the calling vthread.
#[inline(always)]
pub(crate) fn shared<'a>() -> Option<&'a Shared> {
    inside().map(|(_, shared)| shared)
}

/// The mount of the calling vthread, and its runtime.
#[inline(always)]
pub(crate) fn inside<'a>() -> Option<(NonNull<Mount>, &'a Shared)> {
    let carrier = carrier()?;
    carrier.mount().map(|mount| (mount, carrier.shared()))
}

/// Runs `f` with the reactor of the calling vthread's runtime and the index of its core. Nothing of it belongs to the core's
/// holder alone, so the caller need not hold it.
#[inline]
pub(crate) fn with_reactor<R>(f: impl FnOnce(&Reactor, usize) -> R) -> Option<R> {
    let carrier = carrier()?;
    carrier.mount()?;
    Some(f(&carrier.shared().reactor, carrier.core_index()))
}

/// Leaves the stack of the calling vthread; returns when it is mounted again, perhaps on another OS thread. Nothing that
/// was read from the carrier before may be used after.
#[inline(always)]
pub(crate) fn switch_away(mount: NonNull<Mount>, parting: Parting) {
    // SAFETY: the caller got `mount` from `self::mount`, so it is its own.
    unsafe { context::suspend(mount, parting) };
}
