//! A receiver in this process that takes everything, or hangs.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use smtp_proto::server::{Config, Connection, Event, Progress};

/// It ends when it is dropped.
pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// The final dot is not answered.
    hangs: AtomicBool,
    /// Connections whose final dot waits.
    hanging: AtomicBool,
    messages: Mutex<Vec<Vec<u8>>>,
}

impl Receiver {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        let accepting = std::thread::spawn(move || {
            let mut connections = Vec::new();
            while !own.stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let own = Arc::clone(&own);
                        connections.push(std::thread::spawn(move || receive(stream, &own)));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
            connections.into_iter().for_each(|c| c.join().unwrap());
        });
        Self {
            address,
            shared,
            accepting: Some(accepting),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on the final dot gets no answer; or it gets one again.
    pub fn hang(&self, hangs: bool) {
        self.shared.hangs.store(hangs, Ordering::Relaxed);
    }

    /// Whether a delivery waits for the answer to its final dot.
    pub fn is_hanging(&self) -> bool {
        self.shared.hanging.load(Ordering::Relaxed)
    }

    pub fn count(&self) -> usize {
        self.shared.messages.lock().unwrap().len()
    }

    pub fn messages(&self) -> Vec<Vec<u8>> {
        self.shared.messages.lock().unwrap().clone()
    }

    /// Whether some message has this in it.
    pub fn has(&self, text: &str) -> bool {
        let found = |message: &Vec<u8>| String::from_utf8_lossy(message).contains(text);
        self.messages().iter().any(found)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let ended = self.accepting.take().unwrap().join();
        if !std::thread::panicking() {
            ended.unwrap();
        }
    }
}

fn receive(mut stream: TcpStream, shared: &Shared) {
    stream.set_nonblocking(false).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    let config = Arc::new(Config::new("mx.example.net".parse().unwrap()));
    let (mut wire, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
    let mut body = Vec::new();
    let mut smtp = Connection::new(&config, &mut wire);
    while !smtp.is_closed() && !shared.stop.load(Ordering::Relaxed) {
        if stream.write_all(&wire).is_err() {
            return;
        }
        wire.clear();
        let len = match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(len) => len,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => return,
        };
        let mut input = &buffer[..len];
        while let Ok(Progress::Event { used, event }) = smtp.receive(input, &mut wire) {
            input = &input[used..];
            match event {
                Event::Body(octets) => {
                    body.extend_from_slice(octets);
                    continue;
                }
                Event::Reset | Event::BodyRefused(_) | Event::Quit => continue,
                Event::BodyEnd => {
                    while shared.hangs.load(Ordering::Relaxed)
                        && !shared.stop.load(Ordering::Relaxed)
                    {
                        shared.hanging.store(true, Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    shared.hanging.store(false, Ordering::Relaxed);
                    let message = std::mem::take(&mut body);
                    shared.messages.lock().unwrap().push(message);
                }
                Event::Hello(_)
                | Event::StartTls
                | Event::Auth(_)
                | Event::XClient(_)
                | Event::Mail(_)
                | Event::Rcpt(_)
                | Event::Data { .. } => {}
            }
            smtp.accept("", &mut wire).unwrap();
        }
    }
    let _ = stream.write_all(&wire);
}
