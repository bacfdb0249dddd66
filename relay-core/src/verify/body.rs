//! The hashes of a body that signatures may name, made while it passes.

use sha2::{Digest as _, Sha256};

use super::header::Form;
use crate::sign::canonical::BodyHash;

/// The hashes that are wanted: none is made in vain.
#[derive(Debug, Default)]
pub(super) struct Bodies {
    simple: Option<SimpleHash>,
    relaxed: Option<BodyHash>,
}

/// What a body hashed to.
#[derive(Debug, Default)]
pub(super) struct Hashes {
    simple: Option<Hashed>,
    relaxed: Option<Hashed>,
}

/// The hash of a body's canonical form, and how many octets that has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hashed {
    pub(super) hash: [u8; 32],
    pub(super) len: u64,
}

impl Bodies {
    /// Asks for the hash of this form, before the first octet.
    pub(super) fn want(&mut self, form: Form) {
        match form {
            Form::Simple => drop(self.simple.get_or_insert_default()),
            Form::Relaxed => drop(self.relaxed.get_or_insert_with(BodyHash::new)),
        }
    }

    /// Takes a piece of any size.
    pub(super) fn push(&mut self, piece: &[u8]) {
        if let Some(simple) = &mut self.simple {
            simple.push(piece);
        }
        if let Some(relaxed) = &mut self.relaxed {
            relaxed.push(piece);
        }
    }

    /// The body is complete.
    pub(super) fn finish(self) -> Hashes {
        Hashes {
            simple: self.simple.map(SimpleHash::finish),
            relaxed: self.relaxed.map(|relaxed| {
                let (hash, len) = relaxed.finish_counted();
                Hashed { hash, len }
            }),
        }
    }
}

impl Hashes {
    pub(super) fn of(&self, form: Form) -> Option<Hashed> {
        match form {
            Form::Simple => self.simple,
            Form::Relaxed => self.relaxed,
        }
    }
}

/// The simple form: empty lines at the end are one line end. RFC 6376 §3.4.3.
#[derive(Debug, Default)]
struct SimpleHash {
    hash: Sha256,
    len: u64,
    /// CRLFs that may be the end.
    line_ends: u64,
    /// The last octet was a CR.
    cr: bool,
}

impl SimpleHash {
    fn push(&mut self, mut piece: &[u8]) {
        while let Some(&first) = piece.first() {
            if self.cr {
                self.cr = false;
                if first == b'\n' {
                    self.line_ends += 1;
                    piece = &piece[1..];
                    continue;
                }
                self.text(b"\r");
            }
            let end = memchr::memchr(b'\r', piece).unwrap_or(piece.len());
            if end > 0 {
                self.text(&piece[..end]);
            }
            self.cr = end < piece.len();
            piece = piece.get(end + 1..).unwrap_or_default();
        }
    }

    fn text(&mut self, octets: &[u8]) {
        for _ in 0..std::mem::take(&mut self.line_ends) {
            self.update(b"\r\n");
        }
        self.update(octets);
    }

    fn update(&mut self, octets: &[u8]) {
        self.hash.update(octets);
        self.len += octets.len() as u64;
    }

    /// "If there is no body or no trailing CRLF on the message body, a CRLF is added."
    fn finish(mut self) -> Hashed {
        if self.cr {
            self.text(b"\r");
        }
        self.update(b"\r\n");
        Hashed {
            hash: self.hash.finalize().into(),
            len: self.len,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn simple(pieces: &[&[u8]]) -> Hashed {
        let mut bodies = Bodies::default();
        bodies.want(Form::Simple);
        for piece in pieces {
            bodies.push(piece);
        }
        bodies.finish().of(Form::Simple).unwrap()
    }

    #[test]
    fn the_simple_form_of_any_chunking() {
        for (body, canonical) in [
            (&b""[..], &b"\r\n"[..]),
            (b"\r\n\r\n", b"\r\n"),
            (b"a", b"a\r\n"),
            (b"a \r\n\r\n", b"a \r\n"),
            (b"\r\na\r\n\r\nb\r\n\r\n\r\n", b"\r\na\r\n\r\nb\r\n"),
            (b"a\r\rb", b"a\r\rb\r\n"),
            (b"a\n\r", b"a\n\r\r\n"),
        ] {
            let hash: [u8; 32] = Sha256::digest(canonical).into();
            let wanted = Hashed {
                hash,
                len: canonical.len() as u64,
            };
            assert_eq!(simple(&[body]), wanted, "{body:?}");
            for at in 0..body.len() {
                let (a, b) = body.split_at(at);
                assert_eq!(simple(&[a, b]), wanted, "{body:?} at {at}");
            }
        }
    }
}
