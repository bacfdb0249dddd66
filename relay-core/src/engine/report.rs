//! Reports to senders: gathered for each message, written by the runtime, queued like any message.
//!
//! ```text
//!  Gathering ── no job of the message is under way, or a minute passed ──▶ Queued ──▶ Asked
//!      ▲  ▲                                                                             │
//!      │  └───────────── could not be read or stored: a minute later ◀──────────────────┤
//!      └─ more to report meanwhile ◀── Stored(Ok) ◀── Storing ◀── ReportWritten(Ok) ◀───┘
//! ```
//!
//! A recipient that failed is noted as settled, and its message discarded, only after the report is
//! on stable storage: a crash in between makes the failure happen again, never a loss without a word.
//! Only a report of success can be lost so: the delivery itself must not happen again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::accept::Writer;
use super::{Engine, NotWritten, Output, ReportDue, Submission};
use crate::bounce::{Action, RecipientReport, Report};
use crate::events::EventKind;
use crate::id::MessageId;
use crate::outbound::Loaded;
use crate::queue::record::Progress;
use crate::queue::tick::Tick;

/// How long a report waits for jobs of its message that are under way.
const GATHER: Duration = Duration::from_secs(60);
/// How long until a report that could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(60);
/// Reports that are being written at once.
const ASKED_MAX: usize = 16;

/// Reports that are due, by the message that they are about.
#[derive(Debug, Default)]
pub(super) struct Reports {
    pending: BTreeMap<MessageId, Pending>,
    due: BTreeSet<(Tick, MessageId)>,
    queued: VecDeque<MessageId>,
    /// Reports in [`Phase::Asked`] or [`Phase::Storing`].
    under_way: usize,
}

#[derive(Debug)]
struct Pending {
    phase: Phase,
    /// For the next report.
    gathered: Vec<RecipientReport>,
    /// In the report that is under way.
    sent: Vec<RecipientReport>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Gathering,
    Queued,
    Asked,
    Storing,
}

impl Reports {
    /// Whether something is to be reported about a message.
    pub(super) fn is_pending(&self, about: MessageId) -> bool {
        self.pending.contains_key(&about)
    }

    /// Whether no report is being written or stored.
    pub(super) const fn is_idle(&self) -> bool {
        self.under_way == 0
    }

    /// When the next report has waited long enough.
    pub(super) fn next_due(&self) -> Option<Tick> {
        self.due.first().map(|&(due, _)| due)
    }

    /// Recipients of a message that failed and are not reported yet.
    pub(super) fn unreported(&self, about: MessageId) -> Vec<u32> {
        let Some(pending) = self.pending.get(&about) else {
            return Vec::new();
        };
        pending
            .sent
            .iter()
            .chain(&pending.gathered)
            .filter_map(failed_index)
            .collect()
    }
}

fn failed_index(report: &RecipientReport) -> Option<u32> {
    match report.action {
        Action::Failed => Some(report.index),
        Action::Delayed { .. } | Action::Relayed => None,
    }
}

/// A recipient that was late and has failed since is reported as failed.
fn forget_outdated(reports: &mut Vec<RecipientReport>) {
    let failed: BTreeSet<u32> = reports.iter().filter_map(failed_index).collect();
    reports.retain(|report| failed_index(report).is_some() || !failed.contains(&report.index));
}

impl Engine {
    /// Adds to what is to be reported about a message.
    pub(super) fn add_reports(&mut self, about: MessageId, reports: Vec<RecipientReport>) {
        let due = self.clock.tick().after(GATHER);
        match self.reports.pending.get_mut(&about) {
            Some(pending) => pending.gathered.extend(reports),
            None => {
                let pending = Pending {
                    phase: Phase::Gathering,
                    gathered: reports,
                    sent: Vec::new(),
                };
                self.reports.pending.insert(about, pending);
                self.reports.due.insert((due, about));
            }
        }
    }

    /// Sends what was gathered about a message, if nothing of it is under way.
    pub(super) fn send_reports(&mut self, message: u32, original: Option<Arc<Loaded>>) {
        let id = self.table.messages[message].id;
        let Some(pending) = self.reports.pending.get_mut(&id) else {
            return;
        };
        if pending.phase != Phase::Gathering || pending.gathered.is_empty() {
            return;
        }
        if self.reports.under_way >= ASKED_MAX {
            pending.phase = Phase::Queued;
            self.reports.queued.push_back(id);
            return;
        }
        pending.phase = Phase::Asked;
        pending.sent = std::mem::take(&mut pending.gathered);
        forget_outdated(&mut pending.sent);
        let recipients = pending.sent.clone();
        self.reports.under_way += 1;
        let original = original.or_else(|| self.table.loaded(id));
        let report = Report {
            about: id,
            id: self.next_message_id(),
            now: self.clock.now().unix,
            hostname: self.config.hostname.clone(),
            recipients,
        };
        let place = self.table.messages[message].place;
        self.out.push_back(Output::Report(Box::new(ReportDue {
            report,
            place,
            original,
        })));
    }

    /// Sends reports that waited long enough for the rest of their message.
    pub(super) fn send_due_reports(&mut self) {
        let now = self.clock.tick();
        while let Some(&(due, about)) = self.reports.due.first()
            && due <= now
        {
            self.reports.due.pop_first();
            if let Some(message) = self.table.find(about) {
                self.send_reports(message, None);
            }
        }
    }

    /// What became of an [`Output::Report`].
    pub(super) fn report_written(
        &mut self,
        about: MessageId,
        report: Result<Box<Submission>, NotWritten>,
    ) {
        let Some(pending) = self.reports.pending.get_mut(&about) else {
            return;
        };
        if pending.phase != Phase::Asked {
            debug_assert!(false, "a report is written once for each Output::Report");
            return;
        }
        match report {
            Ok(submission) => {
                pending.phase = Phase::Storing;
                self.write(Writer::Report(about), *submission);
            }
            Err(NotWritten::NotDue(why) | NotWritten::Damaged(why)) => {
                let relayed = pending.sent.iter().all(|r| r.action == Action::Relayed);
                if !relayed {
                    self.event(about, EventKind::NotReported { why });
                }
                self.reported(about);
            }
            Err(NotWritten::Later(_)) => self.report_later(about),
        }
    }

    /// The report could not be written or stored: what it said is gathered again.
    pub(super) fn report_later(&mut self, about: MessageId) {
        let due = self.clock.tick().after(AGAIN);
        let Some(pending) = self.reports.pending.get_mut(&about) else {
            return;
        };
        pending.phase = Phase::Gathering;
        let later = std::mem::take(&mut pending.gathered);
        pending.gathered = std::mem::take(&mut pending.sent);
        pending.gathered.extend(later);
        self.reports.due.insert((due, about));
        self.reports.under_way -= 1;
        self.send_queued_report();
    }

    /// The report is on stable storage, or none is due: the failures that it tells of are settled.
    pub(super) fn reported(&mut self, about: MessageId) {
        self.reports.under_way -= 1;
        self.finish_report(about);
        self.send_queued_report();
    }

    fn finish_report(&mut self, about: MessageId) {
        let due = self.clock.tick().after(GATHER);
        let Some(pending) = self.reports.pending.get_mut(&about) else {
            return;
        };
        let sent = std::mem::take(&mut pending.sent);
        pending.phase = Phase::Gathering;
        if pending.gathered.is_empty() {
            self.reports.pending.remove(&about);
        } else {
            self.reports.due.insert((due, about));
        }
        let Some(message) = self.table.find(about) else {
            return;
        };
        let delayed = sent
            .iter()
            .any(|r| matches!(r.action, Action::Delayed { .. }));
        let done = self.table.messages[message].first_job == crate::queue::job::NIL
            && !self.reports.is_pending(about);
        if delayed && !done {
            self.table.messages[message].delay_reported = true;
            let place = self.table.messages[message].place;
            let state = self
                .table
                .state(message, &self.reports.unreported(about), &self.clock);
            self.out
                .push_back(Output::Note(about, place, Progress::State(state)));
        } else if !done {
            self.note_settled(message, sent.iter().filter_map(failed_index).collect());
        }
        self.tend(message, None);
    }

    fn send_queued_report(&mut self) {
        while self.reports.under_way < ASKED_MAX
            && let Some(about) = self.reports.queued.pop_front()
        {
            let Some(pending) = self.reports.pending.get_mut(&about) else {
                continue;
            };
            if pending.phase == Phase::Queued {
                pending.phase = Phase::Gathering;
            }
            if let Some(message) = self.table.find(about) {
                self.send_reports(message, None);
            }
        }
    }

    /// Reports that the waiting recipients of a message are late.
    pub(super) fn report_delay(&mut self, message: u32) {
        let until = self.clock.unix(self.deadline(message));
        let id = self.table.messages[message].id;
        let mut reports = Vec::new();
        for job in self.table.jobs_of(message) {
            // Nothing that is held for being in doubt is certain to be late, or to be tried again.
            if self.table.jobs[job].marks.held() {
                continue;
            }
            let (reason, host, tried) = self.last_reason(job);
            let recipients = self.table.jobs[job].recipients.to_vec();
            reports.extend(recipients.into_iter().map(|index| RecipientReport {
                index,
                action: Action::Delayed { until },
                reason: reason.clone(),
                host: host.clone(),
                last_attempt: tried.then(|| self.clock.now().unix),
            }));
        }
        self.table.messages[message].delay_reported = true;
        if !reports.is_empty() {
            self.add_reports(id, reports);
            self.send_reports(message, None);
        }
    }

    /// What is to be noted of up to `max` live messages with ids above `after`, oldest first. A
    /// message of which nothing is to be noted is left out. Empty at the end.
    #[must_use]
    pub fn snapshot(&self, after: Option<MessageId>, max: usize) -> Vec<(MessageId, Progress)> {
        self.table
            .after(after)
            .filter_map(|message| {
                let id = self.table.messages[message].id;
                let unreported = self.reports.unreported(id);
                let state = self.table.state(message, &unreported, &self.clock);
                let empty = state == crate::queue::record::State::default();
                (!empty).then_some((id, Progress::State(state)))
            })
            .take(max)
            .collect()
    }
}
