//! swiftnet: virtual threads for C and C++ hosts. The product is the C ABI in [`ffi`]; below it the modules stand in rows,
//! and each names only those of lower rows (`tests/layers.rs`).

// Row 0
mod error;
mod primitive;

// Row 1: data structures; no threads of their own
#[cfg(not(loom))]
mod memory;
#[cfg(not(loom))]
mod metrics;
#[cfg(not(loom))]
mod options;
#[cfg(not(loom))]
mod stack;
#[cfg(not(loom))]
mod timer;
#[cfg(not(loom))]
mod topology;

// Row 2: the wait protocol
mod wait;

// Row 3: the virtual thread, and I/O without a scheduler
#[cfg(not(loom))]
mod reactor;
#[cfg(not(loom))]
mod vthread;

// Row 4: who runs where, and when
#[cfg(not(loom))]
mod scheduler;

// Row 5
#[cfg(not(loom))]
mod offload;
#[cfg(not(loom))]
mod sync;

// Row 6: operations that park the caller
#[cfg(not(loom))]
mod io;

// Row 7: assembles the parts
#[cfg(not(loom))]
mod runtime;

// Row 8
#[cfg(not(loom))]
mod http;

// Row 9: the C ABI
#[cfg(not(loom))]
mod ffi;

// Under loom only what has models is built: the protocols, and what they stand on.
#[cfg(loom)]
mod vthread {
    pub(crate) mod state;
}

#[cfg(loom)]
#[allow(unsafe_code)]
mod scheduler {
    mod deque;
    mod hold;
    mod idle;
    mod park;
    mod rouse;
}

#[cfg(loom)]
#[allow(unsafe_code)]
mod reactor {
    mod direction;
}
