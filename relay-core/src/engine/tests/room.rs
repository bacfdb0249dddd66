//! Memory for messages that arrive is lent and given back; who does not fit is told to wait. RES-07.

use bytes::Bytes;
use smtp_proto::{Mailbox, ReversePath};

use super::world::{World, config, mail};
use crate::engine::{Answer, Ask, Capacity, Input};
use crate::id::{MessageId, SessionId};
use crate::queue::message::{BODY_MEMORY_MAX, Body};

const MIB: usize = 1024 * 1024;

fn world(arriving: usize) -> World {
    let mut config = config();
    config.limits.connections_per_ip = 2000;
    let capacity = Capacity {
        arriving,
        ..Capacity::default()
    };
    let mut world = World::new(config).with_capacity(capacity);
    for n in 0..1000 {
        world.connect(client(n), "192.0.2.7");
    }
    world
}

fn client(n: u64) -> SessionId {
    SessionId(5000 + n)
}

/// The room that a client gets for a message of this size, or the reply that it gets instead.
fn room(world: &mut World, n: u64, size: Option<u64>) -> Result<(MessageId, usize), String> {
    let from = ReversePath::Mailbox(Mailbox::parse("a@sender.example").unwrap());
    let credential = "app".into();
    let ask = Ask::Mail {
        credential,
        from,
        size,
    };
    match world.ask(client(n), ask) {
        Some(Answer::Mail { id, room, .. }) => Ok((id, room)),
        Some(Answer::Refused(refusal)) => {
            assert!(!refusal.close);
            Err(format!("{} {}", refusal.why, refusal.text))
        }
        other => panic!("{other:?}"),
    }
}

/// How many clients get room at once, and how much the last of them.
fn fill(world: &mut World, size: Option<u64>) -> (u64, usize) {
    let mut least = usize::MAX;
    for n in 0..1000 {
        match room(world, n, size) {
            Ok((_, room)) => {
                assert!(room <= least, "never more than the one before");
                least = room;
            }
            Err(reply) => {
                assert_eq!(
                    reply,
                    "452 4.3.1 Too many messages arrive at once, try again in a minute"
                );
                return (n, least);
            }
        }
    }
    (1000, least)
}

#[test]
fn the_more_messages_arrive_the_less_room_each_gets() {
    let mut world = world(8 * MIB);
    assert_eq!(room(&mut world, 0, None).unwrap().1, BODY_MEMORY_MAX);
    let (served, least) = fill(&mut world, None);
    assert!((100..150).contains(&served), "{served}");
    assert_eq!(least, 16 * 1024);
    assert!(world.engine.accept.lent <= 8 * MIB);
}

#[test]
fn a_declared_size_takes_no_more_than_it_needs() {
    let mut world = world(8 * MIB);
    let (served, least) = fill(&mut world, Some(10_000));
    assert!(served >= 500, "{served}");
    assert_eq!(least, 16 * 1024);
}

#[test]
fn room_comes_back_however_a_transaction_ends() {
    let mut world = world(MIB);
    let (full, _) = fill(&mut world, None);
    let (first, _) = room(&mut world, 0, None).unwrap();
    world.ask(client(0), Ask::Abandon(first));
    world.input(Input::Ask(client(1), Ask::Bye));
    for n in 2..full {
        // A new MAIL is instead of the one before.
        room(&mut world, n, Some(100)).unwrap();
    }
    for n in 2..full {
        let (id, _) = room(&mut world, n, Some(100)).unwrap();
        let submission = world.submission(id, mail("a@sender.example", &["b@one.example"]));
        world.ask(client(n), Ask::Submit(submission));
    }
    assert_eq!(world.engine.accept.lent, 0);
}

#[test]
fn a_disk_that_stands_still_stops_new_mail_and_nothing_else() {
    // QUE-13.
    let mut world = world(MIB);
    world.auto_store = false;
    let mut waiting = Vec::new();
    let refusal = loop {
        let n = waiting.len() as u64;
        let (id, _) = match room(&mut world, n, Some(100_000)) {
            Ok(admitted) => admitted,
            Err(refusal) => break refusal,
        };
        let mut submission = world.submission(id, mail("a@sender.example", &["b@one.example"]));
        submission.body = Body::Memory(Bytes::from(vec![b'x'; 100_000]));
        assert!(world.ask(client(n), Ask::Submit(submission)).is_none());
        waiting.push(id);
    };
    assert_eq!(refusal, "452 4.3.1 The disk is slow, try again in a minute");
    assert!((4..=12).contains(&waiting.len()), "{}", waiting.len());

    world.auto_store = true;
    world.answers.clear();
    world.settle();
    for (n, id) in waiting.iter().enumerate() {
        let queued = world.answers.iter().any(|(session, answer)| {
            *session == client(n as u64) && matches!(answer, Answer::Queued(queued) if queued == id)
        });
        assert!(queued, "{id} has its receipt late, and has it");
    }
    room(&mut world, 0, Some(100_000)).unwrap();
}

#[test]
fn a_small_machine_has_few_connections() {
    let capacity = Capacity {
        sessions: 3,
        deliveries: 2,
        questions: 1,
        ..Capacity::default()
    };
    let mut world = World::new(config()).with_capacity(capacity);
    world.auto_resolve = false;
    world.connect(client(1), "192.0.2.2");
    world.connect(client(2), "192.0.2.3");
    let Answer::Refused(refusal) = world.connect(client(3), "192.0.2.4") else {
        panic!("there is no room for it");
    };
    assert!(refusal.close);
    assert_eq!(refusal.why.to_string(), "421 4.3.2");

    for n in 0..5 {
        world.submit(&[&format!("a@d{n}.example")]);
    }
    assert_eq!(world.questions.len(), 1);
    world.auto_resolve = true;
    world.settle();
    assert!((1..=2).contains(&world.running().len()));
}
