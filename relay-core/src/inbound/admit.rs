//! The way in: PROXY header, the engine's welcome, TLS, the banner.
//!
//! ```text
//!   Proxy ──header──▶ Connecting ──Welcome──┬─ tls = "implicit" ─▶ Handshake ──▶ 220
//!                         │                 └─ otherwise ──────────────────────▶ 220
//!                         └──Refused──▶ 421 (in clear text only), close
//!
//!   Ready ──STARTTLS──▶ Handshake ──▶ Ready, all forgotten
//! ```
//!
//! RFC 5321 §3.1, RFC 3207, RFC 8314 §3.3.

use std::sync::Arc;

use smtp_proto::server::Rejection;
use smtp_proto::{Extension, Mechanism, server};

use super::Request;
use super::envelope::Client;
use super::proxy::{self, Parsed};
use super::session::{Session, State};
use crate::channel::ClientCertificate;
use crate::config::{Config, Demand, Listener, ListenerTls, Role};
use crate::engine::{Ask, Refusal};

impl Session {
    pub(super) fn admission_begins(&mut self) {
        match self.listener() {
            Some(listener) if self.is_proxied(listener) => self.state = State::Proxy,
            Some(_) => self.ask_to_connect(),
            None => self.end(),
        }
    }

    /// Whether a PROXY header comes first. Of others than the proxies that are trusted none is believed:
    /// they are clients like any.
    fn is_proxied(&self, listener: &Listener) -> bool {
        let ip = self.client_ip();
        listener.proxy_protocol && listener.trusted_proxies.iter().any(|net| net.contains(&ip))
    }

    pub(super) fn listener(&self) -> Option<&Listener> {
        self.setup.config.listeners.get(self.setup.listener)
    }

    /// When TLS starts; on a listener that is gone with a reload, as if it were on a public one.
    fn listener_tls(&self) -> ListenerTls {
        self.listener()
            .map_or(ListenerTls::StartTls, |listener| listener.tls)
    }

    pub(super) fn ask_to_connect(&mut self) {
        self.state = State::Connecting;
        let ask = Ask::Connect {
            peer: self.client_ip(),
            listener: self.setup.listener,
        };
        self.request = Some(Request::Engine(ask));
    }

    /// Reads the PROXY header; gives how many octets it took.
    pub(super) fn proxy(&mut self, pending: &[u8]) -> usize {
        match proxy::parse(pending) {
            Parsed::Partial => 0,
            Parsed::Header { used, client } => {
                self.setup.peer = client.unwrap_or(self.setup.peer);
                self.ask_to_connect();
                used
            }
            Parsed::Invalid => {
                self.end();
                pending.len()
            }
        }
    }

    /// The engine lets the client in.
    pub(super) fn welcomed(&mut self, config: Arc<Config>) {
        self.setup.config = config;
        self.welcome = true;
        self.client = self.client_by_network();
        match self.listener_tls() {
            ListenerTls::Implicit => {
                self.start_tls();
                // Behind a PROXY header the handshake may have begun already.
                let early = std::mem::take(&mut self.pending);
                self.bytes(&early);
            }
            ListenerTls::StartTls | ListenerTls::None => self.greet(),
        }
    }

    /// The engine does not. A client that expects TLS first could not read the reply.
    pub(super) fn turned_away(&mut self, refusal: &Refusal) {
        match self.listener_tls() {
            ListenerTls::Implicit => {}
            ListenerTls::StartTls | ListenerTls::None => {
                // The 421 takes the place of the banner. RFC 5321 §3.1.
                let mut smtp = self.protocol(&mut Vec::new());
                smtp.shut_down(refusal.why, &refusal.text, &mut self.replies);
            }
        }
        self.end();
    }

    /// Whom the client is by where it comes from. What a front end says of that is worth nothing here.
    pub(super) fn client_by_network(&self) -> Client {
        let role = self.listener().map(|listener| listener.role);
        if let Some(Role::Inbound(_)) = role {
            return Client::Stranger;
        }
        if self.spoken_for {
            return Client::Nobody;
        }
        let ip = self.client_ip();
        let name = self
            .listener()
            .filter(|listener| {
                listener
                    .trusted_networks
                    .iter()
                    .any(|net| net.contains(&ip))
            })
            .and_then(|listener| listener.trusted_as.as_ref());
        let credential = name.and_then(|name| {
            self.setup
                .config
                .credentials
                .iter()
                .find(|credential| credential.name == *name)
        });
        credential.map_or(Client::Nobody, |credential| {
            Client::Trusted(Arc::clone(credential))
        })
    }

    /// The client said STARTTLS: the 220 goes out in clear text, and nothing after it.
    pub(super) fn upgrade(&mut self) {
        self.accept("");
        self.channel.send(&self.replies, &mut self.wire);
        self.replies.clear();
        // RFC 3207 §4.2: "the server MUST discard any knowledge obtained from the client".
        self.drop_transaction();
        self.hello = None;
        self.client = self.client_by_network();
        self.start_tls();
    }

    fn start_tls(&mut self) {
        self.state = State::Handshake;
        self.since = self.now.instant;
        if self.channel.start_server(&self.setup.tls).is_err() {
            self.end();
        }
    }

    /// TLS is up. After STARTTLS there is no second banner, and nothing that was said before it counts.
    pub(super) fn handshake_ends(&mut self) {
        self.tls = self.channel.protocol_suite().map(Into::into);
        let refused = self.judge_certificate();
        let mut banner = Vec::new();
        let mut smtp = self.protocol(&mut banner);
        smtp.tls_started();
        if self.smtp.replace(Box::new(smtp)).is_none() {
            self.replies.append(&mut banner);
        }
        self.ready();
        if let Some(why) = refused {
            let text = format!("Your certificate is not verified: {why}; closing");
            self.shut_down(Rejection::GO_AWAY, &text);
        }
    }

    /// Looks at the certificate that the client showed. A bad one is worth as much as none; gives why it
    /// is bad, where one is required.
    fn judge_certificate(&mut self) -> Option<String> {
        match self.channel.client_certificate(self.now.unix) {
            ClientCertificate::Verified(identity) => {
                self.certificate = Some(identity);
                None
            }
            ClientCertificate::Absent => None,
            ClientCertificate::NotVerified(why) => {
                let asked = self
                    .listener()
                    .and_then(|listener| listener.client_certificates.as_ref());
                asked
                    .is_none_or(|asked| asked.demand == Demand::Required)
                    .then_some(why)
            }
        }
    }

    /// The banner, in clear text.
    fn greet(&mut self) {
        let mut banner = Vec::new();
        self.smtp = Some(Box::new(self.protocol(&mut banner)));
        self.replies.append(&mut banner);
        self.ready();
    }

    /// The protocol with what this client is offered here and now.
    pub(super) fn protocol(&self, banner: &mut Vec<u8>) -> server::Connection {
        let config = &self.setup.config;
        let mut offer = server::Config::new(config.hostname.clone());
        let inbound = matches!(self.client, Client::Stranger);
        if !inbound {
            // What a stranger could only misuse: to be kept for later, or to come before others.
            offer = offer
                .with(Extension::FutureRelease)
                .with(Extension::DeliverBy)
                .with(Extension::MtPriority);
        }
        let until_max = self.now.unix.as_secs() + u64::from(offer.future_release.secs_max);
        offer.future_release.until_max = until_max;
        offer.limits.message_size = config.limits.message_size;
        offer.limits.recipients = u32::try_from(config.limits.recipients).unwrap_or(u32::MAX);
        if self.is_front_end() {
            offer = offer.with(Extension::XClient);
        }
        match self.listener_tls() {
            ListenerTls::StartTls => offer = offer.with(Extension::StartTls),
            ListenerTls::Implicit => {}
            // Only a listener on loopback may have no TLS, or one where nobody logs in.
            ListenerTls::None => offer.auth_without_tls = true,
        }
        if inbound {
            return server::Connection::new(&Arc::new(offer), banner);
        }
        server::Connection::new(&Arc::new(offer.with_auth(&self.mechanisms())), banner)
    }

    /// What can be proved here and now, and how.
    fn mechanisms(&self) -> Vec<Mechanism> {
        let config = &self.setup.config;
        let mut mechanisms = vec![Mechanism::Plain, Mechanism::Login];
        // An embedder that checks passwords has no keys to answer SCRAM with.
        if !config.external_credentials {
            mechanisms.push(Mechanism::ScramSha256);
            let bound = self.channel.tls_exporter();
            mechanisms.extend(bound.map(|_| Mechanism::ScramSha256Plus));
        }
        if config.external_tokens {
            mechanisms.extend([Mechanism::XOAuth2, Mechanism::OAuthBearer]);
        }
        mechanisms.extend(self.certificate.as_ref().map(|_| Mechanism::External));
        mechanisms
    }
}
