//! A listener with `role = "inbound"`: whom it takes mail for, and what it writes above it.

use super::*;
use crate::config::{DmarcAction, DomainPattern, HostPort, Route, SigningDomain};
use crate::dns::zone::Failure;
use crate::verify::tests::signer;
use smtp_proto::Domain;

/// The client that [`World`] plays is 192.0.2.7.
const SPF: &str = "v=spf1 ip4:192.0.2.0/24 -all";

fn domain(name: &str) -> Domain {
    Domain::parse(name).unwrap()
}

fn inbound(dmarc: DmarcAction, zone: Zone, keys: Vec<Arc<SigningDomain>>) -> World {
    inbound_in(PLAIN, dmarc, zone, keys)
}

fn inbound_in(mode: Mode, dmarc: DmarcAction, zone: Zone, keys: Vec<Arc<SigningDomain>>) -> World {
    let mut world = World::with(mode, |config| {
        config.listeners[0].role = Role::Inbound(dmarc);
        config.listeners[0].trusted_as = None;
        config.domains = keys;
        let hosts = || {
            vec![HostPort::from(
                "127.0.0.1:2525".parse::<std::net::SocketAddr>().unwrap(),
            )]
        };
        let mut forward = Route::new(DomainPattern::Exact(domain("list.example")), hosts());
        forward.forward = true;
        config.routes = vec![
            Route::new(DomainPattern::Exact(domain("ours.example")), hosts()),
            Route::new(DomainPattern::Subdomains(domain("ours.example")), hosts()),
            forward,
            Route::new(DomainPattern::Exact(domain("by-mx.example")), Vec::new()),
            Route::new(DomainPattern::Any, hosts()),
        ];
    });
    world.engine.zone = zone;
    world.say("S: 220 relay.example.com ESMTP");
    world
}

/// Hands one message in, and gives its reply's dialogue line to `world`.
fn deliver(world: &mut World, to: &str, message: &str, reply: &str) {
    world.ehlo();
    world.say(&format!(
        "C: MAIL FROM:<user@a.example>
        C: RCPT TO:<{to}>
        C: DATA
        S: 250 
        S: 250 
        S: 354 "
    ));
    world.send(format!("{message}.\r\n").as_bytes());
    world.say(&format!("S: {reply}"));
}

const HELLO: &str =
    "From: user@a.example\r\nSubject: Hello\r\nBcc: c@ours.example\r\n\r\nHello.\r\n";

#[test]
fn it_takes_mail_for_domains_that_a_route_names_and_no_other() {
    let mut world = inbound(DmarcAction::Tag, Zone::new(), Vec::new());
    let offered = world.ehlo().join("\n");
    for barred in ["AUTH", "FUTURERELEASE", "DELIVERBY", "MT-PRIORITY"] {
        assert!(!offered.contains(barred), "{offered}");
    }
    world.say(
        "C: AUTH PLAIN AGFwcABzZWNyZXQ=
        S: 50",
    );
    world.say(
        "C: MAIL FROM:<>
        S: 250 
        C: RCPT TO:<user@ours.example>
        S: 250 
        C: RCPT TO:<user@sub.ours.example>
        S: 250 
        C: RCPT TO:<user@elsewhere.example>
        S: 550 5.7.1 
        C: RCPT TO:<user@by-mx.example>
        S: 550 5.7.1 
        C: RCPT TO:<user@[192.0.2.1]>
        S: 550 5.7.1 
        C: RCPT TO:<user%elsewhere.example@ours.example>
        S: 550 5.7.1 
        C: RCPT TO:<elsewhere.example!user@ours.example>
        S: 550 5.7.1 
        C: RCPT TO:<Postmaster>
        S: 550 5.7.1 
        C: RCPT TO:<user@relay.example.com>
        S: 550 5.7.1 ",
    );
}

/// HDR-03.
#[test]
fn results_stand_on_top_and_forged_ones_are_gone() {
    for mode in modes() {
        let zone = Zone::new().txt("a.example", &[SPF]);
        let mut world = inbound_in(mode, DmarcAction::Tag, zone, Vec::new());
        let forged = "Authentication-Results: RELAY.example.com; dmarc=pass\r\n\
                      Authentication-Results: other.example; spf=fail\r\n\
                      X-Relay-Tag: mine\r\n";
        deliver(
            &mut world,
            "user@ours.example",
            &format!("{forged}{HELLO}"),
            "250 2.0.0 Ok: queued as ",
        );
        let text = world.engine.text(0);
        assert!(
            text.starts_with(
                "Authentication-Results: relay.example.com;\r\n\tspf=pass smtp.mailfrom=a.example;\r\n\
                 \tdkim=none;\r\n\tdmarc=none (p=none) header.from=a.example;\r\n\
                 \tarc=none smtp.remote-ip=192.0.2.7\r\nReceived: from "
            ),
            "{text}"
        );
        assert_eq!(text.matches("relay.example.com;").count(), 1, "{text}");
        // What others signed stays as it is: nothing is added, and Bcc is theirs.
        assert!(
            text.ends_with(&format!("other.example; spf=fail\r\n{HELLO}")),
            "{text}"
        );
        assert!(
            !text.contains("Message-ID") && !text.contains("X-Relay"),
            "{text}"
        );
        let submission = &world.engine.submitted[0];
        assert_eq!(submission.origin.credential, None);
        assert_eq!(
            submission.dkim.as_deref(),
            Some("spf=pass, dkim=none, dmarc=none")
        );
        let header = &text[..submission.header_size as usize];
        assert!(header.ends_with("\r\n\r\n") && header.find("\r\n\r\n") == Some(header.len() - 4));
    }
}

#[test]
fn our_domains_sign_for_no_stranger() {
    let (keys, zone) = signer("a.example");
    let mut world = inbound(DmarcAction::Tag, zone, vec![keys]);
    deliver(&mut world, "user@ours.example", HELLO, "250 2.0.0 ");
    assert!(!world.engine.text(0).contains("DKIM-Signature"));
}

#[test]
fn a_policy_of_reject_is_obeyed_only_where_that_is_configured() {
    let fails = || {
        Zone::new()
            .txt("a.example", &["v=spf1 exp=why.a.example -all"])
            .txt("why.a.example", &["%{i} is none of ours"])
            .txt("_dmarc.a.example", &["v=DMARC1; p=reject"])
    };
    let mut world = inbound(DmarcAction::Reject, fails(), Vec::new());
    deliver(
        &mut world,
        "user@ours.example",
        HELLO,
        "550 5.7.1 a.example asks to refuse mail that it does not vouch for (DMARC p=reject; \
         spf=fail, dkim=none, dmarc=fail); it says: 192.0.2.7 is none of ours",
    );
    assert!(world.engine.submitted.is_empty());
    assert_eq!(world.engine.abandoned.len(), 1);

    let mut world = inbound(DmarcAction::Tag, fails(), Vec::new());
    deliver(&mut world, "user@ours.example", HELLO, "250 2.0.0 ");
    assert!(
        world
            .engine
            .text(0)
            .contains("\tdmarc=fail (p=reject) header.from=a.example;")
    );

    let silent = Zone::new().failing("_dmarc.a.example", Failure::ServerFailure);
    let mut world = inbound(DmarcAction::Reject, silent, Vec::new());
    deliver(&mut world, "user@ours.example", HELLO, "451 4.4.3 ");
    let two = "From: <x@a.example>, <y@b.example>\r\nSender: <x@a.example>\r\n\r\n";
    let mut world = inbound(DmarcAction::Reject, Zone::new(), Vec::new());
    deliver(
        &mut world,
        "user@ours.example",
        two,
        "550 5.7.1 From names no domain",
    );
}

#[test]
fn a_large_message_is_verified_on_its_way_to_the_spool() {
    let (keys, zone) = signer("a.example");
    let body = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd\r\n".repeat(9000);
    let message = format!("From: user@a.example\r\nSubject: large\r\n\r\n{body}");
    let kind = crate::queue::message::BodyKind::SevenBit;
    let time = UnixTime::from_secs(1_795_471_531);
    let signed = crate::sign::sign(&[keys], message.as_bytes(), kind, time).unwrap();
    let signed = format!("{}{message}", std::str::from_utf8(&signed.fields).unwrap());
    let mode = Mode {
        piece: 16_000,
        ..PLAIN
    };
    let zone = zone.txt("_dmarc.a.example", &["v=DMARC1; p=reject"]);
    let mut world = inbound_in(mode, DmarcAction::Reject, zone.clone(), Vec::new());
    deliver(&mut world, "user@ours.example", &signed, "250 2.0.0 ");
    assert!(matches!(world.engine.submitted[0].body, Body::Spooled));
    assert_eq!(world.engine.text(0).matches("\tdkim=pass ").count(), 2);

    let changed = signed.replacen("0123456789abcd\r\n0123", "0123456789abcd\r\n1123", 1);
    let mut world = inbound_in(mode, DmarcAction::Reject, zone, Vec::new());
    deliver(&mut world, "user@ours.example", &changed, "550 5.7.1 ");
    assert_eq!(world.engine.count("Unspool"), 1);
    assert_eq!(world.engine.abandoned.len(), 1);
}

/// What the relay cannot deliver later is reported to senders that somebody vouches for, and to no other.
#[test]
fn a_sender_that_nobody_vouches_for_is_sent_no_report() {
    let (keys, signed_zone) = signer("a.example");
    let kind = crate::queue::message::BodyKind::SevenBit;
    let time = UnixTime::from_secs(1_795_471_531);
    let signed = crate::sign::sign(&[keys], HELLO.as_bytes(), kind, time).unwrap();
    let signed = format!("{}{HELLO}", std::str::from_utf8(&signed.fields).unwrap());
    let changed = signed.replacen("Hello.", "Hallo.", 1);
    let (_, other_zone) = signer("b.example");
    for (zone, message, reported) in [
        (Zone::new().txt("a.example", &[SPF]), HELLO, true),
        (signed_zone.clone(), &*signed, true),
        (
            signed_zone.clone().txt("a.example", &["v=spf1 -all"]),
            &*signed,
            true,
        ),
        (signed_zone, &*changed, false),
        // Signed in the name of somebody else.
        (other_zone, &*signed, false),
        (Zone::new(), HELLO, false),
        (Zone::new().txt("a.example", &["v=spf1 -all"]), HELLO, false),
        (Zone::new().txt("a.example", &["v=spf1 ?all"]), HELLO, false),
        (Zone::new().txt("a.example", &["v=spf1 ~all"]), HELLO, false),
        // The name in HELO is another's.
        (Zone::new().txt("client.example.org", &[SPF]), HELLO, false),
        (
            Zone::new().failing("a.example", Failure::ServerFailure),
            HELLO,
            false,
        ),
    ] {
        let mut world = inbound(DmarcAction::Tag, zone, Vec::new());
        deliver(&mut world, "user@ours.example", message, "250 2.0.0 ");
        let submission = &world.engine.submitted[0];
        let never = submission.envelope.recipients[0].notify == Some(smtp_proto::Notify::NEVER);
        let said = submission.dkim.as_deref().unwrap();
        assert_eq!(never, !reported, "{said}");
        assert_eq!(said.contains("no reports"), !reported, "{said}");
    }
}

/// Through three hosts that forward, each of which sees what the one before sealed.
#[test]
fn mail_that_goes_on_is_sealed_and_each_link_verifies() {
    let (keys, zone) = signer("example.com");
    let zone = zone.txt("a.example", &[SPF]);
    let mut message = HELLO.to_owned();
    for (hop, arc) in [
        "arc=none",
        "arc=pass (i=1 d=example.com)",
        "arc=pass (i=2 d=example.com)",
    ]
    .into_iter()
    .enumerate()
    {
        let mut world = inbound(DmarcAction::Tag, zone.clone(), vec![Arc::clone(&keys)]);
        deliver(&mut world, "user@list.example", &message, "250 2.0.0 ");
        message = world.engine.text(0);
        assert!(
            message.starts_with(&format!("ARC-Seal: i={};", hop + 1)),
            "{message}"
        );
        assert!(message.contains(&format!("\t{arc}")), "{arc}: {message}");
    }
    // Who changes the message breaks the chain, which is then sealed as broken, and left alone.
    let mut message = message.replacen("Subject: Hello", "Subject: Win!", 1);
    for (sealed, arc) in [(true, "arc=fail"), (false, "arc=fail")] {
        let mut world = inbound(DmarcAction::Tag, zone.clone(), vec![Arc::clone(&keys)]);
        deliver(&mut world, "user@list.example", &message, "250 2.0.0 ");
        message = world.engine.text(0);
        assert_eq!(message.starts_with("ARC-Seal: i=4;"), sealed, "{message}");
        assert!(message.contains(&format!("\t{arc}")), "{message}");
    }
    assert_eq!(message.matches("cv=fail").count(), 1);
    // Where nothing is forwarded, nothing is sealed.
    let mut world = inbound(DmarcAction::Tag, zone, vec![keys]);
    deliver(&mut world, "user@ours.example", HELLO, "250 2.0.0 ");
    assert!(!world.engine.text(0).contains("ARC-"));
}
