//! A program with a relay in it: direct submission, events, its own store and its own credential check, on
//! both runtimes.
#![allow(missing_docs, unreachable_pub, dead_code, clippy::unwrap_used)]

mod rig;

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use relay_core::config::{Credential, SenderPattern};
use relay_core::events::EventKind;
use relay_core::id::MessageId;
use relay_core::inbound::direct::Draft;
use relay_core::sasl::Bearer;
use rig::client::Client;
use rig::memory::{Memory, MemoryStore};
use rig::receiver::Receiver;
use rig::{
    BOTH, DEADLINE, Dir, GRACE, HOSTNAME, Kind, Relay, config, config_with_listeners, draft, until,
};
use runtime_std::events::{Events, Heard};
use runtime_std::hub::{CredentialCheck, Options, TokenCheck};

/// The names of the events of a message, up to one of them.
fn story(events: &Events, id: MessageId, end: &str) -> Vec<&'static str> {
    let mut story = Vec::new();
    loop {
        let heard = events.recv_timeout(DEADLINE).expect("in time");
        let Some(Heard::Event(event)) = heard else {
            panic!("{heard:?} after {story:?}");
        };
        if event.id != id.to_string() {
            continue;
        }
        let name = match event.kind {
            EventKind::Accepted { .. } => "accepted",
            EventKind::Preflight { .. } => "preflight",
            EventKind::Delivered(_) => "delivered",
            EventKind::Deferred { .. } => "deferred",
            EventKind::Bounced(_) => "bounced",
            EventKind::Expired(_) => "expired",
            EventKind::Changed { .. } => "changed",
            EventKind::NotReported { .. } => "not-reported",
            EventKind::Quarantined { .. } => "quarantined",
        };
        story.push(name);
        if name == end {
            return story;
        }
    }
}

/// An address where nobody listens.
fn nobody() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

#[test]
fn a_message_is_handed_over_delivered_and_told() {
    for kind in BOTH {
        let (dir, receiver) = (Dir::new(), Receiver::start());
        let relay = Relay::start(kind, config(&dir, receiver.address()));
        let events = relay.subscribe(100);
        let small = relay.submit(draft("small")).unwrap();
        assert_eq!(
            story(&events, small, "delivered"),
            ["accepted", "delivered"]
        );
        let mut large = draft("large");
        let end = "0123456789\r\n".repeat(100_000);
        large.message.extend_from_slice(end.as_bytes());
        let large = relay.submit(large).unwrap();
        assert_eq!(
            story(&events, large, "delivered"),
            ["accepted", "delivered"]
        );
        let messages = receiver.messages();
        assert!(messages[1].ends_with(end.as_bytes()), "{kind:?}: whole");
        assert!(relay.shut_down(GRACE), "{kind:?}");
        assert_eq!(events.recv(), None, "the end is told");
    }
}

#[test]
fn what_a_client_may_not_send_a_program_may_not_either() {
    for kind in BOTH {
        let dir = Dir::new();
        let relay = Relay::start(kind, config(&dir, nobody()));
        let to = ["b@example.net".parse().unwrap()];
        let no_from = Draft::new("a@example.com".parse().unwrap(), to, "Subject: x\r\n\r\n");
        let refusal = relay.submit(no_from).unwrap_err();
        assert!(refusal.to_string().starts_with("550 5.6.0 "), "{refusal}");
        let mut app = Credential::new("app");
        app.senders = vec![SenderPattern::Domain("example.org".parse().unwrap())];
        let foreign = Draft {
            credential: Some(Arc::new(app)),
            ..draft("foreign")
        };
        let refusal = relay.submit(foreign).unwrap_err();
        assert!(refusal.to_string().starts_with("553 5.7.1 "), "{refusal}");
        relay.hub().begin_shut_down();
        let refusal = relay.submit(draft("late")).unwrap_err();
        assert!(refusal.to_string().starts_with("421 4.3.2 "), "{refusal}");
        assert!(relay.shut_down(GRACE));
    }
}

#[test]
fn a_dropped_future_does_not_take_the_message_back() {
    let (dir, receiver) = (Dir::new(), Receiver::start());
    let relay = Relay::start(Kind::Smol, config(&dir, receiver.address()));
    let Relay::Smol(smol_relay, _) = &relay else {
        unreachable!()
    };
    smol::block_on(async {
        let submit = smol_relay.submit(draft("dropped"));
        let first_poll = smol::future::poll_once(submit).await;
        assert!(first_poll.is_none_or(|result| result.is_ok()));
    });
    until("it is delivered all the same", || receiver.has("dropped"));
    assert!(relay.shut_down(GRACE));
}

#[test]
fn a_store_of_the_programs_own_takes_the_place_of_the_log() {
    for kind in BOTH {
        let dir = Dir::new();
        let memory = Arc::new(Memory::default());
        let options = || Options {
            store: Some(MemoryStore::new(&memory)),
            ..Options::default()
        };
        // Nobody takes the mail: it stays in the store, the large one in its spool.
        let relay = Relay::start_with(kind, config(&dir, nobody()), options());
        let events = relay.subscribe(100);
        let small = relay.submit(draft("small")).unwrap();
        let mut large = draft("large");
        large
            .message
            .extend_from_slice(&b"line\r\n".repeat(100_000));
        let large = relay.submit(large).unwrap();
        story(&events, small, "deferred");
        assert!(relay.shut_down(GRACE));
        assert_eq!((memory.messages(), memory.spooled()), (2, 1), "{kind:?}");
        assert!(!dir.path().join("queue").exists(), "there is no log");

        // The next relay finds it there.
        let receiver = Receiver::start();
        let relay = Relay::start_with(kind, config(&dir, receiver.address()), options());
        until("both are delivered", || receiver.count() == 2);
        until("nothing is kept", || {
            memory.messages() + memory.spooled() == 0
        });
        assert!(receiver.has(&small.to_string()) && receiver.has(&large.to_string()));
        assert!(relay.shut_down(GRACE));
    }
}

/// Knows `guest` by the password `let me in`.
struct Guests;

impl CredentialCheck for Guests {
    fn check(&self, name: &str, password: &str) -> Option<Arc<Credential>> {
        let mut credential = Credential::new(name);
        credential.senders = vec![SenderPattern::Address("a@example.com".parse().unwrap())];
        ((name, password) == ("guest", "let me in")).then(|| Arc::new(credential))
    }
}

#[test]
fn a_credential_check_of_the_programs_own_decides() {
    for kind in BOTH {
        let (dir, receiver) = (Dir::new(), Receiver::start());
        let options = Options {
            credential_check: Some(Arc::new(Guests)),
            ..Options::default()
        };
        let config = config_with_listeners(&dir, receiver.address());
        let relay = Relay::start_with(kind, config, options);
        let mut client = Client::connect_tls(relay.address(2));
        let offers = client.hello();
        assert!(offers.contains("AUTH PLAIN LOGIN\n"), "{kind:?}: {offers}");
        // The verifier of the configuration is not asked.
        client.expect(&Client::plain("app", rig::SECRET), "535 5.7.8 ");
        client.expect(&Client::plain("guest", "open"), "535 5.7.8 ");
        client.expect(&Client::plain("guest", "let me in"), "235 2.7.0 ");
        client.expect("MAIL FROM:<other@example.com>", "553 5.7.1 ");
        let id = client.submit("from a guest");
        until("it is delivered", || receiver.has(&id));
        client.expect("QUIT", "221 ");
        assert!(relay.shut_down(GRACE));
    }
}

#[test]
fn a_subscriber_that_does_not_keep_up_is_told_what_it_missed() {
    for kind in BOTH {
        let (dir, receiver) = (Dir::new(), Receiver::start());
        let relay = Relay::start(kind, config(&dir, receiver.address()));
        let events = relay.subscribe(3);
        for n in 0..5 {
            relay.submit(draft(&n.to_string())).unwrap();
        }
        until("all are delivered", || receiver.count() == 5);
        assert!(relay.shut_down(GRACE));
        let heard: Vec<Heard> = events.collect();
        let told = heard
            .iter()
            .filter(|heard| matches!(heard, Heard::Event(_)));
        assert_eq!(told.count(), 3, "{kind:?}: {heard:?}");
        assert_eq!(heard.last(), Some(&Heard::Missed(7)), "{kind:?}");
    }
}

#[test]
fn two_relays_live_in_one_process_and_one_data_directory_has_one() {
    for kind in BOTH {
        let (one, two, receiver) = (Dir::new(), Dir::new(), Receiver::start());
        let first = Relay::start(kind, config(&one, receiver.address()));
        let second = Relay::start(kind, config(&two, receiver.address()));
        let third = Relay::try_start(kind, config(&one, receiver.address()), Options::default());
        let why = third.err().unwrap();
        assert!(why.contains("uses this queue"), "{kind:?}: {why}");
        first.submit(draft("first")).unwrap();
        second.submit(draft("second")).unwrap();
        until("both deliver", || receiver.count() == 2);
        assert!(first.shut_down(GRACE) && second.shut_down(GRACE));
    }
}

#[test]
fn a_relay_that_is_dropped_gives_its_directory_back_and_loses_nothing() {
    for kind in BOTH {
        let (dir, receiver) = (Dir::new(), Receiver::start());
        let relay = Relay::start(kind, config(&dir, nobody()));
        let id = relay.submit(draft("kept")).unwrap();
        drop(relay);
        let relay = Relay::start(kind, config(&dir, receiver.address()));
        until("it is delivered", || receiver.has(&id.to_string()));
        assert!(relay.shut_down(GRACE));
    }
}

#[test]
fn the_relays_name_is_in_what_it_adds() {
    for kind in BOTH {
        let (dir, receiver) = (Dir::new(), Receiver::start());
        let relay = Relay::start(kind, config(&dir, receiver.address()));
        let id = relay.submit(draft("named")).unwrap();
        until("it is delivered", || receiver.count() == 1);
        let received = format!("Received: by {HOSTNAME} id {id};");
        assert!(receiver.has(&received), "{kind:?}");
        assert!(relay.shut_down(GRACE));
    }
}

#[test]
fn an_executor_that_is_dropped_takes_the_relays_sockets_along() {
    let (dir, receiver) = (Dir::new(), Receiver::start());
    let config = config_with_listeners(&dir, receiver.address());
    let relay = Relay::start(Kind::Smol, config);
    let address = relay.address(0);
    let mut client = Client::connect(address);
    client.hello();
    drop(relay);
    assert_eq!(client.reply(), "", "the connection is closed");
    until("nobody listens", || TcpStream::connect(address).is_err());
}

/// Takes one token.
struct Issuer;

impl TokenCheck for Issuer {
    fn check(&self, bearer: &Bearer) -> Option<Arc<Credential>> {
        let mut credential = Credential::new("by-token");
        credential.senders = vec![SenderPattern::Domain("example.com".parse().unwrap())];
        (bearer.token == "good").then(|| Arc::new(credential))
    }
}

#[test]
fn tokens_are_checked_by_the_program() {
    for kind in BOTH {
        let (dir, receiver) = (Dir::new(), Receiver::start());
        let options = Options {
            token_check: Some(Arc::new(Issuer)),
            ..Options::default()
        };
        let config = config_with_listeners(&dir, receiver.address());
        let relay = Relay::start_with(kind, config, options);
        let mut client = Client::connect(relay.address(1));
        client.hello();
        client.expect("STARTTLS", "220 ");
        client.start_tls();
        let offers = client.expect("EHLO client.example", "250-");
        assert!(
            offers.contains(" XOAUTH2 OAUTHBEARER"),
            "{kind:?}: {offers}"
        );
        let line = |token: &str| {
            let text = format!("n,a=me,\x01host=h\x01port=587\x01auth=Bearer {token}\x01\x01");
            format!("AUTH OAUTHBEARER {}", BASE64.encode(text))
        };
        client.expect(&line("bad"), "334 eyJzdGF0dXMi");
        client.expect("AQ==", "535 5.7.8");
        client.expect(&line("good"), "235 2.7.0");
        client.expect("MAIL FROM:<a@example.org>", "553 5.7.1");
        client.submit("by a token");
        until("it is delivered", || receiver.count() == 1);
        // Passwords go on as without it.
        let mut client = Client::connect(relay.address(0));
        client.hello();
        client.log_in();
        assert!(relay.shut_down(GRACE));
    }
}
