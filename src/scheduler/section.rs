//! Sections of host code: not to be disturbed, on one thread, or about to block. The calls nest; each is the calling
//! vthread's own.

use super::carrier;
use super::crew::Cause;
use super::{block, current};
use crate::error::{Error, Result};
use crate::vthread::context::{Mount, Parting, Sections};
use crate::vthread::record::NO_CORE;
use std::ptr::NonNull;

/// The calling vthread's sections.
fn with_sections<R>(f: impl FnOnce(NonNull<Mount>, &mut Sections) -> Result<R>) -> Result<R> {
    let Some((mount, shared)) = current::inside() else {
        return Err(Error::NOT_VTHREAD);
    };
    if shared.is_forked() {
        return Err(Error::FORKED);
    }
    // SAFETY: the caller's own mount; `f` does not switch.
    f(mount, unsafe { &mut (*mount.as_ptr()).sections })
}

fn open(depth: &mut u32) -> Result<bool> {
    *depth = depth.checked_add(1).ok_or(Error::RANGE)?;
    Ok(*depth == 1)
}

fn close(depth: &mut u32) -> Result<bool> {
    *depth = depth.checked_sub(1).ok_or(Error::INVAL)?;
    Ok(*depth == 0)
}

/// Queues up until the vthread is on a carrier that has a core.
fn rejoin(mount: NonNull<Mount>) {
    while current::carrier().is_some_and(|carrier| carrier.hold.is_lost()) {
        current::switch_away(mount, Parting::Yield);
    }
}

/// From here the core is not taken away, for ten slices at most.
pub(crate) fn preempt_disable() -> Result<()> {
    let first = with_sections(|_, sections| open(&mut sections.kept))?;
    let Some(mount) = current::mount().filter(|_| first) else {
        return Ok(());
    };
    // A vthread that is mounted while it has such a section is mounted as kept.
    while !set_kept(true) {
        rejoin(mount);
    }
    Ok(())
}

/// Ends what [`preempt_disable`] began; where it was the outermost, a turn that is over is given up.
pub(crate) fn preempt_enable() -> Result<()> {
    if with_sections(|_, sections| close(&mut sections.kept))? {
        let _ = set_kept(false);
        block::checkpoint();
    }
    Ok(())
}

/// False if the core is lost.
fn set_kept(kept: bool) -> bool {
    let Some(carrier) = current::carrier() else {
        return true;
    };
    let held = carrier.hold.enter().is_some();
    if held {
        carrier.hold.go_outside(kept);
    }
    held
}

/// From here the vthread stays on its OS thread.
pub(crate) fn pin() -> Result<()> {
    let first = with_sections(|_, sections| open(&mut sections.pinned))?;
    let Some(mount) = current::mount().filter(|_| first) else {
        return Ok(());
    };
    loop {
        // A thread that lost its core may have a lower priority.
        rejoin(mount);
        let Some(carrier) = current::carrier() else {
            return Ok(());
        };
        // Inside, so that the core is not taken, and the thread lowered, before it is known as one to which a vthread is bound.
        let Some(before) = carrier.hold.enter() else {
            continue;
        };
        // SAFETY: the caller's own mount and body.
        let binds = unsafe {
            let body = mount.as_ref().record.body();
            if body.bound {
                false
            } else {
                (*mount.as_ptr()).sections.fixed_before = Some(body.fixed_core);
                body.bound = true;
                if body.fixed_core == NO_CORE {
                    body.fixed_core = carrier.core_index() as u16;
                }
                true
            }
        };
        if binds {
            carrier::bind_to(carrier, mount);
        }
        carrier.hold.exit(before);
        return Ok(());
    }
}

/// Ends what [`pin`] began.
pub(crate) fn unpin() -> Result<()> {
    let restored = with_sections(|mount, sections| {
        let last = close(&mut sections.pinned)?;
        Ok((mount, sections.fixed_before.take_if(|_| last)))
    })?;
    if let (mount, Some(fixed_before)) = restored {
        // SAFETY: as in `pin`.
        unsafe {
            let body = mount.as_ref().record.body();
            body.bound = false;
            body.fixed_core = fixed_before;
        }
        carrier::release_thread(mount);
    }
    Ok(())
}

/// The vthread is about to block its OS thread: its core goes to another one at once.
pub(crate) fn blocking_begin() -> Result<()> {
    let first = with_sections(|_, sections| {
        // What is not to be disturbed keeps its core.
        Ok(open(&mut sections.blocking)? && sections.kept == 0)
    })?;
    if let (true, Some(carrier)) = (first, current::carrier())
        && let Some(before) = carrier.hold.enter()
    {
        let shared = carrier.shared();
        if shared.crew.give_up(shared, carrier, Cause::Announced)
            && let Some(record) = current::vthread()
        {
            record.get().set_preempted(true);
        }
        carrier.hold.exit(before);
    }
    Ok(())
}

/// Ends what [`blocking_begin`] began: the vthread queues up for a core.
pub(crate) fn blocking_end() -> Result<()> {
    if with_sections(|_, sections| close(&mut sections.blocking))?
        && let Some(mount) = current::mount()
    {
        rejoin(mount);
    }
    Ok(())
}
