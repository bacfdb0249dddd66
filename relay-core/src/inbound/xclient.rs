//! XCLIENT: a trusted front end passes on another's connection.
//!
//! ```text
//!   Ready ──XCLIENT──▶ Introduced (Ask::Connect, as the client that it names) ──Welcome──▶ 220, Ready
//!                                                                             └─Refused──▶ 421
//! ```
//!
//! It is offered only to peers in the listener's `xclient_from`, by the address that the session counts
//! as its client's: a client that was introduced cannot introduce another, unless it is a front end too.
//!
//! A front end tells where a client is, and lifts nothing: whoever comes through it logs in (or, on an
//! inbound listener, is a stranger), even from a trusted network, since the network's trust is in who connects and not in what is said. So it takes
//! no `LOGIN` either: that would make a front end's word worth any credential's secret. `NAME`, `HELO`
//! and `PROTO` are read and not used: names are not what decisions hang on, and the EHLO that must
//! follow says the rest.

use std::net::SocketAddr;

use smtp_proto::server::Rejection;
use smtp_proto::xclient::{Told, XClient};

use super::envelope::refuse;
use super::session::{Session, State};

impl Session {
    /// Whether the client may speak for others.
    pub(super) fn is_front_end(&self) -> bool {
        self.listener()
            .is_some_and(|listener| listener.trusts_front_end(self.client_ip()))
    }

    /// A front end speaks for a client.
    pub(super) fn introduced(&mut self, said: &XClient) {
        // It was offered by the configuration of before, perhaps.
        if !self.is_front_end() {
            let text = "You may not speak for others; see xclient_from";
            return self.reject(&refuse(Rejection::POLICY, text.into()));
        }
        if matches!(said.login, Some(Told::Known(_))) {
            let text = "LOGIN is not taken: the client logs in here, with AUTH; leave it out";
            return self.reject(&refuse(Rejection::POLICY, text.into()));
        }
        if let Some(Told::Known(ip)) = said.addr {
            let port = match said.port {
                Some(Told::Known(port)) => port,
                Some(Told::Unavailable | Told::TempUnavailable) | None => 0,
            };
            self.setup.peer = SocketAddr::new(ip, port);
        }
        if let Some(Told::Known(ip)) = said.dest_addr {
            self.setup.local.set_ip(ip);
        }
        if let Some(Told::Known(port)) = said.dest_port {
            self.setup.local.set_port(port);
        }
        self.spoken_for = true;
        self.client = self.client_by_network();
        // The TLS connection is the front end's, and so is what its certificate proved.
        self.certificate = None;
        self.hello = None;
        // The engine counts it where it is from now on.
        self.ask_to_connect();
        self.state = State::Introduced;
    }

    /// The engine lets that client in too: the session begins anew, under TLS if it was.
    pub(super) fn introduction_ends(&mut self) {
        let mut smtp = self.protocol(&mut Vec::new());
        if self.channel.is_tls() {
            smtp.tls_started();
        }
        // The old one writes the greeting: XCLIENT waits for its verdict there.
        self.accept("");
        self.smtp = Some(Box::new(smtp));
        self.ready();
    }
}
