//! What is stored of a user: enough to check a password, not enough to log in elsewhere.
//!
//! RFC 5802 §3 (the keys), RFC 5803 §1 (the text form), RFC 7677 §4 (iterations).

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use subtle::ConstantTimeEq as _;

use super::scram::{hash, hmac};
use crate::rng::Rng;

/// Iterations of a new verifier.
///
/// RFC 7677 §4: "at least 4096". The secrets that the relay makes have 160 random bits, which no number
/// of iterations needs to protect; and each wrong password costs the server these many.
pub const ITERATIONS_DEFAULT: u32 = 4096;

/// The fewest iterations that either side takes. RFC 7677 §4.
pub const ITERATIONS_MIN: u32 = 4096;

/// The most iterations that either side takes: about a second of one core.
pub const ITERATIONS_MAX: u32 = 2_000_000;

/// The length of a new salt, in octets.
pub const SALT_LEN: usize = 16;

const SALT_LEN_MIN: usize = 4;
const SALT_LEN_MAX: usize = 64;
const SCHEME: &str = "SCRAM-SHA-256";

/// A SCRAM-SHA-256 verifier: RFC 5802 §3, written as in RFC 5803:
/// `SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY`.
///
/// ```
/// use relay_core::sasl::Verifier;
///
/// let verifier = Verifier::derive("pencil", [7; 16], 4096);
/// assert!(verifier.verify_password("pencil"));
/// assert_eq!(verifier.to_string().parse::<Verifier>(), Ok(verifier));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    iterations: u32,
    salt: Vec<u8>,
    stored_key: [u8; 32],
    server_key: [u8; 32],
}

impl Verifier {
    /// The verifier of a password. `iterations` is raised to [`ITERATIONS_MIN`] and cut to
    /// [`ITERATIONS_MAX`].
    #[must_use]
    pub fn derive(password: &str, salt: [u8; SALT_LEN], iterations: u32) -> Self {
        let iterations = iterations.clamp(ITERATIONS_MIN, ITERATIONS_MAX);
        let keys = Keys::derive(password, &salt, iterations);
        Self {
            iterations,
            salt: salt.to_vec(),
            stored_key: keys.stored_key(),
            server_key: keys.server,
        }
    }

    /// Whether this is the password. Costs [`Verifier::iterations`] rounds of PBKDF2 (milliseconds);
    /// the time does not depend on what differs.
    #[must_use]
    pub fn verify_password(&self, password: &str) -> bool {
        let keys = Keys::derive(password, &self.salt, self.iterations);
        let stored = keys.stored_key().ct_eq(&self.stored_key);
        (stored & keys.server.ct_eq(&self.server_key)).into()
    }

    /// Rounds of PBKDF2.
    #[must_use]
    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    /// The salt.
    #[must_use]
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// `H(ClientKey)`: checks a client's proof.
    pub(super) fn stored_key(&self) -> &[u8; 32] {
        &self.stored_key
    }

    /// `HMAC(SaltedPassword, "Server Key")`: signs for the server.
    pub(super) fn server_key(&self) -> &[u8; 32] {
        &self.server_key
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("iterations", &self.iterations)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let salt = BASE64.encode(&self.salt);
        let (stored, server) = (
            BASE64.encode(self.stored_key),
            BASE64.encode(self.server_key),
        );
        write!(f, "{SCHEME}${}:{salt}${stored}:{server}", self.iterations)
    }
}

impl FromStr for Verifier {
    type Err = BadVerifier;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = text.split_once('$').ok_or(BadVerifier::Form)?;
        if !scheme.eq_ignore_ascii_case(SCHEME) {
            return Err(BadVerifier::Scheme);
        }
        let (info, keys) = rest.split_once('$').ok_or(BadVerifier::Form)?;
        let (iterations, salt) = info.split_once(':').ok_or(BadVerifier::Form)?;
        let (stored, server) = keys.split_once(':').ok_or(BadVerifier::Form)?;
        let iterations: u32 = iterations.parse().map_err(|_| BadVerifier::Iterations)?;
        if !(ITERATIONS_MIN..=ITERATIONS_MAX).contains(&iterations) {
            return Err(BadVerifier::Iterations);
        }
        let salt = BASE64.decode(salt).map_err(|_| BadVerifier::Salt)?;
        if !(SALT_LEN_MIN..=SALT_LEN_MAX).contains(&salt.len()) {
            return Err(BadVerifier::Salt);
        }
        Ok(Self {
            iterations,
            salt,
            stored_key: decode_key(stored)?,
            server_key: decode_key(server)?,
        })
    }
}

fn decode_key(text: &str) -> Result<[u8; 32], BadVerifier> {
    let bytes = BASE64.decode(text).map_err(|_| BadVerifier::Key)?;
    bytes.try_into().map_err(|_| BadVerifier::Key)
}

/// Why a text is no verifier. It never repeats the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadVerifier {
    /// Not of the form `SCHEME$ITERATIONS:SALT$STOREDKEY:SERVERKEY`.
    Form,
    /// Another scheme than `SCRAM-SHA-256`.
    Scheme,
    /// Iterations are no number, too few or too many.
    Iterations,
    /// The salt is not base64, too short or too long.
    Salt,
    /// A key is not base64 of 32 octets.
    Key,
}

impl fmt::Display for BadVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form => {
                f.write_str("not of the form `SCRAM-SHA-256$4096:SALT$STOREDKEY:SERVERKEY`")
            }
            Self::Scheme => f.write_str("the scheme is not `SCRAM-SHA-256`"),
            Self::Iterations => {
                write!(
                    f,
                    "the iterations are not between {ITERATIONS_MIN} and {ITERATIONS_MAX}"
                )
            }
            Self::Salt => write!(
                f,
                "the salt is not base64 of {SALT_LEN_MIN} to {SALT_LEN_MAX} octets"
            ),
            Self::Key => f.write_str("a key is not base64 of 32 octets"),
        }
    }
}

impl std::error::Error for BadVerifier {}

/// The two keys that come from a password.
pub(super) struct Keys {
    /// `HMAC(SaltedPassword, "Client Key")`
    pub(super) client: [u8; 32],
    /// `HMAC(SaltedPassword, "Server Key")`
    pub(super) server: [u8; 32],
}

impl Keys {
    /// RFC 5802 §3: SaltedPassword, then the keys.
    pub(super) fn derive(password: &str, salt: &[u8], iterations: u32) -> Self {
        let mut salted = [0; 32];
        pbkdf2::pbkdf2_hmac::<sha2::Sha256>(
            prepare(password).as_bytes(),
            salt,
            iterations,
            &mut salted,
        );
        Self {
            client: hmac(&salted, &[b"Client Key"]),
            server: hmac(&salted, &[b"Server Key"]),
        }
    }

    /// `H(ClientKey)`
    pub(super) fn stored_key(&self) -> [u8; 32] {
        hash(&self.client)
    }
}

/// SASLprep (RFC 4013), by which both ends hash the same octets for the same password.
///
/// A password that it prohibits is used as it is: its owner could not log in otherwise, and the hash
/// takes any octets.
fn prepare(password: &str) -> Cow<'_, str> {
    if password.is_ascii() {
        return Cow::Borrowed(password);
    }
    stringprep::saslprep(password).unwrap_or(Cow::Borrowed(password))
}

/// Verifiers for names that nobody has: whoever tries one sees what a wrong password shows.
///
/// The verifier of a name is always the same, as a real one is. No password fits it.
#[derive(Clone, PartialEq, Eq)]
pub struct Decoy {
    key: [u8; 32],
    iterations: u32,
}

impl Decoy {
    /// Decoys by a secret key, that should outlive a restart, and the iterations of real verifiers.
    #[must_use]
    pub fn new(key: [u8; 32], iterations: u32) -> Self {
        Self {
            key,
            iterations: iterations.clamp(ITERATIONS_MIN, ITERATIONS_MAX),
        }
    }

    /// The decoy of a name.
    #[must_use]
    pub fn verifier(&self, name: &str) -> Verifier {
        let bytes = |label: &[u8]| hmac(&self.key, &[label, name.as_bytes()]);
        Verifier {
            iterations: self.iterations,
            salt: bytes(b"salt\0")[..SALT_LEN].to_vec(),
            stored_key: bytes(b"stored\0"),
            server_key: bytes(b"server\0"),
        }
    }
}

impl fmt::Debug for Decoy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoy")
            .field("iterations", &self.iterations)
            .finish_non_exhaustive()
    }
}

/// A keyed digest of a name and its password, for a cache of secrets that were verified: whoever has
/// the cache but not the key learns nothing, and a hit costs no PBKDF2.
///
/// Digests may be compared with `==`: without the key nobody can choose their octets, so the time of
/// the comparison tells nothing.
#[must_use]
pub fn secret_digest(key: &[u8; 32], name: &str, password: &str) -> [u8; 32] {
    // The length keeps ("ab", "c") and ("a", "bc") apart.
    let length = (name.len() as u64).to_be_bytes();
    hmac(key, &[&length, name.as_bytes(), password.as_bytes()])
}

/// A new password of 160 random bits: 32 letters and digits that cannot be mistaken for each other.
#[must_use]
pub fn generate_password(rng: &mut Rng) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut random = [0; 32];
    rng.fill(&mut random);
    random
        .iter()
        .map(|&byte| char::from(ALPHABET[usize::from(byte & 31)]))
        .collect()
}
