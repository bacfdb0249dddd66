//! DMARC: whether what SPF and DKIM vouch for is what people see in From, and what the domain wants else.
//!
//! ```text
//!  _dmarc.a.example.com ─▶ _dmarc.example.com ─▶ _dmarc.com      the walk up the tree
//!        │ policy of the author      │ the organization: what is aligned with it
//!        └────────── pass if some identifier is aligned, else p=, sp= or np= ──▶ Dmarc
//! ```
//!
//! RFC 9989, which replaced RFC 7489 and its list of public suffixes by questions to the DNS: §4.10
//! (walk), §4.10.1 (which policy), §4.10.2 (which organization), §4.7 (tags), §4.4 (alignment).

use std::fmt;

use super::known::{Found, Known, Unknown};
use super::signature::{Tags, is_name, is_or_is_under};
use crate::dns::Question;

/// The most names that a walk asks for. RFC 9989 §4.10.
const WALK_MAX: usize = 8;

/// What DMARC says. RFC 7489 §11.2 (the words).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DmarcResult {
    /// The domain says nothing.
    None,
    /// An identifier that SPF or DKIM vouches for is aligned.
    Pass,
    /// None is.
    Fail,
    /// The DNS did not answer, and that may have cost a pass.
    TempError,
    /// From names no domain, or several, or the record cannot be understood.
    PermError,
}

impl fmt::Display for DmarcResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::TempError => "temperror",
            Self::PermError => "permerror",
        })
    }
}

/// What a domain wants done with mail that fails. RFC 9989 §4.7.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Nothing.
    None,
    /// To be suspicious of it.
    Quarantine,
    /// To refuse it.
    Reject,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Quarantine => "quarantine",
            Self::Reject => "reject",
        })
    }
}

/// What DMARC says of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dmarc {
    /// What came out.
    pub result: DmarcResult,
    /// The domain of From, in A-labels; empty if there is no one domain.
    pub domain: String,
    /// What that domain wants done with a message that fails; as it is after `t=y`.
    pub policy: Policy,
}

/// The identifiers that may be aligned.
#[derive(Debug)]
pub(super) struct Identifiers<'a> {
    /// The domain that SPF passed for.
    pub(super) spf: Option<&'a str>,
    /// The domains of valid signatures.
    pub(super) dkim: Vec<&'a str>,
    /// SPF or a signature could not be checked because the DNS did not answer.
    pub(super) incomplete: bool,
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    policy: Policy,
    subdomains: Option<Policy>,
    missing: Option<Policy>,
    strict_dkim: bool,
    strict_spf: bool,
    testing: bool,
    suffix: Option<bool>,
}

/// Judges a message whose From names this domain.
///
/// # Errors
/// The question that must be answered first.
pub(super) fn judge(
    from: Option<&str>,
    identifiers: &Identifiers<'_>,
    known: &Known,
) -> Result<Dmarc, Unknown> {
    let verdict = |result, policy, domain: &str| Dmarc {
        result,
        domain: domain.to_owned(),
        policy,
    };
    let Some(from) = from.filter(|from| is_name(from)) else {
        return Ok(verdict(DmarcResult::PermError, Policy::None, ""));
    };
    let walk = match walk(from, known)? {
        Walk::Records(records) => records,
        Walk::Temporary => return Ok(verdict(DmarcResult::TempError, Policy::None, from)),
    };
    let organization = organization(from, &walk);
    let Some((at, record)) = applicable(from, organization, &walk) else {
        return Ok(verdict(DmarcResult::None, Policy::None, from));
    };
    let aligned = is_aligned(from, organization, record, identifiers, known)?;
    let (result, policy) = match aligned {
        Aligned::Yes => (DmarcResult::Pass, record.policy),
        Aligned::No if identifiers.incomplete => (DmarcResult::TempError, record.policy),
        Aligned::Unknown => (DmarcResult::TempError, record.policy),
        Aligned::No => (DmarcResult::Fail, record.policy),
    };
    let policy = match (at == from, record.missing) {
        (true, _) => policy,
        (false, Some(missing)) if is_missing(from, known)? => missing,
        (false, _) => record.subdomains.unwrap_or(policy),
    };
    Ok(verdict(result, record.tested(policy), from))
}

/// The records on the way up, the longest name first.
enum Walk<'a> {
    Records(Vec<(&'a str, Record)>),
    Temporary,
}

/// RFC 9989 §4.10.
fn walk<'a>(from: &'a str, known: &Known) -> Result<Walk<'a>, Unknown> {
    let mut found = Vec::new();
    let mut name = from;
    for step in 0..WALK_MAX {
        match record(name, known)? {
            Lookup::Record(record) => {
                let ends = record.suffix.is_some();
                found.push((name, record));
                if ends {
                    break;
                }
            }
            Lookup::Nothing => {}
            Lookup::Temporary => return Ok(Walk::Temporary),
        }
        let labels = name.split('.').count();
        // A long name is cut to seven labels at once.
        let drop = if step == 0 && labels > WALK_MAX {
            labels - (WALK_MAX - 1)
        } else {
            1
        };
        match name.splitn(drop + 1, '.').nth(drop) {
            Some(rest) => name = rest,
            None => break,
        }
    }
    Ok(Walk::Records(found))
}

/// RFC 9989 §4.10.2.
fn organization<'a>(start: &'a str, walk: &[(&'a str, Record)]) -> &'a str {
    for (name, record) in walk {
        match record.suffix {
            Some(false) => return name,
            Some(true) if *name != start => return below(start, name),
            Some(true) | None => {}
        }
    }
    walk.last().map_or(start, |(name, _)| name)
}

/// The name one label below `suffix` on the way to `start`.
fn below<'a>(start: &'a str, suffix: &str) -> &'a str {
    let above = start.len() - suffix.len();
    let labels = start[..above].trim_end_matches('.');
    let from = labels.rfind('.').map_or(0, |at| at + 1);
    &start[from..]
}

/// The record that applies: of the author's domain, of its organization, or of the suffix above that.
/// RFC 9989 §4.10.1.
fn applicable<'a, 'w>(
    from: &str,
    organization: &str,
    walk: &'w [(&'a str, Record)],
) -> Option<(&'a str, &'w Record)> {
    let at = |wanted: &str| walk.iter().find(|(name, _)| *name == wanted);
    let suffix = || {
        let is = |(_, record): &&(&str, Record)| record.suffix == Some(true);
        walk.iter().find(is)
    };
    let found = at(from).or_else(|| at(organization)).or_else(suffix);
    found.map(|(name, record)| (*name, record))
}

enum Aligned {
    Yes,
    No,
    /// The DNS did not answer.
    Unknown,
}

/// RFC 9989 §4.4.
fn is_aligned(
    from: &str,
    organization_of_from: &str,
    record: &Record,
    identifiers: &Identifiers<'_>,
    known: &Known,
) -> Result<Aligned, Unknown> {
    let spf = identifiers.spf.map(|domain| (domain, record.strict_spf));
    let dkim = identifiers
        .dkim
        .iter()
        .map(|domain| (*domain, record.strict_dkim));
    let all: Vec<(&str, bool)> = dkim.chain(spf).collect();
    if all.iter().any(|(domain, _)| *domain == from) {
        return Ok(Aligned::Yes);
    }
    let mut unknown = false;
    for (domain, strict) in all {
        if strict || !is_or_is_under(domain, organization_of_from) || !is_name(domain) {
            continue;
        }
        match walk(domain, known)? {
            Walk::Records(walk) if organization(domain, &walk) == organization_of_from => {
                return Ok(Aligned::Yes);
            }
            Walk::Records(_) => {}
            Walk::Temporary => unknown = true,
        }
    }
    Ok(if unknown {
        Aligned::Unknown
    } else {
        Aligned::No
    })
}

/// Whether the domain does not exist, for `np=`.
fn is_missing(domain: &str, known: &Known) -> Result<bool, Unknown> {
    let found = known.find(Question::A(domain.to_owned()))?;
    Ok(matches!(found, Found::Nothing { no_such_name: true }))
}

enum Lookup {
    Record(Record),
    Nothing,
    Temporary,
}

fn record(name: &str, known: &Known) -> Result<Lookup, Unknown> {
    let records = match known.find(Question::Txt(format!("_dmarc.{name}")))? {
        Found::Records(records) => records,
        Found::Nothing { .. } => return Ok(Lookup::Nothing),
        Found::Temporary => return Ok(Lookup::Temporary),
    };
    let mut found = records.texts().filter_map(select);
    // Several are none. RFC 9989 §4.10.
    Ok(match (found.next(), found.next()) {
        (Some(tags), None) => Record::read(&tags).map_or(Lookup::Nothing, Lookup::Record),
        (_, _) => Lookup::Nothing,
    })
}

/// The tags of a text that begins with `v=DMARC1`.
fn select(text: &[u8]) -> Option<Tags<'_>> {
    let tags = Tags::parse(text).ok()?;
    (tags.first() == Some("v") && tags.get("v") == Some("DMARC1")).then_some(tags)
}

impl Record {
    /// Reads the tags; none if what matters of them cannot be understood. RFC 9989 §4.7.
    fn read(tags: &Tags<'_>) -> Option<Self> {
        let policy = |tag: &str| tags.get(tag).and_then(policy);
        let reports = tags.get("rua").is_some();
        let own = match (tags.get("p"), policy("p")) {
            (_, Some(policy)) => policy,
            // Without a valid `p=`, a record that asks for reports counts as `p=none`.
            (Some(_) | None, None) if reports => Policy::None,
            (None, None) if policy("sp").is_none() && policy("np").is_none() => Policy::None,
            (Some(_) | None, None) => return None,
        };
        let is = |tag: &str, value: &str| {
            let found = tags.get(tag);
            found.is_some_and(|found| found.eq_ignore_ascii_case(value))
        };
        let suffix = if is("psd", "y") {
            Some(true)
        } else if is("psd", "n") {
            Some(false)
        } else {
            None
        };
        // `pct=` is of RFC 7489: below 100 it asked to spare some of the mail, which `t=y` spares all of.
        let spared = tags.get("pct").is_some_and(|share| share != "100");
        Some(Self {
            policy: own,
            subdomains: policy("sp"),
            missing: policy("np").or(policy("sp")),
            strict_dkim: is("adkim", "s"),
            strict_spf: is("aspf", "s"),
            testing: is("t", "y") || spared,
            suffix,
        })
    }

    /// `t=y` asks for one step less.
    fn tested(&self, policy: Policy) -> Policy {
        match (self.testing, policy) {
            (false, policy) => policy,
            (true, Policy::Reject) => Policy::Quarantine,
            (true, Policy::Quarantine | Policy::None) => Policy::None,
        }
    }
}

fn policy(text: &str) -> Option<Policy> {
    let known = [
        ("none", Policy::None),
        ("quarantine", Policy::Quarantine),
        ("reject", Policy::Reject),
    ];
    let found = known
        .iter()
        .find(|(name, _)| text.eq_ignore_ascii_case(name));
    found.map(|(_, policy)| *policy)
}
