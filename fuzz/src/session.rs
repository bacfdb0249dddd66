//! A whole session of the server connection against a model of it that can be read at once.
//!
//! The bytes are read as a list of commands. The model says what each of them gets, from nothing but
//! the commands before it: one reply a command and in order, after any refusal only MAIL opens a
//! transaction, and no message but those that it let through. Then the server gets the same commands,
//! in one piece and cut, and must answer the same, in lines that end in CRLF and hold no other CR or
//! LF.
//!
//! What the layer above decides is asked for in the commands themselves: `refuse` in EHLO, MAIL and
//! RCPT, and in MAIL what is to become of the message (`nodata`, `nomid`, `noend`).

use std::sync::Arc;

use smtp_proto::client_name::ClientName;
use smtp_proto::extension::{Extension, Mechanism};
use smtp_proto::server::{Auth, Config, Connection, Event, Fatal, HelloVerb, Progress, Rejection};

const SIZE_MAX: usize = 200;
const RECIPIENTS_MAX: u32 = 4;

/// Runs the commands that the bytes stand for. The first byte says how the input is cut, the second
/// whether TLS is up from the start and whether AUTH needs it. Gives how many messages went through.
pub fn session(data: &[u8]) -> usize {
    let [cut, options, commands @ ..] = data else {
        return 0;
    };
    let mut model = Model {
        tls: options & 1 != 0,
        auth_in_clear: options & 2 != 0,
        ..Model::default()
    };
    let mut parts = vec![Vec::new()];
    let mut codes = vec![220];
    for command in commands.chunks(2) {
        if model.over {
            break;
        }
        let (octets, replies) = model.apply(command[0], *command.get(1).unwrap_or(&0));
        parts.last_mut().expect("one at least").extend(octets);
        codes.extend(replies);
        // What follows STARTTLS is the handshake's.
        if std::mem::take(&mut model.handshake) {
            parts.push(Vec::new());
        }
    }
    let whole = Server::run(*options, &parts, usize::MAX);
    assert_eq!(whole.codes(), codes, "{}", told(&parts));
    assert_eq!(whole.messages, model.messages, "{}", told(&parts));
    assert_eq!(whole.fatal, None, "{}", told(&parts));
    let pieces = Server::run(*options, &parts, 1 + usize::from(*cut));
    assert!(pieces == whole, "cut by {cut}: {}", told(&parts));
    whole.messages.len()
}

fn told(parts: &[Vec<u8>]) -> String {
    parts.concat().escape_ascii().to_string()
}

/// What a client may know of a session.
#[derive(Default)]
struct Model {
    tls: bool,
    auth_in_clear: bool,
    authenticated: bool,
    hello: Option<HelloVerb>,
    transaction: Option<Transaction>,
    /// What the rest of the chunks of a refused message get.
    refused_chunks: Option<u16>,
    messages: Vec<Vec<u8>>,
    /// STARTTLS was accepted just now.
    handshake: bool,
    /// QUIT was.
    over: bool,
}

struct Transaction {
    from: &'static str,
    binary: bool,
    recipients: u32,
    /// What came by BDAT, once one did.
    chunks: Option<Vec<u8>>,
}

/// The octets of a command and of what follows it, and the codes of their replies.
type Said = (Vec<u8>, Vec<u16>);

fn line(text: &str, code: u16) -> Said {
    ([text.as_bytes(), b"\r\n"].concat(), vec![code])
}

impl Model {
    fn apply(&mut self, command: u8, choice: u8) -> Said {
        match command % 20 {
            0 => self.hello("EHLO", HelloVerb::Ehlo, choice),
            1 => self.hello("HELO", HelloVerb::Helo, choice),
            2 => self.start_tls(choice),
            3 => self.auth(choice),
            4..=6 => self.mail(choice),
            7..=10 => self.rcpt(choice),
            11 | 12 => self.data(choice),
            13..=16 => self.bdat(choice),
            17 => self.rset(choice),
            18 => Self::aside(choice),
            _ if choice == 0 => {
                self.over = true;
                line("QUIT", 221)
            }
            _ => line("QUIT now", 501),
        }
    }

    /// Drops the transaction, and what was known of one that was refused.
    fn drop(&mut self) {
        self.transaction = None;
        self.refused_chunks = None;
    }

    /// RFC 5321 §4.1.4: a second EHLO does what RSET does, accepted or not.
    fn hello(&mut self, verb: &str, said: HelloVerb, choice: u8) -> Said {
        self.drop();
        match choice % 8 {
            0 => line(&format!("{verb} refuse"), 550),
            1 => line(&format!("{verb} a b"), 501),
            2 => line(verb, 501),
            _ => {
                self.hello = Some(said);
                line(&format!("{verb} client.example"), 250)
            }
        }
    }

    fn start_tls(&mut self, choice: u8) -> Said {
        self.drop();
        let text = if choice.is_multiple_of(8) {
            "STARTTLS now"
        } else {
            "STARTTLS"
        };
        if self.tls {
            return line(text, 503);
        }
        if choice.is_multiple_of(8) {
            return line(text, 501);
        }
        if self.hello.is_none() || self.authenticated {
            return line(text, 503);
        }
        // RFC 3207 §4.2: all that was said before is forgotten.
        self.tls = true;
        self.hello = None;
        self.handshake = true;
        line(text, 220)
    }

    fn auth(&mut self, choice: u8) -> Said {
        let (text, codes): (&str, &[u16]) = match choice % 8 {
            0 => ("AUTH PLAIN AHUAcA==\r\n", &[235]),
            1 => ("AUTH PLAIN AHUAcQ==\r\n", &[535]),
            2 => ("AUTH PLAIN\r\nAHUAcA==\r\n", &[334, 235]),
            3 => ("AUTH LOGIN\r\ndQ==\r\ncA==\r\n", &[334, 334, 235]),
            4 => ("AUTH LOGIN\r\ndQ==\r\n*\r\n", &[334, 334, 501]),
            5 => ("AUTH LOGIN\r\nno base64\r\n", &[334, 501]),
            6 => ("AUTH GSSAPI AAAA\r\n", &[504]),
            _ => ("AUTH PLAIN !\r\n", &[501]),
        };
        let refused = match self.hello {
            Some(HelloVerb::Ehlo) if !self.tls && !self.auth_in_clear => Some(538),
            Some(HelloVerb::Ehlo) if self.authenticated || self.transaction.is_some() => Some(503),
            Some(HelloVerb::Ehlo) => None,
            Some(HelloVerb::Helo) | None => Some(503),
        };
        if let Some(code) = refused {
            let first = text.split_inclusive('\n').next().unwrap_or_default();
            return (first.into(), vec![code]);
        }
        self.authenticated = codes.last() == Some(&235);
        (text.into(), codes.to_vec())
    }

    fn mail(&mut self, choice: u8) -> Said {
        let from = ["ok", "ok", "refuse", "nodata", "nomid", "noend"][usize::from(choice) % 6];
        let (params, fault) = match choice / 6 % 8 {
            0 => (" BODY=BINARYMIME", None),
            1 => (
                " SIZE=100 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=a+2Bb",
                None,
            ),
            2 => (" SIZE=201", Some(552)),
            3 => (" SIZE=1 SIZE=1", Some(501)),
            4 => (" XYZZY=1", Some(555)),
            _ => ("", None),
        };
        let extended = self.hello == Some(HelloVerb::Ehlo);
        let code = match (self.hello, &self.transaction) {
            (None, _) | (_, Some(_)) => 503,
            // RFC 5321 §4.1.1.11: what was not offered is not recognized.
            (Some(_), None) if !extended && !params.is_empty() => 555,
            (Some(_), None) => fault.unwrap_or_else(|| {
                self.refused_chunks = None;
                if from == "refuse" { 553 } else { 250 }
            }),
        };
        if code == 250 {
            self.transaction = Some(Transaction {
                from,
                binary: params.contains("BINARY"),
                recipients: 0,
                chunks: None,
            });
        }
        line(&format!("MAIL FROM:<{from}@a.example>{params}"), code)
    }

    fn rcpt(&mut self, choice: u8) -> Said {
        let (to, code) = match choice % 12 {
            0 => ("<refuse@b>", 550),
            1 => ("<later@b>", 450),
            2 => ("<Postmaster>", 250),
            3 => ("<\"a b\"@[192.0.2.1]>", 250),
            4 => ("<@c:a@b>", 501),
            5 => ("<>", 501),
            6 => ("<a@b> XYZZY", 555),
            _ => ("<a@b>", 250),
        };
        let code = match &mut self.transaction {
            None
            | Some(Transaction {
                chunks: Some(_), ..
            }) => 503,
            Some(_) if matches!(code, 501 | 555) => code,
            Some(transaction) if transaction.recipients == RECIPIENTS_MAX => 452,
            Some(transaction) => {
                transaction.recipients += u32::from(code == 250);
                code
            }
        };
        line(&format!("RCPT TO:{to}"), code)
    }

    /// Every outcome of DATA ends the transaction.
    fn data(&mut self, choice: u8) -> Said {
        let transaction = self.transaction.take();
        self.refused_chunks = None;
        let ready = transaction.filter(|it| it.recipients > 0 && it.chunks.is_none() && !it.binary);
        if choice.is_multiple_of(16) {
            // An argument is told of where DATA was in its place.
            let code = if ready.is_some() { 501 } else { 503 };
            return match ready {
                Some(_) => line("DATA now", code),
                None => line("DATA", code),
            };
        }
        let Some(transaction) = ready else {
            return line("DATA", 503);
        };
        let long = b"x".repeat(SIZE_MAX + 1);
        let (sent, body, fault): (&[u8], &[u8], _) = match choice % 16 {
            1 => (b"", b"", None),
            2 => (b"a\nb\r\n", b"", Some(550)),
            3 => (b"a\rb\r\n", b"", Some(550)),
            4 => (b"a\0b\r\n", b"", Some(550)),
            5 => (b"a\n.\r\nQUIT\r\n", b"", Some(550)),
            6 => (b"a\r\n.\nQUIT\r\n", b"", Some(550)),
            7 => (b"a\r\n.\rQUIT\r\n", b"", Some(550)),
            8 => (&[&long[..], b"\r\n"].concat(), b"", Some(552)),
            9 => (b"..\r\n...\r\n", b".\r\n..\r\n", None),
            10 => (b"a\r\n.b\r\n", b"a\r\nb\r\n", None),
            _ => (
                b"MAIL FROM:<smuggled@a>\r\n",
                b"MAIL FROM:<smuggled@a>\r\n",
                None,
            ),
        };
        let sent = sent.to_vec();
        let code = match transaction.from {
            "nodata" => return line("DATA", 451),
            "nomid" if !sent.is_empty() => 452,
            _ if fault.is_some() => fault.unwrap_or_default(),
            "noend" => 554,
            _ => {
                self.messages.push(body.to_vec());
                250
            }
        };
        ([b"DATA\r\n", &sent[..], b".\r\n"].concat(), vec![354, code])
    }

    /// A chunk follows its command, whatever becomes of it.
    fn bdat(&mut self, choice: u8) -> Said {
        let (size, last) = (usize::from(choice >> 2) % 64, choice & 1 != 0);
        let pattern: &[u8] = if choice & 2 == 0 {
            b"QUIT.\r\n.\r\n"
        } else {
            b"any\n"
        };
        let chunk: Vec<u8> = pattern.iter().copied().cycle().take(size).collect();
        let code = self.chunk(&chunk, last);
        let word = if last { " LAST" } else { "" };
        let command = format!("BDAT {size}{word}\r\n");
        ([command.as_bytes(), &chunk].concat(), vec![code])
    }

    fn chunk(&mut self, chunk: &[u8], last: bool) -> u16 {
        let code = match &mut self.transaction {
            None => self.refused_chunks.unwrap_or(503),
            Some(transaction) if transaction.recipients == 0 => 503,
            Some(_) if self.hello != Some(HelloVerb::Ehlo) => 503,
            Some(transaction) => {
                let first = transaction.chunks.is_none();
                let octets = transaction.chunks.get_or_insert_default();
                octets.extend_from_slice(chunk);
                let malformed = !transaction.binary && !is_lines(octets, last);
                match transaction.from {
                    _ if octets.len() > SIZE_MAX => 552,
                    "nodata" if first => 451,
                    "nomid" if !chunk.is_empty() => 452,
                    _ if malformed => 550,
                    "noend" if last => 554,
                    _ if last => {
                        self.messages.push(std::mem::take(octets));
                        self.transaction = None;
                        return 250;
                    }
                    _ => return 250,
                }
            }
        };
        self.transaction = None;
        self.refused_chunks = (!last).then_some(code);
        code
    }

    fn rset(&mut self, choice: u8) -> Said {
        self.drop();
        match choice % 8 {
            0 => line("RSET now", 501),
            _ => line("rset", 250),
        }
    }

    /// Commands that change nothing.
    fn aside(choice: u8) -> Said {
        match choice % 8 {
            0 => line("NOOP whatever", 250),
            1 => line("VRFY a", 252),
            2 => line("EXPN a", 502),
            3 => line("HELP", 214),
            4 => line("", 500),
            5 => line("NOOP \0", 501),
            6 => line(&format!("NOOP {}", "x".repeat(600)), 500),
            _ => line("XYZZY", 500),
        }
    }
}

/// Whether CR and LF stand together only. The last CR of all but the last chunk may still get its LF.
fn is_lines(octets: &[u8], last: bool) -> bool {
    (0..octets.len()).all(|at| match octets[at] {
        b'\r' => octets.get(at + 1).map_or(!last, |&next| next == b'\n'),
        b'\n' => at > 0 && octets[at - 1] == b'\r',
        _ => true,
    })
}

/// The server, and above it a layer that decides as it is asked to.
#[derive(PartialEq)]
struct Server {
    wire: Vec<u8>,
    messages: Vec<Vec<u8>>,
    fatal: Option<Fatal>,
    from: String,
    body: Vec<u8>,
    challenges: u8,
}

impl Server {
    fn run(options: u8, parts: &[Vec<u8>], cut: usize) -> Self {
        let hostname = "mx.example".parse().expect("a domain");
        let mut config = Config::new(hostname)
            .with(Extension::StartTls)
            .with_auth(&[Mechanism::Plain, Mechanism::Login]);
        config.auth_without_tls = options & 2 != 0;
        config.limits.message_size = SIZE_MAX as u64;
        config.limits.recipients = RECIPIENTS_MAX;
        (config.limits.errors, config.limits.junk) = (u32::MAX, u32::MAX);
        let mut it = Self {
            wire: Vec::new(),
            messages: Vec::new(),
            fatal: None,
            from: String::new(),
            body: Vec::new(),
            challenges: 0,
        };
        let mut smtp = Connection::new(&Arc::new(config), &mut it.wire);
        if options & 1 != 0 {
            smtp.tls_started();
        }
        for (nr, part) in parts.iter().enumerate() {
            if nr > 0 {
                smtp.tls_started();
            }
            part.chunks(cut.max(1))
                .for_each(|piece| it.receive(&mut smtp, piece));
        }
        it
    }

    fn receive(&mut self, smtp: &mut Connection, mut piece: &[u8]) {
        while !smtp.is_closed() {
            match smtp.receive(piece, &mut self.wire) {
                Ok(Progress::NeedMore { used }) => {
                    assert_eq!(used, piece.len(), "no verdict is due, so all is used");
                    return;
                }
                Ok(Progress::Event { used, event }) => {
                    piece = &piece[used..];
                    self.decide(smtp, event);
                }
                Err(fatal) => self.fatal = Some(fatal),
            }
        }
    }

    fn decide(&mut self, smtp: &mut Connection, event: Event<'_>) {
        let refusal = match event {
            Event::Hello(hello) => {
                self.body.clear();
                let refused = ClientName::parse("refuse").expect("a name") == hello.name;
                refused.then_some(Rejection::POLICY)
            }
            Event::Auth(auth) => return self.authenticate(smtp, auth),
            Event::Mail(mail) => {
                let from = mail.from.mailbox().map_or("", |from| from.local_part());
                self.from = from.to_owned();
                (from == "refuse").then_some(Rejection::SENDER_NOT_ALLOWED)
            }
            Event::Rcpt(rcpt) => match rcpt.to.mailbox().map_or("", |to| to.local_part()) {
                "refuse" => Some(Rejection::NO_SUCH_MAILBOX),
                "later" => Some(Rejection::RATE),
                _ => None,
            },
            Event::Data { .. } => (self.from == "nodata").then_some(Rejection::LOCAL_ERROR),
            Event::Body(octets) => {
                self.body.extend_from_slice(octets);
                if self.from == "nomid" {
                    self.body.clear();
                    let rejected = smtp.reject(Rejection::STORAGE_FULL, "full", &mut self.wire);
                    assert!(rejected.is_ok());
                }
                return;
            }
            Event::BodyEnd => {
                let body = std::mem::take(&mut self.body);
                let refused = self.from == "noend";
                if !refused {
                    self.messages.push(body);
                }
                refused.then_some(Rejection::permanent(554, 6, 0))
            }
            Event::BodyRefused(_) | Event::Reset | Event::Quit => {
                self.body.clear();
                return;
            }
            Event::StartTls | Event::XClient(_) => {
                self.body.clear();
                None
            }
        };
        let given = match refusal {
            Some(why) => smtp.reject(why, "no", &mut self.wire),
            None => smtp.accept("", &mut self.wire),
        };
        assert!(given.is_ok(), "a verdict was due");
    }

    /// `u` with the password `p`.
    fn authenticate(&mut self, smtp: &mut Connection, auth: Auth) {
        let wire = &mut self.wire;
        let given = match auth {
            Auth::Cancelled => return,
            Auth::Start {
                mechanism: Mechanism::Plain,
                initial_response: Some(response),
            } if response != b"\0u\0p" => smtp.reject(Rejection::WRONG_CREDENTIALS, "no", wire),
            Auth::Start {
                initial_response: Some(_),
                ..
            } => smtp.accept("", wire),
            Auth::Start { mechanism, .. } => {
                self.challenges = u8::from(mechanism == Mechanism::Login);
                smtp.challenge(b"", wire)
            }
            Auth::Response(_) if self.challenges > 0 => {
                self.challenges -= 1;
                smtp.challenge(b"", wire)
            }
            Auth::Response(_) => smtp.accept("", wire),
        };
        assert!(given.is_ok(), "a verdict was due");
    }

    /// The codes of the replies, each of them whole and in lines of its own.
    fn codes(&self) -> Vec<u16> {
        let mut codes = Vec::new();
        let mut unfinished = None;
        let text = std::str::from_utf8(&self.wire).expect("ASCII");
        for line in text.split_inclusive("\r\n") {
            let line = line.strip_suffix("\r\n").expect("a whole line");
            let clean = line.bytes().all(|byte| matches!(byte, b' '..=b'~'));
            assert!(clean && line.len() <= 510, "{line:?}");
            let (code, rest) = line.split_at(3);
            let code: u16 = code.parse().expect("a code");
            assert!(unfinished.is_none_or(|of| of == code), "{text}");
            match rest.as_bytes().first() {
                Some(b'-') => unfinished = Some(code),
                Some(b' ') => {
                    unfinished = None;
                    codes.push(code);
                }
                _ => panic!("{line:?} is no line of a reply"),
            }
        }
        assert_eq!(unfinished, None);
        codes
    }
}
