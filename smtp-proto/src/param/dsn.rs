//! The values of the parameters that say what to report, and how. RFC 3461 §4.

use core::fmt;

use smol_str::SmolStr;

use crate::xtext;

/// How much of the message a failure report returns. RFC 3461 §4.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ret {
    /// The whole message.
    Full,
    /// Its headers.
    Headers,
}

impl Ret {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "FULL",
            Self::Headers => "HDRS",
        }
    }
}

/// The sender's own name for the envelope, which reports give back. RFC 3461 §4.4.
///
/// Decoded: printable ASCII and spaces, 1 to 100 characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnvId(SmolStr);

impl EnvId {
    /// From the text itself; `None` if an ENVID cannot carry it.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let fits =
            (1..=100).contains(&text.len()) && text.bytes().all(|b| (0x20..0x7f).contains(&b));
        fits.then(|| Self(text.into()))
    }

    /// From its wire form, xtext.
    #[must_use]
    pub fn parse(wire: &str) -> Option<Self> {
        Self::new(&xtext::decode(wire, false)?)
    }

    /// Decoded.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Writes xtext.
impl fmt::Display for EnvId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        xtext::Encoded(&self.0).fmt(f)
    }
}

/// When to report on a recipient. RFC 3461 §4.1.
///
/// The default is what holds when NOTIFY is absent: the server's choice, usually failures.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Notify(u8);

/// An occasion to report. RFC 3461 §4.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Occasion {
    /// `SUCCESS`: it was delivered.
    Success = 1,
    /// `FAILURE`: it was not, and will not be.
    Failure = 2,
    /// `DELAY`: not yet.
    Delay = 4,
}

impl Occasion {
    const ALL: [Self; 3] = [Self::Success, Self::Failure, Self::Delay];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "SUCCESS",
            Self::Failure => "FAILURE",
            Self::Delay => "DELAY",
        }
    }
}

impl Notify {
    /// NOTIFY was not said.
    pub const UNSAID: Self = Self(0);
    /// `NEVER`
    pub const NEVER: Self = Self(8);

    /// Exactly on these occasions. Of none, it is [`Self::UNSAID`].
    #[must_use]
    pub fn on(occasions: &[Occasion]) -> Self {
        Self(occasions.iter().fold(0, |bits, &o| bits | o as u8))
    }

    /// Whether it was asked for by name. Neither NEVER nor silence asks.
    #[must_use]
    pub const fn asks(self, occasion: Occasion) -> bool {
        self.0 & occasion as u8 != 0
    }

    /// Whether to report a failure: when it was asked for, and when nothing was said.
    #[must_use]
    pub const fn reports_failure(self) -> bool {
        self.0 == 0 || self.asks(Occasion::Failure)
    }

    /// From its wire form. NEVER stands alone. RFC 3461 §4.1.
    #[must_use]
    pub fn parse(wire: &str) -> Option<Self> {
        if wire.eq_ignore_ascii_case("NEVER") {
            return Some(Self::NEVER);
        }
        wire.split(',').try_fold(Self::UNSAID, |notify, word| {
            let occasion = Occasion::ALL
                .into_iter()
                .find(|o| o.as_str().eq_ignore_ascii_case(word))?;
            Some(Self(notify.0 | occasion as u8))
        })
    }
}

/// Writes nothing for [`Notify::UNSAID`].
impl fmt::Display for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::NEVER {
            return f.write_str("NEVER");
        }
        let mut comma = "";
        for occasion in Occasion::ALL.into_iter().filter(|&o| self.asks(o)) {
            write!(f, "{comma}{}", occasion.as_str())?;
            comma = ",";
        }
        Ok(())
    }
}

impl fmt::Debug for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::UNSAID {
            f.write_str("UNSAID")
        } else {
            fmt::Display::fmt(self, f)
        }
    }
}

/// The recipient as the sender first wrote it, which reports give back. RFC 3461 §4.2.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Orcpt {
    /// `type;address`, decoded.
    text: SmolStr,
    semicolon: u8,
}

impl Orcpt {
    /// From its two parts, the address not encoded; `None` if an ORCPT cannot carry them.
    #[must_use]
    pub fn new(addr_type: &str, address: &str) -> Option<Self> {
        let atom = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        let typed = (1..=40).contains(&addr_type.len()) && addr_type.bytes().all(atom);
        let utf8 = addr_type.eq_ignore_ascii_case("utf-8");
        let allowed = |c: char| !c.is_control() && (c.is_ascii() || utf8);
        let fits = typed && (1..=500).contains(&address.len()) && address.chars().all(allowed);
        if !fits {
            return None;
        }
        let semicolon = u8::try_from(addr_type.len()).ok()?;
        Some(Self {
            text: alloc::format!("{addr_type};{address}").into(),
            semicolon,
        })
    }

    /// From its wire form, such as `rfc822;a+2Bb@example.com`.
    #[must_use]
    pub fn parse(wire: &str) -> Option<Self> {
        let (addr_type, address) = wire.split_once(';')?;
        let utf8 = addr_type.eq_ignore_ascii_case("utf-8");
        Self::new(addr_type, &xtext::decode(address, utf8)?)
    }

    /// Such as `rfc822` or `utf-8`.
    #[must_use]
    pub fn addr_type(&self) -> &str {
        &self.text[..usize::from(self.semicolon)]
    }

    /// Decoded.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.text[usize::from(self.semicolon) + 1..]
    }

    /// Whether it can be sent without SMTPUTF8.
    #[must_use]
    pub fn is_ascii(&self) -> bool {
        self.text.is_ascii()
    }
}

/// Writes xtext after the semicolon.
impl fmt::Display for Orcpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{};{}", self.addr_type(), xtext::Encoded(self.address()))
    }
}
