//! The session driven in virtual time by a client and an engine that are made up.
//!
//! A dialogue is a text of `C:` and `S:` lines: what the client sends, and how the replies begin. Each
//! runs in every [`Mode`]: in clear text and under TLS, in one piece and octet by octet.

mod admission;
mod any_client;
mod auth;
mod dialogue;
mod direct;
mod handling;
mod stranger;
mod transfer;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use smtp_proto::Domain;
use smtp_proto::server::Rejection;

use super::*;
use crate::channel::tests::Authority;
use crate::channel::{Channel, ClientTls, Verify};
use crate::config::{Credential, Listener, ListenerTls, Role, SenderPattern};
use crate::dns::zone::Zone;
use crate::engine::{Ask, Refusal, Submission};
use crate::machine::{Input, Machine as _, Output, Timer};
use crate::queue::message::{BODY_MEMORY_MAX, Body};
use crate::rng::Rng;
use crate::sasl::{Verifier, secret_digest};
use crate::time::{Instant, Now, UnixTime};

/// The engine's key of digests.
pub(super) const KEY: [u8; 32] = [9; 32];

pub(super) const HOST: &str = "relay.example.com";

/// How a dialogue runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mode {
    pub(super) tls: ListenerTls,
    /// The client's octets come in pieces of so many.
    pub(super) piece: usize,
}

pub(super) const PLAIN: Mode = Mode {
    tls: ListenerTls::None,
    piece: usize::MAX,
};

pub(super) fn modes() -> Vec<Mode> {
    let kinds = [
        ListenerTls::None,
        ListenerTls::StartTls,
        ListenerTls::Implicit,
    ];
    let modes = kinds.map(|tls| [1, 7, usize::MAX].map(|piece| Mode { tls, piece }));
    modes.concat()
}

/// A configuration with one listener of the mode, the credential `app` with the password `secret`, and
/// the credential `printers` for trusted networks.
pub(super) fn config(tls: ListenerTls) -> Config {
    let mut config = Config::new(Domain::parse(HOST).unwrap(), "/nowhere");
    config.listeners.push(Listener {
        address: "127.0.0.1:587".parse().unwrap(),
        role: Role::Submission,
        tls,
        proxy_protocol: false,
        trusted_proxies: Vec::new(),
        trusted_networks: Vec::new(),
        trusted_as: Some("printers".into()),
        xclient_from: Vec::new(),
        client_certificates: None,
    });
    let credential = |name: &str, verifier| Credential {
        name: name.into(),
        verifier,
        certificates: Vec::new(),
        senders: vec![SenderPattern::Domain(Domain::parse("example.com").unwrap())],
        networks: Vec::new(),
        rate: None,
    };
    static VERIFIER: OnceLock<Verifier> = OnceLock::new();
    let verifier = VERIFIER
        .get_or_init(|| Verifier::derive("secret", [7; 16], 4096))
        .clone();
    config.credentials = vec![
        Arc::new(credential("app", Some(verifier))),
        Arc::new(credential("printers", None)),
    ];
    config.limits.message_size = 1024 * 1024;
    config.limits.recipients = 5;
    config
}

/// A certificate and a client that believes it.
pub(super) fn tls() -> &'static (Arc<ClientTls>, Arc<ServerTls>) {
    static TLS: OnceLock<(Arc<ClientTls>, Arc<ServerTls>)> = OnceLock::new();
    TLS.get_or_init(|| {
        let authority = Authority::new();
        (authority.client(), authority.server(HOST))
    })
}

/// An engine and a spool that do as the test says, and note what they are asked.
pub(super) struct Engine {
    pub(super) config: Arc<Config>,
    /// The refusal of the next ask that is named so.
    pub(super) refusals: VecDeque<(&'static str, Refusal)>,
    pub(super) asked: Vec<String>,
    pub(super) verified: Option<[u8; 32]>,
    pub(super) authenticated: Vec<(String, bool)>,
    pub(super) submitted: Vec<Submission>,
    pub(super) abandoned: Vec<MessageId>,
    pub(super) refused: Vec<String>,
    pub(super) spool: BTreeMap<MessageId, Vec<u8>>,
    pub(super) spool_fails: Option<StoreFailed>,
    /// What the embedder says to every password.
    pub(super) outside: Option<Arc<Credential>>,
    /// The room that each message gets.
    pub(super) room: usize,
    /// What the DNS says.
    pub(super) zone: Zone,
    ids: u64,
}

impl Engine {
    fn answer(&mut self, request: Request) -> Answer {
        match request {
            Request::Engine(ask) => self.ask(ask),
            Request::Spool(id, bytes) => Answer::Spooled(self.spool(id, &bytes)),
            Request::Unspool(id) => {
                self.asked.push("Unspool".into());
                assert!(self.spool.remove(&id).is_some(), "nothing to unspool");
                Answer::Done
            }
            Request::Resolve(question) => {
                self.asked.push("Resolve".into());
                Answer::Resolved(crate::verify::tests::resolve(
                    &mut crate::verify::tests::resolver(),
                    &self.zone,
                    &question,
                ))
            }
            Request::CheckToken(bearer) => {
                self.asked.push("CheckToken".into());
                let right = self.outside.clone().filter(|_| bearer.token == "token");
                Answer::Checked(right)
            }
            Request::CheckPassword { password, .. } => {
                self.asked.push("CheckPassword".into());
                Answer::Checked(self.outside.clone().filter(|_| password == "secret"))
            }
        }
    }

    fn spool(&mut self, id: MessageId, bytes: &Bytes) -> Result<(), StoreFailed> {
        self.asked.push("Spool".into());
        assert!(!bytes.is_empty());
        match self.spool_fails.take() {
            Some(failed) => Err(failed),
            None => {
                self.spool.entry(id).or_default().extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    fn ask(&mut self, ask: Ask) -> Answer {
        let debug = format!("{ask:?}");
        let name = debug.split([' ', '(']).next().unwrap().to_owned();
        self.asked.push(name.clone());
        if self.refusals.front().is_some_and(|(ask, _)| *ask == name) {
            let (_, refusal) = self.refusals.pop_front().unwrap();
            return Answer::Engine(engine::Answer::Refused(refusal));
        }
        Answer::Engine(match ask {
            Ask::Connect { .. } => engine::Answer::Welcome(Arc::clone(&self.config)),
            Ask::Credential { name } => engine::Answer::Credential {
                credential: self
                    .config
                    .credentials
                    .iter()
                    .find(|credential| credential.name == name)
                    .cloned(),
                verified: self.verified,
                key: KEY,
            },
            Ask::Turn => engine::Answer::Turn,
            Ask::Authenticated { name, ok, digest } => {
                assert!(ok || digest.is_none());
                self.verified = digest.or(self.verified);
                self.authenticated.push((name, ok));
                engine::Answer::Noted
            }
            Ask::Mail { .. } => {
                self.ids += 1;
                engine::Answer::Mail {
                    id: MessageId::from_u64(self.ids),
                    room: self.room,
                    config: Arc::clone(&self.config),
                }
            }
            Ask::Submit(submission) => {
                let id = submission.id;
                self.submitted.push(*submission);
                engine::Answer::Queued(id)
            }
            Ask::SenderRefused { text, .. } => {
                self.refused.push(text);
                engine::Answer::Noted
            }
            Ask::Abandon(id) => {
                self.abandoned.push(id);
                engine::Answer::Noted
            }
            Ask::Bye => return Answer::Done,
        })
    }

    /// How often this was asked.
    pub(super) fn count(&self, name: &str) -> usize {
        self.asked.iter().filter(|asked| *asked == name).count()
    }

    /// The whole text of a message that was submitted.
    pub(super) fn text(&self, at: usize) -> String {
        let submission = &self.submitted[at];
        let bytes = match &submission.body {
            Body::Memory(bytes) => bytes.to_vec(),
            Body::Spooled => self.spool[&submission.id].clone(),
        };
        assert_eq!(
            (submission.prefix.len() + bytes.len()) as u64,
            submission.size
        );
        let bytes = [submission.prefix.to_vec(), bytes].concat();
        String::from_utf8(bytes).unwrap()
    }
}

/// A session with its client and its engine.
pub(super) struct World {
    pub(super) session: Session,
    pub(super) engine: Engine,
    pub(super) now: Now,
    pub(super) mode: Mode,
    tls: Option<Channel>,
    replies: Vec<u8>,
    /// What the session waits for.
    pub(super) reading: Option<(Instant, Timer)>,
    pub(super) closed: bool,
}

impl World {
    /// A connection that was just accepted.
    pub(super) fn new(mode: Mode) -> Self {
        Self::with(mode, |_| {})
    }

    /// The same with another configuration.
    pub(super) fn with(mode: Mode, change: impl FnOnce(&mut Config)) -> Self {
        let mut world = Self::raw(mode, change);
        if matches!(mode.tls, ListenerTls::Implicit) {
            world.handshake();
        }
        world
    }

    /// The same before a handshake that comes at once.
    pub(super) fn raw(mode: Mode, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config(mode.tls);
        change(&mut config);
        let config = Arc::new(config);
        let (_, server) = tls();
        let now = Now {
            instant: Instant::from_origin(Duration::from_secs(1000)),
            unix: UnixTime::from_secs(1_795_471_531),
        };
        let setup = Setup {
            id: SessionId(1),
            peer: "192.0.2.7:40000".parse().unwrap(),
            local: "192.0.2.1:587".parse().unwrap(),
            listener: 0,
            config: Arc::clone(&config),
            tls: Arc::clone(server),
        };
        let mut world = Self {
            session: Session::new(setup, now, Rng::from_number(1)),
            engine: Engine {
                config,
                refusals: VecDeque::new(),
                asked: Vec::new(),
                verified: None,
                authenticated: Vec::new(),
                submitted: Vec::new(),
                abandoned: Vec::new(),
                refused: Vec::new(),
                spool: BTreeMap::new(),
                spool_fails: None,
                outside: None,
                room: BODY_MEMORY_MAX,
                zone: Zone::new(),
                ids: 0,
            },
            now,
            mode,
            tls: None,
            replies: Vec::new(),
            reading: None,
            closed: false,
        };
        world.pump();
        world
    }

    /// Greeted, secured if the mode is, authenticated as `app`.
    pub(super) fn ready(mode: Mode) -> Self {
        Self::ready_with(mode, |_| {})
    }

    pub(super) fn ready_with(mode: Mode, change: impl FnOnce(&mut Config)) -> Self {
        let mut world = Self::with(mode, change);
        world.say("S: 220 relay.example.com ESMTP");
        world.ehlo();
        if matches!(mode.tls, ListenerTls::StartTls) {
            world.starttls();
        }
        world.login();
        world
    }

    pub(super) fn starttls(&mut self) {
        self.say("C: STARTTLS\nS: 220 2.0.0");
        self.handshake();
        self.ehlo();
    }

    /// The engine knows the secret from before, so that it costs no PBKDF2.
    pub(super) fn login(&mut self) {
        self.engine.verified = Some(secret_digest(&KEY, "app", "secret"));
        let secret = BASE64.encode("\0app\0secret");
        self.say(&format!("C: AUTH PLAIN {secret}\nS: 235 2.7.0"));
    }

    /// Sends EHLO; gives the lines of the reply.
    pub(super) fn ehlo(&mut self) -> Vec<String> {
        self.send(b"EHLO client.example.com\r\n");
        let mut lines = Vec::new();
        while lines
            .last()
            .is_none_or(|line: &String| line.starts_with("250-"))
        {
            lines.push(self.reply().expect("the reply to EHLO ends"));
        }
        lines
    }

    pub(super) fn handshake(&mut self) {
        let mut channel = Channel::plain();
        let (client, _) = tls();
        channel
            .start_client(client, Verify::Roots, HOST, self.now.unix)
            .unwrap();
        self.tls = Some(channel);
        self.send(b"");
        assert!(!self.tls.as_ref().unwrap().handshaking(), "{self:?}");
    }

    /// Runs a dialogue. Lines of the client that follow each other go out as one.
    pub(super) fn say(&mut self, dialogue: &str) {
        let mut lines = dialogue.lines().map(str::trim).peekable();
        let mut sending = Vec::new();
        while let Some(line) = lines.next() {
            if let Some(text) = line.strip_prefix("C:") {
                let text = text.strip_prefix(' ').unwrap_or(text);
                sending.extend_from_slice(text.as_bytes());
                sending.extend_from_slice(b"\r\n");
                if !lines.peek().is_some_and(|line| line.starts_with("C:")) {
                    self.send(&std::mem::take(&mut sending));
                }
            } else if let Some(start) = line.strip_prefix("S: ") {
                let reply = self.reply();
                let fits = reply.as_ref().is_some_and(|reply| reply.starts_with(start));
                assert!(
                    fits,
                    "want {start:?}, got {reply:?} in\n{dialogue}\n{self:?}"
                );
            } else {
                assert!(line.is_empty(), "{line}");
            }
        }
        assert_eq!(self.reply(), None, "after\n{dialogue}\n{self:?}");
    }

    /// The next line that came back.
    pub(super) fn reply(&mut self) -> Option<String> {
        let end = self.replies.windows(2).position(|pair| pair == b"\r\n")? + 2;
        let line: Vec<u8> = self.replies.drain(..end).collect();
        Some(String::from_utf8(line).unwrap().trim_end().to_owned())
    }

    /// Sends clear text, under TLS if it is up.
    pub(super) fn send(&mut self, text: &[u8]) {
        let mut wire = Vec::new();
        match &mut self.tls {
            Some(tls) => tls.send(text, &mut wire),
            None => wire.extend_from_slice(text),
        }
        self.send_wire(&wire);
    }

    /// Sends octets as they are.
    pub(super) fn send_wire(&mut self, wire: &[u8]) {
        for piece in wire.chunks(self.mode.piece) {
            if self.closed {
                return;
            }
            assert!(self.reading.is_some(), "the session does not read");
            self.input(Input::Bytes(piece));
        }
    }

    pub(super) fn input(&mut self, input: Input<'_, Answer>) {
        self.session.handle_input(self.now, input);
        self.pump();
    }

    /// Lets time pass up to the deadline at most; whether it came.
    pub(super) fn wait(&mut self, time: Duration) -> bool {
        let (until, _) = self.reading.expect("it reads");
        let end = self.now.instant + time;
        self.now.unix = self.now.unix + time;
        self.now.instant = end.min(until);
        if end < until {
            return false;
        }
        self.input(Input::Timeout);
        true
    }

    /// Drives the session until it reads or closes.
    pub(super) fn pump(&mut self) {
        loop {
            let mut wire = Vec::new();
            let output = self.session.poll_output(&mut wire);
            assert!(
                wire.len() <= crate::machine::BURST_MAX + 4096,
                "a burst of {}",
                wire.len()
            );
            let answer = self.client_takes(&wire);
            self.reading = None;
            match output {
                Output::Request(request) => {
                    let answer = self.engine.answer(request);
                    self.session.handle_input(self.now, Input::Answer(answer));
                }
                Output::Read { until, why } => {
                    assert!(until >= self.now.instant);
                    self.reading = Some((until, why));
                    if answer.is_empty() {
                        return;
                    }
                    for piece in answer.chunks(self.mode.piece) {
                        self.input(Input::Bytes(piece));
                    }
                    return;
                }
                Output::Close => {
                    self.closed = true;
                    return;
                }
            }
        }
    }

    /// The client reads; gives what its TLS says to that.
    fn client_takes(&mut self, wire: &[u8]) -> Vec<u8> {
        let mut answer = Vec::new();
        match &mut self.tls {
            Some(tls) => {
                let mut scratch = Vec::new();
                if let Ok(text) = tls.receive(wire, &mut scratch) {
                    self.replies.extend_from_slice(text);
                }
                tls.flush(&mut answer);
            }
            None => self.replies.extend_from_slice(wire),
        }
        answer
    }

    /// Ends TLS from the client's side.
    pub(super) fn client_close_notify(&mut self) {
        let mut wire = Vec::new();
        self.tls.as_mut().unwrap().close(&mut wire);
        self.send_wire(&wire);
    }

    /// What the client saw last, if the session ended well: everything was paid back.
    pub(super) fn assert_over(&self) {
        assert!(self.closed, "{self:?}");
        assert_eq!(self.engine.count("Bye"), 1, "{self:?}");
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let replies = String::from_utf8_lossy(&self.replies);
        write!(
            f,
            "{:?}, closed: {}, asked: {:?}\nunread: {replies}\n{:?}",
            self.mode, self.closed, self.engine.asked, self.session.state
        )
    }
}

pub(super) fn refusal(why: Rejection, text: &str) -> Refusal {
    Refusal {
        why,
        text: text.into(),
        close: false,
    }
}
