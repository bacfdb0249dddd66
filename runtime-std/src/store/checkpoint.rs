//! Index checkpoints: what each sealed segment holds, so that the next start reads them and not the
//! segments.
//!
//! ```text
//!  sealed ─▶ unindexed ── tick: the notes about it are synced ──▶ index-SSSSSSSS written, synced, named
//!                                                                   │ the segment is recycled
//!                                                                   ▼ removed
//! ```
//!
//! One that is missing, damaged or of another segment costs a scan at the next start, and nothing else.

use std::io;
use std::path::PathBuf;

use relay_core::queue::record::Index;

use super::disk;
use super::log::{Log, Paths};
use super::open::remove_if_there;
use super::quarantine::put;

/// How many are written at one tick.
const AT_ONCE: usize = 4;

impl Paths {
    pub(super) fn index(&self, segment: u32) -> PathBuf {
        self.queue.join(format!("index-{segment:08x}"))
    }
}

/// The number of the segment, from the name of a checkpoint.
pub(super) fn segment_of(name: &str) -> Option<u32> {
    u32::from_str_radix(name.strip_prefix("index-")?, 16).ok()
}

impl Log {
    /// The checkpoint of a segment, if there is one to be believed. `intact`: so is the progress log.
    pub(super) fn checkpoint(&self, number: u32, intact: bool) -> Option<Index> {
        let path = self.paths.index(number);
        let read = || -> io::Result<Vec<u8>> {
            let file = self.disk.open(&path)?;
            let mut bytes = vec![0; usize::try_from(file.size()?).unwrap_or(0)];
            let filled = disk::read_full_at(&*file, &mut bytes, 0)?;
            bytes.truncate(filled);
            Ok(bytes)
        };
        let why = match read() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
            Err(e) => e.to_string(),
            Ok(_) if !intact => "the progress log is not whole".to_owned(),
            Ok(bytes) => match Index::decode(&bytes, self.salt) {
                Ok(index) if index.segment == number => return Some(index),
                Ok(_) => "it is of another segment".to_owned(),
                Err(why) => why.to_string(),
            },
        };
        tracing::warn!(path = %path.display(), why, "a checkpoint is not used: its segment is read");
        None
    }

    /// Writes some of the checkpoints that are due. The notes must be synced.
    pub(super) fn write_checkpoints(&mut self, most: usize) {
        for _ in 0..most {
            let Some(number) = self.unindexed.pop_first() else {
                return;
            };
            let Some(segment) = self.segments.get_mut(&number) else {
                continue;
            };
            if segment.keep {
                continue;
            }
            let bytes = segment.index(number).encode(self.salt);
            let path = self.paths.index(number);
            let written = put(&*self.disk, &path, |file| {
                disk::write_all_at(file, &bytes, 0)
            });
            match written {
                Ok(()) => segment.indexed = true,
                Err(e) => tracing::warn!(
                    path = %path.display(), error = %e,
                    "a checkpoint was not written: its segment is read at the next start"
                ),
            }
        }
    }

    /// See [`Log::write_checkpoints`], a few at a time.
    pub(super) fn write_some_checkpoints(&mut self) {
        self.write_checkpoints(AT_ONCE);
    }

    /// Removes the checkpoint of a segment that is gone.
    pub(super) fn forget_checkpoint(&self, number: u32) {
        if let Err(e) = remove_if_there(&*self.disk, &self.paths.index(number)) {
            // The next start removes it, as it names no segment.
            tracing::debug!(segment = number, error = %e, "a checkpoint was not removed");
        }
    }
}
