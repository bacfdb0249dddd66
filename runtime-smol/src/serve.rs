//! Accepting, and driving each connection and delivery as a task.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};

use async_io::{Async, Timer};
use relay_core::admin::{Origin, http};
use relay_core::dns::Query;
use relay_core::engine::Ask;
use relay_core::errand::{Done, Errand, Runner};
use relay_core::https;
use relay_core::inbound::{self, Session};
use relay_core::outbound::{self, Delivery};
use runtime_std::hub::{DeliverySeat, Hub, SessionSeat};
use runtime_std::listen::{
    EXHAUSTED_WAIT, begin_connect, canonical, connected, is_exhausted, prepare,
};
use smol::future;
use smol::{Executor, unblock};

use crate::drive::{CarryOut, Stop, StopSignal, drive, within};
use crate::resolve::resolve;

/// Administrators that are served at once.
const ADMIN_CONNECTIONS_MAX: usize = 16;

/// Starts tasks on an executor. Its tasks hold it, so it does not hold the executor: one that is dropped
/// with tasks on it takes them along.
#[derive(Debug, Clone)]
pub(crate) struct Spawner(Weak<Executor<'static>>);

impl Spawner {
    pub(crate) fn new(executor: &Arc<Executor<'static>>) -> Self {
        Self(Arc::downgrade(executor))
    }

    /// Starts a task that nobody waits for.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(executor) = self.0.upgrade() {
            executor.spawn(task).detach();
        }
    }
}

/// Accepts on one listener.
pub(crate) struct Acceptor {
    pub(crate) listener: Async<TcpListener>,
    pub(crate) index: usize,
    pub(crate) executor: Spawner,
    pub(crate) hub: Arc<Hub>,
    pub(crate) stop: Arc<StopSignal>,
}

impl Acceptor {
    pub(crate) async fn run(self) {
        let mut exhausted = false;
        while let Some(accepted) =
            accepted(&self.stop, &mut exhausted, self.listener.accept()).await
        {
            if let Ok((stream, peer)) = accepted {
                self.start(stream, peer);
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
        let (peer, local) = (canonical(peer), canonical(local));
        let Some((mut session, seat)) = self.hub.open_session(peer, local, self.index) else {
            return;
        };
        let stop = Arc::clone(&self.stop);
        self.executor.spawn(async move {
            let clock = seat.hub().clock();
            let interrupt = Some(Session::interrupt as fn(&mut _, _));
            let mut requests = SessionRequests(seat, Arc::clone(&stop));
            drive(
                &mut session,
                Some(stream),
                clock,
                &stop,
                interrupt,
                &mut requests,
            )
            .await;
        });
    }
}

/// The next connection; none when nothing is accepted any more. `exhausted` says whether the last one
/// failed for want of descriptors or memory, which is told once.
async fn accepted<T>(
    stop: &StopSignal,
    exhausted: &mut bool,
    accept: impl Future<Output = io::Result<T>>,
) -> Option<io::Result<T>> {
    let stopped = async {
        stop.given(Stop::Drain).await;
        None
    };
    let accepted = future::or(stopped, async { Some(accept.await) }).await;
    if let Some(Err(error)) = &accepted
        && is_exhausted(error)
    {
        if !std::mem::replace(exhausted, true) {
            tracing::warn!(%error, "cannot accept connections for now");
        }
        Timer::after(EXHAUSTED_WAIT).await;
    } else {
        *exhausted = false;
    }
    // Any other error is that of a client that went away before it was accepted.
    accepted
}

/// Serves administrators. They are few and short.
#[derive(Clone)]
pub(crate) struct Admins {
    pub(crate) executor: Spawner,
    pub(crate) hub: Arc<Hub>,
    pub(crate) stop: Arc<StopSignal>,
    /// Each connection holds one; so do the two acceptors.
    pub(crate) connections: Arc<()>,
}

impl Admins {
    pub(crate) async fn run<L, S>(
        self,
        listener: Async<L>,
        take: fn(&L) -> io::Result<S>,
        origin: Origin,
    ) where
        S: AsFd + Send + Sync + 'static,
        for<'a> &'a S: Read + Write,
    {
        let mut exhausted = false;
        while let Some(accepted) =
            accepted(&self.stop, &mut exhausted, listener.read_with(take)).await
        {
            if let Ok(stream) = accepted.and_then(Async::new)
                && Arc::strong_count(&self.connections) <= ADMIN_CONNECTIONS_MAX + 1
            {
                self.start(stream, origin);
            }
        }
    }

    fn start<S>(&self, stream: Async<S>, origin: Origin)
    where
        S: Send + Sync + 'static,
        for<'a> &'a S: Read + Write,
    {
        let admins = self.clone();
        self.executor.spawn(async move {
            let clock = admins.hub.clock();
            let mut machine = admins.hub.open_admin(origin);
            let interrupt = Some(http::Connection::interrupt as fn(&mut _, _));
            let mut requests = AdminRequests(Arc::clone(&admins.hub));
            let stream = Some(stream);
            drive(
                &mut machine,
                stream,
                clock,
                &admins.stop,
                interrupt,
                &mut requests,
            )
            .await;
        });
    }
}

/// Who carries out an administrator's requests.
struct AdminRequests(Arc<Hub>);

impl<S: Send + Sync> CarryOut<http::Connection, S> for AdminRequests {
    async fn carry_out(
        &mut self,
        request: http::Request,
        _: &mut Option<Async<S>>,
    ) -> http::Answer {
        let hub = Arc::clone(&self.0);
        unblock(move || hub.admin_request(request)).await
    }
}

/// Who carries out a session's requests.
struct SessionRequests(SessionSeat, Arc<StopSignal>);

impl CarryOut<Session, TcpStream> for SessionRequests {
    async fn carry_out(
        &mut self,
        request: inbound::Request,
        _: &mut Option<Async<TcpStream>>,
    ) -> inbound::Answer {
        session_request(&self.0, &self.1, request).await
    }
}

pub(crate) async fn session_request(
    seat: &SessionSeat,
    stop: &StopSignal,
    request: inbound::Request,
) -> inbound::Answer {
    match request {
        // The seat says it when it is dropped.
        inbound::Request::Engine(Ask::Bye) => inbound::Answer::Done,
        inbound::Request::Engine(ask) => inbound::Answer::Engine(seat.ask(ask).taken().await),
        inbound::Request::Resolve(question) => {
            let query = Query::plain(&question);
            inbound::Answer::Resolved(resolve(seat.hub(), stop, query).await)
        }
        other @ (inbound::Request::Spool(..)
        | inbound::Request::Unspool(_)
        | inbound::Request::CheckPassword { .. }
        | inbound::Request::CheckToken(_)) => {
            let hub = Arc::clone(seat.hub());
            unblock(move || hub.session_request(other)).await
        }
    }
}

/// Drives one delivery.
pub(crate) async fn run_delivery(
    mut delivery: Delivery,
    seat: DeliverySeat,
    stop: Arc<StopSignal>,
) {
    let clock = seat.hub().clock();
    let mut requests = DeliveryRequests {
        seat,
        stop: Arc::clone(&stop),
    };
    drive(&mut delivery, None, clock, &stop, None, &mut requests).await;
}

/// Who carries out a delivery's requests.
struct DeliveryRequests {
    seat: DeliverySeat,
    stop: Arc<StopSignal>,
}

impl CarryOut<Delivery, TcpStream> for DeliveryRequests {
    async fn carry_out(
        &mut self,
        request: outbound::Request,
        stream: &mut Option<Async<TcpStream>>,
    ) -> outbound::Answer {
        let hub = self.seat.hub();
        match request {
            outbound::Request::Resolve(host) => {
                let found = resolve(hub, &self.stop, Query::addresses(&host)).await;
                outbound::Answer::Resolved(found)
            }
            outbound::Request::Tlsa(host, port) => {
                let found = resolve(hub, &self.stop, Query::tlsa(&host, port)).await;
                outbound::Answer::Tlsa(found)
            }
            outbound::Request::Alias(name) => {
                outbound::Answer::Alias(resolve(hub, &self.stop, Query::alias(&name)).await)
            }
            outbound::Request::Connect { to, source, until } => {
                *stream = None;
                let connecting = within(hub.clock(), until, connect(to, source));
                let connected = self.stop.or_abort(connecting).await;
                let connected = connected.map(|(connected, local)| {
                    *stream = Some(connected);
                    local
                });
                outbound::Answer::Connected(connected.map_err(|error| error.kind()))
            }
            outbound::Request::Report(report) => {
                outbound::Answer::Next(self.seat.report(report).taken().await)
            }
            outbound::Request::Flush => outbound::Answer::Flushed,
            disk @ (outbound::Request::Load(..)
            | outbound::Request::ReadBody { .. }
            | outbound::Request::Token { .. }) => {
                let hub = Arc::clone(hub);
                unblock(move || hub.delivery_request(disk)).await
            }
        }
    }
}

/// Runs one errand.
pub(crate) async fn run_errand(hub: &Arc<Hub>, errand: Errand, stop: Arc<StopSignal>) -> Done {
    let mut runner = hub.open_errand(errand);
    let mut requests = ErrandRequests {
        hub: Arc::clone(hub),
        stop: Arc::clone(&stop),
    };
    drive(&mut runner, None, hub.clock(), &stop, None, &mut requests).await;
    runner.into_done()
}

/// Who carries out an errand's requests.
struct ErrandRequests {
    hub: Arc<Hub>,
    stop: Arc<StopSignal>,
}

impl CarryOut<Runner, TcpStream> for ErrandRequests {
    async fn carry_out(
        &mut self,
        request: https::Request,
        stream: &mut Option<Async<TcpStream>>,
    ) -> https::Answer {
        match request {
            https::Request::Texts(name) => {
                https::Answer::Texts(resolve(&self.hub, &self.stop, Query::txt(&name)).await)
            }
            https::Request::Resolve(host) => {
                let found = resolve(&self.hub, &self.stop, Query::addresses(&host)).await;
                https::Answer::Resolved(found)
            }
            https::Request::Connect { to, until } => {
                *stream = None;
                let connecting = within(self.hub.clock(), until, connect(to, None));
                let connected = self.stop.or_abort(connecting).await;
                let connected = connected.map(|(connected, _)| *stream = Some(connected));
                https::Answer::Connected(connected.map_err(|error| error.kind()))
            }
            https::Request::Flush => https::Answer::Flushed,
        }
    }
}

async fn connect(
    to: SocketAddr,
    source: Option<IpAddr>,
) -> io::Result<(Async<TcpStream>, SocketAddr)> {
    let stream = Async::new(begin_connect(to, source)?)?;
    stream.writable().await?;
    let local = connected(stream.get_ref())?;
    Ok((stream, local))
}
