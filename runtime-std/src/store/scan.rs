//! Reading a segment from front to back: whole records, and what is damaged between them.
//!
//! What cannot be read is *damage* only where it was synced once; behind that, it is the end of a group
//! that was being written when the machine stopped, which nobody was told about, or what an earlier use
//! of the file left. Two things say how far a segment was synced: the notes, and every group itself,
//! because it was begun after the one before it was on stable storage.

use std::io;
use std::sync::Arc;

use relay_core::queue::record::{ALIGN, HEADER_LEN, Header};

use super::disk::{self, DiskFile};
use super::segment::PAGE;

/// How much is read at once.
const WINDOW: usize = 1 << 20;

/// A whole record whose checksums match.
pub(super) struct Found {
    pub(super) offset: u32,
    pub(super) header: Header,
}

/// Octets that held something and do not any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Damage {
    pub(super) from: u32,
    pub(super) to: u32,
    /// The record's header, if that is whole.
    pub(super) header: Option<Header>,
}

/// What one look at a place of the segment gives.
enum Look {
    Whole(Header),
    DamagedBody(Header),
    CutShort(Header),
    Nothing,
}

/// What a scan found out besides the records.
pub(super) struct Scanned {
    /// The first page boundary behind all that counts.
    pub(super) end: u32,
    pub(super) damage: Vec<Damage>,
}

/// Calls `each` for every whole record of a segment, in order. `synced` is how far it is known to be
/// synced.
///
/// # Errors
/// What the disk says.
pub(super) fn scan(
    file: &Arc<dyn DiskFile>,
    (segment, salt): (u32, u64),
    synced: u32,
    each: &mut dyn FnMut(Found),
) -> io::Result<Scanned> {
    let mut window = Window::new(file)?;
    let mut unread = Vec::new();
    let mut hole: Option<u32> = None;
    let (mut synced, mut end) = (synced.max(PAGE), synced.max(PAGE));
    let mut pos = PAGE;
    while window.has(pos, HEADER_LEN) {
        let look = window.look(pos, segment, salt)?;
        let (header, whole) = match look {
            Look::Nothing => {
                pos = match hole {
                    None if window.is_padding(pos)? => pos.next_multiple_of(PAGE),
                    None | Some(_) => {
                        hole.get_or_insert(pos);
                        pos + ALIGN as u32
                    }
                };
                continue;
            }
            Look::Whole(header) => (header, true),
            Look::DamagedBody(header) | Look::CutShort(header) => (header, false),
        };
        if let Some(from) = hole.take() {
            unread.push(Damage {
                from,
                to: pos,
                header: None,
            });
        }
        let next = window.clamp(u64::from(pos) + header.record_len() as u64);
        synced = synced.max(header.stamp.batch);
        if whole {
            end = end.max(next.next_multiple_of(PAGE));
            each(Found {
                offset: pos,
                header,
            });
        } else {
            unread.push(Damage {
                from: pos,
                to: next,
                header: Some(header),
            });
        }
        pos = next.next_multiple_of(ALIGN as u32);
    }
    if let Some(from) = hole {
        let to = synced.clamp(from, window.len.max(from));
        unread.push(Damage {
            from,
            to,
            header: None,
        });
    }
    if synced > window.len.max(PAGE) && hole.is_none() {
        // A cut file: what was synced behind its end is gone.
        let from = pos.min(window.len);
        unread.push(Damage {
            from,
            to: window.len,
            header: None,
        });
    }
    unread.retain(|damage| damage.from < synced);
    Ok(Scanned {
        end,
        damage: unread,
    })
}

/// The number of the segment in a file whose header is damaged: the highest in a whole record.
///
/// # Errors
/// What the disk says.
pub(super) fn guess_segment(file: &Arc<dyn DiskFile>, salt: u64) -> io::Result<Option<u32>> {
    let mut window = Window::new(file)?;
    let mut highest = None;
    let mut pos = PAGE;
    while window.has(pos, HEADER_LEN) {
        let header = Header::parse(window.get(pos, HEADER_LEN)?).ok();
        let ours = header.filter(|header| header.stamp.salt == salt);
        highest = highest.max(ours.map(|header| header.stamp.generation));
        pos += ALIGN as u32;
    }
    Ok(highest)
}

/// A part of a file in memory, moving forward.
pub(super) struct Window {
    file: Arc<dyn DiskFile>,
    len: u32,
    start: u32,
    bytes: Vec<u8>,
}

impl Window {
    pub(super) fn new(file: &Arc<dyn DiskFile>) -> io::Result<Self> {
        let len = u32::try_from(file.size()?).unwrap_or(u32::MAX);
        Ok(Self {
            file: Arc::clone(file),
            len,
            start: 0,
            bytes: Vec::new(),
        })
    }

    fn has(&self, pos: u32, len: usize) -> bool {
        u64::from(pos) + len as u64 <= u64::from(self.len)
    }

    pub(super) fn clamp(&self, pos: u64) -> u32 {
        u32::try_from(pos.min(self.len.into())).unwrap_or(u32::MAX)
    }

    /// `len` octets from `pos` on; fewer at the end of the file.
    pub(super) fn get(&mut self, pos: u32, len: usize) -> io::Result<&[u8]> {
        let len = len.min((self.len - pos.min(self.len)) as usize);
        let loaded = pos >= self.start && (pos - self.start) as usize + len <= self.bytes.len();
        if !loaded {
            let ahead = WINDOW.min((self.len - pos.min(self.len)) as usize);
            self.bytes.resize(len.max(ahead), 0);
            self.start = pos;
            match disk::read_full_at(&*self.file, &mut self.bytes, pos.into()) {
                Ok(filled) => self.bytes.truncate(filled.max(len)),
                Err(error) => {
                    // What was not read must not pass for what is there when somebody asks again.
                    self.bytes.clear();
                    return Err(error);
                }
            }
        }
        let at = (pos - self.start) as usize;
        Ok(&self.bytes[at..at + len])
    }

    fn look(&mut self, pos: u32, segment: u32, salt: u64) -> io::Result<Look> {
        let bytes = self.get(pos, HEADER_LEN)?;
        if !Header::may_start(bytes, segment, salt) {
            return Ok(Look::Nothing);
        }
        let Ok(header) = Header::parse(bytes) else {
            return Ok(Look::Nothing);
        };
        if !self.has(pos, header.record_len()) {
            return Ok(Look::CutShort(header));
        }
        let record = self.get(pos, header.record_len())?;
        Ok(match header.check(&record[HEADER_LEN..]) {
            Ok(()) => Look::Whole(header),
            Err(_) => Look::DamagedBody(header),
        })
    }

    /// Whether only zeros follow up to the next page boundary: the end of a group.
    fn is_padding(&mut self, pos: u32) -> io::Result<bool> {
        let len = (pos.next_multiple_of(PAGE) - pos) as usize;
        Ok(len > 0 && self.get(pos, len)?.iter().all(|&octet| octet == 0))
    }
}
