//! What the hub starts, as tasks.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_io::Timer;
use relay_core::dns::Query;
use relay_core::engine::{Input, Start};
use relay_core::errand::Errand;
use relay_core::id::{DeliveryId, ErrandId, ResolveId};
use relay_core::time::Instant;
use runtime_std::hub::{Hub, Spawn};
use smol::future;
use smol::{Executor, unblock};

use crate::drive::StopSignal;
use crate::resolve::resolve;
use crate::serve::{Spawner, run_delivery, run_errand};

/// [`Spawn`] as tasks.
pub(crate) struct Tasks {
    executor: Spawner,
    stop: Arc<StopSignal>,
    alarm: Arc<Alarm>,
}

impl Tasks {
    pub(crate) fn new(
        executor: &Arc<Executor<'static>>,
        stop: &Arc<StopSignal>,
        alarm: &Arc<Alarm>,
    ) -> Self {
        Self {
            executor: Spawner::new(executor),
            stop: Arc::clone(stop),
            alarm: Arc::clone(alarm),
        }
    }
}

impl Spawn for Tasks {
    fn delivery(&self, hub: &Arc<Hub>, id: DeliveryId, start: Box<Start>) {
        let (hub, stop) = (Arc::clone(hub), Arc::clone(&self.stop));
        self.executor.spawn(async move {
            let (delivery, seat) = hub.open_delivery(id, *start);
            run_delivery(delivery, seat, stop).await;
        });
    }

    fn resolve(&self, hub: &Arc<Hub>, id: ResolveId, domain: String) {
        let (hub, stop) = (Arc::clone(hub), Arc::clone(&self.stop));
        self.executor.spawn(async move {
            let answer = resolve(&hub, &stop, Query::mx(&domain)).await;
            hub.input(Input::Resolved(id, answer));
        });
    }

    fn errand(&self, hub: &Arc<Hub>, id: ErrandId, errand: Errand) {
        let (hub, stop) = (Arc::clone(hub), Arc::clone(&self.stop));
        self.executor.spawn(async move {
            let done = run_errand(&hub, errand, stop).await;
            hub.input(Input::Errand(id, done));
        });
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        self.executor.spawn(unblock(work));
        Ok(())
    }

    fn connection_memory(&self) -> u64 {
        16 * 1024
    }

    fn timer(&self, at: Option<Instant>) {
        self.alarm.set(at);
    }
}

/// When the engine wants its `Timeout`.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    due: Mutex<Due>,
    changed: event_listener::Event,
}

#[derive(Debug, Default)]
struct Due {
    at: Option<Instant>,
    stopped: bool,
}

impl Alarm {
    fn set(&self, at: Option<Instant>) {
        self.lock().at = at;
        self.changed.notify(1);
    }

    /// Ends the task that rings.
    pub(crate) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify(1);
    }

    fn lock(&self) -> MutexGuard<'_, Due> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// That time came. Another one may have been set meanwhile.
    fn rung(&self, at: Instant) {
        self.lock().at.take_if(|next| *next == at);
    }

    /// When to ring; none when it is stopped.
    fn due(&self) -> Option<Option<Instant>> {
        let due = self.lock();
        (!due.stopped).then_some(due.at)
    }
}

/// Gives the engine its `Timeout`s until the alarm is stopped.
pub(crate) async fn ring(alarm: Arc<Alarm>, hub: Arc<Hub>) {
    let clock = hub.clock();
    loop {
        let changed = alarm.changed.listen();
        match alarm.due() {
            None => return,
            Some(None) => changed.await,
            Some(Some(at)) if !clock.until(at).is_zero() => {
                let due = async {
                    Timer::at(clock.std_instant(at)).await;
                };
                future::or(changed, due).await;
            }
            Some(Some(at)) => {
                alarm.rung(at);
                hub.time_out();
            }
        }
    }
}
