//! The runtime's part of errands, as `runtime_std::hub` and its `drive` have it: machines over HTTPS, and
//! small texts that outlive a restart.

use std::net::SocketAddr;
use std::sync::Arc;

use relay_core::engine::{Input as ToEngine, Keep};
use relay_core::errand::{Done, Errand, Runner};
use relay_core::https;
use relay_core::id::ErrandId;
use relay_core::machine::Input;
use relay_core::sts::Found;

use super::agenda::Dice as _;
use super::drive::Task;
use super::net::Side;
use super::plant::Plant;
use super::relay::Inner;
use super::sites::{SiteManner, site_at, site_ip};
use super::world::{Event, MINUTE, Owner, World};

impl World {
    pub(crate) fn begin_errand(&mut self, id: ErrandId, errand: Errand) {
        let text: String = format!("{errand:?}").chars().take(160).collect();
        self.tell(format_args!("{id:?}: {text}"));
        let Some(relay) = &mut self.relay else {
            return;
        };
        let runner = Runner::new(
            errand,
            Arc::clone(&relay.client_tls),
            Arc::clone(&relay.config),
        );
        let task = Task::new(runner, None, Side::Opener);
        relay.errands.insert(id, task);
        self.drive_errand(id, None);
    }

    pub(crate) fn drive_errand(&mut self, id: ErrandId, input: Option<Input<'_, https::Answer>>) {
        let Some(mut task) = self
            .relay
            .as_mut()
            .and_then(|relay| relay.errands.remove(&id))
        else {
            return;
        };
        if let Some(input) = input {
            task.take(self.now(), input);
        }
        let timer = Inner::ErrandTime(id);
        let open = self.drive(&mut task, timer, |world, task, request| {
            world.errand_request(id, task, request)
        });
        if open {
            if let Some(relay) = &mut self.relay {
                relay.errands.insert(id, task);
            }
            return;
        }
        let runner = self.end_task(task);
        self.errand_ends(id, runner.into_done());
    }

    /// What came of an errand goes to the engine, and to the book.
    fn errand_ends(&mut self, id: ErrandId, mut done: Done) {
        if let Done::Policy(Found::Policy(policy)) = &mut done {
            if self.planted(Plant::PolicyMisread) {
                policy.mx = vec!["*.test".to_owned()];
            }
            let policy = policy.clone();
            self.tell(format_args!("a policy is learnt: {policy:?}"));
            self.policy_learnt(policy, true);
        } else {
            let text: String = format!("{done:?}").chars().take(160).collect();
            self.tell(format_args!("{id:?} ends: {text}"));
        }
        self.engine_in(ToEngine::Errand(id, done));
    }

    fn errand_request(
        &mut self,
        id: ErrandId,
        task: &mut Task<Runner>,
        request: https::Request,
    ) -> Option<https::Answer> {
        match request {
            https::Request::Texts(name) => self.ask_texts(id, &name),
            https::Request::Resolve(host) => self.ask_site(id, &host),
            https::Request::Flush => return Some(https::Answer::Flushed),
            https::Request::Connect { to, until } => {
                if let Some(old) = task.conn.take() {
                    self.hang_up(old, task.side);
                }
                let now = self.agenda.now();
                let site = site_at(to.ip()).filter(|&site| site < self.sites.all.len());
                let up = site.is_some_and(|site| self.sites.all[site].manner != SiteManner::Down);
                let wait = self.net.latency() * 2;
                let (at, inner) = match up {
                    true => ((now + wait).min(until), Inner::ErrandConnected(id, to)),
                    false => {
                        let refused = Err(std::io::ErrorKind::ConnectionRefused);
                        let answer = https::Answer::Connected(refused);
                        (now + wait, Inner::Errand(id, answer))
                    }
                };
                self.agenda.at(at, Event::Relay(self.life, inner));
            }
        }
        None
    }

    /// The connection to a site is there.
    pub(crate) fn errand_connected(&mut self, id: ErrandId, to: SocketAddr) {
        let now = self.agenda.now();
        let Some(site) = site_at(to.ip()) else {
            return;
        };
        let conn = self.net.open(site_ip(site), now);
        let task = self.relay.as_mut().and_then(|r| r.errands.get_mut(&id));
        let Some(task) = task else {
            return;
        };
        task.conn = Some(conn);
        self.owners.insert((conn, Side::Opener), Owner::Errand(id));
        self.owners.insert((conn, Side::Acceptor), Owner::Site);
        self.visit(conn, site);
        self.drive_errand(id, Some(Input::Answer(https::Answer::Connected(Ok(())))));
    }

    pub(crate) fn time_is_up_for_errand(&mut self, id: ErrandId) {
        let task = self.relay.as_mut().and_then(|r| r.errands.get_mut(&id));
        let input = task.and_then(Task::time_is_up);
        self.drive_errand(id, input.map(Input::WriteFailed));
    }

    // ---- small texts ----

    /// A text is to be kept: it is on the disk a little later, the newest of its name.
    pub(crate) fn keep(&mut self, keep: Keep) {
        if keep.text.is_none()
            && keep.name.starts_with("tls-rpt-")
            && self.planted(Plant::CountKept)
        {
            return;
        }
        let length = keep.text.as_ref().map(String::len);
        self.tell(format_args!("to be kept: {} {length:?}", keep.name));
        let wait = self.rng.time(MINUTE / 60_000, MINUTE / 20);
        self.unkept.push((keep.name.clone(), keep.text));
        self.agenda
            .after(wait, Event::Relay(self.life, Inner::Kept));
    }

    /// The oldest text that waits is written.
    pub(crate) fn write_kept(&mut self) {
        if self.unkept.is_empty() {
            return;
        }
        match self.unkept.remove(0) {
            (name, Some(text)) => _ = self.kept.insert(name, text),
            (name, None) => _ = self.kept.remove(&name),
        }
    }

    /// What an earlier life kept goes to the engine, before anything else.
    pub(crate) fn give_kept(&mut self) {
        if self.planted(Plant::KeptForgotten) {
            return;
        }
        for (name, text) in self.kept.clone() {
            let text = Some(text);
            self.engine_in(ToEngine::Kept(Keep { name, text }));
        }
    }

    /// A process that ends in order writes what waits; one that dies does not.
    pub(crate) fn keep_all(&mut self) {
        while !self.unkept.is_empty() {
            self.write_kept();
        }
    }
}
