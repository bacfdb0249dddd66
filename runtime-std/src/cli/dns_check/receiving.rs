//! Mail to the domain: whether senders are told to use TLS (MTA-STS), and to say what it was like (TLS-RPT).
//!
//! | line | what it asks |
//! |---|---|
//! | MTA-STS | the TXT record, if there is one, is as RFC 8461 §3.1 has it |
//! | MTA-STS | the policy that it announces can be fetched and read, as senders do: RFC 8461 §3.2, §3.3 |
//! | MTA-STS | the policy names each mail exchanger: RFC 8461 §4.1 |
//! | TLS-RPT | the TXT record, if there is one, is as RFC 8460 §3 has it |

use std::sync::Arc;

use relay_core::dns::{DnsFailure, Query, Texts};
use relay_core::errand::{Done, Errand, Runner};
use relay_core::sts::{self, Found, Mode, Policy, Wanted, record_id};
use relay_core::tlsrpt::{self, Rua, check_record};
use smtp_proto::Domain;

use super::{Line, Names, Verdict, line, told};
use crate::load::Loaded;

/// RFC 8461 §3.2: `max_age` is expected to be "in the range of weeks or greater".
const WEEK_SECS: u32 = 7 * 86_400;

pub(super) fn lines(loaded: &Loaded, domain: &Domain, names: &mut Names) -> Vec<Line> {
    let mut lines = mta_sts(loaded, domain, names);
    lines.push(tls_reports(domain, names));
    lines
}

fn mta_sts(loaded: &Loaded, domain: &Domain, names: &mut Names) -> Vec<Line> {
    let place = format!("_mta-sts.{domain}");
    let say = |verdict, why: String| line(verdict, "MTA-STS", &place, why);
    let texts = match texts(&place, names) {
        Ok(texts) => texts,
        Err(failure) => return vec![say(Verdict::Unknown, told(&failure))],
    };
    let id = match record_id(texts.iter().map(Vec::as_slice)) {
        Ok(id) => id,
        Err(sts::BadRecord::None) => {
            let why = "no record: mail to this domain may be sent in clear text";
            return vec![say(Verdict::Advice, why.to_owned())];
        }
        Err(wrong @ (sts::BadRecord::Several | sts::BadRecord::Malformed)) => {
            return vec![say(Verdict::Wrong, wrong.to_string())];
        }
    };
    let mut lines = vec![say(Verdict::Right, format!("id={id}"))];
    let host = format!("mta-sts.{domain}");
    let say = |verdict, why| line(verdict, "MTA-STS", &host, why);
    match fetch(loaded, domain, names) {
        Found::Policy(policy) => {
            lines.push(say(worth(&policy), described(&policy)));
            lines.extend(covered(domain, &policy, names));
        }
        Found::Failed { why, .. } => lines.push(say(Verdict::Wrong, why)),
        Found::Unknown(why) | Found::NoRecord(why) => lines.push(say(Verdict::Unknown, why)),
        Found::Same => {}
    }
    lines
}

/// The policy, as a sender gets it.
fn fetch(loaded: &Loaded, domain: &Domain, names: &mut Names) -> Found {
    let domain = domain.to_string();
    let wanted = Wanted {
        domain,
        known: None,
    };
    let tls = Arc::clone(&loaded.client_tls);
    let runner = Runner::new(Errand::Policy(wanted), tls, Arc::clone(&loaded.config));
    match names.run(runner) {
        Done::Policy(found) => found,
        Done::Report(_) => Found::Unknown("it was not asked".to_owned()),
    }
}

fn worth(policy: &Policy) -> Verdict {
    match policy.mode {
        Mode::Enforce if policy.max_age >= WEEK_SECS => Verdict::Right,
        Mode::Enforce | Mode::Testing | Mode::None => Verdict::Advice,
    }
}

fn described(policy: &Policy) -> String {
    let (mode, max_age) = (policy.mode, policy.max_age);
    let hint = match mode {
        Mode::None => ": as if there were no policy",
        Mode::Testing => ": failures are reported, and nothing is enforced",
        Mode::Enforce if max_age < WEEK_SECS => ": max_age is better a week or more",
        Mode::Enforce => "",
    };
    format!("the policy is valid, mode {mode}, max_age {max_age}{hint}")
}

/// Whether senders that follow the policy may use each of the domain's hosts.
fn covered(domain: &Domain, policy: &Policy, names: &mut Names) -> Option<Line> {
    if policy.mode == Mode::None {
        return None;
    }
    let say = |verdict, why| line(verdict, "MTA-STS", domain.as_str(), why);
    let hosts = match names.ask(Query::mx(domain.as_str())) {
        Ok(set) => set.hosts,
        Err(DnsFailure::NoSuchDomain | DnsFailure::NoRecord | DnsFailure::NullMx) => {
            let why = "there is a policy, and no mail exchanger that it is for";
            return Some(say(Verdict::Advice, why.to_owned()));
        }
        Err(failure) => return Some(say(Verdict::Unknown, told(&failure))),
    };
    let (named, strays): (Vec<&str>, Vec<&str>) = hosts
        .iter()
        .map(|mx| mx.host.as_str())
        .partition(|host| policy.allows(host));
    Some(match (strays.is_empty(), policy.mode) {
        (true, _) => {
            let why = format!("the policy names each mail exchanger: {}", named.join(", "));
            say(Verdict::Right, why)
        }
        (false, mode) => {
            let then = match mode {
                Mode::Enforce => "no mail goes there",
                Mode::Testing | Mode::None => "no mail would go there in mode enforce",
            };
            let why = format!("the policy does not name {}: {then}", strays.join(", "));
            say(Verdict::Wrong, why)
        }
    })
}

fn tls_reports(domain: &Domain, names: &mut Names) -> Line {
    let place = format!("_smtp._tls.{domain}");
    let say = |verdict, why: String| line(verdict, "TLS-RPT", &place, why);
    let texts = match texts(&place, names) {
        Ok(texts) => texts,
        Err(failure) => return say(Verdict::Unknown, told(&failure)),
    };
    match check_record(texts.iter().map(Vec::as_slice)) {
        Ok(ruas) => {
            let ruas: Vec<String> = ruas.iter().map(Rua::to_string).collect();
            say(Verdict::Right, format!("reports go to {}", ruas.join(", ")))
        }
        Err(tlsrpt::BadRecord::None) => {
            let why = "no record: nobody reports TLS failures towards this domain";
            say(Verdict::Advice, why.to_owned())
        }
        Err(wrong) => say(Verdict::Wrong, wrong.to_string()),
    }
}

/// The TXT records of a name; none if there are none.
fn texts(name: &str, names: &mut Names) -> Result<Vec<Vec<u8>>, DnsFailure> {
    match names.ask(Query::txt(name)) {
        Ok(Texts { texts, .. }) => Ok(texts),
        Err(DnsFailure::NoSuchDomain | DnsFailure::NoRecord) => Ok(Vec::new()),
        Err(failure) => Err(failure),
    }
}
