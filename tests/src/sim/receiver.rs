//! Receivers: the server machine of `smtp-proto` with manners, and a record of what it took.
//!
//! A host decides at each stage of a session: take it, refuse it, take its time, drop the connection,
//! or fall silent. What it answers 250 to is in the book before the answer is on its way.

use std::time::Duration;

use relay_core::bounce::return_path::NotOurs;
use relay_core::channel::Channel;
use relay_core::config::TlsLevel;
use relay_core::time::Instant;
use smtp_proto::Mailbox;
use smtp_proto::server::{Auth, Connection, Event as Smtp, Progress, Rejection};

use super::agenda::Dice;
use super::book::Subject;
use super::certs::Paper;
use super::host::{Act, Stage, Talk};
use super::names::host_ip;
use super::net::{ConnId, Found, Side};
use super::profile::Manner;
use super::setup::keyring;
use super::text::token_of;
use super::world::{Event, World};

const SECOND: Duration = Duration::from_secs(1);

impl World {
    /// The relay's connection has arrived at a host, for a delivery that began then.
    pub(crate) fn greet(&mut self, conn: ConnId, host: usize, implicit: bool, begun: Instant) {
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
            begun,
            conn,
            smtp,
            channel: Channel::plain(),
            handshaking: false,
            greeting: Vec::new(),
            from: String::new(),
            verp: None,
            first: None,
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
        if implicit && let Some(tls) = self.hosts[host].tls() {
            talk.smtp.tls_started();
            talk.handshaking = false;
            talk.greeting = std::mem::take(&mut wire);
            // It cannot fail on a channel that is new.
            let _ = talk.channel.start_server(tls);
        }
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
        if !talk.channel.handshaking() {
            let greeting = std::mem::take(&mut talk.greeting);
            talk.channel.send(&greeting, &mut wire);
        }
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
                    if start_tls && self.hosts[talk.host].breaks_tls {
                        wire.extend_from_slice(b"\x15\x03\x01\x00\x02\x02\x28");
                        open = false;
                    } else if start_tls && let Some(tls) = self.hosts[talk.host].tls() {
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
                talk.from = self.sender_of(talk, mail.from.mailbox());
                talk.recipients.clear();
                talk.body.clear();
                Stage::Mail
            }
            Smtp::Rcpt(rcpt) => {
                who = rcpt.to.to_string();
                who = who.trim_matches(['<', '>']).to_owned();
                self.check_rcpt(talk, &who);
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
            Smtp::Auth(Auth::Cancelled) | Smtp::XClient(_) => return true,
            Smtp::Auth(auth) => return self.hear_login(talk, auth, wire),
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

    /// A login: only the relay's own secret comes here, and only under TLS.
    fn hear_login(&mut self, talk: &mut Talk, auth: &Auth, wire: &mut Vec<u8>) -> bool {
        if !talk.channel.is_tls() {
            self.book.blame(format!(
                "a password is shown to mx{} in clear text",
                talk.host
            ));
        }
        let secret = match auth {
            Auth::Start {
                initial_response, ..
            } => initial_response.as_ref(),
            Auth::Response(response) => Some(response),
            Auth::Cancelled => None,
        };
        match secret {
            Some(_) => talk.smtp.accept("", wire).is_ok(),
            None => talk.smtp.challenge(b"", wire).is_ok(),
        }
    }

    /// The rules of who may be sent to here, and how.
    fn check_rcpt(&mut self, talk: &mut Talk, who: &str) {
        // RFC 8460 §5.3: the mail that tells of TLS failures goes whatever TLS there is.
        if !who.starts_with("tlsrpt@") {
            self.check_tls(talk);
        }
        talk.first.get_or_insert_with(|| domain_of(who).to_owned());
        self.check_policy(talk, who);
        self.check_return_path(talk, who);
    }

    /// The sender behind a return path, where mail leaves under one: each must be one of the relay's.
    fn sender_of(&mut self, talk: &mut Talk, from: Option<&Mailbox>) -> String {
        talk.verp = None;
        let Some(from) = from else {
            return String::new();
        };
        if !self.profile.return_path || talk.life < self.life {
            return from.to_string();
        }
        let token = match keyring().verify(from, self.now().unix) {
            Ok(token) => token,
            Err(NotOurs::Expired(token)) if self.profile.clock_jumps > 0 => token,
            Err(why) => {
                self.book
                    .blame(format!("mail leaves under <{from}>, no return path: {why}"));
                return from.to_string();
            }
        };
        let number = match self.book.ids.get(&token.message.to_string()) {
            Some(Subject::Message(number)) => *number,
            Some(Subject::Report(_) | Subject::Tls(..)) | None => 0,
        };
        talk.verp = Some(token.recipient);
        let entry = self.book.entries.get(&number);
        entry.map(|entry| entry.sender.clone()).unwrap_or_default()
    }

    /// A return path names the one recipient of its transaction.
    fn check_return_path(&mut self, talk: &Talk, who: &str) {
        let Some(index) = talk.verp else {
            return;
        };
        let token = token_of(&talk.from);
        let entry = token.and_then(|token| self.book.entries.get(&token));
        let named = entry.and_then(|entry| entry.order.get(index as usize));
        if named.is_none_or(|named| named != who) {
            let named = named.cloned();
            self.book.blame(format!(
                "mail for {who} leaves under the return path of {named:?} (t{token:?})"
            ));
        }
    }

    /// The rules of TLS, at RCPT: what the configuration, the host's TLSA records and the message itself
    /// ask for.
    fn check_tls(&mut self, talk: &Talk) {
        let host = talk.host;
        let demands = [
            (self.level_of(host), "the configuration"),
            (self.names.dane_level(host), "its TLSA record"),
            (self.book.level_of(token_of(&talk.from)), "REQUIRETLS"),
        ];
        let tls = talk.smtp.is_tls();
        let verified = tls && self.hosts[host].paper == Paper::Good;
        for (level, who) in demands {
            let kept = match level {
                TlsLevel::None | TlsLevel::Opportunistic => true,
                TlsLevel::Require => tls,
                TlsLevel::Verify | TlsLevel::Dane => verified,
            };
            if !kept {
                let how = if tls {
                    "without a certificate that proves it"
                } else {
                    "in clear text"
                };
                self.book.blame(format!(
                    "mail is sent to mx{host} {how}, where {who} asks for more"
                ));
            }
        }
    }

    fn level_of(&self, host: usize) -> TlsLevel {
        match self.names.is_smart(host) {
            true => self.profile.smart_tls,
            false => self.profile.delivery_tls,
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
        // A session counts for the domain that it was made for, whatever else it carries.
        if talk.life == self.life
            && !talk.from.is_empty()
            && let Some(first) = &talk.first
            && talk.recipients.iter().any(|to| domain_of(to) == first)
        {
            let first = first.clone();
            self.session_seen(&first);
        }
    }

    /// Everybody behaves from now on.
    pub(crate) fn calm_hosts(&mut self) {
        for (index, host) in self.hosts.iter_mut().enumerate() {
            host.mend();
            self.net.part(host_ip(index), self.agenda.now());
        }
    }
}

fn domain_of(address: &str) -> &str {
    address.rsplit('@').next().unwrap_or_default()
}
