//! Both runtimes over real sockets: the same replies, shutting down, reloading, limits, administration.
#![allow(missing_docs, unreachable_pub, dead_code, clippy::unwrap_used)]

mod rig;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use relay_core::admin::{AdminRequest, AdminResponse};
use relay_core::config::Config;
use rig::client::Client;
use rig::receiver::Receiver;
use rig::{BOTH, DEADLINE, Dir, GRACE, HOSTNAME, Kind, Relay, config_with_listeners, draft, until};
use runtime_std::hub::Options;
use runtime_std::load::{self, Purpose};
use serde_json::Value;

/// The replies of one runtime to the dialogue, a line each.
fn dialogue(kind: Kind) -> Vec<String> {
    let (dir, receiver) = (Dir::new(), Receiver::start());
    let relay = Relay::start(kind, config_with_listeners(&dir, receiver.address()));
    let mut client = None;
    let mut burst = String::new();
    let mut replies = Vec::new();
    for (number, line) in include_str!("data/dialogue.txt").lines().enumerate() {
        let place = format!("{kind:?}, line {}", number + 1);
        if let Some(text) = line.strip_prefix("C:") {
            burst.push_str(text.strip_prefix(' ').unwrap_or(text));
            burst.push_str("\r\n");
            continue;
        }
        if !burst.is_empty() {
            let client: &mut Client = client.as_mut().unwrap();
            client.send(std::mem::take(&mut burst).as_bytes());
        }
        match line.split_at_checked(2) {
            Some(("==", name)) => {
                let names = ["plain", "starttls", "implicit"];
                let listener = names.iter().position(|known| *known == name.trim());
                client = Some(Client::connect(relay.address(listener.unwrap())));
            }
            Some(("T:", _)) => client.as_mut().unwrap().start_tls(),
            Some(("S:", wanted)) => {
                let reply = masked(&client.as_mut().unwrap().reply());
                let wanted = wanted.trim();
                let fits = match wanted.strip_suffix('*') {
                    Some(start) => reply.starts_with(start),
                    None => reply == wanted,
                };
                assert!(fits, "{place}: {wanted} is not {reply}");
                replies.push(reply);
            }
            Some(_) | None => assert!(line.is_empty() || line.starts_with('#'), "{place}"),
        }
    }
    let accepted = replies.iter().filter(|reply| reply.contains("queued as"));
    let accepted = accepted.count();
    until("all is delivered", || receiver.count() == accepted);
    assert!(receiver.has("\r\n.a line with a dot\r\n"));
    assert!(relay.shut_down(GRACE), "{kind:?}");
    replies
}

/// A reply with ID in the place of a message's id, and without the time in FUTURERELEASE.
fn masked(reply: &str) -> String {
    let is_timed = |line: &&str| !line.contains("FUTURERELEASE ");
    let reply = reply
        .lines()
        .filter(is_timed)
        .collect::<Vec<_>>()
        .join("\n");
    match reply.split_once("queued as ") {
        Some((start, id)) => {
            assert!(id.parse::<relay_core::id::MessageId>().is_ok(), "{reply}");
            format!("{start}queued as ID")
        }
        None => reply,
    }
}

#[test]
fn the_same_dialogue_has_the_same_replies() {
    assert_eq!(dialogue(Kind::Std), dialogue(Kind::Smol));
}

#[test]
fn a_shutdown_ends_idle_sessions_and_lets_a_message_finish() {
    for kind in BOTH {
        let (dir, receiver) = (Dir::new(), Receiver::start());
        let config = || config_with_listeners(&dir, receiver.address());
        let relay = Relay::start(kind, config());
        let mut idle = Client::connect(relay.address(0));
        idle.hello();
        let mut greeted = Client::connect_tls(relay.address(2));
        assert!(greeted.reply().starts_with("220 "));
        let mut busy = Client::connect(relay.address(0));
        busy.hello();
        busy.log_in();
        busy.expect("MAIL FROM:<a@example.com>", "250 ");
        busy.expect("RCPT TO:<b@example.net>", "250 ");
        busy.expect("DATA", "354 ");
        busy.send(b"From: a@example.com\r\nSubject: half of it\r\n\r\n");
        let address = relay.address(0);
        let stopping = std::thread::spawn(move || relay.shut_down(GRACE));
        for client in [&mut idle, &mut greeted] {
            let reply = client.reply();
            assert!(reply.starts_with("421 4.3.2 "), "{kind:?}: {reply}");
            assert_eq!(client.reply(), "", "{kind:?}: it is closed");
        }
        until("nobody is let in", || TcpStream::connect(address).is_err());
        busy.send(b"the other half\r\n.\r\n");
        let queued = busy.reply();
        assert!(queued.starts_with("250 2.0.0 Ok: queued as "), "{queued}");
        let reply = busy.reply();
        assert!(reply.starts_with("421 4.3.2 "), "{kind:?}: {reply}");
        assert!(stopping.join().unwrap(), "{kind:?}: all ended in time");
        // Shutting down starts no delivery; the next start does.
        let relay = Relay::start(kind, config());
        until("it is delivered", || receiver.has("the other half"));
        assert!(relay.shut_down(GRACE));
    }
}

#[test]
fn a_delivery_that_runs_ends_before_the_relay_does() {
    for kind in BOTH {
        let (dir, receiver) = (Dir::new(), Receiver::start());
        receiver.hang(true);
        let relay = Relay::start(kind, config_with_listeners(&dir, receiver.address()));
        relay.submit(draft("on its way")).unwrap();
        until("the dot is not answered", || receiver.is_hanging());
        let stopping = std::thread::spawn(move || relay.shut_down(GRACE));
        std::thread::sleep(Duration::from_millis(100));
        assert!(!stopping.is_finished(), "{kind:?}: it waits for the answer");
        receiver.hang(false);
        assert!(stopping.join().unwrap(), "{kind:?}");
        assert_eq!(receiver.count(), 1);
        let relay = Relay::start(kind, config_with_listeners(&dir, receiver.address()));
        let status = relay.hub().admin(AdminRequest::Status).wait();
        let AdminResponse::Status(status) = status else {
            panic!("{status:?}");
        };
        assert_eq!(status.messages, 0, "{kind:?}: nothing is left of it");
        assert!(relay.shut_down(GRACE));
        assert_eq!(receiver.count(), 1, "{kind:?}: it is not delivered again");
    }
}

/// A port where nobody listens.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A configuration file, and the certificate that it names.
fn write_config(dir: &Path, port: u16, size: &str, serial: u64) -> Vec<u8> {
    let mut params = rcgen::CertificateParams::new(vec![HOSTNAME.to_owned()]).unwrap();
    params.serial_number = Some(serial.into());
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    std::fs::write(dir.join("cert.pem"), certificate.pem()).unwrap();
    std::fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
    let text = format!(
        "hostname = \"{HOSTNAME}\"\n\
         data_dir = \"{0}/data\"\n\
         [tls]\ncertificate = \"{0}/cert.pem\"\nkey = \"{0}/key.pem\"\n\
         [limits]\nmessage_size = \"{size}\"\n\
         [[listener]]\naddress = \"127.0.0.1:{port}\"\ntls = \"implicit\"\n",
        dir.display()
    );
    std::fs::write(dir.join("relay.toml"), text).unwrap();
    certificate.der().to_vec()
}

#[test]
fn a_reload_changes_configuration_and_certificate_and_drops_nobody() {
    for kind in BOTH {
        let dir = Dir::new();
        let port = free_port();
        let first = write_config(dir.path(), port, "1MiB", 1);
        let options = load::Options {
            config: Some(dir.path().join("relay.toml")),
            data_dir: None,
        };
        let loaded = load::load(&options, Purpose::Start).unwrap();
        let hub_options = Options {
            load: Some(options),
            admin: true,
            ..Options::default()
        };
        let relay = Relay::start_loaded(kind, loaded, hub_options).unwrap();
        let socket = dir.path().join("data/admin.sock");
        let mut old = Client::connect_tls(relay.address(0));
        assert!(old.hello().contains("SIZE 1048576"), "{kind:?}");
        assert_eq!(old.certificate(), first);

        // What is wrong changes nothing.
        std::fs::write(dir.path().join("relay.toml"), "hostnam = 1\n").unwrap();
        let (status, body) = unix(&socket, "POST /api/v1/reload", "");
        assert_eq!(status, 409, "{body}");
        assert!(body.contains("hostnam"), "{body}");
        let mut same = Client::connect_tls(relay.address(0));
        assert!(same.hello().contains("SIZE 1048576"), "{kind:?}");

        let second = write_config(dir.path(), port, "2MiB", 2);
        let (status, body) = unix(&socket, "POST /api/v1/reload", "");
        assert_eq!(status, 200, "{body}");
        assert!(body.contains("message_size"), "{body}");
        let mut new = Client::connect_tls(relay.address(0));
        assert!(new.hello().contains("SIZE 2097152"), "{kind:?}");
        assert_eq!(new.certificate(), second);
        old.expect("NOOP", "250 ");
        old.expect("QUIT", "221 ");
        drop((same, new));
        assert!(relay.shut_down(GRACE));
    }
}

#[test]
fn above_the_limits_a_421_and_room_again_after_a_quit() {
    for kind in BOTH {
        for (all, each, code) in [(2, 100, "421 4.3.2 "), (100, 2, "421 4.7.0 ")] {
            let (dir, receiver) = (Dir::new(), Receiver::start());
            let mut config = config_with_listeners(&dir, receiver.address());
            config.limits.connections = all;
            config.limits.connections_per_ip = each;
            let relay = Relay::start(kind, config);
            let mut first = Client::connect(relay.address(0));
            first.hello();
            let mut second = Client::connect(relay.address(1));
            second.hello();
            let mut third = Client::connect(relay.address(0));
            let reply = third.reply();
            assert!(reply.starts_with(code), "{kind:?}: {reply}");
            assert_eq!(third.reply(), "", "it is closed");
            first.expect("QUIT", "221 ");
            assert_eq!(first.reply(), "");
            until("there is room", || {
                Client::connect(relay.address(0))
                    .reply()
                    .starts_with("220 ")
            });
            second.expect("NOOP", "250 ");
            drop(second);
            assert!(relay.shut_down(GRACE));
        }
    }
}

/// Sends a request of this text and returns the status and the body of the response.
fn http(mut stream: impl Read + Write, head: &str, headers: &str, body: &str) -> (u16, String) {
    let request = format!(
        "{head} HTTP/1.1\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    raw(&mut stream, request.as_bytes())
}

fn raw(stream: &mut (impl Read + Write), request: &[u8]) -> (u16, String) {
    stream.write_all(request).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let status = response.get(9..12).unwrap_or_default().parse();
    let body = response.split_once("\r\n\r\n").map(|(_, body)| body);
    (status.unwrap_or(0), body.unwrap_or_default().to_owned())
}

fn unix(socket: &Path, head: &str, body: &str) -> (u16, String) {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    http(stream, head, "Host: relay\r\n", body)
}

/// The JSON of an answer that must be 200.
fn json(answer: (u16, String)) -> Value {
    assert_eq!(answer.0, 200, "{}", answer.1);
    serde_json::from_str(&answer.1).unwrap()
}

fn with_admin(dir: &Dir, receiver: &Receiver) -> (Config, Options) {
    let mut config = config_with_listeners(dir, receiver.address());
    config.admin = Some(([127, 0, 0, 1], 0).into());
    // What fails waits for the administrator.
    config.delivery.retry = vec![Duration::from_secs(600)];
    let options = Options {
        admin: true,
        ..Options::default()
    };
    (config, options)
}

#[test]
fn an_administrator_sees_holds_releases_bounces_and_removes() {
    for kind in BOTH {
        let (dir, receiver) = (Dir::new(), Receiver::start());
        let (mut config, options) = with_admin(&dir, &receiver);
        let nobody = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()));
        config.routes[0].hosts = vec![nobody.into()];
        let relay = Relay::start_with(kind, config.clone(), options);
        let socket = dir.path().join("admin.sock");
        let get = |path: &str| json(unix(&socket, &format!("GET {path}"), ""));
        let post = |action: &str, selector: &str| {
            let head = format!("POST /api/v1/queue/{action}");
            json(unix(&socket, &head, selector))["messages"].as_u64()
        };
        let submit = |subject: &str| relay.submit(draft(subject)).unwrap().to_string();
        let ids = [submit("one"), submit("two"), submit("three")];
        until("each was tried", || {
            let list = get("/api/v1/queue");
            let jobs = |entry: &Value| entry["jobs"][0]["state"] == "waiting";
            list.as_array().unwrap().iter().filter(|e| jobs(e)).count() >= 1
        });
        let status = get("/api/v1/status");
        assert_eq!(status["hostname"], HOSTNAME);
        assert_eq!(
            (&status["messages"], &status["accepted"]),
            (&3.into(), &3.into())
        );
        let list = get("/api/v1/queue?limit=2");
        assert_eq!(list.as_array().unwrap().len(), 2, "{list}");
        assert_eq!(list[0]["id"], ids[0].as_str());
        let rest = get(&format!("/api/v1/queue?after={}", ids[1]));
        assert_eq!(rest[0]["id"], ids[2].as_str());
        let none = get("/api/v1/queue?domain=elsewhere.example");
        assert_eq!(none.as_array().unwrap().len(), 0);

        let one = format!("{{\"id\":\"{}\"}}", ids[0]);
        assert_eq!(post("hold", &one), Some(1));
        assert_eq!(get(&format!("/api/v1/queue/{}", ids[0]))["held"], true);
        assert_eq!(get("/api/v1/status")["held"], 1);

        let two = format!("{{\"id\":\"{}\"}}", ids[1]);
        assert_eq!(post("remove", &two), Some(1));
        let gone = unix(&socket, &format!("GET /api/v1/queue/{}", ids[1]), "");
        assert_eq!(gone.0, 404);

        // Now somebody takes mail: what is retried arrives, what is held does not, what is bounced is
        // reported.
        config.routes[0].hosts = vec![receiver.address().into()];
        relay.hub().apply(load::from_config(config).unwrap());
        assert_eq!(post("retry", "{\"domain\":\"example.net\"}"), Some(1));
        until("it is delivered", || receiver.has(&ids[2]));
        assert!(!receiver.has(&ids[0]), "{kind:?}: it is held");
        assert_eq!(post("bounce", &one), Some(1));
        until("the sender is told", || receiver.has("multipart/report"));
        let story = get(&format!("/api/v1/trace/{}", ids[0])).to_string();
        for told in ["accepted", "held", "bounced", "administrator"] {
            assert!(story.contains(told), "{kind:?}: {told} is not in {story}");
        }

        let four = submit("four");
        until("it is delivered", || receiver.has(&four));
        until("its story tells it", || {
            let story = get(&format!("/api/v1/trace/{four}")).to_string();
            story.contains("\"delivered\"")
        });
        let unknown = unix(&socket, "GET /api/v1/trace/0000000000001", "");
        assert_eq!(unknown.0, 404);
        let reload = unix(&socket, "POST /api/v1/reload", "");
        assert_eq!(reload.0, 409, "an embedder's relay: {}", reload.1);
        assert!(relay.shut_down(GRACE));
    }
}

#[test]
fn a_released_message_goes_out() {
    for kind in BOTH {
        let (dir, receiver) = (Dir::new(), Receiver::start());
        receiver.hang(true);
        let (config, options) = with_admin(&dir, &receiver);
        let relay = Relay::start_with(kind, config, options);
        let socket = dir.path().join("admin.sock");
        // The first one keeps the only connection of a new lane busy; the second one waits behind it.
        relay.submit(draft("first")).unwrap();
        until("the lane is busy", || receiver.is_hanging());
        let held = relay.submit(draft("held")).unwrap().to_string();
        let one = format!("{{\"id\":\"{held}\"}}");
        assert_eq!(unix(&socket, "POST /api/v1/queue/hold", &one).0, 200);
        receiver.hang(false);
        until("the first is delivered", || receiver.has("Subject: first"));
        std::thread::sleep(Duration::from_millis(100));
        assert!(!receiver.has(&held), "{kind:?}");
        assert_eq!(unix(&socket, "POST /api/v1/queue/release", &one).0, 200);
        until("it is delivered", || receiver.has(&held));
        assert!(relay.shut_down(GRACE));
    }
}

#[test]
fn over_tcp_the_name_and_the_header_count_and_nonsense_is_refused() {
    for kind in BOTH {
        let (dir, receiver) = (Dir::new(), Receiver::start());
        let (config, options) = with_admin(&dir, &receiver);
        let relay = Relay::start_with(kind, config, options);
        let address = relay.hub().admin_address().unwrap();
        let connect = || {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            stream
        };
        let ours = format!("Host: {address}\r\n");
        let proven = format!("{ours}X-Relay-Admin: 1\r\n");
        let foreign = "Host: evil.example\r\nX-Relay-Admin: 1\r\n";
        let hold = "POST /api/v1/queue/hold";
        assert_eq!(http(connect(), "GET /api/v1/status", &ours, "").0, 200);
        assert_eq!(http(connect(), "GET /", &ours, "").0, 200);
        assert_eq!(http(connect(), "GET /api/v1/status", foreign, "").0, 403);
        assert_eq!(http(connect(), hold, &ours, "{}").0, 403);
        assert_eq!(http(connect(), hold, foreign, "{}").0, 403);
        assert_eq!(http(connect(), hold, &proven, "{}").0, 200);
        assert_eq!(raw(&mut connect(), b"EHLO client.example\r\n\r\n").0, 400);
        assert_eq!(
            raw(&mut connect(), b"GET / HTTP/1.1\r\nbroken\r\n\r\n").0,
            400
        );
        let endless = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'x'; 17_000]].concat();
        assert_eq!(raw(&mut connect(), &endless).0, 431);
        // One that says nothing holds nobody up, and not the relay's end either.
        let silent = connect();
        assert_eq!(http(connect(), "GET /api/v1/status", &ours, "").0, 200);
        assert!(relay.shut_down(GRACE), "{kind:?}");
        drop(silent);
    }
}

#[test]
fn the_unix_socket_is_for_its_owner_and_a_stale_one_is_replaced() {
    use std::os::unix::fs::PermissionsExt as _;
    for kind in BOTH {
        let (dir, receiver) = (Dir::new(), Receiver::start());
        for _ in 0..2 {
            let (config, options) = with_admin(&dir, &receiver);
            let relay = Relay::start_with(kind, config, options);
            let socket = dir.path().join("admin.sock");
            let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{kind:?}");
            assert_eq!(unix(&socket, "GET /api/v1/status", "").0, 200);
            assert!(relay.shut_down(GRACE));
        }
    }
}

#[test]
fn an_address_in_use_is_named() {
    for kind in BOTH {
        let (dir, receiver) = (Dir::new(), Receiver::start());
        let mut config = config_with_listeners(&dir, receiver.address());
        config.listeners[0].address = receiver.address();
        let error = Relay::try_start(kind, config, Options::default())
            .err()
            .unwrap();
        let address = receiver.address().to_string();
        assert!(error.contains(&address), "{kind:?}: {error}");
    }
}

#[test]
fn many_clients_at_once_lose_nothing() {
    const CLIENTS: usize = 20;
    const MESSAGES: usize = 10;
    for kind in BOTH {
        let (dir, receiver) = (Dir::new(), Receiver::start());
        let relay = Relay::start(kind, config_with_listeners(&dir, receiver.address()));
        let receiver = Arc::new(receiver);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|n| {
                let address = relay.address(if n % 2 == 0 { 0 } else { 2 });
                std::thread::spawn(move || {
                    let mut client = if n % 2 == 0 {
                        Client::connect(address)
                    } else {
                        Client::connect_tls(address)
                    };
                    client.hello();
                    client.log_in();
                    let submit = |m| client.submit(&format!("number {n}-{m}"));
                    (0..MESSAGES).map(submit).collect::<Vec<_>>()
                })
            })
            .collect();
        let ids: Vec<String> = clients
            .into_iter()
            .flat_map(|c| c.join().unwrap())
            .collect();
        until("all are delivered", || receiver.count() >= ids.len());
        assert!(ids.iter().all(|id| receiver.has(id)), "{kind:?}");
        assert_eq!(receiver.count(), CLIENTS * MESSAGES, "{kind:?}: none twice");
        assert!(relay.shut_down(GRACE));
    }
}
