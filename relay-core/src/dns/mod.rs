//! Names: a stub resolver as a machine of datagrams, its cache, and the answers that delivery needs.

use std::net::IpAddr;

/// One mail exchanger.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mx {
    /// Lower is tried first.
    pub preference: u16,
    /// The host's name, in A-labels, lower case, without the last dot.
    pub host: String,
}

/// The mail exchangers of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MxSet {
    /// By preference, then by name. Never empty.
    pub hosts: Vec<Mx>,
    /// The domain has no MX record, and stands for itself. RFC 5321 §5.1.
    pub implicit: bool,
    /// Every answer on the way had the AD bit, from a resolver that the configuration trusts.
    pub authentic: bool,
}

/// The addresses of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// In the order of the answer, AAAA and A as the configuration allows. Never empty.
    pub addresses: Vec<IpAddr>,
    /// As in [`MxSet::authentic`].
    pub authentic: bool,
    /// The name after CNAMEs, if it was one.
    pub canonical: Option<String>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DnsFailure {
    /// NXDOMAIN: the name does not exist. 5.1.2.
    NoSuchDomain,
    /// The name exists and has no record of this kind.
    NoRecord,
    /// `MX 0 .`: the domain takes no mail. RFC 7505; 5.1.10.
    NullMx,
    /// The name cannot be asked for (too long, bad label, bad U-label), or its CNAMEs loop. Permanent.
    BadName(String),
    /// SERVFAIL, REFUSED, no answer in time, nonsense: try later. The text names server and reason.
    Temporary(String),
}

/// The answer to the search for mail exchangers.
pub type MxAnswer = Result<MxSet, DnsFailure>;

/// The answer to the search for a host's addresses.
pub type AddressAnswer = Result<Addresses, DnsFailure>;
