//! Calls that fail: no false receipt, nothing half kept, and it goes on by itself. QUE-04, QUE-05, QUE-06.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use relay_core::id::{MessageId, WriteId};
use relay_core::queue::record::Progress;
use relay_core::queue::store::{Place, Store as _, StoreFailed, StoreSink};

use super::disk::{Call, Fault};
use super::rig::Rig;

/// One fixed life: writes, small and spooled, progress, discards, enough for several segments. What
/// was refused is not tried again.
fn live_a_little(rig: &mut Rig) {
    let mut number = rig.sizes.keys().last().map_or(0, |id| id.as_u64());
    for round in 0..10_u64 {
        for size in [100, 3_000, 9_000] {
            number += 1;
            rig.write(number, size);
        }
        if round % 4 == 1 {
            number += 1;
            let _ = rig.write_spooled(number, 30_000);
        }
        rig.step(round % 3 == 0);
        let live = rig.live();
        for &number in &live {
            match number % 5 {
                0 => {}
                1 => rig.defer(number, round as u32 + 1),
                _ => rig.discard(number),
            }
        }
        rig.step(false);
    }
}

/// Receipts and the ledger agree with what a restart finds.
fn check(rig: &Rig, what: &str) {
    rig.check_loads();
    let again = rig.kill();
    again.check_loads();
    assert_eq!(
        again.live(),
        rig.live(),
        "{what}: another set of messages after a restart"
    );
    assert_eq!(again.quarantined, 0, "{what}");
}

#[test]
fn a_fault_at_every_call_gives_no_false_receipt() {
    let mut rig = Rig::new();
    let start = rig.disk.calls();
    live_a_little(&mut rig);
    let calls = rig.disk.calls() - start;
    check(&rig, "no fault");
    for fault in Fault::ALL {
        for n in 0..calls {
            for times in [1, 5] {
                let what = format!("{fault:?} at call {n}, {times} times");
                let mut rig = Rig::new();
                rig.disk.fail(None, n, times, fault);
                live_a_little(&mut rig);
                rig.disk.heal();
                // It accepts again without a restart.
                rig.settle();
                let number = 10_000;
                rig.write(number, 1_000);
                rig.settle();
                assert!(
                    matches!(rig.receipt(number), Some(Ok(_))),
                    "{what}: {:?}",
                    rig.receipt(number)
                );
                assert_eq!(rig.store.status().refusing, None, "{what}");
                // Every write has its receipt, but for bodies whose spooling failed.
                check(&rig, &what);
            }
        }
    }
}

/// A note that could not be written or synced breaks the progress log. An orderly end does not leave the next
/// start with what the broken one says.
#[test]
fn an_orderly_end_writes_down_what_a_broken_log_does_not_say() {
    for (call, at_the_end) in [
        (Call::Write, false),
        (Call::Sync, false),
        (Call::Sync, true),
    ] {
        let what = format!("{call:?}, {at_the_end}");
        let mut rig = Rig::new();
        for number in 1..=3 {
            rig.write(number, 100);
        }
        rig.settle();
        let break_it = || rig.disk.fail(Some(call), 0, 1, Fault::Io);
        if !at_the_end {
            break_it();
        }
        rig.discard(1);
        rig.defer(2, 4);
        if at_the_end {
            break_it();
        } else {
            let _ = rig.store.shared.progress.sync();
        }
        rig.defer(3, 5);
        rig.store.shared.end(Some(&rig.ledger));
        assert!(rig.disk.heal(), "{what}: nothing failed");
        let again = rig.kill();
        assert_eq!(again.live(), [2, 3], "{what}");
        let attempts = |rig: &Rig| rig.ledger.book(|book| book.attempts.clone());
        assert_eq!(attempts(&again), attempts(&rig), "{what}");
    }
}

#[test]
fn short_writes_and_interruptions_are_no_failures() {
    for fault in [Fault::Short, Fault::Interrupted] {
        for n in 0..20 {
            let mut rig = Rig::new();
            rig.disk.fail(Some(Call::Write), n, 3, fault);
            live_a_little(&mut rig);
            let failed = rig
                .ledger
                .book(|book| book.receipts.values().any(Result::is_err));
            assert!(!failed, "{fault:?} at write {n}");
            check(&rig, "after them");
        }
    }
}

#[test]
fn no_room_is_told_apart_from_a_broken_disk() {
    for (fault, full) in [
        (Fault::Full, true),
        (Fault::Quota, true),
        (Fault::Io, false),
    ] {
        for call in [Call::Write, Call::Sync] {
            let mut rig = Rig::new();
            rig.write(1, 10);
            rig.step(true);
            rig.disk.fail(Some(call), 0, u64::MAX, fault);
            rig.write(2, 30_000);
            rig.step(false);
            let failed = rig.receipt(2).unwrap().unwrap_err();
            assert_eq!(
                failed == StoreFailed::Full,
                full,
                "{fault:?} {call:?}: {failed:?}"
            );
            assert!(rig.store.status().refusing.is_some());
            // Without a message that tries it: a tick finds out that the disk works again.
            rig.disk.heal();
            rig.settle();
            rig.settle();
            assert_eq!(rig.store.status().refusing, None);
            rig.write(3, 10);
            rig.step(false);
            assert!(rig.receipt(3).unwrap().is_ok());
            assert_eq!(rig.kill().live(), [1, 3]);
        }
    }
}

#[test]
fn a_failed_sync_refuses_the_group_and_ends_the_file() {
    let mut rig = Rig::new();
    rig.write(1, 100);
    rig.step(true);
    let old = rig.receipt(1).unwrap().unwrap().segment;
    rig.disk.fail(Some(Call::Sync), 0, 1, Fault::Io);
    rig.write(2, 100);
    rig.write(3, 100);
    rig.step(false);
    assert!(rig.receipt(2).unwrap().is_err() && rig.receipt(3).unwrap().is_err());
    rig.write(4, 100);
    rig.step(false);
    let new = rig.receipt(4).unwrap().unwrap().segment;
    assert_ne!(
        new, old,
        "the disk in memory panics if the file is synced again"
    );
    rig.discard(1);
    rig.settle();
    assert_eq!(rig.kill().live(), [4]);
}

#[test]
fn while_every_sync_fails_everything_is_refused_and_nothing_piles_up() {
    let mut rig = Rig::new();
    rig.write(1, 100);
    rig.step(true);
    let files = rig.disk.files().len();
    rig.disk.fail(Some(Call::Sync), 0, u64::MAX, Fault::Io);
    for number in 2..60 {
        rig.write(number, 100);
        rig.step(number % 5 == 0);
        assert!(rig.receipt(number).unwrap().is_err());
    }
    assert!(
        rig.disk.files().len() <= files + 2,
        "{:?}",
        rig.disk.files()
    );
    let why = rig.store.status().refusing.unwrap();
    assert!(
        why.contains("injected EIO") || why.contains("progress log"),
        "{why}"
    );
    rig.disk.heal();
    rig.settle();
    rig.settle();
    rig.write(100, 100);
    rig.step(false);
    assert!(rig.receipt(100).unwrap().is_ok());
    assert_eq!(rig.kill().live(), [1, 100]);
}

#[test]
fn below_the_reserve_only_reports_are_taken_and_progress_goes_on() {
    let mut rig = Rig::new();
    rig.write(1, 100);
    rig.write(2, 100);
    rig.step(true);
    rig.disk.set_free((1 << 20) - 1);
    rig.write(3, 100);
    let (mut report, body) = super::rig::message(4, 100);
    std::sync::Arc::make_mut(&mut report).origin.credential = None;
    rig.sizes.insert(report.id, 100);
    let body = relay_core::queue::message::Body::Memory(body);
    let message = relay_core::queue::store::StoreMessage {
        message: report,
        body,
    };
    rig.store.write(relay_core::id::WriteId(4), message);
    assert_eq!(rig.write_spooled(5, 20_000), Err(StoreFailed::Full));
    rig.discard(1);
    rig.step(true);
    assert_eq!(rig.receipt(3), Some(Err(StoreFailed::Full)));
    assert!(rig.receipt(4).unwrap().is_ok());
    assert!(rig.store.status().refusing.unwrap().contains("reserve"));
    rig.disk.set_free(1 << 20);
    rig.write(6, 100);
    rig.step(false);
    assert!(rig.receipt(6).unwrap().is_ok());
    assert_eq!(rig.store.status().refusing, None);
    assert_eq!(
        rig.live().into_iter().collect::<BTreeSet<_>>(),
        BTreeSet::from([2, 4, 6])
    );
}

/// Tells the ledger, but for the first receipts, at which it panics.
struct Clumsy(&'static super::rig::Ledger, AtomicBool);

impl StoreSink for Clumsy {
    fn stored(&self, results: Vec<(WriteId, Result<Place, StoreFailed>)>) {
        assert!(!self.1.swap(false, Ordering::Relaxed), "a planted panic");
        self.0.stored(results);
    }

    fn live(&self, messages: &[(MessageId, Place)]) -> Vec<bool> {
        self.0.live(messages)
    }

    fn moved(&self, messages: &[(MessageId, Place, Place)]) {
        self.0.moved(messages);
    }

    fn snapshot(&self, after: Option<MessageId>, max: usize) -> Vec<(MessageId, Progress)> {
        self.0.snapshot(after, max)
    }
}

#[test]
fn a_panic_of_the_writer_is_a_failure_that_everybody_hears_of() {
    let mut rig = Rig::new();
    // Three groups in one step: the first is written, and its receipts lead to the panic.
    for number in 1..=9 {
        rig.write(number, 15_000);
    }
    let ledger = std::mem::take(&mut rig.ledger);
    let clumsy = Clumsy(Box::leak(Box::new(ledger)), AtomicBool::new(true));
    rig.store.step(&clumsy, false);
    let told = clumsy.0.book(|book| book.receipts.clone());
    assert!(told.len() >= 5, "those that wait hear of it: {told:?}");
    let broken = |result: &Result<_, _>| matches!(result, Err(StoreFailed::Broken(_)));
    assert!(told.values().all(broken));
    assert!(rig.store.status().refusing.is_some());
    rig.write(10, 100);
    rig.store.step(&clumsy, true);
    let told = clumsy.0.book(|book| book.receipts.clone());
    assert!(told.get(&WriteId(10)).is_some_and(broken));
    rig.store.close();
}
