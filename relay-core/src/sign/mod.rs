//! DKIM signatures: which domain signs a message, with which keys, over what.
//!
//! ```text
//!  header block ──▶ Signing::begin ── the From domain has keys ──▶ Signing ◀── push: the body, in pieces
//!                        │                                           │
//!                        └──▶ Unsigned, and why                      └── finish ──▶ Signed: header fields
//! ```
//!
//! | part | what it owns |
//! |---|---|
//! | `align` | which domain speaks for an author |
//! | `canonical` | the relaxed forms of header fields and of a body that comes in pieces |
//! | `field` | which fields are signed, and the DKIM-Signature field itself |
//! | `arc` | the same for mail of others that goes on: ARC sets |
//! | [`publication`] | when a new key may sign |
//! | [`Key`] | a private key, its algorithm, its DNS record |
//!
//! Every key of the domain signs every message. The signatures stand before all that was stored of the
//! message, so that the body is hashed while it passes and its octets are never touched again: see
//! [`Message::prefix`](crate::queue::message::Message::prefix).
//!
//! What a signature says: `c=relaxed/relaxed`, `d=` the domain of From or one above it, so that DMARC
//! finds it aligned; `h=` lists each field that makes the message once more than it is there, so that
//! nobody can add another; no `l=`, so that nobody can add to the body; `t=` from [`UnixTime`].
//!
//! While a message comes in, this holds the header fields that are signed (at most the header block)
//! and one hash.
//!
//! RFC 6376 (DKIM), RFC 8301 (no key under 1024 bits; we ask for 2048), RFC 8463 (Ed25519), RFC 7489
//! §3.1.1 (alignment).

mod align;
mod arc;
pub(crate) mod canonical;
mod field;
mod key;
pub mod publication;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

pub(crate) use arc::{Before, Sealing, sealer};
pub use key::{Algorithm, Key, KeyError, RSA_BITS_MIN};

use crate::config::{KeyState, SigningDomain, a_labels};
use crate::inbound::body::{Author, HeaderFilter};
use crate::queue::message::{Body, BodyKind};
use crate::time::UnixTime;
use canonical::BodyHash;
use field::Selected;

/// A message that is being signed: its header is known, its body comes.
#[derive(Debug)]
pub struct Signing {
    domain: Arc<SigningDomain>,
    header: Selected,
    body: BodyHash,
}

/// A signed message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The DKIM-Signature fields, to be put before the header block.
    pub fields: Bytes,
    /// Who signed, for events: `example.com: r1 rsa-sha256, e1 ed25519-sha256`.
    pub by: String,
}

/// Why a message leaves without a signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unsigned {
    /// No domain has keys: nobody asked for signatures.
    NotConfigured,
    /// From names this domain, and neither it nor one above it has keys.
    NoKeys(String),
    /// The keys of this domain wait for their records in the DNS.
    NotPublished(String),
    /// From names no mailbox that a signature could vouch for, or mailboxes that no one domain covers.
    NoAuthor,
    /// The body is binary: what stands alone in it (CR, LF) verifiers read in different ways.
    Binary,
    /// More fields than a signature should list.
    TooManyFields,
    /// The key of this selector did not sign.
    Failed(String),
}

impl fmt::Display for Unsigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotConfigured => f.write_str("no [[domain]] has keys"),
            Self::NoKeys(from) => write!(f, "no [[domain]] with keys is {from} or above it"),
            Self::NotPublished(domain) => {
                write!(f, "the keys of {domain} wait for their DNS records")
            }
            Self::NoAuthor => f.write_str("From names no domain, or several"),
            Self::Binary => f.write_str("the body is binary"),
            Self::TooManyFields => f.write_str("too many header fields"),
            Self::Failed(selector) => write!(f, "the key of selector {selector} failed"),
        }
    }
}

impl std::error::Error for Unsigned {}

impl Signing {
    /// Begins with a complete header block of lines that end in CRLF, and the authors that it names.
    ///
    /// # Errors
    /// [`Unsigned`] if there is nobody to sign it.
    pub fn begin(
        domains: &[Arc<SigningDomain>],
        from: &Author,
        header: &[u8],
    ) -> Result<Self, Unsigned> {
        let domain = align::signer(domains, from)?;
        Ok(Self {
            domain,
            header: Selected::from_block(header).ok_or(Unsigned::TooManyFields)?,
            body: BodyHash::new(),
        })
    }

    /// Takes a piece of the body.
    pub fn push(&mut self, body: &[u8]) {
        self.body.push(body);
    }

    /// The body is complete.
    ///
    /// # Errors
    /// [`Unsigned`] if it cannot be signed after all.
    pub fn finish(self, kind: BodyKind, now: UnixTime) -> Result<Signed, Unsigned> {
        if kind == BodyKind::Binary {
            return Err(Unsigned::Binary);
        }
        let body_hash = self.body.finish();
        let name = a_labels(&self.domain.name);
        let (mut fields, mut by) = (Vec::new(), Vec::new());
        for (selector, key) in self.domain.signing_keys() {
            let signature = field::Signature {
                domain: &name,
                selector,
                time: now,
                body_hash: &body_hash,
            };
            signature
                .write(&mut fields, &self.header, key)
                .map_err(|_| Unsigned::Failed(selector.to_owned()))?;
            by.push(format!("{selector} {}", key.algorithm()));
        }
        Ok(Signed {
            fields: fields.into(),
            by: format!("{name}: {}", by.join(", ")),
        })
    }
}

/// What events say of a message's signatures; nothing where nobody asked for any.
#[must_use]
pub fn told(result: &Result<Signed, Unsigned>) -> Option<String> {
    match result {
        Ok(signed) => Some(signed.by.clone()),
        Err(Unsigned::NotConfigured) => None,
        Err(why) => Some(format!("unsigned: {why}")),
    }
}

/// Signs a message that is complete and in memory: one of the relay's own.
///
/// # Errors
/// [`Unsigned`]
pub fn sign(
    domains: &[Arc<SigningDomain>],
    message: &[u8],
    kind: BodyKind,
    now: UnixTime,
) -> Result<Signed, Unsigned> {
    let mut filter = HeaderFilter::new();
    let body = filter.push(message);
    filter.finish();
    let headers = filter.headers().ok_or(Unsigned::NoAuthor)?;
    let mut signing = Signing::begin(domains, headers.from(), headers.kept())?;
    signing.push(body);
    signing.finish(kind, now)
}

impl crate::engine::Submission {
    /// Puts signatures before one of the relay's own messages, if its domain has keys.
    pub fn sign(&mut self, domains: &[Arc<SigningDomain>], now: UnixTime) {
        let Body::Memory(bytes) = &self.body else {
            return;
        };
        let result = sign(domains, bytes, self.envelope.body, now);
        self.dkim = told(&result);
        if let Ok(signed) = result {
            self.put_before(signed.fields);
        }
    }

    /// Puts header fields before the message.
    pub(crate) fn put_before(&mut self, fields: Bytes) {
        debug_assert!(self.prefix.is_empty(), "a message is signed once");
        self.size += fields.len() as u64;
        let len = u32::try_from(fields.len()).unwrap_or(u32::MAX);
        self.header_size = self.header_size.saturating_add(len);
        self.prefix = fields;
    }
}

impl SigningDomain {
    /// The keys that sign now, each with its selector.
    fn signing_keys(&self) -> impl Iterator<Item = (&str, &Key)> {
        self.keys
            .iter()
            .filter(|key| key.state == KeyState::Signing)
            .filter_map(|key| Some((key.selector.as_str(), key.key.as_ref()?)))
    }

    /// Whether it can sign.
    fn has_keys(&self) -> bool {
        self.signing_keys().next().is_some()
    }
}
