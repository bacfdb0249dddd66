//! The store as a trait: what the engine and the machines need of a disk, with receipts.
//!
//! ```text
//!  Engine ──Output::Store──▶ Store::write ──▶ (one writer thread, one fdatasync for all that waits)
//!     ▲                                                     │
//!     └──Input::Stored(WriteId, Ok(Place))── StoreSink::stored
//! ```
//!
//! The embedded default is the segment log of `runtime-std`. Another engine takes its place by
//! implementing [`Store`].

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use super::message::{Body, Message};
use super::record::Progress;
use crate::id::{MessageId, WriteId};

/// Where a message's record is. It changes only by [`StoreSink::moved`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The number of the segment.
    pub segment: u32,
    /// The record's first octet in it.
    pub offset: u32,
}

/// A write that did not happen: nothing of it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreFailed {
    /// No room, or less than the reserve: 452 4.3.1.
    Full,
    /// The disk failed, or failed before and is not trusted since: 451 4.3.0.
    Broken(String),
}

impl fmt::Display for StoreFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the disk is full"),
            Self::Broken(why) => write!(f, "the store failed: {why}"),
        }
    }
}

impl std::error::Error for StoreFailed {}

/// A message that could not be read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadFailed {
    /// The record or the spool file fails its checksum or is gone: nobody will ever read it. The engine
    /// gives the message up, and has it quarantined.
    Damaged(String),
    /// The disk failed; the same read may work later.
    Io(String),
}

impl fmt::Display for LoadFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(why) => write!(f, "the stored message is damaged: {why}"),
            Self::Io(why) => write!(f, "the stored message could not be read: {why}"),
        }
    }
}

impl std::error::Error for LoadFailed {}

/// What is written durably: its receipt comes after the sync.
#[derive(Debug, Clone)]
pub struct StoreMessage {
    /// The message.
    pub message: Arc<Message>,
    /// Its bytes.
    pub body: Body,
}

/// A message that the store found when it was opened.
#[derive(Debug)]
pub struct Recovered {
    /// The message.
    pub message: Message,
    /// Where its record is.
    pub place: Place,
    /// What was recorded about it since acceptance, in the order of writing.
    pub progress: Vec<Progress>,
}

/// Queue storage. Every method may be called from any thread.
///
/// `write`, `note`, `discard` and `quarantine` only hand over, and `write_notes` waits for no disk; the others may, and
/// an async runtime calls them where blocking is allowed.
pub trait Store: Send + Sync + 'static {
    /// Starts writing, and tells `sink` what happens. Called once, before the first `write`, and before
    /// [`Store::recover`] or after it.
    ///
    /// # Errors
    /// What the system says if it has no thread to give.
    fn start(&self, sink: Arc<dyn StoreSink>) -> std::io::Result<()>;

    /// Hands over a message. [`StoreSink::stored`] is called once for it: with its place after it is
    /// on stable storage, or with the reason why it is not.
    fn write(&self, write: WriteId, message: StoreMessage);

    /// Notes progress. It is written by [`Store::write_notes`] and reaches the disk soon, in order; its
    /// sync is nobody's to wait for: a lost note costs one duplicate delivery, never a message.
    fn note(&self, message: MessageId, place: Place, progress: Progress);

    /// Drops a message whose every recipient is settled: its place and its spool file are reused.
    fn discard(&self, message: MessageId, place: Place);

    /// Drops a message that is damaged, and keeps what is left of it aside for people to look at.
    fn quarantine(&self, message: MessageId, place: Place, why: &str);

    /// Writes what was noted and discarded so far, without a sync, so that the end of the process loses
    /// none of it. The runtime calls it before anybody hears what comes of that: a delivery goes on only
    /// after its outcome is written. It may wait for the kernel, never for the disk.
    fn write_notes(&self) {}

    /// Reads a message back. A place from before a [`StoreSink::moved`] still leads to it.
    ///
    /// # Errors
    /// [`LoadFailed`] if its record is damaged or the disk fails.
    fn load(&self, message: MessageId, place: Place) -> Result<(Message, Body), LoadFailed>;

    /// Appends to the spool file of a message that is still arriving.
    ///
    /// # Errors
    /// [`StoreFailed`]; the caller then abandons the message.
    fn spool_append(&self, message: MessageId, bytes: &[u8]) -> Result<(), StoreFailed>;

    /// Reads at most `max` octets of a spooled body from `offset`; empty at its end.
    ///
    /// # Errors
    /// [`LoadFailed`] if the file is damaged or the disk fails.
    fn spool_read(&self, message: MessageId, offset: u64, max: usize) -> Result<Bytes, LoadFailed>;

    /// Deletes the spool file of a message that was abandoned before acceptance.
    fn spool_discard(&self, message: MessageId);

    /// Calls `each` for every message that an earlier run accepted and that was not discarded, oldest
    /// first, until it breaks. It may take long: the runtime calls it while messages are accepted and
    /// written already, which are not among those. If it breaks or fails, another call goes on where it
    /// was; once it went through, there is none.
    ///
    /// # Errors
    /// [`LoadFailed::Io`] if the disk fails. A damaged record is quarantined and skipped, not an error.
    fn recover(&self, each: &mut dyn FnMut(Recovered) -> ControlFlow<()>)
    -> Result<(), LoadFailed>;

    /// What the store says of itself, for `status`. It never waits for the disk's writes.
    fn status(&self) -> StoreStatus;

    /// Writes and syncs all that was handed over, then stops. Later writes fail.
    fn close(&self);
}

/// What [`Store::status`] says.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StoreStatus {
    /// Octets that the store's files take.
    pub disk_bytes: u64,
    /// Octets in them that belong to live messages.
    pub live_bytes: u64,
    /// Free octets on the file system.
    pub free_bytes: u64,
    /// Records that failed their checksum since the data directory was made.
    pub quarantined: u64,
    /// Why nothing is accepted, if so.
    pub refusing: Option<String>,
    /// How far [`Store::recover`] is; none once it went through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovering: Option<Recovering>,
    /// The highest number of a [`MessageId`] in anything that the store found when it was opened, live
    /// or not; 0 if there was nothing. It is known before anything is recovered. Ids go on above it: whatever the clock says, what was noted of
    /// an old message must never be taken for a note of a new one.
    #[serde(default)]
    pub last_id: u64,
}

/// How many messages of an earlier run were read so far, and of how many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Recovering {
    /// Those that were read.
    pub done: u64,
    /// All of them, about: some may turn out to be settled, or damaged.
    pub total: u64,
}

/// What a store tells the relay. The runtime implements it by locking the engine. Its methods may call
/// `write`, `note` and `discard`, but not `close`, which waits for them.
pub trait StoreSink: Send + Sync + 'static {
    /// These writes ended. One call for each group commit.
    fn stored(&self, results: Vec<(WriteId, Result<Place, StoreFailed>)>);

    /// Which of these messages are live at these places. Asked when a segment is to be emptied.
    fn live(&self, messages: &[(MessageId, Place)]) -> Vec<bool>;

    /// These live messages were copied, durably, from the first place to the second.
    fn moved(&self, messages: &[(MessageId, Place, Place)]);

    /// What is to be noted of up to `max` live messages with ids after `after`, so that the old notes
    /// can be dropped. Empty at the end.
    fn snapshot(&self, after: Option<MessageId>, max: usize) -> Vec<(MessageId, Progress)>;
}
