//! TLS-RPT: what TLS was like with each domain's hosts, told once a day to those who ask.
//!
//! ```text
//!  each session, each policy that could not be had ──▶ Tally, by day and domain (kept on disk)
//!                                      │ the day is over; hours later, at random, or when an operator says so
//!                                      ▼
//!  _smtp._tls.DOMAIN TXT ──▶ rua: nobody, mailto:, https: ──▶ Sending: a report to each of them
//! ```
//!
//! RFC 8460.

mod report;
mod rua;
mod send;
pub(crate) mod tally;
#[cfg(test)]
mod tests;

pub use report::unsigned;
pub(crate) use report::{Head, json};
pub use rua::{BadRecord, Rua, check_record, ruas};
pub use send::{Due, Sending, Sent};
