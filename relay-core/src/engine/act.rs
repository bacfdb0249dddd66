//! What an administrator does to queued messages: retry, hold, release, bounce, remove.
//!
//! A selector's domain narrows retry, bounce and remove to the recipients there; a hold is of the
//! whole message, a release also of its jobs that are held because they are in doubt. A job that is being delivered is not stopped: bounce and remove apply to what that
//! attempt leaves over.

use std::time::Duration;

use super::enter::hash;
use super::{Engine, Output};
use crate::admin::{Action, Selector};
use crate::config::a_labels_of;
use crate::events::EventKind;
use crate::id::MessageId;
use crate::queue::job::{JobState, Then};
use crate::queue::record::Progress;

/// A message that was held until its time was over, or nearly, has so long after its release.
const RELEASED_MIN: Duration = Duration::from_secs(3600);

/// A selector, read once.
pub(super) struct Wanted {
    /// The text of an id that can be none selects nothing.
    id: Option<Option<MessageId>>,
    domain: Option<String>,
    /// The address, its hash, its domain with the `@`.
    sender: Option<(String, u32)>,
    older_than_secs: Option<u64>,
}

impl Wanted {
    pub(super) fn new(selector: &Selector) -> Self {
        Self {
            id: selector.id.as_ref().map(|id| id.parse().ok()),
            domain: selector.domain.as_deref().map(a_labels_of),
            sender: selector.sender.as_ref().map(|sender| {
                let sender = sender
                    .trim_start_matches('<')
                    .trim_end_matches('>')
                    .to_owned();
                let hash = hash(&sender);
                (sender, hash)
            }),
            older_than_secs: selector.older_than_secs,
        }
    }
}

impl Engine {
    /// The selected messages with ids above `after`, oldest first.
    pub(super) fn select<'a>(
        &'a self,
        wanted: &'a Wanted,
        after: Option<MessageId>,
    ) -> Box<dyn Iterator<Item = u32> + 'a> {
        let matching = |message: &u32| self.is_wanted(wanted, *message);
        match wanted.id {
            Some(id) => Box::new(
                id.filter(|id| after.is_none_or(|after| *id > after))
                    .and_then(|id| self.table.find(id))
                    .into_iter()
                    .filter(matching),
            ),
            None => Box::new(self.table.after(after).filter(matching)),
        }
    }

    fn is_wanted(&self, wanted: &Wanted, message: u32) -> bool {
        let entry = &self.table.messages[message];
        let now = self.clock.now().unix.as_secs();
        let old_enough = wanted
            .older_than_secs
            .is_none_or(|secs| now.saturating_sub(u64::from(entry.accepted)) > secs);
        let from_sender = wanted.sender.as_ref().is_none_or(|(sender, hash)| {
            let text = self.table.senders.get(entry.sender).unwrap_or_default();
            match (sender.starts_with('@'), sender.rfind('@')) {
                (true, _) => domain_part(text).eq_ignore_ascii_case(sender),
                (false, Some(at)) => {
                    *hash == entry.sender_hash
                        && domain_part(text).eq_ignore_ascii_case(&sender[at..])
                }
                (false, None) if sender.is_empty() => text.is_empty(),
                (false, None) => domain_part(text)
                    .strip_prefix('@')
                    .is_some_and(|domain| domain.eq_ignore_ascii_case(sender)),
            }
        });
        old_enough
            && from_sender
            && wanted
                .domain
                .as_ref()
                .is_none_or(|_| !self.jobs_wanted(wanted, message).is_empty())
    }

    fn jobs_wanted(&self, wanted: &Wanted, message: u32) -> Vec<u32> {
        let mut jobs = self.table.jobs_of(message);
        if let Some(domain) = &wanted.domain {
            jobs.retain(|&job| **self.domains.name(self.table.jobs[job].domain) == **domain);
        }
        jobs
    }

    /// Does something to all selected messages. How many it was done to.
    pub(super) fn act(&mut self, action: Action, selector: &Selector) -> usize {
        let wanted = Wanted::new(selector);
        let messages: Vec<u32> = self.select(&wanted, None).collect();
        let mut acted = 0;
        for message in messages {
            let jobs = self.jobs_wanted(&wanted, message);
            let done = match action {
                Action::Retry => self.retry(message, &jobs),
                Action::Hold => self.hold(message),
                Action::Release => self.release(message, &jobs),
                Action::Bounce => self.give_up(&jobs, Then::Bounce),
                Action::Remove => self.give_up(&jobs, Then::Remove),
            };
            acted += usize::from(done);
        }
        acted
    }

    fn retry(&mut self, message: u32, jobs: &[u32]) -> bool {
        let in_doubt = |job: &u32| self.table.jobs[*job].marks.held();
        if self.table.messages[message].held || jobs.iter().all(in_doubt) {
            return false;
        }
        let now = self.clock.tick();
        if self.table.messages[message].birth > now {
            // Its sender said when it may go (FUTURERELEASE), and no receiver that is back changes that.
            return false;
        }
        self.changed(message, "retried");
        for &job in jobs {
            if let Some(no) = self.lane_of(job)
                && let Some(lane) = self.lanes.get_mut(no)
            {
                lane.end_backoff(now);
                self.lanes.enlist(no, self.caps(), now);
            }
            if self.table.jobs[job].state == JobState::Waiting {
                self.table.set_state(job, JobState::Picked);
                self.dispatch(job);
            }
        }
        true
    }

    /// Jobs that are in a list are parked when they come up there.
    fn hold(&mut self, message: u32) -> bool {
        if std::mem::replace(&mut self.table.messages[message].held, true) {
            return false;
        }
        self.note_held(message, "held");
        for job in self.table.jobs_of(message) {
            if self.table.jobs[job].state == JobState::Waiting {
                self.table.set_state(job, JobState::Parked);
            }
        }
        true
    }

    /// Releases a held message, and those of its jobs that are held because they are in doubt.
    fn release(&mut self, message: u32, jobs: &[u32]) -> bool {
        let held = std::mem::replace(&mut self.table.messages[message].held, false);
        let doubtful = self.release_doubtful(jobs);
        if held {
            self.note_held(message, "released");
        } else if doubtful {
            self.changed(message, "released");
        } else {
            return false;
        }
        let now = self.clock.tick();
        let oldest = now.before(self.config.delivery.expire.saturating_sub(RELEASED_MIN));
        let entry = &mut self.table.messages[message];
        entry.birth = entry.birth.max(oldest);
        for job in self.table.jobs_of(message) {
            let entry = &self.table.jobs[job];
            if entry.state != JobState::Parked || entry.marks.held() {
                continue;
            }
            let due = self.table.jobs[job].due;
            if due > now {
                self.table.wait(job, due);
            } else {
                self.table.set_state(job, JobState::Picked);
                self.dispatch(job);
            }
        }
        true
    }

    fn note_held(&mut self, message: u32, change: &str) {
        let entry = &self.table.messages[message];
        let (id, place, held) = (entry.id, entry.place, entry.held);
        self.out
            .push_back(Output::Note(id, place, Progress::Held(held)));
        self.changed(message, change);
    }

    fn changed(&mut self, message: u32, change: &str) {
        let kind = EventKind::Changed {
            change: change.to_owned(),
            recipients: Vec::new(),
        };
        self.event(self.table.messages[message].id, kind);
    }

    fn give_up(&mut self, jobs: &[u32], how: Then) -> bool {
        for &job in jobs {
            if self.table.jobs[job].state == JobState::Delivering {
                self.table.jobs[job].marks.set_then(how);
                continue;
            }
            match how {
                Then::Nothing => {}
                Then::Bounce => self.bounce_by_admin(job),
                Then::Remove => self.remove_by_admin(job),
            }
        }
        !jobs.is_empty()
    }
}

/// What follows the local part, with the `@`.
fn domain_part(sender: &str) -> &str {
    sender.rfind('@').map_or("", |at| &sender[at..])
}
