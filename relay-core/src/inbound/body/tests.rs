use std::net::IpAddr;

use proptest::prelude::*;
use smtp_proto::Domain;

use super::*;
use crate::config::SenderPattern;
use crate::id::MessageId;
use crate::time::UnixTime;

#[test]
fn a_submission_cannot_speak_for_this_host() {
    let mut filter = HeaderFilter::submission(&"relay.example.com".parse().unwrap());
    let ours = "Authentication-Results: relay.example.com; dmarc=pass header.from=bank.example\r\n";
    let theirs = "Authentication-Results: other.example; dmarc=pass\r\n";
    let from = "From: a@b.example\r\n\r\n";
    let _ = filter.push([ours, theirs, from].concat().as_bytes());
    let kept = filter.headers().unwrap().kept();
    assert_eq!(kept, [theirs, from].concat().as_bytes());
}

/// Feeds content in pieces; gives the filter and the body.
fn feed(content: &[u8], piece_len: usize) -> (HeaderFilter, Vec<u8>) {
    let mut filter = HeaderFilter::new();
    let mut body = Vec::new();
    for piece in content.chunks(piece_len.max(1)) {
        body.extend_from_slice(filter.push(piece));
    }
    filter.finish();
    (filter, body)
}

fn kept(content: &str) -> String {
    let (filter, body) = feed(content.as_bytes(), usize::MAX);
    let headers = filter.headers().unwrap();
    String::from_utf8([headers.kept(), &body].concat()).unwrap()
}

fn refusal(content: &str) -> Option<String> {
    let (filter, _) = feed(content.as_bytes(), usize::MAX);
    filter
        .headers()
        .unwrap()
        .refusal()
        .map(|refusal| format!("{} {}", refusal.why, refusal.text))
}

fn refused_with(content: &str, codes: &str) {
    let found = refusal(content).unwrap_or_else(|| panic!("accepted: {content:?}"));
    assert!(found.starts_with(codes), "{content:?}: {found}");
}

const FROM: &str = "From: a@example.com\r\n";

#[test]
fn a_message_passes_byte_for_byte() {
    for content in [
        "From: a@example.com\r\n\r\n",
        "From: a@example.com\r\nsubject:  odd \t spacing \r\n\tfolded\r\n\r\nbody\r\n\r\n\r\nmore\r\n",
        "From: a@example.com\r\nX: 1\r\nX: 2\r\nEmpty:\r\n\r\nBcc: not a header\r\n",
        "From: a@example.com\r\n",
        "FROM:a@example.com\r\nBccx: kept\r\n\r\n",
    ] {
        assert_eq!(kept(content), content);
        assert_eq!(refusal(content), None, "{content:?}");
    }
}

#[test]
fn bcc_and_control_fields_are_taken_out() {
    let content = "Bcc: x@example.org,\r\n\ty@example.org\r\nFrom: a@example.com\r\n\
                   RESENT-BCC: z@example.org\r\nx-relay-anything: 1\r\nbcc : q@example.org\r\n\
                   To: t@example.org\r\nBCC:\r\n\r\nbody\r\n";
    assert_eq!(
        kept(content),
        "From: a@example.com\r\nTo: t@example.org\r\n\r\nbody\r\n"
    );
}

#[test]
fn what_is_missing_is_noticed() {
    let (filter, _) = feed(b"From: a@example.com\r\n\r\n", usize::MAX);
    let headers = filter.headers().unwrap();
    assert!(!headers.has_date() && !headers.has_message_id());
    let content = b"message-id: <1@x>\r\nDATE: now\r\nFrom: a@example.com\r\nReceived: x\r\n\r\n";
    let (filter, _) = feed(content, usize::MAX);
    let headers = filter.headers().unwrap();
    assert!(headers.has_date() && headers.has_message_id());
    assert_eq!(headers.received(), 1);
}

#[test]
fn what_is_malformed_is_refused_with_its_line() {
    refused_with("", "550 5.6.0 The From field is missing");
    refused_with("\r\nbody\r\n", "550 5.6.0 The From field is missing");
    refused_with("Subject: x\r\n\r\n", "550 5.6.0 The From field is missing");
    refused_with(
        "just a body\r\n",
        "550 5.6.0 Line 1 of the header is no header field",
    );
    refused_with(
        &format!("{FROM}X: a\r\n b\r\ngarbage\r\n\r\n"),
        "550 5.6.0 Line 4",
    );
    refused_with(
        "From a@example.com Mon Jan 1 12:00:00 2024\r\n",
        "550 5.6.0 Line 1",
    );
    refused_with(&format!(" folded: first\r\n{FROM}\r\n"), "550 5.6.0 Line 1");
    refused_with(
        &format!("{FROM}X: a\nBcc: b\r\n\r\n"),
        "550 5.6.0 Line 2 of the header holds a CR",
    );
    refused_with(
        &format!("{FROM}X: a\rb\r\n\r\n"),
        "550 5.6.0 Line 2 of the header holds a CR",
    );
    refused_with(
        &format!("{FROM}X: a\r\n \0\r\n\r\n"),
        "550 5.6.0 Line 3 of the header holds a NUL",
    );
    refused_with(
        &format!("{FROM}{FROM}\r\n"),
        "550 5.6.0 There is more than one From",
    );
    refused_with(
        "From : a@example.com\r\n\r\n",
        "550 5.6.0 The From field is malformed",
    );
    refused_with(
        &format!("{FROM}Sender: a@x.example, b@x.example\r\n\r\n"),
        "550 5.6.0",
    );
    refused_with(
        &format!("{FROM}Sender: a@x.example\r\nSender: a@x.example\r\n\r\n"),
        "550 5.6.0",
    );
    refused_with(
        "From: a@x.example, b@x.example\r\n\r\n",
        "550 5.6.0 From names several",
    );
    let content = "From: a@x.example, b@x.example\r\nSender: a@x.example\r\n\r\n";
    assert_eq!(refusal(content), None);
}

#[test]
fn a_loop_is_refused() {
    let content = |count| format!("{}{FROM}\r\n", "Received: from a by b\r\n".repeat(count));
    assert_eq!(refusal(&content(RECEIVED_MAX)), None);
    refused_with(&content(RECEIVED_MAX + 1), "554 5.4.6 Mail loop");
}

#[test]
fn the_header_is_bounded() {
    let field = format!("X: {}\r\n", "x".repeat(993));
    let fitting = format!("{FROM}{}\r\n", field.repeat(HEADER_MAX / field.len() - 1));
    assert_eq!(refusal(&fitting), None);
    let large = format!("{FROM}{}\r\n", field.repeat(HEADER_MAX / field.len() + 1));
    for piece_len in [1000, usize::MAX] {
        let (filter, body) = feed(large.as_bytes(), piece_len);
        let refusal = filter.headers().unwrap().refusal().unwrap();
        assert_eq!(refusal.why, Rejection::TOO_LARGE);
        // Nothing is held on to: the caller drops the rest.
        assert!(body.len() < field.len() * 3);
    }
}

#[test]
fn the_kind_is_that_of_the_octets() {
    let kind = |content: &[u8]| {
        let kinds: Vec<_> = [1, 2, 3, 7, usize::MAX]
            .map(|len| feed(content, len).0.kind())
            .to_vec();
        assert!(
            kinds.windows(2).all(|pair| pair[0] == pair[1]),
            "{content:?}: {kinds:?}"
        );
        kinds[0]
    };
    assert_eq!(kind(b"From: a@b.c\r\n\r\nx\r\n"), BodyKind::SevenBit);
    assert_eq!(
        kind("From: a@b.c\r\n\r\né\r\n".as_bytes()),
        BodyKind::EightBit
    );
    assert_eq!(kind(b"From: a@b.c\r\n\r\n\xff\r\n"), BodyKind::EightBit);
    assert_eq!(
        kind(&[b"X: ", &[b'x'; 5000][..], b"\r\n\r\n"].concat()),
        BodyKind::SevenBit
    );
    for body in [
        "\0",
        "a\nb",
        "\n",
        "a\rb",
        "\r",
        "\r\r\n",
        "\n\r\n",
        "a\r\n\n",
        "\u{e9}\n.\r\nMAIL",
    ] {
        let content = format!("From: a@b.c\r\n\r\n{body}");
        assert_eq!(kind(content.as_bytes()), BodyKind::Binary, "{body:?}");
        let bare = feed(content.as_bytes(), 1).0.has_bare_cr_or_lf();
        assert_eq!(bare, body != "\0", "{body:?}");
    }
}

#[test]
fn a_header_in_utf8_needs_smtputf8() {
    let needs = |content: &str| {
        feed(content.as_bytes(), 5)
            .0
            .headers()
            .unwrap()
            .needs_smtputf8()
    };
    assert!(needs("From: J\u{fc}rgen <a@example.com>\r\n\r\n"));
    assert!(!needs("From: a@example.com\r\n\r\nJ\u{fc}rgen\r\n"));
    assert!(!needs(
        "Bcc: \u{fc}@example.com\r\nFrom: a@example.com\r\n\r\n"
    ));
}

#[test]
fn a_last_line_without_crlf_is_ended() {
    let (filter, body) = feed(b"From: a@example.com", 4);
    assert_eq!(filter.headers().unwrap().kept(), FROM.as_bytes());
    assert!(body.is_empty() && filter.ends_in_crlf());
    let (filter, body) = feed(b"From: a@example.com\r\n\r\nbody", 4);
    assert_eq!(body, b"body");
    assert!(!filter.ends_in_crlf());
    assert!(
        feed(b"From: a@example.com\r\n\r\nbody\r\n", 1)
            .0
            .ends_in_crlf()
    );
}

fn credential(senders: &[&str]) -> Credential {
    let pattern = |text: &&str| match *text {
        "*" => SenderPattern::Any,
        text if text.contains('@') => SenderPattern::Address(text.parse().unwrap()),
        text => SenderPattern::Domain(Domain::parse_utf8(text).unwrap()),
    };
    Credential {
        senders: senders.iter().map(pattern).collect(),
        ..Credential::new("app")
    }
}

#[test]
fn every_author_must_be_a_sender_of_the_credential() {
    let check = |senders: &[&str], content: &str| {
        let (filter, _) = feed(content.as_bytes(), usize::MAX);
        let refusal = filter.headers().unwrap().refusal_for(&credential(senders));
        refusal.map(|refusal| format!("{} {}", refusal.why, refusal.text))
    };
    let two = "From: a@example.com, b@legit.example\r\nSender: a@example.com\r\n\r\n";
    assert_eq!(check(&["example.com", "legit.example"], two), None);
    assert_eq!(check(&["*"], two), None);
    let text = check(&["example.com"], two).unwrap();
    assert_eq!(
        text,
        "553 5.7.1 Credential app may not send as <b@legit.example> (From); use one of its senders"
    );
    let sender = "From: a@example.com\r\nSender: admin@legit.example\r\n\r\n";
    assert!(
        check(&["example.com"], sender)
            .unwrap()
            .contains("(Sender)")
    );
    assert_eq!(
        check(&["A@EXAMPLE.COM"], "From: a@example.com\r\n\r\n"),
        None
    );
    assert!(check(&["b@example.com"], "From: a@example.com\r\n\r\n").is_some());
    assert!(check(&["example.com"], "From: a@sub.example.com\r\n\r\n").is_some());
    assert!(check(&[], "From: a@example.com\r\n\r\n").is_some());
    assert_eq!(
        check(
            &["xn--bcher-kva.example"],
            "From: a@B\u{fc}cher.example\r\n\r\n"
        ),
        None
    );
    assert_eq!(
        check(
            &["b\u{fc}cher.example"],
            "From: a@xn--bcher-kva.example\r\n\r\n"
        ),
        None
    );
}

fn received<'a>(hostname: &'a Domain, recipient: Option<&'a Mailbox>) -> Received<'a> {
    Received {
        helo: "client.example\r\nBcc: x",
        peer: Some(IpAddr::from([192, 0, 2, 7])),
        hostname,
        id: MessageId::from_u64(1 << 40),
        extended: true,
        tls: Some("TLSv1.3 TLS_AES_256_GCM_SHA384"),
        authenticated: true,
        smtputf8: false,
        recipient,
        time: UnixTime::from_secs(951_782_400),
    }
}

#[test]
fn received_date_and_message_id_are_prepended() {
    let hostname = Domain::parse("relay.example.com").unwrap();
    let to: Mailbox = "t@example.org".parse().unwrap();
    let (filter, _) = feed(b"From: a@example.com\r\n\r\n", usize::MAX);
    let headers = filter.headers().unwrap();
    assert_eq!(
        headers.prepend(&received(&hostname, Some(&to))),
        "Received: from client.example??Bcc:?x ([192.0.2.7])\r\n\
         \tby relay.example.com with ESMTPSA id 0000100000000\r\n\
         \tfor <t@example.org>\r\n\
         \ttls TLS_AES_256_GCM_SHA384 (TLSv1.3);\r\n\
         \tTue, 29 Feb 2000 00:00:00 +0000\r\n\
         Message-ID: <0000100000000@relay.example.com>\r\n\
         Date: Tue, 29 Feb 2000 00:00:00 +0000\r\n"
    );
    let (filter, _) = feed(
        b"From: a@example.com\r\nDate: x\r\nMessage-Id: y\r\n\r\n",
        3,
    );
    let plain = Received {
        tls: None,
        authenticated: false,
        extended: false,
        helo: "[192.0.2.7]",
        peer: "2001:db8::1".parse().ok(),
        ..received(&hostname, None)
    };
    assert_eq!(
        filter.headers().unwrap().prepend(&plain),
        "Received: from [192.0.2.7] ([IPv6:2001:db8::1])\r\n\
         \tby relay.example.com with SMTP id 0000100000000;\r\n\
         \tTue, 29 Feb 2000 00:00:00 +0000\r\n"
    );
}

/// Where the attack is in the header, the message is refused as malformed; or the spoofed domain is
/// refused to a credential that does not own it.
#[test]
fn published_spoofing_attacks_do_not_pass() {
    let attacks = [
        (
            "a8",
            "From: <first@attack.com>\r\nFrom: <admin@legitimate.com>\r\n",
            "550",
        ),
        (
            "a9",
            " From: <first@attack.com>\r\nFrom: <admin@legitimate.com>\r\n",
            "550",
        ),
        (
            "a10",
            "From: <first@attack.com>\r\nFrom : <admin@legitimate.com>\r\n",
            "550",
        ),
        (
            "a11",
            "From\r\n : <first@attack.com>\r\nFrom: <admin@legitimate.com>\r\n",
            "550",
        ),
        (
            "a12",
            "From\r\n : <first@attack.com>\r\nSender: <admin@legitimate.com>\r\n",
            "550",
        ),
        (
            "a13",
            "From\r\n : <first@attack.com>\r\nResent-From: <admin@legitimate.com>\r\n",
            "550",
        ),
        (
            "a14",
            "From: <first@attack.com>, <admin@legitimate.com>\r\nSender: <s@sender.legitimate.com>\r\n",
            "553",
        ),
        (
            "a15",
            "From:=?utf-8?B?PGFkbWluQGxlZ2l0aW1hdGUuY29tPg==?=,<second@attack.com>\r\n",
            "550",
        ),
        (
            "a16",
            "From: <@attack.com,@any.com:admin@legitimate.com>\r\n",
            "550",
        ),
        (
            "a17",
            "From: <admin@legitimate.com>\\,<second@attack.com>\r\n",
            "550",
        ),
        (
            "a18",
            "From: admin@legitimate.com,<second@attack.com>\r\nSender: <s@attack.com>\r\n",
            "553",
        ),
        (
            "a19",
            "From: <any@attack.com>admin@legitimate.com\r\n",
            "550",
        ),
        (
            "client_a1",
            "From: <attacker@attack.com>\r\nFrom: <admin@attack.com>\r\n",
            "550",
        ),
        (
            "client_a3",
            "From: <admin@example.com>\r\nSender: <s@attack.com>\r\n",
            "553",
        ),
    ];
    for (id, header, code) in attacks {
        let (filter, _) = feed(format!("{header}\r\nbody\r\n").as_bytes(), 1);
        let headers = filter.headers().unwrap();
        let refusal = headers
            .refusal()
            .or_else(|| headers.refusal_for(&credential(&["attack.com"])));
        let refusal = refusal.unwrap_or_else(|| panic!("{id} passes"));
        assert!(
            refusal.why.to_string().starts_with(code),
            "{id}: {refusal:?}"
        );
    }
}

proptest! {
    /// Every chunking gives the same headers, the same body and the same facts.
    #[test]
    fn chunking_does_not_matter(
        lines in prop::collection::vec(
            prop::sample::select(vec![
                "From: a@b.c", "Bcc: x", " folded", "To: y", "", "body", "\0", "a\rb", "a\nb", "\u{e9}", "Date: 1", "\r",
            ]), 0..12),
        cuts in prop::collection::vec(1usize..9, 1..40),
        ended in any::<bool>(),
    ) {
        let mut content = lines.join("\r\n").into_bytes();
        if ended { content.extend_from_slice(b"\r\n"); }
        let (whole, whole_body) = feed(&content, usize::MAX);
        let mut filter = HeaderFilter::new();
        let (mut body, mut rest) = (Vec::new(), content.as_slice());
        for cut in cuts.iter().cycle() {
            if rest.is_empty() { break; }
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            body.extend_from_slice(filter.push(piece));
            rest = after;
        }
        filter.finish();
        prop_assert_eq!(&body, &whole_body);
        prop_assert_eq!(filter.headers().map(Headers::kept), whole.headers().map(Headers::kept));
        prop_assert_eq!(filter.headers().and_then(Headers::refusal), whole.headers().and_then(Headers::refusal));
        prop_assert_eq!(filter.kind(), whole.kind());
        prop_assert_eq!(filter.ends_in_crlf(), whole.ends_in_crlf());
        // What is taken out is never more than what came in, and a clean message loses nothing.
        let kept = whole.headers().map_or(0, |headers| headers.kept().len());
        prop_assert!(kept + whole_body.len() <= content.len() + 2);
    }

    #[test]
    fn any_octets_are_taken_without_a_panic(content in prop::collection::vec(any::<u8>(), 0..300)) {
        let (filter, _) = feed(&content, 13);
        prop_assert!(filter.headers().is_some());
    }
}
