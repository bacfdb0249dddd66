//! A policy's host of every kind, in virtual time: what it serves must be a policy, or nothing comes of it.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use smtp_proto::Domain;

use super::cache::{Cache, Look};
use super::{Fetch, Found, MAX_AGE_MAX, Mode, Policy, Wanted};
use crate::channel::tests::Authority;
use crate::channel::{Channel, ClientTls, ServerTls};
use crate::config::Config;
use crate::dns::{Addresses, DnsFailure, Texts};
use crate::https::{Answer, Request};
use crate::machine::{Input, Machine as _, Output};
use crate::outbound::TlsFailureKind as Kind;
use crate::queue::tick::Clock;
use crate::rng::Rng;
use crate::time::{Instant, Now, UnixTime};

const GOOD: &str = "version: STSv1\r\nmode: enforce\r\nmx: mx.example.com\r\nmax_age: 604800\r\n";
const HOST: &str = "mta-sts.example.com";

/// What a host does.
#[derive(Clone)]
struct Host {
    record: Result<Vec<&'static str>, DnsFailure>,
    addresses: Result<Vec<&'static str>, DnsFailure>,
    connects: Option<std::io::ErrorKind>,
    tls: Option<Arc<ServerTls>>,
    answer: Vec<u8>,
    /// Octets of the answer a second; none for all at once.
    pace: Option<usize>,
    /// Ends the connection after the answer: with a close_notify, or without.
    ends: Option<bool>,
}

fn ok(body: &str) -> Vec<u8> {
    let len = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len}\r\n\r\n{body}")
        .into()
}

fn head(head: &str, body: &str) -> Vec<u8> {
    format!("{head}\r\n\r\n{body}").into()
}

impl Host {
    fn new(authority: &Authority) -> Self {
        Self {
            record: Ok(vec!["v=STSv1; id=2;"]),
            addresses: Ok(vec!["192.0.2.1"]),
            connects: None,
            tls: Some(authority.server(HOST)),
            answer: ok(GOOD),
            pace: None,
            ends: None,
        }
    }
}

fn now() -> Now {
    Now {
        instant: Instant::from_origin(Duration::from_secs(1000)),
        unix: UnixTime::from_secs(1_780_000_000),
    }
}

/// What was learnt, the request that was sent, where it was connected to, and how long it took.
struct Ran {
    found: Found,
    asked: String,
    connected: Vec<IpAddr>,
    took: Duration,
}

fn run(host: &Host, tls: &Arc<ClientTls>, wanted: Wanted, config: Config) -> Ran {
    let mut fetch = Fetch::new(wanted, Arc::clone(tls), Arc::new(config));
    let start = now();
    let mut now = start;
    let (mut wire, mut scratch) = (Vec::new(), Vec::new());
    let mut server = Channel::plain();
    let (mut asked, mut connected) = (Vec::new(), Vec::new());
    let mut pending: VecDeque<u8> = VecDeque::new();
    let mut answered = false;
    for _ in 0..100_000 {
        let output = fetch.poll_output(&mut wire);
        if !wire.is_empty() && host.tls.is_some() {
            if let Ok(plain) = server.receive(&wire, &mut scratch) {
                asked.extend_from_slice(plain);
            }
            wire.clear();
        }
        match output {
            Output::Close => {
                return Ran {
                    found: fetch.into_found(),
                    asked: String::from_utf8(asked).unwrap(),
                    connected,
                    took: now.instant.since(start.instant),
                };
            }
            Output::Request(Request::Texts(name)) => {
                assert_eq!(name, "_mta-sts.example.com");
                let texts = host.record.clone().map(|texts| Texts {
                    texts: texts.iter().map(|text| text.as_bytes().to_vec()).collect(),
                    authentic: false,
                });
                fetch.handle_input(now, Input::Answer(Answer::Texts(texts)));
            }
            Output::Request(Request::Resolve(name)) => {
                assert_eq!(name, HOST);
                let addresses = host.addresses.clone().map(|addresses| Addresses {
                    addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
                    authentic: false,
                    canonical: None,
                });
                fetch.handle_input(now, Input::Answer(Answer::Resolved(addresses)));
            }
            Output::Request(Request::Connect { to, .. }) => {
                connected.push(to.ip());
                server = Channel::plain();
                if let Some(tls) = &host.tls {
                    server.start_server(tls).unwrap();
                }
                let answer = host.connects.map_or(Ok(()), Err);
                fetch.handle_input(now, Input::Answer(Answer::Connected(answer)));
            }
            Output::Request(Request::Flush) => {
                fetch.handle_input(now, Input::Answer(Answer::Flushed));
            }
            Output::Read { until, .. } => {
                let mut out = Vec::new();
                if host.tls.is_some() {
                    server.flush(&mut out);
                    if asked.ends_with(b"\r\n\r\n") && !answered {
                        answered = true;
                        pending.extend(&host.answer);
                    }
                    let piece = host.pace.unwrap_or(16_000).min(pending.len());
                    let plain: Vec<u8> = pending.drain(..piece).collect();
                    server.send(&plain, &mut out);
                    if host.pace.is_some() {
                        now.instant = now.instant + Duration::from_secs(1);
                    }
                } else {
                    out = std::mem::take(&mut pending).into();
                    if !answered {
                        answered = true;
                        out.extend_from_slice(&host.answer);
                    }
                }
                if !out.is_empty() {
                    fetch.handle_input(now, Input::Bytes(&out));
                } else if let (Some(clean), true) = (host.ends, answered) {
                    if clean {
                        server.close(&mut out);
                        fetch.handle_input(now, Input::Bytes(&out));
                    } else {
                        fetch.handle_input(now, Input::Closed(None));
                    }
                } else {
                    now.instant = until;
                    fetch.handle_input(now, Input::Timeout);
                }
            }
        }
    }
    panic!("it has no end");
}

fn config() -> Config {
    Config::new(Domain::parse("relay.example").unwrap(), "data")
}

fn wanted(known: Option<&str>) -> Wanted {
    Wanted {
        domain: "example.com".into(),
        known: known.map(str::to_owned),
    }
}

#[test]
fn a_policy_is_fetched() {
    let authority = Authority::new();
    let tls = authority.client();
    let host = Host::new(&authority);
    let ran = run(&host, &tls, wanted(None), config());
    let expected = Policy {
        domain: "example.com".into(),
        id: "2".into(),
        mode: Mode::Enforce,
        mx: vec!["mx.example.com".into()],
        max_age: 604_800,
        fetched: 1_780_000_000,
    };
    assert_eq!(ran.found, Found::Policy(expected.clone()));
    assert!(
        ran.asked
            .starts_with("GET /.well-known/mta-sts.txt HTTP/1.1\r\n")
    );
    let asked = ran.asked.to_ascii_lowercase();
    assert!(asked.contains("host: mta-sts.example.com\r\n"), "{asked}");
    assert!(!asked.contains("accept-encoding"), "{asked}");
    // In every way in which HTTP can carry it.
    let chunked = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\ncontent-type: TEXT/PLAIN; charset=utf-8\r\n\r\n{:x}\r\n{GOOD}\r\n0\r\n\r\n",
        GOOD.len()
    );
    let to_the_end = head("HTTP/1.1 200 OK\r\nContent-Type: text/plain", GOOD);
    let informed = [b"HTTP/1.1 103 Early Hints\r\n\r\n".to_vec(), ok(GOOD)].concat();
    for (answer, ends, pace) in [
        (chunked.into_bytes(), None, None),
        (to_the_end, Some(true), None),
        (informed, None, None),
        (ok(GOOD), None, Some(10)),
    ] {
        let host = Host {
            answer,
            ends,
            pace,
            ..host.clone()
        };
        let ran = run(&host, &tls, wanted(None), config());
        assert_eq!(ran.found, Found::Policy(expected.clone()));
    }
    // One that is known is not fetched again; another is.
    let ran = run(&host, &tls, wanted(Some("2")), config());
    assert_eq!((ran.found, ran.connected.len()), (Found::Same, 0));
    let ran = run(&host, &tls, wanted(Some("1")), config());
    assert!(matches!(ran.found, Found::Policy(_)));
}

#[test]
fn sts_03_max_age_is_capped() {
    let authority = Authority::new();
    for age in ["9999999999", "31557601", "4294967296"] {
        let body = GOOD.replace("604800", age);
        let host = Host {
            answer: ok(&body),
            ..Host::new(&authority)
        };
        let ran = run(&host, &authority.client(), wanted(None), config());
        let Found::Policy(policy) = ran.found else {
            panic!("{age}")
        };
        assert_eq!(policy.max_age, MAX_AGE_MAX);
    }
}

#[test]
fn sts_05_a_private_address_is_not_connected_to() {
    let authority = Authority::new();
    let private = [
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "127.0.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "::1",
        "fd00::1",
        "fe80::1",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
        "2002:a00:1::",
        "224.0.0.1",
    ];
    for address in private {
        let host = Host {
            addresses: Ok(vec![address]),
            ..Host::new(&authority)
        };
        let ran = run(&host, &authority.client(), wanted(None), config());
        let failed = matches!(
            ran.found,
            Found::Failed {
                kind: Kind::StsPolicyFetchError,
                ..
            }
        );
        assert!(
            failed && ran.connected.is_empty(),
            "{address}: {:?}",
            ran.found
        );
        let mut allowing = config();
        allowing.mta_sts.allow_private = true;
        let ran = run(&host, &authority.client(), wanted(None), allowing);
        assert!(matches!(ran.found, Found::Policy(_)), "{address}");
    }
    let mixed = Host {
        addresses: Ok(vec!["10.0.0.1", "192.0.2.7"]),
        ..Host::new(&authority)
    };
    let ran = run(&mixed, &authority.client(), wanted(None), config());
    assert_eq!(ran.connected, ["192.0.2.7".parse::<IpAddr>().unwrap()]);
}

/// Every fault with what it is called in a report; none for a domain that announces no policy.
fn faults(authority: &Authority) -> Vec<(&'static str, Host, Option<Kind>)> {
    let good = || Host::new(authority);
    let body = |body: &str| Host {
        answer: ok(body),
        ..good()
    };
    let answer = |answer: Vec<u8>| Host { answer, ..good() };
    let status = |line: &str| {
        answer(head(
            &format!(
                "HTTP/1.1 {line}\r\nContent-Type: text/plain\r\nContent-Length: {}",
                GOOD.len()
            ),
            GOOD,
        ))
    };
    let fields = |fields: &str| {
        answer(head(
            &format!(
                "HTTP/1.1 200 OK\r\n{fields}\r\nContent-Length: {}",
                GOOD.len()
            ),
            GOOD,
        ))
    };
    let record = |texts: &[&'static str]| Host {
        record: Ok(texts.to_vec()),
        ..good()
    };
    let no_dns = || DnsFailure::Temporary("SERVFAIL".into());
    let (fetch, invalid, webpki) = (
        Some(Kind::StsPolicyFetchError),
        Some(Kind::StsPolicyInvalid),
        Some(Kind::StsWebpkiInvalid),
    );
    let own = |name: &str| Host {
        tls: Some(authority.server(name)),
        ..good()
    };
    vec![
        ("no record", record(&[]), None),
        (
            "no such name",
            Host {
                record: Err(DnsFailure::NoSuchDomain),
                ..good()
            },
            None,
        ),
        (
            "the DNS is down",
            Host {
                record: Err(no_dns()),
                ..good()
            },
            None,
        ),
        (
            "two records",
            record(&["v=STSv1; id=1", "v=STSv1; id=2"]),
            None,
        ),
        ("a record without id", record(&["v=STSv1; x=1"]), None),
        ("a record with a bad id", record(&["v=STSv1; id=a_b"]), None),
        ("another version", record(&["v=STSv2; id=1"]), None),
        (
            "the host has no address",
            Host {
                addresses: Err(DnsFailure::NoSuchDomain),
                ..good()
            },
            fetch,
        ),
        (
            "its DNS is down",
            Host {
                addresses: Err(no_dns()),
                ..good()
            },
            fetch,
        ),
        (
            "a private address",
            Host {
                addresses: Ok(vec!["10.1.2.3"]),
                ..good()
            },
            fetch,
        ),
        (
            "it refuses",
            Host {
                connects: Some(std::io::ErrorKind::ConnectionRefused),
                ..good()
            },
            fetch,
        ),
        (
            "silence",
            Host {
                tls: None,
                answer: Vec::new(),
                ..good()
            },
            fetch,
        ),
        (
            "clear text",
            Host {
                tls: None,
                ..good()
            },
            fetch,
        ),
        (
            "SMTP",
            Host {
                tls: None,
                answer: b"220 mx ESMTP\r\n".to_vec(),
                ..good()
            },
            fetch,
        ),
        (
            "another authority",
            Host {
                tls: Some(Authority::new().server(HOST)),
                ..good()
            },
            webpki,
        ),
        ("the certificate of the domain", own("example.com"), webpki),
        (
            "the certificate of a neighbour",
            own("mta-sts.example.org"),
            webpki,
        ),
        (
            "an expired certificate",
            Host {
                tls: Some(authority.expired(HOST)),
                ..good()
            },
            webpki,
        ),
        ("no answer", answer(Vec::new()), fetch),
        (
            "301",
            status("301 Moved\r\nLocation: https://mta-sts.example.com/x"),
            fetch,
        ),
        (
            "302",
            status("302 Found\r\nLocation: https://evil.example/"),
            fetch,
        ),
        (
            "204",
            answer(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
            fetch,
        ),
        ("206", status("206 Partial"), fetch),
        ("404", status("404 Not Found"), fetch),
        ("500", status("500 Oops"), fetch),
        ("503", status("503 Later"), fetch),
        ("text/html", fields("Content-Type: text/html"), invalid),
        ("no media type", fields("X-Nothing: 1"), invalid),
        (
            "text/plainer",
            fields("Content-Type: text/plainer"),
            invalid,
        ),
        (
            "gzip",
            fields("Content-Type: text/plain\r\nContent-Encoding: gzip"),
            invalid,
        ),
        (
            "no HTTP",
            answer(b"* OK IMAP4rev1 ready\r\n\r\n".to_vec()),
            invalid,
        ),
        (
            "an endless head",
            answer([b"HTTP/1.1 200 OK\r\n".to_vec(), b"X: y\r\n".repeat(20_000)].concat()),
            invalid,
        ),
        (
            "65 MB announced",
            answer(head(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 68157440",
                &"x: y\n".repeat(40_000),
            )),
            invalid,
        ),
        (
            "65 MB without a word",
            answer(head(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain",
                &"x: y\n".repeat(40_000),
            )),
            invalid,
        ),
        (
            "1 octet a second",
            Host {
                pace: Some(1),
                ..good()
            },
            fetch,
        ),
        (
            "cut in the middle",
            Host {
                answer: ok(GOOD)[..120].to_vec(),
                ends: Some(true),
                ..good()
            },
            fetch,
        ),
        (
            "cut, and nobody says so",
            Host {
                answer: head("HTTP/1.1 200 OK\r\nContent-Type: text/plain", GOOD),
                ends: Some(false),
                ..good()
            },
            fetch,
        ),
        ("an empty policy", body(""), invalid),
        ("a bare CR", body(&GOOD.replace("\r\n", "\r")), invalid),
        (
            "HTML",
            body("<html><body>mode: none</body></html>"),
            invalid,
        ),
        (
            "no mode",
            body(&GOOD.replace("mode: enforce\r\n", "")),
            invalid,
        ),
        (
            "a bad mode",
            body(&GOOD.replace("enforce", "maybe")),
            invalid,
        ),
        (
            "no mx",
            body(&GOOD.replace("mx: mx.example.com\r\n", "")),
            invalid,
        ),
        (
            "a bad mx",
            body(&GOOD.replace("mx.example.com", "mx_.*.com")),
            invalid,
        ),
        (
            "max_age of 10^12",
            body(&GOOD.replace("604800", "1000000000000")),
            invalid,
        ),
        (
            "no max_age",
            body(&GOOD.replace("max_age: 604800\r\n", "")),
            invalid,
        ),
        ("STSv2", body(&GOOD.replace("STSv1", "STSv2")), invalid),
        (
            "the version comes late",
            body("mode: enforce\r\nversion: STSv1\r\nmx: a.example\r\nmax_age: 1\r\n"),
            invalid,
        ),
    ]
}

/// STS-02, STS-03: whatever the record and the host do, an enforced policy that is kept rules on, and
/// what they serve is not taken for one.
#[test]
fn sts_03_no_fault_opens_anything() {
    let authority = Authority::new();
    let tls = authority.client();
    let faults = faults(&authority);
    assert!(faults.len() >= 30);
    for (what, host, kind) in faults {
        let ran = run(&host, &tls, wanted(Some("0")), config());
        match (&ran.found, kind) {
            (Found::Failed { kind, why }, Some(expected)) => {
                assert_eq!(*kind, expected, "{what}: {why}");
                assert!(
                    why.len() < 300 && !why.contains(['\r', '\n']),
                    "{what}: {why:?}"
                );
            }
            (Found::NoRecord(_) | Found::Unknown(_), None) => {}
            (found, expected) => panic!("{what}: {found:?}, not {expected:?}"),
        }
        assert!(
            ran.took <= Duration::from_secs(61),
            "{what}: {:?}",
            ran.took
        );
        assert!(ran.connected.len() <= 1, "{what}: no redirect is followed");

        let clock = Clock::new(now());
        let mut rng = Rng::from_number(7);
        let mut cache = Cache::default();
        let kept = Policy {
            domain: "example.com".into(),
            id: "0".into(),
            mode: Mode::Enforce,
            mx: vec!["mx.example.com".into()],
            max_age: 86_400,
            fetched: now().unix.as_secs() - 86_000,
        };
        let tick = clock.tick();
        cache
            .recover(kept.clone(), tick, now().unix, &mut rng)
            .unwrap();
        let changes = cache.learnt("example.com", &ran.found, tick, now().unix, &mut rng);
        assert!(changes.is_empty(), "{what}");
        let rules = cache.policy("example.com", now().unix).expect(what);
        assert_eq!(**rules, kept, "{what}");
        assert_eq!(
            cache.look("example.com", tick),
            Look::Known,
            "{what}: not at once again"
        );
        let late = now().unix + Duration::from_secs(400);
        assert!(
            cache.policy("example.com", late).is_none(),
            "{what}: max_age is over"
        );
    }
}

#[test]
fn the_memory_of_policies_is_bounded() {
    let clock = Clock::new(now());
    let mut rng = Rng::from_number(7);
    let mut cache = Cache::default();
    let tick = clock.tick();
    let huge = |n: usize| Policy {
        domain: format!("d{n}.example"),
        id: "1".into(),
        mode: Mode::Enforce,
        mx: (0..2000).map(|mx| format!("mx{mx}.example")).collect(),
        max_age: 86_400,
        fetched: now().unix.as_secs(),
    };
    let mut removed = 0;
    for n in 0..400 {
        let policy = huge(n);
        let found = Found::Policy(policy.clone());
        let changes = cache.learnt(&policy.domain, &found, tick, now().unix, &mut rng);
        removed += changes.len() - 1;
        assert!(
            cache.policy(&policy.domain, now().unix).is_some(),
            "the newest stays"
        );
    }
    assert!(removed > 100, "{removed}");
    let early = cache.policy("d0.example", now().unix);
    assert!(early.is_none(), "what was used least lately goes first");
    for n in 0..60_000 {
        let found = Found::NoRecord(String::new());
        cache.learnt(&format!("n{n}.example"), &found, tick, now().unix, &mut rng);
    }
    assert!(
        cache.policy("d399.example", now().unix).is_some(),
        "domains without a policy push none out"
    );
}
