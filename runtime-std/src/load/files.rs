//! Reading and writing the small files of a relay, with errors that name them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use relay_core::config::{ConfigError, Draft, FileWanted, Place, Secret};

use super::{LoadError, Purpose, is_absent, system_rng};

/// The largest file that is read whole.
const FILE_MAX: u64 = 16 << 20;
const PASSWORD_MAX: usize = 1024;
const TOKEN_MIN: usize = 16;
const DECOY_KEY: &str = "decoy-key";

/// A place that is a whole file.
pub(super) fn place_of(path: &Path) -> Place {
    Place {
        file: path.display().to_string(),
        line: None,
        key: String::new(),
    }
}

pub(super) fn unreadable(error: &io::Error) -> String {
    format!("cannot be read: {error}")
}

/// The text of a file that must be there.
pub(super) fn read_text(path: &Path) -> Result<String, LoadError> {
    let error = |problem: String| place_of(path).error(problem, "");
    let bytes = read(path).map_err(|why| error(unreadable(&why)))?;
    Ok(String::from_utf8(bytes).map_err(|_| error("is not UTF-8".to_owned()))?)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let data = fs::metadata(path)?;
    if !data.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    if data.len() > FILE_MAX {
        return Err(io::Error::other(format!(
            "it has more than {FILE_MAX} octets"
        )));
    }
    fs::read(path)
}

/// The bytes of a file that a start makes if it is not there; then none.
///
/// # Errors
/// It is there, and cannot be read now. Another in its place would be unknown to those who know this one.
pub(super) fn read_made(path: &Path) -> Result<Option<Vec<u8>>, LoadError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(why) if is_absent(&why) => Ok(None),
        Err(why) => Err(place_of(path).error(unreadable(&why), "").into()),
    }
}

/// The bytes of a file that the configuration names.
pub(super) fn read_wanted(file: &FileWanted) -> Result<Vec<u8>, ConfigError> {
    read(&file.path).map_err(|error| problem(file, &unreadable(&error)))
}

/// Adds an error for each file that is named and cannot be read, so that all errors come out at once.
pub(super) fn note_unreadable(draft: &mut Draft) {
    let unreadable: Vec<_> = draft
        .files()
        .iter()
        .filter_map(|file| read_wanted(file).err())
        .collect();
    for error in unreadable {
        draft.add_error(error);
    }
}

/// What is wrong with a file that the configuration names.
pub(super) fn problem(file: &FileWanted, what: &str) -> ConfigError {
    file.place
        .error(format!("{} {what}", file.path.display()), "")
}

/// Warns if others than the owner can read a secret.
pub(super) fn warn_if_readable(file: &FileWanted, warnings: &mut Vec<String>) {
    let mode = fs::metadata(&file.path).map_or(0, |data| data.mode());
    if mode & 0o007 != 0 {
        let text = problem(
            file,
            "is open to every user of this system; make it mode 0600",
        );
        warnings.push(text.to_string());
    }
}

/// The password in a file: its first line.
pub(super) fn read_password(
    file: &FileWanted,
    warnings: &mut Vec<String>,
) -> Result<String, ConfigError> {
    let bytes = read_wanted(file)?;
    warn_if_readable(file, warnings);
    let text = String::from_utf8(bytes).map_err(|_| problem(file, "is not UTF-8"))?;
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    if password.is_empty() || password.len() > PASSWORD_MAX || password.contains(char::is_control) {
        let what = format!("does not hold a password: one line of 1 to {PASSWORD_MAX} octets");
        return Err(problem(file, &what));
    }
    Ok(password.to_owned())
}

/// The token in a file: as a password, and long enough that nobody guesses it.
pub(super) fn read_token(
    file: &FileWanted,
    warnings: &mut Vec<String>,
) -> Result<Secret, ConfigError> {
    let token = read_password(file, warnings)?;
    if token.len() < TOKEN_MIN || !token.bytes().all(|octet| octet.is_ascii_graphic()) {
        let what = format!(
            "does not hold a token: one line of at least {TOKEN_MIN} printable characters without \
             spaces, such as `openssl rand -hex 24` writes"
        );
        return Err(problem(file, &what));
    }
    Ok(Secret::new(&token))
}

/// Makes the data directory, for its owner only.
pub(super) fn make_directory(path: &Path, place: &Place) -> Result<(), LoadError> {
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path);
    if let Err(error) = made {
        let problem = format!("{} cannot be made: {error}", path.display());
        return Err(place
            .error(problem, "a directory that this user may write")
            .into());
    }
    check_directory(path, place)
}

/// A warning if others may put files of theirs into the data directory: credentials, keys.
pub(super) fn open_to_others(path: &Path, place: &Place) -> Option<String> {
    let mode = fs::metadata(path).map_or(0, |data| data.mode());
    let problem = format!(
        "{} may be written by others; make it mode 0700",
        path.display()
    );
    (mode & 0o022 != 0).then(|| place.error(problem, "").to_string())
}

/// Checks that the data directory, if it is there, is one that we may use.
pub(super) fn check_directory(path: &Path, place: &Place) -> Result<(), LoadError> {
    use rustix::fs::Access;
    let problem = match fs::metadata(path) {
        Ok(data) if !data.is_dir() => "is not a directory".to_owned(),
        Ok(_) => {
            let all = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
            match rustix::fs::access(path, all) {
                Ok(()) => return Ok(()),
                Err(error) => format!("cannot be used: {}", io::Error::from(error)),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => unreadable(&error),
    };
    let problem = format!("{} {problem}", path.display());
    Err(place
        .error(problem, "a directory that this user may read and write")
        .into())
}

/// Writes a file so that it is there whole, durably, or as it was before: a new file beside it, synced,
/// then renamed over it, then the directory synced.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let beside = directory.join(name);
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(directory)?.sync_all()
    };
    // What a crash left behind under this name is of no use.
    let _ = fs::remove_file(&beside);
    write().inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })
}

/// The key of decoys: made at the first start, so that unknown users look the same after a restart.
pub(super) fn decoy_key(data_dir: &Path, purpose: Purpose) -> Result<Option<[u8; 32]>, LoadError> {
    let path: PathBuf = data_dir.join(DECOY_KEY);
    if let Some(key) = read_made(&path)?.and_then(|bytes| bytes.try_into().ok()) {
        return Ok(Some(key));
    }
    if purpose == Purpose::Check {
        return Ok(None);
    }
    let mut key = [0; 32];
    system_rng()?.fill(&mut key);
    write_atomically(&path, &key, 0o600).map_err(|error| {
        LoadError::from(place_of(&path).error(format!("cannot be written: {error}"), ""))
    })?;
    Ok(Some(key))
}
