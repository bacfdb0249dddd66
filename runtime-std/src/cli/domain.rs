//! `domain add | check | list | rotate`: keys, and the DNS records that make receivers believe them.
//!
//! ```text
//!  add ──▶ keys in data_dir/dkim, domains.toml, records to publish ──▶ check ──▶ all right
//!  rotate ──▶ new keys, pending ──(published)──▶ rotate again ──▶ they sign; the old ones are retired
//! ```
//!
//! RFC 6376 §3.6 (key records), RFC 7208 (SPF), RFC 7489 (DMARC), RFC 8460 (TLS-RPT), RFC 8461 (MTA-STS).

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;

use relay_core::config::{BadValue, Config, DkimKey, KeyState, SigningDomain, parse_hostname};
use serde_json::json;
use smtp_proto::Domain;

use super::credential::Format;
use super::dns_check::{self, Line, Names, Verdict};
use crate::load::domains::{self, ChangeError, MAKES_RSA};
use crate::load::{self, LoadError, Options, Purpose};

/// The longest string in a TXT record. RFC 1035 §3.3.14.
const STRING_MAX: usize = 255;

/// Why a command did nothing.
#[derive(Debug)]
pub enum DomainError {
    /// An argument is wrong: exit code 2.
    Usage(String),
    /// The configuration cannot be used.
    Load(LoadError),
    /// The domains were not changed.
    Change(ChangeError),
    /// The output cannot be written.
    Output(io::Error),
}

impl fmt::Display for DomainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) => f.write_str(text),
            Self::Load(error) => error.fmt(f),
            Self::Change(error) => error.fmt(f),
            Self::Output(error) => write!(f, "the output cannot be written: {error}"),
        }
    }
}

impl std::error::Error for DomainError {}

impl From<LoadError> for DomainError {
    fn from(error: LoadError) -> Self {
        Self::Load(error)
    }
}

impl From<ChangeError> for DomainError {
    fn from(error: ChangeError) -> Self {
        Self::Change(error)
    }
}

impl From<io::Error> for DomainError {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// Makes keys for a domain and prints what to publish.
///
/// # Errors
/// [`DomainError`]; nothing was changed then, but for [`DomainError::Output`].
pub fn add(
    options: &Options,
    name: &str,
    format: Format,
    out: &mut dyn Write,
) -> Result<(), DomainError> {
    let name = parse(name)?;
    let (draft, _) = load::draft(options)?;
    if draft
        .so_far()
        .domains
        .iter()
        .any(|known| known.name == name)
    {
        return Err(ChangeError::Exists(name.to_string()).into());
    }
    load::make_data_dir(&draft)?;
    domains::add(draft.data_dir(), &name)?;
    let (config, domain) = find(options, &name)?;
    publish(
        &config,
        &domain,
        |key| key.state == KeyState::Signing,
        format,
        out,
    )?;
    if format == Format::Text {
        writeln!(
            out,
            "\nWhen they are published: smtp-relay domain check {name}"
        )?;
        writeln!(
            out,
            "A relay that runs signs with the keys after: smtp-relay reload"
        )?;
        no_rsa(out)?;
    }
    Ok(())
}

/// Prints every domain and its keys.
///
/// # Errors
/// [`DomainError::Load`] or [`DomainError::Output`].
pub fn list(options: &Options, format: Format, out: &mut dyn Write) -> Result<(), DomainError> {
    let config = load::load(options, Purpose::Check)?.config;
    if format == Format::Json {
        let keys = |domain: &SigningDomain| -> Vec<_> {
            let keys = domain.keys.iter();
            keys.map(|key| {
                json!({
                    "selector": key.selector, "algorithm": algorithm(key),
                    "state": key.state.to_string(), "key_file": key.key_file,
                })
            })
            .collect()
        };
        let all = config.domains.iter();
        let all: Vec<_> = all
            .map(|domain| json!({"name": domain.name.as_str(), "keys": keys(domain)}))
            .collect();
        writeln!(out, "{}", serde_json::Value::from(all))?;
        return Ok(());
    }
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["DOMAIN", "SELECTOR", "ALGORITHM", "STATE", "KEY FILE"]);
    for domain in &config.domains {
        for key in &domain.keys {
            table.add_row([
                domain.name.to_string(),
                key.selector.clone(),
                algorithm(key),
                key.state.to_string(),
                key.key_file.display().to_string(),
            ]);
        }
    }
    writeln!(out, "{table}")?;
    Ok(())
}

/// Asks the DNS whether all is as it should be. True if nothing that is needed is wrong or missing.
///
/// # Errors
/// [`DomainError`]
pub fn check(
    options: &Options,
    name: &str,
    format: Format,
    out: &mut dyn Write,
) -> Result<bool, DomainError> {
    let (config, domain) = find(options, &parse(name)?)?;
    let mut names = Names::open(&config)?;
    let lines = dns_check::domain(&config, &domain, &mut names);
    show(&lines, format, out)?;
    Ok(lines.iter().all(Line::is_well))
}

/// Makes new keys, or, once their records are in the DNS, lets them sign. True if they sign now, or if
/// they were made now.
///
/// # Errors
/// [`DomainError`]
pub fn rotate(
    options: &Options,
    name: &str,
    format: Format,
    out: &mut dyn Write,
) -> Result<bool, DomainError> {
    let name = parse(name)?;
    let (config, domain) = find(options, &name)?;
    let is_pending = |key: &DkimKey| key.state == KeyState::Pending;
    if !domain.keys.iter().any(is_pending) {
        domains::add_pending(&config.data_dir, &name)?;
        let (config, domain) = find(options, &name)?;
        publish(&config, &domain, is_pending, format, out)?;
        if format == Format::Text {
            writeln!(
                out,
                "\nThe new keys do not sign yet. When their records are published, run"
            )?;
            writeln!(out, "this again: smtp-relay domain rotate {name}")?;
            no_rsa(out)?;
        }
        return Ok(true);
    }
    let mut names = Names::open(&config)?;
    let pending = domain.keys.iter().filter(|key| is_pending(key));
    let lines: Vec<Line> = pending
        .map(|key| dns_check::key(&domain.name, key, &mut names))
        .collect();
    show(&lines, format, out)?;
    if !lines.iter().all(|line| line.verdict == Verdict::Right) {
        if format == Format::Text {
            writeln!(
                out,
                "nothing was changed: the old keys sign until the records are right"
            )?;
        }
        return Ok(false);
    }
    domains::switch(&config.data_dir, &name)?;
    if format == Format::Text {
        let days = config.delivery.expire.as_secs().div_ceil(86_400);
        writeln!(out, "the new keys sign after: smtp-relay reload")?;
        writeln!(
            out,
            "leave the old records for {days} days more: mail that they signed is on its way"
        )?;
    }
    Ok(true)
}

fn parse(name: &str) -> Result<Domain, DomainError> {
    let wrong = |error: BadValue| DomainError::Usage(format!("DOMAIN: {error}"));
    parse_hostname(name).map_err(wrong)
}

/// The configuration with all keys, and a domain in it.
fn find(
    options: &Options,
    name: &Domain,
) -> Result<(Arc<Config>, Arc<SigningDomain>), DomainError> {
    let config = load::load(options, Purpose::Check)?.config;
    let domain = config.domains.iter().find(|domain| domain.name == *name);
    let domain = domain.map(Arc::clone);
    let unknown = || ChangeError::Unknown(name.to_string());
    Ok((config, domain.ok_or_else(unknown)?))
}

fn algorithm(key: &DkimKey) -> String {
    let algorithm = key.key.as_ref().map(relay_core::sign::Key::algorithm);
    algorithm.map_or("-".to_owned(), |algorithm| algorithm.to_string())
}

fn no_rsa(out: &mut dyn Write) -> io::Result<()> {
    if MAKES_RSA {
        return Ok(());
    }
    writeln!(
        out,
        "This build makes Ed25519 keys only, which some receivers do not know yet. Make one of RSA with\n\
         openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out r1.pem, and name it in [[domain.dkim]]"
    )
}

/// A record to publish.
struct Record {
    name: String,
    text: String,
    what: &'static str,
    /// Without it mail is not believed; the others are advice.
    needed: bool,
}

fn records(
    config: &Config,
    domain: &SigningDomain,
    keys: impl Fn(&DkimKey) -> bool,
    rest: bool,
) -> Vec<Record> {
    let name = &domain.name;
    let wanted = domain.keys.iter().filter(|key| keys(key));
    let mut records: Vec<Record> = wanted
        .filter_map(|key| {
            Some(Record {
                name: format!("{}._domainkey.{name}", key.selector),
                text: key.key.as_ref()?.record(),
                what: "DKIM",
                needed: true,
            })
        })
        .collect();
    let mut add = |what, name: String, text: String, needed| {
        records.push(Record {
            name,
            text,
            what,
            needed,
        });
    };
    if rest {
        let hostname = &config.hostname;
        add(
            "SPF",
            name.to_string(),
            format!("v=spf1 a:{hostname} ~all"),
            true,
        );
        let reports = format!("rua=mailto:postmaster@{name}");
        add(
            "DMARC",
            format!("_dmarc.{name}"),
            format!("v=DMARC1; p=none; {reports}"),
            true,
        );
        let tls = format!("v=TLSRPTv1; {reports}");
        add("TLS-RPT", format!("_smtp._tls.{name}"), tls, false);
        let sts = "v=STSv1; id=1".to_owned();
        add("MTA-STS", format!("_mta-sts.{name}"), sts, false);
    }
    records
}

/// Prints records, in the form of a zone file and as a table.
fn publish(
    config: &Config,
    domain: &SigningDomain,
    keys: impl Fn(&DkimKey) -> bool,
    format: Format,
    out: &mut dyn Write,
) -> io::Result<()> {
    let is_new = domain.keys.iter().all(|key| key.state == KeyState::Signing);
    let records = records(config, domain, keys, is_new);
    if format == Format::Json {
        let all = records.iter().map(|record| {
            json!({"name": record.name, "type": "TXT", "text": record.text, "for": record.what,
                   "needed": record.needed})
        });
        return writeln!(out, "{}", serde_json::Value::from(all.collect::<Vec<_>>()));
    }
    writeln!(
        out,
        "; records for {}, in the form of a zone file",
        domain.name
    )?;
    for record in &records {
        let advice = if record.needed { "" } else { "; " };
        writeln!(
            out,
            "{advice}{}. 3600 IN TXT {}",
            record.name,
            strings(&record.text)
        )?;
    }
    if is_new {
        writeln!(
            out,
            "; the last two are advice for domains that receive mail; MTA-STS needs a policy at\n\
             ; https://mta-sts.{}/.well-known/mta-sts.txt",
            domain.name
        )?;
    }
    writeln!(out)?;
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["FOR", "NAME", "TYPE", "VALUE"]);
    for record in &records {
        let name = record.name.as_str();
        table.add_row([record.what, name, "TXT", &record.text]);
    }
    writeln!(out, "{table}")
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

fn show(lines: &[Line], format: Format, out: &mut dyn Write) -> io::Result<()> {
    if format == Format::Json {
        let all = lines.iter().map(|line| {
            json!({"verdict": line.verdict.word(), "for": line.what, "name": line.name,
                   "why": line.why})
        });
        return writeln!(out, "{}", serde_json::Value::from(all.collect::<Vec<_>>()));
    }
    for line in lines {
        let (verdict, what) = (line.verdict.word(), line.what);
        writeln!(out, "{verdict:<8} {what:<8} {}: {}", line.name, line.why)?;
    }
    Ok(())
}
