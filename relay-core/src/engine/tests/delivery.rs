//! From submission to the end of a message: acceptance, splitting, names, outcomes, schedule, expiry.

use std::time::Duration;

use smtp_proto::Domain;

use super::world::{
    World, bounced, config, deferred, deferred_at, delivered, mail, mx, no_dns, reason,
};
use crate::config::{DomainPattern, HostPort, Route, TlsLevel};
use crate::dns::{DnsFailure, Mx, MxSet};
use crate::engine::{Answer, Ask, Input};
use crate::events::EventKind;
use crate::id::MessageId;
use crate::outbound::{Evidence, Outcome};
use crate::queue::handling::TlsWish;
use crate::queue::record::Progress;
use crate::queue::store::{Place, StoreFailed};
use crate::time::UnixTime;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_message_is_delivered_and_discarded() {
    let mut world = World::new(config());
    let id = world.submit(&["a@one.example"]);
    assert!(world.disk.contains_key(&id));
    let delivery = world.only();
    assert!(
        world.job(delivery).loaded.is_some(),
        "it is still in memory"
    );
    assert_eq!(world.open[&delivery].lane.hosts[0].host.host, "one.example");
    world.finish(delivery, &delivered());
    assert_eq!(world.story(id), ["accepted", "delivered"]);
    assert!(world.disk.is_empty() && world.open.is_empty());
    assert!(world.engine.is_idle());
    let status = world.status();
    assert_eq!(
        (status.accepted, status.delivered, status.queued),
        (1, 1, 0)
    );
}

#[test]
fn the_250_waits_for_the_receipt() {
    let mut world = World::new(config());
    world.auto_store = false;
    let Answer::Mail { id, .. } = world.mail(super::world::APP) else {
        panic!()
    };
    let submission = world.submission(id, mail("a@sender.example", &["b@one.example"]));
    assert!(
        world
            .ask(super::world::APP, Ask::Submit(submission))
            .is_none()
    );
    world.pass(HOUR);
    assert!(
        world.answers.is_empty() && world.open.is_empty(),
        "nothing before the receipt"
    );
    assert!(!world.engine.is_idle());
    assert!(
        world.engine.is_live(
            id,
            Place {
                segment: 0,
                offset: 0
            }
        ),
        "it may be on disk"
    );
    let receipt = world.receipt();
    world.input(receipt);
    assert!(matches!(world.answers[..], [(_, Answer::Queued(queued))] if queued == id));
    assert!(!world.engine.is_live(
        id,
        Place {
            segment: 0,
            offset: 0
        }
    ));
    assert!(world.engine.is_live(id, world.disk[&id].place));
}

#[test]
fn a_failed_write_keeps_nothing_and_says_so() {
    let mut world = World::new(config());
    for (failed, code) in [
        (StoreFailed::Full, "452 4.3.1"),
        (StoreFailed::Broken("EIO".into()), "451 4.3.0"),
    ] {
        world.store_says = Some(failed);
        let refusal = world
            .try_submit(mail("a@s.example", &["b@one.example"]))
            .unwrap_err();
        assert_eq!(refusal.why.to_string(), code);
        let at_mail = world
            .try_submit(mail("a@s.example", &["b@one.example"]))
            .unwrap_err();
        assert_eq!(at_mail.why.to_string(), code, "at MAIL, for a while");
        world.pass(10 * Duration::from_secs(1));
    }
    assert!(world.events.is_empty() && world.disk.is_empty() && world.open.is_empty());
    world.store_says = None;
    world.submit(&["b@one.example"]);
    assert_eq!(world.status().accepted, 1);
}

#[test]
fn a_session_that_leaves_before_its_receipt_leaves_the_message() {
    let mut world = World::new(config());
    world.auto_store = false;
    let id = world.submit(&["b@one.example"]);
    world.ask(super::world::APP, Ask::Bye);
    let receipt = world.receipt();
    world.input(receipt);
    assert!(world.answers.is_empty());
    world.finish_all(&delivered());
    assert_eq!(world.story(id), ["accepted", "delivered"]);
}

#[test]
fn ids_rise_whatever_the_clock_does() {
    let mut world = World::new(config());
    let mut last = MessageId::from_u64(0);
    for n in 0..100u64 {
        world.now.unix = UnixTime::from_secs(1_750_000_000 - 10_000_000 * (n % 7));
        let Answer::Mail { id, .. } = world.mail(super::world::APP) else {
            panic!()
        };
        assert!(id > last);
        last = id;
    }
}

#[test]
fn one_job_for_each_destination() {
    let mut world = World::new(config());
    let to = [
        "a@one.example",
        "b@two.example",
        "c@ONE.example",
        "d@[192.0.2.7]",
        "e@one.example",
    ];
    let id = world.submit(&to);
    assert_eq!(world.asked, 2, "an address literal needs no name");
    let mut jobs: Vec<_> = world
        .running()
        .iter()
        .map(|&d| {
            (
                world.open[&d].lane.name.clone(),
                world.job(d).recipients.clone(),
            )
        })
        .collect();
    jobs.sort();
    let expected = [
        ("192.0.2.7".to_owned(), vec![3]),
        ("one.example".to_owned(), vec![0, 2, 4]),
        ("two.example".to_owned(), vec![1]),
    ];
    assert_eq!(jobs, expected);
    world.finish_all(&delivered());
    assert_eq!(world.story(id).len(), 4);
    assert!(world.disk.is_empty());
}

#[test]
fn the_spellings_of_one_domain_make_one_job() {
    let mut world = World::new(config());
    let to = [
        "a@b\u{fc}cher.example",
        "b@xn--bcher-kva.example",
        "c@B\u{dc}CHER.example",
        "d@XN--BCHER-KVA.example",
    ];
    let id = world.submit(&to);
    assert_eq!(world.asked, 1);
    let delivery = world.only();
    assert_eq!(world.job(delivery).recipients, [0, 1, 2, 3]);
    let lane = &world.open[&delivery].lane.hosts[0].host.host;
    assert_eq!(lane, "xn--bcher-kva.example");
    world.finish(delivery, &delivered());
    assert_eq!(world.story(id), ["accepted", "delivered"]);
}

#[test]
fn each_recipient_has_its_own_outcome() {
    let mut world = World::new(config());
    let id = world.submit(&["a@one.example", "b@one.example", "c@one.example"]);
    let delivery = world.only();
    let mut tried = world.tried_as(delivery, &delivered());
    tried.outcomes[1].1 = bounced();
    tried.outcomes[2].1 = deferred();
    world.report(delivery, tried);
    assert_eq!(
        world.story(id),
        ["accepted", "delivered", "bounced", "deferred"]
    );
    let named = world.events.iter().find_map(|event| match &event.kind {
        EventKind::Deferred {
            attempt,
            next,
            in_doubt: false,
        } => Some((attempt, next)),
        _ => None,
    });
    let (attempt, next) = named.unwrap();
    assert_eq!(attempt.recipients, ["c@one.example"]);
    assert_eq!((attempt.lane.as_str(), attempt.attempt), ("one.example", 1));
    assert!(
        next.as_ref()
            .is_some_and(|next| next.starts_with("2025-06-15T15:07")),
        "{next:?}"
    );
    assert_eq!(world.status().queued, 2, "one, and the report of another");

    world.end_idle();
    world.finish_all(&delivered()); // the report
    world.pass(2 * MINUTE);
    assert_eq!(world.job(world.only()).recipients, [2]);
    assert_eq!(world.job(world.only()).attempts, 1);
    world.finish_all(&delivered());
    assert!(world.disk.is_empty());
}

#[test]
fn a_recipient_of_which_nothing_is_said_stays() {
    let mut world = World::new(config());
    let id = world.submit(&["a@one.example", "b@one.example"]);
    let delivery = world.only();
    let mut tried = world.tried_as(delivery, &delivered());
    tried.outcomes = vec![(1, delivered()), (7, bounced()), (1, bounced())];
    world.report(delivery, tried);
    assert_eq!(world.story(id), ["accepted", "delivered", "deferred"]);
    assert_eq!(world.show(id).unwrap().jobs[0].recipients, 1);
}

#[test]
fn attempts_follow_the_schedule_until_the_message_expires() {
    let mut world = World::new(config());
    let id = world.submit(&["a@one.example"]);
    let mut at = vec![world.now.instant];
    while world.story(id).last() != Some(&"expired") {
        if let Some(&delivery) = world.running().iter().find(|&&d| world.job(d).id == id) {
            at.push(world.now.instant);
            world.finish(delivery, &deferred());
        }
        world.pass(Duration::from_secs(1));
        for delivery in world.running() {
            if world.job(delivery).id != id {
                world.finish(delivery, &delivered()); // the reports
            }
        }
    }
    let waits: Vec<u64> = at
        .windows(2)
        .skip(1)
        .map(|pair| pair[1].since(pair[0]).as_secs())
        .collect();
    let minutes = [1, 5, 5, 15, 30, 60, 60, 60, 60, 240, 240, 240];
    for (wait, minutes) in waits.iter().zip(minutes) {
        assert!(
            *wait >= minutes * 54 && *wait <= minutes * 66 + 2,
            "{waits:?}"
        );
    }
    let age = world.now.instant.since(at[0]);
    assert!(age >= 72 * HOUR && age < 72 * HOUR + 2 * MINUTE, "{age:?}");
    let expired = world.events.iter().find_map(|event| match &event.kind {
        EventKind::Expired(attempt) => Some(attempt),
        _ => None,
    });
    let expired = expired.unwrap();
    assert_eq!(expired.reason.status, "5.4.7");
    assert!(
        expired.reason.text.ends_with("450 4.2.0 Greylisted"),
        "{}",
        expired.reason.text
    );
    assert_eq!(
        world.reports_about(id).len(),
        2,
        "one of the delay, one of the failure"
    );
    world.finish_all(&delivered());
    assert!(world.disk.is_empty());
    assert_eq!(world.status().expired, 1);
}

#[test]
fn a_receiver_says_when_to_come_back() {
    let mut world = World::new(config());
    world.submit(&["a@one.example"]);
    let outcome = Outcome::Deferred {
        reason: reason("rcpt", Some(450), "4.2.0", "Try again in 15 minutes"),
        retry_after: Some(15 * MINUTE),
        in_doubt: true,
    };
    world.finish(world.only(), &outcome);
    let Some(Progress::Deferred(state)) = world.disk.values().next().unwrap().notes.last() else {
        panic!()
    };
    assert!(state.in_doubt);
    assert_eq!((state.attempts, state.recipients.as_slice()), (1, &[0][..]));
    world.pass(15 * MINUTE - Duration::from_secs(1));
    assert!(world.running().is_empty());
    world.pass(2 * MINUTE);
    assert_eq!(world.running().len(), 1);
}

#[test]
fn too_many_recipients_are_sent_in_further_transactions_at_once() {
    let mut world = World::new(config());
    let id = world.submit(&["a@one.example", "b@one.example", "c@one.example"]);
    let delivery = world.only();
    for left in [2usize, 1] {
        let full = reason("rcpt", Some(452), "4.5.3", "Too many recipients");
        let full = Outcome::Deferred {
            reason: full,
            retry_after: None,
            in_doubt: false,
        };
        let mut tried = world.tried_as(delivery, &full);
        tried.outcomes[0].1 = delivered();
        world.report(delivery, tried);
        assert_eq!(
            world.job(delivery).recipients.len(),
            left,
            "on the same connection"
        );
    }
    world.finish(delivery, &delivered());
    assert!(world.disk.is_empty());
    assert_eq!(
        world
            .story(id)
            .iter()
            .filter(|kind| **kind == "delivered")
            .count(),
        3
    );
}

#[test]
fn names_that_cannot_receive_bounce_with_their_codes() {
    let rows = [
        (
            "nx.example",
            DnsFailure::NoSuchDomain,
            "5.1.2",
            "no-such-domain",
        ),
        (
            "none.example",
            DnsFailure::NoRecord,
            "5.4.4",
            "no-mail-host",
        ),
        ("null.example", DnsFailure::NullMx, "5.1.10", "null-mx"),
        (
            "bad.example",
            DnsFailure::BadName("a label is too long".into()),
            "5.1.2",
            "bad-name",
        ),
    ];
    for (domain, failure, status, rule) in rows {
        let mut world = World::new(config());
        world.zone.insert(domain.into(), Err(failure));
        let id = world.submit(&[&format!("a@{domain}")]);
        assert_eq!(world.story(id), ["accepted", "bounced"], "{domain}");
        let EventKind::Bounced(attempt) = &world.events[1].kind else {
            panic!()
        };
        assert_eq!(
            (attempt.reason.status.as_str(), attempt.reason.rule.as_str()),
            (status, rule)
        );
        assert_eq!(attempt.recipients, [format!("a@{domain}")]);
        assert!(
            world.running().iter().all(|d| world.job(*d).id != id),
            "no connection"
        );
        assert_eq!(world.reports_about(id).len(), 1);
    }
}

#[test]
fn a_resolver_that_fails_defers_every_job_of_the_domain() {
    let mut world = World::new(config());
    world.zone.insert("one.example".into(), no_dns());
    world.auto_resolve = false;
    let ids: Vec<_> = (0..3).map(|_| world.submit(&["a@one.example"])).collect();
    assert_eq!(world.questions.len(), 1, "one question for all");
    let answer = world.resolution();
    world.input(answer);
    for id in ids {
        assert_eq!(world.story(id), ["accepted", "deferred"]);
    }
    world.auto_resolve = true;
    world.zone.clear();
    world.pass(2 * MINUTE);
    assert_eq!(world.finish_all(&delivered()), 3);
}

#[test]
fn an_exchanger_that_is_this_relay_is_a_loop() {
    let mut world = World::new(config());
    world.zone.insert(
        "self.example".into(),
        mx(&[(10, "RELAY.example"), (20, "b.example")]),
    );
    world.zone.insert(
        "near.example".into(),
        mx(&[(5, "a.example"), (10, "relay.example")]),
    );
    let id = world.submit(&["a@self.example", "a@relay.example"]);
    assert_eq!(world.story(id), ["accepted", "bounced", "bounced"]);
    let EventKind::Bounced(attempt) = &world.events[1].kind else {
        panic!()
    };
    assert_eq!(attempt.reason.status, "5.4.6");
    world.finish_all(&delivered()); // the report
    world.submit(&["a@near.example"]);
    assert_eq!(world.open[&world.only()].lane.hosts.len(), 1);
}

#[test]
fn routes_go_before_names_and_the_first_match_wins() {
    let mut config = config();
    let host = |host: &str| HostPort {
        host: host.into(),
        port: 2525,
    };
    let route = |domain, name: &str| Route {
        domain,
        hosts: vec![host(name), host("second.example")],
        forward: false,
        protocol: crate::config::Protocol::Smtp,
        tls: Some(TlsLevel::Verify),
        tls_mode: None,
        username: Some("u".into()),
        password_file: None,
        password: Some("p".into()),
        token: None,
        mechanism: None,
    };
    let domain = |text| Domain::parse(text).unwrap();
    config.routes = vec![
        route(DomainPattern::Exact(domain("one.example")), "exact.example"),
        route(
            DomainPattern::Subdomains(domain("one.example")),
            "under.example",
        ),
        route(DomainPattern::Any, "any.example"),
    ];
    let mut world = World::new(config);
    for (to, host) in [
        ("a@ONE.example", "exact.example"),
        ("a@x.one.example", "under.example"),
        ("a@two.example", "any.example"),
        ("a@[192.0.2.1]", "any.example"),
    ] {
        world.submit(&[to]);
        let lane = &world.open[&world.only()].lane;
        assert_eq!(
            lane.hosts[0].host,
            HostPort {
                host: host.into(),
                port: 2525
            },
            "{to}"
        );
        assert!(lane.route && lane.login.is_some() && lane.tls == TlsLevel::Verify);
        world.finish_all(&delivered());
    }
    assert_eq!(world.asked, 0);
}

/// `hosts = ["mx"]`: what the route says goes for the exchangers of its domain, and for those of no other.
#[test]
fn a_route_by_mx_asks_the_names() {
    let mut config = config();
    let domain = DomainPattern::Exact(Domain::parse("one.example").unwrap());
    let mut strict = Route::new(domain, Vec::new());
    strict.tls = Some(TlsLevel::Dane);
    let mut all = Route::new(DomainPattern::Any, Vec::new());
    all.tls = Some(TlsLevel::Require);
    config.routes = vec![strict, all];
    let mut world = World::new(config);
    for name in ["one.example", "two.example"] {
        world.zone.insert(name.into(), mx(&[(10, "mx.example")]));
    }
    for (to, tls, asked) in [
        ("a@ONE.example", TlsLevel::Dane, 1),
        ("a@two.example", TlsLevel::Require, 2),
        ("a@[192.0.2.1]", TlsLevel::Require, 2),
    ] {
        world.submit(&[to]);
        assert_eq!(world.asked, asked);
        let lane = &world.open[&world.only()].lane;
        assert_eq!((lane.route, lane.tls), (false, tls), "{to}");
        assert!(lane.login.is_none() && lane.hosts.len() == 1);
        world.finish_all(&delivered());
    }
}

#[test]
fn exchangers_of_one_preference_are_shuffled_for_each_connection() {
    let mut world = World::new(config());
    let hosts = [
        (10, "a.example"),
        (10, "b.example"),
        (10, "c.example"),
        (20, "d.example"),
    ];
    world.zone.insert("one.example".into(), mx(&hosts));
    let mut firsts = std::collections::BTreeSet::new();
    for _ in 0..30 {
        world.submit(&["a@one.example"]);
        let lane = &world.open[&world.only()].lane;
        firsts.insert(lane.hosts[0].host.host.clone());
        assert_eq!(lane.hosts[3].host.host, "d.example");
        world.finish_all(&delivered());
    }
    assert_eq!(firsts.len(), 3);
}

#[test]
fn a_connection_that_ends_without_a_word_costs_no_attempt() {
    let mut world = World::new(config());
    let id = world.submit(&["a@one.example"]);
    world.end(world.only());
    assert_eq!(world.story(id), ["accepted"]);
    world.pass(MINUTE);
    assert_eq!(world.job(world.only()).attempts, 0);
    world.finish_all(&delivered());
    assert!(world.disk.is_empty());
}

#[test]
fn a_record_that_moves_is_read_at_its_new_place() {
    let mut world = World::new(config());
    let id = world.submit(&["a@one.example"]);
    world.finish(world.only(), &deferred());
    world.pass(2 * MINUTE);
    let delivery = world.only();
    let (from, to) = (world.disk[&id].place, world.place());
    world.disk.get_mut(&id).unwrap().place = to;
    world.input(Input::Moved(id, from, to));
    assert!(world.engine.is_live(id, to) && !world.engine.is_live(id, from));
    world.finish(delivery, &deferred_at("store", None, "the record is gone"));
    assert_eq!(
        world.story(id),
        ["accepted", "deferred"],
        "that was no attempt"
    );
    world.pass(MINUTE);
    assert_eq!(world.job(world.only()).place, to);
    world.finish_all(&delivered());
    assert!(world.disk.is_empty());
}

#[test]
fn a_clock_that_jumps_neither_expires_nor_stalls_nor_hurries() {
    const YEARS: Duration = Duration::from_secs(10 * 365 * 86_400);
    for jump in [
        UnixTime::from_secs(0),
        UnixTime::from_secs(1_750_000_000) + YEARS,
        UnixTime::from_secs(1_750_000_000 - YEARS.as_secs()),
    ] {
        let mut world = World::new(config());
        let id = world.submit(&["a@one.example"]);
        world.finish(world.only(), &deferred());
        world.now.unix = jump;
        world.pass(Duration::from_secs(30));
        assert!(world.running().is_empty(), "not before its time");
        world.pass(2 * MINUTE);
        assert_eq!(world.story(id), ["accepted", "deferred"]);
        let new = world.submit(&["b@one.example"]);
        assert!(new > id);
        assert_eq!(world.finish_all(&delivered()), 2);
    }
}

#[test]
fn shutdown_starts_nothing_and_ends_what_runs() {
    let mut world = World::new(config());
    world.submit_many(3, "a@one.example");
    let delivery = world.only();
    world.input(Input::ShutDown);
    assert!(!world.engine.is_idle());
    let refusal = world
        .try_submit(mail("a@s.example", &["b@one.example"]))
        .unwrap_err();
    assert_eq!(
        (refusal.why.to_string().as_str(), refusal.close),
        ("421 4.3.2", true)
    );
    let tried = world.tried_as(delivery, &delivered());
    world.report(delivery, tried);
    assert!(
        world.open[&delivery].job.is_none(),
        "Quit, though jobs are ready"
    );
    world.end(delivery);
    world.pass(HOUR);
    assert!(world.engine.is_idle() && world.open.is_empty());
    assert_eq!(world.disk.len(), 2);
}

#[test]
fn a_message_that_was_not_loaded_is_told_of_by_index() {
    let mut world = World::new(config());
    let id = world.submit(&["a@one.example", "b@one.example"]);
    world.finish(world.only(), &deferred());
    world.pass(2 * MINUTE);
    let delivery = world.only();
    assert!(
        world.job(delivery).loaded.is_none(),
        "memory is for first attempts"
    );
    let mut tried = world.tried_as(delivery, &bounced());
    tried.loaded = None;
    tried.evidence = Evidence::default();
    world.report(delivery, tried);
    let bounce = world.events.iter().find_map(|event| match &event.kind {
        EventKind::Bounced(attempt) if event.id == id.to_string() => Some(attempt),
        _ => None,
    });
    assert_eq!(
        bounce.unwrap().recipients,
        ["#0@one.example", "#1@one.example"]
    );
}

/// What DANE rests on: that the answer of DNS was signed reaches the lane, and a job knows its domain and
/// what its sender said of TLS. RFC 7672 §2.2.1, RFC 8689 §3.
#[test]
fn a_delivery_knows_what_is_certain_and_what_is_wished() {
    for secure in [false, true] {
        for implicit in [false, true] {
            let mut world = World::new(config());
            let answer = MxSet {
                hosts: vec![Mx {
                    preference: 0,
                    host: "one.example".into(),
                }],
                implicit,
                authentic: secure,
            };
            world.zone.insert("one.example".into(), Ok(answer));
            world.submit(&["a@one.example"]);
            let delivery = world.only();
            assert_eq!(world.open[&delivery].lane.authentic, secure);
            assert_eq!(&*world.job(delivery).domain, "one.example");
            assert_eq!(world.job(delivery).tls, TlsWish::AsConfigured);
        }
    }
    // What an operator or a sender wrote is certain.
    let mut world = World::new(config());
    world.submit(&["a@[192.0.2.7]"]);
    assert!(world.open[&world.only()].lane.authentic);
}
