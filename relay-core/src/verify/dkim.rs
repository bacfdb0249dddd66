//! DKIM: whether a domain vouches for a message.
//!
//! RFC 6376 §6 (verifying), RFC 8601 §2.7.1 (the words for what came out).

use std::fmt;

use super::body::Hashes;
use super::crypto::{self, Algorithm, Checked};
use super::header::Header;
use super::known::{Found, Known, Unknown};
use super::signature::{KeyRecord, Kind, Signature, Unusable};
use crate::dns::Question;
use crate::time::UnixTime;

/// The most signatures that are looked at: the first ones.
pub const SIGNATURES_MAX: usize = 8;

/// What became of a signature. RFC 8601 §2.7.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DkimResult {
    /// It is valid.
    Pass,
    /// It is not, or its key is too weak, or it expired.
    Fail,
    /// It is valid, and does not cover all of the body (`l=`).
    Policy,
    /// Its key could not be fetched now.
    TempError,
    /// It or its key cannot be understood.
    PermError,
}

impl fmt::Display for DkimResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Policy => "policy",
            Self::TempError => "temperror",
            Self::PermError => "permerror",
        })
    }
}

/// One signature and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dkim {
    /// What became of it.
    pub result: DkimResult,
    /// Why it is no pass, in words.
    pub why: Option<&'static str>,
    /// `d=`, in small letters; empty where it could not be read.
    pub domain: String,
    /// `s=`; empty where it could not be read.
    pub selector: String,
    /// `a=`; empty where it could not be read.
    pub algorithm: &'static str,
    /// The first characters of `b=`: what tells signatures of one domain apart.
    pub start: String,
}

/// A signature field of a message that comes in.
#[derive(Debug)]
pub(super) struct Candidate {
    /// The field.
    field: usize,
    parsed: Result<Signature, Unusable>,
}

/// The signatures of a message.
pub(super) fn candidates(header: &Header) -> Vec<Candidate> {
    let fields = header.named("dkim-signature").iter();
    fields
        .take(SIGNATURES_MAX)
        .map(|&field| Candidate {
            field,
            parsed: Signature::parse(header.value(field), Kind::Dkim),
        })
        .collect()
}

impl Candidate {
    /// What it says, if that can be read.
    pub(super) fn signature(&self) -> Option<&Signature> {
        self.parsed.as_ref().ok()
    }

    /// The question for its key.
    pub(super) fn question(&self) -> Option<Question> {
        self.signature()
            .map(|signature| Question::Txt(signature.key_name()))
    }

    /// Verifies it, when its key is known.
    pub(super) fn verify(
        &self,
        header: &Header,
        bodies: &Hashes,
        known: &Known,
        now: UnixTime,
    ) -> Result<Dkim, Unknown> {
        let signature = match &self.parsed {
            Ok(signature) => signature,
            Err(why) => {
                return Ok(Dkim {
                    result: DkimResult::PermError,
                    why: Some(why),
                    domain: String::new(),
                    selector: String::new(),
                    algorithm: "",
                    start: String::new(),
                });
            }
        };
        let (result, why) = match verify(signature, self.field, header, bodies, known, now)? {
            Ok(()) => (DkimResult::Pass, None),
            Err((result, why)) => (result, Some(why)),
        };
        Ok(Dkim {
            result,
            why,
            domain: signature.domain.clone(),
            selector: signature.selector.clone(),
            algorithm: name(signature.algorithm),
            start: signature.start.clone(),
        })
    }
}

/// `a=`, as it is written.
pub(super) fn name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Rsa => "rsa-sha256",
        Algorithm::Ed25519 => "ed25519-sha256",
    }
}

/// Why a signature is no pass.
pub(super) type Failure = (DkimResult, &'static str);

/// Verifies a signature in this field.
///
/// # Errors
/// The question that must be answered first.
pub(super) fn verify(
    signature: &Signature,
    field: usize,
    header: &Header,
    bodies: &Hashes,
    known: &Known,
    now: UnixTime,
) -> Result<Result<(), Failure>, Unknown> {
    let key = match key(&signature.key_name(), known)? {
        Ok(key) => key,
        Err(failure) => return Ok(Err(failure)),
    };
    Ok(verify_with(signature, field, header, bodies, &key, now))
}

fn verify_with(
    signature: &Signature,
    field: usize,
    header: &Header,
    bodies: &Hashes,
    key: &KeyRecord,
    now: UnixTime,
) -> Result<(), Failure> {
    if key.strict && signature.identity != signature.domain {
        return Err((DkimResult::PermError, "i= is not d=, as the key asks"));
    }
    if signature.expires.is_some_and(|at| at < now.as_secs()) {
        return Err((DkimResult::Fail, "the signature expired"));
    }
    let body = bodies
        .of(signature.body_form)
        .ok_or((DkimResult::PermError, "the body was not hashed"))?;
    // Octets that are not covered can be replaced by anybody (RFC 6376 §8.2): with those the signature
    // says nothing, however valid it is.
    match signature.length {
        Some(length) if length < body.len => {
            return Err((DkimResult::Policy, "l= leaves a part of the body out"));
        }
        Some(length) if length > body.len => {
            return Err((DkimResult::Fail, "the body is shorter than l="));
        }
        Some(_) | None => {}
    }
    if signature.body_hash != body.hash {
        return Err((DkimResult::Fail, "the body was changed"));
    }
    let mut data = Vec::new();
    header.selected(&signature.names, signature.header_form, &mut data);
    header.unsigned(field, signature.header_form, &mut data);
    check(signature.algorithm, key, &data, &signature.signature)
}

/// The key at this name, if it is known.
pub(super) fn key(name: &str, known: &Known) -> Result<Result<KeyRecord, Failure>, Unknown> {
    let records = match known.find(Question::Txt(name.to_owned()))? {
        Found::Records(records) => records,
        Found::Nothing { .. } => {
            return Ok(Err((DkimResult::PermError, "there is no such key")));
        }
        Found::Temporary => {
            return Ok(Err((
                DkimResult::TempError,
                "the key cannot be fetched now",
            )));
        }
    };
    // RFC 6376 §3.6.2.2: with several records the result is undefined. The first that is a key counts.
    let mut failure = "there is no such key";
    for text in records.texts() {
        match KeyRecord::parse(text) {
            Ok(key) => return Ok(Ok(key)),
            Err(why) => failure = why,
        }
    }
    Ok(Err((DkimResult::PermError, failure)))
}

/// Checks a signature of canonical octets.
pub(super) fn check(
    algorithm: Algorithm,
    key: &KeyRecord,
    data: &[u8],
    signature: &[u8],
) -> Result<(), Failure> {
    if key.algorithm != algorithm {
        return Err((DkimResult::PermError, "the key is for another algorithm"));
    }
    match crypto::check(algorithm, &key.key, data, signature) {
        Checked::Valid => Ok(()),
        Checked::Invalid => Err((DkimResult::Fail, "the signature does not fit the header")),
        Checked::WeakKey(_) => Err((DkimResult::Fail, "the key is too short")),
        Checked::NoKey => Err((DkimResult::PermError, "the key cannot be read")),
    }
}
