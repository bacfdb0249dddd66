//! What signing costs: the way in of a message of 10 KB, through all checks, without signatures and with.
//!
//! On one core, without network and disk. The time is that of the processor, so that other work on the
//! machine changes little; each kind has several turns among the others, and its best one counts.
//!
//! `cargo run --release -p relay-core --example sign_cost`

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::disallowed_macros
)]
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use relay_core::config::{Config, DkimKey, KeyState, SigningDomain};
use relay_core::id::MessageId;
use relay_core::inbound::direct::{Draft, prepare};
use relay_core::queue::message::Recipient;
use relay_core::sign::Key;
use relay_core::time::{Now, UnixTime};
use smtp_proto::{MailParams, ReversePath};

/// How long a turn takes.
const SPAN: Duration = Duration::from_millis(500);

/// Turns of each kind.
const TURNS: usize = 5;

fn main() {
    let made = |algorithm| rcgen::KeyPair::generate_for(algorithm).unwrap();
    let key = |pair: rcgen::KeyPair| Key::new(pair.serialize_der().try_into().unwrap()).unwrap();
    let rsa = key(made(&rcgen::PKCS_RSA_SHA256));
    let ed25519 = key(made(&rcgen::PKCS_ED25519));
    let kinds = [
        ("none", vec![]),
        ("Ed25519", vec![ed25519.clone()]),
        ("RSA-2048", vec![rsa.clone()]),
        ("RSA-2048 and Ed25519", vec![rsa, ed25519]),
    ];
    let mut best = [f64::MAX; 4];
    for _ in 0..TURNS {
        for ((_, keys), best) in kinds.iter().zip(&mut best) {
            *best = best.min(measure(keys));
        }
    }
    println!(
        "{:<24} {:>12} {:>14} {:>10}",
        "signatures", "messages/s", "CPU us each", "signing"
    );
    for ((name, _), each) in kinds.iter().zip(best) {
        let share = (100.0 * (each - best[0]) / each).max(0.0);
        let rate = 1e6 / each;
        println!("{name:<24} {rate:>12.0} {each:>14.1} {share:>9.0}%");
    }
}

/// The processor time of this thread.
fn spent() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.try_into().unwrap()
}

/// Microseconds of the processor a message.
fn measure(keys: &[Key]) -> f64 {
    let mut config = Config::new("relay.example.com".parse().unwrap(), "/nowhere");
    let keys = keys.iter().enumerate().map(|(at, key)| DkimKey {
        selector: format!("s{at}"),
        key_file: "".into(),
        state: KeyState::Signing,
        key: Some(key.clone()),
    });
    config.domains.push(Arc::new(SigningDomain {
        name: "example.com".parse().unwrap(),
        keys: keys.collect(),
        return_path: None,
    }));
    let line = "A line of a message as people write them, with words between spaces.\r\n";
    let message = format!(
        "From: a@example.com\r\nTo: b@example.net\r\nSubject: s\r\n\r\n{}",
        line.repeat(10_000 / line.len())
    );
    let draft = Draft {
        credential: None,
        from: ReversePath::parse("<a@example.com>").unwrap(),
        params: MailParams::default(),
        recipients: vec![Recipient {
            to: "b@example.net".parse().unwrap(),
            notify: None,
            orcpt: None,
        }],
        message: message.into(),
    };
    let now = Now {
        instant: relay_core::time::Instant::default(),
        unix: UnixTime::from_secs(1_795_471_531),
    };
    let (start, before) = (Instant::now(), spent());
    let mut count = 0u32;
    while start.elapsed() < SPAN {
        let prepared = prepare(&config, draft.clone(), MessageId::from_u64(1), now).unwrap();
        assert_eq!(
            prepared.submission.prefix.is_empty(),
            config.domains[0].keys.is_empty()
        );
        count += 1;
    }
    (spent() - before).as_secs_f64() * 1e6 / f64::from(count)
}
