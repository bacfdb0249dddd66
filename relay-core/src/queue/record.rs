//! The pure codec of what the store writes: message records and progress notes.

use crate::time::UnixTime;

/// What happened to a message after acceptance, as the progress log keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// These recipients (by index in the envelope) are settled: delivered, bounced, expired, removed.
    Settled {
        /// Indexes in `Envelope::recipients`, ascending.
        recipients: Vec<u32>,
    },
    /// These recipients were tried and wait.
    Deferred(DeferredState),
    /// An administrator holds the message (`true`) or released it.
    Held(bool),
    /// All of the above at once, for one message: replaces what was noted before. Written when the
    /// log is compacted.
    State(State),
}

/// Everything that the queue knows of a message beyond its record.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// Settled recipients, ascending.
    pub settled: Vec<u32>,
    /// Held by an administrator.
    pub held: bool,
    /// The waiting groups of recipients.
    pub deferred: Vec<DeferredState>,
}

/// One group of recipients that waits together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeferredState {
    /// Indexes in `Envelope::recipients`, ascending.
    pub recipients: Vec<u32>,
    /// Attempts so far.
    pub attempts: u32,
    /// When the next one is due.
    pub next: UnixTime,
    /// The delay report was sent.
    pub delay_reported: bool,
    /// The final reply of an attempt never came: it may have been delivered.
    pub in_doubt: bool,
    /// The last reply or reason, sanitised, at most 512 octets.
    pub reason: String,
}
