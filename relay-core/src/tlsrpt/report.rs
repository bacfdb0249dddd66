//! A report: its JSON, gzipped, and the mail that carries it. RFC 8460 §4.4, §5.1 to §5.3.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use smtp_proto::{Mailbox, Notify, ReversePath};

use super::tally::{Period, Sessions, UnderPolicy};
use crate::config::{Config, a_labels};
use crate::engine::Submission;
use crate::id::MessageId;
use crate::inbound::body::Author;
use crate::queue::handling::Handling;
use crate::queue::message::{Body, BodyKind, Envelope, Origin, Recipient};
use crate::sign::{Signing, Unsigned};
use crate::time::UnixTime;

/// Who reports.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    /// `organization-name`
    organization: String,
    /// `contact-info`
    contact: String,
    /// Our name in reports: RFC 8460 §5.3 has it be the domain of `contact-info`.
    submitter: String,
    /// The header field From.
    from: String,
}

impl Head {
    /// As the configuration has it.
    pub(crate) fn of(config: &Config) -> Self {
        let (hostname, rpt) = (&config.hostname, &config.tls_rpt);
        let contact = rpt.contact.as_ref();
        let submitter = contact.and_then(Mailbox::domain).unwrap_or(hostname);
        let submitter = a_labels(submitter);
        let or_by_us = |given: Option<&Mailbox>, name: &str| match given {
            Some(mailbox) => mailbox.to_string(),
            None => format!("{name}@{submitter}"),
        };
        Self {
            organization: rpt
                .organization
                .clone()
                .unwrap_or_else(|| submitter.clone()),
            contact: or_by_us(contact, "postmaster"),
            from: or_by_us(rpt.from.as_ref(), "noreply-smtp-tls-reporting"),
            submitter,
        }
    }
}

/// What is wrong if there are domains that sign mail, and none is for the From of reports: they go by HTTPS
/// alone then.
#[must_use]
pub fn unsigned(config: &Config) -> Option<String> {
    let from = Mailbox::parse(&Head::of(config).from).ok()?;
    let author = Author::Mailboxes(vec![from]);
    match Signing::begin(&config.domains, &author, b"") {
        Err(why @ Unsigned::NoKeys(_)) if config.tls_rpt.enabled => Some(format!(
            "tls_rpt.from: {why}: reports on TLS that are asked for by mail are not sent; name an address \
             of a [[domain]]"
        )),
        Ok(_) | Err(_) => None,
    }
}

/// The id of a report: the same for every try at it.
fn id_of(head: &Head, Period { domain, start, .. }: &Period) -> String {
    format!("{start}_{domain}@{}", head.submitter)
}

/// The report as a gzip file.
pub(crate) fn gzipped(head: &Head, sessions: &Sessions) -> Vec<u8> {
    let text = json(head, sessions).to_string();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    // Writing into a `Vec` does not fail.
    let _ = encoder.write_all(text.as_bytes());
    encoder.finish().unwrap_or_default()
}

/// The report as its reader sees it.
pub(crate) fn json(head: &Head, sessions: &Sessions) -> Value {
    let period = &sessions.period;
    let at = |secs| UnixTime::from_secs(secs).to_rfc3339().replace(".000Z", "Z");
    let policy = |policy: &UnderPolicy| under(policy, &period.domain);
    json!({
        "organization-name": head.organization,
        "date-range": {
            "start-datetime": at(period.start),
            "end-datetime": at(sessions.end() - 1),
        },
        "contact-info": head.contact,
        "report-id": id_of(head, period),
        "policies": sessions.policies.iter().map(policy).collect::<Vec<_>>(),
    })
}

fn under(policy: &UnderPolicy, domain: &str) -> Value {
    let mut shown = json!({ "policy-type": policy.kind, "policy-domain": domain });
    if !policy.lines.is_empty() {
        shown["policy-string"] = json!(policy.lines);
    }
    if !policy.mx.is_empty() {
        shown["mx-host"] = json!(policy.mx);
    }
    let details = policy.failures.iter().map(|(failed, count)| {
        let mut detail = json!({
            "result-type": failed.kind,
            "failed-session-count": count,
            "failure-reason-code": failed.why,
        });
        if !failed.host.is_empty() {
            detail["receiving-mx-hostname"] = json!(failed.host);
        }
        if let Some(ip) = failed.address {
            detail["receiving-ip"] = json!(ip.to_canonical());
        }
        if let Some(ip) = failed.local {
            detail["sending-mta-ip"] = json!(ip.to_canonical());
        }
        detail
    });
    let details: Vec<Value> = details.collect();
    let mut value = json!({
        "policy": shown,
        "summary": {
            "total-successful-session-count": policy.successes,
            "total-failure-session-count": policy.failed,
        },
    });
    if !details.is_empty() {
        value["failure-details"] = json!(details);
    }
    value
}

/// The mail that carries a report, `gzip`. It is from the null sender, so that nothing is ever reported
/// about it, and goes whatever TLS there is: RFC 8460 §3 asks for that, since it may tell of TLS that fails.
pub(crate) fn mail(
    head: &Head,
    sessions: &Sessions,
    gzip: &[u8],
    to: &[Mailbox],
    id: MessageId,
    now: UnixTime,
) -> Submission {
    let (period, submitter) = (&sessions.period, &head.submitter);
    let domain = &period.domain;
    let report_id = id_of(head, period);
    // RFC 8460 §5.1.
    let (start, end) = (period.start, sessions.end() - 1);
    let file = format!("{submitter}!{domain}!{start}!{end}.json.gz");
    let recipients: Vec<String> = to.iter().map(|to| format!("<{to}>")).collect();
    let boundary = format!("=_{id}");
    let mut text = format!(
        "From: <{}>\r\n\
         To: {}\r\n\
         Subject: Report Domain: {domain}\r\n Submitter: {submitter}\r\n Report-ID: <{report_id}>\r\n\
         Date: {}\r\n\
         Message-ID: <{id}@{submitter}>\r\n\
         Auto-Submitted: auto-generated\r\n\
         TLS-Report-Domain: {domain}\r\n\
         TLS-Report-Submitter: {submitter}\r\n\
         TLS-Required: No\r\n\
         MIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=\"tlsrpt\";\r\n\tboundary=\"{boundary}\"\r\n\r\n",
        head.from,
        recipients.join(",\r\n\t"),
        now.to_rfc5322(),
    );
    let header_size = u32::try_from(text.len()).unwrap_or(u32::MAX);
    text.push_str(&format!(
        "--{boundary}\r\n\
         Content-Type: text/plain; charset=us-ascii\r\n\r\n\
         This is a report of {submitter} on TLS with the mail exchangers of {domain}\r\n\
         (RFC 8460).\r\n\r\n\
         --{boundary}\r\n\
         Content-Type: application/tlsrpt+gzip\r\n\
         Content-Transfer-Encoding: base64\r\n\
         Content-Disposition: attachment;\r\n\tfilename=\"{file}\"\r\n\r\n"
    ));
    for line in gzip.chunks(57) {
        text.push_str(&STANDARD.encode(line));
        text.push_str("\r\n");
    }
    text.push_str(&format!("--{boundary}--\r\n"));
    let handling = Handling {
        tls: crate::queue::handling::TlsWish::NotRequired,
        ..Handling::default()
    };
    let recipient = |to: &Mailbox| Recipient {
        to: to.clone(),
        notify: Some(Notify::NEVER),
        orcpt: None,
    };
    Submission {
        id,
        origin: Origin {
            credential: None,
            peer: None,
        },
        envelope: Envelope {
            from: ReversePath::Null,
            ret: None,
            envid: None,
            body: BodyKind::SevenBit,
            smtputf8: false,
            handling,
            recipients: to.iter().map(recipient).collect(),
        },
        prefix: Bytes::new(),
        dkim: None,
        preflight: Vec::new(),
        size: text.len() as u64,
        header_size,
        body: Body::Memory(text.into_bytes().into()),
    }
}
