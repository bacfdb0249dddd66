//! What a relay leaves behind when it stops: nothing. The only test of its process, so that threads and
//! descriptors can be counted.
#![cfg(target_os = "linux")]
#![allow(missing_docs, unreachable_pub, dead_code, clippy::unwrap_used)]

mod rig;

use std::time::Duration;

use rig::client::Client;
use rig::receiver::Receiver;
use rig::{BOTH, Dir, Kind, Relay, config_with_listeners, draft, until};
use runtime_std::hub::Options;

fn count(of: &str) -> usize {
    std::fs::read_dir(format!("/proc/self/{of}"))
        .unwrap()
        .count()
}

#[test]
fn starting_and_stopping_leaves_no_thread_no_descriptor_and_no_lock() {
    for kind in BOTH {
        let (dir, receiver) = (Dir::new(), Receiver::start());
        // What a process makes once and keeps, such as the reactor of async-io.
        round(kind, &dir, &receiver);
        settle();
        let before = (count("task"), count("fd"));
        for _ in 0..5 {
            round(kind, &dir, &receiver);
        }
        let as_before = || count("task") <= before.0 && count("fd") <= before.1;
        until(
            &format!("{kind:?}: {before:?} threads and descriptors again"),
            as_before,
        );
    }
}

/// Threads of the pool for blocking work, and of connections, end a little later.
fn settle() {
    until("it settles", || {
        let first = (count("task"), count("fd"));
        std::thread::sleep(Duration::from_millis(700));
        first == (count("task"), count("fd"))
    });
}

/// A relay with all that may be open when it stops: an idle client, one in the middle of a message, an
/// administrator, a delivery whose receiver does not answer.
fn round(kind: Kind, dir: &Dir, receiver: &Receiver) {
    let mut config = config_with_listeners(dir, receiver.address());
    config.admin = Some(([127, 0, 0, 1], 0).into());
    let options = Options {
        admin: true,
        ..Options::default()
    };
    let relay = Relay::start_with(kind, config, options);
    let mut idle = Client::connect_tls(relay.address(2));
    idle.hello();
    let mut busy = Client::connect(relay.address(0));
    busy.hello();
    busy.log_in();
    busy.expect("MAIL FROM:<a@example.com>", "250 ");
    busy.expect("RCPT TO:<b@example.net>", "250 ");
    busy.expect("DATA", "354 ");
    let admin = std::os::unix::net::UnixStream::connect(dir.path().join("admin.sock")).unwrap();
    receiver.hang(true);
    relay.submit(draft("stuck")).unwrap();
    until("a delivery is stuck", || receiver.is_hanging());
    assert!(
        !relay.shut_down(Duration::from_millis(50)),
        "{kind:?}: not in time"
    );
    let reply = idle.reply();
    assert!(reply.starts_with("421 4.3.2 "), "{kind:?}: {reply:?}");
    receiver.hang(false);
    drop(admin);
}
