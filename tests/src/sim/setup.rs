//! The configuration that a profile makes.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use relay_core::config::{
    Config, Credential, DomainPattern, HostPort, IpFamilies, Listener, ListenerTls, Route, TlsMode,
    Verifier,
};

use super::names::{SMART_DOMAIN, host_name, server};
use super::plant::Plant;
use super::profile::Profile;

/// The user's name and password, of clients and of the relay itself.
pub(crate) const USER: &str = "app";
pub(crate) const PASSWORD: &str = "open sesame";

/// Which of the relay's listeners a client comes to: the index in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// In clear text, from a trusted network.
    Trusted = 0,
    StartTls = 1,
    Implicit = 2,
}

pub(crate) fn config(profile: &Profile) -> Config {
    let name = "relay.test".parse();
    let mut config = match name {
        Ok(name) => Config::new(name, "/data"),
        Err(error) => unreachable!("a name that is written here: {error:?}"),
    };
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    config.listeners = vec![
        Listener {
            trusted_networks: "127.0.0.0/8".parse().into_iter().collect(),
            trusted_as: Some("net".to_owned()),
            xclient_from: Vec::new(),
            client_certificates: None,
            ..Listener::new(at(2525), ListenerTls::None)
        },
        Listener::new(at(2587), ListenerTls::StartTls),
        Listener::new(at(2465), ListenerTls::Implicit),
    ];
    let app = Credential {
        verifier: Some(verifier().clone()),
        ..Credential::new(USER)
    };
    config.credentials = vec![Arc::new(Credential::new("net")), Arc::new(app)];
    config.dns.servers = vec![server()];
    config.dns.trust_ad = profile.dane;
    config.mta_sts.enabled = false;
    config.tls_rpt.enabled = false;
    config.routes.extend(route(profile));
    let delivery = &mut config.delivery;
    delivery.retry.clone_from(&profile.retry);
    delivery.expire = profile.expire;
    delivery.connections_per_lane = profile.lane_connections;
    delivery.connections = profile.connections;
    delivery.messages_per_connection = profile.connection_messages;
    delivery.ip_families = IpFamilies::Ipv4;
    delivery.in_doubt = profile.in_doubt;
    delivery.tls = profile.delivery_tls;
    plant(&mut config, profile.plant);
    config
}

/// The route to the host that asks for a login.
fn route(profile: &Profile) -> Option<Route> {
    profile.smart_host?;
    let (port, mode) = match profile.smart_implicit {
        true => (465, TlsMode::Implicit),
        false => (587, TlsMode::StartTls),
    };
    let host = HostPort {
        host: host_name(profile.hosts.len()),
        port,
    };
    Some(Route {
        tls: Some(profile.smart_tls),
        tls_mode: Some(mode),
        username: Some(USER.to_owned()),
        password: Some(PASSWORD.to_owned()),
        ..Route::new(DomainPattern::Exact(SMART_DOMAIN.parse().ok()?), vec![host])
    })
}

/// Planted faults that a wrong default would make.
fn plant(config: &mut Config, plant: Option<Plant>) {
    let delivery = &mut config.delivery;
    match plant {
        Some(Plant::ExpiryForgotten) => delivery.expire *= 100,
        Some(Plant::LaneLimitForgotten) => delivery.connections_per_lane *= 10,
        Some(Plant::RetryEarly) => delivery.retry.iter_mut().for_each(|step| *step /= 10),
        Some(Plant::DoubtForgotten) => delivery.in_doubt = relay_core::config::InDoubt::Retry,
        Some(Plant::LoginInClear) => config.listeners[1].tls = ListenerTls::None,
        Some(Plant::LaneStarved) => delivery.connections = 1,
        Some(_) | None => {}
    }
}

/// What the password is checked with: it takes long to make.
fn verifier() -> &'static Verifier {
    static VERIFIER: OnceLock<Verifier> = OnceLock::new();
    VERIFIER.get_or_init(|| Verifier::derive(PASSWORD, [7; 16], 4096))
}
