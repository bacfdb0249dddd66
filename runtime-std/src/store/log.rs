//! The log: all that the writer knows, and the steps by which segments are opened, ended and emptied.
//!
//! It has no thread and no clock: `writer` calls it, and so may a simulator.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use relay_core::id::{MessageId, WriteId};
use relay_core::queue::record::{FileHeader, FileKind, Note};
use relay_core::queue::store::{Place, StoreFailed, StoreMessage};

use super::Options;
use super::commit::Group;
use super::disk::{self, Disk, Lock};
use super::progress::{ProgressLog, SharedLog};
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

/// A message that was discarded, which is noted, and where the engine had it.
pub(super) type Discarded = (MessageId, Place);

/// A message that is damaged, where the engine had it, and what is wrong.
pub(super) type Damaged = (MessageId, Place, String);

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
    /// Slots whose files could not be removed yet.
    pub(super) unremoved: Vec<Slot>,
    pub(super) next_segment: u32,
    pub(super) next_slot: u32,
    pub(super) progress: Arc<SharedLog>,
    /// The length of the progress log after it was last written anew.
    pub(super) progress_base: u64,
    pub(super) rewrite: Option<Rewrite>,
    pub(super) moving: Option<Moving>,
    /// Live messages with a spool file.
    pub(super) spooled: BTreeSet<MessageId>,
    /// Spool files to remove once the notes that say so are synced.
    pub(super) doomed: Vec<MessageId>,
    pub(super) quarantined: u64,
    /// The highest id in what was found.
    pub(super) last_id: u64,
    /// Why the last write failed, until one works.
    pub(super) trouble: Option<StoreFailed>,
    /// The writer panicked: what is known here may be wrong.
    pub(super) panicked: Option<StoreFailed>,
    /// All that an earlier run left was handed over: only now is known what may be moved or dropped.
    pub(super) recovered: bool,
    /// Sealed segments whose checkpoint is to be written.
    pub(super) unindexed: BTreeSet<u32>,
    /// Some sealed segment may have nothing live in it.
    pub(super) emptied: bool,
    /// Some segment was synced further than the notes say.
    pub(super) unnoted: bool,
    pub(super) group: Group,
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
    pub(super) last_id: u64,
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
        let segment_size = (options.segment_size / PAGE).max(2) * PAGE;
        let options = Options {
            segment_size,
            ..options
        };
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
            unremoved: Vec::new(),
            next_segment: parts.next_segment,
            next_slot: parts.next_slot,
            progress_base: 0,
            progress: Arc::new(SharedLog::new(parts.progress)),
            rewrite: None,
            moving: None,
            spooled: BTreeSet::new(),
            doomed: Vec::new(),
            quarantined: parts.quarantined,
            last_id: parts.last_id,
            trouble: None,
            panicked: None,
            recovered: false,
            unindexed: BTreeSet::new(),
            emptied: true,
            unnoted: true,
            group: Group::default(),
            _lock: parts.lock,
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
        self.emptied = true;
        self.unindexed.insert(number);
        self.note_ends();
    }

    /// Notes how far each segment is synced.
    pub(super) fn note_ends(&mut self) {
        if !std::mem::take(&mut self.unnoted) {
            return;
        }
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

    /// Adds a note to the progress log.
    pub(super) fn note(&self, note: &Note) {
        self.progress.add(note);
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
            was: None,
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
        // Whatever comes of it: what cannot be made durable now may not go away either.
        self.next_slot += 1;
        let path = self.paths.slot(number);
        let file = self.disk.create(&path)?;
        if let Err(e) = self.disk.sync_dir(&self.paths.queue) {
            let _ = self.disk.unlink(&path);
            return Err(e);
        }
        Ok(Slot {
            number,
            file,
            was: None,
            len: 0,
        })
    }

    /// Removes a file in which nothing counts.
    pub(super) fn remove_slot(&mut self, slot: Slot) {
        match self.disk.unlink(&self.paths.slot(slot.number)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(slot = slot.number, error = %e, "a segment file cannot be removed now");
                self.unremoved.push(slot);
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// Takes in which messages were discarded.
    pub(super) fn apply(&mut self, discarded: Vec<Discarded>) {
        for (message, noted) in discarded {
            let place = self.table.settle(message).unwrap_or(noted);
            if place != noted {
                self.note(&Note::Void { place });
            }
            self.void(message, place);
        }
    }

    /// Makes a record void, which is noted, and its spool file with it.
    pub(super) fn void(&mut self, message: MessageId, place: Place) {
        let Some(segment) = self.segments.get_mut(&place.segment) else {
            return;
        };
        if !segment.void(place.offset) {
            return;
        }
        self.emptied |= segment.live() == 0;
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
