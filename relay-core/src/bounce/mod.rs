//! Reports to senders: what they are due for, and the message that makes them.
//!
//! ```text
//!  engine: outcomes ──▶ Report ──┐
//!                                ├──▶ write ──▶ Submission ──▶ engine: queued like any message
//!  store: the original ──────────┘       └────▶ NotDue
//! ```
//!
//! One report tells of all recipients of one message that came to their end together. It goes to the
//! reverse-path from the null reverse-path, so nothing is ever reported about a report, and it is
//! bounded whatever the original and the receivers' replies were: see [`REPORT_SIZE_MAX`].
//!
//! The message has three parts: words for people, fields for programs, and the original or its headers.
//!
//! RFC 3461 (NOTIFY, RET, ENVID, ORCPT), RFC 6522 (multipart/report, after RFC 3462), RFC 3464 (the
//! fields), RFC 6533 (UTF-8), RFC 3834 §5 (Auto-Submitted), RFC 5321 §4.5.5 (null reverse-path).

mod due;
mod mime;
mod report;
pub mod return_path;
mod returned;
mod status;
#[cfg(test)]
mod tests;
mod words;

use std::fmt;

use bytes::Bytes;
use smtp_proto::{Mailbox, Notify, Occasion, ReversePath};

pub use due::write_due;
pub use report::{Action, RecipientReport, Report};
pub use returned::original_len;

use crate::engine::Submission;
use crate::queue::handling::Handling;
use crate::queue::message::{
    BODY_MEMORY_MAX, Body, BodyKind, Envelope, Message, Origin, Recipient,
};
use mime::Part;

/// No report is longer, in octets: it fits into memory and into its record.
pub const REPORT_SIZE_MAX: usize = BODY_MEMORY_MAX;
/// The original is returned whole (RET=FULL) only as long as the report stays within this.
pub const RETURN_SIZE_MAX: usize = 50 * 1024;
/// The most recipients that one report has fields for; it says how many it leaves out.
pub const RECIPIENTS_MAX: usize = 1000;

/// Why nobody is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotDue {
    /// The message is a report itself, or does not want to be answered. RFC 5321 §4.5.5.
    NullSender,
    /// NOTIFY does not ask for this report for any of the recipients. RFC 3461 §4.1.
    Unwanted,
}

impl fmt::Display for NotDue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NullSender => "null sender",
            Self::Unwanted => "NOTIFY does not ask for it",
        })
    }
}

impl std::error::Error for NotDue {}

/// Whether a recipient with this NOTIFY is to be reported. RFC 3461 §4.1.
///
/// Where nothing was said, failures are reported, and delays too: a sender who is told after some hours
/// can still pick up a telephone.
#[must_use]
pub fn is_wanted(action: Action, notify: Option<Notify>) -> bool {
    let notify = notify.unwrap_or(Notify::UNSAID);
    match action {
        Action::Failed => notify.reports_failure(),
        Action::Delayed { .. } => notify == Notify::UNSAID || notify.asks(Occasion::Delay),
        // RFC 3461 §5.2.2: only of a host that does not take over the duty to report.
        Action::Relayed => notify.asks(Occasion::Success),
    }
}

/// Writes a report about `original`, whose first octets are `bytes`: at least [`original_len`] of them,
/// or fewer if they could not be read; what is there is returned.
///
/// # Errors
/// [`NotDue`] if nobody wants it.
pub fn write(report: &Report, original: &Message, bytes: &[u8]) -> Result<Submission, NotDue> {
    let to = match &original.envelope.from {
        ReversePath::Null => return Err(NotDue::NullSender),
        ReversePath::Mailbox(mailbox) => mailbox,
    };
    let told = told(report, original);
    if told.is_empty() {
        return Err(NotDue::Unwanted);
    }
    // RFC 6533 §3: addresses are written as UTF-8 only to somebody who certainly receives that.
    let utf8 = !to.is_ascii();
    let (status, listed) = status::part(report, original, &told, utf8);
    let words = words::part(report, original, &told, listed);
    let room = RETURN_SIZE_MAX.saturating_sub(status.len() + words.len());
    let returned = returned::part(original, &told, bytes, room);
    let header = header(report, to, &told);
    Ok(assemble(
        report,
        original,
        to,
        &header,
        &[words, status, returned],
    ))
}

/// A recipient that the sender is told about.
struct Told<'a> {
    recipient: &'a Recipient,
    report: &'a RecipientReport,
}

fn told<'a>(report: &'a Report, original: &'a Message) -> Vec<Told<'a>> {
    let recipients = &original.envelope.recipients;
    report
        .recipients
        .iter()
        .filter_map(|report| {
            let index = usize::try_from(report.index).ok()?;
            Some(Told {
                recipient: recipients.get(index)?,
                report,
            })
        })
        .filter(|told| is_wanted(told.report.action, told.recipient.notify))
        .collect()
}

fn header(report: &Report, to: &Mailbox, told: &[Told<'_>]) -> String {
    let Report {
        id, now, hostname, ..
    } = report;
    let subject = words::subject(told);
    format!(
        "From: Mail Delivery System <MAILER-DAEMON@{hostname}>\r\n\
         To: <{to}>\r\n\
         Subject: {subject}\r\n\
         Date: {}\r\n\
         Message-ID: <{id}@{hostname}>\r\n\
         Auto-Submitted: auto-replied\r\n\
         MIME-Version: 1.0\r\n",
        now.to_rfc5322(),
    )
}

fn assemble(
    report: &Report,
    original: &Message,
    to: &Mailbox,
    header: &str,
    parts: &[Part],
) -> Submission {
    let boundary = mime::boundary(report.id, parts);
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(
        format!(
            "Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"{boundary}\"\r\n\r\n"
        )
        .as_bytes(),
    );
    let header_size = bytes.len();
    mime::write_parts(&mut bytes, &boundary, parts);
    assert!(
        bytes.len() <= REPORT_SIZE_MAX,
        "a report of {} octets",
        bytes.len()
    );

    let body = if bytes.is_ascii() {
        BodyKind::SevenBit
    } else {
        BodyKind::EightBit
    };
    // RFC 8689 §5: what was too delicate for clear text is so on its way back.
    let handling = Handling {
        tls: original.envelope.handling.tls,
        ..Handling::default()
    };
    // RFC 3461 §6.1: from the null reverse-path, and NOTIFY can only be NEVER.
    let recipient = Recipient {
        to: to.clone(),
        notify: Some(Notify::NEVER),
        orcpt: None,
    };
    Submission {
        id: report.id,
        origin: Origin {
            credential: None,
            peer: None,
        },
        envelope: Envelope {
            from: ReversePath::Null,
            ret: None,
            envid: None,
            body,
            // RFC 6533 §3, as above.
            smtputf8: !to.is_ascii(),
            handling,
            recipients: vec![recipient],
        },
        prefix: Bytes::new(),
        dkim: None,
        preflight: Vec::new(),
        size: bytes.len() as u64,
        header_size: u32::try_from(header_size).unwrap_or(u32::MAX),
        body: Body::Memory(bytes.into()),
    }
}
