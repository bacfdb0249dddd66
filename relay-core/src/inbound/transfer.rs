//! The transfer of one message: from the 354 (or the first chunk) to the reply that ends it.
//!
//! ```text
//!                  over 256 KiB in memory
//!   Receiving ───────────────────────────────▶ Spooling ──Spooled──▶ Receiving
//!     │   │
//!     │   └─ refused on the way ─▶ Discarding to its end; Unspool and Abandon at once
//!     │ end of the message
//!     ├──── refused ────▶ 5xx/4xx; Unspool, Abandon
//!     ├──── a stranger's ▶ Verifying (see `verification`) ─ refused by DMARC ─▶ 550/451; Unspool, Abandon
//!     └──── in order ───▶ (Spooling the last piece) ──▶ Submitting ──Queued──▶ 250 queued as ID
//!                                                            └──Refused──▶ 4xx; Unspool
//! ```
//!
//! RFC 5321 §4.1.1.4 and §4.5.3.2; the 250 takes responsibility (§6.1), so it waits for the store.

use std::time::Duration;

use bytes::Bytes;
use smtp_proto::server::{HelloVerb, Rejection};

use super::body::{HeaderFilter, Received};
use super::content::{Content, Sender, Transaction};
use super::envelope::refuse;
use super::session::{Session, State};
use super::verification::Pending;
use super::{Answer, Request};
use crate::engine::{self, Ask, Refusal, Submission};
use crate::queue::message::Origin;
use crate::queue::store::StoreFailed;
use crate::time::Instant;

/// The longest silence within a message. RFC 5321 §4.5.3.2.5 gives a client as long for a block.
const SILENCE: Duration = Duration::from_mins(3);

/// The longest silence between two chunks of BDAT. RFC 5321 §4.5.3.2.7: "at least 5 minutes".
const SILENCE_BETWEEN_CHUNKS: Duration = Duration::from_mins(5);

/// The time that a message may take before its rate counts; with chunks, for the time between them too.
const GRACE: Duration = Duration::from_mins(1);
const GRACE_BETWEEN_CHUNKS: Duration = Duration::from_mins(10);

/// The slowest rate: so many octets earn a second more.
const OCTETS_PER_SECOND: u64 = 500;

/// How fast a message comes in.
#[derive(Debug)]
pub(super) struct Pace {
    /// When it began, moved on by the time that the client waited for our disk.
    started: Instant,
    /// When the client was last heard.
    heard: Instant,
    /// What it sent since it began.
    octets: u64,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            started: now,
            heard: now,
            octets: 0,
        }
    }

    /// The client sent so much.
    pub(super) fn heard(&mut self, octets: usize, now: Instant) {
        self.heard = now;
        self.octets = self.octets.saturating_add(octets as u64);
    }

    /// The client was not read since then.
    fn resumed(&mut self, since: Instant, now: Instant) {
        self.started = self.started + now.since(since);
        self.heard = now;
    }

    /// When to give up on octets of a message.
    pub(super) fn deadline(&self) -> Instant {
        (self.heard + SILENCE).min(self.started + GRACE + self.earned())
    }

    /// When to give up on the next chunk.
    pub(super) fn deadline_between_chunks(&self) -> Instant {
        let rate = self.started + GRACE_BETWEEN_CHUNKS + self.earned();
        (self.heard + SILENCE_BETWEEN_CHUNKS).min(rate)
    }

    fn earned(&self) -> Duration {
        Duration::from_millis(self.octets.saturating_mul(1000) / OCTETS_PER_SECOND)
    }
}

/// A message on its way in.
#[derive(Debug)]
pub(super) struct Transfer {
    content: Content,
    pub(super) phase: Phase,
    pub(super) pace: Pace,
}

#[derive(Debug)]
pub(super) enum Phase {
    Receiving,
    /// A piece is on its way to the spool since then; with the last one, what is submitted after it.
    Spooling(Instant, Option<Box<Submission>>),
    Submitting,
    /// What is verified of it waits for the DNS.
    Verifying(Box<Pending>),
}

impl Transfer {
    /// Whether it waits for the client.
    pub(super) fn receives(&self) -> bool {
        matches!(self.phase, Phase::Receiving)
    }
}

impl Session {
    /// The client said DATA, or BDAT for the first time.
    pub(super) fn transfer_begins(&mut self) {
        let (size, room) = self
            .transaction
            .as_ref()
            .map_or((None, 0), |open| (open.params.size, open.room));
        let hostname = &self.setup.config.hostname;
        let filter = match self.transaction.as_ref().map(|open| &open.sender) {
            Some(Sender::Stranger) => HeaderFilter::inbound(hostname),
            Some(Sender::User(_)) | None => HeaderFilter::submission(hostname),
        };
        self.accept("");
        self.state = State::Transfer(Box::new(Transfer {
            content: Content::new(size, room, filter),
            phase: Phase::Receiving,
            pace: Pace::new(self.now.instant),
        }));
    }

    /// Octets of the message.
    pub(super) fn transfer_takes(&mut self, mut transfer: Box<Transfer>, piece: &[u8]) {
        let Some(transaction) = &self.transaction else {
            return self.confused();
        };
        let received = self.received(transaction);
        let config = &self.setup.config;
        match transfer.content.push(piece, transaction, &received, config) {
            Ok(()) => {
                if let Some(piece) = transfer.content.spill() {
                    self.spool(&mut transfer, piece, None);
                }
                self.state = State::Transfer(transfer);
            }
            Err(refusal) => {
                // The protocol reads on to the end of the message, and replies then.
                self.reject(&refusal);
                self.transfer_refused(transfer.pace);
            }
        }
    }

    /// The message is refused already, and comes to its end nevertheless.
    pub(super) fn transfer_refused(&mut self, pace: Pace) {
        self.drop_transaction();
        if !self.is_ending() {
            self.state = State::Discarding(pace);
        }
    }

    /// The message is complete.
    pub(super) fn transfer_ends(&mut self, mut transfer: Box<Transfer>) {
        let Some(transaction) = &self.transaction else {
            return self.confused();
        };
        let origin = Origin {
            credential: Some(transaction.sender.name().to_owned()).filter(|name| !name.is_empty()),
            peer: Some(self.client_ip()),
        };
        let config = &self.setup.config;
        match transfer
            .content
            .finish(transaction, origin, &self.received(transaction), config)
        {
            Ok((last, submission)) => match transfer.content.verification(self.now) {
                Some((verifier, sealing)) => {
                    let pending = Pending::new(verifier, sealing, last, submission);
                    self.verify(transfer, Box::new(pending));
                }
                None => self.keep(transfer, last, submission),
            },
            Err(refusal) => {
                self.drop_transaction();
                self.reject(&refusal);
            }
        }
    }

    /// A message that is complete and in order goes to the store.
    pub(super) fn keep(
        &mut self,
        mut transfer: Box<Transfer>,
        last: Option<Bytes>,
        submission: Box<Submission>,
    ) {
        match last {
            Some(last) => {
                self.spool(&mut transfer, last, Some(submission));
                self.state = State::Transfer(transfer);
            }
            None => self.submit(transfer, submission),
        }
    }

    fn spool(&mut self, transfer: &mut Transfer, piece: Bytes, then: Option<Box<Submission>>) {
        if let Some(transaction) = &mut self.transaction {
            transaction.spooled = true;
            self.request = Some(Request::Spool(transaction.id, piece));
            transfer.phase = Phase::Spooling(self.now.instant, then);
        }
    }

    fn submit(&mut self, mut transfer: Box<Transfer>, submission: Box<Submission>) {
        self.request = Some(Request::Engine(Ask::Submit(submission)));
        transfer.phase = Phase::Submitting;
        self.state = State::Transfer(transfer);
    }

    /// An answer for a transfer that waits.
    pub(super) fn transfer_answered(&mut self, mut transfer: Box<Transfer>, answer: Answer) {
        let phase = std::mem::replace(&mut transfer.phase, Phase::Receiving);
        match (phase, answer) {
            (Phase::Spooling(since, None), Answer::Spooled(Ok(()))) => {
                transfer.pace.resumed(since, self.now.instant);
                self.state = State::Transfer(transfer);
            }
            (Phase::Spooling(since, None), Answer::Spooled(Err(failed))) => {
                transfer.pace.resumed(since, self.now.instant);
                self.reject(&store_failed(&failed));
                self.transfer_refused(transfer.pace);
            }
            (Phase::Spooling(_, Some(submission)), Answer::Spooled(Ok(()))) => {
                self.submit(transfer, submission);
            }
            (Phase::Spooling(_, Some(_)), Answer::Spooled(Err(failed))) => {
                self.drop_transaction();
                self.reject(&store_failed(&failed));
            }
            (Phase::Submitting, Answer::Engine(engine::Answer::Queued(id))) => {
                self.transaction = None;
                self.accept(&format!("Ok: queued as {id}"));
            }
            (Phase::Submitting, Answer::Engine(engine::Answer::Refused(refusal))) => {
                self.submission_refused();
                self.reject(&refusal);
            }
            (Phase::Verifying(mut pending), Answer::Resolved(answer)) => {
                pending.verifier.answer(answer);
                self.verify(transfer, pending);
            }
            (
                _,
                Answer::Engine(_)
                | Answer::Spooled(_)
                | Answer::Checked(_)
                | Answer::Resolved(_)
                | Answer::Done,
            ) => self.confused(),
        }
    }

    /// What our Received field says of this message.
    fn received<'a>(&'a self, transaction: &'a Transaction) -> Received<'a> {
        let hello = self.hello.as_deref();
        let recipient = match transaction.recipients.as_slice() {
            [only] => Some(&only.to),
            _ => None,
        };
        Received {
            helo: hello.map_or("", |hello| hello.name.as_str()),
            peer: Some(self.client_ip()),
            hostname: &self.setup.config.hostname,
            id: transaction.id,
            extended: hello.is_some_and(|hello| hello.verb == HelloVerb::Ehlo),
            tls: self.tls.as_deref(),
            authenticated: self.client.is_authenticated(),
            smtputf8: transaction.params.smtputf8,
            recipient,
            time: self.now.unix,
        }
    }
}

/// The reply to a failure of the disk. Nothing of the message is kept.
pub(super) fn store_failed(failed: &StoreFailed) -> Refusal {
    match failed {
        StoreFailed::Full => refuse(
            Rejection::STORAGE_FULL,
            "The queue is full; try again later".into(),
        ),
        StoreFailed::Broken(_) => refuse(
            Rejection::LOCAL_ERROR,
            "The queue cannot be written; try again later".into(),
        ),
    }
}
