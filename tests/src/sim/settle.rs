//! The end of the book: what senders were told, and whether every promise was kept.

use std::time::Duration;

use smtp_proto::ByMode;

use super::book::{ATTEMPT_MAX, Book, Fate, GRACE, SWEEP};
use super::text::token_of;

impl Book {
    /// A report of the relay arrived at the sender.
    pub(crate) fn report_received(&mut self, to: &[String], body: &[u8]) {
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
                let action = line.strip_prefix("Action:").map(str::trim);
                if let Some(about) = about
                    && let Some(recipient) = entry.recipients.get_mut(about)
                {
                    recipient.reported |= action == Some("failed");
                    recipient.delay_reported |= action == Some("delayed");
                }
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
        if let Some(which) = self.late_and_silent() {
            self.blame(format!("{which} was late, and its sender was never told"));
        }
        if let Some(which) = silent.first().filter(|_| silent.len() as u64 > self.flips) {
            self.blame(format!("{which} failed, and its sender was never told"));
        }
    }

    /// RFC 2852 §4.1.3: the sender of what is still on its way at its time, and is to be told, is told.
    fn late_and_silent(&self) -> Option<String> {
        let extra = GRACE * (self.crashes.len() as u32) + self.downtime + SWEEP + ATTEMPT_MAX;
        if self.jumps || self.holds || self.flips > 0 {
            return None;
        }
        self.entries.iter().find_map(|(token, entry)| {
            let Fate::Acknowledged(at) = entry.fate else {
                return None;
            };
            let (secs, ByMode::Notify) = entry.wishes.by? else {
                return None;
            };
            let excused = entry.touched_by_admin || self.lost_reports.contains(token);
            let last = Duration::from_secs(secs.into()) + extra;
            entry.recipients.iter().find_map(|(name, recipient)| {
                let taken = recipient.last.as_ref()?.at;
                let late = recipient.receptions == 1 && taken.since(at) > last;
                (late && !excused && !recipient.delay_reported).then(|| format!("t{token} {name}"))
            })
        })
    }
}
