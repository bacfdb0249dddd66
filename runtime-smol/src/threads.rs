//! An executor on several threads, for a program that has none of its own.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle, available_parallelism};
use std::time::Duration;

use runtime_std::hub::{Hub, Options, StartError};
use runtime_std::load::Loaded;
use runtime_std::runtime::{Running, Runtime};
use smol::Executor;

use crate::relay::Relay;

/// Threads that run an executor until they are stopped.
#[derive(Debug)]
pub struct Threads {
    executor: Arc<Executor<'static>>,
    stop: async_channel::Sender<std::convert::Infallible>,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    /// As many threads as there are cores, at least two: a computation on one never stops all.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start() -> io::Result<Self> {
        let executor = Arc::new(Executor::new());
        let (stop, stopped) = async_channel::bounded(1);
        let count = available_parallelism().map_or(2, |cores| cores.get().max(2));
        let mut threads = Vec::with_capacity(count);
        for index in 0..count {
            let executor = Arc::clone(&executor);
            let stopped = stopped.clone();
            let run = move || {
                let _ = smol::block_on(executor.run(stopped.recv()));
            };
            threads.push(Builder::new().name(format!("smol-{index}")).spawn(run)?);
        }
        Ok(Self {
            executor,
            stop,
            threads,
        })
    }

    /// The executor that the threads run.
    #[must_use]
    pub fn executor(&self) -> &Arc<Executor<'static>> {
        &self.executor
    }

    /// Stops the threads. Tasks that have not ended never will.
    pub fn stop(self) {
        self.stop.close();
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

/// The smol runtime, for the command line.
#[derive(Debug, Clone, Copy)]
pub struct Smol;

impl Runtime for Smol {
    fn binary(&self) -> &'static str {
        "smtp-relay"
    }

    fn start(&self, loaded: Loaded, options: Options) -> Result<Box<dyn Running>, StartError> {
        let threads = Threads::start()?;
        let relay = Relay::start_with(threads.executor(), loaded, options)?;
        Ok(Box::new(OnThreads { threads, relay }))
    }
}

/// A relay with the threads that run it.
struct OnThreads {
    threads: Threads,
    relay: Relay,
}

impl Running for OnThreads {
    fn hub(&self) -> &Arc<Hub> {
        self.relay.hub()
    }

    fn addresses(&self) -> &[SocketAddr] {
        self.relay.addresses()
    }

    fn shut_down(self: Box<Self>, grace: Duration) -> bool {
        let drained = smol::block_on(self.relay.shut_down(grace));
        self.threads.stop();
        drained
    }
}
