//! Errands: what the engine wants of the network besides mail. A runtime drives each like a connection.
//!
//! ```text
//!  Output::Errand(id, Errand) ──▶ Runner, a machine ──Close──▶ into_done ──▶ Input::Errand(id, Done)
//! ```

use std::sync::Arc;

use crate::channel::ClientTls;
use crate::config::Config;
use crate::https::{Answer, Request};
use crate::machine::{Input, Machine, Output};
use crate::sts::{Fetch, Found, Wanted};
use crate::time::Now;
use crate::tlsrpt::{Due, Sending, Sent};

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Errand {
    /// Learn the MTA-STS policy of a domain.
    Policy(Wanted),
    /// Ask who wants a TLS-RPT report, write it, and post it.
    Report(Box<Due>),
}

/// What came of it.
#[derive(Debug)]
pub enum Done {
    /// Of `Policy`.
    Policy(Found),
    /// Of `Report`; an error may be over later.
    Report(Result<Box<Sent>, String>),
}

impl Errand {
    /// What a runtime hands in that cannot run it.
    #[must_use]
    pub fn not_run(&self, why: String) -> Done {
        match self {
            Self::Policy(_) => Done::Policy(Found::Unknown(why)),
            Self::Report(_) => Done::Report(Err(why)),
        }
    }
}

/// An errand under way. See [`crate::machine`] for how it is driven.
#[derive(Debug)]
pub enum Runner {
    /// Learns a policy.
    Policy(Fetch),
    /// Sends a report.
    Report(Box<Sending>),
}

impl Runner {
    /// An errand that begins now.
    #[must_use]
    pub fn new(errand: Errand, tls: Arc<ClientTls>, config: Arc<Config>) -> Self {
        match errand {
            Errand::Policy(wanted) => Self::Policy(Fetch::new(wanted, tls, config)),
            Errand::Report(due) => Self::Report(Box::new(Sending::new(*due, tls, config))),
        }
    }

    /// What came of it; call it after `Close`, or to give it up.
    #[must_use]
    pub fn into_done(self) -> Done {
        match self {
            Self::Policy(fetch) => Done::Policy(fetch.into_found()),
            Self::Report(sending) => Done::Report(sending.into_result()),
        }
    }
}

impl Machine for Runner {
    type Request = Request;
    type Answer = Answer;

    fn handle_input(&mut self, now: Now, input: Input<'_, Answer>) {
        match self {
            Self::Policy(fetch) => fetch.handle_input(now, input),
            Self::Report(sending) => sending.handle_input(now, input),
        }
    }

    fn poll_output(&mut self, wire: &mut Vec<u8>) -> Output<Request> {
        match self {
            Self::Policy(fetch) => fetch.poll_output(wire),
            Self::Report(sending) => sending.poll_output(wire),
        }
    }
}
