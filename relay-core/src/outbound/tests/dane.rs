//! DANE, MTA-STS and REQUIRETLS: hosts that meet their policy, and every way to fail it. Rows of the
//! attack catalogue by id.

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256, Sha512};

use super::sink::{Act, say};
use super::tls::broken_starttls;
use super::*;
use crate::channel::{Associations, ServerTls};
use crate::dns::{Alias, Tlsa, TlsaSet};
use crate::queue::handling::TlsWish;
use crate::sts::Mode;

const HOST: &str = "mx.example.net";
const NAME: &str = "_25._tcp.mx.example.net";

const LEVELS: [TlsLevel; 5] = [
    TlsLevel::None,
    TlsLevel::Opportunistic,
    TlsLevel::Require,
    TlsLevel::Verify,
    TlsLevel::Dane,
];

/// A server's certificate, the root that it sends along, and the server.
struct Server {
    leaf: CertificateDer<'static>,
    root: CertificateDer<'static>,
    tls: Arc<ServerTls>,
}

impl Server {
    fn new(name: &str, expired: bool) -> Self {
        Self::under(authority(), name, expired)
    }

    fn under(root: CertificateParams, name: &str, is_expired: bool) -> Self {
        let root = CertifiedIssuer::self_signed(root, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        if is_expired {
            params = expired(params);
        }
        let leaf = params.signed_by(&key, &root).unwrap().der().clone();
        let root = root.der().clone();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let tls = ServerTls::new(vec![leaf.clone(), root.clone()], key).unwrap();
        Self { leaf, root, tls }
    }

    fn good() -> Self {
        Self::new(HOST, false)
    }

    fn script(&self) -> Script {
        Script::default().with_tls(&self.tls)
    }
}

fn authority() -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params
}

fn expired(mut params: CertificateParams) -> CertificateParams {
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    params
}

/// A record for a certificate: `usage` 0 `matching`.
fn record(usage: u8, matching: u8, cert: &CertificateDer<'_>) -> Tlsa {
    let data = match matching {
        0 => cert.to_vec(),
        1 => Sha256::digest(cert).to_vec(),
        _ => Sha512::digest(cert).to_vec(),
    };
    Tlsa {
        usage,
        selector: 0,
        matching,
        data,
    }
}

fn signed(records: Vec<Tlsa>) -> TlsaAnswer {
    Ok(TlsaSet {
        records,
        malformed: 0,
        authentic: true,
    })
}

fn servfail() -> DnsFailure {
    DnsFailure::Temporary("192.0.2.53:53: it answered SERVFAIL".into())
}

/// A world whose names are all signed, with one host and one message.
fn world(script: Script) -> World {
    let mut world = World::with(script).mail(&Mail::default());
    world.config.dns.trust_ad = true;
    world.lane.authentic = true;
    addresses(&mut world, HOST).authentic = true;
    world
}

fn addresses<'w>(world: &'w mut World, host: &str) -> &'w mut Addresses {
    world.zone.get_mut(host).unwrap().as_mut().unwrap()
}

/// The same, whose host has these records.
fn with_records(script: Script, records: Vec<Tlsa>) -> World {
    let mut world = world(script);
    world.tlsa.insert(NAME.into(), signed(records));
    world
}

fn wishing(tls: TlsWish) -> Mail {
    Mail {
        handling: Handling {
            tls,
            ..Handling::default()
        },
        ..Mail::default()
    }
}

/// Nothing of a message was shown to any host.
fn silent(world: &World) -> bool {
    world.hosts.values().all(|host| match host {
        Host::Sink(sink) => {
            let told = |line: &String| line.contains("MAIL FROM");
            sink.taken().is_empty() && !sink.commands().iter().any(told)
        }
        Host::Refuses(_) | Host::Other(_) => true,
    })
}

#[test]
fn a_certificate_that_a_record_names_is_believed_at_every_level() {
    let server = Server::new("other.example", true);
    let good = Server::good();
    for level in LEVELS {
        for (server, records) in [
            (&server, vec![record(3, 1, &server.leaf)]),
            (&server, vec![record(3, 0, &server.leaf)]),
            (&good, vec![record(2, 2, &good.root)]),
            (
                &good,
                vec![record(3, 1, &good.root), record(2, 0, &good.root)],
            ),
        ] {
            let mut world = with_records(server.script(), records).level(level);
            let run = world.run();
            assert_eq!(run.fates(), "d", "{level:?}");
            assert_eq!(run.resolves, [HOST, NAME]);
            let tried = run.tried();
            let evidence = &tried.evidence;
            assert_eq!(evidence.tls_policy.as_deref(), Some("dane (TLSA)"));
            assert_eq!(evidence.certificate.as_deref(), Some("verified (TLSA)"));
            assert!(evidence.tls.as_deref().unwrap().starts_with("TLSv1.3 TLS_"));
            assert_eq!(evidence.tls_failure, None);
            assert!(world.mx().taken()[0].tls);
            let [session] = &tried.sessions[..] else {
                panic!("{tried:?}");
            };
            assert_eq!(session.policy, TlsPolicyType::Tlsa);
            assert_eq!(session.failure, None);
            assert!(session.tlsa[0].starts_with("3 0 ") || session.tlsa[0].starts_with("2 0 "));
        }
    }
}

/// One way to fail DANE: what is wrong, how the host behaves, and what the world is like.
struct Fault {
    what: String,
    kind: TlsFailureKind,
    world: World,
}

fn fault(what: &str, kind: TlsFailureKind, world: World) -> Fault {
    let what = what.to_owned();
    Fault { what, kind, world }
}

/// DANE-01: what is not known for certain.
fn faults_of_names() -> Vec<Fault> {
    let kind = TlsFailureKind::DnssecInvalid;
    let server = Server::good();
    let mut faults = Vec::new();
    for failure in [
        servfail(),
        DnsFailure::Temporary("it did not answer in time".into()),
        DnsFailure::Temporary("it sent a malformed message".into()),
        DnsFailure::Temporary("its answer is too large".into()),
        DnsFailure::BadName("its CNAMEs form a loop".into()),
    ] {
        // The host itself; an alias by both its names; an alias of what is not signed.
        let what = format!("TLSA: {failure:?}");
        let mut plain = world(server.script());
        plain.tlsa.insert(NAME.into(), Err(failure.clone()));
        faults.push(fault(&what, kind, plain));

        let mut expanded = world(server.script());
        addresses(&mut expanded, HOST).canonical = Some("real.example.org".into());
        expanded
            .tlsa
            .insert("_25._tcp.real.example.org".into(), Err(failure.clone()));
        expanded
            .tlsa
            .insert(NAME.into(), signed(vec![record(3, 1, &server.leaf)]));
        faults.push(fault(&format!("{what}, of the alias"), kind, expanded));

        let mut original = world(server.script());
        addresses(&mut original, HOST).canonical = Some("real.example.org".into());
        original.tlsa.insert(NAME.into(), Err(failure.clone()));
        faults.push(fault(&format!("{what}, after the alias"), kind, original));

        let mut unknown = world(server.script());
        let found = addresses(&mut unknown, HOST);
        found.canonical = Some("real.example.org".into());
        found.authentic = false;
        let mut insecure = unknown;
        insecure.aliases.insert(HOST.into(), Err(failure.clone()));
        faults.push(fault(&format!("CNAME: {failure:?}"), kind, insecure));

        let mut insecure = world(server.script());
        let found = addresses(&mut insecure, HOST);
        found.canonical = Some("real.example.org".into());
        found.authentic = false;
        let target = "real.example.org".into();
        let alias = Alias {
            target,
            authentic: true,
        };
        insecure.aliases.insert(HOST.into(), Ok(alias));
        insecure.tlsa.insert(NAME.into(), Err(failure));
        faults.push(fault(
            &format!("{what}, alias to the unsigned"),
            kind,
            insecure,
        ));
    }
    faults
}

/// DANE-05: certificates that are not those of the records, some of them good by other lights.
fn faults_of_certificates() -> Vec<Fault> {
    use TlsFailureKind::{CertificateExpired, CertificateHostMismatch, ValidationFailure};
    let (server, other) = (Server::good(), Server::good());
    let unusable = record(1, 1, &server.leaf);
    let short = Tlsa {
        data: vec![0; 31],
        ..record(3, 1, &server.leaf)
    };
    let cases = [
        ("3 0 0 of another", vec![record(3, 0, &other.leaf)]),
        ("3 0 1 of another", vec![record(3, 1, &other.leaf)]),
        ("3 0 2 of another", vec![record(3, 2, &other.leaf)]),
        ("3 0 1 of the root", vec![record(3, 1, &server.root)]),
        ("2 0 0 of another", vec![record(2, 0, &other.root)]),
        ("2 0 1 of another", vec![record(2, 1, &other.root)]),
        ("2 0 2 of another", vec![record(2, 2, &other.root)]),
        ("2 0 1 of the leaf", vec![record(2, 1, &server.leaf)]),
        (
            "the weaker digest matches",
            vec![record(3, 1, &server.leaf), record(3, 2, &other.leaf)],
        ),
        (
            "what matches cannot be used",
            vec![unusable, short, record(3, 1, &other.leaf)],
        ),
        (
            "many of others",
            (0..20).map(|n| record(3, n % 3, &other.leaf)).collect(),
        ),
    ];
    let mut faults = Vec::new();
    for (what, records) in cases {
        let mut world = with_records(server.script(), records);
        // The certificate is good by the roots that we know: that does not count.
        world.tls = ClientTls::new(vec![server.root.clone()]).unwrap();
        faults.push(fault(what, ValidationFailure, world));
    }
    for (what, server, kind) in [
        (
            "2: another name",
            Server::new("other.example", false),
            CertificateHostMismatch,
        ),
        ("2: expired", Server::new(HOST, true), CertificateExpired),
        (
            "2: an expired authority",
            Server::under(expired(authority()), HOST, false),
            CertificateExpired,
        ),
    ] {
        for matching in 0..3 {
            let records = vec![record(2, matching, &server.root)];
            let world = with_records(server.script(), records);
            faults.push(fault(&format!("{what} {matching}"), kind, world));
        }
    }
    faults
}

/// DANE-03, DANE-05: TLS that does not come about, with records that can be used and with such as cannot.
fn faults_of_tls() -> Vec<Fault> {
    use TlsFailureKind::{StarttlsNotSupported, ValidationFailure};
    let server = Server::good();
    let mut faults = Vec::new();
    for records in [
        vec![record(3, 1, &server.leaf)],
        vec![record(1, 1, &server.leaf)],
        Vec::new(),
    ] {
        let shown = format!("{} records", records.len());
        for (nth, acts) in broken_starttls().into_iter().enumerate() {
            // Two refusals, and all that is neither a refusal nor TLS.
            let refused = nth < 2;
            let kind = if refused {
                StarttlsNotSupported
            } else {
                ValidationFailure
            };
            let script = server.script().on("starttls", acts);
            let world = with_records(script, records.clone());
            faults.push(fault(&format!("STARTTLS {nth}, {shown}"), kind, world));
        }
        let world = with_records(Script::default(), records.clone());
        faults.push(fault(
            &format!("no STARTTLS, {shown}"),
            StarttlsNotSupported,
            world,
        ));
        let helo = Script::default().on("ehlo", say("502 5.5.1 what?"));
        let world = with_records(helo, records);
        faults.push(fault(
            &format!("no EHLO, {shown}"),
            StarttlsNotSupported,
            world,
        ));
    }
    faults
}

fn all_faults() -> Vec<Fault> {
    let mut faults = faults_of_names();
    faults.extend(faults_of_certificates());
    faults.extend(faults_of_tls());
    faults
}

/// DANE-01, DANE-03, DANE-05: whatever the fault, the message is not shown to the host, and waits.
/// `cargo test -p relay-core --lib fails_open -- --nocapture` prints how many there are.
#[test]
#[expect(
    clippy::print_stdout,
    clippy::disallowed_macros,
    reason = "the count is what it shows"
)]
fn no_fault_of_dane_fails_open() {
    let mut count = 0;
    for level in LEVELS {
        for Fault { what, kind, world } in all_faults() {
            let mut world = world.level(level);
            let records = world.tlsa.get(NAME);
            let unusable = records.is_some_and(|records| {
                let records = records.as_ref().map(|set| &set.records[..]);
                records.is_ok_and(|records| Associations::usable(records).is_none())
            });
            let kind = match (level, unusable) {
                (TlsLevel::Dane, true) => TlsFailureKind::DaneRequired,
                _ => kind,
            };
            let run = world.run();
            assert_eq!(run.fates(), "f", "{what} {level:?}");
            assert!(silent(&world), "{what} {level:?}");
            let reason = reason(run.outcome());
            assert!(reason.status.starts_with("4.7."), "{what}: {reason:?}");
            assert!(!reason.text.is_empty());
            let tried = run.tried();
            assert_eq!(tried.evidence.tls_failure, Some(kind), "{what} {tried:?}");
            let session = &tried.sessions[0];
            assert_eq!(session.policy, TlsPolicyType::Tlsa, "{what}");
            assert_eq!(session.failure, Some(kind), "{what}");
            assert!(!session.why.is_empty());
            count += 1;
        }
    }
    println!("{count} policy faults of DANE, none fails open");
    assert!(count >= 5 * 60, "{count} faults are too few");
}

/// The next host is tried, under its own policy, and takes the message.
#[test]
fn another_host_may_meet_the_policy() {
    let second = Server::new("mx2.example.net", false);
    for Fault { what, kind, world } in all_faults() {
        let mut world = world.host("mx2.example.net", "93.184.216.2", second.script());
        world.lane.hosts = lane(&["mx.example.net:10", "mx2.example.net:20"]).hosts;
        addresses(&mut world, "mx2.example.net").authentic = true;
        world.tlsa.insert(
            "_25._tcp.mx2.example.net".into(),
            signed(vec![record(2, 1, &second.root)]),
        );
        let run = world.run();
        assert_eq!(run.fates(), "d", "{what}");
        assert!(world.mx().taken().is_empty() && world.sink("93.184.216.2").taken()[0].tls);
        let tried = run.tried();
        assert_eq!(tried.evidence.host.as_deref(), Some("mx2.example.net"));
        assert_eq!(tried.evidence.before.len(), 1, "{what}");
        let failures: Vec<_> = tried.sessions.iter().map(|s| s.failure).collect();
        assert_eq!(failures, [Some(kind), None], "{what}");
    }
}

/// RFC 8689 §4.2.1: a message that asks for TLS itself is told at once, where the host is at fault.
#[test]
fn requiretls_does_not_wait_for_a_host_that_fails_its_policy() {
    let mut certain = 0;
    for Fault {
        what,
        kind,
        mut world,
    } in all_faults()
    {
        world.jobs.clear();
        let mut world = world.mail(&wishing(TlsWish::Required));
        let run = world.run();
        assert!(silent(&world), "{what}");
        let known = kind != TlsFailureKind::DnssecInvalid;
        certain += usize::from(known);
        let expected = if known {
            ("b", "5.7.10")
        } else {
            ("f", "4.7.5")
        };
        let status = &*reason(run.outcome()).status;
        assert_eq!((&*run.fates(), status), expected, "{what}");
    }
    assert!(certain > 30);
}

/// RFC 8689 §4.2.2: "TLS-Required: No" goes by the configuration alone.
#[test]
fn tls_required_no_goes_by_no_policy() {
    for Fault {
        what, mut world, ..
    } in all_faults()
    {
        world.jobs.clear();
        let mut world = world.mail(&wishing(TlsWish::NotRequired));
        world.lane.sts = Some(Mode::Enforce);
        let run = world.run();
        let delivered = run.fates() == "d";
        // A host that hangs up on STARTTLS does so to everybody.
        assert!(delivered, "{what} {:?}", reason(run.outcome()));
        assert_eq!(run.resolves, [HOST], "{what}");
        assert!(
            run.tried().sessions.is_empty(),
            "it says nothing of a policy"
        );
    }
    // What the operator asks for is no policy of the receiver.
    let mut world = world(Script::default()).level(TlsLevel::Require);
    world.jobs.clear();
    let mut world = world.mail(&wishing(TlsWish::NotRequired));
    assert_eq!(world.run().fates(), "f");
    assert!(silent(&world));
}

/// DANE-02, and the other ways to have no policy: nothing is asked, or what is found does not count.
#[test]
fn dane_02_what_is_not_signed_has_no_policy() {
    let server = Server::good();
    let usable = || signed(vec![record(3, 1, &server.leaf)]);
    let plain = || {
        let mut world = world(Script::default());
        world.tlsa.insert(NAME.into(), usable());
        world
    };
    let mut insecure_address = plain();
    addresses(&mut insecure_address, HOST).authentic = false;
    let mut insecure_mx = plain();
    insecure_mx.lane.authentic = false;
    let mut untrusted = plain();
    untrusted.config.dns.trust_ad = false;
    for mut world in [insecure_address, insecure_mx, untrusted] {
        let run = world.run();
        assert_eq!(run.fates(), "d");
        assert_eq!(run.resolves, [HOST], "no TLSA records are asked for");
    }
    for answer in [
        Err(DnsFailure::NoRecord),
        Err(DnsFailure::NoSuchDomain),
        usable().map(|set| TlsaSet {
            authentic: false,
            ..set
        }),
    ] {
        let mut world = plain();
        world.tlsa.insert(NAME.into(), answer);
        let run = world.run();
        assert_eq!(run.fates(), "d");
        assert_eq!(run.resolves, [HOST, NAME]);
        let evidence = &run.tried().evidence;
        assert_eq!(
            evidence.tls_policy.as_deref(),
            Some("opportunistic (config)")
        );
        let session = &run.tried().sessions[0];
        assert_eq!(session.policy, TlsPolicyType::NoPolicyFound);
    }
    // An alias that is not signed, or none.
    for answer in [
        Err(DnsFailure::NoRecord),
        Ok(Alias {
            target: "real.example.org".into(),
            authentic: false,
        }),
    ] {
        let mut world = plain();
        let found = addresses(&mut world, HOST);
        (found.authentic, found.canonical) = (false, Some("real.example.org".into()));
        world.aliases.insert(HOST.into(), answer);
        let run = world.run();
        assert_eq!(run.fates(), "d");
        assert_eq!(run.resolves, [HOST, "alias mx.example.net"]);
    }
}

/// DANE-03: TLS, whoever is at the other end.
#[test]
fn dane_03_records_that_cannot_be_used_ask_for_tls_alone() {
    let (server, other) = (Server::new("other.example", true), Server::good());
    let one = record(3, 1, &other.leaf);
    for unusable in [
        Tlsa {
            usage: 0,
            ..one.clone()
        },
        Tlsa {
            usage: 1,
            ..one.clone()
        },
        Tlsa {
            selector: 9,
            ..one.clone()
        },
        Tlsa {
            matching: 9,
            ..one.clone()
        },
        Tlsa {
            data: vec![0; 31],
            ..one
        },
    ] {
        let mut world = with_records(server.script(), vec![unusable]);
        let run = world.run();
        assert_eq!(run.fates(), "d");
        assert!(world.mx().taken()[0].tls);
        let evidence = &run.tried().evidence;
        let policy = evidence.tls_policy.as_deref().unwrap();
        assert_eq!(policy, "require (dane, no TLSA record can be used)");
        assert_eq!(evidence.tls_failure, Some(TlsFailureKind::TlsaInvalid));
    }
}

/// RFC 7672 §2.2.2: the name at the end of the aliases first, then the host's own.
#[test]
fn an_alias_has_its_records_under_either_name() {
    const REAL: &str = "_25._tcp.real.example.org";
    let (server, other) = (Server::new("real.example.org", false), Server::good());
    // Whose records are where, and what the server must be.
    for (expanded, own, good) in [
        (Some(&server), None, true),
        (Some(&server), Some(&other), true),
        (Some(&other), Some(&server), false),
        (None, Some(&server), false),
    ] {
        let mut world = world(server.script());
        addresses(&mut world, HOST).canonical = Some("real.example.org".into());
        for (name, whose) in [(REAL, expanded), (NAME, own)] {
            if let Some(whose) = whose {
                let records = vec![record(2, 1, &whose.root)];
                world.tlsa.insert(name.into(), signed(records));
            }
        }
        let run = world.run();
        // Of usage 2 the certificate must name the host by the name that has the records.
        assert_eq!(run.fates(), if good { "d" } else { "f" });
        assert_eq!(run.resolves[..2], [HOST, REAL]);
        assert_eq!(run.resolves.len(), if expanded.is_some() { 2 } else { 3 });
    }
    // A signed alias of an unsigned host: under its own name.
    let server = Server::good();
    let mut world = with_records(server.script(), vec![record(2, 1, &server.root)]);
    let found = addresses(&mut world, HOST);
    (found.authentic, found.canonical) = (false, Some("real.example.org".into()));
    let alias = Alias {
        target: "real.example.org".into(),
        authentic: true,
    };
    world.aliases.insert(HOST.into(), Ok(alias));
    let run = world.run();
    assert_eq!(run.fates(), "d");
    assert_eq!(run.resolves, [HOST, "alias mx.example.net", NAME]);
    assert_eq!(
        run.tried().evidence.tls_policy.as_deref(),
        Some("dane (TLSA)")
    );
}

/// RFC 7672 §3.2.2: a certificate of usage 2 may name the domain in the place of the host; that proves the
/// host for that domain only, also when the connection is used again.
#[test]
fn a_certificate_for_the_domain_is_none_for_another_domain() {
    let server = Server::new("example.net", false);
    let records = vec![record(2, 1, &server.root)];
    let mut world = with_records(server.script(), records.clone())
        .mail(&Mail::default())
        .mail(&Mail::default());
    world.jobs[2].domain = "other.example".into();
    let run = world.run();
    let fates: Vec<_> = run.reports.iter().map(outcome_of).collect();
    assert_eq!(fates, ['d', 'd', 'f']);
    assert_eq!(run.connects.len(), 2, "the first two share a connection");
    assert_eq!(world.mx().taken().len(), 2);
    // A route's host is asked for by its own name.
    let mut world = with_records(server.script(), records);
    world.lane.route = true;
    assert_eq!(world.run().fates(), "f");
}

fn outcome_of(report: &Report) -> char {
    match report {
        Report::Tried(tried) | Report::Unreachable(tried) => fate(&tried.outcomes[0].1),
        Report::Ended => panic!("no outcome"),
    }
}

/// A connection in clear text that "TLS-Required: No" made is of no use for the next message.
#[test]
fn an_open_connection_is_used_only_for_what_needs_no_more() {
    let server = Server::good();
    let good = record(3, 1, &server.leaf);
    let run_two = |script: Script, first: TlsWish, second: TlsWish, offers: bool| {
        let script = if offers { script } else { Script::default() };
        let mut world = with_records(script, vec![good.clone()]);
        world.jobs.clear();
        let mut world = world.mail(&wishing(first)).mail(&wishing(second));
        let run = world.run();
        let fates: String = run.reports.iter().map(outcome_of).collect();
        let tls: Vec<bool> = world.mx().taken().iter().map(|taken| taken.tls).collect();
        (fates, run.connects.len(), tls)
    };
    use TlsWish::{AsConfigured, NotRequired, Required};
    // Host without TLS: the first goes, the second does not.
    let (fates, connects, tls) = run_two(server.script(), NotRequired, AsConfigured, false);
    assert_eq!((&*fates, connects, tls), ("df", 2, vec![false]));
    // With TLS, judged by nobody: a new connection that is judged.
    let (fates, connects, tls) = run_two(server.script(), NotRequired, AsConfigured, true);
    assert_eq!((&*fates, connects, tls), ("dd", 2, vec![true, true]));
    // What is judged is good for those that do not mind.
    let (fates, connects, _) = run_two(server.script(), AsConfigured, NotRequired, true);
    assert_eq!((&*fates, connects), ("dd", 1));
    // REQUIRETLS on an open connection: verified, and offered or not.
    let requiring = server
        .script()
        .offers(&["REQUIRETLS"])
        .with_tls(&server.tls);
    let (fates, connects, _) = run_two(requiring, AsConfigured, Required, true);
    assert_eq!((&*fates, connects), ("dd", 1));
    let (fates, connects, tls) = run_two(server.script(), AsConfigured, Required, true);
    assert_eq!((&*fates, connects, tls.len()), ("db", 2, 1));
}

/// A message that needs more than the open connection has looks for it from the first host on.
#[test]
fn requiretls_on_an_open_connection_tries_all_hosts_anew() {
    let (first, second) = (
        Server::new("mx1.example.net", false),
        Server::new("mx2.example.net", false),
    );
    let offering = Script::default()
        .offers(&["REQUIRETLS"])
        .with_tls(&first.tls)
        .times(1, "ehlo", vec![Act::Close]);
    let mut world = World::new()
        .host("mx1.example.net", "93.184.216.1", offering)
        .host("mx2.example.net", "93.184.216.2", second.script())
        .lane(&["mx1.example.net:10", "mx2.example.net:20"])
        .mail(&Mail::default())
        .mail(&wishing(TlsWish::Required));
    world.config.dns.trust_ad = true;
    world.lane.authentic = true;
    for (host, server) in [("mx1.example.net", &first), ("mx2.example.net", &second)] {
        addresses(&mut world, host).authentic = true;
        let records = signed(vec![record(3, 1, &server.leaf)]);
        world.tlsa.insert(format!("_25._tcp.{host}"), records);
    }
    let run = world.run();
    let fates: String = run.reports.iter().map(outcome_of).collect();
    assert_eq!(fates, "dd");
    assert_eq!(world.sink("93.184.216.1").taken().len(), 1);
    let taken = world.sink("93.184.216.1").taken();
    assert!(taken[0].mail.ends_with(" REQUIRETLS"), "{taken:?}");
}

/// STS-06: DANE decides where there is DANE; where there is none, MTA-STS does.
#[test]
fn sts_06_dane_goes_before_mta_sts() {
    let (server, other) = (Server::good(), Server::good());
    let case = |records: Option<Vec<Tlsa>>, known: bool, mode: Mode| {
        let mut world = world(server.script());
        if let Some(records) = records {
            world.tlsa.insert(NAME.into(), signed(records));
        }
        if known {
            world.tls = ClientTls::new(vec![server.root.clone()]).unwrap();
        }
        world.lane.sts = Some(mode);
        let run = world.run();
        let tried = run.tried();
        let policy = tried.evidence.tls_policy.clone().unwrap();
        let session = tried.sessions[0].clone();
        (run.fates(), policy, session.policy, session.failure)
    };
    let good = vec![record(3, 1, &server.leaf)];
    let bad = vec![record(3, 1, &other.leaf)];
    let unusable = vec![record(1, 1, &server.leaf)];
    let trust = Some(TlsFailureKind::CertificateNotTrusted);
    let mismatch = Some(TlsFailureKind::ValidationFailure);
    let invalid = Some(TlsFailureKind::TlsaInvalid);
    let (dane, sts) = ("dane (TLSA)", "verify (mta-sts)");
    let tlsa = TlsPolicyType::Tlsa;
    let by_sts = TlsPolicyType::Sts;
    let plain = "opportunistic (config)";
    let not_usable = "verify (mta-sts, no TLSA record can be used)";
    for (records, known, mode, expected) in [
        (Some(good), false, Mode::Enforce, ("d", dane, tlsa, None)),
        (Some(bad), true, Mode::Enforce, ("f", dane, tlsa, mismatch)),
        (
            Some(unusable.clone()),
            true,
            Mode::Enforce,
            ("d", not_usable, tlsa, invalid),
        ),
        (
            Some(unusable),
            false,
            Mode::Enforce,
            ("f", not_usable, tlsa, trust),
        ),
        (None, true, Mode::Enforce, ("d", sts, by_sts, None)),
        (None, false, Mode::Enforce, ("f", sts, by_sts, trust)),
        (None, true, Mode::Testing, ("d", plain, by_sts, None)),
        (None, false, Mode::Testing, ("d", plain, by_sts, trust)),
        (
            None,
            false,
            Mode::None,
            ("d", plain, TlsPolicyType::NoPolicyFound, None),
        ),
    ] {
        let (fates, policy, kind, failure) = case(records, known, mode);
        assert_eq!((&*fates, &*policy, kind, failure), expected, "{mode:?}");
    }
}

/// Three hosts under an enforced policy that names the last one only.
fn strays(server: &Server) -> World {
    let mut world = World::new()
        .host("mx0.example.net", "93.184.216.10", server.script())
        .host(HOST, "93.184.216.1", server.script())
        .host("mx2.example.net", "93.184.216.12", server.script())
        .mail(&Mail::default());
    world.lane = lane(&[
        "mx0.example.net:5",
        "mx.example.net:10",
        "mx2.example.net:20",
    ]);
    world.lane.sts = Some(Mode::Enforce);
    for hop in &mut world.lane.hosts[..2] {
        hop.stray = true;
    }
    world.config.dns.trust_ad = true;
    world.tls = ClientTls::new(vec![server.root.clone()]).unwrap();
    world
}

/// STS-06, RFC 8461 §2, §8.4: a host that the policy does not name is as one that cannot be reached, unless
/// DANE decides over it.
#[test]
fn sts_06_a_host_outside_the_policy_is_used_under_dane_only() {
    let (server, third, other) = (
        Server::good(),
        Server::new("mx2.example.net", false),
        Server::good(),
    );
    let host_of = |run: &Run| run.tried().evidence.host.clone().unwrap();
    // Nothing is signed: the strays are not even looked for.
    let mut world = strays(&third);
    let run = world.run();
    assert_eq!((&*run.fates(), &*host_of(&run)), ("d", "mx2.example.net"));
    assert_eq!(run.resolves, ["mx2.example.net"]);
    let sessions = &run.tried().sessions;
    let told: Vec<_> = sessions.iter().map(|s| (s.policy, s.failure)).collect();
    let stray = (TlsPolicyType::Sts, Some(TlsFailureKind::ValidationFailure));
    assert_eq!(told, [stray, stray, (TlsPolicyType::Sts, None)]);
    // All is signed, and the second has records: good ones decide, whatever the policy names.
    let good = vec![record(3, 1, &server.leaf)];
    let bad = vec![record(3, 1, &other.leaf)];
    let unusable = vec![record(1, 1, &server.leaf)];
    for (answer, fates, host) in [
        (Some(signed(good)), "d", HOST),
        // DANE that fails is not mended by MTA-STS; the next host may do.
        (Some(signed(bad)), "f", HOST),
        (Some(Err(servfail())), "f", "mx2.example.net"),
        // Records that cannot be used prove nothing: the policy rules.
        (Some(signed(unusable)), "f", "mx2.example.net"),
        (None, "f", "mx2.example.net"),
    ] {
        // The third host's certificate is not its own: it fails the policy.
        let mut world = strays(&server);
        world.lane.authentic = true;
        for host in ["mx0.example.net", HOST, "mx2.example.net"] {
            addresses(&mut world, host).authentic = true;
        }
        if let Some(answer) = answer.clone() {
            world.tlsa.insert(NAME.into(), answer);
        }
        let run = world.run();
        assert_eq!(run.fates(), fates, "{answer:?}");
        let tls = reason(run.outcome()).stage == "tls";
        assert!(fates == "d" || tls, "{answer:?}");
        let before = run.tried().evidence.before.join("; ");
        assert!(before.contains("does not name this host"), "{before}");
        assert!(host_of(&run) == host || before.contains(HOST), "{before}");
        assert!(fates == "d" || silent(&world), "{answer:?}");
    }
    // None is left: it waits, and never bounces.
    let mut world = strays(&server);
    world.lane.hosts.pop();
    let run = world.run();
    assert_eq!(run.fates(), "f");
    assert_eq!(reason(run.outcome()).rule, "mta-sts-mx");
    assert!(run.resolves.is_empty() && silent(&world));
}

/// More hosts outside a policy than are tried in one attempt hide none that it names.
#[test]
fn strays_take_no_places() {
    let server = Server::good();
    let mut world = World::new().host(HOST, "93.184.216.1", server.script());
    let names: Vec<String> = (0..12).map(|n| format!("stray{n}.example.net:5")).collect();
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.push("mx.example.net:10");
    world.lane = lane(&names);
    world.lane.sts = Some(Mode::Enforce);
    for hop in &mut world.lane.hosts[..12] {
        hop.stray = true;
    }
    world.tls = ClientTls::new(vec![server.root.clone()]).unwrap();
    assert_eq!(world.mail(&Mail::default()).run().fates(), "d");
}

/// RFC 8689 §4.2.2: such a message goes to any host.
#[test]
fn tls_required_no_goes_to_a_host_outside_the_policy() {
    let server = Server::new("other.example", true);
    let mut world = strays(&server);
    world.jobs.clear();
    let mut world = world.mail(&wishing(TlsWish::NotRequired));
    let run = world.run();
    assert_eq!(run.fates(), "d");
    assert_eq!(
        run.tried().evidence.host.as_deref(),
        Some("mx0.example.net")
    );
}

/// RFC 8689 §4.2.1: MTA-STS is as good a proof of the host's name as DNSSEC.
#[test]
fn requiretls_goes_by_mta_sts_too() {
    let server = Server::good();
    for (mode, fates) in [
        (Some(Mode::Enforce), "d"),
        (Some(Mode::Testing), "b"),
        (None, "b"),
    ] {
        let script = Script::default()
            .offers(&["REQUIRETLS"])
            .with_tls(&server.tls);
        let mut world = World::with(script).mail(&wishing(TlsWish::Required));
        world.tls = ClientTls::new(vec![server.root.clone()]).unwrap();
        world.lane.sts = mode;
        assert_eq!(world.run().fates(), fates, "{mode:?}");
    }
}

/// A route says how TLS begins, whatever its port.
#[test]
fn a_route_speaks_tls_at_once_where_it_says_so() {
    let server = Server::good();
    for (mode, implicit, fates) in [
        (Some(TlsMode::Implicit), true, "d"),
        (None, false, "d"),
        (Some(TlsMode::StartTls), false, "d"),
    ] {
        let script = Script {
            implicit_tls: implicit,
            ..server.script()
        };
        let mut world = world(script);
        world.lane.route = true;
        world.lane.tls_mode = mode;
        let run = world.run();
        assert_eq!(run.fates(), fates, "{mode:?}");
        assert!(world.mx().taken()[0].tls);
    }
}

/// What a report counts: sessions under TLS, and what took their place.
#[test]
fn sessions_are_noted_where_tls_was_tried() {
    let server = Server::good();
    let sessions = |world: World| {
        let mut world = world;
        world.lane.authentic = false;
        let run = world.run();
        let sessions = run.tried().sessions.iter();
        sessions.map(|session| session.failure).collect::<Vec<_>>()
    };
    let none = Some(TlsFailureKind::StarttlsNotSupported);
    let failed = Some(TlsFailureKind::ValidationFailure);
    let refuses = server.script().on("starttls", say("454 4.7.0 not now"));
    let breaks = server.script().on("starttls", vec![Act::Close]);
    assert_eq!(sessions(world(server.script())), [None]);
    assert_eq!(sessions(world(Script::default())), [none]);
    assert_eq!(sessions(world(refuses)), [none]);
    // The connection in clear text that takes its place is no session of its own.
    assert_eq!(sessions(world(breaks)), [failed]);
    // What ends before TLS, is not to be under TLS, or is no mail exchanger.
    for command in ["ehlo", "starttls"] {
        let busy = server.script().on(command, say("421 4.3.2 busy"));
        assert_eq!(sessions(world(busy)), []);
    }
    let mut greets = server.script();
    greets.greeting = say("554 5.3.2 no service");
    assert_eq!(sessions(world(greets)), []);
    assert_eq!(sessions(world(server.script()).level(TlsLevel::None)), []);
    let mut route = world(server.script());
    route.lane.route = true;
    assert_eq!(sessions(route), []);
    // A second message on the same connection.
    let mut world = world(server.script()).mail(&Mail::default());
    let run = world.run();
    let counts: Vec<usize> = run
        .reports
        .iter()
        .map(|report| match report {
            Report::Tried(tried) | Report::Unreachable(tried) => tried.sessions.len(),
            Report::Ended => 0,
        })
        .collect();
    assert_eq!(counts, [1, 0]);
}

/// `tls = "dane"`: a host is connected to if TLSA records say whom to expect there, and not otherwise.
#[test]
fn where_dane_is_demanded_mail_waits_for_records() {
    let server = Server::good();
    let good = || vec![record(3, 1, &server.leaf)];
    let unsigned = |records| {
        let mut set = signed(records);
        set.as_mut().unwrap().authentic = false;
        set
    };
    let mut not_signed = world(server.script());
    not_signed.tlsa.insert(NAME.into(), unsigned(good()));
    let mut insecure_mx = with_records(server.script(), good());
    insecure_mx.lane.authentic = false;
    let mut insecure_host = with_records(server.script(), good());
    addresses(&mut insecure_host, HOST).authentic = false;
    let mut unbelieved = with_records(server.script(), good());
    unbelieved.config.dns.trust_ad = false;
    let mut by_address = world(server.script()).lane(&["192.0.2.1"]);
    by_address.lane.route = true;
    let unusable = || vec![record(1, 1, &server.leaf)];
    let relaxed = |world: World| world.mail(&wishing(TlsWish::NotRequired));
    let mut both = relaxed(world(server.script()));
    both.lane.sts = Some(Mode::Enforce);
    for (what, world, why) in [
        ("no records", world(server.script()), "no TLSA records"),
        ("not signed", not_signed, "none that are signed"),
        (
            "unusable",
            with_records(server.script(), unusable()),
            "can be used",
        ),
        (
            "none left",
            with_records(server.script(), Vec::new()),
            "can be used",
        ),
        ("insecure MX", insecure_mx, "are not signed (DNSSEC)"),
        ("insecure host", insecure_host, "none that are signed"),
        ("no trust_ad", unbelieved, "none that are signed"),
        ("an address", by_address, "are not signed (DNSSEC)"),
        ("TLS-Required: No", both, "no TLSA records"),
    ] {
        let mut world = world.level(TlsLevel::Dane);
        let run = world.run();
        assert!(
            run.fates().chars().all(|fate| fate == 'f'),
            "{what}: {}",
            run.fates()
        );
        assert!(run.connects.is_empty(), "{what}");
        let tried = run.tried();
        let reason = reason(run.outcome());
        assert_eq!(
            (&*reason.rule, &*reason.status),
            ("dane-required", "4.7.5"),
            "{what}"
        );
        assert!(reason.text.contains(why), "{what}: {reason:?}");
        assert_eq!(
            tried.evidence.tls_failure,
            Some(TlsFailureKind::DaneRequired)
        );
        let by = if what == "an address" {
            "route"
        } else {
            "config"
        };
        let policy = format!("dane ({by})");
        assert_eq!(tried.evidence.tls_policy.as_ref(), Some(&policy));
    }
    // What the configuration demands is kept even where the sender asks for less.
    let mut world = relaxed(with_records(server.script(), good())).level(TlsLevel::Dane);
    let run = world.run();
    assert!(run.fates().chars().all(|fate| fate == 'd'));
    assert_eq!(world.mx().taken().len(), 2);
    assert!(world.mx().taken().iter().all(|mail| mail.tls));
}
