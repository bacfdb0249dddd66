//! The network: pairs of byte pipes with latency, windows, cuts anywhere, losses and partitions.
//!
//! ```text
//!  write ─▶ backlog ─(room in the window)─▶ segments, cut at random ─(latency)─▶ inbox ─▶ read
//! ```
//!
//! A pipe keeps the order of its octets, as TCP does. Everything else may happen: a segment of one
//! octet, a connection that dies half-way (told to both ends, to one, or to none), a partition that
//! delays all that is on its way, a peer that closes one direction only.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::Duration;

use relay_core::rng::Rng;
use relay_core::time::Instant;

use super::agenda::{Agenda, Dice};
use super::profile::NetProfile;
use super::world::Event;

/// A connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConnId(pub(crate) u64);

/// One of its two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    /// Who connected.
    Opener,
    /// Who accepted.
    Acceptor,
}

impl Side {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Opener => Self::Acceptor,
            Self::Acceptor => Self::Opener,
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Opener => 0,
            Self::Acceptor => 1,
        }
    }
}

/// What arrives at an end.
#[derive(Debug)]
pub(crate) enum Arrival {
    Segment(Vec<u8>),
    Fin,
    Reset(ErrorKind),
}

/// What a read finds.
#[derive(Debug)]
pub(crate) enum Found {
    Bytes(Vec<u8>),
    /// The peer closed its side.
    End,
    Broken(ErrorKind),
    /// Not yet anything.
    Nothing,
}

/// The octets on their way to one end.
#[derive(Debug)]
struct Pipe {
    backlog: Vec<u8>,
    in_flight: usize,
    inbox: Vec<u8>,
    last_arrival: Instant,
    /// The writer closes when its backlog is sent.
    fin_wanted: bool,
    fin_sent: bool,
    fin_arrived: bool,
    /// The reader dropped its end.
    reader_gone: bool,
    /// What the reader (and the writer of the other pipe at this end) finds.
    broken: Option<ErrorKind>,
}

#[derive(Debug)]
struct Conn {
    /// By the end that they lead to.
    pipes: [Pipe; 2],
    closed: [bool; 2],
    /// The host that is not the relay.
    host: IpAddr,
    latency: Duration,
    window: usize,
    /// It dies when it has carried so many octets.
    cut_after: Option<usize>,
    carried: usize,
    dead: bool,
}

/// All connections.
#[derive(Debug)]
pub(crate) struct Net {
    conns: BTreeMap<ConnId, Conn>,
    next: u64,
    profile: NetProfile,
    rng: Rng,
    calm: bool,
    partitions: BTreeMap<IpAddr, Instant>,
    /// Ends at which something happened.
    pokes: Vec<(ConnId, Side)>,
}

const AFTER_PARTITION: Duration = Duration::from_millis(10);

impl Net {
    pub(crate) fn new(profile: NetProfile, rng: Rng) -> Self {
        Self {
            conns: BTreeMap::new(),
            next: 0,
            profile,
            rng,
            calm: false,
            partitions: BTreeMap::new(),
            pokes: Vec::new(),
        }
    }

    /// No connection is lost from now on.
    pub(crate) fn calm(&mut self) {
        self.calm = true;
        self.partitions.clear();
    }

    /// Whether a host can be reached, and if not, until when.
    pub(crate) fn partition(&self, host: IpAddr, now: Instant) -> Option<Instant> {
        self.partitions
            .get(&host)
            .copied()
            .filter(|&until| until > now)
    }

    pub(crate) fn part(&mut self, host: IpAddr, until: Instant) {
        self.partitions.insert(host, until);
    }

    pub(crate) fn latency(&mut self) -> Duration {
        let NetProfile {
            latency, jitter, ..
        } = self.profile;
        latency + Duration::from_micros(self.rng.below(jitter.as_micros() as u64 + 1))
    }

    pub(crate) fn open(&mut self, host: IpAddr, now: Instant) -> ConnId {
        let id = ConnId(self.next);
        self.next += 1;
        let cut = !self.calm && self.rng.chance(self.profile.cut_per_mille);
        let cut_after = cut.then(|| {
            let most = self.rng.pick(&[200, 1000, 4000, 20_000]);
            self.rng.below(most) as usize
        });
        let pipe = || Pipe {
            backlog: Vec::new(),
            in_flight: 0,
            inbox: Vec::new(),
            last_arrival: now,
            fin_wanted: false,
            fin_sent: false,
            fin_arrived: false,
            reader_gone: false,
            broken: None,
        };
        let latency = self.latency();
        let conn = Conn {
            pipes: [pipe(), pipe()],
            closed: [false; 2],
            host,
            latency,
            window: self.profile.window,
            cut_after,
            carried: 0,
            dead: false,
        };
        self.conns.insert(id, conn);
        id
    }

    /// Takes all of `bytes`; says whether they are out of the writer's hands.
    pub(crate) fn write(
        &mut self,
        agenda: &mut Agenda<Event>,
        id: ConnId,
        from: Side,
        bytes: &[u8],
        delay: Duration,
    ) -> Result<bool, ErrorKind> {
        let conn = self.conns.get_mut(&id).ok_or(ErrorKind::NotConnected)?;
        if let Some(kind) = conn.pipes[from.index()].broken {
            return Err(kind);
        }
        let pipe = &mut conn.pipes[from.other().index()];
        if pipe.fin_wanted {
            return Err(ErrorKind::BrokenPipe);
        }
        pipe.backlog.extend_from_slice(bytes);
        pipe.last_arrival = pipe.last_arrival.max(agenda.now() + delay);
        self.push(agenda, id, from.other());
        Ok(self.is_flushed(id, from))
    }

    /// Whether all that was written at this end is out of the writer's hands.
    pub(crate) fn is_flushed(&self, id: ConnId, from: Side) -> bool {
        let conn = self.conns.get(&id);
        conn.is_none_or(|conn| conn.pipes[from.other().index()].backlog.is_empty())
    }

    /// What writing at this end meets, if not success.
    pub(crate) fn broken(&self, id: ConnId, side: Side) -> Option<ErrorKind> {
        match self.conns.get(&id) {
            Some(conn) => conn.pipes[side.index()].broken,
            None => Some(ErrorKind::NotConnected),
        }
    }

    /// Sends what the window has room for.
    fn push(&mut self, agenda: &mut Agenda<Event>, id: ConnId, to: Side) {
        let now = agenda.now();
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let parted = self.partitions.get(&conn.host).copied();
        let pipe = &mut conn.pipes[to.index()];
        while !pipe.backlog.is_empty() {
            let room = conn
                .window
                .saturating_sub(pipe.in_flight + pipe.inbox.len());
            if room == 0 {
                return;
            }
            let most = pipe.backlog.len().min(room).min(self.profile.segment_max);
            let len = match self.rng.below(8) {
                0 => self.rng.range(1, most as u64) as usize,
                1 if most < 64 => 1,
                _ => most,
            };
            let bytes: Vec<u8> = pipe.backlog.drain(..len).collect();
            pipe.in_flight += len;
            let jitter = self.rng.below(self.profile.jitter.as_micros() as u64 + 1);
            let arrival = now + conn.latency + Duration::from_micros(jitter);
            let arrival = match parted {
                Some(until) if until > now => arrival.max(until + AFTER_PARTITION),
                Some(_) | None => arrival,
            };
            pipe.last_arrival = pipe.last_arrival.max(arrival);
            let what = Arrival::Segment(bytes);
            agenda.at(pipe.last_arrival, Event::Net(id, to, what));
        }
        if pipe.fin_wanted && !pipe.fin_sent {
            pipe.fin_sent = true;
            pipe.last_arrival = pipe.last_arrival.max(now + conn.latency);
            agenda.at(pipe.last_arrival, Event::Net(id, to, Arrival::Fin));
        }
    }

    /// Something arrives.
    pub(crate) fn arrive(
        &mut self,
        agenda: &mut Agenda<Event>,
        id: ConnId,
        to: Side,
        what: Arrival,
    ) {
        let now = agenda.now();
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if let Some(until) = self.partitions.get(&conn.host).copied()
            && until > now
        {
            let pipe = &mut conn.pipes[to.index()];
            pipe.last_arrival = pipe.last_arrival.max(until + AFTER_PARTITION);
            agenda.at(until + AFTER_PARTITION, Event::Net(id, to, what));
            return;
        }
        match what {
            Arrival::Reset(kind) => self.reset_end(id, to, kind),
            Arrival::Fin if !conn.dead => {
                conn.pipes[to.index()].fin_arrived = true;
                self.pokes.push((id, to));
            }
            Arrival::Segment(bytes) if !conn.dead => {
                conn.carried += bytes.len();
                if conn.cut_after.is_some_and(|after| conn.carried > after) {
                    return self.lose(agenda, id);
                }
                let pipe = &mut conn.pipes[to.index()];
                pipe.in_flight -= bytes.len();
                if pipe.reader_gone {
                    let latency = conn.latency;
                    let reset = Arrival::Reset(ErrorKind::ConnectionReset);
                    agenda.after(latency, Event::Net(id, to.other(), reset));
                    return;
                }
                if pipe.broken.is_none() {
                    pipe.inbox.extend_from_slice(&bytes);
                    self.pokes.push((id, to));
                }
            }
            Arrival::Fin | Arrival::Segment(_) => {}
        }
    }

    /// The connection dies: each end hears of it, or does not.
    pub(crate) fn lose(&mut self, agenda: &mut Agenda<Event>, id: ConnId) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if std::mem::replace(&mut conn.dead, true) {
            return;
        }
        let latency = conn.latency;
        for side in [Side::Opener, Side::Acceptor] {
            if self.rng.chance(750) {
                let reset = Arrival::Reset(ErrorKind::ConnectionReset);
                agenda.after(latency, Event::Net(id, side, reset));
            }
        }
    }

    fn reset_end(&mut self, id: ConnId, at: Side, kind: ErrorKind) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let pipe = &mut conn.pipes[at.index()];
        pipe.broken.get_or_insert(kind);
        pipe.inbox.clear();
        conn.pipes[at.other().index()].backlog.clear();
        self.pokes.push((id, at));
    }

    /// At most `max` octets that arrived at this end.
    pub(crate) fn read(
        &mut self,
        agenda: &mut Agenda<Event>,
        id: ConnId,
        side: Side,
        max: usize,
    ) -> Found {
        let Some(conn) = self.conns.get_mut(&id) else {
            return Found::Broken(ErrorKind::NotConnected);
        };
        let pipe = &mut conn.pipes[side.index()];
        if !pipe.inbox.is_empty() {
            let len = pipe.inbox.len().min(max);
            let bytes: Vec<u8> = pipe.inbox.drain(..len).collect();
            let waited = !pipe.backlog.is_empty();
            self.push(agenda, id, side);
            if waited {
                self.pokes.push((id, side.other()));
            }
            return Found::Bytes(bytes);
        }
        match pipe.broken {
            Some(kind) => Found::Broken(kind),
            None if pipe.fin_arrived => Found::End,
            None => Found::Nothing,
        }
    }

    /// Says that this end writes no more; it still reads.
    pub(crate) fn finish(&mut self, agenda: &mut Agenda<Event>, id: ConnId, from: Side) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.pipes[from.other().index()].fin_wanted = true;
            self.push(agenda, id, from.other());
        }
    }

    /// Drops this end. What was written goes on its way.
    pub(crate) fn close(&mut self, agenda: &mut Agenda<Event>, id: ConnId, side: Side) {
        self.finish(agenda, id, side);
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let latency = conn.latency;
        let pipe = &mut conn.pipes[side.index()];
        pipe.reader_gone = true;
        // TCP answers with a reset when somebody closes without having read all.
        if !pipe.inbox.is_empty() {
            let at = conn.pipes[side.other().index()]
                .last_arrival
                .max(agenda.now() + latency);
            let reset = Arrival::Reset(ErrorKind::ConnectionReset);
            agenda.at(at, Event::Net(id, side.other(), reset));
        }
        conn.closed[side.index()] = true;
        if conn.closed == [true; 2] {
            self.conns.remove(&id);
        }
    }

    /// This end is gone, and says so or not.
    pub(crate) fn vanish(
        &mut self,
        agenda: &mut Agenda<Event>,
        id: ConnId,
        side: Side,
        silently: bool,
    ) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        conn.dead = true;
        let latency = conn.latency;
        if !silently {
            let reset = Arrival::Reset(ErrorKind::ConnectionReset);
            agenda.after(latency, Event::Net(id, side.other(), reset));
        }
        conn.closed[side.index()] = true;
        if conn.closed == [true; 2] {
            self.conns.remove(&id);
        }
    }

    /// The ends at which something happened since the last call.
    pub(crate) fn take_pokes(&mut self) -> Vec<(ConnId, Side)> {
        std::mem::take(&mut self.pokes)
    }
}
