use super::*;
use crate::sasl::{Client, Mechanism, secret_digest};

fn greeted(mode: Mode, change: impl FnOnce(&mut Config)) -> World {
    let mut world = World::with(mode, change);
    world.say("S: 220 ");
    world.ehlo();
    if matches!(mode.tls, ListenerTls::StartTls) {
        world.starttls();
    }
    world
}

fn plain(name: &str, password: &str) -> String {
    BASE64.encode(format!("\0{name}\0{password}"))
}

#[test]
fn no_auth_in_clear_text() {
    // AUTH-01.
    let mut world = World::new(Mode {
        tls: ListenerTls::StartTls,
        piece: usize::MAX,
    });
    world.say("S: 220 ");
    world.ehlo();
    world.say("C: AUTH PLAIN AGEAYg==\nS: 538 5.7.11");
    assert_eq!(world.engine.count("Credential"), 0);
}

#[test]
fn plain_and_login_prove_a_password() {
    for mode in modes() {
        let mut world = greeted(mode, |_| {});
        world.say(&format!(
            "C: AUTH PLAIN {}\nS: 235 2.7.0",
            plain("app", "secret")
        ));
        assert_eq!(world.engine.authenticated, [("app".to_owned(), true)]);
        assert!(world.engine.verified.is_some());
        world.say("C: AUTH PLAIN AA==\nS: 503 5.5.1");

        let mut world = greeted(mode, |_| {});
        world.say(&format!(
            "C: AUTH PLAIN\nS: 334 \nC: {}\nS: 235 ",
            plain("app", "secret")
        ));
        let mut world = greeted(mode, |_| {});
        world.say(&format!(
            "C: AUTH LOGIN\nS: 334 VXNlcm5hbWU6\nC: {}\nS: 334 UGFzc3dvcmQ6\nC: {}\nS: 235 ",
            BASE64.encode("app"),
            BASE64.encode("secret")
        ));
    }
}

#[test]
fn a_wrong_secret_and_an_unknown_name_are_told_alike_and_asked_alike() {
    // AUTH-09.
    for mode in modes() {
        let mut seen = Vec::new();
        for (name, password) in [("app", "wrong"), ("nosuch", "x"), ("printers", "secret")] {
            let mut world = greeted(mode, |_| {});
            world.engine.asked.clear();
            world.send(format!("AUTH PLAIN {}\r\n", plain(name, password)).as_bytes());
            let reply = world.reply().unwrap();
            assert!(reply.starts_with("535 5.7.8 "), "{reply}");
            assert_eq!(world.engine.authenticated, [(name.to_owned(), false)]);
            seen.push((reply, world.engine.asked.clone()));
            world.say("C: MAIL FROM:<a@example.com>\nS: 530 5.7.0");
        }
        assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:?}");
        assert!(
            seen[0].1.contains(&"Turn".to_owned()),
            "PBKDF2 needs a turn"
        );
    }
}

#[test]
fn a_secret_that_was_verified_needs_no_turn() {
    let mut world = greeted(PLAIN, |_| {});
    world.engine.verified = Some(secret_digest(&KEY, "app", "secret"));
    world.say(&format!(
        "C: AUTH PLAIN {}\nS: 235 ",
        plain("app", "secret")
    ));
    assert_eq!(world.engine.count("Turn"), 0);
    let mut world = greeted(PLAIN, |_| {});
    world.engine.verified = Some(secret_digest(&KEY, "app", "secret"));
    world.say(&format!("C: AUTH PLAIN {}\nS: 535 ", plain("app", "other")));
    assert_eq!(world.engine.count("Turn"), 1);
}

#[test]
fn a_credential_is_used_from_its_networks_only() {
    for (network, reply) in [("192.0.2.0/24", "235 "), ("198.51.100.0/24", "535 5.7.8 ")] {
        for scram in [false, true] {
            let mut world = greeted(PLAIN, |config| {
                let mut credential = Credential::clone(&config.credentials[0]);
                credential.networks = vec![network.parse().unwrap()];
                config.credentials[0] = Arc::new(credential);
            });
            if scram {
                assert!(
                    scram_login(&mut world, Mechanism::ScramSha256, "secret").starts_with(reply)
                );
            } else {
                world.say(&format!(
                    "C: AUTH PLAIN {}\nS: {reply}",
                    plain("app", "secret")
                ));
            }
        }
    }
}

/// Logs in by SCRAM; gives the last reply.
fn scram_login(world: &mut World, mechanism: Mechanism, password: &str) -> String {
    let exporter = world.tls.as_ref().and_then(Channel::tls_exporter);
    let binding = exporter.filter(|_| mechanism == Mechanism::ScramSha256Plus);
    let mut rng = Rng::from_number(5);
    let (mut client, first) = Client::start(mechanism, "app", password, binding.as_ref(), &mut rng);
    let first = BASE64.encode(first.unwrap());
    world.send(format!("AUTH {mechanism} {first}\r\n").as_bytes());
    loop {
        let reply = world.reply().unwrap();
        let Some(challenge) = reply.strip_prefix("334 ") else {
            return reply;
        };
        let response = client.respond(&BASE64.decode(challenge).unwrap()).unwrap();
        world.send(format!("{}\r\n", BASE64.encode(response)).as_bytes());
    }
}

#[test]
fn scram_proves_without_showing_and_binds_to_tls() {
    for mode in modes() {
        let mut world = greeted(mode, |_| {});
        assert!(scram_login(&mut world, Mechanism::ScramSha256, "secret").starts_with("235 "));
        assert_eq!(world.engine.count("Turn"), 0);
        assert_eq!(world.engine.authenticated, [("app".to_owned(), true)]);
        let mut world = greeted(mode, |_| {});
        assert!(scram_login(&mut world, Mechanism::ScramSha256, "wrong").starts_with("535 5.7.8"));
        if !matches!(mode.tls, ListenerTls::None) {
            let mut world = greeted(mode, |_| {});
            let reply = scram_login(&mut world, Mechanism::ScramSha256Plus, "secret");
            assert!(reply.starts_with("235 "), "{reply}");
        }
    }
}

#[test]
fn cancelled_and_malformed_exchanges_are_501() {
    // AUTH-02, AUTH-03, AUTH-04, AUTH-08.
    for mode in modes() {
        let mut world = greeted(mode, |_| {});
        world.say("C: AUTH PLAIN\nS: 334 \nC: *\nS: 501 \nC: NOOP\nS: 250 ");
        let mut world = greeted(mode, |_| {});
        world.say("C: AUTH PLAIN dXNlckB0ZXN0c2VydmVyAHlalala==\nS: 501 5.5.2");
        world.login();
        let mut world = greeted(mode, |_| {});
        world.say(&format!(
            "C: AUTH PLAIN {}\nS: 501 5.5.2",
            BASE64.encode("no zeros")
        ));
        let mut world = greeted(mode, |_| {});
        world.say(&format!(
            "C: AUTH PLAIN {}\nS: 500 5.5.6",
            "A".repeat(13_000)
        ));
        assert_eq!(world.engine.count("Credential"), 0);
    }
    let mut world = greeted(PLAIN, |_| {});
    world.say("C: AUTH LOGIN\nS: 334 ");
    world.send(&[b'B'; 1 << 20]);
    assert!(world.closed);
}

#[test]
fn failures_end_the_connection_and_limits_are_the_engines() {
    // AUTH-06.
    let mut world = greeted(PLAIN, |_| {});
    let wrong = plain("nosuch", "x");
    world.say(&format!(
        "C: AUTH PLAIN {wrong}\nS: 535 \nC: AUTH PLAIN {wrong}\nS: 535 "
    ));
    world.say(&format!("C: AUTH PLAIN {wrong}\nS: 535 \nS: 421 4.7.0"));
    world.assert_over();

    for ask in ["Credential", "Turn", "Authenticated"] {
        let mut world = greeted(PLAIN, |_| {});
        let mut limit = refusal(Rejection::GO_AWAY, "Too many failures from 192.0.2.7; wait");
        limit.close = true;
        world.engine.refusals.push_back((ask, limit));
        world.say(&format!(
            "C: AUTH PLAIN {wrong}\nS: 421 4.7.0 Too many failures from 192.0.2.7; wait"
        ));
        world.assert_over();
    }
    let mut world = greeted(PLAIN, |_| {});
    let busy = refusal(Rejection::SECURITY_UNAVAILABLE, "Busy; try again");
    world.engine.refusals.push_back(("Turn", busy));
    world.say(&format!(
        "C: AUTH PLAIN {wrong}\nS: 454 4.7.0 Busy; try again"
    ));
    world.login();
}

#[test]
fn an_embedder_checks_passwords_itself() {
    let mut world = greeted(PLAIN, |config| config.external_credentials = true);
    let own = Credential {
        name: "user-17".into(),
        verifier: None,
        certificates: Vec::new(),
        senders: vec![SenderPattern::Any],
        networks: Vec::new(),
        rate: None,
    };
    world.engine.outside = Some(Arc::new(own));
    let lines = world.ehlo();
    assert!(
        lines.iter().any(|line| line.ends_with("AUTH PLAIN LOGIN")),
        "{lines:?}"
    );
    world.say(&format!(
        "C: AUTH PLAIN {}\nS: 535 5.7.8",
        plain("anybody", "x")
    ));
    world.say(&format!(
        "C: AUTH PLAIN {}\nS: 235 \nC: MAIL FROM:<x@anything.example>\nS: 250 ",
        plain("anybody", "secret")
    ));
    assert_eq!(world.engine.count("CheckPassword"), 2);
    assert_eq!(world.engine.count("Turn"), 0);
}

#[test]
fn a_token_is_for_the_embedder_to_judge() {
    // RFC 7628 §4.1 and §4.3, with our own token.
    let bearer = |token: &str| {
        BASE64.encode(format!(
            "n,a=user@example.com,\x01host=h\x01port=587\x01auth=Bearer {token}\x01\x01"
        ))
    };
    let xoauth2 = |token: &str| BASE64.encode(format!("user=me\x01auth=Bearer {token}\x01\x01"));
    for mode in modes() {
        let take = |config: &mut Config| config.external_tokens = true;
        let refused = BASE64.encode("{\"status\":\"invalid_token\"}");
        let mut world = greeted(mode, take);
        world.engine.outside = Some(Arc::new(Credential::new("user")));
        let lines = world.ehlo();
        let offer = lines.iter().find(|line| line.contains("AUTH ")).unwrap();
        assert!(offer.contains(" XOAUTH2 OAUTHBEARER"), "{offer}");
        assert!(offer.contains(" PLAIN LOGIN SCRAM-SHA-256"), "{offer}");
        world.say(&format!(
            "C: AUTH OAUTHBEARER {}\nS: 334 {refused}",
            bearer("no")
        ));
        world.say("C: MAIL FROM:<a@example.com>\nS: 501 5.5.2");
        let mut world = greeted(mode, take);
        world.engine.outside = Some(Arc::new(Credential::new("user")));
        world.say(&format!(
            "C: AUTH OAUTHBEARER {}\nS: 334 {refused}\nC: AQ==\nS: 535 5.7.8",
            bearer("no")
        ));
        let told = ("user@example.com".to_owned(), false);
        assert_eq!(world.engine.authenticated, [told]);
        world.say("C: MAIL FROM:<a@example.com>\nS: 530 5.7.0");
        let refused = BASE64.encode("{\"status\":\"401\",\"schemes\":\"bearer\"}");
        world.say(&format!(
            "C: AUTH XOAUTH2\nS: 334 \nC: {}\nS: 334 {refused}\nC: \nS: 535 5.7.8",
            xoauth2("no")
        ));
        world.say(&format!(
            "C: AUTH XOAUTH2 {}\nS: 235 2.7.0",
            xoauth2("token")
        ));
        world.say("C: MAIL FROM:<x@anything.example>\nS: 250 ");
        // Without a check there is no mechanism.
        let mut world = greeted(mode, |_| {});
        world.say(&format!(
            "C: AUTH OAUTHBEARER {}\nS: 504 5.5.4",
            bearer("token")
        ));
        assert_eq!(world.engine.count("CheckToken"), 0);
    }
}

#[test]
fn a_certificate_fits_by_its_digest_or_a_name() {
    use crate::channel::ClientIdentity;
    use crate::config::CertificatePattern;
    let identity = ClientIdentity {
        sha256: [7; 32],
        dns_names: vec!["App.example.com".into()],
        uris: vec!["spiffe://example.com/app".into()],
    };
    let dns = CertificatePattern::Dns(Domain::parse("app.example.com").unwrap());
    let uri = CertificatePattern::Uri("spiffe://example.com/app".into());
    let other = CertificatePattern::Uri("spiffe://example.com/other".into());
    for (wanted, fits) in [
        (vec![dns], true),
        (vec![other.clone(), uri], true),
        (vec![CertificatePattern::Sha256([7; 32])], true),
        (vec![CertificatePattern::Sha256([8; 32]), other], false),
        (Vec::new(), false),
    ] {
        let found = wanted.iter().any(|pattern| pattern.fits(&identity));
        assert_eq!(found, fits, "{wanted:?}");
    }
}
