//! The SMTP relay on blocking threads, and what is blocking on every runtime: the on-disk store, the
//! loader of configuration and certificates, the command line.
//!
//! | module | what it owns |
//! |---|---|
//! | [`relay`] | the relay on threads: start, submit, reload, shut down |
//! | [`drive`] | the loop that drives any machine on a thread |
//! | [`hub`] | the engine behind its lock, shared by the runtimes |
//! | [`events`] | subscriptions to delivery events |
//! | [`store`] | the segment log |
//! | [`load`] | configuration, certificates, credentials |
//! | [`journal`] | delivery events on disk, and the log |
//! | [`cli`] | the command line of both binaries |

#[cfg(feature = "cli")]
pub mod cli;
pub mod clock;
pub mod drive;
pub mod events;
pub mod hub;
pub mod journal;
pub mod listen;
pub mod load;
pub mod relay;
pub mod resolve;
pub mod runtime;
pub mod slot;
pub mod store;

pub use relay::Relay;
