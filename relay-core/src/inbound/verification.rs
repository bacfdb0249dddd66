//! A stranger's message that is complete: who vouches for it is asked, judged, and written above it.
//!
//! ```text
//!   Pending ── poll ──▶ Request::Resolve ──Resolved──▶ poll …
//!      │ Done(verdict)
//!      ├── dmarc = "reject", and the domain asks for it ──▶ 550 5.7.1
//!      ├── … and the DNS does not answer ────────────────▶ 451 4.4.3
//!      └── otherwise ──▶ Authentication-Results, and an ARC set for a route with `forward` ──▶ to the store
//! ```
//!
//! A sender that neither SPF nor a signature of its domain vouches for is never sent a report.
//!
//! RFC 8601 §2 (the field), RFC 7489 §10.3 (refusing), RFC 8617 §5.1 (sealing).

use bytes::Bytes;
use smtp_proto::Notify;
use smtp_proto::server::Rejection;

use super::Request;
use super::envelope::refuse;
use super::session::{Session, State};
use super::transfer::{Phase, Transfer};
use crate::config::{DmarcAction, Role};
use crate::engine::{Refusal, Submission};
use crate::sign::Sealing;
use crate::verify::{DmarcResult, Policy, SpfResult, Step, Verdict, Verifier};

/// A message that waits for its verdict.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) verifier: Verifier,
    sealing: Option<Sealing>,
    /// What goes to the spool after it, and what is submitted then.
    last: Option<Bytes>,
    submission: Box<Submission>,
}

impl Pending {
    pub(super) fn new(
        verifier: Verifier,
        sealing: Option<Sealing>,
        last: Option<Bytes>,
        submission: Box<Submission>,
    ) -> Self {
        Self {
            verifier,
            sealing,
            last,
            submission,
        }
    }
}

impl Session {
    /// Asks on, or judges.
    pub(super) fn verify(&mut self, mut transfer: Box<Transfer>, mut pending: Box<Pending>) {
        let verdict = match pending.verifier.poll(self.now) {
            Step::Resolve(question) => {
                self.request = Some(Request::Resolve(question));
                transfer.phase = Phase::Verifying(pending);
                self.state = State::Transfer(transfer);
                return;
            }
            Step::Done(verdict) => verdict,
        };
        let role = self.listener().map(|listener| listener.role);
        let refusal = match role {
            Some(Role::Inbound(DmarcAction::Reject)) => refusal(&verdict),
            // A listener that a reload took away refuses nothing for what it did not say.
            Some(Role::Inbound(DmarcAction::Tag) | Role::Submission) | None => None,
        };
        if let Some(refusal) = refusal {
            self.drop_transaction();
            return self.reject(&refusal);
        }
        let Pending {
            verifier,
            sealing,
            last,
            mut submission,
        } = *pending;
        let hostname = &self.setup.config.hostname;
        let mut fields = String::new();
        if let (Some(sealing), Some(before)) = (sealing, verifier.before(&verdict)) {
            let results = verdict.text(hostname);
            fields = sealing
                .finish(before, &results, self.now.unix)
                .unwrap_or_default();
        }
        fields.push_str(&verdict.field(hostname));
        submission.put_before(fields.into());
        submission.dkim = Some(verdict.to_string());
        report_to_nobody_forged(&mut submission, &verdict);
        self.keep(transfer, last, submission);
    }
}

/// A host of ours that refuses the message later makes us report that to its sender. Whom nobody vouches for
/// may be somebody whose name was taken, so there is no report, neither of ours nor of the next host's: what
/// became of the message is in the events alone.
///
/// RFC 5321 §6.2: they "SHOULD NOT be sent unless the receiving site is confident that those messages will
/// be usefully delivered."
fn report_to_nobody_forged(submission: &mut Submission, verdict: &Verdict) {
    let from = submission.envelope.from.mailbox();
    if from.is_none_or(|from| verdict.vouches_for(from)) {
        return;
    }
    for recipient in &mut submission.envelope.recipients {
        recipient.notify = Some(Notify::NEVER);
    }
    submission.dkim = Some(format!("{verdict}; no reports: the sender is not verified"));
}

/// Why a message is refused, where its author's domain is to have its way.
fn refusal(verdict: &Verdict) -> Option<Refusal> {
    let dmarc = &verdict.dmarc;
    let domain = &dmarc.domain;
    match (dmarc.result, dmarc.policy) {
        (DmarcResult::Fail, Policy::Reject) => {
            let mut text = format!(
                "{domain} asks to refuse mail that it does not vouch for (DMARC p=reject; {verdict})"
            );
            if let (SpfResult::Fail, Some(explanation)) =
                (verdict.spf.result, &verdict.spf.explanation)
            {
                text.push_str(&format!("; it says: {explanation}"));
            }
            Some(refuse(Rejection::POLICY, text))
        }
        (DmarcResult::PermError, _) => {
            let text =
                "From names no domain, or several: DMARC cannot judge it; send with one author";
            Some(refuse(Rejection::POLICY, text.into()))
        }
        (DmarcResult::TempError, _) => {
            let text =
                format!("What {domain} vouches for cannot be looked up now; try again later");
            Some(refuse(Rejection::transient(451, 4, 3), text))
        }
        (DmarcResult::Fail, Policy::None | Policy::Quarantine)
        | (DmarcResult::None | DmarcResult::Pass, _) => None,
    }
}
