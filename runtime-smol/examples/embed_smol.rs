//! A smol program with the relay in it: it hands a message over, prints what becomes of it until it is
//! delivered, and shuts the relay down. One thread runs all of it, the relay included.
//!
//! `cargo run -p runtime-smol --example embed_smol`
//!
//! All mail goes to a receiver in this same process, so that nothing leaves the machine; a real program
//! has no route, and mail goes to the MX of each domain.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use runtime_smol::Relay;
use runtime_smol::relay_core::config::{Config, DomainPattern, Route};
use runtime_smol::relay_core::events::EventKind;
use runtime_smol::relay_core::inbound::direct::Draft;
use runtime_smol::runtime_std::events::Heard;
use runtime_smol::runtime_std::load;
use runtime_smol::smtp_proto::server::{self, Connection, Event, Progress};
use smol::Executor;
use smol::io::{AsyncReadExt as _, AsyncWriteExt as _};
use smol::net::{TcpListener, TcpStream};

fn main() -> Result<(), Box<dyn Error>> {
    let executor = Arc::new(Executor::new());
    smol::block_on(executor.run(run(&executor)))
}

async fn run(executor: &Arc<Executor<'static>>) -> Result<(), Box<dyn Error>> {
    let receiver = TcpListener::bind("127.0.0.1:0").await?;
    let address = receiver.local_addr()?;
    let receiving = executor.spawn(async move {
        let (stream, _) = receiver.accept().await?;
        receive(stream).await
    });

    let data_dir = std::env::temp_dir().join(format!("embed-smol-{}", std::process::id()));
    let mut config = Config::new("relay.example.com".parse()?, &data_dir);
    config.routes = vec![Route::new(DomainPattern::Any, vec![address.into()])];
    let relay = Relay::start(executor, load::from_config(config)?)?;
    let events = relay.subscribe(100);

    let draft = Draft::new(
        "me@example.com".parse()?,
        ["you@example.net".parse()?],
        "From: me@example.com\nSubject: hello\n\nFrom a program on smol.\n",
    );
    let id = relay.submit(draft).await?;
    println!("{id} is on stable storage");
    while let Some(heard) = events.recv_async().await {
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
    let in_time = relay.shut_down(Duration::from_secs(5)).await;
    println!("shut down, all in time: {in_time}");
    receiving.await?;
    std::fs::remove_dir_all(data_dir)?;
    Ok(())
}

/// Takes one connection's mail and prints it.
async fn receive(mut stream: TcpStream) -> io::Result<()> {
    let name = "mx.example.net".parse().map_err(io::Error::other)?;
    let (mut wire, mut buffer) = (Vec::new(), [0; 4096]);
    let mut smtp = Connection::new(&Arc::new(server::Config::new(name)), &mut wire);
    while !smtp.is_closed() {
        stream.write_all(&wire).await?;
        wire.clear();
        let len = stream.read(&mut buffer).await?;
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
    stream.write_all(&wire).await
}
