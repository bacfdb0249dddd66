//! The pure codec of what the store writes: message records, progress notes, the headers of files.
//!
//! ```text
//!  segment file   FileHeader, zeros to 4096, records ([`Header`], envelope, body) at multiples of 64
//!  progress file  FileHeader, zeros to 64, [`Note`]s in frames at multiples of 8
//!  index file     what a sealed segment holds: [`Index`]
//! ```
//!
//! Every record has a length, a version, the number of its segment and checksums. They are CRC-32
//! (ISO-HDLC), which finds every error burst of up to 32 bits. What makes a record *ours* is not the
//! checksum but the salt: a random number that peers do not know, so that no body and no reply holds
//! octets that pass for a record when a damaged file is searched for the next whole one.

mod handling;
mod index;
mod message;
mod note;
#[cfg(test)]
mod tests;
mod wire;

use std::fmt;

pub use index::Index;
pub use message::{ALIGN, HEADER_LEN, Header, RECORD_MAX, Stamp, decode, encode, restamp};
pub use note::{NOTE_ALIGN, NOTE_MAX, Note};

use crate::time::UnixTime;
use wire::{Reader, Writer};

/// The version of the format of files, and of records without [`Handling`].
///
/// [`Handling`]: crate::queue::handling::Handling
pub const VERSION: u8 = 2;

/// The version of a record that has [`Handling`] at its end. What has none is written as [`VERSION`],
/// which older relays read too.
///
/// [`Handling`]: crate::queue::handling::Handling
pub const VERSION_HANDLING: u8 = 3;

/// The version of a record whose [`Handling`] names a return path.
///
/// [`Handling`]: crate::queue::handling::Handling
pub const VERSION_RETURN_PATH: u8 = 4;

/// Octets that are not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalid {
    /// It goes on behind the end.
    Short,
    /// It does not begin like one.
    NotARecord,
    /// Another version of the relay wrote it.
    Version(u8),
    /// A checksum does not match.
    Checksum,
    /// The checksum matches, but the content is none that this code writes.
    Content(&'static str),
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => f.write_str("it is cut short"),
            Self::NotARecord => f.write_str("it is not a record"),
            Self::Version(version) => write!(f, "it has format version {version}, not {VERSION}"),
            Self::Checksum => f.write_str("its checksum is wrong"),
            Self::Content(what) => write!(f, "it holds {what}"),
        }
    }
}

impl std::error::Error for Invalid {}

/// What a file of the store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// It keeps the salt of the store.
    Identity,
    /// It holds records; its number is the number of the segment.
    Segment,
    /// It holds notes; the one with the highest number counts.
    Progress,
    /// It says what the segment with its number holds.
    Index,
}

/// The first octets of each file of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileHeader {
    /// What the file is.
    pub kind: FileKind,
    /// Its number among its kind.
    pub number: u32,
    /// The salt of the store that it belongs to.
    pub salt: u64,
}

impl FileHeader {
    /// Its length in octets.
    pub const LEN: usize = 32;

    const MAGIC: [u8; 8] = *b"SMTPQ\r\n\0";

    /// Writes it.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = Vec::with_capacity(Self::LEN);
        bytes.extend_from_slice(&Self::MAGIC);
        let mut writer = Writer(&mut bytes);
        writer.u8(VERSION);
        writer.u8(match self.kind {
            FileKind::Identity => 1,
            FileKind::Segment => 2,
            FileKind::Progress => 3,
            FileKind::Index => 4,
        });
        writer.u32(self.number);
        writer.u64(self.salt);
        bytes.resize(Self::LEN - 4, 0);
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        let mut header = [0; Self::LEN];
        header.copy_from_slice(&bytes);
        header
    }

    /// Reads it from the start of a file.
    ///
    /// # Errors
    /// [`Invalid`] if there is none, or a damaged one, or one of another version.
    pub fn decode(bytes: &[u8]) -> Result<Self, Invalid> {
        let bytes = bytes.get(..Self::LEN).ok_or(Invalid::Short)?;
        let mut reader = Reader(bytes);
        if reader.bytes()? != Self::MAGIC {
            return Err(Invalid::NotARecord);
        }
        let (version, kind) = (reader.u8()?, reader.u8()?);
        let (number, salt) = (reader.u32()?, reader.u64()?);
        let reserved = reader.bytes::<6>()?;
        if reader.u32()? != crc32fast::hash(&bytes[..Self::LEN - 4]) {
            return Err(Invalid::Checksum);
        }
        if version != VERSION {
            return Err(Invalid::Version(version));
        }
        let kind = match kind {
            1 => FileKind::Identity,
            2 => FileKind::Segment,
            3 => FileKind::Progress,
            4 => FileKind::Index,
            _ => return Err(Invalid::Content("an unknown kind of file")),
        };
        if reserved != [0; 6] {
            return Err(Invalid::Content("an unknown flag"));
        }
        Ok(Self { kind, number, salt })
    }
}

/// What happened to a message after acceptance, as the progress log keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// These recipients (by index in the envelope) are settled: delivered, bounced, expired, removed.
    Settled {
        /// Indexes in `Envelope::recipients`, ascending.
        recipients: Vec<u32>,
    },
    /// These recipients were tried and wait.
    Deferred(DeferredState),
    /// An administrator holds the message (`true`) or released it.
    Held(bool),
    /// All of the above at once, for one message: replaces what was noted before. Written when the
    /// log is compacted.
    State(State),
}

/// Everything that the queue knows of a message beyond its record.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// Settled recipients, ascending.
    pub settled: Vec<u32>,
    /// Held by an administrator.
    pub held: bool,
    /// The waiting groups of recipients.
    pub deferred: Vec<DeferredState>,
}

/// One group of recipients that waits together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeferredState {
    /// Indexes in `Envelope::recipients`, ascending.
    pub recipients: Vec<u32>,
    /// Attempts so far.
    pub attempts: u32,
    /// When the next one is due.
    pub next: UnixTime,
    /// The delay report was sent.
    pub delay_reported: bool,
    /// The final reply of an attempt never came: it may have been delivered.
    pub in_doubt: bool,
    /// It is held for that: not tried again before it is released.
    pub held: bool,
    /// The last reply or reason, sanitised, at most 512 octets.
    pub reason: String,
}
