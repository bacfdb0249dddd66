//! What the client says: one method for each command, and the bodies.
//!
//! Each method checks the state, the server's extensions and the pipeline, appends to `wire` and notes
//! what is now awaited. A [`SendError`] has written nothing and changed nothing.

use alloc::vec::Vec;
use core::fmt::{self, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::pipeline::Sent;
use super::{Awaiting, Connection, Hello, Newlines, Phase, SendError};
use crate::address::{ForwardPath, ReversePath};
use crate::domain::Host;
use crate::extension::{Extension, Mechanism};
use crate::param::{BodyType, MailParams, RcptParams};
#[cfg(doc)]
use crate::reply::Reply;
use crate::xclient::XClient;

/// The longest AUTH line, with its CRLF. RFC 4954 §4.
const AUTH_LINE_MAX: usize = 12_288;

impl Connection {
    /// EHLO, HELO or LHLO with our own name. It ends a transaction as RSET does.
    ///
    /// RFC 5321 §4.1.4: a client that gets a 5yz to EHLO may go on with HELO.
    pub fn hello(&mut self, verb: Hello, name: &Host, wire: &mut Vec<u8>) -> Result<(), SendError> {
        self.check_phase(takes_commands)?;
        let line = format_args!("{} {name}\r\n", verb.as_str());
        self.send(Awaiting::Hello(verb), line, wire)
    }

    /// STARTTLS. After its 220 the caller does the TLS handshake, calls [`Connection::tls_started`] and
    /// says hello again. RFC 3207.
    pub fn start_tls(&mut self, wire: &mut Vec<u8>) -> Result<(), SendError> {
        self.check_phase(|phase| matches!(phase, Phase::Ready))?;
        self.check_offered(Extension::StartTls)?;
        self.send(Awaiting::StartTls, format_args!("STARTTLS\r\n"), wire)
    }

    /// XCLIENT: tells whose connection this one passes on. After its 220 all is forgotten but TLS: say
    /// hello.
    pub fn xclient(&mut self, said: &XClient, wire: &mut Vec<u8>) -> Result<(), SendError> {
        self.check_phase(|phase| matches!(phase, Phase::Ready))?;
        self.check_offered(Extension::XClient)?;
        if *said == XClient::default() {
            return Err(SendError::BadArgument);
        }
        self.send(Awaiting::XClient, format_args!("XCLIENT {said}\r\n"), wire)
    }

    /// AUTH with the initial response that the mechanism has, if any; not yet in base64. RFC 4954 §4.
    ///
    /// Whether a secret may be sent over this connection is the caller's decision.
    pub fn auth(
        &mut self,
        mechanism: Mechanism,
        initial: Option<&[u8]>,
        wire: &mut Vec<u8>,
    ) -> Result<(), SendError> {
        self.check_phase(|phase| matches!(phase, Phase::Ready))?;
        if self.authenticated {
            // RFC 4954 §4: "no more AUTH commands may be issued in the same session".
            return Err(SendError::WrongState);
        }
        if !self.capabilities.mechanisms.has(mechanism) {
            return Err(SendError::NotOffered(Extension::Auth));
        }
        let line = match initial {
            None => alloc::format!("AUTH {mechanism}\r\n"),
            // RFC 4954 §4: an empty initial response is "a single equals sign".
            Some([]) => alloc::format!("AUTH {mechanism} =\r\n"),
            Some(bytes) => alloc::format!("AUTH {mechanism} {}\r\n", BASE64.encode(bytes)),
        };
        self.send_auth(&line, wire)
    }

    /// Answers the challenge of a 334; [`Reply::challenge`] decodes it.
    pub fn auth_respond(&mut self, response: &[u8], wire: &mut Vec<u8>) -> Result<(), SendError> {
        self.check_phase(|phase| matches!(phase, Phase::Challenged))?;
        let mut line = BASE64.encode(response);
        line.push_str("\r\n");
        self.send_auth(&line, wire)
    }

    /// Gives an exchange up; the server answers 501. RFC 4954 §4.
    pub fn auth_cancel(&mut self, wire: &mut Vec<u8>) -> Result<(), SendError> {
        self.check_phase(|phase| matches!(phase, Phase::Challenged))?;
        self.send_auth("*\r\n", wire)
    }

    /// MAIL: begins a transaction.
    pub fn mail(
        &mut self,
        from: &ReversePath,
        params: &MailParams,
        wire: &mut Vec<u8>,
    ) -> Result<(), SendError> {
        self.check_phase(|phase| matches!(phase, Phase::Ready))?;
        self.check_mail(from, params)?;
        let line = format_args!("MAIL FROM:{from}{params}\r\n");
        self.send(Awaiting::Mail, line, wire)?;
        self.phase = Phase::Envelope;
        self.envelope.transaction += 1;
        self.envelope.rcpts = 0;
        self.envelope.smtp_utf8 = params.smtputf8;
        self.envelope.binary = params.body == Some(BodyType::BinaryMime);
        Ok(())
    }

    /// RCPT: adds a recipient. Recipients are counted from 0 in each transaction.
    pub fn rcpt(
        &mut self,
        to: &ForwardPath,
        params: &RcptParams,
        wire: &mut Vec<u8>,
    ) -> Result<(), SendError> {
        self.check_phase(|phase| matches!(phase, Phase::Envelope))?;
        self.check_rcpt(to, params)?;
        let index = self.envelope.rcpts;
        let line = format_args!("RCPT TO:{to}{params}\r\n");
        self.send(Awaiting::Rcpt { index }, line, wire)?;
        self.envelope.rcpts += 1;
        Ok(())
    }

    /// DATA. It ends its burst; after the 354 come [`Connection::body`] and [`Connection::body_end`].
    ///
    /// A refused DATA leaves the transaction open on both sides: [`Connection::reset`] ends it.
    pub fn data(&mut self, wire: &mut Vec<u8>) -> Result<(), SendError> {
        self.check_phase(|phase| matches!(phase, Phase::Envelope))?;
        if self.envelope.binary {
            // RFC 3030 §3: "BINARYMIME cannot be used with the DATA command."
            return Err(SendError::WrongState);
        }
        self.send(Awaiting::Data, format_args!("DATA\r\n"), wire)
    }

    /// A piece of the body, cut anywhere: after the 354 to DATA, or within a BDAT chunk.
    ///
    /// After DATA dots are stuffed, and a bare CR or LF becomes CRLF: the wire never holds a line end
    /// that two parsers could read in two ways. Within a chunk it is [`Connection::body_raw`].
    pub fn body(&mut self, piece: &[u8], wire: &mut Vec<u8>) -> Result<(), SendError> {
        let nobody = self.envelope.accepted.is_empty();
        match &mut self.phase {
            Phase::Body(_) if nobody => Err(SendError::NoRecipient),
            Phase::Body(encoder) => {
                encoder.encode(piece, wire);
                Ok(())
            }
            Phase::Chunk { .. } => self.body_raw(piece, wire),
            Phase::Closing | Phase::Closed => Err(SendError::Closed),
            Phase::Greeting | Phase::Connected | Phase::Ready | Phase::Challenged => {
                Err(SendError::WrongState)
            }
            Phase::Handshake | Phase::Envelope | Phase::Chunked | Phase::Spoilt => {
                Err(SendError::WrongState)
            }
        }
    }

    /// The end of the body of DATA: completes the last line and sends the final dot.
    ///
    /// Without a [`Connection::body`] before, it is the dot alone: what a 354 is answered with when no
    /// recipient was accepted, and no message then. RFC 2920 §3.1.
    pub fn body_end(&mut self, wire: &mut Vec<u8>) -> Result<(), SendError> {
        self.check_phase(|phase| matches!(phase, Phase::Body(_)))?;
        let Phase::Body(encoder) = core::mem::replace(&mut self.phase, Phase::Ready) else {
            return Err(SendError::WrongState);
        };
        encoder.finish(wire);
        self.sent(Awaiting::BodyEnd { rcpt: None }, 0);
        Ok(())
    }

    /// BDAT: announces a chunk of `len` bytes, which [`Connection::body_raw`] then passes on as they are.
    /// The last one ends the message. RFC 3030 §2.
    ///
    /// A refused BDAT needs a [`Connection::reset`] before the next MAIL.
    pub fn bdat(&mut self, len: u64, last: bool, wire: &mut Vec<u8>) -> Result<(), SendError> {
        self.check_phase(|phase| matches!(phase, Phase::Envelope | Phase::Chunked))?;
        self.check_offered(Extension::Chunking)?;
        if self.pipeline.is_empty() && self.envelope.accepted.is_empty() {
            return Err(SendError::NoRecipient);
        }
        let awaiting = if last {
            Awaiting::BodyEnd { rcpt: None }
        } else {
            Awaiting::Chunk
        };
        let line = format_args!("BDAT {len}{}\r\n", if last { " LAST" } else { "" });
        self.send(awaiting, line, wire)?;
        let newlines = if self.envelope.binary {
            Newlines::Any
        } else {
            Newlines::Text
        };
        self.phase = Phase::Chunk {
            left: len,
            last,
            newlines,
        };
        self.pass_chunk(&[], wire)
    }

    /// Bytes of a BDAT chunk, cut anywhere.
    ///
    /// A chunk whose message is not BODY=BINARYMIME must keep to CRLF; a CRLF is not cut by the end of
    /// a chunk.
    pub fn body_raw(&mut self, piece: &[u8], wire: &mut Vec<u8>) -> Result<(), SendError> {
        self.check_phase(|phase| matches!(phase, Phase::Chunk { .. }))?;
        self.pass_chunk(piece, wire)
    }

    /// RSET: ends a transaction that has no body yet, or a broken one. It may stand in a burst.
    pub fn reset(&mut self, wire: &mut Vec<u8>) -> Result<(), SendError> {
        self.check_phase(|phase| {
            matches!(
                phase,
                Phase::Ready | Phase::Envelope | Phase::Chunked | Phase::Spoilt
            )
        })?;
        self.send(Awaiting::Reset, format_args!("RSET\r\n"), wire)?;
        self.phase = Phase::Ready;
        Ok(())
    }

    /// NOOP. It ends its burst.
    pub fn noop(&mut self, wire: &mut Vec<u8>) -> Result<(), SendError> {
        self.check_phase(takes_commands)?;
        self.send(Awaiting::Noop, format_args!("NOOP\r\n"), wire)
    }

    /// QUIT. Nothing is sent after it; it may still be sent after a 421 or a refused greeting.
    pub fn quit(&mut self, wire: &mut Vec<u8>) -> Result<(), SendError> {
        self.check_phase(|phase| takes_commands(phase) || matches!(phase, Phase::Closing))?;
        self.send(Awaiting::Quit, format_args!("QUIT\r\n"), wire)?;
        self.phase = Phase::Closed;
        Ok(())
    }

    fn check_phase(&self, allowed: impl Fn(&Phase) -> bool) -> Result<(), SendError> {
        if self.fatal.is_some() {
            return Err(SendError::Closed);
        }
        match &self.phase {
            phase if allowed(phase) => Ok(()),
            Phase::Greeting => Err(SendError::NotYet),
            Phase::Closing | Phase::Closed => Err(SendError::Closed),
            Phase::Connected | Phase::Ready | Phase::Challenged | Phase::Handshake => {
                Err(SendError::WrongState)
            }
            Phase::Envelope | Phase::Chunk { .. } | Phase::Chunked => Err(SendError::WrongState),
            Phase::Body(_) | Phase::Spoilt => Err(SendError::WrongState),
        }
    }

    /// Each parameter needs its extension, and an address that is not ASCII needs SMTPUTF8.
    fn check_mail(&self, from: &ReversePath, params: &MailParams) -> Result<(), SendError> {
        let needs = [
            (params.size.is_some(), Extension::Size),
            (
                params.body == Some(BodyType::EightBitMime),
                Extension::EightBitMime,
            ),
            (
                params.body == Some(BodyType::BinaryMime),
                Extension::BinaryMime,
            ),
            (params.smtputf8, Extension::SmtpUtf8),
            (
                params.ret.is_some() || params.envid.is_some(),
                Extension::Dsn,
            ),
            (params.auth.is_some(), Extension::Auth),
            (params.requiretls, Extension::RequireTls),
            (params.hold.is_some(), Extension::FutureRelease),
            (params.by.is_some(), Extension::DeliverBy),
            (params.mt_priority.is_some(), Extension::MtPriority),
        ];
        for (_, extension) in needs.into_iter().filter(|&(needed, _)| needed) {
            self.check_offered(extension)?;
        }
        if !from.is_ascii() && !params.smtputf8 {
            return Err(SendError::BadArgument);
        }
        Ok(())
    }

    fn check_rcpt(&self, to: &ForwardPath, params: &RcptParams) -> Result<(), SendError> {
        let mut ascii = to.is_ascii();
        if *params != RcptParams::default() {
            self.check_offered(Extension::Dsn)?;
            // RFC 6533 §3: an ORCPT of type utf-8 may be sent as it is only with SMTPUTF8.
            ascii &= alloc::format!("{params}").is_ascii();
        }
        if ascii || self.envelope.smtp_utf8 {
            Ok(())
        } else {
            Err(SendError::BadArgument)
        }
    }

    fn check_offered(&self, extension: Extension) -> Result<(), SendError> {
        if self.capabilities.has(extension) {
            Ok(())
        } else {
            Err(SendError::NotOffered(extension))
        }
    }

    fn send_auth(&mut self, line: &str, wire: &mut Vec<u8>) -> Result<(), SendError> {
        if line.len() > AUTH_LINE_MAX {
            return Err(SendError::BadArgument);
        }
        self.send(Awaiting::Auth, format_args!("{line}"), wire)
    }

    fn send(
        &mut self,
        awaiting: Awaiting,
        line: fmt::Arguments<'_>,
        wire: &mut Vec<u8>,
    ) -> Result<(), SendError> {
        let before = wire.len();
        // Writing to a Vec does not fail.
        let _ = Line(wire).write_fmt(line);
        let len = wire.len() - before;
        let pipelining = self.capabilities.has(Extension::Pipelining);
        if let Err(error) = self.pipeline.admits(awaiting, len, pipelining) {
            wire.truncate(before);
            return Err(error);
        }
        self.sent(awaiting, len);
        Ok(())
    }

    fn sent(&mut self, awaiting: Awaiting, bytes: usize) {
        let transaction = self.envelope.transaction;
        self.pipeline.push(Sent {
            awaiting,
            transaction,
            bytes,
        });
        self.split_body_end();
    }

    fn pass_chunk(&mut self, piece: &[u8], wire: &mut Vec<u8>) -> Result<(), SendError> {
        let Phase::Chunk {
            left,
            last,
            newlines,
        } = &mut self.phase
        else {
            return Err(SendError::WrongState);
        };
        let len = piece.len() as u64;
        if len > *left {
            return Err(SendError::OverChunk);
        }
        let after = newlines.after(piece).ok_or(SendError::BareNewline)?;
        let whole = len == *left;
        if whole && after == Newlines::AfterCr {
            return Err(SendError::BareNewline);
        }
        (*left, *newlines) = (*left - len, after);
        if whole {
            self.phase = if *last { Phase::Ready } else { Phase::Chunked };
        }
        wire.extend_from_slice(piece);
        Ok(())
    }
}

/// Writes a command where it goes.
struct Line<'a>(&'a mut Vec<u8>);

impl fmt::Write for Line<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// Whether the server reads commands.
fn takes_commands(phase: &Phase) -> bool {
    match phase {
        Phase::Connected | Phase::Ready | Phase::Envelope | Phase::Chunked | Phase::Spoilt => true,
        Phase::Greeting | Phase::Challenged | Phase::Handshake => false,
        Phase::Chunk { .. } | Phase::Body(_) | Phase::Closing | Phase::Closed => false,
    }
}

impl Newlines {
    /// What is true after these bytes; `None` if they hold a bare CR or LF.
    fn after(self, bytes: &[u8]) -> Option<Self> {
        let Some((&first, &last)) = bytes.first().zip(bytes.last()) else {
            return Some(self);
        };
        match self {
            Self::Any => return Some(Self::Any),
            Self::AfterCr if first != b'\n' => return None,
            Self::Text if first == b'\n' => return None,
            Self::AfterCr | Self::Text => {}
        }
        // The first byte is judged; every other one is judged with the byte before it.
        let paired = memchr::memchr2_iter(b'\r', b'\n', bytes).all(|at| match bytes[at] {
            b'\r' => bytes.get(at + 1).is_none_or(|&next| next == b'\n'),
            _ => at == 0 || bytes[at - 1] == b'\r',
        });
        let after = if last == b'\r' {
            Self::AfterCr
        } else {
            Self::Text
        };
        paired.then_some(after)
    }
}
