//! TLS-RPT: sessions are counted as deliveries report them, and each day's counts are sent when it is over.
//!
//! ```text
//!  Tried ──▶ counted ──▶ kept (a minute later) … the day ends ──▶ due, within hours
//!            ┌─────────────────────────────────────────────────────┘
//!            └─▶ who wants it? ─▶ nobody: forgotten
//!                              ├▶ mailto: queued like any message of our own
//!                              └▶ https: posted; an hour later again if that failed, five times in all
//! ```
//!
//! Mail of the relay's own (reports, this one too) is not counted: two relays would report to each other
//! about reports for ever. RFC 8460 §4, §5.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use smtp_proto::{Domain, Mailbox};

use super::accept::Writer;
use super::errands::Purpose;
use super::{Engine, Keep, Output};
use crate::errand::Errand;
use crate::https;
use crate::id::MessageId;
use crate::outbound::{TlsFailureKind, TlsSession};
use crate::queue::schedule::part;
use crate::queue::tick::Tick;
use crate::sts::Policy;
use crate::tlsrpt::tally::{Sessions, Tally};
use crate::tlsrpt::{Head, Rua, gzipped, mail};

const DAY: u64 = 86_400;
/// How long what is counted waits to be written down.
const KEEP_WAIT: Duration = Duration::from_secs(60);
/// Reports of a day go out over so many hours, as RFC 8460 §4.1 has it.
const SPREAD: Duration = Duration::from_secs(4 * 3600);
/// A report that could not be sent is tried again after this, then after twice as long, and so on: within
/// the day that RFC 8460 §5.5 gives it.
const AGAIN: Duration = Duration::from_secs(3600);
const TRIES_MAX: u32 = 5;
/// What a kept count is called: this, its day, and a hash of its domain.
pub(super) const KEPT_COUNT: &str = "tls-rpt-";

/// A day and a domain.
pub(super) type Key = (u64, String);

/// Counts, and when the reports of them are due.
#[derive(Debug, Default)]
pub(super) struct TlsReports {
    tally: Tally,
    due: BTreeSet<(Tick, Key)>,
    keep_at: Option<Tick>,
    /// Mails with reports that are being stored.
    mailing: BTreeMap<MessageId, Key>,
    /// The day that is counted now.
    day: u64,
}

impl Engine {
    /// Counts what a delivery reports of its sessions.
    pub(super) fn count_sessions(&mut self, message: u32, domain: u32, sessions: &[TlsSession]) {
        // RFC 8460 §5.3: reports about the delivery of reports would have no end.
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
            self.keep_counts();
        }
        while !self.stopping
            && let Some((at, _)) = self.tls_reports.due.first()
            && *at <= now
            && let Some((_, key)) = self.tls_reports.due.pop_first()
        {
            if self.tls_reports.tally.get(&key).is_some() {
                let errand = Errand::Inquiry(key.1.clone());
                self.queue_errand(errand, Purpose::Inquiry(key));
            }
        }
    }

    /// When something is to be done about reports; the end of the day too, if there is something to tell.
    pub(super) fn next_tls_report(&self) -> Option<Tick> {
        let reports = &self.tls_reports;
        let midnight = crate::time::UnixTime::from_secs((self.today() + 1) * DAY);
        let midnight = (!reports.tally.is_empty()).then(|| self.clock.tick_at(midnight));
        let due = reports
            .due
            .first()
            .map(|(at, _)| *at)
            .filter(|_| !self.stopping);
        [due, reports.keep_at, midnight].into_iter().flatten().min()
    }

    /// Reports of days that are over get a time of their own. What is older than two days tells nobody
    /// anything.
    fn schedule_reports(&mut self, today: u64) {
        let waiting: BTreeSet<Key> = self
            .tls_reports
            .due
            .iter()
            .map(|(_, key)| key.clone())
            .collect();
        for key in self.tls_reports.tally.before(today) {
            if key.0 + 2 < today {
                self.forget_counts(&key);
            } else if !waiting.contains(&key)
                && !self.errand_is_out(&key)
                && !self.tls_reports.mailing.values().any(|other| *other == key)
            {
                let wait = part(SPREAD, 1, &mut self.rng);
                let at = self.clock.tick().after(wait);
                self.tls_reports.due.insert((at, key));
            }
        }
    }

    /// Writes down what changed.
    pub(super) fn keep_counts(&mut self) {
        self.tls_reports.keep_at = None;
        let changed = self.tls_reports.tally.take_changed();
        let keeps: Vec<Keep> = changed
            .into_iter()
            .map(|sessions| Keep {
                name: name_of(sessions.day, &sessions.domain),
                text: serde_json::to_string(sessions).ok(),
            })
            .collect();
        self.out.extend(keeps.into_iter().map(Output::Keep));
    }

    fn forget_counts(&mut self, key: &Key) {
        if self.tls_reports.tally.remove(key) {
            let name = name_of(key.0, &key.1);
            self.out.push_back(Output::Keep(Keep { name, text: None }));
        }
    }

    /// Takes back what an earlier run counted.
    ///
    /// # Errors
    /// Why it is not believed.
    pub(super) fn recover_counts(&mut self, name: &str, text: &str) -> Result<(), String> {
        let sessions: Sessions = serde_json::from_str(text).map_err(|why| why.to_string())?;
        if name_of(sessions.day, &sessions.domain) != name {
            return Err("it is under another name".to_owned());
        }
        if sessions.day > self.today() {
            return Err("it is of a day to come".to_owned());
        }
        self.tls_reports.tally.recover(sessions);
        Ok(())
    }

    /// Who wants the report of a day is known, or not.
    pub(super) fn inquired(&mut self, key: Key, found: Result<Vec<Rua>, String>) {
        let ruas = match found {
            Ok(ruas) if ruas.is_empty() => return self.forget_counts(&key),
            Ok(ruas) => ruas,
            Err(_) => return self.report_again(key),
        };
        let head = self.head();
        let Some(sessions) = self.tls_reports.tally.get(&key).cloned() else {
            return;
        };
        let to: Vec<Mailbox> = ruas
            .iter()
            .filter_map(|rua| match rua {
                Rua::Mail(to) => Some(to.clone()),
                Rua::Https { .. } => None,
            })
            .collect();
        if !to.is_empty() && !sessions.mailed {
            let (id, now) = (self.next_message_id(), self.clock.now().unix);
            let mut submission = mail(&head, &sessions, &to, id, now);
            submission.sign(&self.config.domains, now);
            self.tls_reports.mailing.insert(id, key);
            self.write(Writer::TlsReport(id), submission);
            return;
        }
        let post = ruas.into_iter().find_map(|rua| match rua {
            Rua::Https { host, port, path } => Some((host, port, path)),
            Rua::Mail(_) => None,
        });
        let Some((host, port, path)) = post else {
            return self.forget_counts(&key);
        };
        let ask = https::Ask {
            host,
            port,
            path,
            post: Some(("application/tlsrpt+gzip", gzipped(&head, &sessions))),
            body_max: 16 * 1024,
            allow_private: self.config.tls_rpt.allow_private,
        };
        self.queue_errand(Errand::Post(Box::new(ask)), Purpose::Post(key));
    }

    /// A report was posted, or not.
    pub(super) fn posted(&mut self, key: Key, result: Result<(), String>) {
        tracing::debug!(domain = key.1, ?result, "TLS-RPT");
        match result {
            Ok(()) => self.forget_counts(&key),
            Err(_) => self.report_again(key),
        }
    }

    /// The mail with a report is in the queue, or could not be stored.
    pub(super) fn report_mailed(&mut self, report: MessageId, stored: bool) {
        let Some(key) = self.tls_reports.mailing.remove(&report) else {
            return;
        };
        if !stored {
            return self.report_again(key);
        }
        if let Some(sessions) = self.tls_reports.tally.get_mut(&key) {
            sessions.mailed = true;
        }
        // What is left, if anything, goes by HTTPS.
        let errand = Errand::Inquiry(key.1.clone());
        self.queue_errand(errand, Purpose::Inquiry(key));
        self.keep_counts_soon();
    }

    fn report_again(&mut self, key: Key) {
        let Some(sessions) = self.tls_reports.tally.get_mut(&key) else {
            return;
        };
        sessions.tries += 1;
        if sessions.tries >= TRIES_MAX {
            return self.forget_counts(&key);
        }
        let wait = AGAIN * (1 << (sessions.tries - 1));
        let at = self.clock.tick().after(wait);
        self.tls_reports.due.insert((at, key));
        self.keep_counts_soon();
    }

    fn head(&self) -> Head {
        let config = &self.config;
        let hostname: &Domain = &config.hostname;
        let from = config.tls_rpt.from.as_ref().map(ToString::to_string);
        Head {
            organization: config
                .tls_rpt
                .organization
                .clone()
                .unwrap_or_else(|| hostname.to_string()),
            contact: config
                .tls_rpt
                .contact
                .clone()
                .unwrap_or_else(|| format!("postmaster@{hostname}")),
            from: from.unwrap_or_else(|| format!("noreply-smtp-tls-reporting@{hostname}")),
            hostname: hostname.to_string(),
        }
    }
}

/// A domain name may be longer than a file name.
fn name_of(day: u64, domain: &str) -> String {
    format!("{KEPT_COUNT}{day}-{}.json", super::errands::hash_of(domain))
}
