//! What a message needs of a host, and the parameters of MAIL and RCPT that follow from what it offers.
//!
//! RFC 1870 §6; RFC 3030 §3; RFC 3461 §5.1; RFC 6152 §3; RFC 6531 §3.

use smtp_proto::client::Capabilities;
use smtp_proto::{BodyType, Extension, MailParams, RcptParams};

use super::finding::Need;
use super::io::Loaded;
use crate::queue::message::{BodyKind, Envelope, Recipient};

/// What the message needs and the host does not offer. Nothing is converted on the way: a signature
/// over the body would break.
pub(super) fn lacks(envelope: &Envelope, size: u64, offers: &Capabilities) -> Option<Need> {
    let has = |extension| offers.has(extension);
    let utf8_needed =
        envelope.smtputf8 && (envelope.body != BodyKind::SevenBit || !envelope.from.is_ascii());
    if utf8_needed && !has(Extension::SmtpUtf8) {
        return Some(Need::SmtpUtf8);
    }
    match envelope.body {
        BodyKind::EightBit if !has(Extension::EightBitMime) => return Some(Need::EightBitMime),
        BodyKind::Binary if !has(Extension::BinaryMime) => return Some(Need::BinaryMime),
        BodyKind::SevenBit | BodyKind::EightBit | BodyKind::Binary => {}
    }
    // RFC 1870 §6.1: the client need not ask for what was already refused.
    offers.size_max.filter(|&max| size > max).map(Need::Size)
}

/// The parameters of MAIL, of a message that lacks nothing.
pub(super) fn mail_params(loaded: &Loaded, offers: &Capabilities) -> MailParams {
    let message = &loaded.message;
    let envelope = &message.envelope;
    let dsn = offers.has(Extension::Dsn);
    MailParams {
        size: offers.has(Extension::Size).then_some(message.size),
        body: match envelope.body {
            BodyKind::SevenBit => None,
            BodyKind::EightBit => Some(BodyType::EightBitMime),
            BodyKind::Binary => Some(BodyType::BinaryMime),
        },
        smtputf8: envelope.smtputf8 && offers.has(Extension::SmtpUtf8),
        ret: envelope.ret.filter(|_| dsn),
        envid: envelope.envid.clone().filter(|_| dsn),
        ..MailParams::default()
    }
}

/// The parameters of RCPT. `utf8`: SMTPUTF8 is in use.
pub(super) fn rcpt_params(to: &Recipient, utf8: bool, offers: &Capabilities) -> RcptParams {
    if !offers.has(Extension::Dsn) {
        return RcptParams::default();
    }
    RcptParams {
        notify: to.notify.unwrap_or_default(),
        orcpt: to.orcpt.clone().filter(|orcpt| utf8 || orcpt.is_ascii()),
    }
}
