//! Room in memory for messages that arrive: lent at MAIL, so that no DATA is ever cut off for want of it.
//!
//! ```text
//!  Mail ──▶ lent ──Submit──▶ the body counts until it is written
//!            └──Abandon, Bye, the next Mail──▶ given back
//! ```
//!
//! The more is lent, the less each new message gets; what is larger than its room goes to the spool in
//! pieces. Only when there is not even room for a piece is MAIL refused.

use smtp_proto::server::Rejection;

use super::{Engine, Refusal};
use crate::id::SessionId;
use crate::queue::message::BODY_MEMORY_MAX;

/// The least room. Most mail fits into it.
const ROOM_MIN: usize = 16 * 1024;
/// A message gets at most this part of what is free.
const PART: usize = 32;
/// What the relay's own header fields add to the declared size.
const HEADER_FIELDS: u64 = 4096;

impl Engine {
    /// The room for a message of a declared size, or of an unknown one.
    pub(super) fn room_for(&self, size: Option<u64>) -> Result<usize, Refusal> {
        let used = self.accept.bytes + self.accept.lent;
        let free = self.capacity.arriving.saturating_sub(used);
        let most = (free / PART).clamp(ROOM_MIN, BODY_MEMORY_MAX);
        let needed = size.and_then(|size| usize::try_from(size.saturating_add(HEADER_FIELDS)).ok());
        let room = needed.map_or(most, |needed| needed.clamp(ROOM_MIN, most));
        if room > free {
            return Err(self.no_room());
        }
        Ok(room)
    }

    /// What a session was lent for its last message is free again.
    pub(super) fn return_room(&mut self, session: SessionId) {
        if let Some(lent) = self.admit.take_loan(session) {
            self.accept.lent -= lent;
        }
    }

    fn no_room(&self) -> Refusal {
        let text = if self.accept.bytes > self.capacity.arriving / 2 {
            "The disk is slow, try again in a minute"
        } else {
            "Too many messages arrive at once, try again in a minute"
        };
        Refusal {
            why: Rejection::STORAGE_FULL,
            text: text.to_owned(),
            close: false,
        }
    }
}
