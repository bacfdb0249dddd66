//! Receivers: the server machine of `smtp-proto` with manners, and a record of what it took.
//!
//! A host decides at each stage of a session: take it, refuse it, take its time, drop the connection,
//! or fall silent. What it answers 250 to is in the book before the answer is on its way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use relay_core::channel::{Channel, ServerTls};
use relay_core::rng::Rng;
use relay_core::time::Instant;
use smtp_proto::Extension;
use smtp_proto::server::{Config, Connection, Event as Smtp, Progress, Rejection};

use super::agenda::Dice;
use super::names::{host_ip, host_name};
use super::net::{ConnId, Found, Side};
use super::profile::Manner;
use super::world::{Event, World};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// A receiving host.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) manner: Manner,
    config: Arc<Config>,
    rng: Rng,
    /// When a pair of sender and recipient was seen first.
    known: BTreeMap<String, Instant>,
    greylisted_for: Duration,
    /// When messages were taken lately.
    recent: Vec<Instant>,
    open: usize,
}

/// One connection to a host.
#[derive(Debug)]
pub(crate) struct Talk {
    pub(crate) host: usize,
    /// Of the relay.
    life: u32,
    conn: ConnId,
    smtp: Connection,
    channel: Channel,
    handshaking: bool,
    from: String,
    recipients: Vec<String>,
    body: Vec<u8>,
    messages: u32,
    /// The sender of the last message.
    last: String,
    /// It reads no more and says no more.
    mute: bool,
    /// It will read later.
    sipping: bool,
}

/// Where a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Greeting,
    Hello,
    Mail,
    Rcpt,
    Data,
    Dot,
}

/// What a host does.
#[derive(Debug)]
enum Act {
    Take,
    Refuse(Rejection, &'static str),
    /// Close without a word.
    Drop,
    /// Take it, and close without a word.
    TakeAndDrop,
    Mute,
}

impl Host {
    pub(crate) fn new(index: usize, manner: Manner, tls: bool, mut rng: Rng) -> Option<Self> {
        let mut config = Config::new(host_name(index).parse().ok()?);
        if tls {
            config = config.with(Extension::StartTls);
        }
        for (extension, per_mille) in [
            (Extension::Pipelining, 300),
            (Extension::Chunking, 400),
            (Extension::Dsn, 600),
            (Extension::Size, 200),
        ] {
            if rng.chance(per_mille) {
                config.extensions = config.extensions.without(extension);
            }
        }
        if rng.chance(200) {
            config.limits.recipients = 2;
        }
        Some(Self {
            manner,
            config: Arc::new(config),
            greylisted_for: rng.pick(&[SECOND * 30, MINUTE * 5, MINUTE * 30]),
            rng,
            known: BTreeMap::new(),
            recent: Vec::new(),
            open: 0,
        })
    }

    /// Whether a connection is answered; if not, whether it is refused.
    pub(crate) fn answers(&mut self) -> Result<(), bool> {
        match self.manner {
            Manner::Down if self.rng.chance(850) => Err(self.rng.chance(500)),
            Manner::Down
            | Manner::Healthy
            | Manner::Moody
            | Manner::Greylisting
            | Manner::Dropping
            | Manner::Limiting
            | Manner::Slow
            | Manner::Sipping => Ok(()),
        }
    }

    fn act(&mut self, stage: Stage, who: &str, now: Instant) -> Act {
        match self.manner {
            Manner::Healthy | Manner::Slow | Manner::Sipping | Manner::Down => Act::Take,
            Manner::Moody => self.moody(stage),
            Manner::Greylisting => self.greylist(stage, who, now),
            Manner::Dropping => self.drop_now(stage),
            Manner::Limiting => self.limit(stage, now),
        }
    }

    fn moody(&mut self, stage: Stage) -> Act {
        if !self.rng.chance(70) {
            return Act::Take;
        }
        let (why, text) = self.rng.pick(&[
            (Rejection::SHUTTING_DOWN, "Going down"),
            (Rejection::RATE, "Too fast"),
            (Rejection::LOCAL_ERROR, "Something broke"),
            (Rejection::STORAGE_FULL, "No room"),
            (Rejection::TOO_MANY_RECIPIENTS, "Enough"),
            (Rejection::NO_SUCH_MAILBOX, "Nobody here"),
            (Rejection::POLICY, "We do not like it"),
            (Rejection::TOO_LARGE, "Too large"),
        ]);
        // A hello that is refused for good bounces everything; once in a while is enough.
        if matches!(stage, Stage::Greeting | Stage::Hello) && !why.is_transient() {
            return Act::Take;
        }
        Act::Refuse(why, text)
    }

    fn greylist(&mut self, stage: Stage, who: &str, now: Instant) -> Act {
        if stage != Stage::Rcpt {
            return Act::Take;
        }
        let first = *self.known.entry(who.to_owned()).or_insert(now);
        if now.since(first) >= self.greylisted_for {
            return Act::Take;
        }
        let text = match self.greylisted_for.as_secs() {
            30 => "Greylisted, try again in 30 seconds",
            300 => "Greylisted for 5 minutes",
            _ => "Greylisted, please try again later",
        };
        Act::Refuse(Rejection::transient(451, 7, 1), text)
    }

    fn drop_now(&mut self, stage: Stage) -> Act {
        match self.rng.below(100) {
            0..7 => Act::Drop,
            7..12 if stage == Stage::Dot => Act::TakeAndDrop,
            12 => Act::Mute,
            _ => Act::Take,
        }
    }

    fn limit(&mut self, stage: Stage, now: Instant) -> Act {
        match stage {
            Stage::Greeting if self.open > 2 => {
                Act::Refuse(Rejection::GO_AWAY, "Too many connections")
            }
            Stage::Mail => {
                self.recent.retain(|&at| now.since(at) < MINUTE);
                if self.recent.len() >= 6 {
                    return Act::Refuse(Rejection::RATE, "Too many messages");
                }
                self.recent.push(now);
                Act::Take
            }
            Stage::Greeting | Stage::Hello | Stage::Rcpt | Stage::Data | Stage::Dot => Act::Take,
        }
    }

    fn delay(&mut self, stage: Stage) -> Duration {
        if self.manner != Manner::Slow {
            return Duration::ZERO;
        }
        if stage == Stage::Dot && self.rng.chance(100) {
            return MINUTE * 9 + SECOND * 30;
        }
        self.rng.time(SECOND / 100, SECOND * 40)
    }
}

impl World {
    /// The relay's connection has arrived at a host.
    pub(crate) fn greet(&mut self, conn: ConnId, host: usize) {
        let now = self.agenda.now();
        let who = &mut self.hosts[host];
        who.open += 1;
        let act = who.act(Stage::Greeting, "", now);
        let delay = who.delay(Stage::Greeting);
        let mut wire = Vec::new();
        let smtp = Connection::new(&who.config, &mut wire);
        let mut talk = Talk {
            host,
            life: self.life,
            conn,
            smtp,
            channel: Channel::plain(),
            handshaking: false,
            from: String::new(),
            recipients: Vec::new(),
            body: Vec::new(),
            messages: 0,
            last: String::new(),
            mute: false,
            sipping: false,
        };
        match act {
            Act::Take | Act::TakeAndDrop => {}
            Act::Refuse(why, text) => wire = format!("{why} {text}\r\n").into_bytes(),
            Act::Drop => wire.clear(),
            Act::Mute => {
                wire.clear();
                talk.mute = true;
            }
        }
        let over = matches!(act, Act::Refuse(..) | Act::Drop);
        // A connection that broke meanwhile is noticed when it is read.
        let _ = self
            .net
            .write(&mut self.agenda, conn, Side::Acceptor, &wire, delay);
        if over {
            self.end_talk(&talk);
        } else {
            self.talks.insert(conn, talk);
        }
    }

    fn end_talk(&mut self, talk: &Talk) {
        self.hosts[talk.host].open -= 1;
        self.net.close(&mut self.agenda, talk.conn, Side::Acceptor);
        self.owners.remove(&(talk.conn, Side::Acceptor));
    }

    /// Something arrived at a host, or a host that reads slowly reads on.
    pub(crate) fn hear(&mut self, conn: ConnId, sip: bool) {
        let Some(mut talk) = self.talks.remove(&conn) else {
            return;
        };
        let manner = self.hosts[talk.host].manner;
        if talk.mute {
            // It is there, and that is all. It goes when the other side does.
            if matches!(
                self.net
                    .read(&mut self.agenda, conn, Side::Acceptor, 65_536),
                Found::End | Found::Broken(_)
            ) {
                return self.end_talk(&talk);
            }
            self.talks.insert(conn, talk);
            return;
        }
        if manner == Manner::Sipping && !sip {
            if !talk.sipping {
                talk.sipping = true;
                let wait = self.rng.time(SECOND / 50, SECOND * 5);
                self.agenda.after(wait, Event::Sip(conn));
            }
            self.talks.insert(conn, talk);
            return;
        }
        talk.sipping = false;
        let max = if manner == Manner::Sipping {
            700
        } else {
            65_536
        };
        loop {
            match self.net.read(&mut self.agenda, conn, Side::Acceptor, max) {
                Found::Bytes(bytes) => {
                    if !self.take_bytes(&mut talk, &bytes) {
                        return self.end_talk(&talk);
                    }
                    if talk.mute {
                        break;
                    }
                    if manner == Manner::Sipping {
                        talk.sipping = true;
                        let wait = self.rng.time(SECOND / 50, SECOND * 5);
                        self.agenda.after(wait, Event::Sip(conn));
                        break;
                    }
                }
                Found::End | Found::Broken(_) => return self.end_talk(&talk),
                Found::Nothing => break,
            }
        }
        self.talks.insert(conn, talk);
    }

    /// Feeds the server machine. False if the connection is over.
    fn take_bytes(&mut self, talk: &mut Talk, bytes: &[u8]) -> bool {
        let mut scratch = Vec::new();
        let Ok(plain) = talk.channel.receive(bytes, &mut scratch) else {
            return false;
        };
        let plain = plain.to_vec();
        if talk.handshaking && !talk.channel.handshaking() {
            talk.handshaking = false;
            talk.smtp.tls_started();
        }
        let mut wire = Vec::new();
        talk.channel.flush(&mut wire);
        let mut delay = Duration::ZERO;
        let mut open = true;
        let mut input = &plain[..];
        let mut said = Vec::new();
        while open && !talk.mute {
            match talk.smtp.receive(input, &mut said) {
                Ok(Progress::Event { used, event }) => {
                    input = &input[used..];
                    let start_tls = matches!(event, Smtp::StartTls);
                    let mut smtp_wire = std::mem::take(&mut said);
                    open = self.decide(talk, event, &mut smtp_wire, &mut delay);
                    talk.channel.send(&smtp_wire, &mut wire);
                    if start_tls && let Some(tls) = &self.server_tls {
                        talk.handshaking = talk.channel.start_server(tls).is_ok();
                    }
                    open &= !talk.smtp.is_closed();
                }
                Ok(Progress::NeedMore { .. }) => break,
                Err(_) => open = false,
            }
        }
        talk.channel.send(&said, &mut wire);
        let written = self
            .net
            .write(&mut self.agenda, talk.conn, Side::Acceptor, &wire, delay);
        open && written.is_ok()
    }

    /// One event of a session. False if the host drops the connection.
    fn decide(
        &mut self,
        talk: &mut Talk,
        event: Smtp<'_>,
        wire: &mut Vec<u8>,
        delay: &mut Duration,
    ) -> bool {
        let now = self.agenda.now();
        let mut who = String::new();
        let stage = match &event {
            Smtp::Hello(_) => Stage::Hello,
            Smtp::Mail(mail) => {
                talk.from = mail
                    .from
                    .mailbox()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                talk.recipients.clear();
                talk.body.clear();
                let clear = self.profile.tls_required && !talk.smtp.is_tls();
                if clear {
                    self.book
                        .blame("mail was sent in clear text, though TLS is required".into());
                }
                Stage::Mail
            }
            Smtp::Rcpt(rcpt) => {
                who = rcpt.to.to_string();
                who = who.trim_matches(['<', '>']).to_owned();
                self.book.attempted(talk.life, &talk.from, &who, now);
                Stage::Rcpt
            }
            Smtp::Data { .. } => Stage::Data,
            Smtp::BodyEnd => Stage::Dot,
            Smtp::Body(octets) => {
                talk.body.extend_from_slice(octets);
                return true;
            }
            Smtp::StartTls => return talk.smtp.accept("", wire).is_ok(),
            Smtp::Auth(_) | Smtp::XClient(_) => return true,
            Smtp::Reset | Smtp::BodyRefused(_) | Smtp::Quit => return true,
        };
        let host = &mut self.hosts[talk.host];
        let act = host.act(stage, &format!("{} {who}", talk.from), now);
        *delay += host.delay(stage);
        let act = match act {
            Act::Take if who.starts_with("no-") => {
                Act::Refuse(Rejection::NO_SUCH_MAILBOX, "Nobody of this name")
            }
            other @ (Act::Take | Act::Refuse(..) | Act::Drop | Act::TakeAndDrop | Act::Mute) => {
                other
            }
        };
        match act {
            Act::Take => {
                match stage {
                    Stage::Rcpt => talk.recipients.push(who),
                    Stage::Dot => self.took(talk),
                    Stage::Greeting | Stage::Hello | Stage::Mail | Stage::Data => {}
                }
                talk.smtp.accept("", wire).is_ok()
            }
            Act::Refuse(why, text) => {
                self.tell(format_args!(
                    "mx{} {stage:?} {who}: {why} {text}",
                    talk.host
                ));
                talk.smtp.reject(why, text, wire).is_ok()
            }
            Act::Drop => {
                self.tell(format_args!(
                    "mx{} drops {:?} at {stage:?}",
                    talk.host, talk.conn
                ));
                false
            }
            Act::TakeAndDrop => {
                self.took(talk);
                self.tell(format_args!(
                    "mx{} drops {:?} after the dot",
                    talk.host, talk.conn
                ));
                false
            }
            Act::Mute => {
                self.tell(format_args!("mx{} falls silent at {stage:?}", talk.host));
                talk.mute = true;
                true
            }
        }
    }

    /// The host answers 250 to the final dot: the message is its own from now on.
    fn took(&mut self, talk: &mut Talk) {
        let now = self.agenda.now();
        // A message may take several transactions, when a host limits their recipients.
        if talk.last != talk.from || talk.from.is_empty() {
            talk.messages += 1;
            talk.last.clone_from(&talk.from);
        }
        self.tell(format_args!(
            "mx{} takes {} octets from <{}> for {}",
            talk.host,
            talk.body.len(),
            talk.from,
            talk.recipients.join(" ")
        ));
        if talk.messages > self.profile.connection_messages {
            self.book.blame(format!(
                "{} messages on one connection to mx{}, {} are allowed",
                talk.messages, talk.host, self.profile.connection_messages
            ));
        }
        self.book
            .received(talk.life, &talk.from, &talk.recipients, &talk.body, now);
    }

    /// Everybody behaves from now on.
    pub(crate) fn calm_hosts(&mut self) {
        for (index, host) in self.hosts.iter_mut().enumerate() {
            host.manner = Manner::Healthy;
            self.net.part(host_ip(index), self.agenda.now());
        }
    }
}

/// The certificate of every server of every world.
pub(crate) fn server_tls() -> Option<Arc<ServerTls>> {
    use std::sync::OnceLock;
    static TLS: OnceLock<Option<Arc<ServerTls>>> = OnceLock::new();
    TLS.get_or_init(|| {
        // Ed25519 signatures have one length: records are as long in a replay.
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).ok()?;
        let params = rcgen::CertificateParams::new(vec!["relay.test".to_owned()]).ok()?;
        let certificate = params.self_signed(&key).ok()?;
        let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).ok()?;
        ServerTls::new(vec![certificate.der().clone()], key).ok()
    })
    .clone()
}
