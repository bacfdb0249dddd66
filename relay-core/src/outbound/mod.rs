//! Delivery: one connection to one receiver as a machine, from the lane's hosts to each recipient's
//! outcome, for one message after another.
//!
//! ```text
//!             Resolve           Connect         ready                     all settled
//!   Seeking ◀────────▶ (DNS) ─▶ Connecting ─▶ Opening ─▶ Loading ─▶ Sending ─────────▶ Reporting
//!      ▲  │                        │             │                     │               │   │
//!      └──┼──── the next address ◀─┴─────────────┴─────────────────────┘    Next::Job  │   │ Next::Quit
//!         │                                           Loading or Seeking ◀─────────────┘   ▼
//!         └─ none is left: Naming ─▶ Reporting                                          Quitting ─▶ closed
//! ```
//!
//! One file for each part: [`plan`] whom to try, [`seek`] up to an open connection, [`connect`] up to a connection that takes MAIL,
//! [`dane`] what DNS says of its certificate, [`transaction`] a message over it, [`tls_policy`] how much TLS,
//! [`outcome`] what everything means.
//! This file is the order of things between them; [`inputs`] hands each input to the part that waits
//! for it. [`io`] holds what the engine and the runtimes see.
//!
//! RFC 5321 §3.3, §4.5.4.1, §5.1.

mod connect;
mod dane;
mod envelope;
mod finding;
mod inputs;
mod io;
mod link;
mod outcome;
mod plan;
mod retry_after;
mod return_path;
mod seek;
mod tls_policy;
mod transaction;
mod work;

use std::sync::Arc;
use std::time::Duration;

pub use io::{
    Answer, Evidence, Hop, Job, Lane, Loaded, Login, LoginSecret, Outcome, Reason, Report, Request,
    TlsFailureKind, TlsPolicyType, TlsSession, Token, Tried,
};

pub(crate) use plan::embedded;

use crate::channel::ClientTls;
use crate::config::{Config, HostPort};
use crate::engine::{Next, Start};
use crate::machine::{Output, Timer};
use crate::queue::handling::TlsWish;
use crate::rng::Rng;
use crate::time::{Instant, Now};

use connect::{Opening, Setup};
use dane::Search;
use finding::{Finding, Stage};
use link::Link;
use outcome::{Fate, HostFailure, Seen, Then, Verdict, judge};
use plan::{Candidate, Plan};
use tls_policy::{TlsFault, TlsPolicy};
use transaction::Transaction;
use work::Work;

/// The reply to QUIT: everything is settled by then.
const QUIT: Duration = Duration::from_secs(5);

/// A delivery. See the module for its states, and [`crate::machine`] for how it is driven.
#[derive(Debug)]
pub struct Delivery {
    lane: Arc<Lane>,
    config: Arc<Config>,
    tls: Arc<ClientTls>,
    rng: Rng,
    now: Now,
    plan: Plan,
    /// The job in hand; none while a report is out and after it.
    work: Option<Work>,
    state: State,
    /// What is asked for next; taken by `poll_output`.
    next: Option<Output<Request>>,
}

#[derive(Debug)]
enum State {
    /// The addresses of a host are asked for. A connection that failed may have a last word to send.
    Resolving(HostPort, Option<Box<Link>>),
    /// The TLSA records of a host are searched for; as above.
    Searching(Box<Search>, Option<Box<Link>>),
    /// A connection is being made; as above.
    Connecting(Candidate, Option<Box<Link>>),
    /// A connection is made ready.
    Opening(Box<Link>, Opening),
    /// The message is read.
    Loading(Box<Link>),
    /// The message is sent.
    Sending(Box<Link>, Box<Transaction>),
    /// No host is left for a message that nobody read: it is read, for the report to name its recipients.
    Naming(Evidence, Option<Box<Link>>),
    /// The engine is told.
    Reporting(Option<Box<Link>>),
    /// QUIT was said.
    Quitting(Box<Link>),
    /// All is over; the last word may still have to be sent.
    Closed(Option<Box<Link>>),
}

impl Delivery {
    /// A delivery that begins with this job.
    #[must_use]
    pub fn new(start: Start, tls: Arc<ClientTls>, now: Now, mut rng: Rng) -> Self {
        let Start { lane, job, config } = start;
        let plan = Plan::new(&lane, &mut rng);
        let mut delivery = Self {
            lane,
            config,
            tls,
            rng,
            now,
            plan,
            work: Some(Work::new(job, now.instant)),
            state: State::Closed(None),
            next: None,
        };
        delivery.seek(None);
        delivery
    }

    fn open(&mut self, candidate: Candidate, local: std::net::SocketAddr) {
        let policy = TlsPolicy::of(&self.lane, &candidate, self.wish());
        let mut link = Box::new(Link::new(candidate, local, policy, &self.lane, self.wish()));
        let (opening, progress) = Opening::begin(&mut link, &mut self.setup());
        self.opened(link, opening, progress);
    }

    /// A TLS session begins, or failed, or there is none: what a report of RFC 8460 counts. A host that is
    /// tried in clear text because TLS failed was counted then; one of a route is no mail exchanger; and a
    /// message that goes by no policy says nothing about one.
    fn note_session(&mut self, link: &Link, fault: Option<&TlsFault>) {
        let held = !self.lane.route && self.wish() != TlsWish::NotRequired;
        let counts = held && !link.candidate.tls_given_up && link.policy.wants_tls();
        if let (Some(work), true) = (&mut self.work, counts) {
            work.session(link.session(fault));
        }
    }

    fn setup(&mut self) -> Setup<'_> {
        Setup {
            lane: &self.lane,
            domain: self.work.as_ref().map_or("", |work| &work.job.domain),
            config: &self.config,
            tls: &self.tls,
            rng: &mut self.rng,
            now: self.now,
        }
    }

    fn opened(&mut self, mut link: Box<Link>, opening: Opening, progress: connect::Progress) {
        match progress {
            connect::Progress::Wait(until, why) => {
                self.read(until, why);
                self.state = State::Opening(link, opening);
            }
            connect::Progress::Ask(request) => {
                self.ask(request);
                self.state = State::Opening(link, opening);
            }
            connect::Progress::Ready => {
                self.note_session(&link, None);
                if let (Some(said), Some(work)) = (&link.tls_refused, &mut self.work) {
                    let what = format!("STARTTLS was refused: {said}; clear text takes its place");
                    work.note(&link.evidence(), &what);
                }
                self.load(link);
            }
            connect::Progress::Failed(stage, finding) => {
                let fault = if let Finding::Tls(fault) = &finding {
                    Some(fault)
                } else {
                    None
                };
                // A host that is lost before its TLS says nothing about it.
                if fault.is_some() || link.is_secured() {
                    self.note_session(&link, fault);
                }
                let required = self.wish() == TlsWish::Required;
                let seen = Seen {
                    required,
                    ..link.seen()
                };
                let verdict = judge(stage, &finding, seen);
                link.end_with(verdict.then);
                let evidence = Evidence {
                    tls_failure: fault.map(TlsFault::kind),
                    ..link.evidence()
                };
                self.elsewhere(link, stage, verdict, evidence);
            }
            connect::Progress::InClear(fault) => {
                self.note_session(&link, Some(&fault));
                if let Some(work) = &mut self.work {
                    work.note(
                        &link.evidence(),
                        &format!("{fault}; clear text takes its place"),
                    );
                }
                link.end_with(Then::Drop);
                self.plan.again(Candidate {
                    tls_given_up: true,
                    ..link.candidate.clone()
                });
                self.seek(Some(link));
            }
        }
    }

    /// A connection is ready for the job in hand.
    fn load(&mut self, link: Box<Link>) {
        let Some(work) = &mut self.work else {
            return self.quit(Some(link));
        };
        work.reached = true;
        let (id, place) = (work.job.id, work.job.place);
        match work.job.loaded.clone() {
            Some(loaded) => self.transact(link, loaded),
            None => {
                self.ask(Request::Load(id, place));
                self.state = State::Loading(link);
            }
        }
    }

    fn loaded(
        &mut self,
        link: Box<Link>,
        answer: Result<Arc<Loaded>, crate::queue::store::LoadFailed>,
    ) {
        match answer {
            Ok(loaded) => {
                if let Some(work) = &mut self.work {
                    work.job.loaded = Some(Arc::clone(&loaded));
                }
                self.transact(link, loaded);
            }
            Err(why) => {
                let verdict = judge(Stage::Store, &Finding::Store(why), Seen::default());
                if let Some(work) = &mut self.work {
                    work.settle_rest(&verdict);
                }
                self.report(link);
            }
        }
    }

    fn transact(&mut self, mut link: Box<Link>, loaded: Arc<Loaded>) {
        let Some(work) = &mut self.work else {
            return self.quit(Some(link));
        };
        // The engine names recipients by it.
        work.job.loaded = Some(Arc::clone(&loaded));
        let (transaction, progress) =
            Transaction::begin(loaded, &self.config, &mut link, work, self.now);
        self.sent(link, Box::new(transaction), progress);
    }

    fn sent(
        &mut self,
        link: Box<Link>,
        transaction: Box<Transaction>,
        progress: transaction::Progress,
    ) {
        match progress {
            transaction::Progress::Wait(until, why) => {
                self.read(until, why);
                self.state = State::Sending(link, transaction);
            }
            transaction::Progress::Ask(request) => {
                self.ask(request);
                self.state = State::Sending(link, transaction);
            }
            transaction::Progress::Done => self.report(link),
            transaction::Progress::Elsewhere(stage, verdict) => {
                let evidence = link.evidence();
                self.elsewhere(link, stage, verdict, evidence);
            }
            transaction::Progress::Renew => self.renew(link),
        }
    }

    /// A host cannot be used for what is left of the job.
    fn elsewhere(&mut self, link: Box<Link>, stage: Stage, verdict: Verdict, place: Evidence) {
        if verdict.fate == Fate::Again {
            return self.renew(link);
        }
        let Some(work) = &mut self.work else {
            return self.quit(Some(link));
        };
        if work.is_begun() {
            // One attempt has one host for evidence: the rest waits for the next attempt.
            work.settle_rest(&verdict);
            return self.report(link);
        }
        work.host_failed(HostFailure { stage, verdict }, place);
        self.seek(Some(link));
    }

    /// Goes on with the job on a new connection, from the first host on.
    fn renew(&mut self, link: Box<Link>) {
        self.plan = Plan::new(&self.lane, &mut self.rng);
        self.seek(Some(link));
    }

    /// No address is left.
    fn give_up(&mut self, old: Option<Box<Link>>) {
        let complete = self.plan.is_complete();
        let Some(work) = &mut self.work else {
            return self.quit(old);
        };
        let (id, at) = (work.job.id, work.job.place);
        let unread = work.job.loaded.is_none();
        let place = match work.give_up(complete) {
            Some(place) => place,
            None => {
                // A lane without hosts, or one whose every host was left behind by an earlier job.
                let why = crate::dns::DnsFailure::Temporary("no host is left to try".to_owned());
                work.settle_rest(&judge(Stage::Resolve, &Finding::Dns(why), Seen::default()));
                Evidence::default()
            }
        };
        if unread {
            self.ask(Request::Load(id, at));
            self.state = State::Naming(place, old);
        } else {
            self.tell(place, false, old);
        }
    }

    /// The message of a job that found no host was read. If that failed, its recipients go by number.
    fn named(&mut self, place: Evidence, old: Option<Box<Link>>, loaded: Option<Arc<Loaded>>) {
        if let Some(work) = &mut self.work {
            work.job.loaded = loaded;
        }
        self.tell(place, false, old);
    }

    /// Every recipient of the job has its outcome.
    fn report(&mut self, mut link: Box<Link>) {
        link.messages += 1;
        let most = self.lane.messages_max.max(1);
        let mail_max = link.offers().mail_max.unwrap_or(u32::MAX);
        let room = link.messages < most && link.transactions < mail_max;
        let reusable = room && link.then == Then::Keep && !link.smtp.is_closing();
        if !reusable {
            link.end_with(Then::Quit);
        }
        self.tell(link.evidence(), reusable, Some(link));
    }

    fn tell(&mut self, place: Evidence, reusable: bool, link: Option<Box<Link>>) {
        let Some(work) = self.work.take() else {
            return self.quit(link);
        };
        let reached = work.reached;
        let tried = Box::new(work.into_tried(place, reusable, self.now.instant));
        self.ask(Request::Report(if reached {
            Report::Tried(tried)
        } else {
            Report::Unreachable(tried)
        }));
        self.state = State::Reporting(link);
    }

    fn told(&mut self, link: Option<Box<Link>>, next: Next) {
        let Next::Job(job) = next else {
            return self.quit(link);
        };
        let suits = |link: &mut Box<Link>| {
            link.then == Then::Keep && link.suits(&job, &self.tls, self.now.unix)
        };
        let (mut link, mut kept) = (link, false);
        if let Some(link) = &mut link {
            kept = suits(link);
        }
        self.work = Some(Work::new(*job, self.now.instant));
        match link {
            Some(link) if kept => self.load(link),
            link => {
                self.plan = Plan::new(&self.lane, &mut self.rng);
                self.seek(link);
            }
        }
    }

    fn quit(&mut self, link: Option<Box<Link>>) {
        let Some(mut link) = link else {
            return self.close(None);
        };
        if link.then == Then::Drop || !link.quit() {
            return self.close(Some(link));
        }
        self.read(self.now.instant + QUIT, Timer::Quit);
        self.state = State::Quitting(link);
    }

    fn close(&mut self, mut link: Option<Box<Link>>) {
        if let Some(link) = &mut link {
            link.close();
        }
        self.next = Some(Output::Close);
        self.state = State::Closed(link);
    }

    fn ask(&mut self, request: Request) {
        self.next = Some(Output::Request(request));
    }

    fn read(&mut self, until: Instant, why: Timer) {
        self.next = Some(Output::Read { until, why });
    }
}

#[cfg(test)]
mod tests;
