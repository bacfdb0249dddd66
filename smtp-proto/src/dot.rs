//! The lines of a message body: dot-stuffing both ways, and what a line end is.
//!
//! Implements RFC 5321 §4.5.2 (transparency), §4.1.1.4 (end of data) and §2.3.8 (CR and LF stand
//! only together). Data ends at CRLF.CRLF and nowhere else, whatever the policy.
//!
//! What is stored and what is thrown away go through the same [`DotDecoder`], so both end at the
//! same octet: that is what makes message smuggling impossible at this door.
//!
//! ```text
//!              CRLF                              [`DotDecoder`]
//!        ┌───────────────┐
//!        ▼               │
//!   ╔═══════════╗ other ┌┴───────┐  CR   ┌────┐
//!   ║ LineStart ║──────▶│ InLine │──────▶│ Cr │── LF: LineStart;
//!   ╚═════╤═════╝       └────────┘       └────┘   other: a bare CR
//!         │ .                ▲ other (the dot is removed)
//!         ▼                  │
//!      ┌─────┐───────────────┤
//!      │ Dot │ CR ┌───────┐  │
//!      └─────┘───▶│ DotCr │──┘ LF: End
//!                 └───────┘
//! ```

use alloc::vec::Vec;
use core::fmt;

use crate::scan;

/// What is done with a CR without LF, or an LF without CR, in a body. RFC 5321 §2.3.8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LineEndings {
    /// The message is refused.
    #[default]
    Reject,
    /// It becomes CRLF in what is stored, and still never ends the data.
    Normalise,
}

/// Why the octets of a body cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BodyFault {
    /// A CR that no LF follows.
    BareCr,
    /// An LF that follows no CR.
    BareLf,
    /// A NUL.
    Nul,
}

impl fmt::Display for BodyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BareCr => "a CR without LF",
            Self::BareLf => "an LF without CR",
            Self::Nul => "a NUL",
        })
    }
}

impl core::error::Error for BodyFault {}

/// What a decoder made of the start of its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'i> {
    /// The next octets of the body. They may end between a CR and its LF.
    Body(&'i [u8]),
    /// The body cannot be taken. Said once; no body follows, but its end is still looked for.
    Fault(BodyFault),
    /// The data ended; what follows are commands.
    End,
    /// The input is used up.
    NeedMore,
}

const CRLF: &[u8] = b"\r\n";

/// The receiving end of DATA. See the [module](self).
#[derive(Clone, Debug)]
pub struct DotDecoder {
    state: State,
    line_endings: LineEndings,
    discarding: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    LineStart,
    InLine,
    Cr,
    Dot,
    DotCr,
}

impl DotDecoder {
    /// At the octet after the reply 354. The CRLF of the DATA command counts as a line end before
    /// it, so `.` CRLF at once is an empty message. RFC 5321 §4.1.1.4.
    #[must_use]
    pub const fn new(line_endings: LineEndings) -> Self {
        Self {
            state: State::LineStart,
            line_endings,
            discarding: false,
        }
    }

    /// Gives no more body, and goes on to the end of the data.
    pub fn discard(&mut self) {
        self.discarding = true;
    }

    /// Takes in the start of `input`: how many octets, and what they are. The caller comes back
    /// with the rest until it is [`Piece::NeedMore`] or [`Piece::End`].
    pub fn decode<'i>(&mut self, input: &'i [u8]) -> (usize, Piece<'i>) {
        let mut used = 0;
        loop {
            let (more, piece) = self.step(&input[used..]);
            used += more;
            let silent = match piece {
                Piece::Body(body) => self.discarding || body.is_empty(),
                Piece::Fault(_) => core::mem::replace(&mut self.discarding, true),
                Piece::End | Piece::NeedMore => false,
            };
            if !silent {
                return (used, piece);
            }
        }
    }

    fn step<'i>(&mut self, input: &'i [u8]) -> (usize, Piece<'i>) {
        let Some(&first) = input.first() else {
            return (0, Piece::NeedMore);
        };
        match (self.state, first) {
            (State::LineStart, b'.') => {
                self.state = State::Dot;
                (1, Piece::Body(&[]))
            }
            (State::Dot, b'\r') => {
                self.state = State::DotCr;
                (1, Piece::Body(&[]))
            }
            (State::DotCr, b'\n') => {
                self.state = State::LineStart;
                (1, Piece::End)
            }
            // The CR after the removed dot is bare.
            (State::DotCr, _) => {
                self.state = State::InLine;
                (0, self.fault(BodyFault::BareCr, CRLF))
            }
            (State::Cr, b'\n') => {
                self.state = State::LineStart;
                (1, Piece::Body(&input[..1]))
            }
            // The CR itself is given out already.
            (State::Cr, _) => {
                self.state = State::InLine;
                (0, self.fault(BodyFault::BareCr, b"\n"))
            }
            (State::LineStart | State::InLine | State::Dot, _) => self.run(input),
        }
    }

    /// The longest run that can be given out as it stands: many lines, up to a dot to look at, a
    /// fault, or the end of the input.
    fn run<'i>(&mut self, input: &'i [u8]) -> (usize, Piece<'i>) {
        self.state = State::InLine;
        let mut at = scan::clean(input);
        while let Some(found) = memchr::memchr3(b'\r', b'\n', 0, &input[at..]) {
            at += found;
            match (input[at], input.get(at + 1)) {
                (b'\r', Some(b'\n')) => {
                    at += 2;
                    if input.get(at).is_none_or(|&next| next == b'.') {
                        self.state = State::LineStart;
                        return (at, Piece::Body(&input[..at]));
                    }
                    at += scan::clean(&input[at..]);
                }
                (b'\r', _) => {
                    self.state = State::Cr;
                    return (at + 1, Piece::Body(&input[..at + 1]));
                }
                _ if at > 0 => return (at, Piece::Body(&input[..at])),
                (b'\n', _) => return (1, self.fault(BodyFault::BareLf, CRLF)),
                _ => return (1, Piece::Fault(BodyFault::Nul)),
            }
        }
        (input.len(), Piece::Body(input))
    }

    fn fault<'i>(&self, fault: BodyFault, instead: &'static [u8]) -> Piece<'i> {
        match self.line_endings {
            LineEndings::Reject => Piece::Fault(fault),
            LineEndings::Normalise => Piece::Body(instead),
        }
    }
}

/// The line ends of BDAT chunks, which have no dots and no end of their own. RFC 3030 §2.
///
/// A CR at the end of one chunk and the LF at the start of the next are a CRLF.
#[derive(Clone, Debug)]
pub struct ChunkDecoder {
    after_cr: bool,
    line_endings: Option<LineEndings>,
    discarding: bool,
}

impl ChunkDecoder {
    /// At the first chunk of a message made of lines.
    #[must_use]
    pub const fn new(line_endings: LineEndings) -> Self {
        Self {
            after_cr: false,
            line_endings: Some(line_endings),
            discarding: false,
        }
    }

    /// At the first chunk of a `BODY=BINARYMIME` message, in which every octet is data.
    #[must_use]
    pub const fn binary() -> Self {
        Self {
            after_cr: false,
            line_endings: None,
            discarding: false,
        }
    }

    /// Gives no more body.
    pub fn discard(&mut self) {
        self.discarding = true;
    }

    /// Takes in the start of `input`, as [`DotDecoder::decode`]; it never is [`Piece::End`].
    pub fn decode<'i>(&mut self, input: &'i [u8]) -> (usize, Piece<'i>) {
        if self.discarding || input.is_empty() {
            return (input.len(), Piece::NeedMore);
        }
        let Some(line_endings) = self.line_endings else {
            return (input.len(), Piece::Body(input));
        };
        let (used, piece) = self.step(input);
        match (piece, line_endings) {
            (Piece::Fault(BodyFault::BareCr), LineEndings::Normalise) => (used, Piece::Body(b"\n")),
            (Piece::Fault(BodyFault::BareLf), LineEndings::Normalise) => (used, Piece::Body(CRLF)),
            (Piece::Fault(_), _) => {
                self.discarding = true;
                (used, piece)
            }
            (Piece::Body(_) | Piece::End | Piece::NeedMore, _) => (used, piece),
        }
    }

    /// At the end of the last chunk: what the last octet still owes.
    pub fn finish(&mut self) -> Option<Piece<'static>> {
        let bare = core::mem::take(&mut self.after_cr) && !self.discarding;
        match (bare, self.line_endings) {
            (true, Some(LineEndings::Reject)) => Some(Piece::Fault(BodyFault::BareCr)),
            (true, Some(LineEndings::Normalise)) => Some(Piece::Body(b"\n")),
            (false, _) | (true, None) => None,
        }
    }

    fn step<'i>(&mut self, input: &'i [u8]) -> (usize, Piece<'i>) {
        let mut at = 0;
        if core::mem::take(&mut self.after_cr) {
            if input[0] != b'\n' {
                return (0, Piece::Fault(BodyFault::BareCr));
            }
            at = 1;
        }
        at += scan::clean(&input[at..]);
        while let Some(found) = memchr::memchr3(b'\r', b'\n', 0, &input[at..]) {
            at += found;
            match (input[at], input.get(at + 1)) {
                (b'\r', Some(b'\n')) => {
                    at += 2;
                    at += scan::clean(&input[at..]);
                }
                (b'\r', _) => {
                    self.after_cr = true;
                    return (at + 1, Piece::Body(&input[..at + 1]));
                }
                _ if at > 0 => return (at, Piece::Body(&input[..at])),
                (b'\n', _) => return (1, Piece::Fault(BodyFault::BareLf)),
                _ => return (1, Piece::Fault(BodyFault::Nul)),
            }
        }
        (input.len(), Piece::Body(input))
    }
}

/// The sending end of DATA: stuffs dots, and writes the end.
///
/// Whatever it is given, it writes no bare CR or LF: one that slipped in becomes CRLF. So the only
/// CRLF.CRLF that it writes is the end.
#[derive(Clone, Debug)]
pub struct DotEncoder {
    state: Sent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    LineStart,
    InLine,
    Cr,
}

impl Default for DotEncoder {
    fn default() -> Self {
        Self::new()
    }
}

impl DotEncoder {
    /// After the reply 354.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            state: Sent::LineStart,
        }
    }

    /// Appends the next octets of the body to `wire`, which grows by at most twice their number
    /// and two.
    pub fn encode(&mut self, body: &[u8], wire: &mut Vec<u8>) {
        let Some(&first) = body.first() else { return };
        wire.reserve(body.len() + body.len() / 32 + 2);
        // `body[start..at]` is looked at and not written yet.
        let (mut start, mut at) = (0, 0);
        match (self.state, first) {
            (Sent::Cr, b'\n') => at = 1,
            (Sent::Cr, _) => wire.push(b'\n'),
            (Sent::LineStart | Sent::InLine, _) => {}
        }
        let mut line_start = at == 1 || self.state != Sent::InLine;
        loop {
            if line_start && body.get(at) == Some(&b'.') {
                wire.extend_from_slice(&body[start..at]);
                wire.push(b'.');
                start = at;
            }
            at += scan::clean(&body[at..]);
            let Some(found) = memchr::memchr2(b'\r', b'\n', &body[at..]) else {
                line_start &= at == body.len();
                break;
            };
            at += found;
            match (body[at], body.get(at + 1)) {
                (b'\r', Some(b'\n')) => at += 2,
                (b'\r', None) => {
                    wire.extend_from_slice(&body[start..]);
                    self.state = Sent::Cr;
                    return;
                }
                _ => {
                    wire.extend_from_slice(&body[start..at]);
                    wire.extend_from_slice(CRLF);
                    at += 1;
                    start = at;
                }
            }
            line_start = true;
        }
        wire.extend_from_slice(&body[start..]);
        self.state = if line_start {
            Sent::LineStart
        } else {
            Sent::InLine
        };
    }

    /// Ends the last line if need be, and the data.
    pub fn finish(self, wire: &mut Vec<u8>) {
        wire.extend_from_slice(match self.state {
            Sent::LineStart => b".\r\n",
            Sent::InLine => b"\r\n.\r\n",
            Sent::Cr => b"\n.\r\n",
        });
    }
}
