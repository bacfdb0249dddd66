//! The suite of RFC 7208, asked through the relay's own resolver; and what it does not cover.

use std::collections::BTreeMap;

use serde_json::Value;

use super::*;
use crate::config::{DnsConfig, IpFamilies};
use crate::dns::zone::{Failure, Zone};
use crate::dns::{Event, Query, Resolver, Step};
use crate::rng::Rng;
use crate::time::{Instant, Now};

const SUITE: &str = include_str!("../../../tests/data/spf/rfc7208-tests.json");

/// What the suite expects where the domain explains nothing.
const DEFAULT: &str = "DEFAULT";

fn now() -> Now {
    Now {
        instant: Instant::default(),
        unix: UnixTime::from_secs(1_795_471_531),
    }
}

/// Asks the zone as a runtime asks the network.
fn resolve(resolver: &mut Resolver, zone: &Zone, question: &Question) -> super::super::Answer {
    let mut at = now();
    let mut lookup = resolver.begin(at, Query::plain(question));
    loop {
        match lookup.poll() {
            Step::Exchange {
                transport,
                server,
                message,
                until,
            } => match zone.answer(&message, transport) {
                Some(bytes) => lookup.handle(
                    at,
                    Event::Received {
                        from: server,
                        bytes: &bytes,
                    },
                ),
                None => {
                    at.instant = until;
                    lookup.handle(at, Event::Timeout);
                }
            },
            Step::Listen { until } => {
                at.instant = until;
                lookup.handle(at, Event::Timeout);
            }
            Step::Done => return resolver.finish(at, lookup),
        }
    }
}

/// The outcome, and how many questions it took.
fn outcome(identity: &Identity<'_>, zone: &Zone) -> (Outcome, usize) {
    let config = DnsConfig {
        servers: vec!["192.0.2.53:53".parse().unwrap()],
        trust_ad: false,
    };
    let mut resolver = Resolver::new(&config, IpFamilies::Both, Rng::from_number(1));
    let mut known = Known::default();
    loop {
        match check(identity, &known) {
            Ok(outcome) => return (outcome, known.len()),
            Err(Unknown(question)) => {
                let answer = resolve(&mut resolver, zone, &question);
                known.insert(question, answer);
                assert!(known.len() <= super::super::QUESTIONS_MAX);
            }
        }
    }
}

fn zone(data: &Value) -> Zone {
    let mut zone = Zone::new();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    for (name, entry) in data.as_object().unwrap() {
        if entry["fails"] == true {
            zone = zone.failing(name, Failure::ServerFailure);
            continue;
        }
        zone = zone.empty(name);
        for record in entry["records"].as_array().unwrap() {
            let value = &record[1];
            zone = match record[0].as_str().unwrap() {
                "A" | "AAAA" => zone.address(name, text(value).parse().unwrap()),
                "MX" => {
                    let preference = value[0].as_u64().unwrap().try_into().unwrap();
                    match text(&value[1]).as_str() {
                        "" => zone.mx(name, preference, "."),
                        host => zone.mx(name, preference, host),
                    }
                }
                "TXT" => {
                    let strings: Vec<String> = value.as_array().unwrap().iter().map(text).collect();
                    let strings: Vec<&str> = strings.iter().map(String::as_str).collect();
                    // On the wire a record has a string, be it empty. RFC 1035 §3.3.14.
                    zone.txt(name, if strings.is_empty() { &[""] } else { &strings })
                }
                "CNAME" => zone.cname(name, &text(value)),
                "PTR" => zone.named(name, &text(value)),
                kind => panic!("a record of the kind {kind}"),
            };
        }
    }
    zone
}

#[test]
fn the_suite_of_rfc_7208() {
    let suite: Value = serde_json::from_str(SUITE).unwrap();
    let (mut run, mut wrong) = (0, Vec::new());
    for scenario in suite.as_array().unwrap() {
        let zone = zone(&scenario["zone"]);
        for (name, test) in scenario["tests"].as_object().unwrap() {
            run += 1;
            let text = |key: &str| test[key].as_str().unwrap_or_default();
            let helo = text("helo");
            let (local_part, domain) = match text("mailfrom").rsplit_once('@') {
                Some(("", domain)) => ("postmaster", domain),
                Some(parts) => parts,
                None if text("mailfrom").is_empty() => ("postmaster", helo),
                None => ("postmaster", text("mailfrom")),
            };
            let identity = Identity {
                ip: text("host").parse::<IpAddr>().unwrap().to_canonical(),
                helo,
                local_part,
                domain,
                receiver: "receiver.example",
                time: now().unix,
            };
            let (outcome, _) = outcome(&identity, &zone);
            let allowed = test["result"].as_array().unwrap();
            let result = outcome.result.to_string();
            if !allowed.iter().any(|allowed| *allowed == result) {
                wrong.push(format!("{name}: {result}, not {allowed:?}"));
            }
            if let Some(wanted) = test["explanation"].as_str() {
                let said = outcome.explanation.as_deref().unwrap_or(DEFAULT);
                if !said.eq_ignore_ascii_case(wanted) {
                    wrong.push(format!("{name}: it explains {said:?}, not {wanted:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {run}: {wrong:#?}", wrong.len());
    assert_eq!(run, 203);
}

fn identity<'a>(domain: &'a str, ip: &str) -> Identity<'a> {
    Identity {
        ip: ip.parse().unwrap(),
        helo: "client.example",
        local_part: "user",
        domain,
        receiver: "receiver.example",
        time: now().unix,
    }
}

#[test]
fn a_name_with_any_printable_octet_is_asked_for() {
    let zone = Zone::new()
        .txt("a.example", &["v=spf1 exists:%{l}.%{d} -all"])
        .address("us=er+tag.a.example", "127.0.0.2".parse().unwrap());
    let mut identity = identity("a.example", "192.0.2.1");
    identity.local_part = "us=er+tag";
    assert_eq!(outcome(&identity, &zone).0.result, SpfResult::Pass);
    identity.local_part = "other";
    assert_eq!(outcome(&identity, &zone).0.result, SpfResult::Fail);
}

#[test]
fn the_most_expensive_record_stays_within_bounds() {
    let mut zone = Zone::new();
    for mx in 0..10 {
        for host in 0..10 {
            let name = format!("h{host}.m{mx}.example");
            zone = zone
                .mx(&format!("m{mx}.example"), host, &name)
                .address(&name, "198.51.100.1".parse().unwrap());
        }
    }
    let terms: Vec<String> = (0..10).map(|mx| format!("mx:m{mx}.example")).collect();
    let zone = zone.txt("a.example", &["v=spf1 ", &terms.join(" "), " -all"]);
    let (outcome, questions) = outcome(&identity("a.example", "192.0.2.1"), &zone);
    assert_eq!(outcome.result, SpfResult::Fail);
    assert_eq!(questions, 111);
}

#[test]
fn loops_end() {
    let zone = Zone::new()
        .txt("a.example", &["v=spf1 include:b.example -all"])
        .txt("b.example", &["v=spf1 redirect=a.example"])
        .txt("c.example", &["v=spf1 redirect=c.example"]);
    for domain in ["a.example", "c.example"] {
        let (outcome, _) = outcome(&identity(domain, "192.0.2.1"), &zone);
        assert_eq!(outcome.result, SpfResult::PermError, "{domain}");
    }
}

#[test]
fn a_prefix_of_nothing_covers_all_of_its_family() {
    let counts: BTreeMap<_, _> = [("ip4:0.0.0.0/0", "v4"), ("ip6:::/0", "v6")].into();
    for (term, family) in counts {
        let zone = Zone::new().txt("a.example", &["v=spf1 ", term, " -all"]);
        for (ip, of) in [("192.0.2.1", "v4"), ("2001:db8::1", "v6")] {
            let (outcome, _) = outcome(&identity("a.example", ip), &zone);
            assert_eq!(
                outcome.result == SpfResult::Pass,
                family == of,
                "{term} {ip}"
            );
        }
    }
}
