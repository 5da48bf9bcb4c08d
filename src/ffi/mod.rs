//! Row 9: the C ABI, one file per noun. Each function has one shape: boundary, validate, convert, call the core, status.
//! Its doc comment is the header's text. Types and constants are spelt as in C.

#![allow(unsafe_code)]
#![allow(non_camel_case_types)]
// The text is for C readers: what a caller must hold to is said in their words, function by function.
#![allow(clippy::missing_safety_doc)]
// Constants that only hosts use.
#![allow(dead_code)]

mod boundary;

mod status;

mod time;

mod runtime;

mod vthread;

mod section;

mod local;

mod arena;

mod semaphore;

mod io;

mod offload;

mod stats;

mod http;
