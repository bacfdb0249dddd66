//! TLS-RPT: what TLS was like with each domain's hosts, told once a day to those who ask.
//!
//! ```text
//!  each session, each policy that could not be had ──▶ Tally, by day and domain (kept on disk)
//!                                                        │ the day is over; hours later, at random
//!                                                        ▼
//!  _smtp._tls.DOMAIN TXT ──▶ rua: nobody, mailto:, https: ──▶ a report, by mail or by HTTPS
//! ```
//!
//! RFC 8460.

mod ask;
mod report;
mod rua;
pub(crate) mod tally;
#[cfg(test)]
mod tests;

pub use ask::{Inquiry, Posting};
pub(crate) use report::{Head, gzipped, mail};
pub use rua::{Rua, ruas};
