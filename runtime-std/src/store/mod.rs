//! The embedded store: a segment log with group commit.
//!
//! ```text
//!  data_dir/queue/
//!    lock               held while a process uses the directory
//!    identity           the salt: a random number in every record, so that nothing else passes for one
//!    segment-00000000…  message records, in files that are written once with zeros and then reused
//!    progress-00000001  what happened to messages since: small notes, synced about once a second
//!    spool/ID           bodies over 256 KiB
//!    quarantine/        damaged records, kept for people to look at
//!
//!   sessions ─ write ─▶ waiting ─▶ writer thread: one write, one fdatasync for all ─▶ StoreSink::stored
//!   engine ─ note, discard ─▶ waiting ─▶ the same thread: one write, a sync now and then
//! ```
//!
//! [`SegmentStore::open`], then [`Store::recover`], then [`SegmentStore::start`]; from then on
//! [`Store::write`]. All that is done to files goes through [`Disk`]. A simulator opens the store on a
//! disk of its own and calls [`SegmentStore::step`] instead of `start`.

pub mod disk;
mod log;
mod progress;
mod recover;
mod scan;
mod segment;
mod spool;
#[cfg(test)]
mod tests;
mod upkeep;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use relay_core::id::{MessageId, WriteId};
use relay_core::queue::message::{Body, Message};
use relay_core::queue::record::{HEADER_LEN, Header, Progress, decode};
use relay_core::queue::store::{
    LoadFailed, Place, Recovered, Store, StoreFailed, StoreMessage, StoreSink, StoreStatus,
};

pub use disk::{Disk, DiskFile, StdDisk};
use log::{Event, Log, Paths, Receipt, Write};
use recover::Notes;
use segment::Table;
use spool::Spool;

/// Sizes and times of a store. The defaults serve from a router to a server.
#[derive(Debug, Clone)]
pub struct Options {
    /// The size of a segment file in octets. Files grow to it as they are first written.
    pub segment_size: u32,
    /// By how many octets a segment file grows at once.
    pub extent: u32,
    /// With less than so many free octets nothing is accepted but the relay's own reports.
    pub reserve: u64,
    /// How many empty segment files are kept for reuse.
    pub free_max: usize,
    /// A group commit is closed when it has so many octets.
    pub group_max: usize,
    /// The progress log is written anew when it has so many octets, and twice what is live.
    pub rewrite_min: u64,
    /// How long a note may wait for its sync.
    pub sync_interval: Duration,
    /// The salt of a new store; from the system's randomness if there is none. For simulations.
    pub salt: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_size: 64 << 20,
            extent: 1 << 20,
            reserve: 64 << 20,
            free_max: 4,
            group_max: 4 << 20,
            rewrite_min: 4 << 20,
            sync_interval: Duration::from_secs(1),
            salt: None,
        }
    }
}

/// Why a store cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// Another process uses the directory.
    Locked {
        /// The directory.
        dir: PathBuf,
        /// Its process id, if it is known.
        process: Option<u32>,
    },
    /// A file or directory cannot be read or made.
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file was written by another version of the relay.
    Version {
        /// Which.
        path: PathBuf,
        /// Its version of the format.
        version: u8,
    },
}

impl OpenError {
    fn io(path: &Path, error: io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            error,
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked {
                dir,
                process: Some(process),
            } => {
                write!(
                    f,
                    "{}: process {process} uses this queue; stop it first",
                    dir.display()
                )
            }
            Self::Locked { dir, process: None } => {
                write!(
                    f,
                    "{}: another process uses this queue; stop it first",
                    dir.display()
                )
            }
            Self::Io { path, error } => write!(f, "{}: {error}", path.display()),
            Self::Version { path, version } => write!(
                f,
                "{}: format version {version}, written by another version of the relay",
                path.display()
            ),
        }
    }
}

impl std::error::Error for OpenError {}

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

/// What the writer shares with everybody else.
struct Shared {
    disk: Arc<dyn Disk>,
    queue: PathBuf,
    options: Options,
    salt: u64,
    table: Arc<Table>,
    spool: Arc<Spool>,
    waiting: Mutex<Waiting>,
    /// Something waits, or the store is to be closed.
    wake: Condvar,
    /// The store was closed.
    ended: Condvar,
    /// Locked by the writer while it works; none after the store was closed.
    log: Mutex<Option<Log>>,
    /// Locked by `recover` alone.
    notes: Mutex<Option<Notes>>,
    figures: Mutex<Figures>,
}

/// What waits for the writer. Sessions wait for their receipts, so it is bounded by their number.
#[derive(Default)]
struct Waiting {
    writes: VecDeque<Write>,
    events: Vec<Event>,
    /// The writer sleeps: wake it.
    asleep: bool,
    closing: Closing,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Closing {
    #[default]
    No,
    /// Write what waits, then close the files.
    Asked,
    /// Writes fail.
    Closed,
    /// The store is dropped: end the thread.
    Dropped,
}

/// What `status` says, as of the last step.
#[derive(Default)]
struct Figures {
    disk_bytes: u64,
    live_bytes: u64,
    quarantined: u64,
    trouble: Option<StoreFailed>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SegmentStore {
    /// Opens the queue in a data directory, or makes it. Next comes [`Store::recover`].
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
        let (parts, notes) = recover::open(&*disk, data_dir, &paths, &options)?;
        let salt = parts.salt;
        let table = Arc::new(Table::default());
        let spool = Arc::new(Spool::new(Arc::clone(&disk), paths.spool.clone()));
        let both = (Arc::clone(&table), Arc::clone(&spool));
        let log = Log::new(Arc::clone(&disk), paths, options.clone(), both, parts);
        let shared = Shared {
            disk,
            queue,
            options,
            salt,
            table,
            spool,
            waiting: Mutex::default(),
            wake: Condvar::new(),
            ended: Condvar::new(),
            figures: Mutex::new(figures(&log)),
            log: Mutex::new(Some(log)),
            notes: Mutex::new(Some(notes)),
        };
        Ok(Arc::new(Self {
            shared: Arc::new(shared),
            writer: Mutex::new(None),
        }))
    }

    /// Starts the writer thread, which tells `sink` what happens. Call it once, after
    /// [`Store::recover`].
    ///
    /// # Errors
    /// What the system says if it has no thread to give.
    pub fn start(&self, sink: Arc<dyn StoreSink>) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new().name("store".to_owned());
        *lock(&self.writer) = Some(thread.spawn(move || shared.run(&*sink))?);
        Ok(())
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
    fn write(&self, write: WriteId, message: StoreMessage) {
        let mut waiting = lock(&self.shared.waiting);
        waiting.writes.push_back(Write { id: write, message });
        self.shared.wake(waiting);
    }

    fn note(&self, message: MessageId, _place: Place, progress: Progress) {
        let mut waiting = lock(&self.shared.waiting);
        waiting.events.push(Event::Note(message, progress));
        self.shared.wake(waiting);
    }

    fn discard(&self, message: MessageId, place: Place) {
        let mut waiting = lock(&self.shared.waiting);
        waiting.events.push(Event::Discard(message, place));
        self.shared.wake(waiting);
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
        let mut notes = lock(&self.shared.notes);
        let mut log = lock(&self.shared.log);
        let (Some(found), Some(log)) = (&*notes, log.as_mut()) else {
            return Err(LoadFailed::Io(
                "the queue was recovered or closed before".to_owned(),
            ));
        };
        if log.recover(found, each)?.is_continue() {
            *notes = None;
        }
        *lock(&self.shared.figures) = figures(log);
        Ok(())
    }

    fn status(&self) -> StoreStatus {
        let free = self.shared.disk.free_space(&self.shared.queue);
        let figures = lock(&self.shared.figures);
        let reserve = self.shared.options.reserve;
        let low = free.as_ref().is_ok_and(|&free| free < reserve);
        let low = low.then(|| format!("less than the reserve of {reserve} octets is free"));
        StoreStatus {
            disk_bytes: figures.disk_bytes,
            live_bytes: figures.live_bytes,
            free_bytes: free.unwrap_or(0),
            quarantined: figures.quarantined,
            refusing: figures.trouble.as_ref().map(ToString::to_string).or(low),
        }
    }

    fn close(&self) {
        self.shared.set_closing(Closing::Asked);
        if lock(&self.writer).is_none() {
            self.shared.end();
            return;
        }
        let waiting = lock(&self.shared.waiting);
        let open = |waiting: &mut Waiting| waiting.closing < Closing::Closed;
        drop(self.shared.ended.wait_while(waiting, open));
    }
}

impl Shared {
    /// Wakes the writer, if it sleeps: a call into the kernel that is not made otherwise.
    fn wake(&self, mut waiting: MutexGuard<'_, Waiting>) {
        if std::mem::take(&mut waiting.asleep) {
            drop(waiting);
            self.wake.notify_one();
        }
    }

    fn set_closing(&self, closing: Closing) {
        let mut waiting = lock(&self.waiting);
        waiting.closing = waiting.closing.max(closing);
        waiting.asleep = true;
        self.wake(waiting);
    }

    /// The writer thread.
    fn run(&self, sink: &dyn StoreSink) {
        let mut next = Next {
            more: true,
            tick: true,
        };
        let mut ticked = Instant::now();
        loop {
            let due = next.tick.then(|| ticked + self.options.sync_interval);
            let closing = self.sleep(next.more, due);
            let tick = due.is_some_and(|due| Instant::now() >= due);
            if tick || !next.tick {
                ticked = Instant::now();
            }
            next = self.step(sink, tick);
            if closing >= Closing::Asked && lock(&self.log).is_some() {
                self.end();
            }
            if closing == Closing::Dropped {
                return;
            }
        }
    }

    /// Waits until there is something to do.
    fn sleep(&self, more: bool, due: Option<Instant>) -> Closing {
        let mut waiting = lock(&self.waiting);
        loop {
            let closing = waiting.closing;
            let idle = waiting.writes.is_empty() && waiting.events.is_empty() && !more;
            if !idle || closing == Closing::Asked || closing == Closing::Dropped {
                return closing;
            }
            let now = Instant::now();
            waiting.asleep = true;
            waiting = match due {
                Some(due) if due <= now => {
                    waiting.asleep = false;
                    return closing;
                }
                Some(due) => {
                    let woken = self.wake.wait_timeout(waiting, due - now);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self
                    .wake
                    .wait(waiting)
                    .unwrap_or_else(PoisonError::into_inner),
            };
            waiting.asleep = false;
        }
    }

    fn step(&self, sink: &dyn StoreSink, tick: bool) -> Next {
        let (mut writes, events) = {
            let mut waiting = lock(&self.waiting);
            (
                std::mem::take(&mut waiting.writes),
                std::mem::take(&mut waiting.events),
            )
        };
        let mut log = lock(&self.log);
        let Some(log) = log.as_mut() else {
            let closed = StoreFailed::Broken("the store is closed".to_owned());
            let failed = |write: Write| -> Receipt { (write.id, Err(closed.clone())) };
            if !writes.is_empty() {
                sink.stored(writes.into_iter().map(failed).collect());
            }
            return Next::default();
        };
        log.apply(events);
        log.write_notes();
        while !writes.is_empty() {
            let mut receipts = Vec::with_capacity(writes.len());
            log.commit(&mut writes, &mut receipts);
            sink.stored(receipts);
        }
        if tick {
            log.tick();
        }
        let more = log.upkeep(sink);
        *lock(&self.figures) = figures(log);
        Next {
            more,
            tick: log.wants_tick(),
        }
    }

    /// Makes everything durable and closes the files.
    fn end(&self) {
        let log = lock(&self.log).take();
        if let Some(mut log) = log {
            log.finish();
        }
        let mut waiting = lock(&self.waiting);
        waiting.closing = waiting.closing.max(Closing::Closed);
        drop(waiting);
        self.ended.notify_all();
    }

    fn load_at(&self, message: MessageId, place: Place) -> Result<(Message, Body), LoadFailed> {
        let file = self.table.file(place.segment);
        let file = file.ok_or_else(|| LoadFailed::Damaged("its segment is gone".to_owned()))?;
        let (_, record) = read_record(&*file, place, self.salt)?;
        let (header, found, body) = decode(&record).map_err(damaged)?;
        if header.id != message {
            return Err(LoadFailed::Damaged(format!(
                "its place holds {}",
                header.id
            )));
        }
        Ok((found, body))
    }
}

fn damaged(why: relay_core::queue::record::Invalid) -> LoadFailed {
    LoadFailed::Damaged(why.to_string())
}

/// Reads the record at a place; its header is checked, the rest is for [`decode`].
fn read_record(
    file: &dyn DiskFile,
    place: Place,
    salt: u64,
) -> Result<(Header, Bytes), LoadFailed> {
    let io = |e: io::Error| {
        if e.kind() == io::ErrorKind::UnexpectedEof {
            return LoadFailed::Damaged(e.to_string());
        }
        LoadFailed::Io(e.to_string())
    };
    let mut start = [0; HEADER_LEN];
    disk::read_exact_at(file, &mut start, place.offset.into()).map_err(io)?;
    let header = Header::parse(&start).map_err(damaged)?;
    if header.stamp.generation != place.segment || header.stamp.salt != salt {
        return Err(LoadFailed::Damaged(
            "another record is in its place".to_owned(),
        ));
    }
    let mut record = vec![0; header.record_len()];
    disk::read_exact_at(file, &mut record, place.offset.into()).map_err(io)?;
    Ok((header, record.into()))
}

fn figures(log: &Log) -> Figures {
    let (disk_bytes, live_bytes) = log.sizes();
    let (quarantined, trouble) = (log.quarantined, log.trouble.clone());
    Figures {
        disk_bytes,
        live_bytes,
        quarantined,
        trouble,
    }
}
