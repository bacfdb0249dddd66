//! Reports, read back by a small parser of their own. Rows of the attack catalogue by id.

use bytes::Bytes;
use smtp_proto::{EnvId, Mailbox, Notify, Occasion, Orcpt, Ret, ReversePath};

use super::*;
use crate::id::MessageId;
use crate::outbound::Reason;
use crate::time::UnixTime;

const HEADERS: &str = "Received: by relay\r\nSubject: hello\r\nFrom: a@example.com\r\n";
const BODY: &str = "\r\nThe words.\r\n--=_0000000000002\r\nMore.\r\n";

fn mailbox(text: &str) -> Mailbox {
    Mailbox::parse_utf8(text).unwrap()
}

fn recipient(to: &str) -> Recipient {
    Recipient {
        to: mailbox(to),
        notify: None,
        orcpt: None,
    }
}

fn message(recipients: Vec<Recipient>, bytes: &[u8]) -> Message {
    let header_size = bytes
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .map_or(bytes.len(), |at| at + 4);
    Message {
        id: MessageId::from_u64(1),
        accepted: UnixTime::from_secs(1_795_471_531),
        origin: Origin {
            credential: Some("app".into()),
            peer: None,
        },
        envelope: Envelope {
            from: ReversePath::Mailbox(mailbox("sender@example.com")),
            ret: None,
            envid: None,
            body: BodyKind::SevenBit,
            smtputf8: false,
            handling: Default::default(),
            recipients,
        },
        prefix: Bytes::new(),
        size: bytes.len() as u64,
        header_size: header_size as u32,
    }
}

fn reason(code: Option<u16>, status: &str, text: &str) -> Reason {
    Reason {
        stage: "rcpt".into(),
        code,
        status: status.into(),
        text: text.into(),
        rule: "rcpt-5xx".into(),
    }
}

fn entry(index: u32, action: Action) -> RecipientReport {
    let status = match action {
        Action::Failed => "5.1.1",
        Action::Delayed { .. } => "4.2.0",
        Action::Relayed => "2.1.5",
    };
    let code = status.split_once('.').unwrap().0.parse::<u16>().unwrap() * 100 + 50;
    RecipientReport {
        index,
        action,
        reason: reason(Some(code), status, "said so"),
        host: Some("mx.example.net".into()),
        last_attempt: Some(UnixTime::from_secs(1_795_471_600)),
    }
}

fn report(recipients: Vec<RecipientReport>) -> Report {
    Report {
        about: MessageId::from_u64(1),
        id: MessageId::from_u64(2),
        now: UnixTime::from_secs(1_795_480_000),
        hostname: smtp_proto::Domain::parse("relay.example.org").unwrap(),
        recipients,
    }
}

fn failed(count: u32) -> Report {
    report(
        (0..count)
            .map(|index| entry(index, Action::Failed))
            .collect(),
    )
}

/// A report as a reader sees it.
struct Read {
    bytes: Vec<u8>,
    header: String,
    parts: Vec<(String, String)>,
    envelope: Envelope,
}

impl Read {
    /// The fields of the second part: those of the message, then those of each recipient.
    fn status(&self) -> Vec<Vec<(String, String)>> {
        let unfolded = self.parts[1].1.replace("\r\n ", " ");
        let fields = |block: &str| {
            let split = |line: &str| {
                let (name, value) = line.split_once(": ").unwrap();
                (name.to_owned(), value.to_owned())
            };
            block
                .split("\r\n")
                .filter(|line| !line.is_empty())
                .map(split)
                .collect()
        };
        unfolded.trim_end().split("\r\n\r\n").map(fields).collect()
    }

    fn field(&self, block: usize, name: &str) -> Option<String> {
        let mut found = self.status()[block]
            .clone()
            .into_iter()
            .filter(|(n, _)| n == name);
        let value = found.next().map(|(_, value)| value);
        assert!(found.next().is_none(), "{name} twice");
        value
    }

    fn words(&self) -> String {
        self.parts[0]
            .1
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// What holds of every report: checked here for each that a test reads.
fn read(submission: Submission) -> Read {
    let Body::Memory(bytes) = &submission.body else {
        panic!("in memory")
    };
    assert_eq!(submission.size, bytes.len() as u64);
    assert!(bytes.len() <= REPORT_SIZE_MAX);
    assert!(bytes.ends_with(b"\r\n"));
    for line in bytes.split_inclusive(|&b| b == b'\n') {
        let text = line.strip_suffix(b"\r\n").expect("CRLF ends lines");
        assert!(text.len() <= 998 && !text.iter().any(|b| matches!(b, 0 | b'\r')));
    }
    let envelope = submission.envelope;
    assert_eq!(envelope.from, ReversePath::Null);
    assert_eq!(envelope.recipients[0].notify, Some(Notify::NEVER));
    assert_eq!(envelope.recipients.len(), 1);
    assert_eq!(bytes.is_ascii(), envelope.body == BodyKind::SevenBit);

    let (header, rest) = bytes.split_at(submission.header_size as usize);
    let header = String::from_utf8(header.to_vec()).unwrap();
    assert!(header.ends_with("\r\n\r\n") && !header.trim_end().contains("\r\n\r\n"));
    for must in [
        "From: Mail Delivery System <MAILER-DAEMON@relay.example.org>",
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        "Message-ID: <0000000000002@relay.example.org>",
        "Date: Tue, 24 Nov 2026 00:26:40 +0000",
        "multipart/report; report-type=delivery-status",
    ] {
        assert!(header.contains(must), "{must} is not in {header}");
    }
    let boundary = header
        .split_once("boundary=\"")
        .unwrap()
        .1
        .split_once('"')
        .unwrap()
        .0;
    let rest = String::from_utf8_lossy(rest).into_owned();
    let (inside, after) = rest.split_once(&format!("--{boundary}--\r\n")).unwrap();
    assert_eq!(after, "");
    let parts: Vec<(String, String)> = inside
        .split(&format!("--{boundary}\r\n"))
        .skip(1)
        .map(|part| {
            let (header, content) = part.split_once("\r\n\r\n").unwrap();
            let content = content.strip_suffix("\r\n").unwrap();
            let content = if header.contains("Encoding: base64") {
                use base64::Engine as _;
                let bytes = base64::engine::general_purpose::STANDARD
                    .decode(content.replace("\r\n", ""))
                    .unwrap();
                String::from_utf8_lossy(&bytes).into_owned()
            } else {
                content.to_owned()
            };
            (header.to_owned(), content)
        })
        .collect();
    assert_eq!(parts.len(), 3);
    Read {
        bytes: bytes.to_vec(),
        header,
        parts,
        envelope,
    }
}

fn written(report: &Report, original: &Message, bytes: &[u8]) -> Read {
    let given = &bytes[..original_len(original).min(bytes.len())];
    read(write(report, original, given).unwrap())
}

#[test]
fn a_failure_says_what_happened_to_people_and_programs() {
    let bytes = [HEADERS, BODY].concat();
    let mut original = message(vec![recipient("user@example.net")], bytes.as_bytes());
    original.envelope.envid = EnvId::new("job 7  x");
    original.envelope.recipients[0].orcpt = Orcpt::parse("rfc822;first+2Blast@example.net");
    let read = written(&failed(1), &original, bytes.as_bytes());

    assert!(read.header.contains("To: <sender@example.com>\r\n"));
    assert!(
        read.header
            .contains("Subject: Undeliverable: your message to user@example.net\r\n")
    );
    assert_eq!(
        read.envelope.recipients[0].to,
        mailbox("sender@example.com")
    );
    let words = read.words();
    for must in [
        "This is the mail relay relay.example.org.",
        "could not be delivered to this recipient, and is not tried again: <user@example.net>",
        "The host mx.example.net replied: 550 5.1.1 said so",
        "check the address for typing mistakes",
        "Status 5.1.1, stage rcpt, rule rcpt-5xx.",
        "number 0000000000001 here, and was accepted on Mon, 23 Nov 2026 22:05:31 +0000",
    ] {
        assert!(words.contains(must), "{must}: {words}");
    }
    assert!(
        read.parts[1]
            .0
            .starts_with("Content-Type: message/delivery-status\r\n")
    );
    for (block, name, value) in [
        (0, "Reporting-MTA", "dns; relay.example.org"),
        (0, "Original-Envelope-Id", "job 7  x"),
        (0, "Arrival-Date", "Mon, 23 Nov 2026 22:05:31 +0000"),
        (0, "X-Relay-Queue-Id", "0000000000001"),
        (1, "Original-Recipient", "rfc822; first+last@example.net"),
        (1, "Final-Recipient", "rfc822; user@example.net"),
        (1, "Action", "failed"),
        (1, "Status", "5.1.1"),
        (1, "Remote-MTA", "dns; mx.example.net"),
        (1, "Diagnostic-Code", "smtp; 550 5.1.1 said so"),
        (1, "Last-Attempt-Date", "Mon, 23 Nov 2026 22:06:40 +0000"),
    ] {
        assert_eq!(read.field(block, name).as_deref(), Some(value), "{name}");
    }
    assert!(
        read.parts[2]
            .0
            .starts_with("Content-Type: text/rfc822-headers\r\n")
    );
    assert_eq!(read.parts[2].1, HEADERS);
}

#[test]
fn delays_and_relays_have_their_own_words() {
    let bytes = [HEADERS, BODY].concat();
    let mut original = message(vec![recipient("a@b"), recipient("c@d")], bytes.as_bytes());
    original.envelope.recipients[1].notify = Some(Notify::on(&[Occasion::Success]));
    let until = UnixTime::from_secs(1_795_800_000);
    let delayed = written(
        &report(vec![entry(0, Action::Delayed { until })]),
        &original,
        bytes.as_bytes(),
    );
    assert!(
        delayed
            .header
            .contains("Subject: Delayed: your message to a@b\r\n")
    );
    assert!(
        delayed
            .words()
            .contains("You need not send it again: it is tried until Fri, 27 Nov 2026")
    );
    assert_eq!(
        delayed.field(1, "Will-Retry-Until"),
        Some(until.to_rfc5322())
    );
    assert_eq!(delayed.field(1, "Action").as_deref(), Some("delayed"));

    let relayed = written(
        &report(vec![entry(1, Action::Relayed)]),
        &original,
        bytes.as_bytes(),
    );
    assert!(
        relayed
            .header
            .contains("Subject: Relayed: your message to c@d\r\n")
    );
    assert_eq!(relayed.field(1, "Action").as_deref(), Some("relayed"));
    assert_eq!(relayed.field(1, "Status").as_deref(), Some("2.1.5"));
}

/// What we found ourselves is not dressed up as a reply.
#[test]
fn our_own_findings_are_no_replies() {
    let bytes = [HEADERS, BODY].concat();
    let original = message(vec![recipient("a@nowhere.example")], bytes.as_bytes());
    let mut report = failed(1);
    report.recipients[0].host = None;
    report.recipients[0].reason = reason(None, "5.1.2", "nowhere.example does not exist");
    report.recipients[0].last_attempt = None;
    let read = written(&report, &original, bytes.as_bytes());
    assert_eq!(
        read.field(1, "Diagnostic-Code").as_deref(),
        Some("X-Relay; nowhere.example does not exist")
    );
    assert_eq!(read.field(1, "Remote-MTA"), None);
    assert_eq!(read.field(1, "Last-Attempt-Date"), None);
    assert!(
        read.words()
            .contains("relay.example.org found: nowhere.example does not exist")
    );
    // A status of ours is not put into the mouth of the receiver.
    report.recipients[0].reason = reason(Some(451), "5.4.7", "4.2.0 later");
    let read = written(&report, &original, bytes.as_bytes());
    assert_eq!(read.field(1, "Status").as_deref(), Some("5.4.7"));
    assert_eq!(
        read.field(1, "Diagnostic-Code").as_deref(),
        Some("smtp; 451 4.2.0 later")
    );
}

#[test]
fn dsn_01_nobody_is_told_about_a_report() {
    let mut original = message(vec![recipient("a@b")], HEADERS.as_bytes());
    original.envelope.from = ReversePath::Null;
    original.envelope.recipients[0].notify = Some(Notify::on(&[Occasion::Failure]));
    let refused = write(&failed(1), &original, HEADERS.as_bytes());
    assert!(matches!(refused, Err(NotDue::NullSender)));
}

/// One message, 1,000 recipients, all refused, 25 MB, RET=FULL: one report, small, with headers only.
#[test]
fn dsn_02_a_thousand_failures_make_one_bounded_report() {
    let recipients = (0..1000)
        .map(|n| recipient(&format!("user{n}@dest.example")))
        .collect();
    let bytes = [HEADERS, BODY].concat();
    let mut original = message(recipients, bytes.as_bytes());
    original.envelope.ret = Some(Ret::Full);
    original.size = 25 * 1024 * 1024;
    assert!(original_len(&original) < 1024);
    let read = written(&failed(1000), &original, bytes.as_bytes());
    assert!(read.bytes.len() < 128 * 1024, "{}", read.bytes.len());
    assert_eq!(read.status().len(), 1001);
    assert_eq!(
        read.field(1000, "Final-Recipient").as_deref(),
        Some("rfc822; user999@dest.example")
    );
    assert_eq!(read.field(1000, "Status").as_deref(), Some("5.1.1"));
    assert!(read.header.contains("your message to 1000 recipients"));
    assert!(
        read.words()
            .contains("and 992 more, in the delivery report below")
    );
    assert!(read.parts[2].0.contains("text/rfc822-headers"));
}

/// The largest of everything still fits.
#[test]
fn dsn_02_the_worst_report_is_bounded() {
    let local = "ü".repeat(32);
    let domain = format!("{}.example", vec!["ö".repeat(30); 2].join("."));
    let recipients = (0..5000).map(|n| {
        let local = format!("{n}{}", &local[..50]);
        let orcpt = Orcpt::new("utf-8", &"\u{10ffff}".repeat(120));
        Recipient {
            to: mailbox(&format!("{local}@{domain}")),
            notify: None,
            orcpt,
        }
    });
    let head = format!("{}\r\n", "X: ü\u{20ac}\r\n".repeat(20_000));
    let mut original = message(recipients.collect(), head.as_bytes());
    original.envelope.ret = Some(Ret::Full);
    let mut report = failed(5000);
    for (n, entry) in report.recipients.iter_mut().enumerate() {
        entry.reason.text = format!("{n} {}", "x".repeat(5000));
        entry.host = Some("h".repeat(5000));
        entry.reason.rule = "r".repeat(5000);
    }
    let read = written(&report, &original, head.as_bytes());
    assert!(
        read.words()
            .contains("Of 5000 recipients, the report lists the first")
    );
}

#[test]
fn dsn_04_notify_decides_for_each_recipient() {
    let until = UnixTime::from_secs(1_795_800_000);
    let (failed, delayed, relayed) = (Action::Failed, Action::Delayed { until }, Action::Relayed);
    for (notify, wanted) in [
        (None, [true, true, false]),
        (Some(Notify::UNSAID), [true, true, false]),
        (Some(Notify::NEVER), [false, false, false]),
        (Some(Notify::on(&[Occasion::Success])), [false, false, true]),
        (Some(Notify::on(&[Occasion::Failure])), [true, false, false]),
        (Some(Notify::on(&[Occasion::Delay])), [false, true, false]),
        (
            Some(Notify::on(&[
                Occasion::Success,
                Occasion::Failure,
                Occasion::Delay,
            ])),
            [true, true, true],
        ),
    ] {
        let told = [failed, delayed, relayed].map(|action| is_wanted(action, notify));
        assert_eq!(told, wanted, "{notify:?}");
    }

    let mut original = message(
        vec![recipient("a@b"), recipient("c@d"), recipient("e@f")],
        HEADERS.as_bytes(),
    );
    original.envelope.recipients[0].notify = Some(Notify::NEVER);
    original.envelope.recipients[2].notify = Some(Notify::on(&[Occasion::Delay]));
    let read = written(&super::tests::failed(3), &original, HEADERS.as_bytes());
    assert_eq!(read.status().len(), 2);
    assert!(!String::from_utf8_lossy(&read.bytes).contains("a@b"));
    original.envelope.recipients[1].notify = Some(Notify::NEVER);
    let unwanted = write(&super::tests::failed(3), &original, HEADERS.as_bytes());
    assert!(matches!(unwanted, Err(NotDue::Unwanted)));
    // An index that the message does not have is nobody.
    let unwanted = write(&report(vec![entry(7, Action::Failed)]), &original, b"");
    assert!(matches!(unwanted, Err(NotDue::Unwanted)));
}

#[test]
fn dsn_04_ret_decides_what_comes_back() {
    let bytes = [HEADERS, BODY].concat();
    let until = UnixTime::from_secs(1_795_800_000);
    let large = format!("{HEADERS}\r\n{}", "0123456789\r\n".repeat(5000));
    let cases = [
        (None, Action::Failed, bytes.as_str(), false),
        (Some(Ret::Headers), Action::Failed, &bytes, false),
        (Some(Ret::Full), Action::Failed, &bytes, true),
        (Some(Ret::Full), Action::Delayed { until }, &bytes, false),
        (Some(Ret::Full), Action::Failed, &large, false),
    ];
    for (ret, action, text, whole) in cases {
        let mut original = message(vec![recipient("a@b")], text.as_bytes());
        original.envelope.ret = ret;
        let read = written(&report(vec![entry(0, action)]), &original, text.as_bytes());
        let (header, content) = &read.parts[2];
        assert_eq!(
            header.contains("message/rfc822"),
            whole,
            "{ret:?} {action:?}"
        );
        assert_eq!(content, if whole { text } else { HEADERS });
        assert!(read.bytes.len() <= RETURN_SIZE_MAX);
    }
}

/// The original holds the very boundary that comes first, and that which comes second.
#[test]
fn no_original_closes_the_report() {
    let body = "--=_0000000000002\r\n--=_0000000000002_1--\r\n";
    let bytes = format!("{HEADERS}\r\n{body}");
    let mut original = message(vec![recipient("a@b")], bytes.as_bytes());
    original.envelope.ret = Some(Ret::Full);
    let read = written(&failed(1), &original, bytes.as_bytes());
    assert_eq!(read.parts[2].1, bytes);
}

/// Rule "Output": what a peer said is data here too.
#[test]
fn a_reply_adds_no_field_line_or_part() {
    let original = message(vec![recipient("a@b")], HEADERS.as_bytes());
    for text in [
        "no\r\nAction: delivered\r\n\r\n--=_0000000000002--",
        "\u{1b}[31mred\u{7}\0",
        "übel \u{202e}drow \u{85} x",
        "",
        "    ",
    ] {
        let mut report = failed(1);
        report.recipients[0].reason.text = text.into();
        report.recipients[0].host = Some(text.into());
        report.recipients[0].reason.rule = text.into();
        report.recipients[0].reason.stage = text.into();
        report.recipients[0].reason.status = text.into();
        let read = written(&report, &original, HEADERS.as_bytes());
        assert_eq!(read.status().len(), 2, "{text:?}");
        assert_eq!(read.field(1, "Action").as_deref(), Some("failed"));
        assert_eq!(read.field(1, "Status").as_deref(), Some("5.0.0"));
        assert!(
            read.bytes
                .iter()
                .all(|b| matches!(b, b'\r' | b'\n' | b'\t' | b' '..=b'~')),
            "{text:?}"
        );
    }
}

/// RFC 6533: an ASCII sender gets ASCII, whatever the recipients are; an international one gets UTF-8.
#[test]
fn utf_8_goes_only_where_it_is_received() {
    let head = "Subject: gr\u{fc}n\r\nFrom: a@b\r\n";
    let bytes = format!("{head}\r\nbody\r\n");
    let mut original = message(vec![recipient("jörg+x@bücher.example")], bytes.as_bytes());
    original.envelope.smtputf8 = true;
    original.envelope.recipients[0].orcpt = Orcpt::new("utf-8", "jörg=@x");
    let read = written(&failed(1), &original, bytes.as_bytes());
    assert!(!read.envelope.smtputf8 && read.bytes.is_ascii());
    assert!(
        read.header
            .contains("Subject: Undeliverable: your message to 1 recipient\r\n")
    );
    assert!(read.words().contains("<jörg+x@bücher.example>"));
    assert_eq!(
        read.field(1, "Final-Recipient").as_deref(),
        Some("utf-8; j\\x{F6}rg\\x{2B}x@b\\x{FC}cher.example")
    );
    assert_eq!(
        read.field(1, "Original-Recipient").as_deref(),
        Some("utf-8; j\\x{F6}rg\\x{3D}@x")
    );
    assert!(
        read.parts[2]
            .0
            .starts_with("Content-Type: message/global-headers\r\n")
    );
    assert_eq!(read.parts[2].1, head);

    original.envelope.from = ReversePath::Mailbox(mailbox("jürgen@example.com"));
    original.envelope.ret = Some(Ret::Full);
    let read = written(&failed(1), &original, bytes.as_bytes());
    assert!(read.envelope.smtputf8);
    assert!(read.header.contains("To: <jürgen@example.com>"));
    assert!(
        read.parts[1]
            .0
            .starts_with("Content-Type: message/global-delivery-status\r\n")
    );
    assert_eq!(
        read.field(1, "Final-Recipient").as_deref(),
        Some("utf-8; jörg+x@bücher.example")
    );
    assert!(
        read.parts[2]
            .0
            .starts_with("Content-Type: message/global\r\n")
    );
    assert_eq!(read.parts[2].1, bytes);
}

/// Headers with octets of no character set, without an end, with lines too long: still a report.
#[test]
fn a_broken_original_is_returned_as_far_as_it_goes() {
    let long = [b"X: ".to_vec(), vec![b'y'; 3000], b"\r\n".to_vec()].concat();
    let endless = [
        b"A: b\r\n".to_vec(),
        long,
        b"B: \xff\x80\0\rc\r\nC: d".to_vec(),
    ]
    .concat();
    let mut original = message(vec![recipient("a@b")], &endless);
    for (body, ret) in [
        (BodyKind::EightBit, Ret::Headers),
        (BodyKind::EightBit, Ret::Full),
        (BodyKind::Binary, Ret::Full),
    ] {
        original.envelope.body = body;
        original.envelope.ret = Some(ret);
        let read = written(&failed(1), &original, &endless);
        assert!(read.parts[2].1.starts_with("A: b\r\nX: yyy"));
        assert!(
            read.parts[2].1.ends_with("B: ??  c\r\n"),
            "{:?}",
            read.parts[2].1
        );
    }
    // Nothing could be read of it at all.
    let read = read(write(&failed(1), &original, b"").unwrap());
    assert_eq!(read.parts[2].1, "\r\n");

    // An eight-bit body comes back as it was, and the report says what it needs.
    let bytes = [HEADERS.as_bytes(), b"\r\ngr\xc3\xbcn\r\n"].concat();
    let mut original = message(vec![recipient("a@b")], &bytes);
    original.envelope.body = BodyKind::EightBit;
    original.envelope.ret = Some(Ret::Full);
    let read = written(&failed(1), &original, &bytes);
    assert_eq!(read.envelope.body, BodyKind::EightBit);
    assert!(read.parts[2].0.contains("Content-Transfer-Encoding: 8bit"));
}
