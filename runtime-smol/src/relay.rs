//! The relay as tasks on a smol executor.
//!
//! ```text
//!  accept tasks ──▶ session tasks ──ask──▶ Hub ──Spawn──▶ delivery tasks, resolver tasks
//!                                           ▲
//!                         timer task ───────┘          disk: the pool of `blocking`
//! ```
//!
//! Shutting down goes in the same order as on threads: see `runtime_std::relay`.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use async_io::{Async, Timer};
use relay_core::admin::{AdminRequest, AdminResponse, Origin};
use relay_core::engine::Refusal;
use relay_core::id::MessageId;
use relay_core::inbound::direct::{Draft, Step};
use runtime_std::events::Events;
use runtime_std::hub::{Hub, Options, StartError};
use runtime_std::listen::bind;
use runtime_std::load::Loaded;
use runtime_std::slot::Slot;
use smol::future;
use smol::{Executor, Task, unblock};

use crate::drive::{Stop, StopSignal};
use crate::serve::{Acceptor, Admins, Spawner, session_request};
use crate::tasks::{Alarm, Tasks, ring};

/// How long what was aborted has to be gone.
const ABORT_WAIT: Duration = Duration::from_secs(1);

/// A running relay. Its tasks run while somebody runs the executor that it was started on.
///
/// Dropping it stops it without grace: what is under way is cut off, and its mail is in the queue at the
/// next start. Dropping blocks until what is cut off has ended, for a second at most, and for one sync of
/// the store.
#[derive(Debug)]
pub struct Relay {
    hub: Arc<Hub>,
    executor: Arc<Executor<'static>>,
    addresses: Vec<SocketAddr>,
    stop: Arc<StopSignal>,
    alarm: Arc<Alarm>,
    tasks: Vec<Task<()>>,
    stopped: bool,
}

impl Relay {
    /// Opens the store, binds the listeners and starts tasks on `executor`. Reading the queue blocks.
    ///
    /// # Errors
    /// [`StartError`] names the directory, file or address that is at fault.
    pub fn start(executor: &Arc<Executor<'static>>, loaded: Loaded) -> Result<Self, StartError> {
        Self::start_with(executor, loaded, Options::default())
    }

    /// [`Relay::start`] with parts of the embedder's own.
    ///
    /// # Errors
    /// As [`Relay::start`].
    pub fn start_with(
        executor: &Arc<Executor<'static>>,
        loaded: Loaded,
        options: Options,
    ) -> Result<Self, StartError> {
        let listeners = loaded
            .config
            .listeners
            .iter()
            .map(|listener| bind(listener.address))
            .collect::<io::Result<Vec<_>>>()?;
        let addresses = listeners
            .iter()
            .map(TcpListener::local_addr)
            .collect::<io::Result<_>>()?;
        let stop = Arc::new(StopSignal::default());
        let alarm = Arc::new(Alarm::default());
        let tasks = Tasks::new(executor, &stop, &alarm);
        let with_admin = options.admin;
        let hub = Hub::open(loaded, options, Box::new(tasks))?;
        // From here on a failure drops the relay, which stops what runs.
        let mut relay = Self {
            hub,
            executor: Arc::clone(executor),
            addresses,
            stop,
            alarm,
            tasks: Vec::new(),
            stopped: false,
        };
        let ringing = ring(Arc::clone(&relay.alarm), Arc::clone(&relay.hub));
        relay.tasks.push(executor.spawn(ringing));
        for (index, listener) in listeners.into_iter().enumerate() {
            let acceptor = Acceptor {
                listener: Async::new(listener)?,
                index,
                executor: Spawner::new(executor),
                hub: Arc::clone(&relay.hub),
                stop: Arc::clone(&relay.stop),
            };
            relay.tasks.push(executor.spawn(acceptor.run()));
        }
        if with_admin {
            relay.start_admin()?;
        }
        Ok(relay)
    }

    fn start_admin(&mut self) -> io::Result<()> {
        let (unix, tcp) = self.hub.bind_admin()?;
        let admins = Admins {
            executor: Spawner::new(&self.executor),
            hub: Arc::clone(&self.hub),
            stop: Arc::clone(&self.stop),
            connections: Arc::new(()),
        };
        let unix = Async::new(unix)?;
        let take = |unix: &UnixListener| unix.accept().map(|(stream, _)| stream);
        let run = admins.clone().run(unix, take, Origin::Local);
        self.tasks.push(self.executor.spawn(run));
        if let Some(tcp) = tcp {
            let tcp = Async::new(tcp)?;
            let take = |tcp: &TcpListener| tcp.accept().map(|(stream, _)| stream);
            let run = admins.run(tcp, take, Origin::Tcp);
            self.tasks.push(self.executor.spawn(run));
        }
        Ok(())
    }

    /// Where the listeners are bound, in the order of the configuration.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What the tasks share.
    #[must_use]
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Hands a message over without a connection. When this returns its id, the message is on stable
    /// storage. Dropping the future does not take the message back: it is handed over, or refused, all
    /// the same.
    ///
    /// # Errors
    /// The refusal that a client would get by SMTP.
    pub async fn submit(&self, draft: Draft) -> Result<MessageId, Refusal> {
        let (mut handover, seat) = self.hub.open_handover(draft);
        let result = Slot::new();
        let filled = Arc::clone(&result);
        let stop = Arc::clone(&self.stop);
        let task = self.executor.spawn(async move {
            loop {
                match handover.poll() {
                    Step::Request(request) => {
                        let answer = session_request(&seat, &stop, request).await;
                        handover.answer(seat.hub().clock().now(), answer);
                    }
                    Step::Done(result) => return filled.put(result),
                }
            }
        });
        task.detach();
        result.taken().await
    }

    /// Hears of every delivery event from now on. At most `capacity` wait to be received; past that the
    /// subscriber misses events and is told how many.
    #[must_use]
    pub fn subscribe(&self, capacity: usize) -> Events {
        self.hub.subscribe(capacity)
    }

    /// Asks what `status`, `queue` and their like ask.
    pub async fn admin(&self, request: AdminRequest) -> AdminResponse {
        self.hub.admin(request).taken().await
    }

    /// Puts a newly loaded configuration in force; listeners stay as they are. Says what changed.
    pub fn apply(&self, loaded: Loaded) -> Vec<String> {
        self.hub.apply(loaded)
    }

    /// Stops accepting, lets transactions and deliveries that run end within `grace`, and closes the
    /// store. What is not delivered is in the queue at the next start. Returns whether all ended in time.
    pub async fn shut_down(mut self, grace: Duration) -> bool {
        self.stopped = true;
        self.hub.begin_shut_down();
        self.stop.give(Stop::Drain);
        let drained = self.drained_within(grace).await;
        self.stop.give(Stop::Abort);
        if !drained {
            self.drained_within(ABORT_WAIT).await;
        }
        let hub = Arc::clone(&self.hub);
        unblock(move || hub.close()).await;
        self.alarm.stop();
        for task in self.tasks.drain(..) {
            task.await;
        }
        drained
    }

    async fn drained_within(&self, time: Duration) -> bool {
        let drained = async {
            self.hub.drained().taken().await;
            true
        };
        let late = async {
            Timer::after(time).await;
            false
        };
        future::or(drained, late).await
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if !self.stopped {
            self.hub.begin_shut_down();
            self.stop.give(Stop::Abort);
            // What a delivery has to tell is noted before the store closes. On an executor that nobody
            // runs any more it never comes.
            let _ = self.hub.drained().wait_for(ABORT_WAIT);
            self.hub.close();
            self.alarm.stop();
        }
    }
}
