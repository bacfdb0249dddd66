//! What a restart knows of a message: its notes folded into one state, its times made safe.
//!
//! Notes are an append-only log of which any tail may be lost: folding a prefix gives an earlier
//! state, which costs a duplicate at most.

use std::time::Duration;

use super::record::{DeferredState, Progress, State};
use super::schedule::ASKED_MAX;
use crate::time::UnixTime;

/// However old a message is by the wall clock, a restart gives it this long: one more attempt at
/// least. It also bounds what a wrong clock can do.
const GRACE: Duration = Duration::from_secs(3600);

/// Folds what was noted of a message with `total` recipients, in the order of writing.
///
/// Every recipient is in at most one place: settled, in one waiting group, or in none (not tried).
/// Indexes that the message does not have are ignored.
pub(crate) fn fold(total: u32, progress: &[Progress]) -> State {
    let mut state = State::default();
    for note in progress {
        match note {
            Progress::Settled { recipients } => settle(&mut state, recipients),
            Progress::Deferred(group) => defer(&mut state, group),
            Progress::Held(held) => state.held = *held,
            Progress::State(whole) => {
                state = State {
                    held: whole.held,
                    ..State::default()
                };
                settle(&mut state, &whole.settled);
                whole
                    .deferred
                    .iter()
                    .for_each(|group| defer(&mut state, group));
            }
        }
    }
    state.settled.retain(|&index| index < total);
    for group in &mut state.deferred {
        group.recipients.retain(|&index| index < total);
    }
    state.deferred.retain(|group| !group.recipients.is_empty());
    state
}

fn settle(state: &mut State, recipients: &[u32]) {
    state.settled.extend(recipients);
    state.settled.sort_unstable();
    state.settled.dedup();
    withdraw(state, recipients);
}

fn defer(state: &mut State, group: &DeferredState) {
    withdraw(state, &group.recipients);
    let mut group = group.clone();
    group.recipients.sort_unstable();
    group.recipients.dedup();
    group
        .recipients
        .retain(|index| state.settled.binary_search(index).is_err());
    state.deferred.push(group);
}

fn withdraw(state: &mut State, recipients: &[u32]) {
    for group in &mut state.deferred {
        group.recipients.retain(|index| !recipients.contains(index));
    }
    state.deferred.retain(|group| !group.recipients.is_empty());
}

/// How old a message is after a restart.
///
/// `latest` is the last sign of life of the run before. The time that the relay was off counts up to
/// the grace, so that neither a long stop nor a clock that jumped ahead expires a whole queue; a
/// clock that went back makes nothing younger than new.
pub(crate) fn age(
    accepted: UnixTime,
    latest: UnixTime,
    now: UnixTime,
    expire: Duration,
) -> Duration {
    let off = now.since(latest).min(GRACE);
    let age = latest.min(now).since(accepted) + off;
    age.min(now.since(accepted))
        .min(expire.saturating_sub(GRACE))
}

/// How long a job still waits after a restart: what is left of its wait. That may be longer than the
/// `step` of the schedule, since a receiver may have asked for more; but longer than any wait is the
/// work of a clock that went back, and then it is the step.
pub(crate) fn left(next: UnixTime, now: UnixTime, step: Duration) -> Duration {
    let left = next.since(now);
    let most = step.max(ASKED_MAX);
    if left <= most + most / 10 {
        left
    } else {
        step + step / 10
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(recipients: &[u32], attempts: u32) -> DeferredState {
        DeferredState {
            recipients: recipients.to_vec(),
            attempts,
            next: UnixTime::from_secs(1),
            delay_reported: false,
            in_doubt: false,
            held: false,
            reason: String::new(),
        }
    }

    fn settled(recipients: &[u32]) -> Progress {
        Progress::Settled {
            recipients: recipients.to_vec(),
        }
    }

    #[test]
    fn later_notes_take_recipients_from_earlier_ones() {
        let notes = [
            Progress::Deferred(group(&[0, 1, 2], 1)),
            Progress::Deferred(group(&[3], 1)),
            settled(&[1, 9]),
            Progress::Held(true),
            Progress::Deferred(group(&[0, 1], 2)),
        ];
        let state = fold(4, &notes);
        assert_eq!(state.settled, [1]);
        assert!(state.held);
        assert_eq!(
            state.deferred,
            [group(&[2], 1), group(&[3], 1), group(&[0], 2)]
        );
    }

    #[test]
    fn a_state_replaces_all_before_it() {
        let whole = State {
            settled: vec![0],
            held: false,
            deferred: vec![group(&[1], 4)],
        };
        let notes = [
            settled(&[2]),
            Progress::Held(true),
            Progress::State(whole.clone()),
        ];
        assert_eq!(fold(3, &notes), whole);
    }

    #[test]
    fn settled_once_is_settled() {
        let notes = [settled(&[0]), Progress::Deferred(group(&[0], 1))];
        assert_eq!(
            fold(1, &notes),
            State {
                settled: vec![0],
                ..State::default()
            }
        );
    }

    #[test]
    fn ages_survive_clocks_that_jump() {
        const DAY: Duration = Duration::from_secs(86_400);
        let expire = 3 * DAY;
        let accepted = UnixTime::from_secs(1_700_000_000);
        let last = accepted + DAY;
        // A restart of five minutes: the age goes on.
        let now = last + Duration::from_secs(300);
        assert_eq!(
            age(accepted, last, now, expire),
            DAY + Duration::from_secs(300)
        );
        // Off for a year, or a clock ten years ahead: an hour passed.
        for years in [1, 10] {
            assert_eq!(
                age(accepted, last, last + years * 365 * DAY, expire),
                DAY + GRACE
            );
        }
        // A clock that went back to 1970: as new.
        assert_eq!(
            age(accepted, last, UnixTime::from_secs(0), expire),
            Duration::ZERO
        );
        // Older than its time: one more hour.
        assert_eq!(
            age(accepted, accepted + 9 * DAY, accepted + 9 * DAY, expire),
            expire - GRACE
        );
    }

    #[test]
    fn what_is_left_of_a_wait_is_kept_unless_no_wait_is_that_long() {
        const STEP: Duration = Duration::from_secs(5 * 3600);
        let now = UnixTime::from_secs(1_700_000_000);
        assert_eq!(left(now + STEP / 2, now, STEP), STEP / 2);
        assert_eq!(left(now + 1000 * STEP, now, STEP), STEP + STEP / 10);
        assert_eq!(left(UnixTime::from_secs(5), now, STEP), Duration::ZERO);
        // A greylisting host said ten minutes where the schedule says one.
        let (asked, step) = (Duration::from_secs(600), Duration::from_secs(60));
        assert_eq!(left(now + asked, now, step), asked);
    }
}
