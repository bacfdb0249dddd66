//! What a server connection offers and takes.

use alloc::vec::Vec;

use crate::domain::Domain;
use crate::dot::LineEndings;
use crate::extension::{Extension, Extensions, Mechanism, Mechanisms};
use crate::limits::Limits;

/// The settings that the connections of one listener share.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The server's own name: banner, EHLO reply.
    pub hostname: Domain,
    /// What may be offered. STARTTLS, AUTH and REQUIRETLS are, when the state allows it.
    pub extensions: Extensions,
    /// The mechanisms of AUTH. None: AUTH is not offered.
    pub mechanisms: Mechanisms,
    /// Whether AUTH is offered, and taken, in clear text.
    pub auth_without_tls: bool,
    /// What is done with a bare CR or LF in a body.
    pub line_endings: LineEndings,
    /// How much of anything is taken.
    pub limits: Limits,
    /// What FUTURERELEASE says. RFC 4865 §3.
    pub future_release: FutureRelease,
    /// The shortest time that DELIVERBY takes, in seconds. RFC 2852 §3.
    pub deliver_by_min_secs: Option<u32>,
}

/// The longest hold that is offered. RFC 4865 §3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FutureRelease {
    /// For `HOLDFOR`, in seconds.
    pub secs_max: u32,
    /// For `HOLDUNTIL`, in seconds since 1970.
    pub until_max: u64,
}

impl Config {
    /// All that needs neither keys nor credentials nor a queue of its own: no STARTTLS, no AUTH, no
    /// FUTURERELEASE, DELIVERBY or MT-PRIORITY.
    #[must_use]
    pub fn new(hostname: Domain) -> Self {
        let extensions = [
            Extension::Pipelining,
            Extension::Size,
            Extension::EightBitMime,
            Extension::SmtpUtf8,
            Extension::EnhancedStatusCodes,
            Extension::Dsn,
            Extension::Chunking,
            Extension::BinaryMime,
            Extension::RequireTls,
            Extension::Limits,
        ];
        Self {
            hostname,
            extensions: extensions.into_iter().collect(),
            mechanisms: Mechanisms::NONE,
            auth_without_tls: false,
            line_endings: LineEndings::Reject,
            limits: Limits::default(),
            future_release: FutureRelease {
                secs_max: 604_800,
                until_max: 253_402_300_799,
            },
            deliver_by_min_secs: None,
        }
    }

    /// The same with one more extension.
    #[must_use]
    pub fn with(mut self, extension: Extension) -> Self {
        self.extensions = self.extensions.with(extension);
        self
    }

    /// The same with AUTH by these mechanisms.
    #[must_use]
    pub fn with_auth(mut self, mechanisms: &[Mechanism]) -> Self {
        self.mechanisms = mechanisms.iter().copied().collect();
        self.with(Extension::Auth)
    }

    /// What is offered in this state, and so what parameters are known in it.
    pub(super) fn offered(&self, tls: bool) -> Extensions {
        let mut offered = self.extensions;
        if tls {
            offered = offered.without(Extension::StartTls);
        } else {
            // RFC 8689 §2: it means nothing on a hop without TLS.
            offered = offered.without(Extension::RequireTls);
        }
        if self.usable_mechanisms(tls).is_empty() {
            offered = offered.without(Extension::Auth);
        }
        if !offered.has(Extension::Chunking) {
            // RFC 3030 §3: BINARYMIME needs CHUNKING.
            offered = offered.without(Extension::BinaryMime);
        }
        offered
    }

    /// RFC 4954 §4: no mechanism that shows a secret without TLS.
    pub(super) fn usable_mechanisms(&self, tls: bool) -> Mechanisms {
        if !self.extensions.has(Extension::Auth) || !(tls || self.auth_without_tls) {
            return Mechanisms::NONE;
        }
        self.mechanisms
            .iter()
            .filter(|mechanism| tls || !mechanism.needs_tls())
            .collect()
    }

    /// The lines of the EHLO reply, less the first. RFC 5321 §4.1.1.1.
    pub(super) fn ehlo_lines(&self, tls: bool) -> Vec<alloc::string::String> {
        use alloc::format;
        use alloc::string::ToString;
        let line = |extension: Extension| match extension {
            Extension::Size => format!("SIZE {}", self.limits.message_size),
            Extension::Auth => {
                let mechanisms = self.usable_mechanisms(tls);
                mechanisms
                    .iter()
                    .fold("AUTH".to_string(), |line, m| format!("{line} {m}"))
            }
            Extension::Limits => format!("LIMITS RCPTMAX={}", self.limits.recipients),
            Extension::FutureRelease => format!(
                "FUTURERELEASE {} {}",
                self.future_release.secs_max,
                crate::time_text::Utc(self.future_release.until_max)
            ),
            Extension::DeliverBy => match self.deliver_by_min_secs {
                Some(secs) => format!("DELIVERBY {secs}"),
                None => "DELIVERBY".to_string(),
            },
            Extension::XClient => format!("XCLIENT {}", crate::xclient::ATTRIBUTES),
            Extension::Pipelining
            | Extension::EightBitMime
            | Extension::SmtpUtf8
            | Extension::EnhancedStatusCodes
            | Extension::Dsn
            | Extension::Chunking
            | Extension::BinaryMime
            | Extension::StartTls
            | Extension::RequireTls
            | Extension::MtPriority => extension.keyword().to_string(),
        };
        self.offered(tls).iter().map(line).collect()
    }
}
