//! Tests of the engine by what it does, through its inputs and outputs alone, in virtual time.

// A test takes one variant out, and any other is a failure.
#![allow(clippy::wildcard_enum_match_arm)]

mod administration;
mod admission;
mod delivery;
mod doubt;
mod handling;
mod held;
mod lanes;
mod memory;
mod policies;
mod recovery;
mod reports;
mod room;
mod tls_reports;
mod walk;
mod world;
