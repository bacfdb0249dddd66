//! One lane: jobs that are ready for the same hosts, how many connections they may have, and when.
//!
//! ```text
//!            success                      failure (and no other connection works)
//!   New ───────────────▶ Proven ───────────────────────────▶ Failing ──┐
//!    │                     ▲  ▲                                │  ▲    │ back-off over: one probe
//!    └──── failure ────────┼──┼──────── success ───────────────┘  └────┘ failure: twice as long
//!                          └──┘ each success doubles the connections, up to the limit
//! ```

use std::sync::Arc;
use std::time::Duration;

use super::ranked::Ranked;
use super::schedule::part;
use super::tick::Tick;
use crate::outbound::Lane;
use crate::rng::Rng;

/// The first back-off of a lane, if its first retry is not sooner; each further one is twice as long.
const BACKOFF_MIN: Duration = Duration::from_secs(60);
/// The longest.
const BACKOFF_MAX: Duration = Duration::from_secs(30 * 60);
/// One retried job is served after so many fresh ones.
const FRESH_RUN: u8 = 3;
/// After a receiver refused one of several connections, one more is tried after so many successes.
const CAREFUL_RUN: u32 = 50;

/// What is known of a lane's hosts. It decides on the lane's share of all connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The last thing that happened was a success.
    Proven,
    /// Nothing yet.
    New,
    /// The last thing that happened was a failure.
    Failing,
}

/// A lane and its ready jobs.
#[derive(Debug)]
pub(crate) struct LaneEntry {
    /// What a delivery is told.
    pub(crate) spec: Arc<Lane>,
    /// The text by which the lane is found again.
    pub(crate) key: Arc<str>,
    fresh: Ranked,
    retried: Ranked,
    /// Fresh jobs served since the last retried one.
    fresh_run: u8,
    /// Open connections.
    pub(crate) connections: usize,
    /// How many there may be now.
    limit: usize,
    /// A receiver refused a connection while others worked: grow slowly, by one in so many successes.
    careful: Option<u32>,
    pub(crate) standing: Standing,
    failures: u32,
    backoff: Option<Backoff>,
    /// It is in a turn list.
    pub(crate) in_turn: bool,
    /// When it was used last.
    pub(crate) used: Tick,
}

/// A pause after a failure.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    /// When one connection may try.
    pub(crate) until: Tick,
    /// What went wrong, as a line of `queue::reason`.
    pub(crate) reason: Arc<str>,
}

/// What a failure means for a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Other connections work: fewer of them from now on.
    Squeezed,
    /// Nothing works: a pause until then.
    BackedOff(Tick),
}

impl LaneEntry {
    pub(crate) fn new(spec: Arc<Lane>, key: Arc<str>, now: Tick) -> Self {
        Self {
            spec,
            key,
            fresh: Ranked::default(),
            retried: Ranked::default(),
            fresh_run: 0,
            connections: 0,
            limit: 1,
            careful: None,
            standing: Standing::New,
            failures: 0,
            backoff: None,
            in_turn: false,
            used: now,
        }
    }

    /// Adds a job that is due.
    pub(crate) fn push(&mut self, job: u32, attempts: u16, priority: i8) {
        if attempts == 0 {
            self.fresh.push_back(job, priority)
        } else {
            self.retried.push_back(job, priority)
        }
    }

    /// Puts a job back to where it came from: it is the next.
    pub(crate) fn push_front(&mut self, job: u32, attempts: u16, priority: i8) {
        if attempts == 0 {
            self.fresh.push_front(job, priority)
        } else {
            self.retried.push_front(job, priority)
        }
    }

    /// The next job: fresh mail first, and a retried one after each few, so that neither starves.
    pub(crate) fn pop(&mut self) -> Option<u32> {
        let retried_turn = self.fresh.is_empty() || self.fresh_run >= FRESH_RUN;
        if retried_turn && let Some(job) = self.retried.pop_front() {
            self.fresh_run = 0;
            return Some(job);
        }
        self.fresh_run = self.fresh_run.saturating_add(1);
        self.fresh.pop_front()
    }

    /// Takes all ready jobs out.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = u32> {
        let (mut fresh, mut retried) = (
            std::mem::take(&mut self.fresh),
            std::mem::take(&mut self.retried),
        );
        std::iter::from_fn(move || fresh.pop_front().or_else(|| retried.pop_front()))
    }

    /// Takes those ready jobs out that `wanted` names.
    pub(crate) fn take_if(&mut self, mut wanted: impl FnMut(u32) -> bool) -> Vec<u32> {
        let mut taken = self.fresh.take_if(&mut wanted);
        taken.extend(self.retried.take_if(&mut wanted));
        taken
    }

    /// The handles of the ready jobs, and of jobs that went meanwhile.
    pub(crate) fn jobs(&self) -> Vec<u32> {
        self.fresh.iter().chain(self.retried.iter()).collect()
    }

    /// How many jobs are ready.
    pub(crate) fn ready(&self) -> usize {
        self.fresh.len() + self.retried.len()
    }

    /// Why nothing is tried now, if so.
    pub(crate) fn backed_off(&self, now: Tick) -> Option<&Backoff> {
        self.backoff.as_ref().filter(|backoff| now < backoff.until)
    }

    /// What went wrong last, if nothing went well since.
    pub(crate) fn trouble(&self) -> Option<&Backoff> {
        self.backoff.as_ref()
    }

    /// Whether a job may be given to a connection now.
    pub(crate) fn may_send(&self, now: Tick) -> bool {
        self.ready() > 0 && self.backed_off(now).is_none()
    }

    /// Whether one connection more is allowed and worth while: at least one ready job for each one
    /// that is open.
    pub(crate) fn wants_connection(&self, limit: usize, now: Tick) -> bool {
        self.may_send(now)
            && self.connections < self.limit.min(limit)
            && self.ready() >= self.connections
    }

    /// The hosts took a message, or refused it in an orderly way.
    pub(crate) fn succeeded(&mut self, limit: usize) {
        self.standing = Standing::Proven;
        self.failures = 0;
        self.backoff = None;
        match &mut self.careful {
            None => self.limit = (self.limit * 2).min(limit.max(1)),
            Some(run) if *run >= CAREFUL_RUN => {
                *run = 0;
                self.limit = (self.limit + 1).min(limit.max(1));
            }
            Some(run) => *run += 1,
        }
    }

    /// The hosts could not be used. The connection that says so is still counted.
    pub(crate) fn failed(
        &mut self,
        reason: &str,
        first_retry: Duration,
        now: Tick,
        rng: &mut Rng,
    ) -> Failure {
        if self.standing == Standing::Proven && self.connections > 1 {
            self.squeeze();
            return Failure::Squeezed;
        }
        self.standing = Standing::Failing;
        self.limit = 1;
        // A schedule that retries sooner wants its lanes looked at sooner.
        let wait = BACKOFF_MIN
            .min(first_retry)
            .saturating_mul(1 << self.failures.min(16))
            .min(BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        let until = now.after(wait - wait / 10 + part(wait, 5, rng));
        self.backoff = Some(Backoff {
            until,
            reason: reason.into(),
        });
        Failure::BackedOff(until)
    }

    /// The receiver wants fewer connections.
    pub(crate) fn squeeze(&mut self) {
        self.limit = self.connections.saturating_sub(1).max(1);
        self.careful = Some(0);
    }

    /// An administrator wants it tried now.
    pub(crate) fn end_backoff(&mut self, now: Tick) {
        if let Some(backoff) = &mut self.backoff {
            backoff.until = backoff.until.min(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Protocol, TlsLevel};

    fn lane() -> LaneEntry {
        let spec = Lane {
            hosts: Vec::new(),
            name: "example.com".into(),
            tls: TlsLevel::Opportunistic,
            tls_mode: None,
            login: None,
            route: false,
            authentic: false,
            sts: None,
            protocol: Protocol::Smtp,
            source: None,
            messages_max: 100,
        };
        LaneEntry::new(Arc::new(spec), "example.com".into(), now())
    }

    fn now() -> Tick {
        Tick::NEVER.before(Duration::from_secs(1_000_000))
    }

    #[test]
    fn fresh_jobs_go_first_and_retried_ones_are_not_starved() {
        let mut lane = lane();
        (0..8).for_each(|job| lane.push(job, 0, 0));
        (10..14).for_each(|job| lane.push(job, 3, 0));
        let order: Vec<u32> = std::iter::from_fn(|| lane.pop()).collect();
        assert_eq!(order, [0, 1, 2, 10, 3, 4, 5, 11, 6, 7, 12, 13]);
    }

    #[test]
    fn connections_double_with_success_up_to_the_limit() {
        let mut lane = lane();
        (0..100).for_each(|job| lane.push(job, 0, 0));
        let mut seen = Vec::new();
        for _ in 0..6 {
            while lane.wants_connection(10, now()) {
                lane.connections += 1;
            }
            seen.push(lane.connections);
            lane.succeeded(10);
        }
        assert_eq!(seen, [1, 2, 4, 8, 10, 10]);
    }

    #[test]
    fn a_connection_more_is_opened_only_for_jobs_that_wait() {
        let mut lane = lane();
        lane.limit = 8;
        lane.connections = 3;
        (0..2).for_each(|job| lane.push(job, 0, 0));
        assert!(!lane.wants_connection(10, now()));
        lane.push(2, 0, 0);
        assert!(lane.wants_connection(10, now()));
    }

    #[test]
    fn back_off_doubles_up_to_half_an_hour_and_ends_with_one_probe() {
        let mut lane = lane();
        let mut rng = Rng::from_number(5);
        lane.push(1, 0, 0);
        lane.connections = 1;
        let mut at = now();
        for minutes in [1, 2, 4, 8, 16, 30, 30] {
            let Failure::BackedOff(until) = lane.failed("why", BACKOFF_MIN, at, &mut rng) else {
                panic!("nothing works")
            };
            let wait = until.since(at).as_secs();
            assert!(
                wait >= minutes * 54 && wait <= minutes * 66 + 1,
                "{minutes}: {wait}"
            );
            lane.connections = 0;
            assert!(!lane.wants_connection(10, at));
            assert!(lane.wants_connection(10, until));
            lane.connections = 1;
            assert!(!lane.wants_connection(10, until), "one probe");
            at = until;
        }
        lane.succeeded(10);
        assert!(lane.trouble().is_none());
        assert_eq!(lane.standing, Standing::Proven);
    }

    #[test]
    fn one_refused_connection_of_several_only_squeezes() {
        let mut lane = lane();
        (0..100).for_each(|job| lane.push(job, 0, 0));
        (0..3).for_each(|_| lane.succeeded(10));
        lane.connections = 5;
        let mut rng = Rng::from_number(5);
        assert_eq!(
            lane.failed("421", BACKOFF_MIN, now(), &mut rng),
            Failure::Squeezed
        );
        lane.connections = 4;
        assert!(!lane.wants_connection(10, now()));
        (0..=CAREFUL_RUN).for_each(|_| lane.succeeded(10));
        assert!(lane.wants_connection(10, now()), "one more after a while");
        lane.connections = 5;
        assert!(!lane.wants_connection(10, now()));
    }
}
