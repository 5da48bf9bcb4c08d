//! Row 5: what vthreads, OS threads and completions wait for together.

#![allow(unsafe_code)]

pub(crate) mod semaphore;
