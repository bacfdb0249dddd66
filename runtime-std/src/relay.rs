//! The relay on threads: one for each connection, each delivery and each search for names, kept for the
//! next when that is over.
//!
//! ```text
//!  accept threads ──▶ session threads ──ask──▶ Hub ──Spawn──▶ delivery threads, resolver threads
//!                                               ▲
//!                            timer thread ──────┘
//! ```
//!
//! Shutting down, in this order: the engine admits nobody and starts nothing; the signal drains, so that
//! accepting ends and each session ends when it may; what is left after the grace is aborted; the store
//! closes; the timer ends. No thread is left then but those that are on their way out.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use relay_core::admin::{AdminRequest, AdminResponse, Origin, http};
use relay_core::dns::{DnsFailure, Query};
use relay_core::engine::{Ask, Input, Refusal, Start};
use relay_core::errand::Errand;
use relay_core::id::{DeliveryId, ErrandId, MessageId, ResolveId};
use relay_core::inbound::direct::{Draft, Step};
use relay_core::inbound::{self, Session};
use relay_core::outbound::{self, Delivery};
use relay_core::time::Instant;
use rustix::event::PollFlags;

use crate::drive::{StopSignal, Stream, drive, wait_for};
use crate::errand;
use crate::events::Events;
use crate::hub::{DeliverySeat, Hub, Options, SessionSeat, Spawn, StartError};
use crate::listen::{accept, begin_connect, bind, canonical, connected, prepare};
use crate::load::Loaded;
use crate::resolve::resolve;
use crate::runtime::{Running, Runtime};
use crate::workers::Workers;

/// Administrators that are served at once on each listener.
const ADMIN_CONNECTIONS_MAX: usize = 16;

/// How long what was aborted has to be gone.
const ABORT_WAIT: Duration = Duration::from_secs(1);

/// A running relay. Dropping it stops it without grace: what is under way is cut off, and its mail is in
/// the queue at the next start.
#[derive(Debug)]
pub struct Relay {
    hub: Arc<Hub>,
    addresses: Vec<SocketAddr>,
    stop: Arc<StopSignal>,
    acceptors: Vec<JoinHandle<()>>,
    timer: Arc<Timer>,
    timer_thread: Option<JoinHandle<()>>,
    workers: Arc<Workers>,
    stopped: bool,
}

impl Relay {
    /// Opens the store, binds the listeners and starts.
    ///
    /// # Errors
    /// [`StartError`] names the directory, file or address that is at fault.
    pub fn start(loaded: Loaded) -> Result<Self, StartError> {
        Self::start_with(loaded, Options::default())
    }

    /// [`Relay::start`] with parts of the embedder's own.
    ///
    /// # Errors
    /// As [`Relay::start`].
    pub fn start_with(loaded: Loaded, options: Options) -> Result<Self, StartError> {
        let listeners = loaded
            .config
            .listeners
            .iter()
            .map(|listener| bind(listener.address))
            .collect::<io::Result<Vec<_>>>()?;
        let addresses = listeners
            .iter()
            .map(TcpListener::local_addr)
            .collect::<io::Result<_>>()?;
        let stop = Arc::new(StopSignal::new()?);
        let workers = Arc::<Workers>::default();
        let timer = Arc::new(Timer::default());
        let spawn = Threads {
            workers: Arc::clone(&workers),
            stop: Arc::clone(&stop),
            timer: Arc::clone(&timer),
        };
        let with_admin = options.admin;
        let hub = Hub::open(loaded, options, Box::new(spawn))?;
        // From here on a failure drops the relay, which stops what runs.
        let mut relay = Self {
            hub,
            addresses,
            stop,
            acceptors: Vec::new(),
            timer,
            timer_thread: None,
            workers,
            stopped: false,
        };
        relay.start_timer()?;
        for (index, listener) in listeners.into_iter().enumerate() {
            relay.start_acceptor(index, listener)?;
        }
        if with_admin {
            let (unix, tcp) = relay.hub.bind_admin()?;
            relay.start_admin(unix, Origin::Local, accept_unix)?;
            if let Some(tcp) = tcp {
                relay.start_admin(tcp, Origin::Tcp, accept_tcp)?;
            }
        }
        Ok(relay)
    }

    /// Where the listeners are bound, in the order of the configuration.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What the threads share.
    #[must_use]
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Hands a message over without a connection. When this returns its id, the message is on stable
    /// storage.
    ///
    /// # Errors
    /// The refusal that a client would get by SMTP.
    pub fn submit(&self, draft: Draft) -> Result<MessageId, Refusal> {
        let (mut handover, seat) = self.hub.open_handover(draft);
        loop {
            match handover.poll() {
                Step::Request(request) => {
                    let answer = session_request(&seat, &self.stop, request);
                    handover.answer(self.hub.clock().now(), answer);
                }
                Step::Done(result) => return result,
            }
        }
    }

    /// Hears of every delivery event from now on. At most `capacity` wait to be received; past that the
    /// subscriber misses events and is told how many.
    #[must_use]
    pub fn subscribe(&self, capacity: usize) -> Events {
        self.hub.subscribe(capacity)
    }

    /// Asks what `status`, `queue` and their like ask.
    #[must_use]
    pub fn admin(&self, request: AdminRequest) -> AdminResponse {
        self.hub.admin(request).wait()
    }

    /// Puts a newly loaded configuration in force; listeners stay as they are. Says what changed.
    pub fn apply(&self, loaded: Loaded) -> Vec<String> {
        self.hub.apply(loaded)
    }

    /// Stops accepting, lets transactions and deliveries that run end within `grace`, and closes the
    /// store. What is not delivered is in the queue at the next start. Returns whether all ended in time.
    #[must_use]
    pub fn shut_down(mut self, grace: Duration) -> bool {
        self.stop(grace)
    }

    fn stop(&mut self, grace: Duration) -> bool {
        self.stopped = true;
        self.hub.begin_shut_down();
        self.stop.drain();
        for acceptor in self.acceptors.drain(..) {
            // A panic was reported where it happened.
            let _ = acceptor.join();
        }
        let drained = self.hub.drained().wait_for(grace).is_some();
        self.stop.abort();
        if !drained {
            let _ = self.hub.drained().wait_for(ABORT_WAIT);
        }
        self.hub.close();
        self.timer.stop();
        self.workers.close();
        if let Some(timer) = self.timer_thread.take() {
            let _ = timer.join();
        }
        drained
    }

    fn start_timer(&mut self) -> io::Result<()> {
        let (timer, hub) = (Arc::clone(&self.timer), Arc::clone(&self.hub));
        let thread = Builder::new().name("timer".into());
        self.timer_thread = Some(thread.spawn(move || timer.run(&hub))?);
        Ok(())
    }

    fn start_acceptor(&mut self, index: usize, listener: TcpListener) -> io::Result<()> {
        let hub = Arc::clone(&self.hub);
        let (stop, workers) = (Arc::clone(&self.stop), Arc::clone(&self.workers));
        let thread = Builder::new().name(format!("accept-{index}"));
        self.acceptors.push(thread.spawn(move || {
            accept(&listener, &stop, TcpListener::accept, |(stream, peer)| {
                let Ok(local) = stream.local_addr() else {
                    return;
                };
                let (peer, local) = (canonical(peer), canonical(local));
                let Some((session, seat)) = hub.open_session(peer, local, index) else {
                    return;
                };
                let stop = Arc::clone(&stop);
                let spawned = workers.run(move || run_session(session, &seat, &stop, stream));
                if let Err(error) = spawned {
                    tracing::warn!(%error, "no thread for a connection; it was closed");
                }
            });
        })?);
        Ok(())
    }

    /// Serves administrators on one listener.
    fn start_admin<L, S>(
        &mut self,
        listener: L,
        origin: Origin,
        take: impl Fn(&L) -> io::Result<S> + Send + 'static,
    ) -> io::Result<()>
    where
        L: AsFd + Send + 'static,
        S: Stream + Send + 'static,
    {
        let hub = Arc::clone(&self.hub);
        let (stop, workers) = (Arc::clone(&self.stop), Arc::clone(&self.workers));
        let thread = Builder::new().name("admin".into());
        self.acceptors.push(thread.spawn(move || {
            // Each connection holds one; so do we.
            let connections = Arc::new(());
            accept(&listener, &stop, take, |stream| {
                if Arc::strong_count(&connections) > ADMIN_CONNECTIONS_MAX {
                    return;
                }
                let (hub, stop) = (Arc::clone(&hub), Arc::clone(&stop));
                let connection = Arc::clone(&connections);
                let spawned = workers.run(move || {
                    run_admin(&hub, &stop, stream, origin);
                    drop(connection);
                });
                if let Err(error) = spawned {
                    tracing::warn!(%error, "no thread for an administrator; it was closed");
                }
            });
        })?);
        Ok(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if !self.stopped {
            self.stop(Duration::ZERO);
        }
    }
}

/// An administrator's connection over TCP, ready to be driven.
fn accept_tcp(listener: &TcpListener) -> io::Result<TcpStream> {
    let (stream, _) = listener.accept()?;
    prepare(&stream)?;
    Ok(stream)
}

fn accept_unix(listener: &UnixListener) -> io::Result<UnixStream> {
    let (stream, _) = listener.accept()?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Drives one client's connection.
fn run_session(mut session: Session, seat: &SessionSeat, stop: &StopSignal, stream: TcpStream) {
    if prepare(&stream).is_err() {
        return;
    }
    drive(
        &mut session,
        Some(stream),
        seat.hub().clock(),
        stop,
        Some(Session::interrupt),
        |request, _| session_request(seat, stop, request),
    );
}

fn session_request(
    seat: &SessionSeat,
    stop: &StopSignal,
    request: inbound::Request,
) -> inbound::Answer {
    match request {
        // The seat says it when it is dropped.
        inbound::Request::Engine(Ask::Bye) => inbound::Answer::Done,
        inbound::Request::Engine(ask) => inbound::Answer::Engine(seat.ask(ask).wait()),
        inbound::Request::Resolve(question) => {
            let query = Query::plain(&question);
            inbound::Answer::Resolved(resolve(seat.hub(), stop, query))
        }
        other @ (inbound::Request::Spool(..)
        | inbound::Request::Unspool(_)
        | inbound::Request::CheckPassword { .. }
        | inbound::Request::CheckToken(_)) => seat.hub().session_request(other),
    }
}

/// Drives one administrator's connection.
fn run_admin<S: Stream>(hub: &Hub, stop: &StopSignal, stream: S, origin: Origin) {
    let mut machine = hub.open_admin(origin);
    drive(
        &mut machine,
        Some(stream),
        hub.clock(),
        stop,
        Some(http::Connection::interrupt),
        |request, _| hub.admin_request(request),
    );
}

/// Drives one delivery.
fn run_delivery(mut delivery: Delivery, seat: &DeliverySeat, stop: &StopSignal) {
    let hub = seat.hub();
    let carry_out = |request, stream: &mut Option<TcpStream>| match request {
        outbound::Request::Resolve(host) => {
            outbound::Answer::Resolved(resolve(hub, stop, Query::addresses(&host)))
        }
        outbound::Request::Tlsa(host, port) => {
            outbound::Answer::Tlsa(resolve(hub, stop, Query::tlsa(&host, port)))
        }
        outbound::Request::Alias(name) => {
            outbound::Answer::Alias(resolve(hub, stop, Query::alias(&name)))
        }
        outbound::Request::Connect { to, source, until } => {
            *stream = None;
            let connected = connect(to, source, hub.clock().until(until), stop);
            outbound::Answer::Connected(connected.map_err(|error| error.kind()).map(
                |(connected, local)| {
                    *stream = Some(connected);
                    local
                },
            ))
        }
        outbound::Request::Report(report) => outbound::Answer::Next(seat.report(report).wait()),
        outbound::Request::Flush => outbound::Answer::Flushed,
        disk @ (outbound::Request::Load(..)
        | outbound::Request::ReadBody { .. }
        | outbound::Request::Token { .. }) => hub.delivery_request(disk),
    };
    drive(&mut delivery, None, hub.clock(), stop, None, carry_out);
}

pub(crate) fn connect(
    to: SocketAddr,
    source: Option<IpAddr>,
    within: Duration,
    stop: &StopSignal,
) -> io::Result<(TcpStream, SocketAddr)> {
    let stream = begin_connect(to, source)?;
    wait_for(stream.as_fd(), PollFlags::OUT, within, stop)?;
    let local = connected(&stream)?;
    Ok((stream, local))
}

/// [`Spawn`] on threads.
struct Threads {
    workers: Arc<Workers>,
    stop: Arc<StopSignal>,
    timer: Arc<Timer>,
}

impl Spawn for Threads {
    fn delivery(&self, hub: &Arc<Hub>, id: DeliveryId, start: Box<Start>) {
        let (delivery, seat) = hub.open_delivery(id, *start);
        let stop = Arc::clone(&self.stop);
        let run = move || run_delivery(delivery, &seat, &stop);
        if let Err(error) = self.workers.run(run) {
            tracing::warn!(%error, "no thread for a delivery; it goes back to the queue");
        }
    }

    fn resolve(&self, hub: &Arc<Hub>, id: ResolveId, domain: String) {
        let (on_thread, stop) = (Arc::clone(hub), Arc::clone(&self.stop));
        let run = move || {
            let answer = resolve(&on_thread, &stop, Query::mx(&domain));
            on_thread.input(Input::Resolved(id, answer));
        };
        if let Err(error) = self.workers.run(run) {
            let failure = DnsFailure::Temporary(format!("no thread to resolve it: {error}"));
            hub.input(Input::Resolved(id, Err(failure)));
        }
    }

    fn errand(&self, hub: &Arc<Hub>, id: ErrandId, errand: Errand) {
        let (on_thread, stop) = (Arc::clone(hub), Arc::clone(&self.stop));
        let to_run = errand.clone();
        let run = move || {
            let runner = on_thread.open_errand(to_run);
            let mut lookups = errand::OfHub(&on_thread, &stop);
            let done = errand::run(runner, on_thread.clock(), &stop, &mut lookups);
            on_thread.input(Input::Errand(id, done));
        };
        if let Err(error) = self.workers.run(run) {
            let done = errand.not_run(format!("no thread for it: {error}"));
            hub.input(Input::Errand(id, done));
        }
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        self.workers.run(work)
    }

    fn connection_memory(&self) -> u64 {
        72 * 1024
    }

    fn timer(&self, at: Option<Instant>) {
        self.timer.set(at);
    }
}

/// When the engine wants its `Timeout`.
#[derive(Debug, Default)]
struct Timer {
    due: Mutex<Due>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Due {
    at: Option<Instant>,
    stopped: bool,
}

impl Timer {
    fn set(&self, at: Option<Instant>) {
        lock(&self.due).at = at;
        self.changed.notify_one();
    }

    fn stop(&self) {
        lock(&self.due).stopped = true;
        self.changed.notify_one();
    }

    fn run(&self, hub: &Hub) {
        let clock = hub.clock();
        loop {
            let mut due = lock(&self.due);
            match due.at {
                _ if due.stopped => return,
                None => drop(self.changed.wait(due)),
                Some(at) if !clock.until(at).is_zero() => {
                    drop(self.changed.wait_timeout(due, clock.until(at)));
                }
                Some(_) => {
                    due.at = None;
                    drop(due);
                    hub.time_out();
                }
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The blocking runtime, for the command line.
#[derive(Debug, Clone, Copy)]
pub struct Threaded;

impl Runtime for Threaded {
    fn binary(&self) -> &'static str {
        "smtp-relay-std"
    }

    fn start(&self, loaded: Loaded, options: Options) -> Result<Box<dyn Running>, StartError> {
        Ok(Box::new(Relay::start_with(loaded, options)?))
    }
}

impl Running for Relay {
    fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    fn shut_down(self: Box<Self>, grace: Duration) -> bool {
        Self::shut_down(*self, grace)
    }
}
