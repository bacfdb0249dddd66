//! `check`: is this configuration one that would start?

use std::io::{self, Write};

use relay_core::config::{Config, DmarcAction, ListenerTls, Role};

use crate::load::{LoadError, Options, Purpose, load};

/// Loads what the options name, makes nothing, and says what it found: every error, or what would run.
/// True if it would start.
///
/// # Errors
/// `out` cannot be written.
pub fn check(options: &Options, out: &mut dyn Write) -> io::Result<bool> {
    let loaded = match load(options, Purpose::Check) {
        Ok(loaded) => loaded,
        Err(error) => {
            report(&error, out)?;
            return Ok(false);
        }
    };
    for warning in &loaded.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    match &loaded.file {
        Some(path) => writeln!(out, "{}: no errors", path.display())?,
        None => writeln!(out, "no configuration: the embedded default")?,
    }
    describe(&loaded.config, out)?;
    Ok(true)
}

/// A line for each error.
///
/// # Errors
/// `out` cannot be written.
pub fn report(error: &LoadError, out: &mut dyn Write) -> io::Result<()> {
    for error in &error.0 {
        writeln!(out, "error: {error}")?;
    }
    let count = error.0.len();
    writeln!(
        out,
        "{count} {}",
        if count == 1 { "error" } else { "errors" }
    )
}

fn describe(config: &Config, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "  hostname     {}", config.hostname)?;
    writeln!(out, "  data_dir     {}", config.data_dir.display())?;
    for listener in &config.listeners {
        let tls = match listener.tls {
            ListenerTls::StartTls => "STARTTLS",
            ListenerTls::Implicit => "implicit TLS",
            ListenerTls::None => "no TLS",
        };
        let role = match listener.role {
            Role::Submission => "",
            Role::Inbound(DmarcAction::Tag) => ", mail from others",
            Role::Inbound(DmarcAction::Reject) => ", mail from others, DMARC obeyed",
        };
        writeln!(out, "  listener     {} ({tls}{role})", listener.address)?;
    }
    match &config.tls {
        Some(tls) => writeln!(out, "  certificate  {}", tls.certificate.display())?,
        None => writeln!(out, "  certificate  self-signed, in data_dir")?,
    }
    let names: Vec<&str> = config.credentials.iter().map(|c| c.name.as_str()).collect();
    writeln!(
        out,
        "  credentials  {}",
        if names.is_empty() {
            "none".into()
        } else {
            names.join(", ")
        }
    )?;
    for route in &config.routes {
        let hosts: Vec<String> = match route.is_by_mx() {
            true => vec!["its MX".to_owned()],
            false => route.hosts.iter().map(ToString::to_string).collect(),
        };
        let sealed = if route.forward { " (sealed)" } else { "" };
        let hosts = hosts.join(", ");
        writeln!(out, "  route        {} to {hosts}{sealed}", route.domain)?;
    }
    for domain in &config.domains {
        let keys = domain.keys.iter();
        let keys: Vec<String> = keys
            .map(|key| format!("{} {}", key.selector, key.state))
            .collect();
        writeln!(out, "  domain       {} ({})", domain.name, keys.join(", "))?;
    }
    let servers: Vec<String> = config.dns.servers.iter().map(ToString::to_string).collect();
    writeln!(out, "  dns          {}", servers.join(", "))?;
    match config.admin {
        Some(address) => writeln!(out, "  admin        {address}, and admin.sock in data_dir"),
        None => writeln!(out, "  admin        admin.sock in data_dir"),
    }
}
