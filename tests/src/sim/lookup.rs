//! Searches for names: the resolver's own machines, and a network of datagrams that lie or get lost.

use std::net::SocketAddr;
use std::time::Duration;

use relay_core::dns::{
    Addresses, Alias, Event as Heard, Lookup, MxSet, Query, Step, Texts, TlsaSet,
};
use relay_core::engine::Input as ToEngine;
use relay_core::https;
use relay_core::id::{DeliveryId, ErrandId, ResolveId};
use relay_core::outbound;

use super::agenda::Dice;
use super::names::server;
use super::relay::Inner;
use super::world::{Event, World};

/// Whose search for names it is.
pub(crate) enum Asking {
    Mx(ResolveId, Lookup<MxSet>, u64),
    Host(DeliveryId, Lookup<Addresses>, u64),
    Tlsa(DeliveryId, Lookup<TlsaSet>, u64),
    Alias(DeliveryId, Lookup<Alias>, u64),
    Texts(ErrandId, Lookup<Texts>, u64),
    Site(ErrandId, Lookup<Addresses>, u64),
}

impl World {
    pub(crate) fn ask_mx(&mut self, id: ResolveId, domain: &str) {
        let now = self.now();
        if let Some(relay) = &mut self.relay {
            let lookup = relay.resolver.begin(now, Query::mx(domain));
            self.begin_lookup(Asking::Mx(id, lookup, 0));
        }
    }

    pub(crate) fn ask_host(&mut self, id: DeliveryId, host: &str) {
        let now = self.now();
        if let Some(relay) = &mut self.relay {
            let lookup = relay.resolver.begin(now, Query::addresses(host));
            self.begin_lookup(Asking::Host(id, lookup, 0));
        }
    }

    pub(crate) fn ask_tlsa(&mut self, id: DeliveryId, host: &str, port: u16) {
        let now = self.now();
        if let Some(relay) = &mut self.relay {
            let lookup = relay.resolver.begin(now, Query::tlsa(host, port));
            self.begin_lookup(Asking::Tlsa(id, lookup, 0));
        }
    }

    pub(crate) fn ask_alias(&mut self, id: DeliveryId, name: &str) {
        let now = self.now();
        if let Some(relay) = &mut self.relay {
            let lookup = relay.resolver.begin(now, Query::alias(name));
            self.begin_lookup(Asking::Alias(id, lookup, 0));
        }
    }

    pub(crate) fn ask_texts(&mut self, id: ErrandId, name: &str) {
        let now = self.now();
        if let Some(relay) = &mut self.relay {
            let lookup = relay.resolver.begin(now, Query::txt(name));
            self.begin_lookup(Asking::Texts(id, lookup, 0));
        }
    }

    pub(crate) fn ask_site(&mut self, id: ErrandId, host: &str) {
        let now = self.now();
        if let Some(relay) = &mut self.relay {
            let lookup = relay.resolver.begin(now, Query::addresses(host));
            self.begin_lookup(Asking::Site(id, lookup, 0));
        }
    }

    fn begin_lookup(&mut self, asking: Asking) {
        if let Some(relay) = &mut self.relay {
            relay.next_lookup += 1;
            let number = relay.next_lookup;
            self.search(number, asking);
        }
    }

    /// What came of an exchange: bytes, or none in time.
    pub(crate) fn dns_heard(&mut self, number: u64, exchange: u64, heard: Option<Vec<u8>>) {
        let now = self.now();
        let Some(mut asking) = self.relay.as_mut().and_then(|r| r.lookups.remove(&number)) else {
            return;
        };
        let current = match &asking {
            Asking::Mx(_, _, current) | Asking::Host(_, _, current) => *current,
            Asking::Tlsa(_, _, current) | Asking::Alias(_, _, current) => *current,
            Asking::Texts(_, _, current) | Asking::Site(_, _, current) => *current,
        };
        if current == exchange {
            let event = match &heard {
                Some(bytes) => Heard::Received {
                    from: server(),
                    bytes,
                },
                None => Heard::Timeout,
            };
            match &mut asking {
                Asking::Mx(_, lookup, _) => lookup.handle(now, event),
                Asking::Host(_, lookup, _) => lookup.handle(now, event),
                Asking::Tlsa(_, lookup, _) => lookup.handle(now, event),
                Asking::Alias(_, lookup, _) => lookup.handle(now, event),
                Asking::Texts(_, lookup, _) => lookup.handle(now, event),
                Asking::Site(_, lookup, _) => lookup.handle(now, event),
            }
        }
        self.search(number, asking);
    }

    /// Does what a lookup wants next.
    fn search(&mut self, number: u64, mut asking: Asking) {
        let (step, exchange) = match &mut asking {
            Asking::Mx(_, lookup, exchange) => (lookup.poll(), exchange),
            Asking::Host(_, lookup, exchange) => (lookup.poll(), exchange),
            Asking::Tlsa(_, lookup, exchange) => (lookup.poll(), exchange),
            Asking::Alias(_, lookup, exchange) => (lookup.poll(), exchange),
            Asking::Texts(_, lookup, exchange) => (lookup.poll(), exchange),
            Asking::Site(_, lookup, exchange) => (lookup.poll(), exchange),
        };
        match step {
            Step::Exchange {
                transport,
                server: to,
                message,
                until,
            } => {
                *exchange += 1;
                let exchange = *exchange;
                let answer = self.answer(to, &message, transport);
                let life = self.life;
                let mut at = self.agenda.now();
                for heard in answer {
                    at = at + self.net.latency() * 2;
                    let inner = Inner::Dns {
                        lookup: number,
                        exchange,
                        heard: Some(heard),
                    };
                    self.agenda.at(at, Event::Relay(life, inner));
                }
                let inner = Inner::Dns {
                    lookup: number,
                    exchange,
                    heard: None,
                };
                self.agenda.at(until, Event::Relay(life, inner));
            }
            Step::Listen { .. } => {}
            Step::Done => return self.found(asking),
        }
        if let Some(relay) = &mut self.relay {
            relay.lookups.insert(number, asking);
        }
    }

    /// What comes back over the network, in order.
    fn answer(
        &mut self,
        to: SocketAddr,
        message: &[u8],
        transport: relay_core::dns::Transport,
    ) -> Vec<Vec<u8>> {
        if to != server() || self.rng.chance(self.names.silent_per_mille) {
            return Vec::new();
        }
        let Some(answer) = self.names.zone.answer(message, transport) else {
            return Vec::new();
        };
        let udp = transport == relay_core::dns::Transport::Udp;
        let mut answer = answer;
        if udp && self.rng.chance(self.names.truncated_per_mille) {
            // TC. RFC 1035 §4.1.1: what is there is not all.
            answer[2] |= 0x02;
        }
        if self.rng.chance(self.names.forged_per_mille)
            && transport == relay_core::dns::Transport::Udp
        {
            let mut forged = answer.clone();
            // Another id: somebody guesses.
            forged[0] ^= 0x55;
            return vec![forged, answer];
        }
        vec![answer]
    }

    fn found(&mut self, asking: Asking) {
        let now = self.now();
        let Some(relay) = &mut self.relay else {
            return;
        };
        match asking {
            Asking::Mx(id, lookup, _) => {
                let answer = relay.resolver.finish(now, lookup);
                if let Err(why) = &answer {
                    self.tell(format_args!("no mail exchangers: {why:?}"));
                }
                self.engine_in(ToEngine::Resolved(id, answer));
            }
            Asking::Host(id, lookup, _) => {
                let answer = relay.resolver.finish(now, lookup);
                self.soon(Inner::Delivery(id, outbound::Answer::Resolved(answer)));
            }
            Asking::Tlsa(id, lookup, _) => {
                let answer = relay.resolver.finish(now, lookup);
                self.soon(Inner::Delivery(id, outbound::Answer::Tlsa(answer)));
            }
            Asking::Alias(id, lookup, _) => {
                let answer = relay.resolver.finish(now, lookup);
                self.soon(Inner::Delivery(id, outbound::Answer::Alias(answer)));
            }
            Asking::Texts(id, lookup, _) => {
                let answer = relay.resolver.finish(now, lookup);
                self.soon(Inner::Errand(id, https::Answer::Texts(answer)));
            }
            Asking::Site(id, lookup, _) => {
                let answer = relay.resolver.finish(now, lookup);
                self.soon(Inner::Errand(id, https::Answer::Resolved(answer)));
            }
        }
    }

    /// A minute's weather of names.
    pub(crate) fn name_weather(&mut self) {
        use relay_core::dns::zone::Failure;
        let mut failing = Vec::new();
        (self.names.silent_per_mille, self.names.forged_per_mille) = (0, 0);
        if !self.calm {
            if self.rng.chance(self.profile.dns_per_mille) {
                let how =
                    self.rng
                        .pick(&[Failure::ServerFailure, Failure::Refused, Failure::Silence]);
                failing.push((self.names.any_name(&mut self.rng), how));
            }
            if self.rng.chance(self.profile.dns_per_mille) {
                self.names.silent_per_mille = self.rng.pick(&[50, 300, 1000]);
                self.names.forged_per_mille = self.rng.pick(&[0, 50, 500]);
            }
            self.agenda
                .after(Duration::from_secs(60), Event::NameWeather);
        }
        if !failing.is_empty() {
            self.tell(format_args!("names fail: {failing:?}"));
        }
        self.names.set_failing(&failing);
    }
}
