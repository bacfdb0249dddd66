//! Whether SPF lets our addresses send, asked in the way in which receivers ask.
//!
//! RFC 7208 §2.6 (results), §4.5 (which record), §4.6.4 (how much a receiver asks).

use std::net::IpAddr;

use relay_core::dns::{DnsFailure, Query};
use relay_core::inbound::body::Author;
use relay_core::sign::publication::{Published, judge_spf};
use relay_core::verify::{Client, Reading, SpfResult, Step};
use smtp_proto::{Domain, Host, Mailbox, ReversePath};

use super::{Line, Names, Verdict};

/// Whether the record of a domain covers every address that we send from.
pub(super) fn line(
    domain: &Domain,
    hostname: &Domain,
    addresses: &[IpAddr],
    names: &mut Names,
) -> Line {
    let say = |verdict, why: String| super::line(verdict, "SPF", domain.as_str(), why);
    let answer = names.ask(Query::txt(domain.as_str()));
    match judge_spf(&answer) {
        Published::Right => {}
        Published::Missing => return say(Verdict::Missing, "no v=spf1 record".to_owned()),
        Published::Wrong(why) => return say(Verdict::Wrong, why),
        Published::Unknown(why) => return say(Verdict::Unknown, why),
    }
    let texts = answer.map_or(Vec::new(), |found| found.texts);
    let mut records = texts.iter().map(|text| String::from_utf8_lossy(text));
    let record = records.find(|text| text.to_ascii_lowercase().starts_with("v=spf1"));
    let record = record.unwrap_or_default();
    if addresses.is_empty() {
        let why = format!("{hostname} has no address to look for: {record}");
        return say(Verdict::Unknown, why);
    }
    for &address in addresses {
        let of = format!("{hostname} [{address}]");
        match check(domain, hostname, address, names) {
            SpfResult::Pass => {}
            SpfResult::None | SpfResult::Neutral | SpfResult::Fail | SpfResult::SoftFail => {
                return say(Verdict::Wrong, format!("{of} is not covered: {record}"));
            }
            SpfResult::PermError => {
                let why = "cannot be understood, or asks for more than 10 lookups";
                return say(Verdict::Wrong, format!("{why}: {record}"));
            }
            SpfResult::TempError => {
                return say(
                    Verdict::Unknown,
                    format!("the DNS did not answer: {record}"),
                );
            }
        }
    }
    say(Verdict::Right, record.into_owned())
}

/// What a receiver would find that gets mail of this domain from this address.
fn check(domain: &Domain, hostname: &Domain, ip: IpAddr, names: &mut Names) -> SpfResult {
    let sender = Mailbox::new("postmaster", Host::Domain(domain.clone()));
    let client = Client {
        ip,
        helo: hostname.to_string(),
        from: sender.map_or(ReversePath::Null, ReversePath::Mailbox),
        hostname: hostname.clone(),
    };
    let nothing = Reading::begin(client, b"\r\n".to_vec(), &Author::Missing);
    let mut verifier = nothing.finish(names.clock.now());
    loop {
        match verifier.poll(names.clock.now()) {
            Step::Done(verdict) => return verdict.spf.result,
            Step::Resolve(question) => {
                let answer: Result<_, DnsFailure> = names.ask(Query::plain(&question));
                verifier.answer(answer);
            }
        }
    }
}
