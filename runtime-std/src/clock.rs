//! The two clocks of the operating system, read in one place.

use std::time::{Duration, Instant as StdInstant, SystemTime, UNIX_EPOCH};

use relay_core::time::{Instant, Now, UnixTime};

/// Reads the clocks. Copies share their origin, so that their instants compare.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: StdInstant,
}

impl Clock {
    /// A clock whose instants count from an hour before now, so that "earlier" never underflows.
    #[must_use]
    pub fn new() -> Self {
        let now = StdInstant::now();
        Self {
            origin: now.checked_sub(Duration::from_secs(3600)).unwrap_or(now),
        }
    }

    /// Both clocks, now.
    #[must_use]
    pub fn now(&self) -> Now {
        let unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Now {
            instant: Instant::from_origin(self.origin.elapsed()),
            unix: UnixTime::from_millis(u64::try_from(unix.as_millis()).unwrap_or(u64::MAX)),
        }
    }

    /// How long it is until `deadline`; zero if it passed.
    #[must_use]
    pub fn until(&self, deadline: Instant) -> Duration {
        deadline.since(Instant::from_origin(self.origin.elapsed()))
    }

    /// `deadline` as the standard library's instant, for timers.
    #[must_use]
    pub fn std_instant(&self, deadline: Instant) -> StdInstant {
        self.origin + deadline.since_origin()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}
