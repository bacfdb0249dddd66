//! The TXT record at `_mta-sts.DOMAIN`: says that there is a policy, and by its id which. RFC 8461 §3.1.

use std::fmt;

/// The longest id.
const ID_MAX: usize = 32;

/// Why the TXT records of a domain announce no policy. RFC 8461 §3.1: "senders MUST assume the recipient
/// domain does not have an available MTA-STS Policy".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadRecord {
    /// None begins with `v=STSv1;`.
    None,
    /// More than one does.
    Several,
    /// The one that does is malformed.
    Malformed,
}

impl fmt::Display for BadRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "no TXT record begins with v=STSv1",
            Self::Several => "more than one TXT record begins with v=STSv1",
            Self::Malformed => "the TXT record is malformed: v=STSv1; id=1*32(letter or digit)",
        })
    }
}

/// The id that the TXT records of a domain announce.
///
/// # Errors
/// [`BadRecord`]: there is no policy.
pub fn record_id<'t>(texts: impl IntoIterator<Item = &'t [u8]>) -> Result<String, BadRecord> {
    // RFC 8461 §3.1: "records that do not begin with "v=STSv1;" are discarded".
    let mut ours = texts.into_iter().filter_map(after_version);
    let fields = ours.next().ok_or(BadRecord::None)?;
    if ours.next().is_some() {
        return Err(BadRecord::Several);
    }
    id(fields).ok_or(BadRecord::Malformed)
}

/// What follows `v=STSv1` and its delimiter.
fn after_version(text: &[u8]) -> Option<&[u8]> {
    text.strip_prefix(b"v=STSv1")?
        .trim_ascii_start()
        .strip_prefix(b";")
}

fn id(fields: &[u8]) -> Option<String> {
    let mut id = None;
    let mut fields = fields.split(|&b| b == b';').peekable();
    while let Some(field) = fields.next() {
        let field = trim_wsp(field);
        if field.is_empty() && fields.peek().is_none() {
            break;
        }
        let (name, value) = split_at(field, b'=')?;
        if !is_field_name(name)
            || !value
                .iter()
                .all(|&b| (0x21..0x7f).contains(&b) && b != b'=')
        {
            return None;
        }
        // RFC 8461 §3.2: of fields that are not repeated, "all entries except for the first SHALL be
        // ignored".
        if name == b"id" && id.is_none() {
            let fits = (1..=ID_MAX).contains(&value.len());
            if !fits || !value.iter().all(u8::is_ascii_alphanumeric) {
                return None;
            }
            id = String::from_utf8(value.to_vec()).ok();
        }
    }
    id
}

pub(super) fn trim_wsp(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

pub(super) fn split_at(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let colon = memchr::memchr(at, text)?;
    Some((&text[..colon], &text[colon + 1..]))
}

/// `(ALPHA / DIGIT) *31(ALPHA / DIGIT / "_" / "-" / ".")`
pub(super) fn is_field_name(name: &[u8]) -> bool {
    let rest = |&b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    (1..=32).contains(&name.len()) && name[0].is_ascii_alphanumeric() && name.iter().all(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records() {
        let read = |texts: &[&str]| record_id(texts.iter().map(|text| text.as_bytes()));
        let ids = [
            ("v=STSv1; id=20160831085700Z;", "20160831085700Z"),
            ("v=STSv1;id=1", "1"),
            ("v=STSv1 ; id=1 ; a.b-c_d=x ;", "1"),
            ("v=STSv1; ext=1; id=2; id=3", "2"),
            (
                "v=STSv1; id=abcdefghijklmnopqrstuvwxyz012345",
                "abcdefghijklmnopqrstuvwxyz012345",
            ),
        ];
        for (text, id) in ids {
            assert_eq!(read(&[text]).as_deref(), Ok(id), "{text}");
            let others = ["v=spf1 -all", text, "v=STSv2; id=9", "v=STSv10; id=9"];
            assert_eq!(read(&others).as_deref(), Ok(id), "{text}");
            assert_eq!(read(&[text, text]), Err(BadRecord::Several));
        }
        for text in [
            "v=STSv1;",
            "v=STSv1; ",
            "v=STSv1; id=",
            "v=STSv1; id=a b",
            "v=STSv1; id=a-b",
            "v=STSv1; id=abcdefghijklmnopqrstuvwxyz0123456",
            "v=STSv1; id",
            "v=STSv1;; id=1",
            "v=STSv1; -x=1; id=1",
            "v=STSv1; id=1; x=\u{e9}",
            "v=STSv1; x=y",
        ] {
            assert_eq!(read(&[text]), Err(BadRecord::Malformed), "{text}");
        }
        for text in [
            "",
            "id=1; v=STSv1",
            "V=STSv1; id=1",
            "v=stsv1; id=1",
            " v=STSv1; id=1",
            "v=STSv1 id=1",
        ] {
            assert_eq!(read(&[text]), Err(BadRecord::None), "{text}");
        }
    }
}
