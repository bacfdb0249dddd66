//! What makes mail believed: the domains that it is sent from, their keys, and their return paths.

use std::path::PathBuf;

use smtp_proto::Domain;

use crate::sign::Key;

/// One `[[domain]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningDomain {
    /// The domain.
    pub name: Domain,
    /// Its keys: each signs every message from the domain and from those under it.
    pub keys: Vec<DkimKey>,
    /// Where mail from it leaves from; none for the sender's own address.
    pub return_path: Option<ReturnPath>,
}

impl SigningDomain {
    /// A domain without keys.
    #[must_use]
    pub fn new(name: Domain) -> Self {
        Self {
            name,
            keys: Vec::new(),
            return_path: None,
        }
    }
}

/// `domain.return_path`: the domain of [signed return paths](crate::bounce::return_path).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReturnPath {
    /// The domain.
    pub domain: Domain,
    /// Whether it is used.
    pub state: ReturnPathState,
}

/// Whether a return path is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReturnPathState {
    /// It is.
    Active,
    /// Its records are not known to be in the DNS: it is not used yet.
    Pending,
}

impl std::fmt::Display for ReturnPathState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::Pending => "pending",
        })
    }
}

/// One `[[domain.dkim]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DkimKey {
    /// The selector, under `_domainkey`.
    pub selector: String,
    /// The private key, PEM.
    pub key_file: PathBuf,
    /// What it is used for.
    pub state: KeyState,
    /// What is in the file; filled by the loader. Without it nothing is signed.
    pub key: Option<Key>,
}

/// What a key is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyState {
    /// It signs.
    Signing,
    /// Its record is not known to be in the DNS: it does not sign yet.
    Pending,
    /// It signs no more. Its record stays in the DNS until what it signed has arrived.
    Retired,
}

impl std::fmt::Display for KeyState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Signing => "signing",
            Self::Pending => "pending",
            Self::Retired => "retired",
        })
    }
}

/// `preflight`: what is done about a message that receivers would think badly of. See
/// [`crate::inbound::preflight`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preflight {
    /// What is done.
    pub mode: PreflightMode,
    /// From how many recipients on a message is bulk mail, whatever its header says.
    pub bulk_recipients: usize,
}

impl Default for Preflight {
    fn default() -> Self {
        Self {
            mode: PreflightMode::Tag,
            bulk_recipients: 100,
        }
    }
}

/// What pre-flight does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PreflightMode {
    /// Nothing: it does not look.
    Off,
    /// An event tells what was found.
    Tag,
    /// The message is refused.
    Reject,
}
