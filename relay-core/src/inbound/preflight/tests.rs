use std::sync::Arc;

use smtp_proto::{MailParams, Mailbox};

use super::*;
use crate::config::{DkimKey, KeyState, PreflightMode, ReturnPath, ReturnPathState, SigningDomain};
use crate::id::MessageId;
use crate::inbound::direct::{Draft, prepare};
use crate::queue::message::Recipient;
use crate::sign::Key;
use crate::time::{Instant, Now, UnixTime};

const GOOD: &str = "From: a@example.com\r\nTo: b@example.net\r\nSubject: s\r\n\
                    Date: Mon, 23 Nov 2026 22:05:31 +0000\r\nMessage-ID: <1@example.com>\r\n";
const ONE_CLICK: &str = "List-Unsubscribe: <mailto:u@example.com>,\r\n <https://example.com/u?1>\r\n\
                         List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n";

/// A relay that refuses, and may have a key for `example.com`.
fn config(signs: bool) -> Config {
    let mut config = Config::new("relay.example.com".parse().unwrap(), "data");
    config.preflight.mode = PreflightMode::Reject;
    config.preflight.bulk_recipients = 3;
    let mut domain = SigningDomain::new("example.com".parse().unwrap());
    if signs {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        domain.keys.push(DkimKey {
            selector: "e1".into(),
            key_file: "".into(),
            state: KeyState::Signing,
            key: Some(Key::new(key.serialize_der().try_into().unwrap()).unwrap()),
        });
    }
    config.domains.push(Arc::new(domain));
    config
}

fn draft(from: &str, message: &str, recipients: usize) -> Draft {
    let to = (0..recipients).map(|n| Recipient {
        to: format!("r{n}@example.net").parse::<Mailbox>().unwrap(),
        notify: None,
        orcpt: None,
    });
    Draft {
        credential: None,
        from: ReversePath::parse(from).unwrap(),
        params: MailParams::default(),
        recipients: to.collect(),
        message: message.into(),
    }
}

fn judged(config: &Config, draft: Draft) -> Result<Vec<Finding>, Refusal> {
    let now = Now {
        instant: Instant::default(),
        unix: UnixTime::from_secs(1_795_471_531),
    };
    let prepared = prepare(config, draft, MessageId::from_u64(1), now)?;
    Ok(prepared.submission.preflight)
}

/// The rules that a message breaks, and the refusal.
fn rules(config: &Config, from: &str, message: &str, recipients: usize) -> (Vec<String>, String) {
    let mut tags = config.clone();
    tags.preflight.mode = PreflightMode::Tag;
    let found = judged(&tags, draft(from, message, recipients)).unwrap();
    let rules: Vec<String> = found.into_iter().map(|finding| finding.rule).collect();
    let refusal = judged(config, draft(from, message, recipients));
    assert_eq!(refusal.is_err(), !rules.is_empty(), "{message}");
    let mut off = config.clone();
    off.preflight.mode = PreflightMode::Off;
    assert_eq!(judged(&off, draft(from, message, recipients)), Ok(vec![]));
    let text = refusal
        .err()
        .map_or(String::new(), |refusal| refusal.to_string());
    (rules, text)
}

#[test]
fn mail_that_receivers_like_passes() {
    for signs in [true, false] {
        let config = config(signs);
        for fields in ["", "Cc: c@example.net\r\n", "Precedence: first-class\r\n"] {
            let message = format!("{GOOD}{fields}\r\nText.\r\n");
            let (rules, _) = rules(&config, "<a@example.com>", &message, 2);
            assert_eq!(rules, Vec::<String>::new(), "{fields}");
        }
    }
    let bulk = format!("{GOOD}{ONE_CLICK}\r\nText.\r\n");
    assert_eq!(
        rules(&config(true), "<a@example.com>", &bulk, 5).0,
        Vec::<String>::new()
    );
    // What is missing is added.
    let short = "From: a@example.com\r\n\r\nText.\r\n";
    assert_eq!(
        rules(&config(true), "<a@example.com>", short, 1).0,
        Vec::<String>::new()
    );
}

#[test]
fn each_rule_names_itself_and_the_fix() {
    let long = "x".repeat(999);
    let of =
        |replace: &str, with: &str| format!("{}\r\nText.\r\n", GOOD.replacen(replace, with, 1));
    let plus = |fields: &str| format!("{GOOD}{fields}\r\nText.\r\n");
    for (message, rule, fix) in [
        (
            of(
                "From: a@example.com",
                "Sender: a@example.com\r\nFrom: a@example.com, b@example.com",
            ),
            "one-from",
            "name one",
        ),
        (of("Mon, 23", "Tue, 23"), "date", "write it as"),
        (
            of("Mon, 23 Nov 2026 22:05:31 +0000", "2026-11-23 22:05"),
            "date",
            "write it as",
        ),
        (
            of("<1@example.com>", "1@example.com"),
            "message-id",
            "<unique@your.domain>",
        ),
        (
            of("<1@example.com>", "<1>"),
            "message-id",
            "<unique@your.domain>",
        ),
        (
            of("<1@example.com>", "<1@ x>"),
            "message-id",
            "<unique@your.domain>",
        ),
        (plus("Subject: again\r\n"), "once", "keep one"),
        (plus("to: again@example.net\r\n"), "once", "keep one"),
        (plus("X-Old : blank\r\n"), "header-syntax", "RFC 5322 2.2"),
        (
            plus("X-Fold: a\r\n \r\n b\r\n"),
            "header-syntax",
            "RFC 5322 2.2",
        ),
        (
            plus(&format!("X-Long: {long}\r\n")),
            "line-length",
            "quoted-printable",
        ),
        (
            format!("{GOOD}\r\n{long}\r\n"),
            "line-length",
            "quoted-printable",
        ),
        (
            format!("{GOOD}\r\n{long}"),
            "line-length",
            "quoted-printable",
        ),
    ] {
        let (rules, refusal) = rules(&config(true), "<a@example.com>", &message, 1);
        assert_eq!(rules, [rule], "{message}");
        assert!(
            refusal.starts_with("550 5.7.1 Pre-flight rule "),
            "{refusal}"
        );
        assert!(refusal.contains(rule) && refusal.contains(fix), "{refusal}");
        assert!(refusal.len() < 500, "{refusal}");
    }
    let (_, refusal) = rules(
        &config(true),
        "<a@example.com>",
        &plus("Subject: again\r\nTo: again@example.net\r\n"),
        1,
    );
    assert!(refusal.ends_with("(also: once)"), "{refusal}");
    let octets = [GOOD.as_bytes(), b"X-Raw: \xff\xfe\r\n\r\nText.\r\n"].concat();
    let refusal = judged(
        &config(true),
        Draft {
            message: octets,
            ..draft("<a@example.com>", "", 1)
        },
    );
    assert!(refusal.unwrap_err().text.contains("header-syntax"));
}

#[test]
fn a_line_of_998_octets_is_allowed_wherever_it_is_cut() {
    for len in [997, 998, 999] {
        let text = format!("ab\r\n{}\r\ncd\r\n", "x".repeat(len));
        for piece in [1, 2, 3, 500, 5000] {
            let mut lines = Lines::default();
            for piece in text.as_bytes().chunks(piece) {
                lines.push(piece);
            }
            assert_eq!(lines.longest(), len);
        }
    }
}

#[test]
fn what_is_aligned_and_what_is_not() {
    let message = |from: &str| format!("From: {from}\r\n\r\nText.\r\n");
    let none = config(false);
    for (path, from, aligned) in [
        ("<a@example.com>", "a@example.com", true),
        ("<a@bounce.example.com>", "a@example.com", true),
        ("<a@example.com>", "a@news.example.com", true),
        // Both are under [[domain]] example.com.
        ("<a@one.example.com>", "a@two.example.com", true),
        ("<a@one.example.net>", "a@two.example.net", false),
        ("<a@example.net>", "a@example.com", false),
        ("<a@notexample.com>", "a@example.com", false),
        ("<>", "a@example.com", false),
        ("<a@example.com>", "a@[192.0.2.1]", false),
    ] {
        let (rules, refusal) = rules(&none, path, &message(from), 1);
        assert_eq!(rules.is_empty(), aligned, "{path} {from}");
        if !aligned {
            assert_eq!(rules, ["aligned"]);
            assert!(
                refusal.starts_with("550 5.7.26 Pre-flight rule aligned: "),
                "{refusal}"
            );
        }
    }
    // A key, a return path, or a signature that the message has: each is enough.
    let signed = rules(&config(true), "<>", &message("a@example.com"), 1).0;
    assert_eq!(signed, Vec::<String>::new());
    let mut bounces = config(false);
    Arc::make_mut(&mut bounces.domains[0]).return_path = Some(ReturnPath {
        domain: "bounces.example.com".parse().unwrap(),
        state: ReturnPathState::Active,
    });
    let path = rules(&bounces, "<a@example.net>", &message("a@example.com"), 1).0;
    assert_eq!(path, Vec::<String>::new());
    let brought = |d: &str| {
        format!(
            "DKIM-Signature: v=1; d={d};\r\n h=From\r\n{}",
            message("a@example.com")
        )
    };
    for (d, aligned) in [
        ("example.com", true),
        ("EXAMPLE.com", true),
        ("example.net", false),
    ] {
        let rules = rules(&none, "<a@example.net>", &brought(d), 1).0;
        assert_eq!(rules.is_empty(), aligned, "{d}");
    }
}

#[test]
fn bulk_mail_needs_a_signature_and_one_click() {
    let signs = config(true);
    for (fields, recipients) in [
        ("", 3),
        ("Precedence: bulk\r\n", 1),
        ("Precedence:  LIST \r\n", 1),
        ("List-Id: <l.example.com>\r\n", 1),
        ("Feedback-ID: 1:2:3\r\n", 1),
    ] {
        let message = format!("{GOOD}{fields}\r\nText.\r\n");
        let found = rules(&signs, "<a@example.com>", &message, recipients).0;
        assert_eq!(found, ["bulk-unsubscribe"], "{fields}");
        let message = format!("{GOOD}{fields}{ONE_CLICK}\r\nText.\r\n");
        let found = rules(&signs, "<a@example.com>", &message, recipients).0;
        assert_eq!(found, Vec::<String>::new(), "{fields}");
        let found = rules(&config(false), "<a@example.com>", &message, recipients).0;
        assert_eq!(found, ["bulk-signed", "bulk-unsubscribe"], "{fields}");
    }
    for broken in [
        ONE_CLICK.replace("https://", "http://"),
        ONE_CLICK.replace("<https://example.com/u?1>", "<https://>"),
        ONE_CLICK.replace("=One-Click", "=Two-Click"),
        ONE_CLICK.replace("List-Unsubscribe-Post", "X-Post"),
        format!("{ONE_CLICK}{ONE_CLICK}"),
    ] {
        let message = format!("{GOOD}{broken}\r\nText.\r\n");
        let found = rules(&signs, "<a@example.com>", &message, 1).0;
        assert_eq!(found, ["bulk-unsubscribe"], "{broken}");
    }
    // A signature that the message brings must cover both fields. RFC 8058 §4.
    for (h, covered) in [
        ("From:List-Unsubscribe:List-Unsubscribe-Post", true),
        ("from : list-unsubscribe :\r\n list-unsubscribe-post", true),
        ("From:List-Unsubscribe", false),
    ] {
        let message =
            format!("DKIM-Signature: d=example.com; h={h}; b=x\r\n{GOOD}{ONE_CLICK}\r\nText.\r\n");
        let found = rules(&config(false), "<a@example.com>", &message, 1).0;
        assert_eq!(found.is_empty(), covered, "{h}: {found:?}");
    }
}
