//! The catalogue of attacks on an SMTP server, as far as the wire decides them: each row in one
//! piece, one octet at a time, over TLS, and after AUTH.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Session, config};
use smtp_proto::dot::LineEndings;

/// Where a row begins.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Start {
    Connect,
    Ehlo,
    Mail,
    Rcpt,
    Data,
}

/// How a row ends.
#[derive(Clone, Copy, PartialEq, Debug)]
enum End {
    Open,
    Closed,
}

use End::{Closed, Open};
use Start::{Connect, Data, Ehlo, Mail, Rcpt};

/// How a row is run besides: the rules must not depend on it.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Way {
    Clear,
    Tls,
    Authenticated,
}

fn begin(start: Start, way: Way, line_endings: LineEndings) -> Session {
    let mut config = config();
    config.line_endings = line_endings;
    let mut session = Session::new(config);
    if way != Way::Clear {
        session.start_tls();
    }
    if start != Connect || way == Way::Authenticated {
        session.receive(b"EHLO client.test\r\n");
    }
    if way == Way::Authenticated {
        session.receive(b"AUTH PLAIN AHUAcA==\r\n");
        assert!(session.smtp.is_authenticated());
    }
    if matches!(start, Mail | Rcpt | Data) {
        session.receive(b"MAIL FROM:<a@client.test>\r\n");
    }
    if matches!(start, Rcpt | Data) {
        session.receive(b"RCPT TO:<b@server.test>\r\n");
    }
    if start == Data {
        session.receive(b"DATA\r\n");
    }
    assert_eq!(session.fatal, None);
    session.wire.clear();
    session
}

/// Runs one row in every way, and hands the session over for more to be asked of it.
fn row(id: &str, start: Start, input: &[u8], codes: &[u16], end: End, more: impl Fn(&Session)) {
    for way in [Way::Clear, Way::Tls, Way::Authenticated] {
        for size in [1, 7, input.len()] {
            let mut session = begin(start, way, LineEndings::Reject);
            for part in input.chunks(size) {
                session.receive(part);
            }
            let about = format!("{id} {way:?} by {size}: {:?}", session.log);
            let no_echo = String::from_utf8_lossy(&session.wire).contains("HTTP/1.1");
            assert!(!no_echo, "{about}");
            assert_eq!(session.take_codes(), codes, "{about}");
            assert_eq!(session.fatal.is_some(), end == Closed, "{about}");
            more(&session);
        }
    }
}

fn nothing(_: &Session) {}

#[test]
fn end_of_data() {
    let smuggled = "MAIL FROM:<evil@a>\r\nRCPT TO:<victim@b>\r\nDATA\r\nevil\r\n.\r\n";
    for (id, end) in [
        ("EOD-01", "\n.\n"),
        ("EOD-02", "\n.\r\n"),
        ("EOD-03", "\r\n.\n"),
        ("EOD-04", "\r.\r"),
        ("EOD-05", "\r\n.\r"),
        ("EOD-06", "\r.\r\n"),
        ("EOD-07", "\n.\r"),
        ("EOD-08", "\r.\n"),
        ("EOD-11", "\r\n\0.\r\n"),
    ] {
        let input = format!("Subject: a\r\n\r\nbody{end}{smuggled}");
        row(id, Data, input.as_bytes(), &[550], Open, |session| {
            assert!(session.messages.is_empty(), "{id}");
        });
        normalised(id, &input, end);
    }
    for (id, end) in [("EOD-13", "\r\n. \r\n"), ("EOD-14", "\r\n..\r\n")] {
        let input = format!("Subject: a\r\n\r\nbody{end}{smuggled}");
        row(id, Data, input.as_bytes(), &[250], Open, |session| {
            let message = String::from_utf8(session.messages[0].clone()).unwrap();
            assert!(session.messages.len() == 1 && message.contains("RCPT TO:<victim@b>"));
        });
    }
    row(
        "EOD-15",
        Data,
        b".\r\nNOOP\r\n",
        &[250, 250],
        Open,
        |session| {
            assert_eq!(session.messages, [b""]);
        },
    );
    row("EOD-16", Data, b"a\r\n.\r\n", &[250], Open, |session| {
        assert_eq!(session.messages, [b"a\r\n"]);
    });
    row("EOD-17", Data, b"a\nb\r\n.\r\n", &[550], Open, nothing);
    row("EOD-18", Data, b"a\rb\r\n.\r\n", &[550], Open, nothing);
}

/// Where the config asks for it, a bare CR or LF becomes CRLF: still one message, and no bare one
/// in it.
fn normalised(id: &str, input: &str, end: &str) {
    let mut session = begin(Data, Way::Clear, LineEndings::Normalise);
    session.receive(input.as_bytes());
    if end.contains('\0') {
        assert_eq!(session.take_codes(), [550], "{id}");
        return;
    }
    assert_eq!(session.take_codes(), [250], "{id}");
    let message = String::from_utf8(session.messages.remove(0)).unwrap();
    assert!(
        session.messages.is_empty() && message.contains("MAIL FROM:<evil@a>"),
        "{id}"
    );
    assert!(
        !message.replace("\r\n", "").contains(['\r', '\n']),
        "{id}: {message:?}"
    );
}

#[test]
fn commands() {
    type Row<'a> = (&'a str, Start, &'a [u8], &'a [u16], End);
    let table: &[Row<'_>] = &[
        (
            "CMD-01",
            Connect,
            b"RCPT TO:<b@c>\r\nNOOP\r\n",
            &[503, 250],
            Open,
        ),
        ("CMD-02", Ehlo, b"DATA\r\n", &[503], Open),
        ("CMD-03", Mail, b"DATA\r\n", &[503], Open),
        ("CMD-04", Mail, b"MAIL FROM:<a@b>\r\n", &[503], Open),
        (
            "CMD-06",
            Rcpt,
            b"BDAT 99999999999\r\nDATA\r\n",
            &[552],
            Closed,
        ),
        ("CMD-06 kept", Rcpt, b"BDAT 60000000\r\n", &[], Open),
        (
            "CMD-08",
            Connect,
            b"EHLO\r\nEHLO a\0b\r\n",
            &[501, 501],
            Open,
        ),
        ("CMD-11", Ehlo, b"NOOP\nNOOP\r\n", &[421], Closed),
        (
            "CMD-12",
            Ehlo,
            b"MAIL FROM:<a\rb@x.example>\r\n",
            &[501],
            Open,
        ),
        (
            "CMD-13",
            Ehlo,
            b"MAIL FROM:<a\0b@x.example>\r\n",
            &[501],
            Open,
        ),
        (
            "CMD-14",
            Ehlo,
            b"MAIL FROM:<\xff\xfe@x.example>\r\n",
            &[501],
            Open,
        ),
        (
            "CMD-14 UTF-8",
            Ehlo,
            "MAIL FROM:<é@x.example>\r\n".as_bytes(),
            &[553],
            Open,
        ),
        (
            "CMD-14 RCPT",
            Mail,
            "RCPT TO:<é@x.example>\r\n".as_bytes(),
            &[553],
            Open,
        ),
        (
            "CMD-15",
            Ehlo,
            b"MAIL FROM:<a@b> SIZE=18446744073709551616\r\n",
            &[501],
            Open,
        ),
        (
            "CMD-15 large",
            Ehlo,
            b"MAIL FROM:<a@b> SIZE=18446744073709551615\r\n",
            &[552],
            Open,
        ),
        (
            "CMD-17",
            Ehlo,
            b"MAIL FROM:<a@b> SIZE=1 SIZE=2\r\n",
            &[501],
            Open,
        ),
        ("CMD-18", Ehlo, b"MAIL FROM:<a@b> FOO=BAR\r\n", &[555], Open),
        (
            "CMD-19",
            Mail,
            b"RCPT TO:<;sleep 5;@example.net>\r\nNOOP\r\n",
            &[501, 250],
            Open,
        ),
        ("CMD-21", Ehlo, b"ETRN #',1); --\r\n", &[502], Open),
        (
            "CMD-22",
            Mail,
            b"RCPT TO:<@a.example,@b.example:u@c>\r\n",
            &[501],
            Open,
        ),
        (
            "CMD-26",
            Ehlo,
            b"MAIL FROM:<a@b> ENVID=a+00b\r\n",
            &[501],
            Open,
        ),
        (
            "CMD-28",
            Mail,
            b"RCPT TO:<b@c> NOTIFY=NEVER,SUCCESS\r\n",
            &[501],
            Open,
        ),
        (
            "CMD-29",
            Connect,
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            &[421],
            Closed,
        ),
        ("CMD-30", Connect, b"POST / HTTP/1.1\r\n", &[421], Closed),
        (
            "CMD-32",
            Ehlo,
            b"XCLIENT ADDR=127.0.0.1 LOGIN=admin\r\n",
            &[500],
            Open,
        ),
        (
            "CMD-33",
            Connect,
            b"PROXY TCP4 10.0.0.1 10.0.0.2 1 25\r\n",
            &[500],
            Open,
        ),
        (
            "CMD-36",
            Ehlo,
            b"VRFY postmaster\r\nVRFY nosuchuser\r\nEXPN staff\r\n",
            &[252, 252, 502],
            Open,
        ),
        (
            "TLS-05",
            Connect,
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\0\r\n",
            &[421],
            Closed,
        ),
    ];
    for &(id, start, input, codes, end) in table {
        row(id, start, input, codes, end, nothing);
    }
}

#[test]
fn lines_without_end() {
    let long = [b"EHLO ", &b"a".repeat(10_000)[..], b"\r\nNOOP\r\n"].concat();
    row("CMD-09", Connect, &long, &[500, 250], Open, nothing);
    let endless = b"A".repeat(70_000);
    row("CMD-10", Connect, &endless, &[421], Closed, nothing);
}

#[test]
fn patience_ends() {
    row(
        "CMD-34",
        Ehlo,
        &b"NOOP\r\n".repeat(2000),
        &[&[250; 100][..], &[421]].concat(),
        Closed,
        nothing,
    );
    row(
        "CMD-35",
        Ehlo,
        &b"BOGUS\r\n".repeat(200),
        &[&[500; 20][..], &[421]].concat(),
        Closed,
        nothing,
    );
    let quit = [&b"BOGUS\r\n".repeat(20)[..], b"QUIT\r\n"].concat();
    let mut session = begin(Ehlo, Way::Clear, LineEndings::Reject);
    session.receive(&quit);
    assert_eq!(
        session.take_codes().last(),
        Some(&221),
        "QUIT is always heard"
    );
}

#[test]
fn pipelining_before_the_hello_reply_is_answered_in_order() {
    let input = b"EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<b@c>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n";
    row(
        "CMD-37",
        Connect,
        input,
        &[250, 250, 250, 354, 250, 221],
        Closed,
        nothing,
    );
}

#[test]
fn chunks() {
    let table: &[(&str, &[u8], &[u16], End)] = &[
        ("BDAT-01", b"BDAT 0 LAST\r\nNOOP\r\n", &[250, 250], Open),
        ("BDAT-03", b"BDAT 18446744073709551615\r\n", &[552], Closed),
        (
            "BDAT-04",
            b"BDAT 99999999999999999999999999\r\n",
            &[501],
            Closed,
        ),
        ("BDAT-05", b"BDAT -1\r\n", &[501], Closed),
        ("BDAT-07", b"BDAT 0x10\r\n", &[501], Closed),
        ("BDAT-08", b"BDAT \r\n", &[501], Closed),
        ("BDAT-09", b"BDAT 1 2\r\n", &[501], Closed),
        ("BDAT-11", b"BDAT 4294967296\r\n", &[552], Closed),
        (
            "BDAT-12",
            b"BDAT 10\r\n0123456789DATA\r\nDATA\r\n",
            &[250, 503, 503],
            Open,
        ),
        (
            "BDAT-13",
            b"BDAT 10\r\n0123456789MAIL FROM:<a@b>\r\n",
            &[250, 503],
            Open,
        ),
        (
            "BDAT-15",
            b"BDAT 10\r\n0123456789RSET\r\nBDAT 1 LAST\r\nx",
            &[250, 250, 503],
            Open,
        ),
        (
            "BDAT-18",
            b"BDAT 5 LAST\r\na\nb\r\nNOOP\r\n",
            &[550, 250],
            Open,
        ),
        ("BDAT-20", b"BDAT 100\r\nshort", &[], Open),
        (
            "BDAT-22",
            b"BDAT 12\r\n.\r\n.\r\n.\r\n.\r\nRSET\r\n",
            &[250, 250],
            Open,
        ),
    ];
    for &(id, input, codes, end) in table {
        row(id, Rcpt, input, codes, end, |session| {
            assert!(session.messages.iter().all(Vec::is_empty), "{id}");
        });
    }
    let flood = b"BDAT 0\r\n".repeat(5000);
    row(
        "BDAT-02",
        Rcpt,
        &flood,
        &[&[250; 100][..], &[421]].concat(),
        Closed,
        nothing,
    );
    let dots = b"BDAT 23 LAST\r\nSubject: a\r\n\r\n.\r\nMAIL\r\nNOOP\r\n";
    row("BDAT-16", Rcpt, dots, &[250, 250], Open, |session| {
        assert_eq!(session.messages, [b"Subject: a\r\n\r\n.\r\nMAIL\r\n"]);
    });
    let split = b"BDAT 13\r\nSubject: a\r\n\rBDAT 4 LAST\r\n\nb\r\n";
    row("BDAT-17", Rcpt, split, &[250, 250], Open, |session| {
        assert_eq!(session.messages, [b"Subject: a\r\n\r\nb\r\n"]);
    });
}

/// The 14 ends of the end-of-data rows as chunks: what comes out has no bare CR or LF.
#[test]
fn chunks_with_false_ends() {
    for end in [
        "\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r\n.\r", "\r.\r\n", "\n.\r", "\r.\n",
    ] {
        let body = format!("body{end}MAIL FROM:<evil@a>\r\n");
        let input = format!("BDAT {} LAST\r\n{body}NOOP\r\n", body.len());
        row("OUT-02", Rcpt, input.as_bytes(), &[550, 250], Open, nothing);
        let mut session = begin(Rcpt, Way::Clear, LineEndings::Normalise);
        session.receive(input.as_bytes());
        assert_eq!(session.take_codes(), [250, 250]);
        let message = String::from_utf8(session.messages.remove(0)).unwrap();
        assert!(
            !message.replace("\r\n", "").contains(['\r', '\n']),
            "{message:?}"
        );
    }
}

fn auth(way: Way, input: &[u8]) -> (Vec<u16>, Session) {
    let mut session = begin(Ehlo, way, LineEndings::Reject);
    session.receive(input);
    (session.take_codes(), session)
}

#[test]
fn authentication() {
    for (id, way, input, codes) in [
        (
            "AUTH-01",
            Way::Clear,
            &b"AUTH PLAIN AGEAYg==\r\n"[..],
            &[538][..],
        ),
        (
            "AUTH-02",
            Way::Tls,
            b"AUTH PLAIN\r\n*\r\nNOOP\r\n",
            &[334, 501, 250],
        ),
        (
            "AUTH-04",
            Way::Tls,
            b"AUTH PLAIN dXNlckB0ZXN0c2VydmVyAHlalala==\r\nNOOP\r\n",
            &[501, 250],
        ),
        (
            "AUTH-04 later",
            Way::Tls,
            b"AUTH PLAIN\r\n!!\r\nNOOP\r\n",
            &[334, 501, 250],
        ),
        ("wrong", Way::Tls, b"AUTH PLAIN AGEAYg==\r\n", &[535]),
        (
            "twice",
            Way::Authenticated,
            b"AUTH PLAIN AHUAcA==\r\n",
            &[503],
        ),
        (
            "not offered",
            Way::Tls,
            b"AUTH CRAM-MD5\r\nAUTH X\r\n",
            &[504, 504],
        ),
        (
            "LOGIN",
            Way::Tls,
            b"AUTH LOGIN\r\ndQ==\r\ncA==\r\n",
            &[334, 334, 235],
        ),
        (
            "in a transaction",
            Way::Tls,
            b"MAIL FROM:<a@b>\r\nAUTH PLAIN AHUAcA==\r\n",
            &[250, 503],
        ),
    ] {
        assert_eq!(auth(way, input).0, codes, "{id}");
    }
    let long = [b"AUTH PLAIN ", &b"A".repeat(13_000)[..], b"\r\nNOOP\r\n"].concat();
    assert_eq!(auth(Way::Tls, &long).0, [500, 250], "AUTH-03");
    let fits = [b"AUTH PLAIN ", &b"A".repeat(12_272)[..], b"\r\n"].concat();
    assert_eq!(auth(Way::Tls, &fits).0, [535], "AUTH-03, at the limit");
    let endless = [b"AUTH LOGIN\r\n", &b"B".repeat(1 << 20)[..]].concat();
    let (codes, session) = auth(Way::Tls, &endless);
    assert_eq!(
        (codes, session.fatal.is_some()),
        (vec![334, 421], true),
        "AUTH-08"
    );
    let (codes, _) = auth(Way::Tls, &b"AUTH PLAIN *\r\n".repeat(30));
    assert_eq!(codes.last(), Some(&421), "AUTH-06");
}

#[test]
fn nothing_passes_from_clear_text_into_tls() {
    let (codes, session) = auth(Way::Clear, b"STARTTLS\r\nEHLO injected\r\nNOOP\r\n");
    assert_eq!(
        (codes, session.fatal.is_some()),
        (vec![421], true),
        "TLS-01"
    );

    let (codes, mut session) = auth(Way::Clear, b"STARTTLS\r\n");
    assert_eq!(codes, [220]);
    session.receive(b"NOOP\r\n");
    assert!(session.fatal.is_some(), "TLS-01, in a piece of its own");

    let (codes, _) = auth(Way::Clear, b"STARTTLS foo\r\nNOOP\r\n");
    assert_eq!(codes, [501, 250], "TLS-02");
    let (codes, _) = auth(Way::Tls, b"STARTTLS\r\n");
    assert_eq!(codes, [503], "TLS is up");

    // RFC 3207 §4.2: EHLO is forgotten, and what it offered.
    let (_, mut session) = auth(Way::Clear, b"STARTTLS\r\n");
    session.start_tls();
    session.receive(b"MAIL FROM:<a@b>\r\nEHLO a\r\n");
    let lines = session.take_lines().join("\n");
    assert!(lines.contains("503 5.5.1 Send EHLO first"), "{lines}");
    assert!(
        lines.contains("AUTH PLAIN LOGIN SCRAM-SHA-256-PLUS"),
        "{lines}"
    );
    assert!(
        lines.contains("REQUIRETLS") && !lines.contains("STARTTLS"),
        "{lines}"
    );
}

/// Every outcome of DATA, BDAT LAST, RSET, EHLO and STARTTLS drops the transaction.
#[test]
fn no_outcome_leaves_half_a_transaction() {
    for (input, code) in [
        (&b"DATA now\r\n"[..], 501),
        (b"RSET now\r\n", 501),
        (b"RSET\r\n", 250),
        (b"EHLO\r\n", 501),
        (b"EHLO refuse-hello\r\n", 550),
        (b"EHLO a\r\n", 250),
        (b"STARTTLS now\r\n", 501),
        (b"BDAT 3 LAST\r\na\nb", 550),
        (b"BDAT 3 LAST\r\nabc", 250),
        (b"BDAT 60000000\r\n", 0),
    ] {
        let mut session = begin(Rcpt, Way::Clear, LineEndings::Reject);
        session.receive(input);
        if code == 0 {
            session.receive(&vec![b'x'; 60_000_000]);
            assert_eq!(session.take_codes(), [552]);
        } else {
            assert_eq!(session.take_codes(), [code], "{}", input.escape_ascii());
        }
        session.receive(b"RCPT TO:<b@c>\r\nDATA\r\nBDAT 1 LAST\r\nxMAIL FROM:<a@b>\r\n");
        let codes = session.take_codes();
        assert!(
            codes[..3].iter().all(|&code| code >= 500),
            "{} {codes:?}",
            input.escape_ascii()
        );
        assert_eq!(codes[3], 250, "only MAIL opens one");
    }
}
