//! Whom to try: the lane's hosts in order, their addresses, and which of them must not be used.
//!
//! ```text
//!  next() ──▶ Resolve(hop) ── resolved() ──▶ Connect(candidate) ──▶ … ──▶ Exhausted
//!    ▲                                            │
//!    └──────────── again(candidate) ◀─────────────┘
//! ```
//!
//! Hosts go by preference, equal ones of MX shuffled for each delivery, so that connections spread; a
//! route's stay in order. A host's addresses keep the order of the answer, but the two families take
//! turns, so that one that does not work costs one wait. RFC 5321 §5.1 asks for an upper limit on what
//! is tried in one attempt and for at least two addresses.
//!
//! An MX must not point where we would talk to ourselves or to something that is reachable from here
//! only; a route may, on purpose, but never to our own listeners.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::dane::HostTlsa;
use super::finding::Forbidden;
use super::io::{Hop, Lane};
use crate::config::{Config, HostPort};
use crate::rng::Rng;

/// Hosts that are resolved in one attempt at most.
pub(super) const HOSTS_MAX: usize = 5;

/// Addresses that are connected to in one attempt at most.
pub(super) const ADDRESSES_MAX: usize = 10;

/// One address of one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    /// The host's name, or its address.
    pub(super) host: String,
    /// Where to connect.
    pub(super) address: SocketAddr,
    /// TLS failed with it on an earlier connection, and clear text takes its place.
    pub(super) tls_given_up: bool,
    /// The TLSA records of the host, if there are some that count.
    pub(super) tlsa: Option<Arc<HostTlsa>>,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Find the addresses of this host, and hand them to [`Plan::resolved`].
    Resolve(HostPort),
    /// Connect.
    Connect(Candidate),
    /// Nothing is left to try.
    Exhausted,
}

/// Hosts and addresses that are still to be tried for one connection.
#[derive(Debug)]
pub(super) struct Plan {
    hosts: VecDeque<HostPort>,
    candidates: VecDeque<Candidate>,
    hosts_left: usize,
    addresses_left: usize,
    /// Something was left out because of a limit.
    cut: bool,
}

impl Plan {
    /// All hosts of a lane.
    pub(super) fn new(lane: &Lane, rng: &mut Rng) -> Self {
        let mut hops: Vec<&Hop> = lane.hosts.iter().collect();
        if !lane.route {
            hops.sort_by_cached_key(|hop| (hop.preference, rng.next_u64()));
        }
        Self {
            hosts: hops.into_iter().map(|hop| hop.host.clone()).collect(),
            candidates: VecDeque::new(),
            hosts_left: HOSTS_MAX,
            addresses_left: ADDRESSES_MAX,
            cut: false,
        }
    }

    /// What to do next.
    pub(super) fn next(&mut self) -> Step {
        if let Some(candidate) = self.candidates.pop_front() {
            if self.addresses_left > 0 {
                self.addresses_left -= 1;
                return Step::Connect(candidate);
            }
            self.cut = true;
            return Step::Exhausted;
        }
        let Some(host) = self.hosts.pop_front() else {
            return Step::Exhausted;
        };
        if self.hosts_left == 0 || self.addresses_left == 0 {
            self.cut = true;
            return Step::Exhausted;
        }
        self.hosts_left -= 1;
        Step::Resolve(host)
    }

    /// The addresses of a host are known. Gives those that are refused, each with its reason.
    pub(super) fn resolved(
        &mut self,
        host: &HostPort,
        addresses: &[IpAddr],
        tlsa: Option<&Arc<HostTlsa>>,
        lane: &Lane,
        config: &Config,
    ) -> Vec<(SocketAddr, Forbidden)> {
        let same_family = |address: &IpAddr| {
            lane.source
                .is_none_or(|source| source.is_ipv4() == address.to_canonical().is_ipv4())
        };
        let usable: Vec<IpAddr> = addresses.iter().copied().filter(same_family).collect();
        if usable.is_empty() {
            let first = addresses
                .first()
                .copied()
                .unwrap_or(Ipv4Addr::UNSPECIFIED.into());
            return vec![(SocketAddr::new(first, host.port), Forbidden::Family)];
        }
        self.cut |= usable.len() > ADDRESSES_MAX;
        let mut refused = Vec::new();
        for ip in interleaved(&usable).into_iter().take(ADDRESSES_MAX) {
            let address = SocketAddr::new(ip, host.port);
            match forbidden(address, lane.route, config) {
                Some(why) => refused.push((address, why)),
                None => self.candidates.push_back(Candidate {
                    host: host.host.clone(),
                    address,
                    tls_given_up: false,
                    tlsa: tlsa.cloned(),
                }),
            }
        }
        refused
    }

    /// A host was left out without a connection: another one may take its place.
    pub(super) fn left_out(&mut self) {
        self.hosts_left += 1;
    }

    /// Tries a candidate once more, before all others. It costs nothing of the limits: the caller
    /// changed something about it that changes once.
    pub(super) fn again(&mut self, candidate: Candidate) {
        self.addresses_left += 1;
        self.candidates.push_front(candidate);
    }

    /// Whether nothing was left out so far because of a limit.
    pub(super) fn is_complete(&self) -> bool {
        !self.cut && self.hosts.is_empty() && self.candidates.is_empty()
    }
}

/// Why this address must not be used, if so.
pub(super) fn forbidden(address: SocketAddr, route: bool, config: &Config) -> Option<Forbidden> {
    let ip = embedded(address.ip());
    let own = config.listeners.iter().any(|listener| {
        listener.address.port() == address.port() && listener.address.ip().to_canonical() == ip
    });
    if own {
        return Some(Forbidden::Own(address));
    }
    if route {
        return None;
    }
    config.delivery.prohibits(ip).map(Forbidden::Prohibited)
}

/// Whether this connection, just made, leads to one of our own listeners that listens on all addresses.
pub(super) fn is_own(local: SocketAddr, remote: SocketAddr, config: &Config) -> bool {
    embedded(local.ip()) == embedded(remote.ip())
        && config.listeners.iter().any(|listener| {
            listener.address.port() == remote.port() && listener.address.ip().is_unspecified()
        })
}

/// The IPv4 address in an IPv6 address that only carries one; otherwise the address itself.
pub(crate) fn embedded(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let v4 = |high: u16, low: u16| {
        IpAddr::V4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
    };
    match [a, b, c, d, e, f] {
        // RFC 4291 §2.5.5.2: ::ffff:0:0/96.
        [0, 0, 0, 0, 0, 0xffff] => v4(g, h),
        // RFC 4291 §2.5.5.1: ::/96, but for :: and ::1.
        [0, 0, 0, 0, 0, 0] if g != 0 => v4(g, h),
        // RFC 6052 §2.1: 64:ff9b::/96.
        [0x64, 0xff9b, 0, 0, 0, 0] => v4(g, h),
        // RFC 3056 §2: 2002::/16.
        [0x2002, high, low, ..] => v4(high, low),
        _ => ip,
    }
}

/// The families take turns, beginning with that of the first address.
fn interleaved(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let first_is_v4 = addresses.first().is_some_and(IpAddr::is_ipv4);
    let (a, b): (Vec<IpAddr>, Vec<IpAddr>) = addresses
        .iter()
        .partition(|address| address.is_ipv4() == first_is_v4);
    let mut mixed = Vec::with_capacity(addresses.len());
    let (mut a, mut b) = (a.into_iter(), b.into_iter());
    loop {
        let pair = [a.next(), b.next()];
        if pair == [None, None] {
            return mixed;
        }
        mixed.extend(pair.into_iter().flatten());
    }
}

#[cfg(test)]
mod tests;
