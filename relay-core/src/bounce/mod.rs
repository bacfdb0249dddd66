//! Reports to senders: delivery status notifications (RFC 3461, RFC 3462, RFC 3464).

mod report;

pub use report::{Action, RecipientReport, Report};
