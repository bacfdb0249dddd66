//! Submission without a connection: a program that embeds the relay hands a message over.
//!
//! It goes through the same checks as one that comes by SMTP: the sender's addresses, the header block,
//! the limits, loops. [`Handover`] is the way of one message, as a machine without a connection:
//!
//! ```text
//!  Ask::Mail ──id──▶ prepare ─┬─ large: Spool ─▶ Ask::Submit ──Queued──▶ Done(Ok)
//!      │                      └────────────────────▲   │
//!      │ refused                refused: Abandon ──┴───┴── refused: Unspool ──▶ Done(Err)
//!      └──▶ Done(Err)
//! ```
//!
//! RFC 6409 §6 and §8.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use smtp_proto::server::Rejection;
use smtp_proto::{BodyType, MailParams, Mailbox, ReversePath};

use super::body::{HeaderFilter, Received};
use super::content::{Content, Sender, Transaction};
use super::envelope::{check_recipient, check_sender, refuse};
use super::transfer::store_failed;
use super::{Answer, Request};
use crate::config::{Config, Credential};
use crate::engine::{self, Ask, Refusal, Submission};
use crate::id::MessageId;
use crate::queue::message::{Origin, Recipient};
use crate::time::Now;

/// A message that a program hands over.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Who sends it; none for the program itself, which may send as anybody.
    pub credential: Option<Arc<Credential>>,
    /// The reverse-path.
    pub from: ReversePath,
    /// RET, ENVID, SMTPUTF8, BODY, and how it is to be handled; the default says nothing.
    pub params: MailParams,
    /// The recipients, at least one.
    pub recipients: Vec<Recipient>,
    /// Header fields, an empty line, the body. Lines may end in LF: each is made to end in CRLF, unless
    /// `params` say BINARYMIME.
    pub message: Vec<u8>,
}

impl Draft {
    /// A message of the program itself; failures are reported to `from`.
    #[must_use]
    pub fn new(
        from: Mailbox,
        to: impl IntoIterator<Item = Mailbox>,
        message: impl Into<Vec<u8>>,
    ) -> Self {
        let recipient = |to| Recipient {
            to,
            notify: None,
            orcpt: None,
        };
        Self {
            credential: None,
            from: ReversePath::Mailbox(from),
            params: MailParams::default(),
            recipients: to.into_iter().map(recipient).collect(),
            message: message.into(),
        }
    }
}

/// What a handover wants next.
#[derive(Debug)]
pub enum Step {
    /// Carry this out as for a session, and hand the answer to [`Handover::answer`].
    Request(Request),
    /// It is over: the message is on stable storage, or nothing of it is kept.
    Done(Result<MessageId, Refusal>),
}

/// A message on its way from a program to the queue.
#[derive(Debug)]
pub struct Handover {
    config: Arc<Config>,
    /// What is still to be done, the next first.
    next: VecDeque<Request>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The engine was asked for an id.
    Admission(Draft),
    /// A large message goes to the spool.
    Spooling(MessageId, Box<Submission>),
    /// The engine was asked to keep it; whether some of it is in the spool.
    Submitting(MessageId, bool),
    /// What is left is to clean up.
    Over(Result<MessageId, Refusal>),
}

impl Handover {
    /// A message that is to be handed over under this configuration.
    #[must_use]
    pub fn new(config: Arc<Config>, draft: Draft) -> Self {
        let credential = draft.credential.as_ref();
        let ask = Ask::Mail {
            credential: credential.map_or(String::new(), |credential| credential.name.clone()),
            from: draft.from.clone(),
            size: Some(draft.message.len() as u64),
        };
        Self {
            config,
            next: VecDeque::from([Request::Engine(ask)]),
            state: State::Admission(draft),
        }
    }

    /// The next thing to do. Between a request and its answer it is not called.
    pub fn poll(&mut self) -> Step {
        match (self.next.pop_front(), &self.state) {
            (Some(request), _) => Step::Request(request),
            (None, State::Over(result)) => Step::Done(result.clone()),
            (None, State::Admission(_) | State::Spooling(..) | State::Submitting(..)) => {
                Step::Done(Err(confused()))
            }
        }
    }

    /// The answer to the last request.
    pub fn answer(&mut self, now: Now, answer: Answer) {
        let state = std::mem::replace(&mut self.state, State::Over(Err(internal())));
        self.state = match (state, answer) {
            (State::Admission(draft), Answer::Engine(engine::Answer::Mail { id, .. })) => {
                self.admitted(draft, id, now)
            }
            (State::Spooling(id, submission), Answer::Spooled(Ok(()))) => {
                self.submit(id, submission, true)
            }
            (State::Spooling(id, _), Answer::Spooled(Err(failed))) => {
                self.next.push_back(Request::Unspool(id));
                self.next.push_back(Request::Engine(Ask::Abandon(id)));
                State::Over(Err(store_failed(&failed)))
            }
            (State::Submitting(..), Answer::Engine(engine::Answer::Queued(id))) => {
                State::Over(Ok(id))
            }
            (State::Submitting(id, spooled), Answer::Engine(engine::Answer::Refused(refusal))) => {
                if spooled {
                    self.next.push_back(Request::Unspool(id));
                }
                State::Over(Err(refusal))
            }
            (State::Admission(_), Answer::Engine(engine::Answer::Refused(refusal))) => {
                State::Over(Err(refusal))
            }
            (State::Over(result), _) => State::Over(result),
            (
                State::Admission(_) | State::Spooling(..) | State::Submitting(..),
                Answer::Engine(_)
                | Answer::Spooled(_)
                | Answer::Checked(_)
                | Answer::Resolved(_)
                | Answer::Done,
            ) => State::Over(Err(confused())),
        };
    }

    fn admitted(&mut self, draft: Draft, id: MessageId, now: Now) -> State {
        match prepare(&self.config, draft, id, now) {
            Ok(Prepared {
                spool: Some(bytes),
                submission,
            }) => {
                self.next.push_back(Request::Spool(id, bytes));
                State::Spooling(id, submission)
            }
            Ok(Prepared {
                spool: None,
                submission,
            }) => self.submit(id, submission, false),
            Err(refusal) => {
                self.next.push_back(Request::Engine(Ask::Abandon(id)));
                State::Over(Err(refusal))
            }
        }
    }

    fn submit(&mut self, id: MessageId, submission: Box<Submission>, spooled: bool) -> State {
        self.next
            .push_back(Request::Engine(Ask::Submit(submission)));
        State::Submitting(id, spooled)
    }
}

/// The runtime answered what was not asked: a bug of ours.
fn confused() -> Refusal {
    debug_assert!(false, "each request is followed by its answer");
    internal()
}

fn internal() -> Refusal {
    refuse(Rejection::LOCAL_ERROR, "Internal error".into())
}

/// A message that is in order.
#[derive(Debug)]
pub struct Prepared {
    /// What goes to the spool before the submission: all of the message, if it is large.
    pub spool: Option<Bytes>,
    /// What the engine is asked to keep.
    pub submission: Box<Submission>,
}

/// Checks a message and writes the relay's header fields above it.
///
/// # Errors
/// The refusal that a client would get by SMTP.
pub fn prepare(
    config: &Config,
    draft: Draft,
    id: MessageId,
    now: Now,
) -> Result<Prepared, Refusal> {
    let origin = Origin {
        credential: draft
            .credential
            .as_ref()
            .map(|credential| credential.name.clone()),
        peer: None,
    };
    let credential = draft
        .credential
        .unwrap_or_else(|| Arc::new(Credential::new("")));
    check_sender(&credential, &draft.from)?;
    check_recipients(&draft.recipients, config)?;
    let binary = draft.params.body == Some(BodyType::BinaryMime);
    let message = if binary {
        Cow::Borrowed(draft.message.as_slice())
    } else {
        with_crlf(&draft.message)
    };
    let size_max = config.limits.message_size;
    if message.len() as u64 > size_max {
        let text = format!("Message too large; the limit is {size_max} octets");
        return Err(refuse(Rejection::TOO_LARGE, text));
    }
    let sender = Sender::User(credential);
    let mut transaction = Transaction::new(id, draft.from, draft.params, sender, now.unix);
    transaction.recipients = draft.recipients;
    let received = Received {
        helo: "",
        peer: None,
        hostname: &config.hostname,
        id,
        extended: true,
        tls: None,
        authenticated: false,
        smtputf8: transaction.params.smtputf8,
        recipient: None,
        time: now.unix,
    };
    let size = Some(message.len() as u64);
    let filter = HeaderFilter::submission(&config.hostname);
    let mut content = Content::new(size, transaction.room, filter);
    content.push(&message, &transaction, &received, config)?;
    let spilled = content.spill();
    let (last, submission) = content.finish(&transaction, origin, &received, config)?;
    let spool = match (spilled, last) {
        (Some(spilled), Some(last)) => Some([spilled, last].concat().into()),
        (spilled, last) => spilled.or(last),
    };
    Ok(Prepared { spool, submission })
}

fn check_recipients(recipients: &[Recipient], config: &Config) -> Result<(), Refusal> {
    if recipients.is_empty() {
        let why = Rejection::permanent(554, 5, 1);
        return Err(refuse(why, "The message has no recipient".into()));
    }
    if recipients.len() > config.limits.recipients {
        let text = format!(
            "More than {} recipients; send the rest apart",
            config.limits.recipients
        );
        return Err(refuse(Rejection::TOO_MANY_RECIPIENTS, text));
    }
    recipients
        .iter()
        .try_for_each(|recipient| check_recipient(&recipient.to, config))
}

/// Each CR or LF that stands alone becomes CRLF, and the last line is ended. RFC 5321 §2.3.8.
fn with_crlf(message: &[u8]) -> Cow<'_, [u8]> {
    let ends = memchr::memchr2_iter(b'\r', b'\n', message);
    let is_bare = |at: usize| match message[at] {
        b'\r' => message.get(at + 1) != Some(&b'\n'),
        _ => at == 0 || message[at - 1] != b'\r',
    };
    let mut bare = ends.filter(|&at| is_bare(at)).peekable();
    if bare.peek().is_none() {
        return Cow::Borrowed(message);
    }
    let mut text = Vec::with_capacity(message.len() + message.len() / 32);
    let mut from = 0;
    for at in bare {
        text.extend_from_slice(&message[from..at]);
        text.extend_from_slice(b"\r\n");
        from = at + 1;
    }
    text.extend_from_slice(&message[from..]);
    Cow::Owned(text)
}
