//! Group STS: what MTA-STS policies, their hosts and their failures make of a delivery.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use relay_core::dns::zone::Zone;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::bodies::HEADERS;
use super::names::Names;
use super::outbound::{Fate, TO, fate};
use super::relay::{Relay, route};
use super::sink::{Script, Sink};
use super::{Row, Runtime, Trouble, ensure, tls};

pub(super) fn rows() -> Vec<Row> {
    vec![
        Row::scene("STS-01", enforced),
        Row::scene("STS-02", kept),
        Row::scene("STS-03", hostile),
        Row::scene("STS-05", private_host),
        Row::scene("STS-06", the_rest_is_filtered),
    ]
}

const DOMAIN: &str = "server.example";
const MX: &str = "mx.server.example";
const HOST: &str = "mta-sts.server.example";
const RECORD: &str = "_mta-sts.server.example";

/// An answer with this policy.
fn serving(policy: &str) -> Vec<u8> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain";
    format!("{head}\r\nContent-Length: {}\r\n\r\n{policy}", policy.len()).into_bytes()
}

fn enforcing(mx: &str) -> String {
    format!("version: STSv1\r\nmode: enforce\r\nmx: {mx}\r\nmax_age: 86400\r\n")
}

/// How the host of a policy takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    AtOnce,
    /// An octet a second.
    Drips,
    /// It hears the request, and says nothing.
    Silent,
    /// Not even a handshake.
    Mute,
}

/// The host of a policy: to every request it answers the same. It ends when this is dropped.
struct PolicyHost {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    connections: AtomicUsize,
    asked: Mutex<Vec<u8>>,
    over: Mutex<bool>,
}

impl PolicyHost {
    fn start(tls: Arc<ServerConfig>, answer: Vec<u8>, pace: Pace) -> Result<Self, Trouble> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let host = Self {
            address: listener.local_addr()?,
            shared: Arc::default(),
        };
        let shared = Arc::clone(&host.shared);
        thread::Builder::new().spawn(move || {
            for stream in listener.incoming() {
                if *shared.over.lock().unwrap_or_else(PoisonError::into_inner) {
                    return;
                }
                shared.connections.fetch_add(1, Ordering::Relaxed);
                let Ok(stream) = stream else { continue };
                // A relay that gives up in the middle is what most of the tests are about.
                let _ = serve(stream, &tls, &answer, pace, &shared);
            }
        })?;
        Ok(host)
    }

    fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    fn asked(&self) -> String {
        let asked = self
            .shared
            .asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&asked).to_lowercase()
    }
}

impl Drop for PolicyHost {
    fn drop(&mut self) {
        *self
            .shared
            .over
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = true;
        let _ = std::net::TcpStream::connect(self.address);
    }
}

fn serve(
    stream: std::net::TcpStream,
    tls: &Arc<ServerConfig>,
    answer: &[u8],
    pace: Pace,
    shared: &Shared,
) -> Result<(), Trouble> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut piece = [0; 1024];
    if pace == Pace::Mute {
        let mut stream = stream;
        while stream.read(&mut piece)? > 0 {}
        return Ok(());
    }
    let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(tls))?, stream);
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        let length = stream.read(&mut piece)?;
        if length == 0 {
            return Ok(());
        }
        asked.extend_from_slice(&piece[..length]);
    }
    *shared.asked.lock().unwrap_or_else(PoisonError::into_inner) = asked;
    match pace {
        Pace::AtOnce => stream.write_all(answer)?,
        Pace::Drips => {
            for octet in answer {
                stream.write_all(&[*octet])?;
                thread::sleep(Duration::from_secs(1));
            }
        }
        Pace::Silent | Pace::Mute => while stream.read(&mut piece)? > 0 {},
    }
    stream.conn.send_close_notify();
    stream.flush()?;
    Ok(())
}

/// A receiver at [`MX`], the host of its domain's policy, and a relay that finds both.
struct Scene {
    sink: Sink,
    host: PolicyHost,
    relay: Relay,
    data: PathBuf,
    _names: Names,
    _reports: Sink,
}

/// What differs between scenes.
struct Plan {
    receiver: Script,
    host: Arc<ServerConfig>,
    answer: Vec<u8>,
    pace: Pace,
    record: Option<&'static str>,
    /// What an earlier relay kept is here.
    kept: Option<PathBuf>,
    /// The policy's host is at an address that is refused.
    refused: bool,
}

impl Plan {
    fn new(answer: Vec<u8>) -> Result<Self, Trouble> {
        Ok(Self {
            receiver: Script::default().with_tls(tls::receiver(MX)?),
            host: tls::receiver(HOST)?,
            answer,
            pace: Pace::AtOnce,
            record: Some("v=STSv1; id=1"),
            kept: None,
            refused: false,
        })
    }
}

impl Scene {
    fn start(runtime: Runtime, plan: Plan) -> Result<Self, Trouble> {
        let sink = Sink::start(plan.receiver)?;
        let host = PolicyHost::start(plan.host, plan.answer, plan.pace)?;
        let mut zone = Zone::new()
            .mx(DOMAIN, 10, MX)
            .address(MX, sink.address().ip())
            .address(HOST, host.address.ip());
        if let Some(record) = plan.record {
            zone = zone.txt(RECORD, &[record]);
        }
        if plan.refused {
            zone = Zone::new()
                .mx(DOMAIN, 10, MX)
                .address(MX, sink.address().ip())
                .address(HOST, "127.0.0.3".parse()?)
                .txt(RECORD, &["v=STSv1; id=1"]);
        }
        let names = Names::start(zone)?;
        let reports = Sink::start(Script::default())?;
        let mut data = PathBuf::new();
        let mut copied = Ok(());
        let relay = Relay::start(runtime, |config| {
            config.dns.servers = vec![names.address()];
            config.delivery.port = sink.address().port();
            config.delivery.prohibited_hosts = Vec::new();
            config.mta_sts.port = host.address.port();
            if plan.pace != Pace::AtOnce {
                config.mta_sts.timeout = Duration::from_secs(2);
            }
            config.mta_sts.allow_private = !plan.refused;
            if plan.refused {
                config.delivery.prohibited_hosts = "127.0.0.3/32".parse().into_iter().collect();
            }
            config.routes.push(route("client.example", &reports));
            data.clone_from(&config.data_dir);
            if let Some(kept) = &plan.kept {
                copied = copy(kept, &data.join("kept"));
            }
        })?;
        copied?;
        Ok(Self {
            sink,
            host,
            relay,
            data,
            _names: names,
            _reports: reports,
        })
    }

    fn send(&self) -> Result<Fate, Trouble> {
        let message = format!("{HEADERS}body\r\n");
        self.relay.submit(TO, message.as_bytes())?;
        fate(&self.relay)
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), Trouble> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        fs::copy(&path, to.join(path.file_name().ok_or("no name")?))?;
    }
    Ok(())
}

/// Deferred by this rule, under this policy, and the receiver was not shown a message.
fn deferred(scene: &Scene, fate: &Fate, rule: &str, policy: &str) -> Result<(), Trouble> {
    ensure!(fate.what == "deferred", "{fate:?}");
    ensure!(fate.attempt.reason.rule == rule, "{fate:?}");
    let said = fate.attempt.evidence.mta_sts.as_deref().unwrap_or_default();
    ensure!(said.starts_with(policy), "{fate:?}");
    let notes = scene.sink.notes();
    let told = notes
        .commands
        .iter()
        .any(|(line, _)| line.to_uppercase().starts_with("MAIL"));
    ensure!(!told && notes.taken.is_empty(), "{notes:?}");
    Ok(())
}

/// A place where what a first relay keeps of an enforced policy is found: it allows another host only.
fn keep_a_policy(runtime: Runtime, directory: &Path) -> Result<(), Trouble> {
    let scene = Scene::start(runtime, Plan::new(serving(&enforcing("mx.other.example")))?)?;
    let fate = scene.send()?;
    deferred(&scene, &fate, "mta-sts-mx", "enforce id=1")?;
    let kept = scene.data.join("kept");
    let is_whole = |path: &Path| path.extension().is_some_and(|ending| ending == "json");
    scene.relay.until("the policy to be kept", |_| {
        let entries = fs::read_dir(&kept).into_iter().flatten().flatten();
        entries.into_iter().any(|entry| is_whole(&entry.path()))
    })?;
    copy(&kept, directory)
}

/// STS-01: under an enforced policy only hosts that it names, with a certificate that verifies.
fn enforced(runtime: Runtime) -> Result<String, Trouble> {
    let mut got = Vec::new();
    let good = serving(&enforcing("*.server.example"));
    let receivers = [
        ("verified", Some(tls::receiver(MX)?), None),
        (
            "another name",
            Some(tls::receiver("mx.other.example")?),
            Some("tls-certificate"),
        ),
        (
            "expired",
            Some(tls::expired_receiver(MX)?),
            Some("tls-certificate"),
        ),
        (
            "self-signed",
            Some(tls::self_signed_receiver(MX)?),
            Some("tls-certificate"),
        ),
        ("no STARTTLS", None, Some("tls-required")),
    ];
    for (what, certificate, rule) in receivers {
        let receiver = match certificate {
            Some(tls) => Script::default().with_tls(tls),
            None => Script::default(),
        };
        let scene = Scene::start(
            runtime,
            Plan {
                receiver,
                ..Plan::new(good.clone())?
            },
        )?;
        let fate = scene.send()?;
        match rule {
            Some(rule) => deferred(&scene, &fate, rule, "enforce id=1")?,
            None => {
                ensure!(fate.what == "delivered", "{what}: {fate:?}");
                let policy = fate.attempt.evidence.tls_policy.as_deref();
                ensure!(policy == Some("verify (mta-sts)"), "{what}: {fate:?}");
                let asked = scene.host.asked();
                ensure!(
                    asked.contains("get /.well-known/mta-sts.txt http/1.1"),
                    "{asked}"
                );
                ensure!(!asked.contains("accept-encoding"), "{asked}");
                let status = scene.relay.status()?;
                ensure!(status.mta_sts_enforce == 1, "{status:?}");
            }
        }
        got.push(format!("{what}: {}", fate.words()));
    }
    let scene = Scene::start(runtime, Plan::new(serving(&enforcing("mx.other.example")))?)?;
    let fate = scene.send()?;
    deferred(&scene, &fate, "mta-sts-mx", "enforce id=1")?;
    got.push(format!("not listed: {}", fate.words()));
    Ok(got.join("; "))
}

/// STS-02: what is kept rules on, also over a restart, whatever becomes of the record and of the host.
fn kept(runtime: Runtime) -> Result<String, Trouble> {
    let directory =
        std::env::temp_dir().join(format!("kept-{}-{}", runtime.name(), std::process::id()));
    keep_a_policy(runtime, &directory)?;
    let open = enforcing("*.server.example").len();
    let status = |line: &str| {
        let head = format!("HTTP/1.1 {line}\r\nContent-Type: text/plain\r\nContent-Length: {open}");
        format!("{head}\r\n\r\n{}", enforcing("*.server.example")).into_bytes()
    };
    let moved = "301 Moved\r\nLocation: https://mta-sts.server.example/.well-known/mta-sts.txt";
    let cases = [
        ("the record vanished", None, Vec::new()),
        ("404", Some("v=STSv1; id=2"), status("404 Not Found")),
        ("301", Some("v=STSv1; id=2"), status(moved)),
        ("503", Some("v=STSv1; id=2"), status("503 Later")),
        ("cut off", Some("v=STSv1; id=2"), Vec::new()),
    ];
    let mut got = Vec::new();
    for (what, record, answer) in cases {
        let plan = Plan {
            record,
            kept: Some(directory.clone()),
            ..Plan::new(answer)?
        };
        let scene = Scene::start(runtime, plan)?;
        let fate = scene.send()?;
        deferred(&scene, &fate, "mta-sts-mx", "enforce id=1")
            .map_err(|why| format!("{what}: {why}"))?;
        let most = usize::from(record.is_some());
        ensure!(
            scene.host.connections() == most,
            "{what}: it was asked again"
        );
        got.push(what);
    }
    fs::remove_dir_all(&directory)?;
    Ok(format!("deferred by the kept policy: {}", got.join(", ")))
}

/// STS-03: what is no policy does not take the place of one.
fn hostile(runtime: Runtime) -> Result<String, Trouble> {
    let directory =
        std::env::temp_dir().join(format!("hostile-{}-{}", runtime.name(), std::process::id()));
    keep_a_policy(runtime, &directory)?;
    let none = "version: STSv1\r\nmode: none\r\nmax_age: 86400\r\n";
    let fields = |fields: &str| {
        format!(
            "HTTP/1.1 200 OK\r\n{fields}\r\nContent-Length: {}\r\n\r\n{none}",
            none.len()
        )
        .into_bytes()
    };
    let huge = format!("{none}{}", "x: y\r\n".repeat(11_000_000));
    let cases: [(&str, Vec<u8>); 9] = [
        ("65 MB", serving(&huge)),
        ("text/html", fields("Content-Type: text/html")),
        (
            "gzip",
            fields("Content-Type: text/plain\r\nContent-Encoding: gzip"),
        ),
        ("a bare CR", serving(&none.replace("\r\n", "\r"))),
        (
            "two modes",
            serving(&enforcing("mx.other.example").replace("mx:", "mode: none\r\nmx:")),
        ),
        (
            "max_age of 10^12",
            serving(&none.replace("86400", "1000000000000")),
        ),
        ("no HTTP", b"220 hello\r\n\r\n".to_vec()),
        (
            "an endless head",
            [b"HTTP/1.1 200 OK\r\n".to_vec(), b"X: y\r\n".repeat(50_000)].concat(),
        ),
        ("cut in the middle", serving(none)[..100].to_vec()),
    ];
    let mut got = Vec::new();
    for (what, answer) in cases {
        let kept = Some(directory.clone());
        let plan = Plan {
            record: Some("v=STSv1; id=2"),
            kept,
            ..Plan::new(answer)?
        };
        let scene = Scene::start(runtime, plan)?;
        let fate = scene.send()?;
        deferred(&scene, &fate, "mta-sts-mx", "enforce id=")
            .map_err(|why| format!("{what}: {why}"))?;
        got.push(what);
    }
    for (what, host) in [
        ("another name", tls::receiver("other.example")?),
        ("expired", tls::expired_receiver(HOST)?),
        ("self-signed", tls::self_signed_receiver(HOST)?),
    ] {
        let kept = Some(directory.clone());
        let plan = Plan {
            record: Some("v=STSv1; id=2"),
            host,
            kept,
            ..Plan::new(serving(none))?
        };
        let scene = Scene::start(runtime, plan)?;
        let fate = scene.send()?;
        deferred(&scene, &fate, "mta-sts-mx", "enforce id=1")
            .map_err(|why| format!("{what}: {why}"))?;
        got.push(what);
    }
    for pace in [Pace::Drips, Pace::Silent, Pace::Mute] {
        let slow = |kept| -> Result<Scene, Trouble> {
            let plan = Plan {
                record: Some("v=STSv1; id=2"),
                pace,
                kept,
                ..Plan::new(serving(none))?
            };
            Scene::start(runtime, plan)
        };
        let scene = slow(Some(directory.clone()))?;
        let fate = scene.send()?;
        deferred(&scene, &fate, "mta-sts-mx", "enforce id=1")
            .map_err(|why| format!("{pace:?}: {why}"))?;
        // Where nothing is kept, it keeps no mail back.
        let fate = slow(None)?.send()?;
        ensure!(fate.what == "delivered", "{pace:?}: {fate:?}");
        got.push(match pace {
            Pace::AtOnce => "at once",
            Pace::Drips => "an octet a second",
            Pace::Silent => "no answer",
            Pace::Mute => "no handshake",
        });
    }
    fs::remove_dir_all(&directory)?;
    Ok(format!("nothing opened by: {}", got.join(", ")))
}

/// STS-05: a host at an address of our own network is not connected to.
fn private_host(runtime: Runtime) -> Result<String, Trouble> {
    let answer = serving(&enforcing("mx.other.example"));
    let scene = Scene::start(
        runtime,
        Plan {
            refused: true,
            ..Plan::new(answer)?
        },
    )?;
    let fate = scene.send()?;
    ensure!(fate.what == "delivered", "{fate:?}");
    ensure!(fate.attempt.evidence.mta_sts.is_none(), "{fate:?}");
    ensure!(scene.host.connections() == 0, "it was connected to");
    Ok(format!("not fetched; {}", fate.words()))
}

/// STS-06: DANE decides for hosts that have it (see `sts_06_dane_goes_before_mta_sts` and
/// `sts_06_a_host_outside_the_policy_is_used_under_dane_only` of relay-core); the
/// policy still leaves out hosts that it does not name.
fn the_rest_is_filtered(runtime: Runtime) -> Result<String, Trouble> {
    let testing = enforcing("mx.other.example").replace("enforce", "testing");
    let scene = Scene::start(runtime, Plan::new(serving(&testing))?)?;
    let fate = scene.send()?;
    ensure!(fate.what == "delivered", "{fate:?}");
    let said = fate.attempt.evidence.mta_sts.as_deref().unwrap_or_default();
    ensure!(said.starts_with("testing id=1"), "{fate:?}");
    let scene = Scene::start(runtime, Plan::new(serving(&enforcing("mx.other.example")))?)?;
    let fate = scene.send()?;
    deferred(&scene, &fate, "mta-sts-mx", "enforce id=1")?;
    // RFC 8689 §4.2.2: unless the sender says that delivery matters more.
    let message = format!("TLS-Required: No\r\n{HEADERS}body\r\n");
    scene.relay.submit(TO, message.as_bytes())?;
    scene
        .relay
        .until("the other message to be delivered", |status| {
            status.delivered == 1
        })?;
    let taken = scene.sink.notes().taken.len();
    ensure!(taken == 1, "{taken} messages came");
    Ok(fate.words())
}
