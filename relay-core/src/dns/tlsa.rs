//! What DANE asks of DNS: the TLSA records of a host, and whether a host's name is an alias.
//!
//! RFC 6698 §2 (the record), RFC 7672 §2.2.2 (aliases).

use std::fmt;

use super::cache::RecordSet;
use super::records::Data;
use super::{AllFound, DnsFailure, single};

/// TLSA records: at least one, though perhaps only such as are too short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsaSet {
    /// Those that have all their fields, usable or not.
    pub records: Vec<Tlsa>,
    /// How many others there are, with fewer octets than a record has.
    pub malformed: usize,
    /// As in [`super::MxSet::authentic`].
    pub authentic: bool,
}

/// A CNAME record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alias {
    /// What it leads to.
    pub target: String,
    /// As in [`super::MxSet::authentic`].
    pub authentic: bool,
}

/// One TLSA record. RFC 6698 §2.1.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tlsa {
    /// Certificate usage.
    pub usage: u8,
    /// Selector.
    pub selector: u8,
    /// Matching type.
    pub matching: u8,
    /// Certificate association data.
    pub data: Vec<u8>,
}

/// The answer to the search for a host's TLSA records.
pub type TlsaAnswer = Result<TlsaSet, DnsFailure>;

/// The answer to the question what a name is an alias of.
pub type AliasAnswer = Result<Alias, DnsFailure>;

impl TlsaSet {
    pub(super) fn read(_: &str, found: AllFound) -> Result<Self, DnsFailure> {
        let RecordSet {
            data, authentic, ..
        } = single(found)?;
        let all = data.len();
        let records: Vec<Tlsa> = data
            .into_iter()
            .filter_map(|data| match data {
                Data::Tlsa(rdata) => Tlsa::from_rdata(&rdata),
                Data::Address(_) | Data::Mx(..) | Data::Text(_) | Data::Name(_) => None,
            })
            .collect();
        Ok(Self {
            malformed: all - records.len(),
            records,
            authentic,
        })
    }
}

impl Tlsa {
    /// A record's content; none if it is too short to have all fields. RFC 6698 §2.1.
    #[must_use]
    pub fn from_rdata(rdata: &[u8]) -> Option<Self> {
        let (&[usage, selector, matching], data) = rdata.split_first_chunk::<3>()?;
        Some(Self {
            usage,
            selector,
            matching,
            data: data.to_vec(),
        })
    }
}

/// `3 1 1 0d6fce13..`, in the form of RFC 6698 §2.2.
impl fmt::Display for Tlsa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} ", self.usage, self.selector, self.matching)?;
        self.data
            .iter()
            .try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl Alias {
    pub(super) fn read(_: &str, found: AllFound) -> Result<Self, DnsFailure> {
        let RecordSet {
            data, authentic, ..
        } = single(found)?;
        let target = data.into_iter().find_map(|data| match data {
            Data::Name(target) => Some(target),
            Data::Address(_) | Data::Mx(..) | Data::Text(_) | Data::Tlsa(_) => None,
        });
        Ok(Self {
            target: target.ok_or(DnsFailure::NoRecord)?,
            authentic,
        })
    }
}
