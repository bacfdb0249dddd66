//! From `Submit` to `Queued`: the write that must be on stable storage first.
//!
//! ```text
//!  Submit ─▶ Store ─▶ Stored(Ok)  ─▶ Queued to the session, the message's jobs go their ways
//!                  └▶ Stored(Err) ─▶ 451 or 452 to the session, nothing is kept
//! ```
//!
//! A session that ends before the receipt does not stop the write: the client is in doubt, and the
//! message, once stored, is delivered (RFC 5321 §4.5.4.1 has the sender try again).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use smtp_proto::server::Rejection;

use super::admit::refuse;
use super::{Answer, Engine, Output, Refusal, Submission};
use crate::events::EventKind;
use crate::id::{MessageId, SessionId, WriteId};
use crate::inbound::preflight::Finding;
use crate::outbound::Loaded;
use crate::queue::message::{Body, Message};
use crate::queue::record::State;
use crate::queue::store::{Place, StoreFailed, StoreMessage, StoreStatus};
use crate::queue::tick::Tick;
use crate::time::Instant;

/// After a failed write, MAIL is refused for so long; then one may try again.
const TROUBLE: Duration = Duration::from_secs(5);
/// While the store says that it refuses messages, it is asked again so often.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What is being written, and what the store said last.
#[derive(Debug, Default)]
pub(super) struct Accept {
    last_id: u64,
    last_write: u64,
    writes: BTreeMap<WriteId, Write>,
    /// The messages in `writes`.
    ids: BTreeSet<MessageId>,
    /// Octets of their bodies.
    pub(super) bytes: usize,
    /// Octets of memory that are lent to sessions for messages that arrive.
    pub(super) lent: usize,
    trouble: Option<(StoreFailed, Instant)>,
    pub(super) status: StoreStatus,
    /// When to hear of the store again, because it refuses messages now.
    pub(super) look_again: Option<Tick>,
}

#[derive(Debug)]
struct Write {
    by: Writer,
    message: Arc<Message>,
    dkim: Option<String>,
    preflight: Vec<Finding>,
    body: Body,
}

/// Who waits for a write.
#[derive(Debug, Clone, Copy)]
pub(super) enum Writer {
    /// A session; none once it ended.
    Session(Option<SessionId>),
    /// The report about this message.
    Report(MessageId),
    /// TLS-RPT; the message is the report itself.
    TlsReport(MessageId),
}

impl Accept {
    /// Whether nothing is being written.
    pub(super) fn is_idle(&self) -> bool {
        self.writes.is_empty()
    }

    pub(super) fn is_writing(&self, id: MessageId) -> bool {
        self.ids.contains(&id)
    }

    pub(super) fn forget_session(&mut self, write: WriteId) {
        if let Some(write) = self.writes.get_mut(&write) {
            write.by = Writer::Session(None);
        }
    }

    /// Ids go on above one that an earlier run gave.
    pub(super) fn skip_to(&mut self, id: MessageId) {
        self.last_id = self.last_id.max(id.as_u64());
    }
}

impl Engine {
    /// Ids rise with time; when the clock does not, they rise by one.
    pub(super) fn next_message_id(&mut self) -> MessageId {
        let by_clock = self.clock.now().unix.as_millis() << 20;
        self.accept.last_id = by_clock.max(self.accept.last_id + 1);
        MessageId::from_u64(self.accept.last_id)
    }

    /// Takes what the store says of itself. The runtime says it at every `Timeout`: while it is a no,
    /// one is due soon, even if there is nothing else to wait for. Otherwise nothing would ever tell
    /// that the store works again.
    pub(super) fn store_says(&mut self, status: StoreStatus) {
        let refuses = status.refusing.is_some();
        self.accept.skip_to(MessageId::from_u64(status.last_id));
        self.accept.look_again = refuses.then(|| self.clock.tick().after(LOOK_AGAIN));
        self.accept.status = status;
    }

    /// The timeout came, and with it what the store says. A runtime that brings nothing is not asked
    /// over and over.
    pub(super) fn looked_again(&mut self) {
        let now = self.clock.tick();
        self.accept.look_again = self.accept.look_again.filter(|&at| at > now);
    }

    /// Why no message of this size can be taken now, if so.
    pub(super) fn store_trouble(&self, size: Option<u64>) -> Option<Refusal> {
        let accept = &self.accept;
        let now = self.clock.now().instant;
        let full = |text: String| Refusal {
            why: Rejection::STORAGE_FULL,
            text,
            close: false,
        };
        match &accept.trouble {
            Some((failed, until)) if now < *until => return Some(refusal_of(failed)),
            Some(_) | None => {}
        }
        if let Some(why) = &accept.status.refusing {
            return Some(full(format!(
                "The queue takes nothing now ({why}), try again later"
            )));
        }
        let free = accept.status.free_bytes;
        if free > 0 && size.is_some_and(|size| size > free) {
            return Some(full(
                "No room for a message of this size, try again later".to_owned(),
            ));
        }
        None
    }

    /// Has a session's message written. The answer comes with the receipt, or at once if it is no.
    pub(super) fn submit(&mut self, session: SessionId, submission: Submission) -> Option<Answer> {
        let id = submission.id;
        if submission.envelope.recipients.is_empty()
            || id.as_u64() > self.accept.last_id
            || self.accept.is_writing(id)
            || self.table.find(id).is_some()
        {
            debug_assert!(
                false,
                "an id is given by Mail and used once, for some recipient"
            );
            return Some(refuse(
                Rejection::LOCAL_ERROR,
                "This transaction is not in order, start again with MAIL".to_owned(),
            ));
        }
        self.return_room(session);
        let write = self.write(Writer::Session(Some(session)), submission);
        self.admit.set_write(session, write);
        None
    }

    /// Has a message written.
    pub(super) fn write(&mut self, by: Writer, submission: Submission) -> WriteId {
        let Submission {
            id,
            origin,
            envelope,
            prefix,
            dkim,
            preflight,
            body,
            size,
            header_size,
        } = submission;
        let accepted = self.clock.now().unix;
        let message = Message {
            id,
            accepted,
            origin,
            envelope,
            prefix,
            size,
            header_size,
        };
        let message = Arc::new(message);
        self.accept.last_write += 1;
        let write = WriteId(self.accept.last_write);
        self.accept.ids.insert(id);
        self.accept.bytes += body_bytes(&body);
        let store = StoreMessage {
            message: Arc::clone(&message),
            body: body.clone(),
        };
        self.accept.writes.insert(
            write,
            Write {
                by,
                message,
                dkim,
                preflight,
                body,
            },
        );
        self.out.push_back(Output::Store(write, store));
        write
    }

    /// The receipt of a write.
    pub(super) fn stored(&mut self, write: WriteId, result: Result<Place, StoreFailed>) {
        let Some(write) = self.accept.writes.remove(&write) else {
            return;
        };
        let (message, body) = (&write.message, &write.body);
        self.accept.ids.remove(&message.id);
        self.accept.bytes -= body_bytes(body);
        match result {
            Ok(place) => {
                self.accept.trouble = None;
                self.queue(write, place);
            }
            Err(failed) => {
                let until = self.clock.now().instant + TROUBLE;
                self.accept.trouble = Some((failed.clone(), until));
                match write.by {
                    Writer::Session(Some(session)) => {
                        self.return_rate(session, message.id);
                        let answer = Answer::Refused(refusal_of(&failed));
                        self.out.push_back(Output::Session(session, answer));
                    }
                    Writer::Session(None) => {}
                    Writer::Report(about) => self.report_later(about),
                    Writer::TlsReport(report) => self.report_mailed(report, false),
                }
            }
        }
    }

    fn queue(&mut self, write: Write, place: Place) {
        let Write {
            by,
            message,
            dkim,
            preflight,
            body,
        } = write;
        let about = match by {
            Writer::Session(session) => {
                if let Some(session) = session {
                    self.out
                        .push_back(Output::Session(session, Answer::Queued(message.id)));
                }
                None
            }
            Writer::Report(about) => Some(about),
            Writer::TlsReport(report) => {
                self.report_mailed(report, true);
                None
            }
        };
        self.event(
            message.id,
            EventKind::Accepted {
                from: message
                    .envelope
                    .from
                    .mailbox()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
                recipients: message.envelope.recipients.len(),
                to: message
                    .envelope
                    .recipients
                    .iter()
                    .map(|recipient| recipient.to.to_string())
                    .collect(),
                size: message.size,
                credential: message.origin.credential.clone(),
                peer: message.origin.peer,
                about: about.map(|about| about.to_string()),
                dkim,
            },
        );
        if !preflight.is_empty() {
            let findings = preflight;
            self.event(message.id, EventKind::Preflight { findings });
        }
        let now = self.clock.tick();
        let handle = self.enter(&message, place, now, &State::default());
        self.counters.accepted += u64::from(self.table.messages[handle].total);
        self.counters.queued += u64::from(self.table.messages[handle].total);
        let release = self.table.messages[handle].birth;
        if release > now {
            for job in self.table.jobs_of(handle) {
                self.table.wait(job, release);
            }
        } else {
            self.table.load(Loaded {
                message: Arc::unwrap_or_clone(message),
                body,
            });
            for job in self.table.jobs_of(handle) {
                self.dispatch(job);
            }
        }
        if let Some(about) = about {
            self.reported(about);
        }
    }
}

fn refusal_of(failed: &StoreFailed) -> Refusal {
    let (why, text) = match failed {
        StoreFailed::Full => (Rejection::STORAGE_FULL, "The disk is full, try again later"),
        StoreFailed::Broken(_) => (
            Rejection::LOCAL_ERROR,
            "The message could not be stored, try again later",
        ),
    };
    Refusal {
        why,
        text: text.to_owned(),
        close: false,
    }
}

fn body_bytes(body: &Body) -> usize {
    match body {
        Body::Memory(bytes) => bytes.len(),
        Body::Spooled => 0,
    }
}
