//! The MAIL FROM of a message: its sender's own address, or one of ours for each recipient.
//!
//! The decision is that of [`crate::bounce::return_path`]; it is made here, at delivery, so that the stored
//! envelope keeps the sender, to whom our own reports go.

use std::borrow::Cow;
use std::sync::Arc;

use smtp_proto::{Domain, Notify, Occasion, ReversePath};

use crate::bounce::return_path::{Day, Keyring, Token};
use crate::config::Config;
use crate::id::MessageId;
use crate::queue::message::Message;

/// How a message's MAIL FROM is made, if not of its envelope.
#[derive(Debug, Clone)]
pub(super) struct Verp {
    keys: Arc<Keyring>,
    domain: Domain,
    message: MessageId,
    expires: Day,
}

impl Verp {
    /// For a message that is to leave under a return path that is still in use. A null sender stays
    /// null: reports are answered by nobody.
    pub(super) fn of(message: &Message, config: &Config) -> Option<Self> {
        let handling = &message.envelope.handling;
        let domain = handling.return_path.as_ref()?;
        let ready = handling.release.unwrap_or(message.accepted);
        if message.envelope.from == ReversePath::Null || !config.uses_return_path(domain) {
            return None;
        }
        Some(Self {
            keys: Arc::clone(config.return_path_keys.as_ref()?),
            domain: domain.clone(),
            message: message.id,
            expires: Day::last_for(ready, config.delivery.expire),
        })
    }

    fn sign(&self, recipient: u32) -> Option<ReversePath> {
        let token = Token {
            message: self.message,
            recipient,
            expires: self.expires,
        };
        let address = self.keys.sign(&self.domain, token)?;
        Some(ReversePath::Mailbox(address))
    }
}

/// The MAIL FROM of a transaction for the recipient with this index.
pub(super) fn mail_from<'m>(
    message: &'m Message,
    verp: Option<&Verp>,
    recipient: u32,
) -> Cow<'m, ReversePath> {
    let ours = verp.and_then(|verp| verp.sign(recipient));
    ours.map_or(Cow::Borrowed(&message.envelope.from), Cow::Owned)
}

/// What is asked of a host whose reports would come to us and not to the sender: all but success, which
/// we report ourselves. RFC 3461 §4.1: of nothing, NEVER is said.
pub(super) fn without_success(notify: Notify) -> Notify {
    if !notify.asks(Occasion::Success) {
        return notify;
    }
    let rest: Vec<Occasion> = [Occasion::Failure, Occasion::Delay]
        .into_iter()
        .filter(|&occasion| notify.asks(occasion))
        .collect();
    match rest.as_slice() {
        [] => Notify::NEVER,
        rest => Notify::on(rest),
    }
}
