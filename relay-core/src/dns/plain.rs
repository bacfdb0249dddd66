//! Questions whose answer is taken as it stands: what a zone says, without the rules of delivery.
//!
//! There is no implicit MX here and no null one, no family that the configuration leaves out, and a
//! name may hold any printable octet: that is how SPF asks (RFC 7208 §7.3 makes names of local parts).

use std::net::IpAddr;
use std::sync::Arc;

use super::query::Asks;
use super::records::{Data, RecordKind};
use super::{DnsFailure, Query, RecordSet, name};

/// What is asked for, and of whom.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Question {
    /// The TXT records of a name.
    Txt(String),
    /// The IPv4 addresses of a name.
    A(String),
    /// The IPv6 addresses of a name.
    Aaaa(String),
    /// The mail exchangers of a name.
    Mx(String),
    /// The names of an address.
    Ptr(IpAddr),
}

/// The records that answer a [`Question`]. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Records(Vec<Data>);

impl Records {
    /// TXT records, for a program that asks a resolver of its own.
    #[must_use]
    pub fn from_texts(texts: impl IntoIterator<Item = Vec<u8>>) -> Self {
        Self(texts.into_iter().map(Data::Text).collect())
    }

    /// Addresses, likewise.
    #[must_use]
    pub fn from_addresses(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        Self(addresses.into_iter().map(Data::Address).collect())
    }

    /// Mail exchangers, the best first, or the names of an address, likewise.
    #[must_use]
    pub fn from_names(names: impl IntoIterator<Item = String>) -> Self {
        Self(names.into_iter().map(Data::Name).collect())
    }

    /// TXT records, each one's strings joined.
    pub fn texts(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().filter_map(|data| match data {
            Data::Text(text) => Some(text.as_slice()),
            Data::Address(_) | Data::Mx(..) | Data::Name(_) | Data::Tlsa(_) => None,
        })
    }

    /// Addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.0.iter().filter_map(|data| match data {
            Data::Address(ip) => Some(*ip),
            Data::Text(_) | Data::Mx(..) | Data::Name(_) | Data::Tlsa(_) => None,
        })
    }

    /// Mail exchangers, the best first, or the names of an address.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.0.iter().filter_map(|data| match data {
            Data::Mx(_, name) | Data::Name(name) => Some(unescape(name)),
            Data::Address(_) | Data::Text(_) | Data::Tlsa(_) => None,
        })
    }

    fn read(_: &str, found: Vec<Result<RecordSet, DnsFailure>>) -> Result<Self, DnsFailure> {
        super::single(found).map(|set| Self(set.data))
    }
}

/// A name as it is asked for: octets that no host has were escaped (`\058`) where it was read, so that
/// it passes for no other name. Those that are printed are put back, but for the two that mean something.
fn unescape(name: &str) -> String {
    let mut parts = name.split('\\');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let octet = part.get(..3).and_then(|digits| digits.parse::<u8>().ok());
        match octet {
            Some(octet @ b' '..=b'~') if octet != b'.' && octet != b'\\' => {
                text.push(char::from(octet));
                text.push_str(&part[3..]);
            }
            Some(_) | None => {
                text.push('\\');
                text.push_str(part);
            }
        }
    }
    text
}

impl Query<Records> {
    /// The records that a question is about.
    #[must_use]
    pub fn plain(question: &Question) -> Self {
        let (name, kind) = match question {
            Question::Txt(name) => (name::to_any_name(name), RecordKind::Txt),
            Question::A(name) => (name::to_any_name(name), RecordKind::A),
            Question::Aaaa(name) => (name::to_any_name(name), RecordKind::Aaaa),
            Question::Mx(name) => (name::to_any_name(name), RecordKind::Mx),
            Question::Ptr(ip) => (Ok(name::reverse(*ip)), RecordKind::Ptr),
        };
        Self {
            name: name.map(Arc::from).map_err(str::to_owned),
            asks: Asks::One(kind),
            read: Records::read,
        }
    }
}
