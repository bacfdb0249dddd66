//! What is kept in memory of every queued message: one entry for it, one for each destination.
//!
//! ```text
//!                  ┌────────── hold ──▶ Parked ── release ──┐
//!                  │                                        ▼
//!  accepted ──▶ Resolving ──▶ Ready ──▶ Delivering ──▶ (outcomes) ──▶ settled: gone
//!                  ▲                        │               │
//!                  └───── due ── Waiting ◀──┴── deferred ◀──┘
//! ```
//!
//! These entries are most of what a deep queue costs: 56 octets a message and 40 a job, beside the
//! index by id and the timers. Envelopes and bodies are in the store.

use super::handling::TlsWish;
use super::intern::TextId;
use super::message::Message;
use super::recipients::Recipients;
use super::store::Place;
use super::tick::Tick;
use crate::bounce::{self, Action};
use crate::id::MessageId;
use smtp_proto::{ByMode, ReversePath};

/// The end of a list of jobs.
pub(crate) const NIL: u32 = u32::MAX;

/// A queued message.
#[derive(Debug)]
pub(crate) struct MessageEntry {
    pub(crate) id: MessageId,
    pub(crate) place: Place,
    /// When its age began to count.
    pub(crate) birth: Tick,
    /// When it was accepted, or is to be released, in seconds since 1970.
    pub(crate) accepted: u32,
    /// In octets.
    pub(crate) size: u32,
    /// Its sender, or only `@domain` when there are too many.
    pub(crate) sender: TextId,
    /// Tells senders apart whose text is not kept.
    pub(crate) sender_hash: u32,
    /// How many recipients its envelope has, settled ones included.
    pub(crate) total: u32,
    /// The first of its jobs.
    pub(crate) first_job: u32,
    /// How many of its jobs are resolving, ready or being delivered.
    pub(crate) busy: u32,
    pub(crate) wants: Wants,
    /// From -9 to 9. RFC 6710.
    pub(crate) priority: i8,
    /// When it is late, if the sender said so: [`Wants`] tells what happens then. RFC 2852.
    pub(crate) late: Tick,
    pub(crate) held: bool,
    /// The report of a delay was made, or nobody wants it.
    pub(crate) delay_reported: bool,
}

/// What the sender of a message wants: reports (RFC 3461 §4.1), and TLS (RFC 8689). One octet for each
/// message in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wants(u8);

impl Wants {
    const NULL_SENDER: u8 = 1;
    const FAILURE: u8 = 2;
    const DELAY: u8 = 4;
    const SUCCESS: u8 = 8;
    const LATE_RETURN: u8 = 16;
    const LATE_NOTICE: u8 = 32;
    const TLS: u8 = 64;
    const NO_TLS: u8 = 128;

    /// What the envelope asks for: nothing to the null sender (RFC 5321 §4.5.5), failures and delays
    /// where NOTIFY is absent.
    pub(crate) fn of(message: &Message) -> Self {
        let handling = &message.envelope.handling;
        let late = match handling.deadline.map(|deadline| deadline.mode) {
            None => 0,
            Some(ByMode::Return) => Self::LATE_RETURN,
            Some(ByMode::Notify) => Self::LATE_NOTICE,
        };
        let tls = match handling.tls {
            TlsWish::AsConfigured => 0,
            TlsWish::Required => Self::TLS,
            TlsWish::NotRequired => Self::NO_TLS,
        };
        if message.envelope.from == ReversePath::Null {
            return Self(Self::NULL_SENDER | late | tls);
        }
        let recipients = &message.envelope.recipients;
        let until = message.accepted;
        let wanted = |action| {
            recipients
                .iter()
                .any(|r| bounce::is_wanted(action, r.notify))
        };
        let mut bits = late | tls;
        for (action, bit) in [
            (Action::Failed, Self::FAILURE),
            (Action::Delayed { until }, Self::DELAY),
            (Action::Relayed, Self::SUCCESS),
        ] {
            if wanted(action) {
                bits |= bit;
            }
        }
        Self(bits)
    }

    pub(crate) const fn null_sender(self) -> bool {
        self.0 & Self::NULL_SENDER != 0
    }

    pub(crate) const fn failure(self) -> bool {
        self.0 & Self::FAILURE != 0
    }

    pub(crate) const fn delay(self) -> bool {
        self.0 & Self::DELAY != 0
    }

    pub(crate) const fn success(self) -> bool {
        self.0 & Self::SUCCESS != 0
    }

    /// What TLS it needs.
    pub(crate) const fn tls(self) -> TlsWish {
        match self.0 & (Self::TLS | Self::NO_TLS) {
            Self::TLS => TlsWish::Required,
            Self::NO_TLS => TlsWish::NotRequired,
            _ => TlsWish::AsConfigured,
        }
    }

    /// The message is returned when it is late. RFC 2852 §4.1.3.
    pub(crate) const fn late_return(self) -> bool {
        self.0 & Self::LATE_RETURN != 0
    }

    /// The sender is told when it is late. RFC 2852 §4.1.3.
    pub(crate) const fn late_notice(self) -> bool {
        self.0 & Self::LATE_NOTICE != 0
    }
}

/// One destination of a queued message.
#[derive(Debug)]
pub(crate) struct JobEntry {
    /// Its message; meaningless once the job is gone.
    pub(crate) message: u32,
    /// The next job of the message.
    pub(crate) sibling: u32,
    /// The destination.
    pub(crate) domain: u32,
    /// When it is due, while it waits.
    pub(crate) due: Tick,
    /// Why it was deferred last.
    pub(crate) reason: TextId,
    /// Attempts so far.
    pub(crate) attempts: u16,
    pub(crate) state: JobState,
    pub(crate) marks: Marks,
    pub(crate) recipients: Recipients,
}

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JobState {
    /// Taken from where it was, and decided on before the input is over.
    Picked,
    /// Its domain's mail exchangers are looked for; it is in the domain's list.
    Resolving,
    /// In the ready list of a lane.
    Ready,
    /// With a delivery.
    Delivering,
    /// Until its time comes.
    Waiting,
    /// Held, and in no list.
    Parked,
    /// Dropped while in a list; freed when it comes up there.
    Gone,
}

impl JobState {
    /// Whether something is about to be known of it.
    pub(crate) const fn is_busy(self) -> bool {
        match self {
            Self::Picked | Self::Resolving | Self::Ready | Self::Delivering => true,
            Self::Waiting | Self::Parked | Self::Gone => false,
        }
    }

    /// Whether a domain's or a lane's list holds its handle.
    pub(crate) const fn is_listed(self) -> bool {
        match self {
            Self::Resolving | Self::Ready | Self::Gone => true,
            Self::Picked | Self::Delivering | Self::Waiting | Self::Parked => false,
        }
    }
}

/// What else is known of a job, in one octet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Marks(u8);

impl Marks {
    const IN_DOUBT: u8 = 1;
    const BOUNCE: u8 = 2;
    const REMOVE: u8 = 4;
    const HELD: u8 = 8;

    /// The final reply of an attempt never came: it may have been delivered.
    pub(crate) const fn in_doubt(self) -> bool {
        self.0 & Self::IN_DOUBT != 0
    }

    pub(crate) const fn set_in_doubt(&mut self) {
        self.0 |= Self::IN_DOUBT;
    }

    /// It is in doubt, and not tried again before somebody says so.
    pub(crate) const fn held(self) -> bool {
        self.0 & Self::HELD != 0
    }

    pub(crate) const fn set_held(&mut self, held: bool) {
        self.0 = if held {
            self.0 | Self::HELD
        } else {
            self.0 & !Self::HELD
        };
    }

    /// What an administrator wants done when the attempt that runs is over.
    pub(crate) const fn then(self) -> Then {
        match self.0 & (Self::BOUNCE | Self::REMOVE) {
            0 => Then::Nothing,
            Self::BOUNCE => Then::Bounce,
            _ => Then::Remove,
        }
    }

    pub(crate) const fn set_then(&mut self, then: Then) {
        self.0 &= !(Self::BOUNCE | Self::REMOVE);
        self.0 |= match then {
            Then::Nothing => 0,
            Then::Bounce => Self::BOUNCE,
            Then::Remove => Self::REMOVE,
        };
    }
}

/// What an administrator wants done to a job after its attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// As the outcome says.
    Nothing,
    /// Bounce what was not delivered.
    Bounce,
    /// Remove what was not delivered.
    Remove,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_stay_small() {
        assert_eq!(size_of::<Option<MessageEntry>>(), 56);
        assert_eq!(size_of::<Option<JobEntry>>(), 40);
    }
}
