//! The policy: its text as a domain serves it, and which mail exchangers it lets through.
//! RFC 8461 §3.2, §4.1.

use std::fmt;
use std::str::FromStr;

use smtp_proto::Domain;

use super::record::{is_field_name, split_at, trim_wsp};
use crate::time::UnixTime;

/// The most octets of a policy. RFC 8461 §3.3: "a suggested maximum policy size is 64 kilobytes".
pub const POLICY_MAX: usize = 64 * 1024;

/// The longest time that a policy is kept, in seconds: about a year. RFC 8461 §3.2.
pub const MAX_AGE_MAX: u32 = 31_557_600;

/// What a domain asks of those who deliver to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// No delivery to a host that does not fit, or has no verified TLS.
    Enforce,
    /// Delivery goes on; what does not fit is reported.
    Testing,
    /// Nothing: as if there were no policy.
    None,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Enforce => "enforce",
            Self::Testing => "testing",
            Self::None => "none",
        })
    }
}

/// A policy as it was fetched.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Policy {
    /// The domain, in A-labels and lower case.
    pub domain: String,
    /// What the TXT record called it.
    pub id: String,
    /// What is asked.
    pub mode: Mode,
    /// Patterns of mail exchangers: a host name, or `*.` and one. Lower case.
    pub mx: Vec<String>,
    /// How long it holds after it was fetched, in seconds; at most [`MAX_AGE_MAX`].
    pub max_age: u32,
    /// When it was fetched, in seconds since 1970.
    pub fetched: u64,
}

impl Policy {
    /// Whether a mail exchanger of this name is one of those that the policy names. RFC 8461 §4.1.
    #[must_use]
    pub fn allows(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        self.mx
            .iter()
            .any(|pattern| match pattern.strip_prefix("*.") {
                // "the wildcard [..] may only be used to match the entire left-most label".
                Some(parent) => host.split_once('.').is_some_and(|(first, rest)| {
                    !first.is_empty() && rest.eq_ignore_ascii_case(parent)
                }),
                None => host.eq_ignore_ascii_case(pattern),
            })
    }

    /// When it ends to hold.
    #[must_use]
    pub fn expires(&self) -> UnixTime {
        UnixTime::from_secs(self.fetched.saturating_add(u64::from(self.max_age)))
    }

    /// Whether it holds. A clock that was set back does not end it.
    #[must_use]
    pub fn holds(&self, now: UnixTime) -> bool {
        now < self.expires()
    }

    /// How long ago it was fetched, in seconds.
    #[must_use]
    pub fn age(&self, now: UnixTime) -> u64 {
        now.as_secs().saturating_sub(self.fetched)
    }

    /// As events name it: `enforce id=20260101 age=3600s`.
    #[must_use]
    pub fn describe(&self, now: UnixTime) -> String {
        format!("{} id={} age={}s", self.mode, self.id, self.age(now))
    }
}

/// The text of a policy, read: what [`Policy`] holds but for where and when it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyText {
    /// What is asked.
    pub mode: Mode,
    /// Patterns of mail exchangers.
    pub mx: Vec<String>,
    /// How long it holds.
    pub max_age: u32,
}

/// Why a text is no policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadPolicy {
    /// It is longer than [`POLICY_MAX`].
    TooLong,
    /// A carriage return without a line feed.
    BareCr,
    /// A line that is not `name: value`; its number, from 1.
    Line(usize),
    /// The first field is not `version: STSv1`.
    Version,
    /// `mode` is missing or none of the three.
    Mode,
    /// `max_age` is missing or not a number of up to ten digits.
    MaxAge,
    /// A pattern that is no host name.
    Mx(String),
    /// A policy that asks for something names no mail exchanger.
    NoMx,
}

impl fmt::Display for BadPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "it is longer than {POLICY_MAX} octets"),
            Self::BareCr => f.write_str("it holds a carriage return without a line feed"),
            Self::Line(line) => write!(f, "line {line} is not \"name: value\""),
            Self::Version => f.write_str("its first field is not \"version: STSv1\""),
            Self::Mode => f.write_str("it has no mode (enforce, testing, none)"),
            Self::MaxAge => f.write_str("it has no max_age (a number of seconds)"),
            Self::Mx(pattern) => write!(f, "its mx {pattern:?} is no host name"),
            Self::NoMx => f.write_str("it names no mx"),
        }
    }
}

impl std::error::Error for BadPolicy {}

/// Reads the text of a policy. `max_age` beyond [`MAX_AGE_MAX`] is cut to that; unknown fields are
/// skipped; of a field that may not be repeated the first counts. RFC 8461 §3.2.
///
/// # Errors
/// [`BadPolicy`].
pub fn parse(text: &[u8]) -> Result<PolicyText, BadPolicy> {
    if text.len() > POLICY_MAX {
        return Err(BadPolicy::TooLong);
    }
    let mut lines = Lines(text, 0);
    match lines.next().transpose()? {
        Some((_, b"version", b"STSv1")) => {}
        Some(_) | None => return Err(BadPolicy::Version),
    }
    let (mut mode, mut max_age, mut mx) = (None, None, Vec::new());
    for line in lines {
        let (number, name, value) = line?;
        match name {
            b"mode" if mode.is_none() => mode = Some(read_mode(value)?),
            b"max_age" if max_age.is_none() => max_age = Some(read_age(value)?),
            b"mx" => mx.push(read_mx(value)?),
            _ if !is_field_name(name) => return Err(BadPolicy::Line(number)),
            _ => {}
        }
    }
    let mode = mode.ok_or(BadPolicy::Mode)?;
    let max_age = max_age.ok_or(BadPolicy::MaxAge)?;
    if mx.is_empty() && mode != Mode::None {
        return Err(BadPolicy::NoMx);
    }
    mx.sort();
    mx.dedup();
    Ok(PolicyText { mode, mx, max_age })
}

/// The fields of a policy, each with the number of its line.
struct Lines<'t>(&'t [u8], usize);

impl<'t> Iterator for Lines<'t> {
    type Item = Result<(usize, &'t [u8], &'t [u8]), BadPolicy>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        self.1 += 1;
        let (line, rest) = split_at(self.0, b'\n').unwrap_or((self.0, b""));
        let ended = line.len() < self.0.len();
        self.0 = rest;
        let line = line.strip_suffix(b"\r").filter(|_| ended).unwrap_or(line);
        if line.contains(&b'\r') {
            return Some(Err(BadPolicy::BareCr));
        }
        let field = split_at(line, b':').map(|(name, value)| (self.1, name, trim_wsp(value)));
        let readable = |value: &[u8]| !value.is_empty() && std::str::from_utf8(value).is_ok();
        let field = field
            .filter(|(_, _, value)| readable(value) && !value.iter().any(u8::is_ascii_control));
        Some(field.ok_or(BadPolicy::Line(self.1)))
    }
}

fn read_mode(value: &[u8]) -> Result<Mode, BadPolicy> {
    match value {
        b"enforce" => Ok(Mode::Enforce),
        b"testing" => Ok(Mode::Testing),
        b"none" => Ok(Mode::None),
        _ => Err(BadPolicy::Mode),
    }
}

fn read_age(value: &[u8]) -> Result<u32, BadPolicy> {
    let digits = (1..=10).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).ok().filter(|_| digits);
    let secs = text.and_then(|text| u64::from_str(text).ok());
    let secs = secs.ok_or(BadPolicy::MaxAge)?.min(u64::from(MAX_AGE_MAX));
    u32::try_from(secs).map_err(|_| BadPolicy::MaxAge)
}

fn read_mx(value: &[u8]) -> Result<String, BadPolicy> {
    let text = String::from_utf8_lossy(value);
    let name = text.strip_prefix("*.").unwrap_or(&text);
    let labels = Domain::parse(name).map_err(|_| ());
    match labels {
        Ok(_) => Ok(text.to_ascii_lowercase()),
        Err(()) => Err(BadPolicy::Mx(text.chars().take(80).collect())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(mx: &[&str]) -> Policy {
        Policy {
            domain: "example.com".into(),
            id: "1".into(),
            mode: Mode::Enforce,
            mx: mx.iter().map(|mx| (*mx).to_owned()).collect(),
            max_age: 86_400,
            fetched: 1_000,
        }
    }

    #[test]
    fn what_is_a_policy() {
        let read = parse(
            b"version: STSv1\nmode: testing\nmx:mx1.Example.com\r\nmx: *.example.net\t\nnew_field: x y\nmax_age: 604800",
        );
        let expected = PolicyText {
            mode: Mode::Testing,
            mx: vec!["*.example.net".into(), "mx1.example.com".into()],
            max_age: 604_800,
        };
        assert_eq!(read, Ok(expected));
        let none = parse(b"version: STSv1\nmode: none\nmax_age: 1\n").unwrap();
        assert_eq!((none.mode, none.mx.len()), (Mode::None, 0));
        let age = |text: &str| {
            parse(format!("version: STSv1\nmode: none\nmax_age: {text}\n").as_bytes())
                .map(|p| p.max_age)
        };
        assert_eq!(age("9999999999"), Ok(MAX_AGE_MAX));
        assert_eq!(age("31557601"), Ok(MAX_AGE_MAX));
        assert_eq!(age("0"), Ok(0));
        assert_eq!(age("1000000000000"), Err(BadPolicy::MaxAge));
    }

    #[test]
    fn of_a_repeated_field_the_first_counts() {
        let read = parse(
            b"version: STSv1\nmode: enforce\nmode: none\nmax_age: 5\nmax_age: 6\nmx: a.example\nversion: STSv2\n",
        );
        let read = read.unwrap();
        assert_eq!((read.mode, read.max_age), (Mode::Enforce, 5));
    }

    #[test]
    fn what_is_none() {
        let rest = "mode: enforce\nmx: a.example\nmax_age: 5\n";
        let cases: [(String, BadPolicy); 22] = [
            (String::new(), BadPolicy::Version),
            (rest.into(), BadPolicy::Version),
            (format!("version: STSv2\n{rest}"), BadPolicy::Version),
            (format!("Version: STSv1\n{rest}"), BadPolicy::Version),
            (format!("version: STSv1\r{rest}"), BadPolicy::BareCr),
            (
                format!("version: STSv1\n{rest}x: a\rb\n"),
                BadPolicy::BareCr,
            ),
            (format!("version: STSv1\n{rest}x: a\r"), BadPolicy::BareCr),
            (format!("version: STSv1\n\n{rest}"), BadPolicy::Line(2)),
            (format!("version: STSv1\n{rest}mx\n"), BadPolicy::Line(5)),
            (format!("version: STSv1\n{rest}new:\n"), BadPolicy::Line(5)),
            (
                format!("version: STSv1\n{rest}b d: x\n"),
                BadPolicy::Line(5),
            ),
            (
                format!("version: STSv1\n{rest}x: a\0b\n"),
                BadPolicy::Line(5),
            ),
            (format!("<html>\n{rest}"), BadPolicy::Line(1)),
            (
                "version: STSv1\nmx: a.example\nmax_age: 5\n".into(),
                BadPolicy::Mode,
            ),
            (
                "version: STSv1\nmode: Enforce\nmx: a.example\nmax_age: 5\n".into(),
                BadPolicy::Mode,
            ),
            (
                "version: STSv1\nmode: enforce\nmx: a.example\n".into(),
                BadPolicy::MaxAge,
            ),
            (
                "version: STSv1\nmode: enforce\nmx: a.example\nmax_age: -1\n".into(),
                BadPolicy::MaxAge,
            ),
            (
                "version: STSv1\nmode: enforce\nmx: a.example\nmax_age: 1e5\n".into(),
                BadPolicy::MaxAge,
            ),
            (
                "version: STSv1\nmode: enforce\nmax_age: 5\n".into(),
                BadPolicy::NoMx,
            ),
            (
                format!("version: STSv1\n{rest}mx: *.*.example\n"),
                BadPolicy::Mx("*.*.example".into()),
            ),
            (
                format!("version: STSv1\n{rest}mx: a*.example\n"),
                BadPolicy::Mx("a*.example".into()),
            ),
            (
                format!("version: STSv1\n{}", "x: y\n".repeat(20_000)),
                BadPolicy::TooLong,
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text.as_bytes()), Err(expected), "{:.60}", text);
        }
        assert_eq!(
            parse(b"version: STSv1\nmode: none\nmax_age: 1\nx: \xff\n"),
            Err(BadPolicy::Line(4))
        );
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        let policy = policy(&["mx1.example.com", "*.example.net"]);
        for host in [
            "mx1.example.com",
            "MX1.example.COM.",
            "a.example.net",
            "B.EXAMPLE.net",
        ] {
            assert!(policy.allows(host), "{host}");
        }
        for host in [
            "mx2.example.com",
            "example.net",
            ".example.net",
            "a.b.example.net",
            "aexample.net",
            "example.com",
            "x.mx1.example.com",
            "mx1.example.com.evil",
            "*.example.org",
            "",
        ] {
            assert!(!policy.allows(host), "{host}");
        }
    }

    #[test]
    fn it_holds_for_its_max_age() {
        let policy = policy(&["a"]);
        let at = UnixTime::from_secs;
        assert!(policy.holds(at(0)) && policy.holds(at(87_399)));
        assert!(!policy.holds(at(87_400)));
        assert_eq!(policy.describe(at(4_600)), "enforce id=1 age=3600s");
        assert_eq!(policy.age(at(0)), 0);
    }
}
