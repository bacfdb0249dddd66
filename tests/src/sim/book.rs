//! The book: what the relay promised, what receivers took, what the events say; and the rules between.
//!
//! Rules are checked as entries are made, so that a run stops at the first event that breaks one. What
//! only the end can tell (nothing is lost, nothing bounced in silence) is checked when the queue has
//! drained.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use relay_core::config::InDoubt;
use relay_core::events::{Attempt, DeliveryEvent, EventKind};
use relay_core::time::{Instant, Now};

use super::profile::Profile;

/// A note may be this far from the disk when the process dies. The store syncs notes every second.
const NOTE_MAX: Duration = Duration::from_secs(5);
/// An attempt may take this long: every timer of RFC 5321 §4.5.3.2, one after another.
const ATTEMPT_MAX: Duration = Duration::from_secs(40 * 60);
/// A restart gives every message up to this much more time.
const GRACE: Duration = Duration::from_secs(3700);
/// Between the deadline and the sweep that sees it.
const SWEEP: Duration = Duration::from_secs(130);

/// What a client knows of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
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
struct Entry {
    recipients: BTreeMap<String, Recipient>,
    /// In the order of the envelope.
    order: Vec<String>,
    message: Vec<u8>,
    fate: Fate,
    touched_by_admin: bool,
    /// The disk failed between its beginning and its answer.
    faults_before: u64,
    faulted: bool,
}

#[derive(Debug, Default)]
struct Recipient {
    receptions: u32,
    last: Option<Reception>,
    /// Settled by this life of the relay.
    settled_in: Option<u32>,
    delivered: bool,
    failed: bool,
    removed: bool,
    reported: bool,
    /// No attempt before.
    not_before: Option<Instant>,
    /// Held since then, because it is in doubt: no attempt before somebody releases it.
    held: Option<Instant>,
}

#[derive(Debug)]
struct Reception {
    at: Instant,
    /// Of the relay, when the connection was opened.
    life: u32,
    /// The relay said that it knows.
    confirmed: Option<Instant>,
    /// The relay said that it does not know.
    in_doubt: bool,
}

/// What a message id stands for.
#[derive(Debug, Clone)]
enum Subject {
    Message(u64),
    /// A report about a message.
    Report(u64),
}

/// What a run counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Transactions that clients began.
    pub begun: u64,
    /// Those with a 250.
    pub acknowledged: u64,
    /// Those refused.
    pub refused: u64,
    /// Those whose answer never came.
    pub in_doubt: u64,
    /// Messages that receivers took, reports included.
    pub received: u64,
    /// Recipients delivered more than once, with an excuse.
    pub duplicates: u64,
    /// Recipients bounced or expired.
    pub failed: u64,
    /// Reports that receivers took.
    pub reports: u64,
    /// Times that the relay died.
    pub crashes: u64,
    /// Recipients held because their delivery was in doubt.
    pub held: u64,
    /// Calls of the disk that failed.
    pub disk_faults: u64,
}

/// The ledger and the rules.
#[derive(Debug)]
pub(crate) struct Book {
    entries: BTreeMap<u64, Entry>,
    ids: BTreeMap<String, Subject>,
    lost_reports: BTreeSet<u64>,
    /// The last message that a receiver asked to wait with, and until when.
    asked: Option<(u64, u64)>,
    wrong: Option<String>,
    life: u32,
    crashes: Vec<Instant>,
    downtime: Duration,
    retry: Vec<Duration>,
    expire: Duration,
    note_max: Duration,
    /// Deliveries in doubt are held.
    holds: bool,
    flips: u64,
    faults: u64,
    jumps: bool,
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

    pub(crate) fn began(&mut self, token: u64, to: &[String], message: &[u8]) {
        self.figures.begun += 1;
        let entry = Entry {
            recipients: to
                .iter()
                .map(|to| (to.clone(), Recipient::default()))
                .collect(),
            order: to.to_vec(),
            message: message.to_vec(),
            fate: Fate::Open,
            touched_by_admin: false,
            faults_before: self.faults,
            faulted: false,
        };
        self.entries.insert(token, entry);
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
        let last = self.expire + extra;
        let Some(entry) = self.entries.get(&token) else {
            return;
        };
        let mut wrong = None;
        if let Some(early) = entry.recipients.get(to).and_then(|r| r.not_before)
            && now + Duration::from_millis(150) < early
        {
            let by = early.since(now);
            wrong = Some(format!(
                "{to} is tried {by:?} before the time that its deferral named"
            ));
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

    /// A report of the relay arrived at the sender.
    fn report_received(&mut self, to: &[String], body: &[u8]) {
        self.figures.reports += 1;
        let text = String::from_utf8_lossy(body);
        for to in to {
            let Some(entry) = token_of(to).and_then(|token| self.entries.get_mut(&token)) else {
                return self.blame(format!("a report arrives at {to}, who sent nothing"));
            };
            let mut about = None;
            for line in text.lines() {
                if let Some(rest) = line.strip_prefix("Final-Recipient:") {
                    about = rest.split(';').nth(1).map(str::trim);
                }
                let failed = line.strip_prefix("Action:").map(str::trim) == Some("failed");
                if let (true, Some(about)) = (failed, about)
                    && let Some(recipient) = entry.recipients.get_mut(about)
                {
                    recipient.reported = true;
                }
            }
        }
    }

    /// An event of the relay.
    pub(crate) fn event(&mut self, event: &DeliveryEvent, now: Now) {
        let subject = self.ids.get(&event.id).cloned();
        match &event.kind {
            EventKind::Accepted {
                about: Some(about), ..
            } => {
                if let Some(Subject::Message(token) | Subject::Report(token)) = self.ids.get(about)
                {
                    self.ids.insert(event.id.clone(), Subject::Report(*token));
                }
            }
            EventKind::Accepted { .. } => {}
            EventKind::Delivered(attempt) => {
                if let Some(Subject::Message(token)) = subject {
                    self.delivered(token, attempt, now.instant);
                }
            }
            EventKind::Deferred {
                attempt,
                next,
                in_doubt,
            } => {
                if let Some(Subject::Message(token)) = subject {
                    match next {
                        Some(next) => {
                            self.deferred(token, attempt, (&event.time, next), *in_doubt, now);
                        }
                        None => self.held(token, attempt, *in_doubt, now.instant),
                    }
                }
            }
            EventKind::Bounced(attempt) | EventKind::Expired(attempt) => match subject {
                Some(Subject::Message(token)) => self.failed(token, attempt),
                Some(Subject::Report(token)) => {
                    self.lost_reports.insert(token);
                }
                None => self.blame(format!("{} fails, which nobody handed in", event.id)),
            },
            EventKind::Changed { change, recipients } if change == "removed" => match subject {
                Some(Subject::Message(token)) => self.removed(token, recipients),
                Some(Subject::Report(token)) => {
                    self.lost_reports.insert(token);
                }
                None => {}
            },
            EventKind::Changed { .. } => self.touched(Some(&event.id)),
            EventKind::NotReported { .. } | EventKind::Preflight { .. } => {}
        }
    }

    /// The addresses that an event speaks of.
    fn names(&self, token: u64, recipients: &[String]) -> Vec<String> {
        let Some(entry) = self.entries.get(&token) else {
            return Vec::new();
        };
        let name = |text: &String| match text.strip_prefix('#') {
            Some(numbered) => {
                let index: usize = numbered.split('@').next()?.parse().ok()?;
                entry.order.get(index).cloned()
            }
            None => Some(text.clone()),
        };
        recipients.iter().filter_map(name).collect()
    }

    fn each(
        &mut self,
        token: u64,
        recipients: &[String],
        mut check: impl FnMut(&str, &mut Recipient) -> Option<String>,
    ) {
        for name in self.names(token, recipients) {
            let Some(recipient) = self
                .entries
                .get_mut(&token)
                .and_then(|e| e.recipients.get_mut(&name))
            else {
                return self.blame(format!(
                    "an event of t{token} names {name}, no recipient of it"
                ));
            };
            if let Some(wrong) = check(&name, recipient) {
                self.blame(format!("t{token}: {wrong}"));
            }
        }
    }

    fn delivered(&mut self, token: u64, attempt: &Attempt, now: Instant) {
        let life = self.life;
        self.each(token, &attempt.recipients, |name, recipient| {
            recipient.delivered = true;
            recipient.not_before = None;
            let twice = recipient.settled_in.replace(life) == Some(life);
            match &mut recipient.last {
                _ if twice => Some(format!("{name} is settled twice")),
                Some(last) if last.confirmed.is_none() => {
                    last.confirmed = Some(now);
                    None
                }
                Some(_) | None => Some(format!(
                    "{name} is said to be delivered, but no receiver took it"
                )),
            }
        });
    }

    fn failed(&mut self, token: u64, attempt: &Attempt) {
        let life = self.life;
        self.figures.failed += attempt.recipients.len() as u64;
        self.each(token, &attempt.recipients, |name, recipient| {
            recipient.failed = true;
            recipient.not_before = None;
            let twice = recipient.settled_in.replace(life) == Some(life);
            twice.then(|| format!("{name} is settled twice"))
        });
    }

    fn removed(&mut self, token: u64, recipients: &[String]) {
        let life = self.life;
        self.each(token, recipients, |name, recipient| {
            recipient.removed = true;
            let twice = recipient.settled_in.replace(life) == Some(life);
            twice.then(|| format!("{name} is settled twice"))
        });
    }

    fn deferred(
        &mut self,
        token: u64,
        attempt: &Attempt,
        (time, next): (&str, &str),
        in_doubt: bool,
        now: Now,
    ) {
        let (Some(time), Some(next)) = (millis(time), millis(next)) else {
            return self.blame(format!("no times: {time} {next}"));
        };
        let wait = Duration::from_millis(next.saturating_sub(time));
        // What one group was asked to wait, its whole job waits.
        let asked = attempt.reason.text.contains("30 seconds")
            || attempt.reason.text.contains("5 minutes")
            || self.asked == Some((token, next));
        if asked {
            self.asked = Some((token, next));
        }
        let crowded = attempt.reason.code == Some(452) && attempt.reason.status == "4.5.3";
        let index = (attempt.attempt.max(1) as usize - 1).min(self.retry.len() - 1);
        let step = self.retry[index];
        let near_end = self.near_end(token, now.instant + wait);
        let early = wait + Duration::from_millis(200) < step * 9 / 10;
        let late = wait > step * 11 / 10 + Duration::from_millis(400);
        if !asked && !crowded && ((early && !near_end) || late) {
            self.blame(format!(
                "t{token} waits {wait:?} after attempt {}, where the schedule says {step:?}",
                attempt.attempt
            ));
        }
        let not_before = now.instant + wait;
        self.each(token, &attempt.recipients, |_, recipient| {
            recipient.not_before = Some(not_before);
            if let Some(last) = &mut recipient.last
                && last.confirmed.is_none()
            {
                last.in_doubt |= in_doubt;
            }
            None
        });
    }

    /// A delivery in doubt is held.
    fn held(&mut self, token: u64, attempt: &Attempt, in_doubt: bool, now: Instant) {
        let allowed = self.holds && in_doubt;
        self.figures.held += attempt.recipients.len() as u64;
        self.each(token, &attempt.recipients, |name, recipient| {
            recipient.held = Some(now);
            recipient.not_before = None;
            if let Some(last) = &mut recipient.last
                && last.confirmed.is_none()
            {
                last.in_doubt = true;
            }
            (!allowed).then(|| format!("{name} is held, which nobody asked for"))
        });
    }

    /// Whether a message's deadline may be at this time.
    fn near_end(&self, token: u64, at: Instant) -> bool {
        let Some(Fate::Acknowledged(accepted)) = self.entries.get(&token).map(|e| e.fate) else {
            return true;
        };
        let age = at.since(accepted);
        age + Duration::from_secs(10) + GRACE * (self.crashes.len() as u32) >= self.expire
            || self.jumps
            || self
                .entries
                .get(&token)
                .is_some_and(|entry| entry.touched_by_admin)
    }

    /// At a check: nothing that is not held is much older than its time.
    pub(crate) fn check_ages(&mut self, queued: &[(String, bool)], now: Instant) {
        // After a restart a message is as old as the wall clock says: by design, one that went back
        // makes it new.
        if self.jumps {
            return;
        }
        let most =
            self.expire + GRACE * (self.crashes.len() as u32) + self.downtime + SWEEP + ATTEMPT_MAX;
        for (id, held) in queued {
            let Some(Subject::Message(token)) = self.ids.get(id) else {
                continue;
            };
            let Some(entry) = self.entries.get(token) else {
                continue;
            };
            if let (false, Fate::Acknowledged(at)) = (*held || entry.touched_by_admin, entry.fate)
                && now.since(at) > most
            {
                let age = now.since(at);
                return self.blame(format!("{id} is in the queue {age:?} after its acceptance"));
            }
        }
    }

    /// The queue is empty: every promise was kept.
    pub(crate) fn settle(&mut self) {
        let mut lost = Vec::new();
        let mut silent = Vec::new();
        for (token, entry) in &self.entries {
            if !matches!(entry.fate, Fate::Acknowledged(_)) {
                continue;
            }
            for (name, recipient) in &entry.recipients {
                if recipient.receptions > 0 || recipient.removed {
                    continue;
                }
                if recipient.reported || self.lost_reports.contains(token) {
                    continue;
                }
                if recipient.failed {
                    silent.push(format!("t{token} {name}"));
                } else {
                    lost.push(*token);
                }
            }
        }
        lost.dedup();
        if let Some(token) = lost.first().filter(|_| lost.len() as u64 > self.flips) {
            self.blame(format!(
                "t{token} was acknowledged and is lost: no receiver, no report, not in the queue \
                 ({} in all)",
                lost.len()
            ));
        }
        if let Some(which) = silent.first().filter(|_| silent.len() as u64 > self.flips) {
            self.blame(format!("{which} failed, and its sender was never told"));
        }
    }
}

/// The number in `tNUMBER@…`.
pub(crate) fn token_of(address: &str) -> Option<u64> {
    let (local, _) = address.split_once('@')?;
    local
        .trim_start_matches('<')
        .strip_prefix('t')?
        .parse()
        .ok()
}

/// An RFC 3339 time with milliseconds, in UTC, as milliseconds since 1970.
pub(crate) fn millis(text: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    // Howard Hinnant's days_from_civil: years that begin in March, in eras of 400.
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let yoe = y - era * 400;
    let doy = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468;
    let secs = days * 86_400 + number(11..13)? * 3600 + number(14..16)? * 60 + number(17..19)?;
    u64::try_from(secs * 1000 + number(20..23)?).ok()
}

#[cfg(test)]
mod tests {
    use relay_core::time::UnixTime;

    #[test]
    fn times_read_back() {
        for at in [0, 951_782_400_123, 1_795_471_531_007, 4_102_444_799_999] {
            assert_eq!(
                super::millis(&UnixTime::from_millis(at).to_rfc3339()),
                Some(at)
            );
        }
    }
}
