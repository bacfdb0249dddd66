//! The spool: one file for each large body, in blocks with a checksum each.
//!
//! ```text
//!  block = data (16,376 octets; the last block: the rest), checksum u32, length u32 (| LAST)
//! ```
//!
//! The file and its name are synced before the message's record is written. A body is appended by the
//! session that receives it; the writer thread seals the file. Nothing here holds more than one block
//! of a body in memory.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use relay_core::id::MessageId;
use relay_core::queue::store::{LoadFailed, StoreFailed};

use super::disk::{self, Disk, DiskFile};

const BLOCK: usize = 16 * 1024;
const TRAILER: usize = 8;
const DATA: usize = BLOCK - TRAILER;
const LAST: u32 = 1 << 31;

/// How much of a body may wait unsynced, so that sealing it never stalls the writer for long.
const UNSYNCED_MAX: u64 = 1 << 20;

pub(super) struct Spool {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    arriving: Mutex<BTreeMap<MessageId, Arc<Mutex<Arriving>>>>,
}

/// A body that is being appended to.
struct Arriving {
    file: Arc<dyn DiskFile>,
    /// Whole blocks in the file.
    blocks: u64,
    /// Data of the block to come; a whole block waits here too until it is known not to be the last.
    rest: Vec<u8>,
    unsynced: u64,
    /// The first failure: the file is then worth nothing.
    failed: Option<StoreFailed>,
}

impl Spool {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: PathBuf) -> Self {
        Self {
            disk,
            dir,
            arriving: Mutex::default(),
        }
    }

    fn path(&self, message: MessageId) -> PathBuf {
        self.dir.join(message.to_string())
    }

    fn arriving(&self) -> MutexGuard<'_, BTreeMap<MessageId, Arc<Mutex<Arriving>>>> {
        self.arriving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends to a body; the first call makes its file.
    ///
    /// # Errors
    /// [`StoreFailed`]; every later call then fails too.
    pub(super) fn append(&self, message: MessageId, bytes: &[u8]) -> Result<(), StoreFailed> {
        let known = self.arriving().get(&message).cloned();
        let arriving = match known {
            Some(arriving) => arriving,
            None => {
                let arriving = Arc::new(Mutex::new(self.create(message)?));
                self.arriving().insert(message, Arc::clone(&arriving));
                arriving
            }
        };
        let mut arriving = arriving.lock().unwrap_or_else(PoisonError::into_inner);
        arriving.append(message, bytes)
    }

    fn create(&self, message: MessageId) -> Result<Arriving, StoreFailed> {
        let path = self.path(message);
        let file = self
            .disk
            .create(&path)
            .map_err(|e| disk::failure("a new spool file", &e))?;
        if let Err(e) = self.disk.sync_dir(&self.dir) {
            let _ = self.disk.unlink(&path);
            return Err(disk::failure("the sync of the spool directory", &e));
        }
        Ok(Arriving {
            file,
            blocks: 0,
            rest: Vec::new(),
            unsynced: 0,
            failed: None,
        })
    }

    /// Writes the last block and syncs the file. If that fails, the file is removed.
    ///
    /// # Errors
    /// [`StoreFailed`], also if the body is not `size` octets long.
    pub(super) fn seal(&self, message: MessageId, size: u64) -> Result<(), StoreFailed> {
        let arriving = self.arriving().remove(&message);
        let Some(arriving) = arriving else {
            return Err(StoreFailed::Broken(format!(
                "no body of {message} was spooled"
            )));
        };
        let mut arriving = arriving.lock().unwrap_or_else(PoisonError::into_inner);
        let sealed = arriving.seal(message, size);
        if sealed.is_err() {
            self.remove(message);
        }
        sealed
    }

    /// Drops a body that is still arriving.
    pub(super) fn abandon(&self, message: MessageId) {
        let arriving = self.arriving().remove(&message);
        if arriving.is_some() {
            self.remove(message);
        }
    }

    /// Removes a file that no record names any more.
    pub(super) fn remove(&self, message: MessageId) {
        if let Err(e) = self.disk.unlink(&self.path(message)) {
            // The next start removes what has no record.
            tracing::warn!(id = %message, error = %e, "a spool file was not removed");
        }
    }

    /// Reads from a body; empty at its end.
    ///
    /// # Errors
    /// [`LoadFailed::Damaged`] if it is not what was written.
    pub(super) fn read(
        &self,
        message: MessageId,
        offset: u64,
        max: usize,
    ) -> Result<Bytes, LoadFailed> {
        let io = |e: io::Error| {
            // Where the whole directory is gone, so is its file system, and that may come back.
            if e.kind() == ErrorKind::NotFound && self.disk.list(&self.dir).is_ok() {
                return LoadFailed::Damaged("its spool file is gone".to_owned());
            }
            LoadFailed::Io(format!("its spool file: {e}"))
        };
        let file = self.disk.open(&self.path(message)).map_err(io)?;
        let size = file.size().map_err(io)?;
        let first = offset / DATA as u64;
        let skip = usize::try_from(offset % DATA as u64).unwrap_or(0);
        let mut blocks = vec![0; (skip + max).div_ceil(DATA).max(1) * BLOCK];
        let filled = disk::read_full_at(&*file, &mut blocks, first * BLOCK as u64).map_err(io)?;
        blocks.truncate(filled);
        let mut data = Vec::with_capacity(filled);
        let ends_here = first * BLOCK as u64 + filled as u64 >= size;
        let count = filled.div_ceil(BLOCK) as u64;
        for (block, index) in blocks.chunks(BLOCK).zip(first..) {
            let last = ends_here && index + 1 == first + count;
            data.extend_from_slice(check_block(message, index, block, last)?);
        }
        if filled == 0 && first > 0 && skip == 0 {
            return self
                .check_end(&*file, message, first - 1)
                .map(|()| Bytes::new());
        }
        if filled == 0 {
            return Err(LoadFailed::Damaged(
                "its spool file is cut short".to_owned(),
            ));
        }
        let data = Bytes::from(data);
        Ok(data.slice(skip.min(data.len())..(skip + max).min(data.len())))
    }

    /// A read behind a whole block: that block must say that it was the last.
    fn check_end(
        &self,
        file: &dyn DiskFile,
        message: MessageId,
        index: u64,
    ) -> Result<(), LoadFailed> {
        let mut block = vec![0; BLOCK];
        disk::read_exact_at(file, &mut block, index * BLOCK as u64)
            .map_err(|e| LoadFailed::Io(format!("its spool file: {e}")))?;
        check_block(message, index, &block, true).map(|_| ())
    }

    /// Whether the file of a message with `size` octets has the length that it must have.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn is_whole(&self, message: MessageId, size: u64) -> io::Result<bool> {
        let file = match self.disk.open(&self.path(message)) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        };
        Ok(file.size()? == file_len(size))
    }

    /// The messages that have a file.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn list(&self) -> io::Result<Vec<MessageId>> {
        let names = self.disk.list(&self.dir)?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }
}

/// The length of the file of a body of `size` octets.
fn file_len(size: u64) -> u64 {
    let blocks = size.div_ceil(DATA as u64).max(1);
    size + blocks * TRAILER as u64
}

fn checksum(message: MessageId, index: u64, data: &[u8], len: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&message.as_u64().to_le_bytes());
    hasher.update(&index.to_le_bytes());
    hasher.update(data);
    hasher.update(&len.to_le_bytes());
    hasher.finalize()
}

/// The data of a block.
fn check_block(
    message: MessageId,
    index: u64,
    block: &[u8],
    last: bool,
) -> Result<&[u8], LoadFailed> {
    let damaged =
        |what: &str| LoadFailed::Damaged(format!("block {index} of its spool file {what}"));
    let Some((data, trailer)) = block.split_last_chunk::<TRAILER>() else {
        return Err(damaged("is cut short"));
    };
    let [a, b, c, d, e, f, g, h] = *trailer;
    let (crc, len) = (
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    );
    if checksum(message, index, data, len) != crc || (len & !LAST) as usize != data.len() {
        return Err(damaged("fails its checksum"));
    }
    if (len & LAST != 0) != last {
        return Err(damaged(if last {
            "is not its last, but the file ends"
        } else {
            "is its last"
        }));
    }
    Ok(data)
}

impl Arriving {
    fn append(&mut self, message: MessageId, mut bytes: &[u8]) -> Result<(), StoreFailed> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let mut out = Vec::new();
        let start = self.blocks;
        while !bytes.is_empty() {
            if self.rest.len() == DATA {
                self.push_block(message, &mut out, 0);
            }
            let (now, later) = bytes.split_at(bytes.len().min(DATA - self.rest.len()));
            self.rest.extend_from_slice(now);
            bytes = later;
        }
        self.write(&out, start)?;
        if self.unsynced >= UNSYNCED_MAX {
            self.sync()?;
        }
        Ok(())
    }

    fn push_block(&mut self, message: MessageId, out: &mut Vec<u8>, flag: u32) {
        let len = u32::try_from(self.rest.len()).unwrap_or(0) | flag;
        let crc = checksum(message, self.blocks, &self.rest, len);
        out.extend_from_slice(&self.rest);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&len.to_le_bytes());
        self.rest.clear();
        self.blocks += 1;
    }

    fn write(&mut self, out: &[u8], block: u64) -> Result<(), StoreFailed> {
        let written = disk::write_all_at(&*self.file, out, block * BLOCK as u64);
        self.unsynced += out.len() as u64;
        self.fail(written, "a spool file")
    }

    fn sync(&mut self) -> Result<(), StoreFailed> {
        let synced = self.file.sync_data();
        self.unsynced = 0;
        self.fail(synced, "the sync of a spool file")
    }

    /// Remembers a failure: what follows must not hide it.
    fn fail(&mut self, result: io::Result<()>, doing: &str) -> Result<(), StoreFailed> {
        result.map_err(|e| {
            let failed = disk::failure(doing, &e);
            self.failed = Some(failed.clone());
            failed
        })
    }

    fn seal(&mut self, message: MessageId, size: u64) -> Result<(), StoreFailed> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let spooled = self.blocks * DATA as u64 + self.rest.len() as u64;
        if spooled != size {
            return Err(StoreFailed::Broken(format!(
                "{spooled} octets of {message} were spooled, not {size}"
            )));
        }
        let (mut out, start) = (Vec::new(), self.blocks);
        self.push_block(message, &mut out, LAST);
        self.write(&out, start)?;
        self.sync()
    }
}
