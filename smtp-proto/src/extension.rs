//! The service extensions that this crate knows, and the SASL mechanisms by name.
//!
//! Implements the keywords of RFC 5321 §4.1.1.1 and of each extension's own RFC, which
//! [`Extension`] names. The mechanisms themselves are policy and live above this crate.

use core::fmt;
use core::str::FromStr;

/// A service extension. RFC 5321 §2.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Extension {
    /// `PIPELINING`: commands in groups. RFC 2920.
    Pipelining,
    /// `SIZE`: the largest message, and the size of each. RFC 1870.
    Size,
    /// `8BITMIME`: octets above 127 in a body. RFC 6152.
    EightBitMime,
    /// `SMTPUTF8`: UTF-8 in addresses and headers. RFC 6531.
    SmtpUtf8,
    /// `ENHANCEDSTATUSCODES`: such as 5.1.1 in replies. RFC 2034.
    EnhancedStatusCodes,
    /// `DSN`: NOTIFY, ORCPT, RET and ENVID. RFC 3461.
    Dsn,
    /// `CHUNKING`: BDAT. RFC 3030.
    Chunking,
    /// `BINARYMIME`: bodies without lines, by BDAT only. RFC 3030.
    BinaryMime,
    /// `STARTTLS`. RFC 3207.
    StartTls,
    /// `AUTH`. RFC 4954.
    Auth,
    /// `REQUIRETLS`: TLS on every hop, or no delivery. RFC 8689.
    RequireTls,
    /// `LIMITS`: what a session may hold. RFC 9422.
    Limits,
    /// `FUTURERELEASE`: hold until a time. RFC 4865.
    FutureRelease,
    /// `DELIVERBY`: deliver before a time. RFC 2852.
    DeliverBy,
    /// `MT-PRIORITY`. RFC 6710.
    MtPriority,
    /// `XCLIENT`, which has no RFC: see [`crate::xclient`].
    XClient,
}

impl Extension {
    /// All of them, in the order in which the server lists them.
    pub const ALL: [Self; 16] = [
        Self::Pipelining,
        Self::Size,
        Self::EightBitMime,
        Self::SmtpUtf8,
        Self::EnhancedStatusCodes,
        Self::Dsn,
        Self::Chunking,
        Self::BinaryMime,
        Self::StartTls,
        Self::Auth,
        Self::RequireTls,
        Self::Limits,
        Self::FutureRelease,
        Self::DeliverBy,
        Self::MtPriority,
        Self::XClient,
    ];

    /// The EHLO keyword.
    #[must_use]
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::Pipelining => "PIPELINING",
            Self::Size => "SIZE",
            Self::EightBitMime => "8BITMIME",
            Self::SmtpUtf8 => "SMTPUTF8",
            Self::EnhancedStatusCodes => "ENHANCEDSTATUSCODES",
            Self::Dsn => "DSN",
            Self::Chunking => "CHUNKING",
            Self::BinaryMime => "BINARYMIME",
            Self::StartTls => "STARTTLS",
            Self::Auth => "AUTH",
            Self::RequireTls => "REQUIRETLS",
            Self::Limits => "LIMITS",
            Self::FutureRelease => "FUTURERELEASE",
            Self::DeliverBy => "DELIVERBY",
            Self::MtPriority => "MT-PRIORITY",
            Self::XClient => "XCLIENT",
        }
    }

    /// The extension with this keyword, in any case.
    #[must_use]
    pub fn from_keyword(keyword: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|e| e.keyword().eq_ignore_ascii_case(keyword))
    }
}

impl fmt::Display for Extension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.keyword())
    }
}

/// A set of extensions: what a server offers.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Extensions(u16);

impl Extensions {
    /// None: what there is after HELO.
    pub const NONE: Self = Self(0);

    /// This set with one more.
    #[must_use]
    pub const fn with(self, extension: Extension) -> Self {
        Self(self.0 | 1 << extension as u8)
    }

    /// This set with one less.
    #[must_use]
    pub const fn without(self, extension: Extension) -> Self {
        Self(self.0 & !(1 << extension as u8))
    }

    /// Whether the set has it.
    #[must_use]
    pub const fn has(self, extension: Extension) -> bool {
        self.0 & 1 << extension as u8 != 0
    }

    /// What the set has, in the order of [`Extension::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Extension> {
        Extension::ALL.into_iter().filter(move |&e| self.has(e))
    }
}

impl FromIterator<Extension> for Extensions {
    fn from_iter<I: IntoIterator<Item = Extension>>(items: I) -> Self {
        items.into_iter().fold(Self::NONE, Self::with)
    }
}

impl fmt::Debug for Extensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// A SASL mechanism, by name only. RFC 4422 §3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Mechanism {
    /// `PLAIN`. RFC 4616.
    Plain,
    /// `LOGIN`, which has no RFC.
    Login,
    /// `CRAM-MD5`. RFC 2195.
    CramMd5,
    /// `SCRAM-SHA-1`. RFC 5802.
    ScramSha1,
    /// `SCRAM-SHA-1-PLUS`. RFC 5802.
    ScramSha1Plus,
    /// `SCRAM-SHA-256`. RFC 7677.
    ScramSha256,
    /// `SCRAM-SHA-256-PLUS`. RFC 7677.
    ScramSha256Plus,
    /// `XOAUTH2`, which has no RFC.
    XOAuth2,
    /// `OAUTHBEARER`. RFC 7628.
    OAuthBearer,
    /// `EXTERNAL`. RFC 4422 Appendix A.
    External,
}

impl Mechanism {
    /// All of them, in the order in which the server lists them.
    pub const ALL: [Self; 10] = [
        Self::Plain,
        Self::Login,
        Self::CramMd5,
        Self::ScramSha1,
        Self::ScramSha1Plus,
        Self::ScramSha256,
        Self::ScramSha256Plus,
        Self::XOAuth2,
        Self::OAuthBearer,
        Self::External,
    ];

    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
            Self::CramMd5 => "CRAM-MD5",
            Self::ScramSha1 => "SCRAM-SHA-1",
            Self::ScramSha1Plus => "SCRAM-SHA-1-PLUS",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha256Plus => "SCRAM-SHA-256-PLUS",
            Self::XOAuth2 => "XOAUTH2",
            Self::OAuthBearer => "OAUTHBEARER",
            Self::External => "EXTERNAL",
        }
    }

    /// The mechanism with this name, in any case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|m| m.name().eq_ignore_ascii_case(name))
    }

    /// Whether it binds to the TLS channel and so means nothing without one. RFC 5802 §6.
    #[must_use]
    pub const fn needs_tls(self) -> bool {
        matches!(
            self,
            Self::ScramSha1Plus | Self::ScramSha256Plus | Self::External
        )
    }
}

impl FromStr for Mechanism {
    type Err = UnknownMechanism;

    fn from_str(text: &str) -> Result<Self, UnknownMechanism> {
        Self::from_name(text).ok_or(UnknownMechanism)
    }
}

/// No mechanism has this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownMechanism;

impl fmt::Display for UnknownMechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no known SASL mechanism has this name")
    }
}

impl core::error::Error for UnknownMechanism {}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of SASL mechanisms.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Mechanisms(u16);

impl Mechanisms {
    /// None.
    pub const NONE: Self = Self(0);

    /// This set with one more.
    #[must_use]
    pub const fn with(self, mechanism: Mechanism) -> Self {
        Self(self.0 | 1 << mechanism as u8)
    }

    /// Whether the set has it.
    #[must_use]
    pub const fn has(self, mechanism: Mechanism) -> bool {
        self.0 & 1 << mechanism as u8 != 0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What the set has, in the order of [`Mechanism::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Mechanism> {
        Mechanism::ALL.into_iter().filter(move |&m| self.has(m))
    }
}

impl FromIterator<Mechanism> for Mechanisms {
    fn from_iter<I: IntoIterator<Item = Mechanism>>(items: I) -> Self {
        items.into_iter().fold(Self::NONE, Self::with)
    }
}

impl fmt::Debug for Mechanisms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_and_names_round_trip() {
        for extension in Extension::ALL {
            let lower = extension.keyword().to_ascii_lowercase();
            assert_eq!(Extension::from_keyword(&lower), Some(extension));
        }
        for mechanism in Mechanism::ALL {
            assert_eq!(Mechanism::from_name(mechanism.name()), Some(mechanism));
        }
        assert_eq!(Extension::from_keyword("XFORWARD"), None);
        assert_eq!(Mechanism::from_name(""), None);
    }

    #[test]
    fn sets_hold_what_was_put_in() {
        let set: Extensions = [Extension::MtPriority, Extension::Size]
            .into_iter()
            .collect();
        assert!(set.has(Extension::Size) && !set.has(Extension::Dsn));
        assert!(set.iter().eq([Extension::Size, Extension::MtPriority]));
        assert_eq!(
            set.without(Extension::Size).without(Extension::MtPriority),
            Extensions::NONE
        );
        let all: Mechanisms = Mechanism::ALL.into_iter().collect();
        assert!(all.iter().eq(Mechanism::ALL) && !all.is_empty());
    }
}
