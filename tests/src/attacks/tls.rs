//! Certificates for both sides, of one authority that lives as long as the process.

use std::sync::{Arc, OnceLock};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use relay_core::channel::{ClientTls, ServerTls};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};

use super::Trouble;

/// The relay's name.
pub(super) const HOSTNAME: &str = "relay.example.com";

type Authority = CertifiedIssuer<'static, KeyPair>;

/// What is made once, or why it cannot be made.
type Once<T> = OnceLock<Result<T, String>>;

fn once<T>(
    cell: &'static Once<T>,
    make: impl FnOnce() -> Result<T, Trouble>,
) -> Result<&'static T, Trouble> {
    let made = cell.get_or_init(|| make().map_err(|trouble| trouble.to_string()));
    made.as_ref().map_err(|trouble| trouble.as_str().into())
}

fn authority() -> Result<&'static Authority, Trouble> {
    static AUTHORITY: Once<Authority> = OnceLock::new();
    once(&AUTHORITY, || {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Authority::self_signed(params, KeyPair::generate()?)?)
    })
}

fn root() -> Result<CertificateDer<'static>, Trouble> {
    Ok(authority()?.der().clone())
}

/// A certificate for these names, with its key.
fn certificate(
    names: &[&str],
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Trouble> {
    let key = KeyPair::generate()?;
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let leaf = CertificateParams::new(names)?.signed_by(&key, authority()?)?;
    let key = PrivateKeyDer::try_from(key.serialize_der())?;
    Ok((vec![leaf.der().clone()], key))
}

/// What the listeners of every relay show.
pub(super) fn relay_server() -> Result<Arc<ServerTls>, Trouble> {
    static TLS: Once<Arc<ServerTls>> = OnceLock::new();
    let tls = once(&TLS, || {
        let (chain, key) = certificate(&[HOSTNAME])?;
        Ok(ServerTls::new(chain, key)?)
    })?;
    Ok(Arc::clone(tls))
}

/// What relays judge receivers by.
pub(super) fn relay_client() -> Result<Arc<ClientTls>, Trouble> {
    static TLS: Once<Arc<ClientTls>> = OnceLock::new();
    let tls = once(&TLS, || Ok(ClientTls::new(vec![root()?])?))?;
    Ok(Arc::clone(tls))
}

/// A client of the relay, with these versions and ALPN names.
pub(super) fn client(
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&str],
) -> Result<Arc<ClientConfig>, Trouble> {
    let mut roots = RootCertStore::empty();
    roots.add(root()?)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(versions)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}

/// The client that most connections use.
pub(super) fn usual_client() -> Result<Arc<ClientConfig>, Trouble> {
    static TLS: Once<Arc<ClientConfig>> = OnceLock::new();
    let tls = once(&TLS, || client(rustls::ALL_VERSIONS, &[]))?;
    Ok(Arc::clone(tls))
}

/// A receiver that shows a certificate for this name.
pub(super) fn receiver(name: &str) -> Result<Arc<ServerConfig>, Trouble> {
    Ok(receiver_and_certificate(name)?.0)
}

/// A receiver whose certificate for this name has expired.
pub(super) fn expired_receiver(name: &str) -> Result<Arc<ServerConfig>, Trouble> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let leaf = params.signed_by(&key, authority()?)?;
    showing(leaf.der().clone(), &key)
}

/// A receiver whose certificate for this name is signed by nobody else.
pub(super) fn self_signed_receiver(name: &str) -> Result<Arc<ServerConfig>, Trouble> {
    let key = KeyPair::generate()?;
    let leaf = CertificateParams::new(vec![name.to_owned()])?.self_signed(&key)?;
    showing(leaf.der().clone(), &key)
}

fn showing(leaf: CertificateDer<'static>, key: &KeyPair) -> Result<Arc<ServerConfig>, Trouble> {
    let key = PrivateKeyDer::try_from(key.serialize_der())?;
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![leaf], key)?;
    Ok(Arc::new(config))
}

/// The same, and the certificate.
pub(super) fn receiver_and_certificate(
    name: &str,
) -> Result<(Arc<ServerConfig>, CertificateDer<'static>), Trouble> {
    let (chain, key) = certificate(&[name])?;
    let leaf = chain.first().cloned().ok_or("no certificate")?;
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok((Arc::new(config), leaf))
}
