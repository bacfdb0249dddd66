//! Rates: so many in so long, for each address or name, in one instant of memory each.
//!
//! A key's bucket is kept as the time at which it will be full again (the generic cell rate algorithm
//! of ITU-T I.371): a full bucket needs no memory, and is forgotten.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use crate::config::Rate;
use crate::rng::Rng;
use crate::time::Instant;

/// Keys that are remembered at once.
const KEYS_MAX: usize = 65_536;

/// What stands for a client in limits: its IPv4 address, or its IPv6 /64, which is one site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Site(IpAddr);

impl Site {
    pub(super) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self(IpAddr::V4(v4)),
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments();
                Self(IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)))
            }
        }
    }
}

/// A bucket of tokens for each key.
#[derive(Debug)]
pub(super) struct Limiter<K> {
    full_at: BTreeMap<K, Instant>,
    tidied: Instant,
}

impl<K: Ord + Clone> Limiter<K> {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            full_at: BTreeMap::new(),
            tidied: now,
        }
    }

    /// How long to wait for the next token; none if there is one now.
    pub(super) fn wait(&self, key: &K, rate: Rate, now: Instant) -> Option<Duration> {
        let full_at = self.full_at.get(key).copied().unwrap_or(now).max(now);
        let wait = (full_at + interval(rate))
            .since(now)
            .saturating_sub(rate.per);
        (!wait.is_zero()).then_some(wait)
    }

    /// How many tokens there are now.
    pub(super) fn left(&self, key: &K, rate: Rate, now: Instant) -> u32 {
        let full_at = self.full_at.get(key).copied().unwrap_or(now);
        let room = rate.per.saturating_sub(full_at.since(now));
        let left = room.as_nanos() / interval(rate).as_nanos().max(1);
        u32::try_from(left).unwrap_or(u32::MAX).min(rate.count)
    }

    /// Takes a token.
    ///
    /// # Errors
    /// How long to wait for one, if there is none.
    pub(super) fn take(
        &mut self,
        key: &K,
        rate: Rate,
        now: Instant,
        rng: &mut Rng,
    ) -> Result<(), Duration> {
        if let Some(wait) = self.wait(key, rate, now) {
            return Err(wait);
        }
        match self.full_at.get_mut(key) {
            Some(full_at) => *full_at = (*full_at).max(now) + interval(rate),
            None => {
                self.make_room(now, rng);
                self.full_at.insert(key.clone(), now + interval(rate));
            }
        }
        Ok(())
    }

    /// Puts a token back.
    pub(super) fn give_back(&mut self, key: &K, rate: Rate) {
        if let Some(full_at) = self.full_at.get_mut(key) {
            *full_at = *full_at - interval(rate);
        }
    }

    /// Forgets full buckets; if that does not help, one bucket in the neighbourhood of a random one.
    fn make_room(&mut self, now: Instant, rng: &mut Rng) {
        if self.full_at.len() < KEYS_MAX {
            return;
        }
        if now.since(self.tidied) >= Duration::from_secs(1) {
            self.tidied = now;
            self.full_at.retain(|_, full_at| *full_at > now);
        }
        if self.full_at.len() >= KEYS_MAX {
            let skip = usize::try_from(rng.below(64)).unwrap_or(0);
            let victim = if rng.below(2) == 0 {
                self.full_at.keys().nth(skip).cloned()
            } else {
                self.full_at.keys().rev().nth(skip).cloned()
            };
            if let Some(victim) = victim {
                self.full_at.remove(&victim);
            }
        }
    }
}

/// One token comes back after this.
fn interval(rate: Rate) -> Duration {
    rate.per / rate.count.max(1)
}

/// A time to wait, in words, rounded up: `40 seconds`, `5 minutes`, `2 hours`.
pub(super) fn in_words(wait: Duration) -> String {
    let secs = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    let (count, unit) = match secs {
        0..=119 => (secs.max(1), "second"),
        120..=7199 => (secs.div_ceil(60), "minute"),
        _ => (secs.div_ceil(3600), "hour"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate {
        count: 10,
        per: Duration::from_secs(600),
    };

    fn at(secs: u64) -> Instant {
        Instant::from_origin(Duration::from_secs(secs))
    }

    #[test]
    fn a_burst_then_one_at_a_time() {
        let mut rng = Rng::from_number(1);
        let mut limiter = Limiter::new(at(0));
        for left in (0..10).rev() {
            assert_eq!(limiter.take(&1, RATE, at(5), &mut rng), Ok(()));
            assert_eq!(limiter.left(&1, RATE, at(5)), left);
        }
        assert_eq!(
            limiter.take(&1, RATE, at(5), &mut rng),
            Err(Duration::from_secs(60))
        );
        assert_eq!(
            limiter.take(&2, RATE, at(5), &mut rng),
            Ok(()),
            "keys are apart"
        );
        assert_eq!(
            limiter.wait(&1, RATE, at(45)),
            Some(Duration::from_secs(20))
        );
        assert_eq!(limiter.take(&1, RATE, at(65), &mut rng), Ok(()));
        assert!(limiter.take(&1, RATE, at(65), &mut rng).is_err());
        limiter.give_back(&1, RATE);
        assert_eq!(limiter.wait(&1, RATE, at(65)), None);
        assert_eq!(limiter.left(&1, RATE, at(5000)), 10);
    }

    #[test]
    fn memory_is_bounded() {
        let mut rng = Rng::from_number(1);
        let mut limiter = Limiter::new(at(0));
        for key in 0..KEYS_MAX + 1000 {
            assert_eq!(limiter.take(&key, RATE, at(5), &mut rng), Ok(()));
        }
        assert_eq!(limiter.full_at.len(), KEYS_MAX);
        assert_eq!(limiter.take(&usize::MAX, RATE, at(100), &mut rng), Ok(()));
        assert_eq!(limiter.full_at.len(), 1, "full buckets are forgotten");
    }

    #[test]
    fn a_site_is_an_ipv4_address_or_an_ipv6_64() {
        let site = |text: &str| Site::of(text.parse().unwrap());
        assert_eq!(site("2001:db8:1:2::1"), site("2001:db8:1:2:ffff::9"));
        assert_ne!(site("2001:db8:1:2::1"), site("2001:db8:1:3::1"));
        assert_eq!(site("::ffff:192.0.2.1"), site("192.0.2.1"));
        assert_ne!(site("192.0.2.1"), site("192.0.2.2"));
    }

    #[test]
    fn waits_in_words() {
        for (millis, words) in [
            (0, "1 second"),
            (900, "1 second"),
            (40_000, "40 seconds"),
            (119_500, "2 minutes"),
            (7_190_000, "120 minutes"),
            (7_200_001, "3 hours"),
        ] {
            assert_eq!(in_words(Duration::from_millis(millis)), words);
        }
    }
}
