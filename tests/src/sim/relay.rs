//! The third runtime: it carries bytes, time and disk to the same machines, engine and store as the
//! other two, in virtual time.
//!
//! What it does is what `runtime_std::hub` and `runtime_std::drive` do: one thing after another for each
//! machine, each answer at some later moment. The seams at which planted faults sit are here too.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use relay_core::channel::ClientTls;
use relay_core::config::{Config, TlsLevel};
use relay_core::dns::Resolver;
use relay_core::engine::{Engine, Input as ToEngine, Output as FromEngine, ReportDue, Start};
use relay_core::errand::{Errand, Runner};
use relay_core::events::EventKind;
use relay_core::https;
use relay_core::id::{DeliveryId, ErrandId, ResolveId, SessionId};
use relay_core::inbound::{self, Session};
use relay_core::machine::Input;
use relay_core::outbound::{self, Delivery};
use relay_core::queue::message::Body;
use relay_core::queue::record::Progress;
use relay_core::queue::store::{Store as _, StoreMessage};
use relay_core::rng::Rng;
use relay_core::time::Instant;
use runtime_std::store::{Options, SegmentStore};

use super::agenda::{Dice, Slot};
use super::book::Subject;
use super::drive::Task;
use super::lookup::Asking;
use super::net::Side;
use super::plant::Plant;
use super::sink::Sink;
use super::tamper::damaged;
use super::world::{Event, World};

/// A running relay.
pub(crate) struct Relay {
    pub(crate) engine: Arc<Mutex<Engine>>,
    pub(crate) store: Arc<SegmentStore>,
    pub(crate) resolver: Resolver,
    pub(crate) sessions: BTreeMap<SessionId, Task<Session>>,
    pub(crate) deliveries: BTreeMap<DeliveryId, Task<Delivery>>,
    /// When each began, by what was known then.
    pub(crate) begun: BTreeMap<DeliveryId, Instant>,
    pub(crate) errands: BTreeMap<ErrandId, Task<Runner>>,
    pub(crate) lookups: BTreeMap<u64, Asking>,
    pub(crate) next_lookup: u64,
    pub(crate) config: Arc<Config>,
    pub(crate) client_tls: Arc<ClientTls>,
    pub(crate) rng: Rng,
    pub(crate) next_session: u64,
    pub(crate) timer: Option<Slot>,
    pub(crate) stepping: bool,
    pub(crate) ticking: bool,
    pub(crate) stopping: bool,
    /// Recipients of the last reset transaction of a session: for [`Plant::EnvelopeKept`].
    pub(crate) kept: BTreeMap<SessionId, Vec<relay_core::queue::message::Recipient>>,
}

/// What comes to the relay at its time.
pub(crate) enum Inner {
    Session(SessionId, inbound::Answer),
    Delivery(DeliveryId, outbound::Answer),
    Connected(DeliveryId, SocketAddr),
    Start(DeliveryId, Box<Start>),
    Resolve(ResolveId, String),
    Report(Box<ReportDue>),
    SessionTime(SessionId),
    DeliveryTime(DeliveryId),
    EngineTime,
    Step {
        tick: bool,
    },
    Recover,
    Dns {
        lookup: u64,
        exchange: u64,
        heard: Option<Vec<u8>>,
    },
    BeginErrand(ErrandId, Errand),
    Errand(ErrandId, https::Answer),
    ErrandConnected(ErrandId, SocketAddr),
    ErrandTime(ErrandId),
    Kept,
    Stop,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The day and the domain of a TLS-RPT report, if this message is one.
fn reported(message: &StoreMessage) -> Option<(u64, String)> {
    let to = message.message.envelope.recipients.first()?.to.to_string();
    let (_, domain) = to.split_once("tlsrpt@")?;
    let Body::Memory(body) = &message.body else {
        return None;
    };
    let text = String::from_utf8_lossy(body);
    let (_, id) = text.split_once("Report-ID: <")?;
    let start: u64 = id.split('_').next()?.parse().ok()?;
    Some((start / 86_400, domain.to_owned()))
}

impl World {
    /// What the store says of itself goes to the engine.
    pub(crate) fn status_in(&mut self) {
        if let Some(relay) = &self.relay {
            let status = Box::new(relay.store.status());
            self.engine_in(ToEngine::StoreStatus(status));
        }
    }

    /// Hands one input to the engine and routes what comes of it.
    pub(crate) fn engine_in(&mut self, input: ToEngine) {
        let now = self.now();
        let Some(relay) = &self.relay else {
            return;
        };
        let mut engine = lock(&relay.engine);
        engine.handle_input(now, input);
        let outputs: Vec<_> = std::iter::from_fn(|| engine.poll_output()).collect();
        drop(engine);
        self.route(outputs);
        self.check_load();
    }

    /// Looks at the engine.
    pub(crate) fn engine<T>(&self, look: impl FnOnce(&Engine) -> T) -> Option<T> {
        self.relay.as_ref().map(|relay| look(&lock(&relay.engine)))
    }

    /// Something for the relay, a moment from now.
    pub(crate) fn soon(&mut self, inner: Inner) {
        let wait = Duration::from_micros(self.rng.below(300));
        self.agenda.after(wait, Event::Relay(self.life, inner));
    }

    fn route(&mut self, outputs: Vec<FromEngine>) {
        for output in outputs {
            // The process died in the middle of this: nothing of it happened.
            if self.disk.has_stopped() {
                return;
            }
            self.carry_out(output);
        }
    }

    fn carry_out(&mut self, output: FromEngine) {
        let Some(relay) = &mut self.relay else {
            return;
        };
        match output {
            FromEngine::Session(id, answer) => {
                self.load.answered(id, &answer);
                self.soon(Inner::Session(id, inbound::Answer::Engine(answer)));
            }
            FromEngine::Delivery(id, next) => {
                self.soon(Inner::Delivery(id, outbound::Answer::Next(next)));
            }
            FromEngine::Start(id, start) => self.start(id, start),
            FromEngine::Store(write, message) => {
                let from = message
                    .message
                    .envelope
                    .from
                    .mailbox()
                    .map(ToString::to_string);
                let to = message.message.envelope.recipients.first();
                let to = to.map(|to| to.to.to_string()).unwrap_or_default();
                let id = message.message.id.to_string();
                match reported(&message) {
                    Some((day, domain)) => _ = self.book.ids.insert(id, Subject::Tls(day, domain)),
                    None => self.book.stored(id, &from.unwrap_or_default(), &to),
                }
                self.load.writes(write, &message);
                relay.store.write(write, message);
                self.step_store();
            }
            FromEngine::Note(id, place, progress) => {
                let settled = matches!(progress, Progress::Settled { .. });
                let store = Arc::clone(&relay.store);
                if settled && self.planted(Plant::OutcomeNoteLost) {
                    return;
                }
                if settled && self.planted(Plant::DiscardEarly) {
                    store.discard(id, place);
                    return self.step_store();
                }
                store.note(id, place, progress);
                store.write_notes();
                self.step_store();
            }
            FromEngine::Discard(id, place) => {
                let store = Arc::clone(&relay.store);
                if self.planted(Plant::OutcomeNoteLost) {
                    return;
                }
                store.discard(id, place);
                store.write_notes();
                self.step_store();
            }
            FromEngine::Quarantine(id, place, why) => {
                let store = Arc::clone(&relay.store);
                self.tell(format_args!("{id} goes to the quarantine: {why}"));
                store.quarantine(id, place, &why);
                self.step_store();
            }
            FromEngine::Resolve(id, domain) => self.soon(Inner::Resolve(id, domain)),
            FromEngine::Errand(id, errand) => self.soon(Inner::BeginErrand(id, errand)),
            FromEngine::Keep(keep) => self.keep(keep),
            FromEngine::Report(due) => self.soon(Inner::Report(due)),
            FromEngine::Event(event) => {
                self.tell_event(&event);
                let now = self.now();
                self.book.event(&event, now);
                if let EventKind::Accepted { .. } = &event.kind
                    && let Some(Subject::Tls(day, domain)) = self.book.ids.get(&event.id)
                {
                    let key = (*day, domain.clone());
                    self.report_queued(&event.id, key);
                }
            }
            FromEngine::Admin(_, response) => self.admin_answered(*response),
            // What a client did is for people only.
            FromEngine::Client(_) => {}
            FromEngine::Wait(at) => self.set_engine_timer(at),
        }
    }

    fn set_engine_timer(&mut self, at: Option<Instant>) {
        let dropped = self.planted(Plant::TimerDropped) && self.rng.chance(100);
        let life = self.life;
        let Some(relay) = &mut self.relay else {
            return;
        };
        if let Some(slot) = relay.timer.take() {
            self.agenda.cancel(slot);
        }
        if let Some(at) = at.filter(|_| !dropped) {
            relay.timer = Some(self.agenda.at(at, Event::Relay(life, Inner::EngineTime)));
        }
    }

    fn start(&mut self, id: DeliveryId, mut start: Box<Start>) {
        if self.planted(Plant::TlsForgotten) {
            let mut lane = outbound::Lane::clone(&start.lane);
            lane.tls = TlsLevel::None;
            start.lane = Arc::new(lane);
        }
        if self.planted(Plant::CertificateForgotten) || self.planted(Plant::DaneForgotten) {
            let mut lane = outbound::Lane::clone(&start.lane);
            lane.tls = match self.planted(Plant::CertificateForgotten) {
                true => lane.tls.min(TlsLevel::Require),
                false => lane.tls,
            };
            lane.authentic &= !self.planted(Plant::DaneForgotten);
            start.lane = Arc::new(lane);
        }
        if self.planted(Plant::PolicyForgotten) {
            let mut lane = outbound::Lane::clone(&start.lane);
            lane.sts = None;
            start.lane = Arc::new(lane);
        }
        if self.planted(Plant::DoubleSend) && self.rng.chance(200) {
            let copy = Start {
                lane: Arc::clone(&start.lane),
                job: start.job.clone(),
                config: Arc::clone(&start.config),
            };
            // No report of this one finds the engine: nobody there knows its number.
            self.soon(Inner::Start(DeliveryId(id.0 + 1_000_000), Box::new(copy)));
        }
        self.soon(Inner::Start(id, start));
    }

    /// The writer has something to do.
    fn step_store(&mut self) {
        let wait = self.profile_slow() + Duration::from_micros(self.rng.range(30, 3000));
        let life = self.life;
        if let Some(relay) = &mut self.relay
            && !std::mem::replace(&mut relay.stepping, true)
        {
            self.agenda
                .after(wait, Event::Relay(life, Inner::Step { tick: false }));
        }
    }

    pub(crate) fn tick_store(&mut self) {
        let life = self.life;
        if let Some(relay) = &mut self.relay
            && !std::mem::replace(&mut relay.ticking, true)
        {
            let wait = Options::default().sync_interval;
            self.agenda
                .after(wait, Event::Relay(life, Inner::Step { tick: true }));
        }
    }

    fn step(&mut self, tick: bool) {
        let refuse = self.planted(Plant::RefusedButKept) && self.rng.chance(200);
        let now = self.now();
        let Some(relay) = &mut self.relay else {
            return;
        };
        if tick {
            relay.ticking = false;
        } else {
            relay.stepping = false;
        }
        let sink = Sink {
            engine: Arc::clone(&relay.engine),
            now,
            outputs: Mutex::default(),
            refuse,
            written: Mutex::default(),
        };
        let next = relay.store.step(&sink, tick);
        let outputs = std::mem::take(&mut *lock(&sink.outputs));
        for write in std::mem::take(&mut *lock(&sink.written)) {
            self.load.written(write);
        }
        self.route(outputs);
        if next.more {
            self.step_store();
        }
        if next.tick {
            self.tick_store();
        }
    }

    /// Something comes to the relay.
    pub(crate) fn inner(&mut self, inner: Inner) {
        match inner {
            Inner::Session(id, answer) => self.drive_session(id, Some(Input::Answer(answer))),
            Inner::Delivery(id, mut answer) => {
                self.damage(&mut answer);
                self.drive_delivery(id, Some(Input::Answer(answer)));
            }
            Inner::Connected(id, to) => self.connected(id, to),
            Inner::Start(id, mut start) => {
                let now = self.now();
                if self.planted(Plant::BodyDamaged) {
                    start.job.loaded = start.job.loaded.take().map(damaged);
                }
                let Some(relay) = &mut self.relay else {
                    return;
                };
                let tls = Arc::clone(&relay.client_tls);
                relay.begun.insert(id, now.instant);
                let delivery = Delivery::new(*start, tls, now, relay.rng.fork());
                relay
                    .deliveries
                    .insert(id, Task::new(delivery, None, Side::Opener));
                self.drive_delivery(id, None);
            }
            Inner::Resolve(id, domain) => self.ask_mx(id, &domain),
            Inner::Report(due) => self.write_report(&due),
            Inner::SessionTime(id) => self.time_is_up_for_session(id),
            Inner::DeliveryTime(id) => self.time_is_up_for_delivery(id),
            Inner::EngineTime => {
                if let Some(relay) = &mut self.relay {
                    relay.timer = None;
                }
                self.status_in();
                self.engine_in(ToEngine::Timeout);
            }
            Inner::Step { tick } => self.step(tick),
            Inner::Recover => self.recover(),
            Inner::Dns {
                lookup,
                exchange,
                heard,
            } => self.dns_heard(lookup, exchange, heard),
            Inner::BeginErrand(id, errand) => self.begin_errand(id, errand),
            Inner::Errand(id, answer) => self.drive_errand(id, Some(Input::Answer(answer))),
            Inner::ErrandConnected(id, to) => self.errand_connected(id, to),
            Inner::ErrandTime(id) => self.time_is_up_for_errand(id),
            Inner::Kept => self.write_kept(),
            Inner::Stop => self.stopped(),
        }
    }
}
