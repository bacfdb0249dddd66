//! What became of the demo's mail, counted from the relay's delivery events.

use std::sync::{Mutex, MutexGuard, PoisonError};

use relay_core::events::{Attempt, DeliveryEvent, EventKind};

use super::kinds::{End, Kind};
use crate::hub::EventSink;

/// Hears of every event.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<[Row; Kind::ALL.len()]>);

/// What became of the mail to one kind of receiver.
#[derive(Debug, Clone, Default)]
pub(super) struct Row {
    pub(super) accepted: usize,
    pub(super) delivered: usize,
    pub(super) bounced: usize,
    pub(super) expired: usize,
    pub(super) attempts: usize,
    /// Delivered at the first attempt.
    at_once: usize,
    /// The last attempt that did not end a message.
    trouble: Option<String>,
    /// The last one that did.
    end: Option<String>,
}

impl Tally {
    /// What is known so far, in the order of [`Kind::ALL`].
    pub(super) fn rows(&self) -> [Row; Kind::ALL.len()] {
        self.lock().clone()
    }

    // A panic while the lock is held leaves the counts whole.
    fn lock(&self) -> MutexGuard<'_, [Row; Kind::ALL.len()]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventSink for Tally {
    fn event(&self, event: &DeliveryEvent) {
        let rows = &mut *self.lock();
        match &event.kind {
            EventKind::Accepted { from, .. } => {
                if let Some(kind) = Kind::of_sender(from) {
                    rows[kind.index()].accepted += 1;
                }
            }
            EventKind::Delivered(attempt) => ended(rows, attempt, |row| {
                row.delivered += 1;
                row.at_once += usize::from(attempt.attempt == 1);
                row.attempts += 1;
            }),
            EventKind::Bounced(attempt) => ended(rows, attempt, |row| {
                row.bounced += 1;
                row.attempts += 1;
            }),
            EventKind::Expired(attempt) => ended(rows, attempt, |row| row.expired += 1),
            EventKind::Deferred { attempt, .. } => {
                if let Some(kind) = Kind::of_domain(&attempt.lane) {
                    let row = &mut rows[kind.index()];
                    row.attempts += 1;
                    row.trouble = Some(in_words(attempt));
                }
            }
            EventKind::Changed { .. }
            | EventKind::NotReported { .. }
            | EventKind::Preflight { .. }
            | EventKind::Quarantined { .. } => {}
        }
    }
}

fn ended(rows: &mut [Row], attempt: &Attempt, count: impl FnOnce(&mut Row)) {
    // Reports go to a domain that is of no kind.
    if let Some(kind) = Kind::of_domain(&attempt.lane) {
        let row = &mut rows[kind.index()];
        count(row);
        row.end = Some(in_words(attempt));
    }
}

impl Row {
    /// Messages that are delivered, bounced or expired.
    pub(super) fn settled(&self) -> usize {
        self.delivered + self.bounced + self.expired
    }

    /// Messages that are still in the queue.
    pub(super) fn waiting(&self) -> usize {
        self.accepted.saturating_sub(self.settled())
    }

    /// Reports that the sender should get.
    pub(super) fn reports_due(&self) -> usize {
        self.bounced + self.expired
    }

    /// The rules that decided, and the replies, in the order in which they came.
    pub(super) fn why(&self) -> String {
        let both = [&self.trouble, &self.end];
        let both: Vec<&str> = both.into_iter().flatten().map(String::as_str).collect();
        both.join("\n")
    }

    /// What is not as it should be at the end; none if all is.
    pub(super) fn fault(&self, kind: Kind, sent: usize, reports: usize) -> Option<String> {
        let want = |what: &str, found: usize, wanted: usize| {
            (found != wanted).then(|| format!("{found} of {wanted} {what}"))
        };
        let end = match kind.end() {
            End::Delivered | End::DeliveredLater => want("delivered", self.delivered, sent),
            End::Bounced => want("bounced", self.bounced, sent),
            End::Expired => want("expired", self.expired, sent),
        };
        let too_soon = (kind.end() == End::DeliveredLater && self.at_once > 0)
            .then(|| format!("{} delivered at the first attempt", self.at_once));
        want("accepted", self.accepted, sent)
            .or(end)
            .or(too_soon)
            .or_else(|| want("reported", reports, self.reports_due()))
    }
}

/// The rule, the reply or finding, and how the connection was protected.
fn in_words(attempt: &Attempt) -> String {
    let reason = &attempt.reason;
    let evidence = &attempt.evidence;
    let channel = match (&evidence.tls, evidence.before.last()) {
        _ if evidence.address.is_none() || reason.stage == "connect" => String::new(),
        (None, Some(before)) => format!(" (in clear text; {before})"),
        (None, None) => " (in clear text)".to_owned(),
        (Some(tls), _) => {
            let version = tls.split(' ').next().unwrap_or_default();
            let certificate = evidence.certificate.as_deref().unwrap_or("not judged");
            // What follows a colon is for those who search.
            let certificate = certificate.split(':').next().unwrap_or_default();
            format!(" ({version}, certificate: {certificate})")
        }
    };
    format!("{}: {reason}{channel}", reason.rule)
}
