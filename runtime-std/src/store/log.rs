//! The log: what the writer does, one step after another, with no thread and no clock.
//!
//! ```text
//!  commit:  take what fits ─▶ extend the file if needed ─▶ one write ─▶ one sync ─▶ receipts
//!                                   │ no room: Full          │ failed: sealed  │ failed: poisoned
//! ```
//!
//! A group that failed is void: its places are noted as such, durably if the disk still allows it,
//! before anybody hears of the failure, and its octets are never written over, so that nothing that
//! was refused comes back after a restart. The next group starts in another segment, whose header must
//! be synced first: that is the proof that the disk works again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use relay_core::id::{MessageId, WriteId};
use relay_core::queue::message::Body;
use relay_core::queue::record::{
    ALIGN, FileHeader, FileKind, HEADER_LEN, Note, Progress, Stamp, encode,
};
use relay_core::queue::store::{Place, StoreFailed, StoreMessage};

use super::Options;
use super::disk::{self, Disk, Lock};
use super::progress::ProgressLog;
use super::segment::{PAGE, Segment, Slot, State, Table};
use super::spool::Spool;
use super::upkeep::{Moving, Rewrite};

/// Where the store's files are.
pub(super) struct Paths {
    pub(super) queue: PathBuf,
    pub(super) spool: PathBuf,
    pub(super) quarantine: PathBuf,
}

impl Paths {
    pub(super) fn new(data_dir: &Path) -> Self {
        let queue = data_dir.join("queue");
        Self {
            spool: queue.join("spool"),
            quarantine: queue.join("quarantine"),
            queue,
        }
    }

    pub(super) fn slot(&self, number: u32) -> PathBuf {
        self.queue.join(format!("segment-{number:08x}"))
    }

    pub(super) fn progress(&self, number: u32) -> PathBuf {
        self.queue.join(ProgressLog::name(number))
    }
}

/// A message that waits to be written.
pub(super) struct Write {
    pub(super) id: WriteId,
    pub(super) message: StoreMessage,
}

/// How a write ended.
pub(super) type Receipt = (WriteId, Result<Place, StoreFailed>);

/// What happened to a message, in the order in which the engine said it.
pub(super) enum Event {
    Note(MessageId, Progress),
    Discard(MessageId, Place),
}

/// Records that share one write and one sync.
#[derive(Default)]
struct Group {
    /// The octets, from `start` in the active segment.
    buf: Vec<u8>,
    start: u32,
    records: Vec<Member>,
}

struct Member {
    id: MessageId,
    offset: u32,
    len: usize,
}

pub(super) struct Log {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) paths: Paths,
    pub(super) options: Options,
    pub(super) salt: u64,
    pub(super) table: Arc<Table>,
    pub(super) spool: Arc<Spool>,
    /// By number, so the oldest first.
    pub(super) segments: BTreeMap<u32, Segment>,
    pub(super) active: Option<u32>,
    pub(super) free: Vec<Slot>,
    pub(super) next_segment: u32,
    pub(super) next_slot: u32,
    pub(super) progress: ProgressLog,
    /// The length of the progress log after it was last written anew.
    pub(super) progress_base: u64,
    pub(super) rewrite: Option<Rewrite>,
    pub(super) moving: Option<Moving>,
    /// Live messages with a spool file.
    pub(super) spooled: BTreeSet<MessageId>,
    /// Spool files to remove once the notes that say so are synced.
    pub(super) doomed: Vec<MessageId>,
    pub(super) quarantined: u64,
    /// Why the last write failed, until one works.
    pub(super) trouble: Option<StoreFailed>,
    pub(super) recovered: bool,
    group: Group,
    pub(super) _lock: Box<dyn Lock>,
}

/// What [`Log::open`] found out before a log can be made of it.
pub(super) struct Parts {
    pub(super) salt: u64,
    pub(super) segments: BTreeMap<u32, Segment>,
    pub(super) free: Vec<Slot>,
    pub(super) next_segment: u32,
    pub(super) next_slot: u32,
    pub(super) progress: ProgressLog,
    pub(super) quarantined: u64,
    pub(super) lock: Box<dyn Lock>,
}

impl Log {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        paths: Paths,
        options: Options,
        shared: (Arc<Table>, Arc<Spool>),
        parts: Parts,
    ) -> Self {
        let (table, spool) = shared;
        for (&number, segment) in &parts.segments {
            table.open(number, Arc::clone(&segment.slot.file));
        }
        Self {
            disk,
            paths,
            options,
            salt: parts.salt,
            table,
            spool,
            segments: parts.segments,
            active: None,
            free: parts.free,
            next_segment: parts.next_segment,
            next_slot: parts.next_slot,
            progress_base: parts.progress.len(),
            progress: parts.progress,
            rewrite: None,
            moving: None,
            spooled: BTreeSet::new(),
            doomed: Vec::new(),
            quarantined: parts.quarantined,
            trouble: None,
            recovered: false,
            group: Group::default(),
            _lock: parts.lock,
        }
    }

    /// Writes one group: what fits of `writes`, from the front. Each that leaves `writes` has its
    /// receipt.
    pub(super) fn commit(&mut self, writes: &mut VecDeque<Write>, receipts: &mut Vec<Receipt>) {
        if let Err(failed) = self.prepare() {
            receipts.extend(
                writes
                    .drain(..)
                    .map(|write| (write.id, Err(failed.clone()))),
            );
            return;
        }
        let low = self.is_low();
        let mut written = Vec::new();
        while let Some(next) = writes.front() {
            match self.admit(next, low) {
                Ok(true) => written.push(next.id),
                Ok(false) => break,
                Err(failed) => receipts.push((next.id, Err(failed))),
            }
            writes.pop_front();
        }
        match self.write_group() {
            Ok(places) => {
                let places = places.into_iter().map(|(_, place)| Ok(place));
                receipts.extend(written.into_iter().zip(places));
            }
            Err(failed) => {
                receipts.extend(written.into_iter().map(|id| (id, Err(failed.clone()))));
            }
        }
    }

    /// There is an active segment afterwards.
    fn prepare(&mut self) -> Result<(), StoreFailed> {
        if !self.recovered {
            return Err(StoreFailed::Broken(
                "the queue was not recovered yet".to_owned(),
            ));
        }
        let ready = if self.active.is_some() {
            Ok(())
        } else {
            self.activate()
        };
        self.conclude(ready)
    }

    /// Remembers what `status` says and `upkeep` tries to mend.
    fn conclude<T>(&mut self, result: Result<T, StoreFailed>) -> Result<T, StoreFailed> {
        match &result {
            Ok(_) => self.trouble = None,
            Err(failed) => {
                if self.trouble.as_ref() != Some(failed) {
                    tracing::error!(error = %failed, "the store refuses messages");
                }
                self.trouble = Some(failed.clone());
            }
        }
        result
    }

    /// Less is free than the reserve, even after giving back what nobody uses.
    fn is_low(&mut self) -> bool {
        loop {
            match self.disk.free_space(&self.paths.queue) {
                Ok(free) if free >= self.options.reserve => return false,
                Ok(_) => {}
                // Whether there is room will show.
                Err(_) => return false,
            }
            let Some(slot) = self.free.pop() else {
                return true;
            };
            self.remove_slot(slot);
        }
    }

    /// Adds a message to the group; false if the group is full.
    fn admit(&mut self, write: &Write, low: bool) -> Result<bool, StoreFailed> {
        let StoreMessage { message, body } = &write.message;
        // The relay's own reports may use the reserve: they are how senders learn of the trouble.
        let own = message.origin.credential.is_none() && message.origin.peer.is_none();
        if low && !own {
            return Err(StoreFailed::Full);
        }
        if self.group.buf.len() >= self.options.group_max {
            return Ok(false);
        }
        if !self.add(message.id, |buf, stamp| encode(buf, stamp, message, body))? {
            return Ok(false);
        }
        match body {
            Body::Memory(_) => {}
            Body::Spooled => {
                if let Err(failed) = self.spool.seal(message.id, message.size) {
                    self.remove_last();
                    return Err(failed);
                }
                self.spooled.insert(message.id);
            }
        }
        Ok(true)
    }

    /// Adds a record to the group; false if it must wait for the next group.
    pub(super) fn add(
        &mut self,
        id: MessageId,
        write: impl Fn(&mut Vec<u8>, Stamp),
    ) -> Result<bool, StoreFailed> {
        loop {
            let Some((number, segment)) = self.active_segment() else {
                return Err(StoreFailed::Broken("no segment is open".to_owned()));
            };
            let (start, fresh) = (segment.end, segment.end == PAGE);
            self.group.start = start;
            let at = self.group.buf.len();
            let offset = start as usize + at;
            let stamp = Stamp {
                generation: number,
                salt: self.salt,
                batch: start,
                moved_from: None,
            };
            write(&mut self.group.buf, stamp);
            let len = self.group.buf.len() - at;
            let padded = self.group.buf.len().next_multiple_of(ALIGN);
            if start as usize + padded <= self.options.segment_size as usize {
                self.group.buf.resize(padded, 0);
                let offset = u32::try_from(offset).unwrap_or(u32::MAX);
                self.group.records.push(Member { id, offset, len });
                return Ok(true);
            }
            self.group.buf.truncate(at);
            if !self.group.records.is_empty() {
                return Ok(false);
            }
            if fresh {
                return Err(StoreFailed::Broken(format!(
                    "a record of {len} octets is over the segment size of {}",
                    self.options.segment_size
                )));
            }
            self.seal();
            let ready = self.activate();
            self.conclude(ready)?;
        }
    }

    fn remove_last(&mut self) {
        if let Some(member) = self.group.records.pop() {
            self.group
                .buf
                .truncate((member.offset - self.group.start) as usize);
        }
    }

    fn active_segment(&mut self) -> Option<(u32, &mut Segment)> {
        let number = self.active?;
        self.segments
            .get_mut(&number)
            .map(|segment| (number, segment))
    }

    /// Writes and syncs the group. Says where each record is.
    pub(super) fn write_group(&mut self) -> Result<Vec<(MessageId, Place)>, StoreFailed> {
        let group = std::mem::take(&mut self.group);
        let result = if group.records.is_empty() {
            Ok(Vec::new())
        } else {
            self.put(&group)
        };
        let result = self.conclude_group(&group, result);
        self.group = group;
        self.group.records.clear();
        self.group.buf.clear();
        self.group.buf.shrink_to(1 << 20);
        result
    }

    fn conclude_group(
        &mut self,
        group: &Group,
        result: Result<Vec<(MessageId, Place)>, StoreFailed>,
    ) -> Result<Vec<(MessageId, Place)>, StoreFailed> {
        if group.records.is_empty() {
            return result;
        }
        if result.is_err() {
            for member in &group.records {
                if self.spooled.remove(&member.id) {
                    self.doomed.push(member.id);
                }
            }
        }
        self.conclude(result)
    }

    fn put(&mut self, group: &Group) -> Result<Vec<(MessageId, Place)>, StoreFailed> {
        let end = group.start as usize + group.buf.len();
        let end = u32::try_from(end.next_multiple_of(PAGE as usize)).unwrap_or(u32::MAX);
        self.extend(end)?;
        let Some((number, segment)) = self.active_segment() else {
            return Err(StoreFailed::Broken("no segment is open".to_owned()));
        };
        let mut written = disk::write_all_at(&*segment.slot.file, &group.buf, group.start.into());
        let padding = end as usize - group.start as usize - group.buf.len();
        if written.is_ok() && padding > 0 {
            let at = u64::from(end) - padding as u64;
            written = disk::write_all_at(&*segment.slot.file, &[0; PAGE as usize][..padding], at);
        }
        if let Err(e) = written {
            self.give_up(group, State::Sealed);
            return Err(disk::failure("a segment file", &e));
        }
        if let Err(e) = segment.slot.file.sync_data() {
            tracing::error!(segment = number, error = %e, "a sync failed: the file is not used again");
            self.give_up(group, State::Poisoned);
            return Err(disk::failure("the sync of a segment file", &e));
        }
        segment.end = end;
        let place = |member: &Member| Place {
            segment: number,
            offset: member.offset,
        };
        group
            .records
            .iter()
            .for_each(|member| segment.push(member.offset, member.len));
        Ok(group
            .records
            .iter()
            .map(|member| (member.id, place(member)))
            .collect())
    }

    /// Makes the file at least `end` long, with zeros, a good deal at once: syncing octets that were
    /// written before costs half as much as syncing new ones. No record is touched, so a failure for
    /// want of room leaves nothing behind.
    pub(super) fn extend(&mut self, end: u32) -> Result<(), StoreFailed> {
        let (step, size) = (self.options.extent, self.options.segment_size);
        let Some((_, segment)) = self.active_segment() else {
            return Ok(());
        };
        if end <= segment.slot.len {
            return Ok(());
        }
        let target = end
            .div_ceil(step)
            .saturating_mul(step)
            .clamp(end, size.max(end));
        let zeros = vec![0; (step as usize).min(1 << 18)];
        while segment.slot.len < target {
            let now = zeros.len().min((target - segment.slot.len) as usize);
            disk::write_all_at(&*segment.slot.file, &zeros[..now], segment.slot.len.into())
                .map_err(|e| disk::failure("growing a segment file", &e))?;
            segment.slot.len += u32::try_from(now).unwrap_or(0);
        }
        Ok(())
    }

    /// Ends the active segment after a failure, and makes the group's places void.
    fn give_up(&mut self, group: &Group, state: State) {
        let Some(number) = self.active.take() else {
            return;
        };
        if let Some(segment) = self.segments.get_mut(&number) {
            segment.state = state;
            group
                .records
                .iter()
                .for_each(|member| segment.push_void(member.offset));
        }
        for member in &group.records {
            self.note(&Note::Void {
                place: Place {
                    segment: number,
                    offset: member.offset,
                },
            });
        }
        if let Err(e) = self.progress.sync() {
            tracing::error!(
                error = %e,
                "messages were refused, but that could not be noted: after a crash they may be found"
            );
        }
    }

    /// Ends the active segment: it is full.
    pub(super) fn seal(&mut self) {
        let Some(number) = self.active.take() else {
            return;
        };
        let Some(segment) = self.segments.get_mut(&number) else {
            return;
        };
        segment.state = State::Sealed;
        self.note_ends();
    }

    /// Notes how far each segment is synced.
    pub(super) fn note_ends(&mut self) {
        let mut notes = Vec::new();
        for (&number, segment) in &mut self.segments {
            if segment.end > segment.noted_end {
                segment.noted_end = segment.end;
                notes.push(Note::Synced {
                    end: Place {
                        segment: number,
                        offset: segment.end,
                    },
                });
            }
        }
        notes.iter().for_each(|note| self.note(note));
    }

    /// Adds a note to the progress log, and to the one that is being written anew.
    pub(super) fn note(&mut self, note: &Note) {
        self.progress.add(note);
        if let Some(rewrite) = &mut self.rewrite {
            rewrite.log.add(note);
        }
    }

    /// Opens a segment for writing, in a free slot or a new one. Its number is noted durably first,
    /// and with it that nothing in the slot counts any more; then its header is synced.
    pub(super) fn activate(&mut self) -> Result<(), StoreFailed> {
        let number = self.next_segment;
        self.note(&Note::Opened { segment: number });
        self.progress
            .sync()
            .map_err(|e| disk::failure("the progress log", &e))?;
        self.next_segment += 1;
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => self
                .new_slot()
                .map_err(|e| disk::failure("a new segment file", &e))?,
        };
        let header = FileHeader {
            kind: FileKind::Segment,
            number,
            salt: self.salt,
        };
        let mut page = [0; PAGE as usize];
        page[..FileHeader::LEN].copy_from_slice(&header.encode());
        let written = disk::write_all_at(&*slot.file, &page, 0);
        if let Err(e) = written.and_then(|()| slot.file.sync_data()) {
            self.remove_slot(slot);
            return Err(disk::failure("the header of a segment file", &e));
        }
        let slot = Slot {
            len: slot.len.max(PAGE),
            ..slot
        };
        self.table.open(number, Arc::clone(&slot.file));
        self.segments
            .insert(number, Segment::new(slot, State::Active, PAGE));
        self.active = Some(number);
        Ok(())
    }

    fn new_slot(&mut self) -> io::Result<Slot> {
        let number = self.next_slot;
        let path = self.paths.slot(number);
        let file = self.disk.create(&path)?;
        if let Err(e) = self.disk.sync_dir(&self.paths.queue) {
            let _ = self.disk.unlink(&path);
            return Err(e);
        }
        self.next_slot += 1;
        Ok(Slot {
            number,
            file,
            len: 0,
        })
    }

    pub(super) fn remove_slot(&self, slot: Slot) {
        if let Err(e) = self.disk.unlink(&self.paths.slot(slot.number)) {
            tracing::warn!(slot = slot.number, error = %e, "a segment file was not removed");
        }
    }

    /// Takes in what the engine said of messages.
    pub(super) fn apply(&mut self, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Note(message, progress) => self.note(&Note::Progress { message, progress }),
                Event::Discard(message, place) => {
                    let place = self.table.settle(message).unwrap_or(place);
                    self.void(message, place);
                }
            }
        }
    }

    /// Makes a record void, and its spool file with it.
    pub(super) fn void(&mut self, message: MessageId, place: Place) {
        let known = self.segments.get_mut(&place.segment);
        if !known.is_some_and(|segment| segment.void(place.offset)) {
            return;
        }
        self.note(&Note::Void { place });
        if self.spooled.remove(&message) {
            self.doomed.push(message);
        }
    }

    /// Octets in files, and in live records.
    pub(super) fn sizes(&self) -> (u64, u64) {
        let used = self
            .segments
            .values()
            .map(|segment| u64::from(segment.slot.len))
            .sum::<u64>();
        let free = self
            .free
            .iter()
            .map(|slot| u64::from(slot.len))
            .sum::<u64>();
        let live = self.segments.values().map(Segment::live_bytes).sum();
        (used + free + self.progress.len(), live)
    }
}

// A record's header and its alignment are what the padding rules of this file count on.
const _: () = assert!(HEADER_LEN == ALIGN && (PAGE as usize).is_multiple_of(ALIGN));
