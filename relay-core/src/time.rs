//! Time as the cores see it: values that a runtime hands in. No core reads a clock.

use std::ops::{Add, Sub};
use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822;

/// A point on a monotonic clock, in nanoseconds since an origin that the runtime chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

impl Instant {
    /// A point `since_origin` after the clock's origin.
    #[must_use]
    pub fn from_origin(since_origin: Duration) -> Self {
        Self(u64::try_from(since_origin.as_nanos()).unwrap_or(u64::MAX))
    }

    /// How far this is after the clock's origin.
    #[must_use]
    pub fn since_origin(self) -> Duration {
        Duration::from_nanos(self.0)
    }

    /// The time from `earlier` to this; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        let nanos = u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, rhs: Duration) -> Self {
        let nanos = u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(nanos))
    }
}

/// A wall-clock time, in milliseconds since 1970-01-01T00:00:00Z without leap seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixTime(u64);

impl UnixTime {
    /// From milliseconds since the epoch.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// From whole seconds since the epoch.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the epoch.
    #[must_use]
    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// The time from `earlier` to this; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl UnixTime {
    /// As headers write it, in UTC: `Mon, 23 Nov 2026 22:05:31 +0000`. RFC 5322 §3.3.
    ///
    /// ```
    /// use relay_core::time::UnixTime;
    ///
    /// let time = UnixTime::from_secs(1_795_471_531);
    /// assert_eq!(time.to_rfc5322(), "Mon, 23 Nov 2026 22:05:31 +0000");
    /// ```
    #[must_use]
    pub fn to_rfc5322(self) -> String {
        let printed = rfc2822::DateTimePrinter::new().timestamp_to_string(&self.timestamp());
        // "-0000" would say that the zone is not known. RFC 5322 §3.3.
        printed.unwrap_or_default().replace("-0000", "+0000")
    }

    /// As programs read it, in UTC with milliseconds: `2026-11-23T22:05:31.000Z`. RFC 3339 §5.6.
    ///
    /// ```
    /// use relay_core::time::UnixTime;
    ///
    /// let time = UnixTime::from_millis(1_795_471_531_007);
    /// assert_eq!(time.to_rfc3339(), "2026-11-23T22:05:31.007Z");
    /// ```
    #[must_use]
    pub fn to_rfc3339(self) -> String {
        format!("{:.3}", self.timestamp())
    }

    /// The last representable time stands for all after it: the end of the year 9999.
    fn timestamp(self) -> Timestamp {
        i64::try_from(self.0)
            .ok()
            .and_then(|millis| Timestamp::from_millisecond(millis).ok())
            .unwrap_or(Timestamp::MAX)
    }
}

impl Add<Duration> for UnixTime {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        let millis = u64::try_from(rhs.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }
}

/// The two clocks at one moment. Timers run on `instant`; `unix` is for what people and records read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The monotonic clock.
    pub instant: Instant,
    /// The wall clock. It may jump.
    pub unix: UnixTime,
}
