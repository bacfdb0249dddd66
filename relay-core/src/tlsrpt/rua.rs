//! Who wants reports: the TXT record at `_smtp._tls.DOMAIN`. RFC 8460 §3.

use std::fmt;

use smtp_proto::{Domain, Mailbox};
use ureq_proto::http::Uri;

/// The most addresses of one domain that are served.
const RUAS_MAX: usize = 4;

/// Where a report goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rua {
    /// By mail.
    Mail(Mailbox),
    /// By HTTPS.
    Https {
        /// The host.
        host: String,
        /// Its port.
        port: u16,
        /// Path and query.
        path: String,
    },
}

impl fmt::Display for Rua {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mail(to) => write!(f, "mailto:{to}"),
            Self::Https {
                host,
                port: 443,
                path,
            } => write!(f, "https://{host}{path}"),
            Self::Https { host, port, path } => write!(f, "https://{host}:{port}{path}"),
        }
    }
}

/// What is wrong with the TXT records of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadRecord {
    /// None begins with `v=TLSRPTv1;`.
    None,
    /// More than one does.
    Several,
    /// A field that is no `name=value`.
    Field(String),
    /// No field is `rua=`.
    NoRua,
    /// An address that no report can be sent to.
    Uri(String),
}

impl fmt::Display for BadRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no TXT record begins with v=TLSRPTv1;"),
            Self::Several => f.write_str("more than one TXT record begins with v=TLSRPTv1;"),
            Self::Field(field) => write!(f, "{field:?} is not name=value"),
            Self::NoRua => f.write_str("it has no rua="),
            Self::Uri(uri) => write!(
                f,
                "rua={uri} is neither mailto: with an address nor https: with a host"
            ),
        }
    }
}

impl std::error::Error for BadRecord {}

/// The addresses that the TXT records of a domain name, without those that cannot be served. None if
/// there is not exactly one record: RFC 8460 §3: "If the number of resulting records is not one, senders
/// MUST assume the recipient domain does not implement TLSRPT."
#[must_use]
pub fn ruas<'t>(texts: impl IntoIterator<Item = &'t [u8]>) -> Vec<Rua> {
    let Ok(fields) = the_record(texts) else {
        return Vec::new();
    };
    let mut ruas: Vec<Rua> = Vec::new();
    for rua in uris(fields).into_iter().flatten().filter_map(read) {
        if ruas.len() < RUAS_MAX && !ruas.contains(&rua) {
            ruas.push(rua);
        }
    }
    ruas
}

/// The addresses of the record, if all of it is as RFC 8460 §3 has it.
///
/// # Errors
/// [`BadRecord`]: the first thing that is wrong.
pub fn check_record<'t>(texts: impl IntoIterator<Item = &'t [u8]>) -> Result<Vec<Rua>, BadRecord> {
    let fields = the_record(texts)?;
    let mut all = fields.split(';').map(str::trim).peekable();
    while let Some(field) = all.next() {
        let last = field.is_empty() && all.peek().is_none();
        let named = field.split_once('=').is_some_and(|(name, value)| {
            let alphanumeric = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
            (1..=32).contains(&name.len())
                && name.as_bytes()[0].is_ascii_alphanumeric()
                && name.bytes().all(alphanumeric)
                && !value.is_empty()
        });
        if !named && !last {
            return Err(BadRecord::Field(field.to_owned()));
        }
    }
    let uris = uris(fields).ok_or(BadRecord::NoRua)?;
    // "exclamation points (ASCII 0x21) [..] MUST be encoded"
    let good = |uri: &&str| !uri.contains('!');
    uris.map(|uri| {
        let found = Some(uri).filter(good).and_then(read);
        found.ok_or_else(|| BadRecord::Uri(uri.to_owned()))
    })
    .collect()
}

/// The fields of the one record that is TLS-RPT's.
fn the_record<'t>(texts: impl IntoIterator<Item = &'t [u8]>) -> Result<&'t str, BadRecord> {
    let version = |text: &'t [u8]| {
        let rest = text.strip_prefix(b"v=TLSRPTv1")?.trim_ascii_start();
        std::str::from_utf8(rest.strip_prefix(b";")?).ok()
    };
    let mut ours = texts.into_iter().filter_map(version);
    let fields = ours.next().ok_or(BadRecord::None)?;
    match ours.next() {
        Some(_) => Err(BadRecord::Several),
        None => Ok(fields),
    }
}

fn uris(fields: &str) -> Option<impl Iterator<Item = &str>> {
    let mut fields = fields.split(';');
    let rua = fields.find_map(|field| field.trim().strip_prefix("rua="))?;
    Some(rua.split(',').map(str::trim))
}

fn read(uri: &str) -> Option<Rua> {
    let (scheme, rest) = uri.split_once(':')?;
    if scheme.eq_ignore_ascii_case("mailto") {
        let address = rest.split('?').next()?;
        let mailbox = Mailbox::parse(&unescaped(address)?).ok()?;
        return mailbox.is_ascii().then_some(Rua::Mail(mailbox));
    }
    if !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let uri: Uri = uri.parse().ok()?;
    let authority = uri.authority()?;
    if authority.as_str().contains('@') {
        return None;
    }
    // It is looked for in the DNS, and its certificate must name it.
    let host = Domain::parse(uri.host()?).ok()?;
    Some(Rua::Https {
        host: host.as_str().to_ascii_lowercase(),
        port: uri.port_u16().unwrap_or(443),
        path: uri
            .path_and_query()
            .map_or("/", |path| path.as_str())
            .to_owned(),
    })
}

/// Percent-decoding. RFC 3986 §2.1.
fn unescaped(text: &str) -> Option<String> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&octet, tail)) = rest.split_first() {
        rest = tail;
        if octet != b'%' {
            octets.push(octet);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        octets.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(octets).ok()
}
