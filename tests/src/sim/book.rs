//! The book: what the relay promised, what receivers took, what the events say; and the rules between.
//!
//! Rules are checked as entries are made, so that a run stops at the first event that breaks one. What
//! only the end can tell (nothing is lost, nothing bounced in silence) is checked when the queue has
//! drained.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use relay_core::config::{InDoubt, TlsLevel};
use relay_core::time::Instant;

use super::compose::Wishes;
use super::figures::Figures;
use super::profile::Profile;
use super::text::token_of;

/// A note may be this far from the disk when the process dies. The store syncs notes every second.
const NOTE_MAX: Duration = Duration::from_secs(5);
/// An attempt may take this long: every timer of RFC 5321 §4.5.3.2, one after another.
pub(crate) const ATTEMPT_MAX: Duration = Duration::from_secs(40 * 60);
/// A restart gives every message up to this much more time.
pub(crate) const GRACE: Duration = Duration::from_secs(3700);
/// Between the deadline and the sweep that sees it.
pub(crate) const SWEEP: Duration = Duration::from_secs(130);

/// What a client knows of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Under way.
    Open,
    /// 4yz or 5yz: it must never be delivered.
    Refused,
    /// Reset, or its end of data was never sent: it must never be delivered.
    Abandoned,
    /// No answer to the final dot: anything may be.
    InDoubt,
    /// 250: the relay answers for it.
    Acknowledged(Instant),
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) sender: String,
    pub(crate) recipients: BTreeMap<String, Recipient>,
    /// In the order of the envelope.
    pub(crate) order: Vec<String>,
    pub(crate) message: Vec<u8>,
    pub(crate) fate: Fate,
    pub(crate) touched_by_admin: bool,
    /// What its MAIL asked for.
    pub(crate) wishes: Wishes,
    /// The disk failed between its beginning and its answer.
    pub(crate) faults_before: u64,
    pub(crate) faulted: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Recipient {
    pub(crate) receptions: u32,
    pub(crate) last: Option<Reception>,
    /// Settled by this life of the relay.
    pub(crate) settled_in: Option<u32>,
    pub(crate) delivered: bool,
    pub(crate) failed: bool,
    pub(crate) removed: bool,
    pub(crate) reported: bool,
    /// Its sender was told that it is late.
    pub(crate) delay_reported: bool,
    /// No attempt before.
    pub(crate) not_before: Option<Instant>,
    /// Held since then, because it is in doubt: no attempt before somebody releases it.
    pub(crate) held: Option<Instant>,
}

#[derive(Debug)]
pub(crate) struct Reception {
    pub(crate) at: Instant,
    /// Of the relay, when the connection was opened.
    pub(crate) life: u32,
    /// The relay said that it knows.
    pub(crate) confirmed: Option<Instant>,
    /// The relay said that it does not know.
    pub(crate) in_doubt: bool,
}

/// What a message id stands for.
#[derive(Debug, Clone)]
pub(crate) enum Subject {
    Message(u64),
    /// A report about a message.
    Report(u64),
    /// The TLS-RPT report of a day and a domain.
    Tls(u64, String),
}

/// The ledger and the rules.
#[derive(Debug)]
pub(crate) struct Book {
    pub(crate) entries: BTreeMap<u64, Entry>,
    pub(crate) ids: BTreeMap<String, Subject>,
    pub(crate) lost_reports: BTreeSet<u64>,
    /// The last message that a receiver asked to wait with, and until when.
    pub(crate) asked: Option<(u64, u64)>,
    pub(crate) wrong: Option<String>,
    pub(crate) life: u32,
    pub(crate) crashes: Vec<Instant>,
    pub(crate) downtime: Duration,
    pub(crate) retry: Vec<Duration>,
    pub(crate) expire: Duration,
    pub(crate) note_max: Duration,
    /// Deliveries in doubt are held.
    pub(crate) holds: bool,
    pub(crate) flips: u64,
    pub(crate) faults: u64,
    pub(crate) jumps: bool,
    pub(crate) figures: Figures,
}

impl Book {
    pub(crate) fn new(profile: &Profile) -> Self {
        Self {
            entries: BTreeMap::new(),
            ids: BTreeMap::new(),
            lost_reports: BTreeSet::new(),
            asked: None,
            wrong: None,
            life: 0,
            crashes: Vec::new(),
            downtime: Duration::ZERO,
            retry: profile.retry.clone(),
            expire: profile.expire,
            note_max: NOTE_MAX + 3 * profile.disk.slow,
            holds: profile.in_doubt == InDoubt::Hold,
            flips: 0,
            faults: 0,
            jumps: profile.clock_jumps > 0,
            figures: Figures::default(),
        }
    }

    /// Something is wrong. The first counts.
    pub(crate) fn blame(&mut self, what: String) {
        self.wrong.get_or_insert(what);
    }

    pub(crate) fn wrong(&self) -> Option<&String> {
        self.wrong.as_ref()
    }

    pub(crate) fn faults(&mut self, faults: u64) {
        self.faults = faults;
        self.figures.disk_faults = faults;
    }

    pub(crate) fn began(&mut self, token: u64, sender: &str, to: &[String], message: &[u8]) {
        self.figures.begun += 1;
        let entry = Entry {
            sender: sender.to_owned(),
            recipients: to
                .iter()
                .map(|to| (to.clone(), Recipient::default()))
                .collect(),
            order: to.to_vec(),
            message: message.to_vec(),
            fate: Fate::Open,
            touched_by_admin: false,
            wishes: Wishes::default(),
            faults_before: self.faults,
            faulted: false,
        };
        self.entries.insert(token, entry);
    }

    /// The client asked for something, at this time.
    pub(crate) fn wished(&mut self, token: u64, wishes: Wishes) {
        if let Some(entry) = self.entries.get_mut(&token) {
            entry.wishes = wishes;
        }
    }

    /// How much TLS a message needs.
    pub(crate) fn level_of(&self, token: Option<u64>) -> TlsLevel {
        match token.and_then(|token| self.entries.get(&token)) {
            Some(entry) if entry.wishes.tls => TlsLevel::Verify,
            Some(_) | None => TlsLevel::None,
        }
    }

    /// The client sent the end of the data, for these of its recipients.
    pub(crate) fn dotted(&mut self, token: u64, taken: &[usize]) {
        if let Some(entry) = self.entries.get_mut(&token) {
            let order = taken
                .iter()
                .filter_map(|&index| entry.order.get(index).cloned());
            entry.order = order.collect();
            let order = &entry.order;
            entry.recipients.retain(|to, _| order.contains(to));
        }
    }

    pub(crate) fn acknowledged(&mut self, token: u64, id: String, now: Instant) {
        self.figures.acknowledged += 1;
        self.set_fate(token, Fate::Acknowledged(now));
        match self.ids.get(&id) {
            Some(Subject::Message(other)) if *other == token => {}
            _ => self.blame(format!(
                "t{token} is acknowledged as {id}, which was never stored"
            )),
        }
    }

    pub(crate) fn refused(&mut self, token: u64) {
        self.figures.refused += 1;
        self.set_fate(token, Fate::Refused);
    }

    pub(crate) fn abandoned(&mut self, token: u64) {
        self.set_fate(token, Fate::Abandoned);
    }

    pub(crate) fn in_doubt(&mut self, token: u64) {
        self.figures.in_doubt += 1;
        self.set_fate(token, Fate::InDoubt);
    }

    fn set_fate(&mut self, token: u64, fate: Fate) {
        let faults = self.faults;
        if let Some(entry) = self.entries.get_mut(&token) {
            entry.fate = fate;
            entry.faulted = faults > entry.faults_before;
        }
        if matches!(fate, Fate::Refused | Fate::Abandoned) {
            let sent = self.entries.get(&token).is_some_and(|entry| {
                entry
                    .recipients
                    .values()
                    .any(|recipient| recipient.receptions > 0)
            });
            if sent {
                self.blame(format!(
                    "t{token} is {fate:?}, but a receiver has it already"
                ));
            }
        }
    }

    /// The engine has a message written; one without a sender is a report to its recipient.
    pub(crate) fn stored(&mut self, id: String, from: &str, to: &str) {
        let subject = match from {
            "" => token_of(to).map(Subject::Report),
            _ => token_of(from).map(Subject::Message),
        };
        if let Some(subject) = subject {
            self.ids.insert(id, subject);
        }
    }

    /// The relay died, or was stopped.
    pub(crate) fn crashed(&mut self, now: Instant) {
        self.life += 1;
        self.crashes.push(now);
        self.figures.crashes += 1;
        let (damaged, note_max) = (self.faults > 0 || self.flips > 0, self.note_max);
        for entry in self.entries.values_mut() {
            for recipient in entry.recipients.values_mut() {
                recipient.not_before = None;
                // What was not on the disk yet, or was damaged there, is forgotten.
                recipient
                    .held
                    .take_if(|at| damaged || now.since(*at) <= note_max);
            }
        }
    }

    pub(crate) fn was_down(&mut self, time: Duration) {
        self.downtime += time;
    }

    pub(crate) fn flipped(&mut self) {
        self.flips += 1;
    }

    /// An administrator did something to a message, or to many.
    pub(crate) fn touched(&mut self, id: Option<&str>) {
        let token = match id.and_then(|id| self.ids.get(id)) {
            Some(Subject::Message(token) | Subject::Report(token)) => Some(*token),
            Some(Subject::Tls(..)) => return,
            None => None,
        };
        for (number, entry) in &mut self.entries {
            if token.is_none_or(|token| token == *number) {
                entry.touched_by_admin = true;
                for recipient in entry.recipients.values_mut() {
                    recipient.not_before = None;
                    recipient.held = None;
                }
            }
        }
    }

    /// A receiver sees RCPT, on a connection of this life of the relay.
    pub(crate) fn attempted(&mut self, life: u32, from: &str, to: &str, now: Instant) {
        if life < self.life {
            return;
        }
        let Some(token) = token_of(from) else {
            return;
        };
        let extra = GRACE * (self.crashes.len() as u32) + self.downtime + SWEEP + ATTEMPT_MAX;
        let Some(entry) = self.entries.get(&token) else {
            return;
        };
        let last = entry.wishes.life(self.expire) + extra;
        let mut wrong = None;
        if let Some(early) = entry.recipients.get(to).and_then(|r| r.not_before)
            && now + Duration::from_millis(150) < early
        {
            let by = early.since(now);
            wrong = Some(format!(
                "{to} is tried {by:?} before the time that its deferral named"
            ));
        }
        if let Some((_, until)) = entry.wishes.hold
            && now + Duration::from_secs(2) < until
            && !entry.touched_by_admin
            && !self.jumps
        {
            let by = until.since(now);
            wrong = Some(format!("{to} is tried {by:?} before its release"));
        }
        if entry.recipients.get(to).is_some_and(|r| r.held.is_some()) {
            wrong = Some(format!("{to} is tried though it is held, being in doubt"));
        }
        if let Fate::Acknowledged(at) = entry.fate
            && now.since(at) > last
            && !entry.touched_by_admin
            && !self.jumps
        {
            wrong = Some(format!(
                "{to} is tried {:?} after acceptance",
                now.since(at)
            ));
        }
        if let Some(wrong) = wrong {
            self.blame(wrong);
        }
    }

    /// A receiver took a message, on a connection of this life of the relay.
    pub(crate) fn received(
        &mut self,
        life: u32,
        from: &str,
        to: &[String],
        body: &[u8],
        now: Instant,
    ) {
        self.figures.received += 1;
        if from.is_empty() && to.iter().all(|to| to.starts_with("tlsrpt@")) {
            self.figures.tls_reports += 1;
            return;
        }
        if from.is_empty() {
            return self.report_received(to, body);
        }
        let Some((token, entry)) =
            token_of(from).and_then(|token| Some((token, self.entries.get(&token)?)))
        else {
            return self.blame(format!(
                "a receiver took a message of <{from}>, whom nobody knows"
            ));
        };
        // A refusal that the broken disk did not let the store remember may come back after a crash.
        let excused = entry.faulted && !self.crashes.is_empty();
        if matches!(entry.fate, Fate::Refused | Fate::Abandoned) && !excused {
            let fate = entry.fate;
            return self.blame(format!(
                "t{token} is delivered, but its client was told {fate:?}"
            ));
        }
        if !body.ends_with(&entry.message) {
            return self.blame(format!("t{token} reaches a receiver with another content"));
        }
        for to in to {
            self.recipient_received(life, token, to, now);
        }
    }

    fn recipient_received(&mut self, life: u32, token: u64, to: &str, now: Instant) {
        let excused = self.is_again_excused(life, token, to);
        let late = life < self.life;
        let Some(recipient) = self
            .entries
            .get_mut(&token)
            .and_then(|entry| entry.recipients.get_mut(to))
        else {
            return self.blame(format!(
                "t{token} is delivered to {to}, who is no recipient of it"
            ));
        };
        recipient.receptions += 1;
        let new = Reception {
            at: now,
            life,
            confirmed: None,
            in_doubt: late,
        };
        let before = match &mut recipient.last {
            // The octets of a dead relay arrive behind those of the living one.
            Some(last) if late => Some(last.at),
            last => last.replace(new).map(|before| before.at),
        };
        if let Some(before) = before {
            self.figures.duplicates += 1;
            if !excused {
                let before = now.since(before);
                self.blame(format!(
                    "{to} receives t{token} again, {before:?} after the first time"
                ));
            }
        }
    }

    /// Whether a recipient may receive a message again.
    fn is_again_excused(&self, life: u32, token: u64, to: &str) -> bool {
        let last = self
            .entries
            .get(&token)
            .and_then(|entry| entry.recipients.get(to)?.last.as_ref());
        let crashed_after = |at: Instant, within: Option<Duration>| {
            self.crashes
                .iter()
                .any(|&crash| crash >= at && within.is_none_or(|within| crash.since(at) <= within))
        };
        match last {
            None => true,
            // It was in flight when the relay died.
            Some(_) if life < self.life => true,
            Some(last) => match last.confirmed {
                None => last.in_doubt || last.life < life,
                Some(at) => {
                    let damaged = self.faults > 0 || self.flips > 0;
                    crashed_after(at, Some(self.note_max)) || (damaged && crashed_after(at, None))
                }
            },
        }
    }
}
