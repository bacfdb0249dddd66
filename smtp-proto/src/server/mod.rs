//! The server's side of a connection: what the client did, one event at a time.
//!
//! The connection owns the order of commands, the framing of lines and bodies, the limits, and the
//! replies that need no decision. The layer above owns every decision: it gets an [`Event`] and
//! answers with a verdict. While a verdict is pending nothing more is decoded, so replies to
//! pipelined commands keep their order.
//!
//! # Calls
//!
//! 1. [`Connection::new`] writes the 220.
//! 2. [`Connection::receive`] takes the octets that came. On [`Progress::Event`] handle the event,
//!    give the verdict if it wants one, and call `receive` again with the rest of the input,
//!    *even if nothing is left of it*: after a BDAT chunk the next event may need no octets.
//! 3. On [`Progress::NeedMore`] flush `wire` and read on.
//! 4. On [`Fatal`] flush `wire` and close.
//!
//! # States
//!
//! ```text
//!                   EHLO, HELO, RSET, a refusal of DATA or BDAT, the end of a body
//!        ┌──────────────────────────────────────────────────────────────────────────────┐
//!        ▼                                                                              │
//!     ┌──────┐ MAIL  ┌──────────┐ DATA ┌──────┐ CRLF.CRLF, end of the LAST chunk        │
//!  ──▶│ Idle │──────▶│ Envelope │─────▶│ Body │─────────────────────────▶ (verdict) ────┤
//!     └┬─┬───┘       └─┬──────▲─┘ BDAT └┬───▲─┘                                         │
//!      │ │             └─RCPT─┘         │   │ BDAT                                      │
//!      │ │AUTH        end of a chunk    │ ┌─┴───────┐                                   │
//!      │ ▼            ┌─────────────────┼▶│ Chunked │                                   │
//!      │ ┌──────────┐ └─────────────────┤ └─────────┘                                   │
//!      │ │ Response │◀─┐                │ bare CR or LF, NUL, too large, reject         │
//!      │ └────────┬─┘  │ challenge      ▼                                               │
//!      │          └────┘           ┌─────────┐ its true end, then the one reply         │
//!      │ STARTTLS                  │ Discard │──────────────────────────────────────────┘
//!      ▼                           └─────────┘
//!  ┌───────────┐ tls_started
//!  │ Handshake │─────────────▶ Idle, and all is forgotten (RFC 3207 §4.2)
//!  └───────────┘
//! ```
//!
//! The envelope has one owner, the state that it is in, and moves with it. Every outcome of DATA,
//! of the LAST BDAT, of RSET, EHLO and STARTTLS drops it, refusals included; then only MAIL opens
//! another.
//!
//! Implements RFC 5321 §3 and §4.1 (commands and their order), RFC 2920 §3.2 (pipelining), RFC 3030
//! §2 (BDAT), RFC 3207 (STARTTLS), RFC 4954 §4 (AUTH).

mod auth;
mod body;
mod config;
mod dispatch;
mod event;
mod hello;
mod mail;
mod rcpt;
mod rejection;
mod respond;

use alloc::borrow::Cow;
use alloc::sync::Arc;
use alloc::vec::Vec;

pub use config::{Config, FutureRelease};
pub use event::{Auth, Event, Fatal, Hello, HelloVerb, Mail, NothingPending, Progress, Rcpt};
pub use rejection::Rejection;

use crate::line::LineReader;
use body::{Body, Chunked, Discard};

/// The server's side of one connection. See the [module](self).
#[derive(Debug)]
pub struct Connection {
    config: Arc<Config>,
    lines: LineReader,
    state: State,
    /// How the client said hello; `None` before it did.
    hello: Option<HelloVerb>,
    tls: bool,
    authenticated: bool,
    /// Why the chunks of the last transaction are refused: those that were sent before the client
    /// saw the refusal get the same one.
    refused: Option<Refusal>,
    errors: u32,
    junk: u32,
}

#[derive(Debug)]
enum State {
    /// No transaction.
    Idle,
    /// MAIL was accepted.
    Envelope(Envelope),
    /// Octets of a body come.
    Body(Body),
    /// Between two chunks of a body.
    Chunked(Chunked),
    /// Octets of a refused body come.
    Discard(Discard),
    /// The answer to a challenge comes.
    Response,
    /// The event waits for its verdict.
    Pending(Pending),
    /// STARTTLS was accepted.
    Handshake,
    Closed,
}

/// What waits for a verdict, and what it holds meanwhile.
#[derive(Debug)]
enum Pending {
    Hello(HelloVerb),
    StartTls,
    Auth,
    XClient,
    Mail(Envelope),
    Rcpt(Envelope),
    Data(Body),
    BodyEnd,
}

/// What the connection must know of a transaction; who writes to whom is known above.
#[derive(Debug)]
struct Envelope {
    smtputf8: bool,
    binary: bool,
    recipients: u32,
}

#[derive(Debug)]
struct Refusal {
    why: Rejection,
    text: Cow<'static, str>,
}

/// What one step made of the start of the input.
enum Step<'i> {
    Event(usize, Event<'i>),
    Go(usize),
    NeedMore(usize),
}

impl Connection {
    /// Begins a connection and writes the 220. RFC 5321 §4.2.
    #[must_use]
    pub fn new(config: &Arc<Config>, wire: &mut Vec<u8>) -> Self {
        let connection = Self {
            config: Arc::clone(config),
            lines: LineReader::new(),
            state: State::Idle,
            hello: None,
            tls: false,
            authenticated: false,
            refused: None,
            errors: 0,
            junk: 0,
        };
        connection.greet(wire);
        connection
    }

    /// Takes in octets up to the next event.
    ///
    /// # Errors
    /// If the connection is over; what there was to say is written.
    pub fn receive<'i>(
        &mut self,
        input: &'i [u8],
        wire: &mut Vec<u8>,
    ) -> Result<Progress<'i>, Fatal> {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            let step = match &self.state {
                State::Closed => return Err(Fatal::Closed),
                State::Handshake | State::Pending(Pending::StartTls) if !rest.is_empty() => {
                    return Err(self.injected(wire));
                }
                State::Handshake | State::Pending(_) => Step::NeedMore(0),
                State::Body(_) => self.body(rest, wire),
                State::Discard(_) => self.discard(rest, wire)?,
                State::Idle | State::Envelope(_) | State::Chunked(_) | State::Response => {
                    self.line(rest, wire)?
                }
            };
            match step {
                Step::Event(more, event) => {
                    used += more;
                    return Ok(Progress::Event { used, event });
                }
                Step::Go(more) => used += more,
                Step::NeedMore(more) => {
                    used += more;
                    return Ok(Progress::NeedMore { used });
                }
            }
        }
    }

    /// Says yes to the pending event. An empty `text` stands for the usual one.
    ///
    /// # Errors
    /// If no event waits for a verdict.
    pub fn accept(&mut self, text: &str, wire: &mut Vec<u8>) -> Result<(), NothingPending> {
        let or = |usual: &'static str| if text.is_empty() { usual } else { text }.trim_end();
        self.state = match self.take_pending()? {
            Pending::Hello(verb) => self.hello_accepted(verb, text, wire),
            Pending::StartTls => {
                respond::success(220, 0, 0, or("Ready to start TLS"), wire);
                State::Handshake
            }
            Pending::Auth => {
                self.authenticated = true;
                respond::success(235, 7, 0, or("Authentication successful"), wire);
                State::Idle
            }
            Pending::XClient => {
                self.start_over();
                self.greet(wire);
                State::Idle
            }
            Pending::Mail(envelope) => {
                respond::success(250, 1, 0, or("Sender ok; send RCPT"), wire);
                State::Envelope(envelope)
            }
            Pending::Rcpt(mut envelope) => {
                envelope.recipients += 1;
                respond::success(250, 1, 5, or("Recipient ok"), wire);
                State::Envelope(envelope)
            }
            Pending::Data(body) => {
                if !body.is_chunked() {
                    respond::plain(354, or("Send the message; end with <CRLF>.<CRLF>"), wire);
                }
                State::Body(body)
            }
            Pending::BodyEnd => {
                self.errors = 0;
                self.junk = 0;
                respond::success(250, 0, 0, or("Ok"), wire);
                State::Idle
            }
        };
        Ok(())
    }

    /// Says no to the pending event, or to the body that is under way. A 421 also ends the
    /// connection.
    ///
    /// # Errors
    /// If no event waits for a verdict, and no body is under way.
    pub fn reject(
        &mut self,
        why: Rejection,
        text: &str,
        wire: &mut Vec<u8>,
    ) -> Result<(), NothingPending> {
        let pending = match core::mem::replace(&mut self.state, State::Closed) {
            // The octets of a chunk come whatever the answer, as those of a body under way.
            State::Pending(Pending::Data(body)) if body.is_chunked() => {
                self.state = State::Discard(body.refuse(Refusal::new(why, text)));
                return Ok(());
            }
            State::Body(body) => {
                self.state = State::Discard(body.refuse(Refusal::new(why, text)));
                return Ok(());
            }
            State::Chunked(_) => {
                self.refused = Some(Refusal::new(why, text));
                self.state = State::Idle;
                return Ok(());
            }
            State::Pending(pending) => pending,
            state @ (State::Idle
            | State::Envelope(_)
            | State::Discard(_)
            | State::Response
            | State::Handshake
            | State::Closed) => {
                self.state = state;
                return Err(NothingPending);
            }
        };
        self.rejected(pending, why);
        self.refuse(why, text, wire);
        Ok(())
    }

    /// Asks the client for the next step of authentication. RFC 4954 §4.
    ///
    /// # Errors
    /// If no step of authentication waits for a verdict.
    pub fn challenge(&mut self, data: &[u8], wire: &mut Vec<u8>) -> Result<(), NothingPending> {
        if !matches!(self.state, State::Pending(Pending::Auth)) {
            return Err(NothingPending);
        }
        auth::write_challenge(data, wire);
        self.state = State::Response;
        Ok(())
    }

    /// Notes that TLS is up, after STARTTLS or from the start, and forgets what was said before.
    ///
    /// RFC 3207 §4.2: "the server MUST discard any knowledge obtained from the client".
    pub fn tls_started(&mut self) {
        self.tls = true;
        self.start_over();
        self.lines = LineReader::new();
        self.state = State::Idle;
    }

    /// Ends the connection from our side, usually with a 421. RFC 5321 §3.8.
    pub fn shut_down(&mut self, why: Rejection, text: &str, wire: &mut Vec<u8>) {
        if !matches!(self.state, State::Closed) {
            respond::rejection(why, text, wire);
            self.state = State::Closed;
        }
    }

    /// Whether an event waits for its verdict.
    #[must_use]
    pub const fn is_pending(&self) -> bool {
        matches!(self.state, State::Pending(_))
    }

    /// Whether what is read now is a body rather than a command: the timers differ. RFC 5321
    /// §4.5.3.2.
    #[must_use]
    pub const fn is_in_body(&self) -> bool {
        matches!(self.state, State::Body(_) | State::Discard(_))
    }

    /// Whether the connection is over: after QUIT, a 421, or a [`Fatal`].
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Whether TLS protects it.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        self.tls
    }

    /// Whether an authentication was accepted.
    #[must_use]
    pub const fn is_authenticated(&self) -> bool {
        self.authenticated
    }
}

impl Connection {
    fn greet(&self, wire: &mut Vec<u8>) {
        respond::plain(220, &alloc::format!("{} ESMTP", self.config.hostname), wire);
    }

    /// Forgets what the client said.
    fn start_over(&mut self) {
        self.hello = None;
        self.authenticated = false;
        self.refused = None;
    }

    fn take_pending(&mut self) -> Result<Pending, NothingPending> {
        if !self.is_pending() {
            return Err(NothingPending);
        }
        match core::mem::replace(&mut self.state, State::Closed) {
            State::Pending(pending) => Ok(pending),
            State::Idle
            | State::Envelope(_)
            | State::Body(_)
            | State::Chunked(_)
            | State::Discard(_)
            | State::Response
            | State::Handshake
            | State::Closed => Err(NothingPending),
        }
    }

    /// Where a refusal leaves the connection, and what it counts for.
    fn rejected(&mut self, pending: Pending, why: Rejection) {
        self.state = match pending {
            Pending::Hello(_)
            | Pending::StartTls
            | Pending::Auth
            | Pending::XClient
            | Pending::Mail(_) => {
                self.junk += 1;
                State::Idle
            }
            Pending::Rcpt(envelope) => {
                // RFC 5321 §4.5.3.1.10: a client may well run into 452s, one for each recipient.
                self.junk += u32::from(!why.is_transient());
                State::Envelope(envelope)
            }
            Pending::Data(_) | Pending::BodyEnd => State::Idle,
        };
    }

    /// Writes a refusal, which ends the connection if it is a 421.
    fn refuse(&mut self, why: Rejection, text: &str, wire: &mut Vec<u8>) {
        respond::rejection(why, text, wire);
        if why.code().number() == 421 {
            self.state = State::Closed;
        }
    }

    /// Refuses a command by itself.
    fn error(&mut self, why: Rejection, text: &str, wire: &mut Vec<u8>) {
        self.errors += 1;
        self.refuse(why, text, wire);
    }

    /// 503, with what to do instead. RFC 5321 §4.1.4.
    fn out_of_order(&mut self, text: &str, wire: &mut Vec<u8>) {
        self.error(Rejection::permanent(503, 5, 1), text, wire);
    }
}

impl Refusal {
    fn new(why: Rejection, text: &str) -> Self {
        let text = Cow::Owned(text.into());
        Self { why, text }
    }
}
