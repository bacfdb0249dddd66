//! EHLO, HELO, XCLIENT and STARTTLS: who speaks, and whether in clear text.
//!
//! Implements RFC 5321 §4.1.1.1 and RFC 3207 §4.

use alloc::vec::Vec;

use super::{Connection, Event, Fatal, Hello, HelloVerb, Pending, Rejection, State, respond};
use crate::command::{Command, CommandError};
use crate::extension::Extension;

impl Connection {
    pub(super) fn hello(
        &mut self,
        command: Result<Command<'_>, CommandError>,
        wire: &mut Vec<u8>,
    ) -> Option<Event<'static>> {
        // RFC 5321 §4.1.4: EHLO in a session acts as RSET does.
        let dropped = self.drop_transaction();
        let (verb, name) = match command {
            Ok(Command::Ehlo(name)) => (HelloVerb::Ehlo, name),
            Ok(Command::Helo(name)) => (HelloVerb::Helo, name),
            Ok(_) => return dropped,
            Err(error) => {
                self.command_error(error, wire);
                return dropped;
            }
        };
        self.junk += u32::from(self.hello.is_some());
        self.state = State::Pending(Pending::Hello(verb));
        Some(Event::Hello(Hello { verb, name }))
    }

    /// RFC 2034 §4: the reply to EHLO has no enhanced codes.
    pub(super) fn hello_accepted(
        &mut self,
        verb: HelloVerb,
        text: &str,
        wire: &mut Vec<u8>,
    ) -> State {
        let mut reply = alloc::format!("{} {text}", self.config.hostname);
        reply.truncate(reply.trim_end().len());
        if verb == HelloVerb::Ehlo {
            for line in self.config.ehlo_lines(self.tls) {
                reply.push('\n');
                reply.push_str(&line);
            }
        }
        respond::plain(250, &reply, wire);
        self.hello = Some(verb);
        State::Idle
    }

    /// XCLIENT: not within a transaction, which would change its sender.
    pub(super) fn xclient(
        &mut self,
        command: Result<Command<'_>, CommandError>,
        wire: &mut Vec<u8>,
    ) -> Option<Event<'static>> {
        match command {
            Ok(Command::XClient(_)) if !matches!(self.state, State::Idle) => {
                self.out_of_order("Not in a transaction; send RSET first", wire);
                None
            }
            Ok(Command::XClient(said)) => {
                self.state = State::Pending(Pending::XClient);
                Some(Event::XClient(said))
            }
            Ok(_) => None,
            Err(error) => {
                self.command_error(error, wire);
                None
            }
        }
    }

    /// `more`: there are octets after the command already, which the handshake would take for its
    /// own (RFC 3207 §6, CVE-2011-0411).
    pub(super) fn start_tls(
        &mut self,
        command: Result<Command<'_>, CommandError>,
        more: bool,
        wire: &mut Vec<u8>,
    ) -> Result<Option<Event<'static>>, Fatal> {
        let dropped = self.drop_transaction();
        if self.tls {
            self.out_of_order("TLS is up already", wire);
        } else if !self.config.extensions.has(Extension::StartTls) {
            self.error(
                Rejection::permanent(502, 5, 1),
                "TLS is not available here",
                wire,
            );
        } else if let Err(error) = command {
            self.command_error(error, wire);
        } else if self.hello.is_none() {
            self.out_of_order("Send EHLO first", wire);
        } else if self.authenticated {
            self.out_of_order("Not after AUTH; connect again", wire);
        } else if more {
            return Err(self.injected(wire));
        } else {
            self.state = State::Pending(Pending::StartTls);
            return Ok(Some(Event::StartTls));
        }
        Ok(dropped)
    }
}
