//! What an administrator sees: status, the queue's messages, one message.

use std::collections::BTreeMap;

use super::act::Wanted;
use super::{Engine, Output};
use crate::admin::{
    AdminRequest, AdminResponse, JobEntry, LaneStatus, QueueEntry, Selector, Status,
};
use crate::events::rfc3339;
use crate::id::{AdminId, MessageId};
use crate::queue::job::JobState;
use crate::queue::lane::Backoff;
use crate::queue::reason::from_line;
use crate::queue::tick::Tick;
use crate::sts;
use crate::time::UnixTime;

/// Messages in one answer.
const LIST_MAX: usize = 10_000;
/// Lanes in a status.
const LANES_MAX: usize = 50;

impl Engine {
    /// Answers an administrator.
    pub(super) fn administer(&mut self, id: AdminId, request: AdminRequest) {
        let response = match request {
            AdminRequest::Status => AdminResponse::Status(Box::new(self.status())),
            AdminRequest::List {
                selector,
                after,
                limit,
            } => AdminResponse::List(self.list(&selector, after, limit)),
            AdminRequest::Show(id) => {
                AdminResponse::Show(self.table.find(id).map(|m| Box::new(self.entry(m))))
            }
            AdminRequest::Act(action, selector) => AdminResponse::Acted {
                messages: self.act(action, &selector),
            },
            AdminRequest::TlsReports(selector) => {
                AdminResponse::TlsReports(self.list_tls_reports(&selector))
            }
            AdminRequest::SendTlsReports(selector) => AdminResponse::TlsReportsSent {
                reports: self.send_tls_reports(&selector),
            },
        };
        self.out.push_back(Output::Admin(id, Box::new(response)));
    }

    /// The state of the relay. It looks at every job.
    #[must_use]
    pub fn status(&self) -> Status {
        let held = self.table.jobs.iter().filter(|(_, job)| {
            // The message of a job that is gone may be gone too.
            job.state != JobState::Gone
                && (job.marks.held() || self.table.messages[job.message].held)
        });
        let held = held.map(|(_, job)| u64::from(job.recipients.len()));
        let counters = &self.counters;
        Status {
            hostname: self.config.hostname.to_string(),
            uptime_secs: self.clock.now().instant.since(self.started).as_secs(),
            sessions: self.admit.sessions() as u64,
            deliveries: self.deliveries.len() as u64,
            accepted: counters.accepted,
            delivered: counters.delivered,
            bounced: counters.bounced,
            expired: counters.expired,
            removed: counters.removed,
            recovered: counters.recovered,
            queued: counters.queued,
            held: held.sum(),
            messages: self.table.messages.len() as u64,
            mta_sts_enforce: self.policy_count(sts::Mode::Enforce),
            mta_sts_testing: self.policy_count(sts::Mode::Testing),
            lanes: self.lane_statuses(),
            store: self.accept.status.clone(),
        }
    }

    /// The lanes with most jobs. Jobs that led to no lane lately stand under their domain.
    fn lane_statuses(&self) -> Vec<LaneStatus> {
        let mut by_name: BTreeMap<String, LaneStatus> = BTreeMap::new();
        for (_, lane) in self.lanes.iter() {
            let status = by_name.entry(lane.spec.name.clone()).or_default();
            status.connections += lane.connections as u64;
            if let Some(backoff) = lane.backed_off(self.clock.tick()) {
                status.backed_off = Some(self.backoff_words(backoff));
            }
        }
        // For each lane: when its first waiting job is due, and which that is.
        let mut first: BTreeMap<String, (Tick, u32)> = BTreeMap::new();
        for (handle, job) in self.table.jobs.iter() {
            // The message of a job that is gone may be gone too.
            if job.state == JobState::Gone {
                continue;
            }
            let held = self.table.messages[job.message].held;
            let (ready, waiting) = match job.state {
                JobState::Ready | JobState::Picked | JobState::Resolving if held => (0, 1),
                JobState::Ready | JobState::Picked | JobState::Resolving => (1, 0),
                JobState::Waiting | JobState::Parked => (0, 1),
                JobState::Delivering => (0, 0),
                JobState::Gone => continue,
            };
            let lane = self.lane_of(handle).and_then(|no| self.lanes.get(no));
            let name = match lane {
                Some(lane) => lane.spec.name.clone(),
                None => self.domains.name(job.domain).to_string(),
            };
            if job.state == JobState::Waiting {
                let due = (job.due, handle);
                match first.get_mut(&name) {
                    Some(least) => *least = due.min(*least),
                    None => _ = first.insert(name.clone(), due),
                }
            }
            let status = by_name.entry(name).or_default();
            status.ready += ready;
            status.waiting += waiting;
            if status.mta_sts.is_none() && lane.is_some_and(|lane| lane.spec.sts.is_some()) {
                status.mta_sts = self.policy_words(job.domain);
            }
        }
        let named = |(name, status)| LaneStatus { name, ..status };
        let mut lanes: Vec<LaneStatus> = by_name.into_iter().map(named).collect();
        lanes.retain(|l| l.ready + l.waiting + l.connections > 0 || l.backed_off.is_some());
        lanes.sort_by_key(|lane| std::cmp::Reverse(lane.ready + lane.waiting));
        lanes.truncate(LANES_MAX);
        for lane in &mut lanes {
            if let Some(&(due, job)) = first.get(&lane.name) {
                lane.next = Some(rfc3339(self.clock.unix(due)));
                lane.last = self.last_line(job).map(words);
            }
        }
        lanes
    }

    fn backoff_words(&self, backoff: &Backoff) -> String {
        let (reason, host) = from_line(&backoff.reason);
        let host = host.map(|host| format!(" ({host})")).unwrap_or_default();
        let until = rfc3339(self.clock.unix(backoff.until));
        format!("until {until}: {reason}{host}")
    }

    fn list(&self, selector: &Selector, after: Option<MessageId>, limit: usize) -> Vec<QueueEntry> {
        let wanted = Wanted::new(selector);
        self.select(&wanted, after)
            .take(limit.min(LIST_MAX))
            .map(|message| self.entry(message))
            .collect()
    }

    fn entry(&self, message: u32) -> QueueEntry {
        let entry = &self.table.messages[message];
        let sender = self.table.senders.get(entry.sender).unwrap_or_default();
        QueueEntry {
            id: entry.id.to_string(),
            from: (!sender.starts_with('@')).then(|| sender.to_owned()),
            accepted: rfc3339(UnixTime::from_secs(u64::from(entry.accepted))),
            expires: rfc3339(self.clock.unix(self.deadline(message))),
            size: u64::from(entry.size),
            held: entry.held,
            jobs: self
                .table
                .jobs_of(message)
                .into_iter()
                .map(|job| self.job(job))
                .collect(),
        }
    }

    fn job(&self, handle: u32) -> JobEntry {
        let job = &self.table.jobs[handle];
        let now = self.clock.tick();
        let backoff = self
            .lane_of(handle)
            .and_then(|no| self.lanes.get(no)?.backed_off(now))
            .filter(|_| job.state == JobState::Ready)
            .map(|backoff| backoff.until);
        let held = self.table.messages[job.message].held && job.state != JobState::Delivering;
        let (state, next) = match job.state {
            _ if held => ("held", None),
            JobState::Resolving => ("resolving", None),
            JobState::Ready if backoff.is_some() => ("waiting", backoff),
            JobState::Ready | JobState::Picked => ("ready", None),
            JobState::Delivering => ("delivering", None),
            JobState::Waiting => ("waiting", Some(job.due)),
            JobState::Parked | JobState::Gone => ("held", None),
        };
        JobEntry {
            domain: self.domains.name(job.domain).to_string(),
            recipients: job.recipients.len() as usize,
            attempts: u32::from(job.attempts),
            state: state.to_owned(),
            next: next.map(|tick| rfc3339(self.clock.unix(tick))),
            last: self.last_line(handle).map(words),
            in_doubt: job.marks.in_doubt(),
        }
    }
}

/// A reason's line for people.
fn words(line: &str) -> String {
    let (reason, host) = from_line(line);
    let host = host.map(|host| format!("{host}: ")).unwrap_or_default();
    format!("{host}{reason}")
}
