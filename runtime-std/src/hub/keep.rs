//! Small texts that outlive a restart: the engine says what to keep, this writes it beside the queue.
//!
//! ```text
//!  Output::Keep ──▶ pending, by name ──▶ one writer at a time ──▶ data_dir/kept/NAME, whole or not at all
//! ```
//!
//! What is lost in a crash, or cannot be written, is learnt again: nothing waits for it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use relay_core::engine::Keep;

use super::lock;
use crate::load::write_atomically;

/// The directory in `data_dir`.
const DIRECTORY: &str = "kept";

/// The longest text.
const TEXT_MAX: u64 = 4 * 1024 * 1024;

/// Writes what is to be kept.
#[derive(Debug)]
pub(super) struct Keeper {
    directory: PathBuf,
    state: Mutex<State>,
    /// Held while a text is written, so that an older one never comes after a newer.
    writer: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    pending: BTreeMap<String, Option<String>>,
    writing: bool,
}

impl Keeper {
    pub(super) fn new(data_dir: &Path) -> Self {
        Self {
            directory: data_dir.join(DIRECTORY),
            state: Mutex::default(),
            writer: Mutex::default(),
        }
    }

    /// What an earlier run kept. What cannot be read is told, and left out.
    pub(super) fn read(&self) -> Vec<Keep> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                let directory = self.directory.display();
                tracing::warn!(%directory, %error, "what was kept cannot be read");
                return Vec::new();
            }
        };
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        // What a crash left of a write has another ending.
        let whole = paths.filter(|path| path.extension().is_some_and(|ending| ending == "json"));
        let read = |path: PathBuf| match read_text(&path) {
            Ok(text) => Some(Keep {
                name: path.file_name()?.to_str()?.to_owned(),
                text: Some(text),
            }),
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "what was kept cannot be read");
                None
            }
        };
        whole.filter_map(read).collect()
    }

    /// Takes a text. Says whether a writer is to be started, with [`Self::write`].
    pub(super) fn put(&self, keep: Keep) -> bool {
        let mut state = lock(&self.state);
        state.pending.insert(keep.name, keep.text);
        !std::mem::replace(&mut state.writing, true)
    }

    /// There is nobody to run the writer: the next text asks again.
    pub(super) fn not_started(&self) {
        lock(&self.state).writing = false;
    }

    /// Writes what is pending, until there is nothing.
    pub(super) fn write(&self) {
        let _one_at_a_time = lock(&self.writer);
        loop {
            let next = {
                let mut state = lock(&self.state);
                let next = state.pending.pop_first();
                state.writing = next.is_some();
                next
            };
            let Some((name, text)) = next else {
                return;
            };
            let path = self.directory.join(&name);
            let written = match text {
                Some(text) => fs::create_dir_all(&self.directory)
                    .and_then(|()| write_atomically(&path, text.as_bytes(), 0o600)),
                None => match fs::remove_file(&path) {
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                    result => result,
                },
            };
            if let Err(error) = written {
                tracing::warn!(file = %path.display(), %error, "cannot be kept; a restart forgets it");
            }
        }
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?
        .take(TEXT_MAX)
        .read_to_string(&mut text)?;
    Ok(text)
}
