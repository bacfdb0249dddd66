//! `data_dir/domains.toml`: the domains that `domain add` keeps, in the form of `relay.toml`, and their
//! keys in `data_dir/dkim/`. What a person wrote there, comments included, stays.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use relay_core::config::{KeyState, ReturnPathState};
use smtp_proto::Domain;
use toml_edit::{ArrayOfTables, DocumentMut, Item, Table};

use super::credentials::{lock, read};
use super::files::write_atomically;

const KEYS: &str = "dkim";
const RETURN_PATH_STATE: &str = "return_path_state";
const HEAD: &str =
    "# Kept by `smtp-relay domain`; the same [[domain]] sections as in relay.toml.\n\n";

/// Why nothing was changed.
#[derive(Debug)]
pub enum ChangeError {
    /// The domain is in the file already.
    Exists(String),
    /// The domain is not in the file.
    Unknown(String),
    /// The file is not one of domains.
    Malformed(String),
    /// No key could be made.
    Key(String),
    /// It cannot be read or written.
    Io(io::Error),
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists(name) => {
                write!(
                    f,
                    "there is a domain {name} already; `domain records {name}` prints its records"
                )
            }
            Self::Unknown(name) => write!(f, "{name} is not of `domain add`"),
            Self::Malformed(why) => write!(f, "domains.toml: {why}"),
            Self::Key(why) => write!(f, "no key can be made: {why}"),
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

/// Whether RSA keys can be made: the TLS library of a small build cannot.
pub const MAKES_RSA: bool = cfg!(feature = "aws-lc-rs");

/// Adds a domain with new keys and, if one is named, a return path, durably. Neither is used before its
/// records are in the DNS. The data directory must be there.
///
/// # Errors
/// [`ChangeError`]; the file is then as it was.
pub fn add(
    data_dir: &Path,
    domain: &Domain,
    return_path: Option<&Domain>,
) -> Result<(), ChangeError> {
    change(data_dir, |document| {
        if find(document, domain).is_some() {
            return Err(ChangeError::Exists(domain.to_string()));
        }
        let mut table = Table::new();
        table.insert("name", toml_edit::value(domain.as_str()));
        if let Some(path) = return_path {
            table.insert("return_path", toml_edit::value(path.as_str()));
            let state = ReturnPathState::Pending.to_string();
            table.insert(RETURN_PATH_STATE, toml_edit::value(state));
        }
        sections(document.as_table_mut(), "domain")?.push(table);
        make_keys(document, data_dir, domain, KeyState::Pending)
    })
}

/// Adds new keys to a domain, which do not sign yet.
///
/// # Errors
/// [`ChangeError`]; the file is then as it was.
pub fn add_pending(data_dir: &Path, domain: &Domain) -> Result<(), ChangeError> {
    change(data_dir, |document| {
        make_keys(document, data_dir, domain, KeyState::Pending)
    })
}

/// Lets the keys that are pending sign, and those that signed sign no more. Without one that is pending,
/// nothing changes.
///
/// # Errors
/// [`ChangeError`]; the file is then as it was.
pub fn switch(data_dir: &Path, domain: &Domain) -> Result<(), ChangeError> {
    change(data_dir, |document| {
        let keys = sections(section(document, domain)?, KEYS)?;
        let is_pending = |key: &Table| key.get("state").and_then(Item::as_str) == Some("pending");
        if !keys.iter().any(is_pending) {
            return Ok(());
        }
        for key in keys.iter_mut() {
            let state = match key.get("state").and_then(Item::as_str) {
                Some("pending") => KeyState::Signing,
                Some("retired") => continue,
                _ => KeyState::Retired,
            };
            key.insert("state", toml_edit::value(state.to_string()));
        }
        Ok(())
    })
}

/// Uses the return path of a domain from now on.
///
/// # Errors
/// [`ChangeError`]; the file is then as it was.
pub fn use_return_path(data_dir: &Path, domain: &Domain) -> Result<(), ChangeError> {
    change(data_dir, |document| {
        let state = ReturnPathState::Active.to_string();
        section(document, domain)?.insert(RETURN_PATH_STATE, toml_edit::value(state));
        Ok(())
    })
}

/// Reads, changes and writes the file while nobody else does.
fn change(
    data_dir: &Path,
    edit: impl FnOnce(&mut DocumentMut) -> Result<(), ChangeError>,
) -> Result<(), ChangeError> {
    let path = super::domains_path(data_dir);
    let _lock = lock(data_dir)?;
    let text = read(&path)?;
    let mut document: DocumentMut = text.parse().map_err(malformed)?;
    edit(&mut document)?;
    let head = if text.is_empty() { HEAD } else { "" };
    let text = format!("{head}{document}");
    Ok(write_atomically(&path, text.as_bytes(), 0o600)?)
}

fn malformed(error: toml_edit::TomlError) -> ChangeError {
    ChangeError::Malformed(error.to_string())
}

fn sections<'t>(table: &'t mut Table, key: &str) -> Result<&'t mut ArrayOfTables, ChangeError> {
    table
        .entry(key)
        .or_insert(Item::ArrayOfTables(ArrayOfTables::new()))
        .as_array_of_tables_mut()
        .ok_or_else(|| ChangeError::Malformed(format!("`{key}` is not a [[section]]")))
}

fn find(document: &DocumentMut, domain: &Domain) -> Option<usize> {
    let named = |table: &Table| {
        let name = table.get("name").and_then(Item::as_str);
        name.is_some_and(|name| name.eq_ignore_ascii_case(domain.as_str()))
    };
    let tables = document.get("domain")?.as_array_of_tables()?;
    tables.iter().position(named)
}

fn section<'d>(
    document: &'d mut DocumentMut,
    domain: &Domain,
) -> Result<&'d mut Table, ChangeError> {
    let unknown = || ChangeError::Unknown(domain.to_string());
    let at = find(document, domain).ok_or_else(unknown)?;
    let tables = sections(document.as_table_mut(), "domain")?;
    tables.get_mut(at).ok_or_else(unknown)
}

/// Makes an RSA and an Ed25519 key with selectors that this domain never had.
fn make_keys(
    document: &mut DocumentMut,
    data_dir: &Path,
    domain: &Domain,
    state: KeyState,
) -> Result<(), ChangeError> {
    let directory = data_dir.join(KEYS);
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(&directory)?;
    let keys = sections(section(document, domain)?, KEYS)?;
    let number = 1 + keys.iter().filter_map(number_of).max().unwrap_or(0);
    for (kind, pem) in generate()? {
        let selector = format!("{kind}{number}");
        let file = format!("{}.{selector}.pem", domain.as_str().to_ascii_lowercase());
        write_atomically(&directory.join(&file), pem.as_bytes(), 0o600)?;
        let mut key = Table::new();
        key.insert("selector", toml_edit::value(selector));
        key.insert("key_file", toml_edit::value(format!("{KEYS}/{file}")));
        key.insert("state", toml_edit::value(state.to_string()));
        keys.push(key);
    }
    Ok(())
}

/// The number at the end of a key's selector.
fn number_of(key: &Table) -> Option<u32> {
    let selector = key.get("selector")?.as_str()?;
    selector.trim_start_matches(['r', 'e']).parse().ok()
}

/// New keys as PEM, each with the letter that its selector begins with.
fn generate() -> Result<Vec<(char, String)>, ChangeError> {
    let failed = |error: rcgen::Error| ChangeError::Key(error.to_string());
    let keys = [
        #[cfg(feature = "aws-lc-rs")]
        (
            'r',
            rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)
                .map_err(failed)?,
        ),
        (
            'e',
            rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).map_err(failed)?,
        ),
    ];
    Ok(keys
        .into_iter()
        .map(|(kind, key)| (kind, key.serialize_pem()))
        .collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use relay_core::config::SigningDomain;

    use super::*;
    use crate::load::{Options, Purpose, load};

    #[test]
    fn keys_are_made_wait_sign_and_retire() {
        let name = format!("relay-domains-{}", std::process::id());
        let data_dir = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&data_dir);
        fs::create_dir(&data_dir).unwrap();
        let options = Options {
            config: None,
            data_dir: Some(data_dir.clone()),
        };
        let kept = || -> Vec<String> {
            let config = load(&options, Purpose::Check).unwrap().config;
            let of = |domain: &SigningDomain| -> Vec<String> {
                let keys = domain.keys.iter();
                let text = |key: &relay_core::config::DkimKey| {
                    assert!(key.key.is_some());
                    format!("{}/{} {}", domain.name, key.selector, key.state)
                };
                keys.map(text).collect()
            };
            config
                .domains
                .iter()
                .flat_map(|domain| of(domain))
                .collect()
        };
        let (one, two): (Domain, Domain) = (
            "one.example".parse().unwrap(),
            "Two.example".parse().unwrap(),
        );
        let path = "bounces.one.example".parse().unwrap();
        add(&data_dir, &one, Some(&path)).unwrap();
        add(&data_dir, &two, None).unwrap();
        let again = add(&data_dir, &"two.EXAMPLE".parse().unwrap(), None);
        assert!(matches!(again, Err(ChangeError::Exists(_))));
        let unknown = add_pending(&data_dir, &"three.example".parse().unwrap());
        assert!(matches!(unknown, Err(ChangeError::Unknown(_))));
        let path_state = || {
            let config = load(&options, Purpose::Check).unwrap().config;
            config.domains[0].return_path.clone().map(|path| path.state)
        };
        let keys = |number: u8, state: &str| {
            let kinds = if MAKES_RSA { &["r", "e"][..] } else { &["e"] };
            let line = |kind: &&str| format!("one.example/{kind}{number} {state}");
            kinds.iter().map(line).collect::<Vec<_>>()
        };
        let of_one = || {
            let mut kept = kept();
            kept.retain(|line| line.starts_with("one"));
            kept
        };
        assert_eq!(of_one(), keys(1, "pending"));
        assert_eq!(path_state(), Some(ReturnPathState::Pending));
        use_return_path(&data_dir, &one).unwrap();
        assert_eq!(path_state(), Some(ReturnPathState::Active));
        switch(&data_dir, &one).unwrap();
        add_pending(&data_dir, &one).unwrap();
        assert_eq!(of_one(), [keys(1, "signing"), keys(2, "pending")].concat());
        switch(&data_dir, &one).unwrap();
        assert_eq!(of_one(), [keys(1, "retired"), keys(2, "signing")].concat());
        switch(&data_dir, &one).unwrap();
        assert_eq!(of_one(), [keys(1, "retired"), keys(2, "signing")].concat());
        add_pending(&data_dir, &one).unwrap();
        switch(&data_dir, &one).unwrap();
        let retired = [keys(1, "retired"), keys(2, "retired")].concat();
        assert_eq!(of_one(), [retired, keys(3, "signing")].concat());
        assert!(
            kept().contains(&"two.example/e1 pending".to_owned()),
            "{:?}",
            kept()
        );
        let mode = |name: &str| {
            fs::metadata(data_dir.join(name))
                .unwrap()
                .permissions()
                .mode()
        };
        assert_eq!(mode("dkim/one.example.e1.pem") & 0o777, 0o600);
        assert_eq!(mode("dkim") & 0o777, 0o700);
        let text = fs::read_to_string(data_dir.join("domains.toml")).unwrap();
        assert!(text.starts_with(HEAD), "{text}");
        fs::remove_dir_all(&data_dir).unwrap();
    }
}
