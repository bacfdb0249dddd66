//! Connections that are held for the next message, and what lets them go.

use std::sync::Arc;
use std::time::Duration;

use super::world::{World, config, deferred_at, delivered};
use crate::bounce::return_path::Keyring;
use crate::config::{Config, SigningDomain};
use crate::engine::Input;
use crate::id::DeliveryId;
use crate::rng::Rng;

const SECOND: Duration = Duration::from_secs(1);

/// A world whose receivers let connections be held, and one such connection to `one.example`.
fn holding(config: crate::config::Config) -> (World, DeliveryId) {
    let mut world = World::new(config);
    world.patient = true;
    world.submit(&["a@one.example"]);
    let delivery = world.only();
    world.finish(delivery, &delivered());
    assert!(is_held(&world, delivery));
    (world, delivery)
}

fn is_held(world: &World, delivery: DeliveryId) -> bool {
    let open = &world.open[&delivery];
    open.job.is_none() && !open.quit
}

fn has_quit(world: &World, delivery: DeliveryId) -> bool {
    world.open[&delivery].quit
}

#[test]
fn the_next_message_goes_over_the_connection_that_is_held() {
    let (mut world, delivery) = holding(config());
    for _ in 0..5 {
        world.pass(SECOND);
        world.submit(&["b@one.example"]);
        assert_eq!(world.running(), [delivery]);
        world.finish(delivery, &delivered());
    }
    assert_eq!(world.open.len(), 1, "one connection for six messages");
}

#[test]
fn it_is_held_for_two_seconds() {
    let (mut world, delivery) = holding(config());
    world.pass(Duration::from_millis(1900));
    assert!(is_held(&world, delivery));
    world.pass(Duration::from_millis(300));
    assert!(has_quit(&world, delivery));
    world.end_idle();
    assert!(world.engine.is_idle());
}

#[test]
fn mail_for_others_does_not_use_it() {
    let (mut world, delivery) = holding(config());
    world.submit(&["b@two.example"]);
    assert_ne!(world.only(), delivery);
}

#[test]
fn it_does_not_pass_the_number_of_messages_a_connection() {
    let mut config = config();
    config.delivery.messages_per_connection = 2;
    let (mut world, delivery) = holding(config);
    world.submit(&["b@one.example"]);
    world.finish(delivery, &delivered());
    assert!(!world.open.contains_key(&delivery));
}

#[test]
fn it_makes_room_for_others_where_connections_are_few() {
    let mut config = config();
    config.delivery.connections = 1;
    let (mut world, delivery) = holding(config);
    world.submit(&["b@two.example"]);
    assert!(has_quit(&world, delivery));
    world.end_idle();
    assert_eq!(world.open[&world.only()].lane.name, "two.example");
}

#[test]
fn shutdown_and_a_new_configuration_let_it_go() {
    let (mut world, delivery) = holding(config());
    world.input(Input::ShutDown);
    assert!(has_quit(&world, delivery));

    // A delivery keeps the configuration that it began with: its port, its return paths.
    let port: fn(&mut Config) = |config| config.delivery.port = 2525;
    let path: fn(&mut Config) = |config| {
        let domain = SigningDomain::new("example.com".parse().unwrap());
        config.domains.push(Arc::new(domain));
    };
    let keys: fn(&mut Config) = |config| {
        let keys = Keyring::generate(&mut Rng::from_number(1));
        config.return_path_keys = Some(Arc::new(keys));
    };
    for change in [port, path, keys] {
        let (mut world, delivery) = holding(config());
        let mut config = config();
        change(&mut config);
        world.input(Input::Reload(Arc::new(config)));
        assert!(has_quit(&world, delivery));
    }
}

#[test]
fn hosts_in_trouble_are_not_held_on_to() {
    let (mut world, first) = holding(config());
    world.submit_many(3, "b@one.example");
    let second = world.running()[1];
    world.finish(first, &delivered());
    world.finish(first, &delivered());
    assert!(is_held(&world, first));
    world.finish(
        second,
        &deferred_at("mail", Some(421), "too many connections"),
    );
    assert!(
        !world.open.contains_key(&first),
        "it was told to quit, and did"
    );
}

#[test]
fn one_that_ends_by_itself_is_forgotten() {
    let (mut world, delivery) = holding(config());
    world.end(delivery);
    world.submit(&["b@one.example"]);
    assert_ne!(world.only(), delivery);
    world.finish_all(&delivered());
    world.pass(10 * SECOND);
    world.end_idle();
    assert!(world.engine.is_idle());
}
