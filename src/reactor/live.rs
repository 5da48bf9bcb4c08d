//! The reactors of this process. A descriptor number belongs to the process and not to a runtime: whoever closes one,
//! on whatever thread, must reach every runtime that knows it.

use super::{FdKind, Reactor, Release};
use crate::error::{Error, Result};
use crate::primitive::fork;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};

/// With the fork epoch that each belongs to. A child of fork(2) shares its parent's epoll instances, so releasing a
/// descriptor there would take it from the parent's too.
static LIVE: RwLock<Vec<(u32, Weak<Reactor>)>> = RwLock::new(Vec::new());
/// Length of `LIVE`, read without its lock: most processes have one runtime, and its vthreads need not look further.
static COUNT: AtomicUsize = AtomicUsize::new(0);

pub(super) fn add(reactor: &Arc<Reactor>) -> Result<()> {
    let mut live = LIVE.write().unwrap_or_else(PoisonError::into_inner);
    live.try_reserve(1).map_err(|_| Error::NOMEM)?;
    live.push((fork::epoch(), Arc::downgrade(reactor)));
    COUNT.store(live.len(), Ordering::Release);
    Ok(())
}

pub(super) fn remove_dead() {
    let mut live = LIVE.write().unwrap_or_else(PoisonError::into_inner);
    live.retain(|(_, reactor)| reactor.strong_count() > 0);
    COUNT.store(live.len(), Ordering::Release);
}

/// Calls `f` for every reactor of this process but `except`; none is locked meanwhile.
fn each_but(except: Option<&Reactor>, f: impl Fn(&Reactor)) {
    let count = COUNT.load(Ordering::Acquire);
    if count == 0 || (count == 1 && except.is_some()) {
        return;
    }
    let process = fork::epoch();
    // Upgraded under the lock and used after it: a reactor whose last reference this is takes the lock as it goes.
    let reactors: Vec<Arc<Reactor>> = {
        let live = LIVE.read().unwrap_or_else(PoisonError::into_inner);
        let own = live.iter().filter(|(owner, _)| *owner == process);
        own.filter_map(|(_, reactor)| reactor.upgrade()).collect()
    };
    for reactor in &reactors {
        if !except.is_some_and(|own| std::ptr::eq(own, &**reactor)) {
            f(reactor);
        }
    }
}

/// Releases `fd`, which is about to be closed, in every reactor; `own` is the caller's.
pub(crate) fn close_everywhere(fd: i32, own: Option<&Reactor>) {
    release(fd, own, Release::Close);
}

/// Releases `fd`, which the host takes back, in every reactor; `own` is the caller's.
pub(crate) fn forget_everywhere(fd: i32, own: Option<&Reactor>) {
    release(fd, own, Release::Restore);
}

fn release(fd: i32, own: Option<&Reactor>, release: Release) {
    if let Some(own) = own {
        own.release(fd, release);
    }
    each_but(own, |reactor| reactor.release(fd, release));
}

/// Makes `fd`, which a call of ours has just created, known to the caller's reactor as new, and unknown to all others.
pub(crate) fn admit_everywhere(fd: i32, kind: FdKind, own: Option<&Reactor>) {
    if let Some(own) = own {
        own.admit(fd, kind);
    }
    release_elsewhere(fd, own);
}

/// Releases `fd`, which a call of ours has just created and the caller's reactor knows as new, in all others.
pub(crate) fn release_elsewhere(fd: i32, own: Option<&Reactor>) {
    each_but(own, |reactor| reactor.release(fd, Release::Close));
}
