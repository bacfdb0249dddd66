//! What clients did that no message tells of: logins that failed, senders that were refused. A program
//! that bans addresses reads these lines.
//!
//! The client's address stands before anything that the client said, and what it said is bounded and
//! printable: nobody writes another's address into the log.

use std::fmt;
use std::net::IpAddr;

use super::rfc3339;
use crate::time::UnixTime;

/// The most characters that are kept of a name that a client sent.
const NAME_MAX: usize = 64;

/// One thing that a client did. As JSON it is one line of the log.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ClientEvent {
    /// When, as RFC 3339 in UTC with milliseconds.
    pub time: String,
    /// What.
    pub event: ClientDid,
    /// The client's address.
    pub peer: IpAddr,
    /// The name that it logged in with, or tried to; printable, and cut if it is long.
    pub name: Option<String>,
    /// Why it was refused.
    pub reason: String,
    /// Events before this one that were not told, since there were too many.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub suppressed: u64,
}

/// What a client did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientDid {
    /// It showed a wrong name or secret.
    AuthFailed,
    /// It tried to log in after too many failures, of its own or with this name.
    AuthBlocked,
    /// It named a sender that its credential may not use.
    SenderRefused,
}

impl ClientEvent {
    /// An event that happens now.
    #[must_use]
    pub fn new(
        now: UnixTime,
        event: ClientDid,
        peer: IpAddr,
        name: Option<&str>,
        reason: &str,
    ) -> Self {
        Self {
            time: rfc3339(now),
            event,
            peer: peer.to_canonical(),
            name: name.map(printable),
            reason: reason.to_owned(),
            suppressed: 0,
        }
    }
}

/// The beginning of a text, without anything that moves a cursor or ends a line.
fn printable(text: &str) -> String {
    let safe = |c: char| match c {
        '"' | '\\' => '?',
        c if c.is_control() || c.is_whitespace() && c != ' ' => '?',
        c => c,
    };
    text.chars().take(NAME_MAX).map(safe).collect()
}

/// `auth-failed peer=192.0.2.1 name="app": wrong name or secret`
impl fmt::Display for ClientEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let did = match self.event {
            ClientDid::AuthFailed => "auth-failed",
            ClientDid::AuthBlocked => "auth-blocked",
            ClientDid::SenderRefused => "sender-refused",
        };
        write!(f, "{did} peer={}", self.peer)?;
        if let Some(name) = &self.name {
            write!(f, " name=\"{name}\"")?;
        }
        write!(f, ": {}", self.reason)?;
        match self.suppressed {
            0 => Ok(()),
            more => write!(f, " ({more} more were not logged)"),
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_comes_before_what_the_client_said_and_stays_alone() {
        let forged = "x\" peer=203.0.113.9\r\nauth-failed peer=203.0.113.9";
        let peer = "::ffff:192.0.2.1".parse().unwrap();
        let now = UnixTime::from_secs(1_718_824_965);
        let mut event = ClientEvent::new(now, ClientDid::AuthFailed, peer, Some(forged), "why");
        let line = event.to_string();
        assert!(
            line.starts_with("auth-failed peer=192.0.2.1 name=\"x? peer="),
            "{line}"
        );
        assert!(!line.contains(['\r', '\n']));
        event.name = Some(printable(&"é".repeat(1000)));
        event.suppressed = 7;
        assert!(
            event
                .to_string()
                .ends_with(": why (7 more were not logged)")
        );
        let json = serde_json::to_string(&event).unwrap();
        let start = "{\"time\":\"2024-06-19T19:22:45.000Z\",\"event\":\"auth-failed\",\"peer\":\"192.0.2.1\",";
        assert!(json.starts_with(start), "{json}");
        assert!(json.len() < 400);
        assert_eq!(serde_json::from_str::<ClientEvent>(&json).unwrap(), event);
    }
}
