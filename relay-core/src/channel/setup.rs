//! What a side needs for TLS before it has a connection: certificates, keys, roots; and the judgement of
//! a server's certificate.

use std::fmt;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, TrustAnchor};

use sha2::{Digest as _, Sha256};

use crate::config::Demand;
use crate::time::UnixTime;

/// What ALPN may name on a submission port. A client that names only others (`h2`, `http/1.1`) was
/// sent here by somebody else, and is refused; one that names none is a mail client.
const ALPN: [&[u8]; 2] = [b"smtp", b"esmtp"];

#[cfg(not(any(feature = "aws-lc-rs", feature = "ring")))]
compile_error!("relay-core needs a TLS provider: turn on the feature `aws-lc-rs` or `ring`");

/// The TLS provider. aws-lc-rs is preferred where both are compiled in.
pub(crate) fn provider() -> CryptoProvider {
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
pub struct ServerTls {
    pub(super) config: Arc<ServerConfig>,
    chain: Vec<CertificateDer<'static>>,
    /// What judges the certificates of clients, where they are asked for any.
    pub(super) clients: Option<Arc<dyn ClientCertVerifier>>,
}

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
        let config = ServerConfig::builder_with_details(Arc::new(provider()), Arc::new(NoClock))
            .with_safe_default_protocol_versions()
            .map_err(|error| setup_error(&error))?
            .with_no_client_auth()
            .with_single_cert(chain.clone(), key)
            .map_err(|error| setup_error(&error))?;
        Ok(Arc::new(Self {
            config: Arc::new(without_sessions(config)),
            chain,
            clients: None,
        }))
    }

    /// The same, and clients are asked for a certificate that one of these roots vouches for.
    ///
    /// Under [`Demand::Required`] the handshake fails without one. Whatever one is shown, it is judged
    /// after the handshake, by [`Channel::client_certificate`](super::Channel::client_certificate).
    ///
    /// # Errors
    /// There is no root, or one of them is not a certificate.
    pub fn asking_clients(
        &self,
        roots: &[CertificateDer<'static>],
        demand: Demand,
    ) -> Result<Arc<Self>, TlsSetupError> {
        let mut store = RootCertStore::empty();
        for root in roots {
            store
                .add(root.clone())
                .map_err(|error| setup_error(&error))?;
        }
        let provider = Arc::new(provider());
        let judge =
            WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider))
                .build()
                .map_err(|error| TlsSetupError(error.to_string()))?;
        let asks = AnyClient {
            provider: Arc::clone(&provider),
            judge: Arc::clone(&judge),
            mandatory: demand == Demand::Required,
        };
        let config = ServerConfig::builder_with_details(provider, Arc::new(NoClock))
            .with_safe_default_protocol_versions()
            .map_err(|error| setup_error(&error))?
            .with_client_cert_verifier(Arc::new(asks))
            .with_cert_resolver(Arc::clone(&self.config.cert_resolver));
        Ok(Arc::new(Self {
            config: Arc::new(without_sessions(config)),
            chain: self.chain.clone(),
            clients: Some(judge),
        }))
    }

    /// Whether both show the same certificates.
    #[must_use]
    pub fn shows_the_same_as(&self, other: &Self) -> bool {
        self.chain == other.chain
    }
}

/// No tickets, no cache: a session is never resumed, at this listener or another, under this name or
/// another, and what a client certificate proved is proved at each connection.
fn without_sessions(mut config: ServerConfig) -> ServerConfig {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = ALPN.iter().map(|name| name.to_vec()).collect();
    config
}

/// Asks clients for a certificate, and lets the handshake succeed with any whose key signs it: it is
/// judged after, at a time that comes from `Now`.
#[derive(Debug)]
struct AnyClient {
    provider: Arc<CryptoProvider>,
    judge: Arc<dyn ClientCertVerifier>,
    mandatory: bool,
}

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.judge.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: rustls_pki_types::UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// What is known of a client by its certificate, which one of our roots vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientIdentity {
    /// The digest of the certificate in DER.
    pub sha256: [u8; 32],
    /// The DNS names of its subject.
    pub dns_names: Vec<String>,
    /// The URIs of its subject.
    pub uris: Vec<String>,
}

/// What a client's certificate proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientCertificate {
    /// There is none.
    Absent,
    /// It is not verified, for this reason.
    NotVerified(String),
    /// It is who it says.
    Verified(Box<ClientIdentity>),
}

/// Judges the certificates that a client showed, leaf first, by these roots at this time.
pub(super) fn judge_client(
    chain: &[CertificateDer<'_>],
    roots: &dyn ClientCertVerifier,
    now: UnixTime,
) -> ClientCertificate {
    let Some((leaf, rest)) = chain.split_first() else {
        return ClientCertificate::Absent;
    };
    let judged = roots
        .verify_client_cert(leaf, rest, pki_time(now))
        .and_then(|_| identity(leaf));
    match judged {
        Ok(identity) => ClientCertificate::Verified(Box::new(identity)),
        Err(Error::InvalidCertificate(error)) => ClientCertificate::NotVerified(words(&error)),
        Err(error) => ClientCertificate::NotVerified(error.to_string()),
    }
}

fn identity(leaf: &CertificateDer<'_>) -> Result<ClientIdentity, Error> {
    let parsed = webpki::EndEntityCert::try_from(leaf)
        .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    Ok(ClientIdentity {
        sha256: Sha256::digest(leaf).into(),
        dns_names: parsed.valid_dns_names().map(str::to_owned).collect(),
        uris: parsed.valid_uri_names().map(str::to_owned).collect(),
    })
}

/// What a client needs for TLS: the roots that it believes. Shared by all connections.
pub struct ClientTls {
    pub(super) config: Arc<ClientConfig>,
    pub(super) roots: Arc<WebPkiServerVerifier>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
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
        let algorithms = provider.signature_verification_algorithms;
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
            algorithms,
        }))
    }

    /// What a client with these roots thinks of a server's own certificate under this name.
    #[must_use]
    pub fn judge_server(&self, server: &ServerTls, name: &str, now: UnixTime) -> Verdict {
        match ServerName::try_from(name) {
            Ok(name) => self.judge(&server.chain, &name, now),
            Err(_) => Verdict::NotVerified(Flaw::new(
                FlawKind::Name,
                &format!("{name} cannot be a certificate's name"),
            )),
        }
    }

    /// What this chain proves for this name at this time.
    pub(super) fn judge(
        &self,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Verdict {
        let Some((leaf, rest)) = chain.split_first() else {
            let why = "the peer showed no certificate";
            return Verdict::NotVerified(Flaw::new(FlawKind::Other, why));
        };
        let now = pki_time(now);
        match self.roots.verify_server_cert(leaf, rest, name, &[], now) {
            Ok(_) => Verdict::Verified,
            Err(Error::InvalidCertificate(error)) => {
                Verdict::NotVerified(Flaw::new(kind(&error), &words(&error)))
            }
            Err(error) => Verdict::NotVerified(Flaw::new(FlawKind::Other, &error.to_string())),
        }
    }
}

/// A time as the TLS library has it.
pub(super) fn pki_time(time: UnixTime) -> rustls_pki_types::UnixTime {
    let millis = std::time::Duration::from_millis(time.as_millis());
    rustls_pki_types::UnixTime::since_unix_epoch(millis)
}

/// What is wrong with a certificate, for programs.
fn kind(error: &CertificateError) -> FlawKind {
    use CertificateError as E;
    if matches!(error, E::NotValidForName | E::NotValidForNameContext { .. }) {
        FlawKind::Name
    } else if matches!(
        error,
        E::Expired | E::ExpiredContext { .. } | E::NotValidYet | E::NotValidYetContext { .. }
    ) {
        FlawKind::Time
    } else if matches!(error, E::UnknownIssuer) || error.to_string().contains(CA_AS_SERVER) {
        FlawKind::Trust
    } else {
        FlawKind::Other
    }
}

/// How the library calls an authority's certificate in the place of a server's, as openssl makes it.
const CA_AS_SERVER: &str = "CaUsedAsEndEntity";

/// What is wrong with a certificate, for people: rustls has no words for the most frequent errors.
fn words(error: &CertificateError) -> String {
    if matches!(error, CertificateError::UnknownIssuer) {
        return "it chains to no root that we know (self-signed?)".to_owned();
    }
    let text = error.to_string();
    if text.contains(CA_AS_SERVER) {
        return "it is an authority's certificate, not a server's (self-signed?)".to_owned();
    }
    let known = [
        (CertificateError::Expired, "it has expired"),
        (CertificateError::NotValidYet, "it is not valid yet"),
        (CertificateError::Revoked, "it was revoked"),
    ];
    let found = known.iter().find(|(known, _)| known == error);
    found.map_or(text, |(_, words)| (*words).to_owned())
}

/// Lets the handshake succeed with any certificate whose key signs it: the certificate is judged after.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

#[cfg(test)]
pub(super) fn any_certificate(provider: Arc<CryptoProvider>) -> Arc<dyn ServerCertVerifier> {
    Arc::new(AnyCertificate(provider))
}

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

/// What the peer's certificate proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It names the host and chains to a root that we believe.
    Verified,
    /// It does not, for this reason.
    NotVerified(Flaw),
}

/// What is wrong with a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    /// For programs.
    pub kind: FlawKind,
    /// For people.
    pub why: String,
}

/// The kinds that reports tell apart (RFC 8460 §4.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlawKind {
    /// It names other hosts.
    Name,
    /// Its time is over, or has not come.
    Time,
    /// Nobody who is believed signed it.
    Trust,
    /// All else.
    Other,
}

impl Flaw {
    pub(crate) fn new(kind: FlawKind, why: &str) -> Self {
        let why = why.to_owned();
        Self { kind, why }
    }
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
            Self::NotVerified(flaw) => f.write_str(&flaw.why),
        }
    }
}
