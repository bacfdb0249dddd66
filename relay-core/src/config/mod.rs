//! The configuration as values that are valid by construction.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use smtp_proto::Domain;

pub use crate::sasl::Verifier;

/// Everything that a relay is told. Made by parsing `relay.toml`, or by an embedder.
#[derive(Debug, Clone)]
pub struct Config {
    /// The name in banner, EHLO and Received.
    pub hostname: Domain,
    /// Where the queue, credentials and certificates are kept.
    pub data_dir: PathBuf,
    /// Where clients connect.
    pub listeners: Vec<Listener>,
    /// The certificate and key of the listeners; none for a self-signed one in `data_dir`.
    pub tls: Option<TlsFiles>,
    /// Who may send.
    pub credentials: Vec<Arc<Credential>>,
    /// The embedder checks passwords itself; only PLAIN and LOGIN are offered then.
    pub external_credentials: bool,
    /// Bounds.
    pub limits: Limits,
    /// How names are resolved.
    pub dns: DnsConfig,
    /// How mail is delivered.
    pub delivery: DeliveryConfig,
    /// Destinations with a way of their own; the first match wins.
    pub routes: Vec<Route>,
    /// The admin page and API; none for the Unix socket only.
    pub admin: Option<SocketAddr>,
}

/// One `[[listener]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Where.
    pub address: SocketAddr,
    /// When TLS starts.
    pub tls: ListenerTls,
    /// The client's address comes in a PROXY header.
    pub proxy_protocol: bool,
    /// Clients from here need no AUTH.
    pub trusted_networks: Vec<IpNet>,
    /// The credential that they act as.
    pub trusted_as: Option<String>,
}

/// When TLS starts on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerTls {
    /// By STARTTLS; AUTH only after it.
    StartTls,
    /// At once.
    Implicit,
    /// Never; only on loopback.
    None,
}

/// `[tls]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM, leaf first.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// One `[[credential]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The user's name.
    pub name: String,
    /// The stored verifier (RFC 5803); none for a `trusted_as` name or an external check.
    pub verifier: Option<Verifier>,
    /// What MAIL FROM and From: may be.
    pub senders: Vec<SenderPattern>,
    /// Where it may connect from.
    pub networks: Vec<IpNet>,
    /// Messages over time.
    pub rate: Option<Rate>,
}

/// An entry of `senders`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SenderPattern {
    /// `*`
    Any,
    /// `example.com`: every address in it, not in its subdomains.
    Domain(Domain),
    /// `news@example.org`
    Address(smtp_proto::Mailbox),
}

impl Credential {
    /// Whether it may send as this mailbox.
    #[must_use]
    pub fn allows(&self, mailbox: &smtp_proto::Mailbox) -> bool {
        self.senders.iter().any(|pattern| pattern.allows(mailbox))
    }
}

impl SenderPattern {
    /// Whether the mailbox is covered. Letter case does not matter, and neither does the form of an
    /// international domain.
    #[must_use]
    pub fn allows(&self, mailbox: &smtp_proto::Mailbox) -> bool {
        let same_domain = |domain: &Domain| {
            mailbox
                .domain()
                .is_some_and(|other| a_labels(other) == a_labels(domain))
        };
        match self {
            Self::Any => true,
            Self::Domain(domain) => same_domain(domain),
            Self::Address(address) => {
                let same_host = match address.domain() {
                    Some(domain) => same_domain(domain),
                    None => address.host() == mailbox.host(),
                };
                let (ours, theirs) = (address.local_part_chars(), mailbox.local_part_chars());
                same_host && lower(ours).eq(lower(theirs))
            }
        }
    }
}

fn lower(chars: impl Iterator<Item = char>) -> impl Iterator<Item = char> {
    chars.flat_map(char::to_lowercase)
}

/// A domain in lower case and A-labels, as the DNS knows it; as it is, if it has no such form.
fn a_labels(domain: &Domain) -> String {
    idna::domain_to_ascii(domain.as_str()).unwrap_or_else(|_| domain.as_str().to_lowercase())
}

/// `N/s`, `N/m`, `N/h`, `N/10m`: at most `count` in `per`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: u32,
    /// In how long.
    pub per: Duration,
}

/// `[limits]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The largest message, in octets.
    pub message_size: u64,
    /// The most recipients of a message.
    pub recipients: usize,
    /// The most client connections.
    pub connections: usize,
    /// The most client connections from one address (an IPv6 /64).
    pub connections_per_ip: usize,
    /// Failed AUTHs from one address.
    pub auth_failures_per_ip: Rate,
}

/// `[dns]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsConfig {
    /// The servers, in the order to try. The loader fills them from the system if none are named.
    pub servers: Vec<SocketAddr>,
    /// The AD bit of these servers is believed.
    pub trust_ad: bool,
}

/// `[delivery]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryConfig {
    /// The port of mail exchangers.
    pub port: u16,
    /// Waits between attempts; the last repeats. Never empty.
    pub retry: Vec<Duration>,
    /// How long a message is tried.
    pub expire: Duration,
    /// TLS towards receivers.
    pub tls: TlsLevel,
    /// Connections of one lane at once.
    pub connections_per_lane: usize,
    /// Connections of all lanes at once.
    pub connections: usize,
    /// Messages on one connection.
    pub messages_per_connection: u32,
    /// Mail exchangers at these addresses are refused.
    pub prohibited_hosts: Vec<IpNet>,
    /// Which families are used.
    pub ip_families: IpFamilies,
    /// More roots to verify receivers with, PEM; beside those of `webpki-roots`.
    pub ca_file: Option<PathBuf>,
}

/// How much TLS is asked of a receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsLevel {
    /// None.
    None,
    /// If it is offered; a broken certificate or handshake does not stop delivery. RFC 7435.
    Opportunistic,
    /// Always, with any certificate.
    Require,
    /// Always, with a certificate that names the host and chains to a root.
    Verify,
}

/// Which address families are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpFamilies {
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
    /// Both.
    Both,
}

/// One `[[route]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// What it is for.
    pub domain: DomainPattern,
    /// Where to, in order.
    pub hosts: Vec<HostPort>,
    /// TLS there; none for that of `[delivery]`.
    pub tls: Option<TlsLevel>,
    /// The user's name there.
    pub username: Option<String>,
    /// The password, read by the loader from `password_file`.
    pub password: Option<String>,
}

/// `example.net`, `*.example.net`, `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DomainPattern {
    /// This domain.
    Exact(Domain),
    /// Its subdomains.
    Subdomains(Domain),
    /// All.
    Any,
}

/// A host, by name (lower case, A-labels) or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// A name, or an IP address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl HostPort {
    /// The address, if the host is one.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}
