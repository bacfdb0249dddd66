//! Clients: the client machine of `smtp-proto`, and a ledger of what the relay promised.
//!
//! A client sends its messages over one connection after another, pipelined where it may. Some
//! transactions it spoils: it leaves at a stage, resets, drops the connection with the dot, or closes
//! its side early. What it was answered goes to the book.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use relay_core::channel::{Channel, Verify};
use relay_core::rng::Rng;
use smtp_proto::client::{Awaiting, Connection, Event as Heard, Hello, Progress};
use smtp_proto::{
    Extension, ForwardPath, Host, MailParams, Mechanism, Reply, ReversePath, Severity,
};

use super::agenda::{Dice, Slot};
use super::certs::Papers;
use super::net::{ConnId, Found, Side};
use super::profile::Profile;
use super::setup::{Door, PASSWORD, USER};
use super::world::{Event, World};

/// A client waits for any reply this long: longer than the relay has timers.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// A client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) index: u64,
    pub(crate) rng: Rng,
    pub(crate) left: u64,
    pub(crate) talk: Option<Talk>,
    pub(crate) patience: Option<Slot>,
    /// It spoils nothing, and must be served at once.
    pub(crate) probe: bool,
    /// Where it comes in.
    pub(crate) door: Door,
}

#[derive(Debug)]
pub(crate) struct Talk {
    pub(crate) conn: ConnId,
    pub(crate) smtp: Connection,
    pub(crate) channel: Channel,
    /// STARTTLS was answered, and its handshake runs.
    pub(crate) handshaking: bool,
    /// It logs in with another password than its own.
    pub(crate) lies: bool,
    /// What is to be sent when the pipeline has room.
    pub(crate) steps: VecDeque<Step>,
    pub(crate) mail: Option<Outgoing>,
    /// Messages to come on this connection.
    pub(crate) left: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Mail,
    Rcpt(usize),
    Data,
    Reset,
    Quit,
}

/// How a transaction is spoilt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoil {
    Nothing,
    /// Leaves instead of sending this step.
    Leave(u8),
    /// Resets after the recipients.
    Reset,
    /// Drops the connection in the body.
    HalfBody,
    /// Drops the connection right after the dot.
    DropAfterDot,
    /// Closes its side after the dot, and reads on.
    HalfClose,
}

/// A transaction.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) token: u64,
    pub(crate) from: ReversePath,
    pub(crate) to: Vec<ForwardPath>,
    pub(crate) params: MailParams,
    pub(crate) message: Vec<u8>,
    pub(crate) spoil: Spoil,
    pub(crate) mail_refused: bool,
    pub(crate) taken: Vec<usize>,
    pub(crate) data_refused: bool,
    /// The final dot is out.
    pub(crate) dotted: bool,
}

impl Client {
    pub(crate) fn new(index: u64, profile: &Profile, mut rng: Rng) -> Self {
        let door = match rng.chance(profile.client_tls_per_mille) {
            true => rng.pick(&[Door::StartTls, Door::Implicit]),
            false => Door::Trusted,
        };
        Self {
            index,
            rng,
            left: profile.messages,
            door,
            talk: None,
            patience: None,
            probe: false,
        }
    }

    /// A client with one message that must be taken.
    pub(crate) fn probe(index: u64, profile: &Profile, rng: Rng) -> Self {
        Self {
            probe: true,
            left: 1,
            ..Self::new(index, profile, rng)
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        let last = u8::try_from(self.index + 10).unwrap_or(255);
        SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 40_000))
    }

    pub(crate) fn ip(&self) -> IpAddr {
        self.address().ip()
    }

    pub(crate) fn is_done(&self) -> bool {
        self.left == 0 && self.talk.is_none()
    }
}

impl World {
    /// A client comes (again).
    pub(crate) fn client_goes(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if client.talk.is_some() || client.left == 0 {
            return;
        }
        let (peer, ip, door) = (client.address(), client.ip(), client.door);
        let Some(conn) = self.accept(peer, ip, index, door) else {
            if self.clients[index].probe {
                self.book
                    .blame("a client is not even accepted though all is well".into());
            }
            return self.client_rests(index);
        };
        let client = &mut self.clients[index];
        let left = client.rng.range(1, 6);
        let lies = door != Door::Trusted && !client.probe && client.rng.chance(30);
        let mut talk = Talk {
            conn,
            smtp: Connection::new(),
            channel: Channel::plain(),
            handshaking: false,
            lies,
            steps: VecDeque::new(),
            mail: None,
            left,
        };
        client.patience = Some(self.agenda.after(PATIENCE, Event::Impatient(index)));
        if door == Door::Implicit {
            self.begin_tls(&mut talk);
            let _ = self.client_writes(&mut talk, &mut Vec::new());
        }
        self.clients[index].talk = Some(talk);
    }

    /// A client comes again later, if it has something to send.
    fn client_rests(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if client.left > 0 {
            let most = self.profile.duration.as_micros() as u64 / (self.profile.messages + 1);
            let wait = Duration::from_micros(client.rng.below(most.max(1)));
            self.agenda.after(wait, Event::ClientGoes(index));
        }
    }

    /// Something arrived at a client.
    pub(crate) fn client_hears(&mut self, index: usize) {
        let Some(mut talk) = self.clients[index].talk.take() else {
            return;
        };
        loop {
            match self
                .net
                .read(&mut self.agenda, talk.conn, Side::Opener, 65_536)
            {
                Found::Bytes(bytes) => {
                    if !self.client_reads(index, &mut talk, &bytes) {
                        return self.client_ends(index, talk, "it is done");
                    }
                }
                Found::End => return self.client_ends(index, talk, "the relay closed"),
                Found::Broken(kind) => {
                    return self.client_ends(index, talk, &format!("{kind}"));
                }
                Found::Nothing => break,
            }
        }
        self.clients[index].talk = Some(talk);
    }

    /// The relay has been silent for very long.
    pub(crate) fn client_loses_patience(&mut self, index: usize) {
        if let Some(talk) = self.clients[index].talk.take() {
            self.client_ends(index, talk, "nothing came");
        }
    }

    /// False if the connection is over.
    fn client_reads(&mut self, index: usize, talk: &mut Talk, bytes: &[u8]) -> bool {
        if let Some(slot) = self.clients[index].patience.take() {
            self.agenda.cancel(slot);
        }
        self.clients[index].patience = Some(self.agenda.after(PATIENCE, Event::Impatient(index)));
        let mut wire = Vec::new();
        let mut open = true;
        let mut scratch = Vec::new();
        let Ok(plain) = talk.channel.receive(bytes, &mut scratch) else {
            return false;
        };
        let plain = plain.to_vec();
        let mut input = &plain[..];
        if talk.handshaking && !talk.channel.handshaking() {
            talk.handshaking = false;
            talk.smtp.tls_started();
            open = say_hello(talk, &mut wire);
        }
        loop {
            match talk.smtp.receive(input) {
                Ok(Progress::Event { used, event }) => {
                    input = &input[used..];
                    match event {
                        Heard::Reply { answers, reply } => {
                            open &= self.client_answered(index, talk, answers, &reply, &mut wire);
                        }
                        Heard::Closing { reply } => {
                            self.tell(format_args!("client {index} is told {reply}"));
                            open = false;
                        }
                    }
                    if !open {
                        break;
                    }
                }
                Ok(Progress::NeedMore { .. }) => break,
                Err(why) => {
                    self.book
                        .blame(format!("a client cannot follow the relay's replies: {why}"));
                    return false;
                }
            }
        }
        open = open && self.client_sends(index, talk, &mut wire);
        let sent = self.client_writes(talk, &mut wire);
        let half = talk
            .mail
            .as_ref()
            .is_some_and(|m| m.dotted && m.spoil == Spoil::HalfClose);
        if half {
            self.net.finish(&mut self.agenda, talk.conn, Side::Opener);
        }
        open && sent
    }

    /// Sends `wire`, under TLS if there is TLS, and what TLS itself has to say. False if that failed.
    fn client_writes(&mut self, talk: &mut Talk, wire: &mut Vec<u8>) -> bool {
        let mut out = Vec::new();
        talk.channel.send(wire, &mut out);
        talk.channel.flush(&mut out);
        wire.clear();
        let (conn, side) = (talk.conn, Side::Opener);
        self.net
            .write(&mut self.agenda, conn, side, &out, Duration::ZERO)
            .is_ok()
    }

    fn begin_tls(&mut self, talk: &mut Talk) {
        let now = self.now().unix;
        if let Some(papers) = Papers::get() {
            let roots = &papers.roots;
            let _ = talk
                .channel
                .start_client(roots, Verify::Record, "relay.test", now);
        }
    }

    /// The reply to EHLO: TLS, then the login, then mail. False if the client closes.
    fn client_known(&mut self, index: usize, talk: &mut Talk, wire: &mut Vec<u8>) -> bool {
        let door = self.clients[index].door;
        let tls = talk.channel.is_tls();
        if door != Door::Trusted && !tls && talk.smtp.capabilities().has(Extension::Auth) {
            self.book
                .blame(format!("client {index} is offered AUTH before TLS"));
        }
        if door == Door::StartTls && !tls {
            return talk.smtp.start_tls(wire).is_ok();
        }
        if door != Door::Trusted && !talk.smtp.is_authenticated() {
            let password = if talk.lies { "let me in" } else { PASSWORD };
            let secret = format!("\0{USER}\0{password}");
            let secret = Some(secret.as_bytes());
            return talk.smtp.auth(Mechanism::Plain, secret, wire).is_ok();
        }
        self.client_begins(index, talk);
        true
    }

    /// The login was answered. False if the client closes.
    fn client_logged_in(&mut self, index: usize, talk: &mut Talk, ok: bool, reply: &Reply) -> bool {
        if ok && talk.lies {
            self.book
                .blame(format!("client {index} is let in with a wrong password"));
        }
        if !ok && !talk.lies && self.clients[index].probe {
            self.book.blame(format!(
                "client {index} may not log in though all is well: {reply}"
            ));
        }
        if !ok {
            self.tell(format_args!("client {index} AUTH: {reply}"));
            return false;
        }
        self.client_begins(index, talk);
        true
    }

    /// One reply. False if the client closes.
    fn client_answered(
        &mut self,
        index: usize,
        talk: &mut Talk,
        answers: Awaiting,
        reply: &Reply,
        wire: &mut Vec<u8>,
    ) -> bool {
        let ok = matches!(reply.severity(), Severity::Success | Severity::Intermediate);
        if reply.code().number() == 421
            && reply.enhanced().is_some_and(|e| e.to_string() == "4.4.2")
        {
            let waiting = talk.smtp.awaiting().count();
            self.book.blame(format!(
                "client {index} is told that it was silent, while the relay owed it an answer to \
                 {answers:?} and {waiting} more"
            ));
        }
        match answers {
            Awaiting::Greeting if ok => return say_hello(talk, wire),
            Awaiting::Hello(_) if ok => return self.client_known(index, talk, wire),
            Awaiting::StartTls if ok => {
                self.begin_tls(talk);
                talk.handshaking = true;
            }
            Awaiting::Auth => return self.client_logged_in(index, talk, ok, reply),
            Awaiting::StartTls | Awaiting::Greeting | Awaiting::Hello(_) | Awaiting::Quit => {
                return false;
            }
            Awaiting::Mail => {
                if let Some(mail) = &mut talk.mail {
                    mail.mail_refused = !ok;
                    if !ok {
                        self.tell(format_args!("client {index} MAIL: {reply}"));
                    }
                }
            }
            Awaiting::Rcpt { index: rcpt } => {
                if let Some(mail) = &mut talk.mail
                    && ok
                {
                    mail.taken.push(rcpt);
                }
            }
            Awaiting::Data => return self.client_data(index, talk, ok, wire),
            Awaiting::BodyEnd { .. } => self.client_concluded(index, talk, reply),
            Awaiting::Reset => {
                if let Some(mail) = talk.mail.take() {
                    self.book.abandoned(mail.token);
                }
                self.client_begins(index, talk);
            }
            Awaiting::Chunk | Awaiting::Noop | Awaiting::XClient => {}
        }
        true
    }

    /// DATA was answered.
    fn client_data(&mut self, index: usize, talk: &mut Talk, ok: bool, wire: &mut Vec<u8>) -> bool {
        let Some(mail) = &mut talk.mail else {
            return false;
        };
        if !ok {
            mail.data_refused = true;
            return true;
        }
        if mail.taken.is_empty() {
            return talk.smtp.body_end(wire).is_ok();
        }
        if mail.spoil == Spoil::HalfBody {
            let half = &mail.message[..mail.message.len() / 2];
            let _ = talk.smtp.body(half, wire);
            let _ = self.client_writes(talk, wire);
            wire.clear();
            return false;
        }
        let sent = talk.smtp.body(&mail.message, wire).is_ok() && talk.smtp.body_end(wire).is_ok();
        mail.dotted = true;
        let (token, taken) = (mail.token, mail.taken.clone());
        self.book.dotted(token, &taken);
        if mail.spoil == Spoil::DropAfterDot {
            let _ = self.client_writes(talk, wire);
            self.tell(format_args!(
                "client {index} leaves after the dot of t{token}"
            ));
            return false;
        }
        sent
    }

    /// The final dot was answered.
    fn client_concluded(&mut self, index: usize, talk: &mut Talk, reply: &Reply) {
        let Some(mail) = talk.mail.take() else {
            return;
        };
        let now = self.agenda.now();
        self.tell(format_args!("client {index} t{}: {reply}", mail.token));
        if reply.severity() == Severity::Success {
            let text = reply.sanitised();
            let id = text.rsplit(' ').next().unwrap_or_default().to_owned();
            self.book.acknowledged(mail.token, id, now);
        } else {
            self.client_refused(index, mail.token);
        }
        self.client_begins(index, talk);
    }

    pub(crate) fn client_refused(&mut self, index: usize, token: u64) {
        if self.clients[index].probe {
            self.book
                .blame(format!("t{token} is refused though all is well"));
        }
        self.book.refused(token);
    }

    /// The next transaction of a connection, or its end.
    pub(crate) fn client_begins(&mut self, index: usize, talk: &mut Talk) {
        talk.steps.clear();
        if talk.left == 0 || self.clients[index].left == 0 {
            talk.steps.push_back(Step::Quit);
            return;
        }
        talk.left -= 1;
        self.clients[index].left -= 1;
        let mail = self.compose(index);
        talk.steps.push_back(Step::Mail);
        talk.steps.extend((0..mail.to.len()).map(Step::Rcpt));
        let reset = mail.spoil == Spoil::Reset;
        talk.steps
            .push_back(if reset { Step::Reset } else { Step::Data });
        talk.mail = Some(mail);
    }

    /// The connection is over, one way or another.
    fn client_ends(&mut self, index: usize, talk: Talk, why: &str) {
        if let Some(slot) = self.clients[index].patience.take() {
            self.agenda.cancel(slot);
        }
        if let Some(mail) = &talk.mail {
            self.tell(format_args!("client {index} t{}: {why}", mail.token));
            if mail.dotted {
                self.book.in_doubt(mail.token);
            } else {
                self.book.abandoned(mail.token);
            }
            if self.clients[index].probe {
                self.book.blame(format!(
                    "t{} found no answer though all is well",
                    mail.token
                ));
            }
        }
        self.net.close(&mut self.agenda, talk.conn, Side::Opener);
        self.owners.remove(&(talk.conn, Side::Opener));
        self.client_rests(index);
    }
}

fn say_hello(talk: &mut Talk, wire: &mut Vec<u8>) -> bool {
    Host::parse("client.test").is_ok_and(|name| talk.smtp.hello(Hello::Ehlo, &name, wire).is_ok())
}
