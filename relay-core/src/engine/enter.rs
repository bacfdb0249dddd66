//! A message enters the queue, new or recovered: its entry, and a job for each destination domain.

use std::collections::BTreeMap;
use std::time::Duration;

use smtp_proto::{Host, Mailbox};

use super::{Engine, Output};
use crate::config::a_labels;
use crate::id::MessageId;
use crate::queue::intern::TextId;
use crate::queue::job::{JobEntry, JobState, Marks, MessageEntry, NIL, Wants};
use crate::queue::message::Message;
use crate::queue::recipients::Recipients;
use crate::queue::record::{DeferredState, State};
use crate::queue::recover;
use crate::queue::schedule::step_after;
use crate::queue::store::{Place, Recovered};
use crate::queue::tick::Tick;
use crate::time::UnixTime;

/// After a restart, jobs that are due come up one after the other, so far apart.
const SPREAD_MILLIS: u64 = 10;
/// Those that would wait longer than this come up at any time before.
const SPREAD_MAX_MILLIS: u64 = 60_000;

/// What is gathered while the store hands over its messages.
#[derive(Debug, Default)]
pub(super) struct Recovering {
    /// The last sign of life of the run before, by its wall clock.
    latest: UnixTime,
    /// The highest id so far. All that this run accepts have higher ones.
    last: Option<MessageId>,
    /// How many jobs were due when they came.
    due: u64,
}

/// What one job of a message starts with.
struct Seed<'a> {
    message: u32,
    recipients: &'a [u32],
    deferred: Option<&'a DeferredState>,
    state: JobState,
}

impl Engine {
    /// Makes the entries of a message, for the recipients that are not settled. Its jobs are picked:
    /// the caller decides what becomes of them.
    pub(super) fn enter(
        &mut self,
        message: &Message,
        place: Place,
        birth: Tick,
        state: &State,
    ) -> u32 {
        self.enter_in_state(message, place, birth, state, JobState::Picked)
    }

    fn enter_in_state(
        &mut self,
        message: &Message,
        place: Place,
        birth: Tick,
        state: &State,
        job_state: JobState,
    ) -> u32 {
        let recipients = &message.envelope.recipients;
        let total = u32::try_from(recipients.len()).unwrap_or(u32::MAX);
        let sender = message
            .envelope
            .from
            .mailbox()
            .map(ToString::to_string)
            .unwrap_or_default();
        let wants = Wants::of(message);
        let handling = &message.envelope.handling;
        // The age of a message that is to be released later counts from then on. RFC 4865 §4.2.
        let release = handling.release.unwrap_or(message.accepted);
        let counted = release.max(message.accepted);
        let entry = MessageEntry {
            id: message.id,
            place,
            birth: birth.max(self.released(message)),
            accepted: u32::try_from(counted.as_secs()).unwrap_or(u32::MAX),
            size: u32::try_from(message.size).unwrap_or(u32::MAX),
            sender: self.table.senders.intern(&sender, domain_of),
            sender_hash: hash(&sender),
            total,
            first_job: NIL,
            busy: 0,
            wants,
            priority: handling.level(),
            late: handling
                .deadline
                .map_or(Tick::NEVER, |deadline| self.clock.tick_at(deadline.at)),
            held: state.held,
            delay_reported: !wants.delay() || state.deferred.iter().any(|d| d.delay_reported),
        };
        let handle = self.table.insert(entry);
        let mut known = state.settled.clone();
        for group in &state.deferred {
            known.extend(&group.recipients);
            let seed = Seed {
                message: handle,
                recipients: &group.recipients,
                deferred: Some(group),
                state: job_state,
            };
            self.enter_jobs(message, &seed);
        }
        known.sort_unstable();
        let fresh: Vec<u32> = (0..total)
            .filter(|index| known.binary_search(index).is_err())
            .collect();
        let seed = Seed {
            message: handle,
            recipients: &fresh,
            deferred: None,
            state: job_state,
        };
        self.enter_jobs(message, &seed);
        handle
    }

    /// When a message may be sent at the earliest. RFC 4865.
    fn released(&self, message: &Message) -> Tick {
        let now = self.clock.tick();
        let release = message.envelope.handling.release;
        release.map_or(now, |release| self.clock.tick_at(release).max(now))
    }

    /// One job for each domain among these recipients.
    fn enter_jobs(&mut self, message: &Message, seed: &Seed<'_>) {
        let mut domains: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for &index in seed.recipients {
            if let Some(recipient) = message.envelope.recipients.get(index as usize) {
                domains
                    .entry(domain_key(&recipient.to))
                    .or_default()
                    .push(index);
            }
        }
        let now = self.clock.now().unix;
        for (name, indexes) in domains {
            let domain = self.domains.add_job(&name);
            let mut job = JobEntry {
                message: seed.message,
                sibling: NIL,
                domain,
                due: self.released(message),
                reason: TextId::NONE,
                attempts: 0,
                state: seed.state,
                marks: Marks::default(),
                recipients: Recipients::new(&indexes),
            };
            if let Some(group) = seed.deferred {
                let step = step_after(&self.config.delivery.retry, group.attempts);
                job.due = self
                    .clock
                    .tick()
                    .after(recover::left(group.next, now, step));
                job.attempts = u16::try_from(group.attempts).unwrap_or(u16::MAX);
                if group.in_doubt {
                    job.marks.set_in_doubt();
                }
                job.marks.set_held(group.held);
            }
            let job = self.table.insert_job(job);
            if let Some(group) = seed.deferred {
                self.table.set_reason(job, &group.reason);
            }
        }
    }

    /// Takes over a message that the store held when it was opened. All that was noted of it comes with
    /// it, so its jobs wait from now on, for what is left of their waits; what is due comes up spread over
    /// a while. Its age is a guess until all are here: see [`Self::set_age`].
    pub(super) fn recovered(&mut self, recovered: Recovered) {
        let Recovered {
            message,
            place,
            progress,
        } = recovered;
        let recovering = self.recovering.get_or_insert_default();
        recovering.last = recovering.last.max(Some(message.id));
        self.accept.skip_to(message.id);
        if self.table.find(message.id).is_some() {
            return;
        }
        let total = u32::try_from(message.envelope.recipients.len()).unwrap_or(u32::MAX);
        let state = recover::fold(total, &progress);
        if state.settled.len() >= total as usize {
            self.out.push_back(Output::Discard(message.id, place));
            return;
        }
        self.see_alive(message.accepted);
        for group in &state.deferred {
            let step = step_after(&self.config.delivery.retry, group.attempts);
            let tried =
                UnixTime::from_millis(group.next.as_millis().saturating_sub(
                    u64::try_from((step + step / 10).as_millis()).unwrap_or(u64::MAX),
                ));
            self.see_alive(tried);
        }
        let now = self.clock.tick();
        let settled = state.settled.len() as u64;
        let message = self.enter_in_state(&message, place, now, &state, JobState::Parked);
        self.counters.recovered += u64::from(total) - settled;
        self.counters.queued += u64::from(total) - settled;
        self.set_age(message);
        self.let_wait(message);
    }

    fn see_alive(&mut self, at: UnixTime) {
        let now = self.clock.now().unix;
        if let Some(recovering) = &mut self.recovering
            && at <= now
        {
            recovering.latest = recovering.latest.max(at);
        }
    }

    /// How old a message is hangs on when the run before ended, of which the messages so far are the
    /// signs. Each one more can only make it older ([`recover::age`]): none expires on a guess.
    fn set_age(&mut self, message: u32) {
        let Some(Recovering { latest, .. }) = self.recovering else {
            return;
        };
        let now = self.clock.now().unix;
        let entry = &mut self.table.messages[message];
        let accepted = UnixTime::from_secs(u64::from(entry.accepted));
        let age = recover::age(accepted, latest, now, self.config.delivery.expire);
        entry.birth = self.clock.tick().before(age).after(accepted.since(now));
    }

    /// The jobs of a message that was recovered begin to wait, unless they are held.
    fn let_wait(&mut self, message: u32) {
        if self.table.messages[message].held {
            return;
        }
        let now = self.clock.tick();
        for job in self.table.jobs_of(message) {
            let entry = &self.table.jobs[job];
            let mut at = entry.due;
            if entry.marks.held() {
                continue;
            }
            if at <= now
                && let Some(recovering) = &mut self.recovering
            {
                let turn = recovering.due * SPREAD_MILLIS;
                recovering.due += 1;
                let wait = if turn < SPREAD_MAX_MILLIS {
                    turn + self.rng.below(SPREAD_MILLIS)
                } else {
                    self.rng.below(SPREAD_MAX_MILLIS)
                };
                at = now.after(Duration::from_millis(wait));
            }
            self.table.wait(job, at);
        }
    }

    /// All messages are here, and so is the last sign of the run before: their ages are right from now on.
    pub(super) fn finish_recovery(&mut self) {
        let last = self.recovering.as_ref().and_then(|all| all.last);
        for message in last.map_or_else(Vec::new, |last| self.table.up_to(last).collect()) {
            self.set_age(message);
        }
        self.recovering = None;
    }

    /// Whether a message is live at this place: written and not discarded, or being written.
    #[must_use]
    pub fn is_live(&self, id: MessageId, place: Place) -> bool {
        self.accept.is_writing(id)
            || self
                .table
                .find(id)
                .is_some_and(|m| self.table.messages[m].place == place)
    }
}

/// The destination of an address: its domain as the DNS knows it, so that the spellings of one domain
/// make one job (RFC 5890 §2.3.2.1), or its address literal.
fn domain_key(to: &Mailbox) -> String {
    match to.host() {
        Host::Domain(domain) => a_labels(domain),
        Host::Literal(literal) => literal.to_string(),
    }
}

/// The short form of a sender: `@domain`.
fn domain_of(sender: &str) -> String {
    sender
        .rfind('@')
        .map_or_else(String::new, |at| sender[at..].to_ascii_lowercase())
}

/// FNV-1a of an address whose domain is in lower case.
pub(super) fn hash(sender: &str) -> u32 {
    let at = sender.rfind('@').unwrap_or(sender.len());
    let (local, domain) = sender.split_at(at);
    local
        .bytes()
        .chain(domain.bytes().map(|byte| byte.to_ascii_lowercase()))
        .fold(0x811c_9dc5, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        })
}
