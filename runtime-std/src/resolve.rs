//! Carrying the resolver's questions and answers, on the thread that waits for them.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use relay_core::dns::{DnsFailure, Event, Query, Step, Transport};

use crate::hub::Hub;

/// The most that is read at once: more than any datagram that is asked for.
pub const PIECE_MAX: usize = 4096;

/// Finds what `query` asks for: from the cache, or by asking the servers.
///
/// # Errors
/// [`DnsFailure`] says whether that is final.
pub fn resolve<T>(hub: &Hub, query: Query<T>) -> Result<T, DnsFailure> {
    let clock = hub.clock();
    let mut lookup = hub.with_resolver(|resolver| resolver.begin(clock.now(), query));
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
                socket = Socket::open(transport, server, &message, clock.until(until));
                until
            }
            Step::Listen { until } => until,
            Step::Done => {
                return hub.with_resolver(|resolver| resolver.finish(clock.now(), lookup));
            }
        };
        let received = match &mut socket {
            Ok(socket) => socket.receive(&mut buffer, clock.until(until)),
            Err(error) => Err(error.kind().into()),
        };
        let event = match received {
            Ok((len, from)) => Event::Received {
                from,
                bytes: &buffer[..len],
            },
            // What the system calls a read or a connection whose time ran out.
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
    ) -> io::Result<Self> {
        // A timeout of zero means none to the system.
        let within = within.max(Duration::from_millis(1));
        match transport {
            Transport::Udp => {
                let socket = UdpSocket::bind(any_for(server))?;
                socket.connect(server)?;
                socket.send(message)?;
                Ok(Self::Udp(socket))
            }
            Transport::Tcp => {
                let mut stream = TcpStream::connect_timeout(&server, within)?;
                stream.set_write_timeout(Some(within))?;
                stream.write_all(message)?;
                Ok(Self::Tcp(stream, server))
            }
        }
    }

    fn receive(&mut self, buffer: &mut [u8], within: Duration) -> io::Result<(usize, SocketAddr)> {
        let within = Some(within.max(Duration::from_millis(1)));
        match self {
            Self::Udp(socket) => {
                socket.set_read_timeout(within)?;
                socket.recv_from(buffer)
            }
            Self::Tcp(stream, server) => {
                stream.set_read_timeout(within)?;
                match stream.read(buffer)? {
                    0 => Err(ErrorKind::UnexpectedEof.into()),
                    len => Ok((len, *server)),
                }
            }
        }
    }
}
