//! The journal's files: `DAY.NNNN.jsonl`, in the order of their names, bounded in size, age and sum.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// What is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Octets after which a file is ended. A batch of lines is not divided.
    pub(super) file: u64,
    /// Octets that are kept, over all files, the open one counted as full.
    pub(super) sum: u64,
    /// Days with files.
    pub(super) days: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            file: 64 << 20,
            sum: 1 << 30,
            days: 14,
        }
    }
}

/// The directory of the files, and the one that is written.
#[derive(Debug)]
pub(super) struct Files {
    dir: PathBuf,
    limits: Limits,
    open: Option<Open>,
    /// The last write failed, and that was said.
    failing: bool,
}

#[derive(Debug)]
struct Open {
    day: String,
    file: File,
    len: u64,
}

impl Files {
    /// Makes the directory if there is none.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(super) fn new(dir: PathBuf, limits: Limits) -> io::Result<Self> {
        // Who wrote to whom is nobody else's business.
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&dir)?;
        Ok(Self {
            dir,
            limits,
            open: None,
            failing: false,
        })
    }

    /// Appends whole lines to the file of the day. A failure is logged once, until a write succeeds.
    pub(super) fn append(&mut self, day: &str, lines: &[u8]) {
        let result = self.try_append(day, lines);
        let failed_before = std::mem::replace(&mut self.failing, result.is_err());
        if let Err(error) = result {
            self.open = None;
            if !failed_before {
                tracing::error!(%error, "the journal of delivery events cannot be written; events are lost for `trace` until it can");
            }
        } else if failed_before {
            tracing::info!("the journal of delivery events is written again");
        }
    }

    fn try_append(&mut self, day: &str, lines: &[u8]) -> io::Result<()> {
        let goes_on = |open: &Open| open.day == day && open.len < self.limits.file;
        if !self.open.as_ref().is_some_and(goes_on) {
            self.open = None;
            let open = open_last(&self.dir, day, self.limits.file)?;
            self.open = Some(open);
            remove_old(&self.dir, self.limits)?;
        }
        if let Some(open) = &mut self.open {
            open.file.write_all(lines)?;
            open.len += lines.len() as u64;
        }
        Ok(())
    }
}

/// The journal's files with their sizes, oldest first.
pub(super) fn list(dir: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        if path.extension().is_some_and(|ending| ending == "jsonl") {
            files.push((path, entry.metadata()?.len()));
        }
    }
    files.sort();
    Ok(files)
}

/// The day of a file's name.
fn day_of(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()?.get(..10)
}

/// The number of a file of this day.
fn number_of(path: &Path, day: &str) -> Option<u32> {
    let rest = path.file_name()?.to_str()?.strip_prefix(day)?;
    rest.strip_prefix('.')?.strip_suffix(".jsonl")?.parse().ok()
}

/// The last file of the day if there is room in it, or the one after it.
fn open_last(dir: &Path, day: &str, full: u64) -> io::Result<Open> {
    let last = list(dir)?
        .into_iter()
        .filter_map(|(path, len)| Some((number_of(&path, day)?, len)))
        .max();
    let (number, len) = match last {
        Some((number, len)) if len < full => (number, len),
        Some((number, _)) => (number.saturating_add(1), 0),
        None => (0, 0),
    };
    let path = dir.join(format!("{day}.{number:04}.jsonl"));
    let mut options = OpenOptions::new();
    let mut file = options.create(true).append(true).mode(0o600).open(path)?;
    // A line that a kill cut off stays a line of its own.
    if len > 0 {
        file.write_all(b"\n")?;
    }
    Ok(Open {
        day: day.to_owned(),
        file,
        len,
    })
}

/// Removes the oldest files until what is kept fits the limits. The newest always stays.
fn remove_old(dir: &Path, limits: Limits) -> io::Result<()> {
    let files = list(dir)?;
    let mut days: Vec<_> = files.iter().filter_map(|(path, _)| day_of(path)).collect();
    days.dedup();
    let oldest_day = days.len().checked_sub(limits.days).map(|at| days[at]);
    let mut sum: u64 = files.iter().map(|(_, len)| len).sum();
    let Some(((_, newest), older)) = files.split_last() else {
        return Ok(());
    };
    sum += limits.file.saturating_sub(*newest);
    for (path, len) in older {
        if sum <= limits.sum && day_of(path) >= oldest_day {
            break;
        }
        fs::remove_file(path)?;
        sum -= len;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let name = format!("relay-journal-{name}-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    fn names(dir: &Path) -> Vec<String> {
        let files = list(dir).unwrap();
        let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        files.iter().map(|(path, _)| name(path)).collect()
    }

    const SMALL: Limits = Limits {
        file: 100,
        sum: 1000,
        days: 3,
    };

    #[test]
    fn one_busy_day_is_bounded() {
        let dir = scratch("busy-day");
        let mut files = Files::new(dir.clone(), SMALL).unwrap();
        for _ in 0..1000 {
            files.append("2026-01-01", b"0123456789012345678901234567890123456789\n");
        }
        let kept = list(&dir).unwrap();
        let sum: u64 = kept.iter().map(|(_, len)| len).sum();
        assert!(sum <= SMALL.sum + 41, "{sum}");
        assert!(sum > SMALL.sum / 2, "{sum}");
        assert!(names(&dir).last().unwrap().ends_with("0333.jsonl"));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn old_days_go_and_today_stays() {
        let dir = scratch("days");
        let mut files = Files::new(dir.clone(), SMALL).unwrap();
        for day in 1..=5 {
            files.append(&format!("2026-01-0{day}"), b"{}\n");
        }
        let names = names(&dir);
        let kept = ["03", "04", "05"].map(|day| format!("2026-01-{day}.0000.jsonl"));
        assert_eq!(names, kept);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_restart_goes_on_in_the_last_file_after_a_line_that_was_cut_off() {
        let dir = scratch("restart");
        let mut files = Files::new(dir.clone(), SMALL).unwrap();
        files.append("2026-01-01", b"{\"cut");
        let mut files = Files::new(dir.clone(), SMALL).unwrap();
        files.append("2026-01-01", b"{}\n");
        assert_eq!(names(&dir), ["2026-01-01.0000.jsonl"]);
        let text = fs::read(dir.join("2026-01-01.0000.jsonl")).unwrap();
        assert_eq!(text, b"{\"cut\n{}\n");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_directory_that_comes_back_is_written_again() {
        let dir = scratch("gone");
        let mut files = Files::new(dir.clone(), SMALL).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        files.append("2026-01-01", b"{}\n");
        assert!(files.failing);
        fs::create_dir_all(&dir).unwrap();
        files.append("2026-01-01", b"{}\n");
        assert!(!files.failing);
        assert_eq!(names(&dir), ["2026-01-01.0000.jsonl"]);
        fs::remove_dir_all(dir).unwrap();
    }
}
