//! Runs simulated worlds.
#![allow(clippy::print_stdout, clippy::print_stderr)]

fn main() {
    let seed = std::env::args()
        .nth(1)
        .and_then(|a| a.parse().ok())
        .unwrap_or(1u64);
    let count = std::env::args()
        .nth(2)
        .and_then(|a| a.parse().ok())
        .unwrap_or(1u64);
    for seed in seed..seed + count {
        let world = relay_tests::sim::World::new(seed);
        let world = if count == 1 { world.aloud() } else { world };
        let outcome = world.run();
        println!(
            "{seed} {:?} {:x} {:?} {}",
            outcome.wrong, outcome.hash, outcome.time, outcome.events
        );
    }
}
