//! What a message needs of a host, and the parameters of MAIL and RCPT that follow from what it offers.
//!
//! RFC 1870 §6; RFC 2852 §4.1.4; RFC 3030 §3; RFC 3461 §5.2.1; RFC 4954 §5; RFC 6152 §3; RFC 6531 §3; RFC 6710
//! §4.2; RFC 8689 §4.2.1.

use smtp_proto::client::Capabilities;
use smtp_proto::{BodyType, ByMode, Extension, MailParams, RcptParams};

use super::finding::Need;
use super::io::Loaded;
use crate::queue::handling::{Handling, TlsWish};
use crate::queue::message::{BodyKind, Message, Recipient};
use crate::time::UnixTime;

/// What is known of a host besides its offers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    /// It is certain who it is: TLS with a certificate of the name that was to be reached.
    pub(super) verified: bool,
    /// It knows us: AUTH was accepted.
    pub(super) authenticated: bool,
    /// The time.
    pub(super) now: UnixTime,
}

/// What the message needs and the host does not offer. Nothing is converted on the way: a signature
/// over the body would break. `ascii`: MAIL FROM is.
pub(super) fn lacks(
    message: &Message,
    ascii: bool,
    offers: &Capabilities,
    host: Standing,
) -> Option<Need> {
    let has = |extension| offers.has(extension);
    let envelope = &message.envelope;
    if let Some(need) = handling_lacks(&envelope.handling, offers, host) {
        return Some(need);
    }
    let utf8_needed = envelope.smtputf8 && (envelope.body != BodyKind::SevenBit || !ascii);
    if utf8_needed && !has(Extension::SmtpUtf8) {
        return Some(Need::SmtpUtf8);
    }
    match envelope.body {
        BodyKind::EightBit if !has(Extension::EightBitMime) => return Some(Need::EightBitMime),
        BodyKind::Binary if !has(Extension::BinaryMime) => return Some(Need::BinaryMime),
        BodyKind::SevenBit | BodyKind::EightBit | BodyKind::Binary => {}
    }
    // RFC 1870 §6.1: the client need not ask for what was already refused.
    let size = message.size;
    offers.size_max.filter(|&max| size > max).map(Need::Size)
}

fn handling_lacks(wanted: &Handling, offers: &Capabilities, host: Standing) -> Option<Need> {
    if wanted.tls == TlsWish::Required {
        // RFC 8689 §4.2.1: the lookup, the certificate, and the extension, in this order.
        if !host.verified {
            return Some(Need::VerifiedTls);
        }
        if !offers.has(Extension::RequireTls) {
            return Some(Need::RequireTls);
        }
    }
    let deadline = wanted.deadline?;
    // What is only to be told of is told by us, and goes on without the parameter.
    match (deadline.mode, deadline.left(host.now)) {
        (ByMode::Notify, _) => None,
        (ByMode::Return, None) => Some(Need::Time),
        (ByMode::Return, Some(_)) if !offers.has(Extension::DeliverBy) => Some(Need::DeliverBy),
        (ByMode::Return, Some(_)) => None,
    }
}

/// The parameters of MAIL, of a message that lacks nothing.
pub(super) fn mail_params(loaded: &Loaded, offers: &Capabilities, host: Standing) -> MailParams {
    let message = &loaded.message;
    let envelope = &message.envelope;
    let wanted = &envelope.handling;
    let has = |extension| offers.has(extension);
    let dsn = has(Extension::Dsn);
    let submitter = wanted.submitter.clone().filter(|_| has(Extension::Auth));
    let by = wanted.deadline.filter(|_| has(Extension::DeliverBy));
    MailParams {
        size: has(Extension::Size).then_some(message.size),
        body: match envelope.body {
            BodyKind::SevenBit => None,
            BodyKind::EightBit => Some(BodyType::EightBitMime),
            BodyKind::Binary => Some(BodyType::BinaryMime),
        },
        smtputf8: envelope.smtputf8 && has(Extension::SmtpUtf8),
        ret: envelope.ret.filter(|_| dsn),
        envid: envelope.envid.clone().filter(|_| dsn),
        // RFC 4954 §5: said to those who have a reason to believe us.
        auth: submitter.filter(|_| host.authenticated),
        requiretls: wanted.tls == TlsWish::Required && has(Extension::RequireTls),
        // It was held here already.
        hold: None,
        by: by.and_then(|deadline| deadline.left(host.now)),
        mt_priority: wanted.priority.filter(|_| has(Extension::MtPriority)),
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
