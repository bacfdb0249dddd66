//! Submission: one client's connection as a machine, from the banner to the last `250 queued`.

mod admit;
mod auth;
pub mod body;
mod content;
pub mod direct;
mod envelope;
mod proxy;
mod session;
mod transfer;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

pub use session::Session;

use crate::channel::ServerTls;
use crate::config::Config;
use crate::engine;
use crate::id::{MessageId, SessionId};
use crate::queue::store::StoreFailed;

/// What a session starts with: a connection that a listener accepted.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The runtime's number for it; every ask of the session goes to the engine under it.
    pub id: SessionId,
    /// Where the connection comes from.
    pub peer: SocketAddr,
    /// Where it arrived.
    pub local: SocketAddr,
    /// The index in `Config::listeners`.
    pub listener: usize,
    /// The configuration at the time of the connection; `Answer::Welcome` brings the one that counts.
    pub config: Arc<Config>,
    /// The certificate and key.
    pub tls: Arc<ServerTls>,
}

/// What a session asks of its runtime.
#[derive(Debug)]
pub enum Request {
    /// Ask the engine. Answered by `Engine`, but for `Ask::Bye`, which is answered by `Done` at once.
    Engine(engine::Ask),
    /// Append to the spool file of the message. Answered by `Spooled`.
    Spool(MessageId, Bytes),
    /// Delete the spool file of the message. Answered by `Done`.
    Unspool(MessageId),
    /// Check a password with the embedder's own credential check. Answered by `Checked`.
    CheckPassword {
        /// The name as the client sent it.
        name: String,
        /// The password.
        password: String,
    },
}

/// What the runtime answers.
#[derive(Debug)]
pub enum Answer {
    /// To `Engine`.
    Engine(engine::Answer),
    /// To `Spool`.
    Spooled(Result<(), StoreFailed>),
    /// To `CheckPassword`: the credential to act as, or none.
    Checked(Option<std::sync::Arc<crate::config::Credential>>),
    /// To all else.
    Done,
}

#[cfg(test)]
mod tests;
