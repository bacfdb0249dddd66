//! Sessions of the client connection as data: `transcripts/client/README.md` says how they read.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use smtp_proto::client::{Connection, Event, Hello, Progress, SendError};
use smtp_proto::{Extension, ForwardPath, Host, MailParams, Mechanism, RcptParams, ReversePath};

#[test]
fn all() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts/client");
    let mut files: Vec<_> = folder
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.retain(|path| path.extension().is_some_and(|it| it == "txt"));
    files.sort();
    assert!(!files.is_empty());
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        for piece_len in [1, 3, usize::MAX] {
            let mut session = Session {
                name: path.display().to_string(),
                ..Session::default()
            };
            for (nr, line) in text.lines().enumerate() {
                session.line(nr + 1, line, piece_len);
            }
            session.server_spoke(piece_len);
            session.all_was_named();
        }
    }
}

/// A session under way: what happened and was not yet named by the transcript.
#[derive(Default)]
struct Session {
    name: String,
    line: usize,
    smtp: Connection,
    /// What the server says next.
    heard: Vec<u8>,
    wire: Vec<u8>,
    events: Vec<String>,
    error: Option<String>,
}

impl Session {
    fn line(&mut self, nr: usize, line: &str, piece_len: usize) {
        self.line = nr;
        let (kind, rest) = line.split_at(line.len().min(2));
        let rest = rest.strip_prefix(' ').unwrap_or(rest);
        if kind != "S:" {
            self.server_spoke(piece_len);
        }
        match kind {
            "" | "# " | "#" => {}
            "S:" => {
                self.all_was_named_but_events();
                self.heard.extend(unescaped(rest));
                self.heard.extend(b"\r\n");
            }
            "> " => {
                assert_eq!(self.error, None, "{}:{nr}", self.name);
                self.error = self.command(rest).err().map(|why| format!("{why:?}"));
            }
            "C:" => {
                let expected = [&unescaped(rest)[..], b"\r\n"].concat();
                let wrote: Vec<u8> = self
                    .wire
                    .drain(..expected.len().min(self.wire.len()))
                    .collect();
                assert_eq!(
                    wrote.escape_ascii().to_string(),
                    expected.escape_ascii().to_string(),
                    "{}:{nr}",
                    self.name
                );
            }
            "= " => {
                assert!(
                    !self.events.is_empty(),
                    "{}:{nr}: nothing happened",
                    self.name
                );
                assert_eq!(self.events.remove(0), rest, "{}:{nr}", self.name);
            }
            "! " => assert_eq!(
                self.error.take().as_deref(),
                Some(rest),
                "{}:{nr}",
                self.name
            ),
            _ => panic!("{}:{nr}: not a line of a transcript", self.name),
        }
    }

    /// The block of S: lines is whole: the client receives it.
    fn server_spoke(&mut self, piece_len: usize) {
        let heard = std::mem::take(&mut self.heard);
        for mut piece in heard.chunks(piece_len) {
            loop {
                match self.smtp.receive(piece) {
                    Ok(Progress::NeedMore { .. }) => break,
                    Ok(Progress::Event { used, event }) => {
                        piece = &piece[used..];
                        self.events.push(match event {
                            Event::Reply { answers, reply } => {
                                described(format!("{answers:?}"), &reply)
                            }
                            Event::Closing { reply } => described("Closing".into(), &reply),
                        });
                    }
                    Err(why) => {
                        self.error = Some(format!("{why:?}"));
                        return;
                    }
                }
            }
        }
    }

    fn all_was_named(&self) {
        self.all_was_named_but_events();
        assert!(
            self.events.is_empty(),
            "{}:{}: {:?}",
            self.name,
            self.line,
            self.events
        );
    }

    fn all_was_named_but_events(&self) {
        let wire = self.wire.escape_ascii().to_string();
        assert_eq!(wire, "", "{}:{}: more was written", self.name, self.line);
        assert_eq!(self.error, None, "{}:{}", self.name, self.line);
    }

    fn command(&mut self, text: &str) -> Result<(), SendError> {
        let (smtp, wire) = (&mut self.smtp, &mut self.wire);
        let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
        let (first, second) = rest.split_once(' ').unwrap_or((rest, ""));
        let name = Host::parse("relay.example.com").unwrap();
        let all = || Extension::ALL.into_iter().collect();
        match verb {
            "ehlo" => smtp.hello(Hello::Ehlo, &name, wire),
            "helo" => smtp.hello(Hello::Helo, &name, wire),
            "lhlo" => smtp.hello(Hello::Lhlo, &name, wire),
            "starttls" => smtp.start_tls(wire),
            "tls" => {
                smtp.tls_started();
                Ok(())
            }
            "auth" => {
                let response = rest
                    .split_once(' ')
                    .map(|(_, response)| unescaped(response));
                let mechanism: Mechanism = first.parse().unwrap();
                smtp.auth(mechanism, response.as_deref(), wire)
            }
            "respond" => smtp.auth_respond(&unescaped(rest), wire),
            "cancel" => smtp.auth_cancel(wire),
            "mail" => {
                let params = MailParams::parse(second, all()).unwrap();
                smtp.mail(&ReversePath::parse(first).unwrap(), &params, wire)
            }
            "rcpt" => {
                let params = RcptParams::parse(second, all()).unwrap();
                smtp.rcpt(&ForwardPath::parse(first).unwrap(), &params, wire)
            }
            "data" => smtp.data(wire),
            "body" => smtp.body(&unescaped(rest), wire),
            "end" => smtp.body_end(wire),
            "bdat" => smtp.bdat(first.parse().unwrap(), second == "last", wire),
            "reset" => smtp.reset(wire),
            "noop" => smtp.noop(wire),
            "quit" => smtp.quit(wire),
            _ => panic!("{}:{}: not a command", self.name, self.line),
        }
    }
}

fn described(what: String, reply: &smtp_proto::Reply) -> String {
    let enhanced = reply
        .enhanced()
        .map(|it| format!(" {it}"))
        .unwrap_or_default();
    format!("{what} {}{enhanced}", reply.code())
}

fn unescaped(text: &str) -> Vec<u8> {
    text.replace("\\r", "\r")
        .replace("\\n", "\n")
        .replace("\\0", "\0")
        .into_bytes()
}
