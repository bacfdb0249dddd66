//! The process dies or the power fails, at any moment: what was acknowledged is there, whole.

use std::collections::BTreeSet;

use relay_core::queue::store::Store as _;
use relay_core::rng::Rng;

use super::disk::{Fault, MemDisk};
use super::rig::Rig;

/// What a random run did, as far as a crash may tell.
#[derive(Default)]
struct History {
    next: u64,
    acknowledged: BTreeSet<u64>,
    discarded: BTreeSet<u64>,
    /// Discards that a tick made durable.
    settled: BTreeSet<u64>,
}

impl History {
    /// Some submissions, deliveries and deferrals, then a step.
    fn round(&mut self, rig: &mut Rig, rng: &mut Rng) {
        for _ in 0..rng.below(6) {
            self.next += 1;
            let size = rng.below(6_000) as usize;
            if rng.below(8) == 0 {
                rig.write_spooled(self.next, size + 20_000).unwrap();
            } else {
                rig.write(self.next, size);
            }
        }
        let live = rig.live();
        for number in live {
            match rng.below(8) {
                0..3 => {
                    rig.discard(number);
                    self.discarded.insert(number);
                }
                3 => rig.defer(number, 1 + rng.below(9) as u32),
                _ => {}
            }
        }
        let tick = rng.below(5) == 0;
        rig.step(tick);
        if tick {
            self.settled.clone_from(&self.discarded);
        }
        let receipts = rig.ledger.book(|book| book.receipts.clone());
        for (write, result) in receipts {
            assert!(result.is_ok(), "nothing fails here");
            self.acknowledged.insert(write.0);
        }
    }

    /// Nothing acknowledged is lost; nothing that was settled durably comes back.
    fn check(&self, again: &Rig, cut: bool) {
        again.check_loads();
        let found: BTreeSet<u64> = again.live().into_iter().collect();
        let due: BTreeSet<u64> = self
            .acknowledged
            .difference(&self.discarded)
            .copied()
            .collect();
        let lost: Vec<_> = due.difference(&found).collect();
        assert!(lost.is_empty(), "lost {lost:?}");
        let gone = if cut { &self.settled } else { &self.discarded };
        let back: Vec<_> = gone.intersection(&found).collect();
        assert!(back.is_empty(), "came back {back:?}");
        assert_eq!(
            again.quarantined, 0,
            "no alarm for what was never acknowledged"
        );
    }
}

fn lives(seed: u64, crash: impl Fn(&MemDisk, &mut Rng) -> (MemDisk, bool)) {
    let mut rng = Rng::from_number(seed);
    let mut rig = Rig::new();
    let mut history = History::default();
    for _ in 0..6 {
        for _ in 0..rng.below(40) {
            history.round(&mut rig, &mut rng);
            let (disk, cut) = crash(&rig.disk, &mut rng.fork());
            if rng.below(8) == 0 {
                history.check(&Rig::on(disk, &rig.sizes), cut);
            }
        }
        let (disk, cut) = crash(&rig.disk, &mut rng);
        rig = Rig::on(disk, &rig.sizes);
        history.check(&rig, cut);
        // What came back is delivered again: the ledger goes on from what is there.
        let found: BTreeSet<u64> = rig.live().into_iter().collect();
        history.discarded.retain(|number| !found.contains(number));
        history.settled.retain(|number| !found.contains(number));
        history.acknowledged.extend(found);
    }
    rig.settle();
    rig.store.close();
}

#[test]
fn a_killed_process_loses_nothing_and_repeats_nothing() {
    for seed in 0..8 {
        lives(seed, |disk, _| (disk.killed(), false));
    }
}

#[test]
fn a_power_cut_loses_nothing_that_was_acknowledged() {
    for seed in 100..112 {
        lives(seed, |disk, rng| (disk.power_cut(rng), true));
    }
}

#[test]
fn faults_and_crashes_together_lose_nothing_that_was_acknowledged() {
    (0..40).for_each(storm);
}

/// Calls fail now and then, and now and then the process dies or the power fails.
fn storm(seed: u64) {
    let mut rng = Rng::from_number(1_000 + seed);
    let mut rig = Rig::new();
    let (mut next, mut acknowledged) = (0, BTreeSet::new());
    for _ in 0..120 {
        if rng.below(5) == 0 {
            let fault = Fault::ALL[rng.below(6) as usize];
            rig.disk.fail(None, rng.below(12), 1 + rng.below(4), fault);
        }
        for _ in 0..rng.below(5) {
            next += 1;
            let size = rng.below(7_000) as usize;
            if rng.below(8) == 0 {
                let _ = rig.write_spooled(next, size + 20_000);
            } else {
                rig.write(next, size);
            }
        }
        let live = rig.live();
        live.iter()
            .filter(|_| rng.below(3) == 0)
            .for_each(|number| rig.discard(*number));
        rig.step(rng.below(3) == 0);
        if rng.below(12) == 0 {
            let receipts = rig.ledger.book(|book| book.receipts.clone());
            let ok = receipts.iter().filter(|(_, result)| result.is_ok());
            acknowledged.extend(ok.map(|(write, _)| write.0));
            // A message that was refused may be found after a kill, and not after a power cut.
            let mut due = rig.live();
            due.retain(|number| acknowledged.contains(number));
            let cut = rng.below(2) == 0;
            let disk = if cut {
                rig.disk.power_cut(&mut rng)
            } else {
                rig.disk.killed()
            };
            rig = Rig::on(disk, &rig.sizes);
            let found = rig.live();
            let lost: Vec<_> = due
                .iter()
                .filter(|number| !found.contains(number))
                .collect();
            assert!(lost.is_empty(), "seed {seed}: lost {lost:?}");
            rig.check_loads();
        }
    }
    rig.disk.heal();
    (0..5).for_each(|_| rig.settle());
    rig.write(next + 1, 100);
    rig.step(true);
    assert!(rig.receipt(next + 1).unwrap().is_ok(), "seed {seed}");
    let again = rig.kill();
    assert_eq!(again.live(), rig.live(), "seed {seed}");
}

#[test]
fn a_power_cut_at_every_call_loses_nothing() {
    // The disk stops at the n-th call of one fixed run; then the power fails.
    let run = |n: Option<u64>| {
        let mut rng = Rng::from_number(7);
        let mut rig = Rig::new();
        let mut history = History::default();
        let start = rig.disk.calls();
        if let Some(n) = n {
            rig.disk.fail(None, n, u64::MAX, Fault::Io);
        }
        for _ in 0..12 {
            for _ in 0..3 {
                history.next += 1;
                rig.write(history.next, rng.below(3_000) as usize);
            }
            rig.step(true);
            let live = rig.live();
            live.iter()
                .filter(|number| *number % 3 != 0)
                .for_each(|number| rig.discard(*number));
            rig.settle();
        }
        (rig.disk.calls() - start, rig, rng)
    };
    let (calls, ..) = run(None);
    assert!(calls > 50);
    for n in 0..calls {
        let (_, rig, mut rng) = run(Some(n));
        let live = rig.live();
        let again = Rig::on(rig.disk.power_cut(&mut rng), &rig.sizes);
        let found: BTreeSet<u64> = again.live().into_iter().collect();
        let lost: Vec<_> = live
            .iter()
            .filter(|number| !found.contains(number))
            .collect();
        assert!(lost.is_empty(), "call {n}: lost {lost:?}");
        again.check_loads();
    }
}

#[test]
fn recovery_that_is_cut_off_can_be_done_again() {
    let mut rig = Rig::new();
    for number in 1..=60 {
        rig.write(number, 2_000);
        rig.step(true);
    }
    (1..=60)
        .filter(|number| number % 4 == 0)
        .for_each(|number| rig.discard(number));
    rig.write_spooled(61, 40_000).unwrap();
    rig.step(true);
    rig.store
        .spool_append(relay_core::id::MessageId::from_u64(62), &[0; 20_000])
        .unwrap();
    let path = super::rig::queue().join("segment-00000000");
    let mut disk = rig.disk.killed();
    disk.damage(&path, |bytes| bytes[5_000] ^= 1);
    let whole = Rig::on(disk.killed(), &rig.sizes);
    assert_eq!(whole.quarantined, 1);
    let calls = whole.disk.calls() - disk.calls();
    for n in 0..calls {
        let mut rng = Rng::from_number(n);
        let next = disk.killed();
        next.fail(None, n, u64::MAX, Fault::Io);
        let _ = Rig::try_on(next.clone(), &rig.sizes);
        // Each attempt starts from what the one before left.
        disk = next.power_cut(&mut rng);
    }
    let again = Rig::on(disk, &rig.sizes);
    assert_eq!(again.live(), whole.live());
    assert_eq!(again.quarantined, 1);
    again.check_loads();
}

/// Found by the simulator: a clock that went back gave the id of a delivered message to a new one,
/// and the new one was settled by the notes of the old one.
#[test]
fn the_highest_id_is_known_after_its_message_is_gone() {
    let mut rig = Rig::new();
    for number in [7, 9] {
        rig.write(number, 100);
    }
    rig.step(false);
    rig.defer(9, 1);
    rig.discard(9);
    rig.settle();
    let again = rig.kill();
    assert_eq!(again.live(), [7]);
    assert_eq!(again.store.status().last_id, 9);
    assert_eq!(Rig::new().store.status().last_id, 0);
}

#[test]
fn what_was_noted_survives_a_kill_before_the_writer_comes_to_it() {
    let mut rig = Rig::new();
    for number in 1..=3 {
        rig.write(number, 500);
    }
    rig.step(false);
    rig.discard(1);
    rig.defer(2, 7);
    // The writer thread may be waiting for a sync all this time.
    let again = rig.kill();
    assert_eq!(again.live(), [2, 3]);
    let attempts = again.ledger.book(|book| book.attempts.clone());
    assert_eq!(attempts.into_values().collect::<Vec<_>>(), [7]);
}
