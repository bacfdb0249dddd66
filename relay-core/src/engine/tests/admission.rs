//! Who may connect, log in and send. RES-02, AUTH-06, AUTH-09, AUTH-10.

use std::sync::Arc;
use std::time::Duration;

use super::world::{APP, World, config};
use crate::config::{Config, Credential, Rate};
use crate::engine::{Answer, Ask, Input, Refusal};
use crate::events::ClientDid;
use crate::id::SessionId;
use crate::queue::store::StoreStatus;

const MINUTE: Duration = Duration::from_secs(60);

fn with_app(rate: Option<Rate>) -> Config {
    let mut config = config();
    let mut app = Credential::new("app");
    app.rate = rate;
    config.credentials = vec![Arc::new(app)];
    config
}

fn refused(answer: Option<Answer>) -> Refusal {
    match answer {
        Some(Answer::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

fn code(answer: Option<Answer>) -> (String, bool) {
    let refusal = refused(answer);
    (refusal.why.to_string(), refusal.close)
}

fn lookup(world: &mut World, session: SessionId, name: &str) -> Option<Answer> {
    world.ask(session, Ask::Credential { name: name.into() })
}

fn fail(world: &mut World, session: SessionId, name: &str) -> Option<Answer> {
    world.ask(
        session,
        Ask::Authenticated {
            name: name.into(),
            ok: false,
            digest: None,
        },
    )
}

fn verify(world: &mut World, session: SessionId, name: &str, digest: u8) -> Option<Answer> {
    let digest = Some([digest; 32]);
    world.ask(
        session,
        Ask::Authenticated {
            name: name.into(),
            ok: true,
            digest,
        },
    )
}

#[test]
fn connections_are_bounded_in_all_and_for_each_site() {
    let mut config = config();
    config.limits.connections = 10;
    config.limits.connections_per_ip = 4;
    let mut world = World::new(config); // one connection
    for n in 2..=5 {
        let peer = format!("2001:db8::{n}");
        assert!(matches!(
            world.connect(SessionId(n), &peer),
            Answer::Welcome(_)
        ));
    }
    let site = world.connect(SessionId(6), "2001:db8::ffff:1:2:3");
    assert_eq!(
        code(Some(site)),
        ("421 4.7.0".into(), true),
        "one /64 is one site"
    );
    for n in 7..=11 {
        assert!(matches!(
            world.connect(SessionId(n), &format!("192.0.2.{n}")),
            Answer::Welcome(_)
        ));
    }
    let all = world.connect(SessionId(12), "192.0.2.12");
    assert_eq!(code(Some(all)), ("421 4.3.2".into(), true));
    assert_eq!(world.status().sessions, 10);
    world.ask(SessionId(6), Ask::Bye); // was never admitted
    world.ask(SessionId(2), Ask::Bye);
    assert!(matches!(
        world.connect(SessionId(13), "2001:db8::9"),
        Answer::Welcome(_)
    ));
}

#[test]
fn failed_logins_are_limited_for_each_site() {
    let mut world = World::new(with_app(None));
    world.connect(SessionId(2), "192.0.2.2");
    for _ in 0..10 {
        assert!(matches!(
            lookup(&mut world, APP, "app"),
            Some(Answer::Credential { .. })
        ));
        assert!(matches!(fail(&mut world, APP, "app"), Some(Answer::Noted)));
    }
    let refusal = refused(lookup(&mut world, APP, "app"));
    assert_eq!(
        (refusal.why.to_string().as_str(), refusal.close),
        ("421 4.7.0", true)
    );
    assert!(
        refusal.text.ends_with("wait 60 seconds"),
        "{}",
        refusal.text
    );
    assert_eq!(
        code(fail(&mut world, APP, "app")),
        ("421 4.7.0".into(), true)
    );
    let told: Vec<_> = world
        .told_of_clients
        .iter()
        .map(|told| told.event)
        .collect();
    let (failed, blocked) = (ClientDid::AuthFailed, ClientDid::AuthBlocked);
    assert_eq!(told[..10], [failed; 10]);
    assert_eq!(told[10..], [blocked; 2]);
    let line = world.told_of_clients[0].to_string();
    assert!(
        line.ends_with("auth-failed peer=192.0.2.1 name=\"app\": wrong name or secret"),
        "{line}"
    );
    assert!(matches!(
        lookup(&mut world, SessionId(2), "app"),
        Some(Answer::Credential { .. })
    ));
    world.pass(MINUTE);
    assert!(matches!(
        lookup(&mut world, APP, "app"),
        Some(Answer::Credential { .. })
    ));
}

#[test]
fn failed_logins_are_limited_for_each_name_known_or_not() {
    for name in ["app", "nobody"] {
        let mut world = World::new(with_app(None));
        for n in 0..100u64 {
            let session = SessionId(100 + n);
            world.connect(session, &format!("198.51.100.{n}"));
            assert!(matches!(
                lookup(&mut world, session, name),
                Some(Answer::Credential { .. })
            ));
            fail(&mut world, session, name);
        }
        assert_eq!(
            code(lookup(&mut world, APP, name)),
            ("454 4.7.0".into(), false),
            "{name}"
        );
        assert!(matches!(
            lookup(&mut world, APP, "other"),
            Some(Answer::Credential { .. })
        ));
    }
}

#[test]
fn exchanges_that_began_together_are_not_judged_beyond_the_limits() {
    // One site, which may fail 10 times; many sites and one name, which may fail 100 times.
    for (sites, limit, reply) in [(1, 10, "421 4.7.0"), (150, 100, "454 4.7.0")] {
        let mut config = with_app(None);
        config.limits.connections_per_ip = 200;
        let mut world = World::new(config);
        for n in 0..150 {
            world.connect(SessionId(100 + n), &format!("198.51.100.{}", n % sites));
            let answer = lookup(&mut world, SessionId(100 + n), "app");
            assert!(matches!(answer, Some(Answer::Credential { .. })));
        }
        for n in 0..limit {
            let answer = fail(&mut world, SessionId(100 + n), "app");
            assert!(matches!(answer, Some(Answer::Noted)));
        }
        // The last one guessed right; it learns nothing.
        let last = SessionId(249);
        assert_eq!(code(fail(&mut world, SessionId(248), "app")).0, reply);
        assert_eq!(code(verify(&mut world, last, "app", 1)).0, reply);
    }
}

#[test]
fn no_key_is_derived_for_a_name_that_is_over_its_limit() {
    let mut world = World::new(with_app(None));
    let waiting: Vec<SessionId> = (1000..1003).map(SessionId).collect();
    for &session in &waiting {
        world.connect(session, &format!("192.0.2.{}", session.0 - 900));
        lookup(&mut world, session, "app");
    }
    assert!(matches!(
        world.ask(waiting[0], Ask::Turn),
        Some(Answer::Turn)
    ));
    assert!(world.ask(waiting[1], Ask::Turn).is_none());
    for n in 0..100 {
        world.connect(SessionId(100 + n), &format!("198.51.100.{n}"));
        fail(&mut world, SessionId(100 + n), "app");
    }
    let turned_away = world
        .answers
        .iter()
        .find(|(session, _)| *session == waiting[1]);
    let Some((_, Answer::Refused(refusal))) = turned_away else {
        panic!("{turned_away:?}")
    };
    assert_eq!(refusal.why.to_string(), "454 4.7.0");
    assert_eq!(
        code(world.ask(waiting[2], Ask::Turn)).0,
        "454 4.7.0",
        "no turn is waited for in vain"
    );
}

#[test]
fn a_name_that_may_not_come_from_here_looks_unknown() {
    let mut config = with_app(None);
    let mut app = Credential::new("office");
    app.networks = vec!["203.0.113.0/24".parse().unwrap()];
    config.credentials.push(Arc::new(app));
    let mut world = World::new(config);
    world.connect(SessionId(2), "203.0.113.9");
    let mut known = |session, name| match lookup(&mut world, session, name) {
        Some(Answer::Credential {
            credential, key, ..
        }) => (credential.is_some(), key),
        other => panic!("{other:?}"),
    };
    let (here, key) = known(APP, "app");
    assert!(here);
    assert_eq!(known(APP, "office"), (false, key));
    assert_eq!(known(APP, "nobody"), (false, key));
    assert_eq!(known(SessionId(2), "office"), (true, key));
}

#[test]
fn key_derivations_are_bounded_and_in_order() {
    let mut world = World::new(with_app(None));
    world.engine = std::mem::replace(
        &mut world.engine,
        crate::engine::Engine::new(
            Arc::clone(&world.config),
            world.now,
            crate::rng::Rng::from_number(2),
        ),
    )
    .with_turns(2);
    let sessions: Vec<SessionId> = (10..15).map(SessionId).collect();
    for &session in &sessions {
        world.connect(session, &format!("192.0.2.{}", session.0));
    }
    let first: Vec<bool> = sessions
        .iter()
        .map(|&s| world.ask(s, Ask::Turn).is_some())
        .collect();
    assert_eq!(first, [true, true, false, false, false]);
    world.ask(sessions[2], Ask::Bye); // leaves the queue
    verify(&mut world, sessions[0], "app", 1);
    assert!(matches!(world.answers[..], [(s, Answer::Turn)] if s == sessions[3]));
    world.answers.clear();
    world.ask(sessions[1], Ask::Bye); // leaves its turn
    assert!(matches!(world.answers[..], [(s, Answer::Turn)] if s == sessions[4]));
}

#[test]
fn a_thousand_wrong_passwords_at_once_cost_what_the_limit_allows() {
    let mut config = with_app(None);
    config.limits.connections_per_ip = 2000;
    let mut world = World::new(config);
    world.connect(SessionId(5000), "203.0.113.1");
    let mut turns = 0;
    for n in 0..1000 {
        let session = SessionId(10 + n);
        world.connect(session, "198.51.100.1");
        lookup(&mut world, session, "app");
        turns += usize::from(matches!(world.ask(session, Ask::Turn), Some(Answer::Turn)));
    }
    assert_eq!(turns, 1, "one derivation at a time");
    assert!(
        world.ask(SessionId(5000), Ask::Turn).is_none(),
        "an honest one waits its turn"
    );
    let mut honest = None;
    let mut derived = 1;
    let mut current = SessionId(10);
    for _ in 0..30 {
        fail(&mut world, current, "app");
        let granted = world
            .answers
            .iter()
            .find(|(_, answer)| matches!(answer, Answer::Turn));
        let Some(&(session, _)) = granted else { break };
        world.answers.clear();
        derived += 1;
        current = session;
        if session == SessionId(5000) {
            honest = Some(derived);
            verify(&mut world, session, "app", 1);
            break;
        }
    }
    assert_eq!(honest, Some(11), "ten wrong ones, then the honest one");
}

#[test]
fn a_verified_secret_is_remembered_until_the_verifier_changes() {
    let mut world = World::new(with_app(None));
    let remembered = |world: &mut World, name: &str| match lookup(world, APP, name) {
        Some(Answer::Credential { verified, .. }) => verified,
        other => panic!("{other:?}"),
    };
    assert_eq!(remembered(&mut world, "app"), None);
    verify(&mut world, APP, "app", 7);
    verify(&mut world, APP, "nobody", 7);
    assert_eq!(remembered(&mut world, "app"), Some([7; 32]));
    assert_eq!(remembered(&mut world, "nobody"), None);
    world.input(Input::Reload(Arc::new(with_app(Some(Rate {
        count: 1,
        per: MINUTE,
    })))));
    assert_eq!(
        remembered(&mut world, "app"),
        Some([7; 32]),
        "the verifier is the same"
    );
    world.input(Input::Reload(Arc::new(config())));
    world.input(Input::Reload(Arc::new(with_app(None))));
    assert_eq!(
        remembered(&mut world, "app"),
        None,
        "it was gone for a while"
    );
}

#[test]
fn a_login_that_began_before_a_reload_is_not_remembered() {
    let mut world = World::new(with_app(None));
    lookup(&mut world, APP, "app");
    world.input(Input::Reload(Arc::new(with_app(None))));
    let ask = Ask::Authenticated {
        name: "app".into(),
        ok: true,
        digest: Some([7; 32]),
    };
    assert!(matches!(world.ask(APP, ask), Some(Answer::Noted)));
    let Some(Answer::Credential { verified, .. }) = lookup(&mut world, APP, "app") else {
        panic!("the name is known")
    };
    assert_eq!(
        verified, None,
        "it was verified against what may be revoked"
    );
}

#[test]
fn a_rate_is_answered_450_with_the_wait() {
    let mut world = World::new(with_app(Some(Rate {
        count: 3,
        per: 60 * MINUTE,
    })));
    for _ in 0..2 {
        assert!(matches!(world.mail(APP), Answer::Mail { .. }));
    }
    let Answer::Mail { id, .. } = world.mail(APP) else {
        panic!()
    };
    let refusal = refused(Some(world.mail(APP)));
    assert_eq!(
        (refusal.why.to_string().as_str(), refusal.close),
        ("450 4.7.1", false)
    );
    assert!(
        refusal.text.ends_with("wait 20 minutes"),
        "{}",
        refusal.text
    );
    assert!(matches!(
        world.ask(APP, Ask::Abandon(id)),
        Some(Answer::Noted)
    ));
    assert!(
        matches!(world.mail(APP), Answer::Mail { .. }),
        "what was not sent is not charged"
    );
    world.pass(21 * MINUTE);
    assert!(matches!(world.mail(APP), Answer::Mail { .. }));
}

#[test]
fn a_store_that_refuses_is_heard_at_mail() {
    let mut world = World::new(with_app(None));
    let full = StoreStatus {
        refusing: Some("less than 100 MiB free".into()),
        ..status(0)
    };
    world.input(Input::StoreStatus(Box::new(full)));
    assert_eq!(code(Some(world.mail(APP))), ("452 4.3.1".into(), false));
    world.input(Input::StoreStatus(Box::new(status(50))));
    assert_eq!(
        code(Some(world.mail(APP))),
        ("452 4.3.1".into(), false),
        "100 octets into 50"
    );
    world.input(Input::StoreStatus(Box::new(status(1 << 30))));
    assert!(matches!(world.mail(APP), Answer::Mail { .. }));
    assert_eq!(world.status().store.free_bytes, 1 << 30);
}

/// Found by the simulator: a relay with an empty queue whose disk was full once refused for ever.
#[test]
fn a_store_that_refuses_is_asked_again_even_by_an_empty_queue() {
    let mut world = World::new(with_app(None));
    assert_eq!(world.wait, None);
    let full = StoreStatus {
        refusing: Some("less than 100 MiB free".into()),
        ..status(0)
    };
    world.input(Input::StoreStatus(Box::new(full)));
    let wait = world.wait.expect("a timeout, which brings a new status");
    assert!(wait.since(world.now.instant) <= Duration::from_secs(6));
    // Something else happens at that very time.
    world.now.instant = wait;
    let _ = world.connect(SessionId(77), "192.0.2.77");
    assert!(world.wait.is_some_and(|again| again <= wait));
    world.input(Input::StoreStatus(Box::new(status(1 << 30))));
    assert_eq!(world.wait, None);
    assert!(matches!(world.mail(APP), Answer::Mail { .. }));
}

fn status(free_bytes: u64) -> StoreStatus {
    StoreStatus {
        free_bytes,
        ..StoreStatus::default()
    }
}

#[test]
fn nobody_is_admitted_while_shutting_down() {
    let mut world = World::new(with_app(None));
    world.input(Input::ShutDown);
    let answer = world.connect(SessionId(2), "192.0.2.2");
    assert_eq!(code(Some(answer)), ("421 4.3.2".into(), true));
}

#[test]
fn who_is_logged_in_with_a_credential_that_was_removed_sends_no_more() {
    let mut world = World::new(with_app(None));
    assert!(matches!(world.mail(APP), Answer::Mail { .. }));
    world.input(Input::Reload(Arc::new(config())));
    let Answer::Refused(refusal) = world.mail(APP) else {
        panic!("it was not refused");
    };
    assert_eq!(refusal.why, smtp_proto::server::Rejection::POLICY);
    assert!(refusal.text.contains("app was removed"), "{refusal:?}");
    world.input(Input::Reload(Arc::new(with_app(None))));
    assert!(matches!(world.mail(APP), Answer::Mail { .. }));
}

#[test]
fn a_client_that_a_front_end_names_is_counted_where_it_is() {
    let mut config = with_app(None);
    config.limits.connections_per_ip = 2;
    let mut world = World::new(config);
    for n in 2..=3 {
        let front = world.connect(SessionId(n), "198.51.100.1");
        assert!(matches!(front, Answer::Welcome(_)));
        let named = world.connect(SessionId(n), "203.0.113.9");
        assert!(matches!(named, Answer::Welcome(_)));
    }
    // The front end has room again, and the client has none.
    let front = world.connect(SessionId(4), "198.51.100.1");
    assert!(matches!(front, Answer::Welcome(_)));
    let named = world.connect(SessionId(4), "203.0.113.9");
    assert_eq!(code(Some(named)), ("421 4.7.0".into(), true));
    world.ask(SessionId(4), Ask::Bye);
    let status = world.status();
    assert_eq!(status.sessions, 3, "the one of the test, and two");
    for n in 2..=3 {
        world.ask(SessionId(n), Ask::Bye);
    }
    assert_eq!(world.status().sessions, 1);
    fail(&mut world, APP, "app");
    assert_eq!(world.told_of_clients[0].peer.to_string(), "192.0.2.1");
}
