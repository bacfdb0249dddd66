//! `queue quarantine`: what was damaged in the queue and is kept aside. It reads the data directory, so it
//! works beside a running relay and without one.

use std::io::{self, Write};

use clap::Subcommand;
use relay_core::queue::record::Header;

use super::credential::Format;
use super::{Failure, Output, Where};
use crate::store::quarantine::{self, Quarantined};

/// Octets in a line of the dump.
const WIDTH: usize = 16;

#[derive(Debug, Subcommand)]
pub(super) enum QuarantineCommand {
    /// List what is in the quarantine
    List {
        #[command(flatten)]
        place: Where,
        #[command(flatten)]
        output: Output,
    },
    /// Show one: what is known of it, and its octets
    Show {
        /// Its name in the list, or its message's id
        which: String,
        /// Only the octets, as they are
        #[arg(long)]
        raw: bool,
        #[command(flatten)]
        place: Where,
        #[command(flatten)]
        output: Output,
    },
}

pub(super) fn run(command: QuarantineCommand, out: &mut dyn Write) -> Result<(), Failure> {
    match command {
        QuarantineCommand::List { place, output } => {
            let found = quarantine::list(&place.data_dir()?)?;
            match output.format() {
                Format::Json => super::queue::json(&found, out)?,
                Format::Text if found.is_empty() => {
                    writeln!(out, "Nothing is in the quarantine.")?;
                }
                Format::Text => found
                    .iter()
                    .try_for_each(|one| writeln!(out, "{}", line(one)))?,
            }
            Ok(())
        }
        QuarantineCommand::Show {
            which,
            raw,
            place,
            output,
        } => {
            let data_dir = place.data_dir()?;
            let found = quarantine::list(&data_dir)?;
            let is_it = |one: &&Quarantined| one.name == which || one.id.as_ref() == Some(&which);
            let one = found.iter().find(is_it).ok_or_else(|| {
                Failure::Said(format!(
                    "{which} is not in the quarantine; `queue quarantine list` lists what is"
                ))
            })?;
            let octets = std::fs::read(quarantine::path(&data_dir, one))?;
            match output.format() {
                _ if raw => out.write_all(&octets)?,
                Format::Json => super::queue::json(one, out)?,
                Format::Text => show(one, &octets, out)?,
            }
            Ok(())
        }
    }
}

fn line(one: &Quarantined) -> String {
    let id = one.id.as_deref().unwrap_or("(no message can be named)");
    format!(
        "{}  {id}  segment {}, octets {} to {}: {}",
        one.name,
        one.segment,
        one.offset,
        u64::from(one.offset) + u64::from(one.octets),
        one.why
    )
}

fn show(one: &Quarantined, octets: &[u8], out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", line(one))?;
    let message = Header::parse(octets)
        .ok()
        .and_then(|header| Some((header, octets.get(relay_core::queue::record::HEADER_LEN..)?)))
        .and_then(|(header, payload)| header.message(payload).ok());
    if let Some(message) = message {
        // It may be what is damaged; it is for people to judge.
        let from = message.envelope.from.mailbox().map(ToString::to_string);
        writeln!(out, "from <{}>", from.unwrap_or_default().escape_debug())?;
        for recipient in &message.envelope.recipients {
            writeln!(out, "to <{}>", recipient.to.to_string().escape_debug())?;
        }
    }
    for (number, row) in octets.chunks(WIDTH).enumerate() {
        let hex: String = row.iter().map(|octet| format!("{octet:02x} ")).collect();
        let text: String = row
            .iter()
            .map(|&octet| match octet {
                b' '..=b'~' => char::from(octet),
                _ => '.',
            })
            .collect();
        writeln!(out, "{:08x}  {hex:<48} {text}", number * WIDTH)?;
    }
    Ok(())
}
