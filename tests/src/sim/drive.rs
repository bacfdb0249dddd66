//! The drive loop of the third runtime: as in the other two, but that it returns where they wait.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use relay_core::engine::{Ask, Input as ToEngine};
use relay_core::id::{DeliveryId, SessionId};
use relay_core::inbound::{self, Session, Setup};
use relay_core::machine::{BURST_MAX, Input, Machine, Output, WRITE_MAX};
use relay_core::outbound::{self, Report};
use relay_core::time::{Instant, Now};

use super::agenda::Slot;
use super::certs::Papers;
use super::net::{ConnId, Found, Side};
use super::plant::Plant;
use super::relay::Inner;
use super::setup::Door;
use super::world::{Event, Owner, World};

/// A machine and what it waits for.
pub(crate) struct Task<M: Machine> {
    pub(crate) machine: M,
    pub(crate) conn: Option<ConnId>,
    pub(crate) side: Side,
    pub(crate) wire: Vec<u8>,
    pub(crate) waits: Waits<M::Request>,
    pub(crate) timer: Option<Slot>,
}

pub(crate) enum Waits<R> {
    /// To be polled.
    Poll,
    /// For an answer.
    Answer,
    /// For the peer to read; then this.
    Flush(Output<R>),
    /// For bytes until then.
    Read(Instant),
}

impl World {
    /// A client connects.
    pub(crate) fn accept(
        &mut self,
        peer: SocketAddr,
        ip: IpAddr,
        client: usize,
        door: Door,
    ) -> Option<ConnId> {
        let now = self.now();
        let tls = Arc::clone(&Papers::get()?.relay);
        let relay = self.relay.as_mut().filter(|relay| !relay.stopping)?;
        relay.next_session += 1;
        let id = SessionId(relay.next_session);
        let listener = door as usize;
        let local = relay.config.listeners.get(listener)?.address;
        let setup = Setup {
            id,
            peer,
            local,
            listener,
            config: Arc::clone(&relay.config),
            tls,
        };
        let session = Session::new(setup, now, relay.rng.fork());
        let conn = self.net.open(ip, now.instant);
        relay
            .sessions
            .insert(id, Task::new(session, Some(conn), Side::Acceptor));
        self.owners
            .insert((conn, Side::Opener), Owner::Client(client));
        self.owners
            .insert((conn, Side::Acceptor), Owner::Session(id));
        self.drive_session(id, None);
        Some(conn)
    }

    /// Whether the process is dead by now, though nobody noticed yet.
    pub(crate) fn is_dead(&self) -> bool {
        self.disk.has_stopped()
    }

    pub(crate) fn drive_session(
        &mut self,
        id: SessionId,
        input: Option<Input<'_, inbound::Answer>>,
    ) {
        let Some(mut task) = self
            .relay
            .as_mut()
            .and_then(|relay| relay.sessions.remove(&id))
        else {
            return;
        };
        if let Some(input) = input {
            task.take(self.now(), input);
        }
        let timer = Inner::SessionTime(id);
        let open = self.drive(&mut task, timer, |world, _, request| {
            world.session_request(id, request)
        });
        if open {
            if let Some(relay) = &mut self.relay {
                relay.sessions.insert(id, task);
            }
            return;
        }
        self.end_task(task);
        self.load.asks(id, &Ask::Bye);
        self.engine_in(ToEngine::Ask(id, Ask::Bye));
    }

    pub(crate) fn drive_delivery(
        &mut self,
        id: DeliveryId,
        input: Option<Input<'_, outbound::Answer>>,
    ) {
        let Some(mut task) = self
            .relay
            .as_mut()
            .and_then(|relay| relay.deliveries.remove(&id))
        else {
            return;
        };
        if let Some(input) = input {
            task.take(self.now(), input);
        }
        let timer = Inner::DeliveryTime(id);
        let open = self.drive(&mut task, timer, |world, task, request| {
            world.delivery_request(id, task, request)
        });
        if open {
            if let Some(relay) = &mut self.relay {
                relay.deliveries.insert(id, task);
            }
            return;
        }
        self.end_task(task);
        if let Some(relay) = &mut self.relay {
            relay.begun.remove(&id);
        }
        self.engine_in(ToEngine::Report(id, Report::Ended));
    }

    /// The connection is over, and the machine done.
    pub(crate) fn end_task<M: Machine>(&mut self, task: Task<M>) -> M {
        if let Some(slot) = task.timer {
            self.agenda.cancel(slot);
        }
        if let Some(conn) = task.conn {
            self.hang_up(conn, task.side);
        }
        task.machine
    }

    pub(crate) fn hang_up(&mut self, conn: ConnId, side: Side) {
        if !self.is_dead() {
            self.net.close(&mut self.agenda, conn, side);
        }
        self.owners.remove(&(conn, side));
    }

    /// The drive loop: as in the other runtimes, but that it returns where they wait. False at the end.
    pub(crate) fn drive<M: Machine>(
        &mut self,
        task: &mut Task<M>,
        timer: Inner,
        mut carry_out: impl FnMut(&mut Self, &mut Task<M>, M::Request) -> Option<M::Answer>,
    ) -> bool {
        if let Some(slot) = task.timer.take() {
            self.agenda.cancel(slot);
        }
        loop {
            if self.is_dead() {
                return true;
            }
            let output = match std::mem::replace(&mut task.waits, Waits::Poll) {
                Waits::Answer => {
                    task.waits = Waits::Answer;
                    return true;
                }
                Waits::Poll => {
                    let output = task.machine.poll_output(&mut task.wire);
                    match self.flush(task) {
                        Ok(true) => output,
                        Ok(false) => {
                            task.waits = Waits::Flush(output);
                            let until = self.agenda.now() + WRITE_MAX;
                            task.timer =
                                Some(self.agenda.at(until, Event::Relay(self.life, timer)));
                            return true;
                        }
                        Err(_) if matches!(output, Output::Close) => return false,
                        Err(kind) => {
                            task.machine
                                .handle_input(self.now(), Input::WriteFailed(kind));
                            continue;
                        }
                    }
                }
                Waits::Flush(output) => {
                    let conn = task.conn.map(|conn| {
                        (
                            self.net.broken(conn, task.side),
                            self.net.is_flushed(conn, task.side),
                        )
                    });
                    match conn {
                        Some((None, false)) => {
                            task.waits = Waits::Flush(output);
                            let until = self.agenda.now() + WRITE_MAX;
                            task.timer =
                                Some(self.agenda.at(until, Event::Relay(self.life, timer)));
                            return true;
                        }
                        Some((Some(_), _)) if matches!(output, Output::Close) => return false,
                        Some((Some(kind), _)) => {
                            task.machine
                                .handle_input(self.now(), Input::WriteFailed(kind));
                            continue;
                        }
                        Some((None, true)) | None => output,
                    }
                }
                Waits::Read(until) => Output::Read {
                    until,
                    why: relay_core::machine::Timer::Quit,
                },
            };
            match output {
                Output::Close => return false,
                Output::Request(request) => match carry_out(self, task, request) {
                    Some(answer) => task.machine.handle_input(self.now(), Input::Answer(answer)),
                    None => task.waits = Waits::Answer,
                },
                Output::Read { until, .. } => {
                    let now = self.now();
                    let found = match task.conn {
                        Some(conn) => self.net.read(&mut self.agenda, conn, task.side, 16 * 1024),
                        None => Found::Broken(ErrorKind::NotConnected),
                    };
                    match found {
                        Found::Bytes(bytes) => task.machine.handle_input(now, Input::Bytes(&bytes)),
                        Found::End => task.machine.handle_input(now, Input::Closed(None)),
                        Found::Broken(kind) => {
                            task.machine.handle_input(now, Input::Closed(Some(kind)));
                        }
                        Found::Nothing if now.instant >= until => {
                            task.machine.handle_input(now, Input::Timeout);
                        }
                        Found::Nothing => {
                            task.waits = Waits::Read(until);
                            task.timer =
                                Some(self.agenda.at(until, Event::Relay(self.life, timer)));
                            return true;
                        }
                    }
                }
            }
        }
    }

    pub(crate) fn flush<M: Machine>(&mut self, task: &mut Task<M>) -> Result<bool, ErrorKind> {
        if task.wire.is_empty() {
            return Ok(true);
        }
        if task.wire.len() > BURST_MAX + 4096 {
            self.book.blame(format!(
                "a machine wrote {} octets in one burst",
                task.wire.len()
            ));
        }
        let mut wire = std::mem::take(&mut task.wire);
        let replies = wire.iter().filter(|&&octet| octet == b'\n').count() > 1;
        if task.side == Side::Acceptor && replies && self.planted(Plant::ReplyLost) {
            let end = wire
                .iter()
                .position(|&octet| octet == b'\n')
                .map_or(0, |at| at + 1);
            if wire.get(3) == Some(&b' ') {
                wire.drain(..end);
            }
        }
        let conn = task.conn.ok_or(ErrorKind::NotConnected)?;
        let flushed = self
            .net
            .write(&mut self.agenda, conn, task.side, &wire, Duration::ZERO);
        wire.clear();
        task.wire = wire;
        flushed
    }

    pub(crate) fn time_is_up_for_session(&mut self, id: SessionId) {
        let task = self
            .relay
            .as_mut()
            .and_then(|relay| relay.sessions.get_mut(&id));
        let input = task.and_then(Task::time_is_up);
        if let Some(kind) = input {
            self.drive_session(id, Some(Input::WriteFailed(kind)));
        } else {
            self.drive_session(id, None);
        }
    }

    pub(crate) fn time_is_up_for_delivery(&mut self, id: DeliveryId) {
        let task = self
            .relay
            .as_mut()
            .and_then(|relay| relay.deliveries.get_mut(&id));
        let input = task.and_then(Task::time_is_up);
        if let Some(kind) = input {
            self.drive_delivery(id, Some(Input::WriteFailed(kind)));
        } else {
            self.drive_delivery(id, None);
        }
    }

    /// What each connection of the relay waits for, for people.
    pub(crate) fn waits(&self) -> String {
        let Some(relay) = &self.relay else {
            return String::new();
        };
        let sessions = relay
            .sessions
            .iter()
            .map(|(id, task)| format!("{id:?} {}", task.describe()));
        let deliveries = relay.deliveries.iter();
        let deliveries = deliveries.map(|(id, task)| format!("{id:?} {}", task.describe()));
        sessions.chain(deliveries).collect::<Vec<_>>().join("; ")
    }
}

impl<M: Machine> Task<M> {
    pub(crate) fn new(machine: M, conn: Option<ConnId>, side: Side) -> Self {
        Self {
            machine,
            conn,
            side,
            wire: Vec::new(),
            waits: Waits::Poll,
            timer: None,
        }
    }

    /// Hands in what it waited for.
    pub(crate) fn take(&mut self, now: Now, input: Input<'_, M::Answer>) {
        self.machine.handle_input(now, input);
        self.waits = Waits::Poll;
    }

    pub(crate) fn describe(&self) -> String {
        let waits = match self.waits {
            Waits::Poll => "to be polled",
            Waits::Answer => "for an answer",
            Waits::Flush(_) => "for the peer to read",
            Waits::Read(_) => "for bytes",
        };
        format!("{:?} waits {waits}", self.conn)
    }

    /// What a timer means: a write that failed, or just another look at what came.
    pub(crate) fn time_is_up(&mut self) -> Option<ErrorKind> {
        self.timer = None;
        match self.waits {
            Waits::Flush(_) => Some(ErrorKind::TimedOut),
            Waits::Poll | Waits::Answer | Waits::Read(_) => None,
        }
    }
}
