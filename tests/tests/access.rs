//! Both runtimes over real sockets: who gets in, what is told of who does not, and what a reload changes
//! for connections that are open.
#![allow(missing_docs, unreachable_pub, dead_code, clippy::unwrap_used)]

mod rig;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use relay_core::config::{Config, Secret, SenderPattern};
use relay_core::events::{ClientDid, ClientEvent, DeliveryEvent};
use rig::client::Client;
use rig::receiver::Receiver;
use rig::{BOTH, Dir, GRACE, Relay, config_with_listeners, until};
use runtime_std::hub::{EventSink, Options};
use runtime_std::load;

/// Keeps what clients did.
#[derive(Default)]
struct Told(Mutex<Vec<ClientEvent>>);

impl EventSink for Told {
    fn event(&self, _: &DeliveryEvent) {}

    fn client(&self, event: &ClientEvent) {
        self.0.lock().unwrap().push(event.clone());
    }
}

#[test]
fn failed_logins_and_refused_senders_are_told_with_the_address() {
    for kind in BOTH {
        let (dir, receiver) = (Dir::new(), Receiver::start());
        let mut config = config_with_listeners(&dir, receiver.address());
        let senders = vec![SenderPattern::Domain("example.com".parse().unwrap())];
        Arc::make_mut(&mut config.credentials[0]).senders = senders;
        let told = Arc::new(Told::default());
        let options = Options {
            events: vec![Arc::clone(&told) as Arc<dyn EventSink>],
            ..Options::default()
        };
        let relay = Relay::start_with(kind, config, options);
        let mut client = Client::connect(relay.address(0));
        client.hello();
        client.expect(&Client::plain("app\u{7}\"", "wrong"), "535 5.7.8");
        client.log_in();
        client.expect("MAIL FROM:<a@example.org>", "553 5.7.1");
        client.expect("MAIL FROM:<a@example.com>", "250 ");
        client.expect("RCPT TO:<b@example.net>", "250 ");
        client.expect("DATA", "354 ");
        client.expect("From: <x@example.org>\r\n\r\nx\r\n.", "553 5.7.1");
        until("all are told", || told.0.lock().unwrap().len() == 3);
        let told = told.0.lock().unwrap();
        let lines: Vec<_> = told.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines[0],
            "auth-failed peer=127.0.0.1 name=\"app??\": wrong name or secret"
        );
        for (line, place) in lines[1..].iter().zip(["MAIL FROM", "From"]) {
            let start =
                "sender-refused peer=127.0.0.1 name=\"app\": Credential app may not send as";
            assert!(line.starts_with(start) && line.contains(place), "{line}");
        }
        assert_eq!(told[1].event, ClientDid::SenderRefused);
        assert!(relay.shut_down(GRACE));
    }
}

#[test]
fn a_reload_reaches_connections_that_are_open() {
    for kind in BOTH {
        let (dir, receiver) = (Dir::new(), Receiver::start());
        let config = config_with_listeners(&dir, receiver.address());
        let relay = Relay::start(kind, config.clone());
        let mut ready: Vec<_> = [0, 1, 2]
            .map(|listener| {
                let mut client = match listener {
                    2 => Client::connect_tls(relay.address(2)),
                    _ => Client::connect(relay.address(listener)),
                };
                client.hello();
                if listener == 1 {
                    client.expect("STARTTLS", "220 ");
                    client.start_tls();
                    client.expect("EHLO client.example", "250-");
                }
                client.log_in();
                client.submit("before");
                client
            })
            .into();
        let apply = |change: fn(&mut Config)| {
            let mut config = config.clone();
            change(&mut config);
            relay.hub().apply(load::from_config(config).unwrap());
        };
        apply(|config| {
            let senders = vec![SenderPattern::Domain("example.org".parse().unwrap())];
            Arc::make_mut(&mut config.credentials[0]).senders = senders;
        });
        for client in &mut ready {
            client.expect("MAIL FROM:<a@example.com>", "553 5.7.1");
            client.expect("MAIL FROM:<a@example.org>", "250 ");
            client.expect("RSET", "250 ");
        }
        apply(|config| {
            Arc::make_mut(&mut config.credentials[0]).verifier = None;
        });
        for client in &mut ready {
            client.expect("MAIL FROM:<a@example.com>", "421 4.7.0");
            assert_eq!(client.reply(), "", "{kind:?}: it is closed");
        }
        assert!(relay.shut_down(GRACE));
    }
}

#[test]
fn the_admin_port_asks_for_its_token() {
    for kind in BOTH {
        let (dir, receiver) = (Dir::new(), Receiver::start());
        let mut config = config_with_listeners(&dir, receiver.address());
        config.admin = Some(([127, 0, 0, 1], 0).into());
        config.admin_token = Some(Secret::new("0123456789abcdef"));
        let options = || Options {
            admin: true,
            ..Options::default()
        };
        let relay = Relay::start_with(kind, config.clone(), options());
        let status = |header: &str| {
            let mut stream = TcpStream::connect(relay.hub().admin_address().unwrap()).unwrap();
            let request = format!(
                "GET /api/v1/status HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n{header}\r\n"
            );
            stream.write_all(request.as_bytes()).unwrap();
            let mut response = String::new();
            stream.read_to_string(&mut response).unwrap();
            response[9..12].to_owned()
        };
        assert_eq!(status(""), "401");
        assert_eq!(status("Authorization: Bearer 0123456789abcdee\r\n"), "401");
        assert_eq!(status("Authorization: Bearer 0123456789abcdef\r\n"), "200");
        assert!(relay.shut_down(GRACE));

        // A program that forgets the token serves nobody off loopback.
        config.admin = Some(([0, 0, 0, 0], 0).into());
        config.admin_token = None;
        let error = Relay::try_start(kind, config, options()).err().unwrap();
        assert!(error.contains("has no token"), "{error}");
    }
}
