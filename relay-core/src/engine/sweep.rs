//! Work that time brings: jobs that come due, back-offs that end, and the sweep over all messages.
//!
//! Deadlines are checked at each transition of a message; the sweep catches what makes none, such as
//! a job that waits in a lane that is down. Each pass is bounded: what is left is done at the next.

use std::time::Duration;

use super::Engine;
use crate::outbound::Reason;
use crate::queue::job::{JobState, MessageEntry};
use crate::queue::reason::from_line;
use crate::queue::tick::Tick;
use crate::time::Instant;

/// From the start of one sweep to the next.
const SWEEP: Duration = Duration::from_secs(60);
/// Messages that a pass looks at.
const SWEPT_MAX: u32 = 2048;
/// Jobs that a pass sends on their way.
const DUE_MAX: usize = 512;
/// Without a call for so long, time stood still.
const STALL: Duration = Duration::from_secs(3600);
/// After this time a sender is told that a message is late. RFC 5321 §4.5.4.1 leaves it open; four
/// hours is what senders are used to.
const DELAY: Duration = Duration::from_secs(4 * 3600);

/// How far the sweep is.
#[derive(Debug)]
pub(super) struct Sweep {
    /// The next message to look at; none between sweeps.
    cursor: Option<u32>,
    /// When the next sweep begins.
    next: Tick,
}

impl Sweep {
    pub(super) fn new(now: Tick) -> Self {
        Self {
            cursor: None,
            next: now.after(SWEEP),
        }
    }
}

/// When the sender is told that a message is late. RFC 2852 §4.1.3: of one that said when, then.
fn delayed(entry: &MessageEntry) -> Tick {
    if entry.wants.late_notice() {
        entry.late
    } else {
        entry.birth.after(DELAY)
    }
}

impl Engine {
    /// Does what is due by now.
    pub(super) fn run_chores(&mut self) {
        let now = self.clock.tick();
        for _ in 0..DUE_MAX {
            let Some(job) = self.table.pop_due(now) else {
                break;
            };
            self.table.set_state(job, JobState::Picked);
            self.dispatch(job);
        }
        while let Some(no) = self.lanes.pop_wake(now) {
            self.look_elsewhere(no);
            self.lanes.enlist(no, self.caps(), now);
        }
        self.tend_held();
        self.send_due_reports();
        self.refresh_policies();
        self.tend_tls_reports();
        self.sweep(now);
    }

    /// The engine asks to be woken every minute while it has messages. If it was not called for much
    /// longer, the process or the machine stood still: that time does not make messages older, so
    /// that each is tried again before it is given up.
    pub(super) fn forgive(&mut self, gap: Duration) {
        let Some(lost) = gap.checked_sub(STALL) else {
            return;
        };
        for message in 0..self.table.messages.slots() {
            if let Some(entry) = self.table.messages.get_mut(message) {
                entry.birth = entry.birth.after(lost);
            }
        }
    }

    /// When something is due next.
    pub(super) fn next_chore(&self) -> Option<Instant> {
        let sweep = match self.sweep.cursor {
            Some(_) => Some(self.clock.tick()),
            None => (!self.is_empty()).then_some(self.sweep.next),
        };
        [
            self.table.timers.next(),
            self.lanes.next_wake(),
            self.held.next_due(),
            self.reports.next_due(),
            self.accept.look_again,
            self.next_refresh(),
            self.next_tls_report(),
            sweep,
        ]
        .into_iter()
        .flatten()
        .min()
        .map(|tick| self.clock.instant(tick).max(self.clock.now().instant))
    }

    /// Whether there is nothing to look after.
    fn is_empty(&self) -> bool {
        self.table.messages.len() == 0 && self.lanes.iter().next().is_none()
    }

    fn sweep(&mut self, now: Tick) {
        let start = match self.sweep.cursor {
            Some(cursor) => cursor,
            None if self.sweep.next <= now => {
                self.sweep.next = now.after(SWEEP);
                self.domains.tidy(now);
                self.lanes.tidy(now);
                self.tidy_policies();
                0
            }
            None => return,
        };
        let end = start
            .saturating_add(SWEPT_MAX)
            .min(self.table.messages.slots());
        for message in start..end {
            self.sweep_message(message, now);
        }
        self.sweep.cursor = (end < self.table.messages.slots()).then_some(end);
    }

    fn sweep_message(&mut self, message: u32, now: Tick) {
        let Some(entry) = self.table.messages.get(message) else {
            return;
        };
        if entry.held {
            return;
        }
        if self.is_expired(message) {
            for job in self.table.jobs_of(message) {
                match self.table.jobs[job].state {
                    JobState::Ready | JobState::Resolving | JobState::Waiting => self.expire(job),
                    JobState::Picked | JobState::Delivering | JobState::Parked | JobState::Gone => {
                    }
                }
            }
        } else if !entry.delay_reported && now >= delayed(entry) {
            self.report_delay(message);
        }
    }

    /// Why a job waits: its last reply, or what its lane suffers from. And whether it was tried.
    pub(super) fn last_reason(&self, job: u32) -> (Reason, Option<String>, bool) {
        let entry = &self.table.jobs[job];
        let tried = entry.attempts > 0;
        if let Some(line) = self.last_line(job) {
            let (reason, host) = from_line(line);
            return (reason, host, tried);
        }
        let reason = Reason {
            stage: "policy".to_owned(),
            code: None,
            status: "4.4.1".to_owned(),
            text: "it waits for its turn".to_owned(),
            rule: "waiting".to_owned(),
        };
        (reason, None, tried)
    }

    /// The line that says why a job waits, if anything went wrong.
    pub(super) fn last_line(&self, job: u32) -> Option<&str> {
        let entry = &self.table.jobs[job];
        self.table.reasons.get(entry.reason).or_else(|| {
            let lane = self.lanes.get(self.lane_of(job)?)?;
            lane.trouble().map(|trouble| &*trouble.reason)
        })
    }
}
