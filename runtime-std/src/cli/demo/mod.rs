//! `demo`: a relay, the world around it and traffic through it, in one process and on loopback only.
//!
//! ```text
//!  senders ──TLS, AUTH──▶ relay ──MX by the demo's name server──▶ receivers with different manners
//!     ▲                     │ events                                  │
//!     └── mail for each kind└──▶ tally ──▶ progress, table            └── the healthy one gets the reports
//! ```
//!
//! | file | what it owns |
//! |---|---|
//! | `kinds` | the receivers: addresses, manners, how their mail must end |
//! | `world`, `names`, `authority` | the hosts, the name server, the certificates |
//! | `receiver`, `sender` | both sides of a connection as machines over `smtp_proto` and `Channel` |
//! | `tally`, `show` | what happened, counted and shown |

mod authority;
mod kinds;
mod names;
mod receiver;
mod sender;
mod show;
mod tally;
mod world;

use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle, sleep};
use std::time::{Duration, Instant};

use relay_core::config::{Config, Credential, Listener, ListenerTls, SenderPattern};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::{DemoArgs, Failure};
use crate::clock::Clock;
use crate::drive::{StopSignal, drive};
use crate::hub::Options;
use crate::load::{self, Loaded};
use crate::runtime::Runtime;
use kinds::{HOME, Kind};
use sender::{Access, Mail, RELAY, Sending};
use show::Progress;
use tally::Tally;
use world::World;

/// Connections that submit at once; every other one uses STARTTLS.
const SENDERS: usize = 8;

/// A message is given up after this time, or after some milliseconds for each message of a large demo.
const EXPIRE_MIN: Duration = Duration::from_secs(12);
const EXPIRE_PER_MESSAGE: Duration = Duration::from_millis(40);

/// The demo ends so long after the last message expired, whatever happened.
const AFTER_EXPIRY: Duration = Duration::from_secs(26);

/// Lines of the messages that are cut off in their middle: more than a connection takes at once, and more
/// than the relay keeps in memory.
const LONG_LINES: usize = 10_000;

/// How often the progress is looked at.
const GLANCE: Duration = Duration::from_millis(50);

/// How long the relay has to shut down.
const DRAIN: Duration = Duration::from_secs(3);

/// Runs the demo. It fails if any message did not end as its kind must.
pub(super) fn demo(
    runtime: &dyn Runtime,
    args: &DemoArgs,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    let dir = TemporaryDir::new()?;
    let mut threads = Threads::new()?;
    let world = World::start(&mut threads).map_err(Failure::Said)?;
    let messages = usize::try_from(args.messages).unwrap_or(usize::MAX);
    let plan = Plan::new(messages);
    let (loaded, secret) = loaded(&world, dir.path(), &plan).map_err(Failure::Said)?;
    let tally = Arc::new(Tally::default());
    let options = Options {
        events: vec![Arc::clone(&tally) as _],
        ..Options::default()
    };
    let client = Arc::clone(&loaded.client_tls);
    let running = runtime.start(loaded, options).map_err(Failure::said)?;
    show::introduce(runtime.binary(), messages, running.addresses(), out)?;

    let access = |implicit| Access {
        tls: Arc::clone(&client),
        implicit,
        name: load::FIRST_CREDENTIAL.to_owned(),
        secret: secret.clone(),
    };
    let senders = Senders::start(running.addresses(), access, &plan, &mut threads)?;
    let mut progress = Progress::new(messages);
    let ended = plan.watch(&tally, &world, &mut progress, &interrupted, &senders, out);
    progress.finish();
    // What did not end in time shows in the table.
    let _ = running.shut_down(DRAIN);
    threads.end();
    ended?;
    if interrupted.load(Ordering::Relaxed) {
        return Err(Failure::Said("stopped before its end".into()));
    }
    for why in senders.failures() {
        writeln!(out, "A sender gave up: {why}")?;
    }
    show::table(&tally.rows(), &plan.sent, &world, out)
}

/// How much is sent to each kind, and for how long.
struct Plan {
    sent: [usize; Kind::ALL.len()],
    expire: Duration,
    messages: usize,
}

impl Plan {
    fn new(messages: usize) -> Self {
        let kinds = Kind::ALL.len();
        let share = |kind: Kind| messages / kinds + usize::from(kind.index() < messages % kinds);
        let count = u32::try_from(messages).unwrap_or(u32::MAX);
        Self {
            sent: Kind::ALL.map(share),
            expire: EXPIRE_MIN.max(EXPIRE_PER_MESSAGE.saturating_mul(count)),
            messages,
        }
    }

    /// All messages, the kinds mixed.
    fn mail(&self) -> Result<Vec<Mail>, String> {
        let kinds = Kind::ALL.len();
        let mail = |number: usize| mail(Kind::ALL[number % kinds], number + 1);
        (0..self.messages).map(mail).collect()
    }

    /// Shows the progress until every message is settled and every report is back, or time is up.
    fn watch(
        &self,
        tally: &Tally,
        world: &World,
        progress: &mut Progress,
        interrupted: &AtomicBool,
        senders: &Senders,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let end = Instant::now() + self.expire + AFTER_EXPIRY;
        while Instant::now() < end && !interrupted.load(Ordering::Relaxed) {
            let rows = tally.rows();
            progress.show(&rows, out)?;
            let settled: usize = rows.iter().map(|row| row.settled()).sum();
            let accepted: usize = rows.iter().map(|row| row.accepted).sum();
            let reported = Kind::ALL
                .into_iter()
                .all(|kind| world.reports(kind) >= rows[kind.index()].reports_due());
            if senders.are_done() && settled == accepted && reported {
                break;
            }
            sleep(GLANCE);
        }
        progress.show(&tally.rows(), out)
    }
}

fn mail(kind: Kind, number: usize) -> Result<Mail, String> {
    let (from, to) = (kind.sender(), format!("user{number}@{}", kind.domain()));
    let mut text = format!(
        "From: The demo <{from}>\r\nTo: <{to}>\r\nSubject: Message {number}\r\n\r\n\
         This is message {number}. Its receiver {}.\r\n",
        kind.manners()
    );
    if kind == Kind::Dropping {
        text.push_str(&"It is long enough to have a middle.\r\n".repeat(LONG_LINES));
    }
    let wrong = |error: smtp_proto::AddressError| format!("{from}, {to}: {error}");
    Ok(Mail {
        from: smtp_proto::ReversePath::Mailbox(from.parse().map_err(wrong)?),
        to: smtp_proto::ForwardPath::Mailbox(to.parse().map_err(wrong)?),
        text: text.into_bytes(),
    })
}

/// The relay's configuration, and the secret of the one credential in it.
fn loaded(world: &World, dir: &Path, plan: &Plan) -> Result<(Loaded, String), String> {
    let domain = |name: &str| name.parse().map_err(|error| format!("{name}: {error}"));
    let mut config = Config::new(domain(RELAY)?, dir);
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    config.listeners = vec![
        Listener::new(anywhere, ListenerTls::StartTls),
        Listener::new(anywhere, ListenerTls::Implicit),
    ];
    config.tls = Some(world.authority.files(RELAY, dir)?);
    config.dns.servers = vec![world.names];
    config.delivery.port = world.port;
    // Every receiver is on loopback, and there on purpose.
    config.delivery.prohibited_hosts = Vec::new();
    config.delivery.retry = vec![Duration::from_secs(1), Duration::from_secs(2)];
    config.delivery.expire = plan.expire;
    let mut credential = Credential::new(load::FIRST_CREDENTIAL);
    credential.senders = vec![SenderPattern::Domain(domain(HOME)?)];
    let secret = load::give_secret(&mut credential).map_err(|error| error.to_string())?;
    config.credentials = vec![Arc::new(credential)];
    let loaded = load::from_config(config).map_err(|error| error.to_string())?;
    let client_tls = world.authority.client()?;
    Ok((
        Loaded {
            client_tls,
            ..loaded
        },
        secret,
    ))
}

/// The connections that submit, and what they share.
struct Senders {
    shared: Arc<Shared>,
}

struct Shared {
    mail: Mutex<std::vec::IntoIter<Mail>>,
    failures: Mutex<Vec<String>>,
}

impl Senders {
    fn start(
        relay: &[SocketAddr],
        access: impl Fn(bool) -> Access,
        plan: &Plan,
        threads: &mut Threads,
    ) -> Result<Self, Failure> {
        let [starttls, implicit] = relay else {
            return Err(Failure::Said("the relay listens nowhere".into()));
        };
        let mail = plan.mail().map_err(Failure::Said)?;
        let shared = Arc::new(Shared {
            mail: Mutex::new(mail.into_iter()),
            failures: Mutex::default(),
        });
        for number in 0..SENDERS {
            let is_implicit = number % 2 == 1;
            let to = if is_implicit { *implicit } else { *starttls };
            let access = access(is_implicit);
            let shared = Arc::clone(&shared);
            let (stop, clock) = (Arc::clone(threads.stop()), threads.clock());
            let thread = Builder::new().name("demo-sender".into());
            threads.push(thread.spawn(move || {
                if let Err(why) = submit(to, access, clock, &stop, &shared) {
                    lock(&shared.failures).push(why);
                }
            })?);
        }
        Ok(Self { shared })
    }

    /// Whether no sender is at work any more.
    fn are_done(&self) -> bool {
        Arc::strong_count(&self.shared) == 1
    }

    fn failures(&self) -> Vec<String> {
        lock(&self.shared.failures).clone()
    }
}

fn submit(
    to: SocketAddr,
    access: Access,
    clock: Clock,
    stop: &StopSignal,
    shared: &Shared,
) -> Result<(), String> {
    let stream = TcpStream::connect(to).map_err(|error| format!("{to}: {error}"))?;
    crate::listen::prepare(&stream).map_err(|error| format!("{to}: {error}"))?;
    let mut sending = Sending::new(access, clock.now());
    let next = |_, _: &mut Option<_>| lock(&shared.mail).next();
    drive(&mut sending, Some(stream), clock, stop, None, next);
    sending.failed().map_or(Ok(()), |why| Err(why.to_owned()))
}

/// The threads of the demo, and what stops them.
pub(super) struct Threads {
    stop: Arc<StopSignal>,
    clock: Clock,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    fn new() -> io::Result<Self> {
        Ok(Self {
            stop: Arc::new(StopSignal::new()?),
            clock: Clock::new(),
            threads: Vec::new(),
        })
    }

    fn stop(&self) -> &Arc<StopSignal> {
        &self.stop
    }

    fn clock(&self) -> Clock {
        self.clock
    }

    fn push(&mut self, thread: JoinHandle<()>) {
        self.threads.push(thread);
    }

    fn end(&mut self) {
        self.stop.abort();
        for thread in self.threads.drain(..) {
            // A panic was reported where it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.end();
    }
}

/// The relay's data directory, removed at the end.
struct TemporaryDir(PathBuf);

impl TemporaryDir {
    fn new() -> Result<Self, Failure> {
        use std::os::unix::fs::DirBuilderExt as _;
        let mut rng = load::system_rng().map_err(Failure::said)?;
        let name = format!("smtp-relay-demo-{:016x}", rng.next_u64());
        let path = std::env::temp_dir().join(name);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| Failure::Said(format!("{}: {error}", path.display())))?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        // The system clears its directory for such files anyway.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
