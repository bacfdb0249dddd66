//! The disk as the store sees it: a small trait, and the real one.
//!
//! Everything that the store does to files goes through [`Disk`] and [`DiskFile`]. The real disk is
//! [`StdDisk`]; tests and the simulator give the same store a disk in memory that loses what was not
//! synced and fails when told to.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use relay_core::queue::store::StoreFailed;

/// A file system. Paths are absolute or relative to the process; the store makes them.
pub trait Disk: Send + Sync + 'static {
    /// Makes a directory, and those above it, for the owner alone. It may exist.
    ///
    /// # Errors
    /// What the system says.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// The names in a directory, in any order. Names that are not UTF-8 are left out: none is ours.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Makes a new file for reading and writing, for the owner alone.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] if there is one; else what the system says.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file that exists for reading and writing.
    ///
    /// # Errors
    /// What the system says.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Gives a file another name, in place of one that may have it.
    ///
    /// # Errors
    /// What the system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a name.
    ///
    /// # Errors
    /// What the system says.
    fn unlink(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// What the system says.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// The free octets of the file system that holds `dir`, for a process without privileges.
    ///
    /// # Errors
    /// What the system says.
    fn free_space(&self, dir: &Path) -> io::Result<u64>;

    /// Takes a lock that ends with the process or with the value.
    ///
    /// # Errors
    /// [`LockError::Held`] if another process has it.
    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>, LockError>;
}

/// An open file.
pub trait DiskFile: Send + Sync {
    /// Reads some octets at `offset`; 0 at the end.
    ///
    /// # Errors
    /// What the system says.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes some of `buf` at `offset`.
    ///
    /// # Errors
    /// What the system says.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize>;

    /// Returns after all that was written is on stable storage.
    ///
    /// # Errors
    /// What the system says. The file is then in doubt for good: a second call that succeeds proves
    /// nothing, because the kernel may have dropped what it could not write.
    fn sync_data(&self) -> io::Result<()>;

    /// Its length in octets.
    ///
    /// # Errors
    /// What the system says.
    fn size(&self) -> io::Result<u64>;
}

/// A held lock; dropping it gives it back.
pub trait Lock: Send + Sync {}

/// Why a lock was not taken.
#[derive(Debug)]
pub enum LockError {
    /// Another process holds it; its id, if it wrote one.
    Held(Option<u32>),
    /// The file cannot be opened.
    Io(io::Error),
}

/// Fills `buf` from `offset`.
///
/// # Errors
/// [`ErrorKind::UnexpectedEof`] if the file ends before; else what the disk says.
pub(super) fn read_exact_at(file: &dyn DiskFile, buf: &mut [u8], offset: u64) -> io::Result<()> {
    if read_full_at(file, buf, offset)? == buf.len() {
        return Ok(());
    }
    Err(io::Error::new(
        ErrorKind::UnexpectedEof,
        "the file ends too early",
    ))
}

/// Fills `buf` from `offset` as far as the file goes; says how far.
///
/// # Errors
/// What the disk says.
pub(super) fn read_full_at(file: &dyn DiskFile, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// Writes all of `buf` at `offset`, through short writes and interruptions.
///
/// # Errors
/// What the disk says; then some of it may be written.
pub(super) fn write_all_at(file: &dyn DiskFile, buf: &[u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < buf.len() {
        match file.write_at(&buf[done..], offset + done as u64) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => done += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// What a failed operation means for the writes that needed it.
pub(super) fn failure(doing: &str, error: &io::Error) -> StoreFailed {
    if is_full(error) {
        return StoreFailed::Full;
    }
    StoreFailed::Broken(format!("{doing}: {error}"))
}

/// Whether there was no room, as against a disk that fails.
pub(super) fn is_full(error: &io::Error) -> bool {
    let kind = error.kind();
    kind == ErrorKind::StorageFull || kind == ErrorKind::QuotaExceeded
}

/// The file system of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct StdDisk;

impl Disk for StdDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let names = std::fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(Result::transpose).collect()
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        Ok(Arc::new(StdFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Arc::new(StdFile(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>, LockError> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600);
        let file = options.open(path).map_err(LockError::Io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LockError::Held(holder(&file))),
            Err(TryLockError::Error(e)) => return Err(LockError::Io(e)),
        }
        // The number is for the message that a second process prints: without it the lock holds too.
        let text = format!("{:<10}\n", std::process::id());
        let _ = file.write_all_at(text.as_bytes(), 0);
        Ok(Box::new(FileLock { _file: file }))
    }
}

/// The process id that the holder of a lock wrote.
fn holder(file: &File) -> Option<u32> {
    let mut text = [0; 10];
    let read = file.read_at(&mut text, 0).ok()?;
    std::str::from_utf8(&text[..read]).ok()?.trim().parse().ok()
}

struct FileLock {
    _file: File,
}

impl Lock for FileLock {}

struct StdFile(File);

impl DiskFile for StdFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}
