//! The demo's application: a machine that submits mail over TLS with AUTH, one message after the other on
//! one connection.
//!
//! ```text
//!  greeting ─▶ EHLO ─▶ STARTTLS ─▶ EHLO ─▶ AUTH ─▶ ┌ next mail ─▶ MAIL RCPT DATA ─▶ body ┐ ─▶ QUIT
//!                 └── (implicit TLS) ──────▶       └───────────────────◀─────────────────┘
//! ```

use std::sync::Arc;
use std::time::Duration;

use relay_core::channel::{Channel, ClientTls, TlsFailure, Verify};
use relay_core::machine::{Input, Machine, Output, Timer};
use relay_core::time::{Instant, Now};
use smtp_proto::client::{Awaiting, Connection, Event, Hello, Progress, SendError};
use smtp_proto::{ForwardPath, Host, MailParams, Mechanism, RcptParams, ReversePath, Severity};

/// How long the relay has for a reply.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whom the senders greet, and whose certificate they insist on.
pub(super) const RELAY: &str = "relay.example";

/// A message to submit.
#[derive(Debug, Clone)]
pub(super) struct Mail {
    pub(super) from: ReversePath,
    pub(super) to: ForwardPath,
    pub(super) text: Vec<u8>,
}

/// How a sender gets in.
#[derive(Debug, Clone)]
pub(super) struct Access {
    pub(super) tls: Arc<ClientTls>,
    /// TLS from the first octet, instead of STARTTLS.
    pub(super) implicit: bool,
    pub(super) name: String,
    pub(super) secret: String,
}

/// Asks for the next message; none to end.
#[derive(Debug)]
pub(super) struct NextMail;

/// One connection to the relay.
#[derive(Debug)]
pub(super) struct Sending {
    smtp: Connection,
    channel: Channel,
    access: Access,
    state: State,
    mail: Option<Mail>,
    wire: Vec<u8>,
    until: Instant,
    /// Why it ended, if not because all was sent.
    failed: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    /// The next message is wanted.
    Idle,
    Asking,
    Closed,
}

impl Sending {
    pub(super) fn new(access: Access, now: Now) -> Self {
        let mut sending = Self {
            smtp: Connection::new(),
            channel: Channel::plain(),
            access,
            state: State::Reading,
            mail: None,
            wire: Vec::new(),
            until: now.instant + PATIENCE,
            failed: None,
        };
        if sending.access.implicit {
            sending.start_tls(now);
        }
        sending
    }

    /// Why it ended, if not because all was sent.
    pub(super) fn failed(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    fn start_tls(&mut self, now: Now) {
        let tls = &self.access.tls;
        let started = self
            .channel
            .start_client(tls, Verify::Roots, RELAY, now.unix);
        self.check(started.map_err(|failure: TlsFailure| failure.to_string()));
        self.channel.flush(&mut self.wire);
    }

    fn receive(&mut self, now: Now, bytes: &[u8]) {
        let handshaking = self.channel.handshaking();
        let mut scratch = Vec::new();
        let text = match self.channel.receive(bytes, &mut scratch) {
            Ok(text) => text.to_vec(),
            Err(failure) => {
                self.channel.flush(&mut self.wire);
                return self.fail(failure.to_string());
            }
        };
        self.channel.flush(&mut self.wire);
        if handshaking && !self.channel.handshaking() && !self.access.implicit {
            self.smtp.tls_started();
            self.send(|smtp, wire| smtp.hello(Hello::Ehlo, &own_name(), wire));
        }
        let mut rest = &text[..];
        while self.state == State::Reading {
            match self.smtp.receive(rest) {
                Ok(Progress::Event { used, event }) => {
                    rest = &rest[used..];
                    self.event(now, event);
                }
                Ok(Progress::NeedMore { .. }) => return,
                Err(fatal) => self.fail(fatal.to_string()),
            }
        }
    }

    fn event(&mut self, now: Now, event: Event) {
        let (answers, reply) = match event {
            Event::Reply { answers, reply } => (answers, reply),
            Event::Closing { reply } => return self.fail(reply.to_string()),
        };
        match (reply.severity(), answers) {
            (_, Awaiting::Quit) => {
                self.channel.close(&mut self.wire);
                self.state = State::Closed;
            }
            (Severity::Transient | Severity::Permanent, _) => {
                self.fail(format!("{answers:?} was answered: {reply}"));
            }
            (_, Awaiting::Greeting) => {
                self.send(|smtp, wire| smtp.hello(Hello::Ehlo, &own_name(), wire));
            }
            (_, Awaiting::Hello(_)) if !self.channel.is_tls() => {
                self.send(Connection::start_tls);
            }
            (_, Awaiting::StartTls) => self.start_tls(now),
            (_, Awaiting::Hello(_)) => {
                let login = format!("\0{}\0{}", self.access.name, self.access.secret);
                self.send(|smtp, wire| smtp.auth(Mechanism::Plain, Some(login.as_bytes()), wire));
            }
            (_, Awaiting::Auth | Awaiting::BodyEnd { .. }) => self.state = State::Idle,
            (_, Awaiting::Data) => {
                let mail = self.mail.take();
                self.send(|smtp, wire| {
                    smtp.body(&mail.map(|mail| mail.text).unwrap_or_default(), wire)?;
                    smtp.body_end(wire)
                });
            }
            (_, Awaiting::Mail | Awaiting::Rcpt { .. }) => {}
            (_, Awaiting::Chunk | Awaiting::Reset | Awaiting::Noop | Awaiting::XClient) => {}
        }
    }

    /// MAIL, RCPT and DATA in one burst.
    fn submit(&mut self, mail: Mail) {
        let mail = self.mail.insert(mail).clone();
        self.send(|smtp, wire| {
            smtp.mail(&mail.from, &MailParams::default(), wire)?;
            smtp.rcpt(&mail.to, &RcptParams::default(), wire)?;
            smtp.data(wire)
        });
    }

    fn send(&mut self, say: impl FnOnce(&mut Connection, &mut Vec<u8>) -> Result<(), SendError>) {
        let mut text = Vec::new();
        let said = say(&mut self.smtp, &mut text);
        self.channel.send(&text, &mut self.wire);
        self.check(said.map_err(|error| error.to_string()));
    }

    fn check(&mut self, result: Result<(), String>) {
        if let Err(why) = result {
            self.fail(why);
        }
    }

    fn fail(&mut self, why: String) {
        self.failed.get_or_insert(why);
        self.state = State::Closed;
    }
}

fn own_name() -> Host {
    Host::Literal(smtp_proto::AddressLiteral::from(std::net::IpAddr::from([
        127, 0, 0, 1,
    ])))
}

impl Machine for Sending {
    type Request = NextMail;
    type Answer = Option<Mail>;

    fn handle_input(&mut self, now: Now, input: Input<'_, Option<Mail>>) {
        self.until = now.instant + PATIENCE;
        match input {
            Input::Bytes(bytes) => self.receive(now, bytes),
            Input::Answer(mail) => {
                self.state = State::Reading;
                match mail {
                    Some(mail) => self.submit(mail),
                    None => self.send(Connection::quit),
                }
            }
            Input::Timeout => self.fail("the relay did not answer".into()),
            Input::Closed(_) => self.fail("the relay closed the connection".into()),
            Input::WriteFailed(kind) => self.fail(format!("the connection broke: {kind}")),
        }
    }

    fn poll_output(&mut self, wire: &mut Vec<u8>) -> Output<NextMail> {
        wire.append(&mut self.wire);
        match self.state {
            State::Reading | State::Asking => Output::Read {
                until: self.until,
                why: Timer::Command,
            },
            State::Idle => {
                self.state = State::Asking;
                Output::Request(NextMail)
            }
            State::Closed => Output::Close,
        }
    }
}
