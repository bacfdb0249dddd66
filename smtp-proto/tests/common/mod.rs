//! A session above the server connection that decides by what the client writes, so that a test
//! can ask for any outcome in the input itself.
//!
//! | where | word | outcome |
//! |---|---|---|
//! | EHLO, HELO | `refuse-hello` | 550 |
//! | MAIL local part | `refuse` | 553; `nodata`: 451 at DATA; `nomid`: 452 at the first octets; `noend`: 554 at the end |
//! | RCPT local part | `refuse` | 550; `later`: 450 |
//! | AUTH | PLAIN `\0u\0p` | 235, anything else 535; LOGIN `u`, `p` by two challenges |
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::sync::Arc;

use smtp_proto::server::{Auth, Config, Connection, Event, Fatal, Progress, Rejection};
use smtp_proto::{Extension, Mechanism, ReversePath};

/// All that can be offered, with TLS to start.
pub fn config() -> Config {
    Config::new("mx.test".parse().unwrap())
        .with(Extension::StartTls)
        .with(Extension::DeliverBy)
        .with(Extension::FutureRelease)
        .with(Extension::MtPriority)
        .with_auth(&[
            Mechanism::Plain,
            Mechanism::Login,
            Mechanism::ScramSha256Plus,
        ])
}

pub struct Session {
    pub smtp: Connection,
    /// All that was written to the client.
    pub wire: Vec<u8>,
    /// All that happened, each as a line.
    pub log: Vec<String>,
    /// Messages that were accepted at their end.
    pub messages: Vec<Vec<u8>>,
    pub fatal: Option<Fatal>,
    mail_from: String,
    body: Vec<u8>,
    challenges: usize,
}

impl Session {
    pub fn new(config: Config) -> Self {
        let mut wire = Vec::new();
        let smtp = Connection::new(&Arc::new(config), &mut wire);
        Self {
            smtp,
            wire,
            log: Vec::new(),
            messages: Vec::new(),
            fatal: None,
            mail_from: String::new(),
            body: Vec::new(),
            challenges: 0,
        }
    }

    /// Gives octets that came, as one read would.
    pub fn receive(&mut self, mut input: &[u8]) {
        while self.fatal.is_none() {
            match self.smtp.receive(input, &mut self.wire) {
                Ok(Progress::Event { used, event }) => {
                    input = &input[used..];
                    self.decide(event);
                }
                Ok(Progress::NeedMore { used }) => {
                    assert_eq!(used, input.len(), "no verdict is pending, so all is used");
                    return;
                }
                Err(fatal) => {
                    self.log.push(format!("fatal: {fatal}"));
                    self.fatal = Some(fatal);
                    assert!(self.smtp.is_closed());
                }
            }
        }
    }

    /// The handshake that follows an accepted STARTTLS, or comes before everything.
    pub fn start_tls(&mut self) {
        self.smtp.tls_started();
    }

    /// What was written since the last call, as lines.
    pub fn take_lines(&mut self) -> Vec<String> {
        let wire = String::from_utf8(std::mem::take(&mut self.wire)).unwrap();
        assert!(
            wire.is_empty() || wire.ends_with("\r\n"),
            "whole lines: {wire:?}"
        );
        wire.split_terminator("\r\n").map(str::to_owned).collect()
    }

    /// What was written since the last call, as the codes of whole replies.
    pub fn take_codes(&mut self) -> Vec<u16> {
        let lines = self.take_lines();
        let last = lines.iter().filter(|line| line.as_bytes()[3] == b' ');
        last.map(|line| line[..3].parse().unwrap()).collect()
    }

    fn decide(&mut self, event: Event<'_>) {
        let pending = self.smtp.is_pending();
        let (verdict, needs_verdict) = self.verdict(event);
        assert_eq!(pending, needs_verdict, "as the documentation of Event says");
        let wire = &mut self.wire;
        match verdict {
            Verdict::None => assert!(self.smtp.accept("", wire).is_err()),
            Verdict::Accept(text) => self.smtp.accept(text, wire).unwrap(),
            Verdict::Reject(why) => self.smtp.reject(why, "no", wire).unwrap(),
            Verdict::Challenge(data) => self.smtp.challenge(data, wire).unwrap(),
        }
    }

    fn verdict(&mut self, event: Event<'_>) -> (Verdict, bool) {
        let from = |this: &Self, word| this.mail_from.starts_with(word);
        let over = matches!(
            event,
            Event::Hello(_)
                | Event::StartTls
                | Event::XClient(_)
                | Event::Reset
                | Event::Quit
                | Event::BodyRefused(_)
                | Event::BodyEnd
        );
        let body = if over {
            std::mem::take(&mut self.body)
        } else {
            Vec::new()
        };
        match event {
            Event::Hello(hello) => {
                self.log.push(format!("{:?} {}", hello.verb, hello.name));
                let refused = hello.name.as_str() == "refuse-hello";
                (
                    accept_unless(refused, Rejection::permanent(550, 7, 1)),
                    true,
                )
            }
            Event::StartTls => (Verdict::Accept(""), true),
            Event::XClient(said) => {
                self.log.push(format!("XCLIENT {said}"));
                let refused = said.login.is_some();
                (accept_unless(refused, Rejection::POLICY), true)
            }
            Event::Auth(auth) => self.auth(auth),
            Event::Mail(mail) => {
                self.log.push(format!("MAIL {}{}", mail.from, mail.params));
                self.mail_from = match &mail.from {
                    ReversePath::Null => String::new(),
                    ReversePath::Mailbox(mailbox) => mailbox.local_part().to_owned(),
                };
                (
                    accept_unless(from(self, "refuse"), Rejection::SENDER_NOT_ALLOWED),
                    true,
                )
            }
            Event::Rcpt(rcpt) => {
                self.log.push(format!("RCPT {}{}", rcpt.to, rcpt.params));
                let local = rcpt.to.mailbox().map_or("", |mailbox| mailbox.local_part());
                let verdict = match local {
                    "refuse" => Verdict::Reject(Rejection::NO_SUCH_MAILBOX),
                    "later" => Verdict::Reject(Rejection::RATE),
                    _ => Verdict::Accept(""),
                };
                (verdict, true)
            }
            Event::Data { chunked } => {
                self.log.push(format!("DATA chunked={chunked}"));
                (
                    accept_unless(from(self, "nodata"), Rejection::LOCAL_ERROR),
                    true,
                )
            }
            Event::Body(octets) => {
                assert!(!octets.is_empty());
                self.body.extend_from_slice(octets);
                if from(self, "nomid") {
                    self.log.push("refused in the middle".to_owned());
                    self.body.clear();
                    return (Verdict::Reject(Rejection::STORAGE_FULL), false);
                }
                (Verdict::None, false)
            }
            Event::BodyEnd => {
                self.log
                    .push(format!("message {:?}", body.escape_ascii().to_string()));
                if from(self, "noend") {
                    return (Verdict::Reject(Rejection::permanent(554, 6, 0)), true);
                }
                self.messages.push(body);
                (Verdict::Accept("Ok: queued"), true)
            }
            Event::BodyRefused(why) => {
                self.log.push(format!("body refused {why}"));
                (Verdict::None, false)
            }
            Event::Reset => {
                self.log.push("reset".to_owned());
                (Verdict::None, false)
            }
            Event::Quit => {
                self.log.push("quit".to_owned());
                (Verdict::None, false)
            }
        }
    }

    fn auth(&mut self, auth: Auth) -> (Verdict, bool) {
        self.log.push(format!("{auth:?}"));
        let verdict = match auth {
            Auth::Cancelled => return (Verdict::None, false),
            Auth::Start {
                mechanism: Mechanism::Plain,
                initial_response: Some(response),
            } => accept_unless(response != b"\0u\0p", Rejection::WRONG_CREDENTIALS),
            Auth::Start {
                mechanism: Mechanism::Plain,
                initial_response: None,
            } => {
                self.challenges = 1;
                Verdict::Challenge(b"")
            }
            Auth::Start { .. } => {
                self.challenges = 2;
                Verdict::Challenge(b"Username:")
            }
            Auth::Response(_) if self.challenges == 2 => {
                self.challenges = 1;
                Verdict::Challenge(b"Password:")
            }
            Auth::Response(response) => {
                let right = response == b"p" || response == b"\0u\0p";
                accept_unless(!right, Rejection::WRONG_CREDENTIALS)
            }
        };
        (verdict, true)
    }
}

enum Verdict {
    None,
    Accept(&'static str),
    Reject(Rejection),
    Challenge(&'static [u8]),
}

fn accept_unless(refused: bool, why: Rejection) -> Verdict {
    if refused {
        Verdict::Reject(why)
    } else {
        Verdict::Accept("")
    }
}

/// Turns `\r`, `\n`, `\0`, `\\` and `\xHH` into the octets that they stand for.
pub fn unescape(text: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        octets.push(match (byte, byte == b'\\') {
            (_, false) => byte,
            (_, true) => match rest.next() {
                Some(b'r') => b'\r',
                Some(b'n') => b'\n',
                Some(b'0') => 0,
                Some(b'\\') => b'\\',
                Some(b'x') => {
                    let digits = [rest.next().unwrap(), rest.next().unwrap()];
                    u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                }
                other => panic!("no such escape: {other:?}"),
            },
        });
    }
    octets
}
