//! A relay of either runtime in this process, on loopback sockets, and what it told.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use relay_core::admin::{Action, AdminRequest, AdminResponse, Selector, Status};
use relay_core::config::{
    Config, Credential, DomainPattern, HostPort, Listener, ListenerTls, Route, SenderPattern,
    TlsLevel, Verifier, parse_network,
};
use relay_core::engine::Refusal;
use relay_core::events::{DeliveryEvent, EventKind};
use relay_core::id::MessageId;
use relay_core::inbound::direct::Draft;
use runtime_smol::threads::Threads;
use runtime_std::hub::{EventSink, Hub, Options};
use runtime_std::load::Loaded;
use runtime_std::store::{self, SegmentStore, StdDisk};
use smtp_proto::Domain;

use super::client::Client;
use super::sink::Sink;
use super::tls::{self, HOSTNAME};
use super::{DEADLINE, POLL, Runtime, Trouble};

/// The password of the credential `app`.
pub(super) const SECRET: &str = "secret";

/// Where a client connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    /// STARTTLS; whoever comes may send as the credential `printers`.
    Trusted,
    /// Implicit TLS; the same.
    TrustedImplicit,
    /// STARTTLS; who sends must authenticate.
    Submission,
    /// Implicit TLS; the same.
    Submissions,
}

impl Door {
    const ALL: [Self; 4] = [
        Self::Trusted,
        Self::TrustedImplicit,
        Self::Submission,
        Self::Submissions,
    ];

    fn listener(self) -> Listener {
        let (tls, trusted) = match self {
            Self::Trusted => (ListenerTls::StartTls, true),
            Self::TrustedImplicit => (ListenerTls::Implicit, true),
            Self::Submission => (ListenerTls::StartTls, false),
            Self::Submissions => (ListenerTls::Implicit, false),
        };
        let mut listener = Listener::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), tls);
        if trusted {
            listener.trusted_as = Some("printers".into());
            listener.trusted_networks = parse_network("127.0.0.0/8").into_iter().collect();
        }
        listener
    }

    fn index(self) -> usize {
        Self::ALL.iter().position(|&door| door == self).unwrap_or(0)
    }
}

/// One of the two, as an embedder holds it.
enum Running {
    Threads(runtime_std::Relay),
    Smol(runtime_smol::Relay, Threads),
}

/// A relay. It ends, and its directory goes, when this is dropped.
pub(super) struct Relay {
    running: Option<Running>,
    hub: Arc<Hub>,
    addresses: Vec<SocketAddr>,
    events: Arc<Events>,
    dir: PathBuf,
}

impl Relay {
    /// A relay with the four [`Door`]s, the credentials `app` (with [`SECRET`]) and `printers`, which
    /// send as anyone of `client.example`, and delivery to nobody: `change` says where to.
    pub(super) fn start(
        runtime: Runtime,
        change: impl FnOnce(&mut Config),
    ) -> Result<Self, Trouble> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("relay-attacks-{}-{count}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir)?;
        let mut config = Config::new(Domain::parse(HOSTNAME)?, dir.clone());
        config.listeners = Door::ALL.map(Door::listener).into();
        config.credentials = vec![
            Arc::new(credential("app", Some(verifier().clone()))),
            Arc::new(credential("printers", None)),
        ];
        config.delivery.tls = TlsLevel::Opportunistic;
        change(&mut config);
        let sizes = store::Options {
            segment_size: 8 << 20,
            extent: 256 << 10,
            reserve: 1 << 20,
            ..store::Options::default()
        };
        let loaded = Loaded {
            listener_tls: Vec::new(),
            config: Arc::new(config),
            tls: tls::relay_server()?,
            client_tls: tls::relay_client()?,
            warnings: Vec::new(),
            file: None,
            first_run: None,
        };
        let events = Arc::new(Events::default());
        let options = Options {
            store: Some(SegmentStore::open(&dir, sizes, Arc::new(StdDisk))?),
            events: vec![Arc::clone(&events) as Arc<dyn EventSink>],
            ..Options::default()
        };
        let running = match runtime {
            Runtime::Threads => Running::Threads(runtime_std::Relay::start_with(loaded, options)?),
            Runtime::Smol => {
                let threads = Threads::start()?;
                let relay = runtime_smol::Relay::start_with(threads.executor(), loaded, options)?;
                Running::Smol(relay, threads)
            }
        };
        let (hub, addresses) = match &running {
            Running::Threads(relay) => (relay.hub(), relay.addresses()),
            Running::Smol(relay, _) => (relay.hub(), relay.addresses()),
        };
        Ok(Self {
            hub: Arc::clone(hub),
            addresses: addresses.to_vec(),
            running: Some(running),
            events,
            dir,
        })
    }

    /// A relay that delivers all mail to this receiver.
    pub(super) fn to(runtime: Runtime, sink: &Sink) -> Result<Self, Trouble> {
        Self::start(runtime, |config| config.routes.push(route("*", sink)))
    }

    /// Where a door is.
    #[must_use]
    pub(super) fn address(&self, door: Door) -> SocketAddr {
        self.addresses[door.index()]
    }

    /// Connects to a door.
    pub(super) fn connect(&self, door: Door) -> Result<Client, Trouble> {
        Client::connect(self.address(door))
    }

    /// A client that has said hello and may send.
    pub(super) fn client(&self) -> Result<Client, Trouble> {
        let mut client = self.connect(Door::Trusted)?;
        client.hello()?;
        Ok(client)
    }

    /// Hands in a message from `a@client.example`; it is queued.
    pub(super) fn submit(&self, to: &[&str], message: &[u8]) -> Result<(), Trouble> {
        let mut client = self.client()?;
        let reply = client.send("a@client.example", to, message)?;
        if reply.code != 250 {
            return Err(format!("the message was refused: {reply:?}").into());
        }
        client.expect("QUIT", 221)?;
        Ok(())
    }

    /// Hands in a message as a program does that embeds the relay.
    pub(super) fn embed(&self, draft: Draft) -> Result<Result<MessageId, Refusal>, Trouble> {
        match &self.running {
            Some(Running::Threads(relay)) => Ok(relay.submit(draft)),
            Some(Running::Smol(relay, _)) => Ok(smol::block_on(relay.submit(draft))),
            None => Err("the relay is gone".into()),
        }
    }

    /// What `status` shows.
    pub(super) fn status(&self) -> Result<Status, Trouble> {
        let AdminResponse::Status(status) = self.hub.admin(AdminRequest::Status).wait() else {
            return Err("no status".into());
        };
        Ok(*status)
    }

    /// Makes all that waits due now.
    pub(super) fn retry(&self) {
        let all = Selector::default();
        self.hub.admin(AdminRequest::Act(Action::Retry, all)).wait();
    }

    /// Waits until no client is connected: what their messages came to is counted then.
    pub(super) fn idle(&self) -> Result<Status, Trouble> {
        self.idle_but(0)
    }

    /// Waits until no more than so many clients are connected.
    pub(super) fn idle_but(&self, clients: u64) -> Result<Status, Trouble> {
        self.until("the sessions to end", |status| status.sessions <= clients)
    }

    /// The names of the files that hold large messages.
    pub(super) fn spool_files(&self) -> Result<Vec<String>, Trouble> {
        let mut names = Vec::new();
        for file in fs::read_dir(self.dir.join("queue/spool"))? {
            names.push(file?.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    /// Waits until the status is so.
    pub(super) fn until(
        &self,
        what: &str,
        so: impl Fn(&Status) -> bool,
    ) -> Result<Status, Trouble> {
        let end = Instant::now() + DEADLINE;
        loop {
            let status = self.status()?;
            if so(&status) {
                return Ok(status);
            }
            if Instant::now() > end {
                return Err(format!("waited for {what}: {status:?}").into());
            }
            std::thread::sleep(POLL);
        }
    }

    /// Waits for the first event that is taken, and gives what it was taken as.
    pub(super) fn event<T>(
        &self,
        what: &str,
        take: impl Fn(&EventKind) -> Option<T>,
    ) -> Result<T, Trouble> {
        let end = Instant::now() + DEADLINE;
        let mut events = self.events.lock();
        loop {
            if let Some(taken) = events.iter().find_map(|event| take(&event.kind)) {
                return Ok(taken);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("waited for {what}: {events:#?}").into());
            }
            events = self
                .events
                .changed
                .wait_timeout(events, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// All events so far.
    #[must_use]
    pub(super) fn events(&self) -> Vec<DeliveryEvent> {
        self.events.lock().clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let grace = Duration::from_millis(200);
        match self.running.take() {
            Some(Running::Threads(relay)) => drop(relay.shut_down(grace)),
            Some(Running::Smol(relay, threads)) => {
                smol::block_on(relay.shut_down(grace));
                threads.stop();
            }
            None => {}
        }
        // It is in a directory for temporary files.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn credential(name: &str, verifier: Option<Verifier>) -> Credential {
    let mut credential = Credential::new(name);
    credential.verifier = verifier;
    let domain = Domain::parse("client.example").ok();
    credential.senders = domain.into_iter().map(SenderPattern::Domain).collect();
    credential
}

fn verifier() -> &'static Verifier {
    static VERIFIER: OnceLock<Verifier> = OnceLock::new();
    VERIFIER.get_or_init(|| Verifier::derive(SECRET, [7; 16], 4096))
}

/// A route for a domain, or `*`, to a receiver.
#[must_use]
pub(super) fn route(domain: &str, sink: &Sink) -> Route {
    let domain = match Domain::parse(domain) {
        Ok(domain) => DomainPattern::Exact(domain),
        Err(_) => DomainPattern::Any,
    };
    Route {
        domain,
        hosts: vec![HostPort {
            host: sink.address().ip().to_string(),
            port: sink.address().port(),
        }],
        protocol: relay_core::config::Protocol::Smtp,
        forward: false,
        tls: None,
        tls_mode: None,
        username: None,
        password_file: None,
        password: None,
        token: None,
        mechanism: None,
    }
}

/// The events of a relay.
#[derive(Default)]
struct Events {
    all: Mutex<Vec<DeliveryEvent>>,
    changed: Condvar,
}

impl Events {
    fn lock(&self) -> MutexGuard<'_, Vec<DeliveryEvent>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventSink for Events {
    fn event(&self, event: &DeliveryEvent) {
        self.lock().push(event.clone());
        self.changed.notify_all();
    }
}
