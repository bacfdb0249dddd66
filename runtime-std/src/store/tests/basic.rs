//! What works when nothing fails.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use relay_core::id::{MessageId, WriteId};
use relay_core::queue::message::Body;
use relay_core::queue::record::Progress;
use relay_core::queue::store::{
    LoadFailed, Place, Recovered, Store as _, StoreFailed, StoreMessage, StoreSink,
};

use super::rig::{self, Rig};
use crate::store::{OpenError, Options, SegmentStore, StdDisk};

#[test]
fn what_is_written_reads_back_now_and_after_a_restart() {
    let mut rig = Rig::new();
    for number in 1..=40 {
        rig.write(number, number as usize * 97);
    }
    rig.settle();
    assert!((1..=40).all(|number| rig.receipt(number).unwrap().is_ok()));
    rig.check_loads();
    let again = rig.kill();
    assert_eq!(again.live(), (1..=40).collect::<Vec<_>>());
    again.check_loads();
    assert_eq!(again.store.status().quarantined, 0);
}

#[test]
fn one_sync_serves_all_that_waits() {
    let mut rig = Rig::new();
    rig.write(1, 100);
    rig.step(false);
    let before = rig.disk.syncs();
    (2..=50).for_each(|number| rig.write(number, 100));
    rig.step(false);
    assert_eq!(rig.disk.syncs() - before, 1);
}

#[test]
fn discarded_messages_stay_away_and_notes_come_back_in_order() {
    let mut rig = Rig::new();
    (1..=5).for_each(|number| rig.write(number, 500));
    rig.step(false);
    rig.discard(2);
    rig.discard(4);
    rig.defer(3, 1);
    rig.defer(3, 2);
    rig.step(false);
    // Not even a sync is needed when only the process dies.
    let again = rig.kill();
    assert_eq!(again.live(), [1, 3, 5]);
    assert_eq!(
        again
            .ledger
            .book(|book| book.attempts[&MessageId::from_u64(3)]),
        2
    );
}

#[test]
fn large_bodies_go_through_the_spool() {
    let mut rig = Rig::new();
    // Around the borders of blocks, and empty.
    for (number, size) in [
        (1, 0),
        (2, 1),
        (3, 16_376),
        (4, 16_377),
        (5, 300_000),
        (6, 32_752),
    ] {
        if size == 0 {
            rig.store
                .spool_append(MessageId::from_u64(number), &[])
                .unwrap();
        }
        rig.write_spooled(number, size).unwrap();
    }
    rig.store
        .spool_append(MessageId::from_u64(7), &[1; 50_000])
        .unwrap();
    rig.store
        .spool_append(MessageId::from_u64(8), &[1; 50_000])
        .unwrap();
    rig.store.spool_discard(MessageId::from_u64(8));
    rig.settle();
    rig.check_loads();
    let spool = |rig: &Rig| {
        let dir = rig::queue().join("spool");
        rig.disk
            .files()
            .iter()
            .filter(|path| path.parent() == Some(&dir))
            .count()
    };
    assert_eq!(spool(&rig), 7);
    let again = rig.kill();
    again.check_loads();
    assert_eq!(
        spool(&again),
        6,
        "the body that never became a message is gone"
    );
    again.discard(5);
    again.settle();
    assert_eq!(spool(&again), 5);
}

#[test]
fn a_body_shorter_than_announced_is_refused() {
    let mut rig = Rig::new();
    let (message, _) = rig::message(1, 100);
    rig.store.spool_append(message.id, &[0; 99]).unwrap();
    rig.store.write(
        WriteId(1),
        StoreMessage {
            message,
            body: Body::Spooled,
        },
    );
    rig.write(2, 10);
    rig.step(false);
    assert!(matches!(rig.receipt(1), Some(Err(StoreFailed::Broken(_)))));
    assert!(matches!(rig.receipt(2), Some(Ok(_))));
    assert_eq!(rig.kill().live(), [2]);
}

#[test]
fn a_record_over_the_segment_is_refused_alone() {
    let mut rig = Rig::new();
    rig.write(1, 10);
    rig.write(2, 70_000);
    rig.write(3, 10);
    rig.settle();
    assert!(matches!(rig.receipt(2), Some(Err(StoreFailed::Broken(_)))));
    assert_eq!(rig.live(), [1, 3]);
    assert_eq!(rig.store.status().refusing, None);
}

#[test]
fn another_place_or_message_is_not_loaded() {
    let mut rig = Rig::new();
    (1..=2).for_each(|number| rig.write(number, 100));
    rig.step(false);
    let place = rig.receipt(1).unwrap().unwrap();
    let wrong = [
        (2, place),
        (
            1,
            Place {
                offset: place.offset + 64,
                ..place
            },
        ),
        (
            1,
            Place {
                segment: place.segment + 1,
                ..place
            },
        ),
        (
            1,
            Place {
                offset: u32::MAX,
                ..place
            },
        ),
    ];
    for (number, place) in wrong {
        let found = rig.store.load(MessageId::from_u64(number), place);
        assert!(
            matches!(found, Err(LoadFailed::Damaged(_))),
            "{number} at {place:?}"
        );
    }
}

#[test]
fn what_is_written_while_recovering_is_not_recovered_and_nothing_is_after_closing() {
    let mut rig = Rig::new();
    (1..=4).for_each(|number| rig.write(number, 10));
    rig.step(false);
    let disk = rig.disk.killed();
    let open = SegmentStore::open(Path::new(rig::DIR), rig::options(), Arc::new(disk.clone()));
    let mut early = Rig {
        store: open.unwrap(),
        disk,
        ..Rig::new()
    };
    assert_eq!(early.store.status().last_id, 4);
    let mut found = Vec::new();
    let recover = |early: &Rig, found: &mut Vec<u64>, most: usize| {
        let each = &mut |recovered: Recovered| {
            found.push(recovered.message.id.as_u64());
            if found.len() < most {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        };
        early.store.recover(each)
    };
    // A visitor that breaks goes on where it was, whatever is written meanwhile.
    recover(&early, &mut found, 2).unwrap();
    let recovering = early.store.status().recovering.unwrap();
    assert_eq!((recovering.done, recovering.total), (2, 4));
    early.write(10, 10);
    early.step(true);
    assert!(early.receipt(10).unwrap().is_ok());
    recover(&early, &mut found, usize::MAX).unwrap();
    assert_eq!(found, [1, 2, 3, 4]);
    assert_eq!(early.store.status().recovering, None);
    assert!(
        early
            .store
            .recover(&mut |_| ControlFlow::Continue(()))
            .is_err()
    );
    early.write(2, 10);
    early.store.step(&early.ledger, false);
    assert!(early.receipt(2).unwrap().is_ok());
    early.store.close();
    early.write(3, 10);
    early.step(false);
    assert!(matches!(
        early.receipt(3),
        Some(Err(StoreFailed::Broken(_)))
    ));
}

/// Sends receipts to whoever waits.
struct Receipts(mpsc::Sender<(WriteId, Result<Place, StoreFailed>)>);

impl StoreSink for Receipts {
    fn stored(&self, results: Vec<(WriteId, Result<Place, StoreFailed>)>) {
        results
            .into_iter()
            .for_each(|result| self.0.send(result).unwrap());
    }

    fn live(&self, messages: &[(MessageId, Place)]) -> Vec<bool> {
        vec![true; messages.len()]
    }

    fn moved(&self, _messages: &[(MessageId, Place, Place)]) {}

    fn snapshot(&self, _: Option<MessageId>, _: usize) -> Vec<(MessageId, Progress)> {
        Vec::new()
    }
}

/// A directory of the real file system, removed at the end.
struct TempDir(std::path::PathBuf);

impl TempDir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("relay-store-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        Self(dir)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_writer_thread_serves_many_sessions_on_a_real_disk() {
    let dir = TempDir::new("thread");
    let options = Options {
        segment_size: 1 << 20,
        reserve: 0,
        ..Options::default()
    };
    let open = || SegmentStore::open(&dir.0, options.clone(), Arc::new(StdDisk));
    let store = open().unwrap();
    store.recover(&mut |_| panic!("it is new")).unwrap();
    let (sender, receipts) = mpsc::channel();
    store.start(Arc::new(Receipts(sender))).unwrap();
    std::thread::scope(|scope| {
        for lot in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for number in lot * 50..lot * 50 + 50 {
                    let (message, body) = rig::message(number, 9_000);
                    let body = Body::Memory(body);
                    store.write(WriteId(number), StoreMessage { message, body });
                }
            });
        }
    });
    for _ in 0..200 {
        let (write, place) = receipts.recv_timeout(Duration::from_secs(60)).unwrap();
        let (found, body) = store
            .load(MessageId::from_u64(write.0), place.unwrap())
            .unwrap();
        let (expected, bytes) = rig::message(write.0, 9_000);
        assert_eq!((&found, body), (&*expected, Body::Memory(bytes)));
    }
    match open() {
        Err(OpenError::Locked { process, .. }) => assert_eq!(process, Some(std::process::id())),
        other => panic!("{:?}", other.map(|_| ())),
    }
    store.close();
    let (message, body) = rig::message(999, 1);
    store.write(
        WriteId(999),
        StoreMessage {
            message,
            body: Body::Memory(body),
        },
    );
    let (_, late) = receipts.recv_timeout(Duration::from_secs(60)).unwrap();
    assert!(late.is_err());
    let again = open().unwrap();
    let mut found = 0;
    again
        .recover(&mut |_| {
            found += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(found, 200);
}

#[test]
fn a_directory_that_cannot_be_used_is_named() {
    let dir = TempDir::new("file");
    std::fs::write(&dir.0, b"a file where the directory should be").unwrap();
    let error = SegmentStore::open(&dir.0, Options::default(), Arc::new(StdDisk))
        .err()
        .unwrap();
    assert!(
        error.to_string().contains(dir.0.to_str().unwrap()),
        "{error}"
    );
    std::fs::remove_file(&dir.0).unwrap();
}
