//! The DNS records that a domain needs, as a zone file and as a table.
//!
//! RFC 1035 §3.3.14 and §5.1 (TXT, zone files), RFC 6376 §3.6, RFC 7208 §4.5, RFC 7489 §6.3, RFC 8460 §3,
//! RFC 8461 §3.1.

use std::io::{self, Write};
use std::net::IpAddr;

use relay_core::config::{Config, DkimKey, SigningDomain};
use relay_core::dns::reverse_name;
use relay_core::sign::publication::key_name;
use serde_json::json;

use super::super::credential::Format;

/// The longest string in a TXT record. RFC 1035 §3.3.14.
const STRING_MAX: usize = 255;

const TTL: u32 = 3600;

/// A record to publish.
pub(super) struct Record {
    name: String,
    kind: &'static str,
    /// The text of a TXT record; the data of another as a zone file has it.
    value: String,
    what: &'static str,
    need: Need,
}

/// How much a record is needed, and where it goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Without it mail is not believed.
    Domain,
    /// The same, in the zone of the host or of its addresses, which may be another's.
    Host,
    /// Advice for a domain that receives mail.
    Advice,
}

impl Record {
    /// A line of a zone file.
    fn line(&self) -> String {
        let Self {
            name, kind, value, ..
        } = self;
        let data = match *kind {
            "TXT" => strings(value),
            _ => value.clone(),
        };
        format!("{name}. {TTL} IN {kind} {data}")
    }
}

/// The records of some of a domain's keys.
pub(super) fn of_keys(domain: &SigningDomain, keys: impl Fn(&DkimKey) -> bool) -> Vec<Record> {
    let wanted = domain.keys.iter().filter(|key| keys(key));
    let record = |key: &DkimKey| {
        let text = key.key.as_ref()?.record();
        let name = key_name(&domain.name, &key.selector);
        Some(txt("DKIM", name, text, Need::Domain))
    };
    wanted.filter_map(record).collect()
}

/// All that a domain needs beside its keys. `addresses` are those that we send from, if they are known.
pub(super) fn of_domain(
    config: &Config,
    domain: &SigningDomain,
    addresses: &[IpAddr],
) -> Vec<Record> {
    let (name, hostname) = (&domain.name, &config.hostname);
    let ours = senders(hostname.as_str(), addresses);
    let mut records = vec![txt(
        "SPF",
        name.to_string(),
        format!("v=spf1 {ours} ~all"),
        Need::Domain,
    )];
    let reports = format!("rua=mailto:postmaster@{name}");
    let policy = format!("v=DMARC1; p=none; {reports}");
    records.push(txt("DMARC", format!("_dmarc.{name}"), policy, Need::Domain));
    if let Some(path) = &domain.return_path {
        let path = path.domain.to_string();
        let mx = format!("10 {hostname}.");
        records.push(record("RETURN PATH", path.clone(), "MX", mx, Need::Domain));
        // Nobody else sends from there.
        let spf = format!("v=spf1 {ours} -all");
        records.push(txt("RETURN PATH", path, spf, Need::Domain));
    }
    for &address in addresses {
        let kind = if address.is_ipv4() { "A" } else { "AAAA" };
        let name = hostname.to_string();
        records.push(record("HOST", name, kind, address.to_string(), Need::Host));
        let reverse = reverse_name(address).trim_end_matches('.').to_owned();
        records.push(record(
            "HOST",
            reverse,
            "PTR",
            format!("{hostname}."),
            Need::Host,
        ));
    }
    let tls = format!("v=TLSRPTv1; {reports}");
    records.push(txt(
        "TLS-RPT",
        format!("_smtp._tls.{name}"),
        tls,
        Need::Advice,
    ));
    let sts = "v=STSv1; id=1".to_owned();
    records.push(txt(
        "MTA-STS",
        format!("_mta-sts.{name}"),
        sts,
        Need::Advice,
    ));
    records
}

/// The mechanisms of SPF that cover our addresses. Addresses cost receivers no lookup.
fn senders(hostname: &str, addresses: &[IpAddr]) -> String {
    if addresses.is_empty() {
        return format!("a:{hostname}");
    }
    let mechanism = |address: &IpAddr| match address {
        IpAddr::V4(address) => format!("ip4:{address}"),
        IpAddr::V6(address) => format!("ip6:{address}"),
    };
    let all: Vec<String> = addresses.iter().map(mechanism).collect();
    all.join(" ")
}

fn record(
    what: &'static str,
    name: String,
    kind: &'static str,
    value: String,
    need: Need,
) -> Record {
    Record {
        name,
        kind,
        value,
        what,
        need,
    }
}

fn txt(what: &'static str, name: String, text: String, need: Need) -> Record {
    record(what, name, "TXT", text, need)
}

/// Prints records, in the form of a zone file and as a table.
pub(super) fn print(
    domain: &SigningDomain,
    records: &[Record],
    format: Format,
    out: &mut dyn Write,
) -> io::Result<()> {
    if format == Format::Json {
        let all = records.iter().map(|record| {
            json!({"name": record.name, "type": record.kind, "text": record.value,
                   "line": record.line(), "for": record.what,
                   "needed": record.need != Need::Advice})
        });
        return writeln!(out, "{}", serde_json::Value::from(all.collect::<Vec<_>>()));
    }
    zone(domain, records, out)?;
    writeln!(out)?;
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["FOR", "NAME", "TYPE", "VALUE"]);
    for record in records {
        let name = record.name.as_str();
        table.add_row([record.what, name, record.kind, &record.value]);
    }
    writeln!(out, "{table}")
}

/// Prints them as a zone file, and nothing else.
pub(super) fn zone(
    domain: &SigningDomain,
    records: &[Record],
    out: &mut dyn Write,
) -> io::Result<()> {
    let name = &domain.name;
    let of = |need: Need| records.iter().filter(move |record| record.need == need);
    writeln!(out, "; records for {name}, in the form of a zone file")?;
    for record in of(Need::Domain) {
        writeln!(out, "{}", record.line())?;
    }
    if of(Need::Host).next().is_some() {
        writeln!(
            out,
            "; of this host; the PTR goes into the zone of its address, at whoever gave you the address"
        )?;
    }
    for record in of(Need::Host) {
        writeln!(out, "{}", record.line())?;
    }
    if of(Need::Advice).next().is_some() {
        writeln!(
            out,
            "; advice for a domain that receives mail; MTA-STS needs a policy first, as text/plain at\n\
             ; https://mta-sts.{name}/.well-known/mta-sts.txt, with an mx line for each mail exchanger:\n\
             ;   version: STSv1\n\
             ;   mode: testing\n\
             ;   mx: mx.{name}\n\
             ;   max_age: 604800"
        )?;
    }
    for record in of(Need::Advice) {
        writeln!(out, "; {}", record.line())?;
    }
    Ok(())
}

/// The text of a record as strings of a zone file.
fn strings(text: &str) -> String {
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (part, after) = rest.split_at(rest.len().min(STRING_MAX));
        parts.push(format!("\"{part}\""));
        rest = after;
    }
    match parts.as_slice() {
        [one] => one.clone(),
        _ => format!("( {} )", parts.join(" ")),
    }
}
