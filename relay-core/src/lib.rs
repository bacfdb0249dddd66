//! The decisions of an SMTP relay, as machines without IO.
//!
//! Nothing here opens a socket or a file, reads a clock, starts a thread or knows the environment:
//! `clippy.toml` beside this crate bans it. Runtimes carry bytes, time and disk to what is here.

pub mod admin;
pub mod bounce;
pub mod channel;
pub mod config;
pub mod dns;
pub mod engine;
pub mod errand;
pub mod events;
pub mod https;
pub mod id;
pub mod inbound;
pub mod machine;
pub mod outbound;
pub mod queue;
pub mod rng;
pub mod sasl;
pub mod sign;
pub mod sts;
pub mod time;
pub mod tlsrpt;
pub mod verify;
