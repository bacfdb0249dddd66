//! Errands, and what they teach: the MTA-STS policy of a domain is known before its lane is chosen.
//!
//! ```text
//!  resolved ──MX──▶ policy_first ── known ─────────────────────────▶ go_ways
//!                       │ to be learnt                                  ▲
//!                       └──▶ queued ──▶ Output::Errand ──▶ errand_done ─┘
//!  a day later ─────────▶ queued ──▶ …  (nothing waits for a refresh)
//! ```
//!
//! A domain's jobs wait while its policy is learnt: for a minute at most, since the errand ends by then.
//! What the errand cannot learn changes nothing: RFC 8461 §3.3.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::tls_reports::KEPT_COUNT;
use super::{Engine, Keep, Output};
use crate::dns::{MxAnswer, MxSet};
use crate::errand::{Done, Errand};
use crate::id::ErrandId;
use crate::outbound::TlsFailureKind;
use crate::queue::tick::Tick;
use crate::sts::cache::{Change, Look};
use crate::sts::{Found, Mode, Policy, Wanted};
use crate::tlsrpt::tally::Period;

/// Refreshes that are under way at once.
const REFRESHES_MAX: usize = 8;

/// What a kept policy is called: this, and a hash of its domain.
const KEPT_POLICY: &str = "mta-sts-";

/// Errands that are out, and those that wait for their turn.
#[derive(Debug, Default)]
pub(super) struct Errands {
    out: BTreeMap<ErrandId, Purpose>,
    queued: VecDeque<(Errand, Purpose)>,
    refreshes: usize,
    last_id: u64,
}

/// Who waits for an errand.
#[derive(Debug)]
pub(super) enum Purpose {
    /// The jobs of a domain, whose exchangers are these.
    Route(u32, MxSet),
    /// Nobody: the policy of this domain is fetched anew.
    Refresh(String),
    /// The TLS-RPT report of this period is on its way.
    Report(Period),
}

impl Engine {
    /// Gives the answer back if all is known for it; otherwise the domain's jobs wait on, and
    /// [`Engine::go_ways`] is called when it is.
    pub(super) fn policy_first(&mut self, domain: u32, answer: MxAnswer) -> Option<MxAnswer> {
        let set = match answer {
            Ok(set) if self.config.mta_sts.enabled => set,
            known => return Some(known),
        };
        let name = Arc::clone(self.domains.name(domain));
        match self.policies.look(&name, self.clock.tick()) {
            Look::Known => Some(Ok(set)),
            Look::Ask(wanted) => {
                let purpose = Purpose::Route(domain, set);
                self.errands
                    .queued
                    .push_back((Errand::Policy(wanted), purpose));
                None
            }
        }
    }

    /// How many questions may be out beside the errands that are. Each is a socket.
    pub(super) fn questions_max(&self) -> usize {
        let most = self
            .capacity
            .questions
            .saturating_sub(self.errands.out.len());
        most.max(1)
    }

    /// Sends the errands that may be sent now: half of the room is always there for questions, since an
    /// errand to a host that does not answer lasts for a minute.
    pub(super) fn send_errands(&mut self) {
        let most = (self.capacity.questions / 2).max(1);
        let all = self.capacity.questions.max(1);
        while self.errands.out.len() < most
            && self.errands.out.len() + self.domains.asked() < all
            && let Some((errand, purpose)) = self.errands.queued.pop_front()
        {
            self.errands.last_id += 1;
            let id = ErrandId(self.errands.last_id);
            self.errands.out.insert(id, purpose);
            self.out.push_back(Output::Errand(id, errand));
        }
    }

    /// Has an errand run when there is room for it.
    pub(super) fn queue_errand(&mut self, errand: Errand, purpose: Purpose) {
        self.errands.queued.push_back((errand, purpose));
    }

    /// An errand ended.
    pub(super) fn errand_done(&mut self, id: ErrandId, done: Done) {
        let Some(purpose) = self.errands.out.remove(&id) else {
            return;
        };
        let found = match (done, &purpose) {
            (Done::Policy(found), Purpose::Route(..) | Purpose::Refresh(_)) => found,
            (Done::Report(result), Purpose::Report(period)) => {
                return self.report_sent(period.clone(), result);
            }
            (Done::Policy(_) | Done::Report(_), _) => {
                debug_assert!(false, "an errand ends as what it is");
                return;
            }
        };
        let name: Arc<str> = match &purpose {
            Purpose::Route(domain, _) => Arc::clone(self.domains.name(*domain)),
            Purpose::Refresh(name) => name.as_str().into(),
            Purpose::Report(_) => return,
        };
        tracing::debug!(domain = &*name, ?found, "MTA-STS");
        self.note_policy_failure(&name, &found, matches!(purpose, Purpose::Refresh(_)));
        let (now, unix) = (self.clock.tick(), self.clock.now().unix);
        let before = self.policies.policy(&name, unix).map(Arc::clone);
        let changes = self
            .policies
            .learnt(&name, &found, now, unix, &mut self.rng);
        self.keep(changes);
        let after = self.policies.policy(&name, unix);
        let asks = |policy: Option<&Arc<Policy>>| policy.map(|p| (p.mode, p.mx.clone()));
        if asks(before.as_ref()) != asks(after)
            && let Some(domain) = self.domains.find(&name)
        {
            self.reroute(domain);
        }
        match purpose {
            Purpose::Route(domain, set) => self.go_ways(domain, Ok(set)),
            Purpose::Refresh(_) => self.errands.refreshes -= 1,
            Purpose::Report(_) => {}
        }
    }

    /// RFC 8461 §6: a policy that is announced and cannot be had is reported, and so is any failure to see
    /// whether one that rules has changed. §3.3: administrators hear of a refresh that failed.
    fn note_policy_failure(&mut self, domain: &str, found: &Found, is_refresh: bool) {
        let unix = self.clock.now().unix;
        let ruling = self.policies.policy(domain, unix).map(Arc::clone);
        let (kind, why) = match found {
            Found::Failed { kind, why } => (*kind, why),
            Found::NoRecord(why) | Found::Unknown(why) if ruling.is_some() => {
                (TlsFailureKind::StsPolicyFetchError, why)
            }
            Found::NoRecord(_) | Found::Unknown(_) | Found::Same | Found::Policy(_) => return,
        };
        // What was cut short by us is nobody's failure.
        if self.stopping {
            return;
        }
        if is_refresh && ruling.is_some() {
            tracing::warn!(domain, why, "an MTA-STS policy was not refreshed");
        }
        self.count_policy_failure(domain, ruling.as_deref(), kind, "", why);
    }

    /// The policy that rules a domain.
    pub(super) fn policy_of(&self, domain: u32) -> Option<&Arc<Policy>> {
        if !self.config.mta_sts.enabled {
            return None;
        }
        let name = self.domains.name(domain);
        self.policies.policy(name, self.clock.now().unix)
    }

    /// That policy as events name it. A route goes by what the operator wrote, and by no policy.
    pub(super) fn policy_words(&self, domain: u32) -> Option<String> {
        let lane = self.domains.last_lane(domain);
        if lane.is_some_and(|no| self.lanes.get(no).is_some_and(|lane| lane.spec.route)) {
            return None;
        }
        let unix = self.clock.now().unix;
        self.policy_of(domain).map(|policy| policy.describe(unix))
    }

    /// How many policies of a mode rule.
    pub(super) fn policy_count(&self, mode: Mode) -> u64 {
        self.policies.count(mode, self.clock.now().unix) as u64
    }

    /// Fetches policies anew that have not been for a day.
    pub(super) fn refresh_policies(&mut self) {
        let now = self.clock.tick();
        while self.config.mta_sts.enabled
            && !self.stopping
            && self.errands.refreshes < REFRESHES_MAX
            && let Some(wanted) = self.policies.pop_refresh(now)
        {
            self.errands.refreshes += 1;
            let Wanted { domain, .. } = &wanted;
            let purpose = Purpose::Refresh(domain.clone());
            self.errands
                .queued
                .push_back((Errand::Policy(wanted), purpose));
        }
    }

    /// When a policy is to be refreshed; none while as many as may be are, since their ends look again.
    pub(super) fn next_refresh(&self) -> Option<Tick> {
        let may =
            self.config.mta_sts.enabled && !self.stopping && self.errands.refreshes < REFRESHES_MAX;
        self.policies.next_refresh().filter(|_| may)
    }

    /// Forgets policies that have expired.
    pub(super) fn tidy_policies(&mut self) {
        let changes = self.policies.tidy(self.clock.tick(), self.clock.now().unix);
        self.keep(changes);
    }

    /// Takes back what an earlier run kept. What is not to be believed is told, and ignored.
    pub(super) fn kept(&mut self, keep: &Keep) {
        let Some(text) = &keep.text else {
            return;
        };
        let believed = if keep.name.starts_with(KEPT_POLICY) {
            self.recover_policy(&keep.name, text)
        } else if keep.name.starts_with(KEPT_COUNT) {
            self.recover_counts(&keep.name, text)
        } else {
            return;
        };
        if let Err(why) = believed {
            tracing::warn!(name = keep.name, why, "what was kept is ignored");
            let name = keep.name.clone();
            self.out.push_back(Output::Keep(Keep { name, text: None }));
        }
    }

    fn recover_policy(&mut self, name: &str, text: &str) -> Result<(), String> {
        let (now, unix) = (self.clock.tick(), self.clock.now().unix);
        let policy: Policy = serde_json::from_str(text).map_err(|why| why.to_string())?;
        if name_of(&policy.domain) != name {
            return Err("it is under another domain's name".to_owned());
        }
        let taken = self.policies.recover(policy, now, unix, &mut self.rng);
        taken.map_err(str::to_owned)
    }

    fn keep(&mut self, changes: Vec<Change>) {
        for change in changes {
            let keep = match change {
                Change::Put(policy) => Keep {
                    name: name_of(&policy.domain),
                    text: serde_json::to_string(&*policy).ok(),
                },
                Change::Remove(domain) => Keep {
                    name: name_of(&domain),
                    text: None,
                },
            };
            self.out.push_back(Output::Keep(keep));
        }
    }
}

/// A domain name may be longer than a file name.
fn name_of(domain: &str) -> String {
    format!("{KEPT_POLICY}{}.json", hash_of(domain))
}

pub(super) fn hash_of(domain: &str) -> String {
    let hash = Sha256::digest(domain.as_bytes());
    hash[..16]
        .iter()
        .map(|octet| format!("{octet:02x}"))
        .collect()
}
