//! Reports: when they are due, that there is one, that none is lost, that none is about another.

use std::time::Duration;

use smtp_proto::{Notify, Occasion, ReversePath};

use super::world::{
    World, bounced, config, deferred, deferred_at, delivered, mail, notify, reason,
};
use crate::admin::{Action, AdminRequest, Selector};
use crate::engine::{Input, NotWritten};
use crate::outbound::{Outcome, Reason};
use crate::queue::record::Progress;
use crate::queue::store::StoreFailed;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_bounce_is_reported_and_only_then_settled() {
    let mut world = World::new(config());
    world.auto_report = false;
    let id = world.submit(&["a@one.example"]);
    world.finish(world.only(), &bounced());
    assert_eq!(world.story(id), ["accepted", "bounced"]);
    assert!(
        world.disk.contains_key(&id),
        "kept until the report is stored"
    );
    assert!(world.reports[0].original.is_some(), "it was in memory");
    assert!(!world.engine.is_idle());
    world.auto_store = false;
    let written = world.written();
    world.input(written);
    assert!(world.disk.contains_key(&id));
    let receipt = world.receipt();
    world.input(receipt);
    assert!(!world.disk.contains_key(&id));
    let report = world.reports_about(id)[0];
    assert_eq!(
        world.disk[&report].loaded.message.envelope.from,
        ReversePath::Null
    );
    assert_eq!(world.job(world.only()).id, report, "it goes to the sender");
    world.finish_all(&delivered());
    assert!(world.disk.is_empty() && world.engine.is_idle());
}

#[test]
fn a_report_about_a_report_is_never_made() {
    let mut world = World::new(config());
    let id = world.submit(&["a@one.example"]);
    world.finish_all(&bounced());
    let report = world.reports_about(id)[0];
    assert_eq!(world.story(report), ["accepted", "bounced", "not reported"]);
    let null = world.submit_envelope(mail("", &["a@one.example"]));
    world.finish_all(&bounced());
    assert_eq!(world.story(null), ["accepted", "bounced", "not reported"]);
    assert!(world.disk.is_empty());
    assert_eq!(world.status().messages, 0);
}

#[test]
fn notify_never_is_heard() {
    let mut world = World::new(config());
    let envelope = notify(mail("s@sender.example", &["a@one.example"]), Notify::NEVER);
    let id = world.submit_envelope(envelope);
    world.finish_all(&bounced());
    assert_eq!(world.story(id), ["accepted", "bounced", "not reported"]);
    assert!(world.disk.is_empty());
}

#[test]
fn a_thousand_failures_make_one_report() {
    let mut world = World::new(config());
    let to: Vec<String> = (0..1000)
        .map(|n| format!("a{n}@d{}.example", n % 10))
        .collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    let id = world.submit(&to);
    assert_eq!(world.running().len(), 10);
    for delivery in world.running() {
        assert_eq!(world.reports_about(id).len(), 0, "it waits for the others");
        world.finish(delivery, &bounced());
    }
    assert_eq!(world.reports_about(id).len(), 1);
    assert_eq!(world.status().bounced, 1000);
}

#[test]
fn a_report_does_not_wait_for_jobs_that_hang() {
    let mut world = World::new(config());
    let id = world.submit(&["a@one.example", "b@slow.example"]);
    let running = world.running();
    let one = running
        .into_iter()
        .find(|d| world.open[d].lane.name == "one.example")
        .unwrap();
    world.finish(one, &bounced());
    assert_eq!(world.reports_about(id).len(), 0);
    world.pass(2 * MINUTE);
    assert_eq!(world.reports_about(id).len(), 1);
    let kept = &world.disk[&id];
    assert!(
        matches!(&kept.notes[..], [Progress::Settled { .. }]),
        "{:?}",
        kept.notes
    );
}

#[test]
fn a_delay_is_reported_once_after_four_hours() {
    let mut world = World::new(config());
    let id = world.submit(&["a@one.example", "b@one.example"]);
    for _ in 0..30 {
        for delivery in world.running() {
            let about = world.job(delivery).id == id;
            world.finish(delivery, &if about { deferred() } else { delivered() });
        }
        let due = world.now.instant.since(super::world::start().instant) >= 4 * HOUR;
        assert_eq!(world.reports_about(id).len(), usize::from(due));
        world.pass(10 * MINUTE);
    }
    let Some(Progress::State(state)) = world.disk[&id]
        .notes
        .iter()
        .find(|note| matches!(note, Progress::State(_)))
    else {
        panic!()
    };
    assert!(state.deferred[0].delay_reported && state.settled.is_empty());
    world.crash(true, 0, 3);
    for _ in 0..30 {
        for delivery in world.running() {
            world.finish(delivery, &deferred());
        }
        world.pass(10 * MINUTE);
    }
    assert_eq!(world.reports_about(id).len(), 1, "a restart remembers it");
}

#[test]
fn success_is_reported_when_asked_for_and_the_receiver_does_not() {
    for (dsn, reports) in [(false, 1), (true, 0)] {
        let mut world = World::new(config());
        let success = Notify::on(&[Occasion::Success]);
        let envelope = notify(mail("s@sender.example", &["a@one.example"]), success);
        let id = world.submit_envelope(envelope);
        let delivery = world.only();
        let mut tried = world.tried_as(delivery, &delivered());
        tried.evidence.dsn = dsn;
        world.report(delivery, tried);
        assert_eq!(world.reports_about(id).len(), reports, "dsn={dsn}");
        assert!(!world.disk.contains_key(&id));
    }
}

#[test]
fn a_report_that_cannot_be_written_now_is_written_later() {
    let mut world = World::new(config());
    world.auto_report = false;
    let id = world.submit(&["a@one.example", "b@two.example"]);
    let running = world.running();
    world.finish(running[0], &bounced());
    world.finish(running[1], &deferred());
    let due = world.reports.pop_front().unwrap();
    assert_eq!(due.report.recipients.len(), 1);
    let later = Err(NotWritten::Later("EIO".into()));
    world.input(Input::ReportWritten {
        about: id,
        report: later,
    });
    assert!(world.reports.is_empty() && world.disk.contains_key(&id));
    world.pass(2 * MINUTE);
    world.auto_report = true;
    world.store_says = Some(StoreFailed::Full);
    world.settle();
    assert_eq!(world.reports_about(id).len(), 0);
    world.store_says = None;
    world.pass(2 * MINUTE);
    assert_eq!(world.reports_about(id).len(), 1);
}

#[test]
fn a_damaged_original_ends_without_a_report() {
    let mut world = World::new(config());
    world.auto_report = false;
    let id = world.submit(&["a@one.example"]);
    world.finish_all(&bounced());
    world.reports.clear();
    let damaged = Err(NotWritten::Damaged("checksum".into()));
    world.input(Input::ReportWritten {
        about: id,
        report: damaged,
    });
    assert_eq!(world.story(id), ["accepted", "bounced", "not reported"]);
    assert!(world.disk.is_empty());
}

#[test]
fn reports_that_are_written_at_once_are_bounded() {
    let mut world = World::new(config());
    world.auto_report = false;
    let ids: Vec<_> = (0..100).map(|_| world.submit(&["a@one.example"])).collect();
    world.finish_all(&bounced());
    assert_eq!(world.reports.len(), 16);
    world.auto_report = true;
    world.settle();
    assert!(ids.iter().all(|&id| world.reports_about(id).len() == 1));
}

#[test]
fn a_crash_before_the_report_is_stored_makes_the_failure_happen_again() {
    let mut world = World::new(config());
    world.auto_report = false;
    let id = world.submit(&["a@one.example", "b@one.example"]);
    let delivery = world.only();
    let mut tried = world.tried_as(delivery, &bounced());
    tried.outcomes[1].1 = delivered();
    world.report(delivery, tried);
    world.crash(false, 0, 2);
    world.pass(MINUTE);
    assert_eq!(
        world.job(world.only()).recipients,
        [0],
        "the delivered one is settled"
    );
    world.auto_report = true;
    world.finish(world.only(), &bounced());
    assert_eq!(world.reports_about(id).len(), 1);
    assert!(!world.disk.contains_key(&id));
}

/// What a delivery says of a message that fails its checksum.
fn damaged() -> Outcome {
    Outcome::Bounced(Reason {
        rule: Reason::DAMAGED.into(),
        ..reason("store", None, "5.3.0", "block 7 fails its checksum")
    })
}

#[test]
fn a_damaged_message_is_given_up_at_once_reported_and_set_aside() {
    let mut world = World::new(config());
    let other = world.submit(&["z@four.example"]);
    let id = world.submit(&["a@one.example", "b@two.example", "c@three.example"]);
    let of = |world: &World, id| {
        let all = world.running();
        let its = all.into_iter().filter(|d| world.job(*d).id == id);
        its.collect::<Vec<_>>()
    };
    let [first, second, third] = of(&world, id)[..] else {
        panic!("three jobs")
    };
    // The second waits for another attempt when the first finds the damage; the third is under way.
    world.finish(second, &deferred());
    world.finish(first, &damaged());
    assert!(world.quarantined.is_empty(), "one has it in memory yet");
    world.finish(third, &delivered());
    let story = world.story(id);
    let times = |what: &str| story.iter().filter(|event| **event == what).count();
    assert_eq!((times("bounced"), times("delivered")), (2, 1), "{story:?}");
    assert_eq!(
        world.reports_about(id).len(),
        1,
        "and its sender hears of it"
    );
    assert_eq!(
        world.quarantined,
        [(id, "block 7 fails its checksum".to_owned())]
    );
    assert!(
        !world.discarded.contains(&id),
        "nothing of it is thrown away"
    );
    world.finish(of(&world, other)[0], &delivered());
    assert!(world.discarded.contains(&other));
}

/// The last of it goes while the damage is found: by an administrator, and nobody is told.
#[test]
fn a_damaged_message_that_is_removed_meanwhile_is_set_aside_all_the_same() {
    let mut world = World::new(config());
    let mut envelope = mail("s@x.example", &["a@one.example", "b@one.example"]);
    envelope.from = ReversePath::Null;
    let id = world.submit_envelope(envelope);
    let delivery = world.only();
    let selector = Selector {
        id: Some(id.to_string()),
        ..Selector::default()
    };
    world.admin(AdminRequest::Act(Action::Remove, selector));
    let mut tried = world.tried_as(delivery, &damaged());
    tried.outcomes[0].1 = deferred_at("rcpt", Some(451), "later");
    world.report(delivery, tried);
    assert_eq!(
        world.quarantined,
        [(id, "block 7 fails its checksum".to_owned())]
    );
}
