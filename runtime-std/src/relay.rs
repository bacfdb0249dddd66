//! The relay on threads: one for each connection, each delivery and each search for names.
//!
//! ```text
//!  accept threads ──▶ session threads ──ask──▶ Hub ──Spawn──▶ spawner ──▶ delivery threads
//!                                               ▲                    └──▶ resolver threads
//!                            timer thread ──────┘
//! ```

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant as StdInstant};

use relay_core::admin::{AdminRequest, AdminResponse, Origin, http};
use relay_core::dns::{DnsFailure, Query};
use relay_core::engine::{Ask, Input, Start};
use relay_core::id::{DeliveryId, ResolveId};
use relay_core::inbound::{self, Session};
use relay_core::outbound;
use relay_core::time::Instant;
use socket2::{Domain, Protocol, Socket, Type};

use crate::clock::Clock;
use crate::drive::{StopSignal, Stream, drive};
use crate::hub::{Hub, Options, Spawn, StartError};
use crate::listen::{accept, bind, canonical, prepare};
use crate::load::Loaded;
use crate::resolve::resolve;
use crate::runtime::{Running, Runtime};

/// A thread that drives a connection needs little: the machines keep their state on the heap.
const STACK: usize = 512 * 1024;

/// Administrators that are served at once, on each listener.
const ADMIN_CONNECTIONS_MAX: usize = 16;

/// A running relay. Dropping it without [`Relay::shut_down`] leaves its threads running.
#[derive(Debug)]
pub struct Relay {
    hub: Arc<Hub>,
    addresses: Vec<SocketAddr>,
    stop: Arc<StopSignal>,
    active: Arc<Active>,
    acceptors: Vec<JoinHandle<()>>,
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
        let active = Arc::new(Active::default());
        let (threads, work) = channel();
        let timer = Arc::new(Timer::default());
        let spawn = Threads {
            work: threads,
            timer: Arc::clone(&timer),
        };
        let with_admin = options.admin;
        let hub = Hub::open(loaded, options, Box::new(spawn))?;
        let admin = with_admin.then(|| hub.bind_admin()).transpose()?;
        start_spawner(work, Arc::clone(&active))?;
        start_timer(timer, Arc::clone(&hub))?;
        let mut relay = Self {
            hub,
            addresses,
            stop,
            active,
            acceptors: Vec::new(),
        };
        for (index, listener) in listeners.into_iter().enumerate() {
            relay.acceptors.push(relay.start_acceptor(index, listener)?);
        }
        if let Some((unix, tcp)) = admin {
            relay
                .acceptors
                .push(relay.start_admin(unix, Origin::Local, accept_unix)?);
            if let Some(tcp) = tcp {
                relay
                    .acceptors
                    .push(relay.start_admin(tcp, Origin::Tcp, accept_tcp)?);
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
    pub fn shut_down(self, grace: Duration) -> bool {
        self.hub.input(Input::ShutDown);
        self.stop.stop();
        for acceptor in self.acceptors {
            let _ = acceptor.join();
        }
        let drained = self.active.wait_idle(grace);
        self.hub.close();
        drained
    }

    fn start_acceptor(&self, index: usize, listener: TcpListener) -> io::Result<JoinHandle<()>> {
        let hub = Arc::clone(&self.hub);
        let stop = Arc::clone(&self.stop);
        let active = Arc::clone(&self.active);
        Builder::new()
            .name(format!("accept-{index}"))
            .spawn(move || {
                accept(&listener, &stop, TcpListener::accept, |(stream, peer)| {
                    let (hub, stop) = (Arc::clone(&hub), Arc::clone(&stop));
                    let token = active.enter();
                    let spawned = Builder::new().stack_size(STACK).spawn(move || {
                        session(&hub, &stop, stream, peer, index);
                        drop(token);
                    });
                    if let Err(error) = spawned {
                        tracing::warn!(%error, "no thread for a connection; it was closed");
                    }
                });
            })
    }

    /// Serves administrators on one listener, one connection after the other: they are few and short.
    fn start_admin<L, S>(
        &self,
        listener: L,
        origin: Origin,
        take: impl Fn(&L) -> io::Result<S> + Send + 'static,
    ) -> io::Result<JoinHandle<()>>
    where
        L: AsFd + Send + 'static,
        S: Stream + Send + 'static,
    {
        let hub = Arc::clone(&self.hub);
        let stop = Arc::clone(&self.stop);
        let connections = Arc::new(Active::default());
        Builder::new().name("admin".into()).spawn(move || {
            accept(&listener, &stop, take, |stream| {
                if connections.count() >= ADMIN_CONNECTIONS_MAX {
                    return;
                }
                let token = connections.enter();
                let hub = Arc::clone(&hub);
                let spawned = Builder::new().stack_size(STACK).spawn(move || {
                    let mut machine = http::Connection::new(origin, hub.clock().now());
                    let carry_out = |request, _: &mut Option<S>| hub.admin_request(request);
                    drive(
                        &mut machine,
                        Some(stream),
                        hub.clock(),
                        None,
                        |_, _| {},
                        carry_out,
                    );
                    drop(token);
                });
                if let Err(error) = spawned {
                    tracing::warn!(%error, "no thread for an administrator; it was closed");
                }
            });
        })
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
fn session(hub: &Arc<Hub>, stop: &StopSignal, stream: TcpStream, peer: SocketAddr, index: usize) {
    let Ok(local) = stream.local_addr() else {
        return;
    };
    if prepare(&stream).is_err() {
        return;
    }
    let (mut session, id, slot) = hub.open_session(canonical(peer), canonical(local), index);
    let carry_out = |request, _: &mut Option<TcpStream>| match request {
        inbound::Request::Engine(Ask::Bye) => inbound::Answer::Done,
        inbound::Request::Engine(ask) => {
            hub.ask(id, ask);
            inbound::Answer::Engine(slot.wait())
        }
        disk => hub.session_request(disk),
    };
    drive(
        &mut session,
        Some(stream),
        hub.clock(),
        Some(stop),
        Session::interrupt,
        carry_out,
    );
    hub.close_session(id);
}

/// Drives one delivery.
fn delivery(hub: &Arc<Hub>, id: DeliveryId, start: Start) {
    let (mut delivery, slot) = hub.open_delivery(id, start);
    let carry_out = |request, stream: &mut Option<TcpStream>| match request {
        outbound::Request::Resolve(host) => {
            let query = Query::addresses(&host);
            outbound::Answer::Resolved(resolve(hub, query))
        }
        outbound::Request::Connect { to, source, until } => {
            *stream = None;
            let connected = connect(to, source, hub.clock().until(until));
            outbound::Answer::Connected(connected.map_err(|error| error.kind()).map(
                |(connected, local)| {
                    *stream = Some(connected);
                    local
                },
            ))
        }
        outbound::Request::Report(report) => {
            hub.report(id, report);
            outbound::Answer::Next(slot.wait())
        }
        outbound::Request::Flush => outbound::Answer::Flushed,
        disk => hub.delivery_request(disk),
    };
    drive(&mut delivery, None, hub.clock(), None, |_, _| {}, carry_out);
    hub.close_delivery(id);
}

fn connect(
    to: SocketAddr,
    source: Option<std::net::IpAddr>,
    within: Duration,
) -> io::Result<(TcpStream, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    socket.connect_timeout(&to.into(), within.max(Duration::from_millis(1)))?;
    let stream = TcpStream::from(socket);
    prepare(&stream)?;
    let local = stream.local_addr()?;
    Ok((stream, local))
}

/// What the spawner starts.
enum Work {
    Delivery(Arc<Hub>, DeliveryId, Box<Start>),
    Resolve(Arc<Hub>, ResolveId, String),
    Blocking(Box<dyn FnOnce() + Send>),
}

/// [`Spawn`] on threads. The engine's lock is held in its methods: they only hand the work on.
struct Threads {
    work: Sender<Work>,
    timer: Arc<Timer>,
}

impl Spawn for Threads {
    fn delivery(&self, hub: &Arc<Hub>, id: DeliveryId, start: Box<Start>) {
        let _ = self.work.send(Work::Delivery(Arc::clone(hub), id, start));
    }

    fn resolve(&self, hub: &Arc<Hub>, id: ResolveId, domain: String) {
        let _ = self.work.send(Work::Resolve(Arc::clone(hub), id, domain));
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) {
        let _ = self.work.send(Work::Blocking(work));
    }

    fn timer(&self, at: Option<Instant>) {
        lock(&self.timer.at).0 = at;
        self.timer.changed.notify_one();
    }
}

fn start_spawner(work: Receiver<Work>, active: Arc<Active>) -> io::Result<()> {
    Builder::new().name("spawner".into()).spawn(move || {
        for work in work {
            spawn(work, &active);
        }
    })?;
    Ok(())
}

fn spawn(work: Work, active: &Arc<Active>) {
    let builder = Builder::new().stack_size(STACK);
    match work {
        Work::Delivery(hub, id, start) => {
            let token = active.enter();
            let on_thread = Arc::clone(&hub);
            let spawned = builder.spawn(move || {
                delivery(&on_thread, id, *start);
                drop(token);
            });
            if let Err(error) = spawned {
                tracing::warn!(%error, "no thread for a delivery; it goes back to the queue");
                hub.close_delivery(id);
            }
        }
        Work::Resolve(hub, id, domain) => {
            let on_thread = Arc::clone(&hub);
            let spawned = builder.spawn(move || {
                let answer = resolve(&on_thread, Query::mx(&domain));
                on_thread.input(Input::Resolved(id, answer));
            });
            if let Err(error) = spawned {
                let failure = DnsFailure::Temporary(format!("no thread to resolve it: {error}"));
                hub.input(Input::Resolved(id, Err(failure)));
            }
        }
        Work::Blocking(work) => work(),
    }
}

/// When the engine wants its `Timeout`.
#[derive(Default)]
struct Timer {
    at: Mutex<(Option<Instant>, ())>,
    changed: Condvar,
}

fn start_timer(timer: Arc<Timer>, hub: Arc<Hub>) -> io::Result<()> {
    Builder::new().name("timer".into()).spawn(move || {
        let clock: Clock = hub.clock();
        loop {
            let mut at = lock(&timer.at);
            match at.0 {
                None => drop(timer.changed.wait(at)),
                Some(due) if !clock.until(due).is_zero() => {
                    drop(timer.changed.wait_timeout(at, clock.until(due)));
                }
                Some(_) => {
                    at.0 = None;
                    drop(at);
                    hub.time_out();
                }
            }
        }
    })?;
    Ok(())
}

/// Counts the threads that must end before the relay has drained.
#[derive(Debug, Default)]
struct Active {
    count: Mutex<usize>,
    changed: Condvar,
}

impl Active {
    fn enter(self: &Arc<Self>) -> Token {
        *lock(&self.count) += 1;
        Token(Arc::clone(self))
    }

    fn count(&self) -> usize {
        *lock(&self.count)
    }

    fn wait_idle(&self, within: Duration) -> bool {
        let deadline = StdInstant::now() + within;
        let mut count = lock(&self.count);
        while *count > 0 {
            let left = deadline.saturating_duration_since(StdInstant::now());
            if left.is_zero() {
                return false;
            }
            count = self
                .changed
                .wait_timeout(count, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }
}

/// One counted thread.
struct Token(Arc<Active>);

impl Drop for Token {
    fn drop(&mut self) {
        *lock(&self.0.count) -= 1;
        self.0.changed.notify_all();
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
