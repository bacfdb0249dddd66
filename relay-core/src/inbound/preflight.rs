//! Pre-flight: what receivers would hold against a message, found before they do.
//!
//! ```text
//!  header block, From ─┐
//!  lines, as they pass ─┼─▶ findings ─┬─ "off": not looked for
//!  signatures, envelope ┘             ├─ "tag": an event with the message's id
//!                                     └─ "reject": 550 5.7.x, with the rule and the fix
//! ```
//!
//! | rule | what it asks | who asks |
//! |---|---|---|
//! | `one-from` | From names exactly one mailbox | Gmail; RFC 7489 §6.6.1 |
//! | `aligned` | a signature of the From domain, or a MAIL FROM in it | Gmail, Yahoo, Microsoft, Apple; RFC 7489 §3.1 |
//! | `date` | Date is a date | RFC 5322 §3.3 |
//! | `message-id` | Message-ID is one | Gmail; RFC 5322 §3.6.4 |
//! | `once` | Date, From, Sender, Reply-To, To, Cc, Message-ID, In-Reply-To, References, Subject stand once | Gmail; RFC 5322 §3.6 |
//! | `header-syntax` | no blank before a colon, no blank continuation line, octets that are UTF-8 | RFC 5322 §2.2, §3.2.2, RFC 6532 §3.2 |
//! | `line-length` | no line over 998 octets | RFC 5322 §2.1.1 |
//! | `bulk-signed` | bulk mail has a signature of the From domain, whatever MAIL FROM is | Gmail, Yahoo, Microsoft |
//! | `bulk-unsubscribe` | bulk mail can be unsubscribed from with one click, under that signature | Gmail, Yahoo; RFC 8058 §3.1 |
//!
//! Bulk mail is what says so (`Precedence: bulk` or `list`, any `List-` field, `Feedback-ID`), and what
//! goes to `preflight.bulk_recipients` recipients or more at once.
//!
//! A missing Date or Message-ID is no finding, since the relay adds it. Nothing here asks the DNS: whether
//! the records are there is what `domain check` says.

use memchr::{memchr, memchr_iter};
use smtp_proto::server::Rejection;
use smtp_proto::{Domain, ReversePath};

use super::body::{Author, Headers, field_len, fields};
use super::envelope::refuse;
use crate::config::{Config, a_labels, is_or_is_under};
use crate::engine::Refusal;
use crate::queue::message::BodyKind;

/// The longest line, without its CRLF. RFC 5322 §2.1.1.
const LINE_MAX: usize = 998;

/// Fields that may stand once. RFC 5322 §3.6. (Bcc is taken out; more than one From is refused anyhow.)
const SINGLE: [&str; 9] = [
    "Date",
    "Sender",
    "Reply-To",
    "To",
    "Cc",
    "Message-ID",
    "In-Reply-To",
    "References",
    "Subject",
];

/// RFC 7372 §3.4: "Multiple authentication checks failed".
const UNAUTHENTICATED: Rejection = Rejection::permanent(550, 7, 26);

/// One thing that receivers would hold against a message.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Finding {
    /// The rule, by its name in the table above.
    pub rule: String,
    /// What is the matter.
    pub what: String,
    /// What to do about it.
    pub fix: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}; {}", self.rule, self.what, self.fix)
    }
}

/// The refusal of a message with these findings; none without one.
pub(super) fn refusal(findings: &[Finding]) -> Option<Refusal> {
    let (first, rest) = findings.split_first()?;
    let why = match first.rule.as_str() {
        "aligned" | "bulk-signed" => UNAUTHENTICATED,
        _ => Rejection::POLICY,
    };
    let mut text = format!("Pre-flight rule {first}");
    if !rest.is_empty() {
        let others: Vec<&str> = rest.iter().map(|other| other.rule.as_str()).collect();
        text.push_str(&format!(" (also: {})", others.join(", ")));
    }
    Some(refuse(why, text))
}

/// The lengths of lines, as they pass.
#[derive(Debug, Default)]
pub(super) struct Lines {
    current: usize,
    longest: usize,
}

impl Lines {
    pub(super) fn push(&mut self, piece: &[u8]) {
        let mut from = 0;
        for end in memchr_iter(b'\n', piece) {
            // The CR before it was counted.
            let line = (self.current + end - from).saturating_sub(1);
            self.longest = self.longest.max(line);
            (self.current, from) = (0, end + 1);
        }
        self.current += piece.len() - from;
    }

    fn longest(&self) -> usize {
        self.longest.max(self.current)
    }
}

/// What is known of a message when it is complete.
pub(super) struct Flight<'a> {
    pub(super) headers: &'a Headers,
    pub(super) from: &'a ReversePath,
    pub(super) return_path: Option<&'a Domain>,
    pub(super) recipients: usize,
    pub(super) kind: BodyKind,
    pub(super) lines: &'a Lines,
    /// A key of ours signed it.
    pub(super) signed: bool,
}

impl Flight<'_> {
    /// Everything that receivers would hold against it.
    pub(super) fn findings(&self, config: &Config) -> Vec<Finding> {
        let mut found = Vec::new();
        self.authors(config, &mut found);
        self.shape(&mut found);
        if self.is_bulk(config.preflight.bulk_recipients) {
            self.bulk(&mut found);
        }
        found
    }

    fn authors(&self, config: &Config, found: &mut Vec<Finding>) {
        let Author::Mailboxes(authors) = self.headers.from() else {
            // What has no author was refused before.
            return;
        };
        if authors.len() > 1 {
            let what = format!("From names {} mailboxes", authors.len());
            found.push(finding(
                "one-from",
                what,
                "name one, and the others in the text",
            ));
        }
        let Some(domain) = authors.first().and_then(smtp_proto::Mailbox::domain) else {
            let what = "From has no domain".to_owned();
            let fix = "send from an address with a domain";
            found.push(finding("aligned", what, fix));
            return;
        };
        if !self.signed_for(domain) && !self.sent_from(domain, config) {
            let name = a_labels(domain);
            let what = format!("neither a DKIM signature nor MAIL FROM is of {name}");
            let fix = format!("run: smtp-relay domain add {name}, or use a MAIL FROM in {name}");
            found.push(finding("aligned", what, &fix));
        }
    }

    /// Whether a signature vouches for this domain: ours, or one that the message brought along.
    fn signed_for(&self, domain: &Domain) -> bool {
        self.signed || self.brought().any(|tags| is_of(tags, domain))
    }

    /// Whether SPF is checked against this domain, or one that DMARC takes for the same: one above the
    /// other, or both under one `[[domain]]`. RFC 7489 §3.1.2.
    fn sent_from(&self, domain: &Domain, config: &Config) -> bool {
        if self.return_path.is_some() {
            // It was chosen by this domain; its own alignment is a matter of the configuration.
            return true;
        }
        let sender = self.from.mailbox().and_then(smtp_proto::Mailbox::domain);
        sender.is_some_and(|sender| {
            let both_under =
                |ours: &Domain| is_or_is_under(sender, ours) && is_or_is_under(domain, ours);
            is_or_is_under(sender, domain)
                || is_or_is_under(domain, sender)
                || config.domains.iter().any(|ours| both_under(&ours.name))
        })
    }

    fn shape(&self, found: &mut Vec<Finding>) {
        let mut values = self.values("Date");
        if let Some(date) = values.next()
            && !is_date(date)
        {
            let what = "Date is not a date".to_owned();
            let fix = "write it as: Mon, 23 Nov 2026 22:05:31 +0000";
            found.push(finding("date", what, fix));
        }
        if let Some(id) = self.values("Message-ID").next()
            && !is_message_id(id)
        {
            let what = "Message-ID is not one".to_owned();
            let fix = "write it as: <unique@your.domain>, or leave it out and one is made";
            found.push(finding("message-id", what, fix));
        }
        for name in SINGLE {
            let count = self.values(name).count();
            if count > 1 {
                found.push(finding(
                    "once",
                    format!("{name} stands {count} times"),
                    "keep one",
                ));
            }
        }
        if let Some(what) = syntax(self.headers.kept()) {
            found.push(finding(
                "header-syntax",
                what,
                "write the field anew (RFC 5322 2.2)",
            ));
        }
        let longest = self.lines.longest();
        if longest > LINE_MAX && self.kind != BodyKind::Binary {
            let what = format!("a line has {longest} octets, and {LINE_MAX} are allowed");
            let fix = "encode the body as quoted-printable or base64";
            found.push(finding("line-length", what, fix));
        }
    }

    fn is_bulk(&self, recipients: usize) -> bool {
        let says_so = |value: &[u8]| {
            let value = value.trim_ascii();
            value.eq_ignore_ascii_case(b"bulk") || value.eq_ignore_ascii_case(b"list")
        };
        let is_list = |(name, _): (&[u8], &[u8])| {
            let list = name
                .get(..5)
                .is_some_and(|start| start.eq_ignore_ascii_case(b"List-"));
            list || name.eq_ignore_ascii_case(b"Feedback-ID")
        };
        self.recipients >= recipients
            || fields(self.headers.kept()).any(is_list)
            || self.values("Precedence").any(says_so)
    }

    fn bulk(&self, found: &mut Vec<Finding>) {
        let author = match self.headers.from() {
            Author::Mailboxes(authors) => authors.first().and_then(smtp_proto::Mailbox::domain),
            Author::Missing | Author::Repeated | Author::Malformed => None,
        };
        let Some(author) = author else { return };
        let name = a_labels(author);
        if !self.signed_for(author) {
            let what = format!("bulk mail without a DKIM signature of {name}");
            let fix = format!("run: smtp-relay domain add {name}");
            found.push(finding("bulk-signed", what, &fix));
        }
        if let Some(what) = self.unsubscribe(author) {
            let fix = "add List-Unsubscribe: <https://...> and List-Unsubscribe-Post: \
                       List-Unsubscribe=One-Click (RFC 8058)";
            found.push(finding("bulk-unsubscribe", what, fix));
        }
    }

    /// Why it cannot be unsubscribed from with one click. RFC 8058 §3.1.
    fn unsubscribe(&self, author: &Domain) -> Option<String> {
        let said = |text: &str| Some(text.to_owned());
        let mut links = self.values("List-Unsubscribe");
        let (Some(link), None) = (links.next(), links.next()) else {
            return said("bulk mail needs one List-Unsubscribe field");
        };
        if !has_https(link) {
            return said("List-Unsubscribe has no https link");
        }
        let mut posts = self.values("List-Unsubscribe-Post");
        let post = (posts.next(), posts.next());
        let one_click = |value: &[u8]| {
            let value: Vec<u8> = value
                .iter()
                .filter(|b| !b.is_ascii_whitespace())
                .copied()
                .collect();
            value.eq_ignore_ascii_case(b"List-Unsubscribe=One-Click")
        };
        if !matches!(post, (Some(value), None) if one_click(value)) {
            return said("bulk mail needs List-Unsubscribe-Post: List-Unsubscribe=One-Click");
        }
        // RFC 8058 §4: both "MUST be covered by the signature". Ours covers them.
        let covers = |tags: &[u8]| {
            is_of(tags, author)
                && ["List-Unsubscribe", "List-Unsubscribe-Post"]
                    .iter()
                    .all(|wanted| {
                        let names = tag(tags, b"h").unwrap_or_default();
                        names
                            .split(|b| *b == b':')
                            .any(|name| name.eq_ignore_ascii_case(wanted.as_bytes()))
                    })
        };
        if !self.signed && !self.brought().any(covers) {
            return said("no DKIM signature covers List-Unsubscribe and List-Unsubscribe-Post");
        }
        None
    }

    /// The values of a field, in order.
    fn values<'n>(&'n self, name: &'n str) -> impl Iterator<Item = &'n [u8]> {
        let all = fields(self.headers.kept());
        all.filter(move |(field, _)| field.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
    }

    /// Signatures that it came with. They are taken at their word.
    fn brought(&self) -> impl Iterator<Item = &[u8]> {
        self.values("DKIM-Signature")
    }
}

fn finding(rule: &str, what: String, fix: &str) -> Finding {
    Finding {
        rule: rule.to_owned(),
        what,
        fix: fix.to_owned(),
    }
}

/// Whether a signature is of a domain, or of one above or under it.
fn is_of(tags: &[u8], domain: &Domain) -> bool {
    let signer = tag(tags, b"d").and_then(|d| String::from_utf8(d).ok());
    let signer = signer.and_then(|signer| Domain::parse(&signer).ok());
    signer.is_some_and(|d| is_or_is_under(&d, domain) || is_or_is_under(domain, &d))
}

/// The value of a tag without white space. RFC 6376 §3.2.
fn tag(tags: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    tags.split(|b| *b == b';').find_map(|tag| {
        let equals = memchr(b'=', tag)?;
        let value = tag[equals + 1..]
            .iter()
            .filter(|b| !b.is_ascii_whitespace());
        (tag[..equals].trim_ascii() == name).then(|| value.copied().collect())
    })
}

fn is_date(value: &[u8]) -> bool {
    let text = unfolded(value);
    let parser = jiff::fmt::rfc2822::DateTimeParser::new();
    parser.parse_zoned_datetime(text.trim()).is_ok()
}

/// `<left@right>`, printable, without blanks. RFC 5322 §3.6.4; what else people write there is taken.
fn is_message_id(value: &[u8]) -> bool {
    let inner = value
        .trim_ascii()
        .strip_prefix(b"<")
        .and_then(|rest| rest.strip_suffix(b">"));
    inner.is_some_and(|inner| {
        let printable = |b: &u8| (b.is_ascii_graphic() || *b > 127) && !matches!(b, b'<' | b'>');
        let at = memchr(b'@', inner);
        at.is_some_and(|at| at > 0 && at + 1 < inner.len()) && inner.iter().all(printable)
    })
}

fn unfolded(value: &[u8]) -> String {
    String::from_utf8_lossy(value).replace("\r\n", "")
}

/// Whether one of the links between angle brackets is https. RFC 8058 §3.1.
fn has_https(value: &[u8]) -> bool {
    let text = unfolded(value);
    let mut links = text
        .split('<')
        .skip(1)
        .filter_map(|rest| rest.split_once('>'));
    links.any(|(link, _)| {
        let link: String = link.split_whitespace().collect();
        let scheme = link.get(..8);
        scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://")) && link.len() > 8
    })
}

/// What is wrong with the header block as such.
fn syntax(block: &[u8]) -> Option<String> {
    if std::str::from_utf8(block).is_err() {
        return Some("the header holds octets that are not UTF-8".to_owned());
    }
    let mut rest = block;
    while !rest.is_empty() && !rest.starts_with(b"\r\n") {
        let (field, after) = rest.split_at(field_len(rest));
        rest = after;
        let colon = memchr(b':', field)?;
        let name = String::from_utf8_lossy(field[..colon].trim_ascii_end()).into_owned();
        if field[..colon].ends_with(b" ") || field[..colon].ends_with(b"\t") {
            return Some(format!("{name} has a blank before its colon"));
        }
        // RFC 5322 §3.2.2: a line of nothing but white space is not to be made by folding.
        let lines = field.split(|b| *b == b'\n').skip(1);
        if lines
            .filter(|line| !line.is_empty())
            .any(|line| line.trim_ascii().is_empty())
        {
            return Some(format!("{name} has a continuation line that is blank"));
        }
    }
    None
}

#[cfg(test)]
mod tests;
