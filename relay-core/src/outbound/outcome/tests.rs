//! The table of the module's documentation, cell by cell.

use std::io;

use smtp_proto::Code;

use super::*;
use crate::channel::{Flaw, FlawKind};

fn reply(code: u16, text: &str) -> Finding {
    let lines: Vec<&str> = text.split('\n').collect();
    Finding::Reply(Reply::new(Code::new(code).unwrap(), &lines).unwrap())
}

fn losses() -> [Finding; 4] {
    [
        Loss::Closed,
        Loss::Broken(io::ErrorKind::ConnectionReset),
        Loss::Timeout,
        Loss::Protocol("the server sent a bare LF in a reply".into()),
    ]
    .map(Finding::Lost)
}

const PLAIN: Seen = Seen {
    reused: false,
    accepted: false,
    tls_given_up: false,
    route: false,
    required: false,
};

fn flaw() -> Flaw {
    Flaw::new(FlawKind::Time, "expired")
}

const NEXT: Fate = Fate::NextHost { permanent: false };
const NEXT_FOR_GOOD: Fate = Fate::NextHost { permanent: true };
const LATER: Fate = Fate::Deferred { in_doubt: false };
const IN_DOUBT: Fate = Fate::Deferred { in_doubt: true };

/// For each stage: 4yz, 5yz, loss.
const TABLE: [(Stage, Fate, Fate, Fate); 9] = [
    (Stage::Greeting, NEXT, NEXT_FOR_GOOD, NEXT),
    (Stage::Hello, NEXT, NEXT_FOR_GOOD, NEXT),
    (Stage::Tls, NEXT, NEXT, NEXT),
    (Stage::Auth, NEXT, NEXT, NEXT),
    (Stage::Mail, NEXT, Fate::Bounced, NEXT),
    (Stage::Rcpt, LATER, Fate::Bounced, NEXT),
    (Stage::Data, LATER, Fate::Bounced, NEXT),
    (Stage::Body, LATER, Fate::Bounced, LATER),
    (Stage::Dot, LATER, Fate::Bounced, IN_DOUBT),
];

#[test]
fn the_table_of_stages_and_findings() {
    for (stage, transient, permanent, lost) in TABLE {
        for code in [421, 450, 451, 452, 454, 471] {
            let verdict = judge(stage, &reply(code, "4.9.9 later"), PLAIN);
            assert_eq!(verdict.fate, transient, "{stage:?} {code}");
            assert_eq!(verdict.reason.code, Some(code));
            assert_eq!(verdict.reason.status, "4.9.9");
            assert_eq!(verdict.reason.text, "4.9.9 later");
            assert_eq!(verdict.reason.rule, format!("{}-4xx", stage.as_str()));
            if code == 421 {
                assert_eq!(verdict.then, Then::Drop, "{stage:?}");
            }
        }
        for code in [500, 503, 521, 530, 535, 550, 552, 554, 571] {
            let verdict = judge(stage, &reply(code, "no"), PLAIN);
            assert_eq!(verdict.fate, permanent, "{stage:?} {code}");
            assert_eq!(verdict.reason.status, "5.0.0");
            assert_eq!(verdict.reason.rule, format!("{}-5xx", stage.as_str()));
        }
        for loss in losses() {
            let verdict = judge(stage, &loss, PLAIN);
            assert_eq!(verdict.fate, lost, "{stage:?} {loss:?}");
            assert_eq!(verdict.then, Then::Drop);
            assert!(verdict.reason.status.starts_with("4."));
            assert_eq!(verdict.reason.code, None);
        }
    }
}

#[test]
fn every_verdict_has_a_whole_reason() {
    let mut findings: Vec<Finding> = losses().into();
    findings.extend([
        reply(250, "fine"),
        reply(354, "go on"),
        reply(421, ""),
        reply(550, "5.1.1 \u{7}\u{e9}"),
        Finding::Dns(DnsFailure::NoSuchDomain),
        Finding::Dns(DnsFailure::Temporary("SERVFAIL".into())),
        Finding::Tlsa(DnsFailure::Temporary("SERVFAIL".into())),
        Finding::Forbidden(Forbidden::Family),
        Finding::Tls(TlsFault::NotOffered("config")),
        Finding::Login("no".into()),
        Finding::Lacks(Need::Size(1000)),
        Finding::Store(LoadFailed::Io("EIO".into())),
    ]);
    for stage in Stage::ALL {
        for finding in &findings {
            for bits in 0..32 {
                let seen = Seen {
                    reused: bits & 1 != 0,
                    accepted: bits & 2 != 0,
                    tls_given_up: bits & 4 != 0,
                    route: bits & 8 != 0,
                    required: bits & 16 != 0,
                };
                let verdict = judge(stage, finding, seen);
                let Reason {
                    text,
                    status,
                    rule,
                    stage: name,
                    ..
                } = &verdict.reason;
                assert_eq!(name, stage.as_str());
                assert!(text.len() <= TEXT_MAX && text.bytes().all(|b| (b' '..=b'~').contains(&b)));
                assert!(
                    !rule.is_empty() && status.split('.').count() == 3,
                    "{verdict:?}"
                );
                let class = match verdict.clone().outcome() {
                    Outcome::Delivered(reason) => ("2", reason),
                    Outcome::Deferred { reason, .. } => ("4", reason),
                    Outcome::Bounced(reason) => ("5", reason),
                };
                assert!(
                    class.1.status.starts_with(class.0),
                    "{stage:?} {finding:?}: {verdict:?}"
                );
                if stage != Stage::Dot {
                    assert_ne!(
                        verdict.fate,
                        Fate::Delivered,
                        "only the reply to the dot delivers"
                    );
                }
            }
        }
    }
}

#[test]
fn only_a_positive_reply_to_the_dot_delivers() {
    let verdict = judge(Stage::Dot, &reply(250, "2.6.0 queued as 42"), PLAIN);
    assert_eq!((verdict.fate, verdict.then), (Fate::Delivered, Then::Keep));
    assert_eq!(verdict.reason.text, "2.6.0 queued as 42");
    for (stage, ..) in TABLE {
        let fate = judge(stage, &reply(354, "go on"), PLAIN).fate;
        assert_ne!(fate, Fate::Delivered, "{stage:?}");
    }
}

#[test]
fn what_is_seen_beside_the_finding_changes_the_verdict() {
    let reused = Seen {
        reused: true,
        ..PLAIN
    };
    let accepted = Seen {
        accepted: true,
        ..PLAIN
    };
    let given_up = Seen {
        tls_given_up: true,
        ..PLAIN
    };
    let fate = |stage, finding: &Finding, seen| judge(stage, finding, seen).fate;
    // A connection that was used before may just be too old.
    for loss in losses() {
        assert_eq!(fate(Stage::Mail, &loss, reused), Fate::Again);
        assert_eq!(fate(Stage::Rcpt, &loss, reused), NEXT);
        assert_eq!(fate(Stage::Dot, &loss, reused), IN_DOUBT);
    }
    assert_eq!(
        fate(Stage::Mail, &reply(421, "too many messages"), reused),
        Fate::Again
    );
    assert_eq!(
        fate(Stage::Mail, &reply(503, "nested MAIL"), reused),
        Fate::Again
    );
    assert_eq!(fate(Stage::Mail, &reply(451, "not now"), reused), NEXT);
    // Too many recipients, once some were accepted.
    assert_eq!(
        fate(Stage::Rcpt, &reply(452, "4.5.3 too many"), accepted),
        Fate::Split
    );
    assert_eq!(
        fate(Stage::Rcpt, &reply(552, "too many"), accepted),
        Fate::Split
    );
    assert_eq!(
        fate(Stage::Rcpt, &reply(552, "5.2.2 full"), accepted),
        Fate::Bounced
    );
    assert_eq!(fate(Stage::Rcpt, &reply(452, "disk full"), PLAIN), LATER);
    // Clear text took the place of a TLS that failed, and the host will have none of it.
    assert_eq!(
        fate(Stage::Mail, &reply(530, "5.7.0 STARTTLS first"), given_up),
        NEXT
    );
    assert_eq!(
        fate(Stage::Mail, &reply(530, "5.7.0 STARTTLS first"), PLAIN),
        Fate::Bounced
    );
}

#[test]
fn what_we_find_ourselves() {
    let cases = [
        (
            Stage::Resolve,
            Finding::Dns(DnsFailure::NoSuchDomain),
            NEXT_FOR_GOOD,
            "5.4.4",
        ),
        (
            Stage::Resolve,
            Finding::Dns(DnsFailure::NoRecord),
            NEXT_FOR_GOOD,
            "5.4.4",
        ),
        (
            Stage::Resolve,
            Finding::Dns(DnsFailure::BadName("loop".into())),
            NEXT_FOR_GOOD,
            "5.4.4",
        ),
        (
            Stage::Resolve,
            Finding::Dns(DnsFailure::Temporary("x".into())),
            NEXT,
            "4.4.3",
        ),
        (
            Stage::Policy,
            Finding::Forbidden(Forbidden::Own("127.0.0.1:25".parse().unwrap())),
            NEXT_FOR_GOOD,
            "5.4.6",
        ),
        (
            Stage::Policy,
            Finding::Forbidden(Forbidden::Family),
            NEXT,
            "4.4.4",
        ),
        (
            Stage::Tls,
            Finding::Tls(TlsFault::NotOffered("config")),
            NEXT,
            "4.7.4",
        ),
        (
            Stage::Tls,
            Finding::Tls(TlsFault::Certificate(flaw())),
            NEXT,
            "4.7.5",
        ),
        (
            Stage::Tls,
            Finding::Tls(TlsFault::Tlsa(flaw())),
            NEXT,
            "4.7.5",
        ),
        (
            Stage::Resolve,
            Finding::Tlsa(DnsFailure::Temporary("SERVFAIL".into())),
            NEXT,
            "4.7.5",
        ),
        (
            Stage::Auth,
            Finding::Login("no mechanism".into()),
            NEXT,
            "4.7.8",
        ),
        (
            Stage::Mail,
            Finding::Lacks(Need::EightBitMime),
            Fate::Bounced,
            "5.6.3",
        ),
        (
            Stage::Mail,
            Finding::Lacks(Need::SmtpUtf8),
            Fate::Bounced,
            "5.6.7",
        ),
        (
            Stage::Mail,
            Finding::Lacks(Need::BinaryMime),
            Fate::Bounced,
            "5.6.1",
        ),
        (
            Stage::Mail,
            Finding::Lacks(Need::Size(1000)),
            Fate::Bounced,
            "5.3.4",
        ),
        (
            Stage::Store,
            Finding::Store(LoadFailed::Damaged("crc".into())),
            Fate::Bounced,
            "5.3.0",
        ),
    ];
    for (stage, finding, fate, status) in cases {
        let verdict = judge(stage, &finding, PLAIN);
        assert_eq!(
            (verdict.fate, verdict.reason.status.as_str()),
            (fate, status),
            "{finding:?}"
        );
    }
}

#[test]
fn what_is_wrong_with_a_route_never_bounces() {
    let route = Seen {
        route: true,
        ..PLAIN
    };
    let own = Forbidden::Own("192.0.2.1:25".parse().unwrap());
    for (stage, finding) in [
        (Stage::Resolve, Finding::Dns(DnsFailure::NoSuchDomain)),
        (Stage::Policy, Finding::Forbidden(own)),
    ] {
        assert_eq!(judge(stage, &finding, route).fate, NEXT);
    }
}

#[test]
fn all_hosts_together() {
    let failure = |stage, finding: &Finding| HostFailure {
        stage,
        verdict: judge(stage, finding, PLAIN),
    };
    let refused = failure(Stage::Greeting, &reply(554, "no service"));
    let unknown = failure(Stage::Resolve, &Finding::Dns(DnsFailure::NoSuchDomain));
    let dead = failure(Stage::Connect, &Finding::Lost(Loss::Timeout));
    let busy = failure(Stage::Mail, &reply(451, "busy"));
    let fate = |failures: &[HostFailure], complete| {
        conclude(failures, complete).map(|(index, verdict)| (index, verdict.fate))
    };
    let bounced = Fate::Bounced;
    assert_eq!(fate(&[], true), None);
    assert_eq!(
        fate(&[unknown.clone(), refused.clone()], true),
        Some((1, bounced))
    );
    assert_eq!(
        fate(&[refused.clone(), unknown.clone()], true),
        Some((0, bounced))
    );
    assert_eq!(
        fate(&[refused.clone(), unknown.clone()], false),
        Some((0, LATER))
    );
    assert_eq!(
        fate(&[refused.clone(), dead.clone()], true),
        Some((1, LATER))
    );
    assert_eq!(
        fate(&[busy.clone(), dead.clone(), refused], true),
        Some((0, LATER))
    );
}

#[test]
fn when_to_try_again() {
    let minutes = |n: u64| Some(Duration::from_secs(n * 60));
    for (text, expected) in [
        (
            "4.7.1 Greylisted, please try again in 5 minutes",
            minutes(5),
        ),
        (
            "Greylisting in effect, try again in 300 seconds.",
            minutes(5),
        ),
        (
            "<a@b>: Recipient address rejected: Greylisted for 600s",
            minutes(10),
        ),
        ("Try again in 2h", minutes(120)),
        ("please retry (in 10min)", minutes(10)),
        ("Graylisted, wait 00:07:00", minutes(7)),
        (
            "delayed for 05:30, try later",
            Some(Duration::from_secs(330)),
        ),
        ("try again in 1 second", Some(Duration::from_secs(1))),
        ("try again in 3 hours", minutes(180)),
        ("try again in 90000 minutes", minutes(360)),
        ("try again in 99999999999999999999999 minutes", None),
        ("try again in 18446744073709551615 hours", minutes(360)),
        ("try again later", None),
        ("5 minutes of fame", None),
        ("4.7.1 try again", None),
        ("you sent 100 messages, try again tomorrow", None),
    ] {
        let verdict = judge(Stage::Rcpt, &reply(450, text), PLAIN);
        assert_eq!(verdict.retry_after, expected, "{text}");
    }
    let verdict = judge(Stage::Rcpt, &reply(550, "try again in 5 minutes"), PLAIN);
    assert_eq!(verdict.retry_after, None, "a 5yz is not asked again");
}

#[test]
fn texts_are_one_printable_line() {
    let long = "x".repeat(1000);
    let verdict = judge(
        Stage::Rcpt,
        &reply(550, &format!("5.1.1 a\u{202e}b\nsecond {long}")),
        PLAIN,
    );
    let text = verdict.reason.text;
    assert!(text.starts_with("5.1.1 a?b second x"), "{text}");
    assert_eq!(text.len(), TEXT_MAX);
    assert_eq!(sanitised("a\r\nb\u{0}\u{e9}"), "a??b??");
}

/// RFC 8689 §4.2.1: a sender who asked for TLS hears of its absence; others wait for it to be mended.
#[test]
fn tls_that_the_message_itself_requires_is_required_now() {
    let fault = Finding::Tls(TlsFault::NotOffered("dane"));
    let seen = Seen {
        required: true,
        ..PLAIN
    };
    let verdict = judge(Stage::Tls, &fault, seen);
    assert_eq!(verdict.fate, NEXT_FOR_GOOD);
    assert_eq!(verdict.reason.status, "5.7.10");
    assert_eq!(judge(Stage::Tls, &fault, PLAIN).fate, NEXT);
}

/// A smart host that wants a login which the route has not: that is mended here.
#[test]
fn a_530_of_a_route_defers_and_says_what_is_missing() {
    let asked = reply(530, "5.7.0 Authentication required");
    let route = Seen {
        route: true,
        ..PLAIN
    };
    for stage in [Stage::Mail, Stage::Rcpt] {
        let verdict = judge(stage, &asked, route);
        assert_eq!(
            (verdict.fate, verdict.reason.rule.as_str()),
            (NEXT, "route-login")
        );
        assert!(verdict.reason.text.contains("`username`"), "{verdict:?}");
        assert!(matches!(verdict.outcome(), Outcome::Deferred { .. }));
        assert_eq!(judge(stage, &asked, PLAIN).fate, Fate::Bounced);
        assert_eq!(judge(stage, &reply(550, "no"), route).fate, Fate::Bounced);
    }
}
