use super::*;

#[test]
fn a_refused_connection_hears_421_in_clear_text_only() {
    // RES-02.
    for mode in modes() {
        let config = Arc::new(config(mode.tls));
        let setup = Setup {
            id: SessionId(1),
            peer: "[::ffff:192.0.2.7]:40000".parse().unwrap(),
            local: "192.0.2.1:587".parse().unwrap(),
            listener: 0,
            config,
            tls: Arc::clone(&tls().1),
        };
        let now = Now {
            instant: Instant::default(),
            unix: UnixTime::default(),
        };
        let mut session = Session::new(setup, now, Rng::from_number(1));
        let mut wire = Vec::new();
        let output = session.poll_output(&mut wire);
        let Output::Request(Request::Engine(Ask::Connect { peer, listener: 0 })) = output else {
            panic!("{output:?}");
        };
        assert_eq!(peer, "192.0.2.7".parse::<std::net::IpAddr>().unwrap());
        assert!(wire.is_empty());
        let busy = refusal(Rejection::GO_AWAY, "Too many connections");
        let answer = Answer::Engine(engine::Answer::Refused(busy));
        session.handle_input(now, Input::Answer(answer));
        assert!(matches!(session.poll_output(&mut wire), Output::Close));
        let expected: &[u8] = match mode.tls {
            ListenerTls::Implicit => b"",
            ListenerTls::StartTls | ListenerTls::None => b"421 4.7.0 Too many connections\r\n",
        };
        assert_eq!(wire, expected);
    }
}

#[test]
fn trusted_networks_send_without_auth_as_their_credential() {
    for mode in modes() {
        let mut world = World::with(mode, |config| {
            config.listeners[0].trusted_networks = vec!["192.0.2.0/24".parse().unwrap()];
        });
        world.say("S: 220 ");
        world.ehlo();
        if matches!(mode.tls, ListenerTls::StartTls) {
            world.starttls();
        }
        world.say(
            "C: MAIL FROM:<a@example.org>
            S: 553 5.7.1 Credential printers may not send as <a@example.org>
            C: MAIL FROM:<a@example.com>
            C: RCPT TO:<b@example.net>
            C: DATA
            S: 250 
            S: 250 
            S: 354 
            C: From: a@example.com
            C:
            C: .
            S: 250 2.0.0",
        );
        let origin = &world.engine.submitted[0].origin;
        assert_eq!(origin.credential.as_deref(), Some("printers"));
        let text = world.engine.text(0);
        assert!(
            text.contains(" with ESMTP id ") || text.contains(" with ESMTPS id "),
            "{text}"
        );
    }
    let mut world = World::with(PLAIN, |config| {
        config.listeners[0].trusted_networks = vec!["198.51.100.0/24".parse().unwrap()];
    });
    world.say("S: 220 ");
    world.ehlo();
    world.say("C: MAIL FROM:<a@example.com>\nS: 530 5.7.0");
}

#[test]
fn extensions_are_offered_where_they_can_be_used() {
    let offers = |lines: &[String], keyword: &str| lines.iter().any(|line| line[4..] == *keyword);
    for mode in modes() {
        let mut world = World::with(mode, |_| {});
        world.say("S: 220 ");
        let lines = world.ehlo();
        for always in [
            "PIPELINING",
            "SIZE 1048576",
            "8BITMIME",
            "SMTPUTF8",
            "ENHANCEDSTATUSCODES",
            "DSN",
            "CHUNKING",
            "BINARYMIME",
        ] {
            assert!(offers(&lines, always), "{always} {lines:?}");
        }
        let plain = "AUTH PLAIN LOGIN SCRAM-SHA-256";
        let plus = "AUTH PLAIN LOGIN SCRAM-SHA-256 SCRAM-SHA-256-PLUS";
        match mode.tls {
            ListenerTls::None => assert!(offers(&lines, plain) && !offers(&lines, "STARTTLS")),
            ListenerTls::Implicit => assert!(offers(&lines, plus) && !offers(&lines, "STARTTLS")),
            ListenerTls::StartTls => {
                assert!(offers(&lines, "STARTTLS"));
                assert!(!lines.iter().any(|line| line.contains("AUTH")), "{lines:?}");
                world.say("C: STARTTLS\nS: 220 2.0.0");
                world.handshake();
                world.say("C: MAIL FROM:<a@example.com>\nS: 503 5.5.1");
                let lines = world.ehlo();
                assert!(offers(&lines, plus) && !offers(&lines, "STARTTLS"));
                world.say("C: STARTTLS\nS: 503 5.5.1");
            }
        }
    }
}

#[test]
fn nothing_said_before_tls_counts_after_it() {
    // TLS-01.
    let start = Mode {
        tls: ListenerTls::StartTls,
        piece: usize::MAX,
    };
    let mut world = World::new(start);
    world.say("S: 220 ");
    world.ehlo();
    world.send(b"STARTTLS\r\nEHLO injected\r\nNOOP\r\n");
    assert!(world.reply().unwrap().starts_with("421 4.7.0"));
    assert_eq!(world.reply(), None);
    world.assert_over();

    let mut world = World::with(start, |config| {
        config.listeners[0].trusted_networks = vec!["192.0.2.0/24".parse().unwrap()];
    });
    world.say("S: 220 ");
    world.ehlo();
    world.say("C: MAIL FROM:<a@example.com>\nS: 250 \nC: STARTTLS\nS: 220 ");
    world.handshake();
    assert_eq!(world.engine.abandoned.len(), 1);
    world.say("C: RCPT TO:<b@example.net>\nS: 503 ");
}

#[test]
fn clear_text_where_tls_is_due_ends_the_connection_without_an_echo() {
    // TLS-05 and its mirror image.
    let mut world = World::raw(
        Mode {
            tls: ListenerTls::Implicit,
            piece: usize::MAX,
        },
        |_| {},
    );
    world.send(b"EHLO client.example.com\r\n");
    world.assert_over();
    let said = String::from_utf8_lossy(&world.replies).into_owned();
    assert!(!said.contains("client.example.com"));

    let mut world = World::new(PLAIN);
    world.say("S: 220 ");
    world.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
    assert!(world.reply().unwrap().starts_with("421 "));
    world.assert_over();
}

#[test]
fn each_wait_has_its_deadline_and_octets_do_not_renew_it() {
    // RES-03, TLS-10.
    let implicit = Mode {
        tls: ListenerTls::Implicit,
        piece: usize::MAX,
    };
    let mut world = World::raw(implicit, |_| {});
    let mut waited = 0;
    while !world.wait(Duration::from_secs(10)) {
        waited += 10;
        world.send(b"\x16");
        if world.closed {
            break;
        }
    }
    assert!(waited <= 60 && world.closed, "{waited}");

    let mut world = World::ready(PLAIN);
    assert_eq!(world.reading.unwrap().1, Timer::Command);
    assert!(!world.wait(Duration::from_secs(299)));
    world.say("C: NOOP\nS: 250 ");
    assert!(!world.wait(Duration::from_secs(299)));
    for _ in 0..3 {
        world.send(b"N");
        assert_eq!(world.reading.unwrap().1, Timer::CommandLine);
    }
    assert!(world.wait(Duration::from_secs(1)));
    world.say("S: 421 4.4.2");
    world.assert_over();

    let mut world = World::new(PLAIN);
    world.say("S: 220 ");
    world.ehlo();
    world.say("C: AUTH PLAIN\nS: 334 ");
    assert_eq!(world.reading.unwrap().1, Timer::AuthResponse);
    assert!(world.wait(Duration::from_secs(300)));
    world.say("S: 421 4.4.2");
}

#[test]
fn an_interrupted_session_says_421_when_no_message_is_on_its_way() {
    // QUE-12.
    for mode in modes() {
        let mut world = World::ready(mode);
        world.session.interrupt(world.now);
        world.pump();
        world.say("S: 421 4.3.2");
        world.assert_over();

        let mut world = World::ready(mode);
        world.say("C: MAIL FROM:<a@example.com>\nS: 250 ");
        world.session.interrupt(world.now);
        world.pump();
        world.say(
            "C: RCPT TO:<b@example.net>
            S: 250 
            C: DATA
            S: 354 
            C: From: a@example.com
            C:
            C: .
            S: 250 2.0.0 Ok: queued
            S: 421 4.3.2",
        );
        assert_eq!(world.engine.submitted.len(), 1);
        world.assert_over();
    }
    let mut world = World::raw(
        Mode {
            tls: ListenerTls::Implicit,
            piece: usize::MAX,
        },
        |_| {},
    );
    world.session.interrupt(world.now);
    world.pump();
    world.assert_over();
}

#[test]
fn proxies_are_believed_where_they_are_trusted() {
    // CMD-33.
    const HEADER: &[u8] = b"PROXY TCP4 198.51.100.9 192.0.2.1 1234 587\r\n";
    for mode in modes() {
        let mut world = World::raw(mode, |config| {
            config.listeners[0].proxy_protocol = true;
            config.listeners[0].trusted_proxies = vec!["192.0.2.7/32".parse().unwrap()];
            config.listeners[0].trusted_networks = vec!["198.51.100.9/32".parse().unwrap()];
        });
        assert_eq!(world.engine.count("Connect"), 0);
        world.send_wire(HEADER);
        assert_eq!(world.session.client(), "198.51.100.9:1234".parse().unwrap());
        if matches!(mode.tls, ListenerTls::Implicit) {
            world.handshake();
        }
        world.say("S: 220 ");
        world.ehlo();
        world.say("C: MAIL FROM:<a@example.com>\nS: 250 ");

        let mut world = World::raw(mode, |config| {
            config.listeners[0].proxy_protocol = true;
            config.listeners[0].trusted_proxies = vec!["192.0.2.7/32".parse().unwrap()];
        });
        world.send(b"EHLO a\r\n");
        assert!(world.closed && world.engine.asked.is_empty());

        if !matches!(mode.tls, ListenerTls::Implicit) {
            let mut world = World::new(mode);
            world.say("S: 220 ");
            world.send_wire(HEADER);
            assert!(world.reply().unwrap().starts_with("500 "));
        }
    }
}

#[test]
fn an_idle_session_holds_no_buffer() {
    // RES-01.
    let world = World::ready(PLAIN);
    assert!(size_of::<Session>() <= 1024, "{}", size_of::<Session>());
    assert_eq!(world.session.pending.capacity(), 0);
    assert_eq!(
        world.session.replies.capacity() + world.session.wire.capacity(),
        0
    );
}

/// Puts another configuration in force.
fn reload(world: &mut World, change: impl FnOnce(&mut Config)) {
    let mut config = Config::clone(&world.engine.config);
    change(&mut config);
    world.engine.config = Arc::new(config);
}

fn change_app(config: &mut Config, change: impl FnOnce(&mut Credential)) {
    change(Arc::make_mut(&mut config.credentials[0]));
}

#[test]
fn a_changed_configuration_counts_from_the_next_mail() {
    for mode in modes() {
        let mut world = World::ready(mode);
        let other = SenderPattern::Domain(Domain::parse("example.org").unwrap());
        reload(&mut world, |config| {
            change_app(config, |app| app.senders = vec![other]);
        });
        world.say("C: MAIL FROM:<a@example.com>\nS: 553 5.7.1 Credential app may not send as");
        assert_eq!(world.engine.abandoned.len(), 1, "its id goes back");
        assert_eq!(world.engine.refused.len(), 1, "and it is told");
        world.say("C: MAIL FROM:<a@example.org>\nS: 250 2.1.0");
        world.say("C: RSET\nS: 250 2.0.0");
        reload(&mut world, |config| {
            config.hostname = Domain::parse("other.example").unwrap();
        });
        world.say("C: MAIL FROM:<a@example.org>\nS: 250 2.1.0\nC: RCPT TO:<x%y@other.example>\nS: 554 5.7.1");
    }
}

#[test]
fn a_credential_that_is_proved_otherwise_now_is_proved_again() {
    type Change = fn(&mut Config);
    let changes: [Change; 3] = [
        |config| config.credentials.clear(),
        |config| {
            change_app(config, |app| {
                app.verifier = Some(Verifier::derive("new", [8; 16], 4096));
            });
        },
        |config| {
            change_app(config, |app| {
                app.networks = vec!["198.51.100.0/24".parse().unwrap()]
            })
        },
    ];
    for mode in modes() {
        for change in changes {
            let mut world = World::ready(mode);
            world.say("C: MAIL FROM:<a@example.com>\nS: 250 2.1.0");
            reload(&mut world, change);
            // What has begun goes on.
            world.say("C: RCPT TO:<b@example.net>\nS: 250 2.1.5\nC: RSET\nS: 250 ");
            world.say("C: MAIL FROM:<a@example.com>\nS: 421 4.7.0 Credential app was changed; connect again");
            world.assert_over();
            assert_eq!(world.engine.abandoned.len(), 2);
        }
    }
}

#[test]
fn a_network_that_is_trusted_no_more_logs_in() {
    let trust = |config: &mut Config| {
        config.listeners[0].trusted_networks = vec!["192.0.2.0/24".parse().unwrap()];
    };
    let mut world = World::with(PLAIN, trust);
    world.say("S: 220 ");
    world.ehlo();
    world.say("C: MAIL FROM:<a@example.com>\nS: 250 2.1.0\nC: RSET\nS: 250 ");
    reload(&mut world, |config| {
        config.listeners[0].trusted_networks.clear()
    });
    world.say("C: MAIL FROM:<a@example.com>\nS: 530 5.7.0\nC: RCPT TO:<b@example.net>\nS: 503 ");
    world.login();
    world.say("C: MAIL FROM:<a@example.com>\nS: 250 2.1.0");
}

fn front_end(config: &mut Config) {
    config.listeners[0].xclient_from = vec!["192.0.2.7/32".parse().unwrap()];
    config.listeners[0].trusted_networks = vec![
        "192.0.2.0/24".parse().unwrap(),
        "10.0.0.0/8".parse().unwrap(),
    ];
}

#[test]
fn a_front_end_names_the_client_and_the_session_begins_anew() {
    for mode in modes() {
        let mut world = World::ready_with(mode, front_end);
        assert!(
            world
                .ehlo()
                .iter()
                .any(|line| line.contains(" XCLIENT ") || line.contains("-XCLIENT "))
        );
        world.say("C: XCLIENT NAME=[UNAVAILABLE] ADDR=IPV6:2001:db8::7 PORT=4000 PROTO=ESMTP\nS: 220 relay.example.com ESMTP");
        assert_eq!(world.session.client().to_string(), "[2001:db8::7]:4000");
        world.say("C: MAIL FROM:<a@example.com>\nS: 503 5.5.1");
        // The client is no front end, and nothing of the one before it is left but TLS.
        assert!(world.ehlo().iter().all(|line| !line.contains("XCLIENT")));
        world.say(
            "C: XCLIENT ADDR=192.0.2.7\nS: 500 5.5.1\nC: MAIL FROM:<a@example.com>\nS: 530 5.7.0",
        );
        world.login();
        world.say("C: MAIL FROM:<a@example.com>\nS: 250 \nC: RCPT TO:<b@example.net>\nS: 250 \nC: DATA\nS: 354 ");
        world.say("C: From: a@example.com\nC: \nC: x\nC: .\nS: 250 2.0.0");
        assert!(world.engine.text(0).contains("([IPv6:2001:db8::7])"));
        assert_eq!(
            world.engine.submitted[0].origin.peer,
            Some("2001:db8::7".parse().unwrap())
        );
    }
}

#[test]
fn a_front_end_lifts_nothing() {
    // The front end is in a trusted network, and so are the clients that it names.
    for address in ["10.0.0.1", "192.0.2.7", "127.0.0.1", "[UNAVAILABLE]"] {
        let mut world = World::with(PLAIN, front_end);
        world.say("S: 220 ");
        world.ehlo();
        world.say(&format!("C: XCLIENT ADDR={address}\nS: 220 "));
        world.ehlo();
        world
            .say("C: MAIL FROM:<a@example.com>\nS: 530 5.7.0\nC: RCPT TO:<b@example.net>\nS: 503 ");
    }
    let mut world = World::with(PLAIN, front_end);
    world.say("S: 220 ");
    world.ehlo();
    world.say("C: XCLIENT ADDR=10.0.0.1 LOGIN=app\nS: 550 5.7.1 LOGIN is not taken");
    // Refused, it changed nothing.
    world.say("C: MAIL FROM:<a@example.com>\nS: 250 ");
}

#[test]
fn who_is_no_front_end_is_not_told_of_xclient() {
    // CMD-32.
    for mode in modes() {
        let mut world = World::ready(mode);
        assert!(world.ehlo().iter().all(|line| !line.contains("XCLIENT")));
        world.say("C: XCLIENT ADDR=127.0.0.1 NAME=trusted LOGIN=admin\nS: 500 5.5.1 Command not recognized");
        // Offered when it connected, and not any more.
        let mut world = World::ready_with(mode, front_end);
        reload(&mut world, |config| {
            config.listeners[0].xclient_from.clear()
        });
        world.say("C: MAIL FROM:<a@example.com>\nS: 250 \nC: RSET\nS: 250 ");
        world.say("C: XCLIENT ADDR=127.0.0.1\nS: 550 5.7.1 You may not speak");
    }
}

#[test]
fn a_client_that_a_front_end_names_may_be_turned_away() {
    let mut world = World::with(PLAIN, front_end);
    world.say("S: 220 ");
    world.ehlo();
    let mut refusal = refusal(Rejection::GO_AWAY, "Too many connections from 10.0.0.1");
    refusal.close = true;
    world.engine.refusals.push_back(("Connect", refusal));
    world.say("C: XCLIENT ADDR=10.0.0.1\nC: EHLO x\nS: 421 4.7.0 Too many connections");
    world.assert_over();
}
