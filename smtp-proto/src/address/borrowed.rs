//! A mailbox as it stands in a line: checked, and not copied yet.
//!
//! A command line is read into one of these, so that a command that is refused costs no copy.

use core::fmt;

use super::{AddressError, LOCAL_PART_MAX, Mailbox, PATH_MAX, local_part_end};
use crate::domain::{DOMAIN_MAX, HostRef, is_label};
use crate::octets;

/// A [`Mailbox`] that borrows the octets it was read from. It is valid, and compares, as the mailbox
/// that [`MailboxRef::to_mailbox`] makes of it.
///
/// It holds octets rather than a `str`: that they are UTF-8 follows from the grammar, and is made
/// known to the compiler by a second look at them only when they are wanted as text.
#[derive(Clone, Copy)]
pub struct MailboxRef<'a> {
    local: &'a [u8],
    host: HostRef<'a>,
}

impl<'a> MailboxRef<'a> {
    /// Reads a mailbox that may hold UTF-8, without angle brackets. RFC 6531 §3.3.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub fn parse_utf8(text: &'a str) -> Result<Self, AddressError> {
        if text.len() > PATH_MAX - 2 {
            return Err(AddressError::TooLong);
        }
        let end = local_part_end(text)?;
        if end > LOCAL_PART_MAX {
            return Err(AddressError::LocalPartTooLong);
        }
        let (local, rest) = text.split_at(end);
        let host = rest.strip_prefix('@').ok_or(AddressError::NoHost)?;
        let host = HostRef::parse_utf8(host).map_err(AddressError::Host)?;
        let local = local.as_bytes();
        Ok(Self { local, host })
    }

    /// The mailbox of a path whose `<` was read, and what follows its `>`: if it is of the form that
    /// nearly all are of, a dot-string and a domain in ASCII. `None` says nothing about others.
    #[inline(always)]
    pub(crate) fn of_plain_path(octets: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (local, [b'@', rest @ ..]) = octets.split_at(dot_string_end(octets)?) else {
            return None;
        };
        let (domain, [b'>', rest @ ..]) = rest.split_at(domain_end(rest)?) else {
            return None;
        };
        if local.len() > LOCAL_PART_MAX || local.len() + domain.len() >= PATH_MAX - 2 {
            return None;
        }
        let host = HostRef::Domain(domain);
        Some((Self { local, host }, rest))
    }

    /// The local part as it was written, with quotes if it had them: UTF-8.
    #[must_use]
    pub const fn local_part(&self) -> &'a [u8] {
        self.local
    }

    /// The domain as it was written, in UTF-8, unless the host is an address literal.
    #[must_use]
    pub const fn domain(&self) -> Option<&'a [u8]> {
        match self.host {
            HostRef::Domain(domain) => Some(domain),
            HostRef::Literal(_) => None,
        }
    }

    /// Whether it can be sent without SMTPUTF8.
    #[must_use]
    pub fn is_ascii(&self) -> bool {
        self.local.is_ascii() && self.domain().is_none_or(<[u8]>::is_ascii)
    }

    /// The same mailbox, on its own. It allocates only for a local part or a domain over 23 octets.
    #[must_use]
    pub fn to_mailbox(&self) -> Mailbox {
        Mailbox {
            // It was read from text, or octet by octet from ASCII.
            local: core::str::from_utf8(self.local).unwrap_or_default().into(),
            host: self.host.to_host(),
        }
    }
}

impl PartialEq for MailboxRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.to_mailbox() == other.to_mailbox()
    }
}

impl Eq for MailboxRef<'_> {}

impl fmt::Display for MailboxRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_mailbox().fmt(f)
    }
}

impl fmt::Debug for MailboxRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where the dot-string at the start is ended by an `@`.
fn dot_string_end(octets: &[u8]) -> Option<usize> {
    let mut end = 0;
    loop {
        let atom = octets::PLAIN_ATEXT.prefix(&octets[end..]);
        if atom == 0 {
            return None;
        }
        end += atom;
        match octets.get(end)? {
            b'.' => end += 1,
            b'@' => return Some(end),
            _ => return None,
        }
    }
}

/// Where the domain at the start is ended by a `>`.
fn domain_end(octets: &[u8]) -> Option<usize> {
    let mut end = 0;
    loop {
        let label = octets::PLAIN_LABEL.prefix(&octets[end..]);
        if !is_label(&octets[end..end + label]) {
            return None;
        }
        end += label;
        match octets.get(end)? {
            b'.' => end += 1,
            b'>' if end <= DOMAIN_MAX => return Some(end),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::String;
    use alloc::vec;
    use proptest::prelude::*;

    /// Pieces of paths, most of them good, so that many paths are plain and many nearly so.
    fn path() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            8 => "[a-zA-Z0-9]{1,9}",
            3 => prop::sample::select(vec![".", "@", "-", "+", ">", "..", "\"", "[", "ü", " ", "\0", ","])
                .prop_map(String::from),
            1 => "[a-z]{62,65}",
        ];
        (
            prop::collection::vec(piece, 0..9),
            prop::collection::vec("[a-z-]{0,40}", 0..8),
        )
            .prop_map(|(pieces, labels)| match labels.is_empty() {
                true => pieces.concat(),
                false => format!("{}@{}", pieces.concat(), labels.join(".")),
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 4000, ..ProptestConfig::default() })]

        /// What is taken for plain is what the reader of all mailboxes takes, and the same; and a
        /// dot-string at a domain in ASCII is always taken for plain.
        #[test]
        fn plain_paths_are_read_as_all_others(text in path(), tail in "[ a>]{0,3}") {
            let line = format!("{text}>{tail}");
            let inner = &line[..line.find('>').unwrap()];
            let slow = MailboxRef::parse_utf8(inner);
            match MailboxRef::of_plain_path(line.as_bytes()) {
                Some((mailbox, rest)) => {
                    prop_assert_eq!(Ok(mailbox), slow);
                    prop_assert_eq!(rest, &line.as_bytes()[inner.len() + 1..]);
                }
                None => prop_assert!(
                    slow.is_err() || !inner.is_ascii() || inner.contains(['"', '[']),
                    "{:?}", line
                ),
            }
        }
    }
}
