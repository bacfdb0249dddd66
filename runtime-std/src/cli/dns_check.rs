//! What the DNS says of a domain, line by line: right, wrong, missing, or advice; and which of the large
//! receivers asks for it.
//!
//! | line | what it asks | who asks |
//! |---|---|---|
//! | DKIM | the record of each key is there and is that of the key | all; Gmail and Yahoo: 1024 bits or more |
//! | SPF | the record of the domain, and of its return path, covers every address that we send from | all |
//! | DMARC | a record of the domain or one above it, with a policy | Gmail, Yahoo, Microsoft, Apple |
//! | ALIGNED | DKIM or MAIL FROM is aligned with From, as strictly as DMARC says | the same |
//! | HOST | each address has a name, which is that of EHLO, which has that address | all |
//! | MX | the return path takes mail | Gmail, Yahoo: bounces must be heard |
//! | TLS | mail leaves over TLS where it can | Gmail |
//! | CERT | the certificate of the listeners is that of the host name | clients; senders to an MX of ours |
//! | MTA-STS, TLS-RPT | of a domain that receives mail: what it publishes about TLS is right (`receiving`) | |
//!
//! RFC 6376 §3.6.1, RFC 7208 §3.1 and §4.6.4, RFC 7489 §3.1, §6.1 and §6.6.3, RFC 8460 §3, RFC 8461 §3.1.

mod receiving;
mod spf;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use relay_core::channel::Verdict as Certificate;
use relay_core::config::{DkimKey, KeyState, ReturnPath, SigningDomain, TlsLevel};
use relay_core::dns::{AddressAnswer, DnsFailure, Query, Resolver, Texts};
use relay_core::errand::{Done, Runner};
use relay_core::sign::Algorithm;
use relay_core::sign::publication::{Published, judge_key, judge_mx, key_name, tags};
use smtp_proto::Domain;

use crate::clock::Clock;
use crate::drive::StopSignal;
use crate::errand::{self, Lookups};
use crate::load::{Loaded, system_rng};
use crate::resolve::ask;

/// The receivers that publish rules for senders.
const ALL: &[&str] = &["Gmail", "Yahoo", "Microsoft", "Apple"];
const NOBODY: &[&str] = &[];

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As it should be.
    Right,
    /// There, and not as it should be.
    Wrong,
    /// Not there.
    Missing,
    /// Not needed, and better if it were there.
    Advice,
    /// The servers did not say.
    Unknown,
}

impl Verdict {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Right => "right",
            Self::Wrong => "WRONG",
            Self::Missing => "MISSING",
            Self::Advice => "advice",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// One finding.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) verdict: Verdict,
    pub(super) what: &'static str,
    pub(super) name: String,
    pub(super) why: String,
    /// Which receivers ask for it.
    pub(super) asked_by: &'static [&'static str],
}

impl Line {
    /// Whether nothing has to be done about it.
    pub(super) fn is_well(&self) -> bool {
        match self.verdict {
            Verdict::Right | Verdict::Advice => true,
            Verdict::Wrong | Verdict::Missing | Verdict::Unknown => false,
        }
    }
}

/// For each receiver: its name, and the lines that keep mail from being welcome there.
pub(super) fn receivers(lines: &[Line]) -> impl Iterator<Item = (&'static str, Vec<&Line>)> {
    ALL.iter().map(move |&receiver| {
        let against = |line: &&Line| !line.is_well() && line.asked_by.contains(&receiver);
        (receiver, lines.iter().filter(against).collect())
    })
}

/// Who is asked: the name servers of the configuration, without a running relay.
pub(super) struct Names {
    resolver: Resolver,
    clock: Clock,
    stop: Arc<StopSignal>,
}

impl Names {
    pub(super) fn open(loaded: &Loaded) -> io::Result<Self> {
        let rng = system_rng().map_err(|error| io::Error::other(error.to_string()))?;
        let families = relay_core::config::IpFamilies::Both;
        Ok(Self {
            resolver: Resolver::new(&loaded.config.dns, families, rng),
            clock: Clock::new(),
            stop: Arc::new(StopSignal::new()?),
        })
    }

    pub(super) fn ask<T>(&mut self, query: Query<T>) -> Result<T, DnsFailure> {
        ask(&mut self.resolver, self.clock, &self.stop, query)
    }

    /// The TXT records of a name that begin with a version; none if there are none.
    fn texts(&mut self, name: &str, version: &str) -> Result<Vec<String>, DnsFailure> {
        let texts = match self.ask(Query::txt(name)) {
            Ok(found) => found.texts,
            Err(DnsFailure::NoSuchDomain | DnsFailure::NoRecord) => Vec::new(),
            Err(failure) => return Err(failure),
        };
        let texts = texts
            .iter()
            .map(|text| String::from_utf8_lossy(text).into_owned());
        Ok(texts.filter(|text| begins_with(text, version)).collect())
    }

    /// Runs an errand.
    fn run(&mut self, runner: Runner) -> Done {
        let (clock, stop) = (self.clock, Arc::clone(&self.stop));
        errand::run(runner, clock, &stop, self)
    }

    fn addresses(&mut self, host: &str) -> Vec<IpAddr> {
        let found = self.ask(Query::addresses(host));
        found.map_or(Vec::new(), |found| found.addresses)
    }
}

impl Lookups for Names {
    fn texts(&mut self, name: &str) -> Result<Texts, DnsFailure> {
        self.ask(Query::txt(name))
    }

    fn addresses(&mut self, host: &str) -> AddressAnswer {
        self.ask(Query::addresses(host))
    }
}

/// Why the servers did not say.
fn told(failure: &DnsFailure) -> String {
    match failure {
        DnsFailure::NoSuchDomain => "the name does not exist".to_owned(),
        DnsFailure::NoRecord | DnsFailure::NullMx => "there is no such record".to_owned(),
        DnsFailure::BadName(why) | DnsFailure::Temporary(why) => why.clone(),
    }
}

fn begins_with(text: &str, version: &str) -> bool {
    text.strip_prefix(version)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', ';', '\t']))
}

/// Everything about a domain. `addresses` are those that we send from; none for those of the host name.
pub(super) fn domain(
    loaded: &Loaded,
    domain: &SigningDomain,
    addresses: &[IpAddr],
    names: &mut Names,
) -> Vec<Line> {
    let config = &loaded.config;
    let host_name = &config.hostname;
    let hostname = host_name.as_str();
    let own = names.addresses(hostname);
    let addresses = match addresses {
        [] => own.as_slice(),
        given => given,
    };
    let mut lines = keys(domain, names);
    lines.push(spf::line(&domain.name, host_name, addresses, names));
    if let Some(path) = &domain.return_path {
        lines.push(spf::line(&path.domain, host_name, addresses, names));
        lines.push(exchanger(path.domain.as_str(), names));
    }
    let (policy, line) = dmarc(&domain.name, names);
    lines.push(line);
    let signed = lines
        .iter()
        .any(|line| line.what == "DKIM" && line.verdict == Verdict::Right);
    lines.push(aligned(
        domain,
        signed,
        policy.as_deref().unwrap_or_default(),
    ));
    lines.extend(host(hostname, addresses, &own, names));
    lines.push(leaves_by_tls(config.delivery.tls));
    lines.push(certificate(loaded, names));
    lines.extend(receiving::lines(loaded, &domain.name, names));
    lines
}

fn line(verdict: Verdict, what: &'static str, name: &str, why: String) -> Line {
    let asked_by = match what {
        "MX" => &ALL[..2],
        "TLS" => &ALL[..1],
        "CERT" | "MTA-STS" | "TLS-RPT" => NOBODY,
        _ => ALL,
    };
    Line {
        verdict,
        what,
        name: name.to_owned(),
        why,
        asked_by,
    }
}

fn keys(domain: &SigningDomain, names: &mut Names) -> Vec<Line> {
    let used = domain
        .keys
        .iter()
        .filter(|key| key.state != KeyState::Retired);
    let mut lines: Vec<Line> = used.map(|used| key(&domain.name, used, names)).collect();
    if lines.is_empty() {
        let why = "no key: smtp-relay domain add makes them".to_owned();
        lines.push(line(Verdict::Missing, "DKIM", domain.name.as_str(), why));
    }
    lines
}

/// Whether a key's record is there and is that of the key.
pub(super) fn key(domain: &Domain, key: &DkimKey, names: &mut Names) -> Line {
    let name = key_name(domain, &key.selector);
    let Some(own) = &key.key else {
        let why = "the key was not loaded".to_owned();
        return line(Verdict::Unknown, "DKIM", &name, why);
    };
    let found = judge_key(own, &names.ask(Query::txt(&name)));
    let right = match own.algorithm() {
        Algorithm::Rsa { bits } => format!("{} of {bits} bits ({})", own.algorithm(), key.state),
        Algorithm::Ed25519 => format!("{} ({})", own.algorithm(), key.state),
    };
    published(
        "DKIM",
        &name,
        found,
        right,
        "no TXT record; publish the one that `domain records` prints",
    )
}

fn published(
    what: &'static str,
    name: &str,
    found: Published,
    right: String,
    missing: &str,
) -> Line {
    match found {
        Published::Right => line(Verdict::Right, what, name, right),
        Published::Wrong(why) => line(Verdict::Wrong, what, name, why),
        Published::Missing => line(Verdict::Missing, what, name, missing.to_owned()),
        Published::Unknown(why) => line(Verdict::Unknown, what, name, why),
    }
}

/// Whether bounces find a host.
fn exchanger(path: &str, names: &mut Names) -> Line {
    let answer = names.ask(Query::mx(path));
    let found = judge_mx(&answer);
    let hosts = answer.map_or(Vec::new(), |found| found.hosts);
    if found == Published::Right {
        let lost = hosts.iter().find(|mx| names.addresses(&mx.host).is_empty());
        if let Some(mx) = lost {
            let why = format!("its exchanger {} has no address", mx.host);
            return line(Verdict::Wrong, "MX", path, why);
        }
    }
    let right: Vec<&str> = hosts.iter().map(|mx| mx.host.as_str()).collect();
    let missing = "no MX record: bounces go nowhere, and MAIL FROM is refused";
    published("MX", path, found, right.join(", "), missing)
}

/// The record that counts, and what is to be said of it.
fn dmarc(domain: &Domain, names: &mut Names) -> (Option<String>, Line) {
    // RFC 7489 §6.6.3: of the domain, or else of the organisation above it.
    let mut zone = Some(domain.as_str());
    while let Some(name) = zone.filter(|name| name.contains('.')) {
        let place = format!("_dmarc.{name}");
        let say = |verdict, why: String| line(verdict, "DMARC", &place, why);
        match names.texts(&place, "v=DMARC1") {
            Err(failure) => return (None, say(Verdict::Unknown, told(&failure))),
            Ok(texts) => match texts.as_slice() {
                [] => {}
                [text] => {
                    let found = tags(text).into_iter().find(|(tag, _)| tag == "p");
                    return match found.as_ref().map(|(_, policy)| policy.as_str()) {
                        Some("none" | "quarantine" | "reject") => {
                            (Some(text.clone()), say(Verdict::Right, text.clone()))
                        }
                        _ => {
                            let why = "p= must be none, quarantine or reject";
                            (None, say(Verdict::Wrong, why.into()))
                        }
                    };
                }
                _ => {
                    return (
                        None,
                        say(Verdict::Wrong, "several records; keep one".to_owned()),
                    );
                }
            },
        }
        zone = name.split_once('.').map(|(_, above)| above);
    }
    let why = "no record; Gmail, Yahoo and Microsoft want one, p=none is enough".to_owned();
    let place = format!("_dmarc.{domain}");
    (None, line(Verdict::Missing, "DMARC", &place, why))
}

/// Whether what receivers authenticate is what people see. RFC 7489 §3.1: `d=` is the domain itself here,
/// and so aligned in either mode; a return path is aligned if the mode is relaxed or it is the domain.
fn aligned(domain: &SigningDomain, signed: bool, policy: &str) -> Line {
    let name = domain.name.as_str();
    let strict = tags(policy)
        .iter()
        .any(|(tag, mode)| tag == "aspf" && mode == "s");
    let path = |path: &ReturnPath| {
        let path = path.domain.as_str();
        let under = path.strip_suffix(name);
        under.is_some_and(|rest| rest.is_empty() || !strict && rest.ends_with('.'))
    };
    let mail_from = match &domain.return_path {
        Some(found) if path(found) => format!("MAIL FROM by {}", found.domain),
        Some(found) => format!("MAIL FROM not by {}", found.domain),
        None => format!("MAIL FROM where senders use {name}"),
    };
    if signed {
        return line(
            Verdict::Right,
            "ALIGNED",
            name,
            format!("DKIM by d={name}; {mail_from}"),
        );
    }
    let why = format!("no published key signs for it; {mail_from}");
    line(Verdict::Wrong, "ALIGNED", name, why)
}

/// Whether each address has the name of EHLO, and the name has it. Receivers refuse a host without it.
fn host(hostname: &str, addresses: &[IpAddr], own: &[IpAddr], names: &mut Names) -> Vec<Line> {
    if addresses.is_empty() {
        let why = "no address: the name of EHLO must be one of this host".to_owned();
        return vec![line(Verdict::Missing, "HOST", hostname, why)];
    }
    let check = |&address: &IpAddr| {
        let say = |verdict, why| line(verdict, "HOST", &format!("{hostname} [{address}]"), why);
        if !own.contains(&address) {
            let why = "the name of EHLO has not this address (A or AAAA record)";
            return say(Verdict::Missing, why.to_owned());
        }
        match names.ask(Query::ptr(address)) {
            Ok(found) => {
                let mut given = found.names.iter();
                if given.any(|name| name.eq_ignore_ascii_case(hostname)) {
                    return say(Verdict::Right, "the address has this name".to_owned());
                }
                let others = found.names.join(", ");
                say(
                    Verdict::Wrong,
                    format!("the address has another name: {others}"),
                )
            }
            Err(DnsFailure::NoSuchDomain | DnsFailure::NoRecord) => say(
                Verdict::Missing,
                "the address has no name (PTR record): ask whoever gave you the address".to_owned(),
            ),
            Err(failure) => say(Verdict::Unknown, told(&failure)),
        }
    };
    addresses.iter().map(check).collect()
}

/// Gmail asks for TLS on the way to it.
fn leaves_by_tls(level: TlsLevel) -> Line {
    let say = |verdict, why: &str| line(verdict, "TLS", "delivery.tls", why.to_owned());
    match level {
        TlsLevel::None => say(Verdict::Wrong, "\"none\": Gmail refuses mail in clear text"),
        TlsLevel::Opportunistic => say(Verdict::Right, "used wherever it is offered"),
        TlsLevel::Require | TlsLevel::Verify => say(Verdict::Right, "always used"),
        TlsLevel::Dane => say(
            Verdict::Right,
            "always used; mail waits for hosts without TLSA records",
        ),
    }
}

fn certificate(loaded: &Loaded, names: &Names) -> Line {
    let name = loaded.config.hostname.as_str();
    let now = names.clock.now().unix;
    let say = |verdict, why: String| line(verdict, "CERT", name, why);
    match loaded.client_tls.judge_server(&loaded.tls, name, now) {
        Certificate::Verified => say(Verdict::Right, "the certificate is verified".to_owned()),
        Certificate::NotVerified(_) if loaded.config.tls.is_none() => {
            let why = "self-signed: clients must be told to trust it; name one in [tls]";
            say(Verdict::Advice, why.to_owned())
        }
        wrong @ Certificate::NotVerified(_) => say(Verdict::Wrong, wrong.to_string()),
    }
}
