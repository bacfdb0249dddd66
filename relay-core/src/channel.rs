//! The channel under every connection: clear text, or TLS as server or client. The only file that names
//! the methods of the TLS library.
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
//! RFC 7301 (ALPN) and RFC 9266 (`tls-exporter`).

use std::fmt;
use std::io::{BufRead as _, Write as _};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::NoServerSessionStorage;
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, Connection, DigitallySignedStruct, Error,
    ProtocolVersion, RootCertStore, ServerConfig, ServerConnection, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, TrustAnchor};

use crate::time::UnixTime;

/// What ALPN may name on a submission port. A client that names only others (`h2`, `http/1.1`) was
/// sent here by somebody else, and is refused; one that names none is a mail client.
const ALPN: [&[u8]; 2] = [b"smtp", b"esmtp"];

/// The label of RFC 9266 §2.
const EXPORTER_LABEL: &[u8] = b"EXPORTER-Channel-Binding";

#[cfg(not(any(feature = "aws-lc-rs", feature = "ring")))]
compile_error!("relay-core needs a TLS provider: turn on the feature `aws-lc-rs` or `ring`");

/// The TLS provider. aws-lc-rs is preferred where both are compiled in.
fn provider() -> CryptoProvider {
    #[cfg(feature = "aws-lc-rs")]
    return rustls::crypto::aws_lc_rs::default_provider();
    #[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
    return rustls::crypto::ring::default_provider();
}

/// The time that the TLS library is told. It asks for it to age session tickets only, and we have none:
/// certificates are judged by `ClientTls::judge`, at a time that comes from `Now`.
#[derive(Debug)]
struct NoClock;

impl TimeProvider for NoClock {
    fn current_time(&self) -> Option<rustls_pki_types::UnixTime> {
        Some(rustls_pki_types::UnixTime::since_unix_epoch(
            std::time::Duration::ZERO,
        ))
    }
}

/// A certificate, a key or a root that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSetupError(String);

impl fmt::Display for TlsSetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TlsSetupError {}

fn setup_error(error: &Error) -> TlsSetupError {
    TlsSetupError(if matches!(error, Error::InconsistentKeys(_)) {
        "the key does not belong to the certificate".into()
    } else if matches!(error, Error::NoCertificatesPresented) {
        "the chain holds no certificate".into()
    } else {
        error.to_string()
    })
}

/// What a server needs for TLS: its certificate chain and key. Shared by all connections.
///
/// No session is resumed: a ticket of one listener is worth nothing at another, and no state of an
/// earlier session comes back.
pub struct ServerTls(Arc<ServerConfig>);

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerTls")
    }
}

impl ServerTls {
    /// A server with this chain (leaf first) and its key.
    ///
    /// # Errors
    /// The chain is empty or malformed, the key is of an unknown kind, or they do not fit together.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Arc<Self>, TlsSetupError> {
        let mut config =
            ServerConfig::builder_with_details(Arc::new(provider()), Arc::new(NoClock))
                .with_safe_default_protocol_versions()
                .map_err(|error| setup_error(&error))?
                .with_no_client_auth()
                .with_single_cert(chain, key)
                .map_err(|error| setup_error(&error))?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.alpn_protocols = ALPN.iter().map(|name| name.to_vec()).collect();
        Ok(Arc::new(Self(Arc::new(config))))
    }
}

/// What a client needs for TLS: the roots that it believes. Shared by all connections.
pub struct ClientTls {
    config: Arc<ClientConfig>,
    roots: Arc<WebPkiServerVerifier>,
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientTls")
    }
}

impl ClientTls {
    /// A client that believes Mozilla's roots (of `webpki-roots`) and these.
    ///
    /// # Errors
    /// One of the extra roots is not a certificate.
    pub fn new(extra_roots: Vec<CertificateDer<'static>>) -> Result<Arc<Self>, TlsSetupError> {
        let mut store = RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS
                .iter()
                .map(TrustAnchor::to_owned)
                .collect(),
        };
        for root in extra_roots {
            store.add(root).map_err(|error| setup_error(&error))?;
        }
        let provider = Arc::new(provider());
        let roots =
            WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider))
                .build()
                .map_err(|error| TlsSetupError(error.to_string()))?;
        let mut config =
            ClientConfig::builder_with_details(Arc::clone(&provider), Arc::new(NoClock))
                .with_safe_default_protocol_versions()
                .map_err(|error| setup_error(&error))?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
                .with_no_client_auth();
        // A resumed session shows no certificate, so there would be nothing to judge.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(Self {
            config: Arc::new(config),
            roots,
        }))
    }

    /// What this chain proves for this name at this time.
    fn judge(&self, chain: &[CertificateDer<'_>], name: &ServerName<'_>, now: UnixTime) -> Verdict {
        let Some((leaf, rest)) = chain.split_first() else {
            return Verdict::NotVerified("the peer showed no certificate".into());
        };
        let now = rustls_pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_millis(
            now.as_millis(),
        ));
        match self.roots.verify_server_cert(leaf, rest, name, &[], now) {
            Ok(_) => Verdict::Verified,
            Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
                Verdict::NotVerified("it chains to no root that we know (self-signed?)".into())
            }
            Err(Error::InvalidCertificate(error)) => Verdict::NotVerified(error.to_string()),
            Err(error) => Verdict::NotVerified(error.to_string()),
        }
    }
}

/// Lets the handshake succeed with any certificate whose key signs it: the certificate is judged after.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: rustls_pki_types::UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Whether a channel is used with a certificate that proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// Yes: the verdict is recorded, and the caller decides.
    Record,
    /// No: [`Channel::receive`] fails when the handshake ends with a certificate that is not verified.
    Roots,
}

/// What the peer's certificate proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It names the host and chains to a root that we believe.
    Verified,
    /// It does not, for this reason.
    NotVerified(String),
}

impl Verdict {
    /// Whether it is [`Verdict::Verified`].
    #[must_use]
    pub fn is_verified(&self) -> bool {
        matches!(self, Self::Verified)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verified => f.write_str("verified"),
            Self::NotVerified(why) => f.write_str(why),
        }
    }
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
        let connection = ServerConnection::new(Arc::clone(&tls.0)).map_err(|e| protocol(&e))?;
        self.0 = Some(Box::new(Tls {
            connection: Connection::Server(connection),
            peer_closed: false,
            judge: None,
            verdict: None,
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
            (Verify::Roots, Verdict::NotVerified(why)) => {
                self.connection.send_close_notify();
                Err(TlsFailure::Certificate(why))
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
