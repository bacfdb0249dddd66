//! The small languages of single values: durations, sizes, rates, networks, hosts, patterns.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use smtp_proto::{Domain, Mailbox};

use super::credential::a_labels;
use super::{
    CertificatePattern, Demand, DmarcAction, DomainPattern, HostPort, InDoubt, IpFamilies,
    ListenerTls, Protocol, Rate, Role, SenderPattern, TlsLevel, TlsMode,
};
use crate::sasl::{Mechanism, Proof, Verifier};

/// A language: how a text of it is read, and how to tell someone what it is.
pub(super) struct Kind<T> {
    /// What is allowed.
    pub(super) allowed: &'static str,
    /// Reads a text, or says what is wrong with it.
    pub(super) parse: fn(&str) -> Result<T, String>,
}

/// A text that is not of its language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadValue {
    /// What is wrong.
    pub problem: String,
    /// What is allowed.
    pub allowed: &'static str,
}

impl fmt::Display for BadValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; allowed: {}", self.problem, self.allowed)
    }
}

impl std::error::Error for BadValue {}

impl<T> Kind<T> {
    fn read(&self, text: &str) -> Result<T, BadValue> {
        (self.parse)(text).map_err(|problem| BadValue {
            problem,
            allowed: self.allowed,
        })
    }
}

impl FromStr for SenderPattern {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        SENDER.read(text)
    }
}

/// As it is written in a configuration: `1000/h`, `10/10m`.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secs = self.per.as_secs();
        let (number, unit) = match secs {
            _ if secs.is_multiple_of(86_400) => (secs / 86_400, "d"),
            _ if secs.is_multiple_of(3600) => (secs / 3600, "h"),
            _ if secs.is_multiple_of(60) => (secs / 60, "m"),
            _ => (secs, "s"),
        };
        match number {
            1 => write!(f, "{}/{unit}", self.count),
            _ => write!(f, "{}/{number}{unit}", self.count),
        }
    }
}

impl FromStr for Rate {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        RATE.read(text)
    }
}

impl FromStr for HostPort {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        HOST.read(text)
    }
}

impl FromStr for DomainPattern {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        DOMAIN_PATTERN.read(text)
    }
}

/// A network, or an address as the network that holds only it.
///
/// # Errors
/// [`BadValue`] if the text is neither.
pub fn parse_network(text: &str) -> Result<IpNet, BadValue> {
    NETWORK.read(text)
}

/// A host name; what is written in another script is turned into A-labels.
///
/// # Errors
/// [`BadValue`] says what is allowed.
pub fn parse_hostname(text: &str) -> Result<Domain, BadValue> {
    HOSTNAME.read(text)
}

/// A duration, as `30m` or `1h30m`.
///
/// # Errors
/// [`BadValue`] says what is allowed.
pub fn parse_duration(text: &str) -> Result<Duration, BadValue> {
    DURATION.read(text)
}

pub(super) const TEXT: Kind<String> = Kind {
    allowed: "text that is not empty, without control characters",
    parse: text,
};
pub(super) const MAILBOX: Kind<Mailbox> = Kind {
    allowed: "a mail address, such as \"tls-reports@example.com\"",
    parse: mailbox,
};
pub(super) const HOSTNAME: Kind<Domain> = Kind {
    allowed: "a host name, such as \"relay.example.com\"",
    parse: hostname,
};
pub(super) const ADDRESS: Kind<SocketAddr> = Kind {
    allowed: "an IP address and a port, such as \"127.0.0.1:587\" or \"[::]:587\"",
    parse: address,
};
pub(super) const DNS_SERVER: Kind<SocketAddr> = Kind {
    allowed: "an IP address and a port, such as \"127.0.0.1:53\" or \"[::1]:53\"",
    parse: address,
};
pub(super) const LISTENER_TLS: Kind<ListenerTls> = Kind {
    allowed: "\"starttls\", \"implicit\", \"none\"",
    parse: listener_tls,
};
pub(super) const ROLE: Kind<Role> = Kind {
    allowed: "\"submission\", \"inbound\"",
    parse: role,
};
pub(super) const DMARC: Kind<DmarcAction> = Kind {
    allowed: "\"tag\", \"reject\"",
    parse: dmarc,
};
pub(super) const TLS_LEVEL: Kind<TlsLevel> = Kind {
    allowed: "\"none\", \"opportunistic\", \"require\", \"verify\", \"dane\"",
    parse: tls_level,
};
pub(super) const TLS_MODE: Kind<TlsMode> = Kind {
    allowed: "\"starttls\", \"implicit\"",
    parse: tls_mode,
};
pub(super) const PROTOCOL: Kind<Protocol> = Kind {
    allowed: "\"smtp\", \"lmtp\"",
    parse: protocol,
};
pub(super) const IP_FAMILIES: Kind<IpFamilies> = Kind {
    allowed: "\"ipv4\", \"ipv6\", \"both\"",
    parse: ip_families,
};
pub(super) const IN_DOUBT: Kind<InDoubt> = Kind {
    allowed: "\"retry\" (it may come twice), \"hold\" (until an administrator decides)",
    parse: in_doubt,
};
pub(super) const NETWORK: Kind<IpNet> = Kind {
    allowed: "a network or an address, such as \"192.0.2.0/24\", \"2001:db8::/48\", \"192.0.2.1\"",
    parse: network,
};
pub(super) const TRUSTED_NETWORK: Kind<IpNet> = Kind {
    allowed: "networks of /8 or smaller (IPv4), /32 or smaller (IPv6): never an open relay",
    parse: trusted_network,
};
pub(super) const VERIFIER: Kind<Verifier> = Kind {
    allowed: "what `smtp-relay credential add` writes: \
              \"SCRAM-SHA-256$4096:SALT$STOREDKEY:SERVERKEY\" (RFC 5803)",
    parse: verifier,
};
pub(super) const CERTIFICATE: Kind<CertificatePattern> = Kind {
    allowed: "\"sha256:\" and 64 hexadecimal digits (colons may stand between them), \
              \"dns:app.example.com\", \"uri:spiffe://example.com/app\"",
    parse: certificate,
};
pub(super) const MECHANISM: Kind<Mechanism> = Kind {
    allowed: "\"plain\", \"login\", \"scram-sha-256\", \"scram-sha-256-plus\", \"xoauth2\", \"oauthbearer\"",
    parse: mechanism,
};
pub(super) const DEMAND: Kind<Demand> = Kind {
    allowed: "\"optional\", \"required\"",
    parse: demand,
};
pub(super) const SENDER: Kind<SenderPattern> = Kind {
    allowed: "a domain, an address, or \"*\" for any",
    parse: sender,
};
pub(super) const RATE: Kind<Rate> = Kind {
    allowed: "a number over a time, such as \"1000/h\", \"10/10m\", \"5/s\"",
    parse: rate,
};
pub(super) const SIZE: Kind<u64> = Kind {
    allowed: "a size from \"1KiB\" to \"2GiB\", in B, kB, MB, GB, KiB, MiB or GiB",
    parse: size,
};
pub(super) const TIMEOUT: Kind<Duration> = Kind {
    allowed: "a duration from \"1s\" to \"5m\"",
    parse: timeout,
};
pub(super) const DURATION: Kind<Duration> = Kind {
    allowed: "a duration, such as \"90s\", \"5m\", \"1h30m\", \"3d\"",
    parse: duration,
};
pub(super) const SCHEDULE: Kind<Vec<Duration>> = Kind {
    allowed: "waits of \"1s\" to \"7d\", such as \"1m, 5m*2, 4h*\"; the last one repeats",
    parse: schedule,
};
pub(super) const DOMAIN_PATTERN: Kind<DomainPattern> = Kind {
    allowed: "\"example.net\", \"*.example.net\" for its subdomains, \"*\" for all",
    parse: domain_pattern,
};
pub(super) const HOST: Kind<HostPort> = Kind {
    allowed: "a host and a port, such as \"smart.example.net:587\", \"192.0.2.1:25\", \"[::1]:25\"",
    parse: host_port,
};
pub(super) const SELECTOR: Kind<String> = Kind {
    allowed: "letters, digits, hyphens and dots, such as \"r1\"",
    parse: selector,
};

pub(super) const IP: Kind<IpAddr> = Kind {
    allowed: "an IP address, such as \"192.0.2.1\" or \"2001:db8::1\"",
    parse: ip,
};

fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| unreadable(text))
}

pub(super) fn unreadable(text: &str) -> String {
    format!("{text:?} cannot be read")
}

fn text(text: &str) -> Result<String, String> {
    if text.trim().is_empty() || text.chars().any(char::is_control) {
        return Err(unreadable(text));
    }
    Ok(text.to_owned())
}

fn mailbox(text: &str) -> Result<Mailbox, String> {
    Mailbox::parse(text).map_err(|_| format!("{text:?} is not a mail address"))
}

fn hostname(text: &str) -> Result<Domain, String> {
    let ascii = idna::domain_to_ascii(text).map_err(|_| unreadable(text))?;
    Domain::parse(&ascii).map_err(|why| format!("{text:?}: {why}"))
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| unreadable(text))?;
    if address.port() == 0 {
        Err(format!("{text:?} has port 0"))
    } else {
        Ok(address)
    }
}

fn listener_tls(text: &str) -> Result<ListenerTls, String> {
    match text {
        "starttls" => Ok(ListenerTls::StartTls),
        "implicit" => Ok(ListenerTls::Implicit),
        "none" => Ok(ListenerTls::None),
        _ => Err(unreadable(text)),
    }
}

fn role(text: &str) -> Result<Role, String> {
    match text {
        "submission" => Ok(Role::Submission),
        "inbound" => Ok(Role::Inbound(DmarcAction::Tag)),
        _ => Err(unreadable(text)),
    }
}

fn dmarc(text: &str) -> Result<DmarcAction, String> {
    match text {
        "tag" => Ok(DmarcAction::Tag),
        "reject" => Ok(DmarcAction::Reject),
        _ => Err(unreadable(text)),
    }
}

fn tls_level(text: &str) -> Result<TlsLevel, String> {
    match text {
        "none" => Ok(TlsLevel::None),
        "opportunistic" => Ok(TlsLevel::Opportunistic),
        "require" => Ok(TlsLevel::Require),
        "verify" => Ok(TlsLevel::Verify),
        "dane" => Ok(TlsLevel::Dane),
        _ => Err(unreadable(text)),
    }
}

fn tls_mode(text: &str) -> Result<TlsMode, String> {
    match text {
        "starttls" => Ok(TlsMode::StartTls),
        "implicit" => Ok(TlsMode::Implicit),
        _ => Err(unreadable(text)),
    }
}

fn protocol(text: &str) -> Result<Protocol, String> {
    match text {
        "smtp" => Ok(Protocol::Smtp),
        "lmtp" => Ok(Protocol::Lmtp),
        _ => Err(unreadable(text)),
    }
}

fn ip_families(text: &str) -> Result<IpFamilies, String> {
    match text {
        "ipv4" => Ok(IpFamilies::Ipv4),
        "ipv6" => Ok(IpFamilies::Ipv6),
        "both" => Ok(IpFamilies::Both),
        _ => Err(unreadable(text)),
    }
}

fn in_doubt(text: &str) -> Result<InDoubt, String> {
    match text {
        "retry" => Ok(InDoubt::Retry),
        "hold" => Ok(InDoubt::Hold),
        _ => Err(unreadable(text)),
    }
}

/// A network, without the bits of a host in it; IPv4 in its mapped form becomes IPv4.
fn network(text: &str) -> Result<IpNet, String> {
    let parsed = match text.parse::<IpAddr>() {
        Ok(address) => Ok(IpNet::from(address)),
        Err(_) => text.parse::<IpNet>(),
    };
    let network = parsed.map_err(|_| unreadable(text))?.trunc();
    let IpNet::V6(wide) = network else {
        return Ok(network);
    };
    let mapped = wide
        .addr()
        .to_ipv4_mapped()
        .zip(wide.prefix_len().checked_sub(96));
    Ok(mapped
        .and_then(|(ip, len)| IpNet::new(ip.into(), len).ok())
        .unwrap_or(network))
}

fn trusted_network(text: &str) -> Result<IpNet, String> {
    let network = network(text)?;
    let len_min = match network {
        IpNet::V4(_) => 8,
        IpNet::V6(_) => 32,
    };
    if network.prefix_len() < len_min {
        return Err(format!("{text:?} is wider than /{len_min}"));
    }
    Ok(network)
}

/// The problem never repeats the verifier.
fn verifier(text: &str) -> Result<Verifier, String> {
    text.parse::<Verifier>().map_err(|why| why.to_string())
}

fn certificate(text: &str) -> Result<CertificatePattern, String> {
    let (kind, rest) = text.split_once(':').ok_or_else(|| unreadable(text))?;
    match kind {
        "sha256" => sha256(rest)
            .map(CertificatePattern::Sha256)
            .ok_or_else(|| unreadable(text)),
        "dns" => hostname(rest).map(CertificatePattern::Dns),
        "uri" if rest.contains(':') && rest.bytes().all(|octet| octet.is_ascii_graphic()) => {
            Ok(CertificatePattern::Uri(rest.to_owned()))
        }
        _ => Err(unreadable(text)),
    }
}

/// 64 hexadecimal digits, as `openssl x509 -fingerprint -sha256` writes them or without the colons.
fn sha256(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text.bytes().filter(|&octet| octet != b':').collect();
    let (pairs, []) = digits.as_chunks::<2>() else {
        return None;
    };
    let octet = |pair: &[u8; 2]| {
        let digits = pair.iter().all(u8::is_ascii_hexdigit);
        let text = std::str::from_utf8(pair).ok().filter(|_| digits)?;
        u8::from_str_radix(text, 16).ok()
    };
    let octets: Option<Vec<u8>> = pairs.iter().map(octet).collect();
    octets?.try_into().ok()
}

fn mechanism(text: &str) -> Result<Mechanism, String> {
    // A client certificate for EXTERNAL is nothing that a route has.
    Mechanism::from_name(text)
        .filter(|mechanism| mechanism.proof() != Proof::Certificate)
        .ok_or_else(|| unreadable(text))
}

fn demand(text: &str) -> Result<Demand, String> {
    match text {
        "optional" => Ok(Demand::Optional),
        "required" => Ok(Demand::Required),
        _ => Err(unreadable(text)),
    }
}

fn sender(text: &str) -> Result<SenderPattern, String> {
    if text == "*" {
        return Ok(SenderPattern::Any);
    }
    if text.contains('@') {
        let address = Mailbox::parse_utf8(text).map_err(|why| format!("{text:?}: {why}"))?;
        return Ok(SenderPattern::Address(address));
    }
    let domain = Domain::parse_utf8(text).map_err(|why| format!("{text:?}: {why}"))?;
    Ok(SenderPattern::Domain(domain))
}

fn rate(text: &str) -> Result<Rate, String> {
    let (count, per) = text.split_once('/').ok_or_else(|| unreadable(text))?;
    let count: u32 = count.trim().parse().map_err(|_| unreadable(text))?;
    let per = per.trim();
    let per = if per.starts_with(|c: char| c.is_ascii_digit()) {
        duration(per)
    } else {
        duration(&format!("1{per}"))
    };
    let per = per.map_err(|_| unreadable(text))?;
    if count == 0 {
        return Err(format!("{text:?} lets nothing through"));
    }
    Ok(Rate { count, per })
}

const SIZE_MAX: u64 = 2 << 30;
const SIZE_MIN: u64 = 1 << 10;

fn size(text: &str) -> Result<u64, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(unreadable(text)),
    };
    let number: u64 = number.parse().map_err(|_| unreadable(text))?;
    let size = number.checked_mul(unit).ok_or_else(|| unreadable(text))?;
    if (SIZE_MIN..=SIZE_MAX).contains(&size) {
        Ok(size)
    } else {
        Err(format!("{text:?} is out of range"))
    }
}

/// The longest duration: ten years.
const DURATION_SECS_MAX: u64 = 10 * 366 * 86_400;

/// The longest time that one exchange may take.
const TIMEOUT_MAX: Duration = Duration::from_secs(5 * 60);

fn timeout(text: &str) -> Result<Duration, String> {
    let found = duration(text)?;
    match found {
        Duration::ZERO => Err("is no time at all".to_owned()),
        found if found > TIMEOUT_MAX => Err("is longer than five minutes".to_owned()),
        found => Ok(found),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let mut secs: u64 = 0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(unreadable(text));
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| unreadable(text))?;
        let unit: u64 = match after.chars().next() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3600,
            Some('d') => 86_400,
            Some('w') => 7 * 86_400,
            Some(_) => return Err(unreadable(text)),
            None => return Err(format!("{text:?} has no unit (s, m, h, d, w)")),
        };
        secs = number
            .checked_mul(unit)
            .and_then(|more| secs.checked_add(more))
            .filter(|&secs| secs <= DURATION_SECS_MAX)
            .ok_or_else(|| format!("{text:?} is too long"))?;
        rest = &after[1..];
    }
    if secs == 0 {
        Err(format!("{text:?} is no time at all"))
    } else {
        Ok(Duration::from_secs(secs))
    }
}

/// The most waits of a schedule, repetitions counted.
const SCHEDULE_LEN_MAX: usize = 1000;
const WAIT_MAX: Duration = Duration::from_secs(7 * 86_400);

fn schedule(text: &str) -> Result<Vec<Duration>, String> {
    let mut waits = Vec::new();
    let mut steps = text.split(',').peekable();
    while let Some(step) = steps.next() {
        let step = step.trim();
        let (wait, times) = match step.split_once('*') {
            None => (step, 1),
            Some((wait, "")) if steps.peek().is_none() => (wait, 1),
            Some((_, "")) => return Err(format!("{step:?} repeats for ever and is not the last")),
            Some((wait, times)) => (
                wait,
                times
                    .trim()
                    .parse::<usize>()
                    .map_err(|_| unreadable(step))?,
            ),
        };
        let wait = duration(wait)?;
        if wait > WAIT_MAX {
            return Err(format!("{step:?} is longer than 7d"));
        }
        if times == 0 || waits.len() + times > SCHEDULE_LEN_MAX {
            return Err(format!("{step:?}: too few or too many repetitions"));
        }
        waits.extend(std::iter::repeat_n(wait, times));
    }
    Ok(waits)
}

fn domain_pattern(text: &str) -> Result<DomainPattern, String> {
    let domain = |name: &str| Domain::parse_utf8(name).map_err(|why| format!("{text:?}: {why}"));
    match text.strip_prefix("*.") {
        _ if text == "*" => Ok(DomainPattern::Any),
        Some(parent) => domain(parent).map(DomainPattern::Subdomains),
        None => domain(text).map(DomainPattern::Exact),
    }
}

fn host_port(text: &str) -> Result<HostPort, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return match address.port() {
            0 => Err(format!("{text:?} has port 0")),
            port => Ok(HostPort {
                host: address.ip().to_string(),
                port,
            }),
        };
    }
    let (host, port) = text
        .rsplit_once(':')
        .ok_or_else(|| format!("{text:?} has no port"))?;
    let port: u16 = port.parse().map_err(|_| unreadable(text))?;
    let host = Domain::parse_utf8(host).map_err(|why| format!("{text:?}: {why}"))?;
    // A name of digits only would be an address that is written wrong.
    let last_label = host.as_str().rsplit('.').next().unwrap_or_default();
    if port == 0 || last_label.bytes().all(|b| b.is_ascii_digit()) {
        return Err(unreadable(text));
    }
    Ok(HostPort {
        host: a_labels(&host),
        port,
    })
}

fn selector(text: &str) -> Result<String, String> {
    // RFC 6376 §3.1: a selector is made of sub-domains.
    Domain::parse(text)
        .map(|name| name.as_str().to_owned())
        .map_err(|_| unreadable(text))
}
