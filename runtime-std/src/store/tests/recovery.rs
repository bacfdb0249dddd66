//! Index checkpoints: a start reads little, and never believes one that is not what was written.

use std::path::PathBuf;

use relay_core::queue::store::Store as _;

use super::disk::MemDisk;
use super::rig::{self, Rig};

/// Several segments, some messages of which are gone, closed in order.
fn closed() -> Rig {
    let mut rig = Rig::new();
    for number in 1..=60 {
        rig.write(number, 4_000);
        rig.step(false);
    }
    (1..=60)
        .filter(|n| n % 3 == 0)
        .for_each(|number| rig.discard(number));
    (1..=60)
        .filter(|n| n % 3 == 1)
        .for_each(|number| rig.defer(number, 2));
    rig.settle();
    rig.store.close();
    rig
}

fn checkpoints(disk: &MemDisk) -> Vec<PathBuf> {
    let named = |path: &PathBuf| path.to_str().unwrap().contains("index-");
    disk.files().into_iter().filter(named).collect()
}

/// Opens a disk; what it holds must be what `rig` knows.
fn check(rig: &Rig, disk: MemDisk, what: &str) -> Rig {
    let again = Rig::on(disk, &rig.sizes);
    again.check_loads();
    assert_eq!(again.live(), rig.live(), "{what}");
    let attempts = |rig: &Rig| rig.ledger.book(|book| book.attempts.clone());
    assert_eq!(attempts(&again), attempts(rig), "{what}");
    assert_eq!(again.quarantined, 0, "{what}");
    again
}

#[test]
fn each_sealed_segment_has_a_checkpoint_and_none_outlives_it() {
    let rig = closed();
    let found = checkpoints(&rig.disk);
    assert!(found.len() >= 4, "{found:?}");
    let again = check(&rig, rig.disk.killed(), "whole");
    again
        .live()
        .into_iter()
        .for_each(|number| again.discard(number));
    again.settle();
    again.store.close();
    assert_eq!(checkpoints(&again.disk), Vec::<PathBuf>::new());
}

#[test]
fn a_checkpoint_that_is_damaged_gone_or_another_ones_costs_nothing() {
    let rig = closed();
    let found = checkpoints(&rig.disk);
    let len = rig.disk.read(&found[0]).len();
    for at in 0..len {
        let disk = rig.disk.killed();
        disk.damage(&found[0], |bytes| bytes[at] ^= 0x10);
        check(&rig, disk, &format!("octet {at} flipped"));
        let disk = rig.disk.killed();
        disk.damage(&found[0], |bytes| bytes.truncate(at));
        check(&rig, disk, &format!("cut at {at}"));
    }
    let disk = rig.disk.killed();
    let other = disk.read(&found[1]);
    disk.damage(&found[0], |bytes| *bytes = other);
    check(&rig, disk, "that of another segment");
}

#[test]
fn without_its_progress_log_no_checkpoint_is_believed() {
    let rig = closed();
    let disk = rig.disk.killed();
    let logs: Vec<PathBuf> = disk
        .files()
        .into_iter()
        .filter(|path| path.to_str().unwrap().contains("progress-"))
        .collect();
    // A note in the middle is gone: among those may be which record became void.
    disk.damage(&logs[0], |bytes| bytes[200] ^= 1);
    let again = Rig::on(disk, &rig.sizes);
    let (live, before) = (again.live(), rig.live());
    assert!(before.iter().all(|number| live.contains(number)));
}

#[test]
fn damage_that_a_checkpoint_hides_is_found_when_the_message_is_read() {
    let rig = closed();
    let place = rig.receipt(2).unwrap().unwrap();
    let segment = rig::queue().join("segment-00000000");
    let disk = rig.disk.killed();
    disk.damage(&segment, |bytes| bytes[place.offset as usize + 200] ^= 1);
    let again = Rig::on(disk.clone(), &rig.sizes);
    assert_eq!(again.quarantined, 1);
    let missing: Vec<u64> = rig
        .live()
        .into_iter()
        .filter(|n| !again.live().contains(n))
        .collect();
    assert_eq!(missing, [2]);
    let files = disk.files();
    let kept = |extension: &str| {
        files.iter().any(|path| {
            path.to_str().unwrap().contains("quarantine/")
                && path.extension().is_some_and(|e| e == extension)
        })
    };
    assert!(kept("json"), "{files:?}");
}
