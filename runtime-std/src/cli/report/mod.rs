//! `report`: what others say about mail in our name, as a table; and what we say to others (`own`).

mod dmarc;
mod own;
#[cfg(test)]
mod tests;
mod tls;
mod unpack;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use comfy_table::{Table, presets};
use relay_core::time::UnixTime;
use serde::Serialize;

use super::credential::Format;
use super::{Failure, Output};
use dmarc::DmarcReport;
use tls::TlsReport;
use unpack::{SIZE_MAX, unpack};

/// `report FILE…`, or what is done about our own.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct ReportArgs {
    #[command(subcommand)]
    own: Option<own::OwnCommand>,
    /// The files; "-" for standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(args: ReportArgs, out: &mut dyn Write) -> Result<(), Failure> {
    if let Some(command) = args.own {
        return own::run(command, out);
    }
    match report(&args.files, args.output.format(), out, &mut io::stderr())? {
        true => Ok(()),
        false => Err(Failure::Shown),
    }
}

/// A report of either kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Report {
    Tls(TlsReport),
    Dmarc(DmarcReport),
}

/// Shows the reports in each file, `-` for standard input. True if every file had one.
///
/// # Errors
/// `out` cannot be written.
fn report(
    files: &[PathBuf],
    format: Format,
    out: &mut dyn Write,
    problems: &mut dyn Write,
) -> io::Result<bool> {
    let mut found = Vec::new();
    let mut fine = true;
    for file in files {
        let read = read(file).map_err(|error| error.to_string());
        match read.and_then(|octets| unpack(&octets).map_err(|error| error.to_string())) {
            Ok(mut reports) => found.append(&mut reports),
            Err(why) => {
                fine = false;
                writeln!(problems, "{}: {}", file.display(), plain(&why))?;
            }
        }
    }
    match format {
        Format::Json => {
            serde_json::to_writer_pretty(&mut *out, &found)?;
            writeln!(out)?;
        }
        Format::Text => {
            for (at, report) in found.iter().enumerate() {
                if at > 0 {
                    writeln!(out)?;
                }
                match report {
                    Report::Tls(report) => show_tls(report, out)?,
                    Report::Dmarc(report) => show_dmarc(report, out)?,
                }
            }
        }
    }
    Ok(fine)
}

/// The file, if it is no larger than any report; one octet more tells that it is.
fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    let most = SIZE_MAX as u64 + 1;
    if file == Path::new("-") {
        io::stdin().lock().take(most).read_to_end(&mut octets)?;
    } else {
        File::open(file)?.take(most).read_to_end(&mut octets)?;
    }
    Ok(octets)
}

fn show_tls(report: &TlsReport, out: &mut dyn Write) -> io::Result<()> {
    let range = &report.date_range;
    writeln!(
        out,
        "TLS report {} by {} ({}), {} to {}",
        plain(&report.report_id),
        plain(&report.organization_name),
        plain(&report.contact_info),
        plain(&range.start_datetime),
        plain(&range.end_datetime)
    )?;
    let mut table = table([
        "DOMAIN", "POLICY", "SESSIONS", "RESULT", "MX", "FROM", "WHY",
    ]);
    for policy in &report.policies {
        let (domain, kind) = (&policy.policy.policy_domain, &policy.policy.policy_type);
        let row = |count: u64, result: &str, mx: &str, from: &str, why: &str| {
            [domain, kind, &count.to_string(), result, mx, from, why].map(plain)
        };
        let summary = &policy.summary;
        table.add_row(row(
            summary.total_successful_session_count,
            "success",
            "",
            "",
            "",
        ));
        let mut told = 0;
        for failure in &policy.failure_details {
            told = failure.failed_session_count.saturating_add(told);
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let mx = match &failure.receiving_mx_hostname {
                Some(name) => name.clone(),
                None => text(&failure.receiving_ip),
            };
            let why = [
                &failure.failure_reason_code,
                &failure.additional_information,
            ];
            let why: Vec<String> = why.into_iter().flatten().cloned().collect();
            table.add_row(row(
                failure.failed_session_count,
                &failure.result_type,
                &mx,
                &text(&failure.sending_mta_ip),
                &why.join(" "),
            ));
        }
        let untold = summary.total_failure_session_count.saturating_sub(told);
        if untold > 0 {
            table.add_row(row(untold, "failure", "", "", "not detailed"));
        }
    }
    writeln!(out, "{table}")
}

fn show_dmarc(report: &DmarcReport, out: &mut dyn Write) -> io::Result<()> {
    let metadata = &report.report_metadata;
    let time = |secs: u64| UnixTime::from_secs(secs).to_rfc3339();
    writeln!(
        out,
        "DMARC report {} by {} ({}), {} to {}",
        plain(&metadata.report_id),
        plain(&metadata.org_name),
        plain(&metadata.email),
        time(metadata.date_range.begin),
        time(metadata.date_range.end)
    )?;
    let published = &report.policy_published;
    writeln!(
        out,
        "{} published p={}",
        plain(&published.domain),
        plain(&published.p)
    )?;
    let mut table = table([
        "SOURCE",
        "MESSAGES",
        "DISPOSITION",
        "DKIM",
        "SPF",
        "FROM",
        "SIGNED BY",
        "ENVELOPE",
    ]);
    for record in &report.record {
        let told = |results: &[dmarc::Verified]| {
            let results = results.iter();
            let told: Vec<String> = results
                .map(|verified| format!("{} {}", verified.domain, verified.result))
                .collect();
            told.join(", ")
        };
        let (row, evaluated) = (&record.row, &record.row.policy_evaluated);
        table.add_row(
            [
                &row.source_ip,
                &row.count.to_string(),
                &evaluated.disposition,
                &evaluated.dkim,
                &evaluated.spf,
                &record.identifiers.header_from,
                &told(&record.auth_results.dkim),
                &told(&record.auth_results.spf),
            ]
            .map(|text| plain(text)),
        );
    }
    writeln!(out, "{table}")
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    table
}

/// What a stranger wrote, without what a terminal would obey, and no longer than a line.
fn plain(text: &str) -> String {
    let visible = |c: char| if c.is_control() { '?' } else { c };
    text.chars().take(300).map(visible).collect()
}
