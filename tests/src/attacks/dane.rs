//! Group DANE: what TLSA records, their absence and their failures make of a delivery.

use std::net::SocketAddr;

use relay_core::dns::zone::{Failure, Zone};
use relay_core::outbound::TlsFailureKind;
use rustls::pki_types::CertificateDer;

use super::bodies::HEADERS;
use super::names::Names;
use super::outbound::{Fate, TO, fate};
use super::relay::{Relay, route};
use super::sink::{Act, Notes, Script, Sink, say};
use super::{Row, Runtime, Trouble, ensure, tls};

pub(super) fn rows() -> Vec<Row> {
    vec![
        Row::scene("DANE-01", unanswered),
        Row::scene("DANE-02", insecure_address),
        Row::scene("DANE-03", unusable),
        Row::scene("DANE-04", malformed),
        Row::scene("DANE-05", unmatched),
    ]
}

const DOMAIN: &str = "server.example";
const MX: &str = "mx.server.example";
const SECOND: &str = "mx2.server.example";

/// What a record is for: the certificate itself, whole (usage 3, selector 0, matching type 0).
fn rdata(fields: [u8; 3], cert: &CertificateDer<'_>) -> Vec<u8> {
    [&fields[..], cert].concat()
}

fn tlsa_name(host: &str, port: u16) -> String {
    format!("_{port}._tcp.{host}")
}

/// A relay that finds its way to `server.example` by a signed zone, and one or two receivers there.
struct Scene {
    first: Sink,
    second: Option<Sink>,
    names: Names,
    relay: Relay,
    _reports: Sink,
}

impl Scene {
    /// `zone` makes the zone for the receivers' port, from one that has MX and addresses.
    fn start(
        runtime: Runtime,
        first: Script,
        second: Option<Script>,
        zone: impl FnOnce(Zone, u16) -> Zone,
    ) -> Result<Self, Trouble> {
        let first = Sink::start(first)?;
        let port = first.address().port();
        let beside = SocketAddr::new("127.0.0.2".parse()?, port);
        let second = second.map(|script| Sink::start_at(beside, script));
        let second = second.transpose()?;
        let mut names = Zone::new()
            .authentic()
            .mx(DOMAIN, 10, MX)
            .address(MX, first.address().ip());
        if second.is_some() {
            names = names.mx(DOMAIN, 20, SECOND).address(SECOND, beside.ip());
        }
        let names = Names::start(zone(names, port))?;
        let reports = Sink::start(Script::default())?;
        let relay = Relay::start(runtime, |config| {
            config.dns.servers = vec![names.address()];
            config.dns.trust_ad = true;
            config.delivery.port = port;
            config.delivery.prohibited_hosts = Vec::new();
            config.routes.push(route("client.example", &reports));
        })?;
        Ok(Self {
            first,
            second,
            names,
            relay,
            _reports: reports,
        })
    }

    fn send(&self) -> Result<Fate, Trouble> {
        let message = format!("{HEADERS}body\r\n");
        self.relay.submit(TO, message.as_bytes())?;
        fate(&self.relay)
    }

    /// How often the TLSA records of a host were asked for.
    fn asked(&self, host: &str) -> usize {
        let port = self.first.address().port();
        self.names.asked(&tlsa_name(host, port))
    }
}

/// No message was shown to a receiver.
fn untold(notes: &Notes) -> bool {
    let told = |(line, _): &(String, bool)| line.to_ascii_uppercase().starts_with("MAIL");
    notes.taken.is_empty() && !notes.commands.iter().any(told)
}

/// Deferred, nothing shown, and for this reason.
fn deferred(scene: &Scene, fate: &Fate, rule: &str, kind: TlsFailureKind) -> Result<(), Trouble> {
    let evidence = &fate.attempt.evidence;
    ensure!(fate.what == "deferred", "{fate:?}");
    ensure!(fate.attempt.reason.rule == rule, "{fate:?}");
    ensure!(evidence.tls_failure == Some(kind), "{fate:?}");
    let notes = scene.first.notes();
    ensure!(untold(&notes), "{notes:?}");
    Ok(())
}

/// Delivered under TLS, to the second receiver if there is one, else to the first.
fn delivered(scene: &Scene, fate: &Fate, policy: &str) -> Result<(), Trouble> {
    ensure!(fate.what == "delivered", "{fate:?}");
    let said = fate.attempt.evidence.tls_policy.as_deref();
    ensure!(said == Some(policy), "{fate:?}");
    let taker = scene.second.as_ref().unwrap_or(&scene.first);
    let taken = taker.wait(1)?;
    ensure!(taken[0].tls, "in clear text");
    if scene.second.is_some() {
        let notes = scene.first.notes();
        ensure!(untold(&notes), "{notes:?}");
    }
    Ok(())
}

/// DANE-01: without an answer about TLSA records the host is not used: not under TLS, not in clear text.
fn unanswered(runtime: Runtime) -> Result<String, Trouble> {
    let mut got = Vec::new();
    for how in [Failure::ServerFailure, Failure::Refused, Failure::Silence] {
        for with_tls in [false, true] {
            // Silence is waited for; once is enough.
            if how == Failure::Silence && with_tls {
                continue;
            }
            let script = match with_tls {
                true => Script::default().with_tls(tls::receiver(MX)?),
                false => Script::default(),
            };
            let scene = Scene::start(runtime, script, None, |zone, port| {
                zone.failing(&tlsa_name(MX, port), how)
            })?;
            let fate = scene.send()?;
            deferred(&scene, &fate, "dane-lookup", TlsFailureKind::DnssecInvalid)?;
            ensure!(scene.first.notes().connections == 0, "it was connected to");
            got.push(fate.words());
        }
    }
    // The next host is used, under its own records.
    let (server, leaf) = tls::receiver_and_certificate(SECOND)?;
    let second = Some(Script::default().with_tls(server));
    let scene = Scene::start(runtime, Script::default(), second, |zone, port| {
        zone.failing(&tlsa_name(MX, port), Failure::ServerFailure)
            .tlsa(SECOND, port, &rdata([3, 0, 0], &leaf))
    })?;
    let fate = scene.send()?;
    delivered(&scene, &fate, "dane (TLSA)")?;
    ensure!(scene.first.notes().connections == 0, "it was connected to");
    got.dedup();
    Ok(format!("{}; then {}", got.join(", "), fate.words()))
}

/// DANE-02: where the address is not signed, no TLSA records are asked for, and TLS is opportunistic.
fn insecure_address(runtime: Runtime) -> Result<String, Trouble> {
    let (_, leaf) = tls::receiver_and_certificate(MX)?;
    let scene = Scene::start(runtime, Script::default(), None, |zone, port| {
        zone.insecure(MX).tlsa(MX, port, &rdata([3, 0, 0], &leaf))
    })?;
    let fate = scene.send()?;
    ensure!(fate.what == "delivered", "{fate:?}");
    ensure!(scene.asked(MX) == 0, "TLSA records were asked for");
    let policy = fate.attempt.evidence.tls_policy.clone();
    ensure!(
        policy.as_deref() == Some("opportunistic (config)"),
        "{fate:?}"
    );
    Ok(fate.words())
}

/// With these records of the first host: TLS whoever is there, and no clear text.
fn tls_alone(runtime: Runtime, records: &[Vec<u8>]) -> Result<(), Trouble> {
    let zone = |zone: Zone, port: u16| {
        let add = |zone: Zone, rdata: &Vec<u8>| zone.tlsa(MX, port, rdata);
        records.iter().fold(zone, add)
    };
    let other = Script::default().with_tls(tls::receiver("other.example")?);
    let scene = Scene::start(runtime, other, None, zone)?;
    let fate = scene.send()?;
    delivered(&scene, &fate, "require (dane, no TLSA record can be used)")?;
    let kind = fate.attempt.evidence.tls_failure;
    ensure!(kind == Some(TlsFailureKind::TlsaInvalid), "{fate:?}");
    let scene = Scene::start(runtime, Script::default(), None, zone)?;
    let fate = scene.send()?;
    let kind = TlsFailureKind::StarttlsNotSupported;
    deferred(&scene, &fate, "tls-required", kind)
}

/// DANE-03: records that SMTP cannot use.
fn unusable(runtime: Runtime) -> Result<String, Trouble> {
    let digest = [7; 32];
    let records: Vec<Vec<u8>> = [[0, 1, 1], [1, 0, 1], [4, 1, 1], [3, 9, 1], [3, 1, 9]]
        .map(|fields| [&fields[..], &digest].concat())
        .into();
    for one in &records {
        tls_alone(runtime, std::slice::from_ref(one))?;
    }
    tls_alone(runtime, &records)?;
    Ok("TLS and no check; no clear text".into())
}

/// DANE-04: RDATA that is no record.
fn malformed(runtime: Runtime) -> Result<String, Trouble> {
    let digest = [&[3, 1, 1][..], &[7; 31]].concat();
    let shorts = [&digest[..0], &digest[..1], &digest[..2], &digest[..3]];
    for rdata in shorts.into_iter().chain([&digest[..]]) {
        tls_alone(runtime, &[rdata.to_vec()])?;
    }
    // Beside one that is right they do nothing.
    let (server, leaf) = tls::receiver_and_certificate(MX)?;
    let script = Script::default().with_tls(server);
    let scene = Scene::start(runtime, script, None, |zone, port| {
        let add = |zone: Zone, short: &[u8]| zone.tlsa(MX, port, short);
        let zone = shorts.into_iter().fold(zone, add);
        zone.tlsa(MX, port, &rdata([3, 0, 0], &leaf))
    })?;
    let fate = scene.send()?;
    delivered(&scene, &fate, "dane (TLSA)")?;
    Ok(format!("TLS and no check; no clear text; {}", fate.words()))
}

/// DANE-05: the certificate is another, or there is no TLS: not here; the next host; later.
fn unmatched(runtime: Runtime) -> Result<String, Trouble> {
    let (_, named) = tls::receiver_and_certificate(MX)?;
    // A certificate that is good by the roots that the relay knows, and is not the one that is named.
    let other = Script::default().with_tls(tls::receiver(MX)?);
    let refuses = other.clone().on("starttls", say("454 4.7.0 not now"));
    let breaks = [say("220 no TLS comes"), vec![Act::Close]].concat();
    let breaks = other.clone().on("starttls", breaks);
    let mismatch = TlsFailureKind::ValidationFailure;
    let none = TlsFailureKind::StarttlsNotSupported;
    let mut got = Vec::new();
    for (script, rule, kind) in [
        (other, "dane-certificate", mismatch),
        (Script::default(), "tls-required", none),
        (refuses, "tls-required", none),
        (breaks, "tls-handshake", mismatch),
    ] {
        let records = |zone: Zone, port: u16| zone.tlsa(MX, port, &rdata([3, 0, 0], &named));
        let scene = Scene::start(runtime, script.clone(), None, records)?;
        let fate = scene.send()?;
        deferred(&scene, &fate, rule, kind)?;
        got.push(fate.words());
        let (server, leaf) = tls::receiver_and_certificate(SECOND)?;
        let second = Some(Script::default().with_tls(server));
        let scene = Scene::start(runtime, script, second, |zone, port| {
            records(zone, port).tlsa(SECOND, port, &rdata([3, 0, 0], &leaf))
        })?;
        delivered(&scene, &scene.send()?, "dane (TLSA)")?;
    }
    Ok(got.join(", "))
}
