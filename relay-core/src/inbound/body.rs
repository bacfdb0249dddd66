//! What is read of a message while it comes in: its header block whole, its body only in passing.
//!
//! ```text
//!   pieces ──push──▶ header block is held ──(empty line)──▶ Headers: facts, refusals, what to prepend
//!                                         └────────────────▶ body: passed on as it is, and looked at
//! ```
//!
//! The header block is kept byte for byte, but for Bcc, Resent-Bcc, the relay's own control fields and
//! verdicts that claim to be the relay's, which are taken out. The body is never changed. Content arrives without dot-stuffing.
//!
//! Implements RFC 5322 §2.2 (fields), §3.6 (which are needed), RFC 6409 §8 (what a submission server
//! adds), RFC 5321 §4.4 (Received), §6.3 (loops).

mod addresses;
mod received;

use std::ops::Range;

use memchr::{memchr, memchr2_iter, memmem};
use smtp_proto::server::Rejection;
use smtp_proto::{Domain, Mailbox};

use crate::config::Credential;
use crate::engine::Refusal;
use crate::queue::message::BodyKind;
use crate::verify::results;

pub use received::Received;

/// The longest header block, in octets.
pub const HEADER_MAX: usize = 256 * 1024;

/// The most Received fields; more are a loop. RFC 5321 §6.3: "at least 100".
pub const RECEIVED_MAX: usize = 100;

/// Fields whose names begin so are the relay's own instructions: they are taken out.
pub const CONTROL_PREFIX: &str = "X-Relay-";

/// Takes a message's content in pieces of any size, each line ended by CRLF.
#[derive(Debug)]
pub struct HeaderFilter {
    state: State,
    scan: Scan,
    rules: Rules,
}

/// What is taken out of a header block besides our control fields.
#[derive(Debug)]
struct Rules {
    /// Authentication-Results that claim to be those of this host. RFC 8601 §5.
    hostname: Option<String>,
    /// Bcc, of a submission. RFC 5322 §3.6.3. Mail from others reaches its reader as it is, and is
    /// kept as it came: signatures are of that.
    submission: bool,
}

#[derive(Debug)]
enum State {
    /// The header block so far, and from where on its end is to be looked for.
    Header {
        held: Vec<u8>,
        searched: usize,
    },
    Body(Headers),
}

impl Default for HeaderFilter {
    fn default() -> Self {
        Self::new()
    }
}

impl HeaderFilter {
    /// Before the first octet of a message of our own.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Rules {
            hostname: None,
            submission: true,
        })
    }

    /// Before the first octet of a submission to this host.
    #[must_use]
    pub fn submission(hostname: &Domain) -> Self {
        Self::with(Rules {
            hostname: Some(hostname.to_string()),
            submission: true,
        })
    }

    /// Before the first octet of a message that comes from others to this host.
    #[must_use]
    pub fn inbound(hostname: &Domain) -> Self {
        Self::with(Rules {
            hostname: Some(hostname.to_string()),
            submission: false,
        })
    }

    fn with(rules: Rules) -> Self {
        Self {
            state: State::Header {
                held: Vec::new(),
                searched: 0,
            },
            scan: Scan::default(),
            rules,
        }
    }

    /// Takes a piece; gives what of it belongs to the body and is to be kept as it is.
    ///
    /// [`HeaderFilter::headers`] has an answer as soon as the header block is complete. If that is to
    /// be refused, the rest of the content may be dropped without showing it to the filter.
    pub fn push<'i>(&mut self, piece: &'i [u8]) -> &'i [u8] {
        self.scan.push(piece);
        let State::Header { held, searched } = &mut self.state else {
            return piece;
        };
        let before = held.len();
        let room = (HEADER_MAX + 4).saturating_sub(before);
        held.extend_from_slice(&piece[..piece.len().min(room)]);
        let end = if held.starts_with(b"\r\n") {
            Some(2)
        } else {
            memmem::find(&held[*searched..], b"\r\n\r\n").map(|at| *searched + at + 4)
        };
        match end {
            Some(end) => {
                held.truncate(end);
                let held = std::mem::take(held);
                self.state = State::Body(Headers::read(held, &self.rules));
                &piece[end - before..]
            }
            None if held.len() > HEADER_MAX => {
                self.state = State::Body(Headers::too_large());
                &[]
            }
            None => {
                *searched = held.len().saturating_sub(3);
                &[]
            }
        }
    }

    /// The content is over. A message may end with its header block, without an empty line.
    pub fn finish(&mut self) {
        if let State::Header { held, .. } = &mut self.state {
            if !held.is_empty() && !held.ends_with(b"\r\n") {
                held.extend_from_slice(b"\r\n");
                self.scan.push(b"\r\n");
            }
            let held = std::mem::take(held);
            self.state = State::Body(Headers::read(held, &self.rules));
        }
    }

    /// How many octets are held because the header block is not complete.
    #[must_use]
    pub fn held(&self) -> usize {
        match &self.state {
            State::Header { held, .. } => held.len(),
            State::Body(_) => 0,
        }
    }

    /// What the header block says; none while it is not complete.
    #[must_use]
    pub fn headers(&self) -> Option<&Headers> {
        match &self.state {
            State::Header { .. } => None,
            State::Body(headers) => Some(headers),
        }
    }

    /// What the content so far is made of.
    #[must_use]
    pub fn kind(&self) -> BodyKind {
        if self.scan.nul || self.has_bare_cr_or_lf() {
            BodyKind::Binary
        } else if self.scan.eight_bit {
            BodyKind::EightBit
        } else {
            BodyKind::SevenBit
        }
    }

    /// Whether a CR or LF stood alone so far. RFC 5321 §2.3.8 forbids it outside BINARYMIME.
    #[must_use]
    pub fn has_bare_cr_or_lf(&self) -> bool {
        self.scan.bare || self.scan.ends_in_cr
    }

    /// Whether the content ends in CRLF, as everything after DATA does; after BDAT it need not.
    #[must_use]
    pub fn ends_in_crlf(&self) -> bool {
        self.scan.ends_in_crlf
    }
}

/// What can be seen of octets without understanding them.
#[derive(Debug, Default)]
struct Scan {
    eight_bit: bool,
    nul: bool,
    bare: bool,
    /// The last octet was a CR: whether it is bare depends on the next.
    ends_in_cr: bool,
    ends_in_crlf: bool,
}

impl Scan {
    fn push(&mut self, piece: &[u8]) {
        let Some(&last) = piece.last() else { return };
        self.eight_bit = self.eight_bit || !piece.is_ascii();
        self.nul = self.nul || memchr(0, piece).is_some();
        if !self.bare {
            self.bare = self.finds_bare(piece);
        }
        let cr_before_last = piece
            .len()
            .checked_sub(2)
            .map_or(self.ends_in_cr, |at| piece[at] == b'\r');
        self.ends_in_crlf = last == b'\n' && cr_before_last;
        self.ends_in_cr = last == b'\r';
    }

    fn finds_bare(&self, piece: &[u8]) -> bool {
        if self.ends_in_cr && piece[0] != b'\n' {
            return true;
        }
        // Each CR must have its LF next, and each LF its CR before.
        let mut paired = if self.ends_in_cr { Some(0) } else { None };
        for at in memchr2_iter(b'\r', b'\n', piece) {
            match (piece[at], paired) {
                (b'\r', None) if at + 1 == piece.len() => {}
                (b'\r', None) if piece[at + 1] == b'\n' => paired = Some(at + 1),
                (b'\n', Some(expected)) if expected == at => paired = None,
                _ => return true,
            }
        }
        false
    }
}

/// The mailboxes of From or Sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Author {
    /// No such field.
    Missing,
    /// More than one such field. RFC 5322 §3.6 allows one.
    Repeated,
    /// The field cannot be read, or receivers are known to read it in different ways.
    Malformed,
    /// One field with these; never empty.
    Mailboxes(Vec<Mailbox>),
}

/// Why a header block is refused before its fields are looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fault {
    TooLarge,
    /// The line with this number, from 1, begins no field and continues none.
    NotAField(usize),
    /// A CR or LF stands alone, in the line with this number.
    BareCrOrLf(usize),
    /// A NUL, in the line with this number.
    Nul(usize),
}

/// A complete header block.
#[derive(Debug)]
pub struct Headers {
    kept: Vec<u8>,
    /// The block as it came, where that matters: signatures of others are of that.
    original: Vec<u8>,
    fault: Option<Fault>,
    received: usize,
    date: bool,
    message_id: bool,
    tls_not_required: bool,
    from: Author,
    sender: Author,
}

impl Headers {
    /// What is kept of the header block, with the empty line at its end if it had one.
    #[must_use]
    pub fn kept(&self) -> &[u8] {
        &self.kept
    }

    /// The header block as it came, from others; empty for a submission.
    #[must_use]
    pub fn original(&self) -> &[u8] {
        &self.original
    }

    /// The From field.
    #[must_use]
    pub fn from(&self) -> &Author {
        &self.from
    }

    /// The Sender field.
    #[must_use]
    pub fn sender(&self) -> &Author {
        &self.sender
    }

    /// Received fields.
    #[must_use]
    pub fn received(&self) -> usize {
        self.received
    }

    /// Whether there is a Date field.
    #[must_use]
    pub fn has_date(&self) -> bool {
        self.date
    }

    /// Whether there is a Message-ID field.
    #[must_use]
    pub fn has_message_id(&self) -> bool {
        self.message_id
    }

    /// Whether a `TLS-Required: No` says that delivery matters more than TLS. RFC 8689 §3.
    #[must_use]
    pub fn tls_not_required(&self) -> bool {
        self.tls_not_required
    }

    /// Whether some octet is above 127: then the next hop must offer SMTPUTF8. RFC 6531 §3.2.
    #[must_use]
    pub fn needs_smtputf8(&self) -> bool {
        !self.kept.is_ascii()
    }

    /// Why the message is refused, whoever sent it: 550 5.6.0 for what is malformed or misses From,
    /// 552 5.3.4 for too much, 554 5.4.6 for a loop.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        let bad = |text: &str| refuse(Rejection::BAD_MESSAGE, text);
        match &self.fault {
            Some(Fault::TooLarge) => {
                let text = format!("The header is over {HEADER_MAX} octets; shorten it");
                return Some(refuse(Rejection::TOO_LARGE, &text));
            }
            Some(Fault::NotAField(line)) => {
                let text = "is no header field (RFC 5322 2.2); put an empty line before the body";
                return Some(bad(&format!("Line {line} of the header {text}")));
            }
            Some(Fault::BareCrOrLf(line)) => {
                let text = "holds a CR or LF alone; end each line with CRLF";
                return Some(bad(&format!("Line {line} of the header {text}")));
            }
            Some(Fault::Nul(line)) => {
                return Some(bad(&format!(
                    "Line {line} of the header holds a NUL; remove it"
                )));
            }
            None => {}
        }
        if self.received > RECEIVED_MAX {
            let text = format!("Mail loop: {} Received fields", self.received);
            return Some(refuse(Rejection::LOOP, &text));
        }
        match (&self.from, &self.sender) {
            (Author::Missing, _) => Some(bad("The From field is missing; add one (RFC 5322 3.6)")),
            (Author::Repeated, _) => Some(bad("There is more than one From field; keep one")),
            (Author::Malformed, _) => Some(bad(
                "The From field is malformed; write it as: Name <local@domain>, quoting the name",
            )),
            (_, Author::Repeated) => Some(bad("There is more than one Sender field; keep one")),
            (_, Author::Malformed) => Some(bad(
                "The Sender field is malformed; write it as: Name <local@domain>, quoting the name",
            )),
            // RFC 5322 §3.6.2: Sender "MUST appear" with several authors, and has one mailbox.
            (Author::Mailboxes(from), Author::Missing) if from.len() > 1 => Some(bad(
                "From names several mailboxes and there is no Sender field; add one",
            )),
            (_, Author::Mailboxes(sender)) if sender.len() > 1 => {
                Some(bad("The Sender field names several mailboxes; keep one"))
            }
            (Author::Mailboxes(_), Author::Missing | Author::Mailboxes(_)) => None,
        }
    }

    /// Why this credential may not send under these names: 553 5.7.1. Every mailbox of From and Sender
    /// must be one of its senders.
    #[must_use]
    pub fn refusal_for(&self, credential: &Credential) -> Option<Refusal> {
        [("From", &self.from), ("Sender", &self.sender)]
            .into_iter()
            .find_map(|(field, author)| {
                let Author::Mailboxes(mailboxes) = author else {
                    return None;
                };
                let wrong = mailboxes
                    .iter()
                    .find(|mailbox| !credential.allows(mailbox))?;
                Some(refuse_sender(credential, field, wrong))
            })
    }
}

/// The refusal of a sender in MAIL FROM or a field: 553 5.7.1, naming the credential and the address.
#[must_use]
pub fn refuse_sender(credential: &Credential, place: &str, address: &Mailbox) -> Refusal {
    let text = format!(
        "Credential {} may not send as <{address}> ({place}); use one of its senders",
        credential.name
    );
    refuse(Rejection::SENDER_NOT_ALLOWED, &text)
}

fn refuse(why: Rejection, text: &str) -> Refusal {
    Refusal {
        why,
        text: text.to_owned(),
        close: false,
    }
}

// Reading.

impl Headers {
    fn too_large() -> Self {
        let mut headers = Self::empty();
        headers.fault = Some(Fault::TooLarge);
        headers
    }

    fn empty() -> Self {
        Self {
            kept: Vec::new(),
            original: Vec::new(),
            fault: None,
            received: 0,
            date: false,
            message_id: false,
            tls_not_required: false,
            from: Author::Missing,
            sender: Author::Missing,
        }
    }

    /// Reads a block of lines that end in CRLF, an empty one last or none.
    fn read(block: Vec<u8>, rules: &Rules) -> Self {
        let mut headers = Self::empty();
        headers.kept.reserve_exact(block.len());
        let mut line = 1;
        for field in raw_fields(&block) {
            if field == b"\r\n" {
                headers.kept.extend_from_slice(field);
            } else if let Err(fault) = headers.take(field, line, rules) {
                headers.fault = Some(fault);
                return headers;
            }
            line += memmem::find_iter(field, b"\r\n").count();
        }
        if !rules.submission {
            headers.original = block;
        }
        headers
    }

    fn take(&mut self, field: &[u8], line: usize, rules: &Rules) -> Result<(), Fault> {
        let line_of = |at: usize| line + memmem::find_iter(&field[..at], b"\r\n").count();
        if let Some(at) = memchr(0, field) {
            return Err(Fault::Nul(line_of(at)));
        }
        if let Some(at) = bare_cr_or_lf(field) {
            return Err(Fault::BareCrOrLf(line_of(at)));
        }
        let (name, value) = split(field).ok_or(Fault::NotAField(line))?;
        // obs-fields (RFC 5322 §4.5) allow white space before the colon.
        let (name, obsolete) = match name.trim_ascii_end() {
            trimmed if trimmed.len() < name.len() => (trimmed, true),
            name => (name, false),
        };
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if is("From") {
            self.from.add(&field[value.clone()], obsolete);
        } else if is("Sender") {
            self.sender.add(&field[value.clone()], obsolete);
        } else if is("Date") {
            self.date = true;
        } else if is("Message-ID") {
            self.message_id = true;
        } else if is("Received") {
            self.received += 1;
        } else if is("TLS-Required") {
            self.tls_not_required |= field[value.clone()]
                .trim_ascii()
                .eq_ignore_ascii_case(b"No");
        }
        let blind = rules.submission && (is("Bcc") || is("Resent-Bcc"));
        let forged = rules
            .hostname
            .as_ref()
            .is_some_and(|us| is(results::NAME) && results::claims_to_be(&field[value], us));
        if blind || forged || is_control(name) {
            return Ok(());
        }
        self.kept.extend_from_slice(field);
        Ok(())
    }
}

impl Author {
    /// `obsolete`: the name is followed by white space, which some receivers take for another field.
    fn add(&mut self, value: &[u8], obsolete: bool) {
        *self = match self {
            Self::Missing if obsolete => Self::Malformed,
            Self::Missing => addresses::parse(value).map_or(Self::Malformed, Self::Mailboxes),
            Self::Repeated | Self::Malformed | Self::Mailboxes(_) => Self::Repeated,
        };
    }
}

fn is_control(name: &[u8]) -> bool {
    name.get(..CONTROL_PREFIX.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(CONTROL_PREFIX.as_bytes()))
}

/// The length of the first field with its continuation lines. RFC 5322 §2.2.3.
pub(super) fn field_len(block: &[u8]) -> usize {
    let mut at = 0;
    loop {
        let line = memmem::find(&block[at..], b"\r\n").map_or(block.len() - at, |end| end + 2);
        at += line;
        let continues = line > 2 && matches!(block.get(at), Some(b' ' | b'\t'));
        if !continues {
            return at;
        }
    }
}

/// The fields of a block, each with its continuation lines and CRLF; the empty line at its end is the last.
pub(crate) fn raw_fields(block: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let field = block.get(at..).filter(|rest| !rest.is_empty())?;
        let field = &field[..field_len(field)];
        at += field.len();
        Some(field)
    })
}

/// The fields of a block that was found in order: each one's name, without white space behind it, and its
/// value, from behind the colon to its CRLF.
pub(crate) fn fields(block: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    raw_fields(block).filter_map(|field| {
        let (name, value) = split(field)?;
        Some((name.trim_ascii_end(), &field[value]))
    })
}

/// The name of a field and where its value is. None if there is no colon after a name, which is
/// printable ASCII (RFC 5322 §2.2), white space behind it allowed.
fn split(field: &[u8]) -> Option<(&[u8], Range<usize>)> {
    let colon = memchr(b':', field)?;
    let name = &field[..colon];
    let letters = name.trim_ascii_end();
    let blanks = &name[letters.len()..];
    let printable = !letters.is_empty() && letters.iter().all(u8::is_ascii_graphic);
    let folded = memchr(b'\r', blanks).is_some();
    (printable && !folded).then(|| (name, colon + 1..field.len()))
}

fn bare_cr_or_lf(field: &[u8]) -> Option<usize> {
    memchr2_iter(b'\r', b'\n', field).find(|&at| match field[at] {
        b'\r' => field.get(at + 1) != Some(&b'\n'),
        _ => at == 0 || field[at - 1] != b'\r',
    })
}

#[cfg(test)]
mod tests;
