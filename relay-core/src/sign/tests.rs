//! Signatures against the RFCs' own examples, a plain reading of their rules, and the TLS library's
//! verifier. Messages of the binaries go to other implementations in `tests/interop`.

use aws_lc_rs::signature::{
    ED25519, RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY as RSA, UnparsedPublicKey,
};
use proptest::prelude::*;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};

use super::field::{BARRED, header_data, seal};
use super::*;
use crate::config::{DkimKey, KeyState};

const NOW: UnixTime = UnixTime::from_secs(1_528_637_909);

/// RFC 8463 appendix A.
const DINNER: &str = "From: Joe SixPack <joe@football.example.com>\r\n\
    To: Suzie Q <suzie@shopping.example.net>\r\n\
    Subject: Is dinner ready?\r\n\
    Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n\
    Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n\
    \r\n\
    Hi.\r\n\
    \r\n\
    We lost the game.  Are you hungry yet?\r\n\
    \r\n\
    Joe.\r\n";
const DINNER_NAMES: [&str; 8] = [
    "from",
    "to",
    "subject",
    "date",
    "message-id",
    "from",
    "subject",
    "date",
];
const DINNER_BODY_HASH: &str = "2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=";

fn dinner_field(algorithm: &str, selector: &str) -> String {
    format!(
        " v=1; a={algorithm}; c=relaxed/relaxed;\r\n d=football.example.com; \
         i=@football.example.com;\r\n q=dns/txt; s={selector}; t=1528637909; h=from : to :\r\n \
         subject : date : message-id : from : subject : date;\r\n bh={DINNER_BODY_HASH};\r\n b="
    )
}

fn base64(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .unwrap()
}

fn to_base64(octets: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(octets)
}

fn pkcs8(der: Vec<u8>) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(der).into()
}

/// The Ed25519 key of RFC 8463 appendix A.2.
fn rfc_key() -> Key {
    let mut der = vec![
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04,
        0x20,
    ];
    der.extend(base64("nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A="));
    Key::new(pkcs8(der)).unwrap()
}

fn rsa_key() -> Key {
    let made = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    Key::new(pkcs8(made.serialize_der())).unwrap()
}

/// A domain that signs, for the tests of others.
pub(crate) fn signing_domain(name: &str) -> Arc<SigningDomain> {
    domain(name, &[("e1", &rfc_key())])
}

fn domain(name: &str, keys: &[(&str, &Key)]) -> Arc<SigningDomain> {
    let keys = keys.iter().map(|(selector, key)| DkimKey {
        selector: (*selector).to_owned(),
        key_file: "".into(),
        state: KeyState::Signing,
        key: Some((*key).clone()),
    });
    Arc::new(SigningDomain {
        name: name.parse().unwrap(),
        keys: keys.collect(),
        return_path: None,
    })
}

fn body_hash(pieces: &[&[u8]]) -> [u8; 32] {
    let mut hash = BodyHash::new();
    pieces.iter().for_each(|piece| hash.push(piece));
    hash.finish()
}

/// RFC 6376 §3.4.4 as it is written, of a whole body.
fn relaxed_body(body: &[u8]) -> Vec<u8> {
    let mut lines = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let end = memchr::memmem::find(rest, b"\r\n");
        let line = &rest[..end.unwrap_or(rest.len())];
        rest = end.map_or(&[][..], |end| &rest[end + 2..]);
        let mut out: Vec<u8> = Vec::new();
        for &octet in line {
            let blank = matches!(octet, b' ' | b'\t');
            if !blank {
                out.push(octet);
            } else if out.last() != Some(&b' ') {
                out.push(b' ');
            }
        }
        if out.last() == Some(&b' ') {
            out.pop();
        }
        lines.push(out);
    }
    while lines.last().is_some_and(Vec::is_empty) {
        lines.pop();
    }
    lines
        .iter()
        .flat_map(|line| [line.as_slice(), b"\r\n"].concat())
        .collect()
}

/// DKIM-01: RFC 8463's example, octet by octet with Ed25519; with its RSA key, which is too short for
/// us to sign with, its signature fits what we would have signed.
#[test]
fn dkim_01_the_example_of_rfc_8463() {
    let (header, body) = DINNER.split_at(DINNER.find("\r\n\r\n").unwrap() + 4);
    assert_eq!(to_base64(&body_hash(&[body.as_bytes()])), DINNER_BODY_HASH);
    let data = header_data(header.as_bytes(), &DINNER_NAMES);
    let key = rfc_key();
    assert_eq!(
        key.record(),
        "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
    );
    let signature = seal(&data, &dinner_field("ed25519-sha256", "brisbane"), &key).unwrap();
    assert_eq!(
        to_base64(&signature),
        "/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11BusFa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw=="
    );
    let public = base64(
        "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/J16JYi\
         0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G\
         +2kryOTIKT+l/K4w3QIDAQAB",
    );
    let signature = base64(
        "F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQ\
         TnGdaSGsgeefOsk2JzdA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=",
    );
    let mut signed = data;
    canonical::relaxed_field(
        &mut signed,
        b"DKIM-Signature",
        dinner_field("rsa-sha256", "test").as_bytes(),
    );
    signed.truncate(signed.len() - 2);
    UnparsedPublicKey::new(&RSA, public)
        .verify(&signed, &signature)
        .unwrap();
}

/// RFC 6376 §3.4.5.
#[test]
fn the_example_of_rfc_6376() {
    let block = b"A: X\r\nB : Y\t\r\n\tZ  \r\n\r\n";
    assert_eq!(header_data(block, &["a", "b"]), b"a:X\r\nb:Y Z\r\n");
    let expected: [u8; 32] = Sha256::digest(b" C\r\nD E\r\n").into();
    assert_eq!(body_hash(&[b" C \r\nD \t E\r\n\r\n\r\n"]), expected);
}

#[test]
fn relaxed_fields() {
    for (field, expected) in [
        ("Subject: a\r\n", "subject:a\r\n"),
        ("SUBJECT \t:\t a \t b \r\n", "subject:a b\r\n"),
        ("Subject:\r\n", "subject:\r\n"),
        ("Subject: \r\n \r\n a\r\n", "subject:a\r\n"),
        ("Subject: a\r\n\tb\r\n   c\r\n", "subject:a b c\r\n"),
        ("Subject: a:b : c\r\n", "subject:a:b : c\r\n"),
        ("Subject: \u{e4}\u{a0}b\r\n", "subject:\u{e4}\u{a0}b\r\n"),
    ] {
        let data = header_data(field.as_bytes(), &["Subject"]);
        assert_eq!(String::from_utf8(data).unwrap(), expected, "{field:?}");
    }
}

#[test]
fn relaxed_bodies_in_every_chunking() {
    for (body, expected) in [
        ("", ""),
        ("\r\n", ""),
        ("\r\n\r\n\r\n", ""),
        (" \t \r\n\t\r\n", ""),
        (" ", ""),
        ("a", "a\r\n"),
        ("a\r\n", "a\r\n"),
        ("a\r\n\r\n \r\n", "a\r\n"),
        ("a \r\n", "a\r\n"),
        ("a\t", "a\r\n"),
        (" a", " a\r\n"),
        ("\t\ta", " a\r\n"),
        ("a \t b\r\n", "a b\r\n"),
        ("a b\tc  d\r\n", "a b c d\r\n"),
        ("\r\n\r\na\r\n \r\nb\r\n", "\r\n\r\na\r\n\r\nb\r\n"),
        ("a\r\rb\n\r\n", "a\r\rb\n\r\n"),
        ("a\r", "a\r\r\n"),
        ("a \r b\r\n", "a \r b\r\n"),
        (".\r\n..\r\n", ".\r\n..\r\n"),
        ("\u{fc} \u{fc}\r\n", "\u{fc} \u{fc}\r\n"),
    ] {
        let expected: [u8; 32] = Sha256::digest(expected).into();
        let bytes = body.as_bytes();
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                assert_eq!(
                    body_hash(&pieces),
                    expected,
                    "{body:?} at {first} and {second}"
                );
            }
        }
    }
}

proptest! {
    #[test]
    fn any_body_in_any_pieces(
        body in "([ \t\r\n.]|\r\n|  |ab|\u{fc}){0,60}",
        cuts in proptest::collection::vec(0usize..200, 0..6),
    ) {
        let body = body.as_bytes();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(body.len())).collect();
        cuts.sort_unstable();
        let mut pieces = Vec::new();
        let mut from = 0;
        for cut in cuts {
            pieces.push(&body[from..cut]);
            from = cut;
        }
        pieces.push(&body[from..]);
        let expected: [u8; 32] = Sha256::digest(relaxed_body(body)).into();
        prop_assert_eq!(body_hash(&pieces), expected);
    }

    /// Whatever the header is, what we sign verifies, and its field has lines that every server takes.
    #[test]
    fn any_header_verifies(
        fields in proptest::collection::vec(
            ("(From|To|Cc|Subject|X-A|List-Id|received|DATE)", " ?[a-z \t]{0,30}(\r\n [a-z]{0,9})?"),
            0..12,
        ),
        body in "[ a-z\t]{0,20}\r\n",
    ) {
        let mut message = String::from("From: <a@example.com>\r\n");
        for (name, value) in fields.iter().filter(|(name, _)| name != "From") {
            message.push_str(&format!("{name}:{value}\r\n"));
        }
        message.push_str("\r\n");
        message.push_str(&body);
        let key = rfc_key();
        let domains = [domain("example.com", &[("e1", &key)])];
        let signed = sign(&domains, message.as_bytes(), BodyKind::SevenBit, NOW).unwrap();
        verify(&signed.fields, message.as_bytes(), &key);
        prop_assert!(signed.fields.split(|&b| b == b'\n').all(|line| line.len() <= 79));
    }
}

/// Verifies the first DKIM-Signature field in `fields` over a message; returns its tags.
fn verify(field: &[u8], message: &[u8], key: &Key) -> Vec<(String, String)> {
    let text = std::str::from_utf8(field).unwrap();
    let value = text.strip_prefix("DKIM-Signature:").unwrap();
    let tags: Vec<(String, String)> = value
        .split(';')
        .map(|tag| {
            let (name, value) = tag.trim().split_once('=').unwrap();
            let value = value.split_ascii_whitespace().collect();
            (name.to_owned(), value)
        })
        .collect();
    let tag = |wanted: &str| &tags.iter().find(|(name, _)| name == wanted).unwrap().1;
    let end = memchr::memmem::find(message, b"\r\n\r\n").unwrap() + 4;
    let (header, body) = message.split_at(end);
    assert_eq!(*tag("bh"), to_base64(&Sha256::digest(relaxed_body(body))));
    let names: Vec<&str> = tag("h").split(':').collect();
    let mut data = header_data(header, &names);
    let unsigned = &value[..value.rfind("b=").unwrap() + 2];
    canonical::relaxed_field(&mut data, b"DKIM-Signature", unsigned.as_bytes());
    data.truncate(data.len() - 2);
    let signature = base64(tag("b"));
    let public = base64(&key.public());
    match key.algorithm() {
        Algorithm::Rsa { .. } => UnparsedPublicKey::new(&RSA, public).verify(&data, &signature),
        Algorithm::Ed25519 => {
            UnparsedPublicKey::new(&ED25519, public).verify(&Sha256::digest(&data), &signature)
        }
    }
    .unwrap();
    tags
}

/// DKIM-02.
#[test]
fn dkim_02_nobody_can_add_a_field_or_a_body() {
    let (rsa, ed25519) = (rsa_key(), rfc_key());
    assert_eq!(rsa.algorithm(), Algorithm::Rsa { bits: 2048 });
    let domains = [domain(
        "football.example.com",
        &[("r1", &rsa), ("e1", &ed25519)],
    )];
    let signed = sign(&domains, DINNER.as_bytes(), BodyKind::SevenBit, NOW).unwrap();
    assert_eq!(
        signed.by,
        "football.example.com: r1 rsa-sha256, e1 ed25519-sha256"
    );
    let second = memchr::memmem::rfind(&signed.fields, b"DKIM-Signature:").unwrap();
    let (first, second) = signed.fields.split_at(second);
    for (field, key, selector) in [(first, &rsa, "r1"), (second, &ed25519, "e1")] {
        let tags = verify(field, DINNER.as_bytes(), key);
        let names: Vec<&str> = tags.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            ["v", "a", "c", "d", "s", "t", "h", "bh", "b"],
            "no l=, no x="
        );
        let tag = |wanted: &str| {
            tags.iter()
                .find(|(name, _)| name == wanted)
                .unwrap()
                .1
                .clone()
        };
        assert_eq!(tag("d"), "football.example.com");
        assert_eq!(tag("s"), selector);
        assert_eq!(tag("t"), "1528637909");
        let listed = tag("h");
        for name in BARRED {
            let there = fields_named(DINNER, name);
            let count = listed.split(':').filter(|listed| *listed == name).count();
            assert_eq!(count, there + 1, "{name}");
        }
    }
}

fn fields_named(message: &str, name: &str) -> usize {
    message
        .lines()
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with(name))
        .count()
}

#[test]
fn who_signs_for_whom() {
    let key = rfc_key();
    let none = domain("bare.example.com", &[]);
    let domains = [
        domain("example.com", &[("a", &key)]),
        none,
        domain("news.example.com", &[("b", &key)]),
        domain("xn--exmple-cua.com", &[("c", &key)]),
    ];
    let sign = |from: &str| {
        let message = format!("From: {from}\r\nSender: <x@y.example>\r\n\r\n");
        sign(&domains, message.as_bytes(), BodyKind::SevenBit, NOW)
    };
    for (from, expected) in [
        ("a@example.com", "example.com: a"),
        ("a@EXAMPLE.com", "example.com: a"),
        ("a@sub.example.com", "example.com: a"),
        ("a@bare.example.com", "example.com: a"),
        ("a@news.example.com", "news.example.com: b"),
        ("a@x.news.example.com", "news.example.com: b"),
        ("a@exämple.com", "xn--exmple-cua.com: c"),
        ("a@example.com, b@sub.example.com", "example.com: a"),
    ] {
        let by = sign(from).map(|signed| signed.by);
        assert_eq!(by, Ok(format!("{expected} ed25519-sha256")), "{from}");
    }
    for (from, expected) in [
        (
            "a@badexample.com",
            Unsigned::NoKeys("badexample.com".into()),
        ),
        ("a@com", Unsigned::NoKeys("com".into())),
        ("a@example.com, b@news.example.com", Unsigned::NoAuthor),
        ("a@[192.0.2.1]", Unsigned::NoAuthor),
        ("a@", Unsigned::NoAuthor),
    ] {
        assert_eq!(sign(from), Err(expected), "{from}");
    }
    let message = b"From: a@example.com\r\n\r\n";
    assert_eq!(
        super::sign(&domains[1..2], message, BodyKind::SevenBit, NOW),
        Err(Unsigned::NotConfigured)
    );
    assert_eq!(
        super::sign(&domains, message, BodyKind::Binary, NOW),
        Err(Unsigned::Binary)
    );
    let many = format!(
        "From: a@example.com\r\n{}\r\n",
        "To: b@c.example\r\n".repeat(300)
    );
    assert_eq!(
        super::sign(&domains, many.as_bytes(), BodyKind::SevenBit, NOW),
        Err(Unsigned::TooManyFields)
    );
}

#[test]
fn keys_that_may_not_sign() {
    let p256 = rcgen::KeyPair::generate().unwrap().serialize_der();
    assert_eq!(Key::new(pkcs8(p256)), Err(KeyError::Kind));
    assert_eq!(Key::new(pkcs8(vec![0x30, 0x00])), Err(KeyError::Unreadable));
    assert_eq!(Key::new(pkcs8(base64(SHORT))), Err(KeyError::Unreadable));
}

/// RSA of 1024 bits, made for this test.
const SHORT: &str = include_str!("rsa1024.b64");

#[test]
fn keys_say_no_secret() {
    assert_eq!(format!("{:?}", rfc_key()), "Key(Ed25519)");
    assert_eq!(rfc_key(), rfc_key());
    assert_ne!(rfc_key(), rsa_key());
}

/// The relay's own messages carry their signatures like all others.
#[test]
fn a_submission_is_signed_in_front() {
    let key = rfc_key();
    let domains = [domain("football.example.com", &[("e1", &key)])];
    let mut submission = crate::engine::Submission {
        id: crate::id::MessageId::from_u64(1),
        origin: crate::queue::message::Origin {
            credential: None,
            peer: None,
        },
        envelope: crate::queue::message::Envelope {
            from: smtp_proto::ReversePath::Null,
            ret: None,
            envid: None,
            body: BodyKind::SevenBit,
            smtputf8: false,
            handling: crate::queue::handling::Handling::default(),
            recipients: Vec::new(),
        },
        prefix: Bytes::new(),
        dkim: None,
        preflight: Vec::new(),
        body: Body::Memory(DINNER.into()),
        size: DINNER.len() as u64,
        header_size: 100,
    };
    submission.sign(&domains, NOW);
    let len = submission.prefix.len();
    assert_eq!(submission.size, (DINNER.len() + len) as u64);
    assert_eq!(submission.header_size as usize, 100 + len);
    assert_eq!(
        submission.dkim.as_deref(),
        Some("football.example.com: e1 ed25519-sha256")
    );
    verify(&submission.prefix, DINNER.as_bytes(), &key);
}
