//! The world around the relay: a name server, the receiving hosts, and the authority that they share.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{Builder, sleep};
use std::time::Duration;

use smtp_proto::Extension;
use smtp_proto::server::Config;
use socket2::{Domain, Protocol, Socket, Type};

use super::authority::{Authority, Validity};
use super::kinds::Kind;
use super::receiver::{Host, Pause, Receiving};
use super::{Threads, names};
use crate::clock::Clock;
use crate::drive::{StopSignal, drive};
use crate::listen::{accept, prepare};

/// How often a port is looked for that is free on every address.
const PORTS_TRIED: usize = 50;

/// A thread that drives a connection needs little.
const STACK: usize = 256 * 1024;

/// What runs beside the relay.
pub(super) struct World {
    pub(super) authority: Authority,
    /// The name server.
    pub(super) names: SocketAddr,
    /// Where every receiver listens, each on an address of its own.
    pub(super) port: u16,
    healthy: Arc<Host>,
    /// Holds the dead host's port, so that nobody else listens there.
    _dead: Socket,
}

impl World {
    pub(super) fn start(threads: &mut Threads) -> Result<Self, String> {
        let authority = Authority::new()?;
        let in_words = |error: io::Error| format!("cannot start the demo's hosts: {error}");
        let names = names::start(threads).map_err(in_words)?;
        let (port, sockets, dead) = bind().map_err(in_words)?;
        let mut healthy = None;
        for (kind, listener) in sockets {
            let host = host(kind, &authority)?;
            if kind == Kind::Healthy {
                healthy = Some(Arc::clone(&host));
            }
            start(host, listener, threads).map_err(in_words)?;
        }
        Ok(Self {
            authority,
            names,
            port,
            healthy: healthy.ok_or("there is no healthy host")?,
            _dead: dead,
        })
    }

    /// Reports that came back about mail to this kind.
    pub(super) fn reports(&self, about: Kind) -> usize {
        self.healthy.reports(about)
    }
}

fn host(kind: Kind, authority: &Authority) -> Result<Arc<Host>, String> {
    let validity = match kind {
        Kind::Expired => Validity::Over,
        Kind::Healthy | Kind::Greylisting | Kind::Slow | Kind::Rejecting => Validity::Good,
        Kind::NoTls | Kind::Dropping | Kind::Dead | Kind::NullMx => Validity::Good,
    };
    let name = kind.host();
    let tls = authority.server(&name, validity)?;
    let name = name.parse().map_err(|error| format!("{name}: {error}"))?;
    let mut config = Config::new(name).with(Extension::StartTls);
    // A receiver that offers DSN reports itself: these leave it to the relay.
    config.extensions = config.extensions.without(Extension::Dsn);
    Ok(Host::new(kind, config, tls))
}

type Bound = (u16, Vec<(Kind, TcpListener)>, Socket);

/// Sockets with the same port for all hosts; that of the dead one is bound and does not listen.
fn bind() -> io::Result<Bound> {
    for _ in 0..PORTS_TRIED {
        match bind_all() {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            bound => return bound,
        }
    }
    Err(ErrorKind::AddrInUse.into())
}

fn bind_all() -> io::Result<Bound> {
    let mut port = 0;
    let mut listeners = Vec::new();
    let mut dead = None;
    for (kind, ip) in Kind::ALL
        .into_iter()
        .filter_map(|kind| Some((kind, kind.address()?)))
    {
        let socket = socket(ip, port)?;
        port = socket
            .local_addr()?
            .as_socket()
            .map_or(0, |address| address.port());
        if kind == Kind::Dead {
            dead = Some(socket);
            continue;
        }
        socket.listen(128)?;
        socket.set_nonblocking(true)?;
        listeners.push((kind, TcpListener::from(socket)));
    }
    let dead = dead.ok_or(ErrorKind::NotFound)?;
    Ok((port, listeners, dead))
}

fn socket(ip: Ipv4Addr, port: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&SocketAddr::from((ip, port)).into())?;
    Ok(socket)
}

/// A thread that accepts, and one for each connection.
fn start(host: Arc<Host>, listener: TcpListener, threads: &mut Threads) -> io::Result<()> {
    let stop = Arc::clone(threads.stop());
    let clock = threads.clock();
    let accepting = Builder::new().name("demo-host".into()).spawn(move || {
        accept(&listener, &stop, TcpListener::accept, |(stream, _)| {
            let (host, stop) = (Arc::clone(&host), Arc::clone(&stop));
            let receive = move || {
                if prepare(&stream).is_ok() {
                    receive(&host, stream, clock, &stop);
                }
            };
            // Without a thread the connection is closed, which the relay takes for what it is.
            let _ = Builder::new().stack_size(STACK).spawn(receive);
        });
    })?;
    threads.push(accepting);
    Ok(())
}

fn receive(host: &Arc<Host>, stream: std::net::TcpStream, clock: Clock, stop: &StopSignal) {
    let mut machine = Receiving::new(host, clock.now());
    let pause = |Pause(time): Pause, _: &mut Option<_>| {
        // Longer than any pause of the demo, so that stopping never waits for one.
        sleep(time.min(Duration::from_secs(1)));
    };
    drive(&mut machine, Some(stream), clock, stop, None, pause);
}
