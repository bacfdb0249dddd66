//! What goes wrong in a world by itself, and its end.

use std::sync::Arc;
use std::time::Duration;

use relay_core::config::Config;
use relay_core::engine::Input as ToEngine;

use super::agenda::Dice;
use super::client::Client;
use super::names::host_ip;
use super::profile::DiskWeather;
use super::world::{Event, MINUTE, World};

impl World {
    /// Notices that the machine stopped, or that the relay did what must not be done.
    pub(crate) fn look_at_disk(&mut self) {
        self.book.faults(self.disk.faults());
        if let Some(wrong) = self.disk.wrong() {
            self.book.blame(wrong);
        }
        if self.down {
            return;
        }
        if self.disk.has_stopped() {
            let power_cut = self.power_cut;
            let how = if power_cut {
                "the power fails"
            } else {
                "the process is killed"
            };
            self.tell(format_args!("{how}"));
            self.promises.kills.push(self.agenda.now());
            self.die(power_cut);
            self.come_back(power_cut);
        } else if self.relay.is_none() {
            self.come_back(false);
        }
    }

    /// The machine runs again, and the relay will soon.
    pub(crate) fn come_back(&mut self, power_cut: bool) {
        self.disk.reboot(power_cut);
        let flip = self.rng.chance(500) && self.book.figures.crashes <= self.profile.flips;
        if flip
            && !self.calm
            && let Some(what) = self.disk.flip()
        {
            self.book.flipped();
            self.tell(format_args!("a bit turns in {what}"));
        }
        let down = self.rng.time(Duration::from_millis(50), 20 * MINUTE);
        self.down = true;
        self.book.was_down(down);
        self.agenda.after(down, Event::Boot);
    }

    pub(crate) fn crash(&mut self, power_cut: bool, after_calls: u64) {
        if self.calm || self.relay.is_none() {
            return;
        }
        self.power_cut = power_cut;
        match after_calls {
            0 => self.disk.stop(),
            calls => {
                let calls = 1 + self.rng.below(calls);
                self.disk.stop_in(calls);
            }
        }
    }

    pub(crate) fn partition(&mut self) {
        let host = self.rng.below(self.hosts.len() as u64) as usize;
        let until = self.agenda.now() + self.rng.time(Duration::from_secs(1), 30 * MINUTE);
        if !self.calm {
            self.tell(format_args!("mx{host} cannot be reached for a while"));
            self.net.part(host_ip(host), until.min(self.calm_at));
        }
    }

    /// Two domains change their hosts.
    pub(crate) fn change_zone(&mut self) {
        if !self.calm {
            self.tell(format_args!("two domains change their hosts"));
            self.names.swap_domains(&mut self.rng);
            self.zone_changed = Some(self.agenda.now());
        }
    }

    /// The configuration is loaded anew, with another limit in it: lanes are made anew too.
    pub(crate) fn reload(&mut self) {
        let most = self.profile.connection_messages;
        let Some(relay) = &mut self.relay else {
            return;
        };
        let mut config = Config::clone(&relay.config);
        let delivery = &mut config.delivery;
        delivery.messages_per_connection = match delivery.messages_per_connection {
            now if now == most => most.div_ceil(2),
            _ => most,
        };
        let config = Arc::new(config);
        relay.config = Arc::clone(&config);
        self.reloaded = Some(self.agenda.now());
        self.tell(format_args!("the configuration is loaded anew"));
        self.engine_in(ToEngine::Reload(config));
    }

    pub(crate) fn jump(&mut self) {
        let years = 365 * 24 * 3_600_000;
        let jump = self.rng.pick(&[
            -600_000,
            600_000,
            86_400_000,
            -86_400_000,
            years,
            -10 * years,
        ]);
        if !self.calm {
            self.tell(format_args!("the wall clock jumps by {jump} ms"));
            self.wall_offset += jump;
        }
    }

    /// All trouble ends.
    pub(crate) fn begin_calm(&mut self) {
        self.tell(format_args!("all is well from now on"));
        self.calm = true;
        self.weather = DiskWeather::default();
        self.disk.set_weather(self.weather);
        self.disk.go_on();
        self.net.calm();
        self.calm_hosts();
        self.calm_sites();
        self.name_weather();
        let index = self.clients.len();
        let probe = Client::probe(index as u64, &self.profile, self.rng.fork());
        self.clients.push(probe);
        // The machine may be down still, for as long as it may be down.
        self.agenda.after(25 * MINUTE, Event::ClientGoes(index));
    }
}
