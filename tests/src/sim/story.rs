//! The story of a run: its last lines for people, and a hash of all of it for replays.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

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
