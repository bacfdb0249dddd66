//! What a client calls itself in EHLO or HELO.

use core::fmt;
use core::str::FromStr;

use smol_str::SmolStr;

use crate::domain::{DOMAIN_MAX, Host};
use crate::octets;

/// The argument of EHLO or HELO: a [`Host`], or a name that clients in use send instead.
///
/// RFC 5321 §4.1.4 forbids to refuse mail because the name does not verify, so names with
/// underscores or bare addresses pass. What could act in a header or a log does not.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientName(SmolStr);

/// The text cannot be the name of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientNameError;

impl fmt::Display for ClientNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a domain or address literal")
    }
}

impl core::error::Error for ClientNameError {}

impl ClientName {
    /// Reads 1 to 255 ASCII letters, digits and `-._:[]`.
    ///
    /// # Errors
    /// If there is anything else in it, or nothing.
    pub fn parse(text: &str) -> Result<Self, ClientNameError> {
        Self::parse_octets(text.as_bytes())
    }

    /// The same of octets.
    pub(crate) fn parse_octets(octets: &[u8]) -> Result<Self, ClientNameError> {
        let fits = (1..=DOMAIN_MAX).contains(&octets.len());
        if !fits || octets::CLIENT_NAME.prefix(octets) < octets.len() {
            return Err(ClientNameError);
        }
        let text = core::str::from_utf8(octets).map_err(|_| ClientNameError)?;
        Ok(Self(text.into()))
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as RFC 5321 §4.1.1.1 wants it, if it is one.
    #[must_use]
    pub fn host(&self) -> Option<Host> {
        Host::parse(&self.0).ok()
    }
}

impl FromStr for ClientName {
    type Err = ClientNameError;

    fn from_str(text: &str) -> Result<Self, ClientNameError> {
        Self::parse(text)
    }
}

impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_use_pass_and_the_rest_does_not() {
        for (text, is_host) in [
            ("mail.example.com", true),
            ("[192.0.2.1]", true),
            ("[IPv6:2001:db8::1]", true),
            ("my_service", false),
            ("fe80::1", false),
        ] {
            assert_eq!(
                ClientName::parse(text).unwrap().host().is_some(),
                is_host,
                "{text}"
            );
        }
        for text in [
            "",
            "a b",
            "a\0b",
            "a\rb",
            "bücher.example",
            "a(b",
            &"a".repeat(256),
        ] {
            assert_eq!(ClientName::parse(text), Err(ClientNameError), "{text:?}");
        }
    }
}
