//! The third runtime: it carries bytes, time and disk to the same machines, engine and store as the
//! other two, in virtual time.
//!
//! What it does is what `runtime_std::hub` and `runtime_std::drive` do: one thing after another for each
//! machine, each answer at some later moment. The seams at which planted faults sit are here too.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use relay_core::bounce;
use relay_core::channel::ClientTls;
use relay_core::config::{Config, TlsLevel};
use relay_core::dns::{Addresses, Alias, DnsFailure, Lookup, MxSet, Resolver, TlsaSet};
use relay_core::engine::{
    Ask, Engine, Input as ToEngine, Next, NotWritten, Output as FromEngine, ReportDue, Start,
    Submission,
};
use relay_core::id::{DeliveryId, MessageId, ResolveId, SessionId, WriteId};
use relay_core::inbound::{self, Session, Setup};
use relay_core::machine::{BURST_MAX, Input, Machine, Output, WRITE_MAX};
use relay_core::outbound::{self, Delivery, Loaded, Outcome, Report};
use relay_core::queue::message::Body;
use relay_core::queue::record::Progress;
use relay_core::queue::store::{LoadFailed, Place, Store as _, StoreFailed, StoreSink};
use relay_core::rng::Rng;
use relay_core::time::{Instant, Now};
use runtime_std::store::{Options, SegmentStore};

use super::agenda::{Dice, Slot};
use super::names::{host_at, host_ip};
use super::net::{ConnId, Found, Side};
use super::plant::Plant;
use super::world::{Event, Owner, World};

/// A running relay.
pub(crate) struct Relay {
    engine: Arc<Mutex<Engine>>,
    pub(crate) store: Arc<SegmentStore>,
    pub(crate) resolver: Resolver,
    sessions: BTreeMap<SessionId, Task<Session>>,
    deliveries: BTreeMap<DeliveryId, Task<Delivery>>,
    pub(crate) lookups: BTreeMap<u64, Asking>,
    pub(crate) next_lookup: u64,
    config: Arc<Config>,
    client_tls: Arc<ClientTls>,
    rng: Rng,
    next_session: u64,
    timer: Option<Slot>,
    stepping: bool,
    ticking: bool,
    stopping: bool,
    /// Recipients of the last reset transaction of a session: for [`Plant::EnvelopeKept`].
    kept: BTreeMap<SessionId, Vec<relay_core::queue::message::Recipient>>,
}

/// A machine and what it waits for.
pub(crate) struct Task<M: Machine> {
    machine: M,
    conn: Option<ConnId>,
    side: Side,
    wire: Vec<u8>,
    waits: Waits<M::Request>,
    timer: Option<Slot>,
}

enum Waits<R> {
    /// To be polled.
    Poll,
    /// For an answer.
    Answer,
    /// For the peer to read; then this.
    Flush(Output<R>),
    /// For bytes until then.
    Read(Instant),
}

/// Whose search for names it is.
pub(crate) enum Asking {
    Mx(ResolveId, Lookup<MxSet>, u64),
    Host(DeliveryId, Lookup<Addresses>, u64),
    Tlsa(DeliveryId, Lookup<TlsaSet>, u64),
    Alias(DeliveryId, Lookup<Alias>, u64),
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
    Stop,
}

/// The store's way to the engine, for one step. What the engine wants is carried out after it.
struct Sink {
    engine: Arc<Mutex<Engine>>,
    now: Now,
    outputs: Mutex<Vec<FromEngine>>,
    refuse: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sink {
    fn inputs(&self, inputs: impl IntoIterator<Item = ToEngine>) {
        let mut engine = lock(&self.engine);
        for input in inputs {
            engine.handle_input(self.now, input);
        }
        lock(&self.outputs).extend(std::iter::from_fn(|| engine.poll_output()));
    }
}

impl StoreSink for Sink {
    fn stored(&self, results: Vec<(WriteId, Result<Place, StoreFailed>)>) {
        let refused = |result| match result {
            Ok(_) if self.refuse => Err(StoreFailed::Broken("planted".to_owned())),
            other => other,
        };
        self.inputs(
            results
                .into_iter()
                .map(|(id, result)| ToEngine::Stored(id, refused(result))),
        );
    }

    fn live(&self, messages: &[(MessageId, Place)]) -> Vec<bool> {
        let engine = lock(&self.engine);
        messages
            .iter()
            .map(|&(id, place)| engine.is_live(id, place))
            .collect()
    }

    fn moved(&self, messages: &[(MessageId, Place, Place)]) {
        self.inputs(
            messages
                .iter()
                .map(|&(id, from, to)| ToEngine::Moved(id, from, to)),
        );
    }

    fn snapshot(&self, after: Option<MessageId>, max: usize) -> Vec<(MessageId, Progress)> {
        lock(&self.engine).snapshot(after, max)
    }
}

impl World {
    /// Opens the store and starts; what is in it is read meanwhile. True if that failed and is tried again a little later.
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
        let opened = SegmentStore::open(Path::new("/data"), options, Arc::new(self.disk.clone()))
            .map_err(|error| error.to_string());
        let (store, client_tls) = match (opened, ClientTls::new(Vec::new())) {
            (Ok(store), Ok(tls)) => (store, self.client_tls.get_or_insert(tls).clone()),
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
                self.book.blame(why.to_string());
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
        self.status_in();
        self.soon(Inner::Recover);
        false
    }

    /// Reads a few messages of the life before, and goes on a moment later.
    fn recover(&mut self) {
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

    /// What the store says of itself goes to the engine.
    fn status_in(&mut self) {
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
                self.book.stored(id, &from.unwrap_or_default(), &to);
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
            FromEngine::Resolve(id, domain) => self.soon(Inner::Resolve(id, domain)),
            // The simulated world's domains have no policies: its configuration looks for none.
            FromEngine::Errand(..) | FromEngine::Keep(_) => {}
            FromEngine::Report(due) => self.soon(Inner::Report(due)),
            FromEngine::Event(event) => {
                self.tell_event(&event);
                let now = self.now();
                self.book.event(&event, now);
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

    fn tick_store(&mut self) {
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
        };
        let next = relay.store.step(&sink, tick);
        let outputs = std::mem::take(&mut *lock(&sink.outputs));
        self.route(outputs);
        if next.more {
            self.step_store();
        }
        if next.tick {
            self.tick_store();
        }
    }

    /// A client connects.
    pub(crate) fn accept(&mut self, peer: SocketAddr, ip: IpAddr, client: usize) -> Option<ConnId> {
        let now = self.now();
        let tls = self.server_tls.clone()?;
        let relay = self.relay.as_mut().filter(|relay| !relay.stopping)?;
        relay.next_session += 1;
        let id = SessionId(relay.next_session);
        let local = relay.config.listeners.first()?.address;
        let setup = Setup {
            id,
            peer,
            local,
            listener: 0,
            config: Arc::clone(&relay.config),
            tls,
        };
        let session = Session::new(setup, now, relay.rng.fork());
        let conn = self.net.open(ip, now.instant);
        relay
            .sessions
            .insert(id, Task::new(session, Some(conn), Side::Acceptor));
        self.owners
            .insert((conn, Side::Opener), Owner::Client(client));
        self.owners
            .insert((conn, Side::Acceptor), Owner::Session(id));
        self.drive_session(id, None);
        Some(conn)
    }

    /// Whether the process is dead by now, though nobody noticed yet.
    fn is_dead(&self) -> bool {
        self.disk.has_stopped()
    }

    pub(crate) fn drive_session(
        &mut self,
        id: SessionId,
        input: Option<Input<'_, inbound::Answer>>,
    ) {
        let Some(mut task) = self
            .relay
            .as_mut()
            .and_then(|relay| relay.sessions.remove(&id))
        else {
            return;
        };
        if let Some(input) = input {
            task.machine.handle_input(self.now(), input);
            task.waits = Waits::Poll;
        }
        let timer = Inner::SessionTime(id);
        let open = self.drive(&mut task, timer, |world, _, request| {
            world.session_request(id, request)
        });
        if open {
            if let Some(relay) = &mut self.relay {
                relay.sessions.insert(id, task);
            }
            return;
        }
        self.end_task(task);
        self.engine_in(ToEngine::Ask(id, Ask::Bye));
    }

    pub(crate) fn drive_delivery(
        &mut self,
        id: DeliveryId,
        input: Option<Input<'_, outbound::Answer>>,
    ) {
        let Some(mut task) = self
            .relay
            .as_mut()
            .and_then(|relay| relay.deliveries.remove(&id))
        else {
            return;
        };
        if let Some(input) = input {
            task.machine.handle_input(self.now(), input);
            task.waits = Waits::Poll;
        }
        let timer = Inner::DeliveryTime(id);
        let open = self.drive(&mut task, timer, |world, task, request| {
            world.delivery_request(id, task, request)
        });
        if open {
            if let Some(relay) = &mut self.relay {
                relay.deliveries.insert(id, task);
            }
            return;
        }
        self.end_task(task);
        self.engine_in(ToEngine::Report(id, Report::Ended));
    }

    fn end_task<M: Machine>(&mut self, task: Task<M>) {
        if let Some(slot) = task.timer {
            self.agenda.cancel(slot);
        }
        if let Some(conn) = task.conn {
            self.hang_up(conn, task.side);
        }
    }

    fn hang_up(&mut self, conn: ConnId, side: Side) {
        if !self.is_dead() {
            self.net.close(&mut self.agenda, conn, side);
        }
        self.owners.remove(&(conn, side));
    }

    /// The drive loop: as in the other runtimes, but that it returns where they wait. False at the end.
    fn drive<M: Machine>(
        &mut self,
        task: &mut Task<M>,
        timer: Inner,
        mut carry_out: impl FnMut(&mut Self, &mut Task<M>, M::Request) -> Option<M::Answer>,
    ) -> bool {
        if let Some(slot) = task.timer.take() {
            self.agenda.cancel(slot);
        }
        loop {
            if self.is_dead() {
                return true;
            }
            let output = match std::mem::replace(&mut task.waits, Waits::Poll) {
                Waits::Answer => {
                    task.waits = Waits::Answer;
                    return true;
                }
                Waits::Poll => {
                    let output = task.machine.poll_output(&mut task.wire);
                    match self.flush(task) {
                        Ok(true) => output,
                        Ok(false) => {
                            task.waits = Waits::Flush(output);
                            let until = self.agenda.now() + WRITE_MAX;
                            task.timer =
                                Some(self.agenda.at(until, Event::Relay(self.life, timer)));
                            return true;
                        }
                        Err(_) if matches!(output, Output::Close) => return false,
                        Err(kind) => {
                            task.machine
                                .handle_input(self.now(), Input::WriteFailed(kind));
                            continue;
                        }
                    }
                }
                Waits::Flush(output) => {
                    let conn = task.conn.map(|conn| {
                        (
                            self.net.broken(conn, task.side),
                            self.net.is_flushed(conn, task.side),
                        )
                    });
                    match conn {
                        Some((None, false)) => {
                            task.waits = Waits::Flush(output);
                            let until = self.agenda.now() + WRITE_MAX;
                            task.timer =
                                Some(self.agenda.at(until, Event::Relay(self.life, timer)));
                            return true;
                        }
                        Some((Some(_), _)) if matches!(output, Output::Close) => return false,
                        Some((Some(kind), _)) => {
                            task.machine
                                .handle_input(self.now(), Input::WriteFailed(kind));
                            continue;
                        }
                        Some((None, true)) | None => output,
                    }
                }
                Waits::Read(until) => Output::Read {
                    until,
                    why: relay_core::machine::Timer::Quit,
                },
            };
            match output {
                Output::Close => return false,
                Output::Request(request) => match carry_out(self, task, request) {
                    Some(answer) => task.machine.handle_input(self.now(), Input::Answer(answer)),
                    None => task.waits = Waits::Answer,
                },
                Output::Read { until, .. } => {
                    let now = self.now();
                    let found = match task.conn {
                        Some(conn) => self.net.read(&mut self.agenda, conn, task.side, 16 * 1024),
                        None => Found::Broken(ErrorKind::NotConnected),
                    };
                    match found {
                        Found::Bytes(bytes) => task.machine.handle_input(now, Input::Bytes(&bytes)),
                        Found::End => task.machine.handle_input(now, Input::Closed(None)),
                        Found::Broken(kind) => {
                            task.machine.handle_input(now, Input::Closed(Some(kind)));
                        }
                        Found::Nothing if now.instant >= until => {
                            task.machine.handle_input(now, Input::Timeout);
                        }
                        Found::Nothing => {
                            task.waits = Waits::Read(until);
                            task.timer =
                                Some(self.agenda.at(until, Event::Relay(self.life, timer)));
                            return true;
                        }
                    }
                }
            }
        }
    }

    fn flush<M: Machine>(&mut self, task: &mut Task<M>) -> Result<bool, ErrorKind> {
        if task.wire.is_empty() {
            return Ok(true);
        }
        if task.wire.len() > BURST_MAX + 4096 {
            self.book.blame(format!(
                "a machine wrote {} octets in one burst",
                task.wire.len()
            ));
        }
        let mut wire = std::mem::take(&mut task.wire);
        let replies = wire.iter().filter(|&&octet| octet == b'\n').count() > 1;
        if task.side == Side::Acceptor && replies && self.planted(Plant::ReplyLost) {
            let end = wire
                .iter()
                .position(|&octet| octet == b'\n')
                .map_or(0, |at| at + 1);
            if wire.get(3) == Some(&b' ') {
                wire.drain(..end);
            }
        }
        let conn = task.conn.ok_or(ErrorKind::NotConnected)?;
        let flushed = self
            .net
            .write(&mut self.agenda, conn, task.side, &wire, Duration::ZERO);
        wire.clear();
        task.wire = wire;
        flushed
    }

    fn session_request(
        &mut self,
        id: SessionId,
        request: inbound::Request,
    ) -> Option<inbound::Answer> {
        let store = Arc::clone(&self.relay.as_ref()?.store);
        match request {
            inbound::Request::Engine(Ask::Bye) => Some(inbound::Answer::Done),
            inbound::Request::Engine(mut ask) => {
                self.keep_envelope(id, &mut ask);
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

    /// [`Plant::EnvelopeKept`]: every envelope also has the recipients of the one before.
    /// [`Plant::RecipientDropped`]: it lacks its last one.
    fn keep_envelope(&mut self, id: SessionId, ask: &mut Ask) {
        if let Ask::Submit(submission) = ask
            && submission.envelope.recipients.len() > 1
            && self.planted(Plant::RecipientDropped)
        {
            submission.envelope.recipients.pop();
        }
        if !self.planted(Plant::EnvelopeKept) {
            return;
        }
        let Some(relay) = &mut self.relay else {
            return;
        };
        if let Ask::Submit(submission) = ask {
            let own = submission.envelope.recipients.clone();
            if let Some(kept) = relay.kept.insert(id, own) {
                submission.envelope.recipients.extend(kept);
            }
        }
    }

    fn delivery_request(
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

    /// Planted faults in what a delivery reports. True if the report is lost.
    fn falsify(&mut self, report: &mut Report) -> bool {
        let (Report::Tried(tried) | Report::Unreachable(tried)) = report else {
            return false;
        };
        if self.planted(Plant::FalseDelivery) {
            for (_, outcome) in &mut tried.outcomes {
                if let Outcome::Deferred { reason, .. } = outcome {
                    *outcome = Outcome::Delivered(reason.clone());
                }
            }
        }
        let delivered = tried
            .outcomes
            .iter()
            .any(|(_, o)| matches!(o, Outcome::Delivered(_)));
        delivered && self.planted(Plant::OutcomeLost) && self.rng.chance(300)
    }

    /// A delivery connects. The answer comes when the network gives it.
    fn connect(&mut self, id: DeliveryId, to: SocketAddr, until: Instant) {
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
    fn connected(&mut self, id: DeliveryId, to: SocketAddr) {
        let now = self.agenda.now();
        let Some(host) = host_at(to.ip()) else {
            return;
        };
        let conn = self.net.open(host_ip(host), now);
        let Some(task) = self
            .relay
            .as_mut()
            .and_then(|relay| relay.deliveries.get_mut(&id))
        else {
            return;
        };
        task.conn = Some(conn);
        self.owners
            .insert((conn, Side::Opener), Owner::Delivery(id));
        self.owners.insert((conn, Side::Acceptor), Owner::Host);
        self.check_lanes(host);
        self.greet(conn, host);
        let local = SocketAddr::from(([198, 51, 100, 1], 50_000));
        self.drive_delivery(
            id,
            Some(Input::Answer(outbound::Answer::Connected(Ok(local)))),
        );
    }

    /// How many connections the relay has to each lane's hosts.
    fn check_lanes(&mut self, host: usize) {
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
        if open > self.profile.lane_connections {
            let most = self.profile.lane_connections;
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
    fn write_report(&mut self, due: &ReportDue) {
        let about = due.report.about;
        let report = if self.planted(Plant::ReportLost) {
            Err(NotWritten::NotDue("planted".to_owned()))
        } else {
            self.written(due)
        };
        self.engine_in(ToEngine::ReportWritten { about, report });
    }

    fn written(&self, due: &ReportDue) -> Result<Box<Submission>, NotWritten> {
        let Some(relay) = &self.relay else {
            return Err(NotWritten::Later("the relay is gone".to_owned()));
        };
        let original = match &due.original {
            Some(original) => Arc::clone(original),
            None => match relay.store.load(due.report.about, due.place) {
                Ok((message, body)) => Arc::new(Loaded { message, body }),
                Err(LoadFailed::Damaged(why)) => return Err(NotWritten::Damaged(why)),
                Err(LoadFailed::Io(why)) => return Err(NotWritten::Later(why)),
            },
        };
        let message = &original.message;
        let bytes = match &original.body {
            Body::Memory(bytes) => bytes.clone(),
            Body::Spooled => relay
                .store
                .spool_read(message.id, 0, bounce::original_len(message))
                .map_err(|failed| NotWritten::Later(failed.to_string()))?,
        };
        bounce::write(&due.report, message, &bytes)
            .map(Box::new)
            .map_err(|not_due| NotWritten::NotDue(not_due.to_string()))
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
            Inner::Stop => self.stopped(),
        }
    }

    /// [`Plant::BodyDamaged`], for bodies that come from the store.
    fn damage(&mut self, answer: &mut outbound::Answer) {
        if let outbound::Answer::Loaded(Ok(loaded)) = answer
            && self.planted(Plant::BodyDamaged)
        {
            *loaded = damaged(Arc::clone(loaded));
        }
    }

    fn time_is_up_for_session(&mut self, id: SessionId) {
        let task = self
            .relay
            .as_mut()
            .and_then(|relay| relay.sessions.get_mut(&id));
        let input = task.and_then(Task::time_is_up);
        if let Some(kind) = input {
            self.drive_session(id, Some(Input::WriteFailed(kind)));
        } else {
            self.drive_session(id, None);
        }
    }

    fn time_is_up_for_delivery(&mut self, id: DeliveryId) {
        let task = self
            .relay
            .as_mut()
            .and_then(|relay| relay.deliveries.get_mut(&id));
        let input = task.and_then(Task::time_is_up);
        if let Some(kind) = input {
            self.drive_delivery(id, Some(Input::WriteFailed(kind)));
        } else {
            self.drive_delivery(id, None);
        }
    }

    /// What each connection of the relay waits for, for people.
    pub(crate) fn waits(&self) -> String {
        let Some(relay) = &self.relay else {
            return String::new();
        };
        let sessions = relay
            .sessions
            .iter()
            .map(|(id, task)| format!("{id:?} {}", task.describe()));
        let deliveries = relay.deliveries.iter();
        let deliveries = deliveries.map(|(id, task)| format!("{id:?} {}", task.describe()));
        sessions.chain(deliveries).collect::<Vec<_>>().join("; ")
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
    fn stopped(&mut self) {
        if let Some(relay) = &self.relay {
            relay.store.close();
        }
        if !self.is_dead() {
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
        let sessions = relay.sessions.values().map(|task| (task.conn, task.side));
        let deliveries = relay.deliveries.values().map(|task| (task.conn, task.side));
        let ends: Vec<_> = sessions.chain(deliveries).collect();
        drop(relay);
        for (conn, side) in ends {
            if let Some(conn) = conn {
                self.net.vanish(&mut self.agenda, conn, side, power_cut);
                self.owners.remove(&(conn, side));
            }
        }
    }
}

impl<M: Machine> Task<M> {
    fn new(machine: M, conn: Option<ConnId>, side: Side) -> Self {
        Self {
            machine,
            conn,
            side,
            wire: Vec::new(),
            waits: Waits::Poll,
            timer: None,
        }
    }

    fn describe(&self) -> String {
        let waits = match self.waits {
            Waits::Poll => "to be polled",
            Waits::Answer => "for an answer",
            Waits::Flush(_) => "for the peer to read",
            Waits::Read(_) => "for bytes",
        };
        format!("{:?} waits {waits}", self.conn)
    }

    /// What a timer means: a write that failed, or just another look at what came.
    fn time_is_up(&mut self) -> Option<ErrorKind> {
        self.timer = None;
        match self.waits {
            Waits::Flush(_) => Some(ErrorKind::TimedOut),
            Waits::Poll | Waits::Answer | Waits::Read(_) => None,
        }
    }
}

fn damaged(loaded: Arc<Loaded>) -> Arc<Loaded> {
    let mut loaded = Loaded::clone(&loaded);
    if let Body::Memory(bytes) = &loaded.body {
        let mut octets = bytes.to_vec();
        if let Some(octet) = octets.iter_mut().rev().find(|octet| octet.is_ascii_digit()) {
            *octet = b'x';
        }
        loaded.body = Body::Memory(Bytes::from(octets));
    }
    Arc::new(loaded)
}
