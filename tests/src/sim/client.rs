//! Clients: the client machine of `smtp-proto`, and a ledger of what the relay promised.
//!
//! A client sends its messages over one connection after another, pipelined where it may. Some
//! transactions it spoils: it leaves at a stage, resets, drops the connection with the dot, or closes
//! its side early. What it was answered goes to the book.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use relay_core::rng::Rng;
use smtp_proto::client::{Awaiting, Connection, Event as Heard, Hello, Progress, SendError};
use smtp_proto::{ForwardPath, Host, MailParams, RcptParams, Reply, ReversePath, Severity};

use super::agenda::{Dice, Slot};
use super::names::sender_domain;
use super::net::{ConnId, Found, Side};
use super::world::{Event, World};

/// A client waits for any reply this long: longer than the relay has timers.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// A client.
#[derive(Debug)]
pub(crate) struct Client {
    index: u64,
    rng: Rng,
    left: u64,
    talk: Option<Talk>,
    patience: Option<Slot>,
    /// It spoils nothing, and must be served at once.
    probe: bool,
}

#[derive(Debug)]
struct Talk {
    conn: ConnId,
    smtp: Connection,
    /// What is to be sent when the pipeline has room.
    steps: VecDeque<Step>,
    mail: Option<Outgoing>,
    /// Messages to come on this connection.
    left: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Mail,
    Rcpt(usize),
    Data,
    Reset,
    Quit,
}

/// How a transaction is spoilt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spoil {
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
struct Outgoing {
    token: u64,
    from: ReversePath,
    to: Vec<ForwardPath>,
    message: Vec<u8>,
    spoil: Spoil,
    mail_refused: bool,
    taken: Vec<usize>,
    data_refused: bool,
    /// The final dot is out.
    dotted: bool,
}

impl Client {
    pub(crate) fn new(index: u64, messages: u64, rng: Rng) -> Self {
        Self {
            index,
            rng,
            left: messages,
            talk: None,
            patience: None,
            probe: false,
        }
    }

    /// A client with one message that must be taken.
    pub(crate) fn probe(index: u64, rng: Rng) -> Self {
        Self {
            probe: true,
            ..Self::new(index, 1, rng)
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
        let (peer, ip) = (client.address(), client.ip());
        let Some(conn) = self.accept(peer, ip, index) else {
            if self.clients[index].probe {
                self.book
                    .blame("a client is not even accepted though all is well".into());
            }
            return self.client_rests(index);
        };
        let client = &mut self.clients[index];
        let left = client.rng.range(1, 6);
        client.talk = Some(Talk {
            conn,
            smtp: Connection::new(),
            steps: VecDeque::new(),
            mail: None,
            left,
        });
        client.patience = Some(self.agenda.after(PATIENCE, Event::Impatient(index)));
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
        let mut input = bytes;
        let mut wire = Vec::new();
        let mut open = true;
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
        let sent = self.net.write(
            &mut self.agenda,
            talk.conn,
            Side::Opener,
            &wire,
            Duration::ZERO,
        );
        let half = talk
            .mail
            .as_ref()
            .is_some_and(|m| m.dotted && m.spoil == Spoil::HalfClose);
        if half {
            self.net.finish(&mut self.agenda, talk.conn, Side::Opener);
        }
        open && sent.is_ok()
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
            Awaiting::Greeting if ok => {
                let Ok(name) = Host::parse("client.test") else {
                    return false;
                };
                return talk.smtp.hello(Hello::Ehlo, &name, wire).is_ok();
            }
            Awaiting::Hello(_) if ok => self.client_begins(index, talk),
            Awaiting::Greeting | Awaiting::Hello(_) | Awaiting::Quit => return false,
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
            Awaiting::StartTls | Awaiting::Auth | Awaiting::XClient => {}
            Awaiting::Chunk | Awaiting::Noop => {}
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
            let _ = self.net.write(
                &mut self.agenda,
                talk.conn,
                Side::Opener,
                wire,
                Duration::ZERO,
            );
            wire.clear();
            return false;
        }
        let sent = talk.smtp.body(&mail.message, wire).is_ok() && talk.smtp.body_end(wire).is_ok();
        mail.dotted = true;
        let (token, taken) = (mail.token, mail.taken.clone());
        self.book.dotted(token, &taken);
        if mail.spoil == Spoil::DropAfterDot {
            let _ = self.net.write(
                &mut self.agenda,
                talk.conn,
                Side::Opener,
                wire,
                Duration::ZERO,
            );
            self.tell(format_args!(
                "client {index} leaves after the dot of t{token}"
            ));
            wire.clear();
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

    fn client_refused(&mut self, index: usize, token: u64) {
        if self.clients[index].probe {
            self.book
                .blame(format!("t{token} is refused though all is well"));
        }
        self.book.refused(token);
    }

    /// The next transaction of a connection, or its end.
    fn client_begins(&mut self, index: usize, talk: &mut Talk) {
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

    fn compose(&mut self, index: usize) -> Outgoing {
        let token = self.next_token;
        self.next_token += 1;
        let client = &mut self.clients[index];
        let rng = &mut client.rng;
        let sender = format!("t{token}@{}", sender_domain(client.index));
        let count = rng.range(1, self.profile.recipients);
        let to: Vec<String> = (0..count)
            .map(|number| {
                let kind = if rng.chance(80) { "no-" } else { "" };
                format!("{kind}r{token}x{number}@{}", self.names.any_domain(rng))
            })
            .collect();
        let spoil = if client.probe || self.calm || !rng.chance(self.profile.client_per_mille) {
            Spoil::Nothing
        } else {
            rng.pick(&[
                Spoil::Leave(0),
                Spoil::Leave(1),
                Spoil::Leave(2),
                Spoil::Reset,
                Spoil::Reset,
                Spoil::HalfBody,
                Spoil::DropAfterDot,
                Spoil::HalfClose,
            ])
        };
        let message = write_message(token, &sender, &to, self.profile.body, rng);
        self.book.began(token, &to, &message);
        self.tell(format_args!(
            "client {index} begins t{token} for {} ({spoil:?})",
            to.join(" ")
        ));
        let path = |text: &String| text.parse().ok().map(ForwardPath::Mailbox);
        Outgoing {
            token,
            from: sender
                .parse()
                .map_or(ReversePath::Null, ReversePath::Mailbox),
            to: to.iter().filter_map(path).collect(),
            message,
            spoil,
            mail_refused: false,
            taken: Vec::new(),
            data_refused: false,
            dotted: false,
        }
    }

    /// Sends what may be sent. False if the client leaves.
    fn client_sends(&mut self, index: usize, talk: &mut Talk, wire: &mut Vec<u8>) -> bool {
        while let Some(&step) = talk.steps.front() {
            let refused = talk.mail.as_ref().is_some_and(|mail| mail.mail_refused);
            if refused && step != Step::Quit {
                talk.steps.clear();
                break;
            }
            let spoil = talk.mail.as_ref().map_or(Spoil::Nothing, |mail| mail.spoil);
            let leaves = match (spoil, step) {
                (Spoil::Leave(0), Step::Mail) | (Spoil::Leave(1), Step::Rcpt(_)) => true,
                (Spoil::Leave(2), Step::Data) => true,
                (_, _) => false,
            };
            if leaves {
                self.tell(format_args!("client {index} leaves at {step:?}"));
                return false;
            }
            let sent = match (step, &talk.mail) {
                (Step::Mail, Some(mail)) => {
                    talk.smtp.mail(&mail.from, &MailParams::default(), wire)
                }
                (Step::Rcpt(rcpt), Some(mail)) => {
                    talk.smtp.rcpt(&mail.to[rcpt], &RcptParams::default(), wire)
                }
                (Step::Data, _) => talk.smtp.data(wire),
                (Step::Reset, _) => talk.smtp.reset(wire),
                (Step::Quit, _) => talk.smtp.quit(wire),
                (Step::Mail | Step::Rcpt(_), None) => return false,
            };
            match sent {
                Ok(()) => talk.steps.pop_front(),
                Err(SendError::NotYet | SendError::BurstFull) => return true,
                Err(_) => return false,
            };
        }
        self.client_gives_up(index, talk, wire)
    }

    /// A transaction that led to nothing, once all its replies are here.
    fn client_gives_up(&mut self, index: usize, talk: &mut Talk, wire: &mut Vec<u8>) -> bool {
        let idle = talk.smtp.awaiting().next().is_none();
        // A reset concludes it with its own reply.
        let failed = talk
            .mail
            .as_ref()
            .is_some_and(|m| m.mail_refused || m.data_refused);
        if !(idle && failed) {
            return true;
        }
        if let Some(mail) = talk.mail.take() {
            let nobody = mail.taken.is_empty() && !mail.mail_refused;
            if nobody {
                self.book.abandoned(mail.token);
            } else {
                self.client_refused(index, mail.token);
            }
        }
        self.client_begins(index, talk);
        self.client_sends(index, talk, wire)
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

fn write_message(token: u64, sender: &str, to: &[String], body: u64, rng: &mut Rng) -> Vec<u8> {
    let mut text = format!(
        "From: <{sender}>\r\nTo: {}\r\nDate: Mon, 23 Nov 2026 22:05:31 +0000\r\n\
         Message-ID: <{sender}>\r\nSubject: number {token}\r\n\r\n",
        to.iter()
            .map(|to| format!("<{to}>"))
            .collect::<Vec<_>>()
            .join(",\r\n ")
    );
    let length = rng.below(body) as usize;
    while text.len() < length {
        let line = match rng.below(10) {
            0 => ".".to_owned(),
            1 => format!("..{token}"),
            2 => String::new(),
            3 => "MAIL FROM:<x@example.com>".to_owned(),
            _ => format!("{:060x}", rng.next_u64()),
        };
        text.push_str(&line);
        text.push_str("\r\n");
    }
    text.into_bytes()
}
