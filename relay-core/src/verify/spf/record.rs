//! An SPF record as a value: a syntax error anywhere makes it none. RFC 7208 §4.6.1, §5, §6, §12.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::SpfResult;
use super::macros::{MacroString, Purpose};

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) directives: Vec<Directive>,
    pub(super) redirect: Option<MacroString>,
    pub(super) explanation: Option<MacroString>,
}

/// A mechanism, and what it means if it matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Directive {
    pub(super) result: SpfResult,
    pub(super) mechanism: Mechanism,
}

/// RFC 7208 §5. A name that is absent is the domain that is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mechanism {
    All,
    Include(MacroString),
    A(Option<MacroString>, Prefixes),
    Mx(Option<MacroString>, Prefixes),
    Ptr(Option<MacroString>),
    Ip(IpAddr, u8),
    Exists(MacroString),
}

/// How much of an address counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prefixes {
    pub(super) v4: u8,
    pub(super) v6: u8,
}

/// The version that begins a record. RFC 7208 §4.5.
const VERSION: &[u8] = b"v=spf1";

/// What follows the version, if a TXT record is an SPF record.
pub(super) fn select(text: &[u8]) -> Option<&[u8]> {
    let (version, rest) = text.split_at_checked(VERSION.len())?;
    let is = version.eq_ignore_ascii_case(VERSION) && rest.first().is_none_or(|&b| b == b' ');
    is.then_some(rest)
}

impl Record {
    /// Reads what follows the version; none if its syntax is wrong.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text)
            .ok()
            .filter(|text| text.is_ascii())?;
        let mut record = Self {
            directives: Vec::new(),
            redirect: None,
            explanation: None,
        };
        for term in text.split(' ').filter(|term| !term.is_empty()) {
            match term.find([':', '/', '=']) {
                Some(at) if term.as_bytes()[at] == b'=' => {
                    record.modifier(&term[..at], &term[at + 1..])?;
                }
                end => {
                    let (name, rest) = term.split_at(end.unwrap_or(term.len()));
                    record.directives.push(Directive::parse(name, rest)?);
                }
            }
        }
        Some(record)
    }

    fn modifier(&mut self, name: &str, value: &str) -> Option<()> {
        let letter = |c: char| c.is_ascii_alphabetic();
        let inside = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !name.starts_with(letter) || !name.chars().all(inside) {
            return None;
        }
        let place = if name.eq_ignore_ascii_case("redirect") {
            &mut self.redirect
        } else if name.eq_ignore_ascii_case("exp") {
            &mut self.explanation
        } else {
            return MacroString::parse(value, Purpose::Modifier).map(drop);
        };
        // RFC 7208 §6: they "MUST NOT appear in a record more than once each".
        if place.is_some() {
            return None;
        }
        *place = Some(MacroString::parse_domain_spec(value)?);
        Some(())
    }
}

impl Directive {
    /// `rest` begins with the colon or the slash.
    fn parse(name: &str, rest: &str) -> Option<Self> {
        let (result, name) = match name.chars().next()? {
            '+' => (SpfResult::Pass, &name[1..]),
            '-' => (SpfResult::Fail, &name[1..]),
            '~' => (SpfResult::SoftFail, &name[1..]),
            '?' => (SpfResult::Neutral, &name[1..]),
            _ => (SpfResult::Pass, name),
        };
        let argument = rest.strip_prefix(':');
        let spec = MacroString::parse_domain_spec;
        let mechanism = match name.to_ascii_lowercase().as_str() {
            "all" if rest.is_empty() => Mechanism::All,
            "include" => Mechanism::Include(spec(argument?)?),
            "exists" => Mechanism::Exists(spec(argument?)?),
            "ptr" if rest.is_empty() => Mechanism::Ptr(None),
            "ptr" => Mechanism::Ptr(Some(spec(argument?)?)),
            "a" => {
                let (name, prefixes) = hosts(rest)?;
                Mechanism::A(name, prefixes)
            }
            "mx" => {
                let (name, prefixes) = hosts(rest)?;
                Mechanism::Mx(name, prefixes)
            }
            "ip4" => {
                let (ip, prefix) = network::<Ipv4Addr>(argument?, 32)?;
                Mechanism::Ip(ip.into(), prefix)
            }
            "ip6" => {
                let (ip, prefix) = network::<Ipv6Addr>(argument?, 128)?;
                Mechanism::Ip(ip.into(), prefix)
            }
            _ => return None,
        };
        Some(Self { result, mechanism })
    }
}

/// `[":" domain-spec] ["/" n] ["//" n]`
fn hosts(rest: &str) -> Option<(Option<MacroString>, Prefixes)> {
    let mut prefixes = Prefixes { v4: 32, v6: 128 };
    let mut rest = rest;
    if let Some((before, digits)) = rest.rsplit_once("//")
        && is_number(digits)
    {
        prefixes.v6 = prefix(digits, 128)?;
        rest = before;
    }
    if let Some((before, digits)) = rest.rsplit_once('/')
        && is_number(digits)
    {
        prefixes.v4 = prefix(digits, 32)?;
        rest = before;
    }
    if rest.is_empty() {
        return Some((None, prefixes));
    }
    let name = MacroString::parse_domain_spec(rest.strip_prefix(':')?)?;
    Some((Some(name), prefixes))
}

fn network<T: std::str::FromStr>(text: &str, max: u8) -> Option<(T, u8)> {
    match text.split_once('/') {
        Some((ip, digits)) => Some((ip.parse().ok()?, prefix(digits, max)?)),
        None => Some((text.parse().ok()?, max)),
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// A prefix length, without leading zeros. RFC 7208 §5.6.
fn prefix(digits: &str, max: u8) -> Option<u8> {
    let plain = is_number(digits) && (digits == "0" || !digits.starts_with('0'));
    let length = digits.parse().ok().filter(|_| plain)?;
    (length <= max).then_some(length)
}
