//! `serve`: from the command line to a relay that runs until it is told to stop.

use std::io::Write;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use relay_core::config::ListenerTls;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::published::Lookout;
use super::{Failure, LogFormat, ServeArgs};
use crate::hub::{Hub, Options};
use crate::journal::{Colour, LogEvents};
use crate::load::{self, Loaded, Purpose};
use crate::resources;
use crate::runtime::{Running, Runtime};

/// How long transactions and deliveries may take to end after SIGTERM.
const DRAIN: Duration = Duration::from_secs(9);

/// How often the files that commands and other programs change are looked at.
const FILE_CHECK: Duration = Duration::from_secs(5);

/// Runs a relay until SIGTERM or SIGINT; SIGHUP loads the configuration anew.
pub(super) fn serve(
    runtime: &dyn Runtime,
    args: &ServeArgs,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let log = LogFormat::or_for_terminal(args.log);
    start_log(log);
    resources::raise_descriptors();
    let wanted = args.place.options();
    let loaded = load::load(&wanted, Purpose::Start).map_err(Failure::said)?;
    loaded
        .warnings
        .iter()
        .for_each(|warning| tracing::warn!("{warning}"));
    // Signals are caught before anything runs that they should stop in good order.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let embedded = loaded.file.is_none();
    // Before anything can fail: the secret is kept nowhere, and a second run makes no other.
    let secret = show_secret(&loaded, out)?;
    let options = Options {
        log,
        load: Some(wanted),
        admin: true,
        ..Options::default()
    };
    let running = runtime.start(loaded, options).map_err(Failure::said)?;
    if embedded {
        print_hints(&*running, secret.as_deref(), out)?;
    }
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
    let _lookout = Lookout::start(running.hub())?;
    let mut changed_at = load::changed_at(&running.hub().loaded().config);
    loop {
        match receive.recv_timeout(FILE_CHECK) {
            Ok(SIGHUP) => reload(running.hub()),
            Ok(_) | Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                let now = load::changed_at(&running.hub().loaded().config);
                if now != changed_at {
                    tracing::info!("certificates or keys changed on the disk");
                    reload(running.hub());
                }
                // What changed while it was read is seen the next time.
                let mut after = load::changed_at(&running.hub().loaded().config);
                for (path, changed) in &mut after {
                    if let Some((_, before)) = now.iter().find(|(known, _)| known == path) {
                        *changed = *before;
                    }
                }
                changed_at = after;
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

fn reload(hub: &Hub) {
    match hub.reload() {
        Ok(changed) if changed.is_empty() => tracing::info!("reloaded; nothing differs"),
        Ok(changed) => changed
            .iter()
            .for_each(|change| tracing::info!("reloaded: {change}")),
        Err(error) => tracing::error!("not reloaded, the old configuration stays: {error}"),
    }
}

/// Prints the credential of a first run, and returns its secret.
fn show_secret(loaded: &Loaded, out: &mut dyn Write) -> Result<Option<String>, Failure> {
    let Some(made) = &loaded.first_run else {
        return Ok(None);
    };
    writeln!(
        out,
        "Credential \"{}\", its secret is shown this once: {}",
        made.name, made.secret
    )?;
    out.flush()?;
    Ok(Some(made.secret.clone()))
}

/// What is printed for somebody who tries the relay without a configuration.
fn print_hints(
    running: &dyn Running,
    secret: Option<&str>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
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
    if let Some(admin) = running.hub().admin_address() {
        writeln!(out, "  http://{admin}/  status and queue")?;
    }
    if secret.is_none() {
        writeln!(
            out,
            "The secret was shown on the first run; another: smtp-relay credential add NAME --sender '*'"
        )?;
    }
    if let Some(address) = running.addresses().first() {
        writeln!(
            out,
            "Try: swaks --server {} --port {} --tls --auth PLAIN --auth-user {} --auth-password {} \\\n\
             \x20      --from you@example.com --to somebody@example.net",
            address.ip(),
            address.port(),
            load::FIRST_CREDENTIAL,
            secret.unwrap_or("SECRET"),
        )?;
    }
    Ok(out.flush()?)
}

/// Sends what is not a delivery event to stderr, in the same form.
fn start_log(log: LogEvents) {
    let builder = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(tracing::Level::INFO)
        .with_ansi(log == LogEvents::Human(Colour::On))
        .with_target(false);
    // A second subscriber is refused, which only a program that calls this twice could see.
    let _ = match log {
        LogEvents::Off => Ok(()),
        LogEvents::Json => builder.json().flatten_event(true).try_init(),
        LogEvents::Human(_) => builder.try_init(),
    };
}
