//! SMTP without IO: wire types, and the server and the client of a connection as state machines.
//!
//! Nothing here opens a socket, starts TLS, reads a clock or decides what mail to take. Octets that
//! came go in, octets to send come out, and between them stand events and verdicts:
//!
//! ```text
//!            ┌─────────────────────┐ Event: Mail, Rcpt, Body, …   ┌──────────────────┐
//!  octets ──▶│ server::Connection  │─────────────────────────────▶│ a relay, a test, │
//!  octets ◀──│                     │◀─────────────────────────────│ a mailbox …      │
//!            └─────────────────────┘ accept, reject, challenge    └──────────────────┘
//!
//!            ┌─────────────────────┐ mail, rcpt, data, body, …    ┌──────────────────┐
//!  octets ◀──│ client::Connection  │◀─────────────────────────────│ a delivery,      │
//!  octets ──▶│                     │─────────────────────────────▶│ a load tool …    │
//!            └─────────────────────┘ a Reply, and what it answers └──────────────────┘
//! ```
//!
//! # A server
//!
//! All of one, over anything that reads and writes; with a `TcpStream` it takes mail from the net.
//!
//! ```
//! use smtp_proto::server::{Config, Connection, Event, Progress, Rejection};
//! use std::io::{self, Read, Write};
//! use std::sync::Arc;
//!
//! fn serve(mut peer: impl Read + Write, config: &Arc<Config>) -> io::Result<Vec<Vec<u8>>> {
//!     let (mut mailbox, mut message) = (Vec::new(), Vec::new());
//!     let (mut buffer, mut wire) = ([0; 4096], Vec::new());
//!     let mut smtp = Connection::new(config, &mut wire);
//!     while !smtp.is_closed() {
//!         peer.write_all(&wire)?;
//!         wire.clear();
//!         let length = peer.read(&mut buffer)?;
//!         if length == 0 {
//!             break; // The peer is gone, and with it a message that was under way.
//!         }
//!         let mut input = &buffer[..length];
//!         while let Ok(Progress::Event { used, event }) = smtp.receive(input, &mut wire) {
//!             input = &input[used..];
//!             let verdict = match event {
//!                 Event::Body(octets) => {
//!                     message.extend_from_slice(octets);
//!                     continue; // No verdict is asked for.
//!                 }
//!                 Event::Rcpt(rcpt) if !rcpt.to.to_string().ends_with("@example.com>") => {
//!                     smtp.reject(Rejection::RELAY_DENIED, "Relaying denied", &mut wire)
//!                 }
//!                 Event::BodyEnd => {
//!                     mailbox.push(std::mem::take(&mut message));
//!                     smtp.accept("Ok: kept", &mut wire)
//!                 }
//!                 Event::Reset | Event::BodyRefused(_) | Event::Quit => {
//!                     message.clear();
//!                     continue;
//!                 }
//!                 _ => smtp.accept("", &mut wire),
//!             };
//!             verdict.expect("the event waits for a verdict");
//!         }
//!     }
//!     peer.write_all(&wire)?;
//!     Ok(mailbox)
//! }
//!
//! # struct Script<'a>(&'a [u8], &'a mut Vec<u8>);
//! # impl Read for Script<'_> {
//! #     fn read(&mut self, to: &mut [u8]) -> io::Result<usize> { self.0.read(to) }
//! # }
//! # impl Write for Script<'_> {
//! #     fn write(&mut self, from: &[u8]) -> io::Result<usize> { self.1.write(from) }
//! #     fn flush(&mut self) -> io::Result<()> { Ok(()) }
//! # }
//! let config = Arc::new(Config::new("mx.example.com".parse().unwrap()));
//! let client = b"EHLO client.example\r\nMAIL FROM:<a@client.example>\r\nRCPT TO:<b@example.com>\r\n\
//!     RCPT TO:<c@example.net>\r\nDATA\r\nSubject: hello\r\n\r\n..dots\r\n.\r\nQUIT\r\n";
//! let mut replies = Vec::new();
//! let mailbox = serve(Script(client, &mut replies), &config).unwrap();
//! assert_eq!(mailbox, [b"Subject: hello\r\n\r\n.dots\r\n"]);
//! assert!(replies.starts_with(b"220 mx.example.com ESMTP\r\n250-mx.example.com\r\n"));
//! assert!(replies.ends_with(b"250 2.0.0 Ok: kept\r\n221 2.0.0 Bye\r\n"));
//! ```
//!
//! `examples/receive.rs` is this over a `TcpStream`, as a program.
//!
//! # A client
//!
//! It does what the last reply calls for. Each reply says what it answers, so nothing is kept beside
//! the connection; with PIPELINING several commands could go out at once.
//!
//! ```
//! use smtp_proto::client::{Awaiting, Connection, Event, Hello, Progress};
//! use smtp_proto::{ForwardPath, Host, MailParams, RcptParams, ReversePath, Severity};
//! use std::error::Error;
//! use std::io::{Read, Write};
//!
//! /// Whether the server took the message.
//! fn send(mut peer: impl Read + Write, message: &[u8]) -> Result<bool, Box<dyn Error>> {
//!     let from: ReversePath = "<a@client.example>".parse()?;
//!     let to: ForwardPath = "<b@example.com>".parse()?;
//!     let name = Host::parse("client.example")?;
//!     let mut smtp = Connection::new();
//!     let (mut wire, mut buffer, mut taken) = (Vec::new(), [0; 4096], false);
//!     loop {
//!         peer.write_all(&wire)?;
//!         wire.clear();
//!         let length = peer.read(&mut buffer)?;
//!         if length == 0 {
//!             return Err("the server is gone".into());
//!         }
//!         let mut input = &buffer[..length];
//!         while let Progress::Event { used, event } = smtp.receive(input)? {
//!             input = &input[used..];
//!             let Event::Reply { answers, reply } = event else {
//!                 return Err("the server closes".into());
//!             };
//!             match (reply.code().severity(), answers) {
//!                 (_, Awaiting::Quit) => return Ok(taken),
//!                 (Severity::Transient | Severity::Permanent, _) => smtp.quit(&mut wire)?,
//!                 (_, Awaiting::Greeting) => smtp.hello(Hello::Ehlo, &name, &mut wire)?,
//!                 (_, Awaiting::Hello(_)) => smtp.mail(&from, &MailParams::default(), &mut wire)?,
//!                 (_, Awaiting::Mail) => smtp.rcpt(&to, &RcptParams::default(), &mut wire)?,
//!                 (_, Awaiting::Rcpt { .. }) => smtp.data(&mut wire)?,
//!                 (_, Awaiting::Data) => {
//!                     smtp.body(message, &mut wire)?;
//!                     smtp.body_end(&mut wire)?;
//!                 }
//!                 (_, answers) => {
//!                     taken = matches!(answers, Awaiting::BodyEnd { .. });
//!                     smtp.quit(&mut wire)?;
//!                 }
//!             }
//!         }
//!     }
//! }
//!
//! # struct Script<'a>(&'a [&'a [u8]], &'a mut Vec<u8>);
//! # impl Read for Script<'_> {
//! #     fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
//! #         let Some((next, rest)) = self.0.split_first() else { return Ok(0) };
//! #         self.0 = rest;
//! #         (&mut &next[..]).read(to)
//! #     }
//! # }
//! # impl Write for Script<'_> {
//! #     fn write(&mut self, from: &[u8]) -> std::io::Result<usize> { self.1.write(from) }
//! #     fn flush(&mut self) -> std::io::Result<()> { Ok(()) }
//! # }
//! let server: [&[u8]; 7] = [
//!     b"220 mx.example.com ESMTP\r\n", b"250 mx.example.com\r\n", b"250 ok\r\n", b"250 ok\r\n",
//!     b"354 go on\r\n", b"250 kept\r\n", b"221 bye\r\n",
//! ];
//! let mut sent = Vec::new();
//! assert!(send(Script(&server, &mut sent), b"Subject: hello\r\n\r\n.dots\r\n").unwrap());
//! assert!(sent.starts_with(b"EHLO client.example\r\nMAIL FROM:<a@client.example>\r\n"));
//! assert!(sent.ends_with(b"DATA\r\nSubject: hello\r\n\r\n..dots\r\n.\r\nQUIT\r\n"));
//! ```
//!
//! `examples/send.rs` is this over a `TcpStream`.
//!
//! # Features
//!
//! `std`, on by default, asks the processor for its widest registers, for bodies; the interface is the same
//! without it. `default-features = false` needs `alloc` alone.
//!
//! # Where to read on
//!
//! - The server: [`server`], its events [`server::Event`], its settings [`server::Config`].
//! - The client: [`client`], and [`Reply`].
//! - Framing: [`mod@line`] (commands), [`dot`] (bodies), [`limits`].
//! - Types that exist only if they are valid: [`address`], [`domain`], [`param`], [`command`],
//!   [`code`], [`extension`], [`xclient`]. Each reads itself and writes itself, and reads what it wrote.
//! - What of each RFC is here, section by section: [`rfc`].
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod address;
pub mod client;
pub mod client_name;
pub mod code;
pub mod command;
pub mod domain;
pub mod dot;
pub mod extension;
pub mod limits;
pub mod line;
mod octets;
pub mod param;
pub mod reply;
#[doc = include_str!("../RFC.md")]
pub mod rfc {}
mod scan;
pub mod server;
mod time_text;
pub mod xclient;
mod xtext;

pub use address::{AddressError, ForwardPath, Mailbox, MailboxRef, ReversePath};
pub use client_name::{ClientName, ClientNameError};
pub use code::{Class, Code, EnhancedCode, Severity};
pub use command::{Command, CommandError, Verb};
pub use domain::{AddressLiteral, Domain, DomainError, Host, HostError};
pub use extension::{Extension, Extensions, Mechanism, Mechanisms};
pub use param::{
    AuthParam, BodyType, ByMode, DeliverBy, EnvId, Hold, Keyword, MailParams, Notify, Occasion,
    Orcpt, ParamError, Priority, RcptParams, Ret,
};
pub use reply::{Reply, ReplyError};
