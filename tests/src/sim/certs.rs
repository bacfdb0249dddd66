//! Certificates: the relay's own, and those of hosts, good and bad.
//!
//! They are made once for a process. Keys are Ed25519 and serial numbers fixed, so that every handshake
//! has the same lengths in a replay.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ED25519, SerialNumber,
    date_time_ymd,
};
use relay_core::channel::{ClientTls, ServerTls};
use relay_core::sign::Key;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::names::host_name;
use super::sites::COLLECTOR;

/// Hosts that a certificate may be for.
const HOSTS_MAX: usize = 32;

/// What a host shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Paper {
    /// It names the host and chains to a root.
    Good,
    /// It names another host.
    WrongName,
    /// Its time is over.
    Expired,
    /// It chains to nothing.
    SelfSigned,
    /// It names a host of the web, and chains to a root.
    Site,
}

impl Paper {
    pub(crate) const BAD: [Self; 3] = [Self::WrongName, Self::Expired, Self::SelfSigned];
}

/// All certificates.
#[derive(Debug)]
pub(crate) struct Papers {
    hosts: BTreeMap<Paper, Arc<ServerTls>>,
    /// Of the relay.
    pub(crate) relay: Arc<ServerTls>,
    /// Of the relay's deliveries, and of clients.
    pub(crate) roots: Arc<ClientTls>,
    /// What the relay signs mail of its own with.
    pub(crate) dkim: Key,
    /// A TLSA record for good hosts: `3 1 0` and the key. RFC 6698 §2.1.
    pub(crate) tlsa: Vec<u8>,
}

impl Papers {
    /// Those of this process; none if the library refuses to make them.
    pub(crate) fn get() -> Option<&'static Self> {
        static PAPERS: OnceLock<Option<Papers>> = OnceLock::new();
        PAPERS.get_or_init(|| Self::make().ok()).as_ref()
    }

    /// What a host with this paper serves with.
    pub(crate) fn host(&self, paper: Paper) -> Option<&Arc<ServerTls>> {
        self.hosts.get(&paper)
    }

    fn make() -> Result<Self, Box<dyn std::error::Error>> {
        let ca_key = KeyPair::generate_for(&PKCS_ED25519)?;
        let mut ca = params(vec!["ca.test".to_owned()], 1)?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = ca.self_signed(&ca_key)?;
        let issuer = Issuer::new(ca, ca_key);
        let names: Vec<String> = (0..HOSTS_MAX).map(host_name).collect();
        let mut hosts = BTreeMap::new();
        let mut tlsa = vec![3, 1, 0];
        for paper in [
            Paper::Good,
            Paper::WrongName,
            Paper::Expired,
            Paper::SelfSigned,
            Paper::Site,
        ] {
            let key = KeyPair::generate_for(&PKCS_ED25519)?;
            let params = match paper {
                Paper::Good => params(names.clone(), 2)?,
                Paper::WrongName => params(vec!["elsewhere.test".to_owned()], 3)?,
                Paper::Expired => {
                    let mut params = params(names.clone(), 4)?;
                    params.not_after = date_time_ymd(2001, 1, 1);
                    params
                }
                Paper::SelfSigned => params(names.clone(), 5)?,
                Paper::Site => params(sites(), 7)?,
            };
            let certificate = match paper {
                Paper::SelfSigned => params.self_signed(&key)?,
                Paper::Good | Paper::WrongName | Paper::Expired | Paper::Site => {
                    params.signed_by(&key, &issuer)?
                }
            };
            if paper == Paper::Good {
                tlsa.extend(spki(certificate.der())?);
            }
            hosts.insert(paper, server(certificate.der(), &key)?);
        }
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let own = params(vec!["relay.test".to_owned()], 6)?.self_signed(&key)?;
        Ok(Self {
            hosts,
            relay: server(own.der(), &key)?,
            roots: ClientTls::new(vec![root.der().clone()])?,
            tlsa,
            dkim: Key::new(PrivateKeyDer::try_from(key.serialize_der())?)?,
        })
    }
}

/// The names of sites: of all domains that a world may have.
fn sites() -> Vec<String> {
    let domains = ["a", "b", "s"]
        .into_iter()
        .flat_map(|letter| (0..10).map(move |number| format!("mta-sts.{letter}{number}.test")));
    domains.chain([COLLECTOR.to_owned()]).collect()
}

fn params(names: Vec<String>, serial: u64) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.serial_number = Some(SerialNumber::from(serial));
    Ok(params)
}

fn server(
    certificate: &CertificateDer<'static>,
    key: &KeyPair,
) -> Result<Arc<ServerTls>, Box<dyn std::error::Error>> {
    let key = PrivateKeyDer::try_from(key.serialize_der())?;
    Ok(ServerTls::new(vec![certificate.clone()], key)?)
}

/// The SubjectPublicKeyInfo of a certificate with an Ed25519 key: 44 octets that always begin so.
fn spki(certificate: &[u8]) -> Result<&[u8], &'static str> {
    const START: [u8; 12] = [
        0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
    ];
    let at = certificate.windows(START.len()).position(|w| w == START);
    at.and_then(|at| certificate.get(at..at + 44))
        .ok_or("a certificate without an Ed25519 key")
}
