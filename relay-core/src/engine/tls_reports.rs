//! TLS-RPT: sessions are counted as deliveries report them, and each day's counts are sent when it is over.
//!
//! ```text
//!  Tried ──▶ counted ──▶ kept (a minute later) … the day ends, or an operator says so ──▶ due ◀──────┐
//!                                                                                         │          │
//!     ┌───────────────────────────────────────── Errand::Report: who wants it? ◀──────────┘          │
//!     ├─▶ nobody: forgotten                                                                          │
//!     ├─▶ mailto: queued like any message of our own ─┬─ all have it: forgotten                      │
//!     └─▶ https: posted by the errand                 └─ some have not ─▶ an hour later; five times ─┘
//! ```
//!
//! Mail of the relay's own (reports, this one too) is not counted: two relays would report to each other
//! about reports for ever. RFC 8460 §3 to §5.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::accept::Writer;
use super::errands::Purpose;
use super::{Engine, Keep, Output};
use crate::admin::{TlsReportEntry, TlsReportSelector};
use crate::errand::Errand;
use crate::events::rfc3339;
use crate::id::MessageId;
use crate::outbound::{TlsFailureKind, TlsSession};
use crate::queue::schedule::part;
use crate::queue::tick::Tick;
use crate::sts::Policy;
use crate::time::UnixTime;
use crate::tlsrpt::tally::{DAY, Period, Sessions, Tally};
use crate::tlsrpt::{Due, Head, Sent, json};

/// How long what is counted waits to be written down.
const KEEP_WAIT: Duration = Duration::from_secs(60);
/// Counts that are written down at once; the others follow.
const KEEPS_MAX: usize = 200;
const KEEP_NEXT: Duration = Duration::from_millis(200);
/// Reports of a day go out over so many hours, as RFC 8460 §4.1 has it.
const SPREAD: Duration = Duration::from_secs(4 * 3600);
/// Reports that are on their way at once: hosts that never answer must not take the places of other errands.
const SENDING_MAX: usize = 8;
/// A report that could not be sent is tried again after this, then after twice as long, and so on: within
/// the day that RFC 8460 §5.5 gives it.
const AGAIN: Duration = Duration::from_secs(3600);
const TRIES_MAX: u32 = 5;
/// Entries that an administrator is shown.
const LIST_MAX: usize = 1000;
/// What a kept count is called: this, its first second, and a hash of its domain.
pub(super) const KEPT_COUNT: &str = "tls-rpt-";

/// Counts, and when the reports of them are due.
#[derive(Debug, Default)]
pub(super) struct TlsReports {
    tally: Tally,
    due: BTreeSet<(Tick, Period)>,
    /// On their way: as an errand, or as a mail that is being stored.
    sending: BTreeSet<Period>,
    /// Mails with reports that are being stored.
    mailing: BTreeMap<MessageId, Mailing>,
    keep_at: Option<Tick>,
    /// The day that is counted now.
    day: u64,
}

/// A mail that is being stored.
#[derive(Debug)]
struct Mailing {
    period: Period,
    /// Whom it is to.
    to: Vec<String>,
    /// Where else the report did not arrive.
    failed: Vec<(String, String)>,
}

impl Engine {
    /// Counts what a delivery reports of its sessions.
    pub(super) fn count_sessions(&mut self, message: u32, domain: u32, sessions: &[TlsSession]) {
        // RFC 8460 §3: "SHOULD NOT include this SMTP session in the next report".
        let own = self.table.messages[message].wants.null_sender();
        if sessions.is_empty() || own || !self.config.tls_rpt.enabled {
            return;
        }
        let name = self.domains.name(domain).to_string();
        let policy = self.policy_of(domain).map(std::sync::Arc::clone);
        let day = self.today();
        for session in sessions {
            let strange = policy
                .as_deref()
                .is_some_and(|policy| session.failure.is_none() && !policy.allows(&session.host));
            let by_sts = session.policy == crate::outbound::TlsPolicyType::Sts;
            if strange && by_sts {
                let session = TlsSession {
                    failure: Some(TlsFailureKind::ValidationFailure),
                    why: "the MTA-STS policy does not name this host".to_owned(),
                    ..session.clone()
                };
                self.tls_reports
                    .tally
                    .count(day, &name, policy.as_deref(), &session);
            } else {
                self.tls_reports
                    .tally
                    .count(day, &name, policy.as_deref(), session);
            }
        }
        self.keep_counts_soon();
    }

    /// Counts what kept a session from being made.
    pub(super) fn count_policy_failure(
        &mut self,
        domain: &str,
        policy: Option<&Policy>,
        kind: TlsFailureKind,
        host: &str,
        why: &str,
    ) {
        if self.config.tls_rpt.enabled {
            let day = self.today();
            let tally = &mut self.tls_reports.tally;
            tally.count_failure(day, domain, policy, kind, host, why);
            self.keep_counts_soon();
        }
    }

    fn today(&self) -> u64 {
        self.clock.now().unix.as_secs() / DAY
    }

    /// A minute later, or at once where there may be no later.
    fn keep_counts_soon(&mut self) {
        if self.stopping {
            return self.keep_counts();
        }
        let at = self.clock.tick().after(KEEP_WAIT);
        self.tls_reports.keep_at.get_or_insert(at);
    }

    /// Writes down what changed, and sends what is due.
    pub(super) fn tend_tls_reports(&mut self) {
        let now = self.clock.tick();
        let today = self.today();
        if today != self.tls_reports.day {
            self.tls_reports.day = today;
            self.schedule_reports(today);
        }
        if self.tls_reports.keep_at.is_some_and(|at| at <= now) {
            self.keep_some_counts(KEEPS_MAX);
        }
        while self.may_send_report()
            && let Some((at, _)) = self.tls_reports.due.first()
            && *at <= now
            && let Some((_, period)) = self.tls_reports.due.pop_first()
        {
            let Some(sessions) = self.tls_reports.tally.get(&period).cloned() else {
                continue;
            };
            self.tls_reports.sending.insert(period.clone());
            let id = self.next_message_id();
            let errand = Errand::Report(Box::new(Due { sessions, id }));
            self.queue_errand(errand, Purpose::Report(period));
        }
    }

    /// When something is to be done about reports; the end of the day too, if there is something to tell.
    pub(super) fn next_tls_report(&self) -> Option<Tick> {
        let reports = &self.tls_reports;
        let midnight = UnixTime::from_secs((self.today() + 1) * DAY);
        let midnight = (!reports.tally.is_empty()).then(|| self.clock.tick_at(midnight));
        let due = reports.due.first().map(|(at, _)| *at);
        let due = due.filter(|_| self.may_send_report());
        [due, reports.keep_at, midnight].into_iter().flatten().min()
    }

    fn may_send_report(&self) -> bool {
        self.config.tls_rpt.enabled
            && !self.stopping
            && self.tls_reports.sending.len() < SENDING_MAX
    }

    /// Reports of days that are over get a time of their own. What is older than two days tells nobody
    /// anything.
    fn schedule_reports(&mut self, today: u64) {
        let due = self.tls_reports.due.iter();
        let waiting: BTreeSet<Period> = due.map(|(_, period)| period.clone()).collect();
        for period in self.tls_reports.tally.over(today) {
            let told = self.tls_reports.tally.get(&period);
            if period.day + 2 < today || told.is_none_or(Sessions::is_told) {
                self.forget_counts(&period);
            } else if !waiting.contains(&period) && !self.tls_reports.sending.contains(&period) {
                let wait = part(SPREAD, 1, &mut self.rng);
                let at = self.clock.tick().after(wait);
                self.tls_reports.due.insert((at, period));
            }
        }
    }

    /// Writes down all that changed.
    pub(super) fn keep_counts(&mut self) {
        self.keep_some_counts(usize::MAX);
    }

    fn keep_some_counts(&mut self, most: usize) {
        let (changed, more) = self.tls_reports.tally.take_changed(most);
        let keeps: Vec<Keep> = changed
            .into_iter()
            .map(|sessions| Keep {
                name: name_of(&sessions.period),
                text: serde_json::to_string(sessions).ok(),
            })
            .collect();
        self.tls_reports.keep_at = more.then(|| self.clock.tick().after(KEEP_NEXT));
        self.out.extend(keeps.into_iter().map(Output::Keep));
    }

    fn forget_counts(&mut self, period: &Period) {
        if self.tls_reports.tally.remove(period) {
            let name = name_of(period);
            self.out.push_back(Output::Keep(Keep { name, text: None }));
        }
    }

    /// Takes back what an earlier run counted.
    ///
    /// # Errors
    /// Why it is not believed.
    pub(super) fn recover_counts(&mut self, name: &str, text: &str) -> Result<(), String> {
        let sessions: Sessions = serde_json::from_str(text).map_err(|why| why.to_string())?;
        if name_of(&sessions.period) != name {
            return Err("it is under another name".to_owned());
        }
        let Period { day, start, .. } = sessions.period;
        if start.checked_div(DAY) != Some(day) || sessions.end() <= start {
            return Err("it ends before it begins".to_owned());
        }
        if day > self.today() {
            return Err("it is of a day to come".to_owned());
        }
        self.tls_reports.tally.recover(sessions);
        Ok(())
    }

    /// A report was sent, as far as it could be. Its mail, if there is one, is still to be stored.
    pub(super) fn report_sent(&mut self, period: Period, result: Result<Box<Sent>, String>) {
        self.tls_reports.sending.remove(&period);
        let sent = match result {
            Ok(sent) => *sent,
            Err(why) => return self.report_again(&period, why),
        };
        let Some(sessions) = self.tls_reports.tally.get_mut(&period) else {
            return;
        };
        sessions.sent.extend(sent.posted);
        let Some(mail) = sent.mail else {
            return self.report_settled(&period, &sent.failed);
        };
        let mailing = Mailing {
            period: period.clone(),
            to: sent.mailed,
            failed: sent.failed,
        };
        self.tls_reports.sending.insert(period);
        self.tls_reports.mailing.insert(mail.id, mailing);
        self.write(Writer::TlsReport(mail.id), *mail);
    }

    /// The mail with a report is in the queue, or could not be stored.
    pub(super) fn report_mailed(&mut self, report: MessageId, stored: bool) {
        let Some(mut mailing) = self.tls_reports.mailing.remove(&report) else {
            return;
        };
        self.tls_reports.sending.remove(&mailing.period);
        if let (true, Some(sessions)) = (stored, self.tls_reports.tally.get_mut(&mailing.period)) {
            sessions.sent.append(&mut mailing.to);
        }
        let why = "the mail could not be stored".to_owned();
        let lost = mailing.to.drain(..).map(|to| (to, why.clone()));
        mailing.failed.extend(lost);
        self.report_settled(&mailing.period, &mailing.failed);
    }

    /// All that can be done about a report now was done.
    fn report_settled(&mut self, period: &Period, failed: &[(String, String)]) {
        if failed.is_empty() {
            return self.report_ended(period);
        }
        let failed = failed.iter().map(|(rua, why)| format!("{rua}: {why}"));
        self.report_again(period, failed.collect::<Vec<_>>().join("; "));
    }

    fn report_again(&mut self, period: &Period, why: String) {
        let Some(sessions) = self.tls_reports.tally.get_mut(period) else {
            return;
        };
        if self.stopping {
            // It was cut short by us: the next run tries it.
            return self.keep_counts();
        }
        sessions.tries += 1;
        let (tries, domain) = (sessions.tries, &period.domain);
        tracing::warn!(domain, tries, why, "a TLS-RPT report was not sent");
        sessions.last = Some(why);
        if tries >= TRIES_MAX {
            return self.report_ended(period);
        }
        let at = self.clock.tick().after(AGAIN * (1 << (tries - 1)));
        self.tls_reports.due.insert((at, period.clone()));
        self.keep_counts_soon();
    }

    /// Nothing more is done about a report. That a part of today was told is remembered for the day.
    fn report_ended(&mut self, period: &Period) {
        if period.day < self.today() {
            return self.forget_counts(period);
        }
        let unix = self.clock.now().unix.as_secs();
        self.tls_reports.tally.close(period, unix);
        if let Some(sessions) = self.tls_reports.tally.get_mut(period) {
            sessions.policies.clear();
        }
        self.keep_counts_soon();
    }

    /// Sends reports now, those of the running day too; gives how many are on their way.
    pub(super) fn send_tls_reports(&mut self, selector: &TlsReportSelector) -> usize {
        if !self.config.tls_rpt.enabled {
            return 0;
        }
        let now = self.clock.tick();
        let reports = &mut self.tls_reports;
        let fits = |sessions: &&Sessions| {
            selector.fits(sessions.period.day, &sessions.period.domain) && !sessions.is_told()
        };
        let fitting = reports.tally.iter().filter(fits);
        let (sending, chosen): (BTreeSet<Period>, BTreeSet<Period>) = fitting
            .map(|sessions| sessions.period.clone())
            .partition(|period| reports.sending.contains(period));
        reports.due.retain(|(_, period)| !chosen.contains(period));
        let unix = self.clock.now().unix.as_secs();
        for period in &chosen {
            if period.day == unix / DAY {
                reports.tally.close(period, unix);
            }
            reports.due.insert((now, period.clone()));
        }
        if !chosen.is_empty() {
            self.keep_counts_soon();
        }
        chosen.len() + sending.len()
    }

    /// What is counted and not told, for an administrator. With the report itself where one domain is meant.
    pub(super) fn list_tls_reports(&self, selector: &TlsReportSelector) -> Vec<TlsReportEntry> {
        let reports = &self.tls_reports;
        let due: BTreeMap<&Period, Tick> = reports
            .due
            .iter()
            .map(|(at, period)| (period, *at))
            .collect();
        let head = selector.domain.as_ref().map(|_| Head::of(&self.config));
        let fits = |sessions: &&Sessions| {
            selector.fits(sessions.period.day, &sessions.period.domain) && !sessions.is_told()
        };
        let entry = |sessions: &Sessions| {
            let at = due.get(&sessions.period);
            let counting = sessions.end.is_none() && sessions.period.day == self.today();
            let state = match at {
                _ if reports.sending.contains(&sessions.period) => "sending",
                Some(_) => "due",
                None if counting => "counting",
                None => "waiting",
            };
            let time = |secs| rfc3339(UnixTime::from_secs(secs));
            let sum = |count: fn(&crate::tlsrpt::tally::UnderPolicy) -> u64| {
                sessions.policies.iter().map(count).sum()
            };
            TlsReportEntry {
                domain: sessions.period.domain.clone(),
                start: time(sessions.period.start),
                end: time(sessions.end()),
                successes: sum(|policy| policy.successes),
                failures: sum(|policy| policy.failed),
                state: state.to_owned(),
                next: at.map(|&at| rfc3339(self.clock.unix(at))),
                sent: sessions.sent.clone(),
                tries: sessions.tries,
                last: sessions.last.clone(),
                report: head.as_ref().map(|head| json(head, sessions)),
            }
        };
        let listed = reports.tally.iter().filter(fits);
        listed.map(entry).take(LIST_MAX).collect()
    }
}

/// A domain name may be longer than a file name.
fn name_of(Period { start, domain, .. }: &Period) -> String {
    format!(
        "{KEPT_COUNT}{start}-{}.json",
        super::errands::hash_of(domain)
    )
}
