//! Names: a stub resolver as a machine of datagrams, its cache, and the answers that delivery needs.
//!
//! ```text
//!  Resolver::begin(now, Query) ─▶ Lookup ─▶ poll ─▶ Step::Exchange ─▶ (a socket of the runtime)
//!        ▲                          ▲                 Step::Listen             │
//!        │ cache                    └────────── handle(now, Event) ◀───────────┘
//!        └── Resolver::finish(now, Lookup) ◀─ Step::Done
//! ```
//!
//! The loop that drives a lookup, in full (the resolver is behind the runtime's lock, which is held for
//! `begin` and `finish` only):
//!
//! 1. `let mut lookup = resolver.begin(now, Query::mx("example.com"))`
//! 2. [`Lookup::poll`]. On [`Step::Done`]: `resolver.finish(now, lookup)` is the answer.
//! 3. On [`Step::Exchange`]: open a fresh UDP or TCP socket, connect it to the server, write the message.
//!    On [`Step::Listen`]: keep the socket.
//! 4. Read from it until the deadline; hand in [`Event::Received`], [`Event::Timeout`] or
//!    [`Event::Failed`] by [`Lookup::handle`]; go to 2.
//!
//! Here a [`zone::Zone`] stands for the network:
//!
//! ```
//! use relay_core::config::{DnsConfig, IpFamilies};
//! use relay_core::dns::{Event, Query, Resolver, Step, zone::Zone};
//! use relay_core::rng::Rng;
//! use relay_core::time::{Instant, Now, UnixTime};
//!
//! let now = Now { instant: Instant::default(), unix: UnixTime::default() };
//! let zone = Zone::new().mx("example.com", 10, "mx.example.com");
//! let config = DnsConfig { servers: vec!["192.0.2.53:53".parse()?], trust_ad: false };
//! let mut resolver = Resolver::new(&config, IpFamilies::Both, Rng::from_number(1));
//!
//! let mut lookup = resolver.begin(now, Query::mx("example.com"));
//! loop {
//!     match lookup.poll() {
//!         Step::Exchange { transport, server, message, .. } => match zone.answer(&message, transport) {
//!             Some(bytes) => lookup.handle(now, Event::Received { from: server, bytes: &bytes }),
//!             None => lookup.handle(now, Event::Timeout),
//!         },
//!         Step::Listen { .. } => lookup.handle(now, Event::Timeout),
//!         Step::Done => break,
//!     }
//! }
//! let found = resolver.finish(now, lookup).expect("the zone has it");
//! assert_eq!(found.hosts[0].host, "mx.example.com");
//! # Ok::<(), std::net::AddrParseError>(())
//! ```
//!
//! Only DNS is asked: no hosts file and no search list. `localhost` is known (RFC 6761 §6.3).
//!
//! RFC 5321 §5.1 (mail exchangers), RFC 7505 (null MX), RFC 1034 and 1035, RFC 2308 (negative answers),
//! RFC 5452 (forged answers), RFC 6891 (EDNS), RFC 7766 (TCP), RFC 6840 §5.7 (the AD bit).

mod cache;
mod lookup;
mod name;
mod plain;
mod query;
mod records;
mod step;
#[cfg(test)]
mod tests;
mod tlsa;
pub mod zone;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

pub use lookup::{LOOKUP_MAX, Lookup};
pub use name::reverse as reverse_name;
pub use plain::{Question, Records};
pub use query::Query;
pub use step::{Event, Step, Transport};
pub use tlsa::{Alias, AliasAnswer, Tlsa, TlsaAnswer, TlsaSet};

use crate::config::{DnsConfig, IpFamilies};
use crate::rng::Rng;
use crate::time::Now;
use cache::{Cache, Found, RecordSet};
use lookup::{Search, Slot, Start};
use records::{Data, RecordKind};

/// The most mail exchangers of a domain that are kept: the best.
pub const HOSTS_MAX: usize = records::KEPT_MAX;
/// The most addresses of a host that are kept.
pub const ADDRESSES_MAX: usize = records::KEPT_MAX;
/// What a runtime's buffer for a datagram has room for: more than the 1,232 octets that are offered.
pub const DATAGRAM_MAX: usize = 4096;
/// The most answers that are cached.
const CACHE_ENTRIES_MAX: usize = 20_000;
/// About the most octets of memory that the cache takes.
const CACHE_SIZE_MAX: usize = 8 * 1024 * 1024;

/// One mail exchanger.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mx {
    /// Lower is tried first.
    pub preference: u16,
    /// The host's name, in A-labels, lower case, without the last dot.
    pub host: String,
}

/// The mail exchangers of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MxSet {
    /// By preference, then by name. Never empty; at most [`HOSTS_MAX`], the best; no host twice.
    pub hosts: Vec<Mx>,
    /// The domain has no MX record, and stands for itself. RFC 5321 §5.1.
    pub implicit: bool,
    /// Every answer on the way had the AD bit, from a resolver that the configuration trusts.
    pub authentic: bool,
}

/// The addresses of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// In the order of the answer, AAAA before A, as the configuration allows. Never empty; at most
    /// [`ADDRESSES_MAX`].
    pub addresses: Vec<IpAddr>,
    /// As in [`MxSet::authentic`].
    pub authentic: bool,
    /// The name after CNAMEs, if it was one.
    pub canonical: Option<String>,
}

/// TXT records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Texts {
    /// The strings of each record, joined. Never empty.
    pub texts: Vec<Vec<u8>>,
    /// As in [`MxSet::authentic`].
    pub authentic: bool,
}

/// The names of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Lower case, without the last dot. Never empty.
    pub names: Vec<String>,
    /// As in [`MxSet::authentic`].
    pub authentic: bool,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DnsFailure {
    /// NXDOMAIN: the name does not exist. 5.1.2.
    NoSuchDomain,
    /// The name exists and has no record of this kind.
    NoRecord,
    /// `MX 0 .`: the domain takes no mail. RFC 7505; 5.1.10.
    NullMx,
    /// The name cannot be asked for (too long, bad label, bad U-label), its CNAMEs loop, or all that it
    /// names is no name. Permanent.
    BadName(String),
    /// SERVFAIL, REFUSED, no answer in time, nonsense: try later. The text names server and reason.
    Temporary(String),
}

/// The answer to the search for mail exchangers.
pub type MxAnswer = Result<MxSet, DnsFailure>;

/// The answer to the search for a host's addresses.
pub type AddressAnswer = Result<Addresses, DnsFailure>;

/// The resolver: which servers are asked, and what was found before. A runtime owns one.
#[derive(Debug)]
pub struct Resolver {
    servers: Arc<[SocketAddr]>,
    trust_ad: bool,
    families: IpFamilies,
    rng: Rng,
    cache: Cache,
    /// The server that answered last is asked first: one that is down costs its timeout once.
    first: usize,
}

impl Resolver {
    /// A resolver with an empty cache.
    #[must_use]
    pub fn new(config: &DnsConfig, families: IpFamilies, rng: Rng) -> Self {
        Self {
            servers: config.servers.as_slice().into(),
            trust_ad: config.trust_ad,
            families,
            rng,
            cache: Cache::new(CACHE_ENTRIES_MAX, CACHE_SIZE_MAX),
            first: 0,
        }
    }

    /// Takes a new configuration. If it differs, what other servers said is forgotten.
    pub fn reconfigure(&mut self, config: &DnsConfig, families: IpFamilies) {
        self.families = families;
        if *self.servers != *config.servers || self.trust_ad != config.trust_ad {
            self.servers = config.servers.as_slice().into();
            self.trust_ad = config.trust_ad;
            self.cache.clear();
            self.first = 0;
        }
    }

    /// Begins a lookup. If all of it is known, its first step is [`Step::Done`].
    pub fn begin<T>(&mut self, now: Now, query: Query<T>) -> Lookup<T> {
        let kinds = query.asks.kinds(self.families);
        let slots = match query.name {
            Ok(name) => kinds
                .iter()
                .map(|&kind| self.slot(now, &name, kind))
                .collect(),
            Err(why) => {
                let answer = Err(DnsFailure::BadName(why));
                let found = Some(Found { answer, ttl: None });
                vec![Slot {
                    name: "".into(),
                    kind: kinds[0],
                    found,
                    known: true,
                }]
            }
        };
        let start = Start {
            slots,
            servers: Arc::clone(&self.servers),
            first: self.first,
            trust_ad: self.trust_ad,
            rng: self.rng.fork(),
        };
        Lookup {
            search: Search::new(start, now.instant),
            read: query.read,
        }
    }

    fn slot(&self, now: Now, name: &Arc<str>, kind: RecordKind) -> Slot {
        let found = known(name, kind).or_else(|| self.cache.get(now.instant, name, kind));
        Slot {
            name: Arc::clone(name),
            kind,
            known: found.is_some(),
            found,
        }
    }

    /// Ends a lookup that is [`Step::Done`], and keeps what it found.
    ///
    /// # Errors
    /// Why there is no answer. A lookup that was not done yet has [`DnsFailure::Temporary`].
    pub fn finish<T>(&mut self, now: Now, lookup: Lookup<T>) -> Result<T, DnsFailure> {
        let search = lookup.search;
        let same_servers = search.asks_servers(&self.servers);
        if let Some(server) = search.answered_by.filter(|_| same_servers) {
            self.first = server;
        }
        let mut name: Arc<str> = "".into();
        let mut all = Vec::with_capacity(search.slots.len());
        for slot in search.slots {
            let Some(found) = slot.found else {
                return Err(DnsFailure::Temporary("the lookup was given up".into()));
            };
            if !slot.known && same_servers {
                self.cache
                    .insert(now.instant, &slot.name, slot.kind, found.clone());
            }
            name = slot.name;
            all.push(found.answer);
        }
        (lookup.read)(&name, all)
    }
}

/// What is known without asking: an address stands for itself, and so does this host.
fn known(name: &str, kind: RecordKind) -> Option<Found> {
    let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let addresses = match name.parse::<IpAddr>() {
        Ok(ip) => vec![ip],
        Err(_) if name::is_localhost(name) => loopback.to_vec(),
        Err(_) => return None,
    };
    let data = match kind {
        RecordKind::A => addresses
            .into_iter()
            .filter(IpAddr::is_ipv4)
            .map(Data::Address)
            .collect(),
        RecordKind::Aaaa => addresses
            .into_iter()
            .filter(IpAddr::is_ipv6)
            .map(Data::Address)
            .collect(),
        RecordKind::Mx | RecordKind::Txt | RecordKind::Ptr => return None,
        RecordKind::Tlsa | RecordKind::Cname => return None,
    };
    let answer = Ok(RecordSet {
        data,
        authentic: false,
        canonical: None,
    });
    Some(Found { answer, ttl: None })
}

/// What the questions of a lookup found, in the order of [`query::Asks::kinds`].
type AllFound = Vec<Result<RecordSet, DnsFailure>>;

/// The one record set of a lookup that asks one question, if it has records.
fn single(found: AllFound) -> Result<RecordSet, DnsFailure> {
    let set = found
        .into_iter()
        .next()
        .unwrap_or(Err(DnsFailure::NoRecord))?;
    if set.data.is_empty() {
        Err(DnsFailure::NoRecord)
    } else {
        Ok(set)
    }
}

impl MxSet {
    fn read(domain: &str, found: AllFound) -> Result<Self, DnsFailure> {
        let set = found
            .into_iter()
            .next()
            .unwrap_or(Err(DnsFailure::NoRecord))?;
        let authentic = set.authentic;
        if set.data.is_empty() {
            // RFC 5321 §5.1: "If an empty list of MXs is returned, the address is treated as if it
            // was associated with an implicit MX RR, with a preference of 0, pointing to that host."
            let hosts = vec![Mx {
                preference: 0,
                host: domain.into(),
            }];
            return Ok(Self {
                hosts,
                implicit: true,
                authentic,
            });
        }
        let is_null = |data: &Data| matches!(data, Data::Mx(_, host) if host == ".");
        // RFC 7505 §3: it is null only if there is no other; beside others the root is no host.
        if set.data.iter().all(is_null) {
            return Err(DnsFailure::NullMx);
        }
        let mut hosts: Vec<Mx> = Vec::new();
        let mut refused = String::new();
        for data in set.data {
            let Data::Mx(preference, host) = data else {
                continue;
            };
            if let Err(why) = name::check(&host) {
                tracing::debug!(domain, host, why, "MX ignored");
                refused = format!("its MX \"{}\" is no host: {why}", shorten(&host));
            } else if hosts.iter().all(|mx| mx.host != host) {
                hosts.push(Mx { preference, host });
            }
        }
        if hosts.is_empty() {
            return Err(DnsFailure::BadName(refused));
        }
        hosts.sort();
        Ok(Self {
            hosts,
            implicit: false,
            authentic,
        })
    }
}

fn shorten(text: &str) -> &str {
    text.get(..80).unwrap_or(text)
}

impl Addresses {
    fn read(_: &str, found: AllFound) -> Result<Self, DnsFailure> {
        let mut addresses = Vec::new();
        let mut authentic = true;
        let mut canonical = None;
        let mut failure = DnsFailure::NoRecord;
        for set in found {
            match set {
                Ok(set) if set.data.is_empty() => {}
                Ok(set) => {
                    authentic &= set.authentic;
                    canonical = canonical.or(set.canonical);
                    addresses.extend(set.data.into_iter().filter_map(|data| match data {
                        Data::Address(ip) => Some(ip),
                        Data::Mx(..) | Data::Text(_) | Data::Name(_) | Data::Tlsa(_) => None,
                    }));
                }
                // A temporary failure may hide addresses; a denial of the other family does not.
                Err(why) if matches!(failure, DnsFailure::Temporary(_)) => drop(why),
                Err(why) => failure = why,
            }
        }
        if addresses.is_empty() {
            return Err(failure);
        }
        Ok(Self {
            addresses: share(addresses),
            authentic,
            canonical,
        })
    }
}

/// AAAA before A, with room for both families if there are too many.
fn share(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let (mut v6, mut v4): (Vec<_>, Vec<_>) = addresses.into_iter().partition(IpAddr::is_ipv6);
    v6.truncate(
        ADDRESSES_MAX
            .saturating_sub(v4.len())
            .max(ADDRESSES_MAX / 2),
    );
    v4.truncate(ADDRESSES_MAX - v6.len());
    v6.append(&mut v4);
    v6
}

impl Texts {
    fn read(_: &str, found: AllFound) -> Result<Self, DnsFailure> {
        let RecordSet {
            data, authentic, ..
        } = single(found)?;
        let texts = data.into_iter().filter_map(|data| match data {
            Data::Text(text) => Some(text),
            Data::Address(_) | Data::Mx(..) | Data::Name(_) | Data::Tlsa(_) => None,
        });
        Ok(Self {
            texts: texts.collect(),
            authentic,
        })
    }
}

impl Names {
    fn read(_: &str, found: AllFound) -> Result<Self, DnsFailure> {
        let RecordSet {
            data, authentic, ..
        } = single(found)?;
        let names = data.into_iter().filter_map(|data| match data {
            Data::Name(name) => Some(name),
            Data::Address(_) | Data::Mx(..) | Data::Text(_) | Data::Tlsa(_) => None,
        });
        Ok(Self {
            names: names.collect(),
            authentic,
        })
    }
}
