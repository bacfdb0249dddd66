//! Sizes and times of a store, and why it may fail to open.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Sizes and times of a store. The defaults serve from a router to a server.
#[derive(Debug, Clone)]
pub struct Options {
    /// The size of a segment file in octets. Files grow to it as they are first written.
    pub segment_size: u32,
    /// By how many octets a segment file grows at once.
    pub extent: u32,
    /// With less than so many free octets nothing is accepted but the relay's own reports.
    pub reserve: u64,
    /// How many empty segment files are kept for reuse.
    pub free_max: usize,
    /// A group commit is closed when it has so many octets.
    pub group_max: usize,
    /// The progress log is written anew when it has so many octets, and twice what is live.
    pub rewrite_min: u64,
    /// How long a note may wait for its sync.
    pub sync_interval: Duration,
    /// The salt of a new store; from the system's randomness if there is none. For simulations.
    pub salt: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_size: 64 << 20,
            extent: 1 << 20,
            reserve: 64 << 20,
            free_max: 4,
            group_max: 4 << 20,
            rewrite_min: 4 << 20,
            sync_interval: Duration::from_secs(1),
            salt: None,
        }
    }
}

/// Why a store cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// Another process uses the directory.
    Locked {
        /// The directory.
        dir: PathBuf,
        /// Its process id, if it is known.
        process: Option<u32>,
    },
    /// A file or directory cannot be read or made.
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file was written by another version of the relay.
    Version {
        /// Which.
        path: PathBuf,
        /// Its version of the format.
        version: u8,
    },
}

impl OpenError {
    pub(super) fn io(path: &Path, error: io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            error,
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked {
                dir,
                process: Some(process),
            } => {
                write!(
                    f,
                    "{}: process {process} uses this queue; stop it first",
                    dir.display()
                )
            }
            Self::Locked { dir, process: None } => {
                write!(
                    f,
                    "{}: another process uses this queue; stop it first",
                    dir.display()
                )
            }
            Self::Io { path, error } => write!(f, "{}: {error}", path.display()),
            Self::Version { path, version } => write!(
                f,
                "{}: format version {version}, written by another version of the relay",
                path.display()
            ),
        }
    }
}

impl std::error::Error for OpenError {}
