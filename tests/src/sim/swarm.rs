//! Many worlds, on all cores.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use relay_core::rng::Rng;

use super::book::Figures;
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

impl Figures {
    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        self.begun += other.begun;
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.in_doubt += other.in_doubt;
        self.received += other.received;
        self.duplicates += other.duplicates;
        self.failed += other.failed;
        self.reports += other.reports;
        self.crashes += other.crashes;
        self.held += other.held;
        self.disk_faults += other.disk_faults;
    }
}
