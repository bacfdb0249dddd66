//! Groups EOD and BDAT: where a message ends, and what is in it.

use super::dialogue::{Dialogue, End, Start};
use super::sink::Taken;
use super::{Row, Trouble, ensure};

/// The header block of a message that is in order, with its empty line.
pub(super) const HEADERS: &str = "From: a@client.example\r\nSubject: a\r\n\r\n";

/// What an attacker hides after a false end.
pub(super) const SMUGGLED: &str = "MAIL FROM:<evil@client.example>\r\nRCPT TO:<victim@server.example>\r\n\
                                   DATA\r\nFrom: evil@client.example\r\n\r\nevil\r\n.\r\n";

/// The ends that are none: the catalogue's 9 of EOD, and others of their kind.
pub(super) const FALSE_ENDS: [(&str, &str); 14] = [
    ("EOD-01", "\n.\n"),
    ("EOD-02", "\n.\r\n"),
    ("EOD-03", "\r\n.\n"),
    ("EOD-04", "\r.\r"),
    ("EOD-05", "\r\n.\r"),
    ("EOD-06", "\r.\r\n"),
    ("EOD-07", "\n.\r"),
    ("EOD-08", "\r.\n"),
    ("EOD-09", "\r\r\n.\r\r\n"),
    ("EOD-10", "\n\n.\r\n"),
    ("EOD-11", "\r\n\0.\r\n"),
    ("EOD-12", "\r\n.\0\r\n"),
    ("EOD-12b", "\r\n.\r\0\n"),
    ("EOD-12c", "\r\n.\r\r\n"),
];

pub(super) fn rows() -> Vec<Row> {
    let mut rows: Vec<Row> = FALSE_ENDS
        .iter()
        .map(|(id, end)| false_end(id, end))
        .collect();
    rows.extend([
        Row::dialogue(
            "EOD-13",
            in_data("body\r\n. \r\n", SMUGGLED, "250").queues(holds_smuggled),
        ),
        Row::dialogue(
            "EOD-14",
            in_data("body\r\n..\r\n", SMUGGLED, "250").queues(holds_smuggled),
        ),
        // No message of ours is without a From.
        Row::dialogue(
            "EOD-15",
            Dialogue::new(Start::Data, ".\r\nNOOP\r\n", "550 250"),
        ),
        Row::dialogue(
            "EOD-16",
            in_data("body\r\n", ".\r\n", "250").queues(is_body),
        ),
        Row::dialogue(
            "EOD-17",
            in_data("body\nline with bare LF\r\n", ".\r\n", "550"),
        ),
        Row::dialogue(
            "EOD-18",
            in_data("body\rline with bare CR\r\n", ".\r\n", "550"),
        ),
        Row::dialogue(
            "EOD-19",
            Dialogue::new(Start::Data, format!("{HEADERS}half\r\n."), "").ends(End::HangUp),
        ),
    ]);
    rows.extend(chunks());
    rows
}

/// A message and what follows it.
fn in_data(body: &str, then: &str, want: &'static str) -> Dialogue {
    Dialogue::new(Start::Data, format!("{HEADERS}{body}{then}"), want)
}

fn false_end(id: &'static str, end: &str) -> Row {
    Row::dialogue(id, in_data(&format!("body{end}"), SMUGGLED, "550"))
}

fn holds_smuggled(taken: &Taken) -> Result<(), Trouble> {
    let text = taken.text();
    ensure!(
        text.contains("\r\nRCPT TO:<victim@server.example>\r\n"),
        "delivered {text:?}"
    );
    ensure!(
        taken.rcpts == ["RCPT TO:<b@server.example>"],
        "to {:?}",
        taken.rcpts
    );
    Ok(())
}

fn is_body(taken: &Taken) -> Result<(), Trouble> {
    let text = taken.text();
    ensure!(text.ends_with("\r\n\r\nbody\r\n"), "delivered {text:?}");
    Ok(())
}

fn chunk(octets: &str, last: bool) -> String {
    let last = if last { " LAST" } else { "" };
    format!("BDAT {}{last}\r\n{octets}", octets.len())
}

fn chunks() -> Vec<Row> {
    let rcpt = |input: &str, want| Dialogue::new(Start::Rcpt, input, want);
    let dots = format!("{HEADERS}.\r\nMAIL\r\n");
    let split = [
        chunk(&format!("{}\r", HEADERS.trim_end()), false),
        chunk("\n\r\nb\r\n", true),
    ]
    .concat();
    let bare = chunk(&format!("{HEADERS}a\nb\r\n"), true);
    let discarded = [chunk(HEADERS, false), "RSET\r\n".into(), chunk("x", true)].concat();
    let mut rows = vec![
        Row::dialogue("BDAT-01", rcpt("BDAT 0 LAST\r\nNOOP\r\n", "550 250")),
        Row::dialogue(
            "BDAT-02",
            rcpt(&"BDAT 0\r\n".repeat(5000), "250+ 421").ends(End::Closed),
        ),
        Row::dialogue("BDAT-12", rcpt("BDAT 10\r\n0123456789DATA\r\n", "250 503")),
        Row::dialogue(
            "BDAT-13",
            rcpt(
                "BDAT 10\r\n0123456789MAIL FROM:<a@client.example>\r\n",
                "250 503",
            ),
        ),
        Row::dialogue(
            "BDAT-15",
            rcpt(
                "BDAT 10\r\n0123456789RSET\r\nBDAT 1 LAST\r\nx",
                "250 250 503",
            ),
        ),
        Row::dialogue("BDAT-15b", rcpt(&discarded, "250 250 503")),
        Row::dialogue(
            "BDAT-16",
            rcpt(
                "BDAT 23 LAST\r\nSubject: a\r\n\r\n.\r\nMAIL\r\nNOOP\r\n",
                "550 250",
            ),
        ),
        Row::dialogue(
            "BDAT-16b",
            rcpt(&chunk(&dots, true), "250").queues(holds_dot),
        ),
        Row::dialogue(
            "BDAT-17",
            rcpt(
                "BDAT 13\r\nSubject: a\r\n\rBDAT 4 LAST\r\n\nb\r\n",
                "250 550",
            ),
        ),
        Row::dialogue("BDAT-17b", rcpt(&split, "250 250").queues(is_whole)),
        Row::dialogue(
            "BDAT-18",
            rcpt("BDAT 5 LAST\r\na\nb\r\nNOOP\r\n", "550 250"),
        ),
        Row::dialogue("BDAT-18b", rcpt(&bare, "550")),
        Row::dialogue("BDAT-20", rcpt("BDAT 100\r\nshort", "").ends(End::HangUp)),
        Row::dialogue(
            "BDAT-22",
            rcpt("BDAT 12\r\n.\r\n.\r\n.\r\n.\r\nRSET\r\n", "250 250"),
        ),
    ];
    // The rest of such a line is not known to be a chunk or commands: nothing is read on.
    for (id, command, want) in [
        ("BDAT-03", "BDAT 18446744073709551615\r\n", "501/552"),
        ("BDAT-04", "BDAT 99999999999999999999999999\r\n", "501/552"),
        ("BDAT-05", "BDAT -1\r\n", "501"),
        ("BDAT-07", "BDAT 0x10\r\n", "501"),
        ("BDAT-08", "BDAT \r\n", "501"),
        ("BDAT-09", "BDAT 1 2\r\n", "501"),
        ("BDAT-11", "BDAT 4294967296\r\n", "552"),
    ] {
        rows.push(Row::dialogue(id, rcpt(command, want).ends(End::Closed)));
    }
    rows
}

fn holds_dot(taken: &Taken) -> Result<(), Trouble> {
    let text = taken.text();
    ensure!(
        text.ends_with("\r\n\r\n.\r\nMAIL\r\n"),
        "delivered {text:?}"
    );
    Ok(())
}

fn is_whole(taken: &Taken) -> Result<(), Trouble> {
    let text = taken.text();
    ensure!(
        text.ends_with("Subject: a\r\n\r\nb\r\n"),
        "delivered {text:?}"
    );
    Ok(())
}
