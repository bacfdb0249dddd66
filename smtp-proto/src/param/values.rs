//! The values of the parameters that are not about reports.
//!
//! Implements RFC 6152 and 3030 (BODY), 4954 §5 (AUTH), 4865 §3 (HOLDFOR, HOLDUNTIL), 2852 §4 (BY)
//! and 6710 §3 (MT-PRIORITY).

use alloc::string::ToString;
use core::fmt;
use core::num::NonZeroU32;

use super::number;
use crate::address::Mailbox;
use crate::extension::{Extension, Extensions};
use crate::time_text;
use crate::xtext;

/// What the octets of a body may be. RFC 6152, RFC 3030.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BodyType {
    /// `7BIT`: lines of ASCII.
    SevenBit,
    /// `8BITMIME`: lines of octets.
    EightBitMime,
    /// `BINARYMIME`: octets without lines; by BDAT only.
    BinaryMime,
}

impl BodyType {
    pub(super) const ALL: [Self; 3] = [Self::SevenBit, Self::EightBitMime, Self::BinaryMime];

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SevenBit => "7BIT",
            Self::EightBitMime => "8BITMIME",
            Self::BinaryMime => "BINARYMIME",
        }
    }

    pub(super) const fn offered(self, offered: Extensions) -> bool {
        match self {
            Self::SevenBit => true,
            Self::EightBitMime => offered.has(Extension::EightBitMime),
            Self::BinaryMime => offered.has(Extension::BinaryMime),
        }
    }
}

/// Who submitted the message, as far as the sender vouches for it. RFC 4954 §5.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AuthParam {
    /// `<>`: not known, or not to be trusted.
    Unknown,
    /// The submitter.
    Mailbox(Mailbox),
}

impl AuthParam {
    /// From its wire form, xtext or `<>`.
    #[must_use]
    pub fn parse(wire: &str) -> Option<Self> {
        if wire == "<>" {
            return Some(Self::Unknown);
        }
        Mailbox::parse_utf8(&xtext::decode(wire, true)?)
            .ok()
            .map(Self::Mailbox)
    }
}

impl fmt::Display for AuthParam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("<>"),
            Self::Mailbox(mailbox) => xtext::Encoded(&mailbox.to_string()).fmt(f),
        }
    }
}

/// When to send the message on at the earliest. RFC 4865 §3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hold {
    /// `HOLDFOR`: seconds from now, up to nine digits.
    For(NonZeroU32),
    /// `HOLDUNTIL`: seconds since 1970-01-01T00:00:00Z, in the years 1970 to 9999.
    Until(u64),
}

impl Hold {
    pub(super) fn parse_for(wire: &[u8]) -> Option<Self> {
        number(wire, 9)
            .and_then(|n| u32::try_from(n).ok())
            .and_then(NonZeroU32::new)
            .map(Self::For)
    }

    pub(super) fn parse_until(wire: &str) -> Option<Self> {
        time_text::parse(wire).map(Self::Until)
    }
}

/// When to give up. RFC 2852 §4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliverBy {
    seconds: i32,
    mode: ByMode,
    trace: bool,
}

/// What happens when the deadline of [`DeliverBy`] passes. RFC 2852 §4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ByMode {
    /// `N`: send a report, and go on trying.
    Notify,
    /// `R`: return the message.
    Return,
}

impl DeliverBy {
    /// `None` for more than nine digits, and for a return at or before now. RFC 2852 §4.
    #[must_use]
    pub fn new(seconds: i32, mode: ByMode) -> Option<Self> {
        let fits = seconds.unsigned_abs() <= 999_999_999 && (mode == ByMode::Notify || seconds > 0);
        fits.then_some(Self {
            seconds,
            mode,
            trace: false,
        })
    }

    /// The same, and relays that cannot pass it on report so. RFC 2852 §4.
    #[must_use]
    pub const fn with_trace(self) -> Self {
        Self {
            trace: true,
            ..self
        }
    }

    /// From its wire form, such as `120;R` or `-5;NT`.
    #[must_use]
    pub fn parse(wire: &str) -> Option<Self> {
        let (time, mode) = wire.split_once(';')?;
        let (digits, sign) = match time.strip_prefix('-') {
            Some(digits) => (digits, -1),
            None => (time.strip_prefix('+').unwrap_or(time), 1),
        };
        let seconds = sign * i32::try_from(number(digits.as_bytes(), 9)?).ok()?;
        let (mode, trace) = match mode.as_bytes() {
            [mode] => (mode, false),
            [mode, b'T' | b't'] => (mode, true),
            _ => return None,
        };
        let mode = match mode {
            b'N' | b'n' => ByMode::Notify,
            b'R' | b'r' => ByMode::Return,
            _ => return None,
        };
        let by = Self::new(seconds, mode)?;
        Some(if trace { by.with_trace() } else { by })
    }

    /// Seconds from now; with [`ByMode::Notify`] they may have passed.
    #[must_use]
    pub const fn seconds(self) -> i32 {
        self.seconds
    }

    /// What happens then.
    #[must_use]
    pub const fn mode(self) -> ByMode {
        self.mode
    }

    /// Whether relays that cannot pass it on report so.
    #[must_use]
    pub const fn trace(self) -> bool {
        self.trace
    }
}

impl fmt::Display for DeliverBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.mode {
            ByMode::Notify => 'N',
            ByMode::Return => 'R',
        };
        write!(
            f,
            "{};{mode}{}",
            self.seconds,
            if self.trace { "T" } else { "" }
        )
    }
}

/// How urgent the message is, -9 to 9; 0 is normal. RFC 6710 §3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(pub(super) i8);

impl Priority {
    /// `None` outside -9 to 9.
    #[must_use]
    pub const fn new(level: i8) -> Option<Self> {
        if level < -9 || level > 9 {
            None
        } else {
            Some(Self(level))
        }
    }

    /// The level, -9 to 9.
    #[must_use]
    pub const fn level(self) -> i8 {
        self.0
    }

    /// RFC 6710 §7: `priority-value = (["-"] NZDIGIT) / "0"`.
    pub(super) fn parse(wire: &str) -> Option<Self> {
        let digits = wire.strip_prefix('-').unwrap_or(wire);
        let plain = digits.len() == 1 && digits.bytes().all(|b| b.is_ascii_digit()) && wire != "-0";
        if plain {
            wire.parse().ok().and_then(Self::new)
        } else {
            None
        }
    }
}
