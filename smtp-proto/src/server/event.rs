//! What a client did, as the layer above sees it.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use super::Rejection;
use crate::address::{ForwardPath, ReversePath};
use crate::client_name::ClientName;
use crate::extension::Mechanism;
use crate::param::{MailParams, RcptParams};
use crate::xclient::XClient;

/// How far [`Connection::receive`](super::Connection::receive) came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress<'i> {
    /// Something happened. The input after `used` octets is for the next call.
    Event {
        /// How many octets of the input are done with.
        used: usize,
        /// What happened.
        event: Event<'i>,
    },
    /// Nothing more can happen now. If a verdict is pending, the input after `used` octets is for
    /// the call that follows the verdict; otherwise all of the input was used.
    NeedMore {
        /// How many octets of the input are done with.
        used: usize,
    },
}

/// What a client did.
///
/// Those marked *verdict* wait for one `accept` or `reject` (or `challenge`), and nothing more is
/// decoded until it comes. The others are answered already, or need no answer.
///
/// A transaction that [`Event::Mail`] opened and `accept` confirmed is over at the first of:
/// the verdict on [`Event::BodyEnd`], a refusal of [`Event::Data`], [`Event::BodyRefused`],
/// [`Event::Reset`], [`Event::Hello`], [`Event::StartTls`], [`Event::Quit`], a [`Fatal`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'i> {
    /// *verdict*: EHLO or HELO.
    Hello(Hello),
    /// *verdict*: STARTTLS. After `accept` comes the handshake, then `tls_started`.
    StartTls,
    /// *verdict* but for [`Auth::Cancelled`]: a step of authentication.
    Auth(Auth),
    /// *verdict*: XCLIENT, from a client to whom it is offered. After `accept` the connection is as new,
    /// but for TLS.
    XClient(Box<XClient>),
    /// *verdict*: MAIL.
    Mail(Mail),
    /// *verdict*: RCPT.
    Rcpt(Rcpt),
    /// *verdict*: DATA, or the first BDAT of a message. There is at least one recipient.
    Data {
        /// Whether the body comes in BDAT chunks.
        chunked: bool,
    },
    /// The next octets of the body, un-stuffed, never empty, cut anywhere. The layer above may call
    /// `reject` here: the rest of the body is skipped, and then that refusal is the reply.
    Body(&'i [u8]),
    /// *verdict*: the body is complete.
    BodyEnd,
    /// The connection itself refuses the body under way, with this reply at its end.
    BodyRefused(Rejection),
    /// The transaction is dropped: RSET, or a command that was refused and takes it along.
    Reset,
    /// QUIT; 221 is written.
    Quit,
}

/// EHLO or HELO. RFC 5321 §4.1.1.1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Which of the two.
    pub verb: HelloVerb,
    /// What the client calls itself.
    pub name: ClientName,
}

/// How a client said hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HelloVerb {
    /// With extensions.
    Ehlo,
    /// Without.
    Helo,
}

/// A step of authentication. RFC 4954 §4.
#[derive(Clone, PartialEq, Eq)]
pub enum Auth {
    /// *verdict*: AUTH, with a mechanism that is offered.
    Start {
        /// Which one.
        mechanism: Mechanism,
        /// The initial response, decoded, if there is one.
        initial_response: Option<Vec<u8>>,
    },
    /// *verdict*: the answer to a challenge, decoded.
    Response(Vec<u8>),
    /// The client gave up, or sent what is no answer. The 5yz is written.
    Cancelled,
}

/// Shows no secret.
impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start {
                mechanism,
                initial_response,
            } => f
                .debug_struct("Start")
                .field("mechanism", mechanism)
                .field("octets", &initial_response.as_ref().map(Vec::len))
                .finish(),
            Self::Response(response) => f.debug_tuple("Response").field(&response.len()).finish(),
            Self::Cancelled => f.write_str("Cancelled"),
        }
    }
}

/// MAIL. RFC 5321 §4.1.1.2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// Where failures are reported.
    pub from: ReversePath,
    /// What extensions add.
    pub params: MailParams,
}

/// RCPT. RFC 5321 §4.1.1.3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rcpt {
    /// Whom the message is for.
    pub to: ForwardPath,
    /// What extensions add.
    pub params: RcptParams,
}

/// Why the connection is over. What there was to say is written; close it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fatal {
    /// It was over before: after QUIT, a 421 or an earlier `Fatal`.
    Closed,
    /// A command line ended in a bare LF.
    BareLf,
    /// A line without end.
    EndlessLine,
    /// HTTP or a TLS ClientHello: the client does not mean us.
    OtherProtocol,
    /// Octets between STARTTLS and the handshake: somebody injects commands. RFC 3207 §6.
    ClearTextAfterStartTls,
    /// A chunk of unknown size, or of one that is not skipped.
    ChunkSize,
    /// A refused body does not end.
    EndlessBody,
    /// Too many erroneous commands.
    Errors,
    /// Too many commands that lead nowhere.
    Junk,
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the connection is over",
            Self::BareLf => "a command line ended in a bare LF",
            Self::EndlessLine => "a line without end",
            Self::OtherProtocol => "the client speaks another protocol",
            Self::ClearTextAfterStartTls => "clear text after STARTTLS",
            Self::ChunkSize => "a chunk that cannot be skipped",
            Self::EndlessBody => "a refused body does not end",
            Self::Errors => "too many erroneous commands",
            Self::Junk => "too many commands that lead nowhere",
        })
    }
}

impl core::error::Error for Fatal {}

/// No event waits for this verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NothingPending;

impl fmt::Display for NothingPending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no event waits for this verdict")
    }
}

impl core::error::Error for NothingPending {}
