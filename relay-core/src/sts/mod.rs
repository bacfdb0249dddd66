//! MTA-STS: the TLS that a domain says its mail exchangers have, and how that is learnt and kept.
//!
//! ```text
//!  _mta-sts.DOMAIN TXT ──id──▶ known? ── yes ──▶ it rules until max_age
//!                                │ no, or another id
//!                                ▼
//!  https://mta-sts.DOMAIN/.well-known/mta-sts.txt ──▶ Policy ──▶ kept, on disk too
//!                                │ cannot be fetched
//!                                └──▶ what is kept rules on; with nothing kept, there is no policy
//! ```
//!
//! [`record`] and [`policy`] read the two texts, [`fetch`] learns them over the network, [`cache`] keeps
//! them. What a policy means for a domain's hosts is `engine::route`'s, and for one of them
//! `outbound::tls_policy`'s.
//!
//! A route to hosts that an operator named has no policy but the operator's (`route.tls`), where RFC 8461 §3.4
//! would ask for one under the name of the smart host: that name was not found in the DNS, and its policy, if
//! it has one, is about the exchangers of mail to it.
//!
//! RFC 8461.

pub(crate) mod cache;
mod fetch;
mod policy;
mod record;
#[cfg(test)]
mod tests;

pub use fetch::{Fetch, Found, Wanted};
pub use policy::{BadPolicy, MAX_AGE_MAX, Mode, POLICY_MAX, Policy, PolicyText, parse};
pub use record::{BadRecord, record_id};
