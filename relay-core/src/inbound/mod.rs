//! Submission: one client's connection as a machine, from the banner to the last `250 queued`.
//!
//! ```text
//!  Setup ─▶ Proxy ─▶ Connecting ─▶ Handshake ─▶ Ready ◀──────────────────────────────┐
//!           (only    (Ask::        (implicit    │ │ │ │                               │
//!           if so    Connect)      TLS only)    │ │ │ └ STARTTLS ─▶ Handshake ───────▶│
//!           set up)     │                       │ │ └ AUTH ─▶ Auth (see `auth`) ─────▶│
//!                       │Refused                │ └ MAIL ─▶ Mail (Ask::Mail) ────────▶│
//!                       ▼                       │           RCPT, RSET, EHLO ────────▶│
//!                    Ending ◀─ QUIT, 421, ──────┤                                     │
//!                       │      hang-up          └ DATA, BDAT ─▶ Transfer ─ queued ───▶│
//!                       │                            refused on the way │             │
//!        Unspool, Abandon, Bye; then Close                              ▼             │
//!                                                                   Discarding ──────▶┘
//! ```
//!
//! | part | what it owns |
//! |---|---|
//! | [`Session`] | what a connection holds and waits for; the order of things |
//! | `owed` | what it says of itself, what it owes, and how it ends |
//! | `admit` | PROXY, the engine's welcome, TLS, what EHLO offers |
//! | `xclient` | a front end that speaks for the client |
//! | `auth` | AUTH, down to the credential that the client acts as |
//! | `envelope` | the rules of MAIL and RCPT |
//! | `verification` | what is asked and added about mail from strangers, at an inbound listener |
//! | `transfer`, `content` | a message's octets: pace, memory, spool, submission |
//! | [`body`] | the header block: what is checked, removed, added |
//! | [`preflight`] | what receivers would hold against a message |
//! | [`direct`] | the same for a message that comes without a connection |
//!
//! What a session promises, whatever the client does:
//!
//! - No RCPT is accepted from a client that is neither authenticated nor in a trusted network, but on a
//!   listener with `role = "inbound"`: there for domains that a `[[route]]` names, and no other.
//! - A `250` that ends a message is written after the engine said that it is on stable storage; a
//!   message that is cut short is never submitted.
//! - Every id that the engine gave ends once, in `Submit` or in `Abandon`; every spool file that comes
//!   to nothing is deleted; every `Welcome` is followed by one `Bye`.
//! - It holds at most 256 KiB of a message and one read of the runtime; between commands, no buffer.
//! - Every wait has a deadline that single octets do not move.
//!
//! Implements RFC 6409 (submission), RFC 5321 §3, §4.5.3.2 and §6.3, RFC 3207 and RFC 8314 (TLS),
//! RFC 4954 (AUTH), RFC 3030 (BDAT), RFC 3461 §4 (DSN parameters), RFC 6531 (SMTPUTF8).
//!
//! # Driving one
//!
//! The runtime's part, with an engine that lets everybody in and a client that says little:
//!
//! ```
//! # use std::sync::Arc;
//! # use relay_core::channel::ServerTls;
//! # use relay_core::config::{Config, Listener, ListenerTls};
//! # use relay_core::engine::{self, Ask};
//! # use relay_core::id::SessionId;
//! # use relay_core::inbound::{Answer, Request, Session, Setup};
//! # use relay_core::machine::{Input, Machine, Output};
//! # use relay_core::rng::Rng;
//! # use relay_core::time::{Instant, Now, UnixTime};
//! # let mut config = Config::new("relay.example.com".parse().unwrap(), "/nowhere");
//! # config.listeners.push(Listener::new("127.0.0.1:587".parse().unwrap(), ListenerTls::None));
//! # let config = Arc::new(config);
//! # let key = rcgen::generate_simple_self_signed(["relay.example.com".to_owned()]).unwrap();
//! # let chain = vec![key.cert.der().clone()];
//! # let tls = ServerTls::new(chain, key.signing_key.serialize_der().try_into().unwrap()).unwrap();
//! let setup = Setup {
//!     id: SessionId(1),
//!     peer: "192.0.2.7:40000".parse().unwrap(),
//!     local: "192.0.2.1:587".parse().unwrap(),
//!     listener: 0,
//!     config: Arc::clone(&config),
//!     tls,
//! };
//! let now = Now { instant: Instant::default(), unix: UnixTime::from_secs(1_795_471_531) };
//! let mut session = Session::new(setup, now, Rng::from_number(1));
//! let mut client = [b"EHLO me\r\nMAIL FR".as_slice(), b"OM:<a@b.example>\r\nQUIT\r\n"].into_iter();
//! let mut wire = Vec::new(); // what the client reads
//! loop {
//!     match session.poll_output(&mut wire) {
//!         Output::Request(Request::Engine(Ask::Connect { .. })) => {
//!             let welcome = engine::Answer::Welcome(Arc::clone(&config));
//!             session.handle_input(now, Input::Answer(Answer::Engine(welcome)));
//!         }
//!         Output::Request(Request::Engine(Ask::Bye)) => {
//!             session.handle_input(now, Input::Answer(Answer::Done));
//!         }
//!         Output::Request(other) => unreachable!("this client gets no further: {other:?}"),
//!         Output::Read { .. } => match client.next() {
//!             Some(bytes) => session.handle_input(now, Input::Bytes(bytes)),
//!             None => session.handle_input(now, Input::Closed(None)),
//!         },
//!         Output::Close => break,
//!     }
//! }
//! let replies = String::from_utf8(wire).unwrap();
//! assert!(replies.starts_with("220 relay.example.com ESMTP\r\n250-relay.example.com"));
//! assert!(replies.contains("\r\n530 5.7.0 "), "nobody sends without AUTH");
//! assert!(replies.ends_with("\r\n221 2.0.0 Bye\r\n"));
//! ```

mod admit;
mod auth;
pub mod body;
mod content;
pub mod direct;
mod envelope;
mod owed;
pub mod preflight;
pub mod proxy;
mod session;
mod transfer;
mod verification;
mod xclient;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

pub use session::Session;

use crate::channel::ServerTls;
use crate::config::Config;
use crate::dns::Question;
use crate::engine;
use crate::id::{MessageId, SessionId};
use crate::queue::store::StoreFailed;
use crate::sasl::Bearer;
use crate::verify;

/// What a session starts with: a connection that a listener accepted.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The runtime's number for it; every ask of the session goes to the engine under it.
    pub id: SessionId,
    /// Where the connection comes from.
    pub peer: SocketAddr,
    /// Where it arrived.
    pub local: SocketAddr,
    /// The index in `Config::listeners`.
    pub listener: usize,
    /// The configuration at the time of the connection; `Answer::Welcome` brings the one that counts.
    pub config: Arc<Config>,
    /// The certificate and key.
    pub tls: Arc<ServerTls>,
}

/// What a session asks of its runtime.
#[derive(Debug)]
pub enum Request {
    /// Ask the engine. Answered by `Engine`, but for `Ask::Bye`, which is answered by `Done` at once.
    Engine(engine::Ask),
    /// Append to the spool file of the message. Answered by `Spooled`.
    Spool(MessageId, Bytes),
    /// Delete the spool file of the message. Answered by `Done`.
    Unspool(MessageId),
    /// Find records, for the verification of a message. Answered by `Resolved`.
    Resolve(Question),
    /// Check a password with the embedder's own credential check. Answered by `Checked`.
    CheckPassword {
        /// The name as the client sent it.
        name: String,
        /// The password.
        password: String,
    },
    /// Check a bearer token with the embedder's own check. Answered by `Checked`.
    CheckToken(Bearer),
}

/// What the runtime answers.
#[derive(Debug)]
pub enum Answer {
    /// To `Engine`.
    Engine(engine::Answer),
    /// To `Spool`.
    Spooled(Result<(), StoreFailed>),
    /// To `Resolve`.
    Resolved(verify::Answer),
    /// To `CheckPassword` and `CheckToken`: the credential to act as, or none.
    Checked(Option<std::sync::Arc<crate::config::Credential>>),
    /// To all else.
    Done,
}

#[cfg(test)]
mod tests;
