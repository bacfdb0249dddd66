//! Jobs whose way changes while they wait for their turn: their domain has other hosts by now, or another
//! policy.
//!
//! ```text
//!  ready in a lane ── its domain leads to another lane ──────▶ ready there
//!        │  └──────── a policy of its domain was learnt ─────▶ looked for anew
//!        └─ the lane's back-off is over ─▶ it is asked again where its domain leads
//! ```
//!
//! A lane that is down tries one job each back-off. Without this the others would stay with hosts that
//! their domain left long ago, until their time is over, or go where a policy forbids it.

use std::collections::BTreeSet;
use std::time::Duration;

use smtp_proto::AddressLiteral;

use super::Engine;
use crate::queue::job::JobState;
use crate::queue::lanes::LaneNo;

/// How long a domain's lane holds. The resolver's cache knows how long the records do.
const FOUND_HOLDS: Duration = Duration::from_secs(60);
/// Domains of a lane that are asked for again when its back-off is over.
const ASKED_AGAIN_MAX: usize = 64;

impl Engine {
    /// Remembers which lane a domain leads to.
    pub(super) fn remember(&mut self, domain: u32, no: LaneNo) {
        let until = self.clock.tick().after(FOUND_HOLDS);
        if let Some(old) = self.domains.found(domain, no, until) {
            self.follow(domain, old);
        }
    }

    /// What is asked for a domain is not what its lane was chosen by: its ready jobs find their way anew.
    pub(super) fn reroute(&mut self, domain: u32) {
        if let Some(old) = self.domains.forget_lane(domain) {
            self.follow(domain, old);
        }
    }

    /// A domain leads to another lane from now on: its jobs that are ready in the old one go there too,
    /// which may be down for good, or not what the domain's policy asks for.
    fn follow(&mut self, domain: u32, old: LaneNo) {
        let of_no_policy = self.lane_of_no_policy(old).filter(|&no| no != old);
        let table = &self.table;
        let its = |job: u32| {
            let entry = &table.jobs[job];
            entry.state == JobState::Ready && entry.domain == domain
        };
        let mut jobs = Vec::new();
        for no in [Some(old), of_no_policy].into_iter().flatten() {
            if let Some(lane) = self.lanes.get_mut(no) {
                jobs.extend(lane.take_if(its));
            }
        }
        for job in jobs {
            self.table.set_state(job, JobState::Picked);
            self.dispatch(job);
        }
    }

    /// The back-off of a lane is over. Its hosts failed: perhaps the domains of its jobs lead elsewhere by
    /// now. A lane may have very many of them; a few are asked for each time, from a random place on.
    pub(super) fn look_elsewhere(&mut self, no: LaneNo) {
        let now = self.clock.tick();
        let Some(lane) = self.lanes.get(no) else {
            return;
        };
        if lane.spec.route || lane.backed_off(now).is_some() {
            return;
        }
        let jobs = lane.jobs();
        let start = usize::try_from(self.rng.below(jobs.len().max(1) as u64)).unwrap_or(0);
        let mut domains = BTreeSet::new();
        for &job in jobs.iter().cycle().skip(start).take(jobs.len()) {
            let entry = &self.table.jobs[job];
            if entry.state == JobState::Ready && domains.len() < ASKED_AGAIN_MAX {
                domains.insert(entry.domain);
            }
        }
        for domain in domains {
            if AddressLiteral::parse(self.domains.name(domain)).is_err() {
                self.domains.ask_again(domain, now);
            }
        }
    }
}
