//! Who may send, from where, and under which names.

use std::net::IpAddr;

use ipnet::IpNet;
use smtp_proto::{Domain, Mailbox};

use super::Rate;
use crate::channel::ClientIdentity;
use crate::sasl::Verifier;

/// One `[[credential]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The user's name.
    pub name: String,
    /// The stored verifier (RFC 5803); none for a `trusted_as` name or an external check.
    pub verifier: Option<Verifier>,
    /// Client certificates that prove it, by AUTH EXTERNAL. RFC 4422 Appendix A.
    pub certificates: Vec<CertificatePattern>,
    /// What MAIL FROM and From: may be.
    pub senders: Vec<SenderPattern>,
    /// Where it may connect from; empty for anywhere.
    pub networks: Vec<IpNet>,
    /// Messages over time.
    pub rate: Option<Rate>,
}

impl Credential {
    /// A credential that may send as anyone from anywhere, with no verifier and no rate.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            verifier: None,
            certificates: Vec::new(),
            senders: vec![SenderPattern::Any],
            networks: anywhere(),
            rate: None,
        }
    }

    /// Whether it may send as this mailbox.
    #[must_use]
    pub fn allows(&self, mailbox: &Mailbox) -> bool {
        self.senders.iter().any(|pattern| pattern.allows(mailbox))
    }

    /// Whether what proved the other one proves this one.
    #[must_use]
    pub fn is_proved_like(&self, other: &Self) -> bool {
        self.verifier == other.verifier && self.certificates == other.certificates
    }

    /// Whether it may connect from this address.
    #[must_use]
    pub fn allows_from(&self, address: IpAddr) -> bool {
        self.networks.is_empty() || contains(&self.networks, address)
    }
}

/// Every address.
pub(super) fn anywhere() -> Vec<IpNet> {
    ["0.0.0.0/0", "::/0"]
        .iter()
        .filter_map(|net| net.parse().ok())
        .collect()
}

/// Whether an address is in one of the networks. IPv4 is the same in its IPv6-mapped form, as sockets
/// that listen for both families show it.
pub(super) fn contains(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

/// An entry of `certificates`: what a client certificate, verified by the listener's `client_ca`, must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificatePattern {
    /// `sha256:…`: this very certificate, by the digest of its DER form.
    Sha256([u8; 32]),
    /// `dns:app.example.com`: one with this name among its subject alternative names.
    Dns(Domain),
    /// `uri:spiffe://example.com/app`: the same with a URI.
    Uri(String),
}

impl CertificatePattern {
    /// Whether a certificate fits.
    #[must_use]
    pub fn fits(&self, certificate: &ClientIdentity) -> bool {
        match self {
            Self::Sha256(digest) => *digest == certificate.sha256,
            Self::Dns(domain) => {
                let wanted = a_labels(domain);
                let names = certificate.dns_names.iter();
                names
                    .into_iter()
                    .any(|name| name.eq_ignore_ascii_case(&wanted))
            }
            Self::Uri(uri) => certificate.uris.contains(uri),
        }
    }
}

impl std::fmt::Display for CertificatePattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sha256(digest) => {
                f.write_str("sha256:")?;
                digest.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
            }
            Self::Dns(domain) => write!(f, "dns:{domain}"),
            Self::Uri(uri) => write!(f, "uri:{uri}"),
        }
    }
}

/// An entry of `senders`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SenderPattern {
    /// `*`
    Any,
    /// `example.com`: every address in it, not in its subdomains.
    Domain(Domain),
    /// `news@example.org`
    Address(Mailbox),
}

impl SenderPattern {
    /// Whether the mailbox is covered. Letter case does not matter, and neither does the form of an
    /// international domain.
    #[must_use]
    pub fn allows(&self, mailbox: &Mailbox) -> bool {
        let same_domain = |domain: &Domain| {
            mailbox
                .domain()
                .is_some_and(|other| a_labels(other) == a_labels(domain))
        };
        match self {
            Self::Any => true,
            Self::Domain(domain) => same_domain(domain),
            Self::Address(address) => {
                let same_host = match address.domain() {
                    Some(domain) => same_domain(domain),
                    None => address.host() == mailbox.host(),
                };
                let (ours, theirs) = (address.local_part_chars(), mailbox.local_part_chars());
                same_host && lower(ours).eq(lower(theirs))
            }
        }
    }
}

impl std::fmt::Display for SenderPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Domain(domain) => domain.fmt(f),
            Self::Address(address) => std::fmt::Display::fmt(address, f),
        }
    }
}

fn lower(chars: impl Iterator<Item = char>) -> impl Iterator<Item = char> {
    chars.flat_map(char::to_lowercase)
}

/// A domain in lower case and A-labels, as the DNS knows it; as it is, if it has no such form.
pub(crate) fn a_labels(domain: &Domain) -> String {
    a_labels_of(domain.as_str())
}

/// [`a_labels`] of a name that may be no domain.
pub(crate) fn a_labels_of(name: &str) -> String {
    if name.is_ascii() {
        return name.to_ascii_lowercase();
    }
    idna::domain_to_ascii(name).unwrap_or_else(|_| name.to_lowercase())
}

/// Whether a domain is another or one under it.
pub(crate) fn is_or_is_under(name: &Domain, domain: &Domain) -> bool {
    let (name, domain) = (a_labels(name), a_labels(domain));
    let rest = name.strip_suffix(&domain);
    rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
