//! The part for people: what happened, why, and what to do now.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::mime::{self, Encoding, Part};
use super::{Action, Report, Told, status};
use crate::queue::message::Message;

/// The most reasons that are told apart in words.
const REASONS_MAX: usize = 8;
/// The most recipients that are named under one reason.
const NAMED_MAX: usize = 8;

/// The Subject: no word of it is a peer's.
pub(super) fn subject(told: &[Told<'_>]) -> String {
    let what = match worst(told) {
        Action::Failed => "Undeliverable",
        Action::Delayed { .. } => "Delayed",
        Action::Relayed => "Relayed",
    };
    match told {
        [only] if only.recipient.to.is_ascii() => {
            format!("{what}: your message to {}", only.recipient.to)
        }
        [_] => format!("{what}: your message to 1 recipient"),
        many => format!("{what}: your message to {} recipients", many.len()),
    }
}

/// A failure matters most, then a delay.
fn worst(told: &[Told<'_>]) -> Action {
    let rank = |action: &Action| match action {
        Action::Failed => 0,
        Action::Delayed { .. } => 1,
        Action::Relayed => 2,
    };
    told.iter()
        .map(|told| told.report.action)
        .min_by_key(rank)
        .unwrap_or(Action::Failed)
}

/// The part; `listed` recipients have fields in the part after it.
pub(super) fn part(report: &Report, original: &Message, told: &[Told<'_>], listed: usize) -> Part {
    let mut text = String::new();
    mime::paragraph(
        &mut text,
        0,
        &format!("This is the mail relay {}.", report.hostname),
    );

    let groups = grouped(told);
    for group in groups.iter().take(REASONS_MAX) {
        text.push_str("\r\n");
        write_group(&mut text, report, group);
    }
    let unnamed: usize = groups.iter().skip(REASONS_MAX).map(Vec::len).sum();
    text.push_str("\r\n");
    if unnamed > 0 {
        let more = format!("{unnamed} more recipients are in the delivery report below.");
        mime::paragraph(&mut text, 0, &more);
    }
    if told.len() > listed {
        let most = format!(
            "Of {} recipients, the report lists the first {listed}.",
            told.len()
        );
        mime::paragraph(&mut text, 0, &most);
    }
    let accepted = original.accepted.to_rfc5322();
    let about = format!(
        "The message has the number {} here, and was accepted on {accepted}.",
        report.about
    );
    mime::paragraph(&mut text, 0, &about);

    let encoding = if text.is_ascii() {
        Encoding::Identity
    } else {
        Encoding::Base64
    };
    let kind = if text.is_ascii() {
        "text/plain; charset=us-ascii"
    } else {
        "text/plain; charset=utf-8"
    };
    Part::new(kind, "Notification", encoding, text.as_bytes())
}

/// Recipients with the same fate and reason, in the order in which they appear first.
fn grouped<'t, 'a>(told: &'t [Told<'a>]) -> Vec<Vec<&'t Told<'a>>> {
    let mut groups: Vec<Vec<&Told<'_>>> = Vec::new();
    let mut known = BTreeMap::new();
    for told in told {
        let report = told.report;
        let reason = &report.reason;
        let until = match report.action {
            Action::Failed => None,
            Action::Delayed { until } => Some(Some(until)),
            Action::Relayed => Some(None),
        };
        let key = (
            until,
            &report.host,
            reason.code,
            &reason.status,
            &reason.text,
            &reason.rule,
        );
        let group = *known.entry(key).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[group].push(told);
    }
    groups
}

fn write_group(text: &mut String, report: &Report, group: &[&Told<'_>]) {
    let Some(first) = group.first() else { return };
    let them = if group.len() == 1 {
        "this recipient"
    } else {
        "these recipients"
    };
    let happened = match first.report.action {
        Action::Failed => {
            format!("Your message could not be delivered to {them}, and is not tried again:")
        }
        Action::Delayed { until } => format!(
            "Your message was not delivered to {them} yet. You need not send it again: it is tried \
             until {}.",
            until.to_rfc5322()
        ),
        Action::Relayed => format!(
            "Your message was handed over for {them}. The next host does not report delivery, so \
             this is the last that you hear of it:"
        ),
    };
    mime::paragraph(text, 0, &happened);
    text.push_str("\r\n");
    for told in group.iter().take(NAMED_MAX) {
        let _ = write!(text, "    <{}>\r\n", told.recipient.to);
    }
    if group.len() > NAMED_MAX {
        let _ = write!(
            text,
            "    and {} more, in the delivery report below\r\n",
            group.len() - NAMED_MAX
        );
    }
    text.push_str("\r\n");
    mime::paragraph(text, 4, &why(first, report));
    mime::paragraph(text, 8, &status::reply(first));
    if let Some(advice) = advice(first) {
        mime::paragraph(text, 4, &format!("What to do: {advice}"));
    }
    let reason = &first.report.reason;
    let stage = mime::clean(&reason.stage, 40);
    let rule = mime::clean(&reason.rule, 80);
    mime::paragraph(
        text,
        4,
        &format!(
            "Status {}, stage {stage}, rule {rule}.",
            status::status(first)
        ),
    );
}

fn why(told: &Told<'_>, report: &Report) -> String {
    let host = told.report.host.as_ref().map(|host| mime::clean(host, 255));
    match (host, told.report.reason.code) {
        (Some(host), Some(_)) => format!("The host {host} replied:"),
        (None, Some(_)) => "The receiving host replied:".into(),
        (Some(host), None) => format!("With the host {host}, {} found:", report.hostname),
        (None, None) => format!("{} found:", report.hostname),
    }
}

/// What a person can do about a status. RFC 3463 §3.
fn advice(told: &Told<'_>) -> Option<&'static str> {
    match told.report.action {
        Action::Failed => {}
        Action::Delayed { .. } => return Some("nothing; if it is urgent, reach them another way."),
        Action::Relayed => return None,
    }
    let status = status::status(told);
    let (_, what) = status.split_once('.')?;
    Some(match what {
        "1.1" | "1.3" | "1.6" => {
            "check the address for typing mistakes; if it is right, ask the recipient another way: \
             the receiver does not know it."
        }
        "1.2" => "check the part after the @ for typing mistakes: no such domain exists.",
        "1.10" => "use another address: this domain receives no mail.",
        "2.1" => "ask the recipient another way: the mailbox is switched off.",
        "2.2" => "tell the recipient another way that the mailbox is full, then send again.",
        "2.3" | "3.4" => {
            "make the message smaller (send a link for the attachments), then send again."
        }
        "4.7" => {
            "send it again later, or reach the recipient another way: their host could not be \
             reached, or refused for the time being, as long as it was tried."
        }
        "7.1" | "7.26" | "7.27" => {
            "show this report to your administrator or to the recipient: the receiver's rules refuse \
             messages like this one."
        }
        what if what.starts_with("4.") => {
            "check the part after the @ for typing mistakes; if it is right, the receiver's name or \
             mail service is set up wrongly, which only they can repair."
        }
        what if what.starts_with("6.") => {
            "send it in a plainer form (no international address, no binary content): the receiver \
             cannot take this one."
        }
        what if what.starts_with("7.") => {
            "show this report to your administrator: security or policy stands in the way."
        }
        _ => "read the reply above; if it does not help, show this report to your administrator.",
    })
}
