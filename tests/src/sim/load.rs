//! What the relay takes on at once, counted from outside: memory and connections stay within limits.

use std::collections::BTreeMap;

use relay_core::engine::{Answer, Ask};
use relay_core::id::{SessionId, WriteId};
use relay_core::queue::message::Body;
use relay_core::queue::store::StoreMessage;

use super::lookup::Asking;
use super::setup::capacity;
use super::world::World;

/// What was lent, and what waits for the disk.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// Octets that a session may hold in memory of the message that it takes.
    rooms: BTreeMap<SessionId, usize>,
    /// Octets of bodies that are not written yet.
    writes: BTreeMap<WriteId, usize>,
}

impl Load {
    pub(crate) fn answered(&mut self, id: SessionId, answer: &Answer) {
        if let Answer::Mail { room, .. } = answer {
            self.rooms.insert(id, *room);
        }
    }

    pub(crate) fn asks(&mut self, id: SessionId, ask: &Ask) {
        match ask {
            Ask::Submit(_) | Ask::Abandon(_) | Ask::Bye | Ask::Mail { .. } => {
                self.rooms.remove(&id);
            }
            Ask::Connect { .. }
            | Ask::Credential { .. }
            | Ask::Turn
            | Ask::Authenticated { .. }
            | Ask::SenderRefused { .. } => {}
        }
    }

    pub(crate) fn writes(&mut self, write: WriteId, message: &StoreMessage) {
        // A report of our own is no message that arrives.
        if let (Body::Memory(body), true) = (
            &message.body,
            message.message.envelope.from.mailbox().is_some(),
        ) {
            self.writes.insert(write, body.len());
        }
    }

    pub(crate) fn written(&mut self, write: WriteId) {
        self.writes.remove(&write);
    }
}

impl World {
    /// After every step: no more than there is room for.
    pub(crate) fn check_load(&mut self) {
        let most = capacity(&self.profile);
        let Some(relay) = &self.relay else {
            return;
        };
        let octets: usize = (self.load.rooms.values())
            .chain(self.load.writes.values())
            .sum();
        let names = relay.lookups.values();
        let questions = relay.errands.len()
            + names
                .filter(|asking| matches!(asking, Asking::Mx(..)))
                .count();
        let counts = [
            (octets, most.arriving, "octets of messages that arrive"),
            (relay.deliveries.len(), most.deliveries, "deliveries"),
            (questions, most.questions, "questions and errands"),
        ];
        let over = counts.into_iter().find(|(count, most, _)| count > most);
        if let Some((count, most, what)) = over {
            self.book
                .blame(format!("{count} {what} at once, there is room for {most}"));
        }
    }
}
