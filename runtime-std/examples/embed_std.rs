//! A program on plain threads with the relay in it: it hands a message over, prints what becomes of it
//! until it is delivered, and shuts the relay down.
//!
//! `cargo run -p runtime-std --example embed_std`
//!
//! All mail goes to a receiver in this same process, so that nothing leaves the machine; a real program
//! has no route, and mail goes to the MX of each domain.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use runtime_std::events::Heard;
use runtime_std::relay_core::config::{Config, DomainPattern, Route};
use runtime_std::relay_core::events::EventKind;
use runtime_std::relay_core::inbound::direct::Draft;
use runtime_std::smtp_proto::server::{self, Connection, Event, Progress};
use runtime_std::{Relay, load};

fn main() -> Result<(), Box<dyn Error>> {
    let receiver = TcpListener::bind("127.0.0.1:0")?;
    let address = receiver.local_addr()?;
    thread::spawn(move || receiver.accept().and_then(|(stream, _)| receive(stream)));

    let data_dir = std::env::temp_dir().join(format!("embed-std-{}", std::process::id()));
    let mut config = Config::new("relay.example.com".parse()?, &data_dir);
    config.routes = vec![Route::new(DomainPattern::Any, vec![address.into()])];
    let relay = Relay::start(load::from_config(config)?)?;
    let events = relay.subscribe(100);

    let draft = Draft::new(
        "me@example.com".parse()?,
        ["you@example.net".parse()?],
        "From: me@example.com\nSubject: hello\n\nFrom a program on threads.\n",
    );
    let id = relay.submit(draft)?;
    println!("{id} is on stable storage");
    for heard in events {
        match heard {
            Heard::Event(event) => {
                println!("{event}");
                if matches!(event.kind, EventKind::Delivered(_)) {
                    break;
                }
            }
            Heard::Missed(count) => println!("{count} events were missed"),
        }
    }
    let in_time = relay.shut_down(Duration::from_secs(5));
    println!("shut down, all in time: {in_time}");
    std::fs::remove_dir_all(data_dir)?;
    Ok(())
}

/// Takes one connection's mail and prints it.
fn receive(mut stream: TcpStream) -> io::Result<()> {
    let name = "mx.example.net".parse().map_err(io::Error::other)?;
    let (mut wire, mut buffer) = (Vec::new(), [0; 4096]);
    let mut smtp = Connection::new(&Arc::new(server::Config::new(name)), &mut wire);
    while !smtp.is_closed() {
        stream.write_all(&wire)?;
        wire.clear();
        let len = stream.read(&mut buffer)?;
        if len == 0 {
            break;
        }
        let mut input = &buffer[..len];
        while let Ok(Progress::Event { used, event }) = smtp.receive(input, &mut wire) {
            input = &input[used..];
            match event {
                Event::Body(octets) => {
                    println!("received:\n{}", String::from_utf8_lossy(octets));
                }
                Event::Reset | Event::BodyRefused(_) | Event::Quit => {}
                Event::Hello(_)
                | Event::StartTls
                | Event::Auth(_)
                | Event::XClient(_)
                | Event::Mail(_)
                | Event::Rcpt(_)
                | Event::Data { .. }
                | Event::BodyEnd => smtp.accept("", &mut wire).map_err(io::Error::other)?,
            }
        }
    }
    stream.write_all(&wire)
}
