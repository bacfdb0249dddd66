//! The server connection against a model of the session that is small enough to be read at once.
//!
//! Random commands, in any order, cut anywhere: each gets exactly one reply, in order, and the reply
//! that the model says; and no message comes out that the model did not let through.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Session, config};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Command {
    Ehlo,
    EhloRefused,
    EhloBad,
    Helo,
    Noop,
    Unknown,
    Rset,
    StartTlsBad,
    Mail(&'static str),
    Rcpt(&'static str),
    Data,
    Bdat { size: usize, last: bool },
}

/// What the client may know: who said hello, and the transaction.
#[derive(Default)]
struct Model {
    hello: Option<Extended>,
    transaction: Option<Transaction>,
    refused_chunks: Option<u16>,
    messages: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Extended {
    Yes,
    No,
}

struct Transaction {
    from: &'static str,
    recipients: usize,
    chunked: bool,
}

impl Model {
    /// The octets of a command, with a body if one is due, and the codes of the replies.
    fn apply(&mut self, command: &Command) -> (Vec<u8>, Vec<u16>) {
        let line = |text: String| [text.as_bytes(), b"\r\n"].concat();
        match command {
            Command::Ehlo => (line("EHLO a".into()), self.hello(Some(Extended::Yes), 250)),
            Command::EhloRefused => (line("EHLO refuse-hello".into()), self.hello(None, 550)),
            Command::EhloBad => (line("EHLO a b".into()), self.hello(None, 501)),
            Command::Helo => (line("HELO a".into()), self.hello(Some(Extended::No), 250)),
            Command::Noop => (line("NOOP".into()), vec![250]),
            Command::Unknown => (line("BOGUS".into()), vec![500]),
            Command::Rset => (line("RSET".into()), self.hello(None, 250)),
            Command::StartTlsBad => (line("STARTTLS now".into()), self.hello(None, 501)),
            Command::Mail(from) => (line(format!("MAIL FROM:<{from}@a>")), vec![self.mail(from)]),
            Command::Rcpt(to) => (line(format!("RCPT TO:<{to}@b>")), vec![self.rcpt(to)]),
            Command::Data => self.data(),
            Command::Bdat { size, last } => {
                let word = if *last { " LAST" } else { "" };
                let mut octets = line(format!("BDAT {size}{word}"));
                octets.extend(b"QUIT.".iter().cycle().take(*size));
                (octets, vec![self.bdat(*size, *last)])
            }
        }
    }

    fn hello(&mut self, said: Option<Extended>, code: u16) -> Vec<u16> {
        self.transaction = None;
        self.refused_chunks = None;
        self.hello = said.or(self.hello);
        vec![code]
    }

    fn mail(&mut self, from: &'static str) -> u16 {
        if self.hello.is_none() || self.transaction.is_some() {
            return 503;
        }
        self.refused_chunks = None;
        if from == "refuse" {
            return 553;
        }
        self.transaction = Some(Transaction {
            from,
            recipients: 0,
            chunked: false,
        });
        250
    }

    fn rcpt(&mut self, to: &str) -> u16 {
        match (&mut self.transaction, to) {
            (None | Some(Transaction { chunked: true, .. }), _) => 503,
            (Some(_), "refuse") => 550,
            (Some(_), "later") => 450,
            (Some(transaction), _) => {
                transaction.recipients += 1;
                250
            }
        }
    }

    fn data(&mut self) -> (Vec<u8>, Vec<u16>) {
        self.refused_chunks = None;
        let (body, codes) = match self.transaction.take() {
            None => (&b""[..], vec![503]),
            Some(transaction) if transaction.recipients == 0 || transaction.chunked => {
                (&b""[..], vec![503])
            }
            Some(transaction) => {
                let body = &b"MAIL FROM:<smuggled@a>\r\n..\r\n.\r\n"[..];
                match transaction.from {
                    "nodata" => (&b""[..], vec![451]),
                    "nomid" => (body, vec![354, 452]),
                    "noend" => (body, vec![354, 554]),
                    _ => {
                        self.messages += 1;
                        (body, vec![354, 250])
                    }
                }
            }
        };
        ([b"DATA\r\n", body].concat(), codes)
    }

    fn bdat(&mut self, size: usize, last: bool) -> u16 {
        let code = match &mut self.transaction {
            None => self.refused_chunks.unwrap_or(503),
            Some(transaction) if transaction.recipients == 0 => 503,
            Some(_) if self.hello != Some(Extended::Yes) => 503,
            Some(transaction) => {
                let first = !std::mem::replace(&mut transaction.chunked, true);
                match transaction.from {
                    "nodata" if first => 451,
                    "nomid" if size > 0 => 452,
                    "noend" if last => 554,
                    _ if last => {
                        self.messages += 1;
                        self.transaction = None;
                        250
                    }
                    _ => return 250,
                }
            }
        };
        self.transaction = None;
        self.refused_chunks = (!last && code != 250).then_some(code);
        code
    }
}

fn command() -> impl Strategy<Value = Command> {
    let from = prop::sample::select(vec!["ok", "ok", "refuse", "nodata", "nomid", "noend"]);
    let to = prop::sample::select(vec!["ok", "ok", "ok", "refuse", "later"]);
    prop_oneof![
        4 => Just(Command::Ehlo),
        1 => Just(Command::EhloRefused),
        1 => Just(Command::EhloBad),
        1 => Just(Command::Helo),
        1 => Just(Command::Noop),
        1 => Just(Command::Unknown),
        2 => Just(Command::Rset),
        1 => Just(Command::StartTlsBad),
        10 => from.prop_map(Command::Mail),
        12 => to.prop_map(Command::Rcpt),
        6 => Just(Command::Data),
        8 => (0usize..20, any::<bool>()).prop_map(|(size, last)| Command::Bdat { size, last }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        cases: 1500,
        ..ProptestConfig::default()
    })]

    #[test]
    fn one_reply_a_command_and_the_right_one(
        commands in prop::collection::vec(command(), 1..40),
        cuts in prop::collection::vec(1usize..40, 1..40),
    ) {
        let mut config = config();
        (config.limits.errors, config.limits.junk) = (u32::MAX, u32::MAX);
        let mut model = Model::default();
        let (mut input, mut expected) = (Vec::new(), vec![220]);
        for command in &commands {
            let (octets, codes) = model.apply(command);
            input.extend(octets);
            expected.extend(codes);
        }
        let mut session = Session::new(config.clone());
        let mut rest = &input[..];
        for cut in cuts.iter().cycle() {
            let (part, tail) = rest.split_at((*cut).min(rest.len()));
            session.receive(part);
            rest = tail;
            if rest.is_empty() {
                break;
            }
        }
        let wire = session.wire.clone();
        prop_assert_eq!(session.take_codes(), expected);
        prop_assert_eq!(session.messages.len(), model.messages);

        // And the same in one piece, to the letter.
        let mut whole = Session::new(config);
        whole.receive(&input);
        prop_assert_eq!(whole.wire, wire);
        prop_assert_eq!(whole.log, session.log);
        prop_assert_eq!(whole.messages, session.messages);
    }

    /// Octets that nobody means: the same for every cut, and never a panic.
    #[test]
    fn every_cut_of_anything_gives_the_same(
        pieces in prop::collection::vec(piece(), 0..30),
        size in 1usize..30,
        normalise: bool,
        tls: bool,
    ) {
        let input = pieces.concat();
        let mut config = config();
        config.limits.message_size = 40;
        config.limits.discard = 300;
        if normalise {
            config.line_endings = smtp_proto::dot::LineEndings::Normalise;
        }
        let run = |size: usize| {
            let mut session = Session::new(config.clone());
            if tls {
                session.start_tls();
            }
            for part in input.chunks(size) {
                session.receive(part);
            }
            session
        };
        let (whole, parts) = (run(input.len().max(1)), run(size));
        prop_assert_eq!(
            String::from_utf8_lossy(&whole.wire),
            String::from_utf8_lossy(&parts.wire)
        );
        prop_assert_eq!(whole.log, parts.log);
        prop_assert_eq!(whole.messages, parts.messages);
        prop_assert_eq!(whole.fatal, parts.fatal);
    }
}

/// Parts of a session, whole and broken. STARTTLS is not among them: what comes in one piece with
/// it is an attack, and in a later one may be the handshake.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        &b"EHLO a\r\n"[..],
        b"EHLO a\r\nMAIL FROM:<ok@a> SIZE=10\r\nRCPT TO:<b@b>\r\n",
        b"EHLO a\r\nMAIL FROM:<nomid@a>\r\nRCPT TO:<b@b>\r\nDATA\r\nx\r\n",
        b"DATA\r\n",
        b"BDAT 5\r\n",
        b"BDAT 4 LAST\r\n",
        b"BDAT 60\r\n",
        b"BDAT x\r\n",
        b"AUTH PLAIN\r\n",
        b"AUTH LOGIN\r\n",
        b"AHUAcA==\r\n",
        b"*\r\n",
        b"RSET\r\n",
        b"NOOP\r\n",
        b"QUIT\r\n",
        b"GET / HTTP/1.1\r\n",
        b".\r\n",
        b"\r\n.\r\n",
        b"text that is longer than most\r\n",
        b"..\r\n",
        b"\r\n",
        b"\r",
        b"\n",
        b".",
        b"\0",
        b"\x16",
    ]);
    prop_oneof![
        12 => known.prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..8),
        1 => (1usize..3000).prop_map(|length| vec![b'x'; length]),
    ]
}
