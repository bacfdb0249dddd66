//! The catalogue of attacks, run against a relay of either runtime over loopback sockets.
//!
//! ```text
//!   rows() ──▶ Row ──run(runtime)──▶ [Got { variant, what it got, pass }]
//!               │
//!               ├─ Dialogue: octets from a start state, a pattern of replies, what was queued;
//!               │            run whole, octet by octet, over TLS, after AUTH, under load
//!               └─ Scene:    a function with clients and scripted receivers of its own
//! ```
//!
//! Each row has the id that it has in the catalogue. A row that the catalogue does not hold, for the
//! rule behind one that it does, has that one's id with a letter after it. `cargo test` runs each row as
//! a test; the binary `attacks` prints what each of them got.
//!
//! Clients come from addresses all over 127.0.0.0/8, one each, which Linux has without being asked.

mod bodies;
mod client;
mod commands;
mod dane;
mod dialogue;
mod inbound;
mod leaving;
mod logins;
mod names;
mod outbound;
mod policies;
pub mod random;
mod relay;
mod reports;
mod sessions;
mod sink;
mod submission;
mod tls;

use std::time::Duration;

use dialogue::Dialogue;

/// What went wrong.
type Trouble = Box<dyn std::error::Error + Send + Sync>;

/// How long anything may take. What is waited for comes at once, or there is something wrong.
const DEADLINE: Duration = Duration::from_secs(20);

/// How often a status is looked at again.
const POLL: Duration = Duration::from_millis(2);

/// Which relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// `runtime_std::Relay`.
    Threads,
    /// `runtime_smol::Relay`.
    Smol,
}

impl Runtime {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Threads, Self::Smol];

    /// Its name in the table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Threads => "std",
            Self::Smol => "smol",
        }
    }
}

/// One row.
pub struct Row {
    /// Its id in the catalogue.
    pub id: &'static str,
    how: How,
}

enum How {
    Dialogue(Dialogue),
    Scene(fn(Runtime) -> Result<String, Trouble>),
}

/// What one variant of a row got.
#[derive(Debug, Clone)]
pub struct Got {
    /// How the row was run.
    pub variant: String,
    /// What came of it, or what was wrong with that.
    pub what: String,
    /// Whether it is as it should be.
    pub pass: bool,
}

impl Row {
    fn dialogue(id: &'static str, dialogue: Dialogue) -> Self {
        let how = How::Dialogue(dialogue);
        Self { id, how }
    }

    fn scene(id: &'static str, scene: fn(Runtime) -> Result<String, Trouble>) -> Self {
        let how = How::Scene(scene);
        Self { id, how }
    }

    /// Runs it against one of the relays, in all its variants.
    #[must_use]
    pub fn run(&self, runtime: Runtime) -> Vec<Got> {
        match &self.how {
            How::Dialogue(dialogue) => dialogue.run(runtime),
            How::Scene(scene) => vec![Got::new("scene", scene(runtime))],
        }
    }
}

impl Got {
    fn new(variant: &str, result: Result<String, Trouble>) -> Self {
        let pass = result.is_ok();
        Self {
            variant: variant.to_owned(),
            what: result.unwrap_or_else(|trouble| trouble.to_string()),
            pass,
        }
    }
}

/// The catalogue's groups.
const GROUPS: [&str; 14] = [
    "EOD", "CMD", "BDAT", "AUTH", "TLS", "OUT", "CLI", "HDR", "DNS", "DANE", "STS", "LOOP", "DSN",
    "RES",
];

/// Every row, in the order of the catalogue.
#[must_use]
pub fn rows() -> Vec<Row> {
    let groups = [
        bodies::rows(),
        commands::rows(),
        sessions::rows(),
        submission::rows(),
        inbound::rows(),
        logins::rows(),
        leaving::rows(),
        outbound::rows(),
        dane::rows(),
        reports::rows(),
        policies::rows(),
    ];
    let mut rows: Vec<Row> = groups.into_iter().flatten().collect();
    rows.sort_by_key(|row| order(row.id));
    rows
}

/// The place of an id: by its group, its number, and the letter after it.
fn order(id: &str) -> (usize, u32, &str) {
    let (group, place) = id.split_once('-').unwrap_or((id, ""));
    let letter = place.trim_start_matches(|c: char| c.is_ascii_digit());
    let number = place.strip_suffix(letter).and_then(|n| n.parse().ok());
    let group = GROUPS.iter().position(|&known| known == group);
    (group.unwrap_or(GROUPS.len()), number.unwrap_or(0), letter)
}

/// The row with this id.
#[must_use]
pub fn row(id: &str) -> Option<Row> {
    rows().into_iter().find(|row| row.id == id)
}

/// Fails with the rest as text, if the first is false.
macro_rules! ensure {
    ($so:expr, $($text:tt)+) => {
        if !$so {
            return Err(format!($($text)+).into());
        }
    };
}
use ensure;
