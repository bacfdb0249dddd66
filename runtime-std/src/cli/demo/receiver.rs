//! A receiver as a machine: the server connection of `smtp_proto` under a `Channel`, with manners.
//!
//! ```text
//!  bytes ─▶ Channel ─▶ server::Connection ─▶ event ─▶ manners: accept, reject, pause, hang up
//! ```
//!
//! The same loop drives it that drives the relay's own connections.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use relay_core::channel::{Channel, ServerTls};
use relay_core::machine::{Input, Machine, Output, Timer};
use relay_core::time::{Instant, Now};
use smtp_proto::server::{Config, Connection, Event, Progress, Rejection};

use super::kinds::{HOME, Kind};

/// How long a client may be silent.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a greylisting receiver wants a client to wait.
const GREY: Duration = Duration::from_secs(2);

/// How long the slow receiver thinks.
const THOUGHT: Duration = Duration::from_millis(400);

/// A report is looked at up to here.
const REPORT_MAX: usize = 64 * 1024;

/// One receiving host: what its connections share.
#[derive(Debug)]
pub(super) struct Host {
    kind: Kind,
    config: Arc<Config>,
    tls: Arc<ServerTls>,
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    /// When a recipient was first asked for.
    known: BTreeMap<String, Instant>,
    /// Reports that came back, by the kind that they are about.
    reports: [usize; Kind::ALL.len()],
}

impl Host {
    pub(super) fn new(kind: Kind, config: Config, tls: Arc<ServerTls>) -> Arc<Self> {
        Arc::new(Self {
            kind,
            config: Arc::new(config),
            tls,
            memory: Mutex::default(),
        })
    }

    /// Reports that came back about mail to this kind.
    pub(super) fn reports(&self, about: Kind) -> usize {
        self.memory().reports[about.index()]
    }

    /// Whether this recipient is seen for the first time, or was so until `ago` ago.
    fn is_new(&self, recipient: &str, now: Instant, ago: Duration) -> bool {
        let mut memory = self.memory();
        let first = *memory.known.entry(recipient.to_owned()).or_insert(now);
        first == now || now.since(first) < ago
    }

    // A panic while the lock is held leaves the memory whole.
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks for a pause of this length. The answer says that it is over.
#[derive(Debug)]
pub(super) struct Pause(pub(super) Duration);

/// One connection to a [`Host`].
#[derive(Debug)]
pub(super) struct Receiving {
    host: Arc<Host>,
    smtp: Connection,
    channel: Channel,
    state: State,
    /// Clear text that came and was not looked at yet.
    input: Vec<u8>,
    /// What is to be sent, encrypted if it must be.
    wire: Vec<u8>,
    envelope: Envelope,
    until: Instant,
}

#[derive(Debug, Default)]
struct Envelope {
    from_nobody: bool,
    recipient: String,
    body: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    /// Before the verdict that waits is given.
    Pausing,
    Paused,
    Closed,
}

impl Receiving {
    pub(super) fn new(host: &Arc<Host>, now: Now) -> Self {
        let mut wire = Vec::new();
        Self {
            host: Arc::clone(host),
            smtp: Connection::new(&host.config, &mut wire),
            channel: Channel::plain(),
            state: State::Reading,
            input: Vec::new(),
            wire,
            envelope: Envelope::default(),
            until: now.instant + PATIENCE,
        }
    }

    fn receive(&mut self, now: Now, bytes: &[u8]) {
        if self.host.kind == Kind::NoTls && self.channel.is_tls() {
            self.wire.extend_from_slice(b"What is a ClientHello?\r\n");
            self.state = State::Closed;
            return;
        }
        let mut scratch = Vec::new();
        match self.channel.receive(bytes, &mut scratch) {
            Ok(text) => self.input.extend_from_slice(text),
            Err(_) => self.state = State::Closed,
        }
        self.channel.flush(&mut self.wire);
        if self.channel.is_tls() && !self.channel.handshaking() && !self.smtp.is_tls() {
            self.smtp.tls_started();
        }
        self.go_on(now);
    }

    /// Looks at what came, until it pauses or all is looked at.
    fn go_on(&mut self, now: Now) {
        let input = std::mem::take(&mut self.input);
        let mut rest = &input[..];
        while self.state == State::Reading {
            let mut text = Vec::new();
            let progress = self.smtp.receive(rest, &mut text);
            self.channel.send(&text, &mut self.wire);
            match progress {
                Ok(Progress::Event { used, event }) => {
                    rest = &rest[used..];
                    self.event(now, event);
                }
                Ok(Progress::NeedMore { used }) => {
                    rest = &rest[used..];
                    break;
                }
                Err(_) => self.state = State::Closed,
            }
        }
        self.input = rest.to_vec();
    }

    fn event(&mut self, now: Now, event: Event<'_>) {
        let kind = self.host.kind;
        match event {
            Event::Hello(_) | Event::Auth(_) | Event::XClient(_) => self.accept(),
            Event::StartTls => {
                self.accept();
                if self.channel.start_server(&self.host.tls).is_err() {
                    self.state = State::Closed;
                }
            }
            Event::Mail(mail) => {
                self.envelope = Envelope {
                    from_nobody: mail.from.mailbox().is_none(),
                    ..Envelope::default()
                };
                self.accept();
            }
            Event::Rcpt(rcpt) => {
                let mailbox = rcpt.to.mailbox().map(ToString::to_string);
                self.envelope.recipient = mailbox.unwrap_or_default();
                self.recipient(now.instant);
            }
            Event::Data { .. } => self.accept(),
            Event::Body(octets) => {
                let new = |host: &Host| {
                    host.is_new(&self.envelope.recipient, now.instant, Duration::ZERO)
                };
                if kind == Kind::Dropping && new(&self.host) {
                    self.state = State::Closed;
                }
                let room = REPORT_MAX.saturating_sub(self.envelope.body.len());
                let octets = &octets[..octets.len().min(room)];
                self.envelope.body.extend_from_slice(octets);
            }
            Event::BodyEnd if kind == Kind::Slow => self.state = State::Pausing,
            Event::BodyEnd => {
                self.note_report();
                self.accept();
            }
            Event::BodyRefused(_) | Event::Reset => {}
            Event::Quit => {
                self.channel.close(&mut self.wire);
                self.state = State::Closed;
            }
        }
    }

    fn recipient(&mut self, now: Instant) {
        match self.host.kind {
            Kind::Rejecting => self.reject(Rejection::NO_SUCH_MAILBOX, "No such mailbox here"),
            Kind::Greylisting if self.host.is_new(&self.envelope.recipient, now, GREY) => {
                let text = format!("Greylisted, try again in {} seconds", GREY.as_secs());
                self.reject(Rejection::RATE, &text);
            }
            Kind::Healthy | Kind::Greylisting | Kind::Slow | Kind::Expired => self.accept(),
            Kind::NoTls | Kind::Dropping | Kind::Dead | Kind::NullMx => self.accept(),
        }
    }

    /// Counts a report that came back to the sender of the demo's mail.
    fn note_report(&mut self) {
        let envelope = &self.envelope;
        let about = Kind::of_sender(&envelope.recipient)
            .filter(|_| envelope.from_nobody && envelope.recipient.ends_with(HOME))
            .filter(|_| is_report(&envelope.body));
        if let Some(about) = about {
            self.host.memory().reports[about.index()] += 1;
        }
    }

    fn accept(&mut self) {
        let mut text = Vec::new();
        let verdict = self.smtp.accept("", &mut text);
        debug_assert!(verdict.is_ok(), "an event waits for its verdict");
        self.channel.send(&text, &mut self.wire);
    }

    fn reject(&mut self, why: Rejection, words: &str) {
        let mut text = Vec::new();
        let verdict = self.smtp.reject(why, words, &mut text);
        debug_assert!(verdict.is_ok(), "an event waits for its verdict");
        self.channel.send(&text, &mut self.wire);
    }
}

/// RFC 3464 §2: the Content-Type says what it is.
fn is_report(message: &[u8]) -> bool {
    let text = String::from_utf8_lossy(message).to_ascii_lowercase();
    text.contains("multipart/report") && text.contains("report-type=delivery-status")
}

impl Machine for Receiving {
    type Request = Pause;
    type Answer = ();

    fn handle_input(&mut self, now: Now, input: Input<'_, ()>) {
        self.until = now.instant + PATIENCE;
        match input {
            Input::Bytes(bytes) => self.receive(now, bytes),
            Input::Answer(()) => {
                self.state = State::Reading;
                self.accept();
                self.go_on(now);
            }
            Input::Timeout | Input::Closed(_) | Input::WriteFailed(_) => {
                self.state = State::Closed;
            }
        }
    }

    fn poll_output(&mut self, wire: &mut Vec<u8>) -> Output<Pause> {
        wire.append(&mut self.wire);
        match self.state {
            State::Reading | State::Paused => Output::Read {
                until: self.until,
                why: Timer::Command,
            },
            State::Pausing => {
                self.state = State::Paused;
                Output::Request(Pause(THOUGHT))
            }
            State::Closed => Output::Close,
        }
    }
}
