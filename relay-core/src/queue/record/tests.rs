//! What is written reads back; what is damaged in any way does not.

use std::net::IpAddr;

use bytes::Bytes;
use proptest::prelude::*;
use smtp_proto::{AuthParam, ByMode, EnvId, Mailbox, Notify, Orcpt, Priority, Ret, ReversePath};

use super::*;
use crate::id::MessageId;
use crate::queue::handling::{Deadline, Handling, TlsWish};
use crate::queue::message::{Body, BodyKind, Envelope, Message, Origin, Recipient};
use crate::queue::store::Place;

const SEED: u64 = 0x0123_4567_89ab_cdef;

fn stamp() -> impl Strategy<Value = Stamp> {
    let moved = proptest::option::of((1..u32::MAX, any::<u32>()));
    (any::<u32>(), any::<u64>(), any::<u32>(), moved).prop_map(
        |(generation, salt, batch, moved)| {
            let moved_from = moved.map(|(segment, offset)| Place { segment, offset });
            Stamp {
                generation,
                salt,
                batch,
                moved_from,
            }
        },
    )
}

fn mailbox() -> impl Strategy<Value = Mailbox> {
    "[a-z]{1,20}(\\.[a-zé]{1,10})?@([a-z]{1,10}\\.){1,3}[a-z]{2,5}"
        .prop_filter_map("a mailbox", |text| Mailbox::parse_utf8(&text).ok())
}

fn recipient() -> impl Strategy<Value = Recipient> {
    let notify = prop_oneof![Just("NEVER"), Just("SUCCESS,FAILURE"), Just("DELAY")];
    let notify = proptest::option::of(notify.prop_filter_map("NOTIFY", Notify::parse));
    let orcpt = "rfc822;[a-z]{1,20}\\+2B@example\\.com";
    let orcpt = proptest::option::of(orcpt.prop_filter_map("ORCPT", |text| Orcpt::parse(&text)));
    (mailbox(), notify, orcpt).prop_map(|(to, notify, orcpt)| Recipient { to, notify, orcpt })
}

fn envelope() -> impl Strategy<Value = Envelope> {
    let from = proptest::option::of(mailbox())
        .prop_map(|from| from.map_or(ReversePath::Null, ReversePath::Mailbox));
    let ret = proptest::option::of(prop_oneof![Just(Ret::Full), Just(Ret::Headers)]);
    let envid = proptest::option::of("[ -~]{1,100}".prop_filter_map("ENVID", |t| EnvId::new(&t)));
    let body = prop_oneof![
        Just(BodyKind::SevenBit),
        Just(BodyKind::EightBit),
        Just(BodyKind::Binary)
    ];
    let recipients = proptest::collection::vec(recipient(), 0..5);
    (from, ret, envid, body, any::<bool>(), recipients).prop_map(
        |(from, ret, envid, body, smtputf8, recipients)| Envelope {
            from,
            ret,
            envid,
            body,
            smtputf8,
            handling: Handling::default(),
            recipients,
        },
    )
}

fn handling() -> impl Strategy<Value = Handling> {
    let tls = prop_oneof![
        Just(TlsWish::AsConfigured),
        Just(TlsWish::Required),
        Just(TlsWish::NotRequired)
    ];
    let mode = prop_oneof![Just(ByMode::Notify), Just(ByMode::Return)];
    let deadline = (any::<u64>(), mode, any::<bool>()).prop_map(|(at, mode, trace)| Deadline {
        at: UnixTime::from_millis(at),
        mode,
        trace,
    });
    let submitter = prop_oneof![
        Just(AuthParam::Unknown),
        mailbox().prop_map(AuthParam::Mailbox)
    ];
    (
        tls,
        proptest::option::of((1..u64::MAX).prop_map(UnixTime::from_millis)),
        proptest::option::of(deadline),
        proptest::option::of((-9..=9i8).prop_filter_map("-9 to 9", Priority::new)),
        proptest::option::of(submitter),
        proptest::option::of(Just("bounces.example.com".parse().unwrap())),
    )
        .prop_map(
            |(tls, release, deadline, priority, submitter, return_path)| Handling {
                tls,
                release,
                deadline,
                priority,
                submitter,
                return_path,
            },
        )
}

fn message() -> impl Strategy<Value = Message> {
    let origin = (
        proptest::option::of(".{0,20}"),
        proptest::option::of(any::<IpAddr>()),
    );
    let numbers = (any::<u64>(), any::<u64>(), 40..=u64::MAX, any::<u32>());
    let prefix = proptest::collection::vec(any::<u8>(), 0..40);
    let handling = prop_oneof![Just(Handling::default()), handling()];
    let envelope = (envelope(), handling).prop_map(|(envelope, handling)| Envelope {
        handling,
        ..envelope
    });
    (numbers, origin, envelope, prefix).prop_map(
        |((id, accepted, size, header_size), origin, envelope, prefix)| Message {
            id: MessageId::from_u64(id),
            accepted: UnixTime::from_millis(accepted),
            origin: Origin {
                credential: origin.0,
                peer: origin.1,
            },
            envelope,
            prefix: prefix.into(),
            size,
            header_size,
        },
    )
}

fn body() -> impl Strategy<Value = Body> {
    let memory = proptest::collection::vec(any::<u8>(), 0..300);
    prop_oneof![
        Just(Body::Spooled),
        memory.prop_map(|bytes| Body::Memory(bytes.into()))
    ]
}

fn deferred() -> impl Strategy<Value = DeferredState> {
    let numbers = (
        proptest::collection::vec(any::<u32>(), 0..5),
        any::<u32>(),
        any::<u64>(),
    );
    (numbers, any::<bool>(), any::<(bool, bool)>(), ".{0,80}").prop_map(
        |((recipients, attempts, next), delay_reported, (in_doubt, held), reason)| DeferredState {
            recipients,
            attempts,
            next: UnixTime::from_millis(next),
            delay_reported,
            in_doubt,
            held,
            reason,
        },
    )
}

fn progress() -> impl Strategy<Value = Progress> {
    let indexes = proptest::collection::vec(any::<u32>(), 0..5);
    let state = (
        indexes.clone(),
        any::<bool>(),
        proptest::collection::vec(deferred(), 0..4),
    );
    prop_oneof![
        indexes.prop_map(|recipients| Progress::Settled { recipients }),
        deferred().prop_map(Progress::Deferred),
        any::<bool>().prop_map(Progress::Held),
        state.prop_map(|(settled, held, deferred)| {
            Progress::State(State {
                settled,
                held,
                deferred,
            })
        }),
    ]
}

fn note() -> impl Strategy<Value = Note> {
    let place =
        (any::<u32>(), any::<u32>()).prop_map(|(segment, offset)| Place { segment, offset });
    prop_oneof![
        (any::<u64>(), progress()).prop_map(|(id, progress)| Note::Progress {
            message: MessageId::from_u64(id),
            progress
        }),
        place.clone().prop_map(|place| Note::Void { place }),
        any::<u32>().prop_map(|segment| Note::Opened { segment }),
        any::<u32>().prop_map(|segment| Note::Emptied { segment }),
        place.prop_map(|end| Note::Synced { end }),
    ]
}

/// Every prefix, and every single flipped bit.
fn damaged(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    let cut = (0..bytes.len()).map(|end| bytes[..end].to_vec());
    let flipped = (0..bytes.len() * 8).map(|bit| {
        let mut copy = bytes.to_vec();
        copy[bit / 8] ^= 1 << (bit % 8);
        copy
    });
    cut.chain(flipped)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_record_reads_back_and_its_damage_is_found(
        stamp in stamp(), message in message(), body in body()
    ) {
        let mut bytes = Vec::new();
        encode(&mut bytes, stamp, &message, &body);
        let (header, read, read_body) = decode(&Bytes::from(bytes.clone())).unwrap();
        prop_assert_eq!(header.stamp, stamp);
        prop_assert_eq!(header.record_len(), bytes.len());
        prop_assert_eq!(read, message);
        prop_assert_eq!(read_body, body);
        for copy in damaged(&bytes) {
            prop_assert!(decode(&Bytes::from(copy)).is_err());
        }
    }

    #[test]
    fn a_copy_differs_in_its_stamp_only(
        first in stamp(), second in stamp(), message in message(), body in body()
    ) {
        let (mut bytes, mut copy) = (Vec::new(), Vec::new());
        encode(&mut bytes, first, &message, &body);
        restamp(&mut copy, second, &bytes).unwrap();
        let (header, read, read_body) = decode(&Bytes::from(copy)).unwrap();
        prop_assert_eq!((header.stamp, read, read_body), (second, message, body));
    }

    #[test]
    fn a_note_reads_back_and_its_damage_is_found(note in note()) {
        let mut bytes = Vec::new();
        note.encode(&mut bytes, SEED);
        prop_assert_eq!(bytes.len() % NOTE_ALIGN, 0);
        prop_assert_eq!(Note::decode(&bytes, SEED), Ok((note.clone(), bytes.len())));
        prop_assert!(Note::decode(&bytes, SEED ^ 1).is_err());
        // The zeros behind a frame belong to nobody.
        let len = 8 + u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
        for copy in damaged(&bytes[..len]) {
            prop_assert!(Note::decode(&copy, SEED).is_err());
        }
    }

    #[test]
    fn arbitrary_octets_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode(&Bytes::from(bytes.clone()));
        let _ = Note::decode(&bytes, SEED);
        let _ = FileHeader::decode(&bytes);
        // The content behind a checksum that somebody else computed.
        let mut framed = Vec::new();
        Note::Opened { segment: 0 }.encode(&mut framed, SEED);
        framed.truncate(8);
        framed.extend_from_slice(&bytes);
        let _ = Note::decode(&framed, SEED);
    }
}

#[test]
fn a_file_header_reads_back_and_its_damage_is_found() {
    for kind in [FileKind::Identity, FileKind::Segment, FileKind::Progress] {
        let header = FileHeader {
            kind,
            number: 7,
            salt: SEED,
        };
        let bytes = header.encode();
        assert_eq!(FileHeader::decode(&bytes), Ok(header));
        for copy in damaged(&bytes) {
            assert!(FileHeader::decode(&copy).is_err());
        }
    }
}

/// A message that asks for nothing is written as relays wrote it that knew no [`Handling`]; one that
/// does is not read by those.
#[test]
fn the_version_of_a_record_says_whether_it_has_handling() {
    let version_at = HEADER_LEN - 4 - 10 - 2;
    proptest!(|(mut message in message(), asked in handling())| {
        let stamp = Stamp { generation: 1, salt: 2, batch: 0, moved_from: None };
        let mut record = Vec::new();
        message.envelope.handling = Handling::default();
        encode(&mut record, stamp, &message, &Body::Spooled);
        prop_assert_eq!(record[version_at], VERSION);
        prop_assume!(asked != Handling::default());
        let version = match asked.return_path {
            Some(_) => VERSION_RETURN_PATH,
            None => VERSION_HANDLING,
        };
        message.envelope.handling = asked;
        record.clear();
        encode(&mut record, stamp, &message, &Body::Spooled);
        prop_assert_eq!(record[version_at], version);
        let mut copy = Vec::new();
        prop_assert_eq!(restamp(&mut copy, stamp, &record), Ok(()));
        prop_assert_eq!(&copy, &record);
    });
}
