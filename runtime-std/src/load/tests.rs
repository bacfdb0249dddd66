use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use relay_core::config::SenderPattern;

use super::*;

/// A directory that is gone when this is.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("relay-load-test-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn data_dir(&self) -> PathBuf {
        self.0.join("data")
    }

    /// A `relay.toml` with these lines, whose data is in [`Directory::data_dir`].
    fn options(&self, lines: &str) -> Options {
        Options {
            config: Some(self.write("relay.toml", lines)),
            data_dir: Some(self.data_dir()),
        }
    }

    /// No `relay.toml`.
    fn embedded(&self) -> Options {
        Options {
            config: None,
            data_dir: Some(self.data_dir()),
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// The lines of the errors, without the directory.
fn errors(directory: &Directory, options: &Options) -> Vec<String> {
    let error = load(options, Purpose::Start).unwrap_err();
    let prefix = format!("{}/", directory.0.display());
    error
        .to_string()
        .lines()
        .map(|line| line.replace(&prefix, ""))
        .collect()
}

#[test]
fn a_first_run_makes_what_it_needs_and_shows_one_secret() {
    let directory = Directory::new();
    let loaded = load(&directory.embedded(), Purpose::Start).unwrap();
    let first = loaded.first_run.unwrap();
    let credential = loaded.config.credential(&first.name).unwrap();
    assert!(
        credential
            .verifier
            .as_ref()
            .unwrap()
            .verify_password(&first.secret)
    );
    assert_eq!(mode(&directory.data_dir()), 0o700);
    for file in [
        "credentials.toml",
        "self-signed-cert.pem",
        "self-signed-key.pem",
        "decoy-key",
        "return-path-keys",
    ] {
        assert_eq!(mode(&directory.data_dir().join(file)), 0o600, "{file}");
    }
    let stored = std::fs::read_to_string(directory.data_dir().join("credentials.toml")).unwrap();
    assert!(!stored.contains(&first.secret));

    // The next start finds all that, and shows nothing.
    let certificate = std::fs::read(directory.data_dir().join("self-signed-cert.pem")).unwrap();
    let again = load(&directory.embedded(), Purpose::Start).unwrap();
    assert_eq!(again.first_run, None);
    assert_eq!(again.config.credentials, loaded.config.credentials);
    assert_eq!(again.config.decoy_key, loaded.config.decoy_key);
    assert!(again.config.decoy_key.is_some());
    let keys = &again.config.return_path_keys;
    assert!(keys.is_some());
    assert_eq!(*keys, loaded.config.return_path_keys);
    let same = std::fs::read(directory.data_dir().join("self-signed-cert.pem")).unwrap();
    assert_eq!(same, certificate);
    assert_eq!(again.warnings, Vec::<String>::new());
}

/// Return paths that are on their way must verify at the next start.
#[test]
fn keys_of_return_paths_are_kept_and_never_replaced() {
    let directory = Directory::new();
    let options = directory.options("hostname = \"relay.example.com\"\n");
    let keys = |loaded: Loaded| loaded.config.return_path_keys.clone().unwrap();
    let first = keys(load(&options, Purpose::Start).unwrap());
    assert_eq!(return_path::rotate(&directory.data_dir()).unwrap(), 2);
    let second = keys(load(&options, Purpose::Reload).unwrap());
    assert_eq!(first.numbers().collect::<Vec<_>>(), [1]);
    assert_eq!(second.numbers().collect::<Vec<_>>(), [1, 2]);
    let file = directory.data_dir().join("return-path-keys");
    assert_eq!(mode(&file), 0o600);
    std::fs::write(&file, "1 damaged\n").unwrap();
    let error = load(&options, Purpose::Start).unwrap_err().to_string();
    assert!(
        error.contains("return-path-keys") && error.contains("line 1"),
        "{error}"
    );
    assert!(return_path::rotate(&directory.data_dir()).is_err());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "1 damaged\n");
}

#[test]
fn a_check_makes_nothing() {
    let directory = Directory::new();
    let loaded = load(&directory.embedded(), Purpose::Check).unwrap();
    assert_eq!(loaded.first_run, None);
    assert!(
        loaded.warnings[0].contains("credential add"),
        "{:?}",
        loaded.warnings
    );
    assert!(!directory.data_dir().exists());
}

#[test]
fn a_data_directory_that_others_may_write_is_told() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = Directory::new();
    load(&directory.embedded(), Purpose::Start).unwrap();
    let open = std::fs::Permissions::from_mode(0o775);
    std::fs::set_permissions(directory.data_dir(), open).unwrap();
    let warnings = load(&directory.embedded(), Purpose::Start)
        .unwrap()
        .warnings;
    assert!(
        warnings[0].contains("may be written by others"),
        "{warnings:?}"
    );
}

#[test]
fn a_configuration_that_is_wrong_makes_nothing_and_tells_all() {
    let directory = Directory::new();
    let text = "[tls]\ncertificate = \"none.pem\"\nkey = \"none.key\"\n[limits]\nrecipients = 0\n";
    let lines = errors(&directory, &directory.options(text));
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert!(lines[2].starts_with("relay.toml:5: limits.recipients: 0 is out of range; allowed:"));
    assert!(
        lines[0].starts_with("relay.toml:2: tls.certificate: none.pem cannot be read: No such")
    );
    assert!(
        lines[1].starts_with("relay.toml:3: tls.key: none.key cannot be read"),
        "{lines:#?}"
    );
    assert!(!directory.data_dir().exists());

    let missing = Options {
        config: Some(directory.0.join("no.toml")),
        data_dir: None,
    };
    let lines = errors(&directory, &missing);
    assert!(
        lines[0].starts_with("no.toml: cannot be read: No such file"),
        "{lines:#?}"
    );
    std::fs::write(directory.0.join("bad.toml"), b"hostname = \"\xff\"").unwrap();
    let bad = Options {
        config: Some(directory.0.join("bad.toml")),
        data_dir: None,
    };
    assert_eq!(errors(&directory, &bad), ["bad.toml: is not UTF-8"]);
}

#[test]
fn a_certificate_must_be_one_and_fit_its_key() {
    let directory = Directory::new();
    let pair = || {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["relay.example".to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    };
    let ((certificate, key), (_, other_key)) = (pair(), pair());
    directory.write("cert.pem", &certificate);
    directory.write("key.pem", &key);
    directory.write("other.pem", &other_key);
    directory.write("empty.pem", "");
    let with = |certificate: &str, key: &str| {
        directory.options(&format!(
            "[tls]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n"
        ))
    };
    let options = with("cert.pem", "key.pem");
    let loaded = load(&options, Purpose::Start).unwrap();
    assert!(!directory.data_dir().join("self-signed-cert.pem").exists());
    let before = changed_at(&loaded.config);
    let there = before.iter().filter(|(_, changed)| changed.is_some());
    assert_eq!(there.count(), 3, "certificate, key, keys of return paths");

    let lines = errors(&directory, &with("cert.pem", "other.pem"));
    assert_eq!(
        lines,
        [
            "relay.toml:3: tls.key: other.pem cannot be used: the key does not belong to the certificate"
        ]
    );
    let lines = errors(&directory, &with("key.pem", "cert.pem"));
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(
        lines[0].contains("key.pem holds no PEM certificate"),
        "{lines:#?}"
    );
    assert!(
        lines[1].contains("cert.pem holds no PEM private key"),
        "{lines:#?}"
    );
    let lines = errors(&directory, &with("empty.pem", "data"));
    assert!(
        lines
            .iter()
            .any(|line| line.contains("data cannot be read: it is not a file")),
        "{lines:#?}"
    );

    let options = with("cert.pem", "key.pem");
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(directory.0.join("key.pem"), open).unwrap();
    let warnings = load(&options, Purpose::Check).unwrap().warnings;
    assert!(
        warnings
            .iter()
            .any(|line| line.contains("make it mode 0600")),
        "{warnings:?}"
    );
}

#[test]
fn a_self_signed_certificate_that_is_broken_is_made_anew() {
    let directory = Directory::new();
    load(&directory.embedded(), Purpose::Start).unwrap();
    std::fs::write(directory.data_dir().join("self-signed-key.pem"), "nonsense").unwrap();
    let loaded = load(&directory.embedded(), Purpose::Reload).unwrap();
    assert!(
        loaded.warnings[0].contains("a new self-signed certificate"),
        "{:?}",
        loaded.warnings
    );
    assert_eq!(
        load(&directory.embedded(), Purpose::Start)
            .unwrap()
            .warnings,
        Vec::<String>::new()
    );
}

/// A disk that fails for a moment must not cost what others know of us.
#[test]
fn what_cannot_be_read_is_not_made_anew() {
    for name in ["self-signed-cert.pem", "self-signed-key.pem", "decoy-key"] {
        let directory = Directory::new();
        load(&directory.embedded(), Purpose::Start).unwrap();
        let path = directory.data_dir().join(name);
        std::fs::remove_file(&path).unwrap();
        // It is there, and reading it fails.
        std::os::unix::fs::symlink(name, &path).unwrap();
        let lines = errors(&directory, &directory.embedded());
        assert!(lines[0].contains(name), "{lines:?}");
        assert!(lines[0].contains("cannot be read"), "{lines:?}");
        assert!(path.is_symlink(), "{name}");
    }
}

#[test]
fn a_password_file_holds_one_line() {
    let directory = Directory::new();
    let options = directory.options(
        "[[route]]\ndomain = \"*\"\nhosts = [\"smart.example:587\"]\ntls = \"verify\"\n\
         username = \"u\"\npassword_file = \"secret\"\n",
    );
    for (text, password) in [
        ("hunter2\n", "hunter2"),
        (" with space \r\n", " with space "),
        ("x", "x"),
    ] {
        directory.write("secret", text);
        let loaded = load(&options, Purpose::Check).unwrap();
        assert_eq!(loaded.config.routes[0].password.as_deref(), Some(password));
    }
    for text in ["", "\n", "one\ntwo\n", "a\0b"] {
        directory.write("secret", text);
        let lines = errors(&directory, &options);
        assert!(lines[0].starts_with("relay.toml:6: route.password_file: secret does not hold"));
        assert!(!lines[0].contains("two"), "{lines:?}");
    }
}

#[test]
fn signing_keys_are_read_and_judged() {
    let directory = Directory::new();
    let made = |algorithm| {
        rcgen::KeyPair::generate_for(algorithm)
            .unwrap()
            .serialize_pem()
    };
    directory.write("e1.pem", &made(&rcgen::PKCS_ED25519));
    directory.write("p256.pem", &made(&rcgen::PKCS_ECDSA_P256_SHA256));
    directory.write("text.pem", "no key\n");
    let section = |file: &str| {
        let key = format!("[[domain.dkim]]\nselector = \"e1\"\nkey_file = \"{file}\"\n");
        directory.options(&format!("[[domain]]\nname = \"example.com\"\n{key}"))
    };
    let options = section("e1.pem");
    let first = load(&options, Purpose::Start).unwrap().config;
    let key = first.domains[0].keys[0].key.as_ref().unwrap();
    assert!(key.record().starts_with("v=DKIM1; k=ed25519; p="));

    // Another key in the same file is in force after a reload, and is told.
    directory.write("e1.pem", &made(&rcgen::PKCS_ED25519));
    let second = load(&options, Purpose::Reload).unwrap().config;
    assert_eq!(first.diff(&second), ["domain example.com: changed"]);

    for (file, words) in [
        (
            "p256.pem",
            "is a key of another kind; needed: RSA of 2048 bits or more, or Ed25519",
        ),
        ("text.pem", "holds no PEM private key"),
        ("absent.pem", "cannot be read: "),
    ] {
        let options = section(file);
        let errors = errors(&directory, &options);
        assert_eq!(errors.len(), 1, "{errors:?}");
        let place = "relay.toml:5: domain.dkim.key_file: ";
        assert!(
            errors[0].contains(place) && errors[0].contains(words),
            "{errors:?}"
        );
    }
}

#[test]
fn a_data_directory_that_cannot_be_used_is_an_error() {
    let directory = Directory::new();
    let file = directory.write("file", "");
    let options = Options {
        config: None,
        data_dir: Some(file.clone()),
    };
    let lines = errors(&directory, &options);
    assert!(
        lines[0].starts_with("--data-dir: file cannot be made"),
        "{lines:?}"
    );
    let error = load(&options, Purpose::Check).unwrap_err().to_string();
    assert!(error.contains("is not a directory"), "{error}");

    let below = format!("data_dir = \"{}\"\n", file.join("data").display());
    let config = directory.write("relay.toml", &below);
    let lines = errors(
        &directory,
        &Options {
            config: Some(config),
            data_dir: None,
        },
    );
    assert!(
        lines[0].starts_with("relay.toml:1: data_dir: file/data cannot be made"),
        "{lines:?}"
    );
}

#[test]
fn stored_credentials_are_added_listed_and_removed() {
    let directory = Directory::new();
    let data_dir = directory.0.clone();
    let path = credentials::path(&data_dir);
    assert_eq!(credentials::list(&data_dir).unwrap(), []);
    let mut odd = Credential::new("odd \"name\" \\ é");
    odd.senders = vec![
        SenderPattern::Domain("example.com".parse().unwrap()),
        SenderPattern::Address("\"a b\"@example.org".parse().unwrap()),
    ];
    odd.rate = Some(relay_core::config::Rate {
        count: 7,
        per: std::time::Duration::from_secs(90),
    });
    odd.networks = vec!["192.0.2.0/24".parse().unwrap()];
    give_secret(&mut odd).unwrap();
    credentials::add(&data_dir, &odd).unwrap();
    // What a person adds stays.
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}# mine")).unwrap();
    let plain = Credential::new("app");
    credentials::add(&data_dir, &plain).unwrap();
    assert_eq!(credentials::list(&data_dir).unwrap(), [odd.clone(), plain]);
    assert!(matches!(
        credentials::add(&data_dir, &odd),
        Err(credentials::ChangeError::Exists(_))
    ));
    credentials::remove(&data_dir, &odd.name).unwrap();
    assert!(matches!(
        credentials::remove(&data_dir, &odd.name),
        Err(credentials::ChangeError::Unknown(_))
    ));
    assert_eq!(credentials::list(&data_dir).unwrap().len(), 1);
    credentials::remove(&data_dir, "app").unwrap();
    assert_eq!(credentials::list(&data_dir).unwrap(), []);
    assert_eq!(mode(&path), 0o600);

    std::fs::write(&path, "[[credential]]\nname = 1").unwrap();
    let error = credentials::add(&data_dir, &Credential::new("b"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("credentials.toml:1: credential.senders"),
        "{error}"
    );
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        "[[credential]]\nname = 1"
    );
    // No file but these is left behind.
    let mut names: Vec<_> = std::fs::read_dir(&data_dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["credentials.lock", "credentials.toml"]);
}

#[test]
fn credentials_added_at_once_are_all_kept() {
    let directory = Directory::new();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let data_dir = &directory.0;
            scope.spawn(move || {
                credentials::add(data_dir, &Credential::new(&format!("c{n}"))).unwrap();
            });
        }
    });
    assert_eq!(credentials::list(&directory.0).unwrap().len(), 8);
}

#[test]
fn a_program_loads_its_own_configuration() {
    let directory = Directory::new();
    let mut config = Config::new("relay.example".parse().unwrap(), directory.data_dir());
    config.delivery.ca_file = Some(directory.0.join("roots.pem"));
    let error = from_config(config.clone()).unwrap_err().to_string();
    assert!(error.starts_with("Config: delivery.ca_file: "), "{error}");
    config.delivery.ca_file = None;
    let loaded = from_config(config).unwrap();
    assert!(directory.data_dir().join("self-signed-cert.pem").exists());
    assert_eq!(loaded.config.hostname.as_str(), "relay.example");
}
