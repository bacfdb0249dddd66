//! SMTP without IO: wire types, and the server and the client of a connection as state machines.
#![no_std]

extern crate alloc;

pub mod address;
pub mod code;
pub mod domain;
pub mod dot;
pub mod extension;
pub mod param;
pub mod server;
mod time_text;
mod xtext;
