//! What happened, for people and programs: one event for each acceptance and each attempt's outcome.

mod client;
mod line;

use std::net::IpAddr;

pub use client::{ClientDid, ClientEvent};

use crate::id::MessageId;
use crate::inbound::preflight::Finding;
use crate::outbound::{Evidence, Reason};
use crate::time::UnixTime;

/// One thing that happened to a message. As JSON it is one line of the log and of `trace`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DeliveryEvent {
    /// When, as RFC 3339 in UTC with milliseconds.
    pub time: String,
    /// The message's id.
    pub id: String,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum EventKind {
    /// It is on stable storage, and the client has its 250.
    Accepted {
        /// MAIL FROM; empty for a report.
        from: String,
        /// How many recipients.
        recipients: usize,
        /// The recipients.
        #[serde(default)]
        to: Vec<String>,
        /// Octets.
        size: u64,
        /// The credential.
        credential: Option<String>,
        /// The client's address.
        peer: Option<IpAddr>,
        /// For one of the relay's own reports: the message that it is about.
        about: Option<String>,
        /// Who signed it, as `example.com: r1 rsa-sha256`, or `unsigned: ` and why; absent where no
        /// domain has keys.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        dkim: Option<String>,
    },
    /// Pre-flight found what receivers would hold against it.
    Preflight {
        /// What it found.
        findings: Vec<Finding>,
    },
    /// A receiver took it.
    Delivered(Attempt),
    /// It waits.
    Deferred {
        /// The attempt.
        #[serde(flatten)]
        attempt: Attempt,
        /// When the next one is due, as RFC 3339; none for what is held.
        next: Option<String>,
        /// The final reply never came: it may have been delivered.
        in_doubt: bool,
    },
    /// It will never be delivered; a report goes to the sender where one is due.
    Bounced(Attempt),
    /// Its time is over; a report goes to the sender where one is due.
    Expired(Attempt),
    /// An administrator or a rule changed it: `held`, `released`, `retried`, `removed`.
    Changed {
        /// What was done.
        change: String,
        /// To whom; empty for all.
        recipients: Vec<String>,
    },
    /// A report was due and none was sent.
    NotReported {
        /// Why: `null sender`, `NOTIFY=NEVER`, …
        why: String,
    },
    /// Its record in the queue was damaged, and is kept aside for people to look at: it will not be
    /// delivered, and who sent it cannot be known for sure.
    Quarantined {
        /// What is wrong with it.
        why: String,
        /// Its name in the quarantine.
        name: String,
    },
}

/// One attempt, for the recipients that had the same outcome.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Attempt {
    /// The recipients; `#N@domain` for the one with index N of a message that was not loaded. See
    /// [`name_recipients`].
    pub recipients: Vec<String>,
    /// The destination domain or route.
    pub lane: String,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// The reply, and the rule that judged it.
    #[serde(flatten)]
    pub reason: Reason,
    /// Where and how.
    #[serde(flatten)]
    pub evidence: Evidence,
}

impl DeliveryEvent {
    /// An event that happens now.
    #[must_use]
    pub fn new(now: UnixTime, id: MessageId, kind: EventKind) -> Self {
        Self {
            time: rfc3339(now),
            id: id.to_string(),
            kind,
        }
    }
}

/// Gives the recipients of a message's story, which was told partly without the message at hand, the
/// addresses that its acceptance named.
pub fn name_recipients(story: &mut [DeliveryEvent]) {
    let accepted = story.iter().find_map(|event| match &event.kind {
        EventKind::Accepted { to, .. } => Some(to.clone()),
        EventKind::Preflight { .. }
        | EventKind::Delivered(_)
        | EventKind::Deferred { .. }
        | EventKind::Bounced(_)
        | EventKind::Expired(_)
        | EventKind::Changed { .. }
        | EventKind::NotReported { .. }
        | EventKind::Quarantined { .. } => None,
    });
    let accepted = accepted.unwrap_or_default();
    for event in story {
        let recipients = match &mut event.kind {
            EventKind::Delivered(attempt)
            | EventKind::Deferred { attempt, .. }
            | EventKind::Bounced(attempt)
            | EventKind::Expired(attempt) => &mut attempt.recipients,
            EventKind::Changed { recipients, .. } => recipients,
            EventKind::Accepted { .. }
            | EventKind::Preflight { .. }
            | EventKind::NotReported { .. }
            | EventKind::Quarantined { .. } => continue,
        };
        for recipient in recipients {
            let index = recipient
                .strip_prefix('#')
                .and_then(|rest| rest.split_once('@')?.0.parse::<usize>().ok());
            // `#1@example.com` is an address too: the domain must fit.
            let named = index.and_then(|index| accepted.get(index)).filter(|named| {
                let domain = |text: &str| text.rsplit_once('@').map(|(_, d)| d.to_lowercase());
                domain(named) == domain(recipient)
            });
            if let Some(named) = named {
                recipient.clone_from(named);
            }
        }
    }
}

/// A time as RFC 3339 in UTC with milliseconds: `2024-06-19T19:22:45.123Z`.
#[must_use]
pub fn rfc3339(time: UnixTime) -> String {
    let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    let time = jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX);
    format!("{time:.3}")
}
