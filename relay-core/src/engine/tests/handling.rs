//! FUTURERELEASE, DELIVERBY and MT-PRIORITY: when a message is sent, until when, and in what order.

use std::time::Duration;

use smtp_proto::{ByMode, Notify, Priority};

use super::world::{World, config, deferred, delivered, mail, notify};
use crate::admin::{Action, AdminRequest, AdminResponse, Selector};
use crate::id::MessageId;
use crate::queue::handling::{Deadline, Handling, TlsWish};
use crate::queue::message::Envelope;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

fn handled(handling: Handling) -> Envelope {
    let envelope = mail("sender@sender.example", &["a@one.example"]);
    Envelope {
        handling,
        ..envelope
    }
}

fn released_in(world: &World, wait: Duration) -> Envelope {
    handled(Handling {
        release: Some(world.now.unix + wait),
        ..Handling::default()
    })
}

fn late_in(world: &World, wait: Duration, mode: ByMode) -> Envelope {
    let deadline = Deadline {
        at: world.now.unix + wait,
        mode,
        trace: false,
    };
    handled(Handling {
        deadline: Some(deadline),
        ..Handling::default()
    })
}

#[test]
fn a_message_is_not_sent_before_its_release() {
    let mut world = World::new(config());
    world.submit_envelope(released_in(&world, DAY));
    world.pass(DAY - MINUTE);
    assert!(world.open.is_empty());
    world.pass(2 * MINUTE);
    world.finish(world.only(), &delivered());
    assert!(world.disk.is_empty());
}

/// What an operator sends on when a receiver is back: not what its sender wants held.
#[test]
fn retry_is_no_release() {
    let mut world = World::new(config());
    world.submit_envelope(released_in(&world, DAY));
    let retry = AdminRequest::Act(Action::Retry, Selector::default());
    let AdminResponse::Acted { messages } = world.admin(retry) else {
        panic!("acted");
    };
    assert_eq!((messages, world.running()), (0, Vec::new()));
}

#[test]
fn the_time_before_the_release_does_not_make_it_older() {
    let mut world = World::new(config());
    let expire = world.config.delivery.expire;
    let id = world.submit_envelope(released_in(&world, 2 * expire));
    world.pass(2 * expire + MINUTE);
    for _ in 0..3 {
        world.finish(world.only(), &deferred());
        world.pass(20 * MINUTE);
    }
    assert_eq!(world.story(id)[..2], ["accepted", "deferred"]);
    assert!(!world.story(id).contains(&"expired"));
}

#[test]
fn a_restart_keeps_the_release() {
    let mut world = World::new(config());
    let id = world.submit_envelope(released_in(&world, DAY));
    world.pass(HOUR);
    world.crash(true, 0, 7);
    world.pass(22 * HOUR);
    assert!(world.open.is_empty());
    world.pass(HOUR + 2 * MINUTE);
    assert_eq!(world.job(world.only()).id, id);
    world.crash(true, 0, 7);
    world.pass(2 * MINUTE);
    assert_eq!(world.job(world.only()).id, id, "released is released");
    world.finish_all(&delivered());
    assert!(world.disk.is_empty());
}

#[test]
fn a_late_message_is_returned_if_that_was_asked() {
    let mut world = World::new(config());
    let id = world.submit_envelope(late_in(&world, HOUR, ByMode::Return));
    world.finish(world.only(), &deferred());
    while world.disk.contains_key(&id) && world.reports_about(id).is_empty() {
        world.pass(10 * MINUTE);
        for delivery in world.running() {
            if world.job(delivery).id == id {
                world.finish(delivery, &deferred());
            }
        }
    }
    let story = world.story(id);
    assert!(story.contains(&"expired"), "{story:?}");
    let age = world.now.unix.since(super::world::start().unix);
    assert!(age >= HOUR && age <= HOUR + 20 * MINUTE, "{age:?}");
}

#[test]
fn a_late_message_is_told_of_and_goes_on_if_that_was_asked() {
    let mut world = World::new(config());
    let id = world.submit_envelope(late_in(&world, HOUR, ByMode::Notify));
    world.finish(world.only(), &deferred());
    let tell = |world: &mut World, until| {
        while world.now.unix.since(super::world::start().unix) < until {
            world.pass(5 * MINUTE);
            for delivery in world.running() {
                if world.job(delivery).id == id {
                    world.finish(delivery, &deferred());
                }
            }
        }
        world.reports_about(id).len()
    };
    assert_eq!(tell(&mut world, 50 * MINUTE), 0);
    assert_eq!(
        tell(&mut world, 70 * MINUTE),
        1,
        "at its hour, not after four"
    );
    assert_eq!(tell(&mut world, 6 * HOUR), 1, "and once");
    assert!(world.disk.contains_key(&id), "it goes on");
}

#[test]
fn nobody_is_told_who_asked_not_to_be() {
    let mut world = World::new(config());
    let envelope = late_in(&world, HOUR, ByMode::Notify);
    let id = world.submit_envelope(notify(envelope, Notify::NEVER));
    world.pass(2 * HOUR);
    assert!(world.reports_about(id).is_empty());
}

#[test]
fn the_more_urgent_go_first() {
    let mut config = config();
    config.delivery.connections_per_lane = 1;
    let mut world = World::new(config);
    let first = world.submit(&["z@one.example"]);
    let mut ids: Vec<(i8, MessageId)> = Vec::new();
    for level in [0, -4, 9, 0, 4] {
        let envelope = handled(Handling {
            priority: Priority::new(level),
            ..Handling::default()
        });
        ids.push((-level, world.submit_envelope(envelope)));
    }
    ids.sort_unstable();
    let delivery = world.only();
    assert_eq!(world.job(delivery).id, first, "it was under way already");
    let mut order = Vec::new();
    for _ in 0..ids.len() {
        let tried = world.tried_as(delivery, &delivered());
        world.report(delivery, tried);
        order.push(world.job(delivery).id);
    }
    let sorted: Vec<MessageId> = ids.into_iter().map(|(_, id)| id).collect();
    assert_eq!(order, sorted);
}

/// RFC 8689: a delivery knows it before it reads the message.
#[test]
fn what_is_said_of_tls_goes_with_the_job() {
    for tls in [
        TlsWish::AsConfigured,
        TlsWish::Required,
        TlsWish::NotRequired,
    ] {
        let mut world = World::new(config());
        let handling = Handling {
            tls,
            ..Handling::default()
        };
        world.submit_envelope(handled(handling));
        assert_eq!(world.job(world.only()).tls, tls);
    }
}
