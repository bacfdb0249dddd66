//! The story of a run: its last lines for people, and a hash of all of it for replays.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use relay_core::events::{DeliveryEvent, EventKind};

use super::world::World;

/// Lines that are kept.
const KEPT: usize = 60;

/// What happened, line by line.
#[derive(Debug)]
pub(crate) struct Story {
    lines: VecDeque<String>,
    hash: u64,
    count: u64,
    /// Print every line as it happens.
    pub(crate) aloud: bool,
}

impl Story {
    pub(crate) fn new() -> Self {
        Self {
            lines: VecDeque::new(),
            hash: 0xcbf2_9ce4_8422_2325,
            count: 0,
            aloud: false,
        }
    }

    #[allow(clippy::print_stderr, reason = "a replay is watched on a terminal")]
    pub(crate) fn tell(&mut self, at: Duration, what: fmt::Arguments<'_>) {
        let secs = at.as_secs();
        let line = format!(
            "{:>3}:{:02}:{:02}.{:06}  {what}",
            secs / 3600,
            secs / 60 % 60,
            secs % 60,
            at.subsec_micros()
        );
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.count += 1;
        if self.aloud {
            eprintln!("{line}");
        }
        if self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The last lines.
    pub(crate) fn end(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }
}

impl World {
    pub(crate) fn tell(&mut self, what: fmt::Arguments<'_>) {
        let at = self
            .agenda
            .now()
            .since_origin()
            .saturating_sub(Duration::from_secs(1_000_000));
        self.story.tell(at, what);
    }

    pub(crate) fn tell_event(&mut self, event: &DeliveryEvent) {
        let id = &event.id;
        match &event.kind {
            EventKind::Accepted { from, about, .. } => {
                self.tell(format_args!(
                    "{id} accepted from <{from}> {}",
                    about.as_deref().unwrap_or("")
                ));
            }
            EventKind::Delivered(attempt) => {
                self.tell(format_args!(
                    "{id} delivered to {}",
                    attempt.recipients.join(" ")
                ));
            }
            EventKind::Deferred {
                attempt,
                next,
                in_doubt,
            } => {
                let doubt = if *in_doubt { ", in doubt" } else { "" };
                let (to, reason) = (attempt.recipients.join(" "), &attempt.reason);
                let nr = attempt.attempt;
                let next = next.as_deref().unwrap_or("it is released");
                self.tell(format_args!(
                    "{id} attempt {nr} for {to} until {next}{doubt}: {} {}",
                    reason.rule, reason.text
                ));
            }
            EventKind::Bounced(attempt) | EventKind::Expired(attempt) => {
                let (to, reason) = (attempt.recipients.join(" "), &attempt.reason);
                self.tell(format_args!(
                    "{id} fails for {to}: {} {}",
                    reason.rule, reason.text
                ));
            }
            EventKind::Changed { change, .. } => self.tell(format_args!("{id} {change}")),
            EventKind::Preflight { .. } | EventKind::Quarantined { .. } => {}
            EventKind::NotReported { why } => self.tell(format_args!("{id} not reported: {why}")),
        }
    }
}
