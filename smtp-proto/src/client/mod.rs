//! The client side of an SMTP or LMTP connection, without IO.
//!
//! [`Connection`] owns the order of things: what may be sent when, what was sent and not yet answered,
//! and what each reply answers. It decides nothing: whether a refusal bounces a message, whether to
//! insist on TLS and when to give up is its caller's.
//!
//! ```text
//!             220               hello 250               mail              data, then 354
//!  Greeting ───────▶ Connected ───────────▶ Ready ────────────▶ Envelope ───────────────▶ Body
//!     │                  ▲                  │  ▲ ▲                │    │                    │
//!     │ 4yz, 5yz         │ tls_started      │  │ └── MAIL refused │    │ bdat               │ body_end
//!     ▼                  │                  │  │ └── reset ───────┘    ▼                    │
//!  Closing ◀─ 421   Handshake ◀── 220 ──────┤  │                     Chunk ⇄ Chunked        │
//!     │ quit                     start_tls  │  │                       │                    │
//!     ▼                                     │  └─── all of BDAT LAST ──┴────────────────────┘
//!   Closed ◀────────────────────── quit ────┤
//!                                           └─ auth ─ 334 ▶ Challenged ─ 235, 4yz, 5yz ▶ Ready
//! ```
//!
//! The states say what was *sent*; replies come later, and the queue of [`Awaiting`] says which. A
//! whole transaction, pipelined:
//!
//! ```text
//!  caller                       wire                       replies               events
//!  mail, rcpt, rcpt, data   ▶   MAIL RCPT RCPT DATA    ▶   250 250 550 354   ▶   Mail, Rcpt 0, Rcpt 1, Data
//!  body, body_end           ▶   text CRLF.CRLF         ▶   250               ▶   BodyEnd
//! ```
//!
//! # The caller's part
//!
//! 1. Hand every received byte to [`Connection::receive`], until it says [`Progress::NeedMore`],
//!    *before* sending anything: a reply that was there before its command is then seen as the
//!    forgery or confusion that it is.
//! 2. Send while [`Connection::can_send`]; on [`SendError::NotYet`] or [`SendError::BurstFull`] wait for
//!    replies and go on.
//! 3. Look at every reply. RFC 2920 §3.1: a DATA may be answered 354 though every recipient was refused;
//!    then [`Connection::body_end`] is called without any [`Connection::body`], which sends the dot alone.
//! 4. After [`Connection::is_closing`] nothing more will come of the connection: what is still awaited
//!    counts as answered by the reply that closed it.
//!
//! `examples/send.rs` is a whole client over a `TcpStream` in one loop.
//!
//! RFC 5321 §3, §4.1 to §4.3 (the session); RFC 2920 (pipelining); RFC 3030 (BDAT); RFC 3207 §4 (STARTTLS);
//! RFC 4954 §4 (AUTH); RFC 2033 (LMTP).

use alloc::vec::Vec;

use crate::code::{Code, Severity};
use crate::dot::DotEncoder;
use crate::extension::Extension;
use crate::reply::{HELLO_LINES_MAX, LINES_MAX, Reply, ReplyReader};

mod capabilities;
mod commands;
mod error;
mod pipeline;

pub use capabilities::Capabilities;
pub use error::{Fatal, SendError};
pub use pipeline::{Awaiting, BURST_MAX, COMMANDS_MAX, Hello};
use pipeline::{Pipeline, Sent};

/// A client connection. See the module for its states and for the caller's part.
#[derive(Debug)]
pub struct Connection {
    phase: Phase,
    pipeline: Pipeline,
    reader: ReplyReader,
    capabilities: Capabilities,
    /// LHLO was accepted: a body end is answered once for each recipient.
    lmtp: bool,
    authenticated: bool,
    /// The server said that it closes the connection.
    given_up: bool,
    /// Bytes of a reply came while nothing was awaited. The reply that they belong to answers nothing,
    /// whatever was sent before it was whole.
    unsolicited: bool,
    envelope: Envelope,
    fatal: Option<Fatal>,
}

/// What may be sent next, as far as it does not depend on replies that are still out.
#[derive(Debug)]
enum Phase {
    /// Nothing: the server speaks first.
    Greeting,
    /// A hello.
    Connected,
    /// MAIL, and all that changes the session.
    Ready,
    /// The response to an AUTH challenge.
    Challenged,
    /// Nothing before the TLS handshake is through.
    Handshake,
    /// RCPT, DATA, BDAT.
    Envelope,
    /// The bytes of a chunk.
    Chunk {
        left: u64,
        last: bool,
        newlines: Newlines,
    },
    /// The next BDAT.
    Chunked,
    /// The body of DATA.
    Body(DotEncoder),
    /// RSET: the transaction failed half-way through its chunks.
    Spoilt,
    /// QUIT and nothing else.
    Closing,
    /// Nothing.
    Closed,
}

/// What is known of the current transaction.
#[derive(Debug, Default)]
struct Envelope {
    /// The number of the newest transaction that MAIL began.
    transaction: u64,
    /// How many RCPTs it sent.
    rcpts: usize,
    /// Addresses may be in UTF-8.
    smtp_utf8: bool,
    /// The body may be anything, bare CR and LF included.
    binary: bool,
    /// Whether the newest answered MAIL was accepted.
    open: bool,
    /// Which RCPTs of the newest answered MAIL were accepted.
    accepted: Vec<usize>,
}

/// Whether a chunk keeps to CRLF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Newlines {
    /// The byte before was a CR.
    AfterCr,
    /// The byte before was another one.
    Text,
    /// BODY=BINARYMIME: any byte may follow any other.
    Any,
}

/// How far [`Connection::receive`] came.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// Something happened. The input after `used` bytes is not looked at yet: hand it in again.
    Event {
        /// How many bytes of the input were taken.
        used: usize,
        /// What happened.
        event: Event,
    },
    /// Nothing more happens before there is more input.
    NeedMore {
        /// How many bytes of the input were taken: all.
        used: usize,
    },
}

/// What the server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A reply, and what it answers. A 421 is one too; then [`Connection::is_closing`] is true, unless
    /// it answers RCPT.
    Reply {
        /// What it answers.
        answers: Awaiting,
        /// The reply.
        reply: Reply,
    },
    /// A 4yz or 5yz that answers nothing: the server gives the connection up, be it idle or in the
    /// middle of a body. [`Connection::is_closing`] is true.
    Closing {
        /// Why, in the server's words.
        reply: Reply,
    },
}

impl Default for Connection {
    fn default() -> Self {
        Self::new()
    }
}

impl Connection {
    /// A connection that was just opened and awaits the greeting.
    pub fn new() -> Self {
        Self {
            phase: Phase::Greeting,
            pipeline: Pipeline::new(),
            reader: ReplyReader::new(),
            capabilities: Capabilities::default(),
            lmtp: false,
            authenticated: false,
            given_up: false,
            unsolicited: false,
            envelope: Envelope::default(),
            fatal: None,
        }
    }

    /// Takes bytes from the server, up to the end of one reply.
    ///
    /// The events are the same however the bytes are cut, with one exception: of a 220 to STARTTLS that
    /// text follows there is no event if the two come together, only the [`Fatal::BeforeTls`]. After an
    /// error every call gives it again.
    pub fn receive(&mut self, input: &[u8]) -> Result<Progress, Fatal> {
        if let Some(why) = self.fatal {
            return Err(why);
        }
        let progress = self.read(input);
        if let Err(why) = progress {
            self.fatal = Some(why);
        }
        progress
    }

    /// What was offered in the last reply to EHLO or LHLO.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// What is sent and not yet answered, the oldest first. The greeting counts as sent.
    pub fn awaiting(&self) -> impl Iterator<Item = Awaiting> + '_ {
        self.pipeline.iter()
    }

    /// Whether a RCPT, or another command that may stand in a burst, may be sent before the next reply.
    pub fn can_send(&self) -> bool {
        let command = Awaiting::Rcpt { index: 0 };
        !matches!(self.phase, Phase::Closing | Phase::Closed)
            && self.fatal.is_none()
            && self
                .pipeline
                .admits(command, 0, self.capabilities.has(Extension::Pipelining))
                .is_ok()
    }

    /// Whether the server gave the connection up: by a 421 to anything but RCPT, by a refusing greeting,
    /// in the middle of a body, or by breaking the protocol.
    ///
    /// Replies that were on their way may still come and are still given; nothing but QUIT can be sent.
    pub fn is_closing(&self) -> bool {
        self.given_up || self.fatal.is_some()
    }

    /// Whether the server accepted an AUTH.
    pub fn is_authenticated(&self) -> bool {
        self.authenticated
    }

    /// Which RCPTs of the newest answered MAIL were accepted, by their index.
    pub fn accepted(&self) -> &[usize] {
        &self.envelope.accepted
    }

    /// The TLS handshake that [`Connection::start_tls`] asked for is through: only a hello may follow.
    ///
    /// RFC 3207 §4.2: "the client MUST discard any knowledge obtained from the server".
    pub fn tls_started(&mut self) {
        debug_assert!(
            matches!(self.phase, Phase::Handshake),
            "TLS started unasked"
        );
        *self = Self {
            phase: Phase::Connected,
            ..Self::new()
        };
        self.pipeline.pop();
    }

    fn read(&mut self, input: &[u8]) -> Result<Progress, Fatal> {
        if matches!(self.phase, Phase::Handshake) && !input.is_empty() {
            return Err(Fatal::BeforeTls);
        }
        self.unsolicited |= self.pipeline.is_empty() && !input.is_empty();
        let lines_max = match self.pipeline.front().map(|sent| sent.awaiting) {
            Some(Awaiting::Hello(_)) => HELLO_LINES_MAX,
            Some(_) | None => LINES_MAX,
        };
        let (used, reply) = self
            .reader
            .receive(input, lines_max)
            .map_err(Fatal::Malformed)?;
        let Some(reply) = reply else {
            return Ok(Progress::NeedMore { used });
        };
        let event = match self.pipeline.front() {
            Some(sent) if !self.unsolicited => self.answer(sent, reply)?,
            Some(_) | None => self.give_up(reply)?,
        };
        if used < input.len() {
            if matches!(self.phase, Phase::Handshake) {
                return Err(Fatal::BeforeTls);
            }
            self.unsolicited |= self.pipeline.is_empty();
        }
        Ok(Progress::Event { used, event })
    }

    /// A reply that answers nothing.
    fn give_up(&mut self, reply: Reply) -> Result<Event, Fatal> {
        match reply.severity() {
            Severity::Transient | Severity::Permanent => {}
            Severity::Success | Severity::Intermediate => {
                return Err(Fatal::Unsolicited(reply.code()));
            }
        }
        self.close();
        Ok(Event::Closing { reply })
    }

    /// A reply to the oldest entry of the queue.
    fn answer(&mut self, sent: Sent, reply: Reply) -> Result<Event, Fatal> {
        let answers = sent.awaiting;
        let severity = reply.severity();
        let early = severity == Severity::Success && self.is_unfinished(sent);
        if early || !expected(answers, reply.code()) {
            return Err(Fatal::Unexpected {
                answers,
                code: reply.code(),
            });
        }
        self.pipeline.pop();
        match severity {
            Severity::Success => self.succeeded(sent, &reply),
            Severity::Intermediate => self.go_on(answers),
            Severity::Transient | Severity::Permanent => self.failed(sent),
        }
        // RFC 5321 §3.8: a server that must shut down sends 421 in the place of any reply. To RCPT it is
        // met as "not this recipient now" from servers that go on; one that means it closes.
        if reply.code().number() == 421 && !matches!(answers, Awaiting::Rcpt { .. }) {
            self.close();
        }
        self.split_body_end();
        Ok(Event::Reply { answers, reply })
    }

    /// Whether it is the chunk that is still being sent. Nothing was queued behind that.
    fn is_unfinished(&self, sent: Sent) -> bool {
        let newest = sent.transaction == self.envelope.transaction;
        matches!(self.phase, Phase::Chunk { .. })
            && match sent.awaiting {
                Awaiting::Chunk => self.pipeline.len() == 1,
                Awaiting::BodyEnd { .. } => newest,
                Awaiting::Greeting | Awaiting::Hello(_) | Awaiting::StartTls | Awaiting::Auth => {
                    false
                }
                Awaiting::XClient => false,
                Awaiting::Mail | Awaiting::Rcpt { .. } | Awaiting::Data | Awaiting::Reset => false,
                Awaiting::Noop | Awaiting::Quit => false,
            }
    }

    fn succeeded(&mut self, sent: Sent, reply: &Reply) {
        match sent.awaiting {
            Awaiting::Greeting => self.enter(Phase::Connected),
            Awaiting::Hello(verb) => {
                self.capabilities = match verb {
                    Hello::Ehlo | Hello::Lhlo => Capabilities::parse(reply),
                    Hello::Helo => Capabilities::default(),
                };
                self.lmtp = verb == Hello::Lhlo;
                self.enter(Phase::Ready);
            }
            Awaiting::StartTls => self.enter(Phase::Handshake),
            Awaiting::XClient => {
                self.capabilities = Capabilities::default();
                self.authenticated = false;
                self.enter(Phase::Connected);
            }
            Awaiting::Auth => {
                self.authenticated = true;
                self.enter(Phase::Ready);
            }
            Awaiting::Mail => self.envelope.answered(true),
            Awaiting::Rcpt { index } if self.envelope.open => self.envelope.accepted.push(index),
            Awaiting::Rcpt { .. } | Awaiting::Data | Awaiting::Chunk | Awaiting::BodyEnd { .. } => {
            }
            Awaiting::Reset | Awaiting::Noop | Awaiting::Quit => {}
        }
    }

    /// A 3yz, which only these two have.
    fn go_on(&mut self, answers: Awaiting) {
        if answers == Awaiting::Data {
            self.enter(Phase::Body(DotEncoder::new()));
        } else {
            self.enter(Phase::Challenged);
        }
    }

    fn failed(&mut self, sent: Sent) {
        let newest = sent.transaction == self.envelope.transaction;
        match sent.awaiting {
            Awaiting::Greeting => self.close(),
            Awaiting::Auth => self.enter(Phase::Ready),
            Awaiting::Mail => {
                self.envelope.answered(false);
                if newest && matches!(self.phase, Phase::Envelope) {
                    self.enter(Phase::Ready);
                }
                if newest && matches!(self.phase, Phase::Chunked) {
                    self.enter(Phase::Spoilt);
                }
            }
            // RFC 3030 §2, of a failed BDAT: "A RSET command MUST be issued to clear the transaction".
            Awaiting::Chunk if newest && matches!(self.phase, Phase::Chunked) => {
                self.enter(Phase::Spoilt);
            }
            // The state of the server is anybody's guess.
            Awaiting::Reset => self.close(),
            // RFC 5321 §4.1.4: a command that fails leaves the state as it was.
            Awaiting::Hello(_) | Awaiting::StartTls | Awaiting::XClient => {}
            Awaiting::Rcpt { .. } | Awaiting::Data => {}
            Awaiting::Chunk | Awaiting::BodyEnd { .. } | Awaiting::Noop | Awaiting::Quit => {}
        }
    }

    /// Changes the phase, but for one that is never left.
    fn enter(&mut self, phase: Phase) {
        if !matches!(self.phase, Phase::Closing | Phase::Closed) {
            self.phase = phase;
        }
    }

    /// The server gave up: QUIT may still be said, unless it would be read as a part of a body.
    fn close(&mut self) {
        self.given_up = true;
        let mid_body = matches!(self.phase, Phase::Body(_) | Phase::Chunk { .. });
        self.enter(if mid_body {
            Phase::Closed
        } else {
            Phase::Closing
        });
    }

    fn split_body_end(&mut self) {
        if self.lmtp {
            self.pipeline.split_body_end(&self.envelope.accepted);
        }
    }
}

impl Envelope {
    /// A MAIL was answered: what is accepted from now on belongs to it.
    fn answered(&mut self, open: bool) {
        self.open = open;
        self.accepted.clear();
    }
}

/// Whether a command has replies of this kind. RFC 5321 §4.3.2.
///
/// Codes are judged by their first digit, as §4.2.1 asks, with one exception: a 221 says that the
/// connection is given up, so it is a success of nothing but QUIT.
fn expected(answers: Awaiting, code: Code) -> bool {
    match (code.severity(), answers) {
        (Severity::Transient | Severity::Permanent, _) => true,
        (Severity::Intermediate, Awaiting::Data | Awaiting::Auth) => true,
        (Severity::Intermediate, _) => false,
        (Severity::Success, Awaiting::Data) => false,
        (Severity::Success, Awaiting::Quit) => true,
        (Severity::Success, _) => code.number() != 221,
    }
}

#[cfg(test)]
mod tests;
