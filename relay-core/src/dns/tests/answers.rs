//! What the answers of honest servers come to.

use std::net::IpAddr;

use hickory_proto::op::{Message, ResponseCode};

use super::*;
use crate::dns::zone::Failure;
use crate::dns::{ADDRESSES_MAX, Addresses, DnsFailure, HOSTS_MAX, Mx};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn mx(preference: u16, host: &str) -> Mx {
    Mx {
        preference,
        host: host.into(),
    }
}

fn sample() -> Zone {
    Zone::new()
        .mx("example.com", 20, "b.example.com")
        .mx("example.com", 10, "A.Example.com")
        .mx("example.com", 20, "a2.example.com")
        .address("a.example.com", ip("192.0.2.1"))
        .address("a.example.com", ip("2001:db8::1"))
        .address("implicit.example", ip("192.0.2.2"))
        .mx("null.example", 0, ".")
        .cname("alias.example", "example.com")
        .cname("mx.example", "a.example.com")
        .txt("_dmarc.example.com", &["v=DMARC1; ", "p=none"])
        .ptr(ip("192.0.2.1"), "A.example.com")
        .empty("empty.example")
        .mx("xn--bcher-kva.example", 5, "mx.example")
        .failing("broken.example", Failure::ServerFailure)
        .failing("refused.example", Failure::Refused)
        .failing("silent.example", Failure::Silence)
}

#[test]
fn mail_exchangers_come_by_preference_then_name() {
    let set = World::new()
        .zone(&sample(), Query::mx("EXAMPLE.com."))
        .unwrap();
    let hosts = [
        mx(10, "a.example.com"),
        mx(20, "a2.example.com"),
        mx(20, "b.example.com"),
    ];
    assert_eq!(set.hosts, hosts);
    assert!(!set.implicit && !set.authentic);
    let set = World::new()
        .zone(&sample(), Query::mx("Bücher.example"))
        .unwrap();
    assert_eq!(set.hosts, [mx(5, "mx.example")]);
}

/// RFC 5321 §5.1: no MX at all means the domain itself; the addresses are for a later lookup to find.
#[test]
fn a_domain_without_mx_stands_for_itself() {
    for domain in ["implicit.example", "empty.example"] {
        let set = World::new().zone(&sample(), Query::mx(domain)).unwrap();
        assert_eq!((set.hosts, set.implicit), (vec![mx(0, domain)], true));
    }
    let answer = World::new().zone(&sample(), Query::addresses("empty.example"));
    assert_eq!(answer, Err(DnsFailure::NoRecord));
}

#[test]
fn dns_05_aliases_are_followed_within_bounds() {
    let set = World::new()
        .zone(&sample(), Query::mx("alias.example"))
        .unwrap();
    assert_eq!(set.hosts.len(), 3);
    let found = World::new()
        .zone(&sample(), Query::addresses("mx.example"))
        .unwrap();
    assert_eq!(found.canonical.as_deref(), Some("a.example.com"));
    assert_eq!(found.addresses, [ip("2001:db8::1"), ip("192.0.2.1")]);

    let chain = |length: usize| {
        let zone = Zone::new().mx(&format!("n{length}.example"), 1, "mx.example");
        (0..length).fold(zone, |zone, n| {
            zone.cname(&format!("n{n}.example"), &format!("n{}.example", n + 1))
        })
    };
    assert!(
        World::new()
            .zone(&chain(8), Query::mx("n0.example"))
            .is_ok()
    );
    let endless = World::new().zone(&chain(9), Query::mx("n0.example"));
    assert!(
        matches!(endless, Err(DnsFailure::BadName(_))),
        "{endless:?}"
    );
    // Our zone gives up on these as a resolver would.
    let endless = World::new().zone(&chain(30), Query::mx("n0.example"));
    assert!(
        matches!(endless, Err(DnsFailure::Temporary(_))),
        "{endless:?}"
    );
}

/// A server that gives one alias at a time, and one that gives the whole loop at once.
#[test]
fn dns_05_a_loop_of_aliases_ends() {
    for whole in [false, true] {
        let mut world = World::new();
        let answer = world.run(Query::mx("a.example"), |asked, _| {
            let name = asked.message.queries[0]
                .name
                .to_ascii()
                .to_ascii_lowercase();
            let other = if name == "a.example." {
                "b.example"
            } else {
                "a.example"
            };
            let mut message = asked.message.clone().into_response();
            for (owner, target) in [(name.as_str(), other), (other, name.as_str())] {
                if whole || owner == name {
                    message.add_answer(super::forged::cname(owner, target));
                }
            }
            message.metadata.recursion_available = true;
            vec![Reply::Bytes(framed(
                asked.transport,
                message.to_vec().unwrap(),
            ))]
        });
        assert!(matches!(answer, Err(DnsFailure::BadName(_))), "{answer:?}");
        assert!(world.asked.len() <= 3);
    }
}

#[test]
fn dns_06_a_thousand_exchangers_and_addresses_stay_few() {
    let mut zone = Zone::new();
    for n in 0..1000u16 {
        zone = zone.mx(
            "many.example",
            1000 - n % 500,
            &format!("mx{n}.many.example"),
        );
        zone = zone.address(
            "host.example",
            IpAddr::from([10, 0, (n >> 8) as u8, n as u8]),
        );
        zone = zone.address(
            "host.example",
            IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n]),
        );
    }
    let mut world = World::new();
    let set = world.zone(&zone, Query::mx("many.example")).unwrap();
    assert_eq!(set.hosts.len(), HOSTS_MAX);
    assert!(set.hosts.is_sorted());
    assert!(
        world
            .asked
            .iter()
            .any(|asked| asked.transport == Transport::Tcp)
    );
    let Addresses { addresses, .. } = world.zone(&zone, Query::addresses("host.example")).unwrap();
    assert_eq!(addresses.len(), ADDRESSES_MAX);
    assert_eq!(
        addresses.iter().filter(|a| a.is_ipv4()).count(),
        ADDRESSES_MAX / 2
    );
}

#[test]
fn dns_07_a_null_mx_takes_no_mail() {
    let answer = World::new().zone(&sample(), Query::mx("null.example"));
    assert_eq!(answer, Err(DnsFailure::NullMx));
    // Beside another exchanger the root is just no host.
    let zone = Zone::new()
        .mx("odd.example", 0, ".")
        .mx("odd.example", 9, "mx.example");
    assert_eq!(
        World::new()
            .zone(&zone, Query::mx("odd.example"))
            .unwrap()
            .hosts,
        [mx(9, "mx.example")]
    );
}

#[test]
fn exchangers_that_are_no_host_are_passed_over() {
    let zone = Zone::new()
        .mx("one.example", 1, "192.0.2.1")
        .mx("one.example", 2, "bad host.example")
        .mx("one.example", 3, "-x.example")
        .mx("one.example", 4, "mx_1.example")
        .mx("one.example", 9, "MX_1.example")
        .mx("none.example", 1, "192.0.2.1");
    let set = World::new().zone(&zone, Query::mx("one.example")).unwrap();
    assert_eq!(set.hosts, [mx(4, "mx_1.example")]);
    let answer = World::new().zone(&zone, Query::mx("none.example"));
    assert!(
        matches!(&answer, Err(DnsFailure::BadName(why)) if why.contains("192.0.2.1")),
        "{answer:?}"
    );
}

#[test]
fn dns_09_failures_are_told_apart() {
    for (domain, asked, failure) in [
        ("nowhere.example", 1, Some(DnsFailure::NoSuchDomain)),
        ("sub.nowhere.example", 1, Some(DnsFailure::NoSuchDomain)),
        ("broken.example", 2, None),
        ("refused.example", 2, None),
        ("silent.example", 6, None),
    ] {
        let mut world = World::new();
        let answer = world.zone(&sample(), Query::mx(domain)).unwrap_err();
        match failure {
            Some(failure) => assert_eq!(answer, failure, "{domain}"),
            None => assert!(
                matches!(answer, DnsFailure::Temporary(_)),
                "{domain}: {answer:?}"
            ),
        }
        assert_eq!(world.asked.len(), asked, "{domain}");
    }
    let text = |domain| match World::new().zone(&sample(), Query::mx(domain)) {
        Err(DnsFailure::Temporary(text)) => text,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        text("broken.example"),
        "no MX answer for broken.example: [2001:db8::53]:53: it answered SERVFAIL"
    );
    assert!(text("silent.example").contains("did not answer in time"));
}

/// RFC 4074 §4.2: what goes wrong with AAAA does not hide the A records.
#[test]
fn one_family_is_enough() {
    for code in [
        ResponseCode::NXDomain,
        ResponseCode::ServFail,
        ResponseCode::Refused,
    ] {
        let mut world = World::new();
        let found = world.run(Query::addresses("a.example.com"), |asked, message| {
            let kind = asked.message.queries[0].query_type;
            if kind == hickory_proto::rr::RecordType::A {
                return serve(&sample())(asked, message);
            }
            let mut reply = asked.message.clone().into_response();
            reply.metadata.response_code = code;
            vec![Reply::Bytes(reply.to_vec().unwrap())]
        });
        assert_eq!(found.unwrap().addresses, [ip("192.0.2.1")], "{code}");
    }
    let only = |families| {
        World::with(false, families)
            .zone(&sample(), Query::addresses("a.example.com"))
            .unwrap()
            .addresses
    };
    assert_eq!(only(IpFamilies::Ipv4), [ip("192.0.2.1")]);
    assert_eq!(only(IpFamilies::Ipv6), [ip("2001:db8::1")]);
}

#[test]
fn dns_11_the_ad_bit_counts_only_from_a_trusted_server() {
    for (trust, signed) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut zone = sample();
        if signed {
            zone = zone.authentic();
        }
        let mut world = World::with(trust, IpFamilies::Both);
        let expected = trust && signed;
        assert_eq!(
            world
                .zone(&zone, Query::mx("example.com"))
                .unwrap()
                .authentic,
            expected
        );
        assert_eq!(
            world
                .zone(&zone, Query::mx("empty.example"))
                .unwrap()
                .authentic,
            expected
        );
        assert_eq!(
            world
                .zone(&zone, Query::addresses("mx.example"))
                .unwrap()
                .authentic,
            expected
        );
        assert!(
            world
                .asked
                .iter()
                .all(|asked| asked.message.metadata.authentic_data == trust)
        );
        // From the cache as from the wire.
        assert_eq!(
            world
                .zone(&zone, Query::mx("example.com"))
                .unwrap()
                .authentic,
            expected
        );
    }
}

#[test]
fn other_records_are_found_too() {
    let mut world = World::new();
    let texts = world
        .zone(&sample(), Query::txt("_dmarc.example.com"))
        .unwrap()
        .texts;
    assert_eq!(texts, [b"v=DMARC1; p=none".to_vec()]);
    let names = world
        .zone(&sample(), Query::ptr(ip("192.0.2.1")))
        .unwrap()
        .names;
    assert_eq!(names, ["a.example.com"]);
    let tlsa = world.zone(&sample(), Query::tlsa("a.example.com", 25));
    assert_eq!(tlsa, Err(DnsFailure::NoSuchDomain));
}

#[test]
fn what_is_known_is_not_asked_again() {
    let mut world = World::new();
    for (domain, count) in [
        ("example.com", 1),
        ("EXAMPLE.COM.", 1),
        ("nowhere.example", 2),
        ("nowhere.example", 2),
        ("broken.example", 4),
        ("broken.example", 4),
    ] {
        let _ = world.zone(&sample(), Query::mx(domain));
        assert_eq!(world.asked.len(), count, "{domain}");
    }
    world.now += Duration::from_secs(61);
    let _ = world.zone(&sample(), Query::mx("example.com"));
    assert_eq!(world.asked.len(), 5);
    world.resolver.reconfigure(&config(true), IpFamilies::Both);
    let _ = world.zone(&sample(), Query::mx("example.com"));
    assert_eq!(world.asked.len(), 6);
}

#[test]
fn addresses_and_localhost_need_no_server() {
    let mut world = World::new();
    let mut known = |host: &str| {
        world
            .run(Query::addresses(host), |_, _| panic!("asked"))
            .unwrap()
            .addresses
    };
    assert_eq!(known("192.0.2.7"), [ip("192.0.2.7")]);
    assert_eq!(known("2001:db8::7"), [ip("2001:db8::7")]);
    assert_eq!(known("LOCALHOST"), [ip("::1"), ip("127.0.0.1")]);
    let answer =
        World::with(false, IpFamilies::Ipv4).run(Query::addresses("::1"), |_, _| panic!("asked"));
    assert_eq!(answer, Err(DnsFailure::NoRecord));
    let answer = World::new().run(Query::mx("a..b"), |_, _| panic!("asked"));
    assert!(matches!(answer, Err(DnsFailure::BadName(why)) if why.contains("a..b")));
}

#[test]
fn a_dead_server_costs_its_timeout_once() {
    let mut world = World::new();
    let second: SocketAddr = SERVERS[1].parse().unwrap();
    let mut serve = |asked: &Asked, message: &[u8]| {
        if asked.server == second {
            serve(&sample())(asked, message)
        } else {
            vec![]
        }
    };
    assert!(world.run(Query::mx("example.com"), &mut serve).is_ok());
    assert_eq!(world.asked.len(), 2);
    assert!(world.run(Query::mx("implicit.example"), &mut serve).is_ok());
    assert_eq!(world.asked.len(), 3);
}

#[test]
fn a_refused_port_is_passed_at_once() {
    let mut world = World::new();
    let before = world.now;
    let refused = std::io::ErrorKind::ConnectionRefused;
    let answer = world.run(Query::mx("example.com"), |_, _| {
        vec![Reply::Failed(refused)]
    });
    assert!(
        matches!(answer, Err(DnsFailure::Temporary(why)) if why.contains("nothing listens there"))
    );
    assert!(world.now - before < Duration::from_secs(1));
    let resolver = Resolver::new(
        &DnsConfig {
            servers: vec![],
            ..config(false)
        },
        IpFamilies::Both,
        Rng::from_number(1),
    );
    let mut world = World {
        resolver,
        ..World::new()
    };
    let answer = world.run(Query::mx("example.com"), |_, _| panic!("asked"));
    assert!(matches!(answer, Err(DnsFailure::Temporary(why)) if why.contains("no DNS server")));
}

/// RFC 6891 §7: an old server rejects what it does not know; it is asked again without.
#[test]
fn a_server_without_edns_is_asked_without() {
    for (code, with_question) in [
        (ResponseCode::FormErr, true),
        (ResponseCode::FormErr, false),
        (ResponseCode::NotImp, true),
    ] {
        let mut world = World::new();
        let answer = world.run(Query::mx("example.com"), |asked, message| {
            if asked.message.edns.is_none() {
                return serve(&sample())(asked, message);
            }
            let mut reply =
                Message::response(asked.message.metadata.id, asked.message.metadata.op_code);
            reply.metadata.response_code = code;
            if with_question {
                reply.add_queries(asked.message.queries.clone());
            }
            vec![Reply::Bytes(reply.to_vec().unwrap())]
        });
        assert!(answer.is_ok());
        assert_eq!(world.asked.len(), 2);
        assert_eq!(
            world.asked[0].message.edns.as_ref().unwrap().max_payload(),
            1232
        );
    }
}

#[test]
fn a_server_that_only_refers_is_no_resolver() {
    let mut world = World::new();
    let answer = world.run(Query::mx("example.com"), |asked, _| {
        let mut reply = asked.message.clone().into_response();
        reply.add_authority(super::forged::ns("com", "a.gtld-servers.net"));
        vec![Reply::Bytes(reply.to_vec().unwrap())]
    });
    assert!(
        matches!(answer, Err(DnsFailure::Temporary(why)) if why.contains("refers to other servers"))
    );
    assert_eq!(world.asked.len(), 2);
}
