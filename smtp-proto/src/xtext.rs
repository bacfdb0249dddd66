//! xtext: how a parameter carries characters that it could not hold as they are.
//!
//! Implements RFC 3461 §4 (`xtext`), and RFC 6533 §3 as far as UTF-8 stands in it unencoded.

use alloc::string::String;
use core::fmt::{self, Write as _};

/// Decodes xtext. The result holds no control character: it goes into headers of reports.
pub(crate) fn decode(text: &str, non_ascii: bool) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '+' => {
                let byte = hex(chars.next()?)? << 4 | hex(chars.next()?)?;
                if !(0x20..0x7f).contains(&byte) {
                    return None;
                }
                out.push(char::from(byte));
            }
            '=' => return None,
            '!'..='~' => out.push(c),
            c if non_ascii && !c.is_ascii() && !c.is_control() => out.push(c),
            _ => return None,
        }
    }
    Some(out)
}

/// RFC 3461 §4: "hexchar = ASCII "+" immediately followed by two upper case hexadecimal digits".
fn hex(c: char) -> Option<u8> {
    match c {
        '0'..='9' => Some(c as u8 - b'0'),
        'A'..='F' => Some(c as u8 - b'A' + 10),
        _ => None,
    }
}

/// Displays a text as xtext.
pub(crate) struct Encoded<'a>(pub(crate) &'a str);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '+' | '=' | ' ' => write!(f, "+{:02X}", c as u32)?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn round_trips() {
        for text in ["", "plain", "a+b=c d", "~!", "+2B"] {
            assert_eq!(
                decode(&Encoded(text).to_string(), false).as_deref(),
                Some(text)
            );
        }
        assert_eq!(Encoded("a+b").to_string(), "a+2Bb");
        assert_eq!(decode("ü", true).as_deref(), Some("ü"));
    }

    #[test]
    fn what_is_not_xtext_is_refused() {
        for text in [
            "+", "+2", "+2b", "+00", "+0D", "+7F", "+C3+BC", "a=b", "a b", "\u{1}", "ü",
        ] {
            assert_eq!(decode(text, false), None, "{text:?}");
        }
    }
}
