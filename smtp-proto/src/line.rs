//! Command lines out of a stream of octets, bounded.
//!
//! A line ends at CRLF and nowhere else (RFC 5321 §2.3.8). A line that is whole in the input is
//! borrowed from it; only a cut one is copied, and its buffer is given back with the line.
//!
//! ```text
//!              no CRLF yet            CRLF
//!   (empty) ────────────────▶ Held ──────────▶ Whole
//!                              │ over the line's limit
//!                              ▼                CRLF
//!                           Skipping ──────────────────▶ TooLong
//!                              │ over `skip_max`, or an LF without CR: LineError
//! ```

use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::fmt;

/// What the start of the input was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line<'i> {
    /// A line, without its CRLF.
    Whole(Cow<'i, [u8]>),
    /// A line over its limit, of which nothing was kept.
    TooLong,
    /// The input is used up and the line has no end yet.
    NeedMore,
}

/// Why no further line can be told from this stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineError {
    /// An LF without CR: two parsers would not agree where the line ends.
    BareLf,
    /// A line that is still not at its end after all that is skipped of one.
    Endless,
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BareLf => "a line ends in a bare LF",
            Self::Endless => "a line has no end",
        })
    }
}

impl core::error::Error for LineError {}

/// Finds lines in a stream that comes in pieces.
#[derive(Clone, Debug, Default)]
pub struct LineReader {
    held: Vec<u8>,
    skipping: Option<Skipping>,
}

#[derive(Clone, Copy, Debug)]
struct Skipping {
    octets: usize,
    after_cr: bool,
}

impl LineReader {
    /// Between two lines.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            held: Vec::new(),
            skipping: None,
        }
    }

    /// Whether it stands between two lines.
    #[must_use]
    pub const fn is_between_lines(&self) -> bool {
        self.held.is_empty() && self.skipping.is_none()
    }

    /// Takes in the start of `input`: how many octets, and what they are.
    ///
    /// `line_max` gives the limit of a line from its first octets, CRLF included; of one over it up
    /// to `skip_max` octets are skipped.
    ///
    /// # Errors
    /// If no line can be found any more; the reader must not be used after that.
    pub fn read<'i>(
        &mut self,
        input: &'i [u8],
        line_max: impl Fn(&[u8]) -> usize,
        skip_max: usize,
    ) -> Result<(usize, Line<'i>), LineError> {
        let end = find_lf(input);
        if self.is_between_lines()
            && let Some(end) = end
            && let (whole, [b'\n', ..]) = input.split_at(end)
            && let [line @ .., b'\r'] = whole
            && whole.len() < line_max(whole)
        {
            return Ok((end + 1, Line::Whole(Cow::Borrowed(line))));
        }
        self.read_part(input, end, line_max, skip_max)
    }

    /// What is not one whole line.
    fn read_part<'i>(
        &mut self,
        input: &'i [u8],
        end: Option<usize>,
        line_max: impl Fn(&[u8]) -> usize,
        skip_max: usize,
    ) -> Result<(usize, Line<'i>), LineError> {
        let used = end.map_or(input.len(), |lf| lf + 1);
        let part = &input[..used];
        if self.skipping.is_some() {
            return self.skip(part, end.is_some(), skip_max);
        }
        let after_cr = match end {
            Some(0) => self.held.last() == Some(&b'\r'),
            Some(lf) => input[lf - 1] == b'\r',
            None => true,
        };
        if !after_cr {
            return Err(LineError::BareLf);
        }
        let max = if self.held.is_empty() {
            line_max(part)
        } else if self.held.len() >= 4 {
            line_max(&self.held)
        } else {
            line_max(&[&self.held, &part[..part.len().min(4)]].concat())
        };
        if self.held.len() + part.len() > max {
            let before = core::mem::take(&mut self.held);
            self.skipping = Some(Skipping {
                octets: before.len(),
                after_cr: before.last() == Some(&b'\r'),
            });
            return self.skip(part, end.is_some(), skip_max);
        }
        let Some(lf) = end else {
            self.held.extend_from_slice(part);
            return Ok((used, Line::NeedMore));
        };
        let line = if self.held.is_empty() {
            Cow::Borrowed(&input[..lf - 1])
        } else {
            let mut line = core::mem::take(&mut self.held);
            line.extend_from_slice(part);
            line.truncate(line.len() - 2);
            Cow::Owned(line)
        };
        Ok((used, Line::Whole(line)))
    }

    fn skip<'i>(
        &mut self,
        part: &[u8],
        ended: bool,
        skip_max: usize,
    ) -> Result<(usize, Line<'i>), LineError> {
        let Some(Skipping { octets, after_cr }) = self.skipping.take() else {
            return Ok((0, Line::NeedMore));
        };
        let octets = octets + part.len();
        if octets > skip_max {
            return Err(LineError::Endless);
        }
        let before_last = |back: usize| match part.len().checked_sub(back) {
            Some(at) => part[at] == b'\r',
            None => after_cr,
        };
        if ended {
            if !before_last(2) {
                return Err(LineError::BareLf);
            }
            return Ok((part.len(), Line::TooLong));
        }
        self.skipping = Some(Skipping {
            octets,
            after_cr: before_last(1),
        });
        Ok((part.len(), Line::NeedMore))
    }
}

/// The first LF. Most lines are so short that setting up a vector search would cost more than it saves.
#[inline]
fn find_lf(input: &[u8]) -> Option<usize> {
    const SHORT: usize = 64;
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGHS: u64 = ONES << 7;
    let (words, rest) = input[..input.len().min(SHORT)].as_chunks();
    let mut at = 0;
    for word in words {
        // An octet that is 0 borrows, so octets above the first that is may be taken for it wrongly.
        let zero_at_lf = u64::from_le_bytes(*word) ^ (ONES * b'\n' as u64);
        let found = zero_at_lf.wrapping_sub(ONES) & !zero_at_lf & HIGHS;
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    match input.len() {
        0..SHORT => rest.iter().position(|&octet| octet == b'\n'),
        _ => memchr::memchr(b'\n', &input[at..]),
    }
    .map(|lf| at + lf)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[derive(Debug, PartialEq, Eq)]
    enum Seen {
        Line(Vec<u8>),
        TooLong,
        Error(LineError),
    }

    /// Everything that comes out when the input comes in pieces of `size`.
    fn lines(input: &[u8], size: usize) -> Vec<Seen> {
        let mut reader = LineReader::new();
        let mut seen = Vec::new();
        for mut part in input.chunks(size) {
            loop {
                match reader.read(part, |_| 16, 64) {
                    Ok((used, line)) => {
                        part = &part[used..];
                        match line {
                            Line::Whole(line) => seen.push(Seen::Line(line.into_owned())),
                            Line::TooLong => seen.push(Seen::TooLong),
                            Line::NeedMore => break,
                        }
                    }
                    Err(error) => {
                        seen.push(Seen::Error(error));
                        return seen;
                    }
                }
            }
            assert!(part.is_empty());
        }
        seen
    }

    #[test]
    fn lines_are_the_same_for_every_piece_size() {
        let long = [&b"x".repeat(15)[..], b"\r\nQUIT\r\n"].concat();
        let endless = b"x".repeat(65);
        let line = |text: &str| Seen::Line(text.as_bytes().to_vec());
        let table = [
            (&b"NOOP\r\nQUIT\r\n"[..], vec![line("NOOP"), line("QUIT")]),
            (b"\r\n\r\n", vec![line(""), line("")]),
            (b"a\rb\r\r\n", vec![line("a\rb\r")]),
            (b"12345678901234\r\n", vec![line("12345678901234")]),
            (&long, vec![Seen::TooLong, line("QUIT")]),
            (b"NOOP\nQUIT\r\n", vec![Seen::Error(LineError::BareLf)]),
            (b"\n", vec![Seen::Error(LineError::BareLf)]),
            (
                b"12345678901234567890\n",
                vec![Seen::Error(LineError::BareLf)],
            ),
            (&endless, vec![Seen::Error(LineError::Endless)]),
        ];
        for (input, expected) in table {
            for size in 1..=input.len() {
                assert_eq!(lines(input, size), expected, "{input:?} by {size}");
            }
        }
    }

    #[test]
    fn a_whole_line_is_borrowed_and_a_held_one_is_given_away() {
        let mut reader = LineReader::new();
        let read = reader.read(b"NOOP\r\nQ", |_| 16, 64);
        assert!(matches!(read, Ok((6, Line::Whole(Cow::Borrowed(b"NOOP"))))));
        assert_eq!(reader.read(b"QU", |_| 16, 64), Ok((2, Line::NeedMore)));
        assert!(!reader.is_between_lines());
        let read = reader.read(b"IT\r\n", |_| 16, 64);
        assert!(matches!(read, Ok((4, Line::Whole(Cow::Owned(_))))));
        assert_eq!(reader.held.capacity(), 0);
    }
}
