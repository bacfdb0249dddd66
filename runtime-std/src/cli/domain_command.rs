//! The arguments of `domain`.

use std::io::Write;
use std::net::IpAddr;

use clap::{Args, Subcommand};

use super::domain::{self, Trust};
use super::{Failure, Output, Where};

#[derive(Debug, Subcommand)]
pub(super) enum DomainCommand {
    /// Make DKIM keys for a domain, and print the DNS records to publish
    Add {
        /// Where bounces go: bounces.DOMAIN if not given; "none" for the sender's own address
        #[arg(long, value_name = "HOST")]
        return_path: Option<String>,
        #[command(flatten)]
        senders: Senders,
        #[command(flatten)]
        one: OneDomain,
    },
    /// Print the DNS records to publish once more, as a zone file
    Records {
        #[command(flatten)]
        senders: Senders,
        #[command(flatten)]
        one: OneDomain,
    },
    /// Ask the DNS what is right, wrong or missing; exit code 1 unless all that is needed is right
    Check {
        #[command(flatten)]
        senders: Senders,
        #[command(flatten)]
        one: OneDomain,
    },
    /// List domains and their keys
    List {
        #[command(flatten)]
        place: Where,
        #[command(flatten)]
        output: Output,
    },
    /// Make new keys and print their records; they sign when the records are in the DNS
    Rotate {
        /// The domain in From
        #[arg(required_unless_present = "return_path")]
        domain: Option<String>,
        /// Let the new keys sign, and use the return path, without asking the DNS
        #[arg(long)]
        now: bool,
        /// Make a new key for the addresses of return paths, of all domains
        #[arg(long, conflicts_with_all = ["domain", "now"])]
        return_path: bool,
        #[command(flatten)]
        place: Where,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Args)]
pub(super) struct Senders {
    /// The address that mail leaves from, as receivers see it; several may be given
    #[arg(long = "address", value_name = "IP")]
    addresses: Vec<IpAddr>,
}

#[derive(Debug, Args)]
pub(super) struct OneDomain {
    /// The domain in From
    domain: String,
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    output: Output,
}

/// Runs one of them.
pub(super) fn run(command: DomainCommand, out: &mut dyn Write) -> Result<(), Failure> {
    let format = |one: &OneDomain| one.output.format();
    let right = match command {
        DomainCommand::Add {
            return_path,
            senders,
            one,
        } => {
            let new = domain::New {
                name: &one.domain,
                return_path: return_path.as_deref(),
                addresses: &senders.addresses,
            };
            domain::add(&one.place.options(), &new, format(&one), out)?;
            true
        }
        DomainCommand::Records { senders, one } => {
            let (options, from) = (one.place.options(), &senders.addresses);
            domain::records(&options, &one.domain, from, format(&one), out)?;
            true
        }
        DomainCommand::Check { senders, one } => {
            let (options, from) = (one.place.options(), &senders.addresses);
            domain::check(&options, &one.domain, from, format(&one), out)?
        }
        DomainCommand::List { place, output } => {
            domain::list(&place.options(), output.format(), out)?;
            true
        }
        DomainCommand::Rotate {
            domain: Some(name),
            now,
            place,
            output,
            ..
        } => {
            let trust = if now { Trust::Operator } else { Trust::Dns };
            domain::rotate(&place.options(), &name, trust, output.format(), out)?
        }
        DomainCommand::Rotate { place, output, .. } => {
            domain::rotate_return_path(&place.options(), output.format(), out)?;
            true
        }
    };
    if right { Ok(()) } else { Err(Failure::Shown) }
}
