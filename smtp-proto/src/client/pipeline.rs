//! What was sent and not yet answered, in the order in which the replies will come.
//!
//! This module owns the rules about having more than one command out: whether another may be sent
//! now, and which one the next reply answers.
//!
//! ```text
//!   send ──▶ │ QUIT │ body end │ DATA │ RCPT 1 │ RCPT 0 │ MAIL │ ──▶ the next reply answers MAIL
//!            newest                                     oldest
//! ```
//!
//! RFC 2920 §3.1 (which commands end their group), RFC 3030 §4.2 (BDAT among them), RFC 2033 §4.2
//! (one reply a recipient after the body).

use alloc::collections::VecDeque;

use super::SendError;

/// The most commands that are out at once.
///
/// With [`BURST_MAX`] it keeps both sides' socket buffers from filling with commands that one and
/// replies that the other does not read. RFC 2920 §3.1.
pub const COMMANDS_MAX: usize = 1000;

/// The most bytes of commands that are out at once. A body is not counted.
pub const BURST_MAX: usize = 64 * 1024;

/// Which greeting command opens the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hello {
    /// RFC 5321 §4.1.1.1.
    Ehlo,
    /// The same without extensions, for servers that refuse EHLO.
    Helo,
    /// LMTP. RFC 2033 §4.1.
    Lhlo,
}

impl Hello {
    /// The verb as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ehlo => "EHLO",
            Self::Helo => "HELO",
            Self::Lhlo => "LHLO",
        }
    }
}

/// What a reply answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Awaiting {
    /// The opening of the connection.
    Greeting,
    /// EHLO, HELO or LHLO.
    Hello(Hello),
    /// STARTTLS.
    StartTls,
    /// AUTH, the response to a challenge, or its cancellation.
    Auth,
    /// XCLIENT. After its 220 the session begins anew: say hello.
    XClient,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt {
        /// Which one of its transaction, from 0, whether or not those before it were accepted.
        index: usize,
    },
    /// DATA. An intermediate reply asks for the body.
    Data,
    /// A BDAT chunk that is not the last.
    Chunk,
    /// The end of the body: the final dot, or BDAT LAST.
    BodyEnd {
        /// LMTP: the recipient, by its RCPT index, that this reply speaks of. `None` in SMTP, and in
        /// LMTP as long as replies to RCPT are awaited or where no recipient was accepted.
        rcpt: Option<usize>,
    },
    /// RSET.
    Reset,
    /// NOOP.
    Noop,
    /// QUIT.
    Quit,
}

impl Awaiting {
    /// Whether nothing may follow in the same burst.
    fn ends_group(self) -> bool {
        match self {
            // RFC 2920 §3.1: "can only appear as the last command in a group".
            Self::Greeting | Self::Hello(_) | Self::Data | Self::Noop | Self::Quit => true,
            // RFC 3207 §4, RFC 4954 §4: the reply decides what the next bytes are.
            Self::StartTls | Self::Auth | Self::XClient => true,
            // RFC 2920 §3.1, RFC 3030 §4.2. A body's end is no command: what follows opens a group.
            Self::Mail | Self::Rcpt { .. } | Self::Reset => false,
            Self::Chunk | Self::BodyEnd { .. } => false,
        }
    }

    /// Whether it may be sent while other commands are out.
    fn starts_group(self) -> bool {
        match self {
            Self::Greeting | Self::Hello(_) | Self::StartTls | Self::Auth | Self::XClient => true,
            Self::Mail | Self::Rcpt { .. } | Self::Data | Self::Chunk => false,
            Self::BodyEnd { .. } | Self::Reset | Self::Noop | Self::Quit => false,
        }
    }
}

/// One entry of the queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub(super) awaiting: Awaiting,
    /// Which transaction it belongs to: a late reply must not change a newer one.
    pub(super) transaction: u64,
    /// Its length on the wire.
    pub(super) bytes: usize,
}

/// The queue.
#[derive(Debug)]
pub(super) struct Pipeline {
    queue: VecDeque<Sent>,
    bytes: usize,
}

impl Pipeline {
    /// A connection begins with the wait for its greeting.
    pub(super) fn new() -> Self {
        let mut it = Self {
            queue: VecDeque::new(),
            bytes: 0,
        };
        it.push(Sent {
            awaiting: Awaiting::Greeting,
            transaction: 0,
            bytes: 0,
        });
        it
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// What the next reply answers.
    pub(super) fn front(&self) -> Option<Sent> {
        self.queue.front().copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Awaiting> + '_ {
        self.queue.iter().map(|sent| sent.awaiting)
    }

    /// Whether a command of this kind and length may be sent now.
    pub(super) fn admits(
        &self,
        next: Awaiting,
        bytes: usize,
        pipelining: bool,
    ) -> Result<(), SendError> {
        let Some(newest) = self.queue.back() else {
            return Ok(());
        };
        if !pipelining || newest.awaiting.ends_group() || next.starts_group() {
            return Err(SendError::NotYet);
        }
        if self.queue.len() >= COMMANDS_MAX || self.bytes + bytes > BURST_MAX {
            return Err(SendError::BurstFull);
        }
        Ok(())
    }

    pub(super) fn push(&mut self, sent: Sent) {
        self.bytes += sent.bytes;
        self.queue.push_back(sent);
    }

    /// The oldest is answered.
    pub(super) fn pop(&mut self) {
        if let Some(sent) = self.queue.pop_front() {
            self.bytes -= sent.bytes;
        }
        if self.queue.is_empty() {
            // An idle connection holds no buffer.
            self.queue = VecDeque::new();
        }
    }

    /// LMTP: if the next reply answers a body end, puts one entry for each accepted recipient in its
    /// place. RFC 2033 §4.2: one reply "for each previously successful RCPT command", in their order.
    pub(super) fn split_body_end(&mut self, accepted: &[usize]) {
        let Some(Sent {
            awaiting: Awaiting::BodyEnd { rcpt: None },
            transaction,
            bytes,
        }) = self.front()
        else {
            return;
        };
        if accepted.is_empty() {
            return;
        }
        self.pop();
        for &index in accepted.iter().rev() {
            let awaiting = Awaiting::BodyEnd { rcpt: Some(index) };
            self.queue.push_front(Sent {
                awaiting,
                transaction,
                bytes: 0,
            });
        }
        if let Some(first) = self.queue.front_mut() {
            first.bytes = bytes;
            self.bytes += bytes;
        }
    }
}
