//! Runs simulated worlds: `sim --seeds 1000`, `sim --seed 7`, `sim --replay 7`. See `tests/README.md`.
#![allow(clippy::print_stdout)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use relay_tests::sim::{Figures, Outcome, Plant, World, run_seed, run_seeds};

/// Simulated worlds for the relay: virtual time, hostile peers, a disk that loses and fails.
#[derive(Debug, Parser)]
struct Args {
    /// Run the world of one seed
    #[arg(long, conflicts_with_all = ["seeds", "replay"])]
    seed: Option<u64>,
    /// Run this many worlds
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed of --seeds
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Run the world of one seed, and tell its whole story on standard error
    #[arg(long)]
    replay: Option<u64>,
    /// Put this fault into the relay; the run succeeds if a checker finds it
    #[arg(long, value_parser = plant)]
    plant: Option<Plant>,
    /// How many threads; all cores by default
    #[arg(long)]
    threads: Option<usize>,
    /// Go on after a failure
    #[arg(long)]
    keep_going: bool,
}

fn plant(name: &str) -> Result<Plant, String> {
    Plant::named(name).ok_or_else(|| format!("one of {:?}", Plant::ALL))
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(seed) = args.replay {
        return told(&World::planted_with(seed, args.plant).aloud().run());
    }
    if let Some(seed) = args.seed {
        return told(&run_seed(seed, args.plant));
    }
    swarm(&args)
}

/// One world's end.
fn told(outcome: &Outcome) -> ExitCode {
    println!(
        "seed {}: {} events in {}, hash {:016x}",
        outcome.seed,
        outcome.events,
        hours(outcome.time),
        outcome.hash
    );
    println!("{:?}", outcome.figures);
    if let Some(wrong) = &outcome.wrong {
        tell_failure(outcome, wrong);
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn tell_failure(outcome: &Outcome, wrong: &str) {
    println!("\nseed {}: WRONG: {wrong}", outcome.seed);
    for line in &outcome.story {
        println!("    {line}");
    }
    println!("again: sim --replay {}", outcome.seed);
}

fn swarm(args: &Args) -> ExitCode {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let started = Instant::now();
    let (mut runs, mut failures, mut time) = (0u64, Vec::new(), Duration::ZERO);
    let mut figures = Figures::default();
    let each = |outcome: Outcome| {
        runs += 1;
        time += outcome.time;
        figures.add(&outcome.figures);
        let Some(wrong) = &outcome.wrong else {
            return true;
        };
        if args.plant.is_some() || args.keep_going {
            println!("seed {}: {wrong}", outcome.seed);
        } else {
            tell_failure(&outcome, wrong);
        }
        failures.push(outcome.seed);
        args.keep_going
    };
    let threads = args.threads.unwrap_or(cores);
    run_seeds(args.from, args.seeds, threads, args.plant, each);
    let took = started.elapsed();
    let per_sec = |count: f64| count / took.as_secs_f64().max(0.001);
    println!(
        "{runs} worlds, {} failed, in {took:.1?}: {} simulated, {:.1} hours a second, {:.0} messages \
         a second",
        failures.len(),
        hours(time),
        per_sec(time.as_secs_f64() / 3600.0),
        per_sec(figures.received as f64),
    );
    println!("{figures:?}");
    let found = args.plant.is_some();
    if failures.is_empty() == found {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn hours(time: Duration) -> String {
    format!("{:.1} h", time.as_secs_f64() / 3600.0)
}
