use alloc::string::String;
use alloc::vec;

use proptest::prelude::*;

use super::*;
use crate::address::{ForwardPath, ReversePath};
use crate::domain::Host;
use crate::extension::Mechanism;
use crate::param::{BodyType, MailParams, RcptParams};
use crate::reply::ReplyError;

/// A connection, what it wrote, and short ways to drive both.
struct Client {
    connection: Connection,
    wire: Vec<u8>,
}

impl Client {
    fn new() -> Self {
        Self {
            connection: Connection::new(),
            wire: Vec::new(),
        }
    }

    /// Greeted, and answered with these EHLO lines.
    fn ready(offers: &[&str]) -> Self {
        let mut it = Self::new();
        it.hear("220 mx.example.org\r\n");
        it.hello(Hello::Ehlo).unwrap();
        it.offer(offers);
        it
    }

    /// With one transaction begun and its recipients accepted.
    fn in_envelope(offers: &[&str], rcpts: usize) -> Self {
        let mut it = Self::ready(offers);
        it.mail().unwrap();
        it.hear("250 ok\r\n");
        for _ in 0..rcpts {
            it.rcpt().unwrap();
            it.hear("250 ok\r\n");
        }
        it.wrote();
        it
    }

    fn offer(&mut self, offers: &[&str]) {
        let mut lines = vec!["mx.example.org"];
        lines.extend_from_slice(offers);
        let mut reply = Vec::new();
        Reply::new(Code::new(250).unwrap(), &lines)
            .unwrap()
            .write(&mut reply);
        self.hear(core::str::from_utf8(&reply).unwrap());
        self.wrote();
    }

    fn hello(&mut self, verb: Hello) -> Result<(), SendError> {
        let name = Host::parse("relay.example.com").unwrap();
        self.connection.hello(verb, &name, &mut self.wire)
    }

    fn mail(&mut self) -> Result<(), SendError> {
        self.mail_with(&MailParams::default())
    }

    fn mail_with(&mut self, params: &MailParams) -> Result<(), SendError> {
        let from = ReversePath::parse("<a@example.com>").unwrap();
        self.connection.mail(&from, params, &mut self.wire)
    }

    fn rcpt(&mut self) -> Result<(), SendError> {
        let to = ForwardPath::parse("<b@example.org>").unwrap();
        self.connection
            .rcpt(&to, &RcptParams::default(), &mut self.wire)
    }

    fn data(&mut self) -> Result<(), SendError> {
        self.connection.data(&mut self.wire)
    }

    fn body(&mut self, piece: &[u8]) -> Result<(), SendError> {
        self.connection.body(piece, &mut self.wire)
    }

    fn body_end(&mut self) -> Result<(), SendError> {
        self.connection.body_end(&mut self.wire)
    }

    fn bdat(&mut self, len: u64, last: bool) -> Result<(), SendError> {
        self.connection.bdat(len, last, &mut self.wire)
    }

    fn reset(&mut self) -> Result<(), SendError> {
        self.connection.reset(&mut self.wire)
    }

    fn quit(&mut self) -> Result<(), SendError> {
        self.connection.quit(&mut self.wire)
    }

    /// What was written since the last time.
    fn wrote(&mut self) -> String {
        String::from_utf8(core::mem::take(&mut self.wire)).unwrap()
    }

    /// The server sends this in one piece: what is answered, with which codes.
    #[track_caller]
    fn hear(&mut self, text: &str) -> Vec<(Option<Awaiting>, u16)> {
        self.try_hear(text).unwrap()
    }

    fn try_hear(&mut self, text: &str) -> Result<Vec<(Option<Awaiting>, u16)>, Fatal> {
        receive_all(&mut self.connection, [text.as_bytes()].into_iter()).map(|events| {
            events
                .into_iter()
                .map(|event| match event {
                    Event::Reply { answers, reply } => (Some(answers), reply.code().number()),
                    Event::Closing { reply } => (None, reply.code().number()),
                })
                .collect()
        })
    }
}

fn receive_all<'p>(
    connection: &mut Connection,
    pieces: impl Iterator<Item = &'p [u8]>,
) -> Result<Vec<Event>, Fatal> {
    let mut events = Vec::new();
    for mut piece in pieces {
        loop {
            match connection.receive(piece)? {
                Progress::Event { used, event } => {
                    events.push(event);
                    piece = &piece[used..];
                }
                Progress::NeedMore { used } => {
                    assert_eq!(used, piece.len());
                    break;
                }
            }
        }
    }
    Ok(events)
}

const END: Awaiting = Awaiting::BodyEnd { rcpt: None };
fn rcpt(index: usize) -> Awaiting {
    Awaiting::Rcpt { index }
}

#[test]
fn a_pipelined_transaction() {
    let mut it = Client::ready(&["PIPELINING"]);
    it.mail().unwrap();
    it.rcpt().unwrap();
    it.rcpt().unwrap();
    it.data().unwrap();
    assert_eq!(
        it.wrote(),
        "MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n"
    );
    let awaited = [Awaiting::Mail, rcpt(0), rcpt(1), Awaiting::Data];
    assert!(it.connection.awaiting().eq(awaited));
    assert_eq!(it.rcpt(), Err(SendError::NotYet), "DATA ends its group");
    assert!(!it.connection.can_send());

    let heard = it.hear("250 ok\r\n550 no\r\n250 ok\r\n354 go\r\n");
    assert!(
        heard
            .into_iter()
            .eq(awaited.map(Some).into_iter().zip([250, 550, 250, 354]))
    );
    assert_eq!(it.connection.accepted(), [1]);
    it.body(b"Subject: x\r\n\r\n.dot\r\nbare\nend").unwrap();
    it.body_end().unwrap();
    assert_eq!(
        it.wrote(),
        "Subject: x\r\n\r\n..dot\r\nbare\r\nend\r\n.\r\n"
    );

    // The next transaction may follow at once; the reply to the body comes first.
    it.mail().unwrap();
    it.rcpt().unwrap();
    let heard = it.hear("250 kept\r\n250 ok\r\n452 full\r\n");
    assert_eq!(
        heard,
        [
            (Some(END), 250),
            (Some(Awaiting::Mail), 250),
            (Some(rcpt(0)), 452)
        ]
    );
    assert!(it.connection.accepted().is_empty());
    it.reset().unwrap();
    it.quit().unwrap();
    assert_eq!(it.hear("250 ok\r\n221 bye\r\n").len(), 2);
    assert!(!it.connection.is_closing());
    assert_eq!(it.mail(), Err(SendError::Closed));
}

#[test]
fn one_command_at_a_time_without_pipelining() {
    let mut it = Client::new();
    assert_eq!(
        it.hello(Hello::Ehlo),
        Err(SendError::NotYet),
        "the server speaks first"
    );
    let mut it = Client::ready(&["SIZE"]);
    assert!(it.connection.can_send());
    it.mail().unwrap();
    let before = it.wire.clone();
    assert!(!it.connection.can_send());
    assert_eq!(it.rcpt(), Err(SendError::NotYet));
    assert_eq!(it.reset(), Err(SendError::NotYet));
    assert_eq!(it.quit(), Err(SendError::NotYet));
    assert_eq!(it.wire, before, "an error writes nothing");
    it.hear("250 ok\r\n");
    it.rcpt().unwrap();
}

#[test]
fn commands_out_of_order() {
    let mut it = Client::new();
    it.hear("220 hi\r\n");
    assert_eq!(it.mail(), Err(SendError::WrongState), "before any hello");
    let mut it = Client::ready(&["CHUNKING"]);
    assert_eq!(it.rcpt(), Err(SendError::WrongState));
    assert_eq!(it.data(), Err(SendError::WrongState));
    assert_eq!(it.bdat(1, true), Err(SendError::WrongState));
    assert_eq!(it.body(b"x"), Err(SendError::WrongState));
    assert_eq!(it.body_end(), Err(SendError::WrongState));
    let mut it = Client::in_envelope(&[], 1);
    assert_eq!(it.mail(), Err(SendError::WrongState));
    it.data().unwrap();
    it.hear("354 go\r\n");
    assert_eq!(
        it.reset(),
        Err(SendError::WrongState),
        "it would be a part of the body"
    );
    assert_eq!(it.quit(), Err(SendError::WrongState));
}

#[test]
fn ehlo_may_fall_back_to_helo() {
    let mut it = Client::new();
    it.hear("220 old\r\n");
    it.hello(Hello::Ehlo).unwrap();
    assert_eq!(
        it.hear("502 what?\r\n"),
        [(Some(Awaiting::Hello(Hello::Ehlo)), 502)]
    );
    assert_eq!(it.mail(), Err(SendError::WrongState));
    it.hello(Hello::Helo).unwrap();
    it.hear("250-old\r\n250 PIPELINING\r\n");
    assert_eq!(
        *it.connection.capabilities(),
        Capabilities::default(),
        "HELO offers nothing"
    );
    assert_eq!(
        it.wrote(),
        "EHLO relay.example.com\r\nHELO relay.example.com\r\n"
    );
    it.mail().unwrap();
}

#[test]
fn tls_forgets_everything() {
    let mut it = Client::ready(&["STARTTLS", "PIPELINING", "AUTH PLAIN"]);
    it.connection.start_tls(&mut it.wire).unwrap();
    assert_eq!(it.mail(), Err(SendError::NotYet));
    assert_eq!(it.hear("220 go\r\n"), [(Some(Awaiting::StartTls), 220)]);
    assert_eq!(
        it.mail(),
        Err(SendError::WrongState),
        "the handshake comes first"
    );
    assert_eq!(
        it.connection.receive(b""),
        Ok(Progress::NeedMore { used: 0 })
    );
    it.connection.tls_started();
    assert_eq!(*it.connection.capabilities(), Capabilities::default());
    assert_eq!(it.mail(), Err(SendError::WrongState), "a hello comes first");
    it.hello(Hello::Ehlo).unwrap();
    it.offer(&["8BITMIME"]);
    assert!(!it.connection.capabilities().has(Extension::Pipelining));
    assert!(it.mail().is_ok());
    let refused = it.connection.start_tls(&mut it.wire);
    assert_eq!(
        refused,
        Err(SendError::WrongState),
        "not inside a transaction"
    );
}

#[test]
fn text_between_starttls_and_tls_is_fatal() {
    let injected = "250-PIPELINING\r\n250 AUTH PLAIN\r\n";
    let start = || {
        let mut it = Client::ready(&["STARTTLS"]);
        it.connection.start_tls(&mut it.wire).unwrap();
        it
    };
    let mut it = start();
    assert_eq!(
        it.try_hear(&alloc::format!("220 go\r\n{injected}")),
        Err(Fatal::BeforeTls)
    );
    let mut it = start();
    it.hear("220 go\r\n");
    assert_eq!(it.try_hear("2"), Err(Fatal::BeforeTls));
    assert_eq!(it.try_hear(""), Err(Fatal::BeforeTls), "an error stays");
    assert!(it.connection.is_closing());
    assert_eq!(it.quit(), Err(SendError::Closed));
    // Refused, it changes nothing.
    let mut it = start();
    it.hear("454 not now\r\n");
    it.mail().unwrap();
}

#[test]
fn auth() {
    let mut it = Client::ready(&["AUTH PLAIN LOGIN", "PIPELINING"]);
    let c = &mut it.connection;
    let refused = c.auth(Mechanism::ScramSha256, None, &mut it.wire);
    assert_eq!(refused, Err(SendError::NotOffered(Extension::Auth)));
    c.auth(Mechanism::Plain, Some(b"\0user\0secret"), &mut it.wire)
        .unwrap();
    assert_eq!(it.wrote(), "AUTH PLAIN AHVzZXIAc2VjcmV0\r\n");
    assert_eq!(
        it.mail(),
        Err(SendError::NotYet),
        "the reply decides what comes next"
    );
    it.hear("535 5.7.8 no\r\n");
    assert!(!it.connection.is_authenticated());

    it.connection
        .auth(Mechanism::Login, None, &mut it.wire)
        .unwrap();
    it.hear("334 VXNlcm5hbWU6\r\n");
    assert_eq!(it.mail(), Err(SendError::WrongState));
    it.connection.auth_respond(b"user", &mut it.wire).unwrap();
    it.hear("334 UGFzc3dvcmQ6\r\n");
    it.connection.auth_cancel(&mut it.wire).unwrap();
    it.hear("501 as you wish\r\n");
    it.connection
        .auth(Mechanism::Login, Some(b""), &mut it.wire)
        .unwrap();
    assert_eq!(
        it.wrote(),
        "AUTH LOGIN\r\ndXNlcg==\r\n*\r\nAUTH LOGIN =\r\n"
    );
    it.hear("235 welcome\r\n");
    assert!(it.connection.is_authenticated());
    let again = it.connection.auth(Mechanism::Plain, None, &mut it.wire);
    assert_eq!(again, Err(SendError::WrongState));
    it.mail().unwrap();

    let mut it = Client::ready(&["AUTH PLAIN"]);
    let long = [b'x'; 12_288];
    let refused = it
        .connection
        .auth(Mechanism::Plain, Some(&long), &mut it.wire);
    assert_eq!(refused, Err(SendError::BadArgument));
}

#[test]
fn parameters_need_their_extension() {
    let refused = |params: &MailParams| Client::ready(&["HELP"]).mail_with(params);
    for text in [
        "SIZE=1",
        "BODY=8BITMIME",
        "BODY=BINARYMIME",
        "SMTPUTF8",
        "RET=HDRS",
        "ENVID=x",
        "AUTH=<>",
        "REQUIRETLS",
        "HOLDFOR=1",
        "BY=1;R",
        "MT-PRIORITY=1",
    ] {
        let params = MailParams::parse(text, Extension::ALL.into_iter().collect()).unwrap();
        assert!(
            matches!(refused(&params), Err(SendError::NotOffered(_))),
            "{text}"
        );
    }
    assert_eq!(
        refused(&MailParams::parse("BODY=7BIT", Extension::ALL.into_iter().collect()).unwrap()),
        Ok(())
    );

    let utf8 = ReversePath::parse_utf8("<j\u{f6}rg@example.com>").unwrap();
    let mut it = Client::ready(&["SMTPUTF8"]);
    let refused = it
        .connection
        .mail(&utf8, &MailParams::default(), &mut it.wire);
    assert_eq!(refused, Err(SendError::BadArgument));
    let params = MailParams {
        smtputf8: true,
        ..MailParams::default()
    };
    it.connection.mail(&utf8, &params, &mut it.wire).unwrap();
    assert_eq!(it.wrote(), "MAIL FROM:<j\u{f6}rg@example.com> SMTPUTF8\r\n");

    let mut it = Client::in_envelope(&[], 0);
    let params = RcptParams::parse("NOTIFY=NEVER", Extension::ALL.into_iter().collect()).unwrap();
    let to = ForwardPath::parse("<b@example.org>").unwrap();
    let refused = it.connection.rcpt(&to, &params, &mut it.wire);
    assert_eq!(refused, Err(SendError::NotOffered(Extension::Dsn)));
    let to = ForwardPath::parse_utf8("<j\u{f6}rg@example.com>").unwrap();
    let refused = it
        .connection
        .rcpt(&to, &RcptParams::default(), &mut it.wire);
    assert_eq!(refused, Err(SendError::BadArgument));
}

#[test]
fn a_354_without_recipients_gets_the_dot_alone() {
    let mut it = Client::ready(&["PIPELINING"]);
    it.mail().unwrap();
    it.rcpt().unwrap();
    it.data().unwrap();
    it.wrote();
    it.hear("250 ok\r\n550 no\r\n354 go\r\n");
    assert_eq!(it.body(b"secret"), Err(SendError::NoRecipient));
    it.body_end().unwrap();
    assert_eq!(it.wrote(), ".\r\n");
    it.hear("554 nobody\r\n");
    it.mail().unwrap();
}

#[test]
fn a_refused_mail_accepts_no_recipient() {
    let mut it = Client::ready(&["PIPELINING"]);
    it.mail().unwrap();
    it.rcpt().unwrap();
    it.data().unwrap();
    it.hear("450 no\r\n250 odd\r\n354 odder\r\n");
    assert!(it.connection.accepted().is_empty());
    assert_eq!(it.body(b"secret"), Err(SendError::NoRecipient));
    it.body_end().unwrap();
}

#[test]
fn a_late_refusal_changes_no_newer_transaction() {
    let mut it = Client::ready(&["PIPELINING", "CHUNKING"]);
    it.mail().unwrap();
    it.rcpt().unwrap();
    it.bdat(0, true).unwrap();
    it.mail().unwrap();
    it.rcpt().unwrap();
    it.hear("450 no\r\n503 no\r\n503 no\r\n");
    it.rcpt().unwrap();
    it.hear("250 ok\r\n250 ok\r\n550 no\r\n");
    assert_eq!(it.connection.accepted(), [0]);
    it.data().unwrap();
}

#[test]
fn a_refused_data_leaves_the_envelope_open() {
    let mut it = Client::in_envelope(&[], 1);
    it.data().unwrap();
    it.hear("451 later\r\n");
    assert_eq!(it.mail(), Err(SendError::WrongState));
    it.reset().unwrap();
    it.hear("250 ok\r\n");
    it.mail().unwrap();
}

#[test]
fn chunks() {
    let mut it = Client::in_envelope(&["CHUNKING", "PIPELINING"], 1);
    it.bdat(4, false).unwrap();
    assert_eq!(it.body_end(), Err(SendError::WrongState));
    it.body(b"a\r").unwrap();
    assert_eq!(it.body(b"\nbc"), Err(SendError::OverChunk));
    assert_eq!(it.body(b"b"), Err(SendError::BareNewline));
    it.body(b"\nb").unwrap();
    assert_eq!(it.data(), Err(SendError::WrongState));
    it.bdat(3, true).unwrap();
    it.body(b"c\r\n").unwrap();
    assert!(it.connection.awaiting().eq([Awaiting::Chunk, END]));
    it.mail().unwrap();
    assert_eq!(
        it.wrote(),
        "BDAT 4\r\na\r\nbBDAT 3 LAST\r\nc\r\nMAIL FROM:<a@example.com>\r\n"
    );
    let heard = it.hear("250 4\r\n250 7\r\n250 ok\r\n");
    assert_eq!(
        heard,
        [
            (Some(Awaiting::Chunk), 250),
            (Some(END), 250),
            (Some(Awaiting::Mail), 250)
        ]
    );

    let mut it = Client::in_envelope(&[], 1);
    assert_eq!(
        it.bdat(1, true),
        Err(SendError::NotOffered(Extension::Chunking))
    );
}

#[test]
fn a_chunk_keeps_to_crlf_unless_it_is_binary() {
    for bad in [
        &b"\n.."[..],
        b".\n.",
        b"..\n",
        b"\r..",
        b".\r.",
        b"..\r",
        b"\r\r\n",
        b"\r\n\n",
    ] {
        let mut it = Client::in_envelope(&["CHUNKING"], 1);
        it.bdat(3, true).unwrap();
        assert_eq!(it.body(bad), Err(SendError::BareNewline), "{bad:?}");

        let mut it = Client::ready(&["CHUNKING", "BINARYMIME"]);
        let binary = MailParams {
            body: Some(BodyType::BinaryMime),
            ..MailParams::default()
        };
        it.mail_with(&binary).unwrap();
        it.hear("250 ok\r\n");
        it.rcpt().unwrap();
        it.hear("250 ok\r\n");
        assert_eq!(
            it.data(),
            Err(SendError::WrongState),
            "binary goes by BDAT only"
        );
        it.bdat(3, true).unwrap();
        it.body(bad).unwrap();
    }
}

#[test]
fn a_chunk_is_not_accepted_before_it_is_sent() {
    let code = Code::new(250).unwrap();
    let mut it = Client::in_envelope(&["CHUNKING", "PIPELINING"], 1);
    it.bdat(1, false).unwrap();
    it.body(b"x").unwrap();
    it.bdat(2, true).unwrap();
    it.body(b"y").unwrap();
    assert_eq!(it.hear("250 1\r\n"), [(Some(Awaiting::Chunk), 250)]);
    assert_eq!(
        it.try_hear("250 kept\r\n"),
        Err(Fatal::Unexpected { answers: END, code })
    );
    // A refusal may come early; the chunk is still completed.
    let mut it = Client::in_envelope(&["CHUNKING"], 1);
    it.bdat(2, true).unwrap();
    assert_eq!(it.hear("552 too large\r\n"), [(Some(END), 552)]);
    assert_eq!(it.reset(), Err(SendError::WrongState));
    it.body(b"xy").unwrap();
    it.reset().unwrap();
}

#[test]
fn a_body_is_not_shown_to_nobody() {
    let mut it = Client::in_envelope(&["CHUNKING"], 0);
    it.rcpt().unwrap();
    it.hear("550 no\r\n");
    assert_eq!(it.bdat(5, true), Err(SendError::NoRecipient));
    it.reset().unwrap();
}

#[test]
fn a_refused_chunk_spoils_the_transaction() {
    let mut it = Client::in_envelope(&["CHUNKING"], 1);
    it.bdat(1, false).unwrap();
    it.body(b"x").unwrap();
    it.hear("452 full\r\n");
    assert_eq!(it.bdat(1, true), Err(SendError::WrongState));
    it.reset().unwrap();
    it.hear("250 ok\r\n");
    it.mail().unwrap();
}

#[test]
fn lmtp_answers_for_each_recipient() {
    let mut it = Client::new();
    it.hear("220 lmtp\r\n");
    it.hello(Hello::Lhlo).unwrap();
    it.offer(&["PIPELINING", "CHUNKING"]);
    it.mail().unwrap();
    for _ in 0..3 {
        it.rcpt().unwrap();
    }
    it.bdat(2, true).unwrap();
    it.body(b"\r\n").unwrap();
    it.mail().unwrap();
    it.hear("250 ok\r\n250 ok\r\n550 no\r\n250 ok\r\n");
    let end = |index| Awaiting::BodyEnd { rcpt: Some(index) };
    assert!(
        it.connection
            .awaiting()
            .eq([end(0), end(2), Awaiting::Mail])
    );
    let heard = it.hear("250 kept\r\n452 full\r\n250 ok\r\n");
    assert_eq!(
        heard,
        [
            (Some(end(0)), 250),
            (Some(end(2)), 452),
            (Some(Awaiting::Mail), 250)
        ]
    );

    it.rcpt().unwrap();
    it.data().unwrap();
    it.hear("250 ok\r\n354 go\r\n");
    it.body_end().unwrap();
    assert_eq!(it.hear("250 kept\r\n"), [(Some(end(0)), 250)]);
}

#[test]
fn a_421_closes_wherever_it_comes() {
    // In the place of an awaited reply.
    let mut it = Client::ready(&["PIPELINING"]);
    it.mail().unwrap();
    it.rcpt().unwrap();
    assert_eq!(it.hear("421 bye\r\n"), [(Some(Awaiting::Mail), 421)]);
    assert!(it.connection.is_closing() && !it.connection.can_send());
    assert_eq!(it.rcpt(), Err(SendError::Closed));
    // Replies that were under way are still given.
    assert_eq!(it.hear("421 bye\r\n"), [(Some(rcpt(0)), 421)]);
    it.quit().unwrap();
    // To RCPT it may be about one recipient only.
    let mut it = Client::in_envelope(&["PIPELINING"], 1);
    it.rcpt().unwrap();
    it.data().unwrap();
    assert_eq!(it.hear("421 not this one\r\n"), [(Some(rcpt(1)), 421)]);
    assert!(!it.connection.is_closing());
    it.hear("354 go\r\n");
    it.body_end().unwrap();
    // As the greeting, as any refusal there.
    let mut it = Client::new();
    assert_eq!(
        it.hear("554 go away\r\n"),
        [(Some(Awaiting::Greeting), 554)]
    );
    assert!(it.connection.is_closing());
    assert_eq!(it.hello(Hello::Ehlo), Err(SendError::Closed));
    it.quit().unwrap();
    // While the connection is idle.
    let mut it = Client::ready(&[]);
    assert_eq!(it.hear("421 idle\r\n"), [(None, 421)]);
    assert!(it.connection.is_closing());
    // In the middle of a body, where a QUIT would be read as a part of it.
    let mut it = Client::in_envelope(&[], 1);
    it.data().unwrap();
    it.hear("354 go\r\n");
    it.body(b"x").unwrap();
    assert_eq!(it.hear("552 too large\r\n"), [(None, 552)]);
    assert!(it.connection.is_closing());
    assert_eq!(it.body(b"x"), Err(SendError::Closed));
    assert_eq!(it.quit(), Err(SendError::Closed));
}

#[test]
fn a_reply_before_its_command_answers_nothing() {
    let mut it = Client::ready(&[]);
    let code = |n| Code::new(n).unwrap();
    assert_eq!(
        it.try_hear("250 ok\r\n"),
        Err(Fatal::Unsolicited(code(250)))
    );
    // With the reply before it.
    let mut it = Client::ready(&[]);
    it.mail().unwrap();
    assert_eq!(
        it.try_hear("250 ok\r\n250 ok\r\n"),
        Err(Fatal::Unsolicited(code(250)))
    );
    // Its begin alone counts, whatever is sent before its end.
    let mut it = Client::in_envelope(&[], 1);
    it.data().unwrap();
    it.hear("354 go\r\n2");
    it.body_end().unwrap();
    assert_eq!(
        it.try_hear("50 kept\r\n"),
        Err(Fatal::Unsolicited(code(250)))
    );
    // A caller that sends between two events of one input is safe too.
    let mut it = Client::in_envelope(&[], 1);
    it.data().unwrap();
    let input = b"354 go\r\n250 kept\r\n";
    let Ok(Progress::Event { used, .. }) = it.connection.receive(input) else {
        panic!()
    };
    it.body_end().unwrap();
    let next = it.connection.receive(&input[used..]);
    assert_eq!(next, Err(Fatal::Unsolicited(code(250))));
    // The begin of a 421 is still a 421.
    let mut it = Client::ready(&[]);
    it.hear("42");
    it.mail().unwrap();
    assert_eq!(it.hear("1 bye\r\n"), [(None, 421)]);
    assert!(it.connection.awaiting().eq([Awaiting::Mail]));
}

#[test]
fn each_code_after_each_command() {
    type Send = fn() -> Client;
    let commands: [(Send, Awaiting); 8] = [
        (Client::new, Awaiting::Greeting),
        (
            || {
                let mut it = Client::ready(&[]);
                it.hello(Hello::Ehlo).unwrap();
                it
            },
            Awaiting::Hello(Hello::Ehlo),
        ),
        (
            || {
                let mut it = Client::ready(&["STARTTLS"]);
                it.connection.start_tls(&mut it.wire).unwrap();
                it
            },
            Awaiting::StartTls,
        ),
        (
            || {
                let mut it = Client::ready(&["AUTH LOGIN"]);
                it.connection
                    .auth(Mechanism::Login, None, &mut it.wire)
                    .unwrap();
                it
            },
            Awaiting::Auth,
        ),
        (
            || {
                let mut it = Client::in_envelope(&[], 1);
                it.data().unwrap();
                it
            },
            Awaiting::Data,
        ),
        (
            || {
                let mut it = Client::in_envelope(&["CHUNKING"], 1);
                it.bdat(0, true).unwrap();
                it
            },
            END,
        ),
        (
            || {
                let mut it = Client::ready(&[]);
                it.reset().unwrap();
                it
            },
            Awaiting::Reset,
        ),
        (
            || {
                let mut it = Client::ready(&[]);
                it.quit().unwrap();
                it
            },
            Awaiting::Quit,
        ),
    ];
    for (send, answers) in commands {
        for number in [
            220, 221, 250, 334, 354, 421, 454, 500, 501, 502, 504, 530, 550, 554,
        ] {
            let heard = send().try_hear(&alloc::format!("{number} text\r\n"));
            let allowed = match (number / 100, answers) {
                (4 | 5, _) => true,
                (3, _) => matches!(answers, Awaiting::Data | Awaiting::Auth),
                (_, Awaiting::Data) => false,
                _ => number != 221 || answers == Awaiting::Quit,
            };
            if allowed {
                assert_eq!(heard, Ok(vec![(Some(answers), number)]));
            } else {
                let code = Code::new(number).unwrap();
                assert_eq!(heard, Err(Fatal::Unexpected { answers, code }));
            }
        }
    }
}

#[test]
fn bursts_are_bounded() {
    let mut it = Client::ready(&["PIPELINING"]);
    it.mail().unwrap();
    let full = loop {
        if let Err(why) = it.rcpt() {
            break why;
        }
    };
    assert_eq!(full, SendError::BurstFull);
    assert_eq!(it.connection.awaiting().count(), COMMANDS_MAX);
    assert!(!it.connection.can_send());
    it.hear("250 ok\r\n");
    assert!(it.connection.can_send());
    it.rcpt().unwrap();
    assert_eq!(it.rcpt(), Err(SendError::BurstFull));

    let mut it = Client::ready(&["PIPELINING"]);
    it.mail().unwrap();
    let long = alloc::format!("<{}@{}.org>", "x".repeat(60), "y".repeat(60));
    let long = ForwardPath::parse(&long).unwrap();
    while it
        .connection
        .rcpt(&long, &RcptParams::default(), &mut it.wire)
        .is_ok()
    {}
    assert!(it.wire.len() <= BURST_MAX && it.wire.len() > BURST_MAX - 200);
    for _ in 0..it.connection.awaiting().count() {
        it.hear("250 ok\r\n");
    }
    it.rcpt().unwrap();
}

#[test]
fn hello_replies_may_have_more_lines() {
    let lines = ["250-X\r\n"; 100].concat() + "250 X\r\n";
    let mut it = Client::ready(&[]);
    it.hello(Hello::Ehlo).unwrap();
    it.hear(&lines);
    it.mail().unwrap();
    assert_eq!(
        it.try_hear(&lines),
        Err(Fatal::Malformed(ReplyError::TooManyLines))
    );
    assert_eq!(
        it.try_hear("250 ok\r\n"),
        Err(Fatal::Malformed(ReplyError::TooManyLines))
    );
}

/// Replies to MAIL, RCPT, RCPT, RCPT, DATA, and what may come with them.
fn scripts() -> impl Strategy<Value = String> {
    let reply = prop_oneof![
        5 => "250 ok\r\n",
        2 => "[245]50-[a-z]{0,9}\r\n",
        3 => "[45]50 [45]\\.1\\.1 [a-z]{0,9}\r\n",
        2 => "354 go\r\n",
        1 => "421 bye\r\n",
        1 => "[0-9]{2,4}[ -]?[a-z]?\r?\n?",
    ];
    prop::collection::vec(reply, 0..8).prop_map(|replies| replies.concat())
}

#[test]
fn xclient_begins_the_session_anew() {
    let said = crate::xclient::XClient::parse("ADDR=192.0.2.7 PORT=40000").unwrap();
    let mut it = Client::ready(&["PIPELINING"]);
    let not_offered = it.connection.xclient(&said, &mut it.wire);
    assert_eq!(not_offered, Err(SendError::NotOffered(Extension::XClient)));
    let mut it = Client::ready(&["PIPELINING", "XCLIENT NAME ADDR PORT"]);
    let empty = it.connection.xclient(&Default::default(), &mut it.wire);
    assert_eq!(empty, Err(SendError::BadArgument));
    it.connection.xclient(&said, &mut it.wire).unwrap();
    assert_eq!(it.wrote(), "XCLIENT ADDR=192.0.2.7 PORT=40000\r\n");
    // A refusal leaves all as it was; the 220 leaves nothing.
    assert_eq!(
        it.hear("550 5.7.1 no\r\n"),
        [(Some(Awaiting::XClient), 550)]
    );
    it.connection.xclient(&said, &mut it.wire).unwrap();
    assert_eq!(it.hear("220 mx\r\n"), [(Some(Awaiting::XClient), 220)]);
    assert_eq!(it.mail(), Err(SendError::WrongState));
    assert!(!it.connection.capabilities().has(Extension::Pipelining));
    it.hello(Hello::Ehlo).unwrap();
}

proptest! {
    #[test]
    fn every_chunking_gives_the_same_events(script in scripts(), len in 1usize..30) {
        let outcome = |len: usize| {
            let mut it = Client::ready(&["PIPELINING"]);
            it.mail().unwrap();
            for _ in 0..3 {
                it.rcpt().unwrap();
            }
            it.data().unwrap();
            let events = receive_all(&mut it.connection, script.as_bytes().chunks(len));
            let accepted = it.connection.accepted().to_vec();
            let awaiting: Vec<_> = it.connection.awaiting().collect();
            (events, accepted, awaiting, it.connection.is_closing())
        };
        let whole = outcome(script.len().max(1));
        prop_assert_eq!(&outcome(1), &whole);
        prop_assert_eq!(&outcome(len), &whole);
    }

    #[test]
    fn no_bytes_make_it_panic(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..9)) {
        let mut it = Client::ready(&["PIPELINING"]);
        it.mail().unwrap();
        let _ = receive_all(&mut it.connection, pieces.iter().map(Vec::as_slice));
    }
}
