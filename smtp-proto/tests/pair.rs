//! Our client against our server, in memory, with every byte stream cut at random places.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use proptest::prelude::*;
use smtp_proto::client::{self, Awaiting, Capabilities, SendError};
use smtp_proto::param::BodyType;
use smtp_proto::server::{self, Rejection};
use smtp_proto::{
    Domain, Extension, ForwardPath, Host, MailParams, Mechanism, RcptParams, Reply, ReversePath,
};

/// What the server was given.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Message {
    from: String,
    to: Vec<String>,
    body: Vec<u8>,
}

/// Both ends and what is under way between them.
struct Pair {
    client: client::Connection,
    server: server::Connection,
    /// Written by the client, not yet seen by the server.
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    /// The lengths of the next pieces, over and over.
    cuts: std::iter::Cycle<std::vec::IntoIter<usize>>,
    replies: Vec<(Awaiting, Reply)>,
    open: Message,
    messages: Vec<Message>,
    tls_due: bool,
}

impl Pair {
    fn new(config: server::Config, cuts: Vec<usize>) -> Self {
        let mut to_client = Vec::new();
        Self {
            client: client::Connection::new(),
            server: server::Connection::new(&Arc::new(config), &mut to_client),
            to_server: Vec::new(),
            to_client,
            cuts: cuts.into_iter().cycle(),
            replies: Vec::new(),
            open: Message::default(),
            messages: Vec::new(),
            tls_due: false,
        }
    }

    /// Greeted, and with the server's offers known.
    fn ready(config: server::Config, cuts: Vec<usize>) -> Self {
        let mut it = Self::new(config, cuts);
        it.hello();
        it
    }

    fn hello(&mut self) {
        let name = Host::parse("relay.example.com").unwrap();
        self.send(|client, wire| client.hello(client::Hello::Ehlo, &name, wire));
        self.settle();
    }

    /// Sends, if need be after more replies.
    fn send(
        &mut self,
        mut command: impl FnMut(&mut client::Connection, &mut Vec<u8>) -> Result<(), SendError>,
    ) {
        loop {
            let before = self.to_server.len();
            match command(&mut self.client, &mut self.to_server) {
                Ok(()) => return,
                Err(SendError::NotYet | SendError::BurstFull) => {
                    assert_eq!(self.to_server.len(), before, "an error writes nothing");
                    self.exchange();
                }
                Err(why) => panic!("{why}"),
            }
        }
    }

    /// Until all is answered.
    fn settle(&mut self) {
        while self.client.awaiting().next().is_some() {
            self.exchange();
        }
    }

    /// Carries one piece each way.
    fn exchange(&mut self) {
        let len = self.cuts.next().unwrap().min(self.to_server.len());
        let piece: Vec<u8> = self.to_server.drain(..len).collect();
        self.serve(&piece);
        let len = self.cuts.next().unwrap().min(self.to_client.len());
        let piece: Vec<u8> = self.to_client.drain(..len).collect();
        let mut rest = &piece[..];
        while let client::Progress::Event { used, event } = self.client.receive(rest).unwrap() {
            rest = &rest[used..];
            match event {
                client::Event::Reply { answers, reply } => self.replies.push((answers, reply)),
                client::Event::Closing { reply } => panic!("{reply}"),
            }
        }
        if self.tls_due && self.to_client.is_empty() {
            self.tls_due = false;
            self.server.tls_started();
            self.client.tls_started();
        }
    }

    fn serve(&mut self, piece: &[u8]) {
        let mut rest = piece;
        while !self.server.is_closed() {
            match self.server.receive(rest, &mut self.to_client).unwrap() {
                server::Progress::NeedMore { used } => {
                    assert_eq!(used, rest.len());
                    return;
                }
                server::Progress::Event { used, event } => {
                    rest = &rest[used..];
                    let verdict = judge(event, &mut self.open, &mut self.messages);
                    let wire = &mut self.to_client;
                    match verdict {
                        Verdict::Yes => self.server.accept("", wire).unwrap(),
                        Verdict::No(why) => self.server.reject(why, "no", wire).unwrap(),
                        Verdict::Ask(data) => self.server.challenge(data, wire).unwrap(),
                        Verdict::Tls => {
                            self.server.accept("", wire).unwrap();
                            self.tls_due = true;
                        }
                        Verdict::None => {}
                    }
                }
            }
        }
    }

    fn capabilities(&self) -> &Capabilities {
        self.client.capabilities()
    }

    /// The codes of all replies since the last call.
    fn codes(&mut self) -> Vec<u16> {
        self.replies
            .drain(..)
            .map(|(_, reply)| reply.code().number())
            .collect()
    }

    fn mail(&mut self, from: &str, params: &MailParams) {
        let from = ReversePath::parse(from).unwrap();
        self.send(|client, wire| client.mail(&from, params, wire));
    }

    fn rcpt(&mut self, to: &str) {
        let to = ForwardPath::parse(to).unwrap();
        self.send(|client, wire| client.rcpt(&to, &RcptParams::default(), wire));
    }

    /// A body by DATA, handed over in pieces.
    fn data(&mut self, body: &[u8]) {
        self.send(client::Connection::data);
        self.settle();
        let mut rest = body;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(self.cuts.next().unwrap().min(rest.len()));
            self.send(|client, wire| client.body(piece, wire));
            rest = after;
        }
        self.send(client::Connection::body_end);
    }

    /// A body by BDAT, in chunks that are handed over in pieces.
    fn bdat(&mut self, body: &[u8]) {
        let mut rest = body;
        loop {
            let mut len = (self.cuts.next().unwrap() * 7).min(rest.len());
            // A CRLF is not cut by the end of a chunk.
            len += usize::from(rest[..len].ends_with(b"\r") && len < rest.len());
            let (chunk, after) = rest.split_at(len);
            self.send(|client, wire| client.bdat(len as u64, after.is_empty(), wire));
            for piece in chunk.chunks(self.cuts.next().unwrap()) {
                self.send(|client, wire| client.body_raw(piece, wire));
            }
            rest = after;
            if rest.is_empty() {
                return;
            }
        }
    }
}

enum Verdict {
    Yes,
    No(Rejection),
    Ask(&'static [u8]),
    Tls,
    None,
}

/// What this server thinks of things.
fn judge(event: server::Event<'_>, open: &mut Message, messages: &mut Vec<Message>) -> Verdict {
    match event {
        server::Event::Hello(_) | server::Event::XClient(_) | server::Event::Data { .. } => {
            Verdict::Yes
        }
        server::Event::StartTls => Verdict::Tls,
        server::Event::Auth(server::Auth::Start {
            initial_response, ..
        }) => match initial_response {
            None => Verdict::Ask(b"Username:"),
            Some(_) => Verdict::No(Rejection::WRONG_CREDENTIALS),
        },
        server::Event::Auth(server::Auth::Response(response)) => {
            if response == b"user" {
                Verdict::Yes
            } else {
                Verdict::No(Rejection::WRONG_CREDENTIALS)
            }
        }
        server::Event::Auth(server::Auth::Cancelled) => Verdict::None,
        server::Event::Mail(mail) => {
            *open = Message {
                from: mail.from.to_string(),
                ..Message::default()
            };
            Verdict::Yes
        }
        server::Event::Rcpt(rcpt) => {
            let to = rcpt.to.to_string();
            if to.starts_with("<no") {
                return Verdict::No(Rejection::NO_SUCH_MAILBOX);
            }
            if to.starts_with("<later") {
                return Verdict::No(Rejection::RATE);
            }
            open.to.push(to);
            Verdict::Yes
        }
        server::Event::Body(piece) => {
            open.body.extend_from_slice(piece);
            Verdict::None
        }
        server::Event::BodyEnd => {
            messages.push(std::mem::take(open));
            Verdict::Yes
        }
        server::Event::BodyRefused(_) | server::Event::Reset => {
            *open = Message::default();
            Verdict::None
        }
        server::Event::Quit => Verdict::None,
    }
}

fn config() -> server::Config {
    server::Config::new(Domain::parse("mx.example.org").unwrap())
}

/// What DATA makes of a body: lines that end in CRLF, each CR and LF alone being a line end too.
fn as_lines(body: &[u8]) -> Vec<u8> {
    let mut lines = Vec::new();
    let mut rest = body.iter().peekable();
    while let Some(&byte) = rest.next() {
        match byte {
            b'\r' => {
                rest.next_if(|&&next| next == b'\n');
                lines.extend_from_slice(b"\r\n");
            }
            b'\n' => lines.extend_from_slice(b"\r\n"),
            _ => lines.push(byte),
        }
    }
    if !lines.is_empty() && !lines.ends_with(b"\n") {
        lines.extend_from_slice(b"\r\n");
    }
    lines
}

/// Bodies full of what matters: line ends, dots and their combinations. No NUL, which the server
/// refuses.
fn bodies() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        4 => Just(b"\r\n".to_vec()),
        3 => Just(b".".to_vec()),
        2 => Just(b"\r\n.\r\n".to_vec()),
        1 => Just(b"\r".to_vec()),
        1 => Just(b"\n".to_vec()),
        3 => prop::collection::vec(1u8.., 0..30),
        1 => prop::collection::vec(1u8.., 300..900),
    ];
    prop::collection::vec(part, 0..20).prop_map(|parts| parts.concat())
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![1usize..4, 1usize..80, 1usize..5000], 1..12)
}

proptest! {
    #[test]
    fn bodies_arrive_by_data(bodies in prop::collection::vec(bodies(), 1..4), cuts in cuts(), pipelining: bool) {
        let mut config = config();
        if !pipelining {
            config.extensions = config.extensions.without(Extension::Pipelining);
        }
        let mut pair = Pair::ready(config, cuts);
        prop_assert_eq!(pair.capabilities().has(Extension::Pipelining), pipelining);
        for body in &bodies {
            pair.mail("<a@example.com>", &MailParams::default());
            for to in ["<no@example.org>", "<b@example.org>", "<later@example.org>", "<c@example.org>"] {
                pair.rcpt(to);
            }
            pair.data(body);
        }
        pair.settle();
        let to: Vec<String> = ["<b@example.org>", "<c@example.org>"].map(String::from).to_vec();
        let expected: Vec<Message> = bodies
            .iter()
            .map(|body| Message { from: "<a@example.com>".into(), to: to.clone(), body: as_lines(body) })
            .collect();
        prop_assert_eq!(&pair.messages, &expected);
        prop_assert_eq!(&pair.codes()[2..9], &[250, 550, 250, 450, 250, 354, 250]);
    }

    #[test]
    fn bodies_arrive_by_bdat(bodies in prop::collection::vec(bodies(), 1..4), cuts in cuts(), binary: bool) {
        let mut pair = Pair::ready(config(), cuts);
        let body_type = if binary { BodyType::BinaryMime } else { BodyType::EightBitMime };
        let params = MailParams { body: Some(body_type), ..MailParams::default() };
        let bodies: Vec<Vec<u8>> =
            bodies.into_iter().map(|body| if binary { body } else { as_lines(&body) }).collect();
        for body in &bodies {
            pair.mail("<>", &params);
            pair.rcpt("<no@example.org>");
            pair.rcpt("<b@example.org>");
            pair.bdat(body);
        }
        pair.settle();
        prop_assert_eq!(pair.messages.len(), bodies.len());
        for (message, body) in pair.messages.iter().zip(&bodies) {
            prop_assert_eq!(&message.body, body);
            prop_assert_eq!(&message.to, &["<b@example.org>"]);
        }
    }
}

#[test]
fn each_reply_tells_what_it_answers() {
    let mut pair = Pair::ready(config(), vec![3, 50, 1]);
    pair.mail("<a@example.com>", &MailParams::default());
    pair.rcpt("<no@example.org>");
    pair.rcpt("<b@example.org>");
    pair.data(b"x");
    pair.send(client::Connection::noop);
    pair.settle();
    pair.send(client::Connection::quit);
    pair.settle();
    let answers: Vec<Awaiting> = pair.replies.iter().map(|&(answers, _)| answers).collect();
    assert_eq!(
        answers,
        [
            Awaiting::Greeting,
            Awaiting::Hello(client::Hello::Ehlo),
            Awaiting::Mail,
            Awaiting::Rcpt { index: 0 },
            Awaiting::Rcpt { index: 1 },
            Awaiting::Data,
            Awaiting::BodyEnd { rcpt: None },
            Awaiting::Noop,
            Awaiting::Quit,
        ]
    );
    assert_eq!(pair.codes(), [220, 250, 250, 550, 250, 354, 250, 250, 221]);
}

#[test]
fn nobody_is_sent_nothing() {
    let mut pair = Pair::ready(config(), vec![1000]);
    pair.mail("<a@example.com>", &MailParams::default());
    pair.rcpt("<no@example.org>");
    pair.send(client::Connection::data);
    pair.settle();
    pair.send(client::Connection::reset);
    pair.settle();
    let codes = pair.codes();
    assert!(
        matches!(codes[2..], [250, 550, 503 | 554, 250]),
        "{codes:?}"
    );
    // By BDAT, before anything is known.
    pair.mail("<a@example.com>", &MailParams::default());
    pair.rcpt("<no@example.org>");
    pair.bdat(b"secret\r\n");
    pair.send(client::Connection::reset);
    pair.mail("<a@example.com>", &MailParams::default());
    pair.rcpt("<b@example.org>");
    pair.bdat(b"hello\r\n");
    pair.settle();
    assert_eq!(pair.messages.len(), 1);
    assert_eq!(pair.messages[0].body, b"hello\r\n");
}

#[test]
fn tls_and_authentication() {
    let config = config()
        .with(Extension::StartTls)
        .with_auth(&[Mechanism::Plain, Mechanism::Login]);
    let mut pair = Pair::ready(config, vec![1, 7, 200]);
    assert!(
        pair.capabilities().mechanisms.is_empty(),
        "not in the clear"
    );
    pair.send(client::Connection::start_tls);
    pair.settle();
    while pair.tls_due {
        pair.exchange();
    }
    pair.hello();
    assert!(!pair.capabilities().has(Extension::StartTls));
    assert!(pair.capabilities().has(Extension::RequireTls));
    pair.send(|client, wire| client.auth(Mechanism::Plain, Some(b"\0user\0wrong"), wire));
    pair.settle();
    pair.send(|client, wire| client.auth(Mechanism::Login, None, wire));
    pair.settle();
    let (_, challenge) = pair.replies.last().unwrap();
    assert_eq!(challenge.challenge().as_deref(), Some(&b"Username:"[..]));
    pair.send(client::Connection::auth_cancel);
    pair.settle();
    pair.send(|client, wire| client.auth(Mechanism::Login, None, wire));
    pair.settle();
    pair.send(|client, wire| client.auth_respond(b"user", wire));
    pair.settle();
    assert!(pair.client.is_authenticated());
    assert_eq!(pair.codes(), [220, 250, 220, 250, 535, 334, 501, 334, 235]);
}

#[test]
fn a_thousand_recipients_go_in_bursts() {
    let mut pair = Pair::ready(config(), vec![4096]);
    pair.mail("<a@example.com>", &MailParams::default());
    let name = "x".repeat(60);
    for nr in 0..1000 {
        pair.rcpt(&format!("<{name}@{nr}.{name}.example.org>"));
    }
    pair.data(b"hi");
    pair.settle();
    assert_eq!(pair.messages[0].to.len(), 1000);
}
