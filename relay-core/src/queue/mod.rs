//! The queue: messages as jobs, jobs in lanes, lanes on schedules, and what is written of all that.

pub mod message;
pub mod record;
pub mod store;
