//! What the tests of the runtimes share: relays on both, a receiver, a client, a store in memory.

pub mod client;
pub mod memory;
pub mod receiver;
pub mod secure;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use relay_core::config::{
    Config, Credential, DomainPattern, Listener, ListenerTls, Route, Verifier,
};
use relay_core::engine::Refusal;
use relay_core::id::MessageId;
use relay_core::inbound::direct::Draft;
use runtime_smol::threads::Threads;
use runtime_std::events::Events;
use runtime_std::hub::{Hub, Options};
use runtime_std::load::{self, Loaded};

/// Longer than anything in these tests takes, on a machine that does much else.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// How long a relay has to shut down.
pub const GRACE: Duration = Duration::from_secs(20);

/// The name of every relay here.
pub const HOSTNAME: &str = "relay.example.com";

/// The password of the credential `app`.
pub const SECRET: &str = "open sesame";

/// Both runtimes.
pub const BOTH: [Kind; 2] = [Kind::Std, Kind::Smol];

/// A runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Std,
    Smol,
}

/// A relay on one of them, as its embedder has it.
pub enum Relay {
    Std(runtime_std::Relay),
    Smol(runtime_smol::Relay, Threads),
}

impl Relay {
    pub fn start(kind: Kind, config: Config) -> Self {
        Self::start_with(kind, config, Options::default())
    }

    pub fn start_with(kind: Kind, config: Config, options: Options) -> Self {
        Self::try_start(kind, config, options).unwrap()
    }

    pub fn try_start(kind: Kind, config: Config, options: Options) -> Result<Self, String> {
        let loaded = load::from_config(config).map_err(|error| error.to_string())?;
        Self::start_loaded(kind, loaded, options)
    }

    pub fn start_loaded(kind: Kind, loaded: Loaded, options: Options) -> Result<Self, String> {
        match kind {
            Kind::Std => runtime_std::Relay::start_with(loaded, options)
                .map(Self::Std)
                .map_err(|error| error.to_string()),
            Kind::Smol => {
                let threads = Threads::start().unwrap();
                runtime_smol::Relay::start_with(threads.executor(), loaded, options)
                    .map(|relay| Self::Smol(relay, threads))
                    .map_err(|error| error.to_string())
            }
        }
    }

    pub fn submit(&self, draft: Draft) -> Result<MessageId, Refusal> {
        match self {
            Self::Std(relay) => relay.submit(draft),
            Self::Smol(relay, _) => smol::block_on(relay.submit(draft)),
        }
    }

    pub fn subscribe(&self, capacity: usize) -> Events {
        match self {
            Self::Std(relay) => relay.subscribe(capacity),
            Self::Smol(relay, _) => relay.subscribe(capacity),
        }
    }

    pub fn hub(&self) -> &Arc<Hub> {
        match self {
            Self::Std(relay) => relay.hub(),
            Self::Smol(relay, _) => relay.hub(),
        }
    }

    pub fn address(&self, listener: usize) -> SocketAddr {
        match self {
            Self::Std(relay) => relay.addresses()[listener],
            Self::Smol(relay, _) => relay.addresses()[listener],
        }
    }

    pub fn shut_down(self, grace: Duration) -> bool {
        match self {
            Self::Std(relay) => relay.shut_down(grace),
            Self::Smol(relay, threads) => {
                let drained = smol::block_on(relay.shut_down(grace));
                threads.stop();
                drained
            }
        }
    }
}

/// A directory that goes when this is dropped.
pub struct Dir(PathBuf);

impl Dir {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("relay-runtimes-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A relay without listeners that delivers everything to `receiver`.
pub fn config(dir: &Dir, receiver: SocketAddr) -> Config {
    let mut config = Config::new(HOSTNAME.parse().unwrap(), dir.path());
    config.routes = vec![Route::new(DomainPattern::Any, vec![receiver.into()])];
    config.delivery.retry = vec![Duration::from_secs(1)];
    config
}

/// The same with listeners (0: none, 1: STARTTLS, 2: implicit TLS) and the credential `app`.
pub fn config_with_listeners(dir: &Dir, receiver: SocketAddr) -> Config {
    let mut config = config(dir, receiver);
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    config.listeners = [
        ListenerTls::None,
        ListenerTls::StartTls,
        ListenerTls::Implicit,
    ]
    .map(|tls| Listener::new(anywhere, tls))
    .into();
    let mut app = Credential::new("app");
    app.verifier = Some(Verifier::derive(SECRET, [7; 16], 4096));
    config.credentials = vec![Arc::new(app)];
    config
}

/// A small message of the program itself.
pub fn draft(subject: &str) -> Draft {
    Draft::new(
        "a@example.com".parse().unwrap(),
        ["b@example.net".parse().unwrap()],
        format!("From: a@example.com\r\nSubject: {subject}\r\n\r\nbody of {subject}\r\n"),
    )
}

/// Waits until `done`.
pub fn until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < DEADLINE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
