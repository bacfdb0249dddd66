//! SPF: whether a domain lets this client send in its name.
//!
//! ```text
//!  check_host(domain) ─▶ TXT ─▶ Record ─▶ directives, left to right ── one matches ──▶ its result
//!        ▲    ▲                               │            │ none
//!        │    └───────── include ◀────────────┘            ├── redirect ─┐
//!        └──────────────────────────────────────────────── ┼ ◀───────────┘
//!                                                          └──▶ neutral
//! ```
//!
//! The whole check is a function of the client, the names and what the DNS said so far. Where an answer
//! is missing it stops with the question, and is run again from the start when the answer came: it is
//! short, and so there is no half-done state to keep.
//!
//! Bounds, for all records of a check together (RFC 7208 §4.6.4): ten terms that ask the DNS, two
//! answers that hold nothing, ten names of `mx` and `ptr` each.
//!
//! RFC 7208.

mod macros;
mod record;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;

use super::known::{Found, Known, Unknown};
use crate::dns::Question;
use crate::time::UnixTime;
use macros::{Letter, MacroString, Purpose};
use record::{Mechanism, Prefixes, Record};

/// Terms that ask the DNS. RFC 7208 §4.6.4.
const TERMS_MAX: u8 = 10;
/// Answers that hold nothing. RFC 7208 §4.6.4.
const VOIDS_MAX: u8 = 2;
/// Names of one `mx` or `ptr`. RFC 7208 §4.6.4.
const NAMES_MAX: usize = 10;

/// What SPF says. RFC 7208 §2.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpfResult {
    /// The domain says nothing.
    None,
    /// The domain does not want to say.
    Neutral,
    /// The client may.
    Pass,
    /// The client may not.
    Fail,
    /// The client probably may not.
    SoftFail,
    /// The DNS did not answer.
    TempError,
    /// The record cannot be understood.
    PermError,
}

impl fmt::Display for SpfResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Neutral => "neutral",
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::SoftFail => "softfail",
            Self::TempError => "temperror",
            Self::PermError => "permerror",
        })
    }
}

/// What is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity<'a> {
    /// The client's address; never an IPv4 one in IPv6's clothes.
    pub(super) ip: IpAddr,
    /// The name in HELO.
    pub(super) helo: &'a str,
    /// The local part of the sender; `postmaster` where it has none.
    pub(super) local_part: &'a str,
    /// The domain of the sender.
    pub(super) domain: &'a str,
    /// Our name.
    pub(super) receiver: &'a str,
    /// The time, for explanations.
    pub(super) time: UnixTime,
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) result: SpfResult,
    /// What the domain says about a `fail`. Printable ASCII.
    pub(super) explanation: Option<String>,
}

/// Checks an identity with what is known.
///
/// # Errors
/// The question that must be answered first.
pub(super) fn check(identity: &Identity<'_>, known: &Known) -> Result<Outcome, Unknown> {
    let mut check = Check {
        identity,
        known,
        terms: 0,
        voids: 0,
    };
    let failed = |result| Outcome {
        result,
        explanation: None,
    };
    match check.host(identity.domain, Level::Top) {
        Ok(outcome) => Ok(outcome),
        Err(Stop::Unknown(unknown)) => Err(unknown),
        Err(Stop::Temporary) => Ok(failed(SpfResult::TempError)),
        Err(Stop::Permanent) => Ok(failed(SpfResult::PermError)),
    }
}

/// Why a check goes no further.
enum Stop {
    Unknown(Unknown),
    Temporary,
    Permanent,
}

impl From<Unknown> for Stop {
    fn from(unknown: Unknown) -> Self {
        Self::Unknown(unknown)
    }
}

/// Where a record is read: the explanation of an included one is of no interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Top,
    Included,
}

struct Check<'a> {
    identity: &'a Identity<'a>,
    known: &'a Known,
    terms: u8,
    voids: u8,
}

impl Check<'_> {
    /// check_host(). RFC 7208 §4.
    fn host(&mut self, domain: &str, level: Level) -> Result<Outcome, Stop> {
        let plain = |result| {
            Ok(Outcome {
                result,
                explanation: None,
            })
        };
        if !is_domain(domain) {
            return plain(SpfResult::None);
        }
        let Some(record) = self.record(domain)? else {
            return plain(SpfResult::None);
        };
        for directive in &record.directives {
            if self.matches(&directive.mechanism, domain)? {
                let explanation = match (&record.explanation, directive.result, level) {
                    (Some(name), SpfResult::Fail, Level::Top) => self.explain(name, domain)?,
                    _ => None,
                };
                return Ok(Outcome {
                    result: directive.result,
                    explanation,
                });
            }
        }
        let Some(redirect) = &record.redirect else {
            return plain(SpfResult::Neutral);
        };
        self.term()?;
        let target = self.name(redirect, domain)?;
        match self.host(&target, level)? {
            // RFC 7208 §6.1: "If no SPF record is found, or if the <target-name> is malformed, the
            // result is a "permerror"".
            Outcome {
                result: SpfResult::None,
                ..
            } => Err(Stop::Permanent),
            outcome => Ok(outcome),
        }
    }

    /// The record of a domain, if it has one. RFC 7208 §4.4, §4.5.
    fn record(&mut self, domain: &str) -> Result<Option<Record>, Stop> {
        let records = match self
            .known
            .find(Question::Txt(domain.to_ascii_lowercase()))?
        {
            Found::Records(records) => records,
            Found::Nothing { .. } => return Ok(None),
            Found::Temporary => return Err(Stop::Temporary),
        };
        let mut found = records.texts().filter_map(record::select);
        match (found.next(), found.next()) {
            (None, _) => Ok(None),
            (Some(text), None) => Record::parse(text).map(Some).ok_or(Stop::Permanent),
            (Some(_), Some(_)) => Err(Stop::Permanent),
        }
    }

    fn matches(&mut self, mechanism: &Mechanism, domain: &str) -> Result<bool, Stop> {
        match mechanism {
            Mechanism::All => Ok(true),
            Mechanism::Ip(network, prefix) => Ok(covers(*network, *prefix, self.identity.ip)),
            Mechanism::Include(name) => {
                self.term()?;
                let target = self.name(name, domain)?;
                match self.host(&target, Level::Included)?.result {
                    SpfResult::Pass => Ok(true),
                    SpfResult::Fail | SpfResult::SoftFail | SpfResult::Neutral => Ok(false),
                    SpfResult::TempError => Err(Stop::Temporary),
                    SpfResult::PermError | SpfResult::None => Err(Stop::Permanent),
                }
            }
            Mechanism::A(name, prefixes) => {
                self.term()?;
                let target = self.target(name.as_ref(), domain)?;
                self.is_address_of(&target, *prefixes)
            }
            Mechanism::Mx(name, prefixes) => {
                self.term()?;
                let target = self.target(name.as_ref(), domain)?;
                self.is_exchanger_of(&target, *prefixes)
            }
            Mechanism::Exists(name) => {
                self.term()?;
                let target = self.name(name, domain)?;
                // RFC 7208 §5.7: "an A RR lookup [...] even when the connection type is IPv6."
                Ok(!self.addresses(Question::A(target))?.is_empty())
            }
            Mechanism::Ptr(name) => {
                self.term()?;
                let target = self.target(name.as_ref(), domain)?;
                let names = self.validated_names()?;
                Ok(names.iter().any(|name| is_or_is_under(name, &target)))
            }
        }
    }

    /// Counts a term that asks the DNS.
    fn term(&mut self) -> Result<(), Stop> {
        self.terms += 1;
        if self.terms > TERMS_MAX {
            return Err(Stop::Permanent);
        }
        Ok(())
    }

    /// Counts an answer that holds nothing.
    fn void(&mut self) -> Result<(), Stop> {
        self.voids += 1;
        if self.voids > VOIDS_MAX {
            return Err(Stop::Permanent);
        }
        Ok(())
    }

    fn target(&mut self, name: Option<&MacroString>, domain: &str) -> Result<String, Stop> {
        match name {
            Some(name) => self.name(name, domain),
            None => Ok(domain.to_owned()),
        }
    }

    fn name(&mut self, name: &MacroString, domain: &str) -> Result<String, Stop> {
        name.expand_name(|letter| self.value(letter, domain))
    }

    /// The addresses that a question finds; none counts as void.
    fn addresses(&mut self, question: Question) -> Result<Vec<IpAddr>, Stop> {
        match self.known.find(question)? {
            Found::Records(records) => Ok(records.addresses().collect()),
            Found::Nothing { .. } => self.void().map(|()| Vec::new()),
            Found::Temporary => Err(Stop::Temporary),
        }
    }

    fn address_question(&self, name: &str) -> Question {
        let name = name.to_ascii_lowercase();
        match self.identity.ip {
            IpAddr::V4(_) => Question::A(name),
            IpAddr::V6(_) => Question::Aaaa(name),
        }
    }

    fn is_address_of(&mut self, name: &str, prefixes: Prefixes) -> Result<bool, Stop> {
        let ip = self.identity.ip;
        let prefix = match ip {
            IpAddr::V4(_) => prefixes.v4,
            IpAddr::V6(_) => prefixes.v6,
        };
        let addresses = self.addresses(self.address_question(name))?;
        Ok(addresses
            .into_iter()
            .any(|address| covers(address, prefix, ip)))
    }

    /// RFC 7208 §5.4.
    fn is_exchanger_of(&mut self, name: &str, prefixes: Prefixes) -> Result<bool, Stop> {
        let known = self.known;
        let records = match known.find(Question::Mx(name.to_ascii_lowercase()))? {
            Found::Records(records) => records,
            Found::Nothing { .. } => return self.void().map(|()| false),
            Found::Temporary => return Err(Stop::Temporary),
        };
        if records.names().count() > NAMES_MAX {
            return Err(Stop::Permanent);
        }
        for host in records.names() {
            if self.is_address_of(&host, prefixes)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The names of the client that have its address. RFC 7208 §5.5: of errors here there is no match.
    fn validated_names(&mut self) -> Result<Vec<String>, Stop> {
        let ip = self.identity.ip;
        let known = self.known;
        let records = match known.find(Question::Ptr(ip))? {
            Found::Records(records) => records,
            Found::Nothing { .. } | Found::Temporary => return Ok(Vec::new()),
        };
        let mut validated = Vec::new();
        for name in records.names().take(NAMES_MAX) {
            match known.find(self.address_question(&name))? {
                Found::Records(records) if records.addresses().any(|found| found == ip) => {
                    validated.push(name);
                }
                Found::Records(_) | Found::Nothing { .. } | Found::Temporary => {}
            }
        }
        Ok(validated)
    }

    /// What a macro stands for. RFC 7208 §7.2.
    fn value(&mut self, letter: Letter, domain: &str) -> Result<String, Stop> {
        let identity = self.identity;
        Ok(match letter {
            Letter::Sender => format!("{}@{}", identity.local_part, identity.domain),
            Letter::LocalPart => identity.local_part.to_owned(),
            Letter::SenderDomain => identity.domain.to_owned(),
            Letter::Domain => domain.to_owned(),
            Letter::Ip => labels(identity.ip),
            Letter::Validated => self.validated_name(domain)?,
            Letter::Version => match identity.ip {
                IpAddr::V4(_) => "in-addr".to_owned(),
                IpAddr::V6(_) => "ip6".to_owned(),
            },
            Letter::Helo => identity.helo.to_owned(),
            Letter::Client => identity.ip.to_string(),
            Letter::Receiver => identity.receiver.to_owned(),
            Letter::Time => identity.time.as_secs().to_string(),
        })
    }

    /// `%{p}`: the domain itself if it is among the names, else one under it, else any.
    fn validated_name(&mut self, domain: &str) -> Result<String, Stop> {
        let names = self.validated_names()?;
        let best = names
            .iter()
            .find(|name| name.eq_ignore_ascii_case(domain))
            .or_else(|| names.iter().find(|name| is_or_is_under(name, domain)))
            .or(names.first());
        Ok(best.cloned().unwrap_or_else(|| "unknown".to_owned()))
    }

    /// What the domain has to say about its `fail`. RFC 7208 §6.2: of any error there is none.
    fn explain(&mut self, name: &MacroString, domain: &str) -> Result<Option<String>, Stop> {
        let target = self.name(name, domain)?;
        let Found::Records(records) = self
            .known
            .find(Question::Txt(target.to_ascii_lowercase()))?
        else {
            return Ok(None);
        };
        let mut texts = records.texts();
        let (Some(text), None) = (texts.next(), texts.next()) else {
            return Ok(None);
        };
        let text = std::str::from_utf8(text).ok();
        let Some(text) = text.and_then(|text| MacroString::parse(text, Purpose::Explanation))
        else {
            return Ok(None);
        };
        let explanation = text.expand(|letter| self.value(letter, domain))?;
        let printable = |b: u8| b == b' ' || b.is_ascii_graphic();
        Ok(Some(explanation).filter(|text| text.bytes().all(printable)))
    }
}

/// Whether two addresses agree in so many bits.
fn covers(network: IpAddr, prefix: u8, ip: IpAddr) -> bool {
    match (network, ip) {
        (IpAddr::V4(network), IpAddr::V4(ip)) => {
            let differ = network.to_bits() ^ ip.to_bits();
            differ.leading_zeros() >= u32::from(prefix)
        }
        (IpAddr::V6(network), IpAddr::V6(ip)) => {
            let differ = network.to_bits() ^ ip.to_bits();
            differ.leading_zeros() >= u32::from(prefix)
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

/// `%{i}`: IPv4 as usual, IPv6 as a label for each four bits.
fn labels(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => {
            let digits = format!("{:032x}", ip.to_bits());
            let labels: Vec<&str> = digits.split("").filter(|digit| !digit.is_empty()).collect();
            labels.join(".")
        }
    }
}

fn is_or_is_under(name: &str, domain: &str) -> bool {
    let (name, domain) = (name.to_ascii_lowercase(), domain.to_ascii_lowercase());
    name.strip_suffix(&domain)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Whether a check can begin with this domain. RFC 7208 §4.3.
fn is_domain(domain: &str) -> bool {
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    let fits = |label: &str| (1..=63).contains(&label.len());
    domain.len() <= 253 && domain.contains('.') && domain.split('.').all(fits)
}
