//! The queue: messages as jobs, jobs in lanes, lanes on schedules, and what is written of all that.

pub(crate) mod domain;
pub(crate) mod intern;
pub(crate) mod job;
pub(crate) mod lane;
pub(crate) mod lanes;
pub mod message;
pub(crate) mod pool;
pub(crate) mod reason;
pub(crate) mod recipients;
pub mod record;
pub(crate) mod recover;
pub(crate) mod schedule;
pub mod store;
pub(crate) mod table;
pub(crate) mod tick;
