//! The names of the world: which host takes mail for which domain, and how names fail for a while.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use relay_core::config::TlsLevel;
use relay_core::dns::zone::{Failure, Zone};
use relay_core::rng::Rng;

use super::agenda::Dice;
use super::certs::Papers;
use super::profile::Profile;

/// The domain whose mail takes the route.
pub(crate) const SMART_DOMAIN: &str = "smart.test";

/// Hosts that share the mail of some domains: one lane of the relay.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) hosts: Vec<usize>,
    pub(crate) domains: Vec<String>,
}

/// The zone, and what of it fails now.
#[derive(Debug)]
pub(crate) struct Names {
    pub(crate) groups: Vec<Group>,
    pub(crate) zone: Zone,
    hosts: usize,
    /// The last host takes mail by a route only.
    smart: bool,
    /// Hosts whose certificate the zone names.
    dane: Vec<bool>,
    /// Hosts of the web and their addresses, and TXT records.
    pub(crate) site_names: Vec<(String, IpAddr)>,
    pub(crate) texts: Vec<(String, String)>,
    failing: Vec<(String, Failure)>,
    /// Of a thousand questions, how many get no answer, or a forged one before the right one.
    pub(crate) silent_per_mille: u64,
    pub(crate) forged_per_mille: u64,
    /// Of a thousand answers over UDP, how many do not fit.
    pub(crate) truncated_per_mille: u64,
}

/// The name server that the relay asks.
pub(crate) fn server() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 53], 53))
}

/// The address of a receiving host.
pub(crate) fn host_ip(host: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(
        203,
        0,
        113,
        u8::try_from(host + 1).unwrap_or(255),
    ))
}

/// The receiving host at an address.
pub(crate) fn host_at(ip: IpAddr) -> Option<usize> {
    match ip {
        IpAddr::V4(ip) if ip.octets()[..3] == [203, 0, 113] => {
            usize::from(ip.octets()[3]).checked_sub(1)
        }
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

pub(crate) fn host_name(host: usize) -> String {
    format!("mx{host}.test")
}

impl Names {
    /// One or two hosts a group, one or two domains, and the domains of the senders.
    pub(crate) fn new(profile: &Profile, rng: &mut Rng) -> Self {
        let (hosts, clients) = (&profile.hosts, profile.clients);
        let mut groups = Vec::new();
        let mut next = 0;
        while next < hosts.len() {
            let size = if rng.chance(250) { 2 } else { 1 };
            let end = (next + size).min(hosts.len());
            let number = groups.len();
            let domains = ["a", "b"][..rng.range(1, 2) as usize]
                .iter()
                .map(|letter| format!("{letter}{number}.test"))
                .collect();
            groups.push(Group {
                hosts: (next..end).collect(),
                domains,
            });
            next = end;
        }
        let count = groups.len() as u64;
        // One more: the client that comes when all is well.
        for client in 0..=clients {
            let group = usize::try_from(client % count).unwrap_or(0);
            groups[group].domains.push(sender_domain(client));
        }
        let mut names = Self {
            groups,
            zone: Zone::new(),
            hosts: hosts.len() + usize::from(profile.smart_host.is_some()),
            smart: profile.smart_host.is_some(),
            dane: hosts
                .iter()
                .map(|_| profile.dane && rng.chance(500))
                .collect(),
            site_names: Vec::new(),
            texts: Vec::new(),
            failing: Vec::new(),
            silent_per_mille: 0,
            forged_per_mille: 0,
            truncated_per_mille: profile.dns_truncated_per_mille,
        };
        names.set_failing(&[]);
        names
    }

    /// Makes these names fail, and no others.
    pub(crate) fn set_failing(&mut self, failing: &[(String, Failure)]) {
        self.failing = failing.to_vec();
        self.rebuild();
    }

    /// Makes the zone anew of all that it says now.
    pub(crate) fn rebuild(&mut self) {
        let mut zone = Zone::new().mx("null.test", 0, ".").empty("bare.test");
        if self.dane.contains(&true) {
            zone = zone.authentic();
        }
        for host in 0..self.hosts {
            zone = zone.address(&host_name(host), host_ip(host));
            if let (TlsLevel::Verify, Some(papers)) = (self.dane_level(host), Papers::get()) {
                zone = zone.tlsa(&host_name(host), 25, &papers.tlsa);
            }
        }
        for group in &self.groups {
            for domain in &group.domains {
                for (rank, &host) in group.hosts.iter().enumerate() {
                    let preference = if group.domains.len() % 2 == 0 {
                        10
                    } else {
                        10 + rank
                    };
                    let preference = u16::try_from(preference).unwrap_or(10);
                    zone = zone.mx(domain, preference, &host_name(host));
                }
            }
        }
        for (name, ip) in &self.site_names {
            zone = zone.address(name, *ip);
        }
        for (name, text) in &self.texts {
            zone = zone.txt(name, &[text]);
        }
        for (name, how) in &self.failing {
            zone = zone.failing(name, *how);
        }
        self.zone = zone;
    }

    /// What the zone asks for at a host. RFC 7672 §2.2: its TLSA record is in a secure zone.
    pub(crate) fn dane_level(&self, host: usize) -> TlsLevel {
        match self.dane.get(host) {
            Some(true) => TlsLevel::Verify,
            Some(false) | None => TlsLevel::None,
        }
    }

    /// Whether a host takes mail by a route only.
    pub(crate) fn is_smart(&self, host: usize) -> bool {
        self.smart && host + 1 == self.hosts
    }

    /// Two domains change their hosts.
    pub(crate) fn swap_domains(&mut self, rng: &mut Rng) {
        let count = self.groups.len() as u64;
        let (a, b) = (rng.below(count) as usize, rng.below(count) as usize);
        if a == b {
            return;
        }
        let (first, second) = (self.groups[a].domains.pop(), self.groups[b].domains.pop());
        self.groups[a].domains.extend(second);
        self.groups[b].domains.extend(first);
        self.set_failing(&[]);
    }

    /// Some name of the world.
    pub(crate) fn any_name(&self, rng: &mut Rng) -> String {
        if self.dane.contains(&true) && rng.chance(300) {
            let host = host_name(rng.below(self.hosts as u64) as usize);
            return format!("_25._tcp.{host}");
        }
        if !self.texts.is_empty() && rng.chance(300) {
            return self.texts[rng.below(self.texts.len() as u64) as usize]
                .0
                .clone();
        }
        if rng.chance(400) {
            return host_name(rng.below(self.hosts as u64) as usize);
        }
        let group = &self.groups[rng.below(self.groups.len() as u64) as usize];
        group.domains[rng.below(group.domains.len() as u64) as usize].clone()
    }

    /// A domain to send to. A few take no mail.
    pub(crate) fn any_domain(&self, rng: &mut Rng) -> String {
        if rng.chance(40) {
            return rng
                .pick(&["gone.test", "null.test", "bare.test"])
                .to_owned();
        }
        if self.smart && rng.chance(200) {
            return SMART_DOMAIN.to_owned();
        }
        let group = &self.groups[rng.below(self.groups.len() as u64) as usize];
        group.domains[rng.below(group.domains.len() as u64) as usize].clone()
    }

    /// The hosts that take mail for a domain.
    pub(crate) fn hosts_of(&self, domain: &str) -> Option<&[usize]> {
        let is_its = |group: &&Group| group.domains.iter().any(|name| name == domain);
        self.groups.iter().find(is_its).map(|group| &*group.hosts)
    }

    /// The hosts of the lane that a host belongs to.
    pub(crate) fn lane_of(&self, host: usize) -> Option<usize> {
        self.groups
            .iter()
            .position(|group| group.hosts.contains(&host))
    }
}

/// Where a client's reports go.
pub(crate) fn sender_domain(client: u64) -> String {
    format!("s{client}.test")
}
