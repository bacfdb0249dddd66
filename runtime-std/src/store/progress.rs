//! The progress log: an append-only file of notes whose sync nobody waits for.
//!
//! ```text
//!  engine ── note ──▶ pending ── write_notes, by the thread that has a note ──▶ the kernel
//!                                    the writer thread, about once a second ──▶ the disk
//! ```
//!
//! A note is in the kernel before its delivery goes on: the end of the process loses none, however long
//! the writer thread waits for a segment's sync. A power cut may lose those of the last second, and each
//! costs a duplicate delivery at most. A file whose sync failed is not trusted again: the log is then
//! written anew from what the engine knows (see `upkeep`).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use relay_core::queue::record::{FileHeader, FileKind, NOTE_ALIGN, NOTE_MAX, Note};

use super::disk::{self, Disk, DiskFile};

/// Where notes start.
const START: u64 = 64;

/// The most that waits in memory because it could not be written; past it, the log is written anew.
const PENDING_MAX: usize = 4 << 20;

/// How much of the log is read at once.
const WINDOW: usize = 1 << 20;

pub(super) struct ProgressLog {
    file: Arc<dyn DiskFile>,
    number: u32,
    seed: u64,
    /// Where `pending` goes.
    end: u64,
    pending: Vec<u8>,
    /// Something was written and not synced.
    dirty: bool,
    /// Why it is not trusted.
    broken: Option<String>,
}

impl ProgressLog {
    /// The name of a log, as it is once it is whole.
    pub(super) fn name(number: u32) -> String {
        format!("progress-{number:08x}")
    }

    /// The number in a name.
    pub(super) fn number_of(name: &str) -> Option<u32> {
        u32::from_str_radix(name.strip_prefix("progress-")?, 16).ok()
    }

    /// Makes an empty log at `path`.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn create(disk: &dyn Disk, path: &Path, number: u32, salt: u64) -> io::Result<Self> {
        match disk.unlink(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            Ok(()) | Err(_) => {}
        }
        let file = disk.create(path)?;
        let header = FileHeader {
            kind: FileKind::Progress,
            number,
            salt,
        };
        disk::write_all_at(&*file, &header.encode(), 0)?;
        Ok(Self::at(file, number, salt, START))
    }

    /// Opens a log and calls `each` for every whole note in it, with its offset.
    ///
    /// # Errors
    /// What the disk says. Damaged notes are skipped and counted.
    pub(super) fn open(
        disk: &dyn Disk,
        path: &Path,
        number: u32,
        salt: u64,
        each: impl FnMut(u64, Note),
    ) -> io::Result<(Self, u64)> {
        let file = disk.open(path)?;
        let mut log = Self::at(file, number, salt, START);
        let (end, damaged) = log.scan(each)?;
        log.end = end;
        Ok((log, damaged))
    }

    fn at(file: Arc<dyn DiskFile>, number: u32, salt: u64, end: u64) -> Self {
        // Notes of another log, left in blocks that the file system gives out again, do not pass.
        let seed = salt ^ (u64::from(number) << 32 | u64::from(number));
        Self {
            file,
            number,
            seed,
            end,
            pending: Vec::new(),
            dirty: false,
            broken: None,
        }
    }

    /// Reads all notes; says where the last whole one ends, and how many octets before it are no note.
    fn scan(&self, mut each: impl FnMut(u64, Note)) -> io::Result<(u64, u64)> {
        let len = self.file.size()?;
        let (mut pos, mut end, mut skipped, mut damaged) = (START, START, 0, 0);
        let mut window = vec![0; WINDOW];
        let mut want = WINDOW;
        while pos < len {
            window.resize(want, 0);
            let filled = disk::read_full_at(&*self.file, &mut window, pos)?;
            let mut used = 0;
            while used < filled {
                match Note::decode(&window[used..filled], self.seed) {
                    Ok((note, size)) => {
                        each(pos + used as u64, note);
                        used += size;
                        end = pos + used as u64;
                        damaged += std::mem::take(&mut skipped);
                    }
                    // Perhaps the note is longer than what was read, and there is more to read.
                    Err(relay_core::queue::record::Invalid::Short)
                        if pos + (filled as u64) < len && (used > 0 || want < NOTE_MAX) =>
                    {
                        break;
                    }
                    Err(_) => {
                        used += NOTE_ALIGN;
                        skipped += NOTE_ALIGN as u64;
                    }
                }
            }
            want = if used == 0 {
                (want * 2).min(NOTE_MAX + WINDOW)
            } else {
                WINDOW
            };
            pos += used as u64;
        }
        Ok((end, damaged))
    }

    /// What reads single notes.
    pub(super) fn reader(&self) -> NoteReader {
        NoteReader {
            file: Arc::clone(&self.file),
            seed: self.seed,
        }
    }

    /// Adds a note, in memory.
    pub(super) fn add(&mut self, note: &Note) {
        if self.broken.is_none() {
            note.encode(&mut self.pending, self.seed);
        }
    }

    /// Writes what was added, without a sync.
    ///
    /// # Errors
    /// What the disk says. What could not be written for want of room is kept for another try; after
    /// any other failure the log is broken.
    pub(super) fn write(&mut self) -> io::Result<()> {
        self.trusted()?;
        if self.pending.is_empty() {
            return Ok(());
        }
        match disk::write_all_at(&*self.file, &self.pending, self.end) {
            Ok(()) => {
                self.end += self.pending.len() as u64;
                self.pending.clear();
                self.pending.shrink_to(64 << 10);
                self.dirty = true;
                Ok(())
            }
            Err(e) => {
                if !disk::is_full(&e) || self.pending.len() > PENDING_MAX {
                    self.distrust(&format!("the progress log: {e}"));
                }
                Err(e)
            }
        }
    }

    /// Writes what was added and syncs it. For a log that nobody else uses.
    ///
    /// # Errors
    /// What the disk says. After a failed sync the log is broken.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        let Some(file) = self.begin_sync()? else {
            return Ok(());
        };
        let synced = file.sync_data();
        self.end_sync(synced)
    }

    /// Writes what was added; gives the file that is to be synced, if it is to be.
    fn begin_sync(&mut self) -> io::Result<Option<Arc<dyn DiskFile>>> {
        self.write()?;
        Ok(std::mem::take(&mut self.dirty).then(|| Arc::clone(&self.file)))
    }

    fn end_sync(&mut self, synced: io::Result<()>) -> io::Result<()> {
        if let Err(e) = &synced {
            self.distrust(&format!("the sync of the progress log: {e}"));
        }
        synced
    }

    /// From now on this log takes nothing: another must be written.
    pub(super) fn distrust(&mut self, why: &str) {
        tracing::error!(
            why,
            "the progress log is not trusted any more; writing another"
        );
        self.broken = Some(why.to_owned());
        self.pending = Vec::new();
        self.dirty = false;
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    fn trusted(&self) -> io::Result<()> {
        self.broken
            .as_ref()
            .map_or(Ok(()), |why| Err(io::Error::other(why.clone())))
    }
}

/// Reads single notes of a log.
pub(super) struct NoteReader {
    file: Arc<dyn DiskFile>,
    seed: u64,
}

impl NoteReader {
    /// Reads one note.
    ///
    /// # Errors
    /// What the disk says; a damaged note is `None`.
    pub(super) fn read(&self, offset: u64) -> io::Result<Option<Note>> {
        let mut bytes = vec![0; 512];
        loop {
            let filled = disk::read_full_at(&*self.file, &mut bytes, offset)?;
            match Note::decode(&bytes[..filled], self.seed) {
                Ok((note, _)) => return Ok(Some(note)),
                Err(relay_core::queue::record::Invalid::Short)
                    if filled == bytes.len() && filled < NOTE_MAX =>
                {
                    bytes.resize(filled * 4, 0);
                }
                Err(_) => return Ok(None),
            }
        }
    }
}

/// The log in use, which everybody who has a note writes to. Its lock is held for a write into the
/// kernel, never for a sync.
pub(super) struct SharedLog(Mutex<InUse>);

struct InUse {
    log: ProgressLog,
    /// While another log is being written: what was noted since it was asked for last.
    late: Option<Vec<Note>>,
}

impl SharedLog {
    pub(super) fn new(log: ProgressLog) -> Self {
        Self(Mutex::new(InUse { log, late: None }))
    }

    fn lock(&self) -> MutexGuard<'_, InUse> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a note, in memory.
    pub(super) fn add(&self, note: &Note) {
        let mut in_use = self.lock();
        in_use.log.add(note);
        if let Some(late) = &mut in_use.late {
            late.push(note.clone());
        }
    }

    /// See [`ProgressLog::write`]. When it returns, all that was added before is written or failed,
    /// whoever wrote it.
    pub(super) fn write(&self) -> io::Result<()> {
        self.lock().log.write()
    }

    /// See [`ProgressLog::sync`]. Notes may be added and written meanwhile; they are for the next sync.
    pub(super) fn sync(&self) -> io::Result<()> {
        let Some(file) = self.lock().log.begin_sync()? else {
            return Ok(());
        };
        let synced = file.sync_data();
        self.lock().log.end_sync(synced)
    }

    /// From now on what is noted is kept for another log too.
    pub(super) fn begin_rewrite(&self) {
        self.lock().late = Some(Vec::new());
    }

    pub(super) fn abandon_rewrite(&self) {
        self.lock().late = None;
    }

    /// What was noted since the last call, for the other log. It comes behind what the engine said of
    /// its messages before this call, which it is part of or later than: replaying it changes nothing,
    /// or is due.
    pub(super) fn take_late(&self) -> Vec<Note> {
        self.lock()
            .late
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// Puts another log in the place of this one, once `rename` has given it its name. Gives back the
    /// number of the old one.
    ///
    /// # Errors
    /// What the disk says: then all is as it was.
    pub(super) fn replace(
        &self,
        mut other: ProgressLog,
        rename: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<u32> {
        let mut in_use = self.lock();
        for note in in_use.late.take().unwrap_or_default() {
            other.add(&note);
        }
        other.write()?;
        rename()?;
        Ok(std::mem::replace(&mut in_use.log, other).number)
    }

    /// From now on notes go nowhere: the directory may have another owner.
    pub(super) fn close(&self) {
        let mut in_use = self.lock();
        in_use.log.broken = Some("the store is closed".to_owned());
        in_use.log.pending = Vec::new();
    }

    /// See [`ProgressLog::distrust`].
    pub(super) fn distrust(&self, why: &str) {
        self.lock().log.distrust(why);
    }

    pub(super) fn is_broken(&self) -> bool {
        self.lock().log.broken.is_some()
    }

    /// Whether something waits to be written or synced.
    pub(super) fn is_dirty(&self) -> bool {
        let in_use = self.lock();
        in_use.log.dirty || !in_use.log.pending.is_empty()
    }

    /// Its length, with what waits.
    pub(super) fn len(&self) -> u64 {
        let in_use = self.lock();
        in_use.log.end + in_use.log.pending.len() as u64
    }

    pub(super) fn number(&self) -> u32 {
        self.lock().log.number
    }

    pub(super) fn reader(&self) -> NoteReader {
        self.lock().log.reader()
    }
}

/// The path of a log while it is being written anew.
pub(super) fn unfinished(dir: &Path) -> PathBuf {
    dir.join("progress.new")
}
