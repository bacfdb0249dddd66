//! One message over a ready connection: MAIL, RCPTs and DATA in bursts, the body, and every
//! recipient's outcome from its own reply.
//!
//! ```text
//!            all said and answered, nobody accepted
//!        ┌─────────────────────────────────────────────────┐
//!        │                                                 ▼
//!  Envelope ── 354, somebody accepted ──▶ Body ──▶ Ending ──▶ next batch of recipients, or done
//!        └── 354, nobody accepted: the dot alone ───▶ ▲
//! ```
//!
//! A job with more recipients than one transaction takes (LIMITS RCPTMAX, or [`RCPTS_MAX`]) goes in
//! several, one after the other. What a reply means is decided by [`super::outcome`].
//!
//! DATA carries every body that is made of lines, also where CHUNKING is offered: its 354 tells whether
//! anybody wants the body before it is sent, it works with every server, and the round trip that BDAT
//! saves is one of several. BDAT carries what DATA cannot: BODY=BINARYMIME.
//!
//! RFC 5321 §3.3, §4.5.3.1.10, §4.5.3.2; RFC 1870; RFC 2920 §3.1; RFC 3030; RFC 3461 §5.1; RFC 6152;
//! RFC 6531 §3; RFC 9422.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use smtp_proto::client::{Awaiting, Capabilities, Connection, Event, SendError};
use smtp_proto::{BodyType, Extension, ForwardPath, MailParams, RcptParams, Reply, Severity};

use super::io::{Loaded, Request};
use super::link::{Link, Received};
use super::outcome::{Fate, Finding, Loss, Need, Seen, Stage, Then, Verdict, judge};
use super::work::Work;
use crate::machine::Timer;
use crate::queue::message::{Body, BodyKind, Envelope};
use crate::queue::store::LoadFailed;
use crate::time::Instant;

/// Recipients of one transaction, where the host names no limit. RFC 5321 §4.5.3.1.8: every server
/// takes 100.
const RCPTS_MAX: usize = 100;

/// Octets of a body in one burst: with every line a dot, stuffing makes 4 of 3.
const PIECE_MAX: usize = 48 * 1024;

/// RFC 5321 §4.5.3.2.2 and §4.5.3.2.3.
const COMMAND: Duration = Duration::from_secs(5 * 60);

/// RFC 5321 §4.5.3.2.4.
const DATA: Duration = Duration::from_secs(2 * 60);

/// RFC 5321 §4.5.3.2.6.
const BODY_END: Duration = Duration::from_secs(10 * 60);

/// All replies from MAIL to DATA together: a hundred slow ones are a trap.
const ENVELOPE: Duration = Duration::from_secs(30 * 60);

/// How long replies are read from a host that takes no more bytes.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// One message on its way.
#[derive(Debug)]
pub(super) struct Transaction {
    loaded: Arc<Loaded>,
    mail: MailParams,
    /// Recipients that no transaction has tried, by their position in the job.
    pending: VecDeque<usize>,
    /// Those of this transaction that are still to be named.
    batch: VecDeque<usize>,
    /// Those of this transaction by the number of their RCPT.
    named: Vec<usize>,
    /// Those of them that were accepted and have no outcome.
    accepted: Vec<usize>,
    /// What MAIL was answered, if not 250.
    refused: Option<Verdict>,
    phase: Phase,
    /// What the oldest awaited reply answers, and when it is late.
    waiting: Option<(Awaiting, Instant)>,
    envelope_until: Instant,
    /// The 421 that ended the connection.
    closing: Option<Reply>,
    /// Bytes could not be written: there is only reading left, until this time, and this is what it
    /// ends with.
    deaf: Option<(Loss, Instant)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Envelope(Command),
    /// How many octets of the body were sent.
    Body(u64),
    /// Everything was said.
    Ending,
}

/// What is to be said next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Reset,
    Mail,
    Rcpt,
    Data,
}

/// What comes next.
#[derive(Debug)]
pub(super) enum Progress {
    /// Read.
    Wait(Instant, Timer),
    /// Ask the runtime, and hand in its answer.
    Ask(Request),
    /// Every recipient has its outcome.
    Done,
    /// The rest is tried elsewhere.
    Elsewhere(Stage, Verdict),
    /// The rest is tried on a new connection: this one takes no more transactions.
    Renew,
}

impl Transaction {
    /// Begins with a message on a ready connection.
    pub(super) fn begin(
        loaded: Arc<Loaded>,
        link: &mut Link,
        work: &mut Work,
        now: Instant,
    ) -> (Self, Progress) {
        let mut transaction = Self {
            mail: mail_params(&loaded, link.offers()),
            loaded,
            pending: VecDeque::new(),
            batch: VecDeque::new(),
            named: Vec::new(),
            accepted: Vec::new(),
            refused: None,
            phase: Phase::Ending,
            waiting: None,
            envelope_until: now,
            closing: None,
            deaf: None,
        };
        transaction.settle_unsendable(link.offers(), work);
        transaction.pending = work.unsettled().into();
        let progress = transaction.next_batch(link, work, now);
        (transaction, progress)
    }

    /// Bytes came.
    pub(super) fn receive(
        &mut self,
        received: Received,
        link: &mut Link,
        work: &mut Work,
        now: Instant,
    ) -> Progress {
        for event in received.events {
            match event {
                Event::Reply { answers, reply } => {
                    self.waiting = None;
                    self.answered(answers, reply, link, work);
                }
                Event::Closing { reply } => return self.cut(Finding::Reply(reply), link, work),
            }
        }
        match received.end {
            Some(end) => self.lost(end.into(), link, work),
            None if self.deaf.is_some() && work.is_settled() => Progress::Done,
            None if self.deaf.is_some() => self.wait(link, now),
            None => self.go_on(link, work, now),
        }
    }

    /// The piece of the body that was asked for.
    pub(super) fn body(
        &mut self,
        piece: Result<Bytes, LoadFailed>,
        link: &mut Link,
        work: &mut Work,
        now: Instant,
    ) -> Progress {
        match piece {
            Ok(piece) if !piece.is_empty() => match self.send_piece(&piece, link) {
                Ok(()) => self.go_on(link, work, now),
                Err(why) => self.unreadable(LoadFailed::Damaged(why.to_string()), link, work),
            },
            Ok(_) => {
                let why = LoadFailed::Damaged("the body is shorter than it was".to_owned());
                self.unreadable(why, link, work)
            }
            Err(why) => self.unreadable(why, link, work),
        }
    }

    /// What was to be written is written.
    pub(super) fn flushed(&mut self, link: &mut Link, work: &mut Work, now: Instant) -> Progress {
        self.go_on(link, work, now)
    }

    /// Bytes could not be written. The host may have said why before it stopped to read.
    pub(super) fn write_failed(&mut self, loss: Loss, link: &mut Link, now: Instant) -> Progress {
        link.end_with(Then::Drop);
        self.deaf.get_or_insert((loss, now + LAST_WORDS));
        self.wait(link, now)
    }

    /// The connection ended, or a deadline passed.
    pub(super) fn lost(&mut self, loss: Loss, link: &mut Link, work: &mut Work) -> Progress {
        let loss = self.deaf.as_ref().map_or(loss, |(first, _)| first.clone());
        self.cut(Finding::Lost(loss), link, work)
    }

    /// Settles what this host cannot be sent.
    fn settle_unsendable(&self, offers: &Capabilities, work: &mut Work) {
        let message = &self.loaded.message;
        let envelope = &message.envelope;
        let bounce = |need| judge(Stage::Mail, &Finding::Lacks(need), Seen::default());
        if let Some(need) = lacks(envelope, message.size, offers) {
            work.settle_rest(&bounce(need));
        }
        for position in work.unsettled() {
            let index = work.job.recipients[position];
            match envelope.recipients.get(index as usize) {
                Some(recipient) if self.mail.smtputf8 || recipient.to.is_ascii() => {}
                Some(_) => work.settle(position, &bounce(Need::SmtpUtf8)),
                None => {
                    let why = LoadFailed::Damaged(format!("there is no recipient {index}"));
                    work.settle(
                        position,
                        &judge(Stage::Store, &Finding::Store(why), Seen::default()),
                    );
                }
            }
        }
    }

    fn next_batch(&mut self, link: &mut Link, work: &mut Work, now: Instant) -> Progress {
        if self.pending.is_empty() {
            return Progress::Done;
        }
        let offers = link.offers();
        if offers.mail_max.is_some_and(|max| link.transactions >= max) {
            return Progress::Renew;
        }
        let max = offers
            .rcpt_max
            .and_then(|max| usize::try_from(max).ok())
            .unwrap_or(RCPTS_MAX);
        let count = self.pending.len().min(max.clamp(1, RCPTS_MAX));
        self.batch = self.pending.drain(..count).collect();
        self.named.clear();
        self.accepted.clear();
        self.refused = None;
        self.envelope_until = now + ENVELOPE;
        let first = if link.open_transaction {
            Command::Reset
        } else {
            Command::Mail
        };
        self.phase = Phase::Envelope(first);
        link.transactions += 1;
        self.go_on(link, work, now)
    }

    /// Says what can be said now.
    fn go_on(&mut self, link: &mut Link, work: &mut Work, now: Instant) -> Progress {
        if let Phase::Envelope(_) = self.phase {
            if let Some(progress) = self.send_envelope(link, work) {
                return progress;
            }
        }
        if let Phase::Body(sent) = self.phase {
            return self.send_body(sent, link, work, now);
        }
        if link.smtp.awaiting().next().is_some() && !link.smtp.is_closing() {
            return self.wait(link, now);
        }
        self.end_batch(link, work, now)
    }

    /// The envelope, as far as the host takes it now.
    fn send_envelope(&mut self, link: &mut Link, work: &mut Work) -> Option<Progress> {
        while let Phase::Envelope(command) = self.phase {
            if self.refused.is_some() || link.smtp.is_closing() {
                self.phase = Phase::Ending;
                break;
            }
            let said = match command {
                Command::Reset => link.send(Connection::reset),
                Command::Mail => {
                    let from = &self.loaded.message.envelope.from;
                    link.send(|smtp, wire| smtp.mail(from, &self.mail, wire))
                }
                Command::Rcpt => self.send_rcpt(link, work),
                Command::Data => self.send_data(link),
            };
            match said {
                Ok(()) => self.said(command, link),
                Err(SendError::NotYet | SendError::BurstFull) => break,
                Err(why) => return Some(self.unsayable(command, why, link, work)),
            }
        }
        None
    }

    fn said(&mut self, command: Command, link: &mut Link) {
        let next = match command {
            Command::Reset => Command::Mail,
            Command::Mail => {
                link.open_transaction = true;
                Command::Rcpt
            }
            Command::Rcpt if !self.batch.is_empty() => Command::Rcpt,
            Command::Rcpt => Command::Data,
            Command::Data => {
                // DATA waits for its 354; BDAT has announced the body; or nobody wants it.
                if let Phase::Envelope(_) = self.phase {
                    self.phase = Phase::Ending;
                }
                return;
            }
        };
        self.phase = Phase::Envelope(next);
    }

    fn send_rcpt(&mut self, link: &mut Link, work: &Work) -> Result<(), SendError> {
        let Some(&position) = self.batch.front() else {
            return Ok(());
        };
        let dsn = link.offers().has(Extension::Dsn);
        let utf8 = self.mail.smtputf8;
        let recipients = &self.loaded.message.envelope.recipients;
        let index = work
            .job
            .recipients
            .get(position)
            .copied()
            .unwrap_or(u32::MAX);
        // `settle_unsendable` saw to it that it is there.
        let Some(recipient) = recipients.get(index as usize) else {
            return Err(SendError::BadArgument);
        };
        let params = if dsn {
            RcptParams {
                notify: recipient.notify.unwrap_or_default(),
                orcpt: recipient
                    .orcpt
                    .clone()
                    .filter(|orcpt| utf8 || orcpt.is_ascii()),
            }
        } else {
            RcptParams::default()
        };
        let to = ForwardPath::Mailbox(recipient.to.clone());
        link.send(|smtp, wire| smtp.rcpt(&to, &params, wire))?;
        self.batch.pop_front();
        self.named.push(position);
        Ok(())
    }

    /// DATA may share the burst of RCPT: if nobody is accepted, a 354 is answered with the dot alone.
    /// BDAT may not, for it would send the body to nobody.
    fn send_data(&mut self, link: &mut Link) -> Result<(), SendError> {
        let answered = link.smtp.awaiting().next().is_none();
        if answered && self.accepted.is_empty() {
            return Ok(());
        }
        if self.mail.body != Some(BodyType::BinaryMime) {
            return link.send(Connection::data);
        }
        if !answered {
            return Err(SendError::NotYet);
        }
        let size = self.size();
        link.send(|smtp, wire| smtp.bdat(size, true, wire))?;
        self.phase = Phase::Body(0);
        Ok(())
    }

    /// A command cannot be written as it stands: our fault, and not the host's.
    fn unsayable(
        &mut self,
        command: Command,
        why: SendError,
        link: &mut Link,
        work: &mut Work,
    ) -> Progress {
        let finding = Finding::Lost(Loss::Protocol(format!("{why}, in {command:?}")));
        self.cut(finding, link, work)
    }

    /// The reply to a command.
    fn answered(&mut self, answers: Awaiting, reply: Reply, link: &mut Link, work: &mut Work) {
        let ok = matches!(reply.severity(), Severity::Success | Severity::Intermediate);
        let nobody = self.refused.is_some() || self.accepted.is_empty();
        let mut seen = link.seen();
        if reply.code().number() == 421 {
            self.closing = Some(reply.clone());
        }
        match answers {
            Awaiting::Mail if !ok => {
                let verdict = judge(Stage::Mail, &Finding::Reply(reply), seen);
                link.end_with(verdict.then);
                link.open_transaction = false;
                self.refused = Some(verdict);
            }
            Awaiting::Rcpt { index } if self.refused.is_none() => {
                let Some(&position) = self.named.get(index) else {
                    return;
                };
                if ok {
                    self.accepted.push(position);
                    return;
                }
                seen.accepted = !self.accepted.is_empty();
                let verdict = judge(Stage::Rcpt, &Finding::Reply(reply), seen);
                link.end_with(verdict.then);
                if verdict.fate == Fate::Split {
                    self.pending.push_back(position);
                } else {
                    work.settle(position, &verdict);
                }
            }
            Awaiting::Data if ok && nobody => self.phase = end_of_nothing(link),
            Awaiting::Data if ok => self.phase = Phase::Body(0),
            Awaiting::Data => self.settle_accepted(Stage::Data, &Finding::Reply(reply), link, work),
            Awaiting::BodyEnd { .. } => {
                link.open_transaction = false;
                self.settle_accepted(Stage::Dot, &Finding::Reply(reply), link, work);
            }
            Awaiting::Mail | Awaiting::Rcpt { .. } | Awaiting::Reset => {}
            Awaiting::Greeting | Awaiting::Hello(_) | Awaiting::StartTls | Awaiting::Auth => {}
            Awaiting::Chunk | Awaiting::Noop | Awaiting::Quit => {}
        }
    }

    /// The next burst of the body.
    fn send_body(&mut self, sent: u64, link: &mut Link, work: &mut Work, now: Instant) -> Progress {
        let size = self.size();
        if sent >= size {
            self.phase = Phase::Ending;
            if self.mail.body != Some(BodyType::BinaryMime) {
                if let Err(why) = link.send(Connection::body_end) {
                    return self.cut(Finding::Lost(Loss::Protocol(why.to_string())), link, work);
                }
            }
            return self.wait(link, now);
        }
        let id = self.loaded.message.id;
        let left = usize::try_from(size - sent).unwrap_or(usize::MAX);
        let max = left.min(PIECE_MAX);
        let loaded = Arc::clone(&self.loaded);
        let Body::Memory(bytes) = &loaded.body else {
            return Progress::Ask(Request::ReadBody {
                id,
                offset: sent,
                max,
            });
        };
        let start = usize::try_from(sent).unwrap_or(usize::MAX);
        let piece = bytes
            .get(start..start.saturating_add(max))
            .unwrap_or_default();
        match self.send_piece(piece, link) {
            Ok(()) if left > max => Progress::Ask(Request::Flush),
            Ok(()) => self.send_body(size, link, work, now),
            Err(why) => self.unreadable(LoadFailed::Damaged(why.to_string()), link, work),
        }
    }

    fn send_piece(&mut self, piece: &[u8], link: &mut Link) -> Result<(), SendError> {
        let Phase::Body(sent) = self.phase else {
            return Err(SendError::WrongState);
        };
        let left = self.size().saturating_sub(sent);
        if piece.len() as u64 > left {
            return Err(SendError::OverChunk);
        }
        link.send(|smtp, wire| smtp.body(piece, wire))?;
        self.phase = Phase::Body(sent + piece.len() as u64);
        Ok(())
    }

    /// All was said and answered.
    fn end_batch(&mut self, link: &mut Link, work: &mut Work, now: Instant) -> Progress {
        if let Some(verdict) = self.refused.take() {
            return leave(Stage::Mail, verdict, work);
        }
        if work.is_settled() {
            return Progress::Done;
        }
        if link.smtp.is_closing() {
            // What the host did not answer any more counts as answered by its last reply.
            let finding = self
                .closing
                .take()
                .map_or(Finding::Lost(Loss::Closed), Finding::Reply);
            return self.cut(finding, link, work);
        }
        self.next_batch(link, work, now)
    }

    /// The host gives up in the middle: what is known of it counts for all that have no outcome.
    fn cut(&mut self, finding: Finding, link: &mut Link, work: &mut Work) -> Progress {
        link.end_with(Then::Drop);
        let stage = self.stage(link);
        if stage >= Stage::Body {
            self.settle_accepted(stage, &finding, link, work);
        }
        if work.is_settled() {
            return Progress::Done;
        }
        let (stage, verdict) = if stage >= Stage::Body {
            // Those that are not in this transaction are told of the connection only.
            let closed = Finding::Lost(Loss::Closed);
            (Stage::Mail, judge(Stage::Mail, &closed, Seen::default()))
        } else {
            (stage, judge(stage, &finding, link.seen()))
        };
        leave(stage, verdict, work)
    }

    /// How far the transaction is, by what the oldest awaited reply answers.
    fn stage(&self, link: &Link) -> Stage {
        if let Phase::Body(_) = self.phase {
            return Stage::Body;
        }
        match link.smtp.awaiting().next() {
            Some(Awaiting::Rcpt { .. }) => Stage::Rcpt,
            Some(Awaiting::Data) => Stage::Data,
            // The dot did not leave if it could not be written.
            Some(Awaiting::BodyEnd { .. }) if self.deaf.is_some() => Stage::Body,
            Some(Awaiting::BodyEnd { .. }) if !self.accepted.is_empty() => Stage::Dot,
            Some(Awaiting::BodyEnd { .. }) => Stage::Data,
            Some(_) => Stage::Mail,
            None if self.accepted.is_empty() => Stage::Mail,
            None => Stage::Data,
        }
    }

    fn settle_accepted(
        &mut self,
        stage: Stage,
        finding: &Finding,
        link: &mut Link,
        work: &mut Work,
    ) {
        if self.accepted.is_empty() {
            return;
        }
        let verdict = judge(stage, finding, link.seen());
        link.end_with(verdict.then);
        for position in self.accepted.drain(..) {
            work.settle(position, &verdict);
        }
    }

    /// The body cannot be read to its end: without its end it is no message for the host.
    fn unreadable(&mut self, why: LoadFailed, link: &mut Link, work: &mut Work) -> Progress {
        link.end_with(Then::Drop);
        work.settle_rest(&judge(Stage::Store, &Finding::Store(why), Seen::default()));
        Progress::Done
    }

    fn wait(&mut self, link: &Link, now: Instant) -> Progress {
        if let Some((_, until)) = self.deaf {
            return Progress::Wait(until, Timer::Body);
        }
        let front = link.smtp.awaiting().next().unwrap_or(Awaiting::Data);
        let (limit, why) = match front {
            Awaiting::Rcpt { .. } => (COMMAND, Timer::Rcpt),
            Awaiting::Data => (DATA, Timer::Data),
            Awaiting::BodyEnd { .. } | Awaiting::Chunk => (BODY_END, Timer::BodyEnd),
            Awaiting::Reset | Awaiting::Noop | Awaiting::Quit => (COMMAND, Timer::Quit),
            Awaiting::Mail | Awaiting::Greeting | Awaiting::Hello(_) => (COMMAND, Timer::Mail),
            Awaiting::StartTls | Awaiting::Auth => (COMMAND, Timer::Mail),
        };
        let until = match self.waiting {
            Some((awaited, until)) if awaited == front => until,
            Some(_) | None => now + limit,
        };
        self.waiting = Some((front, until));
        match front {
            Awaiting::BodyEnd { .. } => Progress::Wait(until, why),
            _ => Progress::Wait(until.min(self.envelope_until), why),
        }
    }

    fn size(&self) -> u64 {
        match &self.loaded.body {
            Body::Memory(bytes) => bytes.len() as u64,
            Body::Spooled => self.loaded.message.size,
        }
    }
}

/// What was found about the message or the host, and not about one recipient, settles all that are
/// left, or sends them elsewhere.
fn leave(stage: Stage, verdict: Verdict, work: &mut Work) -> Progress {
    match verdict.fate {
        Fate::Again | Fate::NextHost { .. } => Progress::Elsewhere(stage, verdict),
        Fate::Delivered | Fate::Split | Fate::Deferred { .. } | Fate::Bounced => {
            work.settle_rest(&verdict);
            Progress::Done
        }
    }
}

/// The dot alone. RFC 2920 §3.1: a 354 that nobody's RCPT earned.
fn end_of_nothing(link: &mut Link) -> Phase {
    // It can only fail on a connection that is closing, and then it is not needed.
    let _ = link.send(Connection::body_end);
    Phase::Ending
}

/// What the message needs and the host does not offer. Nothing is converted on the way: a signature
/// over the body would break.
fn lacks(envelope: &Envelope, size: u64, offers: &Capabilities) -> Option<Need> {
    let has = |extension| offers.has(extension);
    let utf8_needed =
        envelope.smtputf8 && (envelope.body != BodyKind::SevenBit || !envelope.from.is_ascii());
    if utf8_needed && !has(Extension::SmtpUtf8) {
        return Some(Need::SmtpUtf8);
    }
    match envelope.body {
        BodyKind::EightBit if !has(Extension::EightBitMime) => return Some(Need::EightBitMime),
        BodyKind::Binary if !has(Extension::BinaryMime) => return Some(Need::BinaryMime),
        BodyKind::SevenBit | BodyKind::EightBit | BodyKind::Binary => {}
    }
    // RFC 1870 §6.1: the client need not ask for what was already refused.
    offers.size_max.filter(|&max| size > max).map(Need::Size)
}

fn mail_params(loaded: &Loaded, offers: &Capabilities) -> MailParams {
    let message = &loaded.message;
    let envelope = &message.envelope;
    let dsn = offers.has(Extension::Dsn);
    MailParams {
        size: offers.has(Extension::Size).then_some(message.size),
        body: match envelope.body {
            BodyKind::SevenBit => None,
            BodyKind::EightBit => Some(BodyType::EightBitMime),
            BodyKind::Binary => Some(BodyType::BinaryMime),
        },
        smtputf8: envelope.smtputf8 && offers.has(Extension::SmtpUtf8),
        ret: envelope.ret.filter(|_| dsn),
        envid: envelope.envid.clone().filter(|_| dsn),
        ..MailParams::default()
    }
}
