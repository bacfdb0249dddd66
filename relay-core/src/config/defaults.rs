//! What holds where nothing is said, and what can be asked of a configuration.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use smtp_proto::Domain;

use super::credential::{a_labels, contains};
use super::{
    Config, Credential, DeliveryConfig, DnsConfig, DomainPattern, InDoubt, IpFamilies, Limits,
    Listener, ListenerTls, MtaStsConfig, Preflight, Rate, Role, Route, SigningDomain, TlsLevel,
    TlsRptConfig,
};
use crate::sasl::{Decoy, ITERATIONS_DEFAULT, Verifier};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// `"1m, 5m*2, 15m, 30m, 1h*4, 4h*"`
const RETRY_SECS: [u64; 10] = [
    MINUTE,
    5 * MINUTE,
    5 * MINUTE,
    15 * MINUTE,
    30 * MINUTE,
    HOUR,
    HOUR,
    HOUR,
    HOUR,
    4 * HOUR,
];

/// Where a mail exchanger on the internet cannot be: loopback, private use, link-local (RFC 6890). An MX
/// that points there would make the relay talk to its own network for a stranger.
const PROHIBITED_HOSTS: [&str; 10] = [
    "127.0.0.0/8",
    "::1/128",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
];

impl Config {
    /// A relay of this name that keeps its data there: no listeners, nobody who may send, delivery by
    /// MX with the resolver at 127.0.0.1:53. What an embedder starts from.
    #[must_use]
    pub fn new(hostname: Domain, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            hostname,
            data_dir: data_dir.into(),
            listeners: Vec::new(),
            tls: None,
            credentials: Vec::new(),
            external_credentials: false,
            external_tokens: false,
            limits: Limits::default(),
            dns: DnsConfig::default(),
            delivery: DeliveryConfig::default(),
            mta_sts: MtaStsConfig::default(),
            tls_rpt: TlsRptConfig::default(),
            routes: Vec::new(),
            domains: Vec::new(),
            admin: None,
            admin_token: None,
            decoy_key: None,
            return_path_keys: None,
            preflight: Preflight::default(),
        }
    }

    /// What `serve` runs without a configuration: on loopback, STARTTLS on 2587, implicit TLS on 2465,
    /// the admin page on 8587.
    #[must_use]
    pub fn embedded(hostname: Domain, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            listeners: default_listeners(),
            admin: Some(loopback(8587)),
            ..Self::new(hostname, data_dir)
        }
    }

    /// The credential of a name.
    #[must_use]
    pub fn credential(&self, name: &str) -> Option<&Arc<Credential>> {
        self.credentials
            .iter()
            .find(|credential| credential.name == name)
    }

    /// The route of a destination; none for its MX.
    #[must_use]
    pub fn route_for(&self, domain: &Domain) -> Option<&Route> {
        self.routes
            .iter()
            .find(|route| route.domain.matches(domain))
    }

    /// The domain whose keys seal mail that goes on by a route: the nearest with keys that is this host
    /// or above it, else the route's.
    #[must_use]
    pub fn sealing_domain(&self, route: &DomainPattern) -> Option<&Arc<SigningDomain>> {
        let nearest = |name: &Domain| {
            let name = a_labels(name);
            let above = |domain: &&Arc<SigningDomain>| {
                let rest = name.strip_suffix(&a_labels(&domain.name));
                let fits = rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
                fits && !domain.keys.is_empty()
            };
            let found = self.domains.iter().filter(above);
            found.max_by_key(|domain| domain.name.as_str().len())
        };
        nearest(&self.hostname).or_else(|| match route {
            DomainPattern::Exact(name) | DomainPattern::Subdomains(name) => nearest(name),
            DomainPattern::Any => None,
        })
    }

    /// What stands in for a user whom nobody knows. `key` is used if the configuration has none of its
    /// own; it should be random, and the same for as long as the process lives.
    #[must_use]
    pub fn decoy(&self, key: &[u8; 32]) -> Decoy {
        let iterations = self.credentials.iter().filter_map(|c| c.verifier.as_ref());
        // Verifiers that the relay makes have all the same count; a decoy must have it too.
        let iterations = iterations
            .map(Verifier::iterations)
            .max()
            .unwrap_or(ITERATIONS_DEFAULT);
        Decoy::new(self.decoy_key.unwrap_or(*key), iterations)
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// The listeners of a relay that is told of none.
pub(super) fn default_listeners() -> Vec<Listener> {
    vec![
        Listener::new(loopback(2587), ListenerTls::StartTls),
        Listener::new(loopback(2465), ListenerTls::Implicit),
    ]
}

impl Listener {
    /// A listener without PROXY headers, front ends and trusted networks.
    #[must_use]
    pub fn new(address: SocketAddr, tls: ListenerTls) -> Self {
        Self {
            address,
            role: Role::Submission,
            tls,
            proxy_protocol: false,
            trusted_proxies: Vec::new(),
            trusted_networks: Vec::new(),
            trusted_as: None,
            xclient_from: Vec::new(),
            client_certificates: None,
        }
    }

    /// The name of the credential that a client acts as without AUTH; none if it must log in.
    #[must_use]
    pub fn trusted(&self, client: IpAddr) -> Option<&str> {
        self.trusted_as
            .as_deref()
            .filter(|_| contains(&self.trusted_networks, client))
    }

    /// Whether a peer may speak for other clients by XCLIENT.
    #[must_use]
    pub fn trusts_front_end(&self, peer: IpAddr) -> bool {
        contains(&self.xclient_from, peer)
    }

    /// Whether a peer may tell another client's address in a PROXY header.
    #[must_use]
    pub fn trusts_proxy(&self, peer: IpAddr) -> bool {
        self.proxy_protocol && contains(&self.trusted_proxies, peer)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_size: 50 * 1024 * 1024,
            memory: None,
            recipients: 1000,
            connections: 10_000,
            connections_per_ip: 100,
            auth_failures_per_ip: Rate {
                count: 10,
                per: Duration::from_secs(10 * MINUTE),
            },
        }
    }
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            servers: vec![loopback(53)],
            trust_ad: false,
        }
    }
}

/// One exchange over HTTPS, from the name to the last octet.
const HTTPS_TIMEOUT: Duration = Duration::from_secs(60);

impl Default for MtaStsConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            port: 443,
            timeout: HTTPS_TIMEOUT,
            allow_private: false,
        }
    }
}

impl Default for TlsRptConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            organization: None,
            contact: None,
            from: None,
            timeout: HTTPS_TIMEOUT,
            allow_private: false,
        }
    }
}

impl Default for DeliveryConfig {
    fn default() -> Self {
        Self {
            port: 25,
            retry: RETRY_SECS.map(Duration::from_secs).to_vec(),
            expire: Duration::from_secs(3 * DAY),
            tls: TlsLevel::Opportunistic,
            connections_per_lane: 10,
            connections: 1000,
            messages_per_connection: 100,
            prohibited_hosts: PROHIBITED_HOSTS
                .iter()
                .filter_map(|net| net.parse().ok())
                .collect(),
            ip_families: IpFamilies::Both,
            in_doubt: InDoubt::Retry,
            ca_file: None,
            public_addresses: Vec::new(),
        }
    }
}

impl DeliveryConfig {
    /// Why a mail exchanger at this address is refused; none if it is not. A route's hosts are not
    /// asked about.
    ///
    /// Addresses that are no host at all (unspecified, multicast, broadcast) are refused whatever the
    /// configuration says. IPv4 in its IPv6 forms (mapped, NAT64) is judged as IPv4.
    #[must_use]
    pub fn prohibits(&self, address: IpAddr) -> Option<String> {
        let address = as_ipv4(address.to_canonical());
        let no_host = match address {
            IpAddr::V4(ip) => ip.octets()[0] == 0 || ip.is_multicast() || ip.is_broadcast(),
            IpAddr::V6(ip) => ip.is_unspecified() || ip.is_multicast(),
        };
        if no_host {
            return Some(format!("{address} is not the address of a host"));
        }
        let network = self
            .prohibited_hosts
            .iter()
            .find(|network| network.contains(&address))?;
        Some(format!(
            "{address} is in {network}, which prohibited_hosts names"
        ))
    }
}

/// The IPv4 address in one of 64:ff9b::/96 (RFC 6052 §2.1).
fn as_ipv4(address: IpAddr) -> IpAddr {
    let IpAddr::V6(ip) = address else {
        return address;
    };
    match ip.octets() {
        [0x00, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d] => IpAddr::from([a, b, c, d]),
        _ => address,
    }
}
