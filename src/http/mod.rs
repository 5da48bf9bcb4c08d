//! HTTP/1.1 server over the blocking-style streams of `io`.
//!
//! Owns: what a request is (`request`), which handler it gets (`router`), how a response is written (`response`,
//! `date`), one request with its response (`exchange`), the life of a connection (`connection`, `buffers`), and of
//! the server (`server`). Every connection is one vthread. It must not know the C ABI, schedulers, drivers or how a
//! wait is made.
//!
//! *Idle is cheap*: a connection that waits for a request holds its stack and no buffer.
//! *One read, one write*: a request that arrived whole costs no other system call.
//! *Responses in order*: those of pipelined requests are collected and leave together, before the next wait for input.

mod buffers;
mod connection;
mod date;
mod exchange;
mod request;
mod response;
mod router;
mod server;

pub use exchange::Exchange;
pub use server::{Options, Server};
