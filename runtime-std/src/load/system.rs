//! What the system says: its name and its resolvers.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use relay_core::config::System;

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// As in the system's own resolver.
const SERVERS_MAX: usize = 3;

/// The system's name and resolvers, with the data directory of the command line.
#[must_use]
pub fn system(data_dir: Option<PathBuf>) -> System {
    let name = rustix::system::uname();
    let resolv_conf = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
    System {
        hostname: name.nodename().to_str().ok().map(str::to_owned),
        dns_servers: nameservers(&resolv_conf),
        data_dir,
    }
}

/// The `nameserver` lines of a resolv.conf(5).
fn nameservers(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = words
            .next()
            .filter(|&word| word == "nameserver")
            .and(words.next())?;
        // A zone (fe80::1%eth0) cannot be kept in a socket address of ours.
        address.parse::<IpAddr>().ok()
    });
    lines
        .map(|address| SocketAddr::from((address, 53)))
        .take(SERVERS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_names_the_servers() {
        let text = "# nameserver 192.0.2.1\nsearch example.com\nnameserver 192.0.2.2\n\
                    nameserver\t2001:db8::1 \nnameserver fe80::1%eth0\nnameserver x\n\
                    options edns0\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n";
        let servers: Vec<_> = nameservers(text).iter().map(ToString::to_string).collect();
        assert_eq!(
            servers,
            ["192.0.2.2:53", "[2001:db8::1]:53", "192.0.2.3:53"]
        );
        assert_eq!(nameservers(""), []);
    }
}
