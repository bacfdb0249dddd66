//! The last part: the original, or its headers.
//!
//! RFC 3461 §4.3 (RET), RFC 6522 §4 (text/rfc822-headers), RFC 6532 §3.7 and RFC 6533 §4.2, §4.3
//! (message/global and message/global-headers, which any encoding may carry).

use smtp_proto::Ret;

use super::mime::{Encoding, LINE_MAX, Part};
use super::{Action, RETURN_SIZE_MAX, Told};
use crate::queue::handling::TlsWish;
use crate::queue::message::{BodyKind, Message};

/// The most of a header block that is returned, in octets.
const HEADERS_MAX: usize = 16 * 1024;

/// How many octets of the original's start a report may use.
#[must_use]
pub fn original_len(original: &Message) -> usize {
    let whole = usize::try_from(original.size).unwrap_or(usize::MAX);
    if is_asked_for(original) && whole <= RETURN_SIZE_MAX {
        return whole;
    }
    headers_len(original).min(HEADERS_MAX)
}

/// RET=FULL. RFC 8689 §5: of a message with REQUIRETLS only the headers go back, whatever was asked.
fn is_asked_for(original: &Message) -> bool {
    let envelope = &original.envelope;
    envelope.ret == Some(Ret::Full) && envelope.handling.tls != TlsWish::Required
}

fn headers_len(original: &Message) -> usize {
    usize::try_from(original.header_size).unwrap_or(usize::MAX)
}

pub(super) fn part(original: &Message, told: &[Told<'_>], bytes: &[u8], room: usize) -> Part {
    match whole(original, told, bytes, room) {
        Some(part) => part,
        None => headers(original, bytes),
    }
}

/// The whole message, where the sender asked for it and it fits. RFC 3461 §4.3: RET is about failures.
fn whole(original: &Message, told: &[Told<'_>], bytes: &[u8], room: usize) -> Option<Part> {
    let failed = told.iter().any(|told| told.report.action == Action::Failed);
    let asked = is_asked_for(original);
    let size = usize::try_from(original.size).ok()?;
    let bytes = bytes.get(..size)?;
    // What is no text of lines would need BINARYMIME all the way back.
    let lines = original.envelope.body != BodyKind::Binary && is_lines(bytes);
    if !(failed && asked && lines) {
        return None;
    }
    let head = &bytes[..headers_len(original).min(size)];
    let part = if head.is_ascii() {
        Part::new(
            "message/rfc822",
            "Undelivered message",
            Encoding::Identity,
            bytes,
        )
    } else if std::str::from_utf8(head).is_ok() {
        Part::new(
            "message/global",
            "Undelivered message",
            Encoding::Base64,
            bytes,
        )
    } else {
        return None;
    };
    (part.len() <= room).then_some(part)
}

/// CRLF alone ends lines, none is too long, and there is no NUL.
fn is_lines(bytes: &[u8]) -> bool {
    bytes.split_inclusive(|&b| b == b'\n').all(|line| {
        let text = line.strip_suffix(b"\r\n").unwrap_or(line);
        text.len() <= LINE_MAX && !text.iter().any(|b| matches!(b, b'\r' | b'\n' | 0))
    })
}

fn headers(original: &Message, bytes: &[u8]) -> Part {
    let head = &bytes[..headers_len(original).min(bytes.len()).min(HEADERS_MAX)];
    // What was cut off ends at a line.
    let head = &head[..memchr::memrchr(b'\n', head).map_or(0, |at| at + 1)];
    let mut text = Vec::with_capacity(head.len());
    let utf8 = !head.is_ascii() && std::str::from_utf8(head).is_ok();
    for line in head.split_inclusive(|&b| b == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            break;
        }
        text.extend(safe_line(line, utf8));
        text.extend_from_slice(b"\r\n");
    }
    if utf8 {
        Part::new(
            "message/global-headers",
            "Message headers",
            Encoding::Base64,
            &text,
        )
    } else {
        Part::new(
            "text/rfc822-headers",
            "Message headers",
            Encoding::Identity,
            &text,
        )
    }
}

/// A header line without what a line cannot hold; octets of no known character set become `?`.
fn safe_line(line: &[u8], utf8: bool) -> impl Iterator<Item = u8> + '_ {
    let max = if utf8 { line.len() } else { LINE_MAX };
    line.iter().take(max).map(move |&b| match b {
        0 | b'\r' => b' ',
        b if b.is_ascii() || utf8 => b,
        _ => b'?',
    })
}
