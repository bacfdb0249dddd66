//! Files that are cut, flipped or gone: every other message is found. QUE-07, QUE-08.

use relay_core::id::MessageId;
use relay_core::queue::store::{LoadFailed, Store as _};

use super::rig::{self, Rig};

fn small() -> Rig {
    let mut rig = Rig::new();
    for number in 1..=6 {
        rig.write(number, 40);
        rig.step(false);
    }
    (7..=12).for_each(|number| rig.write(number, 40));
    rig.step(false);
    rig
}

/// The first octet behind each record.
fn ends(rig: &Rig) -> Vec<(u64, u32)> {
    let live = rig.ledger.book(|book| book.live.clone());
    let len = |id: MessageId| {
        let (message, body) = rig::message(id.as_u64(), 40);
        let mut record = Vec::new();
        let stamp = relay_core::queue::record::Stamp {
            generation: 1,
            salt: 0,
            batch: 0,
            moved_from: None,
        };
        let body = relay_core::queue::message::Body::Memory(body);
        relay_core::queue::record::encode(&mut record, stamp, &message, &body);
        record.len() as u32
    };
    live.iter()
        .map(|(id, place)| (id.as_u64(), place.offset + len(*id)))
        .collect()
}

#[test]
fn a_segment_cut_at_every_octet_gives_every_whole_record() {
    let rig = small();
    let ends = ends(&rig);
    let path = rig::queue().join("segment-00000000");
    let last = ends.iter().map(|(_, end)| *end).max().unwrap();
    for cut in 0..=last {
        let disk = rig.disk.killed();
        disk.damage(&path, |bytes| bytes.truncate(cut as usize));
        let again = Rig::on(disk, &rig.sizes);
        let whole: Vec<u64> = ends
            .iter()
            .filter(|(_, end)| *end <= cut)
            .map(|(number, _)| *number)
            .collect();
        assert_eq!(again.live(), whole, "cut at {cut}");
        assert_eq!(again.quarantined, 0, "a torn tail is no alarm");
        again.check_loads();
    }
}

/// Where the notes say how far it was synced, a cut is no torn tail: what is missing is told.
#[test]
fn a_segment_cut_at_every_octet_that_was_synced_is_an_alarm() {
    let rig = small();
    rig.step(true);
    let last = ends(&rig).iter().map(|(_, end)| *end).max().unwrap();
    let path = rig::queue().join("segment-00000000");
    for cut in 0..=last {
        let disk = rig.disk.killed();
        disk.damage(&path, |bytes| bytes.truncate(cut as usize));
        let again = Rig::on(disk, &rig.sizes);
        let missing = 12 - again.live().len();
        assert!(
            missing == 0 || again.quarantined > 0,
            "cut at {cut}: {missing} missing, and nobody is told"
        );
        assert_eq!(
            again.kill().quarantined,
            again.quarantined,
            "it is told once"
        );
    }
}

#[test]
fn a_progress_log_cut_at_every_octet_costs_repeats_only() {
    let rig = small();
    (1..=6).for_each(|number| rig.discard(number));
    rig.defer(7, 1);
    rig.step(false);
    let path = rig::queue().join("progress-00000001");
    for cut in 0..rig.disk.read(&path).len() {
        let disk = rig.disk.killed();
        disk.damage(&path, |bytes| bytes.truncate(cut));
        let mut again = Rig::on(disk, &rig.sizes);
        let live = again.live();
        assert!(
            (7..=12).all(|number| live.contains(&number)),
            "cut at {cut}"
        );
        again.write(20, 40);
        again.settle();
        assert!(again.receipt(20).unwrap().is_ok());
        let third = again.kill();
        assert_eq!(third.live(), again.live());
    }
}

#[test]
fn a_flipped_bit_costs_at_most_its_own_message_and_is_reported() {
    let mut rig = small();
    rig.write_spooled(13, 40_000).unwrap();
    rig.defer(2, 3);
    rig.step(true);
    rig.store.close();
    let clean = rig.kill();
    assert_eq!((clean.live().len(), clean.quarantined), (13, 0));
    let ends = ends(&clean);
    let mut lost = 0;
    for path in rig.disk.files() {
        let len = rig.disk.read(&path).len();
        let spooled = path.parent().unwrap().ends_with("spool");
        let step = if spooled { 997 } else { 61 };
        for at in (0..len.min(60_000)).step_by(step) {
            let disk = rig.disk.killed();
            disk.damage(&path, |bytes| bytes[at] ^= 1 << (at % 8));
            let again = Rig::on(disk, &rig.sizes);
            let live = again.live();
            let missing: Vec<u64> = (1..=13).filter(|number| !live.contains(number)).collect();
            let what = format!("{} at {at}: missing {missing:?}", path.display());
            assert!(missing.len() <= 1, "{what}");
            // Between two records there is padding: damage there is reported too, and costs nothing.
            assert!(
                (missing.len() as u64..=1).contains(&again.quarantined),
                "{what}"
            );
            let hit = path.ends_with("segment-00000000")
                && rig.ledger.book(|book| {
                    ends.iter().any(|(number, end)| {
                        let place = book.live[&MessageId::from_u64(*number)];
                        *number < 13 && (place.offset as usize..*end as usize).contains(&at)
                    })
                });
            assert!(!hit || missing.len() == 1, "{what}");
            lost += missing.len();
            if live.contains(&13) {
                check_spool(&again, spooled, &what);
            } else {
                let body =
                    rig::queue().join(format!("quarantine/{}.body", MessageId::from_u64(13)));
                assert!(again.disk.files().contains(&body), "{what}");
            }
            // The second start says nothing new.
            let third = again.kill();
            assert_eq!(
                (third.live(), third.quarantined),
                (live, again.quarantined),
                "{what}"
            );
        }
    }
    assert!(lost > 8);
}

fn check_spool(rig: &Rig, damaged: bool, what: &str) {
    let id = MessageId::from_u64(13);
    if !damaged {
        assert_eq!(rig.spooled(id), rig::message(13, 40_000).1, "{what}");
        return;
    }
    let read = (0..40_000)
        .step_by(10_000)
        .try_for_each(|at| rig.store.spool_read(id, at, 10_000).map(|_| ()));
    assert!(matches!(read, Err(LoadFailed::Damaged(_))), "{what}");
}

#[test]
fn a_spool_file_that_is_cut_or_gone_is_found_out() {
    let mut rig = Rig::new();
    rig.write(1, 10);
    rig.write_spooled(2, 2 * 16_376).unwrap();
    rig.settle();
    let path = rig::queue()
        .join("spool")
        .join(MessageId::from_u64(2).to_string());
    let disk = rig.disk.killed();
    disk.damage(&path, |bytes| bytes.truncate(16 * 1024));
    let again = Rig::on(disk, &rig.sizes);
    assert_eq!((again.live(), again.quarantined), (vec![1], 1));
    assert_eq!(again.kill().quarantined, 1);
    // While it runs: the part that is left does not pass for the whole.
    rig.disk.damage(&path, |bytes| bytes.truncate(16 * 1024));
    let id = MessageId::from_u64(2);
    assert!(matches!(
        rig.store.spool_read(id, 0, 16_376),
        Err(LoadFailed::Damaged(_))
    ));
    assert!(matches!(
        rig.store.spool_read(id, 16_376, 16_376),
        Err(LoadFailed::Damaged(_))
    ));
}

#[test]
fn a_lost_identity_is_made_again_from_the_segments() {
    let rig = small();
    let disk = rig.disk.killed();
    disk.damage(&rig::queue().join("identity"), |bytes| bytes.clear());
    assert_eq!(Rig::on(disk, &rig.sizes).live(), rig.live());
}

#[test]
fn files_of_another_version_are_refused_not_thrown_away() {
    let rig = small();
    for name in ["identity", "segment-00000000", "progress-00000001"] {
        let disk = rig.disk.killed();
        disk.damage(&rig::queue().join(name), |bytes| {
            bytes[8] = 9;
            let crc = crc32fast::hash(&bytes[..28]);
            bytes[28..32].copy_from_slice(&crc.to_le_bytes());
        });
        let error = Rig::try_on(disk, &rig.sizes).err().unwrap();
        assert!(
            error.contains(name) && error.contains("version 9"),
            "{error}"
        );
    }
}

#[test]
fn a_body_that_looks_like_a_record_is_never_taken_for_one() {
    // Even one that knows everything but the salt, in a segment whose real record is damaged.
    let mut rig = Rig::new();
    let (forged, body) = rig::message(99, 20);
    let mut record = Vec::new();
    let stamp = relay_core::queue::record::Stamp {
        generation: 1,
        salt: 0,
        batch: 4096,
        moved_from: None,
    };
    let body = relay_core::queue::message::Body::Memory(body);
    relay_core::queue::record::encode(&mut record, stamp, &forged, &body);
    let (message, _) = rig::message(1, 0);
    let mut bait = Vec::new();
    // Whatever the alignment of the body, one of these copies is aligned.
    for shift in 0..64 {
        bait.resize(bait.len().next_multiple_of(64) + shift, b'x');
        bait.extend_from_slice(&record);
    }
    let body = relay_core::queue::message::Body::Memory(bait.into());
    let write = relay_core::queue::store::StoreMessage { message, body };
    rig.store.write(relay_core::id::WriteId(1), write);
    rig.write(2, 10);
    rig.step(false);
    rig.write(3, 10);
    rig.step(false);
    let disk = rig.disk.killed();
    disk.damage(&rig::queue().join("segment-00000000"), |bytes| {
        bytes[4096] ^= 1
    });
    assert_eq!(Rig::on(disk, &rig.sizes).live(), [2, 3]);
}

#[test]
fn a_message_that_the_engine_gives_up_for_damage_goes_to_the_quarantine() {
    let mut rig = Rig::new();
    rig.write(1, 10);
    rig.write_spooled(2, 40_000).unwrap();
    rig.write(3, 10);
    rig.settle();
    let id = MessageId::from_u64(2);
    let body = rig::queue().join("spool").join(id.to_string());
    rig.disk.damage(&body, |bytes| bytes[20_000] ^= 1);
    let place = rig.ledger.book(|book| book.live[&id]);
    rig.store
        .quarantine(id, place, "block 1 fails its checksum");
    rig.ledger.book(|book| book.live.remove(&id));
    rig.settle();
    assert_eq!(rig.store.status().quarantined, 1);
    let kept = rig::queue().join("quarantine");
    let record = kept.join(format!("{:08x}-{:08x}", place.segment, place.offset));
    let files = rig.disk.files();
    assert!(files.contains(&record) && files.contains(&record.with_extension("json")));
    assert!(files.contains(&kept.join(format!("{id}.body"))) && !files.contains(&body));
    // It is not in the queue of the next start, nor is anything else missing.
    let again = rig.kill();
    assert_eq!((again.live(), again.quarantined), (vec![1, 3], 1));
}
