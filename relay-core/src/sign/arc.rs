//! ARC sets of our own: what we saw of a message that goes on to others, sealed with a domain's key.
//!
//! ```text
//!  header ─▶ Sealing::begin ── push: the body ──▶ finish(what came before, what we saw) ─▶ three fields
//! ```
//!
//! The set stands above all that came: ARC-Seal, ARC-Message-Signature, ARC-Authentication-Results. The
//! message signature covers what a DKIM signature does, and the DKIM signatures that are there.
//!
//! RFC 8617 §4.1 (the fields), §5.1 (sealing).

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::canonical::{BodyHash, relaxed_field};
use super::field::{Selected, fold, fold_names};
use super::key::{Algorithm, Key};
use crate::config::{Config, SigningDomain, a_labels};
use crate::queue::message::Recipient;
use crate::time::UnixTime;

/// Names of the fields of a set.
const RESULTS: &str = "ARC-Authentication-Results";
const MESSAGE: &str = "ARC-Message-Signature";
const SEAL: &str = "ARC-Seal";

/// A message that will be sealed: its header is known, its body comes.
#[derive(Debug)]
pub(crate) struct Sealing {
    domain: Arc<SigningDomain>,
    header: Selected,
    body: BodyHash,
}

/// What a set follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Before {
    /// The relaxed forms of the sets that the seal covers.
    pub(crate) canonical: Vec<u8>,
    /// The instance of the new set, from 1.
    pub(crate) instance: usize,
    /// `cv=`
    pub(crate) chain: &'static str,
}

/// The domain that seals a message, if it goes on to others by a route with `forward`.
pub(crate) fn sealer(config: &Config, recipients: &[Recipient]) -> Option<Arc<SigningDomain>> {
    recipients.iter().find_map(|recipient| {
        let route = config.route_for(recipient.to.domain()?)?;
        let domain = route
            .forward
            .then(|| config.sealing_domain(&route.domain))??;
        Some(Arc::clone(domain))
    })
}

impl Sealing {
    /// Begins with the header block as it goes on; none if there is no key that seals, or too many
    /// fields to cover.
    pub(crate) fn begin(domain: Arc<SigningDomain>, header: &[u8]) -> Option<Self> {
        key(&domain)?;
        Some(Self {
            header: Selected::from_block_with(header, &["DKIM-Signature"])?,
            domain,
            body: BodyHash::new(),
        })
    }

    /// Takes a piece of the body.
    pub(crate) fn push(&mut self, body: &[u8]) {
        self.body.push(body);
    }

    /// The body is complete: the fields of the set, if the key signs. `results` is the value of
    /// Authentication-Results.
    pub(crate) fn finish(self, before: Before, results: &str, now: UnixTime) -> Option<String> {
        let (selector, key) = key(&self.domain)?;
        let Before {
            canonical: mut data,
            instance,
            chain,
        } = before;
        let domain = a_labels(&self.domain.name);
        let algorithm = key.algorithm();
        let common = format!("i={instance}; a={algorithm}; d={domain};\r\n\ts={selector};");

        let results = format!(" i={instance}; {results}\r\n");
        relaxed_field(&mut data, RESULTS.as_bytes(), results.as_bytes());

        let time = now.as_secs();
        let mut message = format!(" {common} t={time}; c=relaxed/relaxed;\r\n\th=");
        fold_names(&mut message, self.header.names());
        let body_hash = STANDARD.encode(self.body.finish());
        message.push_str(&format!("\r\n\tbh={body_hash};\r\n\tb="));
        let message = signed(MESSAGE, message, self.header.data(), key)?;
        relaxed_field(&mut data, MESSAGE.as_bytes(), message.as_bytes());

        let seal = format!(" {common} t={time}; cv={chain};\r\n\tb=");
        let seal = signed(SEAL, seal, &data, key)?;
        Some(format!(
            "{SEAL}:{seal}{MESSAGE}:{message}{RESULTS}:{results}"
        ))
    }
}

/// The value with its signature of `data` and of itself, up to its CRLF.
fn signed(name: &str, value: String, data: &[u8], key: &Key) -> Option<String> {
    let mut data = data.to_vec();
    relaxed_field(&mut data, name.as_bytes(), value.as_bytes());
    data.truncate(data.len() - "\r\n".len());
    let mut value = value;
    fold(&mut value, &STANDARD.encode(key.sign(&data).ok()?));
    Some(value)
}

/// The key that seals: an RSA one if there is one, since a set has one signature that all must know.
fn key(domain: &SigningDomain) -> Option<(&str, &Key)> {
    let is_rsa = |(_, key): &(&str, &Key)| matches!(key.algorithm(), Algorithm::Rsa { .. });
    let rsa = domain.signing_keys().find(is_rsa);
    rsa.or_else(|| domain.signing_keys().next())
}
