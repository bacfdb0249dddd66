//! The rules of MAIL and RCPT: who may send as whom, and which recipients are none.
//!
//! RFC 6409 §6.1 (who may send), RFC 5321 §4.5.1 (postmaster), §4.5.3.1.10 (how many recipients).

use std::net::IpAddr;
use std::sync::Arc;

use smtp_proto::server::{Mail, Rcpt, Rejection};
use smtp_proto::{Domain, ForwardPath, Host, Mailbox, Notify, RcptParams, ReversePath};

use super::body::refuse_sender;
use super::content::{Sender, Transaction};
use super::owed::Chore;
use super::session::{Session, State};
use super::{Answer, Request};
use crate::config::{Config, Credential, DomainPattern, SenderPattern};
use crate::engine::{self, Ask, Refusal};
use crate::queue::message::Recipient;

/// Whom a session acts as. Nobody sends nothing: RCPT is never accepted for nobody.
#[derive(Debug, Clone, Default)]
pub(super) enum Client {
    /// No one yet.
    #[default]
    Nobody,
    /// The credential of the listener's trusted networks.
    Trusted(Arc<Credential>),
    /// It proved to be this one.
    Authenticated(Arc<Credential>),
    /// Anybody who brings mail to the domains that we take it for.
    Stranger,
}

impl Client {
    /// The credential that it acts as.
    pub(super) fn credential(&self) -> Option<&Arc<Credential>> {
        match self {
            Self::Nobody | Self::Stranger => None,
            Self::Trusted(credential) | Self::Authenticated(credential) => Some(credential),
        }
    }

    /// In whose name it hands messages in, if it may.
    fn sender(&self) -> Option<Sender> {
        match self {
            Self::Stranger => Some(Sender::Stranger),
            Self::Nobody | Self::Trusted(_) | Self::Authenticated(_) => self
                .credential()
                .map(|credential| Sender::User(Arc::clone(credential))),
        }
    }

    /// Whether it proved who it is.
    pub(super) fn is_authenticated(&self) -> bool {
        matches!(self, Self::Authenticated(_))
    }
}

impl Session {
    /// The client said MAIL.
    pub(super) fn mail(&mut self, mail: Mail) {
        let Some(sender) = self.client.sender() else {
            let text = "Authenticate first: this relay sends for its own users only";
            return self.reject(&refuse(Rejection::AUTH_REQUIRED, text.into()));
        };
        self.request = Some(Request::Engine(Ask::Mail {
            credential: sender.name().to_owned(),
            from: mail.from.clone(),
            size: mail.params.size,
        }));
        self.state = State::Mail(Box::new(mail));
    }

    /// The engine's answer to it.
    pub(super) fn mail_answered(&mut self, mail: Mail, answer: Answer) {
        match (answer, self.client.sender()) {
            (Answer::Engine(engine::Answer::Mail { id, room, config }), Some(_)) => {
                let sender = match self.client_now(config, &mail.from) {
                    Ok(sender) => sender,
                    Err(refusal) => {
                        self.chores.push(Chore::Abandon(id));
                        return self.reject(&refusal);
                    }
                };
                let mut transaction =
                    Transaction::new(id, mail.from, mail.params, sender, self.now.unix);
                transaction.room = room;
                self.transaction = Some(Box::new(transaction));
                self.accept("");
            }
            (Answer::Engine(engine::Answer::Refused(refusal)), _) => self.reject(&refusal),
            (
                Answer::Engine(_)
                | Answer::Spooled(_)
                | Answer::Checked(_)
                | Answer::Resolved(_)
                | Answer::Done,
                _,
            ) => self.confused(),
        }
    }

    /// The client, by the configuration in force: what changed since it connected counts from its next
    /// MAIL on. The size and the number of recipients that EHLO offered stay as they were said.
    fn client_now(&mut self, config: Arc<Config>, from: &ReversePath) -> Result<Sender, Refusal> {
        if !Arc::ptr_eq(&config, &self.setup.config) {
            self.setup.config = config;
            self.client = match std::mem::take(&mut self.client) {
                Client::Nobody => Client::Nobody,
                Client::Trusted(_) | Client::Stranger => self.client_by_network(),
                Client::Authenticated(credential) => {
                    Client::Authenticated(self.still_valid(credential)?)
                }
            };
        }
        let Some(sender) = self.client.sender() else {
            let text = "Authenticate first: your network is not trusted any more";
            return Err(refuse(Rejection::AUTH_REQUIRED, text.into()));
        };
        if let Sender::User(credential) = &sender {
            check_sender(credential, from)?;
        }
        Ok(sender)
    }

    /// What a credential has become. One that was proved in another way than would be asked for now, or
    /// that may not be used from here any more, has to be proved again, on a new connection. One of an
    /// embedder's own check is none of the configuration's.
    fn still_valid(&self, credential: Arc<Credential>) -> Result<Arc<Credential>, Refusal> {
        if self.checked_outside {
            return Ok(credential);
        }
        let now = self.setup.config.credential(&credential.name);
        let now =
            now.filter(|now| now.is_proved_like(&credential) && now.allows_from(self.client_ip()));
        now.map(Arc::clone).ok_or_else(|| Refusal {
            why: Rejection::GO_AWAY,
            text: format!(
                "Credential {} was changed; connect again and log in anew",
                credential.name
            ),
            close: true,
        })
    }

    /// The client said RCPT. Without the transaction of a credential there is no recipient.
    pub(super) fn rcpt(&mut self, rcpt: Rcpt) {
        let Some(transaction) = &mut self.transaction else {
            return self.reject(&refuse(Rejection::RELAY_DENIED, "Relaying denied".into()));
        };
        let config = &self.setup.config;
        let found = recipient(rcpt.to, rcpt.params, config).and_then(|recipient| {
            if let Sender::Stranger = transaction.sender {
                check_taken(&recipient.to, config)?;
            }
            Ok(recipient)
        });
        match found {
            Ok(recipient) => {
                transaction.recipients.push(recipient);
                self.accept("");
            }
            Err(refusal) => self.reject(&refusal),
        }
    }
}

/// Why this credential may not send under this reverse-path. Reports, which have the null one, are for
/// those to hand in who may send as anybody.
pub(super) fn check_sender(credential: &Credential, from: &ReversePath) -> Result<(), Refusal> {
    match from.mailbox() {
        Some(mailbox) if credential.allows(mailbox) => Ok(()),
        Some(mailbox) => Err(refuse_sender(credential, "MAIL FROM", mailbox)),
        None if credential.senders.contains(&SenderPattern::Any) => Ok(()),
        None => Err(refuse(
            Rejection::SENDER_NOT_ALLOWED,
            format!(
                "Credential {} may not send as <> (MAIL FROM); only one with the sender \"*\" may",
                credential.name
            ),
        )),
    }
}

/// The recipient that a RCPT names.
pub(super) fn recipient(
    path: ForwardPath,
    params: RcptParams,
    config: &Config,
) -> Result<Recipient, Refusal> {
    let to = match path {
        ForwardPath::Mailbox(mailbox) => mailbox,
        // RFC 5321 §4.5.1: `<Postmaster>` without a domain is the relay's own.
        ForwardPath::Postmaster => postmaster(&config.hostname)?,
    };
    check_recipient(&to, config)?;
    let notify = Some(params.notify).filter(|notify| *notify != Notify::UNSAID);
    Ok(Recipient {
        to,
        notify,
        orcpt: params.orcpt,
    })
}

fn postmaster(hostname: &Domain) -> Result<Mailbox, Refusal> {
    Mailbox::new("postmaster", Host::Domain(hostname.clone())).map_err(|error| {
        refuse(
            Rejection::NO_SUCH_MAILBOX,
            format!("There is no postmaster here: {error}"),
        )
    })
}

/// Why mail to this address is not taken.
pub(super) fn check_recipient(to: &Mailbox, config: &Config) -> Result<(), Refusal> {
    match to.host() {
        Host::Literal(literal) => check_literal(to, literal.ip(), config),
        Host::Domain(domain) => check_route(to, domain, config),
    }
}

/// Why a stranger's mail to this address is not taken: only a domain that a route names has a way here
/// that its owner chose. Never an open relay.
fn check_taken(to: &Mailbox, config: &Config) -> Result<(), Refusal> {
    // A local part that routes further is for the next host to misread.
    let routed = to.local_part_chars().any(|c| matches!(c, '%' | '!' | '@'));
    let route = to.domain().and_then(|domain| config.route_for(domain));
    let named = route.is_some_and(|route| match route.domain {
        DomainPattern::Exact(_) | DomainPattern::Subdomains(_) => !route.is_by_mx(),
        DomainPattern::Any => false,
    });
    if named && !routed {
        return Ok(());
    }
    let text = format!("Relaying to <{to}> denied: this host takes no mail for it");
    Err(refuse(Rejection::permanent(550, 7, 1), text))
}

/// An address literal chooses the host that we connect to: never one that the configuration forbids,
/// and never this one, whatever it says.
fn check_literal(to: &Mailbox, ip: IpAddr, config: &Config) -> Result<(), Refusal> {
    let ip = ip.to_canonical();
    let own = ip.is_loopback().then(|| format!("{ip} is this host"));
    match own.or_else(|| config.delivery.prohibits(ip)) {
        Some(why) => {
            let text = format!("Mail to <{to}> is not taken: {why}");
            Err(refuse(Rejection::permanent(550, 1, 2), text))
        }
        None => Ok(()),
    }
}

/// `user%elsewhere@our-name` and `elsewhere!user@our-name` ask us to relay by a route of the client's
/// own. RFC 5321 §3.3 lets only the host of the domain understand a local part, and here we are it.
fn check_route(to: &Mailbox, domain: &Domain, config: &Config) -> Result<(), Refusal> {
    let routed = to.local_part_chars().any(|c| matches!(c, '%' | '!' | '@'));
    if routed && *domain == config.hostname {
        let text = format!("<{to}> holds a route; send to the plain address");
        return Err(refuse(Rejection::RELAY_DENIED, text));
    }
    Ok(())
}

pub(super) fn refuse(why: Rejection, text: String) -> Refusal {
    Refusal {
        why,
        text,
        close: false,
    }
}
