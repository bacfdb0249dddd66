//! The simulated world: the whole relay under a seeded simulator with virtual time, hostile peers, and
//! a disk that loses, tears and reorders what was not synced.
//!
//! It is the third runtime. Nothing of the relay is mocked: the same `Session`, `Engine`, `Delivery`,
//! `Resolver` and `SegmentStore` run here as in the two binaries.
//!
//! ```
//! use relay_tests::sim::{Profile, World};
//!
//! let outcome = World::with(7, Profile::calm()).run();
//! assert_eq!(outcome.wrong, None);
//! assert_eq!(outcome.figures.acknowledged, 11, "two clients with five messages, and the probe");
//! ```

mod agenda;
mod book;
mod certs;
mod client;
mod compose;
mod disk;
mod drive;
mod errand;
mod failure;
mod figures;
mod host;
mod inspect;
mod judge;
mod life;
mod load;
mod lookup;
mod names;
mod net;
mod plant;
mod profile;
mod promises;
mod receiver;
mod relay;
mod requests;
mod settle;
mod setup;
mod sink;
mod sites;
mod story;
mod swarm;
mod tamper;
mod text;
mod trouble;
mod web;
mod world;

pub use failure::Failure;
pub use figures::Figures;
pub use plant::Plant;
pub use profile::{DiskWeather, Manner, NetProfile, Profile};
pub use swarm::{Found, find_plant, run_seed, run_seeds};
pub use world::{Outcome, World};
