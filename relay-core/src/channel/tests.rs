use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};

use rustls::ClientConfig;
use rustls_pki_types::PrivateKeyDer;

use super::*;

const NOW: UnixTime = UnixTime::from_secs(1_780_000_000);

/// A root that signs certificates for tests.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        Self::named("test root")
    }

    fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn server(&self, name: &str) -> Arc<ServerTls> {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let leaf = params.signed_by(&key, &self.0).unwrap();
        ServerTls::new(vec![leaf.der().clone()], private(&key)).unwrap()
    }

    pub(crate) fn expired(&self, name: &str) -> Arc<ServerTls> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        let leaf = params.signed_by(&key, &self.0).unwrap();
        ServerTls::new(vec![leaf.der().clone()], private(&key)).unwrap()
    }

    pub(crate) fn client(&self) -> Arc<ClientTls> {
        ClientTls::new(vec![self.0.der().clone()]).unwrap()
    }
}

fn private(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::try_from(key.serialize_der()).unwrap()
}

struct Pair {
    server: Channel,
    client: Channel,
}

impl Pair {
    fn start(server: &ServerTls, client: &Arc<ClientTls>, verify: Verify, name: &str) -> Self {
        Self::start_at(server, client, verify, name, NOW)
    }

    fn start_at(
        server: &ServerTls,
        client: &Arc<ClientTls>,
        verify: Verify,
        name: &str,
        at: UnixTime,
    ) -> Self {
        let mut pair = Self {
            server: Channel::plain(),
            client: Channel::plain(),
        };
        pair.server.start_server(server).unwrap();
        pair.client.start_client(client, verify, name, at).unwrap();
        pair
    }

    /// Carries handshake bytes until nobody has more to say, in pieces of `piece` octets.
    fn shake(&mut self, piece: usize) -> Result<(), TlsFailure> {
        let mut scratch = Vec::new();
        loop {
            let mut wire = Vec::new();
            self.client.flush(&mut wire);
            let silent = wire.is_empty();
            for piece in wire.chunks(piece) {
                self.server.receive(piece, &mut scratch)?;
            }
            wire.clear();
            self.server.flush(&mut wire);
            if silent && wire.is_empty() {
                return Ok(());
            }
            for piece in wire.chunks(piece) {
                self.client.receive(piece, &mut scratch)?;
            }
        }
    }
}

#[test]
fn both_sides_read_what_the_other_wrote() {
    let authority = Authority::new();
    for piece in [1, 7, 100_000] {
        let mut pair = Pair::start(
            &authority.server("mx.example.net"),
            &authority.client(),
            Verify::Roots,
            "mx.example.net.",
        );
        assert!(pair.server.handshaking() && pair.client.handshaking());
        pair.shake(piece).unwrap();
        assert!(!pair.server.handshaking() && !pair.client.handshaking());
        assert_eq!(pair.client.verdict(), Some(&Verdict::Verified));
        assert_eq!(pair.client.tls_exporter(), pair.server.tls_exporter());
        assert!(pair.server.tls_exporter().is_some());
        assert!(
            pair.server
                .protocol_suite()
                .unwrap()
                .starts_with("TLSv1.3 TLS_AES_")
        );

        let text = vec![b'x'; 300_000];
        let (mut wire, mut scratch, mut got) = (Vec::new(), Vec::new(), Vec::new());
        pair.client.send(&text, &mut wire);
        for piece in wire.chunks(piece) {
            got.extend_from_slice(pair.server.receive(piece, &mut scratch).unwrap());
        }
        assert!(got == text, "{piece}");
    }
}

#[test]
fn a_certificate_that_proves_nothing_is_used_and_said_or_refused_as_asked() {
    let (known, unknown) = (Authority::new(), Authority::named("another root"));
    for (server, name, why) in [
        (
            known.server("mx.example.net"),
            "mx.example.org",
            "not valid for name",
        ),
        (
            unknown.server("mx.example.net"),
            "mx.example.net",
            "no root",
        ),
        (
            known.server("mx.example.net"),
            "192.0.2.1",
            "not valid for name",
        ),
    ] {
        let mut pair = Pair::start(&server, &known.client(), Verify::Record, name);
        pair.shake(100_000).unwrap();
        let Some(Verdict::NotVerified(Flaw { why: text, .. })) = pair.client.verdict() else {
            panic!("{name} was verified");
        };
        assert!(text.contains(why), "{text}");
        assert_eq!(pair.client.peer_chain().unwrap().len(), 1);

        let mut pair = Pair::start(&server, &known.client(), Verify::Roots, name);
        assert!(matches!(
            pair.shake(100_000),
            Err(TlsFailure::Certificate(_))
        ));
    }
}

#[test]
fn certificates_are_judged_at_the_time_of_now() {
    let authority = Authority::new();
    let server = authority.server("mx.example.net");
    let late = UnixTime::from_secs(1 << 36);
    let mut pair = Pair::start_at(
        &server,
        &authority.client(),
        Verify::Record,
        "mx.example.net",
        late,
    );
    pair.shake(100_000).unwrap();
    assert!(
        pair.client
            .verdict()
            .unwrap()
            .to_string()
            .contains("expired")
    );
}

#[test]
fn the_end_of_tls_is_told_from_a_cut() {
    // TLS-06 and TLS-07.
    let authority = Authority::new();
    let mut pair = Pair::start(
        &authority.server("a.example"),
        &authority.client(),
        Verify::Roots,
        "a.example",
    );
    pair.shake(100_000).unwrap();
    let (mut wire, mut scratch) = (Vec::new(), Vec::new());
    pair.client.send(b"last", &mut wire);
    assert!(!pair.server.peer_closed());
    pair.client.close(&mut wire);
    wire.extend_from_slice(b"QUIT\r\n");
    assert_eq!(pair.server.receive(&wire, &mut scratch).unwrap(), b"last");
    assert!(pair.server.peer_closed());
    assert_eq!(pair.server.receive(b"QUIT\r\n", &mut scratch).unwrap(), b"");
}

#[test]
fn clear_text_is_not_copied_and_garbage_under_tls_is_a_failure_with_an_alert() {
    let mut channel = Channel::plain();
    let mut scratch = Vec::new();
    let bytes = b"NOOP\r\n".as_slice();
    assert!(std::ptr::eq(
        channel.receive(bytes, &mut scratch).unwrap(),
        bytes
    ));
    assert_eq!(scratch.capacity(), 0);
    assert!(channel.protocol_suite().is_none() && channel.tls_exporter().is_none());

    let authority = Authority::new();
    channel
        .start_server(&authority.server("a.example"))
        .unwrap();
    assert_eq!(
        channel.start_server(&authority.server("a.example")),
        Err(TlsFailure::AlreadyStarted)
    );
    assert!(matches!(
        channel.receive(b"EHLO a\r\n", &mut scratch),
        Err(TlsFailure::Protocol(_))
    ));
    let mut wire = Vec::new();
    channel.flush(&mut wire);
    assert_eq!(wire.first(), Some(&21), "an alert record");
}

#[test]
fn alpn_of_another_protocol_is_refused() {
    // TLS-08.
    let authority = Authority::new();
    let server = authority.server("a.example");
    for (names, good) in [
        (vec![], true),
        (vec![b"smtp".to_vec()], true),
        (vec![b"h2".to_vec(), b"esmtp".to_vec()], true),
        (vec![b"h2".to_vec()], false),
        (vec![b"h2".to_vec(), b"http/1.1".to_vec()], false),
    ] {
        let client = authority.client();
        let mut config = ClientConfig::clone(&client.config);
        config.alpn_protocols = names;
        let client = Arc::new(ClientTls {
            config: Arc::new(config),
            roots: Arc::clone(&client.roots),
            algorithms: client.algorithms,
        });
        let mut pair = Pair::start(&server, &client, Verify::Roots, "a.example");
        assert_eq!(pair.shake(100_000).is_ok(), good);
    }
}

#[test]
fn a_bad_name_and_a_bad_key_are_errors() {
    let authority = Authority::new();
    for name in ["", "a b", "exa mple.com"] {
        let started = Channel::plain().start_client(&authority.client(), Verify::Record, name, NOW);
        assert!(matches!(started, Err(TlsFailure::Name(_))), "{name}");
    }
    let other = KeyPair::generate().unwrap();
    let leaf = authority.0.der().clone();
    assert!(ServerTls::new(vec![leaf], private(&other)).is_err());
    assert!(ServerTls::new(Vec::new(), private(&other)).is_err());
    assert!(ClientTls::new(vec![CertificateDer::from(vec![1, 2, 3])]).is_err());
}

#[test]
fn nothing_is_resumed() {
    // TLS-11: what cannot be resumed cannot be resumed at another listener.
    let authority = Authority::new();
    let server = authority.server("a.example");
    for versions in [&[&rustls::version::TLS13], &[&rustls::version::TLS12]] {
        let client = authority.client();
        let mut config = ClientConfig::clone(&client.config);
        config.resumption = rustls::client::Resumption::in_memory_sessions(8);
        let config = with_versions(config, versions);
        let client = Arc::new(ClientTls {
            config: Arc::new(config),
            roots: client.roots.clone(),
            algorithms: client.algorithms,
        });
        for _ in 0..2 {
            let mut pair = Pair::start(&server, &client, Verify::Roots, "a.example");
            pair.shake(100_000).unwrap();
            let kind = pair.server.0.unwrap().connection.handshake_kind();
            assert_eq!(kind, Some(rustls::HandshakeKind::Full));
        }
    }
}

#[test]
fn tls_12_has_no_exporter_to_bind_to() {
    // TLS-12, RFC 9266 §3.
    let authority = Authority::new();
    let client = authority.client();
    let config = with_versions(
        ClientConfig::clone(&client.config),
        &[&rustls::version::TLS12],
    );
    let client = Arc::new(ClientTls {
        config: Arc::new(config),
        roots: client.roots.clone(),
        algorithms: client.algorithms,
    });
    let server = authority.server("a.example");
    let mut pair = Pair::start(&server, &client, Verify::Roots, "a.example");
    pair.shake(100_000).unwrap();
    assert_eq!(pair.server.tls_exporter(), None);
    assert!(
        pair.server
            .protocol_suite()
            .unwrap()
            .starts_with("TLSv1.2 TLS_ECDHE_")
    );
}

/// The same configuration for these versions only.
fn with_versions(
    config: ClientConfig,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> ClientConfig {
    let provider = Arc::clone(config.crypto_provider());
    let mut limited = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(setup::any_certificate(provider))
        .with_no_client_auth();
    limited.resumption = config.resumption;
    limited
}
