//! What DANE says of a host: the search for its TLSA records, and what was found.
//!
//! ```text
//!  the addresses are     the name is
//!  secure ──────────────  no alias ──────────────────────────────▶ TLSA of the name ───┐
//!  secure ──────────────  an alias ──▶ TLSA of what it leads to ── none ──▶ (as above) ─┤
//!  insecure ────────────  an alias ──▶ CNAME of the name ── secure ──▶ (as above) ──────┼─▶ Found
//!  insecure ────────────  no alias ─────────────────────────────────────────────────────┘
//! ```
//!
//! Nothing is asked unless the host's own name is certain ([`Lane::authentic`]) and a resolver tells
//! what is signed. An answer that fails ends the search in [`Found::Unknown`], and the host is not used:
//! "no TLSA records" must be proved, or somebody who can suppress an answer could suppress the policy.
//!
//! RFC 7672 §2.1.2 (errors), §2.2.1 (MX), §2.2.2 (hosts and aliases), §2.2.3 (TLSA records).

use std::net::IpAddr;
use std::sync::Arc;

use super::io::{Lane, Request};
use crate::channel::Associations;
use crate::config::{Config, HostPort, TlsLevel};
use crate::dns::{Addresses, AliasAnswer, DnsFailure, Tlsa, TlsaAnswer, TlsaSet};
use crate::queue::handling::TlsWish;

/// The TLSA records of a host.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HostTlsa {
    /// The name under which they were found: what the server is asked for, and what its certificate must
    /// name where names count (RFC 7672 §3.2.2, §8.1).
    pub(super) base: String,
    /// All that could be read, for reports.
    pub(super) records: Vec<Tlsa>,
    /// Those that can be used; none if all that there are cannot.
    pub(super) usable: Option<Associations>,
}

/// The end of a search.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// There are TLSA records.
    Records(Arc<HostTlsa>),
    /// It is proved that there are none, or nothing is signed.
    Nothing,
    /// There is no knowing.
    Unknown(DnsFailure),
}

/// A host whose TLSA records are searched for.
#[derive(Debug)]
pub(super) struct Search {
    /// The host.
    pub(super) host: HostPort,
    /// Its addresses.
    pub(super) addresses: Vec<IpAddr>,
    asked: Asked,
}

#[derive(Debug)]
enum Asked {
    /// The TLSA records of a name, and if there are none, those of the next.
    Tlsa { base: String, next: Option<String> },
    /// Whether the host's name is an alias by a signed record.
    Alias,
}

/// What comes next.
#[derive(Debug)]
pub(super) enum Step {
    /// Ask what [`Search::request`] says now, and hand in the answer.
    Ask,
    /// The search is over.
    Done(Found),
}

/// Whether what DANE says of the hosts of this lane counts for a message.
pub(super) fn applies(lane: &Lane, config: &Config, wish: TlsWish) -> bool {
    // RFC 8689 §4.2.2: such a message goes by no policy of the receiver, but by our own configuration.
    let wanted = wish != TlsWish::NotRequired || lane.tls == TlsLevel::Dane;
    lane.authentic && config.dns.trust_ad && wanted
}

impl Search {
    /// Begins with a host and its addresses. None if there is nothing to search for.
    pub(super) fn begin(host: HostPort, found: Addresses) -> Option<Self> {
        let own = host.host.clone();
        let expanded = found.canonical.filter(|canonical| *canonical != own);
        let asked = match (found.authentic, expanded) {
            (true, None) => Asked::Tlsa {
                base: own,
                next: None,
            },
            (true, Some(expanded)) => Asked::Tlsa {
                base: expanded,
                next: Some(own),
            },
            (false, Some(_)) => Asked::Alias,
            (false, None) => return None,
        };
        Some(Self {
            host,
            addresses: found.addresses,
            asked,
        })
    }

    /// What is asked now.
    pub(super) fn request(&self) -> Request {
        match &self.asked {
            Asked::Tlsa { base, .. } => Request::Tlsa(base.clone(), self.host.port),
            Asked::Alias => Request::Alias(self.host.host.clone()),
        }
    }

    /// The answer to [`Request::Tlsa`].
    pub(super) fn tlsa(&mut self, answer: TlsaAnswer) -> Step {
        let Asked::Tlsa { base, next } = &mut self.asked else {
            return Step::Done(Found::Unknown(unasked()));
        };
        match answer {
            Ok(set) if set.authentic => {
                let found = HostTlsa::new(std::mem::take(base), set);
                Step::Done(Found::Records(Arc::new(found)))
            }
            // RFC 7672 §2.2: records that are not signed say nothing.
            Ok(_) | Err(DnsFailure::NoSuchDomain | DnsFailure::NoRecord) => match next.take() {
                Some(next) => {
                    *base = next;
                    Step::Ask
                }
                None => Step::Done(Found::Nothing),
            },
            Err(why @ (DnsFailure::NullMx | DnsFailure::BadName(_) | DnsFailure::Temporary(_))) => {
                Step::Done(Found::Unknown(why))
            }
        }
    }

    /// The answer to [`Request::Alias`].
    pub(super) fn alias(&mut self, answer: AliasAnswer) -> Step {
        if !matches!(self.asked, Asked::Alias) {
            return Step::Done(Found::Unknown(unasked()));
        }
        match answer {
            Ok(alias) if alias.authentic => {
                self.asked = Asked::Tlsa {
                    base: self.host.host.clone(),
                    next: None,
                };
                Step::Ask
            }
            Ok(_) | Err(DnsFailure::NoSuchDomain | DnsFailure::NoRecord) => {
                Step::Done(Found::Nothing)
            }
            Err(why @ (DnsFailure::NullMx | DnsFailure::BadName(_) | DnsFailure::Temporary(_))) => {
                Step::Done(Found::Unknown(why))
            }
        }
    }
}

impl HostTlsa {
    fn new(base: String, set: TlsaSet) -> Self {
        Self {
            base,
            usable: Associations::usable(&set.records),
            records: set.records,
        }
    }
}

fn unasked() -> DnsFailure {
    DnsFailure::Temporary("an answer that was not asked for".to_owned())
}
