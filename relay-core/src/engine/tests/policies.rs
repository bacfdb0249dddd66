//! MTA-STS: which hosts a domain's mail goes to, by what is known of its policy.

use std::sync::Arc;
use std::time::Duration;

use super::world::{World, config, deferred_at, delivered, mail, mx};
use crate::admin::{AdminRequest, AdminResponse, TlsReportSelector};
use crate::config::{Config, DomainPattern, Route};
use crate::engine::{Input, Keep};
use crate::errand::{Done, Errand};
use crate::events::EventKind;
use crate::id::MessageId;
use crate::outbound::TlsFailureKind;
use crate::queue::handling::{Handling, TlsWish};
use crate::queue::message::Envelope;
use crate::sts::{Found, Mode, Policy, Wanted};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);
const WEEK: u32 = 7 * 86_400;

fn world() -> World {
    let mut config = config();
    config.mta_sts.enabled = true;
    config.tls_rpt.enabled = false;
    config.delivery.retry = vec![10 * MINUTE];
    config.delivery.expire = 30 * DAY;
    let mut world = World::new(config);
    let hosts = mx(&[
        (5, "mx1.one.example"),
        (10, "other.example"),
        (20, "mx2.one.example"),
    ]);
    world.zone.insert("one.example".into(), hosts);
    world
}

/// The errand that is asked for, and its answer.
fn learn(world: &mut World, found: Found) -> Wanted {
    let (id, errand) = world.errands.pop_front().expect("an errand");
    let Errand::Policy(wanted) = errand else {
        panic!("{errand:?}")
    };
    world.input(Input::Errand(id, Done::Policy(found)));
    wanted
}

fn policy(world: &World, id: &str, mode: Mode, mx: &[&str]) -> Policy {
    Policy {
        domain: "one.example".into(),
        id: id.into(),
        mode,
        mx: mx.iter().map(|&mx| mx.to_owned()).collect(),
        max_age: WEEK,
        fetched: world.now.unix.as_secs(),
    }
}

fn failed(why: &str) -> Found {
    Found::Failed {
        kind: TlsFailureKind::StsPolicyFetchError,
        why: why.into(),
    }
}

fn hosts(world: &World) -> Vec<String> {
    let mut hosts: Vec<String> = world.open[&world.only()]
        .lane
        .hosts
        .iter()
        .filter(|hop| !hop.stray)
        .map(|hop| hop.host.host.clone())
        .collect();
    hosts.sort();
    hosts
}

/// The rule and the policy of the last deferral.
fn last_deferral(world: &World, id: MessageId) -> (String, String, Option<String>) {
    let told = world
        .events
        .iter()
        .rev()
        .find_map(|event| match &event.kind {
            EventKind::Deferred { attempt, .. } if event.id == id.to_string() => Some((
                attempt.reason.rule.clone(),
                attempt.reason.text.clone(),
                attempt.evidence.mta_sts.clone(),
            )),
            _ => None,
        });
    told.expect("a deferral")
}

#[test]
fn an_enforced_policy_chooses_the_hosts() {
    let mut world = world();
    let id = world.submit(&["a@one.example"]);
    assert!(world.open.is_empty(), "the policy comes before the lane");
    let found = policy(&world, "1", Mode::Enforce, &["*.one.example"]);
    let wanted = learn(&mut world, Found::Policy(found));
    assert_eq!(
        (wanted.domain.as_str(), wanted.known),
        ("one.example", None)
    );
    assert_eq!(hosts(&world), ["mx1.one.example", "mx2.one.example"]);
    let lane = Arc::clone(&world.open[&world.only()].lane);
    assert_eq!(lane.sts, Some(Mode::Enforce));
    assert_eq!(world.status().mta_sts_enforce, 1);
    world.finish(world.only(), &delivered());
    assert_eq!(world.story(id), ["accepted", "delivered"]);
    // The next message waits for nothing; after a while the record is asked for, with the id.
    world.submit(&["a@one.example"]);
    world.finish_all(&delivered());
    world.pass(2 * MINUTE);
    world.submit(&["a@one.example"]);
    assert!(world.open.values().all(|open| open.job.is_none()));
    assert_eq!(learn(&mut world, Found::Same).known.as_deref(), Some("1"));
    assert_eq!(world.finish_all(&delivered()), 1);
}

#[test]
fn sts_01_no_host_fits() {
    let mut world = world();
    let id = world.submit(&["a@one.example"]);
    let found = policy(&world, "7", Mode::Enforce, &["mx.elsewhere.example"]);
    learn(&mut world, Found::Policy(found));
    assert!(world.open.is_empty(), "never delivered");
    let (rule, text, policy) = last_deferral(&world, id);
    assert_eq!(rule, "mta-sts-mx");
    assert!(
        text.contains("id=7") && text.contains("mx1.one.example"),
        "{text}"
    );
    assert_eq!(policy.as_deref(), Some("enforce id=7 age=0s"));
    assert_eq!(
        world.story(id),
        ["accepted", "deferred"],
        "and never bounced"
    );
}

fn without_tls(world: &mut World) -> MessageId {
    let handling = Handling {
        tls: TlsWish::NotRequired,
        ..Handling::default()
    };
    let envelope = mail("sender@sender.example", &["a@one.example"]);
    world.submit_envelope(Envelope {
        handling,
        ..envelope
    })
}

/// RFC 8689 §4.2.2: what only a policy forbids does not keep such a message waiting.
#[test]
fn tls_required_no_waits_for_no_policy() {
    let mut world = world();
    let strict = world.submit(&["a@one.example"]);
    let first = without_tls(&mut world);
    let found = policy(&world, "7", Mode::Enforce, &["mx.elsewhere.example"]);
    learn(&mut world, Found::Policy(found));
    assert_eq!(hosts(&world).len(), 3, "to any host");
    assert_eq!(world.open[&world.only()].lane.sts, None);
    world.finish_all(&delivered());
    assert_eq!(world.story(first), ["accepted", "delivered"]);
    assert_eq!(world.story(strict), ["accepted", "deferred"]);
    let second = without_tls(&mut world);
    world.finish_all(&delivered());
    assert_eq!(world.story(second), ["accepted", "delivered"]);
    // Nor for a lane whose hosts fail the policy.
    let some = policy(&world, "8", Mode::Enforce, &["mx1.one.example"]);
    world.pass(2 * MINUTE);
    world.submit(&["a@one.example"]);
    learn(&mut world, Found::Policy(some));
    assert_eq!(hosts(&world), ["mx1.one.example"]);
    let failing = world.only();
    world.unreachable(failing);
    world.end_idle();
    let third = without_tls(&mut world);
    assert_eq!(hosts(&world).len(), 3);
    world.finish_all(&delivered());
    assert_eq!(world.story(third), ["accepted", "delivered"]);
}

/// RFC 8461 §2: with signed names, a delivery has to see whether DANE decides over hosts that the policy
/// does not name.
#[test]
fn sts_06_hosts_that_may_have_dane_are_kept_for_it() {
    let mut world = world();
    let mut config = Config::clone(&world.config);
    config.dns.trust_ad = true;
    world.input(Input::Reload(Arc::new(config)));
    let mut set = world.zone["one.example"].clone().unwrap();
    set.authentic = true;
    world.zone.insert("one.example".into(), Ok(set));
    world.submit(&["a@one.example"]);
    let found = policy(&world, "7", Mode::Enforce, &["mx.elsewhere.example"]);
    learn(&mut world, Found::Policy(found));
    let lane = Arc::clone(&world.open[&world.only()].lane);
    assert!(lane.authentic && lane.hosts.len() == 3);
    assert!(lane.hosts.iter().all(|hop| hop.stray));
    without_tls(&mut world);
    let lanes: Vec<_> = world
        .open
        .values()
        .map(|open| open.lane.authentic)
        .collect();
    assert_eq!(lanes, [true, false], "the other waits for no DANE");
}

#[test]
fn sts_02_what_is_kept_rules_until_it_expires() {
    let mut world = world();
    world.submit(&["a@one.example"]);
    let found = policy(&world, "1", Mode::Enforce, &["mx2.one.example"]);
    learn(&mut world, Found::Policy(found));
    world.finish_all(&delivered());
    let troubles = [
        Found::NoRecord("the TXT record vanished".into()),
        Found::Unknown("SERVFAIL".into()),
        failed("timed out"),
        failed("status 404"),
        failed("status 301"),
        failed("status 503"),
    ];
    for trouble in troubles {
        world.pass(6 * MINUTE);
        world.submit(&["b@one.example"]);
        learn(&mut world, trouble.clone());
        assert_eq!(hosts(&world), ["mx2.one.example"], "{trouble:?}");
        assert_eq!(world.open[&world.only()].lane.sts, Some(Mode::Enforce));
        world.finish_all(&delivered());
        world.end_idle();
    }
    // A restart changes nothing of that.
    world.crash(true, 0, 3);
    world.submit(&["b@one.example"]);
    learn(&mut world, failed("timed out"));
    assert_eq!(hosts(&world), ["mx2.one.example"]);
    world.finish_all(&delivered());
    world.end_idle();
    // Once max_age is over, so is the policy, and its place on the disk is free.
    world.pass(8 * DAY);
    while !world.errands.is_empty() {
        learn(&mut world, failed("still nothing"));
    }
    world.pass(6 * MINUTE);
    world.submit(&["b@one.example"]);
    learn(&mut world, failed("timed out"));
    assert_eq!(hosts(&world).len(), 3, "no policy is left");
    assert_eq!(world.open[&world.only()].lane.sts, None);
    assert!(world.kept.is_empty());
}

/// RFC 8461 §6.
#[test]
fn a_policy_that_cannot_be_had_is_reported() {
    let mut world = world();
    let mut config = Config::clone(&world.config);
    config.tls_rpt.enabled = true;
    world.input(Input::Reload(Arc::new(config)));
    let failures = |world: &mut World| {
        let request = AdminRequest::TlsReports(TlsReportSelector::default());
        let AdminResponse::TlsReports(list) = world.admin(request) else {
            panic!()
        };
        list.iter().map(|entry| entry.failures).sum::<u64>()
    };
    let fail = |world: &mut World, found: Found| {
        world.pass(6 * MINUTE);
        world.submit(&["a@one.example"]);
        learn(world, found);
        world.finish_all(&delivered());
        world.end_idle();
    };
    let no_record = || Found::NoRecord("the TXT record vanished".into());
    fail(&mut world, no_record());
    fail(&mut world, Found::Unknown("SERVFAIL".into()));
    assert_eq!(failures(&mut world), 0, "it has no policy");
    fail(&mut world, failed("status 404"));
    assert_eq!(failures(&mut world), 1);
    let found = policy(&world, "1", Mode::Testing, &["mx2.one.example"]);
    fail(&mut world, Found::Policy(found));
    fail(&mut world, no_record());
    fail(&mut world, Found::Unknown("SERVFAIL".into()));
    fail(&mut world, Found::Same);
    assert_eq!(failures(&mut world), 3, "while one rules");
    let found = policy(&world, "2", Mode::None, &[]);
    fail(&mut world, Found::Policy(found));
    fail(&mut world, no_record());
    assert_eq!(failures(&mut world), 3, "and not where none is wanted");
}

#[test]
fn a_first_fetch_that_fails_is_not_tried_for_five_minutes() {
    let mut world = world();
    let send = |world: &mut World| {
        world.submit(&["a@one.example"]);
        let asked = !world.errands.is_empty();
        if asked {
            learn(world, failed("no route"));
        }
        assert_eq!(
            hosts(world).len(),
            3,
            "delivered as if there were no policy"
        );
        world.finish_all(&delivered());
        world.end_idle();
        asked
    };
    assert!(send(&mut world));
    world.pass(4 * MINUTE);
    assert!(!send(&mut world));
    world.pass(2 * MINUTE);
    assert!(send(&mut world));
}

#[test]
fn a_policy_in_testing_holds_nothing_up() {
    let mut world = world();
    world.submit(&["a@one.example"]);
    let found = policy(&world, "1", Mode::Testing, &["mx.elsewhere.example"]);
    learn(&mut world, Found::Policy(found));
    assert_eq!(hosts(&world).len(), 3);
    assert_eq!(world.open[&world.only()].lane.sts, Some(Mode::Testing));
    assert_eq!(world.status().mta_sts_testing, 1);
    world.finish_all(&delivered());
    world.pass(2 * MINUTE);
    world.submit(&["a@one.example"]);
    let found = policy(&world, "2", Mode::None, &[]);
    learn(&mut world, Found::Policy(found));
    assert_eq!(world.open[&world.only()].lane.sts, None);
}

#[test]
fn domains_of_the_same_hosts_share_a_lane_only_under_the_same_demand() {
    let mut world = world();
    let found = |world: &World, domain: &str, mode, mx: &[&str]| {
        let domain = domain.to_owned();
        Found::Policy(Policy {
            domain,
            ..policy(world, "1", mode, mx)
        })
    };
    let all = ["mx1.one.example", "other.example", "mx2.one.example"];
    let domains = [
        ("a.example", Mode::Enforce, &all[..]),
        ("b.example", Mode::Enforce, &["*.example", "*.one.example"]),
        ("c.example", Mode::Enforce, &["mx1.one.example"]),
        ("d.example", Mode::Testing, &all),
        ("e.example", Mode::None, &all),
    ];
    for (domain, mode, mx) in domains {
        let hosts = world.zone["one.example"].clone();
        world.zone.insert(domain.into(), hosts);
        world.submit(&[&format!("x@{domain}")]);
        let found = found(&world, domain, mode, mx);
        learn(&mut world, found);
    }
    let lanes: Vec<_> = world.open.values().map(|open| &open.lane).collect();
    let seen: Vec<_> = lanes
        .iter()
        .map(|lane| {
            let named = lane.hosts.iter().filter(|hop| !hop.stray);
            (lane.sts, named.count())
        })
        .collect();
    assert_eq!(
        seen,
        [
            (Some(Mode::Enforce), 3),
            (Some(Mode::Enforce), 1),
            (Some(Mode::Testing), 3),
            (None, 3)
        ],
        "the second goes with the first"
    );
}

#[test]
fn a_policy_is_refreshed_daily_and_nothing_waits_for_that() {
    let mut world = world();
    let id = world.submit(&["a@one.example"]);
    let found = policy(&world, "1", Mode::Enforce, &["*.one.example"]);
    learn(&mut world, Found::Policy(found));
    world.finish_all(&delivered());
    world.end_idle();
    world.pass(DAY);
    assert_eq!(world.errands.len(), 1, "in the background");
    assert_eq!(world.story(id).len(), 2);
    let fresh = policy(&world, "1", Mode::Enforce, &["mx2.one.example"]);
    let wanted = learn(&mut world, Found::Policy(fresh));
    assert_eq!(wanted.known, None, "whatever the id");
    // One that fails comes again within the hour or so, and not at once.
    world.pass(DAY);
    while !world.errands.is_empty() {
        learn(&mut world, failed("down"));
    }
    world.pass(61 * MINUTE);
    assert_eq!(world.errands.len(), 1);
    // After a month without mail, nobody asks any more.
    let mut asked = 0;
    for _ in 0..60 {
        while !world.errands.is_empty() {
            let fresh = policy(&world, "1", Mode::Enforce, &["mx2.one.example"]);
            learn(&mut world, Found::Policy(fresh));
            asked += 1;
        }
        world.pass(DAY);
    }
    assert!((20..40).contains(&asked), "{asked}");
    assert!(world.errands.is_empty());
}

#[test]
fn what_was_kept_and_is_damaged_is_ignored() {
    let mut world = world();
    world.submit(&["a@one.example"]);
    let found = policy(&world, "1", Mode::Enforce, &["mx2.one.example"]);
    learn(&mut world, Found::Policy(found));
    let (name, text) = world.kept.first_key_value().expect("it is kept");
    let (name, text) = (name.clone(), text.clone());
    let cases = [
        text[..text.len() / 2].to_owned(),
        String::new(),
        "null".to_owned(),
        text.replace("one.example\",\"id", "two.example\",\"id"),
        text.replace("604800", "4294967295"),
        text.replace("enforce", "encourage"),
    ];
    for case in cases {
        world.kept.insert(name.clone(), case.clone());
        world.crash(true, 0, 9);
        assert_eq!(world.status().mta_sts_enforce, 0, "{case}");
    }
    let strange = Keep {
        name: "mta-sts-../../x".into(),
        text: Some(text.clone()),
    };
    world.engine.handle_input(world.now, Input::Kept(strange));
    world.kept.insert(name, text);
    world.crash(true, 0, 9);
    assert_eq!(world.status().mta_sts_enforce, 1);
}

#[test]
fn a_route_and_a_relay_without_policies_ask_for_none() {
    let mut config = config();
    config.mta_sts.enabled = true;
    let host = "smart.example:25".parse().unwrap();
    config.routes = vec![Route::new(DomainPattern::Any, vec![host])];
    let mut world = World::new(config);
    world.submit(&["a@one.example"]);
    assert!(world.errands.is_empty());
    world.finish_all(&deferred_at("rcpt", Some(450), "later"));
}

#[test]
fn domains_whose_policy_hangs_are_bounded_and_the_others_come_through() {
    let mut config = config();
    config.mta_sts.enabled = true;
    let mut world = World::new(config).with_capacity(crate::engine::Capacity {
        questions: 4,
        ..Default::default()
    });
    for n in 0..10 {
        world.submit(&[&format!("a@d{n}.example")]);
    }
    // Questions always have half of the room.
    assert_eq!(world.errands.len(), 2);
    world.auto_resolve = false;
    for n in 0..10 {
        world.submit(&[&format!("a@e{n}.example")]);
    }
    assert_eq!((world.questions.len(), world.errands.len()), (2, 2));
    world.auto_resolve = true;
    world.settle();
    let mut served = 0;
    while !world.errands.is_empty() {
        learn(&mut world, Found::NoRecord("none".into()));
        served += 1;
    }
    assert_eq!(served, 20);
    assert_eq!(world.finish_all(&delivered()), 20);
}

#[test]
fn what_was_ready_before_a_policy_was_learnt_goes_by_it_too() {
    let mut world = world();
    let none = || Found::NoRecord("none".into());
    for _ in 0..6 {
        world.submit(&["a@one.example"]);
    }
    for _ in 0..40 {
        world.pass(MINUTE);
        while !world.errands.is_empty() {
            learn(&mut world, none());
        }
        for delivery in world.running() {
            world.unreachable(delivery);
        }
    }
    // The lane is down for many minutes; the next message is ready in it.
    let ready = world.submit(&["b@one.example"]);
    while !world.errands.is_empty() {
        learn(&mut world, none());
    }
    assert_eq!(world.story(ready), ["accepted"]);
    // The lane has no policy. The domain has one now, which names none of its hosts.
    world.pass(2 * MINUTE);
    world.submit(&["c@one.example"]);
    let enforced = policy(&world, "1", Mode::Enforce, &["elsewhere.example"]);
    learn(&mut world, Found::Policy(enforced));
    for _ in 0..60 {
        world.pass(MINUTE);
        assert!(
            world.running().is_empty(),
            "mail goes where the policy forbids"
        );
        while !world.errands.is_empty() {
            learn(&mut world, Found::Same);
        }
    }
    assert_eq!(last_deferral(&world, ready).0, "mta-sts-mx");
}
