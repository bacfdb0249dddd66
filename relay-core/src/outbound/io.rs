//! What a delivery is started with, what it asks of its runtime, and what it tells the engine.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::config::{HostPort, Protocol, TlsLevel, TlsMode, TokenSource};
use crate::dns::{AddressAnswer, AliasAnswer, Mx, TlsaAnswer};
use crate::engine::Next;
use crate::id::MessageId;
use crate::queue::handling::TlsWish;
use crate::queue::message::{Body, Message};
use crate::queue::store::{LoadFailed, Place};
use crate::sasl::Mechanism;
use crate::time::Instant;

/// What the receiver sees of us as one: a set of MX hosts (or a route's hosts) × an egress source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    /// The hosts in the order to try, equal preferences already shuffled.
    pub hosts: Vec<Hop>,
    /// For logs and `queue list`: the domain, or the route.
    pub name: String,
    /// The TLS that is asked for.
    pub tls: TlsLevel,
    /// How TLS begins, where a route says it.
    pub tls_mode: Option<TlsMode>,
    /// How to log in there, for a route that wants it.
    pub login: Option<Login>,
    /// A route may name a loopback or private host on purpose; an MX may not.
    pub route: bool,
    /// The names of the hosts are certain: an operator wrote them, or DNSSEC proved them.
    pub authentic: bool,
    /// What the domain's MTA-STS policy asks of the hosts (RFC 8461 §5): `Enforce` for a verified
    /// certificate, `Testing` for a report. None where there is no policy.
    pub sts: Option<crate::sts::Mode>,
    /// What is spoken there.
    pub protocol: Protocol,
    /// The address to send from; none lets the system choose.
    pub source: Option<IpAddr>,
    /// Messages on one connection.
    pub messages_max: u32,
}

impl Lane {
    /// The same hosts as if their domain published no policy: for messages that go by none. RFC 8689 §4.2.2.
    #[must_use]
    pub fn without_policy(&self) -> Self {
        let mut lane = self.clone();
        lane.sts = None;
        // Signed names are for DANE, which the configuration may ask for too.
        lane.authentic = self.authentic && (self.route || self.tls == TlsLevel::Dane);
        lane.hosts.iter_mut().for_each(|hop| hop.stray = false);
        lane
    }

    /// Whether a host is one that the domain's MTA-STS policy does not name.
    pub(super) fn is_stray(&self, host: &HostPort) -> bool {
        self.hosts.iter().any(|hop| hop.stray && hop.host == *host)
    }

    /// How TLS begins on this port. Behind a port of a mail exchanger, whichever it is, is SMTP.
    #[must_use]
    pub fn tls_mode(&self, port: u16) -> TlsMode {
        match (self.route, self.tls_mode) {
            (true, mode) => mode.unwrap_or(TlsMode::of_port(port)),
            (false, _) => TlsMode::StartTls,
        }
    }
}

/// One host of a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// Its name or address, and its port.
    pub host: HostPort,
    /// Its MX preference; 0 for a route's host.
    pub preference: u16,
    /// The domain's MTA-STS policy is enforced, and does not name it (RFC 8461 §4.1): it is used only if
    /// TLSA records decide over it, or for a message that goes by no policy.
    pub stray: bool,
}

impl Hop {
    /// The hop of a mail exchanger.
    #[must_use]
    pub fn from_mx(mx: &Mx, port: u16) -> Self {
        Self {
            host: HostPort {
                host: mx.host.clone(),
                port,
            },
            preference: mx.preference,
            stray: false,
        }
    }
}

/// A user of a smart host.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user's name.
    pub username: String,
    /// What proves it.
    pub secret: LoginSecret,
    /// The mechanism; none for the best that the host offers.
    pub mechanism: Option<Mechanism>,
}

/// What proves a user to a smart host.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum LoginSecret {
    /// A password.
    Password(String),
    /// A bearer token from there.
    Token(TokenSource),
}

/// A bearer token. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// One message for the recipients of one destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its id.
    pub id: MessageId,
    /// Where its record is.
    pub place: Place,
    /// Which recipients, as indexes in `Envelope::recipients`, ascending.
    pub recipients: Vec<u32>,
    /// The message and its body, if they are still in memory; otherwise the delivery loads them.
    pub loaded: Option<Arc<Loaded>>,
    /// Attempts before this one.
    pub attempts: u32,
    /// Where it goes: a certificate may name the domain in the place of the host (RFC 7672 §3.2.2).
    pub domain: Arc<str>,
    /// What its sender said of TLS.
    pub tls: TlsWish,
}

/// A message with its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The message.
    pub message: Message,
    /// Its bytes.
    pub body: Body,
}

/// What a delivery asks of its runtime.
#[derive(Debug)]
pub enum Request {
    /// Find the addresses of a host. Answered by `Resolved`.
    Resolve(String),
    /// Find the TLSA records of a host and its port. Answered by `Tlsa`.
    Tlsa(String, u16),
    /// Ask whether a name is an alias. Answered by `Alias`.
    Alias(String),
    /// Close what is open and connect. Answered by `Connected`.
    Connect {
        /// Where to.
        to: SocketAddr,
        /// Where from.
        source: Option<IpAddr>,
        /// When to give up.
        until: Instant,
    },
    /// Read a message back. Answered by `Loaded`.
    Load(MessageId, Place),
    /// Read a piece of a spooled body. Answered by `Body`.
    ReadBody {
        /// The message.
        id: MessageId,
        /// The first octet.
        offset: u64,
        /// The most octets.
        max: usize,
    },
    /// Only write what is on the wire, so that the next burst has room. Answered by `Flushed`.
    Flush,
    /// Tell the engine. Answered by `Next`.
    Report(Report),
    /// Get a bearer token. Answered by `Token`.
    Token {
        /// Where from.
        source: TokenSource,
        /// One that the host did not take: another one is wanted.
        refused: Option<Token>,
    },
}

/// What the runtime answers.
#[derive(Debug)]
pub enum Answer {
    /// To `Resolve`.
    Resolved(AddressAnswer),
    /// To `Tlsa`.
    Tlsa(TlsaAnswer),
    /// To `Alias`.
    Alias(AliasAnswer),
    /// To `Connect`: the local address, or the reason.
    Connected(Result<SocketAddr, std::io::ErrorKind>),
    /// To `Load`.
    Loaded(Result<Arc<Loaded>, LoadFailed>),
    /// To `ReadBody`.
    Body(Result<Bytes, LoadFailed>),
    /// To `Flush`.
    Flushed,
    /// To `Report`.
    Next(Next),
    /// To `Token`: a token, or why there is none.
    Token(Result<Token, String>),
}

/// What a delivery tells the engine.
#[derive(Debug)]
pub enum Report {
    /// A message was tried: an outcome for each recipient of its job. Answered by `Next`.
    Tried(Box<Tried>),
    /// The job could not be tried since no host of the lane could be used. The engine backs the lane
    /// off. Answered by `Next::Quit`.
    Unreachable(Box<Tried>),
    /// The connection ended (also by a failure of the runtime): its place in the lane is free, and a
    /// job that it had and did not report goes back. No answer.
    Ended,
}

/// One attempt at one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// The message.
    pub id: MessageId,
    /// For each recipient of the job: its index and what became of it.
    pub outcomes: Vec<(u32, Outcome)>,
    /// Where and how it was tried.
    pub evidence: Evidence,
    /// Whether the connection can take another message.
    pub reusable: bool,
    /// The message, if it is in memory by now: events name its recipients.
    pub loaded: Option<Arc<Loaded>>,
    /// The TLS sessions that were made or tried since the report before this one, for TLS-RPT. A message on
    /// a connection that was open already brings none, and neither does a route: its hosts are no mail
    /// exchangers.
    pub sessions: Vec<TlsSession>,
}

/// One TLS session, or the failed try at one: what a report of RFC 8460 §4 counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSession {
    /// Which policy it was held to.
    pub policy: TlsPolicyType,
    /// The TLSA records, as `3 1 1 0d6f..` (RFC 6698 §2.2); empty for the other policies.
    pub tlsa: Vec<String>,
    /// The host's name.
    pub host: String,
    /// Its address; none if it came to no connection.
    pub address: Option<IpAddr>,
    /// Our address; likewise.
    pub local: Option<IpAddr>,
    /// What was wrong by the policy. Mail may have gone on in spite of it, where the policy is in testing
    /// or cannot be checked.
    pub failure: Option<TlsFailureKind>,
    /// The failure in words; empty without one.
    pub why: String,
}

impl TlsSession {
    /// A session that was not tried since this policy forbids it, for this reason.
    pub(super) fn untried(
        host: &HostPort,
        policy: TlsPolicyType,
        failure: TlsFailureKind,
        why: &str,
    ) -> Self {
        Self {
            policy,
            tlsa: Vec::new(),
            host: host.host.clone(),
            address: None,
            local: None,
            failure: Some(failure),
            why: why.to_owned(),
        }
    }
}

/// What a session was held to: `policy-type` of RFC 8460 §4.4.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum TlsPolicyType {
    /// DANE.
    Tlsa,
    /// MTA-STS.
    Sts,
    /// Neither.
    NoPolicyFound,
}

/// What was wrong with a session: `result-type` of RFC 8460 §4.3.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum TlsFailureKind {
    /// The host does not offer STARTTLS, or refused it.
    StarttlsNotSupported,
    /// The certificate names other hosts.
    CertificateHostMismatch,
    /// The certificate is past its time, or before it.
    CertificateExpired,
    /// The certificate chains to nothing that is believed.
    CertificateNotTrusted,
    /// All else: the handshake failed, or the certificate is not the one that TLSA records name.
    ValidationFailure,
    /// There are TLSA records, and none can be used.
    TlsaInvalid,
    /// The resolver gave no answer about TLSA records that may be believed.
    DnssecInvalid,
    /// DANE is asked for by configuration, and the host has none.
    DaneRequired,
    /// The policy of MTA-STS could not be fetched.
    StsPolicyFetchError,
    /// What was fetched is no policy.
    StsPolicyInvalid,
    /// The policy's host has no certificate that verifies.
    StsWebpkiInvalid,
}

/// As a report names it.
impl fmt::Display for TlsFailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StarttlsNotSupported => "starttls-not-supported",
            Self::CertificateHostMismatch => "certificate-host-mismatch",
            Self::CertificateExpired => "certificate-expired",
            Self::CertificateNotTrusted => "certificate-not-trusted",
            Self::ValidationFailure => "validation-failure",
            Self::TlsaInvalid => "tlsa-invalid",
            Self::DnssecInvalid => "dnssec-invalid",
            Self::DaneRequired => "dane-required",
            Self::StsPolicyFetchError => "sts-policy-fetch-error",
            Self::StsPolicyInvalid => "sts-policy-invalid",
            Self::StsWebpkiInvalid => "sts-webpki-invalid",
        })
    }
}

/// What became of one recipient in one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver took responsibility.
    Delivered(Reason),
    /// Try again later.
    Deferred {
        /// Why.
        reason: Reason,
        /// "Try again in N minutes", as the receiver said it.
        retry_after: Option<Duration>,
        /// The reply to the final dot never came: it may have been delivered.
        in_doubt: bool,
    },
    /// It will never be delivered.
    Bounced(Reason),
}

/// Why, in the terms of a DSN: a reply of the receiver, or our own finding.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Reason {
    /// What was being done: `store`, `resolve`, `policy`, `connect`, `greeting`, `ehlo`, `tls`, `auth`,
    /// `mail`, `rcpt`, `data`, `body`, `dot`.
    pub stage: String,
    /// The reply code; none if there was no reply.
    pub code: Option<u16>,
    /// The enhanced status code, of the reply or ours, as `5.1.1`.
    pub status: String,
    /// The reply's text or our words, sanitised: printable, one line, at most 512 octets.
    pub text: String,
    /// The rule that decided, e.g. `rcpt-5xx`, `null-mx`, `tls-required`.
    pub rule: String,
}

impl Reason {
    /// The rule of a message that is damaged in the store: it can never be delivered.
    pub const DAMAGED: &'static str = "store-damaged";

    /// Whether the message itself is damaged.
    #[must_use]
    pub fn tells_damage(&self) -> bool {
        self.rule == Self::DAMAGED
    }
}

/// `450 4.2.0 Greylisted`: the codes that there are, each once, and the text.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(code) = self.code {
            write!(f, "{code} ")?;
        }
        // The text of a reply is as the host wrote it: with the enhanced code, where it gives one.
        let told = self.text.split(' ').next() == Some(self.status.as_str());
        if !told && !self.status.is_empty() {
            write!(f, "{} ", self.status)?;
        }
        f.write_str(&self.text)
    }
}

/// Where and how an attempt was made.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Evidence {
    /// The host's name, if one was reached for.
    pub host: Option<String>,
    /// Its address.
    pub address: Option<SocketAddr>,
    /// Our address.
    pub local: Option<SocketAddr>,
    /// TLS: protocol and suite, as `TLSv1.3 TLS_AES_256_GCM_SHA384`; none in clear text.
    pub tls: Option<String>,
    /// What the certificate proved: `verified`, or why not.
    pub certificate: Option<String>,
    /// The TLS policy in force and where it came from, as `opportunistic (config)`.
    pub tls_policy: Option<String>,
    /// The MTA-STS policy of the domain, as `enforce id=20260101 age=3600s`; none if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mta_sts: Option<String>,
    /// What was wrong with TLS, in the terms of TLS-RPT (RFC 8460 §4.3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_failure: Option<TlsFailureKind>,
    /// The receiver offers DSN (RFC 3461): what it took it also reports on. Where this is false, a
    /// report of success that the sender asked for is ours to make.
    #[serde(default)]
    pub dsn: bool,
    /// MAIL FROM, where it was a [return path](crate::bounce::return_path) and not the sender. Several
    /// recipients have one each: that of the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub return_path: Option<String>,
    /// Hosts and addresses that were tried before this one, with what went wrong.
    pub before: Vec<String>,
    /// How long the attempt took, in milliseconds.
    pub millis: u64,
}
