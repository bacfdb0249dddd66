//! Finding what is in the queue after a start: first which records there are, then what is in them.
//!
//! ```text
//!  open:     lock ─▶ salt ─▶ segment headers ─▶ progress log: void places, synced ends, where the
//!                                               notes of each message are
//!  take_stock: each segment: its index checkpoint, or else a scan ─▶ which records are live, which ids
//!            were used. From here on messages are accepted.
//!  recover:  each live record, the oldest first, with its notes ─▶ visitor
//!            damage ─▶ quarantine        spool files without a record ─▶ removed
//! ```
//!
//! A checkpoint is believed only beside a whole progress log: it was written after the notes about its
//! segment were synced, so what it lists and no note voids is live. Nothing that exists is changed before
//! it was copied aside, so recovery can be cut off and begun again at any point. It keeps sixteen octets
//! for each note and four for each record in memory, and a window of a segment.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use relay_core::id::MessageId;
use relay_core::queue::message::Message;
use relay_core::queue::record::{HEADER_LEN, Header, Note, Progress};
use relay_core::queue::store::{LoadFailed, Place, Recovered, Recovering};

use super::disk::DiskFile;
use super::log::Log;
use super::progress::NoteReader;
use super::scan::{self, Damage, Found, Window};
use super::writer::{Shared, figures, lock};

/// How many records are looked up at once.
const BATCH: usize = 512;

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
    /// Nothing of the log is damaged or missing.
    pub(super) intact: bool,
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

/// What is left to be handed over.
pub(super) struct Recovery {
    index: Vec<(MessageId, u64)>,
    notes: NoteReader,
    segments: VecDeque<u32>,
    /// The segment that is being read.
    window: Option<Window>,
    /// Records of the first segment before this offset are done.
    offset: u32,
    /// Spool files that were there at the start, and that no message was found for yet.
    bodies: BTreeSet<MessageId>,
    /// Records were lost.
    damaged: bool,
    progress: Recovering,
}

// ---- which records there are ----

impl Log {
    /// Finds out which records are live, and which ids were used. Writing may begin after this.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn take_stock(&mut self, notes: Notes) -> io::Result<Recovery> {
        let numbers: VecDeque<u32> = self.segments.keys().copied().collect();
        let (mut copies, mut damaged, mut scanned) = (Vec::new(), false, 0);
        for &number in &numbers {
            if !self.read_index(number, &notes) {
                damaged |= self.scan_segment(number, &notes, &mut copies)?;
                self.unindexed.insert(number);
                scanned += 1;
            }
        }
        if scanned > 1 {
            tracing::info!(
                scanned,
                segments = numbers.len(),
                "segments without a checkpoint were read"
            );
        }
        damaged |= self.miss_segments(&notes);
        self.drop_copies(copies)?;
        let bodies: BTreeSet<MessageId> = self.spool.list()?.into_iter().collect();
        let last = bodies.last().map_or(0, |id| id.as_u64());
        self.last_id = self.last_id.max(last);
        let total = self
            .segments
            .values()
            .map(|segment| u64::from(segment.live()))
            .sum();
        Ok(Recovery {
            index: notes.index,
            notes: self.progress.reader(),
            segments: numbers,
            window: None,
            offset: 0,
            bodies,
            damaged,
            progress: Recovering { done: 0, total },
        })
    }

    /// Tells of segments that were written to and are not there. True if there are such.
    fn miss_segments(&mut self, notes: &Notes) -> bool {
        let is_gone =
            |number: &&u32| !self.segments.contains_key(number) && !notes.emptied.contains(number);
        let gone: Vec<u32> = notes.synced.keys().filter(is_gone).copied().collect();
        for &number in &gone {
            let nothing = Damage {
                from: 0,
                to: 0,
                header: None,
            };
            self.quarantine(None, number, nothing, None, "the whole segment is gone");
        }
        !gone.is_empty()
    }

    /// Takes a segment's records from its checkpoint; false if there is none to be believed.
    fn read_index(&mut self, number: u32, notes: &Notes) -> bool {
        let Some(index) = self.checkpoint(number, notes.intact) else {
            return false;
        };
        let Some(segment) = self.segments.get_mut(&number) else {
            return false;
        };
        if index.end > segment.slot.len {
            tracing::warn!(
                segment = number,
                "a segment is shorter than its checkpoint says: it is read"
            );
            return false;
        }
        segment.restore(&index, notes.voids.get(&number));
        self.last_id = self.last_id.max(index.last_id);
        true
    }

    /// Reads a segment. True if something in it is damaged.
    fn scan_segment(
        &mut self,
        number: u32,
        notes: &Notes,
        copies: &mut Vec<(MessageId, Place, Place)>,
    ) -> io::Result<bool> {
        let Some(mut segment) = self.segments.remove(&number) else {
            return Ok(false);
        };
        let file = Arc::clone(&segment.slot.file);
        let synced = notes.synced.get(&number).copied().unwrap_or(0);
        let scanned = scan::scan(&file, (number, self.salt), synced, &mut |found: Found| {
            let place = Place {
                segment: number,
                offset: found.offset,
            };
            let id = found.header.id;
            segment.last_id = segment.last_id.max(id.as_u64());
            if notes.is_void(place) {
                segment.push_void(found.offset);
                return;
            }
            segment.push(found.offset, found.header.record_len());
            copies.extend(found.header.stamp.moved_from.map(|from| (id, place, from)));
        });
        self.last_id = self.last_id.max(segment.last_id);
        let was_void = |damage: &Damage| {
            notes.is_void(Place {
                segment: number,
                offset: damage.from,
            })
        };
        let mut damaged = false;
        if let Ok(scanned) = &scanned {
            segment.end = scanned.end;
            for damage in scanned.damage.iter().filter(|damage| !was_void(damage)) {
                damaged = true;
                let why = match damage.header {
                    Some(_) => "its checksum is wrong, or it is cut short",
                    None if damage.to >= segment.slot.len => {
                        "the file ends before what was written to it does"
                    }
                    None => "there is no record where one was written",
                };
                let id = damage.header.map(|header| header.id);
                segment.keep |= !self.quarantine(Some(&*file), number, *damage, id, why);
            }
        }
        self.segments.insert(number, segment);
        scanned.map(|_| damaged)
    }

    /// Of a record and its copy one counts: the original if it is still whole. A move that was cut off
    /// leaves such pairs, no more than it copies at once.
    fn drop_copies(&mut self, copies: Vec<(MessageId, Place, Place)>) -> io::Result<()> {
        for (id, place, from) in copies {
            let Some(original) = self.segments.get_mut(&from.segment) else {
                continue;
            };
            if !original.is_live(from.offset) {
                continue;
            }
            let file = Arc::clone(&original.slot.file);
            let whole = match super::writer::read_message(&*file, from, self.salt) {
                Ok((header, _, _)) => header.id == id,
                Err(LoadFailed::Damaged(_)) => false,
                Err(LoadFailed::Io(why)) => return Err(io::Error::other(why)),
            };
            let void = if whole { place } else { from };
            if let Some(segment) = self.segments.get_mut(&void.segment) {
                segment.void(void.offset);
            }
            self.note(&Note::Void { place: void });
        }
        Ok(())
    }
}

// ---- what is in them ----

impl Shared {
    /// Hands every live message of an earlier run to `each`, the oldest first.
    pub(super) fn recover(
        &self,
        each: &mut dyn FnMut(Recovered) -> ControlFlow<()>,
    ) -> Result<(), LoadFailed> {
        let failed = |e: io::Error| LoadFailed::Io(format!("the queue directory: {e}"));
        let mut recovery = lock(&self.recovery);
        let Some(left) = recovery.as_mut() else {
            return Err(LoadFailed::Io("the queue was recovered before".to_owned()));
        };
        while let Some(&number) = left.segments.front() {
            let flow = self.hand_over(left, number, each).map_err(failed)?;
            lock(&self.figures).recovering = Some(left.progress);
            match flow {
                ControlFlow::Break(()) => return Ok(()),
                ControlFlow::Continue(true) => {}
                ControlFlow::Continue(false) => {
                    left.segments.pop_front();
                    (left.window, left.offset) = (None, 0);
                }
            }
        }
        let mut log = lock(&self.log);
        let log = log.as_mut().ok_or_else(closed).map_err(failed)?;
        log.sort_out_spool(left);
        log.recovered = true;
        log.emptied = true;
        *recovery = None;
        *lock(&self.figures) = figures(log);
        self.wake_for_notes(lock(&self.waiting));
        Ok(())
    }

    /// Hands over some of a segment. False if there is no more in it.
    fn hand_over(
        &self,
        left: &mut Recovery,
        number: u32,
        each: &mut dyn FnMut(Recovered) -> ControlFlow<()>,
    ) -> io::Result<ControlFlow<(), bool>> {
        let (file, offsets) = {
            let log = lock(&self.log);
            let log = log.as_ref().ok_or_else(closed)?;
            let Some(segment) = log.segments.get(&number) else {
                return Ok(ControlFlow::Continue(false));
            };
            let offsets: Vec<u32> = segment.live_from(left.offset).take(BATCH).collect();
            (Arc::clone(&segment.slot.file), offsets)
        };
        if offsets.is_empty() {
            return Ok(ControlFlow::Continue(false));
        }
        for offset in offsets {
            let place = Place {
                segment: number,
                offset,
            };
            match self.read_live(left, place, &file)? {
                Ok(message) => {
                    let progress = left.notes_of(message.id)?;
                    left.bodies.remove(&message.id);
                    left.pass(offset);
                    let recovered = Recovered {
                        message,
                        place,
                        progress,
                    };
                    if each(recovered).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Err((damage, why)) => {
                    let mut log = lock(&self.log);
                    let log = log.as_mut().ok_or_else(closed)?;
                    let id = damage.header.map(|header| header.id);
                    log.set_aside(&file, number, damage, id, &why);
                    left.damaged = true;
                    left.pass(offset);
                }
            }
        }
        Ok(ControlFlow::Continue(true))
    }

    /// Reads one record, or says what is wrong with it.
    fn read_live(
        &self,
        left: &mut Recovery,
        place: Place,
        file: &Arc<dyn DiskFile>,
    ) -> io::Result<Result<Message, (Damage, String)>> {
        if left.window.is_none() {
            left.window = Some(Window::new(file)?);
        }
        let Some(window) = &mut left.window else {
            return Err(closed());
        };
        let damage = |to: u32, header| Damage {
            from: place.offset,
            to,
            header,
        };
        let start = window.get(place.offset, HEADER_LEN)?;
        let header = match Header::parse(start) {
            Ok(header)
                if header.stamp.generation == place.segment && header.stamp.salt == self.salt =>
            {
                header
            }
            Ok(_) | Err(_) => {
                let to = self.next_record(place);
                let why = "there is no record where one was written".to_owned();
                return Ok(Err((damage(to, None), why)));
            }
        };
        let to = window.clamp(u64::from(place.offset) + header.record_len() as u64);
        let record = window.get(place.offset, header.record_len())?;
        let payload = record.get(HEADER_LEN..).unwrap_or(&[]);
        let message = match header.check(payload).and_then(|()| header.message(payload)) {
            Ok(message) => message,
            Err(why) => return Ok(Err((damage(to, Some(header)), why.to_string()))),
        };
        if !header.spooled {
            return Ok(Ok(message));
        }
        if self.spool.is_whole(message.id, message.body_size())? {
            if let Some(log) = lock(&self.log).as_mut() {
                log.spooled.insert(message.id);
            }
            return Ok(Ok(message));
        }
        let why = "its spool file is gone or cut short".to_owned();
        Ok(Err((damage(to, Some(header)), why)))
    }

    /// Where the record behind this one begins.
    fn next_record(&self, place: Place) -> u32 {
        let log = lock(&self.log);
        let segment = log
            .as_ref()
            .and_then(|log| log.segments.get(&place.segment));
        segment.map_or(place.offset, |segment| segment.next_after(place.offset))
    }
}

impl Recovery {
    fn pass(&mut self, offset: u32) {
        self.offset = offset.saturating_add(1);
        self.progress.done += 1;
    }

    pub(super) fn progress(&self) -> Recovering {
        self.progress
    }

    fn notes_of(&self, message: MessageId) -> io::Result<Vec<Progress>> {
        let start = self.index.partition_point(|(id, _)| *id < message);
        let its = self.index[start..]
            .iter()
            .take_while(|(id, _)| *id == message);
        let mut all = Vec::new();
        for (_, offset) in its {
            if let Some(Note::Progress { progress, .. }) = self.notes.read(*offset)? {
                all.push(progress);
            }
        }
        Ok(all)
    }
}

impl Log {
    /// A record that cannot be delivered goes to the quarantine, with its body.
    pub(super) fn set_aside(
        &mut self,
        file: &Arc<dyn DiskFile>,
        number: u32,
        damage: Damage,
        message: Option<MessageId>,
        why: &str,
    ) {
        if let Some(header) = damage.header.filter(|header| header.spooled) {
            self.quarantine_body(header.id);
        }
        let kept = self.quarantine(Some(&**file), number, damage, message, why);
        if let Some(segment) = self.segments.get_mut(&number) {
            segment.void(damage.from);
            segment.keep |= !kept;
        }
    }

    /// Removes spool files without a message: bodies that were arriving. But if records were lost to
    /// damage, one of them may have been theirs: then they go to the quarantine.
    fn sort_out_spool(&self, left: &Recovery) {
        for &message in &left.bodies {
            if left.damaged {
                self.quarantine_body(message);
            } else {
                tracing::info!(id = %message, "a spool file without a message is removed");
                self.spool.remove(message);
            }
        }
    }
}

fn closed() -> io::Error {
    io::Error::other("the store is closed")
}
