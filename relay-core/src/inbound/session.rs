//! The session itself: what it holds, what it waits for, and how it ends.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use smtp_proto::server::{Auth, Connection, Event, Hello, Mail, Progress, Rejection};

use super::auth::Exchange;
use super::content::Transaction;
use super::envelope::Client;
use super::owed::Chore;
use super::transfer::{Pace, Transfer};
use super::{Answer, Request, Setup};
use crate::channel::{Channel, ClientIdentity};
use crate::engine;
use crate::machine::{Input, Machine, Output, Timer};
use crate::rng::Rng;
use crate::time::{Instant, Now};

/// The time for a command, from the reply before it to its CRLF. Its octets do not renew it.
/// RFC 5321 §4.5.3.2.7: "at least 5 minutes".
const COMMAND: Duration = Duration::from_mins(5);

/// The time for a TLS handshake, and for a PROXY header.
const HANDSHAKE: Duration = Duration::from_mins(1);

/// One client's connection. The module says what it does, [`crate::machine`] how it is driven.
#[derive(Debug)]
pub struct Session {
    pub(super) setup: Setup,
    pub(super) now: Now,
    pub(super) rng: Rng,
    pub(super) channel: Channel,
    /// The protocol; none before the greeting.
    pub(super) smtp: Option<Box<Connection>>,
    pub(super) state: State,
    /// What the next poll asks of the runtime.
    pub(super) request: Option<Request>,
    /// What is owed to the engine and the spool. One stays here until it is done.
    pub(super) chores: Vec<Chore>,
    /// Replies that are not in the channel yet. It is as empty as can be while the client is read.
    pub(super) replies: Vec<u8>,
    /// What left the channel before it changed to TLS.
    pub(super) wire: Vec<u8>,
    /// What the client sent and is not decoded yet, since an answer comes first.
    pub(super) pending: Vec<u8>,
    pub(super) client: Client,
    /// What the client calls itself.
    pub(super) hello: Option<Box<Hello>>,
    /// TLS protocol and suite.
    pub(super) tls: Option<Box<str>>,
    /// What the client's certificate proved.
    pub(super) certificate: Option<Box<ClientIdentity>>,
    pub(super) transaction: Option<Box<Transaction>>,
    /// The engine counts this connection: it is owed a `Bye`.
    pub(super) welcome: bool,
    /// A front end said whose connection this is.
    pub(super) spoken_for: bool,
    /// The embedder's own check gave the credential.
    pub(super) checked_outside: bool,
    pub(super) auth_failures: u8,
    pub(super) interrupted: bool,
    /// Since when the session waits for what it waits for.
    pub(super) since: Instant,
    /// A command has begun.
    line_begun: bool,
}

/// What the session waits for.
#[derive(Debug)]
pub(super) enum State {
    /// The PROXY header.
    Proxy,
    /// The engine's answer to `Connect`.
    Connecting,
    /// The same for a client that a front end speaks for.
    Introduced,
    /// The end of the TLS handshake.
    Handshake,
    /// A command.
    Ready,
    /// The next step of an authentication: of the client, the engine or the embedder.
    Auth(Box<Exchange>),
    /// The engine's answer to `Mail`.
    Mail(Box<Mail>),
    /// A message: its octets, the spool, or the engine's answer to `Submit`.
    Transfer(Box<Transfer>),
    /// The end of a message that is refused.
    Discarding(Pace),
    /// Nothing: the session is over when its chores are.
    Ending,
}

impl Session {
    /// A session on a connection that was just accepted.
    #[must_use]
    pub fn new(setup: Setup, now: Now, rng: Rng) -> Self {
        let mut session = Self {
            setup,
            now,
            rng,
            channel: Channel::plain(),
            smtp: None,
            state: State::Ending,
            request: None,
            chores: Vec::new(),
            replies: Vec::new(),
            wire: Vec::new(),
            pending: Vec::new(),
            client: Client::Nobody,
            hello: None,
            tls: None,
            certificate: None,
            transaction: None,
            welcome: false,
            spoken_for: false,
            checked_outside: false,
            auth_failures: 0,
            interrupted: false,
            since: now.instant,
            line_begun: false,
        };
        session.admission_begins();
        session
    }

    /// The relay shuts down. A session between two messages says 421 4.3.2 at its next poll and closes;
    /// one that has an envelope goes on until that is queued, refused or dropped.
    ///
    /// Call it while the session waits in [`Output::Read`], then poll as after an input. On a session
    /// that waits for an answer it may be called too; the answer is handed in before the next poll.
    pub fn interrupt(&mut self, now: Now) {
        self.now = now;
        self.interrupted = true;
        self.settle();
    }

    /// The client's address: from PROXY, where that is believed.
    #[must_use]
    pub fn client(&self) -> SocketAddr {
        self.setup.peer
    }

    fn wait_for_body(&self, pace: &Pace) -> Output<Request> {
        let in_body = self.smtp.as_ref().is_some_and(|smtp| smtp.is_in_body());
        let until = if in_body {
            pace.deadline()
        } else {
            pace.deadline_between_chunks()
        };
        Output::Read {
            until,
            why: Timer::Body,
        }
    }

    /// The client's IP address; an IPv4 one that came in IPv6's clothes is an IPv4 one.
    pub(super) fn client_ip(&self) -> IpAddr {
        self.setup.peer.ip().to_canonical()
    }
}

impl Machine for Session {
    type Request = Request;
    type Answer = Answer;

    fn handle_input(&mut self, now: Now, input: Input<'_, Answer>) {
        self.now = now;
        match input {
            Input::Bytes(bytes) => self.bytes(bytes),
            Input::Answer(answer) => {
                self.answer(answer);
                self.go_on();
            }
            Input::Timeout => self.timeout(),
            Input::Closed(_) | Input::WriteFailed(_) => self.end(),
        }
        self.settle();
    }

    fn poll_output(&mut self, wire: &mut Vec<u8>) -> Output<Request> {
        wire.append(&mut self.wire);
        self.channel.send(&self.replies, wire);
        (self.replies, self.wire) = (Vec::new(), Vec::new());
        if let Some(request) = self.request.take() {
            return Output::Request(request);
        }
        let wait = |time, why| Output::Read {
            until: self.since + time,
            why,
        };
        match &self.state {
            State::Proxy | State::Handshake => wait(HANDSHAKE, Timer::Handshake),
            State::Ready if self.line_begun => wait(COMMAND, Timer::CommandLine),
            State::Ready => wait(COMMAND, Timer::Command),
            State::Auth(_) => wait(COMMAND, Timer::AuthResponse),
            State::Transfer(transfer) => self.wait_for_body(&transfer.pace),
            State::Discarding(pace) => self.wait_for_body(pace),
            State::Connecting | State::Introduced | State::Mail(_) | State::Ending => {
                self.channel.close(wire);
                Output::Close
            }
        }
    }
}

// What comes in.

impl Session {
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        let mut scratch = Vec::new();
        match self.channel.receive(bytes, &mut scratch) {
            Ok(text) => {
                if matches!(self.state, State::Handshake) && !self.channel.handshaking() {
                    self.handshake_ends();
                }
                self.text(text);
            }
            // The alert for the client waits in the channel.
            Err(_) => self.end(),
        }
    }

    /// Takes clear text. It is copied only if an answer must come before it is decoded.
    fn text(&mut self, text: &[u8]) {
        if let Some(pace) = self.state.pace() {
            pace.heard(text.len(), self.now.instant);
        }
        if self.pending.is_empty() {
            let used = self.decode(text);
            self.pending = text[used..].to_vec();
        } else {
            self.pending.extend_from_slice(text);
            self.go_on();
        }
    }

    /// Decodes what is pending.
    fn go_on(&mut self) {
        let mut pending = std::mem::take(&mut self.pending);
        let used = self.decode(&pending);
        if used < pending.len() {
            pending.drain(..used);
            self.pending = pending;
        }
    }

    /// Decodes until an answer must come first or the text is used up; gives how much was used.
    fn decode(&mut self, text: &[u8]) -> usize {
        let mut used = 0;
        if matches!(self.state, State::Proxy) {
            used = self.proxy(text);
        }
        while self.reads() {
            let Some(smtp) = &mut self.smtp else { break };
            let said = self.replies.len();
            let progress = smtp.receive(&text[used..], &mut self.replies);
            let (in_body, answered) = (smtp.is_in_body(), self.replies.len() > said);
            if answered {
                self.line_ends();
            }
            match progress {
                Ok(Progress::Event { used: more, event }) => {
                    used += more;
                    self.line_ends();
                    if matches!(self.state, State::Discarding(_)) {
                        // There are no events within a message that is refused: this one follows it.
                        self.state = State::Ready;
                    }
                    self.event(event);
                }
                Ok(Progress::NeedMore { used: more }) => {
                    used += more;
                    self.line_begun |= more > 0 && !answered;
                    self.discarded(in_body);
                    break;
                }
                Err(_) => self.end(),
            }
            self.discarded(in_body);
        }
        if self.is_ending() { text.len() } else { used }
    }

    /// A command is done: the time for the next begins.
    pub(super) fn line_ends(&mut self) {
        self.line_begun = false;
        self.since = self.now.instant;
    }

    /// Whether octets of the client are decoded now.
    pub(super) fn reads(&self) -> bool {
        let reads = match &self.state {
            State::Ready | State::Discarding(_) => true,
            State::Auth(exchange) => exchange.is_challenged(),
            State::Transfer(transfer) => transfer.receives(),
            State::Proxy
            | State::Connecting
            | State::Introduced
            | State::Handshake
            | State::Mail(_)
            | State::Ending => false,
        };
        reads && self.request.is_none() && self.chores.is_empty()
    }

    /// A message that was refused on the way has come to its end.
    fn discarded(&mut self, in_body: bool) {
        if matches!(self.state, State::Discarding(_)) && !in_body {
            self.ready();
        }
    }

    fn event(&mut self, event: Event<'_>) {
        match (std::mem::replace(&mut self.state, State::Ready), event) {
            (State::Transfer(transfer), Event::Body(piece)) => self.transfer_takes(transfer, piece),
            (State::Transfer(transfer), Event::BodyEnd) => self.transfer_ends(transfer),
            (State::Transfer(transfer), Event::BodyRefused(_)) => {
                self.transfer_refused(transfer.pace);
            }
            (State::Ready, Event::BodyRefused(_)) => {
                self.transfer_refused(Pace::new(self.now.instant));
            }
            (State::Auth(exchange), Event::Auth(Auth::Response(response))) => {
                self.auth_response(*exchange, &response);
            }
            (State::Auth(_), Event::Auth(Auth::Cancelled)) => self.auth_cancelled(),
            (
                State::Ready,
                Event::Auth(Auth::Start {
                    mechanism,
                    initial_response,
                }),
            ) => {
                self.auth_begins(mechanism, initial_response.as_deref());
            }
            (State::Ready, Event::XClient(said)) => self.introduced(&said),
            (State::Ready, Event::Mail(mail)) => self.mail(mail),
            (State::Ready, Event::Rcpt(rcpt)) => self.rcpt(rcpt),
            (State::Ready, Event::Data { .. }) => self.transfer_begins(),
            (State::Ready | State::Transfer(_), Event::StartTls) => self.upgrade(),
            (State::Ready | State::Transfer(_), Event::Hello(hello)) => {
                self.drop_transaction();
                self.hello = Some(Box::new(hello));
                self.accept("");
            }
            (State::Ready | State::Transfer(_), Event::Reset) => self.drop_transaction(),
            (_, Event::Quit) => self.end(),
            // The protocol gives no event that does not fit the state that its events led to.
            (
                State::Proxy
                | State::Connecting
                | State::Introduced
                | State::Handshake
                | State::Ready
                | State::Auth(_)
                | State::Mail(_)
                | State::Transfer(_)
                | State::Discarding(_)
                | State::Ending,
                Event::Hello(_)
                | Event::StartTls
                | Event::Auth(_)
                | Event::XClient(_)
                | Event::Mail(_)
                | Event::Rcpt(_)
                | Event::Data { .. }
                | Event::Body(_)
                | Event::BodyEnd
                | Event::BodyRefused(_)
                | Event::Reset,
            ) => self.confused(),
        }
    }

    fn answer(&mut self, answer: Answer) {
        match (std::mem::replace(&mut self.state, State::Ready), answer) {
            (State::Connecting, Answer::Engine(engine::Answer::Welcome(config))) => {
                self.welcomed(config);
            }
            (State::Connecting, Answer::Engine(engine::Answer::Refused(refusal))) => {
                self.turned_away(&refusal);
            }
            (State::Introduced, Answer::Engine(engine::Answer::Welcome(config))) => {
                self.setup.config = config;
                self.introduction_ends();
            }
            (State::Introduced, Answer::Engine(engine::Answer::Refused(refusal))) => {
                self.reject(&refusal);
            }
            (State::Auth(exchange), answer) => self.auth_answered(*exchange, answer),
            (State::Mail(mail), answer) => self.mail_answered(*mail, answer),
            (State::Transfer(transfer), answer) => self.transfer_answered(transfer, answer),
            // A chore is done. Nothing else is asked in these states.
            (state @ (State::Ready | State::Discarding(_) | State::Ending), _) => {
                self.state = state;
                if !self.chores.is_empty() {
                    self.chores.remove(0);
                }
            }
            (State::Proxy | State::Connecting | State::Introduced | State::Handshake, _) => {
                self.confused();
            }
        }
    }

    fn timeout(&mut self) {
        let text = match &self.state {
            State::Transfer(_) | State::Discarding(_) => "The message comes too slowly; closing",
            State::Proxy
            | State::Connecting
            | State::Introduced
            | State::Handshake
            | State::Ready
            | State::Auth(_)
            | State::Mail(_)
            | State::Ending => "Waited too long for a command; closing",
        };
        self.shut_down(Rejection::TIMED_OUT, text);
    }
}

impl State {
    /// The pace of the message under way.
    fn pace(&mut self) -> Option<&mut Pace> {
        match self {
            Self::Transfer(transfer) => Some(&mut transfer.pace),
            Self::Discarding(pace) => Some(pace),
            Self::Proxy
            | Self::Connecting
            | Self::Introduced
            | Self::Handshake
            | Self::Ready
            | Self::Auth(_)
            | Self::Mail(_)
            | Self::Ending => None,
        }
    }
}
