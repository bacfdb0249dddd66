//! The loop that drives any [`Machine`] on a blocking thread, and the waiting under it.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use relay_core::machine::{Input, Machine, Output, WRITE_MAX};
use relay_core::time::{Instant, Now};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::clock::Clock;

/// One read takes at most this much.
const SCRATCH_LEN: usize = 16 * 1024;

/// A connection that waits longer than this gives its read buffer back until bytes come.
const SCRATCH_KEPT: Duration = Duration::from_millis(500);

/// A connection holds on to a write buffer of at most this size while it waits.
const WIRE_KEPT: usize = 16 * 1024;

/// Says "stop" to every thread that waits, in two steps. Each is given by closing the writing end of a
/// pipe: the reading end is ready from then on, for all.
#[derive(Debug)]
pub struct StopSignal {
    drain: Signal,
    abort: Signal,
}

#[derive(Debug)]
struct Signal {
    read: OwnedFd,
    write: Mutex<Option<OwnedFd>>,
}

impl Signal {
    fn new() -> io::Result<Self> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        Ok(Self {
            read,
            write: Mutex::new(Some(write)),
        })
    }

    fn give(&self) {
        self.write
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}

impl StopSignal {
    /// A signal that was not given yet.
    ///
    /// # Errors
    /// Those of `pipe(2)`.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            drain: Signal::new()?,
            abort: Signal::new()?,
        })
    }

    /// Asks for an end: nothing is accepted, and each connection ends when it may.
    pub fn drain(&self) {
        self.drain.give();
    }

    /// Ends every wait and every connection, at once.
    pub fn abort(&self) {
        self.drain.give();
        self.abort.give();
    }

    /// Ready from [`Self::drain`] on.
    #[must_use]
    pub fn draining(&self) -> BorrowedFd<'_> {
        self.drain.read.as_fd()
    }

    /// Ready from [`Self::abort`] on.
    #[must_use]
    pub fn aborting(&self) -> BorrowedFd<'_> {
        self.abort.read.as_fd()
    }
}

/// A connected socket, without blocking mode.
pub trait Stream: Read + Write + AsFd {}

impl<S: Read + Write + AsFd> Stream for S {}

/// Drives `machine` over `stream` until it closes, or until `stop` aborts.
///
/// `carry_out` does what a request names; a delivery's machine connects through it. `interrupt` tells the
/// machine, once, that `stop` drains; without it the machine goes on.
pub fn drive<M: Machine, S: Stream>(
    machine: &mut M,
    mut stream: Option<S>,
    clock: Clock,
    stop: &StopSignal,
    mut interrupt: Option<fn(&mut M, Now)>,
    mut carry_out: impl FnMut(M::Request, &mut Option<S>) -> M::Answer,
) {
    let mut wire = Vec::new();
    let mut scratch = Vec::new();
    loop {
        let output = machine.poll_output(&mut wire);
        if let Err(kind) = flush(stream.as_mut(), &mut wire, clock, stop) {
            if matches!(output, Output::Close) {
                return;
            }
            machine.handle_input(clock.now(), Input::WriteFailed(kind));
            continue;
        }
        match output {
            Output::Request(request) => {
                let answer = carry_out(request, &mut stream);
                machine.handle_input(clock.now(), Input::Answer(answer));
            }
            Output::Read { until, why: _ } => {
                if wire.capacity() > WIRE_KEPT {
                    wire = Vec::new();
                }
                let drain = interrupt.map(|_| stop.draining());
                match read(stream.as_mut(), &mut scratch, clock, until, drain, stop) {
                    Event::Bytes(len) => {
                        machine.handle_input(clock.now(), Input::Bytes(&scratch[..len]));
                    }
                    Event::Closed(why) => machine.handle_input(clock.now(), Input::Closed(why)),
                    Event::Timeout => machine.handle_input(clock.now(), Input::Timeout),
                    Event::Drain => {
                        if let Some(interrupt) = interrupt.take() {
                            interrupt(machine, clock.now());
                        }
                    }
                    Event::Abort => return,
                }
            }
            Output::Close => return,
        }
    }
}

/// What ended a wait for bytes.
enum Event {
    Bytes(usize),
    Closed(Option<ErrorKind>),
    Timeout,
    Drain,
    Abort,
}

fn read<S: Stream>(
    stream: Option<&mut S>,
    scratch: &mut Vec<u8>,
    clock: Clock,
    until: Instant,
    drain: Option<BorrowedFd<'_>>,
    stop: &StopSignal,
) -> Event {
    let Some(stream) = stream else {
        return Event::Closed(Some(ErrorKind::NotConnected));
    };
    let mut patience = SCRATCH_KEPT;
    loop {
        if scratch.is_empty() {
            *scratch = vec![0; SCRATCH_LEN];
        }
        match stream.read(scratch) {
            Ok(0) => return Event::Closed(None),
            Ok(len) => return Event::Bytes(len),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Event::Closed(Some(error.kind())),
        }
        let left = clock.until(until);
        match wait(
            stream.as_fd(),
            PollFlags::IN,
            left.min(patience),
            drain,
            stop,
        ) {
            Ok(Ready::Stream) => {}
            Ok(Ready::Neither) if left > patience => {
                *scratch = Vec::new();
                patience = Duration::MAX;
            }
            Ok(Ready::Neither) => return Event::Timeout,
            Ok(Ready::Drain) => return Event::Drain,
            Ok(Ready::Abort) => return Event::Abort,
            Err(error) => return Event::Closed(Some(error.kind())),
        }
    }
}

fn flush<S: Stream>(
    stream: Option<&mut S>,
    wire: &mut Vec<u8>,
    clock: Clock,
    stop: &StopSignal,
) -> Result<(), ErrorKind> {
    if wire.is_empty() {
        return Ok(());
    }
    let stream = stream.ok_or(ErrorKind::NotConnected);
    let result = stream.and_then(|stream| write_all(stream, wire, clock, stop));
    wire.clear();
    result
}

fn write_all<S: Stream>(
    stream: &mut S,
    mut bytes: &[u8],
    clock: Clock,
    stop: &StopSignal,
) -> Result<(), ErrorKind> {
    let until = clock.now().instant + WRITE_MAX;
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero),
            Ok(len) => bytes = &bytes[len..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let left = clock.until(until);
                wait_for(stream.as_fd(), PollFlags::OUT, left, stop)
                    .map_err(|error| error.kind())?;
            }
            Err(error) => return Err(error.kind()),
        }
    }
    Ok(())
}

/// Waits until a socket is ready; an error if the time runs out or `stop` aborts.
pub(crate) fn wait_for(
    socket: BorrowedFd<'_>,
    flags: PollFlags,
    within: Duration,
    stop: &StopSignal,
) -> io::Result<()> {
    match wait(socket, flags, within, None, stop)? {
        Ready::Stream => Ok(()),
        Ready::Neither => Err(ErrorKind::TimedOut.into()),
        Ready::Drain | Ready::Abort => Err(ErrorKind::ConnectionAborted.into()),
    }
}

/// What became ready first.
enum Ready {
    Stream,
    Drain,
    Abort,
    Neither,
}

fn wait(
    stream: BorrowedFd<'_>,
    flags: PollFlags,
    timeout: Duration,
    drain: Option<BorrowedFd<'_>>,
    stop: &StopSignal,
) -> io::Result<Ready> {
    let started = std::time::Instant::now();
    loop {
        let left = timeout.saturating_sub(started.elapsed());
        // A time that the system cannot hold is for ever.
        let timespec = Timespec::try_from(left).ok();
        let mut fds = [
            PollFd::from_borrowed_fd(stream, flags),
            PollFd::from_borrowed_fd(stop.aborting(), PollFlags::IN),
            PollFd::from_borrowed_fd(drain.unwrap_or(stream), PollFlags::IN),
        ];
        let polled = if drain.is_some() { 3 } else { 2 };
        match poll(&mut fds[..polled], timespec.as_ref()) {
            Ok(0) => return Ok(Ready::Neither),
            Ok(_) if !fds[1].revents().is_empty() => return Ok(Ready::Abort),
            Ok(_) if !fds[0].revents().is_empty() => return Ok(Ready::Stream),
            Ok(_) => return Ok(Ready::Drain),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
