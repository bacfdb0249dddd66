//! How much the relay takes on, from what the machine gives it.
//!
//! The configuration says what is allowed; this says what there is room for, and the smaller one
//! holds. What does not fit is told to come back later (RFC 5321 §4.5.3.1.10 and §3.8: 452, 421), long
//! before the system refuses memory or descriptors to what was accepted.

use crate::queue::message::BODY_MEMORY_MAX;

/// Descriptors for what is neither a client's nor a receiver's: the store's files, listeners,
/// administrators, the runtime.
const DESCRIPTORS_RESERVED: u64 = 24;

/// The most octets of messages on their way in, and as many on their way out.
const MESSAGES_MAX: u64 = 64 * 1024 * 1024;
/// The least.
const MESSAGES_MIN: u64 = 2 * 1024 * 1024;

/// What the machine gives the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    /// Memory, in octets.
    pub memory: u64,
    /// Open files and sockets.
    pub descriptors: u64,
    /// What a connection takes of the memory on this runtime, in octets, besides its message.
    pub connection: u64,
}

/// What there is room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Client connections.
    pub sessions: usize,
    /// Connections to receivers.
    pub deliveries: usize,
    /// Questions to name servers at once.
    pub questions: usize,
    /// Octets of messages that arrive or are being written.
    pub arriving: usize,
    /// Octets of messages that are kept in memory until their first attempt.
    pub kept: usize,
}

impl Default for Capacity {
    /// A machine with room for all that the configuration allows.
    fn default() -> Self {
        let messages = clamped(MESSAGES_MAX);
        Self {
            sessions: usize::MAX,
            deliveries: usize::MAX,
            questions: 256,
            arriving: messages,
            kept: messages,
        }
    }
}

impl Capacity {
    /// Shares a machine out. Of the memory, a quarter goes to connections, an eighth each to messages
    /// that arrive, that wait in memory and that are delivered; the rest is for the queue, and for what
    /// an allocator wastes. A session may need a second descriptor for its spool file, a delivery for a
    /// question to a name server.
    #[must_use]
    pub fn of(resources: &Resources) -> Self {
        let Resources {
            memory,
            descriptors,
            connection,
        } = *resources;
        let open = descriptors.saturating_sub(DESCRIPTORS_RESERVED);
        let messages = (memory / 8).clamp(MESSAGES_MIN, MESSAGES_MAX);
        let sessions = (open * 3 / 8).min(memory / 4 / connection.max(1));
        let deliveries = (open / 8).min(memory / 8 / BODY_MEMORY_MAX as u64);
        Self {
            sessions: clamped(sessions.max(4)),
            deliveries: clamped(deliveries.max(2)),
            questions: clamped((open / 8).clamp(2, 256)),
            arriving: clamped(messages),
            kept: clamped(messages),
        }
    }

    /// How many connections a runtime opens at once, those included that are only told to come back
    /// later. What is beyond is closed unheard.
    #[must_use]
    pub fn seats(&self) -> usize {
        let turned_away = (self.sessions / 8).clamp(4, 1024);
        self.sessions.saturating_add(turned_away)
    }
}

fn clamped(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn of(memory: u64, descriptors: u64) -> Capacity {
        Capacity::of(&Resources {
            memory,
            descriptors,
            connection: 16 * 1024,
        })
    }

    #[test]
    fn a_server_is_not_limited_and_a_router_is() {
        let server = of(16 * 1024 * MIB, 1 << 20);
        assert!(server.sessions > 100_000 && server.deliveries > 5000);
        assert_eq!(server.arriving, 64 << 20);
        assert_eq!(server.questions, 256);

        let router = of(64 * MIB, 1 << 20);
        assert_eq!(router.sessions, 1024);
        assert_eq!(router.deliveries, 32);
        assert_eq!((router.arriving, router.kept), (8 << 20, 8 << 20));
    }

    #[test]
    fn few_descriptors_are_shared_and_never_exceeded() {
        // RES-06.
        for descriptors in [40, 64, 256, 1024, 65_536] {
            let capacity = of(1024 * MIB, descriptors);
            let used = capacity.seats() + capacity.deliveries + capacity.questions;
            assert!(
                used as u64 + 16 <= descriptors,
                "{descriptors}: {capacity:?}"
            );
            assert!(capacity.sessions >= 4 && capacity.deliveries >= 2);
        }
    }
}
