//! Takes mail for anybody at `example.com` and prints it: the server connection in one loop.
//!
//! `cargo run -p relay-smtp-proto --example receive -- 127.0.0.1:2525`
//!
//! It serves one client at a time, and as many as it is told to: `receive 127.0.0.1:2525 1` ends after one.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use smtp_proto::server::{Config, Connection, Event, Progress, Rejection};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let address = args.first().ok_or("usage: receive IP:PORT [CLIENTS]")?;
    let clients = args.get(1).map_or(Ok(usize::MAX), |text| text.parse())?;
    let config = Arc::new(Config::new("mx.example.com".parse()?));
    let listener = TcpListener::bind(address)?;
    println!("listening on {}", listener.local_addr()?);
    for stream in listener.incoming().take(clients) {
        let stream = stream?;
        // RFC 5321 §4.5.3.2.7: a server waits at least five minutes for the next command.
        stream.set_read_timeout(Some(Duration::from_secs(300)))?;
        if let Err(error) = serve(stream, &config) {
            println!("the connection failed: {error}");
        }
    }
    Ok(())
}

/// Answers one client until it is gone.
fn serve(mut stream: TcpStream, config: &Arc<Config>) -> io::Result<()> {
    let (mut wire, mut buffer, mut message) = (Vec::new(), [0; 4096], Vec::new());
    let mut smtp = Connection::new(config, &mut wire);
    while !smtp.is_closed() {
        // Nothing is read before all that is to be said was sent.
        stream.write_all(&wire)?;
        wire.clear();
        let len = stream.read(&mut buffer)?;
        if len == 0 {
            break;
        }
        let mut input = &buffer[..len];
        while let Ok(Progress::Event { used, event }) = smtp.receive(input, &mut wire) {
            input = &input[used..];
            let verdict = match event {
                Event::Body(octets) => {
                    message.extend_from_slice(octets);
                    continue;
                }
                Event::Reset | Event::BodyRefused(_) | Event::Quit => {
                    message.clear();
                    continue;
                }
                Event::Rcpt(rcpt) if !rcpt.to.to_string().ends_with("@example.com>") => {
                    smtp.reject(Rejection::RELAY_DENIED, "Relaying denied", &mut wire)
                }
                Event::BodyEnd => {
                    println!("{}", String::from_utf8_lossy(&message));
                    message.clear();
                    smtp.accept("Ok: printed", &mut wire)
                }
                Event::Hello(_) | Event::StartTls | Event::Mail(_) => {
                    message.clear();
                    smtp.accept("", &mut wire)
                }
                Event::Rcpt(_) | Event::Data { .. } => smtp.accept("", &mut wire),
                Event::Auth(_) | Event::XClient(_) => {
                    smtp.reject(Rejection::WRONG_CREDENTIALS, "No", &mut wire)
                }
            };
            verdict.map_err(io::Error::other)?;
        }
    }
    stream.write_all(&wire)
}
