//! One open connection to a host: the channel, the SMTP client on it, and what is to be remembered of
//! it. It carries bytes between the two and decides nothing.

use std::net::SocketAddr;
use std::sync::Arc;

use smtp_proto::client::{Capabilities, Connection, Event, Fatal, Progress, SendError};

use super::envelope::Standing;
use super::finding::Loss;
use super::io::{Evidence, Job, Lane, TlsFailureKind, TlsSession};
use super::outcome::{Seen, Then};
use super::plan::Candidate;
use super::tls_policy::{TlsFault, TlsPolicy};
use crate::channel::{Channel, ClientTls, TlsFailure, Verdict, Verify};
use crate::queue::handling::TlsWish;
use crate::time::UnixTime;

/// An open connection.
#[derive(Debug)]
pub(super) struct Link {
    /// Whom it leads to.
    pub(super) candidate: Candidate,
    /// Our end.
    pub(super) local: SocketAddr,
    /// The TLS that it is held to.
    pub(super) policy: TlsPolicy,
    /// It is certain that this is the host to talk to, if it is the one that its name says.
    authentic: bool,
    /// An operator named the host.
    route: bool,
    /// It was made for a message that goes by no policy of the receiver: others may need more.
    relaxed: bool,
    /// What its certificate proves by the TLSA records of the host, for the domain of the job in hand.
    by_tlsa: Option<Verdict>,
    /// The client.
    pub(super) smtp: Connection,
    /// Messages that ended on it.
    pub(super) messages: u32,
    /// Transactions that began on it.
    pub(super) transactions: u32,
    /// A transaction was begun and not ended: RSET comes before the next MAIL.
    pub(super) open_transaction: bool,
    /// What becomes of it after the message in hand.
    pub(super) then: Then,
    /// The return path of the last transaction of the message in hand, if it had one.
    pub(super) return_path: Option<String>,
    /// The reply that refused STARTTLS, if it goes on in clear text.
    pub(super) tls_refused: Option<String>,
    channel: Channel,
    /// A handshake is on the way, and whether STARTTLS asked for it.
    handshake: Option<Asked>,
    /// Commands and body that wait for the next flush.
    plain: Vec<u8>,
    /// TLS ends with the next flush.
    closing: bool,
}

/// The room for commands that a connection keeps, in octets.
const PLAIN_KEPT: usize = 512;

/// What began a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// The 220 to STARTTLS.
    StartTls,
    /// The port.
    Port,
}

/// What bytes from the peer came to.
#[derive(Debug, Default)]
pub(super) struct Received {
    /// Replies, in order.
    pub(super) events: Vec<Event>,
    /// The handshake ended well.
    pub(super) secured: bool,
    /// Nothing more can be read.
    pub(super) end: Option<End>,
}

/// Why nothing more can be read.
#[derive(Debug)]
pub(super) enum End {
    /// The peer ended TLS.
    Closed,
    /// TLS failed.
    Tls(TlsFailure),
    /// The peer broke SMTP.
    Smtp(Fatal),
}

impl From<End> for Loss {
    fn from(end: End) -> Self {
        match end {
            End::Closed => Self::Closed,
            End::Tls(why) => Self::Protocol(why.to_string()),
            End::Smtp(why) => why.into(),
        }
    }
}

impl Link {
    /// A connection that was just made.
    pub(super) fn new(
        candidate: Candidate,
        local: SocketAddr,
        policy: TlsPolicy,
        lane: &Lane,
        wish: TlsWish,
    ) -> Self {
        Self {
            candidate,
            local,
            policy,
            authentic: lane.authentic,
            route: lane.route,
            relaxed: wish == TlsWish::NotRequired,
            by_tlsa: None,
            smtp: Connection::new(),
            messages: 0,
            transactions: 0,
            open_transaction: false,
            then: Then::Keep,
            return_path: None,
            tls_refused: None,
            channel: Channel::plain(),
            handshake: None,
            plain: Vec::new(),
            closing: false,
        }
    }

    /// What the host offers.
    pub(super) fn offers(&self) -> &Capabilities {
        self.smtp.capabilities()
    }

    /// Says something.
    pub(super) fn send(
        &mut self,
        say: impl FnOnce(&mut Connection, &mut Vec<u8>) -> Result<(), SendError>,
    ) -> Result<(), SendError> {
        say(&mut self.smtp, &mut self.plain)
    }

    /// Whether a message like this may go over it: it was made for one that needs as much, and the
    /// certificate proves the host for the domain that this one goes to. What a message needs besides is
    /// asked of it when it is sent (REQUIRETLS: [`super::envelope`]).
    pub(super) fn suits(&mut self, job: &Job, tls: &ClientTls, now: UnixTime) -> bool {
        let strict = !self.relaxed || job.tls == TlsWish::NotRequired;
        strict && (!self.is_secured() || self.judge(&job.domain, tls, now).is_ok())
    }

    /// Judges the certificate by the policy, for a message to this domain.
    pub(super) fn judge(
        &mut self,
        domain: &str,
        tls: &ClientTls,
        now: UnixTime,
    ) -> Result<(), TlsFault> {
        if let Some(records) = self.policy.associations() {
            // RFC 7672 §3.2.2: the TLSA base domain, and the domain whose mail exchanger it is.
            let base = self.policy.server_name().unwrap_or(&self.candidate.host);
            let domain = idna::domain_to_ascii(domain).ok().filter(|_| !self.route);
            let names: Vec<&str> = std::iter::once(base).chain(domain.as_deref()).collect();
            self.by_tlsa = self.channel.verdict_by_tlsa(tls, records, &names, now);
        }
        self.policy
            .after_handshake(self.channel.verdict(), self.by_tlsa.as_ref())
    }

    /// Begins the TLS handshake; whatever certificate comes, it is judged when the handshake is over.
    pub(super) fn start_tls(
        &mut self,
        asked: Asked,
        tls: &Arc<ClientTls>,
        now: UnixTime,
    ) -> Result<(), TlsFailure> {
        self.handshake = Some(asked);
        let name = self.policy.server_name().unwrap_or(&self.candidate.host);
        self.channel.start_client(tls, Verify::Record, name, now)
    }

    /// Whether what is said now goes under TLS.
    pub(super) fn is_secured(&self) -> bool {
        self.channel.is_tls() && self.handshake.is_none()
    }

    /// The channel binding of the TLS session.
    pub(super) fn tls_exporter(&self) -> Option<[u8; 32]> {
        self.channel.tls_exporter()
    }

    /// Takes bytes from the peer: all of them, before anything more is said.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Received {
        let mut received = Received::default();
        let mut scratch = Vec::new();
        let mut rest = match self.channel.receive(bytes, &mut scratch) {
            Ok(plain) => plain,
            Err(why) => {
                received.end = Some(End::Tls(why));
                return received;
            }
        };
        if let Some(asked) = self.handshake
            && !self.channel.handshaking()
        {
            self.handshake = None;
            received.secured = true;
            if asked == Asked::StartTls {
                self.smtp.tls_started();
            }
        }
        loop {
            match self.smtp.receive(rest) {
                Ok(Progress::Event { used, event }) => {
                    rest = &rest[used..];
                    received.events.push(event);
                }
                Ok(Progress::NeedMore { .. }) => break,
                Err(why) => {
                    received.end = Some(End::Smtp(why));
                    return received;
                }
            }
        }
        if self.channel.peer_closed() {
            received.end = Some(End::Closed);
        }
        received
    }

    /// Moves all that was said to `wire`, and all that TLS has to say.
    pub(super) fn flush(&mut self, wire: &mut Vec<u8>) {
        if self.handshake.is_some() {
            self.channel.flush(wire);
        } else {
            self.channel.send(&self.plain, wire);
            self.plain.clear();
            // A connection that waits holds no large buffer.
            self.plain.shrink_to(PLAIN_KEPT);
        }
        if self.closing {
            self.channel.close(wire);
        }
    }

    /// Says QUIT, if the host still listens. True if it will be answered.
    pub(super) fn quit(&mut self) -> bool {
        self.send(Connection::quit).is_ok()
    }

    /// Ends TLS, if it is in use, with the next flush.
    pub(super) fn close(&mut self) {
        self.closing = true;
    }

    /// Makes the end of the connection no milder than this.
    pub(super) fn end_with(&mut self, then: Then) {
        self.then = self.then.max(then);
    }

    /// What [`super::outcome::judge`] is told of it.
    pub(super) fn seen(&self) -> Seen {
        Seen {
            reused: self.messages > 0,
            accepted: false,
            tls_given_up: self.candidate.tls_given_up || self.tls_refused.is_some(),
            route: self.route,
            required: false,
        }
    }

    /// What [`super::envelope`] is told of it.
    pub(super) fn standing(&self, now: UnixTime) -> Standing {
        let proved = |verdict: Option<&Verdict>| verdict.is_some_and(Verdict::is_verified);
        let named = self.authentic || self.policy.names_host();
        let by_roots = named && proved(self.channel.verdict());
        Standing {
            verified: self.is_secured() && (by_roots || proved(self.by_tlsa.as_ref())),
            authenticated: self.smtp.is_authenticated(),
            now,
        }
    }

    /// Where and how it was tried.
    pub(super) fn evidence(&self) -> Evidence {
        Evidence {
            local: Some(self.local),
            tls: self.channel.protocol_suite(),
            certificate: self.certificate(),
            // What the host reports goes to its MAIL FROM.
            dsn: self.offers().has(smtp_proto::Extension::Dsn) && self.return_path.is_none(),
            return_path: self.return_path.clone(),
            tls_failure: self.remark().map(|(kind, _)| kind),
            ..self.candidate.evidence(Some(&self.policy))
        }
    }

    /// What the certificate proved, in words. Where TLSA records judge it, the roots' opinion is none.
    fn certificate(&self) -> Option<String> {
        match &self.by_tlsa {
            Some(Verdict::Verified) => Some("verified (TLSA)".to_owned()),
            Some(Verdict::NotVerified(flaw)) => Some(flaw.why.clone()),
            None => self.channel.verdict().map(Verdict::to_string),
        }
    }

    fn remark(&self) -> Option<(TlsFailureKind, String)> {
        self.policy.remark(self.channel.verdict())
    }

    /// The session that ends here, or goes on to take mail, for a report. `fault` is what ended it.
    pub(super) fn session(&self, fault: Option<&TlsFault>) -> TlsSession {
        let not_offered = || {
            let why = self.tls_refused.clone();
            let why = why.unwrap_or_else(|| "STARTTLS is not offered".to_owned());
            (TlsFailureKind::StarttlsNotSupported, why)
        };
        let failure = match fault {
            Some(fault) => Some((fault.kind(), fault.to_string())),
            None if !self.is_secured() => Some(not_offered()),
            None => self.remark(),
        };
        let (policy, tlsa) = self.policy.reported();
        let (failure, why) = failure.unzip();
        TlsSession {
            policy,
            tlsa,
            host: self.candidate.host.clone(),
            address: Some(self.candidate.address.ip()),
            local: Some(self.local.ip()),
            failure,
            why: why.unwrap_or_default(),
        }
    }
}

impl Candidate {
    /// Where it was tried to reach the host.
    pub(super) fn evidence(&self, policy: Option<&TlsPolicy>) -> Evidence {
        Evidence {
            host: Some(self.host.clone()),
            address: Some(self.address),
            tls_policy: policy.map(TlsPolicy::to_string),
            ..Evidence::default()
        }
    }
}
