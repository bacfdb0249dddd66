//! The loop that drives any [`Machine`] as a task.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{ErrorKind, Read, Write};
use std::pin::pin;
use std::task::Poll;

use async_io::{Async, Timer};
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

/// A signal to stop: closed for good, and every receiver sees it.
pub type Stop = async_channel::Receiver<std::convert::Infallible>;

/// Does what a machine's requests name.
pub trait CarryOut<M: Machine, S> {
    /// Carries out one request. A delivery's machine connects through it, by replacing `stream`.
    fn carry_out(
        &mut self,
        request: M::Request,
        stream: &mut Option<Async<S>>,
    ) -> impl Future<Output = M::Answer> + Send;
}

/// Drives `machine` over `stream` until it closes. When `stop` is given and closes, `interrupt` is
/// called once.
pub async fn drive<M: Machine, S>(
    machine: &mut M,
    mut stream: Option<Async<S>>,
    clock: Clock,
    mut stop: Option<&Stop>,
    interrupt: impl Fn(&mut M, Now),
    requests: &mut impl CarryOut<M, S>,
) where
    for<'a> &'a S: Read + Write,
{
    let mut wire = Vec::new();
    loop {
        let output = machine.poll_output(&mut wire);
        if let Err(kind) = flush(stream.as_ref(), &mut wire, clock).await {
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
                    continue;
                }
                if wire.capacity() > WIRE_KEPT {
                    wire = Vec::new();
                }
                match wait(machine, stream, until, clock, stop).await {
                    Event::Fed => {}
                    Event::Timeout => machine.handle_input(clock.now(), Input::Timeout),
                    Event::Stop => {
                        stop = None;
                        interrupt(machine, clock.now());
                    }
                }
            }
            Output::Close => return,
        }
    }
}

/// What ended a wait for bytes.
enum Event {
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
    stop: Option<&Stop>,
) -> Event
where
    for<'a> &'a S: Read,
{
    let mut timer = pin!(Timer::at(clock.std_instant(until)));
    let mut stopped = pin!(async {
        match stop {
            Some(stop) => drop(stop.recv().await),
            None => future::pending().await,
        }
    });
    poll_fn(|context| {
        while stream.poll_readable(context).is_ready() {
            if feed(machine, stream, clock.now()) {
                return Poll::Ready(Event::Fed);
            }
        }
        if stopped.as_mut().poll(context).is_ready() {
            return Poll::Ready(Event::Stop);
        }
        timer.as_mut().poll(context).map(|_| Event::Timeout)
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
) -> Result<(), ErrorKind>
where
    for<'a> &'a S: Write,
{
    if wire.is_empty() {
        return Ok(());
    }
    let result = match stream {
        Some(stream) => write_all(stream, wire, clock).await,
        None => Err(ErrorKind::NotConnected),
    };
    wire.clear();
    result
}

async fn write_all<S>(stream: &Async<S>, mut bytes: &[u8], clock: Clock) -> Result<(), ErrorKind>
where
    for<'a> &'a S: Write,
{
    let until = clock.now().instant + WRITE_MAX;
    while !bytes.is_empty() {
        match stream.get_ref().write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero),
            Ok(len) => bytes = &bytes[len..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let writable = async { stream.writable().await.map_err(|error| error.kind()) };
                let late = async {
                    Timer::at(clock.std_instant(until)).await;
                    Err(ErrorKind::TimedOut)
                };
                future::or(writable, late).await?;
            }
            Err(error) => return Err(error.kind()),
        }
    }
    Ok(())
}
