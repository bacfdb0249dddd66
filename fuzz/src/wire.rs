//! Checks of `smtp-proto`.

use std::sync::Arc;

use smtp_proto::address::{ForwardPath, Mailbox, ReversePath};
use smtp_proto::client::{Awaiting, Connection, Event, Fatal, Hello, Progress};
use smtp_proto::code::Severity;
use smtp_proto::domain::{Domain, Host};
use smtp_proto::extension::{Extension, Mechanism};
use smtp_proto::param::{MailParams, RcptParams};
use smtp_proto::reply::Reply;
use smtp_proto::server;

/// Bytes from a server. The first one says how they are cut; cut or whole, the client sees the same.
/// A client that does what the replies ask for writes clean lines and ends each body once.
pub fn client_bytes(data: &[u8]) {
    let Some((&cut, bytes)) = data.split_first() else {
        return;
    };
    let len = 1 + usize::from(cut);
    assert_eq!(hear(bytes, len), hear(bytes, bytes.len().max(1)));
    converse(bytes, len);
}

/// What a client that has a whole transaction under way makes of these bytes.
fn hear(bytes: &[u8], len: usize) -> (Vec<Event>, Option<Fatal>, Vec<usize>, Vec<Awaiting>) {
    let (mut smtp, mut wire) = (Connection::new(), Vec::new());
    let mut ignored = Vec::new();
    assert_eq!(receive(&mut smtp, b"220 x\r\n", 99, &mut ignored), None);
    smtp.hello(Hello::Ehlo, &host(), &mut wire)
        .expect("greeted");
    assert_eq!(
        receive(&mut smtp, b"250-x\r\n250 PIPELINING\r\n", 99, &mut ignored),
        None
    );
    smtp.mail(&ReversePath::Null, &MailParams::default(), &mut wire)
        .expect("ready");
    for _ in 0..2 {
        smtp.rcpt(&ForwardPath::Postmaster, &RcptParams::default(), &mut wire)
            .expect("room");
    }
    smtp.data(&mut wire).expect("room");
    let mut events = Vec::new();
    let fatal = receive(&mut smtp, bytes, len, &mut events);
    let accepted = smtp.accepted().to_vec();
    (events, fatal, accepted, smtp.awaiting().collect())
}

fn receive(
    smtp: &mut Connection,
    bytes: &[u8],
    len: usize,
    events: &mut Vec<Event>,
) -> Option<Fatal> {
    for mut piece in bytes.chunks(len) {
        loop {
            match smtp.receive(piece) {
                Ok(Progress::NeedMore { used }) => {
                    assert_eq!(used, piece.len());
                    break;
                }
                Ok(Progress::Event { used, event }) => {
                    piece = &piece[used..];
                    events.push(event);
                }
                Err(why) => return Some(why),
            }
        }
    }
    None
}

/// Sends what each reply calls for, with the server's own bytes as the body.
fn converse(bytes: &[u8], len: usize) {
    let (mut smtp, mut wire) = (Connection::new(), Vec::new());
    let mut ends = 0;
    'all: for mut piece in bytes.chunks(len) {
        loop {
            match smtp.receive(piece) {
                Err(_) => break 'all,
                Ok(Progress::NeedMore { .. }) => break,
                Ok(Progress::Event { used, event }) => {
                    piece = &piece[used..];
                    let text = match &event {
                        Event::Reply { reply, .. } | Event::Closing { reply } => reply.sanitised(),
                    };
                    assert!(text.bytes().all(|b| b == b' ' || b.is_ascii_graphic()));
                    if let Event::Reply { answers, reply } = event {
                        let ended = go_on(&mut smtp, answers, &reply, bytes, &mut wire);
                        ends += usize::from(ended);
                    }
                }
            }
        }
    }
    for (at, &byte) in wire.iter().enumerate() {
        match byte {
            b'\r' => assert_eq!(wire.get(at + 1), Some(&b'\n')),
            b'\n' => assert_eq!(wire[at - 1], b'\r'),
            _ => {}
        }
    }
    assert_eq!(
        wire.windows(5).filter(|end| end == b"\r\n.\r\n").count(),
        ends
    );
}

/// Tries the next step; the client refuses those that the last reply does not allow. Says whether it
/// was the end of a body.
fn go_on(
    smtp: &mut Connection,
    answers: Awaiting,
    reply: &Reply,
    body: &[u8],
    wire: &mut Vec<u8>,
) -> bool {
    let to = &ForwardPath::Postmaster;
    // Whether a step is refused is the client's business; what matters is what was written.
    let _ = match (answers, reply.code().severity()) {
        (Awaiting::Greeting, _) => smtp.hello(Hello::Ehlo, &host(), wire),
        (Awaiting::Hello(Hello::Ehlo), Severity::Permanent) => {
            smtp.hello(Hello::Lhlo, &host(), wire)
        }
        (Awaiting::StartTls, Severity::Success) => {
            smtp.tls_started();
            smtp.hello(Hello::Ehlo, &host(), wire)
        }
        (Awaiting::Hello(_), Severity::Success) if smtp.start_tls(wire).is_ok() => Ok(()),
        (Awaiting::Mail | Awaiting::Rcpt { index: 0 }, Severity::Success) => smtp
            .rcpt(to, &RcptParams::default(), wire)
            .and_then(|()| smtp.rcpt(to, &RcptParams::default(), wire))
            .and_then(|()| smtp.data(wire)),
        (Awaiting::Rcpt { .. }, _) => smtp.data(wire),
        (Awaiting::Data, Severity::Intermediate) => {
            let _ = smtp.body(body, wire);
            if smtp.body_end(wire).is_ok() {
                return true;
            }
            Ok(())
        }
        (Awaiting::Data, _) => smtp.reset(wire),
        (_, _) => smtp.mail(&ReversePath::Null, &MailParams::default(), wire),
    };
    false
}

fn host() -> Host {
    Host::parse("relay.example").expect("a host name")
}

/// Bytes from a client. The first one says how they are cut, the second which verdicts are refusals.
/// Cut or whole, the server sees and answers the same, and it answers in well-formed replies.
pub fn server_bytes(data: &[u8]) {
    let [cut, refusals, bytes @ ..] = data else {
        return;
    };
    let whole = serve(bytes, bytes.len().max(1), *refusals);
    assert_eq!(serve(bytes, 1 + usize::from(*cut), *refusals), whole);
    let mut reply = Vec::new();
    for line in whole.wire.split_inclusive(|&byte| byte == b'\n') {
        reply.extend_from_slice(line);
        if line.get(3) != Some(&b'-') {
            Reply::parse(&reply).expect("a reply");
            reply.clear();
        }
    }
    assert!(reply.is_empty(), "a reply without its end");
}

/// What a server saw and wrote.
#[derive(Debug, Default, PartialEq)]
struct Served {
    /// Events, those of one body as one, without bodies that were refused.
    events: Vec<Seen>,
    wire: Vec<u8>,
    fatal: Option<server::Fatal>,
}

#[derive(Debug, PartialEq)]
enum Seen {
    Body(Vec<u8>),
    Event(String),
}

impl Served {
    fn ends_in_start_tls(&self) -> bool {
        self.events.last() == Some(&Seen::Event("StartTls".into()))
    }
}

/// Serves with small limits, from within TLS if the refusals say so.
fn serve(bytes: &[u8], len: usize, refusals: u8) -> Served {
    let mut config = server::Config::new(Domain::parse("mx.example").expect("a domain"))
        .with(Extension::StartTls)
        .with_auth(&[Mechanism::Plain, Mechanism::Login]);
    config.auth_without_tls = refusals & 1 == 0;
    config.limits.message_size = 300;
    config.limits.recipients = 3;
    config.limits.errors = 6;
    let mut served = Served::default();
    let mut smtp = server::Connection::new(&Arc::new(config), &mut served.wire);
    if refusals & 2 == 0 {
        smtp.tls_started();
    }
    for mut piece in bytes.chunks(len) {
        loop {
            match smtp.receive(piece, &mut served.wire) {
                Ok(server::Progress::NeedMore { used }) => {
                    assert_eq!(used, piece.len());
                    break;
                }
                Ok(server::Progress::Event { used, event }) => {
                    piece = &piece[used..];
                    judge(&mut smtp, event, refusals, &mut served);
                }
                // Text after STARTTLS is found before the event or after its verdict, as the cut has it.
                Err(server::Fatal::ClearTextAfterStartTls) => return Served::default(),
                Err(why) => {
                    served.fatal = Some(why);
                    return served;
                }
            }
            if served.ends_in_start_tls() {
                return Served::default();
            }
        }
    }
    served
}

fn judge(
    smtp: &mut server::Connection,
    event: server::Event<'_>,
    refusals: u8,
    served: &mut Served,
) {
    if let server::Event::Body(piece) = event {
        assert!(!piece.is_empty());
        match served.events.last_mut() {
            Some(Seen::Body(body)) => body.extend_from_slice(piece),
            Some(Seen::Event(_)) | None => served.events.push(Seen::Body(piece.to_vec())),
        }
        return;
    }
    if let (server::Event::BodyRefused(_), Some(Seen::Body(_))) = (&event, served.events.last()) {
        served.events.pop();
    }
    served.events.push(Seen::Event(format!("{event:?}")));
    if !smtp.is_pending() {
        return;
    }
    let wire = &mut served.wire;
    let refused = refusals.rotate_left(served.events.len() as u32) & 1 == 1;
    let given = if !refused {
        smtp.accept("", wire)
    } else if let server::Event::Auth(_) = event {
        smtp.challenge(b"more", wire)
    } else {
        smtp.reject(server::Rejection::POLICY, "no", wire)
    };
    assert_eq!(given, Ok(()), "a verdict was due");
}

/// Text. What any wire type reads from it, it writes so that it reads the same again.
pub fn address_roundtrip(data: &[u8]) {
    let Ok(text) = core::str::from_utf8(data) else {
        return;
    };
    again(text, |t| Domain::parse_utf8(t).ok());
    again(text, |t| Host::parse_utf8(t).ok());
    again(text, |t| Mailbox::parse_utf8(t).ok());
    again(text, |t| ReversePath::parse_utf8(t).ok());
    again(text, |t| ForwardPath::parse_utf8(t).ok());
    again(text, |t| {
        MailParams::parse(t, Extension::ALL.into_iter().collect()).ok()
    });
    again(text, |t| {
        RcptParams::parse(t, Extension::ALL.into_iter().collect()).ok()
    });
}

fn again<T: PartialEq + core::fmt::Debug + core::fmt::Display>(
    text: &str,
    parse: impl Fn(&str) -> Option<T>,
) {
    let Some(value) = parse(text) else { return };
    let written = value.to_string();
    assert!(
        !written.contains(|c: char| c.is_ascii_control()),
        "{written:?}"
    );
    assert_eq!(
        parse(&written).as_ref(),
        Some(&value),
        "{text:?} is written as {written:?}"
    );
    assert_eq!(parse(&written).map(|it| it.to_string()), Some(written));
}
