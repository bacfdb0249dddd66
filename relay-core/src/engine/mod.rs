//! The engine: the one place that admits, queues, schedules and counts. Single-threaded and passive.

mod io;

pub use io::*;
