//! The relaxed forms of RFC 6376: what of a field and of a body a signature covers.

use memchr::{memchr, memmem};
use sha2::{Digest, Sha256};

/// Appends a header field in its relaxed form, ended by CRLF: its name in small letters, its value in one
/// line, white space as one space and none at the ends. RFC 6376 §3.4.2.
pub(crate) fn relaxed_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend(name.trim_ascii_end().iter().map(u8::to_ascii_lowercase));
    out.push(b':');
    let start = out.len();
    let mut blank = false;
    for &octet in value {
        match octet {
            b' ' | b'\t' => blank = true,
            // Within a field these are folding only.
            b'\r' | b'\n' => {}
            _ => {
                if blank && out.len() > start {
                    out.push(b' ');
                }
                blank = false;
                out.push(octet);
            }
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// The hash of a body's relaxed form: white space as one space and none at the ends of lines, no empty
/// lines at the end. RFC 6376 §3.4.4.
///
/// What may turn out to be an end is only counted, so that any body is hashed in constant memory.
#[derive(Debug)]
pub(crate) struct BodyHash {
    hash: Sha256,
    /// How many octets were hashed.
    len: u64,
    /// Some octet that is neither white space nor a line end came.
    begun: bool,
    /// Line ends since then.
    line_ends: u64,
    /// White space since then, in this line.
    blank: bool,
    /// The last octet was a CR.
    cr: bool,
}

const MANY_LINE_ENDS: [u8; 512] = {
    let mut ends = [b'\r'; 512];
    let mut at = 1;
    while at < ends.len() {
        ends[at] = b'\n';
        at += 2;
    }
    ends
};

impl BodyHash {
    pub(crate) fn new() -> Self {
        Self {
            hash: Sha256::new(),
            len: 0,
            begun: false,
            line_ends: 0,
            blank: false,
            cr: false,
        }
    }

    /// Takes a piece of any size.
    pub(crate) fn push(&mut self, mut piece: &[u8]) {
        while let Some(&first) = piece.first() {
            if self.cr {
                self.cr = false;
                if first == b'\n' {
                    self.line_ends += 1;
                    self.blank = false;
                    piece = &piece[1..];
                    continue;
                }
                self.text(b"\r");
            }
            let end = memchr(b'\r', piece).unwrap_or(piece.len());
            self.line(&piece[..end]);
            self.cr = end < piece.len();
            piece = piece.get(end + 1..).unwrap_or_default();
        }
    }

    /// The body is complete.
    pub(super) fn finish(self) -> [u8; 32] {
        self.finish_counted().0
    }

    /// The body is complete: its hash, and how many octets its relaxed form has.
    pub(crate) fn finish_counted(mut self) -> ([u8; 32], u64) {
        if self.cr {
            self.text(b"\r");
        }
        // "If the body is non-empty but does not end with a CRLF, a CRLF is added."
        if self.begun {
            self.update(b"\r\n");
        }
        (self.hash.finalize().into(), self.len)
    }

    fn update(&mut self, octets: &[u8]) {
        self.hash.update(octets);
        self.len += octets.len() as u64;
    }

    /// A part of a line, without its end.
    fn line(&mut self, part: &[u8]) {
        let is_blank = |octet: &u8| matches!(octet, b' ' | b'\t');
        let Some(from) = part.iter().position(|octet| !is_blank(octet)) else {
            self.blank |= !part.is_empty();
            return;
        };
        self.blank |= from > 0;
        let to = part.len()
            - part
                .iter()
                .rev()
                .take_while(|octet| is_blank(octet))
                .count();
        let text = &part[from..to];
        // Most lines are as they should be.
        if memchr(b'\t', text).is_none() && memmem::find(text, b"  ").is_none() {
            self.text(text);
        } else {
            for word in text.split(is_blank) {
                if !word.is_empty() {
                    self.text(word);
                }
                self.blank = true;
            }
        }
        self.blank = to < part.len();
    }

    /// Octets that count, after all that did not count until they came.
    fn text(&mut self, octets: &[u8]) {
        while self.line_ends > 0 {
            let count = self.line_ends.min(MANY_LINE_ENDS.len() as u64 / 2);
            let len = usize::try_from(2 * count).unwrap_or(MANY_LINE_ENDS.len());
            self.update(&MANY_LINE_ENDS[..len]);
            self.line_ends -= count;
        }
        if self.blank {
            self.update(b" ");
            self.blank = false;
        }
        self.begun = true;
        self.update(octets);
    }
}
