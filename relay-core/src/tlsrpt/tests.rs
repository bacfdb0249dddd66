//! Who wants reports, and what they read.

use std::io::Read as _;
use std::net::IpAddr;

use base64::Engine as _;
use serde_json::Value;
use smtp_proto::Mailbox;

use super::report::{gzipped, mail};
use super::tally::{DAY as SECS, Period, Sessions, Tally};
use super::{BadRecord, Head, Rua, check_record, ruas};
use crate::config::Config;
use crate::id::MessageId;
use crate::outbound::{TlsFailureKind, TlsPolicyType, TlsSession};
use crate::queue::message::Body;
use crate::sign::tests::signing_domain;
use crate::sts::{Mode, Policy};
use crate::time::UnixTime;

const DAY: u64 = 20_000;

fn https(host: &str, port: u16, path: &str) -> Rua {
    Rua::Https {
        host: host.into(),
        port,
        path: path.into(),
    }
}

fn to(address: &str) -> Mailbox {
    Mailbox::parse(address).unwrap()
}

#[test]
fn who_wants_reports() {
    let read = |texts: &[&str]| ruas(texts.iter().map(|text| text.as_bytes()));
    let cases: [(&str, Vec<Rua>); 8] = [
        (
            "v=TLSRPTv1; rua=mailto:tls@example.com",
            vec![Rua::Mail(to("tls@example.com"))],
        ),
        ("v=TLSRPTv1;rua=mailto:a%2Cb%40x@example.com;", Vec::new()),
        (
            "v=TLSRPTv1; rua=https://r.example/v1?x=y",
            vec![https("r.example", 443, "/v1?x=y")],
        ),
        (
            "v=TLSRPTv1; ext=1; rua=mailto:a@x.example,https://R.example:8443",
            vec![Rua::Mail(to("a@x.example")), https("r.example", 8443, "/")],
        ),
        (
            "v=TLSRPTv1; rua=http://r.example/, ftp://r.example, mailto:, https://u@r.example/",
            Vec::new(),
        ),
        (
            "v=TLSRPTv1; rua=mailto:a@x.example?subject=y",
            vec![Rua::Mail(to("a@x.example"))],
        ),
        ("v=TLSRPTv2; rua=mailto:a@x.example", Vec::new()),
        ("v=TLSRPTv1;", Vec::new()),
    ];
    for (text, expected) in cases {
        assert_eq!(read(&[text]), expected, "{text}");
    }
    let one = "v=TLSRPTv1; rua=mailto:a@x.example";
    assert_eq!(read(&["v=spf1 -all", one]).len(), 1);
    assert_eq!(read(&[one, one]).len(), 0, "more than one record is none");
}

#[test]
fn what_is_wrong_with_a_record() {
    let check = |texts: &[&str]| check_record(texts.iter().map(|text| text.as_bytes()));
    let one = "v=TLSRPTv1; rua=mailto:a@x.example";
    assert_eq!(check(&[one]), Ok(vec![Rua::Mail(to("a@x.example"))]));
    assert_eq!(check(&[one, "v=spf1 -all"]).map(|ruas| ruas.len()), Ok(1));
    let two = "v=TLSRPTv1;ext=1;rua=https://r.example/v1 , mailto:a@x.example ;";
    assert_eq!(check(&[two]).map(|ruas| ruas.len()), Ok(2));
    assert_eq!(check(&["v=TLSRPTv2; rua=x"]), Err(BadRecord::None));
    assert_eq!(check(&[one, one]), Err(BadRecord::Several));
    for (fields, wrong) in [
        ("", BadRecord::NoRua),
        ("x=y", BadRecord::NoRua),
        ("rua", BadRecord::Field("rua".into())),
        (";rua=mailto:a@x.example", BadRecord::Field("".into())),
        (
            "-x=1;rua=mailto:a@x.example",
            BadRecord::Field("-x=1".into()),
        ),
        ("rua=", BadRecord::Field("rua=".into())),
        ("rua=a@x.example", BadRecord::Uri("a@x.example".into())),
        (
            "rua=mailto:a!b@x.example",
            BadRecord::Uri("mailto:a!b@x.example".into()),
        ),
        (
            "rua=http://x.example/",
            BadRecord::Uri("http://x.example/".into()),
        ),
        (
            "rua=https://[::1]/",
            BadRecord::Uri("https://[::1]/".into()),
        ),
        (
            "rua=https://a[.example/",
            BadRecord::Uri("https://a[.example/".into()),
        ),
        ("rua=mailto:a@x.example,", BadRecord::Uri("".into())),
    ] {
        assert_eq!(
            check(&[&format!("v=TLSRPTv1;{fields}")]),
            Err(wrong),
            "{fields}"
        );
    }
}

fn session(policy: TlsPolicyType, failure: Option<TlsFailureKind>) -> TlsSession {
    TlsSession {
        policy,
        tlsa: Vec::new(),
        host: "mx.example.com".into(),
        address: Some(IpAddr::from([192, 0, 2, 1])),
        local: Some(IpAddr::from([192, 0, 2, 9])),
        failure,
        why: failure
            .map(|_| "it has expired".to_owned())
            .unwrap_or_default(),
    }
}

fn policy() -> Policy {
    Policy {
        domain: "example.com".into(),
        id: "1".into(),
        mode: Mode::Testing,
        mx: vec!["mx.example.com".into()],
        max_age: 86_400,
        fetched: 0,
    }
}

fn tally() -> Tally {
    let mut tally = Tally::default();
    let (expired, policy) = (Some(TlsFailureKind::CertificateExpired), policy());
    for failure in [None, None, expired, expired] {
        let session = session(TlsPolicyType::Sts, failure);
        tally.count(DAY, "example.com", Some(&policy), &session);
    }
    tally.count(
        DAY,
        "example.com",
        None,
        &session(TlsPolicyType::NoPolicyFound, None),
    );
    tally
}

fn of_the_day(tally: &Tally) -> &Sessions {
    tally.get(&period(DAY * SECS)).unwrap()
}

fn period(start: u64) -> Period {
    Period {
        day: DAY,
        domain: "example.com".into(),
        start,
    }
}

fn head() -> Head {
    let mut config = Config::new("relay.example".parse().unwrap(), "data");
    config.tls_rpt.organization = Some("An \"Organization\"".into());
    config.tls_rpt.contact = Some(to("postmaster@relay.example"));
    Head::of(&config)
}

fn gunzipped(bytes: &[u8]) -> Value {
    let mut text = String::new();
    flate2::read::GzDecoder::new(bytes)
        .read_to_string(&mut text)
        .unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_report_reads_as_the_rfc_has_it() {
    let tally = tally();
    let sessions = of_the_day(&tally);
    let report = gunzipped(&gzipped(&head(), sessions));
    assert_eq!(report["organization-name"], "An \"Organization\"");
    assert_eq!(
        report["date-range"]["start-datetime"],
        "2024-10-04T00:00:00Z"
    );
    assert_eq!(report["date-range"]["end-datetime"], "2024-10-04T23:59:59Z");
    assert_eq!(report["contact-info"], "postmaster@relay.example");
    let sts = &report["policies"][0];
    assert_eq!(sts["policy"]["policy-type"], "sts");
    assert_eq!(sts["policy"]["policy-domain"], "example.com");
    assert_eq!(sts["policy"]["policy-string"][1], "mode: testing");
    assert_eq!(sts["policy"]["mx-host"][0], "mx.example.com");
    assert_eq!(sts["summary"]["total-successful-session-count"], 2);
    assert_eq!(sts["summary"]["total-failure-session-count"], 2);
    let detail = &sts["failure-details"][0];
    assert_eq!(detail["result-type"], "certificate-expired");
    assert_eq!(detail["failed-session-count"], 2);
    assert_eq!(detail["receiving-mx-hostname"], "mx.example.com");
    assert_eq!(detail["receiving-ip"], "192.0.2.1");
    assert_eq!(detail["sending-mta-ip"], "192.0.2.9");
    let none = &report["policies"][1];
    assert_eq!(none["policy"]["policy-type"], "no-policy-found");
    assert_eq!(none["summary"]["total-successful-session-count"], 1);
}

#[test]
fn the_mail_that_carries_it() {
    let tally = tally();
    let sessions = of_the_day(&tally);
    let now = UnixTime::from_secs(1_780_000_000);
    let mail = mail(
        &head(),
        sessions,
        &gzipped(&head(), sessions),
        &[to("a@x.example")],
        MessageId::from_u64(7),
        now,
    );
    let Body::Memory(bytes) = &mail.body else {
        panic!()
    };
    let text = std::str::from_utf8(bytes).unwrap();
    for field in [
        "From: <noreply-smtp-tls-reporting@relay.example>\r\n",
        "\r\nTLS-Report-Domain: example.com\r\n",
        "\r\nTLS-Report-Submitter: relay.example\r\n",
        "Content-Type: multipart/report; report-type=\"tlsrpt\";",
        "\r\nContent-Type: application/tlsrpt+gzip\r\n",
        "filename=\"relay.example!example.com!1728000000!1728086399.json.gz\"",
    ] {
        assert!(text.contains(field), "{field}: {text}");
    }
    assert!(text.lines().all(|line| line.len() < 998));
    assert_eq!(mail.size, text.len() as u64);
    assert!(text[..mail.header_size as usize].ends_with("\r\n\r\n"));
    assert!(
        mail.envelope.from.mailbox().is_none(),
        "nothing is reported about it"
    );
    let (_, attached) = text.split_once(".json.gz\"\r\n\r\n").unwrap();
    let (attached, _) = attached.split_once("\r\n--=_").unwrap();
    let attached = base64::engine::general_purpose::STANDARD
        .decode(attached.replace("\r\n", ""))
        .unwrap();
    assert_eq!(
        gunzipped(&attached)["policies"].as_array().unwrap().len(),
        2
    );
}

#[test]
fn whether_somebody_signs_reports() {
    let mut config = Config::new("mail.host.example".parse().unwrap(), "data");
    assert_eq!(super::unsigned(&config), None, "nobody signs anything");
    config.domains = vec![signing_domain("sender.example")];
    let why = super::unsigned(&config).unwrap();
    assert!(why.contains("is mail.host.example or above it"), "{why}");
    config.tls_rpt.contact = Some(to("us@sender.example"));
    assert_eq!(super::unsigned(&config), None);
    config.tls_rpt.from = Some(to("tls@other.example"));
    assert!(super::unsigned(&config).is_some());
    config.tls_rpt.enabled = false;
    assert_eq!(super::unsigned(&config), None);
}

#[test]
fn counts_are_bounded() {
    let mut tally = Tally::default();
    for n in 0..1000 {
        let failed = TlsSession {
            why: format!("{n} {}", "x".repeat(5000)),
            ..session(
                TlsPolicyType::NoPolicyFound,
                Some(TlsFailureKind::ValidationFailure),
            )
        };
        tally.count(DAY, "example.com", None, &failed);
    }
    let sessions = of_the_day(&tally);
    assert_eq!(sessions.policies[0].failed, 1000, "all are counted");
    assert!(
        sessions.policies[0].failures.len() < 100,
        "not all are told apart"
    );
    assert!(gzipped(&head(), sessions).len() < 20_000);
    for n in 0..12_000 {
        tally.count(
            DAY,
            &format!("d{n}.example"),
            None,
            &session(TlsPolicyType::NoPolicyFound, None),
        );
    }
    assert_eq!(tally.over(DAY + 1).len(), 10_000);
}

#[test]
fn a_day_that_was_told_in_part_goes_on_where_it_ended() {
    let mut tally = tally();
    let (midnight, noon) = (DAY * SECS, DAY * SECS + SECS / 2);
    tally.close(&period(midnight), noon);
    assert_eq!(tally.over(DAY), [period(midnight)]);
    let count = |tally: &mut Tally| {
        let session = session(TlsPolicyType::NoPolicyFound, None);
        tally.count(DAY, "example.com", None, &session);
    };
    count(&mut tally);
    count(&mut tally);
    let first = of_the_day(&tally);
    assert_eq!((first.policies[1].successes, first.end()), (1, noon + 1));
    let second = tally.get(&period(noon + 1)).unwrap();
    assert_eq!(second.policies[0].successes, 2);
    assert_eq!(second.end(), midnight + SECS);
    let ids = [first, second].map(|sessions| super::json(&head(), sessions)["report-id"].clone());
    assert_ne!(ids[0], ids[1], "neither is a copy of the other");
    // In its last second, a day is over.
    tally.close(&period(noon + 1), midnight + SECS - 1);
    count(&mut tally);
    assert_eq!(tally.iter().count(), 2);
}
