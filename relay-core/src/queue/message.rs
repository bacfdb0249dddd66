//! A message as the queue knows it: who sent it, who receives it, where its bytes are.

use bytes::Bytes;
use smtp_proto::{EnvId, Mailbox, Notify, Orcpt, Ret, ReversePath};

use super::handling::Handling;
use crate::id::MessageId;
use crate::time::UnixTime;

/// What receives decides: the envelope of RFC 5321 §2.3.1, with the DSN parameters of RFC 3461.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The reverse-path: where failures are reported; null for reports themselves.
    pub from: ReversePath,
    /// RET: how much of the message a failure report returns.
    pub ret: Option<Ret>,
    /// ENVID: the sender's own id of this envelope, repeated in reports.
    pub envid: Option<EnvId>,
    /// What the body needs of the next hop.
    pub body: BodyKind,
    /// SMTPUTF8 was asked for, or the addresses or headers need it. RFC 6531.
    pub smtputf8: bool,
    /// How the sender wants it handled.
    pub handling: Handling,
    /// The recipients, in the order of their RCPT commands.
    pub recipients: Vec<Recipient>,
}

/// One RCPT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// The forward-path. `<Postmaster>` was made `postmaster@hostname` at acceptance.
    pub to: Mailbox,
    /// NOTIFY: when reports are wanted; absent means on failure, and on delay if that is our policy.
    pub notify: Option<Notify>,
    /// ORCPT: the original recipient, repeated in reports.
    pub orcpt: Option<Orcpt>,
}

/// What a body is made of, as found in its bytes (not as declared).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BodyKind {
    /// Every octet is below 128.
    SevenBit,
    /// Some octet is above 127: the next hop must offer 8BITMIME. RFC 6152.
    EightBit,
    /// NUL, or a bare CR or LF: the next hop must offer BINARYMIME. RFC 3030.
    ///
    /// A line over 998 octets (RFC 5322 §2.1.1) does not make a message binary: applications send them,
    /// receivers take them, and a message that is refused for them says so in the receiver's words.
    Binary,
}

/// Who handed the message in, for events and for Received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The name of the credential; the relay's own reports have none.
    pub credential: Option<String>,
    /// The client's address; none if it was submitted in-process.
    pub peer: Option<std::net::IpAddr>,
}

/// An accepted message without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its id.
    pub id: MessageId,
    /// When it was accepted.
    pub accepted: UnixTime,
    /// Who handed it in.
    pub origin: Origin,
    /// Who receives it.
    pub envelope: Envelope,
    /// Header fields that stand before all that is in the [`Body`]: its signatures. They are known when
    /// the last octet is, and a spooled message has gone to the disk by then.
    pub prefix: Bytes,
    /// The length of what is sent after DATA, `prefix` and headers included, in octets before
    /// dot-stuffing.
    pub size: u64,
    /// The length of the header block at its start, `prefix` included, in octets, up to and with the
    /// empty line.
    pub header_size: u32,
}

impl Message {
    /// The length of what is in its [`Body`], in octets.
    #[must_use]
    pub fn body_size(&self) -> u64 {
        self.size.saturating_sub(self.prefix.len() as u64)
    }
}

/// Where a message's bytes are: headers (with ours prepended, but for [`Message::prefix`]) and body,
/// every line ended by CRLF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// In memory, and, once accepted, in the message's record too.
    Memory(Bytes),
    /// In the store's spool under the message's id, because it is over [`BODY_MEMORY_MAX`].
    Spooled,
}

/// The largest body that is kept in memory and in the message's record, in octets.
pub const BODY_MEMORY_MAX: usize = 256 * 1024;
