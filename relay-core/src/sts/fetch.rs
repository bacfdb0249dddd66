//! Learning the policy of one domain: its TXT record, and the policy itself if that is news. A machine.
//!
//! ```text
//!   Record ── an id that is known, or none ──────────────────▶ Found
//!      └────── another id ──▶ the policy over HTTPS ─────────▶ Found
//! ```
//!
//! RFC 8461 §3.1, §3.3.

use std::sync::Arc;

use super::policy::{self, Policy};
use super::record::record_id;
use crate::channel::ClientTls;
use crate::config::Config;
use crate::dns::{DnsFailure, Texts};
use crate::https::{Answer, Ask, Exchange, Failure, Request, Response};
use crate::machine::{Input, Machine, Output};
use crate::outbound::TlsFailureKind;
use crate::time::Now;

/// Where a policy is, at `mta-sts.DOMAIN`. RFC 8461 §3.2.
const PATH: &str = "/.well-known/mta-sts.txt";

/// What is to be learnt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Of which domain, in A-labels.
    pub domain: String,
    /// The id of the policy that is known, and need not be fetched again; none to fetch in any case.
    pub known: Option<String>,
}

/// What was learnt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The domain announces the policy that is known.
    Same,
    /// The domain has this policy.
    Policy(Policy),
    /// The domain announces no policy, for this reason.
    NoRecord(String),
    /// Whether it announces one is not known: the DNS does not answer.
    Unknown(String),
    /// It announces one that cannot be had.
    Failed {
        /// In the terms of TLS-RPT.
        kind: TlsFailureKind,
        /// In words.
        why: String,
    },
}

/// The machine.
#[derive(Debug)]
pub struct Fetch {
    wanted: Wanted,
    tls: Arc<ClientTls>,
    config: Arc<Config>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Ask for the TXT record; whether that was done.
    Record(bool),
    Fetching {
        id: String,
        exchange: Box<Exchange>,
        at: Now,
    },
    Done(Found),
}

impl Fetch {
    /// A search that begins now.
    #[must_use]
    pub fn new(wanted: Wanted, tls: Arc<ClientTls>, config: Arc<Config>) -> Self {
        Self {
            wanted,
            tls,
            config,
            state: State::Record(false),
        }
    }

    /// What was learnt, after `Close`.
    #[must_use]
    pub fn into_found(self) -> Found {
        match self.state {
            State::Record(_) => Found::Unknown("the search was given up".to_owned()),
            State::Done(found) => found,
            State::Fetching { id, exchange, at } => {
                judge(&self.wanted.domain, id, exchange.into_result(), at)
            }
        }
    }

    fn record(&mut self, answer: Result<Texts, DnsFailure>, now: Now) {
        let texts = match answer {
            Ok(texts) => texts.texts,
            Err(DnsFailure::Temporary(why)) => return self.end(Found::Unknown(why)),
            Err(DnsFailure::NoSuchDomain | DnsFailure::NoRecord | DnsFailure::NullMx) => Vec::new(),
            Err(DnsFailure::BadName(why)) => return self.end(Found::NoRecord(why)),
        };
        let id = match record_id(texts.iter().map(Vec::as_slice)) {
            Ok(id) => id,
            Err(why) => return self.end(Found::NoRecord(why.to_string())),
        };
        if self.wanted.known.as_ref() == Some(&id) {
            return self.end(Found::Same);
        }
        let ask = Ask {
            host: format!("mta-sts.{}", self.wanted.domain),
            port: self.config.mta_sts.port,
            path: PATH.to_owned(),
            post: None,
            body_max: policy::POLICY_MAX,
            timeout: self.config.mta_sts.timeout,
            allow_private: self.config.mta_sts.allow_private,
        };
        let exchange = Exchange::new(ask, Arc::clone(&self.tls), Arc::clone(&self.config), now);
        self.state = State::Fetching {
            id,
            exchange: Box::new(exchange),
            at: now,
        };
    }

    fn end(&mut self, found: Found) {
        self.state = State::Done(found);
    }
}

impl Machine for Fetch {
    type Request = Request;
    type Answer = Answer;

    fn handle_input(&mut self, now: Now, input: Input<'_, Answer>) {
        match (&mut self.state, input) {
            (State::Fetching { exchange, .. }, input) => exchange.handle_input(now, input),
            (State::Record(_), Input::Answer(Answer::Texts(answer))) => self.record(answer, now),
            (State::Record(_), _) => self.end(Found::Unknown("the search was given up".to_owned())),
            (State::Done(_), _) => {}
        }
    }

    fn poll_output(&mut self, wire: &mut Vec<u8>) -> Output<Request> {
        match &mut self.state {
            State::Record(asked @ false) => {
                *asked = true;
                Output::Request(Request::Texts(format!("_mta-sts.{}", self.wanted.domain)))
            }
            State::Fetching { exchange, .. } => exchange.poll_output(wire),
            State::Record(true) | State::Done(_) => Output::Close,
        }
    }
}

/// What an answer of the policy's host is worth. RFC 8461 §3.2, §3.3: a 200 with text/plain, by a host whose
/// certificate verifies; nothing else is a policy.
fn judge(domain: &str, id: String, result: Result<Response, Failure>, at: Now) -> Found {
    use TlsFailureKind::{StsPolicyFetchError, StsPolicyInvalid, StsWebpkiInvalid};
    let failed = |kind, why: String| Found::Failed {
        kind,
        why: format!("https://mta-sts.{domain}{PATH}: {why}"),
    };
    let response = match result {
        Ok(response) => response,
        Err(failure) => {
            let kind = match &failure {
                Failure::Certificate(_) => StsWebpkiInvalid,
                Failure::Response(_) => StsPolicyInvalid,
                Failure::Dns(_) | Failure::Prohibited(_) | Failure::Connection(_) => {
                    StsPolicyFetchError
                }
                Failure::Tls(_) | Failure::TimedOut => StsPolicyFetchError,
            };
            return failed(kind, failure.to_string());
        }
    };
    if response.status != 200 {
        let status = response.status;
        return failed(
            StsPolicyFetchError,
            format!("status {status}, and only 200 counts"),
        );
    }
    if response.media_type != "text/plain" {
        let media: String = response.media_type.chars().take(80).collect();
        return failed(
            StsPolicyInvalid,
            format!("it is {media:?} and not text/plain"),
        );
    }
    match policy::parse(&response.body) {
        Ok(text) => Found::Policy(Policy {
            domain: domain.to_owned(),
            id,
            mode: text.mode,
            mx: text.mx,
            max_age: text.max_age,
            fetched: at.unix.as_secs(),
        }),
        Err(why) => failed(StsPolicyInvalid, why.to_string()),
    }
}
