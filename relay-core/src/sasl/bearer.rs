//! Bearer tokens: the messages of OAUTHBEARER and XOAUTH2, which differ in their frame only.
//!
//! ```text
//!   OAUTHBEARER   n,a=NAME,^Ahost=HOST^Aport=PORT^Aauth=Bearer TOKEN^A^A
//!   XOAUTH2       user=NAME^Aauth=Bearer TOKEN^A^A
//!
//!   client ──message──▶ server ─┬─ taken ──▶ success
//!                               └─ not ──▶ challenge {"status":…} ──▶ client: ^A (or nothing) ──▶ failure
//! ```
//!
//! RFC 7628 §3; XOAUTH2 is Google's, and has no RFC: <https://developers.google.com/gmail/imap/xoauth2-protocol>.

use std::fmt;

use super::scram::{escape, unescape};
use super::{MESSAGE_LEN_MAX, Mechanism, SECRET_LEN_MAX};

/// What separates and ends the parts. RFC 7628 §3.1.
const SEPARATOR: char = '\x01';

/// A token that somebody shows, and for whom. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Bearer {
    /// Whom to act as; none if the token says it.
    pub name: Option<String>,
    /// The token.
    pub token: String,
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bearer")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Bearer {
    /// Reads a client's message; none for what is not of the mechanism's grammar.
    pub(super) fn parse(mechanism: Mechanism, text: &str) -> Option<Self> {
        let (name, pairs) = if mechanism == Mechanism::XOAuth2 {
            let (name, pairs) = text.strip_prefix("user=")?.split_once(SEPARATOR)?;
            (Some(name.to_owned()), pairs)
        } else {
            let (header, pairs) = text.split_once(SEPARATOR)?;
            (gs2_name(header)?, pairs)
        };
        let known = |name: &String| (1..=SECRET_LEN_MAX).contains(&name.len());
        if !name.as_ref().is_none_or(known) {
            return None;
        }
        let pairs = pairs.strip_suffix("\x01\x01")?;
        let mut token = None;
        for pair in pairs.split(SEPARATOR) {
            let (key, value) = pair.split_once('=')?;
            if key == "auth" && token.replace(bearer_token(value)?).is_some() {
                return None;
            }
        }
        Some(Self {
            name,
            token: token?.to_owned(),
        })
    }

    /// Writes the message. `host` and `port` are those of the connection.
    #[must_use]
    pub(super) fn message(&self, mechanism: Mechanism, host: &str, port: u16) -> Vec<u8> {
        let name = self.name.as_deref().unwrap_or_default();
        let token = &self.token;
        let text = if mechanism == Mechanism::XOAuth2 {
            format!("user={name}\x01auth=Bearer {token}\x01\x01")
        } else {
            let authzid = match name {
                "" => String::new(),
                name => format!("a={}", escape(name)),
            };
            format!("n,{authzid},\x01host={host}\x01port={port}\x01auth=Bearer {token}\x01\x01")
        };
        text.into_bytes()
    }
}

/// Whether a text can be a token: RFC 6750 §2.1, and whatever else is printable and has no space.
#[must_use]
pub fn is_token(text: &str) -> bool {
    (1..=MESSAGE_LEN_MAX / 2).contains(&text.len())
        && text.bytes().all(|octet| octet.is_ascii_graphic())
}

/// `Bearer TOKEN`, the scheme in any case. RFC 7628 §3.1.
fn bearer_token(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim_start_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && is_token(token)).then_some(token)
}

/// The authzid of a gs2-header: `n,a=NAME,` or `n,,`. Channel binding is for mechanisms that have it.
/// RFC 7628 §3.1, RFC 5801 §4.
fn gs2_name(header: &str) -> Option<Option<String>> {
    let (flag, rest) = header.split_once(',')?;
    let authzid = rest.strip_suffix(',')?;
    if flag != "n" && flag != "y" {
        return None;
    }
    match authzid {
        "" => Some(None),
        _ => unescape(authzid.strip_prefix("a=")?).map(Some),
    }
}

/// What a client is told whose token is not taken, before it is refused. RFC 7628 §3.2.2.
pub(super) fn refusal(mechanism: Mechanism) -> Vec<u8> {
    let text = if mechanism == Mechanism::XOAuth2 {
        "{\"status\":\"401\",\"schemes\":\"bearer\"}"
    } else {
        "{\"status\":\"invalid_token\"}"
    };
    text.into()
}

/// What a client answers to that: RFC 7628 §3.2.3 has a single separator, XOAUTH2 nothing.
pub(super) fn acknowledgement(mechanism: Mechanism) -> Vec<u8> {
    if mechanism == Mechanism::XOAuth2 {
        Vec::new()
    } else {
        vec![1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7628 §4.1, and the page of XOAUTH2.
    #[test]
    fn the_published_messages_are_read_and_written() {
        let token = "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==";
        let text = format!(
            "n,a=user@example.com,\x01host=server.example.com\x01port=143\x01auth=Bearer {token}\x01\x01"
        );
        let bearer = Bearer::parse(Mechanism::OAuthBearer, &text).unwrap();
        assert_eq!(bearer.name.as_deref(), Some("user@example.com"));
        assert_eq!(bearer.token, token);
        let written = bearer.message(Mechanism::OAuthBearer, "server.example.com", 143);
        assert_eq!(written, text.as_bytes());

        let text = "user=someuser@example.com\x01auth=Bearer \
                    ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg\x01\x01";
        let bearer = Bearer::parse(Mechanism::XOAuth2, text).unwrap();
        assert_eq!(bearer.name.as_deref(), Some("someuser@example.com"));
        let written = bearer.message(Mechanism::XOAuth2, "ignored", 1);
        assert_eq!(written, text.as_bytes());
    }

    #[test]
    fn names_are_escaped_and_may_be_left_out() {
        let bearer = Bearer {
            name: Some("a,b=c".into()),
            token: "t".into(),
        };
        let text = String::from_utf8(bearer.message(Mechanism::OAuthBearer, "h", 25)).unwrap();
        assert!(text.starts_with("n,a=a=2Cb=3Dc,\x01"), "{text:?}");
        assert_eq!(Bearer::parse(Mechanism::OAuthBearer, &text), Some(bearer));
        let parsed = Bearer::parse(Mechanism::OAuthBearer, "n,,\x01auth=bearer t\x01\x01");
        assert_eq!(parsed.unwrap().name, None);
    }

    #[test]
    fn anything_else_is_malformed() {
        for text in [
            "",
            "\x01",
            "n,,\x01\x01",
            "n,,\x01auth=Bearer t\x01",
            "n,,\x01auth=Bearer \x01\x01",
            "n,,\x01auth=Basic t\x01\x01",
            "n,,\x01auth=Bearer a b\x01\x01",
            "n,,\x01auth=Bearer t\x01auth=Bearer u\x01\x01",
            "n,,\x01host=h\x01port=1\x01\x01",
            "n,a=,\x01auth=Bearer t\x01\x01",
            "n,b=x,\x01auth=Bearer t\x01\x01",
            "p=tls-exporter,,\x01auth=Bearer t\x01\x01",
            "user=a\x01auth=Bearer t\x01\x01",
        ] {
            assert_eq!(
                Bearer::parse(Mechanism::OAuthBearer, text),
                None,
                "{text:?}"
            );
        }
        for text in [
            "auth=Bearer t\x01\x01",
            "user=\x01auth=Bearer t\x01\x01",
            "user=a\x01auth=Bearer t",
            "n,,\x01auth=Bearer t\x01\x01",
        ] {
            assert_eq!(Bearer::parse(Mechanism::XOAuth2, text), None, "{text:?}");
        }
    }
}
