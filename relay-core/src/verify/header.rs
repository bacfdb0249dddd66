//! A header block as it came, and the forms of its fields that signatures cover.
//!
//! RFC 6376 §3.4.1 and §3.4.2 (canonical forms), §5.4.2 (which field a name in `h=` means), §3.7.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::inbound::body::raw_fields;
use crate::sign::canonical::relaxed_field;

/// A header block and where its fields are.
#[derive(Debug, Default)]
pub(super) struct Header {
    block: Vec<u8>,
    fields: Vec<Field>,
    /// The fields of each name (in small letters), the first first.
    by_name: BTreeMap<Vec<u8>, Vec<usize>>,
}

#[derive(Debug)]
struct Field {
    /// All of it, with the CRLF at its end.
    all: Range<usize>,
    /// The length of its name, without white space behind it.
    name: usize,
    /// From behind the colon on.
    value: usize,
}

/// A canonical form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Simple,
    Relaxed,
}

impl Header {
    /// Takes a block of lines that end in CRLF, an empty one last or none.
    pub(super) fn new(block: Vec<u8>) -> Self {
        let mut fields = Vec::new();
        let mut by_name: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
        let mut at = 0;
        for raw in raw_fields(&block) {
            let all = at..at + raw.len();
            at = all.end;
            let Some(colon) = memchr::memchr(b':', raw) else {
                continue;
            };
            let name = raw[..colon].trim_ascii_end();
            by_name
                .entry(name.to_ascii_lowercase())
                .or_default()
                .push(fields.len());
            fields.push(Field {
                name: name.len(),
                value: all.start + colon + 1,
                all,
            });
        }
        Self {
            block,
            fields,
            by_name,
        }
    }

    /// The fields of a name, which is in small letters, the first first.
    pub(super) fn named(&self, name: &str) -> &[usize] {
        self.by_name.get(name.as_bytes()).map_or(&[], Vec::as_slice)
    }

    /// The value of a field, from behind its colon to its CRLF.
    pub(super) fn value(&self, field: usize) -> &[u8] {
        self.fields
            .get(field)
            .map_or(&[], |field| &self.block[field.value..field.all.end])
    }

    /// Appends a field in its canonical form, with CRLF at its end.
    pub(super) fn canonical(&self, field: usize, form: Form, out: &mut Vec<u8>) {
        let Some(field) = self.fields.get(field) else {
            return;
        };
        match form {
            Form::Simple => out.extend_from_slice(&self.block[field.all.clone()]),
            Form::Relaxed => relaxed_field(
                out,
                &self.block[field.all.start..field.all.start + field.name],
                &self.block[field.value..field.all.end],
            ),
        }
    }

    /// Appends the fields that `h=` lists: of several with one name the last comes first, and a name
    /// without a field left stands for nothing.
    pub(super) fn selected(&self, names: &[String], form: Form, out: &mut Vec<u8>) {
        let mut used: BTreeMap<&str, usize> = BTreeMap::new();
        for name in names {
            let used = used.entry(name).or_default();
            let fields = self.named(name);
            if let Some(at) = fields.len().checked_sub(*used + 1) {
                *used += 1;
                self.canonical(fields[at], form, out);
            }
        }
    }

    /// Appends the canonical form of the signature's own field: without what is in its `b=`, and
    /// without CRLF at its end.
    pub(super) fn unsigned(&self, field: usize, form: Form, out: &mut Vec<u8>) {
        let Some(place) = self.fields.get(field) else {
            return;
        };
        let value = self.value(field);
        let signature = signature_range(value).unwrap_or(0..0);
        let mut without = value[..signature.start].to_vec();
        without.extend_from_slice(&value[signature.end..]);
        match form {
            Form::Simple => {
                out.extend_from_slice(&self.block[place.all.start..place.value]);
                out.extend_from_slice(&without);
            }
            Form::Relaxed => {
                let name = place.all.start..place.all.start + place.name;
                relaxed_field(out, &self.block[name], &without);
            }
        }
        if out.ends_with(b"\r\n") {
            out.truncate(out.len() - 2);
        }
    }
}

/// Where the value of the tag `b` is: from behind its `=` to the `;` or the end of the field's text.
fn signature_range(value: &[u8]) -> Option<Range<usize>> {
    let end = value.strip_suffix(b"\r\n").unwrap_or(value).len();
    let mut at = 0;
    for tag in value[..end].split(|&b| b == b';') {
        if let Some(equals) = memchr::memchr(b'=', tag)
            && tag[..equals].trim_ascii() == b"b"
        {
            return Some(at + equals + 1..at + tag.len());
        }
        at += tag.len() + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_count_from_the_bottom() {
        let header = Header::new(b"A: 1\r\nB : 2\r\n a\r\nA:3\r\n\r\n".to_vec());
        let mut out = Vec::new();
        let names = ["a", "a", "a", "b", "c"].map(str::to_owned);
        header.selected(&names, Form::Simple, &mut out);
        assert_eq!(out, b"A:3\r\nA: 1\r\nB : 2\r\n a\r\n");
        out.clear();
        header.selected(&names, Form::Relaxed, &mut out);
        assert_eq!(out, b"a:3\r\na:1\r\nb:2 a\r\n");
    }

    #[test]
    fn only_the_value_of_b_is_left_out() {
        let header = Header::new(b"DKIM-Signature: v=1; bh=abc; b=x\r\n y; z=2\r\n\r\n".to_vec());
        let mut out = Vec::new();
        header.unsigned(0, Form::Relaxed, &mut out);
        assert_eq!(out, b"dkim-signature:v=1; bh=abc; b=; z=2");
        out.clear();
        header.unsigned(0, Form::Simple, &mut out);
        assert_eq!(out, b"DKIM-Signature: v=1; bh=abc; b=; z=2");
    }
}
