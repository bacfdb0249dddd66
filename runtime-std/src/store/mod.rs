//! The embedded store: a segment log with group commit.
//!
//! ```text
//!  data_dir/queue/
//!    lock               held while a process uses the directory
//!    identity           the salt: a random number in every record, so that nothing else passes for one
//!    segment-00000000…  message records, in files that are written once with zeros and then reused
//!    progress-00000001  what happened to messages since: small notes, written at once, synced about
//!                       once a second
//!    spool/ID           bodies over 256 KiB
//!    index-00000001     a checkpoint: which records a segment holds, so that a start need not read it
//!    quarantine/        damaged records, kept for people to look at
//!
//!   sessions ─ write ─▶ waiting ─▶ writer thread: one write, one fdatasync for all ─▶ StoreSink::stored
//!   engine ─ note, discard ─▶ pending ─▶ whoever noted: one write ─▶ writer thread: a sync now and then
//! ```
//!
//! [`SegmentStore::open`], then [`SegmentStore::start`]; from then on [`Store::write`], and beside it
//! [`Store::recover`], which hands over what an earlier run left. All that is done to files goes through [`Disk`]. A simulator opens the store on a
//! disk of its own and calls [`SegmentStore::step`] instead of `start`.

mod checkpoint;
mod commit;
pub mod disk;
mod log;
mod open;
mod options;
mod progress;
pub mod quarantine;
mod recover;
mod scan;
mod segment;
mod spool;
#[cfg(test)]
mod tests;
mod upkeep;
mod writer;

use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use relay_core::id::{MessageId, WriteId};
use relay_core::queue::message::{Body, Message};
use relay_core::queue::record::{Note, Progress};
use relay_core::queue::store::{
    LoadFailed, Place, Recovered, Store, StoreFailed, StoreMessage, StoreSink, StoreStatus,
};

pub use disk::{Disk, DiskFile, StdDisk};
use log::{Log, Paths, Write};
pub use options::{OpenError, Options};
use segment::Table;
use spool::Spool;
use writer::{Closing, Shared, lock};

/// What a [`SegmentStore::step`] leaves to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Next {
    /// Call again soon: something was left for later, so that new messages need not wait for it.
    pub more: bool,
    /// Call again with a tick, within [`Options::sync_interval`].
    pub tick: bool,
}

/// The embedded store. See the module.
pub struct SegmentStore {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl SegmentStore {
    /// Opens the queue in a data directory, or makes it, and finds out which records are live: from the
    /// checkpoints, or by reading the segments that have none.
    ///
    /// # Errors
    /// [`OpenError`] if another process uses it, or it cannot be read.
    pub fn open(
        data_dir: &Path,
        options: Options,
        disk: Arc<dyn Disk>,
    ) -> Result<Arc<Self>, OpenError> {
        let paths = Paths::new(data_dir);
        let queue = paths.queue.clone();
        let (parts, notes) = open::open(&*disk, data_dir, &paths, &options)?;
        let dir = paths.queue.clone();
        let salt = parts.salt;
        let table = Arc::new(Table::default());
        let spool = Arc::new(Spool::new(Arc::clone(&disk), paths.spool.clone()));
        let both = (Arc::clone(&table), Arc::clone(&spool));
        let mut log = Log::new(Arc::clone(&disk), paths, options.clone(), both, parts);
        let recovery = log.take_stock(notes).map_err(|e| OpenError::io(&dir, e))?;
        let shared = Shared::new(
            (disk, queue),
            options,
            (table, spool),
            (log, recovery),
            salt,
        );
        Ok(Arc::new(Self {
            shared: Arc::new(shared),
            writer: Mutex::new(None),
        }))
    }

    /// Does what the writer thread does in one round: for a runtime that has no threads. Never call
    /// it beside [`Self::start`], nor while holding what `sink` locks.
    pub fn step(&self, sink: &dyn StoreSink, tick: bool) -> Next {
        self.shared.step(sink, tick)
    }
}

impl Drop for SegmentStore {
    fn drop(&mut self) {
        self.shared.set_closing(Closing::Dropped);
        let writer = lock(&self.writer).take();
        if let Some(writer) = writer.filter(|writer| writer.thread().id() != thread::current().id())
        {
            // A panic of the writer was reported where it happened.
            let _ = writer.join();
        }
    }
}

impl Store for SegmentStore {
    fn start(&self, sink: Arc<dyn StoreSink>) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new().name("store".to_owned());
        *lock(&self.writer) = Some(thread.spawn(move || shared.run(&*sink))?);
        Ok(())
    }

    fn write(&self, write: WriteId, message: StoreMessage) {
        let mut waiting = lock(&self.shared.waiting);
        waiting.writes.push_back(Write { id: write, message });
        self.shared.wake(waiting);
    }

    fn note(&self, message: MessageId, _place: Place, progress: Progress) {
        let note = Note::Progress { message, progress };
        self.shared.progress.add(&note);
        self.shared.wake_for_notes(lock(&self.shared.waiting));
    }

    fn discard(&self, message: MessageId, place: Place) {
        self.shared.progress.add(&Note::Void { place });
        let mut waiting = lock(&self.shared.waiting);
        waiting.discarded.push((message, place));
        self.shared.wake_for_notes(waiting);
    }

    fn quarantine(&self, message: MessageId, place: Place, why: &str) {
        let mut waiting = lock(&self.shared.waiting);
        waiting.damaged.push((message, place, why.to_owned()));
        self.shared.wake_for_notes(waiting);
    }

    fn write_notes(&self) {
        // What fails here is tried again, or mended, at the next tick.
        let _ = self.shared.progress.write();
    }

    fn load(&self, message: MessageId, place: Place) -> Result<(Message, Body), LoadFailed> {
        let found = self.shared.load_at(message, place);
        match (found, self.shared.table.moved(message)) {
            (Err(LoadFailed::Damaged(_)), Some(to)) if to != place => {
                self.shared.load_at(message, to)
            }
            (found, _) => found,
        }
    }

    fn spool_append(&self, message: MessageId, bytes: &[u8]) -> Result<(), StoreFailed> {
        let free = self.shared.disk.free_space(&self.shared.queue);
        if free.is_ok_and(|free| free < self.shared.options.reserve) {
            return Err(StoreFailed::Full);
        }
        self.shared.spool.append(message, bytes)
    }

    fn spool_read(&self, message: MessageId, offset: u64, max: usize) -> Result<Bytes, LoadFailed> {
        self.shared.spool.read(message, offset, max)
    }

    fn spool_discard(&self, message: MessageId) {
        self.shared.spool.abandon(message);
    }

    fn recover(
        &self,
        each: &mut dyn FnMut(Recovered) -> ControlFlow<()>,
    ) -> Result<(), LoadFailed> {
        self.shared.recover(each)
    }

    fn status(&self) -> StoreStatus {
        let free = self.shared.disk.free_space(&self.shared.queue);
        let figures = lock(&self.shared.figures);
        let reserve = self.shared.options.reserve;
        let low = free.as_ref().is_ok_and(|&free| free < reserve);
        if low != self.shared.low_told.swap(low, Ordering::Relaxed) {
            match &free {
                Ok(free) if low => tracing::warn!(
                    free,
                    reserve,
                    "the disk is nearly full: no message is accepted"
                ),
                Ok(_) | Err(_) => tracing::info!("the disk has room again"),
            }
        }
        let reserve = reserve >> 20;
        let low = low.then(|| format!("less than the reserve of {reserve} MiB is free"));
        StoreStatus {
            disk_bytes: figures.disk_bytes,
            live_bytes: figures.live_bytes,
            free_bytes: free.unwrap_or(0),
            quarantined: figures.quarantined,
            refusing: figures.trouble.as_ref().map(ToString::to_string).or(low),
            recovering: figures.recovering,
            last_id: figures.last_id,
        }
    }

    fn close(&self) {
        self.shared.set_closing(Closing::Asked);
        if lock(&self.writer).is_none() {
            self.shared.end(None);
            return;
        }
        let waiting = lock(&self.shared.waiting);
        drop(
            self.shared
                .ended
                .wait_while(waiting, |waiting| waiting.closing < Closing::Closed),
        );
    }
}
