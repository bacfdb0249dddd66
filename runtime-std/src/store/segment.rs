//! Segments: which file holds which records, and which of them are live.
//!
//! ```text
//!              activate                seal (full, failed write, restart)
//!   free slot ──────────▶ active ─────────────────────────▶ sealed
//!       ▲                    │ a sync failed                   │ nothing in it is live
//!       │                    ▼                                 │
//!       │                 poisoned ── nothing live: file removed
//!       └──────────────────────────────────────────────────────┘
//! ```
//!
//! A slot is a file; a segment is one use of a slot, with a number that no other use has. The index
//! keeps four octets for each record: its offset, and whether it is void.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use relay_core::id::MessageId;
use relay_core::queue::record::{ALIGN, Index};
use relay_core::queue::store::Place;

use super::disk::DiskFile;

/// Groups start and end at multiples of this, so that no write touches a page that holds acknowledged
/// records, and the kernel never has to read a page before it can write a part of it.
pub(super) const PAGE: u32 = 4096;

/// The lowest bit of an index entry; offsets are multiples of [`ALIGN`].
const VOID: u32 = 1;
const _: () = assert!(ALIGN > 1);

/// A segment file.
pub(super) struct Slot {
    /// Its number, in its name.
    pub(super) number: u32,
    /// The open file.
    pub(super) file: Arc<dyn DiskFile>,
    /// The segment that was in it last, if it is free: its records are still there to be read.
    pub(super) was: Option<u32>,
    /// Its length: octets before it were written once.
    pub(super) len: u32,
}

/// What may still be done with a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It is written. At most one is.
    Active,
    /// It is read only, until nothing in it is live; then its file is used again.
    Sealed,
    /// As sealed, but its file is never written again.
    Poisoned,
}

/// One use of a slot.
pub(super) struct Segment {
    pub(super) slot: Slot,
    pub(super) state: State,
    /// Where the next group starts; all before it is synced, but for void records.
    pub(super) end: u32,
    /// The `end` that the progress log knows.
    pub(super) noted_end: u32,
    /// It holds damage that could not be copied aside: it stays as it is.
    pub(super) keep: bool,
    /// The highest message id in it.
    pub(super) last_id: u64,
    /// It has a checkpoint.
    pub(super) indexed: bool,
    /// Offsets of records, ascending, with [`VOID`] for those that do not count any more.
    records: Vec<u32>,
    live: u32,
    live_bytes: u64,
}

impl Segment {
    pub(super) fn new(slot: Slot, state: State, end: u32) -> Self {
        Self {
            slot,
            state,
            end,
            noted_end: 0,
            keep: false,
            last_id: 0,
            indexed: false,
            records: Vec::new(),
            live: 0,
            live_bytes: 0,
        }
    }

    /// Takes over what its checkpoint says, and what became void since.
    pub(super) fn restore(&mut self, index: &Index, voids: Option<&BTreeSet<u32>>) {
        self.end = index.end;
        self.last_id = index.last_id;
        self.indexed = true;
        self.records.clone_from(&index.records);
        for at in 0..self.records.len() {
            let entry = &mut self.records[at];
            if voids.is_some_and(|voids| voids.contains(&(*entry & !VOID))) {
                *entry |= VOID;
            }
            if *entry & VOID == 0 {
                self.live += 1;
                self.live_bytes += u64::from(self.next_offset(at) - self.records[at]);
            }
        }
    }

    /// What its checkpoint says.
    pub(super) fn index(&self, number: u32) -> Index {
        Index {
            segment: number,
            end: self.end,
            last_id: self.last_id,
            records: self.records.clone(),
        }
    }

    /// Where the record behind the one at `offset` begins, or its octets end.
    pub(super) fn next_after(&self, offset: u32) -> u32 {
        self.position(offset)
            .map_or(offset, |index| self.next_offset(index))
    }

    /// Adds a live record at the end.
    pub(super) fn push(&mut self, offset: u32, len: usize) {
        debug_assert!(self.records.last().is_none_or(|&last| last < offset));
        self.records.push(offset);
        self.live += 1;
        self.live_bytes += len as u64;
    }

    /// Adds a record that never counted.
    pub(super) fn push_void(&mut self, offset: u32) {
        self.records.push(offset | VOID);
    }

    /// Makes a record void; false if it is unknown or was void.
    pub(super) fn void(&mut self, offset: u32) -> bool {
        let Some(index) = self.position(offset) else {
            return false;
        };
        if self.records[index] & VOID != 0 {
            return false;
        }
        self.records[index] |= VOID;
        self.live -= 1;
        // The record with the padding behind it is close enough for deciding what to empty; nothing
        // is left over when the last record goes.
        let len = u64::from(self.next_offset(index) - offset);
        self.live_bytes = if self.live == 0 {
            0
        } else {
            self.live_bytes.saturating_sub(len)
        };
        true
    }

    fn position(&self, offset: u32) -> Option<usize> {
        self.records
            .binary_search_by_key(&offset, |entry| entry & !VOID)
            .ok()
    }

    fn next_offset(&self, index: usize) -> u32 {
        self.records
            .get(index + 1)
            .map_or(self.end.max(self.records[index]), |next| next & !VOID)
    }

    /// Whether there is a live record.
    pub(super) fn is_live(&self, offset: u32) -> bool {
        self.position(offset)
            .is_some_and(|index| self.records[index] & VOID == 0)
    }

    /// How many records are live.
    pub(super) fn live(&self) -> u32 {
        self.live
    }

    /// How many octets they take, about.
    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// The offsets of live records from `offset` on.
    pub(super) fn live_from(&self, offset: u32) -> impl Iterator<Item = u32> + '_ {
        let start = self.records.partition_point(|entry| entry & !VOID < offset);
        self.records[start..]
            .iter()
            .copied()
            .filter(|entry| entry & VOID == 0)
    }

    /// The offsets of void records.
    pub(super) fn voids(&self) -> impl Iterator<Item = u32> + '_ {
        self.records
            .iter()
            .filter(|&entry| entry & VOID != 0)
            .map(|entry| entry & !VOID)
    }
}

/// What readers need: the file of each segment, and where copied messages went. Readers share it with
/// the writer, and hold its lock for a look-up only.
#[derive(Default)]
pub(super) struct Table(RwLock<Tables>);

#[derive(Default)]
struct Tables {
    files: BTreeMap<u32, Arc<dyn DiskFile>>,
    moved: BTreeMap<MessageId, Place>,
}

impl Table {
    fn read<T>(&self, look: impl FnOnce(&Tables) -> T) -> T {
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut Tables) -> T) -> T {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// The file of a segment.
    pub(super) fn file(&self, segment: u32) -> Option<Arc<dyn DiskFile>> {
        self.read(|tables| tables.files.get(&segment).cloned())
    }

    pub(super) fn open(&self, segment: u32, file: Arc<dyn DiskFile>) {
        self.write(|tables| tables.files.insert(segment, file));
    }

    pub(super) fn close(&self, segment: u32) {
        self.write(|tables| tables.files.remove(&segment));
    }

    /// Where a message is now, if it was copied since the store was opened. A job that was handed out
    /// before the copy names the old place.
    pub(super) fn moved(&self, message: MessageId) -> Option<Place> {
        self.read(|tables| tables.moved.get(&message).copied())
    }

    pub(super) fn set_moved(&self, messages: &[(MessageId, Place, Place)]) {
        self.write(|tables| {
            tables
                .moved
                .extend(messages.iter().map(|&(id, _, to)| (id, to)))
        });
    }

    /// Forgets that a message was copied; says where it went.
    pub(super) fn settle(&self, message: MessageId) -> Option<Place> {
        if self.read(|tables| tables.moved.is_empty()) {
            return None;
        }
        self.write(|tables| tables.moved.remove(&message))
    }
}
