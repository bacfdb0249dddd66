//! What a deep queue costs, and that nothing is left of it.

use std::sync::Arc;
use std::time::Duration;

use super::world::{World, config, deferred, deferred_at, delivered, mail, start};
use crate::engine::{Engine, Input};
use crate::id::MessageId;
use crate::outbound::Outcome;
use crate::queue::message::{Message, Origin};
use crate::queue::record::{DeferredState, Progress};
use crate::queue::store::{Place, Recovered};
use crate::rng::Rng;

const JOBS: u64 = 100_000;

/// A message that waits, as a restart finds it.
fn waiting(n: u64) -> Recovered {
    let now = start().unix;
    let to = format!("r{n}@d{}.example", n % 100);
    Recovered {
        message: Message {
            id: MessageId::from_u64((now.as_millis() << 20) + n),
            accepted: now,
            origin: Origin {
                credential: None,
                peer: None,
            },
            envelope: mail("sender@sender.example", &[&to]),
            prefix: bytes::Bytes::new(),
            size: 10_000,
            header_size: 1000,
        },
        place: Place {
            segment: 1,
            offset: 0,
        },
        progress: vec![Progress::Deferred(DeferredState {
            recipients: vec![0],
            attempts: 5,
            next: now + Duration::from_secs(3000 + n % 600),
            delay_reported: false,
            in_doubt: false,
            held: false,
            reason: format!("450 4.2.0 rcpt rcpt-4xx mx{}.example Greylisted", n % 100),
        })],
    }
}

#[test]
fn a_deferred_job_takes_less_than_200_octets() {
    let mut engine = Engine::new(Arc::new(config()), start(), Rng::from_number(1));
    for n in 0..JOBS {
        engine.handle_input(start(), Input::Recovered(Box::new(waiting(n))));
    }
    engine.handle_input(start(), Input::Timeout);
    while engine.poll_output().is_some() {}
    super::world::check(&engine);
    let each = engine.table.heap_bytes() as u64 / JOBS;
    assert!(each < 150, "{each} octets a message with one job");
}

#[test]
fn nothing_is_left_of_what_is_done() {
    let mut world = World::new(config());
    for n in 0..300 {
        world.submit(&[&format!("a@d{n}.example"), &format!("b@e{n}.example")]);
    }
    let reason = deferred_at("rcpt", Some(450), "a different word for each");
    for (n, delivery) in world.running().into_iter().enumerate() {
        let mut outcome = if n % 3 == 0 {
            delivered()
        } else {
            reason.clone()
        };
        if let Outcome::Deferred { reason, .. } = &mut outcome {
            reason.text = format!("{n}: {}", reason.text);
        }
        world.finish(delivery, &outcome);
    }
    for _ in 0..60 {
        world.finish_all(&delivered());
        world.pass(Duration::from_secs(60));
    }
    assert!(world.disk.is_empty());
    let table = &world.engine.table;
    assert_eq!((table.messages.len(), table.jobs.len()), (0, 0));
    assert_eq!(
        (table.messages.slots(), table.jobs.slots()),
        (0, 0),
        "pages are given back"
    );
    assert_eq!(
        world.engine.lanes.iter().count(),
        0,
        "idle lanes are forgotten"
    );
    assert!(world.engine.is_idle());
}

#[test]
fn messages_in_memory_are_bounded() {
    let mut world = World::new(config());
    let body = bytes::Bytes::from(vec![b'x'; 200_000]);
    for _ in 0..400 {
        let crate::engine::Answer::Mail { id, .. } = world.mail(super::world::APP) else {
            panic!()
        };
        let mut submission = world.submission(id, mail("a@s.example", &["b@one.example"]));
        submission.body = crate::queue::message::Body::Memory(body.clone());
        world.ask(super::world::APP, crate::engine::Ask::Submit(submission));
    }
    let held = world
        .disk
        .keys()
        .filter(|id| world.engine.table.loaded(**id).is_some())
        .count();
    assert!((300..340).contains(&held), "64 MiB of 200 kB: {held}");
    world.unreachable(world.only());
    let held = world
        .disk
        .keys()
        .filter(|id| world.engine.table.loaded(**id).is_some())
        .count();
    assert_eq!(held, 0, "what waits for a dead lane is not kept in memory");
    world.submit(&["b@one.example"]);
    let held = world
        .disk
        .keys()
        .filter(|id| world.engine.table.loaded(**id).is_some())
        .count();
    assert_eq!(held, 0);
    let other = world.submit(&["b@two.example"]);
    assert!(world.engine.table.loaded(other).is_some());
    world.finish(world.only(), &deferred());
    assert!(world.engine.table.loaded(other).is_none());
}
