//! Random sessions against the reference model of `fuzz/src/session.rs`, which is also a fuzz target.
//!
//! The full run, a million sequences, takes a few minutes:
//! `cargo test --release -p relay-smtp-proto --test session_model -- --ignored`

// The targets stand outside the workspace; what they check is shared by path.
#[allow(unreachable_pub, missing_docs)]
#[path = "../../fuzz/src/session.rs"]
mod model;

#[allow(unreachable_pub, missing_docs)]
#[path = "../../fuzz/src/calls.rs"]
mod calls;

/// EHLO, then MAIL, RCPT twice and DATA with a body; MAIL, RCPT and two chunks.
const USUAL: [[u8; 2]; 9] = [
    [0, 5],
    [4, 30],
    [7, 7],
    [7, 2],
    [11, 9],
    [4, 31],
    [7, 3],
    [13, 36],
    [13, 37],
];

/// A small generator: the same sequences in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

/// Sequences of 1 to 40 commands. A failure names the number of its sequence, and the input.
fn run(sequences: std::ops::Range<u64>) {
    let (total, mut messages) = (sequences.end - sequences.start, 0);
    for nr in sequences {
        let mut numbers = Numbers(nr << 32);
        let mut data = vec![numbers.next() as u8, numbers.next() as u8];
        let mut usual = USUAL.iter().cycle();
        for _ in 0..=numbers.next() % 40 {
            let [command, choice, chance, ..] = numbers.next().to_le_bytes();
            // Every second command is what a client with mail would say next.
            data.extend(match usual.next() {
                Some(next) if chance & 1 == 0 => *next,
                Some(_) | None => [command, choice],
            });
        }
        let outcome = std::panic::catch_unwind(|| model::session(&data));
        let Ok(delivered) = outcome else {
            panic!("sequence {nr}: {data:?}");
        };
        messages += delivered as u64;
    }
    // Enough of them do what clients do.
    assert!(messages > total / 10, "{messages} messages");
}

#[test]
fn some_thousands_of_random_sequences() {
    run(0..20_000);
}

#[test]
#[ignore = "the full run, for a release build"]
fn a_million_random_sequences() {
    run(0..1_000_000);
}

/// Any calls on the client, three of four of them what comes next in a transaction.
#[test]
fn some_thousands_of_random_calls_on_a_client() {
    let usual = [1, 9, 13, 13, 17, 21, 23, 9, 13, 25, 27];
    let (sequences, mut carried_out) = (20_000, 0);
    for nr in 0..sequences {
        let mut numbers = Numbers(nr << 32);
        let (mut next, mut data) = (usual.iter().cycle(), vec![0, 0]);
        for _ in 0..numbers.next() % 60 {
            let [what, which, chance, ..] = numbers.next().to_le_bytes();
            match (chance % 4, next.next()) {
                (0..3, Some(&call)) => data.extend([call, which, 0, which & 0x87]),
                _ => data.extend([what, which]),
            }
        }
        let outcome = std::panic::catch_unwind(|| calls::client_calls(&data));
        let Ok(calls) = outcome else {
            panic!("sequence {nr}: {data:?}");
        };
        carried_out += calls as u64;
    }
    assert!(carried_out > 5 * sequences, "{carried_out} calls");
}
