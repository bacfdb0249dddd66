//! A receiver that does as a script says, well or badly, and notes all that it is told.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::{DEADLINE, Trouble, ensure};

/// Where a message ends. RFC 5321 §4.1.1.4.
const END: &[u8] = b"\r\n.\r\n";

/// What a sink does.
#[derive(Debug, Clone)]
pub(super) enum Act {
    /// Sends this.
    Say(Vec<u8>),
    /// Sends this again and again, until the relay goes away.
    Flood(Vec<u8>),
    /// Begins TLS.
    Tls,
    /// Closes.
    Close,
}

/// A reply.
#[must_use]
pub(super) fn say(reply: &str) -> Vec<Act> {
    vec![Act::Say(format!("{reply}\r\n").into_bytes())]
}

/// How a sink behaves. What nothing is said about is answered as a good server does.
#[derive(Clone, Default)]
pub(super) struct Script {
    on: Vec<(String, Vec<Act>)>,
    offers: Vec<String>,
    tls: Option<Arc<ServerConfig>>,
}

impl Script {
    /// On a command that begins so (in lower case), or on `greeting`, `.`, `chunk`: this. Of several
    /// that fit, the first counts.
    #[must_use]
    pub(super) fn on(mut self, command: &str, acts: Vec<Act>) -> Self {
        self.on.push((command.to_owned(), acts));
        self
    }

    /// What EHLO offers.
    #[must_use]
    pub(super) fn offers(mut self, offers: &[&str]) -> Self {
        self.offers = offers.iter().map(|&offer| offer.to_owned()).collect();
        self
    }

    /// STARTTLS is offered, with this.
    #[must_use]
    pub(super) fn with_tls(mut self, tls: Arc<ServerConfig>) -> Self {
        self.tls = Some(tls);
        self
    }

    fn acts(&self, command: &str) -> Option<Vec<Act>> {
        let command = command.to_ascii_lowercase();
        let found = self.on.iter().find(|(start, _)| command.starts_with(start));
        found.map(|(_, acts)| acts.clone())
    }
}

/// A message that a sink took.
#[derive(Debug, Clone, Default)]
pub(super) struct Taken {
    /// The MAIL line.
    pub(super) mail: String,
    /// The RCPT lines that were accepted.
    pub(super) rcpts: Vec<String>,
    /// The octets after the 354, or of the chunks, as they came.
    pub(super) wire: Vec<u8>,
    /// The message.
    pub(super) message: Vec<u8>,
    /// It came by BDAT.
    pub(super) chunked: bool,
    /// It came under TLS.
    pub(super) tls: bool,
}

impl Taken {
    /// The message as text.
    #[must_use]
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.message).into_owned()
    }

    /// The rule of the OUT rows: on the wire of DATA no CR and no LF stands alone, and CRLF.CRLF is at
    /// the end only. BDAT counts its octets, and may carry any.
    pub(super) fn check_wire(&self) -> Result<(), Trouble> {
        let text = String::from_utf8_lossy(&self.wire);
        let bare = text.replace("\r\n", "").contains(['\r', '\n']);
        ensure!(self.chunked || !bare, "a bare CR or LF leaves: {text:?}");
        let framed = format!("\r\n{text}");
        let ends = framed.match_indices("\r\n.\r\n").count();
        ensure!(self.chunked || ends == 1, "{ends} ends in {text:?}");
        Ok(())
    }
}

/// What a sink noted.
#[derive(Debug, Clone, Default)]
pub(super) struct Notes {
    /// Messages that were answered with 250.
    pub(super) taken: Vec<Taken>,
    /// Commands, each with whether it came under TLS.
    pub(super) commands: Vec<(String, bool)>,
    /// Connections.
    pub(super) connections: usize,
    /// What the relay did that no client may: a bare CR or LF in a command, octets after the message.
    pub(super) faults: Vec<String>,
}

/// A receiver on a loopback port.
pub(super) struct Sink {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    notes: Mutex<Notes>,
    changed: Condvar,
    script: Mutex<Script>,
    over: Mutex<bool>,
}

impl Sink {
    /// Starts it.
    pub(super) fn start(script: Script) -> Result<Self, Trouble> {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), script)
    }

    /// Starts it at this address.
    pub(super) fn start_at(address: SocketAddr, script: Script) -> Result<Self, Trouble> {
        let listener = TcpListener::bind(address)?;
        let shared = Arc::new(Shared {
            script: Mutex::new(script),
            ..Shared::default()
        });
        let sink = Self {
            address: listener.local_addr()?,
            shared: Arc::clone(&shared),
        };
        thread::Builder::new()
            .name("sink".into())
            .spawn(move || shared.accept(&listener))?;
        Ok(sink)
    }

    /// Where it is.
    #[must_use]
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Behaves so from the next connection on.
    pub(super) fn change(&self, script: Script) {
        *lock(&self.shared.script) = script;
    }

    /// What it noted so far.
    #[must_use]
    pub(super) fn notes(&self) -> Notes {
        lock(&self.shared.notes).clone()
    }

    /// Waits for so many messages, and gives all that it has.
    pub(super) fn wait(&self, count: usize) -> Result<Vec<Taken>, Trouble> {
        let end = Instant::now() + DEADLINE;
        let mut notes = lock(&self.shared.notes);
        while notes.taken.len() < count {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("waited for {count} messages: {notes:?}").into());
            }
            notes = self
                .shared
                .changed
                .wait_timeout(notes, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        Ok(notes.taken.clone())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        *lock(&self.shared.over) = true;
        // Wakes the thread that accepts; if it cannot be reached it is gone already.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming() {
            if *lock(&self.over) {
                return;
            }
            let Ok(stream) = stream else { continue };
            let shared = Arc::clone(self);
            let script = lock(&self.script).clone();
            lock(&self.notes).connections += 1;
            // Without a thread the connection is closed, and the relay tries again.
            let _ = thread::Builder::new().spawn(move || {
                let _ = Receiver::new(stream, script, shared).and_then(Receiver::run);
            });
        }
    }
}

/// One connection of a sink.
struct Receiver {
    stream: Stream,
    script: Script,
    shared: Arc<Shared>,
    /// What came and is not read yet.
    pending: Vec<u8>,
    message: Taken,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

/// Whether the connection goes on.
enum Then {
    GoOn,
    Close,
}

impl Receiver {
    fn new(stream: TcpStream, script: Script, shared: Arc<Shared>) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(Self {
            stream: Stream::Plain(stream),
            script,
            shared,
            pending: Vec::new(),
            message: Taken::default(),
        })
    }

    fn run(mut self) -> io::Result<()> {
        let mut then = self.answer("greeting", "220 mx.server.example ESMTP")?;
        while let Then::GoOn = then {
            let Some(line) = self.line()? else { break };
            let command = String::from_utf8_lossy(&line).into_owned();
            let tls = matches!(self.stream, Stream::Tls(_));
            let mut notes = lock(&self.shared.notes);
            if command.contains(['\r', '\n']) {
                notes.faults.push(format!("in a command: {command:?}"));
            }
            notes.commands.push((command.clone(), tls));
            drop(notes);
            then = self.command(&command)?;
        }
        let socket = match &self.stream {
            Stream::Plain(socket) => socket,
            Stream::Tls(tls) => tls.get_ref(),
        };
        socket.shutdown(Shutdown::Write)
    }

    fn command(&mut self, command: &str) -> io::Result<Then> {
        let verb: String = command
            .chars()
            .take_while(char::is_ascii_alphabetic)
            .collect();
        match verb.to_ascii_uppercase().as_str() {
            "EHLO" => {
                let mut lines = vec!["mx.server.example".to_owned()];
                lines.extend(self.script.offers.iter().cloned());
                if self.script.tls.is_some() && matches!(self.stream, Stream::Plain(_)) {
                    lines.push("STARTTLS".to_owned());
                }
                let last = lines.len() - 1;
                let marked = lines.iter().enumerate();
                let reply: Vec<String> = marked
                    .map(|(at, line)| format!("250{}{line}", if at < last { "-" } else { " " }))
                    .collect();
                self.answer(command, &reply.join("\r\n"))
            }
            "STARTTLS" => {
                let own = self.script.acts(command);
                let usual = [say("220 2.0.0 go on"), vec![Act::Tls]].concat();
                self.act(own.unwrap_or(usual))
            }
            "MAIL" => {
                self.message = Taken {
                    mail: command.to_owned(),
                    ..Taken::default()
                };
                self.answer(command, "250 2.1.0 ok")
            }
            "RCPT" => {
                if self.script.acts(command).is_none() {
                    self.message.rcpts.push(command.to_owned());
                }
                self.answer(command, "250 2.1.5 ok")
            }
            "DATA" => match self.script.acts(command) {
                Some(acts) => self.act(acts),
                None => {
                    self.act(say("354 go on"))?;
                    self.data()
                }
            },
            "BDAT" => self.chunk(command),
            "QUIT" => {
                self.answer(command, "221 2.0.0 bye")?;
                Ok(Then::Close)
            }
            _ => self.answer(command, "250 2.0.0 ok"),
        }
    }

    /// What the script says, or this.
    fn answer(&mut self, command: &str, usual: &str) -> io::Result<Then> {
        let acts = self.script.acts(command).unwrap_or_else(|| say(usual));
        self.act(acts)
    }

    fn act(&mut self, acts: Vec<Act>) -> io::Result<Then> {
        for act in acts {
            match act {
                Act::Say(bytes) => self.stream.write_all(&bytes)?,
                Act::Flood(bytes) => loop {
                    self.stream.write_all(&bytes)?;
                },
                Act::Tls => self.start_tls()?,
                Act::Close => return Ok(Then::Close),
            }
        }
        Ok(Then::GoOn)
    }

    fn start_tls(&mut self) -> io::Result<()> {
        let Some(config) = self.script.tls.clone() else {
            return Err(io::Error::other("no TLS in the script"));
        };
        let Stream::Plain(socket) = &self.stream else {
            return Err(io::Error::other("TLS is up"));
        };
        if !self.pending.is_empty() {
            let mut notes = lock(&self.shared.notes);
            notes.faults.push("clear text after STARTTLS".into());
        }
        let mut tls = ServerConnection::new(config).map_err(io::Error::other)?;
        let mut socket = socket.try_clone()?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        self.stream = Stream::Tls(Box::new(StreamOwned::new(tls, socket)));
        Ok(())
    }

    /// Reads up to the end of the message.
    fn data(&mut self) -> io::Result<Then> {
        // The CRLF of DATA counts as the first one.
        let mut framed = b"\r\n".to_vec();
        loop {
            let from = framed.len().saturating_sub(END.len() - 1);
            framed.append(&mut self.pending);
            let mut windows = framed[from..].windows(END.len());
            if let Some(at) = windows.position(|window| window == END) {
                let end = from + at + END.len();
                self.pending = framed.split_off(end);
                let wire = framed[2..].to_vec();
                let message = unstuffed(&wire[..wire.len() - 3]);
                return self.take(wire, message, false);
            }
            if !self.fill()? {
                return Ok(Then::Close);
            }
        }
    }

    fn chunk(&mut self, command: &str) -> io::Result<Then> {
        let mut words = command.split(' ').skip(1);
        let size: usize = words
            .next()
            .and_then(|size| size.parse().ok())
            .ok_or_else(|| io::Error::other("BDAT without a size"))?;
        let last = words.next().is_some();
        while self.pending.len() < size {
            if !self.fill()? {
                return Ok(Then::Close);
            }
        }
        let chunk: Vec<u8> = self.pending.drain(..size).collect();
        let whole = [std::mem::take(&mut self.message.message), chunk].concat();
        if last {
            return self.take(whole.clone(), whole, true);
        }
        self.message.message = whole;
        self.answer("chunk", "250 2.0.0 ok")
    }

    fn take(&mut self, wire: Vec<u8>, message: Vec<u8>, chunked: bool) -> io::Result<Then> {
        let taken = Taken {
            wire,
            message,
            chunked,
            tls: matches!(self.stream, Stream::Tls(_)),
            ..std::mem::take(&mut self.message)
        };
        if let Some(acts) = self.script.acts(".") {
            return self.act(acts);
        }
        let mut notes = lock(&self.shared.notes);
        notes.taken.push(taken);
        drop(notes);
        self.shared.changed.notify_all();
        self.act(say("250 2.0.0 taken"))
    }

    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.pending.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.pending.drain(..end + 2).take(end).collect();
                return Ok(Some(line));
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// Reads more; false at the end.
    fn fill(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 16 * 1024];
        let length = match &mut self.stream {
            Stream::Plain(socket) => socket.read(&mut buffer),
            Stream::Tls(tls) => tls.read(&mut buffer),
        }?;
        self.pending.extend_from_slice(&buffer[..length]);
        Ok(length > 0)
    }
}

impl Stream {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.write_all(bytes),
            Self::Tls(tls) => {
                tls.write_all(bytes)?;
                tls.flush()
            }
        }
    }
}

/// Undoes RFC 5321 §4.5.2.
fn unstuffed(wire: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(wire.len());
    let mut at_start = true;
    for &byte in wire {
        if !(at_start && byte == b'.') {
            message.push(byte);
        }
        at_start = message.ends_with(b"\r\n") && byte == b'\n';
    }
    message
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
