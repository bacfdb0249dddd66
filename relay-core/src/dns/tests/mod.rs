//! The resolver against servers that answer, fail, forge and lie. Rows of the attack catalogue by id.

mod answers;
mod forged;
mod secure;

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::Message;

use super::zone::Zone;
use super::{Event, Lookup, Query, Resolver, Step, Transport};
use crate::config::{DnsConfig, IpFamilies};
use crate::rng::Rng;
use crate::time::{Instant, Now, UnixTime};

/// What a server does with a message.
enum Reply {
    Bytes(Vec<u8>),
    From(&'static str, Vec<u8>),
    Timeout,
    Failed(std::io::ErrorKind),
}

/// What was asked of the network.
#[derive(Debug, Clone)]
struct Asked {
    transport: Transport,
    server: SocketAddr,
    message: Message,
}

/// A resolver in a world of its own, with virtual time.
struct World {
    resolver: Resolver,
    now: Duration,
    asked: Vec<Asked>,
}

const SERVERS: [&str; 2] = ["192.0.2.53:53", "[2001:db8::53]:53"];

impl World {
    fn new() -> Self {
        Self::with(false, IpFamilies::Both)
    }

    fn with(trust_ad: bool, families: IpFamilies) -> Self {
        let resolver = Resolver::new(&config(trust_ad), families, Rng::from_number(7));
        Self {
            resolver,
            now: Duration::from_secs(100),
            asked: Vec::new(),
        }
    }

    fn now(&self) -> Now {
        Now {
            instant: Instant::from_origin(self.now),
            unix: UnixTime::default(),
        }
    }

    /// Runs a lookup against `serve`, which gives all that comes back for one message as it was sent.
    fn run<T>(
        &mut self,
        query: Query<T>,
        mut serve: impl FnMut(&Asked, &[u8]) -> Vec<Reply>,
    ) -> Result<T, super::DnsFailure> {
        let begun = self.now;
        let mut lookup = self.resolver.begin(self.now(), query);
        let mut replies = Vec::new().into_iter();
        let mut server: Option<SocketAddr> = None;
        for _ in 0..100_000 {
            match lookup.poll() {
                Step::Done => {
                    assert!(
                        self.now - begun <= super::LOOKUP_MAX,
                        "it took {:?}",
                        self.now - begun
                    );
                    let now = self.now();
                    return self.resolver.finish(now, lookup);
                }
                Step::Exchange {
                    transport,
                    server: to,
                    message,
                    until,
                } => {
                    let bare = if transport == Transport::Tcp {
                        &message[2..]
                    } else {
                        &message[..]
                    };
                    let asked = Asked {
                        transport,
                        server: to,
                        message: Message::from_vec(bare).unwrap(),
                    };
                    server = Some(to);
                    replies = serve(&asked, &message).into_iter();
                    self.asked.push(asked);
                    self.answer(&mut lookup, to, until, replies.next());
                }
                Step::Listen { until } => {
                    self.answer(&mut lookup, server.unwrap(), until, replies.next());
                }
            }
        }
        panic!("the lookup does not end");
    }

    fn answer<T>(
        &mut self,
        lookup: &mut Lookup<T>,
        server: SocketAddr,
        until: Instant,
        reply: Option<Reply>,
    ) {
        self.now += Duration::from_millis(1);
        match reply {
            Some(Reply::Bytes(bytes)) => {
                lookup.handle(
                    self.now(),
                    Event::Received {
                        from: server,
                        bytes: &bytes,
                    },
                );
            }
            Some(Reply::From(from, bytes)) => {
                let from = from.parse().unwrap();
                lookup.handle(
                    self.now(),
                    Event::Received {
                        from,
                        bytes: &bytes,
                    },
                );
            }
            Some(Reply::Failed(kind)) => lookup.handle(self.now(), Event::Failed(kind)),
            Some(Reply::Timeout) | None => {
                self.now = self.now.max(until.since_origin());
                lookup.handle(self.now(), Event::Timeout);
            }
        }
    }

    /// Runs a lookup against a zone.
    fn zone<T>(&mut self, zone: &Zone, query: Query<T>) -> Result<T, super::DnsFailure> {
        self.run(query, serve(zone))
    }
}

fn config(trust_ad: bool) -> DnsConfig {
    DnsConfig {
        servers: SERVERS.iter().map(|s| s.parse().unwrap()).collect(),
        trust_ad,
    }
}

fn serve(zone: &Zone) -> impl FnMut(&Asked, &[u8]) -> Vec<Reply> {
    |asked, message| match zone.answer(message, asked.transport) {
        Some(answer) => vec![Reply::Bytes(answer)],
        None => vec![Reply::Timeout],
    }
}

fn framed(transport: Transport, message: Vec<u8>) -> Vec<u8> {
    match transport {
        Transport::Udp => message,
        Transport::Tcp => {
            let length = u16::try_from(message.len()).unwrap();
            [length.to_be_bytes().to_vec(), message].concat()
        }
    }
}
