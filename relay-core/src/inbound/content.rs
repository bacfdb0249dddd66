//! A message on its way in: its envelope from MAIL on, its octets from DATA or BDAT on.
//!
//! ```text
//!   MAIL ──▶ Transaction ──RCPT…──▶ DATA/BDAT ──▶ Content ──push──▶ (in memory | spooled in pieces)
//!                                                    │
//!                                                    └──finish──▶ Submission, or the refusal
//! ```
//!
//! RFC 6409 §6 and §8 (what a submission server checks and adds), RFC 3030 §3 (BINARYMIME).

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::Bytes;
use smtp_proto::server::Rejection;
use smtp_proto::{AuthParam, BodyType, Domain, MailParams, ReversePath};

use super::body::{HeaderFilter, Received};
use super::preflight::{self, Finding, Flight, Lines};
use crate::config::{Config, Credential, PreflightMode};
use crate::engine::{Refusal, Submission};
use crate::id::MessageId;
use crate::queue::handling::{Handling, TlsWish};
use crate::queue::message::{BODY_MEMORY_MAX, Body, BodyKind, Envelope, Origin, Recipient};
use crate::sign::{self, Sealing, Signing, Unsigned};
use crate::time::{Now, UnixTime};
use crate::verify::{self, Reading, Verifier};

/// The size of the pieces that go to the spool, in octets.
const SPOOL_PIECE: usize = 64 * 1024;

/// The room that there is always for a message's header fields, in octets: they are read whole.
const HEADER_ROOM: usize = 64 * 1024;

/// One envelope, from the acceptance of its MAIL to the end of its message or its abortion.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) id: MessageId,
    /// How many octets of it may be held in memory.
    pub(super) room: usize,
    pub(super) from: ReversePath,
    pub(super) params: MailParams,
    /// What `params` ask for, from the time of MAIL on.
    pub(super) handling: Handling,
    /// Who sends it. A later reload of the configuration changes nothing for this message.
    pub(super) sender: Sender,
    pub(super) recipients: Vec<Recipient>,
    /// The spool holds a part of it, to be deleted if it comes to nothing.
    pub(super) spooled: bool,
}

/// Who hands a message in.
#[derive(Debug)]
pub(super) enum Sender {
    /// One of our users.
    User(Arc<Credential>),
    /// Anybody, at an inbound listener.
    Stranger,
}

impl Sender {
    /// The name of the credential; empty for a stranger.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::User(credential) => &credential.name,
            Self::Stranger => "",
        }
    }

    fn allows(&self, mailbox: &smtp_proto::Mailbox) -> bool {
        match self {
            Self::User(credential) => credential.allows(mailbox),
            Self::Stranger => false,
        }
    }
}

impl Transaction {
    pub(super) fn new(
        id: MessageId,
        from: ReversePath,
        params: MailParams,
        sender: Sender,
        now: UnixTime,
    ) -> Self {
        let mut handling = Handling::new(&params, now);
        // RFC 4954 §5: a client that is not trusted to speak for others is not believed about them.
        if let Some(AuthParam::Mailbox(submitter)) = &handling.submitter
            && !sender.allows(submitter)
        {
            handling.submitter = Some(AuthParam::Unknown);
        }
        Self {
            id,
            room: BODY_MEMORY_MAX,
            from,
            params,
            handling,
            sender,
            recipients: Vec::new(),
            spooled: false,
        }
    }

    /// Whether UTF-8 was asked for, or an address needs it.
    pub(super) fn smtputf8(&self) -> bool {
        let recipient = |recipient: &Recipient| recipient.to.is_ascii();
        self.params.smtputf8 || !self.from.is_ascii() || !self.recipients.iter().all(recipient)
    }
}

/// The octets of one message.
#[derive(Debug)]
pub(super) struct Content {
    filter: HeaderFilter,
    /// What is kept and not spooled yet.
    buffer: Vec<u8>,
    /// Octets that are in the spool.
    spooled: u64,
    /// From how many octets on `buffer` goes to the spool.
    spool_at: usize,
    /// The size of the pieces that go there.
    piece: usize,
    /// The room that is made at once for a message that says that it is small.
    expected: usize,
    /// How many octets may come before the header fields are complete.
    header_room: usize,
    /// The length of our and the message's header fields; none until they are complete.
    header_size: Option<u32>,
    /// Its signatures, as far as they are; from when the header is complete.
    signing: Result<Signing, Unsigned>,
    lines: Lines,
    /// What is verified of a stranger's; from when the header is complete.
    reading: Option<Reading>,
    /// The ARC set of a message that goes on to others, as far as it is.
    sealing: Option<Sealing>,
}

impl Content {
    /// Before the first octet. No more of it than `room` is held in memory; a message that says that it
    /// will be larger goes to the spool early, so that many of them at once need little memory.
    pub(super) fn new(declared_size: Option<u64>, room: usize, filter: HeaderFilter) -> Self {
        let room = room.min(BODY_MEMORY_MAX);
        let piece = SPOOL_PIECE.min(room).max(1);
        let large = declared_size.is_some_and(|size| size > room as u64);
        let declared = declared_size.and_then(|size| usize::try_from(size).ok());
        Self {
            filter,
            buffer: Vec::new(),
            spooled: 0,
            spool_at: if large { piece } else { room + 1 },
            piece,
            expected: declared.filter(|_| !large).unwrap_or(0),
            header_room: room.max(HEADER_ROOM),
            header_size: None,
            signing: Err(Unsigned::NotConfigured),
            lines: Lines::default(),
            reading: None,
            sealing: None,
        }
    }

    /// Takes a piece of the message. After a refusal the rest need not be shown.
    pub(super) fn push(
        &mut self,
        piece: &[u8],
        transaction: &Transaction,
        received: &Received<'_>,
        config: &Config,
    ) -> Result<(), Refusal> {
        if config.preflight.mode != PreflightMode::Off {
            self.lines.push(piece);
        }
        let body = self.filter.push(piece);
        self.take_headers(transaction, received, config)?;
        if self.filter.held() > self.header_room {
            return Err(no_room());
        }
        if let Ok(signing) = &mut self.signing {
            signing.push(body);
        }
        if let Some(reading) = &mut self.reading {
            reading.push(body);
        }
        if let Some(sealing) = &mut self.sealing {
            sealing.push(body);
        }
        self.buffer.extend_from_slice(body);
        Ok(())
    }

    /// The next piece for the spool, if there is one. The caller sees to it that it is spooled.
    pub(super) fn spill(&mut self) -> Option<Bytes> {
        if self.buffer.len() < self.spool_at {
            return None;
        }
        self.spool_at = self.piece;
        self.spooled += self.buffer.len() as u64;
        Some(std::mem::take(&mut self.buffer).into())
    }

    /// The message is complete: its last octets for the spool, if a part of it is there, and what to
    /// submit; or why it is refused.
    pub(super) fn finish(
        &mut self,
        transaction: &Transaction,
        origin: Origin,
        received: &Received<'_>,
        config: &Config,
    ) -> Result<(Option<Bytes>, Box<Submission>), Refusal> {
        self.filter.finish();
        self.take_headers(transaction, received, config)?;
        let kind = self.filter.kind();
        let binary = transaction.params.body == Some(BodyType::BinaryMime);
        if kind == BodyKind::Binary && !binary {
            return Err(bare_octets());
        }
        // After BDAT the last line may lack its end, which DATA to the next hop would add.
        if kind != BodyKind::Binary && !self.filter.ends_in_crlf() {
            self.buffer.extend_from_slice(b"\r\n");
        }
        // Beginning is over: what is left is to end it, or the reason why it did not begin.
        let signing = std::mem::replace(&mut self.signing, Err(Unsigned::NotConfigured));
        let signed = signing.and_then(|signing| signing.finish(kind, received.time));
        let headers = self.filter.headers();
        let headers_utf8 = headers.is_some_and(super::body::Headers::needs_smtputf8);
        let mut handling = transaction.handling.clone();
        // RFC 8689 §4.1: where REQUIRETLS is said, the header field is ignored.
        if handling.tls == TlsWish::AsConfigured
            && headers.is_some_and(super::body::Headers::tls_not_required)
        {
            handling.tls = TlsWish::NotRequired;
        }
        // Bounces of what a stranger writes in our name are not ours to ask for.
        handling.return_path = match &transaction.sender {
            Sender::User(_) => headers.and_then(|headers| config.return_path_of(headers.from())),
            Sender::Stranger => None,
        };
        let preflight = self.preflight(
            transaction,
            handling.return_path.as_ref(),
            signed.is_ok(),
            config,
        )?;
        let size = self.spooled + self.buffer.len() as u64;
        let rest = Bytes::from(std::mem::take(&mut self.buffer));
        let (last, body) = match self.spooled {
            0 => (None, Body::Memory(rest)),
            _ => (Some(rest).filter(|rest| !rest.is_empty()), Body::Spooled),
        };
        let envelope = Envelope {
            from: transaction.from.clone(),
            ret: transaction.params.ret,
            envid: transaction.params.envid.clone(),
            body: kind,
            smtputf8: transaction.smtputf8() || headers_utf8,
            handling,
            recipients: transaction.recipients.clone(),
        };
        let mut submission = Box::new(Submission {
            id: transaction.id,
            origin,
            envelope,
            prefix: Bytes::new(),
            dkim: sign::told(&signed),
            preflight,
            body,
            size,
            header_size: self.header_size.unwrap_or(0),
        });
        if let Ok(signed) = signed {
            submission.put_before(signed.fields);
        }
        Ok((last, submission))
    }

    /// What receivers would hold against it, or the refusal for that.
    fn preflight(
        &self,
        transaction: &Transaction,
        return_path: Option<&Domain>,
        signed: bool,
        config: &Config,
    ) -> Result<Vec<Finding>, Refusal> {
        let Some(headers) = self.filter.headers() else {
            return Ok(Vec::new());
        };
        let theirs = matches!(transaction.sender, Sender::Stranger);
        if theirs || config.preflight.mode == PreflightMode::Off {
            return Ok(Vec::new());
        }
        let flight = Flight {
            headers,
            from: &transaction.from,
            return_path,
            recipients: transaction.recipients.len(),
            kind: self.filter.kind(),
            lines: &self.lines,
            signed,
        };
        let findings = flight.findings(config);
        match preflight::refusal(&findings) {
            Some(refusal) if config.preflight.mode == PreflightMode::Reject => Err(refusal),
            Some(_) | None => Ok(findings),
        }
    }

    /// What is left to do about a stranger's message that is complete: to ask the DNS, and to seal.
    pub(super) fn verification(&mut self, now: Now) -> Option<(Verifier, Option<Sealing>)> {
        let verifier = self.reading.take()?.finish(now);
        Some((verifier, self.sealing.take()))
    }

    /// Once they are complete: checks the header fields and writes ours and them.
    fn take_headers(
        &mut self,
        transaction: &Transaction,
        received: &Received<'_>,
        config: &Config,
    ) -> Result<(), Refusal> {
        let (Some(headers), None) = (self.filter.headers(), self.header_size) else {
            return Ok(());
        };
        let not_theirs = match &transaction.sender {
            Sender::User(credential) => headers.refusal_for(credential),
            Sender::Stranger => None,
        };
        if let Some(refusal) = headers.refusal().or(not_theirs) {
            return Err(refusal);
        }
        // RFC 6409 §8 has us add what is missing for our users; others' mail stays as they signed it.
        let ours = match &transaction.sender {
            Sender::User(_) => headers.prepend(received),
            Sender::Stranger => received.field(),
        };
        self.buffer
            .reserve(ours.len() + self.expected.max(headers.kept().len()));
        self.buffer.extend_from_slice(ours.as_bytes());
        self.buffer.extend_from_slice(headers.kept());
        match &transaction.sender {
            Sender::User(_) => {
                self.signing = Signing::begin(&config.domains, headers.from(), &self.buffer);
            }
            // Our domains vouch for no stranger, whatever its From says.
            Sender::Stranger => {
                let client = verify::Client {
                    ip: received.peer.unwrap_or(UNKNOWN),
                    helo: received.helo.to_owned(),
                    from: transaction.from.clone(),
                    hostname: config.hostname.clone(),
                };
                let original = headers.original().to_vec();
                self.reading = Some(Reading::begin(client, original, headers.from()));
                self.sealing = sign::sealer(config, &transaction.recipients)
                    .and_then(|domain| Sealing::begin(domain, headers.kept()));
            }
        }
        // The filter takes 256 KiB of header at most.
        self.header_size = Some(u32::try_from(self.buffer.len()).unwrap_or(u32::MAX));
        Ok(())
    }
}

/// The address of a client that has none: nobody's.
const UNKNOWN: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// 452 4.3.1: the header fields need more memory than there is.
fn no_room() -> Refusal {
    let text = "Too many messages arrive at once for a header so large, try again in a minute";
    Refusal {
        why: Rejection::STORAGE_FULL,
        text: text.into(),
        close: false,
    }
}

/// 550 5.6.0: octets that nobody may send without BINARYMIME. RFC 5321 §2.3.8, RFC 3030 §3.
fn bare_octets() -> Refusal {
    let text =
        "The message holds a NUL, or a CR or LF alone; encode it, or end its lines with CRLF";
    Refusal {
        why: Rejection::BAD_MESSAGE,
        text: text.into(),
        close: false,
    }
}
