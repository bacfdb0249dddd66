//! The parameters of MAIL and RCPT, as types that hold only what may be sent.
//!
//! Implements RFC 5321 §4.1.1.11, and the parameters of RFC 1870, 6152, 3030, 6531, 3461, 4954,
//! 8689, 4865, 2852 and 6710. A parameter of an extension that was not offered is unknown.

use alloc::boxed::Box;
use alloc::string::ToString;
use core::fmt;
use core::num::NonZeroU32;

use crate::address::Mailbox;
use crate::extension::{Extension, Extensions};
use crate::time_text;
use crate::xtext;

/// Why the parameters of a command were not accepted. RFC 5321 §4.1.1.11.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamError {
    /// Not `keyword` or `keyword=value`: 501.
    Syntax,
    /// The same keyword twice: 501.
    Duplicate,
    /// No such parameter for this command, or its extension was not offered: 555.
    Unknown,
    /// A value that the parameter does not take: 501.
    Value(Keyword),
}

impl fmt::Display for ParamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax => f.write_str("a parameter is not KEYWORD or KEYWORD=value"),
            Self::Duplicate => f.write_str("a parameter stands there twice"),
            Self::Unknown => f.write_str("a parameter was not offered in the EHLO reply"),
            Self::Value(keyword) => write!(f, "the value of {} is not valid", keyword.as_str()),
        }
    }
}

impl core::error::Error for ParamError {}

/// The parameters that this crate knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Keyword {
    /// `SIZE=n`
    Size,
    /// `BODY=8BITMIME`
    Body,
    /// `SMTPUTF8`
    SmtpUtf8,
    /// `RET=HDRS`
    Ret,
    /// `ENVID=xtext`
    EnvId,
    /// `AUTH=<>`
    Auth,
    /// `REQUIRETLS`
    RequireTls,
    /// `HOLDFOR=seconds`
    HoldFor,
    /// `HOLDUNTIL=date-time`
    HoldUntil,
    /// `BY=seconds;R`
    By,
    /// `MT-PRIORITY=n`
    MtPriority,
    /// `NOTIFY=FAILURE`
    Notify,
    /// `ORCPT=rfc822;xtext`
    Orcpt,
}

impl Keyword {
    const MAIL: [Self; 11] = [
        Self::Size,
        Self::Body,
        Self::SmtpUtf8,
        Self::Ret,
        Self::EnvId,
        Self::Auth,
        Self::RequireTls,
        Self::HoldFor,
        Self::HoldUntil,
        Self::By,
        Self::MtPriority,
    ];
    const RCPT: [Self; 2] = [Self::Notify, Self::Orcpt];

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Size => "SIZE",
            Self::Body => "BODY",
            Self::SmtpUtf8 => "SMTPUTF8",
            Self::Ret => "RET",
            Self::EnvId => "ENVID",
            Self::Auth => "AUTH",
            Self::RequireTls => "REQUIRETLS",
            Self::HoldFor => "HOLDFOR",
            Self::HoldUntil => "HOLDUNTIL",
            Self::By => "BY",
            Self::MtPriority => "MT-PRIORITY",
            Self::Notify => "NOTIFY",
            Self::Orcpt => "ORCPT",
        }
    }

    /// The extension that brings it. `BODY` also comes with BINARYMIME.
    #[must_use]
    pub const fn extension(self) -> Extension {
        match self {
            Self::Size => Extension::Size,
            Self::Body => Extension::EightBitMime,
            Self::SmtpUtf8 => Extension::SmtpUtf8,
            Self::Ret | Self::EnvId | Self::Notify | Self::Orcpt => Extension::Dsn,
            Self::Auth => Extension::Auth,
            Self::RequireTls => Extension::RequireTls,
            Self::HoldFor | Self::HoldUntil => Extension::FutureRelease,
            Self::By => Extension::DeliverBy,
            Self::MtPriority => Extension::MtPriority,
        }
    }
}

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
    const ALL: [Self; 3] = [Self::SevenBit, Self::EightBitMime, Self::BinaryMime];

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SevenBit => "7BIT",
            Self::EightBitMime => "8BITMIME",
            Self::BinaryMime => "BINARYMIME",
        }
    }

    const fn offered(self, offered: Extensions) -> bool {
        match self {
            Self::SevenBit => true,
            Self::EightBitMime => offered.has(Extension::EightBitMime),
            Self::BinaryMime => offered.has(Extension::BinaryMime),
        }
    }
}

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
pub struct EnvId(Box<str>);

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

/// When to send the message on at the earliest. RFC 4865 §4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hold {
    /// `HOLDFOR`: seconds from now, up to nine digits.
    For(NonZeroU32),
    /// `HOLDUNTIL`: seconds since 1970-01-01T00:00:00Z, in the years 1970 to 9999.
    Until(u64),
}

impl Hold {
    fn parse_for(wire: &str) -> Option<Self> {
        number(wire, 9)
            .and_then(|n| u32::try_from(n).ok())
            .and_then(NonZeroU32::new)
            .map(Self::For)
    }

    fn parse_until(wire: &str) -> Option<Self> {
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
        let seconds = sign * i32::try_from(number(digits, 9)?).ok()?;
        let mode = mode.to_ascii_uppercase();
        let (mode, trace) = match mode.strip_suffix('T') {
            Some(mode) => (mode, true),
            None => (mode.as_str(), false),
        };
        let mode = match mode {
            "N" => ByMode::Notify,
            "R" => ByMode::Return,
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

/// How urgent the message is, -9 to 9; 0 is normal. RFC 6710 §4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(i8);

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
    fn parse(wire: &str) -> Option<Self> {
        let digits = wire.strip_prefix('-').unwrap_or(wire);
        let plain = digits.len() == 1 && digits.bytes().all(|b| b.is_ascii_digit()) && wire != "-0";
        if plain {
            wire.parse().ok().and_then(Self::new)
        } else {
            None
        }
    }
}

/// The parameters of MAIL. RFC 5321 §4.1.1.2.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct MailParams {
    /// How large the message is, in octets. RFC 1870.
    pub size: Option<u64>,
    /// What its octets are. RFC 6152, RFC 3030.
    pub body: Option<BodyType>,
    /// The envelope or the headers hold UTF-8. RFC 6531.
    pub smtputf8: bool,
    /// How much of it to return. RFC 3461 §4.3.
    pub ret: Option<Ret>,
    /// The sender's name for the envelope. RFC 3461 §4.4.
    pub envid: Option<EnvId>,
    /// Who submitted it. RFC 4954 §5.
    pub auth: Option<AuthParam>,
    /// Deliver over TLS or not at all. RFC 8689.
    pub requiretls: bool,
    /// Hold it for or until a time. RFC 4865.
    pub hold: Option<Hold>,
    /// Deliver it before a time. RFC 2852.
    pub by: Option<DeliverBy>,
    /// How urgent it is. RFC 6710.
    pub mt_priority: Option<Priority>,
}

impl MailParams {
    /// Reads what follows the path: parameters parted by spaces, or nothing.
    ///
    /// # Errors
    /// Says what is wrong, and so which reply it causes.
    pub fn parse(text: &str, offered: Extensions) -> Result<Self, ParamError> {
        let mut params = Self::default();
        each(text, &Keyword::MAIL, |keyword, value| {
            params.set(keyword, value, offered)
        })?;
        Ok(params)
    }

    /// `None`: the value is wrong; `Some(false)`: it is not offered.
    fn set(&mut self, keyword: Keyword, value: Option<&str>, offered: Extensions) -> Option<bool> {
        let known = offered.has(keyword.extension())
            || (keyword == Keyword::Body && offered.has(Extension::BinaryMime));
        if !known {
            return Some(false);
        }
        match (keyword, value) {
            (Keyword::Size, Some(v)) => self.size = Some(number(v, 20)?),
            (Keyword::Body, Some(v)) => {
                let body = BodyType::ALL
                    .into_iter()
                    .find(|b| b.as_str().eq_ignore_ascii_case(v))?;
                if !body.offered(offered) {
                    return Some(false);
                }
                self.body = Some(body);
            }
            (Keyword::SmtpUtf8, None) => self.smtputf8 = true,
            (Keyword::Ret, Some(v)) => {
                let ret = [Ret::Full, Ret::Headers].into_iter();
                self.ret = Some(
                    ret.into_iter()
                        .find(|r| r.as_str().eq_ignore_ascii_case(v))?,
                );
            }
            (Keyword::EnvId, Some(v)) => self.envid = Some(EnvId::parse(v)?),
            (Keyword::Auth, Some(v)) => self.auth = Some(AuthParam::parse(v)?),
            (Keyword::RequireTls, None) => self.requiretls = true,
            // RFC 4865 §4: one of the two at most.
            (Keyword::HoldFor, Some(v)) if self.hold.is_none() => {
                self.hold = Some(Hold::parse_for(v)?);
            }
            (Keyword::HoldUntil, Some(v)) if self.hold.is_none() => {
                self.hold = Some(Hold::parse_until(v)?);
            }
            (Keyword::By, Some(v)) => self.by = Some(DeliverBy::parse(v)?),
            (Keyword::MtPriority, Some(v)) => self.mt_priority = Some(Priority::parse(v)?),
            _ => return None,
        }
        Some(true)
    }
}

/// Writes each parameter with a space before it, so that it can follow the path as it is.
impl fmt::Display for MailParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(size) = self.size {
            write!(f, " SIZE={size}")?;
        }
        if let Some(body) = self.body {
            write!(f, " BODY={}", body.as_str())?;
        }
        if self.smtputf8 {
            f.write_str(" SMTPUTF8")?;
        }
        if let Some(ret) = self.ret {
            write!(f, " RET={}", ret.as_str())?;
        }
        if let Some(envid) = &self.envid {
            write!(f, " ENVID={envid}")?;
        }
        if let Some(auth) = &self.auth {
            write!(f, " AUTH={auth}")?;
        }
        if self.requiretls {
            f.write_str(" REQUIRETLS")?;
        }
        match self.hold {
            Some(Hold::For(seconds)) => write!(f, " HOLDFOR={seconds}")?,
            Some(Hold::Until(unix)) => write!(f, " HOLDUNTIL={}", time_text::Utc(unix))?,
            None => {}
        }
        if let Some(by) = self.by {
            write!(f, " BY={by}")?;
        }
        if let Some(Priority(level)) = self.mt_priority {
            write!(f, " MT-PRIORITY={level}")?;
        }
        Ok(())
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
    text: Box<str>,
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

/// The parameters of RCPT. RFC 5321 §4.1.1.3.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RcptParams {
    /// When to report. RFC 3461 §4.1.
    pub notify: Notify,
    /// The recipient as first written. RFC 3461 §4.2.
    pub orcpt: Option<Orcpt>,
}

impl RcptParams {
    /// Reads what follows the path: parameters parted by spaces, or nothing.
    ///
    /// # Errors
    /// Says what is wrong, and so which reply it causes.
    pub fn parse(text: &str, offered: Extensions) -> Result<Self, ParamError> {
        let mut params = Self::default();
        each(text, &Keyword::RCPT, |keyword, value| {
            if !offered.has(keyword.extension()) {
                return Some(false);
            }
            if keyword == Keyword::Notify {
                params.notify = Notify::parse(value?)?;
            } else {
                params.orcpt = Some(Orcpt::parse(value?)?);
            }
            Some(true)
        })?;
        Ok(params)
    }
}

/// Writes each parameter with a space before it, so that it can follow the path as it is.
impl fmt::Display for RcptParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.notify != Notify::UNSAID {
            write!(f, " NOTIFY={}", self.notify)?;
        }
        if let Some(orcpt) = &self.orcpt {
            write!(f, " ORCPT={orcpt}")?;
        }
        Ok(())
    }
}

/// Hands each `keyword[=value]` to `set`, once. RFC 5321 §4.1.2 `esmtp-param`.
fn each(
    text: &str,
    known: &[Keyword],
    mut set: impl FnMut(Keyword, Option<&str>) -> Option<bool>,
) -> Result<(), ParamError> {
    let mut seen = 0u16;
    for param in text.split(' ').filter(|param| !param.is_empty()) {
        let (name, value) = match param.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (param, None),
        };
        let named = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let valued = value.is_none_or(|v| !v.is_empty() && !v.chars().any(char::is_control));
        if name.is_empty() || name.starts_with('-') || !named || !valued {
            return Err(ParamError::Syntax);
        }
        let keyword = known
            .iter()
            .copied()
            .find(|k| k.as_str().eq_ignore_ascii_case(name));
        let keyword = keyword.ok_or(ParamError::Unknown)?;
        let bit = 1 << keyword as u8;
        if seen & bit != 0 {
            return Err(ParamError::Duplicate);
        }
        seen |= bit;
        match set(keyword, value) {
            Some(true) => {}
            Some(false) => return Err(ParamError::Unknown),
            None => return Err(ParamError::Value(keyword)),
        }
    }
    Ok(())
}

/// One to `digits_max` digits, without a sign, that fit.
pub(crate) fn number(text: &str, digits_max: usize) -> Option<u64> {
    let plain = (1..=digits_max).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Extensions {
        Extension::ALL.into_iter().collect()
    }

    #[test]
    fn mail_parameters_round_trip() {
        for text in [
            "",
            " SIZE=18446744073709551615",
            " SIZE=1 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=a+2Bb+20c AUTH=<> REQUIRETLS",
            " BODY=BINARYMIME RET=FULL AUTH=e+3Dmc2@example.com HOLDFOR=60",
            " HOLDUNTIL=2026-02-28T23:59:59Z BY=-5;NT MT-PRIORITY=-9",
            " BY=120;R MT-PRIORITY=0",
        ] {
            let params = MailParams::parse(text, all()).unwrap();
            assert_eq!(params.to_string(), text);
            let lower = MailParams::parse(&text.replace("SIZE", "size"), all()).unwrap();
            assert_eq!(lower, params);
        }
    }

    #[test]
    fn wrong_mail_parameters_are_told_apart() {
        use ParamError::{Duplicate, Syntax, Unknown, Value};
        for (text, error) in [
            ("SIZE=1 SIZE=2", Duplicate),
            ("FOO=BAR", Unknown),
            ("NOTIFY=NEVER", Unknown),
            ("=1", Syntax),
            ("SIZE=", Syntax),
            ("S@ZE=1", Syntax),
            ("SIZE", Value(Keyword::Size)),
            ("SIZE=18446744073709551616", Value(Keyword::Size)),
            ("SIZE=+1", Value(Keyword::Size)),
            ("SMTPUTF8=1", Value(Keyword::SmtpUtf8)),
            ("BODY=9BIT", Value(Keyword::Body)),
            ("ENVID=a+00b", Value(Keyword::EnvId)),
            ("AUTH=nobody", Value(Keyword::Auth)),
            ("HOLDFOR=0", Value(Keyword::HoldFor)),
            (
                "HOLDFOR=1 HOLDUNTIL=2026-01-01T00:00:00Z",
                Value(Keyword::HoldUntil),
            ),
            ("BY=0;R", Value(Keyword::By)),
            ("MT-PRIORITY=10", Value(Keyword::MtPriority)),
            ("MT-PRIORITY=-0", Value(Keyword::MtPriority)),
        ] {
            assert_eq!(MailParams::parse(text, all()), Err(error), "{text}");
        }
        assert_eq!(MailParams::parse("SIZE=1", Extensions::NONE), Err(Unknown));
        let eight = Extensions::NONE.with(Extension::EightBitMime);
        assert_eq!(MailParams::parse("BODY=BINARYMIME", eight), Err(Unknown));
    }

    #[test]
    fn rcpt_parameters_round_trip() {
        for text in [
            "",
            " NOTIFY=NEVER",
            " NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;a+2Bb@example.com",
            " ORCPT=utf-8;jörg@example.com",
        ] {
            assert_eq!(RcptParams::parse(text, all()).unwrap().to_string(), text);
        }
        for text in [
            "NOTIFY=NEVER,SUCCESS",
            "NOTIFY=SUCCESS,",
            "ORCPT=rfc822",
            "ORCPT=;a",
            "ORCPT=rfc822;ö",
        ] {
            assert!(
                matches!(RcptParams::parse(text, all()), Err(ParamError::Value(_))),
                "{text}"
            );
        }
        assert_eq!(
            RcptParams::parse("NOTIFY=DELAY NOTIFY=DELAY", all()),
            Err(ParamError::Duplicate)
        );
        let orcpt = Orcpt::parse("rfc822;a+2Bb@c").unwrap();
        assert_eq!((orcpt.addr_type(), orcpt.address()), ("rfc822", "a+b@c"));
    }

    #[test]
    fn silence_means_failures() {
        assert!(Notify::UNSAID.reports_failure() && !Notify::NEVER.reports_failure());
        assert!(!Notify::on(&[Occasion::Delay]).reports_failure());
        assert!(Notify::on(&[Occasion::Failure]).reports_failure());
    }
}
