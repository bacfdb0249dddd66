//! The channel under every connection: clear text, or TLS as server or client. The only module that
//! names the methods of the TLS library.
//!
//! ```text
//!            start_server / start_client            handshake ends
//!   Plain ─────────────────────────────▶ Handshake ────────────────▶ Secured ──▶ peer_closed()
//!                                            │                          │   (close_notify came)
//!                                            └───── TlsFailure ◀────────┘
//! ```
//!
//! A channel moves bytes and knows nothing of sockets: ciphertext goes in by [`Channel::receive`], and
//! what must be sent is appended to a `wire` by [`Channel::send`] and [`Channel::flush`]. It never
//! goes back from TLS to clear text: when TLS ends, the connection ends.
//!
//! A client's handshake succeeds with any certificate that the peer can sign for; what the certificate
//! proves is a [`Verdict`], judged after the handshake and before a single octet is sent under it. So
//! opportunistic delivery (RFC 7435) can go on and say what was wrong, and policy that needs a proof
//! asks for [`Verify::Roots`] or reads the verdict.
//!
//! Implements RFC 8446 and RFC 5246 (TLS 1.3 and 1.2) through rustls, RFC 9325 (no session is resumed),
//! RFC 7301 (ALPN), RFC 9266 (`tls-exporter`), and RFC 6698, 7671 and 7672 (TLSA records).

mod dane;
mod setup;

use std::fmt;
use std::io::{BufRead as _, Write as _};
use std::sync::Arc;

use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConnection, Connection, Error, ProtocolVersion, ServerConnection};
use rustls_pki_types::ServerName;

pub use dane::Associations;
pub use rustls_pki_types::CertificateDer;
pub(crate) use setup::provider;
pub use setup::{
    ClientCertificate, ClientIdentity, ClientTls, Flaw, FlawKind, ServerTls, TlsSetupError, Verdict,
};

use crate::time::UnixTime;

/// The label of RFC 9266 §2.
const EXPORTER_LABEL: &[u8] = b"EXPORTER-Channel-Binding";

/// Whether a channel is used with a certificate that proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// Yes: the verdict is recorded, and the caller decides.
    Record,
    /// No: [`Channel::receive`] fails when the handshake ends with a certificate that is not verified.
    Roots,
}

/// Why TLS ended, or did not begin. The connection is of no more use; what [`Channel::flush`] still
/// gives is the alert for the peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsFailure {
    /// The name of the peer cannot be in a certificate.
    Name(String),
    /// The peer broke the protocol, or shares no version, suite or application protocol with us.
    Protocol(String),
    /// [`Verify::Roots`] was asked for, and the certificate is not verified.
    Certificate(String),
    /// The channel is under TLS already.
    AlreadyStarted,
}

impl fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "{name:?} cannot be the name in a certificate"),
            Self::Protocol(why) => write!(f, "TLS failed: {why}"),
            Self::Certificate(why) => write!(f, "the certificate is not verified: {why}"),
            Self::AlreadyStarted => f.write_str("TLS is in use already"),
        }
    }
}

impl std::error::Error for TlsFailure {}

/// The bytes of one connection, in clear text or under TLS. A plain channel is one pointer.
#[derive(Debug, Default)]
pub struct Channel(Option<Box<Tls>>);

#[derive(Debug)]
struct Tls {
    connection: Connection,
    peer_closed: bool,
    /// For a client until its handshake ends: what judges the certificate.
    judge: Option<Judge>,
    verdict: Option<Verdict>,
    /// For a server that asks clients for certificates: what judges them.
    clients: Option<Arc<dyn ClientCertVerifier>>,
}

#[derive(Debug)]
struct Judge {
    tls: Arc<ClientTls>,
    name: ServerName<'static>,
    at: UnixTime,
    verify: Verify,
}

impl Channel {
    /// A channel in clear text.
    #[must_use]
    pub fn plain() -> Self {
        Self(None)
    }

    /// Waits for a client's handshake from now on.
    ///
    /// # Errors
    /// [`TlsFailure::AlreadyStarted`], or the library refuses its configuration.
    pub fn start_server(&mut self, tls: &ServerTls) -> Result<(), TlsFailure> {
        if self.is_tls() {
            return Err(TlsFailure::AlreadyStarted);
        }
        let connection =
            ServerConnection::new(Arc::clone(&tls.config)).map_err(|e| protocol(&e))?;
        self.0 = Some(Box::new(Tls {
            connection: Connection::Server(connection),
            peer_closed: false,
            judge: None,
            verdict: None,
            clients: tls.clients.clone(),
        }));
        Ok(())
    }

    /// Begins a handshake with the server of this name (a host name or an IP address); what it says
    /// first waits for [`Self::flush`]. Its certificate is judged at the time `now`.
    ///
    /// # Errors
    /// [`TlsFailure::Name`], [`TlsFailure::AlreadyStarted`], or the library refuses its configuration.
    pub fn start_client(
        &mut self,
        tls: &Arc<ClientTls>,
        verify: Verify,
        name: &str,
        now: UnixTime,
    ) -> Result<(), TlsFailure> {
        if self.is_tls() {
            return Err(TlsFailure::AlreadyStarted);
        }
        let name = name.strip_suffix('.').unwrap_or(name);
        let name =
            ServerName::try_from(name.to_owned()).map_err(|_| TlsFailure::Name(name.to_owned()))?;
        let connection = ClientConnection::new(Arc::clone(&tls.config), name.clone())
            .map_err(|e| protocol(&e))?;
        self.0 = Some(Box::new(Tls {
            connection: Connection::Client(connection),
            peer_closed: false,
            judge: Some(Judge {
                tls: Arc::clone(tls),
                name,
                at: now,
                verify,
            }),
            verdict: None,
            clients: None,
        }));
        Ok(())
    }

    /// Takes bytes from the peer and gives what they say in clear text: the bytes themselves on a plain
    /// channel, or what they decrypt to, in `scratch`. What TLS has to answer waits for
    /// [`Self::flush`].
    ///
    /// # Errors
    /// [`TlsFailure`]. Text that came before the failure is lost: the peer cannot be trusted.
    pub fn receive<'b>(
        &mut self,
        bytes: &'b [u8],
        scratch: &'b mut Vec<u8>,
    ) -> Result<&'b [u8], TlsFailure> {
        let Some(tls) = &mut self.0 else {
            return Ok(bytes);
        };
        scratch.clear();
        tls.decrypt(bytes, scratch)?;
        tls.judge()?;
        Ok(scratch)
    }

    /// Appends to `wire` what carries `plain` to the peer, after all that waits. Under TLS the handshake
    /// must be over.
    pub fn send(&mut self, plain: &[u8], wire: &mut Vec<u8>) {
        match &mut self.0 {
            None => wire.extend_from_slice(plain),
            Some(tls) => tls.encrypt(plain, wire),
        }
    }

    /// Appends to `wire` what TLS has to say by itself: handshake messages and alerts.
    pub fn flush(&mut self, wire: &mut Vec<u8>) {
        if let Some(tls) = &mut self.0 {
            tls.flush(wire);
        }
    }

    /// Ends TLS with a close_notify, appended to `wire`. A plain channel has nothing to say.
    pub fn close(&mut self, wire: &mut Vec<u8>) {
        if let Some(tls) = &mut self.0 {
            tls.connection.send_close_notify();
            tls.flush(wire);
        }
    }

    /// Whether this channel is under TLS, or on the way to it.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.0.is_some()
    }

    /// Whether the handshake has begun and not ended.
    #[must_use]
    pub fn handshaking(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|tls| tls.connection.is_handshaking())
    }

    /// Whether [`Self::flush`] would append something.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|tls| tls.connection.wants_write())
    }

    /// Whether the peer ended TLS with a close_notify: all that it sent has arrived. A connection that
    /// ends under TLS without it was cut, perhaps by somebody in between. RFC 8446 §6.1.
    #[must_use]
    pub fn peer_closed(&self) -> bool {
        self.0.as_ref().is_some_and(|tls| tls.peer_closed)
    }

    /// Protocol and suite in the names of the registries, as `TLSv1.3 TLS_AES_256_GCM_SHA384`; none in
    /// clear text.
    #[must_use]
    pub fn protocol_suite(&self) -> Option<String> {
        let tls = &self.0.as_ref()?.connection;
        let suite = tls.negotiated_cipher_suite()?.suite();
        let suite = suite.as_str().unwrap_or("of another suite");
        // The library writes TLS13_ where the IANA registry writes TLS_.
        let suite = suite
            .strip_prefix("TLS13_")
            .map_or(suite.to_owned(), |s| format!("TLS_{s}"));
        let is_13 = tls.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        let version = if is_13 { "TLSv1.3" } else { "TLSv1.2" };
        Some(format!("{version} {suite}"))
    }

    /// What the server's certificate proved; none before the end of a client's handshake.
    #[must_use]
    pub fn verdict(&self) -> Option<&Verdict> {
        self.0.as_ref()?.verdict.as_ref()
    }

    /// What the server's certificates prove by TLSA records, for a host that may be called by any of these
    /// names; none before the end of a client's handshake. RFC 7672 §3.
    #[must_use]
    pub fn verdict_by_tlsa(
        &self,
        tls: &ClientTls,
        records: &Associations,
        names: &[&str],
        at: UnixTime,
    ) -> Option<Verdict> {
        self.verdict()?;
        let chain = self.peer_chain().unwrap_or_default();
        Some(records.judge(tls, chain, names, at))
    }

    /// What the client's certificate proves at this time; [`ClientCertificate::Absent`] too where none was
    /// asked for, and before the end of the handshake.
    #[must_use]
    pub fn client_certificate(&self, now: UnixTime) -> ClientCertificate {
        let asked = self
            .0
            .as_ref()
            .and_then(|tls| Some((tls, tls.clients.as_ref()?)));
        let Some((tls, roots)) = asked.filter(|(tls, _)| !tls.connection.is_handshaking()) else {
            return ClientCertificate::Absent;
        };
        let chain = tls.connection.peer_certificates().unwrap_or_default();
        setup::judge_client(chain, &**roots, now)
    }

    /// The certificates that the peer showed, leaf first.
    #[must_use]
    pub fn peer_chain(&self) -> Option<&[CertificateDer<'static>]> {
        self.0.as_ref()?.connection.peer_certificates()
    }

    /// The application protocol that was agreed on.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.0.as_ref()?.connection.alpn_protocol()
    }

    /// The channel binding `tls-exporter`. None in clear text, in a handshake, and under TLS 1.2, where
    /// it is safe with the extended master secret only. RFC 9266 §3.
    #[must_use]
    pub fn tls_exporter(&self) -> Option<[u8; 32]> {
        let tls = &self.0.as_ref()?.connection;
        if tls.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
            return None;
        }
        tls.export_keying_material([0; 32], EXPORTER_LABEL, Some(b""))
            .ok()
    }
}

impl Tls {
    fn decrypt(&mut self, mut bytes: &[u8], plain: &mut Vec<u8>) -> Result<(), TlsFailure> {
        // RFC 8446 §6.1: "Any data received after a closure alert has been received MUST be ignored."
        while !bytes.is_empty() && !self.peer_closed {
            // Reading from a slice fails only if the library's buffers are full: the peer sent a
            // handshake message beyond all bounds.
            let taken = self
                .connection
                .read_tls(&mut bytes)
                .map_err(|error| other(&error))?;
            let state = self
                .connection
                .process_new_packets()
                .map_err(|error| protocol(&error))?;
            self.peer_closed = state.peer_has_closed();
            let mut left = state.plaintext_bytes_to_read();
            plain.reserve(left);
            while left > 0 {
                let mut reader = self.connection.reader();
                let chunk = reader.fill_buf().map_err(|error| other(&error))?;
                plain.extend_from_slice(chunk);
                let length = chunk.len();
                reader.consume(length);
                left = if length == 0 {
                    0
                } else {
                    left.saturating_sub(length)
                };
            }
            if taken == 0 {
                break;
            }
        }
        Ok(())
    }

    fn encrypt(&mut self, mut plain: &[u8], wire: &mut Vec<u8>) {
        debug_assert!(plain.is_empty() || !self.connection.is_handshaking());
        // The library holds back at most 64 KiB: hand over, take out, until all is through.
        while !plain.is_empty() {
            let taken = self.connection.writer().write(plain).unwrap_or(0);
            if taken == 0 {
                break;
            }
            plain = &plain[taken..];
            self.flush(wire);
        }
        self.flush(wire);
    }

    fn flush(&mut self, wire: &mut Vec<u8>) {
        while self.connection.wants_write() {
            // Writing into a `Vec` does not fail.
            if self.connection.write_tls(wire).unwrap_or(0) == 0 {
                break;
            }
        }
    }

    /// Judges the server's certificate, once, as soon as the handshake is over.
    fn judge(&mut self) -> Result<(), TlsFailure> {
        if self.connection.is_handshaking() {
            return Ok(());
        }
        let Some(judge) = self.judge.take() else {
            return Ok(());
        };
        let chain = self.connection.peer_certificates().unwrap_or_default();
        let verdict = judge.tls.judge(chain, &judge.name, judge.at);
        self.verdict = Some(verdict.clone());
        match (judge.verify, verdict) {
            (Verify::Roots, Verdict::NotVerified(flaw)) => {
                self.connection.send_close_notify();
                Err(TlsFailure::Certificate(flaw.why))
            }
            (Verify::Roots, Verdict::Verified) | (Verify::Record, _) => Ok(()),
        }
    }
}

fn protocol(error: &Error) -> TlsFailure {
    TlsFailure::Protocol(error.to_string())
}

fn other(error: &std::io::Error) -> TlsFailure {
    TlsFailure::Protocol(error.to_string())
}

#[cfg(test)]
pub(crate) mod tests;
