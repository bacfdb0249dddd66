//! What an administrator does in the world, and what is looked at every minute.

use std::collections::BTreeMap;
use std::time::Duration;

use relay_core::admin::{Action, AdminRequest, AdminResponse, QueueEntry, Selector};
use relay_core::engine::Input as ToEngine;
use relay_core::id::AdminId;
use relay_core::time::Now;

use super::agenda::Dice;
use super::client::Client;
use super::profile::Manner;
use super::text::millis;
use super::world::{Event, HOUR, MINUTE, World};

/// After the trouble is over, the queue must be empty within this time and the longest retry step:
/// a back-off of half an hour, twice, and what is slow.
const DRAIN: Duration = Duration::from_secs(3 * 3600);

/// What is ready is tried within this time: that of all messages of a small world, one after another.
const TURN_MAX: Duration = Duration::from_secs(360);

/// Mail is on its way to the new hosts of its domain within this time: the longest back-off, and what
/// resolvers remember.
const MOVE_MAX: Duration = Duration::from_secs(40 * 60);

impl World {
    /// Asks the engine as `smtp-relay queue` does.
    pub(crate) fn ask_admin(&mut self, request: AdminRequest) -> Option<AdminResponse> {
        self.answer = None;
        self.engine_in(ToEngine::Admin(AdminId(1), request));
        self.answer.take()
    }

    pub(crate) fn admin_answered(&mut self, response: AdminResponse) {
        self.answer = Some(response);
    }

    pub(crate) fn queue(&mut self) -> Vec<QueueEntry> {
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let selector = Selector::default();
            let request = AdminRequest::List {
                selector,
                after,
                limit: 100,
            };
            let Some(AdminResponse::List(list)) = self.ask_admin(request) else {
                return all;
            };
            let Some(last) = list.last() else {
                return all;
            };
            after = last.id.parse().ok();
            all.extend(list);
        }
    }

    /// An administrator does something to a message.
    pub(crate) fn administer(&mut self) {
        let queue = self.queue();
        if self.calm || queue.is_empty() {
            return;
        }
        let entry = &queue[self.rng.below(queue.len() as u64) as usize];
        let action = self.rng.pick(&[
            Action::Retry,
            Action::Retry,
            Action::Hold,
            Action::Release,
            Action::Bounce,
            Action::Remove,
        ]);
        let id = entry.id.clone();
        self.tell(format_args!("an administrator: {action:?} {id}"));
        self.book.touched(Some(&id));
        let selector = Selector {
            id: Some(id),
            ..Selector::default()
        };
        let _ = self.ask_admin(AdminRequest::Act(action, selector));
    }

    /// Looks at everything once a minute. True at the end.
    pub(crate) fn check(&mut self) -> bool {
        let now = self.now();
        let wait = if self.calm {
            MINUTE / 2
        } else {
            self.profile.duration / 50
        };
        self.agenda.after(wait.max(MINUTE / 2), Event::Check);
        if self.relay.is_none() {
            return false;
        }
        let queue = self.queue();
        self.check_queue(&queue, now);
        let Some(AdminResponse::Status(status)) = self.ask_admin(AdminRequest::Status) else {
            return false;
        };
        let out = status.delivered + status.bounced + status.expired + status.removed;
        if status.accepted + status.recovered != out + status.queued {
            self.book
                .blame(format!("recipients are not conserved: {status:?}"));
        }
        if !self.calm {
            return false;
        }
        if queue.iter().any(is_held) {
            self.book.touched(None);
            let _ = self.ask_admin(AdminRequest::Act(Action::Release, Selector::default()));
        }
        let done = self.clients.iter().all(Client::is_done);
        let idle = self
            .engine(relay_core::engine::Engine::is_idle)
            .unwrap_or(false);
        let all_here = status.store.recovering.is_none();
        if done && status.queued == 0 && status.messages == 0 && idle && all_here {
            self.tell(format_args!("the queue is empty"));
            self.book.settle();
            self.check_reports();
            return true;
        }
        let longest = self.profile.retry.iter().max().copied().unwrap_or(HOUR);
        if now.instant.since(self.calm_at) > DRAIN + longest * 2 {
            let left = queue.first();
            self.book.blame(format!(
                "the queue does not drain: {}; {status:?}, first: {left:?}",
                self.waits()
            ));
        }
        false
    }

    pub(crate) fn check_queue(&mut self, queue: &[QueueEntry], now: Now) {
        let ages: Vec<(String, bool)> = queue
            .iter()
            .map(|entry| (entry.id.clone(), is_held(entry)))
            .collect();
        self.book.check_ages(&ages, now.instant);
        self.check_turns(queue, now);
        for entry in queue {
            for job in &entry.jobs {
                let due = job.next.as_deref().and_then(millis);
                let late = due.is_some_and(|due| due + 5000 < now.unix.as_millis());
                if late && job.state == "waiting" {
                    self.book
                        .blame(format!("{} should have been tried: {job:?}", entry.id));
                }
            }
        }
    }

    /// No lane starves another: what is ready to be tried at hosts that work is tried soon, however
    /// badly others behave. Only in worlds with connections for all.
    fn check_turns(&mut self, queue: &[QueueEntry], now: Now) {
        let profile = &self.profile;
        let roomy = profile.connections >= 20 && profile.lane_connections > 1 && !profile.small;
        // A connection that died without a word keeps its place until its timer is over.
        let dying = profile.partitions > 0 || profile.net.cut_per_mille > 0;
        // Mail for a domain that moves is found out about when a back-off of its old hosts is over.
        let moved = |at| now.instant.since(at) < MOVE_MAX;
        let moving = self.zone_changed.is_some_and(moved);
        if !roomy || self.calm || dying || moving || profile.net.window < 65_536 {
            self.ready.clear();
            return;
        }
        let mut ready = BTreeMap::new();
        for entry in queue {
            for job in entry.jobs.iter().filter(|job| job.state == "ready") {
                let well = self.names.hosts_of(&job.domain).is_some_and(|hosts| {
                    hosts
                        .iter()
                        .all(|&host| self.hosts[host].manner == Manner::Healthy)
                });
                if well {
                    let key = (entry.id.clone(), job.domain.clone());
                    let since = self.ready.get(&key).copied().unwrap_or(now.instant);
                    ready.insert(key, since);
                }
            }
        }
        let late = ready
            .iter()
            .find(|(_, since)| now.instant.since(**since) > TURN_MAX);
        if let Some(((id, domain), since)) = late {
            let waited = now.instant.since(*since);
            self.book.blame(format!(
                "{id} has been ready for {domain}, whose hosts work, for {waited:?}: its lane starves"
            ));
        }
        self.ready = ready;
    }
}

/// Whether a message is held, or a part of it that is in doubt.
fn is_held(entry: &QueueEntry) -> bool {
    entry.held || entry.jobs.iter().any(|job| job.state == "held")
}
