//! `credential add | list | remove`: who may send. What they change is in `data_dir/credentials.toml`,
//! and takes effect at a start or a reload.

use std::io::Write;

use relay_core::config::{BadValue, ConfigError, Credential, Rate, SenderPattern, parse_network};
use relay_core::sasl::SECRET_LEN_MAX;

use super::command_error::CommandError;
use crate::load::credentials::{self, ChangeError};
use crate::load::{self, LoadError, Options};

/// What `credential add` is told.
#[derive(Debug, Clone, Default)]
pub struct New {
    /// The user's name.
    pub name: String,
    /// What it may send as: domains, addresses, `*`.
    pub senders: Vec<String>,
    /// Where it may connect from; empty for anywhere.
    pub networks: Vec<String>,
    /// How much it may send, as `1000/h`.
    pub rate: Option<String>,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Why a command did nothing.
pub type CredentialError = CommandError<ChangeError>;

/// Makes a credential with a new random secret, which is printed once and kept nowhere.
///
/// # Errors
/// [`CredentialError`]; nothing was changed then, but for [`CredentialError::Output`].
pub fn add(
    options: &Options,
    new: &New,
    format: Format,
    out: &mut dyn Write,
) -> Result<(), CredentialError> {
    let mut credential = credential(new)?;
    let (draft, file) = load::draft(options)?;
    if draft.so_far().credential(&new.name).is_some() {
        return Err(ChangeError::Exists(new.name.clone()).into());
    }
    load::make_data_dir(&draft)?;
    let secret = load::give_secret(&mut credential)?;
    credentials::add(draft.data_dir(), &credential)?;
    let path = credentials::path(draft.data_dir());
    match format {
        Format::Json => {
            let line = serde_json::json!({"name": credential.name, "secret": secret});
            writeln!(out, "{line}")?;
        }
        Format::Text => {
            writeln!(out, "name    {}", credential.name)?;
            writeln!(out, "secret  {secret}")?;
            writeln!(
                out,
                "The secret is shown this once: {} keeps only a verifier.",
                path.display()
            )?;
            let config = file.map_or(String::new(), |file| {
                format!(" --config {}", file.display())
            });
            writeln!(
                out,
                "A relay that runs learns of it by: smtp-relay reload{config}"
            )?;
        }
    }
    Ok(())
}

/// Prints every credential, of `relay.toml` and of `credential add`.
///
/// # Errors
/// [`CredentialError::Load`] or [`CredentialError::Output`].
pub fn list(options: &Options, format: Format, out: &mut dyn Write) -> Result<(), CredentialError> {
    let (draft, _) = load::draft(options)?;
    let credentials = &draft.so_far().credentials;
    if format == Format::Json {
        let all: Vec<_> = credentials
            .iter()
            .map(|credential| json(credential))
            .collect();
        writeln!(out, "{}", serde_json::Value::from(all))?;
    } else {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(["NAME", "SENDERS", "NETWORKS", "RATE", "LOG IN"]);
        for credential in credentials {
            table.add_row([
                credential.name.clone(),
                texts(&credential.senders).join(" "),
                texts(&credential.networks).join(" "),
                credential
                    .rate
                    .map_or("-".to_owned(), |rate| rate.to_string()),
                if credential.verifier.is_some() {
                    "yes"
                } else {
                    "no"
                }
                .to_owned(),
            ]);
        }
        writeln!(out, "{table}")?;
    }
    // What could be read is shown; what could not is told too.
    match draft.finish() {
        Ok(_) => Ok(()),
        Err(errors) => Err(LoadError(errors).into()),
    }
}

/// Removes a credential that `credential add` made.
///
/// # Errors
/// [`CredentialError`]; nothing was changed then.
pub fn remove(options: &Options, name: &str, out: &mut dyn Write) -> Result<(), CredentialError> {
    let (draft, file) = load::draft(options)?;
    match credentials::remove(draft.data_dir(), name) {
        Ok(()) => {}
        // It is in a file that a person keeps: say which.
        Err(ChangeError::Unknown(_)) if draft.so_far().credential(name).is_some() => {
            let file = file.map_or(String::new(), |file| file.display().to_string());
            let problem = format!("credential {name:?} is not of `credential add`; remove it here");
            let error = ConfigError {
                file,
                line: None,
                key: "credential".to_owned(),
                problem,
                allowed: String::new(),
            };
            return Err(LoadError::from(error).into());
        }
        Err(error) => return Err(error.into()),
    }
    writeln!(
        out,
        "removed {name}; a relay that runs forgets it by: smtp-relay reload"
    )?;
    Ok(())
}

/// The credential that the arguments say, without a verifier.
fn credential(new: &New) -> Result<Credential, CredentialError> {
    let usage = |what: &str, error: &BadValue| CredentialError::Usage(format!("{what}: {error}"));
    let name = &new.name;
    if name.trim().is_empty() || name.len() > SECRET_LEN_MAX || name.contains(char::is_control) {
        let text = format!("NAME: text of 1 to {SECRET_LEN_MAX} octets without control characters");
        return Err(CredentialError::Usage(text));
    }
    if new.senders.is_empty() {
        let text = "--sender: name at least one domain or address, or \"*\" for any";
        return Err(CredentialError::Usage(text.to_owned()));
    }
    let mut credential = Credential::new(name);
    credential.senders = new
        .senders
        .iter()
        .map(|text| {
            text.parse::<SenderPattern>()
                .map_err(|error| usage("--sender", &error))
        })
        .collect::<Result<_, _>>()?;
    if !new.networks.is_empty() {
        credential.networks = new
            .networks
            .iter()
            .map(|text| parse_network(text).map_err(|error| usage("--network", &error)))
            .collect::<Result<_, _>>()?;
    }
    let rate = new.rate.as_deref().map(str::parse::<Rate>).transpose();
    credential.rate = rate.map_err(|error| usage("--rate", &error))?;
    Ok(credential)
}

fn json(credential: &Credential) -> serde_json::Value {
    serde_json::json!({
        "name": credential.name,
        "senders": texts(&credential.senders),
        "networks": texts(&credential.networks),
        "rate": credential.rate.map(|rate| rate.to_string()),
        "can_log_in": credential.verifier.is_some(),
    })
}

fn texts<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::check;

    fn text(run: impl FnOnce(&mut dyn Write) -> Result<(), CredentialError>) -> String {
        let mut out = Vec::new();
        run(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_credential_is_added_shown_and_removed() {
        let name = format!("relay-cli-credential-{}", std::process::id());
        let data_dir = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&data_dir);
        let options = Options {
            config: None,
            data_dir: Some(data_dir.clone()),
        };
        let new = New {
            name: "app".to_owned(),
            senders: vec!["example.com".to_owned()],
            rate: Some("10/m".to_owned()),
            ..New::default()
        };
        let line = text(|out| add(&options, &new, Format::Json, out));
        let made: serde_json::Value = serde_json::from_str(&line).unwrap();
        let (draft, _) = load::draft(&options).unwrap();
        let stored = draft
            .so_far()
            .credential("app")
            .unwrap()
            .verifier
            .clone()
            .unwrap();
        assert!(stored.verify_password(made["secret"].as_str().unwrap()));

        let mut out = Vec::new();
        let again = add(&options, &new, Format::Text, &mut out).unwrap_err();
        assert!(
            matches!(again, CredentialError::Change(ChangeError::Exists(_))),
            "{again}"
        );
        assert_eq!(out, b"");
        let shown = text(|out| list(&options, Format::Text, out));
        assert!(shown.contains("app") && shown.contains("10/m"), "{shown}");
        let shown = text(|out| list(&options, Format::Json, out));
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(shown[0]["senders"][0], "example.com");

        let mut out = Vec::new();
        assert!(check(&options, &mut out).unwrap());
        let out = String::from_utf8(out).unwrap();
        assert!(out.contains("credentials  app"), "{out}");

        text(|out| remove(&options, "app", out));
        let error = remove(&options, "app", &mut Vec::new()).unwrap_err();
        assert!(
            matches!(error, CredentialError::Change(ChangeError::Unknown(_))),
            "{error}"
        );
        std::fs::remove_dir_all(&data_dir).unwrap();
    }

    #[test]
    fn wrong_arguments_are_told_with_what_is_allowed() {
        let new = |senders: &[&str], network: &str, rate: &str| New {
            name: "app".to_owned(),
            senders: senders.iter().map(|&s| s.to_owned()).collect(),
            networks: vec![network.to_owned()],
            rate: Some(rate.to_owned()),
        };
        for (new, words) in [
            (new(&[], "::/0", "1/h"), "--sender: name at least one"),
            (new(&["a@"], "::/0", "1/h"), "--sender: "),
            (
                new(&["*"], "x", "1/h"),
                "--network: \"x\" cannot be read; allowed: a network",
            ),
            (
                new(&["*"], "::/0", "1"),
                "--rate: \"1\" cannot be read; allowed: a number over",
            ),
            (
                New {
                    name: "\n".to_owned(),
                    ..New::default()
                },
                "NAME: ",
            ),
        ] {
            let error = credential(&new).unwrap_err();
            assert!(matches!(error, CredentialError::Usage(_)), "{error}");
            assert!(error.to_string().starts_with(words), "{error}");
        }
    }
}
