//! A runtime of a few lines, in virtual time: a store in memory, names from a table, and deliveries
//! whose outcomes the test decides. After every input it counts everything again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use smtp_proto::{Domain, Mailbox, Notify, ReversePath};

use crate::admin::{AdminRequest, AdminResponse, QueueEntry, Selector, Status};
use crate::bounce;
use crate::config::Config;
use crate::dns::{DnsFailure, Mx, MxAnswer, MxSet};
use crate::engine::{
    Answer, Ask, Capacity, Engine, Input, Keep, Next, NotWritten, Output, Refusal, ReportDue,
    Submission,
};
use crate::errand::Errand;
use crate::events::{ClientEvent, DeliveryEvent, EventKind};
use crate::id::{AdminId, DeliveryId, ErrandId, MessageId, ResolveId, SessionId, WriteId};
use crate::outbound::{Evidence, Job, Lane, Loaded, Outcome, Reason, Report, Tried};
use crate::queue::job::{JobState, NIL};
use crate::queue::message::{Body, BodyKind, Envelope, Message, Origin, Recipient};
use crate::queue::record::Progress;
use crate::queue::store::{Place, Recovered, StoreFailed, StoreMessage};
use crate::rng::Rng;
use crate::time::{Instant, Now, UnixTime};

/// The session that [`World::submit`] uses.
pub(super) const APP: SessionId = SessionId(1);

/// What the store holds of a message.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) loaded: Arc<Loaded>,
    pub(super) place: Place,
    pub(super) notes: Vec<Progress>,
}

/// A delivery that runs.
#[derive(Debug, Clone)]
pub(super) struct Open {
    pub(super) lane: Arc<Lane>,
    /// None once it is reported on, until `Next::Job`.
    pub(super) job: Option<Job>,
    /// It was told to quit.
    pub(super) quit: bool,
}

/// The engine and the world around it.
pub(super) struct World {
    pub(super) engine: Engine,
    pub(super) config: Arc<Config>,
    pub(super) now: Now,
    pub(super) wait: Option<Instant>,
    pub(super) disk: BTreeMap<MessageId, Kept>,
    /// Writes without a receipt.
    pub(super) writes: VecDeque<(WriteId, StoreMessage)>,
    /// Receipts come at once.
    pub(super) auto_store: bool,
    /// What a write gets.
    pub(super) store_says: Option<StoreFailed>,
    /// MX answers that differ from the domain's own name as implicit MX.
    pub(super) zone: BTreeMap<String, MxAnswer>,
    pub(super) questions: VecDeque<(ResolveId, String)>,
    pub(super) auto_resolve: bool,
    /// Errands that were not run.
    pub(super) errands: VecDeque<(ErrandId, Errand)>,
    /// What is kept for the next start, by name.
    pub(super) kept: BTreeMap<String, String>,
    pub(super) asked: usize,
    pub(super) open: BTreeMap<DeliveryId, Open>,
    pub(super) reports: VecDeque<Box<ReportDue>>,
    pub(super) auto_report: bool,
    /// Reports that were written: the message and the recipients that each is about, by its id.
    pub(super) told: BTreeMap<MessageId, (MessageId, Vec<u32>)>,
    pub(super) events: Vec<DeliveryEvent>,
    pub(super) told_of_clients: Vec<ClientEvent>,
    pub(super) answers: Vec<(SessionId, Answer)>,
    pub(super) discarded: Vec<MessageId>,
    pub(super) quarantined: Vec<(MessageId, String)>,
    /// Receivers let a connection be held; otherwise they close it at once.
    pub(super) patient: bool,
    /// Count everything again after every input.
    pub(super) checks: bool,
    admin: Option<Box<AdminResponse>>,
    offset: u32,
}

pub(super) fn config() -> Config {
    let mut config = Config::new(Domain::parse("relay.example").unwrap(), "data");
    // Only the tests that are about policies want to be asked for them.
    config.mta_sts.enabled = false;
    config
}

pub(super) fn start() -> Now {
    Now {
        instant: Instant::from_origin(Duration::from_secs(1000)),
        unix: UnixTime::from_secs(1_750_000_000),
    }
}

pub(super) fn mx(hosts: &[(u16, &str)]) -> MxAnswer {
    let hosts = hosts.iter().map(|&(preference, host)| Mx {
        preference,
        host: host.into(),
    });
    Ok(MxSet {
        hosts: hosts.collect(),
        implicit: false,
        authentic: false,
    })
}

pub(super) fn reason(stage: &str, code: Option<u16>, status: &str, text: &str) -> Reason {
    Reason {
        stage: stage.into(),
        code,
        status: status.into(),
        text: text.into(),
        rule: "test".into(),
    }
}

pub(super) fn delivered() -> Outcome {
    Outcome::Delivered(reason("dot", Some(250), "2.0.0", "Ok"))
}

pub(super) fn bounced() -> Outcome {
    Outcome::Bounced(reason("rcpt", Some(550), "5.1.1", "No such user"))
}

pub(super) fn deferred() -> Outcome {
    deferred_at("rcpt", Some(450), "Greylisted")
}

pub(super) fn deferred_at(stage: &str, code: Option<u16>, text: &str) -> Outcome {
    let reason = reason(stage, code, "4.2.0", text);
    Outcome::Deferred {
        reason,
        retry_after: None,
        in_doubt: false,
    }
}

pub(super) fn mail(from: &str, to: &[&str]) -> Envelope {
    let from = match from {
        "" => ReversePath::Null,
        from => ReversePath::Mailbox(Mailbox::parse(from).unwrap()),
    };
    let recipient = |to: &&str| Recipient {
        to: Mailbox::parse_utf8(to).unwrap(),
        notify: None,
        orcpt: None,
    };
    Envelope {
        from,
        ret: None,
        envid: None,
        body: BodyKind::SevenBit,
        smtputf8: false,
        handling: Default::default(),
        recipients: to.iter().map(recipient).collect(),
    }
}

pub(super) fn notify(mut envelope: Envelope, notify: Notify) -> Envelope {
    envelope
        .recipients
        .iter_mut()
        .for_each(|r| r.notify = Some(notify));
    envelope
}

impl World {
    pub(super) fn new(config: Config) -> Self {
        let config = Arc::new(config);
        let now = start();
        let mut world = Self {
            engine: Engine::new(Arc::clone(&config), now, Rng::from_number(1)),
            config,
            now,
            wait: None,
            disk: BTreeMap::new(),
            writes: VecDeque::new(),
            auto_store: true,
            store_says: None,
            zone: BTreeMap::new(),
            questions: VecDeque::new(),
            auto_resolve: true,
            errands: VecDeque::new(),
            kept: BTreeMap::new(),
            asked: 0,
            open: BTreeMap::new(),
            reports: VecDeque::new(),
            auto_report: true,
            told: BTreeMap::new(),
            events: Vec::new(),
            told_of_clients: Vec::new(),
            answers: Vec::new(),
            discarded: Vec::new(),
            quarantined: Vec::new(),
            patient: false,
            checks: true,
            admin: None,
            offset: 0,
        };
        world.connect(APP, "192.0.2.1");
        world
    }

    pub(super) fn connect(&mut self, session: SessionId, peer: &str) -> Answer {
        let peer = peer.parse().unwrap();
        self.ask(session, Ask::Connect { peer, listener: 0 })
            .unwrap()
    }

    /// On a machine with room for this.
    pub(super) fn with_capacity(mut self, capacity: Capacity) -> Self {
        let engine = Engine::new(Arc::clone(&self.config), self.now, Rng::from_number(1));
        self.engine = engine.with_capacity(capacity);
        self.connect(APP, "192.0.2.1");
        self
    }

    /// Hands in one input, and carries out all that comes of it.
    pub(super) fn input(&mut self, input: Input) {
        self.engine.handle_input(self.now, input);
        self.settle();
    }

    pub(super) fn settle(&mut self) {
        loop {
            if let Some(output) = self.engine.poll_output() {
                self.carry_out(output);
                continue;
            }
            let input = if self.auto_store && !self.writes.is_empty() {
                self.receipt()
            } else if self.auto_resolve && !self.questions.is_empty() {
                self.resolution()
            } else if self.auto_report && !self.reports.is_empty() {
                self.written()
            } else {
                break;
            };
            self.engine.handle_input(self.now, input);
        }
        if self.checks {
            check(&self.engine);
        }
        assert_eq!(self.engine.deliveries.len(), self.open.len());
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Session(session, answer) => self.answers.push((session, answer)),
            Output::Delivery(id, next) => {
                let open = self.open.get_mut(&id).expect("an open delivery");
                assert!(open.job.is_none(), "it has a job");
                match next {
                    Next::Job(job) => open.job = Some(*job),
                    Next::Quit => open.quit = true,
                }
            }
            Output::Start(id, start) => {
                let open = Open {
                    lane: start.lane,
                    job: Some(start.job),
                    quit: false,
                };
                assert!(self.open.insert(id, open).is_none());
            }
            Output::Store(write, message) => self.writes.push_back((write, message)),
            Output::Note(id, place, note) => {
                let kept = self.disk.get_mut(&id).expect("a stored message");
                assert_eq!(kept.place, place);
                kept.notes.push(note);
            }
            Output::Discard(id, place) => {
                let kept = self.disk.remove(&id).expect("a stored message");
                assert_eq!(kept.place, place);
                self.discarded.push(id);
            }
            Output::Quarantine(id, place, why) => {
                let kept = self.disk.remove(&id).expect("a stored message");
                assert_eq!(kept.place, place);
                self.quarantined.push((id, why));
            }
            Output::Resolve(id, name) => {
                self.asked += 1;
                self.questions.push_back((id, name));
            }
            Output::Errand(id, errand) => self.errands.push_back((id, errand)),
            Output::Keep(keep) => {
                match keep.text {
                    Some(text) => self.kept.insert(keep.name, text),
                    None => self.kept.remove(&keep.name),
                };
            }
            Output::Report(due) => self.reports.push_back(due),
            Output::Client(event) => self.told_of_clients.push(*event),
            Output::Event(event) => self.events.push(*event),
            Output::Admin(_, response) => self.admin = Some(response),
            Output::Wait(wait) => self.wait = wait,
        }
    }

    /// The receipt of the oldest write.
    pub(super) fn receipt(&mut self) -> Input {
        let (write, StoreMessage { message, body }) = self.writes.pop_front().unwrap();
        if let Some(failed) = &self.store_says {
            return Input::Stored(write, Err(failed.clone()));
        }
        let place = self.place();
        let loaded = Arc::new(Loaded {
            message: Message::clone(&message),
            body,
        });
        let before = self.disk.insert(
            message.id,
            Kept {
                loaded,
                place,
                notes: Vec::new(),
            },
        );
        assert!(before.is_none());
        Input::Stored(write, Ok(place))
    }

    pub(super) fn place(&mut self) -> Place {
        self.offset += 1;
        Place {
            segment: 1,
            offset: self.offset,
        }
    }

    pub(super) fn resolution(&mut self) -> Input {
        let (id, name) = self.questions.pop_front().unwrap();
        let answer = match self.zone.get(&name) {
            Some(answer) => answer.clone(),
            None => mx(&[(0, &name)]),
        };
        Input::Resolved(id, answer)
    }

    pub(super) fn written(&mut self) -> Input {
        let due = self.reports.pop_front().unwrap();
        let about = due.report.recipients.iter().map(|r| r.index).collect();
        self.told.insert(due.report.id, (due.report.about, about));
        let original = due.original.unwrap_or_else(|| {
            let kept = &self.disk[&due.report.about];
            assert_eq!(kept.place, due.place);
            Arc::clone(&kept.loaded)
        });
        let report = bounce::write(&due.report, &original.message, b"Subject: x\r\n\r\n")
            .map(Box::new)
            .map_err(|not_due| NotWritten::NotDue(not_due.to_string()));
        Input::ReportWritten {
            about: due.report.about,
            report,
        }
    }

    /// Time passes, with a `Timeout` whenever the engine asked for one.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now.instant + time;
        for _ in 0..1_000_000 {
            match self.wait {
                Some(wait) if wait <= end => {
                    let step = wait.since(self.now.instant);
                    self.tick(step);
                    self.input(Input::Timeout);
                }
                Some(_) | None => {
                    self.tick(end.since(self.now.instant));
                    return;
                }
            }
        }
        panic!("the engine never stops asking for time");
    }

    fn tick(&mut self, step: Duration) {
        self.now.instant = self.now.instant + step;
        self.now.unix = self.now.unix + step;
    }

    /// What a session hears at once, if anything.
    pub(super) fn ask(&mut self, session: SessionId, ask: Ask) -> Option<Answer> {
        let before = self.answers.len();
        self.input(Input::Ask(session, ask));
        let answers = self.answers.split_off(before);
        let (own, others) = answers
            .into_iter()
            .partition::<Vec<_>, _>(|(s, _)| *s == session);
        self.answers.extend(others);
        assert!(own.len() <= 1, "one answer for each ask");
        own.into_iter().next().map(|(_, answer)| answer)
    }

    pub(super) fn mail(&mut self, session: SessionId) -> Answer {
        let from = ReversePath::Mailbox(Mailbox::parse("a@sender.example").unwrap());
        self.ask(
            session,
            Ask::Mail {
                credential: "app".into(),
                from,
                size: Some(100),
            },
        )
        .unwrap()
    }

    pub(super) fn submission(&self, id: MessageId, envelope: Envelope) -> Box<Submission> {
        Box::new(Submission {
            id,
            origin: Origin {
                credential: Some("app".into()),
                peer: None,
            },
            envelope,
            prefix: Bytes::new(),
            dkim: None,
            preflight: Vec::new(),
            body: Body::Memory(Bytes::from_static(b"Subject: x\r\n\r\nHello\r\n")),
            size: 21,
            header_size: 14,
        })
    }

    /// Submits a message, and hears what becomes of it.
    pub(super) fn try_submit(&mut self, envelope: Envelope) -> Result<MessageId, Refusal> {
        let id = match self.mail(APP) {
            Answer::Mail { id, .. } => id,
            Answer::Refused(refusal) => return Err(refusal),
            other => panic!("{other:?}"),
        };
        let submission = self.submission(id, envelope);
        match self.ask(APP, Ask::Submit(submission)) {
            Some(Answer::Queued(queued)) => assert_eq!(queued, id),
            Some(Answer::Refused(refusal)) => return Err(refusal),
            Some(other) => panic!("{other:?}"),
            None => {}
        }
        Ok(id)
    }

    pub(super) fn submit(&mut self, to: &[&str]) -> MessageId {
        self.submit_envelope(mail("sender@sender.example", to))
    }

    pub(super) fn submit_many(&mut self, count: usize, to: &str) {
        for _ in 0..count {
            self.submit(&[to]);
        }
    }

    pub(super) fn submit_envelope(&mut self, envelope: Envelope) -> MessageId {
        self.try_submit(envelope).unwrap()
    }

    /// The running deliveries that have a job, oldest first.
    pub(super) fn running(&self) -> Vec<DeliveryId> {
        self.open
            .iter()
            .filter(|(_, open)| open.job.is_some())
            .map(|(&id, _)| id)
            .collect()
    }

    /// The only running delivery.
    pub(super) fn only(&self) -> DeliveryId {
        let running = self.running();
        assert_eq!(running.len(), 1, "{:?}", self.open);
        running[0]
    }

    pub(super) fn job(&self, id: DeliveryId) -> &Job {
        self.open[&id].job.as_ref().expect("a job")
    }

    /// What a delivery says when each recipient of its job has this outcome.
    pub(super) fn tried_as(&self, id: DeliveryId, outcome: &Outcome) -> Tried {
        let job = self.job(id);
        let host = self.open[&id].lane.hosts[0].host.host.clone();
        let loaded = job
            .loaded
            .clone()
            .unwrap_or_else(|| Arc::clone(&self.disk[&job.id].loaded));
        Tried {
            id: job.id,
            outcomes: job
                .recipients
                .iter()
                .map(|&r| (r, outcome.clone()))
                .collect(),
            evidence: Evidence {
                host: Some(host),
                ..Evidence::default()
            },
            reusable: true,
            loaded: Some(loaded),
            sessions: Vec::new(),
        }
    }

    pub(super) fn report(&mut self, id: DeliveryId, tried: Tried) {
        self.open.get_mut(&id).expect("an open delivery").job = None;
        self.input(Input::Report(id, Report::Tried(Box::new(tried))));
    }

    /// A job ends so for all its recipients; the connection ends when the engine says so.
    pub(super) fn finish(&mut self, id: DeliveryId, outcome: &Outcome) {
        let tried = self.tried_as(id, outcome);
        self.report(id, tried);
        self.end_idle();
    }

    pub(super) fn unreachable(&mut self, id: DeliveryId) {
        let outcome = deferred_at("connect", None, "connection refused");
        let tried = self.tried_as(id, &outcome);
        self.open.get_mut(&id).expect("an open delivery").job = None;
        self.input(Input::Report(id, Report::Unreachable(Box::new(tried))));
        self.end_idle();
    }

    pub(super) fn end(&mut self, id: DeliveryId) {
        self.open.remove(&id).expect("an open delivery");
        self.input(Input::Report(id, Report::Ended));
    }

    /// Ends the connections that were told to quit, and those that are held where receivers close them.
    pub(super) fn end_idle(&mut self) {
        let idle: Vec<_> = self
            .open
            .iter()
            .filter(|(_, o)| o.quit || o.job.is_none() && !self.patient)
            .map(|(&id, _)| id)
            .collect();
        idle.into_iter().for_each(|id| self.end(id));
    }

    /// Lets every delivery end so, until none runs.
    pub(super) fn finish_all(&mut self, outcome: &Outcome) -> usize {
        let mut jobs = 0;
        while let Some(&id) = self.running().first() {
            self.finish(id, outcome);
            jobs += 1;
        }
        jobs
    }

    pub(super) fn admin(&mut self, request: AdminRequest) -> AdminResponse {
        self.input(Input::Admin(AdminId(1), request));
        *self.admin.take().expect("an answer")
    }

    pub(super) fn list(&mut self, selector: Selector) -> Vec<QueueEntry> {
        match self.admin(AdminRequest::List {
            selector,
            after: None,
            limit: 1000,
        }) {
            AdminResponse::List(list) => list,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn show(&mut self, id: MessageId) -> Option<QueueEntry> {
        match self.admin(AdminRequest::Show(id)) {
            AdminResponse::Show(entry) => entry.map(|entry| *entry),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn status(&mut self) -> Status {
        match self.admin(AdminRequest::Status) {
            AdminResponse::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    /// The process dies. Writes without a receipt happened or did not, as `written` says; of each
    /// message the last `lost` notes did not reach the disk.
    pub(super) fn crash(&mut self, written: bool, lost: usize, seed: u64) {
        self.crash_and_read(written, lost, seed);
        self.input(Input::AllRecovered);
        self.input(Input::Timeout);
    }

    /// The same, and the store may hold more than was read so far.
    pub(super) fn crash_and_read(&mut self, written: bool, lost: usize, seed: u64) {
        let writes = std::mem::take(&mut self.writes);
        for (_, StoreMessage { message, body }) in writes {
            if written {
                let place = self.place();
                let loaded = Arc::new(Loaded {
                    message: Message::clone(&message),
                    body,
                });
                self.disk.insert(
                    message.id,
                    Kept {
                        loaded,
                        place,
                        notes: Vec::new(),
                    },
                );
            }
        }
        self.open.clear();
        self.questions.clear();
        self.errands.clear();
        self.reports.clear();
        self.wait = None;
        self.engine = Engine::new(Arc::clone(&self.config), self.now, Rng::from_number(seed));
        for (name, text) in self.kept.clone() {
            let text = Some(text);
            self.input(Input::Kept(Keep { name, text }));
        }
        for kept in self.disk.values_mut() {
            let keep = kept.notes.len().saturating_sub(lost);
            kept.notes.truncate(keep);
        }
        for kept in self.disk.clone().into_values() {
            let recovered = Recovered {
                message: kept.loaded.message.clone(),
                place: kept.place,
                progress: kept.notes,
            };
            self.input(Input::Recovered(Box::new(recovered)));
        }
        self.connect(APP, "192.0.2.1");
    }

    /// The kinds of what happened to a message, in order.
    pub(super) fn story(&self, id: MessageId) -> Vec<&'static str> {
        let id = id.to_string();
        let of = self.events.iter().filter(|event| event.id == id);
        of.map(|event| match &event.kind {
            EventKind::Accepted { .. } => "accepted",
            EventKind::Delivered(_) => "delivered",
            EventKind::Deferred { .. } => "deferred",
            EventKind::Bounced(_) => "bounced",
            EventKind::Expired(_) => "expired",
            EventKind::Changed { change, .. } => match change.as_str() {
                "removed" => "removed",
                "held" => "held",
                "released" => "released",
                "retried" => "retried",
                other => panic!("{other}"),
            },
            EventKind::Preflight { .. } => "preflight",
            EventKind::NotReported { .. } => "not reported",
            EventKind::Quarantined { .. } => "quarantined",
        })
        .collect()
    }

    /// Reports about a message that were queued: their ids.
    pub(super) fn reports_about(&self, about: MessageId) -> Vec<MessageId> {
        let text = about.to_string();
        let of = self.events.iter().filter_map(|event| match &event.kind {
            EventKind::Accepted {
                about: Some(about), ..
            } if *about == text => Some(event.id.parse().unwrap()),
            _ => None,
        });
        of.collect()
    }
}

/// Temporary failure of names.
pub(super) fn no_dns() -> MxAnswer {
    Err(DnsFailure::Temporary("127.0.0.1:53 does not answer".into()))
}

/// Counts everything again, and compares it with what the engine keeps count of.
pub(super) fn check(engine: &Engine) {
    assert!(engine.counters.balance(), "{:?}", engine.counters);
    assert_eq!(engine.accept.lent, engine.admit.lent());
    let table = &engine.table;
    let mut queued = 0;
    let mut listed = 0;
    for (handle, message) in table.messages.iter() {
        assert_eq!(table.find(message.id), Some(handle));
        let mut busy = 0;
        let mut seen = Vec::new();
        let mut next = message.first_job;
        while next != NIL {
            let job = &table.jobs[next];
            assert_eq!(job.message, handle);
            assert!(job.recipients.len() > 0);
            assert_ne!(job.state, JobState::Picked, "nothing stays picked");
            assert_ne!(job.state, JobState::Gone);
            busy += u32::from(job.state.is_busy());
            seen.extend(job.recipients.to_vec());
            listed += 1;
            next = job.sibling;
        }
        queued += seen.len() as u64;
        assert_eq!(message.busy, busy, "{}", message.id);
        seen.extend(engine.reports.unreported(message.id));
        let len = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), len, "a recipient is in one place");
        assert!(seen.iter().all(|&index| index < message.total));
        assert!(
            message.first_job != NIL || engine.reports.is_pending(message.id),
            "{} is done and still here",
            message.id
        );
    }
    let live = table
        .jobs
        .iter()
        .filter(|(_, job)| job.state != JobState::Gone)
        .count();
    assert_eq!(live, listed, "every live job is in its message's list");
    if engine.recovering.is_none() {
        assert_eq!(engine.counters.queued, queued);
    }
    let delivering = table
        .jobs
        .iter()
        .filter(|(_, job)| job.state == JobState::Delivering)
        .count();
    assert!(delivering <= engine.deliveries.len());
    assert_eq!(engine.lanes.open(), engine.deliveries.len());
    assert!(engine.lanes.open() <= engine.caps().all);
    for (_, lane) in engine.lanes.iter() {
        assert!(lane.connections <= engine.caps().lane);
    }
}
