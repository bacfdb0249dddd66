//! Listening sockets, and accepting on threads.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use socket2::{Domain, Protocol, Socket, Type};

use crate::drive::StopSignal;

/// Connections that the kernel completes before they are accepted.
const BACKLOG: i32 = 1024;

/// How long accepting rests when the process is out of descriptors or memory.
pub const EXHAUSTED_WAIT: Duration = Duration::from_millis(100);

/// Binds and listens, without blocking. An unspecified IPv6 address takes IPv4 too.
///
/// # Errors
/// Those of the system, with the address in the text.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listen = || -> io::Result<TcpListener> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    listen().map_err(|error| {
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
    })
}

/// Makes the socket of the admin commands, for this user alone. One that a relay left behind is
/// replaced: the store's lock says that none runs.
///
/// # Errors
/// Those of the system, with the path in the text.
pub fn bind_admin(data_dir: &Path) -> io::Result<UnixListener> {
    let path = data_dir.join("admin.sock");
    let listen = || -> io::Result<UnixListener> {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    listen().map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot listen on {}: {error}", path.display()),
        )
    })
}

/// Accepts until `stop` drains, handing each connection over without delay.
pub fn accept<L: AsFd, S>(
    listener: &L,
    stop: &StopSignal,
    accept: impl Fn(&L) -> io::Result<S>,
    mut each: impl FnMut(S),
) {
    let mut exhausted = false;
    loop {
        let mut fds = [
            PollFd::new(listener, PollFlags::IN),
            PollFd::from_borrowed_fd(stop.draining(), PollFlags::IN),
        ];
        if poll(&mut fds, None).is_err() {
            continue;
        }
        if !fds[1].revents().is_empty() {
            return;
        }
        match accept(listener) {
            Ok(stream) => {
                exhausted = false;
                each(stream);
            }
            Err(error) if is_exhausted(&error) => {
                if !std::mem::replace(&mut exhausted, true) {
                    tracing::warn!(%error, "cannot accept connections for now");
                }
                std::thread::sleep(EXHAUSTED_WAIT);
            }
            // The client went away before it was accepted, or another thread was faster.
            Err(_) => {}
        }
    }
}

/// Sets what every connection has: no blocking mode, no delay of small segments.
///
/// # Errors
/// Those of the system.
pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)
}

/// Whether accepting failed for want of descriptors or memory, which ends by itself.
#[must_use]
pub fn is_exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    error.kind() == ErrorKind::OutOfMemory
        || error.raw_os_error().is_some_and(|code| {
            [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
                .iter()
                .any(|errno| errno.raw_os_error() == code)
        })
}

/// Begins to connect, without blocking: the socket is writable when that is over, and
/// [`connected`] says how it ended.
///
/// # Errors
/// Those of the system that are known at once.
pub fn begin_connect(to: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    socket.set_nonblocking(true)?;
    match socket.connect(&to.into()) {
        Err(error) if !is_under_way(&error) => Err(error),
        Ok(()) | Err(_) => Ok(socket.into()),
    }
}

fn is_under_way(error: &io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock
        || error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error())
}

/// How a connection that [`begin_connect`] began ended: our address, or what went wrong.
///
/// # Errors
/// Those of connecting.
pub fn connected(stream: &TcpStream) -> io::Result<SocketAddr> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    prepare(stream)?;
    stream.local_addr()
}

/// The canonical form of a peer's address: an IPv4 address that came through an IPv6 socket is IPv4.
#[must_use]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
