//! The rules of MTA-STS and TLS-RPT: what a policy asks for is done, and what was counted is told once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use relay_core::config::TlsLevel;
use relay_core::sts::{Mode, Policy};
use relay_core::time::Instant;

use super::certs::Paper;
use super::host::Talk;
use super::names::host_name;
use super::sites::{Says, Wants, mode_name};
use super::world::World;

const DAY: u64 = 86_400;
/// A count is written down within a minute of the session; this is more.
const COUNTED: Duration = Duration::from_secs(150);
/// A report of a day goes out within so many seconds of its end: four hours, and five tries.
const REPORTED: u64 = 24 * 3600;
/// Sessions that are remembered of a day and a domain.
const SESSIONS_MAX: usize = 40;

/// A day, in days since 1970, and a domain.
pub(crate) type Key = (u64, String);

/// What the relay learnt, counted and told.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    /// Policies in force, and since when.
    policies: BTreeMap<String, (Policy, Instant)>,
    /// When hosts took mail for a domain on a day.
    sessions: BTreeMap<Key, Vec<Instant>>,
    /// The mails that carry the report of a day, when each was queued.
    mailed: BTreeMap<Key, BTreeMap<String, Instant>>,
    /// When reports arrived at the collector.
    posted: BTreeMap<String, Vec<Instant>>,
    /// The collector works all the time, and no connection to it is lost.
    pub(crate) hears: bool,
    /// When the process died without a warning.
    pub(crate) kills: Vec<Instant>,
}

impl World {
    /// The relay believes a policy from now on; one that was fetched must have been served.
    pub(crate) fn policy_learnt(&mut self, policy: Policy, fetched: bool) {
        let says = Says {
            mode: mode_name(policy.mode),
            mx: policy.mx.clone(),
            max_age: policy.max_age,
        };
        let site = (self.sites.all.iter())
            .find(|site| site.domain.as_deref() == Some(policy.domain.as_str()));
        if fetched && site.is_none_or(|site| !site.served.contains(&says)) {
            self.book.blame(format!(
                "a policy of {} is believed that its host never served, or never with a certificate \
                 that proves it: {says:?}",
                policy.domain
            ));
        }
        let now = self.now();
        let known = self.promises.policies.get(&policy.domain);
        let since = known
            .filter(|(old, _)| {
                old.holds(now.unix) && (old.mode, &old.mx) == (policy.mode, &policy.mx)
            })
            .map_or(now.instant, |(_, since)| *since);
        let domain = policy.domain.clone();
        self.promises.policies.insert(domain, (policy, since));
    }

    /// A new process knows what the old one kept.
    pub(crate) fn policies_kept(&mut self) {
        self.promises.policies.clear();
        let kept: Vec<Policy> = (self.kept.iter())
            .filter(|(name, _)| name.starts_with("mta-sts-"))
            .filter_map(|(_, text)| serde_json::from_str(text).ok())
            .collect();
        for policy in kept {
            self.policy_learnt(policy, false);
        }
    }

    /// At RCPT: mail for a domain with a policy in force goes only to hosts that it names, and that prove
    /// who they are.
    pub(crate) fn check_policy(&mut self, talk: &Talk, to: &str) {
        let now = self.now();
        let domain = to.rsplit('@').next().unwrap_or_default();
        let Some((policy, since)) = self.promises.policies.get(domain) else {
            return;
        };
        let ruled = policy.mode == Mode::Enforce
            && policy.holds(now.unix)
            // What is under way goes by what was known when it began.
            && talk.begun >= *since
            && talk.life == self.life
            && self.profile.clock_jumps == 0
            // A host that its TLSA records prove needs no policy to name it.
            && self.names.dane_level(talk.host) != TlsLevel::Verify
            // RFC 8460 §5.3: the mail that tells of TLS failures goes whatever TLS there is.
            && !to.starts_with("tlsrpt@");
        if !ruled {
            return;
        }
        let host = host_name(talk.host);
        let proven = talk.smtp.is_tls() && self.hosts[talk.host].paper == Paper::Good;
        let named = policy.mx.iter().any(|mx| *mx == host || mx == "*.test");
        let wrong = match (named, proven) {
            (true, true) => return,
            (false, _) => "which the policy does not name",
            (true, false) => "which does not prove who it is",
        };
        let policy = policy.clone();
        self.book.blame(format!(
            "mail for {domain} is sent to {host}, {wrong}: {policy:?}"
        ));
    }

    // ---- TLS-RPT ----

    /// A host took a message for a domain.
    pub(crate) fn session_seen(&mut self, domain: &str) {
        let now = self.now();
        if self.wants.get(domain).is_none_or(|w| *w == Wants::Nothing) {
            return;
        }
        let secs = now.unix.as_secs();
        // The relay counts it when it hears of it: near midnight that may be another day.
        if secs % DAY < 900 || secs % DAY > DAY - 900 {
            return;
        }
        let key = (secs / DAY, domain.to_owned());
        self.tell(format_args!("a session for {key:?}"));
        let sessions = self.promises.sessions.entry(key).or_default();
        if sessions.len() < SESSIONS_MAX {
            sessions.push(now.instant);
        }
    }

    /// The mail with a report is in the queue.
    pub(crate) fn report_queued(&mut self, id: &str, key: Key) {
        let now = self.agenda.now();
        let mails = self.promises.mailed.entry(key.clone()).or_default();
        mails.insert(id.to_owned(), now);
        let times: Vec<Instant> = mails.values().copied().collect();
        self.check_once(&key.1, &times);
    }

    /// A report arrived at the collector.
    pub(crate) fn report_posted(&mut self, domain: &str) {
        let now = self.agenda.now();
        let times = self.promises.posted.entry(domain.to_owned()).or_default();
        times.push(now);
        // One a day, some hours after midnight. A reply that was lost makes the relay post it again.
        let sure = self.promises.hears;
        let since = |at: &&Instant| now.since(**at) < Duration::from_secs(DAY / 2);
        let lately: Vec<Instant> = times.iter().filter(since).copied().collect();
        if sure {
            self.check_once(domain, &lately);
        }
    }

    /// More than one of the same day has an excuse only if the process died between them.
    fn check_once(&mut self, domain: &str, times: &[Instant]) {
        let (Some(first), Some(last)) = (times.iter().min(), times.iter().max()) else {
            return;
        };
        let died = (self.promises.kills.iter()).any(|kill| first <= kill && kill <= last);
        if times.len() > 1 && !died && self.profile.clock_jumps == 0 {
            self.book
                .blame(format!("the report of one day goes to {domain} again"));
        }
    }

    /// At the end: each day that is long over was told of, if the domain asked for it.
    pub(crate) fn check_reports(&mut self) {
        let profile = &self.profile;
        let sure = profile.clock_jumps == 0
            && profile.dns_per_mille == 0
            && profile.disk_storms == 0
            && profile.flips == 0;
        if !sure {
            return;
        }
        let end = self.now().unix.as_secs();
        let killed = |at: Instant| {
            (self.promises.kills.iter()).any(|kill| *kill >= at && kill.since(at) <= COUNTED)
        };
        let mut told: BTreeSet<&Key> = self.promises.mailed.keys().collect();
        let posts: Vec<Key> = self.posted_days();
        told.extend(&posts);
        let missing = self.promises.sessions.iter().find(|(key, sessions)| {
            let over = (key.0 + 1) * DAY + REPORTED < end;
            // A collector that misbehaves hears less.
            let heard = self.wants.get(&key.1) == Some(&Wants::Mail) || self.promises.hears;
            over && heard && !told.contains(key) && sessions.iter().any(|at| !killed(*at))
        });
        if let Some(((day, domain), _)) = missing {
            let blame =
                format!("the report of day {day} never went to {domain}, which asks for it");
            self.book.blame(blame);
        }
    }

    /// The days whose reports arrived at the collector: each on the day after.
    fn posted_days(&self) -> Vec<Key> {
        let now = self.now();
        let day_of =
            |at: &Instant| (now.unix.as_secs() - now.instant.since(*at).as_secs()) / DAY - 1;
        (self.promises.posted.iter())
            .flat_map(|(domain, times)| times.iter().map(move |at| (day_of(at), domain.clone())))
            .collect()
    }
}
