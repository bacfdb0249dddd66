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
//! several, one after the other; one for each recipient where the message has a return path, which names
//! its recipient. What a reply means is decided by [`super::outcome`].
//!
//! DATA carries every body that is made of lines, also where CHUNKING is offered: its 354 tells whether
//! anybody wants the body before it is sent, it works with every server, and the round trip that BDAT
//! saves is one of several. BDAT carries what DATA cannot: BODY=BINARYMIME.
//!
//! RFC 5321 §3.3, §4.5.3.1.10, §4.5.3.2; RFC 1870; RFC 2920 §3.1; RFC 3030; RFC 3461 §5.2.1; RFC 6152;
//! RFC 6531 §3; RFC 9422.

mod body;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use smtp_proto::client::{Awaiting, Connection, Event, SendError};
use smtp_proto::{BodyType, ForwardPath, MailParams, Reply, Severity};

use super::envelope::{Standing, lacks, mail_params, rcpt_params};
use super::finding::{Finding, Loss, Need, Stage};
use super::io::{Loaded, Request};
use super::link::{Link, Received};
use super::outcome::{Fate, Seen, Then, Verdict, judge};
use super::return_path::{Verp, mail_from, without_success};
use super::work::Work;
use crate::config::Config;
use crate::machine::Timer;
use crate::queue::store::LoadFailed;
use crate::time::{Instant, Now};

/// Recipients of one transaction, where the host names no limit. RFC 5321 §4.5.3.1.8: every server
/// takes 100.
const RCPTS_MAX: usize = 100;

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
    /// How MAIL FROM is made, if it is not the sender.
    verp: Option<Verp>,
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
    /// The host takes recipients of a message that it refused.
    confused: bool,
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
        config: &Config,
        link: &mut Link,
        work: &mut Work,
        now: Now,
    ) -> (Self, Progress) {
        let host = link.standing(now.unix);
        let now = now.instant;
        let mut transaction = Self {
            mail: mail_params(&loaded, link.offers(), host),
            verp: Verp::of(&loaded.message, config),
            loaded,
            pending: VecDeque::new(),
            batch: VecDeque::new(),
            named: Vec::new(),
            accepted: Vec::new(),
            refused: None,
            confused: false,
            phase: Phase::Ending,
            waiting: None,
            envelope_until: now,
            closing: None,
            deaf: None,
        };
        if let Some(need) = transaction.lacks(link, host) {
            let verdict = judge(Stage::Mail, &Finding::Lacks(need), Seen::default());
            // An earlier message chose this host; for this one the first may do.
            let elsewhere = matches!(verdict.fate, Fate::NextHost { .. });
            let progress = if elsewhere && link.messages > 0 {
                Progress::Renew
            } else {
                leave(Stage::Mail, verdict, work)
            };
            return (transaction, progress);
        }
        link.return_path = None;
        transaction.settle_unsendable(work);
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

    /// What the message needs and the host does not offer.
    fn lacks(&self, link: &Link, host: Standing) -> Option<Need> {
        let message = &self.loaded.message;
        // A return path is ASCII.
        let ascii = self.verp.is_some() || message.envelope.from.is_ascii();
        lacks(message, ascii, link.offers(), host)
    }

    /// Settles the recipients that this host cannot be named.
    fn settle_unsendable(&self, work: &mut Work) {
        let envelope = &self.loaded.message.envelope;
        let bounce = |need| judge(Stage::Mail, &Finding::Lacks(need), Seen::default());
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
        // A return path names one recipient.
        let max = if self.verp.is_some() { 1 } else { max };
        let count = self.pending.len().min(max.clamp(1, RCPTS_MAX));
        self.batch = self.pending.drain(..count).collect();
        self.named.clear();
        self.accepted.clear();
        self.refused = None;
        self.confused = false;
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
        if let Some(progress) = self.send_envelope(link, work) {
            return progress;
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
                Command::Mail => self.send_mail(link, work),
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

    fn send_mail(&self, link: &mut Link, work: &Work) -> Result<(), SendError> {
        let first = self
            .batch
            .front()
            .and_then(|&at| work.job.recipients.get(at));
        let recipient = first.copied().unwrap_or(u32::MAX);
        let from = mail_from(&self.loaded.message, self.verp.as_ref(), recipient);
        link.send(|smtp, wire| smtp.mail(&from, &self.mail, wire))?;
        if self.verp.is_some() {
            link.return_path = from.mailbox().map(ToString::to_string);
        }
        Ok(())
    }

    fn send_rcpt(&mut self, link: &mut Link, work: &Work) -> Result<(), SendError> {
        let Some(&position) = self.batch.front() else {
            return Ok(());
        };
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
        let mut params = rcpt_params(recipient, self.mail.smtputf8, link.offers());
        if self.verp.is_some() {
            params.notify = without_success(params.notify);
        }
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
            // Even the dot alone would be a message to them.
            Awaiting::Data if ok && self.confused => {
                link.end_with(Then::Drop);
                self.phase = Phase::Ending;
            }
            Awaiting::Data if ok && nobody => self.phase = end_of_nothing(link),
            Awaiting::Data if ok => self.phase = Phase::Body(0),
            Awaiting::Data => self.settle_accepted(Stage::Data, &Finding::Reply(reply), link, work),
            Awaiting::BodyEnd { rcpt } => {
                link.open_transaction = false;
                let finding = match &self.deaf {
                    // It cannot speak of a message whose end could not be written.
                    Some((loss, _)) if ok => Finding::Lost(loss.clone()),
                    Some(_) | None => Finding::Reply(reply),
                };
                match rcpt.and_then(|index| self.named.get(index)) {
                    Some(&position) => self.settle_one(position, &finding, link, work),
                    None => self.settle_accepted(Stage::Dot, &finding, link, work),
                }
            }
            Awaiting::Rcpt { .. } => self.confused |= ok,
            Awaiting::Mail | Awaiting::Reset => {}
            Awaiting::Greeting | Awaiting::Hello(_) => {}
            Awaiting::StartTls | Awaiting::Auth | Awaiting::XClient => {}
            Awaiting::Chunk | Awaiting::Noop | Awaiting::Quit => {}
        }
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

    /// RFC 2033 §4.2: LMTP answers the end of the body once for each recipient that it accepted.
    fn settle_one(&mut self, position: usize, finding: &Finding, link: &mut Link, work: &mut Work) {
        let verdict = judge(Stage::Dot, finding, link.seen());
        link.end_with(verdict.then);
        self.accepted.retain(|&accepted| accepted != position);
        work.settle(position, &verdict);
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
            Awaiting::StartTls | Awaiting::Auth | Awaiting::XClient => (COMMAND, Timer::Mail),
        };
        let until = match self.waiting {
            Some((awaited, until)) if awaited == front => until,
            Some(_) | None => now + limit,
        };
        self.waiting = Some((front, until));
        if matches!(front, Awaiting::BodyEnd { .. }) {
            return Progress::Wait(until, why);
        }
        Progress::Wait(until.min(self.envelope_until), why)
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
