//! Deliveries whose final reply never came: the receiver may have the message, and nobody can know.
//!
//! ```text
//!                        ┌ "retry" ─▶ Waiting, marked: due by the schedule, as any deferral
//!  no reply to the dot ──┤
//!                        └ "hold" ──▶ Parked, marked ── release ──▶ due at once
//!                                                    └─ bounce, remove ──▶ settled
//! ```
//!
//! The mark is noted in the store, shown by `queue` and `trace`, and told in events, in either case. What
//! is held does not expire: a report that says "not delivered" might not be true. A job of which only some
//! recipients are in doubt is divided; the others go on by the schedule.
//!
//! RFC 1047, RFC 5321 §4.5.3.2.6.

use super::Engine;
use super::conclude::{Group, Telling};
use crate::config::InDoubt;
use crate::outbound::Outcome;
use crate::queue::job::{JobEntry, JobState, Marks, NIL};
use crate::queue::recipients::Recipients;

impl Engine {
    /// Parks those recipients of a picked job that are in doubt, if the configuration wants that. Gives
    /// back the others; none if the whole job is parked.
    pub(super) fn hold_doubtful(
        &mut self,
        job: u32,
        telling: &Telling<'_>,
        open: Vec<Group>,
    ) -> Option<Vec<Group>> {
        if self.config.delivery.in_doubt == InDoubt::Retry {
            return Some(open);
        }
        let (doubtful, rest): (Vec<Group>, Vec<Group>) =
            open.into_iter().partition(Group::is_in_doubt);
        if doubtful.is_empty() {
            return Some(rest);
        }
        let held = if rest.is_empty() {
            job
        } else {
            self.divide(job, &doubtful, &rest)
        };
        let entry = &mut self.table.jobs[held];
        entry.marks.set_in_doubt();
        entry.marks.set_held(true);
        entry.due = self.clock.tick();
        self.table.set_state(held, JobState::Parked);
        self.tell_deferral(held, telling, doubtful);
        (!rest.is_empty()).then_some(rest)
    }

    /// Makes a job of its own for the doubtful recipients of a job, and leaves it the rest.
    fn divide(&mut self, job: u32, doubtful: &[Group], rest: &[Group]) -> u32 {
        let entry = &self.table.jobs[job];
        let name = self.domains.name(entry.domain).to_string();
        let line = self.table.reason(job).map(str::to_owned);
        let (message, attempts) = (entry.message, entry.attempts);
        let divided = JobEntry {
            message,
            sibling: NIL,
            domain: self.domains.add_job(&name),
            due: self.clock.tick(),
            reason: crate::queue::intern::TextId::NONE,
            attempts,
            state: JobState::Picked,
            marks: Marks::default(),
            recipients: all_of(doubtful),
        };
        self.table.jobs[job].recipients = all_of(rest);
        let divided = self.table.insert_job(divided);
        if let Some(line) = line {
            self.table.set_reason(divided, &line);
        }
        divided
    }

    /// Lets jobs go on that are held because they are in doubt; they stay parked until the caller sends
    /// them on their way. Whether there were any.
    pub(super) fn release_doubtful(&mut self, jobs: &[u32]) -> bool {
        let mut any = false;
        for &job in jobs {
            if self.table.jobs[job].marks.held() {
                self.table.jobs[job].marks.set_held(false);
                self.note_deferred(job);
                any = true;
            }
        }
        any
    }
}

impl Group {
    /// Whether the receiver may have taken the message for them.
    pub(super) fn is_in_doubt(&self) -> bool {
        match &self.outcome {
            Outcome::Deferred { in_doubt, .. } => *in_doubt,
            Outcome::Delivered(_) | Outcome::Bounced(_) => false,
        }
    }
}

fn all_of(groups: &[Group]) -> Recipients {
    let mut all: Vec<u32> = groups
        .iter()
        .flat_map(|group| group.recipients.iter().copied())
        .collect();
    all.sort_unstable();
    Recipients::new(&all)
}
