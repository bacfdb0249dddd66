//! An SMTP client that says what it is told to, cut as it is told to.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind};
use socket2::{Domain, Protocol, Socket, Type};

use super::tls::{self, HOSTNAME};
use super::{DEADLINE, Trouble};

/// How a TLS alert begins: what a relay says last to a client whose handshake is none.
const ALERT: &[u8] = b"\x15\x03";

/// One reply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Reply {
    /// Its code.
    pub(super) code: u16,
    /// The text of each line, with the enhanced code.
    pub(super) lines: Vec<String>,
}

impl Reply {
    /// The text of the first line.
    #[must_use]
    pub(super) fn text(&self) -> &str {
        self.lines.first().map_or("", String::as_str)
    }
}

/// A connection to the relay, from a loopback address of its own: what one client does to the limits
/// for each address concerns no other.
pub(super) struct Client {
    socket: TcpStream,
    tls: Option<ClientConnection>,
    /// What was heard and is no whole reply yet.
    heard: Vec<u8>,
    /// All that was heard, in clear text.
    pub(super) transcript: Vec<u8>,
    /// Octets in one write to the socket, and so in one segment.
    pub(super) segment: usize,
    /// Octets in one TLS record, or in one write without TLS.
    pub(super) record: usize,
}

/// The next address of 127.64.0.0/10.
pub(super) fn source() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let next = NEXT.fetch_add(1, Ordering::Relaxed) & 0x003f_ffff;
    Ipv4Addr::from_bits(0x7f40_0000 | next)
}

impl Client {
    /// Connects, and does not wait for the greeting.
    pub(super) fn connect(to: SocketAddr) -> Result<Self, Trouble> {
        Self::connect_from(source(), to)
    }

    /// The same from a certain address.
    pub(super) fn connect_from(from: Ipv4Addr, to: SocketAddr) -> Result<Self, Trouble> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.bind(&SocketAddr::new(from.into(), 0).into())?;
        socket.connect_timeout(&to.into(), DEADLINE)?;
        let socket = TcpStream::from(socket);
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(DEADLINE))?;
        socket.set_write_timeout(Some(DEADLINE))?;
        Ok(Self {
            socket,
            tls: None,
            heard: Vec::new(),
            transcript: Vec::new(),
            segment: usize::MAX,
            record: usize::MAX,
        })
    }

    /// Begins and ends a handshake.
    pub(super) fn handshake(&mut self) -> Result<(), Trouble> {
        self.handshake_as(tls::usual_client()?)
    }

    /// The same with other versions or application protocols.
    pub(super) fn handshake_as(&mut self, config: Arc<ClientConfig>) -> Result<(), Trouble> {
        let name = ServerName::try_from(HOSTNAME)?;
        let mut tls = ClientConnection::new(config, name)?;
        while tls.is_handshaking() {
            let mut out = Vec::new();
            while tls.wants_write() {
                tls.write_tls(&mut out)?;
            }
            for part in out.chunks(self.segment) {
                self.socket.write_all(part)?;
            }
            if !tls.is_handshaking() {
                break;
            }
            if tls.read_tls(&mut self.socket)? == 0 {
                return Err("closed in the handshake".into());
            }
            tls.process_new_packets()?;
        }
        self.tls = Some(tls);
        self.write(b"").map_err(Trouble::from)
    }

    /// Whether the handshake resumed another session.
    pub(super) fn handshake_kind(&self) -> Option<HandshakeKind> {
        self.tls.as_ref().and_then(|tls| tls.handshake_kind())
    }

    /// Sends octets, under TLS if it is up.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            let size = self.record.min(self.segment);
            return bytes
                .chunks(size)
                .try_for_each(|part| self.socket.write_all(part));
        };
        let mut wire = Vec::new();
        for record in bytes.chunks(self.record.min(16_000)) {
            tls.writer().write_all(record)?;
            while tls.wants_write() {
                tls.write_tls(&mut wire)?;
            }
            for part in wire.chunks(self.segment) {
                self.socket.write_all(part)?;
            }
            wire.clear();
        }
        while tls.wants_write() {
            tls.write_tls(&mut self.socket)?;
        }
        Ok(())
    }

    /// Sends octets outside of TLS.
    pub(super) fn write_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes)
    }

    /// Ends TLS, and leaves the socket open.
    pub(super) fn close_notify(&mut self) -> Result<(), Trouble> {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            while tls.wants_write() {
                tls.write_tls(&mut self.socket)?;
            }
        }
        Ok(())
    }

    /// Says that nothing more comes, by TCP alone.
    pub(super) fn finish(&mut self) {
        // It may be closed already.
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Reads the next reply; none if the connection ends first.
    pub(super) fn next(&mut self) -> Result<Option<Reply>, Trouble> {
        let mut lines = Vec::new();
        loop {
            let Some(line) = self.line()? else {
                return if lines.is_empty() {
                    Ok(None)
                } else {
                    Err("closed within a reply".into())
                };
            };
            let code = line.get(..3).and_then(|code| code.parse().ok());
            let Some(code) = code else {
                return Err(format!("no reply: {line:?}").into());
            };
            let last = line.as_bytes().get(3) != Some(&b'-');
            lines.push(line.get(4..).unwrap_or("").to_owned());
            if last {
                return Ok(Some(Reply { code, lines }));
            }
        }
    }

    /// Reads the next reply.
    pub(super) fn reply(&mut self) -> Result<Reply, Trouble> {
        self.next()?.ok_or_else(|| "closed".into())
    }

    /// Reads replies until the relay closes.
    pub(super) fn rest(&mut self) -> Result<Vec<Reply>, Trouble> {
        let mut replies = Vec::new();
        while let Some(reply) = self.next()? {
            replies.push(reply);
        }
        Ok(replies)
    }

    /// Sends a line and reads the reply.
    pub(super) fn say(&mut self, line: &str) -> Result<Reply, Trouble> {
        self.write(format!("{line}\r\n").as_bytes())?;
        self.reply()
    }

    /// Sends a line, and wants this code.
    pub(super) fn expect(&mut self, line: &str, code: u16) -> Result<Reply, Trouble> {
        let reply = self.say(line)?;
        if reply.code == code {
            Ok(reply)
        } else {
            Err(format!("{line}: wanted {code}, got {} {}", reply.code, reply.text()).into())
        }
    }

    /// Reads the greeting and says EHLO.
    pub(super) fn hello(&mut self) -> Result<Reply, Trouble> {
        let greeting = self.reply()?;
        if greeting.code != 220 {
            return Err(format!("greeted with {} {}", greeting.code, greeting.text()).into());
        }
        self.expect("EHLO client.example", 250)
    }

    /// STARTTLS and EHLO.
    pub(super) fn start_tls(&mut self) -> Result<Reply, Trouble> {
        self.expect("STARTTLS", 220)?;
        self.handshake()?;
        self.expect("EHLO client.example", 250)
    }

    /// AUTH PLAIN.
    pub(super) fn login(&mut self, name: &str, password: &str) -> Result<Reply, Trouble> {
        self.say(&format!("AUTH PLAIN {}", plain(name, password)))
    }

    /// A whole message by DATA. Its last reply; an error if an earlier one is a refusal.
    pub(super) fn send(
        &mut self,
        from: &str,
        to: &[&str],
        message: &[u8],
    ) -> Result<Reply, Trouble> {
        self.expect(&format!("MAIL FROM:<{from}>"), 250)?;
        for to in to {
            self.expect(&format!("RCPT TO:<{to}>"), 250)?;
        }
        self.data(message)
    }

    /// The message alone.
    pub(super) fn data(&mut self, message: &[u8]) -> Result<Reply, Trouble> {
        self.expect("DATA", 354)?;
        self.write(&[message, b".\r\n"].concat())?;
        self.reply()
    }

    fn line(&mut self) -> Result<Option<String>, Trouble> {
        loop {
            if let Some(end) = self.heard.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.heard.drain(..end + 2).take(end).collect();
                if line.iter().any(|&byte| !(b' '..=b'~').contains(&byte)) {
                    return Err(format!("not printable: {}", line.escape_ascii()).into());
                }
                return Ok(Some(String::from_utf8(line)?));
            }
            let mut buffer = [0; 4096];
            let length = match self.read(&mut buffer) {
                Ok(length) => length,
                Err(error) if is_end(&error) => 0,
                Err(error) => return Err(format!("waited for a reply: {error}").into()),
            };
            if length == 0 && self.heard.starts_with(ALERT) {
                let length = self.transcript.len() - self.heard.len();
                self.transcript.truncate(length);
                self.heard.clear();
            }
            if length == 0 && !self.heard.is_empty() {
                return Err(format!("ends with {}", self.heard.escape_ascii()).into());
            }
            if length == 0 {
                return Ok(None);
            }
            self.heard.extend_from_slice(&buffer[..length]);
            self.transcript.extend_from_slice(&buffer[..length]);
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return self.socket.read(buffer);
        };
        loop {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            // After TLS ended the socket must end too: wait for that.
            tls.read_tls(&mut self.socket)?;
            tls.process_new_packets().map_err(io::Error::other)?;
        }
    }
}

/// The peer closed, one way or another.
fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe
    )
}

/// The initial response of AUTH PLAIN.
#[must_use]
pub(super) fn plain(name: &str, password: &str) -> String {
    BASE64.encode(format!("\0{name}\0{password}"))
}
