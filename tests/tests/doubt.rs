//! Both runtimes over real sockets: a receiver that takes a message and never says so.
#![allow(missing_docs, unreachable_pub, dead_code, clippy::unwrap_used)]

mod rig;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use relay_core::admin::{Action, AdminRequest, AdminResponse, QueueEntry, Selector};
use relay_core::config::InDoubt;
use relay_core::events::EventKind;
use relay_core::id::MessageId;
use rig::{BOTH, Dir, GRACE, Kind, Relay, config, draft, until};
use runtime_std::events::Heard;

/// Takes every message, and hangs up instead of saying so for the first.
struct Host {
    address: SocketAddr,
    taken: Arc<AtomicUsize>,
}

impl Host {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let taken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&taken);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                stream.write_all(b"220 host.example\r\n").unwrap();
                let mut body = false;
                for line in lines.map_while(Result::ok) {
                    let reply = match line.as_str() {
                        "." if body => {
                            body = false;
                            if count.fetch_add(1, Ordering::SeqCst) == 0 {
                                break;
                            }
                            "250 taken"
                        }
                        _ if body => continue,
                        "DATA" => {
                            body = true;
                            "354 go on"
                        }
                        "QUIT" => "221 bye",
                        _ => "250 ok",
                    };
                    if stream.write_all(format!("{reply}\r\n").as_bytes()).is_err() {
                        break;
                    }
                }
            }
        });
        Self { address, taken }
    }

    fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }
}

fn start(kind: Kind, dir: &Dir, host: &Host, in_doubt: InDoubt) -> Relay {
    let mut config = config(dir, host.address);
    config.delivery.in_doubt = in_doubt;
    Relay::start(kind, config)
}

fn show(relay: &Relay, id: MessageId) -> Option<QueueEntry> {
    let AdminResponse::Show(entry) = relay.hub().admin(AdminRequest::Show(id)).wait() else {
        panic!("no answer");
    };
    entry.map(|entry| *entry)
}

fn is_held_in_doubt(relay: &Relay, id: MessageId) -> bool {
    show(relay, id).is_some_and(|entry| {
        let job = &entry.jobs[0];
        job.in_doubt && job.state == "held" && job.next.is_none()
    })
}

#[test]
fn what_is_in_doubt_is_held_through_a_restart_until_it_is_released() {
    for kind in BOTH {
        let (dir, host) = (Dir::new(), Host::start());
        let relay = start(kind, &dir, &host, InDoubt::Hold);
        let events = relay.subscribe(100);
        let id = relay.submit(draft("doubt")).unwrap();
        until("it is held", || is_held_in_doubt(&relay, id));
        let told = std::iter::from_fn(|| events.try_recv()).any(|heard| {
            let Heard::Event(event) = heard else {
                return false;
            };
            matches!(
                &event.kind,
                EventKind::Deferred {
                    in_doubt: true,
                    next: None,
                    ..
                }
            )
        });
        assert!(told, "{kind:?}: an event says so");
        assert!(relay.shut_down(GRACE));

        let relay = start(kind, &dir, &host, InDoubt::Hold);
        assert!(is_held_in_doubt(&relay, id), "{kind:?}: after a restart");
        // Longer than the schedule's second.
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(host.taken(), 1, "{kind:?}");
        let selector = Selector {
            id: Some(id.to_string()),
            ..Selector::default()
        };
        let _ = relay
            .hub()
            .admin(AdminRequest::Act(Action::Release, selector))
            .wait();
        until("it is delivered again", || show(&relay, id).is_none());
        assert_eq!(host.taken(), 2, "{kind:?}");
        assert!(relay.shut_down(GRACE));
    }
}

#[test]
fn what_is_in_doubt_is_tried_again_by_default() {
    for kind in BOTH {
        let (dir, host) = (Dir::new(), Host::start());
        let relay = start(kind, &dir, &host, InDoubt::Retry);
        let id = relay.submit(draft("doubt")).unwrap();
        until("it is delivered", || show(&relay, id).is_none());
        assert_eq!(host.taken(), 2, "{kind:?}");
        assert!(relay.shut_down(GRACE));
    }
}
