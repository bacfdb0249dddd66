//! Mailboxes and the paths that MAIL and RCPT carry.
//!
//! Implements RFC 5321 §4.1.2 (`Mailbox`, `Reverse-path`, `Forward-path`), the sizes of §4.5.3.1,
//! and RFC 6531 §3.3 (UTF-8 in the local part). Source routes are refused, as RFC 5321 §3.3 allows.

mod borrowed;

use alloc::string::String;
use core::cmp::Ordering;
use core::fmt::{self, Write as _};
use core::hash::{Hash, Hasher};
use core::str::FromStr;

use smol_str::SmolStr;

pub use borrowed::MailboxRef;

use crate::domain::{Domain, Host, HostError};
use crate::octets;

/// The longest local part, in octets. RFC 5321 §4.5.3.1.1.
pub const LOCAL_PART_MAX: usize = 64;
/// The longest path with its angle brackets, in octets. RFC 5321 §4.5.3.1.3.
pub const PATH_MAX: usize = 256;

/// `local-part@host`, kept as it was written.
///
/// Two mailboxes are equal when they name the same one: `"a"@Example.com` equals `a@example.com`,
/// while `A@example.com` is another (RFC 5321 §2.4: only the host may interpret a local part).
#[derive(Clone)]
pub struct Mailbox {
    local: SmolStr,
    host: Host,
}

/// Why a text is not a mailbox or a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressError {
    /// A path does not stand in angle brackets.
    Brackets,
    /// The path is longer than 256 octets.
    TooLong,
    /// There is no `@`.
    NoHost,
    /// The local part is empty or not a dot-string or quoted-string.
    LocalPart,
    /// The local part is longer than 64 octets.
    LocalPartTooLong,
    /// What follows the `@` is no host.
    Host(HostError),
    /// `<@a,@b:user@c>`: a server may decline it. RFC 5321 §3.3.
    SourceRoute,
    /// Non-ASCII, and that was not allowed.
    NotAscii,
    /// `<>` where a recipient is asked for.
    Null,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Brackets => "the path is not in angle brackets",
            Self::TooLong => "the path is longer than 256 octets",
            Self::NoHost => "the address has no @domain",
            Self::LocalPart => "the local part is neither a dot-string nor a quoted-string",
            Self::LocalPartTooLong => "the local part is longer than 64 octets",
            Self::Host(error) => return error.fmt(f),
            Self::SourceRoute => "source routes are not accepted; send the plain address",
            Self::NotAscii => "the address is not ASCII; that needs SMTPUTF8",
            Self::Null => "the null path is not a recipient",
        })
    }
}

impl core::error::Error for AddressError {}

impl Mailbox {
    /// Reads an ASCII mailbox, without angle brackets.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if !text.is_ascii() {
            return Err(AddressError::NotAscii);
        }
        Self::parse_utf8(text)
    }

    /// Reads a mailbox that may hold UTF-8. RFC 6531 §3.3.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub fn parse_utf8(text: &str) -> Result<Self, AddressError> {
        MailboxRef::parse_utf8(text).map(|mailbox| mailbox.to_mailbox())
    }

    /// A mailbox at `host` whose local part means `name`; it is quoted if it must be.
    ///
    /// # Errors
    /// If the name is too long or holds a control character.
    pub fn new(name: &str, host: Host) -> Result<Self, AddressError> {
        let mut local = String::new();
        write_local_part(&mut local, name.chars()).map_err(|_| AddressError::LocalPart)?;
        if local_part_end(&local)? != local.len() {
            return Err(AddressError::LocalPart);
        }
        if local.len() > LOCAL_PART_MAX {
            return Err(AddressError::LocalPartTooLong);
        }
        Ok(Self {
            local: local.into(),
            host,
        })
    }

    /// The local part as it was written, with quotes if it had them.
    #[must_use]
    pub fn local_part(&self) -> &str {
        &self.local
    }

    /// The local part with quotes and backslashes taken away: what it means.
    pub fn local_part_chars(&self) -> impl Iterator<Item = char> + Clone + '_ {
        unquoted(&self.local)
    }

    /// What follows the `@`.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The domain, unless the host is an address literal.
    #[must_use]
    pub fn domain(&self) -> Option<&Domain> {
        self.host.domain()
    }

    /// Whether it can be sent without SMTPUTF8.
    #[must_use]
    pub fn is_ascii(&self) -> bool {
        self.local.is_ascii() && self.host.is_ascii()
    }

    /// The same mailbox with its local part quoted only if it must be and its host in lower case.
    #[must_use]
    pub fn canonical(&self) -> Self {
        let mut local = String::with_capacity(self.local.len());
        // Writing to a String does not fail.
        let _ = write_local_part(&mut local, self.local_part_chars());
        let host = match &self.host {
            Host::Domain(domain) => Host::Domain(domain.to_lowercase()),
            Host::Literal(literal) => Host::Literal(*literal),
        };
        Self {
            local: local.into(),
            host,
        }
    }
}

/// RFC 5321 §4.1.2 `atext`, with RFC 6531 §3.3 `UTF8-non-ascii`.
fn is_atext(c: char) -> bool {
    match u8::try_from(c) {
        Ok(octet) if octet.is_ascii() => octets::ATEXT.has(octet),
        Ok(_) | Err(_) => is_utf8_text(c),
    }
}

/// Non-ASCII, less the C1 controls and the line and paragraph separators: a mailbox goes into
/// headers, DSNs and logs, where those would act.
fn is_utf8_text(c: char) -> bool {
    !c.is_ascii() && !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}')
}

/// Where the local part at the start of `text` ends.
fn local_part_end(text: &str) -> Result<usize, AddressError> {
    if text.starts_with('"') {
        return quoted_string_end(text);
    }
    let octets = text.as_bytes();
    let mut end = 0;
    loop {
        let atom = octets::ATEXT.prefix(&octets[end..]);
        end += atom;
        match octets.get(end) {
            _ if atom == 0 => return Err(AddressError::LocalPart),
            Some(b'.') => end += 1,
            Some(b'@') | None => break,
            Some(_) => return Err(AddressError::LocalPart),
        }
    }
    let local = &text[..end];
    let mut above = local.chars().filter(|c| !c.is_ascii());
    if local.is_ascii() || above.all(is_utf8_text) {
        Ok(end)
    } else {
        Err(AddressError::LocalPart)
    }
}

/// RFC 5321 §4.1.2 `Quoted-string`: qtextSMTP is 32–126 without `"` and `\`; a pair quotes 32–126.
fn quoted_string_end(text: &str) -> Result<usize, AddressError> {
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok(at + 1),
            '\\' => match chars.next() {
                Some((_, ' '..='~')) => {}
                Some(_) | None => return Err(AddressError::LocalPart),
            },
            ' '..='~' => {}
            c if is_utf8_text(c) => {}
            _ => return Err(AddressError::LocalPart),
        }
    }
    Err(AddressError::LocalPart)
}

/// The characters that a valid local part stands for.
fn unquoted(local: &str) -> impl Iterator<Item = char> + Clone + '_ {
    let inner = local.strip_prefix('"').and_then(|l| l.strip_suffix('"'));
    let mut escaped = false;
    inner.unwrap_or(local).chars().filter(move |&c| {
        let drop = inner.is_some() && c == '\\' && !escaped;
        escaped = drop;
        !drop
    })
}

/// Writes a local part that means `name`, in its shortest form.
fn write_local_part(out: &mut String, name: impl Iterator<Item = char> + Clone) -> fmt::Result {
    let mut previous = '.';
    let mut dot_string = true;
    for c in name.clone() {
        dot_string &= if c == '.' {
            previous != '.'
        } else {
            is_atext(c)
        };
        previous = c;
    }
    if dot_string && previous != '.' {
        out.extend(name);
        return Ok(());
    }
    out.write_char('"')?;
    for c in name {
        if matches!(c, '"' | '\\') {
            out.write_char('\\')?;
        }
        out.write_char(c)?;
    }
    out.write_char('"')
}

impl PartialEq for Mailbox {
    fn eq(&self, other: &Self) -> bool {
        self.local_part_chars().eq(other.local_part_chars()) && self.host == other.host
    }
}

impl Eq for Mailbox {}

impl Hash for Mailbox {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.local_part_chars().for_each(|c| c.hash(state));
        self.host.hash(state);
    }
}

impl Ord for Mailbox {
    fn cmp(&self, other: &Self) -> Ordering {
        self.host
            .cmp(&other.host)
            .then_with(|| self.local_part_chars().cmp(other.local_part_chars()))
    }
}

impl PartialOrd for Mailbox {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl FromStr for Mailbox {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse_utf8(text)
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local, self.host)
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where failures are reported: the argument of MAIL FROM. RFC 5321 §4.1.1.2.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReversePath<M = Mailbox> {
    /// `<>`: the message is itself a report, and none is made about it. RFC 5321 §4.5.5.
    Null,
    /// `<user@example.com>`
    Mailbox(M),
}

impl ReversePath {
    /// Reads an ASCII path with its angle brackets.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if !text.is_ascii() {
            return Err(AddressError::NotAscii);
        }
        Self::parse_utf8(text)
    }

    /// Reads a path that may hold UTF-8.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub fn parse_utf8(text: &str) -> Result<Self, AddressError> {
        ReversePath::borrow_utf8(text).map(|path| path.to_path())
    }

    /// Whether it can be sent without SMTPUTF8.
    #[must_use]
    pub fn is_ascii(&self) -> bool {
        self.mailbox().is_none_or(Mailbox::is_ascii)
    }
}

impl<M> ReversePath<M> {
    /// The mailbox, unless it is the null path.
    #[must_use]
    pub const fn mailbox(&self) -> Option<&M> {
        match self {
            Self::Null => None,
            Self::Mailbox(mailbox) => Some(mailbox),
        }
    }
}

impl<'a> ReversePath<MailboxRef<'a>> {
    /// Reads a path that may hold UTF-8, and copies nothing of it.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub fn borrow_utf8(text: &'a str) -> Result<Self, AddressError> {
        match unbracketed(text)? {
            "" => Ok(Self::Null),
            inner => MailboxRef::parse_utf8(inner).map(Self::Mailbox),
        }
    }

    /// The same path, on its own.
    #[must_use]
    pub fn to_path(&self) -> ReversePath {
        match self {
            Self::Null => ReversePath::Null,
            Self::Mailbox(mailbox) => ReversePath::Mailbox(mailbox.to_mailbox()),
        }
    }
}

impl From<Mailbox> for ReversePath {
    fn from(mailbox: Mailbox) -> Self {
        Self::Mailbox(mailbox)
    }
}

impl FromStr for ReversePath {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse_utf8(text)
    }
}

impl<M: fmt::Display> fmt::Display for ReversePath<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("<>"),
            Self::Mailbox(mailbox) => write!(f, "<{mailbox}>"),
        }
    }
}

/// Whom the message is for: the argument of RCPT TO. RFC 5321 §4.1.1.3.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ForwardPath<M = Mailbox> {
    /// `<Postmaster>` without a domain: the server's own. RFC 5321 §4.5.1.
    Postmaster,
    /// `<user@example.com>`
    Mailbox(M),
}

impl ForwardPath {
    /// Reads an ASCII path with its angle brackets.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if !text.is_ascii() {
            return Err(AddressError::NotAscii);
        }
        Self::parse_utf8(text)
    }

    /// Reads a path that may hold UTF-8.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub fn parse_utf8(text: &str) -> Result<Self, AddressError> {
        ForwardPath::borrow_utf8(text).map(|path| path.to_path())
    }

    /// Whether it can be sent without SMTPUTF8.
    #[must_use]
    pub fn is_ascii(&self) -> bool {
        self.mailbox().is_none_or(Mailbox::is_ascii)
    }
}

impl<M> ForwardPath<M> {
    /// The mailbox, unless it is the bare postmaster.
    #[must_use]
    pub const fn mailbox(&self) -> Option<&M> {
        match self {
            Self::Postmaster => None,
            Self::Mailbox(mailbox) => Some(mailbox),
        }
    }
}

impl<'a> ForwardPath<MailboxRef<'a>> {
    /// Reads a path that may hold UTF-8, and copies nothing of it.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub fn borrow_utf8(text: &'a str) -> Result<Self, AddressError> {
        match unbracketed(text)? {
            "" => Err(AddressError::Null),
            inner if inner.eq_ignore_ascii_case("postmaster") => Ok(Self::Postmaster),
            inner => MailboxRef::parse_utf8(inner).map(Self::Mailbox),
        }
    }

    /// The same path, on its own.
    #[must_use]
    pub fn to_path(&self) -> ForwardPath {
        match self {
            Self::Postmaster => ForwardPath::Postmaster,
            Self::Mailbox(mailbox) => ForwardPath::Mailbox(mailbox.to_mailbox()),
        }
    }
}

impl From<Mailbox> for ForwardPath {
    fn from(mailbox: Mailbox) -> Self {
        Self::Mailbox(mailbox)
    }
}

impl FromStr for ForwardPath {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse_utf8(text)
    }
}

impl<M: fmt::Display> fmt::Display for ForwardPath<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postmaster => f.write_str("<Postmaster>"),
            Self::Mailbox(mailbox) => write!(f, "<{mailbox}>"),
        }
    }
}

fn unbracketed(text: &str) -> Result<&str, AddressError> {
    if text.len() > PATH_MAX {
        return Err(AddressError::TooLong);
    }
    let inner = text.strip_prefix('<').and_then(|t| t.strip_suffix('>'));
    match inner {
        None => Err(AddressError::Brackets),
        Some(inner) if inner.starts_with('@') => Err(AddressError::SourceRoute),
        Some(inner) => Ok(inner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::ToString;

    #[test]
    fn mailboxes_are_kept_as_written() {
        for text in [
            "a@b",
            "o'neil+tag@Example.com",
            "\"\"@example.com",
            "\"a b\"@example.com",
            r#""a\"\\b"@example.com"#,
            "\"a@b\"@example.com",
            ";sleep@example.net",
            "u@[192.0.2.1]",
            "u@[IPv6:2001:db8::1]",
            "jörg@bücher.example",
        ] {
            let parsed = Mailbox::parse_utf8(text);
            if text.starts_with(';') {
                assert_eq!(parsed, Err(AddressError::LocalPart), "{text}");
            } else {
                assert_eq!(parsed.unwrap().to_string(), text);
            }
        }
    }

    #[test]
    fn what_is_no_mailbox_is_refused() {
        let long = "a".repeat(65);
        for (text, error) in [
            ("", AddressError::LocalPart),
            ("a", AddressError::NoHost),
            ("@b", AddressError::LocalPart),
            (".a@b", AddressError::LocalPart),
            ("a.@b", AddressError::LocalPart),
            ("a..b@c", AddressError::LocalPart),
            ("a b@c", AddressError::LocalPart),
            ("\"a\rb\"@c", AddressError::LocalPart),
            ("\"a@b", AddressError::LocalPart),
            ("\"a\"b@c", AddressError::NoHost),
            ("a\u{85}b@c", AddressError::NotAscii),
            (&format!("{long}@c"), AddressError::LocalPartTooLong),
        ] {
            assert_eq!(Mailbox::parse(text), Err(error), "{text:?}");
        }
        assert_eq!(
            Mailbox::parse_utf8("a\u{85}b@c"),
            Err(AddressError::LocalPart)
        );
    }

    #[test]
    fn equality_is_by_meaning() {
        let same = [
            ("\"a\"@Example.com", "a@example.COM"),
            (r#""\a"@b"#, "a@b"),
            (r#""a\ b"@c"#, "\"a b\"@c"),
        ];
        for (left, right) in same {
            let (left, right) = (
                Mailbox::parse(left).unwrap(),
                Mailbox::parse(right).unwrap(),
            );
            assert_eq!(left, right);
            assert_eq!(left.canonical().to_string(), right.canonical().to_string());
        }
        assert_ne!(
            Mailbox::parse("A@b").unwrap(),
            Mailbox::parse("a@b").unwrap()
        );
        assert_eq!(
            Mailbox::new("a b", Host::parse("c").unwrap())
                .unwrap()
                .local_part(),
            "\"a b\""
        );
        assert_eq!(
            Mailbox::new("", Host::parse("c").unwrap())
                .unwrap()
                .local_part(),
            "\"\""
        );
        assert!(Mailbox::new("a\nb", Host::parse("c").unwrap()).is_err());
    }

    #[test]
    fn paths_round_trip() {
        assert_eq!(ReversePath::parse("<>"), Ok(ReversePath::Null));
        assert_eq!(ReversePath::<Mailbox>::Null.to_string(), "<>");
        assert_eq!(
            ForwardPath::parse("<postMASTER>"),
            Ok(ForwardPath::Postmaster)
        );
        assert_eq!(ForwardPath::parse("<>"), Err(AddressError::Null));
        assert_eq!(ForwardPath::parse("a@b"), Err(AddressError::Brackets));
        assert_eq!(
            ForwardPath::parse("<@a,@b:c@d>"),
            Err(AddressError::SourceRoute)
        );
        assert_eq!(ForwardPath::parse("<a@b>").unwrap().to_string(), "<a@b>");
        assert_eq!(ReversePath::parse("<jörg@b>"), Err(AddressError::NotAscii));
        let most = format!(
            "<{}@{}.{}.{}>",
            "a".repeat(64),
            "b".repeat(63),
            "c".repeat(63),
            "d".repeat(61)
        );
        assert_eq!(most.len(), PATH_MAX);
        assert!(ForwardPath::parse(&most).is_ok());
        let more = most.replace("d>", "dd>");
        assert_eq!(ForwardPath::parse(&more), Err(AddressError::TooLong));
    }
}
