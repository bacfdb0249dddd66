//! MAIL: the one command that opens a transaction.
//!
//! Implements RFC 5321 §4.1.1.2 and §3.3, RFC 1870 §6.1 (the declared size) and
//! RFC 4865 §3 (the longest hold).

use alloc::string::String;
use alloc::vec::Vec;

use super::{Connection, Envelope, Event, Mail, Pending, Rejection, State};
use crate::command::{Command, CommandError};
use crate::param::{BodyType, Hold};
use crate::time_text::Utc;

impl Connection {
    pub(super) fn mail(
        &mut self,
        command: Result<Command<'_>, CommandError>,
        wire: &mut Vec<u8>,
    ) -> Option<Event<'static>> {
        if self.hello.is_none() {
            self.out_of_order("Send EHLO first", wire);
            return None;
        }
        if !matches!(self.state, State::Idle) {
            // RFC 5321 §4.1.4: "MUST NOT be sent if a mail transaction is already open".
            self.out_of_order("A transaction is open; send RSET first", wire);
            return None;
        }
        let (from, params) = match command {
            Ok(Command::Mail { from, params }) => (from, params),
            Ok(_) => return None,
            Err(error) => {
                self.command_error(error, wire);
                return None;
            }
        };
        let size_max = self.config.limits.message_size;
        if params.size.is_some_and(|size| size > size_max) {
            let text = alloc::format!("Message too large; the limit is {size_max} octets");
            self.error(Rejection::TOO_LARGE, &text, wire);
            return None;
        }
        if let Some(text) = self.held_too_long(params.hold) {
            self.error(Rejection::permanent(501, 5, 4), &text, wire);
            return None;
        }
        self.refused = None;
        self.state = State::Pending(Pending::Mail(Envelope {
            smtputf8: params.smtputf8,
            binary: params.body == Some(BodyType::BinaryMime),
            recipients: 0,
        }));
        let from = from.to_path();
        Some(Event::Mail(Mail { from, params }))
    }

    /// Why a message is not held as long as that. RFC 4865 §3: no longer than was offered.
    fn held_too_long(&self, hold: Option<Hold>) -> Option<String> {
        let offered = self.config.future_release;
        match hold? {
            Hold::For(secs) if secs.get() > offered.secs_max => Some(alloc::format!(
                "Held too long; the limit is {} seconds",
                offered.secs_max
            )),
            Hold::Until(unix) if unix > offered.until_max => Some(alloc::format!(
                "Held too long; the limit is {}",
                Utc(offered.until_max)
            )),
            Hold::For(_) | Hold::Until(_) => None,
        }
    }
}
