use super::*;
use crate::queue::message::BodyKind;

const HEADERS: &str = "From: a@example.com\r\nMessage-ID: <1@example.com>\r\n\
                       Date: Mon, 23 Nov 2026 22:05:31 +0000\r\nBcc: c@example.net\r\n\r\n";

fn in_data(mode: Mode) -> World {
    let mut world = World::ready(mode);
    world.say(
        "C: MAIL FROM:<a@example.com>
        C: RCPT TO:<b@example.net>
        C: DATA
        S: 250 
        S: 250 
        S: 354 ",
    );
    world
}

fn large(octets: usize) -> String {
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd\r\n".repeat(octets / 64)
}

#[test]
fn a_large_message_goes_to_the_spool_in_pieces() {
    for mode in modes().into_iter().filter(|mode| mode.piece > 1) {
        let mode = Mode {
            piece: mode.piece.min(16_000),
            ..mode
        };
        let mut world = in_data(mode);
        let body = large(600_000);
        world.send(format!("{HEADERS}{body}.\r\n").as_bytes());
        world.say("S: 250 2.0.0 Ok: queued as ");
        let text = world.engine.text(0);
        assert!(text.ends_with(&body));
        assert!(!text.contains("Bcc"));
        assert!(matches!(world.engine.submitted[0].body, Body::Spooled));
        assert!(world.engine.count("Spool") >= 4);
        assert_eq!(world.engine.count("Unspool"), 0);

        let mut world = in_data(mode);
        let body = large(BODY_MEMORY_MAX - 1000);
        world.send(format!("{HEADERS}{body}.\r\n").as_bytes());
        world.say("S: 250 2.0.0 Ok: queued as ");
        assert_eq!(world.engine.count("Spool"), 0);
    }
}

#[test]
fn a_message_that_says_it_is_large_is_spooled_early() {
    let mut world = World::ready(PLAIN);
    world.say(
        "C: MAIL FROM:<a@example.com> SIZE=900000
        C: RCPT TO:<b@example.net>
        C: DATA
        S: 250 
        S: 250 
        S: 354 ",
    );
    world.send(HEADERS.as_bytes());
    world.send(large(70_000).as_bytes());
    assert_eq!(world.engine.count("Spool"), 1);
}

#[test]
fn a_message_with_little_room_goes_to_the_spool_in_small_pieces() {
    // RES-07.
    let mut world = World::ready(PLAIN);
    world.engine.room = 16_384;
    world.say(
        "C: MAIL FROM:<a@example.com>
        C: RCPT TO:<b@example.net>
        C: DATA
        S: 250 
        S: 250 
        S: 354 ",
    );
    let body = large(100_000);
    let message = format!("{HEADERS}{body}.\r\n");
    message
        .as_bytes()
        .chunks(4096)
        .for_each(|piece| world.send(piece));
    world.say("S: 250 2.0.0 Ok: queued as ");
    assert!(world.engine.text(0).ends_with(&body));
    assert!(world.engine.count("Spool") >= 5);

    // A header is held whole: one over the room, and over what there is always, is for later.
    world.say(
        "C: MAIL FROM:<a@example.com>
        C: RCPT TO:<b@example.net>
        C: DATA
        S: 250 
        S: 250 
        S: 354 ",
    );
    let field = format!("X: {}\r\n", "x".repeat(900));
    world.send(field.repeat(80).as_bytes());
    world.send(b"From: a@example.com\r\n\r\n.\r\n");
    world.say("S: 452 4.3.1 \nC: MAIL FROM:<a@example.com>\nS: 250 ");
}

#[test]
fn what_was_spooled_of_a_message_that_fails_is_deleted() {
    // RES-08.
    let spooled = |world: &World| (world.engine.count("Spool"), world.engine.count("Unspool"));
    let mut world = in_data(PLAIN);
    world.send(format!("{HEADERS}{}", large(400_000)).as_bytes());
    world.input(Input::Closed(None));
    assert_eq!(spooled(&world), (1, 1));
    assert_eq!(world.engine.abandoned.len(), 1);

    // Too large: deleted as soon as that is known, refused at the end.
    let mut world = in_data(PLAIN);
    world.send(format!("{HEADERS}{}", large(1_000_000)).as_bytes());
    world.send(large(100_000).as_bytes());
    assert!(world.engine.spool.is_empty());
    assert_eq!(world.engine.abandoned.len(), 1);
    assert_eq!(world.reply(), None);
    world.send(b".\r\n");
    world.say("S: 552 5.3.4 \nC: MAIL FROM:<a@example.com>\nS: 250 ");

    // The engine refuses a spooled message.
    let mut world = in_data(PLAIN);
    let no = refusal(Rejection::STORAGE_FULL, "Full");
    world.engine.refusals.push_back(("Submit", no));
    world.send(format!("{HEADERS}{}.\r\n", large(400_000)).as_bytes());
    world.say("S: 452 4.3.1 Full");
    assert!(world.engine.spool.is_empty() && world.engine.abandoned.is_empty());
}

#[test]
fn a_full_or_broken_disk_is_4xx() {
    for (failed, reply) in [
        (StoreFailed::Full, "452 4.3.1"),
        (StoreFailed::Broken("EIO".into()), "451 4.3.0"),
    ] {
        // In the middle, and with the last piece.
        for octets in [400_000, BODY_MEMORY_MAX + 64] {
            let mut world = in_data(PLAIN);
            world
                .engine
                .spool
                .insert(MessageId::from_u64(1), Vec::new());
            world.engine.spool_fails = Some(failed.clone());
            world.send(format!("{HEADERS}{}.\r\n", large(octets)).as_bytes());
            world.say(&format!(
                "S: {reply}\nC: MAIL FROM:<a@example.com>\nS: 250 "
            ));
            assert!(world.engine.submitted.is_empty());
            assert_eq!(world.engine.abandoned.len(), 1);
            assert_eq!(world.engine.count("Unspool"), 1);
        }
    }
}

#[test]
fn a_body_too_slow_is_cut_and_our_own_slowness_is_not_counted() {
    // RES-03.
    let mut world = in_data(PLAIN);
    let mut waited = 0;
    while !world.wait(Duration::from_secs(10)) {
        world.send(b"x");
        waited += 10;
        assert_eq!(world.reading.unwrap().1, Timer::Body);
    }
    assert!((50..=70).contains(&waited), "{waited}");
    world.say("S: 421 4.4.2");
    world.assert_over();

    // 600 octets a second are enough for hours.
    let mut world = in_data(PLAIN);
    world.send(HEADERS.as_bytes());
    for _ in 0..1000 {
        assert!(!world.wait(Duration::from_secs(1)));
        world.send(large(640).as_bytes());
    }
    // A silence is not, however much came before.
    assert!(world.wait(Duration::from_mins(3)));

    // A disk that takes ten minutes for a piece is no fault of the client.
    let mut world = in_data(PLAIN);
    world.session.handle_input(
        world.now,
        Input::Bytes(format!("{HEADERS}{}", large(300_000)).as_bytes()),
    );
    let mut wire = Vec::new();
    let Output::Request(Request::Spool(..)) = world.session.poll_output(&mut wire) else {
        panic!("it spools");
    };
    world.now.instant = world.now.instant + Duration::from_mins(30);
    world
        .engine
        .spool
        .insert(MessageId::from_u64(1), Vec::new());
    world.input(Input::Answer(Answer::Spooled(Ok(()))));
    assert!(world.reading.unwrap().0 >= world.now.instant + Duration::from_mins(1));
}

#[test]
fn a_refused_body_is_still_paced() {
    let mut world = in_data(PLAIN);
    world.send(b"From: nobody@example.org\r\n\r\ntext\r\n");
    assert_eq!(world.engine.abandoned.len(), 1);
    let mut waited = 0;
    while !world.wait(Duration::from_secs(10)) {
        world.send(b"x");
        waited += 10;
    }
    assert!((50..=70).contains(&waited), "{waited}");
    world.assert_over();
}

#[test]
fn tls_that_ends_within_a_message_queues_nothing() {
    // TLS-06.
    for mode in modes()
        .into_iter()
        .filter(|mode| mode.tls != ListenerTls::None)
    {
        let mut world = in_data(mode);
        world.send(format!("{HEADERS}text").as_bytes());
        world.client_close_notify();
        world.send_wire(b"\r\n.\r\n");
        world.assert_over();
        assert!(world.engine.submitted.is_empty());
        assert_eq!(world.engine.abandoned.len(), 1);
    }
}

#[test]
fn smuggling_ends_no_message() {
    // EOD-01 to EOD-13.
    let smuggled = "MAIL FROM:<evil@example.com>\r\nRCPT TO:<v@example.net>\r\nDATA\r\n";
    for end in [
        "\n.\n",
        "\n.\r\n",
        "\r\n.\n",
        "\r.\r",
        "\r\n.\r",
        "\r.\r\n",
        "\n.\r",
        "\r.\n",
        "\r\n\0.\r\n",
    ] {
        for mode in modes() {
            let mut world = in_data(mode);
            world.send(format!("{HEADERS}text{end}{smuggled}From: evil\r\n.\r\n").as_bytes());
            let reply = world.reply().unwrap();
            assert!(reply.starts_with("550 5.6.0"), "{end:?} {reply}");
            assert_eq!(world.reply(), None);
            assert!(world.engine.submitted.is_empty());
            world.say("C: NOOP\nS: 250 ");
        }
    }
    // EOD-14: legal.
    let mut world = in_data(PLAIN);
    world.send(format!("{HEADERS}text\r\n..\r\n{smuggled}.\r\n").as_bytes());
    world.say("S: 250 2.0.0");
    assert!(
        world
            .engine
            .text(0)
            .ends_with(&format!("text\r\n.\r\n{smuggled}"))
    );
}

#[test]
fn chunks_make_one_message() {
    // BDAT-15, BDAT-16, BDAT-17.
    for mode in modes() {
        let mut world = World::ready(mode);
        world.say(
            "C: MAIL FROM:<a@example.com> BODY=8BITMIME
            C: RCPT TO:<b@example.net>
            S: 250 
            S: 250 ",
        );
        world.send(b"BDAT 22\r\nFrom: a@example.com\r\n\r");
        world.say("S: 250 ");
        world.send("BDAT 13\r\n\nä\r\n.\r\nMAIL\r".as_bytes());
        world.say("S: 250 ");
        world.send(b"BDAT 5 LAST\r\n\nlast");
        world.say("S: 250 2.0.0 Ok: queued as");
        assert!(
            world
                .engine
                .text(0)
                .ends_with("\r\n\r\nä\r\n.\r\nMAIL\r\nlast\r\n")
        );
        assert_eq!(world.engine.submitted[0].envelope.body, BodyKind::EightBit);

        world.say("C: MAIL FROM:<a@example.com>\nC: RCPT TO:<b@example.net>\nS: 250 \nS: 250 ");
        world.send(b"BDAT 10\r\n0123456789RSET\r\nBDAT 1 LAST\r\nx");
        world.say("S: 250 \nS: 250 2.0.0 Reset\nS: 503 ");
        assert_eq!(world.engine.submitted.len(), 1);
        assert_eq!(world.engine.abandoned.len(), 1);
    }
}

#[test]
fn chunks_that_are_refused_leave_nothing() {
    // BDAT-01, BDAT-03, BDAT-18.
    for (sent, reply) in [
        (&b"BDAT 0 LAST\r\n"[..], "550 5.6.0"),
        (
            b"BDAT 28 LAST\r\nFrom: a@example.com\r\n\r\na\nb\r\n",
            "550 5.6.0",
        ),
        (b"BDAT 18446744073709551615\r\n", "552 5.3.4"),
        (b"BDAT 99999999999999999999999999\r\n", "501 "),
        (b"BDAT -1\r\n", "501 "),
    ] {
        for mode in modes() {
            let mut world = World::ready(mode);
            world.say("C: MAIL FROM:<a@example.com>\nC: RCPT TO:<b@example.net>\nS: 250 \nS: 250 ");
            world.send(sent);
            world.say(&format!("S: {reply}"));
            assert!(world.engine.submitted.is_empty());
            assert_eq!(world.engine.abandoned.len(), 1, "{sent:?}");
            if !world.closed {
                world.say("C: MAIL FROM:<a@example.com>\nS: 250 ");
            }
        }
    }
}

#[test]
fn binary_messages_keep_their_octets() {
    let mut world = World::ready(PLAIN);
    world.say(
        "C: MAIL FROM:<a@example.com> BODY=BINARYMIME
        C: RCPT TO:<b@example.net>
        S: 250 
        S: 250 ",
    );
    world.send(b"BDAT 27 LAST\r\nFrom: a@example.com\r\n\r\na\n\0b");
    world.say("S: 250 2.0.0");
    assert!(world.engine.text(0).ends_with("\r\n\r\na\n\0b"));
    assert_eq!(world.engine.submitted[0].envelope.body, BodyKind::Binary);
}

#[test]
fn loops_end_here() {
    // LOOP-01.
    let mut world = in_data(PLAIN);
    let received = "Received: by a\r\n".repeat(101);
    world.send(format!("{received}{HEADERS}text\r\n.\r\n").as_bytes());
    world.say("S: 554 5.4.6");
    assert!(world.engine.submitted.is_empty());
}

#[test]
fn utf8_in_the_envelope_or_the_headers_is_noted() {
    for (mail, header, needed) in [
        ("MAIL FROM:<a@example.com>", "x", false),
        ("MAIL FROM:<a@example.com> SMTPUTF8", "x", true),
        ("MAIL FROM:<a@example.com>", "ä", true),
    ] {
        let mut world = World::ready(PLAIN);
        world.say(&format!(
            "C: {mail}
            C: RCPT TO:<b@example.net>
            C: DATA
            S: 250 
            S: 250 
            S: 354 
            C: From: a@example.com
            C: Subject: {header}
            C:
            C: .
            S: 250 2.0.0"
        ));
        assert_eq!(world.engine.submitted[0].envelope.smtputf8, needed);
    }
}
