//! Certificates and keys: the configured ones, and the self-signed one that stands in for them.

use std::path::Path;
use std::sync::Arc;

use relay_core::channel::{ClientTls, ServerTls};
use relay_core::config::{Config, ConfigError, FileWanted, Listener};
use relay_core::sign::Key;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use smtp_proto::Domain;

use super::LoadError;
use super::files::{place_of, problem, read_made, read_wanted, warn_if_readable, write_atomically};

const CERTIFICATE: &str = "self-signed-cert.pem";
const KEY: &str = "self-signed-key.pem";

/// What was read of the files that the configuration names.
#[derive(Default)]
pub(super) struct Material {
    chain: Vec<CertificateDer<'static>>,
    key: Option<(PrivateKeyDer<'static>, FileWanted)>,
    roots: Vec<CertificateDer<'static>>,
    roots_file: Option<FileWanted>,
}

impl Material {
    pub(super) fn certificate(&mut self, file: &FileWanted) -> Result<(), ConfigError> {
        self.chain = certificates(file)?;
        Ok(())
    }

    pub(super) fn key(
        &mut self,
        file: &FileWanted,
        warnings: &mut Vec<String>,
    ) -> Result<(), ConfigError> {
        self.key = Some((private_key(file, warnings)?, file.clone()));
        Ok(())
    }

    pub(super) fn roots(&mut self, file: &FileWanted) -> Result<(), ConfigError> {
        self.roots = certificates(file)?;
        self.roots_file = Some(file.clone());
        Ok(())
    }

    /// The configured certificate with its key.
    pub(super) fn server(&self) -> Result<Arc<ServerTls>, LoadError> {
        let Some((key, file)) = &self.key else {
            let place = place_of(Path::new("[tls]"));
            return Err(place.error("there is no key", "").into());
        };
        ServerTls::new(self.chain.clone(), key.clone_key())
            .map_err(|why| problem(file, &format!("cannot be used: {why}")).into())
    }

    /// The roots that receivers are judged by.
    pub(super) fn client(&self) -> Result<Arc<ClientTls>, LoadError> {
        ClientTls::new(self.roots.clone()).map_err(|why| {
            let what = format!("cannot be used: {why}");
            match &self.roots_file {
                Some(file) => problem(file, &what).into(),
                None => place_of(Path::new("webpki-roots")).error(what, "").into(),
            }
        })
    }
}

/// The TLS of the listeners that ask clients for certificates.
pub(super) fn of_listeners(
    tls: &ServerTls,
    config: &Config,
) -> Result<Vec<Option<Arc<ServerTls>>>, LoadError> {
    let of = |listener: &Listener| {
        let asked = listener.client_certificates.as_ref()?;
        let made = tls.asking_clients(&asked.roots, asked.demand);
        Some(made.map_err(|why| {
            let place = place_of(&asked.ca_file);
            LoadError::from(place.error(format!("cannot be used: {why}"), ""))
        }))
    };
    let listeners = config.listeners.iter();
    listeners.map(|listener| of(listener).transpose()).collect()
}

/// Every certificate of a PEM file; at least one.
pub(super) fn certificates(file: &FileWanted) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let pem = read_wanted(file)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(problem(
            file,
            "holds no PEM certificate (-----BEGIN CERTIFICATE-----)",
        )),
        Err(why) => Err(problem(file, &format!("is not PEM: {why}"))),
    }
}

fn private_key(
    file: &FileWanted,
    warnings: &mut Vec<String>,
) -> Result<PrivateKeyDer<'static>, ConfigError> {
    let pem = read_wanted(file)?;
    warn_if_readable(file, warnings);
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| {
        problem(
            file,
            "holds no PEM private key (-----BEGIN PRIVATE KEY-----)",
        )
    })
}

/// A key of `[[domain.dkim]]`.
pub(super) fn signing_key(
    file: &FileWanted,
    warnings: &mut Vec<String>,
) -> Result<Key, ConfigError> {
    let key = private_key(file, warnings)?;
    Key::new(key).map_err(|why| problem(file, &why.to_string()))
}

/// The self-signed certificate in the data directory; made if it is not there or cannot be used.
pub(super) fn self_signed(
    data_dir: &Path,
    hostname: &Domain,
    warnings: &mut Vec<String>,
) -> Result<Arc<ServerTls>, LoadError> {
    let (certificate_path, key_path) = (data_dir.join(CERTIFICATE), data_dir.join(KEY));
    if let (Some(certificate), Some(key)) = (read_made(&certificate_path)?, read_made(&key_path)?) {
        match server_of(&certificate, &key) {
            Ok(tls) => return Ok(tls),
            Err(why) => warnings.push(format!(
                "{}: a new self-signed certificate was made, since the old one cannot be used: {why}",
                certificate_path.display()
            )),
        }
    }
    let (certificate, key) = generate(hostname)?;
    // The key goes first: a certificate without its key is the state that is mended above.
    for (path, pem) in [(&key_path, &key), (&certificate_path, &certificate)] {
        write_atomically(path, pem.as_bytes(), 0o600).map_err(|error| {
            LoadError::from(place_of(path).error(format!("cannot be written: {error}"), ""))
        })?;
    }
    in_memory(&certificate, &key)
}

/// A self-signed certificate that is kept nowhere, to see that one can be made.
pub(super) fn self_signed_in_memory(hostname: &Domain) -> Result<Arc<ServerTls>, LoadError> {
    let (certificate, key) = generate(hostname)?;
    in_memory(&certificate, &key)
}

fn in_memory(certificate: &str, key: &str) -> Result<Arc<ServerTls>, LoadError> {
    server_of(certificate.as_bytes(), key.as_bytes()).map_err(self_signed_failed)
}

fn self_signed_failed(why: String) -> LoadError {
    place_of(Path::new("self-signed certificate"))
        .error(why, "")
        .into()
}

fn server_of(certificate: &[u8], key: &[u8]) -> Result<Arc<ServerTls>, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
    let chain = chain.map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| error.to_string())?;
    ServerTls::new(chain, key).map_err(|error| error.to_string())
}

/// A certificate for the relay's name and for loopback, and its P-256 key, as PEM. Nobody judges its
/// dates, so that they are wide: a relay does not stop on the day when it expires.
fn generate(hostname: &Domain) -> Result<(String, String), LoadError> {
    let mut names: Vec<String> = vec![hostname.as_str().to_ascii_lowercase()];
    for name in ["localhost", "127.0.0.1", "::1"] {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    let made = || -> Result<(String, String), rcgen::Error> {
        let mut params = rcgen::CertificateParams::new(names)?;
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2120, 1, 1);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, hostname.as_str());
        let key = rcgen::KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        Ok((certificate.pem(), key.serialize_pem()))
    };
    made().map_err(|error| self_signed_failed(format!("cannot be made: {error}")))
}
