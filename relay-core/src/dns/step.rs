//! What a lookup and its runtime say to each other.

use std::io;
use std::net::SocketAddr;

use crate::time::Instant;

/// How a message travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// One datagram each way.
    Udp,
    /// A connection; length prefixes are part of the bytes here.
    Tcp,
}

/// What a lookup wants of its runtime.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Step {
    /// Close the socket of the exchange before, open a new one, connect it, send the message, and hand
    /// in what comes until the deadline (also while connecting).
    ///
    /// A UDP socket must have a port of its own that nobody can predict: leave the choice to the
    /// system (port 0), which draws it at random from some 28,000; with the id, those are 30 bits.
    Exchange {
        /// How.
        transport: Transport,
        /// Where to.
        server: SocketAddr,
        /// What to write, whole.
        message: Vec<u8>,
        /// When to hand in [`Event::Timeout`].
        until: Instant,
    },
    /// That was not (all of) the answer: keep the socket, read on.
    Listen {
        /// When to hand in [`Event::Timeout`]; the same as for the exchange.
        until: Instant,
    },
    /// Hand the lookup to `Resolver::finish`.
    Done,
}

/// What a runtime tells a lookup.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A datagram, or some bytes of the TCP stream.
    Received {
        /// Where it came from.
        from: SocketAddr,
        /// Its bytes.
        bytes: &'a [u8],
    },
    /// The deadline passed.
    Timeout,
    /// The socket failed; for a stream that ended, `UnexpectedEof`.
    Failed(io::ErrorKind),
}
