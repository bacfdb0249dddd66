//! A name server on loopback that knows the demo's domains and nothing else.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::thread::Builder;
use std::time::Duration;

use relay_core::dns::Transport;
use relay_core::dns::zone::Zone;

use super::Threads;
use super::kinds::{HOME, Kind};
use crate::listen::accept;

/// The longest query that is read.
const QUERY_MAX: usize = 4096;

/// How long a client may take for its query over TCP.
const TCP_WAIT: Duration = Duration::from_secs(2);

/// How often a port is looked for that is free for UDP and TCP.
const PORTS_TRIED: usize = 20;

/// A host for each kind that has one, and the null MX. Reports go to the healthy one.
fn zone() -> Zone {
    let home = Zone::new().mx(HOME, 10, &Kind::Healthy.host());
    Kind::ALL
        .into_iter()
        .fold(home, |zone, kind| match kind.address() {
            Some(ip) => zone
                .mx(&kind.domain(), 10, &kind.host())
                .address(&kind.host(), IpAddr::V4(ip)),
            None => zone.mx(&kind.domain(), 0, "."),
        })
}

/// Starts the server, over UDP and TCP, and says where it is.
pub(super) fn start(threads: &mut Threads) -> io::Result<SocketAddr> {
    let (udp, tcp) = bind()?;
    let address = udp.local_addr()?;
    let zone = Arc::new(zone());
    let (stop, own) = (Arc::clone(threads.stop()), Arc::clone(&zone));
    threads.push(Builder::new().name("demo-dns-udp".into()).spawn(move || {
        accept(&udp, &stop, |udp| answer(udp, &own), |()| {});
    })?);
    let stop = Arc::clone(threads.stop());
    threads.push(Builder::new().name("demo-dns-tcp".into()).spawn(move || {
        let take = |tcp: &TcpListener| tcp.accept().map(|(stream, _)| stream);
        accept(&tcp, &stop, take, |stream| {
            // A client that breaks off has only itself to blame.
            let _ = answer_tcp(stream, &zone);
        });
    })?);
    Ok(address)
}

fn bind() -> io::Result<(UdpSocket, TcpListener)> {
    for _ in 0..PORTS_TRIED {
        let udp = UdpSocket::bind("127.0.0.1:0")?;
        let Ok(tcp) = TcpListener::bind(udp.local_addr()?) else {
            continue;
        };
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        return Ok((udp, tcp));
    }
    Err(io::Error::new(
        ErrorKind::AddrInUse,
        "no port is free for the demo's name server",
    ))
}

fn answer(udp: &UdpSocket, zone: &Zone) -> io::Result<()> {
    let mut query = [0; QUERY_MAX];
    let (len, from) = udp.recv_from(&mut query)?;
    if let Some(answer) = zone.answer(&query[..len], Transport::Udp) {
        udp.send_to(&answer, from)?;
    }
    Ok(())
}

fn answer_tcp(mut stream: TcpStream, zone: &Zone) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(TCP_WAIT))?;
    stream.set_write_timeout(Some(TCP_WAIT))?;
    let mut query = vec![0; 2];
    stream.read_exact(&mut query)?;
    let len = usize::from(u16::from_be_bytes([query[0], query[1]]));
    query.resize(2 + len.min(QUERY_MAX), 0);
    stream.read_exact(&mut query[2..])?;
    if let Some(answer) = zone.answer(&query, Transport::Tcp) {
        stream.write_all(&answer)?;
    }
    Ok(())
}
