//! A delivery in a world of scripted hosts and virtual time.

mod chaos;
mod cli;
mod dane;
mod flow;
mod handling;
mod return_path;
mod server;
mod sink;
mod tls;
mod vectors;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use smtp_proto::{Domain, Mailbox, ReversePath};

use super::*;
use crate::config::{Protocol, TlsLevel, TlsMode};
use crate::dns::{AddressAnswer, Addresses, AliasAnswer, DnsFailure, TlsaAnswer};
use crate::id::MessageId;
use crate::machine::{Input, Machine};
use crate::queue::handling::Handling;
use crate::queue::message::{Body, BodyKind, Envelope, Message, Origin, Recipient};
use crate::queue::store::{LoadFailed, Place};
use crate::time::UnixTime;

use sink::{Script, Sink};

/// 2026-05-28, within the life of the certificates that tests make.
const START: UnixTime = UnixTime::from_secs(1_780_000_000);

/// No dialogue of a test needs as many inputs.
const STEPS_MAX: usize = 200_000;

pub(super) fn config() -> Config {
    Config::new(Domain::parse("relay.example.com").unwrap(), "data")
}

/// A lane of MX hosts, each `name:preference`.
pub(super) fn lane(hosts: &[&str]) -> Lane {
    let hop = |text: &&str| {
        let (host, preference) = text.split_once(':').unwrap_or((text, "10"));
        Hop {
            host: HostPort {
                host: host.into(),
                port: 25,
            },
            preference: preference.parse().unwrap(),
            stray: false,
        }
    };
    Lane {
        hosts: hosts.iter().map(hop).collect(),
        name: "example.net".into(),
        tls: TlsLevel::Opportunistic,
        tls_mode: None,
        login: None,
        route: false,
        authentic: false,
        sts: None,
        protocol: Protocol::Smtp,
        source: None,
        messages_max: 100,
    }
}

/// A message and whom it goes to.
#[derive(Debug, Clone)]
struct Mail {
    recipients: Vec<String>,
    from: String,
    prefix: Vec<u8>,
    body: Vec<u8>,
    kind: BodyKind,
    smtputf8: bool,
    handling: Handling,
    spooled: bool,
}

impl Default for Mail {
    fn default() -> Self {
        Self {
            recipients: vec!["u0@example.net".into()],
            from: "sender@example.com".into(),
            prefix: Vec::new(),
            body: b"Subject: hello\r\n\r\nA text.\r\n.dot\r\n".to_vec(),
            kind: BodyKind::SevenBit,
            smtputf8: false,
            handling: Handling::default(),
            spooled: false,
        }
    }
}

impl Mail {
    fn to(count: usize) -> Self {
        let recipients = (0..count).map(|n| format!("u{n}@example.net")).collect();
        Self {
            recipients,
            ..Self::default()
        }
    }

    fn with_body(body: &[u8]) -> Self {
        Self {
            body: body.to_vec(),
            ..Self::default()
        }
    }
}

/// Everything outside the delivery.
struct World {
    pub(super) tokens: VecDeque<String>,
    now: Now,
    config: Config,
    lane: Lane,
    zone: BTreeMap<String, AddressAnswer>,
    /// By `_port._tcp.host`.
    tlsa: BTreeMap<String, TlsaAnswer>,
    aliases: BTreeMap<String, AliasAnswer>,
    hosts: BTreeMap<SocketAddr, Host>,
    store: BTreeMap<MessageId, Result<Arc<Loaded>, LoadFailed>>,
    spool: BTreeMap<MessageId, Vec<u8>>,
    jobs: VecDeque<Job>,
    tls: Arc<ClientTls>,
    /// The most bytes in one read.
    chunk: usize,
    seed: u64,
    local: SocketAddr,
}

/// One open connection, as the host has it.
trait Peer {
    /// Hears what the delivery wrote. False if the connection is broken.
    fn write(&mut self, now: Instant, wire: &[u8]) -> bool;

    /// What comes next, if it comes until then, in pieces of at most `chunk` bytes.
    fn next(&mut self, until: Instant, chunk: usize) -> Option<(Instant, Emit)>;
}

/// What comes from a host.
#[derive(Debug)]
enum Emit {
    Bytes(Vec<u8>),
    Close(Option<std::io::ErrorKind>),
}

/// What is at an address.
enum Host {
    Sink(Sink),
    Other(Box<dyn Fn() -> Box<dyn Peer>>),
    Refuses(std::io::ErrorKind),
}

/// What a delivery did.
#[derive(Debug, Default)]
struct Run {
    /// For each token that was asked for: the one that was refused before.
    pub(super) refused_tokens: Vec<Option<String>>,
    connects: Vec<SocketAddr>,
    resolves: Vec<String>,
    reports: Vec<Report>,
    took: Duration,
}

impl World {
    fn new() -> Self {
        Self {
            tokens: VecDeque::new(),
            now: Now {
                instant: Instant::default(),
                unix: START,
            },
            config: config(),
            lane: lane(&["mx.example.net"]),
            zone: BTreeMap::new(),
            tlsa: BTreeMap::new(),
            aliases: BTreeMap::new(),
            hosts: BTreeMap::new(),
            store: BTreeMap::new(),
            spool: BTreeMap::new(),
            jobs: VecDeque::new(),
            tls: ClientTls::new(Vec::new()).unwrap(),
            chunk: usize::MAX,
            seed: 1,
            local: "192.0.2.77:40000".parse().unwrap(),
        }
    }

    /// A world with one host, `mx.example.net`.
    fn with(script: Script) -> Self {
        Self::new().host("mx.example.net", "93.184.216.1", script)
    }

    fn host(self, name: &str, ip: &str, script: Script) -> Self {
        self.at(name, ip, Host::Sink(Sink::new(script)))
    }

    fn at(mut self, name: &str, ip: &str, host: Host) -> Self {
        let ip: IpAddr = ip.parse().unwrap();
        self.hosts.insert(SocketAddr::new(ip, 25), host);
        let answer = self.zone.entry(name.into()).or_insert_with(|| {
            Ok(Addresses {
                addresses: Vec::new(),
                authentic: false,
                canonical: None,
            })
        });
        answer.as_mut().unwrap().addresses.push(ip);
        self
    }

    fn lane(mut self, hosts: &[&str]) -> Self {
        let tls = self.lane.tls;
        self.lane = Lane { tls, ..lane(hosts) };
        self
    }

    fn level(mut self, tls: TlsLevel) -> Self {
        self.lane.tls = tls;
        self
    }

    fn mail(mut self, mail: &Mail) -> Self {
        let number = 1000 + self.jobs.len() as u64;
        let id = MessageId::from_u64(number);
        let place = Place {
            segment: 0,
            offset: 0,
        };
        let envelope = Envelope {
            from: ReversePath::parse_utf8(&format!("<{}>", mail.from)).unwrap(),
            ret: None,
            envid: None,
            body: mail.kind,
            smtputf8: mail.smtputf8,
            handling: mail.handling.clone(),
            recipients: mail.recipients.iter().map(|to| recipient(to)).collect(),
        };
        let message = Message {
            id,
            accepted: START,
            origin: Origin {
                credential: None,
                peer: None,
            },
            envelope,
            prefix: Bytes::copy_from_slice(&mail.prefix),
            size: (mail.prefix.len() + mail.body.len()) as u64,
            header_size: 0,
        };
        let body = if mail.spooled {
            self.spool.insert(id, mail.body.clone());
            Body::Spooled
        } else {
            Body::Memory(Bytes::from(mail.body.clone()))
        };
        self.store
            .insert(id, Ok(Arc::new(Loaded { message, body })));
        let recipients = (0..mail.recipients.len() as u32).collect();
        self.jobs.push_back(Job {
            id,
            place,
            recipients,
            loaded: None,
            attempts: 0,
            domain: "example.net".into(),
            tls: mail.handling.tls,
        });
        self
    }

    fn sink(&self, ip: &str) -> &Sink {
        match &self.hosts[&SocketAddr::new(ip.parse().unwrap(), 25)] {
            Host::Sink(sink) => sink,
            Host::Refuses(_) | Host::Other(_) => panic!("{ip} is no sink"),
        }
    }

    /// The sink of [`World::with`].
    fn mx(&self) -> &Sink {
        self.sink("93.184.216.1")
    }

    /// Runs one delivery, with all jobs, to its end.
    fn run(&mut self) -> Run {
        let mut job = self.jobs.pop_front().unwrap();
        if let (true, Some(Ok(loaded))) = (self.seed.is_multiple_of(2), self.store.get(&job.id)) {
            job.loaded = Some(Arc::clone(loaded));
        }
        let start = Start {
            lane: Arc::new(self.lane.clone()),
            job,
            config: Arc::new(self.config.clone()),
        };
        let rng = Rng::from_number(self.seed);
        let mut delivery = Delivery::new(start, Arc::clone(&self.tls), self.now, rng);
        let mut run = Run::default();
        let (began, mut wire, mut peer) = (self.now.instant, Vec::new(), None::<Box<dyn Peer>>);
        for _ in 0..STEPS_MAX {
            wire.clear();
            let output = delivery.poll_output(&mut wire);
            if !wire.is_empty() {
                let written = peer
                    .as_mut()
                    .is_some_and(|peer| peer.write(self.now.instant, &wire));
                if !written {
                    let kind = std::io::ErrorKind::BrokenPipe;
                    delivery.handle_input(self.now, Input::WriteFailed(kind));
                    continue;
                }
            }
            match output {
                Output::Close => {
                    run.took = self.now.instant.since(began);
                    return run;
                }
                Output::Read { until, .. } => self.read(&mut delivery, peer.as_deref_mut(), until),
                Output::Request(request) => {
                    let answer = self.answer(request, &mut peer, &mut run);
                    delivery.handle_input(self.now, Input::Answer(answer));
                }
            }
        }
        panic!("the delivery does not end: {run:?}");
    }

    fn read(
        &mut self,
        delivery: &mut Delivery,
        peer: Option<&mut (dyn Peer + '_)>,
        until: Instant,
    ) {
        let peer = peer.expect("a read without a connection");
        let Some((at, what)) = peer.next(until, self.chunk) else {
            self.advance_to(until);
            return delivery.handle_input(self.now, Input::Timeout);
        };
        self.advance_to(at);
        match what {
            Emit::Bytes(bytes) => delivery.handle_input(self.now, Input::Bytes(&bytes)),
            Emit::Close(kind) => delivery.handle_input(self.now, Input::Closed(kind)),
        }
    }

    fn advance_to(&mut self, at: Instant) {
        let step = at.since(self.now.instant);
        self.now = Now {
            instant: self.now.instant + step,
            unix: self.now.unix + step,
        };
    }

    fn answer(
        &mut self,
        request: Request,
        peer: &mut Option<Box<dyn Peer>>,
        run: &mut Run,
    ) -> Answer {
        match request {
            Request::Resolve(name) => {
                let answer = self.zone.get(&name).cloned();
                run.resolves.push(name);
                Answer::Resolved(answer.unwrap_or(Err(DnsFailure::NoSuchDomain)))
            }
            Request::Tlsa(host, port) => {
                let name = format!("_{port}._tcp.{host}");
                let answer = self.tlsa.get(&name).cloned();
                run.resolves.push(name);
                Answer::Tlsa(answer.unwrap_or(Err(DnsFailure::NoSuchDomain)))
            }
            Request::Alias(name) => {
                let answer = self.aliases.get(&name).cloned();
                run.resolves.push(format!("alias {name}"));
                Answer::Alias(answer.unwrap_or(Err(DnsFailure::NoRecord)))
            }
            Request::Connect { to, until, .. } => {
                run.connects.push(to);
                *peer = None;
                match self.hosts.get(&to) {
                    Some(Host::Sink(sink)) => {
                        *peer = Some(Box::new(sink.connect(self.now.instant)));
                        Answer::Connected(Ok(self.local))
                    }
                    Some(Host::Other(connect)) => {
                        *peer = Some(connect());
                        Answer::Connected(Ok(self.local))
                    }
                    Some(Host::Refuses(kind)) => Answer::Connected(Err(*kind)),
                    None => {
                        self.advance_to(until);
                        Answer::Connected(Err(std::io::ErrorKind::TimedOut))
                    }
                }
            }
            Request::Token { refused, .. } => {
                run.refused_tokens.push(refused.map(|token| token.0));
                let none = Err("no token is left".to_owned());
                Answer::Token(
                    self.tokens
                        .pop_front()
                        .map_or(none, |token| Ok(Token(token))),
                )
            }
            Request::Load(id, _) => Answer::Loaded(self.store[&id].clone()),
            Request::ReadBody { id, offset, max } => {
                assert!(max <= 64 * 1024);
                let rest = self.spool[&id].get(offset as usize..).unwrap_or_default();
                Answer::Body(Ok(Bytes::copy_from_slice(&rest[..rest.len().min(max)])))
            }
            Request::Flush => Answer::Flushed,
            Request::Report(report) => {
                let next = match &report {
                    Report::Tried(_) => self.jobs.pop_front(),
                    Report::Unreachable(_) | Report::Ended => None,
                };
                run.reports.push(report);
                Answer::Next(next.map_or(Next::Quit, |job| Next::Job(Box::new(job))))
            }
        }
    }
}

fn recipient(to: &str) -> Recipient {
    Recipient {
        to: Mailbox::parse_utf8(to).unwrap(),
        notify: None,
        orcpt: None,
    }
}

impl Run {
    /// What was reported first.
    fn tried(&self) -> &Tried {
        match &self.reports[0] {
            Report::Tried(tried) | Report::Unreachable(tried) => tried,
            Report::Ended => panic!("the machine does not report its end"),
        }
    }

    /// The outcome of the first recipient.
    fn outcome(&self) -> &Outcome {
        &self.tried().outcomes[0].1
    }

    fn is_unreachable(&self) -> bool {
        matches!(self.reports[0], Report::Unreachable(_))
    }

    /// `d`elivered, de`f`erred, `?` deferred in doubt, or `b`ounced, for each recipient.
    fn fates(&self) -> String {
        self.tried()
            .outcomes
            .iter()
            .map(|(_, outcome)| fate(outcome))
            .collect()
    }
}

fn fate(outcome: &Outcome) -> char {
    match outcome {
        Outcome::Delivered(_) => 'd',
        Outcome::Deferred {
            in_doubt: false, ..
        } => 'f',
        Outcome::Deferred { in_doubt: true, .. } => '?',
        Outcome::Bounced(_) => 'b',
    }
}

fn reason(outcome: &Outcome) -> &Reason {
    match outcome {
        Outcome::Delivered(reason) | Outcome::Bounced(reason) => reason,
        Outcome::Deferred { reason, .. } => reason,
    }
}
