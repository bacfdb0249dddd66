//! The names of the world: which host takes mail for which domain, and how names fail for a while.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use relay_core::dns::zone::{Failure, Zone};
use relay_core::rng::Rng;

use super::agenda::Dice;
use super::profile::Manner;

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
    /// Of a thousand questions, how many get no answer, or a forged one before the right one.
    pub(crate) silent_per_mille: u64,
    pub(crate) forged_per_mille: u64,
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
    pub(crate) fn new(hosts: &[Manner], clients: u64, rng: &mut Rng) -> Self {
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
            hosts: hosts.len(),
            silent_per_mille: 0,
            forged_per_mille: 0,
        };
        names.set_failing(&[]);
        names
    }

    /// Makes these names fail, and no others.
    pub(crate) fn set_failing(&mut self, failing: &[(String, Failure)]) {
        let mut zone = Zone::new().mx("null.test", 0, ".").empty("bare.test");
        for host in 0..self.hosts {
            zone = zone.address(&host_name(host), host_ip(host));
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
        for (name, how) in failing {
            zone = zone.failing(name, *how);
        }
        self.zone = zone;
    }

    /// Some name of the world.
    pub(crate) fn any_name(&self, rng: &mut Rng) -> String {
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
        let group = &self.groups[rng.below(self.groups.len() as u64) as usize];
        group.domains[rng.below(group.domains.len() as u64) as usize].clone()
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
