//! A certificate authority that lives as long as the demo: the relay, its clients and its receivers
//! believe it.

use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use relay_core::channel::{ClientTls, ServerTls};
use relay_core::config::TlsFiles;
use rustls_pki_types::PrivateKeyDer;

/// Makes certificates.
pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// Whether a certificate is still good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Validity {
    Good,
    Over,
}

impl Authority {
    pub(super) fn new() -> Result<Self, String> {
        let made = || -> Result<Self, rcgen::Error> {
            let mut params = params(&[], "The demo's authority", Validity::Good)?;
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = KeyPair::generate()?;
            Ok(Self(CertifiedIssuer::self_signed(params, key)?))
        };
        made().map_err(cannot)
    }

    /// What believes this authority.
    pub(super) fn client(&self) -> Result<Arc<ClientTls>, String> {
        ClientTls::new(vec![self.0.der().clone()]).map_err(cannot)
    }

    /// A server with a certificate for this name.
    pub(super) fn server(&self, name: &str, validity: Validity) -> Result<Arc<ServerTls>, String> {
        let made = || -> Result<_, rcgen::Error> {
            let key = KeyPair::generate()?;
            let params = params(&[name], name, validity)?;
            Ok((params.signed_by(&key, &self.0)?, key))
        };
        let (certificate, key) = made().map_err(cannot)?;
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        ServerTls::new(vec![certificate.der().clone()], key).map_err(cannot)
    }

    /// Files with a certificate for this name, as a configuration names them.
    pub(super) fn files(&self, name: &str, dir: &Path) -> Result<TlsFiles, String> {
        let made = || -> Result<_, rcgen::Error> {
            let key = KeyPair::generate()?;
            let params = params(&[name], name, Validity::Good)?;
            Ok((params.signed_by(&key, &self.0)?, key))
        };
        let (certificate, key) = made().map_err(cannot)?;
        let files = TlsFiles {
            certificate: dir.join("demo-certificate.pem"),
            key: dir.join("demo-key.pem"),
        };
        std::fs::write(&files.certificate, certificate.pem()).map_err(cannot)?;
        std::fs::write(&files.key, key.serialize_pem()).map_err(cannot)?;
        Ok(files)
    }
}

fn params(
    names: &[&str],
    subject: &str,
    validity: Validity,
) -> Result<CertificateParams, rcgen::Error> {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names)?;
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = match validity {
        Validity::Good => date_time_ymd(2120, 1, 1),
        Validity::Over => date_time_ymd(2021, 1, 1),
    };
    params
        .distinguished_name
        .push(DnType::CommonName, subject.to_owned());
    Ok(params)
}

fn cannot(error: impl std::fmt::Display) -> String {
    format!("no certificates can be made for the demo: {error}")
}
