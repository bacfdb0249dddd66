//! Questions: what is asked, and the message that asks it.
//!
//! Each message has a fresh random id, and the letters of the name in random case ("0x20"): with the
//! random port of a fresh socket, that is what an answer must match to be believed (RFC 5452 §9).

use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as WireQuery};
use hickory_proto::rr::Name;

use super::cache::RecordSet;
use super::records::RecordKind;
use super::{Addresses, Alias, DnsFailure, MxSet, Names, Texts, TlsaSet, name};
use crate::config::IpFamilies;
use crate::rng::Rng;

/// The longest chain of CNAMEs that is followed.
pub(super) const CNAMES_MAX: usize = 8;

/// The UDP payload that is offered: it fits into one unfragmented packet on any path in practice.
const EDNS_PAYLOAD: u16 = 1232;

/// A question whose answer is a `T`.
#[derive(Debug, Clone)]
pub struct Query<T> {
    pub(super) name: Result<Arc<str>, String>,
    pub(super) asks: Asks,
    /// Makes the answer of what was found at the name.
    pub(super) read: Read<T>,
}

pub(super) type Read<T> = fn(&str, Vec<Result<RecordSet, DnsFailure>>) -> Result<T, DnsFailure>;

/// Which records a query needs.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asks {
    One(RecordKind),
    Addresses,
}

impl Asks {
    /// A comes first: servers that answer NXDOMAIN where only AAAA is missing exist (RFC 4074 §4.2).
    pub(super) fn kinds(self, families: IpFamilies) -> &'static [RecordKind] {
        match (self, families) {
            (Self::Addresses, IpFamilies::Ipv4) => &[RecordKind::A],
            (Self::Addresses, IpFamilies::Ipv6) => &[RecordKind::Aaaa],
            (Self::Addresses, IpFamilies::Both) => &[RecordKind::A, RecordKind::Aaaa],
            (Self::One(RecordKind::A), _) => &[RecordKind::A],
            (Self::One(RecordKind::Aaaa), _) => &[RecordKind::Aaaa],
            (Self::One(RecordKind::Mx), _) => &[RecordKind::Mx],
            (Self::One(RecordKind::Txt), _) => &[RecordKind::Txt],
            (Self::One(RecordKind::Ptr), _) => &[RecordKind::Ptr],
            (Self::One(RecordKind::Tlsa), _) => &[RecordKind::Tlsa],
            (Self::One(RecordKind::Cname), _) => &[RecordKind::Cname],
        }
    }
}

impl<T> Query<T> {
    fn new(text: &str, asks: Asks, read: Read<T>) -> Self {
        let name = name::to_query_name(text).map(Arc::from).map_err(|why| {
            let shown: String = text.chars().take(80).flat_map(char::escape_debug).collect();
            format!("\"{shown}\" is not a domain name: {why}")
        });
        Self { name, asks, read }
    }
}

impl Query<MxSet> {
    /// Which hosts take mail for a domain. It may be written with U-labels.
    #[must_use]
    pub fn mx(domain: &str) -> Self {
        Self::new(domain, Asks::One(RecordKind::Mx), MxSet::read)
    }
}

impl Query<Addresses> {
    /// The addresses of a host, of the families that the configuration allows. An address stands for
    /// itself, and `localhost` for this host (RFC 6761 §6.3); neither is asked for.
    #[must_use]
    pub fn addresses(host: &str) -> Self {
        match host.parse::<IpAddr>() {
            Ok(ip) => Self {
                name: Ok(ip.to_string().into()),
                asks: Asks::Addresses,
                read: Addresses::read,
            },
            Err(_) => Self::new(host, Asks::Addresses, Addresses::read),
        }
    }
}

impl Query<Texts> {
    /// The TXT records of a name.
    #[must_use]
    pub fn txt(name: &str) -> Self {
        Self::new(name, Asks::One(RecordKind::Txt), Texts::read)
    }
}

impl Query<Names> {
    /// The names of an address.
    #[must_use]
    pub fn ptr(ip: IpAddr) -> Self {
        Self::new(&name::reverse(ip), Asks::One(RecordKind::Ptr), Names::read)
    }
}

impl Query<TlsaSet> {
    /// What DANE says of the certificate of a host on a TCP port. RFC 6698 §3.
    #[must_use]
    pub fn tlsa(host: &str, port: u16) -> Self {
        Self::new(
            &format!("_{port}._tcp.{host}"),
            Asks::One(RecordKind::Tlsa),
            TlsaSet::read,
        )
    }
}

impl Query<Alias> {
    /// What a name is an alias of: the first step only, so that it is known whether that one is signed where
    /// what it leads to is not. RFC 7672 §2.2.2.
    #[must_use]
    pub fn alias(name: &str) -> Self {
        Self::new(name, Asks::One(RecordKind::Cname), Alias::read)
    }
}

/// A question as it was sent: what its answer must match.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) id: u16,
    /// With its letters in the case that was sent.
    pub(super) name: Name,
    pub(super) kind: RecordKind,
    pub(super) edns: bool,
    /// The answer must spell the name as it was sent.
    pub(super) exact_case: bool,
}

/// How a question is put to one server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    /// With an OPT record. RFC 6891.
    pub(super) edns: bool,
    /// With the AD bit: "please say whether you validated it". RFC 6840 §5.7.
    pub(super) ask_ad: bool,
    /// The answer must spell the name as it was sent: over UDP, against guesses.
    pub(super) exact_case: bool,
}

/// Writes the message that asks for `kind` at `name`.
pub(super) fn write(
    name: &Name,
    kind: RecordKind,
    manner: Manner,
    rng: &mut Rng,
) -> Option<(Sent, Vec<u8>)> {
    let mut id = [0; 2];
    rng.fill(&mut id);
    let id = u16::from_be_bytes(id);
    let name = scramble(name, rng)?;

    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.metadata.authentic_data = manner.ask_ad;
    message.add_query(WireQuery::query(name.clone(), kind.wire()));
    if manner.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(EDNS_PAYLOAD);
        message.set_edns(edns);
    }
    let bytes = message.to_vec().ok()?;
    Some((
        Sent {
            id,
            name,
            kind,
            edns: manner.edns,
            exact_case: manner.exact_case,
        },
        bytes,
    ))
}

/// The same name with each letter in random case.
fn scramble(name: &Name, rng: &mut Rng) -> Option<Name> {
    let labels: Vec<Vec<u8>> = name
        .iter()
        .map(|label| {
            let mut mask = vec![0; label.len()];
            rng.fill(&mut mask);
            label
                .iter()
                .zip(mask)
                .map(|(&b, mask)| {
                    if b.is_ascii_alphabetic() {
                        b ^ (mask & 0x20)
                    } else {
                        b
                    }
                })
                .collect()
        })
        .collect();
    Name::from_labels(labels.iter().map(Vec::as_slice)).ok()
}

/// A checked name as the wire has it.
pub(super) fn to_wire(name: &str) -> Option<Name> {
    Name::from_labels(name.split('.').map(str::as_bytes)).ok()
}
