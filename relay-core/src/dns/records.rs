//! Responses: what of a datagram is believed, and what of it is kept.
//!
//! A response counts only if it answers *this* question: id, question section and the case of its
//! letters are compared (RFC 5452 §9, the server's address by the lookup). What is read of it is
//! bounded before it is parsed: at most [`RECORDS_MAX`] records of a message are looked at, and at
//! most [`KEPT_MAX`] of those that fit are kept.
//!
//! RFC 1035 §4 (messages), RFC 2308 (negative answers), RFC 6891 (EDNS), RFC 7505 (null MX).

use std::net::IpAddr;

use hickory_proto::op::{Message, MessageType, OpCode, Query as WireQuery, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, NULL, PTR, SOA, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordData as _, RecordType};
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder};

use super::query::{CNAMES_MAX, Sent};

/// The most records of one message that are looked at.
const RECORDS_MAX: usize = 512;
/// The most records of one answer that are kept.
pub(super) const KEPT_MAX: usize = 20;
/// The most octets of text or key data that one answer keeps.
const DATA_MAX: usize = 16 * 1024;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum RecordKind {
    A,
    Aaaa,
    Mx,
    Txt,
    Ptr,
    Tlsa,
    /// An alias itself, and not what it leads to.
    Cname,
}

impl RecordKind {
    pub(super) fn wire(self) -> RecordType {
        match self {
            Self::A => RecordType::A,
            Self::Aaaa => RecordType::AAAA,
            Self::Mx => RecordType::MX,
            Self::Txt => RecordType::TXT,
            Self::Ptr => RecordType::PTR,
            Self::Tlsa => RecordType::TLSA,
            Self::Cname => RecordType::CNAME,
        }
    }
}

impl std::fmt::Display for RecordKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Mx => "MX",
            Self::Txt => "TXT",
            Self::Ptr => "PTR",
            Self::Tlsa => "TLSA",
            Self::Cname => "CNAME",
        })
    }
}

/// One record's content.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Data {
    Address(IpAddr),
    /// Preference and exchange, not yet checked; `.` for the null MX.
    Mx(u16, String),
    Text(Vec<u8>),
    Name(String),
    /// The RDATA of a TLSA record as it came: a record that is too short to be one still counts, as one
    /// that cannot be used (RFC 7672 §2.2).
    Tlsa(Vec<u8>),
}

impl Data {
    /// About how many octets it keeps.
    pub(super) fn size(&self) -> usize {
        let heap = match self {
            Self::Address(_) => 0,
            Self::Mx(_, text) | Self::Name(text) => text.len(),
            Self::Text(bytes) | Self::Tlsa(bytes) => bytes.len(),
        };
        heap + size_of::<Self>()
    }
}

/// What a response says about the question.
#[derive(Debug)]
pub(super) enum Reading {
    /// It is no answer to this question: forged, or late, or noise. Keep waiting.
    Foreign,
    /// All fits but the case of the question's letters: forged, or a server that does not keep it.
    OtherCase,
    /// TC: ask again over TCP.
    Truncated,
    /// The server does not know EDNS (FORMERR, NOTIMP): ask again without.
    NoEdns,
    /// This server has no answer: another may have.
    Unusable(String),
    /// The answer.
    Answer(Response),
}

/// An answer from one message.
#[derive(Debug)]
pub(super) struct Response {
    /// The AD bit, as it came.
    pub(super) authentic: bool,
    /// The names on the way from the question's to the last one, which has the data.
    pub(super) aliases: Vec<Name>,
    /// What was found there.
    pub(super) end: End,
    /// The least TTL on the way, in seconds; that of the denial, if it is one.
    pub(super) ttl: Option<u32>,
}

/// Where the aliases end.
#[derive(Debug)]
pub(super) enum End {
    /// Records of the kind that was asked for; at least one.
    Records(Vec<Data>),
    /// The name has no such record. RFC 2308 §2.2.
    NoData,
    /// The name does not exist. RFC 2308 §2.1.
    NoName,
    /// The message does not say: the last alias must be asked for.
    Unfollowed,
    /// The aliases form a loop, or there are more than [`CNAMES_MAX`].
    Endless,
}

impl End {
    /// Whether it says that there is nothing.
    fn is_denial(&self) -> bool {
        matches!(self, Self::NoData | Self::NoName)
    }
}

/// Reads a message as the answer to `sent`.
pub(super) fn read(bytes: &[u8], sent: &Sent) -> Reading {
    let Some(counts) = Counts::peek(bytes, sent.id) else {
        return Reading::Foreign;
    };
    match read_sections(bytes, sent, &counts) {
        Ok(reading) => reading,
        // The id fits, so it is most likely this server's own, and it will not send a better one.
        Err(Malformed) => Reading::Unusable("it sent a malformed message".into()),
    }
}

/// The section counts of a response with the right id. Only such a message is parsed at all, and
/// never more of it than the bounds allow, whatever its header claims.
struct Counts {
    answers: usize,
    authorities: usize,
    additionals: usize,
    questions: usize,
}

impl Counts {
    fn peek(bytes: &[u8], id: u16) -> Option<Self> {
        let header: &[u8; 12] = bytes.first_chunk()?;
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let is_response = header[2] & 0x80 != 0;
        (word(0) == id && is_response).then(|| Self {
            questions: word(4).into(),
            answers: word(6).into(),
            authorities: word(8).into(),
            additionals: word(10).into(),
        })
    }
}

struct Malformed;

impl From<hickory_proto::serialize::binary::DecodeError> for Malformed {
    fn from(_: hickory_proto::serialize::binary::DecodeError) -> Self {
        Self
    }
}

fn read_sections(bytes: &[u8], sent: &Sent, counts: &Counts) -> Result<Reading, Malformed> {
    let mut decoder = BinDecoder::new(bytes);
    let mut metadata = hickory_proto::op::Header::read(&mut decoder)?.metadata;
    if metadata.message_type != MessageType::Response || metadata.op_code != OpCode::Query {
        return Ok(Reading::Foreign);
    }
    match counts.questions {
        1 => match compare(&WireQuery::read(&mut decoder)?, sent) {
            Match::Exact => {}
            Match::OtherCase => return Ok(Reading::OtherCase),
            Match::Other => return Ok(Reading::Foreign),
        },
        // Servers that reject a query need not repeat the question. Such a message only moves us on
        // to another server, which it could not abuse.
        0 if metadata.response_code != ResponseCode::NoError
            && metadata.response_code != ResponseCode::NXDomain =>
        {
            return Ok(rejected(metadata.response_code, sent));
        }
        _ => return Ok(Reading::Foreign),
    }
    if metadata.truncation {
        return Ok(Reading::Truncated);
    }

    let answers = read_some(&mut decoder, counts.answers.min(RECORDS_MAX))?;
    let mut authorities = Vec::new();
    let whole = counts.answers + counts.authorities + counts.additionals <= RECORDS_MAX;
    if whole {
        authorities = read_some(&mut decoder, counts.authorities)?;
        let additionals = counts.additionals;
        let (_, edns, _) = Message::read_records(&mut decoder, additionals, true, OpCode::Query)?;
        if let Some(edns) = edns {
            metadata.merge_response_code(edns.rcode_high());
        }
    }
    if metadata.response_code != ResponseCode::NoError
        && metadata.response_code != ResponseCode::NXDomain
    {
        return Ok(rejected(metadata.response_code, sent));
    }
    let mut response = match follow(&answers, &authorities, metadata.response_code, sent) {
        Some(response) if whole || !response.end.is_denial() => response,
        // What was not kept, or not looked at, may be what was asked for: that is no denial.
        Some(_) | None => return Ok(Reading::Unusable("its answer is too large".into())),
    };
    response.authentic = metadata.authentic_data;
    if matches!(response.end, End::Unfollowed) && response.aliases.is_empty() {
        return Ok(Reading::Unusable(
            "it refers to other servers: it does not resolve".into(),
        ));
    }
    Ok(Reading::Answer(response))
}

fn read_some(decoder: &mut BinDecoder<'_>, count: usize) -> Result<Vec<Record>, Malformed> {
    let mut records = Vec::new();
    for _ in 0..count {
        match read_tlsa(decoder)? {
            Some(record) => records.push(record),
            None => records.append(&mut Message::read_records(decoder, 1, false, OpCode::Query)?.0),
        }
    }
    Ok(records)
}

/// The RDATA of a TLSA record, whatever it holds.
pub(super) fn tlsa(bytes: &[u8]) -> RData {
    let mut rdata = NULL::new();
    rdata.anything = bytes.to_vec();
    RData::Unknown {
        code: RecordType::TLSA,
        rdata,
    }
}

/// Reads a TLSA record with its RDATA as it is; none, and nothing is read, if the next one is of another
/// type. The library takes a message with one that is too short for malformed as a whole.
fn read_tlsa(decoder: &mut BinDecoder<'_>) -> Result<Option<Record>, Malformed> {
    let at = u16::try_from(decoder.index()).map_err(|_| Malformed)?;
    let mut ahead = decoder.clone(at);
    let name = Name::read(&mut ahead)?;
    if RecordType::read(&mut ahead)? != RecordType::TLSA {
        return Ok(None);
    }
    let class = DNSClass::read(&mut ahead)?;
    let ttl = ahead.read_u32()?.unverified(/* any is valid */);
    let length = ahead.read_u16()?.unverified(/* the slice is checked */);
    let bytes = ahead.read_slice(length.into())?.unverified(/* kept as it is */);
    let mut record = Record::from_rdata(name, ttl, tlsa(bytes));
    record.dns_class = class;
    *decoder = ahead;
    Ok(Some(record))
}

enum Match {
    Exact,
    OtherCase,
    Other,
}

fn compare(query: &WireQuery, sent: &Sent) -> Match {
    let same = query.query_type == sent.kind.wire()
        && query.query_class == DNSClass::IN
        && query.name == sent.name;
    match (same, !sent.exact_case || query.name.eq_case(&sent.name)) {
        (true, true) => Match::Exact,
        (true, false) => Match::OtherCase,
        (false, _) => Match::Other,
    }
}

fn rejected(code: ResponseCode, sent: &Sent) -> Reading {
    // RFC 6891 §7: servers without EDNS "MUST respond with a return code (RCODE) of FORMERR"; some say
    // NOTIMP.
    let no_edns = code == ResponseCode::FormErr || code == ResponseCode::NotImp;
    if no_edns && sent.edns {
        return Reading::NoEdns;
    }
    // The code alone would be "Server Failure"; people search for the mnemonic.
    let mnemonic = if code == ResponseCode::ServFail {
        "SERVFAIL".to_owned()
    } else if code == ResponseCode::Refused {
        "REFUSED".to_owned()
    } else if code == ResponseCode::FormErr {
        "FORMERR".to_owned()
    } else if code == ResponseCode::NotImp {
        "NOTIMP".to_owned()
    } else {
        format!("RCODE {}", u16::from(code))
    };
    Reading::Unusable(format!("it answered {mnemonic}"))
}

/// Walks from the question's name over its aliases to the data. None if there is more of it than is kept.
fn follow(
    answers: &[Record],
    authorities: &[Record],
    code: ResponseCode,
    sent: &Sent,
) -> Option<Response> {
    let mut response = Response {
        authentic: false,
        aliases: Vec::new(),
        end: End::Endless,
        ttl: None,
    };
    let mut at = &sent.name;
    loop {
        let here = |record: &&Record| record.dns_class == DNSClass::IN && record.name == *at;
        let alias = answers
            .iter()
            .filter(here)
            // An alias that is asked for is no alias but the data.
            .filter(|_| sent.kind != RecordKind::Cname)
            .find_map(|record| CNAME::try_borrow(&record.data).map(|cname| (&cname.0, record.ttl)));
        let Some((target, ttl)) = alias else { break };
        let seen = *target == sent.name || response.aliases.contains(target);
        if seen || response.aliases.len() == CNAMES_MAX {
            return Some(response);
        }
        response.shorten_ttl(ttl);
        response.aliases.push(target.clone());
        at = target;
    }

    let mut records = Vec::new();
    let (mut size, mut dropped) = (0, false);
    for record in answers
        .iter()
        .filter(|r| r.dns_class == DNSClass::IN && r.name == *at)
    {
        let Some(data) = data(record, sent.kind) else {
            continue;
        };
        size += data.size();
        dropped |= size > DATA_MAX;
        // Duplicates are RFC 2181 §5 violations that cost nothing to drop.
        if size <= DATA_MAX && !records.contains(&data) {
            response.shorten_ttl(record.ttl);
            records.push(data);
        }
    }
    // Of TLSA records all must be seen: those left out may be the only ones that can be used.
    let partial = dropped || records.len() > KEPT_MAX;
    if partial && sent.kind == RecordKind::Tlsa {
        return None;
    }
    response.end = if !records.is_empty() {
        keep_first(&mut records);
        End::Records(records)
    } else if dropped {
        return None;
    } else {
        denial(authorities, code, &mut response)
    };
    Some(response)
}

/// The best mail exchangers are kept, and the first of all else, since servers rotate those.
fn keep_first(records: &mut Vec<Data>) {
    if records.iter().any(|data| matches!(data, Data::Mx(..))) {
        records.sort();
    }
    records.truncate(KEPT_MAX);
}

/// There is no data: which way, and for how long that holds. RFC 2308 §5.
fn denial(authorities: &[Record], code: ResponseCode, response: &mut Response) -> End {
    let soa = authorities
        .iter()
        .find_map(|record| SOA::try_borrow(&record.data).map(|soa| soa.minimum.min(record.ttl)));
    if code == ResponseCode::NXDomain {
        response.ttl = soa;
        return End::NoName;
    }
    let referral = authorities
        .iter()
        .any(|record| record.record_type() == RecordType::NS);
    let unfollowed = soa.is_none() && (referral || !response.aliases.is_empty());
    if unfollowed {
        return End::Unfollowed;
    }
    response.ttl = soa;
    End::NoData
}

impl Response {
    fn shorten_ttl(&mut self, ttl: u32) {
        // RFC 2181 §8: a TTL with the highest bit set is zero.
        let ttl = if ttl > i32::MAX as u32 { 0 } else { ttl };
        self.ttl = Some(self.ttl.map_or(ttl, |least| least.min(ttl)));
    }
}

/// The content of a record, if it is of the kind that was asked for.
fn data(record: &Record, kind: RecordKind) -> Option<Data> {
    let data = &record.data;
    match kind {
        RecordKind::A => A::try_borrow(data).map(|a| Data::Address(IpAddr::V4(a.0))),
        RecordKind::Aaaa => AAAA::try_borrow(data).map(|a| Data::Address(IpAddr::V6(a.0))),
        RecordKind::Mx => MX::try_borrow(data).map(|mx| {
            let exchange = if mx.exchange.is_root() {
                ".".into()
            } else {
                text(&mx.exchange)
            };
            Data::Mx(mx.preference, exchange)
        }),
        RecordKind::Txt => TXT::try_borrow(data).map(|txt| Data::Text(txt.txt_data.concat())),
        RecordKind::Ptr => PTR::try_borrow(data).map(|ptr| Data::Name(text(&ptr.0))),
        RecordKind::Tlsa => {
            let RData::Unknown { code, rdata } = data else {
                return None;
            };
            (*code == RecordType::TLSA).then(|| Data::Tlsa(rdata.anything.clone()))
        }
        RecordKind::Cname => CNAME::try_borrow(data).map(|cname| Data::Name(text(&cname.0))),
    }
}

/// A name from the wire in lower case without its last dot; octets that no host name has are escaped,
/// so the text is printable and never passes for another name.
pub(super) fn text(name: &Name) -> String {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        if !text.is_empty() {
            text.push('.');
        }
        for &byte in label {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
                text.push(char::from(byte.to_ascii_lowercase()));
            } else {
                text.push_str(&format!("\\{byte:03}"));
            }
        }
    }
    text
}
