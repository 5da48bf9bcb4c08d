//! The runtimes of this process, and how a handle finds its runtime without being dereferenced.
//!
//! A place in a fixed table per runtime. Its number is part of each vthread handle; a runtime's own handle is that number
//! with a serial that counts the uses of the place. Who goes through a place raises its user count first and looks at the
//! pointer then; who takes the pointer away waits until the users have left. So a stale handle is an error and never a
//! dangling pointer.

use crate::error::{Error, Result};
use crate::scheduler::current as scheduler_current;
use crate::scheduler::shared::Shared;
use crate::scheduler::spawn::{self, Placement, Spec};
use crate::stack::StackClass;
use crate::vthread::table::Handle;
use std::ffi::c_void;
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// Runtimes a process can have at a time.
pub(crate) const RUNTIMES: usize = 255;

/// The place is free.
const FREE: u32 = 0;
/// Being filled or emptied.
const CHANGING: u32 = 1;
/// Holds a runtime.
const RUNNING: u32 = 2;
/// Its runtime has stopped and nothing is left of it; waits to be destroyed.
const STOPPED: u32 = 3;

/// A runtime with its threads.
pub(crate) struct Runtime {
    pub(crate) shared: Box<Shared>,
    /// One stop at a time.
    pub(crate) stopping: Mutex<()>,
    pub(crate) started_ns: u64,
}

pub(crate) struct Place {
    state: AtomicU32,
    serial: AtomicU32,
    users: AtomicU64,
    runtime: AtomicPtr<Runtime>,
    /// The first generation of handles of the next runtime here: above all that were given out.
    generation: AtomicU32,
}

static PLACES: [Place; RUNTIMES] = [const {
    Place {
        state: AtomicU32::new(FREE),
        serial: AtomicU32::new(0),
        users: AtomicU64::new(0),
        runtime: AtomicPtr::new(ptr::null_mut()),
        generation: AtomicU32::new(1),
    }
}; RUNTIMES];

/// A runtime's handle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RuntimeId {
    pub(crate) index: u8,
    serial: u32,
}

/// Marks a handle: no real object is at such an address.
const MARK: u64 = 0b101;

impl RuntimeId {
    pub(crate) fn to_bits(self) -> u64 {
        u64::from(self.serial) << 12 | u64::from(self.index) << 4 | MARK
    }

    pub(crate) fn from_bits(bits: u64) -> Option<RuntimeId> {
        let (index, serial) = ((bits >> 4) as u8, bits >> 12);
        let valid =
            bits & 0xf == MARK && usize::from(index) < RUNTIMES && serial <= u64::from(u32::MAX);
        valid.then_some(RuntimeId {
            index,
            serial: serial as u32,
        })
    }

    /// Whether this is the handle of `shared`, the runtime of the calling vthread.
    pub(crate) fn is_current(self, shared: &Shared) -> bool {
        let place = &PLACES[usize::from(self.index)];
        shared.index == self.index && place.serial.load(Ordering::Relaxed) == self.serial
    }

    fn place(self) -> Result<&'static Place> {
        let place = &PLACES[usize::from(self.index)];
        if place.serial.load(Ordering::Acquire) != self.serial
            || place.state.load(Ordering::Acquire) == FREE
        {
            return Err(Error::STALE_HANDLE);
        }
        Ok(place)
    }
}

/// A runtime that is kept from being taken down while this lives.
pub(crate) struct Used {
    place: &'static Place,
    runtime: *const Runtime,
}

impl std::ops::Deref for Used {
    type Target = Runtime;
    fn deref(&self) -> &Runtime {
        // SAFETY: the runtime is not dropped while the place has users.
        unsafe { &*self.runtime }
    }
}

impl Drop for Used {
    fn drop(&mut self) {
        self.place.users.fetch_sub(1, Ordering::Release);
    }
}

fn use_place(place: &'static Place) -> Result<Used> {
    // SeqCst: either we see that the pointer was taken away, or who takes it away sees us (`Taking::take`).
    place.users.fetch_add(1, Ordering::SeqCst);
    let runtime = place.runtime.load(Ordering::SeqCst);
    if runtime.is_null() {
        place.users.fetch_sub(1, Ordering::Release);
        return Err(Error::STOPPED);
    }
    Ok(Used { place, runtime })
}

impl RuntimeId {
    /// The runtime of this handle; STOPPED if it has been stopped, FORKED if it was inherited.
    pub(crate) fn enter(self) -> Result<Used> {
        let place = self.place()?;
        let used = use_place(place)?;
        if place.serial.load(Ordering::Acquire) != self.serial {
            return Err(Error::STALE_HANDLE);
        }
        if used.shared.is_forked() {
            return Err(Error::FORKED);
        }
        Ok(used)
    }
}

/// The runtime that a vthread handle names, whatever became of the vthread.
fn enter_index(index: u8) -> Result<Used> {
    let place = PLACES.get(usize::from(index)).ok_or(Error::STALE_HANDLE)?;
    use_place(place).map_err(|_| Error::STALE_HANDLE)
}

/// Runs `f` with the runtime that the vthread handle `bits` belongs to. From a vthread of that runtime this takes no
/// count: the runtime cannot go away.
pub(crate) fn with_vthread<R>(
    bits: u64,
    f: impl FnOnce(&Shared, Handle) -> Result<R>,
) -> Result<R> {
    let handle = Handle::from_bits(bits);
    if handle.generation == 0 {
        return Err(Error::STALE_HANDLE);
    }
    if let Some(shared) = scheduler_current::shared()
        && shared.index == handle.runtime
    {
        return f(shared, handle);
    }
    let used = enter_index(handle.runtime)?;
    if used.shared.is_forked() {
        return Err(Error::FORKED);
    }
    f(&used.shared, handle)
}

/// A place that is being filled.
pub(crate) struct Reserved {
    place: &'static Place,
    pub(crate) index: u8,
    pub(crate) generation: u32,
}

/// Reserves a free place.
pub(crate) fn reserve() -> Result<Reserved> {
    for (index, place) in PLACES.iter().enumerate() {
        if place
            .state
            .compare_exchange(FREE, CHANGING, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
        {
            let generation = place.generation.load(Ordering::Relaxed);
            return Ok(Reserved {
                place,
                index: index as u8,
                generation,
            });
        }
    }
    Err(Error::AGAIN)
}

impl Reserved {
    /// Puts the runtime in its place and returns its handle.
    pub(crate) fn publish(self, runtime: Box<Runtime>) -> RuntimeId {
        let serial = self
            .place
            .serial
            .load(Ordering::Relaxed)
            .wrapping_add(1)
            .max(1);
        self.place.serial.store(serial, Ordering::Release);
        self.place
            .runtime
            .store(Box::into_raw(runtime), Ordering::SeqCst);
        self.place.state.store(RUNNING, Ordering::Release);
        RuntimeId {
            index: self.index,
            serial,
        }
    }

    /// Gives the place back.
    pub(crate) fn abandon(self) {
        self.place.state.store(FREE, Ordering::Release);
    }
}

/// Takes the runtime out of its place once nobody uses it; the place is left as stopped.
pub(crate) fn take(id: RuntimeId) -> Result<Box<Runtime>> {
    let place = id.place()?;
    let runtime = place.runtime.swap(ptr::null_mut(), Ordering::SeqCst);
    if runtime.is_null() {
        return Err(Error::STOPPED);
    }
    while place.users.load(Ordering::SeqCst) != 0 {
        std::thread::yield_now();
    }
    // SAFETY: made by `publish` from a box; out of the place and without users, so it is ours alone.
    let runtime = unsafe { Box::from_raw(runtime) };
    place
        .generation
        .store(runtime.shared.table.next_generation(), Ordering::Relaxed);
    place.state.store(STOPPED, Ordering::Release);
    Ok(runtime)
}

/// Frees the place of a stopped runtime, or of one inherited through fork(2), whose memory is given up.
pub(crate) fn free(id: RuntimeId) -> Result<()> {
    let place = id.place()?;
    if place
        .state
        .compare_exchange(STOPPED, CHANGING, Ordering::AcqRel, Ordering::Relaxed)
        .is_ok()
    {
        // The place may have been used anew since the handle was looked at.
        let ours = place.serial.load(Ordering::Acquire) == id.serial;
        place
            .state
            .store(if ours { FREE } else { STOPPED }, Ordering::Release);
        return if ours {
            Ok(())
        } else {
            Err(Error::STALE_HANDLE)
        };
    }
    Err(Error::BUSY)
}

/// A runtime by its handle, for layers that keep it: every use checks anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RuntimeRef(RuntimeId);

/// The runtime of the calling vthread.
pub(crate) fn current() -> Option<RuntimeRef> {
    let index = scheduler_current::shared()?.index;
    let serial = PLACES[usize::from(index)].serial.load(Ordering::Relaxed);
    Some(RuntimeRef(RuntimeId { index, serial }))
}

unsafe extern "C-unwind" fn call_boxed(arg: *mut c_void) -> *mut c_void {
    // SAFETY: `spawn_fn` passes a box of this type, once.
    let f = unsafe { Box::from_raw(arg.cast::<Box<dyn FnOnce() + Send>>()) };
    f();
    ptr::null_mut()
}

impl RuntimeRef {
    pub(crate) fn new(id: RuntimeId) -> RuntimeRef {
        RuntimeRef(id)
    }

    pub(crate) fn id(&self) -> RuntimeId {
        self.0
    }

    /// Runs `f` with the runtime. From a vthread of it no count is taken.
    #[inline]
    pub(crate) fn with<R>(&self, f: impl FnOnce(&Shared) -> Result<R>) -> Result<R> {
        if let Some(shared) = scheduler_current::shared()
            && self.0.is_current(shared)
        {
            return f(shared);
        }
        f(&self.0.enter()?.shared)
    }

    /// Spawns a detached vthread that runs `f`; drops `f` where that fails. `stack_bytes` 0 is the default.
    pub(crate) fn spawn_fn(
        &self,
        name: &str,
        stack_bytes: usize,
        f: Box<dyn FnOnce() + Send>,
    ) -> Result<()> {
        let arg = Box::into_raw(Box::new(f)).cast::<c_void>();
        let spawned = self.with(|shared| {
            let class = match stack_bytes {
                0 => shared.options.stack,
                n => StackClass::for_bytes(n).ok_or(Error::RANGE)?,
            };
            let spec = Spec {
                entry: call_boxed,
                destructor: None,
                name: name.as_bytes(),
                class,
                placement: Placement::Any,
                bound: false,
                detached: true,
            };
            spawn::spawn(shared, &spec, arg)
        });
        if let Err(e) = spawned {
            // SAFETY: made above, and not handed on.
            drop(unsafe { Box::from_raw(arg.cast::<Box<dyn FnOnce() + Send>>()) });
            return Err(e);
        }
        Ok(())
    }

    /// The number of cores.
    pub(crate) fn cores(&self) -> usize {
        self.with(|shared| Ok(shared.cores())).unwrap_or(1)
    }
}
