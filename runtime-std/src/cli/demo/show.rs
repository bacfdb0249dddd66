//! What the demo prints: an introduction, the progress, the table.

use std::io::{self, IsTerminal as _, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};

use super::super::Failure;
use super::kinds::Kind;
use super::tally::Row;
use super::world::World;

/// How often a line is printed where there is no terminal for a bar.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// Over how long a rate is measured.
const RATE_OVER: Duration = Duration::from_secs(1);

/// Says what is about to happen.
pub(super) fn introduce(
    binary: &str,
    messages: usize,
    relay: &[SocketAddr],
    out: &mut dyn Write,
) -> io::Result<()> {
    let relay: Vec<String> = relay
        .iter()
        .zip(["STARTTLS", "implicit TLS"])
        .map(|(address, tls)| format!("{address} ({tls})"))
        .collect();
    writeln!(
        out,
        "{binary} listens on {}. {messages} messages go through it to {} kinds of receivers:",
        relay.join(" and "),
        Kind::ALL.len()
    )?;
    for kind in Kind::ALL {
        writeln!(out, "  {:<16} {}", kind.name(), kind.manners())?;
    }
    writeln!(out)?;
    out.flush()
}

/// A bar on a terminal, a line now and then elsewhere.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    started: Instant,
    line_due: Instant,
    accepted: Rate,
    delivered: Rate,
}

impl Progress {
    pub(super) fn new(messages: usize) -> Self {
        let now = Instant::now();
        Self {
            bar: io::stderr().is_terminal().then(|| bar(messages)),
            started: now,
            line_due: now + LINE_EVERY,
            accepted: Rate::new(now),
            delivered: Rate::new(now),
        }
    }

    pub(super) fn show(&mut self, rows: &[Row], out: &mut dyn Write) -> io::Result<()> {
        let now = Instant::now();
        let sum = |of: fn(&Row) -> usize| rows.iter().map(of).sum::<usize>();
        let (accepted, delivered) = (sum(|row| row.accepted), sum(|row| row.delivered));
        self.accepted.count(accepted, now);
        self.delivered.count(delivered, now);
        let text = format!(
            "accepted {accepted} ({:.0}/s), delivered {delivered} ({:.0}/s), bounced {}, \
             expired {}, waiting {}",
            self.accepted.per_second,
            self.delivered.per_second,
            sum(|row| row.bounced),
            sum(|row| row.expired),
            sum(Row::waiting),
        );
        let settled = sum(Row::settled);
        match &self.bar {
            Some(bar) => {
                bar.set_position(settled as u64);
                bar.set_message(text);
            }
            None if now >= self.line_due => {
                self.line_due = now + LINE_EVERY;
                let secs = now.duration_since(self.started).as_secs_f32();
                writeln!(out, "{secs:5.1} s  {text}")?;
                out.flush()?;
            }
            None => {}
        }
        Ok(())
    }

    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(messages: usize) -> ProgressBar {
    let bar = ProgressBar::new(messages as u64);
    // The template is a constant; the default one is shown should it ever be wrong.
    if let Ok(style) = ProgressStyle::with_template("{elapsed} [{bar:30}] {pos}/{len} {wide_msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

/// How fast a count grows.
struct Rate {
    since: Instant,
    count: usize,
    per_second: f64,
}

impl Rate {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            count: 0,
            per_second: 0.0,
        }
    }

    fn count(&mut self, count: usize, now: Instant) {
        let time = now.duration_since(self.since);
        // The first figure comes early, the later ones are steady.
        if time >= RATE_OVER || (self.per_second == 0.0 && count > self.count) {
            let secs = time.as_secs_f64().max(0.001);
            self.per_second = count.saturating_sub(self.count) as f64 / secs;
            (self.since, self.count) = (now, count);
        }
    }
}

/// The columns of the table.
const HEADER: [&str; 9] = [
    "receiver",
    "messages",
    "delivered",
    "bounced",
    "expired",
    "waiting",
    "attempts",
    "DSNs",
    "why (rule: reply)",
];

/// The width of the terminal, or one that suits a file.
fn width() -> u16 {
    rustix::termios::tcgetwinsize(io::stdout())
        .map(|size| size.ws_col)
        .ok()
        .filter(|&columns| columns > 0)
        .unwrap_or(140)
}

/// What happened to each kind and why; a failure if anything did not end as it must.
pub(super) fn table(
    rows: &[Row],
    sent: &[usize],
    world: &World,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(width());
    table.set_header(HEADER);
    let mut faults = Vec::new();
    for kind in Kind::ALL {
        let (row, sent) = (&rows[kind.index()], sent[kind.index()]);
        let reports = world.reports(kind);
        let numbers = [
            sent,
            row.delivered,
            row.bounced,
            row.expired,
            row.waiting(),
            row.attempts,
            reports,
        ];
        let mut cells = vec![kind.name().to_owned()];
        cells.extend(numbers.map(|number| number.to_string()));
        cells.push(row.why());
        table.add_row(cells);
        if let Some(fault) = row.fault(kind, sent, reports) {
            faults.push(format!("{}: {fault}", kind.name()));
        }
    }
    writeln!(out, "{table}")?;
    if faults.is_empty() {
        writeln!(out, "Every message ended as it should.")?;
        return Ok(());
    }
    Err(Failure::Said(format!(
        "not every message ended as it should: {}",
        faults.join("; ")
    )))
}
