//! All queued messages and their jobs, by handle and by id, and what was kept in memory of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::intern::{Interner, TextId};
use super::job::{JobEntry, JobState, MessageEntry, NIL};
use super::message::Body;
use super::pool::Pool;
use super::reason::short_line;
use super::record::{DeferredState, State};
use super::schedule::Timers;
use super::tick::{Clock, Tick};
use crate::id::MessageId;
use crate::outbound::Loaded;

/// Octets of senders' addresses.
const SENDERS_MAX: usize = 4 * 1024 * 1024;
/// Octets of deferral reasons.
const REASONS_MAX: usize = 4 * 1024 * 1024;

/// The messages and jobs of the queue.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) messages: Pool<MessageEntry>,
    pub(crate) jobs: Pool<JobEntry>,
    pub(crate) timers: Timers,
    pub(crate) reasons: Interner,
    pub(crate) senders: Interner,
    ids: BTreeMap<MessageId, u32>,
    loaded: BTreeMap<MessageId, Arc<Loaded>>,
    loaded_bytes: usize,
    kept_max: usize,
    /// How many jobs are [`JobState::Waiting`].
    waiting: usize,
}

impl Table {
    /// An empty table that keeps at most so many octets of messages in memory.
    pub(crate) fn new(kept_max: usize) -> Self {
        Self {
            messages: Pool::new(),
            jobs: Pool::new(),
            timers: Timers::default(),
            reasons: Interner::new(REASONS_MAX),
            senders: Interner::new(SENDERS_MAX),
            ids: BTreeMap::new(),
            loaded: BTreeMap::new(),
            loaded_bytes: 0,
            kept_max,
            waiting: 0,
        }
    }

    /// Keeps at most so many octets of messages in memory.
    pub(crate) fn set_kept_max(&mut self, kept_max: usize) {
        self.kept_max = kept_max;
    }

    pub(crate) fn find(&self, id: MessageId) -> Option<u32> {
        self.ids.get(&id).copied()
    }

    /// Messages with ids above `after`, oldest first.
    pub(crate) fn after(&self, after: Option<MessageId>) -> impl Iterator<Item = u32> {
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        self.ids
            .range((from, std::ops::Bound::Unbounded))
            .map(|(_, &message)| message)
    }

    /// Messages with ids up to `last`, oldest first.
    pub(crate) fn up_to(&self, last: MessageId) -> impl Iterator<Item = u32> {
        self.ids.range(..=last).map(|(_, &message)| message)
    }

    pub(crate) fn insert(&mut self, entry: MessageEntry) -> u32 {
        let id = entry.id;
        let message = self.messages.insert(entry);
        let before = self.ids.insert(id, message);
        assert!(before.is_none(), "message ids are unique");
        message
    }

    /// Forgets a message that has no jobs.
    pub(crate) fn remove(&mut self, message: u32) -> Option<MessageEntry> {
        let entry = self.messages.remove(message)?;
        debug_assert_eq!(entry.first_job, NIL, "its jobs are gone");
        self.ids.remove(&entry.id);
        self.senders.release(entry.sender);
        self.unload(entry.id);
        Some(entry)
    }

    /// Adds a job to its message's list.
    pub(crate) fn insert_job(&mut self, mut job: JobEntry) -> u32 {
        let message = job.message;
        job.sibling = self.messages[message].first_job;
        if job.state == JobState::Waiting {
            self.waiting += 1;
        }
        if job.state.is_busy() {
            self.messages[message].busy += 1;
        }
        let handle = self.jobs.insert(job);
        self.messages[message].first_job = handle;
        handle
    }

    /// Takes a job out of its message's list. If a domain's or a lane's list still holds its handle,
    /// the slot is freed when it comes up there: see [`Table::free_if_gone`].
    pub(crate) fn remove_job(&mut self, job: u32) {
        let entry = &self.jobs[job];
        let (message, sibling, reason) = (entry.message, entry.sibling, entry.reason);
        let listed = entry.state.is_listed();
        assert_ne!(entry.state, JobState::Gone, "a job goes once");
        self.unlink(message, job, sibling);
        self.reasons.release(reason);
        self.jobs[job].reason = TextId::NONE;
        self.set_state(job, JobState::Gone);
        if !listed {
            self.jobs.remove(job);
        }
    }

    /// Frees the slot of a job that went while the list held it. Whether it had gone.
    pub(crate) fn free_if_gone(&mut self, job: u32) -> bool {
        let gone = self.jobs[job].state == JobState::Gone;
        if gone {
            self.jobs.remove(job);
        }
        gone
    }

    /// Changes a job's state, and the counts that hang on it.
    pub(crate) fn set_state(&mut self, job: u32, state: JobState) {
        let entry = &mut self.jobs[job];
        let (before, message) = (entry.state, entry.message);
        entry.state = state;
        self.waiting += usize::from(state == JobState::Waiting);
        self.waiting -= usize::from(before == JobState::Waiting);
        if before.is_busy() != state.is_busy() {
            let busy = &mut self.messages[message].busy;
            if state.is_busy() {
                *busy += 1;
            } else {
                *busy -= 1;
            }
        }
    }

    /// Lets a job wait until `due`.
    pub(crate) fn wait(&mut self, job: u32, due: Tick) {
        self.jobs[job].due = due;
        self.set_state(job, JobState::Waiting);
        self.timers.set(due, job);
        let Self {
            timers,
            jobs,
            waiting,
            ..
        } = self;
        timers.tidy(*waiting, |due, job| is_waiting_for(jobs, due, job));
    }

    /// The next job whose time has come.
    pub(crate) fn pop_due(&mut self, now: Tick) -> Option<u32> {
        while let Some((due, job)) = self.timers.pop(now) {
            if is_waiting_for(&self.jobs, due, job) {
                return Some(job);
            }
        }
        None
    }

    /// Keeps why a job waits.
    pub(crate) fn set_reason(&mut self, job: u32, line: &str) {
        let id = self.reasons.intern(line, short_line);
        let before = std::mem::replace(&mut self.jobs[job].reason, id);
        self.reasons.release(before);
    }

    /// Why a job waits.
    pub(crate) fn reason(&self, job: u32) -> Option<&str> {
        self.reasons.get(self.jobs[job].reason)
    }

    /// The jobs of a message.
    pub(crate) fn jobs_of(&self, message: u32) -> Vec<u32> {
        let mut jobs = Vec::new();
        let mut next = self.messages[message].first_job;
        while next != NIL {
            jobs.push(next);
            next = self.jobs[next].sibling;
        }
        jobs
    }

    /// Keeps a message in memory until its first attempt, if there is room.
    pub(crate) fn load(&mut self, loaded: Loaded) {
        let bytes = memory_of(&loaded);
        if self.loaded_bytes + bytes <= self.kept_max {
            self.loaded_bytes += bytes;
            self.loaded.insert(loaded.message.id, Arc::new(loaded));
        }
    }

    pub(crate) fn loaded(&self, id: MessageId) -> Option<Arc<Loaded>> {
        self.loaded.get(&id).cloned()
    }

    pub(crate) fn unload(&mut self, id: MessageId) {
        if let Some(loaded) = self.loaded.remove(&id) {
            self.loaded_bytes -= memory_of(&loaded);
        }
    }

    /// All that is to be noted of a message, but for the recipients in `unreported`, whose failure
    /// is not settled before its report is stored.
    pub(crate) fn state(&self, message: u32, unreported: &[u32], clock: &Clock) -> State {
        let entry = &self.messages[message];
        let mut open: Vec<u32> = unreported.to_vec();
        let mut deferred = Vec::new();
        for job in self.jobs_of(message) {
            let job = &self.jobs[job];
            let recipients = job.recipients.to_vec();
            open.extend(&recipients);
            if job.attempts > 0 {
                deferred.push(DeferredState {
                    recipients,
                    attempts: u32::from(job.attempts),
                    next: clock.unix(job.due),
                    delay_reported: entry.delay_reported,
                    in_doubt: job.marks.in_doubt(),
                    held: job.marks.held(),
                    reason: self.reasons.get(job.reason).unwrap_or_default().to_owned(),
                });
            }
        }
        open.sort_unstable();
        let settled = (0..entry.total)
            .filter(|index| open.binary_search(index).is_err())
            .collect();
        State {
            settled,
            held: entry.held,
            deferred,
        }
    }

    /// What the queue takes of the heap, but for interned texts: pages, timers, the index by id.
    #[cfg(test)]
    pub(crate) fn heap_bytes(&self) -> usize {
        // A B-tree that grows at its end has nodes of 11 that are half full: 6 keys and handles in
        // 152 octets, and an inner node for every 7.
        let index = self.ids.len() * (152 / 6 + 248 / 42 + 1);
        self.messages.heap_bytes() + self.jobs.heap_bytes() + self.timers.heap_bytes() + index
    }

    fn unlink(&mut self, message: u32, job: u32, sibling: u32) {
        let mut next = self.messages[message].first_job;
        if next == job {
            self.messages[message].first_job = sibling;
            return;
        }
        while self.jobs[next].sibling != job {
            next = self.jobs[next].sibling;
        }
        self.jobs[next].sibling = sibling;
    }
}

fn is_waiting_for(jobs: &Pool<JobEntry>, due: Tick, job: u32) -> bool {
    jobs.get(job)
        .is_some_and(|job| job.state == JobState::Waiting && job.due == due)
}

fn memory_of(loaded: &Loaded) -> usize {
    let body = match &loaded.body {
        Body::Memory(bytes) => bytes.len(),
        Body::Spooled => 0,
    };
    body + 512 + 128 * loaded.message.envelope.recipients.len()
}
