//! The engine behind a lock, and the routing of its outputs: the same for every runtime.
//!
//! ```text
//!  session / delivery / admin ──ask──▶ lock ▶ Engine::handle_input ▶ drain poll_output ▶ unlock
//!        ▲                                                                 │
//!        └──────── Slot (a thread blocks on it, a task awaits it) ◀────────┤
//!                                             Store, Spawn, events ◀───────┘
//! ```
//!
//! A connection, a delivery or a direct submission sits on a seat: it asks from there, and the seat tells
//! the engine when it is given up, however that came about.
//!
//! What goes to the store, the timer and the journal is routed while the lock is held, so that its order
//! is the engine's: each route is a push onto a queue, and none waits. Answers and new work are handed out
//! after the lock, since whoever is woken by them asks for it at once.

mod keep;
mod options;
mod recovery;
mod reentry;
mod reload;
mod report;
mod seat;
mod sink;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::{JoinHandle, available_parallelism};

use keep::Keeper;
pub use options::{CredentialCheck, EventSink, Options, Spawn, StartError, TokenCheck};
pub use seat::{DeliverySeat, SessionSeat};
use sink::Sink;

use relay_core::admin::{AdminRequest, AdminResponse, Origin, http};
use relay_core::dns::{DnsFailure, Resolver};
use relay_core::engine::{Answer, Capacity, Engine, Input, Next, Output, Resources, Start};
use relay_core::errand::{Errand, Runner};
use relay_core::events::DeliveryEvent;
use relay_core::id::{AdminId, DeliveryId, MessageId, SessionId};
use relay_core::inbound::direct::{Draft, Handover};
use relay_core::inbound::{self, Session};
use relay_core::outbound::{self, Delivery, Loaded as LoadedMessage};
use relay_core::queue::store::Store;
use relay_core::rng::Rng;

use crate::clock::Clock;
use crate::events::{Events, Subscribers};
use crate::journal::Journal;
use crate::listen;
use crate::load::{self, Loaded};
use crate::resources;
use crate::slot::Slot;
use crate::store::{self, SegmentStore, StdDisk, quarantine};
use crate::tokens::Tokens;

/// The engine, who waits for it, and what carries out what it wants.
pub struct Hub {
    clock: Clock,
    engine: Mutex<Engine>,
    waiting: Mutex<Waiting>,
    store: Arc<dyn Store>,
    spawn: Box<dyn Spawn>,
    events: Vec<Arc<dyn EventSink>>,
    subscribers: Arc<Subscribers>,
    journal: Arc<Journal>,
    keeper: Arc<Keeper>,
    loaded: Mutex<Arc<Loaded>>,
    applying: Mutex<()>,
    resolver: Mutex<Resolver>,
    rng: Mutex<Rng>,
    credential_check: Option<Arc<dyn CredentialCheck>>,
    token_check: Option<Arc<dyn TokenCheck>>,
    tokens: Tokens,
    load: Option<load::Options>,
    next_id: AtomicU64,
    /// How many sessions there may be, those included that are turned away.
    seats: usize,
    stopping: AtomicBool,
    recovery: Mutex<Option<JoinHandle<()>>>,
    drained: Arc<Slot<()>>,
    /// Inputs that came on a thread which was routing what came of others.
    late: Mutex<Vec<Input>>,
    admin_address: OnceLock<SocketAddr>,
    me: Weak<Self>,
}

#[derive(Default)]
struct Waiting {
    sessions: HashMap<SessionId, Arc<Slot<Answer>>>,
    deliveries: HashMap<DeliveryId, Arc<Slot<Next>>>,
    admins: HashMap<AdminId, Arc<Slot<AdminResponse>>>,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

impl Hub {
    /// Opens the journal and the store, starts it, and begins to hand what an earlier run left to a new
    /// engine. A small queue is there when this returns; a large one is read while mail is accepted and
    /// delivered, its own included.
    ///
    /// # Errors
    /// [`StartError`] names what could not be opened.
    pub fn open(
        loaded: Loaded,
        options: Options,
        spawn: Box<dyn Spawn>,
    ) -> Result<Arc<Self>, StartError> {
        let clock = Clock::new();
        let loaded = reload::with_checks(
            loaded,
            options.credential_check.is_some(),
            options.token_check.is_some(),
        );
        let config = Arc::clone(&loaded.config);
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(io::Error::other)?;
        let mut rng = Rng::new(seed);
        let journal = Journal::open(&config.data_dir, options.log).map_err(StartError::Journal)?;
        let mut events = options.events;
        let subscribers = Arc::new(Subscribers::default());
        events.push(Arc::clone(&subscribers) as Arc<dyn EventSink>);
        let store = match options.store {
            Some(store) => store,
            None => SegmentStore::open(
                &config.data_dir,
                store::Options::default(),
                Arc::new(StdDisk),
            )
            .map_err(StartError::Store)?,
        };
        let capacity = Capacity::of(&Resources {
            memory: config.limits.memory.unwrap_or_else(resources::memory),
            descriptors: resources::descriptors(),
            connection: spawn.connection_memory(),
        });
        let mut engine = Engine::new(Arc::clone(&config), clock.now(), rng.fork())
            .with_capacity(capacity)
            .with_turns(available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1)));
        let keeper = Arc::new(Keeper::new(&config.data_dir));
        for keep in keeper.read() {
            engine.handle_input(clock.now(), Input::Kept(keep));
        }
        let resolver = Resolver::new(&config.dns, config.delivery.ip_families, rng.fork());
        let hub = Arc::new_cyclic(|me| Self {
            clock,
            engine: Mutex::new(engine),
            waiting: Mutex::default(),
            store,
            spawn,
            events,
            subscribers,
            journal,
            keeper,
            loaded: Mutex::new(Arc::new(loaded)),
            applying: Mutex::default(),
            resolver: Mutex::new(resolver),
            rng: Mutex::new(rng),
            credential_check: options.credential_check,
            token_check: options.token_check,
            tokens: Tokens::default(),
            load: options.load,
            next_id: AtomicU64::new(1),
            seats: capacity.seats(),
            stopping: AtomicBool::new(false),
            recovery: Mutex::default(),
            drained: Slot::new(),
            late: Mutex::default(),
            admin_address: OnceLock::new(),
            me: me.clone(),
        });
        hub.store.start(Arc::new(Sink(Arc::downgrade(&hub))))?;
        hub.input(Input::StoreStatus(Box::new(hub.store.status())));
        hub.begin_recovery()?;
        Ok(hub)
    }

    /// Binds what administrators connect to: the Unix socket, and the TCP address if one is configured.
    ///
    /// # Errors
    /// Those of the system, with the address in the text.
    pub fn bind_admin(&self) -> io::Result<(UnixListener, Option<TcpListener>)> {
        let config = Arc::clone(&self.loaded().config);
        if let Some(address) = config.admin
            && !address.ip().to_canonical().is_loopback()
            && config.admin_token.is_none()
        {
            let text = format!("[admin] address {address} is not on loopback and has no token");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let unix = listen::bind_admin(&config.data_dir)?;
        let tcp = config.admin.map(listen::bind).transpose()?;
        if let Some(tcp) = &tcp {
            let address = tcp.local_addr()?;
            self.admin_address.get_or_init(|| address);
        }
        Ok((unix, tcp))
    }

    /// Where administrators connect over TCP; none if they cannot.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address.get().copied()
    }

    /// The clock that every input is stamped with.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The journal.
    #[must_use]
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// The configuration and what was loaded for it.
    #[must_use]
    pub fn loaded(&self) -> Arc<Loaded> {
        Arc::clone(&lock(&self.loaded))
    }

    /// Uses the resolver. Nothing else waits meanwhile but other look-ups.
    pub fn with_resolver<T>(&self, use_it: impl FnOnce(&mut Resolver) -> T) -> T {
        use_it(&mut lock(&self.resolver))
    }

    /// Hands one input to the engine and routes what comes of it.
    pub fn input(&self, input: Input) {
        self.inputs(std::iter::once(input));
    }

    /// Hands in several inputs under one lock. What is handed in while this very thread routes what came
    /// of others, because something could not be started, comes after them, not inside of them.
    pub fn inputs(&self, inputs: impl IntoIterator<Item = Input>) {
        let Some(_turn) = reentry::Turn::take(self) else {
            lock(&self.late).extend(inputs);
            return;
        };
        self.handle(inputs);
        loop {
            let late = std::mem::take(&mut *lock(&self.late));
            if late.is_empty() {
                break;
            }
            self.handle(late);
        }
    }

    fn handle(&self, inputs: impl IntoIterator<Item = Input>) {
        let mut engine = lock(&self.engine);
        let now = self.clock.now();
        for input in inputs {
            engine.handle_input(now, input);
        }
        let mut unlocked = Vec::new();
        let mut noted = false;
        while let Some(output) = engine.poll_output() {
            noted |= matches!(output, Output::Note(..) | Output::Discard(..));
            unlocked.extend(self.route(output));
        }
        let drained = self.is_drained(&engine);
        drop(engine);
        if noted {
            // Before a delivery hears how to go on: at a kill, no outcome is unknown but those that were
            // on their way.
            self.store.write_notes();
        }
        for output in unlocked {
            self.hand_out(output);
        }
        if drained {
            self.drained.put(());
        }
    }

    fn is_drained(&self, engine: &Engine) -> bool {
        self.stopping.load(Ordering::Acquire)
            && engine.is_idle()
            && lock(&self.waiting).sessions.is_empty()
    }

    /// Looks at the engine without giving it an input.
    pub fn with_engine<T>(&self, look: impl FnOnce(&Engine) -> T) -> T {
        look(&lock(&self.engine))
    }

    /// A new session for a client's connection, and its seat; none if there are so many connections that
    /// this one cannot even be told so.
    pub fn open_session(
        self: &Arc<Self>,
        peer: SocketAddr,
        local: SocketAddr,
        listener: usize,
    ) -> Option<(Session, SessionSeat)> {
        if lock(&self.waiting).sessions.len() >= self.seats {
            return None;
        }
        let seat = self.take_seat();
        let loaded = self.loaded();
        let setup = inbound::Setup {
            id: seat.id(),
            peer,
            local,
            listener,
            config: Arc::clone(&loaded.config),
            tls: loaded.tls_of(listener),
        };
        let rng = lock(&self.rng).fork();
        Some((Session::new(setup, self.clock.now(), rng), seat))
    }

    /// A message to hand over without a connection, and the seat to do it from.
    pub fn open_handover(self: &Arc<Self>, draft: Draft) -> (Handover, SessionSeat) {
        let config = Arc::clone(&self.loaded().config);
        (Handover::new(config, draft), self.take_seat())
    }

    fn take_seat(self: &Arc<Self>) -> SessionSeat {
        let id = SessionId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let slot = Slot::new();
        lock(&self.waiting).sessions.insert(id, Arc::clone(&slot));
        SessionSeat::new(Arc::clone(self), id, slot)
    }

    /// The machine of an administrator's connection.
    #[must_use]
    pub fn open_admin(&self, origin: Origin) -> http::Connection {
        let token = self.loaded().config.admin_token.clone();
        http::Connection::new(origin, self.clock.now()).with_token(token)
    }

    /// The machine of a delivery, and its seat.
    pub fn open_delivery(
        self: &Arc<Self>,
        id: DeliveryId,
        start: Start,
    ) -> (Delivery, DeliverySeat) {
        let slot = Slot::new();
        lock(&self.waiting).deliveries.insert(id, Arc::clone(&slot));
        let tls = Arc::clone(&self.loaded().client_tls);
        let rng = lock(&self.rng).fork();
        let delivery = Delivery::new(start, tls, self.clock.now(), rng);
        (delivery, DeliverySeat::new(Arc::clone(self), id, slot))
    }

    /// The machine of an errand. What comes of it is handed in as [`Input::Errand`].
    #[must_use]
    pub fn open_errand(&self, errand: Errand) -> Runner {
        let loaded = self.loaded();
        Runner::new(
            errand,
            Arc::clone(&loaded.client_tls),
            Arc::clone(&loaded.config),
        )
    }

    /// Hears of every delivery event from now on, of at most `capacity` that were not received yet.
    #[must_use]
    pub fn subscribe(&self, capacity: usize) -> Events {
        self.subscribers.subscribe(capacity)
    }

    /// Asks for an administrator; the answer arrives in the slot.
    pub fn admin(&self, request: AdminRequest) -> Arc<Slot<AdminResponse>> {
        let id = AdminId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let slot = Slot::new();
        lock(&self.waiting).admins.insert(id, Arc::clone(&slot));
        self.input(Input::Admin(id, request));
        slot
    }

    /// Carries out a session's request that may block on the disk or on the embedder: anything but
    /// asking the engine.
    pub fn session_request(&self, request: inbound::Request) -> inbound::Answer {
        match request {
            inbound::Request::Engine(_) => inbound::Answer::Done,
            // A runtime resolves it where it can wait.
            inbound::Request::Resolve(_) => {
                let failure = DnsFailure::Temporary("it was not asked".to_owned());
                inbound::Answer::Resolved(Err(failure))
            }
            inbound::Request::Spool(id, bytes) => {
                inbound::Answer::Spooled(self.store.spool_append(id, &bytes))
            }
            inbound::Request::Unspool(id) => {
                self.store.spool_discard(id);
                inbound::Answer::Done
            }
            inbound::Request::CheckToken(bearer) => {
                let check = self.token_check.as_ref();
                inbound::Answer::Checked(check.and_then(|check| check.check(&bearer)))
            }
            inbound::Request::CheckPassword { name, password } => {
                let check = self.credential_check.as_ref();
                inbound::Answer::Checked(check.and_then(|check| check.check(&name, &password)))
            }
        }
    }

    /// Carries out a delivery's request that may block on the disk; the others are the runtime's.
    pub fn delivery_request(&self, request: outbound::Request) -> outbound::Answer {
        match request {
            outbound::Request::Load(id, place) => {
                let loaded = self.store.load(id, place);
                outbound::Answer::Loaded(
                    loaded.map(|(message, body)| Arc::new(LoadedMessage { message, body })),
                )
            }
            outbound::Request::Token { source, refused } => {
                let refused = refused.as_ref().map(|token| token.0.as_str());
                let token = self.tokens.token(&source, refused);
                outbound::Answer::Token(token.map(outbound::Token))
            }
            outbound::Request::ReadBody { id, offset, max } => {
                outbound::Answer::Body(self.store.spool_read(id, offset, max))
            }
            outbound::Request::Resolve(_)
            | outbound::Request::Tlsa(..)
            | outbound::Request::Alias(_)
            | outbound::Request::Connect { .. }
            | outbound::Request::Flush
            | outbound::Request::Report(_) => outbound::Answer::Flushed,
        }
    }

    /// Carries out an administrator's request. It may block on the disk, but for `Engine`, which the
    /// runtime asks by [`Hub::admin`].
    pub fn admin_request(&self, request: http::Request) -> http::Answer {
        match request {
            http::Request::Engine(request) => http::Answer::Engine(self.admin(request).wait()),
            http::Request::Trace(id) => {
                http::Answer::Trace(self.trace(id).map_err(|error| error.to_string()))
            }
            http::Request::Reload => http::Answer::Reloaded(self.reload()),
            http::Request::Flush => http::Answer::Flushed,
        }
    }

    /// The story of a message: what the journal has of it, and its end if it was found damaged.
    fn trace(&self, id: MessageId) -> io::Result<Vec<DeliveryEvent>> {
        let mut story = self.journal.trace(id)?;
        story.extend(quarantine::story(&self.loaded().config.data_dir, id)?);
        Ok(story)
    }

    /// Hands in the `Timeout` that the engine waits for, with what the store says of itself.
    pub fn time_out(&self) {
        let status = Box::new(self.store.status());
        self.inputs([Input::StoreStatus(status), Input::Timeout]);
    }

    /// Admits nobody and starts no delivery from now on.
    pub fn begin_shut_down(&self) {
        self.input(Input::ShutDown);
        // Only now: what is under way while the engine still starts deliveries says nothing of the end.
        self.stopping.store(true, Ordering::Release);
        self.inputs([]);
    }

    /// Is filled when, after [`Self::begin_shut_down`], nothing is under way any more: no session, no
    /// delivery, no write, no report.
    #[must_use]
    pub fn drained(&self) -> &Slot<()> {
        &self.drained
    }

    /// Closes the store, the journal and the subscriptions. Blocks for one sync.
    pub fn close(&self) {
        self.end_recovery();
        self.store.close();
        self.keeper.write();
        self.journal.close();
        self.subscribers.close();
    }

    /// Carries out what must be in the engine's order; gives back what is for after the lock.
    fn route(&self, output: Output) -> Option<Output> {
        match output {
            Output::Store(write, message) => self.store.write(write, message),
            Output::Note(id, place, progress) => self.store.note(id, place, progress),
            Output::Discard(id, place) => self.store.discard(id, place),
            Output::Quarantine(id, place, why) => self.store.quarantine(id, place, &why),
            Output::Event(event) => {
                self.events.iter().for_each(|sink| sink.event(&event));
                self.journal.push(event);
            }
            Output::Client(event) => {
                self.events.iter().for_each(|sink| sink.client(&event));
                self.journal.tell(*event);
            }
            Output::Wait(at) => self.spawn.timer(at),
            Output::Keep(keep) if self.keeper.put(keep.clone()) => return Some(Output::Keep(keep)),
            Output::Keep(_) => {}
            other @ (Output::Session(..)
            | Output::Delivery(..)
            | Output::Admin(..)
            | Output::Start(..)
            | Output::Resolve(..)
            | Output::Errand(..)
            | Output::Report(_)) => return Some(other),
        }
        None
    }

    /// Hands out answers and work.
    fn hand_out(&self, output: Output) {
        match output {
            Output::Session(id, answer) => {
                let slot = lock(&self.waiting).sessions.get(&id).map(Arc::clone);
                if let Some(slot) = slot {
                    slot.put(answer);
                }
            }
            Output::Delivery(id, next) => {
                let slot = lock(&self.waiting).deliveries.get(&id).map(Arc::clone);
                if let Some(slot) = slot {
                    slot.put(next);
                }
            }
            Output::Admin(id, response) => {
                let slot = lock(&self.waiting).admins.remove(&id);
                if let Some(slot) = slot {
                    slot.put(*response);
                }
            }
            Output::Start(id, start) => {
                if let Some(me) = self.me.upgrade() {
                    self.spawn.delivery(&me, id, start);
                }
            }
            Output::Resolve(id, domain) => {
                if let Some(me) = self.me.upgrade() {
                    self.spawn.resolve(&me, id, domain);
                }
            }
            Output::Errand(id, errand) => {
                if let Some(me) = self.me.upgrade() {
                    self.spawn.errand(&me, id, errand);
                }
            }
            // Its text is with the keeper already.
            Output::Keep(_) => {
                let keeper = Arc::clone(&self.keeper);
                if self
                    .spawn
                    .blocking(Box::new(move || keeper.write()))
                    .is_err()
                {
                    self.keeper.not_started();
                }
            }
            Output::Report(due) => self.write_report(due),
            Output::Store(..)
            | Output::Note(..)
            | Output::Discard(..)
            | Output::Quarantine(..)
            | Output::Event(_)
            | Output::Client(_)
            | Output::Wait(_) => {}
        }
    }
}

// A panic in the engine would be a bug of ours; going on with the state that it left serves mail better
// than stopping every thread at its next ask.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
