//! The contract of every connection machine: an input in, one output out.
//!
//! ```text
//!            handle_input(now, Input)            poll_output(&mut wire) -> Output
//!  runtime ───────────────────────────▶ Machine ───────────────────────────────▶ runtime
//!     ▲                                                                             │
//!     └──────────── carries out exactly one thing, then hands in its result ◀───────┘
//! ```
//!
//! The loop that drives a machine, in full:
//!
//! 1. Call [`Machine::poll_output`]. It may append bytes to `wire`.
//! 2. Write all of `wire` to the peer. If that fails, hand in [`Input::WriteFailed`] and go to 1.
//! 3. Do what the [`Output`] names: carry out the request and hand in [`Input::Answer`]; or wait for
//!    bytes until the deadline and hand in [`Input::Bytes`], [`Input::Closed`] or [`Input::Timeout`];
//!    or close and drop the machine.
//! 4. Go to 1.
//!
//! Nothing else is asked of a runtime: it holds no policy about errors, order or time.

use std::io;

use crate::time::{Instant, Now};

/// What a runtime tells a machine.
#[derive(Debug)]
pub enum Input<'a, A> {
    /// Bytes from the peer. They are consumed whole; the runtime may reuse its buffer.
    Bytes(&'a [u8]),
    /// The result of the last [`Output::Request`].
    Answer(A),
    /// The deadline of the last [`Output::Read`] passed with no byte read.
    Timeout,
    /// The peer closed its side, cleanly (`None`) or with an error.
    Closed(Option<io::ErrorKind>),
    /// `wire` could not be written. Bytes that the peer sent before may still be read.
    WriteFailed(io::ErrorKind),
}

/// The one thing that a machine wants next. Before it, all of `wire` is written to the peer.
#[derive(Debug)]
#[must_use]
pub enum Output<R> {
    /// Carry out the request and hand back [`Input::Answer`]. The peer is not read meanwhile: that is
    /// the back-pressure.
    Request(R),
    /// Wait for bytes from the peer, until a deadline.
    Read {
        /// When to give up and hand in [`Input::Timeout`].
        until: Instant,
        /// Which timer this is.
        why: Timer,
    },
    /// Close the connection and drop the machine.
    Close,
}

/// The RFC 5321 §4.5.3.2 timer, or a timer of our own, that a read waits under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Timer {
    /// Server: the next command. RFC 5321 §4.5.3.2.7.
    Command,
    /// Server: the rest of a command line that has begun.
    CommandLine,
    /// Server: the answer to an AUTH challenge.
    AuthResponse,
    /// Either side: the TLS handshake.
    Handshake,
    /// Server: the next piece of a message body, or its minimum rate. RFC 5321 §4.5.3.2.5.
    Body,
    /// Client: the greeting. RFC 5321 §4.5.3.2.1.
    Greeting,
    /// Client: the reply to EHLO, HELO, STARTTLS or AUTH.
    Hello,
    /// Client: the reply to MAIL. RFC 5321 §4.5.3.2.2.
    Mail,
    /// Client: the reply to RCPT. RFC 5321 §4.5.3.2.3.
    Rcpt,
    /// Client: the 354. RFC 5321 §4.5.3.2.4.
    Data,
    /// Client: the reply to the final dot. RFC 5321 §4.5.3.2.6.
    BodyEnd,
    /// Client: the reply to RSET, NOOP or QUIT.
    Quit,
    /// HTTP: the rest of a request or of a response.
    Http,
}

/// A connection as a pure state machine. See the module for the loop that drives it.
pub trait Machine {
    /// What the machine asks of the runtime.
    type Request;
    /// What the runtime answers.
    type Answer;

    /// Takes one input. It cannot fail: a failure is a reply on the wire and, at worst, `Close`.
    fn handle_input(&mut self, now: Now, input: Input<'_, Self::Answer>);

    /// Says the one next thing to do, after appending at most [`BURST_MAX`] bytes to `wire`.
    fn poll_output(&mut self, wire: &mut Vec<u8>) -> Output<Self::Request>;
}

/// The most bytes that one [`Machine::poll_output`] appends to `wire`, but for TLS record overhead.
pub const BURST_MAX: usize = 64 * 1024;

/// How long one burst may take to be written. A peer that reads nothing for so long is gone: hand in
/// [`Input::WriteFailed`] with [`io::ErrorKind::TimedOut`]. RFC 5321 §4.5.3.2.5 (DATA block).
pub const WRITE_MAX: std::time::Duration = std::time::Duration::from_secs(180);
