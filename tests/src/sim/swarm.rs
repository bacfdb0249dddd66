//! Many worlds, on all cores.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use relay_core::rng::Rng;

use super::figures::Figures;
use super::plant::Plant;
use super::profile::Profile;
use super::world::{Outcome, World};

/// Runs the world of a seed, with a fault of ours if one is named. A panic is an outcome too.
#[must_use]
pub fn run_seed(seed: u64, plant: Option<Plant>) -> Outcome {
    let world = || World::planted_with(seed, plant).run();
    panic::catch_unwind(AssertUnwindSafe(world)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Outcome {
            seed,
            wrong: Some(format!("panic: {}", text.unwrap_or("of an unknown kind"))),
            hash: 0,
            story: Vec::new(),
            time: Duration::ZERO,
            events: 0,
            figures: Figures::default(),
        }
    })
}

impl World {
    /// The world of a seed, with a fault of ours if one is named.
    #[must_use]
    pub fn planted_with(seed: u64, plant: Option<Plant>) -> Self {
        let mut profile = Profile::draw(&mut Rng::from_number(seed));
        profile.plant = plant;
        Self::with(seed, profile)
    }
}

/// Runs seeds from `first` on, on `threads` threads; `each` hears of every outcome, in any order. It
/// stops soon after `each` says so.
pub fn run_seeds(
    first: u64,
    count: u64,
    threads: usize,
    plant: Option<Plant>,
    each: impl FnMut(Outcome) -> bool + Send,
) {
    let next = AtomicU64::new(first);
    let each = Mutex::new(each);
    let end = first.saturating_add(count);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return;
            }
            let outcome = run_seed(seed, plant);
            let mut each = each
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            if !each(outcome) {
                next.store(end, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
}

/// How a planted fault was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What the rule said, without the names of this one world.
    pub rule: String,
    /// In how many worlds it was found: the median of the rounds.
    pub median: u64,
    /// In how many it was found at the latest.
    pub most: u64,
}

/// Looks for a planted fault in several rounds, each in other worlds. None if a round did not find it in
/// three times the worlds that it may need.
#[must_use]
pub fn find_plant(plant: Plant, rounds: u64, threads: usize) -> Option<Found> {
    let most = plant.seeds_max() * 3;
    let mut tries = Vec::new();
    for round in 0..rounds {
        let first = 1 + round * 100_000;
        let mut found: Option<(u64, String)> = None;
        run_seeds(first, most, threads, Some(plant), |outcome| {
            if let Some(wrong) = outcome.wrong
                && found.as_ref().is_none_or(|(seed, _)| outcome.seed < *seed)
            {
                found = Some((outcome.seed, wrong));
            }
            found.is_none()
        });
        let (seed, wrong) = found?;
        tries.push((seed - first + 1, wrong));
    }
    tries.sort();
    let (median, wrong) = tries.get(tries.len() / 2)?;
    Some(Found {
        rule: rule(wrong),
        median: *median,
        most: tries.last()?.0,
    })
}

/// A blame without the addresses, times and numbers of its world.
fn rule(wrong: &str) -> String {
    let word = |word: &str| match word.chars().any(|c| c.is_ascii_digit() || c == '@') {
        true => "…".to_owned(),
        false => word.to_owned(),
    };
    let text = wrong.split([';', '{']).next().unwrap_or_default();
    let mut words: Vec<String> = text.split_whitespace().map(word).collect();
    words.dedup();
    words.join(" ")
}
