//! Restarts: what was acknowledged is there, times go on, nothing comes in a herd.

use std::time::Duration;

use super::world::{World, config, deferred, delivered};
use crate::admin::{Action, AdminRequest, Selector};
use crate::engine::{Answer, Input};
use crate::queue::record::Progress;
use crate::queue::store::StoreStatus;
use crate::time::UnixTime;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_restart_goes_on_where_it_was() {
    let mut world = World::new(config());
    let id = world.submit(&["a@one.example", "b@two.example"]);
    let running = world.running();
    world.finish(running[0], &delivered());
    world.finish(running[1], &deferred());
    let fresh = world.submit(&["c@three.example"]);
    world.crash(true, 0, 7);
    let status = world.status();
    assert_eq!(
        (status.recovered, status.queued, status.accepted),
        (2, 2, 0)
    );
    let Answer::Mail { id: next, .. } = world.mail(super::world::APP) else {
        panic!()
    };
    assert!(next > fresh);
    world.pass(Duration::from_secs(5));
    assert_eq!(
        world.job(world.only()).id,
        fresh,
        "what was never tried is due"
    );
    world.finish(world.only(), &delivered());
    world.pass(2 * MINUTE);
    let job = world.job(world.only());
    assert_eq!((job.id, job.attempts, job.recipients.len()), (id, 1, 1));
    world.finish_all(&delivered());
    assert!(world.disk.is_empty());
}

#[test]
fn what_was_read_is_delivered_while_more_is_read() {
    let mut world = World::new(config());
    let old = world.submit(&["a@one.example", "b@two.example"]);
    let running = world.running();
    world.finish(running[0], &delivered());
    world.finish(running[1], &deferred());
    world.submit(&["c@three.example"]);
    world.crash_and_read(true, 0, 7);
    world.pass(Duration::from_secs(5));
    assert_eq!(world.finish_all(&delivered()), 1, "what was never tried");
    world.pass(2 * MINUTE);
    let job = world.job(world.only());
    assert_eq!((job.id, job.attempts, job.recipients.len()), (old, 1, 1));
    world.finish_all(&delivered());
    world.input(Input::AllRecovered);
    assert!(world.disk.is_empty());
    assert_eq!(world.status().queued, 0);
}

/// The last sign of life of the run before comes last: until then the first message is younger than it is.
#[test]
fn the_last_message_that_is_read_says_how_old_the_first_is() {
    let mut world = World::new(config());
    let id = world.submit(&["a@one.example"]);
    world.admin(AdminRequest::Act(Action::Hold, Selector::default()));
    let expire = config().delivery.expire;
    world.pass(expire - 3 * HOUR);
    world.admin(AdminRequest::Act(Action::Release, Selector::default()));
    world.pass(Duration::from_secs(1));
    world.finish_all(&deferred());
    world.crash_and_read(true, 0, 7);
    world.input(Input::AllRecovered);
    let mut left = Duration::ZERO;
    while !world.story(id).contains(&"expired") && left < 2 * expire {
        world.pass(Duration::from_secs(600));
        world.finish_all(&deferred());
        left += Duration::from_secs(600);
    }
    assert!(left <= 4 * HOUR, "{left:?}");
}

#[test]
fn a_message_whose_discard_was_lost_is_discarded_again() {
    let mut world = World::new(config());
    let id = world.submit(&["a@one.example"]);
    let note = Progress::Settled {
        recipients: vec![0],
    };
    world.disk.get_mut(&id).unwrap().notes.push(note);
    world.crash(true, 0, 7);
    assert!(world.disk.is_empty());
    assert_eq!(world.status().recovered, 0);
}

#[test]
fn due_jobs_do_not_come_in_a_herd() {
    let mut world = World::new(config());
    world.checks = false;
    for n in 0..3000 {
        world.submit(&[&format!("a@d{n}.example")]);
    }
    world.crash(true, 0, 7);
    let asked = world.asked;
    let mut most = 0;
    let mut last = asked;
    for _ in 0..60 {
        world.pass(Duration::from_secs(1));
        most = most.max(world.asked - last);
        last = world.asked;
    }
    assert!(last - asked >= 2900, "{}", last - asked);
    assert!(most < 400, "{most} in a second");
}

#[test]
fn a_hold_survives() {
    let mut world = World::new(config());
    let id = world.submit(&["a@one.example"]);
    world.finish_all(&deferred());
    world.admin(AdminRequest::Act(Action::Hold, Selector::default()));
    world.crash(true, 0, 7);
    world.pass(100 * HOUR);
    assert!(world.running().is_empty());
    assert!(world.show(id).unwrap().held);
    world.admin(AdminRequest::Act(Action::Release, Selector::default()));
    world.pass(Duration::from_secs(1));
    assert_eq!(world.finish_all(&delivered()), 1);
}

#[test]
fn a_queue_of_any_age_by_the_clock_is_tried_once_more() {
    const YEARS: u64 = 10 * 365 * 86_400;
    for unix in [0, 1_750_000_000 - YEARS, 1_750_000_000 + YEARS] {
        let mut world = World::new(config());
        let ids: Vec<_> = (0..20)
            .map(|n| world.submit(&[&format!("a@d{n}.example")]))
            .collect();
        world.finish_all(&deferred());
        world.now.unix = UnixTime::from_secs(unix);
        world.crash(true, 0, 9);
        let mut tried = 0;
        for _ in 0..10 {
            world.pass(Duration::from_secs(30));
            tried += world.finish_all(&delivered());
        }
        assert_eq!(tried, 20, "at {unix}");
        assert!(ids.iter().all(|&id| !world.story(id).contains(&"expired")));
    }
}

#[test]
fn a_snapshot_says_all_that_was_noted() {
    let mut world = World::new(config());
    let quiet = world.submit(&["q@quiet.example"]);
    let id = world.submit(&["a@one.example", "b@two.example", "c@one.example"]);
    for delivery in world.running() {
        if world.job(delivery).id == quiet {
            continue;
        }
        let two = world.open[&delivery].lane.name == "two.example";
        world.finish(delivery, &if two { delivered() } else { deferred() });
    }
    let snapshot = world.engine.snapshot(None, 100);
    assert_eq!(snapshot.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [id]);
    assert!(world.engine.snapshot(Some(id), 100).is_empty());
    let notes = world.disk[&id].notes.clone();
    let folded = crate::queue::recover::fold(3, &notes);
    let Progress::State(state) = &snapshot[0].1 else {
        panic!()
    };
    assert_eq!(state.settled, folded.settled);
    assert_eq!(state.deferred.len(), 1);
    let (a, b) = (&state.deferred[0], &folded.deferred[0]);
    assert_eq!(
        (&a.recipients, a.attempts, &a.reason),
        (&b.recipients, b.attempts, &b.reason)
    );
    assert!(a.next.since(b.next) + b.next.since(a.next) < Duration::from_secs(1));
}

#[test]
fn a_machine_that_stood_still_expires_nothing() {
    let mut world = World::new(config());
    let id = world.submit(&["a@one.example"]);
    world.finish_all(&deferred());
    world.now.instant = world.now.instant + 1000 * HOUR;
    world.input(crate::engine::Input::Timeout);
    assert_eq!(world.story(id), ["accepted", "deferred"]);
    assert_eq!(world.finish_all(&delivered()), 1, "it is tried");
}

/// Found by the simulator: the message with the highest id may be gone, but not what was noted of it.
#[test]
fn ids_go_on_above_all_that_the_store_saw_whatever_the_clock_says() {
    let mut world = World::new(config());
    let id = world.submit(&["a@one.example"]);
    world.now.unix = UnixTime::from_secs(1_000_000);
    world.crash(true, 0, 7);
    let last = id.as_u64() + 5;
    world.input(Input::StoreStatus(Box::new(StoreStatus {
        last_id: last,
        ..StoreStatus::default()
    })));
    let Answer::Mail { id: next, .. } = world.mail(super::world::APP) else {
        panic!()
    };
    assert!(next.as_u64() > last);
}
