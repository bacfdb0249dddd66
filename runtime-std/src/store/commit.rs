//! Group commit: all that waits becomes one write and one sync.
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

use std::collections::VecDeque;

use relay_core::id::MessageId;
use relay_core::queue::message::Body;
use relay_core::queue::record::{ALIGN, HEADER_LEN, Note, Stamp, encode};
use relay_core::queue::store::{Place, StoreFailed, StoreMessage};

use super::disk;
use super::log::{Log, Receipt, Write};
use super::segment::{PAGE, Segment, State};

/// Records that share one write and one sync.
#[derive(Default)]
pub(super) struct Group {
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

impl Log {
    /// Writes one group: what fits of `writes`, from the front. Each that leaves `writes` has its
    /// receipt.
    pub(super) fn commit(&mut self, writes: &mut VecDeque<Write>, receipts: &mut Vec<Receipt>) {
        if let Err(failed) = self.prepare() {
            while let Some(write) = writes.pop_front() {
                receipts.push(self.refuse(&write, failed.clone()));
            }
            return;
        }
        let low = self.is_low();
        let mut written = Vec::new();
        while let Some(next) = writes.front() {
            match self.admit(next, low) {
                Ok(true) => written.push((next.id, next.message.message.id)),
                Ok(false) => break,
                Err(failed) => receipts.push(self.refuse(next, failed)),
            }
            writes.pop_front();
        }
        match self.write_group() {
            Ok(places) => {
                let places = places.into_iter().map(|(_, place)| Ok(place));
                receipts.extend(written.into_iter().map(|(write, _)| write).zip(places));
            }
            Err(failed) => {
                for (write, message) in written {
                    receipts.push((write, Err(failed.clone())));
                    if self.spooled.remove(&message) {
                        self.doomed.push(message);
                    }
                }
            }
        }
    }

    /// Keeps nothing of a message that did not get into a group.
    fn refuse(&self, write: &Write, failed: StoreFailed) -> Receipt {
        match write.message.body {
            Body::Memory(_) => {}
            Body::Spooled => self.spool.abandon(write.message.message.id),
        }
        (write.id, Err(failed))
    }

    /// There is an active segment afterwards.
    fn prepare(&mut self) -> Result<(), StoreFailed> {
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
            // A start misses a segment that the notes do not say was emptied: it tells, and loses nothing.
            let _ = self.progress.sync();
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
                if let Err(failed) = self.spool.seal(message.id, message.body_size()) {
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

    /// Gives back the memory of large groups.
    pub(super) fn shrink(&mut self) {
        self.group.buf.shrink_to(64 << 10);
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
        let mut group = std::mem::take(&mut self.group);
        let mut result = Ok(Vec::new());
        if !group.records.is_empty() {
            let padded = group.buf.len().next_multiple_of(PAGE as usize);
            group.buf.resize(padded, 0);
            result = self.put(&group);
            result = self.conclude(result);
        }
        group.records.clear();
        group.buf.clear();
        group.buf.shrink_to(1 << 20);
        self.group = group;
        result
    }

    fn put(&mut self, group: &Group) -> Result<Vec<(MessageId, Place)>, StoreFailed> {
        let end = group.start as usize + group.buf.len();
        let end = u32::try_from(end).unwrap_or(u32::MAX);
        if let Err(failed) = self.extend(end) {
            if failed != StoreFailed::Full {
                self.seal();
            }
            return Err(failed);
        }
        let Some((number, segment)) = self.active_segment() else {
            return Err(StoreFailed::Broken("no segment is open".to_owned()));
        };
        let written = disk::write_all_at(&*segment.slot.file, &group.buf, group.start.into());
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
        for member in &group.records {
            segment.push(member.offset, member.len);
            segment.last_id = segment.last_id.max(member.id.as_u64());
        }
        self.unnoted = true;
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
        self.emptied = true;
        self.unindexed.insert(number);
        if let Some(segment) = self.segments.get_mut(&number) {
            segment.state = state;
            for member in &group.records {
                segment.push_void(member.offset);
                segment.last_id = segment.last_id.max(member.id.as_u64());
            }
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
}

// A record's header and its alignment are what the padding rules of this file count on.
const _: () = assert!(HEADER_LEN == ALIGN && (PAGE as usize).is_multiple_of(ALIGN));
