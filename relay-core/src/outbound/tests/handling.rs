//! What a sender asked for beyond the envelope, towards hosts that know it and hosts that do not; and
//! LMTP.

use smtp_proto::{AuthParam, ByMode, Priority};

use super::sink::{Act, say};
use super::tls::Authority;
use super::*;
use crate::outbound::LoginSecret;
use crate::queue::handling::{Deadline, TlsWish};

fn handled(handling: Handling) -> Mail {
    Mail {
        handling,
        ..Mail::default()
    }
}

fn deadline(mode: ByMode) -> Handling {
    let deadline = Deadline {
        at: START + Duration::from_secs(100),
        mode,
        trace: true,
    };
    Handling {
        deadline: Some(deadline),
        priority: Priority::new(4),
        ..Handling::default()
    }
}

/// The MAIL command that the host heard.
fn mail_line(world: &World) -> String {
    let commands = world.mx().commands();
    let mail = commands.iter().find(|line| line.contains("MAIL FROM"));
    mail.cloned().unwrap_or_default()
}

#[test]
fn what_a_host_offers_is_passed_on_to_it() {
    let offers = [
        "PIPELINING",
        "DELIVERBY",
        "MT-PRIORITY",
        "FUTURERELEASE 9 2030-01-01T00:00:00Z",
    ];
    for mode in [ByMode::Notify, ByMode::Return] {
        let script = Script::default().offers(&offers);
        let mut world = World::with(script).mail(&handled(deadline(mode)));
        world.now.unix = START + Duration::from_secs(30);
        assert_eq!(world.run().fates(), "d");
        let letter = if mode == ByMode::Notify { "N" } else { "R" };
        let expected = format!("MAIL FROM:<sender@example.com> BY=70;{letter}T MT-PRIORITY=4");
        assert_eq!(mail_line(&world), expected);
    }
}

#[test]
fn what_a_host_does_not_offer_is_not_said() {
    let mut world = World::with(Script::default()).mail(&handled(deadline(ByMode::Notify)));
    assert_eq!(world.run().fates(), "d");
    assert_eq!(mail_line(&world), "MAIL FROM:<sender@example.com> SIZE=33");
}

#[test]
fn what_is_to_be_returned_when_late_goes_only_to_hosts_that_would() {
    let mut world = World::with(Script::default()).mail(&handled(deadline(ByMode::Return)));
    let run = world.run();
    assert_eq!(run.fates(), "b");
    assert_eq!(reason(run.outcome()).status, "5.3.3");

    let script = Script::default().offers(&["DELIVERBY"]);
    let mut world = World::with(script).mail(&handled(deadline(ByMode::Return)));
    world.now.unix = START + Duration::from_secs(101);
    let run = world.run();
    assert_eq!(run.fates(), "b");
    assert_eq!(reason(run.outcome()).status, "5.4.7");
}

#[test]
fn the_submitter_is_named_to_hosts_that_know_us() {
    let submitter = Handling {
        submitter: Some(AuthParam::parse("a+3Db@example.com").unwrap()),
        ..Handling::default()
    };
    let authority = Authority::new();
    for login in [false, true] {
        let script = Script::default()
            .offers(&["AUTH PLAIN"])
            .with_tls(&authority.good());
        let mut world = World::with(script).mail(&handled(submitter.clone()));
        world.tls = authority.client();
        world.lane.route = true;
        world.lane.login = login.then(|| Login {
            username: "user".into(),
            secret: LoginSecret::Password("secret".into()),
            mechanism: None,
        });
        assert_eq!(world.run().fates(), "d");
        assert_eq!(
            mail_line(&world).ends_with(" AUTH=a+3Db@example.com"),
            login
        );
    }
}

fn required() -> Mail {
    handled(Handling {
        tls: TlsWish::Required,
        ..Handling::default()
    })
}

/// A world whose host is known for certain, unless `authentic` says otherwise.
fn requiring(script: Script, authority: &Authority, authentic: bool) -> World {
    let mut world = World::with(script).mail(&required());
    world.tls = authority.client();
    world.lane.authentic = authentic;
    world
}

#[test]
fn requiretls_is_passed_on_under_verified_tls() {
    let authority = Authority::new();
    let script = Script::default()
        .offers(&["REQUIRETLS"])
        .with_tls(&authority.good());
    let mut world = requiring(script, &authority, true);
    assert_eq!(world.run().fates(), "d");
    assert_eq!(
        mail_line(&world),
        "tls:MAIL FROM:<sender@example.com> REQUIRETLS"
    );
}

#[test]
fn requiretls_bounces_where_no_host_offers_it() {
    let authority = Authority::new();
    let script = Script::default().with_tls(&authority.good());
    let mut world = requiring(script, &authority, true);
    let run = world.run();
    assert_eq!(run.fates(), "b");
    assert_eq!(reason(run.outcome()).status, "5.7.30");
    assert_eq!(mail_line(&world), "");
}

/// RFC 8689 §4.2.1: the sender hears of it.
#[test]
fn requiretls_bounces_where_no_host_proves_who_it_is() {
    let authority = Authority::new();
    let offers = Script::default().offers(&["REQUIRETLS"]);
    let mut worlds = vec![
        requiring(offers.clone(), &authority, true),
        requiring(
            offers.clone().with_tls(&authority.good()),
            &authority,
            false,
        ),
    ];
    for (_, broken) in authority.broken() {
        worlds.push(requiring(
            offers.clone().with_tls(&broken),
            &authority,
            true,
        ));
    }
    for mut world in worlds {
        let run = world.run();
        assert_eq!(run.fates(), "b");
        let reason = reason(run.outcome());
        assert_eq!(
            (&*reason.status, &*reason.rule),
            ("5.7.10", "requiretls-tls")
        );
        assert_eq!(mail_line(&world), "");
    }
}

#[test]
fn requiretls_goes_on_to_a_host_that_offers_it() {
    let authority = Authority::new();
    let bare = Script::default().with_tls(&authority.leaf("mx1.example.net", false));
    let good = Script::default()
        .offers(&["REQUIRETLS"])
        .with_tls(&authority.leaf("mx2.example.net", false));
    let mut world = World::new()
        .host("mx1.example.net", "93.184.216.1", bare)
        .host("mx2.example.net", "93.184.216.2", good)
        .lane(&["mx1.example.net:1", "mx2.example.net:2"])
        .mail(&required());
    world.tls = authority.client();
    world.lane.authentic = true;
    assert_eq!(world.run().fates(), "d");
    assert_eq!(world.sink("93.184.216.2").taken().len(), 1);
}

/// RFC 2033 §4.2: each recipient has a reply of its own after the dot.
#[test]
fn lmtp_has_an_outcome_for_each_recipient() {
    let replies = "250 2.1.5 <u0> kept\r\n452 4.2.2 <u2> over quota\r\n550 5.2.1 <u3> disabled\r\n";
    let script = Script::default()
        .on(
            "lhlo",
            vec![Act::Say("250-store\r\n250 PIPELINING\r\n".into())],
        )
        .on("rcpt to:<u1@", say("550 5.1.1 nobody"))
        .on(".", vec![Act::Say(replies.into())]);
    for chunk in [1, 9, usize::MAX] {
        let mut world = World::with(script.clone())
            .mail(&Mail::to(4))
            .mail(&Mail::to(0));
        world.chunk = chunk;
        world.lane.route = true;
        world.lane.protocol = Protocol::Lmtp;
        let run = world.run();
        assert_eq!(run.fates(), "dbfb");
        assert_eq!(world.mx().commands()[0], "LHLO relay.example.com");
        assert!(run.tried().reusable);
    }
}

#[test]
fn lmtp_that_breaks_off_leaves_the_unanswered_in_doubt() {
    let half = vec![Act::Say("250 2.1.5 <u0> kept\r\n".into()), Act::Close];
    let script = Script::default().on("lhlo", say("250 store")).on(".", half);
    let mut world = World::with(script).mail(&Mail::to(2));
    world.lane.protocol = Protocol::Lmtp;
    assert_eq!(world.run().fates(), "d?");
}

#[test]
fn lmtp_falls_back_to_nothing() {
    let script = Script::default().on("lhlo", say("500 5.5.1 what?"));
    let mut world = World::with(script).mail(&Mail::default());
    world.lane.route = true;
    world.lane.protocol = Protocol::Lmtp;
    let run = world.run();
    assert!(run.is_unreachable());
    let commands = world.mx().commands();
    assert!(
        !commands.iter().any(|line| line.starts_with("HELO")),
        "{commands:?}"
    );
}
