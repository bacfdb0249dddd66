//! Ticks: points on the monotonic clock in four octets, for what is kept of every queued message.
//!
//! A tick is a tenth of a second. Ticks count from three years before the engine started, so that
//! the birth of a message that an earlier run accepted is a tick too, and reach ten years ahead.

use std::time::Duration;

use crate::time::{Instant, Now, UnixTime};

const PER_SEC: u64 = 10;
const NANOS: u64 = 1_000_000_000 / PER_SEC;
const START: u32 = 3 * 365 * 86_400 * 10;

/// A point on the monotonic clock, in tenths of a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tick(u32);

impl Tick {
    /// Earlier than all others.
    pub(crate) const ZERO: Self = Self(0);

    /// Later than all others.
    pub(crate) const NEVER: Self = Self(u32::MAX);

    /// `wait` after this, rounded up: nothing is due before its time.
    pub(crate) fn after(self, wait: Duration) -> Self {
        let ticks = wait.as_nanos().div_ceil(u128::from(NANOS));
        Self(
            self.0
                .saturating_add(u32::try_from(ticks).unwrap_or(u32::MAX)),
        )
    }

    /// `age` before this.
    pub(crate) fn before(self, age: Duration) -> Self {
        let ticks = age.as_nanos() / u128::from(NANOS);
        Self(
            self.0
                .saturating_sub(u32::try_from(ticks).unwrap_or(u32::MAX)),
        )
    }

    /// The time from `earlier` to this; zero if `earlier` is later.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::from(self.0.saturating_sub(earlier.0)) * NANOS)
    }
}

/// Translates between ticks and the clocks that a runtime hands in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
    now: Now,
}

impl Clock {
    /// A clock whose ticks count from now.
    pub(crate) fn new(now: Now) -> Self {
        Self {
            start: now.instant,
            now,
        }
    }

    /// Moves on. The monotonic clock never goes back, whatever a caller hands in. Gives the time
    /// since the last move.
    pub(crate) fn set(&mut self, now: Now) -> Duration {
        let gap = now.instant.since(self.now.instant);
        self.now = Now {
            instant: now.instant.max(self.now.instant),
            unix: now.unix,
        };
        gap
    }

    /// Both clocks now.
    pub(crate) fn now(&self) -> Now {
        self.now
    }

    /// The last tick that has begun.
    pub(crate) fn tick(&self) -> Tick {
        let nanos = self.now.instant.since(self.start).as_nanos();
        let ticks = u32::try_from(nanos / u128::from(NANOS)).unwrap_or(u32::MAX);
        Tick(START.saturating_add(ticks))
    }

    /// When a tick begins.
    pub(crate) fn instant(&self, tick: Tick) -> Instant {
        self.start + Duration::from_nanos(u64::from(tick.0.saturating_sub(START)) * NANOS)
    }

    /// The wall-clock time of a tick, by today's difference between the clocks.
    pub(crate) fn unix(&self, tick: Tick) -> UnixTime {
        let now = self.tick();
        let millis = self.now.unix.as_millis();
        let ahead = u64::try_from(tick.since(now).as_millis()).unwrap_or(u64::MAX);
        let behind = u64::try_from(now.since(tick).as_millis()).unwrap_or(u64::MAX);
        UnixTime::from_millis(millis.saturating_add(ahead).saturating_sub(behind))
    }

    /// When the wall clock will show a time, or showed it. Never before its time.
    pub(crate) fn tick_at(&self, at: UnixTime) -> Tick {
        let now = self.now.unix;
        if at > now {
            // The last tick that has begun is up to a tick ago.
            return self
                .tick()
                .after(at.since(now) + Duration::from_nanos(NANOS));
        }
        self.tick().before(now.since(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_is_never_before_its_time() {
        let start = Now {
            instant: Instant::from_origin(Duration::from_nanos(123_456_789_012)),
            unix: UnixTime::from_secs(1_700_000_000),
        };
        let mut clock = Clock::new(start);
        let due = clock.tick().after(Duration::from_millis(250));
        clock.set(Now {
            instant: start.instant + Duration::from_millis(250),
            ..start
        });
        assert!(clock.tick() < due);
        clock.set(Now {
            instant: clock.instant(due),
            ..start
        });
        assert_eq!(clock.tick(), due);
    }

    #[test]
    fn the_monotonic_clock_does_not_go_back() {
        let start = Now {
            instant: Instant::from_origin(Duration::from_secs(50)),
            unix: UnixTime::from_secs(1_700_000_000),
        };
        let mut clock = Clock::new(start);
        let tick = clock.tick();
        clock.set(Now {
            instant: Instant::default(),
            unix: UnixTime::default(),
        });
        assert_eq!(clock.tick(), tick);
        assert_eq!(clock.unix(tick.after(Duration::from_secs(1))).as_secs(), 1);
    }
}
