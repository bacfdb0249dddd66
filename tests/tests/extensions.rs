//! Both runtimes over real sockets: PROXY headers, what MAIL asks for passed from a client to a host,
//! and LMTP.
#![allow(missing_docs, unreachable_pub, dead_code, clippy::unwrap_used)]

mod rig;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use relay_core::admin::{AdminRequest, AdminResponse};
use relay_core::config::{Config, Protocol, TlsLevel, TokenSource, parse_network};
use rig::client::Client;
use rig::receiver::Receiver;
use rig::secure::{Manner, SecureHost};
use rig::{BOTH, Dir, GRACE, Kind, Relay, config_with_listeners, until};

/// A host for one connection: it offers what it is told to, and notes what it hears.
struct Host {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Host {
    /// `dot`: what it says to the end of the message.
    fn start(offers: &'static [&'static str], dot: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&heard);
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let mut body = false;
            stream.write_all(b"220 host.example\r\n").unwrap();
            for line in lines.map_while(Result::ok) {
                let verb = line.get(..4).unwrap_or(&line);
                let reply = match verb {
                    "." if body => {
                        body = false;
                        dot.to_owned()
                    }
                    _ if body => continue,
                    "EHLO" | "LHLO" => {
                        let lines = offers.iter().map(|offer| format!("250-{offer}\r\n"));
                        format!(
                            "250-host.example\r\n{}250 8BITMIME",
                            lines.collect::<String>()
                        )
                    }
                    "DATA" => {
                        body = true;
                        "354 go on".to_owned()
                    }
                    "QUIT" => "221 bye".to_owned(),
                    _ => "250 ok".to_owned(),
                };
                notes.lock().unwrap().push(line);
                if stream.write_all(format!("{reply}\r\n").as_bytes()).is_err() {
                    return;
                }
            }
        });
        Self { address, heard }
    }

    /// The first line that begins so.
    fn line(&self, start: &str) -> Option<String> {
        let heard = self.heard.lock().unwrap();
        heard.iter().find(|line| line.starts_with(start)).cloned()
    }
}

fn relay(kind: Kind, to: SocketAddr, change: impl FnOnce(&mut Config)) -> (Dir, Relay) {
    let dir = Dir::new();
    let mut config = config_with_listeners(&dir, to);
    change(&mut config);
    let relay = Relay::start(kind, config);
    (dir, relay)
}

/// Sends a message to two recipients with these parameters of MAIL.
fn send(client: &mut Client, params: &str) {
    client.expect(&format!("MAIL FROM:<a@example.com>{params}"), "250 ");
    client.expect("RCPT TO:<b@example.net> NOTIFY=NEVER", "250 ");
    client.expect("RCPT TO:<c@example.net> NOTIFY=NEVER", "250 ");
    client.expect("DATA", "354 ");
    let text = "From: a@example.com\r\nSubject: x\r\n\r\nx\r\n.";
    client.expect(text, "250 2.0.0 Ok: queued as ");
}

fn ready(relay: &Relay, listener: usize) -> Client {
    let mut client = Client::connect(relay.address(listener));
    client.hello();
    client.log_in();
    client
}

#[test]
fn proxy_headers_name_the_client() {
    let mut version_2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
    version_2.extend_from_slice(&[203, 0, 113, 9, 192, 0, 2, 1, 0x30, 0x39, 0, 25]);
    let version_1 = b"PROXY TCP4 203.0.113.9 192.0.2.1 12345 25\r\n".to_vec();
    for kind in BOTH {
        for header in [&version_1, &version_2] {
            let receiver = Receiver::start();
            let (_dir, relay) = relay(kind, receiver.address(), |config| {
                for listener in &mut config.listeners {
                    listener.proxy_protocol = true;
                    listener.trusted_proxies = parse_network("127.0.0.0/8").into_iter().collect();
                }
            });
            for listener in [0, 2] {
                let mut client = Client::connect(relay.address(listener));
                for octet in header {
                    client.send(&[*octet]);
                }
                if listener == 2 {
                    client.start_tls();
                }
                client.hello();
                client.log_in();
                send(&mut client, "");
            }
            until("both are delivered", || receiver.count() == 2);
            for message in receiver.messages() {
                let message = String::from_utf8_lossy(&message).into_owned();
                assert!(message.contains("([203.0.113.9])"), "{kind:?}: {message}");
            }
            assert!(relay.shut_down(GRACE));
        }
    }
}

#[test]
fn proxy_headers_of_others_are_no_headers() {
    for kind in BOTH {
        let receiver = Receiver::start();
        let (_dir, relay) = relay(kind, receiver.address(), |config| {
            config.listeners[0].proxy_protocol = true;
            let proxies = parse_network("192.0.2.0/24").into_iter().collect();
            config.listeners[0].trusted_proxies = proxies;
        });
        let mut client = Client::connect(relay.address(0));
        assert!(client.reply().starts_with("220 "));
        client.expect("PROXY TCP4 203.0.113.9 192.0.2.1 12345 25", "500 5.5.1");
        assert!(relay.shut_down(GRACE));
    }
}

#[test]
fn what_mail_asks_for_reaches_a_host_that_offers_it() {
    for kind in BOTH {
        let host = Host::start(&["DSN", "DELIVERBY", "MT-PRIORITY"], "250 ok");
        let (_dir, relay) = relay(kind, host.address, |_| {});
        let mut client = ready(&relay, 0);
        let began = Instant::now();
        send(
            &mut client,
            " RET=HDRS ENVID=x BY=500;NT MT-PRIORITY=4 HOLDFOR=2",
        );
        until("it is delivered", || host.line("QUIT").is_some());
        assert!(began.elapsed() >= Duration::from_secs(2), "{kind:?}: held");
        let mail = host.line("MAIL").unwrap();
        let rest = mail
            .strip_prefix("MAIL FROM:<a@example.com> RET=HDRS ENVID=x BY=")
            .unwrap();
        let (left, rest) = rest.split_once(';').unwrap();
        assert!(
            (400..=498).contains(&left.parse::<i32>().unwrap()),
            "{mail}"
        );
        assert_eq!(rest, "NT MT-PRIORITY=4");
        assert!(relay.shut_down(GRACE));
    }
}

#[test]
fn a_route_may_speak_lmtp() {
    for kind in BOTH {
        let host = Host::start(&["PIPELINING"], "250 2.1.5 kept\r\n550 5.2.1 disabled");
        let (_dir, relay) = relay(kind, host.address, |config| {
            config.routes[0].protocol = Protocol::Lmtp;
        });
        send(&mut ready(&relay, 0), "");
        until("each recipient has its outcome", || {
            let answer = relay.hub().admin(AdminRequest::Status).wait();
            let AdminResponse::Status(status) = answer else {
                panic!("no status");
            };
            (status.delivered, status.bounced) == (1, 1)
        });
        assert!(host.line("LHLO relay.example.com").is_some());
        assert!(relay.shut_down(GRACE));
    }
}

#[test]
fn a_front_end_names_the_client() {
    for kind in BOTH {
        let receiver = Receiver::start();
        let (_dir, relay) = relay(kind, receiver.address(), |config| {
            for listener in &mut config.listeners {
                listener.xclient_from = parse_network("127.0.0.1").into_iter().collect();
            }
        });
        for listener in [0, 2] {
            let mut client = match listener {
                2 => Client::connect_tls(relay.address(2)),
                _ => Client::connect(relay.address(0)),
            };
            let offers = client.hello();
            assert!(offers.contains("XCLIENT NAME ADDR PORT"), "{offers}");
            client.log_in();
            client.expect(
                "XCLIENT NAME=[TEMPUNAVAIL] ADDR=203.0.113.9 PORT=5 HELO=x.example",
                "220 ",
            );
            client.expect("EHLO client.example", "250-");
            client.expect("MAIL FROM:<a@example.com>", "530 5.7.0");
            client.log_in();
            send(&mut client, "");
        }
        until("both are delivered", || receiver.count() == 2);
        for message in receiver.messages() {
            let message = String::from_utf8_lossy(&message).into_owned();
            assert!(message.contains("([203.0.113.9])"), "{kind:?}: {message}");
        }
        assert!(relay.shut_down(GRACE));
    }
}

/// A submission under TLS.
fn secured(relay: &Relay) -> Client {
    let mut client = Client::connect_tls(relay.address(2));
    client.hello();
    client.log_in();
    client
}

#[test]
fn requiretls_reaches_a_host_that_proves_itself_and_no_other() {
    for kind in BOTH {
        for (requiretls, believed) in [(true, true), (true, false), (false, true)] {
            let host = SecureHost::start(Manner {
                requiretls,
                token: None,
                mechanisms: &[],
            });
            let (dir, receiver) = (Dir::new(), host.address);
            let mut config = config_with_listeners(&dir, receiver);
            if believed {
                config.delivery.ca_file = Some(host.authority_in(dir.path()));
            }
            let relay = Relay::start(kind, config);
            let mut client = secured(&relay);
            send(&mut client, " REQUIRETLS");
            let (delivered, bounced) = if requiretls && believed {
                (2, 0)
            } else {
                (0, 2)
            };
            until("each recipient has its outcome", || {
                let answer = relay.hub().admin(AdminRequest::Status).wait();
                let AdminResponse::Status(status) = answer else {
                    panic!("no status");
                };
                (status.delivered, status.bounced) == (delivered, bounced)
            });
            let heard = host.heard();
            let mails: Vec<_> = heard
                .iter()
                .filter(|line| line.starts_with("MAIL <a@"))
                .collect();
            if delivered > 0 {
                assert!(mails[0].contains(" REQUIRETLS"), "{kind:?}: {heard:?}");
                assert!(heard.contains(&"message".to_owned()));
            } else {
                assert!(mails.is_empty(), "{kind:?}: {heard:?}");
            }
            assert!(relay.shut_down(GRACE));
        }
    }
}

#[test]
fn a_route_shows_a_token_and_gets_another_one_once() {
    use smtp_proto::Mechanism;
    for kind in BOTH {
        for (mechanisms, name) in [
            (&[Mechanism::XOAuth2][..], "XOAUTH2"),
            (
                &[Mechanism::Plain, Mechanism::XOAuth2, Mechanism::OAuthBearer],
                "OAUTHBEARER",
            ),
        ] {
            let host = SecureHost::start(Manner {
                requiretls: false,
                token: Some("fresh"),
                mechanisms,
            });
            let dir = Dir::new();
            let mut config = config_with_listeners(&dir, host.address);
            config.delivery.ca_file = Some(host.authority_in(dir.path()));
            let route = &mut config.routes[0];
            route.tls = Some(TlsLevel::Verify);
            route.username = Some("me@example.com".into());
            // The first token has expired.
            let count = dir.path().join("count");
            let count = count.display();
            let script =
                format!("if [ -e {count} ]; then echo fresh; else touch {count}; echo stale; fi");
            let words = ["/bin/sh", "-c", &script].map(str::to_owned).to_vec();
            route.token = Some(TokenSource::Command(words));
            let relay = Relay::start(kind, config);
            send(&mut ready(&relay, 0), "");
            until("it is delivered", || {
                host.heard().contains(&"message".to_owned())
            });
            let logins: Vec<_> = host.heard().into_iter().take(2).collect();
            let wanted = ["stale", "fresh"].map(|token| format!("{name} me@example.com {token}"));
            assert_eq!(logins, wanted, "{kind:?}");
            assert!(relay.shut_down(GRACE));
        }
    }
}
