//! Opening a directory: the lock, the salt, which file is which segment, and the progress log.
//!
//! Nothing here reads a message. Everything can be done again if it is cut off.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::Path;

use relay_core::queue::record::{FileHeader, FileKind, Invalid, Note};

use super::checkpoint;
use super::disk::{self, Disk, Lock, LockError};
use super::log::{Parts, Paths};
use super::progress::{self, ProgressLog};
use super::recover::Notes;
use super::scan;
use super::segment::{PAGE, Segment, Slot, State};
use super::{OpenError, Options};

/// If notes are missing, numbers of segments may be missing with them: go on far behind.
const NUMBER_JUMP: u32 = 1024;

const IDENTITY: &str = "identity";

/// Opens a directory: everything but reading the records.
pub(super) fn open(
    disk: &dyn Disk,
    data_dir: &Path,
    paths: &Paths,
    options: &Options,
) -> Result<(Parts, Notes), OpenError> {
    make_dirs(disk, data_dir, paths)?;
    let lock = lock(disk, paths)?;
    let names = disk
        .list(&paths.queue)
        .map_err(|e| OpenError::io(&paths.queue, e))?;
    let salt = identity(disk, paths, options, &names)?;
    let (mut segments, mut free, next_slot) = slots(disk, paths, options, salt, &names)?;
    let (progress, mut notes) = read_progress(disk, paths, salt, &names, !segments.is_empty())?;
    let newest = segments.keys().next_back().copied().unwrap_or(0);
    let mut next_segment = newest.max(notes.opened).saturating_add(1);
    if !notes.intact && !segments.is_empty() {
        next_segment = next_segment.saturating_add(NUMBER_JUMP);
    }
    for number in &notes.emptied {
        if let Some(segment) = segments.remove(number) {
            free.push(Slot {
                was: Some(*number),
                ..segment.slot
            });
        }
    }
    for (number, segment) in &mut segments {
        segment.noted_end = notes.synced.get(number).copied().unwrap_or(0);
    }
    for number in names.iter().filter_map(|name| checkpoint::segment_of(name)) {
        if !segments.contains_key(&number) {
            let path = paths.index(number);
            remove_if_there(disk, &path).map_err(|e| OpenError::io(&path, e))?;
        }
    }
    notes
        .voids
        .retain(|number, _| segments.contains_key(number));
    notes.index.sort_unstable();
    let quarantined = disk.list(&paths.quarantine);
    let quarantined = quarantined.map_err(|e| OpenError::io(&paths.quarantine, e))?;
    let quarantined = quarantined
        .iter()
        .filter(|name| !name.contains('.'))
        .count() as u64;
    let last_id = notes.index.last().map_or(0, |(id, _)| id.as_u64());
    let parts = Parts {
        salt,
        segments,
        free,
        next_segment,
        next_slot,
        progress,
        quarantined,
        last_id,
        lock,
    };
    Ok((parts, notes))
}

fn make_dirs(disk: &dyn Disk, data_dir: &Path, paths: &Paths) -> Result<(), OpenError> {
    for dir in [&paths.spool, &paths.quarantine] {
        disk.create_dir(dir).map_err(|e| OpenError::io(dir, e))?;
    }
    // The names of the directories themselves. The one above is often not ours to open.
    for dir in [data_dir, &paths.queue] {
        disk.sync_dir(dir).map_err(|e| OpenError::io(dir, e))?;
    }
    if let Some(above) = data_dir
        .parent()
        .filter(|above| !above.as_os_str().is_empty())
    {
        let _ = disk.sync_dir(above);
    }
    Ok(())
}

fn lock(disk: &dyn Disk, paths: &Paths) -> Result<Box<dyn Lock>, OpenError> {
    let path = paths.queue.join("lock");
    disk.lock(&path).map_err(|e| match e {
        LockError::Held(process) => OpenError::Locked {
            dir: paths.queue.clone(),
            process,
        },
        LockError::Io(e) => OpenError::io(&path, e),
    })
}

/// The salt of the store: from its own file, or, should that be damaged, from a segment.
fn identity(
    disk: &dyn Disk,
    paths: &Paths,
    options: &Options,
    names: &[String],
) -> Result<u64, OpenError> {
    let path = paths.queue.join(IDENTITY);
    if let Some(header) = read_header(disk, &path, FileKind::Identity)? {
        return Ok(header.salt);
    }
    let files = names.iter().filter_map(|name| {
        let kind = match (slot_of(name), ProgressLog::number_of(name)) {
            (Some(_), _) => FileKind::Segment,
            (None, Some(_)) => FileKind::Progress,
            (None, None) => return None,
        };
        Some((kind, paths.queue.join(name)))
    });
    let mut salt = None;
    for (kind, path) in files {
        if let Some(header) = read_header(disk, &path, kind)? {
            salt = Some(header.salt);
            break;
        }
    }
    if salt.is_some() {
        tracing::warn!(path = %path.display(), "the identity file was damaged; it is made anew");
    }
    let salt = match salt.or(options.salt) {
        Some(salt) => salt,
        None => random_salt().map_err(|e| OpenError::io(&path, e))?,
    };
    write_identity(disk, paths, salt).map_err(|e| OpenError::io(&path, e))?;
    Ok(salt)
}

fn random_salt() -> io::Result<u64> {
    getrandom::u64().map_err(|e| io::Error::other(e.to_string()))
}

fn write_identity(disk: &dyn Disk, paths: &Paths, salt: u64) -> io::Result<()> {
    let (path, new) = (paths.queue.join(IDENTITY), paths.queue.join("identity.new"));
    remove_if_there(disk, &new)?;
    let file = disk.create(&new)?;
    let header = FileHeader {
        kind: FileKind::Identity,
        number: 0,
        salt,
    };
    disk::write_all_at(&*file, &header.encode(), 0)?;
    file.sync_data()?;
    disk.rename(&new, &path)?;
    disk.sync_dir(&paths.queue)
}

pub(super) fn remove_if_there(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.unlink(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The header of a file; none if there is no file, or a damaged one.
fn read_header(
    disk: &dyn Disk,
    path: &Path,
    kind: FileKind,
) -> Result<Option<FileHeader>, OpenError> {
    let file = match disk.open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(OpenError::io(path, e)),
    };
    let mut bytes = [0; FileHeader::LEN];
    let filled = disk::read_full_at(&*file, &mut bytes, 0).map_err(|e| OpenError::io(path, e))?;
    match FileHeader::decode(&bytes[..filled]) {
        Ok(header) => Ok(Some(header).filter(|header| header.kind == kind)),
        Err(Invalid::Version(version)) => Err(OpenError::Version {
            path: path.to_owned(),
            version,
        }),
        Err(_) => Ok(None),
    }
}

/// The number of a slot, from the name of its file.
fn slot_of(name: &str) -> Option<u32> {
    u32::from_str_radix(name.strip_prefix("segment-")?, 16).ok()
}

type Slots = (BTreeMap<u32, Segment>, Vec<Slot>, u32);

fn slots(
    disk: &dyn Disk,
    paths: &Paths,
    options: &Options,
    salt: u64,
    names: &[String],
) -> Result<Slots, OpenError> {
    let (mut segments, mut free, mut next_slot) = (BTreeMap::new(), Vec::new(), 0);
    for number in names.iter().filter_map(|name| slot_of(name)) {
        next_slot = next_slot.max(number.saturating_add(1));
        let path = paths.slot(number);
        let header = read_header(disk, &path, FileKind::Segment)?;
        let io = |e| OpenError::io(&path, e);
        let file = disk.open(&path).map_err(io)?;
        let len = u32::try_from(file.size().map_err(io)?).unwrap_or(u32::MAX);
        let segment = match header.filter(|header| header.salt == salt) {
            Some(header) => Some(header.number),
            None => scan::guess_segment(&file, salt).map_err(io)?,
        };
        let slot = Slot {
            number,
            file,
            was: None,
            len,
        };
        match segment {
            Some(segment) if segments.contains_key(&segment) => {
                tracing::error!(path = %path.display(), segment, "two files are the same segment; this one is left alone");
            }
            Some(segment) => {
                segments.insert(segment, Segment::new(slot, State::Sealed, PAGE));
            }
            None if len <= options.segment_size => free.push(slot),
            None => {}
        }
    }
    Ok((segments, free, next_slot))
}

fn read_progress(
    disk: &dyn Disk,
    paths: &Paths,
    salt: u64,
    names: &[String],
    used: bool,
) -> Result<(ProgressLog, Notes), OpenError> {
    let unfinished = progress::unfinished(&paths.queue);
    remove_if_there(disk, &unfinished).map_err(|e| OpenError::io(&unfinished, e))?;
    let mut numbers: Vec<u32> = names
        .iter()
        .filter_map(|n| ProgressLog::number_of(n))
        .collect();
    numbers.sort_unstable();
    let mut notes = Notes::default();
    let Some(number) = numbers.pop() else {
        let path = paths.progress(1);
        if used {
            tracing::warn!(
                path = %path.display(),
                "the progress log is gone and made anew: what was delivered before may be delivered again"
            );
        }
        let log = new_progress(disk, paths, salt).map_err(|e| OpenError::io(&path, e))?;
        return Ok((log, notes));
    };
    let path = paths.progress(number);
    read_header(disk, &path, FileKind::Progress)?;
    let (log, damaged) = ProgressLog::open(disk, &path, number, salt, |offset, note| {
        notes.add(offset, &note)
    })
    .map_err(|e| OpenError::io(&path, e))?;
    if damaged > 0 {
        tracing::warn!(
            path = %path.display(), octets = damaged,
            "the progress log is damaged: some recipients may receive a message again"
        );
    }
    for old in numbers {
        let path = paths.progress(old);
        remove_if_there(disk, &path).map_err(|e| OpenError::io(&path, e))?;
    }
    notes.intact = damaged == 0;
    Ok((log, notes))
}

fn new_progress(disk: &dyn Disk, paths: &Paths, salt: u64) -> io::Result<ProgressLog> {
    let path = progress::unfinished(&paths.queue);
    let mut log = ProgressLog::create(disk, &path, 1, salt)?;
    log.add(&Note::Opened { segment: 0 });
    log.sync()?;
    disk.rename(&path, &paths.progress(1))?;
    disk.sync_dir(&paths.queue)?;
    Ok(log)
}
