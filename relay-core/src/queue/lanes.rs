//! All lanes, and whose turn it is: connections are shared so that dead lanes delay no live one.
//!
//! Lanes that want a connection stand in one of three lists, by their standing. The lists are served
//! in rotation, each lane once a turn. Lanes whose hosts fail have at most a quarter of all
//! connections, together with lanes of which nothing is known at most three quarters: the rest is
//! always there for lanes that work.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::lane::{LaneEntry, Standing};
use super::tick::Tick;
use crate::outbound::Lane;

/// How long a lane without jobs is remembered for what its hosts did.
const IDLE: Duration = Duration::from_secs(10 * 60);
/// So many lanes are remembered, however many are idle.
const LANES_MAX: usize = 4096;

/// The number of a lane. It is never used again, so that one kept too long leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LaneNo(u64);

/// The limits that a configuration sets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caps {
    /// Connections of all lanes.
    pub(crate) all: usize,
    /// Connections of one lane.
    pub(crate) lane: usize,
}

/// The lanes.
#[derive(Debug)]
pub(crate) struct Lanes {
    entries: BTreeMap<LaneNo, LaneEntry>,
    keys: BTreeMap<Arc<str>, LaneNo>,
    /// By [`class`].
    turns: [VecDeque<LaneNo>; 3],
    /// Open connections by the class that their lane had when they were opened.
    open: [usize; 3],
    /// The class whose turn it is.
    next: usize,
    /// Ends of back-offs.
    backoffs: BTreeSet<(Tick, LaneNo)>,
    last_no: u64,
    /// At so many lanes those without jobs are forgotten early.
    crowd: usize,
}

const fn class(standing: Standing) -> usize {
    match standing {
        Standing::Proven => 0,
        Standing::New => 1,
        Standing::Failing => 2,
    }
}

impl Lanes {
    pub(crate) const fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
            keys: BTreeMap::new(),
            turns: [VecDeque::new(), VecDeque::new(), VecDeque::new()],
            open: [0; 3],
            next: 0,
            backoffs: BTreeSet::new(),
            last_no: 0,
            crowd: LANES_MAX,
        }
    }

    /// The lane with this key; `spec` makes it if there is none.
    pub(crate) fn find_or_make(
        &mut self,
        key: &str,
        now: Tick,
        spec: impl FnOnce() -> Lane,
    ) -> LaneNo {
        if let Some(&no) = self.keys.get(key) {
            return no;
        }
        if self.entries.len() >= self.crowd {
            self.tidy(now.after(2 * IDLE));
            self.crowd = (2 * self.entries.len()).max(LANES_MAX);
        }
        self.last_no += 1;
        let no = LaneNo(self.last_no);
        let key: Arc<str> = key.into();
        self.keys.insert(Arc::clone(&key), no);
        self.entries
            .insert(no, LaneEntry::new(Arc::new(spec()), key, now));
        no
    }

    /// The lane with this key.
    pub(crate) fn find(&self, key: &str) -> Option<LaneNo> {
        self.keys.get(key).copied()
    }

    pub(crate) fn get(&self, no: LaneNo) -> Option<&LaneEntry> {
        self.entries.get(&no)
    }

    pub(crate) fn get_mut(&mut self, no: LaneNo) -> Option<&mut LaneEntry> {
        self.entries.get_mut(&no)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (LaneNo, &LaneEntry)> {
        self.entries.iter().map(|(&no, lane)| (no, lane))
    }

    /// Whether jobs still come to the lane: it was neither forgotten nor made anew.
    pub(crate) fn is_current(&self, no: LaneNo) -> bool {
        let lane = self.entries.get(&no);
        lane.is_some_and(|lane| self.keys.get(&lane.key) == Some(&no))
    }

    /// How many lanes stand in a list, waiting for a connection.
    pub(crate) fn in_turn(&self) -> usize {
        self.turns.iter().map(VecDeque::len).sum()
    }

    /// All open connections.
    pub(crate) fn open(&self) -> usize {
        self.open.iter().sum()
    }

    /// Puts a lane in its turn list if it wants a connection and is in none.
    pub(crate) fn enlist(&mut self, no: LaneNo, caps: Caps, now: Tick) {
        if let Some(lane) = self.entries.get_mut(&no)
            && !lane.in_turn
            && lane.wants_connection(caps.lane, now)
        {
            lane.in_turn = true;
            self.turns[class(lane.standing)].push_back(no);
        }
    }

    /// The lane that may open a connection now. It is taken from its list: enlist it again after.
    pub(crate) fn next_turn(&mut self, caps: Caps, now: Tick) -> Option<LaneNo> {
        if self.open() >= caps.all {
            return None;
        }
        for _ in 0..self.turns.len() {
            let turn = self.next;
            self.next = (self.next + 1) % self.turns.len();
            while self.has_share(turn, caps) {
                let Some(no) = self.turns[turn].pop_front() else {
                    break;
                };
                let Some(lane) = self.entries.get_mut(&no) else {
                    continue;
                };
                lane.in_turn = false;
                if class(lane.standing) != turn {
                    self.enlist(no, caps, now);
                } else if lane.wants_connection(caps.lane, now) {
                    return Some(no);
                }
            }
        }
        None
    }

    fn has_share(&self, class: usize, caps: Caps) -> bool {
        let [_, new, failing] = self.open;
        match class {
            0 => true,
            1 => new + failing < (caps.all * 3 / 4).max(1),
            _ => failing < (caps.all / 4).max(1) && new + failing < (caps.all * 3 / 4).max(1),
        }
    }

    /// A connection of the lane is opened. The result is handed to [`Lanes::close`].
    pub(crate) fn open_one(&mut self, no: LaneNo, now: Tick) -> Standing {
        let lane = self.entries.get_mut(&no).expect("a lane with a turn");
        lane.connections += 1;
        lane.used = now;
        self.open[class(lane.standing)] += 1;
        lane.standing
    }

    /// It ended.
    pub(crate) fn close_one(&mut self, no: LaneNo, standing: Standing, now: Tick) {
        self.open[class(standing)] -= 1;
        if let Some(lane) = self.entries.get_mut(&no) {
            lane.connections -= 1;
            lane.used = now;
        }
    }

    /// The lane is to be looked at when its back-off ends.
    pub(crate) fn wake_at(&mut self, until: Tick, no: LaneNo) {
        self.backoffs.insert((until, no));
    }

    /// When the next back-off ends.
    pub(crate) fn next_wake(&self) -> Option<Tick> {
        self.backoffs.first().map(|&(until, _)| until)
    }

    /// A lane whose back-off is over.
    pub(crate) fn pop_wake(&mut self, now: Tick) -> Option<LaneNo> {
        let &(until, no) = self.backoffs.first()?;
        if until > now {
            return None;
        }
        self.backoffs.pop_first();
        Some(no)
    }

    /// Forgets lanes that nothing needs any more.
    pub(crate) fn tidy(&mut self, now: Tick) {
        let Self { entries, keys, .. } = self;
        entries.retain(|no, lane| {
            let keep = lane.connections > 0
                || lane.ready() > 0
                || lane.in_turn
                || now.since(lane.used) < IDLE
                || lane.backed_off(now).is_some();
            if !keep && keys.get(&lane.key) == Some(no) {
                keys.remove(&lane.key);
            }
            keep
        });
    }

    /// Lanes made from now on are new ones; gives back the ready jobs of the old ones.
    pub(crate) fn renew(&mut self) -> Vec<u32> {
        self.keys.clear();
        self.entries
            .values_mut()
            .flat_map(LaneEntry::drain)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Protocol, TlsLevel};
    use crate::rng::Rng;

    const CAPS: Caps = Caps { all: 8, lane: 4 };

    fn now() -> Tick {
        Tick::NEVER.before(Duration::from_secs(1_000_000))
    }

    fn lane(lanes: &mut Lanes, name: &str, jobs: u32) -> LaneNo {
        let no = lanes.find_or_make(name, now(), || Lane {
            hosts: Vec::new(),
            name: name.into(),
            tls: TlsLevel::Opportunistic,
            tls_mode: None,
            login: None,
            route: false,
            authentic: false,
            sts: None,
            protocol: Protocol::Smtp,
            source: None,
            messages_max: 100,
        });
        (0..jobs).for_each(|job| lanes.get_mut(no).unwrap().push(job, 0, 0));
        lanes.enlist(no, CAPS, now());
        no
    }

    fn start_all(lanes: &mut Lanes) -> Vec<LaneNo> {
        let mut started = Vec::new();
        while let Some(no) = lanes.next_turn(CAPS, now()) {
            lanes.open_one(no, now());
            lanes.get_mut(no).unwrap().pop();
            lanes.enlist(no, CAPS, now());
            started.push(no);
        }
        started
    }

    #[test]
    fn dead_lanes_leave_room_for_live_ones() {
        let mut lanes = Lanes::new();
        for n in 0..20 {
            let no = lane(&mut lanes, &format!("dead{n}.example"), 0);
            let dead = lanes.get_mut(no).unwrap();
            dead.failed(
                "why",
                Duration::from_secs(60),
                now(),
                &mut Rng::from_number(1),
            );
            dead.end_backoff(now());
            lane(&mut lanes, &format!("dead{n}.example"), 10);
        }
        for n in 0..20 {
            lane(&mut lanes, &format!("new{n}.example"), 10);
        }
        let started = start_all(&mut lanes);
        assert_eq!(
            (started.len(), lanes.open),
            (6, [0, 4, 2]),
            "three quarters, one quarter"
        );
        let live = lane(&mut lanes, "live.example", 0);
        lanes.get_mut(live).unwrap().succeeded(4);
        lane(&mut lanes, "live.example", 100);
        assert_eq!(start_all(&mut lanes), [live, live]);
        assert!(lanes.next_turn(CAPS, now()).is_none(), "the cap holds");
        lanes.close_one(live, Standing::Proven, now());
        lanes.enlist(live, CAPS, now());
        assert_eq!(start_all(&mut lanes), [live]);
    }

    #[test]
    fn lanes_take_turns() {
        let mut lanes = Lanes::new();
        let all: Vec<LaneNo> = (0..3)
            .map(|n| {
                let no = lane(&mut lanes, &format!("{n}.example"), 0);
                (0..4).for_each(|_| lanes.get_mut(no).unwrap().succeeded(4));
                lane(&mut lanes, &format!("{n}.example"), 100)
            })
            .collect();
        let started = start_all(&mut lanes);
        let counts = all
            .iter()
            .map(|no| started.iter().filter(|s| *s == no).count());
        assert_eq!(counts.collect::<Vec<_>>(), [3, 3, 2]);
    }

    #[test]
    fn idle_lanes_are_forgotten_and_numbers_not_used_again() {
        let mut lanes = Lanes::new();
        let no = lane(&mut lanes, "a.example", 0);
        lanes.tidy(now());
        assert_eq!(lane(&mut lanes, "a.example", 0), no);
        lanes.tidy(now().after(IDLE));
        assert!(lanes.get(no).is_none());
        assert_ne!(lane(&mut lanes, "a.example", 0), no);
    }
}
