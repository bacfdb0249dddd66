//! Segments are used again, sparse ones are emptied, the progress log stays short.

use relay_core::id::MessageId;
use relay_core::queue::store::{LoadFailed, Store as _};

use super::disk::{Call, Fault};
use super::rig::{self, Rig};

#[test]
fn files_are_used_again_and_old_records_never_come_back() {
    let mut rig = Rig::new();
    let mut segments = std::collections::BTreeSet::new();
    for number in 1..=300 {
        rig.write(number, 3_000);
        rig.step(false);
        segments.insert(rig.receipt(number).unwrap().unwrap().segment);
        if number > 3 {
            rig.discard(number - 3);
        }
        rig.step(number % 7 == 0);
        if number % 11 == 0 {
            assert_eq!(rig.kill().live(), rig.live());
        }
    }
    assert!(segments.len() > 10);
    let files = rig
        .disk
        .files()
        .iter()
        .filter(|path| is_segment(path))
        .count();
    assert!(files <= 4, "{files} files for {} segments", segments.len());
    let place = rig.receipt(1).unwrap().unwrap();
    let old = rig.store.load(MessageId::from_u64(1), place);
    assert!(matches!(old, Err(LoadFailed::Damaged(_))));
    let status = rig.store.status();
    assert!(
        status.live_bytes < 20_000 && status.disk_bytes < 5 * (64 << 10),
        "{status:?}"
    );
}

fn is_segment(path: &std::path::Path) -> bool {
    path.file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .starts_with("segment-")
}

/// Many segments with one live message each.
fn sparse() -> Rig {
    let mut rig = Rig::new();
    for number in 1..=160 {
        rig.write(number, 4_000);
        rig.step(false);
    }
    (1..=160)
        .filter(|number| number % 16 != 1)
        .for_each(|number| rig.discard(number));
    rig.defer(17, 4);
    rig
}

#[test]
fn a_copy_that_fails_leaves_the_body_in_the_spool() {
    let calls = {
        let rig = sparse_with_body();
        let start = rig.disk.calls();
        (0..10).for_each(|_| rig.settle());
        assert!(rig.ledger.book(|book| book.moves) > 0);
        rig.disk.calls() - start
    };
    for n in 0..calls {
        let rig = sparse_with_body();
        rig.disk.fail(None, n, 2, Fault::Io);
        (0..10).for_each(|_| rig.settle());
        rig.disk.heal();
        rig.check_loads();
        rig.kill().check_loads();
    }
}

/// As [`sparse`], with a spooled body in the sparsest segment.
fn sparse_with_body() -> Rig {
    let mut rig = Rig::new();
    rig.write_spooled(1, 30_000).unwrap();
    for number in 2..=80 {
        rig.write(number, 4_000);
        rig.step(false);
    }
    (2..=60).for_each(|number| rig.discard(number));
    rig
}

#[test]
fn sparse_segments_are_emptied_into_one() {
    let rig = sparse();
    let first = rig.receipt(17).unwrap().unwrap();
    rig.step(true);
    let before = rig.store.status().disk_bytes;
    for _ in 0..30 {
        rig.settle();
    }
    assert!(rig.ledger.book(|book| book.moves) >= 5);
    assert!(rig.store.status().disk_bytes < before);
    rig.check_loads();
    // A job that was handed out before the copy names the old place.
    assert!(rig.store.load(MessageId::from_u64(17), first).is_ok());
    let again = rig.kill();
    assert_eq!(again.live(), rig.live());
    assert_eq!(
        again
            .ledger
            .book(|book| book.attempts[&MessageId::from_u64(17)]),
        4
    );
    // So does a discard.
    rig.ledger
        .book(|book| book.live.insert(MessageId::from_u64(17), first));
    rig.discard(17);
    rig.settle();
    assert!(!rig.kill().live().contains(&17));
}

#[test]
fn a_copy_that_is_cut_off_leaves_one_message_not_two() {
    let mut rng = relay_core::rng::Rng::from_number(3);
    let calls = {
        let rig = sparse();
        let start = rig.disk.calls();
        (0..10).for_each(|_| rig.settle());
        rig.disk.calls() - start
    };
    for n in 0..calls {
        let rig = sparse();
        rig.step(false);
        let live = rig.live();
        rig.disk.fail(None, n, u64::MAX, Fault::Io);
        (0..10).for_each(|_| rig.settle());
        // The rig panics if a message is found twice.
        assert_eq!(
            Rig::on(rig.disk.killed(), &rig.sizes).live(),
            live,
            "killed at call {n}"
        );
        let cut = Rig::on(rig.disk.power_cut(&mut rng), &rig.sizes);
        assert!(
            live.iter().all(|number| cut.live().contains(number)),
            "cut at call {n}"
        );
        // The disk works again, without a restart.
        rig.disk.heal();
        (0..12).for_each(|_| rig.settle());
        rig.check_loads();
        assert_eq!(rig.kill().live(), live, "healed at call {n}");
    }
}

#[test]
fn the_progress_log_is_written_anew_and_says_the_same() {
    let mut rig = Rig::new();
    for number in 1..=20 {
        rig.write(number, 100);
    }
    rig.step(false);
    for attempts in 1..=200 {
        for number in [3, 7, 11] {
            rig.defer(number, attempts);
        }
        // Between two steps of writing it anew, too.
        rig.step(attempts % 3 == 0);
    }
    rig.discard(5);
    rig.settle();
    let logs = |rig: &Rig| -> Vec<std::path::PathBuf> {
        let mut files = rig.disk.files();
        files.retain(|path| path.to_str().unwrap().contains("progress"));
        files
    };
    let files = logs(&rig);
    assert_eq!(files.len(), 1);
    assert_ne!(files[0], rig::queue().join("progress-00000001"));
    assert!(rig.disk.read(&files[0]).len() < 20_000);
    let again = rig.kill();
    assert_eq!(again.live(), rig.live());
    for number in [3, 7, 11] {
        assert_eq!(
            again
                .ledger
                .book(|book| book.attempts[&MessageId::from_u64(number)]),
            200
        );
    }
}

#[test]
fn a_progress_log_that_cannot_be_synced_is_replaced() {
    let mut rig = Rig::new();
    rig.write(1, 100);
    rig.write(2, 100);
    rig.step(true);
    rig.defer(1, 1);
    rig.disk.fail(Some(Call::Sync), 0, 1, Fault::Io);
    rig.step(true);
    rig.defer(1, 2);
    rig.discard(2);
    rig.settle();
    rig.settle();
    let again = Rig::on(
        rig.disk
            .power_cut(&mut relay_core::rng::Rng::from_number(1)),
        &rig.sizes,
    );
    assert_eq!(again.live(), [1]);
    assert_eq!(
        again
            .ledger
            .book(|book| book.attempts[&MessageId::from_u64(1)]),
        2
    );
}
