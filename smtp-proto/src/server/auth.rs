//! AUTH: the framing of an authentication exchange. What is said in it is decided above.
//!
//! Implements RFC 4954 §4.
//!
//! ```text
//!             AUTH            challenge
//!      Idle ───────▶ Pending ───────────▶ Response ──┐ line
//!       ▲               │ ▲                  │       │
//!       │ accept, reject│ └──────────────────┼───────┘
//!       └───────────────┴────────────────────┘ `*`, not base64, too long
//! ```

use alloc::vec::Vec;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::{Auth, Connection, Event, HelloVerb, Pending, Rejection, State};
use crate::command::{Command, CommandError};
use crate::extension::{Extension, Mechanism};

impl Connection {
    pub(super) fn auth(
        &mut self,
        command: Result<Command<'_>, CommandError>,
        wire: &mut Vec<u8>,
    ) -> Option<Event<'static>> {
        let config = &self.config;
        let usable = config.usable_mechanisms(self.tls);
        if self.hello != Some(HelloVerb::Ehlo) {
            self.out_of_order("Send EHLO first", wire);
        } else if !config.extensions.has(Extension::Auth) || config.mechanisms.is_empty() {
            let why = Rejection::permanent(502, 5, 1);
            self.error(why, "Authentication is not available here", wire);
        } else if usable.is_empty() {
            let why = Rejection::permanent(538, 7, 11);
            self.error(why, "Encryption required; send STARTTLS first", wire);
        } else if self.authenticated {
            self.out_of_order("Authenticated already", wire);
        } else if !matches!(self.state, State::Idle) {
            self.out_of_order("Not in a transaction; send RSET first", wire);
        } else {
            return self.auth_start(command, wire);
        }
        None
    }

    fn auth_start(
        &mut self,
        command: Result<Command<'_>, CommandError>,
        wire: &mut Vec<u8>,
    ) -> Option<Event<'static>> {
        let (name, initial_response) = match command {
            Ok(Command::Auth { mechanism, initial }) => (mechanism, initial),
            Ok(_) => return None,
            Err(error) => {
                self.command_error(error, wire);
                return None;
            }
        };
        let usable = self.config.usable_mechanisms(self.tls);
        let Some(mechanism) = Mechanism::from_name(name).filter(|&m| usable.has(m)) else {
            let text = "Mechanism not offered; see the EHLO reply";
            self.error(Rejection::permanent(504, 5, 4), text, wire);
            return None;
        };
        self.state = State::Pending(Pending::Auth);
        Some(Event::Auth(Auth::Start {
            mechanism,
            initial_response,
        }))
    }

    /// The answer to a challenge.
    pub(super) fn response(&mut self, line: &[u8], wire: &mut Vec<u8>) -> Option<Event<'static>> {
        self.state = State::Idle;
        if line == b"*" {
            let why = Rejection::permanent(501, 7, 0);
            self.error(why, "Authentication cancelled", wire);
            return Some(Event::Auth(Auth::Cancelled));
        }
        let Ok(response) = BASE64.decode(line) else {
            self.command_error(CommandError::Base64, wire);
            return Some(Event::Auth(Auth::Cancelled));
        };
        self.state = State::Pending(Pending::Auth);
        Some(Event::Auth(Auth::Response(response)))
    }
}

/// `334 base64`, on one line whatever its length, as RFC 4954 §4 has it.
pub(super) fn write_challenge(data: &[u8], wire: &mut Vec<u8>) {
    wire.extend_from_slice(b"334 ");
    wire.extend_from_slice(BASE64.encode(data).as_bytes());
    wire.extend_from_slice(b"\r\n");
}
