//! A small name server without IO: a static zone answers queries, for `demo` and for tests.
//!
//! It plays a caching resolver that knows nothing but its zone: it answers with RA, follows CNAMEs,
//! denies with a SOA, and cuts long answers off for TCP (RFC 1034 §4.3.2, RFC 2308 §3, RFC 6891 §7).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Edns, Header, Message, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, PTR, SOA, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder};

use super::Transport;

/// The TTL of every record, in seconds.
const TTL: u32 = 60;
/// The longest datagram to a client that does not speak EDNS. RFC 1035 §2.3.4.
const PLAIN_PAYLOAD: u16 = 512;
/// The longest chain of CNAMEs that is followed.
const CNAMES_MAX: usize = 16;

/// A zone of everything: names in it have their records, and no other name exists.
#[derive(Debug, Clone, Default)]
pub struct Zone {
    nodes: BTreeMap<String, Node>,
    /// Set the AD bit, as a validating resolver does for a signed zone.
    authentic: bool,
}

#[derive(Debug, Clone, Default)]
struct Node {
    records: Vec<RData>,
    /// It is not signed, though the zone is.
    insecure: bool,
    fails: Option<Failure>,
}

/// How a name fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// SERVFAIL.
    ServerFailure,
    /// REFUSED.
    Refused,
    /// No answer at all.
    Silence,
}

impl Zone {
    /// An empty zone: every name is NXDOMAIN.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the AD bit of every answer.
    #[must_use]
    pub fn authentic(mut self) -> Self {
        self.authentic = true;
        self
    }

    /// Adds an A or AAAA record.
    #[must_use]
    pub fn address(self, name: &str, ip: IpAddr) -> Self {
        let data = match ip {
            IpAddr::V4(ip) => v4(ip),
            IpAddr::V6(ip) => v6(ip),
        };
        self.record(name, data)
    }

    /// Adds an MX record; the exchange `.` makes it a null MX.
    #[must_use]
    pub fn mx(self, name: &str, preference: u16, exchange: &str) -> Self {
        let exchange = to_wire(exchange);
        self.record(name, RData::MX(MX::new(preference, exchange)))
    }

    /// Adds a TXT record of one or more strings.
    #[must_use]
    pub fn txt(self, name: &str, strings: &[&str]) -> Self {
        let strings = strings.iter().map(|&s| s.to_owned()).collect();
        self.record(name, RData::TXT(TXT::new(strings)))
    }

    /// Makes a name an alias.
    #[must_use]
    pub fn cname(self, name: &str, target: &str) -> Self {
        let target = to_wire(target);
        self.record(name, RData::CNAME(CNAME(target)))
    }

    /// Adds the name of an address.
    #[must_use]
    pub fn ptr(self, ip: IpAddr, name: &str) -> Self {
        let target = to_wire(name);
        self.record(&super::name::reverse(ip), RData::PTR(PTR(target)))
    }

    /// Adds a TLSA record of a host's port, with this RDATA, well-formed or not.
    #[must_use]
    pub fn tlsa(self, host: &str, port: u16, rdata: &[u8]) -> Self {
        let data = super::records::tlsa(rdata);
        self.record(&format!("_{port}._tcp.{host}"), data)
    }

    /// Leaves a name out of what [`Self::authentic`] says.
    #[must_use]
    pub fn insecure(mut self, name: &str) -> Self {
        self.nodes.entry(key(name)).or_default().insecure = true;
        self
    }

    /// Adds a PTR record at a name that is written out.
    #[must_use]
    pub fn named(self, name: &str, target: &str) -> Self {
        let target = to_wire(target);
        self.record(name, RData::PTR(PTR(target)))
    }

    /// Makes a name exist without any record.
    #[must_use]
    pub fn empty(mut self, name: &str) -> Self {
        self.nodes.entry(key(name)).or_default();
        self
    }

    /// Makes every question about a name fail.
    #[must_use]
    pub fn failing(mut self, name: &str, how: Failure) -> Self {
        self.nodes.entry(key(name)).or_default().fails = Some(how);
        self
    }

    fn record(mut self, name: &str, data: RData) -> Self {
        self.nodes.entry(key(name)).or_default().records.push(data);
        self
    }

    /// The answer to a message; none where silence is due. Over TCP both have their length prefix, as
    /// those of [`super::Step::Exchange`] have.
    #[must_use]
    pub fn answer(&self, message: &[u8], transport: Transport) -> Option<Vec<u8>> {
        match transport {
            Transport::Udp => self.respond(message, transport),
            Transport::Tcp => {
                let (length, rest) = message.split_first_chunk::<2>()?;
                let query = rest.get(..usize::from(u16::from_be_bytes(*length)))?;
                self.respond(query, transport).map(super::lookup::frame)
            }
        }
    }

    fn respond(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let mut decoder = BinDecoder::new(query);
        let header = Header::read(&mut decoder).ok()?;
        if header.metadata.message_type != hickory_proto::op::MessageType::Query {
            return None;
        }
        let mut message = Message::new(
            header.metadata.id,
            hickory_proto::op::MessageType::Response,
            header.metadata.op_code,
        );
        message.metadata = Metadata::response_from_request(&header.metadata);
        message.metadata.recursion_available = true;
        let (question, payload) = match read_question(query, &header) {
            Ok(read) => read,
            Err(code) => {
                message.metadata.response_code = code;
                return message.to_vec().ok();
            }
        };
        self.fill(&mut message, &question)?;
        if let Some(payload) = payload {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            message.set_edns(edns);
        }
        let bytes = message.to_vec().ok()?;
        let most = payload.unwrap_or(PLAIN_PAYLOAD).max(PLAIN_PAYLOAD);
        if transport == Transport::Udp && bytes.len() > usize::from(most) {
            message.answers.clear();
            message.authorities.clear();
            message.metadata.truncation = true;
            return message.to_vec().ok();
        }
        Some(bytes)
    }

    fn fill(&self, message: &mut Message, question: &Query) -> Option<()> {
        message.add_query(question.clone());
        message.metadata.authentic_data = self.authentic;
        let mut at = question.name.clone();
        for _ in 0..CNAMES_MAX {
            let name = super::records::text(&at);
            let Some(node) = self.nodes.get(&name) else {
                let prefix = format!(".{name}");
                if !self.nodes.keys().any(|other| other.ends_with(&prefix)) {
                    message.metadata.response_code = ResponseCode::NXDomain;
                }
                message.add_authority(soa());
                return Some(());
            };
            if let Some(how) = node.fails {
                message.answers.clear();
                message.metadata.response_code = match how {
                    Failure::ServerFailure => ResponseCode::ServFail,
                    Failure::Refused => ResponseCode::Refused,
                    Failure::Silence => return None,
                };
                return Some(());
            }
            message.metadata.authentic_data &= !node.insecure;
            let before = message.answers.len();
            let mut alias = None;
            for data in &node.records {
                let kind = data.record_type();
                if kind == question.query_type || kind == RecordType::CNAME {
                    message.add_answer(Record::from_rdata(at.clone(), TTL, data.clone()));
                }
                if let (RData::CNAME(target), true) = (data, kind != question.query_type) {
                    alias = Some(target.0.clone());
                }
            }
            match alias {
                Some(target) => at = target,
                None => {
                    if message.answers.len() == before {
                        message.add_authority(soa());
                    }
                    return Some(());
                }
            }
        }
        message.answers.clear();
        message.metadata.response_code = ResponseCode::ServFail;
        Some(())
    }
}

/// The question, and the UDP payload that the client takes, if it speaks EDNS.
fn read_question(query: &[u8], header: &Header) -> Result<(Query, Option<u16>), ResponseCode> {
    if header.metadata.op_code != OpCode::Query {
        return Err(ResponseCode::NotImp);
    }
    if header.counts.queries != 1 {
        return Err(ResponseCode::FormErr);
    }
    let mut message = Message::from_vec(query).map_err(|_| ResponseCode::FormErr)?;
    let payload = message.edns.as_ref().map(Edns::max_payload);
    let question = message.queries.pop().ok_or(ResponseCode::FormErr)?;
    if question.query_class != DNSClass::IN {
        return Err(ResponseCode::Refused);
    }
    Ok((question, payload))
}

fn soa() -> Record {
    let soa = SOA::new(Name::root(), Name::root(), 1, 3600, 600, 86_400, TTL);
    let soa = RData::SOA(soa);
    Record::from_rdata(Name::root(), TTL, soa)
}

fn v4(ip: Ipv4Addr) -> RData {
    RData::A(A(ip))
}

fn v6(ip: Ipv6Addr) -> RData {
    RData::AAAA(AAAA(ip))
}

fn key(name: &str) -> String {
    super::records::text(&to_wire(name))
}

/// A name as the zone's author wrote it; one that does not fit the wire is the root.
fn to_wire(name: &str) -> Name {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        return Name::root();
    }
    super::query::to_wire(name).unwrap_or_else(Name::root)
}
