//! The sections of `relay.toml`, one function each.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use super::credential::anywhere;
use super::defaults::default_listeners;
use super::parse::{Draft, FileUse, FileWanted};
use super::read::Section;
use super::{
    ClientCertificates, Credential, Demand, Listener, ListenerTls, Role, TlsFiles, TlsLevel, value,
};

pub(super) type Table<'r, 't> = Section<'r, 't>;

pub(super) fn listeners(draft: &mut Draft, root: &Table<'_, '_>, directory: &Path) {
    if !root.has("listener") {
        draft.config.listeners = default_listeners();
        return;
    }
    for section in root.sections("listener") {
        if let Some(listener) = listener(draft, &section, directory) {
            let taken = draft
                .config
                .listeners
                .iter()
                .any(|l| l.address == listener.address);
            if taken {
                let problem = format!("{} is the address of another listener", listener.address);
                section.error("address", problem, "one listener an address");
            }
            draft.config.listeners.push(listener);
        }
        section.finish();
    }
}

fn listener(draft: &mut Draft, section: &Table<'_, '_>, directory: &Path) -> Option<Listener> {
    let address = section.required("address", &value::ADDRESS);
    let tls = section
        .value("tls", &value::LISTENER_TLS)
        .unwrap_or(ListenerTls::StartTls);
    let role = role(section);
    let proxy_protocol = section.flag("proxy_protocol").unwrap_or(false);
    let trusted_proxies = if proxy_protocol {
        let problem = "names nobody, and proxy_protocol without it lets anyone pretend any address";
        section.filled_list("trusted_proxies", &value::TRUSTED_NETWORK, problem)
    } else {
        section
            .list("trusted_proxies", &value::TRUSTED_NETWORK)
            .unwrap_or_default()
    };
    let trusted_networks = section.list("trusted_networks", &value::TRUSTED_NETWORK);
    let xclient_from = section.list("xclient_from", &value::TRUSTED_NETWORK);
    let trusted_as = section.value("trusted_as", &value::TEXT);

    if let Some(address) = address
        && tls == ListenerTls::None
        && !address.ip().to_canonical().is_loopback()
    {
        let problem = format!("\"none\" on {address} would show mail and passwords to the network");
        section.error(
            "tls",
            problem,
            "\"starttls\", \"implicit\"; \"none\" on loopback only",
        );
    }
    let client_certificates = client_certificates(draft, section, directory, tls);
    let trusted_networks = trusted_networks.unwrap_or_default();
    if role != Role::Submission && !trusted_networks.is_empty() {
        let problem = "has no meaning where role is \"inbound\": nobody sends in our name there";
        section.error("trusted_networks", problem, "a listener of its own");
    }
    match &trusted_as {
        None if !trusted_networks.is_empty() => {
            section.missing(
                "trusted_as",
                "the name of the [[credential]] that they act as",
            );
        }
        Some(name) => draft
            .references
            .push((name.clone(), section.place("trusted_as"))),
        None => {}
    }
    Some(Listener {
        address: address?,
        role,
        tls,
        proxy_protocol,
        trusted_proxies,
        trusted_networks,
        trusted_as,
        xclient_from: xclient_from.unwrap_or_default(),
        client_certificates,
    })
}

fn client_certificates(
    draft: &mut Draft,
    section: &Table<'_, '_>,
    directory: &Path,
    tls: ListenerTls,
) -> Option<ClientCertificates> {
    let use_as = FileUse::ClientCa(draft.config.listeners.len());
    let ca_file = file(draft, section, directory, "client_ca", use_as);
    let demand = section.value("client_certificates", &value::DEMAND);
    if demand.is_some() && !section.has("client_ca") {
        let allowed = "the PEM file with the authorities that client certificates are judged by";
        section.missing("client_ca", allowed);
    }
    if ca_file.is_some() && tls == ListenerTls::None {
        let problem = "asks for certificates where there is no TLS";
        section.error(
            "client_ca",
            problem,
            "tls = \"starttls\" or \"implicit\" with it",
        );
    }
    Some(ClientCertificates {
        ca_file: ca_file?,
        demand: demand.unwrap_or(Demand::Optional),
        roots: Vec::new(),
    })
}

/// `role`, and `dmarc` where that has a meaning.
fn role(section: &Table<'_, '_>) -> Role {
    let role = section.value("role", &value::ROLE);
    let dmarc = section.value("dmarc", &value::DMARC);
    match (role.unwrap_or(Role::Submission), dmarc) {
        (Role::Submission, Some(_)) => {
            let problem = "has no meaning for submission: users are known by their credentials";
            section.error("dmarc", problem, "role = \"inbound\" beside it");
            Role::Submission
        }
        (Role::Submission, None) => Role::Submission,
        (Role::Inbound(default), dmarc) => Role::Inbound(dmarc.unwrap_or(default)),
    }
}

pub(super) fn tls(draft: &mut Draft, root: &Table<'_, '_>, directory: &Path) {
    let Some(section) = root.section("tls") else {
        return;
    };
    let certificate = file(
        draft,
        &section,
        directory,
        "certificate",
        FileUse::Certificate,
    );
    let key = file(draft, &section, directory, "key", FileUse::Key);
    match (certificate, key) {
        (Some(certificate), Some(key)) => draft.config.tls = Some(TlsFiles { certificate, key }),
        (Some(_), None) => section.missing("key", "the PEM file with the certificate's key"),
        (None, Some(_)) => section.missing("certificate", "the PEM file with the certificate"),
        (None, None) => {}
    }
    section.finish();
}

pub(super) fn credential(section: &Table<'_, '_>) -> Option<Credential> {
    let name = section.required("name", &value::TEXT);
    let verifier = section.value("verifier", &value::VERIFIER);
    let certificates = section.list("certificates", &value::CERTIFICATE);
    let problem = "names nobody: the credential could not send";
    let senders = section.filled_list("senders", &value::SENDER, problem);
    let networks = if section.has("networks") {
        let problem = "names no network: the credential could not connect";
        section.filled_list("networks", &value::NETWORK, problem)
    } else {
        anywhere()
    };
    let rate = section.value("rate", &value::RATE);
    Some(Credential {
        name: name?,
        verifier,
        certificates: certificates.unwrap_or_default(),
        senders,
        networks,
        rate,
    })
}

pub(super) fn limits(draft: &mut Draft, root: &Table<'_, '_>) {
    let Some(section) = root.section("limits") else {
        return;
    };
    let limits = &mut draft.config.limits;
    set(
        &mut limits.message_size,
        section.value_or_number("message_size", &value::SIZE),
    );
    if let Some(memory) = section.value_or_number("memory", &value::SIZE) {
        limits.memory = Some(memory);
    }
    set(
        &mut limits.recipients,
        count(&section, "recipients", 100_000),
    );
    set(
        &mut limits.connections,
        count(&section, "connections", 1_000_000),
    );
    set(
        &mut limits.connections_per_ip,
        count(&section, "connections_per_ip", 1_000_000),
    );
    set(
        &mut limits.auth_failures_per_ip,
        section.value("auth_failures_per_ip", &value::RATE),
    );
    section.finish();
}

pub(super) fn dns(draft: &mut Draft, root: &Table<'_, '_>) {
    let Some(section) = root.section("dns") else {
        return;
    };
    if section.has("servers") {
        let servers = section.filled_list("servers", &value::DNS_SERVER, "names nobody to ask");
        draft.config.dns.servers = servers;
    }
    set(&mut draft.config.dns.trust_ad, section.flag("trust_ad"));
    let dns = &draft.config.dns;
    let far = dns.servers.iter().find(|server| !is_near(server.ip()));
    if let (true, Some(server)) = (dns.trust_ad, far) {
        let problem = format!(
            "is true, and {server} is far away: whoever is on the way there can forge what is signed"
        );
        let warning = section.place("trust_ad").error(&problem, "");
        draft.warnings.push(warning.to_string());
    }
    section.finish();
}

/// An address of this host or of a network of one's own. RFC 7672 §2.1.3 asks for a path to the resolver
/// that can be trusted.
fn is_near(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local(),
    }
}

pub(super) fn delivery(draft: &mut Draft, root: &Table<'_, '_>, directory: &Path) {
    let Some(section) = root.section("delivery") else {
        return;
    };
    let ca_file = file(draft, &section, directory, "ca_file", FileUse::CaFile);
    let delivery = &mut draft.config.delivery;
    let port = section.number("port", 1..=u64::from(u16::MAX));
    set(
        &mut delivery.port,
        port.and_then(|port| u16::try_from(port).ok()),
    );
    set(
        &mut delivery.retry,
        section.value("retry", &value::SCHEDULE),
    );
    set(
        &mut delivery.expire,
        section.value("expire", &value::DURATION),
    );
    set(&mut delivery.tls, section.value("tls", &value::TLS_LEVEL));
    if delivery.tls == TlsLevel::Dane {
        draft.danes.push(section.place("tls"));
    }
    set(
        &mut delivery.connections,
        count(&section, "connections", 100_000),
    );
    set(
        &mut delivery.connections_per_lane,
        count(&section, "connections_per_lane", 10_000),
    );
    let messages = section.number("messages_per_connection", 1..=1_000_000);
    let messages = messages.and_then(|messages| u32::try_from(messages).ok());
    set(&mut delivery.messages_per_connection, messages);
    set(
        &mut delivery.prohibited_hosts,
        section.list("prohibited_hosts", &value::NETWORK),
    );
    set(
        &mut delivery.ip_families,
        section.value("ip_families", &value::IP_FAMILIES),
    );
    set(
        &mut delivery.public_addresses,
        section.list("public_addresses", &value::IP),
    );
    set(
        &mut delivery.in_doubt,
        section.value("in_doubt", &value::IN_DOUBT),
    );
    delivery.ca_file = ca_file;
    if delivery
        .retry
        .first()
        .is_some_and(|&first| first >= delivery.expire)
    {
        let problem = "ends before the first retry: no message would be tried twice";
        section.error(
            "expire",
            problem,
            "a duration longer than the first of `retry`",
        );
    }
    section.finish();
}

pub(super) fn mta_sts(draft: &mut Draft, root: &Table<'_, '_>) {
    let Some(section) = root.section("mta_sts") else {
        return;
    };
    let mta_sts = &mut draft.config.mta_sts;
    set(&mut mta_sts.enabled, section.flag("enabled"));
    let port = section.number("port", 1..=u64::from(u16::MAX));
    set(
        &mut mta_sts.port,
        port.and_then(|port| u16::try_from(port).ok()),
    );
    set(
        &mut mta_sts.timeout,
        section.value("timeout", &value::TIMEOUT),
    );
    set(&mut mta_sts.allow_private, section.flag("allow_private"));
    section.finish();
}

pub(super) fn tls_rpt(draft: &mut Draft, root: &Table<'_, '_>) {
    let Some(section) = root.section("tls_rpt") else {
        return;
    };
    let tls_rpt = &mut draft.config.tls_rpt;
    set(&mut tls_rpt.enabled, section.flag("enabled"));
    tls_rpt.organization = section.value("organization", &value::TEXT);
    tls_rpt.contact = section.value("contact", &value::MAILBOX);
    tls_rpt.from = section.value("from", &value::MAILBOX);
    set(
        &mut tls_rpt.timeout,
        section.value("timeout", &value::TIMEOUT),
    );
    set(&mut tls_rpt.allow_private, section.flag("allow_private"));
    section.finish();
}

pub(super) fn admin(draft: &mut Draft, root: &Table<'_, '_>, directory: &Path) {
    let Some(section) = root.section("admin") else {
        return;
    };
    draft.config.admin = section.value("address", &value::ADDRESS);
    let token = file(
        draft,
        &section,
        directory,
        "token_file",
        FileUse::AdminToken,
    );
    if let Some(address) = draft.config.admin {
        admin_address(draft, &section, address);
        if !address.ip().to_canonical().is_loopback() && token.is_none() {
            let problem = "is not on loopback: whoever reaches it would administer the relay";
            let allowed =
                "an address on loopback, or a `token_file` whose token requests must show";
            section.error("address", problem, allowed);
        }
    }
    section.finish();
}

/// Two listeners cannot have one port of one address.
fn admin_address(draft: &Draft, section: &Table<'_, '_>, address: SocketAddr) {
    let any = |address: &SocketAddr| address.ip().is_unspecified();
    let taken = draft.config.listeners.iter().find(|listener| {
        let same = listener.address.ip().to_canonical() == address.ip().to_canonical();
        listener.address.port() == address.port()
            && (same || any(&listener.address) || any(&address))
    });
    if let Some(listener) = taken {
        let problem = format!("{address} is taken by the listener {}", listener.address);
        section.error("address", problem, "a port that no [[listener]] has");
    }
}

/// The path of a file that the section names, joined to the directory of the configuration.
pub(super) fn file(
    draft: &mut Draft,
    section: &Table<'_, '_>,
    directory: &Path,
    key: &'static str,
    used_for: FileUse,
) -> Option<PathBuf> {
    let path = directory.join(section.value(key, &value::TEXT)?);
    draft.files.push(FileWanted {
        path: path.clone(),
        used_for,
        place: section.place(key),
    });
    Some(path)
}

pub(super) fn count(section: &Table<'_, '_>, key: &'static str, max: u64) -> Option<usize> {
    section
        .number(key, 1..=max)
        .and_then(|count| usize::try_from(count).ok())
}

pub(super) fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}
