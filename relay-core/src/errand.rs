//! Errands: what the engine wants of the network besides mail. A runtime drives each like a connection.
//!
//! ```text
//!  Output::Errand(id, Errand) ──▶ Runner, a machine ──Close──▶ into_done ──▶ Input::Errand(id, Done)
//! ```

use std::sync::Arc;

use crate::channel::ClientTls;
use crate::config::Config;
use crate::https::{Answer, Ask, Request};
use crate::machine::{Input, Machine, Output};
use crate::sts::{Fetch, Found, Wanted};
use crate::time::Now;
use crate::tlsrpt::{Inquiry, Posting, Rua};

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Errand {
    /// Learn the MTA-STS policy of a domain.
    Policy(Wanted),
    /// Ask who wants the TLS-RPT reports of a domain.
    Inquiry(String),
    /// Post such a report.
    Post(Box<Ask>),
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// Of `Policy`.
    Policy(Found),
    /// Of `Inquiry`; an error may be over later.
    Inquiry(Result<Vec<Rua>, String>),
    /// Of `Post`: whether it arrived.
    Post(Result<(), String>),
}

impl Errand {
    /// What a runtime hands in that cannot run it.
    #[must_use]
    pub fn not_run(&self, why: String) -> Done {
        match self {
            Self::Policy(_) => Done::Policy(Found::Unknown(why)),
            Self::Inquiry(_) => Done::Inquiry(Err(why)),
            Self::Post(_) => Done::Post(Err(why)),
        }
    }
}

/// An errand under way. See [`crate::machine`] for how it is driven.
#[derive(Debug)]
pub enum Runner {
    /// Learns a policy.
    Policy(Fetch),
    /// Asks who wants reports.
    Inquiry(Inquiry),
    /// Posts a report.
    Post(Posting),
}

impl Runner {
    /// An errand that begins now.
    #[must_use]
    pub fn new(errand: Errand, tls: Arc<ClientTls>, config: Arc<Config>) -> Self {
        match errand {
            Errand::Policy(wanted) => Self::Policy(Fetch::new(wanted, tls, config)),
            Errand::Inquiry(domain) => Self::Inquiry(Inquiry::new(domain)),
            Errand::Post(ask) => Self::Post(Posting::new(*ask, tls, config)),
        }
    }

    /// What came of it; call it after `Close`, or to give it up.
    #[must_use]
    pub fn into_done(self) -> Done {
        match self {
            Self::Policy(fetch) => Done::Policy(fetch.into_found()),
            Self::Inquiry(inquiry) => Done::Inquiry(inquiry.into_found()),
            Self::Post(posting) => Done::Post(posting.into_result()),
        }
    }
}

impl Machine for Runner {
    type Request = Request;
    type Answer = Answer;

    fn handle_input(&mut self, now: Now, input: Input<'_, Answer>) {
        match self {
            Self::Policy(fetch) => fetch.handle_input(now, input),
            Self::Inquiry(inquiry) => inquiry.handle_input(now, input),
            Self::Post(posting) => posting.handle_input(now, input),
        }
    }

    fn poll_output(&mut self, wire: &mut Vec<u8>) -> Output<Request> {
        match self {
            Self::Policy(fetch) => fetch.poll_output(wire),
            Self::Inquiry(inquiry) => inquiry.poll_output(wire),
            Self::Post(posting) => posting.poll_output(wire),
        }
    }
}
