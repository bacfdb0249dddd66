//! How much TLS a host is held to: the one place that decides between TLS, clear text and neither.
//!
//! ```text
//!              after_hello           after_handshake
//!  EHLO ──▶ Start ─────▶ handshake ────────────────▶ go on under TLS
//!            │ Clear          │ fails                     │ Err
//!            ▼                ▼ after_failure             ▼
//!     go on in clear     Clear: the same host again,   TlsFault: the next host, then later
//!            │           on a new connection, or
//!            └─ Err ──▶  TlsFault
//! ```
//!
//! | level | not offered, or refused | the handshake fails | the certificate proves nothing |
//! |---|---|---|---|
//! | none | clear text | | |
//! | opportunistic | clear text | clear text, on a new connection | goes on, and says so |
//! | require | fault | fault | goes on, and says so |
//! | verify | fault | fault | fault |
//!
//! A fault defers and never bounces: it is mended by whoever runs the host, or was made by whoever sits
//! in between. What DANE or MTA-STS find about a host raises its policy by [`TlsPolicy::raised`];
//! nothing lowers it. RFC 3207 §4 (STARTTLS), RFC 7435 (opportunistic security).

use std::fmt;
use std::net::IpAddr;

use super::io::Lane;
use crate::channel::Verdict;
use crate::config::TlsLevel;

/// The TLS that one host is held to, and who says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TlsPolicy {
    level: TlsLevel,
    source: &'static str,
}

/// What to do about TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// Use it.
    Start,
    /// Go on without.
    Clear,
}

/// Why a host cannot be used under its policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TlsFault {
    /// It does not offer STARTTLS.
    NotOffered,
    /// It offers STARTTLS and refused it, with this reply.
    Refused(String),
    /// The handshake failed.
    Handshake(String),
    /// The certificate does not prove what it must.
    Certificate(String),
}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOffered => f.write_str("TLS is required, and the host does not offer it"),
            Self::Refused(reply) => write!(f, "TLS is required, and STARTTLS was refused: {reply}"),
            Self::Handshake(why) => f.write_str(why),
            Self::Certificate(why) => {
                write!(
                    f,
                    "a verified certificate is required, and this one is not: {why}"
                )
            }
        }
    }
}

impl TlsPolicy {
    /// The policy for a host of this lane at this address.
    pub(super) fn of(lane: &Lane, address: IpAddr) -> Self {
        let source = if lane.route { "route" } else { "config" };
        let policy = Self {
            level: lane.tls,
            source,
        };
        // A password never crosses a network in clear text, whatever else is asked for.
        if lane.login.is_some() && !address.to_canonical().is_loopback() {
            return policy.raised(TlsLevel::Require, "login");
        }
        policy
    }

    /// The stronger of this policy and another.
    pub(super) fn raised(self, level: TlsLevel, source: &'static str) -> Self {
        if level > self.level {
            Self { level, source }
        } else {
            self
        }
    }

    /// Whether the host offers TLS and is to be taken at its word. `given_up`: it was tried before, on
    /// another connection, and failed.
    pub(super) fn after_hello(self, offered: bool, given_up: bool) -> Result<Choice, TlsFault> {
        match self.level {
            TlsLevel::None => Ok(Choice::Clear),
            TlsLevel::Opportunistic if offered && !given_up => Ok(Choice::Start),
            TlsLevel::Opportunistic => Ok(Choice::Clear),
            TlsLevel::Require | TlsLevel::Verify if offered => Ok(Choice::Start),
            TlsLevel::Require | TlsLevel::Verify => Err(TlsFault::NotOffered),
        }
    }

    /// Whether clear text may take the place of the TLS that failed in this way.
    pub(super) fn after_failure(self, fault: TlsFault) -> Result<(), TlsFault> {
        match self.level {
            TlsLevel::None | TlsLevel::Opportunistic => Ok(()),
            TlsLevel::Require | TlsLevel::Verify => Err(fault),
        }
    }

    /// Whether the host may be told anything after a handshake that ended with this verdict.
    pub(super) fn after_handshake(self, verdict: Option<&Verdict>) -> Result<(), TlsFault> {
        match (self.level, verdict) {
            (TlsLevel::None | TlsLevel::Opportunistic | TlsLevel::Require, _) => Ok(()),
            (TlsLevel::Verify, Some(Verdict::Verified)) => Ok(()),
            (TlsLevel::Verify, Some(Verdict::NotVerified(why))) => {
                Err(TlsFault::Certificate(why.clone()))
            }
            (TlsLevel::Verify, None) => Err(TlsFault::Certificate("there is none".to_owned())),
        }
    }

    /// Whether TLS may start with the first octet, where the port says so (465, RFC 8314 §3.3).
    pub(super) fn implicit(self, port: u16, route: bool, given_up: bool) -> bool {
        route && port == 465 && self.after_hello(true, given_up) == Ok(Choice::Start)
    }
}

impl fmt::Display for TlsPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            TlsLevel::None => "none",
            TlsLevel::Opportunistic => "opportunistic",
            TlsLevel::Require => "require",
            TlsLevel::Verify => "verify",
        };
        write!(f, "{level} ({})", self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEVELS: [TlsLevel; 4] = [
        TlsLevel::None,
        TlsLevel::Opportunistic,
        TlsLevel::Require,
        TlsLevel::Verify,
    ];

    fn policy(level: TlsLevel) -> TlsPolicy {
        TlsPolicy {
            level,
            source: "config",
        }
    }

    #[test]
    fn the_table_of_the_module() {
        use TlsLevel::{None, Opportunistic, Require, Verify};
        let refused = || TlsFault::Refused("454 4.7.0 not now".into());
        let unproven = Verdict::NotVerified("expired".into());
        for level in LEVELS {
            let policy = policy(level);
            let hello = |offered, given_up| policy.after_hello(offered, given_up).ok();
            let (offered, absent, given_up) = match level {
                None => (
                    Some(Choice::Clear),
                    Some(Choice::Clear),
                    Some(Choice::Clear),
                ),
                Opportunistic => (
                    Some(Choice::Start),
                    Some(Choice::Clear),
                    Some(Choice::Clear),
                ),
                Require | Verify => (Some(Choice::Start), Option::None, Some(Choice::Start)),
            };
            assert_eq!(hello(true, false), offered, "{level:?}");
            assert_eq!(hello(false, false), absent, "{level:?}");
            assert_eq!(hello(true, true), given_up, "{level:?}");
            let mandatory = level >= Require;
            assert_eq!(
                policy.after_failure(refused()).is_err(),
                mandatory,
                "{level:?}"
            );
            assert_eq!(
                policy.after_handshake(Some(&Verdict::Verified)),
                Ok(()),
                "{level:?}"
            );
            let unproven = policy.after_handshake(Some(&unproven));
            assert_eq!(unproven.is_err(), level == Verify, "{level:?}");
            assert_eq!(
                policy.after_handshake(Option::None).is_err(),
                level == Verify
            );
        }
    }

    #[test]
    fn raising_never_lowers() {
        for from in LEVELS {
            for to in LEVELS {
                let raised = policy(from).raised(to, "dane");
                assert_eq!(raised.level, from.max(to));
                assert_eq!(raised.source, if to > from { "dane" } else { "config" });
            }
        }
    }
}
