//! Certificates against TLSA records: which records can be used, and whether a chain matches one.
//!
//! | usage | selector | matching | can be used |
//! |---|---|---|---|
//! | 2 (DANE-TA), 3 (DANE-EE) | 0 (certificate), 1 (public key) | 0 (whole), 1 (SHA-256), 2 (SHA-512) | yes, if the data fits |
//! | 0, 1 | | | no: SMTP knows no common roots (RFC 7672 §3.1.3) |
//! | other | or other | or other | no |
//!
//! A record of usage 3 is about the server's own certificate: what it matches is believed, whatever name
//! and times are in it (RFC 7672 §3.1.1). One of usage 2 names a root: the server's certificate must chain
//! to it, now, and name the host (RFC 7672 §3.1.2, §3.2.2). The root is one of the certificates that the
//! server sends, or is in the record itself. Where it is a certificate, what it says of itself counts:
//! "the SMTP client SHOULD then apply any relevant constraints from the trust anchor certificate"
//! (RFC 7672 §3.1.2). So one that is over, is no authority's, or is too far from the leaf proves nothing;
//! Postfix sees it so too. A bare key has no such limits, and counts where no certificate with it was
//! sent (RFC 7671 §5.2.3).
//!
//! RFC 6698 §2.1, RFC 7671 §5 and §9, RFC 7672 §3.

use std::cell::Cell;

use rustls_pki_types::{CertificateDer, ServerName, SignatureVerificationAlgorithm, TrustAnchor};
use sha2::{Digest as _, Sha256, Sha512};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use super::{ClientTls, Flaw, FlawKind, Verdict};
use crate::dns::Tlsa;
use crate::time::UnixTime;

/// The TLSA records of a host that can be used. At least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Associations(Vec<Association>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Association {
    usage: Usage,
    selector: Selector,
    matching: Matching,
    data: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Usage {
    Anchor,
    EndEntity,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Selector {
    Certificate,
    PublicKey,
}

/// In the order of strength: of two digests the last one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Matching {
    Whole,
    Sha256,
    Sha512,
}

impl Associations {
    /// Those of these records that can be used for SMTP; none if none can.
    #[must_use]
    pub fn usable(records: &[Tlsa]) -> Option<Self> {
        let all: Vec<Association> = records.iter().filter_map(Association::new).collect();
        let strongest: Vec<Association> = all
            .iter()
            .filter(|one| !one.is_outdone_by(&all))
            .cloned()
            .collect();
        (!strongest.is_empty()).then_some(Self(strongest))
    }

    /// What the chain, leaf first, proves at this time for a host that may be called by any of these names.
    #[must_use]
    pub fn judge(
        &self,
        tls: &ClientTls,
        chain: &[CertificateDer<'_>],
        names: &[&str],
        at: UnixTime,
    ) -> Verdict {
        let Some((leaf, rest)) = chain.split_first() else {
            return Verdict::NotVerified(Flaw::new(
                FlawKind::Other,
                "the peer showed no certificate",
            ));
        };
        if self.of(Usage::EndEntity).any(|one| one.matches(leaf)) {
            return Verdict::Verified;
        }
        if self.of(Usage::Anchor).next().is_none() {
            let why = "no TLSA record matches the certificate";
            return Verdict::NotVerified(Flaw::new(FlawKind::Other, why));
        }
        let anchors = self.anchors(leaf, rest);
        if anchors.roots.is_empty() {
            let why = "no TLSA record matches the certificate or one that it chains to";
            return Verdict::NotVerified(Flaw::new(FlawKind::Other, why));
        }
        match anchors.vouch_for(leaf, rest, names, at, tls.algorithms.all) {
            Ok(()) => Verdict::Verified,
            Err(flaw) => Verdict::NotVerified(flaw),
        }
    }

    fn of(&self, usage: Usage) -> impl Iterator<Item = &Association> {
        self.0.iter().filter(move |one| one.usage == usage)
    }

    /// The roots that the records name. The leaf itself is none: a root is somebody who signed it.
    fn anchors<'c>(
        &'c self,
        leaf: &'c CertificateDer<'_>,
        rest: &'c [CertificateDer<'_>],
    ) -> Anchors<'c> {
        let mut anchors = Anchors::default();
        for cert in rest {
            if self.of(Usage::Anchor).any(|one| one.matches(cert)) {
                anchors.add(CertificateDer::from_slice(cert));
            }
        }
        let whole = |one: &&Association| one.matching == Matching::Whole;
        for one in self.of(Usage::Anchor).filter(whole) {
            match one.selector {
                Selector::Certificate => anchors.add(CertificateDer::from_slice(&one.data)),
                Selector::PublicKey if rest.iter().any(|cert| one.matches(cert)) => {}
                // A bare key has no name: it may have signed any certificate of the chain.
                Selector::PublicKey => {
                    let certs = std::iter::once(leaf).chain(rest);
                    let roots = certs.filter_map(|cert| signed_by(cert, &one.data));
                    anchors.roots.extend(roots.map(|root| (root, None)));
                }
            }
        }
        anchors
    }
}

impl Association {
    /// The record, if it can be used.
    fn new(record: &Tlsa) -> Option<Self> {
        let usage = match record.usage {
            2 => Usage::Anchor,
            3 => Usage::EndEntity,
            _ => return None,
        };
        let selector = match record.selector {
            0 => Selector::Certificate,
            1 => Selector::PublicKey,
            _ => return None,
        };
        let (matching, fits) = match record.matching {
            0 => (Matching::Whole, is_whole(selector, &record.data)),
            1 => (Matching::Sha256, record.data.len() == 32),
            2 => (Matching::Sha512, record.data.len() == 64),
            _ => return None,
        };
        fits.then(|| Self {
            usage,
            selector,
            matching,
            data: record.data.clone(),
        })
    }

    /// RFC 7671 §9: of the digests with one usage and selector only the strongest counts, so that it can
    /// take the place of a weaker one; a whole certificate or key is no digest.
    fn is_outdone_by(&self, all: &[Self]) -> bool {
        let rival = |other: &Self| other.usage == self.usage && other.selector == self.selector;
        self.matching != Matching::Whole
            && all
                .iter()
                .any(|other| rival(other) && other.matching > self.matching)
    }

    fn matches(&self, cert: &CertificateDer<'_>) -> bool {
        let key;
        let selected: &[u8] = match self.selector {
            Selector::Certificate => cert,
            Selector::PublicKey => {
                let Ok(parsed) = webpki::anchor_from_trusted_cert(cert) else {
                    return false;
                };
                key = webpki::spki_for_anchor(&parsed);
                &key
            }
        };
        match self.matching {
            Matching::Whole => selected == self.data,
            Matching::Sha256 => Sha256::digest(selected)[..] == self.data[..],
            Matching::Sha512 => Sha512::digest(selected)[..] == self.data[..],
        }
    }
}

/// Whether the data is a certificate or a key at all.
fn is_whole(selector: Selector, data: &[u8]) -> bool {
    match selector {
        Selector::Certificate => {
            webpki::anchor_from_trusted_cert(&CertificateDer::from_slice(data)).is_ok()
        }
        Selector::PublicKey => sequence(data).is_some_and(|content| !content.is_empty()),
    }
}

/// The content of a DER SEQUENCE that is all of `der`.
fn sequence(der: &[u8]) -> Option<&[u8]> {
    let (&[0x30, first], rest) = der.split_first_chunk::<2>()? else {
        return None;
    };
    let (length, content) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => {
            let (&[length], content) = rest.split_first_chunk::<1>()?;
            (usize::from(length), content)
        }
        0x82 => {
            let (length, content) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*length)), content)
        }
        _ => return None,
    };
    (content.len() == length).then_some(content)
}

/// The key as a root with the name of this certificate's issuer.
fn signed_by<'k>(cert: &CertificateDer<'_>, key: &'k [u8]) -> Option<TrustAnchor<'k>> {
    let issuer = EndEntityCert::try_from(cert).ok()?.issuer().to_vec();
    Some(TrustAnchor {
        subject: issuer.into(),
        subject_public_key_info: sequence(key)?.into(),
        name_constraints: None,
    })
}

/// The roots that TLSA records name, each with its certificate if there is one.
#[derive(Default)]
struct Anchors<'c> {
    roots: Vec<(TrustAnchor<'c>, Option<CertificateDer<'c>>)>,
}

impl<'c> Anchors<'c> {
    fn add(&mut self, cert: CertificateDer<'c>) {
        if let Ok(root) = webpki::anchor_from_trusted_cert(&cert) {
            let root = root.to_owned();
            self.roots.push((root, Some(cert)));
        }
    }

    /// Whether the leaf chains to one of the roots and has one of the names.
    fn vouch_for(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        names: &[&str],
        at: UnixTime,
        algorithms: &[&dyn SignatureVerificationAlgorithm],
    ) -> Result<(), Flaw> {
        let leaf = EndEntityCert::try_from(leaf).map_err(|error| flaw(&error))?;
        let roots: Vec<TrustAnchor<'_>> = self.roots.iter().map(|(root, _)| root.clone()).collect();
        let of_root = Cell::new(false);
        let vouches = |path: &VerifiedPath<'_>| {
            let judged = self.root_vouches(path, at, algorithms);
            of_root.set(judged.is_err());
            judged
        };
        leaf.verify_for_usage(
            algorithms,
            &roots,
            rest,
            super::setup::pki_time(at),
            KeyUsage::server_auth(),
            None,
            Some(&vouches),
        )
        .map_err(|error| {
            let mut flaw = flaw(&error);
            if of_root.get() {
                flaw.why = format!("the authority that the TLSA record names: {}", flaw.why);
            }
            flaw
        })?;
        let named = |name: &&str| {
            ServerName::try_from(*name)
                .is_ok_and(|name| leaf.verify_is_valid_for_subject_name(&name).is_ok())
        };
        if names.iter().any(named) {
            return Ok(());
        }
        let why = format!(
            "it is of the TLSA record's authority, and not for {}",
            names.join(" or ")
        );
        Err(Flaw::new(FlawKind::Name, &why))
    }

    /// Whether the root of this path may stand there by what its own certificate says.
    fn root_vouches(
        &self,
        path: &VerifiedPath<'_>,
        at: UnixTime,
        algorithms: &[&dyn SignatureVerificationAlgorithm],
    ) -> Result<(), webpki::Error> {
        let same = |(root, _): &&(TrustAnchor<'_>, _)| root == path.anchor();
        let mut judged = Err(webpki::Error::UnknownIssuer);
        // Two certificates of one key, as when an authority's was renewed: one that stands is enough.
        for (_, cert) in self.roots.iter().filter(same) {
            judged = match cert {
                Some(cert) => stands(path, cert, at, algorithms),
                None => Ok(()),
            };
            if judged.is_ok() {
                break;
            }
        }
        judged
    }
}

/// Whether this certificate may stand at the top of the path. The library judges an authority between the
/// leaf and a root, and never the root. So the root's certificate is made one in between, without anything
/// above it: all below it is verified, and any error but that nobody signed it is about itself.
fn stands(
    path: &VerifiedPath<'_>,
    root: &CertificateDer<'_>,
    at: UnixTime,
    algorithms: &[&dyn SignatureVerificationAlgorithm],
) -> Result<(), webpki::Error> {
    let between = path.intermediate_certificates().map(|cert| cert.der());
    let certs: Vec<CertificateDer<'_>> = between.chain([root.clone()]).collect();
    let judged = path.end_entity().verify_for_usage(
        algorithms,
        &[],
        &certs,
        super::setup::pki_time(at),
        KeyUsage::server_auth(),
        None,
        None,
    );
    match judged {
        Ok(_) | Err(webpki::Error::UnknownIssuer) => Ok(()),
        Err(error) => Err(error),
    }
}

fn flaw(error: &webpki::Error) -> Flaw {
    if matches!(error, webpki::Error::CertExpired { .. }) {
        Flaw::new(FlawKind::Time, "it has expired")
    } else if matches!(error, webpki::Error::CertNotValidYet { .. }) {
        Flaw::new(FlawKind::Time, "it is not valid yet")
    } else if matches!(error, webpki::Error::UnknownIssuer) {
        let why = "it does not chain to what the TLSA record names";
        Flaw::new(FlawKind::Trust, why)
    } else if matches!(error, webpki::Error::EndEntityUsedAsCa) {
        Flaw::new(FlawKind::Trust, "it is no authority's certificate")
    } else if matches!(error, webpki::Error::PathLenConstraintViolated) {
        let why = "it may not have that many authorities under it";
        Flaw::new(FlawKind::Trust, why)
    } else {
        Flaw::new(FlawKind::Other, &error.to_string())
    }
}

#[cfg(test)]
mod tests;
