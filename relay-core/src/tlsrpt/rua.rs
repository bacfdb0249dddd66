//! Who wants reports: the TXT record at `_smtp._tls.DOMAIN`. RFC 8460 §3.

use smtp_proto::Mailbox;
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

/// The addresses that the TXT records of a domain name, without those that cannot be served. None if
/// there is not exactly one record: RFC 8460 §3: "If the number of resulting records is not one [..]
/// senders MUST assume the recipient domain does not implement TLSRPT."
#[must_use]
pub fn ruas<'t>(texts: impl IntoIterator<Item = &'t [u8]>) -> Vec<Rua> {
    let version = |text: &'t [u8]| {
        let rest = text.strip_prefix(b"v=TLSRPTv1")?.trim_ascii_start();
        std::str::from_utf8(rest.strip_prefix(b";")?).ok()
    };
    let mut ours = texts.into_iter().filter_map(version);
    let (Some(fields), None) = (ours.next(), ours.next()) else {
        return Vec::new();
    };
    let rua = fields
        .split(';')
        .find_map(|field| field.trim().strip_prefix("rua="));
    let uris = rua.unwrap_or_default().split(',');
    uris.filter_map(|uri| read(uri.trim()))
        .take(RUAS_MAX)
        .collect()
}

fn read(uri: &str) -> Option<Rua> {
    let (scheme, rest) = uri.split_once(':')?;
    if scheme.eq_ignore_ascii_case("mailto") {
        let address = rest.split('?').next()?;
        return Some(Rua::Mail(Mailbox::parse(&unescaped(address)?).ok()?));
    }
    if !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let uri: Uri = uri.parse().ok()?;
    let authority = uri.authority()?;
    if authority.as_str().contains('@') {
        return None;
    }
    Some(Rua::Https {
        host: uri.host()?.to_ascii_lowercase(),
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
