//! Carrying the resolver's questions and answers, on the thread that waits for them.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::Duration;

#[cfg(feature = "cli")]
use relay_core::dns::Resolver;
use relay_core::dns::{DnsFailure, Event, Lookup, Query, Step, Transport};
use rustix::event::PollFlags;

use crate::clock::Clock;
use crate::drive::{StopSignal, wait_for};
use crate::hub::Hub;
use crate::listen::{begin_connect, connected};

/// The most that is read at once: more than any datagram that is asked for.
pub const PIECE_MAX: usize = 4096;

/// Finds what `query` asks for: from the cache, or by asking the servers.
///
/// # Errors
/// [`DnsFailure`] says whether that is final. It is not if `stop` aborted the search.
pub fn resolve<T>(hub: &Hub, stop: &StopSignal, query: Query<T>) -> Result<T, DnsFailure> {
    let clock = hub.clock();
    let mut lookup = hub.with_resolver(|resolver| resolver.begin(clock.now(), query));
    carry(clock, stop, &mut lookup);
    hub.with_resolver(|resolver| resolver.finish(clock.now(), lookup))
}

/// [`resolve`] with a resolver of the caller's own, where no relay runs.
///
/// # Errors
/// [`DnsFailure`] says whether that is final.
#[cfg(feature = "cli")]
pub(crate) fn ask<T>(
    resolver: &mut Resolver,
    clock: Clock,
    stop: &StopSignal,
    query: Query<T>,
) -> Result<T, DnsFailure> {
    let mut lookup = resolver.begin(clock.now(), query);
    carry(clock, stop, &mut lookup);
    resolver.finish(clock.now(), lookup)
}

/// Carries what a search says and hears, to its end.
fn carry<T>(clock: Clock, stop: &StopSignal, lookup: &mut Lookup<T>) {
    let mut socket: io::Result<Socket> = Err(ErrorKind::NotConnected.into());
    let mut buffer = [0; PIECE_MAX];
    loop {
        let until = match lookup.poll() {
            Step::Exchange {
                transport,
                server,
                message,
                until,
            } => {
                socket = Socket::open(transport, server, &message, clock.until(until), stop);
                until
            }
            Step::Listen { until } => until,
            Step::Done => return,
        };
        let received = match &mut socket {
            Ok(socket) => socket.receive(&mut buffer, clock.until(until), stop),
            Err(error) => Err(error.kind().into()),
        };
        let event = match received {
            Ok((len, from)) => Event::Received {
                from,
                bytes: &buffer[..len],
            },
            // A datagram that was announced and then dropped for its checksum counts as none.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Event::Timeout
            }
            Err(error) => Event::Failed(error.kind()),
        };
        lookup.handle(clock.now(), event);
    }
}

/// The address to bind a socket to that will speak to `server`: any, with a port that the system draws.
#[must_use]
pub fn any_for(server: SocketAddr) -> SocketAddr {
    let any: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    SocketAddr::new(any, 0)
}

/// The socket of one exchange. Both kinds are connected, and hear only that server.
enum Socket {
    Udp(UdpSocket),
    Tcp(TcpStream, SocketAddr),
}

impl Socket {
    fn open(
        transport: Transport,
        server: SocketAddr,
        message: &[u8],
        within: Duration,
        stop: &StopSignal,
    ) -> io::Result<Self> {
        match transport {
            Transport::Udp => {
                let socket = UdpSocket::bind(any_for(server))?;
                socket.set_nonblocking(true)?;
                socket.connect(server)?;
                socket.send(message)?;
                Ok(Self::Udp(socket))
            }
            Transport::Tcp => {
                let mut stream = begin_connect(server, None)?;
                wait_for(stream.as_fd(), PollFlags::OUT, within, stop)?;
                connected(&stream)?;
                // A query fits into any send buffer.
                stream.write_all(message)?;
                Ok(Self::Tcp(stream, server))
            }
        }
    }

    fn receive(
        &mut self,
        buffer: &mut [u8],
        within: Duration,
        stop: &StopSignal,
    ) -> io::Result<(usize, SocketAddr)> {
        let socket = match &*self {
            Self::Udp(socket) => (*socket).as_fd(),
            Self::Tcp(stream, _) => (*stream).as_fd(),
        };
        wait_for(socket, PollFlags::IN, within, stop)?;
        match self {
            Self::Udp(socket) => socket.recv_from(buffer),
            Self::Tcp(stream, server) => match stream.read(buffer)? {
                0 => Err(ErrorKind::UnexpectedEof.into()),
                len => Ok((len, *server)),
            },
        }
    }
}
