//! The SMTP relay on blocking threads, and what is blocking on every runtime: the on-disk store, the
//! loader of configuration and certificates, the command line.
//!
//! # Embedding it
//!
//! A program starts a [`Relay`] from a [`Config`], hands messages over without a socket, hears what becomes
//! of them, and shuts it down. Nothing is global: several relays may run in one process, one after the
//! other or beside each other.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use runtime_std::relay_core::config::Config;
//! use runtime_std::relay_core::inbound::direct::Draft;
//! use runtime_std::{Relay, load};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut config = Config::new("relay.example.com".parse()?, "/var/lib/my-program/mail");
//! config.dns.servers.clear(); // those of the system
//! let relay = Relay::start(load::from_config(config)?)?;
//! let events = relay.subscribe(1000);
//!
//! let message = "From: me@example.com\r\nSubject: hello\r\n\r\nHello!\r\n";
//! let from = "me@example.com".parse()?;
//! let id = relay.submit(Draft::new(from, ["you@example.net".parse()?], message))?;
//!
//! // It is on stable storage. What becomes of it is told as it happens.
//! println!("queued as {id}: {:?}", events.recv());
//! relay.shut_down(Duration::from_secs(5));
//! # Ok(())
//! # }
//! ```
//!
//! The data directory holds the queue, the certificate if none is named, and a journal of the events.
//! `examples/embed_std.rs` is all of such a program. What else a program may want:
//!
//! | wanted | how |
//! |---|---|
//! | clients that connect | `Config::listeners`, and where they are bound: [`Relay::addresses`] |
//! | a store of its own | [`hub::Options::store`]: anything that is a [`Store`] |
//! | names and passwords of its own | [`hub::Options::credential_check`] |
//! | every event, at once | [`hub::Options::events`]; [`Relay::subscribe`] for a queue |
//! | the admin commands and page | [`hub::Options::admin`] |
//! | another configuration | [`Relay::apply`] |
//! | what `status` and `queue` show | [`Relay::admin`] |
//!
//! # What is where
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
//!
//! [`Config`]: relay_core::config::Config
//! [`Store`]: relay_core::queue::store::Store

#[cfg(feature = "cli")]
pub mod cli;
pub mod clock;
pub mod drive;
mod errand;
pub mod events;
pub mod hub;
pub mod journal;
pub mod listen;
pub mod load;
pub mod relay;
pub mod resolve;
pub mod resources;
pub mod runtime;
pub mod slot;
pub mod store;
mod tokens;
mod workers;

pub use relay::Relay;

// An embedder needs the types of both, in these versions.
pub use {relay_core, smtp_proto};
