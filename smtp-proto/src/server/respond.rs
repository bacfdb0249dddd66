//! Replies as octets: folded, and printable whatever the text.
//!
//! Implements RFC 5321 §4.2 (reply lines) and RFC 2034 §4 (enhanced codes in each of them).

use alloc::vec::Vec;

use super::Rejection;
use crate::code::{Class, EnhancedCode};
use crate::limits::REPLY_LINE_MAX;

/// Room for text in a line: less `250-`, `5.999.999 ` and CRLF.
const TEXT_MAX: usize = REPLY_LINE_MAX - 16;

/// Appends `code 2.subject.detail text`.
pub(super) fn success(code: u16, subject: u16, detail: u16, text: &str, wire: &mut Vec<u8>) {
    let enhanced = EnhancedCode::constant(Class::Success, subject, detail);
    write(code, Some(enhanced), text, wire);
}

/// Appends a refusal.
pub(super) fn rejection(why: Rejection, text: &str, wire: &mut Vec<u8>) {
    write(why.code().number(), Some(why.enhanced()), text, wire);
}

/// Appends a reply without enhanced code: 220, EHLO's 250, 334, 354. RFC 2034 §4.
pub(super) fn plain(code: u16, text: &str, wire: &mut Vec<u8>) {
    write(code, None, text, wire);
}

fn write(code: u16, enhanced: Option<EnhancedCode>, text: &str, wire: &mut Vec<u8>) {
    let mut lines = text.trim_end().split('\n').flat_map(fold).peekable();
    while let Some(line) = lines.next() {
        wire.reserve(line.len() + 18);
        push_number(code, wire);
        wire.push(if lines.peek().is_some() { b'-' } else { b' ' });
        if let Some(enhanced) = enhanced {
            wire.push(b'0' + enhanced.class().digit());
            wire.push(b'.');
            push_number(enhanced.subject(), wire);
            wire.push(b'.');
            push_number(enhanced.detail(), wire);
            wire.push(b' ');
        }
        if line.bytes().all(|octet| matches!(octet, b' '..=b'~')) {
            wire.extend_from_slice(line.as_bytes());
        } else {
            let printable = |c: char| match u8::try_from(c) {
                Ok(octet @ b' '..=b'~') => octet,
                Ok(_) | Err(_) => b'?',
            };
            wire.extend(line.chars().map(printable));
        }
        wire.extend_from_slice(b"\r\n");
    }
}

/// Appends a number below 1000 without leading zeros: each reply has three, and the formatting of
/// the standard library would be most of its cost.
fn push_number(number: u16, wire: &mut Vec<u8>) {
    debug_assert!(number < 1000, "a reply code, or a part of an enhanced code");
    let digits = [number / 100, number / 10 % 10, number % 10].map(|digit| b'0' + digit as u8);
    let zeros = usize::from(number < 100) + usize::from(number < 10);
    wire.extend_from_slice(&digits[zeros..]);
}

/// Cuts a line that is too long, at a space where there is one.
fn fold(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(line.trim_end_matches('\r'));
    core::iter::from_fn(move || {
        let line = rest.take()?;
        if line.len() <= TEXT_MAX {
            return Some(line);
        }
        let most = line.floor_char_boundary(TEXT_MAX);
        let cut = line[..most]
            .rfind(' ')
            .filter(|&cut| cut > 0)
            .unwrap_or(most);
        rest = Some(line[cut..].trim_start());
        Some(&line[..cut])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;

    fn written(text: &str) -> String {
        let mut wire = Vec::new();
        rejection(Rejection::POLICY, text, &mut wire);
        String::from_utf8(wire).unwrap()
    }

    #[test]
    fn every_line_has_the_codes() {
        assert_eq!(written("no"), "550 5.7.1 no\r\n");
        assert_eq!(written(""), "550 5.7.1 \r\n");
        assert_eq!(
            written("no\r\nnever\n"),
            "550-5.7.1 no\r\n550 5.7.1 never\r\n"
        );
    }

    #[test]
    fn nothing_but_printable_ascii_is_written() {
        assert_eq!(written("a\0b\rc\u{1b}[1mé"), "550 5.7.1 a?b?c?[1m?\r\n");
    }

    #[test]
    fn long_lines_are_folded() {
        for text in ["word ".repeat(400), "x".repeat(2000), "é".repeat(1000)] {
            let reply = written(&text);
            assert!(
                reply
                    .split_inclusive("\r\n")
                    .all(|line| line.len() <= REPLY_LINE_MAX)
            );
            assert!(reply.lines().count() >= 3);
            assert_eq!(
                reply
                    .lines()
                    .filter(|line| line.starts_with("550 "))
                    .count(),
                1
            );
        }
    }
}
