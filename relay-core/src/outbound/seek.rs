//! From the next host of the plan to an open connection: its addresses, its TLSA records, and each address
//! in turn.
//!
//! ```text
//!            Step::Resolve          dane::applies                Step::Connect
//!   seek() ───────────────▶ resolved ────────────▶ searched ─┐  ┌──────────────▶ connected ──▶ open()
//!     ▲ ▲                      │  │                           ▼  │                    │
//!     │ └──── host_unknown ◀───┘  └──────────────────────▶ seek()                     │
//!     └───────────────────────────── address_failed ◀─────────────────────────────────┘
//! ```
//!
//! RFC 5321 §5.1, RFC 7672 §2.2.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::dane::{self, Found, HostTlsa, Search};
use super::finding::{Finding, Forbidden, Loss, Stage};
use super::link::Link;
use super::outcome::{HostFailure, Seen, Then, judge};
use super::plan::{self, Candidate, Step};
use super::tls_policy::{self, TlsPolicy};
use super::{Delivery, Evidence, Request, State, TlsFailureKind, TlsSession};
use crate::config::HostPort;
use crate::dns::AddressAnswer;
use crate::queue::handling::TlsWish;

/// Connecting to one address. RFC 1123 §5.3.2 has no number for it; systems give up after 2 minutes,
/// and there are other addresses.
const CONNECT: Duration = Duration::from_secs(30);

impl Delivery {
    /// Goes on with the next address. `old` is a connection that is left behind.
    pub(super) fn seek(&mut self, mut old: Option<Box<Link>>) {
        loop {
            match self.plan.next() {
                Step::Resolve(host) => match host.ip() {
                    Some(ip) => self.candidates(&host, &[ip], None),
                    None => {
                        leave(&mut old);
                        self.ask(Request::Resolve(host.host.clone()));
                        self.state = State::Resolving(host, old);
                        return;
                    }
                },
                Step::Connect(candidate) => {
                    leave(&mut old);
                    self.connect(candidate, old);
                    return;
                }
                Step::Exhausted => return self.give_up(old),
            }
        }
    }

    pub(super) fn connect(&mut self, candidate: Candidate, old: Option<Box<Link>>) {
        self.ask(Request::Connect {
            to: candidate.address,
            source: self.lane.source,
            until: self.now.instant + CONNECT,
        });
        self.state = State::Connecting(candidate, old);
    }

    /// The addresses of a host are known: those that must not be used are noted as failures.
    pub(super) fn candidates(
        &mut self,
        host: &HostPort,
        addresses: &[IpAddr],
        tlsa: Option<&Arc<HostTlsa>>,
    ) {
        if let Err(fault) = tls_policy::before_connecting(&self.lane, tlsa.map(Arc::as_ref)) {
            let kind = fault.kind();
            return self.host_unknown(host, &Finding::Tls(fault), Some(kind));
        }
        let refused = self
            .plan
            .resolved(host, addresses, tlsa, &self.lane, &self.config);
        for (address, why) in refused {
            let host = host.host.clone();
            let candidate = Candidate {
                host,
                address,
                tls_given_up: false,
                tlsa: tlsa.cloned(),
            };
            self.address_failed(&candidate, Stage::Policy, &Finding::Forbidden(why));
        }
    }

    pub(super) fn address_failed(
        &mut self,
        candidate: &Candidate,
        stage: Stage,
        finding: &Finding,
    ) {
        let verdict = judge(stage, finding, self.seen());
        let policy = TlsPolicy::of(&self.lane, candidate, self.wish());
        if let Some(work) = &mut self.work {
            work.host_failed(
                HostFailure { stage, verdict },
                candidate.evidence(Some(&policy)),
            );
        }
    }

    /// What is known where there is no connection.
    pub(super) fn seen(&self) -> Seen {
        Seen {
            route: self.lane.route,
            ..Seen::default()
        }
    }

    pub(super) fn resolved(
        &mut self,
        host: &HostPort,
        answer: AddressAnswer,
        old: Option<Box<Link>>,
    ) {
        match answer {
            Ok(found) if dane::applies(&self.lane, &self.config, self.wish()) => {
                let addresses = found.addresses.clone();
                if let Some(search) = Search::begin(host.clone(), found) {
                    return self.search(Box::new(search), old);
                }
                self.candidates(host, &addresses, None);
            }
            Ok(found) => self.candidates(host, &found.addresses, None),
            Err(failure) => self.host_unknown(host, &Finding::Dns(failure), None),
        }
        self.seek(old);
    }

    pub(super) fn search(&mut self, search: Box<Search>, old: Option<Box<Link>>) {
        self.ask(search.request());
        self.state = State::Searching(search, old);
    }

    pub(super) fn searched(
        &mut self,
        search: Box<Search>,
        step: dane::Step,
        old: Option<Box<Link>>,
    ) {
        match step {
            dane::Step::Ask => return self.search(search, old),
            dane::Step::Done(Found::Nothing) => {
                self.candidates(&search.host, &search.addresses, None);
            }
            dane::Step::Done(Found::Records(tlsa)) => {
                self.candidates(&search.host, &search.addresses, Some(&tlsa));
            }
            dane::Step::Done(Found::Unknown(failure)) => {
                let kind = TlsFailureKind::DnssecInvalid;
                self.host_unknown(&search.host, &Finding::Tlsa(failure), Some(kind));
            }
        }
        self.seek(old);
    }

    /// DNS does not tell what must be known of a host, so that nothing connects to it.
    pub(super) fn host_unknown(
        &mut self,
        host: &HostPort,
        finding: &Finding,
        kind: Option<TlsFailureKind>,
    ) {
        let stage = Stage::Resolve;
        let verdict = judge(stage, finding, self.seen());
        let policy = TlsPolicy::configured(&self.lane);
        let place = Evidence {
            host: Some(host.host.clone()),
            tls_policy: matches!(finding, Finding::Tls(_)).then(|| policy.to_string()),
            tls_failure: kind,
            ..Evidence::default()
        };
        let Some(work) = &mut self.work else { return };
        if let Some(kind) = kind {
            work.session(TlsSession::untried(host, kind, &verdict.reason.text));
        }
        work.host_failed(HostFailure { stage, verdict }, place);
    }

    /// What the sender of the job in hand said of TLS.
    pub(super) fn wish(&self) -> TlsWish {
        self.work
            .as_ref()
            .map_or_else(TlsWish::default, |work| work.job.tls)
    }

    pub(super) fn connected(
        &mut self,
        candidate: Candidate,
        answer: Result<SocketAddr, io::ErrorKind>,
    ) {
        let finding = match answer {
            Err(io::ErrorKind::TimedOut) => Finding::Lost(Loss::Timeout),
            Err(kind) => Finding::Lost(Loss::Broken(kind)),
            Ok(local) if plan::is_own(local, candidate.address, &self.config) => {
                Finding::Forbidden(Forbidden::Own(candidate.address))
            }
            Ok(local) => return self.open(candidate, local),
        };
        let stage = if matches!(finding, Finding::Forbidden(_)) {
            Stage::Policy
        } else {
            Stage::Connect
        };
        self.address_failed(&candidate, stage, &finding);
        self.seek(None);
    }
}

/// Says the last word to a host that is left behind, without waiting for what it answers.
fn leave(old: &mut Option<Box<Link>>) {
    let Some(link) = old else { return };
    if link.then == Then::Drop || !link.quit() {
        *old = None;
    }
}
