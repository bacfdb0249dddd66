//! What goes wrong: [`Fatal`] is the server's doing, [`SendError`] the caller's.

use core::fmt;

use super::Awaiting;
#[cfg(doc)]
use super::{BURST_MAX, COMMANDS_MAX, Connection};
use crate::code::Code;
use crate::extension::Extension;
use crate::reply::ReplyError;

/// The server broke the protocol: close the connection. Nothing is sent or received any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fatal {
    /// Bytes that are not a reply, or over a limit.
    Malformed(ReplyError),
    /// A reply of a kind that its command does not have, such as a 250 to DATA, or a 2yz to a chunk of
    /// which not all was sent.
    Unexpected {
        /// What it answered.
        answers: Awaiting,
        /// Its code.
        code: Code,
    },
    /// A 2yz or 3yz while nothing was awaited.
    Unsolicited(Code),
    /// Bytes between the 220 to STARTTLS and the TLS handshake: an attempt to speak in the name of the
    /// other side of it. RFC 3207 §4.2 and §6.
    BeforeTls,
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(why) => write!(f, "the server sent {why}"),
            Self::Unexpected { answers, code } => {
                write!(f, "the server answered {answers:?} with {code}")
            }
            Self::Unsolicited(code) => write!(f, "the server sent {code} unasked"),
            Self::BeforeTls => f.write_str("the server sent text between STARTTLS and TLS"),
        }
    }
}

impl core::error::Error for Fatal {}

/// The caller asked for what cannot be sent. Nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendError {
    /// Replies must come first: the server does not pipeline, or the command cannot share a burst with
    /// those that are out. Ask again after the next reply.
    NotYet,
    /// [`COMMANDS_MAX`] or [`BURST_MAX`] is reached. Ask again after the next reply.
    BurstFull,
    /// It makes no sense in this state.
    WrongState,
    /// The server did not offer this extension; for [`Extension::Auth`], not this mechanism.
    NotOffered(Extension),
    /// An argument cannot be written: a name with a space or a control character, a line over the limit.
    BadArgument,
    /// No recipient was accepted, so there is nobody to show the body to: after a 354 only
    /// [`Connection::body_end`] is left, otherwise [`Connection::reset`].
    NoRecipient,
    /// More bytes than are left of the chunk.
    OverChunk,
    /// A bare CR or LF in a chunk that is not BODY=BINARYMIME. The chunk can no longer be completed, so
    /// the connection must be closed.
    BareNewline,
    /// The connection is closing, closed, or was broken by the server.
    Closed,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotYet => f.write_str("a reply must come first"),
            Self::BurstFull => f.write_str("too many commands are not yet answered"),
            Self::WrongState => f.write_str("out of order"),
            Self::NotOffered(extension) => write!(f, "the server does not offer {extension}"),
            Self::BadArgument => f.write_str("the argument cannot be written in a command"),
            Self::NoRecipient => f.write_str("no recipient was accepted"),
            Self::OverChunk => f.write_str("more than the announced length of the chunk"),
            Self::BareNewline => f.write_str("a bare CR or LF in a body of lines"),
            Self::Closed => f.write_str("the connection is closed for commands"),
        }
    }
}

impl core::error::Error for SendError {}
