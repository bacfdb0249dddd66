//! The relay as tasks on a smol executor.
//!
//! ```text
//!  accept tasks ──▶ session tasks ──ask──▶ Hub ──Spawn──▶ delivery tasks, resolver tasks
//!                                           ▲
//!                         timer task ───────┘          disk: the pool of `blocking`
//! ```

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_io::{Async, Timer};
use relay_core::admin::{AdminRequest, AdminResponse, Origin, http};
use relay_core::dns::Query;
use relay_core::engine::{self, Ask, Input, Start};
use relay_core::id::{DeliveryId, ResolveId, SessionId};
use relay_core::inbound::{self, Session};
use relay_core::outbound::{self, Delivery};
use relay_core::time::Instant;
use runtime_std::hub::{Hub, Options, Spawn, StartError};
use runtime_std::listen::{EXHAUSTED_WAIT, bind, canonical, is_exhausted, prepare};
use runtime_std::load::Loaded;
use runtime_std::slot::Slot;
use smol::future;
use smol::{Executor, Task, unblock};
use socket2::{Domain, Protocol, Socket, Type};

use crate::drive::{CarryOut, Stop, drive};
use crate::resolve::{resolve, within};

/// Administrators that are served at once.
const ADMIN_CONNECTIONS_MAX: usize = 16;

/// A running relay. Its tasks run while somebody runs the executor that it was started on.
#[derive(Debug)]
pub struct Relay {
    hub: Arc<Hub>,
    addresses: Vec<SocketAddr>,
    stop: async_channel::Sender<std::convert::Infallible>,
    active: Arc<Active>,
    acceptors: Vec<Task<()>>,
}

impl Relay {
    /// Opens the store, binds the listeners and starts tasks on `executor`. Reading the queue blocks.
    ///
    /// # Errors
    /// [`StartError`] names the directory, file or address that is at fault.
    pub fn start(executor: &Arc<Executor<'static>>, loaded: Loaded) -> Result<Self, StartError> {
        Self::start_with(executor, loaded, Options::default())
    }

    /// [`Relay::start`] with parts of the embedder's own.
    ///
    /// # Errors
    /// As [`Relay::start`].
    pub fn start_with(
        executor: &Arc<Executor<'static>>,
        loaded: Loaded,
        options: Options,
    ) -> Result<Self, StartError> {
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
        let (stop, stopped) = async_channel::bounded(1);
        let active = Arc::new(Active::default());
        let alarm = Arc::new(Alarm::default());
        let tasks = Tasks {
            executor: Arc::clone(executor),
            active: Arc::clone(&active),
            alarm: Arc::clone(&alarm),
        };
        let with_admin = options.admin;
        let hub = Hub::open(loaded, options, Box::new(tasks))?;
        let admin = with_admin.then(|| hub.bind_admin()).transpose()?;
        executor.spawn(ring(alarm, Arc::clone(&hub))).detach();
        let mut acceptors = Vec::new();
        for (index, listener) in listeners.into_iter().enumerate() {
            let acceptor = Acceptor {
                listener: Async::new(listener)?,
                index,
                executor: Arc::clone(executor),
                hub: Arc::clone(&hub),
                stop: stopped.clone(),
                active: Arc::clone(&active),
            };
            acceptors.push(executor.spawn(acceptor.run()));
        }
        if let Some((unix, tcp)) = admin {
            let admins = Admins {
                executor: Arc::clone(executor),
                hub: Arc::clone(&hub),
                stop: stopped,
                connections: Arc::new(Active::default()),
            };
            acceptors.push(executor.spawn(admins.clone().accept_unix(Async::new(unix)?)));
            if let Some(tcp) = tcp {
                acceptors.push(executor.spawn(admins.accept_tcp(Async::new(tcp)?)));
            }
        }
        Ok(Self {
            hub,
            addresses,
            stop,
            active,
            acceptors,
        })
    }

    /// Where the listeners are bound, in the order of the configuration.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What the tasks share.
    #[must_use]
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Asks what `status`, `queue` and their like ask.
    pub async fn admin(&self, request: AdminRequest) -> AdminResponse {
        self.hub.admin(request).taken().await
    }

    /// Puts a newly loaded configuration in force; listeners stay as they are. Says what changed.
    pub fn apply(&self, loaded: Loaded) -> Vec<String> {
        self.hub.apply(loaded)
    }

    /// Stops accepting, lets transactions and deliveries that run end within `grace`, and closes the
    /// store. What is not delivered is in the queue at the next start. Returns whether all ended in time.
    pub async fn shut_down(self, grace: Duration) -> bool {
        self.hub.input(Input::ShutDown);
        self.stop.close();
        for acceptor in self.acceptors {
            acceptor.await;
        }
        let idle = async {
            self.active.idle().await;
            true
        };
        let late = async {
            Timer::after(grace).await;
            false
        };
        let drained = future::or(idle, late).await;
        let hub = Arc::clone(&self.hub);
        unblock(move || hub.close()).await;
        drained
    }
}

/// Accepts on one listener.
struct Acceptor {
    listener: Async<TcpListener>,
    index: usize,
    executor: Arc<Executor<'static>>,
    hub: Arc<Hub>,
    stop: Stop,
    active: Arc<Active>,
}

impl Acceptor {
    async fn run(self) {
        loop {
            let accepted = async { Some(self.listener.accept().await) };
            let stopped = async {
                // The channel carries nothing: it ends when it is closed.
                let _ = self.stop.recv().await;
                None
            };
            match future::or(stopped, accepted).await {
                None => return,
                Some(Ok((stream, peer))) => self.start(stream, peer),
                Some(Err(error)) if is_exhausted(&error) => {
                    tracing::warn!(%error, "cannot accept connections for now");
                    Timer::after(EXHAUSTED_WAIT).await;
                }
                // The client went away before it was accepted.
                Some(Err(_)) => {}
            }
        }
    }

    fn start(&self, stream: Async<TcpStream>, peer: SocketAddr) {
        let Ok(local) = stream.get_ref().local_addr() else {
            return;
        };
        if prepare(stream.get_ref()).is_err() {
            return;
        }
        let token = self.active.enter();
        let run = session(
            Arc::clone(&self.hub),
            self.stop.clone(),
            stream,
            peer,
            local,
            self.index,
        );
        let task = self.executor.spawn(async move {
            run.await;
            drop(token);
        });
        task.detach();
    }
}

/// Serves administrators. They are few and short.
#[derive(Clone)]
struct Admins {
    executor: Arc<Executor<'static>>,
    hub: Arc<Hub>,
    stop: Stop,
    connections: Arc<Active>,
}

impl Admins {
    async fn accept_unix(self, listener: Async<UnixListener>) {
        loop {
            let accepted = async { Some(listener.accept().await.map(|(stream, _)| stream)) };
            match future::or(self.stopped(), accepted).await {
                None => return,
                Some(Ok(stream)) => self.start(stream, Origin::Local),
                Some(Err(_)) => drop(Timer::after(EXHAUSTED_WAIT).await),
            }
        }
    }

    async fn accept_tcp(self, listener: Async<TcpListener>) {
        loop {
            let accepted = async { Some(listener.accept().await.map(|(stream, _)| stream)) };
            match future::or(self.stopped(), accepted).await {
                None => return,
                Some(Ok(stream)) => self.start(stream, Origin::Tcp),
                Some(Err(_)) => drop(Timer::after(EXHAUSTED_WAIT).await),
            }
        }
    }

    async fn stopped<T>(&self) -> Option<T> {
        let _ = self.stop.recv().await;
        None
    }

    fn start<S>(&self, stream: Async<S>, origin: Origin)
    where
        S: Send + Sync + 'static,
        for<'a> &'a S: Read + Write,
    {
        if self.connections.count.load(Ordering::Acquire) >= ADMIN_CONNECTIONS_MAX {
            return;
        }
        let token = self.connections.enter();
        let hub = Arc::clone(&self.hub);
        let task = self.executor.spawn(async move {
            let mut machine = http::Connection::new(origin, hub.clock().now());
            let mut requests = AdminRequests {
                hub: Arc::clone(&hub),
            };
            drive(
                &mut machine,
                Some(stream),
                hub.clock(),
                None,
                |_, _| {},
                &mut requests,
            )
            .await;
            drop(token);
        });
        task.detach();
    }
}

/// Who carries out an administrator's requests.
struct AdminRequests {
    hub: Arc<Hub>,
}

impl<S: Send + Sync> CarryOut<http::Connection, S> for AdminRequests {
    async fn carry_out(
        &mut self,
        request: http::Request,
        _: &mut Option<Async<S>>,
    ) -> http::Answer {
        let hub = Arc::clone(&self.hub);
        unblock(move || hub.admin_request(request)).await
    }
}

/// Drives one client's connection.
async fn session(
    hub: Arc<Hub>,
    stop: Stop,
    stream: Async<TcpStream>,
    peer: SocketAddr,
    local: SocketAddr,
    index: usize,
) {
    let (mut session, id, slot) = hub.open_session(canonical(peer), canonical(local), index);
    let mut requests = SessionRequests {
        hub: Arc::clone(&hub),
        id,
        slot,
    };
    let interrupt = Session::interrupt;
    drive(
        &mut session,
        Some(stream),
        hub.clock(),
        Some(&stop),
        interrupt,
        &mut requests,
    )
    .await;
    hub.close_session(id);
}

/// Who carries out a session's requests.
struct SessionRequests {
    hub: Arc<Hub>,
    id: SessionId,
    slot: Arc<Slot<engine::Answer>>,
}

impl CarryOut<Session, TcpStream> for SessionRequests {
    async fn carry_out(
        &mut self,
        request: inbound::Request,
        _: &mut Option<Async<TcpStream>>,
    ) -> inbound::Answer {
        match request {
            inbound::Request::Engine(Ask::Bye) => inbound::Answer::Done,
            inbound::Request::Engine(ask) => {
                self.hub.ask(self.id, ask);
                inbound::Answer::Engine(self.slot.taken().await)
            }
            disk => {
                let hub = Arc::clone(&self.hub);
                unblock(move || hub.session_request(disk)).await
            }
        }
    }
}

/// Drives one delivery.
async fn delivery(hub: Arc<Hub>, id: DeliveryId, start: Start) {
    let (mut delivery, slot) = hub.open_delivery(id, start);
    let mut requests = DeliveryRequests {
        hub: Arc::clone(&hub),
        id,
        slot,
    };
    drive(
        &mut delivery,
        None,
        hub.clock(),
        None,
        |_, _| {},
        &mut requests,
    )
    .await;
    hub.close_delivery(id);
}

/// Who carries out a delivery's requests.
struct DeliveryRequests {
    hub: Arc<Hub>,
    id: DeliveryId,
    slot: Arc<Slot<engine::Next>>,
}

impl CarryOut<Delivery, TcpStream> for DeliveryRequests {
    async fn carry_out(
        &mut self,
        request: outbound::Request,
        stream: &mut Option<Async<TcpStream>>,
    ) -> outbound::Answer {
        match request {
            outbound::Request::Resolve(host) => {
                let query = Query::addresses(&host);
                outbound::Answer::Resolved(resolve(&self.hub, query).await)
            }
            outbound::Request::Connect { to, source, until } => {
                *stream = None;
                let connected = within(self.hub.clock(), until, connect(to, source)).await;
                let connected = connected.map(|(connected, local)| {
                    *stream = Some(connected);
                    local
                });
                outbound::Answer::Connected(connected.map_err(|error| error.kind()))
            }
            outbound::Request::Report(report) => {
                self.hub.report(self.id, report);
                outbound::Answer::Next(self.slot.taken().await)
            }
            outbound::Request::Flush => outbound::Answer::Flushed,
            disk => {
                let hub = Arc::clone(&self.hub);
                unblock(move || hub.delivery_request(disk)).await
            }
        }
    }
}

async fn connect(
    to: SocketAddr,
    source: Option<IpAddr>,
) -> io::Result<(Async<TcpStream>, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    socket.set_nonblocking(true)?;
    match socket.connect(&to.into()) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) if error.raw_os_error() == Some(IN_PROGRESS) => {}
        Err(error) => return Err(error),
    }
    let stream = Async::new(TcpStream::from(socket))?;
    stream.writable().await?;
    if let Some(error) = stream.get_ref().take_error()? {
        return Err(error);
    }
    prepare(stream.get_ref())?;
    let local = stream.get_ref().local_addr()?;
    Ok((stream, local))
}

/// EINPROGRESS: a connection that is on its way.
const IN_PROGRESS: i32 = 115;

/// [`Spawn`] as tasks. The engine's lock is held in its methods: none of them waits.
struct Tasks {
    executor: Arc<Executor<'static>>,
    active: Arc<Active>,
    alarm: Arc<Alarm>,
}

impl Spawn for Tasks {
    fn delivery(&self, hub: &Arc<Hub>, id: DeliveryId, start: Box<Start>) {
        let hub = Arc::clone(hub);
        let token = self.active.enter();
        let task = self.executor.spawn(async move {
            delivery(hub, id, *start).await;
            drop(token);
        });
        task.detach();
    }

    fn resolve(&self, hub: &Arc<Hub>, id: ResolveId, domain: String) {
        let hub = Arc::clone(hub);
        let task = self.executor.spawn(async move {
            let answer = resolve(&hub, Query::mx(&domain)).await;
            hub.input(Input::Resolved(id, answer));
        });
        task.detach();
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) {
        self.executor.spawn(unblock(work)).detach();
    }

    fn timer(&self, at: Option<Instant>) {
        *self.alarm.at.lock().unwrap_or_else(PoisonError::into_inner) = at;
        self.alarm.changed.notify(1);
    }
}

/// When the engine wants its `Timeout`.
#[derive(Default)]
struct Alarm {
    at: Mutex<Option<Instant>>,
    changed: event_listener::Event,
}

async fn ring(alarm: Arc<Alarm>, hub: Arc<Hub>) {
    let clock = hub.clock();
    loop {
        let changed = alarm.changed.listen();
        let at = *alarm.at.lock().unwrap_or_else(PoisonError::into_inner);
        match at {
            None => changed.await,
            Some(at) if !clock.until(at).is_zero() => {
                let due = async {
                    Timer::at(clock.std_instant(at)).await;
                };
                future::or(changed, due).await;
            }
            Some(_) => {
                *alarm.at.lock().unwrap_or_else(PoisonError::into_inner) = None;
                hub.time_out();
            }
        }
    }
}

/// Counts the tasks that must end before the relay has drained.
#[derive(Debug, Default)]
struct Active {
    count: AtomicUsize,
    ended: event_listener::Event,
}

impl Active {
    fn enter(self: &Arc<Self>) -> Token {
        self.count.fetch_add(1, Ordering::AcqRel);
        Token(Arc::clone(self))
    }

    async fn idle(&self) {
        loop {
            let ended = self.ended.listen();
            if self.count.load(Ordering::Acquire) == 0 {
                return;
            }
            ended.await;
        }
    }
}

/// One counted task.
struct Token(Arc<Active>);

impl Drop for Token {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::AcqRel);
        self.0.ended.notify(usize::MAX);
    }
}
