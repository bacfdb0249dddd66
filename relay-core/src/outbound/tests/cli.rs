//! The rows of group CLI of the attack catalogue, by id.

use super::sink::{Act, say};
use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn deferred(run: &Run) -> &Reason {
    assert!(matches!(run.outcome(), Outcome::Deferred { .. }), "{run:?}");
    reason(run.outcome())
}

/// CLI-03.
#[test]
fn endless_replies_are_cut() {
    let lines = "250-x\r\n".repeat(100_000);
    let long = format!("250 {}\r\n", "x".repeat(10_000_000));
    for endless in [lines, long] {
        for command in ["ehlo", "mail", "rcpt", "data", "."] {
            let script = Script::default().on(command, vec![Act::Say(endless.clone())]);
            let mut world = World::with(script).mail(&Mail::default());
            let run = world.run();
            assert_eq!(deferred(&run).status, "4.5.0", "{command}");
            assert!(!run.tried().reusable);
        }
    }
}

/// CLI-04.
#[test]
fn malformed_replies_are_never_success() {
    let malformed = [
        "250-a\r\n550 b\r\n",
        "250 ok\n",
        "250 o\0k\r\n",
        "25 ok\r\n",
        "25\r\n",
        "\r\n",
        "2500 ok\r\n",
        "ok\r\n",
        "650 ok\r\n",
        "250 a\rb\r\n",
        "354 go on\r\n",
    ];
    for text in malformed {
        for command in ["ehlo", "mail", "rcpt", "."] {
            let script = Script::default().on(command, vec![Act::Say(text.into())]);
            let mut world = World::with(script).mail(&Mail::default());
            let run = world.run();
            let reason = deferred(&run);
            assert_eq!(reason.status, "4.5.0", "{text:?} to {command}");
            assert!(reason.text.is_ascii());
            assert!(world.mx().taken().is_empty() || command == ".");
        }
    }
    let script = Script::default().on("data", say("250 why not"));
    let run = World::with(script).mail(&Mail::default()).run();
    assert_eq!(deferred(&run).rule, "data-protocol");
}

/// CLI-04: what a host says is data wherever it goes.
#[test]
fn the_text_of_a_reply_is_sanitised() {
    let forged = "550 5.1.1 \u{1b}[2Ja\u{e9}\tb\r\n";
    let script = Script::default().on("rcpt", vec![Act::Say(forged.into())]);
    let run = World::with(script).mail(&Mail::default()).run();
    assert_eq!(run.fates(), "b");
    assert_eq!(reason(run.outcome()).text, "5.1.1 ?[2Ja? b");
}

/// CLI-05.
#[test]
fn a_disconnect_at_any_stage_defers() {
    let cases = [
        ("greeting", "f", "greeting-lost"),
        ("ehlo", "f", "ehlo-lost"),
        ("mail", "f", "mail-lost"),
        ("rcpt", "f", "rcpt-lost"),
        ("data", "f", "data-lost"),
        ("body", "f", "body-lost"),
        (".", "?", "dot-lost"),
    ];
    for (stage, fate, rule) in cases {
        for act in [Act::Close, Act::Reset] {
            let mut script = Script::default().on(stage, vec![act.clone()]);
            if stage == "greeting" {
                script.greeting = vec![act.clone()];
            }
            let long = b"line\r\n".repeat(100_000);
            let body: &[u8] = if stage == "body" { &long } else { b"short\r\n" };
            let mut world = World::with(script).mail(&Mail::with_body(body));
            let run = world.run();
            // The host that resets on the dot resets before anything of it is written.
            let reset = matches!(act, Act::Reset);
            if stage == "body" && !reset {
                assert_eq!(
                    run.fates(),
                    "?",
                    "everything was written before it was read"
                );
                continue;
            }
            if stage == "." && reset {
                assert_eq!(run.fates(), "f");
                continue;
            }
            assert_eq!(run.fates(), fate, "{stage} {act:?}");
            assert_eq!(deferred(&run).rule, rule, "{stage} {act:?}");
            assert!(!run.tried().reusable);
            assert_eq!(run.is_unreachable(), stage == "greeting" || stage == "ehlo");
        }
    }
}

/// CLI-06.
#[test]
fn the_final_reply_is_waited_for() {
    let late = |after: Duration| {
        let mut acts = vec![Act::Wait(after)];
        acts.extend(say("250 2.0.0 queued"));
        let mut world = World::with(Script::default().on(".", acts)).mail(&Mail::default());
        let run = world.run();
        (run.fates(), run.took)
    };
    assert_eq!(late(MINUTE * 19 / 2).0, "d");
    let (fates, took) = late(MINUTE * 11);
    assert_eq!(fates, "?", "it may have been delivered");
    assert_eq!(took, MINUTE * 10);
}

/// CLI-07: a deadline is that of a whole reply, and no octet re-arms it.
#[test]
fn a_tarpit_is_left_at_the_deadline_of_its_phase() {
    let drip = |text: &str| vec![Act::Drip(format!("{text}\r\n"), MINUTE / 2)];
    let cases = [
        (
            "greeting",
            "220 welcome to the slowest host",
            5,
            "greeting-timeout",
        ),
        (
            "ehlo",
            "250 this takes its time, as you see",
            5,
            "ehlo-timeout",
        ),
        (
            "mail",
            "250 this takes its time, as you see",
            5,
            "mail-timeout",
        ),
        (
            "rcpt",
            "250 this takes its time, as you see",
            5,
            "rcpt-timeout",
        ),
        (
            "data",
            "354 this takes its time, as you see",
            2,
            "data-timeout",
        ),
        (
            ".",
            "250 this takes its time, as you see, and more",
            10,
            "dot-timeout",
        ),
    ];
    for (stage, text, minutes, rule) in cases {
        let mut script = Script::default().on(stage, drip(text));
        if stage == "greeting" {
            script.greeting = drip(text);
        }
        let run = World::with(script).mail(&Mail::default()).run();
        assert_eq!(deferred(&run).rule, rule);
        assert_eq!(run.took, MINUTE * minutes, "{stage}");
    }
}

/// CLI-07, against the envelope as a whole.
#[test]
fn a_hundred_slow_replies_are_one_tarpit() {
    let mut slow = vec![Act::Wait(MINUTE * 4)];
    slow.extend(say("250 ok"));
    let script = Script::default().on("rcpt", slow);
    let run = World::with(script).mail(&Mail::to(100)).run();
    assert_eq!(run.took, MINUTE * 30);
    assert!(run.fates().chars().all(|fate| fate == 'f'));
}

/// CLI-08.
#[test]
fn every_recipient_has_its_own_outcome() {
    let mut script = Script::default();
    for (n, code) in [
        (2, "550 5.1.1 no"),
        (4, "450 4.2.1 later"),
        (7, "421 4.7.0 slow down"),
    ] {
        script = script.on(&format!("rcpt to:<u{n}@"), say(code));
    }
    for chunk in [1, usize::MAX] {
        let mut world = World::with(script.clone()).mail(&Mail::to(10));
        world.chunk = chunk;
        let run = world.run();
        assert_eq!(run.fates(), "ddbdfddfdd");
        let codes: Vec<Option<u16>> = run
            .tried()
            .outcomes
            .iter()
            .map(|(_, outcome)| reason(outcome).code)
            .collect();
        assert_eq!(
            (codes[2], codes[4], codes[7]),
            (Some(550), Some(450), Some(421))
        );
        let taken = world.mx().taken();
        assert_eq!(taken.len(), 1, "nothing twice");
        assert_eq!(taken[0].rcpts.len(), 7);
        assert!(!run.tried().reusable, "a 421 ends the connection");
    }
}

/// CLI-08: the host means it.
#[test]
fn a_421_to_rcpt_that_closes_defers_the_rest() {
    let mut close = say("421 4.3.2 shutting down");
    close.push(Act::Close);
    let script = Script::default().on("rcpt to:<u1@", close);
    let mut world = World::with(script).mail(&Mail::to(3));
    let run = world.run();
    assert_eq!(run.fates(), "fff");
    assert!(world.mx().taken().is_empty());
}

/// CLI-10.
#[test]
fn what_a_host_does_not_take_is_never_sent() {
    let cases = [
        (BodyKind::EightBit, false, &["PIPELINING"][..], "5.6.3"),
        (BodyKind::EightBit, true, &["8BITMIME"], "5.6.7"),
        (BodyKind::Binary, false, &["8BITMIME"], "5.6.1"),
        (
            BodyKind::Binary,
            false,
            &["8BITMIME", "BINARYMIME"],
            "5.6.1",
        ),
    ];
    for (kind, smtputf8, offers, status) in cases {
        let mail = Mail {
            kind,
            smtputf8,
            ..Mail::with_body("é\0\r\n".as_bytes())
        };
        let mut world = World::with(Script::default().offers(offers))
            .mail(&mail)
            .mail(&mail);
        let run = world.run();
        assert_eq!(run.fates(), "b");
        assert_eq!(reason(run.outcome()).status, status, "{kind:?} {offers:?}");
        assert_eq!(world.mx().commands(), ["EHLO relay.example.com", "QUIT"]);
        assert_eq!(run.reports.len(), 2, "the connection is not to blame");
    }
    let cases = [
        (
            BodyKind::EightBit,
            false,
            &["8BITMIME"][..],
            " BODY=8BITMIME",
        ),
        (
            BodyKind::EightBit,
            true,
            &["8BITMIME", "SMTPUTF8"],
            " BODY=8BITMIME SMTPUTF8",
        ),
        (
            BodyKind::Binary,
            false,
            &["BINARYMIME", "CHUNKING"],
            " BODY=BINARYMIME",
        ),
        (BodyKind::SevenBit, true, &["8BITMIME"], ""),
    ];
    for (kind, smtputf8, offers, params) in cases {
        let body = if kind == BodyKind::SevenBit {
            "text\r\n"
        } else {
            "é\0\r.\r\n\n.\r\n"
        };
        let mail = Mail {
            kind,
            smtputf8,
            ..Mail::with_body(body.as_bytes())
        };
        let mut world = World::with(Script::default().offers(offers)).mail(&mail);
        let run = world.run();
        assert_eq!(run.fates(), "d", "{kind:?} {offers:?}");
        let taken = &world.mx().taken()[0];
        assert_eq!(
            taken.mail,
            format!("MAIL FROM:<sender@example.com>{params}")
        );
        if kind == BodyKind::Binary {
            assert_eq!(taken.body, body.as_bytes(), "BDAT changes nothing");
        }
    }
}

/// CLI-10: an address in UTF-8 bounces alone where the message itself is plain.
#[test]
fn utf8_recipients_bounce_alone() {
    let mail = Mail {
        recipients: vec!["jörg@example.net".into(), "u1@example.net".into()],
        smtputf8: true,
        ..Mail::default()
    };
    let run = World::with(Script::default()).mail(&mail).run();
    assert_eq!(run.fates(), "bd");
    assert_eq!(reason(run.outcome()).status, "5.6.7");
}

/// CLI-12.
#[test]
fn a_message_over_the_size_is_not_sent() {
    let mail = Mail::with_body(&b"x\r\n".repeat(700));
    let mut world = World::with(Script::default().offers(&["SIZE 1000"])).mail(&mail);
    let run = world.run();
    assert_eq!(run.fates(), "b");
    assert_eq!(reason(run.outcome()).status, "5.3.4");
    assert_eq!(world.mx().commands(), ["EHLO relay.example.com", "QUIT"]);
}

#[test]
fn refusals_of_each_class_at_each_stage() {
    for (stage, transient, permanent) in [
        ("greeting", "f", "b"),
        ("ehlo", "f", "d"),
        ("mail", "f", "b"),
        ("rcpt", "f", "b"),
        ("data", "f", "b"),
        (".", "f", "b"),
    ] {
        for (code, expected) in [
            ("421 4.3.2 closing", transient),
            ("450 4.2.0 later", transient),
            ("500 5.5.2 what", permanent),
            ("550 5.7.1 no", permanent),
            ("554 5.0.0 never", permanent),
        ] {
            let mut script = Script::default().on(stage, say(code));
            if stage == "greeting" {
                script.greeting = say(code);
            }
            let run = World::with(script).mail(&Mail::default()).run();
            assert_eq!(run.fates(), expected, "{code} to {stage}");
        }
    }
}

#[test]
fn helo_takes_the_place_of_ehlo() {
    let script = Script::default().on("ehlo", say("502 5.5.1 what?"));
    let mut world = World::with(script).mail(&Mail::default());
    assert_eq!(world.run().fates(), "d");
    assert_eq!(
        world.mx().commands()[..2],
        ["EHLO relay.example.com", "HELO relay.example.com"]
    );
    assert_eq!(world.mx().commands()[2], "MAIL FROM:<sender@example.com>");
}

#[test]
fn what_a_greylisting_host_says_is_heard() {
    let script = Script::default().on("rcpt", say("450 4.7.1 Greylisted, try again in 7 minutes"));
    let run = World::with(script).mail(&Mail::default()).run();
    let Outcome::Deferred { retry_after, .. } = run.outcome() else {
        panic!("{run:?}")
    };
    assert_eq!(*retry_after, Some(MINUTE * 7));
}

/// A refusal that comes while the body is sent counts, though the writing fails.
#[test]
fn an_early_refusal_is_heard_over_the_broken_pipe() {
    let long = b"line\r\n".repeat(100_000);
    for (reply, fates) in [("552 5.3.4 too large", "b"), ("451 4.3.0 no room", "f")] {
        let mut acts = say(reply);
        acts.push(Act::Reset);
        let mut world =
            World::with(Script::default().on("body", acts)).mail(&Mail::with_body(&long));
        let run = world.run();
        assert_eq!(run.fates(), fates, "{reply}");
        assert_eq!(reason(run.outcome()).code, reply[..3].parse().ok());
        assert!(!run.tried().reusable);
    }
}

/// A success that comes before the dot could leave is none.
#[test]
fn an_early_success_is_not_believed_over_the_broken_pipe() {
    let mut acts = say("250 2.0.0 queued");
    acts.push(Act::Reset);
    let run = World::with(Script::default().on("body", acts))
        .mail(&Mail::default())
        .run();
    assert_eq!(run.fates(), "?");
}
