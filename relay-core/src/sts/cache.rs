//! The policies that are known, by domain: when to ask again, when to refresh, what to forget.
//!
//! ```text
//!              look                       learnt
//!   (nothing) ──────▶ Ask ──▶ (asking) ───────────▶ Known, for a minute ──look──▶ Ask, with the id …
//!                               │ cannot be had
//!                               └──▶ Known, for five minutes: by what is kept, or without a policy
//! ```
//!
//! A policy that is kept rules until its `max_age` is over, whatever becomes of the record and of its
//! host meanwhile: RFC 8461 §5.1, and §10.2 for why. Once a day it is fetched anew, so that it does not
//! run out while somebody keeps us from the host.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::{Found, MAX_AGE_MAX, Mode, Policy, Wanted};
use crate::queue::schedule::part;
use crate::queue::tick::Tick;
use crate::rng::Rng;
use crate::time::UnixTime;

/// What was learnt of a record holds so long; the resolver's cache knows how long the record does.
const ASKED_HOLDS: Duration = Duration::from_secs(60);
/// A policy that could not be fetched is asked for again after this. RFC 8461 §3.3: five minutes or more.
const FAILED_HOLDS: Duration = Duration::from_secs(5 * 60);
/// From one refresh to the next.
const REFRESH: Duration = Duration::from_secs(24 * 3600);
/// After a refresh that failed.
const REFRESH_AGAIN: Duration = Duration::from_secs(3600);
/// The policy of a domain that nothing was sent to for so long is not refreshed.
const UNUSED: Duration = Duration::from_secs(30 * 24 * 3600);
/// Domains that are remembered.
const DOMAINS_MAX: usize = 20_000;
/// Octets of policies that are remembered.
const SIZE_MAX: usize = 16 * 1024 * 1024;

/// What is known of a domain when a message is to go there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Look {
    /// All that can be known now.
    Known,
    /// This is to be learnt first.
    Ask(Wanted),
}

/// A change that is to be written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// This policy is known now.
    Put(Arc<Policy>),
    /// The one of this domain is not any more.
    Remove(String),
}

/// The policies.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    entries: BTreeMap<Arc<str>, Entry>,
    refreshes: BTreeSet<(Tick, Arc<str>)>,
    size: usize,
    /// Grows with each use: the entry with the least is forgotten first.
    clock: u64,
    by_use: BTreeMap<u64, Arc<str>>,
}

#[derive(Debug)]
struct Entry {
    policy: Option<Arc<Policy>>,
    /// Until then there is nothing to ask; none if it was not asked yet.
    until: Option<Tick>,
    refresh: Option<Tick>,
    used: u64,
    used_at: Tick,
}

impl Cache {
    /// What is known of a domain to which a message is to go now.
    pub(crate) fn look(&mut self, domain: &str, now: Tick) -> Look {
        self.touch(domain, now);
        let entry = self.entries.get(domain);
        if entry.is_some_and(|entry| entry.until.is_some_and(|until| now < until)) {
            return Look::Known;
        }
        let known = entry.and_then(|entry| entry.policy.as_ref());
        Look::Ask(Wanted {
            domain: domain.to_owned(),
            known: known.map(|policy| policy.id.clone()),
        })
    }

    /// The policy that rules a domain; none if there is none, or it asks for nothing.
    pub(crate) fn policy(&self, domain: &str, now: UnixTime) -> Option<&Arc<Policy>> {
        let policy = self.entries.get(domain)?.policy.as_ref()?;
        (policy.mode != Mode::None && policy.holds(now)).then_some(policy)
    }

    /// Something was learnt of a domain. Says what to write down.
    pub(crate) fn learnt(
        &mut self,
        domain: &str,
        found: &Found,
        now: Tick,
        unix: UnixTime,
        rng: &mut Rng,
    ) -> Vec<Change> {
        let mut changes = self.forget_expired(domain, unix);
        if !self.entries.contains_key(domain) {
            self.touch(domain, now);
        }
        let Some(entry) = self.entries.get_mut(domain) else {
            return changes;
        };
        let holds = match found {
            Found::Failed { .. } => FAILED_HOLDS,
            Found::Same | Found::Policy(_) | Found::NoRecord(_) | Found::Unknown(_) => ASKED_HOLDS,
        };
        entry.until = Some(now.after(holds));
        let next = if let Found::Policy(policy) = found {
            let policy = Arc::new(policy.clone());
            self.size += octets_of(&policy);
            self.size -= entry.policy.as_deref().map_or(0, octets_of);
            entry.policy = Some(Arc::clone(&policy));
            changes.push(Change::Put(Arc::clone(&policy)));
            Some(refresh_wait(&policy, rng))
        } else {
            entry.policy.is_some().then_some(REFRESH_AGAIN)
        };
        // A refresh that is due anyway stays as it is, unless this was one or made it needless.
        let is_new = matches!(found, Found::Policy(_));
        if is_new || entry.refresh.is_none_or(|refresh| refresh <= now) {
            let next = next.map(|wait| now.after(wait));
            self.schedule(domain, next);
        }
        changes.extend(self.shrink(domain));
        changes
    }

    /// Takes back what an earlier run wrote down.
    ///
    /// # Errors
    /// Why it is not believed.
    pub(crate) fn recover(
        &mut self,
        mut policy: Policy,
        now: Tick,
        unix: UnixTime,
        rng: &mut Rng,
    ) -> Result<(), &'static str> {
        // The clock may have been set back since; a policy is not kept for longer than it asks.
        policy.fetched = policy.fetched.min(unix.as_secs());
        if policy.max_age > MAX_AGE_MAX
            || policy.domain.is_empty()
            || octets_of(&policy) > SIZE_MAX / 8
        {
            return Err("it is not a policy that we wrote");
        }
        if !policy.holds(unix) {
            return Err("it has expired");
        }
        let domain = policy.domain.clone();
        let age = Duration::from_secs(policy.age(unix));
        let wait = refresh_wait(&policy, rng).saturating_sub(age) + part(REFRESH_AGAIN, 1, rng);
        self.touch(&domain, now);
        if let Some(entry) = self.entries.get_mut(&*domain) {
            self.size += octets_of(&policy);
            self.size -= entry.policy.as_deref().map_or(0, octets_of);
            entry.policy = Some(Arc::new(policy));
        }
        self.schedule(&domain, Some(now.after(wait)));
        self.shrink(&domain);
        Ok(())
    }

    /// When the next refresh is due.
    pub(crate) fn next_refresh(&self) -> Option<Tick> {
        self.refreshes.first().map(|&(at, _)| at)
    }

    /// A domain whose policy is to be fetched anew. It is not offered again before something was learnt.
    pub(crate) fn pop_refresh(&mut self, now: Tick) -> Option<Wanted> {
        loop {
            let (at, domain) = self.refreshes.first()?.clone();
            if at > now {
                return None;
            }
            self.schedule(&domain, None);
            let used_at = self.entries.get(&domain).map(|entry| entry.used_at);
            if used_at.is_some_and(|used_at| now.since(used_at) <= UNUSED) {
                return Some(Wanted {
                    domain: domain.to_string(),
                    known: None,
                });
            }
        }
    }

    /// Forgets what has run out.
    pub(crate) fn tidy(&mut self, now: Tick, unix: UnixTime) -> Vec<Change> {
        let over = |entry: &Entry| {
            let asked = entry.until.is_some_and(|until| now < until);
            !asked
                && entry
                    .policy
                    .as_ref()
                    .is_none_or(|policy| !policy.holds(unix))
        };
        let over = self.entries.iter().filter(|(_, entry)| over(entry));
        let over: Vec<Arc<str>> = over.map(|(domain, _)| Arc::clone(domain)).collect();
        over.iter()
            .filter_map(|domain| self.remove(domain))
            .collect()
    }

    /// How many policies of each mode rule.
    pub(crate) fn count(&self, mode: Mode, now: UnixTime) -> usize {
        let policies = self
            .entries
            .values()
            .filter_map(|entry| entry.policy.as_ref());
        policies
            .filter(|policy| policy.mode == mode && policy.holds(now))
            .count()
    }

    fn touch(&mut self, domain: &str, now: Tick) {
        self.clock += 1;
        let used = self.clock;
        if let Some((domain, _)) = self.entries.get_key_value(domain) {
            let domain = Arc::clone(domain);
            if let Some(entry) = self.entries.get_mut(&domain) {
                self.by_use.remove(&entry.used);
                (entry.used, entry.used_at) = (used, now);
            }
            self.by_use.insert(used, domain);
            return;
        }
        let domain: Arc<str> = domain.into();
        let entry = Entry {
            policy: None,
            until: None,
            refresh: None,
            used,
            used_at: now,
        };
        self.entries.insert(Arc::clone(&domain), entry);
        self.by_use.insert(used, domain);
    }

    fn schedule(&mut self, domain: &str, at: Option<Tick>) {
        let Some((domain, _)) = self.entries.get_key_value(domain) else {
            return;
        };
        let domain = Arc::clone(domain);
        if let Some(entry) = self.entries.get_mut(&domain) {
            let old = std::mem::replace(&mut entry.refresh, at);
            if let Some(old) = old {
                self.refreshes.remove(&(old, Arc::clone(&domain)));
            }
            if let Some(at) = at {
                self.refreshes.insert((at, domain));
            }
        }
    }

    fn forget_expired(&mut self, domain: &str, unix: UnixTime) -> Vec<Change> {
        let policy = self
            .entries
            .get(domain)
            .and_then(|entry| entry.policy.as_ref());
        if policy.is_some_and(|policy| !policy.holds(unix)) {
            return self.remove(domain).into_iter().collect();
        }
        Vec::new()
    }

    /// Forgets the entries that were used least lately until the rest fits; `but` stays. Those without a
    /// policy that rules cost nothing to forget, and go first.
    fn shrink(&mut self, but: &str) -> Vec<Change> {
        let mut changes = Vec::new();
        while self.entries.len() > DOMAINS_MAX || self.size > SIZE_MAX {
            let bare = |domain: &&Arc<str>| {
                let entry = self.entries.get(*domain);
                ***domain != *but && entry.is_some_and(|entry| entry.policy.is_none())
            };
            let other = |domain: &&Arc<str>| ***domain != *but;
            let first_bare = self.by_use.values().take(1024).find(bare);
            let domain = first_bare
                .or_else(|| self.by_use.values().find(other))
                .cloned();
            let Some(domain) = domain else {
                break;
            };
            changes.extend(self.remove(&domain));
        }
        changes
    }

    fn remove(&mut self, domain: &str) -> Option<Change> {
        self.schedule(domain, None);
        let entry = self.entries.remove(domain)?;
        self.by_use.remove(&entry.used);
        let policy = entry.policy?;
        self.size -= octets_of(&policy);
        Some(Change::Remove(policy.domain.clone()))
    }
}

/// How long until a policy is to be fetched anew: a day, or half of what it holds if that is less; never
/// at the same time for all.
fn refresh_wait(policy: &Policy, rng: &mut Rng) -> Duration {
    let half = Duration::from_secs(u64::from(policy.max_age / 2));
    let wait = REFRESH.min(half).max(FAILED_HOLDS);
    wait - part(wait, 10, rng)
}

/// About what a policy takes of the memory.
fn octets_of(policy: &Policy) -> usize {
    let mx = policy.mx.iter().map(|mx| mx.len() + size_of::<String>());
    size_of::<Policy>() + 2 * policy.domain.len() + policy.id.len() + mx.sum::<usize>()
}
