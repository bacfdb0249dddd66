//! Authentication exchanges as machines, for both sides, from one stored verifier.
//!
//! [`Server`] speaks to a client that logs in, [`Client`] logs in to a smart host. Neither knows how its
//! messages are framed (SMTP: base64 in 334 lines, RFC 4954), who is known, or what time it is.
//!
//! | mechanism | source | what it proves |
//! |---|---|---|
//! | `PLAIN` | RFC 4616 | the password, shown to the server |
//! | `LOGIN` | draft-murchison-sasl-login-00 | the same, for old clients |
//! | `SCRAM-SHA-256` | RFC 5802, RFC 7677 | the password, without showing it, and the server's knowledge of it |
//! | `SCRAM-SHA-256-PLUS` | the same with RFC 9266 | and that no one sits between, since it binds to the TLS channel |
//! | `XOAUTH2`, `OAUTHBEARER` | Google; RFC 7628 | that whoever issued the token trusts the client |
//! | `EXTERNAL` | RFC 4422 Appendix A | nothing by itself: the certificate of the TLS handshake does |
//!
//! A user is stored as a [`Verifier`]; it serves the first four, and does not hold the password. A name that is
//! not known runs against a [`Decoy`], so that the exchange has the same steps, words and cost.

mod bearer;
mod client;
mod scram;
mod server;
mod verifier;

pub use bearer::{Bearer, is_token};
pub use client::{Client, ClientError};
pub use server::{Failure, Server, Step};
pub use verifier::{
    BadVerifier, Decoy, ITERATIONS_DEFAULT, ITERATIONS_MAX, ITERATIONS_MIN, SALT_LEN, Verifier,
    generate_password, secret_digest,
};

use std::fmt;

/// The longest user name and the longest password, in octets.
pub const SECRET_LEN_MAX: usize = 1024;

/// The longest message that either side takes, in octets after base64.
///
/// RFC 4954 §4 bounds a base64 line to 12288 octets.
pub const MESSAGE_LEN_MAX: usize = 12288 / 4 * 3;

/// The tls-exporter value of the connection: RFC 9266 §2 (label `EXPORTER-Channel-Binding`, no
/// context, 32 octets).
pub type ChannelBinding = [u8; 32];

/// A mechanism, of those with one [`Proof`] the weakest first: the order is the order of choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mechanism {
    /// `LOGIN`
    Login,
    /// `PLAIN`
    Plain,
    /// `SCRAM-SHA-256`
    ScramSha256,
    /// `SCRAM-SHA-256-PLUS`
    ScramSha256Plus,
    /// `XOAUTH2`
    XOAuth2,
    /// `OAUTHBEARER`
    OAuthBearer,
    /// `EXTERNAL`
    External,
}

/// What a mechanism proves who its client is by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// A password.
    Password,
    /// A bearer token.
    Token,
    /// A certificate.
    Certificate,
}

impl Mechanism {
    /// All of them, in the order in which EHLO lists them.
    pub const ALL: [Self; 7] = [
        Self::Plain,
        Self::Login,
        Self::ScramSha256,
        Self::ScramSha256Plus,
        Self::XOAuth2,
        Self::OAuthBearer,
        Self::External,
    ];

    /// Its name, as on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Login => "LOGIN",
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha256Plus => "SCRAM-SHA-256-PLUS",
            Self::XOAuth2 => "XOAUTH2",
            Self::OAuthBearer => "OAUTHBEARER",
            Self::External => "EXTERNAL",
        }
    }

    /// The mechanism of a name, in any case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|mechanism| mechanism.name().eq_ignore_ascii_case(name))
    }

    /// What it proves who its client is by.
    #[must_use]
    pub const fn proof(self) -> Proof {
        match self {
            Self::Login | Self::Plain | Self::ScramSha256 | Self::ScramSha256Plus => {
                Proof::Password
            }
            Self::XOAuth2 | Self::OAuthBearer => Proof::Token,
            Self::External => Proof::Certificate,
        }
    }

    /// The best of those that a server lists, for who has a password. `binding` says whether the
    /// connection has channel binding data.
    pub fn best<'a>(
        offered: impl IntoIterator<Item = &'a str>,
        binding: Option<&ChannelBinding>,
    ) -> Option<Self> {
        let usable = |mechanism: &Self| {
            mechanism.proof() == Proof::Password
                && (*mechanism != Self::ScramSha256Plus || binding.is_some())
        };
        offered
            .into_iter()
            .filter_map(Self::from_name)
            .filter(usable)
            .max()
    }

    /// The better of those that a server lists, for who has a token.
    pub fn best_for_token<'a>(offered: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let offered = offered.into_iter().filter_map(Self::from_name);
        offered
            .filter(|mechanism| mechanism.proof() == Proof::Token)
            .max()
    }

    /// Whether the secret itself crosses the wire: the mechanism is then for TLS only.
    #[must_use]
    pub const fn shows_password(self) -> bool {
        match self {
            Self::Login | Self::Plain | Self::XOAuth2 | Self::OAuthBearer => true,
            Self::ScramSha256 | Self::ScramSha256Plus | Self::External => false,
        }
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests;
