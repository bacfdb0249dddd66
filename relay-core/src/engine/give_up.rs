//! Jobs that end without an attempt: their time is over, an administrator said so, or an attempt for other
//! recipients of their message found it damaged.

use super::Engine;
use super::counters::Settled;
use crate::events::EventKind;
use crate::outbound::{Evidence, Reason};
use crate::queue::job::JobState;
use crate::queue::reason::from_line;

impl Engine {
    /// Gives up a job whose message's time is over, unless a delivery has it.
    pub(super) fn expire(&mut self, job: u32) {
        let entry = &self.table.jobs[job];
        let (message, recipients) = (entry.message, entry.recipients.to_vec());
        let (last, host) = self.last_line(job).map(from_line).unzip();
        let in_doubt = match self.table.jobs[job].marks.in_doubt() {
            true => "; one attempt may have delivered it: its final reply never came",
            false => "",
        };
        let entry = &self.table.messages[message];
        let late = entry.wants.late_return() && entry.late <= self.clock.tick();
        let rule = if late { "deliver-by" } else { "expired" };
        let text = match &last {
            Some(last) => format!("not delivered in time{in_doubt}; last: {last}"),
            None => "not delivered in time, and never tried".to_owned(),
        };
        let reason = Reason {
            stage: last.map(|last| last.stage).unwrap_or_default(),
            code: None,
            status: "5.4.7".to_owned(),
            text,
            rule: rule.to_owned(),
        };
        let evidence = Evidence {
            host: host.flatten(),
            ..Evidence::default()
        };
        let loaded = self.table.loaded(self.table.messages[message].id);
        let telling = self.telling(job, &evidence, loaded.as_deref());
        self.counters.settle(recipients.len(), Settled::Expired);
        let id = self.table.messages[message].id;
        self.event(
            id,
            EventKind::Expired(telling.attempt(reason.clone(), &recipients)),
        );
        let settled = self.fail(&telling, &reason, recipients);
        self.note_settled(message, settled);
        self.drop_job(job);
        self.tend(message, loaded);
    }

    /// Bounces a job that no delivery has because an administrator said so.
    pub(super) fn bounce_by_admin(&mut self, job: u32) {
        let message = self.table.jobs[job].message;
        let reason = Reason {
            stage: "policy".to_owned(),
            code: None,
            status: "5.0.0".to_owned(),
            text: "given up by the relay's administrator".to_owned(),
            rule: "administrator".to_owned(),
        };
        self.bounce_untried(job, reason);
        let loaded = self.table.loaded(self.table.messages[message].id);
        self.tend(message, loaded);
    }

    /// A message is damaged: what waits of it is given up at once, and it goes to the quarantine when
    /// all of it is settled. Who has it in memory may deliver it yet; what is held is looked at by whoever
    /// holds it.
    pub(super) fn give_up_damaged(&mut self, message: u32, reason: &Reason) {
        self.remember_damage(message, reason);
        for job in self.table.jobs_of(message) {
            match self.table.jobs[job].state {
                JobState::Ready | JobState::Resolving | JobState::Waiting => {
                    self.bounce_untried(job, reason.clone());
                }
                JobState::Picked | JobState::Delivering | JobState::Parked | JobState::Gone => {}
            }
        }
    }

    /// The message goes to the quarantine when all of it is settled.
    pub(super) fn remember_damage(&mut self, message: u32, reason: &Reason) {
        let id = self.table.messages[message].id;
        let why = self.damaged.entry(id);
        why.or_insert_with(|| reason.text.clone());
    }

    fn bounce_untried(&mut self, job: u32, reason: Reason) {
        let entry = &self.table.jobs[job];
        let (message, recipients) = (entry.message, entry.recipients.to_vec());
        let evidence = Evidence::default();
        let loaded = self.table.loaded(self.table.messages[message].id);
        let telling = self.telling(job, &evidence, loaded.as_deref());
        let settled = self.bounce(&telling, reason, recipients);
        self.note_settled(message, settled);
        self.drop_job(job);
    }

    /// Drops a job that no delivery has, without a report.
    pub(super) fn remove_by_admin(&mut self, job: u32) {
        let entry = &self.table.jobs[job];
        let (message, recipients) = (entry.message, entry.recipients.to_vec());
        self.counters.settle(recipients.len(), Settled::Removed);
        let evidence = Evidence::default();
        let loaded = self.table.loaded(self.table.messages[message].id);
        let telling = self.telling(job, &evidence, loaded.as_deref());
        let names = recipients
            .iter()
            .map(|&index| telling.name(index))
            .collect();
        let change = EventKind::Changed {
            change: "removed".to_owned(),
            recipients: names,
        };
        self.event(self.table.messages[message].id, change);
        self.note_settled(message, recipients);
        self.drop_job(job);
        self.tend(message, None);
    }
}
