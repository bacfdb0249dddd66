//! Deliveries whose final reply never came.

use std::time::Duration;

use super::world::{World, config, deferred, delivered, mail, reason};
use crate::admin::{Action, AdminRequest, AdminResponse, Selector};
use crate::config::InDoubt;
use crate::events::EventKind;
use crate::id::MessageId;
use crate::outbound::Outcome;

const HOUR: Duration = Duration::from_secs(3600);

fn in_doubt() -> Outcome {
    Outcome::Deferred {
        reason: reason("dot", None, "4.4.2", "the connection was lost"),
        retry_after: None,
        in_doubt: true,
    }
}

fn world(what: InDoubt) -> World {
    let mut config = config();
    config.delivery.in_doubt = what;
    World::new(config)
}

fn act(world: &mut World, action: Action, id: MessageId) -> usize {
    let selector = Selector {
        id: Some(id.to_string()),
        ..Selector::default()
    };
    match world.admin(AdminRequest::Act(action, selector)) {
        AdminResponse::Acted { messages } => messages,
        other => panic!("{other:?}"),
    }
}

/// State, attempts and doubt of each job, by recipients.
fn jobs(world: &mut World, id: MessageId) -> Vec<(usize, String, u32, bool)> {
    let entry = world.show(id).unwrap();
    let mut jobs: Vec<_> = entry
        .jobs
        .into_iter()
        .map(|job| (job.recipients, job.state, job.attempts, job.in_doubt))
        .collect();
    jobs.sort();
    jobs
}

#[test]
fn by_default_it_is_marked_and_tried_again() {
    let mut world = world(InDoubt::Retry);
    let id = world.submit(&["a@one.example"]);
    world.finish_all(&in_doubt());
    assert_eq!(jobs(&mut world, id), [(1, "waiting".into(), 1, true)]);
    let told = world.events.iter().any(|event| {
        matches!(
            &event.kind,
            EventKind::Deferred {
                in_doubt: true,
                next: Some(_),
                ..
            }
        )
    });
    assert!(told);
    world.crash(true, 0, 7);
    assert!(jobs(&mut world, id)[0].3, "the mark survives a restart");
    world.pass(2 * Duration::from_secs(60));
    world.finish_all(&delivered());
    assert!(world.disk.is_empty());
}

#[test]
fn held_it_waits_for_a_person_through_restarts_and_past_its_time() {
    let mut world = world(InDoubt::Hold);
    let id = world.submit(&["a@one.example"]);
    world.finish_all(&in_doubt());
    for seed in 0..3 {
        assert_eq!(jobs(&mut world, id), [(1, "held".into(), 1, true)]);
        assert_eq!(world.status().held, 1);
        assert_eq!(act(&mut world, Action::Retry, id), 0, "release is the word");
        world.pass(40 * HOUR);
        assert!(world.running().is_empty());
        world.crash(true, 0, seed);
    }
    let told = world.events.iter().any(|event| {
        matches!(
            &event.kind,
            EventKind::Deferred {
                in_doubt: true,
                next: None,
                ..
            }
        )
    });
    assert!(told);
    assert_eq!(
        world.reports_about(id),
        [],
        "nobody was told that it failed"
    );
    assert_eq!(act(&mut world, Action::Release, id), 1);
    assert_eq!(act(&mut world, Action::Release, id), 0);
    assert_eq!(world.finish_all(&delivered()), 1);
    assert!(world.disk.is_empty());
}

#[test]
fn a_release_is_not_forgotten() {
    let mut world = world(InDoubt::Hold);
    let id = world.submit(&["a@one.example"]);
    world.finish_all(&in_doubt());
    act(&mut world, Action::Release, id);
    world.crash(true, 0, 3);
    world.pass(2 * Duration::from_secs(60));
    assert_eq!(world.finish_all(&delivered()), 1);
    assert!(world.disk.is_empty());
}

#[test]
fn only_those_in_doubt_are_held() {
    let mut world = world(InDoubt::Hold);
    let id = world.submit(&["a@one.example", "b@one.example", "c@one.example"]);
    let running = world.only();
    let mut tried = world.tried_as(running, &deferred());
    tried.outcomes[1].1 = in_doubt();
    tried.outcomes[2].1 = delivered();
    world.report(running, tried);
    let halves = [
        (1, "held".to_owned(), 1, true),
        (1, "waiting".to_owned(), 1, false),
    ];
    assert_eq!(jobs(&mut world, id), halves);
    world.crash(true, 0, 1);
    assert_eq!(jobs(&mut world, id), halves);
    world.pass(2 * Duration::from_secs(60));
    assert_eq!(world.finish_all(&delivered()), 1, "the other one goes on");
    assert_eq!(jobs(&mut world, id), [(1, "held".into(), 1, true)]);
    assert_eq!(act(&mut world, Action::Bounce, id), 1);
    world.settle();
    assert_eq!(world.reports_about(id).len(), 1);
    world.finish_all(&delivered());
    assert!(world.disk.is_empty());
}

#[test]
fn what_is_held_is_removed_without_a_word() {
    let mut world = world(InDoubt::Hold);
    let id = world.submit_envelope(mail("s@example.org", &["a@one.example", "b@two.example"]));
    world.finish_all(&in_doubt());
    assert_eq!(world.status().held, 2);
    assert_eq!(act(&mut world, Action::Remove, id), 1);
    assert!(world.disk.is_empty());
    assert_eq!(world.reports_about(id), []);
}

#[test]
fn an_expiry_says_that_it_may_have_been_delivered() {
    let mut world = world(InDoubt::Retry);
    world.submit(&["a@one.example"]);
    world.finish_all(&in_doubt());
    for _ in 0..90 {
        world.pass(HOUR);
        world.finish_all(&in_doubt());
    }
    let expired = world.events.iter().find_map(|event| match &event.kind {
        EventKind::Expired(attempt) => Some(attempt.reason.text.clone()),
        _ => None,
    });
    let text = expired.unwrap();
    assert!(text.contains("may have delivered it"), "{text}");
}
