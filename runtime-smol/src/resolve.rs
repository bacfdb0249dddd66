//! Carrying the resolver's questions and answers, as a task.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream, UdpSocket};

use async_io::Async;
use relay_core::dns::{DnsFailure, Event, Query, Step, Transport};
use runtime_std::hub::Hub;
use runtime_std::resolve::{PIECE_MAX, any_for};
use smol::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::drive::{StopSignal, within};

/// Finds what `query` asks for: from the cache, or by asking the servers.
///
/// # Errors
/// [`DnsFailure`] says whether that is final. It is not if `stop` aborted the search.
pub async fn resolve<T>(hub: &Hub, stop: &StopSignal, query: Query<T>) -> Result<T, DnsFailure> {
    let clock = hub.clock();
    let mut lookup = hub.with_resolver(|resolver| resolver.begin(clock.now(), query));
    let mut socket: io::Result<Socket> = Err(ErrorKind::NotConnected.into());
    let mut buffer = vec![0; PIECE_MAX];
    loop {
        let until = match lookup.poll() {
            Step::Exchange {
                transport,
                server,
                message,
                until,
            } => {
                let opening = Socket::open(transport, server, &message);
                socket = stop.or_abort(within(clock, until, opening)).await;
                until
            }
            Step::Listen { until } => until,
            Step::Done => {
                return hub.with_resolver(|resolver| resolver.finish(clock.now(), lookup));
            }
        };
        let received = match &mut socket {
            Ok(socket) => {
                let receiving = within(clock, until, socket.receive(&mut buffer));
                stop.or_abort(receiving).await
            }
            Err(error) => Err(error.kind().into()),
        };
        let event = match received {
            Ok((len, from)) => Event::Received {
                from,
                bytes: &buffer[..len],
            },
            Err(error) if error.kind() == ErrorKind::TimedOut => Event::Timeout,
            Err(error) => Event::Failed(error.kind()),
        };
        lookup.handle(clock.now(), event);
    }
}

/// The socket of one exchange. Both kinds are connected, and hear only that server.
enum Socket {
    Udp(Async<UdpSocket>),
    Tcp(Async<TcpStream>, SocketAddr),
}

impl Socket {
    async fn open(transport: Transport, server: SocketAddr, message: &[u8]) -> io::Result<Self> {
        match transport {
            Transport::Udp => {
                let socket = Async::<UdpSocket>::bind(any_for(server))?;
                socket.get_ref().connect(server)?;
                socket.send(message).await?;
                Ok(Self::Udp(socket))
            }
            Transport::Tcp => {
                let mut stream = Async::<TcpStream>::connect(server).await?;
                stream.write_all(message).await?;
                Ok(Self::Tcp(stream, server))
            }
        }
    }

    async fn receive(&mut self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        match self {
            Self::Udp(socket) => socket.recv_from(buffer).await,
            Self::Tcp(stream, server) => match stream.read(buffer).await? {
                0 => Err(ErrorKind::UnexpectedEof.into()),
                len => Ok((len, *server)),
            },
        }
    }
}
