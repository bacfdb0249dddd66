//! Opening a directory and finding what is in it.
//!
//! ```text
//!  open:     lock ─▶ identity (salt) ─▶ segment headers ─▶ progress log: void places, synced ends,
//!                                                           where the notes of each message are
//!  recover:  each segment, the oldest first: whole live records with their notes ─▶ visitor
//!            damage ─▶ quarantine        spool files without a record ─▶ removed
//! ```
//!
//! Nothing that exists is changed before it was copied aside, so recovery can be cut off and begun
//! again at any point. It keeps sixteen octets for each note and four for each record in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use relay_core::id::MessageId;
use relay_core::queue::message::Message;
use relay_core::queue::record::{FileHeader, FileKind, Invalid, Note, Progress};
use relay_core::queue::store::{LoadFailed, Place, Recovered};

use super::disk::{self, Disk, DiskFile, Lock, LockError};
use super::log::{Log, Parts, Paths};
use super::progress::{self, ProgressLog};
use super::scan::{self, Damage, Found};
use super::segment::{PAGE, Segment, Slot, State};
use super::{OpenError, Options};

/// If notes are missing, numbers of segments may be missing with them: go on far behind.
const NUMBER_JUMP: u32 = 1024;

const IDENTITY: &str = "identity";

/// What the progress log says.
#[derive(Default)]
pub(super) struct Notes {
    /// Void places, by segment.
    voids: BTreeMap<u32, BTreeSet<u32>>,
    /// How far each segment was synced.
    synced: BTreeMap<u32, u32>,
    /// The highest segment number that was used.
    opened: u32,
    /// Where in the log the notes of each message are.
    index: Vec<(MessageId, u64)>,
}

impl Notes {
    fn add(&mut self, offset: u64, note: &Note) {
        match note {
            Note::Progress { message, .. } => self.index.push((*message, offset)),
            Note::Void { place } => {
                self.voids
                    .entry(place.segment)
                    .or_default()
                    .insert(place.offset);
            }
            Note::Opened { segment } => self.opened = self.opened.max(*segment),
            Note::Synced { end } => {
                let known = self.synced.entry(end.segment).or_default();
                *known = end.offset.max(*known);
            }
        }
    }

    fn is_void(&self, place: Place) -> bool {
        self.voids
            .get(&place.segment)
            .is_some_and(|voids| voids.contains(&place.offset))
    }
}

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
    let (mut segments, free, next_slot) = slots(disk, paths, options, salt, &names)?;
    let (progress, mut notes, intact) = read_progress(disk, paths, salt, &names)?;
    let newest = segments.keys().next_back().copied().unwrap_or(0);
    let mut next_segment = newest.max(notes.opened).saturating_add(1);
    if !intact && !segments.is_empty() {
        next_segment = next_segment.saturating_add(NUMBER_JUMP);
    }
    for (number, segment) in &mut segments {
        segment.noted_end = notes.synced.get(number).copied().unwrap_or(0);
    }
    notes
        .voids
        .retain(|number, _| segments.contains_key(number));
    notes.index.sort_unstable();
    let quarantined = disk.list(&paths.quarantine);
    let quarantined = quarantined.map_err(|e| OpenError::io(&paths.quarantine, e))?;
    let quarantined = quarantined
        .iter()
        .filter(|name| !name.ends_with(PART))
        .count() as u64;
    let parts = Parts {
        salt,
        segments,
        free,
        next_segment,
        next_slot,
        progress,
        quarantined,
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

fn remove_if_there(disk: &dyn Disk, path: &Path) -> io::Result<()> {
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
            None => scan::guess_segment(&*file, salt).map_err(io)?,
        };
        let slot = Slot { number, file, len };
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
) -> Result<(ProgressLog, Notes, bool), OpenError> {
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
        let log = new_progress(disk, paths, salt).map_err(|e| OpenError::io(&path, e))?;
        return Ok((log, notes, false));
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
    Ok((log, notes, damaged == 0))
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

/// Names in the quarantine that end so are not whole.
const PART: &str = ".part";

impl Log {
    /// Reads all segments and hands every live message to `each`, the oldest first. Nothing can be
    /// written before this ended.
    pub(super) fn recover(
        &mut self,
        notes: &Notes,
        each: &mut dyn FnMut(Recovered) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, LoadFailed> {
        let failed = |e: io::Error| LoadFailed::Io(format!("the queue directory: {e}"));
        self.spooled.clear();
        let mut copies = BTreeSet::new();
        let numbers: Vec<u32> = self.segments.keys().copied().collect();
        for number in numbers {
            let flow = self
                .recover_segment(number, notes, &mut copies, each)
                .map_err(failed)?;
            if flow.is_break() {
                return Ok(flow);
            }
        }
        for message in self.spool.list().map_err(failed)? {
            if !self.spooled.contains(&message) {
                tracing::info!(id = %message, "a spool file without a message is removed");
                self.spool.remove(message);
            }
        }
        self.recovered = true;
        Ok(ControlFlow::Continue(()))
    }

    fn recover_segment(
        &mut self,
        number: u32,
        notes: &Notes,
        copies: &mut BTreeSet<Place>,
        each: &mut dyn FnMut(Recovered) -> ControlFlow<()>,
    ) -> io::Result<ControlFlow<()>> {
        let Some(old) = self.segments.remove(&number) else {
            return Ok(ControlFlow::Continue(()));
        };
        let file = Arc::clone(&old.slot.file);
        let noted_end = old.noted_end;
        let mut segment = Segment::new(old.slot, State::Sealed, PAGE);
        segment.noted_end = noted_end;
        let synced = notes.synced.get(&number).copied().unwrap_or(0);
        let mut damage = Vec::new();
        let scanned = scan::scan(&*file, (number, self.salt), synced, &mut |found| {
            let place = Place {
                segment: number,
                offset: found.offset,
            };
            if notes.is_void(place) || self.is_copy(&found, place, copies) {
                segment.push_void(found.offset);
                return Ok(ControlFlow::Continue(()));
            }
            let Some(message) = self.judge(&found, &mut damage)? else {
                segment.push_void(found.offset);
                return Ok(ControlFlow::Continue(()));
            };
            segment.push(found.offset, found.header.record_len());
            let progress = self.notes_of(notes, message.id)?;
            Ok(each(Recovered {
                message,
                place,
                progress,
            }))
        });
        let scanned = match scanned {
            Ok(scanned) => scanned,
            Err(e) => {
                self.segments.insert(number, segment);
                return Err(e);
            }
        };
        segment.end = scanned.end;
        let was_void = |damage: &Damage| {
            notes.is_void(Place {
                segment: number,
                offset: damage.from,
            })
        };
        damage.extend(
            scanned
                .damage
                .into_iter()
                .filter(|damage| !was_void(damage)),
        );
        for damage in damage {
            segment.keep |= !self.quarantine(&*file, number, damage);
        }
        self.segments.insert(number, segment);
        Ok(if scanned.stopped {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    }

    /// Whether a record is the copy of one that is still there: the move was cut off.
    fn is_copy(&self, found: &Found<'_>, place: Place, copies: &mut BTreeSet<Place>) -> bool {
        let Some(from) = found.header.stamp.moved_from else {
            return false;
        };
        let original = self.segments.get(&from.segment);
        let there = original.is_some_and(|segment| segment.is_live(from.offset));
        if there || copies.contains(&from) {
            copies.insert(place);
            return true;
        }
        false
    }

    /// The message of a record; none if it cannot be delivered: then it goes to the quarantine.
    fn judge(
        &mut self,
        found: &Found<'_>,
        damage: &mut Vec<Damage>,
    ) -> io::Result<Option<Message>> {
        let Ok(message) = found.header.message(found.payload) else {
            damage.push(found.as_damage());
            return Ok(None);
        };
        if !found.header.spooled {
            return Ok(Some(message));
        }
        if self.spool.is_whole(message.id, message.size)? {
            self.spooled.insert(message.id);
            return Ok(Some(message));
        }
        let body = self.paths.quarantine.join(format!("{}.body", message.id));
        let path = self.paths.spool.join(message.id.to_string());
        let _ = self.disk.rename(&path, &body);
        damage.push(found.as_damage());
        Ok(None)
    }

    fn notes_of(&self, notes: &Notes, message: MessageId) -> io::Result<Vec<Progress>> {
        let start = notes.index.partition_point(|(id, _)| *id < message);
        let its = notes.index[start..]
            .iter()
            .take_while(|(id, _)| *id == message);
        let mut all = Vec::new();
        for (_, offset) in its {
            if let Some(Note::Progress { progress, .. }) = self.progress.read(*offset)? {
                all.push(progress);
            }
        }
        Ok(all)
    }

    /// Copies damaged octets aside, once. False if that failed: then the segment must stay.
    fn quarantine(&mut self, file: &dyn DiskFile, segment: u32, damage: Damage) -> bool {
        let name = format!("{segment:08x}-{:08x}", damage.from);
        let path = self.paths.quarantine.join(&name);
        if self.disk.open(&path).is_ok() {
            return true;
        }
        let id = damage.header.map(|header| header.id.to_string());
        tracing::error!(
            segment, offset = damage.from, octets = damage.to - damage.from,
            id, path = %path.display(),
            "a record in the queue is damaged; it is kept in the quarantine and not delivered"
        );
        self.quarantined += 1;
        let copied = self.copy_aside(file, damage, &path);
        if let Err(e) = &copied {
            tracing::error!(error = %e, "the damaged record could not be kept aside; its segment stays");
        }
        copied.is_ok()
    }

    fn copy_aside(&self, file: &dyn DiskFile, damage: Damage, path: &Path) -> io::Result<()> {
        let part = path.with_extension(&PART[1..]);
        remove_if_there(&*self.disk, &part)?;
        let copy = self.disk.create(&part)?;
        let mut bytes = vec![0; 1 << 18];
        let (mut from, to) = (u64::from(damage.from), u64::from(damage.to));
        let start = from;
        while from < to {
            let want = bytes
                .len()
                .min(usize::try_from(to - from).unwrap_or(usize::MAX));
            let filled = disk::read_full_at(file, &mut bytes[..want], from)?;
            if filled == 0 {
                break;
            }
            disk::write_all_at(&*copy, &bytes[..filled], from - start)?;
            from += filled as u64;
        }
        copy.sync_data()?;
        self.disk.rename(&part, path)?;
        self.disk.sync_dir(&self.paths.quarantine)
    }
}
