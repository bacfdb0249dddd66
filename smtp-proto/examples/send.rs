//! Sends one message, read from standard input, to one recipient: the client connection in one loop.
//!
//! `cargo run -p relay-smtp-proto --example send -- localhost:25 from@example.com to@example.org < mail`
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;

use smtp_proto::client::{Awaiting, Connection, Event, Hello, Progress};
use smtp_proto::{ForwardPath, Host, MailParams, RcptParams, ReversePath, Severity};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [server, from, to] = &args[..] else {
        return Err("usage: send HOST:PORT FROM TO < MESSAGE".into());
    };
    let from = ReversePath::Mailbox(from.parse()?);
    let to = ForwardPath::Mailbox(to.parse()?);
    let mut message = Vec::new();
    std::io::stdin().read_to_end(&mut message)?;
    send(TcpStream::connect(server)?, &from, &to, &message)
}

/// Does what the last reply calls for, until QUIT is answered.
fn send(
    mut stream: TcpStream,
    from: &ReversePath,
    to: &ForwardPath,
    message: &[u8],
) -> Result<(), Box<dyn Error>> {
    let mut smtp = Connection::new();
    let (mut wire, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        // Nothing is sent before all that was received is looked at.
        stream.write_all(&wire)?;
        wire.clear();
        let len = stream.read(&mut buffer)?;
        if len == 0 {
            return Err("the server closed the connection".into());
        }
        let mut input = &buffer[..len];
        while let Progress::Event { used, event } = smtp.receive(input)? {
            input = &input[used..];
            let (answers, reply) = match event {
                Event::Reply { answers, reply } => (answers, reply),
                Event::Closing { reply } => return Err(reply.to_string().into()),
            };
            println!("{answers:?}: {reply}");
            match (reply.code().severity(), answers) {
                (_, Awaiting::Quit) => return Ok(()),
                (Severity::Transient | Severity::Permanent, _) => smtp.quit(&mut wire)?,
                (_, Awaiting::Greeting) => {
                    smtp.hello(
                        Hello::Ehlo,
                        &Host::parse("localhost.localdomain")?,
                        &mut wire,
                    )?;
                }
                (_, Awaiting::Hello(_)) => smtp.mail(from, &MailParams::default(), &mut wire)?,
                (_, Awaiting::Mail) => smtp.rcpt(to, &RcptParams::default(), &mut wire)?,
                (_, Awaiting::Rcpt { .. }) => smtp.data(&mut wire)?,
                (_, Awaiting::Data) => {
                    smtp.body(message, &mut wire)?;
                    smtp.body_end(&mut wire)?;
                }
                (_, _) => smtp.quit(&mut wire)?,
            }
        }
    }
}
