//! When a job is tried again: the retry steps with their jitter, what a receiver asked for, the timers.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::tick::Tick;
use crate::rng::Rng;

/// The longest wait that a receiver's "try again in" is granted.
pub(crate) const ASKED_MAX: Duration = Duration::from_secs(4 * 3600);
/// The shortest, or the step of the schedule if that is shorter.
const ASKED_MIN: Duration = Duration::from_secs(60);

/// How long to wait after attempt number `attempt` (from 1).
///
/// The step of the schedule, ±10 %, so that what failed together does not come back together. If the
/// receiver named a time, that time, within bounds, and up to 10 % more: never before it.
pub(crate) fn wait_after(
    steps: &[Duration],
    attempt: u32,
    asked: Option<Duration>,
    rng: &mut Rng,
) -> Duration {
    match asked {
        Some(asked) => {
            let shortest = ASKED_MIN.min(step_after(steps, attempt));
            let asked = asked.clamp(shortest, ASKED_MAX);
            asked + part(asked, 10, rng)
        }
        None => {
            let step = step_after(steps, attempt);
            step - step / 10 + part(step, 5, rng)
        }
    }
}

/// The step of the schedule after attempt number `attempt` (from 1); the last one repeats.
pub(crate) fn step_after(steps: &[Duration], attempt: u32) -> Duration {
    let index = usize::try_from(attempt.saturating_sub(1)).unwrap_or(usize::MAX);
    steps
        .get(index)
        .or(steps.last())
        .copied()
        .unwrap_or(Duration::from_secs(60))
}

/// A random part of a duration, from nothing to its `divisor`-th.
pub(crate) fn part(of: Duration, divisor: u32, rng: &mut Rng) -> Duration {
    let nanos = u64::try_from((of / divisor).as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(rng.below(nanos.saturating_add(1)))
}

/// When which job is due, as a heap of eight octets an entry.
///
/// An entry is not taken out when its job changes: it is judged when it comes up, and the heap is
/// built anew when most of it is out of date.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Tick, u32)>>,
}

impl Timers {
    pub(crate) fn set(&mut self, due: Tick, job: u32) {
        self.heap.push(Reverse((due, job)));
    }

    /// What the heap takes of the heap.
    #[cfg(test)]
    pub(crate) fn heap_bytes(&self) -> usize {
        self.heap.capacity() * size_of::<Reverse<(Tick, u32)>>()
    }

    /// When the next entry comes up.
    pub(crate) fn next(&self) -> Option<Tick> {
        self.heap.peek().map(|Reverse((due, _))| *due)
    }

    /// Takes the next entry out, if its time has come.
    pub(crate) fn pop(&mut self, now: Tick) -> Option<(Tick, u32)> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }

    /// Forgets entries that are out of date, if there are many more of them than `waiting` jobs.
    pub(crate) fn tidy(&mut self, waiting: usize, is_current: impl Fn(Tick, u32) -> bool) {
        if self.heap.len() > 2 * waiting + 1024 {
            self.heap
                .retain(|Reverse((due, job))| is_current(*due, *job));
            self.heap.shrink_to(2 * waiting);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn waits_follow_the_steps_with_a_jitter_of_a_tenth() {
        let steps = [MINUTE, 5 * MINUTE];
        let mut rng = Rng::from_number(1);
        let mut seen = std::collections::BTreeSet::new();
        for attempt in 1..100 {
            let step = if attempt == 1 { MINUTE } else { 5 * MINUTE };
            let wait = wait_after(&steps, attempt, None, &mut rng);
            assert!(
                wait >= step * 9 / 10 && wait <= step * 11 / 10,
                "{attempt}: {wait:?}"
            );
            seen.insert(wait);
        }
        assert!(seen.len() > 90, "they differ");
    }

    #[test]
    fn a_receiver_is_not_tried_before_the_time_that_it_named() {
        let mut rng = Rng::from_number(1);
        for (asked, least) in [(600, 600), (0, 60), (86_400 * 30, 4 * 3600)] {
            let asked = Some(Duration::from_secs(asked));
            let wait = wait_after(&[MINUTE], 1, asked, &mut rng);
            let least = Duration::from_secs(least);
            assert!(wait >= least && wait <= least * 11 / 10, "{wait:?}");
        }
        let (second, asked) = (Duration::from_secs(1), Duration::from_secs(2));
        let wait = wait_after(&[second], 1, Some(asked), &mut rng);
        assert!(wait >= asked && wait < 2 * asked, "{wait:?}");
    }

    #[test]
    fn timers_come_up_in_order_and_old_ones_are_forgotten() {
        let now = Tick::NEVER.before(Duration::from_secs(100_000));
        let mut timers = Timers::default();
        for n in 0..5000u32 {
            timers.set(now.after(Duration::from_secs(u64::from(n))), n);
        }
        assert_eq!(timers.pop(now), Some((now, 0)));
        assert_eq!(timers.pop(now), None);
        timers.tidy(10, |_, job| job >= 4990);
        assert_eq!(timers.next(), Some(now.after(Duration::from_secs(4990))));
    }
}
