//! A world: one relay, its disk, its names, its receivers and clients, and all the trouble between.
//!
//! ```text
//!  clients ═══ net ═══ relay (Session, Engine, Delivery, Resolver, SegmentStore) ═══ net ═══ hosts
//!                          │                        │
//!                         disk                    names            book: who promised what
//! ```
//!
//! Everything happens in one thread, one event after another, at virtual times. The same seed gives
//! the same run, octet for octet; [`Outcome::hash`] says so.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use relay_core::admin::{Action, AdminRequest, AdminResponse, QueueEntry, Selector};
use relay_core::channel::{ClientTls, ServerTls};
use relay_core::config::{Config, Credential, Listener, ListenerTls, TlsLevel};
use relay_core::engine::Input as ToEngine;
use relay_core::events::{DeliveryEvent, EventKind};
use relay_core::id::{AdminId, DeliveryId, SessionId};
use relay_core::rng::Rng;
use relay_core::time::{Instant, Now, UnixTime};

use super::agenda::{Agenda, Dice};
use super::book::{Book, Figures, millis};
use super::client::Client;
use super::disk::SimDisk;
use super::names::{Names, host_ip, server};
use super::net::{Arrival, ConnId, Net, Side};
use super::plant::Plant;
use super::profile::{DiskWeather, Profile};
use super::receiver::{Host, Talk, server_tls};
use super::relay::{Inner, Relay};
use super::story::Story;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// After the trouble is over, the queue must be empty within this time and the longest retry step:
/// a back-off of half an hour, twice, and what is slow.
const DRAIN: Duration = Duration::from_secs(3 * 3600);

/// More events than this are no world but a loop.
const EVENTS_MAX: u64 = 20_000_000;

/// What happens.
pub(crate) enum Event {
    Net(ConnId, Side, Arrival),
    /// For the relay of this life.
    Relay(u32, Inner),
    ClientGoes(usize),
    Impatient(usize),
    Sip(ConnId),
    NameWeather,
    DiskWeather(DiskWeather),
    Crash {
        power_cut: bool,
        after_calls: u64,
    },
    Restart,
    Boot,
    Partition,
    Jump,
    Admin,
    Check,
    Calm,
}

/// Who holds an end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    Client(usize),
    Session(SessionId),
    Delivery(DeliveryId),
    Host,
}

/// A world, ready to run. See the module.
pub struct World {
    pub(crate) seed: u64,
    pub(crate) profile: Profile,
    pub(crate) agenda: Agenda<Event>,
    pub(crate) rng: Rng,
    pub(crate) net: Net,
    pub(crate) disk: SimDisk,
    pub(crate) names: Names,
    pub(crate) relay: Option<Relay>,
    /// How often the relay died.
    pub(crate) life: u32,
    pub(crate) hosts: Vec<Host>,
    pub(crate) talks: BTreeMap<ConnId, Talk>,
    pub(crate) clients: Vec<Client>,
    pub(crate) owners: BTreeMap<(ConnId, Side), Owner>,
    pub(crate) next_token: u64,
    pub(crate) book: Book,
    pub(crate) story: Story,
    pub(crate) config: Arc<Config>,
    pub(crate) server_tls: Option<Arc<ServerTls>>,
    pub(crate) client_tls: Option<Arc<ClientTls>>,
    /// All trouble is over.
    pub(crate) calm: bool,
    weather: DiskWeather,
    /// How the machine stops at the next stop of the disk.
    power_cut: bool,
    /// A start of the relay is on the agenda.
    down: bool,
    /// Milliseconds that the wall clock is off.
    wall_offset: i64,
    answer: Option<AdminResponse>,
    calm_at: Instant,
    events: u64,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// What went wrong, if something did.
    pub wrong: Option<String>,
    /// A hash of the whole story: the same for the same seed.
    pub hash: u64,
    /// The last lines of the story.
    pub story: Vec<String>,
    /// Virtual time.
    pub time: Duration,
    /// Events.
    pub events: u64,
    /// Counts.
    pub figures: Figures,
}

impl World {
    /// The world of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let profile = Profile::draw(&mut Rng::from_number(seed));
        Self::with(seed, profile)
    }

    /// A world by hand; the seed decides everything that the profile leaves open.
    #[must_use]
    pub fn with(seed: u64, profile: Profile) -> Self {
        let mut rng = Rng::from_number(seed ^ 0x9e37_79b9_7f4a_7c15);
        let names = Names::new(&profile.hosts, profile.clients, &mut rng);
        let tls = profile.tls_required;
        let hosts = profile.hosts.iter().enumerate();
        let hosts = hosts.filter_map(|(index, &manner)| Host::new(index, manner, tls, rng.fork()));
        let hosts = hosts.collect();
        let clients = (0..profile.clients)
            .map(|index| Client::new(index, profile.messages, rng.fork()))
            .collect();
        let mut world = Self {
            seed,
            agenda: Agenda::new(),
            net: Net::new(profile.net, rng.fork()),
            disk: SimDisk::new(rng.fork()),
            names,
            relay: None,
            life: 0,
            hosts,
            talks: BTreeMap::new(),
            clients,
            owners: BTreeMap::new(),
            next_token: 1,
            book: Book::new(&profile),
            story: Story::new(),
            config: Arc::new(config(&profile)),
            server_tls: server_tls(),
            client_tls: None,
            calm: false,
            weather: DiskWeather::default(),
            power_cut: false,
            down: true,
            wall_offset: 0,
            answer: None,
            calm_at: Instant::default(),
            events: 0,
            profile,
            rng,
        };
        if world.planted(Plant::AckBeforeSync) {
            world.disk.lie();
        }
        world.plan();
        world
    }

    /// Prints every line of the story as it happens.
    #[must_use]
    pub fn aloud(mut self) -> Self {
        self.story.aloud = true;
        self
    }

    /// Puts all that will happen by itself into the agenda.
    fn plan(&mut self) {
        let start = self.agenda.now();
        let Profile {
            duration,
            disk_storms,
            kills,
            power_cuts,
            restarts,
            ..
        } = self.profile;
        let Profile {
            partitions,
            clock_jumps,
            admin,
            ..
        } = self.profile;
        self.calm_at = start + duration;
        self.agenda.at(start, Event::Boot);
        for index in 0..self.clients.len() {
            let wait = Duration::from_micros(self.rng.range(1000, 60_000_000));
            self.agenda.after(wait, Event::ClientGoes(index));
        }
        let mut times = |count: u64, event: fn(&mut Rng) -> Event| {
            for _ in 0..count {
                let at = start + Duration::from_micros(self.rng.below(duration.as_micros() as u64));
                let event = event(&mut self.rng);
                self.agenda.at(at, event);
            }
        };
        times(kills, |rng| Event::Crash {
            power_cut: false,
            after_calls: rng.pick(&[0, 2, 9, 40]),
        });
        times(power_cuts, |rng| Event::Crash {
            power_cut: true,
            after_calls: rng.pick(&[0, 2, 9, 40]),
        });
        times(restarts, |_| Event::Restart);
        times(partitions, |_| Event::Partition);
        times(clock_jumps, |_| Event::Jump);
        times(admin, |_| Event::Admin);
        for _ in 0..disk_storms {
            let at = start + Duration::from_micros(self.rng.below(duration.as_micros() as u64));
            let end = at + self.rng.time(Duration::from_secs(10), 40 * MINUTE);
            self.agenda.at(at, Event::DiskWeather(self.profile.disk));
            self.agenda.at(
                end.min(self.calm_at),
                Event::DiskWeather(DiskWeather::default()),
            );
        }
        if self.profile.dns_per_mille > 0 {
            self.agenda.at(start, Event::NameWeather);
        }
        self.agenda.at(self.calm_at, Event::Calm);
        self.agenda.at(start + MINUTE, Event::Check);
    }

    /// Runs until the queue has drained after the trouble, or until something is wrong.
    #[must_use]
    pub fn run(mut self) -> Outcome {
        let start = self.agenda.now();
        let mut done = false;
        while self.book.wrong().is_none() && !done {
            let Some(event) = self.agenda.pop() else {
                self.book.blame("nothing more will ever happen".into());
                break;
            };
            self.events += 1;
            if self.events > EVENTS_MAX {
                self.book.blame("the world does not come to an end".into());
            }
            done = self.happen(event);
            self.serve_pokes();
            self.look_at_disk();
        }
        let time = self.agenda.now().since(start);
        Outcome {
            seed: self.seed,
            wrong: self.book.wrong().cloned(),
            hash: self.story.hash() ^ self.events ^ self.story.count().rotate_left(32),
            story: self.story.end(),
            time,
            events: self.events,
            figures: self.book.figures,
        }
    }

    /// Both clocks.
    pub(crate) fn now(&self) -> Now {
        let instant = self.agenda.now();
        let millis = 1_795_000_000_000 + instant.since_origin().as_millis() as i64;
        let unix = UnixTime::from_millis(u64::try_from(millis + self.wall_offset).unwrap_or(0));
        Now { instant, unix }
    }

    pub(crate) fn planted(&self, plant: Plant) -> bool {
        self.profile.plant == Some(plant)
    }

    /// How long a round of the store's writer takes.
    pub(crate) fn profile_slow(&self) -> Duration {
        self.weather.slow
    }

    pub(crate) fn tell(&mut self, what: fmt::Arguments<'_>) {
        let at = self
            .agenda
            .now()
            .since_origin()
            .saturating_sub(Duration::from_secs(1_000_000));
        self.story.tell(at, what);
    }

    pub(crate) fn tell_event(&mut self, event: &DeliveryEvent) {
        let id = &event.id;
        match &event.kind {
            EventKind::Accepted { from, about, .. } => {
                self.tell(format_args!(
                    "{id} accepted from <{from}> {}",
                    about.as_deref().unwrap_or("")
                ));
            }
            EventKind::Delivered(attempt) => {
                self.tell(format_args!(
                    "{id} delivered to {}",
                    attempt.recipients.join(" ")
                ));
            }
            EventKind::Deferred {
                attempt,
                next,
                in_doubt,
            } => {
                let doubt = if *in_doubt { ", in doubt" } else { "" };
                let (to, reason) = (attempt.recipients.join(" "), &attempt.reason);
                let nr = attempt.attempt;
                let next = next.as_deref().unwrap_or("it is released");
                self.tell(format_args!(
                    "{id} attempt {nr} for {to} until {next}{doubt}: {} {}",
                    reason.rule, reason.text
                ));
            }
            EventKind::Bounced(attempt) | EventKind::Expired(attempt) => {
                let (to, reason) = (attempt.recipients.join(" "), &attempt.reason);
                self.tell(format_args!(
                    "{id} fails for {to}: {} {}",
                    reason.rule, reason.text
                ));
            }
            EventKind::Changed { change, .. } => self.tell(format_args!("{id} {change}")),
            EventKind::Preflight { .. } => {}
            EventKind::NotReported { why } => self.tell(format_args!("{id} not reported: {why}")),
        }
    }

    /// One event. True at the end of the world.
    fn happen(&mut self, event: Event) -> bool {
        match event {
            Event::Net(conn, to, what) => self.net.arrive(&mut self.agenda, conn, to, what),
            Event::Relay(life, inner) if life == self.life => self.inner(inner),
            Event::Relay(..) => {}
            Event::ClientGoes(index) => self.client_goes(index),
            Event::Impatient(index) => self.client_loses_patience(index),
            Event::Sip(conn) => self.hear(conn, true),
            Event::NameWeather => self.name_weather(),
            Event::DiskWeather(weather) if !self.calm => {
                self.tell(format_args!("the disk: {weather:?}"));
                self.weather = weather;
                self.disk.set_weather(weather);
            }
            Event::DiskWeather(_) => {}
            Event::Crash {
                power_cut,
                after_calls,
            } => self.crash(power_cut, after_calls),
            Event::Restart if !self.calm => self.shut_down(),
            Event::Restart => {}
            Event::Boot if self.relay.is_none() => self.down = self.boot(),
            Event::Boot => {}
            Event::Partition => self.partition(),
            Event::Jump => self.jump(),
            Event::Admin => self.administer(),
            Event::Calm => self.begin_calm(),
            Event::Check => return self.check(),
        }
        false
    }

    fn serve_pokes(&mut self) {
        loop {
            let pokes = self.net.take_pokes();
            if pokes.is_empty() {
                return;
            }
            for end in pokes {
                match self.owners.get(&end) {
                    Some(Owner::Client(index)) => self.client_hears(*index),
                    Some(Owner::Session(id)) => self.drive_session(*id, None),
                    Some(Owner::Delivery(id)) => self.drive_delivery(*id, None),
                    Some(Owner::Host) => self.hear(end.0, false),
                    None => {}
                }
            }
        }
    }

    /// Notices that the machine stopped, or that the relay did what must not be done.
    fn look_at_disk(&mut self) {
        self.book.faults(self.disk.faults());
        if let Some(wrong) = self.disk.wrong() {
            self.book.blame(wrong);
        }
        if self.down {
            return;
        }
        if self.disk.has_stopped() {
            let power_cut = self.power_cut;
            let how = if power_cut {
                "the power fails"
            } else {
                "the process is killed"
            };
            self.tell(format_args!("{how}"));
            self.die(power_cut);
            self.come_back(power_cut);
        } else if self.relay.is_none() {
            self.come_back(false);
        }
    }

    /// The machine runs again, and the relay will soon.
    fn come_back(&mut self, power_cut: bool) {
        self.disk.reboot(power_cut);
        let flip = self.rng.chance(500) && self.book.figures.crashes <= self.profile.flips;
        if flip
            && !self.calm
            && let Some(what) = self.disk.flip()
        {
            self.book.flipped();
            self.tell(format_args!("a bit turns in {what}"));
        }
        let down = self.rng.time(Duration::from_millis(50), 20 * MINUTE);
        self.down = true;
        self.book.was_down(down);
        self.agenda.after(down, Event::Boot);
    }

    fn crash(&mut self, power_cut: bool, after_calls: u64) {
        if self.calm || self.relay.is_none() {
            return;
        }
        self.power_cut = power_cut;
        match after_calls {
            0 => self.disk.stop(),
            calls => {
                let calls = 1 + self.rng.below(calls);
                self.disk.stop_in(calls);
            }
        }
    }

    fn partition(&mut self) {
        let host = self.rng.below(self.hosts.len() as u64) as usize;
        let until = self.agenda.now() + self.rng.time(Duration::from_secs(1), 30 * MINUTE);
        if !self.calm {
            self.tell(format_args!("mx{host} cannot be reached for a while"));
            self.net.part(host_ip(host), until.min(self.calm_at));
        }
    }

    fn jump(&mut self) {
        let years = 365 * 24 * 3_600_000;
        let jump = self.rng.pick(&[
            -600_000,
            600_000,
            86_400_000,
            -86_400_000,
            years,
            -10 * years,
        ]);
        if !self.calm {
            self.tell(format_args!("the wall clock jumps by {jump} ms"));
            self.wall_offset += jump;
        }
    }

    /// Asks the engine as `smtp-relay queue` does.
    fn ask_admin(&mut self, request: AdminRequest) -> Option<AdminResponse> {
        self.answer = None;
        self.engine_in(ToEngine::Admin(AdminId(1), request));
        self.answer.take()
    }

    pub(crate) fn admin_answered(&mut self, response: AdminResponse) {
        self.answer = Some(response);
    }

    fn queue(&mut self) -> Vec<QueueEntry> {
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let selector = Selector::default();
            let request = AdminRequest::List {
                selector,
                after,
                limit: 100,
            };
            let Some(AdminResponse::List(list)) = self.ask_admin(request) else {
                return all;
            };
            let Some(last) = list.last() else {
                return all;
            };
            after = last.id.parse().ok();
            all.extend(list);
        }
    }

    /// An administrator does something to a message.
    fn administer(&mut self) {
        let queue = self.queue();
        if self.calm || queue.is_empty() {
            return;
        }
        let entry = &queue[self.rng.below(queue.len() as u64) as usize];
        let action = self.rng.pick(&[
            Action::Retry,
            Action::Retry,
            Action::Hold,
            Action::Release,
            Action::Bounce,
            Action::Remove,
        ]);
        let id = entry.id.clone();
        self.tell(format_args!("an administrator: {action:?} {id}"));
        self.book.touched(Some(&id));
        let selector = Selector {
            id: Some(id),
            ..Selector::default()
        };
        let _ = self.ask_admin(AdminRequest::Act(action, selector));
    }

    /// All trouble ends.
    fn begin_calm(&mut self) {
        self.tell(format_args!("all is well from now on"));
        self.calm = true;
        self.weather = DiskWeather::default();
        self.disk.set_weather(self.weather);
        self.disk.go_on();
        self.net.calm();
        self.calm_hosts();
        self.name_weather();
        let index = self.clients.len();
        let probe = Client::probe(index as u64, self.rng.fork());
        self.clients.push(probe);
        // The machine may be down still, for as long as it may be down.
        self.agenda.after(25 * MINUTE, Event::ClientGoes(index));
    }

    /// Looks at everything once a minute. True at the end.
    fn check(&mut self) -> bool {
        let now = self.now();
        let wait = if self.calm {
            MINUTE / 2
        } else {
            self.profile.duration / 50
        };
        self.agenda.after(wait.max(MINUTE / 2), Event::Check);
        if self.relay.is_none() {
            return false;
        }
        let queue = self.queue();
        self.check_queue(&queue, now);
        let Some(AdminResponse::Status(status)) = self.ask_admin(AdminRequest::Status) else {
            return false;
        };
        let out = status.delivered + status.bounced + status.expired + status.removed;
        if status.accepted + status.recovered != out + status.queued {
            self.book
                .blame(format!("recipients are not conserved: {status:?}"));
        }
        if !self.calm {
            return false;
        }
        let held = |entry: &QueueEntry| entry.held || entry.jobs.iter().any(|j| j.state == "held");
        if queue.iter().any(held) {
            self.book.touched(None);
            let _ = self.ask_admin(AdminRequest::Act(Action::Release, Selector::default()));
        }
        let done = self.clients.iter().all(Client::is_done);
        let idle = self
            .engine(relay_core::engine::Engine::is_idle)
            .unwrap_or(false);
        let all_here = status.store.recovering.is_none();
        if done && status.queued == 0 && status.messages == 0 && idle && all_here {
            self.tell(format_args!("the queue is empty"));
            self.book.settle();
            return true;
        }
        let longest = self.profile.retry.iter().max().copied().unwrap_or(HOUR);
        // A message that is damaged at rest is tried until its time is over, and a clock that goes
        // back makes it new once.
        let damaged = match self.profile.flips {
            0 => Duration::ZERO,
            _ => self.profile.expire * 2 + HOUR,
        };
        if now.instant.since(self.calm_at) > DRAIN + longest * 2 + damaged {
            let left = queue.first();
            self.book.blame(format!(
                "the queue does not drain: {}; {status:?}, first: {left:?}",
                self.waits()
            ));
        }
        false
    }

    fn check_queue(&mut self, queue: &[QueueEntry], now: Now) {
        let ages: Vec<(String, bool)> = queue
            .iter()
            .map(|entry| (entry.id.clone(), entry.held))
            .collect();
        self.book.check_ages(&ages, now.instant);
        for entry in queue {
            for job in &entry.jobs {
                let due = job.next.as_deref().and_then(millis);
                let late = due.is_some_and(|due| due + 5000 < now.unix.as_millis());
                if late && job.state == "waiting" {
                    self.book
                        .blame(format!("{} should have been tried: {job:?}", entry.id));
                }
            }
        }
    }
}

fn config(profile: &Profile) -> Config {
    let name = "relay.test".parse();
    let mut config = match name {
        Ok(name) => Config::new(name, "/data"),
        Err(error) => unreachable!("a name that is written here: {error:?}"),
    };
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 2525));
    config.listeners = vec![Listener {
        trusted_networks: "127.0.0.0/8".parse().into_iter().collect(),
        trusted_as: Some("net".to_owned()),
        xclient_from: Vec::new(),
        client_certificates: None,
        ..Listener::new(address, ListenerTls::None)
    }];
    config.credentials = vec![Arc::new(Credential::new("net"))];
    config.dns.servers = vec![server()];
    config.mta_sts.enabled = false;
    config.tls_rpt.enabled = false;
    let delivery = &mut config.delivery;
    delivery.retry.clone_from(&profile.retry);
    delivery.expire = profile.expire;
    delivery.connections_per_lane = profile.lane_connections;
    delivery.connections = profile.connections;
    delivery.messages_per_connection = profile.connection_messages;
    delivery.ip_families = relay_core::config::IpFamilies::Ipv4;
    delivery.in_doubt = profile.in_doubt;
    delivery.tls = match profile.tls_required {
        true => TlsLevel::Require,
        false => TlsLevel::Opportunistic,
    };
    match profile.plant {
        Some(Plant::ExpiryForgotten) => delivery.expire *= 100,
        Some(Plant::LaneLimitForgotten) => delivery.connections_per_lane *= 10,
        Some(Plant::RetryEarly) => delivery.retry.iter_mut().for_each(|step| *step /= 10),
        Some(_) | None => {}
    }
    config
}
