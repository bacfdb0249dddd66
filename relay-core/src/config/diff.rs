//! What a reload changes, in words.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::SocketAddr;

use super::{Config, Listener};

impl Config {
    /// What is different in `new`, a line each, for the person who reloads. Secrets are not shown.
    #[must_use]
    pub fn diff(&self, new: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        value(&mut lines, "hostname", &self.hostname, &new.hostname);
        if self.data_dir != new.data_dir {
            lines.push("data_dir: a change needs a restart; the old one stays in use".to_owned());
        }
        self.diff_listeners(new, &mut lines);
        value(&mut lines, "tls", &self.tls, &new.tls);
        set(
            &mut lines,
            "credential",
            &self.credentials,
            &new.credentials,
            |c| c.name.clone(),
        );
        self.diff_limits(new, &mut lines);
        value(
            &mut lines,
            "dns.servers",
            &self.dns.servers,
            &new.dns.servers,
        );
        value(
            &mut lines,
            "dns.trust_ad",
            &self.dns.trust_ad,
            &new.dns.trust_ad,
        );
        self.diff_delivery(new, &mut lines);
        value(&mut lines, "tls_rpt", &self.tls_rpt, &new.tls_rpt);
        value(&mut lines, "mta_sts", &self.mta_sts, &new.mta_sts);
        set(&mut lines, "route", &self.routes, &new.routes, |r| {
            r.domain.to_string()
        });
        let order = |config: &Self| -> Vec<String> {
            config
                .routes
                .iter()
                .map(|route| route.domain.to_string())
                .collect()
        };
        let (mut old_order, mut new_order) = (order(self), order(new));
        if old_order != new_order {
            old_order.sort();
            new_order.sort();
            if old_order == new_order {
                lines.push("route: the order changed".to_owned());
            }
        }
        set(&mut lines, "domain", &self.domains, &new.domains, |d| {
            d.name.to_string()
        });
        if self.admin_token != new.admin_token {
            lines.push("admin.token_file: another token".to_owned());
        }
        value(&mut lines, "preflight", &self.preflight, &new.preflight);
        if self.return_path_keys != new.return_path_keys {
            lines.push("return paths: other keys".to_owned());
        }
        if self.admin != new.admin {
            lines
                .push("admin.address: a change needs a restart; the old one stays open".to_owned());
        }
        lines
    }

    /// Keeps what a relay that runs with `running` cannot change: which sockets are open, and where its
    /// data is. Every open socket keeps its place in the list, since sessions know it by that; it has
    /// the new settings of its address, or the old ones if there are none.
    #[must_use]
    pub fn kept_open(&self, running: &Self) -> Self {
        let listeners = running.listeners.iter().enumerate().map(|(at, open)| {
            let same = |other: &&Listener| other.address == open.address;
            // Programs may let the system choose ports: then several have the address with port 0.
            let nth = running.listeners[..at].iter().filter(same).count();
            let now = self.listeners.iter().filter(same).nth(nth);
            now.unwrap_or(open).clone()
        });
        Self {
            listeners: listeners.collect(),
            data_dir: running.data_dir.clone(),
            admin: running.admin,
            // An address off loopback that stays open is never open to everybody.
            admin_token: self.admin_token.clone().or_else(|| {
                let reached = |admin: SocketAddr| !admin.ip().to_canonical().is_loopback();
                running
                    .admin_token
                    .clone()
                    .filter(|_| running.admin.is_some_and(reached))
            }),
            ..self.clone()
        }
    }

    fn diff_listeners(&self, new: &Self, lines: &mut Vec<String>) {
        let of = |config: &Self, address| {
            let found = config.listeners.iter().find(|l| l.address == address);
            found.cloned()
        };
        for Listener { address, .. } in &new.listeners {
            match of(self, *address) {
                None => lines.push(format!("listener {address}: added; opened at a restart")),
                old if old != of(new, *address) => {
                    lines.push(format!("listener {address}: changed"))
                }
                Some(_) => {}
            }
        }
        for Listener { address, .. } in &self.listeners {
            if of(new, *address).is_none() {
                lines.push(format!("listener {address}: removed; open until a restart"));
            }
        }
    }

    fn diff_limits(&self, new: &Self, lines: &mut Vec<String>) {
        let (a, b) = (&self.limits, &new.limits);
        value(
            lines,
            "limits.message_size",
            &a.message_size,
            &b.message_size,
        );
        if a.memory != b.memory {
            lines.push("limits.memory: a change needs a restart; the old one stays".to_owned());
        }
        value(lines, "limits.recipients", &a.recipients, &b.recipients);
        value(lines, "limits.connections", &a.connections, &b.connections);
        value(
            lines,
            "limits.connections_per_ip",
            &a.connections_per_ip,
            &b.connections_per_ip,
        );
        let (a, b) = (&a.auth_failures_per_ip, &b.auth_failures_per_ip);
        value(lines, "limits.auth_failures_per_ip", a, b);
    }

    fn diff_delivery(&self, new: &Self, lines: &mut Vec<String>) {
        let (a, b) = (&self.delivery, &new.delivery);
        value(lines, "delivery.port", &a.port, &b.port);
        value(lines, "delivery.retry", &a.retry, &b.retry);
        value(lines, "delivery.expire", &a.expire, &b.expire);
        value(lines, "delivery.tls", &a.tls, &b.tls);
        value(
            lines,
            "delivery.connections",
            &a.connections,
            &b.connections,
        );
        let (x, y) = (&a.connections_per_lane, &b.connections_per_lane);
        value(lines, "delivery.connections_per_lane", x, y);
        let (x, y) = (&a.messages_per_connection, &b.messages_per_connection);
        value(lines, "delivery.messages_per_connection", x, y);
        value(
            lines,
            "delivery.prohibited_hosts",
            &a.prohibited_hosts,
            &b.prohibited_hosts,
        );
        value(
            lines,
            "delivery.ip_families",
            &a.ip_families,
            &b.ip_families,
        );
        value(lines, "delivery.in_doubt", &a.in_doubt, &b.in_doubt);
        value(lines, "delivery.ca_file", &a.ca_file, &b.ca_file);
        let (x, y) = (&a.public_addresses, &b.public_addresses);
        value(lines, "delivery.public_addresses", x, y);
    }
}

fn value<T: PartialEq + Debug>(lines: &mut Vec<String>, key: &str, old: &T, new: &T) {
    if old != new {
        lines.push(format!("{key}: {old:?} -> {new:?}"));
    }
}

/// Sections that have a name: which came, which went, which changed. Of several with one name, the first
/// counts, as it does in use.
fn set<T: PartialEq>(
    lines: &mut Vec<String>,
    section: &str,
    old: &[T],
    new: &[T],
    name: impl Fn(&T) -> String,
) {
    let index = |items: &[T]| -> BTreeMap<String, usize> {
        items
            .iter()
            .enumerate()
            .rev()
            .map(|(at, item)| (name(item), at))
            .collect()
    };
    let (was, is) = (index(old), index(new));
    for (name, &at) in &is {
        match was.get(name) {
            None => lines.push(format!("{section} {name}: added")),
            Some(&before) if old[before] != new[at] => {
                lines.push(format!("{section} {name}: changed"));
            }
            Some(_) => {}
        }
    }
    let gone = was.keys().filter(|name| !is.contains_key(*name));
    lines.extend(gone.map(|name| format!("{section} {name}: removed")));
}
