//! The configuration that a profile makes.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use relay_core::bounce::return_path::Keyring;
use relay_core::config::{
    Config, Credential, DkimKey, DomainPattern, HostPort, IpFamilies, KeyState, Listener,
    ListenerTls, ReturnPath, ReturnPathState, Route, SigningDomain, TlsMode, Verifier,
};

use relay_core::engine::Capacity;
use relay_core::rng::Rng;

use super::certs::Papers;
use super::names::{SMART_DOMAIN, host_name, sender_domain, server};
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
    config.mta_sts.enabled = profile.sts;
    config.tls_rpt.enabled = profile.sts;
    config.domains = domains(profile);
    config.return_path_keys = profile.return_path.then(keyring);
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

/// The relay's own domain, which signs TLS-RPT reports, and those of clients with their return paths.
fn domains(profile: &Profile) -> Vec<Arc<SigningDomain>> {
    let mut domains = Vec::new();
    if let Some(key) = Papers::get().map(|papers| papers.dkim.clone())
        && profile.sts
        && let Ok(name) = "relay.test".parse()
    {
        domains.push(Arc::new(SigningDomain {
            keys: vec![DkimKey {
                selector: "sim".to_owned(),
                key_file: "sim.pem".into(),
                state: KeyState::Signing,
                key: Some(key),
            }],
            ..SigningDomain::new(name)
        }));
    }
    let clients = (0..=profile.clients).filter(|_| profile.return_path);
    domains.extend(clients.filter_map(|client| {
        let name = sender_domain(client).parse().ok()?;
        let domain = format!("rp.{}", sender_domain(client)).parse().ok()?;
        let state = ReturnPathState::Active;
        Some(Arc::new(SigningDomain {
            return_path: Some(ReturnPath { domain, state }),
            ..SigningDomain::new(name)
        }))
    }));
    domains
}

/// The keys of return paths: the same in every world.
pub(crate) fn keyring() -> Arc<Keyring> {
    Arc::new(Keyring::generate(&mut Rng::from_number(5)))
}

/// What a small machine has room for.
pub(crate) fn capacity(profile: &Profile) -> Capacity {
    let small = Capacity {
        deliveries: 4,
        questions: 2,
        arriving: 128 * 1024,
        kept: 32 * 1024,
        ..Capacity::default()
    };
    match profile.small {
        true => small,
        false => Capacity::default(),
    }
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
        Some(Plant::ReturnPathForgotten) => config.return_path_keys = None,
        Some(_) | None => {}
    }
}

/// What the password is checked with: it takes long to make.
fn verifier() -> &'static Verifier {
    static VERIFIER: OnceLock<Verifier> = OnceLock::new();
    VERIFIER.get_or_init(|| Verifier::derive(PASSWORD, [7; 16], 4096))
}
