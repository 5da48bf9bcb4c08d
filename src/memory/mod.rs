//! Memory that ends with a vthread.
//!
//! This level owns heap memory and nothing else; it knows of cores only as numbers.
#![allow(unsafe_code)]

mod arena;

pub use arena::{Arena, ArenaPool};
