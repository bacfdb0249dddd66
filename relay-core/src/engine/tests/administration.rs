//! What an administrator sees and does.

use std::time::Duration;

use super::world::{World, config, deferred, delivered, mail};
use crate::admin::{Action, AdminRequest, AdminResponse, Selector};
use crate::id::MessageId;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

fn act(world: &mut World, action: Action, selector: Selector) -> usize {
    match world.admin(AdminRequest::Act(action, selector)) {
        AdminResponse::Acted { messages } => messages,
        other => panic!("{other:?}"),
    }
}

fn id(id: MessageId) -> Selector {
    Selector {
        id: Some(id.to_string()),
        ..Selector::default()
    }
}

fn domain(domain: &str) -> Selector {
    Selector {
        domain: Some(domain.into()),
        ..Selector::default()
    }
}

fn sender(sender: &str) -> Selector {
    Selector {
        sender: Some(sender.into()),
        ..Selector::default()
    }
}

fn deferred_world() -> (World, [MessageId; 3]) {
    let mut world = World::new(config());
    let ids = [
        (
            "x@one-sender.example",
            &["a@one.example", "b@two.example"][..],
        ),
        ("y@One-Sender.example", &["c@two.example"][..]),
        ("", &["d@three.example"][..]),
    ]
    .map(|(from, to)| world.submit_envelope(mail(from, to)));
    world.finish_all(&deferred());
    (world, ids)
}

#[test]
fn selectors_select() {
    let (mut world, [a, b, c]) = deferred_world();
    world.now.unix = world.now.unix + HOUR;
    let mut select = |selector| -> Vec<MessageId> {
        world
            .list(selector)
            .iter()
            .map(|entry| entry.id.parse().unwrap())
            .collect()
    };
    assert_eq!(select(Selector::default()), [a, b, c]);
    assert_eq!(select(id(b)), [b]);
    let nonsense = Selector {
        id: Some("nonsense".into()),
        ..Selector::default()
    };
    assert_eq!(select(nonsense), []);
    assert_eq!(select(domain("TWO.example")), [a, b]);
    assert_eq!(select(sender("@one-sender.example")), [a, b]);
    assert_eq!(select(sender("One-Sender.example")), [a, b]);
    assert_eq!(select(sender("")), [c]);
    assert_eq!(select(sender("x@ONE-sender.example")), [a]);
    assert_eq!(
        select(sender("X@one-sender.example")),
        [],
        "local parts have case"
    );
    assert_eq!(select(sender("<>")), [c]);
    let old = |secs| Selector {
        older_than_secs: Some(secs),
        ..Selector::default()
    };
    assert_eq!(select(old(3599)).len(), 3);
    assert_eq!(select(old(3600)), []);
    let both = Selector {
        domain: Some("two.example".into()),
        ..sender("y@one-sender.example")
    };
    assert_eq!(select(both), [b]);
}

#[test]
fn a_list_goes_on_after_an_id() {
    let (mut world, [a, b, _]) = deferred_world();
    let request = AdminRequest::List {
        selector: Selector::default(),
        after: Some(a),
        limit: 1,
    };
    let AdminResponse::List(list) = world.admin(request) else {
        panic!()
    };
    assert_eq!(
        list.iter().map(|e| e.id.clone()).collect::<Vec<_>>(),
        [b.to_string()]
    );
}

#[test]
fn an_entry_tells_what_waits_and_why() {
    let (mut world, [a, _, c]) = deferred_world();
    let entry = world.show(a).unwrap();
    assert_eq!(entry.from.as_deref(), Some("x@one-sender.example"));
    assert_eq!(
        (entry.accepted.as_str(), entry.size),
        ("2025-06-15T15:06:40.000Z", 21)
    );
    assert_eq!(entry.expires, "2025-06-18T15:06:40.000Z");
    let mut jobs = entry.jobs;
    jobs.sort_by(|a, b| a.domain.cmp(&b.domain));
    assert_eq!(
        (jobs[0].domain.as_str(), jobs[1].domain.as_str()),
        ("one.example", "two.example")
    );
    assert_eq!(
        (jobs[0].state.as_str(), jobs[0].attempts, jobs[0].recipients),
        ("waiting", 1, 1)
    );
    assert_eq!(
        jobs[0].last.as_deref(),
        Some("one.example: 450 4.2.0 Greylisted")
    );
    assert!(
        jobs[0]
            .next
            .as_ref()
            .unwrap()
            .starts_with("2025-06-15T15:07:3")
    );
    assert_eq!(world.show(c).unwrap().from.as_deref(), Some(""));
    assert_eq!(world.show(MessageId::from_u64(1)), None);
}

#[test]
fn held_mail_is_not_tried_until_it_is_released() {
    let (mut world, [a, b, c]) = deferred_world();
    assert_eq!(act(&mut world, Action::Hold, id(a)), 1);
    assert_eq!(act(&mut world, Action::Hold, id(a)), 0);
    assert_eq!(world.status().held, 2);
    world.pass(5 * MINUTE);
    let running: Vec<_> = world.running().iter().map(|&d| world.job(d).id).collect();
    assert!(!running.contains(&a) && running.contains(&b) && running.contains(&c));
    world.finish_all(&delivered());
    assert_eq!(world.show(a).unwrap().jobs[0].state, "held");
    assert_eq!(act(&mut world, Action::Retry, id(a)), 0);
    world.pass(200 * HOUR);
    assert_eq!(
        world.story(a),
        ["accepted", "deferred", "deferred", "held"],
        "no expiry"
    );
    assert_eq!(act(&mut world, Action::Release, id(a)), 1);
    assert_eq!(world.finish_all(&delivered()), 2);
    assert!(world.disk.is_empty());
}

#[test]
fn a_hold_catches_jobs_wherever_they_are() {
    let mut world = World::new(config());
    world.auto_resolve = false;
    let resolving = world.submit(&["a@slow.example"]);
    world.auto_resolve = true;
    world.zone.insert(
        "one.example".into(),
        super::world::mx(&[(0, "one.example")]),
    );
    let answer = world.questions.pop_front().unwrap();
    let running = world.submit(&["a@one.example"]);
    let ready = world.submit(&["b@one.example"]);
    assert_eq!(act(&mut world, Action::Hold, Selector::default()), 3);
    world.questions.push_back(answer);
    world.settle();
    world.finish(world.only(), &deferred());
    world.pass(HOUR);
    assert!(world.running().is_empty());
    for id in [resolving, ready, running] {
        assert_eq!(world.show(id).unwrap().jobs[0].state, "held");
    }
    assert_eq!(act(&mut world, Action::Release, Selector::default()), 3);
    assert_eq!(world.finish_all(&delivered()), 3);
}

#[test]
fn retry_goes_before_the_schedule_and_the_back_off() {
    let (mut world, [a, ..]) = deferred_world();
    assert_eq!(act(&mut world, Action::Retry, domain("one.example")), 1);
    assert_eq!(world.job(world.only()).id, a);
    world.unreachable(world.only());
    let next = world.submit(&["z@one.example"]);
    assert!(world.running().is_empty());
    assert_eq!(act(&mut world, Action::Retry, id(next)), 1);
    assert_eq!(world.job(world.only()).id, next, "the back-off ends");
}

#[test]
fn remove_drops_without_a_report_and_bounce_with_one() {
    let (mut world, [a, b, c]) = deferred_world();
    assert_eq!(act(&mut world, Action::Remove, domain("two.example")), 2);
    assert!(world.disk.contains_key(&a) && !world.disk.contains_key(&b));
    assert_eq!(
        world.show(a).unwrap().jobs.len(),
        1,
        "only the selected domain"
    );
    assert!(world.reports_about(b).is_empty());
    assert_eq!(act(&mut world, Action::Bounce, id(a)), 1);
    assert_eq!(world.reports_about(a).len(), 1);
    assert_eq!(act(&mut world, Action::Bounce, id(c)), 1);
    assert_eq!(
        world.story(c),
        ["accepted", "deferred", "bounced", "not reported"]
    );
    world.finish_all(&delivered());
    assert!(world.disk.is_empty());
    let status = world.status();
    assert_eq!(
        (status.removed, status.bounced, status.delivered),
        (2, 2, 1)
    );
}

#[test]
fn a_job_that_is_being_delivered_is_dropped_after_its_attempt() {
    for (action, end) in [(Action::Remove, "removed"), (Action::Bounce, "bounced")] {
        let mut world = World::new(config());
        let id = world.submit(&["a@one.example", "b@one.example"]);
        assert_eq!(act(&mut world, action, Selector::default()), 1);
        assert_eq!(world.story(id), ["accepted"]);
        let delivery = world.only();
        let mut tried = world.tried_as(delivery, &deferred());
        tried.outcomes[0].1 = delivered();
        world.report(delivery, tried);
        assert_eq!(world.story(id), ["accepted", "delivered", end]);
        assert!(!world.disk.contains_key(&id));

        let id = world.submit(&["c@one.example"]);
        act(&mut world, action, super::administration::id(id));
        let delivery = world
            .running()
            .into_iter()
            .find(|d| world.job(*d).id == id)
            .unwrap();
        world.end(delivery);
        assert_eq!(
            world.story(id),
            ["accepted", end],
            "also if it ends without a word"
        );
    }
}

#[test]
fn ready_jobs_can_be_removed_where_they_stand() {
    let mut world = World::new(config());
    let ids: Vec<_> = (0..5).map(|_| world.submit(&["a@one.example"])).collect();
    assert_eq!(act(&mut world, Action::Remove, Selector::default()), 5);
    assert_eq!(world.disk.len(), 1, "one is being delivered");
    world.finish_all(&delivered());
    assert_eq!(world.story(ids[0]), ["accepted", "delivered"]);
    assert_eq!(world.story(ids[4]), ["accepted", "removed"]);
    assert!(world.disk.is_empty());
}

#[test]
fn the_status_says_what_a_lane_waits_for() {
    let (mut world, _) = deferred_world();
    let status = world.status();
    let lane = |name: &str| status.lanes.iter().find(|lane| lane.name == name).unwrap();
    let waiting = lane("three.example");
    assert_eq!(waiting.waiting, 1);
    assert!(waiting.last.as_deref().unwrap().contains("450 4.2.0"));
    let entry = world.list(domain("three.example")).remove(0);
    assert_eq!(lane("three.example").next, entry.jobs[0].next);
}

/// Found by the simulator: the job of a removed message stays in its list until its turn comes.
#[test]
fn status_is_answered_while_jobs_of_removed_messages_wait_for_names() {
    let mut world = World::new(config());
    world.auto_resolve = false;
    let message = world.submit(&["a@slow.example"]);
    assert_eq!(act(&mut world, Action::Remove, id(message)), 1);
    let status = world.status();
    assert_eq!((status.messages, status.queued), (0, 0));
    assert!(status.lanes.is_empty(), "{status:?}");
}
