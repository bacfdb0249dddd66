//! Random walks: submissions, receipts, outcomes, failures, administrators, clocks and crashes in any
//! order. Two oracles: the identity, counted anew after every input, and a ledger of what was
//! acknowledged, which must end delivered or told of.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::world::{
    APP, World, bounced, config, deferred, deferred_at, delivered, mail, mx, no_dns,
};
use crate::admin::{Action, AdminRequest, Selector};
use crate::dns::DnsFailure;
use crate::engine::{Answer, Ask, Input};
use crate::events::EventKind;
use crate::id::MessageId;
use crate::outbound::Outcome;
use crate::queue::store::StoreFailed;
use crate::rng::Rng;
use crate::time::UnixTime;

const DOMAINS: u64 = 6;

struct Walk {
    world: World,
    rng: Rng,
    crashes: u32,
    may_crash: bool,
    /// Acknowledged messages with their number of recipients.
    acknowledged: BTreeMap<MessageId, u32>,
    submitted: BTreeMap<MessageId, u32>,
    /// What receivers took, and how often.
    taken: BTreeMap<(MessageId, u32), u32>,
}

impl Walk {
    fn new(seed: u64) -> Self {
        let mut config = config();
        config.delivery.connections = 6;
        config.delivery.connections_per_lane = 3;
        config.delivery.messages_per_connection = 4;
        Self {
            world: World::new(config),
            rng: Rng::from_number(seed),
            crashes: 0,
            may_crash: seed.is_multiple_of(2),
            acknowledged: BTreeMap::new(),
            submitted: BTreeMap::new(),
            taken: BTreeMap::new(),
        }
    }

    fn step(&mut self) {
        match self.rng.below(100) {
            0..25 => self.submit(),
            25..55 => self.report(),
            55..60 => self.end(),
            60..68 => self.receipt(),
            68..75 => self.resolve(),
            75..80 => self.write_report(),
            80..88 => {
                let secs = [1, 10, 100, 1000, 10_000][self.rng.below(5) as usize];
                self.world
                    .pass(Duration::from_secs(self.rng.below(secs) + 1));
            }
            88..92 => self.administrate(),
            92..94 => self.flip_modes(),
            94..95 => self.jump_clock(),
            95..97 => self.move_record(),
            97..98 => self.reload(),
            _ if self.may_crash => self.crash(),
            _ => self.world.pass(Duration::from_secs(60)),
        }
        self.hear();
    }

    fn submit(&mut self) {
        let count = 1 + self.rng.below(5);
        let to: Vec<String> = (0..count)
            .map(|n| format!("r{n}@d{}.example", self.rng.below(DOMAINS)))
            .collect();
        let to: Vec<&str> = to.iter().map(String::as_str).collect();
        let from = if self.rng.below(8) == 0 {
            ""
        } else {
            "s@sender.example"
        };
        let envelope = mail(from, &to);
        let Answer::Mail { id, .. } = self.world.mail(APP) else {
            return;
        };
        let submission = self.world.submission(id, envelope);
        self.submitted.insert(id, count as u32);
        match self.world.ask(APP, Ask::Submit(submission)) {
            Some(Answer::Queued(id)) => drop(self.acknowledged.insert(id, count as u32)),
            Some(Answer::Refused(_)) | None => {}
            Some(other) => panic!("{other:?}"),
        }
    }

    /// Takes note of answers that came later.
    fn hear(&mut self) {
        for (_, answer) in std::mem::take(&mut self.world.answers) {
            if let Answer::Queued(id) = answer {
                self.acknowledged.insert(id, self.submitted[&id]);
            }
        }
    }

    fn outcome(&mut self) -> Outcome {
        match self.rng.below(10) {
            0..5 => delivered(),
            5..8 => deferred(),
            8 => deferred_at("dot", Some(421), "Closing"),
            _ => bounced(),
        }
    }

    fn report(&mut self) {
        let running = self.world.running();
        if running.is_empty() {
            return;
        }
        let delivery = running[self.rng.below(running.len() as u64) as usize];
        if self.rng.below(8) == 0 {
            return self.world.unreachable(delivery);
        }
        let mut tried = self.world.tried_as(delivery, &delivered());
        for (_, outcome) in &mut tried.outcomes {
            *outcome = self.outcome();
        }
        tried.reusable = self.rng.below(4) > 0;
        for (index, outcome) in &tried.outcomes {
            if matches!(outcome, Outcome::Delivered(_)) {
                *self.taken.entry((tried.id, *index)).or_default() += 1;
            }
        }
        self.world.report(delivery, tried);
    }

    fn end(&mut self) {
        let open: Vec<_> = self.world.open.keys().copied().collect();
        if let Some(&delivery) = open.get(self.rng.below(open.len().max(1) as u64) as usize) {
            self.world.end(delivery);
        }
    }

    fn receipt(&mut self) {
        if !self.world.writes.is_empty() {
            let input = self.world.receipt();
            self.world.input(input);
        }
    }

    fn resolve(&mut self) {
        let n = self.rng.below(DOMAINS);
        let answer = match self.rng.below(8) {
            0 => no_dns(),
            1 => Err(DnsFailure::NoSuchDomain),
            2 => mx(&[(10, "relay.example")]),
            3 => mx(&[(10, "shared.example"), (20, "second.example")]),
            _ => mx(&[(10, &format!("mx.d{n}.example"))]),
        };
        self.world.zone.insert(format!("d{n}.example"), answer);
        if !self.world.questions.is_empty() {
            let input = self.world.resolution();
            self.world.input(input);
        }
    }

    fn write_report(&mut self) {
        if !self.world.reports.is_empty() {
            let input = self.world.written();
            self.world.input(input);
        }
    }

    fn administrate(&mut self) {
        let actions = [
            Action::Retry,
            Action::Hold,
            Action::Release,
            Action::Release,
        ];
        let action = match self.rng.below(8) {
            0 => Action::Remove,
            1 => Action::Bounce,
            n => actions[n as usize % actions.len()],
        };
        let ids: Vec<_> = self.world.disk.keys().copied().collect();
        let id = ids.get(self.rng.below(ids.len().max(1) as u64) as usize);
        let selector = Selector {
            id: id.map(ToString::to_string),
            domain: (self.rng.below(2) == 0)
                .then(|| format!("d{}.example", self.rng.below(DOMAINS))),
            ..Selector::default()
        };
        self.world.admin(AdminRequest::Act(action, selector));
    }

    fn flip_modes(&mut self) {
        let world = &mut self.world;
        world.patient = self.rng.below(4) > 0;
        world.auto_store = self.rng.below(2) == 0;
        world.auto_resolve = self.rng.below(3) > 0;
        world.auto_report = self.rng.below(2) == 0;
        world.store_says = match self.rng.below(6) {
            0 => Some(StoreFailed::Full),
            1 => Some(StoreFailed::Broken("EIO".into())),
            _ => None,
        };
        world.settle();
    }

    fn jump_clock(&mut self) {
        let secs = [0, 1_400_000_000, 1_750_000_000, 2_060_000_000][self.rng.below(4) as usize];
        self.world.now.unix = UnixTime::from_secs(secs);
    }

    fn move_record(&mut self) {
        let ids: Vec<_> = self.world.disk.keys().copied().collect();
        let Some(&id) = ids.get(self.rng.below(ids.len().max(1) as u64) as usize) else {
            return;
        };
        let (from, to) = (self.world.disk[&id].place, self.world.place());
        assert!(self.world.engine.is_live(id, from), "{id} is on disk");
        // A report that is being written reads the old place: the store still has it there.
        if self.world.reports.iter().any(|due| due.report.about == id) {
            return;
        }
        self.world.disk.get_mut(&id).unwrap().place = to;
        self.world.input(Input::Moved(id, from, to));
        assert!(self.world.engine.is_live(id, to));
    }

    fn reload(&mut self) {
        let mut config = crate::config::Config::clone(&self.world.config);
        config.delivery.port = 25 + u16::try_from(self.rng.below(2)).unwrap();
        self.world.config = Arc::new(config);
        let config = Arc::clone(&self.world.config);
        self.world.input(Input::Reload(config));
    }

    fn crash(&mut self) {
        self.crashes += 1;
        let (written, lost) = (self.rng.below(2) == 0, self.rng.below(3) as usize);
        let seed = self.rng.next_u64();
        self.world.crash(written, lost, seed);
    }

    /// All goes well from now on, until the queue is empty.
    fn heal(&mut self) {
        let world = &mut self.world;
        world.store_says = None;
        (world.auto_store, world.auto_resolve, world.auto_report) = (true, true, true);
        world.zone.clear();
        world.settle();
        for _ in 0..2000 {
            self.world.end_idle();
            self.world
                .admin(AdminRequest::Act(Action::Release, Selector::default()));
            while let Some(&delivery) = self.world.running().first() {
                let tried = self.world.tried_as(delivery, &delivered());
                for (index, _) in &tried.outcomes {
                    *self.taken.entry((tried.id, *index)).or_default() += 1;
                }
                self.world.report(delivery, tried);
                self.world.end_idle();
            }
            self.hear();
            if self.world.disk.is_empty() {
                break;
            }
            self.world.pass(Duration::from_secs(300));
        }
        assert!(
            self.world.disk.is_empty(),
            "the queue empties: {:#?}",
            self.world.status()
        );
        self.world.pass(Duration::from_secs(10));
        self.world.end_idle();
        assert!(self.world.engine.is_idle());
        assert_eq!(self.world.status().queued, 0);
    }

    /// Every recipient of every acknowledged message was delivered, or its end was told.
    fn audit(&self) {
        let mut told: BTreeSet<(MessageId, u32)> = BTreeSet::new();
        let mut failed: BTreeSet<(MessageId, u32)> = BTreeSet::new();
        for event in &self.world.events {
            let id: MessageId = event.id.parse().unwrap();
            let (names, failure) = match &event.kind {
                EventKind::Bounced(attempt) | EventKind::Expired(attempt) => {
                    (&attempt.recipients, true)
                }
                EventKind::Changed { change, recipients } if change == "removed" => {
                    (recipients, false)
                }
                _ => continue,
            };
            for name in names {
                let number = name[1..].split('@').next().unwrap();
                if let Ok(index) = number.parse() {
                    told.insert((id, index));
                    if failure {
                        failed.insert((id, index));
                    }
                }
            }
        }
        for (&id, &count) in &self.acknowledged {
            for index in 0..count {
                let taken = self.taken.get(&(id, index)).copied().unwrap_or(0);
                let known = told.contains(&(id, index));
                assert!(taken > 0 || known, "{id} recipient {index} is lost");
                assert!(
                    taken <= 1 + self.crashes,
                    "{id} recipient {index}: {taken} times"
                );
                assert!(
                    self.crashes > 0 || !(taken > 0 && known),
                    "{id} {index}: two ends"
                );
            }
        }
        if self.crashes > 0 {
            return;
        }
        for &(id, index) in &failed {
            let reported = self.world.reports_about(id).iter().any(|report| {
                let (about, recipients) = &self.world.told[report];
                *about == id && recipients.contains(&index)
            });
            let story = self.world.story(id);
            assert!(
                reported || story.contains(&"not reported"),
                "{id} {index}: {story:?}"
            );
        }
    }
}

#[test]
fn what_was_acknowledged_is_never_lost() {
    let mut acknowledged = 0;
    for seed in 0..40 {
        let result = std::panic::catch_unwind(|| {
            let mut walk = Walk::new(seed);
            (0..400).for_each(|_| walk.step());
            walk.heal();
            walk.audit();
            walk.acknowledged.len()
        });
        acknowledged += result.unwrap_or_else(|_| panic!("seed {seed}"));
    }
    assert!(
        acknowledged > 1000,
        "the walks are about something: {acknowledged}"
    );
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || {
        let mut walk = Walk::new(8);
        (0..500).for_each(|_| walk.step());
        walk.world.events
    };
    assert_eq!(run(), run());
}
