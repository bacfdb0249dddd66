//! `data_dir/credentials.toml`: the credentials that `credential add` keeps, in the form of
//! `relay.toml`. What a person wrote there, comments included, stays.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use relay_core::config::{Credential, Draft, System};
use rustix::fs::FlockOperation;

use super::files::write_atomically;

const FILE: &str = "credentials.toml";
const LOCK: &str = "credentials.lock";
const HEAD: &str =
    "# Kept by `smtp-relay credential`; the same [[credential]] sections as in relay.toml.\n";

/// Where the credentials of a data directory are.
#[must_use]
pub fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE)
}

/// Why the file was not changed.
#[derive(Debug)]
pub enum ChangeError {
    /// There is a credential of that name.
    Exists(String),
    /// There is no credential of that name in the file.
    Unknown(String),
    /// The file is not one of credentials; a line for each error.
    Malformed(String),
    /// It cannot be read or written.
    Io(io::Error),
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists(name) => write!(f, "there is a credential {name:?} already"),
            Self::Unknown(name) => write!(f, "there is no credential {name:?}"),
            Self::Malformed(errors) => f.write_str(errors),
            Self::Io(error) => write!(f, "cannot be changed: {error}"),
        }
    }
}

impl std::error::Error for ChangeError {}

impl From<io::Error> for ChangeError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The credentials in the file, in their order; none if there is no file.
///
/// # Errors
/// [`ChangeError::Malformed`] or [`ChangeError::Io`].
pub fn list(data_dir: &Path) -> Result<Vec<Credential>, ChangeError> {
    let path = path(data_dir);
    parse(&read(&path)?, &path)
}

/// Adds a credential at the end of the file, durably. The data directory must be there.
///
/// # Errors
/// [`ChangeError`]; the file is then as it was.
pub fn add(data_dir: &Path, credential: &Credential) -> Result<(), ChangeError> {
    let path = path(data_dir);
    let _lock = lock(data_dir)?;
    let mut text = read(&path)?;
    if parse(&text, &path)?
        .iter()
        .any(|known| known.name == credential.name)
    {
        return Err(ChangeError::Exists(credential.name.clone()));
    }
    if text.is_empty() {
        text.push_str(HEAD);
    } else if !text.ends_with('\n') {
        text.push('\n');
    }
    text.push('\n');
    text.push_str(&section(credential));
    // Whatever the name holds, what is written must read back.
    parse(&text, &path)?;
    Ok(write_atomically(&path, text.as_bytes(), 0o600)?)
}

/// Removes a credential from the file, durably.
///
/// # Errors
/// [`ChangeError`]; the file is then as it was.
#[cfg(feature = "cli")]
pub fn remove(data_dir: &Path, name: &str) -> Result<(), ChangeError> {
    let path = path(data_dir);
    let _lock = lock(data_dir)?;
    let text = read(&path)?;
    parse(&text, &path)?;
    let malformed = |error: toml_edit::TomlError| ChangeError::Malformed(error.to_string());
    let mut document: toml_edit::DocumentMut = text.parse().map_err(malformed)?;
    let tables = document
        .get_mut("credential")
        .and_then(|item| item.as_array_of_tables_mut());
    let unknown = || ChangeError::Unknown(name.to_owned());
    let tables = tables.ok_or_else(unknown)?;
    let named =
        |table: &toml_edit::Table| table.get("name").and_then(|item| item.as_str()) == Some(name);
    let at = tables.iter().position(named).ok_or_else(unknown)?;
    tables.remove(at);
    if tables.is_empty() {
        document.remove("credential");
    }
    Ok(write_atomically(
        &path,
        document.to_string().as_bytes(),
        0o600,
    )?)
}

pub(super) fn read(path: &Path) -> io::Result<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read,
    }
}

fn parse(text: &str, path: &Path) -> Result<Vec<Credential>, ChangeError> {
    let mut draft = Draft::embedded(&System::default());
    draft.add_credentials(text, &path.display().to_string());
    let parsed = draft.finish().map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        ChangeError::Malformed(lines.join("\n"))
    })?;
    Ok(parsed
        .config
        .credentials
        .iter()
        .map(|credential| (**credential).clone())
        .collect())
}

/// Held while the file is read and written, so that two commands at once do not lose one's change.
pub(super) fn lock(data_dir: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(data_dir.join(LOCK))?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
}

/// A `[[credential]]` section.
fn section(credential: &Credential) -> String {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let list = |items: Vec<String>| {
        items
            .iter()
            .map(|item| quoted(item))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut text = format!("[[credential]]\nname = {}\n", quoted(&credential.name));
    if let Some(verifier) = &credential.verifier {
        text.push_str(&format!("verifier = {}\n", quoted(&verifier.to_string())));
    }
    let senders = credential.senders.iter().map(ToString::to_string).collect();
    text.push_str(&format!("senders = [{}]\n", list(senders)));
    if credential.networks != Credential::new("").networks {
        let networks = credential
            .networks
            .iter()
            .map(ToString::to_string)
            .collect();
        text.push_str(&format!("networks = [{}]\n", list(networks)));
    }
    if let Some(rate) = credential.rate {
        text.push_str(&format!("rate = \"{rate}\"\n"));
    }
    text
}
