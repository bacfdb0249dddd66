//! Public keys and the signatures that they verify.
//!
//! The primitives come from the TLS provider. Its certificate policy does not apply here: RFC 8301 §3.2
//! has verifiers take RSA keys from 1024 bits on.

#[cfg(feature = "aws-lc-rs")]
use aws_lc_rs::signature;
#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
use ring::signature;

use sha2::{Digest as _, Sha256};

/// What a signature was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Rsa,
    Ed25519,
}

/// The shortest RSA key that counts. RFC 8301 §3.2.
pub(super) const RSA_BITS_MIN: usize = 1024;

/// What became of a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checked {
    Valid,
    Invalid,
    /// An RSA key of only so many bits.
    WeakKey(usize),
    /// It is no key of this algorithm.
    NoKey,
}

/// Checks a signature of `data` by the key in `p=`.
pub(super) fn check(algorithm: Algorithm, key: &[u8], data: &[u8], signature: &[u8]) -> Checked {
    match algorithm {
        Algorithm::Rsa => {
            let Some(key) = rsa_key(key) else {
                return Checked::NoKey;
            };
            let Some(bits) = modulus_bits(key) else {
                return Checked::NoKey;
            };
            if bits < RSA_BITS_MIN {
                return Checked::WeakKey(bits);
            }
            let algorithm = &signature::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY;
            verify(algorithm, key, data, signature)
        }
        Algorithm::Ed25519 => {
            if key.len() != 32 {
                return Checked::NoKey;
            }
            // RFC 8463 §3: what is signed is the hash.
            let hash = Sha256::digest(data);
            verify(&signature::ED25519, key, &hash, signature)
        }
    }
}

fn verify(
    algorithm: &'static dyn signature::VerificationAlgorithm,
    key: &[u8],
    data: &[u8],
    signature: &[u8],
) -> Checked {
    let key = signature::UnparsedPublicKey::new(algorithm, key);
    match key.verify(data, signature) {
        Ok(()) => Checked::Valid,
        Err(_) => Checked::Invalid,
    }
}

/// The RSAPublicKey of `p=`: RFC 6376 §3.6.1 asks for it, and everybody publishes the
/// SubjectPublicKeyInfo around it.
fn rsa_key(der: &[u8]) -> Option<&[u8]> {
    let (inside, rest) = element(der, SEQUENCE)?;
    if !rest.is_empty() {
        return None;
    }
    if inside.first() == Some(&INTEGER) {
        return Some(der);
    }
    let (_algorithm, rest) = element(inside, SEQUENCE)?;
    let (bits, _) = element(rest, BIT_STRING)?;
    bits.strip_prefix(&[0])
}

fn modulus_bits(key: &[u8]) -> Option<usize> {
    let (inside, _) = element(key, SEQUENCE)?;
    let (modulus, _) = element(inside, INTEGER)?;
    let zeros = modulus.iter().take_while(|&&b| b == 0).count();
    let first = modulus.get(zeros)?;
    Some((modulus.len() - zeros) * 8 - first.leading_zeros() as usize)
}

const INTEGER: u8 = 2;
const BIT_STRING: u8 = 3;
const SEQUENCE: u8 = 0x30;

/// The content of the first DER element, which has this tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = der.split_first()?;
    let (&length, rest) = rest.split_first()?;
    if first != tag {
        return None;
    }
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81 => {
            let (bytes, rest) = rest.split_first_chunk::<1>()?;
            (usize::from(bytes[0]), rest)
        }
        0x82 => {
            let (bytes, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*bytes)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}
