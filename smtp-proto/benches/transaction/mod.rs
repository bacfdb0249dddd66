//! A transaction in memory: what the benchmarks, the example and the test of allocations share.

use std::sync::Arc;

use smtp_proto::client::{self, Awaiting, Hello};
use smtp_proto::server::{self, Config};
use smtp_proto::{ForwardPath, Host, MailParams, RcptParams, ReversePath};

/// Our client and our server, past their greeting, with nothing but two buffers between them.
pub(crate) struct Pair {
    client: client::Connection,
    server: server::Connection,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    from: ReversePath,
    to: Vec<ForwardPath>,
    mail: MailParams,
}

impl Pair {
    /// Two recipients, as in the commands of [`commands`].
    pub(crate) fn new() -> Self {
        let config = Config::new("mx.example.org".parse().expect("a domain"));
        let mut to_client = Vec::with_capacity(1 << 12);
        let mut it = Self {
            client: client::Connection::new(),
            server: server::Connection::new(&Arc::new(config), &mut to_client),
            to_server: Vec::with_capacity(1 << 20),
            to_client,
            from: "<news@mail.example.com>".parse().expect("a path"),
            to: ["<first.last@example.org>", "<other+tag@example.org>"]
                .map(|path| path.parse().expect("a path"))
                .to_vec(),
            mail: MailParams {
                size: Some(10_240),
                ..MailParams::default()
            },
        };
        let host = Host::parse("mail.example.com").expect("a host");
        it.read_replies();
        let hello = it.client.hello(Hello::Ehlo, &host, &mut it.to_server);
        hello.expect("EHLO can be sent");
        it.serve(|_| {});
        it.read_replies();
        it
    }

    /// MAIL, RCPT, RCPT and DATA in one burst, then the body. Gives how many octets the server got.
    pub(crate) fn transact(&mut self, body: &[u8]) -> usize {
        let (client, wire) = (&mut self.client, &mut self.to_server);
        client.mail(&self.from, &self.mail, wire).expect("MAIL");
        for to in &self.to {
            let rcpt = client.rcpt(to, &RcptParams::default(), wire);
            rcpt.expect("RCPT");
        }
        client.data(wire).expect("DATA");
        self.serve(|_| {});
        self.read_replies();
        let (client, wire) = (&mut self.client, &mut self.to_server);
        client.body(body, wire).expect("a body");
        client.body_end(wire).expect("its end");
        let mut octets = 0;
        self.serve(|piece| octets += piece.len());
        assert_eq!(self.read_replies(), Some(Awaiting::BodyEnd { rcpt: None }));
        octets
    }

    /// The server's side: takes all that was sent, and says yes to it.
    fn serve(&mut self, body: impl FnMut(&[u8])) {
        accept_all(&mut self.server, &self.to_server, &mut self.to_client, body);
        self.to_server.clear();
    }

    /// The client's side; gives what the last reply answered.
    fn read_replies(&mut self) -> Option<Awaiting> {
        let (mut rest, mut last) = (&self.to_client[..], None);
        while let Ok(client::Progress::Event { used, event }) = self.client.receive(rest) {
            rest = &rest[used..];
            let client::Event::Reply { answers, reply } = event else {
                panic!("the server closed");
            };
            assert!(reply.code().number() < 400, "{reply}");
            last = Some(answers);
        }
        self.to_client.clear();
        last
    }
}

/// Feeds a server, and says yes to everything.
pub(crate) fn accept_all(
    server: &mut server::Connection,
    mut input: &[u8],
    wire: &mut Vec<u8>,
    mut body: impl FnMut(&[u8]),
) {
    while let Ok(server::Progress::Event { used, event }) = server.receive(input, wire) {
        input = &input[used..];
        match event {
            server::Event::Body(piece) => body(piece),
            server::Event::Reset | server::Event::Quit | server::Event::BodyRefused(_) => {}
            server::Event::Hello(_)
            | server::Event::StartTls
            | server::Event::Auth(_)
            | server::Event::XClient(_)
            | server::Event::Mail(_)
            | server::Event::Rcpt(_)
            | server::Event::Data { .. }
            | server::Event::BodyEnd => server.accept("", wire).expect("a verdict is due"),
        }
    }
}

/// The commands of a transaction with two recipients, as a client pipelines them.
pub(crate) fn commands() -> Vec<u8> {
    b"MAIL FROM:<news@mail.example.com> SIZE=10240 BODY=8BITMIME\r\n\
      RCPT TO:<first.last@example.org>\r\n\
      RCPT TO:<other+tag@example.org>\r\n\
      DATA\r\n"
        .to_vec()
}

/// The same after EHLO: all that a client says before its message.
pub(crate) fn session() -> Vec<u8> {
    [b"EHLO mail.example.com\r\n", &commands()[..]].concat()
}

/// About so many octets of text: lines of 76 characters, none of which begins with a dot.
pub(crate) fn text(octets: usize) -> Vec<u8> {
    const WORDS: &str =
        "the quick brown fox. jumps over the lazy dog, and reads the mail: 8 octets a ";
    (0..)
        .map(|nr| format!("{}\r\n", &WORDS.repeat(2)[nr % 19..][..76]))
        .take(octets.div_ceil(78))
        .collect::<String>()
        .into_bytes()
}
