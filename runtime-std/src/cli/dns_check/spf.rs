//! Whether SPF lets our addresses send.
//!
//! RFC 7208 §4.6.4 and §5.

use std::net::IpAddr;

use relay_core::dns::Query;

use super::{Line, Names, Verdict, told};

/// Lookups that SPF may cost a receiver. RFC 7208 §4.6.4.
const SPF_LOOKUPS_MAX: usize = 10;

/// Whether the record of a name covers every address that we send from.
pub(super) fn line(name: &str, hostname: &str, addresses: &[IpAddr], names: &mut Names) -> Line {
    let say = |verdict, why: String| super::line(verdict, "SPF", name, why);
    let texts = match names.texts(name, "v=spf1") {
        Err(failure) => return say(Verdict::Unknown, told(&failure)),
        Ok(texts) => texts,
    };
    let text = match texts.as_slice() {
        [] => return say(Verdict::Missing, "no v=spf1 record".to_owned()),
        [text] => text,
        _ => {
            return say(
                Verdict::Wrong,
                "several v=spf1 records: receivers take none".to_owned(),
            );
        }
    };
    for &address in addresses {
        let mut lookups = 0;
        match covers(text, name, address, names, &mut lookups) {
            Covers::Yes => {}
            Covers::No => {
                return say(
                    Verdict::Wrong,
                    format!("{hostname} [{address}] is not covered: {text}"),
                );
            }
            Covers::CannotTell(why) => return say(Verdict::Unknown, format!("{why}: {text}")),
        }
    }
    if addresses.is_empty() {
        return say(
            Verdict::Unknown,
            format!("{hostname} has no address to look for: {text}"),
        );
    }
    say(Verdict::Right, text.clone())
}

/// Whether SPF lets an address send.
#[derive(Debug, PartialEq, Eq)]
enum Covers {
    Yes,
    No,
    CannotTell(&'static str),
}

const TOO_MANY_LOOKUPS: Covers = Covers::CannotTell("more than 10 lookups: receivers give up");

/// Reads the mechanisms that people write. What needs a macro, `ptr` or `exists` is left to receivers.
fn covers(
    text: &str,
    domain: &str,
    address: IpAddr,
    names: &mut Names,
    lookups: &mut usize,
) -> Covers {
    let mut redirect = None;
    for term in text.split_ascii_whitespace().skip(1) {
        if let Some(other) = term.strip_prefix("redirect=") {
            redirect = Some(other);
            continue;
        }
        if term.contains('=') {
            continue;
        }
        let (passes, mechanism) = match term.strip_prefix(['+', '-', '~', '?']) {
            Some(mechanism) => (term.starts_with('+'), mechanism),
            None => (true, term),
        };
        match matches(mechanism, domain, address, names, lookups) {
            Covers::Yes if passes => return Covers::Yes,
            Covers::Yes => return Covers::No,
            Covers::No => {}
            unsure @ Covers::CannotTell(_) => return unsure,
        }
    }
    match redirect {
        Some(other) => of_record(other, address, names, lookups),
        None => Covers::No,
    }
}

/// What the record of another domain says.
fn of_record(domain: &str, address: IpAddr, names: &mut Names, lookups: &mut usize) -> Covers {
    *lookups += 1;
    if *lookups > SPF_LOOKUPS_MAX {
        return TOO_MANY_LOOKUPS;
    }
    match names.texts(domain, "v=spf1").as_deref() {
        Ok([text]) => covers(&text.clone(), domain, address, names, lookups),
        Ok(_) => Covers::CannotTell("an included domain has not one record"),
        Err(_) => Covers::CannotTell("an included domain is not found"),
    }
}

fn matches(
    mechanism: &str,
    domain: &str,
    address: IpAddr,
    names: &mut Names,
    lookups: &mut usize,
) -> Covers {
    let is = |found: bool| if found { Covers::Yes } else { Covers::No };
    let (kind, value) = mechanism.split_once(':').unwrap_or((mechanism, ""));
    if mechanism.contains(['%', '/']) && !kind.starts_with("ip") {
        return Covers::CannotTell("a macro or a prefix length");
    }
    let host = if value.is_empty() { domain } else { value };
    if matches!(kind, "a" | "mx") {
        *lookups += 1;
        if *lookups > SPF_LOOKUPS_MAX {
            return TOO_MANY_LOOKUPS;
        }
    }
    match kind {
        "all" => Covers::Yes,
        "ip4" | "ip6" => match relay_core::config::parse_network(value) {
            Ok(network) => is(network.contains(&address)),
            Err(_) => Covers::CannotTell("an address that cannot be read"),
        },
        "a" => is(names.addresses(host).contains(&address)),
        "mx" => {
            let hosts = names
                .ask(Query::mx(host))
                .map_or(Vec::new(), |set| set.hosts);
            is(hosts
                .iter()
                .any(|mx| names.addresses(&mx.host).contains(&address)))
        }
        "include" => of_record(value, address, names, lookups),
        _ => Covers::CannotTell("a mechanism that only receivers can follow"),
    }
}
