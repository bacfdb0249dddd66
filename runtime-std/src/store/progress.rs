//! The progress log: an append-only file of notes that nobody waits for.
//!
//! Notes are collected in memory, written together, and synced now and then. A lost note costs a
//! duplicate delivery at most. A file whose sync failed is not trusted again: the log is then written
//! anew from what the engine knows (see `upkeep`).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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

    /// Reads one note again.
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

    /// Writes what was added and syncs it.
    ///
    /// # Errors
    /// What the disk says. After a failed sync the log is broken.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.write()?;
        if !self.dirty {
            return Ok(());
        }
        match self.file.sync_data() {
            Ok(()) => {
                self.dirty = false;
                Ok(())
            }
            Err(e) => {
                self.distrust(&format!("the sync of the progress log: {e}"));
                Err(e)
            }
        }
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

    fn trusted(&self) -> io::Result<()> {
        self.broken
            .as_ref()
            .map_or(Ok(()), |why| Err(io::Error::other(why.clone())))
    }

    pub(super) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// Whether something waits to be written or synced.
    pub(super) fn dirty(&self) -> bool {
        self.dirty || !self.pending.is_empty()
    }

    /// Its length, with what waits.
    pub(super) fn len(&self) -> u64 {
        self.end + self.pending.len() as u64
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }
}

/// The path of a log while it is being written anew.
pub(super) fn unfinished(dir: &Path) -> PathBuf {
    dir.join("progress.new")
}
