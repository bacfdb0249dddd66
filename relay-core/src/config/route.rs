//! Destinations with a way of their own.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use smtp_proto::Domain;

use super::TlsLevel;
use super::credential::a_labels;
use crate::sasl::Mechanism;

/// One `[[route]]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Route {
    /// What it is for.
    pub domain: DomainPattern,
    /// Where to, in order; empty for the domain's mail exchangers (`hosts = ["mx"]`), with what else the
    /// route says.
    pub hosts: Vec<HostPort>,
    /// What is spoken there.
    pub protocol: Protocol,
    /// Mail from others that goes there is sealed (ARC), since the hosts judge it by what we saw. What a
    /// client hands in after a login begins here, and is signed, not sealed.
    pub forward: bool,
    /// TLS there; none for that of `[delivery]`.
    pub tls: Option<TlsLevel>,
    /// How TLS begins there; none for what the port of each host stands for.
    pub tls_mode: Option<TlsMode>,
    /// The user's name there.
    pub username: Option<String>,
    /// Where the password is kept; none if it was given at once.
    pub password_file: Option<PathBuf>,
    /// The password, read by the loader from `password_file`.
    pub password: Option<String>,
    /// Where bearer tokens come from, in the place of a password.
    pub token: Option<TokenSource>,
    /// The mechanism to log in by; none for the best that the host offers.
    pub mechanism: Option<Mechanism>,
}

impl Route {
    /// To these hosts, with the TLS of `[delivery]` and without a login.
    #[must_use]
    pub const fn new(domain: DomainPattern, hosts: Vec<HostPort>) -> Self {
        Self {
            domain,
            hosts,
            protocol: Protocol::Smtp,
            forward: false,
            tls: None,
            tls_mode: None,
            username: None,
            password_file: None,
            password: None,
            token: None,
            mechanism: None,
        }
    }
}

impl Route {
    /// Whether its hosts are the mail exchangers of the domain.
    #[must_use]
    pub const fn is_by_mx(&self) -> bool {
        self.hosts.is_empty()
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route")
            .field("domain", &self.domain)
            .field("hosts", &self.hosts)
            .field("protocol", &self.protocol)
            .field("tls", &self.tls)
            .field("tls_mode", &self.tls_mode)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// Where a bearer token comes from. It is asked for at each login, since tokens expire.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TokenSource {
    /// The first line of a file, which another program keeps fresh.
    File(PathBuf),
    /// The first line that a command writes: the program and its arguments, without a shell.
    Command(Vec<String>),
}

impl fmt::Display for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            // Arguments may be secrets.
            Self::Command(words) => f.write_str(words.first().map_or("", String::as_str)),
        }
    }
}

/// What is spoken to the hosts of a route.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// SMTP. RFC 5321.
    #[default]
    Smtp,
    /// LMTP: a mail store that answers for each recipient. RFC 2033.
    Lmtp,
}

/// How TLS begins with a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsMode {
    /// By STARTTLS, if at all. RFC 3207.
    StartTls,
    /// With the first octet. RFC 8314 §3.3.
    Implicit,
}

impl TlsMode {
    /// What a port stands for, where nobody says otherwise: 465 is for TLS (RFC 8314 §7.3).
    #[must_use]
    pub const fn of_port(port: u16) -> Self {
        match port {
            465 => Self::Implicit,
            _ => Self::StartTls,
        }
    }
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

impl DomainPattern {
    /// Whether the domain is covered. Letter case does not matter, and neither does the form of an
    /// international domain.
    #[must_use]
    pub fn matches(&self, domain: &Domain) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(own) => a_labels(own) == a_labels(domain),
            Self::Subdomains(parent) => a_labels(domain)
                .strip_suffix(&a_labels(parent))
                .is_some_and(|labels| labels.ends_with('.')),
        }
    }
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(domain) => domain.fmt(f),
            Self::Subdomains(domain) => write!(f, "*.{domain}"),
            Self::Any => f.write_str("*"),
        }
    }
}

/// A host, by name (lower case, A-labels) or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// A name, or an IP address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        Self {
            host: address.ip().to_string(),
            port: address.port(),
        }
    }
}

impl HostPort {
    /// The address, if the host is one.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip() {
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            Some(IpAddr::V4(_)) | None => write!(f, "{}:{}", self.host, self.port),
        }
    }
}
