//! The job in hand: what became of each of its recipients, and what went wrong on the way.

use crate::time::Instant;

use super::io::{Evidence, Job, Outcome, TlsSession, Tried};
use super::outcome::{HostFailure, Verdict, conclude, sanitised};

/// Hosts and addresses that [`Evidence::before`] names at most.
const BEFORE_MAX: usize = 20;

/// A job, and what became of it so far.
#[derive(Debug)]
pub(super) struct Work {
    /// The job.
    pub(super) job: Job,
    /// A host was ready for it.
    pub(super) reached: bool,
    since: Instant,
    /// One for each recipient of the job, in their order.
    outcomes: Vec<Option<Outcome>>,
    /// What the hosts that were tried said.
    failures: Vec<HostFailure>,
    /// Where each of them said it, and the index of its line in `before`.
    places: Vec<(Evidence, usize)>,
    /// All that happened on the way, in its order.
    before: Vec<String>,
    /// The TLS sessions that were made or tried for it.
    sessions: Vec<TlsSession>,
}

impl Work {
    /// A new job.
    pub(super) fn new(job: Job, now: Instant) -> Self {
        let outcomes = vec![None; job.recipients.len()];
        Self {
            job,
            reached: false,
            since: now,
            outcomes,
            failures: Vec::new(),
            places: Vec::new(),
            before: Vec::new(),
            sessions: Vec::new(),
        }
    }

    /// The recipients without an outcome, by their position in the job.
    pub(super) fn unsettled(&self) -> Vec<usize> {
        (0..self.outcomes.len())
            .filter(|&at| self.outcomes[at].is_none())
            .collect()
    }

    /// Whether every recipient has its outcome.
    pub(super) fn is_settled(&self) -> bool {
        self.outcomes.iter().all(Option::is_some)
    }

    /// Whether some recipient has its outcome.
    pub(super) fn is_begun(&self) -> bool {
        self.outcomes.iter().any(Option::is_some)
    }

    /// Settles one recipient. The first outcome stands.
    pub(super) fn settle(&mut self, position: usize, verdict: &Verdict) {
        if let Some(outcome @ None) = self.outcomes.get_mut(position) {
            *outcome = Some(verdict.clone().outcome());
        }
    }

    /// Settles all that are left.
    pub(super) fn settle_rest(&mut self, verdict: &Verdict) {
        for position in self.unsettled() {
            self.settle(position, verdict);
        }
    }

    /// A host could not be used.
    pub(super) fn host_failed(&mut self, failure: HostFailure, place: Evidence) {
        self.places.push((place.clone(), self.before.len()));
        self.note(&place, &failure.verdict.reason.text);
        self.failures.push(failure);
    }

    /// A TLS session was made, or failed.
    pub(super) fn session(&mut self, session: TlsSession) {
        self.sessions.push(session);
    }

    /// Something that an operator wants to know happened at this place.
    pub(super) fn note(&mut self, place: &Evidence, what: &str) {
        self.before.push(at_place(place, what));
    }

    /// No host is left: settles the rest by what the hosts said. Gives the place of the host that told
    /// most. `complete` says that none was left out.
    pub(super) fn give_up(&mut self, complete: bool) -> Option<Evidence> {
        // What one recipient was told for good says nothing about the others.
        let (index, verdict) = conclude(&self.failures, complete && !self.is_begun())?;
        self.settle_rest(&verdict);
        let (place, line) = self.places.swap_remove(index);
        self.before.remove(line);
        Some(place)
    }

    /// What is told to the engine.
    pub(super) fn into_tried(mut self, place: Evidence, reusable: bool, now: Instant) -> Tried {
        self.before.truncate(BEFORE_MAX);
        let millis = u64::try_from(now.since(self.since).as_millis()).unwrap_or(u64::MAX);
        let settled = self.outcomes.into_iter().flatten();
        Tried {
            id: self.job.id,
            outcomes: self.job.recipients.into_iter().zip(settled).collect(),
            evidence: Evidence {
                before: self.before,
                millis,
                ..place
            },
            reusable,
            loaded: self.job.loaded,
            sessions: self.sessions,
        }
    }
}

/// `mx.example.org [192.0.2.1]:25: timed out while waiting for the greeting`
fn at_place(place: &Evidence, what: &str) -> String {
    let host = place.host.as_deref().unwrap_or("no host");
    match place.address {
        Some(address) => sanitised(&format!(
            "{host} [{}]:{}: {what}",
            address.ip(),
            address.port()
        )),
        None => sanitised(&format!("{host}: {what}")),
    }
}
