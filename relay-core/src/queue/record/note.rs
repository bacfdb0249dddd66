//! Notes: the entries of the progress log, each in a frame with a checksum.
//!
//! ```text
//!  frame = checksum u32, length u32, kind u8, …, zeros to a multiple of 8
//! ```

use super::wire::{Reader, Writer};
use super::{DeferredState, Invalid, Progress, State};
use crate::id::MessageId;
use crate::queue::store::Place;
use crate::time::UnixTime;

/// Frames start at multiples of this.
pub const NOTE_ALIGN: usize = 8;

/// No frame is longer, in octets: a length above it is damage.
pub const NOTE_MAX: usize = 1 << 26;

const FRAME_LEN: usize = 8;

/// One entry of the progress log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// What happened to a message.
    Progress {
        /// The message.
        message: MessageId,
        /// What.
        progress: Progress,
    },
    /// The record at this place is void: its message is settled, or it was copied, or its write failed.
    Void {
        /// Where.
        place: Place,
    },
    /// Every record of a segment is void: its file waits to be used again.
    Emptied {
        /// The number.
        segment: u32,
    },
    /// A segment with this number is about to be written: no earlier one has it.
    Opened {
        /// The number.
        segment: u32,
    },
    /// All octets of a segment before this one were synced: damage in them is damage, not an end.
    Synced {
        /// The first octet behind.
        end: Place,
    },
}

const SETTLED: u8 = 1;
const DEFERRED: u8 = 2;
const HELD: u8 = 3;
const STATE: u8 = 4;
const VOID: u8 = 5;
const OPENED: u8 = 6;
const SYNCED: u8 = 7;
const EMPTIED: u8 = 8;

impl Note {
    /// Appends the note in its frame. `seed` is the same for one log and unknown to peers, whose words
    /// are in the notes: they cannot make text that is taken for a frame.
    pub fn encode(&self, out: &mut Vec<u8>, seed: u64) {
        let start = out.len();
        out.resize(start + FRAME_LEN, 0);
        self.write(&mut Writer(out));
        let len = u32::try_from(out.len() - start - FRAME_LEN).unwrap_or(u32::MAX);
        out[start + 4..start + FRAME_LEN].copy_from_slice(&len.to_le_bytes());
        let crc = checksum(&out[start + 4..], seed);
        out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
        out.resize(start + (out.len() - start).next_multiple_of(NOTE_ALIGN), 0);
    }

    /// Reads the note whose frame is at the start of `bytes`, and says how many octets it took.
    ///
    /// # Errors
    /// [`Invalid::Short`] if the frame goes on behind `bytes` (or its length is damaged), else what is
    /// wrong with it.
    pub fn decode(bytes: &[u8], seed: u64) -> Result<(Self, usize), Invalid> {
        let mut reader = Reader(bytes.get(..FRAME_LEN).ok_or(Invalid::Short)?);
        let crc = reader.u32()?;
        let len = reader.u32()? as usize;
        if len == 0 || len > NOTE_MAX {
            return Err(Invalid::NotARecord);
        }
        let content = bytes
            .get(FRAME_LEN..FRAME_LEN + len)
            .ok_or(Invalid::Short)?;
        if checksum(&bytes[4..FRAME_LEN + len], seed) != crc {
            return Err(Invalid::Checksum);
        }
        let mut reader = Reader(content);
        let note = Self::read(&mut reader)?;
        reader.end()?;
        Ok((note, (FRAME_LEN + len).next_multiple_of(NOTE_ALIGN)))
    }

    fn write(&self, writer: &mut Writer<'_>) {
        match self {
            Self::Progress { message, progress } => write_progress(writer, *message, progress),
            Self::Void { place } => write_place(writer, VOID, *place),
            Self::Emptied { segment } => {
                writer.u8(EMPTIED);
                writer.u32(*segment);
            }
            Self::Opened { segment } => {
                writer.u8(OPENED);
                writer.u32(*segment);
            }
            Self::Synced { end } => write_place(writer, SYNCED, *end),
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Invalid> {
        Ok(match reader.u8()? {
            VOID => Self::Void {
                place: read_place(reader)?,
            },
            EMPTIED => Self::Emptied {
                segment: reader.u32()?,
            },
            OPENED => Self::Opened {
                segment: reader.u32()?,
            },
            SYNCED => Self::Synced {
                end: read_place(reader)?,
            },
            kind => Self::Progress {
                message: MessageId::from_u64(reader.u64()?),
                progress: read_progress(kind, reader)?,
            },
        })
    }
}

/// The checksum of a frame's length and content.
fn checksum(bytes: &[u8], seed: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

fn write_place(writer: &mut Writer<'_>, kind: u8, place: Place) {
    writer.u8(kind);
    writer.u32(place.segment);
    writer.u32(place.offset);
}

fn read_place(reader: &mut Reader<'_>) -> Result<Place, Invalid> {
    Ok(Place {
        segment: reader.u32()?,
        offset: reader.u32()?,
    })
}

fn write_progress(writer: &mut Writer<'_>, message: MessageId, progress: &Progress) {
    writer.u8(match progress {
        Progress::Settled { .. } => SETTLED,
        Progress::Deferred(_) => DEFERRED,
        Progress::Held(_) => HELD,
        Progress::State(_) => STATE,
    });
    writer.u64(message.as_u64());
    match progress {
        Progress::Settled { recipients } => writer.indexes(recipients),
        Progress::Deferred(deferred) => write_deferred(writer, deferred),
        Progress::Held(held) => writer.u8(u8::from(*held)),
        Progress::State(state) => {
            writer.indexes(&state.settled);
            writer.u8(u8::from(state.held));
            writer.count(state.deferred.len());
            state
                .deferred
                .iter()
                .for_each(|deferred| write_deferred(writer, deferred));
        }
    }
}

fn read_progress(kind: u8, reader: &mut Reader<'_>) -> Result<Progress, Invalid> {
    Ok(match kind {
        SETTLED => Progress::Settled {
            recipients: reader.indexes()?,
        },
        DEFERRED => Progress::Deferred(read_deferred(reader)?),
        HELD => Progress::Held(reader.bool()?),
        STATE => {
            let settled = reader.indexes()?;
            let held = reader.bool()?;
            // A group takes at least its counts, its time, its flags and the length of its reason.
            let groups = reader.count(15)?;
            let deferred = (0..groups)
                .map(|_| read_deferred(reader))
                .collect::<Result<_, _>>()?;
            Progress::State(State {
                settled,
                held,
                deferred,
            })
        }
        _ => return Err(Invalid::Content("an unknown note")),
    })
}

fn write_deferred(writer: &mut Writer<'_>, deferred: &DeferredState) {
    writer.indexes(&deferred.recipients);
    writer.varint(deferred.attempts);
    writer.u64(deferred.next.as_millis());
    writer.u8(u8::from(deferred.delay_reported)
        | u8::from(deferred.in_doubt) << 1
        | u8::from(deferred.held) << 2);
    writer.text(&deferred.reason);
}

fn read_deferred(reader: &mut Reader<'_>) -> Result<DeferredState, Invalid> {
    let recipients = reader.indexes()?;
    let attempts = reader.varint()?;
    let next = UnixTime::from_millis(reader.u64()?);
    let flags = reader.u8()?;
    if flags > 7 {
        return Err(Invalid::Content("an unknown flag"));
    }
    let reason = reader.text()?.to_owned();
    Ok(DeferredState {
        recipients,
        attempts,
        next,
        delay_reported: flags & 1 != 0,
        in_doubt: flags & 2 != 0,
        held: flags & 4 != 0,
        reason,
    })
}
