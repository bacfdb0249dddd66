//! The record of a message: a header of 64 octets, the envelope, and the body if it is not spooled.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;
use smtp_proto::{EnvId, Mailbox, Notify, Orcpt, Ret, ReversePath};

use super::wire::{Reader, Writer};
use super::{Invalid, VERSION, VERSION_HANDLING, VERSION_RETURN_PATH, handling};
use crate::id::MessageId;
use crate::queue::handling::Handling;
use crate::queue::message::{Body, BodyKind, Envelope, Message, Origin, Recipient};
use crate::queue::store::Place;
use crate::time::UnixTime;

/// The length of a record's header in octets.
pub const HEADER_LEN: usize = 64;

/// Records start at multiples of this, so that a reader who lost the thread finds the next one.
pub const ALIGN: usize = 64;

/// No record is longer, in octets: a length above it is damage.
pub const RECORD_MAX: usize = 1 << 30;

const MAGIC: u32 = u32::from_le_bytes(*b"SRQ1");
const SPOOLED: u8 = 1;
const ADDRESS_NONE: u8 = 0;
const ADDRESS_V4: u8 = 4;
const ADDRESS_V6: u8 = 6;

/// Where a record stands: what tells it from one of an earlier use of the same octets, and from octets
/// that only look like a record because a client sent them in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The number of the segment: each use of a segment file has a new one.
    pub generation: u32,
    /// A random number of this store, known to nobody outside.
    pub salt: u64,
    /// The offset of the first record that was synced together with this one.
    pub batch: u32,
    /// The record that this one is a copy of.
    pub moved_from: Option<Place>,
}

/// The first [`HEADER_LEN`] octets of a record, with a checksum of their own: a record with a damaged
/// body still says whose it is and where it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Where it stands.
    pub stamp: Stamp,
    /// The message.
    pub id: MessageId,
    /// The body is in a spool file.
    pub spooled: bool,
    version: u8,
    envelope_len: u32,
    body_len: u32,
    payload_crc: u32,
}

impl Header {
    /// Whether octets may begin a record of this segment: a quick look, before the checksum.
    #[must_use]
    pub fn may_start(bytes: &[u8], generation: u32, salt: u64) -> bool {
        bytes.len() >= HEADER_LEN
            && bytes[..4] == MAGIC.to_le_bytes()
            && bytes[4..8] == generation.to_le_bytes()
            && bytes[8..16] == salt.to_le_bytes()
    }

    /// Reads a header at the start of `bytes`.
    ///
    /// # Errors
    /// [`Invalid`] if there is none, or a damaged one.
    pub fn parse(bytes: &[u8]) -> Result<Self, Invalid> {
        let bytes = bytes.get(..HEADER_LEN).ok_or(Invalid::Short)?;
        let mut reader = Reader(bytes);
        if reader.u32()? != MAGIC {
            return Err(Invalid::NotARecord);
        }
        let generation = reader.u32()?;
        let salt = reader.u64()?;
        let id = MessageId::from_u64(reader.u64()?);
        let (envelope_len, body_len) = (reader.u32()?, reader.u32()?);
        let moved = Place {
            segment: reader.u32()?,
            offset: reader.u32()?,
        };
        let batch = reader.u32()?;
        let payload_crc = reader.u32()?;
        let (version, flags) = (reader.u8()?, reader.u8()?);
        let reserved = reader.bytes::<10>()?;
        if reader.u32()? != crc32fast::hash(&bytes[..HEADER_LEN - 4]) {
            return Err(Invalid::Checksum);
        }
        if !(VERSION..=VERSION_RETURN_PATH).contains(&version) {
            return Err(Invalid::Version(version));
        }
        if flags & !SPOOLED != 0 || reserved != [0; 10] {
            return Err(Invalid::Content("an unknown flag"));
        }
        if envelope_len as u64 + body_len as u64 > (RECORD_MAX - HEADER_LEN) as u64 {
            return Err(Invalid::Content("a length over the limit"));
        }
        let stamp = Stamp {
            generation,
            salt,
            batch,
            moved_from: (moved.segment != 0).then_some(moved),
        };
        let spooled = flags & SPOOLED != 0;
        Ok(Self {
            stamp,
            id,
            spooled,
            version,
            envelope_len,
            body_len,
            payload_crc,
        })
    }

    fn write(&self) -> [u8; HEADER_LEN] {
        let mut bytes = Vec::with_capacity(HEADER_LEN);
        let moved = self.stamp.moved_from.unwrap_or(Place {
            segment: 0,
            offset: 0,
        });
        let mut writer = Writer(&mut bytes);
        writer.u32(MAGIC);
        writer.u32(self.stamp.generation);
        writer.u64(self.stamp.salt);
        writer.u64(self.id.as_u64());
        writer.u32(self.envelope_len);
        writer.u32(self.body_len);
        writer.u32(moved.segment);
        writer.u32(moved.offset);
        writer.u32(self.stamp.batch);
        writer.u32(self.payload_crc);
        writer.u8(self.version);
        writer.u8(if self.spooled { SPOOLED } else { 0 });
        bytes.resize(HEADER_LEN - 4, 0);
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        let mut header = [0; HEADER_LEN];
        header.copy_from_slice(&bytes);
        header
    }

    /// The length of the whole record, header included, in octets.
    #[must_use]
    pub fn record_len(&self) -> usize {
        HEADER_LEN + self.envelope_len as usize + self.body_len as usize
    }

    /// Checks what follows the header.
    ///
    /// # Errors
    /// [`Invalid`] if it is not what was written.
    pub fn check(&self, payload: &[u8]) -> Result<(), Invalid> {
        if payload.len() != self.record_len() - HEADER_LEN {
            return Err(Invalid::Short);
        }
        if crc32fast::hash(payload) != self.payload_crc {
            return Err(Invalid::Checksum);
        }
        Ok(())
    }

    /// Reads the message from what follows the header, without its body. Call [`Self::check`] first.
    ///
    /// # Errors
    /// [`Invalid`] if it is no message.
    pub fn message(&self, payload: &[u8]) -> Result<Message, Invalid> {
        let envelope = payload
            .get(..self.envelope_len as usize)
            .ok_or(Invalid::Short)?;
        read_message(self.id, envelope, self.version)
    }
}

/// Appends the record of a message. Its body is copied once.
pub fn encode(out: &mut Vec<u8>, stamp: Stamp, message: &Message, body: &Body) {
    let start = out.len();
    out.resize(start + HEADER_LEN, 0);
    write_message(out, message);
    let envelope_len = out.len() - start - HEADER_LEN;
    let (body, spooled) = match body {
        Body::Memory(body) => (body.as_ref(), false),
        Body::Spooled => (&[][..], true),
    };
    out.extend_from_slice(body);
    let header = Header {
        stamp,
        id: message.id,
        spooled,
        version: version_of(&message.envelope),
        // A length past 32 bits would be past `RECORD_MAX` too, and is then refused by every reader.
        envelope_len: u32::try_from(envelope_len).unwrap_or(u32::MAX),
        body_len: u32::try_from(body.len()).unwrap_or(u32::MAX),
        payload_crc: crc32fast::hash(&out[start + HEADER_LEN..]),
    };
    out[start..start + HEADER_LEN].copy_from_slice(&header.write());
}

/// Appends a copy of a record, with another stamp.
///
/// # Errors
/// [`Invalid`] if `record` is not exactly one whole record.
pub fn restamp(out: &mut Vec<u8>, stamp: Stamp, record: &[u8]) -> Result<(), Invalid> {
    let header = Header::parse(record)?;
    let payload = record.get(HEADER_LEN..).ok_or(Invalid::Short)?;
    header.check(payload)?;
    out.extend_from_slice(&Header { stamp, ..header }.write());
    out.extend_from_slice(payload);
    Ok(())
}

/// Reads a whole record. The body shares the memory of `record`.
///
/// # Errors
/// [`Invalid`] if it is not exactly one whole record.
pub fn decode(record: &Bytes) -> Result<(Header, Message, Body), Invalid> {
    let header = Header::parse(record)?;
    let payload = record.slice(HEADER_LEN..);
    header.check(&payload)?;
    let message = header.message(&payload)?;
    let body = payload.slice(header.envelope_len as usize..);
    if header.spooled {
        if !body.is_empty() {
            return Err(Invalid::Content("a body both here and in the spool"));
        }
        return Ok((header, message, Body::Spooled));
    }
    Ok((header, message, Body::Memory(body)))
}

fn version_of(envelope: &Envelope) -> u8 {
    if envelope.handling.return_path.is_some() {
        VERSION_RETURN_PATH
    } else if envelope.handling == Handling::default() {
        VERSION
    } else {
        VERSION_HANDLING
    }
}

fn write_message(out: &mut Vec<u8>, message: &Message) {
    let mut writer = Writer(out);
    writer.u64(message.accepted.as_millis());
    writer.u64(message.size);
    writer.u32(message.header_size);
    writer.octets(&message.prefix);
    writer.optional_text(message.origin.credential.as_ref());
    match message.origin.peer {
        None => writer.u8(ADDRESS_NONE),
        Some(IpAddr::V4(address)) => {
            writer.u8(ADDRESS_V4);
            writer.0.extend_from_slice(&address.octets());
        }
        Some(IpAddr::V6(address)) => {
            writer.u8(ADDRESS_V6);
            writer.0.extend_from_slice(&address.octets());
        }
    }
    write_envelope(&mut writer, &message.envelope);
    if version_of(&message.envelope) >= VERSION_HANDLING {
        handling::write(&mut writer, &message.envelope.handling);
    }
}

fn write_envelope(writer: &mut Writer<'_>, envelope: &Envelope) {
    writer.optional_text(envelope.from.mailbox());
    writer.u8(match envelope.ret {
        None => 0,
        Some(Ret::Full) => 1,
        Some(Ret::Headers) => 2,
    });
    writer.optional_text(envelope.envid.as_ref());
    writer.u8(match envelope.body {
        BodyKind::SevenBit => 0,
        BodyKind::EightBit => 1,
        BodyKind::Binary => 2,
    });
    writer.u8(u8::from(envelope.smtputf8));
    writer.count(envelope.recipients.len());
    for recipient in &envelope.recipients {
        writer.text(&recipient.to);
        writer.optional_text(recipient.notify);
        writer.optional_text(recipient.orcpt.as_ref());
    }
}

fn read_message(id: MessageId, bytes: &[u8], version: u8) -> Result<Message, Invalid> {
    let mut reader = Reader(bytes);
    let accepted = UnixTime::from_millis(reader.u64()?);
    let size = reader.u64()?;
    let header_size = reader.u32()?;
    let prefix = Bytes::copy_from_slice(reader.octets()?);
    if prefix.len() as u64 > size {
        return Err(Invalid::Content("a prefix longer than its message"));
    }
    let credential = reader.optional_text()?.map(str::to_owned);
    let peer = match reader.u8()? {
        ADDRESS_NONE => None,
        ADDRESS_V4 => Some(Ipv4Addr::from(reader.bytes::<4>()?).into()),
        ADDRESS_V6 => Some(Ipv6Addr::from(reader.bytes::<16>()?).into()),
        _ => return Err(Invalid::Content("an unknown address family")),
    };
    let mut envelope = read_envelope(&mut reader)?;
    if version >= VERSION_HANDLING {
        envelope.handling = handling::read(&mut reader, version)?;
    }
    reader.end()?;
    let origin = Origin { credential, peer };
    Ok(Message {
        id,
        accepted,
        origin,
        envelope,
        prefix,
        size,
        header_size,
    })
}

fn read_envelope(reader: &mut Reader<'_>) -> Result<Envelope, Invalid> {
    let from = match reader.optional_text()? {
        None => ReversePath::Null,
        Some(text) => ReversePath::Mailbox(mailbox(text)?),
    };
    let ret = match reader.u8()? {
        0 => None,
        1 => Some(Ret::Full),
        2 => Some(Ret::Headers),
        _ => return Err(Invalid::Content("an unknown RET")),
    };
    let envid = reader
        .optional_text()?
        .map(|text| EnvId::parse(text).ok_or(Invalid::Content("an invalid ENVID")));
    let body = match reader.u8()? {
        0 => BodyKind::SevenBit,
        1 => BodyKind::EightBit,
        2 => BodyKind::Binary,
        _ => return Err(Invalid::Content("an unknown body kind")),
    };
    let smtputf8 = reader.bool()?;
    // A recipient takes at least the length of its address and two octets of "absent".
    let count = reader.count(6)?;
    let recipients = (0..count)
        .map(|_| read_recipient(reader))
        .collect::<Result<_, _>>()?;
    Ok(Envelope {
        from,
        ret,
        envid: envid.transpose()?,
        body,
        smtputf8,
        handling: Handling::default(),
        recipients,
    })
}

fn read_recipient(reader: &mut Reader<'_>) -> Result<Recipient, Invalid> {
    let to = mailbox(reader.text()?)?;
    let notify = reader.optional_text()?.map(read_notify).transpose()?;
    let orcpt = reader
        .optional_text()?
        .map(|text| Orcpt::parse(text).ok_or(Invalid::Content("an invalid ORCPT")));
    Ok(Recipient {
        to,
        notify,
        orcpt: orcpt.transpose()?,
    })
}

fn read_notify(text: &str) -> Result<Notify, Invalid> {
    Notify::parse(text).ok_or(Invalid::Content("an invalid NOTIFY"))
}

fn mailbox(text: &str) -> Result<Mailbox, Invalid> {
    Mailbox::parse_utf8(text).map_err(|_| Invalid::Content("an invalid address"))
}
