//! A server's reply: read from any cutting of the bytes, within limits, or refused.
//!
//! This module owns the shape of replies on the wire. What a reply answers is known to
//! [`crate::client::Connection`]; what it means for a message is decided above this crate.
//!
//! ```text
//!                 "250-text CRLF"                      "250 text CRLF" or "250 CRLF"
//!   (no line) ────────────────────▶ (lines, code) ─────────────────────────────────▶ Reply
//!       │                              │   ▲
//!       │                              └───┘ "250-text CRLF", the same code
//!       └── any other line, a bare CR or LF, a NUL, another code, over a limit ──▶ ReplyError
//! ```
//!
//! A refused reply is never half a success: there is no [`Reply`] value for it, and a connection that
//! saw one reads no further.
//!
//! RFC 5321 §4.2 (replies), §4.2.1 (the meaning of the first digit), §4.5.3.1.5 (reply line length);
//! RFC 2034 §4 and RFC 3463 §2 (enhanced status codes).

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::code::{Code, EnhancedCode, Severity};

/// The longest reply line that is read, in bytes with its CRLF.
///
/// RFC 5321 §4.5.3.1.5 allows a server 512; larger ones are met in practice.
pub const LINE_MAX: usize = 2 * 1024;

/// The most lines that a reply may have.
pub const LINES_MAX: usize = 64;

/// The most lines that a reply to EHLO or LHLO may have: one for each extension.
pub const HELLO_LINES_MAX: usize = 128;

/// The longest reply that is read, in bytes with all line ends.
pub const REPLY_MAX: usize = 64 * 1024;

/// The longest text that [`Reply::sanitised`] gives, in bytes.
pub const SANITISED_MAX: usize = 1024;

/// A whole, well-formed reply.
///
/// Its text is printable: what was not valid UTF-8 and all control characters were replaced by `?`
/// (a tab by a space) when it was read, so that no reply can forge a line of a log or a header of a
/// report. `Display` writes [`Reply::sanitised`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    code: Code,
    enhanced: Option<EnhancedCode>,
    /// The text of all lines, without codes and line ends, one LF between two lines.
    text: String,
}

impl Reply {
    /// A reply with these lines of text, held to the same rules as one that was read.
    ///
    /// An enhanced code is written as the start of the text. No lines is one empty line.
    pub fn new(code: Code, lines: &[&str]) -> Result<Self, ReplyError> {
        let mut wire = Vec::new();
        write_lines(code, lines.iter().copied(), &mut wire);
        Self::parse(&wire)
    }

    /// Reads one reply that is there as a whole, and nothing after it.
    pub fn parse(wire: &[u8]) -> Result<Self, ReplyError> {
        match ReplyReader::new().receive(wire, HELLO_LINES_MAX)? {
            (used, Some(reply)) if used == wire.len() => Ok(reply),
            (_, Some(_)) => Err(ReplyError::Trailing),
            (_, None) => Err(ReplyError::Unfinished),
        }
    }

    /// The three-digit code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The enhanced status code of the final line, if it has one whose class agrees with the code.
    ///
    /// One that disagrees is ignored: the three digits are what the protocol acts on.
    pub fn enhanced(&self) -> Option<EnhancedCode> {
        self.enhanced
    }

    /// What the first digit of the code says.
    pub fn severity(&self) -> Severity {
        self.code.severity()
    }

    /// The text of each line, without its code: at least one line, which may be empty.
    pub fn lines(&self) -> impl DoubleEndedIterator<Item = &str> + Clone {
        self.text.split('\n')
    }

    /// The whole reply as one line of printable ASCII, for logs and for the `Diagnostic-Code` of a DSN.
    ///
    /// The code comes first, lines are joined by a space, an enhanced code that every line repeats is
    /// written once, every other character is `?`, and a long text ends in `...`.
    pub fn sanitised(&self) -> String {
        let mut out = alloc::format!("{}", self.code);
        let repeated = self
            .enhanced
            .is_some()
            .then(|| first_word(last_line(&self.text)));
        for (nr, line) in self.lines().enumerate() {
            let line = match repeated.and_then(|code| line.strip_prefix(code)) {
                Some(rest) if nr > 0 && (rest.is_empty() || rest.starts_with(' ')) => rest,
                Some(_) | None => line,
            };
            for word in line.split_ascii_whitespace() {
                out.push(' ');
                out.extend(
                    word.chars()
                        .map(|c| if c.is_ascii_graphic() { c } else { '?' }),
                );
            }
        }
        if out.len() > SANITISED_MAX {
            out.truncate(SANITISED_MAX - 3);
            out.push_str("...");
        }
        out
    }

    /// The challenge of a 334 to AUTH, decoded; `None` if the text is not base64. RFC 4954 §4.
    pub fn challenge(&self) -> Option<Vec<u8>> {
        BASE64.decode(self.text.trim()).ok()
    }

    /// Appends the reply as a server sends it.
    pub fn write(&self, wire: &mut Vec<u8>) {
        write_lines(self.code, self.lines(), wire);
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sanitised())
    }
}

/// Why bytes are not a reply. None of these can be read past: where the next reply would begin is
/// no longer known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyError {
    /// A line does not begin with three digits, the first of them 2 to 5.
    BadCode,
    /// The code is followed by something other than a space, a hyphen or the end of the line.
    BadSeparator,
    /// A line has another code than the lines before it.
    CodeChanged,
    /// A CR that no LF follows.
    BareCr,
    /// An LF that no CR precedes.
    BareLf,
    /// A NUL.
    Nul,
    /// A line is longer than [`LINE_MAX`].
    LineTooLong,
    /// More lines than [`LINES_MAX`], or [`HELLO_LINES_MAX`] for EHLO.
    TooManyLines,
    /// All lines together are longer than [`REPLY_MAX`].
    TooLong,
    /// Only in [`Reply::parse`]: the end of the reply is missing.
    Unfinished,
    /// Only in [`Reply::parse`]: bytes after the end of the reply.
    Trailing,
}

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadCode => "a reply line without a valid code",
            Self::BadSeparator => "a reply code without a space or hyphen after it",
            Self::CodeChanged => "a reply whose lines have different codes",
            Self::BareCr => "a bare CR in a reply",
            Self::BareLf => "a bare LF in a reply",
            Self::Nul => "a NUL in a reply",
            Self::LineTooLong => "a reply line that is too long",
            Self::TooManyLines => "a reply with too many lines",
            Self::TooLong => "a reply that is too long",
            Self::Unfinished => "a reply without its end",
            Self::Trailing => "bytes after the end of a reply",
        })
    }
}

impl core::error::Error for ReplyError {}

/// Collects the bytes of one reply after another, however they are cut.
///
/// After an error the caller reads no more: the reader does not find its way back.
#[derive(Debug)]
pub(crate) struct ReplyReader {
    /// The begun line, without its LF.
    line: Vec<u8>,
    /// The finished lines of the begun reply, as in [`Reply`].
    text: String,
    code: Option<Code>,
    lines: usize,
    bytes: usize,
}

impl ReplyReader {
    pub(crate) fn new() -> Self {
        Self {
            line: Vec::new(),
            text: String::new(),
            code: None,
            lines: 0,
            bytes: 0,
        }
    }

    /// Takes bytes up to the end of one reply, which may have `lines_max` lines. Says how many bytes
    /// were taken: all of them if no reply ended.
    pub(crate) fn receive(
        &mut self,
        input: &[u8],
        lines_max: usize,
    ) -> Result<(usize, Option<Reply>), ReplyError> {
        let mut used = 0;
        while let Some(rest) = input.get(used..).filter(|rest| !rest.is_empty()) {
            let end = memchr::memchr(b'\n', rest);
            let piece = &rest[..end.map_or(rest.len(), |at| at + 1)];
            if self.line.len() + piece.len() > LINE_MAX {
                return Err(ReplyError::LineTooLong);
            }
            used += piece.len();
            // A line that is whole in the input is read where it stands.
            let reply = match end {
                Some(_) if self.line.is_empty() => self.end_line(piece, lines_max)?,
                Some(_) => {
                    let mut line = core::mem::take(&mut self.line);
                    line.extend_from_slice(piece);
                    self.end_line(&line, lines_max)?
                }
                None => {
                    self.line.extend_from_slice(piece);
                    None
                }
            };
            if reply.is_some() {
                return Ok((used, reply));
            }
        }
        Ok((used, None))
    }

    /// Checks a whole line and adds it to the reply.
    fn end_line(&mut self, line: &[u8], lines_max: usize) -> Result<Option<Reply>, ReplyError> {
        self.lines += 1;
        self.bytes += line.len();
        if self.lines > lines_max {
            return Err(ReplyError::TooManyLines);
        }
        if self.bytes > REPLY_MAX {
            return Err(ReplyError::TooLong);
        }
        let (code, last, text) = split_line(line)?;
        if self.code.is_some_and(|first| first != code) {
            return Err(ReplyError::CodeChanged);
        }
        self.code = Some(code);
        if self.lines > 1 {
            self.text.push('\n');
        }
        push_printable(&mut self.text, text);
        if !last {
            return Ok(None);
        }
        let mut text = core::mem::take(&mut self.text);
        text.shrink_to_fit();
        let enhanced = enhanced_of(code, last_line(&text));
        (self.code, self.lines, self.bytes) = (None, 0, 0);
        Ok(Some(Reply {
            code,
            enhanced,
            text,
        }))
    }
}

/// The code of a line, whether it is the last of its reply, and its text.
fn split_line(line: &[u8]) -> Result<(Code, bool, &[u8]), ReplyError> {
    // RFC 5321 §2.3.8: lines end in CRLF, and CR and LF stand nowhere else.
    let [line @ .., b'\r', b'\n'] = line else {
        return Err(ReplyError::BareLf);
    };
    if memchr::memchr(b'\r', line).is_some() {
        return Err(ReplyError::BareCr);
    }
    if memchr::memchr(0, line).is_some() {
        return Err(ReplyError::Nul);
    }
    let (digits, rest) = line.split_at_checked(3).ok_or(ReplyError::BadCode)?;
    let code = Code::parse(digits).ok_or(ReplyError::BadCode)?;
    match rest {
        [b'-', text @ ..] => Ok((code, false, text)),
        [b' ', text @ ..] => Ok((code, true, text)),
        // RFC 5321 §4.2: `Reply-code [ SP textstring ] CRLF`.
        [] => Ok((code, true, rest)),
        [_, ..] => Err(ReplyError::BadSeparator),
    }
}

/// Appends text, with `?` for what is not printable. It never grows by that.
fn push_printable(out: &mut String, text: &[u8]) {
    let plain = text.iter().all(|octet| matches!(octet, b' '..=b'~'));
    if let (true, Ok(text)) = (plain, core::str::from_utf8(text)) {
        out.reserve_exact(text.len());
        out.push_str(text);
        return;
    }
    for chunk in text.utf8_chunks() {
        out.extend(chunk.valid().chars().map(|c| match c {
            '\t' => ' ',
            c if c.is_control() => '?',
            c => c,
        }));
        if !chunk.invalid().is_empty() {
            out.push('?');
        }
    }
}

fn write_lines<'l>(
    code: Code,
    lines: impl DoubleEndedIterator<Item = &'l str>,
    wire: &mut Vec<u8>,
) {
    let mut lines = lines.rev();
    let last = lines.next().unwrap_or_default();
    let line = |separator: char, text: &str| alloc::format!("{code}{separator}{text}\r\n");
    for text in lines.rev() {
        wire.extend_from_slice(line('-', text).as_bytes());
    }
    wire.extend_from_slice(line(' ', last).as_bytes());
}

/// The enhanced code at the start of a line's text.
///
/// RFC 2034 §4: "All status codes returned by the server must agree with the primary response code".
fn enhanced_of(code: Code, text: &str) -> Option<EnhancedCode> {
    EnhancedCode::parse(first_word(text)).filter(|it| it.class().fits(code.severity()))
}

fn first_word(text: &str) -> &str {
    text.bytes()
        .position(|octet| octet == b' ')
        .map_or(text, |end| &text[..end])
}

fn last_line(text: &str) -> &str {
    text.bytes()
        .rposition(|octet| octet == b'\n')
        .map_or(text, |lf| &text[lf + 1..])
}

#[cfg(test)]
mod tests;
