//! What a world is made of, and what goes wrong in it: drawn from a seed, or written by hand.
//!
//! Swarm testing: each seed decides which kinds of trouble exist at all, and then how strong they are.
//! A world in which everything goes wrong at once finds less than many in which a few things do.

use std::time::Duration;

use relay_core::config::{InDoubt, TlsLevel};
use relay_core::rng::Rng;

use super::agenda::Dice;
use super::plant::Plant;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// A world's description.
#[derive(Debug, Clone)]
pub struct Profile {
    /// How long clients send and things go wrong. After it all is well, and the queue must drain.
    pub duration: Duration,
    /// Clients, each with an address of its own.
    pub clients: u64,
    /// Messages of each client.
    pub messages: u64,
    /// Recipients of a message, at most.
    pub recipients: u64,
    /// Octets of a body, at most.
    pub body: u64,
    /// The manners of the receiving hosts; each takes mail for some domains.
    pub hosts: Vec<Manner>,
    /// Trouble of the network.
    pub net: NetProfile,
    /// Trouble of names, in a thousand windows of a minute.
    pub dns_per_mille: u64,
    /// Trouble of the disk: the weather of its bad times.
    pub disk: DiskWeather,
    /// How many such times there are.
    pub disk_storms: u64,
    /// How often the process dies.
    pub kills: u64,
    /// How often the power fails.
    pub power_cuts: u64,
    /// How often it is shut down in order.
    pub restarts: u64,
    /// Bits that turn at rest, at restarts.
    pub flips: u64,
    /// How often the wall clock jumps.
    pub clock_jumps: u64,
    /// How often an administrator holds, releases, retries, bounces or removes something.
    pub admin: u64,
    /// How often a host cannot be reached for a while.
    pub partitions: u64,
    /// Of a thousand transactions, how many the client spoils: drops, resets, leaves.
    pub client_per_mille: u64,
    /// Waits between attempts.
    pub retry: Vec<Duration>,
    /// How long a message is tried.
    pub expire: Duration,
    /// What becomes of deliveries in doubt.
    pub in_doubt: InDoubt,
    /// Connections of a lane.
    pub lane_connections: usize,
    /// Connections of all lanes.
    pub connections: usize,
    /// Messages of a connection.
    pub connection_messages: u32,
    /// Octets of a segment file.
    pub segment_size: u32,
    /// How much TLS the relay asks of receivers.
    pub delivery_tls: TlsLevel,
    /// Of a thousand receivers, how many offer STARTTLS.
    pub host_tls_per_mille: u64,
    /// Of a thousand receivers, how many show a bad certificate or break handshakes off.
    pub bad_tls_per_mille: u64,
    /// The zone is secure, and names the certificates of half of the hosts: DANE.
    pub dane: bool,
    /// Some mail takes a route to a host of these manners that asks for a login.
    pub smart_host: Option<Manner>,
    /// How much TLS is asked of it.
    pub smart_tls: TlsLevel,
    /// TLS begins at once there, in the place of STARTTLS.
    pub smart_implicit: bool,
    /// Of a thousand clients, how many submit under TLS, with a login.
    pub client_tls_per_mille: u64,
    /// Of a thousand messages, how many ask for something: REQUIRETLS, a later release, priority.
    pub wishes_per_mille: u64,
    /// Of a thousand answers over UDP, how many are truncated.
    pub dns_truncated_per_mille: u64,
    /// How often two domains change their hosts.
    pub zone_changes: u64,
    /// How often the configuration is loaded anew.
    pub reloads: u64,
    /// Domains have MTA-STS policies, and ask for TLS-RPT reports.
    pub sts: bool,
    /// How often a policy changes, or the host that serves it.
    pub sts_changes: u64,
    /// Mail of clients leaves under signed return paths.
    pub return_path: bool,
    /// The relay has little memory, and few descriptors.
    pub small: bool,
    /// Of a thousand messages, how many have a time to be delivered by.
    pub deadlines_per_mille: u64,
    /// A fault of ours, put in on purpose.
    pub plant: Option<Plant>,
}

/// How a receiving host behaves while things go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// It takes everything.
    Healthy,
    /// It answers with 4yz and 5yz now and then, at every stage.
    Moody,
    /// It defers whom it does not know yet, and may say for how long.
    Greylisting,
    /// It drops connections at every stage, also after it took a message.
    Dropping,
    /// It takes few connections and few messages a minute.
    Limiting,
    /// It takes its time, up to minutes.
    Slow,
    /// It reads slowly.
    Sipping,
    /// It is down, most of the time.
    Down,
}

impl Manner {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Healthy,
        Self::Moody,
        Self::Greylisting,
        Self::Dropping,
        Self::Limiting,
        Self::Slow,
        Self::Sipping,
        Self::Down,
    ];
}

/// Trouble of the network.
#[derive(Debug, Clone, Copy)]
pub struct NetProfile {
    /// The shortest way.
    pub latency: Duration,
    /// What may come on top, for each segment.
    pub jitter: Duration,
    /// Of a thousand connections, how many die early.
    pub cut_per_mille: u64,
    /// Octets of a segment, at most.
    pub segment_max: usize,
    /// Octets that may be on their way.
    pub window: usize,
}

/// Trouble of the disk, in a thousand calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskWeather {
    /// There is no room.
    pub full: bool,
    /// Reads fail.
    pub read_per_mille: u64,
    /// Writes fail.
    pub write_per_mille: u64,
    /// Syncs fail.
    pub sync_per_mille: u64,
    /// Opening, renaming, listing and so on fail.
    pub meta_per_mille: u64,
    /// Reads and writes are done by half, or interrupted.
    pub short_per_mille: u64,
    /// Every round of the store's writer takes so long.
    pub slow: Duration,
}

impl DiskWeather {
    fn draw(rng: &mut Rng) -> Self {
        let mut weather = Self::default();
        let strength = rng.pick(&[5, 50, 300, 1000]);
        for _ in 0..rng.range(1, 2) {
            match rng.below(7) {
                0 => weather.full = true,
                1 => weather.read_per_mille = strength,
                2 => weather.write_per_mille = strength,
                3 => weather.sync_per_mille = strength,
                4 => weather.meta_per_mille = strength,
                5 => weather.short_per_mille = strength.min(500),
                _ => weather.slow = rng.time(MINUTE / 600, 10 * MINUTE / 60),
            }
        }
        weather
    }
}

impl Profile {
    /// A small world in which nothing goes wrong: what a hand-written one starts from.
    #[must_use]
    pub fn calm() -> Self {
        Self {
            duration: HOUR / 6,
            clients: 2,
            messages: 5,
            recipients: 3,
            body: 4000,
            hosts: vec![Manner::Healthy; 2],
            net: NetProfile {
                latency: Duration::from_millis(5),
                jitter: Duration::from_millis(2),
                cut_per_mille: 0,
                segment_max: 1460,
                window: 65_536,
            },
            dns_per_mille: 0,
            disk: DiskWeather::default(),
            disk_storms: 0,
            kills: 0,
            power_cuts: 0,
            restarts: 0,
            flips: 0,
            clock_jumps: 0,
            admin: 0,
            partitions: 0,
            client_per_mille: 0,
            retry: [1, 5, 15, 60].map(|minutes| minutes * MINUTE).to_vec(),
            expire: 72 * HOUR,
            in_doubt: InDoubt::Retry,
            lane_connections: 4,
            connections: 100,
            connection_messages: 20,
            segment_size: 256 << 10,
            delivery_tls: TlsLevel::Opportunistic,
            host_tls_per_mille: 0,
            bad_tls_per_mille: 0,
            dane: false,
            smart_host: None,
            smart_tls: TlsLevel::Opportunistic,
            smart_implicit: false,
            client_tls_per_mille: 0,
            wishes_per_mille: 0,
            dns_truncated_per_mille: 0,
            zone_changes: 0,
            reloads: 0,
            sts: false,
            sts_changes: 0,
            return_path: false,
            small: false,
            deadlines_per_mille: 0,
            plant: None,
        }
    }

    /// The world of a seed.
    #[must_use]
    pub fn draw(rng: &mut Rng) -> Self {
        let calm = Self::calm();
        let some = |rng: &mut Rng, per_mille, most| {
            if rng.chance(per_mille) {
                rng.range(1, most)
            } else {
                0
            }
        };
        let net = NetProfile {
            latency: rng.time(Duration::from_micros(50), Duration::from_millis(300)),
            jitter: rng.time(Duration::from_micros(10), Duration::from_millis(200)),
            cut_per_mille: some(rng, 400, 300),
            segment_max: rng.pick(&[40, 536, 1460, 1460, 9000]),
            window: rng.pick(&[512, 4096, 65_536, 65_536]),
        };
        let hosts = (0..rng.range(1, 6))
            .map(|_| {
                if rng.chance(300) {
                    Manner::Healthy
                } else {
                    rng.pick(&Manner::ALL)
                }
            })
            .collect();
        let large = rng.chance(60);
        let net = if large {
            // Half a megabyte in segments of forty octets takes long to simulate and shows nothing.
            NetProfile {
                segment_max: 9000,
                window: 65_536,
                ..net
            }
        } else {
            net
        };
        let tls = rng.chance(250);
        Self {
            duration: rng.pick(&[MINUTE * 5, MINUTE * 30, HOUR * 2, HOUR * 8]),
            clients: rng.range(1, 5),
            messages: rng.range(1, 16),
            recipients: rng.pick(&[1, 3, 10]),
            body: if large {
                700_000
            } else {
                rng.pick(&[300, 3000, 12_000])
            },
            hosts,
            net,
            dns_per_mille: some(rng, 300, 400),
            disk: DiskWeather::draw(rng),
            disk_storms: some(rng, 350, 4),
            kills: some(rng, 400, 4),
            power_cuts: some(rng, 400, 4),
            restarts: some(rng, 250, 2),
            flips: some(rng, 100, 2),
            clock_jumps: some(rng, 150, 2),
            admin: some(rng, 300, 12),
            partitions: some(rng, 250, 4),
            client_per_mille: some(rng, 400, 300),
            retry: match rng.below(3) {
                0 => vec![MINUTE],
                1 => calm.retry,
                _ => [1, 5, 5, 15, 30].map(|minutes| minutes * MINUTE).to_vec(),
            },
            expire: rng.pick(&[2 * HOUR, 5 * HOUR, 72 * HOUR]),
            lane_connections: rng.pick(&[1, 2, 4, 10]),
            connections: rng.pick(&[2, 20, 1000]),
            connection_messages: rng.pick(&[1, 3, 100]),
            segment_size: if large {
                1 << 20
            } else {
                rng.pick(&[64 << 10, 256 << 10])
            },
            delivery_tls: match tls {
                true => rng.pick(&[
                    TlsLevel::Opportunistic,
                    TlsLevel::Require,
                    TlsLevel::Verify,
                    TlsLevel::None,
                ]),
                false => TlsLevel::Opportunistic,
            },
            host_tls_per_mille: if tls { rng.pick(&[500, 900, 1000]) } else { 0 },
            bad_tls_per_mille: if tls { rng.pick(&[0, 200, 500]) } else { 0 },
            dane: tls && rng.chance(400),
            smart_host: rng.chance(150).then(|| rng.pick(&Manner::ALL)),
            smart_tls: rng.pick(&[TlsLevel::Opportunistic, TlsLevel::Require, TlsLevel::Verify]),
            smart_implicit: rng.chance(500),
            client_tls_per_mille: if rng.chance(200) { 600 } else { 0 },
            wishes_per_mille: some(rng, 350, 400),
            dns_truncated_per_mille: some(rng, 200, 600),
            zone_changes: some(rng, 150, 6),
            reloads: some(rng, 150, 4),
            in_doubt: match rng.chance(200) {
                true => InDoubt::Hold,
                false => InDoubt::Retry,
            },
            sts: false,
            sts_changes: 0,
            return_path: rng.chance(150),
            small: rng.chance(150),
            deadlines_per_mille: if rng.chance(150) { 400 } else { 0 },
            plant: None,
        }
        .with_policies(rng)
    }

    /// Some worlds have policies, and most hosts TLS then. They last for days: until a policy that nobody
    /// serves any more has run out, and a day's report is sent.
    fn with_policies(mut self, rng: &mut Rng) -> Self {
        self.sts = rng.chance(150);
        if !self.sts {
            return self;
        }
        // A relay that wants no TLS has none to tell of.
        self.delivery_tls = self.delivery_tls.max(TlsLevel::Opportunistic);
        self.sts_changes = rng.pick(&[0, 0, 4, 20]);
        self.host_tls_per_mille = rng.pick(&[800, 1000, 1000]);
        self.bad_tls_per_mille = rng.pick(&[0, 300, 600]);
        self.duration = rng.pick(&[HOUR * 2, HOUR * 30, HOUR * 80]);
        self
    }
}
