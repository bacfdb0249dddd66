//! What DANE needs to know: TLSA records as they are, aliases, and what of an answer is signed.

use super::*;
use crate::dns::{DnsFailure, Tlsa};

const HOST: &str = "mx.example.net";

fn signed() -> World {
    World::with(true, IpFamilies::Both)
}

fn tlsa(rdata: &[u8]) -> Tlsa {
    Tlsa::from_rdata(rdata).unwrap()
}

/// DANE-04: RDATA that is too short to be a record is one that cannot be used, and spoils no other.
#[test]
fn dane_04_short_tlsa_rdata_is_read() {
    let good = [3, 1, 1, 9, 9];
    for length in 0..4 {
        let short = &good[..length];
        let zone = Zone::new().authentic().tlsa(HOST, 25, short);
        let set = signed().zone(&zone, Query::tlsa(HOST, 25)).unwrap();
        assert!(set.authentic);
        assert_eq!(set.malformed, usize::from(length < 3), "{length}");
        assert_eq!(set.records.len(), usize::from(length == 3));
        let zone = zone.tlsa(HOST, 25, &good);
        let set = signed().zone(&zone, Query::tlsa(HOST, 25)).unwrap();
        assert_eq!(set.records.last(), Some(&tlsa(&good)));
    }
    assert_eq!(tlsa(&[3, 1, 1, 0x0d, 0xff]).to_string(), "3 1 1 0dff");
}

/// An answer of which not all is read is no denial, and no whole set of records.
#[test]
fn tlsa_records_that_are_too_many_or_too_large_are_no_answer() {
    let many = |count: u8, length: usize| {
        (0..count).fold(Zone::new().authentic(), |zone, n| {
            let rdata = [&[3, 1, 0, n][..], &vec![n; length]].concat();
            zone.tlsa(HOST, 25, &rdata)
        })
    };
    for (zone, fits) in [
        (many(20, 32), true),
        (many(21, 32), false),
        (many(1, 20_000), false),
        (many(5, 5000), false),
        (many(3, 5000), true),
    ] {
        let answer = signed().zone(&zone, Query::tlsa(HOST, 25));
        assert_eq!(answer.is_ok(), fits, "{answer:?}");
        assert!(fits || matches!(answer, Err(DnsFailure::Temporary(_))));
    }
}

/// A message that claims more answers than are looked at.
#[test]
fn a_denial_beyond_what_is_looked_at_is_not_believed() {
    let answer = signed().run(Query::tlsa(HOST, 25), |asked, _| {
        let mut reply = asked.message.clone().into_response();
        reply.metadata.authentic_data = true;
        let other = hickory_proto::rr::Record::from_rdata(
            asked.message.queries[0].name.clone(),
            60,
            hickory_proto::rr::RData::A("192.0.2.1".parse().unwrap()),
        );
        reply.add_answers(std::iter::repeat_n(other, 513));
        vec![Reply::Bytes(framed(
            asked.transport,
            reply.to_vec().unwrap(),
        ))]
    });
    assert!(
        matches!(answer, Err(DnsFailure::Temporary(_))),
        "{answer:?}"
    );
}

#[test]
fn an_answer_is_secure_only_if_each_step_is() {
    let zone = |insecure: &str| {
        Zone::new()
            .authentic()
            .cname(HOST, "a.example.org")
            .cname("a.example.org", "b.example.org")
            .address("b.example.org", "192.0.2.1".parse().unwrap())
            .insecure(insecure)
    };
    for (insecure, secure) in [
        ("none", true),
        (HOST, false),
        ("a.example.org", false),
        ("b.example.org", false),
    ] {
        let found = signed()
            .zone(&zone(insecure), Query::addresses(HOST))
            .unwrap();
        assert_eq!(found.authentic, secure, "{insecure}");
        assert_eq!(found.canonical.as_deref(), Some("b.example.org"));
        // The first step alone.
        let alias = signed().zone(&zone(insecure), Query::alias(HOST)).unwrap();
        assert_eq!(alias.target, "a.example.org");
        assert_eq!(alias.authentic, insecure != HOST);
    }
    let none = signed().zone(&zone("none"), Query::alias("b.example.org"));
    assert_eq!(none, Err(DnsFailure::NoRecord));
    let none = signed().zone(&zone("none"), Query::alias("nowhere.example"));
    assert_eq!(none, Err(DnsFailure::NoSuchDomain));
}

/// Several answers on the way of one question: one that is not signed is enough.
#[test]
fn a_chain_in_several_answers_is_secure_only_if_each_answer_is() {
    for unsigned in [None, Some(0), Some(1)] {
        let mut count = 0;
        let zone = Zone::new()
            .authentic()
            .address("b.example.org", "192.0.2.1".parse().unwrap());
        let found = World::with(true, IpFamilies::Ipv4)
            .run(Query::addresses(HOST), |asked, message| {
                let mut reply = if count == 0 {
                    let mut reply = asked.message.clone().into_response();
                    let target = hickory_proto::rr::Name::from_ascii("b.example.org.").unwrap();
                    let alias = hickory_proto::rr::rdata::CNAME(target);
                    reply.add_answer(hickory_proto::rr::Record::from_rdata(
                        asked.message.queries[0].name.clone(),
                        60,
                        hickory_proto::rr::RData::CNAME(alias),
                    ));
                    reply
                } else {
                    Message::from_vec(&zone.answer(message, asked.transport).unwrap()).unwrap()
                };
                reply.metadata.authentic_data = unsigned != Some(count);
                count += 1;
                vec![Reply::Bytes(reply.to_vec().unwrap())]
            })
            .unwrap();
        assert_eq!(count, 2);
        assert_eq!(found.authentic, unsigned.is_none());
    }
}

/// RFC 7672 §2.2.1, §2.2.2: the denial of MX records is what makes a domain its own host.
#[test]
fn a_host_of_its_own_is_as_certain_as_the_denial() {
    for secure in [false, true] {
        let mut zone = Zone::new()
            .authentic()
            .address("a.example", "192.0.2.1".parse().unwrap());
        if !secure {
            zone = zone.insecure("a.example");
        }
        let set = signed().zone(&zone, Query::mx("a.example")).unwrap();
        assert_eq!((set.implicit, set.authentic), (true, secure));
        let mut untrusted = World::new();
        assert!(
            !untrusted
                .zone(&zone, Query::mx("a.example"))
                .unwrap()
                .authentic
        );
    }
}

#[test]
fn tlsa_answers_tell_denial_from_failure() {
    use crate::dns::zone::Failure;
    let name = "_25._tcp.mx.example.net";
    for (zone, expected) in [
        (Zone::new().authentic(), Some(DnsFailure::NoSuchDomain)),
        (
            Zone::new().authentic().empty(name),
            Some(DnsFailure::NoRecord),
        ),
        (Zone::new().failing(name, Failure::ServerFailure), None),
        (Zone::new().failing(name, Failure::Refused), None),
        (Zone::new().failing(name, Failure::Silence), None),
    ] {
        let failure = signed().zone(&zone, Query::tlsa(HOST, 25)).unwrap_err();
        match expected {
            Some(expected) => assert_eq!(failure, expected),
            None => assert!(matches!(failure, DnsFailure::Temporary(_)), "{failure:?}"),
        }
    }
    // Its own alias may lead elsewhere; an unsigned step makes it say nothing.
    let zone = Zone::new()
        .authentic()
        .cname(name, "_dane.example.org")
        .tlsa("example.org", 1, &[3, 1, 1, 1])
        .cname("_dane.example.org", "_1._tcp.example.org");
    let set = signed().zone(&zone, Query::tlsa(HOST, 25)).unwrap();
    assert!(set.authentic && set.records == [tlsa(&[3, 1, 1, 1])]);
    let zone = zone.insecure("_dane.example.org");
    assert!(
        !signed()
            .zone(&zone, Query::tlsa(HOST, 25))
            .unwrap()
            .authentic
    );
}

/// Whatever is changed in an answer with TLSA records, the lookup ends and nothing panics.
#[test]
fn damaged_tlsa_answers_end_the_lookup() {
    let zone = Zone::new()
        .authentic()
        .tlsa(HOST, 25, &[3, 1, 1, 7, 7, 7, 7])
        .tlsa(HOST, 25, &[])
        .tlsa(HOST, 25, &[2]);
    let mut length = 0;
    for at in 0..400 {
        for other in [None, Some(0), Some(1), Some(0x3f), Some(0xc0), Some(0xff)] {
            let mut world = signed();
            let answer = world.run(Query::tlsa(HOST, 25), |asked, message| {
                let mut bytes = zone.answer(message, asked.transport).unwrap();
                length = bytes.len();
                match (other, bytes.get_mut(at)) {
                    (Some(other), Some(byte)) => *byte = other,
                    (None, _) => bytes.truncate(at),
                    (Some(_), None) => {}
                }
                vec![Reply::Bytes(bytes)]
            });
            if let Ok(set) = answer {
                assert!(set.records.len() + set.malformed <= 3);
            }
        }
    }
    assert!(length < 400, "{length}");
}
