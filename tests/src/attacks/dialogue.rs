//! Rows that are a dialogue: what a client sends from a start state, and what it must get.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use super::client::{Client, Reply};
use super::relay::{Door, Relay, SECRET};
use super::sink::{Script, Sink, Taken};
use super::{Got, Runtime, Trouble, ensure};

/// The state before the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// Connected; the greeting is not waited for.
    Raw,
    /// Greeted.
    Connect,
    /// EHLO was answered.
    Ehlo,
    /// MAIL was.
    Mail,
    /// RCPT was.
    Rcpt,
    /// DATA was.
    Data,
}

/// How the connection stands after the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The relay goes on: QUIT is answered with 221.
    Open,
    /// The relay has closed it.
    Closed,
    /// Either.
    Any,
    /// The client goes away.
    HangUp,
}

/// What must be queued after it.
#[derive(Clone, Copy)]
pub(super) enum Queued {
    /// Nothing.
    Nothing,
    /// One message; so it looks where it is delivered.
    One(fn(&Taken) -> Result<(), Trouble>),
}

/// How a client comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// In clear text, from where no AUTH is needed.
    Clear,
    /// The same while other clients are busy.
    Loaded,
    /// STARTTLS, from there.
    StartTls,
    /// Implicit TLS, from there.
    Implicit,
    /// STARTTLS and AUTH.
    Auth,
    /// STARTTLS, where AUTH is needed.
    Stranger,
    /// Implicit TLS, where AUTH is needed.
    StrangerImplicit,
    /// In clear text, where AUTH is needed.
    StrangerClear,
}

/// The ways of most rows.
const WAYS: &[Way] = &[
    Way::Clear,
    Way::Loaded,
    Way::StartTls,
    Way::Implicit,
    Way::Auth,
];

/// A dialogue.
pub(super) struct Dialogue {
    start: Start,
    input: Vec<u8>,
    want: &'static str,
    end: End,
    queued: Queued,
    check: fn(&[Reply]) -> Result<(), Trouble>,
    ways: &'static [Way],
}

impl Dialogue {
    /// From `start`, `input` is answered by `want`: codes with `?` for any digit, alternatives with
    /// `/`, `+` for one or more, and whole alternatives with ` | `. The connection goes on, and nothing
    /// is queued.
    pub(super) fn new(start: Start, input: impl Into<Vec<u8>>, want: &'static str) -> Self {
        Self {
            start,
            input: input.into(),
            want,
            end: End::Open,
            queued: Queued::Nothing,
            check: |_| Ok(()),
            ways: WAYS,
        }
    }

    pub(super) fn ends(mut self, end: End) -> Self {
        self.end = end;
        self
    }

    pub(super) fn queues(mut self, check: fn(&Taken) -> Result<(), Trouble>) -> Self {
        self.queued = Queued::One(check);
        self
    }

    pub(super) fn check(mut self, check: fn(&[Reply]) -> Result<(), Trouble>) -> Self {
        self.check = check;
        self
    }

    pub(super) fn only(mut self, ways: &'static [Way]) -> Self {
        self.ways = ways;
        self
    }

    /// Runs it in all variants against one relay.
    pub(super) fn run(&self, runtime: Runtime) -> Vec<Got> {
        let started =
            Sink::start(Script::default()).and_then(|sink| Ok((Relay::to(runtime, &sink)?, sink)));
        let (relay, sink) = match started {
            Ok(started) => started,
            Err(trouble) => return vec![Got::new("start", Err(trouble))],
        };
        let mut got = Vec::new();
        let mut taken = 0;
        for &way in self.ways {
            for by_octet in [false, true] {
                let variant = format!("{way:?} {}", if by_octet { "octets" } else { "whole" });
                let result = self.variant(&relay, &sink, way, by_octet, &mut taken);
                got.push(Got::new(&variant, result));
            }
        }
        got
    }

    fn variant(
        &self,
        relay: &Relay,
        sink: &Sink,
        way: Way,
        by_octet: bool,
        taken: &mut usize,
    ) -> Result<String, Trouble> {
        let before = relay.idle()?.accepted;
        let load = (way == Way::Loaded).then(|| Load::start(relay));
        let mut client = self.begin(relay, way)?;
        if by_octet {
            // Over implicit TLS each record is cut, over STARTTLS each octet has a record of its own.
            if way == Way::Implicit {
                client.segment = 1;
            } else {
                client.record = 1;
            }
        }
        // The relay may close before all is written: then the replies tell.
        let sent = client.write(&self.input);
        (client.record, client.segment) = (usize::MAX, usize::MAX);
        match self.end {
            End::HangUp => client.finish(),
            End::Open | End::Closed | End::Any if sent.is_ok() => {
                let _ = client.write(b"QUIT\r\n");
            }
            End::Open | End::Closed | End::Any => {}
        }
        let mut replies = client.rest()?;
        let codes = codes(&replies);
        let quit = self.end != End::HangUp && replies.last().is_some_and(|last| last.code == 221);
        if quit {
            replies.pop();
        }
        check_form(&client.transcript, &replies)?;
        ensure!(
            fits(self.want, &replies),
            "wanted {}, got {codes}",
            self.want
        );
        match self.end {
            End::Open => ensure!(quit, "closed after {codes}"),
            End::Closed => ensure!(!quit, "goes on after {codes}"),
            End::Any | End::HangUp => {}
        }
        (self.check)(&replies)?;
        drop(load);
        let accepted = relay.idle()?.accepted - before;
        match self.queued {
            Queued::Nothing => ensure!(accepted == 0, "{codes}, and {accepted} were queued"),
            Queued::One(check) => {
                ensure!(accepted == 1, "{codes}, and {accepted} were queued");
                *taken += 1;
                let all = sink.wait(*taken)?;
                ensure!(all.len() == *taken, "delivered more than once");
                if let Some(taken) = all.last() {
                    taken.check_wire()?;
                    check(taken)?;
                }
            }
        }
        let close = if quit { "" } else { ", closed" };
        Ok(format!("{codes}{close}, {accepted} queued"))
    }

    /// Up to the start state.
    fn begin(&self, relay: &Relay, way: Way) -> Result<Client, Trouble> {
        let door = match way {
            Way::Clear | Way::Loaded | Way::StartTls => Door::Trusted,
            Way::Implicit => Door::TrustedImplicit,
            Way::Auth | Way::Stranger | Way::StrangerClear => Door::Submission,
            Way::StrangerImplicit => Door::Submissions,
        };
        let mut client = relay.connect(door)?;
        if matches!(way, Way::Implicit | Way::StrangerImplicit) {
            client.handshake()?;
        }
        if self.start == Start::Raw {
            return Ok(client);
        }
        let greeting = client.reply()?;
        ensure!(greeting.code == 220, "greeted with {}", greeting.code);
        if matches!(way, Way::StartTls | Way::Auth | Way::Stranger) {
            client.expect("EHLO client.example", 250)?;
            client.expect("STARTTLS", 220)?;
            client.handshake()?;
        }
        if way == Way::Auth || self.start != Start::Connect {
            client.expect("EHLO client.example", 250)?;
        }
        if way == Way::Auth {
            let reply = client.login("app", SECRET)?;
            ensure!(reply.code == 235, "the login got {}", reply.code);
        }
        if matches!(self.start, Start::Mail | Start::Rcpt | Start::Data) {
            client.expect("MAIL FROM:<a@client.example>", 250)?;
        }
        if matches!(self.start, Start::Rcpt | Start::Data) {
            client.expect("RCPT TO:<b@server.example>", 250)?;
        }
        if self.start == Start::Data {
            client.expect("DATA", 354)?;
        }
        client.transcript.clear();
        Ok(client)
    }
}

/// The codes, with what repeats counted.
fn codes(replies: &[Reply]) -> String {
    let mut runs: Vec<(u16, usize)> = Vec::new();
    for reply in replies {
        match runs.last_mut() {
            Some((code, count)) if *code == reply.code => *count += 1,
            _ => runs.push((reply.code, 1)),
        }
    }
    let written = runs.iter().map(|(code, count)| match count {
        1 => code.to_string(),
        _ => format!("{code}×{count}"),
    });
    written.collect::<Vec<_>>().join(" ")
}

/// What holds for all replies: whole lines of printable ASCII of at most 512 octets, one code for all
/// lines of a reply, and an enhanced code of the same class in each. RFC 5321 §4.2, RFC 2034 §4.
fn check_form(transcript: &[u8], replies: &[Reply]) -> Result<(), Trouble> {
    for line in transcript.split_inclusive(|&byte| byte == b'\n') {
        ensure!(
            line.ends_with(b"\r\n") && line.len() <= 512,
            "a line of {} octets: {}",
            line.len(),
            line.escape_ascii()
        );
    }
    let text = String::from_utf8_lossy(transcript);
    ensure!(
        !text.contains("HTTP/1.1"),
        "what was sent comes back: {text}"
    );
    for reply in replies {
        let hello = reply.code == 250 && reply.lines.len() > 1;
        let exempt = hello || matches!(reply.code, 220 | 334 | 354);
        let class = reply.code / 100;
        let start = format!("{class}.");
        ensure!(
            exempt || reply.text().starts_with(&start),
            "no enhanced code: {reply:?}"
        );
    }
    Ok(())
}

/// Whether the replies are of the pattern.
fn fits(want: &str, replies: &[Reply]) -> bool {
    let codes: Vec<String> = replies.iter().map(|reply| reply.code.to_string()).collect();
    want.split(" | ").any(|sequence| {
        let tokens: Vec<&str> = sequence.split_whitespace().collect();
        matches_from(&tokens, &codes)
    })
}

fn matches_from(tokens: &[&str], codes: &[String]) -> bool {
    let (Some((token, tokens_left)), Some((code, codes_left))) =
        (tokens.split_first(), codes.split_first())
    else {
        return tokens.is_empty() && codes.is_empty();
    };
    let (token, many) = match token.strip_suffix('+') {
        Some(token) => (token, true),
        None => (*token, false),
    };
    let like = |pattern: &str| {
        let mut pairs = pattern.chars().zip(code.chars());
        pattern.len() == code.len() && pairs.all(|(p, c)| p == '?' || p == c)
    };
    let here = token.split('/').any(like);
    here && (matches_from(tokens_left, codes_left) || many && matches_from(tokens, codes_left))
}

/// Clients that are busy with nothing, on the same listener, until this is dropped.
struct Load {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(relay: &Relay) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let address = relay.address(Door::Trusted);
        let busy = |_| {
            let over = Arc::clone(&over);
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let run = || -> Result<(), Trouble> {
                        let mut client = Client::connect(address)?;
                        client.hello()?;
                        client.expect("MAIL FROM:<a@client.example>", 250)?;
                        client.expect("RSET", 250)?;
                        client.expect("QUIT", 221)?;
                        Ok(())
                    };
                    if run().is_err() {
                        return;
                    }
                }
            })
        };
        Self {
            threads: (0..3).map(busy).collect(),
            over,
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // One that panicked has done so in its own words.
            let _ = thread.join();
        }
    }
}
