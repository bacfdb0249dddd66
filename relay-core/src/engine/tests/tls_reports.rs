//! TLS-RPT: what is counted, kept, and sent when the day is over.

use std::sync::Arc;
use std::time::Duration;

use super::world::{World, config, delivered};
use crate::admin::{AdminRequest, AdminResponse, Day, TlsReportEntry, TlsReportSelector};
use crate::channel::ClientTls;
use crate::config::Config;
use crate::dns::Texts;
use crate::engine::Input;
use crate::errand::{Done, Errand};
use crate::https::{Answer, Request};
use crate::id::DeliveryId;
use crate::machine::{self, Machine as _, Output};
use crate::outbound::{TlsPolicyType, TlsSession};
use crate::queue::message::Body;
use crate::sign::tests::signing_domain;
use crate::time::UnixTime;
use crate::tlsrpt::Sending;

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

/// Answers the errands that are out: with this record, and so for each host that is posted to. Gives the
/// domains that were asked about, and how many posts there were.
fn answer(world: &mut World, record: &str, posted: Result<(), &str>) -> (Vec<String>, usize) {
    let (mut asked, mut posts) = (Vec::new(), 0);
    while let Some((id, errand)) = world.errands.pop_front() {
        let Errand::Report(due) = errand else {
            panic!("{errand:?}")
        };
        let tls = ClientTls::new(Vec::new()).unwrap();
        let mut sending = Sending::new(*due, tls, Arc::clone(&world.config));
        let Output::Request(Request::Texts(name)) = sending.poll_output(&mut Vec::new()) else {
            panic!("the record comes first")
        };
        asked.push(name.trim_start_matches("_smtp._tls.").to_owned());
        let texts = Ok(Texts {
            texts: vec![record.into()],
            authentic: false,
        });
        sending.handle_input(world.now, machine::Input::Answer(Answer::Texts(texts)));
        let mut sent = sending.into_result().unwrap();
        for (rua, why) in std::mem::take(&mut sent.failed) {
            let at_host = rua.starts_with("https:");
            posts += usize::from(at_host);
            match posted {
                Ok(()) if at_host => sent.posted.push(rua),
                Err(why) if at_host => sent.failed.push((rua, why.to_owned())),
                Ok(()) | Err(_) => sent.failed.push((rua, why)),
            }
        }
        world.input(Input::Errand(id, Done::Report(Ok(sent))));
    }
    asked.sort();
    (asked, posts)
}

fn signing() -> Config {
    let mut config = config();
    config.domains = vec![signing_domain("relay.example")];
    config
}

const NOBODY: &str = "v=spf1 -all";
const BY_MAIL: &str = "v=TLSRPTv1; rua=mailto:tls@reports.example";
const BY_POST: &str = "v=TLSRPTv1; rua=https://r.example/";
const ALL_WAYS: &str =
    "v=TLSRPTv1; rua=https://r.example/,mailto:tls@reports.example,https://s.example/";

#[test]
fn a_day_is_reported_to_those_who_ask() {
    let mut world = World::new(config());
    deliver(&mut world, &["one.example", "two.example", "one.example"]);
    world.pass(2 * MINUTE);
    assert_eq!(kept(&world), 2, "for a restart");
    world.crash(true, 0, 5);
    world.pass(20 * HOUR);
    assert_eq!(world.errands.len(), 2);
    // Nobody asks for them: forgotten.
    let (asked, _) = answer(&mut world, NOBODY, Ok(()));
    assert_eq!(asked, ["one.example", "two.example"]);
    assert_eq!(kept(&world), 0);
    world.pass(48 * HOUR);
    assert!(world.errands.is_empty(), "nothing is left to tell");
}

fn text_of(world: &World, id: DeliveryId) -> String {
    let loaded = world.job(id).loaded.clone().unwrap();
    assert!(loaded.message.envelope.from.mailbox().is_none());
    assert!(
        loaded.message.prefix.starts_with(b"DKIM-Signature:"),
        "RFC 8460 §3: it must be signed"
    );
    let signed = String::from_utf8_lossy(&loaded.message.prefix);
    assert!(signed.to_ascii_lowercase().contains("tls-report-submitter"));
    let Body::Memory(bytes) = &loaded.body else {
        panic!()
    };
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_report_goes_by_mail_and_is_not_reported_about() {
    let mut world = World::new(signing());
    deliver(&mut world, &["one.example"]);
    world.pass(20 * HOUR);
    let (asked, _) = answer(&mut world, BY_MAIL, Ok(()));
    assert_eq!(asked, ["one.example"]);
    assert_eq!(kept(&world), 0);
    let id = world.only();
    let text = text_of(&world, id);
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

/// RFC 8460 §3: "Reports lacking such a signature MUST be ignored by the recipient."
#[test]
fn a_report_that_nobody_signs_is_not_mailed() {
    let mut world = World::new(config());
    deliver(&mut world, &["one.example"]);
    world.pass(20 * HOUR);
    answer(&mut world, BY_MAIL, Ok(()));
    assert!(world.open.values().all(|open| open.job.is_none()));
    let last = list(&mut world)[0].last.clone().unwrap();
    assert!(last.contains("must be signed: no [[domain]]"), "{last}");
}

#[test]
fn a_post_is_tried_five_times_within_a_day() {
    let mut world = World::new(config());
    deliver(&mut world, &["one.example"]);
    world.pass(20 * HOUR);
    let mut posts = 0;
    for _ in 0..10 {
        posts += answer(&mut world, BY_POST, Err("status 500")).1;
        world.pass(3 * HOUR);
    }
    assert_eq!(posts, 5);
    assert_eq!(kept(&world), 0);
}

#[test]
fn each_address_gets_it_once_and_only_those_that_failed_are_tried_again() {
    let mut world = World::new(signing());
    deliver(&mut world, &["one.example"]);
    world.pass(20 * HOUR);
    let (_, posts) = answer(&mut world, ALL_WAYS, Err("status 503"));
    assert_eq!(posts, 2);
    text_of(&world, world.only());
    assert_eq!(world.finish_all(&delivered()), 1);
    let entry = &list(&mut world)[0];
    assert_eq!(entry.sent, ["mailto:tls@reports.example"]);
    assert_eq!((entry.tries, entry.state.as_str()), (1, "due"));
    let last = entry.last.clone().unwrap();
    assert!(
        last.contains("https://r.example/: status 503; https://s.example/"),
        "{last}"
    );
    world.pass(2 * MINUTE);
    world.crash(true, 0, 5);
    world.pass(5 * HOUR);
    let (_, posts) = answer(&mut world, ALL_WAYS, Ok(()));
    assert_eq!(posts, 2);
    assert_eq!(world.finish_all(&delivered()), 0, "no second mail");
    assert_eq!(kept(&world), 0);
}

fn list(world: &mut World) -> Vec<TlsReportEntry> {
    let request = AdminRequest::TlsReports(TlsReportSelector::default());
    let AdminResponse::TlsReports(list) = world.admin(request) else {
        panic!()
    };
    list
}

fn send(world: &mut World, selector: TlsReportSelector) -> usize {
    let request = AdminRequest::SendTlsReports(selector);
    let AdminResponse::TlsReportsSent { reports } = world.admin(request) else {
        panic!()
    };
    reports
}

#[test]
fn an_operator_sends_what_is_counted_so_far_and_the_day_goes_on() {
    let mut world = World::new(signing());
    deliver(&mut world, &["one.example", "two.example", "one.example"]);
    let one = TlsReportSelector {
        domain: Some("one.example".into()),
        day: None,
    };
    assert_eq!(list(&mut world).len(), 2);
    assert_eq!(send(&mut world, one.clone()), 1);
    let (asked, _) = answer(&mut world, BY_MAIL, Ok(()));
    assert_eq!(asked, ["one.example"]);
    let first = text_of(&world, world.only());
    world.finish_all(&delivered());
    world.end_idle();
    assert_eq!(send(&mut world, one), 0, "nothing came since");
    assert_eq!(list(&mut world).len(), 1);
    // What comes after it is in a report of its own, after a restart too.
    world.pass(2 * MINUTE);
    world.crash(true, 0, 5);
    deliver(&mut world, &["one.example"]);
    let entries = list(&mut world);
    assert_eq!((entries.len(), entries[0].successes), (2, 1));
    assert!(!entries[0].start.ends_with("T00:00:00.000Z"), "{entries:?}");
    world.pass(30 * HOUR);
    let (asked, _) = answer(&mut world, BY_MAIL, Ok(()));
    assert_eq!(asked, ["one.example", "two.example"]);
    let second = world.open.keys().map(|id| text_of(&world, *id));
    let id = |text: &str| {
        let (_, id) = text.split_once("Report-ID: ").unwrap();
        id.lines().next().unwrap().to_owned()
    };
    let ids: Vec<String> = second.map(|text| id(&text)).collect();
    assert!(!ids.contains(&id(&first)), "{ids:?}");
    assert_eq!(kept(&world), 0);
}

#[test]
fn an_operator_names_a_day() {
    let mut world = World::new(config());
    deliver(&mut world, &["one.example"]);
    let on = |day: &str| TlsReportSelector {
        day: Some(day.parse().unwrap()),
        domain: None,
    };
    // The world begins on 2025-06-15.
    assert_eq!(send(&mut world, on("2025-06-14")), 0);
    assert_eq!(send(&mut world, on("2025-06-15")), 1);
    assert_eq!(list(&mut world)[0].state, "sending");
    assert_eq!(send(&mut world, on("2025-06-15")), 1, "it is on its way");
    assert_eq!(world.errands.len(), 1, "once");
    for wrong in ["", "2025-6-15", "2025-02-30", "1969-12-31", "today"] {
        assert!(wrong.parse::<Day>().is_err(), "{wrong}");
    }
    let day: Day = "2025-06-15".parse().unwrap();
    assert_eq!(String::from(day), "2025-06-15");
}

/// What was told is told once, and what comes later is told too, whatever the clock does.
#[test]
fn a_clock_that_is_set_back_loses_no_report() {
    let mut world = World::new(signing());
    deliver(&mut world, &["one.example"]);
    assert_eq!(send(&mut world, TlsReportSelector::default()), 1);
    let late = world.now.unix;
    world.now.unix = UnixTime::from_secs(late.as_secs() - 86_400);
    assert_eq!(answer(&mut world, BY_MAIL, Ok(())).0.len(), 1);
    world.now.unix = UnixTime::from_secs(late.as_secs() + 5);
    world.finish_all(&delivered());
    world.end_idle();
    deliver(&mut world, &["one.example"]);
    assert_eq!(send(&mut world, TlsReportSelector::default()), 1);
    answer(&mut world, BY_MAIL, Ok(()));
    assert_eq!(world.finish_all(&delivered()), 1, "a second mail");
}

#[test]
fn hosts_that_never_answer_leave_room_for_other_errands() {
    let mut world = World::new(config());
    let domains: Vec<String> = (0..20).map(|n| format!("d{n}.example")).collect();
    let domains: Vec<&str> = domains.iter().map(String::as_str).collect();
    deliver(&mut world, &domains);
    assert_eq!(send(&mut world, TlsReportSelector::default()), 20);
    assert_eq!(world.errands.len(), 8);
    assert_eq!(answer(&mut world, NOBODY, Ok(())).0.len(), 20);
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
    let mut world = World::new(config.clone());
    deliver(&mut world, &["one.example"]);
    world.pass(48 * HOUR);
    assert!(world.errands.is_empty() && world.kept.is_empty());
    // What was counted before they were is not sent either.
    let mut world = World::new(super::world::config());
    deliver(&mut world, &["one.example"]);
    world.input(Input::Reload(Arc::new(config)));
    assert_eq!(send(&mut world, TlsReportSelector::default()), 0);
    world.pass(100 * HOUR);
    assert!(world.errands.is_empty());
    assert_eq!(kept(&world), 0, "and is forgotten");
}
