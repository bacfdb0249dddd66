//! From `relay.toml` and `credentials.toml` to a [`Config`], or to everything that is wrong with them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use smtp_proto::Domain;

use super::read::{Place, Reader, Section};
use super::{Config, ConfigError, DomainPattern, route_sections, sections, sender_sections, value};

/// What the system says where the configuration is silent.
#[derive(Debug, Clone, Default)]
pub struct System {
    /// Its name.
    pub hostname: Option<String>,
    /// Its resolvers; empty for 127.0.0.1:53.
    pub dns_servers: Vec<SocketAddr>,
    /// `--data-dir`, which comes before the configuration.
    pub data_dir: Option<PathBuf>,
}

/// Where data is kept if nobody says so.
const DATA_DIR: &str = "relay-data";

/// A configuration that is not complete yet, with the errors so far.
#[derive(Debug)]
pub struct Draft {
    pub(super) config: Config,
    pub(super) files: Vec<FileWanted>,
    pub(super) errors: Vec<ConfigError>,
    pub(super) warnings: Vec<String>,
    /// Names that must be credentials, and where they stand.
    pub(super) references: Vec<(String, Place)>,
    /// Routes that need a domain whose keys seal, and where that is said.
    pub(super) forwards: Vec<(DomainPattern, Place)>,
    /// Where DANE is demanded.
    pub(super) danes: Vec<Place>,
    /// The credentials that were read, and where they stand.
    pub(super) credentials: Vec<Place>,
    data_dir_place: Place,
}

/// A configuration without an error.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// The configuration. What `files` names is not in it yet.
    pub config: Config,
    /// The files that it names.
    pub files: Vec<FileWanted>,
    /// What is allowed and probably not meant.
    pub warnings: Vec<String>,
}

/// A file that the configuration names, and that someone must read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileWanted {
    /// Where it is: relative paths are joined to the directory of the configuration.
    pub path: PathBuf,
    /// What it is for.
    pub used_for: FileUse,
    /// Where it is named, for errors about it.
    pub place: Place,
}

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileUse {
    /// `tls.certificate`
    Certificate,
    /// `tls.key`
    Key,
    /// `delivery.ca_file`
    CaFile,
    /// `route.password_file` of the route with this index.
    RoutePassword(usize),
    /// `route.token_file` of the route with this index: it is read again at each login.
    RouteToken(usize),
    /// `listener.client_ca` of the listener with this index.
    ClientCa(usize),
    /// `admin.token_file`
    AdminToken,
    /// `domain.dkim.key_file`: of the domain with this index, the key with that.
    DkimKey(usize, usize),
}

impl Draft {
    /// Reads a `relay.toml`. `file` is its path as it is to be named in errors.
    #[must_use]
    pub fn parse(text: &str, file: &str, system: &System) -> Self {
        let (reader, table) = Reader::parse(file, text);
        let root = Section::root(&reader, &table);
        let directory = Path::new(file).parent().unwrap_or(Path::new(""));
        let mut draft = Self::empty(system);
        draft.read(&root, directory, system);
        root.finish();
        draft.errors = reader.into_errors();
        draft
    }

    /// What runs without a `relay.toml`: [`Config::embedded`].
    #[must_use]
    pub fn embedded(system: &System) -> Self {
        let mut draft = Self::empty(system);
        let Config {
            hostname,
            data_dir,
            dns,
            ..
        } = draft.config;
        draft.config = Config {
            dns,
            ..Config::embedded(hostname, data_dir)
        };
        draft
    }

    fn empty(system: &System) -> Self {
        let data_dir = system.data_dir.clone().unwrap_or_else(|| DATA_DIR.into());
        let mut config = Config::new(system_hostname(system), data_dir);
        if !system.dns_servers.is_empty() {
            config.dns.servers.clone_from(&system.dns_servers);
        }
        Self {
            config,
            files: Vec::new(),
            errors: Vec::new(),
            warnings: Vec::new(),
            references: Vec::new(),
            forwards: Vec::new(),
            danes: Vec::new(),
            credentials: Vec::new(),
            data_dir_place: Place {
                file: "--data-dir".to_owned(),
                line: None,
                key: String::new(),
            },
        }
    }

    /// Where the data is: `credentials.toml` is there.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.config.data_dir
    }

    /// Where the data directory is named, for errors about it.
    #[must_use]
    pub fn data_dir_place(&self) -> &Place {
        &self.data_dir_place
    }

    /// Adds the `[[credential]]`s of another file.
    pub fn add_credentials(&mut self, text: &str, file: &str) {
        let (reader, table) = Reader::parse(file, text);
        let root = Section::root(&reader, &table);
        self.read_credentials(&root);
        root.finish();
        self.errors.extend(reader.into_errors());
    }

    /// Adds the `[[domain]]`s of another file; paths in it are relative to its directory.
    pub fn add_domains(&mut self, text: &str, file: &str) {
        let (reader, table) = Reader::parse(file, text);
        let root = Section::root(&reader, &table);
        let directory = Path::new(file).parent().unwrap_or(Path::new(""));
        sender_sections::domains(self, &root, directory);
        root.finish();
        self.errors.extend(reader.into_errors());
    }

    /// The configuration as it was read so far. What was wrong has its default.
    #[must_use]
    pub fn so_far(&self) -> &Config {
        &self.config
    }

    /// The files that the configuration names.
    #[must_use]
    pub fn files(&self) -> &[FileWanted] {
        &self.files
    }

    /// Adds an error that was found elsewhere, so that all come out together.
    pub fn add_error(&mut self, error: ConfigError) {
        self.errors.push(error);
    }

    /// The configuration, when all that it refers to is there.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of files and lines.
    pub fn finish(mut self) -> Result<Parsed, Vec<ConfigError>> {
        for (name, place) in &self.references {
            if self.config.credential(name).is_none() {
                let known = self.config.credentials.iter().map(|c| c.name.as_str());
                let known: Vec<&str> = known.collect();
                let allowed = format!("the name of a [[credential]]: {}", known.join(", "));
                self.errors
                    .push(place.error(format!("there is no credential {name:?}"), &allowed));
            }
        }
        for (domain, place) in &self.forwards {
            if self.config.sealing_domain(domain).is_none() {
                let hostname = &self.config.hostname;
                let problem = format!(
                    "needs keys to seal with: no [[domain]] that is {hostname}, or above it, has any"
                );
                let allowed = "a [[domain]] with [[domain.dkim]], for the host or for the route";
                self.errors.push(place.error(problem, allowed));
            }
        }
        if !self.config.dns.trust_ad {
            let problem = "\"dane\" needs a resolver that says what is signed: no mail would leave";
            let allowed = "`trust_ad = true` in [dns], with a validating resolver on this host";
            let errors = self.danes.iter().map(|place| place.error(problem, allowed));
            self.errors.extend(errors);
        }
        for (credential, place) in self.config.credentials.iter().zip(&self.credentials) {
            let used = self
                .references
                .iter()
                .any(|(name, _)| *name == credential.name);
            let provable = credential.verifier.is_some() || !credential.certificates.is_empty();
            if !provable && !used {
                let text = place.error(
                    "has no verifier and no certificates: nobody can log in with it",
                    "",
                );
                self.warnings.push(text.to_string());
            }
        }
        self.warn_of_unasked_certificates();
        if !self.errors.is_empty() {
            return Err(in_order(self.errors));
        }
        Ok(Parsed {
            config: self.config,
            files: self.files,
            warnings: self.warnings,
        })
    }

    fn warn_of_unasked_certificates(&mut self) {
        let asked = |listener: &super::Listener| listener.client_certificates.is_some();
        if self.config.listeners.iter().any(asked) {
            return;
        }
        let pairs = self.config.credentials.iter().zip(&self.credentials);
        for (_, place) in pairs.filter(|(credential, _)| !credential.certificates.is_empty()) {
            let problem = "has certificates, and no [[listener]] has a client_ca to ask for them";
            self.warnings.push(place.error(problem, "").to_string());
        }
    }

    fn read(&mut self, root: &Section<'_, '_>, directory: &Path, system: &System) {
        if let Some(hostname) = root.value("hostname", &value::HOSTNAME) {
            self.config.hostname = hostname;
        }
        let data_dir = root.value("data_dir", &value::TEXT);
        if system.data_dir.is_none() {
            self.data_dir_place = root.place("data_dir");
            self.config.data_dir = directory.join(data_dir.as_deref().unwrap_or(DATA_DIR));
        }
        sections::listeners(self, root, directory);
        sections::tls(self, root, directory);
        self.read_credentials(root);
        sections::limits(self, root);
        sections::dns(self, root);
        sections::delivery(self, root, directory);
        sections::mta_sts(self, root);
        sections::tls_rpt(self, root);
        route_sections::routes(self, root, directory);
        sender_sections::domains(self, root, directory);
        sender_sections::preflight(self, root);
        sections::admin(self, root, directory);
    }

    fn read_credentials(&mut self, root: &Section<'_, '_>) {
        for section in root.sections("credential") {
            let credential = sections::credential(&section);
            let place = section.place("name");
            if let Some(credential) = credential {
                let same = self
                    .config
                    .credentials
                    .iter()
                    .position(|c| c.name == credential.name);
                if let Some(first) = same.and_then(|at| self.credentials.get(at)) {
                    let line = first.line.map_or(String::new(), |line| format!(":{line}"));
                    let problem = format!(
                        "{:?} is the name of another credential ({}{line})",
                        credential.name, first.file
                    );
                    section.error("name", problem, "a name that no other credential has");
                } else {
                    self.config.credentials.push(Arc::new(credential));
                    self.credentials.push(place);
                }
            }
            section.finish();
        }
    }
}

impl Config {
    /// Reads a `relay.toml` alone: [`Draft::parse`] and [`Draft::finish`].
    ///
    /// # Errors
    /// Everything that is wrong, in the order of lines.
    pub fn parse(text: &str, file: &str, system: &System) -> Result<Parsed, Vec<ConfigError>> {
        Draft::parse(text, file, system).finish()
    }
}

/// By file, in the order in which the files were read, and by line.
fn in_order(mut errors: Vec<ConfigError>) -> Vec<ConfigError> {
    let mut files: Vec<String> = Vec::new();
    for error in &errors {
        if !files.contains(&error.file) {
            files.push(error.file.clone());
        }
    }
    errors.sort_by_key(|error| {
        (
            files.iter().position(|file| *file == error.file),
            error.line,
        )
    });
    errors
}

/// The name of the system; `localhost` if it has none that can stand in EHLO.
fn system_hostname(system: &System) -> Domain {
    let name = system.hostname.as_deref().unwrap_or_default();
    let named = Domain::parse(name).or_else(|_| Domain::parse("localhost"));
    named.unwrap_or_else(|_| unreachable!("`localhost` is a domain"))
}
