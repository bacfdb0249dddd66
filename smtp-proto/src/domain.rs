//! Domains and address literals: where a mailbox lives, and what a host calls itself.
//!
//! Implements RFC 5321 §4.1.2 (`Domain`), §4.1.3 (address literals), §4.5.3.1.2 (255 octets),
//! and RFC 6531 §3.3 (U-labels).

use core::cmp::Ordering;
use core::fmt;
use core::hash::{Hash, Hasher};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

use smol_str::SmolStr;

use crate::octets;

/// The longest domain, in octets. RFC 5321 §4.5.3.1.2.
pub const DOMAIN_MAX: usize = 255;
/// The longest label, in octets. RFC 1035 §2.3.4.
pub const LABEL_MAX: usize = 63;

/// A domain name: dot-separated labels of letters, digits and inner hyphens, or U-labels.
///
/// It keeps the case it was written in, and compares without regard to ASCII case. One of up to 23
/// octets is held in place, without an allocation.
#[derive(Clone)]
pub struct Domain(SmolStr);

/// Why a text is not a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainError {
    /// Nothing there, or nothing between two dots.
    EmptyLabel,
    /// Over 255 octets.
    TooLong,
    /// A label over 63 octets.
    LabelTooLong,
    /// A label that begins or ends with a hyphen.
    Hyphen,
    /// A character that no domain holds.
    Character,
    /// Non-ASCII, and that was not allowed.
    NotAscii,
}

impl fmt::Display for DomainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EmptyLabel => "a domain label is empty",
            Self::TooLong => "the domain is longer than 255 octets",
            Self::LabelTooLong => "a domain label is longer than 63 octets",
            Self::Hyphen => "a domain label begins or ends with a hyphen",
            Self::Character => "the domain holds a character other than a letter, digit or hyphen",
            Self::NotAscii => "the domain is not ASCII; that needs SMTPUTF8",
        })
    }
}

impl core::error::Error for DomainError {}

impl Domain {
    /// Reads an ASCII domain (A-labels included).
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, DomainError> {
        if !text.is_ascii() {
            return Err(DomainError::NotAscii);
        }
        Self::parse_utf8(text)
    }

    /// Reads a domain whose labels may be U-labels. RFC 6531 §3.3.
    ///
    /// Of a U-label only its form is checked here, not IDNA2008.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub fn parse_utf8(text: &str) -> Result<Self, DomainError> {
        check(text)?;
        Ok(Self(text.into()))
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it can be sent without SMTPUTF8.
    #[must_use]
    pub fn is_ascii(&self) -> bool {
        self.0.is_ascii()
    }

    /// Whether this is `other` or a name under it.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        let (name, zone) = (self.0.as_bytes(), other.0.as_bytes());
        let Some(cut) = name.len().checked_sub(zone.len()) else {
            return false;
        };
        name[cut..].eq_ignore_ascii_case(zone) && (cut == 0 || name[cut - 1] == b'.')
    }

    /// The same domain in lower case (ASCII letters only), for use as a key.
    #[must_use]
    pub fn to_lowercase(&self) -> Self {
        Self(self.0.to_ascii_lowercase().into())
    }
}

fn check(text: &str) -> Result<(), DomainError> {
    if text.len() > DOMAIN_MAX {
        return Err(DomainError::TooLong);
    }
    let mut rest = text.as_bytes();
    loop {
        let (label, after) = rest.split_at(octets::LABEL.prefix(rest));
        match after {
            [] => {
                check_label(label)?;
                break;
            }
            [b'.', after @ ..] => {
                check_label(label)?;
                rest = after;
            }
            _ => return Err(DomainError::Character),
        }
    }
    let u_labels = || text.chars().filter(|c| !c.is_ascii()).all(is_u_label_char);
    if text.is_ascii() || u_labels() {
        Ok(())
    } else {
        Err(DomainError::Character)
    }
}

/// Whether letters, digits and hyphens are a label.
pub(crate) fn is_label(label: &[u8]) -> bool {
    check_label(label).is_ok()
}

fn check_label(label: &[u8]) -> Result<(), DomainError> {
    let (Some(first), Some(last)) = (label.first(), label.last()) else {
        return Err(DomainError::EmptyLabel);
    };
    if label.len() > LABEL_MAX {
        return Err(DomainError::LabelTooLong);
    }
    if *first == b'-' || *last == b'-' {
        return Err(DomainError::Hyphen);
    }
    Ok(())
}

/// Control and space characters above ASCII are in no U-label; nor are the other full stops that
/// IDNA maps to a dot, which would otherwise hide a label boundary.
fn is_u_label_char(c: char) -> bool {
    !c.is_control() && !c.is_whitespace() && !matches!(c, '\u{3002}' | '\u{ff0e}' | '\u{ff61}')
}

impl FromStr for Domain {
    type Err = DomainError;

    fn from_str(text: &str) -> Result<Self, DomainError> {
        Self::parse(text)
    }
}

impl PartialEq for Domain {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for Domain {}

impl Hash for Domain {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for byte in self.0.bytes() {
            state.write_u8(byte.to_ascii_lowercase());
        }
        state.write_u8(0xff);
    }
}

impl Ord for Domain {
    fn cmp(&self, other: &Self) -> Ordering {
        let lower = |text: &Self, at: usize| text.0.as_bytes()[at].to_ascii_lowercase();
        let shared = self.0.len().min(other.0.len());
        (0..shared)
            .map(|at| lower(self, at).cmp(&lower(other, at)))
            .find(|order| order.is_ne())
            .unwrap_or_else(|| self.0.len().cmp(&other.0.len()))
    }
}

impl PartialOrd for Domain {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// An IP address in brackets, such as `[192.0.2.1]` or `[IPv6:2001:db8::1]`. RFC 5321 §4.1.3.
///
/// `General-address-literal` has no registered tag, so there is none to accept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressLiteral(IpAddr);

/// The text is not an IPv4 or IPv6 address literal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiteralError;

impl fmt::Display for LiteralError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an address literal, such as [192.0.2.1] or [IPv6:2001:db8::1]")
    }
}

impl core::error::Error for LiteralError {}

impl AddressLiteral {
    /// Reads a literal with its brackets.
    ///
    /// # Errors
    /// If the text is anything but one IPv4 or IPv6 address literal.
    pub fn parse(text: &str) -> Result<Self, LiteralError> {
        let inner = text
            .strip_prefix('[')
            .and_then(|t| t.strip_suffix(']'))
            .ok_or(LiteralError)?;
        let (tag, address) = match inner.split_at_checked(5) {
            Some((tag, rest)) if tag.eq_ignore_ascii_case("IPv6:") => (true, rest),
            Some(_) | None => (false, inner),
        };
        if tag {
            parse_ipv6(address)
                .map(|ip| Self(IpAddr::V6(ip)))
                .ok_or(LiteralError)
        } else {
            let ip: Ipv4Addr = address.parse().map_err(|_| LiteralError)?;
            Ok(Self(IpAddr::V4(ip)))
        }
    }

    /// The address.
    #[must_use]
    pub const fn ip(self) -> IpAddr {
        self.0
    }
}

/// RFC 5321 §4.1.3: `::` "represents at least 2 16-bit groups of zeros"; the standard library also
/// takes it for one.
fn parse_ipv6(text: &str) -> Option<Ipv6Addr> {
    let address: Ipv6Addr = text.parse().ok()?;
    if text.contains("::") {
        let groups: usize = text
            .split(':')
            .filter(|group| !group.is_empty())
            .map(|group| if group.contains('.') { 2 } else { 1 })
            .sum();
        if groups > 6 {
            return None;
        }
    }
    Some(address)
}

impl From<IpAddr> for AddressLiteral {
    fn from(ip: IpAddr) -> Self {
        Self(ip)
    }
}

impl FromStr for AddressLiteral {
    type Err = LiteralError;

    fn from_str(text: &str) -> Result<Self, LiteralError> {
        Self::parse(text)
    }
}

impl fmt::Display for AddressLiteral {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(ip) => write!(f, "[{ip}]"),
            IpAddr::V6(ip) => write!(f, "[IPv6:{ip}]"),
        }
    }
}

impl fmt::Debug for AddressLiteral {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A host as SMTP names it: by domain or by address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// `example.com`
    Domain(Domain),
    /// `[192.0.2.1]`
    Literal(AddressLiteral),
}

/// The text is neither a domain nor an address literal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostError {
    /// It does not begin with a bracket, and is not a domain.
    Domain(DomainError),
    /// It begins with a bracket, and is not a literal.
    Literal(LiteralError),
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Domain(error) => error.fmt(f),
            Self::Literal(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for HostError {}

impl Host {
    /// Reads an ASCII domain or an address literal.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        if !text.is_ascii() && !text.starts_with('[') {
            return Err(HostError::Domain(DomainError::NotAscii));
        }
        Self::parse_utf8(text)
    }

    /// Reads a domain whose labels may be U-labels, or an address literal.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub fn parse_utf8(text: &str) -> Result<Self, HostError> {
        HostRef::parse_utf8(text).map(HostRef::to_host)
    }

    /// The domain, if it is one.
    #[must_use]
    pub fn domain(&self) -> Option<&Domain> {
        match self {
            Self::Domain(domain) => Some(domain),
            Self::Literal(_) => None,
        }
    }

    /// Whether it can be sent without SMTPUTF8.
    #[must_use]
    pub fn is_ascii(&self) -> bool {
        self.domain().is_none_or(Domain::is_ascii)
    }
}

/// A [`Host`] that borrows the octets it was read from.
#[derive(Clone, Copy)]
pub(crate) enum HostRef<'a> {
    /// A valid domain, in UTF-8.
    Domain(&'a [u8]),
    /// An address.
    Literal(AddressLiteral),
}

impl<'a> HostRef<'a> {
    /// As [`Host::parse_utf8`].
    pub(crate) fn parse_utf8(text: &'a str) -> Result<Self, HostError> {
        if text.starts_with('[') {
            AddressLiteral::parse(text)
                .map(Self::Literal)
                .map_err(HostError::Literal)
        } else {
            check(text)
                .map(|()| Self::Domain(text.as_bytes()))
                .map_err(HostError::Domain)
        }
    }

    pub(crate) fn to_host(self) -> Host {
        match self {
            Self::Domain(domain) => {
                // It was read from text, or octet by octet from ASCII.
                let domain = core::str::from_utf8(domain).unwrap_or_default();
                Host::Domain(Domain(domain.into()))
            }
            Self::Literal(literal) => Host::Literal(literal),
        }
    }
}

impl From<Domain> for Host {
    fn from(domain: Domain) -> Self {
        Self::Domain(domain)
    }
}

impl From<AddressLiteral> for Host {
    fn from(literal: AddressLiteral) -> Self {
        Self::Literal(literal)
    }
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        Self::parse(text)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Domain(domain) => domain.fmt(f),
            Self::Literal(literal) => literal.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::ToString;

    #[test]
    fn domains_are_checked() {
        let label = "a".repeat(63);
        let long = format!("{label}.{label}.{label}.{}", "b".repeat(63));
        for good in [
            "a",
            "example.com",
            "c--n.com",
            "iana.123",
            "xn--hxajbheg2az3al.xn--jxalpdlp",
            &long,
        ] {
            assert_eq!(Domain::parse(good).unwrap().to_string(), *good);
        }
        for (bad, error) in [
            ("", DomainError::EmptyLabel),
            (".a", DomainError::EmptyLabel),
            ("a.", DomainError::EmptyLabel),
            ("a..b", DomainError::EmptyLabel),
            ("-a.b", DomainError::Hyphen),
            ("a-.b", DomainError::Hyphen),
            ("a_b.c", DomainError::Character),
            ("a b", DomainError::Character),
            ("a\0b", DomainError::Character),
            ("bücher.example", DomainError::NotAscii),
            (&format!("{label}a.b"), DomainError::LabelTooLong),
            (&format!("{long}c"), DomainError::TooLong),
        ] {
            assert_eq!(Domain::parse(bad), Err(error), "{bad:?}");
        }
        assert!(!Domain::parse_utf8("bücher.example").unwrap().is_ascii());
        assert_eq!(
            Domain::parse_utf8("a\u{3002}b"),
            Err(DomainError::Character)
        );
    }

    #[test]
    fn domains_compare_without_case() {
        let (a, b) = (
            Domain::parse("Example.COM").unwrap(),
            Domain::parse("example.com").unwrap(),
        );
        assert_eq!(a, b);
        assert_eq!(a.cmp(&b), Ordering::Equal);
        assert_eq!(a.as_str(), "Example.COM");
        assert!(Domain::parse("a.example.com").unwrap().is_within(&a));
        assert!(!Domain::parse("aexample.com").unwrap().is_within(&a));
    }

    #[test]
    fn literals_round_trip() {
        for text in [
            "[192.0.2.1]",
            "[IPv6:2001:db8::1]",
            "[IPv6:::]",
            "[IPv6:::ffff:192.0.2.1]",
        ] {
            assert_eq!(AddressLiteral::parse(text).unwrap().to_string(), text);
        }
        for bad in [
            "[]",
            "[1.2.3]",
            "[1.2.3.256]",
            "[2001:db8::1]",
            "[IPv6:1.2.3.4]",
            "192.0.2.1",
            "[192.0.2.1",
            "[tag:abc]",
            "[IPv6:1:2:3:4:5:6::8]",
            "[IPv6:1:2:3:4:5::1.2.3.4]",
            "[01.2.3.4]",
        ] {
            assert!(AddressLiteral::parse(bad).is_err(), "{bad:?}");
        }
    }
}
