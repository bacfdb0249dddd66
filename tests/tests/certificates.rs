//! Both runtimes over real sockets: what certificates prove, of clients and of the relay, and what TLS does
//! not do.
#![allow(missing_docs, unreachable_pub, dead_code, clippy::unwrap_used)]

mod rig;

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use relay_core::config::{CertificatePattern, ClientCertificates, Credential, Demand, TlsFiles};
use rig::receiver::Receiver;
use rig::{BOTH, DEADLINE, Dir, GRACE, HOSTNAME, Kind, Relay, config_with_listeners};
use runtime_std::load;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, StreamOwned};
use sha2::Digest as _;

/// Believes any server.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

type Identity = (CertificateDer<'static>, Vec<u8>);

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn client_of(
    issuer: &CertifiedIssuer<'static, KeyPair>,
    name: &str,
    change: impl FnOnce(&mut CertificateParams),
) -> Identity {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut params);
    let certificate = params.signed_by(&key, issuer).unwrap();
    (certificate.der().clone(), key.serialize_der())
}

fn client_config(identity: Option<&Identity>) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    match identity {
        Some((certificate, key)) => {
            let key = PrivateKeyDer::try_from(key.clone()).unwrap();
            builder
                .with_client_auth_cert(vec![certificate.clone()], key)
                .unwrap()
        }
        None => builder.with_no_client_auth(),
    }
}

/// A client under TLS.
struct Client(BufReader<StreamOwned<ClientConnection, TcpStream>>);

impl Client {
    /// Up to the reply to EHLO under TLS; none if the relay hangs up before.
    fn start(to: SocketAddr, starttls: bool, config: ClientConfig) -> Option<(Self, String)> {
        let mut stream = TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        if starttls {
            let mut plain = BufReader::new(stream.try_clone().unwrap());
            read_reply(&mut plain)?;
            stream.write_all(b"EHLO client.example\r\n").unwrap();
            read_reply(&mut plain)?;
            stream.write_all(b"STARTTLS\r\n").unwrap();
            read_reply(&mut plain)?;
        }
        let name = ServerName::try_from(HOSTNAME).unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut client = Self(BufReader::new(StreamOwned::new(connection, stream)));
        if !starttls {
            read_reply(&mut client.0)?;
        }
        let hello = client.say("EHLO client.example")?;
        Some((client, hello))
    }

    fn say(&mut self, line: &str) -> Option<String> {
        let sent = self.0.get_mut().write_all(format!("{line}\r\n").as_bytes());
        sent.ok().and_then(|()| read_reply(&mut self.0))
    }

    fn expect(&mut self, line: &str, start: &str) {
        let reply = self.say(line);
        let fits = reply.as_ref().is_some_and(|reply| reply.starts_with(start));
        assert!(fits, "{line}: {reply:?}");
    }

    fn kind(&self) -> HandshakeKind {
        self.0.get_ref().conn.handshake_kind().unwrap()
    }

    fn certificate(&self) -> Vec<u8> {
        self.0.get_ref().conn.peer_certificates().unwrap()[0].to_vec()
    }
}

fn read_reply<S: Read>(stream: &mut BufReader<S>) -> Option<String> {
    let mut reply = String::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let last = line.as_bytes().get(3) != Some(&b'-');
        reply.push_str(&line);
        if last {
            return Some(reply);
        }
    }
}

/// A relay whose listeners 1 and 2 ask for certificates of this authority.
fn relay(
    kind: Kind,
    dir: &Dir,
    receiver: &Receiver,
    issuer: &CertifiedIssuer<'static, KeyPair>,
    demand: Demand,
    patterns: Vec<CertificatePattern>,
) -> Relay {
    let ca_file = dir.path().join("ca.pem");
    std::fs::write(&ca_file, issuer.pem()).unwrap();
    let mut config = config_with_listeners(dir, receiver.address());
    for listener in &mut config.listeners[1..] {
        listener.client_certificates = Some(ClientCertificates {
            ca_file: ca_file.clone(),
            demand,
            roots: Vec::new(),
        });
    }
    let mut machine = Credential::new("machine");
    machine.certificates = patterns;
    config.credentials.push(Arc::new(machine));
    Relay::start(kind, config)
}

#[test]
fn a_verified_certificate_logs_in_by_external() {
    let issuer = authority();
    let app = client_of(&issuer, "app.example.com", |_| {});
    let digest: [u8; 32] = sha2::Sha256::digest(&app.0).into();
    for kind in BOTH {
        for pattern in [
            CertificatePattern::Dns("app.example.com".parse().unwrap()),
            CertificatePattern::Sha256(digest),
        ] {
            let (dir, receiver) = (Dir::new(), Receiver::start());
            let patterns = vec![pattern];
            let relay = relay(kind, &dir, &receiver, &issuer, Demand::Optional, patterns);
            for listener in [1, 2] {
                let to = relay.address(listener);
                let config = client_config(Some(&app));
                let (mut client, hello) = Client::start(to, listener == 1, config).unwrap();
                assert!(hello.contains(" EXTERNAL\r\n"), "{kind:?}: {hello}");
                client.expect("MAIL FROM:<a@example.com>", "530 5.7.0");
                client.expect("AUTH EXTERNAL YXBw", "535 5.7.8"); // `app` has no certificate.
                client.expect("AUTH EXTERNAL =", "235 2.7.0");
                client.expect("MAIL FROM:<a@example.com>", "250 ");
                client.expect("RCPT TO:<b@example.net>", "250 ");

                let config = client_config(None);
                let (mut client, hello) = Client::start(to, listener == 1, config).unwrap();
                assert!(!hello.contains("EXTERNAL"), "{hello}");
                client.expect("AUTH EXTERNAL =", "504 5.5.4");
            }
            assert!(relay.shut_down(GRACE));
        }
    }
}

#[test]
fn certificates_that_prove_nothing_are_worth_nothing() {
    let (issuer, stranger) = (authority(), authority());
    let bad = [
        client_of(&stranger, "app.example.com", |_| {}),
        client_of(&issuer, "app.example.com", |params| {
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }),
        // TLS-12: a certificate that is for servers only.
        client_of(&issuer, "app.example.com", |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        }),
    ];
    let wanted = || vec![CertificatePattern::Dns("app.example.com".parse().unwrap())];
    for kind in BOTH {
        for demand in [Demand::Optional, Demand::Required] {
            let (dir, receiver) = (Dir::new(), Receiver::start());
            let relay = relay(kind, &dir, &receiver, &issuer, demand, wanted());
            for listener in [1, 2] {
                let to = relay.address(listener);
                for identity in &bad {
                    let config = client_config(Some(identity));
                    let started = Client::start(to, listener == 1, config);
                    match demand {
                        Demand::Optional => {
                            let (_, hello) = started.unwrap();
                            assert!(!hello.contains("EXTERNAL"), "{kind:?}: {hello}");
                        }
                        Demand::Required => {
                            let said = started.map(|(_, said)| said);
                            let refused = said.is_none_or(|said| {
                                said.starts_with("421 4.7.0 Your certificate is not verified")
                            });
                            assert!(refused, "{kind:?}");
                        }
                    }
                }
                let without = Client::start(to, listener == 1, client_config(None));
                assert_eq!(without.is_some(), demand == Demand::Optional, "{kind:?}");
            }
            assert!(relay.shut_down(GRACE));
        }
    }
}

/// TLS-11: whatever a client remembers of one connection, every other one begins with a whole handshake,
/// at this listener and at others, with a certificate and without.
#[test]
fn no_session_is_resumed() {
    let issuer = authority();
    let app = client_of(&issuer, "app.example.com", |_| {});
    for kind in BOTH {
        let (dir, receiver) = (Dir::new(), Receiver::start());
        let relay = relay(kind, &dir, &receiver, &issuer, Demand::Optional, Vec::new());
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            for identity in [None, Some(&app)] {
                let mut config = client_config(identity);
                let versions = client_config(None);
                let provider = Arc::clone(versions.crypto_provider());
                let limited = ClientConfig::builder_with_provider(provider)
                    .with_protocol_versions(&[version])
                    .unwrap()
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::new(Anybody))
                    .with_no_client_auth();
                if identity.is_none() {
                    config = limited;
                }
                for listener in [1, 2, 1, 2, 2] {
                    let to = relay.address(listener);
                    let (mut client, _) = Client::start(to, listener == 1, config.clone()).unwrap();
                    client.expect("NOOP", "250 ");
                    assert_eq!(client.kind(), HandshakeKind::Full, "{kind:?}");
                }
            }
        }
        assert!(relay.shut_down(GRACE));
    }
}

/// TLS-08: who means another protocol is refused in the handshake.
#[test]
fn foreign_application_protocols_are_refused() {
    for kind in BOTH {
        let (dir, receiver) = (Dir::new(), Receiver::start());
        let relay = Relay::start(kind, config_with_listeners(&dir, receiver.address()));
        for listener in [1, 2] {
            for (protocols, taken) in [
                (&[b"h2".as_slice()][..], false),
                (&[b"http/1.1", b"h2"], false),
                (&[b"imap"], false),
                (&[b"smtp"], true),
                (&[b"esmtp"], true),
                (&[b"h2", b"smtp"], true),
                (&[], true),
            ] {
                let mut config = client_config(None);
                config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
                let started = Client::start(relay.address(listener), listener == 1, config);
                assert_eq!(started.is_some(), taken, "{kind:?} {protocols:?}");
            }
        }
        assert!(relay.shut_down(GRACE));
    }
}

#[test]
fn new_connections_show_the_certificate_that_was_loaded_last() {
    for kind in BOTH {
        let (dir, receiver) = (Dir::new(), Receiver::start());
        let write = || {
            let made = rcgen::generate_simple_self_signed([HOSTNAME.to_owned()]).unwrap();
            std::fs::write(dir.path().join("cert.pem"), made.cert.pem()).unwrap();
            std::fs::write(dir.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
            made.cert.der().to_vec()
        };
        let mut config = config_with_listeners(&dir, receiver.address());
        config.tls = Some(TlsFiles {
            certificate: dir.path().join("cert.pem"),
            key: dir.path().join("key.pem"),
        });
        let first = write();
        let looked = load::changed_at(&config);
        let relay = Relay::start(kind, config.clone());
        let connect = |listener: usize| {
            let to = relay.address(listener);
            Client::start(to, listener == 1, client_config(None))
                .unwrap()
                .0
        };
        let mut open = [connect(1), connect(2)];
        assert!(open.iter().all(|client| client.certificate() == first));
        std::thread::sleep(std::time::Duration::from_millis(20));
        let second = write();
        assert_ne!(load::changed_at(&config), looked, "a change is seen");
        let said = relay.hub().apply(load::from_config(config).unwrap());
        assert_eq!(said, ["tls: another certificate"]);
        for listener in [1, 2] {
            assert_eq!(connect(listener).certificate(), second, "{kind:?}");
        }
        for client in &mut open {
            client.expect("NOOP", "250 ");
        }
        assert!(relay.shut_down(GRACE));
    }
}
