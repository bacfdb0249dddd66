//! What is counted: sessions by day, domain, policy, and what was wrong. RFC 8460 §4.2 to §4.4.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::outbound::{TlsFailureKind, TlsPolicyType, TlsSession};
use crate::sts::Policy;

/// Domains that are counted in one day. Those that come after are not: their hosts have other senders.
const DOMAINS_MAX: usize = 10_000;
/// Policies of one domain in one day.
const POLICIES_MAX: usize = 8;
/// Kinds of failures that are told apart under one policy.
const FAILURES_MAX: usize = 64;
/// Octets of what is said of one.
const WHY_MAX: usize = 200;
/// Patterns of an MTA-STS policy that are shown.
const MX_MAX: usize = 64;

/// Seconds of a day.
pub(crate) const DAY: u64 = 86_400;

/// What one report is about: a domain, and a day or the part of one that begins then.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub(crate) struct Period {
    /// The day, in days since 1970 in UTC.
    pub(crate) day: u64,
    /// The domain.
    pub(crate) domain: String,
    /// The first second, since 1970.
    pub(crate) start: u64,
}

/// The sessions with the hosts of one domain in one period.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Sessions {
    /// Which.
    pub(crate) period: Period,
    /// The first second after it, where it ends before its day does: an operator sent its report then.
    pub(crate) end: Option<u64>,
    /// By the policy that held. None are left once the report of a part of the running day was sent.
    pub(crate) policies: Vec<UnderPolicy>,
    /// Where the report arrived already.
    pub(crate) sent: Vec<String>,
    /// Tries to send it.
    pub(crate) tries: u32,
    /// What came of the last one.
    pub(crate) last: Option<String>,
}

impl Sessions {
    fn new(period: Period) -> Self {
        Self {
            period,
            end: None,
            policies: Vec::new(),
            sent: Vec::new(),
            tries: 0,
            last: None,
        }
    }

    /// The first second after the period.
    pub(crate) fn end(&self) -> u64 {
        self.end.unwrap_or((self.period.day + 1) * DAY)
    }

    /// Whether there is nothing to tell: all of it was told.
    pub(crate) fn is_told(&self) -> bool {
        self.policies.is_empty()
    }
}

/// Those under one policy.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct UnderPolicy {
    pub(crate) kind: TlsPolicyType,
    /// `policy-string`
    pub(crate) lines: Vec<String>,
    /// `mx-host`
    pub(crate) mx: Vec<String>,
    pub(crate) successes: u64,
    /// All of them, those included that are not told apart.
    pub(crate) failed: u64,
    pub(crate) failures: Vec<(Failed, u64)>,
}

/// What was wrong, and with whom.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Failed {
    pub(crate) kind: TlsFailureKind,
    pub(crate) host: String,
    pub(crate) address: Option<IpAddr>,
    pub(crate) local: Option<IpAddr>,
    pub(crate) why: String,
}

/// All that is not reported yet.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    entries: BTreeMap<Period, Sessions>,
    /// Those that changed since they were written down.
    dirty: BTreeSet<Period>,
}

impl Tally {
    /// Counts a session. `policy` is the domain's MTA-STS policy.
    pub(crate) fn count(
        &mut self,
        day: u64,
        domain: &str,
        policy: Option<&Policy>,
        session: &TlsSession,
    ) {
        let failed = session.failure.map(|kind| Failed {
            kind,
            host: session.host.clone(),
            address: session.address,
            local: session.local,
            why: shortened(&session.why),
        });
        let lines = match (session.policy, policy) {
            (TlsPolicyType::Tlsa, _) => (session.tlsa.clone(), Vec::new()),
            (TlsPolicyType::Sts, Some(policy)) => lines_of(policy),
            (TlsPolicyType::Sts | TlsPolicyType::NoPolicyFound, _) => Default::default(),
        };
        self.add(day, domain, session.policy, lines, failed);
    }

    /// Counts what kept a session from being made: a policy that could not be had, or that allows no host.
    pub(crate) fn count_failure(
        &mut self,
        day: u64,
        domain: &str,
        policy: Option<&Policy>,
        kind: TlsFailureKind,
        host: &str,
        why: &str,
    ) {
        let failed = Failed {
            kind,
            host: host.to_owned(),
            address: None,
            local: None,
            why: shortened(why),
        };
        let lines = policy.map(lines_of).unwrap_or_default();
        self.add(day, domain, TlsPolicyType::Sts, lines, Some(failed));
    }

    fn add(
        &mut self,
        day: u64,
        domain: &str,
        kind: TlsPolicyType,
        lines: (Vec<String>, Vec<String>),
        failed: Option<Failed>,
    ) {
        let period = self.open_period(day, domain);
        if !self.entries.contains_key(&period) && self.entries.len() >= DOMAINS_MAX {
            return;
        }
        let entry = self
            .entries
            .entry(period.clone())
            .or_insert_with(|| Sessions::new(period.clone()));
        let (lines, mx) = lines;
        let same = |other: &UnderPolicy| other.kind == kind && other.lines == lines;
        let at = match entry.policies.iter().position(same) {
            Some(at) => at,
            None if entry.policies.len() >= POLICIES_MAX => return,
            None => {
                entry.policies.push(UnderPolicy {
                    kind,
                    lines,
                    mx,
                    successes: 0,
                    failed: 0,
                    failures: Vec::new(),
                });
                entry.policies.len() - 1
            }
        };
        let policy = &mut entry.policies[at];
        match failed {
            None => policy.successes += 1,
            Some(failed) => {
                policy.failed += 1;
                let room = policy.failures.len() < FAILURES_MAX;
                let known = policy
                    .failures
                    .iter_mut()
                    .find(|(known, _)| *known == failed);
                match known {
                    Some((_, count)) => *count += 1,
                    None if room => policy.failures.push((failed, 1)),
                    None => {}
                }
            }
        }
        self.dirty.insert(period);
    }

    /// The period of a day that is counted in now: the day, or what is left of it after its last end.
    fn open_period(&self, day: u64, domain: &str) -> Period {
        let (first, last) = (self.whole(day, domain), (day + 1) * DAY);
        let to = Period {
            start: last,
            ..first.clone()
        };
        match self.entries.range(&first..=&to).next_back() {
            Some((period, sessions)) => match sessions.end {
                Some(end) if end < last => Period {
                    start: end,
                    ..first
                },
                Some(_) | None => period.clone(),
            },
            None => first,
        }
    }

    fn whole(&self, day: u64, domain: &str) -> Period {
        Period {
            day,
            domain: domain.to_owned(),
            start: day * DAY,
        }
    }

    /// Ends a period now, if it did not end yet. What is counted from now on is in the next one.
    pub(crate) fn close(&mut self, period: &Period, now: u64) {
        if let Some(sessions) = self.entries.get_mut(period)
            && sessions.end.is_none()
        {
            let end = now.max(period.start) + 1;
            sessions.end = Some(end.min((period.day + 1) * DAY));
            self.dirty.insert(period.clone());
        }
    }

    /// Takes back what an earlier run wrote down.
    pub(crate) fn recover(&mut self, sessions: Sessions) {
        if self.entries.len() < DOMAINS_MAX {
            self.entries.insert(sessions.period.clone(), sessions);
        }
    }

    /// What changed since this was called last: at most so many. True if more did.
    pub(crate) fn take_changed(&mut self, most: usize) -> (Vec<&Sessions>, bool) {
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(period) = self.dirty.pop_first()
        {
            taken.push(period);
        }
        let changed = taken.iter().filter_map(|period| self.entries.get(period));
        (changed.collect(), !self.dirty.is_empty())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All that is counted, by day and domain.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Sessions> {
        self.entries.values()
    }

    /// The periods that are over on this day, with something to tell or not.
    pub(crate) fn over(&self, day: u64) -> Vec<Period> {
        let over = |period: &Period, sessions: &Sessions| {
            period.day < day || sessions.end.is_some() && !sessions.is_told()
        };
        self.entries
            .iter()
            .filter(|(period, sessions)| over(period, sessions))
            .map(|(period, _)| period.clone())
            .collect()
    }

    pub(crate) fn get_mut(&mut self, period: &Period) -> Option<&mut Sessions> {
        let sessions = self.entries.get_mut(period)?;
        self.dirty.insert(period.clone());
        Some(sessions)
    }

    pub(crate) fn get(&self, period: &Period) -> Option<&Sessions> {
        self.entries.get(period)
    }

    pub(crate) fn remove(&mut self, period: &Period) -> bool {
        self.dirty.remove(period);
        self.entries.remove(period).is_some()
    }
}

/// A policy as RFC 8460 §4.5 shows it: its lines, and its patterns.
fn lines_of(policy: &Policy) -> (Vec<String>, Vec<String>) {
    let mx: Vec<String> = policy.mx.iter().take(MX_MAX).cloned().collect();
    let mut lines = vec![
        "version: STSv1".to_owned(),
        format!("mode: {}", policy.mode),
    ];
    lines.extend(mx.iter().map(|mx| format!("mx: {mx}")));
    lines.push(format!("max_age: {}", policy.max_age));
    (lines, mx)
}

fn shortened(why: &str) -> String {
    let mut why = why.to_owned();
    crate::queue::reason::truncate(&mut why, WHY_MAX);
    why
}
