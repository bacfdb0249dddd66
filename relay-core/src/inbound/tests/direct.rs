use smtp_proto::{MailParams, ReversePath};

use super::*;
use crate::config::{DkimKey, KeyState, SigningDomain};
use crate::inbound::direct::{Draft, Handover, Prepared, Step, prepare};
use crate::queue::message::{BODY_MEMORY_MAX, BodyKind, Recipient};
use crate::sign::{self, Key};

fn draft(message: &str) -> Draft {
    Draft {
        credential: None,
        from: ReversePath::parse("<a@example.com>").unwrap(),
        params: MailParams::default(),
        recipients: vec![recipient("b@example.net")],
        message: message.into(),
    }
}

fn recipient(address: &str) -> Recipient {
    Recipient {
        to: address.parse().unwrap(),
        notify: None,
        orcpt: None,
    }
}

fn try_prepare(draft: Draft) -> Result<Prepared, Refusal> {
    let now = Now {
        instant: Instant::default(),
        unix: UnixTime::from_secs(1_795_471_531),
    };
    prepare(
        &config(ListenerTls::None),
        draft,
        MessageId::from_u64(1),
        now,
    )
}

#[test]
fn a_programs_message_gets_what_one_by_smtp_gets() {
    let prepared = try_prepare(draft(
        "From: x@anything.example\nBcc: c@d\nSubject: s\n\nbody\rend",
    ));
    let Prepared { spool, submission } = prepared.unwrap();
    assert!(spool.is_none());
    let Body::Memory(bytes) = &submission.body else {
        panic!("it is small");
    };
    assert_eq!(
        std::str::from_utf8(bytes).unwrap(),
        "Received: by relay.example.com id 0000000000001;\r\n\
         \tMon, 23 Nov 2026 22:05:31 +0000\r\n\
         Message-ID: <0000000000001@relay.example.com>\r\n\
         Date: Mon, 23 Nov 2026 22:05:31 +0000\r\n\
         From: x@anything.example\r\nSubject: s\r\n\r\nbody\r\nend\r\n"
    );
    assert_eq!(submission.size, bytes.len() as u64);
    assert_eq!(submission.origin.credential, None);
}

#[test]
fn a_large_message_is_for_the_spool() {
    let body = "0123456\r\n".repeat(BODY_MEMORY_MAX / 9);
    let prepared = try_prepare(draft(&format!("From: a@example.com\r\n\r\n{body}"))).unwrap();
    assert_eq!(prepared.submission.body, Body::Spooled);
    let spool = prepared.spool.unwrap();
    assert_eq!(spool.len() as u64, prepared.submission.size);
    assert!(spool.ends_with(body.as_bytes()));
}

/// Signatures stand before all that is stored, wherever that is, and count in the sizes.
#[test]
fn a_message_of_a_domain_with_keys_is_signed() {
    let mut config = config(ListenerTls::None);
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let key = Key::new(key.serialize_der().try_into().unwrap()).unwrap();
    config.domains = vec![Arc::new(SigningDomain {
        name: "example.com".parse().unwrap(),
        keys: vec![DkimKey {
            selector: "e1".into(),
            key_file: "".into(),
            state: KeyState::Signing,
            key: Some(key),
        }],
        return_path: None,
    })];
    let unix = UnixTime::from_secs(1_795_471_531);
    let now = Now {
        instant: Instant::default(),
        unix,
    };
    let id = MessageId::from_u64(1);
    // The limit is for what the client sends: what comes before it does not count.
    let mut full = draft("From: a@example.com\r\n\r\n");
    let size_max = usize::try_from(config.limits.message_size).unwrap();
    full.message.resize(size_max - 2, b'x');
    full.message.extend_from_slice(b"\r\n");
    let prepared = prepare(&config, full.clone(), id, now).unwrap();
    assert!(prepared.submission.size > config.limits.message_size);
    assert!(!prepared.submission.prefix.is_empty());
    full.message.insert(size_max - 2, b'x');
    let refusal = prepare(&config, full, id, now).unwrap_err();
    assert_eq!(refusal.why.to_string(), "552 5.3.4");
    for (from, by) in [
        ("a@example.com", "example.com: e1 ed25519-sha256"),
        (
            "a@example.org",
            "unsigned: no [[domain]] with keys is example.org or above it",
        ),
    ] {
        for lines in [0, 3, BODY_MEMORY_MAX / 8] {
            let text = format!("From: {from}\nBcc: x@y\n\n{}", "a  b .\n".repeat(lines));
            let Prepared { spool, submission } = prepare(&config, draft(&text), id, now).unwrap();
            let stored = match &submission.body {
                Body::Memory(bytes) => bytes.clone(),
                Body::Spooled => spool.unwrap(),
            };
            let header = memchr::memmem::find(&stored, b"\r\n\r\n").unwrap() + 4;
            let signed = sign::sign(&config.domains, &stored, BodyKind::SevenBit, unix);
            let prefix = signed.map(|signed| signed.fields).unwrap_or_default();
            assert_eq!(submission.prefix, prefix);
            assert_eq!(prefix.is_empty(), by.starts_with("unsigned"));
            assert_eq!(submission.size, (prefix.len() + stored.len()) as u64);
            assert_eq!(submission.header_size as usize, prefix.len() + header);
            assert_eq!(submission.dkim.as_deref(), Some(by));
        }
    }
}

#[test]
fn what_a_client_may_not_do_a_program_may_not_either() {
    let good = "From: a@example.com\r\n\r\nx\r\n";
    let of_app = |draft: Draft| Draft {
        credential: Some(Arc::clone(&config(ListenerTls::None).credentials[0])),
        ..draft
    };
    let mut nobody = draft(good);
    nobody.recipients.clear();
    let mut many = draft(good);
    many.recipients = vec![recipient("b@example.net"); 6];
    let mut loopback = draft(good);
    loopback.recipients = vec![recipient("b@[127.0.0.1]")];
    let mut other = of_app(draft(good));
    other.from = ReversePath::parse("<a@example.org>").unwrap();
    for (draft, codes) in [
        (nobody, "554 5.5.1"),
        (many, "452 4.5.3"),
        (loopback, "550 5.1.2"),
        (other, "553 5.7.1"),
        (of_app(draft("From: a@example.org\r\n\r\n")), "553 5.7.1"),
        (draft("Subject: x\r\n\r\n"), "550 5.6.0"),
        (draft(""), "550 5.6.0"),
        (draft("From: a@example.com\r\n\r\n\0"), "550 5.6.0"),
        (
            draft(&format!("{good}{}", "x\r\n".repeat(400_000))),
            "552 5.3.4",
        ),
    ] {
        let refusal = try_prepare(draft).unwrap_err();
        assert_eq!(refusal.why.to_string(), codes, "{}", refusal.text);
    }
}

/// What a handover asks for, with these answers; and how it ends.
fn hand_over(draft: Draft, answers: Vec<Answer>) -> (Vec<&'static str>, Result<MessageId, String>) {
    let now = Now {
        instant: Instant::default(),
        unix: UnixTime::from_secs(1_795_471_531),
    };
    let mut handover = Handover::new(Arc::new(config(ListenerTls::None)), draft);
    let mut answers = answers.into_iter();
    let mut asked = Vec::new();
    loop {
        match handover.poll() {
            Step::Request(request) => {
                asked.push(match request {
                    Request::Engine(Ask::Mail { .. }) => "mail",
                    Request::Engine(Ask::Submit(_)) => "submit",
                    Request::Engine(Ask::Abandon(_)) => "abandon",
                    Request::Spool(..) => "spool",
                    Request::Unspool(_) => "unspool",
                    other @ (Request::Engine(_)
                    | Request::Resolve(_)
                    | Request::CheckPassword { .. }
                    | Request::CheckToken(_)) => {
                        panic!("{other:?}")
                    }
                });
                // What cleans up is answered however it went.
                let answer = answers.next().unwrap_or(Answer::Done);
                handover.answer(now, answer);
            }
            Step::Done(result) => {
                return (asked, result.map_err(|refusal| refusal.why.to_string()));
            }
        }
    }
}

#[test]
fn a_handover_leaves_nothing_behind_that_was_refused() {
    let id = MessageId::from_u64(7);
    let mail = || {
        let room = BODY_MEMORY_MAX;
        let config = Arc::new(config(ListenerTls::None));
        Answer::Engine(engine::Answer::Mail { id, room, config })
    };
    let queued = || Answer::Engine(engine::Answer::Queued(id));
    let refused = || {
        let refusal = Refusal {
            why: Rejection::RATE,
            text: "Too fast".into(),
            close: false,
        };
        Answer::Engine(engine::Answer::Refused(refusal))
    };
    let small = || draft("From: a@example.com\r\n\r\nx\r\n");
    let large = || {
        let body = "0123456\r\n".repeat(BODY_MEMORY_MAX / 9);
        draft(&format!("From: a@example.com\r\n\r\n{body}"))
    };
    let bad = || draft("Subject: no From\r\n\r\n");
    let spooled = Answer::Spooled;
    let full = || Answer::Spooled(Err(StoreFailed::Full));
    let rate = || Err("450 4.7.1".to_owned());
    for (draft, answers, asked, ended) in [
        (small(), vec![refused()], vec!["mail"], rate()),
        (
            small(),
            vec![mail(), queued()],
            vec!["mail", "submit"],
            Ok(id),
        ),
        (
            small(),
            vec![mail(), refused()],
            vec!["mail", "submit"],
            rate(),
        ),
        (
            bad(),
            vec![mail()],
            vec!["mail", "abandon"],
            Err("550 5.6.0".to_owned()),
        ),
        (
            large(),
            vec![mail(), spooled(Ok(())), queued()],
            vec!["mail", "spool", "submit"],
            Ok(id),
        ),
        (
            large(),
            vec![mail(), spooled(Ok(())), refused()],
            vec!["mail", "spool", "submit", "unspool"],
            rate(),
        ),
        (
            large(),
            vec![mail(), full()],
            vec!["mail", "spool", "unspool", "abandon"],
            Err("452 4.3.1".to_owned()),
        ),
    ] {
        assert_eq!(hand_over(draft, answers), (asked, ended));
    }
}
