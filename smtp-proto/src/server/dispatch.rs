//! From lines to commands, and the commands that need no decision.
//!
//! Implements RFC 5321 §4.1.1.5 to §4.1.1.10, §4.2.4 (unknown commands) and §7.3 (nothing here
//! shows what mailboxes exist).

use alloc::vec::Vec;

use super::{Auth, Connection, Event, Fatal, HelloVerb, Rejection, State, Step, respond};
use crate::command::{Command, CommandError, Verb};
use crate::extension::Extensions;
use crate::limits::{AUTH_LINE_MAX, LINE_SKIP_MAX, command_line_max};
use crate::line::{Line, LineError};

impl Connection {
    pub(super) fn fatal(
        &mut self,
        fatal: Fatal,
        why: Rejection,
        text: &str,
        wire: &mut Vec<u8>,
    ) -> Fatal {
        self.shut_down(why, text, wire);
        fatal
    }

    pub(super) fn injected(&mut self, wire: &mut Vec<u8>) -> Fatal {
        let text = "Clear text after STARTTLS; closing";
        self.fatal(
            Fatal::ClearTextAfterStartTls,
            Rejection::GO_AWAY,
            text,
            wire,
        )
    }

    /// What the client may use now.
    pub(super) fn offered(&self) -> Extensions {
        match self.hello {
            Some(HelloVerb::Ehlo) => self.config.offered(self.tls),
            Some(HelloVerb::Helo) | None => Extensions::NONE,
        }
    }

    /// Drops the transaction if there is one, and says so.
    pub(super) fn drop_transaction(&mut self) -> Option<Event<'static>> {
        self.refused = None;
        let was = matches!(self.state, State::Envelope(_) | State::Chunked(_));
        if was {
            self.state = State::Idle;
        }
        was.then_some(Event::Reset)
    }

    pub(super) fn line<'i>(
        &mut self,
        input: &'i [u8],
        wire: &mut Vec<u8>,
    ) -> Result<Step<'i>, Fatal> {
        // The record type of a TLS handshake: no line will come, and none is waited for.
        if self.lines.is_between_lines() && input.first() == Some(&0x16) {
            let text = "TLS was not started; closing";
            return Err(self.fatal(Fatal::OtherProtocol, Rejection::GO_AWAY, text, wire));
        }
        let responding = matches!(self.state, State::Response);
        let line_max = |start: &[u8]| {
            if responding {
                AUTH_LINE_MAX
            } else {
                command_line_max(start)
            }
        };
        let (used, line) = match self.lines.read(input, line_max, LINE_SKIP_MAX) {
            Ok(read) => read,
            Err(error) => return Err(self.unreadable(error, wire)),
        };
        let event = match line {
            Line::NeedMore => return Ok(Step::NeedMore(used)),
            Line::TooLong => self.too_long(wire),
            Line::Whole(line) if responding => self.response(&line, wire),
            Line::Whole(line) => self.command(&line, input.len() > used, wire)?,
        };
        Ok(event.map_or(Step::Go(used), |event| Step::Event(used, event)))
    }

    fn unreadable(&mut self, error: LineError, wire: &mut Vec<u8>) -> Fatal {
        let why = Rejection::transient(421, 5, 2);
        match error {
            LineError::BareLf => {
                let text = "Line ends in a bare LF; end lines with CRLF; closing";
                self.fatal(Fatal::BareLf, why, text, wire)
            }
            LineError::Endless => {
                self.fatal(Fatal::EndlessLine, why, "Line without end; closing", wire)
            }
        }
    }

    /// RFC 5321 §4.3.2: 500, "command line too long"; RFC 4954 §4: 5.5.6.
    fn too_long(&mut self, wire: &mut Vec<u8>) -> Option<Event<'static>> {
        let cancelled = matches!(self.state, State::Response);
        if cancelled {
            self.state = State::Idle;
        }
        self.error(
            Rejection::permanent(500, 5, 6),
            "Line too long; send it shorter",
            wire,
        );
        cancelled.then_some(Event::Auth(Auth::Cancelled))
    }

    fn command(
        &mut self,
        line: &[u8],
        more: bool,
        wire: &mut Vec<u8>,
    ) -> Result<Option<Event<'static>>, Fatal> {
        let (verb, args) = Verb::split(line);
        if verb == Verb::Http {
            let text = "This is a mail server; closing";
            return Err(self.fatal(Fatal::OtherProtocol, Rejection::GO_AWAY, text, wire));
        }
        self.check_patience(verb, wire)?;
        let command = Command::parse_args(verb, args, self.offered());
        match verb {
            Verb::Ehlo | Verb::Helo => Ok(self.hello(command, wire)),
            Verb::StartTls => self.start_tls(command, more, wire),
            Verb::Auth => Ok(self.auth(command, wire)),
            Verb::XClient => Ok(self.xclient(command, wire)),
            Verb::Mail => Ok(self.mail(command, wire)),
            Verb::Rcpt => Ok(self.rcpt(command, wire)),
            Verb::Data => Ok(self.data(command, wire)),
            Verb::Bdat => self.bdat(command, wire),
            Verb::Rset
            | Verb::Vrfy
            | Verb::Expn
            | Verb::Help
            | Verb::Noop
            | Verb::Quit
            | Verb::Unimplemented
            | Verb::Http
            | Verb::Unknown => Ok(self.plain_command(verb, command, wire)),
        }
    }

    /// Ends a connection that only costs. QUIT is always heard.
    fn check_patience(&mut self, verb: Verb, wire: &mut Vec<u8>) -> Result<(), Fatal> {
        if verb == Verb::Quit {
            return Ok(());
        }
        if self.errors >= self.config.limits.errors {
            let text = "Too many errors; closing";
            return Err(self.fatal(Fatal::Errors, Rejection::GO_AWAY, text, wire));
        }
        if self.junk >= self.config.limits.junk {
            let text = "Too many commands without a message; closing";
            return Err(self.fatal(Fatal::Junk, Rejection::GO_AWAY, text, wire));
        }
        Ok(())
    }

    /// The commands that are answered here. None of them shows what mailboxes exist (RFC 5321
    /// §7.3).
    fn plain_command(
        &mut self,
        verb: Verb,
        command: Result<Command<'_>, CommandError>,
        wire: &mut Vec<u8>,
    ) -> Option<Event<'static>> {
        let command = match command {
            Ok(command) => command,
            Err(error) => {
                self.command_error(error, wire);
                // RSET with an argument is a refused RSET.
                let drops = verb == Verb::Rset;
                return if drops { self.drop_transaction() } else { None };
            }
        };
        self.junk += 1;
        match command {
            Command::Rset => {
                let event = self.drop_transaction();
                respond::success(250, 0, 0, "Reset; send MAIL", wire);
                return event;
            }
            Command::Quit => {
                respond::success(221, 0, 0, "Bye", wire);
                self.state = State::Closed;
                return Some(Event::Quit);
            }
            Command::Vrfy(_) => {
                respond::success(252, 0, 0, "Not verified here; send RCPT and see", wire);
            }
            Command::Help => {
                let text = "EHLO STARTTLS AUTH MAIL RCPT DATA BDAT RSET NOOP QUIT; see RFC 5321";
                respond::success(214, 0, 0, text, wire);
            }
            Command::Expn(_) => self.command_error(CommandError::Unimplemented, wire),
            Command::Noop => respond::success(250, 0, 0, "Ok", wire),
            Command::Ehlo(_) | Command::Helo(_) | Command::StartTls | Command::Auth { .. } => {}
            Command::XClient(_) => {}
            Command::Mail { .. } | Command::Rcpt { .. } | Command::Data | Command::Bdat { .. } => {}
        }
        None
    }

    pub(super) fn command_error(&mut self, error: CommandError, wire: &mut Vec<u8>) {
        self.error(error.rejection(), &alloc::format!("{error}"), wire);
    }
}
