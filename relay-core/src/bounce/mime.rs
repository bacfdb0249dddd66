//! The parts of a multipart, and text that is safe to put into them.
//!
//! RFC 2046 §5.1 (multipart), RFC 2045 §6 (encodings), RFC 5322 §2.2.3 (folding).

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::id::MessageId;

/// The longest line that is written, less its CRLF. RFC 5322 §2.1.1.
pub(super) const LINE_MAX: usize = 998;
/// Where lines are folded and wrapped. RFC 5322 §2.1.1.
const LINE_WISH: usize = 76;

/// One part: its own header fields and its encoded content, both ended by CRLF.
pub(super) struct Part {
    header: String,
    content: Vec<u8>,
}

/// How a part's content travels. RFC 2045 §6.1.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    /// As it is; the right name for it, `7bit` or `8bit`, is found.
    Identity,
    /// base64.
    Base64,
}

impl Part {
    /// A part of a content type, described for people.
    pub(super) fn new(kind: &str, description: &str, encoding: Encoding, content: &[u8]) -> Self {
        let (name, mut content) = match encoding {
            Encoding::Identity if content.is_ascii() => ("7bit", content.to_vec()),
            Encoding::Identity => ("8bit", content.to_vec()),
            Encoding::Base64 => ("base64", base64_lines(content)),
        };
        if !content.ends_with(b"\r\n") {
            content.extend_from_slice(b"\r\n");
        }
        let header = format!(
            "Content-Type: {kind}\r\n\
             Content-Description: {description}\r\n\
             Content-Transfer-Encoding: {name}\r\n"
        );
        Self { header, content }
    }

    /// Octets, about.
    pub(super) fn len(&self) -> usize {
        self.header.len() + self.content.len()
    }
}

fn base64_lines(content: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(content.len() * 7 / 5 + 80);
    for chunk in content.chunks(57) {
        lines.extend_from_slice(STANDARD.encode(chunk).as_bytes());
        lines.extend_from_slice(b"\r\n");
    }
    lines
}

/// A boundary that is in none of the parts, whatever they hold.
pub(super) fn boundary(id: MessageId, parts: &[Part]) -> String {
    let mut boundary = format!("=_{id}");
    let mut count = 0u32;
    let inside = |boundary: &str| {
        let finder = memchr::memmem::Finder::new(boundary);
        parts
            .iter()
            .any(|part| finder.find(&part.content).is_some())
    };
    // Each turn rules out one text that somebody would have had to write into the original.
    while inside(&boundary) {
        count += 1;
        boundary = format!("=_{id}_{count}");
    }
    boundary
}

/// Writes a multipart's content.
pub(super) fn write_parts(out: &mut Vec<u8>, boundary: &str, parts: &[Part]) {
    for part in parts {
        out.extend_from_slice(format!("--{boundary}\r\n{}\r\n", part.header).as_bytes());
        out.extend_from_slice(&part.content);
        // The CRLF before a delimiter belongs to it; the content keeps its own. RFC 2046 §5.1.1.
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
}

/// Text of a peer as printable ASCII in one line of at most `max` octets. Whatever acts in a header, a
/// terminal or a page is gone: controls, line ends, octets above 127.
pub(super) fn clean(text: &str, max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(max));
    for c in text.chars() {
        if out.len() == max {
            break;
        }
        match c {
            ' '..='~' => out.push(c),
            c if c.is_ascii() => out.push(' '),
            _ => out.push('?'),
        }
    }
    let end = out.trim_end().len();
    out.truncate(end);
    out.trim_start().to_owned()
}

/// Appends a header field, folded at spaces where it is long.
pub(super) fn field(out: &mut String, name: &str, value: &str) {
    let _ = write!(out, "{name}:");
    let mut column = name.len() + 1;
    for word in value.split(' ').filter(|word| !word.is_empty()) {
        // The first word stays: a line of nothing but a name is read badly. RFC 5322 §3.2.2.
        if column > name.len() + 1 && column + 1 + word.len() > LINE_WISH {
            out.push_str("\r\n");
            column = 0;
        }
        let _ = write!(out, " {word}");
        column += 1 + word.len();
    }
    out.push_str("\r\n");
}

/// Appends a header field as it is, for values whose spaces count; one that no line holds is left out.
pub(super) fn exact_field(out: &mut String, name: &str, value: &str) {
    if name.len() + ": ".len() + value.len() <= LINE_MAX {
        let _ = write!(out, "{name}: {value}\r\n");
    }
}

/// Appends text wrapped at spaces, each line indented.
pub(super) fn paragraph(out: &mut String, indent: usize, text: &str) {
    let mut column = 0;
    for word in text.split_whitespace() {
        let width = word.chars().count();
        if column > 0 && column + 1 + width > LINE_WISH {
            out.push_str("\r\n");
            column = 0;
        }
        if column == 0 {
            let _ = write!(out, "{:indent$}{word}", "");
            column = indent + width;
        } else {
            let _ = write!(out, " {word}");
            column += 1 + width;
        }
    }
    out.push_str("\r\n");
}
