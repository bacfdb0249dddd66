//! A scripted host: what it says, when, and what it hears.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::{Emit, Peer};
use crate::channel::{Channel, ServerTls};
use crate::rng::Rng;
use crate::sasl;
use crate::time::Instant;

/// One thing that a host does.
#[derive(Debug, Clone)]
pub(super) enum Act {
    /// Sends this text as it stands.
    Say(String),
    /// Sends this text a byte at a time, so far apart.
    Drip(String, Duration),
    /// Does nothing for so long.
    Wait(Duration),
    /// Closes the connection.
    Close,
    /// Resets the connection: what is written to it fails from now on.
    Reset,
    /// Reads on, and says nothing any more.
    Mute,
    /// Begins TLS.
    StartTls,
}

pub(super) fn say(text: &str) -> Vec<Act> {
    vec![Act::Say(format!("{text}\r\n"))]
}

/// How a host behaves.
#[derive(Debug, Clone)]
pub(super) struct Script {
    pub(super) greeting: Vec<Act>,
    /// The extensions that EHLO names.
    pub(super) offers: Vec<String>,
    /// The same under TLS.
    pub(super) offers_tls: Vec<String>,
    /// What is done for a command line that starts with this, in any case; `.` is the end of DATA, and
    /// `body` the first octets of it. The first entry that matches counts; one with a number is
    /// used up by as many commands.
    pub(super) on: Vec<(String, Option<usize>, Vec<Act>)>,
    pub(super) tls: Option<Arc<ServerTls>>,
    /// TLS begins with the first octet.
    pub(super) implicit_tls: bool,
    /// The user and password that AUTH takes.
    pub(super) login: (String, String),
}

impl Default for Script {
    fn default() -> Self {
        let offers = ["PIPELINING", "8BITMIME", "SIZE 10000000"]
            .map(String::from)
            .to_vec();
        Self {
            greeting: say("220 mx.example.net ESMTP"),
            offers_tls: offers.clone(),
            offers,
            on: Vec::new(),
            tls: None,
            implicit_tls: false,
            login: ("user".into(), "secret".into()),
        }
    }
}

impl Script {
    pub(super) fn on(mut self, command: &str, acts: Vec<Act>) -> Self {
        self.on.push((command.to_ascii_lowercase(), None, acts));
        self
    }

    pub(super) fn times(mut self, count: usize, command: &str, acts: Vec<Act>) -> Self {
        self.on
            .push((command.to_ascii_lowercase(), Some(count), acts));
        self
    }

    pub(super) fn offers(mut self, offers: &[&str]) -> Self {
        self.offers = offers.iter().map(|&offer| offer.into()).collect();
        self.offers_tls = self
            .offers
            .iter()
            .filter(|offer| *offer != "STARTTLS")
            .cloned()
            .collect();
        self
    }

    pub(super) fn with_tls(mut self, tls: &Arc<ServerTls>) -> Self {
        self.offers.push("STARTTLS".into());
        self.tls = Some(Arc::clone(tls));
        self
    }

    fn act(&mut self, line: &str) -> Option<Vec<Act>> {
        let line = line.to_ascii_lowercase();
        let entry = self
            .on
            .iter_mut()
            .find(|(prefix, left, _)| line.starts_with(prefix.as_str()) && *left != Some(0))?;
        if let Some(left) = &mut entry.1 {
            *left -= 1;
        }
        Some(entry.2.clone())
    }
}

/// A message that a host took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) mail: String,
    pub(super) rcpts: Vec<String>,
    /// Without the dots that were stuffed.
    pub(super) body: Vec<u8>,
    pub(super) tls: bool,
}

/// What a host heard, over all its connections.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) connections: usize,
    /// Every command line, `tls:` before those under TLS.
    pub(super) commands: Vec<String>,
    /// Every octet between a 354 and its end.
    pub(super) wire: Vec<u8>,
    pub(super) taken: Vec<Taken>,
}

/// A host.
#[derive(Debug)]
pub(super) struct Sink {
    script: Rc<RefCell<Script>>,
    heard: Rc<RefCell<Heard>>,
}

impl Sink {
    pub(super) fn new(script: Script) -> Self {
        Self {
            script: Rc::new(RefCell::new(script)),
            heard: Rc::default(),
        }
    }

    pub(super) fn heard(&self) -> std::cell::Ref<'_, Heard> {
        self.heard.borrow()
    }

    pub(super) fn commands(&self) -> Vec<String> {
        self.heard.borrow().commands.clone()
    }

    pub(super) fn taken(&self) -> Vec<Taken> {
        self.heard.borrow().taken.clone()
    }

    pub(super) fn connect(&self, now: Instant) -> Session {
        self.heard.borrow_mut().connections += 1;
        let mut session = Session {
            script: Rc::clone(&self.script),
            heard: Rc::clone(&self.heard),
            channel: Channel::plain(),
            input: Vec::new(),
            state: State::Commands,
            mail: Taken::default(),
            out: VecDeque::new(),
            free_at: now,
            broken: false,
            mute: false,
            greeting: None,
            early: None,
        };
        let script = self.script.borrow().clone();
        if script.implicit_tls {
            session
                .channel
                .start_server(script.tls.as_ref().unwrap())
                .unwrap();
            session.greeting = Some(script.greeting);
        } else {
            session.perform(now, script.greeting);
        }
        session
    }
}

/// One connection to a host.
pub(super) struct Session {
    script: Rc<RefCell<Script>>,
    heard: Rc<RefCell<Heard>>,
    channel: Channel,
    input: Vec<u8>,
    state: State,
    mail: Taken,
    out: VecDeque<(Instant, Emit)>,
    free_at: Instant,
    broken: bool,
    mute: bool,
    /// What is said once TLS is up.
    greeting: Option<Vec<Act>>,
    /// The class of what was said before the end of the body: the client takes it for the last word.
    early: Option<char>,
}

enum State {
    Commands,
    Data,
    Chunk {
        left: usize,
        last: bool,
    },
    /// A mechanism's responses.
    Auth(Box<sasl::Server>),
}

impl Peer for Session {
    fn write(&mut self, now: Instant, wire: &[u8]) -> bool {
        if self.broken {
            return false;
        }
        let mut scratch = Vec::new();
        match self.channel.receive(wire, &mut scratch) {
            Ok(plain) => self.input.extend_from_slice(plain),
            Err(_) => self.out.push_back((now, Emit::Close(None))),
        }
        self.flush_tls(now);
        if self.channel.is_tls() && !self.channel.handshaking() {
            let greeting = self.greeting.take().unwrap_or_default();
            self.perform(now, greeting);
        }
        while self.step(now) {}
        !self.broken
    }

    fn next(&mut self, until: Instant, chunk: usize) -> Option<(Instant, Emit)> {
        let (at, emit) = self.out.pop_front()?;
        if at > until {
            self.out.push_front((at, emit));
            return None;
        }
        match emit {
            Emit::Bytes(mut bytes) if bytes.len() > chunk => {
                let rest = bytes.split_off(chunk);
                self.out.push_front((at, Emit::Bytes(rest)));
                Some((at, Emit::Bytes(bytes)))
            }
            Emit::Close(kind) => {
                self.out.push_front((at, Emit::Close(kind)));
                Some((at, Emit::Close(kind)))
            }
            emit => Some((at, emit)),
        }
    }
}

impl Session {
    fn flush_tls(&mut self, now: Instant) {
        let mut wire = Vec::new();
        if self.channel.is_tls() {
            self.channel.flush(&mut wire);
        }
        if !wire.is_empty() {
            self.out
                .push_back((self.free_at.max(now), Emit::Bytes(wire)));
        }
    }

    fn perform(&mut self, now: Instant, acts: Vec<Act>) {
        self.free_at = self.free_at.max(now);
        for act in acts {
            match act {
                Act::Say(text) => self.emit(text.as_bytes()),
                Act::Drip(text, gap) => {
                    for byte in text.bytes() {
                        self.free_at = self.free_at + gap;
                        self.emit(&[byte]);
                    }
                }
                Act::Wait(wait) => self.free_at = self.free_at + wait,
                Act::Close => self.out.push_back((self.free_at, Emit::Close(None))),
                Act::Reset => {
                    let reset = Emit::Close(Some(io::ErrorKind::ConnectionReset));
                    self.out.push_back((self.free_at, reset));
                    self.broken = true;
                }
                Act::Mute => self.mute = true,
                Act::StartTls => {
                    let tls = self
                        .script
                        .borrow()
                        .tls
                        .clone()
                        .expect("a host without TLS");
                    self.channel.start_server(&tls).unwrap();
                }
            }
        }
    }

    fn emit(&mut self, text: &[u8]) {
        if self.mute {
            return;
        }
        let mut wire = Vec::new();
        self.channel.send(text, &mut wire);
        self.out.push_back((self.free_at, Emit::Bytes(wire)));
    }

    /// Handles one line or one piece of a body; false if there is no whole one.
    fn step(&mut self, now: Instant) -> bool {
        match self.state {
            State::Commands | State::Auth(_) => {
                let Some(end) = self.input.windows(2).position(|pair| pair == b"\r\n") else {
                    return false;
                };
                let line: Vec<u8> = self.input.drain(..end + 2).collect();
                let line = String::from_utf8_lossy(&line[..end]).into_owned();
                let acts = match std::mem::replace(&mut self.state, State::Commands) {
                    State::Auth(mut server) => {
                        let step = server.step(&BASE64.decode(line).unwrap());
                        self.auth_step(server, step)
                    }
                    State::Commands | State::Data | State::Chunk { .. } => self.command(&line),
                };
                self.perform(now, acts);
                true
            }
            State::Data => self.data(now),
            State::Chunk { left, last } => {
                let count = left.min(self.input.len());
                let piece: Vec<u8> = self.input.drain(..count).collect();
                self.mail.body.extend(piece);
                self.state = State::Chunk {
                    left: left - count,
                    last,
                };
                if left > count {
                    return false;
                }
                self.state = State::Commands;
                let acts = if last { self.end() } else { say("250 go on") };
                self.perform(now, acts);
                true
            }
        }
    }

    fn data(&mut self, now: Instant) -> bool {
        if !self.input.is_empty() {
            let acts = self.script.borrow_mut().act("body");
            if let Some(acts) = acts {
                self.early = self.early.or(first_digit(&acts));
                self.perform(now, acts);
                if self.broken {
                    return false;
                }
            }
        }
        let end = if self.input.starts_with(b".\r\n") {
            Some(0)
        } else {
            self.input
                .windows(5)
                .position(|five| five == b"\r\n.\r\n")
                .map(|at| at + 2)
        };
        let Some(end) = end else { return false };
        let body: Vec<u8> = self.input.drain(..end + 3).collect();
        self.heard.borrow_mut().wire.extend_from_slice(&body);
        let mut unstuffed = Vec::new();
        for line in body[..end].split_inclusive(|&byte| byte == b'\n') {
            unstuffed.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        }
        self.mail.body = unstuffed;
        self.state = State::Commands;
        let acts = self.end();
        self.perform(now, acts);
        true
    }

    /// The end of a message: it is taken if the reply is positive.
    fn end(&mut self) -> Vec<Act> {
        let acts = self
            .script
            .borrow_mut()
            .act(".")
            .unwrap_or_else(|| say("250 2.0.0 queued"));
        let mail = std::mem::take(&mut self.mail);
        let early = self.early.take();
        let said = early.or(first_digit(&acts));
        // What resets on the dot did not get it.
        let reset = early.is_none() && acts.iter().any(|act| matches!(act, Act::Reset));
        if said == Some('2') && !reset && !mail.rcpts.is_empty() {
            self.heard.borrow_mut().taken.push(mail);
        }
        // What was said too early is not said again.
        if early.is_some() { Vec::new() } else { acts }
    }

    fn command(&mut self, line: &str) -> Vec<Act> {
        let tls = self.channel.is_tls();
        let prefix = if tls { "tls:" } else { "" };
        self.heard
            .borrow_mut()
            .commands
            .push(format!("{prefix}{line}"));
        let scripted = self.script.borrow_mut().act(line);
        let verb = line
            .split([' ', ':'])
            .next()
            .unwrap_or_default()
            .to_ascii_uppercase();
        let acts = scripted.unwrap_or_else(|| self.default_acts(&verb, line, tls));
        match (verb.as_str(), first_digit(&acts)) {
            ("MAIL", Some('2')) => {
                self.mail = Taken {
                    mail: line.into(),
                    tls,
                    ..Taken::default()
                };
            }
            ("RCPT", Some('2')) => self.mail.rcpts.push(line.into()),
            ("DATA", Some('3')) => self.state = State::Data,
            ("RSET", _) => self.mail = Taken::default(),
            _ => {}
        }
        acts
    }

    fn auth_step(&mut self, mut server: Box<sasl::Server>, step: sasl::Step) -> Vec<Act> {
        let (user, password) = self.script.borrow().login.clone();
        match step {
            sasl::Step::Challenge(challenge) => {
                self.state = State::Auth(server);
                say(&format!("334 {}", BASE64.encode(challenge)))
            }
            sasl::Step::Credential { name } => {
                let verifier = sasl::Verifier::derive(&password, [7; 16], 4096);
                let known = (name == user).then_some(&verifier);
                let decoy = sasl::Decoy::new([1; 32], 4096);
                let step = server.credential(known, &decoy, &mut Rng::from_number(5));
                self.auth_step(server, step)
            }
            sasl::Step::Password {
                name,
                password: given,
            } if (&name, &given) == (&user, &password) => say("235 2.7.0 welcome"),
            sasl::Step::Accepted { .. } => say("235 2.7.0 welcome"),
            sasl::Step::Token(bearer) if bearer.token == password => say("235 2.7.0 welcome"),
            sasl::Step::Token(_) => {
                let step = server.refuse_token();
                self.auth_step(server, step)
            }
            sasl::Step::Password { .. } | sasl::Step::External { .. } | sasl::Step::Failed(_) => {
                say("535 5.7.8 no")
            }
        }
    }

    fn default_acts(&mut self, verb: &str, line: &str, tls: bool) -> Vec<Act> {
        match verb {
            "EHLO" => {
                let script = self.script.borrow();
                let offers = if tls {
                    &script.offers_tls
                } else {
                    &script.offers
                };
                let mut lines = vec!["mx.example.net".to_owned()];
                lines.extend(offers.iter().cloned());
                let last = lines.len() - 1;
                let text: String = lines
                    .iter()
                    .enumerate()
                    .map(|(nr, line)| {
                        let separator = if nr == last { ' ' } else { '-' };
                        format!("250{separator}{line}\r\n")
                    })
                    .collect();
                vec![Act::Say(text)]
            }
            "STARTTLS" => {
                let mut acts = say("220 2.0.0 go ahead");
                acts.push(Act::StartTls);
                acts
            }
            "RCPT" if self.mail.mail.is_empty() => say("503 5.5.1 MAIL first"),
            "DATA" if self.mail.rcpts.is_empty() => say("554 5.5.1 no valid recipients"),
            "DATA" => say("354 go ahead"),
            "BDAT" => {
                let mut words = line.split(' ').skip(1);
                let left = words.next().unwrap().parse().unwrap();
                self.state = State::Chunk {
                    left,
                    last: words.next().is_some(),
                };
                Vec::new()
            }
            "AUTH" => {
                let mut words = line.split(' ').skip(1);
                let mechanism = sasl::Mechanism::from_name(words.next().unwrap()).unwrap();
                let initial = words
                    .next()
                    .map(|word| BASE64.decode(word).unwrap_or_default());
                // A server that binds to the channel says so.
                let plus = self
                    .script
                    .borrow()
                    .offers
                    .iter()
                    .any(|offer| offer.contains("-PLUS"));
                let binding = self.channel.tls_exporter().filter(|_| plus);
                let (server, step) = sasl::Server::start(mechanism, binding, initial.as_deref());
                self.auth_step(Box::new(server), step)
            }
            "QUIT" => {
                let mut acts = say("221 2.0.0 bye");
                acts.push(Act::Close);
                acts
            }
            _ => say("250 2.0.0 ok"),
        }
    }
}

/// The class of the first reply.
fn first_digit(acts: &[Act]) -> Option<char> {
    acts.iter().find_map(|act| {
        if let Act::Say(text) = act {
            text.chars().next()
        } else {
            None
        }
    })
}
