//! The ids that the parts use to speak of messages, sessions, deliveries and writes.

use std::fmt;
use std::str::FromStr;

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const MESSAGE_ID_LEN: usize = 13;

/// The id of an accepted message: the same in the 250, the Received header, every event, every command.
///
/// It is written as 13 digits of Crockford's base 32. Ids rise with time: the upper 44 bits are the
/// milliseconds since 1970 at acceptance, the lower 20 count within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(u64);

impl MessageId {
    /// From its number.
    #[must_use]
    pub const fn from_u64(id: u64) -> Self {
        Self(id)
    }

    /// Its number.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0u8; MESSAGE_ID_LEN];
        let mut rest = self.0;
        for digit in digits.iter_mut().rev() {
            *digit = ALPHABET[(rest & 31) as usize];
            rest >>= 5;
        }
        digits
            .iter()
            .try_for_each(|&digit| write!(f, "{}", char::from(digit)))
    }
}

/// The text is not a message id: 13 digits of Crockford's base 32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAMessageId;

impl fmt::Display for NotAMessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a message id has 13 characters, digits and capital letters, as in the 250 reply",
        )
    }
}

impl std::error::Error for NotAMessageId {}

impl FromStr for MessageId {
    type Err = NotAMessageId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != MESSAGE_ID_LEN {
            return Err(NotAMessageId);
        }
        let mut id: u64 = 0;
        for byte in text.bytes() {
            let byte = byte.to_ascii_uppercase();
            let digit = ALPHABET
                .iter()
                .position(|&d| d == byte)
                .ok_or(NotAMessageId)? as u64;
            id = id
                .checked_mul(32)
                .and_then(|id| id.checked_add(digit))
                .ok_or(NotAMessageId)?;
        }
        Ok(Self(id))
    }
}

macro_rules! small_id {
    ($(#[$doc:meta])* $name:ident($repr:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $repr);
    };
}

small_id!(
    /// A client's connection, for as long as it lasts. The runtime numbers them.
    SessionId(u64)
);
small_id!(
    /// A connection (or the attempt at one) to a receiver. The engine numbers them.
    DeliveryId(u64)
);
small_id!(
    /// A write that the store will acknowledge. The engine numbers them.
    WriteId(u64)
);
small_id!(
    /// A request to resolve names for the engine. The engine numbers them.
    ResolveId(u64)
);
small_id!(
    /// An errand that a runtime runs for the engine. The engine numbers them.
    ErrandId(u64)
);
small_id!(
    /// An administrator's request. The runtime numbers them.
    AdminId(u64)
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_id_reads_back_what_it_writes() {
        for id in [0, 1, 31, 32, u64::MAX, 1_700_000_000_000 << 20] {
            let id = MessageId::from_u64(id);
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for bad in ["", "0", "UUUUUUUUUUUUU", "ZZZZZZZZZZZZZ", "00000000000000"] {
            assert_eq!(bad.parse::<MessageId>(), Err(NotAMessageId), "{bad}");
        }
    }
}
