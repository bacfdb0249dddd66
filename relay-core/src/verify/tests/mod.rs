//! Verdicts on whole messages: the RFCs' examples, the vectors of dkimpy, what our own signer makes, and
//! what must not pass. Names come from a zone, through the relay's own resolver.

mod policies;
mod signatures;
mod vectors;

use rustls_pki_types::PrivatePkcs8KeyDer;

use super::header::Form;
use super::*;
use crate::config::{DkimKey, DnsConfig, IpFamilies, KeyState, SigningDomain};
use crate::dns::zone::{Failure, Zone};
use crate::dns::{Event, Query, Resolver, Step as Lookup};
use crate::inbound::body::HeaderFilter;
use crate::queue::message::BodyKind;
use crate::rng::Rng;
use crate::sign::{self, Key};

const TIME: UnixTime = UnixTime::from_secs(1_795_471_531);

fn now() -> Now {
    Now {
        instant: Instant::default(),
        unix: TIME,
    }
}

/// Answers from a zone, as a runtime does from the network.
pub(crate) fn resolve(resolver: &mut Resolver, zone: &Zone, question: &Question) -> Answer {
    let mut at = now();
    let mut lookup = resolver.begin(at, Query::plain(question));
    loop {
        let (server, until, bytes) = match lookup.poll() {
            Lookup::Exchange {
                transport,
                server,
                message,
                until,
            } => (Some(server), until, zone.answer(&message, transport)),
            Lookup::Listen { until } => (None, until, None),
            Lookup::Done => return resolver.finish(at, lookup),
        };
        match (server, &bytes) {
            (Some(from), Some(bytes)) => lookup.handle(at, Event::Received { from, bytes }),
            (_, _) => {
                at.instant = until;
                lookup.handle(at, Event::Timeout);
            }
        }
    }
}

pub(crate) fn resolver() -> Resolver {
    let config = DnsConfig {
        servers: vec!["192.0.2.53:53".parse().unwrap()],
        trust_ad: false,
    };
    Resolver::new(&config, IpFamilies::Both, Rng::from_number(1))
}

fn client() -> Client {
    Client {
        ip: "192.0.2.7".parse().unwrap(),
        helo: "mail.a.example".into(),
        from: ReversePath::Mailbox("user@a.example".parse().unwrap()),
        hostname: "relay.example".parse().unwrap(),
    }
}

/// A message with its line ends as they are on the wire.
fn wire(text: &str) -> Vec<u8> {
    text.replace("\r\n", "\n").replace('\n', "\r\n").into()
}

fn verdict_for(client: Client, message: &[u8], zone: &Zone) -> Verdict {
    let mut filter = HeaderFilter::inbound(&client.hostname);
    let body = filter.push(message).to_vec();
    filter.finish();
    let headers = filter.headers().unwrap();
    let mut reading = Reading::begin(client, headers.original().to_vec(), headers.from());
    for piece in body.chunks(7) {
        reading.push(piece);
    }
    let mut verifier = reading.finish(now());
    let mut resolver = resolver();
    loop {
        match verifier.poll(now()) {
            Step::Resolve(question) => {
                let answer = resolve(&mut resolver, zone, &question);
                verifier.answer(answer);
            }
            Step::Done(verdict) => return *verdict,
        }
    }
}

fn verdict(message: &[u8], zone: &Zone) -> Verdict {
    verdict_for(client(), message, zone)
}

fn dkim(message: &[u8], zone: &Zone) -> Vec<DkimResult> {
    let verdict = verdict(message, zone);
    verdict.dkim.iter().map(|dkim| dkim.result).collect()
}

const RFC_8463_RSA: &str = "v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB";
const RFC_8463_ED25519: &str = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

/// RFC 8463 appendix A.3.
const RFC_8463: &str = "DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=brisbane; t=1528637909; h=from : to :
 subject : date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus
 Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==
DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=test; t=1528637909; h=from : to : subject :
 date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3
 DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz
 dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=
From: Joe SixPack <joe@football.example.com>
To: Suzie Q <suzie@shopping.example.net>
Subject: Is dinner ready?
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
Message-ID: <20030712040037.46341.5F8J@football.example.com>

Hi.

We lost the game.  Are you hungry yet?

Joe.
";

fn football() -> Zone {
    Zone::new()
        .txt(
            "brisbane._domainkey.football.example.com",
            &[RFC_8463_ED25519],
        )
        .txt(
            "test._domainkey.football.example.com",
            &[&RFC_8463_RSA[..200], &RFC_8463_RSA[200..]],
        )
}

#[test]
fn the_example_of_rfc_8463() {
    let message = wire(RFC_8463);
    assert_eq!(dkim(&message, &football()), [DkimResult::Pass; 2]);
    for (from, to) in [
        ("hungry", "angry"),
        ("Is dinner", "Is supper"),
        ("Joe Six", "Joe Seven"),
    ] {
        let changed = wire(&RFC_8463.replace(from, to));
        assert_eq!(dkim(&changed, &football()), [DkimResult::Fail; 2], "{to}");
    }
    // A second Subject is barred: `h=` lists one more than there is.
    let doubled = wire(&RFC_8463.replace("To: ", "Subject: Win!\nTo: "));
    assert_eq!(dkim(&doubled, &football()), [DkimResult::Fail; 2]);
}

/// A TXT record of strings that are short enough.
fn with_key(zone: Zone, name: &str, record: &str) -> Zone {
    let pieces: Vec<&str> = (0..record.len())
        .step_by(250)
        .map(|at| &record[at..record.len().min(at + 250)])
        .collect();
    zone.txt(name, &pieces)
}

fn key(kind: &'static rcgen::SignatureAlgorithm) -> Key {
    let made = rcgen::KeyPair::generate_for(kind).unwrap();
    Key::new(PrivatePkcs8KeyDer::from(made.serialize_der()).into()).unwrap()
}

/// A domain with an RSA and an Ed25519 key, and the zone that has their records.
pub(crate) fn signer(name: &str) -> (std::sync::Arc<SigningDomain>, Zone) {
    let mut zone = Zone::new();
    let kinds = [
        ("r1", &rcgen::PKCS_RSA_SHA256),
        ("e1", &rcgen::PKCS_ED25519),
    ];
    let keys = kinds.map(|(selector, kind)| {
        let key = key(kind);
        let at = format!("{selector}._domainkey.{name}");
        zone = with_key(std::mem::take(&mut zone), &at, &key.record());
        DkimKey {
            selector: selector.into(),
            key_file: "".into(),
            state: KeyState::Signing,
            key: Some(key),
        }
    });
    let domain = SigningDomain {
        name: name.parse().unwrap(),
        keys: keys.into(),
        return_path: None,
    };
    (std::sync::Arc::new(domain), zone)
}

#[test]
fn what_we_sign_verifies_whatever_the_body() {
    let (domain, zone) = signer("a.example");
    let header =
        "From: A <user@a.example>\r\nTo: b@b.example\r\nSubject:  odd\t white \r\n  folds\r\n";
    let bodies: [&[u8]; 8] = [
        b"\r\n",
        b"\r\nHello.\r\n",
        b"\r\n\r\n\r\n\r\n",
        b"\r\n.\r\n..\r\n \t \r\n\r\n",
        b"\r\nno end",
        "\r\nGr\u{fc}\u{df}e\r\n".as_bytes(),
        b"\r\n  two  words \t\r\n\r\n",
        &[b'x'; 3000],
    ];
    for body in bodies {
        let rest = if body[0] == b'x' { &b"\r\n"[..] } else { b"" };
        let message = [header.as_bytes(), rest, body].concat();
        let domains = [std::sync::Arc::clone(&domain)];
        let signed = sign::sign(&domains, &message, BodyKind::EightBit, TIME).unwrap();
        let signed = [&signed.fields[..], &message].concat();
        let verdict = verdict(&signed, &zone);
        let results: Vec<_> = verdict.dkim.iter().map(|dkim| dkim.result).collect();
        assert_eq!(results, [DkimResult::Pass; 2], "{body:?}");
    }
}

#[test]
fn time_and_questions_are_bounded() {
    let message = wire(RFC_8463);
    let mut filter = HeaderFilter::inbound(&client().hostname);
    let _ = filter.push(&message);
    let headers = filter.headers().unwrap();
    let begin = || Reading::begin(client(), headers.original().to_vec(), headers.from());
    let mut verifier = begin().finish(now());
    let mut late = now();
    late.instant = late.instant + TIME_MAX;
    assert!(matches!(verifier.poll(now()), Step::Resolve(_)));
    verifier.answer(Err(DnsFailure::Temporary("silence".into())));
    let Step::Done(verdict) = verifier.poll(late) else {
        panic!("there is no time for more");
    };
    assert_eq!(verdict.spf.result, SpfResult::TempError);
    assert_eq!(verdict.dkim[0].result, DkimResult::TempError);
    assert_eq!(verdict.dmarc.result, DmarcResult::TempError);
}

#[test]
fn the_field_says_it_all_and_holds_nothing_of_a_peers_choice() {
    let zone = football()
        .txt("football.example.com", &["v=spf1 -all"])
        .txt("_dmarc.football.example.com", &["v=DMARC1; p=reject"]);
    let mut client = client();
    client.from = ReversePath::Mailbox("joe@football.example.com".parse().unwrap());
    let field =
        verdict_for(client, &wire(RFC_8463), &zone).field(&"relay.example".parse().unwrap());
    assert_eq!(
        field,
        "Authentication-Results: relay.example;\r\n\
         \tspf=fail smtp.mailfrom=football.example.com;\r\n\
         \tdkim=pass header.d=football.example.com header.s=brisbane header.a=ed25519-sha256 header.b=\"/gCrinpc\";\r\n\
         \tdkim=pass header.d=football.example.com header.s=test header.a=rsa-sha256 header.b=F45dVWDf;\r\n\
         \tdmarc=pass (p=reject) header.from=football.example.com;\r\n\
         \tarc=none smtp.remote-ip=192.0.2.7\r\n"
    );
    let mut odd = self::client();
    odd.helo = "x; dmarc=pass\r\nBcc: y".into();
    odd.from = ReversePath::Null;
    let field = verdict_for(odd, &wire(RFC_8463), &zone).field(&"relay.example".parse().unwrap());
    assert!(
        field.contains("spf=none smtp.helo=\"x??dmarc=pass??Bcc:?y\";"),
        "{field}"
    );
    let mut odd = self::client();
    odd.helo = "[192.0.2.1]".into();
    odd.from = ReversePath::Null;
    let field = verdict_for(odd, &wire(RFC_8463), &zone).field(&"relay.example".parse().unwrap());
    assert!(
        field.contains("spf=none smtp.helo=\"[192.0.2.1]\";"),
        "{field}"
    );
}
