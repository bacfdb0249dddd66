//! Lanes: reuse, slow start, back-off, shares. CLI-13: a dead domain delays nobody else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::world::{World, config, deferred, deferred_at, delivered, mx};
use crate::admin::Selector;
use crate::config::Config;
use crate::engine::Input;
use crate::events::EventKind;

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_connection_is_used_again_up_to_its_number_of_messages() {
    let mut config = config();
    config.delivery.messages_per_connection = 3;
    config.delivery.connections_per_lane = 1;
    let mut world = World::new(config);
    world.submit_many(7, "a@one.example");
    let mut served: BTreeMap<_, u32> = BTreeMap::new();
    while let Some(&delivery) = world.running().first() {
        *served.entry(delivery).or_default() += 1;
        world.finish(delivery, &delivered());
    }
    assert_eq!(served.into_values().collect::<Vec<_>>(), [3, 3, 1]);
}

#[test]
fn a_connection_that_cannot_take_more_is_not_given_more() {
    let mut world = World::new(config());
    world.submit_many(2, "a@one.example");
    let delivery = world.only();
    let mut tried = world.tried_as(delivery, &delivered());
    tried.reusable = false;
    world.report(delivery, tried);
    assert!(world.open[&delivery].job.is_none());
    world.end_idle();
    assert_eq!(world.finish_all(&delivered()), 1);
}

#[test]
fn domains_with_the_same_exchangers_share_a_lane() {
    let mut world = World::new(config());
    for domain in ["one.example", "two.example"] {
        world
            .zone
            .insert(domain.into(), mx(&[(10, "mx.host.example")]));
    }
    world.submit(&["a@one.example"]);
    world.submit(&["a@two.example"]);
    let delivery = world.only();
    world.finish(delivery, &delivered());
    assert_eq!(world.running(), [delivery], "the same connection");
}

#[test]
fn a_new_lane_starts_with_one_connection_and_grows_with_success() {
    let mut world = World::new(config());
    world.submit_many(200, "a@one.example");
    assert_eq!(world.open.len(), 1);
    let mut most = 0;
    for _ in 0..40 {
        let delivery = world.running()[0];
        world.finish(delivery, &delivered());
        most = most.max(world.open.len());
    }
    assert_eq!(most, 10, "connections_per_lane");
}

#[test]
fn a_dead_lane_backs_off_and_is_probed_by_one() {
    let mut world = World::new(config());
    let ids: Vec<_> = (0..50).map(|_| world.submit(&["a@dead.example"])).collect();
    world.unreachable(world.only());
    assert!(world.running().is_empty(), "nobody else tries");
    assert_eq!(world.story(ids[0]), ["accepted", "deferred"]);
    assert_eq!(world.story(ids[1]), ["accepted"]);
    let entry = world.show(ids[1]).unwrap();
    assert_eq!(entry.jobs[0].state, "waiting");
    assert!(entry.jobs[0].next.is_some());
    assert!(
        entry.jobs[0]
            .last
            .as_ref()
            .unwrap()
            .contains("connection refused")
    );
    let lanes = world.status().lanes;
    assert!(
        lanes[0]
            .backed_off
            .as_ref()
            .unwrap()
            .contains("connection refused")
    );

    let mut probes = 0;
    for _ in 0..3 * 60 {
        world.pass(MINUTE);
        if !world.running().is_empty() {
            probes += 1;
            world.unreachable(world.only());
        }
    }
    assert!(
        (7..=11).contains(&probes),
        "1, 2, 4, 8, 16, 30, 30 … minutes: {probes}"
    );

    while world.running().is_empty() {
        world.pass(MINUTE);
    }
    let done = world.finish_all(&delivered());
    assert!(done >= 40, "the first success opens it again: {done}");
}

#[test]
fn mail_for_a_dead_lane_expires_though_it_was_never_tried() {
    let mut world = World::new(config());
    let first = world.submit(&["a@dead.example"]);
    let second = world.submit(&["b@dead.example"]);
    for _ in 0..74 * 60 {
        while let Some(&delivery) = world.running().first() {
            let dead = world.open[&delivery].lane.name == "dead.example";
            if dead {
                world.unreachable(delivery)
            } else {
                world.finish(delivery, &delivered())
            }
        }
        world.pass(MINUTE);
    }
    for id in [first, second] {
        assert!(
            world.story(id).contains(&"expired"),
            "{:?}",
            world.story(id)
        );
    }
    let texts = world.events.iter().filter_map(|event| match &event.kind {
        EventKind::Expired(attempt) => Some(attempt.reason.text.as_str()),
        _ => None,
    });
    assert!(
        texts
            .into_iter()
            .all(|text| text.contains("connection refused"))
    );
    assert!(world.disk.is_empty());
}

#[test]
fn one_refused_connection_of_several_is_not_a_dead_lane() {
    let mut world = World::new(config());
    world.submit_many(100, "a@one.example");
    while world.open.len() < 4 {
        let delivery = world.running()[0];
        world.finish(delivery, &delivered());
    }
    let victim = *world.running().last().unwrap();
    let id = world.job(victim).id;
    world.unreachable(victim);
    assert_eq!(world.story(id), ["accepted"], "its job is for the others");
    assert!(world.open.len() < 4 + 1 && !world.running().is_empty());
    world.finish_all(&delivered());
    assert!(world.disk.is_empty());
}

/// Its lane is of a configuration that is gone: others of that lane are not for it.
#[test]
fn a_refused_connection_of_a_lane_that_a_reload_replaced_gives_its_job_to_the_new_one() {
    let mut world = World::new(config());
    world.submit_many(4, "a@one.example");
    while world.running().len() < 2 {
        world.submit_many(2, "a@one.example");
        world.finish(world.running()[0], &delivered());
    }
    let old = world.running();
    let victim = *old.last().unwrap();
    let id = world.job(victim).id;
    let mut new = Config::clone(&world.config);
    new.delivery.port = 2525;
    let new = Arc::new(new);
    world.config = Arc::clone(&new);
    world.input(Input::Reload(new));
    world.unreachable(victim);
    let mut ports = Vec::new();
    while let Some(&delivery) = world.running().first() {
        if world.job(delivery).id == id {
            ports.push(world.open[&delivery].lane.hosts[0].host.port);
        }
        world.finish(delivery, &delivered());
        world.end_idle();
    }
    assert_eq!(ports, [2525]);
}

#[test]
fn a_receiver_that_says_421_gets_fewer_connections() {
    let mut world = World::new(config());
    world.submit_many(100, "a@one.example");
    while world.open.len() < 6 {
        let delivery = world.running()[0];
        world.finish(delivery, &delivered());
    }
    let open = world.open.len();
    for _ in 0..3 {
        let delivery = world.running()[0];
        let mut tried = world.tried_as(
            delivery,
            &deferred_at("mail", Some(421), "Too many connections"),
        );
        tried.reusable = false;
        world.report(delivery, tried);
        world.end_idle();
    }
    assert!(
        world.open.len() <= open - 3,
        "{} of {open}",
        world.open.len()
    );
}

#[test]
fn ten_thousand_jobs_for_a_dead_domain_delay_nobody() {
    let mut config = config();
    config.delivery.connections = 20;
    let mut world = World::new(config);
    world.checks = false;
    for n in 0..10_000u32 {
        world.submit(&[&format!("a{n}@dead.example")]);
    }
    for n in 0..40 {
        world.submit(&[&format!("a@dead{n}.example")]);
    }
    assert!(
        world.open.len() <= 15,
        "three quarters for lanes that nobody knows"
    );
    // Nothing answers: connections hang. Mail for another domain comes in.
    let id = world.submit(&["a@live.example"]);
    let mut rounds = 0;
    while !world.story(id).contains(&"delivered") {
        rounds += 1;
        world.pass(MINUTE);
        for delivery in world.running() {
            if world.open[&delivery].lane.name.starts_with("dead") {
                world.unreachable(delivery);
            } else {
                world.finish(delivery, &delivered());
            }
        }
    }
    assert!(rounds <= 5, "{rounds}");
    // From now on it is known to live: it never waits for the dead ones.
    for _ in 0..100 {
        world.pass(MINUTE);
        let id = world.submit(&["a@live.example"]);
        let live = world.running().into_iter().find(|d| world.job(*d).id == id);
        world.finish(live.expect("at once"), &delivered());
        let dead = world
            .open
            .values()
            .filter(|open| open.lane.name.starts_with("dead"))
            .count();
        assert!(dead <= 15);
    }
}

#[test]
fn retried_jobs_are_served_among_fresh_ones() {
    let mut config = config();
    config.delivery.connections_per_lane = 1;
    let mut world = World::new(config);
    let old: Vec<_> = (0..10).map(|_| world.submit(&["a@one.example"])).collect();
    assert_eq!(world.finish_all(&deferred()), 10);
    world.auto_store = true;
    for _ in 0..100 {
        world.submit(&["b@one.example"]);
    }
    world.pass(5 * MINUTE);
    let mut order = Vec::new();
    while let Some(&delivery) = world.running().first() {
        order.push(old.contains(&world.job(delivery).id));
        world.finish(delivery, &delivered());
    }
    assert_eq!(
        order.iter().take(45).filter(|old| **old).count(),
        10,
        "one in four: {order:?}"
    );
}

#[test]
fn a_reload_moves_ready_jobs_to_lanes_of_the_new_configuration() {
    let mut world = World::new(config());
    let ids: Vec<_> = (0..3).map(|_| world.submit(&["a@one.example"])).collect();
    let delivery = world.only();
    let mut new = config();
    new.delivery.port = 2525;
    let new = Arc::new(new);
    world.config = Arc::clone(&new);
    world.input(Input::Reload(Arc::clone(&new)));
    let ports: Vec<u16> = world
        .open
        .values()
        .map(|open| open.lane.hosts[0].host.port)
        .collect();
    assert_eq!(ports, [25, 2525]);
    world.finish(delivery, &delivered());
    assert!(
        !world.open.contains_key(&delivery),
        "the old lane has no jobs"
    );
    world.finish_all(&delivered());
    for id in ids {
        assert_eq!(world.story(id), ["accepted", "delivered"]);
    }
    world.submit(&["a@one.example"]);
    world.input(Input::Reload(new));
    assert_eq!(world.open.len(), 1, "nothing changed");
}

#[test]
fn ready_jobs_follow_their_domain_to_its_new_hosts() {
    let mut world = World::new(config());
    let old = mx(&[(10, "old.host.example")]);
    for domain in ["one.example", "two.example"] {
        world.zone.insert(domain.into(), old.clone());
    }
    world.submit_many(20, "a@one.example");
    world.submit_many(20, "a@two.example");
    world.unreachable(world.only());
    world.pass(70 * MINUTE / 60);
    world.unreachable(world.only());
    let moved = mx(&[(10, "new.host.example")]);
    world.zone.insert("one.example".into(), moved);
    // The back-off lasts; but one that was tried is due again, and is the first to hear of it.
    world.pass(70 * MINUTE / 60);
    assert_eq!(world.open[&world.only()].lane.name, "new.host.example");
    let done = world.finish_all(&delivered());
    assert!(done >= 20, "{done}");
    let left = world.list(Selector::default());
    let to_one = left
        .iter()
        .filter(|entry| entry.jobs[0].domain == "one.example");
    let states: Vec<_> = to_one.map(|entry| entry.jobs[0].state.clone()).collect();
    assert!(
        states.len() <= 1,
        "only the one that was tried waits: {states:?}"
    );
    assert!(left.len() >= 20, "the other domain is where it was");
}

#[test]
fn after_a_back_off_it_is_asked_again_where_domains_lead() {
    let mut world = World::new(config());
    let old = mx(&[(10, "old.host.example")]);
    for domain in ["one.example", "two.example"] {
        world.zone.insert(domain.into(), old.clone());
    }
    world.submit_many(20, "a@one.example");
    world.submit_many(20, "a@two.example");
    world.unreachable(world.only());
    world
        .zone
        .insert("two.example".into(), mx(&[(10, "new.host.example")]));
    // Nobody sends to either: the old host is probed, in vain, with mail of the first.
    for _ in 0..5 {
        world.pass(MINUTE);
        while let Some(&delivery) = world.running().first() {
            match world.open[&delivery].lane.name.as_str() {
                "old.host.example" => world.unreachable(delivery),
                _ => world.finish(delivery, &delivered()),
            }
        }
    }
    let left = world.list(Selector::default());
    let mut to_two = left
        .iter()
        .filter(|entry| entry.jobs[0].domain == "two.example");
    assert_eq!(to_two.next(), None);
}
