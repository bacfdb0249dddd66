//! The engine: the one place that admits, queues, schedules and counts. Passive, single-threaded,
//! totally ordered.
//!
//! ```text
//!  sessions ──Ask──▶ admit ─▶ accept ──Store──▶ (store) ──Stored──▶ enter
//!                                                                     │ a job for each domain
//!                     ┌──────────── due ◀── timers ◀── deferred ──┐   ▼
//!                     ▼                                           │ route ──Resolve──▶ (names)
//!  deliveries ◀──Start── lanes ◀──────────────────────────────────┼───┘
//!      └──────Report────────────────────────────▶ conclude ───────┤
//!                                                                 └──▶ report ──▶ accept
//! ```
//!
//! A runtime locks it, hands in an [`Input`], and takes out [`Output`]s until there are none. It does
//! a few map operations for each message, and touches no body. The same inputs at the same times,
//! with the same seed, give the same outputs.
//!
//! What it promises:
//!
//! - A session hears `Queued` only after the store's receipt. From then on the message ends as
//!   delivered, bounced, expired or removed, or it is in the queue: for every recipient, at every
//!   instant, accepted + recovered = delivered + bounced + expired + removed + queued.
//! - A message is discarded only after each recipient is settled, and each failure that somebody
//!   wants to hear of is in a report on stable storage.
//! - Every list, map and count is bounded by the configuration, by a constant, or by the queue itself.
//!
//! RFC 5321 §4.5.4 (queueing, retry), §4.5.5 (null reverse-path), §5.1 (locating the target host).

mod accept;
mod act;
mod admin;
mod admit;
mod capacity;
mod conclude;
mod counters;
mod deliver;
mod doubt;
mod enter;
mod errands;
mod follow;
mod give_up;
mod held;
mod io;
mod limits;
mod notice;
mod report;
mod room;
mod route;
mod sweep;
#[cfg(test)]
mod tests;
mod tls_reports;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::config::Config;
use crate::id::{DeliveryId, MessageId};
use crate::queue::domain::Domains;
use crate::queue::job::JobState;
use crate::queue::lanes::Lanes;
use crate::queue::store::Place;
use crate::queue::table::Table;
use crate::queue::tick::Clock;
use crate::rng::Rng;
use crate::sts::cache::Cache as Policies;
use crate::time::{Instant, Now};

use accept::Accept;
use admit::Admit;
use counters::Counters;
use deliver::Running;
use enter::Recovering;
use errands::Errands;
use held::Held;
use notice::Notices;
use report::Reports;
use sweep::Sweep;
use tls_reports::TlsReports;

pub use capacity::{Capacity, Resources};
pub use io::*;

/// Admission, queue, schedule and counts. See the module.
#[derive(Debug)]
pub struct Engine {
    config: Arc<Config>,
    capacity: Capacity,
    clock: Clock,
    started: Instant,
    rng: Rng,
    out: VecDeque<Output>,
    /// The last [`Output::Wait`] that was given.
    waits: Option<Instant>,
    /// From the first `Recovered` to `AllRecovered`.
    recovering: Option<Recovering>,
    stopping: bool,
    admit: Admit,
    notices: Notices,
    accept: Accept,
    table: Table,
    domains: Domains,
    lanes: Lanes,
    deliveries: BTreeMap<DeliveryId, Running>,
    last_delivery: u64,
    held: Held,
    reports: Reports,
    /// Messages in the queue that are damaged, and why: they go to the quarantine at their end.
    damaged: BTreeMap<MessageId, String>,
    errands: Errands,
    policies: Policies,
    tls_reports: TlsReports,
    sweep: Sweep,
    counters: Counters,
}

impl Engine {
    /// An engine with an empty queue. First hand in what the store says of itself, so that no id is given
    /// twice; then each of its messages as [`Input::Recovered`], beside all else that happens, its delivery
    /// included; then [`Input::AllRecovered`], from when on their ages are right.
    #[must_use]
    pub fn new(config: Arc<Config>, now: Now, mut rng: Rng) -> Self {
        let clock = Clock::new(now);
        let capacity = Capacity::default();
        Self {
            config,
            capacity,
            clock,
            started: now.instant,
            admit: Admit::new(now.instant, &mut rng),
            notices: Notices::new(now.instant),
            rng,
            out: VecDeque::new(),
            waits: None,
            recovering: None,
            stopping: false,
            accept: Accept::default(),
            table: Table::new(capacity.kept),
            domains: Domains::new(),
            lanes: Lanes::new(),
            deliveries: BTreeMap::new(),
            last_delivery: 0,
            held: Held::default(),
            reports: Reports::default(),
            damaged: BTreeMap::new(),
            errands: Errands::default(),
            policies: Policies::default(),
            tls_reports: TlsReports::default(),
            sweep: Sweep::new(clock.tick()),
            counters: Counters::default(),
        }
    }

    /// Lets so many sessions derive a key at once: half the cores is a good number. 1 if not called.
    #[must_use]
    pub fn with_turns(mut self, turns: usize) -> Self {
        self.admit.set_turns_max(turns);
        self
    }

    /// Takes on no more than this, whatever the configuration allows.
    #[must_use]
    pub fn with_capacity(mut self, capacity: Capacity) -> Self {
        self.capacity = capacity;
        self.table.set_kept_max(capacity.kept);
        self
    }

    /// Takes one input. What it leads to is given by [`Engine::poll_output`].
    pub fn handle_input(&mut self, now: Now, input: Input) {
        let gap = self.clock.set(now);
        self.forgive(gap);
        match input {
            Input::Ask(session, ask) => self.ask(session, ask),
            Input::Report(delivery, report) => self.report(delivery, report),
            Input::Resolved(id, answer) => self.resolved(id, answer),
            Input::Stored(write, result) => self.stored(write, result),
            Input::Recovered(recovered) => return self.recovered(*recovered),
            Input::AllRecovered => self.finish_recovery(),
            Input::Kept(keep) => return self.kept(&keep),
            Input::Errand(id, done) => self.errand_done(id, done),
            Input::ReportWritten { about, report } => self.report_written(about, report),
            Input::StoreStatus(status) => self.store_says(*status),
            Input::Moved(id, from, to) => self.moved(id, from, to),
            Input::Admin(id, request) => self.administer(id, request),
            Input::Reload(config) => self.reload(config),
            Input::ShutDown => {
                self.stopping = true;
                self.keep_counts();
                self.let_go(usize::MAX);
            }
            Input::Timeout => self.looked_again(),
        }
        self.run_chores();
        self.start_deliveries();
        self.ask_names();
        self.send_errands();
        debug_assert!(
            self.counters.balance(),
            "recipients are conserved: {:?}",
            self.counters
        );
    }

    /// The next thing to do, in order; none until the next input.
    pub fn poll_output(&mut self) -> Option<Output> {
        if let Some(output) = self.out.pop_front() {
            return Some(output);
        }
        self.out.shrink_to(1024);
        let waits = self.next_chore();
        if waits == self.waits {
            return None;
        }
        self.waits = waits;
        Some(Output::Wait(waits))
    }

    /// Whether nothing is under way that a shutdown should wait for: no delivery, no write, no report.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.deliveries.is_empty() && self.accept.is_idle() && self.reports.is_idle()
    }

    fn moved(&mut self, id: MessageId, from: Place, to: Place) {
        if let Some(message) = self.table.find(id)
            && self.table.messages[message].place == from
        {
            self.table.messages[message].place = to;
        }
    }

    /// Applies a new configuration. Lanes are made anew if anything changed that they depend on.
    fn reload(&mut self, config: Arc<Config>) {
        self.admit.forget_changed(&self.config, &config);
        let same = self.config.delivery == config.delivery
            && self.config.mta_sts == config.mta_sts
            && self.config.routes == config.routes
            && self.config.hostname == config.hostname
            // Connections that are open would go on with the old return paths.
            && self.config.domains == config.domains
            && self.config.return_path_keys == config.return_path_keys;
        self.config = config;
        if same {
            return;
        }
        self.domains.forget_lanes();
        self.let_go(usize::MAX);
        for job in self.lanes.renew() {
            if !self.table.free_if_gone(job) {
                self.table.set_state(job, JobState::Picked);
                self.dispatch(job);
            }
        }
    }
}
