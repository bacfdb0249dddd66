//! Virtual time: what happens when, and the dice that decide it.

use std::collections::BTreeMap;
use std::time::Duration;

use relay_core::rng::Rng;
use relay_core::time::Instant;

/// The events to come, in order. Time passes only when one is taken out.
#[derive(Debug)]
pub(crate) struct Agenda<E> {
    now: Instant,
    next: u64,
    events: BTreeMap<Slot, E>,
}

/// The place of an event in the agenda, to cancel it by. Events of one time keep their order.
pub(crate) type Slot = (Instant, u64);

impl<E> Agenda<E> {
    pub(crate) fn new() -> Self {
        Self {
            // Machines subtract from times; an origin in the past leaves room for that.
            now: Instant::from_origin(Duration::from_secs(1_000_000)),
            next: 0,
            events: BTreeMap::new(),
        }
    }

    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    pub(crate) fn at(&mut self, when: Instant, event: E) -> Slot {
        let slot = (when.max(self.now), self.next);
        self.next += 1;
        self.events.insert(slot, event);
        slot
    }

    pub(crate) fn after(&mut self, wait: Duration, event: E) -> Slot {
        self.at(self.now + wait, event)
    }

    pub(crate) fn cancel(&mut self, slot: Slot) {
        self.events.remove(&slot);
    }

    /// The next event; it is its time now.
    pub(crate) fn pop(&mut self) -> Option<E> {
        let ((when, _), event) = self.events.pop_first()?;
        self.now = self.now.max(when);
        Some(event)
    }
}

/// What a world asks of its dice.
pub(crate) trait Dice {
    /// True so many times in a thousand.
    fn chance(&mut self, per_mille: u64) -> bool;
    /// A number from `low` to `high`, both included.
    fn range(&mut self, low: u64, high: u64) -> u64;
    /// One of these.
    fn pick<T: Copy>(&mut self, of: &[T]) -> T;
    /// A time between these two; short ones are as likely as long ones, by order of magnitude.
    fn time(&mut self, low: Duration, high: Duration) -> Duration;
}

impl Dice for Rng {
    fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).unwrap_or(0)]
    }

    fn time(&mut self, low: Duration, high: Duration) -> Duration {
        let (low, high) = (
            low.as_micros().max(1) as u64,
            high.as_micros().max(1) as u64,
        );
        let mut top = low;
        while top < high && self.chance(700) {
            top = top.saturating_mul(2).min(high);
        }
        Duration::from_micros(self.range(low, top))
    }
}
