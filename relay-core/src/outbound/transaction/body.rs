//! The body of a message, burst by burst: from memory, or asked for piece by piece.

use std::sync::Arc;

use bytes::Bytes;
use smtp_proto::BodyType;
use smtp_proto::client::{Connection, SendError};

use super::{Phase, Progress, Transaction};
use crate::outbound::finding::{Finding, Loss, Stage};
use crate::outbound::io::Request;
use crate::outbound::link::Link;
use crate::outbound::outcome::{Seen, Then, judge};
use crate::outbound::work::Work;
use crate::queue::message::Body;
use crate::queue::store::LoadFailed;
use crate::time::Instant;

/// Octets of a body in one burst: with every line a dot, stuffing makes 4 of 3.
const PIECE_MAX: usize = 48 * 1024;

impl Transaction {
    /// The piece of the body that was asked for.
    pub(in crate::outbound) fn body(
        &mut self,
        piece: Result<Bytes, LoadFailed>,
        link: &mut Link,
        work: &mut Work,
        now: Instant,
    ) -> Progress {
        match piece {
            Ok(piece) if !piece.is_empty() => match self.send_piece(&piece, link) {
                Ok(()) => self.go_on(link, work, now),
                Err(why) => self.unreadable(unsendable(why), link, work),
            },
            Ok(_) => {
                let why = LoadFailed::Damaged("the body is shorter than it was".to_owned());
                self.unreadable(why, link, work)
            }
            Err(why) => self.unreadable(why, link, work),
        }
    }

    /// The next burst of the body.
    pub(super) fn send_body(
        &mut self,
        sent: u64,
        link: &mut Link,
        work: &mut Work,
        now: Instant,
    ) -> Progress {
        let size = self.size();
        if sent >= size {
            self.phase = Phase::Ending;
            if self.mail.body != Some(BodyType::BinaryMime)
                && let Err(why) = link.send(Connection::body_end)
            {
                return self.cut(Finding::Lost(Loss::Protocol(why.to_string())), link, work);
            }
            return self.wait(link, now);
        }
        let loaded = Arc::clone(&self.loaded);
        let prefix = &loaded.message.prefix;
        let at = usize::try_from(sent).unwrap_or(usize::MAX);
        let head = prefix.get(at..).unwrap_or_default();
        let head = &head[..head.len().min(PIECE_MAX)];
        if !head.is_empty()
            && let Err(why) = self.send_piece(head, link)
        {
            return self.unreadable(unsendable(why), link, work);
        }
        let (sent, room) = (sent + head.len() as u64, PIECE_MAX - head.len());
        let Some(offset) = sent.checked_sub(prefix.len() as u64).filter(|_| room > 0) else {
            return Progress::Ask(Request::Flush);
        };
        let left = usize::try_from(size - sent).unwrap_or(usize::MAX);
        let max = left.min(room);
        let Body::Memory(bytes) = &loaded.body else {
            let id = loaded.message.id;
            return Progress::Ask(Request::ReadBody { id, offset, max });
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let piece = bytes
            .get(start..start.saturating_add(max))
            .unwrap_or_default();
        match self.send_piece(piece, link) {
            Ok(()) if left > max => Progress::Ask(Request::Flush),
            Ok(()) => self.send_body(size, link, work, now),
            Err(why) => self.unreadable(unsendable(why), link, work),
        }
    }

    fn send_piece(&mut self, piece: &[u8], link: &mut Link) -> Result<(), SendError> {
        let Phase::Body(sent) = self.phase else {
            return Err(SendError::WrongState);
        };
        let left = self.size().saturating_sub(sent);
        if piece.len() as u64 > left {
            return Err(SendError::OverChunk);
        }
        link.send(|smtp, wire| smtp.body(piece, wire))?;
        self.phase = Phase::Body(sent + piece.len() as u64);
        Ok(())
    }

    /// The body cannot be read to its end: without its end it is no message for the host.
    fn unreadable(&mut self, why: LoadFailed, link: &mut Link, work: &mut Work) -> Progress {
        link.end_with(Then::Drop);
        work.settle_rest(&judge(Stage::Store, &Finding::Store(why), Seen::default()));
        Progress::Done
    }

    pub(super) fn size(&self) -> u64 {
        match &self.loaded.body {
            Body::Memory(bytes) => (self.loaded.message.prefix.len() + bytes.len()) as u64,
            Body::Spooled => self.loaded.message.size,
        }
    }
}

/// What the client machine refuses to send of a stored body. A body that is not what was taken in is
/// damaged; anything else is a bug of ours, and no reason to give a message up.
fn unsendable(why: SendError) -> LoadFailed {
    match why {
        SendError::OverChunk | SendError::BareNewline => LoadFailed::Damaged(why.to_string()),
        SendError::NotYet
        | SendError::BurstFull
        | SendError::WrongState
        | SendError::NotOffered(_)
        | SendError::BadArgument
        | SendError::NoRecipient
        | SendError::Closed => LoadFailed::Io(why.to_string()),
    }
}
