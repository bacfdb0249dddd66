//! Groups CMD, AUTH and TLS as far as they are dialogues.

use super::client::Reply;
use super::dialogue::{Dialogue, End, Start, Way};
use super::{Row, ensure};

const FROM: &str = "MAIL FROM:<a@client.example>";

/// Under TLS and not authenticated.
const STRANGERS: &[Way] = &[Way::Stranger, Way::StrangerImplicit];

/// In clear text.
const CLEAR: &[Way] = &[Way::Clear, Way::Loaded, Way::StrangerClear];

pub(super) fn rows() -> Vec<Row> {
    let mut rows = order();
    rows.extend(arguments());
    rows.extend(lines());
    rows.extend(strangers());
    rows.extend(authentication());
    rows
}

fn after(start: Start, input: impl Into<Vec<u8>>, want: &'static str) -> Dialogue {
    Dialogue::new(start, input, want)
}

fn order() -> Vec<Row> {
    use Start::{Connect, Ehlo, Mail, Rcpt};
    let whole = format!(
        "EHLO client.example\r\n{FROM}\r\nRCPT TO:<b@server.example>\r\nDATA\r\n\
         From: a@client.example\r\n\r\nbody\r\n.\r\n"
    );
    vec![
        Row::dialogue(
            "CMD-01",
            after(Connect, "RCPT TO:<b@server.example>\r\nNOOP\r\n", "503 250"),
        ),
        Row::dialogue("CMD-02", after(Ehlo, "DATA\r\n", "503")),
        Row::dialogue("CMD-03", after(Mail, "DATA\r\n", "503/554")),
        Row::dialogue("CMD-04", after(Mail, format!("{FROM}\r\n"), "503")),
        // A chunk that cannot be skipped ends the connection.
        Row::dialogue(
            "CMD-06",
            after(Rcpt, "BDAT 99999999999\r\nDATA\r\n", "501/552").ends(End::Closed),
        ),
        Row::dialogue(
            "CMD-06b",
            after(
                Rcpt,
                "BDAT 3\r\na\nbDATA\r\nRCPT TO:<b@server.example>\r\n",
                "550 503 503",
            ),
        ),
        Row::dialogue(
            "CMD-37",
            after(Connect, whole, "250 250 250 354 250").queues(|_| Ok(())),
        ),
    ]
}

fn arguments() -> Vec<Row> {
    use Start::{Connect, Ehlo, Mail};
    let mail = |rest: &str, want| after(Ehlo, format!("{FROM} {rest}\r\n"), want);
    let rcpt = |path: &str, want| after(Mail, format!("RCPT TO:{path}\r\n"), want);
    vec![
        Row::dialogue("CMD-08", after(Connect, "EHLO\r\nEHLO a\0b\r\n", "501 501")),
        Row::dialogue(
            "CMD-12",
            after(Ehlo, "MAIL FROM:<a\rb@x.example>\r\n", "501"),
        ),
        Row::dialogue(
            "CMD-13",
            after(Ehlo, "MAIL FROM:<a\0b@x.example>\r\n", "501"),
        ),
        Row::dialogue(
            "CMD-14",
            after(Ehlo, &b"MAIL FROM:<\xff\xfe@x.example>\r\n"[..], "501/553"),
        ),
        Row::dialogue(
            "CMD-14b",
            after(Ehlo, "MAIL FROM:<\u{e9}@client.example>\r\n", "553"),
        ),
        Row::dialogue("CMD-15", mail("SIZE=18446744073709551616", "501/552")),
        Row::dialogue("CMD-15b", mail("SIZE=18446744073709551615", "552")),
        Row::dialogue("CMD-17", mail("SIZE=1 SIZE=2", "501")),
        Row::dialogue("CMD-18", mail("FOO=BAR", "555")),
        Row::dialogue(
            "CMD-19",
            after(
                Mail,
                "RCPT TO:<;sleep 5;@example.net>\r\nNOOP\r\n",
                "501/553 250",
            ),
        ),
        Row::dialogue("CMD-21", after(Ehlo, "ETRN #',1); --\r\n", "500/502")),
        Row::dialogue(
            "CMD-22",
            rcpt("<@a.example,@b.example:u@server.example>", "501/553/550"),
        ),
        Row::dialogue("CMD-24", rcpt("<u%b.example@relay.example.com>", "5??")),
        Row::dialogue("CMD-25", rcpt("<u@[127.0.0.1]>", "550")),
        Row::dialogue("CMD-25b", rcpt("<u@[IPv6:::ffff:127.0.0.1]>", "550")),
        Row::dialogue("CMD-26", mail("ENVID=a+00b", "501")),
        Row::dialogue(
            "CMD-28",
            rcpt("<b@server.example> NOTIFY=NEVER,SUCCESS", "501"),
        ),
    ]
}

fn lines() -> Vec<Row> {
    use Start::{Connect, Ehlo};
    let long = format!("EHLO {}\r\n", "a".repeat(10_000));
    vec![
        Row::dialogue("CMD-09", after(Connect, long, "500")),
        Row::dialogue(
            "CMD-10",
            after(Connect, vec![b'A'; 8 << 20], "500/421").ends(End::Closed),
        ),
        Row::dialogue("CMD-11", after(Ehlo, "NOOP\n", "421/550 | ").ends(End::Any)),
        Row::dialogue(
            "CMD-11b",
            after(Ehlo, "NOOP\nRSET\r\n", "421").ends(End::Closed),
        ),
        Row::dialogue(
            "CMD-34",
            after(Ehlo, "NOOP\r\n".repeat(2000), "250+ 421").ends(End::Closed),
        ),
        Row::dialogue(
            "CMD-35",
            after(Ehlo, "BOGUS\r\n".repeat(200), "500+ 421").ends(End::Closed),
        ),
        Row::dialogue(
            "CMD-36",
            after(
                Ehlo,
                "VRFY postmaster\r\nVRFY nosuchuser-9f3\r\nEXPN staff\r\n",
                "252 252 502 | 502 502 502",
            )
            .check(|replies| match replies {
                [known, unknown, ..] if known == unknown => Ok(()),
                _ => Err(format!("{replies:?}").into()),
            }),
        ),
    ]
}

fn strangers() -> Vec<Row> {
    use Start::{Connect, Ehlo, Raw};
    let hello = [
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03".to_vec(),
        vec![0; 64],
    ]
    .concat();
    let get = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    vec![
        Row::dialogue("CMD-29", after(Connect, get, "421").ends(End::Closed)),
        Row::dialogue(
            "CMD-30",
            after(Connect, "POST / HTTP/1.1\r\n", "421").ends(End::Closed),
        ),
        // Whoever talks before the greeting is heard after it, and in order.
        Row::dialogue(
            "CMD-31",
            after(Raw, "EHLO early\r\n", "220 250").only(CLEAR),
        ),
        Row::dialogue(
            "CMD-32",
            after(
                Ehlo,
                "XCLIENT ADDR=127.0.0.1 NAME=trusted LOGIN=admin\r\n",
                "5??",
            ),
        ),
        Row::dialogue(
            "CMD-33",
            after(
                Raw,
                "PROXY TCP4 10.0.0.1 10.0.0.2 1 25\r\nEHLO a\r\nMAIL FROM:<a@client.example>\r\n",
                "220 500 250 530",
            )
            .only(&[Way::StrangerClear]),
        ),
        Row::dialogue(
            "TLS-01",
            // The octets after STARTTLS are no handshake: whatever is said, is said in clear text.
            after(
                Ehlo,
                "STARTTLS\r\nEHLO injected\r\nNOOP\r\n",
                "421 | 220 | 220 421",
            )
            .ends(End::Closed)
            .only(CLEAR),
        ),
        Row::dialogue("TLS-02", after(Ehlo, "STARTTLS foo\r\n", "501").only(CLEAR)),
        Row::dialogue(
            "TLS-05",
            after(Connect, [&hello[..], b"\r\n"].concat(), "421/500").ends(End::Closed),
        ),
    ]
}

fn authentication() -> Vec<Row> {
    use Start::{Ehlo, Mail};
    let long = format!("AUTH PLAIN {}\r\n", "A".repeat(13_000));
    let endless = ["AUTH LOGIN\r\n", &"B".repeat(1 << 20)].concat();
    let guess = "AUTH PLAIN AG5vc3VjaAB4\r\n";
    vec![
        Row::dialogue(
            "AUTH-01",
            after(Ehlo, "AUTH PLAIN AGEAYg==\r\n", "530/538/503").only(CLEAR),
        ),
        Row::dialogue(
            "AUTH-01b",
            after(Ehlo, "EHLO again\r\n", "250")
                .check(|replies| {
                    let offers = |reply: &Reply| reply.lines.iter().any(|l| l.starts_with("AUTH"));
                    let offered = replies.iter().any(offers);
                    ensure!(!offered, "AUTH is offered in clear text");
                    Ok(())
                })
                .only(CLEAR),
        ),
        Row::dialogue(
            "AUTH-02",
            after(Ehlo, "AUTH PLAIN\r\n*\r\nNOOP\r\n", "334 501 250").only(STRANGERS),
        ),
        Row::dialogue("AUTH-03", after(Ehlo, long, "500").only(STRANGERS)),
        Row::dialogue(
            "AUTH-04",
            after(Ehlo, "AUTH PLAIN dXNlckB0ZXN0c2VydmVyAHlalala==\r\n", "501").only(STRANGERS),
        ),
        Row::dialogue(
            "AUTH-06",
            after(Ehlo, guess.repeat(12), "535+ 421")
                .ends(End::Closed)
                .only(STRANGERS),
        ),
        Row::dialogue(
            "AUTH-08",
            after(Ehlo, endless, "334 500/421")
                .ends(End::Closed)
                .only(STRANGERS),
        ),
        Row::dialogue(
            "AUTH-08b",
            after(Mail, "AUTH PLAIN AGEAYg==\r\n", "503").only(&[Way::StartTls, Way::Implicit]),
        ),
    ]
}
