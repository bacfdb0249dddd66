//! Which header fields are signed, and the field that says so.
//!
//! RFC 6376 §3.5 (tags), §3.7 (what is hashed), §5.4 (which fields, and how to bar more of them).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::canonical::relaxed_field;
use super::key::{Key, KeyError};
use crate::inbound::body::fields;
use crate::time::UnixTime;

/// Fields that are listed once more than they are there: a field of that name that is added later breaks
/// the signature. What receivers show, act on, or read the body by. RFC 6376 §8.15.
pub(super) const BARRED: [&str; 19] = [
    "From",
    "Reply-To",
    "To",
    "Cc",
    "Subject",
    "Date",
    "Message-ID",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "Content-Disposition",
    "List-Id",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "List-Help",
    "List-Subscribe",
    "List-Post",
    "List-Owner",
    "List-Archive",
];

/// Fields that are signed where they are there. RFC 8460 §5.3 asks for the last two.
const PRESENT: [&str; 6] = [
    "Sender",
    "In-Reply-To",
    "References",
    "Feedback-ID",
    "TLS-Report-Domain",
    "TLS-Report-Submitter",
];

/// The most names in `h=`.
const NAMES_MAX: usize = 200;

/// Where lines are folded. RFC 5322 §2.1.1.
const LINE_WISH: usize = 76;

/// The fields that are signed.
#[derive(Debug)]
pub(super) struct Selected {
    /// Their names for `h=`, in order.
    names: Vec<&'static str>,
    /// Their relaxed forms in that order.
    data: Vec<u8>,
}

impl Selected {
    /// Those of a header block; none if there are too many.
    pub(super) fn from_block(block: &[u8]) -> Option<Self> {
        Self::from_block_with(block, &[])
    }

    /// Those of a header block, with these where they are there; none if there are too many.
    pub(super) fn from_block_with(block: &[u8], also: &[&'static str]) -> Option<Self> {
        let mut names = Vec::with_capacity(2 * BARRED.len());
        for (known, more) in BARRED
            .iter()
            .map(|n| (*n, 1))
            .chain(PRESENT.map(|n| (n, 0)))
            .chain(also.iter().map(|n| (*n, 0)))
        {
            let is = |name: &[u8]| name.eq_ignore_ascii_case(known.as_bytes());
            let count = fields(block).filter(|(name, _)| is(name)).count() + more;
            if names.len() + count > NAMES_MAX {
                return None;
            }
            names.resize(names.len() + count, known);
        }
        let data = header_data(block, &names);
        Some(Self { names, data })
    }

    /// Their names, in order.
    pub(super) fn names(&self) -> &[&'static str] {
        &self.names
    }

    /// Their relaxed forms.
    pub(super) fn data(&self) -> &[u8] {
        &self.data
    }
}

/// The relaxed forms of the fields that `h=` lists: of several with one name the last comes first, and a
/// name without a field left stands for nothing. RFC 6376 §5.4.2.
pub(super) fn header_data(block: &[u8], names: &[&str]) -> Vec<u8> {
    let mut left: Vec<_> = fields(block).map(Some).collect();
    let mut data = Vec::new();
    for wanted in names {
        let last = left.iter_mut().rev().find(|field| {
            field.is_some_and(|(name, _)| name.eq_ignore_ascii_case(wanted.as_bytes()))
        });
        if let Some((name, value)) = last.and_then(Option::take) {
            relaxed_field(&mut data, name, value);
        }
    }
    data
}

/// What a signature says, beside what it covers.
pub(super) struct Signature<'a> {
    pub(super) domain: &'a str,
    pub(super) selector: &'a str,
    pub(super) time: UnixTime,
    pub(super) body_hash: &'a [u8; 32],
}

impl Signature<'_> {
    /// Appends the DKIM-Signature field of one key.
    pub(super) fn write(
        &self,
        out: &mut Vec<u8>,
        header: &Selected,
        key: &Key,
    ) -> Result<(), KeyError> {
        let unsigned = self.unsigned(header, key);
        let signature = seal(&header.data, &unsigned, key)?;
        out.extend_from_slice(NAME.as_bytes());
        out.extend_from_slice(b":");
        out.extend_from_slice(unsigned.as_bytes());
        let mut text = String::new();
        fold(&mut text, &STANDARD.encode(signature));
        out.extend_from_slice(text.as_bytes());
        Ok(())
    }

    /// The value of the field, up to and with an empty `b=`.
    fn unsigned(&self, header: &Selected, key: &Key) -> String {
        let Self {
            domain, selector, ..
        } = self;
        let mut value = format!(
            " v=1; a={}; c=relaxed/relaxed; d={domain};\r\n\ts={selector}; t={};\r\n\th=",
            key.algorithm(),
            self.time.as_secs()
        );
        fold_names(&mut value, &header.names);
        let body_hash = STANDARD.encode(self.body_hash);
        value.push_str(&format!("\r\n\tbh={body_hash};\r\n\tb="));
        value
    }
}

/// Appends the names of `h=`, which begins its line, with a `;` behind them.
pub(super) fn fold_names(value: &mut String, names: &[&str]) {
    let mut column = "\th=".len();
    for (at, name) in names.iter().enumerate() {
        let end = if at + 1 == names.len() { ";" } else { ":" };
        if column + name.len() + 1 > LINE_WISH {
            value.push_str("\r\n\t");
            column = 1;
        }
        value.push_str(name);
        value.push_str(end);
        column += name.len() + 1;
    }
}

/// Appends the text of `b=`, which begins its line, and the CRLF that ends the field.
pub(super) fn fold(value: &mut String, text: &str) {
    let mut room = LINE_WISH - "\tb=".len();
    let mut rest = text;
    while rest.len() > room {
        let (line, after) = rest.split_at(room);
        value.push_str(line);
        value.push_str("\r\n\t");
        (rest, room) = (after, LINE_WISH - 1);
    }
    value.push_str(rest);
    value.push_str("\r\n");
}

const NAME: &str = "DKIM-Signature";

/// The signature of header fields in their relaxed form and of the DKIM-Signature field with this value,
/// whose `b=` is empty. RFC 6376 §3.7.
pub(super) fn seal(data: &[u8], value: &str, key: &Key) -> Result<Vec<u8>, KeyError> {
    let mut data = data.to_vec();
    relaxed_field(&mut data, NAME.as_bytes(), value.as_bytes());
    data.truncate(data.len() - "\r\n".len());
    key.sign(&data)
}
