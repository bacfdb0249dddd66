//! The file that a failure leaves: what it takes to run it again, and its story for people.

use std::fmt::Write as _;

use relay_core::rng::Rng;

use super::plant::Plant;
use super::profile::Profile;
use super::world::Outcome;

/// What identifies a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The seed of the world.
    pub seed: u64,
    /// The fault that was put in.
    pub plant: Option<Plant>,
    /// The hash of the whole story.
    pub hash: u64,
    /// Of the relay and the simulator.
    pub commit: String,
}

impl Failure {
    /// That of a run.
    #[must_use]
    pub fn new(outcome: &Outcome, plant: Option<Plant>, commit: String) -> Self {
        Self {
            seed: outcome.seed,
            plant,
            hash: outcome.hash,
            commit,
        }
    }

    /// The file: a line for each key, what the world is made of, and the end of the story.
    #[must_use]
    pub fn write(&self, outcome: &Outcome) -> String {
        let plant = self
            .plant
            .map_or_else(String::new, |plant| format!("{plant:?}"));
        let wrong = outcome.wrong.as_deref().unwrap_or_default();
        let mut text = format!(
            "seed = {}\nplant = {plant}\nhash = {:016x}\ncommit = {}\nwrong = {wrong}\n\n{:#?}\n\n",
            self.seed,
            self.hash,
            self.commit,
            Profile::draw(&mut Rng::from_number(self.seed)),
        );
        for line in &outcome.story {
            let _ = writeln!(text, "{line}");
        }
        text
    }

    /// Reads it back; none if it is not such a file.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let value = |key: &str| {
            let line = text.lines().find(|line| line.starts_with(key))?;
            Some(
                line.strip_prefix(key)?
                    .trim_start_matches([' ', '='])
                    .to_owned(),
            )
        };
        Some(Self {
            seed: value("seed")?.parse().ok()?,
            plant: Plant::named(&value("plant")?),
            hash: u64::from_str_radix(&value("hash")?, 16).ok()?,
            commit: value("commit")?,
        })
    }
}
