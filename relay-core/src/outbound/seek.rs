//! From the next host of the plan to an open connection: its addresses, its TLSA records, and each address
//! in turn.
//!
//! ```text
//!            Step::Resolve          dane::applies                Step::Connect
//!   seek() ───────────────▶ resolved ────────────▶ searched ─┐  ┌──────────────▶ connected ──▶ open()
//!     ▲ ▲                      │  │                           ▼  │                    │
//!     │ └──── host_unfit ◀─────┘  └──────────────────────▶ seek()                     │
//!     └───────────────────────────── address_failed ◀─────────────────────────────────┘
//! ```
//!
//! A host that the domain's enforced MTA-STS policy does not name is passed over as one that cannot be
//! reached, unless it has TLSA records that can be used: DANE decides over MTA-STS. RFC 8461 §2, §8.4.
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
use super::{Delivery, Evidence, Request, State, TlsFailureKind, TlsPolicyType, TlsSession};
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
                Step::Resolve(host) if self.is_left_out(&host) => self.leave_out(&host),
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
            let why = (TlsPolicyType::Tlsa, fault.kind());
            return self.host_unfit(Stage::Resolve, host, &Finding::Tls(fault), Some(why));
        }
        let by_dane = tlsa.is_some_and(|tlsa| tlsa.usable.is_some());
        if !by_dane && self.is_stray(host) {
            return self.leave_out(host);
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

    /// Whether the domain's MTA-STS policy keeps the job in hand from this host, unless DANE decides over it.
    fn is_stray(&self, host: &HostPort) -> bool {
        self.lane.is_stray(host) && self.wish() != TlsWish::NotRequired
    }

    /// Whether that is certain before anything is asked about the host.
    fn is_left_out(&self, host: &HostPort) -> bool {
        self.is_stray(host) && !dane::applies(&self.lane, &self.config, self.wish())
    }

    fn leave_out(&mut self, host: &HostPort) {
        self.plan.left_out();
        let why = (TlsPolicyType::Sts, TlsFailureKind::ValidationFailure);
        self.host_unfit(Stage::Policy, host, &Finding::Stray, Some(why));
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
            Err(failure) => self.host_unfit(Stage::Resolve, host, &Finding::Dns(failure), None),
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
                let why = (TlsPolicyType::Tlsa, TlsFailureKind::DnssecInvalid);
                let finding = Finding::Tlsa(failure);
                self.host_unfit(Stage::Resolve, &search.host, &finding, Some(why));
            }
        }
        self.seek(old);
    }

    /// A host cannot be used, as is known before its addresses are tried. `why` is for reports on TLS.
    fn host_unfit(
        &mut self,
        stage: Stage,
        host: &HostPort,
        finding: &Finding,
        why: Option<(TlsPolicyType, TlsFailureKind)>,
    ) {
        let verdict = judge(stage, finding, self.seen());
        let policy = TlsPolicy::configured(&self.lane);
        let place = Evidence {
            host: Some(host.host.clone()),
            tls_policy: matches!(finding, Finding::Tls(_)).then(|| policy.to_string()),
            tls_failure: why.map(|(_, kind)| kind),
            ..Evidence::default()
        };
        let Some(work) = &mut self.work else { return };
        if let Some((policy, kind)) = why {
            let text = &verdict.reason.text;
            work.session(TlsSession::untried(host, policy, kind, text));
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
