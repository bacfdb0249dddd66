//! What machines ask of the runtime: the store, names, connections, reports.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use relay_core::bounce;
use relay_core::dns::DnsFailure;
use relay_core::engine::{Ask, Input as ToEngine, Next, NotWritten, ReportDue};
use relay_core::id::{DeliveryId, SessionId};
use relay_core::inbound;
use relay_core::machine::Input;
use relay_core::outbound::{self, Delivery, Loaded};
use relay_core::queue::store::Store as _;
use relay_core::time::Instant;

use super::drive::Task;
use super::names::{host_at, host_ip};
use super::net::{ConnId, Side};
use super::plant::Plant;
use super::relay::Inner;
use super::world::{Event, Owner, World};

impl World {
    pub(crate) fn session_request(
        &mut self,
        id: SessionId,
        request: inbound::Request,
    ) -> Option<inbound::Answer> {
        let store = Arc::clone(&self.relay.as_ref()?.store);
        match request {
            inbound::Request::Engine(Ask::Bye) => {
                self.load.asks(id, &Ask::Bye);
                Some(inbound::Answer::Done)
            }
            inbound::Request::Engine(mut ask) => {
                self.keep_envelope(id, &mut ask);
                self.load.asks(id, &ask);
                self.engine_in(ToEngine::Ask(id, ask));
                None
            }
            inbound::Request::Spool(message, bytes) => Some(inbound::Answer::Spooled(
                store.spool_append(message, &bytes),
            )),
            inbound::Request::Unspool(message) => {
                store.spool_discard(message);
                Some(inbound::Answer::Done)
            }
            // No listener of this world is for strangers.
            inbound::Request::Resolve(_) => {
                Some(inbound::Answer::Resolved(Err(DnsFailure::NoSuchDomain)))
            }
            inbound::Request::CheckPassword { .. } | inbound::Request::CheckToken(_) => {
                Some(inbound::Answer::Checked(None))
            }
        }
    }

    pub(crate) fn delivery_request(
        &mut self,
        id: DeliveryId,
        task: &mut Task<Delivery>,
        request: outbound::Request,
    ) -> Option<outbound::Answer> {
        let store = Arc::clone(&self.relay.as_ref()?.store);
        match request {
            outbound::Request::Resolve(host) => {
                self.ask_host(id, &host);
                None
            }
            outbound::Request::Tlsa(host, port) => {
                self.ask_tlsa(id, &host, port);
                None
            }
            outbound::Request::Alias(name) => {
                self.ask_alias(id, &name);
                None
            }
            outbound::Request::Connect { to, until, .. } => {
                if let Some(old) = task.conn.take() {
                    self.hang_up(old, task.side);
                }
                self.connect(id, to, until);
                None
            }
            outbound::Request::Load(message, place) => {
                let loaded = store.load(message, place);
                Some(outbound::Answer::Loaded(
                    loaded.map(|(message, body)| Arc::new(Loaded { message, body })),
                ))
            }
            outbound::Request::ReadBody { id, offset, max } => {
                Some(outbound::Answer::Body(store.spool_read(id, offset, max)))
            }
            outbound::Request::Flush => Some(outbound::Answer::Flushed),
            outbound::Request::Token { .. } => Some(outbound::Answer::Token(Err(
                "nobody has tokens here".into(),
            ))),
            outbound::Request::Report(mut report) => {
                if id.0 >= 1_000_000 {
                    return Some(outbound::Answer::Next(Next::Quit));
                }
                if self.falsify(&mut report) {
                    return Some(outbound::Answer::Next(Next::Quit));
                }
                self.engine_in(ToEngine::Report(id, report));
                None
            }
        }
    }

    /// A delivery connects. The answer comes when the network gives it.
    pub(crate) fn connect(&mut self, id: DeliveryId, to: SocketAddr, until: Instant) {
        let now = self.agenda.now();
        let life = self.life;
        let host = host_at(to.ip()).filter(|&host| host < self.hosts.len());
        let parted = self.net.partition(to.ip(), now);
        let answer = match host {
            Some(host) => self.hosts[host].answers(),
            None => Err(false),
        };
        let refused = |kind| Inner::Delivery(id, outbound::Answer::Connected(Err(kind)));
        let wait = self.net.latency() * 2;
        let (at, what) = match (answer, parted) {
            (_, Some(heals)) if heals > until => (until, refused(ErrorKind::TimedOut)),
            (Err(false), _) => (until, refused(ErrorKind::TimedOut)),
            (Err(true), _) => (now + wait, refused(ErrorKind::ConnectionRefused)),
            (Ok(()), Some(heals)) => (heals, Inner::Connected(id, to)),
            (Ok(()), None) => ((now + wait).min(until), Inner::Connected(id, to)),
        };
        self.agenda.at(at, Event::Relay(life, what));
    }

    /// The connection is there.
    pub(crate) fn connected(&mut self, id: DeliveryId, to: SocketAddr) {
        let now = self.agenda.now();
        let Some(host) = host_at(to.ip()) else {
            return;
        };
        let conn = self.net.open(host_ip(host), now);
        let Some(relay) = self.relay.as_mut() else {
            return;
        };
        let begun = relay.begun.get(&id).copied().unwrap_or(now);
        let Some(task) = relay.deliveries.get_mut(&id) else {
            return;
        };
        task.conn = Some(conn);
        self.owners
            .insert((conn, Side::Opener), Owner::Delivery(id));
        self.owners.insert((conn, Side::Acceptor), Owner::Host);
        self.check_lanes(host);
        self.greet(conn, host, to.port() == 465, begun);
        let local = SocketAddr::from(([198, 51, 100, 1], 50_000));
        self.drive_delivery(
            id,
            Some(Input::Answer(outbound::Answer::Connected(Ok(local)))),
        );
    }

    /// How many connections the relay has to each lane's hosts.
    pub(crate) fn check_lanes(&mut self, host: usize) {
        let lane = self.names.lane_of(host);
        let ours = |(conn, side): &(ConnId, Side)| {
            *side == Side::Opener
                && self
                    .talks
                    .get(conn)
                    .is_some_and(|talk| self.names.lane_of(talk.host) == lane)
        };
        let open = 1 + self
            .owners
            .iter()
            .filter(|(end, owner)| matches!(owner, Owner::Delivery(_)) && ours(end))
            .count();
        let all = self
            .owners
            .values()
            .filter(|o| matches!(o, Owner::Delivery(_)))
            .count();
        // Connections of lanes as they were before a reload end by themselves, in their time.
        let settled = self
            .reloaded
            .is_none_or(|at| self.agenda.now().since(at) > Duration::from_secs(7200));
        // Domains with the same hosts have lanes of their own where their policies differ.
        let group = lane.and_then(|lane| self.names.groups.get(lane));
        let lanes = match group {
            Some(group) if self.profile.sts => 3 * group.domains.len(),
            Some(_) | None => 1,
        };
        let most = self.profile.lane_connections * lanes;
        if settled && open > most {
            self.book.blame(format!(
                "{open} connections to the hosts of mx{host}, {most} allowed"
            ));
        }
        if all > self.profile.connections {
            let most = self.profile.connections;
            self.book
                .blame(format!("{all} connections to receivers, {most} allowed"));
        }
    }

    /// Writes a report, as the hub of the real runtimes does.
    pub(crate) fn write_report(&mut self, due: &ReportDue) {
        let about = due.report.about;
        let report = if self.planted(Plant::ReportLost) {
            Err(NotWritten::NotDue("planted".to_owned()))
        } else {
            match &self.relay {
                Some(relay) => bounce::write_due(due, &*relay.store, &relay.config.domains),
                None => Err(NotWritten::Later("the relay is gone".to_owned())),
            }
        };
        self.engine_in(ToEngine::ReportWritten { about, report });
    }
}
