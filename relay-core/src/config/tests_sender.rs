//! What a configuration says of senders: return paths and pre-flight.

use super::tests::{config, one_error, parse};
use super::{PreflightMode, ReturnPathState};

#[test]
fn a_return_path_is_read_and_used_unless_it_waits() {
    let path = |lines: &str| {
        let text = format!("[[domain]]\nname = \"example.com\"\n{lines}");
        config(&text).domains[0].return_path.clone()
    };
    assert_eq!(path(""), None);
    let active = path("return_path = \"Bounces.example.com\"").unwrap();
    assert_eq!(active.domain.as_str(), "bounces.example.com");
    assert_eq!(active.state, ReturnPathState::Active);
    let lines = "return_path = \"bounces.example.com\"\nreturn_path_state = \"pending\"";
    assert_eq!(path(lines).unwrap().state, ReturnPathState::Pending);
}

#[test]
fn a_return_path_is_checked() {
    let domain = "[[domain]]\nname = \"example.com\"\n";
    let text = format!("{domain}return_path = \"not a host\"");
    one_error(
        &text,
        "3: domain.return_path",
        &["domain.return_path", "a host name"],
    );
    let text = format!("{domain}return_path_state = \"active\"");
    one_error(&text, "1: domain.return_path", &["is missing"]);
    let text = format!("{domain}return_path = \"b.example.com\"\nreturn_path_state = \"on\"");
    one_error(
        &text,
        "4: domain.return_path_state",
        &["return_path_state", "pending"],
    );
    let text = format!("{domain}return_path = \"bounces.example.net\"");
    let warnings = parse(&text).unwrap().warnings;
    assert!(
        warnings[0].contains("is not under the domain"),
        "{warnings:?}"
    );
    let text = format!("{domain}return_path = \"bounces.example.com\"");
    assert_eq!(parse(&text).unwrap().warnings, Vec::<String>::new());
}

#[test]
fn preflight_is_a_word_or_a_table() {
    assert_eq!(config("").preflight.mode, PreflightMode::Tag);
    for (text, mode) in [
        ("preflight = \"off\"", PreflightMode::Off),
        ("preflight = \"tag\"", PreflightMode::Tag),
        ("preflight = \"reject\"", PreflightMode::Reject),
        ("[preflight]\nmode = \"reject\"", PreflightMode::Reject),
        ("[preflight]\nbulk_recipients = 5", PreflightMode::Tag),
    ] {
        assert_eq!(config(text).preflight.mode, mode, "{text}");
    }
    assert_eq!(
        config("[preflight]\nbulk_recipients = 5")
            .preflight
            .bulk_recipients,
        5
    );
    one_error(
        "preflight = \"warn\"",
        "1: preflight",
        &["preflight", "\"tag\""],
    );
    one_error(
        "preflight = true",
        "1: preflight",
        &["preflight", "\"tag\""],
    );
    one_error("[preflight]\nmod = \"off\"", "2: preflight.mod", &["mode"]);
    one_error(
        "[preflight]\nbulk_recipients = 0",
        "2: preflight.bulk_recipients",
        &["bulk_recipients", "1 to"],
    );
}

#[test]
fn public_addresses_are_addresses() {
    let text = "[delivery]\npublic_addresses = [\"192.0.2.1\", \"2001:db8::1\"]";
    assert_eq!(config(text).delivery.public_addresses.len(), 2);
    let text = "[delivery]\npublic_addresses = [\"192.0.2.0/24\"]";
    one_error(text, "2: delivery.public_addresses", &["an IP address"]);
}
