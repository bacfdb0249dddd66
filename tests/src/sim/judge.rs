//! The rules about what the relay says of itself: its events, and the ages in its queue.

use std::time::Duration;

use relay_core::events::{Attempt, DeliveryEvent, EventKind};
use relay_core::time::{Instant, Now};

use super::book::{ATTEMPT_MAX, Book, Fate, GRACE, Recipient, SWEEP, Subject};
use super::text::millis;

impl Book {
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
                Some(Subject::Tls(..)) => {}
                None => self.blame(format!("{} fails, which nobody handed in", event.id)),
            },
            EventKind::Changed { change, recipients } if change == "removed" => match subject {
                Some(Subject::Message(token)) => self.removed(token, recipients),
                Some(Subject::Report(token)) => {
                    self.lost_reports.insert(token);
                }
                Some(Subject::Tls(..)) | None => {}
            },
            EventKind::Changed { .. } => self.touched(Some(&event.id)),
            EventKind::NotReported { .. }
            | EventKind::Preflight { .. }
            | EventKind::Quarantined { .. } => {}
        }
    }

    /// The addresses that an event speaks of.
    pub(crate) fn names(&self, token: u64, recipients: &[String]) -> Vec<String> {
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

    pub(crate) fn each(
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

    pub(crate) fn delivered(&mut self, token: u64, attempt: &Attempt, now: Instant) {
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

    pub(crate) fn failed(&mut self, token: u64, attempt: &Attempt) {
        let life = self.life;
        self.figures.failed += attempt.recipients.len() as u64;
        self.each(token, &attempt.recipients, |name, recipient| {
            recipient.failed = true;
            recipient.not_before = None;
            let twice = recipient.settled_in.replace(life) == Some(life);
            twice.then(|| format!("{name} is settled twice"))
        });
    }

    pub(crate) fn removed(&mut self, token: u64, recipients: &[String]) {
        let life = self.life;
        self.each(token, recipients, |name, recipient| {
            recipient.removed = true;
            let twice = recipient.settled_in.replace(life) == Some(life);
            twice.then(|| format!("{name} is settled twice"))
        });
    }

    pub(crate) fn deferred(
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
        if self.holds && in_doubt && !near_end {
            self.blame(format!("t{token} is in doubt, and not held"));
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
    pub(crate) fn held(&mut self, token: u64, attempt: &Attempt, in_doubt: bool, now: Instant) {
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
    pub(crate) fn near_end(&self, token: u64, at: Instant) -> bool {
        let Some(Fate::Acknowledged(accepted)) = self.entries.get(&token).map(|e| e.fate) else {
            return true;
        };
        let age = at.since(accepted);
        let life = self
            .entries
            .get(&token)
            .map_or(self.expire, |entry| entry.wishes.life(self.expire));
        age + Duration::from_secs(10) + GRACE * (self.crashes.len() as u32) >= life
            || self.jumps
            || self
                .entries
                .get(&token)
                .is_some_and(|entry| entry.touched_by_admin)
    }

    /// At a check: nothing that is not held is much older than its time.
    pub(crate) fn check_ages(&mut self, queued: &[(String, bool)], now: Instant) {
        // After a restart a message is as old as the wall clock says: by design, one that went back
        // makes it new. A flipped bit may undo the note of its end: then a restart finds it again, as of a
        // machine that stood still.
        if self.jumps || self.flips > 0 {
            return;
        }
        let extra = GRACE * (self.crashes.len() as u32) + self.downtime + SWEEP + ATTEMPT_MAX;
        for (id, held) in queued {
            let Some(Subject::Message(token)) = self.ids.get(id) else {
                continue;
            };
            let Some(entry) = self.entries.get(token) else {
                continue;
            };
            if let (false, Fate::Acknowledged(at)) = (*held || entry.touched_by_admin, entry.fate)
                && now.since(at) > entry.wishes.life(self.expire) + extra
            {
                let age = now.since(at);
                return self.blame(format!("{id} is in the queue {age:?} after its acceptance"));
            }
        }
    }
}
