//! What the calling OS thread is: the carrier of a core with a vthread mounted, or just a thread.
//!
//! The thread's word (`primitive::tls`) points to its [`Carrier`]. Access to the core goes through [`with_core`], for the
//! length of one closure in which nothing switches, so no reference into a core lives across a switch.

use super::core::Core;
use super::shared::Shared;
use crate::primitive::tls;
use crate::reactor::Reactor;
use crate::vthread::context::{self, Mount, Parting};
use crate::vthread::hooks::ThreadState;
use crate::vthread::record::RecordRef;
use std::cell::Cell;
use std::ptr::{self, NonNull};

/// An OS thread that runs cores. Lives on that thread's own stack.
pub(crate) struct Carrier {
    pub(crate) shared: *const Shared,
    /// The core that this carrier holds, or null: the carrier's claim to it. Everything that uses the core starts here.
    pub(crate) core: Cell<*mut Core>,
    /// The vthread that is mounted, if one is.
    pub(crate) mount: Cell<*mut Mount>,
    pub(crate) thread: ThreadState,
}

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

/// Runs `f` with the core of the calling carrier: the one entry to a core from a vthread.
#[inline(always)]
pub(crate) fn with_core<R>(f: impl FnOnce(&mut Core) -> R) -> Option<R> {
    let core = carrier()?.core.get();
    // SAFETY: the carrier holds the core (`Carrier::core`); the worker loop has no reference to it while a vthread is
    // mounted, closures given here do not nest and do not switch, so this is the only reference.
    NonNull::new(core).map(|mut core| f(unsafe { core.as_mut() }))
}

/// As [`with_core`], if the calling carrier is one of `shared`.
#[inline(always)]
pub(crate) fn with_core_of<R>(shared: &Shared, f: impl FnOnce(&mut Core) -> R) -> Option<R> {
    let carrier = carrier()?;
    if !ptr::eq(carrier.shared, shared) {
        return None;
    }
    // SAFETY: as in `with_core`. The worker loop itself comes here when it wakes a joiner, with no reference in use; wakes of
    // timers and events do not (`Core::run_wakes`).
    NonNull::new(carrier.core.get()).map(|mut core| f(unsafe { core.as_mut() }))
}

/// The mount of the calling vthread.
#[inline(always)]
pub(crate) fn mount() -> Option<NonNull<Mount>> {
    NonNull::new(carrier()?.mount.get())
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
    let carrier = carrier()?;
    if carrier.mount.get().is_null() {
        return None;
    }
    // SAFETY: a runtime outlives its carriers.
    Some(unsafe { &*carrier.shared })
}

/// The mount of the calling vthread, and its runtime.
#[inline(always)]
pub(crate) fn inside<'a>() -> Option<(NonNull<Mount>, &'a Shared)> {
    let carrier = carrier()?;
    // SAFETY: a runtime outlives its carriers.
    NonNull::new(carrier.mount.get()).map(|mount| (mount, unsafe { &*carrier.shared }))
}

/// Runs `f` with the reactor of the calling vthread's runtime and the index of its core.
#[inline]
pub(crate) fn with_reactor<R>(f: impl FnOnce(&Reactor, usize) -> R) -> Option<R> {
    let shared = shared()?;
    let core = with_core(|core| core.index)?;
    Some(f(&shared.reactor, core))
}

/// Leaves the stack of the calling vthread; returns when it is mounted again, perhaps on another OS thread. Nothing that
/// was read from the carrier before may be used after.
#[inline(always)]
pub(crate) fn switch_away(mount: NonNull<Mount>, parting: Parting) {
    // SAFETY: the caller got `mount` from `self::mount`, so it is its own.
    unsafe { context::suspend(mount, parting) };
}
