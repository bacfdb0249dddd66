//! Answers that are not the server's, and messages that are not messages.

use std::collections::BTreeSet;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{CNAME, MX, NS};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use proptest::prelude::*;

use super::*;
use crate::dns::DnsFailure;

fn name(text: &str) -> Name {
    Name::from_ascii(format!("{}.", text.trim_end_matches('.'))).unwrap()
}

pub(super) fn cname(owner: &str, target: &str) -> Record {
    Record::from_rdata(name(owner), 60, RData::CNAME(CNAME(name(target))))
}

pub(super) fn ns(owner: &str, target: &str) -> Record {
    Record::from_rdata(name(owner), 60, RData::NS(NS(name(target))))
}

/// An answer to what was asked, naming the forger's host.
fn forged(asked: &Asked) -> Message {
    let mut message = asked.message.clone().into_response();
    message.metadata.recursion_available = true;
    let owner = asked.message.queries[0].name.clone();
    message.add_answer(Record::from_rdata(
        owner,
        60,
        RData::MX(MX::new(0, name("evil.example"))),
    ));
    message
}

fn truth() -> Zone {
    Zone::new().mx("example.com", 10, "mx.example.com")
}

fn hosts(answer: Result<crate::dns::MxSet, DnsFailure>) -> Vec<String> {
    answer
        .unwrap()
        .hosts
        .into_iter()
        .map(|mx| mx.host)
        .collect()
}

fn bytes(message: &Message) -> Vec<u8> {
    message.to_vec().unwrap()
}

#[test]
fn dns_01_what_does_not_match_is_ignored() {
    let mut world = World::new();
    let answer = world.run(Query::mx("example.com"), |asked, message| {
        // They are seven: more would move the question to TCP.
        let mut wrong_id = forged(asked);
        wrong_id.metadata.id ^= 1;
        let mut wrong_name = forged(asked);
        wrong_name.queries[0].name = name("example.org");
        let mut wrong_kind = forged(asked);
        wrong_kind.queries[0].query_type = RecordType::A;
        let mut no_question = forged(asked);
        no_question.queries.clear();
        let mut a_query = forged(asked);
        a_query.metadata.message_type = hickory_proto::op::MessageType::Query;
        let right = bytes(&forged(asked));
        let mut replies = vec![
            Reply::From("198.51.100.1:53", right.clone()),
            Reply::From("192.0.2.53:54", right),
        ];
        let wrong = [wrong_id, wrong_name, wrong_kind, no_question, a_query];
        replies.extend(wrong.iter().map(|message| Reply::Bytes(bytes(message))));
        replies.extend(serve(&truth())(asked, message));
        replies
    });
    assert_eq!(hosts(answer), ["mx.example.com"]);
    assert_eq!(world.asked.len(), 1);
}

/// All ids are guessed, by somebody who knows port and question but not the case of its letters; then
/// by somebody who knows that too: after a few misses the question goes where guessing does not help.
#[test]
fn dns_02_a_flood_of_guesses_moves_the_question_to_tcp() {
    for knows_case in [false, true] {
        let mut world = World::new();
        let answer = world.run(Query::mx("example.com"), |asked, message| {
            if asked.transport == Transport::Tcp {
                return serve(&truth())(asked, message);
            }
            let mut guess = forged(asked);
            if !knows_case {
                guess.queries[0].name = name("example.com");
            }
            // The guesser does not know where the right one is; it is not among the first here.
            let first = asked.message.metadata.id.wrapping_add(1);
            (0..=u16::MAX)
                .map(|n| {
                    guess.metadata.id = first.wrapping_add(n);
                    Reply::Bytes(bytes(&guess))
                })
                .collect()
        });
        assert_eq!(hosts(answer), ["mx.example.com"]);
        let transports: Vec<_> = world.asked.iter().map(|asked| asked.transport).collect();
        assert_eq!(transports, [Transport::Udp, Transport::Tcp]);
    }
}

#[test]
fn dns_02_ids_and_letters_are_random() {
    let mut world = World::new();
    let mut ids = BTreeSet::new();
    let mut spellings = BTreeSet::new();
    let mut bits = [0u32; 16];
    for _ in 0..1000 {
        world.resolver.cache.clear();
        let _ = world.zone(&truth(), Query::mx("example.com"));
    }
    assert_eq!(world.asked.len(), 1000);
    for asked in &world.asked {
        ids.insert(asked.message.metadata.id);
        spellings.insert(asked.message.queries[0].name.to_ascii());
        for (bit, count) in bits.iter_mut().enumerate() {
            *count += u32::from(asked.message.metadata.id >> bit & 1);
        }
    }
    assert!(ids.len() > 970, "{}", ids.len());
    assert!(spellings.len() > 400, "{}", spellings.len());
    assert!(
        bits.iter().all(|count| (400..600).contains(count)),
        "{bits:?}"
    );
}

/// The right id is guessed at the first try, the case of the letters is not.
#[test]
fn dns_02_a_guessed_id_is_not_enough() {
    let mut world = World::new();
    let answer = world.run(Query::mx("example.com"), |asked, message| {
        if asked.transport == Transport::Tcp {
            return serve(&truth())(asked, message);
        }
        let mut guess = forged(asked);
        assert_ne!(guess.queries[0].name.to_ascii(), "example.com.");
        guess.queries[0].name = name("example.com");
        vec![Reply::Bytes(bytes(&guess))]
    });
    assert_eq!(hosts(answer), ["mx.example.com"]);
    assert_eq!(world.asked.len(), 2);
}

/// A server that answers in lower case is heard, over TCP.
#[test]
fn a_server_that_folds_case_still_serves() {
    let mut world = World::new();
    let answer = world.run(Query::mx("example.com"), |asked, _| {
        let mut folded = asked.message.clone();
        folded.queries[0].name = name("example.com");
        let folded = framed(asked.transport, bytes(&folded));
        vec![Reply::Bytes(
            truth().answer(&folded, asked.transport).unwrap(),
        )]
    });
    assert_eq!(hosts(answer), ["mx.example.com"]);
    assert_eq!(world.asked.len(), 2);
}

/// A response with one answer record whose owner or target is `raw`.
fn crafted(asked: &Asked, raw: &[u8], as_target: bool) -> Vec<u8> {
    let mut reply = asked.message.clone().into_response();
    reply.edns = None;
    let mut message = bytes(&reply);
    message[6..8].copy_from_slice(&[0, 1]);
    let target = if as_target { raw } else { &[0] };
    message.extend_from_slice(if as_target { &[0xc0, 12] } else { raw });
    message.extend_from_slice(&[0, 15, 0, 1, 0, 0, 0, 60]);
    message.extend_from_slice(&u16::try_from(target.len() + 2).unwrap().to_be_bytes());
    message.extend_from_slice(&[0, 10]);
    message.extend_from_slice(target);
    message
}

#[test]
fn dns_03_names_that_never_end_are_malformed() {
    // The answer section begins after the header and the question, and its target 14 octets later.
    let start = 12 + "example.com".len() as u8 + 2 + 4;
    for (as_target, at) in [(false, start), (true, start + 14)] {
        let long_label = [vec![64u8], vec![b'a'; 64], vec![0]].concat();
        let long_name = [vec![63u8], vec![b'a'; 63]].concat().repeat(4);
        let cases: [(&str, Vec<u8>); 7] = [
            ("to itself", vec![0xc0, at]),
            ("forward", vec![0xc0, at + 3, 0, 0]),
            ("two that point at each other", vec![0xc0, at + 2, 0xc0, at]),
            ("past the end", vec![0xff, 0xff]),
            ("label of 64", long_label),
            ("name of 256", [long_name, vec![0]].concat()),
            (
                "128 nested",
                (0..128u8)
                    .flat_map(|n| [0xc0, at.wrapping_add(n.wrapping_mul(2)).wrapping_add(2)])
                    .collect(),
            ),
        ];
        for (case, raw) in cases {
            let mut world = World::new();
            let answer = world.run(Query::mx("example.com"), |asked, _| {
                vec![Reply::Bytes(crafted(asked, &raw, as_target))]
            });
            assert!(
                matches!(answer, Err(DnsFailure::Temporary(_))),
                "{case}: {answer:?}"
            );
            assert_eq!(world.asked.len(), 2, "{case}");
        }
    }
}

/// The longest chain of pointers that hickory follows, in the largest message, is still cheap.
#[test]
fn dns_03_a_message_of_pointers_is_bounded() {
    let mut world = World::new();
    let answer = world.run(Query::mx("example.com"), |asked, message| {
        if asked.transport == Transport::Udp {
            let mut reply = asked.message.clone().into_response();
            reply.metadata.truncation = true;
            return vec![Reply::Bytes(bytes(&reply))];
        }
        let mut reply = message[2..].to_vec();
        reply[2] |= 0x80;
        reply[6..12].copy_from_slice(&[0xff, 0xff, 0, 0, 0, 0]);
        reply.truncate(12 + 13 + 4);
        // One TXT record full of pointers, each to the one before; then records that begin at the last.
        let begin = reply.len() + 11;
        reply.extend_from_slice(&[0, 0, 16, 0, 1, 0, 0, 0, 60, 0x3e, 0x00]);
        let mut at = begin;
        reply.extend_from_slice(&[1, 0]);
        while at + 2 < begin + 0x3e00 {
            let to = if at == begin { begin + 1 } else { at };
            reply.extend_from_slice(&(0xc000 | to as u16).to_be_bytes());
            at += 2;
        }
        let last = reply.len() as u16 - 2;
        while reply.len() + 12 < 65_535 {
            reply.extend_from_slice(&(0xc000 | last).to_be_bytes());
            reply.extend_from_slice(&[0, 1, 0, 1, 0, 0, 0, 60, 0, 0]);
        }
        vec![Reply::Bytes(framed(Transport::Tcp, reply))]
    });
    assert!(answer.is_err() || answer.is_ok_and(|set| set.implicit));
}

#[test]
fn dns_04_truncation_goes_to_tcp() {
    let right = |asked: &Asked| {
        let query = framed(Transport::Tcp, bytes(&asked.message));
        truth().answer(&query, Transport::Tcp).unwrap()
    };
    type Server = Box<dyn Fn(&Asked) -> Vec<Reply>>;
    let eof = || Reply::Failed(std::io::ErrorKind::UnexpectedEof);
    let cases: Vec<(&str, bool, Server)> = vec![
        (
            "whole",
            true,
            Box::new(move |asked| vec![Reply::Bytes(right(asked))]),
        ),
        (
            "a byte a packet",
            true,
            Box::new(move |asked| {
                right(asked)
                    .into_iter()
                    .map(|b| Reply::Bytes(vec![b]))
                    .collect()
            }),
        ),
        (
            "length 0",
            false,
            Box::new(|_| vec![Reply::Bytes(vec![0, 0])]),
        ),
        (
            "length 1",
            false,
            Box::new(|_| vec![Reply::Bytes(vec![0, 1, 7])]),
        ),
        (
            "length 65535 and nothing in it",
            false,
            Box::new(move |_| vec![Reply::Bytes([&[0xff, 0xff][..], &[0; 80_000]].concat())]),
        ),
        (
            "shorter than it says",
            false,
            Box::new(move |asked| {
                let mut message = right(asked);
                message.pop();
                vec![Reply::Bytes(message), eof()]
            }),
        ),
        (
            "cut off again",
            false,
            Box::new(|asked| {
                let mut reply = asked.message.clone().into_response();
                reply.metadata.truncation = true;
                vec![Reply::Bytes(framed(Transport::Tcp, bytes(&reply)))]
            }),
        ),
        ("closed", false, Box::new(move |_| vec![eof()])),
    ];
    for (case, good, tcp) in cases {
        let mut world = World::new();
        let answer = world.run(Query::mx("example.com"), |asked, _| {
            if asked.transport == Transport::Tcp {
                return tcp(asked);
            }
            let mut reply = asked.message.clone().into_response();
            reply.metadata.truncation = true;
            vec![Reply::Bytes(bytes(&reply))]
        });
        match answer {
            Ok(_) => assert!(good, "{case}"),
            Err(DnsFailure::Temporary(_)) => assert!(!good, "{case}"),
            Err(other) => panic!("{case}: {other:?}"),
        }
    }
}

/// One byte a second, for ever: the deadline is that of the exchange, not of the last byte.
#[test]
fn dns_04_a_slow_stream_does_not_stretch_the_lookup() {
    let mut world = World::new();
    let mut lookup = world.resolver.begin(world.now(), Query::mx("example.com"));
    let begun = world.now;
    let server = SERVERS[0].parse().unwrap();
    loop {
        let tcp = match lookup.poll() {
            Step::Exchange {
                transport: Transport::Udp,
                server,
                message,
                ..
            } => {
                let mut reply = Message::from_vec(&message).unwrap().into_response();
                reply.metadata.truncation = true;
                lookup.handle(
                    world.now(),
                    Event::Received {
                        from: server,
                        bytes: &bytes(&reply),
                    },
                );
                continue;
            }
            Step::Exchange { server, .. } => server,
            Step::Listen { .. } => server,
            Step::Done => break,
        };
        world.now += Duration::from_secs(1);
        lookup.handle(
            world.now(),
            Event::Received {
                from: tcp,
                bytes: &[0x7f],
            },
        );
    }
    assert!(world.now - begun <= crate::dns::LOOKUP_MAX);
    assert!(world.resolver.finish(world.now(), lookup).is_err());
}

proptest! {
    /// Whatever comes, nothing panics, every lookup ends in time, and no answer is taken but one with the
    /// right id and question.
    #[test]
    fn noise_is_never_an_answer(replies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 1..8)) {
        let mut world = World::new();
        let answer = world.run(Query::mx("example.com"), |_, _| replies.iter().cloned().map(Reply::Bytes).collect());
        prop_assert!(matches!(answer, Err(DnsFailure::Temporary(_))));
    }

    /// A true answer with some octets changed is an answer, a failure, or nothing; never a panic.
    #[test]
    fn damaged_answers_are_survived(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        keep in any::<prop::sample::Index>(),
    ) {
        let mut world = World::new();
        let _ = world.run(Query::mx("example.com"), |asked, message| {
            let Some(mut answer) = truth().answer(message, asked.transport) else { return vec![] };
            for (at, mask) in &flips {
                let at = at.index(answer.len());
                answer[at] ^= mask;
            }
            answer.truncate(12 + keep.index(answer.len()));
            vec![Reply::Bytes(answer)]
        });
    }

    /// The zone answers anything without a panic, and only what is a query.
    #[test]
    fn the_zone_survives_noise(message in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Some(answer) = truth().answer(&message, Transport::Udp) {
            prop_assert_eq!(&answer[..2], &message[..2]);
            prop_assert!(Message::from_vec(&answer).is_ok());
        }
    }

    /// Every rejection moves on, and the whole ends in time.
    #[test]
    fn every_response_code_ends(code in 1u8..16) {
        let mut world = World::new();
        let answer = world.run(Query::mx("example.com"), |asked, _| {
            let mut reply = asked.message.clone().into_response();
            reply.metadata.response_code = ResponseCode::from_low(code);
            vec![Reply::Bytes(framed(asked.transport, bytes(&reply)))]
        });
        prop_assert!(answer.is_err());
    }
}
