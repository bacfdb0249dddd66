//! The sections of `relay.toml` about destinations with a way of their own: `[[route]]`.

use std::path::{Path, PathBuf};

use super::parse::{Draft, FileUse};
use super::sections::{Table, file};
use super::value::Kind;
use super::{DomainPattern, HostPort, Protocol, Route, TlsLevel, TlsMode, TokenSource, value};
use crate::sasl::{Mechanism, Proof};

pub(super) fn routes(draft: &mut Draft, root: &Table<'_, '_>, directory: &Path) {
    for section in root.sections("route") {
        if draft
            .config
            .routes
            .iter()
            .any(|route| route.domain == DomainPattern::Any)
        {
            let place = section.place("domain");
            let text = place.error("is never reached, since a route before it is for \"*\"", "");
            draft.warnings.push(text.to_string());
        }
        if let Some(route) = route(draft, &section, directory) {
            draft.config.routes.push(route);
        }
        section.finish();
    }
}

fn route(draft: &mut Draft, section: &Table<'_, '_>, directory: &Path) -> Option<Route> {
    let domain = section.required("domain", &value::DOMAIN_PATTERN);
    let hosts = hosts(section);
    let protocol = section.value("protocol", &value::PROTOCOL);
    let forward = section.flag("forward").unwrap_or(false);
    if let (true, Some(domain)) = (forward, &domain) {
        draft
            .forwards
            .push((domain.clone(), section.place("forward")));
    }
    let tls = section.value("tls", &value::TLS_LEVEL);
    let tls_mode = section.value("tls_mode", &value::TLS_MODE);
    if (tls, tls_mode) == (Some(TlsLevel::None), Some(TlsMode::Implicit)) {
        let problem = "\"implicit\" needs TLS, and `tls` says \"none\"";
        section.error("tls_mode", problem, value::TLS_MODE.allowed);
    }
    if tls == Some(TlsLevel::Dane) {
        dane(draft, section, hosts.as_deref().unwrap_or_default());
    }
    let login = login(
        draft,
        section,
        directory,
        hosts.as_deref().unwrap_or_default(),
        tls,
    );
    let own = [
        ("username", login.username.is_some()),
        ("tls_mode", tls_mode.is_some()),
        ("protocol", protocol == Some(Protocol::Lmtp)),
    ];
    if let (Some([]), Some((key, _))) = (hosts.as_deref(), own.iter().find(|(_, said)| *said)) {
        let problem = "goes with hosts that are named, and this route's are those of MX";
        section.error(key, problem, "none, or `hosts` with names");
    }
    Some(Route {
        domain: domain?,
        hosts: hosts?,
        protocol: protocol.unwrap_or_default(),
        forward,
        tls,
        tls_mode,
        username: login.username,
        password_file: login.password_file,
        password: None,
        token: login.token,
        mechanism: login.mechanism,
    })
}

/// The hosts; empty for those of MX. None where that is not said.
fn hosts(section: &Table<'_, '_>) -> Option<Vec<HostPort>> {
    let hosts = section.filled_list("hosts", &ROUTE_HOST, "names nobody to deliver to");
    if hosts.len() > 1 && hosts.contains(&None) {
        let problem = "\"mx\" stands alone: hosts that are named are tried in their order";
        section.error("hosts", problem, ROUTE_HOST.allowed);
    }
    let by_mx = hosts == [None];
    let named: Vec<HostPort> = hosts.into_iter().flatten().collect();
    (by_mx || !named.is_empty()).then_some(named)
}

const ROUTE_HOST: Kind<Option<HostPort>> = Kind {
    allowed: "hosts with their ports, such as \"smart.example.net:587\", \"192.0.2.1:25\", \"[::1]:25\"; \
              or \"mx\" alone, for the mail exchangers of the domain",
    parse: |text| match text {
        "mx" => Ok(None),
        _ => (value::HOST.parse)(text).map(Some),
    },
};

/// TLSA records are of names, and are believed if a resolver says that they are signed.
fn dane(draft: &mut Draft, section: &Table<'_, '_>, hosts: &[HostPort]) {
    draft.danes.push(section.place("tls"));
    if let Some(host) = hosts.iter().find(|host| host.ip().is_some()) {
        let problem = format!("\"dane\" asks for TLSA records, and {host} has no name to have any");
        section.error("tls", problem, "hosts by name, or another `tls`");
    }
}

/// What a route says of its login.
struct RouteLogin {
    username: Option<String>,
    password_file: Option<PathBuf>,
    token: Option<TokenSource>,
    mechanism: Option<Mechanism>,
}

fn login(
    draft: &mut Draft,
    section: &Table<'_, '_>,
    directory: &Path,
    hosts: &[HostPort],
    tls: Option<TlsLevel>,
) -> RouteLogin {
    let index = draft.config.routes.len();
    let username = section.value("username", &value::TEXT);
    let use_as = FileUse::RoutePassword(index);
    let password_file = file(draft, section, directory, "password_file", use_as);
    let use_as = FileUse::RouteToken(index);
    let token_file = file(draft, section, directory, "token_file", use_as);
    let problem = "names no program";
    let token_command = section
        .has("token_command")
        .then(|| section.filled_list("token_command", &value::TEXT, problem));
    let mechanism = section.value("mechanism", &value::MECHANISM);
    let secrets = usize::from(password_file.is_some())
        + usize::from(token_file.is_some())
        + usize::from(token_command.is_some());
    let one = "one of password_file, token_file, token_command";
    match (&username, secrets) {
        (Some(_), 0) => section.missing("password_file", one),
        (None, 1..) => section.missing("username", "the user's name"),
        (Some(_), 1) => login_is_safe(draft, section, hosts, tls),
        (Some(_), _) => section.error("username", "has more than one secret", one),
        (None, 0) => {}
    }
    if let Some(mechanism) = mechanism {
        let proof = if password_file.is_some() {
            Proof::Password
        } else {
            Proof::Token
        };
        if secrets == 0 || mechanism.proof() != proof {
            let problem = format!("{mechanism} does not go with what the route has");
            let allowed = "\"xoauth2\" or \"oauthbearer\" with a token, the others with a password";
            section.error("mechanism", problem, allowed);
        }
    }
    let token = token_file.map(TokenSource::File);
    RouteLogin {
        username,
        password_file,
        token: token.or(token_command.map(TokenSource::Command)),
        mechanism,
    }
}

/// A password goes over TLS, or to this very host.
fn login_is_safe(
    draft: &mut Draft,
    section: &Table<'_, '_>,
    hosts: &[HostPort],
    tls: Option<TlsLevel>,
) {
    let local = |host: &HostPort| host.ip().is_some_and(|ip| ip.is_loopback());
    if hosts.iter().all(local) {
        return;
    }
    match tls.unwrap_or(draft.config.delivery.tls) {
        TlsLevel::None => {
            let problem = "\"none\" would show the password to the network";
            section.error(
                "tls",
                problem,
                "\"require\", \"verify\"; \"none\" to loopback only",
            );
        }
        TlsLevel::Opportunistic => {
            let problem = "is \"opportunistic\": whoever is on the way can read the password; \
                           \"verify\" prevents it";
            draft
                .warnings
                .push(section.place("tls").error(problem, "").to_string());
        }
        TlsLevel::Require | TlsLevel::Verify | TlsLevel::Dane => {}
    }
}
