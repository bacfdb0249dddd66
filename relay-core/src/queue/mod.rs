//! The queue: messages as jobs, jobs in lanes, lanes on schedules, and what is written of all that.
//!
//! ```text
//!  table ─ messages and jobs, in pages; by id; timers (schedule); shared texts (intern, reason)
//!    │ a job is for a
//!  domain ─ which lane it leads to, and who waits to know
//!    │
//!  lanes ─ whose turn it is to open a connection ─ lane: ready jobs, limits, back-off
//! ```
//!
//! Here are the containers and their rules; the engine moves jobs between them. [`store`] and
//! [`record`] say what of it is on disk, `recover` what a restart makes of that.

pub(crate) mod domain;
pub mod handling;
pub(crate) mod intern;
pub(crate) mod job;
pub(crate) mod lane;
pub(crate) mod lanes;
pub mod message;
pub(crate) mod pool;
pub(crate) mod ranked;
pub(crate) mod reason;
pub(crate) mod recipients;
pub mod record;
pub(crate) mod recover;
pub(crate) mod schedule;
pub mod store;
pub(crate) mod table;
pub(crate) mod tick;
