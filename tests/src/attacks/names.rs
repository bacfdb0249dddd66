//! A resolver on loopback that answers from a zone, and notes what it is asked.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use relay_core::dns::{Transport, zone::Zone};

use super::Trouble;

/// The resolver. It ends when this is dropped.
pub(super) struct Names {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    over: AtomicBool,
    asked: Mutex<Vec<String>>,
}

impl Names {
    /// Starts it.
    pub(super) fn start(zone: Zone) -> Result<Self, Trouble> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let names = Self {
            address: socket.local_addr()?,
            shared: Arc::default(),
        };
        let shared = Arc::clone(&names.shared);
        thread::Builder::new().spawn(move || {
            let mut query = [0; 512];
            while !shared.over.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut query) else {
                    continue;
                };
                let query = &query[..length];
                shared.note(query);
                if let Some(answer) = zone.answer(query, Transport::Udp) {
                    // One that is lost is asked for again.
                    let _ = socket.send_to(&answer, from);
                }
            }
        })?;
        Ok(names)
    }

    /// Where it is.
    #[must_use]
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often it was asked about this name.
    #[must_use]
    pub(super) fn asked(&self, name: &str) -> usize {
        let asked = self.shared.asked.lock();
        let asked = asked.unwrap_or_else(PoisonError::into_inner);
        asked.iter().filter(|other| *other == name).count()
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    /// Notes the name of a question. RFC 1035 §4.1.2: labels, each with its length, after the header.
    fn note(&self, query: &[u8]) {
        let mut labels = Vec::new();
        let mut rest = query.get(12..).unwrap_or_default();
        while let Some((&length, tail)) = rest.split_first()
            && length > 0
            && tail.len() >= usize::from(length)
        {
            let (label, tail) = tail.split_at(length.into());
            labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
            rest = tail;
        }
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.push(labels.join("."));
    }
}
