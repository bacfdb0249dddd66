//! Runs simulated worlds: `sim --seeds 1000`, `sim --seed 7`, `sim --replay FILE`, `sim --plants`. See
//! `tests/README.md`.
#![allow(clippy::print_stdout)]

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::Parser;
use relay_tests::sim::{Failure, Figures, Outcome, Plant, World, find_plant, run_seed, run_seeds};

/// A long run says how far it is after so many worlds.
const PROGRESS: u64 = 5000;

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
    /// Run the world of a file that was written at a failure, or of a seed, and tell its whole story on
    /// standard error
    #[arg(long, value_name = "FILE")]
    replay: Option<String>,
    /// Where the file of a failure is written
    #[arg(long, default_value = ".", value_name = "DIRECTORY")]
    failures: String,
    /// Put this fault into the relay; the run succeeds if a checker finds it
    #[arg(long, value_parser = plant)]
    plant: Option<Plant>,
    /// Put each fault in, and print which rule found it, and in how many worlds
    #[arg(long, conflicts_with_all = ["seed", "seeds", "replay", "plant"])]
    plants: bool,
    /// How often --plants looks for each, in other worlds each time
    #[arg(long, default_value_t = 7)]
    rounds: u64,
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
    if let Some(what) = &args.replay {
        return replay(what, args.plant);
    }
    if let Some(seed) = args.seed {
        return told(&run_seed(seed, args.plant), &args);
    }
    if args.plants {
        return plants(args.rounds);
    }
    swarm(&args)
}

/// The run of a failure's file again, step by step the same; or that of a seed.
fn replay(what: &str, plant: Option<Plant>) -> ExitCode {
    if let Ok(seed) = what.parse() {
        let outcome = World::planted_with(seed, plant).aloud().run();
        summary(&outcome);
        return exit(outcome.wrong.is_none());
    }
    let text = match std::fs::read_to_string(what) {
        Ok(text) => text,
        Err(error) => {
            println!("{what}: {error}");
            return ExitCode::from(2);
        }
    };
    let Some(failure) = Failure::parse(&text) else {
        println!("{what} is not the file of a failure");
        return ExitCode::from(2);
    };
    let outcome = World::planted_with(failure.seed, failure.plant)
        .aloud()
        .run();
    summary(&outcome);
    if outcome.hash == failure.hash {
        println!("the same run as in {what}");
    } else {
        println!(
            "not the run that {what} tells of: that was of commit {}, and the relay or its world differs since",
            failure.commit
        );
    }
    exit(outcome.wrong.is_none())
}

fn exit(well: bool) -> ExitCode {
    match well {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// One world's end.
fn told(outcome: &Outcome, args: &Args) -> ExitCode {
    summary(outcome);
    if outcome.wrong.is_some() {
        tell_failure(outcome, args);
    }
    exit(outcome.wrong.is_none())
}

fn summary(outcome: &Outcome) {
    println!(
        "seed {}: {} events in {}, hash {:016x}",
        outcome.seed,
        outcome.events,
        hours(outcome.time),
        outcome.hash
    );
    println!("{:?}", outcome.figures);
    if let Some(wrong) = &outcome.wrong {
        println!("WRONG: {wrong}");
    }
}

fn tell_failure(outcome: &Outcome, args: &Args) {
    let wrong = outcome.wrong.as_deref().unwrap_or_default();
    println!("\nseed {}: WRONG: {wrong}", outcome.seed);
    for line in &outcome.story {
        println!("    {line}");
    }
    let file = Path::new(&args.failures).join(format!("sim-{}.failure", outcome.seed));
    let failure = Failure::new(outcome, args.plant, commit());
    match std::fs::write(&file, failure.write(outcome)) {
        Ok(()) => println!("again: sim --replay {}", file.display()),
        Err(error) => println!("again: sim --replay {} ({error})", outcome.seed),
    }
}

/// The commit of the working directory, for people who read a failure later.
fn commit() -> String {
    let head = Command::new("git").args(["rev-parse", "HEAD"]).output();
    let head = head.ok().filter(|output| output.status.success());
    let text = head.and_then(|output| String::from_utf8(output.stdout).ok());
    text.map_or_else(|| "unknown".to_owned(), |text| text.trim().to_owned())
}

fn swarm(args: &Args) -> ExitCode {
    let started = Instant::now();
    let (mut runs, mut failures, mut time) = (0u64, Vec::new(), Duration::ZERO);
    let mut figures = Figures::default();
    let each = |outcome: Outcome| {
        runs += 1;
        time += outcome.time;
        figures.add(&outcome.figures);
        if runs.is_multiple_of(PROGRESS) {
            let failed = failures.len();
            println!("{runs} worlds, {} simulated, {failed} failed", hours(time));
        }
        let Some(wrong) = &outcome.wrong else {
            return true;
        };
        if args.plant.is_some() {
            println!("seed {}: {wrong}", outcome.seed);
        } else {
            tell_failure(&outcome, args);
        }
        failures.push(outcome.seed);
        args.keep_going
    };
    let threads = args.threads.unwrap_or_else(cores);
    run_seeds(args.from, args.seeds, threads, args.plant, each);
    let took = started.elapsed();
    let per_sec = |count: f64| count / took.as_secs_f64().max(0.001);
    println!("{figures:?}");
    println!(
        "{runs} worlds in {took:.1?} on {threads} threads, {} simulated ({:.1} years): {:.0} worlds, \
         {:.1} simulated hours, {:.0} received messages a second",
        hours(time),
        time.as_secs_f64() / 3600.0 / 8766.0,
        per_sec(runs as f64),
        per_sec(time.as_secs_f64() / 3600.0),
        per_sec(figures.received as f64),
    );
    println!("{} failed", failures.len());
    exit(failures.is_empty() != args.plant.is_some())
}

/// The table of planted faults.
fn plants(rounds: u64) -> ExitCode {
    println!("| fault | the rule that found it | worlds until then: median, most of {rounds} |");
    println!("|---|---|---|");
    let mut all = true;
    for plant in Plant::ALL {
        let found = find_plant(plant, rounds, cores());
        match &found {
            Some(found) => println!(
                "| `{plant:?}` | {} | {}, {} |",
                found.rule, found.median, found.most
            ),
            None => println!("| `{plant:?}` | **not found** | |"),
        }
        all &= found.is_some();
    }
    exit(all)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn hours(time: Duration) -> String {
    format!("{:.1} h", time.as_secs_f64() / 3600.0)
}
