//! Checks of `relay_core::verify`.

use relay_core::dns::{DnsFailure, Records};
use relay_core::inbound::body::HeaderFilter;
use relay_core::time::{Instant, Now, UnixTime};
use relay_core::verify::{Answer, Client, QUESTIONS_MAX, Reading, Step, Verdict};
use smtp_proto::ReversePath;

/// Lines that answer one question each, in turn, up to a NUL; then a message. A line is the text of a TXT
/// record, or `@` and an address, `>` and a name, `-` for no such name, `?` for no answer.
pub fn verify(data: &[u8]) {
    let end = data.iter().position(|&b| b == 0).unwrap_or(0);
    let answers: Vec<&[u8]> = data[..end].split(|&b| b == b'\n').collect();
    let message = data.get(end + 1..).unwrap_or_default();
    let Some(whole) = verdict(&answers, message, usize::MAX) else {
        return;
    };
    assert_eq!(Some(&whole), verdict(&answers, message, 3).as_ref());
    let field = whole.field(&hostname());
    assert!(field.ends_with("\r\n"));
    for line in field.trim_end().split("\r\n") {
        assert!(line.len() <= 998, "{line}");
        assert!(
            line.bytes()
                .all(|b| b == b'\t' || b == b' ' || b.is_ascii_graphic()),
            "{line:?}"
        );
    }
    assert!(
        field.lines().skip(1).all(|line| line.starts_with('\t')),
        "{field}"
    );
}

fn hostname() -> smtp_proto::Domain {
    "relay.example".parse().expect("a name")
}

fn verdict(answers: &[&[u8]], message: &[u8], piece: usize) -> Option<Verdict> {
    let mut filter = HeaderFilter::inbound(&hostname());
    let body = filter.push(message).to_vec();
    filter.finish();
    let headers = filter.headers()?;
    if headers.refusal().is_some() {
        return None;
    }
    let client = Client {
        ip: "192.0.2.7".parse().expect("an address"),
        helo: String::from_utf8_lossy(answers.first()?).into_owned(),
        from: ReversePath::Mailbox("a+b@football.example.com".parse().expect("a mailbox")),
        hostname: hostname(),
    };
    let now = Now {
        instant: Instant::default(),
        unix: UnixTime::from_secs(1_795_471_531),
    };
    let mut reading = Reading::begin(client, headers.original().to_vec(), headers.from());
    for piece in body.chunks(piece.min(body.len().max(1))) {
        reading.push(piece);
    }
    let mut verifier = reading.finish(now);
    for asked in 0.. {
        assert!(asked <= QUESTIONS_MAX, "it asks too much");
        match verifier.poll(now) {
            Step::Resolve(_) => verifier.answer(answer(answers[asked % answers.len()])),
            Step::Done(verdict) => return Some(*verdict),
        }
    }
    None
}

fn answer(line: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(line);
    match line.first() {
        Some(b'@') => match text[1..].parse() {
            Ok(ip) => Ok(Records::from_addresses([ip])),
            Err(_) => Err(DnsFailure::NoRecord),
        },
        Some(b'>') => Ok(Records::from_names(text[1..].split(' ').map(str::to_owned))),
        Some(b'-') => Err(DnsFailure::NoSuchDomain),
        Some(b'?') => Err(DnsFailure::Temporary("silence".into())),
        Some(_) | None => Ok(Records::from_texts([line.to_vec()])),
    }
}
