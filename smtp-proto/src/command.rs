//! One command line: what it asks for, or what is wrong with it.
//!
//! Implements the command syntax of RFC 5321 §4.1.1 and §4.1.2, RFC 3030 §2 (BDAT), RFC 3207 §4
//! (STARTTLS) and RFC 4954 §4 (AUTH). Whether a command fits the state of the session is decided by
//! the connection.

mod envelope;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use base64::Engine as _;
use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::address::{AddressError, ForwardPath, MailboxRef, ReversePath};
use crate::client_name::ClientName;
use crate::extension::{Extension, Extensions};
use crate::param::{MailParams, ParamError, RcptParams, number};
use crate::server::Rejection;
use crate::xclient::XClient;

/// A command, with arguments that are valid. Paths are borrowed from the line: a command that is
/// refused costs no copy of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// `EHLO name`. RFC 5321 §4.1.1.1.
    Ehlo(ClientName),
    /// `HELO name`. RFC 5321 §4.1.1.1.
    Helo(ClientName),
    /// `MAIL FROM:<path> params`. RFC 5321 §4.1.1.2.
    Mail {
        /// Where failures are reported.
        from: ReversePath<MailboxRef<'a>>,
        /// What extensions add.
        params: MailParams,
    },
    /// `RCPT TO:<path> params`. RFC 5321 §4.1.1.3.
    Rcpt {
        /// Whom the message is for.
        to: ForwardPath<MailboxRef<'a>>,
        /// What extensions add.
        params: RcptParams,
    },
    /// `DATA`. RFC 5321 §4.1.1.4.
    Data,
    /// `BDAT size [LAST]`. RFC 3030 §2.
    Bdat {
        /// How many octets follow the line.
        size: u64,
        /// Whether they end the message.
        last: bool,
    },
    /// `RSET`. RFC 5321 §4.1.1.5.
    Rset,
    /// `VRFY string`. RFC 5321 §4.1.1.6.
    Vrfy(&'a str),
    /// `EXPN string`. RFC 5321 §4.1.1.7.
    Expn(&'a str),
    /// `HELP`, its argument ignored. RFC 5321 §4.1.1.8.
    Help,
    /// `NOOP`, its argument ignored. RFC 5321 §4.1.1.9.
    Noop,
    /// `QUIT`. RFC 5321 §4.1.1.10.
    Quit,
    /// `STARTTLS`. RFC 3207 §4.
    StartTls,
    /// `AUTH mechanism [initial-response]`. RFC 4954 §4.
    Auth {
        /// The name of the mechanism, known to us or not.
        mechanism: &'a str,
        /// The initial response, decoded; `=` is an empty one.
        initial: Option<Vec<u8>>,
    },
    /// `XCLIENT attribute=value …`. See [`crate::xclient`].
    XClient(Box<XClient>),
}

/// The first word of a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// `EHLO`
    Ehlo,
    /// `HELO`
    Helo,
    /// `MAIL`
    Mail,
    /// `RCPT`
    Rcpt,
    /// `DATA`
    Data,
    /// `BDAT`
    Bdat,
    /// `RSET`
    Rset,
    /// `VRFY`
    Vrfy,
    /// `EXPN`
    Expn,
    /// `HELP`
    Help,
    /// `NOOP`
    Noop,
    /// `QUIT`
    Quit,
    /// `STARTTLS`
    StartTls,
    /// `AUTH`
    Auth,
    /// `XCLIENT`
    XClient,
    /// A command of SMTP that we do not implement: `ETRN`, `TURN`, `SEND`, `SOML`, `SAML`.
    Unimplemented,
    /// The start of an HTTP request: a browser was sent here to talk in another's name.
    Http,
    /// Anything else.
    Unknown,
}

/// The verbs of four letters, which most are: compared as one number each, the frequent ones first.
const FOUR: [(u32, Verb); 20] = [
    (upper(*b"RCPT"), Verb::Rcpt),
    (upper(*b"MAIL"), Verb::Mail),
    (upper(*b"DATA"), Verb::Data),
    (upper(*b"BDAT"), Verb::Bdat),
    (upper(*b"EHLO"), Verb::Ehlo),
    (upper(*b"QUIT"), Verb::Quit),
    (upper(*b"RSET"), Verb::Rset),
    (upper(*b"AUTH"), Verb::Auth),
    (upper(*b"NOOP"), Verb::Noop),
    (upper(*b"HELO"), Verb::Helo),
    (upper(*b"VRFY"), Verb::Vrfy),
    (upper(*b"EXPN"), Verb::Expn),
    (upper(*b"HELP"), Verb::Help),
    (upper(*b"ETRN"), Verb::Unimplemented),
    (upper(*b"TURN"), Verb::Unimplemented),
    (upper(*b"SEND"), Verb::Unimplemented),
    (upper(*b"SOML"), Verb::Unimplemented),
    (upper(*b"SAML"), Verb::Unimplemented),
    (upper(*b"POST"), Verb::Http),
    (upper(*b"HEAD"), Verb::Http),
];

/// Four letters as a number that is the same in upper and lower case. No other octet has the number
/// of a letter.
pub(crate) const fn upper(letters: [u8; 4]) -> u32 {
    u32::from_le_bytes(letters) & 0xdfdf_dfdf
}

impl Verb {
    /// The verb of a line, and what follows it and the space after it.
    #[must_use]
    #[inline]
    pub fn split(line: &[u8]) -> (Self, &[u8]) {
        match *line {
            [a, b, c, d] => (Self::of_four([a, b, c, d]), &[]),
            [a, b, c, d, b' ', ref args @ ..] => (Self::of_four([a, b, c, d]), args),
            _ => {
                let end = line.iter().position(|&octet| octet == b' ');
                let (word, rest) = line.split_at(end.unwrap_or(line.len()));
                (Self::of(word), rest.get(1..).unwrap_or_default())
            }
        }
    }

    fn of_four(word: [u8; 4]) -> Self {
        let word = upper(word);
        let known = FOUR.iter().find(|(verb, _)| word == *verb);
        known.map_or(Self::Unknown, |&(_, verb)| verb)
    }

    fn of(word: &[u8]) -> Self {
        const HTTP: [&[u8]; 8] = [
            b"GET", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH", b"PRI",
        ];
        if word.eq_ignore_ascii_case(b"STARTTLS") {
            Self::StartTls
        } else if word.eq_ignore_ascii_case(b"XCLIENT") {
            Self::XClient
        } else if HTTP.iter().any(|method| word.eq_ignore_ascii_case(method)) {
            Self::Http
        } else {
            Self::Unknown
        }
    }
}

/// What is wrong with a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// No such command.
    Unknown,
    /// A command that we know by name only.
    Unimplemented,
    /// An HTTP request.
    Http,
    /// A control character, a NUL or a bare CR among them.
    Control,
    /// Octets that are not UTF-8.
    NotUtf8,
    /// The command takes no argument, or not this one.
    Argument,
    /// The size of a chunk is not a number, or not one that fits.
    ChunkSize,
    /// AUTH with an initial response that is not base64.
    Base64,
    /// The path of MAIL.
    Sender(AddressError),
    /// The path of RCPT.
    Recipient(AddressError),
    /// A parameter of MAIL or RCPT.
    Param(ParamError),
    /// UTF-8 in a command of a transaction without SMTPUTF8. RFC 6531 §3.4, §3.5.
    Utf8NotDeclared,
}

impl CommandError {
    /// The reply that it causes. RFC 5321 §4.2.4, §4.1.1.11.
    #[must_use]
    pub const fn rejection(self) -> Rejection {
        match self {
            Self::Unknown => Rejection::permanent(500, 5, 1),
            Self::Unimplemented => Rejection::permanent(502, 5, 1),
            Self::Http => Rejection::GO_AWAY,
            Self::Control | Self::NotUtf8 | Self::Base64 => Rejection::permanent(501, 5, 2),
            Self::Argument | Self::ChunkSize => Rejection::permanent(501, 5, 4),
            Self::Sender(_) => Rejection::permanent(501, 1, 7),
            Self::Recipient(_) => Rejection::permanent(501, 1, 3),
            Self::Param(ParamError::Unknown) => Rejection::permanent(555, 5, 4),
            Self::Param(ParamError::Syntax | ParamError::Duplicate | ParamError::Value(_)) => {
                Rejection::permanent(501, 5, 4)
            }
            Self::Utf8NotDeclared => Rejection::permanent(553, 6, 7),
        }
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "Command not recognized; send HELP for those that are",
            Self::Unimplemented => "Command not implemented; send HELP for those that are",
            Self::Http => "This is not an HTTP server",
            Self::Control => "Control character in a command; remove it",
            Self::NotUtf8 => "Command is not valid UTF-8; encode it so",
            Self::Argument => "Syntax error in the argument; correct it, HELP names the commands",
            Self::ChunkSize => "Syntax: BDAT size [LAST]; closing, as what follows is unknown",
            Self::Base64 => "The response is not valid base64; encode it, then send AUTH again",
            Self::Sender(error) => {
                return write!(f, "Syntax: MAIL FROM:<address>: {error}; correct it");
            }
            Self::Recipient(error) => {
                return write!(f, "Syntax: RCPT TO:<address>: {error}; correct it");
            }
            Self::Param(error) => return fmt::Display::fmt(error, f),
            Self::Utf8NotDeclared => "Non-ASCII address; send SMTPUTF8 with MAIL",
        })
    }
}

impl core::error::Error for CommandError {}

impl<'a> Command<'a> {
    /// Reads a line without its CRLF. Parameters are known only if `offered` has their extension.
    ///
    /// # Errors
    /// Says what is wrong, and so which reply it causes.
    pub fn parse(line: &'a [u8], offered: Extensions) -> Result<Self, CommandError> {
        let (verb, args) = Verb::split(line);
        Self::parse_args(verb, args, offered)
    }

    /// Reads what follows the verb.
    #[inline]
    pub(crate) fn parse_args(
        verb: Verb,
        args: &'a [u8],
        offered: Extensions,
    ) -> Result<Self, CommandError> {
        let text = || printable(args);
        let none = |command| match text()? {
            "" => Ok(command),
            _ => Err(CommandError::Argument),
        };
        let some = || match text()? {
            "" => Err(CommandError::Argument),
            text => Ok(text),
        };
        // No name, path or parameter that is valid holds a control character or is not UTF-8, so only
        // those that are not valid are looked through for that.
        let octets_first = |error| printable(args).err().unwrap_or(error);
        let name = || {
            let name = ClientName::parse_octets(trimmed(args));
            name.map_err(|_| octets_first(CommandError::Argument))
        };
        match verb {
            Verb::Ehlo => name().map(Self::Ehlo),
            Verb::Helo => name().map(Self::Helo),
            Verb::Mail => envelope::parse_mail(args, offered, octets_first),
            Verb::Rcpt => envelope::parse_rcpt(args, offered, octets_first),
            Verb::Data => none(Self::Data),
            Verb::Bdat => parse_bdat(args).ok_or(CommandError::ChunkSize),
            Verb::Rset => none(Self::Rset),
            Verb::Quit => none(Self::Quit),
            Verb::StartTls => none(Self::StartTls),
            Verb::Vrfy => some().map(Self::Vrfy),
            Verb::Expn => some().map(Self::Expn),
            Verb::Help => text().map(|_| Self::Help),
            Verb::Noop => text().map(|_| Self::Noop),
            Verb::Auth => parse_auth(text()?),
            // Who is not trusted with it is not told that it is there.
            Verb::XClient if !offered.has(Extension::XClient) => Err(CommandError::Unknown),
            Verb::XClient => XClient::parse(text()?)
                .map(|said| Self::XClient(Box::new(said)))
                .ok_or(CommandError::Argument),
            Verb::Unimplemented => Err(CommandError::Unimplemented),
            Verb::Http => Err(CommandError::Http),
            Verb::Unknown => Err(CommandError::Unknown),
        }
    }

    /// Appends the line with its CRLF.
    pub fn write(&self, wire: &mut Vec<u8>) {
        wire.extend_from_slice(alloc::format!("{self}\r\n").as_bytes());
    }
}

/// RFC 5321 §4.1.1: "SMTP receivers SHOULD tolerate trailing white space before the terminating
/// `<CRLF>`".
fn trimmed(args: &[u8]) -> &[u8] {
    let mut args = args;
    while let [rest @ .., b' '] = args {
        args = rest;
    }
    args
}

fn text(args: &[u8]) -> Result<&str, CommandError> {
    core::str::from_utf8(trimmed(args)).map_err(|_| CommandError::NotUtf8)
}

fn printable(args: &[u8]) -> Result<&str, CommandError> {
    if has_control(args) {
        return Err(CommandError::Control);
    }
    text(args)
}

fn has_control(args: &[u8]) -> bool {
    args.iter().any(u8::is_ascii_control)
}

/// RFC 3030 §2: `"BDAT" SP chunk-size [ SP "LAST" ]`.
fn parse_bdat(args: &[u8]) -> Option<Command<'static>> {
    let args = core::str::from_utf8(args).ok()?.trim_end_matches(' ');
    let (size, last) = match args.split_once(' ') {
        None => (args, false),
        Some((size, word)) if word.eq_ignore_ascii_case("LAST") => (size, true),
        Some(_) => return None,
    };
    let size = number(size.as_bytes(), 20)?;
    Some(Command::Bdat { size, last })
}

fn parse_auth(args: &str) -> Result<Command<'_>, CommandError> {
    let (mechanism, initial) = match args.split_once(' ') {
        Some((mechanism, initial)) => (mechanism, Some(initial)),
        None => (args, None),
    };
    // RFC 4422 §3.1: 1 to 20 letters, digits, hyphens and underscores.
    let named = (1..=20).contains(&mechanism.len())
        && mechanism
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if !named {
        return Err(CommandError::Argument);
    }
    let initial = match initial {
        None => None,
        Some("=") => Some(Vec::new()),
        Some("") => return Err(CommandError::Argument),
        Some(text) => Some(BASE64.decode(text).map_err(|_| CommandError::Base64)?),
    };
    Ok(Command::Auth { mechanism, initial })
}

/// Writes the line without its CRLF.
impl fmt::Display for Command<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ehlo(name) => write!(f, "EHLO {name}"),
            Self::Helo(name) => write!(f, "HELO {name}"),
            Self::Mail { from, params } => write!(f, "MAIL FROM:{from}{params}"),
            Self::Rcpt { to, params } => write!(f, "RCPT TO:{to}{params}"),
            Self::Data => f.write_str("DATA"),
            Self::Bdat { size, last } => {
                write!(f, "BDAT {size}{}", if *last { " LAST" } else { "" })
            }
            Self::Rset => f.write_str("RSET"),
            Self::Vrfy(name) => write!(f, "VRFY {name}"),
            Self::Expn(name) => write!(f, "EXPN {name}"),
            Self::Help => f.write_str("HELP"),
            Self::Noop => f.write_str("NOOP"),
            Self::Quit => f.write_str("QUIT"),
            Self::StartTls => f.write_str("STARTTLS"),
            Self::XClient(said) => write!(f, "XCLIENT {said}"),
            Self::Auth { mechanism, initial } => match initial.as_deref() {
                None => write!(f, "AUTH {mechanism}"),
                Some([]) => write!(f, "AUTH {mechanism} ="),
                Some(bytes) => write!(f, "AUTH {mechanism} {}", Base64Display::new(bytes, &BASE64)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::param::Keyword;
    use alloc::string::ToString;

    fn parse(line: &[u8]) -> Result<Command<'_>, CommandError> {
        Command::parse(line, Extension::ALL.into_iter().collect())
    }

    #[test]
    fn commands_round_trip() {
        for line in [
            "EHLO mail.example.com",
            "HELO [192.0.2.1]",
            "MAIL FROM:<>",
            "MAIL FROM:<\"a> b\\\"\"@example.com> SIZE=10 BODY=8BITMIME",
            "MAIL FROM:<jörg@example.com> SMTPUTF8",
            "RCPT TO:<Postmaster>",
            "RCPT TO:<a@[192.0.2.1]> NOTIFY=NEVER",
            "DATA",
            "BDAT 18446744073709551615",
            "BDAT 0 LAST",
            "RSET",
            "VRFY someone",
            "EXPN list",
            "HELP",
            "NOOP",
            "QUIT",
            "STARTTLS",
            "AUTH PLAIN",
            "AUTH PLAIN =",
            "AUTH PLAIN AGEAYg==",
            "XCLIENT ADDR=192.0.2.7 PORT=40000",
        ] {
            assert_eq!(parse(line.as_bytes()).unwrap().to_string(), line);
        }
    }

    #[test]
    fn case_and_spaces_that_clients_send_pass() {
        for (line, same) in [
            ("ehlo a", "EHLO a"),
            ("Mail from: <a@b>  size=1 ", "MAIL FROM:<a@b> SIZE=1"),
            ("quit  ", "QUIT"),
            ("noop anything", "NOOP"),
            ("bdat 1 last", "BDAT 1 LAST"),
        ] {
            assert_eq!(parse(line.as_bytes()).unwrap().to_string(), same);
        }
    }

    #[test]
    fn xclient_is_known_where_it_is_offered() {
        let others = Extension::ALL
            .into_iter()
            .filter(|&e| e != Extension::XClient);
        let parsed = Command::parse(b"XCLIENT ADDR=127.0.0.1", others.collect());
        assert_eq!(parsed, Err(CommandError::Unknown));
    }

    #[test]
    fn what_is_wrong_is_told() {
        use CommandError as E;
        let brackets = AddressError::Brackets;
        for (line, error) in [
            (&b""[..], E::Unknown),
            (b"FOO", E::Unknown),
            (b" EHLO a", E::Unknown),
            (b"XCLIENT ADDR=localhost", E::Argument),
            (b"ETRN #',1); --", E::Unimplemented),
            (b"GET / HTTP/1.1", E::Http),
            (b"EHLO", E::Argument),
            (b"EHLO a\0b", E::Control),
            (b"EHLO a b", E::Argument),
            (b"DATA now", E::Argument),
            (b"STARTTLS foo", E::Argument),
            (b"VRFY", E::Argument),
            (b"MAIL FROM:<a\rb@c>", E::Control),
            (b"MAIL FROM:<\xff\xfe@c>", E::NotUtf8),
            (b"MAIL FROM:a@b", E::Sender(brackets)),
            (b"MAIL FROM:<a@b", E::Sender(brackets)),
            (b"MAIL FROM:<a@b>SIZE=1", E::Sender(brackets)),
            (b"MAIL TO:<a@b>", E::Sender(brackets)),
            (b"MAIL", E::Sender(brackets)),
            ("MAIL FROM:<jörg@b>".as_bytes(), E::Utf8NotDeclared),
            (b"MAIL FROM:<a@b> FOO=BAR", E::Param(ParamError::Unknown)),
            (b"RCPT TO:<>", E::Recipient(AddressError::Null)),
            (
                b"RCPT TO:<@a,@b:c@d>",
                E::Recipient(AddressError::SourceRoute),
            ),
            (
                b"RCPT TO:<a@b> NOTIFY=NEVER,DELAY",
                E::Param(ParamError::Value(Keyword::Notify)),
            ),
            (b"BDAT", E::ChunkSize),
            (b"BDAT ", E::ChunkSize),
            (b"BDAT -1", E::ChunkSize),
            (b"BDAT 0x10", E::ChunkSize),
            (b"BDAT 1 2", E::ChunkSize),
            (b"BDAT 99999999999999999999999999", E::ChunkSize),
            (b"BDAT 18446744073709551616", E::ChunkSize),
            (b"AUTH", E::Argument),
            (b"AUTH PLAIN dXNlckB0ZXN0c2VydmVyAHlalala==", E::Base64),
        ] {
            assert_eq!(parse(line), Err(error), "{:?}", core::str::from_utf8(line));
        }
    }
}
