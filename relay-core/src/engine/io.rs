//! What goes into the engine and what comes out.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use smtp_proto::ReversePath;

use crate::admin::{AdminRequest, AdminResponse};
use crate::bounce;
use crate::config::{Config, Credential};
use crate::dns::MxAnswer;
use crate::errand::{Done, Errand};
use crate::events::{ClientEvent, DeliveryEvent};
use crate::id::{AdminId, DeliveryId, ErrandId, MessageId, ResolveId, SessionId, WriteId};
use crate::inbound::preflight::Finding;
use crate::outbound::{Job, Lane, Loaded, Report};
use crate::queue::message::{Body, Envelope, Origin};
use crate::queue::record::Progress;
use crate::queue::store::{Place, Recovered, StoreFailed, StoreMessage, StoreStatus};

/// What a runtime tells the engine.
#[derive(Debug)]
pub enum Input {
    /// A session asks. One [`Output::Session`] answers each, now or later; `Bye` has no answer.
    Ask(SessionId, Ask),
    /// A delivery reports. One [`Output::Delivery`] answers each; `Ended` has no answer.
    Report(DeliveryId, Report),
    /// The answer to an [`Output::Resolve`].
    Resolved(ResolveId, MxAnswer),
    /// What came of an [`Output::Errand`].
    Errand(ErrandId, Done),
    /// What an earlier run kept by [`Output::Keep`]. Given before any other input.
    Kept(Keep),
    /// The receipt of an [`Output::Store`].
    Stored(WriteId, Result<Place, StoreFailed>),
    /// A message that the store held when it was opened. Others may come meanwhile, once the store said
    /// of itself which ids were used.
    Recovered(Box<Recovered>),
    /// All that the store held was given.
    AllRecovered,
    /// What became of an [`Output::Report`].
    ReportWritten {
        /// The message that the report is about.
        about: MessageId,
        /// The report as a message to queue, or why there is none.
        report: Result<Box<Submission>, NotWritten>,
    },
    /// What the store says of itself, for `status` and for admission. Given at the start and before
    /// every `Timeout`.
    StoreStatus(Box<StoreStatus>),
    /// The store copied a live message.
    Moved(MessageId, Place, Place),
    /// An administrator asks. One [`Output::Admin`] answers each.
    Admin(AdminId, AdminRequest),
    /// The configuration was loaded anew.
    Reload(Arc<Config>),
    /// Start no deliveries and admit nobody; end what runs.
    ShutDown,
    /// The time of the last [`Output::Wait`] came.
    Timeout,
}

/// What the engine wants of a runtime.
#[derive(Debug)]
pub enum Output {
    /// The answer to a session's ask.
    Session(SessionId, Answer),
    /// The answer to a delivery's report.
    Delivery(DeliveryId, Next),
    /// Start a delivery: make an `outbound::Delivery` from this and drive it.
    Start(DeliveryId, Box<Start>),
    /// Write this durably, then hand in `Stored`.
    Store(WriteId, StoreMessage),
    /// Note this; no receipt.
    Note(MessageId, Place, Progress),
    /// Every recipient is settled.
    Discard(MessageId, Place),
    /// Every recipient is settled: the message is damaged, for this reason. It is not discarded but kept
    /// aside.
    Quarantine(MessageId, Place, String),
    /// Find the mail exchangers of a domain, then hand in `Resolved`.
    Resolve(ResolveId, String),
    /// Run this errand, then hand in `Errand`.
    Errand(ErrandId, Errand),
    /// Keep this text, or forget it; no receipt. What is lost in a crash is learnt again.
    Keep(Keep),
    /// Write this report, then hand in `ReportWritten`.
    Report(Box<ReportDue>),
    /// Something that people want to know happened.
    Event(Box<DeliveryEvent>),
    /// A client did something that somebody may want to act on. Bounded over time.
    Client(Box<ClientEvent>),
    /// The answer to an administrator.
    Admin(AdminId, Box<AdminResponse>),
    /// Hand in `Timeout` then; replaces the earlier one; none waits for inputs only.
    Wait(Option<crate::time::Instant>),
}

/// A small text that outlives a restart, under a name of letters, digits, `-` and `.`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keep {
    /// Its name.
    pub name: String,
    /// The text; none to forget it.
    pub text: Option<String>,
}

/// A report that is due: `bounce::write` makes a message of it and of the original.
#[derive(Debug)]
pub struct ReportDue {
    /// What to tell, about which message, and the report's own id.
    pub report: bounce::Report,
    /// Where the original's record is.
    pub place: Place,
    /// The original, if it is still in memory; otherwise the runtime loads it.
    pub original: Option<Arc<Loaded>>,
}

/// Why a report was not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotWritten {
    /// Nobody wants one (null sender, NOTIFY): `bounce::write` said so.
    NotDue(String),
    /// The original's record is damaged, and its envelope with it: nobody knows whom to tell.
    Damaged(String),
    /// The original could not be read now; the engine asks again later.
    Later(String),
}

/// What a session asks.
#[derive(Debug)]
pub enum Ask {
    /// May this client talk to us? Answered by `Welcome` or `Refused`.
    Connect {
        /// Its address (from PROXY, where that is trusted).
        peer: IpAddr,
        /// The index in `Config::listeners`.
        listener: usize,
    },
    /// Which credential has this name, and may this address try one? Answered by `Credential` or `Refused`.
    Credential {
        /// The name as the client sent it.
        name: String,
    },
    /// A turn at deriving a key (PBKDF2): bounded, so that wrong passwords stall nobody. Answered by `Turn`.
    Turn,
    /// How an AUTH ended; gives the turn back. Answered by `Noted`, or by `Refused` past the limits.
    Authenticated {
        /// The name as the client sent it.
        name: String,
        /// Whether the secret was right.
        ok: bool,
        /// On success: a keyed digest of the secret, for the cache of verified secrets.
        digest: Option<[u8; 32]>,
    },
    /// May this sender send a message of this size now? Answered by `Mail` or `Refused`.
    Mail {
        /// The credential's name; the name in `trusted_as` for trusted networks.
        credential: String,
        /// MAIL FROM.
        from: ReversePath,
        /// The SIZE parameter.
        size: Option<u64>,
    },
    /// A sender was refused, in these words: somebody may want to know. Answered by `Noted`.
    SenderRefused {
        /// The credential's name.
        credential: Option<String>,
        /// The text of the refusal.
        text: String,
    },
    /// Keep this message. Answered by `Queued` after the sync, or `Refused`.
    Submit(Box<Submission>),
    /// The transaction of this id ended without `Submit`.
    Abandon(MessageId),
    /// The session ended. No answer.
    Bye,
}

/// A message to keep.
#[derive(Debug)]
pub struct Submission {
    /// The id that `Answer::Mail` gave.
    pub id: MessageId,
    /// Who hands it in.
    pub origin: Origin,
    /// Who receives it.
    pub envelope: Envelope,
    /// Header fields that come first: signatures, or nothing.
    pub prefix: Bytes,
    /// What events say of its signatures: by whom, or why none; nothing where nobody asked for any.
    pub dkim: Option<String>,
    /// What pre-flight found.
    pub preflight: Vec<Finding>,
    /// Its bytes after `prefix`, our headers prepended.
    pub body: Body,
    /// The length of all of it in octets, `prefix` included.
    pub size: u64,
    /// The length of its header block in octets, `prefix` included, up to and with the empty line.
    pub header_size: u32,
}

/// What the engine answers a session.
#[derive(Debug, Clone)]
pub enum Answer {
    /// To `Connect`.
    Welcome(Arc<Config>),
    /// To `Credential`. An unknown name gets `None`; the session then works on a dummy of equal cost.
    Credential {
        /// The credential.
        credential: Option<Arc<Credential>>,
        /// Keyed digest of the secret that was verified last, if any.
        verified: Option<[u8; 32]>,
        /// The key of those digests: random at each start, the same for all names.
        key: [u8; 32],
    },
    /// To `Turn`.
    Turn,
    /// To `Authenticated`, `SenderRefused` and `Abandon`.
    Noted,
    /// To `Mail`.
    Mail {
        /// The id of the message to come.
        id: MessageId,
        /// How many octets of it may be held in memory. A larger one goes to the spool, in pieces.
        room: usize,
        /// The configuration in force, by which the sender is judged.
        config: Arc<Config>,
    },
    /// To `Submit`: it is on stable storage.
    Queued(MessageId),
    /// No, and what to reply.
    Refused(Refusal),
}

/// A reply that refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its codes: 4xx or 5xx with a matching enhanced code.
    pub why: smtp_proto::server::Rejection,
    /// Its text: what happened, by which rule, and what to do next.
    pub text: String,
    /// Close the connection after it (421).
    pub close: bool,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.why, self.text)
    }
}

impl std::error::Error for Refusal {}

/// What a new delivery starts with.
#[derive(Debug)]
pub struct Start {
    /// Whom to reach and how.
    pub lane: Arc<Lane>,
    /// The first message.
    pub job: Job,
    /// The configuration at the start.
    pub config: Arc<Config>,
}

/// What the engine answers a delivery's report.
#[derive(Debug)]
pub enum Next {
    /// Deliver this too, on the same connection.
    Job(Box<Job>),
    /// No more: QUIT.
    Quit,
}
