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
//! | TLSA, dane | fault | fault | fault, if it matches no TLSA record |
//!
//! A fault defers and never bounces, but for a message that asks for no less (REQUIRETLS, see
//! [`super::outcome`]): it is mended by whoever runs the host, or was made by whoever sits in between.
//!
//! | what is known of the host | raises to |
//! |---|---|
//! | TLSA records that can be used | TLSA, in the place of all below: it is the stronger proof |
//! | TLSA records, and none can be used | require (RFC 7672 §2.2) |
//! | MTA-STS in mode `enforce` | verify (RFC 8461 §5) |
//! | a login | require, off loopback |
//!
//! At the level dane a host without TLSA records that can be used is not even connected to
//! ([`before_connecting`]).
//!
//! Nothing lowers it, but for `TLS-Required: No`: such a message goes by the configuration alone (RFC 8689
//! §4.2.2). RFC 3207 §4 (STARTTLS), RFC 7435 (opportunistic security), RFC 7672 §2.2 and §3 (DANE).

use std::fmt;
use std::sync::Arc;

use super::dane::HostTlsa;
use super::io::{Lane, TlsFailureKind, TlsPolicyType};
use super::plan::Candidate;
use crate::channel::{Associations, Flaw, FlawKind, Verdict};
use crate::config::{TlsLevel, TlsMode};
use crate::queue::handling::TlsWish;
use crate::sts::Mode;

/// The TLS that one host is held to, and who says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TlsPolicy {
    level: TlsLevel,
    source: &'static str,
    /// What DANE says of the host, if it says something.
    tlsa: Option<Arc<HostTlsa>>,
    /// What MTA-STS says of the domain.
    sts: Option<Mode>,
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
    /// It does not offer STARTTLS, which this asks for.
    NotOffered(&'static str),
    /// It offers STARTTLS, which this asks for, and refused it with this reply.
    Refused(&'static str, String),
    /// The handshake failed.
    Handshake(String),
    /// The certificate does not prove what it must.
    Certificate(Flaw),
    /// The certificate is not what the TLSA records say.
    Tlsa(Flaw),
    /// TLSA records are asked for, and the host has none that can be used.
    NoTlsa(&'static str),
}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOffered(by) => {
                write!(f, "TLS is required ({by}), and the host does not offer it")
            }
            Self::Refused(by, reply) => {
                write!(
                    f,
                    "TLS is required ({by}), and STARTTLS was refused: {reply}"
                )
            }
            Self::Handshake(why) => f.write_str(why),
            Self::Certificate(flaw) => {
                let why = &flaw.why;
                write!(
                    f,
                    "a verified certificate is required, and this one is not: {why}"
                )
            }
            Self::Tlsa(flaw) => {
                let why = &flaw.why;
                write!(
                    f,
                    "the certificate does not match the host's TLSA records: {why}"
                )
            }
            Self::NoTlsa(why) => {
                write!(f, "DANE is required (`tls = \"dane\"`), and {why}")
            }
        }
    }
}

impl TlsFault {
    /// The kind in a report.
    pub(super) fn kind(&self) -> TlsFailureKind {
        match self {
            Self::NotOffered(_) | Self::Refused(..) => TlsFailureKind::StarttlsNotSupported,
            Self::Handshake(_) => TlsFailureKind::ValidationFailure,
            Self::Certificate(flaw) | Self::Tlsa(flaw) => kind(flaw),
            Self::NoTlsa(_) => TlsFailureKind::DaneRequired,
        }
    }
}

fn kind(flaw: &Flaw) -> TlsFailureKind {
    match flaw.kind {
        FlawKind::Name => TlsFailureKind::CertificateHostMismatch,
        FlawKind::Time => TlsFailureKind::CertificateExpired,
        FlawKind::Trust => TlsFailureKind::CertificateNotTrusted,
        FlawKind::Other => TlsFailureKind::ValidationFailure,
    }
}

/// Whether a host of this lane with these TLSA records may be connected to at all.
pub(super) fn before_connecting(lane: &Lane, tlsa: Option<&HostTlsa>) -> Result<(), TlsFault> {
    match (lane.tls, tlsa.map(|tlsa| &tlsa.usable)) {
        (TlsLevel::None | TlsLevel::Opportunistic | TlsLevel::Require | TlsLevel::Verify, _)
        | (TlsLevel::Dane, Some(Some(_))) => Ok(()),
        (TlsLevel::Dane, Some(None)) => {
            Err(TlsFault::NoTlsa("no TLSA record of the host can be used"))
        }
        (TlsLevel::Dane, None) if lane.authentic => Err(TlsFault::NoTlsa(
            "the host has no TLSA records, or none that are signed",
        )),
        (TlsLevel::Dane, None) => Err(TlsFault::NoTlsa(
            "the names of the domain's hosts are not signed (DNSSEC)",
        )),
    }
}

impl TlsPolicy {
    /// What the configuration alone asks for.
    pub(super) fn configured(lane: &Lane) -> Self {
        Self {
            level: lane.tls,
            source: if lane.route { "route" } else { "config" },
            tlsa: None,
            sts: None,
        }
    }

    /// The policy for a host of this lane at this address, for a message whose sender said this of TLS.
    pub(super) fn of(lane: &Lane, candidate: &Candidate, wish: TlsWish) -> Self {
        let mut policy = Self {
            tlsa: candidate.tlsa.clone(),
            sts: lane.sts.filter(|_| wish != TlsWish::NotRequired),
            ..Self::configured(lane)
        };
        // A password never crosses a network in clear text, whatever else is asked for.
        if lane.login.is_some() && !candidate.address.ip().to_canonical().is_loopback() {
            policy = policy.raised(TlsLevel::Require, "login");
        }
        if policy.associations().is_some() {
            let level = policy.level.max(TlsLevel::Require);
            return Self {
                level,
                source: "dane",
                ..policy
            };
        }
        if policy.sts == Some(Mode::Enforce) {
            policy = policy.raised(TlsLevel::Verify, "mta-sts");
        }
        if policy.tlsa.is_some() {
            policy = policy.raised(TlsLevel::Require, "dane");
        }
        policy
    }

    /// Whether the host's name is one that the domain's policy names, so that a certificate for it is
    /// proof: a host that an enforced policy does not name is reached under DANE only.
    pub(super) fn names_host(&self) -> bool {
        self.sts == Some(Mode::Enforce)
    }

    /// The stronger of this policy and another.
    fn raised(self, level: TlsLevel, source: &'static str) -> Self {
        if level > self.level {
            Self {
                level,
                source,
                ..self
            }
        } else {
            self
        }
    }

    /// Whether the host offers TLS and is to be taken at its word. `given_up`: it was tried before, on
    /// another connection, and failed.
    pub(super) fn after_hello(&self, offered: bool, given_up: bool) -> Result<Choice, TlsFault> {
        match self.level {
            TlsLevel::None => Ok(Choice::Clear),
            TlsLevel::Opportunistic if offered && !given_up => Ok(Choice::Start),
            TlsLevel::Opportunistic => Ok(Choice::Clear),
            TlsLevel::Require | TlsLevel::Verify | TlsLevel::Dane if offered => Ok(Choice::Start),
            TlsLevel::Require | TlsLevel::Verify | TlsLevel::Dane => {
                Err(TlsFault::NotOffered(self.source))
            }
        }
    }

    /// Whether clear text may take the place of the TLS that failed in this way.
    pub(super) fn after_failure(&self, fault: TlsFault) -> Result<(), TlsFault> {
        match self.level {
            TlsLevel::None | TlsLevel::Opportunistic => Ok(()),
            TlsLevel::Require | TlsLevel::Verify | TlsLevel::Dane => Err(fault),
        }
    }

    /// The reply to STARTTLS that does not begin TLS, as a fault.
    pub(super) fn refusal(&self, reply: String) -> TlsFault {
        TlsFault::Refused(self.source, reply)
    }

    /// Whether the host may be told anything after a handshake whose certificate proved this: by the roots
    /// that we know, and by the host's TLSA records, where some can be used.
    pub(super) fn after_handshake(
        &self,
        by_roots: Option<&Verdict>,
        by_tlsa: Option<&Verdict>,
    ) -> Result<(), TlsFault> {
        let none = || Flaw {
            kind: FlawKind::Other,
            why: "there is none".to_owned(),
        };
        if self.associations().is_some() {
            return match by_tlsa {
                Some(Verdict::Verified) => Ok(()),
                Some(Verdict::NotVerified(flaw)) => Err(TlsFault::Tlsa(flaw.clone())),
                None => Err(TlsFault::Tlsa(none())),
            };
        }
        match (self.level, by_roots) {
            (TlsLevel::None | TlsLevel::Opportunistic | TlsLevel::Require, _) => Ok(()),
            (TlsLevel::Verify, Some(Verdict::Verified)) => Ok(()),
            (TlsLevel::Verify, Some(Verdict::NotVerified(flaw))) => {
                Err(TlsFault::Certificate(flaw.clone()))
            }
            (TlsLevel::Verify, None) => Err(TlsFault::Certificate(none())),
            // Such a host was not to be connected to.
            (TlsLevel::Dane, _) => Err(TlsFault::NoTlsa("the host has none")),
        }
    }

    /// Whether TLS is wanted at all.
    pub(super) fn wants_tls(&self) -> bool {
        self.level > TlsLevel::None
    }

    /// Whether TLS starts with the first octet. RFC 8314 §3.3.
    pub(super) fn implicit(&self, mode: TlsMode, given_up: bool) -> bool {
        mode == TlsMode::Implicit && self.after_hello(true, given_up) == Ok(Choice::Start)
    }

    /// The TLSA records that the certificate must match.
    pub(super) fn associations(&self) -> Option<&Associations> {
        self.tlsa.as_ref()?.usable.as_ref()
    }

    /// The name that the server is asked for, if it is not the host's. RFC 7672 §8.1.
    pub(super) fn server_name(&self) -> Option<&str> {
        self.tlsa.as_ref().map(|tlsa| tlsa.base.as_str())
    }

    /// What a report calls it, and the TLSA records in it. RFC 8460 §4.4.
    pub(super) fn reported(&self) -> (TlsPolicyType, Vec<String>) {
        match &self.tlsa {
            Some(tlsa) => {
                let records = tlsa.records.iter().map(ToString::to_string).collect();
                (TlsPolicyType::Tlsa, records)
            }
            None => match self.sts {
                Some(Mode::Enforce | Mode::Testing) => (TlsPolicyType::Sts, Vec::new()),
                Some(Mode::None) | None => (TlsPolicyType::NoPolicyFound, Vec::new()),
            },
        }
    }

    /// What is wrong with a session that goes on all the same: its kind, and the words for it.
    pub(super) fn remark(&self, by_roots: Option<&Verdict>) -> Option<(TlsFailureKind, String)> {
        match (&self.tlsa, by_roots) {
            (Some(tlsa), _) => {
                let why = "no TLSA record of the host can be used";
                let unusable = tlsa.usable.is_none();
                unusable.then(|| (TlsFailureKind::TlsaInvalid, why.to_owned()))
            }
            (None, Some(Verdict::NotVerified(flaw))) if self.sts == Some(Mode::Testing) => {
                Some((kind(flaw), flaw.why.clone()))
            }
            (None, _) => None,
        }
    }
}

impl fmt::Display for TlsPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.associations().is_some() {
            return f.write_str("dane (TLSA)");
        }
        let level = match self.level {
            TlsLevel::None => "none",
            TlsLevel::Opportunistic => "opportunistic",
            TlsLevel::Require => "require",
            TlsLevel::Verify => "verify",
            TlsLevel::Dane => "dane",
        };
        let unusable = match &self.tlsa {
            Some(_) => ", no TLSA record can be used",
            None => "",
        };
        write!(f, "{level} ({}{unusable})", self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::Tlsa;

    const LEVELS: [TlsLevel; 5] = [
        TlsLevel::None,
        TlsLevel::Opportunistic,
        TlsLevel::Require,
        TlsLevel::Verify,
        TlsLevel::Dane,
    ];

    fn policy(level: TlsLevel) -> TlsPolicy {
        TlsPolicy {
            level,
            source: "config",
            tlsa: None,
            sts: None,
        }
    }

    fn unproven() -> Verdict {
        Verdict::NotVerified(Flaw {
            kind: FlawKind::Time,
            why: "expired".into(),
        })
    }

    /// With TLSA records, of which some can be used or none.
    fn dane(level: TlsLevel, usable: bool) -> TlsPolicy {
        let record = Tlsa {
            usage: if usable { 3 } else { 1 },
            selector: 1,
            matching: 1,
            data: vec![0; 32],
        };
        let tlsa = HostTlsa {
            base: "mx.example.net".into(),
            usable: Associations::usable(std::slice::from_ref(&record)),
            records: vec![record],
        };
        TlsPolicy {
            tlsa: Some(Arc::new(tlsa)),
            ..policy(level).raised(TlsLevel::Require, "dane")
        }
    }

    #[test]
    fn the_table_of_the_module() {
        use TlsLevel::{Dane, None, Opportunistic, Require, Verify};
        let refused = |policy: &TlsPolicy| policy.refusal("454 4.7.0 not now".into());
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
                Require | Verify | Dane => (Some(Choice::Start), Option::None, Some(Choice::Start)),
            };
            assert_eq!(hello(true, false), offered, "{level:?}");
            assert_eq!(hello(false, false), absent, "{level:?}");
            assert_eq!(hello(true, true), given_up, "{level:?}");
            let mandatory = level >= Require;
            let fault = refused(&policy);
            assert_eq!(policy.after_failure(fault).is_err(), mandatory, "{level:?}");
            let after = |verdict| policy.after_handshake(verdict, Option::None);
            let by_roots = after(Some(&Verdict::Verified));
            assert_eq!(by_roots.is_ok(), level != Dane, "{level:?}");
            let (fails, unproven) = (level >= Verify, unproven());
            assert_eq!(after(Some(&unproven)).is_err(), fails, "{level:?}");
            assert_eq!(after(Option::None).is_err(), fails);
        }
    }

    /// The last line of the table, for whatever the configuration says.
    #[test]
    fn tlsa_records_that_can_be_used_decide() {
        for level in LEVELS {
            let policy = dane(level, true);
            assert_eq!(policy.to_string(), "dane (TLSA)");
            assert_eq!(policy.after_hello(true, false), Ok(Choice::Start));
            assert_eq!(policy.after_hello(true, true), Ok(Choice::Start));
            assert!(policy.after_hello(false, false).is_err());
            assert!(policy.after_failure(policy.refusal("454".into())).is_err());
            for by_roots in [None, Some(Verdict::Verified), Some(unproven())] {
                let (after, unproven) = (
                    |by_tlsa| policy.after_handshake(by_roots.as_ref(), by_tlsa),
                    unproven(),
                );
                assert_eq!(after(Some(&Verdict::Verified)), Ok(()));
                assert!(after(Some(&unproven)).is_err());
                assert!(after(None).is_err());
            }
        }
    }

    /// RFC 7672 §2.2: TLS, whoever is at the other end; and no less than was asked for.
    #[test]
    fn tlsa_records_that_cannot_be_used_require_tls() {
        for level in LEVELS {
            let policy = dane(level, false);
            assert!(policy.after_hello(false, false).is_err());
            assert!(policy.after_failure(policy.refusal("454".into())).is_err());
            let passes = policy.after_handshake(Some(&unproven()), None).is_ok();
            assert_eq!(passes, level < TlsLevel::Verify);
            let (kind, _) = policy.remark(None).unwrap();
            assert_eq!(kind, TlsFailureKind::TlsaInvalid);
            assert!(policy.to_string().ends_with("no TLSA record can be used)"));
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
