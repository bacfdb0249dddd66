//! The parameters of MAIL and RCPT, as types that hold only what may be sent.
//!
//! Implements RFC 5321 §4.1.1.11, and the parameters of RFC 1870, 6152, 3030, 6531, 3461, 4954,
//! 8689, 4865, 2852 and 6710. A parameter of an extension that was not offered is unknown.

mod dsn;
mod values;

use core::fmt;

pub use dsn::{EnvId, Notify, Occasion, Orcpt, Ret};
pub use values::{AuthParam, BodyType, ByMode, DeliverBy, Hold, Priority};

use crate::command::upper;
use crate::extension::{Extension, Extensions};
use crate::octets;
use crate::time_text;

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
            Self::Syntax => f.write_str("A parameter is not KEYWORD or KEYWORD=value; correct it"),
            Self::Duplicate => f.write_str("A parameter stands there twice; send it once"),
            Self::Unknown => {
                f.write_str("A parameter was not offered in the EHLO reply; leave it out")
            }
            Self::Value(keyword) => write!(
                f,
                "The value of {} is not valid; correct it or leave it out",
                keyword.as_str()
            ),
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
    /// The one with this name, in any case.
    fn from_name(name: &[u8]) -> Option<Self> {
        let keyword = match name.len() {
            2 => Self::By,
            3 => Self::Ret,
            // Those of four letters, which nearly all are, are compared as one number each.
            4 => {
                let word = upper(*name.first_chunk()?);
                let mut known = [Self::Size, Self::Body, Self::Auth].into_iter();
                return known.find(|k| {
                    k.as_str()
                        .as_bytes()
                        .first_chunk()
                        .is_some_and(|k| upper(*k) == word)
                });
            }
            5 if name[0] | 0x20 == b'e' => Self::EnvId,
            5 => Self::Orcpt,
            6 => Self::Notify,
            7 => Self::HoldFor,
            8 => Self::SmtpUtf8,
            9 => Self::HoldUntil,
            10 => Self::RequireTls,
            11 => Self::MtPriority,
            _ => return None,
        };
        let same = keyword.as_str().as_bytes().eq_ignore_ascii_case(name);
        same.then_some(keyword)
    }

    /// Whether it stands with RCPT; the others stand with MAIL.
    const fn is_of_rcpt(self) -> bool {
        matches!(self, Self::Notify | Self::Orcpt)
    }

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
        params.read(text.as_bytes(), offered)?;
        Ok(params)
    }

    /// Sets what octets say, which need not be UTF-8.
    pub(crate) fn read(&mut self, octets: &[u8], offered: Extensions) -> Result<(), ParamError> {
        each(octets, |keyword, value| self.set(keyword, value, offered))
    }

    /// `None`: the value is wrong; `Some(false)`: it is not offered.
    fn set(&mut self, keyword: Keyword, value: Option<&[u8]>, offered: Extensions) -> Option<bool> {
        if keyword.is_of_rcpt() {
            return Some(false);
        }
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
                    .find(|b| b.as_str().as_bytes().eq_ignore_ascii_case(v))?;
                if !body.offered(offered) {
                    return Some(false);
                }
                self.body = Some(body);
            }
            (Keyword::SmtpUtf8, None) => self.smtputf8 = true,
            (Keyword::Ret, Some(v)) => {
                let mut known = [Ret::Full, Ret::Headers].into_iter();
                self.ret = Some(known.find(|r| r.as_str().as_bytes().eq_ignore_ascii_case(v))?);
            }
            (Keyword::EnvId, Some(v)) => self.envid = Some(EnvId::parse(text(v)?)?),
            (Keyword::Auth, Some(v)) => self.auth = Some(AuthParam::parse(text(v)?)?),
            (Keyword::RequireTls, None) => self.requiretls = true,
            // RFC 4865 §3: one parameter, "using either the keyword".
            (Keyword::HoldFor, Some(v)) if self.hold.is_none() => {
                self.hold = Some(Hold::parse_for(v)?);
            }
            (Keyword::HoldUntil, Some(v)) if self.hold.is_none() => {
                self.hold = Some(Hold::parse_until(text(v)?)?);
            }
            (Keyword::By, Some(v)) => self.by = Some(DeliverBy::parse(text(v)?)?),
            (Keyword::MtPriority, Some(v)) => self.mt_priority = Some(Priority::parse(text(v)?)?),
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
        params.read(text.as_bytes(), offered)?;
        Ok(params)
    }

    /// Sets what octets say, which need not be UTF-8.
    pub(crate) fn read(&mut self, octets: &[u8], offered: Extensions) -> Result<(), ParamError> {
        each(octets, |keyword, value| {
            if !keyword.is_of_rcpt() || !offered.has(keyword.extension()) {
                return Some(false);
            }
            if keyword == Keyword::Notify {
                self.notify = Notify::parse(text(value?)?)?;
            } else {
                self.orcpt = Some(Orcpt::parse(text(value?)?)?);
            }
            Some(true)
        })
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
///
/// `set` takes no value that holds a control character.
fn each(
    octets: &[u8],
    mut set: impl FnMut(Keyword, Option<&[u8]>) -> Option<bool>,
) -> Result<(), ParamError> {
    let mut seen = 0u16;
    let mut rest = octets;
    while let [first, after @ ..] = rest {
        if *first == b' ' {
            rest = after;
            continue;
        }
        let end = rest.iter().position(|&octet| octet == b' ');
        let (param, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after;
        let (name, value) = match param.iter().position(|&octet| octet == b'=') {
            Some(at) => (&param[..at], Some(&param[at + 1..])),
            None => (param, None),
        };
        let or_syntax = |error| match is_well_formed(name, value) {
            true => error,
            false => ParamError::Syntax,
        };
        let keyword = Keyword::from_name(name).filter(|_| value != Some(b""));
        let keyword = keyword.ok_or_else(|| or_syntax(ParamError::Unknown))?;
        let bit = 1 << keyword as u8;
        if seen & bit != 0 {
            return Err(or_syntax(ParamError::Duplicate));
        }
        seen |= bit;
        match set(keyword, value) {
            Some(true) => {}
            Some(false) => return Err(or_syntax(ParamError::Unknown)),
            None => return Err(or_syntax(ParamError::Value(keyword))),
        }
    }
    Ok(())
}

/// RFC 5321 §4.1.2 `esmtp-keyword`, `esmtp-value`.
fn is_well_formed(name: &[u8], value: Option<&[u8]>) -> bool {
    let named = octets::PLAIN_LABEL.prefix(name) == name.len();
    let printable = |v| text(v).is_some_and(|v| !v.chars().any(char::is_control));
    let valued = value.is_none_or(|v| !v.is_empty() && printable(v));
    named && valued && !name.is_empty() && !name.starts_with(b"-")
}

fn text(octets: &[u8]) -> Option<&str> {
    core::str::from_utf8(octets).ok()
}

/// One to `digits_max` digits, without a sign, that fit.
pub(crate) fn number(digits: &[u8], digits_max: usize) -> Option<u64> {
    if !(1..=digits_max).contains(&digits.len()) {
        return None;
    }
    let mut number = 0u64;
    for digit in digits {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number = number.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

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
