//! The identity that the relay lives by: every recipient that came in went somewhere, or is here.

/// Recipients since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) accepted: u64,
    pub(super) recovered: u64,
    pub(super) delivered: u64,
    pub(super) bounced: u64,
    pub(super) expired: u64,
    pub(super) removed: u64,
    pub(super) queued: u64,
}

impl Counters {
    /// accepted + recovered = delivered + bounced + expired + removed + queued.
    pub(super) const fn balance(&self) -> bool {
        self.accepted + self.recovered
            == self.delivered + self.bounced + self.expired + self.removed + self.queued
    }

    /// Recipients left the queue; `to` counts where to.
    pub(super) const fn settle(&mut self, count: usize, to: Settled) {
        let count = count as u64;
        self.queued -= count;
        let counter = match to {
            Settled::Delivered => &mut self.delivered,
            Settled::Bounced => &mut self.bounced,
            Settled::Expired => &mut self.expired,
            Settled::Removed => &mut self.removed,
        };
        *counter += count;
    }
}

/// Where a recipient went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    Delivered,
    Bounced,
    Expired,
    Removed,
}
