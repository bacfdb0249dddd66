//! A report as data: what the engine knows of recipients that a sender is to be told about.
//!
//! Addresses, ORCPT, NOTIFY, RET, ENVID and the original's bytes are not here: they are in the
//! message that the runtime loads when the report is written.

use crate::id::MessageId;
use crate::outbound::Reason;
use crate::time::UnixTime;

/// What is to be reported about one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The message that the report is about.
    pub about: MessageId,
    /// The id of the report itself, once it is queued.
    pub id: MessageId,
    /// When it is written: the clock for Date and for Received.
    pub now: UnixTime,
    /// Our name, for Reporting-MTA, From and Message-ID.
    pub hostname: smtp_proto::Domain,
    /// The recipients; never empty. The writer leaves out those whose NOTIFY does not ask for it.
    pub recipients: Vec<RecipientReport>,
}

/// What is to be reported about one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipientReport {
    /// The index in `Envelope::recipients`.
    pub index: u32,
    /// What became of it.
    pub action: Action,
    /// The last reply of the receiver, or our own finding. `status` is that of the report.
    pub reason: Reason,
    /// The host that replied, if one did: Remote-MTA.
    pub host: Option<String>,
    /// When it was tried last; none if it never was.
    pub last_attempt: Option<UnixTime>,
}

/// Action-value of RFC 3464 §2.3.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It will never be delivered.
    Failed,
    /// It was not delivered yet.
    Delayed {
        /// When we give up: Will-Retry-Until.
        until: UnixTime,
    },
    /// It was handed to a host that does not take over reporting. RFC 3461 §5.2.2.
    Relayed,
}
