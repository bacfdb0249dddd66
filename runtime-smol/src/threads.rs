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

use crate::drive::{Stop, StopSignal};
use crate::relay::Relay;

/// Threads that run an executor until this is dropped. Tasks that have not ended by then never will.
#[derive(Debug)]
pub struct Threads {
    executor: Arc<Executor<'static>>,
    stop: Arc<StopSignal>,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    /// As many threads as there are cores, at least two: a computation on one never stops all.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start() -> io::Result<Self> {
        let mut threads = Self {
            executor: Arc::new(Executor::new()),
            stop: Arc::new(StopSignal::default()),
            threads: Vec::new(),
        };
        let count = available_parallelism().map_or(2, |cores| cores.get().max(2));
        for index in 0..count {
            let executor = Arc::clone(&threads.executor);
            let stop = Arc::clone(&threads.stop);
            let thread = Builder::new().name(format!("smol-{index}"));
            let run = move || smol::block_on(executor.run(stop.given(Stop::Abort)));
            threads.threads.push(thread.spawn(run)?);
        }
        Ok(threads)
    }

    /// The executor that the threads run.
    #[must_use]
    pub fn executor(&self) -> &Arc<Executor<'static>> {
        &self.executor
    }

    /// Ends the threads, as dropping them does.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.give(Stop::Abort);
        for thread in self.threads.drain(..) {
            // A panic was reported where it happened.
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
        Ok(Box::new(OnThreads { relay, threads }))
    }
}

/// A relay with the threads that run it.
struct OnThreads {
    relay: Relay,
    /// After the relay, which its tasks let go of while they run.
    threads: Threads,
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
