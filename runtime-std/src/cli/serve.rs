//! `serve`: from the command line to a relay that runs until it is told to stop.

use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use relay_core::config::ListenerTls;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::{Failure, LogFormat, ServeArgs};
use crate::hub::{Hub, Options};
use crate::journal::LogEvents;
use crate::load::{self, Loaded, Purpose};
use crate::runtime::{Running, Runtime};

/// How long transactions and deliveries may take to end after SIGTERM.
const DRAIN: Duration = Duration::from_secs(9);

/// How often certificate files are looked at.
const CERTIFICATE_CHECK: Duration = Duration::from_secs(60);

/// Runs a relay until SIGTERM or SIGINT; SIGHUP loads the configuration anew.
pub(super) fn serve(
    runtime: &dyn Runtime,
    args: &ServeArgs,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let log = LogFormat::or_for_terminal(args.log);
    start_log(log);
    let wanted = args.place.options();
    let loaded = load::load(&wanted, Purpose::Start).map_err(Failure::said)?;
    loaded
        .warnings
        .iter()
        .for_each(|warning| tracing::warn!("{warning}"));
    // Signals are caught before anything runs that they should stop in good order.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let hints = Hints::of(&loaded);
    let options = Options {
        log,
        load: Some(wanted),
        admin: true,
        ..Options::default()
    };
    let running = runtime.start(loaded, options).map_err(Failure::said)?;
    hints.print(&*running, out)?;
    tracing::info!(listeners = ?running.addresses(), "ready");

    let (send, receive) = channel();
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in &mut signals {
                if send.send(signal).is_err() {
                    return;
                }
            }
        })?;
    let mut changed_at = load::tls_changed_at(&running.hub().loaded().config);
    loop {
        match receive.recv_timeout(CERTIFICATE_CHECK) {
            Ok(SIGHUP) => reload(running.hub()),
            Ok(_) | Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                let now = load::tls_changed_at(&running.hub().loaded().config);
                if now != changed_at {
                    tracing::info!("the certificate files changed");
                    reload(running.hub());
                }
                changed_at = now;
            }
        }
    }
    tracing::info!("stopping: no new mail, what runs may end");
    if !running.shut_down(DRAIN) {
        tracing::warn!("some connections did not end in time; their mail is in the queue");
    }
    tracing::info!("stopped");
    Ok(())
}

fn reload(hub: &Arc<Hub>) {
    match hub.reload() {
        Ok(changed) if changed.is_empty() => tracing::info!("reloaded; nothing differs"),
        Ok(changed) => changed
            .iter()
            .for_each(|change| tracing::info!("reloaded: {change}")),
        Err(error) => tracing::error!("not reloaded, the old configuration stays: {error}"),
    }
}

/// What is printed for somebody who tries the relay without a configuration.
struct Hints {
    first_run: Option<load::FirstRun>,
    embedded: bool,
}

impl Hints {
    fn of(loaded: &Loaded) -> Self {
        Self {
            first_run: loaded.first_run.clone(),
            embedded: loaded.file.is_none(),
        }
    }

    fn print(&self, running: &dyn Running, out: &mut dyn Write) -> Result<(), Failure> {
        if !self.embedded {
            return Ok(());
        }
        let loaded = running.hub().loaded();
        let config = &loaded.config;
        writeln!(
            out,
            "No configuration: running the embedded default in {}.",
            config.data_dir.display()
        )?;
        for (listener, address) in config.listeners.iter().zip(running.addresses()) {
            let tls = match listener.tls {
                ListenerTls::StartTls => "SMTP with STARTTLS",
                ListenerTls::Implicit => "SMTP over TLS",
                ListenerTls::None => "SMTP without TLS",
            };
            writeln!(out, "  {address}  {tls}")?;
        }
        if let Some(admin) = config.admin {
            writeln!(out, "  http://{admin}/  status and queue")?;
        }
        let secret = match &self.first_run {
            Some(made) => {
                writeln!(
                    out,
                    "Credential \"{}\", shown this once: {}",
                    made.name, made.secret
                )?;
                made.secret.as_str()
            }
            None => "SECRET",
        };
        if let Some(address) = running.addresses().first() {
            writeln!(
                out,
                "Try: swaks --server {} --port {} --tls --auth PLAIN --auth-user {} --auth-password {secret} \\\n\
                 \x20      --from you@example.com --to somebody@example.net",
                address.ip(),
                address.port(),
                load::FIRST_CREDENTIAL,
            )?;
        }
        Ok(out.flush()?)
    }
}

/// Sends what is not a delivery event to stderr, in the same form.
fn start_log(log: LogEvents) {
    let builder = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(tracing::Level::INFO)
        .with_target(false);
    // A second subscriber is refused, which only a program that calls this twice could see.
    let _ = match log {
        LogEvents::Off => Ok(()),
        LogEvents::Json => builder.json().flatten_event(true).try_init(),
        LogEvents::Human => builder.try_init(),
    };
}
