//! What a delivery does when nothing is wrong, and how it goes on from one message to the next.

use super::sink::{Act, say};
use super::*;

fn burst(world: &World) -> Vec<String> {
    world.mx().commands()
}

#[test]
fn a_message_is_delivered_in_one_transaction() {
    for chunk in [1, 7, usize::MAX] {
        let mail = Mail::to(2);
        let mut world = World::with(Script::default()).mail(&mail);
        world.chunk = chunk;
        let run = world.run();
        assert_eq!(run.fates(), "dd");
        assert_eq!(run.resolves, ["mx.example.net"]);
        assert_eq!(
            burst(&world),
            [
                "EHLO relay.example.com",
                "MAIL FROM:<sender@example.com> SIZE=33",
                "RCPT TO:<u0@example.net>",
                "RCPT TO:<u1@example.net>",
                "DATA",
                "QUIT",
            ]
        );
        assert_eq!(world.mx().taken()[0].body, mail.body);
        let tried = run.tried();
        assert_eq!(tried.evidence.host.as_deref(), Some("mx.example.net"));
        assert_eq!(
            tried.evidence.address,
            Some("93.184.216.1:25".parse().unwrap())
        );
        assert_eq!(
            tried.evidence.local,
            Some("192.0.2.77:40000".parse().unwrap())
        );
        assert_eq!(
            tried.evidence.tls_policy.as_deref(),
            Some("opportunistic (config)")
        );
        assert_eq!(tried.evidence.tls, None);
        assert!(tried.reusable && tried.evidence.before.is_empty());
        assert_eq!(reason(run.outcome()).text, "2.0.0 queued");
    }
}

#[test]
fn many_messages_go_over_one_connection() {
    let mut world = World::with(Script::default());
    for _ in 0..5 {
        world = world.mail(&Mail::default());
    }
    let run = world.run();
    assert_eq!(run.reports.len(), 5);
    assert_eq!(world.mx().heard().connections, 1);
    assert_eq!(world.mx().taken().len(), 5);
    assert!(
        !burst(&world).contains(&"RSET".into()),
        "nothing is left to reset after a success"
    );
}

#[test]
fn a_connection_carries_no_more_than_the_lane_allows() {
    let mut world = World::with(Script::default());
    world.lane.messages_max = 2;
    for _ in 0..3 {
        world = world.mail(&Mail::default());
    }
    let run = world.run();
    let reusable: Vec<bool> = run
        .reports
        .iter()
        .map(|report| match report {
            Report::Tried(tried) => tried.reusable,
            Report::Unreachable(_) | Report::Ended => panic!("{report:?}"),
        })
        .collect();
    assert_eq!(reusable, [true, false, true]);
    assert_eq!(
        world.mx().heard().connections,
        2,
        "a job that comes all the same gets a new one"
    );
}

#[test]
fn a_refused_transaction_is_reset_before_the_next() {
    let script = Script::default().times(1, "rcpt", say("550 5.1.1 nobody"));
    let mut world = World::with(script)
        .mail(&Mail::default())
        .mail(&Mail::default());
    let run = world.run();
    assert_eq!(run.fates(), "b");
    let commands = burst(&world);
    let reset = commands.iter().position(|line| line == "RSET").unwrap();
    assert!(commands[reset + 1].starts_with("MAIL"), "{commands:?}");
    assert_eq!(world.mx().taken().len(), 1);
}

#[test]
fn an_unearned_354_is_answered_with_the_dot_alone() {
    let script = Script::default()
        .on("rcpt", say("550 5.1.1 nobody"))
        .on("data", say("354 go ahead"))
        .on(".", say("554 5.5.1 no valid recipients"));
    let mut world = World::with(script)
        .mail(&Mail::to(3))
        .mail(&Mail::default());
    let run = world.run();
    assert_eq!(run.fates(), "bbb");
    assert_eq!(reason(run.outcome()).status, "5.1.1");
    assert_eq!(run.reports.len(), 2);
    assert_eq!(world.mx().heard().wire, b".\r\n.\r\n");
}

#[test]
fn a_host_that_takes_recipients_of_a_refused_message_gets_no_dot() {
    let script = Script::default()
        .on("mail", say("550 5.7.1 not from you"))
        .on("rcpt", say("250 ok"))
        .on("data", say("354 go ahead"));
    let mut world = World::with(script).mail(&Mail::default());
    let run = world.run();
    assert_eq!(run.fates(), "b");
    assert!(!run.tried().reusable);
    assert_eq!(world.mx().heard().wire, b"");
}

#[test]
fn without_pipelining_each_reply_is_waited_for() {
    let script = Script::default()
        .offers(&["8BITMIME"])
        .on("rcpt", say("550 5.1.1 nobody"));
    let mut world = World::with(script).mail(&Mail::to(2));
    let run = world.run();
    assert_eq!(run.fates(), "bb");
    assert!(
        !burst(&world).contains(&"DATA".into()),
        "nobody would read the body"
    );
}

#[test]
fn a_job_is_split_by_the_limits_of_the_host() {
    let script = Script::default().offers(&["PIPELINING", "LIMITS RCPTMAX=3 MAILMAX=2"]);
    let mut world = World::with(script).mail(&Mail::to(8));
    let run = world.run();
    assert_eq!(run.fates(), "dddddddd");
    let counts: Vec<usize> = world
        .mx()
        .taken()
        .iter()
        .map(|taken| taken.rcpts.len())
        .collect();
    assert_eq!(counts, [3, 3, 2]);
    assert_eq!(world.mx().heard().connections, 2, "MAILMAX");
}

#[test]
fn a_thousand_recipients_go_a_hundred_at_a_time() {
    let mut world = World::with(Script::default()).mail(&Mail::to(1000));
    let run = world.run();
    assert_eq!(run.fates(), "d".repeat(1000));
    assert!(
        world
            .mx()
            .taken()
            .iter()
            .all(|taken| taken.rcpts.len() == 100)
    );
}

#[test]
fn too_many_recipients_go_in_another_transaction_at_once() {
    for code in ["452 4.5.3 too many", "552 too many"] {
        let script = Script::default()
            .times(2, "rcpt", say("250 ok"))
            .times(3, "rcpt", say(code))
            .times(2, "rcpt", say("250 ok"))
            .times(1, "rcpt", say(code))
            .on("rcpt", say("250 ok"));
        let mut world = World::with(script).mail(&Mail::to(5));
        let run = world.run();
        assert_eq!(run.fates(), "ddddd", "{code}");
        assert_eq!(world.mx().heard().connections, 1);
    }
    let script = Script::default().on("rcpt", say("452 4.2.2 mailbox full"));
    let mut world = World::with(script).mail(&Mail::to(2));
    assert_eq!(
        world.run().fates(),
        "ff",
        "nobody was accepted: it is not about their number"
    );
}

#[test]
fn dsn_parameters_go_where_they_are_offered() {
    use smtp_proto::{EnvId, Notify, Occasion, Orcpt, Ret};
    for offered in [true, false] {
        let offers: &[&str] = if offered {
            &["PIPELINING", "DSN"]
        } else {
            &["PIPELINING"]
        };
        let mut world = World::with(Script::default().offers(offers)).mail(&Mail::default());
        let id = world.jobs[0].id;
        let mut loaded = Loaded::clone(world.store[&id].as_ref().unwrap());
        loaded.message.envelope.ret = Some(Ret::Headers);
        loaded.message.envelope.envid = EnvId::new("e+1");
        let to = &mut loaded.message.envelope.recipients[0];
        to.notify = Some(Notify::on(&[Occasion::Success, Occasion::Failure]));
        to.orcpt = Orcpt::new("rfc822", "u0@example.net");
        world.store.insert(id, Ok(Arc::new(loaded)));
        let run = world.run();
        assert_eq!(run.tried().evidence.dsn, offered);
        let commands = burst(&world).join("\n");
        assert_eq!(
            commands.contains("RET=HDRS ENVID=e+2B1"),
            offered,
            "{commands}"
        );
        assert_eq!(
            commands.contains("NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;u0@example.net"),
            offered,
            "{commands}"
        );
    }
}

#[test]
fn a_connection_that_grew_stale_is_replaced() {
    for stale in [
        vec![Act::Close],
        vec![Act::Reset],
        say("421 4.4.2 idle for too long"),
        say("503 5.5.1 what?"),
    ] {
        let script =
            Script::default()
                .times(1, "mail", say("250 ok"))
                .times(1, "mail", stale.clone());
        let mut world = World::with(script)
            .mail(&Mail::default())
            .mail(&Mail::default());
        let run = world.run();
        assert_eq!(run.reports.len(), 2, "{stale:?}");
        assert_eq!(world.mx().taken().len(), 2, "{stale:?}");
        assert_eq!(world.mx().heard().connections, 2);
    }
}

#[test]
fn the_next_host_is_tried_and_the_first_is_evidence() {
    let greeting = Script {
        greeting: say("554 5.7.1 not here"),
        ..Script::default()
    };
    let mut world = World::new()
        .lane(&[
            "mx1.example.net:10",
            "mx2.example.net:20",
            "mx3.example.net:30",
        ])
        .at(
            "mx1.example.net",
            "93.184.216.1",
            Host::Refuses(std::io::ErrorKind::ConnectionRefused),
        )
        .host("mx2.example.net", "93.184.216.2", greeting)
        .host("mx3.example.net", "93.184.216.3", Script::default())
        .mail(&Mail::default());
    let run = world.run();
    assert_eq!(run.fates(), "d");
    let evidence = &run.tried().evidence;
    assert_eq!(evidence.host.as_deref(), Some("mx3.example.net"));
    assert_eq!(
        evidence.before,
        [
            "mx1.example.net [93.184.216.1]:25: could not connect: connection refused",
            "mx2.example.net [93.184.216.2]:25: 5.7.1 not here",
        ]
    );
    assert_eq!(world.sink("93.184.216.2").commands(), ["QUIT"]);
}

#[test]
fn a_message_goes_to_the_next_host_until_a_recipient_is_settled() {
    let busy = Script::default().on("mail", say("451 4.3.2 busy"));
    let mut world = World::new()
        .lane(&["mx1.example.net:10", "mx2.example.net:20"])
        .host("mx1.example.net", "93.184.216.1", busy)
        .host("mx2.example.net", "93.184.216.2", Script::default())
        .mail(&Mail::default());
    assert_eq!(world.run().fates(), "d");
    let dies = Script::default()
        .times(1, "rcpt", say("550 5.1.1 nobody"))
        .on("rcpt", vec![Act::Close]);
    let mut world = World::new()
        .lane(&["mx1.example.net:10", "mx2.example.net:20"])
        .host("mx1.example.net", "93.184.216.1", dies)
        .host("mx2.example.net", "93.184.216.2", Script::default())
        .mail(&Mail::to(2));
    let run = world.run();
    assert_eq!(run.fates(), "bf", "one attempt has one host for evidence");
    assert_eq!(run.connects.len(), 1);
}

#[test]
fn both_families_are_tried() {
    let mut world = World::new()
        .at(
            "mx.example.net",
            "2606:2800::1",
            Host::Refuses(std::io::ErrorKind::NetworkUnreachable),
        )
        .at(
            "mx.example.net",
            "2606:2800::2",
            Host::Refuses(std::io::ErrorKind::NetworkUnreachable),
        )
        .host("mx.example.net", "93.184.216.1", Script::default())
        .mail(&Mail::default());
    let run = world.run();
    assert_eq!(run.fates(), "d");
    assert_eq!(run.connects.len(), 2, "the families take turns");
}

#[test]
fn an_address_literal_is_not_asked_for() {
    let mut world = World::with(Script::default())
        .lane(&["93.184.216.1"])
        .mail(&Mail::default());
    let run = world.run();
    assert_eq!(run.fates(), "d");
    assert!(run.resolves.is_empty());
}

#[test]
fn hosts_without_addresses() {
    let answer = |failure: DnsFailure| {
        let mut world = World::new().lane(&["mx1.example.net", "mx2.example.net"]);
        world.zone.insert("mx1.example.net".into(), Err(failure));
        let mut world = world.mail(&Mail::default());
        let run = world.run();
        assert!(run.is_unreachable() && run.connects.is_empty());
        assert_eq!(run.resolves.len(), 2);
        assert!(
            run.tried().loaded.is_some(),
            "the report names the recipients"
        );
        (run.fates(), reason(run.outcome()).status.clone())
    };
    assert_eq!(answer(DnsFailure::NoRecord), ("b".into(), "5.4.4".into()));
    assert_eq!(
        answer(DnsFailure::Temporary("SERVFAIL".into())),
        ("f".into(), "4.4.3".into())
    );
}

/// DNS-08.
#[test]
fn prohibited_addresses_are_never_connected_to() {
    for ip in [
        "127.0.0.1",
        "::1",
        "0.0.0.0",
        "::ffff:127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
    ] {
        let mut world = World::new()
            .host("mx.example.net", ip, Script::default())
            .mail(&Mail::default());
        let run = world.run();
        assert_eq!(run.fates(), "b", "{ip}");
        assert!(run.connects.is_empty(), "{ip}");
        assert_eq!(reason(run.outcome()).status, "5.4.4");
        assert_eq!(reason(run.outcome()).rule, "prohibited-host");
        let mut world = World::new()
            .host("mx.example.net", ip, Script::default())
            .mail(&Mail::default());
        world.lane.route = true;
        assert_eq!(world.run().fates(), "d", "a route may: {ip}");
    }
    let mut world = World::new()
        .at(
            "mx.example.net",
            "127.0.0.1",
            Host::Refuses(std::io::ErrorKind::Other),
        )
        .host("mx.example.net", "93.184.216.1", Script::default())
        .mail(&Mail::default());
    let run = world.run();
    assert_eq!((run.fates().as_str(), run.connects.len()), ("d", 1));
    assert!(run.tried().evidence.before[0].contains("127.0.0.0/8"));
}

/// LOOP-02.
#[test]
fn our_own_listener_is_no_destination() {
    use crate::config::{Listener, ListenerTls};
    for (listener, connects) in [("93.184.216.1:25", 0), ("0.0.0.0:25", 1)] {
        let mut world = World::with(Script::default()).mail(&Mail::default());
        let listener = Listener::new(listener.parse().unwrap(), ListenerTls::StartTls);
        world.config.listeners.push(listener);
        world.local = "93.184.216.1:40000".parse().unwrap();
        let run = world.run();
        assert_eq!(run.fates(), "b");
        assert_eq!(reason(run.outcome()).status, "5.4.6");
        assert_eq!(run.connects.len(), connects);
        assert!(world.mx().commands().is_empty());
    }
}

#[test]
fn a_message_that_cannot_be_read_waits_and_one_that_is_damaged_does_not() {
    let failures = [
        (LoadFailed::Damaged("crc".into()), "b", "5.3.0"),
        (LoadFailed::Io("EIO".into()), "f", "4.3.0"),
    ];
    for (failure, fate, status) in failures {
        let mut world = World::with(Script::default())
            .mail(&Mail::default())
            .mail(&Mail::default());
        let id = world.jobs[0].id;
        world.store.insert(id, Err(failure.clone()));
        let run = world.run();
        assert_eq!(run.fates(), fate, "{failure:?}");
        assert_eq!(reason(run.outcome()).stage, "store");
        assert_eq!(reason(run.outcome()).status, status);
        assert!(run.tried().reusable, "the host has no part in it");
        assert_eq!(world.mx().taken().len(), 1);
    }
}

#[test]
fn a_spooled_body_is_streamed() {
    let line = b"..line of a body\r\n.\r\n";
    let body: Vec<u8> = line
        .iter()
        .copied()
        .cycle()
        .take(line.len() * 30_000)
        .collect();
    let mail = Mail {
        spooled: true,
        ..Mail::with_body(&body)
    };
    let mut world = World::with(Script::default()).mail(&mail);
    let run = world.run();
    assert_eq!(run.fates(), "d");
    assert_eq!(world.mx().taken()[0].body, body);
}

/// What stands before the body goes out first, octet by octet once, whatever their sizes are.
#[test]
fn a_prefix_goes_before_the_body() {
    let field = |len: usize| format!("X: {}\r\n", "x".repeat(len)).into_bytes();
    for prefix in [field(1), field(900), field(48 * 1024 - 5), field(110_000)] {
        for lines in [1, 30_000] {
            for spooled in [false, true] {
                let mail = Mail {
                    spooled,
                    prefix: prefix.clone(),
                    ..Mail::with_body(&b".x\r\n".repeat(lines))
                };
                let mut world = World::with(Script::default()).mail(&mail);
                let run = world.run();
                assert_eq!(run.fates(), "d");
                let sent = [mail.prefix.as_slice(), &mail.body].concat();
                assert!(world.mx().taken()[0].body == sent, "{}", prefix.len());
            }
        }
    }
}

#[test]
fn a_spooled_body_that_breaks_off_is_never_ended() {
    let mail = Mail {
        spooled: true,
        ..Mail::with_body(&b"x\r\n".repeat(100_000))
    };
    let mut world = World::with(Script::default()).mail(&mail);
    let id = world.jobs[0].id;
    world.spool.get_mut(&id).unwrap().truncate(150_000);
    let run = world.run();
    assert_eq!(run.fates(), "b");
    assert!(reason(run.outcome()).tells_damage());
    assert!(world.mx().taken().is_empty());
    assert!(!run.tried().reusable);
}

/// OUT-03.
#[test]
fn dots_are_stuffed_once() {
    let body = b".\r\n..\r\n.x\r\na.\r\n\r\n.\r\n";
    let mut world = World::with(Script::default()).mail(&Mail::with_body(body));
    world.run();
    assert_eq!(
        world.mx().heard().wire,
        b"..\r\n...\r\n..x\r\na.\r\n\r\n..\r\n.\r\n"
    );
    assert_eq!(world.mx().taken()[0].body, body);
}

/// OUT-01: a body that should not be there still ends only once.
#[test]
fn no_bare_newline_reaches_the_wire() {
    let tricks = [
        "\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r\n.\r", "\r.\r\n", "\n.\r", "\r.\n",
    ];
    for trick in tricks {
        let body = format!("Subject: x\r\n\r\ntext{trick}MAIL FROM:<evil@example.com>\r\n");
        let mut world = World::with(Script::default()).mail(&Mail::with_body(body.as_bytes()));
        let run = world.run();
        assert_eq!(run.fates(), "d", "{trick:?}");
        let wire = world.mx().heard().wire.clone();
        let text = String::from_utf8(wire).unwrap();
        let rest = text.replace("\r\n", "");
        assert!(!rest.contains(['\r', '\n']), "{trick:?}: {text:?}");
        assert_eq!(text.matches("\r\n.\r\n").count(), 1, "{trick:?}: {text:?}");
    }
}
