//! `report show` and `report send`: the TLS-RPT reports of the relay that runs.

use std::io::Write;

use clap::{Args, Subcommand};
use relay_core::admin::{Day, TlsReportEntry, TlsReportSelector};
use serde_json::Value;

use super::super::credential::Format;
use super::super::queue::{json, percent_encoded, whole_seconds};
use super::super::{Failure, Output, Where};
use super::{plain, table};

#[derive(Debug, Subcommand)]
pub(super) enum OwnCommand {
    /// Show what this relay counted for its own TLS-RPT reports, and did not send yet
    Show(Own),
    /// Send these reports now, those of the running day too, to whom the domains' records name
    Send(Own),
}

#[derive(Debug, Args)]
pub(super) struct Own {
    /// Only of this day (UTC), as 2026-11-24
    #[arg(long, value_name = "YYYY-MM-DD")]
    day: Option<Day>,
    /// Only about this domain; `show --json` shows its reports whole
    #[arg(long)]
    domain: Option<String>,
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(command: OwnCommand, out: &mut dyn Write) -> Result<(), Failure> {
    match command {
        OwnCommand::Show(own) => show(&own, out),
        OwnCommand::Send(own) => send(&own, out),
    }
}

impl Own {
    fn selector(&self) -> Result<TlsReportSelector, Failure> {
        let wrong = |error| Failure::Usage(format!("--domain: {error}"));
        let domain = self.domain.as_deref();
        let domain = domain.map(relay_core::config::parse_hostname).transpose();
        Ok(TlsReportSelector {
            day: self.day,
            domain: domain.map_err(wrong)?.map(|domain| domain.to_string()),
        })
    }
}

fn show(own: &Own, out: &mut dyn Write) -> Result<(), Failure> {
    let TlsReportSelector { day, domain } = own.selector()?;
    let pairs = [("day", day.map(String::from)), ("domain", domain)];
    let pairs = pairs.into_iter().filter_map(|(key, value)| {
        let value = percent_encoded(&value?);
        Some(format!("{key}={value}"))
    });
    let query = pairs.collect::<Vec<_>>().join("&");
    let client = own.place.client()?;
    let entries: Vec<TlsReportEntry> = client.get(&format!("/api/v1/tls-reports?{query}"))?;
    match own.output.format() {
        Format::Json => json(&entries, out)?,
        Format::Text if entries.is_empty() => writeln!(out, "Nothing is counted that fits.")?,
        Format::Text => {
            let mut table = table([
                "DOMAIN", "FROM", "TO", "GOOD", "FAILED", "STATE", "SENT TO", "TRIES", "LAST",
            ]);
            for entry in &entries {
                let state = match &entry.next {
                    Some(next) => format!("{} {}", entry.state, whole_seconds(next)),
                    None => entry.state.clone(),
                };
                table.add_row([
                    entry.domain.clone(),
                    whole_seconds(&entry.start),
                    whole_seconds(&entry.end),
                    entry.successes.to_string(),
                    entry.failures.to_string(),
                    state,
                    plain(&entry.sent.join(" ")),
                    entry.tries.to_string(),
                    plain(entry.last.as_deref().unwrap_or_default()),
                ]);
            }
            writeln!(out, "{table}")?;
        }
    }
    Ok(())
}

fn send(own: &Own, out: &mut dyn Write) -> Result<(), Failure> {
    let body = serde_json::to_vec(&own.selector()?).map_err(std::io::Error::other)?;
    let client = own.place.client()?;
    let answer: Value = client.post("/api/v1/tls-reports/send", &body)?;
    match (
        own.output.format(),
        answer.get("reports").and_then(Value::as_u64),
    ) {
        (Format::Json, _) => json(&answer, out)?,
        (Format::Text, Some(0) | None) => writeln!(out, "Nothing is counted that fits.")?,
        (Format::Text, Some(reports)) => writeln!(
            out,
            "{reports} report(s) go out to those who ask for them; `report show` lists what could not be sent"
        )?,
    }
    Ok(())
}
