//! The configuration as values that are valid by construction.
//!
//! ```text
//!  relay.toml ──▶ Draft::parse ──▶ Draft ── add_credentials(credentials.toml) ──▶ finish ──▶ Parsed
//!                    │               (data_dir is known)                            │   Config, files to read
//!                    └──────── every error is kept, with file, line and key ────────┴──▶ Vec<ConfigError>
//! ```
//!
//! Nothing here reads a file: the loader of `runtime-std` does, and hands texts in. A program that embeds
//! the relay starts from [`Config::new`] and sets fields.

mod credential;
mod defaults;
mod diff;
mod error;
mod parse;
mod read;
mod route;
mod route_sections;
mod secret;
mod sections;
mod sender;
mod sender_sections;
mod value;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_sender;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use rustls_pki_types::CertificateDer;
use smtp_proto::{Domain, Mailbox};

use crate::bounce::return_path::Keyring;

pub use crate::sasl::Verifier;
pub use credential::{CertificatePattern, Credential, SenderPattern};
pub(crate) use credential::{a_labels, a_labels_of, is_or_is_under};
pub use error::ConfigError;
pub use parse::{Draft, FileUse, FileWanted, Parsed, System};
pub use read::Place;
pub use route::{DomainPattern, HostPort, Protocol, Route, TlsMode, TokenSource};
pub use secret::Secret;
pub use sender::{
    DkimKey, KeyState, Preflight, PreflightMode, ReturnPath, ReturnPathState, SigningDomain,
};
pub use value::{BadValue, parse_duration, parse_hostname, parse_network};

/// Everything that a relay is told. Made by parsing `relay.toml`, or by an embedder.
#[derive(Clone)]
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
    /// The embedder checks passwords itself; only PLAIN and LOGIN are offered then. A runtime sets it
    /// when it is given a check.
    pub external_credentials: bool,
    /// The embedder checks bearer tokens: OAUTHBEARER and XOAUTH2 are offered. A runtime sets it when it
    /// is given a check.
    pub external_tokens: bool,
    /// Bounds.
    pub limits: Limits,
    /// How names are resolved.
    pub dns: DnsConfig,
    /// How mail is delivered.
    pub delivery: DeliveryConfig,
    /// The policies that domains publish for those who deliver to them.
    pub mta_sts: MtaStsConfig,
    /// What others are told of TLS with their hosts.
    pub tls_rpt: TlsRptConfig,
    /// Destinations with a way of their own; the first match wins.
    pub routes: Vec<Route>,
    /// Domains that mail is sent from, with their DKIM keys.
    pub domains: Vec<Arc<SigningDomain>>,
    /// The admin page and API; none for the Unix socket only.
    pub admin: Option<SocketAddr>,
    /// What a request over TCP must show to the admin page and API. Off loopback nothing is served
    /// without one.
    pub admin_token: Option<Secret>,
    /// A secret that outlives a restart, for what an unknown user is shown; none for one that lasts as
    /// long as the process.
    pub decoy_key: Option<[u8; 32]>,
    /// The keys of return paths; filled by the loader. Without them mail leaves under its sender's own
    /// address.
    pub return_path_keys: Option<Arc<Keyring>>,
    /// What is done about a message that receivers would think badly of.
    pub preflight: Preflight,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("hostname", &self.hostname)
            .field("data_dir", &self.data_dir)
            .field("listeners", &self.listeners)
            .finish_non_exhaustive()
    }
}

/// One `[[listener]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Where.
    pub address: SocketAddr,
    /// Whom it is for.
    pub role: Role,
    /// When TLS starts.
    pub tls: ListenerTls,
    /// The client's address comes in a PROXY header.
    pub proxy_protocol: bool,
    /// Who may send one. Never empty if `proxy_protocol`.
    pub trusted_proxies: Vec<IpNet>,
    /// Clients from here need no AUTH.
    pub trusted_networks: Vec<IpNet>,
    /// The credential that they act as.
    pub trusted_as: Option<String>,
    /// Front ends: they may tell by XCLIENT whose connection they pass on.
    pub xclient_from: Vec<IpNet>,
    /// Certificates that clients are asked for; none if they are not.
    pub client_certificates: Option<ClientCertificates>,
}

/// How a listener asks clients for certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificates {
    /// The authorities that they are judged by, PEM.
    pub ca_file: PathBuf,
    /// Whether a client may do without.
    pub demand: Demand,
    /// What is in the file; filled by the loader. Without any no certificate is verified.
    pub roots: Vec<CertificateDer<'static>>,
}

/// Whether something may be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// It may.
    Optional,
    /// It may not.
    Required,
}

/// Whom a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Our users, who send to anybody.
    Submission,
    /// Anybody, who sends to the domains that a `[[route]]` names.
    Inbound(DmarcAction),
}

/// What becomes of mail from others that fails DMARC where its domain asks to refuse it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DmarcAction {
    /// It is said in Authentication-Results.
    Tag,
    /// It is refused.
    Reject,
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
    /// The largest message, in octets as the client sends it: what the relay puts before it (Received,
    /// signatures) comes on top.
    pub message_size: u64,
    /// The memory to plan with, in octets: for connections and for messages on their way. None for all
    /// that the machine or its control group has.
    pub memory: Option<u64>,
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
    /// What becomes of a delivery whose final reply never came.
    pub in_doubt: InDoubt,
    /// More roots to verify receivers with, PEM; beside those of `webpki-roots`.
    pub ca_file: Option<PathBuf>,
    /// The addresses that receivers see, for the records that `domain add` prints and `domain check`
    /// looks for; empty for those that `hostname` has in the DNS.
    pub public_addresses: Vec<IpAddr>,
}

/// `[mta_sts]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MtaStsConfig {
    /// Policies are looked for and followed.
    pub enabled: bool,
    /// The port of the hosts that serve policies; another than 443 is for tests.
    pub port: u16,
    /// How long fetching one may take. RFC 8461 §3.3 suggests a minute.
    pub timeout: Duration,
    /// They may be at addresses that `delivery.prohibited_hosts` names: for tests, and for a network of
    /// one's own.
    pub allow_private: bool,
}

/// `[tls_rpt]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsRptConfig {
    /// Sessions are counted, and reported to domains that ask for it.
    pub enabled: bool,
    /// Who reports; none for the hostname.
    pub organization: Option<String>,
    /// Whom to ask about a report; none for postmaster at the hostname. Its domain is the one that reports.
    pub contact: Option<Mailbox>,
    /// The header field From of reports; none for `noreply-smtp-tls-reporting` at the domain of the contact.
    /// A report goes by mail only if a `[[domain]]` signs for it.
    pub from: Option<Mailbox>,
    /// How long posting a report to one host may take.
    pub timeout: Duration,
    /// Reports may be posted to addresses that `delivery.prohibited_hosts` names: for tests.
    pub allow_private: bool,
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
    /// Always, with a certificate that the host's TLSA records name: mail waits where there are none that
    /// can be used. It needs a resolver whose AD bit is believed. RFC 7672 §6 ("Mandatory TLS Security").
    Dane,
}

/// What becomes of a delivery whose final reply never came: the receiver may have taken the message, and
/// nobody can know. RFC 5321 §4.5.3.2.6 (the long wait for that reply is to make this rare), RFC 1047.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InDoubt {
    /// It is tried again, as any deferral is: the recipient may get it twice, and never not at all.
    Retry,
    /// It is held until an administrator releases, bounces or removes it: nobody gets it twice from an
    /// attempt that this process made.
    Hold,
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
