//! The sections of `relay.toml` about what makes mail believed: `[[domain]]` and `preflight`.

use std::path::Path;
use std::sync::Arc;

use smtp_proto::Domain;

use super::credential::is_or_is_under;
use super::parse::{Draft, FileUse};
use super::sections::{Table, count, file, set};
use super::value::{Kind, unreadable};
use super::{DkimKey, KeyState, PreflightMode, ReturnPath, ReturnPathState, SigningDomain, value};

pub(super) fn domains(draft: &mut Draft, root: &Table<'_, '_>, directory: &Path) {
    for section in root.sections("domain") {
        let name = section.required("name", &value::HOSTNAME);
        let keys = keys(draft, &section, directory);
        let return_path = return_path(draft, &section, name.as_ref());
        if let Some(name) = name {
            one_section(draft, &section, &name);
            let domain = SigningDomain {
                name,
                keys,
                return_path,
            };
            draft.config.domains.push(Arc::new(domain));
        }
        section.finish();
    }
}

fn keys(draft: &mut Draft, section: &Table<'_, '_>, directory: &Path) -> Vec<DkimKey> {
    let index = draft.config.domains.len();
    let mut keys: Vec<DkimKey> = Vec::new();
    for key in section.sections("dkim") {
        let selector = key.required("selector", &value::SELECTOR);
        let use_as = FileUse::DkimKey(index, keys.len());
        let key_file = file(draft, &key, directory, "key_file", use_as);
        if !key.has("key_file") {
            let allowed = "the PEM file with an RSA (2048 bits or more) or Ed25519 key";
            key.missing("key_file", allowed);
        }
        let taken = |new: &String| keys.iter().any(|known| known.selector == *new);
        if selector.as_ref().is_some_and(taken) {
            key.error(
                "selector",
                "is used twice in this domain",
                "one key a selector",
            );
        }
        let state = key.value("state", &KEY_STATE);
        if let (Some(selector), Some(key_file)) = (selector, key_file) {
            keys.push(DkimKey {
                selector,
                key_file,
                state: state.unwrap_or(KeyState::Signing),
                key: None,
            });
        }
        key.finish();
    }
    keys
}

fn return_path(
    draft: &mut Draft,
    section: &Table<'_, '_>,
    name: Option<&Domain>,
) -> Option<ReturnPath> {
    let state = section.value("return_path_state", &RETURN_PATH_STATE);
    if state.is_some() && !section.has("return_path") {
        section.missing("return_path", value::HOSTNAME.allowed);
    }
    let domain = section.value("return_path", &value::HOSTNAME)?;
    // RFC 7489 §3.1.2: aligned if both have one organisation. What is not under the domain may be.
    if name.is_some_and(|name| !is_or_is_under(&domain, name)) {
        let problem = format!(
            "{domain} is not under the domain: receivers find SPF aligned only if both have one \
             organizational domain"
        );
        let text = section.place("return_path").error(problem, "");
        draft.warnings.push(text.to_string());
    }
    Some(ReturnPath {
        domain,
        state: state.unwrap_or(ReturnPathState::Active),
    })
}

fn one_section(draft: &Draft, section: &Table<'_, '_>, name: &Domain) {
    if draft
        .config
        .domains
        .iter()
        .any(|domain| domain.name == *name)
    {
        section.error(
            "name",
            format!("{name} has a section already"),
            "one section a domain",
        );
    }
}

/// `preflight = "tag"`, or a `[preflight]` table that says more.
pub(super) fn preflight(draft: &mut Draft, root: &Table<'_, '_>) {
    if !root.is_section("preflight") {
        let mode = root.value("preflight", &PREFLIGHT);
        return set(&mut draft.config.preflight.mode, mode);
    }
    let Some(section) = root.section("preflight") else {
        return;
    };
    let preflight = &mut draft.config.preflight;
    set(&mut preflight.mode, section.value("mode", &PREFLIGHT));
    let recipients = count(&section, "bulk_recipients", 100_000);
    set(&mut preflight.bulk_recipients, recipients);
    section.finish();
}

const KEY_STATE: Kind<KeyState> = Kind {
    allowed: "\"signing\", \"pending\", \"retired\"",
    parse: key_state,
};

const RETURN_PATH_STATE: Kind<ReturnPathState> = Kind {
    allowed: "\"active\", \"pending\"",
    parse: return_path_state,
};

const PREFLIGHT: Kind<PreflightMode> = Kind {
    allowed: "\"off\", \"tag\", \"reject\"",
    parse: preflight_mode,
};

fn key_state(text: &str) -> Result<KeyState, String> {
    match text {
        "signing" => Ok(KeyState::Signing),
        "pending" => Ok(KeyState::Pending),
        "retired" => Ok(KeyState::Retired),
        _ => Err(unreadable(text)),
    }
}

fn return_path_state(text: &str) -> Result<ReturnPathState, String> {
    match text {
        "active" => Ok(ReturnPathState::Active),
        "pending" => Ok(ReturnPathState::Pending),
        _ => Err(unreadable(text)),
    }
}

fn preflight_mode(text: &str) -> Result<PreflightMode, String> {
    match text {
        "off" => Ok(PreflightMode::Off),
        "tag" => Ok(PreflightMode::Tag),
        "reject" => Ok(PreflightMode::Reject),
        _ => Err(unreadable(text)),
    }
}
