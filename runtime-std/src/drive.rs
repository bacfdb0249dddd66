//! The loop that drives any [`Machine`] on a blocking thread, and the waiting under it.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
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

/// A pipe whose readable end says "stop" to every thread that waits on a connection.
#[derive(Debug)]
pub struct StopSignal {
    read: OwnedFd,
    write: std::sync::Mutex<Option<OwnedFd>>,
}

impl StopSignal {
    /// A signal that was not given yet.
    ///
    /// # Errors
    /// Those of `pipe(2)`.
    pub fn new() -> io::Result<Self> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        Ok(Self {
            read,
            write: std::sync::Mutex::new(Some(write)),
        })
    }

    /// Gives the signal, for good: closing the writing end makes the reading end readable for all.
    pub fn stop(&self) {
        self.write
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
    }
}

impl AsFd for StopSignal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }
}

/// A connected socket, without blocking mode.
pub trait Stream: Read + Write + AsFd {}

impl<S: Read + Write + AsFd> Stream for S {}

/// Drives `machine` over `stream` until it closes.
///
/// `carry_out` does what a request names; a delivery's machine connects through it. When `stop` is
/// given, `interrupt` is called once.
pub fn drive<M: Machine, S: Stream>(
    machine: &mut M,
    mut stream: Option<S>,
    clock: Clock,
    mut stop: Option<&StopSignal>,
    interrupt: impl Fn(&mut M, Now),
    mut carry_out: impl FnMut(M::Request, &mut Option<S>) -> M::Answer,
) {
    let mut wire = Vec::new();
    let mut scratch = Vec::new();
    loop {
        let output = machine.poll_output(&mut wire);
        if let Err(kind) = flush(stream.as_mut(), &mut wire, clock) {
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
                match read(stream.as_mut(), &mut scratch, until, clock, stop) {
                    Event::Bytes(len) => {
                        machine.handle_input(clock.now(), Input::Bytes(&scratch[..len]));
                    }
                    Event::Closed(why) => machine.handle_input(clock.now(), Input::Closed(why)),
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
    Bytes(usize),
    Closed(Option<ErrorKind>),
    Timeout,
    Stop,
}

fn read<S: Stream>(
    stream: Option<&mut S>,
    scratch: &mut Vec<u8>,
    until: Instant,
    clock: Clock,
    stop: Option<&StopSignal>,
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
        let ready = wait(
            stream.as_fd(),
            PollFlags::IN,
            stop,
            clock.until(until).min(patience),
        );
        let ready = match ready {
            Ok(Ready::Neither) if !clock.until(until).is_zero() => {
                *scratch = Vec::new();
                patience = Duration::MAX;
                wait(stream.as_fd(), PollFlags::IN, stop, clock.until(until))
            }
            other => other,
        };
        match ready {
            Ok(Ready::Stream) => {}
            Ok(Ready::Stop) => return Event::Stop,
            Ok(Ready::Neither) => return Event::Timeout,
            Err(error) => return Event::Closed(Some(error.kind())),
        }
    }
}

fn flush<S: Stream>(
    stream: Option<&mut S>,
    wire: &mut Vec<u8>,
    clock: Clock,
) -> Result<(), ErrorKind> {
    if wire.is_empty() {
        return Ok(());
    }
    let stream = stream.ok_or(ErrorKind::NotConnected);
    let result = stream.and_then(|stream| write_all(stream, wire, clock));
    wire.clear();
    result
}

fn write_all<S: Stream>(stream: &mut S, mut bytes: &[u8], clock: Clock) -> Result<(), ErrorKind> {
    let until = clock.now().instant + WRITE_MAX;
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero),
            Ok(len) => bytes = &bytes[len..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                match wait(stream.as_fd(), PollFlags::OUT, None, clock.until(until)) {
                    Ok(Ready::Stream) => {}
                    Ok(Ready::Stop | Ready::Neither) => return Err(ErrorKind::TimedOut),
                    Err(error) => return Err(error.kind()),
                }
            }
            Err(error) => return Err(error.kind()),
        }
    }
    Ok(())
}

/// Which of the two became ready.
enum Ready {
    Stream,
    Stop,
    Neither,
}

fn wait(
    stream: BorrowedFd<'_>,
    flags: PollFlags,
    stop: Option<&StopSignal>,
    timeout: Duration,
) -> io::Result<Ready> {
    let started = std::time::Instant::now();
    loop {
        let left = timeout.saturating_sub(started.elapsed());
        let timespec = Timespec::try_from(left).ok();
        let stop_fd = stop.map_or(stream, AsFd::as_fd);
        let mut fds = [
            PollFd::from_borrowed_fd(stream, flags),
            PollFd::from_borrowed_fd(stop_fd, flags),
        ];
        let polled = if stop.is_some() {
            &mut fds[..]
        } else {
            &mut fds[..1]
        };
        match poll(polled, timespec.as_ref()) {
            Ok(0) => return Ok(Ready::Neither),
            Ok(_) if !fds[0].revents().is_empty() => return Ok(Ready::Stream),
            Ok(_) => return Ok(Ready::Stop),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
