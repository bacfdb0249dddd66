//! What an attempt's outcomes mean for a message: settled, deferred, expired, reported.
//!
//! ```text
//!             ┌─ Delivered ─▶ settled
//!  outcomes ──┼─ Bounced ───▶ settled once its report is stored, at once if none is wanted
//!             └─ Deferred ──▶ Waiting, by the schedule or by the receiver's word;
//!                             past the deadline: Expired, settled like Bounced
//! ```

use std::sync::Arc;
use std::time::Duration;

use super::counters::Settled;
use super::deliver::host_of;
use super::{Engine, Output};
use crate::bounce::{Action, RecipientReport};
use crate::events::{Attempt, DeliveryEvent, EventKind, rfc3339};
use crate::id::MessageId;
use crate::outbound::{Evidence, Loaded, Outcome, Reason};
use crate::queue::job::Then;
use crate::queue::reason::to_line;
use crate::queue::recipients::Recipients;
use crate::queue::record::{DeferredState, Progress};
use crate::queue::schedule::wait_after;
use crate::queue::tick::Tick;

/// Groups of recipients with the same outcome that are looked at for another one like it.
const GROUPS_SEARCHED: usize = 16;

/// What was found out about a job.
pub(super) struct Finding {
    pub(super) outcomes: Vec<(u32, Outcome)>,
    pub(super) evidence: Evidence,
    /// The message, if somebody has it in memory.
    pub(super) loaded: Option<Arc<Loaded>>,
}

/// Recipients with the same outcome.
pub(super) struct Group {
    pub(super) outcome: Outcome,
    pub(super) recipients: Vec<u32>,
}

/// How an attempt is told.
pub(super) struct Telling<'a> {
    pub(super) message: u32,
    lane: String,
    attempt: u32,
    evidence: &'a Evidence,
    loaded: Option<&'a Loaded>,
}

impl Telling<'_> {
    pub(super) fn attempt(&self, reason: Reason, recipients: &[u32]) -> Attempt {
        Attempt {
            recipients: recipients.iter().map(|&index| self.name(index)).collect(),
            lane: self.lane.clone(),
            attempt: self.attempt,
            reason,
            evidence: self.evidence.clone(),
        }
    }

    pub(super) fn name(&self, index: u32) -> String {
        let known = self
            .loaded
            .and_then(|l| l.message.envelope.recipients.get(index as usize));
        known.map_or_else(
            || format!("#{index}@{}", self.lane),
            |known| known.to.to_string(),
        )
    }
}

impl Engine {
    /// Applies what was found out about a picked job. It counts as an attempt.
    pub(super) fn conclude(&mut self, job: u32, finding: Finding) {
        let Finding {
            outcomes,
            mut evidence,
            loaded,
        } = finding;
        evidence.mta_sts = self.policy_words(self.table.jobs[job].domain);
        let entry = &mut self.table.jobs[job];
        entry.attempts = entry.attempts.saturating_add(1);
        let message = entry.message;
        let loaded = loaded.or_else(|| self.table.loaded(self.table.messages[message].id));
        let telling = self.telling(job, &evidence, loaded.as_deref());
        let groups = group(&self.table.jobs[job].recipients, outcomes);

        let mut settled = Vec::new();
        let mut open = Vec::new();
        let mut damage = None;
        for Group {
            outcome,
            recipients,
        } in groups
        {
            match outcome {
                Outcome::Delivered(reason) => {
                    self.deliver(&telling, reason, &recipients);
                    settled.extend(recipients);
                }
                Outcome::Bounced(reason) => {
                    if reason.tells_damage() {
                        damage.get_or_insert_with(|| reason.clone());
                    }
                    settled.extend(self.bounce(&telling, reason, recipients));
                }
                deferred @ Outcome::Deferred { .. } => {
                    open.push(Group {
                        outcome: deferred,
                        recipients,
                    });
                }
            }
        }
        self.note_settled(message, settled);
        // Before the job is settled: with it the message may go, and then it goes to the quarantine.
        if let Some(reason) = &damage {
            self.remember_damage(message, reason);
        }
        if open.is_empty() {
            self.drop_job(job);
        } else {
            let left: Vec<u32> = sorted(open.iter().flat_map(|g| g.recipients.clone()).collect());
            let taken = left.len() < self.table.jobs[job].recipients.len() as usize;
            self.table.jobs[job].recipients = Recipients::new(&left);
            self.defer(job, &telling, open, taken);
        }
        if let Some(reason) = damage
            && self.table.messages.get(message).is_some()
        {
            self.give_up_damaged(message, &reason);
        }
        self.tend(message, loaded);
    }

    pub(super) fn telling<'a>(
        &self,
        job: u32,
        evidence: &'a Evidence,
        loaded: Option<&'a Loaded>,
    ) -> Telling<'a> {
        let entry = &self.table.jobs[job];
        Telling {
            message: entry.message,
            lane: self.domains.name(entry.domain).to_string(),
            attempt: u32::from(entry.attempts),
            evidence,
            loaded,
        }
    }

    fn deliver(&mut self, telling: &Telling<'_>, reason: Reason, recipients: &[u32]) {
        self.counters.settle(recipients.len(), Settled::Delivered);
        let entry = &self.table.messages[telling.message];
        let id = entry.id;
        // A receiver that offers DSN was given NOTIFY and reports itself. RFC 3461 §5.2.1.
        if entry.wants.success() && !telling.evidence.dsn {
            let report = self.recipient_reports(telling, Action::Relayed, &reason, recipients);
            self.add_reports(id, report);
        }
        self.event(
            id,
            EventKind::Delivered(telling.attempt(reason, recipients)),
        );
    }

    /// Settles recipients that will never be delivered; gives back those of which nobody wants to
    /// hear. The others are noted as settled when their report is stored.
    pub(super) fn bounce(
        &mut self,
        telling: &Telling<'_>,
        reason: Reason,
        recipients: Vec<u32>,
    ) -> Vec<u32> {
        self.counters.settle(recipients.len(), Settled::Bounced);
        let id = self.table.messages[telling.message].id;
        self.event(
            id,
            EventKind::Bounced(telling.attempt(reason.clone(), &recipients)),
        );
        self.fail(telling, &reason, recipients)
    }

    pub(super) fn fail(
        &mut self,
        telling: &Telling<'_>,
        reason: &Reason,
        recipients: Vec<u32>,
    ) -> Vec<u32> {
        let entry = &self.table.messages[telling.message];
        let (id, wants) = (entry.id, entry.wants);
        if wants.failure() {
            let report = self.recipient_reports(telling, Action::Failed, reason, &recipients);
            self.add_reports(id, report);
            return Vec::new();
        }
        let why = if wants.null_sender() {
            "null sender"
        } else {
            "NOTIFY"
        };
        self.event(
            id,
            EventKind::NotReported {
                why: why.to_owned(),
            },
        );
        recipients
    }

    fn recipient_reports(
        &self,
        telling: &Telling<'_>,
        action: Action,
        reason: &Reason,
        recipients: &[u32],
    ) -> Vec<RecipientReport> {
        let now = self.clock.now().unix;
        let report = |&index| RecipientReport {
            index,
            action,
            reason: reason.clone(),
            host: host_of(telling.evidence).map(str::to_owned),
            last_attempt: (telling.attempt > 0).then_some(now),
        };
        recipients.iter().map(report).collect()
    }

    /// Lets what is left of a job wait for its next attempt, or gives it up.
    fn defer(&mut self, job: u32, telling: &Telling<'_>, open: Vec<Group>, taken: bool) {
        let mut asked: Option<Duration> = None;
        let mut line = None;
        let mut crowded = taken;
        for Group { outcome, .. } in &open {
            let Outcome::Deferred {
                reason,
                retry_after,
                ..
            } = outcome
            else {
                continue;
            };
            asked = asked.max(*retry_after);
            line.get_or_insert_with(|| to_line(reason, host_of(telling.evidence)));
            crowded &= reason.code == Some(452) && reason.status == "4.5.3";
        }
        self.table
            .set_reason(job, line.as_deref().unwrap_or_default());
        let message = telling.message;
        if self.act_after_attempt(job) {
            return;
        }
        let Some(open) = self.hold_doubtful(job, telling, open) else {
            return;
        };
        if open.iter().any(Group::is_in_doubt) {
            self.table.jobs[job].marks.set_in_doubt();
        }
        if self.is_expired(message) && !self.table.messages[message].held {
            return self.expire(job);
        }
        let attempt = telling.attempt;
        let wait = if crowded {
            // RFC 5321 §4.5.3.1.10: some were taken, and the rest goes in a further transaction.
            Duration::ZERO
        } else {
            wait_after(&self.config.delivery.retry, attempt, asked, &mut self.rng)
        };
        let next = self.clock.tick().after(wait).min(self.deadline(message));
        self.table.jobs[job].due = next;
        self.tell_deferral(job, telling, open);
        if self.table.messages[message].held || crowded {
            self.dispatch(job);
        } else {
            self.table.wait(job, next);
        }
    }

    /// Notes that a job waits until it is due, and says so.
    pub(super) fn tell_deferral(&mut self, job: u32, telling: &Telling<'_>, open: Vec<Group>) {
        self.note_deferred(job);
        let (entry, message) = (&self.table.jobs[job], &self.table.messages[telling.message]);
        let id = message.id;
        let next = (!entry.marks.held()).then(|| rfc3339(self.clock.unix(entry.due)));
        for Group {
            outcome,
            recipients,
        } in open
        {
            if let Outcome::Deferred {
                reason, in_doubt, ..
            } = outcome
            {
                let attempt = telling.attempt(reason, &recipients);
                let next = next.clone();
                self.event(
                    id,
                    EventKind::Deferred {
                        attempt,
                        next,
                        in_doubt,
                    },
                );
            }
        }
    }

    /// Notes how a job waits.
    pub(super) fn note_deferred(&mut self, job: u32) {
        let entry = &self.table.jobs[job];
        let message = &self.table.messages[entry.message];
        let state = DeferredState {
            recipients: entry.recipients.to_vec(),
            attempts: u32::from(entry.attempts),
            next: self.clock.unix(entry.due),
            delay_reported: message.delay_reported,
            in_doubt: entry.marks.in_doubt(),
            held: entry.marks.held(),
            reason: self.table.reason(job).unwrap_or_default().to_owned(),
        };
        let note = Output::Note(message.id, message.place, Progress::Deferred(state));
        self.out.push_back(note);
    }

    /// Does to a picked job what an administrator asked for while it was being delivered. Whether
    /// that was its end.
    pub(super) fn act_after_attempt(&mut self, job: u32) -> bool {
        match self.table.jobs[job].marks.then() {
            Then::Nothing => return false,
            Then::Bounce => self.bounce_by_admin(job),
            Then::Remove => self.remove_by_admin(job),
        }
        true
    }

    /// Notes settled recipients, unless the whole message is about to be discarded.
    pub(super) fn note_settled(&mut self, message: u32, settled: Vec<u32>) {
        if settled.is_empty() {
            return;
        }
        let entry = &self.table.messages[message];
        let (id, place) = (entry.id, entry.place);
        let recipients = sorted(settled);
        self.out
            .push_back(Output::Note(id, place, Progress::Settled { recipients }));
    }

    /// Takes a job out of the table and from its domain.
    pub(super) fn drop_job(&mut self, job: u32) {
        let domain = self.table.jobs[job].domain;
        self.table.remove_job(job);
        self.domains.remove_job(domain);
    }

    /// After a change: sends the reports that are due, forgets what is done.
    pub(super) fn tend(&mut self, message: u32, loaded: Option<Arc<Loaded>>) {
        let Some(entry) = self.table.messages.get(message) else {
            return;
        };
        let (id, place) = (entry.id, entry.place);
        if entry.busy == 0 {
            self.send_reports(message, loaded);
            self.table.unload(id);
        }
        let entry = &self.table.messages[message];
        if entry.first_job == crate::queue::job::NIL && !self.reports.is_pending(id) {
            self.table.remove(message);
            self.out.push_back(match self.damaged.remove(&id) {
                Some(why) => Output::Quarantine(id, place, why),
                None => Output::Discard(id, place),
            });
        }
    }

    /// When the message is given up.
    pub(super) fn deadline(&self, message: u32) -> Tick {
        let entry = &self.table.messages[message];
        let expires = entry.birth.after(self.config.delivery.expire);
        if entry.wants.late_return() {
            expires.min(entry.late)
        } else {
            expires
        }
    }

    pub(super) fn is_expired(&self, message: u32) -> bool {
        self.deadline(message) <= self.clock.tick()
    }

    pub(super) fn event(&mut self, id: MessageId, kind: EventKind) {
        let event = DeliveryEvent::new(self.clock.now().unix, id, kind);
        self.out.push_back(Output::Event(Box::new(event)));
    }
}

/// Sorts outcomes into groups. A recipient of which nothing was said is deferred; one that the job
/// does not have is ignored.
fn group(recipients: &Recipients, mut outcomes: Vec<(u32, Outcome)>) -> Vec<Group> {
    outcomes.sort_by_key(|(index, _)| *index);
    outcomes.dedup_by_key(|(index, _)| *index);
    outcomes.retain(|(index, _)| recipients.contains(*index));
    if outcomes.len() < recipients.len() as usize {
        let silent = recipients.to_vec().into_iter().filter(|index| {
            outcomes
                .binary_search_by_key(index, |(index, _)| *index)
                .is_err()
        });
        let silent: Vec<_> = silent.map(|index| (index, unknown())).collect();
        outcomes.extend(silent);
    }
    let mut groups: Vec<Group> = Vec::new();
    for (index, outcome) in outcomes {
        let alike = groups
            .iter_mut()
            .rev()
            .take(GROUPS_SEARCHED)
            .find(|g| g.outcome == outcome);
        match alike {
            Some(group) => group.recipients.push(index),
            None => groups.push(Group {
                outcome,
                recipients: vec![index],
            }),
        }
    }
    groups
}

fn unknown() -> Outcome {
    Outcome::Deferred {
        reason: Reason {
            stage: "policy".to_owned(),
            code: None,
            status: "4.3.0".to_owned(),
            text: "the attempt said nothing of this recipient".to_owned(),
            rule: "no-outcome".to_owned(),
        },
        retry_after: None,
        in_doubt: true,
    }
}

fn sorted(mut indexes: Vec<u32>) -> Vec<u32> {
    indexes.sort_unstable();
    indexes
}
