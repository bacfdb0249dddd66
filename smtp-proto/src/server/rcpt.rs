//! RCPT: a recipient more.
//!
//! Implements RFC 5321 §4.1.1.3, §4.5.3.1.10 (too many recipients) and RFC 6531 §3.4 and §3.5.

use alloc::vec::Vec;

use super::{Connection, Event, Pending, Rcpt, Rejection, State, respond};
use crate::address::MailboxRef;
use crate::command::{Command, CommandError};
use crate::param::Orcpt;

impl Connection {
    pub(super) fn rcpt(
        &mut self,
        command: Result<Command<'_>, CommandError>,
        wire: &mut Vec<u8>,
    ) -> Option<Event<'static>> {
        let State::Envelope(envelope) = &self.state else {
            self.out_of_order("Send MAIL first", wire);
            return None;
        };
        let (full, smtputf8) = (
            envelope.recipients >= self.config.limits.recipients,
            envelope.smtputf8,
        );
        let (to, params) = match command {
            Ok(Command::Rcpt { to, params }) => (to, params),
            Ok(_) => return None,
            Err(error) => {
                self.command_error(error, wire);
                return None;
            }
        };
        if full {
            // Not counted: RFC 5321 §4.5.3.1.10 has the client go on, and send the rest later.
            let text = "Too many recipients; send the rest in another transaction";
            respond::rejection(Rejection::TOO_MANY_RECIPIENTS, text, wire);
            return None;
        }
        let ascii = to.mailbox().is_none_or(MailboxRef::is_ascii)
            && params.orcpt.as_ref().is_none_or(Orcpt::is_ascii);
        if !ascii && !smtputf8 {
            self.command_error(CommandError::Utf8NotDeclared, wire);
            return None;
        }
        if let State::Envelope(envelope) = core::mem::replace(&mut self.state, State::Closed) {
            self.state = State::Pending(Pending::Rcpt(envelope));
        }
        let to = to.to_path();
        Some(Event::Rcpt(Rcpt { to, params }))
    }
}
