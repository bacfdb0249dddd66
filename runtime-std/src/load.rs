//! From files to a [`Config`] that runs: `relay.toml`, credentials, certificates, passwords, and what the
//! system says where they are silent.
//!
//! ```text
//!  Options ─▶ relay.toml ─▶ Draft ─▶ data_dir, credentials.toml ─▶ Parsed ─▶ certificates, passwords ─▶ Loaded
//!                │                                                                      │
//!                └────── all that is wrong, with file, line and key ────────────────────┴──▶ LoadError
//! ```
//!
//! The same for a start, for a reload, and for `check`, which makes nothing. What a start makes in
//! `data_dir`, each with mode 0600 and in one step: `credentials.toml` (on a first run without a
//! configuration), `self-signed-key.pem` and `self-signed-cert.pem` (if no certificate is named), and
//! `decoy-key`, and `return-path-keys`.

pub mod credentials;
#[cfg(feature = "cli")]
pub mod domains;
mod files;
pub mod return_path;
mod system;
mod tls;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use relay_core::channel::{ClientTls, ServerTls};
use relay_core::config::{
    Config, ConfigError, Credential, Draft, FileUse, FileWanted, Parsed, Place, Verifier,
};
use relay_core::rng::Rng;
use relay_core::sasl;

pub(crate) use files::write_atomically;

pub use system::system;

/// The configuration that is read if none is named and it is there.
pub const CONFIG_FILE: &str = "relay.toml";

/// The credential that a first run without a configuration makes.
pub const FIRST_CREDENTIAL: &str = "app";

/// What the command line says.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `--config`; none for [`CONFIG_FILE`] if it is there, and else for the embedded default.
    pub config: Option<PathBuf>,
    /// `--data-dir`, which comes before the configuration.
    pub data_dir: Option<PathBuf>,
}

/// What the loading is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To run: what is missing in `data_dir` is made, and a first credential on a first run.
    Start,
    /// To go on with: what is missing in `data_dir` is made.
    Reload,
    /// To look at: nothing is made.
    Check,
}

/// All that a relay needs to run.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration, complete.
    pub config: Arc<Config>,
    /// The certificate of the listeners.
    pub tls: Arc<ServerTls>,
    /// The same for each listener that asks clients for certificates.
    pub listener_tls: Vec<Option<Arc<ServerTls>>>,
    /// The roots that receivers are judged by.
    pub client_tls: Arc<ClientTls>,
    /// What is allowed and probably not meant, one a line.
    pub warnings: Vec<String>,
    /// The `relay.toml`; none for the embedded default.
    pub file: Option<PathBuf>,
    /// The credential that was made because there was none.
    pub first_run: Option<FirstRun>,
}

impl Loaded {
    /// The TLS of the listener with this index.
    #[must_use]
    pub fn tls_of(&self, listener: usize) -> Arc<ServerTls> {
        let own = self.listener_tls.get(listener).and_then(Option::as_ref);
        Arc::clone(own.unwrap_or(&self.tls))
    }

    /// Takes another configuration, whose listeners may stand in another order.
    pub(crate) fn arranged(self, config: Config) -> Result<Self, LoadError> {
        let listener_tls = tls::of_listeners(&self.tls, &config)?;
        Ok(Self {
            config: Arc::new(config),
            listener_tls,
            ..self
        })
    }
}

/// A credential that was made. Its secret is kept nowhere: show it once.
#[derive(Clone, PartialEq, Eq)]
pub struct FirstRun {
    /// The user's name.
    pub name: String,
    /// The password.
    pub secret: String,
}

impl fmt::Debug for FirstRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FirstRun")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Everything that is wrong: a line each when displayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadError(pub Vec<ConfigError>);

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.0.iter().enumerate() {
            let end = if at + 1 == self.0.len() { "" } else { "\n" };
            write!(f, "{error}{end}")?;
        }
        Ok(())
    }
}

impl std::error::Error for LoadError {}

impl From<ConfigError> for LoadError {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

/// Loads what the options name.
///
/// # Errors
/// Everything that is wrong, with file, line, key and what is allowed. Nothing is in use then.
pub fn load(options: &Options, purpose: Purpose) -> Result<Loaded, LoadError> {
    let (mut draft, file) = draft(options)?;
    let data_dir = draft.data_dir().to_owned();
    let data_dir_place = draft.data_dir_place().clone();
    let nobody = draft.so_far().credentials.is_empty();
    files::note_unreadable(&mut draft);
    // A configuration that is wrong makes nothing on the disk.
    let mut parsed = draft.finish().map_err(LoadError)?;
    let mut first_run = None;
    if purpose == Purpose::Check {
        files::check_directory(&data_dir, &data_dir_place)?;
    } else {
        files::make_directory(&data_dir, &data_dir_place)?;
        if nobody && file.is_none() && purpose == Purpose::Start {
            let (made, credential) = first_credential(&data_dir)?;
            parsed.config.credentials.push(Arc::new(credential));
            first_run = Some(made);
        }
    }
    parsed
        .warnings
        .extend(files::open_to_others(&data_dir, &data_dir_place));
    if nobody && first_run.is_none() {
        parsed.warnings.push(
            "no credential: nobody can send mail; make one with `smtp-relay credential add`"
                .to_owned(),
        );
    }
    let loaded = complete(parsed, purpose)?;
    Ok(Loaded {
        file,
        first_run,
        ..loaded
    })
}

/// Loads what a configuration names that a program made: certificates, passwords, and what is missing
/// in `data_dir`. Without a name server in it, those of the system are asked.
///
/// # Errors
/// Everything that is wrong.
pub fn from_config(mut config: Config) -> Result<Loaded, LoadError> {
    if config.dns.servers.is_empty() {
        config.dns.servers = system(None).dns_servers;
    }
    let place = |key: &str| Place {
        file: "Config".to_owned(),
        line: None,
        key: key.to_owned(),
    };
    files::make_directory(&config.data_dir, &place("data_dir"))?;
    let mut files = Vec::new();
    let mut want = |path: &Path, used_for, key| {
        files.push(FileWanted {
            path: path.to_owned(),
            used_for,
            place: place(key),
        });
    };
    if let Some(tls) = &config.tls {
        want(&tls.certificate, FileUse::Certificate, "tls.certificate");
        want(&tls.key, FileUse::Key, "tls.key");
    }
    if let Some(path) = &config.delivery.ca_file {
        want(path, FileUse::CaFile, "delivery.ca_file");
    }
    for (index, listener) in config.listeners.iter().enumerate() {
        if let Some(asked) = &listener.client_certificates
            && asked.roots.is_empty()
        {
            want(
                &asked.ca_file,
                FileUse::ClientCa(index),
                "listener.client_ca",
            );
        }
    }
    for (index, route) in config.routes.iter().enumerate() {
        if let (Some(path), None) = (&route.password_file, &route.password) {
            want(path, FileUse::RoutePassword(index), "route.password_file");
        }
    }
    for (index, domain) in config.domains.iter().enumerate() {
        for (at, key) in domain.keys.iter().enumerate() {
            if key.key.is_some() {
                continue;
            }
            want(
                &key.key_file,
                FileUse::DkimKey(index, at),
                "domain.dkim.key_file",
            );
        }
    }
    complete(
        Parsed {
            config,
            files,
            warnings: Vec::new(),
        },
        Purpose::Start,
    )
}

/// When the files that commands and other programs change were last changed: certificate and key, the
/// domains of `domain add`, the keys of signatures and return paths. If this differs, load again.
#[must_use]
pub fn changed_at(config: &Config) -> Vec<(PathBuf, Option<SystemTime>)> {
    let tls = config.tls.iter();
    let tls = tls.flat_map(|tls| [tls.certificate.clone(), tls.key.clone()]);
    let asked = config.listeners.iter();
    let asked = asked.filter_map(|listener| listener.client_certificates.as_ref());
    let keys = config.domains.iter().flat_map(|domain| &domain.keys);
    let kept = [
        domains_path(&config.data_dir),
        return_path::path(&config.data_dir),
    ];
    tls.chain(kept)
        .chain(asked.map(|asked| asked.ca_file.clone()))
        .chain(keys.map(|key| key.key_file.clone()))
        .map(|path| {
            let data = std::fs::metadata(&path);
            let changed = data.and_then(|data| data.modified()).ok();
            (path, changed)
        })
        .collect()
}

/// What the files say, without a verdict on it, and the `relay.toml` if there is one.
///
/// # Errors
/// `relay.toml` cannot be read.
pub fn draft(options: &Options) -> Result<(Draft, Option<PathBuf>), LoadError> {
    let system = system(options.data_dir.clone());
    let file = config_file(options);
    let mut draft = match &file {
        Some(path) => Draft::parse(
            &files::read_text(path)?,
            &path.display().to_string(),
            &system,
        ),
        None => Draft::embedded(&system),
    };
    add_stored(&mut draft, credentials::path, Draft::add_credentials);
    add_stored(&mut draft, domains_path, Draft::add_domains);
    Ok((draft, file))
}

/// Makes the data directory of a draft, for its owner only, if it is not there.
///
/// # Errors
/// It cannot be made, or not be used.
pub fn make_data_dir(draft: &Draft) -> Result<(), LoadError> {
    files::make_directory(draft.data_dir(), draft.data_dir_place())
}

fn config_file(options: &Options) -> Option<PathBuf> {
    let usual = || Some(PathBuf::from(CONFIG_FILE)).filter(|path| path.exists());
    options.config.clone().or_else(usual)
}

/// Where the domains of `domain add` are.
#[must_use]
pub fn domains_path(data_dir: &Path) -> PathBuf {
    data_dir.join("domains.toml")
}

/// A file that commands keep in the data directory, if it is there.
fn add_stored(draft: &mut Draft, path: fn(&Path) -> PathBuf, add: fn(&mut Draft, &str, &str)) {
    let path = path(draft.data_dir());
    match std::fs::read_to_string(&path) {
        Ok(text) => add(draft, &text, &path.display().to_string()),
        // Without the directory there is none; that it cannot be made is told later.
        Err(error) if is_absent(&error) => {}
        Err(error) => draft.add_error(files::place_of(&path).error(files::unreadable(&error), "")),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn first_credential(data_dir: &Path) -> Result<(FirstRun, Credential), LoadError> {
    let mut credential = Credential::new(FIRST_CREDENTIAL);
    let secret = give_secret(&mut credential)?;
    credentials::add(data_dir, &credential).map_err(|error| {
        files::place_of(&credentials::path(data_dir)).error(error.to_string(), "")
    })?;
    Ok((
        FirstRun {
            name: credential.name.clone(),
            secret,
        },
        credential,
    ))
}

/// Gives a credential a new random password, and returns it.
///
/// # Errors
/// The system gives no randomness.
pub fn give_secret(credential: &mut Credential) -> Result<String, LoadError> {
    let mut rng = system_rng()?;
    let secret = sasl::generate_password(&mut rng);
    let mut salt = [0; sasl::SALT_LEN];
    rng.fill(&mut salt);
    credential.verifier = Some(Verifier::derive(&secret, salt, sasl::ITERATIONS_DEFAULT));
    Ok(secret)
}

/// A generator seeded by the system.
///
/// # Errors
/// The system gives no randomness.
pub fn system_rng() -> Result<Rng, LoadError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| {
        let place = Place {
            file: "system".to_owned(),
            line: None,
            key: String::new(),
        };
        place.error(format!("gives no random numbers: {error}"), "")
    })?;
    Ok(Rng::new(seed))
}

/// Reads what the configuration names, and takes what is missing from `data_dir`.
fn complete(parsed: Parsed, purpose: Purpose) -> Result<Loaded, LoadError> {
    let Parsed {
        mut config,
        files,
        mut warnings,
    } = parsed;
    let mut errors = Vec::new();
    let mut keep = |result: Result<(), ConfigError>| {
        if let Err(error) = result {
            errors.push(error);
        }
    };
    let mut tls = tls::Material::default();
    for file in &files {
        keep(read_wanted(file, &mut config, &mut tls, &mut warnings));
    }
    if !errors.is_empty() {
        return Err(LoadError(errors));
    }
    let server = match purpose {
        _ if config.tls.is_some() => tls.server()?,
        Purpose::Check => tls::self_signed_in_memory(&config.hostname)?,
        Purpose::Start | Purpose::Reload => {
            tls::self_signed(&config.data_dir, &config.hostname, &mut warnings)?
        }
    };
    let client_tls = tls.client()?;
    if config.decoy_key.is_none() {
        config.decoy_key = files::decoy_key(&config.data_dir, purpose)?;
    }
    if config.return_path_keys.is_none() {
        config.return_path_keys = return_path::keys(&config.data_dir, purpose)?;
    }
    let listener_tls = tls::of_listeners(&server, &config)?;
    warnings.extend(relay_core::tlsrpt::unsigned(&config));
    Ok(Loaded {
        config: Arc::new(config),
        tls: server,
        listener_tls,
        client_tls,
        warnings,
        file: None,
        first_run: None,
    })
}

fn read_wanted(
    file: &FileWanted,
    config: &mut Config,
    tls: &mut tls::Material,
    warnings: &mut Vec<String>,
) -> Result<(), ConfigError> {
    match file.used_for {
        FileUse::Certificate => tls.certificate(file),
        FileUse::Key => tls.key(file, warnings),
        FileUse::CaFile => tls.roots(file),
        FileUse::RoutePassword(index) => {
            let password = files::read_password(file, warnings)?;
            config.routes[index].password = Some(password);
            Ok(())
        }
        // The delivery reads it again: here it is only looked at.
        FileUse::RouteToken(_) => {
            files::warn_if_readable(file, warnings);
            crate::tokens::read_file(&file.path)
                .map(drop)
                .map_err(|why| files::problem(file, &why))
        }
        FileUse::ClientCa(index) => {
            let roots = tls::certificates(file)?;
            if let Some(asked) = &mut config.listeners[index].client_certificates {
                asked.roots = roots;
            }
            Ok(())
        }
        FileUse::AdminToken => {
            let token = files::read_token(file, warnings)?;
            config.admin_token = Some(token);
            Ok(())
        }
        FileUse::DkimKey(index, at) => {
            let key = tls::signing_key(file, warnings)?;
            let domain = Arc::make_mut(&mut config.domains[index]);
            domain.keys[at].key = Some(key);
            Ok(())
        }
    }
}
