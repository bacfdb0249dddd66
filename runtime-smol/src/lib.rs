//! The SMTP relay on smol and async-io. No tokio anywhere.
//!
//! # Embedding it
//!
//! A program starts a [`Relay`] from a [`Config`] on an executor that it runs, hands messages over without
//! a socket, hears what becomes of them, and shuts it down.
//!
//! ```no_run
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use runtime_smol::Relay;
//! use runtime_smol::relay_core::config::Config;
//! use runtime_smol::relay_core::inbound::direct::Draft;
//! use runtime_smol::runtime_std::load;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let executor = Arc::new(smol::Executor::new());
//! smol::block_on(executor.run(async {
//!     let mut config = Config::new("relay.example.com".parse()?, "/var/lib/my-program/mail");
//!     config.dns.servers.clear(); // those of the system
//!     let relay = Relay::start(&executor, load::from_config(config)?)?;
//!     let events = relay.subscribe(1000);
//!
//!     let message = "From: me@example.com\r\nSubject: hello\r\n\r\nHello!\r\n";
//!     let from = "me@example.com".parse()?;
//!     let draft = Draft::new(from, ["you@example.net".parse()?], message);
//!     let id = relay.submit(draft).await?;
//!
//!     // It is on stable storage. What becomes of it is told as it happens.
//!     println!("queued as {id}: {:?}", events.recv_async().await);
//!     relay.shut_down(Duration::from_secs(5)).await;
//!     Ok(())
//! }))
//! # }
//! ```
//!
//! `examples/embed_smol.rs` is all of such a program; [`threads::Threads`] is an executor on all cores for one
//! that has none. What may be replaced and asked for is the same as in [`runtime_std`], which has a table
//! of it.
//!
//! # What is where
//!
//! | module | what it owns |
//! |---|---|
//! | [`relay`] | the relay as tasks: start, submit, reload, shut down |
//! | [`drive`] | the loop that drives any machine as a task |
//! | [`resolve`] | carrying the resolver's datagrams |
//! | [`threads`] | an executor on several threads, for the binary |
//!
//! [`Config`]: relay_core::config::Config

pub mod drive;
pub mod relay;
pub mod resolve;
mod serve;
mod tasks;
pub mod threads;

pub use relay::Relay;

// An embedder needs the types of all three, in these versions.
pub use {relay_core, runtime_std, smtp_proto};
