//! What the writer does between groups: give back empty segments, empty sparse ones, keep the progress
//! log short, mend what failed. Each step is bounded; the writer looks for new messages between two.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use relay_core::id::MessageId;
use relay_core::queue::record::{Header, Note, Stamp, restamp};
use relay_core::queue::store::{Place, StoreFailed, StoreSink};

use super::log::Log;
use super::progress::{self, ProgressLog};
use super::segment::{PAGE, Slot, State};

/// How many messages are asked for in one step of writing the progress log anew.
const SNAPSHOT: usize = 256;

/// How many records, and about how many octets, are copied in one step.
const MOVE_RECORDS: usize = 64;
const MOVE_BYTES: usize = 1 << 20;

/// A segment is emptied only if more than so many are in use.
const SEGMENTS_MIN: usize = 4;

/// The progress log, being written anew beside the old one. Notes go to both meanwhile.
pub(super) struct Rewrite {
    log: ProgressLog,
    path: PathBuf,
    next: Part,
}

/// What is to be written next.
enum Part {
    /// The void places of the first segment with at least this number.
    Voids(u32),
    /// The live messages after this one.
    Messages(Option<MessageId>),
    /// Nothing: sync it and put it in place.
    Finish,
}

/// A sparse segment whose live records are being copied.
pub(super) struct Moving {
    segment: u32,
    /// Records before this offset are done.
    offset: u32,
}

impl Log {
    /// Does one bounded step. True if there is more to do now.
    pub(super) fn upkeep(&mut self, sink: &dyn StoreSink) -> bool {
        if !self.recovered {
            return false;
        }
        self.recycle();
        if let Some(rewrite) = self.rewrite.take() {
            return self.step_rewrite(rewrite, sink);
        }
        if self.progress_is_long() {
            return self.start_rewrite();
        }
        if let Some(moving) = self.moving.take() {
            return self.step_moving(moving, sink);
        }
        false
    }

    /// Does what is done now and then: syncs notes, removes spool files, mends, looks for sparse
    /// segments.
    pub(super) fn tick(&mut self) {
        self.shrink();
        self.note_ends();
        let synced = self.sync_notes();
        if synced {
            self.write_some_checkpoints();
        }
        if !self.recovered {
            return;
        }
        if synced {
            // Only now that the notes say so durably: else a start would miss them.
            for slot in std::mem::take(&mut self.unremoved) {
                self.remove_slot(slot);
            }
        }
        if self.progress.is_broken() && self.rewrite.is_none() {
            self.start_rewrite();
        }
        if self.trouble.is_some() {
            self.mend();
        }
        if self.moving.is_none() && self.trouble.is_none() {
            self.moving = self.sparsest().map(|segment| Moving { segment, offset: 0 });
        }
    }

    /// Writes what was noted, without a sync, so that the end of the process loses none of it.
    pub(super) fn write_notes(&mut self) {
        // What fails here is tried again, or mended, at the next tick.
        let _ = self.progress.write();
    }

    /// Whether a tick has something to do.
    pub(super) fn wants_tick(&self) -> bool {
        self.unnoted
            || self.progress.is_dirty()
            || self.progress.is_broken()
            || self.trouble.is_some()
            || !self.unindexed.is_empty()
            || !self.doomed.is_empty()
            || !self.unremoved.is_empty()
    }

    /// The last step: everything is made durable, and the next start finds it fast. With nobody to ask for
    /// what was noted, a progress log that is broken stays so.
    pub(super) fn finish(&mut self, sink: Option<&dyn StoreSink>) {
        self.seal();
        self.note_ends();
        let mut synced = self.sync_notes();
        if let (false, Some(sink)) = (synced, sink) {
            self.mend_notes(sink);
            synced = self.sync_notes();
        }
        if synced {
            self.write_checkpoints(usize::MAX);
        }
    }

    /// Makes all notes durable, then what may happen only after that. False if they are not.
    fn sync_notes(&mut self) -> bool {
        if let Err(e) = self.progress.sync() {
            tracing::warn!(error = %e, "the progress of deliveries was not synced");
            return false;
        }
        for message in std::mem::take(&mut self.doomed) {
            self.spool.remove(message);
        }
        true
    }

    /// After a failure: finds out whether the disk works again, so that the store resumes by itself.
    fn mend(&mut self) {
        let ready = match self.active {
            None => self.activate(),
            Some(_) => self.make_room(),
        };
        match ready {
            Ok(()) => {
                tracing::info!("the store accepts messages again");
                self.trouble = None;
            }
            Err(failed) => self.trouble = Some(failed),
        }
    }

    /// Gives back the files of sealed segments in which nothing is live. A log that is not trusted may
    /// not know that; the next one will.
    fn recycle(&mut self) {
        if self.progress.is_broken() || !std::mem::take(&mut self.emptied) {
            return;
        }
        let empty = |state: State| state != State::Active;
        let numbers: Vec<u32> = self
            .segments
            .iter()
            .filter(|(_, segment)| segment.live() == 0 && !segment.keep && empty(segment.state))
            .map(|(&number, _)| number)
            .collect();
        for number in numbers {
            let Some(segment) = self.segments.remove(&number) else {
                continue;
            };
            self.table.close(number);
            if segment.indexed {
                self.forget_checkpoint(number);
            }
            let reusable = match segment.state {
                State::Poisoned => false,
                State::Active | State::Sealed => segment.slot.len <= self.options.segment_size,
            };
            self.note(&Note::Emptied { segment: number });
            let slot = Slot {
                was: Some(number),
                ..segment.slot
            };
            if reusable && self.free.len() < self.options.free_max {
                self.free.push(slot);
            } else {
                self.unremoved.push(slot);
            }
        }
    }

    // ---- the progress log, written anew ----

    fn progress_is_long(&self) -> bool {
        let base = self.progress_base.saturating_mul(2);
        !self.progress.is_broken() && self.progress.len() > base.max(self.options.rewrite_min)
    }

    fn start_rewrite(&mut self) -> bool {
        let path = progress::unfinished(&self.paths.queue);
        let number = self.progress.number().wrapping_add(1);
        match ProgressLog::create(&*self.disk, &path, number, self.salt) {
            Ok(mut log) => {
                log.add(&Note::Opened {
                    segment: self.next_segment.saturating_sub(1),
                });
                for segment in self
                    .free
                    .iter()
                    .chain(&self.unremoved)
                    .filter_map(|slot| slot.was)
                {
                    log.add(&Note::Emptied { segment });
                }
                self.progress.begin_rewrite();
                self.rewrite = Some(Rewrite {
                    log,
                    path,
                    next: Part::Voids(0),
                });
                true
            }
            Err(e) => {
                tracing::warn!(error = %e, "the progress log cannot be written anew now");
                // Not again before it has grown as much once more.
                self.progress_base = self.progress.len();
                false
            }
        }
    }

    /// Writes the progress log anew if it is broken, to the end: nobody waits for the store any more.
    fn mend_notes(&mut self, sink: &dyn StoreSink) {
        if !self.recovered || !self.progress.is_broken() {
            return;
        }
        if self.rewrite.is_none() {
            self.start_rewrite();
        }
        while let Some(rewrite) = self.rewrite.take() {
            self.step_rewrite(rewrite, sink);
        }
    }

    fn step_rewrite(&mut self, mut rewrite: Rewrite, sink: &dyn StoreSink) -> bool {
        rewrite.next = match rewrite.next {
            Part::Voids(from) => self.write_voids(&mut rewrite.log, from),
            Part::Messages(after) => {
                let messages = sink.snapshot(after, SNAPSHOT);
                let last = messages.last().map(|(message, _)| *message);
                for (message, progress) in messages {
                    rewrite.log.add(&Note::Progress { message, progress });
                }
                last.map_or(Part::Finish, |last| Part::Messages(Some(last)))
            }
            Part::Finish => {
                self.finish_rewrite(rewrite);
                return false;
            }
        };
        // Behind what the engine said just now, and not before: see `take_late`.
        for note in self.progress.take_late() {
            rewrite.log.add(&note);
        }
        if let Err(e) = rewrite.log.write() {
            self.abandon_rewrite(&rewrite.path, &e);
            return false;
        }
        self.rewrite = Some(rewrite);
        true
    }

    fn write_voids(&self, log: &mut ProgressLog, from: u32) -> Part {
        let Some((&number, segment)) = self.segments.range(from..).next() else {
            return Part::Messages(None);
        };
        for offset in segment.voids() {
            log.add(&Note::Void {
                place: Place {
                    segment: number,
                    offset,
                },
            });
        }
        log.add(&Note::Synced {
            end: Place {
                segment: number,
                offset: segment.noted_end,
            },
        });
        Part::Voids(number.saturating_add(1))
    }

    fn finish_rewrite(&mut self, mut rewrite: Rewrite) {
        for note in self.progress.take_late() {
            rewrite.log.add(&note);
        }
        let name = self.paths.progress(rewrite.log.number());
        let replaced = rewrite.log.sync().and_then(|()| {
            let rename = || self.disk.rename(&rewrite.path, &name);
            self.progress.replace(rewrite.log, rename)
        });
        let old = match replaced {
            Ok(old) => old,
            Err(e) => return self.abandon_rewrite(&rewrite.path, &e),
        };
        self.progress_base = self.progress.len();
        if let Err(e) = self.disk.sync_dir(&self.paths.queue) {
            // Either log may be the one that a restart finds: no segment is opened before a third one
            // is in place.
            self.progress
                .distrust(&format!("the sync of the queue directory: {e}"));
        }
        if let Err(e) = self.disk.unlink(&self.paths.progress(old)) {
            tracing::warn!(error = %e, "an old progress log was not removed");
        }
    }

    fn abandon_rewrite(&mut self, path: &Path, error: &std::io::Error) {
        tracing::warn!(%error, "the progress log cannot be written anew now");
        self.progress.abandon_rewrite();
        let _ = self.disk.unlink(path);
        self.progress_base = self.progress.len();
    }

    // ---- emptying sparse segments ----

    /// The sealed segment with the least in it, if there are many and it is sparse.
    fn sparsest(&self) -> Option<u32> {
        if self.segments.len() <= SEGMENTS_MIN {
            return None;
        }
        self.segments
            .iter()
            .filter(|(_, segment)| segment.state != State::Active && segment.live() > 0)
            .filter(|(_, segment)| segment.live_bytes() < u64::from(segment.slot.len) / 4)
            .min_by_key(|(_, segment)| segment.live_bytes())
            .map(|(&number, _)| number)
    }

    fn step_moving(&mut self, mut moving: Moving, sink: &dyn StoreSink) -> bool {
        let Some(segment) = self.segments.get(&moving.segment) else {
            return false;
        };
        let places: Vec<Place> = segment
            .live_from(moving.offset)
            .take(MOVE_RECORDS)
            .map(|offset| Place {
                segment: moving.segment,
                offset,
            })
            .collect();
        if places.is_empty() {
            return false;
        }
        match self.move_some(&places, sink) {
            Ok(Some(offset)) => {
                moving.offset = offset;
                self.moving = Some(moving);
                true
            }
            Ok(None) => false,
            Err(failed) => {
                tracing::warn!(error = %failed, "a sparse segment is not emptied now");
                false
            }
        }
    }

    /// Copies the first of these records, durably. Says where to go on.
    fn move_some(
        &mut self,
        places: &[Place],
        sink: &dyn StoreSink,
    ) -> Result<Option<u32>, StoreFailed> {
        let mut records = Vec::new();
        let mut bytes = 0;
        let mut next = None;
        for &place in places {
            if bytes > MOVE_BYTES {
                break;
            }
            next = place.offset.checked_add(1);
            match self.read_record(place) {
                Ok((header, record)) => {
                    bytes += record.len();
                    records.push((header.id, place, record));
                }
                // It stays where it is: loading it will say what is wrong.
                Err(why) => tracing::error!(?place, why, "a record cannot be read for a copy"),
            }
        }
        let asked: Vec<_> = records.iter().map(|(id, place, _)| (*id, *place)).collect();
        let live = sink.live(&asked);
        let mut live = live.into_iter();
        records.retain(|(id, place, _)| {
            let keep = live.next().unwrap_or(true);
            if !keep {
                self.note(&Note::Void { place: *place });
                self.void(*id, *place);
            }
            keep
        });
        self.copy(&records, sink)?;
        Ok(next)
    }

    fn copy(
        &mut self,
        records: &[(MessageId, Place, Bytes)],
        sink: &dyn StoreSink,
    ) -> Result<(), StoreFailed> {
        let mut rest = records;
        while !rest.is_empty() {
            if self.active.is_none() {
                self.activate()?;
            }
            let mut taken = 0;
            for (id, from, record) in rest {
                let copy = |buf: &mut Vec<u8>, stamp: Stamp| {
                    // It was checked when it was read.
                    let _ = restamp(
                        buf,
                        Stamp {
                            moved_from: Some(*from),
                            ..stamp
                        },
                        record,
                    );
                };
                if !self.add(*id, copy)? {
                    break;
                }
                taken += 1;
            }
            let (now, later) = rest.split_at(taken);
            let places = self.write_group()?;
            let moved: Vec<_> = now
                .iter()
                .zip(places)
                .map(|((id, from, _), (_, to))| (*id, *from, to))
                .collect();
            self.table.set_moved(&moved);
            for &(_, from, _) in &moved {
                self.void_copied(from);
            }
            sink.moved(&moved);
            rest = later;
        }
        Ok(())
    }

    /// The record was copied: its place is void, its spool file is not.
    fn void_copied(&mut self, place: Place) {
        if let Some(segment) = self.segments.get_mut(&place.segment) {
            segment.void(place.offset);
            self.emptied |= segment.live() == 0;
        }
        self.note(&Note::Void { place });
    }

    fn read_record(&self, place: Place) -> Result<(Header, Bytes), String> {
        let file = self
            .table
            .file(place.segment)
            .ok_or("its segment is gone")?;
        super::writer::read_record(&*file, place, self.salt).map_err(|e| e.to_string())
    }

    /// Makes room for one more group in the active segment, or says why there is none.
    fn make_room(&mut self) -> Result<(), StoreFailed> {
        let end = self
            .active
            .and_then(|number| self.segments.get(&number))
            .map(|s| s.end);
        let end = end
            .map_or(PAGE, |end| end.saturating_add(PAGE))
            .min(self.options.segment_size);
        self.extend(end)
    }
}
