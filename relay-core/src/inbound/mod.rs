//! Submission: one client's connection as a machine, from the banner to the last `250 queued`.

pub mod body;

use bytes::Bytes;

use crate::engine;
use crate::id::MessageId;
use crate::queue::store::StoreFailed;

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
