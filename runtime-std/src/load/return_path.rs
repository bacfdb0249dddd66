//! `data_dir/return-path-keys`: the keys of return paths, for the owner only.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use relay_core::bounce::return_path::Keyring;

use super::files::{place_of, unreadable, write_atomically};
use super::{LoadError, Purpose, is_absent, system_rng};

const FILE: &str = "return-path-keys";
const MODE: u32 = 0o600;

pub(super) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE)
}

/// The keys; made if there are none and this is not only a look.
///
/// # Errors
/// They are there and cannot be used, or cannot be made. New ones in their place would disown every
/// bounce that is on its way.
pub(super) fn keys(data_dir: &Path, purpose: Purpose) -> Result<Option<Arc<Keyring>>, LoadError> {
    if let Some(keys) = read(data_dir)? {
        return Ok(Some(Arc::new(keys)));
    }
    if purpose == Purpose::Check {
        return Ok(None);
    }
    let keys = Keyring::generate(&mut system_rng()?);
    write(data_dir, &keys)?;
    Ok(Some(Arc::new(keys)))
}

/// The keys of a data directory; none if there are none.
///
/// # Errors
/// They are there and cannot be used.
pub fn read(data_dir: &Path) -> Result<Option<Keyring>, LoadError> {
    let path = path(data_dir);
    let error = |problem: String| LoadError::from(place_of(&path).error(problem, ""));
    match fs::read_to_string(&path) {
        Ok(text) => Keyring::parse(&text)
            .map(Some)
            .map_err(|why| error(why.to_string())),
        Err(why) if is_absent(&why) => Ok(None),
        Err(why) => Err(error(unreadable(&why))),
    }
}

/// Adds a key, which signs from the next start or reload on. Gives its number.
///
/// # Errors
/// The keys cannot be read or written; they are then as they were.
#[cfg(feature = "cli")]
pub fn rotate(data_dir: &Path) -> Result<u16, LoadError> {
    let locked = super::credentials::lock(data_dir);
    let _lock = locked.map_err(|why| failed(data_dir, &why))?;
    let mut rng = system_rng()?;
    let (keys, number) = match read(data_dir)? {
        None => (Keyring::generate(&mut rng), 1),
        Some(mut keys) => {
            let number = keys.rotate(&mut rng);
            (keys, number)
        }
    };
    write(data_dir, &keys)?;
    Ok(number)
}

fn write(data_dir: &Path, keys: &Keyring) -> Result<(), LoadError> {
    let written = write_atomically(&path(data_dir), keys.to_text().as_bytes(), MODE);
    written.map_err(|why| failed(data_dir, &why))
}

fn failed(data_dir: &Path, why: &io::Error) -> LoadError {
    let problem = format!("cannot be written: {why}");
    place_of(&path(data_dir)).error(problem, "").into()
}
