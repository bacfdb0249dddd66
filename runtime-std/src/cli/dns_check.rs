//! What the DNS says of a domain, line by line: right, wrong, missing, or advice.
//!
//! What the large receivers ask of a sender: DKIM that verifies, SPF that covers the host that sends,
//! DMARC, and a host whose address and name lead to each other.
//!
//! RFC 6376 §3.6.1, RFC 7208 §3.1 and §4.6.4, RFC 7489 §6.1 and §6.6.3, RFC 8460 §3.

use std::io;
use std::net::IpAddr;

use relay_core::config::{Config, DkimKey, KeyState, SigningDomain};
use relay_core::dns::{DnsFailure, Query, Resolver};
use smtp_proto::Domain;

use crate::clock::Clock;
use crate::drive::StopSignal;
use crate::load::system_rng;
use crate::resolve::ask;

/// Lookups that SPF may cost a receiver. RFC 7208 §4.6.4.
const SPF_LOOKUPS_MAX: usize = 10;

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

/// Who is asked: the name servers of the configuration, without a running relay.
pub(super) struct Names {
    resolver: Resolver,
    clock: Clock,
    stop: StopSignal,
}

impl Names {
    pub(super) fn open(config: &Config) -> io::Result<Self> {
        let rng = system_rng().map_err(|error| io::Error::other(error.to_string()))?;
        let families = relay_core::config::IpFamilies::Both;
        Ok(Self {
            resolver: Resolver::new(&config.dns, families, rng),
            clock: Clock::new(),
            stop: StopSignal::new()?,
        })
    }

    fn ask<T>(&mut self, query: Query<T>) -> Result<T, DnsFailure> {
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

    fn addresses(&mut self, host: &str) -> Vec<IpAddr> {
        let found = self.ask(Query::addresses(host));
        found.map_or(Vec::new(), |found| found.addresses)
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

/// Everything about a domain.
pub(super) fn domain(config: &Config, domain: &SigningDomain, names: &mut Names) -> Vec<Line> {
    let used = domain
        .keys
        .iter()
        .filter(|key| key.state != KeyState::Retired);
    let mut lines: Vec<Line> = used.map(|used| key(&domain.name, used, names)).collect();
    if lines.is_empty() {
        let why = "no key: smtp-relay domain add makes them".to_owned();
        lines.push(line(Verdict::Missing, "DKIM", domain.name.as_str(), why));
    }
    let hostname = config.hostname.as_str();
    let addresses = names.addresses(hostname);
    lines.push(spf(&domain.name, hostname, &addresses, names));
    lines.push(dmarc(&domain.name, names));
    lines.extend(host(hostname, &addresses, names));
    lines.push(tls_reports(&domain.name, names));
    lines
}

fn line(verdict: Verdict, what: &'static str, name: &str, why: String) -> Line {
    Line {
        verdict,
        what,
        name: name.to_owned(),
        why,
    }
}

/// Whether a key's record is there and is that of the key.
pub(super) fn key(domain: &Domain, key: &DkimKey, names: &mut Names) -> Line {
    let name = format!("{}._domainkey.{domain}", key.selector);
    let say = |verdict, why: &str| line(verdict, "DKIM", &name, why.to_owned());
    let Some(own) = &key.key else {
        return say(Verdict::Unknown, "the key was not loaded");
    };
    let texts = match names.ask(Query::txt(&name)) {
        Ok(found) => found.texts,
        Err(DnsFailure::NoSuchDomain | DnsFailure::NoRecord) => {
            return say(
                Verdict::Missing,
                "no TXT record; publish the one of `domain add`",
            );
        }
        Err(failure) => return say(Verdict::Unknown, &told(&failure)),
    };
    let [text] = texts.as_slice() else {
        return say(Verdict::Wrong, "several TXT records; keep one");
    };
    let (there, wanted) = (tags(&String::from_utf8_lossy(text)), tags(&own.record()));
    let tag = |tags: &[(String, String)], name: &str| {
        let found = tags.iter().find(|(tag, _)| tag == name);
        found.map(|(_, value)| value.clone())
    };
    let kind = tag(&there, "k").unwrap_or_else(|| "rsa".to_owned());
    let version = tag(&there, "v").unwrap_or_else(|| "DKIM1".to_owned());
    match tag(&there, "p") {
        _ if version != "DKIM1" => say(Verdict::Wrong, "not a record of DKIM1"),
        None => say(Verdict::Wrong, "no p= in the record"),
        Some(public) if public.is_empty() => say(Verdict::Wrong, "p= is empty: a revoked key"),
        Some(public) if Some(&public) != tag(&wanted, "p").as_ref() => {
            say(Verdict::Wrong, "another key than the one that signs")
        }
        Some(_) if Some(&kind) != tag(&wanted, "k").as_ref() => say(
            Verdict::Wrong,
            &format!("k={kind}, and the key is of another kind"),
        ),
        Some(_)
            if tag(&there, "t").is_some_and(|flags| flags.split(':').any(|flag| flag == "y")) =>
        {
            say(Verdict::Wrong, "t=y: receivers are told to ignore it")
        }
        Some(_) => say(
            Verdict::Right,
            &format!("{} ({})", own.algorithm(), key.state),
        ),
    }
}

/// The tags of a record: names, and values without white space. RFC 6376 §3.2.
fn tags(text: &str) -> Vec<(String, String)> {
    let tags = text.split(';').filter_map(|tag| tag.split_once('='));
    tags.map(|(name, value)| {
        let value = value.split_ascii_whitespace().collect();
        (name.trim().to_owned(), value)
    })
    .collect()
}

fn dmarc(domain: &Domain, names: &mut Names) -> Line {
    // RFC 7489 §6.6.3: of the domain, or else of the organisation above it.
    let mut zone = Some(domain.as_str());
    while let Some(name) = zone.filter(|name| name.contains('.')) {
        let place = format!("_dmarc.{name}");
        let say = |verdict, why: String| line(verdict, "DMARC", &place, why);
        match names.texts(&place, "v=DMARC1") {
            Err(failure) => return say(Verdict::Unknown, told(&failure)),
            Ok(texts) => match texts.as_slice() {
                [] => {}
                [text] => {
                    let found = tags(text).into_iter().find(|(tag, _)| tag == "p");
                    return match found.as_ref().map(|(_, policy)| policy.as_str()) {
                        Some("none" | "quarantine" | "reject") => say(Verdict::Right, text.clone()),
                        _ => say(
                            Verdict::Wrong,
                            "p= must be none, quarantine or reject".into(),
                        ),
                    };
                }
                _ => return say(Verdict::Wrong, "several records; keep one".to_owned()),
            },
        }
        zone = name.split_once('.').map(|(_, above)| above);
    }
    let why = "no record; Gmail, Yahoo and Microsoft want one, p=none is enough".to_owned();
    line(Verdict::Missing, "DMARC", &format!("_dmarc.{domain}"), why)
}

fn tls_reports(domain: &Domain, names: &mut Names) -> Line {
    let name = format!("_smtp._tls.{domain}");
    match names.texts(&name, "v=TLSRPTv1") {
        Ok(texts) if texts.len() == 1 => line(Verdict::Right, "TLS-RPT", &name, texts[0].clone()),
        Ok(_) | Err(_) => {
            let why = "no record: nobody reports TLS failures towards this domain".to_owned();
            line(Verdict::Advice, "TLS-RPT", &name, why)
        }
    }
}

/// Whether each address of the host leads back to its name. Receivers refuse a host without it.
fn host(hostname: &str, addresses: &[IpAddr], names: &mut Names) -> Vec<Line> {
    if addresses.is_empty() {
        let why = "no address: the name of EHLO must be one of this host".to_owned();
        return vec![line(Verdict::Missing, "HOST", hostname, why)];
    }
    let check = |&address: &IpAddr| {
        let say = |verdict, why| line(verdict, "HOST", &format!("{hostname} [{address}]"), why);
        match names.ask(Query::ptr(address)) {
            Ok(found)
                if found
                    .names
                    .iter()
                    .any(|name| name.eq_ignore_ascii_case(hostname)) =>
            {
                say(Verdict::Right, "the address has this name".to_owned())
            }
            Ok(found) => say(
                Verdict::Wrong,
                format!("the address has another name: {}", found.names.join(", ")),
            ),
            Err(DnsFailure::NoSuchDomain | DnsFailure::NoRecord) => say(
                Verdict::Missing,
                "the address has no name (PTR record)".to_owned(),
            ),
            Err(failure) => say(Verdict::Unknown, told(&failure)),
        }
    };
    addresses.iter().map(check).collect()
}

fn spf(domain: &Domain, hostname: &str, addresses: &[IpAddr], names: &mut Names) -> Line {
    let name = domain.as_str();
    let say = |verdict, why: String| line(verdict, "SPF", name, why);
    let texts = match names.texts(name, "v=spf1") {
        Err(failure) => return say(Verdict::Unknown, told(&failure)),
        Ok(texts) => texts,
    };
    let text = match texts.as_slice() {
        [] => return say(Verdict::Missing, "no v=spf1 record".to_owned()),
        [text] => text,
        _ => {
            return say(
                Verdict::Wrong,
                "several v=spf1 records: receivers take none".to_owned(),
            );
        }
    };
    for &address in addresses {
        let mut lookups = 0;
        match covers(text, name, address, names, &mut lookups) {
            Covers::Yes => {}
            Covers::No => {
                return say(
                    Verdict::Wrong,
                    format!("{hostname} [{address}] is not covered: {text}"),
                );
            }
            Covers::CannotTell(why) => return say(Verdict::Unknown, format!("{why}: {text}")),
        }
    }
    if addresses.is_empty() {
        return say(
            Verdict::Unknown,
            format!("{hostname} has no address to look for: {text}"),
        );
    }
    say(Verdict::Right, text.clone())
}

/// Whether SPF lets an address send.
#[derive(Debug, PartialEq, Eq)]
enum Covers {
    Yes,
    No,
    CannotTell(&'static str),
}

const TOO_MANY_LOOKUPS: Covers = Covers::CannotTell("more than 10 lookups: receivers give up");

/// Reads the mechanisms that people write. What needs a macro, `ptr` or `exists` is left to receivers.
fn covers(
    text: &str,
    domain: &str,
    address: IpAddr,
    names: &mut Names,
    lookups: &mut usize,
) -> Covers {
    let mut redirect = None;
    for term in text.split_ascii_whitespace().skip(1) {
        if let Some(other) = term.strip_prefix("redirect=") {
            redirect = Some(other);
            continue;
        }
        if term.contains('=') {
            continue;
        }
        let (passes, mechanism) = match term.strip_prefix(['+', '-', '~', '?']) {
            Some(mechanism) => (term.starts_with('+'), mechanism),
            None => (true, term),
        };
        match matches(mechanism, domain, address, names, lookups) {
            Covers::Yes if passes => return Covers::Yes,
            Covers::Yes => return Covers::No,
            Covers::No => {}
            unsure @ Covers::CannotTell(_) => return unsure,
        }
    }
    match redirect {
        Some(other) => of_record(other, address, names, lookups),
        None => Covers::No,
    }
}

/// What the record of another domain says.
fn of_record(domain: &str, address: IpAddr, names: &mut Names, lookups: &mut usize) -> Covers {
    *lookups += 1;
    if *lookups > SPF_LOOKUPS_MAX {
        return TOO_MANY_LOOKUPS;
    }
    match names.texts(domain, "v=spf1").as_deref() {
        Ok([text]) => covers(&text.clone(), domain, address, names, lookups),
        Ok(_) => Covers::CannotTell("an included domain has not one record"),
        Err(_) => Covers::CannotTell("an included domain is not found"),
    }
}

fn matches(
    mechanism: &str,
    domain: &str,
    address: IpAddr,
    names: &mut Names,
    lookups: &mut usize,
) -> Covers {
    let is = |found: bool| if found { Covers::Yes } else { Covers::No };
    let (kind, value) = mechanism.split_once(':').unwrap_or((mechanism, ""));
    if mechanism.contains(['%', '/']) && !kind.starts_with("ip") {
        return Covers::CannotTell("a macro or a prefix length");
    }
    let host = if value.is_empty() { domain } else { value };
    if matches!(kind, "a" | "mx") {
        *lookups += 1;
        if *lookups > SPF_LOOKUPS_MAX {
            return TOO_MANY_LOOKUPS;
        }
    }
    match kind {
        "all" => Covers::Yes,
        "ip4" | "ip6" => match relay_core::config::parse_network(value) {
            Ok(network) => is(network.contains(&address)),
            Err(_) => Covers::CannotTell("an address that cannot be read"),
        },
        "a" => is(names.addresses(host).contains(&address)),
        "mx" => {
            let hosts = names
                .ask(Query::mx(host))
                .map_or(Vec::new(), |set| set.hosts);
            is(hosts
                .iter()
                .any(|mx| names.addresses(&mx.host).contains(&address)))
        }
        "include" => of_record(value, address, names, lookups),
        _ => Covers::CannotTell("a mechanism that only receivers can follow"),
    }
}
