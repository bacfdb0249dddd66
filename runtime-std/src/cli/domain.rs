//! `domain add | records | check | list | rotate`: keys, and the DNS records that make receivers believe them.
//!
//! ```text
//!  add ──▶ keys in data_dir/dkim, pending; domains.toml; records to publish ──┐
//!  rotate ──▶ new keys, pending; their records ───────────────────────────────┤
//!                                                                             ▼
//!     the relay sees the records in the DNS (or `rotate` again does, or --now says so) ──▶ they sign
//! ```
//!
//! The decision what may sign is [`relay_core::sign::publication`]'s.

mod records;

use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::Arc;

use relay_core::config::{
    BadValue, DkimKey, KeyState, ReturnPathState, SigningDomain, parse_hostname,
};
use serde_json::json;
use smtp_proto::Domain;

use super::command_error::CommandError;
use super::credential::Format;
use super::dns_check::{self, Line, Names, Verdict};
use crate::load::domains::{self, ChangeError, MAKES_RSA};
use crate::load::{self, Loaded, Options, Purpose};

/// Why a command did nothing.
pub type DomainError = CommandError<ChangeError>;

/// What `domain add` makes.
#[derive(Debug)]
pub struct New<'a> {
    /// The domain in From.
    pub name: &'a str,
    /// The domain of its return path; `none` for none, and nothing for `bounces.` before its name.
    pub return_path: Option<&'a str>,
    /// The addresses that mail leaves from; empty for those of the configuration.
    pub addresses: &'a [IpAddr],
}

/// Makes keys for a domain and prints what to publish.
///
/// # Errors
/// [`DomainError`]; nothing was changed then, but for [`DomainError::Output`].
pub fn add(
    options: &Options,
    new: &New<'_>,
    format: Format,
    out: &mut dyn Write,
) -> Result<(), DomainError> {
    let name = parse(new.name)?;
    let return_path = match new.return_path {
        Some("none") => None,
        Some(given) => {
            let wrong = |error: BadValue| DomainError::Usage(format!("--return-path: {error}"));
            Some(parse_hostname(given).map_err(wrong)?)
        }
        None => Some(parse(&format!("bounces.{name}"))?),
    };
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
    domains::add(draft.data_dir(), &name, return_path.as_ref())?;
    let (loaded, domain) = find(options, &name)?;
    let mut all = records::of_keys(&domain, |_| true);
    let addresses = addresses(&loaded, new.addresses);
    all.extend(records::of_domain(&loaded.config, &domain, addresses));
    records::print(&domain, &all, format, out)?;
    if format == Format::Text {
        writeln!(
            out,
            "\nWhen they are published: smtp-relay domain check {name}\n\
             A relay that runs looks for them every {} seconds: it signs, and uses the return path,\n\
             once they are in the DNS.",
            super::published::EVERY.as_secs()
        )?;
        if addresses.is_empty() {
            writeln!(
                out,
                "This host must have an address (A, AAAA) under {}, and the address that name (PTR).\n\
                 With --address the records for that are printed too.",
                loaded.config.hostname
            )?;
        }
        no_rsa(out)?;
    }
    Ok(())
}

/// Prints again what there is to publish for a domain, as a zone file alone: it may go into one.
///
/// # Errors
/// [`DomainError`]
pub fn records(
    options: &Options,
    name: &str,
    given: &[IpAddr],
    format: Format,
    out: &mut dyn Write,
) -> Result<(), DomainError> {
    let (loaded, domain) = find(options, &parse(name)?)?;
    let mut all = records::of_keys(&domain, |key| key.state != KeyState::Retired);
    all.extend(records::of_domain(
        &loaded.config,
        &domain,
        addresses(&loaded, given),
    ));
    match format {
        Format::Text => records::zone(&domain, &all, out)?,
        Format::Json => records::print(&domain, &all, format, out)?,
    }
    Ok(())
}

/// The addresses that mail leaves from, as far as somebody said so.
fn addresses<'a>(loaded: &'a Loaded, given: &'a [IpAddr]) -> &'a [IpAddr] {
    match given {
        [] => &loaded.config.delivery.public_addresses,
        given => given,
    }
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
            .map(|domain| {
                let path = domain.return_path.as_ref();
                json!({"name": domain.name.as_str(), "keys": keys(domain),
                       "return_path": path.map(|path| path.domain.as_str()),
                       "return_path_state": path.map(|path| path.state.to_string())})
            })
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
    for domain in &config.domains {
        if let Some(path) = &domain.return_path {
            writeln!(
                out,
                "{}: return path {} ({})",
                domain.name, path.domain, path.state
            )?;
        }
    }
    Ok(())
}

/// Asks the DNS whether all is as it should be. True if nothing that is needed is wrong or missing.
///
/// # Errors
/// [`DomainError`]
pub fn check(
    options: &Options,
    name: &str,
    given: &[IpAddr],
    format: Format,
    out: &mut dyn Write,
) -> Result<bool, DomainError> {
    let (loaded, domain) = find(options, &parse(name)?)?;
    let mut names = Names::open(&loaded)?;
    let lines = dns_check::domain(&loaded, &domain, addresses(&loaded, given), &mut names);
    show(&lines, format, out)?;
    if format == Format::Text {
        writeln!(out)?;
        for (receiver, against) in dns_check::receivers(&lines) {
            let mut what: Vec<&str> = against.iter().map(|line| line.what).collect();
            what.dedup();
            match what.as_slice() {
                [] => writeln!(out, "{receiver}: all that it asks for is right")?,
                what => writeln!(out, "{receiver}: {}", what.join(", "))?,
            }
        }
    }
    Ok(lines.iter().all(Line::is_well))
}

/// Whether the DNS is asked before new keys sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// It is.
    Dns,
    /// It is not: the operator knows.
    Operator,
}

/// Makes new keys, or, once their records are in the DNS, lets them sign; and uses a return path that
/// waits. True if they sign now, or if they were made now.
///
/// # Errors
/// [`DomainError`]
pub fn rotate(
    options: &Options,
    name: &str,
    trust: Trust,
    format: Format,
    out: &mut dyn Write,
) -> Result<bool, DomainError> {
    let name = parse(name)?;
    let (loaded, domain) = find(options, &name)?;
    let is_pending = |key: &DkimKey| key.state == KeyState::Pending;
    if trust == Trust::Dns && !domain.keys.iter().any(is_pending) {
        return new_keys(options, &loaded, &domain, format, out);
    }
    let path = domain.return_path.as_ref();
    let path_waits = path.is_some_and(|path| path.state == ReturnPathState::Pending);
    if trust == Trust::Dns {
        let mut names = Names::open(&loaded)?;
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
    } else if path_waits {
        domains::use_return_path(&loaded.config.data_dir, &name)?;
    }
    if domain.keys.iter().any(is_pending) {
        domains::switch(&loaded.config.data_dir, &name)?;
    }
    if format == Format::Text {
        let days = loaded.config.delivery.expire.as_secs().div_ceil(86_400);
        writeln!(
            out,
            "the new keys sign; a relay that runs takes them up by itself\n\
             leave old records for {days} days more: mail that their keys signed is on its way"
        )?;
    }
    Ok(true)
}

fn new_keys(
    options: &Options,
    loaded: &Loaded,
    domain: &SigningDomain,
    format: Format,
    out: &mut dyn Write,
) -> Result<bool, DomainError> {
    let name = &domain.name;
    domains::add_pending(&loaded.config.data_dir, name)?;
    let (_, domain) = find(options, name)?;
    let new = records::of_keys(&domain, |key| key.state == KeyState::Pending);
    records::print(&domain, &new, format, out)?;
    if format == Format::Text {
        writeln!(
            out,
            "\nThe new keys do not sign yet. A relay that runs lets them sign once their records are in\n\
             the DNS; without one, run this again: smtp-relay domain rotate {name}"
        )?;
        no_rsa(out)?;
    }
    Ok(true)
}

/// Adds a key for return paths, which signs from now on; the old ones still verify.
///
/// # Errors
/// [`DomainError`]
pub fn rotate_return_path(
    options: &Options,
    format: Format,
    out: &mut dyn Write,
) -> Result<(), DomainError> {
    let (draft, _) = load::draft(options)?;
    load::make_data_dir(&draft)?;
    let number = load::return_path::rotate(draft.data_dir())?;
    match format {
        Format::Json => writeln!(out, "{}", json!({"key": number}))?,
        Format::Text => writeln!(
            out,
            "key {number} signs return paths from now on; bounces to addresses of the older keys still count"
        )?,
    }
    Ok(())
}

fn parse(name: &str) -> Result<Domain, DomainError> {
    let wrong = |error: BadValue| DomainError::Usage(format!("DOMAIN: {error}"));
    parse_hostname(name).map_err(wrong)
}

/// The configuration with all keys, and a domain in it.
fn find(options: &Options, name: &Domain) -> Result<(Loaded, Arc<SigningDomain>), DomainError> {
    let loaded = load::load(options, Purpose::Check)?;
    let domain = loaded
        .config
        .domains
        .iter()
        .find(|domain| domain.name == *name);
    let domain = domain.map(Arc::clone);
    let unknown = || ChangeError::Unknown(name.to_string());
    Ok((loaded, domain.ok_or_else(unknown)?))
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

fn show(lines: &[Line], format: Format, out: &mut dyn Write) -> io::Result<()> {
    if format == Format::Json {
        let all = lines.iter().map(|line| {
            json!({"verdict": line.verdict.word(), "for": line.what, "name": line.name,
                   "why": line.why, "asked_by": line.asked_by})
        });
        return writeln!(out, "{}", serde_json::Value::from(all.collect::<Vec<_>>()));
    }
    for line in lines {
        let (verdict, what) = (line.verdict.word(), line.what);
        writeln!(out, "{verdict:<8} {what:<8} {}: {}", line.name, line.why)?;
    }
    Ok(())
}
