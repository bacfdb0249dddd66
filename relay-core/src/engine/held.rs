//! Connections without work: they are held for a moment, so that the next message for the same hosts
//! needs no new one, with its handshakes.
//!
//! ```text
//!              a job becomes ready in its lane
//!          ┌─────────────────────────────────────▶ Next::Job
//!   Tried ─┤ held
//!          └─────────────────────────────────────▶ Next::Quit
//!              2 s are over · the lane fails or is made anew · others need the connection · shutdown
//! ```
//!
//! A held connection counts as open, for its lane and for all limits. RFC 5321 §4.5.4.1 asks for few
//! connections; a receiver that wants the connection back closes it, which costs the next message a new
//! connection and nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Engine, Next, Output};
use crate::id::DeliveryId;
use crate::queue::lanes::LaneNo;
use crate::queue::tick::Tick;

/// How long a connection is held.
const HELD: Duration = Duration::from_secs(2);

/// Which connections are held.
#[derive(Debug, Default)]
pub(super) struct Held {
    by_time: BTreeSet<(Tick, DeliveryId, LaneNo)>,
    by_lane: BTreeSet<(LaneNo, Tick, DeliveryId)>,
    /// Lanes with held connections that got ready jobs.
    wanted: BTreeSet<LaneNo>,
}

impl Held {
    fn insert(&mut self, id: DeliveryId, no: LaneNo, until: Tick) {
        self.by_time.insert((until, id, no));
        self.by_lane.insert((no, until, id));
    }

    fn remove(&mut self, id: DeliveryId, no: LaneNo, until: Tick) -> bool {
        self.by_lane.remove(&(no, until, id));
        self.by_time.remove(&(until, id, no))
    }

    /// The connection of a lane that was held last: those that nobody needs run out.
    fn take_from(&mut self, no: LaneNo) -> Option<DeliveryId> {
        let end = (no, Tick::NEVER, DeliveryId(u64::MAX));
        let &(found, until, id) = self.by_lane.range(..=end).next_back()?;
        (found == no && self.remove(id, no, until)).then_some(id)
    }

    /// The connection that is held longest, if its time is over at `now`.
    fn take_over(&mut self, now: Tick) -> Option<DeliveryId> {
        let &(until, id, no) = self.by_time.first()?;
        (until <= now && self.remove(id, no, until)).then_some(id)
    }

    /// When the next connection is let go.
    pub(super) fn next_due(&self) -> Option<Tick> {
        self.by_time.first().map(|&(until, ..)| until)
    }

    /// A lane got a ready job.
    pub(super) fn wanted(&mut self, no: LaneNo) {
        let start = (no, Tick::ZERO, DeliveryId(0));
        if self
            .by_lane
            .range(start..)
            .next()
            .is_some_and(|&(found, ..)| found == no)
        {
            self.wanted.insert(no);
        }
    }
}

impl Engine {
    /// Holds the connection of a delivery that has no job.
    pub(super) fn hold_connection(&mut self, id: DeliveryId, no: LaneNo) {
        let until = self.clock.tick().after(HELD);
        self.held.insert(id, no, until);
        if let Some(running) = self.deliveries.get_mut(&id) {
            running.held = Some(until);
        }
    }

    /// Gives ready jobs to the connections that are held for their lanes.
    pub(super) fn use_held(&mut self) {
        let now = self.clock.tick();
        while let Some(no) = self.held.wanted.pop_first() {
            while self.lanes.get(no).is_some_and(|lane| lane.may_send(now))
                && let Some(id) = self.held.take_from(no)
            {
                let job = self.next_job(no);
                self.go_on(id, job);
            }
        }
    }

    /// Lets those go whose time is over.
    pub(super) fn tend_held(&mut self) {
        let now = self.clock.tick();
        while let Some(id) = self.held.take_over(now) {
            self.go_on(id, None);
        }
    }

    /// Lets up to so many go, the oldest first: others need connections.
    pub(super) fn let_go(&mut self, most: usize) {
        for _ in 0..most {
            let Some(id) = self.held.take_over(Tick::NEVER) else {
                return;
            };
            self.go_on(id, None);
        }
    }

    /// Lets all of a lane go: its hosts are in trouble.
    pub(super) fn let_go_of_lane(&mut self, no: LaneNo) {
        while let Some(id) = self.held.take_from(no) {
            self.go_on(id, None);
        }
    }

    /// The connection of a delivery is over.
    pub(super) fn forget_held(&mut self, id: DeliveryId, no: LaneNo, until: Tick) {
        self.held.remove(id, no, until);
    }

    /// A held connection gets a job, or ends.
    fn go_on(&mut self, id: DeliveryId, job: Option<u32>) {
        let handed = job.map(|job| self.hand_out(job));
        if let Some(running) = self.deliveries.get_mut(&id) {
            running.held = None;
        }
        let next = match handed {
            Some((job, task)) => {
                self.engage(id, task);
                Next::Job(Box::new(job))
            }
            None => Next::Quit,
        };
        self.out.push_back(Output::Delivery(id, next));
    }
}
