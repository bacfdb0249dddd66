//! The command line of both binaries.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage.

pub mod check;
mod client;
pub mod command_error;
pub mod credential;
mod demo;
mod dns_check;
pub mod domain;
mod domain_command;
mod published;
mod quarantine;
mod queue;
mod report;
mod return_path;
mod serve;

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use relay_core::admin::{Action, Selector};

use crate::journal::{Colour, LogEvents};
use crate::load;
use crate::runtime::Runtime;
use client::{Client, ClientError};
use command_error::CommandError;
use credential::Format;
use domain_command::DomainCommand;

/// An authenticated SMTP relay: takes mail from applications, keeps it safe, delivers it by MX.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the relay; with no configuration, an embedded default that is ready to try
    Serve(ServeArgs),
    /// Run a relay with receivers and traffic in one process, and show what became of it
    Demo(DemoArgs),
    /// Validate the configuration; every error with file, line, key and what is allowed
    Check(Where),
    /// Add, list and remove who may send
    #[command(subcommand)]
    Credential(CredentialCommand),
    /// Set up domains to send from: keys, DNS records, and whether they are right
    #[command(subcommand)]
    Domain(DomainCommand),
    /// Look at queued messages and change what becomes of them
    #[command(subcommand)]
    Queue(QueueCommand),
    /// Show a message's whole story: each attempt, reply, rule, host, TLS, next try
    Trace {
        /// The id in the 250 reply and in the Received header, or the return path of a bounce
        id: String,
        #[command(flatten)]
        place: Where,
        #[command(flatten)]
        output: Output,
    },
    /// Show reports that others sent: TLS-RPT and DMARC aggregate; plain, in gzip, zip or a mail
    Report(report::ReportArgs),
    /// Apply the changed configuration and certificates
    Reload {
        #[command(flatten)]
        place: Where,
        #[command(flatten)]
        output: Output,
    },
    /// Show what runs, how deep the queue is, what waits and why
    Status {
        #[command(flatten)]
        place: Where,
        #[command(flatten)]
        output: Output,
    },
}

/// Which relay.
#[derive(Debug, Clone, Default, Args)]
struct Where {
    /// The configuration; without one, relay.toml here if there is one, or the embedded default
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where queue, credentials and certificates are kept, instead of what the configuration says
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl Where {
    fn options(&self) -> load::Options {
        load::Options {
            config: self.config.clone(),
            data_dir: self.data_dir.clone(),
        }
    }

    fn data_dir(&self) -> Result<PathBuf, Failure> {
        let (draft, _) = load::draft(&self.options()).map_err(Failure::said)?;
        Ok(draft.data_dir().to_owned())
    }

    fn client(&self) -> Result<Client, Failure> {
        Ok(Client::new(&self.data_dir()?))
    }
}

#[derive(Debug, Clone, Copy, Args)]
struct Output {
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
}

impl Output {
    fn format(self) -> Format {
        if self.json {
            Format::Json
        } else {
            Format::Text
        }
    }
}

#[derive(Debug, Args)]
struct ServeArgs {
    #[command(flatten)]
    place: Where,
    /// How to log on stderr; JSON lines unless it is a terminal
    #[arg(long, value_enum)]
    log: Option<LogFormat>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Json,
    Human,
}

impl LogFormat {
    fn or_for_terminal(format: Option<Self>) -> LogEvents {
        let terminal = io::stderr().is_terminal();
        // https://no-color.org
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let colour = if terminal && wanted {
            Colour::On
        } else {
            Colour::Off
        };
        match format {
            Some(Self::Json) => LogEvents::Json,
            Some(Self::Human) => LogEvents::Human(colour),
            None if terminal => LogEvents::Human(colour),
            None => LogEvents::Json,
        }
    }
}

#[derive(Debug, Args)]
struct DemoArgs {
    /// How many messages to send
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    messages: u32,
}

#[derive(Debug, Subcommand)]
enum CredentialCommand {
    /// Make a credential; its secret is printed once
    Add {
        /// The user's name
        name: String,
        /// What MAIL FROM and From: may be: a domain, an address, or "*"
        #[arg(long = "sender", required = true, num_args = 1.., value_name = "DOMAIN")]
        senders: Vec<String>,
        /// Where it may connect from, as 192.0.2.0/24; anywhere if not given
        #[arg(long = "network", num_args = 1.., value_name = "NETWORK")]
        networks: Vec<String>,
        /// How much it may send, as 1000/h
        #[arg(long)]
        rate: Option<String>,
        #[command(flatten)]
        place: Where,
        #[command(flatten)]
        output: Output,
    },
    /// List credentials, without secrets
    List {
        #[command(flatten)]
        place: Where,
        #[command(flatten)]
        output: Output,
    },
    /// Remove a credential
    Remove {
        /// The user's name
        name: String,
        #[command(flatten)]
        place: Where,
    },
}

#[derive(Debug, Subcommand)]
enum QueueCommand {
    /// List queued messages, oldest first
    List {
        #[command(flatten)]
        select: Select,
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: usize,
        #[command(flatten)]
        place: Where,
        #[command(flatten)]
        output: Output,
    },
    /// Show one message
    Show {
        /// The message's id
        id: String,
        #[command(flatten)]
        place: Where,
        #[command(flatten)]
        output: Output,
    },
    /// Try now
    Retry(Act),
    /// Do not try until released
    Hold(Act),
    /// Undo a hold
    Release(Act),
    /// Give up now, and report that to the sender
    Bounce(Act),
    /// Drop without a report
    Remove(Act),
    /// Look at what was damaged in the queue and is kept aside
    #[command(subcommand)]
    Quarantine(quarantine::QuarantineCommand),
}

/// Selectors narrow each other.
#[derive(Debug, Clone, Args)]
struct Select {
    /// With a recipient in this domain
    #[arg(long)]
    domain: Option<String>,
    /// From this address or this domain; '<>' for reports
    #[arg(long)]
    sender: Option<String>,
    /// Accepted longer ago than this, as 30m, 6h, 2d
    #[arg(long, value_name = "AGE", value_parser = age_secs)]
    older_than: Option<u64>,
}

#[derive(Debug, Args)]
struct Act {
    /// The message's id; without one, at least one selector
    #[arg(required_unless_present_any = ["domain", "sender", "older_than"])]
    id: Option<String>,
    #[command(flatten)]
    select: Select,
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    output: Output,
}

fn age_secs(text: &str) -> Result<u64, String> {
    let duration = relay_core::config::parse_duration(text).map_err(|error| error.to_string())?;
    Ok(duration.as_secs())
}

impl Select {
    fn selector(self, id: Option<String>) -> Selector {
        Selector {
            id,
            domain: self.domain,
            sender: self.sender,
            older_than_secs: self.older_than,
        }
    }
}

/// Why a command failed, in words for whoever typed it. Exit code 1.
#[derive(Debug)]
enum Failure {
    /// In these words.
    Said(String),
    /// The command shown what is wrong itself.
    Shown,
    /// The arguments are wrong: exit code 2.
    Usage(String),
    /// Standard output ended: whoever read it had enough.
    Output(io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Said(text) | Self::Usage(text) => f.write_str(text),
            Self::Shown => Ok(()),
            Self::Output(error) => write!(f, "cannot write the answer: {error}"),
        }
    }
}

impl Failure {
    fn said(error: impl fmt::Display) -> Self {
        Self::Said(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl<C: fmt::Display> From<CommandError<C>> for Failure {
    fn from(error: CommandError<C>) -> Self {
        match error {
            CommandError::Usage(text) => Self::Usage(text),
            CommandError::Output(error) => Self::Output(error),
            CommandError::Load(_) | CommandError::Change(_) => Self::said(error),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Said(error.to_string())
    }
}

/// Runs the command line on a runtime.
pub fn main(runtime: &dyn Runtime) -> ExitCode {
    let matches = Cli::command()
        .name(runtime.binary())
        .bin_name(runtime.binary())
        .get_matches();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let mut out = io::stdout().lock();
    match run(runtime, cli.command, &mut out).and_then(|()| Ok(out.flush()?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(Failure::Shown) => ExitCode::FAILURE,
        Err(failure) => {
            // Nothing can be done if stderr is closed too.
            let _ = writeln!(io::stderr(), "{}: {failure}", runtime.binary());
            match failure {
                Failure::Usage(_) => ExitCode::from(2),
                Failure::Said(_) | Failure::Shown | Failure::Output(_) => ExitCode::FAILURE,
            }
        }
    }
}

fn run(runtime: &dyn Runtime, command: Command, out: &mut dyn Write) -> Result<(), Failure> {
    match command {
        Command::Serve(args) => serve::serve(runtime, &args, out),
        Command::Demo(args) => demo::demo(runtime, &args, out),
        Command::Check(place) => match check::check(&place.options(), out)? {
            true => Ok(()),
            false => Err(Failure::Shown),
        },
        Command::Credential(command) => run_credential(command, out),
        Command::Domain(command) => domain_command::run(command, out),
        Command::Queue(command) => run_queue(command, out),
        Command::Trace { id, place, output } => {
            let format = output.format();
            let id = match id.contains('@') {
                true => return_path::message_of(&place.data_dir()?, &id, format, out)?,
                false => id,
            };
            queue::trace(&place.client()?, &id, format, out)
        }
        Command::Report(args) => report::run(args, out),
        Command::Reload { place, output } => queue::reload(&place.client()?, output.format(), out),
        Command::Status { place, output } => queue::status(&place.client()?, output.format(), out),
    }
}

fn run_credential(command: CredentialCommand, out: &mut dyn Write) -> Result<(), Failure> {
    match command {
        CredentialCommand::Add {
            name,
            senders,
            networks,
            rate,
            place,
            output,
        } => {
            let new = credential::New {
                name,
                senders,
                networks,
                rate,
            };
            credential::add(&place.options(), &new, output.format(), out)?;
        }
        CredentialCommand::List { place, output } => {
            credential::list(&place.options(), output.format(), out)?;
        }
        CredentialCommand::Remove { name, place } => {
            credential::remove(&place.options(), &name, out)?;
        }
    }
    Ok(())
}

fn run_queue(command: QueueCommand, out: &mut dyn Write) -> Result<(), Failure> {
    match command {
        QueueCommand::List {
            select,
            limit,
            place,
            output,
        } => queue::list(
            &place.client()?,
            &select.selector(None),
            limit,
            output.format(),
            out,
        ),
        QueueCommand::Show { id, place, output } => {
            queue::show(&place.client()?, &id, output.format(), out)
        }
        QueueCommand::Retry(act) => run_act(Action::Retry, act, out),
        QueueCommand::Hold(act) => run_act(Action::Hold, act, out),
        QueueCommand::Release(act) => run_act(Action::Release, act, out),
        QueueCommand::Bounce(act) => run_act(Action::Bounce, act, out),
        QueueCommand::Remove(act) => run_act(Action::Remove, act, out),
        QueueCommand::Quarantine(command) => quarantine::run(command, out),
    }
}

fn run_act(action: Action, act: Act, out: &mut dyn Write) -> Result<(), Failure> {
    let selector = act.select.selector(act.id);
    queue::act(
        &act.place.client()?,
        action,
        &selector,
        act.output.format(),
        out,
    )
}
