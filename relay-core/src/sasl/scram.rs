//! What both sides of SCRAM share: the messages, their attributes and the arithmetic.
//!
//! RFC 5802 §5.1 (attributes), §6 (channel binding), §7 (grammar).

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

/// RFC 9266: the only channel binding that is spoken here.
pub(super) const BINDING_NAME: &str = "tls-exporter";

/// The longest nonce of the peer that is taken, in octets.
pub(super) const NONCE_LEN_MAX: usize = 512;

/// Random octets in a nonce of ours; base64 makes 24 characters of them.
pub(super) const NONCE_OCTETS: usize = 18;

/// HMAC-SHA-256 of parts, one after the other.
pub(super) fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    // Fixed-size keys cannot fail: the block is 64 octets.
    let mut block = [0; 64];
    block[..32].copy_from_slice(key);
    let mut mac = Hmac::<Sha256>::new(&block.into());
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// SHA-256.
pub(super) fn hash(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// A ⊕ B.
pub(super) fn xor(a: &[u8; 32], b: &[u8; 32]) -> [u8; 32] {
    std::array::from_fn(|i| a[i] ^ b[i])
}

/// The value of an attribute `k=value`.
pub(super) fn attribute(text: &str, key: char) -> Option<&str> {
    text.strip_prefix(key)?.strip_prefix('=')
}

/// Whether a peer's nonce is of RFC 5802 §7: 1* of printable ASCII without a comma.
pub(super) fn is_nonce(nonce: &str) -> bool {
    (1..=NONCE_LEN_MAX).contains(&nonce.len())
        && nonce.bytes().all(|b| b.is_ascii_graphic() && b != b',')
}

/// A name as a saslname: `=` and `,` are written `=3D` and `=2C`.
pub(super) fn escape(name: &str) -> String {
    name.replace('=', "=3D").replace(',', "=2C")
}

/// A saslname as a name. None if an `=` begins neither `=2C` nor `=3D`, or if it is empty.
pub(super) fn unescape(saslname: &str) -> Option<String> {
    if saslname.is_empty() || saslname.contains('\0') {
        return None;
    }
    let mut parts = saslname.split('=');
    let mut name = parts.next()?.to_owned();
    for part in parts {
        let (sign, rest) = match part {
            _ if part.starts_with("2C") => (',', &part[2..]),
            _ if part.starts_with("3D") => ('=', &part[2..]),
            _ => return None,
        };
        name.push(sign);
        name.push_str(rest);
    }
    Some(name)
}

/// The gs2-cbind-flag of a client's first message: RFC 5802 §7.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BindingFlag {
    /// `n`: the client cannot bind.
    Unsupported,
    /// `y`: the client can, and thinks that the server cannot.
    NotOffered,
    /// `p=tls-exporter`: the client binds.
    Bound,
}

/// A client's first message, taken apart.
#[derive(Debug)]
pub(super) struct ClientFirst<'a> {
    /// The binding flag.
    pub(super) flag: BindingFlag,
    /// The gs2-header, which `c=` of the final message repeats.
    pub(super) header: &'a str,
    /// The rest, which is signed.
    pub(super) bare: &'a str,
    /// The name, unescaped.
    pub(super) name: String,
    /// The client's nonce.
    pub(super) nonce: &'a str,
}

impl<'a> ClientFirst<'a> {
    /// Reads `gs2-header client-first-message-bare`. None for all that is not of RFC 5802 §7, that asks
    /// to act as another, or that has a mandatory extension (`m=`), since there is none that we know.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let (flag_text, rest) = text.split_once(',')?;
        let flag = match flag_text {
            "n" => BindingFlag::Unsupported,
            "y" => BindingFlag::NotOffered,
            bound if attribute(bound, 'p') == Some(BINDING_NAME) => BindingFlag::Bound,
            _ => return None,
        };
        let (authzid, bare) = rest.split_once(',')?;
        let mut attributes = bare.split(',');
        let name = unescape(attribute(attributes.next()?, 'n')?)?;
        let nonce = attribute(attributes.next()?, 'r')?;
        let acts_as_itself =
            authzid.is_empty() || attribute(authzid, 'a').and_then(unescape)? == name;
        if !acts_as_itself || !is_nonce(nonce) || !attributes.all(is_extension) {
            return None;
        }
        let header = &text[..text.len() - bare.len()];
        Some(Self {
            flag,
            header,
            bare,
            name,
            nonce,
        })
    }
}

/// A client's final message, taken apart.
#[derive(Debug)]
pub(super) struct ClientFinal<'a> {
    /// What is signed: all but the proof.
    pub(super) without_proof: &'a str,
    /// `c=`, in base64.
    pub(super) binding: &'a str,
    /// `r=`
    pub(super) nonce: &'a str,
    /// `p=`, in base64.
    pub(super) proof: &'a str,
}

impl<'a> ClientFinal<'a> {
    /// Reads `c=…,r=…[,extensions],p=…`.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let (without_proof, proof) = text.rsplit_once(',')?;
        let proof = attribute(proof, 'p')?;
        let mut attributes = without_proof.split(',');
        let binding = attribute(attributes.next()?, 'c')?;
        let nonce = attribute(attributes.next()?, 'r')?;
        attributes.all(is_extension).then_some(Self {
            without_proof,
            binding,
            nonce,
            proof,
        })
    }
}

/// An optional extension: a letter, `=`, a value. `m=` is never optional.
pub(super) fn is_extension(attribute: &str) -> bool {
    let mut chars = attribute.chars();
    let letter = chars.next();
    letter.is_some_and(|c| c.is_ascii_alphabetic() && c != 'm')
        && chars.next() == Some('=')
        && chars.next().is_some()
}
