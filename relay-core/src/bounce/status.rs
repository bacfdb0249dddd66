//! The part for programs: message/delivery-status.
//!
//! RFC 3464 §2.2 (fields of the message) and §2.3 (fields of each recipient); RFC 6533 §3 and §4.1
//! (addresses and the media type with UTF-8).

use smtp_proto::Mailbox;

use super::mime::{self, Encoding, Part};
use super::{Action, RECIPIENTS_MAX, Report, Told};
use crate::queue::message::Message;

/// Once the fields take so much, recipients get only those that they must have.
const DETAILED_MAX: usize = 32 * 1024;
/// Once the fields take so much, recipients are left out.
const STATUS_MAX: usize = 128 * 1024;
/// The most of a reply that is repeated, in octets.
const DIAGNOSTIC_MAX: usize = 512;

/// The part, and how many recipients it has fields for.
pub(super) fn part(
    report: &Report,
    original: &Message,
    told: &[Told<'_>],
    utf8: bool,
) -> (Part, usize) {
    let mut text = String::new();
    mime::field(
        &mut text,
        "Reporting-MTA",
        &format!("dns; {}", report.hostname),
    );
    if let Some(envid) = &original.envelope.envid {
        // RFC 3464 §2.2.1: the decoded form. It holds no control character by its type.
        mime::exact_field(&mut text, "Original-Envelope-Id", envid.as_str());
    }
    mime::field(&mut text, "Arrival-Date", &original.accepted.to_rfc5322());
    mime::field(&mut text, "X-Relay-Queue-Id", &report.about.to_string());

    let mut listed = 0;
    while listed < told.len().min(RECIPIENTS_MAX) && text.len() < STATUS_MAX {
        text.push_str("\r\n");
        recipient(&mut text, &told[listed], utf8);
        listed += 1;
    }
    let kind = if utf8 {
        "message/global-delivery-status"
    } else {
        "message/delivery-status"
    };
    (
        Part::new(kind, "Delivery report", Encoding::Identity, text.as_bytes()),
        listed,
    )
}

fn recipient(text: &mut String, told: &Told<'_>, utf8: bool) {
    let Told { recipient, report } = told;
    let detailed = text.len() < DETAILED_MAX;
    if let Some(orcpt) = &recipient.orcpt {
        let original = typed_address(orcpt.addr_type(), orcpt.address(), utf8);
        mime::exact_field(text, "Original-Recipient", &original);
    }
    mime::exact_field(
        text,
        "Final-Recipient",
        &final_recipient(&recipient.to, utf8),
    );
    let action = match report.action {
        Action::Failed => "failed",
        Action::Delayed { .. } => "delayed",
        Action::Relayed => "relayed",
    };
    mime::field(text, "Action", action);
    mime::field(text, "Status", &status(told));
    if detailed {
        details(text, told);
    }
    if let Action::Delayed { until } = report.action {
        mime::field(text, "Will-Retry-Until", &until.to_rfc5322());
    }
}

fn details(text: &mut String, told: &Told<'_>) {
    let report = told.report;
    let host = report.host.as_ref().map(|host| mime::clean(host, 255));
    if let Some(host) = host.filter(|host| !host.is_empty()) {
        mime::field(text, "Remote-MTA", &format!("dns; {host}"));
    }
    let diagnostic = match report.reason.code {
        Some(_) => format!("smtp; {}", reply(told)),
        // RFC 3464 §2.3.6: a type of our own for what is no reply.
        None => format!("X-Relay; {}", reply(told)),
    };
    mime::field(text, "Diagnostic-Code", &diagnostic);
    if let Some(time) = report.last_attempt {
        mime::field(text, "Last-Attempt-Date", &time.to_rfc5322());
    }
}

/// The reply as it was, or our own finding; in one safe line.
pub(super) fn reply(told: &Told<'_>) -> String {
    let reason = &told.report.reason;
    let said = mime::clean(&reason.text, DIAGNOSTIC_MAX);
    let Some(code) = reason.code else { return said };
    let status = status(told);
    // The status of an expired message is ours, not that of the last reply.
    let theirs = status.bytes().next() == code.to_string().bytes().next();
    if theirs && !said.starts_with(&status) {
        format!("{code} {status} {said}")
    } else {
        format!("{code} {said}")
    }
}

/// The status, or the least that RFC 3464 §2.3.4 demands of one.
pub(super) fn status(told: &Told<'_>) -> String {
    let report = told.report;
    let (class, otherwise) = match report.action {
        Action::Failed => ('5', "5.0.0"),
        Action::Delayed { .. } => ('4', "4.0.0"),
        Action::Relayed => ('2', "2.0.0"),
    };
    let status = report.reason.status.as_str();
    let numbers = status
        .split('.')
        .filter(|n| (1..=3).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_digit()));
    let well_formed = numbers.count() == 3 && status.split('.').count() == 3;
    // RFC 3464 §2.3.4: "failed" goes with 5 (or 4, for what was tried too long).
    let fits = status.starts_with(class) || (class == '5' && status.starts_with('4'));
    if well_formed && fits {
        status.to_owned()
    } else {
        otherwise.to_owned()
    }
}

fn final_recipient(to: &Mailbox, utf8: bool) -> String {
    let address = to.to_string();
    let addr_type = if address.is_ascii() {
        "rfc822"
    } else {
        "utf-8"
    };
    typed_address(addr_type, &address, utf8)
}

/// `type; address`; UTF-8 is written as such, or in the ASCII form of RFC 6533 §3.
fn typed_address(addr_type: &str, address: &str, utf8: bool) -> String {
    let encode = addr_type.eq_ignore_ascii_case("utf-8") && !utf8;
    if !encode {
        return format!("{addr_type}; {address}");
    }
    let mut ascii = String::new();
    for c in address.chars() {
        match c {
            '\\' | '+' | '=' | ' ' => ascii.push_str(&format!("\\x{{{:02X}}}", u32::from(c))),
            c if c.is_ascii() => ascii.push(c),
            c => ascii.push_str(&format!("\\x{{{:X}}}", u32::from(c))),
        }
    }
    format!("{addr_type}; {ascii}")
}
