use super::*;
use crate::config::{Listener, ListenerTls, TlsLevel};
use crate::outbound::tests::{config, lane};

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn host(name: &str) -> HostPort {
    HostPort {
        host: name.into(),
        port: 25,
    }
}

/// Walks the plan, giving every host the same addresses; says what was resolved and connected to.
fn walk(lane: &Lane, addresses: impl Fn(&str) -> Vec<IpAddr>) -> (Vec<String>, Vec<IpAddr>, bool) {
    let mut plan = Plan::new(lane, &mut Rng::from_number(1));
    let (mut resolved, mut connected) = (Vec::new(), Vec::new());
    loop {
        match plan.next() {
            Step::Resolve(host) => {
                plan.resolved(&host, &addresses(&host.host), None, lane, &config());
                resolved.push(host.host);
            }
            Step::Connect(candidate) => connected.push(candidate.address.ip()),
            Step::Exhausted => return (resolved, connected, plan.is_complete()),
        }
    }
}

#[test]
fn hosts_go_by_preference_and_equal_ones_are_shuffled() {
    let mut lane = lane(&["a:10", "b:20", "c:20", "d:20", "e:5"]);
    let orders: std::collections::BTreeSet<Vec<String>> = (0..50)
        .map(|seed| {
            let plan = Plan::new(&lane, &mut Rng::from_number(seed));
            plan.hosts.into_iter().map(|host| host.host).collect()
        })
        .collect();
    assert_eq!(orders.len(), 6, "{orders:?}");
    assert!(orders.iter().all(|order| order[..2] == ["e", "a"]));
    lane.route = true;
    let plan = Plan::new(&lane, &mut Rng::from_number(1));
    let hosts: Vec<_> = plan.hosts.iter().map(|host| host.host.as_str()).collect();
    assert_eq!(
        hosts,
        ["a", "b", "c", "d", "e"],
        "a route's hosts are tried in order"
    );
}

#[test]
fn families_take_turns() {
    let mixed = interleaved(&ips(&[
        "2001:db8::1",
        "2001:db8::2",
        "192.0.2.1",
        "2001:db8::3",
    ]));
    assert_eq!(
        mixed,
        ips(&["2001:db8::1", "192.0.2.1", "2001:db8::2", "2001:db8::3"])
    );
    let mixed = interleaved(&ips(&["192.0.2.1", "192.0.2.2", "2001:db8::1"]));
    assert_eq!(mixed, ips(&["192.0.2.1", "2001:db8::1", "192.0.2.2"]));
    assert_eq!(interleaved(&[]), ips(&[]));
}

/// DNS-06.
#[test]
fn many_hosts_and_many_addresses_are_cut() {
    let names: Vec<String> = (0..1000).map(|n| format!("mx{n}:10")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let lane = lane(&names);
    let many: Vec<IpAddr> = (1..=500u32)
        .map(|n| IpAddr::V4(Ipv4Addr::from_bits(0x5db8_0000 + n)))
        .collect();
    let (resolved, connected, complete) = walk(&lane, |_| many.clone());
    assert_eq!(
        (resolved.len(), connected.len(), complete),
        (1, ADDRESSES_MAX, false)
    );
    let (resolved, connected, complete) = walk(&lane, |_| many[..1].to_vec());
    assert_eq!(
        (resolved.len(), connected.len(), complete),
        (HOSTS_MAX, HOSTS_MAX, false)
    );
}

#[test]
fn a_small_lane_is_walked_whole() {
    let lane = lane(&["a:10", "b:20"]);
    let (resolved, connected, complete) = walk(&lane, |name| match name {
        "a" => ips(&["93.184.216.1", "2606:2800::1"]),
        _ => ips(&["93.184.216.2"]),
    });
    assert_eq!(resolved, ["a", "b"]);
    assert_eq!(
        connected,
        ips(&["93.184.216.1", "2606:2800::1", "93.184.216.2"])
    );
    assert!(complete);
}

/// DNS-08.
#[test]
fn addresses_that_an_mx_must_not_have() {
    let config = config();
    let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 25);
    for ip in [
        "127.0.0.1",
        "127.255.255.254",
        "::1",
        "0.0.0.0",
        "::",
        "::ffff:127.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::1",
        "10.1.2.3",
        "::ffff:10.1.2.3",
        "169.254.169.254",
        "fe80::1",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
    ] {
        let why = forbidden(at(ip), false, &config);
        assert!(
            matches!(why, Some(Forbidden::Prohibited(_))),
            "{ip}: {why:?}"
        );
        assert_eq!(forbidden(at(ip), true, &config), None, "{ip}: a route may");
    }
    for ip in [
        "93.184.216.34",
        "2606:2800::1",
        "::ffff:93.184.216.34",
        "64:ff9b::5db8:d822",
    ] {
        assert_eq!(forbidden(at(ip), false, &config), None, "{ip}");
    }
}

/// LOOP-02, for what the engine cannot see by name.
#[test]
fn our_own_listeners_are_never_a_destination() {
    let mut config = config();
    let listener = |address: &str| Listener::new(address.parse().unwrap(), ListenerTls::StartTls);
    config.listeners = vec![listener("93.184.216.34:25"), listener("[::]:587")];
    let own: SocketAddr = "93.184.216.34:25".parse().unwrap();
    let mapped: SocketAddr = "[::ffff:93.184.216.34]:25".parse().unwrap();
    for route in [false, true] {
        assert_eq!(forbidden(own, route, &config), Some(Forbidden::Own(own)));
        assert_eq!(
            forbidden(mapped, route, &config),
            Some(Forbidden::Own(mapped))
        );
    }
    let other_port: SocketAddr = "93.184.216.34:26".parse().unwrap();
    assert_eq!(forbidden(other_port, true, &config), None);
    // A listener on all addresses is seen once the connection shows which ones are ours.
    let at = |text: &str| text.parse::<SocketAddr>().unwrap();
    assert!(is_own(
        at("93.184.216.34:40000"),
        at("93.184.216.34:587"),
        &config
    ));
    assert!(!is_own(
        at("93.184.216.34:40000"),
        at("93.184.216.34:25"),
        &config
    ));
    assert!(!is_own(
        at("93.184.216.34:40000"),
        at("93.184.216.35:587"),
        &config
    ));
}

#[test]
fn a_source_address_has_one_family() {
    let mut lane = lane(&["a:10"]);
    lane.source = Some("192.0.2.9".parse().unwrap());
    let (_, connected, _) = walk(&lane, |_| ips(&["2606:2800::1", "93.184.216.1"]));
    assert_eq!(connected, ips(&["93.184.216.1"]));
    let mut plan = Plan::new(&lane, &mut Rng::from_number(1));
    let refused = plan.resolved(&host("a"), &ips(&["2606:2800::1"]), None, &lane, &config());
    assert!(matches!(refused[..], [(_, Forbidden::Family)]));
}

#[test]
fn a_candidate_that_is_tried_again_costs_nothing() {
    let lane = lane(&["a:10"]);
    assert_eq!(lane.tls, TlsLevel::Opportunistic);
    let mut plan = Plan::new(&lane, &mut Rng::from_number(1));
    plan.addresses_left = 1;
    plan.resolved(&host("a"), &ips(&["93.184.216.1"]), None, &lane, &config());
    let Step::Connect(candidate) = plan.next() else {
        panic!("no candidate")
    };
    plan.again(candidate.clone());
    assert_eq!(plan.next(), Step::Connect(candidate));
    assert_eq!(plan.next(), Step::Exhausted);
    assert!(!plan.is_complete());
}
