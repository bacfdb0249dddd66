//! A key that signs: RSA or Ed25519, from the TLS library's own signer.
//!
//! RFC 6376 §3.3.2 (rsa-sha256), RFC 8463 §3 (ed25519-sha256), RFC 6376 §3.6.1 and RFC 8463 §4 (the
//! record that publishes it).

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::sign::SigningKey;
use rustls::{SignatureAlgorithm, SignatureScheme};
use rustls_pki_types::PrivateKeyDer;
use sha2::{Digest, Sha256};

use crate::channel::provider;

/// The shortest RSA key that signs. RFC 8301 §3.2: "Signers SHOULD use RSA keys of at least 2048 bits."
pub const RSA_BITS_MIN: usize = 2048;

/// The length of an Ed25519 public key.
const ED25519_LEN: usize = 32;

/// What a key signs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// `rsa-sha256`
    Rsa {
        /// The length of the modulus.
        bits: usize,
    },
    /// `ed25519-sha256`
    Ed25519,
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rsa { .. } => "rsa-sha256",
            Self::Ed25519 => "ed25519-sha256",
        })
    }
}

/// Why a key cannot sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyError {
    /// It cannot be read; RSA keys that are shorter than [`RSA_BITS_MIN`] cannot either.
    Unreadable,
    /// It is neither RSA nor Ed25519.
    Kind,
    /// An RSA key of only so many bits.
    TooShort(usize),
    /// The library refused to sign.
    Failed,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let allowed = "RSA of 2048 bits or more, or Ed25519";
        match self {
            Self::Unreadable => write!(f, "is no key that can sign; needed: {allowed}"),
            Self::Kind => write!(f, "is a key of another kind; needed: {allowed}"),
            Self::TooShort(bits) => write!(f, "is RSA of {bits} bits; needed: {allowed}"),
            Self::Failed => f.write_str("does not sign"),
        }
    }
}

impl std::error::Error for KeyError {}

/// A private key. Copies share it.
#[derive(Clone)]
pub struct Key {
    signing: Arc<dyn SigningKey>,
    algorithm: Algorithm,
    /// `p=` of its record.
    public: Arc<[u8]>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Key").field(&self.algorithm).finish()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.public == other.public
    }
}

impl Eq for Key {}

impl Key {
    /// A key from its DER: PKCS#8, or PKCS#1 for RSA.
    ///
    /// # Errors
    /// [`KeyError`] if it is none that may sign.
    pub fn new(der: PrivateKeyDer<'static>) -> Result<Self, KeyError> {
        let load = provider().key_provider.load_private_key(der);
        let signing = load.map_err(|_| KeyError::Unreadable)?;
        let scheme = scheme(signing.algorithm()).ok_or(KeyError::Kind)?;
        let info = signing.public_key().ok_or(KeyError::Unreadable)?.to_vec();
        let (algorithm, public) = if scheme == SignatureScheme::ED25519 {
            // RFC 8463 §4.2: the key alone, which is the end of its SubjectPublicKeyInfo.
            let at = info.len().checked_sub(ED25519_LEN);
            (Algorithm::Ed25519, info[at.ok_or(KeyError::Kind)?..].into())
        } else {
            // A signature is as long as the modulus.
            let bits = 8 * sign(&*signing, b"")?.len();
            if bits < RSA_BITS_MIN {
                return Err(KeyError::TooShort(bits));
            }
            (Algorithm::Rsa { bits }, info.into())
        };
        Ok(Self {
            signing,
            algorithm,
            public,
        })
    }

    /// What it signs with.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Its public half as `p=` has it.
    #[must_use]
    pub fn public(&self) -> String {
        STANDARD.encode(&self.public)
    }

    /// The text of the TXT record at `selector._domainkey.domain`. RFC 6376 §3.6.1.
    #[must_use]
    pub fn record(&self) -> String {
        let kind = match self.algorithm {
            Algorithm::Rsa { .. } => "rsa",
            Algorithm::Ed25519 => "ed25519",
        };
        format!("v=DKIM1; k={kind}; p={}", self.public())
    }

    /// Signs canonical octets. Both algorithms are deterministic.
    pub(crate) fn sign(&self, data: &[u8]) -> Result<Vec<u8>, KeyError> {
        match self.algorithm {
            Algorithm::Rsa { .. } => sign(&*self.signing, data),
            // RFC 8463 §3: what is signed is the hash.
            Algorithm::Ed25519 => sign(&*self.signing, &Sha256::digest(data)),
        }
    }
}

fn scheme(algorithm: SignatureAlgorithm) -> Option<SignatureScheme> {
    if algorithm == SignatureAlgorithm::RSA {
        Some(SignatureScheme::RSA_PKCS1_SHA256)
    } else if algorithm == SignatureAlgorithm::ED25519 {
        Some(SignatureScheme::ED25519)
    } else {
        None
    }
}

fn sign(key: &dyn SigningKey, data: &[u8]) -> Result<Vec<u8>, KeyError> {
    let scheme = scheme(key.algorithm()).ok_or(KeyError::Kind)?;
    let signer = key.choose_scheme(&[scheme]).ok_or(KeyError::Kind)?;
    signer.sign(data).map_err(|_| KeyError::Failed)
}
