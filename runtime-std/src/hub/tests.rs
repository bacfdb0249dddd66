//! What the hub promises its runtime.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::{io, thread};

use relay_core::config::{Config, DomainPattern, HostPort, Route};
use relay_core::engine::{Ask, Start};
use relay_core::errand::Errand;
use relay_core::id::{DeliveryId, ErrandId, ResolveId};
use relay_core::inbound::direct::{Draft, Step};
use relay_core::inbound::{Answer, Request};
use relay_core::time::Instant;

use super::{DeliverySeat, Hub, Options, Spawn, lock};
use crate::load;

/// A runtime that has no thread left for deliveries; the first it holds until it is told.
#[derive(Default)]
struct Exhausted {
    held: Arc<Mutex<Vec<DeliverySeat>>>,
    refuses: Arc<AtomicBool>,
    refused: Arc<AtomicUsize>,
}

impl Spawn for Exhausted {
    fn delivery(&self, hub: &Arc<Hub>, id: DeliveryId, start: Box<Start>) {
        let (_, seat) = hub.open_delivery(id, *start);
        if self.refuses.load(Ordering::Acquire) {
            self.refused.fetch_add(1, Ordering::AcqRel);
            return;
        }
        lock(&self.held).push(seat);
    }

    fn resolve(&self, _: &Arc<Hub>, _: ResolveId, _: String) {}

    fn errand(&self, _: &Arc<Hub>, _: ErrandId, _: Errand) {}

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        work();
        Ok(())
    }

    fn connection_memory(&self) -> u64 {
        1024
    }

    fn timer(&self, _: Option<Instant>) {}
}

/// A queue of many jobs is no deep stack, however many of them cannot be started.
#[test]
fn what_cannot_be_started_comes_back_in_its_turn() {
    let dir = std::env::temp_dir().join(format!("relay-hub-{}", std::process::id()));
    let mut config = Config::new("relay.example.com".parse().unwrap(), &dir);
    let host = HostPort {
        host: "192.0.2.1".into(),
        port: 25,
    };
    config
        .routes
        .push(Route::new(DomainPattern::Any, vec![host]));
    let spawn = Exhausted::default();
    let (held, refuses) = (Arc::clone(&spawn.held), Arc::clone(&spawn.refuses));
    let refused = Arc::clone(&spawn.refused);
    let loaded = load::from_config(config).unwrap();
    let hub = Hub::open(loaded, Options::default(), Box::new(spawn)).unwrap();
    for _ in 0..1500 {
        submit(&hub);
    }
    refuses.store(true, Ordering::Release);
    let seats = std::mem::take(&mut *lock(&held));
    assert!(!seats.is_empty(), "some deliveries began");
    let end = thread::Builder::new()
        .stack_size(128 * 1024)
        .spawn(move || drop(seats));
    end.unwrap().join().unwrap();
    assert!(lock(&held).is_empty());
    assert!(
        refused.load(Ordering::Acquire) > 1000,
        "each was to be started"
    );
    drop(hub);
    std::fs::remove_dir_all(dir).unwrap();
}

fn submit(hub: &Arc<Hub>) {
    let message = b"From: a@example.com\r\n\r\nhello\r\n".to_vec();
    let (from, to) = (
        "a@example.com".parse().unwrap(),
        ["b@example.net".parse().unwrap()],
    );
    let (mut handover, seat) = hub.open_handover(Draft::new(from, to, message));
    loop {
        match handover.poll() {
            Step::Request(Request::Engine(Ask::Bye)) => {
                handover.answer(hub.clock().now(), Answer::Done);
            }
            Step::Request(Request::Engine(ask)) => {
                let answer = seat.ask(ask).wait();
                handover.answer(hub.clock().now(), Answer::Engine(answer));
            }
            Step::Request(other) => panic!("{other:?}"),
            Step::Done(result) => {
                result.unwrap();
                return;
            }
        }
    }
}
