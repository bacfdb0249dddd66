//! Finding what is in the queue after a start.
//!
//! ```text
//!  open:     lock ─▶ salt ─▶ segment headers ─▶ progress log: void places, synced ends, where the
//!                                               notes of each message are
//!  recover:  each segment, the oldest first: whole live records with their notes ─▶ visitor
//!            damage ─▶ quarantine        spool files without a record ─▶ removed
//! ```
//!
//! Nothing that exists is changed before it was copied aside, so recovery can be cut off and begun
//! again at any point. It keeps sixteen octets for each note and four for each record in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use relay_core::id::MessageId;
use relay_core::queue::message::Message;
use relay_core::queue::record::{Note, Progress};
use relay_core::queue::store::{LoadFailed, Place, Recovered};

use super::disk::{self, DiskFile};
use super::log::Log;
use super::open::remove_if_there;
use super::scan::{self, Damage, Found};
use super::segment::{PAGE, Segment, State};

/// What the progress log says.
#[derive(Default)]
pub(super) struct Notes {
    /// Void places, by segment.
    pub(super) voids: BTreeMap<u32, BTreeSet<u32>>,
    /// How far each segment was synced.
    pub(super) synced: BTreeMap<u32, u32>,
    /// Segments in which nothing counts.
    pub(super) emptied: BTreeSet<u32>,
    /// The highest segment number that was used.
    pub(super) opened: u32,
    /// Where in the log the notes of each message are.
    pub(super) index: Vec<(MessageId, u64)>,
}

impl Notes {
    pub(super) fn add(&mut self, offset: u64, note: &Note) {
        match note {
            Note::Progress { message, .. } => self.index.push((*message, offset)),
            Note::Void { place } => {
                self.voids
                    .entry(place.segment)
                    .or_default()
                    .insert(place.offset);
            }
            Note::Emptied { segment } => {
                self.emptied.insert(*segment);
            }
            Note::Opened { segment } => self.opened = self.opened.max(*segment),
            Note::Synced { end } => {
                let known = self.synced.entry(end.segment).or_default();
                *known = end.offset.max(*known);
            }
        }
    }

    fn is_void(&self, place: Place) -> bool {
        self.voids
            .get(&place.segment)
            .is_some_and(|voids| voids.contains(&place.offset))
    }
}

/// What recovery finds that was not simply written.
#[derive(Default)]
struct Oddities {
    /// Records that are copies of records that are still there.
    copies: BTreeSet<Place>,
    /// Records were lost.
    damaged: bool,
}

impl Log {
    /// Reads all segments and hands every live message to `each`, the oldest first. Nothing can be
    /// written before this ended.
    pub(super) fn recover(
        &mut self,
        notes: &Notes,
        each: &mut dyn FnMut(Recovered) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, LoadFailed> {
        let failed = |e: io::Error| LoadFailed::Io(format!("the queue directory: {e}"));
        self.spooled.clear();
        let mut oddities = Oddities::default();
        let numbers: Vec<u32> = self.segments.keys().copied().collect();
        for number in numbers {
            let flow = self
                .recover_segment(number, notes, &mut oddities, each)
                .map_err(failed)?;
            if flow.is_break() {
                return Ok(flow);
            }
        }
        for place in oddities.copies {
            self.note(&Note::Void { place });
        }
        self.sort_out_spool(oddities.damaged).map_err(failed)?;
        self.recovered = true;
        Ok(ControlFlow::Continue(()))
    }

    /// Removes spool files without a message: bodies that were arriving. But if records were lost to
    /// damage, one of them may have been theirs: then they go to the quarantine.
    fn sort_out_spool(&self, damaged: bool) -> io::Result<()> {
        for message in self.spool.list()? {
            if self.spooled.contains(&message) {
                continue;
            }
            if !damaged {
                tracing::info!(id = %message, "a spool file without a message is removed");
                self.spool.remove(message);
            } else {
                self.quarantine_body(message);
            }
        }
        Ok(())
    }

    fn quarantine_body(&self, message: MessageId) {
        let path = self.paths.spool.join(message.to_string());
        let kept = self.paths.quarantine.join(format!("{message}.body"));
        if let Err(e) = self.disk.rename(&path, &kept) {
            tracing::warn!(id = %message, error = %e, "a body was not moved to the quarantine");
        }
    }

    fn recover_segment(
        &mut self,
        number: u32,
        notes: &Notes,
        oddities: &mut Oddities,
        each: &mut dyn FnMut(Recovered) -> ControlFlow<()>,
    ) -> io::Result<ControlFlow<()>> {
        let Some(old) = self.segments.remove(&number) else {
            return Ok(ControlFlow::Continue(()));
        };
        let file = Arc::clone(&old.slot.file);
        let noted_end = old.noted_end;
        let mut segment = Segment::new(old.slot, State::Sealed, PAGE);
        segment.noted_end = noted_end;
        let synced = notes.synced.get(&number).copied().unwrap_or(0);
        let mut damage = Vec::new();
        let scanned = scan::scan(&*file, (number, self.salt), synced, &mut |found| {
            let place = Place {
                segment: number,
                offset: found.offset,
            };
            self.last_id = self.last_id.max(found.header.id.as_u64());
            if notes.is_void(place) || self.is_copy(&found, place, &mut oddities.copies) {
                segment.push_void(found.offset);
                return Ok(ControlFlow::Continue(()));
            }
            let Some(message) = self.judge(&found, &mut damage)? else {
                segment.push_void(found.offset);
                return Ok(ControlFlow::Continue(()));
            };
            segment.push(found.offset, found.header.record_len());
            let progress = self.notes_of(notes, message.id)?;
            Ok(each(Recovered {
                message,
                place,
                progress,
            }))
        });
        let scanned = match scanned {
            Ok(scanned) => scanned,
            Err(e) => {
                self.segments.insert(number, segment);
                return Err(e);
            }
        };
        segment.end = scanned.end;
        let was_void = |damage: &Damage| {
            notes.is_void(Place {
                segment: number,
                offset: damage.from,
            })
        };
        damage.extend(
            scanned
                .damage
                .into_iter()
                .filter(|damage| !was_void(damage)),
        );
        oddities.damaged |= !damage.is_empty();
        for damage in damage {
            segment.keep |= !self.quarantine(&*file, number, damage);
        }
        self.segments.insert(number, segment);
        Ok(if scanned.stopped {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    }

    /// Whether a record is the copy of one that is still there: the move was cut off.
    fn is_copy(&self, found: &Found<'_>, place: Place, copies: &mut BTreeSet<Place>) -> bool {
        let Some(from) = found.header.stamp.moved_from else {
            return false;
        };
        let original = self.segments.get(&from.segment);
        let there = original.is_some_and(|segment| segment.is_live(from.offset));
        if there || copies.contains(&from) {
            copies.insert(place);
            return true;
        }
        false
    }

    /// The message of a record; none if it cannot be delivered: then it goes to the quarantine.
    fn judge(
        &mut self,
        found: &Found<'_>,
        damage: &mut Vec<Damage>,
    ) -> io::Result<Option<Message>> {
        let Ok(message) = found.header.message(found.payload) else {
            damage.push(found.as_damage());
            return Ok(None);
        };
        if !found.header.spooled {
            return Ok(Some(message));
        }
        if self.spool.is_whole(message.id, message.body_size())? {
            self.spooled.insert(message.id);
            return Ok(Some(message));
        }
        self.quarantine_body(message.id);
        damage.push(found.as_damage());
        Ok(None)
    }

    fn notes_of(&self, notes: &Notes, message: MessageId) -> io::Result<Vec<Progress>> {
        let start = notes.index.partition_point(|(id, _)| *id < message);
        let its = notes.index[start..]
            .iter()
            .take_while(|(id, _)| *id == message);
        let mut all = Vec::new();
        let reader = self.progress.reader();
        for (_, offset) in its {
            if let Some(Note::Progress { progress, .. }) = reader.read(*offset)? {
                all.push(progress);
            }
        }
        Ok(all)
    }

    /// Copies damaged octets aside, once. False if that failed: then the segment must stay.
    fn quarantine(&mut self, file: &dyn DiskFile, segment: u32, damage: Damage) -> bool {
        let name = format!("{segment:08x}-{:08x}", damage.from);
        let path = self.paths.quarantine.join(&name);
        if self.disk.open(&path).is_ok() {
            return true;
        }
        let id = damage.header.map(|header| header.id.to_string());
        tracing::error!(
            segment, offset = damage.from, octets = damage.to - damage.from,
            id, path = %path.display(),
            "a part of the queue is damaged; it is kept in the quarantine, and what was in it is not delivered"
        );
        self.quarantined += 1;
        let copied = self.copy_aside(file, damage, &path);
        if let Err(e) = &copied {
            tracing::error!(error = %e, "the damaged record could not be kept aside; its segment stays");
        }
        copied.is_ok()
    }

    fn copy_aside(&self, file: &dyn DiskFile, damage: Damage, path: &Path) -> io::Result<()> {
        let part = path.with_extension("part");
        remove_if_there(&*self.disk, &part)?;
        let copy = self.disk.create(&part)?;
        let mut bytes = vec![0; 1 << 18];
        let (mut from, to) = (u64::from(damage.from), u64::from(damage.to));
        let start = from;
        while from < to {
            let want = bytes
                .len()
                .min(usize::try_from(to - from).unwrap_or(usize::MAX));
            let filled = disk::read_full_at(file, &mut bytes[..want], from)?;
            if filled == 0 {
                break;
            }
            disk::write_all_at(&*copy, &bytes[..filled], from - start)?;
            from += filled as u64;
        }
        copy.sync_data()?;
        self.disk.rename(&part, path)?;
        self.disk.sync_dir(&self.paths.quarantine)
    }
}
