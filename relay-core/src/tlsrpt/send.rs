//! Sending a report: who wants it, and its way there. A machine; gzip and signatures are made where it runs.
//!
//! ```text
//!   _smtp._tls.DOMAIN TXT ── nobody ─────────────────────────────────────▶ Sent: nothing to do
//!        │     └── the DNS does not say ─────────────────────────────────▶ an error
//!        └── rua ──▶ each mailto: in one mail, signed ──▶ each https: posted, one after the other ──▶ Sent
//! ```
//!
//! RFC 8460 §3: "the report SHOULD NOT be considered successfully delivered until one of the endpoints
//! accepts". Here each of them gets it, and each is tried again by itself.

use std::collections::VecDeque;
use std::sync::Arc;

use super::report::{Head, gzipped, mail};
use super::rua::{Rua, ruas};
use super::tally::Sessions;
use crate::channel::ClientTls;
use crate::config::Config;
use crate::dns::{DnsFailure, Texts};
use crate::engine::Submission;
use crate::https::{Answer, Ask, Exchange, Failure, Request, Response};
use crate::id::MessageId;
use crate::machine::{Input, Machine, Output};
use crate::time::Now;

/// The most of an answer to a post that is read, in octets: nobody looks at it.
const ANSWER_MAX: usize = 16 * 1024;

/// RFC 8460 §6.5.
const MEDIA_TYPE: &str = "application/tlsrpt+gzip";

/// A report that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// What to tell.
    pub(crate) sessions: Sessions,
    /// The id of the mail, if one is wanted.
    pub(crate) id: MessageId,
}

/// What became of a report.
#[derive(Debug, Default)]
pub struct Sent {
    /// The mail that carries it, to be queued.
    pub mail: Option<Box<Submission>>,
    /// Whom that is to, as the record names them.
    pub mailed: Vec<String>,
    /// Where it was posted.
    pub posted: Vec<String>,
    /// Where it did not arrive, and why.
    pub failed: Vec<(String, String)>,
}

/// The machine.
#[derive(Debug)]
pub struct Sending {
    due: Due,
    head: Head,
    tls: Arc<ClientTls>,
    config: Arc<Config>,
    state: State,
    gzip: Vec<u8>,
    sent: Sent,
}

#[derive(Debug)]
enum State {
    /// Ask for the record.
    Ask,
    Asking,
    /// Posting to the first of these.
    Posting(VecDeque<Rua>, Box<Exchange>),
    Done(Result<(), String>),
}

impl Sending {
    /// Of this report.
    #[must_use]
    pub fn new(due: Due, tls: Arc<ClientTls>, config: Arc<Config>) -> Self {
        Self {
            due,
            head: Head::of(&config),
            tls,
            config,
            state: State::Ask,
            gzip: Vec::new(),
            sent: Sent::default(),
        }
    }

    /// What became of it; call it after `Close`, or to give it up.
    ///
    /// # Errors
    /// Who wants it is not known; it may be later.
    pub fn into_result(mut self) -> Result<Box<Sent>, String> {
        match std::mem::replace(&mut self.state, State::Asking) {
            State::Ask | State::Asking => return Err("it was given up".to_owned()),
            State::Done(result) => result?,
            State::Posting(hosts, exchange) => {
                self.posted(hosts.front(), exchange.into_result());
                let left = hosts.into_iter().skip(1);
                let given_up = left.map(|rua| (rua.to_string(), "it was given up".to_owned()));
                self.sent.failed.extend(given_up);
            }
        }
        Ok(Box::new(self.sent))
    }

    fn asked(&mut self, answer: Result<Texts, DnsFailure>, now: Now) {
        let found = match answer {
            Ok(texts) => ruas(texts.texts.iter().map(Vec::as_slice)),
            Err(DnsFailure::Temporary(why)) => {
                self.state = State::Done(Err(why));
                return;
            }
            Err(
                DnsFailure::NoSuchDomain
                | DnsFailure::NoRecord
                | DnsFailure::NullMx
                | DnsFailure::BadName(_),
            ) => Vec::new(),
        };
        let left = |rua: &Rua| !self.due.sessions.sent.contains(&rua.to_string());
        let (by_mail, by_post): (Vec<Rua>, Vec<Rua>) = found
            .into_iter()
            .filter(left)
            .partition(|rua| matches!(rua, Rua::Mail(_)));
        if !by_mail.is_empty() || !by_post.is_empty() {
            self.gzip = gzipped(&self.head, &self.due.sessions);
        }
        if !by_mail.is_empty() {
            self.write_mail(&by_mail, now);
        }
        self.post(by_post.into(), now);
    }

    fn write_mail(&mut self, ruas: &[Rua], now: Now) {
        let to = ruas.iter().filter_map(|rua| match rua {
            Rua::Mail(to) => Some(to.clone()),
            Rua::Https { .. } => None,
        });
        let to: Vec<_> = to.collect();
        let (sessions, id) = (&self.due.sessions, self.due.id);
        let mut written = mail(&self.head, sessions, &self.gzip, &to, id, now.unix);
        written.sign(&self.config.domains, now.unix);
        let names = ruas.iter().map(ToString::to_string);
        if written.prefix.is_empty() {
            // RFC 8460 §3: "Reports lacking such a signature MUST be ignored by the recipient."
            let why = written.dkim.unwrap_or("no [[domain]] has keys".to_owned());
            let why = format!("a report by mail must be signed: {why}");
            self.sent
                .failed
                .extend(names.map(|name| (name, why.clone())));
            return;
        }
        self.sent.mailed = names.collect();
        self.sent.mail = Some(Box::new(written));
    }

    /// Begins with the first host that is left.
    fn post(&mut self, hosts: VecDeque<Rua>, now: Now) {
        let ask = hosts.front().and_then(|rua| match rua {
            Rua::Https { host, port, path } => Some(Ask {
                host: host.clone(),
                port: *port,
                path: path.clone(),
                post: Some((MEDIA_TYPE, self.gzip.clone())),
                body_max: ANSWER_MAX,
                timeout: self.config.tls_rpt.timeout,
                allow_private: self.config.tls_rpt.allow_private,
            }),
            Rua::Mail(_) => None,
        });
        self.state = match ask {
            Some(ask) => {
                let (tls, config) = (Arc::clone(&self.tls), Arc::clone(&self.config));
                State::Posting(hosts, Box::new(Exchange::new(ask, tls, config, now)))
            }
            None => State::Done(Ok(())),
        };
    }

    fn posted(&mut self, rua: Option<&Rua>, result: Result<Response, Failure>) {
        let Some(rua) = rua.map(ToString::to_string) else {
            return;
        };
        match result {
            // RFC 8460 §5.4: "The receiving system MUST return a "successful" response".
            Ok(response) if (200..300).contains(&response.status) => self.sent.posted.push(rua),
            Ok(response) => {
                let why = format!("status {}", response.status);
                self.sent.failed.push((rua, why));
            }
            Err(why) => self.sent.failed.push((rua, why.to_string())),
        }
    }
}

impl Machine for Sending {
    type Request = Request;
    type Answer = Answer;

    fn handle_input(&mut self, now: Now, input: Input<'_, Answer>) {
        match (&mut self.state, input) {
            (State::Posting(_, exchange), input) => exchange.handle_input(now, input),
            (State::Asking, Input::Answer(Answer::Texts(answer))) => self.asked(answer, now),
            (State::Ask | State::Asking, _) => {
                self.state = State::Done(Err("it was given up".to_owned()));
            }
            (State::Done(_), _) => {}
        }
    }

    fn poll_output(&mut self, wire: &mut Vec<u8>) -> Output<Request> {
        loop {
            match std::mem::replace(&mut self.state, State::Asking) {
                State::Ask => {
                    let domain = &self.due.sessions.period.domain;
                    return Output::Request(Request::Texts(format!("_smtp._tls.{domain}")));
                }
                State::Posting(mut hosts, mut exchange) => {
                    let flushed = wire.len();
                    let output = exchange.poll_output(wire);
                    if !matches!(output, Output::Close) {
                        self.state = State::Posting(hosts, exchange);
                        return output;
                    }
                    // Nothing more is said to a host that is done with: it may have gone.
                    wire.truncate(flushed);
                    let now = exchange.now();
                    let rua = hosts.pop_front();
                    self.posted(rua.as_ref(), exchange.into_result());
                    self.post(hosts, now);
                }
                state @ (State::Asking | State::Done(_)) => {
                    self.state = state;
                    return Output::Close;
                }
            }
        }
    }
}
