//! What the DNS said so far: verification is a function of it, run again with each answer.

use std::collections::BTreeMap;

use crate::dns::{DnsFailure, Question, Records};

/// An answer, or why there is none.
pub type Answer = Result<Records, DnsFailure>;

/// The answers so far.
#[derive(Debug, Default)]
pub(super) struct Known(BTreeMap<Question, Answer>);

/// A question whose answer is not known yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unknown(pub(super) Question);

/// What a verifier reads from an answer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Found<'a> {
    /// Records.
    Records(&'a Records),
    /// The name has none of the kind; whether it does not exist at all.
    Nothing {
        /// NXDOMAIN, or a name that the DNS cannot hold.
        no_such_name: bool,
    },
    /// Nobody knows now.
    Temporary,
}

impl Known {
    pub(super) fn insert(&mut self, question: Question, answer: Answer) {
        self.0.insert(question, answer);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn find(&self, question: Question) -> Result<Found<'_>, Unknown> {
        match self.0.get(&question) {
            None => Err(Unknown(question)),
            Some(Ok(records)) => Ok(Found::Records(records)),
            Some(Err(DnsFailure::NoSuchDomain | DnsFailure::BadName(_))) => {
                Ok(Found::Nothing { no_such_name: true })
            }
            Some(Err(DnsFailure::NoRecord | DnsFailure::NullMx)) => Ok(Found::Nothing {
                no_such_name: false,
            }),
            Some(Err(DnsFailure::Temporary(_))) => Ok(Found::Temporary),
        }
    }
}
