//! Deliveries: jobs handed to connections, and what their reports mean for lanes and messages.
//!
//! ```text
//!  lane ─ turn ─▶ Start ─▶ Tried ─▶ outcomes ─▶ Next::Job (same lane, same connection) ─▶ Tried …
//!                    │        ├──────────────▶ held for a moment (see `held`) ─▶ either
//!                    │        └──────────────▶ Next::Quit ─▶ Ended
//!                    └─▶ Unreachable ─▶ outcomes, the lane backs off ─▶ Next::Quit ─▶ Ended
//! ```

use std::sync::Arc;
use std::time::Duration;

use super::conclude::Finding;
use super::{Engine, Next, Output, Start};
use crate::id::DeliveryId;
use crate::outbound::{Evidence, Job, Loaded, Outcome, Reason, Report, Tried};
use crate::queue::job::{JobEntry, JobState};
use crate::queue::lane::{Failure, Standing};
use crate::queue::lanes::LaneNo;
use crate::queue::reason::to_line;
use crate::queue::schedule::part;
use crate::queue::store::Place;
use crate::queue::tick::Tick;

/// A job whose connection ended without a word waits so long.
const LOST_WAIT: Duration = Duration::from_secs(10);

/// A connection to a receiver, or the attempt at one.
#[derive(Debug)]
pub(super) struct Running {
    lane: LaneNo,
    /// The lane's standing when it was opened: whose share it takes.
    standing: Standing,
    task: Option<Task>,
    /// Messages that were handed to it.
    served: u32,
    /// It has no job, and is held until then.
    pub(super) held: Option<Tick>,
}

/// What a delivery is to do after a report.
#[derive(Debug)]
enum After {
    Job(Job),
    /// It hears of it when there is something to do.
    Hold(LaneNo),
    Quit,
}

/// The job that a delivery has.
#[derive(Debug)]
pub(super) struct Task {
    job: u32,
    place: Place,
    loaded: Option<Arc<Loaded>>,
}

/// What a report says of the receiver's hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    /// They speak SMTP with us.
    Works,
    /// They spoke, and want fewer connections.
    Crowded,
    /// They could not be used.
    Down,
    /// Nothing was learnt.
    Unknown,
}

impl Engine {
    /// Opens the connections that are wanted and allowed.
    pub(super) fn start_deliveries(&mut self) {
        let caps = self.caps();
        let now = self.clock.tick();
        self.use_held();
        while !self.stopping
            && let Some(no) = self.lanes.next_turn(caps, now)
        {
            let Some(job) = self.next_job(no) else {
                continue;
            };
            let standing = self.lanes.open_one(no, now);
            self.lanes.enlist(no, caps, now);
            let Some(spec) = self.lanes.get(no).map(|lane| Arc::clone(&lane.spec)) else {
                continue;
            };
            let (job, task) = self.hand_out(job);
            self.last_delivery += 1;
            let id = DeliveryId(self.last_delivery);
            let running = Running {
                lane: no,
                standing,
                task: Some(task),
                served: 1,
                held: None,
            };
            self.deliveries.insert(id, running);
            let lane = self.shuffled(&spec);
            let config = Arc::clone(&self.config);
            self.out
                .push_back(Output::Start(id, Box::new(Start { lane, job, config })));
        }
        self.let_go(self.lanes.in_turn());
    }

    /// The next job of a lane that is still to be delivered, now with a delivery.
    pub(super) fn next_job(&mut self, no: LaneNo) -> Option<u32> {
        loop {
            let job = self.lanes.get_mut(no)?.pop()?;
            if self.table.free_if_gone(job) {
                continue;
            }
            self.table.set_state(job, JobState::Picked);
            let message = self.table.jobs[job].message;
            if self.table.messages[message].held {
                self.table.set_state(job, JobState::Parked);
            } else if self.is_expired(message) {
                self.expire(job);
            } else {
                self.table.set_state(job, JobState::Delivering);
                return Some(job);
            }
        }
    }

    pub(super) fn hand_out(&self, job: u32) -> (Job, Task) {
        let entry = &self.table.jobs[job];
        let message = &self.table.messages[entry.message];
        let loaded = self.table.loaded(message.id);
        let task = Task {
            job,
            place: message.place,
            loaded: loaded.clone(),
        };
        let job = Job {
            id: message.id,
            place: message.place,
            recipients: entry.recipients.to_vec(),
            loaded,
            attempts: u32::from(entry.attempts),
            domain: Arc::clone(self.domains.name(entry.domain)),
            tls: message.wants.tls(),
        };
        (job, task)
    }

    /// A delivery reports.
    pub(super) fn report(&mut self, id: DeliveryId, report: Report) {
        if let Report::Tried(tried) | Report::Unreachable(tried) = &report
            && let Some(task) = self
                .deliveries
                .get(&id)
                .and_then(|running| running.task.as_ref())
        {
            let JobEntry {
                message, domain, ..
            } = self.table.jobs[task.job];
            self.count_sessions(message, domain, &tried.sessions);
        }
        let after = match report {
            Report::Tried(tried) => self.tried(id, *tried),
            Report::Unreachable(tried) => {
                self.unreachable(id, *tried);
                After::Quit
            }
            Report::Ended => return self.ended(id),
        };
        let next = match after {
            After::Job(job) => Next::Job(Box::new(job)),
            After::Quit => Next::Quit,
            After::Hold(no) => return self.hold_connection(id, no),
        };
        self.out.push_back(Output::Delivery(id, next));
    }

    /// A message was tried; the connection may get another one.
    fn tried(&mut self, id: DeliveryId, tried: Tried) -> After {
        let Some((no, task)) = self.take_task(id, &tried) else {
            return After::Quit;
        };
        let (health, words) = health_of(&tried);
        let reusable = tried.reusable;
        self.judge_lane(no, health, &words);
        self.conclude_task(task, tried);

        let after = if reusable && !self.stopping {
            self.more(id, no)
        } else {
            After::Quit
        };
        self.lanes.enlist(no, self.caps(), self.clock.tick());
        after
    }

    /// What a connection that could take another message is to do.
    fn more(&mut self, id: DeliveryId, no: LaneNo) -> After {
        let now = self.clock.tick();
        let (Some(lane), Some(running)) = (self.lanes.get_mut(no), self.deliveries.get(&id)) else {
            return After::Quit;
        };
        lane.used = now;
        if running.served >= lane.spec.messages_max || lane.backed_off(now).is_some() {
            return After::Quit;
        }
        if let Some(job) = self.next_job(no) {
            let (job, task) = self.hand_out(job);
            self.engage(id, task);
            return After::Job(job);
        }
        match self.lanes.is_current(no) {
            true => After::Hold(no),
            false => After::Quit,
        }
    }

    /// A delivery has this job from now on.
    pub(super) fn engage(&mut self, id: DeliveryId, task: Task) {
        if let Some(running) = self.deliveries.get_mut(&id) {
            running.task = Some(task);
            running.served += 1;
        }
    }

    /// No host of the lane could be used.
    fn unreachable(&mut self, id: DeliveryId, tried: Tried) {
        let Some((no, task)) = self.take_task(id, &tried) else {
            return;
        };
        let (_, words) = health_of(&tried);
        let all_deferred = tried
            .outcomes
            .iter()
            .all(|(_, o)| matches!(o, Outcome::Deferred { .. }));
        let health = if all_deferred {
            Health::Down
        } else {
            Health::Unknown
        };
        if self.judge_lane(no, health, &words) == Some(Failure::Squeezed) {
            // Other connections of the lane work: the job is for one of them.
            self.table.set_state(task.job, JobState::Picked);
            if self.act_after_attempt(task.job) {
                return;
            }
            let JobEntry {
                attempts, message, ..
            } = self.table.jobs[task.job];
            if !self.lanes.is_current(no) {
                // A reload made another way of it; what works here is of the old one.
                self.dispatch(task.job);
                return;
            }
            self.table.set_state(task.job, JobState::Ready);
            if let Some(lane) = self.lanes.get_mut(no) {
                lane.push_front(task.job, attempts, self.table.messages[message].priority);
            }
            self.held.wanted(no);
            return;
        }
        self.conclude_task(task, tried);
    }

    /// The connection is over. A job that it had and said nothing of goes back, its attempts as
    /// they were.
    fn ended(&mut self, id: DeliveryId) {
        let Some(running) = self.deliveries.remove(&id) else {
            return;
        };
        if let Some(until) = running.held {
            self.forget_held(id, running.lane, until);
        }
        let now = self.clock.tick();
        self.lanes.close_one(running.lane, running.standing, now);
        if let Some(task) = running.task {
            self.table.set_state(task.job, JobState::Picked);
            self.lost(task.job);
        }
        self.lanes.enlist(running.lane, self.caps(), now);
    }

    /// An attempt ended with nothing known: soon again, unless the message is no longer wanted.
    fn lost(&mut self, job: u32) {
        if self.act_after_attempt(job) {
            return;
        }
        let wait = LOST_WAIT + part(LOST_WAIT, 1, &mut self.rng);
        self.table.wait(job, self.clock.tick().after(wait));
        let message = self.table.jobs[job].message;
        self.tend(message, None);
    }

    /// The job that a delivery had, when its report is about that.
    fn take_task(&mut self, id: DeliveryId, tried: &Tried) -> Option<(LaneNo, Task)> {
        let running = self.deliveries.get_mut(&id)?;
        let task = running.task.take()?;
        let message = self.table.jobs[task.job].message;
        let right = self.table.messages[message].id == tried.id;
        debug_assert!(right, "a delivery reports on the job that it has");
        if !right {
            running.task = Some(task);
            return None;
        }
        Some((running.lane, task))
    }

    fn conclude_task(&mut self, task: Task, tried: Tried) {
        let Task { job, place, loaded } = task;
        self.table.set_state(job, JobState::Picked);
        let message = self.table.jobs[job].message;
        let moved = self.table.messages[message].place != place;
        if moved
            && tried
                .outcomes
                .iter()
                .all(|(_, outcome)| is_load_failure(outcome))
        {
            // The record moved while it was to be read: read it at its new place.
            return self.lost(job);
        }
        self.conclude(
            job,
            Finding {
                outcomes: tried.outcomes,
                evidence: tried.evidence,
                loaded: tried.loaded.or(loaded),
            },
        );
    }

    /// Lets the lane learn from a report.
    fn judge_lane(&mut self, no: LaneNo, health: Health, words: &str) -> Option<Failure> {
        let caps = self.caps();
        let now = self.clock.tick();
        let lane = self.lanes.get_mut(no)?;
        match health {
            Health::Works => lane.succeeded(caps.lane),
            Health::Crowded => {
                lane.squeeze();
                self.let_go_of_lane(no);
            }
            Health::Unknown => {}
            Health::Down => {
                let first_retry = self.config.delivery.retry.first();
                let first_retry = first_retry.copied().unwrap_or(Duration::MAX);
                let failure = lane.failed(words, first_retry, now, &mut self.rng);
                if let Failure::BackedOff(until) = failure {
                    self.lanes.wake_at(until, no);
                    self.unload_ready(no);
                }
                self.let_go_of_lane(no);
                return Some(failure);
            }
        }
        None
    }

    /// Jobs of a lane that is down do not keep their messages in memory.
    fn unload_ready(&mut self, no: LaneNo) {
        let Some(lane) = self.lanes.get(no) else {
            return;
        };
        for job in lane.jobs() {
            let entry = &self.table.jobs[job];
            if entry.state == JobState::Ready {
                let id = self.table.messages[entry.message].id;
                self.table.unload(id);
            }
        }
    }
}

fn is_load_failure(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Delivered(_) => false,
        Outcome::Deferred { reason, .. } | Outcome::Bounced(reason) => reason.stage == "store",
    }
}

/// What a report says of the hosts, and its words.
fn health_of(tried: &Tried) -> (Health, Arc<str>) {
    let mut health = Health::Unknown;
    let mut words = String::new();
    for (_, outcome) in &tried.outcomes {
        let (reason, deferred) = match outcome {
            Outcome::Delivered(reason) | Outcome::Bounced(reason) => (reason, false),
            Outcome::Deferred { reason, .. } => (reason, true),
        };
        let this = health_by(reason, deferred);
        if words.is_empty() && deferred {
            words = to_line(reason, host_of(&tried.evidence));
        }
        health = match (health, this) {
            (Health::Works, _) | (_, Health::Works) => Health::Works,
            (Health::Crowded, _) | (_, Health::Crowded) => Health::Crowded,
            (Health::Down, _) | (_, Health::Down) => Health::Down,
            (Health::Unknown, Health::Unknown) => Health::Unknown,
        };
    }
    (health, words.into())
}

fn health_by(reason: &Reason, deferred: bool) -> Health {
    match reason.stage.as_str() {
        "connect" | "tls" | "greeting" | "ehlo" | "auth" if deferred => Health::Down,
        "mail" | "rcpt" | "data" | "body" | "dot" if reason.code == Some(421) => Health::Crowded,
        "mail" | "rcpt" | "data" | "body" | "dot" if reason.code.is_some() => Health::Works,
        _ => Health::Unknown,
    }
}

/// The host that a reason is from.
pub(super) fn host_of(evidence: &Evidence) -> Option<&str> {
    evidence.host.as_deref()
}
