//! What a signature field and a key record say: tag lists as values.
//!
//! RFC 6376 §3.2 (tag lists), §3.5 (DKIM-Signature), §3.6.1 (key records), §6.1.1 and §6.1.2 (what
//! makes them unusable), RFC 8301 §3.1 (no SHA-1), RFC 8463 (Ed25519), RFC 8617 §4.1 (ARC's fields).

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::crypto::Algorithm;
use super::header::Form;

/// The most names in `h=`.
const NAMES_MAX: usize = 250;

/// The most tags of a list.
const TAGS_MAX: usize = 50;

/// Why a field or a record is of no use, in words.
pub(super) type Unusable = &'static str;

/// A DKIM-Signature or an ARC-Message-Signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signature {
    pub(super) algorithm: Algorithm,
    pub(super) signature: Vec<u8>,
    /// How `b=` begins: what tells signatures of one domain apart. RFC 6008.
    pub(super) start: String,
    pub(super) body_hash: Vec<u8>,
    pub(super) header_form: Form,
    pub(super) body_form: Form,
    pub(super) domain: String,
    pub(super) selector: String,
    /// In small letters.
    pub(super) names: Vec<String>,
    /// The domain of `i=`.
    pub(super) identity: String,
    /// `l=`
    pub(super) length: Option<u64>,
    pub(super) expires: Option<u64>,
}

/// An ARC-Seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seal {
    pub(super) chain: ChainState,
    pub(super) algorithm: Algorithm,
    pub(super) signature: Vec<u8>,
    pub(super) domain: String,
    pub(super) selector: String,
}

/// `cv=`: what the one who sealed made of the chain before. RFC 8617 §4.4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChainState {
    None,
    Pass,
    Fail,
}

/// Which kind of field a signature stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// DKIM-Signature.
    Dkim,
    /// ARC-Message-Signature: `i=` is its instance, and there is no `v=`.
    Arc,
}

/// A tag list.
pub(super) struct Tags<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Tags<'a> {
    /// Reads a tag list; white space around names and values is not part of them.
    pub(super) fn parse(text: &'a [u8]) -> Result<Self, Unusable> {
        let text = std::str::from_utf8(text).map_err(|_| "it is not UTF-8")?;
        let mut tags: Vec<(&str, &str)> = Vec::new();
        let mut specs = text.split(';').peekable();
        while let Some(spec) = specs.next() {
            let spec = trim(spec);
            if spec.is_empty() && specs.peek().is_none() {
                break;
            }
            let (name, value) = spec.split_once('=').ok_or("a tag has no value")?;
            let (name, value) = (trim(name), trim(value));
            let inside = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if !name.starts_with(|c: char| c.is_ascii_alphabetic()) || !name.chars().all(inside) {
                return Err("a tag has no name");
            }
            // "Tags with duplicate names MUST NOT occur within a single tag-list".
            if tags.iter().any(|(other, _)| *other == name) {
                return Err("a tag is there twice");
            }
            if tags.len() == TAGS_MAX {
                return Err("it has too many tags");
            }
            tags.push((name, value));
        }
        Ok(Self(tags))
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        let tag = self.0.iter().find(|(other, _)| *other == name);
        tag.map(|(_, value)| *value)
    }

    /// The name of the first tag.
    pub(super) fn first(&self) -> Option<&'a str> {
        self.0.first().map(|(name, _)| *name)
    }
}

impl Signature {
    /// Reads the value of a field.
    pub(super) fn parse(value: &[u8], kind: Kind) -> Result<Self, Unusable> {
        let tags = Tags::parse(value)?;
        if kind == Kind::Dkim && tags.get("v") != Some("1") {
            return Err("v= is not 1");
        }
        let algorithm = algorithm(&tags)?;
        let domain = domain(&tags)?;
        let selector = selector(&tags)?;
        let (header_form, body_form) = forms(tags.get("c").unwrap_or("simple/simple"))?;
        let names: Vec<String> = tags
            .get("h")
            .ok_or("there is no h=")?
            .split(':')
            .map(|name| trim(name).to_ascii_lowercase())
            .collect();
        if names.len() > NAMES_MAX {
            return Err("h= is too long");
        }
        if !names.iter().any(|name| name == "from") {
            return Err("h= does not list From");
        }
        let identity = match (kind, tags.get("i")) {
            (Kind::Dkim, Some(identity)) => {
                let (_, identity) = identity.rsplit_once('@').ok_or("i= has no @")?;
                let identity = trim(identity).to_ascii_lowercase();
                if !is_or_is_under(&identity, &domain) {
                    return Err("i= is not under d=");
                }
                identity
            }
            (Kind::Dkim, None) | (Kind::Arc, _) => domain.clone(),
        };
        if let Some(methods) = tags.get("q")
            && !methods.split(':').any(|method| trim(method) == "dns/txt")
        {
            return Err("q= is not dns/txt");
        }
        let text = tags.get("b").ok_or("there is no b=")?;
        let (time, expires) = (number(&tags, "t")?, number(&tags, "x")?);
        if let (Some(time), Some(expires)) = (time, expires)
            && expires <= time
        {
            return Err("x= is not after t=");
        }
        Ok(Self {
            algorithm,
            signature: base64(text).ok_or("b= is no base64")?,
            start: text.chars().filter(|c| !is_blank(*c)).take(8).collect(),
            body_hash: base64(tags.get("bh").ok_or("there is no bh=")?)
                .ok_or("bh= is no base64")?,
            header_form,
            body_form,
            domain,
            selector,
            names,
            identity,
            length: number(&tags, "l")?,
            expires,
        })
    }

    /// The name of the record with its key.
    pub(super) fn key_name(&self) -> String {
        key_name(&self.selector, &self.domain)
    }
}

impl Seal {
    /// Reads the value of an ARC-Seal.
    pub(super) fn parse(value: &[u8]) -> Result<Self, Unusable> {
        let tags = Tags::parse(value)?;
        // RFC 8617 §4.1.3: a seal with the tag `h` makes the chain fail.
        if tags.get("h").is_some() || tags.get("bh").is_some() {
            return Err("an ARC-Seal has h=");
        }
        Ok(Self {
            chain: match tags.get("cv") {
                Some("none") => ChainState::None,
                Some("pass") => ChainState::Pass,
                Some("fail") => ChainState::Fail,
                Some(_) | None => return Err("cv= is none of none, pass and fail"),
            },
            algorithm: algorithm(&tags)?,
            signature: base64(tags.get("b").ok_or("there is no b=")?).ok_or("b= is no base64")?,
            domain: domain(&tags)?,
            selector: selector(&tags)?,
        })
    }

    /// The name of the record with its key.
    pub(super) fn key_name(&self) -> String {
        key_name(&self.selector, &self.domain)
    }
}

/// The instance that an ARC field says it belongs to. RFC 8617 §4.2.1.
pub(super) fn instance(value: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(value).ok()?;
    let number = text.split(';').find_map(|spec| {
        let (name, value) = spec.split_once('=')?;
        (trim(name) == "i").then(|| trim(value))
    })?;
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    number.parse().ok().filter(|_| digits)
}

/// A key from the DNS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyRecord {
    pub(super) algorithm: Algorithm,
    pub(super) key: Vec<u8>,
    /// `t=s`: `i=` must be `d=` itself.
    pub(super) strict: bool,
}

impl KeyRecord {
    /// Reads a TXT record. RFC 6376 §3.6.1.
    pub(super) fn parse(text: &[u8]) -> Result<Self, Unusable> {
        let tags = Tags::parse(text)?;
        match tags.get("v") {
            Some("DKIM1") if tags.first() == Some("v") => {}
            None => {}
            Some(_) => return Err("the key record has another version"),
        }
        let algorithm = match tags.get("k").unwrap_or("rsa") {
            "rsa" => Algorithm::Rsa,
            "ed25519" => Algorithm::Ed25519,
            _ => return Err("the key is of an unknown kind"),
        };
        let lists = |tag: &str, one: &[&str]| {
            let listed = |list: &str| list.split(':').any(|item| one.contains(&trim(item)));
            tags.get(tag).is_none_or(listed)
        };
        if !lists("h", &["sha256"]) {
            return Err("the key is not for sha256");
        }
        if !lists("s", &["*", "email"]) {
            return Err("the key is not for mail");
        }
        let key = tags.get("p").ok_or("the key record has no p=")?;
        if key.is_empty() {
            return Err("the key was revoked");
        }
        Ok(Self {
            algorithm,
            key: base64(key).ok_or("the key is no base64")?,
            strict: tags.get("t").is_some() && lists("t", &["s"]),
        })
    }
}

fn algorithm(tags: &Tags<'_>) -> Result<Algorithm, Unusable> {
    match tags.get("a").ok_or("there is no a=")? {
        "rsa-sha256" => Ok(Algorithm::Rsa),
        "ed25519-sha256" => Ok(Algorithm::Ed25519),
        // RFC 8301 §3.1: "MUST NOT be used for signing or verifying."
        "rsa-sha1" => Err("rsa-sha1 is no longer a signature"),
        _ => Err("the algorithm is unknown"),
    }
}

fn domain(tags: &Tags<'_>) -> Result<String, Unusable> {
    let domain = tags.get("d").ok_or("there is no d=")?.to_ascii_lowercase();
    is_name(&domain).then_some(domain).ok_or("d= is no domain")
}

fn selector(tags: &Tags<'_>) -> Result<String, Unusable> {
    let selector = tags.get("s").ok_or("there is no s=")?.to_ascii_lowercase();
    is_name(&selector)
        .then_some(selector)
        .ok_or("s= is no selector")
}

fn key_name(selector: &str, domain: &str) -> String {
    format!("{selector}._domainkey.{domain}")
}

fn forms(text: &str) -> Result<(Form, Form), Unusable> {
    let form = |text: &str| match text {
        "simple" => Ok(Form::Simple),
        "relaxed" => Ok(Form::Relaxed),
        _ => Err("c= names an unknown form"),
    };
    let (header, body) = text.split_once('/').unwrap_or((text, "simple"));
    Ok((form(trim(header))?, form(trim(body))?))
}

fn number(tags: &Tags<'_>, name: &str) -> Result<Option<u64>, Unusable> {
    let Some(text) = tags.get(name) else {
        return Ok(None);
    };
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err("t=, x= or l= is no number");
    }
    Ok(Some(text.parse().unwrap_or(u64::MAX)))
}

/// A name of labels that the DNS has and a header field can show.
pub(super) fn is_name(text: &str) -> bool {
    let inside = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(inside);
    text.len() <= 253 && text.split('.').all(label)
}

pub(super) fn is_or_is_under(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn trim(text: &str) -> &str {
    text.trim_matches(is_blank)
}

/// Base64 with white space anywhere. RFC 6376 §2.10.
fn base64(text: &str) -> Option<Vec<u8>> {
    const ENGINE: GeneralPurpose = GeneralPurpose::new(
        &STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_padding_mode(DecodePaddingMode::Indifferent)
            .with_decode_allow_trailing_bits(true),
    );
    let text: String = text.chars().filter(|c| !is_blank(*c)).collect();
    ENGINE.decode(text).ok()
}
