//! A life of the relay: how it starts, reads what the life before left, and ends.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relay_core::dns::Resolver;
use relay_core::engine::{Engine, Input as ToEngine};
use relay_core::id::SessionId;
use relay_core::queue::store::Store as _;
use runtime_std::store::{Options, SegmentStore};

use super::agenda::Dice as _;
use super::certs::Papers;
use super::drive::Waits;
use super::load::Load;
use super::plant::Plant;
use super::relay::{Inner, Relay};
use super::setup::capacity;
use super::world::{Event, World};

impl World {
    /// Opens the store and starts; what is in it is read meanwhile. True if that failed and is tried again
    /// a little later.
    pub(crate) fn boot(&mut self) -> bool {
        let options = Options {
            segment_size: self.profile.segment_size,
            extent: 16 << 10,
            reserve: 1 << 20,
            free_max: 2,
            group_max: 64 << 10,
            rewrite_min: 16 << 10,
            salt: Some(0x5a17_0000 + self.seed),
            ..Options::default()
        };
        let config = Arc::clone(&self.config);
        let now = self.now();
        let mut rng = self.rng.fork();
        let engine = Engine::new(Arc::clone(&config), now, rng.fork());
        let engine = match self.planted(Plant::RoomForgotten) {
            true => engine,
            false => engine.with_capacity(capacity(&self.profile)),
        };
        let opened = SegmentStore::open(Path::new("/data"), options, Arc::new(self.disk.clone()))
            .map_err(|error| error.to_string());
        let (store, client_tls) = match (opened, Papers::get().ok_or("no certificates")) {
            (Ok(store), Ok(papers)) => (store, Arc::clone(&papers.roots)),
            (Err(why), _) => {
                self.tell(format_args!("the queue does not open: {why}"));
                if self.calm && !self.disk.has_stopped() {
                    self.book
                        .blame(format!("the queue does not open though all is well: {why}"));
                }
                let again = !self.disk.has_stopped();
                if again {
                    self.agenda.after(Duration::from_secs(5), Event::Boot);
                }
                return again;
            }
            (Ok(_), Err(why)) => {
                self.book.blame(why.to_owned());
                return false;
            }
        };
        self.tell(format_args!("the relay runs"));
        let resolver = Resolver::new(&config.dns, config.delivery.ip_families, rng.fork());
        self.relay = Some(Relay {
            engine: Arc::new(Mutex::new(engine)),
            store,
            resolver,
            sessions: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            begun: BTreeMap::new(),
            errands: BTreeMap::new(),
            lookups: BTreeMap::new(),
            next_lookup: 0,
            config,
            client_tls,
            rng,
            next_session: 0,
            timer: None,
            stepping: false,
            ticking: false,
            stopping: false,
            kept: BTreeMap::new(),
        });
        self.tick_store();
        self.give_kept();
        self.policies_kept();
        self.status_in();
        self.soon(Inner::Recover);
        false
    }

    /// Reads a few messages of the life before, and goes on a moment later.
    pub(crate) fn recover(&mut self) {
        let skip = self.planted(Plant::RecoverySkips);
        let most = self.rng.range(1, 60) as usize;
        let Some(relay) = &self.relay else {
            return;
        };
        let store = Arc::clone(&relay.store);
        let mut found = Vec::new();
        let result = store.recover(&mut |recovered| {
            found.push(recovered);
            if found.len() < most {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        let more = found.len() == most;
        for recovered in found {
            if !(skip && recovered.message.id.as_u64().is_multiple_of(3)) {
                self.engine_in(ToEngine::Recovered(Box::new(recovered)));
            }
        }
        match result {
            Ok(()) if more => self.soon(Inner::Recover),
            Ok(()) => {
                self.status_in();
                self.engine_in(ToEngine::AllRecovered);
            }
            Err(why) if !self.disk.has_stopped() => {
                self.tell(format_args!("the queue is not read: {why}"));
                let life = self.life;
                self.agenda
                    .after(Duration::from_secs(5), Event::Relay(life, Inner::Recover));
            }
            Err(_) => {}
        }
    }

    /// SIGTERM: sessions and deliveries that are under way may end, for ten seconds.
    pub(crate) fn shut_down(&mut self) {
        let now = self.now();
        let Some(relay) = self.relay.as_mut().filter(|relay| !relay.stopping) else {
            return;
        };
        relay.stopping = true;
        let reading: Vec<SessionId> = relay
            .sessions
            .iter_mut()
            .filter(|(_, task)| matches!(task.waits, Waits::Read(_)))
            .map(|(id, task)| {
                task.machine.interrupt(now);
                task.waits = Waits::Poll;
                *id
            })
            .collect();
        self.tell(format_args!("the relay is told to stop"));
        self.engine_in(ToEngine::ShutDown);
        for id in reading {
            self.drive_session(id, None);
        }
        self.agenda.after(
            Duration::from_secs(10),
            Event::Relay(self.life, Inner::Stop),
        );
    }

    /// The end of an orderly shutdown.
    pub(crate) fn stopped(&mut self) {
        if let Some(relay) = &self.relay {
            relay.store.close();
        }
        if !self.is_dead() {
            self.keep_all();
            self.tell(format_args!("the relay has stopped"));
            self.die(false);
        }
    }

    /// The process is gone, and the machine perhaps with it. What the disk kept is all that stays.
    pub(crate) fn die(&mut self, power_cut: bool) {
        let now = self.agenda.now();
        let Some(relay) = self.relay.take() else {
            return;
        };
        self.life += 1;
        self.book.crashed(now);
        self.ready.clear();
        self.load = Load::default();
        self.unkept.clear();
        let errands = relay.errands.values().map(|task| (task.conn, task.side));
        let sessions = relay.sessions.values().map(|task| (task.conn, task.side));
        let deliveries = relay.deliveries.values().map(|task| (task.conn, task.side));
        let ends: Vec<_> = sessions.chain(deliveries).chain(errands).collect();
        drop(relay);
        for (conn, side) in ends {
            if let Some(conn) = conn {
                self.net.vanish(&mut self.agenda, conn, side, power_cut);
                self.owners.remove(&(conn, side));
            }
        }
    }
}
