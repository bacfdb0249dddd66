//! Reply codes: the three digits of RFC 5321 and the enhanced status code of RFC 3463.
//!
//! Implements RFC 5321 §4.2.1 (reply code severities) and RFC 3463 §2 (status code structure).

use core::fmt;
use core::num::NonZeroU16;
use core::str::FromStr;

/// A three-digit SMTP reply code, 200 to 599. RFC 5321 §4.2.
///
/// The second digit is not limited to 0–5: servers in use answer, for example, 571.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(NonZeroU16);

/// What the first digit of a reply says. RFC 5321 §4.2.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// 2yz: done.
    Success,
    /// 3yz: go on with the next part of this command.
    Intermediate,
    /// 4yz: not now; the same command may succeed later.
    Transient,
    /// 5yz: never, as it stands.
    Permanent,
}

impl Code {
    /// The code with this number, if it is one that SMTP can carry.
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        if number < 200 || number > 599 {
            return None;
        }
        match NonZeroU16::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// Reads exactly three ASCII digits.
    #[must_use]
    pub fn parse(digits: &[u8]) -> Option<Self> {
        let &[a, b, c] = digits else { return None };
        if ![a, b, c].iter().all(u8::is_ascii_digit) {
            return None;
        }
        Self::new(u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0'))
    }

    /// The number, 200 to 599.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0.get()
    }

    /// What the first digit says.
    #[must_use]
    pub const fn severity(self) -> Severity {
        match self.0.get() / 100 {
            2 => Severity::Success,
            3 => Severity::Intermediate,
            4 => Severity::Transient,
            _ => Severity::Permanent,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03}", self.0)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The first number of an enhanced status code. RFC 3463 §3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// `2.x.x`
    Success,
    /// `4.x.x`
    Transient,
    /// `5.x.x`
    Permanent,
}

impl Class {
    /// The digit on the wire: 2, 4 or 5.
    #[must_use]
    pub const fn digit(self) -> u8 {
        match self {
            Self::Success => 2,
            Self::Transient => 4,
            Self::Permanent => 5,
        }
    }

    /// Whether a reply of this severity may carry an enhanced code of this class. RFC 2034 §4.
    #[must_use]
    pub const fn fits(self, severity: Severity) -> bool {
        matches!(
            (self, severity),
            (Self::Success, Severity::Success)
                | (Self::Transient, Severity::Transient)
                | (Self::Permanent, Severity::Permanent)
        )
    }
}

/// An enhanced status code such as `5.1.1`. RFC 3463 §2.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnhancedCode {
    class: Class,
    subject: u16,
    detail: u16,
}

impl EnhancedCode {
    /// `class.subject.detail`; `None` if subject or detail has more than three digits.
    #[must_use]
    pub const fn new(class: Class, subject: u16, detail: u16) -> Option<Self> {
        if subject > 999 || detail > 999 {
            return None;
        }
        Some(Self {
            class,
            subject,
            detail,
        })
    }

    /// The same with numbers that are known when the program is built.
    ///
    /// # Panics
    /// If a number has more than three digits, which in a `const` fails the build.
    #[must_use]
    pub const fn constant(class: Class, subject: u16, detail: u16) -> Self {
        assert!(
            subject <= 999 && detail <= 999,
            "RFC 3463 §2: up to three digits"
        );
        Self {
            class,
            subject,
            detail,
        }
    }

    /// Success, transient or permanent.
    #[must_use]
    pub const fn class(self) -> Class {
        self.class
    }

    /// The second number: what the status is about (addressing, mailbox, system, …).
    #[must_use]
    pub const fn subject(self) -> u16 {
        self.subject
    }

    /// The third number.
    #[must_use]
    pub const fn detail(self) -> u16 {
        self.detail
    }

    /// Reads `class.subject.detail`, and nothing else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (class, rest) = text.split_at_checked(2)?;
        let class = match class {
            "2." => Class::Success,
            "4." => Class::Transient,
            "5." => Class::Permanent,
            _ => return None,
        };
        let dot = rest.bytes().position(|octet| octet == b'.')?;
        let (subject, detail) = (&rest[..dot], &rest[dot + 1..]);
        Self::new(class, three_digits(subject)?, three_digits(detail)?)
    }
}

/// One to three digits without a leading zero, as RFC 3463 §2 asks.
fn three_digits(text: &str) -> Option<u16> {
    let plain = (1..=3).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_digit())
        && (text.len() == 1 || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

impl FromStr for EnhancedCode {
    type Err = NotEnhancedCode;

    fn from_str(text: &str) -> Result<Self, NotEnhancedCode> {
        Self::parse(text).ok_or(NotEnhancedCode)
    }
}

/// The text is not an enhanced status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotEnhancedCode;

impl fmt::Display for NotEnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an enhanced status code, such as 5.1.1")
    }
}

impl core::error::Error for NotEnhancedCode {}

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class.digit(), self.subject, self.detail)
    }
}

impl fmt::Debug for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn codes_round_trip_and_know_their_severity() {
        for (text, severity) in [
            ("220", Severity::Success),
            ("354", Severity::Intermediate),
            ("421", Severity::Transient),
            ("571", Severity::Permanent),
        ] {
            let code = Code::parse(text.as_bytes()).unwrap();
            assert_eq!(
                (code.to_string().as_str(), code.severity()),
                (text, severity)
            );
        }
        for bad in ["", "25", "2500", "199", "600", "2 0", "-20", "25O"] {
            assert_eq!(Code::parse(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn enhanced_codes_round_trip() {
        for text in ["2.0.0", "4.7.1", "5.1.10", "5.999.999"] {
            assert_eq!(EnhancedCode::parse(text).unwrap().to_string(), text);
        }
        for bad in [
            "", "2.0", "3.0.0", "5.1.1.1", "5.1000.1", "5.01.1", "5..1", "5.1.1 ", "5.-1.1",
        ] {
            assert_eq!(EnhancedCode::parse(bad), None, "{bad:?}");
        }
    }
}
