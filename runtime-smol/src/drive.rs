//! The loop that drives any [`Machine`] as a task.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, ErrorKind, Read, Write};
use std::pin::pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::Poll;

use async_io::{Async, Timer};
use event_listener::Event;
use relay_core::machine::{Input, Machine, Output, WRITE_MAX};
use relay_core::time::{Instant, Now};
use runtime_std::clock::Clock;
use smol::future::{self, Future};

/// One read takes at most this much. It is one buffer a thread, whatever the number of connections.
const SCRATCH_LEN: usize = 64 * 1024;

/// A connection holds on to a write buffer of at most this size while it waits.
const WIRE_KEPT: usize = 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH_LEN]);
}

/// Says "stop" to every task that waits, in two steps.
#[derive(Debug, Default)]
pub struct StopSignal {
    step: AtomicU8,
    changed: Event,
}

/// A step of a [`StopSignal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stop {
    /// Nothing is accepted, and each connection ends when it may.
    Drain = 1,
    /// Every wait and every connection ends at once.
    Abort = 2,
}

impl StopSignal {
    /// Gives the signal, for good.
    pub fn give(&self, stop: Stop) {
        self.step.fetch_max(stop as u8, Ordering::AcqRel);
        self.changed.notify(usize::MAX);
    }

    /// Whether it was given.
    #[must_use]
    pub fn is_given(&self, stop: Stop) -> bool {
        self.step.load(Ordering::Acquire) >= stop as u8
    }

    /// Waits until it is given.
    pub async fn given(&self, stop: Stop) {
        while !self.is_given(stop) {
            let changed = self.changed.listen();
            if !self.is_given(stop) {
                changed.await;
            }
        }
    }

    /// The result of `work`, or an error if `Abort` is given first.
    pub(crate) async fn or_abort<T>(
        &self,
        work: impl Future<Output = io::Result<T>>,
    ) -> io::Result<T> {
        future::or(work, async {
            self.given(Stop::Abort).await;
            Err(ErrorKind::ConnectionAborted.into())
        })
        .await
    }
}

/// Does what a machine's requests name.
pub trait CarryOut<M: Machine, S> {
    /// Carries out one request. A delivery's machine connects through it, by replacing `stream`.
    fn carry_out(
        &mut self,
        request: M::Request,
        stream: &mut Option<Async<S>>,
    ) -> impl Future<Output = M::Answer> + Send;
}

/// Drives `machine` over `stream` until it closes, or until `stop` aborts.
///
/// `interrupt` tells the machine, once, that `stop` drains; without it the machine goes on.
pub async fn drive<M: Machine, S>(
    machine: &mut M,
    mut stream: Option<Async<S>>,
    clock: Clock,
    stop: &StopSignal,
    mut interrupt: Option<fn(&mut M, Now)>,
    requests: &mut impl CarryOut<M, S>,
) where
    for<'a> &'a S: Read + Write,
{
    let mut wire = Vec::new();
    loop {
        let output = machine.poll_output(&mut wire);
        if let Err(kind) = flush(stream.as_ref(), &mut wire, clock, stop).await {
            if matches!(output, Output::Close) {
                return;
            }
            machine.handle_input(clock.now(), Input::WriteFailed(kind));
            continue;
        }
        match output {
            Output::Request(request) => {
                let answer = requests.carry_out(request, &mut stream).await;
                machine.handle_input(clock.now(), Input::Answer(answer));
            }
            Output::Read { until, why: _ } => {
                let Some(stream) = &stream else {
                    let closed = Input::Closed(Some(ErrorKind::NotConnected));
                    machine.handle_input(clock.now(), closed);
                    continue;
                };
                if feed(machine, stream, clock.now()) {
                    // A peer that sends as fast as we read has no thread to itself.
                    future::yield_now().await;
                    continue;
                }
                if wire.capacity() > WIRE_KEPT {
                    wire = Vec::new();
                }
                let awaited = interrupt.map_or(Stop::Abort, |_| Stop::Drain);
                match wait(machine, stream, until, clock, stop.given(awaited)).await {
                    Ended::Fed => {}
                    Ended::Timeout => machine.handle_input(clock.now(), Input::Timeout),
                    Ended::Stop => match interrupt.take() {
                        Some(interrupt) if !stop.is_given(Stop::Abort) => {
                            interrupt(machine, clock.now());
                        }
                        Some(_) | None => return,
                    },
                }
            }
            Output::Close => return,
        }
    }
}

/// What ended a wait for bytes.
enum Ended {
    Fed,
    Timeout,
    Stop,
}

/// Waits for the first of: bytes, with which it feeds the machine; the deadline; the signal.
async fn wait<M: Machine, S>(
    machine: &mut M,
    stream: &Async<S>,
    until: Instant,
    clock: Clock,
    stopped: impl Future<Output = ()>,
) -> Ended
where
    for<'a> &'a S: Read,
{
    let mut timer = pin!(Timer::at(clock.std_instant(until)));
    let mut stopped = pin!(stopped);
    poll_fn(|context| {
        while stream.poll_readable(context).is_ready() {
            if feed(machine, stream, clock.now()) {
                return Poll::Ready(Ended::Fed);
            }
        }
        if stopped.as_mut().poll(context).is_ready() {
            return Poll::Ready(Ended::Stop);
        }
        timer.as_mut().poll(context).map(|_| Ended::Timeout)
    })
    .await
}

/// Reads once into the thread's buffer and hands it in; false if there is nothing to read yet.
fn feed<M: Machine, S>(machine: &mut M, stream: &Async<S>, now: Now) -> bool
where
    for<'a> &'a S: Read,
{
    SCRATCH.with_borrow_mut(|scratch| {
        loop {
            match stream.get_ref().read(scratch) {
                Ok(0) => machine.handle_input(now, Input::Closed(None)),
                Ok(len) => machine.handle_input(now, Input::Bytes(&scratch[..len])),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) => machine.handle_input(now, Input::Closed(Some(error.kind()))),
            }
            return true;
        }
    })
}

async fn flush<S>(
    stream: Option<&Async<S>>,
    wire: &mut Vec<u8>,
    clock: Clock,
    stop: &StopSignal,
) -> Result<(), ErrorKind>
where
    for<'a> &'a S: Write,
{
    if wire.is_empty() {
        return Ok(());
    }
    let result = match stream {
        Some(stream) => write_all(stream, wire, clock, stop).await,
        None => Err(ErrorKind::NotConnected.into()),
    };
    wire.clear();
    result.map_err(|error| error.kind())
}

async fn write_all<S>(
    stream: &Async<S>,
    mut bytes: &[u8],
    clock: Clock,
    stop: &StopSignal,
) -> io::Result<()>
where
    for<'a> &'a S: Write,
{
    let until = clock.now().instant + WRITE_MAX;
    while !bytes.is_empty() {
        match stream.get_ref().write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(len) => bytes = &bytes[len..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let writable = within(clock, until, stream.writable());
                stop.or_abort(writable).await?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The result of `work`, or `TimedOut`.
pub(crate) async fn within<T>(
    clock: Clock,
    until: Instant,
    work: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    future::or(work, async {
        Timer::at(clock.std_instant(until)).await;
        Err(ErrorKind::TimedOut.into())
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use relay_core::machine::Timer as Which;
    use smol::Executor;

    use super::*;

    /// Reads to the end, and counts.
    struct Count(Arc<AtomicUsize>, bool);

    impl Machine for Count {
        type Request = ();
        type Answer = ();

        fn handle_input(&mut self, _: Now, input: Input<'_, ()>) {
            match input {
                Input::Bytes(bytes) => {
                    self.0.fetch_add(bytes.len(), Ordering::Relaxed);
                }
                Input::Answer(()) | Input::Timeout | Input::Closed(_) | Input::WriteFailed(_) => {
                    self.1 = true;
                }
            }
        }

        fn poll_output(&mut self, _: &mut Vec<u8>) -> Output<()> {
            if self.1 {
                return Output::Close;
            }
            Output::Read {
                until: Instant::from_origin(Duration::MAX),
                why: Which::Command,
            }
        }
    }

    struct Nothing;

    impl CarryOut<Count, UnixStream> for Nothing {
        async fn carry_out(&mut self, (): (), _: &mut Option<Async<UnixStream>>) {}
    }

    #[test]
    fn a_peer_that_always_has_octets_leaves_the_thread_to_others() {
        let (ours, mut peer) = UnixStream::pair().unwrap();
        let sent = SCRATCH_LEN + SCRATCH_LEN / 2;
        peer.write_all(&vec![b'x'; sent]).unwrap();
        drop(peer);
        let seen = Arc::new(AtomicUsize::new(0));
        let executor = Executor::new();
        let mut machine = Count(Arc::clone(&seen), false);
        let driven = executor.spawn(async move {
            let (clock, stop) = (Clock::new(), StopSignal::default());
            let ours = Some(Async::new(ours).unwrap());
            drive(&mut machine, ours, clock, &stop, None, &mut Nothing).await;
        });
        let seen_by_other = Arc::clone(&seen);
        let other = executor.spawn(async move { seen_by_other.load(Ordering::Relaxed) });
        let before = smol::block_on(executor.run(async {
            driven.await;
            other.await
        }));
        assert_eq!(seen.load(Ordering::Relaxed), sent);
        assert!(before < sent, "the other task ran only after {before}");
    }
}
