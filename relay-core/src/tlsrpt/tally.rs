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

/// The sessions of one day with the hosts of one domain.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Sessions {
    /// The day, in days since 1970 in UTC.
    pub(crate) day: u64,
    /// The domain.
    pub(crate) domain: String,
    /// By the policy that held.
    pub(crate) policies: Vec<UnderPolicy>,
    /// Reports went out by mail already; what is left goes by HTTPS.
    pub(crate) mailed: bool,
    /// Tries to send it.
    pub(crate) tries: u32,
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
    entries: BTreeMap<(u64, String), Sessions>,
    /// Those that changed since they were written down.
    dirty: BTreeSet<(u64, String)>,
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
        let key = (day, domain.to_owned());
        if !self.entries.contains_key(&key) && self.entries.len() >= DOMAINS_MAX {
            return;
        }
        let entry = self.entries.entry(key.clone()).or_insert_with(|| Sessions {
            day,
            domain: domain.to_owned(),
            policies: Vec::new(),
            mailed: false,
            tries: 0,
        });
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
        self.dirty.insert(key);
    }

    /// Takes back what an earlier run wrote down.
    pub(crate) fn recover(&mut self, sessions: Sessions) {
        if self.entries.len() < DOMAINS_MAX {
            self.entries
                .insert((sessions.day, sessions.domain.clone()), sessions);
        }
    }

    /// What changed since this was called last.
    pub(crate) fn take_changed(&mut self) -> Vec<&Sessions> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty
            .iter()
            .filter_map(|key| self.entries.get(key))
            .collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The keys of all days before this one.
    pub(crate) fn before(&self, day: u64) -> Vec<(u64, String)> {
        self.entries
            .range(..(day, String::new()))
            .map(|(key, _)| key.clone())
            .collect()
    }

    pub(crate) fn get_mut(&mut self, key: &(u64, String)) -> Option<&mut Sessions> {
        let sessions = self.entries.get_mut(key)?;
        self.dirty.insert(key.clone());
        Some(sessions)
    }

    pub(crate) fn get(&self, key: &(u64, String)) -> Option<&Sessions> {
        self.entries.get(key)
    }

    pub(crate) fn remove(&mut self, key: &(u64, String)) -> bool {
        self.dirty.remove(key);
        self.entries.remove(key).is_some()
    }
}

/// A policy as RFC 8460 §4.4 shows it: its lines, and its patterns.
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
