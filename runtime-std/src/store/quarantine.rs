//! The quarantine: damaged parts of the queue, kept for people to look at.
//!
//! ```text
//!  data_dir/queue/quarantine/
//!    SSSSSSSS-OOOOOOOO        the octets, as they were in segment S from offset O on
//!    SSSSSSSS-OOOOOOOO.json   what is known of them
//!    ID.body                  the large body of a message that was in them
//! ```
//!
//! Nothing here is read again by the relay, but for [`list`] and [`story`].

use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use relay_core::events::{DeliveryEvent, EventKind};
use relay_core::id::MessageId;
use relay_core::queue::record::{HEADER_LEN, Header, Note};
use relay_core::time::UnixTime;
use serde::{Deserialize, Serialize};

use super::disk::{self, Disk, DiskFile};
use super::log::{Damaged, Log, Paths};
use super::open::remove_if_there;
use super::scan::Damage;

/// What is known of a damaged part of the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// The name of the file that keeps its octets.
    pub name: String,
    /// The id of its message, if that can be read.
    pub id: Option<String>,
    /// The number of the segment.
    pub segment: u32,
    /// Its first octet in the segment.
    pub offset: u32,
    /// How many octets.
    pub octets: u32,
    /// What is wrong.
    pub why: String,
}

/// Everything in the quarantine of a data directory. It may be in use.
///
/// # Errors
/// What the system says.
pub fn list(data_dir: &Path) -> io::Result<Vec<Quarantined>> {
    let dir = Paths::new(data_dir).quarantine;
    let mut found = Vec::new();
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let text = std::fs::read(&path)?;
        found.extend(serde_json::from_slice::<Quarantined>(&text));
    }
    found.sort_by_key(|one| (one.segment, one.offset));
    Ok(found)
}

/// What the quarantine holds of a message, as the end of its story.
///
/// # Errors
/// What the system says.
pub fn story(data_dir: &Path, id: MessageId) -> io::Result<Vec<DeliveryEvent>> {
    let mut found = list(data_dir)?;
    let name = id.to_string();
    found.retain(|one| one.id.as_ref() == Some(&name));
    let event = |one: Quarantined| {
        let put = std::fs::metadata(path(data_dir, &one).with_extension("json"))?.modified()?;
        let since = put.duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = UnixTime::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        let (why, name) = (one.why, one.name);
        let kind = EventKind::Quarantined { why, name };
        Ok(DeliveryEvent::new(at, id, kind))
    };
    found.into_iter().map(event).collect()
}

/// The file with the octets of one.
#[must_use]
pub fn path(data_dir: &Path, one: &Quarantined) -> PathBuf {
    Paths::new(data_dir).quarantine.join(&one.name)
}

impl Log {
    /// Sets aside messages that are live, but damaged: their records, and their bodies. Only then they are
    /// noted as void, so that a crash in between makes it happen again.
    pub(super) fn apply_damaged(&mut self, damaged: Vec<Damaged>) {
        for (message, noted, why) in damaged {
            let place = self.table.settle(message).unwrap_or(noted);
            let file = self.table.file(place.segment);
            let segment = self.segments.get(&place.segment);
            let (Some(file), Some(segment)) = (file, segment) else {
                continue;
            };
            if !segment.is_live(place.offset) {
                continue;
            }
            let mut start = [0; HEADER_LEN];
            let header = disk::read_exact_at(&*file, &mut start, place.offset.into());
            let header = header.ok().and_then(|()| Header::parse(&start).ok());
            let damage = Damage {
                from: place.offset,
                to: segment.next_after(place.offset),
                header: header.filter(|header| header.id == message),
            };
            if self.spooled.remove(&message) {
                self.quarantine_body(message);
            }
            self.set_aside(&file, place.segment, damage, Some(message), &why);
            self.emptied = true;
            self.note(&Note::Void { place });
        }
    }

    pub(super) fn quarantine_body(&self, message: MessageId) {
        let path = self.paths.spool.join(message.to_string());
        let kept = self.paths.quarantine.join(format!("{message}.body"));
        match self.disk.rename(&path, &kept) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(id = %message, error = %e, "a body was not moved to the quarantine");
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// Copies damaged octets aside, once; without a file there are none, and only what is known is written.
    /// False if that failed: then the segment must stay.
    pub(super) fn quarantine(
        &mut self,
        file: Option<&dyn DiskFile>,
        segment: u32,
        damage: Damage,
        message: Option<MessageId>,
        why: &str,
    ) -> bool {
        let name = format!("{segment:08x}-{:08x}", damage.from);
        let path = self.paths.quarantine.join(&name);
        if self.disk.open(&path).is_ok() {
            return true;
        }
        let known = Quarantined {
            name,
            id: message.map(|id| id.to_string()),
            segment,
            offset: damage.from,
            octets: damage.to - damage.from,
            why: why.to_owned(),
        };
        tracing::error!(
            segment, offset = damage.from, octets = known.octets, id = known.id, why,
            path = %path.display(),
            "a part of the queue is damaged; it is kept in the quarantine, and what was in it is not delivered"
        );
        self.quarantined += 1;
        let kept = self.copy_aside(file, damage, &path, &known);
        if let Err(e) = &kept {
            tracing::error!(error = %e, "the damaged record could not be kept aside; its segment stays");
        }
        kept.is_ok()
    }

    fn copy_aside(
        &self,
        file: Option<&dyn DiskFile>,
        damage: Damage,
        path: &Path,
        known: &Quarantined,
    ) -> io::Result<()> {
        let text = serde_json::to_vec(known)?;
        put(&*self.disk, &path.with_extension("json"), |copy| {
            disk::write_all_at(copy, &text, 0)
        })?;
        put(&*self.disk, path, |copy| {
            let mut bytes = vec![0; 1 << 18];
            let (start, to) = (u64::from(damage.from), u64::from(damage.to));
            let mut from = start;
            while let Some(file) = file.filter(|_| from < to) {
                let left = usize::try_from(to - from).unwrap_or(usize::MAX);
                let want = bytes.len().min(left);
                let filled = disk::read_full_at(file, &mut bytes[..want], from)?;
                if filled == 0 {
                    break;
                }
                disk::write_all_at(copy, &bytes[..filled], from - start)?;
                from += filled as u64;
            }
            Ok(())
        })?;
        self.disk.sync_dir(&self.paths.quarantine)
    }
}

/// Makes a file that is whole once it has its name.
pub(super) fn put(
    disk: &dyn Disk,
    path: &Path,
    write: impl FnOnce(&dyn DiskFile) -> io::Result<()>,
) -> io::Result<()> {
    let part = path.with_extension("part");
    remove_if_there(disk, &part)?;
    let file = disk.create(&part)?;
    write(&*file)?;
    file.sync_data()?;
    disk.rename(&part, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_story_of_a_message_ends_in_the_quarantine() {
        let data_dir =
            std::env::temp_dir().join(format!("relay-quarantine-{}", std::process::id()));
        let dir = Paths::new(&data_dir).quarantine;
        let id = MessageId::from_u64(7);
        assert_eq!(story(&data_dir, id).unwrap(), []);
        std::fs::create_dir_all(&dir).unwrap();
        for (segment, id) in [(1, Some(id.to_string())), (2, None)] {
            let one = Quarantined {
                name: format!("{segment:08x}-00001000"),
                id,
                segment,
                offset: 4096,
                octets: 64,
                why: "its checksum is wrong".to_owned(),
            };
            let text = serde_json::to_vec(&one).unwrap();
            std::fs::write(dir.join(&one.name).with_extension("json"), text).unwrap();
        }
        let found = story(&data_dir, id).unwrap();
        let kinds: Vec<_> = found.into_iter().map(|event| event.kind).collect();
        let expected = EventKind::Quarantined {
            why: "its checksum is wrong".to_owned(),
            name: "00000001-00001000".to_owned(),
        };
        assert_eq!(kinds, [expected]);
        std::fs::remove_dir_all(data_dir).unwrap();
    }
}
