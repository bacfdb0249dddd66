//! Checks of `relay-core`.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use relay_core::config::{Config, DnsConfig, IpFamilies, System};
use relay_core::dns::{Event, Query, Resolver, Step, Transport, zone::Zone};
use relay_core::id::MessageId;
use relay_core::inbound::body::HeaderFilter;
use relay_core::inbound::proxy::{self, Parsed};
use relay_core::queue::handling::{Handling, TlsWish};
use relay_core::queue::message::{Body, BodyKind, Envelope, Message, Origin};
use relay_core::queue::record::{self, HEADER_LEN, Note, Stamp};
use relay_core::rng::Rng;
use relay_core::time::{Instant, Now, UnixTime};
use smtp_proto::ReversePath;

/// Text of a `relay.toml`: it is a configuration, or every error names a line that is there.
pub fn config_text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let lines = text.lines().count() + 1;
    if let Err(errors) = Config::parse(text, "relay.toml", &System::default()) {
        assert!(!errors.is_empty());
        for error in errors {
            assert!(
                error.line.is_none_or(|line| (1..=lines).contains(&line)),
                "{error}"
            );
            assert!(!error.problem.is_empty());
        }
    }
}

/// What is done to a name server's answer: octets changed, and the rest appended. The lookup ends in
/// time, whatever comes.
pub fn dns_answer(data: &[u8]) {
    let server = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53);
    let config = DnsConfig {
        servers: vec![server],
        trust_ad: false,
    };
    let mut resolver = Resolver::new(&config, IpFamilies::Both, Rng::from_number(7));
    let zone = Zone::new()
        .mx("example.com", 10, "mx.example.com")
        .cname("www.example.com", "mx.example.com")
        .address("mx.example.com", Ipv4Addr::new(192, 0, 2, 1).into());
    let mut now = Now {
        instant: Instant::default(),
        unix: UnixTime::from_secs(1_700_000_000),
    };
    let mut lookup = resolver.begin(now, Query::mx("example.com"));
    let mut edits = data;
    let mut answer = Vec::new();
    for step in 0.. {
        assert!(step < 200, "a lookup that does not end");
        match lookup.poll() {
            Step::Exchange {
                transport, message, ..
            } => {
                answer = zone.answer(&message, transport).unwrap_or_default();
                let framed = usize::from(transport == Transport::Tcp) * 2;
                // The id and the question stay, so that what is behind them is read.
                if let [at, octet, rest @ ..] = edits {
                    let at = framed + 2 + usize::from(*at);
                    match answer.get_mut(at) {
                        Some(byte) => *byte = *octet,
                        None => answer.extend_from_slice(rest),
                    }
                    edits = rest;
                }
            }
            Step::Listen { .. } => answer.clear(),
            Step::Done => break,
        }
        now.instant = now.instant + Duration::from_millis(500);
        if answer.is_empty() {
            lookup.handle(now, Event::Timeout);
        } else {
            lookup.handle(
                now,
                Event::Received {
                    from: server,
                    bytes: &answer,
                },
            );
        }
    }
    let _ = resolver.finish(now, lookup);
}

/// Content of a message; the first byte says how it is cut. Cut or whole, the filter keeps the same.
pub fn content(data: &[u8]) {
    let Some((&cut, bytes)) = data.split_first() else {
        return;
    };
    let filtered = |len: usize| {
        let mut filter = HeaderFilter::new();
        let mut body = Vec::new();
        for piece in bytes.chunks(len) {
            body.extend_from_slice(filter.push(piece));
        }
        filter.finish();
        let kind = filter.kind();
        let headers = filter.headers().expect("the content is over");
        let facts = (
            headers.kept().to_vec(),
            headers.received(),
            headers.has_date(),
        );
        (
            facts,
            headers.has_message_id(),
            headers.refusal(),
            kind,
            body,
        )
    };
    let whole = filtered(bytes.len().max(1));
    assert_eq!(filtered(1 + usize::from(cut)), whole);
    let kept = String::from_utf8_lossy(&whole.0.0).to_ascii_lowercase();
    assert!(
        !kept.starts_with("bcc:") && !kept.contains("\r\nbcc:"),
        "{kept}"
    );
}

/// A payload under true checksums, as a note and as a message record: what is read is written so that
/// it reads the same again.
pub fn store_record(data: &[u8]) {
    let salt: u64 = 7;
    if let Ok((note, _)) = Note::decode(&note_frame(data, salt), salt) {
        let mut again = Vec::new();
        note.encode(&mut again, salt);
        assert_eq!(
            Note::decode(&again, salt).expect("it was just written").0,
            note
        );
    }
    let handled = Handling {
        tls: TlsWish::Required,
        ..Handling::default()
    };
    let returned = Handling {
        return_path: "bounces.example.com".parse().ok(),
        ..Handling::default()
    };
    // The versions of a record.
    for handling in [Handling::default(), handled, returned] {
        let Ok((header, message, body)) = record::decode(&message_record(data, handling)) else {
            continue;
        };
        let mut again = Vec::new();
        record::encode(&mut again, header.stamp, &message, &body);
        let (_, message_again, body_again) =
            record::decode(&again.into()).expect("it was just written");
        assert_eq!((message_again, body_again), (message, body));
    }
}

/// A note's frame: checksum, length, content.
fn note_frame(content: &[u8], salt: u64) -> Vec<u8> {
    let len = u32::try_from(content.len())
        .unwrap_or(u32::MAX)
        .to_le_bytes();
    let crc = crc32fast::hash(&[&salt.to_le_bytes(), &len[..], content].concat());
    [&crc.to_le_bytes(), &len[..], content].concat()
}

/// A message record whose envelope is `payload`, and whose body is empty: the header of another record
/// with its length and its checksums set. `handling` chooses the version.
fn message_record(payload: &[u8], handling: Handling) -> Bytes {
    let message = Message {
        id: MessageId::from_u64(1),
        accepted: UnixTime::default(),
        origin: Origin {
            credential: None,
            peer: None,
        },
        envelope: Envelope {
            from: ReversePath::Null,
            ret: None,
            envid: None,
            body: BodyKind::SevenBit,
            smtputf8: false,
            handling,
            recipients: Vec::new(),
        },
        prefix: Bytes::new(),
        size: 0,
        header_size: 0,
    };
    let stamp = Stamp {
        generation: 1,
        salt: 7,
        batch: 0,
        moved_from: None,
    };
    let mut record = Vec::new();
    record::encode(&mut record, stamp, &message, &Body::Memory(Bytes::new()));
    record.truncate(HEADER_LEN);
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    record[24..28].copy_from_slice(&len.to_le_bytes());
    record[44..48].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
    let crc = crc32fast::hash(&record[..HEADER_LEN - 4]);
    record[HEADER_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
    record.extend_from_slice(payload);
    record.into()
}

/// The first octets of a connection from a proxy. What they are is settled once and for all, at the
/// first octet that says so, and within a bound; and the client that is named is the one in the text.
pub fn proxy_header(data: &[u8]) {
    const MOST: usize = 16 + 2048;
    let mut settled = None;
    for len in 0..=data.len().min(MOST + 1) {
        let parsed = proxy::parse(&data[..len]);
        match settled {
            None if parsed == Parsed::Partial => assert!(len < MOST, "more is never enough"),
            None => settled = Some(parsed),
            Some(before) => assert_eq!(parsed, before, "at {len}"),
        }
    }
    let parsed = proxy::parse(data);
    assert_eq!(parsed, settled.unwrap_or(Parsed::Partial));
    let Parsed::Header { used, client } = parsed else {
        return;
    };
    let header = &data[..used];
    match (header.strip_prefix(b"PROXY "), client) {
        (Some(line), client) => {
            let line = std::str::from_utf8(line).expect("text");
            let line = line.strip_suffix("\r\n").expect("one line");
            assert!(used <= 107 && !line.contains('\n'));
            let words: Vec<&str> = line.split(' ').collect();
            assert_eq!(client.is_none(), words[0] == "UNKNOWN");
            if let Some(client) = client {
                assert_eq!(words[1].parse(), Ok(client.ip()));
                assert_eq!(words[3].parse(), Ok(client.port()));
            }
        }
        (None, Some(SocketAddr::V4(client))) => {
            assert_eq!(header[16..20], client.ip().octets());
            assert_eq!(header[24..26], client.port().to_be_bytes());
        }
        (None, Some(SocketAddr::V6(client))) => {
            assert_eq!(header[16..32], client.ip().octets());
            assert_eq!(header[48..50], client.port().to_be_bytes());
        }
        (None, None) => assert_eq!(header[..4], *b"\r\n\r\n"),
    }
}
