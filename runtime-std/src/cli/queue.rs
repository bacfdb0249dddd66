//! `queue`, `trace`, `status`, `reload`: what is asked of a running relay, shown as tables or JSON.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};
use relay_core::admin::{Action, QueueEntry, Selector, Status};
use relay_core::events::DeliveryEvent;
use serde_json::Value;

use super::Failure;
use super::client::{Client, ClientError};
use super::credential::Format;

/// `queue list`.
pub(super) fn list(
    client: &Client,
    selector: &Selector,
    limit: usize,
    format: Format,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let mut entries: Vec<QueueEntry> = Vec::new();
    while entries.len() < limit {
        let mut query = format!("limit={}", (limit - entries.len()).min(500));
        for (key, value) in [("domain", &selector.domain), ("sender", &selector.sender)] {
            if let Some(value) = value {
                query.push_str(&format!("&{key}={}", percent_encoded(value)));
            }
        }
        if let Some(secs) = selector.older_than_secs {
            query.push_str(&format!("&older_than_secs={secs}"));
        }
        if let Some(last) = entries.last() {
            query.push_str(&format!("&after={}", last.id));
        }
        let page: Vec<QueueEntry> = client.get(&format!("/api/v1/queue?{query}"))?;
        if page.is_empty() {
            break;
        }
        entries.extend(page);
    }
    match format {
        Format::Json => json(&entries, out)?,
        Format::Text if entries.is_empty() => writeln!(out, "Nothing is queued that fits.")?,
        Format::Text => {
            writeln!(out, "{}", queue_table(&entries))?;
            if entries.len() == limit {
                writeln!(out, "The first {limit}; there may be more: --limit")?;
            }
        }
    }
    Ok(())
}

/// `queue show`.
pub(super) fn show(
    client: &Client,
    id: &str,
    format: Format,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let entry: QueueEntry = client.get(&format!("/api/v1/queue/{}", percent_encoded(id)))?;
    match format {
        Format::Json => json(&entry, out)?,
        Format::Text => {
            writeln!(out, "{}", queue_table(std::slice::from_ref(&entry)))?;
            writeln!(
                out,
                "{} octets, expires {}",
                entry.size,
                whole_seconds(&entry.expires)
            )?;
        }
    }
    Ok(())
}

/// `queue retry`, `hold`, `release`, `bounce`, `remove`.
pub(super) fn act(
    client: &Client,
    action: Action,
    selector: &Selector,
    format: Format,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let action = serde_json::to_value(action).map_err(io::Error::other)?;
    let action = action.as_str().unwrap_or_default().to_owned();
    let body = serde_json::to_vec(selector).map_err(io::Error::other)?;
    let answer: Value = client.post(&format!("/api/v1/queue/{action}"), &body)?;
    let messages = answer.get("messages").and_then(Value::as_u64).unwrap_or(0);
    match format {
        Format::Json => json(&answer, out)?,
        Format::Text => writeln!(out, "{action}: {messages} message(s)")?,
    }
    match &selector.id {
        Some(id) if messages == 0 => Err(Failure::Said(nothing_done(client, id))),
        Some(_) | None => Ok(()),
    }
}

/// Why nothing was done to a message.
fn nothing_done(client: &Client, id: &str) -> String {
    match client.get::<QueueEntry>(&format!("/api/v1/queue/{}", percent_encoded(id))) {
        Ok(entry) if entry.held => {
            format!(
                "{id} is held: `queue release` lets it go on, `queue bounce` or `queue remove` ends it"
            )
        }
        Ok(entry)
            if entry
                .jobs
                .iter()
                .any(|job| job.in_doubt && job.state == "held") =>
        {
            format!(
                "{id} may have been delivered, and is held for that: `queue release` tries it again, \
                 `queue bounce` or `queue remove` ends it"
            )
        }
        Ok(_) => format!("{id} is queued, and there is nothing to do or nothing that fits"),
        Err(error) => error.to_string(),
    }
}

/// `trace`.
pub(super) fn trace(
    client: &Client,
    id: &str,
    format: Format,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let events: Vec<DeliveryEvent> =
        client.get(&format!("/api/v1/trace/{}", percent_encoded(id)))?;
    match format {
        Format::Json => json(&events, out)?,
        Format::Text => {
            for event in &events {
                writeln!(out, "{} {event}", event.time)?;
            }
            match client.get::<QueueEntry>(&format!("/api/v1/queue/{}", percent_encoded(id))) {
                Ok(entry) => writeln!(out, "{}", queue_table(&[entry]))?,
                Err(ClientError::Refused(404, _)) => writeln!(out, "No longer in the queue.")?,
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// `status`.
pub(super) fn status(client: &Client, format: Format, out: &mut dyn Write) -> Result<(), Failure> {
    let status: Status = client.get("/api/v1/status")?;
    if format == Format::Json {
        return Ok(json(&status, out)?);
    }
    writeln!(
        out,
        "{} has run for {}: {} client connections, {} to receivers",
        status.hostname,
        duration(status.uptime_secs),
        status.sessions,
        status.deliveries
    )?;
    if let Some(recovering) = &status.store.recovering {
        writeln!(
            out,
            "It reads the queue of the run before: {} of {} messages",
            recovering.done, recovering.total
        )?;
    }
    if let Some(why) = &status.store.refusing {
        writeln!(out, "It accepts nothing: {why}")?;
    }
    let mut table = new_table(["recipients", "since the start"]);
    for (name, count) in [
        ("accepted", status.accepted),
        ("found in the queue", status.recovered),
        ("delivered", status.delivered),
        ("bounced", status.bounced),
        ("expired", status.expired),
        ("removed", status.removed),
        ("queued now", status.queued),
        ("of these held", status.held),
    ] {
        table.add_row([name.to_owned(), count.to_string()]);
    }
    writeln!(out, "{table}")?;
    if !status.lanes.is_empty() {
        let mut table = new_table([
            "destination",
            "ready",
            "waiting",
            "connections",
            "next try",
            "why",
        ]);
        for lane in &status.lanes {
            table.add_row([
                lane.name.clone(),
                lane.ready.to_string(),
                lane.waiting.to_string(),
                lane.connections.to_string(),
                lane.next.as_deref().map(whole_seconds).unwrap_or_default(),
                match (&lane.backed_off, &lane.last) {
                    (Some(why), _) => format!("nothing is tried {why}"),
                    (None, last) => last.clone().unwrap_or_default(),
                },
            ]);
        }
        writeln!(out, "{table}")?;
    }
    if status.mta_sts_enforce + status.mta_sts_testing > 0 {
        let (enforce, testing) = (status.mta_sts_enforce, status.mta_sts_testing);
        writeln!(
            out,
            "MTA-STS policies known: {enforce} enforce, {testing} testing"
        )?;
    }
    for lane in &status.lanes {
        if let Some(policy) = &lane.mta_sts {
            writeln!(out, "MTA-STS policy over {}: {policy}", lane.name)?;
        }
    }
    writeln!(
        out,
        "store: {} MiB on disk, {} MiB live, {} MiB free, {} damaged records{}",
        status.store.disk_bytes >> 20,
        status.store.live_bytes >> 20,
        status.store.free_bytes >> 20,
        status.store.quarantined,
        match status.store.quarantined {
            0 => "",
            _ => ": `queue quarantine list` shows them",
        }
    )?;
    Ok(())
}

/// `reload`.
pub(super) fn reload(client: &Client, format: Format, out: &mut dyn Write) -> Result<(), Failure> {
    let answer: Value = client.post("/api/v1/reload", b"{}")?;
    if format == Format::Json {
        return Ok(json(&answer, out)?);
    }
    let changed = answer
        .get("changed")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    if changed.is_empty() {
        writeln!(out, "Loaded; nothing in it differs.")?;
    }
    for change in changed {
        writeln!(out, "changed: {}", change.as_str().unwrap_or_default())?;
    }
    Ok(())
}

pub(super) fn json(
    value: &(impl serde::Serialize + ?Sized),
    out: &mut dyn Write,
) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value).map_err(io::Error::other)?;
    writeln!(out)
}

fn new_table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header);
    table
}

fn queue_table(entries: &[QueueEntry]) -> Table {
    let mut table = new_table([
        "id",
        "from",
        "accepted",
        "destination",
        "rcpts",
        "tries",
        "state",
        "last reply",
    ]);
    for entry in entries {
        for job in &entry.jobs {
            let mut state = match &job.next {
                Some(next) => format!("{} until {}", job.state, whole_seconds(next)),
                None => job.state.clone(),
            };
            if job.in_doubt {
                state.push_str(", in doubt");
            }
            table.add_row([
                entry.id.clone(),
                match entry.from.as_deref() {
                    Some("") => "<>".to_owned(),
                    from => from.unwrap_or("?").to_owned(),
                },
                whole_seconds(&entry.accepted),
                job.domain.clone(),
                job.recipients.to_string(),
                job.attempts.to_string(),
                state,
                job.last.clone().unwrap_or_default(),
            ]);
        }
    }
    table
}

/// The two largest units of a duration: `3d 4h`, `5m 10s`.
fn duration(secs: u64) -> String {
    match secs {
        0..60 => format!("{secs}s"),
        60..3600 => format!("{}m {}s", secs / 60, secs % 60),
        3600..86_400 => format!("{}h {}m", secs / 3600, secs / 60 % 60),
        _ => format!("{}d {}h", secs / 86_400, secs / 3600 % 24),
    }
}

/// A time of the API without its fraction, which people have no use for.
pub(super) fn whole_seconds(time: &str) -> String {
    match time.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => time.to_owned(),
    }
}

/// RFC 3986 §2.1: all but unreserved characters.
pub(super) fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
