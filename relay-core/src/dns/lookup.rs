//! One lookup as a machine: which server is asked what, how, and how often.
//!
//! ```text
//!  begin ─▶ next question ──────────▶ (none left) ──▶ Done
//!             │    ▲                                   ▲
//!             │    └── answered; given up; alias ──────┤ out of time
//!             ▼                                        │
//!           next try ── poll: Exchange ─▶ waiting ─────┘
//!             ▲                            │  │  ▲
//!             │   timeout, failure, SERVFAIL  │  └── not the answer: poll: Listen
//!             ├────── next server ◀────────┤  │
//!             └── same server: TC, wrong case, flood ─▶ TCP; FORMERR ─▶ without EDNS
//! ```
//!
//! RFC 1035 §7 (resolvers), RFC 5452 (forged answers), RFC 6891 §6.2.2 (falling back from EDNS), RFC 7766 (TCP).

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::rr::Name;

use super::DnsFailure;
use super::cache::{Found, RecordSet};
use super::query::{self, CNAMES_MAX, Manner, Sent};
use super::records::{self, End, Reading, RecordKind, Response};
use super::step::{Event, Step, Transport};
use crate::rng::Rng;
use crate::time::{Instant, Now};

/// How long one server has for an answer over UDP.
const UDP_WAIT: Duration = Duration::from_secs(2);
/// How long one server has for an answer over TCP, with connecting.
const TCP_WAIT: Duration = Duration::from_secs(4);
/// How long a lookup takes at most.
pub const LOOKUP_MAX: Duration = Duration::from_secs(15);
/// How often a silent server is asked.
const ROUNDS: u8 = 3;
/// The most messages that are sent for one question, aliases included.
const EXCHANGES_MAX: u8 = 24;
/// After so many wrong answers on one socket somebody is guessing: the question goes to TCP.
const FOREIGN_MAX: u8 = 8;

/// A lookup under way. See [`super`] for the loop that drives it.
#[derive(Debug)]
pub struct Lookup<T> {
    pub(super) search: Search,
    pub(super) read: query::Read<T>,
}

impl<T> Lookup<T> {
    /// Says what to do next.
    pub fn poll(&mut self) -> Step {
        self.search.poll()
    }

    /// Takes what came of the last step.
    pub fn handle(&mut self, now: Now, event: Event<'_>) {
        self.search.handle(now.instant, event);
    }
}

/// One kind of record that the lookup needs.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) name: Arc<str>,
    pub(super) kind: RecordKind,
    pub(super) found: Option<Found>,
    /// It came from the cache, or was known without asking.
    pub(super) known: bool,
}

/// The part of a lookup that does not know what its records are for.
#[derive(Debug)]
pub(super) struct Search {
    pub(super) slots: Vec<Slot>,
    servers: Arc<[SocketAddr]>,
    first: usize,
    trust_ad: bool,
    rng: Rng,
    deadline: Instant,
    state: State,
    /// The server that answered last.
    pub(super) answered_by: Option<usize>,
}

#[derive(Debug)]
enum State {
    Waiting(Box<Waiting>),
    Done,
}

/// A message is out (or, while `unsent`, about to be), and its answer is awaited.
#[derive(Debug)]
struct Waiting {
    question: Question,
    attempt: Try,
    sent: Sent,
    unsent: Option<Vec<u8>>,
    until: Instant,
    /// Bytes of a TCP stream so far.
    stream: Vec<u8>,
    foreign: u8,
}

/// The slot that is worked on.
#[derive(Debug)]
struct Question {
    slot: usize,
    /// What is asked for now: the slot's name, or the last of its aliases.
    name: Name,
    aliases: Vec<Name>,
    authentic: bool,
    ttl: Option<u32>,
    tries: VecDeque<Try>,
    exchanges: u8,
    failure: String,
}

#[derive(Debug, Clone, Copy)]
struct Try {
    server: usize,
    transport: Transport,
    edns: bool,
    rounds: u8,
}

/// What a search begins with.
pub(super) struct Start {
    pub(super) slots: Vec<Slot>,
    pub(super) servers: Arc<[SocketAddr]>,
    pub(super) first: usize,
    pub(super) trust_ad: bool,
    pub(super) rng: Rng,
}

impl Search {
    pub(super) fn new(start: Start, now: Instant) -> Self {
        let mut search = Self {
            slots: start.slots,
            servers: start.servers,
            first: start.first,
            trust_ad: start.trust_ad,
            rng: start.rng,
            deadline: now + LOOKUP_MAX,
            state: State::Done,
            answered_by: None,
        };
        search.next_question(now);
        search
    }

    /// Whether it asks these servers: if not, the configuration changed since.
    pub(super) fn asks_servers(&self, servers: &[SocketAddr]) -> bool {
        *self.servers == *servers
    }

    fn poll(&mut self) -> Step {
        match &mut self.state {
            State::Done => Step::Done,
            State::Waiting(waiting) => match waiting.unsent.take() {
                Some(message) => Step::Exchange {
                    transport: waiting.attempt.transport,
                    server: self.servers[waiting.attempt.server],
                    message,
                    until: waiting.until,
                },
                None => Step::Listen {
                    until: waiting.until,
                },
            },
        }
    }

    fn handle(&mut self, now: Instant, event: Event<'_>) {
        let mut waiting = match std::mem::replace(&mut self.state, State::Done) {
            State::Waiting(waiting) => waiting,
            State::Done => return,
        };
        let server = self.servers[waiting.attempt.server];
        // A stream of single bytes must not stretch the exchange.
        let late = now >= waiting.until;
        match event {
            Event::Received { from, bytes } if !late => {
                let message = match waiting.attempt.transport {
                    Transport::Udp if from == server => Some(bytes),
                    Transport::Tcp if from == server => unframe(&mut waiting.stream, bytes),
                    Transport::Udp | Transport::Tcp => None,
                };
                let reading = match message {
                    Some(message) => records::read(message, &waiting.sent),
                    None if from == server => {
                        self.state = State::Waiting(waiting);
                        return;
                    }
                    None => Reading::Foreign,
                };
                self.consider(now, waiting, reading);
            }
            Event::Received { .. } | Event::Timeout => {
                self.try_later(now, *waiting, "it did not answer in time".into());
            }
            Event::Failed(kind) => self.try_later(now, *waiting, failed(kind)),
        }
    }

    fn consider(&mut self, now: Instant, mut waiting: Box<Waiting>, reading: Reading) {
        let tcp = Try {
            transport: Transport::Tcp,
            ..waiting.attempt
        };
        let over_tcp = waiting.attempt.transport == Transport::Tcp;
        match reading {
            Reading::Foreign if over_tcp => {
                self.give_up_server(now, *waiting, "it answered another question".into());
            }
            Reading::Foreign => {
                waiting.foreign += 1;
                if waiting.foreign == FOREIGN_MAX {
                    self.retry_now(now, *waiting, tcp);
                } else {
                    self.state = State::Waiting(waiting);
                }
            }
            // A guess, or a server that spells as it likes: over TCP it may.
            Reading::OtherCase => self.retry_now(now, *waiting, tcp),
            Reading::Truncated if over_tcp => {
                self.give_up_server(now, *waiting, "its answer is cut off even over TCP".into());
            }
            Reading::Truncated => self.retry_now(now, *waiting, tcp),
            Reading::NoEdns => {
                let plain = Try {
                    edns: false,
                    ..waiting.attempt
                };
                self.retry_now(now, *waiting, plain);
            }
            Reading::Unusable(why) => self.give_up_server(now, *waiting, why),
            Reading::Answer(response) => self.take_answer(now, *waiting, response),
        }
    }

    /// The same question to the same server, in another manner.
    fn retry_now(&mut self, now: Instant, waiting: Waiting, attempt: Try) {
        let mut question = waiting.question;
        question.tries.push_front(attempt);
        self.next_try(now, question);
    }

    /// The server may be there: ask it again after the others.
    fn try_later(&mut self, now: Instant, waiting: Waiting, why: String) {
        let mut question = waiting.question;
        question.note(self.servers[waiting.attempt.server], &why);
        if waiting.attempt.rounds > 1 {
            let rounds = waiting.attempt.rounds - 1;
            question.tries.push_back(Try {
                rounds,
                transport: Transport::Udp,
                ..waiting.attempt
            });
        }
        self.next_try(now, question);
    }

    /// The server has spoken: only others are left to ask.
    fn give_up_server(&mut self, now: Instant, waiting: Waiting, why: String) {
        let mut question = waiting.question;
        question.note(self.servers[waiting.attempt.server], &why);
        self.next_try(now, question);
    }

    fn take_answer(&mut self, now: Instant, waiting: Waiting, response: Response) {
        let Waiting {
            mut question,
            attempt,
            ..
        } = waiting;
        self.answered_by = Some(attempt.server);
        question.authentic &= self.trust_ad && response.authentic;
        question.shorten_ttl(response.ttl);
        let looped = response
            .aliases
            .iter()
            .any(|alias| question.aliases.contains(alias));
        question.aliases.extend(response.aliases);
        let endless = looped || question.aliases.len() > CNAMES_MAX;
        match if endless { End::Endless } else { response.end } {
            End::Endless => self.settle(now, question.endless()),
            End::Records(data) => self.settle(now, question.records(data)),
            End::NoData => self.settle(now, question.records(Vec::new())),
            End::NoName => self.settle(now, question.no_name()),
            End::Unfollowed => {
                if let Some(alias) = question.aliases.last() {
                    question.name = alias.clone();
                }
                question.tries = self.tries(ROUNDS);
                self.next_try(now, question);
            }
        }
    }

    /// Notes what became of a slot, and goes on to the next.
    fn settle(&mut self, now: Instant, (slot, found): (usize, Found)) {
        // NXDOMAIN is about the name, whatever the kind. RFC 8020 §2.
        if found.answer == Err(DnsFailure::NoSuchDomain) {
            let name = Arc::clone(&self.slots[slot].name);
            for other in self
                .slots
                .iter_mut()
                .filter(|s| s.found.is_none() && s.name == name)
            {
                other.found = Some(found.clone());
            }
        }
        self.slots[slot].found = Some(found);
        self.next_question(now);
    }

    fn next_question(&mut self, now: Instant) {
        self.state = State::Done;
        let Some(slot) = self.slots.iter().position(|slot| slot.found.is_none()) else {
            return;
        };
        // Once there are addresses of one family, the other is not worth a long wait.
        let any = self
            .slots
            .iter()
            .filter_map(|s| s.found.as_ref())
            .any(Found::has_records);
        let mut question = Question {
            slot,
            name: Name::root(),
            aliases: Vec::new(),
            authentic: true,
            ttl: None,
            tries: self.tries(if any { 1 } else { ROUNDS }),
            exchanges: 0,
            failure: "no DNS server is configured".into(),
        };
        match query::to_wire(&self.slots[slot].name) {
            Some(name) => {
                question.name = name;
                self.next_try(now, question);
            }
            // Checked names always fit; this is for those that others may construct one day.
            None => {
                let answer = Err(DnsFailure::BadName(
                    "it does not fit into a question".into(),
                ));
                self.settle(now, (slot, Found { answer, ttl: None }));
            }
        }
    }

    fn tries(&self, rounds: u8) -> VecDeque<Try> {
        let count = self.servers.len();
        (0..count)
            .map(|offset| Try {
                server: (self.first + offset) % count,
                transport: Transport::Udp,
                edns: true,
                rounds,
            })
            .collect()
    }

    fn next_try(&mut self, now: Instant, mut question: Question) {
        let attempt = question.tries.pop_front();
        let in_time = now < self.deadline && question.exchanges < EXCHANGES_MAX;
        let Some(attempt) = attempt.filter(|_| in_time) else {
            let failure = std::mem::take(&mut question.failure);
            let Slot { name, kind, .. } = &self.slots[question.slot];
            let answer = Err(DnsFailure::Temporary(format!(
                "no {kind} answer for {name}: {failure}"
            )));
            return self.settle(now, (question.slot, Found { answer, ttl: None }));
        };
        question.exchanges += 1;
        let exact_case = attempt.transport == Transport::Udp;
        let manner = Manner {
            edns: attempt.edns,
            ask_ad: self.trust_ad,
            exact_case,
        };
        let kind = self.slots[question.slot].kind;
        let Some((sent, message)) = query::write(&question.name, kind, manner, &mut self.rng)
        else {
            let answer = Err(DnsFailure::BadName(
                "it does not fit into a question".into(),
            ));
            return self.settle(now, (question.slot, Found { answer, ttl: None }));
        };
        let (message, wait) = match attempt.transport {
            Transport::Udp => (message, UDP_WAIT),
            Transport::Tcp => (frame(message), TCP_WAIT),
        };
        self.state = State::Waiting(Box::new(Waiting {
            question,
            attempt,
            sent,
            unsent: Some(message),
            until: (now + wait).min(self.deadline),
            stream: Vec::new(),
            foreign: 0,
        }));
    }
}

impl Question {
    fn note(&mut self, server: SocketAddr, why: &str) {
        self.failure = format!("{server}: {why}");
    }

    fn shorten_ttl(&mut self, ttl: Option<u32>) {
        self.ttl = match (self.ttl, ttl) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }

    fn records(self, data: Vec<records::Data>) -> (usize, Found) {
        let canonical = self.aliases.last().map(records::text);
        let set = RecordSet {
            data,
            authentic: self.authentic,
            canonical,
        };
        (
            self.slot,
            Found {
                answer: Ok(set),
                ttl: self.ttl,
            },
        )
    }

    fn no_name(self) -> (usize, Found) {
        (
            self.slot,
            Found {
                answer: Err(DnsFailure::NoSuchDomain),
                ttl: self.ttl,
            },
        )
    }

    fn endless(self) -> (usize, Found) {
        let why = format!("its CNAMEs form a loop or a chain of more than {CNAMES_MAX}");
        (
            self.slot,
            Found {
                answer: Err(DnsFailure::BadName(why)),
                ttl: self.ttl,
            },
        )
    }
}

/// Collects a message from a stream; gives it once it is whole. RFC 1035 §4.2.2.
fn unframe<'s>(stream: &'s mut Vec<u8>, bytes: &[u8]) -> Option<&'s [u8]> {
    const MOST: usize = 2 + u16::MAX as usize;
    let room = MOST - stream.len();
    stream.extend_from_slice(&bytes[..bytes.len().min(room)]);
    let (length, rest) = stream.split_first_chunk::<2>()?;
    rest.get(..usize::from(u16::from_be_bytes(*length)))
}

pub(super) fn frame(message: Vec<u8>) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend(message);
    framed
}

fn failed(kind: io::ErrorKind) -> String {
    if kind == io::ErrorKind::ConnectionRefused {
        "nothing listens there".into()
    } else {
        format!("{kind}")
    }
}
