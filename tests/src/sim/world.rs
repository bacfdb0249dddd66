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

use relay_core::admin::AdminResponse;
use relay_core::config::Config;
use relay_core::id::{DeliveryId, ErrandId, SessionId};
use relay_core::rng::Rng;
use relay_core::time::{Instant, Now, UnixTime};

use super::agenda::{Agenda, Dice};
use super::book::Book;
use super::client::Client;
use super::disk::SimDisk;
use super::figures::Figures;
use super::host::{Host, Talk};
use super::load::Load;
use super::names::Names;
use super::net::{Arrival, ConnId, Net, Side};
use super::plant::Plant;
use super::profile::{DiskWeather, Profile};
use super::promises::Promises;
use super::relay::{Inner, Relay};
use super::setup::config;
use super::sites::{Site, SiteManner, Sites, Wants};
use super::story::Story;
use super::web::Visit;

pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

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
    ZoneChange,
    SiteChange,
    Drip(ConnId),
    Reload,
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
    Errand(ErrandId),
    Site,
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
    pub(crate) sites: Sites,
    pub(crate) visits: BTreeMap<ConnId, Visit>,
    /// Who wants TLS-RPT reports.
    pub(crate) wants: BTreeMap<String, Wants>,
    pub(crate) promises: Promises,
    pub(crate) load: Load,
    /// Small texts on the disk, and those that are not there yet.
    pub(crate) kept: BTreeMap<String, String>,
    pub(crate) unkept: Vec<(String, Option<String>)>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) talks: BTreeMap<ConnId, Talk>,
    pub(crate) clients: Vec<Client>,
    pub(crate) owners: BTreeMap<(ConnId, Side), Owner>,
    pub(crate) next_token: u64,
    pub(crate) book: Book,
    pub(crate) story: Story,
    pub(crate) config: Arc<Config>,
    /// All trouble is over.
    pub(crate) calm: bool,
    pub(crate) weather: DiskWeather,
    /// How the machine stops at the next stop of the disk.
    pub(crate) power_cut: bool,
    /// A start of the relay is on the agenda.
    pub(crate) down: bool,
    /// Milliseconds that the wall clock is off.
    pub(crate) wall_offset: i64,
    pub(crate) answer: Option<AdminResponse>,
    /// When the configuration was loaded anew.
    pub(crate) reloaded: Option<Instant>,
    /// When domains changed their hosts.
    pub(crate) zone_changed: Option<Instant>,
    /// Since when jobs are ready that nothing keeps from being tried: message, domain.
    pub(crate) ready: BTreeMap<(String, String), Instant>,
    pub(crate) calm_at: Instant,
    pub(crate) events: u64,
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
        let names = Names::new(&profile, &mut rng);
        let hosts = profile.hosts.iter().chain(&profile.smart_host).enumerate();
        let hosts =
            hosts.filter_map(|(index, &manner)| Host::new(index, manner, &profile, rng.fork()));
        let hosts = hosts.collect();
        let clients = (0..profile.clients)
            .map(|index| Client::new(index, &profile, rng.fork()))
            .collect();
        let sites = Sites::new(&profile, &names, &mut rng);
        let domains = names.groups.iter().flat_map(|group| &group.domains);
        let wants = domains.filter(|_| profile.sts).map(|domain| {
            let wants = rng.pick(&[Wants::Nothing, Wants::Mail, Wants::Post]);
            (domain.clone(), wants)
        });
        let wants = wants.collect();
        let mut world = Self {
            seed,
            sites,
            visits: BTreeMap::new(),
            wants,
            promises: Promises::default(),
            load: Load::default(),
            kept: BTreeMap::new(),
            unkept: Vec::new(),
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
            calm: false,
            weather: DiskWeather::default(),
            power_cut: false,
            down: true,
            wall_offset: 0,
            answer: None,
            reloaded: None,
            zone_changed: None,
            ready: BTreeMap::new(),
            calm_at: Instant::default(),
            events: 0,
            profile,
            rng,
        };
        if world.planted(Plant::AckBeforeSync) {
            world.disk.lie();
        }
        if world.profile.sts {
            let Profile {
                sts_changes, net, ..
            } = world.profile;
            let works = |site: &Site| site.domain.is_some() || site.manner == SiteManner::Well;
            world.promises.hears =
                sts_changes == 0 && net.cut_per_mille == 0 && world.sites.all.iter().all(works);
            world.publish();
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
            zone_changes,
            reloads,
            sts_changes,
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
        times(zone_changes, |_| Event::ZoneChange);
        times(reloads, |_| Event::Reload);
        times(sts_changes, |_| Event::SiteChange);
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
            Event::ZoneChange => self.change_zone(),
            Event::SiteChange => self.change_site(),
            Event::Drip(conn) => self.drip(conn),
            Event::Reload => self.reload(),
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
                    Some(Owner::Errand(id)) => self.drive_errand(*id, None),
                    Some(Owner::Site) => self.site_hears(end.0),
                    None => {}
                }
            }
        }
    }
}
