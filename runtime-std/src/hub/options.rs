//! What a runtime gives a hub, what an embedder may replace, and why a relay may not start.

use std::fmt;
use std::io;
use std::sync::Arc;

use relay_core::config::Credential;
use relay_core::engine::Start;
use relay_core::errand::Errand;
use relay_core::events::{ClientEvent, DeliveryEvent};
use relay_core::id::{DeliveryId, ErrandId, ResolveId};
use relay_core::queue::store::Store;
use relay_core::sasl::Bearer;
use relay_core::time::Instant;

use super::Hub;
use crate::journal::LogEvents;
use crate::load;
use crate::store::OpenError;

/// What differs between runtimes: how work is started. None of these may block; `timer` is called with
/// the engine's lock held.
pub trait Spawn: Send + Sync + 'static {
    /// Start a delivery.
    fn delivery(&self, hub: &Arc<Hub>, id: DeliveryId, start: Box<Start>);

    /// Find the mail exchangers of a domain, then hand in [`Input::Resolved`](relay_core::engine::Input::Resolved).
    fn resolve(&self, hub: &Arc<Hub>, id: ResolveId, domain: String);

    /// Run an errand, then hand in [`Input::Errand`](relay_core::engine::Input::Errand).
    fn errand(&self, hub: &Arc<Hub>, id: ErrandId, errand: Errand);

    /// Run something that may block on the disk.
    ///
    /// # Errors
    /// If there is nothing to run it on; it is dropped then.
    fn blocking(&self, work: Box<dyn FnOnce() + Send>) -> io::Result<()>;

    /// What a connection takes of the memory, in octets, besides the message under way: what
    /// `tests/bench/memory.py` measures under TLS, rounded up.
    fn connection_memory(&self) -> u64;

    /// Call [`Hub::input`] with [`Input::Timeout`](relay_core::engine::Input::Timeout) at
    /// this time instead of at the one given before.
    fn timer(&self, at: Option<Instant>);
}

/// Receives every delivery event. Called with the engine's lock held: it must not block.
pub trait EventSink: Send + Sync + 'static {
    /// One event.
    fn event(&self, event: &DeliveryEvent);

    /// Something that a client did: a login that failed, a sender that was refused. Ignored if not
    /// written.
    fn client(&self, event: &ClientEvent) {
        let _ = event;
    }
}

/// An embedder's own check of names and passwords, in the place of `[[credential]]` verifiers. Sessions
/// offer PLAIN and LOGIN only then. It may block.
pub trait CredentialCheck: Send + Sync + 'static {
    /// The credential to act as, or none if name and password do not fit.
    fn check(&self, name: &str, password: &str) -> Option<Arc<Credential>>;
}

/// An embedder's own check of bearer tokens. Sessions offer OAUTHBEARER (RFC 7628) and XOAUTH2 with one;
/// passwords are checked as without it. It may block.
pub trait TokenCheck: Send + Sync + 'static {
    /// The credential to act as, or none if the token is not valid or not this name's.
    fn check(&self, bearer: &Bearer) -> Option<Arc<Credential>>;
}

/// What an embedder may replace or add.
#[derive(Default)]
pub struct Options {
    /// A store of its own in the place of the segment log.
    pub store: Option<Arc<dyn Store>>,
    /// A credential check of its own. The verifiers of the configuration are not used then.
    pub credential_check: Option<Arc<dyn CredentialCheck>>,
    /// A check of bearer tokens.
    pub token_check: Option<Arc<dyn TokenCheck>>,
    /// Who hears of every delivery event.
    pub events: Vec<Arc<dyn EventSink>>,
    /// How delivery events are logged.
    pub log: LogEvents,
    /// Where a reload finds the configuration; none if the embedder reloads by [`Hub::apply`].
    pub load: Option<load::Options>,
    /// Serve the admin API, on `data_dir/admin.sock` and on `Config::admin`.
    pub admin: bool,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("log", &self.log)
            .finish_non_exhaustive()
    }
}

/// Why a relay did not start.
#[derive(Debug)]
pub enum StartError {
    /// A socket, a thread or a pipe.
    Io(io::Error),
    /// The journal of delivery events.
    Journal(io::Error),
    /// The store: its directory, its lock, its files.
    Store(OpenError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::Journal(error) => {
                write!(f, "cannot open the journal in data_dir/events: {error}")
            }
            Self::Store(error) => write!(f, "cannot open the queue: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
