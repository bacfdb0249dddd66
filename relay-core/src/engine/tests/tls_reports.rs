//! TLS-RPT: what is counted, kept, and sent when the day is over.

use std::time::Duration;

use smtp_proto::Mailbox;

use super::world::{World, config, delivered};
use crate::engine::Input;
use crate::errand::{Done, Errand};
use crate::outbound::{TlsPolicyType, TlsSession};
use crate::queue::message::Body;
use crate::tlsrpt::Rua;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// A message to each of these, each over a session of its own.
fn deliver(world: &mut World, domains: &[&str]) {
    for domain in domains {
        world.submit(&[&format!("a@{domain}")]);
        let id = world.only();
        let mut tried = world.tried_as(id, &delivered());
        tried.reusable = false;
        tried.sessions = vec![TlsSession {
            policy: TlsPolicyType::NoPolicyFound,
            tlsa: Vec::new(),
            host: format!("mx.{domain}"),
            address: None,
            local: None,
            failure: None,
            why: String::new(),
        }];
        world.report(id, tried);
        world.end_idle();
    }
}

fn kept(world: &World) -> usize {
    let counts = world
        .kept
        .keys()
        .filter(|name| name.starts_with("tls-rpt-"));
    counts.count()
}

/// Answers the errands that are out: the record, and how posts end. Gives the domains that were asked
/// about, and how many posts there were.
fn answer(world: &mut World, ruas: &[Rua], posted: Result<(), String>) -> (Vec<String>, usize) {
    let (mut asked, mut posts) = (Vec::new(), 0);
    while let Some((id, errand)) = world.errands.pop_front() {
        let done = match errand {
            Errand::Inquiry(domain) => {
                asked.push(domain);
                Done::Inquiry(Ok(ruas.to_vec()))
            }
            Errand::Post(_) => {
                posts += 1;
                Done::Post(posted.clone())
            }
            Errand::Policy(_) => panic!("no policies here"),
        };
        world.input(Input::Errand(id, done));
    }
    (asked, posts)
}

#[test]
fn a_day_is_reported_to_those_who_ask() {
    let mut world = World::new(config());
    deliver(&mut world, &["one.example", "two.example", "one.example"]);
    world.pass(2 * MINUTE);
    assert_eq!(kept(&world), 2, "for a restart");
    world.crash(true, 0, 5);
    world.pass(20 * HOUR);
    let domains: Vec<String> = world
        .errands
        .iter()
        .map(|(_, errand)| format!("{errand:?}"))
        .collect();
    assert_eq!(domains.len(), 2, "{domains:?}");
    // Nobody asks for them: forgotten.
    let (asked, _) = answer(&mut world, &[], Ok(()));
    assert_eq!(asked.len(), 2);
    assert_eq!(kept(&world), 0);
    world.pass(48 * HOUR);
    assert!(world.errands.is_empty(), "nothing is left to tell");
}

#[test]
fn a_report_goes_by_mail_and_is_not_reported_about() {
    let mut world = World::new(config());
    deliver(&mut world, &["one.example"]);
    world.pass(20 * HOUR);
    let to = Mailbox::parse("tls@reports.example").unwrap();
    let (asked, _) = answer(&mut world, &[Rua::Mail(to)], Ok(()));
    assert_eq!(
        asked,
        ["one.example", "one.example"],
        "and once more for what is left"
    );
    assert_eq!(kept(&world), 0);
    let id = world.only();
    let loaded = world.job(id).loaded.clone().unwrap();
    assert!(loaded.message.envelope.from.mailbox().is_none());
    let Body::Memory(bytes) = &loaded.body else {
        panic!()
    };
    let text = String::from_utf8_lossy(bytes);
    assert!(
        text.contains("TLS-Report-Domain: one.example\r\n"),
        "{text}"
    );
    let mut tried = world.tried_as(id, &delivered());
    tried.sessions = vec![TlsSession {
        policy: TlsPolicyType::NoPolicyFound,
        tlsa: Vec::new(),
        host: "mx.reports.example".into(),
        address: None,
        local: None,
        failure: None,
        why: String::new(),
    }];
    world.report(id, tried);
    world.pass(48 * HOUR);
    assert!(world.errands.is_empty(), "no report about a report");
}

#[test]
fn a_post_is_tried_five_times_within_a_day() {
    let mut world = World::new(config());
    deliver(&mut world, &["one.example"]);
    world.pass(20 * HOUR);
    let rua = Rua::Https {
        host: "r.example".into(),
        port: 443,
        path: "/".into(),
    };
    let mut posts = 0;
    for _ in 0..10 {
        posts += answer(
            &mut world,
            std::slice::from_ref(&rua),
            Err("status 500".into()),
        )
        .1;
        world.pass(3 * HOUR);
    }
    assert_eq!(posts, 5);
    assert_eq!(kept(&world), 0);
}

#[test]
fn a_shutdown_loses_no_count() {
    let mut world = World::new(config());
    deliver(&mut world, &["one.example"]);
    assert_eq!(kept(&world), 0, "it would be written a minute later");
    world.input(Input::ShutDown);
    assert_eq!(kept(&world), 1);
}

#[test]
fn nothing_is_counted_where_reports_are_off() {
    let mut config = config();
    config.tls_rpt.enabled = false;
    let mut world = World::new(config);
    deliver(&mut world, &["one.example"]);
    world.pass(48 * HOUR);
    assert!(world.errands.is_empty() && world.kept.is_empty());
}
