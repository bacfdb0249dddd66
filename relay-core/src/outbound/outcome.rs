//! What a reply or a failure means: the one place that decides between delivered, the next host,
//! later, never, and what becomes of the connection.
//!
//! It owns the policy and no state: [`judge`] is a pure function of where a finding was made.
//!
//! | stage | 2yz | 4yz | 5yz | connection lost, too slow, or nonsense |
//! |---|---|---|---|---|
//! | resolve, policy, connect | | | | next host; for good if the name or the address is |
//! | greeting, ehlo | go on | next host | next host, for good | next host |
//! | tls, auth | go on | next host | next host | next host |
//! | mail | go on | next host | bounce | next host; a new connection if this one was used before |
//! | rcpt | go on | defer | bounce | next host |
//! | data | go on | defer | bounce | next host |
//! | body | | defer | bounce | defer |
//! | dot | delivered | defer | bounce | defer, in doubt |
//!
//! A job bounces for what hosts said before MAIL only if every host of the lane said it for good
//! ([`conclude`]): RFC 5321 §5.1 asks to try them all, and a 5yz greeting speaks of one host ("no
//! service here", or "not to you") while another may take the mail. A wrong TLS setup, a wrong login,
//! a wrong name in a route or a store that fails is for an operator to mend, so it never bounces. A 421 at any stage is a 4yz
//! and ends the connection. RFC 5321 §4.2.1 (classes), §3.8 (421), §6.1 (loss after the dot).

use std::time::Duration;

use smtp_proto::{Reply, Severity};

use super::finding::{Finding, Forbidden, Loss, Need, Stage};
use super::io::{Outcome, Reason};
use super::retry_after::retry_after;
use super::tls_policy::TlsFault;
use crate::dns::DnsFailure;
use crate::queue::store::LoadFailed;

/// The longest [`Reason::text`], in octets.
const TEXT_MAX: usize = 512;

/// What a route without a login lacks.
const LOGIN_KEYS: &str = "`username` and `password_file`";

/// What is known beside the finding.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    /// The connection carried a message before this one.
    pub(super) reused: bool,
    /// A recipient of this transaction was accepted.
    pub(super) accepted: bool,
    /// The host offers TLS, which failed, and the connection is in clear text for that reason.
    pub(super) tls_given_up: bool,
    /// The host was named by an operator, in a route.
    pub(super) route: bool,
    /// The message goes over verified TLS or not at all. RFC 8689 §4.2.1.
    pub(super) required: bool,
}

/// A finding, judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    /// What becomes of the recipients that it is about.
    pub(super) fate: Fate,
    /// What becomes of the connection.
    pub(super) then: Then,
    /// Why.
    pub(super) reason: Reason,
    /// When the host wants to be asked again.
    pub(super) retry_after: Option<Duration>,
}

/// What becomes of recipients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Delivered.
    Delivered,
    /// Another transaction on this connection.
    Split,
    /// Another connection, from the first host on: nothing is wrong with this one but its age.
    Again,
    /// The next host of the lane.
    NextHost {
        /// This host will say the same tomorrow.
        permanent: bool,
    },
    /// Later.
    Deferred {
        /// It may have been delivered.
        in_doubt: bool,
    },
    /// Never.
    Bounced,
}

/// What becomes of a connection, the mildest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Then {
    /// It goes on.
    Keep,
    /// QUIT, and close.
    Quit,
    /// Close: it is gone or of no use.
    Drop,
}

impl Verdict {
    /// The outcome, where no other host can be asked any more.
    pub(super) fn outcome(self) -> Outcome {
        let Self {
            fate,
            reason,
            retry_after,
            ..
        } = self;
        let in_doubt = fate == Fate::Deferred { in_doubt: true };
        match fate {
            Fate::Delivered => Outcome::Delivered(reason),
            Fate::Bounced => Outcome::Bounced(reason),
            Fate::Split | Fate::Again | Fate::NextHost { .. } | Fate::Deferred { .. } => {
                Outcome::Deferred {
                    reason: transient(reason),
                    retry_after,
                    in_doubt,
                }
            }
        }
    }
}

/// Judges what was found at a stage.
pub(super) fn judge(stage: Stage, finding: &Finding, seen: Seen) -> Verdict {
    match finding {
        Finding::Reply(reply) => judge_reply(stage, reply, seen),
        Finding::Lost(loss) => judge_loss(stage, loss, seen),
        Finding::Dns(failure) => judge_dns(stage, failure, seen),
        Finding::Forbidden(why) => judge_forbidden(stage, why, seen),
        Finding::Tlsa(failure) => judge_tlsa(stage, failure),
        // RFC 8461 §5: "Sending MTAs MUST NOT deliver the message to hosts that fail MX matching", and "MUST
        // NOT permanently fail to deliver messages".
        Finding::Stray => ours(
            Fate::NextHost { permanent: false },
            Then::Drop,
            stage,
            "4.7.5",
            "mta-sts-mx",
            "the domain's MTA-STS policy does not name this host",
        ),
        Finding::Tls(fault) => judge_tls(stage, fault, seen),
        Finding::Login(why) => ours(
            Fate::NextHost { permanent: false },
            Then::Quit,
            stage,
            "4.7.8",
            "login",
            why,
        ),
        Finding::Lacks(need) => judge_need(stage, *need),
        Finding::Store(failure) => {
            // What fails its checksum will not get better; a disk that fails may.
            let (fate, status, rule) = match failure {
                LoadFailed::Damaged(_) => (Fate::Bounced, "5.3.0", Reason::DAMAGED),
                LoadFailed::Io(_) => (Fate::Deferred { in_doubt: false }, "4.3.0", "store-io"),
            };
            ours(fate, Then::Keep, stage, status, rule, failure)
        }
    }
}

/// What a failure of one host was.
#[derive(Debug, Clone)]
pub(super) struct HostFailure {
    /// Where it was found.
    pub(super) stage: Stage,
    /// Its fate is [`Fate::NextHost`].
    pub(super) verdict: Verdict,
}

/// What the failures of all hosts together mean: the index of the one that tells most, and whether the
/// message bounces. `complete` says that no host was left out.
///
/// None where there are no failures.
pub(super) fn conclude(failures: &[HostFailure], complete: bool) -> Option<(usize, Verdict)> {
    let permanent =
        |failure: &HostFailure| failure.verdict.fate == Fate::NextHost { permanent: true };
    let bounces = complete && failures.iter().all(permanent);
    // The furthest stage tells most; among equals the last one is the freshest.
    let (index, failure) = failures
        .iter()
        .enumerate()
        .max_by_key(|(_, failure)| (bounces || !permanent(failure), failure.stage))?;
    let fate = if bounces {
        Fate::Bounced
    } else {
        Fate::Deferred { in_doubt: false }
    };
    Some((
        index,
        Verdict {
            fate,
            ..failure.verdict.clone()
        },
    ))
}

fn judge_reply(stage: Stage, reply: &Reply, seen: Seen) -> Verdict {
    let (digit, fate) = match (reply.severity(), stage) {
        (Severity::Success, Stage::Dot) => ('2', Fate::Delivered),
        (Severity::Success | Severity::Intermediate, _) => {
            let nonsense = Loss::Protocol(format!("unexpected reply {reply}"));
            return judge_loss(stage, &nonsense, seen);
        }
        (Severity::Transient, _) => ('4', transient_fate(stage, reply, seen)),
        (Severity::Permanent, _) => ('5', permanent_fate(stage, reply, seen)),
    };
    let then = match fate {
        _ if reply.code().number() == 421 => Then::Drop,
        Fate::Again => Then::Drop,
        Fate::NextHost { .. } => Then::Quit,
        // The transaction is still running, and there is no telling what it takes for its end.
        _ if stage == Stage::Body => Then::Drop,
        Fate::Delivered | Fate::Split | Fate::Deferred { .. } | Fate::Bounced => Then::Keep,
    };
    let rule = match fate {
        Fate::Split => "too-many-recipients".to_owned(),
        Fate::Again => "stale-connection".to_owned(),
        Fate::NextHost { permanent: false } if wants_login(reply, seen) => "route-login".to_owned(),
        Fate::NextHost { permanent: false } if stage == Stage::Mail && digit == '5' => {
            "tls-fallback-refused".to_owned()
        }
        Fate::Delivered | Fate::NextHost { .. } | Fate::Deferred { .. } | Fate::Bounced => {
            format!("{}-{digit}xx", stage.as_str())
        }
    };
    let status = reply
        .enhanced()
        .map_or(format!("{digit}.0.0"), |status| status.to_string());
    let written = reply.sanitised();
    let text = written.split_once(' ').map_or("", |(_, text)| text);
    let retry_after = if digit == '4' {
        retry_after(text)
    } else {
        None
    };
    let code = Some(reply.code().number());
    let stage = stage.as_str().to_owned();
    let reason = Reason {
        stage,
        code,
        status,
        text: match rule.as_str() {
            "route-login" => sanitised(&format!("{text} (the route needs {LOGIN_KEYS})")),
            _ => sanitised(text),
        },
        rule,
    };
    Verdict {
        fate,
        then,
        reason,
        retry_after,
    }
}

fn transient_fate(stage: Stage, reply: &Reply, seen: Seen) -> Fate {
    match stage {
        Stage::Store | Stage::Resolve | Stage::Policy | Stage::Connect => {
            Fate::NextHost { permanent: false }
        }
        Stage::Greeting | Stage::Hello | Stage::Tls | Stage::Auth => {
            Fate::NextHost { permanent: false }
        }
        Stage::Mail if seen.reused && reply.code().number() == 421 => Fate::Again,
        Stage::Mail => Fate::NextHost { permanent: false },
        // RFC 5321 §4.5.3.1.10: the rest goes in another transaction.
        Stage::Rcpt if seen.accepted && reply.code().number() == 452 => Fate::Split,
        Stage::Rcpt | Stage::Data | Stage::Body | Stage::Dot => Fate::Deferred { in_doubt: false },
    }
}

fn permanent_fate(stage: Stage, reply: &Reply, seen: Seen) -> Fate {
    match stage {
        Stage::Store | Stage::Resolve | Stage::Policy | Stage::Connect => {
            Fate::NextHost { permanent: true }
        }
        Stage::Greeting | Stage::Hello => Fate::NextHost { permanent: true },
        Stage::Tls | Stage::Auth => Fate::NextHost { permanent: false },
        // The two sides disagree about the state that the message before left behind.
        Stage::Mail if seen.reused && reply.code().number() == 503 => Fate::Again,
        // RFC 3207 §4: "530 Must issue a STARTTLS command first", and we had tried to.
        Stage::Mail if seen.tls_given_up && reply.code().number() == 530 => {
            Fate::NextHost { permanent: false }
        }
        // That is for our operator to mend.
        Stage::Mail | Stage::Rcpt if wants_login(reply, seen) => {
            Fate::NextHost { permanent: false }
        }
        // RFC 5321 §4.5.3.1.10: a 552 to RCPT may be an old way to say 452.
        Stage::Rcpt if seen.accepted && is_too_many(reply) => Fate::Split,
        Stage::Mail | Stage::Rcpt | Stage::Data | Stage::Body | Stage::Dot => Fate::Bounced,
    }
}

/// The host of a route wants a login that the route has not. RFC 4954 §6: 530 "Authentication required".
fn wants_login(reply: &Reply, seen: Seen) -> bool {
    seen.route && !seen.tls_given_up && reply.code().number() == 530
}

fn is_too_many(reply: &Reply) -> bool {
    reply.code().number() == 552
        && reply
            .enhanced()
            .is_none_or(|status| status.to_string() == "5.5.3")
}

fn judge_loss(stage: Stage, loss: &Loss, seen: Seen) -> Verdict {
    let fate = match stage {
        Stage::Store | Stage::Resolve | Stage::Policy | Stage::Connect => {
            Fate::NextHost { permanent: false }
        }
        Stage::Greeting | Stage::Hello | Stage::Tls | Stage::Auth => {
            Fate::NextHost { permanent: false }
        }
        Stage::Mail if seen.reused => Fate::Again,
        Stage::Mail | Stage::Rcpt | Stage::Data => Fate::NextHost { permanent: false },
        // The message itself may be what breaks it: it is not shown to every host at once.
        Stage::Body => Fate::Deferred { in_doubt: false },
        // RFC 5321 §6.1: the host may have taken it.
        Stage::Dot => Fate::Deferred { in_doubt: true },
    };
    let (status, what) = match loss {
        Loss::Protocol(_) => ("4.5.0", "protocol"),
        Loss::Timeout if stage == Stage::Connect => ("4.4.1", "timeout"),
        Loss::Closed | Loss::Broken(_) if stage == Stage::Connect => ("4.4.1", "failed"),
        Loss::Timeout => ("4.4.2", "timeout"),
        Loss::Closed | Loss::Broken(_) => ("4.4.2", "lost"),
    };
    let before = stage.awaited();
    let text = match loss {
        Loss::Closed => format!("the host closed the connection before {before}"),
        Loss::Broken(kind) if stage == Stage::Connect => format!("could not connect: {kind}"),
        Loss::Broken(kind) => format!("the connection broke before {before}: {kind}"),
        Loss::Timeout => format!("timed out while waiting for {before}"),
        Loss::Protocol(why) => format!("{why} (while waiting for {before})"),
    };
    let rule = if fate == Fate::Again {
        "stale-connection".to_owned()
    } else {
        format!("{}-{what}", stage.as_str())
    };
    ours(fate, Then::Drop, stage, status, &rule, text)
}

fn judge_dns(stage: Stage, failure: &DnsFailure, seen: Seen) -> Verdict {
    let permanent = match failure {
        DnsFailure::Temporary(_) => false,
        DnsFailure::NoSuchDomain | DnsFailure::NoRecord => true,
        DnsFailure::NullMx | DnsFailure::BadName(_) => true,
    };
    let (status, rule) = if permanent {
        ("5.4.4", "host-unknown")
    } else {
        ("4.4.3", "dns-temporary")
    };
    let text = match failure {
        DnsFailure::NoSuchDomain => "the host's name does not exist".to_owned(),
        DnsFailure::NoRecord | DnsFailure::NullMx => "the host has no address".to_owned(),
        DnsFailure::BadName(why) => format!("the host's name is of no use: {why}"),
        DnsFailure::Temporary(why) => format!("the host's addresses are not known now: {why}"),
    };
    // What is wrong with the hosts of a route is for an operator to mend.
    let permanent = permanent && !seen.route;
    let fate = Fate::NextHost { permanent };
    ours(fate, Then::Drop, stage, status, rule, text)
}

/// RFC 7672 §2.1.2, §2.2: a host whose TLSA records cannot be known is not used, since it may have some.
fn judge_tlsa(stage: Stage, failure: &DnsFailure) -> Verdict {
    let why = match failure {
        DnsFailure::Temporary(why) | DnsFailure::BadName(why) => why.as_str(),
        DnsFailure::NoSuchDomain | DnsFailure::NoRecord | DnsFailure::NullMx => "no answer",
    };
    let text = format!(
        "whether the host has TLSA records is not known now, so it must not be used (DANE): {why}"
    );
    let fate = Fate::NextHost { permanent: false };
    ours(fate, Then::Drop, stage, "4.7.5", "dane-lookup", text)
}

fn judge_tls(stage: Stage, fault: &TlsFault, seen: Seen) -> Verdict {
    let (status, rule) = match fault {
        // RFC 8689 §4.2.1: the sender hears of it at once, with this code.
        _ if seen.required => ("5.7.10", "requiretls-tls"),
        TlsFault::NotOffered(_) | TlsFault::Refused(..) => ("4.7.4", "tls-required"),
        TlsFault::Handshake(_) => ("4.7.5", "tls-handshake"),
        TlsFault::Certificate(_) => ("4.7.5", "tls-certificate"),
        TlsFault::Tlsa(_) => ("4.7.5", "dane-certificate"),
        TlsFault::NoTlsa(_) => ("4.7.5", "dane-required"),
    };
    let permanent = seen.required;
    ours(
        Fate::NextHost { permanent },
        Then::Quit,
        stage,
        status,
        rule,
        fault,
    )
}

fn judge_forbidden(stage: Stage, why: &Forbidden, seen: Seen) -> Verdict {
    let (permanent, status, rule, text) = match why {
        Forbidden::Prohibited(why) => {
            let text = format!("mail is not sent there: {why}");
            (true, "5.4.4", "prohibited-host", text)
        }
        Forbidden::Own(address) => {
            let text = format!("{address} is this relay itself: mail would loop");
            (true, "5.4.6", "own-address", text)
        }
        Forbidden::Family => {
            let text = "the host has no address of the family that is sent from".to_owned();
            (false, "4.4.4", "address-family", text)
        }
    };
    // What is wrong with the hosts of a route is for an operator to mend.
    let permanent = permanent && !seen.route;
    let fate = Fate::NextHost { permanent };
    ours(fate, Then::Drop, stage, status, rule, text)
}

fn judge_need(stage: Stage, need: Need) -> Verdict {
    let (status, rule, text) = match need {
        Need::EightBitMime => (
            "5.6.3",
            "8bitmime",
            "the message has 8-bit content, and the host takes none".to_owned(),
        ),
        Need::SmtpUtf8 => {
            let text = "an address or a header is in UTF-8, and the host takes none";
            ("5.6.7", "smtputf8", text.to_owned())
        }
        Need::BinaryMime => {
            let text = "the message has binary content, and the host takes none";
            ("5.6.1", "binarymime", text.to_owned())
        }
        Need::Size(max) => (
            "5.3.4",
            "size",
            format!("the host takes messages of up to {max} octets"),
        ),
        Need::VerifiedTls => {
            let text = "the message requires TLS, and the host did not prove who it is";
            ("5.7.10", "requiretls-tls", text.to_owned())
        }
        Need::RequireTls => {
            let text =
                "the message requires TLS on every hop, and the host does not offer REQUIRETLS";
            ("5.7.30", "requiretls", text.to_owned())
        }
        Need::DeliverBy => {
            let text = "the message is to be returned when it is late, and the host does not offer DELIVERBY";
            ("5.3.3", "deliver-by-unsupported", text.to_owned())
        }
        Need::Time => {
            let text = "the time in which the message was to be delivered is over";
            ("5.4.7", "deliver-by", text.to_owned())
        }
    };
    let fate = match need {
        // RFC 8689 §4.2.1: every host is tried, and if none will do, the sender hears of it at once.
        Need::VerifiedTls | Need::RequireTls => Fate::NextHost { permanent: true },
        Need::EightBitMime | Need::SmtpUtf8 | Need::BinaryMime | Need::Size(_) => Fate::Bounced,
        Need::DeliverBy | Need::Time => Fate::Bounced,
    };
    ours(fate, Then::Keep, stage, status, rule, text)
}

/// A verdict in our own words.
fn ours(
    fate: Fate,
    then: Then,
    stage: Stage,
    status: &str,
    rule: &str,
    text: impl std::fmt::Display,
) -> Verdict {
    let reason = Reason {
        stage: stage.as_str().to_owned(),
        code: None,
        status: status.to_owned(),
        text: sanitised(&text.to_string()),
        rule: rule.to_owned(),
    };
    Verdict {
        fate,
        then,
        reason,
        retry_after: None,
    }
}

/// The reason of a deferral: its status is of class 4, whatever a host said that is not believed yet.
fn transient(mut reason: Reason) -> Reason {
    if let Some(rest) = reason.status.strip_prefix('5') {
        reason.status = format!("4{rest}");
    }
    reason
}

/// One printable line of at most [`TEXT_MAX`] octets.
pub(super) fn sanitised(text: &str) -> String {
    let printable = |c: char| {
        if c.is_ascii_graphic() || c == ' ' {
            c
        } else {
            '?'
        }
    };
    text.chars().take(TEXT_MAX).map(printable).collect()
}

#[cfg(test)]
mod tests;
