use super::*;

/// A message that is in order.
const MESSAGE: &str = "C: From: a@example.com
    C: Subject: hello
    C:
    C: text
    C: .";

fn everywhere(dialogue: &str) {
    for mode in modes() {
        let mut world = World::ready(mode);
        world.say(dialogue);
    }
}

#[test]
fn a_message_is_queued_with_our_headers_and_nothing_else_changed() {
    for mode in modes() {
        let mut world = World::ready(mode);
        world.say(&format!(
            "C: MAIL FROM:<a@example.com> SIZE=100
            S: 250 2.1.0
            C: RCPT TO:<b@example.net> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;x@example.net
            S: 250 2.1.5
            C: RCPT TO:<Postmaster>
            S: 250 2.1.5
            C: DATA
            S: 354 
            {MESSAGE}
            S: 250 2.0.0 Ok: queued as 0000000000001"
        ));
        let text = world.engine.text(0);
        let submission = &world.engine.submitted[0];
        let envelope = &submission.envelope;
        assert_eq!(envelope.from.to_string(), "<a@example.com>");
        assert_eq!(
            envelope.recipients[0].notify.unwrap().to_string(),
            "SUCCESS,FAILURE"
        );
        assert_eq!(
            envelope.recipients[0].orcpt.as_ref().unwrap().address(),
            "x@example.net"
        );
        assert_eq!(
            envelope.recipients[1].to.to_string(),
            "postmaster@relay.example.com"
        );
        assert_eq!(envelope.recipients[1].notify, None);
        assert_eq!(submission.origin.credential.as_deref(), Some("app"));
        assert_eq!(submission.origin.peer, Some("192.0.2.7".parse().unwrap()));
        let (headers, body) = text.split_at(submission.header_size as usize);
        assert_eq!(body, "text\r\n");
        assert!(headers.starts_with("Received: from client.example.com ([192.0.2.7])\r\n"));
        assert!(
            headers.ends_with("From: a@example.com\r\nSubject: hello\r\n\r\n"),
            "{headers}"
        );
        assert!(headers.contains("Message-ID: <0000000000001@relay.example.com>\r\n"));
        assert!(headers.contains("Date: Mon, 23 Nov 2026 22:05:31 +0000\r\n"));
        let with = match mode.tls {
            ListenerTls::None => "with ESMTPA id 0000000000001",
            ListenerTls::StartTls | ListenerTls::Implicit => "with ESMTPSA id 0000000000001",
        };
        assert!(headers.contains(with), "{headers}");
        world.say("C: QUIT\nS: 221 2.0.0");
        world.assert_over();
        assert_eq!(world.engine.count("Abandon"), 0);
    }
}

#[test]
fn a_pipelined_burst_is_answered_in_order() {
    everywhere(&format!(
        "C: MAIL FROM:<a@example.com>
        C: RCPT TO:<b@example.net>
        C: RCPT TO:<u%b.example@relay.example.com>
        C: DATA
        S: 250 2.1.0
        S: 250 2.1.5
        S: 554 5.7.1
        S: 354 
        {MESSAGE}
        C: MAIL FROM:<a@example.com>
        C: NOOP
        S: 250 2.0.0 Ok: queued as 0000000000001
        S: 250 2.1.0
        S: 250 2.0.0"
    ));
}

#[test]
fn nobody_relays_without_authentication() {
    for mode in modes() {
        let mut world = World::with(mode, |_| {});
        world.say("S: 220 relay.example.com ESMTP");
        world.ehlo();
        world.say(
            "C: MAIL FROM:<a@example.com>
            S: 530 5.7.0
            C: RCPT TO:<b@example.net>
            S: 503 5.5.1
            C: DATA
            S: 503 5.5.1
            C: BDAT 3 LAST
            C: x
            S: 503 5.5.1",
        );
        assert!(world.engine.submitted.is_empty());
        assert_eq!(world.engine.count("Mail"), 0);
    }
}

#[test]
fn a_sender_must_be_one_of_the_credential() {
    // AUTH-11.
    everywhere(
        "C: MAIL FROM:<a@example.org>
        S: 553 5.7.1 Credential app may not send as <a@example.org>
        C: MAIL FROM:<>
        S: 553 5.7.1 Credential app may not send as <>
        C: RCPT TO:<b@example.net>
        S: 503 5.5.1
        C: MAIL FROM:<A@EXAMPLE.COM>
        S: 250 2.1.0",
    );
    for (headers, reply) in [
        (
            "C: From: b@example.org",
            "S: 553 5.7.1 Credential app may not send as <b@example.org>",
        ),
        (
            "C: From: a@example.com\nC: From: b@example.org",
            "S: 550 5.6.0",
        ),
        ("C: From: a@example.com, b@example.org", "S: 550 5.6.0"),
        ("C: Subject: nobody", "S: 550 5.6.0"),
    ] {
        for mode in modes() {
            let mut world = World::ready(mode);
            world.say(&format!(
                "C: MAIL FROM:<a@example.com>
                C: RCPT TO:<b@example.net>
                C: DATA
                S: 250 
                S: 250 
                S: 354 
                {headers}
                C:
                C: text
                C: .
                {reply}
                C: RCPT TO:<b@example.net>
                S: 503 5.5.1"
            ));
            assert!(world.engine.submitted.is_empty());
            assert_eq!(world.engine.abandoned.len(), 1);
        }
    }
}

#[test]
fn reports_are_for_those_who_may_send_as_anybody() {
    let mut world = World::ready_with(PLAIN, |config| {
        let mut credential = Credential::clone(&config.credentials[0]);
        credential.senders = vec![SenderPattern::Any];
        config.credentials[0] = Arc::new(credential);
    });
    world.say("C: MAIL FROM:<>\nS: 250 2.1.0");
}

#[test]
fn recipients_that_would_turn_the_relay_against_itself_are_refused() {
    // CMD-22, CMD-24, CMD-25.
    everywhere(
        "C: MAIL FROM:<a@example.com>
        S: 250 
        C: RCPT TO:<@a.example,@b.example:u@example.net>
        S: 501 5.1.3
        C: RCPT TO:<u%b.example@relay.example.com>
        S: 554 5.7.1
        C: RCPT TO:<b.example!u@RELAY.example.com>
        S: 554 5.7.1
        C: RCPT TO:<u@[127.0.0.1]>
        S: 550 5.1.2
        C: RCPT TO:<u@[IPv6:::1]>
        S: 550 5.1.2
        C: RCPT TO:<u@[IPv6:::ffff:127.0.0.1]>
        S: 550 5.1.2
        C: RCPT TO:<u@[0.0.0.0]>
        S: 550 5.1.2
        C: RCPT TO:<;sleep 5;@example.net>
        S: 501 5.1.3
        C: RCPT TO:<u%b.example@example.net>
        S: 250 2.1.5
        C: RCPT TO:<u@[198.51.100.1]>
        S: 250 2.1.5",
    );
}

#[test]
fn recipients_are_bounded_and_bad_ones_end_the_session() {
    // RES-05.
    let mut world = World::ready(PLAIN);
    world.say("C: MAIL FROM:<a@example.com>\nS: 250 ");
    for _ in 0..5 {
        world.say("C: RCPT TO:<b@example.net>\nS: 250 ");
    }
    for _ in 0..1000 {
        world.say("C: RCPT TO:<b@example.net>\nS: 452 4.5.3");
    }
    let mut world = World::ready(PLAIN);
    world.say("C: MAIL FROM:<a@example.com>\nS: 250 ");
    let mut refused = 0;
    while !world.closed {
        world.send(b"RCPT TO:<u@[127.0.0.1]>\r\n");
        refused += 1;
        assert!(refused < 1000);
    }
    assert_eq!(world.engine.abandoned.len(), 1);
    world.assert_over();
}

#[test]
fn what_is_out_of_order_is_503_and_drops_nothing_but_itself() {
    // CMD-03, CMD-04, BDAT-12, BDAT-13, TLS-02.
    everywhere(
        "C: DATA
        S: 503 5.5.1
        C: MAIL FROM:<a@example.com>
        S: 250 
        C: MAIL FROM:<a@example.com>
        S: 503 5.5.1
        C: RCPT TO:<b@example.net>
        S: 250 
        C: BDAT 10
        C: 12345678
        S: 250 
        C: MAIL FROM:<a@example.com>
        S: 503 5.5.1
        C: DATA
        S: 503 5.5.1
        C: NOOP
        S: 250 2.0.0",
    );
}

#[test]
fn ehlo_and_rset_drop_the_envelope_and_give_its_id_back() {
    for command in ["EHLO a", "HELO a", "RSET"] {
        for mode in modes() {
            let mut world = World::ready(mode);
            world.say("C: MAIL FROM:<a@example.com>\nS: 250 ");
            world.send(format!("{command}\r\n").as_bytes());
            while world.reply().is_some() {}
            assert_eq!(world.engine.abandoned, [MessageId::from_u64(1)]);
            world.say(
                "C: RCPT TO:<b@example.net>
                S: 503 5.5.1
                C: MAIL FROM:<a@example.com>
                S: 250 ",
            );
        }
    }
}

#[test]
fn the_engine_refuses_in_its_own_words() {
    for mode in modes() {
        let mut world = World::ready(mode);
        let rate = refusal(Rejection::RATE, "Over 10/h; wait 3 minutes");
        world.engine.refusals.push_back(("Mail", rate));
        world.say(
            "C: MAIL FROM:<a@example.com>
            C: RCPT TO:<b@example.net>
            S: 450 4.7.1 Over 10/h; wait 3 minutes
            S: 503 5.5.1",
        );
        let full = refusal(Rejection::LOCAL_ERROR, "The store failed");
        world.engine.refusals.push_back(("Submit", full));
        world.say(&format!(
            "C: MAIL FROM:<a@example.com>
            C: RCPT TO:<b@example.net>
            C: DATA
            S: 250 
            S: 250 
            S: 354 
            {MESSAGE}
            S: 451 4.3.0 The store failed"
        ));
        assert!(world.engine.abandoned.is_empty(), "Submit ended it");
        let mut close = refusal(Rejection::SHUTTING_DOWN, "Shutting down");
        close.close = true;
        world.engine.refusals.push_back(("Mail", close));
        world.say("C: MAIL FROM:<a@example.com>\nC: NOOP\nS: 421 4.3.2 Shutting down");
        world.assert_over();
    }
}

#[test]
fn browsers_and_floods_are_sent_away() {
    // CMD-29, CMD-34, CMD-35, TLS-09.
    for mode in modes() {
        let mut world = World::ready(mode);
        world.send(b"GET / HTTP/1.1\r\nCookie: a\r\n\r\n");
        assert!(world.closed);
        assert!(world.reply().unwrap().starts_with("421 4.7.0"));
        assert_eq!(world.reply(), None);
        world.assert_over();
    }
    for command in ["NOOP\r\n", "BOGUS\r\n", "RSET\r\n", "VRFY a\r\n"] {
        let mut world = World::ready(PLAIN);
        world.send(command.repeat(2000).as_bytes());
        world.assert_over();
    }
}

#[test]
fn a_client_that_hangs_up_leaves_nothing() {
    // BDAT-20, TLS-07.
    for mode in modes() {
        for lost in [
            Input::Closed(None),
            Input::Closed(Some(std::io::ErrorKind::ConnectionReset)),
            Input::WriteFailed(std::io::ErrorKind::BrokenPipe),
        ] {
            let mut world = World::ready(mode);
            world.say(
                "C: MAIL FROM:<a@example.com>
                C: RCPT TO:<b@example.net>
                C: DATA
                S: 250 
                S: 250 
                S: 354 
                C: From: a@example.com
                C:
                C: half a mess",
            );
            world.input(lost);
            world.assert_over();
            assert!(world.engine.submitted.is_empty());
            assert_eq!(world.engine.abandoned.len(), 1);
        }
    }
}

#[test]
fn a_failed_write_in_place_of_a_chore_does_not_lose_it() {
    let mut world = World::ready(PLAIN);
    world.say("C: MAIL FROM:<a@example.com>\nS: 250 ");
    world
        .session
        .handle_input(world.now, Input::Bytes(b"RSET\r\n"));
    let mut wire = Vec::new();
    assert!(matches!(
        world.session.poll_output(&mut wire),
        Output::Request(Request::Engine(Ask::Abandon(_)))
    ));
    world.input(Input::WriteFailed(std::io::ErrorKind::BrokenPipe));
    assert_eq!(world.engine.abandoned.len(), 1);
    world.assert_over();
}
