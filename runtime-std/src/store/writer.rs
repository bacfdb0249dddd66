//! The writer: what everybody shares with the one thread that writes, and that thread's loop.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use relay_core::id::{MessageId, WriteId};
use relay_core::queue::message::{Body, Message};
use relay_core::queue::record::{HEADER_LEN, Header, Invalid, decode};
use relay_core::queue::store::{LoadFailed, Place, Recovering, StoreFailed, StoreSink};

use super::disk::{self, Disk, DiskFile};
use super::log::{Damaged, Discarded, Log, Receipt, Write};
use super::progress::SharedLog;
use super::recover::Recovery;
use super::segment::Table;
use super::spool::Spool;
use super::{Next, Options};

/// What the writer shares with everybody else.
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) queue: PathBuf,
    pub(super) options: Options,
    pub(super) salt: u64,
    pub(super) table: Arc<Table>,
    pub(super) spool: Arc<Spool>,
    pub(super) progress: Arc<SharedLog>,
    pub(super) waiting: Mutex<Waiting>,
    /// Something waits, or the store is to be closed.
    pub(super) wake: Condvar,
    /// The store was closed.
    pub(super) ended: Condvar,
    /// Locked by the writer while it works; none after the store was closed.
    pub(super) log: Mutex<Option<Log>>,
    /// Locked by `recover` alone; none once it went through.
    pub(super) recovery: Mutex<Option<Recovery>>,
    pub(super) figures: Mutex<Figures>,
    /// It was said that the disk is nearly full.
    pub(super) low_told: AtomicBool,
}

/// What waits for the writer. Sessions wait for their receipts, so it is bounded by their number.
#[derive(Default)]
pub(super) struct Waiting {
    pub(super) writes: VecDeque<Write>,
    pub(super) discarded: Vec<Discarded>,
    pub(super) damaged: Vec<Damaged>,
    /// Something was noted that is to be synced.
    pub(super) noted: bool,
    /// The writer sleeps: wake it for a write.
    pub(super) asleep: bool,
    /// It sleeps without a timer: wake it for what is due at the next tick too.
    pub(super) untimed: bool,
    pub(super) closing: Closing,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Closing {
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
pub(super) struct Figures {
    pub(super) disk_bytes: u64,
    pub(super) live_bytes: u64,
    pub(super) quarantined: u64,
    pub(super) last_id: u64,
    pub(super) trouble: Option<StoreFailed>,
    pub(super) recovering: Option<Recovering>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(
        (disk, queue): (Arc<dyn Disk>, PathBuf),
        options: Options,
        (table, spool): (Arc<Table>, Arc<Spool>),
        (log, recovery): (Log, Recovery),
        salt: u64,
    ) -> Self {
        Self {
            disk,
            queue,
            options,
            salt,
            table,
            spool,
            progress: Arc::clone(&log.progress),
            waiting: Mutex::default(),
            wake: Condvar::new(),
            ended: Condvar::new(),
            figures: Mutex::new(Figures {
                recovering: Some(recovery.progress()),
                ..figures(&log)
            }),
            low_told: AtomicBool::new(false),
            log: Mutex::new(Some(log)),
            recovery: Mutex::new(Some(recovery)),
        }
    }

    /// Sees to it that the writer comes to what was noted: at its next tick.
    pub(super) fn wake_for_notes(&self, mut waiting: MutexGuard<'_, Waiting>) {
        waiting.noted = true;
        if waiting.untimed {
            self.wake(waiting);
        }
    }

    /// Wakes the writer, if it sleeps: a call into the kernel that is not made otherwise.
    pub(super) fn wake(&self, mut waiting: MutexGuard<'_, Waiting>) {
        if std::mem::take(&mut waiting.asleep) {
            drop(waiting);
            self.wake.notify_one();
        }
    }

    pub(super) fn set_closing(&self, closing: Closing) {
        let mut waiting = lock(&self.waiting);
        waiting.closing = waiting.closing.max(closing);
        waiting.asleep = true;
        self.wake(waiting);
    }

    /// The writer thread.
    pub(super) fn run(&self, sink: &dyn StoreSink) {
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
                self.end(Some(sink));
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
            let noted = waiting.noted && due.is_none();
            let idle = waiting.writes.is_empty() && !noted && !more;
            if !idle || closing == Closing::Asked || closing == Closing::Dropped {
                return closing;
            }
            let now = Instant::now();
            waiting.asleep = true;
            waiting.untimed = due.is_none();
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
            waiting.untimed = false;
        }
    }

    /// One round of the writer. A bug in it is a failure of the disk to everybody else: those who wait
    /// hear of it, and nothing is accepted any more.
    pub(super) fn step(&self, sink: &dyn StoreSink, tick: bool) -> Next {
        let (writes, discarded, damaged) = {
            let mut waiting = lock(&self.waiting);
            waiting.noted = false;
            (
                std::mem::take(&mut waiting.writes),
                std::mem::take(&mut waiting.discarded),
                std::mem::take(&mut waiting.damaged),
            )
        };
        let mut unanswered: BTreeSet<WriteId> = writes.iter().map(|write| write.id).collect();
        let work = (writes, discarded, damaged);
        let round = || self.round(sink, tick, work, &mut unanswered);
        match catch_unwind(AssertUnwindSafe(round)) {
            Ok(next) => next,
            Err(_) => {
                let failed = StoreFailed::Broken("a bug in the store: see the log".to_owned());
                tracing::error!("the store's writer panicked: nothing is accepted until a restart");
                if let Some(log) = lock(&self.log).as_mut() {
                    log.panicked = Some(failed.clone());
                }
                lock(&self.figures).trouble = Some(failed.clone());
                let receipts = unanswered.into_iter().map(|id| (id, Err(failed.clone())));
                sink.stored(receipts.collect());
                Next::default()
            }
        }
    }

    fn round(
        &self,
        sink: &dyn StoreSink,
        tick: bool,
        (mut writes, discarded, damaged): (VecDeque<Write>, Vec<Discarded>, Vec<Damaged>),
        unanswered: &mut BTreeSet<WriteId>,
    ) -> Next {
        let mut log = lock(&self.log);
        let usable = match log.as_mut() {
            None => Err(StoreFailed::Broken("the store is closed".to_owned())),
            Some(log) => log.panicked.clone().map_or(Ok(log), Err),
        };
        let log = match usable {
            Ok(log) => log,
            Err(failed) => {
                let failed = |write: Write| -> Receipt { (write.id, Err(failed.clone())) };
                unanswered.clear();
                if !writes.is_empty() {
                    sink.stored(writes.into_iter().map(failed).collect());
                }
                return Next::default();
            }
        };
        log.apply(discarded);
        log.apply_damaged(damaged);
        log.write_notes();
        while !writes.is_empty() {
            let mut receipts = Vec::with_capacity(writes.len());
            log.commit(&mut writes, &mut receipts);
            for (write, _) in &receipts {
                unanswered.remove(write);
            }
            sink.stored(receipts);
        }
        if tick {
            log.tick();
        }
        let more = log.upkeep(sink);
        let mut shown = lock(&self.figures);
        if tick || more {
            let recovering = shown.recovering;
            *shown = figures(log);
            shown.recovering = recovering;
        } else {
            shown.trouble.clone_from(&log.trouble);
        }
        drop(shown);
        Next {
            more,
            tick: log.wants_tick(),
        }
    }

    /// Makes everything durable and closes the files. See [`Log::finish`].
    pub(super) fn end(&self, sink: Option<&dyn StoreSink>) {
        let log = lock(&self.log).take();
        if let Some(mut log) = log {
            // What a delivery told while the last step ran.
            let (discarded, damaged) = {
                let mut waiting = lock(&self.waiting);
                let discarded = std::mem::take(&mut waiting.discarded);
                (discarded, std::mem::take(&mut waiting.damaged))
            };
            if log.panicked.is_none() {
                log.apply(discarded);
                log.apply_damaged(damaged);
                log.finish(sink);
            }
            self.progress.close();
        }
        let mut waiting = lock(&self.waiting);
        waiting.closing = waiting.closing.max(Closing::Closed);
        drop(waiting);
        self.ended.notify_all();
    }

    pub(super) fn load_at(
        &self,
        message: MessageId,
        place: Place,
    ) -> Result<(Message, Body), LoadFailed> {
        let file = self.table.file(place.segment);
        let file = file.ok_or_else(|| LoadFailed::Damaged("its segment is gone".to_owned()))?;
        let (header, found, body) = read_message(&*file, place, self.salt)?;
        if header.id != message {
            return Err(LoadFailed::Damaged(format!(
                "its place holds {}",
                header.id
            )));
        }
        Ok((found, body))
    }
}

fn damaged(why: Invalid) -> LoadFailed {
    LoadFailed::Damaged(why.to_string())
}

/// Reads the message at a place.
pub(super) fn read_message(
    file: &dyn DiskFile,
    place: Place,
    salt: u64,
) -> Result<(Header, Message, Body), LoadFailed> {
    let (_, record) = read_record(file, place, salt)?;
    decode(&record).map_err(damaged)
}

/// Reads the record at a place; its header is checked, the rest is for [`decode`].
pub(super) fn read_record(
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

pub(super) fn figures(log: &Log) -> Figures {
    let (disk_bytes, live_bytes) = log.sizes();
    let (quarantined, trouble) = (log.quarantined, log.trouble.clone());
    Figures {
        disk_bytes,
        live_bytes,
        quarantined,
        last_id: log.last_id,
        trouble,
        recovering: None,
    }
}
