//! TLS policy and login, against hosts with certificates of every kind.

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustls_pki_types::PrivateKeyDer;

use super::sink::{Act, say};
use super::*;
use crate::channel::ServerTls;
use crate::outbound::LoginSecret;

const LEVELS: [TlsLevel; 4] = [
    TlsLevel::None,
    TlsLevel::Opportunistic,
    TlsLevel::Require,
    TlsLevel::Verify,
];

/// A root, and hosts with certificates of it.
pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(super) fn leaf(&self, name: &str, expired: bool) -> Arc<ServerTls> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        if expired {
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        }
        let leaf = params.signed_by(&key, &self.0).unwrap();
        server_tls(leaf.der().clone(), &key)
    }

    /// For `mx.example.net`.
    pub(super) fn good(&self) -> Arc<ServerTls> {
        self.leaf("mx.example.net", false)
    }

    pub(super) fn client(&self) -> Arc<ClientTls> {
        ClientTls::new(vec![self.0.der().clone()]).unwrap()
    }

    /// Broken in each way, with a word of what is said about it.
    pub(super) fn broken(&self) -> Vec<(&'static str, Arc<ServerTls>)> {
        let key = KeyPair::generate().unwrap();
        let own = CertificateParams::new(vec!["mx.example.net".to_owned()]).unwrap();
        let own = own.self_signed(&key).unwrap();
        vec![
            ("expired", self.leaf("mx.example.net", true)),
            ("not valid for name", self.leaf("mx.example.org", false)),
            ("", Self::new().good()),
            ("", server_tls(own.der().clone(), &key)),
        ]
    }
}

fn server_tls(leaf: rustls_pki_types::CertificateDer<'static>, key: &KeyPair) -> Arc<ServerTls> {
    ServerTls::new(
        vec![leaf],
        PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
    )
    .unwrap()
}

fn world(script: Script, level: TlsLevel, authority: &Authority) -> World {
    let mut world = World::with(script).level(level).mail(&Mail::default());
    world.tls = authority.client();
    world
}

/// No mail crossed in clear text.
fn secret(world: &World) -> bool {
    let commands = world.mx().commands();
    !commands
        .iter()
        .any(|line| line.starts_with("MAIL") || line.starts_with("AUTH"))
}

#[test]
fn tls_is_used_wherever_it_is_offered() {
    let authority = Authority::new();
    for level in LEVELS {
        for chunk in [1, 100, usize::MAX] {
            let script = Script::default().with_tls(&authority.good());
            let mut world = world(script, level, &authority);
            world.chunk = chunk;
            let run = world.run();
            assert_eq!(run.fates(), "d", "{level:?}");
            let evidence = &run.tried().evidence;
            let under_tls = level != TlsLevel::None;
            assert_eq!(world.mx().taken()[0].tls, under_tls);
            assert_eq!(evidence.tls.is_some(), under_tls);
            assert_eq!(
                evidence.certificate.as_deref(),
                under_tls.then_some("verified")
            );
            if under_tls {
                assert!(evidence.tls.as_deref().unwrap().starts_with("TLSv1.3 TLS_"));
                let commands = world.mx().commands();
                assert_eq!(
                    commands[..3],
                    [
                        "EHLO relay.example.com",
                        "STARTTLS",
                        "tls:EHLO relay.example.com"
                    ]
                );
            }
        }
    }
}

#[test]
fn without_an_offer_clear_text_goes_only_where_the_policy_lets_it() {
    let authority = Authority::new();
    for level in LEVELS {
        let mut world = world(Script::default(), level, &authority);
        let run = world.run();
        if level < TlsLevel::Require {
            assert_eq!(run.fates(), "d", "{level:?}");
        } else {
            assert_eq!(run.fates(), "f", "{level:?}");
            assert_eq!(reason(run.outcome()).status, "4.7.4");
            assert_eq!(reason(run.outcome()).rule, "tls-required");
            assert!(secret(&world) && run.is_unreachable());
        }
    }
}

#[test]
fn a_broken_certificate_is_said_and_only_verify_minds() {
    let authority = Authority::new();
    for (word, tls) in authority.broken() {
        for level in LEVELS {
            let mut world = world(Script::default().with_tls(&tls), level, &authority);
            let run = world.run();
            if level == TlsLevel::Verify {
                assert_eq!(run.fates(), "f", "{word}");
                assert_eq!(reason(run.outcome()).rule, "tls-certificate");
                assert!(reason(run.outcome()).text.contains(word));
                let commands = world.mx().commands();
                assert_eq!(commands[..2], ["EHLO relay.example.com", "STARTTLS"]);
                assert!(!commands.iter().any(|line| line.starts_with("tls:EHLO")));
            } else {
                assert_eq!(run.fates(), "d", "{word} {level:?}");
            }
            if level > TlsLevel::None {
                let said = run.tried().evidence.certificate.clone().unwrap();
                assert!(said.contains(word) && said != "verified", "{said}");
            }
        }
    }
}

/// How STARTTLS can go wrong.
pub(super) fn broken_starttls() -> Vec<Vec<Act>> {
    let mut silent = say("220 go");
    silent.push(Act::Mute);
    let mut closes = say("220 go");
    closes.push(Act::Close);
    // CLI-01: text in the same segment as the 220, for the time after it.
    let mut injects = vec![Act::Say(
        "220 go\r\n250-PIPELINING\r\n250 AUTH PLAIN\r\n".into(),
    )];
    injects.push(Act::StartTls);
    vec![
        say("454 4.7.0 not now"),
        say("502 5.5.1 what?"),
        say("221 2.0.0 bye"),
        say("354 go on"),
        say("220 no TLS comes"),
        vec![Act::Say("220 go\r\nthis is not TLS\r\n".into())],
        silent,
        closes,
        injects,
        vec![Act::Close],
        vec![Act::Reset],
        vec![Act::Mute],
    ]
}

/// RFC 7435: what goes wrong with TLS is no worse than TLS that is not offered.
#[test]
fn opportunistic_delivery_survives_every_broken_starttls() {
    let authority = Authority::new();
    for acts in broken_starttls() {
        let script = Script::default()
            .with_tls(&authority.good())
            .on("starttls", acts.clone());
        let mut world = world(script, TlsLevel::Opportunistic, &authority);
        let run = world.run();
        assert_eq!(run.fates(), "d", "{acts:?}");
        assert!(run.connects.len() <= 2);
        assert!(!world.mx().taken()[0].tls);
        let evidence = &run.tried().evidence;
        assert_eq!(evidence.tls, None);
        assert!(
            evidence.before[0].ends_with("clear text takes its place"),
            "{evidence:?}"
        );
    }
}

/// CLI-01 and CLI-02 under a policy.
#[test]
fn no_broken_starttls_makes_a_policy_give_way() {
    let authority = Authority::new();
    for level in [TlsLevel::Require, TlsLevel::Verify] {
        for acts in broken_starttls() {
            let script = Script::default()
                .with_tls(&authority.good())
                .on("starttls", acts.clone());
            let mut world = world(script, level, &authority);
            let run = world.run();
            assert_eq!(run.fates(), "f", "{acts:?}");
            assert!(reason(run.outcome()).status.starts_with("4.7."), "{run:?}");
            assert!(secret(&world) && world.mx().taken().is_empty());
            assert_eq!(run.connects.len(), 1);
        }
    }
}

#[test]
fn a_421_to_starttls_is_no_reason_for_clear_text() {
    let authority = Authority::new();
    let script = Script::default()
        .with_tls(&authority.good())
        .on("starttls", say("421 4.3.2 closing"));
    let mut world = world(script, TlsLevel::Opportunistic, &authority);
    assert_eq!(world.run().fates(), "f");
    assert!(secret(&world));
}

/// RFC 3207 §4.2: the offers of the clear text are forgotten.
#[test]
fn what_was_offered_before_tls_does_not_count() {
    let authority = Authority::new();
    let mut script = Script::default().offers(&["PIPELINING", "SIZE 1", "DSN"]);
    script = script.with_tls(&authority.good());
    script.offers_tls = vec!["8BITMIME".into()];
    let mut world = world(script, TlsLevel::Opportunistic, &authority);
    let run = world.run();
    assert_eq!(run.fates(), "d");
    assert_eq!(world.mx().taken()[0].mail, "MAIL FROM:<sender@example.com>");
    assert!(!run.tried().evidence.dsn);
}

#[test]
fn a_handshake_that_never_ends_is_left_after_a_minute() {
    let authority = Authority::new();
    let mut mute = say("220 go");
    mute.push(Act::Mute);
    let script = Script::default()
        .with_tls(&authority.good())
        .on("starttls", mute);
    let mut world = world(script, TlsLevel::Require, &authority);
    let run = world.run();
    assert_eq!(run.took, Duration::from_secs(60));
    assert_eq!(reason(run.outcome()).rule, "tls-handshake");
}

/// The next host is as bound by the policy as the first.
#[test]
fn another_host_may_meet_the_policy() {
    let authority = Authority::new();
    let mut world = World::new()
        .lane(&["old.example.net:10", "mx.example.net:20"])
        .level(TlsLevel::Verify)
        .host("old.example.net", "93.184.216.9", Script::default())
        .host(
            "mx.example.net",
            "93.184.216.1",
            Script::default().with_tls(&authority.good()),
        )
        .mail(&Mail::default());
    world.tls = authority.client();
    let run = world.run();
    assert_eq!(run.fates(), "d");
    assert_eq!(
        run.tried().evidence.tls_policy.as_deref(),
        Some("verify (config)")
    );
    assert_eq!(run.tried().evidence.before.len(), 1);
}

/// A host that wants TLS, which just failed: 530 is not for ever then.
#[test]
fn a_530_after_a_failed_handshake_defers() {
    let authority = Authority::new();
    let script = Script::default()
        .with_tls(&authority.good())
        .on("starttls", say("220 no TLS comes"))
        .on("mail", say("530 5.7.0 Must issue a STARTTLS command first"));
    let run = world(script, TlsLevel::Opportunistic, &authority).run();
    assert_eq!(run.fates(), "f");
    assert_eq!(reason(run.outcome()).rule, "tls-fallback-refused");
    assert_eq!(reason(run.outcome()).status, "4.7.0");
}

fn smart_host(script: Script, authority: &Authority) -> World {
    let mut world = world(script, TlsLevel::Opportunistic, authority);
    world.lane.route = true;
    world.lane.login = Some(Login {
        username: "user".into(),
        secret: LoginSecret::Password("secret".into()),
        mechanism: None,
    });
    world
}

#[test]
fn a_token_that_is_refused_is_fetched_anew_once() {
    use crate::config::TokenSource;
    let authority = Authority::new();
    for (tokens, asked, fates) in [
        (&["secret"][..], &[None][..], "d"),
        (&["old", "secret"], &[None, Some("old")], "d"),
        // A 401 of the second one defers the message, and so does a token that cannot be had.
        (&["old", "older", "secret"], &[None, Some("old")], "f"),
        (&["old"], &[None, Some("old")], "f"),
        (&[], &[None], "f"),
    ] {
        for (offer, wanted) in [
            ("AUTH PLAIN XOAUTH2 OAUTHBEARER", None),
            ("AUTH XOAUTH2", None),
            (
                "AUTH XOAUTH2 OAUTHBEARER",
                Some(crate::sasl::Mechanism::XOAuth2),
            ),
        ] {
            let script = Script::default()
                .offers(&["PIPELINING", offer])
                .with_tls(&authority.good());
            let mut world = smart_host(script, &authority);
            let login = world.lane.login.as_mut().unwrap();
            login.secret = LoginSecret::Token(TokenSource::File("/nowhere".into()));
            login.mechanism = wanted;
            world.tokens = tokens.iter().map(|&token| token.to_owned()).collect();
            let run = world.run();
            assert_eq!(run.fates(), fates, "{tokens:?} {offer}");
            let refused: Vec<_> = run.refused_tokens.iter().map(Option::as_deref).collect();
            assert_eq!(refused, asked, "{tokens:?} {offer}");
            if fates == "f" {
                assert_eq!(reason(run.outcome()).stage, "auth");
            }
        }
    }
    // Without a mechanism for tokens none is fetched, and nothing is shown.
    let script = Script::default()
        .offers(&["PIPELINING", "AUTH PLAIN SCRAM-SHA-256"])
        .with_tls(&authority.good());
    let mut world = smart_host(script, &authority);
    let login = world.lane.login.as_mut().unwrap();
    login.secret = LoginSecret::Token(TokenSource::Command(vec!["/bin/false".into()]));
    let run = world.run();
    assert_eq!((run.fates().as_str(), run.refused_tokens.len()), ("f", 0));
}

#[test]
fn a_route_logs_in_by_the_best_mechanism() {
    let authority = Authority::new();
    for (offer, used) in [
        (
            "AUTH PLAIN LOGIN SCRAM-SHA-256 SCRAM-SHA-256-PLUS",
            "SCRAM-SHA-256-PLUS",
        ),
        ("AUTH LOGIN SCRAM-SHA-256", "SCRAM-SHA-256"),
        ("AUTH LOGIN PLAIN", "PLAIN"),
        ("AUTH=LOGIN", "LOGIN"),
    ] {
        let script = Script::default()
            .offers(&["PIPELINING", offer])
            .with_tls(&authority.good());
        let mut world = smart_host(script, &authority);
        let run = world.run();
        assert_eq!(run.fates(), "d", "{used}");
        let commands = world.mx().commands();
        assert!(
            commands[3].starts_with(&format!("tls:AUTH {used}")),
            "{commands:?}"
        );
        assert_eq!(
            run.tried().evidence.tls_policy.as_deref(),
            Some("require (login)")
        );
    }
}

#[test]
fn no_password_crosses_a_network_in_clear_text() {
    let authority = Authority::new();
    let script = Script::default().offers(&["PIPELINING", "AUTH PLAIN"]);
    let mut world = smart_host(script.clone(), &authority);
    let run = world.run();
    assert_eq!(run.fates(), "f");
    assert!(secret(&world));
    let mut world = smart_host(script.clone(), &authority).lane(&["127.0.0.1"]);
    world.lane.route = true;
    world.lane.login = Some(Login {
        username: "user".into(),
        secret: LoginSecret::Password("secret".into()),
        mechanism: None,
    });
    world = world.host("localhost", "127.0.0.1", script);
    let run = world.run();
    assert_eq!(run.fates(), "d", "loopback is no network");
    assert!(world.sink("127.0.0.1").commands()[1].starts_with("AUTH PLAIN"));
}

#[test]
fn a_login_that_fails_defers() {
    let authority = Authority::new();
    let offers = ["PIPELINING", "AUTH SCRAM-SHA-256 PLAIN"];
    let good = Script::default()
        .offers(&offers)
        .with_tls(&authority.good());
    let wrong = Script {
        login: ("user".into(), "other".into()),
        ..good.clone()
    };
    let no_proof = good.clone().on("auth", say("235 2.7.0 come in"));
    let nonsense = good.clone().on("auth", say("334 %%%"));
    let none = Script::default().with_tls(&authority.good());
    let busy = good.on("auth", say("454 4.7.0 try again in 10 minutes"));
    for (script, rule) in [
        (wrong, "auth-5xx"),
        (no_proof, "login"),
        (nonsense, "login"),
        (none, "login"),
        (busy, "auth-4xx"),
    ] {
        let mut world = smart_host(script, &authority);
        let run = world.run();
        assert_eq!(run.fates(), "f", "{rule}");
        assert_eq!(reason(run.outcome()).rule, rule);
        assert!(world.mx().taken().is_empty());
        assert!(run.is_unreachable());
    }
}

#[test]
fn port_465_of_a_route_speaks_tls_at_once() {
    let authority = Authority::new();
    for (tls, level, fates) in [
        (authority.good(), TlsLevel::Verify, "d"),
        (authority.good(), TlsLevel::Opportunistic, "d"),
        (Authority::new().good(), TlsLevel::Verify, "f"),
    ] {
        let script = Script {
            implicit_tls: true,
            tls: Some(tls),
            ..Script::default()
        };
        let mut world = World::with(Script::default())
            .level(level)
            .mail(&Mail::default());
        world.tls = authority.client();
        world.lane.route = true;
        world.lane.hosts[0].host.port = 465;
        let address: SocketAddr = "93.184.216.1:465".parse().unwrap();
        world.hosts.insert(address, Host::Sink(Sink::new(script)));
        let run = world.run();
        assert_eq!(run.fates(), fates, "{level:?}");
        let Host::Sink(sink) = &world.hosts[&address] else {
            panic!()
        };
        assert!(sink.commands().iter().all(|line| line.starts_with("tls:")));
        assert_eq!(sink.taken().len(), usize::from(fates == "d"));
    }
}
