//! A client that says what it is told to and hears whole replies.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use relay_core::channel::{Channel, ClientTls, Verify};
use relay_core::time::UnixTime;

use super::{DEADLINE, HOSTNAME, SECRET};

/// One connection.
pub struct Client {
    stream: TcpStream,
    channel: Channel,
    heard: Vec<u8>,
}

impl Client {
    pub fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&to, DEADLINE).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            channel: Channel::plain(),
            heard: Vec::new(),
        }
    }

    /// Connects and does the handshake at once.
    pub fn connect_tls(to: SocketAddr) -> Self {
        let mut client = Self::connect(to);
        client.start_tls();
        client
    }

    /// The handshake; what the certificate proves is not asked.
    pub fn start_tls(&mut self) {
        let tls = ClientTls::new(Vec::new()).unwrap();
        let now = UnixTime::from_secs(1_800_000_000);
        self.channel
            .start_client(&tls, Verify::Record, HOSTNAME, now)
            .unwrap();
        while self.channel.handshaking() {
            let mut wire = Vec::new();
            self.channel.flush(&mut wire);
            self.stream.write_all(&wire).unwrap();
            if self.channel.handshaking() {
                assert!(self.read(), "closed in the handshake");
            }
        }
        self.send(b"");
    }

    /// The certificate that the relay showed.
    pub fn certificate(&self) -> Vec<u8> {
        self.channel.peer_chain().unwrap()[0].to_vec()
    }

    /// Sends octets as they are.
    pub fn send(&mut self, octets: &[u8]) {
        let mut wire = Vec::new();
        self.channel.send(octets, &mut wire);
        self.channel.flush(&mut wire);
        self.stream.write_all(&wire).unwrap();
    }

    /// Sends a line and hears its reply.
    pub fn say(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n").as_bytes());
        self.reply()
    }

    /// Says what must be answered so.
    pub fn expect(&mut self, line: &str, reply: &str) -> String {
        let said = self.say(line);
        assert!(said.starts_with(reply), "{line}: {said}");
        said
    }

    /// The next whole reply, lines joined by LF; empty at the end of the connection.
    pub fn reply(&mut self) -> String {
        let mut over = false;
        loop {
            let text = String::from_utf8_lossy(&self.heard).into_owned();
            let mut len = 0;
            for line in text.split_inclusive("\r\n") {
                len += line.len();
                let last = line.as_bytes().get(3) != Some(&b'-');
                if line.ends_with("\r\n") && last {
                    self.heard.drain(..len);
                    return text[..len].trim_end().replace("\r\n", "\n");
                }
            }
            if over {
                return text;
            }
            over = !self.read();
        }
    }

    /// Reads once; false at the end.
    fn read(&mut self) -> bool {
        let mut buffer = vec![0; 16 * 1024];
        let len = match self.stream.read(&mut buffer) {
            Ok(len) => len,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => 0,
            Err(error) => panic!("nothing came: {error}"),
        };
        let mut scratch = Vec::new();
        let text = self.channel.receive(&buffer[..len], &mut scratch).unwrap();
        self.heard.extend_from_slice(text);
        len > 0 && !self.channel.peer_closed()
    }

    /// Greeting and EHLO.
    pub fn hello(&mut self) -> String {
        assert!(self.reply().starts_with("220 "));
        self.expect("EHLO client.example", "250-")
    }

    /// The AUTH PLAIN line of a name and a password.
    pub fn plain(name: &str, password: &str) -> String {
        let secret = BASE64.encode(format!("\0{name}\0{password}"));
        format!("AUTH PLAIN {secret}")
    }

    /// Logs in as `app`.
    pub fn log_in(&mut self) {
        self.expect(&Self::plain("app", SECRET), "235 2.7.0");
    }

    /// Submits a message in lockstep; its id.
    pub fn submit(&mut self, subject: &str) -> String {
        self.expect("MAIL FROM:<a@example.com>", "250 ");
        self.expect("RCPT TO:<b@example.net>", "250 ");
        self.expect("DATA", "354 ");
        let text = format!("From: a@example.com\r\nSubject: {subject}\r\n\r\nx\r\n.");
        let reply = self.expect(&text, "250 2.0.0 Ok: queued as ");
        reply.rsplit(' ').next().unwrap().to_owned()
    }
}
